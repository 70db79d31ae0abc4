"""Images to evaluate weights on: a folder without a training part, labelled as the weights' outputs are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from autoprog.classes import order_of, some
from autoprog.errors import ConfigError
from autoprog.train.data.decode import WHITE_LEVELS
from autoprog.train.data.images import ImageSource, set_white_level
from autoprog.train.data.report import DataReport, probe, report_of
from autoprog.train.data.scan import ClassFolders
from autoprog.train.data.sources import OpenedData, entries_of, open_part
from autoprog.train.data.stream import StreamSource

__all__ = ["labelled_as", "open_evaluated_folder"]

_EVALUATED = ("val", "validation", "valid", "test")
_TRAINED = ("train", "training")


class _Relabelled:
    """Images of another source under the class numbers of other names."""

    def __init__(self, source: ImageSource, numbers: np.ndarray, names: tuple[str, ...]) -> None:
        self.source, self.class_names, self.in_memory = source, names, source.in_memory
        self.targets = numbers[source.targets]

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Return an image and its number among the names."""
        return self.source.load(index)[0], int(self.targets[index])

    def name(self, index: int) -> str:
        """Return where an image comes from."""
        return self.source.name(index)


def open_evaluated_folder(
    folder: Path, class_folders: ClassFolders = "auto", white_level: float | None = None
) -> OpenedData | None:
    """Open a folder that holds images to evaluate on and none to train on; both parts are those.

    They are in ``val``, ``validation``, ``valid`` or ``test``, of which the first one that is there is taken,
    or, without any of these, in class folders of its own. Return None where there is a training part.

    Raises:
        ConfigError: If the folder is missing, or there are no images.
    """
    if not os.path.isdir(folder):
        cure = "give a folder with val or test in it, as class folders or as .tar files"
        raise ConfigError("--data", "", "must be an existing folder", str(folder), cure)
    held = {path.name.lower(): path for path in entries_of(folder, "--data")}
    if any(name in held or f"{name}.tar" in held for name in _TRAINED):
        return None
    named = (held.get(name) or held.get(f"{name}.tar") for name in _EVALUATED)
    path = next((path for path in named if path is not None), folder)
    source = open_part(path, class_folders)
    count = len(source.class_names)
    classes = f"{count} class{'' if count == 1 else 'es'}"
    found = probe(source)
    white_level = found.white_level if white_level is None else white_level
    set_white_level(source, white_level)
    report = report_of(source, found, white_level or WHITE_LEVELS[-1])
    return OpenedData(
        source,
        source,
        source.class_names,
        f"{path}: {len(source):,} images, {classes}",
        DataReport(source.class_names, report, report),
        white_level,
    )


def labelled_as(opened: OpenedData, names: Sequence[str], where: str) -> tuple[OpenedData, str]:
    """Return data whose targets are numbers among other names, and in words what was done for that.

    Args:
        opened: The data.
        names: What the outputs of a network mean, in order.
        where: The flag that named the data, for messages.

    Raises:
        ConfigError: If the data have a class that is not among the names.
    """
    own, names = opened.val.class_names, tuple(names)
    if own == names:
        return opened, ""
    numbers = order_of(own, names)
    if numbers is None:
        known = set(names)
        new = [name for name in own if name not in known]
        law = f"must have classes that the weights know, but {some(new)} are none of them"
        if len(new) == 1:
            law = f"must have classes that the weights know, but {some(new)} is none of them"
        raise ConfigError(where, "", law, cure=f"these are {some(names)}")
    val = opened.val
    if isinstance(val, StreamSource):
        law, cure = (
            "must have its classes in the order of the weights",
            "as a stream cannot be relabelled",
        )
        raise ConfigError(where, "", law, cure=cure)
    relabelled = _Relabelled(val, np.array(numbers, dtype=np.int64), names)
    found = dataclasses.replace(opened, train=relabelled, val=relabelled, class_names=names)
    if len(own) < len(names):
        return (
            found,
            f"images of {len(own)} of the {len(names)} classes; any of all may be predicted",
        )
    return found, "the classes are matched by name: their order is another in the weights"
