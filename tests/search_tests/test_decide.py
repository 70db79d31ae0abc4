from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest
import torch

from autoprog.decisions import Candidate, Continuation, Decision, DecisionInputs, ReachedLosses
from autoprog.events import Decided, StageStarted, StepLogged
from autoprog.files import parse
from autoprog.search import decide as deciding
from autoprog.search.decide import (
    MAX_FRONT_POINTS,
    Chooser,
    autoprog_scores,
    decide,
    forced_decision,
    generalised_fraction,
    runner_up,
    time_exponent,
    winner_of,
)
from autoprog.search.forecast import power_law_slope
from autoprog.search.replay import chooser_of, replay
from autoprog.settings import Rule
from autoprog.space import SearchSpace, SpaceFile
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import relative_cost
from supernet.zoo import ZOO

SPEC = ZOO["deit-s"]
SPACE = SpaceFile.model_validate(
    {
        "axes": {"depth": {"values": [6, 9, 12]}, "img_size": {"values": [112, 160, 224]}},
        "decisions": {"continuation_trials": 20},
    }
).space(SPEC, "test")
STAY, MIDDLE, FULL = SubnetConfig(6, 112), SubnetConfig(9, 160), SPEC.full
SIZES = (STAY, SubnetConfig(6, 160), MIDDLE, SubnetConfig(12, 160), FULL)
COSTS = {subnet: relative_cost(SPEC, subnet) for subnet in SPACE.above(SPACE.smallest)}
STEP, FULL_STEP, TOTAL = 2700, 8500, 10_000
RULES: tuple[Rule, ...] = ("rollout", "autoprog", "pareto", "budget")
all_rules = pytest.mark.parametrize("rule", RULES)
again_rules = pytest.mark.parametrize("rule", ["rollout", "autoprog"])

Losses = Callable[[SubnetConfig], float]


def trend(exponent: float) -> Losses:
    return lambda subnet: 2.0 * COSTS[subnet] ** -exponent


def inputs(
    losses: Losses,
    sizes: Sequence[SubnetConfig] = SIZES,
    noise: float = 0.0,
    learning: float = 0.3,
    current: SubnetConfig = STAY,
    **fields: Any,
) -> DecisionInputs:
    """A quarter of the run is over, at `current`; the training loss has fallen as steps^-learning.

    Two batches each, of which `noise` is the standard error of all differences against the first of `sizes`.
    """
    batches = [
        (losses(subnet) + error, losses(subnet) - error)
        for subnet, error in zip(sizes, [0.0, *[noise] * (len(sizes) - 1)], strict=True)
    ]
    values: dict[str, Any] = {
        "index": 1,
        "step": STEP,
        "steps_per_epoch": 100,
        "total_steps": TOTAL,
        "full_step": FULL_STEP,
        "current": current,
        "num_points": 3,
        "steps_so_far": ((current, STEP),),
        "curve": tuple((float(step), 6.0 * step**-learning) for step in range(100, STEP, 100)),
        "candidates": tuple(sizes),
        "losses": (tuple(batches),),
        "step_seconds": {str(subnet): cost for subnet, cost in COSTS.items()},
        "seconds_left": 3000.0,
    }
    return DecisionInputs.model_validate({**values, **fields})


def chooser(rule: Rule, seed: int = 0, space: SearchSpace = SPACE) -> Chooser:
    return Chooser(rule, space, "nsga2", seed)


def take(rule: Rule, found: DecisionInputs) -> Decision:
    return decide(chooser(rule), found)


def of(decision: Decision, subnet: SubnetConfig) -> Candidate:
    return next(one for one in decision.candidates if one.subnet == subnet)


@all_rules
def test_a_decision_is_a_pure_function(rule: Rule) -> None:
    found = inputs(trend(0.1), noise=0.01)
    before = copy.deepcopy(found)
    assert take(rule, found) == take(rule, before) == take(rule, found)
    assert found == before


