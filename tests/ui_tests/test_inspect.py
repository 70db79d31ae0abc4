from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input

from autoprog.errors import ConfigError
from autoprog.files import dump_yaml
from autoprog.runs import RunFolder, load_run
from autoprog.settings import SearchSettings
from autoprog.space import find_space
from autoprog.ui.inspect import readers as event_log
from autoprog.ui.inspect.app import VIEWS, InspectApp, make_app
from autoprog.ui.inspect.readers import EventLog, Listing, filtered, run_columns
from autoprog.ui.state import RunState, fold
from autoprog.ui.tables import cut_columns, fit_columns, table_width
from supernet.zoo import ZOO

SMALL, LARGE = (80, 24), (160, 50)
HEADLINES = {
    "runs": ("2026-11-22-143005-search-deit-s", "complete", "74.50 % EMA"),
    "schedule": ("Schedule", "depth", "image px", "RandAugment"),
    "why": ("Decision 0", "grow to depth 8, 160 px", "end loss", "score"),
    "search": ("Decision 2", "continuations weighed", "continuation", "end loss"),
    "live": ("Curves", "top-1 EMA", "training loss", "▲"),
    "growth": ("Growth", "d6 r128", "d8 r160", "Δloss"),
    "compare": ("No complete runs to compare", "Space"),
}

Builder = Callable[[int], Path]
Steps = Callable[[Pilot[None]], Awaitable[None]]


def screen_text(app: InspectApp) -> str:
    lines = (strip.text for strip in app.screen._compositor.render_strips())
    return "\n".join(lines).replace("\xa0", " ")


def drive(targets: list[Path | str], steps: Steps, size: tuple[int, int] = SMALL) -> None:
    """Run the program on a terminal of `size` and do `steps` when it has read its subject."""

    async def inner() -> None:
        app = make_app([str(target) for target in targets], "nowhere", poll_seconds=0.2)
        async with app.run_test(size=size) as pilot:
            await steps(pilot)

    asyncio.run(inner())


async def seen(
    pilot: Pilot[None], *words: str, gone: str | None = None, flowing: bool = False
) -> str:
    """Wait until all words are on the screen, and `gone` is not; fail with the screen otherwise.

    With `flowing` they may be broken into lines.
    """
    app = pilot.app
    assert isinstance(app, InspectApp)
    for _ in range(600):  # a busy machine draws late
        await pilot.pause(0.02)
        text = screen_text(app)
        text = " ".join(text.split()) if flowing else text
        if all(word in text for word in words) and (gone is None or gone not in text):
            return text
    raise AssertionError(f"{words} without {gone} not in:\n{text}")


def view_of(pilot: Pilot[None]) -> str:
    assert isinstance(pilot.app, InspectApp)
    return pilot.app._view


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_every_view_has_its_headline_and_quitting_leaves_the_run_as_it_was(
    size: tuple[int, int], run_builder: Builder
) -> None:
    run = run_builder(4000)
    before = files_of(run)

    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "✔ complete", "deit-s", "top-1 EMA 74.50 %")
        for number, (view, words) in enumerate(HEADLINES.items(), 1):
            await pilot.press(str(number))
            text = await seen(pilot, *words, "? Help", "q Quit")
            assert max(map(len, text.splitlines())) <= size[0]
            assert view_of(pilot) == view
        await pilot.press("q")
        await pilot.pause()
        assert not pilot.app.is_running

    drive([run], steps, size)
    assert files_of(run) == before


def test_a_view_says_how_to_open_a_run_while_none_is(
    run_builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_builder(4000)
    monkeypatch.chdir(run.parent.parent)

    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, run.name)
        for view in "23456":
            await pilot.press(view)
            await seen(pilot, "Nothing is open: Enter under 1 Runs", gone="reading")
        await pilot.press("1", "enter")
        await seen(pilot, "image px", gone="Nothing is open")
        await pilot.press("3")
        await seen(pilot, "Decision 0", gone="Nothing is open")

    drive([run.parent], steps)


@pytest.fixture
def searched(run_builder: Builder) -> Path:
    """A search that says what it chose from."""
    run, spec = run_builder(4000), ZOO["deit-s"]
    manifest = load_run(run).manifest
    search = SearchSettings(space=find_space(None, "deit-s")[0].space(spec, "space"), space_from="")
    settings = manifest.settings.model_copy(update={"search": search})
    body = manifest.model_copy(update={"settings": settings}).model_dump(mode="json", by_alias=True)
    (run / "run.yaml").write_text(dump_yaml(body))
    return run


