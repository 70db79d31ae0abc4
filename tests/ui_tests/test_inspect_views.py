"""What is marked, compared and computed in the program, by its keys."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from textual.pilot import Pilot

from autoprog.cli import main
from autoprog.decisions import Importance
from autoprog.events import Event
from autoprog.openfiles import write_atomically
from autoprog.processes import WorkerStatus, this_process
from autoprog.ui.format import DIM
from autoprog.ui.inspect.app import KEYS, InspectApp, make_app
from autoprog.ui.inspect.panes import VIEWS, Importances
from autoprog.ui.render_rich import view
from autoprog.ui.run_sections import OtherRun, accuracy_series, curves_section, loss_series
from autoprog.ui.state import fold

SMALL, LARGE = (80, 24), (160, 50)

Builder = Callable[[int], Path]
Steps = Callable[[Pilot[None]], Awaitable[None]]


def screen_text(app: InspectApp) -> str:
    lines = (strip.text for strip in app.screen._compositor.render_strips())
    return "\n".join(lines).replace("\xa0", " ")


def drive(
    targets: Sequence[Path | str],
    steps: Steps,
    size: tuple[int, int] = LARGE,
    importances: Importances | None = None,
) -> None:
    async def inner() -> None:
        app = make_app([str(t) for t in targets], "nowhere", 0.1, importances)
        async with app.run_test(size=size, notifications=True) as pilot:
            await steps(pilot)

    asyncio.run(inner())


async def seen(pilot: Pilot[None], *words: str, gone: str | None = None) -> str:
    assert isinstance(pilot.app, InspectApp)
    for _ in range(200):
        await pilot.pause(0.02)
        text = screen_text(pilot.app)
        if all(word in text for word in words) and (gone is None or gone not in text):
            return text
    raise AssertionError(f"{words} without {gone} not in:\n{text}")


def copied(run: Path, name: str, **changes: str | float) -> Path:
    """Copy a run with other settings in ``run.yaml`` and another result."""
    path = run.parent / name
    shutil.copytree(run, path)
    text = (path / "run.yaml").read_text()
    for key in ("kind", "schedule_from", "seed"):
        if key in changes:
            before = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
            text = text.replace(before, f"{before.partition(':')[0]}: {changes[key]}")
    (path / "run.yaml").write_text(text)
    result = path / "result.json"
    if result.exists():
        body = json.loads(result.read_text())
        body.update({k: v for k, v in changes.items() if k in body})
        result.write_text(json.dumps(body))
    return path


def test_marked_runs_are_compared_over_every_axis(run_builder: Builder) -> None:
    run = run_builder(4000)
    copied(run, "2026-11-23-other-seed", seed=4, top1_ema=76.5)
    copied(run, "2026-11-24-other-kind", kind="train", schedule_from="linear", macs=1.605e15)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("1")
        await seen(pilot, "other-kind", "other-seed", "space Mark", "b Baseline")
        await pilot.press("7")
        await seen(pilot, "mark some under Runs")
        await pilot.press("1", "G", "space", "k", "space", "k", "space")
        text = await seen(pilot, "3 marked (*)")
        assert text.count("*  ✔ complete") + text.count("* ✔ complete") == 3
        await pilot.press("7")
        text = await seen(pilot, "75.50 ± 1.41", "74.50", "over wall time", "0.50")
        assert text.index("75.50 ± 1.41") < text.index("B  linear")
        await pilot.press("x")
        await seen(pilot, "over images", "512 k images", gone="over wall time")
        await pilot.press("x")
        await seen(pilot, "over multiply-accumulates", "3.21 P MACs")
        await pilot.press("x")
        await seen(pilot, "over wall time")
        await pilot.press("1", "space")
        await seen(pilot, "2 marked (*)")
        await pilot.press("7")
        await seen(pilot, "75.50 ± 1.41", gone="linear")
        shutil.rmtree(run.parent / "2026-11-23-other-seed")
        await seen(pilot, "left out: 2026-11-23-other-seed", "must be a run folder", gone="±")

    drive([run.parent], steps)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_runs_that_are_named_are_compared_at_once(
    size: tuple[int, int], run_builder: Builder
) -> None:
    run = run_builder(4000)
    other = copied(run, "2026-11-23-other", seed=4)
    running = copied(run, "2026-11-24-running")
    (running / "result.json").unlink()

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("7")
        text = await seen(pilot, "top-1 EMA %", "over wall time", "━ A")
        assert max(map(len, text.splitlines())) <= size[0]
        await seen(pilot, "left out: 2026-11-24-running: must be a complete run")

    drive([run, other, running], steps, size)


def test_the_newest_constant_run_is_the_ghost_until_another_is_chosen(run_builder: Builder) -> None:
    run = run_builder(4000)
    copied(run, "2026-11-21-constant", kind="train", schedule_from="constant")
    baseline = copied(run, "2026-11-22-constant", kind="train", schedule_from="my/constant.yaml")
    copied(run, "2026-11-23-linear", kind="train", schedule_from="linear")

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        await seen(pilot, "┄ baseline 2026-11-22-constant", "epoch 40", "x Epochs or seconds")
        await pilot.press("x")
        await seen(pilot, "┄ baseline 2026-11-22-constant", "8:32")
        shutil.rmtree(baseline)
        await seen(pilot, "┄ baseline 2026-11-21-constant")
        await pilot.press("1", "g", "b")
        await seen(pilot, "b ✔ complete", "2026-11-23-linear")
        await pilot.press("5")
        await seen(pilot, "┄ baseline 2026-11-23-linear")
        await pilot.press("1", "b", "5")
        await seen(pilot, "┄ baseline 2026-11-21-constant")

    drive([run], steps)


def test_a_run_of_other_data_is_no_ghost(run_builder: Builder) -> None:
    run = run_builder(4000)
    other = copied(run, "2026-11-23-constant", kind="train", schedule_from="constant")
    text = (other / "run.yaml").read_text()
    (other / "run.yaml").write_text(text.replace("dir: flowers", "dir: birds"))

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        await seen(pilot, "━ top-1 EMA")
        await pilot.pause(0.3)
        await seen(pilot, "━ top-1 EMA", gone="baseline")

    drive([run], steps)


def test_a_ghost_lies_under_the_run_and_is_told_apart_without_colour(
    events_until: Callable[[int], list[Event]], fixed_console: Callable[..., Console]
) -> None:
    state = fold(events_until(2000))
    ghost = OtherRun("baseline", fold(events_until(4000)))
    first, *own = accuracy_series(state, "epochs", ghost)
    assert (first.style, first.dotted, first.mark) == (DIM, True, "┄")
    assert tuple(own) == accuracy_series(state)
    assert first.points[-1][0] == 40
    console = fixed_console(100)
    console.print(view(curves_section(state, 7, "epochs", ghost)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("epoch 40") == 2  # both plots have one axis, as long as the longer run


def test_time_is_read_off_evaluations_and_goes_on_as_training_does(
    events_until: Callable[[int], list[Event]],
) -> None:
    state = fold(events_until(500))  # 0.05 s a step, wall time is 1.25 of it, evaluated at 400
    clock = state.clock()
    assert clock.wall_seconds(10.0) == pytest.approx(12.5)
    assert clock.wall_seconds_at(300) == pytest.approx(18.75)
    assert clock.wall_seconds(25.0) == pytest.approx(25.0 + 5.0)
    assert loss_series(state, "seconds")[0].points[-1][0] == pytest.approx(30.0)
    assert [x for x, _ in accuracy_series(state, "seconds")[0].points] == [12.5, 25.0]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_two_named_schedules_are_set_beside_each_other(size: tuple[int, int]) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "Schedule", "d Diff")
        await pilot.press("d")
        text = await seen(pilot, "Schedules A and B", "A linear", "B constant", "depth       A 6")
        assert max(map(len, text.splitlines())) <= size[0]
        await pilot.press("G")
        await seen(pilot, "≠≠≠≠≠≠", "the only other one")
        await pilot.press("d")
        await seen(pilot, "mean step cost", gone="Schedules A and B")
        await pilot.press("d")
        await seen(pilot, "Schedules A and B")
        await pilot.press("escape")
        await seen(pilot, gone="Schedules A and B")

    drive(["linear", "constant"], steps, size)


def test_marked_runs_and_then_none_follow_each_other_in_the_diff(run_builder: Builder) -> None:
    run = run_builder(4000)
    copied(run, "2026-11-23-a")
    copied(run, "2026-11-24-b")

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("d")
        await seen(pilot, "Nothing to compare with")
        await pilot.press("d", "1")
        await seen(pilot, "2026-11-24-b")
        await pilot.press("g", "space", "j", "space", "2", "d")
        await seen(pilot, "1 of 2", "The same on every axis")
        await pilot.press("d")
        await seen(pilot, "2 of 2")
        await pilot.press("d")
        await seen(pilot, "mean step cost", gone="of 2")

    drive([run], steps)


def searched_run(run: Path) -> Path:
    """Give a run a trial, a journal and a worker."""
    row = {
        "attempt": 0, "time": "2026-11-22T14:31:00", "kind": "trial_finished", "step": 4000, "number": 3,
        "loss": 1.5, "seconds": 60.0, "pruned": False, "stages": [[0.0, {"depth": [12], "img_size": 224}]],
    }  # fmt: skip
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    (run / "search.journal").write_text("")
    now = time.time()
    status = WorkerStatus(
        worker=2, process=this_process(), state="running", trial=7, since=now - 90, num_trials=4,
        updated=now - 30,
    )  # fmt: skip
    (run / "workers").mkdir()
    write_atomically(run / "workers" / "worker-2.json", status.model_dump_json())
    return run


def test_importances_are_computed_while_the_screen_answers(run_builder: Builder) -> None:
    run = searched_run(run_builder(4000))
    begun, goes_on, calls = threading.Event(), threading.Event(), []

    def slow(journal: Path) -> list[Importance]:
        calls.append(journal)
        begun.set()
        assert goes_on.wait(20)
        return [Importance("trials", "loss", 40, {"depth": 0.75, "img_size": 0.25})]

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await seen(pilot, "Which parameters matter: computing", "Trials: 1")
        assert begun.wait(5)
        await pilot.press("5")
        await seen(pilot, "Curves")
        await pilot.press("4")
        await seen(pilot, "computing")
        goes_on.set()
        await seen(pilot, "loss · trials · 40 trials", "depth", "75%", "25%", gone="computing")
        await pilot.pause(0.5)

    drive([run], steps, importances=slow)
    assert calls == [run / "search.journal"]


def test_why_there_are_no_importances_is_told(run_builder: Builder) -> None:
    run = searched_run(run_builder(4000))

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await seen(pilot, "matter: 3 complete trials; importances need 10")

    found = [Importance("trials", "loss", 3, {}, "3 complete trials; importances need 10")]
    drive([run], steps, importances=lambda _: found)


def test_workers_are_listed_with_trial_and_age(
    run_builder: Builder, capsys: pytest.CaptureFixture[str]
) -> None:
    run = searched_run(run_builder(4000))

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        text = await seen(pilot, "Workers: 1, 1 alive", "last sign")
        row = next(line for line in text.splitlines() if "running" in line).split()
        assert row[1:4] == ["2", "running", "7"]
        assert 29 <= float(row[4]) < 60

    drive([run], steps)
    assert main(["show", str(run), "--json"]) == 0
    (worker,) = json.loads(capsys.readouterr().out)["workers"]
    assert (worker["worker"], worker["trial"], worker["is_alive"]) == (2, 7, True)
    assert main(["show", str(run), "--plain"]) == 0
    assert "Workers" in capsys.readouterr().out


def test_the_palette_and_the_guide_hold_every_new_command(run_builder: Builder) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "image px")
        titles = {c.title for c in pilot.app.get_system_commands(pilot.app.screen)}
        assert {"View Compare", "Diff schedules", "Axis of Live"} <= titles
        await pilot.press("ctrl+p", *"Diff sch", "enter")
        await seen(pilot, "Nothing to compare with")
        await pilot.press("question_mark")
        await seen(pilot, *KEYS)

    drive([run_builder(4000)], steps, LARGE)
    assert {"d", "x", "Space, b"} <= KEYS.keys()


def test_pictures_of_all_views_need_no_terminal(
    run_builder: Builder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_builder(4000)
    other = copied(run, "2026-11-23-other", seed=4)
    folder = tmp_path / "deep" / "pictures"
    words = ["inspect", str(run), str(other), "--screenshots", str(folder), "--size", "100x30"]
    assert main(words) == 0
    assert capsys.readouterr().out.split() == [str(folder / f"{view}.svg") for view in VIEWS]
    inside = {
        "runs": "2026-11-23-other",
        "schedule": "RandAugment",
        "why": "Decision",
        "live": "online",
    }
    for name, word in {**inside, "growth": "Δloss", "compare": "interval"}.items():
        assert word in (folder / f"{name}.svg").read_text(encoding="utf-8"), name


@pytest.mark.parametrize("size", ["80", "80x", "x24", "59x24", "80x17", "80x24x2", "-80x24"])
def test_a_size_that_is_none_is_refused_and_nothing_is_written(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "linear", f"--screenshots={tmp_path / 'p'}", f"--size={size}"]) == 2
    assert "--size: must be columns x rows of at least 60x18" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_only_looks_loads_neither_torch_nor_optuna() -> None:
    program = (
        "import sys, autoprog.ui.inspect.app\n"
        "print(sorted({'torch', 'optuna', 'scipy', 'sklearn'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
