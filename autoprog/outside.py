"""What the settings of a run ask for outside its folder: writes, the network, programs.

A run folder may come from somebody else, and so may its ``run.yaml``. What it asks for beyond reading images
of a folder is therefore carried out only where the command line says so again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprog.data.cache_folder import cache_folder
from autoprog.options import flag_words, flags_of_model
from autoprog.settings import OUTSIDE, DataSettings, RunSettings, SearchSettings

__all__ = ["Ask", "asks_of", "asks_of_data", "repeatable", "words_of_asks"]

_READ_AS_FOLDERS = ("torch/image_folder", "torch/folder")

_FLAGS = {
    flag.field: flag
    for model in (DataSettings, SearchSettings, RunSettings)
    for flag in flags_of_model(model)
}


@dataclass(frozen=True)
class Ask:
    """One thing that settings ask for outside the run folder.

    Attributes:
        key: Its place in ``run.yaml``.
        what: What it does, such as "decoded images are written there".
        flags: The values of the fields that ask for it.
    """

    key: str
    what: str
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """Return the flags as they stand on a command line."""
        return tuple(flag_words((_FLAGS[field] for field in self.flags), self.flags))


def asks_of(
    settings: RunSettings, folder: Path, *, loads_weights: bool = True, logs: bool = True
) -> list[Ask]:
    """Return what settings ask for outside a run folder.

    Args:
        settings: Of the run.
        folder: The run folder; what is written into it is no ask.
        loads_weights: Whether initial weights would be loaded now, as before the first checkpoint.
        logs: Whether the run is passed on to loggers, as its trials are not.
    """
    asks, cache = [], settings.cache
    if cache is not None:
        is_inside = _real(cache).startswith(os.path.join(_real(folder), ""))
        is_own = _real(cache_folder(cache)) == _real(cache_folder("auto"))  # of the user
        if not is_inside and not is_own:
            asks.append(Ask("settings.cache", "decoded images are written there", {"cache": cache}))
    storage = None if settings.search is None else settings.search.storage
    if storage is not None:
        # Wherever it lies: a database has views and triggers, which may never end.
        what = "trials are written there"
        asks.append(Ask("settings.search.storage", what, {"storage": storage}))
    asks += asks_of_data(settings.data)
    if settings.pretrained and loads_weights:
        what = "the weights may have to be downloaded"
        asks.append(Ask("settings.pretrained", what, {"pretrained": True}))
    if settings.compile:
        what = "a compiler is started, and its files are kept in a temporary folder"
        asks.append(Ask("settings.compile", what, {"compile": True}))
    mode = settings.wandb_mode or os.environ.get("WANDB_MODE")
    # Offline, W&B keeps the run in its folder and sends nothing.
    if logs and settings.log_wandb and mode not in ("offline", "disabled"):
        named = {"log_wandb": True, "wandb_project": settings.wandb_project}
        flags = {name: value for name, value in named.items() if value is not None}
        asks.append(Ask("settings.log_wandb", "the run is sent to Weights & Biases", flags))
    return asks


def asks_of_data(data: DataSettings) -> list[Ask]:
    """Return what data settings ask for beyond reading images of a folder.

    The libraries behind ``dataset`` download, and webdataset runs what a ``pipe:`` address says.
    """
    if data.dataset is None or data.dataset.lower() in _READ_AS_FOLDERS:
        return []
    flags = data.model_dump(include=set(OUTSIDE), exclude_defaults=True)
    what = "its library may download it, or start a program for it"
    return [Ask("settings.data.dataset", what, flags)]


def repeatable(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that may be given again when a run goes on, with the values that they have.

    None stands for a value that may be another one: where a cache or the images lie is up to this machine.
    """
    storage = None if settings.search is None else settings.search.storage
    data = settings.data
    names: dict[str, Any] = {}
    if settings.cache is not None:
        names["cache"] = None
    if storage is not None:
        names["storage"] = storage
    if settings.pretrained:
        names["pretrained"] = True
    if data.dataset is not None:
        names |= {"dataset": data.dataset, "data_dir": None}
        names |= {"train_split": data.train_split, "val_split": data.val_split}
    return names


def words_of_asks(settings: RunSettings, folder: Path, *, logs: bool = True) -> tuple[str, ...]:
    """Return the flags by which another process that goes on with a run may do all that it asks for."""
    asks = asks_of(settings, folder, logs=logs)
    return tuple(word for ask in asks for word in ask.words)


def _real(path: str | Path) -> str:
    """Return a path without links; one that no file can have stays as it is."""
    return str(path) if "\0" in str(path) else os.path.realpath(path)
