"""Tables of any width: what is cut, and what stays whole."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from autoprog.ui.tables import Column, rich_table

COLUMNS = [
    Column("", ("A", "B")),
    Column("run", ("constant", "search rollout in 0.29 of the time"), "left"),
    Column("top-1", ("47.02 ± 0.86", "47.18 ± 0.65")),
    Column("delta", ("–", "+0.16")),
    Column("time", ("10:22 ± 11.5 s", "3:26 ± 6.3 s")),
    Column("MACs", ("17.4 T", "5.3 T"), rank=1),
]


@pytest.mark.parametrize(
    ("width", "gone"),
    [
        (100, ()),
        (80, ("MACs",)),
        (60, ("MACs",)),
        (45, ("MACs", "time")),
        (30, ("MACs", "time", "delta")),
    ],
)
def test_numbers_are_whole_or_gone_and_texts_are_cut(width: int, gone: tuple[str, ...]) -> None:
    out = io.StringIO()
    Console(file=out, width=width).print(rich_table(COLUMNS, width))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for column in COLUMNS:
        seen = [one in text for one in (column.header, *column.cells) if column.justify == "right"]
        assert all(seen) or column.header in gone
        assert not (column.header in gone and column.header in text)
    assert "constant" in text
    assert ("search rollout in 0.29 of the time" in text) == (width >= 80)
