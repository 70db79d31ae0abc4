"""Starter files are what the commands that read them take, comments and all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autoprog.cli import build_parser, main
from autoprog.commands.configure import configure_search, configure_train
from autoprog.files import parse, parse_yaml
from autoprog.recipe import RECIPES, Recipe
from autoprog.space import Decisions, SpaceFile, find_space
from autoprog.train.model import find_model

Capture = pytest.CaptureFixture[str]
MODELS = ["deit-s", "vit-mu", "volo-d1", "vit-xs-local", "vit_tiny_patch16_384"]
"""With a space of their own and without, of two stages, that needs the grid, and of timm."""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("model", MODELS)
def test_a_starter_space_is_the_space_that_the_model_has(model: str, capsys: Capture) -> None:
    assert main(["init", "space", "--model", model, "--output", "my.yaml"]) == 0
    assert capsys.readouterr().out == "my.yaml\n"
    words = ["search", "--model", model, "--space", "my.yaml", "--device", "cpu"]
    search = configure_search(build_parser("search").parse_args(words)).settings.search
    assert search is not None
    file, where = find_space(None, model)
    own = file.space(find_model(model), where)
    assert (search.space.depths, search.space.sizes) == (own.depths, own.sizes)
    assert (search.space.decisions, search.space.spec) == (own.decisions, own.spec)


def test_the_axes_in_comments_are_valid_too(capsys: Capture) -> None:
    assert main(["init", "space", "--model", "deit-s"]) == 0
    text = capsys.readouterr().out
    bare = re.sub(r"^  # (\w+: [{\[])", r"  \1", text, flags=re.MULTILINE)
    axes = parse(SpaceFile, parse_yaml(bare, "starter"), "starter").axes
    assert axes.randaug.values == (0.5, 1.0)
    assert axes.grow == ("mogrow", "copy", "zero")
    named = {key for key in type(axes).model_fields if f"{key}: " in text}
    assert named == set(type(axes).model_fields)


def test_every_key_of_the_decisions_is_there(capsys: Capture) -> None:
    main(["init", "space", "--model", "deit-s"])
    body = parse_yaml(capsys.readouterr().out, "starter")
    assert body["decisions"].keys() == Decisions.model_fields.keys()


@pytest.mark.parametrize(("model", "base"), [("deit-s", "deit"), ("vit-mu", "small-data")])
def test_a_starter_recipe_is_all_of_a_recipe(model: str, base: str, capsys: Capture) -> None:
    assert main(["init", "recipe", "--model", model]) == 0
    text = capsys.readouterr().out
    assert parse_yaml(text, "starter").keys() == {"base", *Recipe.model_fields}
    Path("my.yaml").write_text(text, encoding="utf-8")
    words = ["train", "--schedule", "constant", "--model", model, "--recipe", "my.yaml"]
    settings = configure_train(build_parser("train").parse_args(words)).settings
    assert (settings.recipe_name, settings.recipe) == (base, RECIPES[base])


def test_the_printed_command_searches(capsys: Capture) -> None:
    main(["init", "space", "--model", "vit-mu", "--output", "my.yaml"])
    brief = ["--epochs", "3", "--device", "cpu", "--threads", "1", "--workers", "0", "-q"]
    few = ["--num-points", "1", "--tail-trials", "2", "--profile-seconds", "0.2"]
    assert main(["search", "--model", "vit-mu", "--space", "my.yaml", *brief, *few]) == 0


def test_a_file_that_is_there_stays_unless_forced(capsys: Capture) -> None:
    words = ["init", "recipe", "--model", "vit-mu", "--output", "my.yaml"]
    Path("my.yaml").write_text("mine", encoding="utf-8")
    assert main(words) == 2
    assert capsys.readouterr().err == (
        "autoprog: --output: must be a new file, but got 'my.yaml'; add --force to replace it\n"
    )
    assert Path("my.yaml").read_text(encoding="utf-8") == "mine"
    assert main([*words, "--force"]) == 0
    assert Path("my.yaml").read_text(encoding="utf-8").startswith("# How vit-mu is trained")


REFUSED = {
    "an ending": (["--model", "vit-mu", "--output", "my.txt"], 2, "must end in .yaml or .yml"),
    "a model": (["--model", "deit-x", "--output", "my.yaml"], 2, "did you mean 'deit-s'?"),
    "a folder": (["--model", "vit-mu", "--output", "no/my.yaml"], 1, "cannot be written"),
    "force": (["--model", "vit-mu", "--force"], 2, "--force: must come with --output FILE"),
}


@pytest.mark.parametrize(("words", "code", "law"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_one_line(
    words: list[str], code: int, law: str, capsys: Capture, tmp_path: Path
) -> None:
    assert main(["init", "space", *words]) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert law in shown.err
    assert list(tmp_path.iterdir()) == []
