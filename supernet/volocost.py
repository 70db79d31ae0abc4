"""What a VOLO costs: analytic multiply-accumulates and parameters of every part.

Legend: N cells of the transformers' grid; the outlookers' grid has 4 N, the stem's convolutions run on the
images at half their size.
"""

from __future__ import annotations

from collections.abc import Sequence

from supernet.config import ModelSpec, Outlook, SubnetConfig, as_depth

__all__ = ["volo_macs", "volo_parameters"]

_WINDOW = 9
"""Cells that an outlooker attends to around each cell."""


def volo_macs(spec: ModelSpec, outlook: Outlook, subnet: SubnetConfig, num_classes: int) -> int:
    """Count the multiply-accumulates of one image's forward pass, without norms and activations."""
    width, cells = spec.embed_dim, (subnet.img_size // spec.patch_size) ** 2
    outlookers, transformers = subnet.depth
    weights = 4 * width**2 + _feed_forward(spec, width)
    transformer = cells * weights + 2 * cells**2 * width
    class_block = 2 * (cells + 1) * (width**2 + width) + 2 * width**2 + _feed_forward(spec, width)
    convolutions = (subnet.img_size // 2) ** 2 * _convolutions(spec, outlook)
    embedding = 4 * cells * _embedding(spec, outlook)
    downsampling = cells * 4 * outlook.embed_dim * width
    return (
        convolutions
        + embedding
        + outlookers * cells * _outlooker_macs_of_cell(spec, outlook)
        + downsampling
        + transformers * transformer
        + outlook.class_blocks * class_block
        + (cells + 1) * width * num_classes  # the class head, and the auxiliary one on every cell
    )


def volo_parameters(
    spec: ModelSpec, outlook: Outlook, depth: int | Sequence[int], num_classes: int
) -> int:
    """Count the parameters of a VOLO of ``depth`` at the full image size."""
    width, inner = spec.embed_dim, outlook.embed_dim
    outlookers, transformers = as_depth(depth)
    window_logits = _WINDOW**2 * outlook.num_heads
    outlooker = 2 * inner**2 + (inner + 1) * window_logits + _shared_by_blocks(spec, inner)
    transformer = 4 * width**2 + _shared_by_blocks(spec, width)
    stem = _convolutions(spec, outlook) + 6 * outlook.stem_dim + _embedding(spec, outlook) + inner
    positions = (spec.img_size // spec.patch_size) ** 2 * width
    return (
        stem
        + outlookers * outlooker
        + (4 * inner + 1) * width  # downsampling
        + positions
        + (transformers + outlook.class_blocks) * transformer
        + 3 * width  # class token and last norm
        + 2 * (width + 1) * num_classes
    )


def _outlooker_macs_of_cell(spec: ModelSpec, outlook: Outlook) -> int:
    """Count an outlooker's multiply-accumulates for one cell of the transformers' grid, four of its own.

    Values, output and feed-forward run on each of the four; window logits and weighted sums once for all,
    since outlookers attend at every second cell of a row and a column.
    """
    width = outlook.embed_dim
    dense = 2 * width**2 + _feed_forward(spec, width)
    return 4 * dense + _WINDOW**2 * width * (outlook.num_heads + 1)


def _convolutions(spec: ModelSpec, outlook: Outlook) -> int:
    """Count the weights of the stem's convolutions: one of 7x7 on the image, two of 3x3."""
    return 49 * spec.in_chans * outlook.stem_dim + 2 * 9 * outlook.stem_dim**2


def _embedding(spec: ModelSpec, outlook: Outlook) -> int:
    """Count the weights of the patch embedding, which covers a quarter of the stride at the stem's size."""
    return (spec.patch_size // 4) ** 2 * outlook.stem_dim * outlook.embed_dim


def _feed_forward(spec: ModelSpec, width: int) -> int:
    return 2 * round(spec.mlp_ratio * width) * width


def _shared_by_blocks(spec: ModelSpec, width: int) -> int:
    """Count two norms, the bias of the output projection, and the feed-forward with its biases."""
    return 4 * width + width + _feed_forward(spec, width) + round(spec.mlp_ratio * width) + width
