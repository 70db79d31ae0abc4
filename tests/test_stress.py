"""The proof by kills: where they strike, what is compared, and that it can say no."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from autoprog import supervise
from autoprog.bench import stress as driver
from autoprog.bench.stress import (
    SPECIAL,
    Kill,
    KilledRun,
    Moment,
    Plan,
    PlannedKill,
    Reference,
    RemainingTime,
    StepReached,
    StressView,
    Summary,
    compare_runs,
    draw_signals,
    plan_kills,
    position_of,
    tensor_hashes,
    timeline,
)
from autoprog.cli import main
from autoprog.errors import ConfigError
from autoprog.supervise import SignalName

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--model", "vit-mu", "--device", "cpu", "--amp", "none", "--threads", "1")
TRAIN = ("train", "--schedule", "linear", *SMALL, "--epochs", "4")

# Kind, step and seconds of a small run: three stages, a supernet phase before the second.
STORY = (
    ("run_started", 0, 0.0),
    ("stage_started", 0, 0.0),
    ("step_logged", 20, 2.0),
    ("checkpoint_saved", 20, 2.1),
    ("evaluated", 20, 2.5),
    ("supernet_started", 20, 2.6),
    ("step_logged", 40, 5.0),
    ("estimated", 40, 5.3),
    ("decided", 40, 5.4),
    ("grown", 40, 5.6),
    ("stage_started", 40, 5.6),
    ("step_logged", 60, 8.0),
    ("checkpoint_saved", 60, 8.1),
    ("step_logged", 80, 9.0),
    ("evaluated", 80, 9.8),
    ("run_finished", 80, 10.0),
)


def rows_of(story: tuple[tuple[str, int, float], ...]) -> list[dict[str, Any]]:
    begin, rows = datetime(2026, 1, 2).astimezone(), []
    for kind, step, seconds in story:
        row = {"kind": kind, "step": step, "attempt": 0, "stage": step // 40, "decision": 0}
        rows.append({**row, "time": (begin + timedelta(seconds=seconds)).isoformat()})
    return rows


@pytest.fixture
def moments() -> tuple[Moment, ...]:
    return timeline(rows_of(STORY))


def test_a_timeline_tells_when_what_happened_and_where(moments: tuple[Moment, ...]) -> None:
    assert [(m.kind, m.step, round(m.seconds, 6)) for m in moments] == list(STORY)
    places = {m.step: m.place for m in moments}
    assert places == {
        0: "stage 1",
        20: "supernet of decision 0",
        40: "stage 2",
        **{60: "stage 2"},
        80: "stage 2",
    }


@pytest.mark.parametrize("count", [1, 2, 7, 20])
@pytest.mark.parametrize("name", ["KILL", "TERM", "mixed"])
def test_kills_cover_the_run_in_its_order(
    moments: tuple[Moment, ...], name: str, count: int
) -> None:
    rng = random.Random(3)
    kills = plan_kills(moments, draw_signals(name, count, rng), rng)
    assert len(kills) == count
    seconds = [kill.seconds for kill in kills]
    assert seconds == sorted(seconds)
    assert all(0 <= s <= 10.0 for s in seconds)
    assert all(kill.delay_seconds >= 0 for kill in kills)
    assert all(
        kill.seconds <= 8.0 for kill in kills if kill.signal != "KILL"
    )  # before the last step
    if count == 20:
        assert seconds[0] < 1.5
        assert seconds[-1] > (7.0 if name == "TERM" else 8.5)
        gaps = [b - a for a, b in pairwise(seconds)]
        assert max(gaps) < 2.0


def test_kills_strike_at_different_things_than_training(moments: tuple[Moment, ...]) -> None:
    struck = Counter[str]()
    for seed in range(30):
        kills = plan_kills(moments, ["KILL"] * 12, random.Random(seed))
        struck.update(
            position_of(
                moments, {"kind": a.after.kind, "step": a.after.step}, a.delay_seconds
            ).doing
            for a in kills
        )
    assert set(struck) == {*SPECIAL.values(), "training", "writing the result"}


def test_the_same_seed_plans_the_same_kills_and_another_one_others(
    moments: tuple[Moment, ...],
) -> None:
    one, two, three = (plan_kills(moments, ["KILL"] * 5, random.Random(s)) for s in (1, 1, 2))
    assert one == two
    assert one != three


def test_mixed_signals_come_in_equal_fractions() -> None:
    assert Counter(draw_signals("mixed", 9, random.Random(0))) == {"KILL": 3, "TERM": 3, "INT": 3}
    assert set(draw_signals("mixed", 3, random.Random(1))) == {"KILL", "TERM", "INT"}
    assert draw_signals("INT", 2, random.Random(0)) == ["INT", "INT"]


@pytest.mark.parametrize(
    ("row", "reached"),
    [
        (("step_logged", 39), False),
        (("step_logged", 40), True),
        (("checkpoint_saved", 40), False),
        (("run_started", 40), True),
        (("stage_started", 41), True),
        (("run_started", 39), False),
    ],
)
def test_a_kill_waits_for_its_row_or_a_later_step(row: tuple[str, int], reached: bool) -> None:
    kill = PlannedKill(Moment(5.0, "step_logged", 40, "stage 1"), 0.5, "KILL")
    assert kill.is_reached_by({"kind": row[0], "step": row[1]}) is reached


@pytest.mark.parametrize(
    ("row", "elapsed_seconds", "spot"),
    [
        (("run_started", 0), 0.5, (0, "stage 1", "training")),
        (("stage_started", 0), 1.0, (10, "stage 1", "training")),
        (("stage_started", 0), 99.0, (19, "stage 1", "training")),
        (("step_logged", 20), 0.05, (20, "stage 1", "writing a checkpoint")),
        (("checkpoint_saved", 20), 0.2, (20, "stage 1", "evaluating")),
        (("run_started", 20), 0.2, (20, "stage 1", "evaluating")),
        (("run_started", 45), 0.0, (45, "stage 2", "training")),
        (("run_started", 35), 0.0, (35, "supernet of decision 0", "training")),
        (("supernet_started", 20), 1.21, (30, "supernet of decision 0", "training")),
        (("step_logged", 40), 0.1, (40, "supernet of decision 0", "estimating candidates")),
        (("decided", 40), 0.1, (40, "supernet of decision 0", "growing")),
        (("evaluated", 80), 0.1, (80, "stage 2", "writing the final weights")),
        (("run_finished", 80), 0.1, (80, "stage 2", "writing the result")),
    ],
)
def test_a_kill_is_placed_by_the_run_without_kills(
    moments: tuple[Moment, ...],
    row: tuple[str, int],
    elapsed_seconds: float,
    spot: tuple[int, str, str],
) -> None:
    found = position_of(moments, {"kind": row[0], "step": row[1]}, elapsed_seconds)
    assert (found.step, found.place, found.doing) == spot


def weights() -> dict[str, torch.Tensor]:
    return {"head.bias": torch.arange(4.0), "head.weight": torch.ones(2, 3, dtype=torch.bfloat16)}


def test_hashes_tell_bits_shapes_and_types_apart_but_no_metadata(tmp_path: Path) -> None:
    def of(changed: dict[str, torch.Tensor], **metadata: str) -> dict[str, str]:
        save_file({**weights(), **changed}, tmp_path / "x", metadata=metadata)
        return tensor_hashes(tmp_path / "x")

    same = of({})
    assert of({}, run="other") == same
    nearly = torch.arange(4.0)
    nearly[3] = torch.nextafter(nearly[3], torch.tensor(9.0))
    for value in (nearly, torch.arange(4.0).reshape(2, 2), torch.arange(4).int()):
        changed = of({"head.bias": value})
        assert changed["head.weight"] == same["head.weight"]
        assert changed["head.bias"] != same["head.bias"]
    assert set(of({"new": torch.zeros(1)})) - set(same) == {"new"}


@pytest.mark.parametrize(
    "data", [b"", b"abc", b"\x08" + bytes(7) + b"not json", b"\x02" + bytes(7) + b"[]"]
)
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ConfigError, match="x: this is no safetensors file"):
        tensor_hashes(tmp_path / "x")


def test_a_file_that_was_cut_is_no_safetensors_file(tmp_path: Path) -> None:
    save_file(weights(), tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(whole[:-1])
    with pytest.raises(ConfigError, match="this is no safetensors file"):
        tensor_hashes(tmp_path / "x")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished search."""
    runs = tmp_path_factory.mktemp("runs")
    words = ("search", *SMALL, "--epochs", "4", "--workers", "0", "-q", "--runs-dir", str(runs))
    assert main(words) == 0
    (folder,) = runs.iterdir()
    return folder


