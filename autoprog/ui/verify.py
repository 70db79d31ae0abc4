"""What ``autoprog verify`` shows: a row a pair as they come, then the verdict with everything charged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from autoprog.console import Console
from autoprog.ui import section as view_model
from autoprog.ui.format import ascii_text, duration, number, signed
from autoprog.ui.render_rich import view, views
from autoprog.ui.section import Facts, Section, Table, plain_lines
from autoprog.ui.tables import Column
from autoprog.verify.arms import Arm
from autoprog.verify.attempts import ArmEnded, ArmStarted
from autoprog.verify.plan import ARMS, Pair
from autoprog.verify.verdict import NEAR_CONVERGENCE_POINTS
from autoprog.verify.verification import PairEnded, Report, Verification

__all__ = ["VerifyView", "first_of", "markdown_lines", "verdict_lines"]

_RATIOS = {
    "wall": ("wall", "wall-clock with everything charged"),
    "wall_amortised": ("amortised", "wall-clock without the search for the schedule"),
    "image_epochs": ("data", "image-epochs"),
    "macs": ("compute", "training MACs"),
    "peak_memory": ("memory", "peak memory"),
}
_CHARGES = {
    "wall": "mean run",
    "train": "training",
    "supernet": "of it supernets",
    "search": "search",
    "lost": "growth",
    "data_wait": "waiting for data",
    "eval": "evaluation",
    "checkpoints": "checkpoints",
}

ArmValues = dict[str, Any]
"""How an arm came out, as ``verify.json`` has it."""


class VerifyView:
    """Shows reports as they come: a live table on a terminal, else lines; a context manager."""

    def __init__(
        self, console: Console, folder: str, verification: Verification, live: bool = True
    ) -> None:
        self.verification = verification
        self._console, self._folder, self._shows = console, folder, live
        self._running: dict[tuple[int, Arm], float] = {}
        self._live = Live(console=console, get_renderable=self._picture, auto_refresh=True)

    def __enter__(self) -> VerifyView:
        """Say what will be done and begin to show."""
        if not self._shows:
            return self
        plan = self.verification.plan
        what = "search" if plan.searches else "schedule"
        how = "side by side" if plan.side_by_side else "one after the other, each first in turn"
        done = f", {len(self.verification.pairs)} done" if self.verification.pairs else ""
        self._say(
            "verify", f"{what} against constant, {plan.model}, {plan.seeds} pairs{done}; {how}"
        )
        if plan.others:
            texts = [
                arm.name if arm.seeds is None else f"{arm.name} (of the first {arm.seeds})"
                for arm in plan.others
            ]
            self._say("and", f"for each seed also {', '.join(texts)}")
        self._say("margin", f"{plan.margin:g} points of top-1 (EMA), fixed now; {self._folder}")
        for key, (baseline, candidate) in self.verification.differing.items():
            self._say("differs", f"{key}: baseline {baseline}, candidate {candidate}")
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the table as it is."""
        # The picture that stays must not count seconds of runs that have ended.
        self._running.clear()
        self._live.stop()

    def show(self, report: Report) -> None:
        """Take in what has happened and show it."""
        plain = self._shows and not self._console.is_terminal
        match report:
            case ArmStarted(seed, arm, resumed):
                self._running[seed, arm] = time.monotonic()
                if plain:
                    self._say(f"seed {seed}", f"{arm}: {'goes on' if resumed else 'started'}")
            case ArmEnded(seed, arm, result, reused):
                self._running.pop((seed, arm), None)
                if plain:
                    how = " (reused)" if reused else ""
                    seconds = duration(result.wall_seconds)
                    text = f"{arm}: {result.top1_ema:.2f}% in {seconds}{how}"
                    self._say(f"seed {seed}", text)
            case PairEnded(verification):
                self.verification = verification
                if plain and verification.verdict is not None:
                    self._say("so far", _margin_text(verification.verdict))

    def conclude(self) -> None:
        """Print the verdict, and all arms where there are others."""
        sections = [arms_section(self.verification), verdict_section(self.verification)]
        if not self._console.is_terminal:
            sections.insert(0, pairs_section(self.verification))
            for line in plain_lines(sections):
                self._console.print(Text(line), soft_wrap=True)
            return
        if not self._shows:  # else the live table has stayed
            sections.insert(0, pairs_section(self.verification))
        for drawing in views(sections):
            self._console.print(drawing)

    def _picture(self) -> RenderableType:
        now = time.monotonic()
        running = [
            Text(f"seed {seed} {arm} runs for {duration(now - since)}")
            for (seed, arm), since in self._running.items()
        ]
        return Group(view(pairs_section(self.verification)), *running)

    def _say(self, name: str, text: str) -> None:
        shown = text if self._console.is_terminal else ascii_text(text)
        self._console.print(Text.assemble((f"{name:<10}", "bold"), " ", shown), soft_wrap=True)


