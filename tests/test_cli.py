"""The command line: its frozen surface, its exit codes, and one line for whatever is wrong."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from rich.console import Console

from autoprog.cli import COMMANDS, RENAMED_FLAGS, build_parser, main
from autoprog.events import Event, WarningRaised
from autoprog.printable import is_printable
from autoprog.runs import RunFolder, load_run
from autoprog.stage import FullModel
from supernet.config import ModelSpec
from supernet.zoo import ZOO

ROOT = Path(__file__).resolve().parent.parent
DATA = (
    "--data --dataset --data-dir --train-split --val-split --input-key --target-key --num-classes"
    " --class-folders --val-fraction --val-seed --white-level"
)
FRACTION_UNITS = "--data-fraction --held-out"
RECIPE = (
    "--recipe --epochs --batch-size --grad-accum-steps --opt --lr --lr-base --lr-base-size"
    " --weight-decay --layer-decay --clip-grad --sched"
    " --warmup-fraction --warmup-lr --min-lr --decay-fraction"
    " --smoothing --mixup --cutmix --aa --reprob --remode --drop-path --scale --ratio --hflip --vflip"
    " --color-jitter --interpolation --crop-pct --ema-epochs"
)
RUN = (
    "--seed --runs-dir --resume --device --amp --threads --workers --checkpoint-minutes"
    " --log-every-steps --eval-every-epochs --patience --compile --cache --max-bad-images --on-divergence"
    " -q --quiet"
    " --log-tensorboard --log-wandb --wandb-project --wandb-mode"
)
COMMON = f"-h --help --debug {DATA} {FRACTION_UNITS}"
COMMON += f" --pretrained --initial-checkpoint --fresh-head {RECIPE} {RUN}"
TRAINING = f"{COMMON} --schedule --elastic --pos-embed --model --img-size --time-budget --allow-changed-data"
FLAGS = {
    "search": f"{COMMON} --model --img-size --space --rule --sampler --costs --profile-seconds --num-stages"
    " --supernet-epochs --max-candidates --min-full-fraction --grow-init --grow-placement"
    " --grow-old-blocks --grow-optimizer-state"
    " --budget --cost-fraction --same-epochs --continuation-trials --num-points --supernet-fraction"
    " --search-fraction --trials"
    " --proxy -j --jobs --join --allow-changed-data"
    " --storage --fidelity --fidelity-at --fidelity-epochs --fidelity-seeds --fidelity-from --json"
    " --dry-run",
    "train": f"{TRAINING} --dry-run --json",
    "show": "-h --help --debug --model --epochs --recipe --diff --plain --json --svg --html"
    " --replay --rule --sampler --seed",
    "compare": "-h --help --debug --x --runs-dir --json --markdown --html",
    "inspect": "-h --help --debug --runs-dir --screenshots --size",
    "export": "-h --help --debug --output --weights --checkpoint --overwrite"
    " --format --img-size --keep-rate --by --at-blocks --wandb-project --wandb-mode",
    "evaluate": f"-h --help --debug {DATA} --model --img-size --recipe --weights --checkpoint --img-sizes"
    " --keep-rates --grid --by --at-blocks --batch-size --crop-pct --interpolation --rounds --device --amp"
    " --threads --workers --json",
    "list": "-h --help --debug",
    "list presets": "-h --help --debug --json",
    "list models": "-h --help --debug --filter --json",
    "list spaces": "-h --help --debug --json",
    "list caches": "-h --help --debug --dir --remove --older-than --all --json",
    "init": "-h --help --debug",
    "init space": "-h --help --debug --model --output --schema --force",
    "init recipe": "-h --help --debug --model --output --schema --force",
    "init schedule": "-h --help --debug --model --from --epochs --recipe --img-size --output --schema"
    " --force",
    "init completion": "-h --help --debug",
    "doctor": "-h --help --debug --data --val-fraction --class-folders --runs-dir --json",
    "bench": "-h --help --debug",
    "bench runner": f"{TRAINING} --blocks --block-steps --timm-script --json",
    "bench costs": f"{TRAINING} --space --profile-seconds --json",
    "bench presets": f"{TRAINING} --equal --presets --seeds --profile-seconds --json --markdown",
    "bench tier": f"{COMMON} --model --img-size --seeds --dry-run --publish --write --json --markdown",
    "bench stress": "-h --help --debug --kills --signal --stress-seed --keep --json",
    "verify": f"{COMMON} --search --schedule --seeds --margin --candidate-epochs --search-seconds"
    " --side-by-side --model --img-size --json --markdown --nproc --lengths --baseline-longer --longer-seeds"
    " --controls --controls-space --costs",
}
SMALL = ("--model", "vit-mu", "--device", "cpu", "--threads", "1", "--workers", "0")
LINEAR = ("train", "--schedule", "linear", *SMALL)
SEARCH = ("search", *SMALL)


def test_help_names_extras_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "pip install 'autoprog[tensorboard]'" in text
    assert "pip install 'autoprog[wandb]'" in text


def test_two_schedules_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*LINEAR, "--elastic"])
    assert ended.value.code == 2
    assert "--elastic: not allowed with argument --schedule" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("show", "linear"), ("list", "presets")])
def test_an_output_that_nobody_reads_on_is_no_failure(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    found = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "autoprog", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=found, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_of_few_characters_is_no_reason_to_fail() -> None:
    found = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "autoprog", "train", "--help"]
    done = subprocess.run(command, capture_output=True, env=found, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


Autoprog = Callable[..., Done]


@pytest.fixture
def autoprog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Autoprog:
    """Return the program, run in this process in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return run


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (words,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(words.choices)


def options(command: str) -> set[str]:
    words = command.split()
    parser = build_parser(words[0])
    for word in words:
        parser = subparsers(parser)[word]
    return {flag for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize("command", FLAGS)
def test_the_flags_are_those_on_the_list(command: str) -> None:
    """A flag is a promise: a change here belongs into the CHANGELOG."""
    assert options(command) == set(FLAGS[command].split())


def test_the_commands_are_those_on_the_list() -> None:
    assert set(COMMANDS) == {command for command in FLAGS if " " not in command}
    for command in ("list", "init", "bench"):
        found = subparsers(subparsers(build_parser(command))[command])
        assert {f"{command} {word}" for word in found} == {
            name for name in FLAGS if name.startswith(f"{command} ")
        }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("schedules",), "schedules is now: autoprog list presets"),
        (("--debug", "models", "--json"), "models is now: autoprog list models"),
        (("spaces",), "spaces is now: autoprog list spaces"),
        (("cache", "clear"), "cache is now: autoprog list caches [--remove NAME …]"),
        (("log", "run"), "log is now: autoprog export RUN --format tensorboard|wandb"),
        (("schema", "space"), "schema is now: autoprog init space|recipe|schedule --schema"),
        (("completion", "zsh"), "completion is now: autoprog init completion bash|zsh|tcsh"),
        (("stress", "--", "train"), "stress is now: autoprog bench stress -- train|search …"),
        (("bench", "--tier", "cpu"), "--tier is now: autoprog bench tier NAME"),
        (("search", "--replay", "run"), "--replay is now: autoprog show RUN --replay"),
        (("search", "--time-share=0.5"), "--time-share is now: --cost-fraction"),
        (
            ("verify", "--search", "--", "--tail-trials", "2"),
            "--tail-trials is now: --continuation-trials",
        ),
    ],
)
def test_an_old_spelling_names_the_new_one(
    autoprog: Autoprog, words: tuple[str, ...], line: str
) -> None:
    assert autoprog(*words) == Done(2, "", f"autoprog: {line}\n")


