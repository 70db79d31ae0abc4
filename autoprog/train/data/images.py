"""Map-style image sources: class folders, tar files, and the datasets that timm opens."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, UnidentifiedImageError
from timm.data.readers.img_extensions import get_img_extensions
from timm.data.readers.reader_image_folder import find_images_and_targets
from timm.utils.misc import natural_key

from autoprog.errors import RunError
from autoprog.libwarnings import about
from autoprog.train.data.decode import IMAGE_ERRORS, decode_at_most, decode_rgb, shrink

__all__ = [
    "FolderSource",
    "ImageSource",
    "ReaderSource",
    "TarSource",
    "TorchSource",
    "load_at_most",
    "scan_tar",
]


@runtime_checkable
class ImageSource(Protocol):
    """Images that can be read in any order, from any process."""

    targets: np.ndarray
    """Class numbers, int64, one an image."""
    class_names: tuple[str, ...]
    in_memory: bool
    """Whether an image costs less to load and augment than to pass between processes."""

    def __len__(self) -> int:
        """Return the number of images."""

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Return the RGB image and its target.

        Raises:
            RunError: The image cannot be read; names the file and the index.
        """

    def name(self, index: int) -> str:
        """Return where the image comes from, for messages."""


@runtime_checkable
class _Encoded(Protocol):
    def encoded(self, index: int) -> bytes:
        """Return the bytes of the image file."""


def load_at_most(
    source: ImageSource, index: int, short_px: int
) -> tuple[Image.Image, tuple[int, int]]:
    """Return an RGB image whose shorter side has at most ``short_px``, and its (width, height) before.

    Raises:
        RunError: The image cannot be read.
    """
    if not isinstance(source, _Encoded):
        image = source.load(index)[0]
        return shrink(image, short_px), image.size
    try:
        with about(source.name(index)):
            return decode_at_most(source.encoded(index), short_px)
    except IMAGE_ERRORS as error:
        raise _unreadable(source, index, error) from error


def _unreadable(source: ImageSource, index: int, error: BaseException) -> RunError:
    return RunError(f"{source.name(index)}: image {index} cannot be read: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """Return why an image cannot be read, in a line without names of Python objects."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"more than the {most:,} pixels that Pillow opens; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r"<\S+( object)? at 0x[0-9a-f]+>", "the file", text)


def _decoded(source: FolderSource | TarSource | ReaderSource, index: int) -> Image.Image:
    try:
        with about(source.name(index)):
            return decode_rgb(source.encoded(index))
    except IMAGE_ERRORS as error:
        raise _unreadable(source, index, error) from error


def _pack(names: Sequence[str]) -> np.ndarray:
    """Pack strings into one buffer, which forked workers share; a list is copied as they read it."""
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


class FolderSource:
    """Image files in one folder a class, in timm's order.

    Args:
        folder: Searched recursively; the name of the innermost folder is the class.
    """

    in_memory = False

    def __init__(self, folder: Path) -> None:
        samples, classes = find_images_and_targets(str(folder))
        self.folder = str(folder)
        self._paths = _pack([os.path.relpath(path, folder) for path, _ in samples])
        self.targets = np.array([target for _, target in samples], dtype=np.int64)
        self.class_names: tuple[str, ...] = tuple(classes)

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return os.path.join(self.folder, os.fsdecode(self._paths[index]))

    def file_paths(self) -> list[str]:
        """Return the paths of all files."""
        return [self.name(index) for index in range(len(self))]

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the file."""
        return Path(self.name(index)).read_bytes()

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Read and decode the file."""
        return _decoded(self, index), int(self.targets[index])


def scan_tar(
    archive: tarfile.TarFile, extensions: set[str], base_bytes: int = 0, prefix: str = ""
) -> Iterator[tuple[str, int, int]]:
    """Yield (path, offset in bytes, size in bytes) of each image in a tar, and in tars within it.

    Args:
        archive: Opened without compression, for random access.
        extensions: Endings of image files, lower case with the dot.
        base_bytes: Where the archive starts in the outermost file.
        prefix: Folder that stands for the archive: the name of an inner tar is a class.
    """
    for member in archive:
        if not member.isfile():
            continue
        stem, extension = os.path.splitext(member.name)
        if extension.lower() == ".tar":
            with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as inner:
                yield from scan_tar(inner, extensions, base_bytes + member.offset_data, stem)
        elif extension.lower() in extensions:
            offset_bytes = base_bytes + member.offset_data
            yield os.path.join(prefix, member.name), offset_bytes, member.size