def test_the_search_view_holds_what_was_weighed_and_what_steps_cost(searched: Path) -> None:
    costs = {
        f"d{depth} r{size} b128": depth * size / 1e4 for depth in (6, 12) for size in (128, 224)
    }
    (searched / "costs.json").write_text(json.dumps(costs))

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await seen(pilot, "Decision 2", "▶    1.9000  1:51:28  0.8000")
        await pilot.press("end")
        await seen(pilot, "Measured costs of a step", "d6 r128")

    drive([searched], steps)


def test_the_list_says_what_a_run_trained_on_and_for_how_long(searched: Path) -> None:
    rows = Listing(searched.parent, ()).rows()
    (row,) = rows
    assert (row.schedule, row.data, row.epochs, row.time) == (
        "search, rollout",
        "flowers",
        "40",
        "8:40",
    )
    assert filtered(rows, "flowers ROLLOUT") == rows
    every = [column.header for column in run_columns(rows)]
    for width, shown in ((60, ["run"]), (100, ["run", "model", "epochs", "time"]), (160, every)):
        kept = cut_columns(fit_columns(run_columns(rows), width - 2), width - 2)
        assert {"state", "left or top-1", *shown} <= {column.header for column in kept}
        assert table_width(kept) <= width - 2


def test_the_curves_have_room_in_a_small_terminal(run_builder: Builder) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        text = await seen(pilot, "top-1 EMA", "training loss")
        assert text.count("epoch 40") == 3  # the line above and both axes, without scrolling

    drive([run_builder(4000)], steps)


def test_keys_move_between_views_and_in_them(run_builder: Builder) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "Schedule")
        for keys, view in (
            (["l"], "why"),
            (["right"], "search"),
            (["tab"], "live"),
            (["h"], "search"),
            (["left", "shift+tab", "shift+tab"], "runs"),
            (["shift+tab"], "compare"),
            (["tab", "3"], "why"),
        ):
            await pilot.press(*keys)
            await pilot.pause()
            assert view_of(pilot) == view
        for key, title in (
            ("j", "Decision 1"),
            ("down", "Decision 2"),
            ("k", "Decision 1"),
            ("up", "Decision 0"),
            ("G", "Decision 2"),
            ("g", "Decision 0"),
            ("end", "Decision 2"),
            ("home", "Decision 0"),
        ):
            await pilot.press(key)
            await seen(pilot, title)
        await seen(pilot, "rule rollout")
        await pilot.press("pagedown")
        await seen(pilot, "runner-up", gone="rule rollout")
        await pilot.press("ctrl+u")
        await seen(pilot, "rule rollout")
        await pilot.press("2", "G")
        await seen(pilot, "peak memory", gone="parameters 22.1 M")
        await pilot.press("g")
        await seen(pilot, "parameters 22.1 M")
        await pilot.press("j", "j", "j", "j", "j", "j")
        await seen(pilot, gone="parameters 22.1 M")

    drive([run_builder(4000)], steps)


def test_the_mouse_chooses_a_view_and_a_decision(run_builder: Builder) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "Schedule")
        await pilot.click("#--content-tab-why")
        await seen(pilot, "Decision 0")
        await pilot.click("#decisions", offset=(10, 2))
        await seen(pilot, "Decision 1")

    drive([run_builder(4000)], steps)


def test_the_guide_lies_above_the_views_and_takes_their_keys(run_builder: Builder) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "Schedule")
        for close in ("escape", "question_mark", "q"):
            await pilot.press("question_mark")
            await seen(pilot, "filter the runs", "Looking changes nothing")
            await pilot.press("3", "tab", "slash", close)
            await seen(pilot, gone="Looking changes nothing")
            assert (view_of(pilot), pilot.app.is_running) == ("schedule", True)

    drive([run_builder(4000)], steps)


def test_runs_are_filtered_and_opened(run_builder: Builder, tmp_path: Path) -> None:
    first = run_builder(4000)
    shutil.copytree(first, tmp_path / "2026-11-23-training-one")
    (tmp_path / "2026-11-23-training-one" / "result.json").unlink()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.yaml").write_text("schema: 1\n")

    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "! unreadable", "● training", "✔ complete", "2026-11-23-training-one")
        await pilot.press("slash", *"complete q3")
        await seen(pilot, "no run passes the filter", gone="unreadable")
        assert view_of(pilot) == "runs"
        assert pilot.app.is_running
        await pilot.press("backspace", "backspace", "backspace")
        await seen(pilot, "✔ complete", gone="● training")
        await pilot.press("enter", "enter")
        await seen(pilot, "top-1 EMA 74.50 %", "image px")
        await pilot.press("1", "escape")
        await seen(pilot, "● training", "! unreadable")
        assert not pilot.app.query_one(Input).display
        await pilot.press("g", "enter")
        await seen(pilot, "! ", "run_id: must be given")  # told, and the program goes on
        await pilot.press("1", "j", "enter")
        await seen(pilot, "● training", "image px", gone="run_id: must")

    drive([tmp_path], steps)


