from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console

from autoprog.events import Event
from autoprog.ui.display import make_display


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
    assert sum(event.kind == "progressed" for event in events) == 9
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
        "2:50 left",
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
