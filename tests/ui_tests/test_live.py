from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from autoprog.events import (
    CostsKnown,
    CostsMeasured,
    Event,
    Grown,
    RunStarted,
    StageStarted,
    StepLogged,
    SupernetStarted,
)
from autoprog.stage import Curriculum
from autoprog.ui.live import make_display
from supernet.config import SubnetConfig


class HandClock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def lines_of(
    events: list[Event], console: Console, tick_seconds: float, quiet: bool = False
) -> list[str]:
    clock = HandClock()
    with make_display(console, quiet, clock=clock) as display:
        for event in events:
            display.show(event)
            clock.seconds += tick_seconds
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_pipe_gets_a_line_for_each_thing_that_happens(
    events: list[Event], fixed_console: Callable[..., Console]
) -> None:
    lines = lines_of(events, fixed_console(80), tick_seconds=0.0)
    assert lines[0] == (
        "search 2026-11-22-143005-search-deit-s starts at step 0: deit-s, 12,800 images,"
        " 4,000 steps, cuda bfloat16, seed 3"
    )
    starts = [line.split(":")[0] for line in lines if line.startswith("stage")]
    assert starts == ["stage 1", "stage 2", "stage 3", "stage 4"]
    assert sum("evaluated: top-1" in line for line in lines) == 20
    assert sum("grown from" in line for line in lines) == 2
    assert sum(" candidate " in line for line in lines) == 27
    assert sum(line.endswith("(winner)") for line in lines) == 3
    assert "warning: the data loader is slower than the model" in lines
    ended = lines[-3:]
    assert ended[0].startswith("finished: top-1 EMA 74.50 %, top-1 73.25 %")
    assert [line.split(":")[0] for line in ended] == ["finished", "time", "work"]
    assert max(map(len, ended)) < 150
    assert all(line.isascii() for line in lines)


def test_progress_in_a_pipe_comes_every_twentieth_of_the_run_when_it_is_fast(
    events: list[Event], fixed_console: Callable[..., Console]
) -> None:
    lines = lines_of(events, fixed_console(80), tick_seconds=0.0)
    progress = [line for line in lines if "img/s" in line]
    assert 19 <= len(progress) <= 21
    assert progress[0] == (
        "step 20/4000 (0.5%), epoch 0.2, d6 r128, loss 6.7210, lr 0.001, 2,560 img/s,"
        " data wait 20%, trained 1.0 s, left 4:09"
    )


def test_progress_in_a_pipe_comes_every_ten_seconds_when_it_is_slow(
    events_until: Callable[[int], list[Event]], fixed_console: Callable[..., Console]
) -> None:
    events = events_until(180)
    assert sum(event.kind == "step_logged" for event in events) == 9
    every = lines_of(events, fixed_console(80), tick_seconds=10.0)
    assert sum("img/s" in line for line in every) == 9
    third = lines_of(events, fixed_console(80), tick_seconds=10 / 3 + 0.01)
    assert sum("img/s" in line for line in third) == 3


def test_lines_are_flushed_one_by_one(events_until: Callable[[int], list[Event]]) -> None:
    class Counting(io.StringIO):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    file = Counting()
    with make_display(Console(file=file, width=80, _environ={})) as display:
        for event in events_until(0):
            display.show(event)
    assert file.flushes >= len(file.getvalue().splitlines()) == 2


def test_quiet_tells_warnings_and_the_result_alone(
    events: list[Event], fixed_console: Callable[..., Console]
) -> None:
    lines = lines_of(events, fixed_console(80), tick_seconds=10.0, quiet=True)
    assert [line.split(":")[0] for line in lines] == ["warning", "finished"]


def test_a_terminal_keeps_what_happened_above_a_bar(
    events_until: Callable[[int], list[Event]], fixed_console: Callable[..., Console]
) -> None:
    console = fixed_console(90, force_terminal=True)
    text = "\n".join(lines_of(events_until(2300), console, tick_seconds=1.0))
    for part in (
        "▶ grow to depth 8, 160 px",
        "grown from d6 r128 to d8 r160",
        "epoch 2  evaluated: top-1 13.17 %",
        "! the data loader is slower than the model",
        "● training deit-s  stage 3  depth 8, 160 px",
        "step 2,300/4,000",
        "3:59 left",
        "img/s 1,600   data wait 20%",
    ):
        assert part in text


def test_a_dumb_terminal_gets_lines(
    events_until: Callable[[int], list[Event]],
) -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, _environ={"TERM": "dumb"})
    lines = lines_of(events_until(20), console, tick_seconds=1.0)
    assert len(lines) == 3
    assert all(line.isascii() for line in lines)


