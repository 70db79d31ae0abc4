"""Reading the validation images once before a run, which would else meet a broken one at its end."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image
from timm.data import create_dataset

from autoprog.accuracy import order_of, some
from autoprog.data.decode import WHITE_LEVELS, Unreadable, read_or_note
from autoprog.data.folders import ClassFolders, printable
from autoprog.data.images import (
    FolderSource,
    ImageSource,
    ReaderSource,
    SlicedSource,
    TarSource,
    TorchSource,
    digest_of,
    open_digits,
    set_white_level,
    stratified_holdout,
    stratified_split,
)
from autoprog.data.loader_workers import WorkerPool
from autoprog.data.progress import Progress
from autoprog.data.report import DataReport, PartReport, probe, report_of
from autoprog.data.stream import READER_ERRORS, StreamSource, first_line, names_by_number
from autoprog.errors import ConfigError
from autoprog.openfiles import NotRegularFileError

__all__ = [
    "AnySource",
    "CheckedImages",
    "DataSource",
    "OpenedData",
    "check_images",
    "entries_of",
    "labelled_as",
    "open_evaluated_folder",
    "open_part",
    "open_source",
    "sliced",
]


# --------------------------------------------------------------------------------------------------
# Where images come from: a folder, tar files, a data set that timm opens, or the digits.


AnySource: TypeAlias = ImageSource | StreamSource

_SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid")}
# What a prefix of --dataset needs, as pip calls it and as Python imports it.
_PACKAGES = {
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow-datasets", "tensorflow_datasets"),
    "wds": ("webdataset", "webdataset"),
    "torch": ("torchvision", "torchvision"),
}
_CLASS_FOLDERS = ("torch/image_folder", "torch/folder")
"""Names of class folders, which are read as by --data: torchvision takes hidden files and clips 16 bits."""
_STREAMS = ("hfids", "tfds", "wds")


@dataclasses.dataclass(frozen=True)
class DataSource:
    """The data that the user asked for; the embedded digits when both are None.

    Args:
        dir: ``--data``: a folder with ``train`` and ``val``, as class folders or tar files.
        dataset: ``--dataset``: timm's name, such as ``torch/cifar10``, ``hfds/…`` or ``wds/…``.
        data_dir: Root folder of ``dataset``.
        train_split: timm's name of the split to train on; for ``wds`` with shards and size.
        val_split: timm's name of the split to evaluate on.
        input_key: Field of the image in ``hfds``, ``hfids``, ``tfds`` and ``wds`` data.
        target_key: Field of the target.
        num_classes: Number of classes, for streams that do not name them.
        val_fraction: Part of the training images to evaluate on instead of a val part, in (0, 1); the
            same part of each class, but for rounding.
        val_seed: Which ones these are.
        class_folders: Which folder above an image names its class, where there are several.
        white_level: What is white in images of more than 8 bits; by default told by some of them.
    """

    dir: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    train_split: str = "train"
    val_split: str = "validation"
    input_key: str | None = None
    target_key: str | None = None
    num_classes: int | None = None
    val_fraction: float | None = None
    val_seed: int = 0
    class_folders: ClassFolders = "auto"
    white_level: float | None = None


@dataclasses.dataclass(frozen=True)
class OpenedData:
    """Both parts of a data set; they have the same classes.

    ``white_level`` is that of images of more than 8 bits; None where none were seen.
    """

    train: AnySource
    val: AnySource
    class_names: tuple[str, ...]
    description: str
    report: DataReport
    white_level: float | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Return a hash of the images of each part, ``train`` and ``val``, wherever they lie."""
        parts = {"train": self.train, "val": self.val}
        return {
            name: source.digest() if isinstance(source, StreamSource) else digest_of(source)
            for name, source in parts.items()
        }

    @property
    def images(self) -> tuple[ImageSource, ImageSource]:
        """(train, val) of map-style data; asserts that it is no stream."""
        assert not isinstance(self.train, StreamSource), self.description
        assert not isinstance(self.val, StreamSource), self.description
        return self.train, self.val


