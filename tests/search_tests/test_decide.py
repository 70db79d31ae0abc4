from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import pytest

from autoprog.decisions import Decision, Estimate
from autoprog.search.decide import Situation, decide, forced_decision
from autoprog.settings import Rule
from supernet.config import ModelSpec, SubnetConfig
from supernet.cost import relative_cost
from supernet.zoo import ZOO

SPEC = ZOO["deit-s"]
STAY, MIDDLE, FULL = SubnetConfig(6, 112), SubnetConfig(9, 160), SPEC.full
SIZES = (STAY, SubnetConfig(6, 160), MIDDLE, SubnetConfig(12, 160), FULL)
COSTS = {subnet: relative_cost(SPEC, subnet) for subnet in SIZES}
RULES: tuple[Rule, ...] = ("rollout", "autoprog")
both_rules = pytest.mark.parametrize("rule", RULES)


def situation(learning: float = 0.3, current: SubnetConfig = STAY) -> Situation:
    """A quarter of the run is over, at `current`; the training loss has fallen as steps^-learning."""
    return Situation(
        index=1,
        step=2700,
        steps_per_epoch=100,
        total_steps=10_000,
        current=current,
        switch_steps=(5000, 7500, 8500),
        progress_so_far=((COSTS[current], 2700),),
        curve=tuple((float(step), 6.0 * step**-learning) for step in range(100, 2700, 100)),
    )


def estimates(
    losses: Callable[[SubnetConfig], float],
    sizes: tuple[SubnetConfig, ...] = SIZES,
    noise: float = 0.0,
) -> list[Estimate]:
    return [
        Estimate(
            subnet=subnet,
            losses=(losses(subnet),),
            difference=losses(subnet) - losses(sizes[0]),
            difference_se=noise,
        )
        for subnet in sizes
    ]


def trend(exponent: float) -> Callable[[SubnetConfig], float]:
    return lambda subnet: 2.0 * COSTS[subnet] ** -exponent


def take(rule: Rule, found: list[Estimate], where: Situation | None = None) -> Decision:
    return decide(rule, SPEC, where or situation(), found, COSTS.__getitem__)


@both_rules
def test_a_decision_is_a_pure_function(rule: Rule) -> None:
    found, where = estimates(trend(0.1), noise=0.01), situation()
    before = copy.deepcopy((found, where))
    assert take(rule, found, where) == take(rule, *copy.deepcopy(before)) == take(rule, found)
    assert (found, where) == before


@both_rules
def test_a_decision_says_where_and_between_what_it_was_taken(rule: Rule) -> None:
    decision = take(rule, estimates(trend(0.1)))
    assert (decision.index, decision.step, decision.epoch) == (1, 2700, 27.0)
    assert (decision.rule, decision.current) == (rule, STAY)
    assert [candidate.subnet for candidate in decision.candidates] == list(SIZES)
    labels = [candidate.label for candidate in decision.candidates]
    assert labels == ["stay", "grow", "grow", "grow", "full"]
    seconds = [candidate.step_seconds for candidate in decision.candidates]
    assert seconds == [COSTS[subnet] for subnet in SIZES]


@both_rules
def test_the_lowest_score_wins_and_the_reason_names_the_runner_up(rule: Rule) -> None:
    decision = take(rule, estimates(trend(0.1)))
    ranked = sorted(decision.candidates, key=lambda candidate: candidate.score)
    assert decision.chosen == ranked[0]
    margin = ranked[1].score / ranked[0].score - 1
    assert decision.reason.endswith(f"; {margin:+.2%} against the runner-up {ranked[1].subnet}")
    assert f"seconds^{decision.alpha:.3g}" in decision.reason


@pytest.mark.parametrize("planted", SIZES, ids=str)
def test_autoprog_picks_the_candidate_below_the_power_law(planted: SubnetConfig) -> None:
    def losses(subnet: SubnetConfig) -> float:
        return trend(0.05)(subnet) * (0.99 if subnet == planted else 1.0)

    decision = take("autoprog", estimates(losses))
    assert decision.chosen.subnet == planted
    assert decision.alpha == pytest.approx(0.05, abs=0.01)


def test_autoprog_scores_the_mean_over_the_time_points() -> None:
    rising, falling = (1.0, 2.0, 2.4), (3.0, 2.0, 1.0)
    found = [
        Estimate(subnet=STAY, losses=rising),
        Estimate(subnet=FULL, losses=falling, difference=-1.4, difference_se=0.1),
    ]
    decision = take("autoprog", found)
    assert [candidate.loss for candidate in decision.candidates] == [fmean(rising), fmean(falling)]
    assert [candidate.score for candidate in decision.candidates] == [fmean(rising), 2.0]
    assert decision.chosen.subnet == STAY
    assert decision.candidates[1].difference == -1.4


