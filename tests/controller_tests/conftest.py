"""Studies whose workers die: in this process by an exception, in others by a signal."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from optuna.distributions import FloatDistribution

from autoprog.processes import ProcessName, WorkerFile, this_process
from autoprog.search.controller import (
    CategoricalDistribution,
    FrozenTrial,
    IntDistribution,
    OpenTrial,
    Plan,
    SharedStudy,
    StopRule,
    TrialState,
    create_sampler,
    run_worker,
    study,
)
from autoprog.search.controller.study import LeaseTerms
from autoprog.search.controller.worker import Evaluate, WorkerEnd

PROGRAM = Path(__file__).with_name("worker_program.py")
SPACE = {
    "x": FloatDistribution(0, 1),
    "n": IntDistribution(0, 20),
    "op": CategoricalDistribution(["copy", "mogrow", "zero"]),
}
FIRST = ({"x": 0.9, "n": 19, "op": "zero"}, {"n": 3})


class Killed(BaseException):
    """A worker ends in mid-trial and tells nobody."""


@dataclass
class Bench:
    """Runs workers on studies in one folder; a worker that is to die counts as a dead process."""

    folder: Path
    dead: ProcessName
    patch: pytest.MonkeyPatch
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    Killed = Killed
    SPACE = SPACE
    FIRST = FIRST

    @staticmethod
    def one_metric(params: Mapping[str, Any], trial: OpenTrial) -> float:
        return (params["x"] - 0.3) ** 2 + abs(params["n"] - 7) / 20 + (params["op"] != "mogrow")

    @staticmethod
    def two_metrics(params: Mapping[str, Any], trial: OpenTrial) -> tuple[float, float]:
        near, far = abs(params["x"] - 0.3), abs(params["x"] - 0.8)
        late = abs(params["n"] - 20) / 20
        return near + params["n"] / 20, far + late + (params["op"] == "zero")

    def plan(self, num_metrics: int = 1, first: tuple[Mapping[str, Any], ...] = FIRST) -> Plan:
        return Plan("study", ("loss", "seconds")[:num_metrics], SPACE, first)

    def open(
        self,
        sampler: str = "random",
        num_metrics: int = 1,
        where: str | None = None,
        **terms: Any,
    ) -> SharedStudy:
        chosen = create_sampler(sampler, 0, SPACE, startup_trials=4, population=4)
        plan = self.plan(num_metrics)
        return SharedStudy.open(self.folder, plan, chosen, where, LeaseTerms(**terms))

    def work(
        self, on: SharedStudy, trials: int | None, evaluate: Evaluate | None = None, **fields: Any
    ) -> WorkerEnd:
        rule = fields.pop("rule", StopRule(trials=trials))
        file = WorkerFile(self.folder, fields.pop("number", 0))
        single = len(on.plan.metrics) == 1
        evaluate = evaluate or (self.one_metric if single else self.two_metrics)
        return run_worker(on, evaluate, rule, file, poll_seconds=0.01, **fields)

    def die(self, on: SharedStudy, trials: int, evaluate: Evaluate, **fields: Any) -> None:
        """Work as a process that is found dead afterwards."""
        with self.patch.context() as patch:
            patch.setattr(study, "this_process", lambda: self.dead)
            with suppress(Killed):
                self.work(on, trials, evaluate, **fields)

    @staticmethod
    def trials(on: SharedStudy) -> list[FrozenTrial]:
        return on.study.get_trials(deepcopy=False)

    @staticmethod
    def told(on: SharedStudy) -> list[tuple[dict[str, Any], list[float] | None]]:
        """Return what the trials that count came to, in their order."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        found = on.study.get_trials(deepcopy=False, states=states)
        return [(trial.params, trial.values) for trial in found]

    @staticmethod
    def states(on: SharedStudy) -> list[str]:
        return [trial.state.name for trial in on.study.get_trials(deepcopy=False)]

    def spawn(self, number: int, **options: Any) -> subprocess.Popen[bytes]:
        """Start a worker as a process of its own."""
        with (self.folder / f"{number}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(self.folder), str(number), json.dumps(options)],
                env={**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(process)
        return process

    def log(self, number: int) -> str:
        return (self.folder / f"{number}.log").read_text()

    def begun(self) -> list[tuple[int, int]]:
        """Return (trial, origin) of all evaluations that processes have begun."""
        lines = (self.folder / "begun").read_text().splitlines()
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


@pytest.fixture
def dead() -> ProcessName:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    here = this_process()
    return ProcessName(here.host, here.boot_id, process.pid, 1)


@pytest.fixture
def bench(tmp_path: Path, dead: ProcessName, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, dead, monkeypatch)
    yield made
    for process in made.workers:
        process.kill()
        process.wait()


@pytest.fixture
def new_bench(
    tmp_path: Path, dead: ProcessName, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Bench]:
    made: list[Bench] = []

    def make() -> Bench:
        folder = tmp_path / f"bench-{len(made)}"
        folder.mkdir()
        made.append(Bench(folder, dead, monkeypatch))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def program() -> ModuleType:
    """The program of :meth:`Bench.spawn`, as a module."""
    spec = importlib.util.spec_from_file_location("worker_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no test here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
