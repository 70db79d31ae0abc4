"""Opening a data set: both parts, checked; a fraction of it; or a folder to evaluate weights on."""

from __future__ import annotations

import importlib.util
import os
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data import create_dataset

from autoprog.accuracy import order_of, some
from autoprog.data.dataset import (
    AnySource,
    DataReport,
    OpenedData,
    PartReport,
    probe_headers,
    report_of,
)
from autoprog.data.decode import WHITE_LEVELS
from autoprog.data.folders import ClassFolders, printable
from autoprog.data.image_sources import (
    EncodedSource,
    FolderSource,
    ImageSource,
    ReaderSource,
    SlicedSource,
    TarSource,
    TorchSource,
    digest_of,
    open_digits,
    stratified_holdout,
    stratified_split,
)
from autoprog.data.stream import READER_ERRORS, StreamSource, first_line, names_by_number
from autoprog.errors import ConfigError
from autoprog.openfiles import NotRegularFileError
from autoprog.printable import brief
from autoprog.settings import DataSettings

__all__ = [
    "entries_of",
    "labelled_as",
    "open_data",
    "open_evaluated_folder",
    "open_part",
    "sliced",
]

_SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
# What a prefix of --dataset needs, as pip calls it and as Python imports it.
_PACKAGES = {
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow-datasets", "tensorflow_datasets"),
    "wds": ("webdataset", "webdataset"),
    "torch": ("torchvision", "torchvision"),
}
# Class folders by timm's name, which are read as by --data: torchvision takes hidden files and clips 16 bits.
_CLASS_FOLDERS = ("torch/image_folder", "torch/folder")
_STREAMS = ("hfids", "tfds", "wds")

# tarfile's answers to some damaged headers; RecursionError to one before one before one.
_TAR_ERRORS = (
    tarfile.TarError,
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    RecursionError,
)

# Fractions and held-out images are the same in every run, whatever its seed: trials are compared on them.
_SLICE_SEED = 0
_HELD_OUT_FRACTION, _MAX_EVALUATED = 0.05, 2500

_EVALUATED = ("val", "validation", "valid", "test")


def open_data(settings: DataSettings) -> OpenedData:
    """Open both parts of a data set and check them; of images only some headers are read.

    Raises:
        ConfigError: Something is missing, empty or unreadable, or the parts have other classes.
    """
    _refuse_unused(settings)
    train: AnySource
    val: AnySource | None
    if settings.dir is not None:
        where, origin = "--data", settings.dir
        train, val = _open_folder(Path(settings.dir), settings)
    elif settings.dataset is not None:
        where, origin = "--dataset", settings.dataset
        train = _open_named(settings, settings.train_split)
        takes_train = settings.val_fraction is not None
        val = None if takes_train else _open_named(settings, settings.val_split)
    else:
        where, origin = "digits", "digits (embedded)"
        train, val = open_digits()
    _check_number_of_classes(where, train.class_names)
    # One white level for both parts, by the training images: each image's own would tell classes apart.
    headers = probe_headers(train)
    white_level = headers.white_level if settings.white_level is None else settings.white_level
    report = report_of(train, headers, white_level)
    notes: tuple[str, ...] = ()
    for part in (train, val):
        if isinstance(part, EncodedSource):
            part.white_level = white_level
    if val is None:
        assert settings.val_fraction is not None
        train, val = _split(train, settings.val_fraction, settings.val_seed)
        report = replace(report, class_sizes=PartReport.of(train).class_sizes)
        val_report = PartReport.of(val)
    else:
        _check_classes(where, train.class_names, val.class_names)
        val_report = report_of(val, probe_headers(val), white_level or WHITE_LEVELS[-1])
        if not isinstance(train, StreamSource) and not isinstance(val, StreamSource):
            places = [getattr(one, "folder", getattr(one, "path", None)) for one in (train, val)]
            real = [os.path.realpath(str(place)) for place in places]
            # One folder or file under two names: accuracy would be that of training images.
            if None not in places and real[0] == real[1]:
                problem = "train and val must be different images"
                hint = "or --val-fraction 0.2 to evaluate on a fifth of them"
                raise ConfigError(where, "", problem, str(places[1]), hint)
            if len(train) == len(val) and digest_of(train) == digest_of(val):
                same = "train and val hold images of the same names and sizes: are they the same?"
                notes = (same,)
    text = f"{origin}: {len(train):,} training and {len(val):,} validation images"
    if settings.val_fraction is not None:
        text += f" (held out of the training images with seed {settings.val_seed})"
    text += f", {len(train.class_names)} classes"
    parts = DataReport(train.class_names, report, val_report, notes)
    opened = OpenedData(train, val, train.class_names, text, parts, white_level)
    if settings.fraction == 1 and not settings.on_held_out:
        return opened
    return sliced(opened, settings.fraction, settings.on_held_out)


