"""``autoprog show --replay``: its table, its JSON, its exit codes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autoprog.api import run_search
from autoprog.cli import main
from autoprog.decisions import Decision, DecisionInputs
from autoprog.errors import ConfigError
from autoprog.runs import RunFolder
from autoprog.search.decide import Chooser, decide, forced_decision
from autoprog.settings import DataSettings, Rule, RunManifest, SearchSettings
from autoprog.space import SearchSpace, SpaceFile
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import relative_cost

SMALL, FULL = SubnetConfig(2, 8), SubnetConfig(4, 16)
STEPS = (100, 300)


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


Replay = Callable[..., Done]
Build = Callable[..., Path]


@pytest.fixture
def replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Replay:
    """Return the command, run in this process in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Done:
        try:
            code = main(["show", *map(str, words)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def space(vit_mu: ModelSpec) -> SearchSpace:
    axes = {"depth": {"values": [2, 3, 4]}, "img_size": {"values": [8, 16]}}
    file = {"axes": axes, "decisions": {"continuation_trials": 10}}
    return SpaceFile.model_validate(file).space(vit_mu, "test")


def inputs_at(index: int, space: SearchSpace, decisions: list[Decision], **fields: Any) -> Any:
    """Return what a decision of a run of 1000 steps is taken from; each candidate leads a little."""
    step, current = STEPS[index], decisions[-1].subnet if decisions else SMALL
    candidates = space.above(current)
    losses = [2.0 - 0.002 * relative_cost(space.spec, subnet) for subnet in candidates]
    values = {
        "index": index,
        "step": step,
        "steps_per_epoch": 10,
        "total_steps": 1000,
        "full_step": 800,
        "current": current,
        "incumbent": decisions[-1].continuation if decisions else (),
        "num_points": len(STEPS) - index - 1,
        "steps_so_far": ((SMALL, step),),
        "curve": tuple((float(k), 4.0 * k**-0.3) for k in range(10, 100, 10)),
        "candidates": candidates,
        "losses": (tuple((loss - 0.01, loss + 0.01) for loss in losses),),
        "step_seconds": {str(s): relative_cost(space.spec, s) for s in space.above(SMALL)},
    }
    return DecisionInputs.model_validate({**values, **fields})


@pytest.fixture
def build(tmp_path: Path, space: SearchSpace, manifest: RunManifest) -> Build:
    """Return how to make the folder of a search whose data are nowhere to be found."""

    def make(rule: Rule = "rollout", seed: int = 0, **search: Any) -> Path:
        settings = manifest.settings.model_copy(
            update={
                "kind": "search",
                "data": DataSettings(dir="no/such/folder"),
                "seed": seed,
                "search": SearchSettings(space=space, space_from="test", rule=rule, **search),
            }
        )
        update = {"run_id": "searched", "settings": settings}
        folder = RunFolder.create(tmp_path / "runs", manifest.model_copy(update=update))
        chooser, decisions = Chooser(rule, space, "nsga2", seed), list[Decision]()
        for index in range(len(STEPS)):
            inputs = inputs_at(index, space, decisions)
            decisions.append(decide(chooser, inputs))
            folder.record_inputs(inputs)
            folder.record_decision(decisions[-1])
        current = decisions[-1].subnet
        folder.record_decision(forced_decision(rule, current, FULL, (2, 800, 80.0), "it is due"))
        folder.close()
        return folder.path

    return make


def tamper(run: Path, **changed: Any) -> None:
    """Change the first decision on record."""
    path = run / "decisions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0].update(changed)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("rule", ["rollout", "autoprog"])
def test_decisions_that_come_out_the_same_are_listed_and_all_is_well(
    replay: Replay, build: Build, rule: Rule
) -> None:
    run = build(rule)
    before = contents(run)
    done = replay(run, "--replay")
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()
    head, *rows = done.out.splitlines()
    assert head.split() == ["decision", "epoch", "recorded", "again", "outcome"]
    assert [row.split()[:2] for row in rows] == [["0", "10"], ["1", "30"], ["2", "80"]]
    assert [row.split()[-1] for row in rows] == ["same", "same", "forced"]
    assert "d4 r16" in rows[2]
    assert contents(run) == before
    assert list(run.parent.iterdir()) == [run]


def test_a_way_on_is_told_with_its_epochs(replay: Replay, build: Build) -> None:
    build()
    row = replay("runs/searched", "--replay").out.splitlines()[1]
    first = json.loads(replay("runs/searched", "--replay", "--json").out)["decisions"][0]
    stretches = [
        f"d{subnet['depth'][0]} r{subnet['img_size']}"
        + (f" from epoch {step / 10:g}" if step > STEPS[0] else "")
        for step, subnet in first["again"]["continuation"]
    ]
    assert len(stretches) > 1
    assert row.count(", then ".join((stretches[0], ", ".join(stretches[1:])))) == 2


def test_a_decision_that_differs_is_named_and_ends_with_1(replay: Replay, build: Build) -> None:
    run = build()
    tamper(run, reason="because", winner=0, continuation=[])
    done = replay(run, "--replay")
    assert done.code == 1
    outcome = done.out.splitlines()[1].split("differs: ")[1]
    assert set(outcome.split(", ")) <= {"subnet", "continuation", "reason"}
    assert {"continuation", "reason"} <= set(outcome.split(", "))
    assert done.out.splitlines()[2].endswith("same")


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ((), 1),
        (("--rule", "rollout", "--sampler", "nsga2", "--seed", 0), 1),
        (("--rule", "pareto"), 0),
        (("--sampler", "random"), 0),
        (("--seed", 1), 0),
    ],
    ids=str,
)
def test_only_what_is_on_record_can_be_wrong(
    replay: Replay, build: Build, flags: tuple[object, ...], code: int
) -> None:
    """Another rule, sampler or seed may well decide otherwise."""
    run = build()
    tamper(run, reason="because")
    done = replay(run, "--replay", *flags)
    assert done.code == code
    assert "differs" in done.out


