"""A worker: asks for trials, evaluates them and reports their values, until there are enough."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from autoprog.errors import AutoprogError, RunError
from autoprog.processes import WorkerFile
from autoprog.search.controller.study import LeaseKeeper, SharedStudy, attempt_of, origin_of
from autoprog.train.stop import StopRequest

__all__ = [
    "Evaluate",
    "Halving",
    "OpenTrial",
    "PrunedTrial",
    "ReleasedTrial",
    "StopRule",
    "WorkerEnd",
    "run_worker",
    "should_stop",
]

Evaluate = Callable[[Mapping[str, Any], "OpenTrial"], float | Sequence[float]]

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
        max_errors: Trials that may fail by an error in a row before the worker gives up.
    """

    trials: int | None = None
    max_errors: int = 3


@dataclass
class WorkerEnd:
    """How a worker ended, and after how many trials: finished in time, pruned of them, failed by an error."""

    reason: Literal["enough", "stopped"] = "enough"
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
    poll_seconds: float = 1.0,
) -> WorkerEnd:
    """Work on a study until the rule says that it is enough.

    A first stop request lets `evaluate` finish its trial, or give it back if it looks at
    ``trial.stop_requested``. What ends the process at once, such as a second one, leaves the lease to
    expire, and the trial to whoever asks next.

    Args:
        shared: The study.
        evaluate: Returns the metrics of a trial, given its parameters and the trial itself. Of its errors,
            those that are not expected also end the worker.
        rule: When to stop.
        file: Where the worker says what it does; its number names it in leases.
        stop: Set by a signal.
        halving: Ends trials early by the values that they report.
        poll_seconds: How often to look whether others, with the last trials under way, leave some to do.

    Raises:
        RunError: If trials fail in a row, or the storage does not answer.
    """
    stop, end, errors_in_a_row = stop or StopRequest(), WorkerEnd(), list[str]()
    try:
        while True:
            if stop.signal_name is not None:
                end.reason = "stopped"
                break
            if rule.trials is not None and shared.num_finished() >= rule.trials:
                break
            asked = shared.ask(rule.trials, file.number)
            if asked is None:  # the trials under way may be enough, or fail
                file.say("waiting")
                time.sleep(poll_seconds)
                continue
            trial, lease = asked
            file.say("running", trial=trial.number)
            # The outcome is written while the lease still holds: an evaluation that raises is no lost one.
            with (
                shared.keeper(trial, lease, file.beat) as keeper,
                _OutcomeWithoutValues(shared, trial, end, errors_in_a_row),
            ):
                opened = OpenTrial(trial, halving, stop, keeper)
                values = evaluate(opened.params, opened)
                if any(map(math.isnan, values if isinstance(values, Sequence) else [values])):
                    raise ArithmeticError(f"a metric is not a number: {values}")
                end.num_told += shared.tell(trial, values)
                errors_in_a_row.clear()
            if len(errors_in_a_row) >= rule.max_errors:
                count, last = len(errors_in_a_row), errors_in_a_row[-1]
                file.say("failed", last)
                raise RunError(f"worker {file.number}: {count} trials failed in a row: {last}")
        file.say("done", end.reason)
        return end
    except (OSError, StorageInternalError, SQLAlchemyError) as error:
        file.say("failed", "the storage does not answer")
        reason = str(error).splitlines()[0]
        raise RunError(f"worker {file.number}: the storage does not answer: {reason}") from error


@dataclass
class _OutcomeWithoutValues:
    """Says in the study what became of a trial that has no values, however its evaluation ended."""

    shared: SharedStudy
    trial: Trial
    end: WorkerEnd
    errors_in_a_row: list[str]

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        if isinstance(error, PrunedTrial):
            is_in_time = self.shared.prune(self.trial)
            self.end.num_told += is_in_time
            self.end.num_pruned += is_in_time
            self.errors_in_a_row.clear()
            return True
        if isinstance(error, ReleasedTrial):
            self.shared.release(self.trial)
            return True
        if not isinstance(error, Exception):
            return False  # a second signal: the lease will run out
        message = f"{type(error).__name__}: {error}"
        self.shared.fail(self.trial, message)
        self.errors_in_a_row.append(message)
        self.end.num_failed += 1
        return isinstance(error, EXPECTED_ERRORS)


