"""The embedded data set: scikit-learn's 1,797 scans of handwritten digits, with no download."""

from __future__ import annotations

import numpy as np
from PIL import Image

from autoprog.train.data.holdout import stratified_split

__all__ = ["DIGITS_PX", "DigitsSource", "open_digits"]

DIGITS_PX = 32
"""The side that the 8 px scans are enlarged to."""

_NUM_VAL, _SPLIT_SEED = 360, 0


class DigitsSource:
    """Digits in memory as 32 px RGB images.

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
        self._images = np.stack([_enlarge(scan) for scan in scans])

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
    train, val = stratified_split(bunch.target, _SPLIT_SEED, _NUM_VAL)
    return (
        DigitsSource(bunch.images[train], bunch.target[train]),
        DigitsSource(bunch.images[val], bunch.target[val]),
    )


def _enlarge(scan: np.ndarray) -> np.ndarray:
    grey = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    return np.asarray(grey.resize((DIGITS_PX, DIGITS_PX), Image.Resampling.BICUBIC))