def test_json_holds_both_decisions_in_full(replay: Replay, build: Build) -> None:
    run = build(seed=3)
    done = replay(run, "--replay", "--json", "--rule", "pareto", "--seed", 4)
    told = json.loads(done.out)
    assert done.code == 0
    assert (told["run"], told["rule"], told["sampler"], told["seed"]) == (
        "searched",
        "pareto",
        "nsga2",
        4,
    )
    assert (told["as_recorded"], told["same"]) == (False, False)
    first, second, forced = told["decisions"]
    rows = [json.loads(line) for line in (run / "decisions.jsonl").read_text().splitlines()]
    assert [one["recorded"] for one in told["decisions"]] == rows
    assert first["again"]["rule"] == "pareto"
    assert first["outcome"] == f"differs: {', '.join(first['differences'])}"
    assert {"front", "reason"} & set(second["differences"])
    assert (forced["outcome"], forced["again"], forced["differences"]) == ("forced", None, [])
    same = json.loads(replay(run, "--replay", "--json").out)
    assert (same["as_recorded"], same["same"]) == (True, True)
    assert [one["differences"] for one in same["decisions"]] == [[], [], []]


def test_a_decision_that_nobody_has_taken_yet_is_told(replay: Replay, build: Build) -> None:
    run = build()
    path = run / "decisions.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    done = replay(run, "--replay")
    assert done.code == 0
    assert done.out.splitlines()[2].endswith("not taken yet")
    assert done.out.splitlines()[2].split()[:3] == ["1", "30", "-"]


def test_a_run_under_way_can_be_replayed(replay: Replay, build: Build) -> None:
    run = build()
    writer = RunFolder.reopen(run)
    assert replay(run, "--replay").code == 0
    writer.close()


def refusal(done: Done) -> str:
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    return done.err.removeprefix("autoprog: ").strip()


def test_what_is_no_run_is_refused(replay: Replay) -> None:
    assert refusal(replay("nowhere", "--replay")) == (
        "nowhere: must be a run folder with a run.yaml in it"
    )


def test_a_training_run_is_refused(replay: Replay, tmp_path: Path, manifest: RunManifest) -> None:
    RunFolder.create(tmp_path, manifest.model_copy(update={"run_id": "trained"})).close()
    assert refusal(replay("trained", "--replay")) == (
        "--replay: must be the folder of a search, but is that of a train run; see autoprog show trained"
    )


def test_a_search_that_has_not_decided_yet_is_refused(replay: Replay, build: Build) -> None:
    (build() / "inputs.jsonl").unlink()
    assert refusal(replay("runs/searched", "--replay")) == (
        "--replay: must be a search with an inputs.jsonl, from which it has decided,"
        " but got 'runs/searched'"
    )


def test_inputs_that_are_broken_are_named(replay: Replay, build: Build) -> None:
    path = build() / "inputs.jsonl"
    path.write_text("nothing\n" + path.read_text())
    line = refusal(replay("runs/searched", "--replay"))
    assert line == "runs/searched/inputs.jsonl: line 1: must be a JSON object"


def test_a_budget_that_a_run_has_not_is_refused(replay: Replay, build: Build) -> None:
    build()
    assert refusal(replay("runs/searched", "--replay", "--rule", "budget")) == (
        "--rule: must be rollout, autoprog or pareto for a run without --budget, but got 'budget'"
    )


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        (("--model", "vit-mu"), "--model"),
        (("--epochs", 3), "--epochs"),
        (("--diff", "linear"), "--diff"),
        (("--html", "it.html"), "--html"),
    ],
    ids=str,
)
def test_flags_that_a_replay_has_no_use_for_are_refused(
    replay: Replay, build: Build, flags: tuple[object, ...], flag: str
) -> None:
    build()
    assert refusal(replay("runs/searched", "--replay", *flags)) == (
        f"{flag}: must not be given with --replay;"
        " only --rule, --sampler, --seed, --plain and --json go with it"
    )
    assert not Path("it.html").exists()


@pytest.mark.parametrize(
    "flags",
    [("--costs", "costs.json"), ("--budget", "9m"), ("--resume", "auto"), ("-q",)],
    ids=str,
)
def test_flags_of_a_search_are_unknown_to_a_replay(
    replay: Replay, build: Build, flags: tuple[str, ...]
) -> None:
    build()
    line = refusal(replay("runs/searched", "--replay", *flags))
    assert line.startswith(f"unknown argument {flags[0]}")


@pytest.mark.parametrize("flags", [("--rule", "pareto"), ("--sampler", "tpe"), ("--seed", 0)])
def test_the_flags_of_a_replay_need_it(replay: Replay, flags: tuple[object, ...]) -> None:
    line = f"{flags[0]}: must be given together with --replay"
    assert refusal(replay("linear", *flags)) == line


def test_json_without_a_dry_run_is_refused(
    replay: Replay, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "--model", "vit-mu", "--json"]) == 2
    assert capsys.readouterr().err == "autoprog: --json: must be given together with --dry-run\n"
    assert not Path("runs").exists()


def test_the_python_function_for_a_search_replays_nothing(build: Build) -> None:
    run = build()
    with pytest.raises(ConfigError, match="run_search: replay: unknown argument"):
        run_search("vit-mu", replay=str(run))
