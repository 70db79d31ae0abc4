"""``autoprog compare``: groups, means, pairs and ratios by hand; its forms; what it leaves out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autoprog.cli import main
from autoprog.errors import ConfigError
from autoprog.events import Evaluated, Event, RunStarted, StepLogged
from autoprog.presets import preset
from autoprog.recipe import RECIPES
from autoprog.runs import Result, RunFolder
from autoprog.settings import DataSettings, RunManifest, RunSettings, SearchSettings
from autoprog.space import SpaceFile
from autoprog.stage import Curriculum, FullModel
from autoprog.ui.compare import (
    compare_document,
    compare_sections,
    comparison_columns,
    difference_lines,
    difference_texts,
)
from autoprog.ui.render_html import compare_page, ticks
from autoprog.ui.section import markdown_lines
from autoprog.verify.compare import (
    Comparison,
    FinishedRun,
    Point,
    charged_parts,
    compare,
    curve_of,
    label,
    read_finished_run,
    spread,
)
from supernet.config import SubnetConfig
from supernet.cost import macs
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
SMALL, FULL = SubnetConfig(2, 8), SubnetConfig(4, 16)


def compare_markdown(comparison: Comparison) -> str:
    return "\n".join(markdown_lines(compare_sections(comparison)))


def result(top1_ema: float, seconds: float, seed: int = 0, **changes: Any) -> Result:
    values: dict[str, Any] = {
        "run_id": f"run-{seed}",
        "kind": "train",
        "model": "vit-mu",
        "top1": top1_ema - 1,
        "top1_ema": top1_ema,
        "loss": 1.0,
        "loss_ema": 0.9,
        "epochs": 2.0,
        "wall_seconds": seconds,
        "train_seconds": 0.5 * seconds,
        "supernet_seconds": 0.1 * seconds,
        "search_seconds": 0.125 * seconds,
        "lost_seconds": 0.0625 * seconds,
        "data_wait_seconds": 0.125 * seconds,
        "eval_seconds": 0.125 * seconds,
        "image_epochs": 2.0,
        "macs": 4e12,
        "peak_memory_bytes": 2**30,
        "seed": seed,
        "device": "cpu",
        "amp": "none",
        "versions": {"torch": "2"},
        "schedule": {},
    }
    return Result(**{**values, **changes})


def finished(name: str, top1_ema: float, seconds: float, seed: int, **changes: Any) -> FinishedRun:
    curve = (Point(seconds / 2, 100, 1e12, top1_ema - 9), Point(seconds, 200, 4e12, top1_ema))
    return FinishedRun(
        path=f"runs/{name}-{seed}",
        name=name,
        result=result(top1_ema, seconds, seed, **changes),
        configuration={"model": {"model": "vit-mu"}, "schedule": {"name": name}},
        conditions={"threads": "1"},
        curve=curve,
    )


RUNS = (
    finished("constant", 50.0, 100.0, 0),
    finished("linear", 51.0, 60.0, 1, macs=1e12),
    finished("constant", 53.0, 120.0, 1),
    finished("linear", 50.5, 50.0, 0, macs=3e12, peak_memory_bytes=2**31),
    finished("constant", 56.0, 110.0, 2),
)


def test_runs_that_differ_in_their_seed_make_one_row_in_the_order_given() -> None:
    groups = compare(RUNS).groups
    assert [(g.label, g.name, g.seeds) for g in groups] == [
        ("A", "constant", (0, 1, 2)),
        ("B", "linear", (0, 1)),
    ]


def test_means_deviations_and_ratios_are_those_computed_by_hand() -> None:
    constant, linear = compare(RUNS).groups
    assert (constant.top1_ema.mean, constant.top1_ema.sd) == (53.0, 3.0)
    assert constant.top1.mean == 52.0
    assert (constant.seconds.mean, constant.seconds.sd) == (110.0, 10.0)
    assert linear.seconds.mean == 55.0
    assert linear.seconds.sd == pytest.approx(50**0.5)  # 5² + 5² over n - 1 = 1
    assert (constant.seconds_ratio, linear.seconds_ratio) == (1.0, 0.5)
    assert (linear.macs.mean, linear.macs_ratio) == (2e12, 0.5)
    assert linear.peak_memory_bytes == 2**31


def test_the_difference_is_taken_over_the_seeds_that_both_have() -> None:
    constant, linear = compare(RUNS).groups
    assert constant.difference is None
    assert linear.difference is not None
    assert linear.difference.seeds == (0, 1)
    assert linear.difference.mean == -0.75  # +0.5 and -2.0; the means differ by -2.25
    paired = linear.difference.paired
    assert paired is not None
    assert (paired.low, paired.high, paired.confidence) == (-2.0, 0.5, 0.5)


def test_without_a_common_seed_the_means_are_compared_and_it_is_said() -> None:
    comparison = compare([finished("a", 50.0, 1.0, 0), finished("b", 52.0, 1.0, 7)])
    difference = comparison.groups[1].difference
    assert difference is not None
    assert (difference.mean, difference.seeds, difference.paired) == (2.0, (), None)
    assert comparison.notes == ("B: no seed in common with the reference, so not paired",)


def test_the_difference_of_the_online_networks_stands_beside_that_of_the_averaged_ones() -> None:
    """An average that lags behind must not be all that is told."""
    online = replace(RUNS[3], result=result(51.0, 60.0, 0, top1=40.0))
    group = compare([RUNS[0], online]).groups[1]
    assert group.difference is not None
    assert group.difference_online is not None
    assert (group.difference.mean, group.difference_online.mean) == (1.0, -9.0)
    text = compare_markdown(compare([RUNS[0], online]))
    assert "| +1.00 | -9.00 |" in text


def test_the_number_of_validation_images_and_of_seeds_is_told() -> None:
    few = [
        replace(run, result=result(80.0, 60.0, 0, num_validation_images=736)) for run in RUNS[:1]
    ]
    facts = compare([*few, RUNS[3]]).facts
    assert facts == (
        "A: 736 validation images, top-1 within ± 2.9 points (95 %)",  # 1.96 · √(0.8 · 0.2 / 736)
        "A, B: n = 1, and one seed does not tell a difference from chance",
    )
    assert compare(RUNS).facts == ()
    assert facts[0] in compare_markdown(compare([*few, RUNS[3]]))


def test_a_search_tells_what_it_was_planned_for_and_what_it_reached() -> None:
    searched = finished("search", 50.0, 102.0, 1, search_seconds=20.0, train_seconds=50.0)
    baseline = finished("constant", 50.0, 100.0, 1)
    groups = [baseline, replace(searched, planned_fraction=0.5)]
    assert compare(groups).facts[-1] == (
        "B: planned for 0.5 of the time of the full model's steps; reached 1.02 of the time of A:"
        " steps 0.63, measuring, estimates and decisions 0.20, growth 0.06, evaluations 0.13"
    )
    assert "reached 1.00 of its own time" in compare(groups[::-1]).facts[-1]


def test_one_pair_has_a_difference_and_no_interval() -> None:
    difference = compare([RUNS[0], RUNS[3]]).groups[1].difference
    assert difference is not None
    assert (difference.mean, difference.seeds, difference.paired) == (0.5, (0,), None)


def test_repeats_of_a_seed_count_once() -> None:
    repeat = finished("constant", 52.0, 140.0, 0)
    comparison = compare([RUNS[0], repeat, RUNS[2]])
    (group,) = comparison.groups
    assert (group.seeds, group.top1_ema.mean) == ((0, 1), 52.0)  # (51 + 53) / 2
    assert group.seconds.sd == 0.0  # 120 and 120
    assert comparison.notes == ("A: seeds given more than once count once, as their mean",)


def test_one_seed_has_no_deviation() -> None:
    assert (spread([3.0]).mean, spread([3.0]).sd) == (3.0, None)


def test_what_slows_a_run_is_told_where_it_differs() -> None:
    other = replace(RUNS[1], conditions={"threads": "2"})
    (note,) = compare([RUNS[2], other]).notes
    assert note == "runs differ in threads (1, 2): seconds may not be comparable"


def test_the_parts_of_the_time_add_up_to_all_of_it() -> None:
    parts = charged_parts(result(50.0, 160.0))
    assert parts == {
        "train": 80.0,
        "data_wait": 20.0,
        "search": 20.0,
        "lost": 10.0,
        "eval": 20.0,
        "checkpoints": 10.0,
    }


def test_labels_go_on_after_z() -> None:
    assert [label(0), label(25), label(26), label(53)] == ["A", "Z", "A1", "B2"]


def started(step: int = 0) -> RunStarted:
    return RunStarted(
        step=step,
        run_id="r",
        run_kind="train",
        model="vit-mu",
        total_steps=30,
        steps_per_epoch=10,
        epochs=3.0,
        num_images=100,
        device="cpu",
        amp="none",
        seed=0,
        hardware="a CPU",
    )


def progressed(step: int, subnet: SubnetConfig) -> StepLogged:
    return StepLogged(
        step=step,
        epoch=step / 10,
        loss=1.0,
        lr=1e-3,
        subnet=subnet,
        step_seconds=0.5,
        images_per_second=20.0,
        data_wait_fraction=0.0,
        train_seconds=0.0,
    )


def evaluated(step: int, wall_seconds: float, top1_ema: float) -> Evaluated:
    return Evaluated(
        step=step,
        epoch=step / 10,
        subnet=FULL,
        loss=2.0,
        top1=0.0,
        loss_ema=1.5,
        top1_ema=top1_ema,
        seconds=1.0,
        train_seconds=0.0,
        wall_seconds=wall_seconds,
    )


EVENTS: list[Event] = [
    started(),
    progressed(10, SMALL),
    evaluated(10, 8.0, 20.0),
    progressed(20, FULL),
    started(20),
    progressed(30, FULL),
    evaluated(30, 40.0, 60.0),
]


def test_a_curve_ends_at_the_exact_totals_and_divides_them_by_what_the_steps_cost() -> None:
    small, full = macs(SPEC, SMALL), macs(SPEC, FULL)
    first, last = curve_of(EVENTS, SPEC, result(60.0, 41.0, image_epochs=3.0, macs=9e9))
    assert (first.seconds, last.seconds, first.top1_ema) == (8.0, 40.0, 20.0)
    assert (first.images, last.images) == (100.0, pytest.approx(300.0))
    assert last.macs == pytest.approx(9e9)
    assert first.macs / last.macs == pytest.approx(small / (small + 2 * full))


def settings(schedule: str = "linear", **changes: Any) -> RunSettings:
    values: dict[str, Any] = {
        "kind": "train",
        "model": FullModel.of(SPEC),
        "data": DataSettings(),
        "recipe_name": "digits",
        "recipe": RECIPES["digits"],
        "schedule_from": schedule,
        "threads": 1,
    }
    return RunSettings(**{**values, **changes})


Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a maker of run folders by hand."""

    def made(name: str, values: RunSettings, ended: Result | None) -> Path:
        manifest = RunManifest(run_id=name, created="now", argv=(), versions={}, settings=values)
        folder = RunFolder.create(tmp_path / "runs", manifest)
        for event in EVENTS:
            folder.append(event)
        if values.search is None:
            folder.write_schedule(preset(values.schedule_from or "", SPEC, 2.0, Curriculum()))
        if ended is not None:
            folder.write_result(ended.model_copy(update={"run_id": name}))
        folder.close()
        return folder.path

    return made


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: object) -> Done:
        code = main(["compare", *map(str, words)])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def folders(make: Make) -> list[Path]:
    return [
        make(f"{name}-{seed}", settings(name, seed=seed), result(top1 + seed, seconds, seed))
        for name, top1, seconds in (("constant", 50.0, 100.0), ("linear", 50.5, 50.0))
        for seed in (0, 1)
    ]


