"""The README is true: its Python runs as it stands, and its command lines are those of the program."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import autoprog
from autoprog.cli import COMMANDS, build_parser, main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [body for language, body in BLOCKS if language == "python"]
SHELL = [body for language, body in BLOCKS if language in ("", "sh")]
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
END_OF_COMMAND = re.compile(r"&&|\|\||[|>;)]")
FOREIGN_FLAGS = {
    "--array",
    "--cpus-per-task",
    "--dependency",
    "--dist",
    "--gpus",
    "--gpus-per-node",
    "--gpus-per-task",
    "--logdir",
    "--max-restarts",
    "--nnodes",
    "--nodes",
    "--nproc-per-node",
    "--ntasks",
    "--ntasks-per-node",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--rdzv-id",
    "--requeue",
    "--signal",
    "--time",
    "--wrap",
}
"""Flags of torchrun, Slurm, TensorBoard and pytest."""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all Python blocks, run one after the other as they stand, leave behind."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("readme"))
    left: dict[str, Any] = {}
    try:
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            for block in PYTHON:
                exec(compile(block, "README.md", "exec"), left)
        left["runs"] = [autoprog.load_run(path.parent) for path in Path().glob("runs/*/run.yaml")]
        left["printed"] = out.getvalue()
    finally:
        os.chdir(before)
    return left


def test_the_runs_of_the_readme_are_complete(names: dict[str, Any]) -> None:
    kinds = {run.manifest.settings.kind: run for run in names["runs"]}
    assert kinds.keys() == {"search", "train"}
    assert all(run.result is not None for run in kinds.values())
    assert kinds["train"].schedule == kinds["search"].best == names["schedule"]


def test_the_readme_reads_a_run_and_resolves_its_schedule(names: dict[str, Any]) -> None:
    result = names["run"].result
    assert names["curve"][-1] == (pytest.approx(result.epochs), result.top1_ema)
    assert names["table"].total_steps == 3000
    assert f"({names['curve'][-1][0]}, " in names["printed"]
    assert result.top1_ema > 50  # chance is 10


def test_the_loop_of_the_readme_grows_and_learns(names: dict[str, Any]) -> None:
    model, optimizer = names["model"], names["optimizer"]
    assert str(names["subnet"]) == "d4 r24"
    states = [[optimizer.state[p] for p in block.parameters()] for block in model.stages[0]]
    steps = {int(entry["step"]) for block in states for entry in block}
    batches = len(names["loader"])
    assert steps == {5 * batches}, "a new block has its source's state, step count included"
    pointers = [entry["exp_avg"].data_ptr() for block in states for entry in block]
    assert len(set(pointers)) == len(pointers), "no moment is shared"
    images, targets = names["images"][:500], names["dataset"].tensors[1][:500]
    with torch.no_grad():
        logits = names["vit"].eval()(torch.nn.functional.interpolate(images, 24, mode="bilinear"))
    accuracy = (logits.argmax(1) == targets).float().mean()
    assert accuracy > 0.3  # chance is 0.1


def shell_lines() -> Iterator[str]:
    """Yield the lines of all blocks of commands, joined where they go on."""
    for block in SHELL:
        yield from block.replace("\\\n", " ").splitlines()


def commands_in(line: str) -> Iterator[list[str]]:
    """Yield the words after each ``autoprog`` that a shell would run in a line."""
    for match in re.finditer(r"(?:^|[\s('])autoprog +(?=[\w-])", line):
        rest = line[match.end() :]
        if line[match.start()] == "'":  # a command in quotes, for another program
            rest = rest.partition("'")[0]
        rest = END_OF_COMMAND.split(rest)[0]
        yield shlex.split(rest, comments=True)


def is_command(words: list[str]) -> bool:
    return bool(words) and (words[0] in COMMANDS or words[0].startswith("--"))


IN_BLOCKS = [words for line in shell_lines() for words in commands_in(line)]
IN_PROSE = [
    words
    for span in re.findall(r"`(autoprog [^`]+)`", PROSE)
    for words in commands_in(" ".join(span.split()))
]


def examples_of(command: str) -> list[list[str]]:
    """Return the command lines that ``--help`` of a command shows."""
    (commands,) = (
        action
        for action in build_parser(command)._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    epilog = commands.choices[command].epilog or ""
    lines = [line for line in epilog.splitlines() if line.strip().startswith("autoprog ")]
    return [words for line in lines for words in commands_in(line.strip())]


IN_HELP = [words for command in COMMANDS for words in examples_of(command)]
IN_SUMMARY = [
    words
    for line in (build_parser(None).epilog or "").splitlines()
    for words in commands_in(re.split(r" {3,}", line.strip())[0])
]


def refusal(words: list[str]) -> str:
    """Return what the parser says against a command line, nothing if it takes it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser = build_parser(words[0])
            _, unknown = parser.parse_known_args([filled(word) for word in words])
    except SystemExit as stopped:
        return said.getvalue() if stopped.code else ""
    return f"unknown {unknown}" if unknown else ""


