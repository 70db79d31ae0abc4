"""Class names and the identity of the images travel with a run, its weights and its exports."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from autoprog.accuracy import class_difference
from autoprog.cli import main
from autoprog.files import parse_yaml
from autoprog.runs import load_run

HERE = ("--device", "cpu", "--threads", "1", "--workers", "0", "--amp", "none")
COLOURS = {"ant": (220, 40, 40), "bee": (40, 220, 40), "cat": (40, 40, 220), "dog": (40, 40, 40)}
Capture = pytest.CaptureFixture[str]


def images_in(folder: Path, names: Sequence[str], count: int, seed: int = 0) -> Path:
    """Write noisy photographs of the colour of each class, 90 x 72 px."""
    noise = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.array(COLOURS.get(name, (128, 128, 128))) + noise.normal(0, 30, (72, 90, 3))
            image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
            image.save(folder / name / f"{number}.png")
    return folder


def data_in(folder: Path, names: Sequence[str] = ("ant", "bee", "cat"), count: int = 8) -> Path:
    images_in(folder / "train", names, count)
    images_in(folder / "val", names, 4, seed=1)
    return folder


def command(*words: object) -> int:
    return main([str(word) for word in words])


def trained(runs: Path, data: Path, *words: object, epochs: float = 25) -> Path:
    recipe = ("--batch-size", 12, "--lr", "2e-3", "--crop-pct", 0.8, "--mixup", 0, "--cutmix", 0)
    base = ("train", "--schedule", "constant", "--model", "vit-mu", "--data", data, *recipe)
    where = ("--epochs", epochs, "-q", *HERE, "--runs-dir", runs)
    assert command(*base, *where, *words) == 0
    (run,) = runs.iterdir()
    return run


def warnings_of(run: Path) -> list[str]:
    """Return what a run warned of, but for what follows from so few images and steps."""
    told = [event.message for event in load_run(run).events() if event.kind == "warning_raised"]
    return [text for text in told if "largest class" not in text and "batch size" not in text]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_in(tmp_path_factory.mktemp("data") / "insects")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    return trained(tmp_path_factory.mktemp("runs"), data)


@pytest.fixture
def stopped(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that has not come to its end."""
    copy = Path(shutil.copytree(run, tmp_path / "stopped"))
    (copy / "result.json").unlink()
    for path in (copy / "checkpoints").glob("final*"):
        path.unlink()
    return copy


@pytest.fixture
def copied(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "copied"))


def evaluated(capsys: Capture, *words: object) -> tuple[float, str]:
    """Return the accuracy that ``evaluate`` prints, and what it said beside it."""
    capsys.readouterr()
    assert command("evaluate", *words, "--rounds", 0, "--json", *HERE) == 0
    shown = capsys.readouterr()
    return json.loads(shown.out)["cells"][0]["top1"], shown.err


