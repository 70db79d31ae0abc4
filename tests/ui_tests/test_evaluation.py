"""How an evaluation is told: on a terminal, as text, as values."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from autoprog.evaluation_grid import EvaluatedCell, EvaluationGrid
from autoprog.ui.evaluation import grid_section
from autoprog.ui.live import PartsBar
from autoprog.ui.render_rich import view
from autoprog.ui.section import document, plain_text
from supernet.config import SubnetConfig, TokenRule

RULE = TokenRule(0.5, "class_attention", (3, 6, 9))


def grid(*cells: EvaluatedCell) -> EvaluationGrid:
    return EvaluationGrid("deit-s", "final.safetensors", "cpu", "none", 64, 50_000, cells)


def grid_text(shown: EvaluationGrid) -> str:
    return plain_text([grid_section(shown)])


def grid_document(shown: EvaluationGrid) -> dict[str, Any]:
    return document([grid_section(shown)])


CELLS = (
    EvaluatedCell(SubnetConfig(12, 224), 80.62, 0.9, 4_600_000_000, 1234.5),
    EvaluatedCell(SubnetConfig(12, 224, RULE), 79.95, 0.95, 2_300_000_000, 2222.2),
    EvaluatedCell(SubnetConfig(12, 160), 78.53, 1.01, 2_400_000_000, 2100.0),
)


def drawn(shown: EvaluationGrid, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, _environ={})
    console.print(view(grid_section(shown)))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_text_has_a_line_for_each_cell_and_says_what_it_means() -> None:
    assert grid_text(grid(*CELLS)).splitlines() == [
        "deit-s, final.safetensors: 50,000 validation images (top-1 +- 0.3), batches of 64 on cpu,"
        " precision none",
        "",
        " px  keep-rate   MACs  top-1 %    loss  images/s  front",
        "224          1  4.6 G    80.62  0.9000     1,234  *",
        "224        0.5  2.3 G    79.95  0.9500     2,222  *",
        "160          1  2.4 G    78.53  1.0100     2,100",
        "",
        "tokens kept by class attention at block 3, 6, 9",
        "front (*): no other cell is as accurate for fewer MACs",
    ]


def test_a_single_cell_has_no_front_and_a_speed_only_where_it_was_measured() -> None:
    text = grid_text(grid(EvaluatedCell(SubnetConfig(12, 224), 80.62, 0.9, 4_600_000_000)))
    assert "front" not in text
    assert "images/s" not in text
    assert len(text.splitlines()) == 4


@pytest.mark.parametrize("width", [30, 60, 120])
def test_the_view_keeps_accuracies_at_any_width(width: int) -> None:
    view = drawn(grid(*CELLS), width)
    for text in ("80.62", "79.95", "78.53", "0.5", "160"):
        assert text in view
    assert max(map(len, view.splitlines())) <= width
    assert ("images/s" in view) == (width > 30)


def test_the_document_rounds_nothing_and_takes_losses_that_are_no_numbers() -> None:
    broken = EvaluatedCell(SubnetConfig(12, 224), 0.1, float("nan"), 4_600_000_000)
    found = json.loads(json.dumps(grid_document(grid(*CELLS, broken)), allow_nan=False))
    assert found["schema"] == 1
    assert [one["on_front"] for one in found["cells"]] == [True, True, False, False]
    assert found["cells"][1] == {
        "depth": [12],
        "img_size": 224,
        "keep_rate": 0.5,
        "by": "class_attention",
        "at_blocks": [3, 6, 9],
        "macs": 2_300_000_000,
        "top1": 79.95,
        "balanced_top1": None,
        "loss": 0.95,
        "images_per_second": 2222.2,
        "on_front": True,
    }
    assert found["cells"][3]["loss"] is None


def test_of_unbalanced_classes_balanced_accuracy_and_the_largest_fraction_are_told() -> None:
    cell = EvaluatedCell(SubnetConfig(12, 224), 80.0, 0.5, 4_600_000_000, balanced_top1=50.0)
    shown = replace(grid(cell), num_images=80, class_images=(64, 16))
    lines = grid_text(shown).splitlines()
    assert "validation images (top-1 +- 8.7)" in lines[0]
    assert lines[2:4] == [
        " px  keep-rate   MACs  top-1 %  balanced %    loss",
        "224          1  4.6 G    80.00          50  0.5000",
    ]
    assert lines[-2:] == [
        "the largest of 2 classes has 80.0 % of the images",
        "! top-1 of 80.00 % is not above the fraction of the largest class (80.0 % of the validation images):"
        " the network has learnt nothing beyond it",
    ]
    assert "balanced" not in grid_text(replace(shown, class_images=(41, 39)))
    found = grid_document(shown)
    assert (found["largest_class_fraction"], found["class_images"]) == (0.8, [64, 16])


def bar_output(terminal: bool, steps: int) -> str:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=terminal, color_system=None, _environ={})
    seconds = iter(range(10_000))
    with PartsBar(console, clock=lambda: float(next(seconds))) as bar:
        for step in range(steps + 1):
            bar.update("accuracy", step, steps)
        bar.update("speed", 1, 4)
    return file.getvalue()


def test_progress_shows_what_is_left_on_a_terminal_and_nothing_elsewhere() -> None:
    shown = bar_output(terminal=True, steps=8)
    assert "accuracy" in shown
    assert "4/8" in shown
    assert "speed" in shown
    assert "0:00:" in shown  # the time that is left
    assert bar_output(terminal=False, steps=8) == ""
