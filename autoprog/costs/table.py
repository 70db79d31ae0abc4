"""``costs.json``: what a step of each kind costs on a machine, measured once and never again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, starmap
from typing import Any, Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bounds import Count, Seconds, SomeSeconds, UnitInterval
from autoprog.errors import ConfigError
from autoprog.files import FileModel, parse
from autoprog.space import SearchSpace, by_size
from autoprog.stage import Training, Unfrozen
from supernet.config import ALL_TOKENS, ModelSpec, SubnetConfig, TokenRule

__all__ = [
    "CostKey",
    "CostTable",
    "StepCost",
    "full_key",
    "key_of_step",
    "keys_to_measure",
    "most_informative_first",
    "overlapped_seconds",
    "space_keys",
    "table_of",
]


# Numbers have few digits: names come from files, which anybody may have written.
_NAME = re.compile(
    r"d(?P<depth>[0-9]{1,4}(?:\+[0-9]{1,4})?) r(?P<size>[0-9]{1,5})"
    r"(?: k(?P<rate>[0-9.e+-]{1,24})(?: (?P<by>\w+)@(?P<places>[0-9]{1,4}(?:,[0-9]{1,4})*))?)?"
    r" b(?P<batch>[0-9]{1,8})(?P<fourier> fourier)?(?: u(?P<level>[0-9]{1,4})/(?P<every>[0-9]{1,4}))?"
)


@dataclass(frozen=True, slots=True)
class CostKey:
    """All that the seconds of a step depend on in one run.

    Attributes:
        subnet: What the step trains, with its tokens.
        batch_size: Images, over all processes.
        shrink_by: How images come to the subnet's size: in the loader, or cut on the device.
        unfrozen: Which blocks train; None for all.
    """

    subnet: SubnetConfig
    batch_size: int
    shrink_by: Literal["resize", "fourier"] = "resize"
    unfrozen: Unfrozen | None = None

    def __post_init__(self) -> None:
        if self.unfrozen is not None and self.unfrozen.fraction == 1:  # one value for one meaning
            object.__setattr__(self, "unfrozen", None)

    @property
    def name(self) -> str:
        """Return a text such as ``d6 r128 b1024`` or ``d12 r160 k0.5 b512 fourier u2/4``."""
        fourier = " fourier" if self.shrink_by == "fourier" else ""
        some = "" if self.unfrozen is None else f" u{self.unfrozen.level}/{self.unfrozen.every}"
        return f"{self.subnet} b{self.batch_size}{fourier}{some}"

    @classmethod
    def parse(cls, name: str) -> CostKey | None:
        """Return the key of that name; None if the text is the name of none."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        try:
            tokens = ALL_TOKENS
            if found["rate"] is not None and found["by"] is None:
                tokens = TokenRule(float(found["rate"]))
            elif found["rate"] is not None:
                places = tuple(int(place) for place in found["places"].split(","))
                tokens = TokenRule(float(found["rate"]), found["by"], places)
            depth = [int(blocks) for blocks in found["depth"].split("+")]
            subnet = SubnetConfig(depth, int(found["size"]), tokens)
            every = found["every"]
            some = None if every is None else Unfrozen(every=int(every), level=int(found["level"]))
        except ValueError:  # numbers outside the range of their type, such as a keep-rate of 2
            return None
        return cls(subnet, int(found["batch"]), "fourier" if found["fourier"] else "resize", some)

    def loaded_px(self, full_px: int) -> int:
        """Return the size in px at which the loader delivers the images."""
        return full_px if self.shrink_by == "fourier" else self.subnet.img_size


def key_of_step(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, batch_size: int
) -> CostKey:
    """Return the key of a step that is no sandwich; `batch_size` is the recipe's."""
    # At full size nothing is cut, so both ways of shrinking are the same step.
    cut = training.shrink_by == "fourier" and subnet.img_size != spec.img_size
    images = max(1, round(batch_size * training.batch_scale))
    return CostKey(subnet, images, "fourier" if cut else "resize", training.unfrozen)


def full_key(spec: ModelSpec, batch_size: int) -> CostKey:
    """Return the key of a plain step of the full model."""
    return CostKey(spec.full, batch_size)


def space_keys(space: SearchSpace, batch_size: int) -> tuple[CostKey, ...]:
    """Return the key of each subnet of a space at each of its batch sizes, smallest first."""
    subnets = sorted(
        starmap(SubnetConfig, product(space.depths, space.sizes, space.keep_rates)), key=by_size
    )
    scales = sorted(space.axes.batch_scale.values)
    return tuple(
        key_of_step(space.spec, subnet, Training(batch_scale=scale), batch_size)
        for scale in scales
        for subnet in subnets
    )


def keys_to_measure(
    keys: Sequence[CostKey],
    full: CostKey,
    seconds_of: Callable[[CostKey], float],
    budget_seconds: float,
) -> list[CostKey]:
    """Return the keys to measure where there is no time for all: the most informative that a budget reaches.

    Args:
        keys: All that are of interest; `full` is added where it is missing.
        full: The reference.
        seconds_of: Returns what it takes to measure a key.
        budget_seconds: For all of them.
    """
    ordered = most_informative_first(keys, full)
    # The full model and the smallest whatever they take: one alone says nothing about the others.
    chosen, left = ordered[:2], budget_seconds
    left -= sum(map(seconds_of, chosen))
    for key in ordered[2:]:
        left -= seconds_of(key)
        if left < 0:
            break
        chosen.append(key)
    return chosen