@all_rules
def test_inputs_that_were_written_down_give_the_same_decision(rule: Rule) -> None:
    found = inputs(trend(0.1), noise=0.01, incumbent=((2000, STAY), (5000, MIDDLE), (8000, FULL)))
    row = json.loads(json.dumps(found.model_dump(mode="json")))
    read = parse(DecisionInputs, row, "test")
    assert read == found
    decision = take(rule, read)
    assert decision == take(rule, found)
    assert parse(Decision, json.loads(decision.model_dump_json()), "test") == decision


@all_rules
def test_a_decision_says_where_and_between_what_it_was_taken(rule: Rule) -> None:
    decision = take(rule, inputs(trend(0.1)))
    assert (decision.index, decision.step, decision.epoch) == (1, STEP, 27.0)
    assert (decision.rule, decision.current) == (rule, STAY)
    assert [candidate.subnet for candidate in decision.candidates] == list(SIZES)
    labels = [candidate.label for candidate in decision.candidates]
    assert labels == ["stay", "grow", "grow", "grow", "full"]
    seconds = [candidate.step_seconds for candidate in decision.candidates]
    assert seconds == [COSTS[subnet] for subnet in SIZES]


@all_rules
def test_each_candidate_has_a_way_on_from_itself_to_the_full_model(rule: Rule) -> None:
    decision = take(rule, inputs(trend(0.1)))
    for candidate in decision.candidates:
        assert candidate.continuation[0] == (STEP, candidate.subnet)
        steps, subnets = zip(*candidate.continuation, strict=True)
        assert list(steps) == sorted(set(steps))
        assert steps[-1] <= FULL_STEP
        assert all(a.within(b) and a != b for a, b in pairwise(subnets))
        assert subnets[-1] == FULL
    assert decision.continuation == decision.chosen.continuation


@again_rules
def test_the_lowest_score_wins_and_the_reason_names_the_runner_up(rule: Rule) -> None:
    decision = take(rule, inputs(trend(0.1)))
    ranked = sorted(decision.candidates, key=lambda candidate: candidate.score)
    assert decision.chosen == ranked[0]
    margin = ranked[1].score / ranked[0].score - 1
    assert decision.reason.endswith(f"; {margin:+.2%} against the runner-up {ranked[1].subnet}")
    assert f"seconds^{decision.alpha:.3g}" in decision.reason


@pytest.mark.parametrize("planted", SIZES, ids=str)
def test_autoprog_picks_the_candidate_below_the_power_law(planted: SubnetConfig) -> None:
    def losses(subnet: SubnetConfig) -> float:
        return trend(0.05)(subnet) * (0.99 if subnet == planted else 1.0)

    decision = take("autoprog", inputs(losses))
    assert decision.chosen.subnet == planted
    assert decision.alpha == pytest.approx(0.05, abs=0.01)


def test_autoprog_scores_the_mean_over_the_time_points() -> None:
    rising, falling = (1.0, 2.0, 2.4), (3.0, 2.0, 1.0)
    points = tuple(((a,), (b,)) for a, b in zip(rising, falling, strict=True))
    found = inputs(trend(0.1), (STAY, FULL)).model_copy(update={"losses": points})
    decision = take("autoprog", found)
    assert [candidate.loss for candidate in decision.candidates] == [fmean(rising), fmean(falling)]
    assert [candidate.score for candidate in decision.candidates] == [fmean(rising), 2.0]
    assert decision.chosen.subnet == STAY
    assert decision.candidates[1].difference == pytest.approx(-1.4)


def test_autoprog_charges_what_remains_at_each_size() -> None:
    for candidate in take("autoprog", inputs(trend(0.1))).candidates:
        assert candidate.remaining_seconds == pytest.approx(7300 * COSTS[candidate.subnet])
        assert candidate.predicted_loss == candidate.loss


def test_autoprog_would_go_on_to_where_the_full_model_is_due() -> None:
    decision = take("autoprog", inputs(trend(0.1)))
    assert of(decision, MIDDLE).continuation == ((STEP, MIDDLE), (FULL_STEP, FULL))
    assert of(decision, FULL).continuation == ((STEP, FULL),)
    assert decision.front == ()


def test_autoprog_gives_exact_ties_to_the_cheaper() -> None:
    assert take("autoprog", inputs(lambda _: 2.0, (FULL, MIDDLE))).chosen.subnet == MIDDLE