def _check_end(path: Path) -> None:
    """Check for the block of zeros at the end: tarfile takes a cut within a header for the end."""
    with path.open("rb") as file:
        file.seek(-tarfile.BLOCKSIZE, os.SEEK_END)
        if any(file.read()):
            raise tarfile.ReadError("the mark at its end is missing")


class TarSource:
    """Images in a tar file, one folder or one inner tar a class, read without unpacking.

    The order and the classes are those of timm's tar reader. It is not used itself because its
    workers share one file position after a fork, it scans by reading the whole file, and it leaves
    a pickle beside large ones. Here an image is one positional read, which forked and threaded
    readers may share.

    Args:
        path: An uncompressed tar.

    Raises:
        tarfile.TarError: The file is not a tar, or ends too early.
    """

    in_memory = False

    def __init__(self, path: Path) -> None:
        with tarfile.open(path, mode="r:") as archive:
            _check_end(path)
            members = sorted(
                scan_tar(archive, get_img_extensions(as_set=True)), key=lambda m: natural_key(m[0])
            )
        labels = [os.path.basename(os.path.dirname(name)) for name, _, _ in members]
        self.class_names: tuple[str, ...] = tuple(sorted(set(labels), key=natural_key))
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self.targets = np.array([numbers[label] for label in labels], dtype=np.int64)
        self.path = str(path)
        self._names = _pack([name for name, _, _ in members])
        self._spans = np.array([span for _, *span in members], dtype=np.int64).reshape(-1, 2)
        self._file: io.FileIO | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def name(self, index: int) -> str:
        """Return the path of the tar and, after a colon, the path inside it."""
        return f"{self.path}:{os.fsdecode(self._names[index])}"

    def file_paths(self) -> list[str]:
        """Return the path of the tar."""
        return [self.path]

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the member."""
        return self._read(*self._spans[index].tolist())

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Read and decode the member."""
        return _decoded(self, index), int(self.targets[index])

    def _read(self, offset_bytes: int, size_bytes: int) -> bytes:
        if self._file is None:
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115  (kept open)
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size_bytes, offset_bytes)
        self._file.seek(offset_bytes)  # Windows has no fork, so the position is nobody else's
        return self._file.read(size_bytes) or b""


class ReaderSource:
    """A map-style timm reader, such as ``hfds/…``.

    Args:
        reader: Yields (binary file, target) by index, and knows ``class_to_idx``.
        origin: Its name, for messages.
        class_names: In the order of the targets.
    """

    in_memory = False

    def __init__(self, reader: Any, origin: str, class_names: Sequence[str]) -> None:
        self.reader, self.origin = reader, origin
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.targets = np.fromiter(reader.iter_targets(), dtype=np.int64, count=len(reader))

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        """Return the name of the dataset."""
        return self.origin

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the sample's file."""
        file, _ = self.reader[index]
        with file:
            return bytes(file.read())

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Read and decode the sample."""
        return _decoded(self, index), int(self.targets[index])


class TorchSource:
    """A torchvision dataset, such as ``torch/cifar10``.

    Args:
        dataset: Yields (PIL image, target) by index.
        origin: Its name, for messages.
    """

    in_memory = False

    def __init__(self, dataset: Any, origin: str) -> None:
        self.dataset, self.origin = dataset, origin
        self.class_names: tuple[str, ...] = tuple(str(name) for name in dataset.classes)
        self.targets = np.asarray(dataset.targets, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        """Return the file where the dataset knows it, else the name of the dataset."""
        files = getattr(self.dataset, "imgs", None)
        return str(files[index][0]) if files else self.origin

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Read the sample and convert it to RGB."""
        try:
            with about(self.name(index)):
                image, target = self.dataset[index]
        except IMAGE_ERRORS as error:
            raise _unreadable(self, index, error) from error
        return image if image.mode == "RGB" else image.convert("RGB"), int(target)
