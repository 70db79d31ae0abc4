from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from autoprog import processes
from autoprog.search.controller import Controller
from autoprog.search.controller.storage import open_journal
from supernet.config import SubnetConfig, TokenRule

FEW = tuple(SubnetConfig(depth, size) for depth, size in product((6, 9, 12), (160, 224)))
MANY = tuple(
    SubnetConfig(depth, size) for depth, size in product(range(4, 13), range(112, 240, 16))
)
ANCHORS = (MANY[0], MANY[-1])
NAME = "run/decision-0"


def controller(path: Path, seed: int = 0, sampler: str = "tpe") -> Controller:
    return Controller(path, "run", seed, sampler)


def deep_is_good(subnet: SubnetConfig) -> float:
    return 13.0 - subnet.total_depth + abs(subnet.img_size - 176) / 1000


def shallow_is_good(subnet: SubnetConfig) -> float:
    return subnet.total_depth + subnet.img_size / 1000


def search(
    path: Path,
    score: Callable[[SubnetConfig], float],
    seed: int = 0,
    sampler: str = "tpe",
    max_candidates: int = 20,
) -> list[SubnetConfig]:
    proposals = controller(path, seed, sampler).propose(0, MANY, ANCHORS, max_candidates)
    seen = []
    for subnet in proposals:
        seen.append(subnet)
        proposals.tell(subnet, score(subnet), loss=score(subnet), step_seconds=0.5)
    return seen


def trials(path: Path, name: str = NAME) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=name, storage=open_journal(path))
    return study.get_trials(deepcopy=False)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "search.journal"


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_all_candidates_are_proposed_when_there_are_few(journal: Path, sampler: str) -> None:
    proposals = controller(journal, sampler=sampler).propose(0, FEW, FEW[:1], max_candidates=9)
    seen = []
    for subnet in proposals:
        seen.append(subnet)
        proposals.tell(subnet, 1.0)
    assert seen == list(FEW)


def test_exactly_as_many_as_allowed_are_all_proposed(journal: Path) -> None:
    proposals = controller(journal).propose(0, FEW, FEW[:1], max_candidates=len(FEW))
    assert list(proposals) == list(FEW)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("max_candidates", [2, 9])
def test_of_many_the_anchors_come_first_and_no_more_than_allowed(
    journal: Path, sampler: str, max_candidates: int
) -> None:
    seen = search(journal, deep_is_good, sampler=sampler, max_candidates=max_candidates)
    assert tuple(seen[:2]) == ANCHORS
    assert len(set(seen)) == len(seen) == max_candidates
    assert set(seen) <= set(MANY)


RATES = tuple(TokenRule(rate) for rate in (0.5, 0.7, 1.0))
PRUNED = tuple(SubnetConfig(*point) for point in product((6, 9, 12), (160, 224), RATES))


@pytest.mark.parametrize("max_candidates", [5, 12, len(PRUNED)])
def test_keep_rates_are_proposed_as_well(journal: Path, max_candidates: int) -> None:
    proposals = controller(journal).propose(0, PRUNED, (PRUNED[0], PRUNED[-1]), max_candidates)
    seen = []
    for subnet in proposals:
        seen.append(subnet)
        proposals.tell(subnet, deep_is_good(subnet))
    assert {PRUNED[0], PRUNED[-1]} <= set(seen) <= set(PRUNED)
    assert len(set(seen)) == len(seen) == max_candidates
    asked = {name for trial in trials(journal) for name in trial.params}
    assert asked == {"depth_up", "img_size_up", "keep_rate_up"}


def test_an_axis_of_one_keep_rate_is_not_asked_for(journal: Path) -> None:
    list(controller(journal).propose(0, FEW, FEW, max_candidates=9))
    assert {name for trial in trials(journal) for name in trial.params} == {
        "depth_up",
        "img_size_up",
    }