def test_autoprog_compares_with_the_first_where_staying_is_no_candidate() -> None:
    decision = take("autoprog", inputs(trend(0.1), (MIDDLE, FULL)))
    assert decision.candidates[0].difference == 0.0
    assert decision.candidates[1].difference < 0.0


@pytest.mark.parametrize("rule", ["rollout", "pareto", "budget"])
def test_other_rules_go_by_the_last_time_point(rule: Rule) -> None:
    found = inputs(trend(0.1))
    early = tuple((9.0, 9.0) for _ in SIZES)
    later = found.model_copy(update={"losses": (early, *found.losses)})
    decision = take(rule, later)
    losses = [trend(0.1)(subnet) for subnet in SIZES]
    assert [candidate.loss for candidate in decision.candidates] == losses
    assert decision == take(rule, found)


def test_the_rollout_grows_though_staying_has_the_lowest_loss_now() -> None:
    decision = take("rollout", inputs(trend(-0.1), learning=0.1))
    stay = decision.candidates[0]
    assert stay.loss == min(candidate.loss for candidate in decision.candidates)
    assert stay.predicted_loss > decision.chosen.predicted_loss
    assert decision.chosen.label != "stay"


def test_the_rollout_stays_where_growth_buys_nothing() -> None:
    decision = take("rollout", inputs(lambda _: 2.0, (STAY, FULL), learning=0.5))
    assert decision.chosen.subnet == STAY
    assert f"full from step {FULL_STEP}" in decision.reason
    assert decision.continuation == ((STEP, STAY), (FULL_STEP, FULL))


def test_the_rollout_grows_where_larger_candidates_lead_clearly() -> None:
    decision = take("rollout", inputs(trend(0.3)))
    assert decision.chosen.subnet == FULL
    assert f"full from step {STEP}" in decision.reason
    assert decision.continuation == ((STEP, FULL),)


def test_the_rollout_says_how_long_each_way_takes() -> None:
    decision = take("rollout", inputs(lambda _: 2.0, learning=0.5))
    stay, full = decision.candidates[0], decision.candidates[-1]
    assert stay.remaining_seconds == pytest.approx(5800 * COSTS[STAY] + 1500)
    assert full.remaining_seconds == pytest.approx(7300)


def test_a_lead_below_the_noise_is_a_tie_which_staying_wins_without_a_plan() -> None:
    """The end loss follows the estimate by its learning exponent, and so does its noise."""
    clear = take("rollout", inputs(trend(0.1)))
    assert clear.chosen.subnet == FULL
    lead = clear.candidates[0].score / clear.chosen.score - 1
    fraction = lead / 2, lead * 1.01
    noise = [amount * clear.chosen.loss / 0.3 for amount in fraction]
    sure, unsure = (take("rollout", inputs(trend(0.1), noise=amount)) for amount in noise)
    assert sure.chosen.subnet == FULL
    assert unsure.chosen.subnet == STAY
    tie = f"a tie with d12 r224 within ±{fraction[1]:.1%}, which staying wins"
    assert unsure.reason.startswith(tie)
    assert f"{-lead / (1 + lead):+.2%} against the runner-up d12 r224" in unsure.reason
    scores = [candidate.score for candidate in clear.candidates]
    assert [candidate.score for candidate in unsure.candidates] == pytest.approx(scores)


PLAN: Continuation = ((1000, STAY), (STEP - 100, MIDDLE), (6000, FULL))


def test_a_tie_goes_to_the_plan_of_the_decision_before() -> None:
    """By the plan the run should have grown by now; staying wins by less than the noise."""
    found = inputs(lambda _: 2.0, learning=0.5)
    assert take("rollout", found).chosen.subnet == STAY
    planned = take("rollout", inputs(lambda _: 2.0, noise=1.0, learning=0.5, incumbent=PLAN))
    assert planned.chosen.subnet == MIDDLE
    assert "which the plan so far, d9 r160 wins" in planned.reason
    assert planned.continuation[0] == (STEP, MIDDLE)


def test_a_clear_lead_beats_the_plan() -> None:
    decision = take("rollout", inputs(lambda _: 2.0, noise=0.0, learning=0.5, incumbent=PLAN))
    assert decision.chosen.subnet == STAY
    assert decision.reason.startswith("lowest end loss")