def _refuse_unused(settings: DataSettings) -> None:
    """Refuse what the kind of data would silently not heed."""
    if settings.dir is not None and settings.dataset is not None:
        raise ConfigError("--data", "", "must not be given together with --dataset", settings.dir)
    name = (settings.dataset or "").lower()
    has_folders = settings.dir is not None or name in _CLASS_FOLDERS
    if settings.class_folders != "auto" and not has_folders:
        problem = "must be given together with --data"
        raise ConfigError("--class-folders", "", problem, settings.class_folders)
    if settings.white_level is not None and not has_folders and not name.startswith("hfds/"):
        problem = "must be given for files that are decoded here: --data, or --dataset hfds/…"
        raise ConfigError("--white-level", "", problem, settings.white_level)
    if settings.val_fraction is not None and settings.embedded:
        raise ConfigError("--val-fraction", "", "must be given together with --data or --dataset")


def _split(train: AnySource, fraction: float, seed: int) -> tuple[SlicedSource, SlicedSource]:
    """Return (train, val) of the images of one part, stratified."""
    if isinstance(train, StreamSource):
        problem, hint = "must be data that can be read in any order", "give a validation split"
        raise ConfigError("--val-fraction", "", problem, hint=hint)
    kept, taken = stratified_split(train.targets, seed, round(fraction * len(train)))
    if len(taken) == 0:
        problem = f"must hold out at least one of {len(train)} images"
        raise ConfigError("--val-fraction", "", problem, fraction, "take a larger fraction")
    return SlicedSource(train, kept), SlicedSource(train, taken)


def _check_number_of_classes(where: str, names: tuple[str, ...]) -> None:
    if len(names) < 2:
        hint = "give one folder a class"
        raise ConfigError(where, "train", "must have at least 2 classes", list(names), hint)


def _check_classes(where: str, train: tuple[str, ...], val: tuple[str, ...]) -> None:
    if train == val:
        return
    in_train, in_val = set(train), set(val)
    only_train = [name for name in train if name not in in_val][:1]
    only_val = [name for name in val if name not in in_train][:1]
    found = " and ".join(
        f"{names[0]!r} is only in {part}"
        for names, part in ((only_train, "train"), (only_val, "val"))
        if names
    )
    problem = f"train and val must have the same classes: {found or 'their order differs'}"
    raise ConfigError(where, "", problem, hint="add or remove that class")


def _open_folder(folder: Path, settings: DataSettings) -> tuple[ImageSource, ImageSource | None]:
    """Return (train, val); val is None where a fraction of train is to take its place.

    With ``val_fraction`` a folder without a train part is one itself.
    """
    is_folder = os.path.isdir(folder)
    if not is_folder and not (settings.val_fraction is not None and os.path.isfile(folder)):
        hint = "give a folder with train and val in it, as class folders or as .tar files"
        raise ConfigError("--data", "", "must be an existing folder", str(folder), hint)
    if settings.val_fraction is None:
        train, val = (_required_part(folder, part) for part in ("train", "val"))
        return open_part(train, settings.class_folders), open_part(val, settings.class_folders)
    if is_folder and (val_path := _find_part(folder, "val")) is not None:
        problem = f"--data has validation images of its own, {printable(val_path.name)}"
        hint = "leave --val-fraction out, or rename those"
        raise ConfigError("--val-fraction", "", problem, hint=hint)
    found = _find_part(folder, "train") if is_folder else None
    return open_part(found or folder, settings.class_folders), None


def _required_part(folder: Path, part: str, where: str = "--data") -> Path:
    found = _find_part(folder, part, where)
    if found is not None:
        return found
    names = ", ".join(f"{name}/ or {name}.tar" for name in _SPLIT_NAMES[part])
    paths = entries_of(folder, where)
    held = [printable(path.name) for path in paths[:6]]
    listing = ", ".join(held[:5]) + (", …" if len(held) > 5 else "") if held else "nothing"
    hint = f"it holds {listing}"
    if any(map(os.path.isdir, paths)):
        hint += "; --val-fraction 0.2 evaluates on a fifth of the training images instead"
    raise ConfigError(where, "", f"must hold a {part} part ({names})", str(folder), hint)


