from __future__ import annotations

import json
import shutil
import time
from itertools import pairwise
from typing import Any

import optuna
import pytest
import timm
import torch
from optuna.trial import TrialState

from autoprog.data.image_sources import stratified_holdout
from autoprog.decisions import Decision
from autoprog.events import (
    CheckpointSaved,
    CostsKnown,
    Decided,
    Estimated,
    Evaluated,
    Grown,
    RunFinished,
    RunStarted,
    StageStarted,
    StepLogged,
    SupernetStarted,
    WarningRaised,
)
from autoprog.runs import load_run
from autoprog.schedule import load_schedule
from autoprog.search.controller.storage import open_journal
from autoprog.train.evaluate import evaluate
from autoprog.train.phase import plain_choice
from supernet.config import SubnetConfig
from supernet.depthmap import skip_lists

FULL = SubnetConfig(4, 16)
EPOCH, TOTAL = 8, 64
TEXTS = ["run.yaml", "schedule.yaml", "best.yaml", "costs.json", "decisions.jsonl", "events.jsonl"]
CHECKPOINTS = ["last.pt", "previous.pt", "final.safetensors", "final_ema.safetensors"]
LEFT = [*TEXTS, "search.journal", "result.json", *(f"checkpoints/{name}" for name in CHECKPOINTS)]
STARTS = {"rollout": [16, 32], "autoprog": [0, 16, 32]}


def rule_of(observed: Any) -> str:
    return str(observed.attempt.searcher.search.rule)


def decisions_of(observed: Any) -> tuple[Decision, ...]:
    found: tuple[Decision, ...] = observed.attempt.run.decisions
    return found


def phases_of_decisions(observed: Any) -> list[tuple[int, int, Decision]]:
    """First and last step of each supernet phase, and what was decided at its end."""
    starts = STARTS[rule_of(observed)]
    return [
        (start, start + EPOCH, decision)
        for start, decision in zip(starts, decisions_of(observed), strict=False)
    ]


def test_events_come_in_order(observed: Any) -> None:
    by_rollout = rule_of(observed) == "rollout"
    stage = [StageStarted, CheckpointSaved, Evaluated, CheckpointSaved]
    estimates = [Estimated] * (1 if by_rollout else 5)
    decision = [SupernetStarted, Grown, *estimates, Decided, *stage]
    begin = [RunStarted, CostsKnown, *(stage if by_rollout else [])]
    full = [Decided, Grown] if by_rollout else [Decided]
    decisions = decision * len(STARTS[rule_of(observed)])
    expected = [*begin, *decisions, *full, *stage, RunFinished]
    aside = (StepLogged, WarningRaised)
    kinds = [type(event) for event in observed.attempt.events if not isinstance(event, aside)]
    assert kinds == expected
    steps = [event.step for event in observed.attempt.events]
    assert steps == sorted(steps)


def test_decisions_are_taken_where_the_plan_says(observed: Any) -> None:
    ends = [start + EPOCH for start in STARTS[rule_of(observed)]]
    assert [decision.step for decision in decisions_of(observed)] == [*ends, 48]
    begins = [event.step for event in observed.attempt.of(SupernetStarted)]
    assert begins == STARTS[rule_of(observed)]


def test_everything_that_a_run_leaves_is_there(observed: Any) -> None:
    folder = observed.attempt.path
    for name in LEFT:
        assert (folder / name).stat().st_size > 0, name


def test_the_best_schedule_loads_and_ends_full(observed: Any) -> None:
    best = load_schedule(observed.attempt.path / "best.yaml")
    assert best == load_schedule(observed.attempt.path / "schedule.yaml")
    assert (best.stages[-1].depth, best.stages[-1].img_size) == (4, 16)
    assert sum(stage.length for stage in best.stages) == 8.0  # type: ignore[misc]
    found_by = best.found_by
    assert found_by is not None
    assert (found_by.run, found_by.rule, found_by.seed) == ("run", rule_of(observed), 0)
    assert (observed.attempt.path / found_by.costs).exists()


def test_the_best_schedule_is_what_was_decided(observed: Any) -> None:
    stages = [(stage.depth, stage.img_size) for stage in observed.attempt.best.stages]
    decided = [(d.subnet.total_depth, d.subnet.img_size) for d in decisions_of(observed)]
    first = {"rollout": [(1, 8)], "autoprog": []}[rule_of(observed)]
    assert stages == first + decided
    assert [stage.length for stage in observed.attempt.best.stages] == [2.0] * 4


