"""The judge of hostile cases catches each fault that it is there for, and nothing else."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from autoprog.supervise import PROGRAM, program_in_processes
from tests.fuzz_tests.corpus import Case, Command, Place, Specimens, chosen_cases
from tests.fuzz_tests.judge import Fault, control_characters, faults_of
from tests.fuzz_tests.run import KINDS
from tests.fuzz_tests.sandbox import Limits, run_command
from tests.fuzz_tests.table import Verdict, failures, table

Program = Callable[[Place], int]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "case", Specimens(tmp_path / "specimens"))


Judged = Callable[..., set[str]]


@pytest.fixture
def judged(place: Place) -> Judged:
    """Return what runs a program in place of autoprog, and returns what the judge finds wrong."""

    def judge(program: Program, limits: Limits = Limits(), **about: Any) -> set[str]:
        command = Command(["train"], "", **about)
        outcome = run_command(command, place, limits, lambda words: program(place))
        return {fault.what for fault in faults_of(command, outcome, limits)}

    return judge


def refuse(place: Place) -> int:
    print("autoprog: f.yaml: depth: must be at least 1, but got 0", file=sys.stderr)
    return 2


def write_result(place: Place) -> int:
    (place.work / "runs").mkdir()
    (place.work / "runs" / "result.json").write_text("{}")
    print("finished: top-1 10 %")
    return 0


def start(*words: str) -> Program:
    def program(place: Place) -> int:
        subprocess.run([word.format(place=place) for word in words], check=False)
        return 0

    return program


def say(text: str, stream: str = "stdout", code: int = 0) -> Program:
    def program(place: Place) -> int:
        getattr(sys, stream).write(text)
        return code

    return program


def test_a_refusal_in_one_line_is_right(judged: Judged) -> None:
    assert judged(refuse) == set()


def test_what_is_written_where_it_may_be_is_right(judged: Judged) -> None:
    assert judged(write_result, writes=("runs",)) == set()


def test_a_file_that_nobody_asked_for_lies_outside(judged: Judged) -> None:
    assert judged(write_result) == {"outside"}


def test_a_refused_call_that_leaves_a_file_is_told_of(judged: Judged) -> None:
    assert judged(lambda place: (write_result(place), refuse(place))[1], writes=("runs",)) == {
        "left files"
    }


def append_to_victim(place: Place) -> None:
    with (place.victim / "keep.txt").open("a") as file:
        file.write("more")


def write_through_link(place: Place) -> None:
    (place.work / "runs").mkdir()
    (place.work / "runs" / "link").symlink_to(place.victim / "new.txt")
    (place.work / "runs" / "link").write_text("x")


def write_beside_the_case(place: Place) -> None:
    place.root.with_name("elsewhere").write_text("x")


@pytest.mark.parametrize(
    "act",
    [
        append_to_victim,
        write_through_link,
        write_beside_the_case,
        lambda place: (place.victim / "keep.txt").write_text("gone"),
        lambda place: (place.victim / "keep.txt").unlink(),
        lambda place: (place.victim / "keep.txt").chmod(0o600),
        lambda place: (place.victim / "keep.txt").rename(place.victim / "other.txt"),
        lambda place: (place.work / "victim" / "new").mkdir(),
        lambda place: (place.home / ".bashrc").write_text("x"),
        lambda place: shutil.rmtree(place.victim / "docs"),
        lambda place: (place.root.parent / "made").mkdir(),
        lambda place: os.symlink("x", place.root.parent / "link"),
    ],
)
def test_a_change_elsewhere_is_outside(judged: Judged, act: Callable[[Place], object]) -> None:
    assert judged(lambda place: (act(place), 0)[1], writes=("runs",)) == {"outside"}


class Payload:
    """Unpickling it runs a command."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.words,)


def unpickle(place: Place) -> int:
    pickle.loads(pickle.dumps(Payload(place.touch)))
    return 0


def connect(place: Place) -> int:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    return 0


def run_script(place: Place) -> int:
    code = compile(place.script.read_text(), str(place.script), "exec")
    exec(code, {})
    return 0


def import_from_here(place: Place) -> int:
    (place.work / "nonesuch_of_tests.py").write_text("x = 1\n")
    sys.path.insert(0, "")
    __import__("nonesuch_of_tests")
    return 0


@pytest.mark.parametrize(
    "program",
    [
        unpickle,
        connect,
        run_script,
        lambda place: os.system(place.touch) and 0,
        start("touch", "{place.canary}/CANARY"),
        start("sh", "-c", "true"),
        start("git", "status"),
        start("git", "-c", "core.pager=x", "log"),
        start("curl", "http://127.0.0.1:9"),
        start("/bin/sh", "-c", "true"),
        start(sys.executable, "evil.py"),
        start(sys.executable, "-c", "x = 1"),
        start(*PROGRAM, "bench", "runner", "--timm-script", "evil.py"),
        start(*PROGRAM, "train", "--timm-script=evil.py"),
        start(*program_in_processes(2), "train", "--timm-script=evil.py"),
    ],
)
def test_whatever_is_run_is_told_of(judged: Judged, program: Program, place: Place) -> None:
    assert place.script.exists()
    assert "executed" in judged(program, writes=("",))


def test_a_module_of_the_working_directory_is_told_of(judged: Judged) -> None:
    assert "executed" in judged(import_from_here, writes=("nonesuch_of_tests.py", "__pycache__"))