def test_only_what_the_two_estimates_do_not_share_counts_as_noise() -> None:
    """All but staying err alike, so the lead over the plan is sure, whatever that over staying is."""
    found = inputs(trend(0.3), noise=1.0, incumbent=PLAN)
    assert take("rollout", found).chosen.subnet == FULL
    without = inputs(trend(0.3), noise=1.0)
    assert take("rollout", without).chosen.subnet == STAY


def test_a_plan_that_was_not_estimated_is_no_incumbent() -> None:
    found = inputs(lambda _: 2.0, (STAY, FULL), noise=1.0, learning=0.5, incumbent=PLAN)
    assert take("rollout", found).reason.startswith("lowest end loss")


def test_the_rest_of_the_plan_is_among_the_ways_on() -> None:
    """A grid of one date cannot hold the plan's two, but for the plan itself at its nearest dates."""
    plan: Continuation = ((STEP, STAY), (FULL_STEP - 3000, MIDDLE), (FULL_STEP, FULL))
    space = SPACE.model_copy(
        update={"decisions": SPACE.decisions.model_copy(update={"continuation_trials": 1})}
    )
    found = inputs(trend(0.05), (STAY,), num_points=28, incumbent=plan)
    with_plan = decide(chooser("rollout", space=space), found)
    other = inputs(trend(0.05), (STAY,), num_points=28)
    without = decide(chooser("rollout", space=space), other)
    continuations = [[point.continuation for point in one.front] for one in (with_plan, without)]
    assert plan in continuations[0]
    assert plan not in continuations[1]


def test_where_the_current_subnet_is_nearly_full_only_two_candidates_are_left() -> None:
    near = SubnetConfig(12, 160)
    decision = take("rollout", inputs(trend(0.1), (near, FULL), current=near))
    assert [candidate.label for candidate in decision.candidates] == ["stay", "full"]


@pytest.mark.parametrize("rule", ["rollout", "pareto", "budget"])
@pytest.mark.parametrize("full_step", [STEP, STEP - 5])
def test_where_the_full_model_is_due_it_is_chosen(rule: Rule, full_step: int) -> None:
    decision = take(rule, inputs(lambda _: 2.0, learning=0.5, noise=1.0, full_step=full_step))
    assert decision.chosen.subnet == FULL
    assert decision.continuation == ((STEP, FULL),)


@pytest.mark.parametrize("rule", ["pareto", "budget"])
def test_only_what_was_estimated_can_be_chosen(rule: Rule) -> None:
    """Most of the continuations that are proposed begin with one of the seven other subnets."""
    estimated = (STAY, FULL)
    for seed in range(3):
        found = inputs(trend(0.1), estimated, seconds_left=4000.0)
        decision = decide(chooser(rule, seed), found)
        assert decision.subnet in estimated
        assert {point.continuation[0][1] for point in decision.front} <= set(estimated)


