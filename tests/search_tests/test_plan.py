from __future__ import annotations

import math
import re
from itertools import pairwise, product
from typing import Any

import pytest

from autoprog.errors import ConfigError
from autoprog.recipe import Recipe, resolve_recipe
from autoprog.search.plan import (
    DecisionPoint,
    SearchPlan,
    length_and_plan,
    make_plan,
    point_candidates,
)
from autoprog.settings import Rule, SearchSettings
from autoprog.space import SearchSpace, SpaceFile, find_space
from supernet.config import ModelSpec, SubnetConfig, TokenRule
from supernet.cost import relative_cost
from supernet.zoo import ZOO

EPOCH = 100
DEIT_S = SpaceFile().space(ZOO["deit-s"], "default")
RULES: tuple[Rule, ...] = ("rollout", "autoprog", "pareto", "budget")
AGAIN: tuple[Rule, ...] = ("rollout", "autoprog")
ONCE: tuple[Rule, ...] = ("pareto", "budget")
EVEN: tuple[Rule, ...] = ("rollout", "pareto", "budget")


def plan(rule: Rule, epochs: float, steps_per_epoch: int = EPOCH, **values: object) -> SearchPlan:
    decisions = {"good_visits": 2, **values}
    space = SpaceFile.model_validate({"decisions": decisions}).space(ZOO["deit-s"], "test")
    return make_plan(rule, space, steps_per_epoch, int(epochs * steps_per_epoch))


def epochs_of(found: SearchPlan) -> list[tuple[float, float]]:
    return [(point.start_step / EPOCH, point.stop_step / EPOCH) for point in found.points]


def test_a_hundred_epochs_by_autoprog() -> None:
    found = plan("autoprog", 100)
    assert epochs_of(found) == [(0, 2), (25, 27), (50, 52)]
    assert (found.full_step, found.total_steps) == (7500, 10_000)
    assert found.stage_starts == (0, 2500, 5000, 7500)


def test_a_hundred_epochs_by_rollout() -> None:
    """The steps up to the full model in nine even parts; supernets take a tenth of the run."""
    found = plan("rollout", 100)
    starts = [944, 1888, 2833, 3777, 4722, 5666, 6611, 7555]
    assert [point.start_step for point in found.points] == starts
    assert [point.stop_step for point in found.points] == [start + 125 for start in starts]
    assert (found.full_step, found.total_steps, found.supernet_steps) == (8500, 10_000, 125)


@pytest.mark.parametrize("rule", ONCE)
def test_a_decision_for_good_comes_first_and_takes_a_third_of_what_supernets_may(
    rule: Rule,
) -> None:
    (point,) = plan(rule, 100).points
    assert point == DecisionPoint(0, 944, 944 + 333, estimate_steps=(944 + 333,))


@pytest.mark.parametrize("rule", AGAIN)
def test_decisions_are_numbered_in_order(rule: Rule) -> None:
    points = plan(rule, 100).points
    assert [point.index for point in points] == list(range(len(points)))
    assert len(points) == (3 if rule == "autoprog" else 8)


def test_decisions_of_the_rollout_are_as_many_as_is_asked_for() -> None:
    assert [len(plan("rollout", 100, num_points=n).points) for n in (1, 2, 5)] == [1, 2, 5]


def test_short_runs_decide_less_often_so_that_each_subnet_is_trained_twice() -> None:
    """Sixteen subnets twice take 32 steps, of which a tenth of the run holds 3, 1 and less than one."""
    found = [plan("rollout", epochs) for epochs in (10, 5, 3)]
    assert [len(one.points) for one in found] == [3, 1, 1]
    assert [one.supernet_steps for one in found] == [33, 50, 32]


def test_decisions_are_so_few_that_each_subnet_is_trained_for_good_visits() -> None:
    """Sixteen subnets eight times take 128 steps, of which a tenth of 10,000 steps holds 7."""
    found = plan("rollout", 100, good_visits=8)
    assert (len(found.points), found.supernet_steps) == (7, 143)
    assert len(plan("rollout", 100, good_visits=100).points) == 1
    assert (
        plan("rollout", 3, good_visits=100).supernet_steps == 32
    )  # min_visits bounds it from below


