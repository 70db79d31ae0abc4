"""Schedules with a name: each preset is a few lines that return a :class:`GrowthSchedule`.

The docstring of a preset is what ``autoprog schedules`` says of it; a variant has a sentence of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from autoprog.curves import Curriculum
from autoprog.errors import ConfigError, suggest
from autoprog.presets.growth import constant, late_jump, linear, unfreezing
from autoprog.presets.sizes import (
    efficienttrain,
    progressive_resizing,
    size_curriculum,
    size_curriculum_of_time,
)
from autoprog.presets.tokens import patch_sampling, supervit
from autoprog.schedule import GrowthSchedule
from autoprog.stage import LearningRate
from supernet.config import ModelSpec

__all__ = ["PRESETS", "constant", "linear", "preset", "summary_of"]

Preset = Callable[[ModelSpec, float, Curriculum, LearningRate], GrowthSchedule]

PRESETS: dict[str, Preset] = {
    "constant": constant,
    "linear": linear,
    "size-curriculum": size_curriculum,
    "size-curriculum:exponential": partial(size_curriculum, steps="exponential"),
    "size-curriculum:time": size_curriculum_of_time,
    "patch-sampling": patch_sampling,
    "patch-sampling:linear": partial(patch_sampling, curve="linear"),
    "patch-sampling:cosine": partial(patch_sampling, curve="cosine"),
    "patch-sampling:fixed": partial(patch_sampling, curve="fixed"),
    "efficienttrain": efficienttrain,
    "efficienttrain:fourier": partial(efficienttrain, shrink_by="fourier"),
    "progressive-resizing": progressive_resizing,
    "late-jump": late_jump,
    "unfreezing": unfreezing,
    "supervit": supervit,
}


_VARIANTS = {
    "size-curriculum:exponential": "The sizes of size-curriculum at dates further and further apart: epochs"
    " 2, 4, 8, 12, 20, 36 (arXiv 2211.05187).",
    "patch-sampling:linear": "Patch Sampling Schedule whose share of tokens rises evenly over the run, from"
    " 20 to 100 %.",
    "patch-sampling:cosine": "Patch Sampling Schedule whose share of tokens rises over the run along a"
    " cosine, from 20 to 100 %.",
    "patch-sampling:fixed": "Patch Sampling Schedule's control: 60 % of the tokens from the first step to the"
    " last.",
    "efficienttrain:fourier": "EfficientTrain++ with images cut out of the low frequencies of full-size ones,"
    " as in the paper.",
}
"""What a preset says of itself that shares its function with another."""


def summary_of(name: str) -> str:
    """Return what a preset is, in one sentence."""
    if name in _VARIANTS:
        return _VARIANTS[name]
    made = PRESETS[name]
    assert not isinstance(made, partial), name
    assert made.__doc__ is not None
    return made.__doc__.splitlines()[0]


def preset(
    name: str,
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
) -> GrowthSchedule:
    """Return the preset `name` for a model.

    Args:
        name: One of :data:`PRESETS`.
        spec: The full model.
        epochs: Length of the run.
        strength: The recipe's full regularisation, which presets may ramp.
        lr: The shape of the learning rate.

    Raises:
        ConfigError: If there is no such preset, or it cannot be made for this model.
    """
    if name not in PRESETS:
        raise ConfigError(
            "--schedule", "", "unknown preset or missing file", name, suggest(name, PRESETS)
        )
    return PRESETS[name](spec, epochs, strength, lr)