def markdown_lines(verification: Verification) -> list[str]:
    """Return the pairs as a Markdown table, and what follows as a list."""
    plan = verification.plan
    fixed = [
        ("margin", f"{plan.margin:g} points, fixed before the first run"),
        *(
            (f"differs: {key}", f"{one} → {two}")
            for key, (one, two) in verification.differing.items()
        ),
        *verdict_lines(verification),
    ]
    verdict = Section("verdict", (Facts(tuple(fixed), "list"),))
    sections = [pairs_section(verification), arms_section(verification), verdict]
    return view_model.markdown_lines(sections)


def pairs_section(verification: Verification) -> Section:
    """Return a row for each pair; seconds have everything charged."""
    pairs, extra = verification.pairs, verification.plan.search_seconds
    # The candidate pays for the search that found its schedule, in every pair.
    walls = [(p.baseline.wall_seconds, p.candidate.wall_seconds + extra) for p in pairs]
    columns = [
        Column("seed", tuple(str(pair.seed) for pair in pairs)),
        Column("first", tuple(first_of(pair) for pair in pairs), rank=3),
        Column("baseline %", tuple(f"{pair.baseline.top1_ema:.2f}" for pair in pairs)),
        Column("candidate %", tuple(f"{pair.candidate.top1_ema:.2f}" for pair in pairs)),
        Column("difference", tuple(signed(pair.difference, 2) for pair in pairs)),
        Column("baseline s", tuple(f"{one:.1f}" for one, _ in walls), rank=2),
        Column("candidate s", tuple(f"{two:.1f}" for _, two in walls), rank=1),
        Column("ratio", tuple(f"{two / one:.3f}" for one, two in walls)),
    ]
    return Section("pairs", (Table.of(columns),))


def first_of(pair: Pair) -> Arm:
    """Return which of the two arms of a pair ran first."""
    return next(arm for arm in pair.order if arm in ARMS)


def arms_section(verification: Verification) -> Section:
    """Return a row for each arm; nothing to see without other arms, and before the first pair."""
    if verification.verdict is None or not verification.plan.others:
        return Section("arms")
    arms: list[ArmValues] = verification.verdict["arms"]

    def top1(value: dict[str, Any]) -> str:
        return f"{value['mean']:.2f}" + ("" if value["sd"] is None else f" ± {value['sd']:.2f}")

    columns = [
        Column("arm", tuple(arm["arm"] for arm in arms), "left"),
        Column("what it is", tuple(arm["about"] for arm in arms), "left", rank=5),
        *([Column("n", tuple(str(arm["seeds"]) for arm in arms))] if _seeds_differ(arms) else []),
        Column("image-epochs", tuple(number(arm["image_epochs"]) for arm in arms), rank=4),
        Column("top-1 EMA %", tuple(top1(arm["top1_ema"]) for arm in arms)),
        Column("difference", tuple(map(_difference_text, arms))),
        Column("to the", tuple(arm["against"] or "–" for arm in arms), "left"),
        Column("bounds", tuple(map(_bounds_text, arms)), rank=1),
        Column("time", tuple(duration(arm["seconds"]) for arm in arms), rank=2),
        Column("× time", tuple(f"{arm['wall']['mean']:.2f}" for arm in arms)),
        Column("× MACs", tuple(f"{arm['macs']['mean']:.2f}" for arm in arms), rank=3),
    ]
    return Section("arms", (Table.of(columns),))


def verdict_section(verification: Verification) -> Section:
    """Return the verdict and everything that follows; nothing to see before the first pair."""
    found = tuple(verdict_lines(verification))
    return Section("verdict", (Facts(found, "list"),) if found else ())


def verdict_lines(verification: Verification) -> list[tuple[str, str]]:
    """Return names and texts of the verdict and everything that follows; empty before the first pair."""
    verdict = verification.verdict
    if verdict is None:
        return []
    lines = [("verdict", _margin_text(verdict))]
    # Without a search of its own both ratios would be the same.
    amortised = verification.plan.search_seconds > 0
    for key, (name, what) in _RATIOS.items():
        if key == "wall_amortised" and not amortised:
            continue
        value = verdict["ratios"][key]
        span = "" if value["low"] is None else f" (95 % {value['low']:.3f} to {value['high']:.3f})"
        faster = f", a speed-up of {1 / value['mean']:.2f}×" if key.startswith("wall") else ""
        lines.append((name, f"{what}: {value['mean']:.3f}{span} of the baseline{faster}"))
    for arm, seconds in verdict["charged_seconds"].items():
        parts = (f"{name} {duration(seconds[key])}" for key, name in _CHARGES.items())
        lines.append((arm, ", ".join(parts)))
    lines.append(("reached", _reached_text(verdict)))
    lines += _other_lines(verification, verdict["arms"])
    # Where, in which precision and by which versions runs were made, if not all alike.
    runs = [pair.run(arm) for pair in verification.pairs for arm in (*ARMS, *pair.others)]
    # Seconds of two machines, or accuracies of two precisions, are no pairs.
    places = sorted({f"{run.device.partition(':')[0]} {run.amp}" for run in runs})
    versions = {tuple(sorted(run.versions.items())) for run in runs}
    unlike = [f"on {' and '.join(places)}"] if len(places) > 1 else []
    unlike += ["by several versions"] if len(versions) > 1 else []
    if unlike:
        made = " ".join(unlike)
        lines.append(
            ("unlike", f"runs were made {made}: times and accuracies are of several kinds")
        )
    if len(verification.looks) > 1:
        looks = ", ".join(map(str, verification.looks))
        lines.append(("looks", f"seeds were added ({looks}): each bound holds for one look alone"))
    return lines


