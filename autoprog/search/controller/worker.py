"""A worker: asks for trials, evaluates them and tells, until there are enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from optuna.exceptions import StorageInternalError
from optuna.trial import Trial
from sqlalchemy.exc import SQLAlchemyError

from autoprog.errors import AutoprogError, RunError
from autoprog.search.controller.halving import Halving
from autoprog.search.controller.leases import Lease
from autoprog.search.controller.shared import SharedStudy
from autoprog.search.controller.trials import OpenTrial, PrunedTrial, ReleasedTrial
from autoprog.train.stop import StopRequest
from autoprog.workers import WorkerFile

__all__ = ["EXPECTED_ERRORS", "Evaluate", "StopRule", "WorkerEnd", "run_worker"]

Evaluate = Callable[[Mapping[str, Any], OpenTrial], float | Sequence[float]]

EXPECTED_ERRORS: tuple[type[Exception], ...] = (
    AutoprogError,
    OSError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)
"""What fails a trial and not its worker: what the world does to it. Mistakes in the code are neither."""


@dataclass(frozen=True)
class StopRule:
    """When to stop asking for trials; the ones under way are finished.

    Attributes:
        trials: So many in all, of all workers and attempts, complete or pruned; None for no limit.
        seconds: Since this worker began; None for no limit.
        most_errors: Trials that may fail by an error in a row before the worker gives up.
    """

    trials: int | None = None
    seconds: float | None = None
    most_errors: int = 3


@dataclass
class WorkerEnd:
    """How a worker ended, and after how many trials: told in time, pruned among them, failed by an error."""

    reason: Literal["enough", "time", "stopped"] = "enough"
    num_told: int = 0
    num_pruned: int = 0
    num_failed: int = 0


def run_worker(
    shared: SharedStudy,
    evaluate: Evaluate,
    rule: StopRule,
    file: WorkerFile,
    stop: StopRequest | None = None,
    *,
    halving: Halving | None = None,
    catch: tuple[type[Exception], ...] = EXPECTED_ERRORS,
    poll_seconds: float = 1.0,
) -> WorkerEnd:
    """Work on a study until the rule says that it is enough.

    A first stop request lets `evaluate` finish its trial, or give it back if it looks at
    ``trial.stop_requested``. What ends the process at once, such as a second one, leaves the lease to
    expire, and the trial to whoever asks next.

    Args:
        shared: The study.
        evaluate: Returns the metrics of a trial, given its parameters and the trial itself.
        rule: When to stop.
        file: Where the worker says what it does; its number names it in leases.
        stop: Set by a signal.
        halving: Ends trials early by the values that they report.
        catch: Errors that fail a trial; any other also ends the worker.
        poll_seconds: How often to look whether others, with the last trials under way, leave some to do.

    Raises:
        RunError: If trials fail in a row, or the storage does not answer.
    """
    worker = _Worker(shared, evaluate, rule, file, stop or StopRequest(), halving, catch)
    try:
        return worker.run(poll_seconds)
    except (OSError, StorageInternalError, SQLAlchemyError) as error:
        file.say("failed", "the storage does not answer")
        reason = str(error).splitlines()[0]
        raise RunError(f"worker {file.number}: the storage does not answer: {reason}") from error


@dataclass
class _Worker:
    shared: SharedStudy
    evaluate: Evaluate
    rule: StopRule
    file: WorkerFile
    stop: StopRequest
    halving: Halving | None
    catch: tuple[type[Exception], ...]
    end: WorkerEnd = field(default_factory=WorkerEnd)
    errors_in_a_row: list[str] = field(default_factory=list)

    def run(self, poll_seconds: float) -> WorkerEnd:
        begin = time.monotonic()
        while not self._is_over(time.monotonic() - begin):
            asked = self.shared.ask(self.rule.trials, self.file.number)
            if asked is None:
                self.file.say("waiting")
                time.sleep(poll_seconds)
                continue
            self._carry_out(*asked)
            if len(self.errors_in_a_row) >= self.rule.most_errors:
                count, last = len(self.errors_in_a_row), self.errors_in_a_row[-1]
                self.file.say("failed", last)
                raise RunError(f"worker {self.file.number}: {count} trials failed in a row: {last}")
        self.file.say("done", self.end.reason)
        return self.end

    def _is_over(self, seconds: float) -> bool:
        if self.stop.signal_name is not None:
            self.end.reason = "stopped"
        elif self.rule.seconds is not None and seconds >= self.rule.seconds:
            self.end.reason = "time"
        else:
            most = self.rule.trials
            return most is not None and self.shared.num_finished() >= most
        return True

    def _carry_out(self, trial: Trial, lease: Lease) -> None:
        self.file.say("running", trial=trial.number)
        with self.shared.keeper(trial, lease, self.file.beat) as keeper, _Settling(self, trial):
            opened = OpenTrial(
                trial,
                self.halving,
                wants_to_stop=lambda: self.stop.signal_name is not None,
                is_lost=lambda: keeper.is_lost,
            )
            values = self.evaluate(opened.params, opened)
            told = list(values) if isinstance(values, Sequence) else [values]
            if any(math.isnan(value) for value in told):
                raise ArithmeticError(f"a metric is not a number: {told}")
            self.end.num_told += self.shared.tell(trial, told)
            self.errors_in_a_row.clear()


class _Settling:
    """Tells what became of a trial that has no values, however its evaluation ended."""

    def __init__(self, worker: _Worker, trial: Trial) -> None:
        self._worker, self._trial = worker, trial

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        worker, end = self._worker, self._worker.end
        if isinstance(error, PrunedTrial):
            pruned = worker.shared.prune(self._trial)
            end.num_told, end.num_pruned = end.num_told + pruned, end.num_pruned + pruned
            worker.errors_in_a_row.clear()
            return True
        if isinstance(error, ReleasedTrial):
            worker.shared.release(self._trial)
            return True
        if not isinstance(error, Exception):
            return False  # a second signal: the lease will run out
        message = f"{type(error).__name__}: {error}"
        worker.shared.fail(self._trial, message)
        worker.errors_in_a_row.append(message)
        end.num_failed += 1
        return isinstance(error, worker.catch)
