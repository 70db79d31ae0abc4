"""What a step of each subnet takes, as it was measured before a search began."""

from __future__ import annotations

from rich.console import RenderableType

from autoprog.effort import relative_step_cost
from autoprog.runs import Run
from autoprog.stage import Training
from autoprog.ui.fitted import Fitted, panel
from autoprog.ui.tables import Column, rich_table
from autoprog.ui.units import milliseconds

__all__ = ["cost_columns", "costs_view"]


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