def test_what_the_program_starts_itself_is_right(judged: Judged) -> None:
    assert judged(start("git", "rev-parse", "HEAD")) == set()
    assert judged(start("git", "-c", "core.fsmonitor=false", "rev-parse", "HEAD")) == set()
    arm = ("train", "--schedule=constant", "--model=vit-mu")
    assert judged(start(*PROGRAM, *arm)) == set()
    assert judged(start(*program_in_processes(2), *arm)) == set()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    "text", ["\x1b[31m", "\x9b31m", "a\rb", "nul\x00", "bell\x07", "del\x7f", "tab\t"]
)
def test_control_characters_are_told_of(judged: Judged, stream: str, text: str) -> None:
    assert judged(say(f"some {text}\n", stream)) == {"control bytes"}
    assert control_characters(text)


def test_text_of_any_language_is_no_control(judged: Judged) -> None:
    assert judged(say("é 漢字 ± … \n\n")) == set()


def fail(place: Place) -> int:
    raise ValueError("x")


def kill(place: Place) -> int:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


@pytest.mark.parametrize(
    "program", [fail, kill, say("Traceback (most recent call last):\n", "stderr", 1)]
)
def test_a_traceback_and_a_signal_are_told_of(judged: Judged, program: Program) -> None:
    assert "traceback" in judged(program)


def be_busy(place: Place) -> int:
    while True:
        pass


def ignore_requests(place: Place) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return be_busy(place)


def open_pipe(place: Place) -> int:
    os.mkfifo(place.tmp / "pipe")
    (place.tmp / "pipe").read_bytes()
    return 0


def train_on(place: Place) -> int:
    """Answer a request to stop, as a run under way does."""

    def stop(*_: object) -> None:
        sys.exit(143)

    signal.signal(signal.SIGTERM, stop)
    return be_busy(place)


@pytest.mark.parametrize(
    "program", [be_busy, open_pipe, ignore_requests, lambda place: time.sleep(99) or 0]
)
def test_what_does_not_end_hangs(judged: Judged, program: Program) -> None:
    assert judged(program, Limits(seconds=0.5)) == {"hang"}


def test_a_run_that_stops_when_it_is_asked_to_does_not_hang(judged: Judged) -> None:
    assert judged(train_on, Limits(seconds=0.5)) == set()


def test_what_is_allocated_is_told_of(judged: Judged) -> None:
    assert "memory" in judged(lambda place: len(b"x" * 1_600_000_000) and 0)
    assert "memory" in judged(lambda place: len(b"x" * 5_000_000_000) and 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "autoprog: a\nautoprog: b\nautoprog: c\nautoprog: d\nautoprog: e\n",
        "autoprog: a: must be b\n  and more of it\n",
        "KeyError: 'x'\n",
        "/lib/x.py:3: UserWarning: this is odd\nautoprog: a: must be b\n",
        f"autoprog: {'x' * 3_000}\n",
    ],
)
def test_a_refusal_that_is_no_line_is_told_of(judged: Judged, text: str) -> None:
    assert judged(say(text, "stderr", 2)) == {"message"}


def test_another_exit_code_is_told_of(judged: Judged) -> None:
    assert judged(say("", code=7)) == {"exit code"}
    assert judged(say(""), codes=frozenset({2})) == {"exit code"}


def test_a_command_gets_none_of_the_environment(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert judged(lambda place: int("WORLD_SIZE" in os.environ)) == set()


@pytest.fixture
def cases() -> list[Case]:
    return chosen_cases(KINDS, 0, None)


def test_there_are_thousands_of_cases(cases: list[Case]) -> None:
    assert len(cases) >= 3_000
    assert len({case.name for case in cases}) == len(cases)


def test_a_sample_has_cases_of_every_kind() -> None:
    sample = chosen_cases(KINDS, 0, 150)
    assert {case.kind.name for case in sample} == {kind.name for kind in KINDS}
    assert sample == chosen_cases(KINDS, 0, 150)
    assert sample != chosen_cases(KINDS, 1, 150)


def test_a_seed_makes_the_same_case_again(tmp_path: Path) -> None:
    (kind,) = (kind for kind in KINDS if kind.name == "yaml-value")

    def made(seed: int, name: str) -> tuple[Sequence[str], str]:
        place = Place(tmp_path / name, Specimens(tmp_path))
        command = Case(kind, 7, seed).make(place)
        return command.words, (place.work / "f.yaml").read_text().replace(str(place.root), "")

    assert made(0, "a") == made(0, "b")
    assert made(0, "c") != made(1, "d")


@pytest.fixture
def verdicts(cases: list[Case]) -> list[Verdict]:
    fault = Fault("traceback", "autoprog/files.py in parse: KeyError: 'x'")
    good = Verdict(cases[0], ["show"], "nothing", 2, 0.1, 1, False, [], "")
    return [good, Verdict(cases[1], ["show", "f\x1b"], "a bomb", 1, 0.1, 1, False, [fault], "")]


def test_the_table_counts_and_says_how_to_make_a_case_again(verdicts: list[Verdict]) -> None:
    row = next(line for line in table(verdicts).splitlines() if line.startswith("| all"))
    assert row.split(" | ")[1:7] == ["2", "1", "0", "1", "0", "0"]
    text = failures(verdicts)
    assert "traceback: autoprog/files.py in parse: KeyError (1)" in text
    assert f"run.py --seed 0 --case {verdicts[1].case.name}" in text
    assert not control_characters(text)
