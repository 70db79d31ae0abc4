"""What a complete run came to, in a few lines and in one."""

from __future__ import annotations

from typing import Any

import pytest

from autoprog.ui.run_sections import finished_line, finished_lines, result_rows

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
