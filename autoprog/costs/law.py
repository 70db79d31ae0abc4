"""Seconds as a sum of physical terms with coefficients that are not negative, fitted on relative error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from autoprog.costs.cells import CostCell
from autoprog.effort import image_macs
from autoprog.stage import Training
from supernet.config import ModelSpec, SubnetConfig
from supernet.tokencount import block_tokens

__all__ = ["SecondsLaw", "data_terms", "fit_law", "step_terms"]

Terms = tuple[float, ...]


@dataclass(frozen=True)
class SecondsLaw:
    """Seconds = sum of coefficient · term."""

    coefficients: Terms

    def seconds(self, terms: Sequence[float]) -> float:
        """Return the seconds of a cell."""
        return sum(c * term for c, term in zip(self.coefficients, terms, strict=True))


def step_terms(spec: ModelSpec, cell: CostCell) -> Terms:
    """Return what the seconds of a step are made of, the most telling first.

    Multiply-accumulates of linear layers, forward and backward; 1 (the program itself); those of attention;
    blocks (launches, and what optimizer and averages do to their weights); pixels (transfer, mixing, stem);
    pixels of images that are cut on the device.
    """
    subnet, images = cell.subnet, cell.batch_size
    attention = _attention_macs(spec, subnet)
    everything = image_macs(spec, subnet, Training(unfrozen=cell.unfrozen))
    full_pixels = spec.img_size**2 * images if cell.shrink_by == "fourier" else 0
    return (
        float(images * max(0, everything - attention)),
        1.0,
        float(images * attention),
        float(subnet.total_depth),
        float(images * subnet.img_size**2),
        float(full_pixels),
    )


def data_terms(num_images: int, img_size: int) -> Terms:
    """Return what the seconds of making a batch are made of: images (to read, to decode), pixels, and 1."""
    return float(num_images), float(num_images * img_size**2), 1.0


def fit_law(rows: Sequence[Terms], seconds: Sequence[float]) -> SecondsLaw:
    """Return the law that fits the terms (rows) of some cells best, by relative error.

    With few cells only the first terms are used, so that all of the fit does not go into the noise: one a
    cell up to two cells, then one less than there are cells.
    """
    terms, wanted = np.array(rows), np.array(seconds)
    assert len(terms) > 0, "a law of nothing"
    told = [column for column in range(terms.shape[1]) if terms[:, column].any()]
    used = told[: len(terms) if len(terms) <= 2 else len(terms) - 1]
    relative = terms[:, used] / wanted[:, None]
    scale = relative.max(axis=0)
    found, _ = nnls(relative / scale, np.ones(len(wanted)))
    coefficients = np.zeros(terms.shape[1])
    coefficients[used] = found / scale
    return SecondsLaw(tuple(coefficients.tolist()))


def _attention_macs(spec: ModelSpec, subnet: SubnetConfig) -> int:
    """Return the multiply-accumulates between all tokens for one image, forward and backward.

    Only the last stage has such attention; an outlooker's window costs as much at every place.
    """
    tokens = (subnet.img_size // spec.patch_size) ** 2 + spec.num_prefix_tokens
    counts = block_tokens(tokens, spec.num_prefix_tokens, subnet.depth[-1], subnet.tokens)
    return 3 * sum(2 * count.attention**2 * spec.embed_dim for count in counts)
