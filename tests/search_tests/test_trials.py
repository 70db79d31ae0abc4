"""The search by trials: what a worker makes of a trial, and a whole search with a worker of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoprog.cli import build_parser, main
from autoprog.commands.configure import configure_search
from autoprog.errors import DivergedError
from autoprog.events import TrialFinished
from autoprog.processes import read_workers
from autoprog.runs import load_run
from autoprog.search import trials as trials_module
from autoprog.search.controller import LOST, RELEASED, PrunedTrial, ReleasedTrial
from autoprog.search.schedule_space import schedule_space
from autoprog.search.trials import (
    FinishedTrial,
    TrialRunner,
    trial_settings,
    within_budget,
)
from autoprog.search.worker_processes import WorkersWork
from autoprog.supervise import PROGRAM

SEARCH = ("search", "--model=vit-mu", "--trials=2", "--proxy=0.5", "--epochs=2")
HERE = ("--device=cpu", "--threads=1", "--workers=0")


class Opened:
    """A trial as far as a runner looks at it; asked to stop at a step, or taken for dead."""

    def __init__(self, origin: int = 0, stop_after: int | None = None, lost: bool = False) -> None:
        self.origin, self.is_lost = origin, lost
        self.noted: dict[str, Any] = {}
        self._looks, self._stop_after = 0, stop_after

    @property
    def stop_requested(self) -> bool:
        self._looks += 1
        return self._stop_after is not None and self._looks > self._stop_after

    def note(self, name: str, value: Any) -> None:
        self.noted[name] = value

    def report(self, step: int, value: float) -> None: ...


@pytest.fixture
def new_runner(lab: Any, tmp_path: Path) -> Callable[[str], TrialRunner]:
    def new(name: str) -> TrialRunner:
        settings = lab.settings("pareto", recipe={"epochs": 2.0})
        (tmp_path / name).mkdir()
        schedules = schedule_space(settings)
        return TrialRunner(trial_settings(settings), lab.opened, schedules, tmp_path / name)

    return new


@pytest.fixture
def runner(new_runner: Callable[[str], TrialRunner]) -> TrialRunner:
    return new_runner("search")


def first(runner: TrialRunner) -> dict[str, Any]:
    return dict(runner.schedules.first()[1])


def weights(folder: Path) -> list[Path]:
    return [*folder.glob("checkpoints/*")]


def test_a_trial_is_trained_to_its_end_and_keeps_no_weights(runner: TrialRunner) -> None:
    trial = Opened(origin=3)
    loss, seconds = runner(first(runner), trial)  # type: ignore[arg-type]
    folder = runner.folder / "trials" / "0003"
    result = load_run(folder).result
    assert result is not None
    assert (loss, trial.noted["top1_ema"]) == (result.loss_ema, result.top1_ema)
    assert 0 < seconds < result.wall_seconds
    assert weights(folder) == []


def test_a_stopped_trial_is_given_back_and_gone_on_with(
    new_runner: Callable[[str], TrialRunner],
) -> None:
    straight, runner = new_runner("straight"), new_runner("search")
    expected, _ = straight(first(straight), Opened())  # type: ignore[arg-type]
    with pytest.raises(ReleasedTrial):
        runner(first(runner), Opened(stop_after=5))  # type: ignore[arg-type]
    assert weights(runner.folder / "trials" / "0000")
    assert runner(first(runner), Opened())[0] == expected  # type: ignore[arg-type]


def test_a_worker_that_was_taken_for_dead_stops(runner: TrialRunner) -> None:
    with pytest.raises(ReleasedTrial):
        runner(first(runner), Opened(lost=True))  # type: ignore[arg-type]


def test_a_trial_that_is_still_written_begins_anew_beside_it(runner: TrialRunner) -> None:
    other = runner._open(0)
    runner(first(runner), Opened())  # type: ignore[arg-type]
    other.close()
    assert not (runner.folder / "trials" / "0000" / "result.json").exists()
    assert (runner.folder / "trials" / "0000-2" / "result.json").exists()


def test_a_worker_that_died_before_it_told_is_made_up_for(runner: TrialRunner) -> None:
    """Its checkpoints are gone by then, and the folder they were in."""
    once, again = (runner(first(runner), Opened())[0] for _ in range(2))  # type: ignore[arg-type]
    assert once == again


def test_a_trial_that_diverges_is_ended_and_leaves_no_weights(
    runner: TrialRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(trainer: Any, schedule: Any) -> Iterator[Any]:
        yield from trainer.save()
        raise DivergedError("the loss is nan")

    monkeypatch.setattr(trials_module, "train_schedule", diverge)
    trial = Opened()
    with pytest.raises(PrunedTrial, match="the loss is nan"):
        runner(first(runner), trial)  # type: ignore[arg-type]
    assert trial.noted == {"diverged": True}
    assert weights(runner.folder / "trials" / "0000") == []


# Which one is taken.


def trialled(*found: tuple[float, float]) -> list[FinishedTrial]:
    return [
        FinishedTrial(number, loss, seconds, {}) for number, (loss, seconds) in enumerate(found)
    ]


def test_a_budget_is_for_the_whole_run_of_which_trials_take_a_fraction() -> None:
    front = trialled((2.0, 1.0), (1.5, 2.0), (1.0, 3.0))
    assert within_budget(front, 200.0, 0.01) == (front[1], "")
    assert within_budget(front, 1e3, 0.01) == (front[2], "")
    chosen, complaint = within_budget(front, 90.0, 0.01)
    assert chosen == front[0]
    assert complaint == (
        "no trial fits the budget: the cheapest, 0, needs 100 s, the budget is 90 s"
    )


def test_hours_in_which_nobody_noticed_a_death_are_no_work() -> None:
    def made(seconds: float, **attributes: str) -> SimpleNamespace:
        return SimpleNamespace(user_attrs=attributes, duration=timedelta(seconds=seconds))

    unfinished = SimpleNamespace(user_attrs={}, duration=None)
    trials = [made(5.0), made(36e3, **{LOST: "died"}), made(2.0, **{LOST: RELEASED}), unfinished]
    study = SimpleNamespace(get_trials=lambda deepcopy: trials)
    assert trials_module.worked_seconds(SimpleNamespace(study=study)) == 7.0  # type: ignore[arg-type]


# As commands.


def test_a_search_by_trials_trains_the_best_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SEARCH, *HERE, f"--runs-dir={tmp_path}"]) == 0, capsys.readouterr().err
    (path,) = tmp_path.iterdir()
    run = load_run(path)
    told = {event.number: event for event in run.events() if isinstance(event, TrialFinished)}
    assert [*told] == [0, 1]
    assert all(event.loss and event.seconds and event.stages for event in told.values())
    assert run.best is not None
    assert run.best.found_by is not None
    assert run.best.found_by.trial in told
    assert run.result is not None
    assert run.result.search_seconds > sum(event.seconds or 0.0 for event in told.values())
    (worker,) = read_workers(path)
    assert (worker.status.worker, worker.status.state, worker.status.num_trials) == (0, "done", 2)
    assert {file.name for file in (path / "workers").iterdir()} == {"worker-0.json", "worker-0.log"}
    assert [weights(path / "trials" / name) for name in ("0000", "0001")] == [[], []]


def work_in_this_process(folder: Path, count: int, words: list[str], *_: Any) -> Iterator[Any]:
    """Carry out the trials as the one worker that would have been started."""
    assert count == 1
    assert main(words[len(PROGRAM) :]) == 0
    yield WorkersWork()


def test_a_search_whose_workers_were_stopped_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trials_module, "spawn_workers", lambda *_: iter(()))
        assert main([*SEARCH, *HERE, f"--runs-dir={tmp_path}"]) == 1
    (path,) = tmp_path.iterdir()
    said = (
        f"0 of 2 trials have come to an end; the workers were stopped; go on with --resume {path}"
    )
    assert said in capsys.readouterr().err
    assert not (path / "best.yaml").exists()
    monkeypatch.setattr(trials_module, "spawn_workers", work_in_this_process)
    assert main(["search", f"--resume={path}", "--workers=0"]) == 0
    run = load_run(path)
    assert run.result is not None
    told = [event.number for event in run.events() if isinstance(event, TrialFinished)]
    assert told == [0, 1]  # also those that the training after them has not made again


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-j", "2"), "-j: must come with --trials N, whose workers it is for"),
        (("--storage", "sqlite:///x.db"), "--storage: must come with --trials N"),
        (
            ("--trials=2", "--device=cuda:1"),
            "--device: must leave the number to the workers, but got 'cuda:1'; set CUDA_VISIBLE_DEVICES=1",
        ),
    ],
)
def test_what_has_no_use_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code = main(["search", "--model=vit-mu", *words, f"--runs-dir={tmp_path / 'runs'}"])
    assert code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs=3",), "--epochs: must not be given with --join RUN"),
        (
            ("-j", "2"),
            "-j: must not be given with --join RUN, but got 2; join once for each worker",
        ),
        (("--device=gpu",), "--device: must be auto, cpu, mps, cuda or cuda:N, but got 'gpu'"),
    ],
)
def test_a_worker_takes_what_says_how_to_carry_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trials_module, "spawn_workers", lambda *_: iter(()))
        assert main([*SEARCH, *HERE, f"--runs-dir={tmp_path}"]) == 1
    (path,) = tmp_path.iterdir()
    capsys.readouterr()
    assert main(["search", f"--join={path}", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_database_file_is_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def stored(url: str) -> str | None:
        args = build_parser("search").parse_args([*SEARCH, f"--storage={url}"])
        search = configure_search(args).settings.search
        return None if search is None else search.storage

    assert stored("sqlite:///trials.db") == f"sqlite:///{tmp_path}/trials.db"
    assert stored("sqlite:////data/trials.db") == "sqlite:////data/trials.db"
    assert stored("postgresql://host/trials") == "postgresql://host/trials"
