"""What is shown of a search: decisions, trials, workers, measured costs, and how far to trust estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence

from autoprog.decisions import Candidate, Continuation, Decision, Importance
from autoprog.events import SubnetTrained, TrialFinished, encode
from autoprog.fidelity_report import Agreement, FidelityReport
from autoprog.pareto import pareto_front
from autoprog.processes import WorkerSeen
from autoprog.runs import Run
from autoprog.stage import Training, relative_step_cost
from autoprog.ui.format import (
    MARK_WINNER,
    SKY,
    count,
    depth_text,
    duration,
    loss_text,
    milliseconds,
    number,
    per_cent,
    signed,
    subnet_text,
)
from autoprog.ui.section import (
    Bars,
    Chart,
    HeatMap,
    Line,
    Part,
    Section,
    Series,
    Span,
    Table,
    lines,
)
from autoprog.ui.tables import Column

__all__ = [
    "continuation_text",
    "continuations_section",
    "costs_section",
    "decision_columns",
    "decision_section",
    "decision_summary",
    "decisions_section",
    "fidelity_columns",
    "fidelity_lines",
    "fidelity_section",
    "front_parts",
    "front_section",
    "heat_map",
    "importances_section",
    "ranked",
    "runner_up_text",
    "then_text",
    "training_text",
    "trial_text",
    "trials_section",
    "workers_section",
]

_FRONT_ROWS = 5  # of the chart of a front
_MAX_FRONT_ROWS = 8  # of its table on a terminal
_MAX_TRIAL_ROWS = 16
_MAX_PARAMETERS = 8


# Why a decision was taken: the candidates with all that their scores are made of.


def decisions_section(decisions: Sequence[Decision]) -> Section:
    """Return all decisions, a section each."""
    return Section(
        "decisions",
        tuple(map(decision_section, decisions)),
        "Decisions",
        values=lambda: {"decisions": [one.model_dump(mode="json") for one in decisions]},
    )


def decision_section(decision: Decision) -> Section:
    """Return a decision: heading, candidates, what was decided and is to follow, reason and front."""
    # alpha weighs seconds against loss; where time is given there is nothing to weigh.
    is_priced = decision.candidates and decision.length is None
    alpha = f" · alpha {number(decision.alpha)}" if is_priced else ""
    parts: list[Part] = [
        Line(
            f"step {count(decision.step)} · rule {decision.rule}{alpha}"
            f" · from {subnet_text(decision.current)}",
            "dim",
        )
    ]
    if decision.candidates:
        chosen = next(k for k, row in enumerate(ranked(decision)) if row is decision.chosen)
        parts.append(Table.of(decision_columns(decision), [chosen], beside=heat_map(decision)))
    parts.append(Line(decision_summary(decision), "strong", label="decided"))
    parts += lines(then_text(decision))
    if decision.reason:
        parts.append(Line(decision.reason, label="reason"))
    parts += [*lines(runner_up_text(decision)), *front_parts(decision)]
    title = f"Decision {decision.index} at epoch {number(decision.epoch)}"
    return Section("decision", tuple(parts), title)


def decision_summary(decision: Decision) -> str:
    """Return what was decided, in one line."""
    stays = decision.subnet == decision.current
    return f"{'stay at' if stays else 'grow to'} {subnet_text(decision.subnet)}"


def ranked(decision: Decision) -> list[Candidate]:
    """Return the candidates by score, best first."""
    return sorted(decision.candidates, key=lambda candidate: candidate.score)


def decision_columns(decision: Decision) -> list[Column]:
    """Return the table of candidates, best first, with the winner marked."""
    rows = ranked(decision)

    def difference(row: Candidate) -> str:
        if row.subnet == decision.current:
            return "stay"
        return f"{signed(row.difference)} ±{row.difference_se:.4f}"

    return [
        Column(" ", tuple(MARK_WINNER if row is decision.chosen else " " for row in rows), "left"),
        Column("rank", tuple(str(place) for place in range(1, len(rows) + 1)), rank=3),
        Column("candidate", tuple(row.label for row in rows), "left", rank=5),
        Column("depth", tuple(depth_text(row.subnet) for row in rows)),
        Column("px", tuple(str(row.subnet.img_size) for row in rows)),
        Column("loss", tuple(f"{row.loss:.4f}" for row in rows)),
        Column("vs stay", tuple(map(difference, rows)), rank=2),
        Column("ms/step", tuple(milliseconds(row.step_seconds) for row in rows), rank=6),
        Column("end loss", tuple(f"{row.predicted_loss:.4f}" for row in rows)),
        Column("left", tuple(duration(row.remaining_seconds) for row in rows), rank=4),
        Column("score", tuple(f"{row.score:.4f}" for row in rows)),
    ]


def runner_up_text(decision: Decision) -> str:
    """Return the best candidate that lost and by how much; empty when there was no other."""
    if len(decision.candidates) < 2:
        return ""
    chosen = decision.chosen
    second = next(row for row in ranked(decision) if row is not chosen)
    margin = "" if chosen.score == 0 else f" ({100 * (second.score / chosen.score - 1):+.2f} %)"
    name = f"{second.label} ({subnet_text(second.subnet)})"
    return f"runner-up: {name}, score {second.score:.4f}{margin}"


def heat_map(decision: Decision) -> HeatMap | None:
    """Return scores over depth and image size; None unless both axes vary.

    Of candidates that differ in their keep-rates alone, the best is shown.
    """
    # In a dict the last one of a key stays, so the best comes last.
    best_last = reversed(ranked(decision))
    scores = {(row.subnet.depth, row.subnet.img_size): row.score for row in best_last}
    depths = sorted({depth for depth, _ in scores})
    sizes = sorted({size for _, size in scores})
    if len(depths) < 2 or len(sizes) < 2:
        return None
    chosen = decision.chosen.subnet
    return HeatMap(
        rows=tuple(f"d{'+'.join(map(str, depth))}" for depth in depths),
        columns=tuple(f"{size} px" for size in sizes),
        scores={
            (depths.index(depth), sizes.index(size)): score
            for (depth, size), score in scores.items()
        },
        chosen=(depths.index(chosen.depth), sizes.index(chosen.img_size)),
    )


# Continuations to the end of a run: the one that was chosen, and those that none beats.


def then_text(decision: Decision) -> str:
    """Return what is to follow the subnet that was decided for; empty where nothing does."""
    later = _from_text(decision, decision.continuation[1:])
    return f"then {later}" if later else ""


def continuation_text(decision: Decision) -> str:
    """Return the subnet that was decided for and what is to follow it."""
    return ", ".join(filter(None, (str(decision.subnet), then_text(decision))))


def _from_text(decision: Decision, continuation: Continuation) -> str:
    """Return subnets and from where on each trains: an epoch, or a fraction of the time."""
    # A run bounded by time has no epochs that could be known before its end.
    if decision.length is not None:
        return ", ".join(
            f"{subnet} from {step / decision.length:.0%} of the time"
            for step, subnet in continuation
        )
    epochs = decision.epoch / max(1, decision.step)
    return ", ".join(
        f"{subnet} from epoch {number(step * epochs)}" for step, subnet in continuation
    )


def front_parts(decision: Decision) -> list[Part]:
    """Return the Pareto front of a decision as a chart and a table; no chart of less than three points.

    On a terminal the table is left out where scores have decided, which stand above it.
    """
    front = decision.front
    if not front:
        return []
    is_chosen = [point.continuation == decision.continuation for point in front]
    marks = tuple(MARK_WINNER if chosen else " " for chosen in is_chosen)
    texts = (
        ", ".join(filter(None, (str(first), _from_text(decision, point.continuation[1:]))))
        for point in front
        for _, first in point.continuation[:1]
    )
    columns = [
        Column(" ", marks, "left"),
        Column("left", tuple(duration(point.remaining_seconds) for point in front)),
        Column("end loss", tuple(f"{point.predicted_loss:.4f}" for point in front)),
        Column("continuation", tuple(texts), "left"),
    ]
    # Two points are a choice that the table of candidates shows already.
    is_drawn = len(front) >= 3 and decision.rule != "rollout"
    table = Table.of(
        columns,
        [row for row, chosen in enumerate(is_chosen) if chosen],
        caption="continuations that none beats",
        max_drawn=_MAX_FRONT_ROWS if is_drawn else 0,
    )
    if len(front) < 3:
        return [table]
    points = tuple((point.remaining_seconds, point.predicted_loss) for point in front)
    left, right = points[0][0], points[-1][0]
    chart = Chart(
        (Series("end loss over time left, on the front", points, SKY, line=False),),
        Span.seconds(left, right, "time left"),
        marks=tuple(x for (x, _), chosen in zip(points, is_chosen, strict=True) if chosen),
        mark_name="chosen",
        rows=_FRONT_ROWS,
    )
    return [chart, table]


def front_section(decision: Decision) -> Section:
    """Return the front of a decision alone; nothing to see below three points."""
    title = f"Front · decision {decision.index} · epoch {number(decision.epoch)}"
    return Section("front", tuple(front_parts(decision)) if len(decision.front) > 2 else (), title)


def continuations_section(decision: Decision) -> Section:
    """Return the continuations that were weighed, one for each candidate, best first, and their front."""
    rows = ranked(decision)
    texts = tuple(
        ", ".join(filter(None, (str(row.subnet), _from_text(decision, row.continuation[1:]))))
        for row in rows
    )
    columns = [
        Column(" ", tuple(MARK_WINNER if r is decision.chosen else " " for r in rows), "left"),
        Column("end loss", tuple(f"{row.predicted_loss:.4f}" for row in rows)),
        Column("left", tuple(duration(row.remaining_seconds) for row in rows)),
        Column("score", tuple(f"{row.score:.4f}" for row in rows), rank=1),
        Column("ms/step", tuple(milliseconds(row.step_seconds) for row in rows), rank=2),
        Column("continuation", texts, "left"),
    ]
    chosen = [row for row, mark in enumerate(columns[0].cells) if mark == MARK_WINNER]
    title = f"Decision {decision.index} · epoch {number(decision.epoch)} · continuations weighed"
    front = front_parts(decision) if len(decision.front) > 2 else []
    return Section("continuations", (Table.of(columns, chosen, wraps=True), *front), title)


# How far the estimates of a decision can be trusted: each subnet's estimate beside its real trainings.


def fidelity_section(fidelity: FidelityReport | None) -> Section:
    """Return the subnets by real loss, and how well the estimates put them into that order."""
    if fidelity is None:
        return Section("fidelity", values=lambda: {"fidelity": None})
    first, *rest = fidelity_lines(fidelity)
    return Section(
        "fidelity",
        (Line(first, "dim"), Table.of(fidelity_columns(fidelity)), *lines(*rest)),
        f"Fidelity · decision {fidelity.decision}",
        values=lambda: {"fidelity": fidelity.model_dump(mode="json", by_alias=True)},
    )


def fidelity_columns(fidelity: FidelityReport) -> list[Column]:
    """Return the table of subnets, lowest real loss first, and last what diverged."""
    rows = sorted(fidelity.subnets, key=lambda row: math.inf if row.loss is None else row.loss)
    by_estimate = sorted(rows, key=lambda row: row.estimate)
    tokens = {str(row.subnet.tokens) for row in rows}
    return [
        Column("rank", tuple(str(place) for place in range(1, len(rows) + 1))),
        Column("estimated", tuple(str(by_estimate.index(row) + 1) for row in rows)),
        Column("depth", tuple(depth_text(row.subnet) for row in rows)),
        Column("px", tuple(str(row.subnet.img_size) for row in rows)),
        *(
            [Column("tokens", tuple(str(row.subnet.tokens) for row in rows), rank=1)]
            if len(tokens) > 1
            else []
        ),
        Column("MACs", tuple(per_cent(row.relative_cost) for row in rows), rank=2),
        Column("estimate", tuple(loss_text(row.estimate) for row in rows)),
        Column("trained", tuple(loss_text(row.loss) for row in rows)),
        *(
            Column(f"seed {seed}", tuple(loss_text(row.losses[seed]) for row in rows), rank=3)
            for seed in range(fidelity.seeds)
            if fidelity.seeds > 1
        ),
    ]


def fidelity_lines(fidelity: FidelityReport) -> list[str]:
    """Return what was compared and what came out: a line each for the trainings and the pairs."""
    begin = {
        "start": "from the network before the supernet phase",
        "scratch": "from the run's first weights",
    }[fidelity.begin]
    times = "once" if fidelity.seeds == 1 else f"{fidelity.seeds} times"
    within = per_cent(fidelity.cost_ratio - 1)
    apart = fidelity.beyond_seed_noise
    return [
        f"{len(fidelity.subnets)} subnets trained {times} for {number(fidelity.epochs, 3)} epochs"
        f" {begin}, in {duration(fidelity.seconds)}",
        f"all {_pairs_text(fidelity.overall)}: {_agreement_text(fidelity.overall)}",
        f"{_pairs_text(fidelity.equal_cost)} within {within} of cost:"
        f" {_agreement_text(fidelity.equal_cost)}",
        *(
            [f"{_pairs_text(apart)} that trainings distinguish: {_agreement_text(apart)}"]
            if apart is not None
            else []
        ),
    ]


def training_text(event: SubnetTrained) -> str:
    """Return what one real training came to."""
    return (
        f"real training {event.number + 1}/{event.total}: {event.subnet},"
        f" loss {loss_text(event.loss)}, in {duration(event.seconds)}"
    )


def _pairs_text(agreement: Agreement) -> str:
    return "1 pair" if agreement.pairs == 1 else f"{agreement.pairs} pairs"


def _agreement_text(agreement: Agreement) -> str:
    """Return Kendall's tau of the estimates, beside that of cost alone and of another training."""
    if agreement.tau is None:
        return "too few that differ"
    between, verdict = "", ""
    if agreement.low is not None and agreement.high is not None:
        between = f" (95 %: {agreement.low:.2f} to {agreement.high:.2f})"
    # A supernet is worth its time only where it orders subnets better than what they cost does.
    if agreement.gain_low is not None and agreement.gain_high is not None:
        verdict = "; not distinguished from cost alone"
        if agreement.gain_low > 0:
            verdict = "; the estimates say more than the cost does"
        elif agreement.gain_high < 0:
            verdict = "; the estimates say less than the cost does"
    return (
        f"Kendall tau {agreement.tau:.2f}{between}, by cost alone {number(agreement.null_tau, 2)},"
        f" one training of another {number(agreement.seeds_tau, 2)}{verdict}"
    )


