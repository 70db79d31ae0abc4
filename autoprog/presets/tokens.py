"""Presets that change how many tokens are kept."""

from __future__ import annotations

from typing import Literal

from autoprog.curves import Curriculum, KeepCurve
from autoprog.presets.parts import full_stage, schedule_of
from autoprog.ramps import size_on_grid
from autoprog.schedule import GrowthSchedule
from autoprog.stage import LearningRate, Sandwich, SandwichSizes, Stage, Tokens, depth_value
from supernet.config import ModelSpec

__all__ = ["patch_sampling", "pruning_places", "supervit"]


def patch_sampling(
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
    curve: Literal["cyclic", "linear", "cosine", "fixed"] = "cyclic",
) -> GrowthSchedule:
    """Patch Sampling Schedule: tokens of largest magnitude, 20 to 100 % of them (arXiv 2208.09520).

    The keep-rate goes up and down in each epoch (cyclic), rises over the run (linear, cosine) or stays at
    60 % (fixed), in quanta of 20 %; the last thirtieth trains on all tokens, as the DeiT runs do.
    """
    rate = 0.6 if curve == "fixed" else KeepCurve(curve=curve)
    cooldown = epochs / 30
    sampled = Stage(
        length=epochs - cooldown,
        depth=depth_value(spec.depth),
        img_size=spec.img_size,
        tokens=Tokens(keep_rate=rate),
    )
    cyclic = curve == "cyclic"
    return schedule_of(spec, lr, [sampled, full_stage(spec, cooldown)], monotone=not cyclic)


def supervit(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """SuperViT: one set of weights for many sizes and keep-rates, four subnets a step (arXiv 2205.11397).

    Costs more than plain training, and stays elastic: see ``autoprog evaluate --grid``.
    """
    sizes = sorted({size_on_grid(spec, side / 14) for side in (8, 10, 12)} - {spec.img_size})
    stage = Stage(
        length=epochs,
        depth=depth_value(spec.depth),
        img_size=spec.img_size,
        tokens=Tokens(by="class_attention", at_blocks=pruning_places(spec)),
        step=Sandwich(sandwich=SandwichSizes(sizes=tuple(sizes), keep_rates=(0.5, 0.7))),
    )
    return schedule_of(spec, lr, [stage], end="free")


def pruning_places(spec: ModelSpec) -> tuple[int, ...]:
    """Return the blocks in which SuperViT drops tokens: a quarter, half and three quarters of the way."""
    blocks = sum(spec.depth)
    return tuple(sorted({quarter * blocks // 4 for quarter in (1, 2, 3)}))
