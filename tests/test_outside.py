"""What a foreign run folder asks for outside itself: refused, unless the command line says it too."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from autoprog.cli import main
from autoprog.commands.resume import words_to_repeat
from autoprog.outside import asks_of, words_of_asks
from autoprog.runs import load_run
from autoprog.search import trials as trials_module
from autoprog.settings import RunManifest, RunSettings
from autoprog.train.step import Stepper

Capture = pytest.CaptureFixture[str]
HERE = ("--device=cpu", "--threads=1", "--workers=0", "-q")
Poison = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose last evaluation was lost, so that it can go on."""
    place = tmp_path_factory.mktemp("trained")
    words = ("--schedule=constant", "--model=vit-mu", "--epochs=1", f"--runs-dir={place}")
    assert main(["train", *words, *HERE]) == 0
    (path,) = place.iterdir()
    (path / "result.json").unlink()
    return path


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search by trials whose workers have not begun."""
    place = tmp_path_factory.mktemp("searched")
    words = ("--model=vit-mu", "--trials=1", "--proxy=0.5", "--epochs=1", f"--runs-dir={place}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials_module, "spawn_workers", lambda *_: iter(()))
        assert main(["search", *words, *HERE]) == 1
    (path,) = place.iterdir()
    return path


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Copies a run into ``runs`` and puts values into its settings, by their keys with dots."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def poison(run: Path, **values: Any) -> Path:
        path = Path(shutil.copytree(run, tmp_path / "runs" / "foreign"))
        body = yaml.safe_load((path / "run.yaml").read_text())
        for key, value in values.items():
            *parents, last = key.split("__")
            inside = body["settings"]
            for parent in parents:
                inside = inside[parent]
            inside[last] = value
        (path / "run.yaml").write_text(yaml.safe_dump(body))
        return path

    return poison


def everything(folder: Path) -> dict[str, bytes | None]:
    """Return all files below a folder with what they hold; folders with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def wds(tmp_path: Path) -> dict[str, Any]:
    program = f"pipe:touch {tmp_path}/canary; cat "
    return {"data__dataset": "wds/x", "data__data_dir": program, "data__num_classes": 10}


def stored(tmp_path: Path) -> dict[str, Any]:
    return {"search__storage": f"sqlite:///{tmp_path}/elsewhere.db"}


