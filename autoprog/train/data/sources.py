"""Where images come from: a folder, tar files, a data set that timm opens, or the digits."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from timm.data import create_dataset
from timm.data.readers.img_extensions import get_img_extensions

from autoprog.errors import ConfigError
from autoprog.train.data.digits import open_digits
from autoprog.train.data.images import (
    FolderSource,
    ImageSource,
    ReaderSource,
    TarSource,
    TorchSource,
)
from autoprog.train.data.stream import StreamSource

__all__ = ["AnySource", "DataSource", "OpenedData", "open_source"]

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
    """

    dir: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    train_split: str = "train"
    val_split: str = "validation"
    input_key: str | None = None
    target_key: str | None = None
    num_classes: int | None = None


@dataclasses.dataclass(frozen=True)
class OpenedData:
    """Both parts of a data set; they have the same classes."""

    train: AnySource
    val: AnySource
    class_names: tuple[str, ...]
    description: str

    @property
    def images(self) -> tuple[ImageSource, ImageSource]:
        """(train, val) of map-style data; asserts that it is no stream."""
        assert not isinstance(self.train, StreamSource), self.description
        assert not isinstance(self.val, StreamSource), self.description
        return self.train, self.val

    @property
    def digests(self) -> Mapping[str, str]:
        """Return a digest of each part: of the names of its files below its folder, and of their classes."""
        return {"train": _digest(self.train), "val": _digest(self.val)}


def _digest(source: AnySource) -> str:
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(source, StreamSource):
        digest.update(repr((len(source), source.class_names)).encode())
        return digest.hexdigest()
    whole = getattr(source, "source", source)
    for attribute in ("_paths", "_names"):
        if hasattr(whole, attribute):
            digest.update(getattr(whole, attribute).tobytes())
    digest.update(source.targets.tobytes())
    return digest.hexdigest()


def open_source(source: DataSource) -> OpenedData:
    """Open both parts of a data set and check them; reads no image.

    Raises:
        ConfigError: Something is missing, empty or unreadable, or the parts have other classes.
    """
    if source.dir is not None and source.dataset is not None:
        raise ConfigError("--data", "", "must not be given together with --dataset", source.dir)
    train: AnySource
    val: AnySource
    if source.dir is not None:
        where, origin = "--data", source.dir
        train, val = _open_folder(Path(source.dir))
    elif source.dataset is not None:
        where, origin = "--dataset", source.dataset
        train, val = (
            _open_named(source, split) for split in (source.train_split, source.val_split)
        )
    else:
        where, origin = "digits", "digits (embedded)"
        train, val = open_digits()
    _check_classes(where, train.class_names, val.class_names)
    text = f"{origin}: {len(train):,} training and {len(val):,} validation images"
    return OpenedData(train, val, train.class_names, f"{text}, {len(train.class_names)} classes")


def _check_classes(where: str, train: tuple[str, ...], val: tuple[str, ...]) -> None:
    if len(train) < 2:
        cure = "give one folder a class"
        raise ConfigError(where, "train", "must have at least 2 classes", list(train), cure)
    if train == val:
        return
    only_train = [name for name in train if name not in val][:1]
    only_val = [name for name in val if name not in train][:1]
    found = " and ".join(
        f"{names[0]!r} is only in {part}"
        for names, part in ((only_train, "train"), (only_val, "val"))
        if names
    )
    law = f"train and val must have the same classes: {found or 'their order differs'}"
    raise ConfigError(where, "", law, cure="add or remove that class")


def _open_folder(folder: Path) -> tuple[ImageSource, ImageSource]:
    if not folder.is_dir():
        cure = "give a folder with train and val in it, as class folders or as .tar files"
        raise ConfigError("--data", "", "must be an existing folder", str(folder), cure)
    return _open_path(_find_part(folder, "train")), _open_path(_find_part(folder, "val"))


def _find_part(folder: Path, part: str) -> Path:
    for name in _SPLIT_NAMES[part]:
        for path in (folder / name, folder / f"{name}.tar"):
            if path.exists():
                return path
    names = ", ".join(f"{name}/ or {name}.tar" for name in _SPLIT_NAMES[part])
    held = sorted(path.name for path in folder.iterdir())
    listing = ", ".join(held[:5]) + (", …" if len(held) > 5 else "") if held else "nothing"
    cure = f"it holds {listing}"
    raise ConfigError("--data", "", f"must hold a {part} part ({names})", str(folder), cure)


def _open_path(path: Path) -> ImageSource:
    source = FolderSource(path) if path.is_dir() else _open_tar(path)
    if len(source) == 0:
        law = f"must hold images ({', '.join(get_img_extensions())})"
        raise ConfigError("--data", "", law, str(path), "put them into one folder a class")
    return source


def _open_tar(path: Path) -> TarSource:
    try:
        return TarSource(path)
    except (tarfile.TarError, OSError, EOFError) as error:
        law = f"must be an uncompressed, complete tar file ({_first_line(error)})"
        raise ConfigError("--data", "", law, str(path), "pack it anew with tar -cf") from error


def _open_named(source: DataSource, split: str) -> AnySource:
    name = source.dataset or ""
    prefix = name.partition("/")[0].lower()
    _check_name(name, prefix)
    fields = {"input_key": source.input_key, "target_key": source.target_key}
    chosen = {key: value for key, value in fields.items() if value is not None}
    if prefix in _STREAMS:
        return StreamSource(name, source.data_dir, split, chosen, source.num_classes)
    opened = _create(name, source.data_dir, split, chosen)
    if prefix == "torch":
        return TorchSource(opened, f"{name} ({split})")
    reader = opened.reader
    names = list(reader.class_to_idx) or [str(n) for n in range(source.num_classes or 0)]
    return ReaderSource(reader, f"{name} ({split})", names)


def _create(name: str, root: str | None, split: str, fields: dict[str, str]) -> Any:
    try:
        return create_dataset(name, root=root, split=split, **fields)
    # What timm's readers raise for a wrong name, folder, split or field.
    except (AssertionError, RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
        law = f"must be a data set that timm can open as split {split!r} ({_first_line(error)})"
        cure = f"check its name, --data-dir (now {root!r}) and the splits"
        raise ConfigError("--dataset", "", law, name, cure) from error


def _check_name(name: str, prefix: str) -> None:
    if prefix not in _PACKAGES or "/" not in name:
        known = ", ".join(f"{known}/…" for known in _PACKAGES)
        raise ConfigError(
            "--dataset", "", f"must be one of {known}", name, "for folders use --data"
        )
    package, module = _PACKAGES[prefix]
    if importlib.util.find_spec(module) is None:
        law = f"needs the package {package}, which is not installed"
        raise ConfigError("--dataset", "", law, name, f"pip install {package}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
