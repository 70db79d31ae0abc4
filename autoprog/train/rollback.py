"""Going back to the last checkpoint after a loss that was not finite, and on at half the learning rate."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MOST_ROLLBACKS", "Rollbacks"]

MOST_ROLLBACKS = 3
"""In one process; after that it is not bad luck."""


@dataclass
class Rollbacks:
    """How often a run was rolled back, over all its attempts; checkpoints keep the count."""

    count: int = 0

    @property
    def lr_scale(self) -> float:
        """Return what multiplies the learning rate."""
        return 0.5**self.count
