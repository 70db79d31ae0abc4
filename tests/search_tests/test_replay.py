"""What is decided can be decided again from what was written down, by this run's rule or another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from autoprog.errors import ConfigError
from autoprog.events import Decided
from autoprog.runs import Run, RunFolder, load_run
from autoprog.search.decide import decide
from autoprog.search.replay import Replayed, chooser_of, differences, replay
from autoprog.settings import Rule, RunManifest
from autoprog.train.stop import InterruptedRunError
from supernet.config import SubnetConfig

Begun = Callable[[Rule], Run]
RULES: tuple[Rule, ...] = get_args(Rule)
FULL = SubnetConfig(4, 16)


def outcomes(found: list[Replayed]) -> list[tuple[str, ...]]:
    return [one.differences for one in found]


@pytest.mark.parametrize("rule", RULES)
def test_every_decision_comes_out_as_it_is_on_record(begun: Begun, rule: Rule) -> None:
    run = begun(rule)
    chooser = chooser_of(run)
    assert chooser.rule == rule
    taken = [decision for decision in run.decisions if decision.forced is None]
    inputs = run.inputs()
    assert len(taken) == len(inputs) == (1 if rule in ("pareto", "budget") else 2)
    assert [decide(chooser, one) for one in inputs] == taken
    assert outcomes(replay(run, chooser)) == [()] * len(run.decisions)


def test_a_whole_search_is_replayed_but_for_what_was_forced(observed: Any) -> None:
    """Its winners were scripted, which is all that differs."""
    run = observed.attempt.run
    found = replay(run, chooser_of(run))
    assert [one.recorded for one in found] == list(run.decisions)
    assert [one.again is None for one in found] == [d.forced is not None for d in run.decisions]
    assert found[-1].again is None
    for one in found:
        assert set(one.differences) <= {"subnet", "continuation"}
        if one.recorded and one.again:
            scripted = one.recorded.subnet != one.again.subnet
            assert ("subnet" in one.differences) == scripted


def test_what_a_decision_was_taken_from_is_told_the_next_one(begun: Begun) -> None:
    run = begun("rollout")
    first, second = run.inputs()
    assert (first.incumbent, first.num_points) == ((), 1)
    assert (second.incumbent, second.num_points) == (run.decisions[0].continuation, 0)
    assert second.current == run.decisions[0].subnet
    assert sum(steps for _, steps in second.steps_so_far) == second.step
    assert set(second.step_seconds) >= {str(subnet) for subnet in second.candidates}


@pytest.mark.parametrize("other", RULES[:3])
@pytest.mark.parametrize("rule", RULES)
def test_any_search_can_be_replayed_by_another_rule(begun: Begun, rule: Rule, other: Rule) -> None:
    run = begun(rule)
    found = [one for one in replay(run, chooser_of(run, rule=other)) if one.again is not None]
    assert {one.again.rule for one in found if one.again} == {other}
    for one in found:
        assert one.again is not None
        assert one.again.continuation[0][1] == one.again.subnet
        assert (one.differences == ()) == (rule == other)


def test_another_seed_or_sampler_draws_other_continuations(begun: Begun) -> None:
    run = begun("pareto")
    for other in (chooser_of(run, seed=5), chooser_of(run, sampler="random")):
        (found,) = replay(run, other)
        assert found.again is not None
        assert "front" in found.differences
    assert outcomes(replay(run, chooser_of(run, seed=0, sampler="nsga2"))) == [()]


def test_a_decision_that_was_tampered_with_differs(begun: Begun, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(begun("rollout").path, tmp_path / "run"))
    path = folder / "decisions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    full = next(n for n, c in enumerate(rows[0]["candidates"]) if c["label"] == "full")
    assert rows[0]["winner"] != full
    rows[0]["winner"], rows[0]["continuation"] = full, rows[0]["candidates"][full]["continuation"]
    rows[1]["candidates"][0]["score"] *= 1 + 1e-6
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = load_run(folder)
    assert outcomes(replay(again, chooser_of(again))) == [
        ("subnet", "continuation"),
        ("candidates",),
    ]


def test_the_last_bits_of_numbers_do_not_count(begun: Begun) -> None:
    decision = begun("pareto").decisions[0]
    moved = decision.model_dump(mode="json")
    for row in (*moved["candidates"], *moved["front"]):
        row["predicted_loss"] *= 1 + 1e-13
    near = type(decision).model_validate(moved)
    assert near != decision
    assert differences(decision, near) == ()
    assert differences(decision, near.model_copy(update={"reason": "why not"})) == ("reason",)
    assert differences(decision, near.model_copy(update={"front": ()})) == ("front",)


def test_inputs_without_a_decision_are_decided(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = lab.settings("pareto", costs=lab.costs())
    crash_before_deciding(lab, monkeypatch, given)
    run = load_run(lab.folder / "run")
    (found,) = replay(run, chooser_of(run))
    assert found.recorded is None
    assert found.again is not None
    assert found.differences == ()
    finished = lab.search(given, crash_when=lambda event: isinstance(event, Decided))
    assert finished.run.decisions == (found.again,)


def crash_before_deciding(
    lab: Any, monkeypatch: pytest.MonkeyPatch, given: Any, at: int = 0
) -> Any:
    """Carry out a search to where the inputs of decision `at` are on disk and the decision is not taken."""
    from autoprog.search import searcher

    decide_ = searcher.decide

    def crash(chooser: Any, inputs: Any) -> Any:
        if inputs.index == at:
            assert len(load_run(lab.folder / "run").inputs()) == at + 1
            raise InterruptedRunError("SIGKILL", "run")
        return decide_(chooser, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(searcher, "decide", crash)
        crashed = lab.search(given)
    assert crashed.interrupted
    assert len(crashed.run.decisions) == at
    return crashed


@pytest.mark.parametrize(("rule", "at"), [("rollout", 0), ("autoprog", 1)])
def test_a_resume_decides_from_what_is_on_record_and_estimates_nothing_again(
    lab: Any, monkeypatch: pytest.MonkeyPatch, rule: Rule, at: int
) -> None:
    from autoprog.search import searcher

    given = lab.settings(rule, costs=lab.costs(), log_every_steps=20)
    straight = lab.search(given, name="straight")
    crash_before_deciding(lab, monkeypatch, given, at)
    estimated: list[int] = []
    estimate_losses = searcher.estimate_losses

    def noting(trainer: Any, choice: Any) -> list[float]:
        estimated.append(trainer.step)
        return estimate_losses(trainer, choice)

    monkeypatch.setattr(searcher, "estimate_losses", noting)
    resumed = lab.search(given)
    decision = straight.run.decisions[at]
    assert decision.step not in estimated
    assert resumed.run.decisions == straight.run.decisions
    texts = [(a.path / "inputs.jsonl").read_text() for a in (straight, resumed)]
    assert texts[0] == texts[1]
    told = [event for event in resumed.events if event.kind == "estimated"]
    assert any(event.step == decision.step for event in told)
    weights = straight.weights
    assert all(weight.equal(weights[key]) for key, weight in resumed.weights.items())


def test_recorded_inputs_win_over_what_would_be_estimated_now(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full model has half the loss of the others, in the file alone."""
    given = lab.settings("rollout", costs=lab.costs())
    crashed = crash_before_deciding(lab, monkeypatch, given)
    path = crashed.path / "inputs.jsonl"
    row = json.loads(path.read_text())
    full = next(
        n for n, s in enumerate(row["candidates"]) if (s["depth"], s["img_size"]) == ([4], 16)
    )
    row["losses"][-1][full] = [loss / 2 for loss in row["losses"][-1][0]]
    path.write_text(json.dumps(row) + "\n")
    resumed = lab.search(given, crash_when=lambda event: isinstance(event, Decided))
    first = resumed.run.decisions[0]
    assert first.subnet == FULL
    assert first.chosen.loss == pytest.approx(first.candidates[0].loss / 2)


