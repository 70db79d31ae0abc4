from __future__ import annotations

import json
from typing import get_args

import pytest
from pydantic import ValidationError

from autoprog import events
from autoprog.decisions import Candidate, Decision, Estimate
from autoprog.errors import ConfigError
from autoprog.events import (
    CheckpointSaved,
    CostsKnown,
    CostsMeasured,
    Decided,
    Estimated,
    Evaluated,
    Event,
    Grown,
    Interrupted,
    RunFinished,
    RunStarted,
    StageStarted,
    StepLogged,
    SubnetTrained,
    SupernetStarted,
    TrialFinished,
    WarningRaised,
    decode,
    encode,
)
from autoprog.stage import Curriculum
from supernet.config import SubnetConfig

SMALL, LARGE = SubnetConfig(6, 128), SubnetConfig((4, 14), 224)


def candidate(subnet: SubnetConfig, score: float) -> Candidate:
    return Candidate(
        subnet=subnet,
        label=str(subnet),
        loss=1.25,
        difference=-0.1,
        difference_se=0.01,
        step_seconds=0.2,
        predicted_loss=0.9,
        remaining_seconds=3600.0,
        score=score,
    )


def decision(winner: int = 1) -> Decision:
    return Decision(
        index=0,
        step=250,
        epoch=2.5,
        rule="rollout",
        current=SMALL,
        candidates=(candidate(SMALL, 2.0), candidate(LARGE, 1.0)),
        winner=winner,
        alpha=0.03,
        reason="lowest predicted loss",
    )


def forced_decision() -> Decision:
    return Decision(
        index=1,
        step=500,
        epoch=5.0,
        rule="rollout",
        current=SMALL,
        forced=LARGE,
        reason="full share",
    )


EVENTS: list[Event] = [
    RunStarted(
        step=0,
        run_id="r",
        run_kind="search",
        model="deit-s",
        total_steps=1000,
        steps_per_epoch=100,
        epochs=10.0,
        num_images=6400,
        device="cpu",
        amp="none",
        seed=3,
    ),
    CostsMeasured(step=0, num_measured=2, num_subnets=12, left_seconds=18.5, run_seconds=720.0),
    CostsKnown(step=0, step_seconds=((SMALL, 0.1), (LARGE, 0.4)), num_estimated=1),
    StageStarted(
        step=0, stage=0, subnet=SMALL, stop_step=250, curriculum=Curriculum(randaug=4, reprob=0.1)
    ),
    SupernetStarted(step=250, decision=0, current=SMALL, candidates=(SMALL, LARGE), stop_step=450),
    StepLogged(
        step=20,
        epoch=0.2,
        loss=6.9,
        lr=1e-6,
        subnet=SMALL,
        step_seconds=0.1,
        images_per_second=640.0,
        data_wait_fraction=0.05,
        train_seconds=2.0,
    ),
    Evaluated(
        wall_seconds=30.0,
        step=100,
        epoch=1.0,
        subnet=LARGE,
        loss=6.5,
        top1=1.5,
        loss_ema=7.0,
        top1_ema=0.1,
        seconds=0.3,
        train_seconds=10.0,
    ),
    Estimated(step=300, decision=0, point=1, losses=((SMALL, 1.5), (LARGE, 1.25)), seconds=4.0),
    TrialFinished(step=0, number=3, loss=1.5, seconds=20.0, stages=((0.0, SMALL), (0.5, LARGE))),
    TrialFinished(step=0, number=4, pruned=True),
    SubnetTrained(step=250, decision=0, number=3, total=24, subnet=SMALL, loss=1.5, seconds=9.0),
    Decided(step=250, decision=decision()),
    Decided(step=250, decision=forced_decision()),
    Grown(
        step=250,
        before=SMALL,
        after=SubnetConfig(8, 128),
        init="ema",
        placement="interpolate",
        old_blocks="keep",
        optimizer_state="copy",
        origins=("0 <- 0 (online)", "1 <- 0 (ema)"),
        delta_loss=0.3,
        delta_logits=0.2,
        lost_seconds=0.5,
    ),
    CheckpointSaved(step=250, path="checkpoints/last.pt"),
    WarningRaised(step=3, message='a "quoted" word,\nand a ü'),
    Interrupted(step=7, signal="SIGTERM"),
    RunFinished(step=1000, result={"top1": 71.5, "versions": {"torch": "2"}, "macs": 1e18}),
]


def test_every_kind_of_event_is_tried_here() -> None:
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_an_event_survives_a_line_of_json(event: Event) -> None:
    line = json.dumps(encode(event))
    assert "\n" not in line
    assert decode(json.loads(line)) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_an_event_is_a_public_frozen_value(event: Event) -> None:
    assert type(event).__name__ in events.__all__
    with pytest.raises(ValidationError, match="frozen"):
        event.step = 5  # type: ignore[misc]


def test_the_kinds_differ() -> None:
    assert len({event.kind for event in EVENTS}) == len({type(event) for event in EVENTS})


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "danced", "step": 1},
        {"step": 1},
        {"kind": "warning_raised", "step": 1},
        {"kind": "warning_raised", "step": -1, "message": "x"},
        {"kind": "warning_raised", "step": 1, "message": "x", "colour": "red"},
    ],
)
def test_a_row_that_is_no_event_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(row)
    assert str(caught.value) == (
        f"events.jsonl: must be an event of this version of autoprog, but got {row.get('kind')!r}"
    )


def test_a_decision_knows_its_winner() -> None:
    assert decision(winner=1).chosen.subnet == LARGE
    assert decision(winner=1).subnet == LARGE
    assert forced_decision().subnet == LARGE


@pytest.mark.parametrize("winner", [-1, 2])
def test_a_decision_for_nobody_is_refused(winner: int) -> None:
    with pytest.raises(
        ValidationError, match=r"winner: must lie in 0 to 1|must be a whole number from 0"
    ):
        decision(winner)


@pytest.mark.parametrize("changes", [{"forced": SMALL}, {"candidates": ()}])
def test_a_decision_has_either_candidates_or_a_forced_way(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="must be there unless the decision is forced"):
        Decision.model_validate({**dict(decision()), **changes})


def test_an_estimate_is_the_mean_of_its_time_points() -> None:
    assert Estimate(subnet=SMALL, losses=(2.0, 1.0, 1.5)).loss == 1.5
    with pytest.raises(ValidationError):
        Estimate(subnet=SMALL, losses=())