class PrunedTrial(Exception):
    """Ends a trial early because others do better; raised by :meth:`OpenTrial.report`."""


class ReleasedTrial(Exception):
    """Gives a trial back, to be gone on with later; for evaluations that see ``stop_requested``."""


class OpenTrial:
    """A trial under way, as the code that evaluates it sees it.

    Attributes:
        number: Of the trial in its study.
        origin: The number of the trial that this one repeats, or its own: where to look for what an earlier
            worker left.
        attempt: How many workers have died over it before.
        params: What to evaluate.
    """

    def __init__(
        self,
        trial: Trial,
        halving: Halving | None = None,
        stop: StopRequest | None = None,
        keeper: LeaseKeeper | None = None,
    ) -> None:
        self.number, self.params = trial.number, dict(trial.params)
        self.origin, self.attempt = origin_of(trial), attempt_of(trial)
        self._trial, self._halving, self._stop, self._keeper = trial, halving, stop, keeper
        self._last_rung = -1

    @property
    def stop_requested(self) -> bool:
        """Return whether the worker was asked to stop; raise :class:`ReleasedTrial` to do so in mid-trial."""
        return self._stop is not None and self._stop.signal_name is not None

    @property
    def is_lost(self) -> bool:
        """Return whether others took this worker for dead, so that nobody waits for the result any more."""
        return self._keeper is not None and self._keeper.is_lost

    def note(self, name: str, value: Any) -> None:
        """Keep a fact with the trial, as a user attribute that JSON can hold."""
        self._trial.set_user_attr(name, value)

    def report(self, step: int, value: float) -> None:
        """Report how good the trial is at a step, lower being better.

        Only the first value at each rung is kept and compared. It is kept as a user attribute: Optuna's own
        ``report`` refuses studies of several objectives.

        Raises:
            PrunedTrial: If others do better at this rung.
        """
        rung = self._halving.rung_of(step) if self._halving else None
        if self._halving is None or rung is None or rung <= self._last_rung:
            return
        self._last_rung = rung
        self._trial.set_user_attr(f"rung_{rung}", value)
        if should_stop(value, self._others_at(rung), self._halving.reduction):
            raise PrunedTrial(f"step {step}: {value:g}")

    def _others_at(self, rung: int) -> Sequence[float]:
        """Return the values of the other trials at a rung.

        Failed ones are left out: one that was lost is repeated and reports its value again.
        """
        name = f"rung_{rung}"
        return [
            trial.user_attrs[name]
            for trial in self._trial.study.get_trials(deepcopy=False)
            if name in trial.user_attrs
            and trial.number != self.number
            and trial.state is not TrialState.FAIL
        ]


@dataclass(frozen=True)
class Halving:
    """Where trials are compared: at ``first_step · reduction^k``, the rungs.

    Of those that have come to a rung, one in ``reduction`` goes on (ASHA, arXiv 1810.05934, in the variant
    that stops trials and never pauses them). Optuna's own pruners refuse several objectives.
    """

    first_step: int
    reduction: int = 3

    def __post_init__(self) -> None:
        if self.first_step < 1:
            raise ValueError(f"first_step must be >= 1, but got {self.first_step}")
        if self.reduction < 2:
            raise ValueError(f"reduction must be >= 2, but got {self.reduction}")

    def rung_of(self, step: int) -> int | None:
        """Return the highest rung that is not above `step`."""
        if step < self.first_step:
            return None
        rung = 0
        while self.first_step * self.reduction ** (rung + 1) <= step:
            rung += 1
        return rung


def should_stop(value: float, others: Sequence[float], reduction: int) -> bool:
    """Return whether a trial ends at a rung: whether it is outside the best one in `reduction`.

    As long as fewer than `reduction` trials have come there, none is stopped. Ties go on.

    Args:
        value: Of the trial at this rung; lower is better.
        others: Of all other trials that have come to this rung so far.
        reduction: Of so many trials one goes on.
    """
    if math.isnan(value):
        return True
    count = len(others) + 1
    better = sum(other < value for other in others)
    return count >= reduction and better >= count // reduction