def test_seeds_and_how_a_run_is_carried_out_make_no_other_configuration(make: Make) -> None:
    one = read_finished_run(make("a", settings(), result(50.0, 1.0)))
    same = settings(seed=3, threads=2, workers=4, eval_every_epochs=1.0, log_every_steps=5)
    two = read_finished_run(make("b", same, result(50.0, 1.0, 3)))
    assert one.configuration == two.configuration
    assert (one.conditions["threads"], two.conditions["threads"]) == ("1", "2")
    assert one.conditions["hardware"] == "a CPU"


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("recipe.epochs", {"recipe": RECIPES["digits"].model_copy(update={"epochs": 9.0})}),
        ("data.dir", {"data": DataSettings(dir="elsewhere")}),
        ("schedule", {"schedule": "constant"}),
        ("time_budget_seconds", {"time_budget_seconds": 60.0}),
        ("model.model", {"model": FullModel.of(ZOO["vit-xs"])}),
    ],
)
def test_what_decides_the_outcome_makes_another_configuration(
    make: Make, key: str, changes: dict[str, Any]
) -> None:
    runs = [
        read_finished_run(make("a", settings(), result(50.0, 1.0))),
        read_finished_run(make("b", settings(**changes), result(50.0, 1.0))),
    ]
    groups = compare(runs).groups
    assert [name for name, _, _ in groups[1].differs_in] == [key]


