"""Where images come from: class folders, tar files, data sets that timm opens, the digits, and slices.

All can be read in any order, from any process; what only comes one after another is in
:mod:`autoprog.data.stream`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from autoprog.data.decode import (
    IMAGE_ERRORS,
    MAX_FILE_BYTES,
    MAX_PIXELS,
    decode_at_most,
    decode_rgb,
    pillow_limits,
    shrink,
    to_rgb,
)
from autoprog.data.folders import ClassFolders, LeftOut, ScannedImages, scan_folder, scan_tar
from autoprog.errors import RunError
from autoprog.libwarnings import about
from autoprog.openfiles import NotRegularFileError, open_regular
from autoprog.printable import brief

__all__ = [
    "DIGITS_PX",
    "DigitsSource",
    "EncodedSource",
    "FolderSource",
    "ImageSource",
    "ReaderSource",
    "SlicedSource",
    "TarSource",
    "TorchSource",
    "apportion",
    "class_numbers",
    "digest_of",
    "load_at_most",
    "open_digits",
    "stratified_holdout",
    "stratified_split",
    "whole_of",
]

# The side that the 8 px scans of digits are enlarged to.
DIGITS_PX = 32
_NUM_VAL_DIGITS, _DIGITS_SEED = 360, 0


class ImageSource(Protocol):
    """Images that can be read in any order, from any process.

    Attributes:
        targets: Class numbers, int64, one an image.
        class_names: In the order of their numbers.
        in_memory: Whether an image costs less to load and augment than to pass between processes.
    """

    targets: np.ndarray
    class_names: tuple[str, ...]
    in_memory: bool

    def __len__(self) -> int:
        """Return the number of images."""

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Return the RGB image and its target.

        Raises:
            RunError: The image cannot be read; names the file and the index.
        """

    def name(self, index: int) -> str:
        """Return where the image comes from, for messages."""


class EncodedSource:
    """Images that are decoded here, from the bytes of files.

    ``white_level`` is what is white in those of more than 8 bits, as for
    :func:`autoprog.data.decode.to_rgb`.
    """

    targets: np.ndarray
    class_names: tuple[str, ...]
    in_memory = False
    white_level: float | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        """Return where the image comes from, for messages."""
        raise NotImplementedError

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the image file."""
        raise NotImplementedError

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Read and decode an image; return it with its target."""
        try:
            with about(self.name(index)):
                image = decode_rgb(self.encoded(index), self.white_level)
        except IMAGE_ERRORS as error:
            raise _unreadable(self, index, error) from error
        return image, int(self.targets[index])


def load_at_most(
    source: ImageSource, index: int, short_px: int
) -> tuple[Image.Image, tuple[int, int]]:
    """Return an RGB image whose shorter side has at most ``short_px``, and its (width, height) before.

    Raises:
        RunError: The image cannot be read.
    """
    if not isinstance(source, EncodedSource):
        image = source.load(index)[0]
        return shrink(image, short_px), image.size
    try:
        with about(source.name(index)):
            return decode_at_most(source.encoded(index), short_px, source.white_level)
    except IMAGE_ERRORS as error:
        raise _unreadable(source, index, error) from error


def _unreadable(source: ImageSource, index: int, error: BaseException) -> RunError:
    """Return the error of an image that cannot be read, in a line without names of Python objects."""
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image that Pillow reads"
    elif isinstance(error, Image.DecompressionBombError):
        reason = f"more than the {MAX_PIXELS:,} pixels that are read; make it smaller"
    elif isinstance(error, MemoryError):
        reason = "there is not the memory to decode it; make it smaller"
    elif isinstance(error, struct.error):
        reason = "it is cut short or damaged"
    elif isinstance(error, NotRegularFileError):
        reason = f"it is {error.strerror}"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = re.sub(r"<\S+( object)? at 0x[0-9a-f]+>", "the file", first)
    return RunError(f"{source.name(index)}: image {index} cannot be read: {reason}")


class _ScannedSource(EncodedSource):
    """Images that a scan has found."""

    def __init__(self, found: ScannedImages) -> None:
        self.targets, self.class_names = found.targets, found.class_names
        self.left_out: tuple[LeftOut, ...] = found.left_out
        self.notes: tuple[str, ...] = found.notes
        self._names, self._sizes_bytes = found.names, found.sizes_bytes

    def identity(self) -> bytes:
        """Return the names and sizes of all files in order."""
        return bytes(self._names.buffer) + self._names.stops.tobytes() + self._sizes_bytes.tobytes()


