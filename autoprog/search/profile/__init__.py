"""Measured costs: the grid, in turns, by the runner's own loop, and the record that a run goes by."""

from __future__ import annotations

from autoprog.costs.cells import cell_name
from autoprog.search.profile.grid import measure_grid
from autoprog.search.profile.record import Costs, complete_costs, completing_costs
from autoprog.search.profile.turns import Limits

__all__ = ["Costs", "Limits", "cell_name", "complete_costs", "completing_costs", "measure_grid"]
