"""Iterable data (``wds/…``, ``tfds/…``, ``hfids/…``): images that only come one after another.

What is weaker than with map-style data, because the reader decides on the order:

- the order depends on the number of workers and ranks, so bit-exactness is claimed for equal ones;
- a pass starts at its beginning: training resumes at the start of a pass, and each call of
  :meth:`StreamLoader.batches` builds its workers anew, so the config is fixed within a call;
- the last, incomplete batch of each worker in a pass is dropped;
- the held-out slice is not stratified: an image is in it when a hash of its decoded pixels is 0
  modulo 20, which depends neither on the order nor on the reader.

Augmentation is seeded by (seed, pass, that hash), so an image's augmentation is reproducible.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlparse

import torch
from PIL import Image
from timm.data import create_dataset
from torch import Tensor

from autoprog.data.batches import Batch
from autoprog.data.decode import pillow_limits
from autoprog.data.transforms import (
    InputConfig,
    TransformSettings,
    eval_transform,
    seed_sample,
    train_transform,
)
from autoprog.data.workers import WorkerPool
from autoprog.errors import ConfigError, RunError
from autoprog.files import read_object
from autoprog.printable import brief

__all__ = [
    "HELD_ONE_IN",
    "READER_ERRORS",
    "Part",
    "StreamLoader",
    "StreamSource",
    "check_info_files",
    "check_shards",
    "check_split",
    "first_line",
    "names_by_number",
    "pixel_hash",
]

# One image in so many is held out.
HELD_ONE_IN = 20

Part: TypeAlias = Literal["all", "training", "held_out"]

# What timm's readers raise for a wrong name, folder, split or field, or for data that they do not
# expect.
READER_ERRORS = (
    AssertionError,
    RuntimeError,
    OSError,
    EOFError,
    ImportError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)

_MAX_IMAGES = 10**11


def pixel_hash(image: Image.Image) -> int:
    """Return a stable 63-bit hash of an image's size and pixels."""
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=8)
    digest.update(image.tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1


def names_by_number(class_to_idx: Mapping[str, int]) -> list[str]:
    """Return the class names in the order of their numbers, whatever that of the mapping."""
    return sorted(class_to_idx, key=class_to_idx.__getitem__)


class StreamSource:
    """One split of iterable data.

    Args:
        name: timm's name with its prefix.
        root: Its folder or address.
        split: timm's name of the split; for ``wds`` also ``shards-{000..099}.tar|SIZE``.
        fields: ``input_key`` and ``target_key``, where they are not the reader's defaults.
        num_classes: For data that does not name its classes.
        create: Stands in for timm's ``create_dataset``.

    Raises:
        ConfigError: timm cannot open it, or the number of classes is not known.
    """

    def __init__(
        self,
        name: str,
        root: str | None,
        split: str,
        fields: dict[str, str],
        num_classes: int | None = None,
        create: Callable[..., Any] = create_dataset,
    ) -> None:
        self._create = partial(create, name, root=root, split=split, **fields)
        self.name = name
        is_sharded = name.lower().startswith("wds/")
        if is_sharded:
            check_split(split)
            check_info_files(root)
        try:
            dataset = self.open(is_training=False, batch_size=1, seed=0)
            self._length = len(dataset)
        except READER_ERRORS as error:
            problem = f"must be data that timm can open as split {split!r} ({first_line(error)})"
            hint = "check its name, --data-dir and the splits"
            raise ConfigError("--dataset", "", problem, name, hint) from error
        if is_sharded:
            check_shards(root, dataset.reader)
        if self._length > _MAX_IMAGES:
            problem = f"must say that it has at most {_MAX_IMAGES:,} images"
            raise ConfigError("--dataset", "", problem, self._length)
        known = names_by_number(getattr(dataset.reader, "class_to_idx", None) or {})
        if not known and not num_classes:
            problem = f"{name!r} does not name its classes, and their number is not given"
            raise ConfigError("--dataset", "", problem, hint="add --num-classes")
        self.class_names: tuple[str, ...] = tuple(known or map(str, range(num_classes or 0)))
        self._split = split

    def digest(self) -> str:
        """Return a hash of what the reader says of the part: split, number of images, classes."""
        text = "\n".join([self._split, str(self._length), *self.class_names])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        """Return the number of images, held-out ones included, as the data set states it."""
        return self._length

    def open(self, is_training: bool, batch_size: int, seed: int) -> Any:
        """Return timm's dataset, which yields (RGB image, target) and knows ``set_epoch``."""
        return self._create(is_training=is_training, batch_size=batch_size, seed=seed)


class StreamLoader:
    """Batches of a stream.

    Args:
        source: The data.
        settings: What stays fixed over the run.
        seed: At least 0.
        workers: Number of worker processes; at most the number of shards.
        world_size: Number of processes.
        pin_memory: Put batches into page-locked memory, for CUDA.
        rank: Of this process. In training the reader finds out by itself.
    """

    def __init__(
        self,
        source: StreamSource,
        settings: TransformSettings,
        seed: int,
        workers: int,
        world_size: int = 1,
        pin_memory: bool = False,
        rank: int = 0,
    ) -> None:
        self._source, self._settings, self._seed = source, settings, seed
        self._workers, self._world_size, self._pin_memory = workers, world_size, pin_memory
        self._rank = rank

    def batches(
        self,
        first_pass: int,
        batch_size: int,
        steps: int,
        config: InputConfig,
        part: Part = "training",
    ) -> Iterator[Batch]:
        """Yield ``steps`` augmented batches, from the start of ``first_pass`` and through later ones.

        Args:
            first_pass: Number of the pass over the data, from 0.
            batch_size: Over all ranks; must be a multiple of their number.
            steps: Number of batches.
            config: What to do with the images.
            part: ``all`` once the held-out slice is given back to training.
        """
        local_size, rest = divmod(batch_size, self._world_size)
        assert rest == 0, (batch_size, self._world_size)
        dataset = self._source.open(is_training=True, batch_size=local_size, seed=self._seed)
        dataset.set_loader_cfg(num_workers=self._workers)
        train_transform(config, self._settings)  # so that a bad config raises in this process
        num_batches = 0
        for number in count(first_pass):
            before = num_batches
            if num_batches == steps:
                return
            dataset.set_epoch(number)
            augment = _Augment(self._seed, number, config, self._settings)
            stream = _Stream(self._source, dataset, part, augment)
            # Readers also shuffle by the seed of their worker: another one for each pass.
            for batch in self._loader(stream, local_size, self._seed + number, drop_last=True):
                yield batch
                num_batches += 1
                if num_batches == steps:
                    return
            if num_batches == before:
                problem = f"must give each worker at least one batch of {local_size} a pass"
                hint = "use fewer workers or smaller batches"
                raise ConfigError("--dataset", "", problem, hint=hint)

    def eval_batches(
        self,
        img_size: int,
        batch_size: int,
        part: Part = "all",
        limit: int | None = None,
        divided: bool = False,
    ) -> Iterator[Batch]:
        """Yield batches with the evaluation transform, in the reader's order.

        Every rank reads all the data. timm's readers would divide it, but not exactly: tfds
        repeats an image where the ranks' numbers differ, wds cuts or repeats whole shards and
        waits forever where a rank gets none.

        Args:
            img_size: Side of the images, in pixels.
            batch_size: Of this process; the last batch of each worker may be smaller.
            part: ``held_out`` reads all the data and passes on one image in twenty.
            limit: The most images, rounded up to a whole batch.
            divided: Pass on this rank's fraction alone: a hash of its pixels gives each image to
                one rank, so fractions differ in size by chance; the others are only decoded.
        """
        dataset = self._source.open(is_training=False, batch_size=batch_size, seed=self._seed)
        if hasattr(dataset.reader, "dist_num_replicas"):
            dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 0, 1
        dataset.set_loader_cfg(num_workers=self._workers)
        fraction = (self._rank, self._world_size) if divided else (0, 1)
        stream = _Stream(self._source, dataset, part, _Evaluate(img_size, self._settings), fraction)
        batches = self._loader(stream, batch_size, self._seed, drop_last=False)
        yield from islice(batches, None if limit is None else -(-limit // batch_size))

    def _loader(
        self, stream: _Stream, batch_size: int, worker_seed: int, drop_last: bool
    ) -> Iterator[Batch]:
        """Yield batches of the workers in turn, of each until its part of the data is at its end."""
        generator = torch.Generator().manual_seed(worker_seed)
        base = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
        read = _Batches(stream, batch_size, drop_last)
        pool: WorkerPool[None, Batch | tuple[()]] = WorkerPool(
            read, self._workers, self._pin_memory, base
        )
        ended = 0
        try:
            for batch in pool.results(repeat(None)):
                if batch:
                    ended = 0
                    yield batch
                else:
                    ended += 1
                    if ended >= max(1, self._workers):  # all of them, one after another
                        return
        finally:
            pool.close()


@dataclasses.dataclass(frozen=True)
class _Augment:
    seed: int
    pass_number: int
    config: InputConfig
    settings: TransformSettings

    def __call__(self, image: Image.Image, hashed: int) -> Tensor:
        seed_sample(self.seed, self.pass_number, hashed)
        return train_transform(self.config, self.settings)(image)


@dataclasses.dataclass(frozen=True)
class _Evaluate:
    img_size: int
    settings: TransformSettings

    def __call__(self, image: Image.Image, _: int) -> Tensor:
        return eval_transform(self.img_size, self.settings)(image)


class _Batches:
    """The batches of a stream, one a call; nothing after its end."""

    def __init__(self, stream: _Stream, batch_size: int, drop_last: bool) -> None:
        self._stream, self._batch_size, self._drop_last = stream, batch_size, drop_last
        self._images: Iterator[tuple[Tensor, int]] | None = None

    def __call__(self, _: None) -> Batch | tuple[()]:
        if self._images is None:
            self._images = iter(self._stream)
        pairs = list(islice(self._images, self._batch_size))
        if not pairs or (self._drop_last and len(pairs) < self._batch_size):
            return ()
        images, targets = zip(*pairs, strict=True)
        return torch.stack(images), torch.tensor(targets)


class _Stream:
    """The images of one part, transformed."""

    def __init__(
        self,
        source: StreamSource,
        dataset: Any,
        part: Part,
        transform: Callable[[Image.Image, int], Tensor],
        fraction: tuple[int, int] = (0, 1),
    ) -> None:
        self._source, self._dataset = source, dataset
        self._part, self._transform = part, transform
        self._rank, self._world_size = fraction

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        """Yield images, transformed, with the numbers of their classes.

        Raises:
            RunError: The reader fails, or gives something else.
        """
        samples, num_classes = iter(self._dataset), len(self._source.class_names)
        while True:
            try:
                with pillow_limits():  # the reader has Pillow open what it finds
                    sample = next(samples, None)
                if sample is None:
                    return
                image, target = sample[0], int(sample[1])
            except READER_ERRORS as error:
                text = f"a sample cannot be read ({first_line(error)})"
                raise RunError(f"{self._source.name}: {text}") from error
            if not isinstance(image, Image.Image):
                raise RunError(f"{self._source.name}: a sample holds no image, but {brief(image)}")
            if not 0 <= target < num_classes:
                problem = f"must be a class from 0 to {num_classes - 1}"
                raise RunError(f"{self._source.name}: a target {problem}, but is {brief(target)}")
            hashed = pixel_hash(image)
            is_held = hashed % HELD_ONE_IN == 0
            is_mine = hashed % self._world_size == self._rank
            if is_mine and (self._part == "all" or is_held == (self._part == "held_out")):
                yield self._transform(image, hashed), target


def first_line(error: BaseException) -> str:
    """Return what an error of a library says, or else what it is, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# --------------------------------------------------------------------------------------------------
# Checks of web datasets (`wds/…`) before anything of theirs is opened.
#
# webdataset opens a shard by its address, and `pipe:` is one that it gives to a shell, as part of which it
# would take a name such as `0.tar; rm -r .`. Names of shards are what the user writes as the split, or what a
# file beside the shards says; only of the user is an address taken.

_INFO_FILES = ("_info.json", "info.json")

_PLAIN_NAME = re.compile(r"(?!\.)[\w.,+=@ -]+(/(?!\.)[\w.,+=@ -]+)*", re.ASCII)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 10**6


def check_split(split: str) -> None:
    """Check that a split such as ``images-{000..099}.tar`` is no more shards than there may be.

    Raises:
        ConfigError: If it is.
    """
    ends = [(int(low[:18]), int(high[:18])) for low, high in _RANGE.findall(split)]
    count = math.prod(1 + abs(high - low) for low, high in ends)
    if count > _MAX_SHARDS:
        problem = f"must be at most {_MAX_SHARDS:,} shards"
        raise ConfigError("--train-split or --val-split", "", problem, split)


def check_info_files(root: str | None) -> None:
    """Check the files that timm reads beside shards on this machine.

    Raises:
        ConfigError: If one is no regular file, too large, or not a JSON object.
    """
    if _is_here(root):
        for name in _INFO_FILES:
            path = Path(root or "", name)
            if os.path.lexists(path):
                read_object(path)


def check_shards(root: str | None, reader: Any) -> None:
    """Check the shards of a reader of timm's, which has opened none of them so far.

    Raises:
        ConfigError: If a name from a file is more than a name, or a shard is not there.
    """
    where = "--dataset"
    for name in _names_in(getattr(reader, "info", None)):
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            problem = "must name its shards by plain file names in its info file"
            raise ConfigError(where, "", problem, name, "letters, digits and . , + = @ _ - alone")
    if not _is_here(root):
        return
    for name in getattr(getattr(reader, "split_info", None), "filenames", ()):
        path = os.path.join(root or "", str(name))
        if not os.path.isfile(path):  # a pipe would be waited for
            raise ConfigError(where, "", "must have each shard as a file", path)


def _is_here(root: str | None) -> bool:
    return urlparse(root or "").scheme == ""


def _names_in(info: Any) -> Iterator[Any]:
    """Yield the names of shards of all splits.

    Raises:
        ConfigError: If the info has another form.
    """
    splits = info.get("splits", {}) if isinstance(info, Mapping) else {}
    if not isinstance(splits, Mapping):
        raise ConfigError("--dataset", "", f"must have splits by name, but has {brief(splits)}")
    for split in splits.values():
        names = split.get("filenames", ()) if isinstance(split, Mapping) else None
        if not isinstance(names, Sequence) or isinstance(names, str):
            problem = f"must have a list of filenames in each split, but has {brief(names)}"
            raise ConfigError("--dataset", "", problem)
        yield from names