@pytest.mark.parametrize(("old", "new"), RENAMED_FLAGS.items())
def test_what_a_renamed_flag_is_now_exists(autoprog: Autoprog, old: str, new: str) -> None:
    known = options("search")
    if old in known:
        pytest.skip("not renamed yet")
    assert new.split()[0] in known
    assert autoprog("search", old, "1") == Done(2, "", f"autoprog: {old} is now: {new}\n")


@pytest.mark.parametrize("command", ["", *FLAGS])
def test_help_is_printed_and_ends_with_0(autoprog: Autoprog, command: str) -> None:
    done = autoprog(*command.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert "autoprog" in done.out
    for flag in FLAGS[command].split() if command else COMMANDS:
        assert flag in done.out


def test_the_version_is_printed(autoprog: Autoprog) -> None:
    done = autoprog("--version")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("autoprog ")


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from autoprog.cli import build_parser; build_parser(None).format_help();"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"torch", "torchvision", "timm", "numpy", "optuna", "pydantic", "yaml", "sklearn"}
    assert roots & heavy == set()


def cpu_seconds(*words: str) -> float:
    """Return user and system seconds of a child, the least of five."""
    found = []
    for _ in range(5):
        child = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        found.append(used.ru_utime + used.ru_stime)
    return min(found)


def test_help_is_there_at_once() -> None:
    """Measured on an idle core: 0.1 s, of which Python itself takes 0.02 s."""
    assert cpu_seconds("-m", "autoprog", "--help") < 0.3 + 2 * cpu_seconds("-c", "pass")


# What is refused: (words, what the one line on stderr says after "autoprog: ").
REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "a model with a slip": (
        ("train", "--schedule", "linear", "--model", "vit-mi"),
        "--model: must be a short name or a timm model, but got 'vit-mi'; did you mean 'vit-mu'?",
    ),
    "a timm model with a slip": (
        ("train", "--schedule", "linear", "--model", "deit_smal_patch16_224"),
        "--model: model must be a short name or a timm model, but got 'deit_smal_patch16_224';"
        " did you mean deit_small_patch16_224, …",
    ),
    "a model of another kind": (
        ("train", "--schedule", "linear", "--model", "resnet18"),
        "--model: must be a plain timm VisionTransformer or VOLO, but is a ResNet",
    ),
    "no model for a preset": (
        ("train", "--schedule", "linear"),
        "--model: must be given; add --model deit-s, or any timm VisionTransformer or VOLO",
    ),
    "no schedule": (
        ("train", *SMALL),
        "--schedule: must be given; give a YAML file, or a preset with --model",
    ),
    "no model for a search": (
        ("search",),
        "--model: must be given; add --model deit-s, or any timm VisionTransformer or VOLO",
    ),
    "an unknown recipe": (
        (*LINEAR, "--recipe", "digts"),
        "--recipe: unknown recipe, but got 'digts'; did you mean 'digits'?",
    ),
    "an unknown optimizer": (
        (*LINEAR, "--opt", "adamww"),
        "--opt: unknown optimizer, but got 'adamww'; did you mean 'adamw'?",
    ),
    "an image size off the stride": (
        (*LINEAR, "--img-size", 18),
        "--img-size: img_size must be a multiple of the stride 4, but got 18; nearest are 16 and 20",
    ),
    "a preset with a slip": (
        ("train", "--schedule", "lineer", *SMALL),
        "--schedule: must be an existing YAML file or a preset, but got 'lineer';"
        " did you mean 'linear'?",
    ),
    "a schedule file that is not there": (
        ("train", "--schedule", "best.yaml"),
        "best.yaml: must be a readable file: No such file or directory",
    ),
    "details of trainings that are not wanted": (
        (*SEARCH, "--fidelity-from", "scratch"),
        "--fidelity-from: must be given together with --fidelity",
    ),
    "estimates of a search that makes none": (
        (*SEARCH, "--trials", 2, "--fidelity", 4),
        "--fidelity: must be left out with --trials, which estimate nothing",
    ),
    "a decision that is not taken": (
        (*SEARCH, "--rule", "autoprog", "--epochs", 12, "--fidelity", 4, "--fidelity-at", 3),
        "--fidelity-at: must be below 2, the number of decisions with a supernet, from 0 on,"
        " but got 3",
    ),
    "a run too short for its stages": (
        (*LINEAR, "--epochs", 0.1),
        "schedule: stages[0].length: must last at least one step at 22 steps an epoch, but got 0.025;"
        " train longer or drop the stage",
    ),
    "a data folder that is not there": (
        (*LINEAR, "--data", "images"),
        "--data: must be an existing folder, but got 'images';"
        " give a folder with train and val in it, as class folders or as .tar files",
    ),
    "flags of a data set without one": (
        (*LINEAR, "--num-classes", 3),
        "--num-classes: must be given together with --dataset",
    ),
    "an unknown device": (
        (*LINEAR, "--device", "gpu"),
        "--device: must be auto, cpu, mps, cuda or cuda:N, but got 'gpu'",
    ),
    "a device that is not there": (
        (*LINEAR, "--device", "cuda:99"),
        "--device: must be there on this machine, but got 'cuda:99'; take --device auto",
    ),
    "a run folder that is not there": (
        ("train", "--resume", "some/run"),
        "some/run: must be a run folder with a run.yaml in it",
    ),
    "supernets that do not fit": (
        (*SEARCH, "--rule", "autoprog", "--epochs", 8, "--supernet-epochs", 5),
        "search: 176 steps are too few to search; take --epochs 15 or --supernet-epochs …",
    ),
    "costs that are not there": (
        (*SEARCH, "--costs", "costs.json"),
        "costs.json: must be a readable JSON file of step seconds",
    ),
    "an unknown space": (
        (*SEARCH, "--space", "vit_mu"),
        "--space: unknown space, but got 'vit_mu'; did you mean 'vit-mu'?",
    ),
    "an odd batch with mixup": (
        (*LINEAR, "--batch-size", 33, "--mixup", 0.8),
        "--batch-size: must be even for mixup and cutmix, but got 33; or set --mixup 0 --cutmix 0",
    ),
    "a warm-up that leaves no room to decay": (
        (*LINEAR, "--sched", "wsd", "--warmup-fraction", 0.9),
        "--decay-fraction: must leave 317 of 352 steps to the warm-up, but got 0.2; lower --warmup-fraction",
    ),
    "nothing to show": (
        ("show", "nosuch"),
        "nosuch: must be a run folder, last, a schedule file or a preset; presets: constant, …",
    ),
    "a model of what says it itself": (
        ("show", "best.yaml", "--model", "vit-mu"),
        "--model: goes with a preset alone, since a run and a schedule file say their model themselves,"
        " but got 'vit-mu'",
    ),
    "an unknown augmentation": (
        (*LINEAR, "--aa", "bogus"),
        "--aa: must be an augmentation string that timm knows, but got 'bogus'; for example …",
    ),
    "an augmentation off its scale": (
        (*LINEAR, "--aa", "rand-m12"),
        "flags: aa: must have a magnitude of at most 10, but got 'rand-m12'",
    ),
    "a crop from large to small": (
        (*LINEAR, "--scale", 1, 0.5),
        "flags: scale: must be two rising numbers above 0, but got (1.0, 0.5)",
    ),
    "two sources of weights": (
        (*LINEAR, "--pretrained", "--initial-checkpoint", "x.pth"),
        "flags: initial_checkpoint: must not be given together with --pretrained, but got 'x.pth'",
    ),
    "weights that are not there": (
        ("train", "--schedule", "constant", *SMALL, "--initial-checkpoint", "x.pth"),
        "--initial-checkpoint: must be a weights file, a finished run, or a folder that export"
        " --format hf wrote, but got 'x.pth'",
    ),
    "weights that timm does not have": (
        (*SEARCH, "--pretrained"),
        "--pretrained: timm must have weights of the model, but got 'vit-mu'; take deit-s, …",
    ),
    "growth over given weights": (
        (*LINEAR, "--initial-checkpoint", "x.pth"),
        "--schedule: stages[0].depth: must be 4, as given weights have, but got 2;"
        " take --schedule constant",
    ),
    "an export of no run": (
        ("export", "run", "--output", "x.pth"),
        "run: must be a run folder with a run.yaml in it",
    ),
}