def test_by_time_a_visit_counts_what_subnets_cost() -> None:
    """Beside the full model, subnets of half its cost or less make a phase of as many steps shorter."""
    space = SpaceFile().space(ZOO["deit-s"], "test")
    cost = sum(relative_cost(space.spec, subnet) for subnet in space.above(space.smallest))
    short = make_plan("rollout", space, EPOCH, 300, by_time=True)
    assert short.supernet_steps == max(math.ceil(2 * cost), 30) < 32
    most = make_plan("rollout", space, EPOCH, 10_000, by_time=True)
    assert len(most.supernet_points) == min(8, int(1000 / math.ceil(8 * cost)))


def test_by_time_a_probe_comes_before_the_first_supernet() -> None:
    space = SpaceFile().space(ZOO["deit-s"], "test")
    found = make_plan("rollout", space, EPOCH, 10_000, by_time=True)
    probe, first, *_ = found.points
    assert (probe.is_zero_step_probe, first.is_zero_step_probe) == (True, False)
    assert probe.start_step == probe.stop_step == min(8500 // 8, first.start_step - 1)
    assert [point.index for point in found.points] == list(range(len(found.points)))
    assert found.supernet_points == found.points[1:]
    assert not any(point.is_zero_step_probe for point in plan("rollout", 100).points)


def test_phases_end_before_the_next_decision_whatever_their_fraction() -> None:
    found = plan("rollout", 100, supernet_fraction=0.99)
    assert found.supernet_steps == 8500 // 9
    ends = [step for point in found.points for step in (point.start_step, point.stop_step)]
    assert ends == sorted(ends)
    (point,) = plan("pareto", 100, supernet_fraction=0.99, min_full_fraction=0.8).points
    assert point.stop_step == 2000


def test_autoprog_estimates_at_the_quarters_of_the_last_supernet_epoch() -> None:
    first, second, _ = plan("autoprog", 100).points
    assert first.estimate_steps == (100, 125, 150, 175, 200)
    assert second.estimate_steps == (2600, 2625, 2650, 2675, 2700)


def test_a_supernet_phase_of_one_epoch_is_estimated_from_its_start() -> None:
    first = plan("autoprog", 100, supernet_epochs=1).points[0]
    assert first.estimate_steps == (0, 25, 50, 75, 100)


def test_a_supernet_phase_of_few_steps_has_fewer_time_points() -> None:
    first = plan("autoprog", 100, steps_per_epoch=2, supernet_epochs=1).points[0]
    assert first == DecisionPoint(0, 0, 2, estimate_steps=(0, 1, 2))


@pytest.mark.parametrize("rule", EVEN)
def test_other_rules_estimate_once_at_the_end(rule: Rule) -> None:
    for point in plan(rule, 100).points:
        assert point.estimate_steps == (point.stop_step,)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cost_fraction", [None, 0.5])
def test_estimates_keep_to_their_fraction_of_a_run(rule: Rule, cost_fraction: float | None) -> None:
    """A forward pass is a third of a training step, the candidates cost 0.6 of the full model on average."""
    if cost_fraction is not None and rule != "rollout":
        return
    epochs, epoch_images, fraction = 100, 10_000, 0.01
    decisions = {"search_fraction": fraction, "good_visits": 2}
    space = SpaceFile.model_validate({"decisions": decisions}).space(ZOO["deit-s"], "test")
    found = make_plan(rule, space, EPOCH, epochs * EPOCH, by_time=cost_fraction is not None)
    most = space.decisions.max_candidates
    estimates = sum(
        min(most, len(grid)) + (len(point.estimate_steps) - 1) * len(grid)
        for point in found.points
        for grid in [point_candidates(rule, space, space.smallest, point.index == 0)]
    )
    budget = 90.0 if rule == "budget" else None
    search = SearchSettings(
        space=space,
        space_from="test",
        rule=rule,
        cost_fraction=cost_fraction,
        budget_seconds=budget,
    )
    images = search.images_to_estimate(epochs * epoch_images)
    assert 64 < images < space.decisions.estimate_images
    assert estimates * images * 0.6 / 3 <= fraction * epochs * epoch_images


def test_pieces_start_at_whole_epochs() -> None:
    """AutoProg starts stage k at floor(k · E / K)."""
    assert plan("autoprog", 30, num_stages=4).stage_starts == (0, 700, 1500, 2200)


def test_runs_below_eight_epochs_are_cut_at_steps() -> None:
    assert plan("autoprog", 6, num_stages=4, supernet_epochs=0.5).stage_starts == (0, 150, 300, 450)
    assert plan("rollout", 6).full_step == 510


def test_a_larger_fraction_of_the_full_model_leaves_out_late_decisions() -> None:
    by_autoprog = plan("autoprog", 100, min_full_fraction=0.5)
    assert epochs_of(by_autoprog) == [(0, 2), (25, 27)]
    assert by_autoprog.full_step == 5000


def test_a_larger_fraction_of_the_full_model_brings_the_decisions_of_the_rollout_closer() -> None:
    found = plan("rollout", 100, min_full_fraction=0.6)
    assert found.full_step == 4000
    assert [point.start_step for point in found.points] == [n * 4000 // 9 for n in range(1, 9)]
    assert found.points[-1].stop_step <= 4000


def test_a_supernet_phase_may_fill_the_time_between_decisions() -> None:
    found = plan("autoprog", 8, supernet_epochs=2)
    assert epochs_of(found) == [(0, 2), (2, 4), (4, 6)]
    assert found.full_step == 600


def test_a_supernet_phase_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        plan("autoprog", 8, supernet_epochs=2.5)
    assert str(refused.value) == (
        "--space: decisions.supernet_epochs: must fit between two decisions, which are 2 epochs apart,"
        " but got 2.5; train longer, lower it, or decide less often (num_stages)"
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_fraction_of_the_full_model_that_leaves_no_decision_is_refused(rule: Rule) -> None:
    steps, fraction = (200, 0.99) if rule == "autoprog" else (32, 0.995)
    with pytest.raises(ConfigError) as refused:
        plan(rule, 100, min_full_fraction=fraction)
    assert str(refused.value) == (
        f"--space: decisions.min_full_fraction: must leave {steps} steps for a supernet phase before the"
        f" full model, but got {fraction}; lower it, train longer, or make the space smaller"
    )


def test_a_run_too_short_to_decide_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="must fit between two decisions"):
        plan("autoprog", 0.02)
    for rule in EVEN:
        with pytest.raises(ConfigError, match="must leave 32 steps for a supernet phase"):
            plan(rule, 0.3)


def test_the_piece_of_a_step_is_the_last_that_has_started() -> None:
    found = plan("autoprog", 100)
    assert [found.stage_at(step) for step in (0, 2499, 2500, 7499, 7500, 9999)] == [
        0, 0, 1, 2, 3, 3,
    ]  # fmt: skip


def made_plans(rule: Rule) -> list[tuple[SearchPlan, float]]:
    """Return plans of all kinds of runs, each with the fraction of the steps that supernets may take."""
    plans = []
    for epochs, steps_per_epoch, stages, fraction, supernet, points in product(
        (3, 8, 21.5, 100), (1, 7, 50), (2, 5), (0.05, 0.15, 0.4, 0.9), (0.05, 0.3, 0.9), (1, 8)
    ):
        try:
            found = plan(
                rule,
                epochs,
                steps_per_epoch,
                num_stages=stages,
                min_full_fraction=fraction,
                supernet_epochs=supernet,
                supernet_fraction=supernet,
                num_points=points,
            )
        except ConfigError:
            continue
        assert len(found.points) <= max(points, stages - 1)
        assert found.total_steps - found.full_step >= fraction * found.total_steps - 1e-6
        plans.append((found, supernet))
    assert len(plans) > 100
    return plans


@pytest.mark.parametrize("rule", RULES)
def test_every_plan_keeps_its_laws(rule: Rule) -> None:
    for found, _ in made_plans(rule):
        ends = [step for point in found.points for step in (point.start_step, point.stop_step)]
        assert [*ends, found.full_step] == sorted([*ends, found.full_step])
        for point in found.points:
            steps = point.estimate_steps
            assert list(steps) == sorted(set(steps))
            assert point.start_step <= steps[0]
            assert steps[-1] == point.stop_step > point.start_step
            assert rule != "autoprog" or found.stage_at(point.start_step) == point.index


@pytest.mark.parametrize("rule", EVEN)
def test_every_even_plan_spreads_its_decisions_and_trains_each_subnet_twice(rule: Rule) -> None:
    for found, fraction in made_plans(rule):
        starts = [point.start_step for point in found.points]
        gaps = [b - a for a, b in pairwise([0, *starts, found.full_step])]
        if rule == "rollout":
            assert max(gaps) - min(gaps) <= 1
        else:
            assert len(starts) == 1
        lengths = {point.stop_step - point.start_step for point in found.points}
        assert lengths == {found.supernet_steps}
        assert found.supernet_steps >= 32
        rounding = len(starts)
        assert found.supernet_steps == 32 or (
            found.supernet_steps * len(starts) <= fraction * found.total_steps + rounding
        )


@pytest.mark.parametrize("rule", EVEN)
def test_staying_and_the_full_model_are_always_candidates(rule: Rule) -> None:
    for current in DEIT_S.above(DEIT_S.smallest):
        grid = point_candidates(rule, DEIT_S, current, first=False)
        assert (grid[0], grid[-1]) == (current, DEIT_S.spec.full)
        assert all(current.within(subnet) for subnet in grid)


@pytest.mark.parametrize("rule", EVEN)
def test_a_run_may_grow_to_anything_from_the_start(rule: Rule) -> None:
    grid = point_candidates(rule, DEIT_S, DEIT_S.smallest, first=True)
    assert set(grid) == {
        SubnetConfig(depth, size)
        for depth, size in product((6, 8, 10, 12), (112, 144, 192, 224))
    }  # fmt: skip


def test_keep_rates_are_an_axis_of_the_candidates() -> None:
    axes = {"keep_rate": {"values": [0.5, 1.0], "by": "random"}}
    space = SpaceFile.model_validate({"axes": axes}).space(ZOO["deit-s"], "test")
    grid = point_candidates("rollout", space, space.smallest, first=True)
    assert len(grid) == 32
    assert grid[0] == SubnetConfig(6, 112, TokenRule(0.5, "random"))
    assert grid[-1] == space.spec.full


def test_autoprog_first_decides_between_the_first_middle_and_last_of_each_axis() -> None:
    grid = point_candidates("autoprog", DEIT_S, DEIT_S.smallest, first=True)
    assert grid == tuple(
        SubnetConfig(depth, size) for depth in (6, 10, 12) for size in (112, 192, 224)
    )


def test_autoprog_first_decides_between_both_of_two_values() -> None:
    space = DEIT_S.model_copy(update={"depths": ((6,), (12,)), "sizes": (224,)})
    grid = point_candidates("autoprog", space, space.smallest, first=True)
    assert grid == (SubnetConfig(6, 224), SubnetConfig(12, 224))


@pytest.mark.parametrize(
    ("current", "depths", "sizes"),
    [
        (SubnetConfig(6, 112), (8, 10, 12), (112, 144)),
        (SubnetConfig(8, 144), (10, 12), (144, 192)),
        (SubnetConfig(10, 224), (12,), (224,)),
        (SubnetConfig(12, 112), (12,), (112, 144)),
    ],
    ids=str,
)
def test_autoprog_later_must_grow_deeper_until_it_is_full(
    current: SubnetConfig, depths: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    grid = point_candidates("autoprog", DEIT_S, current, first=False)
    assert grid == tuple(SubnetConfig(depth, size) for depth in depths for size in sizes)


def test_autoprog_takes_at_most_three_depths() -> None:
    file = SpaceFile.model_validate({"axes": {"depth": {"values": [6, 7, 8, 9, 10, 12]}}})
    space = file.space(ZOO["deit-s"], "test")
    grid = point_candidates("autoprog", space, SubnetConfig(6, 224), first=False)
    assert [subnet.depth for subnet in grid] == [(7,), (8,), (9,)]


def test_the_stages_of_a_model_grow_together(two_stages: ModelSpec) -> None:
    space: SearchSpace = SpaceFile().space(two_stages, "default")
    for rule in RULES:
        grid = point_candidates(rule, space, space.smallest, first=False)
        assert all(subnet.within(grid[-1]) for subnet in grid)
        assert len(grid[-1].depth) == 2


# --- A search that is too short is refused at once, and the advice that comes with it works.


def refusal(search: SearchSettings, recipe: Recipe, num_images: int) -> str:
    with pytest.raises(ConfigError) as refused:
        length_and_plan(search, recipe, num_images)
    return str(refused.value)


def search_of(
    model: str = "deit-s",
    rule: Rule = "rollout",
    cost_fraction: float | None = 0.5,
    **decisions: Any,
) -> SearchSettings:
    file, where = find_space(None, model)
    body = file.model_dump(by_alias=True)
    body["decisions"] |= decisions
    space = SpaceFile.model_validate(body).space(ZOO[model], where)
    return SearchSettings(space=space, space_from=where, rule=rule, cost_fraction=cost_fraction)


def recipe_of(epochs: float, batch_size: int) -> Recipe:
    layer = {"epochs": epochs, "batch_size": batch_size}
    return resolve_recipe("small-data", ("test", layer))


@pytest.mark.parametrize(
    ("num_images", "epochs", "batch_size"),
    [(587, 4, 128), (587, 4, 512), (100, 1, 64), (1437, 1.5, 64), (40, 30, 128), (5000, 0.1, 256)],
)
@pytest.mark.parametrize(
    ("rule", "cost_fraction"),
    [("rollout", 0.5), ("rollout", None), ("rollout", 0.1), ("autoprog", None), ("pareto", None)],
)
def test_whoever_takes_the_advice_can_search(
    num_images: int, epochs: float, batch_size: int, rule: Rule, cost_fraction: float | None
) -> None:
    search, recipe = (
        search_of(rule=rule, cost_fraction=cost_fraction),
        recipe_of(epochs, batch_size),
    )
    try:
        length_and_plan(search, recipe, num_images)
    except ConfigError as error:
        said = str(error)
    else:
        return
    assert re.match(r"search: \d+ steps( of the full model)? are too few to search; take --", said)
    assert "--space" not in said
    advised = dict(re.findall(r"--(epochs|batch-size) (\d+)", said))
    assert advised.keys() & {"epochs"}
    assert float(advised["epochs"]) > epochs
    for flag, value in advised.items():
        changed = recipe.model_copy(update={flag.replace("-", "_"): int(value)})
        length_and_plan(search, changed, num_images)


def test_few_photographs_and_few_epochs_are_told_so() -> None:
    said = refusal(search_of(), recipe_of(4, 128), 587)
    assert said == (
        "search: 10 steps of the full model are too few to search; take --epochs 17 or --batch-size 16"
    )


def test_the_epochs_advised_are_the_fewest() -> None:
    search, num_images = search_of(), 587
    said = refusal(search, recipe_of(4, 128), num_images)
    (epochs,) = re.findall(r"--epochs (\d+)", said)
    refusal(search, recipe_of(int(epochs) - 1, 128), num_images)


@pytest.mark.parametrize(
    ("rule", "decisions", "flag"),
    [
        ("rollout", {"min_full_fraction": 0.9}, "--min-full-fraction"),
        ("autoprog", {"supernet_epochs": 3.0}, "--supernet-epochs"),
    ],
)
def test_a_value_that_leaves_no_room_is_named_by_its_flag(
    rule: Rule, decisions: dict[str, float], flag: str
) -> None:
    recipe = recipe_of(10, 64)
    search = search_of(rule=rule, cost_fraction=None, **decisions)
    said = refusal(search, recipe, 1437)
    (value,) = re.findall(rf"{flag} ([\d.]+)", said)
    name = flag[2:].replace("-", "_")
    length_and_plan(
        search_of(rule=rule, cost_fraction=None, **{**decisions, name: float(value)}), recipe, 1437
    )


def test_a_shipped_space_that_does_not_fit_the_size_names_one_that_does() -> None:
    file, where = find_space(None, "vit-xs")
    with pytest.raises(ConfigError, match="take --space default"):
        file.space(ZOO["vit-xs"].with_img_size(48), where)
    find_space("default", "vit-xs")[0].space(ZOO["vit-xs"].with_img_size(48), "default")
