"""Some images of a source, such as a share of the training images or those held out of them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from autoprog.train.data.images import ImageSource, digest_of

__all__ = ["SlicedSource", "whole_of"]


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
