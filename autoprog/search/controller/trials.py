"""A trial as the code that evaluates it sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from optuna.trial import Trial, TrialState

from autoprog.search.controller.samplers import (
    Halving,
    attempt_of,
    origin_of,
    rung_name,
    should_stop,
)

__all__ = ["OpenTrial", "PrunedTrial", "ReleasedTrial"]


class PrunedTrial(Exception):
    """Ends a trial early because others do better; raised by :meth:`OpenTrial.report`."""


class ReleasedTrial(Exception):
    """Gives a trial back, to be gone on with later; for evaluations that see ``stop_requested``."""


class OpenTrial:
    """A trial under way.

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
        wants_to_stop: Callable[[], bool] = lambda: False,
        is_lost: Callable[[], bool] = lambda: False,
    ) -> None:
        self.number, self.params = trial.number, dict(trial.params)
        self.origin, self.attempt = origin_of(trial), attempt_of(trial)
        self._trial, self._halving = trial, halving
        self._wants_to_stop, self._is_lost = wants_to_stop, is_lost
        self._last_rung = -1

    @property
    def stop_requested(self) -> bool:
        """Tell whether the worker was asked to stop; raise :class:`ReleasedTrial` to do so in mid-trial."""
        return self._wants_to_stop()

    @property
    def is_lost(self) -> bool:
        """Tell whether others took this worker for dead, so that nobody waits for the result any more."""
        return self._is_lost()

    def note(self, name: str, value: Any) -> None:
        """Keep a fact with the trial, as a user attribute that JSON can hold."""
        self._trial.set_user_attr(name, value)

    def constrain(self, name: str, value: float) -> None:
        """Say by how much the trial breaks a law; it is feasible where all such values are <= 0."""
        self._trial.set_constraint(name, value)

    def report(self, step: int, value: float) -> None:
        """Tell how good the trial is at a step, lower being better.

        Only the first value at each rung is kept and compared.

        Raises:
            PrunedTrial: If others do better at this rung.
        """
        rung = self._halving.rung_of(step) if self._halving else None
        if self._halving is None or rung is None or rung <= self._last_rung:
            return
        self._last_rung = rung
        self._trial.set_user_attr(rung_name(rung), value)
        if len(self._trial.study.directions) == 1:
            self._trial.report(
                value, step
            )  # for plots, and for samplers that learn from pruned trials
        if should_stop(value, self._others_at(rung), self._halving.reduction):
            raise PrunedTrial(f"step {step}: {value:g}")

    def _others_at(self, rung: int) -> Sequence[float]:
        """Return the values of the other trials at a rung; failed ones told theirs again, or tell nothing."""
        name = rung_name(rung)
        return [
            trial.user_attrs[name]
            for trial in self._trial.study.get_trials(deepcopy=False)
            if name in trial.user_attrs
            and trial.number != self.number
            and trial.state is not TrialState.FAIL
        ]
