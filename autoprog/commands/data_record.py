"""What a run records of its images, and how those of now are compared with it when it goes on."""

from __future__ import annotations

import argparse

from autoprog.classes import class_difference
from autoprog.commands.data_flags import absolute
from autoprog.errors import ConfigError
from autoprog.files import FileModel
from autoprog.runs import Run
from autoprog.settings import DataSettings, RecordedData, RunSettings
from autoprog.train.data import OpenedData

__all__ = ["data_notice", "moved_data", "recorded_data", "with_absolute_paths"]


def recorded_data(opened: OpenedData) -> RecordedData:
    """Return what a run records of its images."""
    return RecordedData(
        class_names=opened.class_names,
        num_train_images=len(opened.train),
        num_val_images=len(opened.val),
        digests=dict(opened.digests),
    )


def with_absolute_paths(settings: RunSettings) -> RunSettings:
    """Return settings whose paths mean the same from every folder, as a run records them."""
    search = settings.search
    if search is not None:
        search = search.model_copy(update=_absolute(search, "costs_from"))
    changes = _absolute(settings, "initial_checkpoint", "cache")
    data = settings.data.model_copy(update=_absolute(settings.data, "dir", "data_dir"))
    return settings.model_copy(update={**changes, "data": data, "search": search})


def _absolute(values: FileModel, *names: str) -> dict[str, str]:
    paths = {name: getattr(values, name) for name in names}
    return {k: absolute(path) for k, path in paths.items() if path not in (None, "auto")}


def moved_data(args: argparse.Namespace, data: DataSettings) -> DataSettings:
    """Return where the images of a resumed run lie now: where the flags say, or where they were.

    Raises:
        ConfigError: If a flag names a place that the run has none of.
    """
    changes = _absolute(data, "dir", "data_dir")
    for name, key, origin in (("data", "dir", data.dir), ("data_dir", "data_dir", data.dataset)):
        if not hasattr(args, name):
            continue
        if origin is None:
            now = "the embedded digits" if data.embedded else f"{data.dir or data.dataset}"
            law = f"must be left out with --resume: the run trains on {now}"
            raise ConfigError("--" + name.replace("_", "-"), "", law, getattr(args, name))
        changes[key] = absolute(getattr(args, name))
    return data.model_copy(update=changes)


def data_notice(run: Run, now: RecordedData, allow_changed: bool, is_moved: bool) -> str | None:
    """Return a warning to go on with where images cannot be compared or may differ; None for the same.

    Raises:
        ConfigError: If the classes differ, whatever is allowed: the outputs of the network would mean others;
            or the images, unless that is allowed.
    """
    before = run.manifest.data
    if before is None:
        if run.manifest.settings.data.embedded:
            return None
        if is_moved and not allow_changed:
            law = "must be left out: the run did not record what its images were"
            cure = "or add --allow-changed-data"
            raise ConfigError("--data", "", law, cure=cure)
        return "the run did not record its images: they are not compared with those it began with"
    if now.class_names != before.class_names:
        what = class_difference(now.class_names, before.class_names)
        cure = "put the class folders back, or start a new run"
        law = f"classes must be those that the run began with: {what}"
        raise ConfigError("--resume", str(run.path), law, cure=cure)
    changes = _changes(before, now)
    if not changes:
        return None
    if changes == _VAL_REPLACED:  # as by the repair of a broken one, which no weight depends on
        return f"the images have changed: {changes}; evaluations are of these from here on"
    if not allow_changed:
        law = f"images must be those that the run began with, but {changes}"
        cure = "put them back, or add --allow-changed-data to go on with these"
        raise ConfigError("--resume", str(run.path), law, cure=cure)
    return f"the images have changed: {changes}; their order is another from here on"


_REPLACED = "some {} images are others or in other classes"
_VAL_REPLACED = _REPLACED.format("validation")


def _changes(before: RecordedData, now: RecordedData) -> str:
    """Return in words what has changed of the images; empty for nothing."""
    texts = []
    for part, word in (("train", "training"), ("val", "validation")):
        counts = [getattr(one, f"num_{part}_images") for one in (now, before)]
        digests = [one.digests.get(part) for one in (now, before)]
        if counts[0] != counts[1]:
            texts.append(f"there are {counts[0]:,} instead of {counts[1]:,} {word} images")
        elif None not in digests and digests[0] != digests[1]:
            texts.append(_REPLACED.format(word))
    return " and ".join(texts)
