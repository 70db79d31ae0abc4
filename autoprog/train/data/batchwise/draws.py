"""Random numbers for many samples at once: a hash of (seed, pass, index, slot), with no state.

A sample's numbers depend on nothing else, so a batch may be drawn together, apart or in any order.
The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), chained over the parts of the key.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["Draws"]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_TO_DOUBLE, _DROPPED_BITS = 2.0**-53, np.uint64(11)


class Draws:
    """The random numbers of B samples.

    Args:
        keys: uint64, B.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self.keys = keys

    @classmethod
    def of(cls, seed: int, passes: np.ndarray, indices: np.ndarray) -> Draws:
        """Return the draws of samples.

        Args:
            seed: Of the run, at least 0.
            passes: Number of the pass of each sample, int64.
            indices: Number of the image of each sample, int64.
        """
        key = np.array([seed % 2**64], dtype=np.uint64)
        for part in (passes, indices):
            key = _mix(key + _STEP) + part.astype(np.uint64)
        return cls(_mix(key + _STEP))

    def __getitem__(self, rows: np.ndarray) -> Draws:
        """Return the draws of some of the samples."""
        return Draws(self.keys[rows])

    def uniform(self, slots: Sequence[int]) -> np.ndarray:
        """Return numbers in [0, 1), float64 B x len(slots); the same for the same slot."""
        counters = (np.array(slots, dtype=np.uint64) + np.uint64(1)) * _STEP
        bits = _mix(self.keys[:, None] + counters) >> _DROPPED_BITS
        return bits * _TO_DOUBLE


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> _SHIFT_1)) * _MIX_1
    values = (values ^ (values >> _SHIFT_2)) * _MIX_2
    return values ^ (values >> _SHIFT_3)
