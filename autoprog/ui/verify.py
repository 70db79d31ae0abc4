"""What ``autoprog verify`` shows: a row a pair as they come, then the verdict with everything charged."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from autoprog.console import Console
from autoprog.ui.format import ascii_text, duration, number, signed
from autoprog.ui.tables import Column, markdown_table, plain_table, rich_table
from autoprog.verify.arms import Arm
from autoprog.verify.attempts import ArmEnded, ArmStarted
from autoprog.verify.plan import ARMS, OtherArm, Pair
from autoprog.verify.verdict import NEAR_CONVERGENCE_POINTS
from autoprog.verify.verification import PairEnded, Report, Verification

__all__ = [
    "VerifyView",
    "arm_columns",
    "first_of",
    "markdown_lines",
    "other_lines",
    "reached_text",
    "verdict_lines",
]


# --------------------------------------------------------------------------------------------------
# All arms of a verification as one table, and what the ones beside its two tell.


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
    problem = f"{NEAR_CONVERGENCE_POINTS:g} points"
    word = (
        f"below {problem}: near convergence"
        if mean < NEAR_CONVERGENCE_POINTS
        else f"{problem} or more"
    )
    hint = "" if mean < NEAR_CONVERGENCE_POINTS else ": train both arms for longer"
    bounds = f" {_bounds_text(arm)}".rstrip(" –")
    few = f" ({arm['seeds']} seed{'s' * (arm['seeds'] > 1)})" if is_of_few else ""
    text = f"the baseline {arm['about']} adds {signed(mean, 2)} points{few}{bounds}, {word}{hint}"
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
        if self._shows:
            self._announce()
            if self._console.is_terminal:
                self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the table as it is."""
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
        if not (self._shows and self._console.is_terminal):
            self._print_table(_columns(self.verification))
        if columns := arm_columns(self.verification):
            self._print_table(columns)
        for name, text in verdict_lines(self.verification):
            self._say(name, text)

    def _announce(self) -> None:
        plan = self.verification.plan
        what = "search" if plan.searches else "schedule"
        how = "side by side" if plan.side_by_side else "one after the other, in turn first"
        done = f", {len(self.verification.pairs)} done" if self.verification.pairs else ""
        self._say(
            "verify", f"{what} against constant, {plan.model}, {plan.seeds} pairs{done}; {how}"
        )
        if plan.others:
            texts = [_with_seeds(arm) for arm in plan.others]
            self._say("and", f"for each seed also {', '.join(texts)}")
        self._say("margin", f"{plan.margin:g} points of top-1 (EMA), fixed now; {self._folder}")
        for key, (baseline, candidate) in self.verification.differing.items():
            self._say("differs", f"{key}: baseline {baseline}, candidate {candidate}")

    def _print_table(self, columns: list[Column]) -> None:
        if self._console.is_terminal:
            self._console.print(rich_table(columns, self._console.width))
            return
        for line in plain_table(columns):
            self._console.print(Text(line), soft_wrap=True)

    def _picture(self) -> RenderableType:
        now = time.monotonic()
        running = [
            Text(f"seed {seed} {arm} runs for {duration(now - since)}")
            for (seed, arm), since in self._running.items()
        ]
        return Group(rich_table(_columns(self.verification), self._console.width), *running)

    def _say(self, name: str, text: str) -> None:
        shown = text if self._console.is_terminal else ascii_text(text)
        self._console.print(Text.assemble((f"{name:<10}", "bold"), " ", shown), soft_wrap=True)


def _with_seeds(arm: OtherArm) -> str:
    return arm.name if arm.seeds is None else f"{arm.name} (of the first {arm.seeds})"


