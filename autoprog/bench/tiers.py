"""The standing benchmark: verifications that are always the same, by what they need; pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoprog.errors import ConfigError

if TYPE_CHECKING:
    from autoprog.verify.verdict import Plan

__all__ = ["TIERS", "Tier", "arm_seconds", "between_markers", "total_seconds"]


@dataclass(frozen=True)
class Tier:
    """One of them.

    Attributes:
        about: What it is, in a line.
        seeds: Number of pairs, if not more are asked for.
        words: What stands after ``autoprog verify``, without seeds, data and how it is carried out.
        search_words: What stands after ``--``, for the search alone.
        images: What ``--data`` must hold; empty for the embedded digits.
    """

    about: str
    seeds: int
    words: tuple[str, ...]
    search_words: tuple[str, ...] = ()
    images: str = ""


TIERS: Mapping[str, Tier] = {
    "smoke": Tier(
        "the embedded digits, in a minute: does everything work",
        2,
        (
            *("--schedule=linear", "--model=vit-mu", "--epochs=2", "--margin=1.0"),
            *("--controls", "reannealed", "--side-by-side"),
        ),
    ),
    "cpu": Tier(
        "CIFAR-10 on a CPU, a baseline of at most 15 minutes",
        5,
        (
            *("--search", "--model=vit-xs", "--data-fraction=0.025", "--epochs=120"),
            *("--batch-size=64", "--lr=2.5e-4", "--sched=wsd", "--margin=1.0"),
            *("--lengths", "0.45", "--baseline-longer=1.5", "--longer-seeds=1"),
            *("--side-by-side", "--cache"),
        ),
        search_words=("--cost-fraction=0.29",),
        images="CIFAR-10",
    ),
    "gpu": Tier(
        "ImageNet on a GPU, at the margin of a paper",
        10,
        (
            *("--search", "--model=deit-s", "--epochs=100", "--margin=0.3"),
            *("--lengths", "0.33", "--baseline-longer=1.5", "--longer-seeds=1"),
        ),
        images="ImageNet",
    ),
}


def arm_seconds(
    plan: Plan, baseline: float, candidate: float, epochs: Mapping[str, float]
) -> dict[str, float]:
    """Return the predicted seconds of a run of each arm.

    Args:
        plan: What is verified.
        baseline: Seconds of a baseline.
        candidate: Of the candidate at its own length.
        epochs: Of baseline and candidate; of a search by time full epochs that take as long.
    """
    seconds = {"baseline": baseline, "candidate": candidate}
    for arm in plan.others:
        of = "baseline" if arm.role == "longer" else "candidate"
        times = 1.0 if arm.role == "control" else arm.epochs / epochs[of]
        seconds[arm.name] = seconds[of] * times
    return seconds


def total_seconds(plan: Plan, seconds: Mapping[str, float]) -> float:
    """Return the predicted seconds of all seeds, each until the last of its runs ends."""
    orders = (plan.order(number) for number in range(plan.seeds))
    return sum(_until_all_end([seconds[arm] for arm in order], plan.at_once) for order in orders)


def _until_all_end(seconds: Sequence[float], at_once: int) -> float:
    """Return when the last run ends, where the next one starts as soon as fewer than `at_once` go on."""
    ends = [0.0] * at_once
    for run in seconds:
        heapq.heapreplace(ends, ends[0] + run)
    return max(ends)


def between_markers(text: str, name: str, lines: Sequence[str], where: str) -> str:
    """Return a Markdown text with `lines` between the two markers of a tier.

    Raises:
        ConfigError: If a marker is missing or stands twice.
    """
    marks = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    for mark in marks:
        if text.count(mark) != 1:
            raise ConfigError(where, "", f"must hold one line {mark}, but holds {text.count(mark)}")
    before, _, rest = text.partition(marks[0])
    if marks[1] not in rest:
        raise ConfigError(where, "", f"must hold {marks[1]} after {marks[0]}")
    after = rest.partition(marks[1])[2]
    return "\n".join([before + marks[0], *lines, marks[1]]) + after