def refused(capsys: Capture, folder: Path, *words: str) -> str:
    """Return the one line that refuses a call, which has changed nothing."""
    before = everything(folder)
    capsys.readouterr()
    assert main([*words]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert everything(folder) == before
    return shown.err.removeprefix("autoprog: ").rstrip("\n")


@pytest.mark.parametrize(
    ("values", "key", "since", "hint"),
    [
        (
            {"cache": "/elsewhere"},
            "settings.cache",
            "decoded images are written there, but got '/elsewhere'",
            "--cache=/elsewhere",
        ),
        (
            {"log_wandb": True, "wandb_project": "theirs"},
            "settings.log_wandb",
            "the run is sent to Weights & Biases",
            "--log-wandb --wandb-project=theirs",
        ),
        (
            {"data__dataset": "hfds/cifar10", "data__train_split": "a b"},
            "settings.data.dataset",
            "its library may download it, or start a program for it, but got 'hfds/cifar10'",
            "--dataset=hfds/cifar10 '--train-split=a b'",
        ),
        (
            {"compile": True},
            "settings.compile",
            "a compiler is started, and its files are kept in a temporary folder",
            "--compile",
        ),
        (
            {"cache": "/elsewhere", "log_wandb": True},
            "settings.cache",
            "decoded images are written there, but got '/elsewhere'",
            "--cache=/elsewhere --log-wandb",
        ),
    ],
)
def test_a_run_goes_on_outside_its_folder_only_if_that_is_given_again(
    trained: Path,
    poisoned: Poison,
    tmp_path: Path,
    capsys: Capture,
    values: dict[str, Any],
    key: str,
    since: str,
    hint: str,
) -> None:
    path = poisoned(trained, **values)
    said = (
        f"must be allowed on the command line, since {since}; to allow that, add {hint} to --resume"
    )
    for resume, place in ((str(path), path), ("auto", path.relative_to(tmp_path))):
        line = refused(capsys, tmp_path, "train", f"--resume={resume}", "-q")
        assert line.startswith(f"{place}/run.yaml: {key}: {said}")


def test_no_program_is_started_for_a_run_folder(
    trained: Path, searched: Path, poisoned: Poison, tmp_path: Path, capsys: Capture
) -> None:
    path = poisoned(trained, **wds(tmp_path))
    program = f"'--data-dir=pipe:touch {tmp_path}/canary; cat '"
    line = refused(capsys, tmp_path, "train", f"--resume={path}", "-q")
    assert f"add --dataset=wds/x {program} to --resume" in line
    refused(capsys, tmp_path, "train", f"--resume={path}", "--dataset=wds/x", "-q")
    (path / "result.json").write_bytes(b"{}")
    shutil.rmtree(path)
    path = poisoned(searched, **wds(tmp_path))
    line = refused(capsys, tmp_path, "search", f"--join={path}")
    assert f"add --dataset=wds/x {program} to --join" in line
    line = refused(capsys, tmp_path, "search", f"--join={path}", "--dataset=wds/y")
    assert line == "--dataset: must be 'wds/x', as the run has, or be left out, but got 'wds/y'"


def test_no_program_is_started_to_evaluate_a_run(
    trained: Path, poisoned: Poison, tmp_path: Path, capsys: Capture
) -> None:
    path = poisoned(trained, **wds(tmp_path))
    target = str(path / "checkpoints" / "last.pt")
    line = refused(capsys, tmp_path, "evaluate", target, "--rounds=0")
    assert line.endswith(
        f"add --dataset=wds/x '--data-dir={wds(tmp_path)['data__data_dir']}' --num-classes=10"
    )


def test_weights_are_downloaded_only_before_the_first_checkpoint(
    trained: Path, poisoned: Poison, tmp_path: Path, capsys: Capture
) -> None:
    path = poisoned(trained, pretrained=True)
    assert main(["train", f"--resume={path}", "-q"]) == 0
    (path / "result.json").unlink()
    for file in (path / "checkpoints").glob("*.pt"):
        file.write_bytes(b"damaged")
    line = refused(capsys, tmp_path, "train", f"--resume={path}", "-q")
    assert line.endswith(
        "the weights may have to be downloaded; to allow that, add --pretrained to --resume"
    )


def test_what_is_given_again_is_allowed(
    trained: Path, poisoned: Poison, tmp_path: Path, capsys: Capture
) -> None:
    path = poisoned(trained, cache=str(tmp_path / "elsewhere"))
    assert main(["train", "--resume=auto", "--cache=mine", "-q"]) == 0
    assert load_run(path).result is not None
    assert not (tmp_path / "elsewhere").exists()
    (path / "result.json").unlink()
    assert main(["train", f"--resume={path}", f"--cache={tmp_path}/elsewhere", "-q"]) == 0


def test_what_a_run_has_not_cannot_be_given_again(
    trained: Path, poisoned: Poison, tmp_path: Path, capsys: Capture
) -> None:
    path = poisoned(trained)
    for word in ("--cache", "--pretrained", "--dataset=torch/cifar10"):
        line = refused(capsys, tmp_path, "train", f"--resume={path}", word)
        assert line.startswith(f"{word.partition('=')[0]}: must not be given with --resume RUN")


def test_a_database_of_trials_is_opened_only_if_it_is_given_again(
    searched: Path, poisoned: Poison, tmp_path: Path, capsys: Capture
) -> None:
    path = poisoned(searched, **stored(tmp_path))
    url = stored(tmp_path)["search__storage"]
    for flag in ("--resume", "--join"):
        line = refused(capsys, tmp_path, "search", f"{flag}={path}")
        assert line == (
            f"{path}/run.yaml: settings.search.storage: must be allowed on the command line, since trials are"
            f" written there, but got '{url}'; to allow that, add --storage={url} to {flag}"
        )
    line = refused(capsys, tmp_path, "search", f"--join={path}", "--storage=sqlite:///other.db")
    assert line.startswith(f"--storage: must be '{url}', as the run has, or be left out")
    assert main(["search", f"--resume={path}", "--storage=sqlite:///elsewhere.db", *HERE]) == 0
    assert (
        tmp_path / "elsewhere.db"
    ).exists()  # and the worker, which was told as well, has come to its end


def test_a_password_is_not_shown(
    searched: Path, poisoned: Poison, tmp_path: Path, capsys: Capture
) -> None:
    path = poisoned(searched, search__storage="mysql://me:secret@host/trials")
    line = refused(capsys, tmp_path, "search", f"--resume={path}")
    assert "mysql://me:***@host/trials" in line
    assert "secret" not in line


def test_a_command_line_says_what_to_repeat() -> None:
    words = ("train", "--schedule=linear", "--cache", "x", "--log-wandb", "--epochs=2", "--bogus")
    assert words_to_repeat(words) == ("--cache=x", "--log-wandb")
    words = ("search", "--dataset", "torch/x", "--storage=sqlite:///y", "--compile", "--pretrained")
    assert set(words_to_repeat(words)) == {
        "--dataset=torch/x",
        "--storage=sqlite:///y",
        "--compile",
        "--pretrained",
    }


@pytest.fixture
def settings(manifest: RunManifest) -> RunSettings:
    return manifest.settings


def test_what_stays_in_the_folder_is_no_ask(
    settings: RunSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run = tmp_path / "run"
    run.mkdir()
    (run / "out").symlink_to(tmp_path)

    def words(**changes: Any) -> tuple[str, ...]:
        return words_of_asks(settings.model_copy(update=changes), run)

    assert words() == ()
    assert words(cache="auto") == words(cache=str(tmp_path / "home" / "autoprog")) == ()
    assert words(cache=str(run / "images")) == ()
    assert words(cache=str(run / "out" / "images")) == (f"--cache={run}/out/images",)
    assert words(cache=str(run)) == (f"--cache={run}",)
    assert words(cache=f"{run}/a\0b") == ()
    assert words(cache="a\0b") == ("--cache=a\0b",)
    assert words(log_wandb=True, wandb_mode="offline") == words(log_tensorboard=True) == ()
    assert words(log_wandb=True, wandb_mode="online") == ("--log-wandb",)
    assert asks_of(settings.model_copy(update={"pretrained": True}), run, loads_weights=False) == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert words(log_wandb=True) == ()


def test_folders_of_images_are_read_without_being_asked_for(settings: RunSettings) -> None:
    def words(**changes: Any) -> tuple[str, ...]:
        data = settings.data.model_copy(update=changes)
        return words_of_asks(settings.model_copy(update={"data": data}), Path("run"))

    assert words(dir="/data") == words(dataset="torch/image_folder", data_dir="/data") == ()
    assert words(dataset="torch/cifar10", data_dir="/data") == (
        "--dataset=torch/cifar10",
        "--data-dir=/data",
    )


def test_a_database_is_asked_for_wherever_it_lies(searched: Path, poisoned: Poison) -> None:
    """Also in the run folder: a view or a trigger of a foreign database may never end."""
    path = poisoned(searched)
    settings = load_run(path).manifest.settings
    for url in (
        f"sqlite:///{path}/trials.db",
        f"sqlite:////proc/self/cwd/{path.name}/trials.db",
        f"sqlite:///{path}/../trials.db",
        f"sqlite+other:///{path}/trials.db",
        "mysql://host/trials",
    ):
        search = settings.search.model_copy(update={"storage": url})  # type: ignore[union-attr]
        with_database = settings.model_copy(update={"search": search})
        assert words_of_asks(with_database, path) == (f"--storage={url}",)


def test_a_run_that_is_stopped_names_what_must_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    take = Stepper.step

    def stopped(self: Stepper, *rest: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return take(self, *rest)

    monkeypatch.setattr(Stepper, "step", stopped)
    cache, runs = tmp_path / "my cache", tmp_path / "runs"
    words = ("--schedule=constant", "--model=vit-mu", "--epochs=1", f"--runs-dir={runs}")
    assert main(["train", *words, *HERE, f"--cache={cache}"]) == 143
    (run,) = runs.iterdir()
    again = f"go on with --resume {run} '--cache={cache}'"
    assert capsys.readouterr().err.splitlines()[-1].endswith(again)

    monkeypatch.setattr(Stepper, "step", take)
    assert main(["train", *shlex.split(again.removeprefix("go on with ")), *HERE]) == 0
