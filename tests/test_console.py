from __future__ import annotations

import io

import pytest
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from autoprog.console import Console
from autoprog.printable import is_printable, say

HOSTILE = "a\x1b]52;c;eA==\x07\x9b2J\r\u202eb [red]c[/] [/] :smile: \ud800"
SEEN = "a␛]52;c;eA==␇�2J␍�b [red]c[/] [/] :smile: �"


def table_of(text: str) -> Table:
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    return table


def console_of(**settings: object) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=200, _environ={}, **settings), file


@pytest.mark.parametrize(
    "view",
    [
        HOSTILE,
        Text(HOSTILE, "bold"),
        Text.assemble("x ", (HOSTILE, "red")),
        Group(HOSTILE, Text(HOSTILE)),
        Panel(Text(HOSTILE), title=Text(HOSTILE)),
        table_of(HOSTILE),
    ],
    ids=["str", "text", "spans", "group", "panel", "table"],
)
def test_a_text_is_shown_and_steers_nothing(view: RenderableType) -> None:
    console, file = console_of()
    console.print(view)
    shown = file.getvalue()
    assert is_printable(shown)
    assert "[red]c[/] [/] :smile:" in shown


def test_the_signs_stand_where_the_characters_were() -> None:
    console, file = console_of()
    console.out(HOSTILE)
    assert file.getvalue() == SEEN + "\n"


def test_rich_itself_sets_colours_and_moves_the_cursor() -> None:
    console, file = console_of(force_terminal=True, color_system="standard")
    with Live(Text(HOSTILE, "red"), console=console, auto_refresh=False):
        pass
    shown = file.getvalue()
    assert "\x1b[31m" in shown  # the colour
    assert "\x1b[?25h" in shown  # the cursor again
    assert "\x1b]52" not in shown
    assert "\x07" not in shown


def test_what_is_recorded_is_printable_too() -> None:
    console, _ = console_of(record=True)
    console.print(table_of(HOSTILE))
    assert is_printable(console.export_text(clear=False))
    assert is_printable(console.export_svg())


def test_lines_are_said_as_they_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE, end="")
    assert capsys.readouterr().out == SEEN
