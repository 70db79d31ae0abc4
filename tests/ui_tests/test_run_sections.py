"""What is shown of a run: its facts on top, its time budget, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from autoprog.events import RunStarted
from autoprog.runs import RunFolder, load_run
from autoprog.ui.format import amount
from autoprog.ui.render_rich import view
from autoprog.ui.run_sections import (
    finished_line,
    finished_lines,
    header_facts,
    header_section,
    result_rows,
)
from autoprog.ui.show import show
from autoprog.ui.subject import find_subject
from supernet.cost import macs, parameters
from supernet.zoo import ZOO

RESULT: dict[str, Any] = {
    "run_id": "a-run",
    "top1": 78.0,
    "top1_ema": 80.0,
    "loss": 0.6,
    "loss_ema": 0.5,
    "wall_seconds": 124.0,
    "train_seconds": 100.0,
    "supernet_seconds": 0.0,
    "eval_seconds": 4.0,
    "epochs": 16.0,
    "num_validation_images": 736,
    "largest_class_fraction": 0.8,
    "class_images": [590, 146],
    "balanced_top1": 49.0,
    "balanced_top1_ema": 50.0,
    "best_top1": 81.5,
    "best_step": 700,
    "best_epoch": 7.0,
    "full_model_epochs": 16.0,
    "full_model_seconds": 250.0,
}


def test_the_lines_of_a_result_are_few_and_leave_out_what_took_no_time() -> None:
    assert finished_lines(RESULT) == [
        "finished: top-1 EMA 80.00 ± 2.9 %, top-1 78.00 ± 3.0 %, loss EMA 0.5000, loss 0.6000,"
        " validation images 736",
        "accuracy: balanced EMA 50.00 %, balanced 49.00 %, largest class 80.0 % of the images",
        "best EMA: 81.50 % at epoch 7 (checkpoints/best.safetensors)",
        "time: wall time 2:04, training 1:40, evaluation 4.0 s",
        "work: epochs 16",
        "full model: about 4:10 for 16 epochs (predicted from its steps here); this run 2:04",
    ]


def test_quiet_is_one_short_line() -> None:
    line = finished_line(RESULT)
    assert line == "finished: top-1 EMA 80.00 ± 2.9 %, top-1 78.00 ± 3.0 %, in 2:04, a-run"


@pytest.mark.parametrize("images", [[370, 366], None])
def test_balanced_classes_need_no_line_of_their_own(images: list[int] | None) -> None:
    balanced = {**RESULT, "class_images": images, "largest_class_fraction": 370 / 736}
    assert not [line for line in finished_lines(balanced) if line.startswith("accuracy")]
    assert ("balanced EMA", "50.00 %") in result_rows(balanced)


def test_an_early_stop_is_told() -> None:
    stopped = {**RESULT, "stopped_early": True}
    assert ("stopped early", "yes") in result_rows(stopped)
    assert finished_lines(stopped)[2].endswith("after which the run was stopped early")


def test_a_result_of_before_has_the_rows_that_it_knows() -> None:
    old = {"top1": 78.0, "top1_ema": 80.0, "wall_seconds": 124.0}
    assert result_rows(old) == [
        ("top-1 EMA", "80.00 %"),
        ("top-1", "78.00 %"),
        ("wall time", "2:04"),
    ]


def test_compute_and_parameters_are_those_with_the_classes_of_the_run() -> None:
    plan = find_subject("linear", ZOO["vit-mu"], 4.0, None, 0.0)
    spec = ZOO["vit-mu"]
    for classes in (1000, 10):
        subject = replace(plan, state=replace(plan.state, num_classes=classes))
        facts = dict(header_facts(subject))
        assert facts["MACs"] == amount(macs(spec, spec.full, classes))
        assert facts["parameters"] == amount(parameters(spec, spec.depth, classes))


def test_facts_are_never_broken(
    fixed_console: Callable[..., Console], shown: Callable[[Console], str]
) -> None:
    plan = find_subject("linear", ZOO["vit-mu"], 4.0, None, 0.0)
    for width in (40, 60, 80):
        console = fixed_console(width)
        console.print(view(header_section(plan)))
        text = shown(console)
        for name, value in header_facts(plan):
            assert f"{name} {value}" in text
        assert max(map(len, text.splitlines())) <= width


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