def assert_refused(done: Done, line: str) -> None:
    expected = f"autoprog: {line}\n"
    if line.endswith("…"):
        assert done.err.startswith(expected[:-2])
        assert done.err.count("\n") == 1
    else:
        assert done.err == expected
    assert (done.code, done.out) == (2, "")
    assert not Path("runs").exists()


@pytest.mark.parametrize(("words", "line"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_told_in_one_line_and_nothing_is_written(
    autoprog: Autoprog, words: tuple[object, ...], line: str
) -> None:
    assert_refused(autoprog(*words), line)


USAGE = {
    "an unknown command": (("trian",), "unknown command 'trian'; did you mean 'train'? (see"),
    "a command in capitals": (("TRAIN",), "unknown command 'TRAIN'; did you mean 'train'? (see"),
    "a command cut short": (("insp",), "unknown command 'insp'; did you mean 'inspect'? (see"),
    "a flag without its dashes": (("help",), "unknown command 'help'; did you mean '--help'? (see"),
    "a command like no other": (("xyzzy",), "unknown command 'xyzzy'; known: bench, "),
    "no command": ((), "the following arguments are required: COMMAND"),
    "an unknown flag": (
        (*LINEAR, "--epoch", "3"),
        "unknown argument --epoch; did you mean '--epochs'?",
    ),
    "a choice that is none": (
        (*LINEAR, "--sched", "linear"),
        "argument --sched: must be cosine, wsd or constant, but got 'linear' (see",
    ),
    "a choice with a slip": (
        (*LINEAR, "--amp", "bf16"),
        "argument --amp: must be auto, none, bfloat16 or float16, but got 'bf16'; did you mean 'bfloat16'?",
    ),
    "a kind of file with a slip": (
        ("init", "reciep", "--model", "vit-mu"),
        "argument KIND: must be space, recipe, schedule or completion, but got 'reciep';"
        " did you mean 'recipe'?",
    ),
    "workers that are no number": (
        (*LINEAR, "--workers", "two"),
        "argument --workers: must be a whole number from 0 to 256 or 'auto', but got 'two'",
    ),
    "an image size below zero": (
        (*SEARCH, "--img-size", -4),
        "argument --img-size: must be a whole number from 1 to 4,096, but got '-4'",
    ),
    "too few subnets to order": (
        (*SEARCH, "--fidelity", 3),
        "argument --fidelity: must be a whole number from 4 to 1,000, but got '3'",
    ),
    "trainings of no length": (
        (*SEARCH, "--fidelity", 4, "--fidelity-epochs", 0),
        "argument --fidelity-epochs: must be a number from 1e-06 to 100,000, but got '0'",
    ),
    "no trainings": (
        (*SEARCH, "--fidelity", 4, "--fidelity-seeds", 0),
        "argument --fidelity-seeds: must be a whole number from 1 to 1,000, but got '0'",
    ),
    "epochs below zero": (
        (*LINEAR, "--epochs", -1),
        "argument --epochs: must be a number from 1e-06 to 100,000, but got '-1'",
    ),
    "workers below zero": (
        (*LINEAR, "--workers", -1),
        "argument --workers: must be a whole number from 0 to 256 or 'auto', but got '-1'",
    ),
    "a seed below zero": (
        (*SEARCH, "--seed", -1),
        "argument --seed: must be a whole number from 0 to 9.223e+18, but got '-1'",
    ),
    "a seed too large for a number of 64 bits": (
        (*SEARCH, "--seed", 2**63),
        f"argument --seed: must be a whole number from 0 to 9.223e+18, but got '{2**63}'",
    ),
    "a length of nothing": (
        ("show", "linear", "--epochs", "nan"),
        "argument --epochs: must be a number from 1e-06 to 100,000, but got 'nan'",
    ),
    "a length without end": (
        ("show", "linear", "--epochs", "inf"),
        "argument --epochs: must be a number from 1e-06 to 100,000, but got 'inf'",
    ),
    "no threads": (
        (*LINEAR, "--threads", 0),
        "argument --threads: must be a whole number from 1 to 1,024, but got '0'",
    ),
    "a layer decay above one": (
        (*LINEAR, "--layer-decay", 1.5),
        "argument --layer-decay: must be a number from 1e-06 to 1, but got '1.5'",
    ),
    "nowhere to export to": (
        ("export", "run"),
        "--output: must be given; such as --output deit-s.pth",
    ),
}


@pytest.mark.parametrize(("words", "part"), USAGE.values(), ids=USAGE)
def test_wrong_usage_is_one_line_too(
    autoprog: Autoprog, words: tuple[object, ...], part: str
) -> None:
    done = autoprog(*words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert part in done.err
    assert "--help)" in done.err
    assert not Path("runs").exists()


def schedule_of(spec: ModelSpec, **last: Any) -> dict[str, Any]:
    full = {"model": spec.name, "timm": spec.timm, "depth": spec.depth[0], "stride": 4}
    full |= {"img_size": 16, "embed_dim": 24, "num_heads": 2, "overrides": dict(spec.overrides)}
    stages = [
        {"length": 1, "depth": 2, "img_size": 8},
        {"length": 1, "depth": 4, "img_size": 16, **last},
    ]
    return {"schema": 2, "full": full, "stages": stages}


FILES: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "a schedule that ends too shallow": (
        schedule_of(ZOO["vit-mu"], depth=3),
        ("train", "--schedule"),
        "stages[1].depth: must end at the full depth 4, but got 3; make the last stage the full model",
    ),
    "a schedule that ends too small": (
        schedule_of(ZOO["vit-mu"], img_size=12),
        ("train", "--schedule"),
        "stages[1].img_size: must end at the full size 16, but got 12;"
        " make the last stage the full model",
    ),
    "a schedule with a slip": (
        schedule_of(ZOO["vit-mu"], lenght=3),
        ("train", "--schedule"),
        "stages[1].lenght: unknown key, but got 'lenght'; did you mean 'length'?",
    ),
    "a schedule for another model": (
        {
            **schedule_of(ZOO["vit-mu"]),
            "full": {**schedule_of(ZOO["vit-mu"])["full"], "num_heads": 3},
        },
        ("train", "--schedule"),
        "full.num_heads: must be 2, as vit-mu has, but got 3",
    ),
    "a schedule off the stride": (
        schedule_of(ZOO["vit-mu"], img_size=14),
        ("train", "--schedule"),
        "stages[1].img_size: must be a multiple of the stride 4, but got 14; nearest are 12 and 16",
    ),
    "a space with a slip": (
        {"schema": 2, "decisions": {"num_stage": 3}},
        (*SEARCH, "--space"),
        "decisions.num_stage: unknown key, but got 'num_stage'; did you mean 'num_stages'?",
    ),
    "a space that does not end at the full model": (
        {"schema": 2, "axes": {"depth": {"values": [2, 3]}}},
        (*SEARCH, "--space"),
        "axes.depth: must end at the full value 4, but got [2, 3]",
    ),
    "a recipe with a slip": (
        {"base": "digits", "epoch": 3},
        (*LINEAR, "--recipe"),
        "epoch: unknown key, but got 'epoch'; did you mean 'epochs'?",
    ),
    "a recipe on an unknown base": (
        {"base": "digit"},
        (*LINEAR, "--recipe"),
        "base: unknown recipe, but got 'digit'; did you mean 'digits'?",
    ),
    "a recipe off its bounds": (
        {"mixup": -1},
        (*LINEAR, "--recipe"),
        "mixup: must be 0 or a number from 1e-06 to 1,000, but got -1",
    ),
}


@pytest.mark.parametrize(("body", "words", "line"), FILES.values(), ids=FILES)
def test_a_file_that_breaks_a_law_is_named_with_its_key(
    autoprog: Autoprog, body: dict[str, Any], words: tuple[str, ...], line: str
) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    assert_refused(autoprog(*words, "mine.yaml"), f"mine.yaml: {line}")


GROWTH_OF_A_SEARCH: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "of decisions": ({"decisions": {"grow": {"init": "zero"}}}, (), "decisions.grow"),
    "of trials": ({"axes": {"init": ["ema", "zero"]}}, ("--trials", "2"), "axes.init"),
}


@pytest.mark.parametrize(
    ("body", "words", "key"), GROWTH_OF_A_SEARCH.values(), ids=GROWTH_OF_A_SEARCH
)
def test_growth_that_the_optimizer_of_a_search_does_not_go_with_is_refused(
    autoprog: Autoprog, body: dict[str, Any], words: tuple[str, ...], key: str
) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    done = autoprog(*SEARCH, "--space", "mine.yaml", *words, "--opt", "madgrad")
    problem = "init zero must go with an optimizer that keeps no initial weights, but MADGRAD does"
    assert_refused(done, f"mine.yaml: {key}: {problem}; use optimizer_state fresh or reset")


def test_a_batch_of_less_than_an_image_is_refused(autoprog: Autoprog) -> None:
    full = FullModel.of(ZOO["vit-mu"]).model_dump(exclude_none=True)
    stages = [{"length": "rest", "depth": 4, "img_size": 16, "batch_scale": 0.001}]
    body = {"schema": 2, "full": full, "stages": stages}
    Path("mine.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    line = (
        "--schedule: stages[0].batch_scale: must leave an image of the 64 of a batch, but got 0.001"
    )
    assert_refused(autoprog("train", "--schedule", "mine.yaml", *SMALL), line)
    body = {"axes": {"batch_scale": {"values": [0.001, 1]}}}
    Path("mine.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    problem = "must leave an image of the 64 of a batch, but got 0.001"
    line = f"mine.yaml: axes.batch_scale.values: {problem}"
    assert_refused(autoprog(*SEARCH, "--space", "mine.yaml", "--trials", 2), line)


def test_growth_that_the_optimizer_of_a_training_does_not_go_with_is_refused(
    autoprog: Autoprog,
) -> None:
    full = FullModel.of(ZOO["vit-mu"])
    stages = [
        {"length": 1, "depth": 2, "img_size": 16},
        {"length": "rest", "depth": 4, "img_size": 16, "grow": {"optimizer_state": "fresh"}},
    ]
    body = {"schema": 2, "full": full.model_dump(exclude_none=True), "stages": stages}
    Path("mine.yaml").write_text(yaml.safe_dump(body), encoding="utf-8")
    words = ("train", "--schedule", "mine.yaml", *SMALL)
    problem = (
        "optimizer_state fresh must have a step count per parameter, but Lamb counts per group"
    )
    line = f"--schedule: stages[1].grow: {problem}; use copy or reset"
    assert_refused(autoprog(*words, "--opt", "lamb"), line)


def test_what_a_search_says_to_repeat_it_is_the_same_training(
    autoprog: Autoprog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder whose name a shell and a markup language would read."""
    place = "odd [/b] dir"
    own = ("--epochs", "3", "--lr", "1e-3", "--batch-size", "32", "--seed", "3")
    brief = ("--num-points", "1", "--continuation-trials", "2", "--profile-seconds", "0.2")
    words = (*SEARCH, *own, *brief, "--runs-dir", place)
    monkeypatch.setattr(sys, "argv", ["autoprog", *words])
    done = autoprog(*words)
    assert done.code == 0
    (line,) = (line for line in done.out.splitlines() if line.startswith("repeat it"))
    _, _, command = line.partition("autoprog ")
    (run,) = Path(place).iterdir()
    best = str(run / "best.yaml")
    assert shlex.split(command) == ["train", "--schedule", best, "--batch-size=32", "--lr=0.001"]
    assert autoprog(*shlex.split(command), *SMALL[2:]).code == 0
    recipes = [load_run(path).manifest.settings.recipe for path in (run, the_run())]
    assert recipes[0].model_copy(update={"epochs": recipes[1].epochs}) == recipes[1]


def test_a_recipe_that_is_a_list_is_refused(autoprog: Autoprog) -> None:
    Path("mine.yaml").write_text("[1, 2]", encoding="utf-8")
    line = "mine.yaml: must be a mapping of keys to values, but got [1, 2]"
    assert_refused(autoprog(*LINEAR, "--recipe", "mine.yaml"), line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "must be a readable JSON file of step seconds"),
        ('{"d2 r8 b64": -1}', "d2 r8 b64: must be seconds above 0, but got -1"),
        ('{"d2 r8 b64": "fast"}', "d2 r8 b64: must be seconds above 0, but got 'fast'"),
    ],
)
def test_costs_that_are_none_are_refused(autoprog: Autoprog, text: str, line: str) -> None:
    Path("costs.json").write_text(text, encoding="utf-8")
    assert_refused(autoprog(*SEARCH, "--costs", "costs.json"), f"costs.json: {line}")


@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (
            (),
            "must hold a train part (train/ or train.tar, training/ or training.tar), but got 'images';",
        ),
        (("train/a",), "must hold a val part (val/ or val.tar, "),
        (("train", "val"), "must hold images, such as .jpg or .png files, but got 'images/train';"),
        (
            ("train/a", "train/b", "val/a", "val/c"),
            "train and val must have the same classes:"
            " 'b' is only in train and 'c' is only in val; add or remove that class",
        ),
        (("train/a", "val/a"), "train: must have at least 2 classes, but got ['a'];"),
    ],
)
def test_data_that_cannot_serve_is_refused(
    autoprog: Autoprog, folders: tuple[str, ...], line: str
) -> None:
    Path("images").mkdir()
    for folder in folders:
        Path("images", folder).mkdir(parents=True)
        if "/" in folder:
            Image.new("RGB", (16, 16)).save(Path("images", folder, "1.png"))
    assert_refused(autoprog(*LINEAR, "--data", "images"), f"--data: {line}…")


def test_a_folder_that_cannot_be_made_ends_with_1_in_one_line(autoprog: Autoprog) -> None:
    Path("file").write_text("", encoding="utf-8")
    done = autoprog(*LINEAR, "--runs-dir", "file/runs")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "the run folder cannot be made: Not a directory" in done.err


def test_debug_shows_the_error_as_it_is(autoprog: Autoprog) -> None:
    with pytest.raises(ValueError, match="unknown recipe"):
        autoprog(*LINEAR, "--recipe", "digts", "--debug")


def the_run(number: int = -1) -> Path:
    return sorted(Path("runs").iterdir())[number]


def test_search_train_show_and_export_make_a_chain(autoprog: Autoprog) -> None:
    brief = ("--epochs", 6, "--num-stages", 2, "--supernet-epochs", 0.5, "--max-candidates", 3)
    quick = ("--num-points", 2, "--continuation-trials", 2, "--profile-seconds", 0.2)
    done = autoprog(*SEARCH, *brief, *quick, "--space", "vit-mu", "--amp", "none")
    assert (done.code, done.err) == (0, "")
    found = the_run()
    assert f"autoprog train --schedule {found}/best.yaml" in done.out
    done = autoprog(
        *("train", "--schedule", found / "best.yaml", "--amp", "none", "--runs-dir", "again", "-q")
    )
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("finished: top-1 ")
    assert done.out.count("\n") == 1
    (again,) = Path("again").iterdir()
    assert load_run(again).schedule == load_run(found).best
    assert autoprog("export", again, "--output", "vit-mu.pth").code == 0
    shown = autoprog("show", again, "--json")
    assert (shown.code, shown.err) == (0, "")
    assert json.loads(shown.out)
    assert autoprog("train", "--resume", again).err == (
        f"autoprog: --resume: must be an unfinished run, but got '{again}'; see autoprog show {again}\n"
    )
    assert autoprog("search", "--resume", again).err == (
        f"autoprog: --resume: must be a search run, but got '{again}';"
        f" use autoprog train --resume {again}\n"
    )
    (found / "result.json").unlink()
    assert autoprog("search", "--resume", found, "--costs", found / "costs.json").err == (
        "autoprog: --costs: must not be given with --resume RUN; leave it out, or start a new run\n"
    )


BRIEF = (*LINEAR, "--amp", "none", "--epochs", 1, "--log-every-steps", 5)


@pytest.fixture
def stopped_early(autoprog: Autoprog, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run that SIGTERM stopped after a few steps."""
    append = RunFolder.append

    def append_and_stop(self: RunFolder, event: Event) -> None:
        append(self, event)
        if event.kind == "step_logged":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", append_and_stop)
        done = autoprog(*BRIEF)
    assert done.code == 143
    assert done.err == (
        f"autoprog: stopped by SIGTERM after a checkpoint; go on with --resume {the_run()}\n"
    )
    return the_run()


def test_resume_refuses_another_kind_of_positions(autoprog: Autoprog, stopped_early: Path) -> None:
    done = autoprog("train", "--resume", stopped_early, "--pos-embed", "per-size")
    assert done.code == 2
    assert done.err.startswith("autoprog: --pos-embed: ")


def test_resume_goes_on_with_a_run_to_its_end(autoprog: Autoprog, stopped_early: Path) -> None:
    done = autoprog("train", "--resume", stopped_early, "--checkpoint-minutes", 1, "--workers", 0)
    assert (done.code, done.err) == (0, "")
    assert load_run(stopped_early).result is not None
    assert list(Path("runs").iterdir()) == [stopped_early]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ("--epochs", 2),
            "--epochs: must not be given with --resume RUN; leave it out, or start a new run",
        ),
        (
            ("--seed", 1),
            "--seed: must not be given with --resume RUN; leave it out, or start a new run",
        ),
        (
            ("--schedule", "constant"),
            "--schedule: must be 'linear', as the run has, or be left out, but got 'constant'",
        ),
        (("--device", "gpu"), "--device: must be auto, cpu, mps, cuda or cuda:N, but got 'gpu'"),
    ],
)
def test_resume_refuses_what_a_run_cannot_change(
    autoprog: Autoprog, stopped_early: Path, flags: tuple[object, ...], line: str
) -> None:
    before = {path: path.read_bytes() for path in stopped_early.rglob("*") if path.is_file()}
    done = autoprog("train", "--resume", stopped_early, *flags)
    assert (done.code, done.out, done.err) == (2, "", f"autoprog: {line}\n")
    assert {p: p.read_bytes() for p in stopped_early.rglob("*") if p.is_file()} == before


