from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprog.events import (
    CostsKnown,
    Decided,
    Estimated,
    Event,
    Grown,
    Interrupted,
    RunStarted,
    StageStarted,
    StepLogged,
)
from autoprog.runs import load_run
from supernet.config import SubnetConfig

When = Callable[[Event], bool]


def at(kind: type[Any], step: int) -> When:
    return lambda event: isinstance(event, kind) and event.step >= step


def decided(index: int) -> When:
    return lambda event: isinstance(event, Decided) and event.decision.index == index


SIGNALS = {
    "rollout": {
        "inside the first plain phase": 10,
        "at the end of the first stage": 16,
        "inside a supernet phase": 20,
        "at the end of the last supernet phase": 40,
        "after the last step": 64,
    },
    "autoprog": {
        "inside the first supernet phase": 1,
        "between the estimates": 19,
        "right after a decision": 25,
        "in the final stage": 53,
    },
}
CRASHES: dict[str, dict[str, When]] = {
    "rollout": {
        "before the first checkpoint": at(StepLogged, 3),
        "inside a supernet phase": at(StepLogged, 21),
        "between the estimates and the decision": at(Estimated, 24),
        "after the second decision was recorded": decided(1),
        "after the full model was decided on": decided(2),
    },
    "autoprog": {
        "after the first decision was recorded": decided(0),
        "after a growth": at(Grown, 32),
        "in the final stage": at(StepLogged, 60),
    },
}


def places(of: dict[str, dict[str, Any]]) -> pytest.MarkDecorator:
    cases = [(rule, place) for rule, found in of.items() for place in found]
    return pytest.mark.parametrize(("observed", "place"), cases, indirect=["observed"])