def test_redraws_are_paced_by_the_clock(
    events_until: Callable[[int], list[Event]], fixed_console: Callable[..., Console]
) -> None:
    events = events_until(180)
    slow = fixed_console(90, force_terminal=True)
    fast = fixed_console(90, force_terminal=True)
    assert len(lines_of(events, slow, tick_seconds=1.0)) > 2 * len(
        lines_of(events, fast, tick_seconds=0.001)
    )


SMALL, FULL = SubnetConfig(6, 32), SubnetConfig(12, 64)


def begin_of_a_search(num_estimated: int = 1) -> list[Event]:
    """Return a search by time up to its first supernet: costs are measured, one a second."""
    begin = RunStarted(
        step=0,
        run_id="r",
        run_kind="search",
        model="deit-s",
        total_steps=176,
        steps_per_epoch=22,
        epochs=16.0,
        num_images=1437,
        device="cpu",
        amp="none",
        seed=0,
        cost_fraction=0.5,
    )
    first = CostsMeasured(step=0, num_measured=0, num_subnets=16, left_seconds=20.0)
    told = [
        first.model_copy(update={"num_measured": n, "left_seconds": 20.0 - n, "run_seconds": 720.0})
        for n in range(2, 16)
    ]
    known = CostsKnown(
        step=0, step_seconds=((SMALL, 0.1), (FULL, 4.0)), num_estimated=num_estimated
    )
    stage = StageStarted(step=0, stage=0, subnet=SMALL, stop_step=900, curriculum=Curriculum())
    progress = StepLogged(
        step=80,
        epoch=3.6,
        loss=2.0,
        lr=1e-4,
        subnet=SMALL,
        step_seconds=0.1,
        images_per_second=640.0,
        data_wait_fraction=0.0,
        train_seconds=8.0,
        budget_fraction=0.0114,
    )
    supernet = SupernetStarted(
        step=80, decision=0, current=SMALL, candidates=(SMALL, FULL), stop_step=90
    )
    grown = Grown(
        step=80,
        before=SMALL,
        after=FULL,
        init="ema",
        placement="interpolate",
        old_blocks="keep",
        optimizer_state="copy",
        origins=(),
        delta_loss=3.6543,
        delta_logits=0.4,
        lost_seconds=0.3,
        opens_supernet=True,
    )
    return [begin, first, *told, known, stage, progress, supernet, grown]


def test_a_pipe_is_told_how_far_measuring_is_and_what_the_search_will_take(
    fixed_console: Callable[..., Console],
) -> None:
    lines = lines_of(begin_of_a_search(), fixed_console(80), tick_seconds=4.0)
    assert lines[1:3] == [
        "measuring the step times of 16 subnets: at most 20.0 s",
        "measuring step times: 2 of 16 subnets, at most 18.0 s left;"
        " the whole search: about 12:00 by cost fraction 0.5",
    ]
    later = [line for line in lines if line.startswith("measuring step times")][1:]
    assert 3 <= len(later) <= 5, "a line each ten seconds"
    known = "measured step times of 1 of 2 subnets, the other is interpolated; about 11:44 to go"
    assert known in lines
    assert any("1.1% of the time, step 80, epoch 3.6," in line for line in lines)
    assert "supernet opened: depth up to 12, up to 64 px; candidates d6 r32, d12 r64" in lines
    assert not any("3.6543" in line for line in lines), "the opening of a supernet is no growth"


def test_a_terminal_shows_the_measuring_in_the_bar(fixed_console: Callable[..., Console]) -> None:
    events = begin_of_a_search(num_estimated=0)
    console = fixed_console(90, force_terminal=True)
    text = "\n".join(lines_of(events, console, tick_seconds=1.0))
    for part in (
        "● measuring deit-s",
        "measuring the step times of 16 subnets: at most 20.0 s",
        "measuring step times: 5 of 16 subnets, at most 15.0 s left",
        "the whole search: about 12:00 by cost fraction 0.5",
        "step times of 2 of 2 subnets; about 11:44 to go",
        "supernet opened: depth up to 12, up to 64 px",
        "1.1% of the time",
    ):
        assert part in text
    assert "/≈" not in text, "how many steps there will be is not known yet"


def test_a_signal_is_answered_above_the_bar_even_while_that_is_drawn(
    events_until: Callable[[int], list[Event]], fixed_console: Callable[..., Console]
) -> None:
    console = fixed_console(90, force_terminal=True)
    with make_display(console, clock=HandClock()) as display:
        for event in events_until(40):
            display.show(event)
        display.answer("SIGINT: stopping")
        out = console.file
        assert isinstance(out, io.StringIO)
        assert "■ SIGINT: stopping" in out.getvalue()
        size = len(out.getvalue())
        display._is_drawing = True  # type: ignore[attr-defined]
        display.answer("once more")
        assert len(out.getvalue()) == size
        display.show(events_until(60)[-1])
        assert "■ once more" in out.getvalue()