def test_a_run_that_somebody_writes_is_refused(autoprog: Autoprog, stopped_early: Path) -> None:
    writer = RunFolder.reopen(stopped_early)
    done = autoprog("train", "--resume", stopped_early)
    writer.close()
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"autoprog: {stopped_early}: another process is writing this run; wait for it or stop it\n"
    )


def test_a_run_that_never_got_its_schedule_is_refused(
    autoprog: Autoprog, stopped_early: Path
) -> None:
    (stopped_early / "schedule.yaml").unlink()
    done = autoprog("train", "--resume", stopped_early)
    assert done.code == 2
    assert done.err == (
        f"autoprog: --resume: must be a run with a schedule.yaml, but got '{stopped_early}';"
        " it was stopped before its start: start a new run\n"
    )


def test_resume_auto_finds_the_unfinished_run_of_the_same_command_line(
    autoprog: Autoprog, stopped_early: Path
) -> None:
    Path("runs/2999-of-another-time").mkdir()
    Path("runs/2999-of-another-time/run.yaml").write_text("schema: 99", encoding="utf-8")
    other = autoprog(*BRIEF, "--seed", 1, "--resume", "auto", "-q")
    assert other.code == 0
    assert len(list(Path("runs").iterdir())) == 3
    assert load_run(stopped_early).result is None
    done = autoprog(*BRIEF, "--resume", "auto", "-q", "--checkpoint-minutes", 5)
    assert done.code == 0
    assert load_run(stopped_early).result is not None
    assert len(list(Path("runs").iterdir())) == 3


