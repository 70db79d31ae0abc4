"""Run folders that somebody else made, on all screens: a view or one sentence, and nothing that steers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.color import Color
from textual.content import Content

from autoprog.cli import main
from autoprog.errors import ConfigError, consistent
from autoprog.events import TrialFinished
from autoprog.printable import is_printable
from autoprog.ui.inspect.app import InspectApp, make_app
from autoprog.ui.inspect.panes import PrintableLines, without_markup
from autoprog.ui.inspect.readers import Listing
from autoprog.ui.render_rich import draw_chart
from autoprog.ui.section import Series, Span
from autoprog.ui.state import RunState, fold
from autoprog.ui.tables import Column
from supernet.config import SubnetConfig

Builder = Callable[[int], Path]
FORMS = ([], ["--plain"], ["--json"], ["--html"], ["--svg"])
FILES = (
    "run.yaml",
    "schedule.yaml",
    "best.yaml",
    "events.jsonl",
    "decisions.jsonl",
    "costs.json",
    "result.json",
    "fidelity.json",
)
STEERING = "\x1b]52;c;eA==\x07\x9b2J [red][/] [@click=app.quit]x[/]"
COLOUR = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture
def run(run_builder: Builder) -> Path:
    return run_builder(4000)


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(arguments)
    output = capsys.readouterr()
    assert is_printable(COLOUR.sub("", output.out) + output.err)
    assert "Traceback" not in output.err
    if code == 2:
        assert output.err.count("\n") == 1
        assert len(output.err) < 2_500
    return code, output.out, output.err


def show(
    run: Path, form: list[str], capsys: pytest.CaptureFixture[str], folder: Path
) -> tuple[int, str]:
    file = [str(folder / "picture")] if form and form[0] in ("--html", "--svg") else []
    code, out, err = told(["show", str(run), *form, *file], capsys)
    return code, out + err


def edit(path: Path, where: tuple[Any, ...], value: object) -> None:
    """Put a value into a file: of a log, the first part of `where` is the number of the row."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        body = yaml.safe_load(text)
    elif path.suffix == ".jsonl":
        body = [json.loads(line) for line in text.splitlines()]
    else:
        body = json.loads(text)
    place = body
    for part in where[:-1]:
        place = place[part]
    place[where[-1]] = value
    if path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(body), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in body), encoding="utf-8")
    else:
        path.write_text(json.dumps(body), encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "put",
    [
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
        lambda path: path.symlink_to(path),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("/nowhere"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x00\xff\x1b]52;\n" * 3),
        lambda path: path.write_bytes(b"[" * 100_000 + b"\n"),
        lambda path: path.write_bytes(b'{"a": [' + b"1," * 400_000 + b"1]}\n"),
        lambda path: path.write_bytes(b'{"kind": 1}\n'),
    ],
    ids=["folder", "pipe", "circle", "zeros", "nowhere", "empty", "bytes", "deep", "wide", "other"],
)
def test_something_else_in_place_of_a_file_is_a_view_or_a_sentence(
    name: str,
    put: Callable[[Path], object],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (run / name).unlink(missing_ok=True)
    put(run / name)
    for form in FORMS[:2]:
        assert show(run, form, capsys, tmp_path)[0] in (0, 2)
    assert told(["compare", str(run)], capsys)[0] in (0, 2)


@pytest.mark.parametrize(
    ("name", "where", "value"),
    [
        ("events.jsonl", (0, "attempt"), "a"),
        ("events.jsonl", (0, "kind"), 7),
        ("events.jsonl", (0, "kind"), "of_another_version"),
        ("events.jsonl", (3, "step"), None),
        ("events.jsonl", (1, "subnet"), {"depth": [10**9], "img_size": 128}),
        ("events.jsonl", (1, "stop_step"), 10**18),
        ("events.jsonl", (2, "train_seconds"), -1.0),
        ("events.jsonl", (2, "budget_fraction"), 1e300),
        ("events.jsonl", (0, "steps_per_epoch"), 0),
        ("run.yaml", ("settings", "model", "depth"), 10**6),
        ("decisions.jsonl", (0, "length"), 0),
        ("decisions.jsonl", (0, "winner"), 10**6),
        ("decisions.jsonl", (0, "current"), {"depth": [1, 1], "img_size": 9}),
        ("decisions.jsonl", (1, "index"), 0),
        ("result.json", ("top1_ema",), 1e30),
        ("result.json", ("num_validation_images",), 0),
        ("result.json", ("class_top1",), ["x"] * 200_000),
    ],
)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "".join(form))
def test_a_hostile_value_is_a_view_or_a_sentence(
    name: str,
    where: tuple[Any, ...],
    value: object,
    form: list[str],
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit(run / name, where, value)
    assert show(run, form, capsys, tmp_path)[0] in (0, 2)
    assert told(["compare", str(run)], capsys)[0] in (0, 2)


def test_names_and_warnings_steer_neither_terminal_nor_files(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    warning = {
        "attempt": 0,
        "step": 4000,
        "kind": "warning_raised",
        "message": STEERING + "W" * 90_000,
    }
    rows.append({**warning, "time": ""})
    (run / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edit(run / "run.yaml", ("settings", "recipe_name"), STEERING)
    for form in FORMS[:3]:
        code, text = show(run, form, capsys, tmp_path)
        assert code == 0
        assert "[red][/]" in text
        assert len(text) < 100_000
    for form in FORMS[3:]:
        assert show(run, form, capsys, tmp_path)[0] == 0
        assert "\x1b" not in (tmp_path / "picture").read_text(encoding="utf-8")
    edit(run / "run.yaml", ("run_id",), STEERING)
    for form in FORMS:
        code, text = show(run, form, capsys, tmp_path)
        assert code == 2
        assert "run_id: must be a line without control characters" in text
        assert "\x1b" not in text


def test_one_broken_run_does_not_hide_the_others(run: Path) -> None:
    for name in FILES[:4]:
        broken = run.with_name(f"broken-{name}")
        shutil.copytree(run, broken)
        (broken / name).unlink(missing_ok=True)
        os.mkfifo(broken / name)
    (run.with_name("broken-folder") / "run.yaml").mkdir(parents=True)
    rows = {row.name: row.status for row in Listing(run.parent, []).rows()}
    assert rows[run.name] == "complete"
    assert {status for name, status in rows.items() if name != run.name} == {"unreadable"}


def test_names_with_markup_and_escapes_on_the_screens_of_inspect(run: Path) -> None:
    named = run.with_name("[b] [@click=app.quit]x[red]\x1b]52;c;eA==\x07")
    run.rename(named)
    edit(named / "decisions.jsonl", (1, "index"), 0)
    edit(named / "run.yaml", ("run_id",), STEERING)

    async def inner() -> None:
        app = make_app([str(named)], "nowhere", poll_seconds=0.1)
        async with app.run_test(size=(160, 50)) as pilot:
            for view in "1234567":
                await pilot.press(view)
                await pilot.pause(0.3)
                assert is_printable(written_lines(app))
            await pilot.press("ctrl+p")
            await pilot.pause(0.3)
            await pilot.press(*"Open")
            await pilot.pause(0.5)
            assert "[@click=app.quit]" in written_lines(app)

    asyncio.run(inner())


def written_lines(app: InspectApp) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


@pytest.mark.parametrize(
    "text", ["[", "[/]", "[red]a", r"\[b]", "a\\", "[@click=x]y[/]", "]", "[["]
)
def test_the_palette_reads_no_markup_in_names(text: str) -> None:
    content = Content.from_markup(f"Open {without_markup(text)}")
    assert (content.plain, content.spans) == (f"Open {text}", [])


def test_a_line_of_the_screen_keeps_its_width() -> None:
    line = [Segment("a\x1b]0;x\x07", Style(bold=True)), Segment(" b")]
    shown = PrintableLines().apply(line, Color(0, 0, 0))
    assert Segment.get_line_length(shown) == Segment.get_line_length(line)
    assert is_printable("".join(segment.text for segment in shown))
    plain = [Segment("a")]
    assert PrintableLines().apply(plain, Color(0, 0, 0)) is plain


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyError("d6 r128"), ValueError("domain")])
def test_values_that_contradict_each_other_are_one_sentence(error: Exception) -> None:
    problem = "a run: must hold values that go together"
    with pytest.raises(ConfigError, match=problem), consistent("a run"):
        raise error
    with pytest.raises(ConfigError, match="mine: must be else"), consistent("a run"):
        raise ConfigError("mine", "", "must be else")


def test_long_tables_and_texts_are_cut_at_once() -> None:
    column = Column("a", ("x" * 10_000,) * 100_000)
    assert len(column.cells) == 1_001
    assert column.width == 500


def test_what_lies_outside_of_a_chart_is_drawn_at_its_edge() -> None:
    series = [Series("a", ((-1e12, 0.0), (1e12, 1.0)), "")]
    drawn = draw_chart(series, [-5.0, 1e18], Span.epochs(1.0), 40, 4)
    assert isinstance(drawn, Text)
    assert len(drawn.plain.splitlines()) == 6


def test_many_trials_are_folded_in_seconds_and_the_last_of_a_number_stays() -> None:
    subnet = SubnetConfig(6, 128)
    trials = [
        TrialFinished(step=0, number=n % 20_000, stages=((0.0, subnet),)) for n in range(40_000)
    ]
    state = fold([*trials, TrialFinished(step=0, number=3, loss=1.0)], RunState())
    assert len(state.trials) == 20_000
    assert state.trials[-1].loss == 1.0
