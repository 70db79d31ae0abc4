"""How far the estimates of a decision can be trusted: each subnet's estimate beside its real trainings."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from autoprog.events import SubnetTrained
from autoprog.fidelity import Agreement, Fidelity, Judged
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.palette import DIM
from autoprog.ui.tables import Column, rich_table
from autoprog.ui.units import depth_text, duration, loss_text, number, per_cent

__all__ = ["fidelity_columns", "fidelity_lines", "fidelity_view", "training_text"]


def fidelity_view(fidelity: Fidelity) -> RenderableType:
    """Return the subnets by real loss, and how well the estimates put them into that order."""
    title = f"Fidelity · decision {fidelity.decision}"
    return panel(Fitted(lambda width: _body(fidelity, width)), title)


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
    apart = fidelity.told_apart
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


def _body(fidelity: Fidelity, width: int) -> RenderableType:
    first, *rest = fidelity_lines(fidelity)
    table = rich_table(fidelity_columns(fidelity), width)
    return Group(Text(first, DIM), Text(""), table, Text(""), *map(Text, rest))