def filled(word: str) -> str:
    """Put a value in the place of a placeholder that stands for a number."""
    return "3" if word in ("N", "$SLURM_ARRAY_TASK_ID") else word


def test_the_command_lines_are_found() -> None:
    assert len(IN_BLOCKS) > 40
    assert len(IN_PROSE) > 10
    assert len(IN_HELP) > 30
    assert len(IN_SUMMARY) > 8
    commands = {words[0] for words in IN_BLOCKS}
    assert commands <= set(COMMANDS)
    assert {"search", "train", "log", "completion", "schema", "stress", "verify"} <= commands


@pytest.mark.parametrize("words", [*IN_BLOCKS, *IN_HELP, *IN_SUMMARY], ids=" ".join)
def test_a_command_line_is_one_that_the_program_takes(words: list[str]) -> None:
    assert refusal(words) == ""


@pytest.mark.parametrize("words", [*filter(is_command, IN_PROSE)], ids=" ".join)
def test_what_the_text_names_is_there(words: list[str]) -> None:
    said = refusal(words)
    assert said == "" or "the following arguments are required" in said


def test_a_command_line_that_rots_is_seen() -> None:
    assert "unknown" in refusal(["train", "--schedul", "linear"])
    assert "unknown command" in refusal(["trian"])
    assert refusal(["search", "--seed", "one"])


def test_every_flag_in_the_readme_is_known() -> None:
    parser = build_parser(None, all_flags=True)
    known = {*FOREIGN_FLAGS, *flags_in(parser)}
    code = re.findall(r"`([^`]+)`", PROSE) + list(shell_lines())
    flags = {flag for text in code for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert len(flags) > 60
    assert sorted(flags - known) == []


def flags_in(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(flags_in, action.choices.values()))
    return found


def test_scripts_for_bash_are_bash(tmp_path: Path) -> None:
    for number, block in enumerate(BLOCKS):
        if block[0] == "sh":
            script = tmp_path / f"{number}.sh"
            script.write_text(block[1].replace("…", "x"), encoding="utf-8")
            subprocess.run(["bash", "-n", str(script)], check=True)


RUNNABLE = ("models", "spaces", "schedules", "init", "completion", "schema")
"""Commands that need no images, no run and no placeholder."""


@pytest.mark.slow
def test_what_needs_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        words for words in (*IN_BLOCKS, *IN_PROSE) if words[0] in RUNNABLE and refusal(words) == ""
    ]
    lines += [words for words in IN_BLOCKS if words[:2] == ["show", "linear"]]
    lines = [words for words in lines if not any("…" in w or w.isupper() for w in words)]
    assert {words[0] for words in lines} == {*RUNNABLE, "show"}
    for words in lines:
        force = ["--force"] if "--output" in words else []
        assert main([*words, *force]) == 0, words


SMALL = {
    "8": "2",
    "64": "1",
    "deit-s": "vit-mu",
    "best.yaml": "constant",
    "100": "2",
    "/shared/runs": "runs",
    "$SLURM_NNODES": "2",
    "$SLURM_JOB_ID": "7",
}
"""What stands in the place of what a laptop does not have."""


def torchrun_lines() -> list[list[str]]:
    """Return the words after each ``torchrun`` of the README, made small."""
    found = []
    for line in shell_lines():
        _, torchrun, rest = line.partition("torchrun ")
        if torchrun:
            words = [SMALL.get(word, word) for word in shlex.split(rest)]
            at = words.index("--data")
            del words[at : at + 2]  # the embedded digits
            model = [] if "--model" in words else ["--model", "vit-mu"]
            found.append([*words, *model, "--epochs", "2", "--workers", "0", "--device", "cpu"])
    return found


def launched(words: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_the_recipes_for_torchrun_and_slurm_run(tmp_path: Path) -> None:
    lines = torchrun_lines()
    assert len(lines) == 3
    for number, words in enumerate(lines):
        several = "--rdzv-endpoint" in words
        if several:  # what srun would start, once on each node
            words[words.index("--rdzv-endpoint") + 1] = "localhost:29517"
        folder = tmp_path / str(number)
        folder.mkdir()
        nodes = [launched(words, folder) for _ in range(2 if several else 1)]
        said = [node.communicate(timeout=300)[0] for node in nodes]
        assert [node.returncode for node in nodes] == [0] * len(nodes), said
        (path,) = folder.glob("runs/*/run.yaml")
        run = autoprog.load_run(path.parent)
        assert run.result is not None
        starts = [event for event in run.events() if event.kind == "run_started"]
        assert [start.world_size for start in starts] == [4 if several else 2]