def open_source(source: DataSource) -> OpenedData:
    """Open both parts of a data set and check them; of images only some headers are read.

    Raises:
        ConfigError: Something is missing, empty or unreadable, or the parts have other classes.
    """
    if source.dir is not None and source.dataset is not None:
        raise ConfigError("--data", "", "must not be given together with --dataset", source.dir)
    _refuse_unused(source)
    train: AnySource
    val: AnySource | None
    if source.dir is not None:
        where, origin = "--data", source.dir
        train, val = _open_folder(Path(source.dir), source)
    elif source.dataset is not None:
        where, origin = "--dataset", source.dataset
        train = _open_named(source, source.train_split)
        val = None if source.val_fraction is not None else _open_named(source, source.val_split)
    else:
        where, origin = "digits", "digits (embedded)"
        train, val = open_digits()
        if source.val_fraction is not None:
            raise ConfigError(
                "--val-fraction", "", "must be given together with --data or --dataset"
            )
    _check_number_of_classes(where, train.class_names)
    found = probe(train)
    white_level = found.white_level if source.white_level is None else source.white_level
    report = report_of(train, found, white_level)
    notes: tuple[str, ...] = ()
    for part in (train, val):
        set_white_level(part, white_level)
    if val is None:
        assert source.val_fraction is not None
        train, val = _split(train, source.val_fraction, source.val_seed)
        report = dataclasses.replace(report, class_sizes=PartReport.of(train).class_sizes)
        val_report = PartReport.of(val)
    else:
        _check_classes(where, train.class_names, val.class_names)
        val_report = report_of(val, probe(val), white_level or WHITE_LEVELS[-1])
        if not isinstance(train, StreamSource) and not isinstance(val, StreamSource):
            _refuse_same_place(where, train, val)
            if len(train) == len(val) and digest_of(train) == digest_of(val):
                notes = (
                    "train and val hold images of the same names and sizes: are they the same?",
                )
    parts = DataReport(train.class_names, report, val_report, notes)
    text = f"{origin}: {len(train):,} training and {len(val):,} validation images"
    if source.val_fraction is not None:
        text += f" (held out of the training images with seed {source.val_seed})"
    text += f", {len(train.class_names)} classes"
    return OpenedData(train, val, train.class_names, text, parts, white_level)


def _refuse_unused(source: DataSource) -> None:
    """Refuse what the kind of data would silently not heed."""
    name = (source.dataset or "").lower()
    has_folders = source.dir is not None or name in _CLASS_FOLDERS
    if source.class_folders != "auto" and not has_folders:
        problem = "must be given together with --data"
        raise ConfigError("--class-folders", "", problem, source.class_folders)
    if source.white_level is not None and not has_folders and not name.startswith("hfds/"):
        problem = "must be given for files that are decoded here: --data, or --dataset hfds/…"
        raise ConfigError("--white-level", "", problem, source.white_level)


def _refuse_same_place(where: str, train: ImageSource, val: ImageSource) -> None:
    """Refuse parts that are one folder or file under two names: accuracy would be that of training images."""
    places = [getattr(one, "folder", getattr(one, "path", None)) for one in (train, val)]
    if None not in places and os.path.realpath(str(places[0])) == os.path.realpath(str(places[1])):
        problem = "train and val must be different images"
        hint = "or --val-fraction 0.2 to evaluate on a fifth of them"
        raise ConfigError(where, "", problem, str(places[1]), hint)


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


def _open_folder(folder: Path, source: DataSource) -> tuple[ImageSource, ImageSource | None]:
    """Return (train, val); val is None where a fraction of train is to take its place.

    With ``val_fraction`` a folder without a train part is one itself.
    """
    is_folder = os.path.isdir(folder)
    if not is_folder and not (source.val_fraction is not None and os.path.isfile(folder)):
        hint = "give a folder with train and val in it, as class folders or as .tar files"
        raise ConfigError("--data", "", "must be an existing folder", str(folder), hint)
    if source.val_fraction is None:
        train, val = (_required_part(folder, part) for part in ("train", "val"))
        return open_part(train, source.class_folders), open_part(val, source.class_folders)
    if is_folder and (val_path := _find_part(folder, "val")) is not None:
        problem, hint = f"must be left out: there is {printable(val_path.name)}", "or rename that"
        raise ConfigError("--val-fraction", "", problem, source.val_fraction, hint)
    found = _find_part(folder, "train") if is_folder else None
    return open_part(found or folder, source.class_folders), None


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
        names = " and ".join(path.name for path in found[:2])
        problem, hint = f"must have one {part} part, but there are {names}", "rename or remove one"
        raise ConfigError(where, "", problem, str(folder), hint)
    return next(iter(folders or found), None)


