"""The stream of training samples: a pure function of a seed, addressed by sample number.

Sample number q, counted from 0 over the run, belongs to pass q // n over the n training images
and is number q % n of that pass's permutation. Nothing is dropped; a batch may straddle two passes.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch

from autoprog.data.transforms import InputConfig

__all__ = ["Sample", "SampleStream", "plan_batches", "sample_seeds", "seed_sample"]

Sample: TypeAlias = tuple[int, InputConfig, int]
"""(index of the image, what to do with it, pass number)."""


@lru_cache(maxsize=4)
def _permutation(seed: int, pass_number: int, count: int) -> np.ndarray:
    sequence = np.random.SeedSequence((seed, pass_number))
    # RandomState, because numpy promises that its stream never changes between versions.
    order = np.random.RandomState(np.random.MT19937(sequence)).permutation(count)
    order.setflags(write=False)
    return order


class SampleStream:
    """The endless sequence of training images.

    Args:
        indices: The images of a pass, int64.
        seed: At least 0; same seed and indices, same stream.
    """

    def __init__(self, indices: np.ndarray, seed: int) -> None:
        assert len(indices) > 0, "a stream of no images"
        self._indices, self._seed = indices, seed

    def passes(self, q_start: int, count: int) -> np.ndarray:
        """Return the pass numbers of samples ``q_start`` to ``q_start + count``, int64."""
        return np.arange(q_start, q_start + count, dtype=np.int64) // len(self._indices)

    def index(self, q_start: int, count: int) -> np.ndarray:
        """Return the image indices of samples ``q_start`` to ``q_start + count``, int64."""
        size, q_stop = len(self._indices), q_start + count
        parts = [
            _permutation(self._seed, number, size)[
                max(q_start - number * size, 0) : q_stop - number * size
            ]
            for number in range(q_start // size, -(-q_stop // size))
        ]
        return self._indices[np.concatenate(parts)] if parts else self._indices[:0]


def plan_batches(
    stream: SampleStream,
    first_sample: int,
    batch_size: int,
    steps: int,
    config_at: Callable[[int], InputConfig],
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[Sample]]:
    """Yield the samples of ``rank``'s contiguous fraction of each of ``steps`` batches.

    Args:
        stream: Where the samples come from.
        first_sample: Number of the first sample of the first batch.
        batch_size: Over all ranks.
        steps: Number of batches.
        config_at: The config of batch k of this call, k from 0.
        rank: Of this process.
        world_size: Number of processes.
    """
    start, stop = rank * batch_size // world_size, (rank + 1) * batch_size // world_size
    for step in range(steps):
        q_start = first_sample + step * batch_size + start
        config = config_at(step)
        indices = stream.index(q_start, stop - start).tolist()
        draws = stream.passes(q_start, stop - start).tolist()
        yield [(index, config, draw) for index, draw in zip(indices, draws, strict=True)]


def sample_seeds(seed: int, draw: int, index: int) -> tuple[int, int, int]:
    """Return seeds for ``random``, numpy and torch (64, 32 and 63 bits), by a stable hash."""
    digest = hashlib.blake2b(struct.pack("<Qqq", seed, draw, index), digest_size=20).digest()
    for_random, for_torch, for_numpy = struct.unpack("<QQI", digest)
    return for_random, for_numpy, for_torch >> 1


def seed_sample(seed: int, draw: int, index: int) -> None:
    """Seed the global CPU generators of ``random``, numpy and torch for one sample.

    Measured: 8 us. The generators of accelerators are left alone.
    """
    for_random, for_numpy, for_torch = sample_seeds(seed, draw, index)
    random.seed(for_random)
    np.random.seed(for_numpy)
    torch.default_generator.manual_seed(for_torch)