def test_the_best_schedule_is_what_was_trained(observed: Any) -> None:
    table = observed.attempt.best.resolve(EPOCH, TOTAL / EPOCH)
    for event in observed.attempt.of(StageStarted):
        segment = table.at(event.step)
        assert (event.stage, event.subnet) == (segment.stage, segment.subnet)
        assert event.stop_step == segment.stop_step
        assert event.curriculum == segment.curriculum
    stages = [event.stage for event in observed.attempt.of(StageStarted)]
    assert stages == [segment.stage for segment in table.segments]
    outside = {
        step for start, stop, _ in phases_of_decisions(observed) for step in range(start, stop)
    }
    for step, choice, slots in observed.trained:
        if step not in outside:
            subnet = table.at(step).subnet
            assert choice.subnet == subnet
            assert slots == choice.slots == (tuple(range(subnet.total_depth)),)


def test_every_step_is_trained_once(observed: Any) -> None:
    assert [step for step, _, _ in observed.trained] == list(range(TOTAL))
    assert observed.attempt.trainer.step == TOTAL
    assert sum(observed.attempt.trainer.steps_by_subnet.values()) == TOTAL


def test_a_supernet_phase_trains_each_candidate_as_often(observed: Any) -> None:
    for event in observed.attempt.of(SupernetStarted):
        steps = range(event.step, event.stop_step)
        trained = [choice.subnet for step, choice, _ in observed.trained if step in steps]
        assert set(trained) <= set(event.candidates)
        assert max(map(trained.count, trained)) <= -(-EPOCH // len(event.candidates)) + 1


def test_slots_that_are_trained_and_estimated_are_those_that_are_extracted(observed: Any) -> None:
    """The AutoProg release trains one network and extracts another from its second stage on."""
    extracted = dict(observed.compacted)
    checked = 0
    for start, stop, decision in phases_of_decisions(observed):
        winner, current = decision.subnet, decision.current
        top = max(candidate.subnet.depth for candidate in decision.candidates)
        expected = skip_lists(current.depth, top, winner.depth)
        estimated = {
            choice.slots
            for step, choice in observed.estimated
            if start <= step <= stop and choice.subnet == winner
        }
        trained = {
            choice.slots
            for step, choice, _ in observed.trained
            if start <= step < stop and choice.subnet.depth == winner.depth
        }
        assert extracted[stop] == expected
        assert estimated == {expected}
        assert trained <= {expected}
        checked += len(trained)
    assert checked > 0
    assert len(extracted) == len(STARTS[rule_of(observed)])


def test_skipped_slots_were_in_play(observed: Any) -> None:
    """Otherwise the test above would compare first slots only."""
    assert any(slots[0] != tuple(range(len(slots[0]))) for _, slots in observed.compacted)


def test_the_winner_is_the_same_network_after_compaction(observed: Any) -> None:
    networks = 3  # online and two averages
    assert len(observed.logits_around_compaction) == networks * len(observed.compacted)
    for before, after in observed.logits_around_compaction:
        assert before.equal(after)
    online = observed.logits_around_compaction[::networks]
    assert all(not one[0].equal(two[0]) for one, two in pairwise(online))


def test_held_out_images_are_trained_on_only_after_the_last_estimate(observed: Any) -> None:
    trainer = observed.attempt.trainer
    targets = trainer.data._train.targets
    _, held = stratified_holdout(targets, trainer.settings.seed, cap=2500)
    last = phases_of_decisions(observed)[-1][1]

    def trained_on(steps: range) -> set[int]:
        return {index for step in steps for index in observed.samples[step]}

    assert len(held) == 6
    assert trained_on(range(last)).isdisjoint(held)
    assert trained_on(range(last, last + EPOCH)) >= set(held)
    assert trained_on(range(TOTAL)) == set(range(len(targets)))


def test_costs_are_on_disk_before_a_decision_uses_them(observed: Any) -> None:
    assert len(observed.costs_at_decisions) >= len(STARTS[rule_of(observed)])
    for asked, on_disk in observed.costs_at_decisions:
        assert asked
        assert asked <= set(on_disk)


def test_given_costs_are_what_decisions_go_by(observed: Any) -> None:
    given = json.loads(observed.given.read_text())
    assert observed.attempt.run.costs == given
    for decision in decisions_of(observed):
        for candidate in decision.candidates:
            assert candidate.step_seconds == given[f"{candidate.subnet} b16"]


def test_estimates_are_told_as_they_are_used(observed: Any) -> None:
    last = {event.decision: event for event in observed.attempt.of(Estimated)}
    for decision in decisions_of(observed)[:-1]:
        losses = dict(last[decision.index].losses)
        assert set(losses) == {candidate.subnet for candidate in decision.candidates}
        if decision.rule == "rollout":
            assert losses == {c.subnet: c.loss for c in decision.candidates}


@pytest.mark.parametrize("observed", ["autoprog"], indirect=True)
def test_autoprog_scores_the_mean_of_all_time_points(observed: Any) -> None:
    for decision in decisions_of(observed)[:-1]:
        points = [
            dict(e.losses) for e in observed.attempt.of(Estimated) if e.decision == decision.index
        ]
        assert len(points) == 5
        for candidate in decision.candidates:
            mean = sum(point[candidate.subnet] for point in points) / 5
            assert candidate.loss == pytest.approx(mean)


def test_the_journal_holds_each_decision_and_no_trial_is_left_running(observed: Any) -> None:
    storage = open_journal(observed.attempt.path / "search.journal")
    names = [f"run/decision-{index}" for index in range(len(STARTS[rule_of(observed)]))]
    assert sorted(optuna.get_all_study_names(storage)) == names
    for name, decision in zip(names, decisions_of(observed), strict=False):
        trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        told = [trial.value for trial in trials if trial.value is not None]
        last = [e for e in observed.attempt.of(Estimated) if e.decision == decision.index][-1]
        assert sorted(told) == sorted(loss for _, loss in last.losses)


def test_the_last_decision_is_forced_and_names_the_full_model(observed: Any) -> None:
    last = decisions_of(observed)[-1]
    assert (last.forced, last.step, last.reason) == (
        FULL,
        48,
        "the full model is due for the rest of the run",
    )


def test_the_decided_events_are_the_recorded_decisions(observed: Any) -> None:
    told = [event.decision for event in observed.attempt.of(Decided)]
    assert tuple(told) == decisions_of(observed)
    assert [decision.index for decision in told] == list(range(len(told)))


def test_the_result_tells_of_the_search(observed: Any) -> None:
    result = observed.attempt.run.result
    assert result is not None
    assert (result.kind, result.epochs, result.image_epochs) == ("search", 8.0, 8.0)
    assert 0 < result.supernet_seconds < result.train_seconds
    assert 0 < result.search_seconds < result.wall_seconds
    assert result.lost_seconds > 0
    evaluated = observed.attempt.of(Evaluated)[-1]
    assert (result.top1, result.loss_ema) == (evaluated.top1, evaluated.loss_ema)
    assert evaluated.step == TOTAL


def test_the_final_weights_load_into_plain_timm(observed: Any) -> None:
    spec = observed.attempt.searcher.search.space.spec
    plain = timm.create_model(spec.timm, num_classes=10, **spec.create_kwargs())
    weights = {
        key.removeprefix("final."): weight
        for key, weight in observed.attempt.weights.items()
        if key.startswith("final.")
    }
    plain.load_state_dict(weights, strict=True)
    network = observed.attempt.trainer.stepper.model.eval()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert plain.eval()(images).equal(network(images, FULL))


def test_the_averaged_result_is_that_of_the_weights_that_are_left(observed: Any) -> None:
    """A search averages twice, fast for its estimates and slowly for the end."""
    spec, trainer = observed.attempt.searcher.search.space.spec, observed.attempt.trainer
    plain = timm.create_model(spec.timm, num_classes=10, **spec.create_kwargs()).eval()
    weights = {
        key.removeprefix("final_ema."): weight
        for key, weight in observed.attempt.weights.items()
        if key.startswith("final_ema.")
    }
    plain.load_state_dict(weights, strict=True)
    with torch.no_grad():
        told = [(plain(images), targets) for images, targets in trainer.data.validation()]
    logits, targets = (torch.cat(values) for values in zip(*told, strict=True))
    result = observed.attempt.run.result
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    assert result.loss_ema == pytest.approx(loss, rel=1e-6)
    assert result.top1_ema == pytest.approx(100 * (logits.argmax(1) == targets).float().mean())
    fast = trainer.stepper.emas[0].module
    (fast_scores,) = evaluate(
        (fast,), trainer.data.validation(), plain_choice(FULL), trainer.compute
    )
    assert fast_scores.loss != pytest.approx(loss, rel=1e-5)


def test_averages_follow_all_slots_of_a_supernet_phase(observed: Any) -> None:
    for event in observed.attempt.of(SupernetStarted):
        deepest = max(subnet.depth for subnet in event.candidates)
        steps = range(event.step, event.stop_step)
        followed = {slots for step, _, slots in observed.trained if step in steps}
        assert followed == {tuple(tuple(range(depth)) for depth in deepest)}


def test_estimates_are_charged_to_the_search_and_to_the_wall(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autoprog.search import searcher

    estimate_losses, slept = searcher.estimate_losses, []

    def slow(*args: Any) -> Any:
        slept.append(0.05)
        time.sleep(0.05)
        return estimate_losses(*args)

    monkeypatch.setattr(searcher, "estimate_losses", slow)
    begin = time.perf_counter()
    result = lab.search(lab.settings("autoprog", costs=lab.costs())).run.result
    outside = time.perf_counter() - begin
    assert len(slept) > 10
    assert result.search_seconds >= sum(slept)
    assert sum(slept) + result.train_seconds <= result.wall_seconds <= outside


def test_the_log_reads_back_as_what_happened(observed: Any) -> None:
    assert list(load_run(observed.attempt.path).events()) == observed.attempt.events


def test_training_along_the_best_schedule_carries_out_the_same_stages(
    observed: Any, lab: Any
) -> None:
    best = observed.attempt.best
    trained = lab.train(lab.train_settings(), best)
    table = best.resolve(EPOCH, TOTAL / EPOCH)
    told = [
        (e.step, e.stop_step, e.stage, e.subnet, e.curriculum) for e in trained.of(StageStarted)
    ]
    assert told == [
        (s.start_step, s.stop_step, s.stage, s.subnet, s.curriculum) for s in table.segments
    ]
    # Trained in the search as well, outside its supernet phases.
    found = {(e.stage, e.subnet, e.stop_step) for e in observed.attempt.of(StageStarted)}
    assert {(stage, subnet, stop) for _, stop, stage, subnet, _ in told} == found
    assert trained.run.result is not None


@pytest.mark.parametrize("rule", ["rollout", "autoprog"])
def test_same_seed_and_costs_same_search(lab: Any, rule: str) -> None:
    """Nothing is scripted here: the decisions are those of the rule."""
    settings = lab.settings(rule, costs=lab.costs(), log_every_steps=20)
    first = lab.search(settings)
    shutil.move(first.path, lab.folder / "moved")
    second = lab.search(settings)
    first.path = lab.folder / "moved"
    assert first.run.decisions == second.run.decisions
    assert first.best == second.best
    assert (first.path / "best.yaml").read_bytes() == (second.path / "best.yaml").read_bytes()
    assert all(weight.equal(second.weights[key]) for key, weight in first.weights.items())


def first_decision(event: Any) -> bool:
    return isinstance(event, Decided)


def test_another_seed_gives_another_search(observed: Any, lab: Any) -> None:
    settings = lab.settings(rule_of(observed), costs=observed.given, seed=1)
    other = lab.search(settings, crash_when=first_decision).run.decisions[0]
    assert other.candidates != decisions_of(observed)[0].candidates


def test_costs_are_measured_where_none_are_given(lab: Any) -> None:
    run = lab.search(lab.settings(), crash_when=first_decision).run
    candidates = run.decisions[0].candidates
    assert {c.subnet for c in candidates} == set(lab.space().above(SubnetConfig(1, 8)))
    assert {f"{c.subnet} b16" for c in candidates} == set(run.costs)
    for candidate in candidates:  # without workers, making a batch comes on top of a step
        assert run.costs[f"{candidate.subnet} b16"] < candidate.step_seconds < 10


@pytest.mark.parametrize("rule", ["rollout", "autoprog"])
def test_of_many_candidates_only_some_are_estimated(lab: Any, rule: str) -> None:
    settings = lab.settings(rule, space=lab.space(max_candidates=4), costs=lab.costs())
    attempt = lab.search(settings, crash_when=first_decision)
    subnets = [candidate.subnet for candidate in attempt.run.decisions[0].candidates]
    assert len(set(subnets)) == len(subnets) == 4
    assert (subnets[0], subnets[-1]) == (SubnetConfig(1, 8), FULL)
    events = attempt.of(Estimated)
    assert {subnet for subnet, _ in events[-1].losses} == set(subnets)
    for candidate in attempt.run.decisions[0].candidates:
        losses = [dict(event.losses)[candidate.subnet] for event in events]
        assert candidate.loss == pytest.approx(sum(losses) / len(losses))