def _find_part(folder: Path, part: str, where: str = "--data") -> Path | None:
    """Return the folder or tar file of a part, if there is one; a folder goes before its own tar file.

    Raises:
        ConfigError: There are several, and nothing says which is meant.
    """
    wanted = _SPLIT_NAMES[part]
    archives = [f"{name}.tar" for name in wanted]
    found = [
        path
        for path in entries_of(folder, where)
        if (path.name.lower() in wanted and os.path.isdir(path))
        or (path.name.lower() in archives and os.path.isfile(path))
    ]
    folders = [path for path in found if os.path.isdir(path)]
    if len({path.name.removesuffix(".tar") for path in found}) > 1 or len(folders) > 1:
        names = " and ".join(printable(path.name) for path in found[:2])
        problem, hint = f"there are two {part} parts, {names}", "rename or remove one"
        raise ConfigError(where, brief(str(folder)), problem, hint=hint)
    return next(iter(folders or found), None)


def entries_of(folder: Path, where: str) -> list[Path]:
    """Return what lies in a folder, in order.

    Raises:
        ConfigError: It cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        problem = f"the folder cannot be listed: {error.strerror}"
        raise ConfigError(where, brief(str(folder)), problem) from None


def open_part(path: Path, class_folders: ClassFolders) -> FolderSource | TarSource:
    """Open the class folders or the tar file of one part.

    Raises:
        ConfigError: It holds no images, is no tar file, or its classes are not clear.
    """
    opened: FolderSource | TarSource
    if os.path.isdir(path):
        opened = FolderSource(path, class_folders)
    else:
        try:
            opened = TarSource(path, class_folders)
        except ConfigError:
            raise
        except _TAR_ERRORS as error:
            reason = error.strerror if isinstance(error, NotRegularFileError) else first_line(error)
            problem = f"must be an uncompressed, complete tar file ({reason})"
            hint = "pack it anew with tar -cf"
            raise ConfigError("--data", "", problem, str(path), hint) from error
    if len(opened) == 0:
        problem = "must hold images, such as .jpg or .png files"
        held = ", ".join(map(str, opened.left_out[:3]))
        hint = f"it holds {held}" if held else "put them into one folder a class"
        raise ConfigError("--data", "", problem, str(path), hint)
    return opened


def _open_named(settings: DataSettings, split: str) -> AnySource:
    """Open a split of a data set by timm's name."""
    name, root = settings.dataset or "", settings.data_dir
    prefix = name.partition("/")[0].lower()
    if prefix not in _PACKAGES or "/" not in name:
        known = ", ".join(f"{known}/…" for known in _PACKAGES)
        hint = "for folders use --data"
        raise ConfigError("--dataset", "", f"must be one of {known}", name, hint)
    package, module = _PACKAGES[prefix]
    if importlib.util.find_spec(module) is None:
        problem = f"{name!r} needs the package {package}, which is not installed"
        raise ConfigError("--dataset", "", problem, hint=f"pip install {package}")
    given = {"input_key": settings.input_key, "target_key": settings.target_key}
    fields = {key: value for key, value in given.items() if value is not None}
    if prefix in _STREAMS:
        return StreamSource(name, root, split, fields, settings.num_classes)
    if name.lower() in _CLASS_FOLDERS:
        return open_part(_split_folder(Path(root or "."), split), settings.class_folders)
    try:
        opened = create_dataset(name, root=root, split=split, **fields)
        if prefix == "torch":
            return TorchSource(opened, f"{name} ({split})")
        numbers = [str(number) for number in range(settings.num_classes or 0)]
        names = names_by_number(opened.reader.class_to_idx) or numbers
        _check_number_of_classes("--dataset", tuple(names))
        return ReaderSource(opened.reader, f"{name} ({split})", names)
    except ConfigError:
        raise
    except READER_ERRORS as error:
        problem = f"must be a data set that timm can open as split {split!r} ({first_line(error)})"
        hint = f"check its name, --data-dir (now {root!r}) and the splits"
        raise ConfigError("--dataset", "", problem, name, hint) from error