# The trials of a search, its workers, and which parameters matter.


def trials_section(trials: Sequence[TrialFinished]) -> Section:
    """Return the best trials by loss, those of the Pareto front marked, with how many ended early."""
    complete = [(trial, trial.loss, trial.seconds) for trial in trials]
    known = [(t, loss, s) for t, loss, s in complete if loss is not None and s is not None]
    # Of trials that ended early nothing is known but that, so they are no points of it.
    front = pareto_front([s for _, _, s in known], [loss for _, loss, _ in known])
    on_front = {known[index][0].number for index in front}
    # The best by loss, and all of the front, whose cheap points are far down in that order.
    best = sorted(known, key=lambda one: (one[1], one[0].number))
    shown = [
        one[0]
        for place, one in enumerate(best)
        if one[0].number in on_front or place < _MAX_TRIAL_ROWS
    ]
    columns = [
        Column("trial", tuple(str(row.number) for row in shown)),
        Column("front", tuple("*" if row.number in on_front else "" for row in shown), "left"),
        Column("loss", tuple(loss_text(row.loss) for row in shown)),
        Column("seconds", tuple(duration(row.seconds) for row in shown)),
        Column("schedule", tuple(map(_stages_text, shown)), "left", rank=1),
    ]
    pruned = sum(trial.pruned for trial in trials)
    return Section(
        "trials",
        (Table.of(columns),) if trials else (),
        f"Trials: {len(trials)}, {pruned} ended early; * is the front",
        values=lambda: {"trials": [encode(event) for event in trials]},
    )


