"""``costs.json``: the seconds of each cell and where they are from, once measured never measured again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from autoprog.bounds import Count, Seconds, Share, SomeSeconds
from autoprog.errors import ConfigError
from autoprog.files import FileModel, parse

__all__ = [
    "CellCost",
    "CostTable",
    "table_of",
    "together_seconds",
]


class CellCost(FileModel):
    """What a step of one cell costs.

    Attributes:
        seconds: Of a step on a batch that is there.
        interval: Holds the true median of ``seconds``, relative to the full cell, in 95 % of cases from 6
            rounds on; below that it is the range of what was seen.
        data_seconds: In which the feed makes a batch, with nothing else to do; None if unknown.
        rounds: How often it was measured.
        source: ``grid``: in turns with other cells; ``own``: the run's own steps; ``file``: given.
    """

    seconds: SomeSeconds
    interval: tuple[Seconds, Seconds] | None = None
    data_seconds: Seconds | None = None
    rounds: Count = 0
    source: Literal["grid", "own", "file"] = "file"

    @model_validator(mode="after")
    def _interval_holds_the_seconds(self) -> CellCost:
        low, high = self.interval or (self.seconds, self.seconds)
        if not low <= self.seconds <= high:
            law = f"must hold seconds, {self.seconds:g}"
            raise ConfigError("", "interval", law, [low, high])
        return self


class CostTable(FileModel):
    """All costs of a run.

    Attributes:
        overlap: Share of the shorter of step and data that the longer one hides: 0 without loader workers.
        overlap_is_measured: Whether it was, or is what such a machine should do.
        conditions: Where it was measured: device, precision, threads, workers, processes.
        cells: By the name of the cell.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    overlap: Share = 0.0
    overlap_is_measured: bool = False
    conditions: dict[str, str | Count] = Field(default_factory=dict)
    cells: dict[str, CellCost] = Field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of a step by the name of its cell."""
        return {name: cost.seconds for name, cost in self.cells.items()}

    def of_batch(self, batch_size: int) -> dict[str, float]:
        """Return the seconds of plain steps of one batch size by subnet, such as ``d6 r128``."""
        suffix = f" b{batch_size}"
        cells = self.seconds.items()
        return {name.removesuffix(suffix): s for name, s in cells if name.endswith(suffix)}

    def with_cells(self, more: Mapping[str, CellCost]) -> CostTable:
        """Return the table with cells added; those that are there stay as they are."""
        new = {name: cost for name, cost in more.items() if name not in self.cells}
        return self.model_copy(update={"cells": {**self.cells, **new}})

    def as_given(self) -> CostTable:
        """Return the table as one that another run was given."""
        cells = {n: c.model_copy(update={"source": "file"}) for n, c in self.cells.items()}
        return self.model_copy(update={"cells": cells})

    def body(self) -> dict[str, Any]:
        """Return what the file holds."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def table_of(body: Mapping[str, Any], where: str) -> CostTable:
    """Return the table that a file holds; one without ``schema`` is just seconds by name.

    Raises:
        ConfigError: If anything in it is no such thing.
    """
    if "schema" in body:
        return parse(CostTable, body, where)
    for name, seconds in body.items():
        if not _is_duration(seconds):
            raise ConfigError(where, str(name), "must be seconds above 0", seconds)
    return CostTable(cells={name: CellCost(seconds=s) for name, s in body.items()})


def together_seconds(step_seconds: float, data_seconds: float, overlap: float) -> float:
    """Return the seconds a step takes together with its data.

    Loader workers make the next batches while the device computes, as far as there are cores for both:
    ``overlap`` 1 is the longer of the two, 0 their sum.
    """
    longer, shorter = max(step_seconds, data_seconds), min(step_seconds, data_seconds)
    return longer + (1 - overlap) * shorter


def _is_duration(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value < math.inf