def test_the_whole_rest_is_decided_on_a_grid_that_is_finer_than_the_decisions_to_come() -> None:
    """A rule that decides again may grow between decisions only where one is; others at 20 dates."""
    found = inputs(trend(0.1), num_points=1)
    half = STEP + (FULL_STEP - STEP) // 2
    again = {step for one in take("rollout", found).front for step, _ in one.continuation}
    assert again <= {STEP, half, FULL_STEP}
    once = {step for one in take("pareto", found).front for step, _ in one.continuation}
    assert once <= {STEP + (FULL_STEP - STEP) * cell // 20 for cell in range(21)}
    assert len(once) > 5


def test_a_wide_front_is_thinned_and_keeps_its_ends_and_the_chosen_point() -> None:
    decision = take("pareto", inputs(trend(0.1)))
    front = decision.front
    assert 10 < len(front) <= MAX_FRONT_POINTS + 1
    assert [p.remaining_seconds for p in front] == sorted(p.remaining_seconds for p in front)
    losses = [point.predicted_loss for point in front]
    assert losses == sorted(set(losses), reverse=True)
    assert decision.continuation in [point.continuation for point in front]
    assert front[0].continuation == ((STEP, STAY), (FULL_STEP, FULL))
    assert front[-1].continuation == ((STEP, FULL),)


def test_a_single_candidate_has_no_runner_up() -> None:
    decision = take("autoprog", inputs(lambda _: 2.0, (FULL,)))
    assert decision.reason == "lowest loss · seconds^0; no other candidate"


def test_a_forced_decision_names_the_full_model_without_candidates() -> None:
    decision = forced_decision("rollout", STAY, FULL, (3, STEP, 27.0), "it is due")
    assert (decision.candidates, decision.forced, decision.subnet) == ((), FULL, FULL)
    assert (decision.index, decision.step, decision.epoch) == (3, STEP, 27.0)
    assert (decision.rule, decision.current, decision.reason) == ("rollout", STAY, "it is due")


@all_rules
def test_a_model_of_two_stages_is_decided_on_alike(two_stages: ModelSpec, rule: Rule) -> None:
    small, full = SubnetConfig((2, 7), 112), two_stages.full
    axes = {"depth": {"fractions": [0.5, 1.0]}, "img_size": {"values": [112, 224]}}
    space = SpaceFile.model_validate({"axes": axes}).space(two_stages, "test")
    assert space.smallest == small
    found = inputs(
        lambda subnet: 2.0 if subnet == small else 1.0,
        (small, full),
        current=small,
        step_seconds={str(s): relative_cost(two_stages, s) for s in space.above(small)},
    )
    decision = decide(chooser(rule, space=space), found)
    assert [candidate.label for candidate in decision.candidates] == ["stay", "full"]
    assert decision.continuation[-1][1] == full


POWERS_OF_TWO = (1.0, 2.0, 4.0, 8.0, 16.0)


def power_law(exponent: float, costs: tuple[float, ...] = POWERS_OF_TWO) -> list[float]:
    return [3.0 * cost**exponent for cost in costs]


@pytest.mark.parametrize("exponent", [-0.5, -0.03, 0.0, 0.2])
def test_the_slope_of_a_power_law_is_its_exponent(exponent: float) -> None:
    assert power_law_slope(POWERS_OF_TWO, power_law(exponent)) == pytest.approx(exponent, abs=1e-12)


def test_the_slope_is_that_of_least_squares_in_logarithms() -> None:
    costs = [math.e**x for x in (0, 1, 2, 3)]
    losses = [math.e**y for y in (0, 2, 1, 3)]
    assert power_law_slope(costs, losses) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("costs", "losses"),
    [
        ([1.0, 2.0], [3.0, 2.0]),
        ([1.0, 1.01, 1.0199], [3.0, 2.0, 1.0]),
        ([1.0, 2.0, 4.0], [3.0, 2.0, 0.0]),
    ],
    ids=["two points", "no spread", "a loss of zero"],
)
def test_too_little_to_fit_gives_no_slope_and_no_price_on_time(
    costs: list[float], losses: list[float]
) -> None:
    assert power_law_slope(costs, losses) is None
    assert time_exponent(costs, losses) == 0.0


def test_a_spread_of_two_percent_is_enough() -> None:
    assert power_law_slope([1.0, 1.01, 1.02], [2.0, 2.0, 2.0]) == pytest.approx(0.0)


def test_the_time_exponent_flattens_falling_losses_and_is_never_negative() -> None:
    assert time_exponent(POWERS_OF_TWO, power_law(-0.05)) == pytest.approx(0.05)
    assert time_exponent(POWERS_OF_TWO, power_law(0.05)) == 0.0


def test_losses_on_one_power_law_all_get_the_same_score() -> None:
    scores, alpha = autoprog_scores(power_law(-0.05), POWERS_OF_TWO)
    assert alpha == pytest.approx(0.05)
    assert scores == pytest.approx([3.0] * 5)


def test_where_larger_is_worse_the_scores_are_the_losses() -> None:
    losses = power_law(0.05)
    assert autoprog_scores(losses, POWERS_OF_TWO) == (losses, 0.0)


@pytest.mark.parametrize("planted", range(5))
def test_the_candidate_below_the_fitted_power_law_wins(planted: int) -> None:
    losses = power_law(-0.05)
    losses[planted] *= 0.99
    scores, _ = autoprog_scores(losses, POWERS_OF_TWO)
    assert winner_of(scores, POWERS_OF_TWO) == planted


