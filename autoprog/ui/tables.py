"""Tables that fit: columns leave in the order of their rank until the rest has room.

The same columns become a table of rich, of plain ASCII text and of Markdown; the last two keep all columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from autoprog.printable import one_line
from autoprog.ui.format import DIM, WINNER, ascii_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "GAP",
    "Column",
    "cut_columns",
    "fit_columns",
    "list_table",
    "markdown_table",
    "plain_table",
    "rich_table",
    "table_width",
]

GAP = 2
# Fewer letters of a name do not say which it is; mark, name and one value are the least of a row.
_MIN_TEXT, _MIN_COLUMNS = 8, 3
# Logs of somebody else may hold 20,000 trials or texts of pages, which rich would draw for minutes.
_MAX_ROWS = 1000
_LONGEST_CELL = 500


@dataclass(frozen=True)
class Column:
    """A column of texts. ``rank`` 0 always stays; of the others the highest leaves first.

    A text that has to be cut loses its end, or its start where ``keeps_end``. What is too long to be drawn
    is cut at once: tables of hundreds of thousands of rows, texts of pages.
    """

    header: str
    cells: tuple[str, ...]
    justify: Literal["left", "right"] = "right"
    rank: int = 0
    keeps_end: bool = False

    def __post_init__(self) -> None:
        cells = (one_line(cell, _LONGEST_CELL) for cell in self.cells[:_MAX_ROWS])
        more = ("…",) if len(self.cells) > _MAX_ROWS else ()
        object.__setattr__(self, "cells", (*cells, *more))

    @property
    def width(self) -> int:
        """Return the columns of the terminal that it takes."""
        return max(len(self.header), *map(len, self.cells)) if self.cells else len(self.header)


def table_width(columns: Sequence[Column]) -> int:
    """Return the width of a table of all these columns."""
    return sum(column.width + GAP for column in columns) - GAP


def fit_columns(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit `width`, in their order."""
    kept = list(columns)
    # Rank 0 is never given up here: what is left then is cut by those who draw.
    while table_width(kept) > width:
        last = max(kept, key=lambda column: column.rank)
        if last.rank == 0:
            break
        kept.remove(last)
    return kept


def cut_columns(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns with the widest text cut so that all of them fit `width`, if they can."""
    # Only texts are cut: half a number is another number.
    too_much = table_width(columns) - width
    texts = [column for column in columns if column.justify == "left"]
    if too_much <= 0 or not texts:
        return list(columns)
    longest = max(texts, key=lambda column: column.width)
    room = max(_MIN_TEXT, longest.width - too_much)

    def cut(text: str) -> str:
        if len(text) <= room:
            return text
        return "…" + text[1 - room :] if longest.keeps_end else text[: room - 1] + "…"

    shorter = replace(longest, header=cut(longest.header), cells=tuple(map(cut, longest.cells)))
    return [shorter if column is longest else column for column in columns]


def rich_table(
    columns: Sequence[Column], width: int, strong_rows: Collection[int] = (), *, wraps: bool = False
) -> Table:
    """Return a table that fits `width`, with some rows made bold.

    Numbers stay whole: where no column may leave, the widest text is cut, or goes on in the next line where
    the table wraps; then the last columns leave.
    """
    from rich import box  # here, so that tables of text and of JSON need no rich
    from rich.table import Table
    from rich.text import Text

    # Columns leave by rank first; only then is a text cut, and only then do the last columns leave.
    kept = fit_columns(columns, width)
    longest = max((c for c in kept if c.justify == "left"), key=lambda c: c.width, default=None)
    cut = 0 if longest is None else max(0, longest.width - _MIN_TEXT)
    while table_width(kept) - cut > width and len(kept) > _MIN_COLUMNS:
        kept = kept[:-1]
    too_much = max(0, table_width(kept) - width)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.border_style = table.header_style = DIM
    for column in kept:
        table.add_column(
            column.header,
            justify=column.justify,
            # rich would break numbers into two lines before it cuts a text.
            no_wrap=not wraps or column is not longest,
            overflow="fold" if wraps else "ellipsis",
            min_width=None if column is longest else column.width,
            max_width=max(1, column.width - too_much) if column is longest else None,
        )
    for number, cells in enumerate(zip(*(column.cells for column in kept), strict=True)):
        style = WINNER if number in strong_rows else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def plain_table(columns: Sequence[Column]) -> list[str]:
    """Return the lines of a table in plain ASCII, every column in it."""
    # All columns: a pipe has no width, and whoever reads a file can scroll.
    texts = [[ascii_text(text) for text in (column.header, *column.cells)] for column in columns]
    widths = [max(map(len, column)) for column in texts]
    rows = zip(*texts, strict=True)
    return [
        "  ".join(
            cell.ljust(width) if column.justify == "left" else cell.rjust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in rows
    ]


def markdown_table(columns: Sequence[Column]) -> list[str]:
    """Return the lines of a table in GitHub's Markdown, every column in it."""
    rules = [":--" if column.justify == "left" else "--:" for column in columns]
    rows = zip(*(column.cells for column in columns), strict=True)
    # A bar inside of a cell would end it.
    table = [[column.header for column in columns], rules, *map(list, rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]


def list_table(texts: Mapping[str, str]) -> Table:
    """Return names and what they mean; long meanings wrap."""
    from rich.table import Table

    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, text in texts.items():
        table.add_row(name, text)
    return table