def trial_text(trial: TrialFinished) -> str:
    """Return a trial in one line of ASCII."""
    if trial.pruned:
        return f"trial {trial.number}: others did better; {_stages_text(trial)}"
    came_to = f"loss {loss_text(trial.loss)} in {duration(trial.seconds)}"
    return f"trial {trial.number}: {came_to}; {_stages_text(trial)}"


def _stages_text(trial: TrialFinished) -> str:
    """Return the subnets of a schedule and from which fraction of the run on each trains."""
    parts = [
        str(subnet) if fraction == 0 else f"{subnet} at {per_cent(fraction)}"
        for fraction, subnet in trial.stages
    ]
    return ", ".join(parts)


def workers_section(workers: Sequence[WorkerSeen], now: float | None = None) -> Section:
    """Return what each worker is at, and when it last gave a sign of life.

    Args:
        workers: As one who looks on sees them.
        now: Seconds since 1970, to count the ages of the signs of life from; None leaves those out.
    """
    status = [worker.status for worker in workers]
    states = tuple(
        # A worker that was killed leaves the state of its last sign behind.
        one.state if worker.is_alive or one.state in ("done", "failed") else f"{one.state}, gone"
        for worker, one in zip(workers, status, strict=True)
    )
    processes = tuple(f"{one.process.host} {one.process.pid}" for one in status)
    columns = [
        Column("worker", tuple(str(one.worker) for one in status)),
        Column("state", states, "left"),
        Column("trial", tuple("–" if one.trial is None else str(one.trial) for one in status)),
        Column("begun", tuple(str(one.num_trials) for one in status), rank=2),
        Column("process", processes, "left", rank=3),
    ]
    if now is not None:
        ages = tuple(duration(max(0.0, now - one.updated)) for one in status)
        columns.insert(3, Column("last sign", ages))
    if any(one.message for one in status):
        columns.append(Column("says", tuple(one.message for one in status), "left", rank=1))
    alive = sum(worker.is_alive for worker in workers)
    return Section(
        "workers",
        (Table.of(columns),) if workers else (),
        f"Workers: {len(workers)}, {alive} alive",
        values=lambda: {
            "workers": [
                {**one.model_dump(mode="json"), "is_alive": worker.is_alive}
                for worker, one in zip(workers, status, strict=True)
            ]
        },
    )