def verdict_lines(verification: Verification) -> list[tuple[str, str]]:
    """Return names and texts of everything that follows; empty before the first pair."""
    verdict = verification.verdict
    if verdict is None:
        return []
    lines = [("verdict", _margin_text(verdict))]
    lines += [(_RATIOS[key][0], _ratio_text(verdict, key)) for key in _shown(verification)]
    for arm, seconds in verdict["charged_seconds"].items():
        parts = (f"{name} {duration(seconds[key])}" for key, name in _CHARGES.items())
        lines.append((arm, ", ".join(parts)))
    lines.append(("reached", reached_text(verdict)))
    lines += other_lines(verification)
    if unlike := _unlike(verification):
        lines.append(
            ("unlike", f"runs were made {unlike}: times and accuracies are of several kinds")
        )
    if len(verification.looks) > 1:
        looks = ", ".join(map(str, verification.looks))
        lines.append(("looks", f"seeds were added ({looks}): each bound holds for one look alone"))
    return lines


def _unlike(verification: Verification) -> str:
    """Return where, in which precision and by which versions runs were made, if not all alike."""
    runs = [pair.run(arm) for pair in verification.pairs for arm in (*ARMS, *pair.others)]
    places = sorted({f"{run.device.partition(':')[0]} {run.amp}" for run in runs})
    versions = {tuple(sorted(run.versions.items())) for run in runs}
    told = [f"on {' and '.join(places)}"] if len(places) > 1 else []
    return " ".join([*told, *(["by several versions"] if len(versions) > 1 else [])])


def markdown_lines(verification: Verification) -> list[str]:
    """Return the pairs as a Markdown table, and what follows as a list."""
    lines = markdown_table(_columns(verification))
    if arms := arm_columns(verification):
        lines += ["", *markdown_table(arms)]
    plan = verification.plan
    told = [
        ("margin", f"{plan.margin:g} points, fixed before the first run"),
        *(
            (f"differs: {key}", f"{one} → {two}")
            for key, (one, two) in verification.differing.items()
        ),
        *verdict_lines(verification),
    ]
    return [*lines, "", *(f"- **{name}**: {text}" for name, text in told)]


def _columns(verification: Verification) -> list[Column]:
    """Return a row a pair; seconds have everything charged."""
    pairs, extra = verification.pairs, verification.plan.search_seconds
    walls = [(p.baseline.wall_seconds, p.candidate.wall_seconds + extra) for p in pairs]

    def column(header: str, cells: list[str], rank: int = 0) -> Column:
        return Column(header, tuple(cells), rank=rank)

    return [
        column("seed", [str(pair.seed) for pair in pairs]),
        column("first", [first_of(pair) for pair in pairs], rank=3),
        column("baseline %", [f"{pair.baseline.top1_ema:.2f}" for pair in pairs]),
        column("candidate %", [f"{pair.candidate.top1_ema:.2f}" for pair in pairs]),
        column("difference", [signed(pair.difference, 2) for pair in pairs]),
        column("baseline s", [f"{one:.1f}" for one, _ in walls], rank=2),
        column("candidate s", [f"{two:.1f}" for _, two in walls], rank=1),
        column("ratio", [f"{two / one:.3f}" for one, two in walls]),
    ]


def first_of(pair: Pair) -> Arm:
    """Return which of the two arms of a pair ran first."""
    return next(arm for arm in pair.order if arm in ARMS)


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
    more = verdict["more_seeds"]
    hint = "no number of seeds" if more is None else f"{more} more seed{'s' * (more != 1)}"
    return f"{text}; {hint} would decide at this mean and sd"


def _shown(verification: Verification) -> list[str]:
    amortised = verification.plan.search_seconds > 0
    return [key for key in _RATIOS if amortised or key != "wall_amortised"]


def _ratio_text(verdict: dict[str, Any], key: str) -> str:
    value = verdict["ratios"][key]
    span = "" if value["low"] is None else f" (95 % {value['low']:.3f} to {value['high']:.3f})"
    faster = f", a speed-up of {1 / value['mean']:.2f}×" if key.startswith("wall") else ""
    return f"{_RATIOS[key][1]}: {value['mean']:.3f}{span} of the baseline{faster}"
