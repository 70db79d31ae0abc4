"""The view of a run under a time budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from autoprog.events import RunStarted
from autoprog.runs import RunFolder, load_run
from autoprog.ui.show import show


@pytest.fixture
def budgeted(run_builder: Callable[[int], Path], tmp_path: Path) -> Callable[[int], Path]:
    """Return a builder of a run that has a time budget, carried out up to a step."""

    def build(last_step: int) -> Path:
        plain = load_run(run_builder(last_step))
        settings = plain.manifest.settings.model_copy(update={"time_budget_seconds": 7200.0})
        changes = {"run_id": "budgeted", "settings": settings}
        folder = RunFolder.create(tmp_path, plain.manifest.model_copy(update=changes))
        for event in plain.events():
            if isinstance(event, RunStarted):
                more = {"time_budget_seconds": 7200.0, "world_size": 8, "hardware": "NVIDIA H100"}
                event = event.model_copy(update=more)
            folder.append(event)
        folder.close()
        return folder.path

    return build


def test_show_has_a_section_on_speed(
    budgeted: Callable[[int], Path],
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    console = fixed_console(100)
    show(str(budgeted(2300)), console=console)
    section = shown(console).split("Time budget")[1]
    assert "2:00:00 on 8 x NVIDIA H100" in section
    rows = [line.strip("│ ").split() for line in section.splitlines()]
    # 128 images a step of 0.05 s at 128 px; waiting takes a fifth of the time.
    assert ["6", "128", "1,000", "50.0", "s", "2,560", "20%", "loader"] in rows


def test_plain_text_and_json_have_it_too(
    budgeted: Callable[[int], Path],
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    path = budgeted(2300)
    console = fixed_console(100)
    show(str(path), plain=True, console=console)
    assert "Time budget\n2:00:00 on 8 x NVIDIA H100\n" in shown(console)
    console = fixed_console(100)
    show(str(path), as_json=True, console=console)
    budget = json.loads(shown(console))["budget"]
    assert budget["hardware"] == ["NVIDIA H100"]
    assert [row["img_size"] for row in budget["speeds"]] == [128, 160]


def test_a_run_without_a_budget_has_no_such_section(
    run_builder: Callable[[int], Path],
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    path, console = run_builder(2300), fixed_console(100)
    show(str(path), console=console)
    show(str(path), plain=True, console=console)
    show(str(path), as_json=True, console=console)
    assert "Time budget" not in shown(console)
    assert '"budget": null' in shown(console)