def importances_section(found: Sequence[Importance]) -> Section:
    """Return how much each parameter matters, by study and metric."""
    parts: list[Part] = []
    for one in found:
        parts.append(Line(f"{one.metric} · {one.study} · {one.num_trials} trials", "dim"))
        shown = tuple(one.fractions.items())[:_MAX_PARAMETERS]
        parts.append(Line(one.problem) if one.problem else Bars(shown))
    return Section("importances", tuple(parts), "Which parameters matter, by PED-ANOVA")


# What a step of each subnet takes, as it was measured before a search began.


def costs_section(run: Run, num_classes: int) -> Section:
    """Return the subnets of a search, the cheapest first; nothing to see where no costs are known."""
    search, known = run.manifest.settings.search, run.step_seconds
    # All that the space allows, also those that no decision has offered yet.
    subnets = [] if search is None else search.space.above(search.space.smallest)
    spec = run.manifest.settings.model.spec()
    there = sorted((one for one in subnets if str(one) in known), key=lambda one: known[str(one)])
    full_seconds = known.get(str(spec.full))
    by_macs = [relative_step_cost(spec, one, Training(), num_classes) for one in there]
    by_time = tuple(
        "–" if full_seconds is None else f"{known[str(one)] / full_seconds:.2f}" for one in there
    )
    columns = [
        Column("subnet", tuple(map(str, there)), "left"),
        Column("ms/step", tuple(milliseconds(known[str(one)]) for one in there)),
        Column("× full", by_time),
        Column("× full by MACs", tuple(f"{cost:.2f}" for cost in by_macs), rank=1),
    ]
    parts = (Table.of(columns),) if there else ()
    return Section("costs", parts, "Measured costs of a step")