def test_what_a_run_appends_shows_and_half_a_line_waits(
    run_builder: Builder, events_until: Callable[[int], list[object]]
) -> None:
    run = run_builder(2300)
    later = [event for event in events_until(4000) if event.step > 2300]  # type: ignore[attr-defined]

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("5")
        await seen(pilot, "● training", "step 2,300/4,000")
        folder = RunFolder.reopen(run)
        folder.append(later[0])  # type: ignore[arg-type]
        await seen(pilot, "step 2,320/4,000")
        folder.append(later[1])  # type: ignore[arg-type]
        path = run / "events.jsonl"
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        await pilot.pause(0.3)
        await seen(pilot, "step 2,320/4,000")
        path.write_bytes(whole)
        await seen(pilot, "step 2,340/4,000")
        for event in later[2:]:
            folder.append(event)  # type: ignore[arg-type]
        folder.close()
        await seen(pilot, "step 4,000/4,000")
        await pilot.press("6")
        await seen(pilot, "3,000", "d12 r224")

    drive([run], steps)


def test_a_run_that_is_deleted_while_it_is_open_is_told_in_every_view(run_builder: Builder) -> None:
    run = run_builder(2300)

    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "● training")
        # All at once: of a folder that is half deleted, less than before may be seen for a moment.
        shutil.rmtree(run.rename(run.with_name("gone")))
        await seen(pilot, "the run folder is gone", "image px")
        for number, view in enumerate(VIEWS, 1):
            await pilot.press(str(number))
            await seen(pilot, "the run folder is gone")
            assert view_of(pilot) == view
        assert run_builder(2300) == run
        await seen(pilot, gone="the run folder is gone")

    drive([run], steps)


def test_a_broken_line_is_told_and_does_not_stop_the_program(run_builder: Builder) -> None:
    run = run_builder(900)

    async def steps(pilot: Pilot[None]) -> None:
        await seen(pilot, "● supernet")
        with (run / "events.jsonl").open("a") as file:
            file.write("{broken}\n")
        # The message is broken into lines where the folder's name is long.
        await seen(pilot, "events.jsonl: must be a JSON object", flowing=True)
        await pilot.press("5")
        await seen(pilot, "Curves")

    drive([run], steps)