def most_informative_first(keys: Sequence[CostKey], full: CostKey) -> list[CostKey]:
    """Return keys so that estimates between the first ones are best: full, corners, lines, the rest.

    Corners have the least or the greatest value on every axis, the smallest corner first. Lines differ from
    the full model in one axis. Within lines and rest the order is that of `keys`.
    """
    every = list(dict.fromkeys((full, *keys)))

    def place(key: CostKey) -> tuple[float, ...]:
        return (
            key.subnet.total_depth,
            key.subnet.img_size,
            key.subnet.tokens.keep_rate,
            key.batch_size,
            float(key.shrink_by == "fourier"),
            1.0 if key.unfrozen is None else key.unfrozen.fraction,
        )

    ends = [{min(values), max(values)} for values in zip(*map(place, every), strict=True)]

    def rank(key: CostKey) -> tuple[int, tuple[float, ...]]:
        if key == full:
            return 0, ()
        own = place(key)
        if all(value in end for value, end in zip(own, ends, strict=True)):
            return 1, own
        changed = sum(a != b for a, b in zip(own, place(full), strict=True))
        return (2, ()) if changed == 1 else (3, ())

    return sorted(every, key=rank)


class StepCost(FileModel):
    """What the steps of one key cost.

    Attributes:
        seconds: Of a step on a batch that is there.
        interval: Holds the true median of ``seconds``, relative to the full model, in 95 % of cases from 6
            rounds on; below that it is the range of what was measured.
        data_seconds: In which the loader makes a batch, with nothing else to do; None if unknown.
        rounds: How often it was measured.
        source: ``grid``: interleaved with other keys; ``own``: the run's own steps; ``file``: given.
    """

    seconds: SomeSeconds
    interval: tuple[Seconds, Seconds] | None = None
    data_seconds: Seconds | None = None
    rounds: Count = 0
    source: Literal["grid", "own", "file"] = "file"

    @model_validator(mode="after")
    def _interval_holds_the_seconds(self) -> StepCost:
        low, high = self.interval or (self.seconds, self.seconds)
        if not low <= self.seconds <= high:
            problem = f"must hold seconds, {self.seconds:g}"
            raise ConfigError("", "interval", problem, [low, high])
        return self


class CostTable(FileModel):
    """All costs of a run.

    Attributes:
        overlap: Fraction of the shorter of step and data that the longer one hides: 0 without loader workers.
        overlap_is_measured: Whether it was, or is what such a machine should do.
        conditions: Where it was measured: device, precision, threads, workers, processes.
        step_costs: Costs by the name of their key.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    overlap: UnitInterval = 0.0
    overlap_is_measured: bool = False
    conditions: dict[str, str | Count] = Field(default_factory=dict)
    step_costs: dict[str, StepCost] = Field(default_factory=dict)

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of a step by the name of its key."""
        return {name: cost.seconds for name, cost in self.step_costs.items()}

    def of_batch(self, batch_size: int) -> dict[str, float]:
        """Return the seconds of plain steps of one batch size by subnet, such as ``d6 r128``."""
        suffix = f" b{batch_size}"
        plain = self.seconds.items()
        return {name.removesuffix(suffix): s for name, s in plain if name.endswith(suffix)}

    def with_costs(self, more: Mapping[str, StepCost]) -> CostTable:
        """Return the table with costs added; those that are there stay as they are."""
        new = {name: cost for name, cost in more.items() if name not in self.step_costs}
        return self.model_copy(update={"step_costs": {**self.step_costs, **new}})

    def as_given(self) -> CostTable:
        """Return the table as one that another run was given."""
        costs = {n: c.model_copy(update={"source": "file"}) for n, c in self.step_costs.items()}
        return self.model_copy(update={"step_costs": costs})

    def body(self) -> dict[str, Any]:
        """Return what the file holds."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def table_of(body: Mapping[str, Any], where: str) -> CostTable:
    """Return the table that a file holds; one without ``schema`` holds just seconds by name.

    Raises:
        ConfigError: With the first value that is not a cost.
    """
    if "schema" in body:
        return parse(CostTable, migration.costs(body), where)
    for name, seconds in body.items():
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not (is_number and 0 < seconds < math.inf):
            raise ConfigError(where, str(name), "must be seconds above 0", seconds)
    return CostTable(step_costs={name: StepCost(seconds=s) for name, s in body.items()})


def overlapped_seconds(step_seconds: float, data_seconds: float, overlap: float) -> float:
    """Return the seconds that a step takes with the batch that is made meanwhile.

    Loader workers make the next batches while the device computes, as far as there are cores for both:
    ``overlap`` 1 is the longer of the two, 0 their sum.
    """
    longer, shorter = max(step_seconds, data_seconds), min(step_seconds, data_seconds)
    return longer + (1 - overlap) * shorter