def test_searches_that_found_different_schedules_are_seeds_of_one_search(make: Make) -> None:
    axes = {"depth": {"values": [2, 4]}, "img_size": {"values": [8, 16]}}
    space = SpaceFile.model_validate({"axes": axes}).space(SPEC, "test")
    runs = [read_finished_run(make("constant", settings("constant"), result(50.0, 100.0)))]
    for seed in (0, 1):
        search = SearchSettings(space=space, space_from="default", storage=f"{seed}.journal")
        values = settings(kind="search", search=search, schedule_from=None, seed=seed)
        found = {"schedule": {"stages": seed}, "kind": "search"}
        runs.append(
            read_finished_run(make(f"s{seed}", values, result(51.0, 70.0 + seed, seed, **found)))
        )
    groups = compare(runs).groups
    assert [(g.name, g.seeds) for g in groups] == [("constant", (0,)), ("search rollout", (0, 1))]
    assert groups[1].differs_in == (("kind", "search", "train"),)


def test_searches_of_other_lengths_are_told_apart_by_name(make: Make) -> None:
    axes = {"depth": {"values": [2, 4]}, "img_size": {"values": [8, 16]}}
    space = SpaceFile.model_validate({"axes": axes}).space(SPEC, "test")
    runs = []
    for fraction in (0.5, 0.25):
        search = SearchSettings(space=space, space_from="default", cost_fraction=fraction)
        values = settings(kind="search", search=search, schedule_from=None)
        found = result(51.0, 70.0, 0, kind="search")
        runs.append(read_finished_run(make(f"s{fraction}", values, found)))
    names = [group.name for group in compare(runs).groups]
    assert names == [
        f"search rollout planned for {fraction:g} of the time" for fraction in (0.5, 0.25)
    ]