def test_autoprog_charges_what_remains_at_each_size() -> None:
    for candidate in take("autoprog", estimates(trend(0.1))).candidates:
        assert candidate.remaining_seconds == pytest.approx(7300 * COSTS[candidate.subnet])
        assert candidate.predicted_loss == candidate.loss


def test_autoprog_gives_exact_ties_to_the_cheaper() -> None:
    found = [Estimate(subnet=subnet, losses=(2.0,)) for subnet in (FULL, MIDDLE)]
    assert take("autoprog", found).chosen.subnet == MIDDLE


def test_the_rollout_goes_by_the_last_time_point() -> None:
    early = [Estimate(subnet=subnet, losses=(9.0, trend(0.1)(subnet))) for subnet in SIZES]
    decision = take("rollout", early)
    assert [candidate.loss for candidate in decision.candidates] == [
        trend(0.1)(subnet) for subnet in SIZES
    ]
    scores = [candidate.score for candidate in take("rollout", estimates(trend(0.1))).candidates]
    assert [candidate.score for candidate in decision.candidates] == scores


def test_the_rollout_grows_though_staying_has_the_lowest_loss_now() -> None:
    decision = take("rollout", estimates(trend(-0.02)), situation(learning=0.1))
    stay = decision.candidates[0]
    assert stay.loss == min(candidate.loss for candidate in decision.candidates)
    assert stay.predicted_loss == max(candidate.predicted_loss for candidate in decision.candidates)
    assert decision.chosen.label != "stay"


def test_the_rollout_stays_where_growth_buys_nothing() -> None:
    found = estimates(lambda subnet: 2.0, (STAY, FULL))
    decision = take("rollout", found, situation(learning=0.5))
    assert decision.chosen.subnet == STAY
    assert "full from step 8500" in decision.reason


def test_the_rollout_grows_where_larger_candidates_lead_clearly() -> None:
    decision = take("rollout", estimates(trend(0.3)), situation(learning=0.3))
    assert decision.chosen.subnet == FULL
    assert "full from step 2700" in decision.reason


def test_the_rollout_says_how_long_each_way_takes() -> None:
    decision = take("rollout", estimates(lambda subnet: 2.0), situation(learning=0.5))
    stay, full = decision.candidates[0], decision.candidates[-1]
    assert stay.remaining_seconds == pytest.approx(5800 * COSTS[STAY] + 1500)
    assert full.remaining_seconds == pytest.approx(7300)


def test_a_lead_below_the_noise_is_a_tie_and_ties_stay() -> None:
    """The end loss follows the estimate by its learning exponent, and so does its noise."""
    clear = take("rollout", estimates(trend(0.1)), situation(learning=0.3))
    assert clear.chosen.subnet == FULL
    lead = clear.candidates[0].score / clear.chosen.score - 1
    share = lead / 2, lead * 1.01
    noise = [amount * clear.chosen.loss / 0.3 for amount in share]
    sure, unsure = (take("rollout", estimates(trend(0.1), noise=amount)) for amount in noise)
    assert sure.chosen.subnet == FULL
    assert unsure.chosen.subnet == STAY
    assert unsure.reason.startswith(f"a tie with d12 r224 within ±{share[1]:.1%}, and ties stay")
    assert f"{-lead / (1 + lead):+.2%} against the runner-up d12 r224" in unsure.reason
    assert [c.score for c in unsure.candidates] == [c.score for c in clear.candidates]


def test_where_the_current_subnet_is_nearly_full_only_two_candidates_are_left() -> None:
    near = SubnetConfig(12, 160)
    decision = take("rollout", estimates(trend(0.1), (near, FULL)), situation(current=near))
    assert [candidate.label for candidate in decision.candidates] == ["stay", "full"]


def test_a_single_candidate_has_no_runner_up() -> None:
    decision = take("autoprog", [Estimate(subnet=FULL, losses=(2.0,))])
    assert decision.reason == "lowest loss · seconds^0; no other candidate"


def test_a_forced_decision_names_the_full_model_without_candidates() -> None:
    decision = forced_decision("rollout", SPEC, replace(situation(), index=3), "it is due")
    assert (decision.candidates, decision.forced, decision.subnet) == ((), FULL, FULL)
    assert (decision.index, decision.step, decision.epoch) == (3, 2700, 27.0)
    assert (decision.rule, decision.current, decision.reason) == ("rollout", STAY, "it is due")


def test_a_model_of_two_stages_is_decided_on_alike(two_stages: ModelSpec) -> None:
    small, full = SubnetConfig((2, 7), 112), two_stages.full
    where = replace(situation(), current=small, progress_so_far=((0.1, 2700),))
    found = [Estimate(subnet=small, losses=(2.0,)), Estimate(subnet=full, losses=(1.0,))]
    decision = decide("rollout", two_stages, where, found, {small: 0.1, full: 1.0}.__getitem__)
    assert [candidate.label for candidate in decision.candidates] == ["stay", "full"]