def _split_folder(root: Path, split: str) -> Path:
    """Return the folder of a split; timm would take the whole root in place of one that is missing."""
    if not os.path.isdir(root):
        raise ConfigError("--data-dir", "", "must be an existing folder", str(root))
    for part, names in _SPLIT_NAMES.items():
        if split in names:
            return _required_part(root, part, "--data-dir")
    if not os.path.isdir(root / split):
        held = ", ".join(printable(path.name) for path in entries_of(root, "--data-dir")[:5])
        problem = f"must hold a folder {split!r}"
        raise ConfigError("--data-dir", "", problem, str(root), f"it holds {held}")
    return root / split


def sliced(opened: OpenedData, fraction: float, on_held_out: bool) -> OpenedData:
    """Return a fraction of the training images, the same in every run and alike in all classes.

    What is held out is left out of the fraction, which else stays the same but for a few images.

    Args:
        opened: The whole data.
        fraction: Of the training images, in (0, 1].
        on_held_out: Evaluate on 5 % of the training images, at most 2,500, which are then not trained on.

    Raises:
        ConfigError: If the data come as a stream, or are too few to hold any out.
    """
    train = opened.train
    if isinstance(train, StreamSource):
        problem = "must be data that can be read in any order"
        hint = "or leave out --held-out and fractions"
        raise ConfigError("--dataset", "", problem, hint=hint)
    val: AnySource = opened.val
    indices = np.arange(len(train))
    if on_held_out:
        indices, held = stratified_holdout(
            train.targets, _SLICE_SEED, _HELD_OUT_FRACTION, _MAX_EVALUATED
        )
        val = SlicedSource(train, held)
    if fraction < 1:
        # About the fraction of each class, at least one. Which images go first hangs on all of them, so
        # that it is alike whichever are held out.
        order = np.random.RandomState(_SLICE_SEED).permutation(len(train.targets))
        order = order[np.isin(order, indices)]
        of_classes = [order[train.targets[order] == label] for label in np.unique(train.targets)]
        kept = [own[: max(1, round(fraction * len(own)))] for own in of_classes]
        indices = np.sort(np.concatenate(kept))
    if len(val) == 0:
        problem = f"must have images to hold out: {_HELD_OUT_FRACTION:.0%} of them are none"
        raise ConfigError("data", "train", problem, len(train), "give more images")
    text = f"{opened.description}; trained on {len(indices):,}"
    text += f", evaluated on {len(val):,} other training images" if on_held_out else ""
    part = SlicedSource(train, indices)
    train_report = replace(opened.report.train, class_sizes=PartReport.of(part).class_sizes)
    val_report = opened.report.val
    if on_held_out and not isinstance(val, StreamSource):
        val_report = PartReport.of(val)
    report = replace(opened.report, train=train_report, val=val_report)
    return replace(opened, train=part, val=val, description=text, report=report)


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
        hint = "give a folder with val or test in it, as class folders or as .tar files"
        raise ConfigError("--data", "", "must be an existing folder", str(folder), hint)
    held = {path.name.lower(): path for path in entries_of(folder, "--data")}
    if any(name in held or f"{name}.tar" in held for name in _SPLIT_NAMES["train"]):
        return None
    named = (held.get(name) or held.get(f"{name}.tar") for name in _EVALUATED)
    path = next((path for path in named if path is not None), folder)
    source = open_part(path, class_folders)
    count = len(source.class_names)
    classes = f"{count} class{'' if count == 1 else 'es'}"
    headers = probe_headers(source)
    white_level = headers.white_level if white_level is None else white_level
    source.white_level = white_level
    report = report_of(source, headers, white_level or WHITE_LEVELS[-1])
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
        verb = "is" if len(new) == 1 else "are"
        problem = f"must have classes that the weights know, but {some(new)} {verb} none of them"
        raise ConfigError(where, "", problem, hint=f"these are {some(names)}")
    val = opened.val
    if isinstance(val, StreamSource):
        problem = "must have its classes in the order of the weights"
        hint = "as a stream cannot be relabelled"
        raise ConfigError(where, "", problem, hint=hint)
    relabelled = _Relabelled(val, np.array(numbers, dtype=np.int64), names)
    found = replace(opened, train=relabelled, val=relabelled, class_names=names)
    if len(own) < len(names):
        text = f"images of {len(own)} of the {len(names)} classes; any of all may be predicted"
        return found, text
    return found, "the classes are matched by name: their order is another in the weights"


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
