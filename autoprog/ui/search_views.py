"""What a step of each subnet takes, as it was measured before a search began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autoprog.decisions import (
    Agreement,
    Candidate,
    Continuation,
    Decision,
    Fidelity,
    FrontPoint,
    Importance,
    Judged,
)
from autoprog.events import SubnetTrained, TrialFinished
from autoprog.processes import WorkerSeen
from autoprog.runs import Run
from autoprog.stage import Training, relative_step_cost
from autoprog.ui.charts import Series, Span, chart
from autoprog.ui.format import (
    DIM,
    MARK_GROWTH,
    MARK_WINNER,
    SHADES,
    SKY,
    WINNER,
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
from autoprog.ui.tables import GAP, Column, Fitted, panel, rich_table, table_width

__all__ = [
    "continuation_columns",
    "continuations_view",
    "cost_columns",
    "costs_view",
    "decision_columns",
    "decision_heading",
    "decision_summary",
    "decision_view",
    "fidelity_columns",
    "fidelity_lines",
    "fidelity_view",
    "front_columns",
    "front_view",
    "heat_map",
    "importances_view",
    "on_front",
    "ranked",
    "runner_up_text",
    "then_text",
    "training_text",
    "trial_columns",
    "trial_text",
    "trials_view",
    "way_text",
    "worker_columns",
    "workers_view",
]


# --------------------------------------------------------------------------------------------------
# Ways to go on to the end of a run: the one that was chosen, and those that none beats.


CHART_ROWS = 5
MAX_ROWS = 8


def then_text(decision: Decision) -> str:
    """Return what is to follow the subnet that was decided for; empty where nothing does."""
    later = decision.continuation[1:]
    return f"then {_stretches_text(decision, later)}" if later else ""


def way_text(decision: Decision) -> str:
    """Return the subnet that was decided for and what is to follow it."""
    return ", ".join(filter(None, (str(decision.subnet), then_text(decision))))


def continuation_columns(decision: Decision) -> list[Column]:
    """Return the table of the ways on that were weighed, one for each candidate, best first."""
    rows = sorted(decision.candidates, key=lambda row: row.score)
    ways = tuple(
        f"{row.subnet}, {_stretches_text(decision, row.continuation[1:])}"
        if row.continuation[1:]
        else str(row.subnet)
        for row in rows
    )
    return [
        Column(" ", tuple(MARK_WINNER if r is decision.chosen else " " for r in rows), "left"),
        Column("end loss", tuple(f"{row.predicted_loss:.4f}" for row in rows)),
        Column("left", tuple(duration(row.remaining_seconds) for row in rows)),
        Column("score", tuple(f"{row.score:.4f}" for row in rows), rank=1),
        Column("ms/step", tuple(milliseconds(row.step_seconds) for row in rows), rank=2),
        Column("way on", ways, "left"),
    ]


def continuations_view(decision: Decision) -> RenderableType:
    """Return the ways on that were weighed, and the front that they are from where it is known."""
    title = (
        f"Decision {decision.index} · epoch {number(decision.epoch)} · ways on that were weighed"
    )
    return panel(Fitted(lambda width: _continuations(decision, width)), title)


def _continuations(decision: Decision, width: int) -> RenderableType:
    columns = continuation_columns(decision)
    chosen = columns[0].cells.index(MARK_WINNER)
    front = front_view(decision, width)
    table = rich_table(columns, width, chosen, wraps=True)
    return Group(table, *([] if front is None else [Text(""), front]))


def front_columns(decision: Decision, most: int | None = None) -> list[Column]:
    """Return the table of the front, cheapest first, with the chosen way marked.

    Args:
        decision: With a front.
        most: Rows, evenly picked, beside that of the chosen way; None for all.
    """
    points = _picked(decision, len(decision.front) if most is None else most)
    return [
        Column(" ", tuple(MARK_WINNER if _is_chosen(decision, p) else " " for p in points), "left"),
        Column("left", tuple(duration(p.remaining_seconds) for p in points)),
        Column("end loss", tuple(f"{p.predicted_loss:.4f}" for p in points)),
        Column("way on", tuple(_point_text(decision, p) for p in points), "left", rank=1),
    ]


def front_view(decision: Decision, width: int) -> RenderableType | None:
    """Return the front as a chart, with its table where the rule takes a point of it; None below three."""
    front = decision.front
    if len(front) < 3:
        return None
    chosen = [point for point in front if _is_chosen(decision, point)]
    legend = Text(no_wrap=True, overflow="ellipsis")
    legend.append("⠂ end loss over time left, on the front", f"bold {SKY}")
    legend.append(f"   {MARK_GROWTH} chosen" if chosen else "", DIM)
    points = tuple((point.remaining_seconds, point.predicted_loss) for point in front)
    first, last = points[0][0], points[-1][0]
    picture = chart(
        [Series("front", points, SKY, line=False)],
        [point.remaining_seconds for point in chosen],
        Span(first, last, duration(first), duration(last)),
        width,
        CHART_ROWS,
    )
    if decision.rule == "rollout":
        return Group(legend, picture)
    columns = _fitted(front_columns(decision, MAX_ROWS), width)
    row = next((i for i, mark in enumerate(columns[0].cells) if mark == MARK_WINNER), None)
    return Group(legend, picture, Text(""), rich_table(columns, width, row))


def _fitted(columns: list[Column], width: int) -> list[Column]:
    """Return the columns with the last one cut to what is left of `width`."""
    *others, way = columns
    room = width - table_width(others) - GAP
    cells = (cell if len(cell) <= room else f"{cell[: room - 1]}…" for cell in way.cells)
    return [*others, replace(way, cells=tuple(cells))]


def _picked(decision: Decision, most: int) -> list[FrontPoint]:
    """Return so many points of the front with both its ends, and the chosen one."""
    front, last = decision.front, len(decision.front) - 1
    if last < most:
        return list(front)
    places = {round(k * last / (most - 1)) for k in range(most)}
    return [p for i, p in enumerate(front) if i in places or _is_chosen(decision, p)]


def _is_chosen(decision: Decision, point: FrontPoint) -> bool:
    return point.continuation == decision.continuation


def _point_text(decision: Decision, point: FrontPoint) -> str:
    first, later = str(point.continuation[0][1]), point.continuation[1:]
    return f"{first}, {_stretches_text(decision, later)}" if later else first


def _stretches_text(decision: Decision, continuation: Continuation) -> str:
    """Return the subnets of a continuation and from where on each trains: an epoch, or a fraction of the time."""
    if decision.length is not None:
        fractions = ((subnet, step / decision.length) for step, subnet in continuation)
        return ", ".join(
            f"{subnet} from {fraction:.0%} of the time" for subnet, fraction in fractions
        )
    epochs = decision.epoch / max(1, decision.step)
    return ", ".join(
        f"{subnet} from epoch {number(step * epochs)}" for step, subnet in continuation
    )


# --------------------------------------------------------------------------------------------------
# Why a decision was taken: the candidates with all that their scores are made of.


MAP_GAP = 4


def decision_view(decision: Decision) -> RenderableType:
    """Return a decision as heading, candidates, a map where two axes vary, the way on, reason and front."""
    title = f"Decision {decision.index} · epoch {number(decision.epoch)}"
    return panel(Fitted(lambda width: _body(decision, width)), title)


def ranked(decision: Decision) -> list[Candidate]:
    """Return the candidates by score, best first."""
    return sorted(decision.candidates, key=lambda candidate: candidate.score)


def decision_heading(decision: Decision) -> str:
    """Return when, by which rule and from where the decision was taken."""
    is_priced = decision.candidates and decision.length is None
    alpha = f" · alpha {number(decision.alpha)}" if is_priced else ""
    return (
        f"step {count(decision.step)} · rule {decision.rule}{alpha}"
        f" · from {subnet_text(decision.current)}"
    )


def decision_summary(decision: Decision) -> str:
    """Return what was decided, in one line."""
    stays = decision.subnet == decision.current
    return f"{'stay at' if stays else 'grow to'} {subnet_text(decision.subnet)}"


def decision_columns(decision: Decision) -> list[Column]:
    """Return the table of candidates, best first, with the winner marked."""
    rows = ranked(decision)
    return [
        Column(" ", tuple(_mark(decision, row) for row in rows), "left"),
        Column("rank", tuple(str(place) for place in range(1, len(rows) + 1)), rank=3),
        Column("candidate", tuple(row.label for row in rows), "left", rank=5),
        Column("depth", tuple(depth_text(row.subnet) for row in rows)),
        Column("px", tuple(str(row.subnet.img_size) for row in rows)),
        Column("loss", tuple(f"{row.loss:.4f}" for row in rows)),
        Column("vs stay", tuple(_difference(decision, row) for row in rows), rank=2),
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
    others = [row for row in ranked(decision) if row is not chosen]
    second = others[0]
    margin = "" if chosen.score == 0 else f" ({100 * (second.score / chosen.score - 1):+.2f} %)"
    name = f"{second.label} ({subnet_text(second.subnet)})"
    return f"runner-up: {name}, score {second.score:.4f}{margin}"


def heat_map(decision: Decision) -> Text | None:
    """Return scores over depth and image size, darker being better; None unless both axes vary.

    Of candidates that differ in their keep-rates alone, the best is shown.
    """
    best_last = reversed(ranked(decision))
    scores = {(row.subnet.depth, row.subnet.img_size): row.score for row in best_last}
    depths = sorted({depth for depth, _ in scores})
    sizes = sorted({size for _, size in scores})
    if len(depths) < 2 or len(sizes) < 2:
        return None
    map_text = Text(no_wrap=True, overflow="crop")
    map_text.append("score  " + "".join(f"{size} px".center(12) for size in sizes), DIM)
    for depth in depths:
        map_text.append("\n" + f"d{'+'.join(map(str, depth))}".rjust(5) + "  ", DIM)
        for size in sizes:
            map_text.append_text(_cell(decision, scores, depth, size))
    return map_text


def _body(decision: Decision, width: int) -> RenderableType:
    heading = Text(decision_heading(decision), DIM)
    numbers = [Text(""), *_numbers(decision, width)] if decision.candidates else []
    parts = [heading, *numbers, Text("")]
    parts.append(Text(f"{MARK_WINNER} {decision_summary(decision)}", WINNER))
    lines = (then_text(decision), decision.reason, runner_up_text(decision))
    parts += [Text(line) for line in lines if line]
    front = front_view(decision, width)
    return Group(*parts, *([] if front is None else [Text(""), front]))


def _numbers(decision: Decision, width: int) -> list[RenderableType]:
    """Return the table and the map, side by side where there is room for all of both."""
    chosen = next(i for i, row in enumerate(ranked(decision)) if row is decision.chosen)
    columns = decision_columns(decision)
    picture = heat_map(decision)
    if picture is None:
        return [rich_table(columns, width, chosen)]
    room = width - MAP_GAP - max(map(len, picture.plain.splitlines()))
    if table_width(columns) > room:
        return [rich_table(columns, width, chosen), Text(""), picture]
    grid = Table.grid(padding=(0, MAP_GAP, 0, 0))
    grid.add_row(rich_table(columns, room, chosen), picture)
    return [grid]


def _mark(decision: Decision, row: Candidate) -> str:
    return MARK_WINNER if row is decision.chosen else " "


def _difference(decision: Decision, row: Candidate) -> str:
    if row.subnet == decision.current:
        return "stay"
    return f"{signed(row.difference)} ±{row.difference_se:.4f}"


def _cell(
    decision: Decision,
    scores: dict[tuple[tuple[int, ...], int], float],
    depth: tuple[int, ...],
    size: int,
) -> Text:
    score = scores.get((depth, size))
    if score is None:
        return Text("·".center(12), DIM)
    order = sorted(set(scores.values()), reverse=True)
    shade = SHADES[order.index(score) * (len(SHADES) - 1) // max(1, len(order) - 1)]
    won = (decision.chosen.subnet.depth, decision.chosen.subnet.img_size) == (depth, size)
    mark = MARK_WINNER if won else " "
    return Text(f"{mark}{score:.4f} {shade * 2}".center(12), WINNER if won else "")


# --------------------------------------------------------------------------------------------------
# How far the estimates of a decision can be trusted: each subnet's estimate beside its real
# trainings.


def fidelity_view(fidelity: Fidelity) -> RenderableType:
    """Return the subnets by real loss, and how well the estimates put them into that order."""
    title = f"Fidelity · decision {fidelity.decision}"
    return panel(Fitted(lambda width: _fidelity_body(fidelity, width)), title)


def fidelity_columns(fidelity: Fidelity) -> list[Column]:
    """Return the table of subnets, lowest real loss first."""
    rows = sorted(fidelity.subnets, key=_real)
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


def fidelity_lines(fidelity: Fidelity) -> list[str]:
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
            [f"{_pairs_text(apart)} that trainings tell apart: {_agreement_text(apart)}"]
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
    between = ""
    if agreement.low is not None and agreement.high is not None:
        between = f" (95 %: {agreement.low:.2f} to {agreement.high:.2f})"
    return (
        f"Kendall tau {agreement.tau:.2f}{between}, by cost alone {number(agreement.null_tau, 2)},"
        f" one training of another {number(agreement.seeds_tau, 2)}{_verdict(agreement)}"
    )


def _verdict(agreement: Agreement) -> str:
    """Return whether the supernet has told more than the cost does."""
    if agreement.gain_low is None or agreement.gain_high is None:
        return ""
    if agreement.gain_low > 0:
        return "; the estimates tell more than the cost does"
    if agreement.gain_high < 0:
        return "; the estimates tell less than the cost does"
    return "; not told apart from cost alone"


def _real(row: Judged) -> float:
    return float("inf") if row.loss is None else row.loss


def _fidelity_body(fidelity: Fidelity, width: int) -> RenderableType:
    first, *rest = fidelity_lines(fidelity)
    table = rich_table(fidelity_columns(fidelity), width)
    return Group(Text(first, DIM), Text(""), table, Text(""), *map(Text, rest))


# --------------------------------------------------------------------------------------------------
# Which parameters matter, as bars.


MAX_PARAMETERS = 8
SHARE_WIDTH = 6


def importances_view(found: Sequence[Importance]) -> RenderableType:
    """Return a bar for each parameter, by study and metric."""
    return panel(
        Fitted(lambda width: Group(*(_bars(one, width) for one in found))),
        "Which parameters matter, by PED-ANOVA",
    )


def _bars(one: Importance, width: int) -> RenderableType:
    heading = Text(f"{one.metric} · {one.study} · {one.num_trials} trials", DIM)
    heading.no_wrap, heading.overflow = True, "ellipsis"
    if one.problem:
        return Group(heading, Text(one.problem))
    shown = list(one.fractions.items())[:MAX_PARAMETERS]
    room = max(len(name) for name, _ in shown) + 2
    columns = max(5, width - room - SHARE_WIDTH)
    top = max(fraction for _, fraction in shown) or 1.0
    rows = [
        Text(f"{name:<{room}}", no_wrap=True)
        .append("█" * round(columns * fraction / top), SKY)
        .append(f" {per_cent(fraction)}")
        for name, fraction in shown
    ]
    return Group(heading, *rows)


# --------------------------------------------------------------------------------------------------
# The trials of a search: what each schedule came to, and which of them none beats.


MAX_TRIAL_ROWS = 16


def on_front(trials: Sequence[TrialFinished]) -> set[int]:
    """Return the numbers of the trials that none beats in both loss and seconds."""
    found: set[int] = set()
    best = float("inf")
    for trial in sorted(_complete(trials), key=lambda t: (t.seconds, t.loss)):
        if trial.loss is not None and trial.loss < best:
            best = trial.loss
            found.add(trial.number)
    return found


def trial_columns(trials: Sequence[TrialFinished]) -> list[Column]:
    """Return the table of the best trials by loss, those of the front marked."""
    front = on_front(trials)
    rows = sorted(_complete(trials), key=lambda t: (t.loss or 0.0, t.number))
    shown = [row for i, row in enumerate(rows) if row.number in front or i < MAX_TRIAL_ROWS]
    return [
        Column("trial", tuple(str(row.number) for row in shown)),
        Column("front", tuple("*" if row.number in front else "" for row in shown), "left"),
        Column("loss", tuple(loss_text(row.loss) for row in shown)),
        Column("seconds", tuple(duration(row.seconds) for row in shown)),
        Column("schedule", tuple(_stages_text(row) for row in shown), "left", rank=1),
    ]


def trial_text(trial: TrialFinished) -> str:
    """Return a trial in one line of ASCII."""
    if trial.pruned:
        return f"trial {trial.number}: others did better; {_stages_text(trial)}"
    came_to = f"loss {loss_text(trial.loss)} in {duration(trial.seconds)}"
    return f"trial {trial.number}: {came_to}; {_stages_text(trial)}"


def trials_view(trials: Sequence[TrialFinished]) -> RenderableType:
    """Return the table of trials in its frame, with how many ended early."""
    pruned = sum(trial.pruned for trial in trials)
    title = f"Trials: {len(trials)}, {pruned} ended early; * is the front"
    return panel(Fitted(lambda width: rich_table(trial_columns(trials), width)), title)


def _complete(trials: Sequence[TrialFinished]) -> list[TrialFinished]:
    return [trial for trial in trials if trial.loss is not None and trial.seconds is not None]


def _stages_text(trial: TrialFinished) -> str:
    """Return the subnets of a schedule and from which fraction of the run on each trains."""
    parts = [
        str(subnet) if fraction == 0 else f"{subnet} at {per_cent(fraction)}"
        for fraction, subnet in trial.stages
    ]
    return ", ".join(parts)


# --------------------------------------------------------------------------------------------------
# The workers of a search by trials: what each is at, and when it last gave a sign of life.


def worker_columns(workers: Sequence[WorkerSeen], now: float | None = None) -> list[Column]:
    """Return the table of workers.

    Args:
        workers: As one who looks on sees them.
        now: Seconds since 1970, to count the ages of the signs of life from; None leaves those out.
    """
    status = [worker.status for worker in workers]
    columns = [
        Column("worker", tuple(str(one.worker) for one in status)),
        Column("state", tuple(map(_state_text, workers)), "left"),
        Column("trial", tuple("–" if one.trial is None else str(one.trial) for one in status)),
        Column("begun", tuple(str(one.num_trials) for one in status), rank=2),
        Column(
            "process",
            tuple(f"{one.process.host} {one.process.pid}" for one in status),
            "left",
            rank=3,
        ),
    ]
    if now is not None:
        ages = tuple(duration(max(0.0, now - one.updated)) for one in status)
        columns.insert(3, Column("last sign", ages))
    if any(one.message for one in status):
        columns.append(Column("says", tuple(one.message for one in status), "left", rank=1))
    return columns


def workers_view(workers: Sequence[WorkerSeen], now: float) -> RenderableType:
    """Return the table of workers in its frame."""
    alive = sum(worker.is_alive for worker in workers)
    title = f"Workers: {len(workers)}, {alive} alive"
    return panel(Fitted(lambda width: rich_table(worker_columns(workers, now), width)), title)


def _state_text(worker: WorkerSeen) -> str:
    ended = worker.status.state in ("done", "failed")
    return worker.status.state if worker.is_alive or ended else f"{worker.status.state}, gone"


def cost_columns(run: Run, num_classes: int) -> list[Column]:
    """Return the table of the subnets of a search, the cheapest first; without rows where none is known."""
    search, known = run.manifest.settings.search, run.step_seconds
    subnets = [] if search is None else search.space.above(search.space.smallest)
    spec = run.manifest.settings.model.spec()
    there = sorted((one for one in subnets if str(one) in known), key=lambda one: known[str(one)])
    full_seconds = known.get(str(spec.full))
    by_macs = [relative_step_cost(spec, one, Training(), num_classes) for one in there]
    return [
        Column("subnet", tuple(map(str, there)), "left"),
        Column("ms/step", tuple(milliseconds(known[str(one)]) for one in there)),
        Column(
            "× full",
            tuple(
                "–" if full_seconds is None else f"{known[str(one)] / full_seconds:.2f}"
                for one in there
            ),
        ),
        Column("× full by MACs", tuple(f"{cost:.2f}" for cost in by_macs), rank=1),
    ]


def costs_view(run: Run, num_classes: int) -> RenderableType | None:
    """Return the table in its frame; None where no costs are known."""
    columns = cost_columns(run, num_classes)
    if not columns[0].cells:
        return None
    return panel(Fitted(lambda width: rich_table(columns, width)), "Measured costs of a step")
