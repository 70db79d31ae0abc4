"""What schema 1 wrote still loads, and means the same as its form in schema 2.

``files/`` was written by the last version of schema 1: a search of each kind, a training under a time budget,
two verifications, a benchmark, and the starter files. Everything published is of that version, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoprog import migration
from autoprog.commands.bench_presets import load_preset_bench
from autoprog.commands.configure import RecipeFile
from autoprog.costs.table import table_of
from autoprog.errors import ConfigError
from autoprog.eventlog import WHOLE_BYTES, picked
from autoprog.events import Grown, StepLogged, TrialFinished, WarningRaised, encode
from autoprog.fidelity_report import read_fidelity
from autoprog.files import parse, read_object, read_yaml
from autoprog.recipe import Recipe
from autoprog.runs import load_run, read_result
from autoprog.schedule import GrowthSchedule, load_schedule
from autoprog.settings import RunManifest
from autoprog.space import SpaceFile, find_space
from autoprog.verify.verification import load, save

FILES = Path(__file__).parent / "files"
PUBLISHED = Path(__file__).parents[2] / "runs" / "published"
RUNS = [path.parent for path in sorted(FILES.rglob("run.yaml"))]
PUBLISHED_RUNS = [path.parent for path in sorted(PUBLISHED.rglob("run.yaml"))]
OLD = re.compile(
    r"\w*share|mogrow|tail|strengthen\w*|shown\w*|told\w*|progressed|warned|carry|online"
)


def name_of(path: Path) -> str:
    return str(path.relative_to(FILES if FILES in path.parents or path == FILES else PUBLISHED))


def words_of(value: Any) -> Iterator[str]:
    """Yield all keys and texts of a value of JSON."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from words_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from words_of(inner)
    elif isinstance(value, str):
        yield value


def old_words(value: Any) -> list[str]:
    return [word for word in words_of(value) if OLD.fullmatch(word.replace("-", "_"))]


@pytest.mark.parametrize("folder", [*RUNS, *PUBLISHED_RUNS], ids=name_of)
def test_a_run_folder_loads_and_is_in_the_words_of_today_from_there_on(folder: Path) -> None:
    assert read_yaml(folder / "run.yaml")["schema"] == 1
    run = load_run(folder)
    body = run.manifest.model_dump(mode="json", by_alias=True)
    assert old_words({**body, "argv": [], "versions": {}}) == []
    assert RunManifest.model_validate(body) == run.manifest
    values = [*run.decisions, *run.inputs(), *filter(None, (run.schedule, run.best, run.result))]
    for value in values:
        dumped = value.model_dump(mode="json", by_alias=True)
        assert old_words(dumped) == []
        assert type(value).model_validate(dumped) == value
    events = list(run.events())
    for event in events:
        assert old_words({**encode(event), "message": ""}) == []
    logs = [path for name in ("events", "curve") if (path := folder / f"{name}.jsonl").exists()]
    assert all(path.stat().st_size <= WHOLE_BYTES for path in logs), "each row is read"
    assert len(events) == sum(len(path.read_text().splitlines()) for path in logs)


def test_the_kept_files_hold_every_kind_of_event_that_was_renamed() -> None:
    events = [event for folder in RUNS for event in load_run(folder).events()]
    grown = [event for event in events if isinstance(event, Grown)]
    assert {type(event) for event in events} >= {StepLogged, TrialFinished, WarningRaised}
    assert {(one.init, one.placement, one.old_blocks, one.optimizer_state) for one in grown} >= {
        ("ema", "interpolate", "keep", "copy"),
        ("copy", "stack", "keep", "fresh"),
    }
    assert any(
        event.budget_fraction is not None for event in events if isinstance(event, StepLogged)
    )


def test_a_long_old_log_is_thinned_by_its_own_word_for_progress() -> None:
    progress = [b'{"kind": "progressed", "step": %d}\n' % step for step in range(100)]
    lines = [progress[0], *progress[1:], b'{"kind": "evaluated"}\n']
    assert len(list(picked(lines, 400))) < 20


def test_a_search_says_the_same_as_before() -> None:
    run = load_run(FILES / "search")
    old = [json.loads(line) for line in (FILES / "search" / "decisions.jsonl").open()]
    dumped = [decision.model_dump(mode="json") for decision in run.decisions]
    assert [one["continuation"] for one in dumped] == [one["tail"] for one in old]
    assert [one["full_regularisation"] for one in dumped] == [one["strengthens"] for one in old]
    rows = [json.loads(line) for line in (FILES / "search" / "inputs.jsonl").open()]
    for inputs, row in zip(run.inputs(), rows, strict=True):
        assert inputs.full_regularisation == row["is_strengthened"]
        assert (inputs.current_losses is None) == (row["shown"] is None)
    search = run.manifest.settings.search
    assert search is not None
    assert (search.cost_fraction, search.space.decisions.min_full_fraction) == (0.9, 0.3)
    assert search.space.decisions.grow.model_dump() == {
        "init": "copy",
        "placement": "stack",
        "old_blocks": "keep",
        "optimizer_state": "fresh",
    }
    assert run.manifest.settings.data.fraction == 0.5
    assert run.manifest.settings.recipe.warmup_fraction == 0.1
    costs = read_object(FILES / "search" / "costs.json")
    assert run.cost_table.seconds == {name: one["seconds"] for name, one in costs["cells"].items()}
    report = read_fidelity(FILES / "search")
    assert report is not None
    assert report.beyond_seed_noise is not None


