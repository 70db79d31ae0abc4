"""Does training still teach what holds for images that it does not see? Pure."""

from __future__ import annotations

from autoprog.decisions import DecisionInputs

__all__ = ["LEAST_SHARE", "generalised_share"]

LEAST_SHARE = 1.0
"""Below it training gains more than held-out images show: regularisation is of full strength from then on.

Augmented images are harder than held-out ones as they are, so what is learnt shows more on these. Measured
with `vit-xs` on CIFAR-10, regularisation ramped: 1.2 after some 40 passes over 2,375 images, where full
strength from the start gains nothing; 0.4 to 0.5 after some 90 over 1,250, where it gains 2 points. After 11
passes over 9,500 images full strength costs 3 points; there the held-out loss was read after the supernet
phase, which makes it worse, and the share was 1.3 and 1.4.
"""

_LEAST_GAIN = 0.05
"""Of training loss, in nats: below it a share would be noise."""


def generalised_share(inputs: DecisionInputs) -> float | None:
    """Return the fall of the held-out loss over that of the training loss, since the decision before.

    None if another subnet trained then, or if training has not gained enough since to tell.
    """
    before, now = inputs.shown_before, inputs.shown
    if before is None or now is None or before.subnet != now.subnet:
        return None
    gain = before.training - now.training
    return (before.held_out - now.held_out) / gain if gain >= _LEAST_GAIN else None
