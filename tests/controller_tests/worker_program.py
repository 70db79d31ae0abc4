"""A worker as a program, for tests that kill it: python worker_program.py FOLDER NUMBER OPTIONS-AS-JSON.

NUMBER may be `given`: by the environment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import FloatDistribution

from autoprog.processes import WorkerFile, given_number
from autoprog.search.controller import (
    IntDistribution,
    OpenTrial,
    Plan,
    ReleasedTrial,
    SharedStudy,
    StopRule,
    create_sampler,
    run_worker,
)
from autoprog.search.controller.study import LeaseTerms
from autoprog.train.stop import stop_on_signals

PLAN = Plan(
    "whole",
    ("loss", "seconds"),
    {"x": FloatDistribution(0, 1), "n": IntDistribution(0, 20), "m": IntDistribution(0, 20)},
    first=({"x": 0.5, "n": 10, "m": 10}, {"x": 0.25, "n": 5, "m": 5}),
)


def metrics(params: Mapping[str, Any]) -> tuple[float, float]:
    return abs(params["x"] - 0.3) + params["n"] / 10, abs(params["m"] - 7) + params["x"]


def open_shared(folder: Path, options: Mapping[str, Any]) -> SharedStudy:
    sampler = create_sampler(
        options.get("sampler", "random"), 0, PLAN.space, startup_trials=4, population=4
    )
    terms = LeaseTerms(**options.get("terms", {}))
    return SharedStudy.open(folder, PLAN, sampler, options.get("storage"), terms)


def main(folder: Path, number: int, options: Mapping[str, Any]) -> int:
    shared = open_shared(folder, options)

    def evaluate(params: Mapping[str, Any], trial: OpenTrial) -> tuple[float, float]:
        with (folder / "begun").open("a") as file:
            file.write(f"{trial.number} {trial.origin} {number} {os.getpid()}\n")
        if trial.origin in options.get("die_at", []) and not trial.attempt:
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.origin in options.get("always_die_at", []):
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + options.get("seconds", 0.0)
        while time.monotonic() < end:
            if trial.stop_requested and options.get("releases"):
                raise ReleasedTrial
            time.sleep(0.01)
        return metrics(params)

    with stop_on_signals() as stop:
        end = run_worker(
            shared,
            evaluate,
            StopRule(trials=options["trials"]),
            WorkerFile(folder, number),
            stop,
            poll_seconds=0.05,
        )
    print(f"worker {number}: {end.reason} after {end.num_told}")
    return 0


if __name__ == "__main__":
    chosen = given_number() if sys.argv[2] == "given" else int(sys.argv[2])
    assert chosen is not None
    sys.exit(main(Path(sys.argv[1]), chosen, json.loads(sys.argv[3])))