def refused(capsys: Capture, *words: object) -> str:
    capsys.readouterr()
    assert command(*words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


def test_a_run_records_its_classes_and_its_images(run: Path, data: Path) -> None:
    found = load_run(run).manifest
    assert found.data is not None
    assert found.class_names == ("ant", "bee", "cat")
    assert (found.data.num_train_images, found.data.num_val_images) == (24, 12)
    assert set(found.data.digests) == {"train", "val"}
    assert found.settings.data.dir == str(data.absolute())
    for name in ("final", "final_ema"):
        path = run / "checkpoints" / f"{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        assert json.loads(about["class_names"]) == ["ant", "bee", "cat"]
        assert json.loads(about["images"])["crop_pct"] == 0.8
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((run / "run.yaml").stat().st_mode)


def test_a_run_without_a_record_still_loads_and_is_exported(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    older = Path(shutil.copytree(run, tmp_path / "older"))
    body = parse_yaml((run / "run.yaml").read_text(), "run.yaml")
    del body["data"]
    (older / "run.yaml").write_text(json.dumps(body))
    assert load_run(older).manifest.class_names is None
    final = older / "checkpoints" / "final_ema.safetensors"
    with safe_open(final, framework="pt") as file:
        about = {key: file.metadata()[key] for key in ("timm", "kwargs", "num_classes")}
    save_file(load_file(final), final, metadata=about)
    output = tmp_path / "w.pth"
    assert command("export", run, "--output", output) == 0
    capsys.readouterr()
    assert command("export", older, "--output", output, "--overwrite") == 0
    assert "the run did not record its classes" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"older", "w.pth", "w.pth.json"}
    assert evaluated(capsys, older)[0] == 100.0


def test_a_checkpoint_knows_its_run_from_within_its_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(run / "checkpoints")
    assert evaluated(capsys, "final.safetensors") == (100.0, "")


def test_classes_are_matched_by_name(run: Path, tmp_path: Path, capsys: Capture) -> None:
    assert evaluated(capsys, run) == (100.0, "")
    images_in(tmp_path / "some" / "test", ("cat", "bee"), 3, seed=2)
    top1, said = evaluated(capsys, run, "--data", tmp_path / "some")
    assert (top1, said) == (
        100.0,
        "autoprog: images of 2 of the 3 classes; any of all may be predicted\n",
    )


@pytest.mark.parametrize("part", ["val", "validation", "test", "TEST", ""])
def test_images_without_a_training_part_are_evaluated(
    run: Path, tmp_path: Path, capsys: Capture, part: str
) -> None:
    images_in(tmp_path / "d" / part, ("ant", "bee", "cat"), 2, seed=3)
    assert evaluated(capsys, run, "--data", tmp_path / "d") == (100.0, "")


@pytest.mark.parametrize("names", [("ant", "bee", "dog"), ("ant", "bee", "cat", "dog")])
def test_a_class_that_the_run_has_not_is_refused(
    run: Path, tmp_path: Path, capsys: Capture, names: tuple[str, ...]
) -> None:
    folder = data_in(tmp_path / "other", names, count=2)
    error = refused(capsys, "evaluate", run, "--data", folder, *HERE)
    assert "--data: must have classes that the weights know, but 'dog' is none of them" in error


def test_names_decide_and_not_their_order(run: Path, tmp_path: Path, capsys: Capture) -> None:
    """As of weights whose classes are in another order than folders are."""
    source = run / "checkpoints" / "final_ema.safetensors"
    with safe_open(source, framework="pt") as file:
        about = dict(file.metadata())
    weights, order = load_file(source), [2, 0, 1]
    weights["head.weight"] = weights["head.weight"][order].contiguous()
    weights["head.bias"] = weights["head.bias"][order].contiguous()
    about["class_names"] = json.dumps(["cat", "ant", "bee"])
    save_file(weights, tmp_path / "w.safetensors", metadata=about)
    images_in(tmp_path / "d" / "val", ("ant", "bee", "cat"), 2, seed=3)
    top1, said = evaluated(capsys, tmp_path / "w.safetensors", "--data", tmp_path / "d")
    assert top1 == 100.0
    assert "the classes are matched by name" in said
    given = ("--initial-checkpoint", tmp_path / "w.safetensors", "--lr", "1e-9")
    dir_ = load_run(run).manifest.settings.data.dir
    assert dir_ is not None
    tuned = trained(tmp_path / "tuned", Path(dir_), *given, epochs=1)
    (warned,) = warnings_of(tuned)
    assert "head is kept, its rows put into the order of the run's classes" in warned
    assert evaluated(capsys, tuned)[0] == 100.0


def test_weights_without_names_are_compared_by_number_and_it_says_so(
    run: Path, tmp_path: Path, capsys: Capture
) -> None:
    save_file(load_file(run / "checkpoints/final_ema.safetensors"), tmp_path / "w.safetensors")
    images_in(tmp_path / "two" / "val", ("ant", "bee"), 2)
    images_in(tmp_path / "three" / "val", ("ant", "bee", "cat"), 2)
    words = ("evaluate", tmp_path / "w.safetensors", "--model", "vit-mu", *HERE)
    error = refused(capsys, *words, "--data", tmp_path / "two")
    assert "--data: must have as many classes as the weights have outputs, 3, but got 2" in error
    top1, said = evaluated(capsys, *words[1:4], "--data", tmp_path / "three")
    assert top1 == 100.0
    assert "the weights name no classes: outputs are taken in the order of the images'" in said


def resumed(stopped: Path, *words: object) -> int:
    return command("train", "--resume", stopped, "-q", *HERE[:-2], *words)


def test_a_renamed_class_is_not_gone_on_with(stopped: Path, copied: Path, capsys: Capture) -> None:
    for part in ("train", "val"):
        (copied / part / "cat").rename(copied / part / "a-cat")
    words = ("train", "--resume", stopped, "--data", copied)
    for allowed in ((), ("--allow-changed-data",)):
        error = refused(capsys, *words, *allowed)
        assert "classes must be those that the run began with: 'a-cat' is new and 'cat' is" in error


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (
        lambda data: (data / "train" / "ant" / "0.png").unlink(),
        "there are 23 instead of 24 training images",
    ),
    "added": (
        lambda data: shutil.copy(data / "val/bee/0.png", data / "val/bee/9.png"),
        "there are 13 instead of 12 validation images",
    ),
    "moved": (
        lambda data: (data / "train/ant/0.png").rename(data / "train/bee/x.png"),
        "some training images are others or in other classes",
    ),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
def test_changed_images_are_refused_or_allowed_with_a_warning(
    stopped: Path, copied: Path, capsys: Capture, change: Callable[[Path], object], said: str
) -> None:
    before = (stopped / "run.yaml").read_bytes()
    change(copied)
    error = refused(capsys, "train", "--resume", stopped, "--data", copied)
    assert f"images must be those that the run began with, but {said}" in error
    assert (stopped / "run.yaml").read_bytes() == before
    assert resumed(stopped, "--data", copied, "--allow-changed-data") == 0
    warned = warnings_of(stopped)
    assert warned == [f"the images have changed: {said}; their order is another from here on"]


def test_moved_images_are_gone_on_with_from_any_folder(
    stopped: Path, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resumed(stopped, "--data", "copied") == 0
    assert load_run(stopped).manifest.settings.data.dir == str(copied)
    assert warnings_of(stopped) == []


def test_a_run_without_a_record_is_gone_on_with_and_it_says_so(
    stopped: Path, copied: Path, capsys: Capture
) -> None:
    body = parse_yaml((stopped / "run.yaml").read_text(), "run.yaml")
    del body["data"]
    (stopped / "run.yaml").write_text(json.dumps(body))
    error = refused(capsys, "train", "--resume", stopped, "--data", copied)
    assert "--data: must be left out: the run did not record what its images were" in error
    assert resumed(stopped) == 0
    (warned,) = warnings_of(stopped)
    assert "did not record its images" in warned
    assert load_run(stopped).manifest.class_names == ("ant", "bee", "cat")


def test_where_there_is_no_place_of_images_none_is_given(tmp_path: Path, capsys: Capture) -> None:
    words = ("train", "--schedule", "constant", "--model", "vit-mu", "--epochs", 0.1, "-q", *HERE)
    assert command(*words, "--runs-dir", tmp_path / "runs") == 0
    (digits,) = (tmp_path / "runs").iterdir()
    (digits / "result.json").unlink()
    error = refused(capsys, "train", "--resume", digits, "--data", tmp_path)
    assert "--data: must be left out with --resume: the run trains on the embedded digits" in error
    error = refused(capsys, *words, "--allow-changed-data")
    assert "--allow-changed-data: must be given together with --resume" in error


def test_resume_auto_finds_a_run_whose_images_have_moved(
    run: Path, data: Path, copied: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    stopped = Path(shutil.copytree(run, runs / run.name))
    (stopped / "result.json").unlink()
    assert trained(runs, copied, "--resume", "auto") == stopped
    assert load_run(stopped).result is not None
    assert load_run(stopped).manifest.settings.data.dir == str(copied)


def test_a_model_a_size_and_a_recipe_come_with_the_weights(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("export", run, "--format", "hf", "--output", "hub") == 0
    for number, source in enumerate((run, run / "checkpoints/final.safetensors", "hub")):
        runs = tmp_path / f"runs-{number}"
        words = ("--initial-checkpoint", source, "--data", data, "--epochs", 0.5)
        schedule = ("train", "--schedule", "constant")
        capsys.readouterr()
        assert command(*schedule, *words, *HERE, "--runs-dir", runs) == 0
        assert "finetune, because weights are given" in capsys.readouterr().out
        (path,) = runs.iterdir()
        found = load_run(path)
        settings = found.manifest.settings
        assert (settings.model.model, settings.model.img_size) == ("vit-mu", 16)
        assert (settings.recipe_name, settings.recipe.layer_decay) == ("finetune", 0.75)
        assert settings.initial_checkpoint == str((tmp_path / source).absolute())
        assert warnings_of(found.path) == []
    bare = tmp_path / "bare.pth"
    torch.save(load_file(run / "checkpoints/final.safetensors"), bare)
    error = refused(capsys, *schedule, "--initial-checkpoint", bare, "--data", data)
    assert f"--model: must be given: {bare} does not say what model it is for" in error


def test_a_search_takes_its_model_from_the_weights(run: Path, data: Path, tmp_path: Path) -> None:
    brief = ("--epochs", 20, "--batch-size", 12, "--profile-seconds", 0, "-q")
    words = ("search", "--initial-checkpoint", run, "--data", data, *brief)
    assert command(*words, *HERE, "--runs-dir", tmp_path) == 0
    (path,) = tmp_path.iterdir()
    settings = load_run(path).manifest.settings
    assert (settings.model.model, settings.recipe_name) == ("vit-mu", "finetune")


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (
            ("ant", "bee", "dog"),
            "its classes are others: in the run 'dog' is new and 'cat' is miss",
        ),
        (("ant", "bee"), "its classes are others: in the run 'cat' is missing"),
    ],
)
def test_the_head_of_other_classes_starts_afresh(
    run: Path, tmp_path: Path, names: tuple[str, ...], why: str
) -> None:
    given = ("--initial-checkpoint", run)
    tuned = trained(tmp_path / "r", data_in(tmp_path / "d", names, 2), *given, epochs=1)
    warned = warnings_of(tuned)
    assert sum(f"head starts afresh: {why}" in one for one in warned) == 1


def test_a_fresh_head_is_asked_for(run: Path, data: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ("--initial-checkpoint", run, "--fresh-head")
    tuned = trained(tmp_path / "r", data, *words, epochs=0.5)
    (warned,) = warnings_of(tuned)
    assert "head starts afresh: as --fresh-head says" in warned
    error = refused(capsys, "train", "--schedule", "constant", "--model", "vit-mu", "--fresh-head")
    assert "fresh_head: must be given together with --pretrained or --initial-checkpoint" in error


FORMATS = {"pth": "w.pth", "safetensors": "w.safetensors", "hf": "hub"}


@pytest.mark.parametrize("kind", FORMATS)
def test_what_an_export_prints_repeats_the_evaluation(
    run: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    kind: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--format", "hf") if kind == "hf" else ()
    capsys.readouterr()
    assert command("export", run, "--output", FORMATS[kind], *flags) == 0
    _, load, images, *_ = capsys.readouterr().out.splitlines()
    names: dict[str, Any] = {"timm": timm}
    model = eval(load.removeprefix("load with: "), names).eval()
    transform = eval(images.removeprefix("images: ").partition(" (crop")[0], names)
    if kind == "hf":
        config = json.loads(Path("hub/config.json").read_text())
        class_names = config["label_names"]
        assert config["pretrained_cfg"]["tag"] == "autoprog"
        foreign = {"license", "hf_hub_id", "origin_url", "paper_ids", "paper_name", "url"}
        assert not foreign & config["pretrained_cfg"].keys()
        own = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        assert str(own) == str(transform)
    else:
        class_names = Path(f"{FORMATS[kind]}.classes.txt").read_text().splitlines()
        about = json.loads(Path(f"{FORMATS[kind]}.json").read_text())
        assert about["class_names"] == class_names
        assert (about["img_size"], about["crop_pct"]) == (16, 0.8)
        modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert len(modes) == 1
    assert class_names == ["ant", "bee", "cat"]
    loss, right, count = 0.0, 0, 0
    for number, name in enumerate(class_names):
        for path in sorted((data / "val" / name).iterdir()):
            with torch.no_grad():
                logits = model(transform(Image.open(path).convert("RGB"))[None])
            loss -= float(torch.log_softmax(logits, 1)[0, number])
            right += int(logits.argmax() == number)
            count += 1
    result = load_run(run).result
    assert result is not None
    assert 100 * right / count == result.top1_ema
    assert loss / count == pytest.approx(result.loss_ema, abs=1e-5)
    top1, said = evaluated(capsys, FORMATS[kind], "--data", data)
    assert (top1, said) == (result.top1_ema, "")


def test_nothing_is_replaced_unasked(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").write_text("mine")
    Path("hub").mkdir()
    Path("hub/mine.txt").write_text("mine")
    error = refused(capsys, "export", run, "--output", "w.pth")
    assert "--output: must be a new file, but got 'w.pth'; take another name, or add --ov" in error
    assert Path("w.pth").read_text() == "mine"
    for flags in ((), ("--overwrite",)):
        error = refused(capsys, "export", run, "--format", "hf", "--output", "hub", *flags)
        assert "--output: must be a new folder" in error
    assert Path("hub/mine.txt").read_text() == "mine"
    assert command("export", run, "--output", "w.pth", "--overwrite") == 0
    Path("w.safetensors.json").write_text("{}")
    assert "'w.safetensors.json'" in refused(capsys, "export", run, "--output", "w.safetensors")
    for flags in ((), ("--overwrite",)):
        assert command("export", run, "--format", "hf", "--output", "new", *flags) == 0
    assert "add --overwrite" in refused(capsys, "export", run, "--format", "hf", "--output", "new")


def test_an_unfinished_run_is_exported_from_its_last_checkpoint(
    stopped: Path, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "w.safetensors"
    error = refused(capsys, "export", stopped, "--output", output)
    assert "must be a finished run" in error
    assert "add --checkpoint last" in error
    assert command("export", stopped, "--checkpoint", "last", "--output", output) == 0
    assert "averaged weights of step 50, in last.pt" in capsys.readouterr().out
    whole = load_file(run / "checkpoints/final_ema.safetensors")
    found = load_file(output)
    assert all(torch.equal(found[key], whole[key]) for key in whole)
    top1, said = evaluated(capsys, stopped / "checkpoints" / "last.pt")
    assert (top1, said) == (100.0, "autoprog: averaged weights of step 50, in last.pt\n")


def test_a_network_that_has_not_grown_yet_is_exported_as_it_is(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    """The checkpoint of the first stage of three, when two of the four blocks run."""
    words = ("train", "--schedule", "linear", "--model", "vit-mu", "--data", data, "-q", *HERE)
    brief = ("--epochs", 8, "--batch-size", 12, "--eval-every-epochs", 1)
    assert command(*words, *brief, "--runs-dir", tmp_path / "runs") == 0
    (grown,) = (tmp_path / "runs").iterdir()
    checkpoints = grown / "checkpoints"
    shutil.copy(checkpoints / "stage-0-0.pt", checkpoints / "last.pt")
    capsys.readouterr()
    output = tmp_path / "small.pth"
    assert command("export", grown, "--checkpoint", "last", "--output", output) == 0
    taken, _, load, *_ = capsys.readouterr().out.splitlines()
    assert "in last.pt: 2 of 4 blocks, as far as it has grown" in taken
    model = eval(load.removeprefix("load with: "), {"timm": timm})
    assert len(model.blocks) == 2
    assert (
        evaluated(capsys, output, "--data", data)[0]
        == evaluated(capsys, checkpoints / "last.pt")[0]
    )


def test_differences_of_names_are_told_in_words() -> None:
    assert class_difference("abc", "abc") == ""
    assert class_difference("acb", "abc") == "in another order: class 1 is 'c', not 'b'"
    assert class_difference("abxyzw", "abc") == (
        "'x', 'y', 'z' and 1 more are new and 'c' is missing"
    )
