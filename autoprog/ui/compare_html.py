"""Runs side by side as one web page that needs nothing else: no script, no network, light and dark."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html import escape

from autoprog.errors import ConfigError
from autoprog.files import dump_yaml, parse
from autoprog.proof.compare import Comparison, Group
from autoprog.recipe import Recipe
from autoprog.schedule import GrowthSchedule
from autoprog.ui.compare import (
    AXES,
    CHARGED,
    PAIRED,
    comparison_columns,
    difference_texts,
)
from autoprog.ui.compare_svg import curves_svg
from autoprog.ui.html import COLOURS, html_table, page
from autoprog.ui.subject import NOMINAL_STEPS_PER_EPOCH
from autoprog.ui.svg import lanes_svg
from autoprog.ui.track import Lane, Track, all_lanes, lanes, track_of_table
from autoprog.ui.units import duration

__all__ = ["compare_page"]

PARTS = {
    "train": "training",
    "data_wait": "data wait",
    "search": "search",
    "lost": "growth",
    "eval": "evaluation",
    "checkpoints": "checkpoints",
}


def compare_page(comparison: Comparison) -> str:
    """Return the page: the table, the curves over all axes, where time went, and every configuration."""
    groups = comparison.groups
    count = sum(len(group.runs) for group in groups)
    reference = f"{groups[0].label} ({escape(groups[0].name)})"
    notes = [*comparison.facts, CHARGED, PAIRED]
    body = [
        "<h1>Compared runs</h1>",
        f"<p>{count} finished runs in {len(groups)} configurations; the reference is {reference}.</p>",
        _table(comparison),
        *(f"<p>{escape(note)}</p>" for note in notes),
        *(f'<p class="warn">{escape(note)}.</p>' for note in comparison.notes),
        "<h2>Top-1 EMA in per cent, one line a run</h2>",
        _legend(groups),
        '<div class="figures">',
        *(f'<div class="card">{curves_svg(comparison, axis)}</div>' for axis in AXES),
        "</div>",
        *_schedules(groups),
        "<h2>Where the time went</h2>",
        _parts_table(groups),
        "<h2>Configurations</h2>",
        '<div class="figures">',
        *(_configuration(index, group, groups[0].label) for index, group in enumerate(groups)),
        "</div>",
    ]
    return page("Compared runs", body)


def _table(comparison: Comparison) -> str:
    columns = comparison_columns(comparison)
    columns = [one for one in columns if any(cell not in ("–", "") for cell in one.cells)]
    kinds = {"right": "", "left": "left"}
    sides = ["left name" if one.header == "run" else kinds[one.justify] for one in columns]
    rows = list(zip(*(column.cells for column in columns), strict=True))
    labels = [_key(index, group) for index, group in enumerate(comparison.groups)]
    cells = [[key, *map(escape, row[1:])] for key, row in zip(labels, rows, strict=True)]
    return html_table([escape(column.header) for column in columns], cells, ["left", *sides[1:]])


def _parts_table(groups: Sequence[Group]) -> str:
    header = ["", "run", *PARTS.values(), "all"]
    rows = [
        [
            _key(index, group),
            escape(group.name),
            *(duration(group.parts_seconds[part]) for part in PARTS),
            duration(group.seconds.mean),
        ]
        for index, group in enumerate(groups)
    ]
    return html_table(header, rows, ["left", "left name", *[""] * (len(PARTS) + 1)])


def _schedules(groups: Sequence[Group]) -> list[str]:
    """Return the schedule of each group's first run, all on one axis; none where none is known."""
    tracks = {group.label: _track(group) for group in groups}
    known = {label: track for label, track in tracks.items() if track is not None}
    if not known:
        return []
    right = max(track.position(track.total_steps) for track in known.values())
    names = {lane.name for track in known.values() for lane in lanes(track)}
    cards = [
        f'<div class="card">{_key(index, group)} <b>{escape(group.name)}</b>'
        f"{lanes_svg(known[group.label], right, _lanes_named(known[group.label], names), group.name)}</div>"
        for index, group in enumerate(groups)
        if group.label in known
    ]
    return ["<h2>Schedules, over the same epochs</h2>", *cards]


def _lanes_named(track: Track, names: Collection[str]) -> list[Lane]:
    return [lane for lane in all_lanes(track) if lane.name in names]


def _track(group: Group) -> Track | None:
    """Return what the first run of a group trained along, as its result says."""
    result = group.runs[0].result
    if not result.schedule:
        return None
    try:
        recipe = parse(Recipe, group.runs[0].configuration["recipe"], "run.yaml")
        schedule = parse(GrowthSchedule, result.schedule, "result.json")
        table = schedule.resolve(NOMINAL_STEPS_PER_EPOCH, result.epochs)
    except ConfigError:
        return None  # of a version with other laws: the numbers stand without the picture
    return track_of_table(schedule.full.spec(), table, recipe.strength)


def _key(index: int, group: Group) -> str:
    return f'<span class="key c{index % len(COLOURS)}">{group.label}</span>'


def _legend(groups: Sequence[Group]) -> str:
    keys = (
        f"<span>{_key(index, group)} {escape(group.name)}</span>"
        for index, group in enumerate(groups)
    )
    return f'<div class="legend">{"".join(keys)}</div>'


def _configuration(index: int, group: Group, reference: str) -> str:
    differences = "".join(f"<li>{escape(text)}</li>" for text in difference_texts(group))
    runs = "".join(
        f"<li>seed {run.result.seed}: {run.result.top1_ema:.2f} %,"
        f" {duration(run.result.wall_seconds)}, {escape(run.result.run_id)}</li>"
        for run in group.runs
    )
    differs = f"<p>Differs from {reference} in</p><ul>{differences}</ul>" if differences else ""
    return (
        f'<div class="card">{_key(index, group)} <b>{escape(group.name)}</b>'
        f"{differs}<p>Runs</p><ul>{runs}</ul><details><summary>All settings</summary>"
        f"<pre>{escape(dump_yaml(group.runs[0].configuration))}</pre></details></div>"
    )