def test_nothing_outside_a_grid_with_holes_is_proposed(journal: Path) -> None:
    holes = tuple(s for s in MANY if (s.total_depth + s.img_size // 16) % 2)
    proposals = controller(journal, sampler="random").propose(
        0, holes, (holes[0],), max_candidates=12
    )
    seen = []
    for subnet in proposals:
        seen.append(subnet)
        proposals.tell(subnet, 1.0)
    assert set(seen) <= set(holes)
    assert len(set(seen)) == len(seen) == 12
    states = {trial.state for trial in trials(journal)}
    assert states == {TrialState.COMPLETE, TrialState.FAIL}


def test_proposals_depend_on_the_scores_that_were_told(journal: Path, tmp_path: Path) -> None:
    deep = search(journal, deep_is_good)
    shallow = search(tmp_path / "other.journal", shallow_is_good)
    assert deep[:2] == shallow[:2]
    assert deep != shallow

    def depth(seen: list[SubnetConfig]) -> float:
        return sum(subnet.total_depth for subnet in seen[6:]) / len(seen[6:])

    assert depth(deep) > depth(shallow) + 2


def test_the_same_seed_and_scores_give_the_same_proposals(journal: Path, tmp_path: Path) -> None:
    again = search(tmp_path / "again.journal", deep_is_good)
    assert search(journal, deep_is_good) == again


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_another_seed_gives_other_proposals(journal: Path, tmp_path: Path, sampler: str) -> None:
    other = search(tmp_path / "other.journal", deep_is_good, seed=1, sampler=sampler)
    assert search(journal, deep_is_good, sampler=sampler) != other


@pytest.mark.parametrize("seed", [2**32, 20261122, 2**62])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_any_seed_will_do(journal: Path, seed: int, sampler: str) -> None:
    assert len(search(journal, deep_is_good, seed=seed, sampler=sampler, max_candidates=4)) == 4


def test_decisions_draw_from_different_streams(journal: Path) -> None:
    one = controller(journal, sampler="random")
    first, second = (list(one.propose(index, MANY, ANCHORS, max_candidates=9)) for index in (0, 1))
    assert first != second


def test_the_journal_holds_the_scores_and_what_they_were_made_of(journal: Path) -> None:
    seen = search(journal, deep_is_good, max_candidates=6)
    told = {}
    for trial in trials(journal):
        if trial.user_attrs:
            found = SubnetConfig(
                4 + trial.params["depth_up"], 112 + 16 * trial.params["img_size_up"]
            )
            told[found] = trial.value
            assert trial.user_attrs == {"loss": trial.value, "step_seconds": 0.5}
    assert told == {subnet: deep_is_good(subnet) for subnet in seen}


def test_a_candidate_that_comes_up_again_gets_the_score_it_had(journal: Path) -> None:
    search(journal, shallow_is_good, max_candidates=20)
    values: dict[tuple[int, int], set[float | None]] = {}
    done = [trial for trial in trials(journal) if trial.state == TrialState.COMPLETE]
    for trial in done:
        key = (trial.params["depth_up"], trial.params["img_size_up"])
        values.setdefault(key, set()).add(trial.value)
    assert len(done) > len(values)
    assert all(len(found) == 1 for found in values.values())


@pytest.mark.parametrize("told_at_once", [True, False])
def test_no_trial_is_left_running(journal: Path, told_at_once: bool) -> None:
    proposals = controller(journal).propose(0, MANY, ANCHORS, max_candidates=9)
    waiting = []
    for subnet in proposals:
        waiting.append(subnet)
        if told_at_once:
            proposals.tell(waiting.pop(), deep_is_good(subnet))
    for subnet in waiting:
        proposals.tell(subnet, deep_is_good(subnet))
    states = {trial.state for trial in trials(journal)}
    assert states <= {TrialState.COMPLETE, TrialState.FAIL}


def test_each_decision_has_its_own_study(journal: Path) -> None:
    one = controller(journal)
    for index in (0, 1):
        list(one.propose(index, FEW, FEW, max_candidates=9))
    names = optuna.get_all_study_names(open_journal(journal))
    assert sorted(names) == ["run/decision-0", "run/decision-1"]


def test_a_study_that_a_crash_left_half_done_starts_over(journal: Path, tmp_path: Path) -> None:
    halfway = iter(controller(journal).propose(0, MANY, ANCHORS, max_candidates=20))
    for _ in range(3):
        next(halfway)
    assert TrialState.RUNNING in {trial.state for trial in trials(journal)}
    assert search(journal, deep_is_good) == search(tmp_path / "straight.journal", deep_is_good)
    assert TrialState.RUNNING not in {trial.state for trial in trials(journal)}


def test_a_half_written_last_line_is_cut(journal: Path) -> None:
    search(journal, deep_is_good, max_candidates=4)
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "worker_')
    assert len(trials(journal)) == 4
    assert journal.read_bytes().startswith(whole)
    assert all(isinstance(json.loads(line), dict) for line in journal.read_text().splitlines())


def test_a_journal_of_half_a_line_is_emptied(journal: Path) -> None:
    journal.write_bytes(b'{"op_code"')
    assert search(journal, deep_is_good, max_candidates=4)[:2] == list(ANCHORS)


def test_a_lock_that_a_killed_process_left_is_not_waited_for(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_STRANGER_PATIENCE_SECONDS", 0.5)
    search(journal, deep_is_good, max_candidates=4)
    journal.with_name("search.journal.lock").touch()
    begin = time.monotonic()
    assert len(search(journal, deep_is_good, max_candidates=4)) == 4
    assert time.monotonic() - begin < 10


def test_a_run_that_goes_on_keeps_earlier_studies(journal: Path) -> None:
    search(journal, deep_is_good, max_candidates=4)
    before = [trial.value for trial in trials(journal)]
    list(controller(journal).propose(1, FEW, FEW, max_candidates=9))
    assert [trial.value for trial in trials(journal)] == before


def test_nothing_is_said_on_the_way(journal: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(journal, deep_is_good, max_candidates=6)
    assert capfd.readouterr() == ("", "")
