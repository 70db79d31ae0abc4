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
    """Patch Sampling Schedule: 20 to 100 % of the tokens, up and down in each epoch (arXiv 2208.09520).

    The keep-rate goes up and down in each epoch (cyclic), rises over the run (linear, cosine) or stays at
    60 % (fixed), in quanta of 20 %. All but fixed train the last thirtieth on all tokens, as the released
    runs of DeiT do; fixed keeps 60 % to the end, as the released fine-tunings of SimMIM do, and is
    evaluated on all tokens like the others.
    The model is trained as it is: the released networks have relative positions, mean pooling and
    initial weights of their own.
    """
    depth, size = depth_value(spec.depth), spec.img_size
    if curve == "fixed":
        whole = Stage(length=epochs, depth=depth, img_size=size, tokens=Tokens(keep_rate=0.6))
        return schedule_of(spec, lr, [whole], end="free")
    cooldown = epochs / 30
    tokens = Tokens(keep_rate=KeepCurve(curve=curve))
    sampled = Stage(length=epochs - cooldown, depth=depth, img_size=size, tokens=tokens)
    return schedule_of(spec, lr, [sampled, full_stage(spec, cooldown)], monotone=curve != "cyclic")


def supervit(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """SuperViT: one set of weights for many sizes and keep-rates, four subnets a step (arXiv 2205.11397).

    Costs more than plain training, and stays elastic: see ``autoprog evaluate --grid``.
    One table of positions is resampled to every size; SuperViT learns a table for each, as does
    ``--pos-embed per-size``.
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