def test_a_training_along_a_found_schedule_says_that_the_search_is_not_in_its_time(
    make: Make,
) -> None:
    folder = make("along", settings(), result(50.0, 1.0))
    found_by = "found_by:\n  run: the-search\n  rule: rollout\n  seed: 0\n"
    with (folder / "schedule.yaml").open("a") as file:
        file.write(found_by)
    plain = read_finished_run(make("plain", settings(seed=1), result(50.0, 1.0, 1)))
    comparison = compare([plain, read_finished_run(folder)])
    assert len(comparison.groups) == 1  # where it is from does not change what it computes
    assert comparison.notes == ("A: its time leaves out the search the-search before it",)


def test_the_table_on_a_terminal(command: Any, folders: list[Path]) -> None:
    done = command(*folders, "--x", "macs")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    (row,) = (line for line in lines if line.startswith("B  linear"))
    for text in ("51.00 ± 0.71", "+0.50", "[+0.50, +0.50] 50%", "50.0 s ± 0.0 s", "0.50", "4 T"):
        assert text in row
    assert "B differs from A in schedule" in lines
    assert "over multiply-accumulates" in done.out
    assert "4 T MACs" in done.out


def test_a_terminal_that_draws_nothing_gets_ascii(
    command: Any, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as rich can tell
    out = command(*folders).out
    assert out.isascii()
    assert "B  linear    2  51.00 +- 0.71" in out
    assert "B differs from A in schedule" in out


def test_the_json_holds_every_number_unrounded(command: Any, folders: list[Path]) -> None:
    body = json.loads(command(*folders, "--json").out)
    assert set(body) == {"schema", "reference", "groups", "facts", "notes", "left_out"}
    assert (body["schema"], body["reference"], body["left_out"]) == (1, "A", [])
    first, second = body["groups"]
    assert (
        set(first)
        == set(second)
        == {
            *("label", "name", "model", "n", "seeds", "runs", "configuration", "differs_in"),
            *("top1", "top1_ema", "seconds", "parts_seconds", "image_epochs", "macs"),
            *(
                "peak_memory_bytes",
                "seconds_ratio",
                "macs_ratio",
                "difference",
                "difference_online",
            ),
        }
    )
    assert first["difference"] is None
    assert second["seconds"] == {"mean": 50.0, "sd": 0.0}
    assert second["difference"]["mean"] == 0.5
    assert second["difference"]["paired"]["confidence"] == 0.5
    assert second["configuration"]["recipe"]["batch_size"] == RECIPES["digits"].batch_size
    assert [run["seed"] for run in second["runs"]] == [0, 1]
    assert [point["top1_ema"] for point in second["runs"][0]["curve"]] == [20.0, 60.0]


def test_the_markdown_is_one_table_with_a_row_for_each_group() -> None:
    odd = replace(RUNS[0], name="a|b", configuration={"schedule": "other"})
    lines = compare_markdown(compare([*RUNS, odd])).splitlines()
    table = [line for line in lines if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table]
    assert {len(row) for row in cells} == {len(comparison_columns(compare([*RUNS, odd])))}
    assert [row[1].strip() for row in cells[2:]] == ["constant", "linear", "a\\|b"]
    assert cells[3][3].strip() == "50.75 ± 0.35"


class Page(HTMLParser):
    """What a browser would load, and whether the tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [f"{k}={v}" for k, v in attrs if k in ("src", "href", "xlink:href", "data")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_by_itself_and_holds_every_group(
    command: Any, folders: list[Path], tmp_path: Path
) -> None:
    done = command(*folders, "--html", tmp_path / "page.html", "--json")
    assert done.code == 0
    assert len(json.loads(done.out)["groups"]) == 2
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert (page.links, page.open, page.tags.count("svg")) == ([], [], 3)
    assert {"script", "link", "img", "iframe"}.isdisjoint(page.tags)
    assert "http" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    for axis in ("wall time", "images", "multiply-accumulates"):
        assert f">{axis}</text>" in text
    for name in ("constant", "linear"):
        assert f"<b>{name}</b>" in text
    assert text.count("<polyline") == 3 * 4
    assert text.count("batch_size: ") == 2


def test_the_page_shows_names_as_they_are_and_runs_without_a_curve() -> None:
    odd = replace(RUNS[0], name="<script>x</script>", curve=())
    page = Page(compare_page(compare([odd])))
    assert "script" not in page.tags
    assert page.open == []


@pytest.mark.parametrize(
    ("low", "high", "time", "wanted"),
    [
        (0, 100, False, [0, 20, 40, 60, 80, 100]),
        (37.5, 52.4, False, [40, 45, 50]),
        (0, 1500, True, [0, 300, 600, 900, 1200, 1500]),
        (0, 7000, True, [0, 1800, 3600, 5400]),
        (0, 4.2, True, [0, 1, 2, 3, 4]),
        (0, 400000, True, [0, 86400, 172800, 259200, 345600]),
        (5, 5, False, [5]),
    ],
)
def test_ticks_are_round(low: float, high: float, time: bool, wanted: list[float]) -> None:
    assert ticks(low, high, 6, time) == wanted


def test_an_incomplete_run_is_left_out_in_one_line(
    command: Any, make: Make, folders: list[Path]
) -> None:
    running = make("running", settings(), None)
    done = command(running, *folders, "--json")
    assert done.code == 0
    assert done.err.splitlines() == [
        f"autoprog: left out: {running}: must be a complete run: there is no result.json yet",
        f"autoprog: so the reference is {folders[0]}",
    ]
    body = json.loads(done.out)
    assert [entry["path"] for entry in body["left_out"]] == [str(running)]
    assert sum(len(group["runs"]) for group in body["groups"]) == 4


def test_what_is_no_run_folder_is_left_out(
    command: Any, folders: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    done = command(*folders, tmp_path / "nothing", "--markdown")
    assert done.code == 0
    assert len(done.err.splitlines()) == 1
    assert "must be a run folder with a run.yaml in it" in done.err


def test_with_no_finished_run_nothing_is_written(command: Any, make: Make, tmp_path: Path) -> None:
    done = command(make("running", settings(), None), "--html", tmp_path / "page.html")
    assert (done.code, done.out) == (2, "")
    assert "must be a complete run: there is no result.json yet" in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_with_several_and_none_finished_it_is_said_of_each(command: Any, make: Make) -> None:
    done = command(make("one", settings(), None), make("two", settings(), None))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 3)
    assert "autoprog: RUN: must name at least one finished run" in done.err


def test_a_published_folder_without_its_settings_is_one_line(
    command: Any, folders: list[Path]
) -> None:
    (folders[0] / "run.yaml").unlink()
    done = command(folders[0])
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"autoprog: {folders[0]}: must hold a run.yaml, which says what the run was configured to do;"
        " it was published without it\n"
    )
    done = command(*folders[:2])
    assert done.code == 0
    assert f"left out: {folders[0]}: must hold a run.yaml" in done.err


def test_the_page_and_the_terminal_word_a_difference_alike(folders: list[Path]) -> None:
    comparison = compare([read_finished_run(folder) for folder in folders])
    (line,) = difference_lines(comparison)
    texts = difference_texts(comparison.groups[1])
    assert line == "B differs from A in " + "; ".join(texts)
    assert all(f"<li>{escape(text)}</li>" in compare_page(comparison) for text in texts)


def test_a_path_that_does_not_exist_is_a_slip(command: Any, folders: list[Path]) -> None:
    done = command(*folders, "runs/nowhere")
    assert (done.code, done.out) == (2, "")
    assert done.err == ("autoprog: runs/nowhere: must be a run folder with a run.yaml in it\n")


def test_a_broken_result_is_left_out_with_its_place(command: Any, folders: list[Path]) -> None:
    body = json.loads((folders[1] / "result.json").read_text())
    (folders[1] / "result.json").write_text(json.dumps({**body, "macs": "many"}))
    done = command(*folders, "--json")
    assert done.code == 0
    assert f"left out: {folders[1]}: macs: must be a number" in done.err


def test_a_page_that_cannot_be_written_is_one_line(
    command: Any, folders: list[Path], tmp_path: Path
) -> None:
    done = command(*folders, "--html", tmp_path / "no" / "page.html")
    assert (done.code, done.out) == (2, "")
    assert "must be a file that can be written: No such file or directory" in done.err


def test_a_folder_given_twice_counts_once(command: Any, folders: list[Path]) -> None:
    again = folders[0].parent / "." / folders[0].name
    body = json.loads(command(*folders, again, "--json").out)
    assert [len(group["runs"]) for group in body["groups"]] == [2, 2]
    assert body["notes"] == []


def test_a_run_that_is_read_alone_and_incomplete_is_refused(make: Make) -> None:
    with pytest.raises(ConfigError, match=r"no result\.json yet"):
        read_finished_run(make("running", settings(), None))


def test_the_document_names_what_was_left_out() -> None:
    body = compare_document(compare(RUNS), [("runs/x", "why")])
    assert body["left_out"] == [{"path": "runs/x", "reason": "why"}]