def test_losses_that_a_decision_had_reached_are_renamed() -> None:
    subnet = {"depth": [2], "img_size": 8}
    row = {"shown": {"subnet": subnet, "held_out": 2.0, "training": 1.5}, "shown_before": None}
    assert migration.decision_inputs(row) == {
        "current_losses": {"subnet": subnet, "held_out_loss": 2.0, "training_loss": 1.5},
        "previous_losses": None,
    }


def test_a_checkpoint_keeps_all_but_its_old_words() -> None:
    weights = object()
    reached = {"subnet": {}, "held_out": 2.0, "training": 1.5}
    state = {
        "schema": 1,
        "model": weights,
        "last_evaluation": {"top1": 50.0, "largest_class_share": 0.1},
        "notes": {"curve": [[1, 2.0]], "shown": {"0": reached}},
    }
    assert migration.checkpoint(state) == {
        "schema": 2,
        "model": weights,
        "last_evaluation": {"top1": 50.0, "largest_class_fraction": 0.1},
        "search_state": {
            "curve": [[1, 2.0]],
            "reached_losses": {"0": {"subnet": {}, "held_out_loss": 2.0, "training_loss": 1.5}},
        },
    }


@pytest.mark.parametrize(
    "path", sorted([*FILES.rglob("*.yaml"), *PUBLISHED.rglob("*.yaml")]), ids=name_of
)
def test_every_schedule_is_the_same_after_it_was_saved_again(path: Path, tmp_path: Path) -> None:
    if "stages" not in (read_yaml(path) or {}):
        return  # a run, a space or a recipe
    schedule = load_schedule(path)
    again = tmp_path / "again.yaml"
    again.write_text(schedule.to_yaml(), encoding="utf-8")
    assert load_schedule(again) == schedule
    assert old_words(read_yaml(again)) == []


@pytest.mark.parametrize("folder", ["verify", "verify-search"])
def test_a_verification_loads_with_the_verdict_it_had(folder: str, tmp_path: Path) -> None:
    body = read_object(FILES / folder / "verify.json")
    found = load(FILES / folder)
    assert found.verdict is not None
    assert json.loads(json.dumps(found.verdict)) == body["verdict"]
    save(tmp_path, found)
    saved = read_object(tmp_path / "verify.json")
    assert saved["schema"] == 3
    assert old_words(saved) == []
    assert load(tmp_path) == found


def test_the_arms_of_a_verification_have_the_flags_of_today() -> None:
    plan = load(FILES / "verify-search").plan
    assert plan.baseline.flags == {"model": "vit-mu", "data-fraction": "0.5", "epochs": "4"}
    assert plan.candidate.flags == {
        **plan.baseline.flags,
        **{"min-full-fraction": "0.3", "supernet-fraction": "0.3", "continuation-trials": "20"},
        **{"grow-init": "copy", "grow-placement": "stack", "grow-optimizer-state": "fresh"},
        "cost-fraction": "0.9",
    }


@pytest.mark.parametrize(
    "path", [path.parent for path in sorted(PUBLISHED.rglob("verify.json"))], ids=name_of
)
def test_published_verifications_load(path: Path) -> None:
    body = read_object(path / "verify.json")
    found = load(path).verdict
    assert found is not None
    same = ("outcome", "mean", "lower", "upper", "margin", "top1_ema", "charged_seconds")
    assert {key: found[key] for key in same} == {key: body["verdict"][key] for key in same}


@pytest.mark.parametrize(
    "path", [path.parent for path in sorted([*FILES.rglob("bench.json"), *PUBLISHED.rglob("bench.json")])],
    ids=name_of,
)  # fmt: skip
def test_benchmarks_load(path: Path) -> None:
    body = read_object(path / "bench.json")
    found = load_preset_bench(path)
    assert [one.name for one in found.schedules] == [one["name"] for one in body["entrants"]]
    assert all(old_words(one.settings.model_dump()) == [] for one in found.schedules)


def test_the_starter_of_a_space_loads() -> None:
    space, _ = find_space(str(FILES / "space.yaml"), "vit-mu")
    assert space == find_space(None, "vit-mu")[0].model_copy(
        update={"axes": space.axes, "model": "vit-mu", "img_size": 16}
    )


