"""Stochastic depth whose rate can ramp without recompiling a graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["DropPath"]


class DropPath(nn.Module):
    """Drop a residual branch per image with probability ``drop_prob``, and scale up the kept ones.

    Compiled graphs read the rate from a buffer, so a ramp never recompiles (with a float attribute
    it does, up to the recompile limit, and then falls back to eager silently). Eager code asks the
    float, which needs no device synchronisation, and draws no random number at rate 0. Draws come
    from the global torch generator of the device.
    """

    rate: Tensor
    """The rate on the device; not persistent, so state dicts stay those of plain timm."""

    def __init__(self, drop_prob: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("rate", torch.zeros(()), persistent=False)
        self.set_rate(drop_prob)

    def set_rate(self, drop_prob: float) -> None:
        """Set the probability, in [0, 1)."""
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop-path rate must lie in [0, 1), but got {drop_prob}")
        self.drop_prob = drop_prob
        self.rate.fill_(drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B images, ...) with some images set to 0; ``x`` itself in eval mode."""
        if not self.training:
            return x
        # The order matters: dynamo must not read the float, or it would guard on its value.
        if not torch.compiler.is_compiling() and self.drop_prob == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        kept = torch.rand(shape, device=x.device) >= self.rate
        return x * (kept / (1.0 - self.rate)).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the rate in the module's print-out."""
        return f"drop_prob={self.drop_prob:0.3f}"
