"""Full regularisation from where training no longer teaches what holds for other images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from autoprog.decisions import DecisionInputs, ReachedLosses
from autoprog.events import Decided, StageStarted, StepLogged
from autoprog.search import decide as deciding
from autoprog.search.decide import Chooser, decide, generalised_fraction
from autoprog.search.replay import chooser_of, replay
from autoprog.settings import Rule
from autoprog.space import SpaceFile
from supernet.config import SubnetConfig
from supernet.cost import relative_cost
from supernet.zoo import ZOO

SPEC = ZOO["vit-xs"]
SPACE = SpaceFile.model_validate(
    {"axes": {"depth": {"values": [3, 6]}, "img_size": {"values": [16, 32]}}}
).space(SPEC, "test")
STAY, FULL = SubnetConfig(3, 16), SPEC.full
FRACTION = 0.75


def shown(held_out: float, training: float, subnet: SubnetConfig = STAY) -> ReachedLosses:
    return ReachedLosses(subnet=subnet, held_out_loss=held_out, training_loss=training)


def inputs(fall: float = 0.4, gain: float = 0.3, **fields: Any) -> DecisionInputs:
    """Return a decision; since the one before the loss of training fell by `fall`, the other by `gain`."""
    losses = {STAY: 1.9 - gain, FULL: 1.9}
    values: dict[str, Any] = {
        "index": 1,
        "step": 1000,
        "steps_per_epoch": 20,
        "total_steps": 2000,
        "full_step": 1600,
        "current": STAY,
        "steps_so_far": ((STAY, 1000),),
        "candidates": tuple(losses),
        "losses": ([(loss + 0.1, loss - 0.1) for loss in losses.values()],),
        "step_seconds": {
            str(subnet): relative_cost(SPEC, subnet) for subnet in SPACE.above(SPACE.smallest)
        },
        "current_losses": shown(1.9 - gain, 2.0 - fall),
        "previous_losses": shown(1.9, 2.0),
    }
    return DecisionInputs.model_validate({**values, **fields})


def test_it_is_the_fall_on_held_out_images_over_that_on_training_images() -> None:
    assert generalised_fraction(inputs(0.4, 0.3)) == pytest.approx(0.75)
    assert generalised_fraction(inputs(0.2, 0.3)) == pytest.approx(1.5)
    assert generalised_fraction(inputs(0.4, -0.1)) == pytest.approx(
        -0.25
    )  # held-out images do worse


@pytest.mark.parametrize(
    "found",
    [
        inputs(current_losses=None),
        inputs(previous_losses=None),
        inputs(previous_losses=shown(2.1, 2.2, SubnetConfig(3, 8))),
        inputs(fall=0.04),
        inputs(fall=-0.3),
    ],
    ids=["too early", "the first", "grown since", "hardly a gain", "a loss"],
)
def test_without_evidence_there_is_no_fraction(found: DecisionInputs) -> None:
    assert generalised_fraction(found) is None


@pytest.mark.parametrize(
    ("rule", "gain", "full_regularisation"),
    [
        ("rollout", 0.39, True),
        ("rollout", 0.41, False),
        ("rollout", -0.1, True),
        ("autoprog", -0.1, False),
        ("pareto", -0.1, False),
    ],
)
def test_the_rollout_strengthens_where_training_gains_more_and_says_why(
    rule: Rule, gain: float, full_regularisation: bool
) -> None:
    decision = decide(Chooser(rule, SPACE, "nsga2", 0), inputs(0.4, gain))
    assert decision.full_regularisation == full_regularisation
    assert ("full regularisation from here" in decision.reason) == full_regularisation
    if full_regularisation:
        assert f"held-out images show {gain / 0.4:.0%} of what training gained" in decision.reason


def test_what_is_strengthened_already_is_not_strengthened_again() -> None:
    decision = decide(
        Chooser("rollout", SPACE, "nsga2", 0), inputs(gain=0, full_regularisation=True)
    )
    assert not decision.full_regularisation
    assert "full regularisation" not in decision.reason


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every decision after one that stayed ask for full strength."""
    monkeypatch.setattr(deciding, "generalised_fraction", _fraction)


def _fraction(inputs: DecisionInputs) -> float | None:
    return None if inputs.previous_losses is None else 0.1


def test_a_search_goes_on_at_full_strength_also_after_a_crash(
    always: None, lab: Any, new_lab: Callable[[], Any]
) -> None:
    other = new_lab()
    straight = other.search(
        other.settings(costs=other.costs(), cost_fraction=FRACTION, recipe={"drop_path": 0.2})
    )
    decisions = [event.decision for event in straight.of(Decided)]
    (first,) = (d for d in decisions if d.full_regularisation)
    strength = straight.trainer.recipe.strength.at(1.0)
    stages = straight.of(StageStarted)
    later = [stage for stage in stages if stage.step >= first.step]
    assert later
    assert all(stage.curriculum.drop_path == strength.drop_path == 0.2 for stage in later)
    assert stages[0].curriculum.drop_path == 0.0
    for one in replay(straight.run, chooser_of(straight.run)):
        assert one.differences == ()

    settings = lab.settings(costs=lab.costs(), cost_fraction=FRACTION, recipe={"drop_path": 0.2})
    seen = []

    def after_it(event: object) -> bool:
        seen.append(isinstance(event, Decided) and event.decision.full_regularisation)
        return any(seen) and isinstance(event, StepLogged)

    assert lab.search(settings, crash_when=after_it).interrupted
    again = lab.search(settings)
    for name, weights in straight.weights.items():
        assert torch.equal(again.weights[name], weights), name
