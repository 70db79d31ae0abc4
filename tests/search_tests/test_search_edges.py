from __future__ import annotations

from typing import Any

import pytest

from autoprog.events import Decided, Estimated, Evaluated, Grown, StageStarted, SupernetStarted
from autoprog.settings import Rule
from autoprog.train import trainer as entry_module
from autoprog.train.step import Stepper
from supernet.config import Slots, SubnetConfig, TokenRule
from supernet.depthmap import skip_lists

FULL = SubnetConfig(4, 16)
EPOCH, TOTAL = 8, 64
both_rules = pytest.mark.parametrize("rule", ["rollout", "autoprog"])


@pytest.fixture
def compacted(monkeypatch: pytest.MonkeyPatch) -> list[Slots]:
    """The slots of each compaction that is carried out."""
    found: list[Slots] = []
    compact = entry_module.compact

    def noting(model: Any, averages: Any, optimizer: Any, slots: Slots) -> None:
        found.append(slots)
        compact(model, averages, optimizer, slots)

    monkeypatch.setattr(entry_module, "compact", noting)
    return found


def search(lab: Any, rule: Rule, space: Any, **more: Any) -> Any:
    return lab.search(lab.settings(rule, space=space, costs=lab.costs(), **more))


def sizes_of(attempt: Any) -> list[tuple[Any, Any]]:
    return [(stage.depth, stage.img_size) for stage in attempt.best.stages]


def assert_trained_as_written(attempt: Any) -> None:
    trainer = attempt.trainer
    epochs = trainer.total_steps / trainer.steps_per_epoch
    table = attempt.best.resolve(trainer.steps_per_epoch, epochs)
    for event in attempt.of(StageStarted):
        segment = table.at(event.step)
        assert (event.stage, event.subnet) == (segment.stage, segment.subnet)
        assert event.curriculum == segment.curriculum
    assert table.total_steps == trainer.step == trainer.total_steps


@both_rules
def test_where_all_depths_are_full_only_the_size_grows(
    lab: Any, rule: Rule, compacted: list[Slots]
) -> None:
    lab.script = {0: SubnetConfig(4, 8), 1: SubnetConfig(4, 12)}
    attempt = search(lab, rule, lab.space(depths=[4]))
    assert attempt.of(Grown) == []
    assert set(compacted) <= {((0, 1, 2, 3),)}
    for decision in attempt.run.decisions[:-1]:
        assert {candidate.subnet.depth for candidate in decision.candidates} == {(4,)}
    assert sizes_of(attempt)[0] == (4, 8)
    assert (4, 12) in sizes_of(attempt)
    assert sizes_of(attempt)[-1] == (4, 16)
    assert_trained_as_written(attempt)


@both_rules
def test_where_all_sizes_are_full_only_the_depth_grows(lab: Any, rule: Rule) -> None:
    lab.script = {0: SubnetConfig(1, 16), 1: SubnetConfig(3, 16)}
    attempt = search(lab, rule, lab.space(sizes=[16]))
    assert {subnet.img_size for subnet in attempt.trainer.steps_by_subnet} == {16}
    assert sizes_of(attempt) == [(1, 16), (3, 16), (4, 16)]
    assert_trained_as_written(attempt)


@both_rules
def test_where_the_smallest_is_the_full_model_nothing_is_decided(lab: Any, rule: Rule) -> None:
    attempt = search(lab, rule, lab.space(depths=[4], sizes=[16]))
    assert attempt.of(SupernetStarted) == attempt.of(Decided) == []
    assert attempt.run.decisions == ()
    assert sizes_of(attempt) == [(4, 16)]
    assert attempt.trainer.steps_by_subnet == {FULL: TOTAL}
    assert attempt.run.result is not None


@pytest.mark.parametrize(
    ("rule", "decisions", "script"),
    [
        (
            "autoprog",
            {"supernet_epochs": 2},
            {0: SubnetConfig(1, 8), 1: SubnetConfig(2, 8), 2: SubnetConfig(3, 12)},
        ),
        ("rollout", {"min_full_fraction": 0.375}, {0: SubnetConfig(2, 8), 1: SubnetConfig(3, 8)}),
    ],
)
def test_a_winner_is_extracted_though_the_next_change_follows_at_once(
    lab: Any,
    compacted: list[Slots],
    rule: Rule,
    decisions: dict[str, Any],
    script: dict[int, SubnetConfig],
) -> None:
    """Supernet phases fill the time between decisions, or reach to where the model must be full."""
    lab.script = script
    attempt = search(lab, rule, lab.space(**decisions))
    taken = attempt.run.decisions[:-1]
    expected = [
        skip_lists(
            decision.current.depth,
            max(candidate.subnet.depth for candidate in decision.candidates),
            decision.subnet.depth,
        )
        for decision in taken
    ]
    assert [decision.subnet for decision in taken] == list(script.values())
    assert compacted == expected
    assert any(slots != (tuple(range(len(slots[0]))),) for slots in compacted)
    before = [event.before for event in attempt.of(Grown)]
    assert before[-1] == taken[-1].subnet
    assert_trained_as_written(attempt)


@pytest.mark.slow
def test_a_stop_where_one_supernet_follows_another_changes_nothing(lab: Any) -> None:
    lab.script = {0: SubnetConfig(1, 8), 1: SubnetConfig(2, 8), 2: SubnetConfig(3, 12)}
    space = lab.space(supernet_epochs=2)
    settings = lab.settings("autoprog", space=space, costs=lab.costs())
    straight = lab.search(settings, name="straight")
    for step in (32, 33):
        assert lab.search(settings, stop_at=step).interrupted
    resumed = lab.search(settings)
    assert resumed.run.decisions == straight.run.decisions
    assert all(w.equal(straight.weights[key]) for key, w in resumed.weights.items())