def test_a_recipe_without_a_schema_may_have_the_words_of_either() -> None:
    text = re.sub(r"^# (\w+: )", r"\1", (FILES / "recipe.yaml").read_text(), flags=re.MULTILINE)
    body = yaml.safe_load(text)
    assert "warmup_share" in body
    values = {key: value for key, value in migration.recipe(body).items() if key != "base"}
    assert parse(Recipe, values, "recipe.yaml").warmup_fraction == body["warmup_share"]
    assert migration.recipe({"warmup_fraction": 0.2}) == {"warmup_fraction": 0.2}
    assert parse(RecipeFile, {"schema": 2}, "recipe.yaml").base is None


def test_costs_of_before_they_had_a_schema_load() -> None:
    assert table_of({"d2 r8 b16": 0.5}, "costs.json").seconds == {"d2 r8 b16": 0.5}


SPACE = "axes: {depth: {values: [2, 4]}, img_size: {values: [8, 16]}}\n"


@pytest.mark.parametrize("schema", ["", "schema: 2\n"])
@pytest.mark.parametrize(
    ("text", "where", "old", "new"),
    [
        ("decisions: {min_full_share: 0.2}", "decisions.", "min_full_share", "min_full_fraction"),
        ("decisions: {tail_trials: 20}", "decisions.", "tail_trials", "continuation_trials"),
        ("decisions: {grow: {op: copy}}", "decisions.grow.", "op", "init"),
        ("decisions: {grow: {state: fresh}}", "decisions.grow.", "state", "optimizer_state"),
    ],
)
def test_an_old_key_in_a_new_space_is_refused_with_the_new_one(
    schema: str, text: str, where: str, old: str, new: str, tmp_path: Path
) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(f"{schema}{SPACE}{text}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        find_space(str(path), "vit-mu")
    hint = f"`{old}` is called `{new}` since schema 2"
    assert str(refused.value) == f"{path}: {where}{old}: unknown key, but got '{old}'; {hint}"


@pytest.mark.parametrize(
    ("text", "key", "old", "new"),
    [
        ("axes: {map: [stack]}", "axes.map", "map", "placement"),
        ("axes: {grow: [copy]}", "axes.grow", "grow", "init"),
        ("axes: {depth: {shares: [0.5, 1.0]}}", "axes.depth.shares", "shares", "fractions"),
    ],
)
def test_old_axes_are_refused_with_the_new_ones(text: str, key: str, old: str, new: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(SpaceFile, yaml.safe_load(text), "space.yaml")
    hint = f"`{old}` is called `{new}` since schema 2"
    assert str(refused.value) == f"space.yaml: {key}: unknown key, but got '{old}'; {hint}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"length_unit": "share"}, "but got 'share'; `share` is called `fraction` since schema 2"),
        (
            {"length_unit": "time_share"},
            "but got 'time_share'; `time_share` is called `budget_fraction` since schema 2",
        ),
    ],
)
def test_an_old_word_in_a_new_schedule_is_refused_with_the_new_one(
    change: dict[str, Any], complaint: str
) -> None:
    body = {**migration.schedule(read_yaml(FILES / "train" / "schedule.yaml")), **change}
    with pytest.raises(ConfigError) as refused:
        parse(GrowthSchedule, migration.schedule(body), "s.yaml")
    assert str(refused.value).endswith(complaint)


@pytest.mark.parametrize("schema", [0, 3, 1.5, True, "1", None])
@pytest.mark.parametrize(
    "translate", [migration.schedule, migration.space, migration.manifest, migration.result]
)
def test_other_schemas_are_left_for_the_check_to_refuse(
    translate: Callable[[Any], Any], schema: object
) -> None:
    body = {"schema": schema, "tail_trials": 3}
    assert translate(body) is body


def test_a_key_that_is_given_under_both_names_is_refused() -> None:
    body = read_object(FILES / "train" / "result.json")
    both = migration.result({**body, "largest_class_fraction": 0.5})
    assert {"largest_class_share", "largest_class_fraction"} <= both.keys()


@pytest.mark.parametrize("junk", [None, 5, "x", [], [1], {"schema": 1, "stages": 5}])
@pytest.mark.parametrize("kind", [name for name in migration.__all__ if name.islower()])
def test_junk_is_returned_for_the_check_to_refuse(kind: str, junk: Any) -> None:
    if kind != "event":
        getattr(migration, kind)(junk)
    elif isinstance(junk, dict):
        assert migration.event({"kind": ["progressed"]}) == {"kind": ["progressed"]}


def test_results_of_other_places_are_read_alike() -> None:
    path = FILES / "train" / "result.json"
    assert read_result(path) == load_run(path.parent).result