def entries_of(folder: Path, where: str) -> list[Path]:
    """Return what lies in a folder, in order.

    Raises:
        ConfigError: It cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        problem = f"must be a folder that can be listed ({error.strerror})"
        raise ConfigError(where, "", problem, str(folder)) from None


def open_part(path: Path, class_folders: ClassFolders) -> ImageSource:
    """Open the class folders or the tar file of one part.

    Raises:
        ConfigError: It holds no images, is no tar file, or does not tell its classes.
    """
    is_folder = os.path.isdir(path)
    opened = FolderSource(path, class_folders) if is_folder else _open_tar(path, class_folders)
    if len(opened) == 0:
        problem = "must hold images, such as .jpg or .png files"
        held = ", ".join(map(str, opened.left_out[:3]))
        hint = f"it holds {held}" if held else "put them into one folder a class"
        raise ConfigError("--data", "", problem, str(path), hint)
    return opened


def _open_tar(path: Path, class_folders: ClassFolders) -> TarSource:
    try:
        return TarSource(path, class_folders)
    except ConfigError:
        raise
    # tarfile's answers to some damaged headers; RecursionError to one before one before one.
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        ValueError,
        ArithmeticError,
        RecursionError,
    ) as error:
        reason = error.strerror if isinstance(error, NotRegularFileError) else first_line(error)
        problem = f"must be an uncompressed, complete tar file ({reason})"
        raise ConfigError("--data", "", problem, str(path), "pack it anew with tar -cf") from error


def _open_named(source: DataSource, split: str) -> AnySource:
    name = source.dataset or ""
    prefix = name.partition("/")[0].lower()
    _check_name(name, prefix)
    fields = {"input_key": source.input_key, "target_key": source.target_key}
    chosen = {key: value for key, value in fields.items() if value is not None}
    if prefix in _STREAMS:
        return StreamSource(name, source.data_dir, split, chosen, source.num_classes)
    if name.lower() in _CLASS_FOLDERS:
        return open_part(_split_folder(source, split), source.class_folders)
    try:
        return _opened_by_timm(name, source, split, chosen)
    except ConfigError:
        raise
    except READER_ERRORS as error:
        problem = f"must be a data set that timm can open as split {split!r} ({first_line(error)})"
        hint = f"check its name, --data-dir (now {source.data_dir!r}) and the splits"
        raise ConfigError("--dataset", "", problem, name, hint) from error


def _opened_by_timm(
    name: str, source: DataSource, split: str, fields: dict[str, str]
) -> ReaderSource | TorchSource:
    opened = create_dataset(name, root=source.data_dir, split=split, **fields)
    if name.lower().startswith("torch/"):
        return TorchSource(opened, f"{name} ({split})")
    reader = opened.reader
    names = names_by_number(reader.class_to_idx) or [str(n) for n in range(source.num_classes or 0)]
    _check_number_of_classes("--dataset", tuple(names))
    return ReaderSource(reader, f"{name} ({split})", names)


def _split_folder(source: DataSource, split: str) -> Path:
    """Return the folder of a split; timm would take the whole root in place of one that is missing."""
    root = Path(source.data_dir or ".")
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


def _check_name(name: str, prefix: str) -> None:
    if prefix not in _PACKAGES or "/" not in name:
        known = ", ".join(f"{known}/…" for known in _PACKAGES)
        raise ConfigError(
            "--dataset", "", f"must be one of {known}", name, "for folders use --data"
        )
    package, module = _PACKAGES[prefix]
    if importlib.util.find_spec(module) is None:
        problem = f"needs the package {package}, which is not installed"
        raise ConfigError("--dataset", "", problem, name, f"pip install {package}")


# --------------------------------------------------------------------------------------------------
# A fraction of a data set to train on, and evaluation on training images that are not trained on.


_SEED = 0
_HELD_OUT, _MAX_EVALUATED = 0.05, 2500


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
        problem, hint = (
            "must be data that can be read in any order",
            "or leave out --held-out and fractions",
        )
        raise ConfigError("--dataset", "", problem, hint=hint)
    val: AnySource = opened.val
    indices = np.arange(len(train))
    if on_held_out:
        indices, held = stratified_holdout(train.targets, _SEED, _HELD_OUT, _MAX_EVALUATED)
        val = SlicedSource(train, held)
    if fraction < 1:
        indices = _stratified_fraction(train.targets, indices, fraction)
    if len(val) == 0:
        problem = f"must have images to hold out: {_HELD_OUT:.0%} of them are none"
        raise ConfigError("data", "train", problem, len(train), "give more images")
    text = f"{opened.description}; trained on {len(indices):,}"
    text += f", evaluated on {len(val):,} other training images" if on_held_out else ""
    kept = SlicedSource(train, indices)
    report = replace(
        opened.report,
        train=replace(opened.report.train, class_sizes=PartReport.of(kept).class_sizes),
        val=PartReport.of(val)
        if on_held_out and not isinstance(val, StreamSource)
        else opened.report.val,
    )
    return replace(opened, train=kept, val=val, description=text, report=report)


def _stratified_fraction(targets: np.ndarray, among: np.ndarray, fraction: float) -> np.ndarray:
    """Return about `fraction` of each class `among` some numbers of images, at least one, rising.

    Which ones go first hangs on all images, so that it is alike whichever are held out.
    """
    order = np.random.RandomState(_SEED).permutation(len(targets))
    order = order[np.isin(order, among)]
    kept = [
        own[: max(1, round(fraction * len(own)))]
        for label in np.unique(targets)
        for own in [order[targets[order] == label]]
    ]
    return np.sort(np.concatenate(kept))


# --------------------------------------------------------------------------------------------------
# Images to evaluate weights on: a folder without a training part, labelled as the weights' outputs
# are.


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
        hint = "give a folder with val or test in it, as class folders or as .tar files"
        raise ConfigError("--data", "", "must be an existing folder", str(folder), hint)
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
        problem = f"must have classes that the weights know, but {some(new)} are none of them"
        if len(new) == 1:
            problem = f"must have classes that the weights know, but {some(new)} is none of them"
        raise ConfigError(where, "", problem, hint=f"these are {some(names)}")
    val = opened.val
    if isinstance(val, StreamSource):
        problem, hint = (
            "must have its classes in the order of the weights",
            "as a stream cannot be relabelled",
        )
        raise ConfigError(where, "", problem, hint=hint)
    relabelled = _Relabelled(val, np.array(numbers, dtype=np.int64), names)
    found = dataclasses.replace(opened, train=relabelled, val=relabelled, class_names=names)
    if len(own) < len(names):
        return (
            found,
            f"images of {len(own)} of the {len(names)} classes; any of all may be predicted",
        )
    return found, "the classes are matched by name: their order is another in the weights"


_CHUNK_IMAGES = 16
_QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class CheckedImages:
    """How many images have been read, and which of them cannot be."""

    num_read: int
    unreadable: list[Unreadable]


def check_images(
    source: ImageSource,
    workers: int,
    max_seconds: float,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
    part: str = "validation",
) -> CheckedImages:
    """Decode images, all of them where the time allows it, else some from all over the source.

    Args:
        source: The images.
        workers: Number of worker processes.
        max_seconds: After which no more are begun.
        progress: Is shown how far it is, once it takes long.
        clock: Seconds.
        part: What they are called there.
    """
    start, num_read, found = clock(), 0, list[Unreadable]()
    pool: WorkerPool[list[int], tuple[int, list[Unreadable]]] = WorkerPool(_Read(source), workers)
    with ExitStack() as stack:
        stack.callback(pool.close)
        advance = None
        for count, unreadable in pool.results(_chunks(len(source))):
            num_read += count
            found += unreadable
            seconds = clock() - start
            if seconds > max_seconds:
                break
            if advance is None and seconds > _QUIET_SECONDS:
                text = f"{part} images: reading each once, for at most {max_seconds:.0f} seconds"
                advance = stack.enter_context(progress(text, len(source)))
            if advance is not None:
                advance(num_read)
    return CheckedImages(num_read, sorted(found))


def _chunks(num_images: int) -> Iterator[list[int]]:
    """Yield the numbers of all images, some neighbours at a time, in an order that looks everywhere soon."""
    starts = np.arange(0, num_images, _CHUNK_IMAGES)
    for start in np.random.RandomState(0).permutation(starts).tolist():
        yield list(range(start, min(start + _CHUNK_IMAGES, num_images)))


class _Read:
    """Reads images and tells how many there were, and which of them cannot be read."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __call__(self, indices: list[int]) -> tuple[int, list[Unreadable]]:
        found: list[Unreadable] = []
        read_or_note(self._load, indices, found)
        return len(indices), found

    def _load(self, index: int) -> None:
        self._source.load(index)
