"""Starter files are what the commands that read them take, comments and all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from PIL import Image

from autoprog.cli import build_parser, main
from autoprog.commands.configure import configure_search, configure_train
from autoprog.files import parse, parse_yaml
from autoprog.presets import PRESETS, preset
from autoprog.recipe import RECIPES, Recipe, fitting_batch_size
from autoprog.schedule import GrowthSchedule
from autoprog.space import Decisions, SpaceFile, find_space
from autoprog.stage import Grow, Stage
from autoprog.train.model import find_model
from supernet.zoo import ZOO

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
    assert axes.init == get_args(Grow.model_fields["init"].annotation)
    named = {key for key in type(axes).model_fields if f"{key}: " in text}
    assert named == set(type(axes).model_fields)


def test_every_key_of_the_decisions_is_there(capsys: Capture) -> None:
    main(["init", "space", "--model", "deit-s"])
    body = parse_yaml(capsys.readouterr().out, "starter")
    assert body["decisions"].keys() == Decisions.model_fields.keys()


def recipe_text(model: str, capsys: Capture) -> str:
    assert main(["init", "recipe", "--model", model]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("model", "base"), [("deit-s", "deit"), ("vit-mu", "small-data")])
def test_a_starter_recipe_without_its_marks_is_all_of_a_recipe(
    model: str, base: str, capsys: Capture
) -> None:
    text = re.sub(r"^# (\w+: )", r"\1", recipe_text(model, capsys), flags=re.MULTILINE)
    assert parse_yaml(text, "starter").keys() == {"schema", "base", *Recipe.model_fields}
    Path("my.yaml").write_text(text, encoding="utf-8")
    words = ["train", "--schedule", "constant", "--model", model, "--recipe", "my.yaml"]
    settings = configure_train(build_parser("train").parse_args(words)).settings
    recipe = RECIPES[base]
    fitting = fitting_batch_size(recipe.batch_size, 1437)  # of the digits
    recipe = recipe.model_copy(update={"batch_size": fitting})
    assert (settings.recipe_name, settings.recipe) == (base, recipe)


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for part in ("train", "val"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            for number in range(40):
                Image.new("RGB", (16, 16), (number, 0, 0)).save(
                    folder / part / name / f"{number}.png"
                )
    return folder


SEARCH, TRAIN = ["search"], ["train", "--schedule", "linear"]


@pytest.mark.parametrize("base", ["deit", "small-data", "digits"])
@pytest.mark.parametrize("model", ["deit-s", "vit-mu"])
@pytest.mark.parametrize(
    ("command", "sched"),
    [(SEARCH, "wsd"), ([*SEARCH, "--same-epochs"], "cosine"), (TRAIN, "cosine")],
)
def test_an_untouched_starter_recipe_changes_nothing(
    base: str,
    model: str,
    command: list[str],
    sched: str,
    few_images: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if base == "deit":
        monkeypatch.setattr("autoprog.recipe._SMALL_DATA_IMAGES", 1)
    data = [] if base == "digits" else ["--data", str(few_images)]
    configure = configure_search if command[0] == "search" else configure_train
    schema = ["--schema", "my.json"]
    assert main(["init", "recipe", "--model", model, "--output", "my.yaml", *schema]) == 0
    words = [*command, "--model", model, *data]
    plain, with_file = (
        configure(build_parser(words[0]).parse_args([*words, *more])).settings
        for more in ([], ["--recipe", "my.yaml"])
    )
    assert with_file == plain
    assert (plain.recipe_name, plain.recipe.sched) == (base, sched)


@pytest.mark.parametrize(("line", "key", "value"), [("epochs", "epochs", 7), ("aa", "aa", None)])
def test_one_key_of_a_starter_recipe_changes_that_key_alone(
    line: str, key: str, value: object, capsys: Capture
) -> None:
    text = recipe_text("deit-s", capsys)
    told = {"epochs": "epochs: 7", "aa": "aa: none"}[line]
    text, count = re.subn(rf"^# {line}: \S+", told, text, flags=re.MULTILINE)
    assert count == 1
    Path("my.yaml").write_text(text, encoding="utf-8")
    words = ["search", "--model", "vit-mu", "--recipe", "my.yaml"]
    settings = configure_search(build_parser("search").parse_args(words)).settings
    changed = {"sched": "wsd", key: value}
    assert settings.recipe == RECIPES["digits"].model_copy(update=changed)


SCHEDULES = [
    (name, model)
    for name in PRESETS
    for model in ("deit-s", "vit-mu", "volo-d1")
    if model != "volo-d1" or not name.startswith(("patch-sampling", "supervit"))
]


@pytest.mark.parametrize(("name", "model"), SCHEDULES)
@pytest.mark.parametrize("epochs", [None, 90.5])
def test_a_starter_schedule_trains_the_steps_of_its_preset(
    name: str, model: str, epochs: float | None, capsys: Capture
) -> None:
    length = [] if epochs is None else ["--epochs", str(epochs)]
    assert main(["init", "schedule", "--from", name, "--model", model, *length]) == 0
    text = capsys.readouterr().out
    written = parse(GrowthSchedule, parse_yaml(text, "starter"), "starter")
    base = RECIPES["small-data" if model == "vit-mu" else "deit"]
    run_epochs = base.epochs if epochs is None else epochs
    own = preset(name, ZOO[model], run_epochs, base.strength, base.learning_rate)
    assert written == own
    table = own.resolve(313, run_epochs)
    assert written.resolve(313, run_epochs) == table
    if written.own_epochs(313) is not None:
        assert written.resolve(313) == table
    else:
        assert f"--epochs {run_epochs:g}" in text
    assert text.count("# stage ") == len(own.stages)


def test_keys_of_a_stage_that_are_shown_in_comments_are_valid(capsys: Capture) -> None:
    main(["init", "schedule", "--from", "constant", "--model", "deit-s", "--epochs", "3"])
    text = capsys.readouterr().out
    text, optional = text.split("# A stage may also have")
    body = parse_yaml(text, "starter")
    keys = parse_yaml(re.sub(r"^#   (?=\w+: )", "", optional.split("\n", 1)[1], flags=re.M), "keys")
    (stage,) = body["stages"]
    body = {**body, "stages": [{**stage, **keys}], "end": "free"}
    parse(GrowthSchedule, body, "starter")
    assert {"length", "depth", "img_size", "step", *keys} == set(Stage.model_fields)


def test_a_starter_schedule_is_what_train_takes(capsys: Capture) -> None:
    words = ["--from", "linear", "--model", "deit-s", "--img-size", "64", "--epochs", "8"]
    assert main(["init", "schedule", *words, "--recipe", "digits", "--output", "my.yaml"]) == 0
    words = ["train", "--schedule", "my.yaml", "--epochs", "8"]
    found = configure_train(build_parser("train").parse_args(words))
    words = ["train", "--schedule", "linear", "--model", "deit-s", "--epochs", "8"]
    expected = configure_train(build_parser("train").parse_args(words))
    assert found.schedule == expected.schedule
    assert found.settings.recipe == expected.settings.recipe


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["schedule"], "--from: must be given; add --from linear, or another name that"),
        (
            ["schedule", "--from", "linaer"],
            "--from: unknown preset, but got 'linaer'; did you mean 'linear'?",
        ),
        (
            ["schedule", "--from", "linear", "--recipe", "diet"],
            "--recipe: unknown recipe, but got 'diet'; did you mean 'deit'?",
        ),
        (
            ["schedule", "--from", "linear", "--img-size", "30"],
            "--img-size: img_size must be a multiple of the stride 4, but got 30",
        ),
    ],
)
def test_a_starter_that_cannot_be_made_is_one_line(
    words: list[str], line: str, capsys: Capture, tmp_path: Path
) -> None:
    assert main(["init", *words, "--model", "vit-mu", "--output", "my.yaml"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith(f"autoprog: {line}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["recipe", "--from", "linear"], "--from must be given with autoprog init schedule"),
        (["space", "--epochs", "3"], "--epochs must be given with autoprog init schedule"),
        (["recipe", "--modle", "x"], "unknown argument --modle; did you mean '--model'?"),
    ],
)
def test_a_flag_of_another_starter_is_one_line(
    words: list[str], line: str, capsys: Capture, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["init", *words, "--model", "vit-mu", "--output", "my.yaml"])
    assert stopped.value.code == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert shown.err.startswith(f"autoprog: {line}")
    assert list(tmp_path.iterdir()) == []


def test_the_printed_command_searches(capsys: Capture) -> None:
    main(["init", "space", "--model", "vit-mu", "--output", "my.yaml"])
    short = ["--epochs", "3", "--device", "cpu", "--threads", "1", "--workers", "0", "-q"]
    few = ["--num-points", "1", "--continuation-trials", "2", "--profile-seconds", "0.2"]
    assert main(["search", "--model", "vit-mu", "--space", "my.yaml", *short, *few]) == 0


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


@pytest.mark.parametrize(("words", "code", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_one_line(
    words: list[str], code: int, problem: str, capsys: Capture, tmp_path: Path
) -> None:
    assert main(["init", "space", *words]) == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert problem in shown.err
    assert list(tmp_path.iterdir()) == []