def _margin_text(verdict: dict[str, Any]) -> str:
    """Return the verdict on accuracy in one line."""
    if verdict["sd"] is None:
        return f"undecided: {signed(verdict['mean'], 2)} points of one pair; bounds need two"
    text = (
        f"{verdict['outcome']}: {signed(verdict['mean'], 2)} points (sd {verdict['sd']:.2f}),"
        f" one-sided 95 % bounds {signed(verdict['lower'], 2)} and {signed(verdict['upper'], 2)},"
        f" margin {verdict['margin']:g}"
    )
    if verdict["outcome"] != "undecided":
        return text
    # No number of seeds helps where the mean itself lies on the margin.
    more = verdict["more_seeds"]
    hint = "no number of seeds" if more is None else f"{more} more seed{'s' * (more != 1)}"
    return f"{text}; {hint} would decide at this mean and sd"


def _reached_text(verdict: dict[str, Any]) -> str:
    """Return the time to the baseline's accuracy in one line."""
    found = verdict["time_to_baseline_accuracy"]
    # The cheapest of several lengths is chosen after the fact, so its bound has to allow for that.
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


def _other_lines(verification: Verification, arms: list[ArmValues]) -> list[tuple[str, str]]:
    """Return names and texts of what the arms beside the two say."""
    lines = []
    for arm in (arm for arm in arms if arm["role"] == "longer"):
        mean, problem = arm["difference"]["mean"], f"{NEAR_CONVERGENCE_POINTS:g} points"
        outcome = f"{problem} or more: train both arms for longer"
        if mean < NEAR_CONVERGENCE_POINTS:
            outcome = f"below {problem}: near convergence"
        bounds = f" {_bounds_text(arm)}".rstrip(" –")
        few = f" ({arm['seeds']} seed{'s' * (arm['seeds'] > 1)})" if _seeds_differ(arms) else ""
        text = f"the baseline {arm['about']} adds {signed(mean, 2)} points{few}{bounds}, {outcome}"
        lines.append(("longer", text))
    lengths = [arm for arm in arms if arm["role"] == "length"]
    if lengths:
        text = f"the bounds of its {len(lengths) + 1} lengths hold together, 95 % in all"
        text += f" (Bonferroni, one-sided): each at {lengths[0]['sureness']:.2%}"
        lines.append(("choice", text))
    bounded = [arm for arm in arms if arm["role"] in ("longer", "control")]
    if any(arm["difference"]["lower"] is not None for arm in bounded):
        of = "those of the other arms" if lengths else "those of all arms"
        lines.append(("bounds", f"{of} are one-sided, each at 95 %"))
    controls = [arm for arm in arms if arm["role"] == "control"]
    if controls:
        equal = verification.plan.equal_by
        lines.append(("controls", f"cost as much as the candidate by {equal}"))
    kinds: dict[str, list[ArmValues]] = {}
    for arm in controls:
        kinds.setdefault(arm["arm"].partition("-")[0], []).append(arm)
    for kind, own in kinds.items():
        best = max(own, key=lambda arm: arm["top1_ema"]["mean"])
        of = f"{best['arm']}, the best of {len(own)} by its mean: " if len(own) > 1 else ""
        text = f"{of}{_difference_text(best)} points to the candidate"
        lines.append((kind, f"{text} {_bounds_text(best)}".rstrip(" –")))
    return lines


def _seeds_differ(arms: Sequence[ArmValues]) -> bool:
    """Return whether some arm was trained for fewer seeds; files of earlier versions do not say."""
    return len({arm.get("seeds") for arm in arms}) > 1


def _difference_text(arm: ArmValues) -> str:
    return "–" if arm["difference"] is None else signed(arm["difference"]["mean"], 2)


def _bounds_text(arm: ArmValues) -> str:
    found = arm["difference"]
    if found is None or found["lower"] is None:
        return "–"
    return f"[{signed(found['lower'], 2)}, {signed(found['upper'], 2)}]"