def test_exact_ties_go_to_the_cheaper_candidate() -> None:
    assert winner_of([2.0, 1.0, 1.0, 1.0], [1.0, 5.0, 3.0, 4.0]) == 2


def test_the_runner_up_is_the_best_of_the_others() -> None:
    assert runner_up([3.0, 1.0, 2.0], winner=1) == 2
    assert runner_up([3.0, 1.0, 2.0], winner=0) == 1
    assert runner_up([3.0], winner=0) is None


# --- Full regularisation from where training no longer teaches what holds for other images.

VIT_MU = ZOO["vit-xs"]
MU_SPACE = SpaceFile.model_validate(
    {"axes": {"depth": {"values": [3, 6]}, "img_size": {"values": [16, 32]}}}
).space(VIT_MU, "test")
MU_STAY, MU_FULL = SubnetConfig(3, 16), VIT_MU.full
FRACTION = 0.75


def shown(held_out: float, training: float, subnet: SubnetConfig = MU_STAY) -> ReachedLosses:
    return ReachedLosses(subnet=subnet, held_out_loss=held_out, training_loss=training)


def measured_inputs(fall: float = 0.4, gain: float = 0.3, **fields: Any) -> DecisionInputs:
    """Return a decision; since the one before the loss of training fell by `fall`, the other by `gain`."""
    losses = {MU_STAY: 1.9 - gain, MU_FULL: 1.9}
    values: dict[str, Any] = {
        "index": 1,
        "step": 1000,
        "steps_per_epoch": 20,
        "total_steps": 2000,
        "full_step": 1600,
        "current": MU_STAY,
        "steps_so_far": ((MU_STAY, 1000),),
        "candidates": tuple(losses),
        "losses": ([(loss + 0.1, loss - 0.1) for loss in losses.values()],),
        "step_seconds": {
            str(subnet): relative_cost(VIT_MU, subnet)
            for subnet in MU_SPACE.above(MU_SPACE.smallest)
        },
        "current_losses": shown(1.9 - gain, 2.0 - fall),
        "previous_losses": shown(1.9, 2.0),
    }
    return DecisionInputs.model_validate({**values, **fields})


def test_it_is_the_fall_on_held_out_images_over_that_on_training_images() -> None:
    assert generalised_fraction(measured_inputs(0.4, 0.3)) == pytest.approx(0.75)
    assert generalised_fraction(measured_inputs(0.2, 0.3)) == pytest.approx(1.5)
    assert generalised_fraction(measured_inputs(0.4, -0.1)) == pytest.approx(
        -0.25
    )  # held-out images do worse


@pytest.mark.parametrize(
    "found",
    [
        measured_inputs(current_losses=None),
        measured_inputs(previous_losses=None),
        measured_inputs(previous_losses=shown(2.1, 2.2, SubnetConfig(3, 8))),
        measured_inputs(fall=0.04),
        measured_inputs(fall=-0.3),
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
def test_the_rollout_takes_full_regularisation_where_training_gains_more_and_says_why(
    rule: Rule, gain: float, full_regularisation: bool
) -> None:
    decision = decide(Chooser(rule, MU_SPACE, "nsga2", 0), measured_inputs(0.4, gain))
    assert decision.full_regularisation == full_regularisation
    assert ("full regularisation from here" in decision.reason) == full_regularisation
    if full_regularisation:
        assert f"held-out images show {gain / 0.4:.0%} of what training gained" in decision.reason


def test_what_has_full_regularisation_is_not_decided_again() -> None:
    decision = decide(
        Chooser("rollout", MU_SPACE, "nsga2", 0),
        measured_inputs(gain=0, full_regularisation=True),
    )
    assert not decision.full_regularisation
    assert "full regularisation" not in decision.reason


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every decision after one that stayed ask for full strength."""
    monkeypatch.setattr(deciding, "generalised_fraction", _fraction)


def _fraction(measured_inputs: DecisionInputs) -> float | None:
    return None if measured_inputs.previous_losses is None else 0.1


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