def test_a_search_by_trials_shows_its_front_and_a_plan_its_schedule(
    run_builder: Builder,
) -> None:
    from autoprog.events import TrialFinished
    from supernet.config import SubnetConfig

    run = run_builder(900)
    folder = RunFolder.reopen(run)
    stages = ((0.0, SubnetConfig(6, 128)), (0.5, SubnetConfig(12, 224)))
    folder.append(TrialFinished(step=900, number=7, loss=1.5, seconds=60.0, stages=stages))
    folder.close()

    async def trials(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        await seen(pilot, "Trials: 1, 0 ended early", "1.5000", "d6 r128, d12 r224 at 50%")

    async def plan(pilot: Pilot[None]) -> None:
        await seen(pilot, "preset linear", "image px", "for deit-s")
        await pilot.press("3")
        await seen(pilot, "No decisions: the schedule was given.")
        await pilot.press("5")
        await seen(pilot, "Nothing is measured yet")

    drive([run], trials)
    drive(["linear"], plan)


def test_the_palette_knows_the_views_and_the_runs(run_builder: Builder) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("1")
        await seen(pilot, "✔ complete", "74.50 % EMA")
        titles = {c.title for c in pilot.app.get_system_commands(pilot.app.screen)}
        assert {"View Live", "Open 2026-11-22-143005-search-deit-s"} <= titles
        await pilot.press("ctrl+p", *"View Growth", "enter")
        await seen(pilot, "Δloss")
        assert view_of(pilot) == "growth"

    drive([run_builder(4000)], steps, LARGE)


def test_without_colour_all_is_there_in_greys(
    run_builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("3")
        await seen(pilot, "▶", "Decision 0", "✔ complete")
        strips = pilot.app.screen._compositor.render_strips()
        styles = [segment.style for strip in strips for segment in strip if segment.style]
        triplets = [style.color.triplet for style in styles if style.color]
        assert any(triplets)
        assert all(len(set(one)) == 1 for one in triplets if one)

    drive([run_builder(4000)], steps)


def test_a_log_with_a_resumed_attempt_is_read_as_the_run_reads_it(
    run_builder: Builder, events_until: Callable[[int], list[object]]
) -> None:
    run = run_builder(1500)
    log = EventLog(run / "events.jsonl")
    while log.advance():
        pass
    assert log.state.step == 1500
    folder = RunFolder.reopen(run)
    start = events_until(0)[0]
    folder.append(start.model_copy(update={"step": 1400}))  # type: ignore[attr-defined]
    folder.close()
    while log.advance():
        pass
    assert log.state == fold(load_run(run).events())
    assert (log.state.step, log.state.evaluations[-1].step) == (1400, 1400)


def test_each_byte_of_a_log_is_read_once(run_builder: Builder) -> None:
    run = run_builder(1500)
    path = run / "events.jsonl"
    log = EventLog(path)
    while log.advance():
        pass
    whole = path.read_bytes()
    last = json.dumps({**json.loads(whole.splitlines()[-1]), "step": 1520})
    path.write_bytes(b"x" * len(whole) + last.encode() + b"\n")
    while log.advance():
        pass
    assert log.state.step == 1520


def test_a_log_that_begins_anew_is_read_anew(run_builder: Builder) -> None:
    run = run_builder(1500)
    path = run / "events.jsonl"
    log = EventLog(path)
    while log.advance():
        pass
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    while log.advance():
        pass
    assert log.state == fold(load_run(run).events())


def test_of_a_long_log_progress_is_picked_and_all_else_is_kept(
    run_builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "WHOLE_BYTES", 1000)
    monkeypatch.setattr("autoprog.eventlog.CHUNK_BYTES", 5000)
    monkeypatch.setattr(event_log, "MAX_PROGRESS", 20)
    run = run_builder(4000)
    log = EventLog(run / "events.jsonl")
    while log.advance():
        pass
    whole = fold(load_run(run).events())
    for part in ("evaluations", "decisions", "growths", "warnings", "segments", "step", "phase"):
        assert getattr(log.state, part) == getattr(whole, part)
    assert log.state.step_seconds.keys() == whole.step_seconds.keys()
    assert 20 <= len(log.state.points) < len(whole.points)


def test_what_is_known_later_of_a_run_is_used_for_what_was_read(run_builder: Builder) -> None:
    from autoprog.presets import preset
    from autoprog.recipe import RECIPES
    from supernet.zoo import ZOO

    run = run_builder(1500)
    log = EventLog(run / "events.jsonl")
    while log.advance():
        pass
    schedule = preset("linear", ZOO["deit-s"], 40, RECIPES["deit"].strength)
    log.begin(RunState(schedule=schedule))
    assert log.state == fold(load_run(run).events(), RunState(schedule=schedule))


def test_a_list_reads_the_ends_of_a_log_only(run_builder: Builder) -> None:
    run = run_builder(2300)
    path = run / "events.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"x" * (1 << 16) + b"\n" + b"".join(rest[-60:]) + b'{"torn')
    (row,) = Listing(run.parent, []).rows()
    assert (row.status, row.done, row.note) == ("training", "57%", "")
    assert row.came_to.endswith(" left")
    assert "d8 r160" in row.stage
    (row,) = Listing(None, [run], clock=lambda: path.stat().st_mtime + 601).rows()
    assert row.status == "stale"


def test_a_target_that_is_nothing_and_two_folders_of_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="must be a run folder, last, a schedule file or a preset"
    ):
        make_app(["linaer"], "runs")
    for name in ("a", "b"):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "run.yaml").touch()
    with pytest.raises(ConfigError, match="one folder of runs can be listed at a time"):
        make_app([str(tmp_path / "a"), str(tmp_path / "b")], "runs")


def test_two_runs_that_are_named_are_the_list(run_builder: Builder, tmp_path: Path) -> None:
    run = run_builder(900)
    for name in ("other", "third"):
        shutil.copytree(run, tmp_path / name)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("1")
        await seen(pilot, "other", run.name, gone="third")
        assert pilot.app.query_one(DataTable).row_count == 2

    drive([run, tmp_path / "other"], steps)


def test_without_a_terminal_one_line_points_to_show(run_builder: Builder) -> None:
    words = [sys.executable, "-m", "autoprog", "inspect", str(run_builder(900))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "autoprog: inspect: there is no terminal to draw in; autoprog show prints the same views anywhere\n"
    )