def by(rule: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("observed", [rule], indirect=True)


@pytest.fixture
def again(observed: Any, lab: Any) -> Any:
    """A place to repeat the observed search in, under the same name, script and costs."""
    lab.script = dict(observed.script)
    lab.repeated = lab.settings(rule_of(observed), costs=observed.given)
    return lab


def assert_same_end(straight: Any, path: Path, attempt: Any) -> None:
    run = load_run(path)
    assert run.result is not None
    assert run.decisions == straight.run.decisions
    assert (path / "best.yaml").read_bytes() == (straight.path / "best.yaml").read_bytes()
    assert run.costs == straight.run.costs
    weights = straight.weights
    assert weights.keys() == attempt.weights.keys()
    different = [key for key, weight in attempt.weights.items() if not weight.equal(weights[key])]
    assert different == []
    assert (run.result.top1_ema, run.result.loss) == (
        straight.run.result.top1_ema,
        straight.run.result.loss,
    )


def rule_of(observed: Any) -> str:
    return str(observed.attempt.searcher.search.rule)


def told(path: Path) -> list[Any]:
    """What the log tells of the whole run, but for times and the marks of restarts and checkpoints."""
    left_out = (RunStarted, CostsKnown, Interrupted, StepLogged)
    return [
        (event.kind, event.step)
        for event in load_run(path).events()
        if not isinstance(event, left_out) and event.kind not in ("checkpoint_saved", "estimated")
    ]


@places(SIGNALS)
def test_a_search_stopped_by_a_signal_ends_like_a_straight_one(
    place: str, observed: Any, again: Any
) -> None:
    step = SIGNALS[rule_of(observed)][place]
    assert again.search(again.repeated, stop_at=step).interrupted
    resumed = again.search(again.repeated)
    assert resumed.events[0].step == step
    assert_same_end(observed.attempt, resumed.path, resumed)


@places(CRASHES)
def test_a_search_that_crashed_ends_like_a_straight_one(
    place: str, observed: Any, again: Any
) -> None:
    crashed = again.search(again.repeated, crash_when=CRASHES[rule_of(observed)][place])
    assert crashed.interrupted
    resumed = again.search(again.repeated)
    assert resumed.events[0].step <= crashed.trainer.step
    assert_same_end(observed.attempt, resumed.path, resumed)
    assert told(resumed.path) == told(observed.attempt.path)


@by("rollout")
def test_a_search_stopped_again_and_again_ends_like_a_straight_one(
    observed: Any, again: Any
) -> None:
    """Two stops lie in one stretch of the training curve, which the decisions are fitted on."""
    for step in (1, 10, 11, 13, 20, 33, 47):
        assert again.search(again.repeated, stop_at=step).trainer.step == step
    resumed = again.search(again.repeated)
    assert_same_end(observed.attempt, resumed.path, resumed)
    one, two = (a.run.inputs()[0].curve for a in (observed.attempt, resumed))
    assert one == two
    assert [step for step, _ in two] == [9, 12, 15, 16]


@by("rollout")
def test_a_checkpoint_in_every_pause_changes_nothing(observed: Any, again: Any) -> None:
    frequent = again.repeated.model_copy(update={"checkpoint_minutes": 0.0})
    again.search(frequent, crash_when=decided(1))
    resumed = again.search(frequent)
    assert resumed.events[0].step == 39
    assert_same_end(observed.attempt, resumed.path, resumed)


@by("autoprog")
def test_a_recorded_decision_is_not_taken_again(
    observed: Any, again: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprog.search import searcher

    again.search(again.repeated, crash_when=decided(0))
    taken, estimated, decide = [], [], searcher.decide
    estimate_losses = searcher.estimate_losses

    def noting(*arguments: Any) -> Any:
        taken.append(arguments[1].index)
        return decide(*arguments)

    def estimating(trainer: Any, choice: Any) -> list[float]:
        estimated.append(trainer.step)
        return estimate_losses(trainer, choice)

    monkeypatch.setattr(searcher, "decide", noting)
    monkeypatch.setattr(searcher, "estimate_losses", estimating)
    resumed = again.search(again.repeated)
    first = observed.attempt.run.decisions[0]
    assert 0 not in taken
    assert min(estimated) > first.step
    assert [d.index for d in load_run(resumed.path).decisions] == [
        d.index for d in observed.attempt.run.decisions
    ]


def test_the_winner_on_record_is_executed_whatever_the_scores_say(
    observed: Any, again: Any
) -> None:
    crashed = again.search(again.repeated, crash_when=decided(0))
    path = crashed.path / "decisions.jsonl"
    row = json.loads(path.read_text())
    subnets = [candidate["subnet"] for candidate in row["candidates"]]
    row["winner"] = next(
        number for number, s in enumerate(subnets) if (s["depth"], s["img_size"]) == ([3], 8)
    )
    row["continuation"] = row["candidates"][row["winner"]]["continuation"]
    path.write_text(json.dumps(row) + "\n")
    tampered = SubnetConfig(3, 8)
    resumed = again.search(again.repeated)
    after = [event for event in resumed.of(StageStarted) if event.step >= row["step"]]
    assert after[0].subnet == tampered
    second = load_run(resumed.path).decisions[1]
    assert second.current == tampered
    assert all(tampered.within(candidate.subnet) for candidate in second.candidates)
    stages = [(stage.depth, stage.img_size) for stage in resumed.best.stages]
    assert (3, 8) in stages
    assert resumed.trainer.steps_by_subnet[tampered] >= 8


@by("rollout")
def test_half_written_last_lines_are_dropped(observed: Any, again: Any) -> None:
    """The decision is taken anew, in a study that starts over."""
    crashed = again.search(again.repeated, crash_when=decided(0))
    decisions, journal = (crashed.path / name for name in ("decisions.jsonl", "search.journal"))
    decisions.write_text(decisions.read_text()[:40])
    journal.write_text(journal.read_text() + '{"op_code": 4')
    resumed = again.search(again.repeated)
    assert_same_end(observed.attempt, resumed.path, resumed)


def test_the_workers_end_with_a_search_that_stops(lab: Any) -> None:
    stopped = lab.search(lab.settings(), stop_at=2)
    with pytest.raises(AssertionError, match="closed"):
        stopped.trainer.data.batches(16, 8, 1, None, held_out=False)


def test_measured_costs_are_reused_on_resume(lab: Any) -> None:
    lab.search(lab.settings(), crash_when=decided(0))
    path = lab.folder / "run" / "costs.json"
    changed = dict.fromkeys(load_run(path.parent).costs, 0.123)
    path.write_text(json.dumps(changed))
    resumed = lab.search(lab.settings())
    assert changed.items() <= load_run(resumed.path).costs.items()
    for decision in load_run(resumed.path).decisions[1:]:
        assert {candidate.step_seconds for candidate in decision.candidates} <= {0.123}