class FolderSource(_ScannedSource):
    """Image files in one folder a class, in the order of :mod:`autoprog.data.folders`.

    Args:
        folder: Searched recursively.
        class_folders: Which folder above an image names its class, where there are several.

    Raises:
        ConfigError: As :func:`scan_folder` does.
    """

    def __init__(self, folder: Path, class_folders: ClassFolders = "auto") -> None:
        super().__init__(scan_folder(str(folder), class_folders))
        self.folder = str(folder)

    def name(self, index: int) -> str:
        """Return the path of the file."""
        return os.path.join(self.folder, self._names[index])

    def file_paths(self) -> list[str]:
        """Return the paths of all files."""
        return [self.name(index) for index in range(len(self))]

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the file."""
        with open_regular(Path(self.name(index))) as file:
            _check_size(os.fstat(file.fileno()).st_size)
            return file.read()


class TarSource(_ScannedSource):
    """Images in a tar file, one folder or one inner tar a class, read without unpacking.

    The order and the classes are those of a folder with the same content. timm's tar reader is not used
    itself because its workers share one file position after a fork, it scans by reading the whole file,
    and it leaves a pickle beside large ones. Here an image is one positional read, which forked and
    threaded readers may share.

    Args:
        path: An uncompressed tar.
        class_folders: Which folder above an image names its class, where there are several.

    Raises:
        ConfigError: As :func:`scan_tar` does.
        tarfile.TarError: The file is not a tar, or ends too early.
    """

    def __init__(self, path: Path, class_folders: ClassFolders = "auto") -> None:
        with open_regular(path) as file:
            found = scan_tar(file, str(path), class_folders)
        super().__init__(found)
        self.path = str(path)
        self._offsets_bytes = found.offsets_bytes
        self._file: IO[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def name(self, index: int) -> str:
        """Return the path of the tar and, after a colon, the path inside it."""
        return f"{self.path}:{self._names[index]}"

    def file_paths(self) -> list[str]:
        """Return the path of the tar."""
        return [self.path]

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the member."""
        offset_bytes, size_bytes = int(self._offsets_bytes[index]), int(self._sizes_bytes[index])
        _check_size(size_bytes)
        if self._file is None:
            self._file = open_regular(Path(self.path))
        if hasattr(os, "pread"):
            return os.pread(self._file.fileno(), size_bytes, offset_bytes)
        self._file.seek(offset_bytes)  # Windows has no fork, so the position is nobody else's
        return self._file.read(size_bytes) or b""


class ReaderSource(EncodedSource):
    """A map-style timm reader, such as ``hfds/…``.

    Args:
        reader: Yields (binary file, target) by index, and knows ``class_to_idx``.
        origin: Its name, for messages.
        class_names: In the order of the targets.
    """

    def __init__(self, reader: Any, origin: str, class_names: Sequence[str]) -> None:
        self.reader, self.origin = reader, origin
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.targets = class_numbers(reader.iter_targets(), len(self.class_names))

    def name(self, index: int) -> str:
        """Return the name of the dataset."""
        return self.origin

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the sample's file."""
        file, _ = self.reader[index]
        with file:
            data = bytes(file.read(MAX_FILE_BYTES + 1))
        _check_size(len(data))
        return data


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
        self.targets = class_numbers(np.asarray(dataset.targets).tolist(), len(self.class_names))
        self._has_files = bool(getattr(dataset, "imgs", None))

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        """Return the file where the dataset knows it, else the name of the dataset."""
        return str(self.dataset.imgs[index][0]) if self._has_files else self.origin

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Read the sample and convert it to RGB."""
        try:
            with about(self.name(index)), pillow_limits():
                if self._has_files:  # torchvision would wait for a pipe
                    open_regular(Path(self.name(index))).close()
                image, target = self.dataset[index]
                return to_rgb(image), int(target)
        except IMAGE_ERRORS as error:
            raise _unreadable(self, index, error) from error


class DigitsSource:
    """scikit-learn's scans of handwritten digits, in memory as 32 px RGB images.

    They are enlarged once, bicubically, instead of by each training crop: a crop of 8 px would
    hold only a few samples, and an integer factor keeps the strokes smooth.

    Args:
        scans: Grey values 0 to 16, N x 8 x 8.
        targets: The digits.
    """

    in_memory = True
    class_names = tuple("0123456789")

    def __init__(self, scans: np.ndarray, targets: np.ndarray) -> None:
        self.targets = targets.astype(np.int64)
        side = (DIGITS_PX, DIGITS_PX)
        grey = (Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8)) for scan in scans)
        self._images = np.stack(
            [np.asarray(one.resize(side, Image.Resampling.BICUBIC)) for one in grey]
        )

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, index: int) -> str:
        """Return the name of the data set."""
        return "digits"

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Return the enlarged scan."""
        return Image.fromarray(self._images[index]).convert("RGB"), int(self.targets[index])


def open_digits() -> tuple[DigitsSource, DigitsSource]:
    """Return (train, val): 1,437 and 360 images, stratified, the same on every machine."""
    from sklearn.datasets import load_digits  # slow to import, and needed by this data set alone

    bunch = load_digits()
    train, val = stratified_split(bunch.target, _DIGITS_SEED, _NUM_VAL_DIGITS)
    return (
        DigitsSource(bunch.images[train], bunch.target[train]),
        DigitsSource(bunch.images[val], bunch.target[val]),
    )