def test_staying_continues_the_stage(lab: Any) -> None:
    stay = SubnetConfig(1, 8)
    lab.script = {0: stay, 1: stay}
    attempt = search(lab, "rollout", lab.space())
    assert [decision.chosen.label for decision in attempt.run.decisions[:-1]] == ["stay", "stay"]
    assert [(s.depth, s.img_size, s.length) for s in attempt.best.stages] == [
        (1, 8, 6.0),
        (4, 16, 2.0),
    ]
    begun = [(event.step, event.stage) for event in attempt.of(StageStarted)]
    assert begun == [(0, 0), (24, 0), (40, 0), (48, 1)]
    assert_trained_as_written(attempt)


STRONG = {"drop_path": 0.2, "aa": "rand-m6", "reprob": 0.3}


def test_a_full_winner_ends_the_search_but_not_the_ramp_of_regularisation(lab: Any) -> None:
    lab.script = {0: FULL}
    attempt = search(lab, "rollout", lab.space(), recipe=STRONG)
    assert [decision.subnet for decision in attempt.run.decisions] == [FULL]
    assert sizes_of(attempt) == [(1, 8), (4, 16), (4, 16), (4, 16)]
    stages = attempt.best.stages
    assert [stage.curriculum.reprob for stage in stages] == [0.0, 0.1, 0.2, 0.3]
    assert [stage.curriculum.randaug for stage in stages] == [3, 4, 5, 6]
    assert stages[-1].curriculum.drop_path == 0.2
    assert attempt.of(Estimated)[-1].step == 24
    assert_trained_as_written(attempt)


@pytest.mark.parametrize(
    ("rule", "in_supernets"), [("rollout", [0.1, 0.2]), ("autoprog", [0.3, 0.3, 0.3])]
)
def test_each_stage_has_the_regularisation_of_its_piece(
    lab: Any, rule: Rule, in_supernets: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """AutoProg's supernets train under the full regularisation, the roll-out's under their piece's."""
    seen: dict[int, float] = {}
    regularise = Stepper.regularise

    def noting(stepper: Any, phase: Any, *rest: Any) -> None:
        if phase.kind == "supernet":
            seen[phase.start_step // EPOCH] = phase.curriculum.reprob
        regularise(stepper, phase, *rest)

    monkeypatch.setattr(Stepper, "regularise", noting)
    lab.script = {0: SubnetConfig(1, 8), 1: SubnetConfig(2, 8), 2: SubnetConfig(3, 8)}
    attempt = search(lab, rule, lab.space(), recipe=STRONG)
    assert list(seen.values()) == in_supernets
    assert [stage.curriculum.reprob for stage in attempt.best.stages] == [0.0, 0.1, 0.2, 0.3]
    assert_trained_as_written(attempt)


@both_rules
def test_a_run_of_few_epochs_is_cut_at_steps(lab: Any, rule: Rule) -> None:
    space = lab.space(supernet_epochs=0.25)
    attempt = search(lab, rule, space, recipe={"epochs": 3.0})
    assert attempt.trainer.step == 24
    assert attempt.of(Evaluated)[-1].step == 24
    assert_trained_as_written(attempt)


def test_other_ways_to_grow_are_carried_out(lab: Any, compacted: list[Slots]) -> None:
    lab.script = {0: SubnetConfig(1, 8), 1: SubnetConfig(2, 8), 2: SubnetConfig(3, 8)}
    grow = {"init": "zero", "placement": "stack", "optimizer_state": "fresh"}
    attempt = search(lab, "autoprog", lab.space(grow=grow))
    assert {(e.init, e.placement, e.optimizer_state) for e in attempt.of(Grown)} == {
        ("zero", "stack", "fresh")
    }
    assert compacted[-1] == skip_lists((2,), (4,), (3,), "stack")
    assert {stage.grow.placement for stage in attempt.best.stages} == {"stack"}
    assert_trained_as_written(attempt)


def test_keep_rates_grow_like_any_axis(lab: Any) -> None:
    half, most = TokenRule(0.5), TokenRule(0.75)
    script = {0: SubnetConfig(2, 16, half), 1: SubnetConfig(4, 16, most)}
    lab.script = script
    space = lab.space(depths=[2, 4], sizes=[16], rates=[0.5, 0.75, 1.0])
    attempt = search(lab, "rollout", space)
    first, second = attempt.of(SupernetStarted)
    assert set(first.candidates) == set(space.above(space.smallest))
    assert len(first.candidates) == 6
    decisions = attempt.run.decisions
    assert [decision.subnet for decision in decisions] == [*script.values(), FULL]
    assert {candidate.subnet for candidate in decisions[0].candidates} == set(first.candidates)
    assert all(script[0].within(subnet) for subnet in second.candidates)
    tokens = [(s.depth, s.tokens.keep_rate) for s in attempt.best.stages]
    assert tokens == [(2, 0.5), (4, 0.75), (4, 1.0)]
    trained = attempt.trainer.steps_by_subnet
    assert trained[script[0]] >= 16
    assert trained[SubnetConfig(4, 16, half)] > 0
    assert_trained_as_written(attempt)