def one_weight(folder: Path) -> None:
    path = folder / "checkpoints" / "final.safetensors"
    state = load_file(path)
    state["head.bias"][0] = torch.nextafter(state["head.bias"][0], torch.tensor(9.0))
    save_file(state, path)


def no_average(folder: Path) -> None:
    (folder / "checkpoints" / "final_ema.safetensors").unlink()


def one_winner(folder: Path) -> None:
    path = folder / "decisions.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows[0]["forced"] = {"depth": [3], "img_size": 8}
    rows[0]["candidates"] = []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def one_length(folder: Path) -> None:
    path = folder / "best.yaml"
    text = path.read_text("utf-8")
    path.write_text(re.sub(r"length: [\d.]+", "length: 1.75", text, count=1), encoding="utf-8")


def one_accuracy(folder: Path) -> None:
    path = folder / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "loss": 1.0}), "utf-8")


def only_times_and_names(folder: Path) -> None:
    path = folder / "result.json"
    told = {**json.loads(path.read_text("utf-8")), "wall_seconds": 1.0, "run_id": "other"}
    path.write_text(json.dumps(told), encoding="utf-8")
    for name in ("best.yaml", "schedule.yaml"):
        text = (folder / name).read_text("utf-8")
        (folder / name).write_text(re.sub("run: .*", "run: other", text), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "different"),
    [
        (one_weight, {"checkpoints/final.safetensors": "1 of … differ, such as head.bias"}),
        (no_average, {"checkpoints/final_ema.safetensors": "….safetensors is missing"}),
        (one_winner, {"decisions.jsonl": "1 of … differ, such as decision 0"}),
        (one_length, {"best.yaml": "1 of … differ, such as stages"}),
        (one_accuracy, {"result.json": "1 of 7 differ, such as loss"}),
        (only_times_and_names, {}),
    ],
)
def test_a_difference_is_found_and_named(
    finished: Path, tmp_path: Path, change: Callable[[Path], None], different: dict[str, str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    change(other)
    found = {name: text for name, text in compare_runs(finished, other, "search").items() if text}
    assert found.keys() == different.keys()
    for name, text in different.items():
        assert re.fullmatch(re.escape(text).replace("…", ".*"), found[name])


# A program of 12 steps that writes a run folder as autoprog does, in 0.3 s, with faults on demand.
FAKE = """
import json, signal, struct, sys, time
from datetime import datetime
from pathlib import Path

words = sys.argv[1:]
if "--bogus" in words:
    print("autoprog: unknown argument --bogus", file=sys.stderr)
    sys.exit(2)
if "--resume" in words:
    folder = Path(words[words.index("--resume") + 1])
else:
    folder = Path(words[words.index("--runs-dir") + 1]) / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "fault").write_text(words[words.index("--fault") + 1])
    (folder / "schedule.yaml").write_text("stages: [1, 2]")
fault, saved = (folder / "fault").read_text(), folder / "last"
killed = folder.parent.name != "reference"
attempt, step = json.loads(saved.read_text()) if saved.exists() else (-1, 0)
log = (folder / "events.jsonl").open("a")
rows = (folder / "events.jsonl").read_text().splitlines()
attempt = max((json.loads(row)["attempt"] for row in rows), default=-1) + 1
caught = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: caught.append(number))

def tell(kind, **more):
    row = {"attempt": attempt, "time": datetime.now().astimezone().isoformat(timespec="milliseconds")}
    log.write(json.dumps({**row, "kind": kind, "step": step, **more}) + "\\n")
    log.flush()

def save():
    saved.with_name("next").write_text(json.dumps([attempt, step]))
    saved.with_name("next").replace(saved)
    tell("checkpoint_saved")

def end():
    value = 7.0 if killed and fault == "other weights" else 1.0
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    for name in ("final", "final_ema"):
        body = struct.pack("<Q", len(header)) + header + struct.pack("<f", value)
        (folder / "checkpoints" / f"{name}.safetensors").write_bytes(body)
    names = ("top1", "top1_ema", "loss", "loss_ema", "epochs", "macs", "image_epochs")
    (folder / "result.json").write_text(json.dumps(dict.fromkeys(names, 1.0)))

if fault == "fails at once":
    print("autoprog: the disk is gone", file=sys.stderr)
    sys.exit(1)
if killed and fault == "fails later" and attempt == 1:
    print("autoprog: the disk is gone", file=sys.stderr)
    sys.exit(1)
if killed and fault == "stuck" and attempt == 1:
    time.sleep(600)
early = fault == "ends early" and folder.parent.name == "killed-1" and attempt == 2
if early:
    end()
tell("run_started", total_steps=12)
tell("stage_started", stage=0)
while step < 12 and not early:
    time.sleep(0.02)
    step += 1
    if step % 2 == 0 or caught:
        tell("step_logged")
        if caught:
            if fault != "no checkpoint":
                save()
                tell("interrupted")
            if fault == "traceback":
                print("Traceback (most recent call last):", file=sys.stderr)
            sys.exit(1 if fault == "wrong code" else 128 + caught[0])
        save()
time.sleep(0.02)
end()
tell("run_finished")
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a small program into the place of the real one."""
    program = tmp_path / "fake.py"
    program.write_text(FAKE, encoding="utf-8")
    monkeypatch.setattr(supervise, "PROGRAM", (sys.executable, str(program)))
    monkeypatch.setattr(driver, "_MIN_STALL_SECONDS", 1.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


Stress = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stress(capsys: pytest.CaptureFixture[str]) -> Stress:
    """Return the command: words in; exit code, stdout and stderr out."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(["bench", "stress", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def left_behind() -> list[Path]:
    return list(Path(tempfile.gettempdir()).iterdir())


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("name", ["KILL", "TERM", "INT", "mixed"])
def test_all_kills_are_made_and_told_line_by_line(stress: Stress, name: str) -> None:
    code, out, err = stress("--kills", "6", "--signal", name, "--", "train", "--fault", "none")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "stress     autoprog train --fault none"
    assert lines[1].startswith("plan       one run without kills, then the same with 6 (")
    assert lines[2].startswith("reference  12 steps in ")
    kills = [line for line in lines if line.startswith("kill ")]
    signals = "SIG(KILL|TERM|INT)" if name == "mixed" else f"SIG{name}"
    for number, line in enumerate(kills, 1):
        assert re.fullmatch(
            rf"kill {number}/6   {signals} \d\.\d s into attempt \d, at about step \d+, stage 1,"
            r" while [a-z ]+; went on from step \d+",
            line,
        )
    assert len(kills) == 6
    (verdict,) = (line for line in lines if line.startswith("verdict"))
    assert re.match(
        r"verdict    equal: \d runs, 6 kills, \d+ attempts, \d+ steps replayed, ", verdict
    )
    assert [line.split() for line in lines[-5:]] == [
        ["artefact", "equal"],
        ["checkpoints/final.safetensors", "yes"],
        ["checkpoints/final_ema.safetensors", "yes"],
        ["schedule.yaml", "yes"],
        ["result.json", "yes"],
    ]
    assert left_behind() == []


@pytest.mark.usefixtures("fake")
def test_another_end_is_exit_code_1_and_the_files_stay(stress: Stress) -> None:
    code, out, err = stress("--kills", "1", "--", "train", "--fault", "other weights")
    assert code == 1
    (work,) = left_behind()
    assert err == f"autoprog: a run with kills came to another end; all files are in {work}\n"
    assert "verdict    NOT equal" in out
    assert "final_ema.safetensors  no: 1 of 1 differ, such as w\n" in out
    assert (work / "reference" / "run" / "result.json").exists()
    assert (work / "killed-1" / "run" / "result.json").exists()


@pytest.mark.usefixtures("fake")
def test_json_is_one_object_and_nothing_else(stress: Stress) -> None:
    code, out, err = stress("--kills", "2", "--json", "--", "train", "--fault", "other weights")
    assert code == 1
    found = json.loads(out)
    assert found["command"] == ["train", "--fault", "other weights"]
    assert (found["equal"], found["kills"], len(found["each_kill"])) == (False, 2, 2)
    assert found["artefacts"]["schedule.yaml"] == "equal"
    assert found["artefacts"]["checkpoints/final.safetensors"] == "1 of 1 differ, such as w"
    assert found["attempts"] == 1 + 2 + found["runs"] - 1
    assert found["steps_replayed"] == sum(
        max(0, kill["step"] - kill["resumed_step"]) for kill in found["each_kill"]
    )
    assert 0 < found["seconds_lost"] < found["wall_seconds"]
    assert "kill 2/2" in err


@pytest.mark.usefixtures("fake")
def test_a_run_that_ends_before_all_kills_is_followed_by_another(stress: Stress) -> None:
    code, out, _ = stress("--kills", "5", "--json", "--", "train", "--fault", "ends early")
    found = json.loads(out)
    assert (code, found["kills"], found["equal"]) == (0, 5, True)
    assert [kill["number"] for kill in found["each_kill"]] == [1, 2, 3, 4, 5]
    assert found["runs"] >= 3


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("name", "fault", "line"),
    [
        ("KILL", "fails at once", "the run without kills failed: the disk is gone"),
        ("KILL", "fails later", "attempt 2 ended by itself with exit code 1: the disk is gone"),
        ("KILL", "stuck", "attempt 2 wrote nothing for … s: a dead-lock; it was killed"),
        ("TERM", "wrong code", "attempt 1 ended with exit code 1 instead of 143 after SIGTERM: …"),
        ("INT", "wrong code", "attempt 1 ended with exit code 1 instead of 130 after SIGINT: …"),
        ("TERM", "no checkpoint", "attempt 1 wrote no checkpoint after SIGTERM"),
        ("INT", "traceback", "attempt 1 ended with a traceback after SIGINT"),
    ],
)
def test_an_attempt_that_fails_ends_it_in_one_line(
    stress: Stress, name: str, fault: str, line: str
) -> None:
    words = ("--kills", "2", "--signal", name, "--stress-seed", "1")
    code, _, err = stress(*words, "--", "train", "--fault", fault)
    assert code == 1
    (work,) = left_behind()
    told = f"autoprog: {line}; all files are in {work}\n"
    assert re.fullmatch(re.escape(told).replace("…", ".*"), err)


@pytest.mark.usefixtures("fake")
def test_what_the_program_refuses_is_refused_with_its_line(stress: Stress) -> None:
    code, _, err = stress("--", "train", "--bogus")
    assert (code, err) == (2, "autoprog: unknown argument --bogus\n")
    assert left_behind() == []


@pytest.mark.usefixtures("fake")
def test_files_are_kept_where_they_are_wanted(stress: Stress, tmp_path: Path) -> None:
    words = ("--kills", "1", "--keep", str(tmp_path / "kept"), "train", "--fault", "none")
    assert stress(*words)[0] == 0
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {"reference", "killed-1", "killed-1-attempt-1.err"} <= names
    code, out, err = stress(*words)
    assert (code, out) == (2, "")
    assert err.startswith("autoprog: --keep: must be a new or an empty folder, but got ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "bench stress: expects train or search after --; such as …"),
        (("--",), "bench stress: expects train or search after --; such as …"),
        (
            ("--", "show", "x"),
            "bench stress: expects train or search after --, but got 'show'; …",
        ),
        (("train", "--runs-dir", "x"), "bench stress: --runs-dir: must be left out; …"),
        (("--", "train", "--runs-dir=x"), "bench stress: --runs-dir: must be left out; …"),
        (("--", "train", "--resume", "x"), "bench stress: --resume: must be left out; …"),
        (
            ("--", "train", "--checkpoint-minutes", "1"),
            "bench stress: --checkpoint-minutes: must be …",
        ),
        (("--", "search", "-q"), "bench stress: -q: must be left out; …"),
        (
            ("--", "search", "--time-budget", "1h"),
            "bench stress: --time-budget: must be left out; …",
        ),
        (
            ("--", "search", "--debug"),
            "bench stress: --debug: must be left out; it goes before the --",
        ),
        (("--keep", "/dev/null/x", "train"), "--keep: must be a folder that can be made: …"),
    ],
)
def test_what_cannot_be_put_under_stress_is_refused_in_one_line(
    stress: Stress, words: tuple[str, ...], line: str
) -> None:
    code, out, err = stress(*words)
    assert (code, out) == (2, "")
    assert re.fullmatch(re.escape(f"autoprog: {line}\n").replace("…", ".*"), err)


def test_no_kills_are_refused(stress: Stress) -> None:
    for text in ("0", "-1", "many"):
        with pytest.raises(SystemExit) as stop:
            stress(f"--kills={text}", "--", "train")
        assert stop.value.code == 2


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_stress_that_is_stopped_takes_its_run_with_it(
    tmp_path: Path, name: str, code: int
) -> None:
    program = (
        # The module stands in for one that loads torch, which takes ten times as long as all the rest.
        "import sys, types; resume = types.ModuleType('resume'); resume.words_to_repeat = lambda _: ();"
        "sys.modules['autoprog.commands.resume'] = resume;"
        "from autoprog import supervise; from autoprog.cli import main;"
        f"supervise.PROGRAM = (sys.executable, {str(tmp_path / 'fake.py')!r});"
        f"words = ['bench', 'stress', '--keep', {str(tmp_path / 'kept')!r}];"
        "sys.exit(main([*words, 'train', '--fault', 'none']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / "kept" / "killed-1" / "run" / "events.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text("utf-8")) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(getattr(signal, name))
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert "Traceback" not in err
    length = log.stat().st_size
    time.sleep(0.2)
    assert log.stat().st_size == length
    assert not (log.parent / "result.json").exists()


class Hand:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def reference_of(moments: tuple[Moment, ...]) -> Reference:
    return Reference(Path("x"), moments, startup_seconds=5.0, longest_gap_seconds=2.4)


def kill_of(number: int = 1, lost_seconds: float = 7.0, signal: SignalName = "KILL") -> Kill:
    return Kill(number, signal, number, 3.21, 43, "stage 2", "training", 40, lost_seconds)


def test_the_forecast_follows_what_has_been_measured(moments: tuple[Moment, ...]) -> None:
    clock, plan = Hand(), Plan(("train",), 4, "KILL", 0, Path("x"))
    summary = Summary(plan)
    forecast = RemainingTime(summary, clock)

    def after(seconds: float, report: Any) -> float | None:
        clock.now = seconds
        summary.add(report)
        forecast.add(report)
        return forecast.remaining_seconds()

    assert forecast.remaining_seconds() is None
    assert after(5.0, StepReached(0, 80)) is None
    # Half of the run took 5 s: 5 s more, another 10 s, and 5 starts of 5 s.
    assert after(10.0, StepReached(40, 80)) == pytest.approx(5 + 10 + 25)
    assert after(15.0, reference_of(moments)) == pytest.approx(10 + 4 * 5)
    clock.now = 17.0
    assert forecast.remaining_seconds() == pytest.approx(28)
    assert forecast.fraction_done() == pytest.approx(17 / 45)
    assert after(22.0, kill_of()) == pytest.approx(10 + 3 * 7)
    assert after(23.0, StepReached(40, 80)) == pytest.approx(5 + 3 * 7)
    clock.now = 99.0
    assert forecast.remaining_seconds() == 0


def test_a_terminal_shows_a_bar_with_the_time_left(moments: tuple[Moment, ...]) -> None:
    clock, file = Hand(), io.StringIO()
    console = Console(file=file, force_terminal=True, width=90, height=20, _environ={})
    view = StressView(console, Plan(("train", "--aa", "[x]"), 2, "mixed", 0, Path("x")), clock)
    with view:
        clock.now = 1.0
        view.show(StepReached(0, 80))
        clock.now = 2.0
        view.show(StepReached(40, 80))
        view._bar.refresh()
        view.show(reference_of(moments))
        view.show(kill_of())
        view._bar.refresh()
        view.show(KilledRun(Path("y"), 2, 1, {"schedule.yaml": ""}))
    view.conclude()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    assert "autoprog train --aa [x]" in shown
    assert "run without kills" in shown
    assert "left 6.0 s" in shown
    assert "kill 1/2" in shown
    assert "came to its end after 1 of 2; the others go to another one" in shown
    assert "schedule.yaml" in shown


def test_the_real_program_is_killed_and_ends_in_the_same_bits(stress: Stress) -> None:
    """Each start takes seconds, so most is left to the slow tests."""
    words = ("train", "--schedule", "linear", *SMALL, "--epochs", "2", "--workers", "1")
    code, out, err = stress("--kills", "2", "--signal", "mixed", "--json", "--", *words)
    assert code == 0, err
    found = json.loads(out)
    assert (found["equal"], found["kills"]) == (True, 2)
    assert {kill["signal"] for kill in found["each_kill"]} == {"KILL", "TERM"}
    assert len(found["artefacts"]) == 4


SEARCH = ("search", *SMALL, "--epochs", "8", "--workers", "0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "command"),
    [("KILL", (*TRAIN, "--workers", "2")), ("mixed", SEARCH)],
    ids=["train", "search"],
)
def test_twenty_kills_of_the_real_program_change_nothing(
    stress: Stress, name: str, command: tuple[str, ...]
) -> None:
    code, out, err = stress("--signal", name, "--json", "--", *command)
    print(err, out)
    assert code == 0, err
    found = json.loads(out)
    assert (found["equal"], found["kills"]) == (True, 20)
    assert len(found["struck_while"]) > 3
