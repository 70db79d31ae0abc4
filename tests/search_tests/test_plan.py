from __future__ import annotations

from itertools import product

import pytest

from autoprog.errors import ConfigError
from autoprog.search.plan import DecisionPoint, SearchPlan, make_plan, point_candidates
from autoprog.settings import Rule
from autoprog.space import Decisions, SearchSpace, SpaceFile
from supernet.config import ModelSpec, SubnetConfig
from supernet.zoo import ZOO

EPOCH = 100
DEIT_S = SpaceFile().space(ZOO["deit-s"], "default")
RULES: tuple[Rule, ...] = ("rollout", "autoprog")


def plan(rule: Rule, epochs: float, steps_per_epoch: int = EPOCH, **values: object) -> SearchPlan:
    decisions = Decisions.model_validate(values)
    return make_plan(rule, decisions, steps_per_epoch, int(epochs * steps_per_epoch))


def epochs_of(found: SearchPlan) -> list[tuple[float, float]]:
    return [(point.start_step / EPOCH, point.stop_step / EPOCH) for point in found.points]


def test_a_hundred_epochs_by_autoprog() -> None:
    found = plan("autoprog", 100)
    assert epochs_of(found) == [(0, 2), (25, 27), (50, 52)]
    assert (found.full_step, found.total_steps) == (7500, 10_000)
    assert found.piece_starts == (0, 2500, 5000, 7500)
    assert [point.piece for point in found.points] == [0, 1, 2]


def test_a_hundred_epochs_by_rollout() -> None:
    found = plan("rollout", 100)
    assert epochs_of(found) == [(25, 27), (50, 52), (75, 77)]
    assert (found.full_step, found.total_steps) == (8500, 10_000)
    assert [point.piece for point in found.points] == [1, 2, 3]


@pytest.mark.parametrize("rule", RULES)
def test_decisions_are_numbered_in_order(rule: Rule) -> None:
    assert [point.index for point in plan(rule, 100).points] == [0, 1, 2]


def test_autoprog_estimates_at_the_quarters_of_the_last_supernet_epoch() -> None:
    first, second, _ = plan("autoprog", 100).points
    assert first.estimate_steps == (100, 125, 150, 175, 200)
    assert second.estimate_steps == (2600, 2625, 2650, 2675, 2700)


def test_a_supernet_phase_of_one_epoch_is_estimated_from_its_start() -> None:
    first = plan("autoprog", 100, supernet_epochs=1).points[0]
    assert first.estimate_steps == (0, 25, 50, 75, 100)


def test_a_supernet_phase_of_few_steps_has_fewer_time_points() -> None:
    first = plan("autoprog", 100, steps_per_epoch=2, supernet_epochs=1).points[0]
    assert first == DecisionPoint(0, 0, 0, 2, estimate_steps=(0, 1, 2))


def test_the_rollout_estimates_once_at_the_end() -> None:
    assert [point.estimate_steps for point in plan("rollout", 100).points] == [
        (2700,),
        (5200,),
        (7700,),
    ]


def test_pieces_start_at_whole_epochs() -> None:
    """AutoProg starts stage k at floor(k · E / K)."""
    assert plan("autoprog", 30, num_stages=4).piece_starts == (0, 700, 1500, 2200)


def test_runs_below_eight_epochs_are_cut_at_steps() -> None:
    assert plan("autoprog", 6, num_stages=4, supernet_epochs=0.5).piece_starts == (0, 150, 300, 450)
    assert plan("rollout", 6, num_stages=4, supernet_epochs=0.5).full_step == 510


def test_a_larger_share_of_the_full_model_leaves_out_late_decisions() -> None:
    by_autoprog = plan("autoprog", 100, min_full_share=0.5)
    assert epochs_of(by_autoprog) == [(0, 2), (25, 27)]
    assert by_autoprog.full_step == 5000
    by_rollout = plan("rollout", 100, min_full_share=0.6)
    assert epochs_of(by_rollout) == [(25, 27)]
    assert by_rollout.full_step == 4000


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


def test_a_decision_without_time_before_the_full_model_is_due_is_left_out() -> None:
    found = plan("rollout", 10, num_stages=4)
    assert epochs_of(found) == [(2, 4), (5, 7)]
    assert found.full_step == 800


def test_a_plan_without_any_decision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"which are 1 epochs apart, but got 2\.0"):
        plan("rollout", 4, num_stages=2, min_full_share=0.25)


@pytest.mark.parametrize("share", [0.75, 0.9])
def test_a_share_of_the_full_model_that_leaves_no_decision_is_refused(share: float) -> None:
    with pytest.raises(ConfigError) as refused:
        plan("rollout", 100, min_full_share=share)
    assert str(refused.value) == (
        "--space: decisions.min_full_share: must be below 0.75, to leave time for a decision,"
        f" but got {share}"
    )


def test_a_run_too_short_to_decide_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="must fit between two decisions"):
        plan("autoprog", 0.02)


def test_the_piece_of_a_step_is_the_last_that_has_started() -> None:
    found = plan("autoprog", 100)
    assert [found.piece_at(step) for step in (0, 2499, 2500, 7499, 7500, 9999)] == [
        0, 0, 1, 2, 3, 3,
    ]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_every_plan_keeps_its_laws(rule: Rule) -> None:
    made = 0
    for epochs, steps_per_epoch, stages, share, supernet in product(
        (3, 8, 21.5, 100), (1, 7, 50), (2, 3, 5), (0.05, 0.15, 0.4), (0.3, 1, 2)
    ):
        try:
            found = plan(
                rule,
                epochs,
                steps_per_epoch,
                num_stages=stages,
                min_full_share=share,
                supernet_epochs=supernet,
            )
        except ConfigError:
            continue
        made += 1
        ends = [step for point in found.points for step in (point.start_step, point.stop_step)]
        assert [*ends, found.full_step] == sorted([*ends, found.full_step])
        assert found.total_steps - found.full_step >= share * found.total_steps - 1e-6
        for point in found.points:
            steps = point.estimate_steps
            assert list(steps) == sorted(set(steps))
            assert point.start_step <= steps[0]
            assert steps[-1] == point.stop_step > point.start_step
    assert made > 100


def test_staying_and_the_full_model_are_always_candidates_of_the_rollout() -> None:
    for current in DEIT_S.above(DEIT_S.smallest):
        grid = point_candidates("rollout", DEIT_S, current, first=False)
        assert (grid[0], grid[-1]) == (current, DEIT_S.spec.full)
        assert all(current.within(subnet) for subnet in grid)


def test_the_rollout_may_grow_to_anything_from_the_start() -> None:
    grid = point_candidates("rollout", DEIT_S, DEIT_S.smallest, first=True)
    assert set(grid) == {
        SubnetConfig(depth, size)
        for depth, size in product((6, 8, 10, 12), (112, 144, 192, 224))
    }  # fmt: skip


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
