from __future__ import annotations

from pathlib import Path

from autoprog.errors import command


def test_a_command_can_be_copied_whatever_the_path_holds() -> None:
    assert command("show", Path("runs/a")) == "autoprog show runs/a"
    assert command("show", "a $(rm b)") == "autoprog show 'a $(rm b)'"
