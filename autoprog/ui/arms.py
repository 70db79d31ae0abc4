"""All arms of a verification as one table, and what the ones beside its two tell."""

from __future__ import annotations

from typing import Any

from autoprog.proof.pairs import Verification
from autoprog.proof.standings import NEAR_CONVERGENCE_POINTS
from autoprog.ui.tables import Column
from autoprog.ui.units import duration, number, signed

__all__ = ["arm_columns", "other_lines", "reached_text"]

Standing = dict[str, Any]


def arm_columns(verification: Verification) -> list[Column]:
    """Return a row for each arm; empty without other arms, and before the first pair."""
    if verification.verdict is None or not verification.plan.others:
        return []
    arms: list[Standing] = verification.verdict["arms"]

    def column(header: str, cells: list[str], rank: int = 0) -> Column:
        return Column(header, tuple(cells), rank=rank)

    return [
        Column("arm", tuple(arm["arm"] for arm in arms), "left"),
        Column("what it is", tuple(arm["about"] for arm in arms), "left", rank=5),
        *([column("n", [str(arm["seeds"]) for arm in arms])] if _seeds_differ(arms) else []),
        column("image-epochs", [number(arm["image_epochs"]) for arm in arms], rank=4),
        column("top-1 EMA %", [_top1_text(arm["top1_ema"]) for arm in arms]),
        column("difference", [_difference_text(arm) for arm in arms]),
        Column("to the", tuple(arm["against"] or "–" for arm in arms), "left"),
        column("bounds", [_bounds_text(arm) for arm in arms], rank=1),
        column("time", [duration(arm["seconds"]) for arm in arms], rank=2),
        column("× time", [f"{arm['wall']['mean']:.2f}" for arm in arms]),
        column("× MACs", [f"{arm['macs']['mean']:.2f}" for arm in arms], rank=3),
    ]


def reached_text(verdict: dict[str, Any]) -> str:
    """Return the time to the baseline's accuracy in one line."""
    found = verdict["time_to_baseline_accuracy"]
    if found["lengths"] == 1:
        text = f"in {duration(found['seconds'])}, all charged" if found["reached"] else "no"
        return f"the baseline's mean accuracy, by the candidate's: {text}"
    what = f"the baseline's mean accuracy, by the cheapest of {found['lengths']} lengths"
    if not found["reached"]:
        return f"{what}: by none"
    text = f"{what}: {found['arm']} in {duration(found['seconds'])}, all charged, "
    text += f"{found['ratio']:.3f} of the baseline, a speed-up of {1 / found['ratio']:.2f}×"
    if found["lower"] is None:
        return text
    return f"{text}; its lower bound {signed(found['lower'], 2)} allows for the choice"


def other_lines(verification: Verification) -> list[tuple[str, str]]:
    """Return names and texts of what the other arms tell; empty without them."""
    verdict, plan = verification.verdict, verification.plan
    if verdict is None:
        return []
    arms: list[Standing] = verdict["arms"]
    lengths = [arm for arm in arms if arm["role"] == "length"]
    lines = [_longer_line(arm, _seeds_differ(arms)) for arm in arms if arm["role"] == "longer"]
    if lengths:
        text = f"the bounds of its {len(lengths) + 1} lengths hold together, 95 % in all"
        text += f" (Bonferroni, one-sided): each at {lengths[0]['sureness']:.2%}"
        lines.append(("choice", text))
    bounded = [arm for arm in arms if arm["role"] in ("longer", "control")]
    if any(arm["difference"]["lower"] is not None for arm in bounded):
        of = "those of the other arms" if lengths else "those of all arms"
        lines.append(("bounds", f"{of} are one-sided, each at 95 %"))
    if controls := [arm for arm in arms if arm["role"] == "control"]:
        lines.append(("controls", f"cost as much as the candidate by {plan.equal_by}"))
        lines += _best_lines(controls)
    return lines


def _longer_line(arm: Standing, is_of_few: bool) -> tuple[str, str]:
    mean = arm["difference"]["mean"]
    law = f"{NEAR_CONVERGENCE_POINTS:g} points"
    word = f"below {law}: near convergence" if mean < NEAR_CONVERGENCE_POINTS else f"{law} or more"
    cure = "" if mean < NEAR_CONVERGENCE_POINTS else ": train both arms for longer"
    bounds = f" {_bounds_text(arm)}".rstrip(" –")
    few = f" ({arm['seeds']} seed{'s' * (arm['seeds'] > 1)})" if is_of_few else ""
    text = f"the baseline {arm['about']} adds {signed(mean, 2)} points{few}{bounds}, {word}{cure}"
    return "longer", text


def _seeds_differ(arms: list[Standing]) -> bool:
    """Tell whether some arm was trained for fewer seeds; a file of before that was possible does not say."""
    return len({arm.get("seeds") for arm in arms}) > 1


def _best_lines(controls: list[Standing]) -> list[tuple[str, str]]:
    """Return, for each kind of control, its best and how it stands to the candidate."""
    kinds: dict[str, list[Standing]] = {}
    for arm in controls:
        kinds.setdefault(arm["arm"].partition("-")[0], []).append(arm)
    lines = []
    for kind, own in kinds.items():
        best = max(own, key=lambda arm: arm["top1_ema"]["mean"])
        of = f"{best['arm']}, the best of {len(own)} by its mean: " if len(own) > 1 else ""
        text = f"{of}{_difference_text(best)} points to the candidate"
        lines.append((kind, f"{text} {_bounds_text(best)}".rstrip(" –")))
    return lines


def _top1_text(top1: dict[str, Any]) -> str:
    return f"{top1['mean']:.2f}" + ("" if top1["sd"] is None else f" ± {top1['sd']:.2f}")


def _difference_text(arm: Standing) -> str:
    return "–" if arm["difference"] is None else signed(arm["difference"]["mean"], 2)


def _bounds_text(arm: Standing) -> str:
    found = arm["difference"]
    if found is None or found["lower"] is None:
        return "–"
    return f"[{signed(found['lower'], 2)}, {signed(found['upper'], 2)}]"
