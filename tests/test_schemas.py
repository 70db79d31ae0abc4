"""The JSON Schemas take every file that ships and refuse what a reader of the file refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from autoprog import migration
from autoprog.cli import main
from autoprog.files import dump_yaml, parse_yaml, read_yaml
from autoprog.presets import PRESETS, preset
from autoprog.recipe import RECIPES, Recipe
from autoprog.space import shipped_spaces
from autoprog.starters import KINDS, schema_of
from supernet.config import ModelSpec
from supernet.zoo import ZOO

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).resolve().parent.parent
SCHEDULES = sorted(ROOT.glob("runs/published/**/schedule.yaml")) + sorted(
    ROOT.glob("runs/published/**/best.yaml")
)
Capture = pytest.CaptureFixture[str]


def problems(kind: str, body: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(schema_of(kind))
    return [error.message for error in validator.iter_errors(body)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_a_schema(kind: str) -> None:
    schema = schema_of(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["title"] == f"autoprog {kind}"


@pytest.mark.parametrize("name", shipped_spaces())
def test_the_spaces_that_ship_are_valid(name: str) -> None:
    assert problems("space", parse_yaml(shipped_spaces()[name], name)) == []


def test_the_published_schedules_are_valid() -> None:
    assert len(SCHEDULES) > 10
    wrong = {
        str(path): problems("schedule", migration.schedule(read_yaml(path))) for path in SCHEDULES
    }
    assert {path: found for path, found in wrong.items() if found} == {}


@pytest.mark.parametrize("name", PRESETS)
def test_what_presets_write_is_valid(name: str, deit_s: ModelSpec) -> None:
    text = preset(name, deit_s, 300, RECIPES["deit"].strength).to_yaml()
    assert problems("schedule", parse_yaml(text, name)) == []


def test_a_schedule_of_two_numbers_a_depth_is_valid() -> None:
    text = preset("linear", ZOO["volo-d1"], 300, RECIPES["deit"].strength).to_yaml()
    assert problems("schedule", parse_yaml(text, "volo")) == []


@pytest.mark.parametrize("name", RECIPES)
def test_whole_recipes_and_parts_of_them_are_valid(name: str) -> None:
    body = parse_yaml(dump_yaml(RECIPES[name].model_dump(mode="json")), name)
    assert problems("recipe", {"base": name, **body}) == []
    assert problems("recipe", {"epochs": 30, "aa": "none"}) == []


def test_every_key_of_a_recipe_has_a_hint() -> None:
    properties = schema_of("recipe")["properties"]
    assert properties.keys() == {"schema", "base", *Recipe.model_fields}
    assert all(entry["description"] for entry in properties.values())
    decisions = schema_of("space")["$defs"]["Decisions"]["properties"]
    assert all("description" in entry or key == "grow" for key, entry in decisions.items())


def space_with(**changes: Any) -> dict[str, Any]:
    body = parse_yaml(shipped_spaces()["vit-mu"], "vit-mu")
    return {**body, **changes}


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("space", space_with(axis={}), "'axis' was unexpected"),
        ("space", space_with(axes={"depth": {"values": ["two"]}}), "not valid under any"),
        ("space", space_with(recipe={"epoch": 3}), "'epoch' was unexpected"),
        ("space", space_with(decisions={"num_points": 0}), "less than the minimum of 1"),
        ("space", space_with(axes={"placement": ["middle"]}), "'middle' is not one of"),
        ("recipe", {"base": "imagenet"}, "'imagenet' is not one of"),
        ("recipe", {"mixup": -1}, "less than the minimum"),
        ("recipe", {"sched": "step"}, "'step' is not one of"),
        ("schedule", {"stages": []}, "'full' is a required property"),
    ],
)
def test_what_is_wrong_is_refused(kind: str, body: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in problems(kind, body))


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_prints_or_writes_the_schema(
    kind: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["init", kind, "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema_of(kind)
    output = tmp_path / "it.json"
    assert main(["init", kind, "--schema", "--output", str(output)]) == 0
    assert json.loads(output.read_text()) == schema_of(kind)
    assert main(["init", kind, "--schema", "--output", str(output)]) == 2
    assert "--output: must be a new file" in capsys.readouterr().err
    assert main(["init", kind, "--schema", "--output", str(output), "--force"]) == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--output", "it.yaml"], "--output: must end in .json"),
        (["--force"], "--force: must come with --output FILE"),
    ],
)
def test_other_outputs_are_refused(words: list[str], problem: str, capsys: Capture) -> None:
    assert main(["init", "space", "--schema", *words]) == 2
    assert problem in capsys.readouterr().err


def test_a_starter_file_finds_its_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spaces").mkdir()
    files = ["--output", "spaces/my.yaml", "--schema", "space.schema.json"]
    command = ["init", "space", "--model", "vit-mu", *files]
    assert main(command) == 0
    text = (tmp_path / "spaces" / "my.yaml").read_text()
    line, _, rest = text.partition("\n")
    assert line == "# yaml-language-server: $schema=../space.schema.json"
    schema = json.loads((tmp_path / "spaces" / line.partition("=")[2]).read_text())
    assert schema == schema_of("space")
    assert problems("space", parse_yaml(rest, "my.yaml")) == []
    assert main(command[:-2]) == 2
    assert main(["init", "space", "--model", "vit-mu", *files[2:]]) == 2
    assert "--schema: must come with --output FILE" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["space", "recipe", "schedule"])
@pytest.mark.parametrize("model", ["deit-s", "vit-mu", "volo-d1"])
def test_starter_files_are_valid(kind: str, model: str, capsys: Capture) -> None:
    preset = ["--from", "linear"] if kind == "schedule" else []
    assert main(["init", kind, "--model", model, *preset]) == 0
    text = capsys.readouterr().out
    assert problems(kind, parse_yaml(text, kind)) == []
    if kind == "recipe":
        text = re.sub(r"^# (\w+: )", r"\1", text, flags=re.MULTILINE)
        assert problems(kind, parse_yaml(text, kind)) == []
