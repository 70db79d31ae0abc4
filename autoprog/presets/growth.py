"""Presets that change the network: its depth, or which of its blocks train."""

from __future__ import annotations

from autoprog.curves import Curriculum
from autoprog.presets.parts import full_stage, schedule_of
from autoprog.ramps import linear_ramp, ramped_curriculum, size_divisor, stage_lengths
from autoprog.schedule import GrowthSchedule
from autoprog.stage import Grow, LearningRate, Stage, Unfrozen, depth_value
from supernet.config import ModelSpec

__all__ = ["constant", "late_jump", "linear", "unfreezing"]


def constant(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """The baseline: the full model for the whole run."""
    return schedule_of(spec, lr, [full_stage(spec, epochs)])


def linear(
    spec: ModelSpec,
    epochs: float,
    strength: Curriculum,
    lr: LearningRate = LearningRate(),
    num_stages: int = 4,
    start: float = 0.5,
) -> GrowthSchedule:
    """AutoProg's hand-made ramp of depth, size and regularisation over equal stages (CVPR 2022, "Prog")."""
    divisor = size_divisor(spec)
    sizes = linear_ramp(start, num_stages, spec.img_size, divisor)
    depths = [spec.split(n) for n in linear_ramp(start, num_stages, sum(spec.depth), 1)]
    lengths = stage_lengths(epochs, num_stages)
    stages = [
        Stage(
            length=lengths[index],
            depth=depth_value(depths[index]),
            img_size=min(sizes[index], spec.img_size),
            curriculum=ramped_curriculum(strength, index, num_stages),
        )
        for index in range(num_stages)
    ]
    return schedule_of(spec, lr, stages)


def late_jump(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """Half the depth, then one late jump to all of it while the rate is still high (arXiv 2511.04981).

    The learning rate is held and decays at the end (WSD); the jump comes at 70 % of the run.
    """
    depth = depth_value(spec.split(max(1, sum(spec.depth) // 2)))
    stages = [
        Stage(length=0.7 * epochs, depth=depth, img_size=spec.img_size),
        full_stage(spec, 0.3 * epochs, Grow(op="copy")),
    ]
    return schedule_of(spec, LearningRate(shape="wsd"), stages)


def unfreezing(
    spec: ModelSpec, epochs: float, strength: Curriculum, lr: LearningRate = LearningRate()
) -> GrowthSchedule:
    """For fine-tuning: every fourth block trains, then two, three and all of four (AutoProg-Zero)."""
    lengths = stage_lengths(epochs, 4)
    stages = [
        Stage(
            length=length,
            depth=depth_value(spec.depth),
            img_size=spec.img_size,
            trainable="all" if level == 4 else Unfrozen(every=4, level=level),
        )
        for level, length in enumerate(lengths, 1)
    ]
    return schedule_of(spec, lr, stages)