class SlicedSource:
    """Some images of a source, by their numbers in it; a slice of a slice is one of the whole."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        whole, own = whole_of(source)
        self.source: ImageSource = whole
        self.indices: np.ndarray = own[indices]
        self.targets, self.class_names = source.targets[indices], source.class_names
        self.in_memory = source.in_memory

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> tuple[Image.Image, int]:
        """Return an image of the slice and its target."""
        return self.source.load(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Return where an image of the slice comes from."""
        return self.source.name(int(self.indices[index]))

    def identity(self) -> bytes:
        """Return which images of which whole they are."""
        return digest_of(self.source).encode() + self.indices.astype("<i8").tobytes()


def whole_of(source: ImageSource) -> tuple[ImageSource, np.ndarray]:
    """Return the source behind a slice and the numbers of its images in it; all of them for no slice."""
    if isinstance(source, SlicedSource):
        return source.source, source.indices
    return source, np.arange(len(source))


def digest_of(source: ImageSource) -> str:
    """Return a hash of the images of a part, wherever it lies: 32 hexadecimal digits.

    It covers the class names, the class of each image, and of files their names inside the part and their
    sizes. No file is read: an image replaced by one of the same name and size is not noticed.
    """
    digest = hashlib.blake2b("\n".join(source.class_names).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(source.targets, dtype="<i8").tobytes())
    if isinstance(source, _ScannedSource | SlicedSource):
        digest.update(source.identity())
    return digest.hexdigest()


def apportion(class_sizes: np.ndarray, count: int) -> np.ndarray:
    """Return how many images to take from each class, in proportion to its size.

    Each class that has two or more gives at least one when ``count`` allows it, and each class
    keeps at least one, so fewer than ``count`` may come out. Ties go to the lower class number.
    """
    fraction = class_sizes * (count / max(1, class_sizes.sum()))
    max_taken = np.maximum(class_sizes - 1, 0)
    min_taken = (
        np.minimum(max_taken, 1)
        if count >= np.count_nonzero(max_taken)
        else np.zeros_like(max_taken)
    )
    taken = min_taken.copy()
    # One image at a time goes to the class that is furthest below its fraction, of those that can still give.
    for _ in range(min(count, int(max_taken.sum())) - int(taken.sum())):
        taken[np.argmax(np.where(taken < max_taken, fraction - taken, -np.inf))] += 1
    return taken


def stratified_split(targets: np.ndarray, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (kept, taken) indices, int64 and sorted, with ``count`` taken as :func:`apportion` says."""
    # RandomState, because numpy promises that its stream never changes between versions.
    order = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed)))
    shuffled = order.permutation(len(targets))
    by_class = shuffled[np.argsort(targets[shuffled], kind="stable")]
    class_sizes = np.bincount(targets)
    starts = np.cumsum(class_sizes) - class_sizes
    rank_in_class = np.arange(len(targets)) - np.repeat(starts, class_sizes)
    is_taken = rank_in_class < np.repeat(apportion(class_sizes, count), class_sizes)
    return np.sort(by_class[~is_taken]), np.sort(by_class[is_taken])


def stratified_holdout(
    targets: np.ndarray, seed: int, fraction: float = 0.05, cap: int = 10_000
) -> tuple[np.ndarray, np.ndarray]:
    """Return (training, held-out) indices of the training images, int64 and sorted.

    The held-out slice has min(``fraction`` of the images, ``cap``) images, at least one a class
    where that size allows it; every class keeps training images. Given the indices of a whole
    data set, validation images are never involved.

    Args:
        targets: Class numbers from 0, one an image.
        seed: Same seed and targets, same slice.
        fraction: Of the images, from 0 to below 1.
        cap: The most images to hold out.
    """
    assert 0.0 <= fraction < 1.0, fraction
    return stratified_split(targets, seed, min(int(fraction * len(targets)), cap))


def class_numbers(targets: Iterable[Any], num_classes: int) -> np.ndarray:
    """Return the classes of images as int64, each of which must be the number of a class.

    Raises:
        ValueError: With the first that is none.
    """
    found = []
    for index, target in enumerate(targets):
        if not isinstance(target, int | np.integer) or not 0 <= target < num_classes:
            problem = f"must be of one of the {num_classes:,} classes, 0 to {num_classes - 1}"
            raise ValueError(f"image {index} {problem}, but its target is {brief(target)}")
        found.append(target)
    return np.array(found, dtype=np.int64)


def _check_size(size_bytes: int) -> None:
    """Refuse an image file before it is read, which takes as much memory."""
    if size_bytes > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES / 2**20:g} MiB; make it smaller")
