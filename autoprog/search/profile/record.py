"""The costs that a run goes by: recorded before they are used, never measured twice."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path

from autoprog.costs.cells import CostCell
from autoprog.costs.model import CostModel
from autoprog.costs.table import CellCost, CostTable, table_of
from autoprog.errors import ConfigError
from autoprog.events import CostsMeasured
from autoprog.intervals import estimate
from autoprog.openfiles import read_bytes
from autoprog.search.profile.grid import measuring
from autoprog.search.profile.turns import Limits, outcome
from autoprog.train.phase import Choice
from autoprog.train.timing import typical_seconds
from autoprog.train.trainer import Trainer
from supernet.config import ModelSpec, SubnetConfig

__all__ = ["Costs", "complete_costs", "completing_costs"]

PROFILE_SECONDS = 20.0
"""What measuring may take where a run does not say."""

_MOST_BYTES = 2**24


class Costs:
    """The cost table of a run: a recorded input. What it holds once is never measured again."""

    def __init__(self, table: CostTable | Mapping[str, float], batch_size: int) -> None:
        self.table = table if isinstance(table, CostTable) else table_of(table, "costs")
        self.spent_seconds = 0.0
        self._batch_size = batch_size

    @classmethod
    def read(cls, path: Path, batch_size: int) -> Costs:
        """Read a ``costs.json``, of this version or one that is just seconds by cell.

        Raises:
            ConfigError: If it is missing or holds anything but costs of cells.
        """
        try:
            body = json.loads(read_bytes(path, _MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            law = "must be a readable JSON file of step seconds"
            raise ConfigError(str(path), "", law) from None
        if not isinstance(body, dict):
            raise ConfigError(str(path), "", "must be seconds above 0", body)
        table = table_of(body, str(path))
        for name in table.cells:
            if CostCell.parse(name) is None:
                law = "must be the name of a cell, such as 'd6 r128 b1024'"
                raise ConfigError(str(path), "", law, name)
        return cls(table.as_given(), batch_size)

    @property
    def seconds(self) -> dict[str, float]:
        """Return the recorded seconds of a step by the name of its cell."""
        return self.table.seconds

    @property
    def has_grid(self) -> bool:
        """Tell whether a grid has been measured, even if the time did not suffice for all cells."""
        return any(cost.source == "grid" for cost in self.table.cells.values())

    def get(self, subnet: SubnetConfig) -> float | None:
        """Return the recorded seconds of a plain step at the run's batch size, or None."""
        found = self.table.cells.get(self._cell(subnet).name)
        return None if found is None else found.seconds

    def all_seconds(self, spec: ModelSpec, subnets: Iterable[SubnetConfig]) -> dict[str, float]:
        """Return what a plain step of each subnet adds to the run, by the text of the subnet.

        This is the step with what it waits for data, as far as that was measured; where a subnet is not on
        record it is estimated from those that are.
        """
        model = self.model(spec)
        return {str(subnet): model.wall(self._cell(subnet)).seconds for subnet in subnets}

    def model(self, spec: ModelSpec) -> CostModel:
        """Return what predicts seconds from these costs."""
        return CostModel(spec, self.table)

    def add(self, found: CostTable) -> None:
        """Add what has been measured; what is there stays."""
        first = self.table if self.table.conditions else found  # which says where it was measured
        cells = self.table.with_cells(found.cells).cells
        self.table = first.model_copy(update={"cells": cells})

    def complete(self, trainer: Trainer, choices: Sequence[Choice]) -> bool:
        """Add what is missing; see :func:`complete_costs`."""
        return complete_costs(trainer, self, choices)

    def _cell(self, subnet: SubnetConfig) -> CostCell:
        return CostCell(subnet, self._batch_size)


def complete_costs(
    trainer: Trainer, costs: Costs, choices: Sequence[Choice], together: bool = False
) -> bool:
    """Add the costs of plain steps that are missing, unwatched; see :func:`completing_costs`."""
    return outcome(completing_costs(trainer, costs, choices, together))


def completing_costs(
    trainer: Trainer, costs: Costs, choices: Sequence[Choice], together: bool = False
) -> Generator[CostsMeasured, None, bool]:
    """Add the costs of plain steps that are missing for `choices`; return whether any were added.

    The run's own steps are taken where there are at least two (the first one warms up), else the cells are
    measured in turns, within ``--profile-seconds`` for the whole run and 1 % of it (:func:`measuring`). One
    that the time does not suffice for stays out; :meth:`Costs.all_seconds` estimates it. Yields how far
    measuring is.

    Args:
        trainer: The trainer, between two phases.
        costs: Is added to; to be written before it is used.
        choices: What steps may train.
        together: Whether all ranks call this, at the same place; otherwise it is rank 0 alone.

    Raises:
        GaveUpError: If a stop was requested; nothing is added then.
    """
    size, spec = trainer.recipe.batch_size, trainer.stepper.model.spec
    missing = [c.subnet for c in choices if costs.get(c.subnet) is None]
    if not missing:
        return False
    cells = [CostCell(subnet, size) for subnet in dict.fromkeys(missing)]
    own = _own_costs(trainer, cells)
    if together:
        own = _shared(trainer, own)
    unknown = [cell for cell in cells if cell.name not in own.cells]
    left = max(0.0, _profile_seconds(trainer) - costs.spent_seconds)
    if not unknown or (costs.has_grid and not left):
        costs.add(own)
        return bool(own.cells)
    begin = trainer.clock()
    found = yield from measuring(
        trainer,
        unknown,
        Limits(left),
        run_steps=trainer.total_steps,
        full_seconds=own.seconds.get(CostCell(spec.full, size).name, costs.get(spec.full)),
        together=together,
    )
    costs.spent_seconds += trainer.clock() - begin
    costs.add(own)
    costs.add(found)
    return True


def _own_costs(trainer: Trainer, cells: Sequence[CostCell]) -> CostTable:
    """Return the costs of the cells that the run has trained itself since its network last changed."""
    found = {}
    for cell in cells:
        seconds = trainer.phase_seconds.get(cell.subnet, [])
        typical = typical_seconds(seconds)
        if typical is not None:
            seen = estimate(seconds[1:])
            found[cell.name] = CellCost(
                seconds=typical,
                interval=(seen.low, seen.high),
                rounds=len(seconds) - 1,
                source="own",
            )
    return CostTable(cells=found)


def _shared(trainer: Trainer, table: CostTable) -> CostTable:
    text = trainer.ranks.share(json.dumps(table.body()))
    return table_of(json.loads(text), "costs of rank 0")


def _profile_seconds(trainer: Trainer) -> float:
    search = trainer.settings.search
    return PROFILE_SECONDS if search is None else search.profile_seconds