def test_resume_auto_does_not_go_on_with_another_schedule_of_that_name(
    autoprog: Autoprog, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Path("mine.yaml")
    words = (
        "train",
        "--schedule",
        mine,
        "--device",
        "cpu",
        "--threads",
        1,
        "-q",
        "--resume",
        "auto",
    )
    mine.write_text(yaml.safe_dump(schedule_of(ZOO["vit-mu"])), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr("autoprog.commands.launch.make_display", interrupt)
        assert autoprog(*words).code == 130
    assert load_run(the_run()).result is None
    mine.write_text(
        yaml.safe_dump(schedule_of(ZOO["vit-mu"], grow={"init": "zero"})), encoding="utf-8"
    )
    assert autoprog(*words).code == 0
    assert len(list(Path("runs").iterdir())) == 2


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_before_the_training_is_one_line(
    autoprog: Autoprog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprog.commands.launch.make_display", interrupt)
    done = autoprog(*BRIEF, "-q")
    (folder,) = Path("runs").iterdir()
    said = f"stopped by SIGINT before a step was taken; go on with --resume {folder}"
    assert (done.code, done.err) == (130, f"autoprog: {said}\n")


def test_a_run_outlives_the_reader_of_its_output(tmp_path: Path, manifest: Any) -> None:
    from autoprog.commands.launch import Launch, RunConsole, carry_out
    from autoprog.train.ranks import ONE_PROCESS

    reading, writing = os.pipe()
    os.close(reading)
    folder = RunFolder.create(tmp_path, manifest)
    told = [WarningRaised(step=step, message="nobody reads this") for step in range(3)]
    with open(writing, "w", encoding="utf-8") as nobody:
        launch = Launch(ONE_PROCESS, RunConsole(file=nobody), quiet=False)
        carry_out(lambda folder, job: iter(told), launch, folder)
    assert list(load_run(folder.path).events()) == told


def test_a_full_disk_ends_a_run_in_one_line(tmp_path: Path, manifest: Any) -> None:
    from autoprog.commands.launch import Launch, carry_out
    from autoprog.errors import RunError
    from autoprog.train.ranks import ONE_PROCESS

    def events() -> Iterator[Event]:
        yield WarningRaised(step=0, message="all is well")
        raise OSError(28, "No space left on device")

    folder = RunFolder.create(tmp_path, manifest)
    launch = Launch(ONE_PROCESS, Console(file=io.StringIO()), quiet=True)
    with pytest.raises(RunError, match="No space left on device"):
        carry_out(lambda folder, job: events(), launch, folder)
    RunFolder.reopen(folder.path).close()  # the lock was given back


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    """Start the real program in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "autoprog", *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_progress(child: subprocess.Popen[str], folder: Path, attempt: int) -> None:
    """Wait until the log holds a row about steps of an attempt."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        for log in folder.glob("*/events.jsonl"):
            rows = [
                json.loads(line)
                for line in log.read_text("utf-8").splitlines(keepends=True)
                if line.endswith("\n")
            ]
            if any(row["kind"] == "step_logged" and row["attempt"] == attempt for row in rows):
                return
        time.sleep(0.02)
    raise AssertionError(f"no progress; the program said {child.communicate()}")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    autoprog: Autoprog, tmp_path: Path
) -> None:
    for words in (LINEAR, (*SEARCH, "--epochs", 8), (*SEARCH, "--epochs", 8, "--same-epochs")):
        done = autoprog(*words, "--dry-run", "--amp", "none")
        assert (done.code, done.err) == (0, "")
        facts = dict(line.split(maxsplit=1) for line in done.out.splitlines() if " " in line)
        assert facts["model"].startswith("vit-mu at 16 px: 30.8 k parameters, 544 k MACs")
        assert re.search(r"about [\d.:]+", facts["time"])
        assert facts["folder"].startswith("runs/20")
        assert ("at most about" in facts["time"]) == ("--same-epochs" in words)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_as_json_holds_the_stages(autoprog: Autoprog) -> None:
    body = json.loads(autoprog(*LINEAR, "--dry-run", "--json", "--amp", "none").out)
    assert sum(int(stage["steps"]) for stage in body["stages"]) == body["forecast"]["steps"]
    assert body["forecast"]["seconds"] > body["forecast"]["evaluation_seconds"] > 0
    assert body["facts"]["steps"] == f"{body['forecast']['steps']} steps"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", "0.01"), "stages[0].length: must last at least one step"),
        (("--resume", "runs/x"), "--dry-run: must not be given together with --resume"),
        (("--batch-size", "65", "--mixup", "0.5"), "--batch-size: must be even"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(
    autoprog: Autoprog, words: tuple[str, ...], said: str
) -> None:
    done = autoprog(*LINEAR, "--dry-run", *words)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""


def answer(name: str) -> str:
    """Return what is said as soon as a signal comes."""
    again = "(once more ends at once, without one)"
    return f"autoprog: {name}: stopping after this step or batch, with a checkpoint {again}\n"


def test_signals_stop_the_real_program_after_a_checkpoint_and_resume_finishes(
    autoprog: Autoprog, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    longer = ("--epochs", 3, "--batch-size", 16, "--log-every-steps", 1, "--amp", "none")
    child = start(tmp_path, *LINEAR, *longer)
    wait_for_progress(child, runs, attempt=0)
    child.send_signal(signal.SIGTERM)
    out, err = child.communicate(timeout=60)
    path = the_run()
    line = "autoprog: stopped by {} after a checkpoint; go on with --resume {}\n"
    assert (child.returncode, err) == (143, answer("SIGTERM") + line.format("SIGTERM", path))
    assert "interrupted by SIGTERM" in out

    child = start(tmp_path, "train", "--resume", path)
    wait_for_progress(child, runs, attempt=1)
    refused = autoprog("train", "--resume", path)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "another process is writing this run" in refused.err
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, answer("SIGINT") + line.format("SIGINT", path))
    assert (path / "checkpoints" / "last.pt").exists()
    assert (path / "checkpoints" / "previous.pt").exists()

    assert autoprog(*LINEAR, *longer, "--resume", "auto", "-q").code == 0
    run = load_run(path)
    assert run.result is not None
    steps = [event.step for event in run.events() if event.kind == "step_logged"]
    assert steps == list(range(1, 89 * 3 + 1))


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (MemoryError(), 1, "out of memory: what was given is too large for this machine"),
        (RecursionError(), 2, "what was given is nested too deep"),
        (OSError(5, "Input/output error", "a\x1bb"), 1, "'a\\x1bb': Input/output error"),
        (
            UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
            2,
            "names and texts must be UTF-8: surrogates not allowed in '\\ud800'",
        ),
    ],
)
def test_what_no_command_has_a_sentence_for_is_one_line(
    error: Exception,
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr("autoprog.commands.list.run", fail)
    assert main(["list", "presets"]) == code
    assert capsys.readouterr().err == f"autoprog: {sentence}\n"
    with pytest.raises(type(error)):
        main(["list", "presets", "--debug"])


def test_a_usage_error_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["\x1b]0;x\x07\n"], ["show", "linear", "--\x1b]0;x\x07\n" + "x" * 9_000]):
        with pytest.raises(SystemExit):
            main(words)
        text = capsys.readouterr().err
        assert is_printable(text)
        assert text.count("\n") == 1
        assert len(text) < 2_500


@pytest.mark.parametrize("words", [("show", "last"), ("train",), ("doctor",)])
def test_a_working_directory_that_is_gone_is_one_line(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main([*words]) == 2
    line = "autoprog: the working directory is gone; change to another one\n"
    assert capsys.readouterr() == ("", line)