def test_half_written_inputs_are_written_anew(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = lab.settings("rollout", costs=lab.costs())
    crashed = crash_before_deciding(lab, monkeypatch, given)
    path = crashed.path / "inputs.jsonl"
    whole = path.read_text()
    path.write_text(whole[:200])
    resumed = lab.search(given, crash_when=lambda event: isinstance(event, Decided))
    assert path.read_text() == whole
    assert len(resumed.run.decisions) == 1


def test_what_is_no_search_has_nothing_to_replay(tmp_path: Path, manifest: RunManifest) -> None:
    RunFolder.create(tmp_path, manifest).close()
    run = load_run(tmp_path / manifest.run_id)
    with pytest.raises(ConfigError, match="--replay: must be the folder of a search, but is that"):
        chooser_of(run)


def test_a_search_without_inputs_has_nothing_to_replay(lab: Any) -> None:
    stopped = lab.search(lab.settings(), stop_at=2)
    with pytest.raises(ConfigError, match=r"must be a search with an inputs\.jsonl"):
        replay(stopped.run, chooser_of(stopped.run))


def test_a_run_without_a_budget_is_not_replayed_by_one(begun: Begun) -> None:
    run = begun("pareto")
    with pytest.raises(ConfigError, match="--rule: must be rollout, autoprog or pareto for a run"):
        replay(run, chooser_of(run, rule="budget"))
