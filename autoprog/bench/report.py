"""How a race is told: a table on a terminal, aligned text elsewhere, or one JSON object."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from autoprog.bench.speed import (
    BARE,
    BARE_EMA,
    LOADED,
    LOADED_UNCACHED,
    RESIDENT,
    CellSpeed,
    RunnerSpeed,
)
from autoprog.bench.statistics import CONFIDENCE, Estimate
from autoprog.bench.timm_script import ScriptSpeed
from autoprog.console import Console
from autoprog.ui.tables import Column, plain_table, rich_table
from autoprog.ui.units import ascii_text, speed_text, subnet_text

__all__ = ["GOAL", "as_json", "print_report"]

GOAL = 0.98
"""What the runner should reach of the bare loop's speed."""


def as_json(speed: RunnerSpeed, script: ScriptSpeed | None) -> str:
    """Return one JSON object, with the numbers of the report in full."""
    body = {"schema": 1, **dataclasses.asdict(speed), "timm_script": None}
    body["cells"] = [_cell_body(cell) for cell in speed.cells]
    if script is not None:
        body["timm_script"] = dataclasses.asdict(script)
    return json.dumps(body, indent=1, allow_nan=False)


def _cell_body(cell: CellSpeed) -> dict[str, object]:
    subnet = {"depth": list(cell.subnet.depth), "img_size": cell.subnet.img_size}
    return {**dataclasses.asdict(cell), "subnet": subnet}


def print_report(console: Console, speed: RunnerSpeed, script: ScriptSpeed | None) -> None:
    """Print the rates of each cell, then what they come to."""
    for line in _head(speed):
        _print(console, line)
    for columns in (_rates(speed.cells), _comparisons(speed.cells)):
        _print(console, "")
        if console.is_terminal:
            console.print(rich_table(columns, console.width))
        else:
            for line in plain_table(columns):
                console.out(line, highlight=False)
    _print(console, "")
    for line in _foot(speed, script):
        _print(console, line)


def _print(console: Console, line: str) -> None:
    console.out(line if console.is_terminal else ascii_text(line), highlight=False)


def _head(speed: RunnerSpeed) -> list[str]:
    return [
        f"{speed.model}, batches of {speed.batch_size}, {speed.device}, precision {speed.amp},"
        f" {speed.threads} threads, {speed.workers} loader workers",
        f"medians of {speed.rounds} rounds; in each, every arm has one block of {speed.block_steps} steps",
    ]


def _rates(cells: Sequence[CellSpeed]) -> list[Column]:
    arms = [BARE, BARE_EMA, RESIDENT, LOADED, LOADED_UNCACHED]
    rates = [
        Column(arm, tuple(speed_text(cell.images_per_second[arm]) for cell in cells))
        for arm in arms
        if arm in cells[0].images_per_second
    ]
    return [_names("images/s", cells), *rates]


def _comparisons(cells: Sequence[CellSpeed]) -> list[Column]:
    uncached = [cell.data_cost_uncached for cell in cells if cell.data_cost_uncached is not None]
    return [
        _names("ratio", cells),
        Column("runner / bare", tuple(_ratio(cell.runner_to_bare) for cell in cells)),
        Column("runner / bare + EMA", tuple(_ratio(cell.runner_to_bare_ema) for cell in cells)),
        Column("data cost", tuple(_ratio(cell.data_cost) for cell in cells)),
        *([Column("data cost, no cache", tuple(map(_ratio, uncached)))] if uncached else []),
    ]


def _names(header: str, cells: Sequence[CellSpeed]) -> Column:
    return Column(header, tuple(subnet_text(cell.subnet) for cell in cells), justify="left")


def _ratio(value: Estimate) -> str:
    return f"{value.median:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _foot(speed: RunnerSpeed, script: ScriptSpeed | None) -> list[str]:
    cell = speed.cells[-1]
    confidence = cell.runner_to_bare.confidence
    lines = [f"in brackets: {_sure(confidence)} of the median ratio of neighbouring blocks"]
    if script is not None:
        lines.append(
            f"timm's train.py {speed_text(script.timm_images_per_second)} images/s, autoprog train"
            f" {speed_text(script.autoprog_images_per_second)}: ratio {_ratio(script.ratio)}"
            f" ({script.rounds} rounds of {script.timed_steps} steps, {_sure(script.ratio.confidence)})"
        )
    return [*lines, f"goal: runner / bare at least {GOAL:g}: {_verdict(speed)}"]


def _sure(confidence: float) -> str:
    interval = f"{100 * confidence:.1f}% interval"
    return interval if confidence >= CONFIDENCE else f"whole range, a {interval},"


def _verdict(speed: RunnerSpeed) -> str:
    """Say in how many cells the goal is reached: surely, surely not, or undecided."""
    ratios = [cell.runner_to_bare for cell in speed.cells]
    reached = sum(ratio.low >= GOAL for ratio in ratios)
    missed = sum(ratio.high < GOAL for ratio in ratios)
    undecided = len(ratios) - reached - missed
    return (
        f"reached in {reached}, missed in {missed}, undecided in {undecided} of {len(ratios)} cells"
    )
