"""Cells of weights, image size and keep-rate: what a run has trained for, and what its model can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from autoprog.errors import ConfigError
from autoprog.laws import nearest_multiples
from autoprog.presets.tokens import pruning_places
from autoprog.schedule import GrowthSchedule
from autoprog.stage import Sandwich, SandwichSizes, Tokens
from supernet.config import ModelSpec

__all__ = ["Elastic", "check_rate", "check_size", "elastic_of", "tokens_of"]


@dataclass(frozen=True)
class Elastic:
    """How a run dropped tokens, and the sizes and keep-rates of its sandwich steps."""

    tokens: Tokens = field(default_factory=Tokens)
    sandwich: SandwichSizes | None = None


def elastic_of(schedule: GrowthSchedule | None) -> Elastic:
    """Return how the last stage that dropped tokens did it."""
    for stage in reversed(schedule.stages if schedule else ()):
        if isinstance(stage.step, Sandwich):
            return Elastic(stage.tokens, stage.step.sandwich)
        if stage.tokens != Tokens():
            return Elastic(stage.tokens)
    return Elastic()


def tokens_of(
    by: str | None, at_blocks: Sequence[int] | None, spec: ModelSpec, elastic: Elastic
) -> Tokens:
    """Return how tokens are chosen, and where: as in training, unless `by` or `at_blocks` say otherwise.

    Raises:
        ConfigError: If the blocks do not rise.
    """
    trained = elastic.tokens
    chosen = by or trained.by
    usual = pruning_places(spec) if chosen == "class_attention" else (0,)
    places = at_blocks or (trained.at_blocks if chosen == trained.by else usual)
    try:
        return Tokens.model_validate({"by": chosen, "at_blocks": places, "keep_rate": 0.5})
    except ValueError:
        law = "must be rising numbers from 0"
        raise ConfigError("--at-blocks", "", law, list(places)) from None


def check_size(size: int, spec: ModelSpec, flag: str) -> None:
    """Refuse an image size that a model cannot run.

    Raises:
        ConfigError: If the stride does not divide it, or it is above the full size.
    """
    if size % spec.patch_size or size < spec.patch_size:
        low, high = nearest_multiples(size, spec.patch_size)
        law = f"must be a multiple of the stride {spec.patch_size}"
        raise ConfigError(flag, "", law, size, f"nearest are {low} and {high}")
    if size > spec.img_size:
        raise ConfigError(flag, "", f"must be at most the full size {spec.img_size}", size)


def check_rate(rate: float, tokens: Tokens, spec: ModelSpec, flag: str) -> None:
    """Refuse a keep-rate that a model cannot run by this choice of tokens.

    Raises:
        ConfigError: If it is no share, or the model lacks the blocks, the class token or the freedom.
    """
    if not 0 < rate <= 1:
        raise ConfigError(flag, "", "must lie in (0, 1]", rate)
    if rate == 1:
        return
    if spec.needs_grid:
        law = f"must be 1: {spec.name} needs the whole grid of tokens"
        raise ConfigError(flag, "", law, rate)
    if tokens.by == "class_attention" and not spec.class_token:
        law = f"must be magnitude, l2_magnitude or random: {spec.name} has no class token"
        raise ConfigError("--by", "", law, tokens.by)
    if tokens.at_blocks[-1] >= spec.full.total_depth:
        law = f"must be below the depth {spec.full.total_depth}"
        raise ConfigError("--at-blocks", "", law, tokens.at_blocks[-1])
