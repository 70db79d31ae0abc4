"""The decisions of a run taken again from what they were taken from: is the record what the rules say?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprog.decisions import Decision
from autoprog.errors import ConfigError, command, consistent
from autoprog.runs import Run
from autoprog.search.decide import Chooser, decide
from autoprog.settings import Rule, SearchSettings

__all__ = ["Replayed", "chooser_of", "differences", "replay"]

# How far numbers may be apart, relatively: the last bits depend on the mathematical library of a machine.
_SAME = 1e-9


@dataclass(frozen=True)
class Replayed:
    """A decision on record and the one that its inputs come to.

    Attributes:
        recorded: None where the run ended between writing down the inputs and deciding.
        again: None where only one subnet was left to choose, for which no inputs are written down.
    """

    recorded: Decision | None
    again: Decision | None

    @property
    def known(self) -> Decision:
        """Return the decision of which there is at least one."""
        found = self.recorded or self.again
        assert found is not None
        return found

    @property
    def differences(self) -> tuple[str, ...]:
        """Return what is not the same; nothing where there is only one of the two."""
        if self.recorded is None or self.again is None:
            return ()
        return differences(self.recorded, self.again)


def replay(run: Run, chooser: Chooser) -> list[Replayed]:
    """Take all decisions of a run again, each from its own inputs, in their order.

    Raises:
        ConfigError: If nothing to decide from is on record, or the rule is ``budget`` and the run had none.
    """
    inputs = {one.index: one for one in run.inputs()}
    if not inputs:
        problem = "must be a search with an inputs.jsonl, from which it has decided"
        raise ConfigError("--replay", "", problem, str(run.path))
    recorded = {decision.index: decision for decision in run.decisions}
    replayed = []
    for index in sorted(inputs.keys() | recorded.keys()):
        again = None
        if index in inputs:
            if chooser.rule == "budget" and inputs[index].seconds_left is None:
                problem = "must be rollout, autoprog or pareto for a run without --budget"
                raise ConfigError("--rule", "", problem, chooser.rule)
            with consistent(f"inputs.jsonl: decision {index}"):
                again = decide(chooser, inputs[index])
        replayed.append(Replayed(recorded.get(index), again))
    return replayed


def chooser_of(
    run: Run, rule: Rule | None = None, sampler: str | None = None, seed: int | None = None
) -> Chooser:
    """Return how a run takes its decisions; what is given takes the place of what it has on record.

    Raises:
        ConfigError: If the run is not a search.
    """
    settings = run.manifest.settings
    if settings.search is None:
        problem = f"must be the folder of a search, but is that of a {settings.kind} run"
        raise ConfigError("--replay", "", problem, hint=f"see {command('show', run.path)}")
    search: SearchSettings = settings.search
    return Chooser(
        rule=rule or search.rule,
        space=search.space,
        sampler=sampler or search.sampler,
        seed=settings.seed if seed is None else seed,
    )


def differences(recorded: Decision, again: Decision) -> tuple[str, ...]:
    """Return the names of what differs between two decisions."""
    one, two = (decision.model_dump(mode="json") for decision in (recorded, again))
    found = [] if recorded.subnet == again.subnet else ["subnet"]
    keys = ("continuation", "candidates", "front", "reason", "full_regularisation")
    return (*found, *(key for key in keys if not _alike(one[key], two[key])))


def _alike(one: Any, two: Any) -> bool:
    """Tell whether two values of JSON are the same but for the last bits of numbers."""
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=_SAME)
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(_alike(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_alike, one, two))
    return bool(one == two)
