"""Cells of the cost table: all that the seconds of a step depend on in one run, and a name for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product, starmap
from typing import Literal

from autoprog.space import SearchSpace, by_size
from autoprog.stage import Training, Unfrozen
from supernet.config import ALL_TOKENS, ModelSpec, SubnetConfig, TokenRule

__all__ = ["CostCell", "cell_name", "cell_of_step", "full_cell", "space_cells"]

_NAME = re.compile(
    r"d(?P<depth>[0-9]{1,4}(?:\+[0-9]{1,4})?) r(?P<size>[0-9]{1,5})"
    r"(?: k(?P<rate>[0-9.e+-]{1,24})(?: (?P<by>\w+)@(?P<places>[0-9]{1,4}(?:,[0-9]{1,4})*))?)?"
    r" b(?P<batch>[0-9]{1,8})(?P<fourier> fourier)?(?: u(?P<level>[0-9]{1,4})/(?P<every>[0-9]{1,4}))?"
)


@dataclass(frozen=True, slots=True)
class CostCell:
    """A kind of step.

    Attributes:
        subnet: What it trains, with its tokens.
        batch_size: Images, over all processes.
        shrink_by: How images come to the subnet's size: in the loader, or cut on the device.
        unfrozen: Which blocks train; None for all.
    """

    subnet: SubnetConfig
    batch_size: int
    shrink_by: Literal["resize", "fourier"] = "resize"
    unfrozen: Unfrozen | None = None

    def __post_init__(self) -> None:
        if self.unfrozen is not None and self.unfrozen.share == 1:  # one value for one meaning
            object.__setattr__(self, "unfrozen", None)

    @property
    def name(self) -> str:
        """Return a text such as ``d6 r128 b1024`` or ``d12 r160 k0.5 b512 fourier u2/4``."""
        fourier = " fourier" if self.shrink_by == "fourier" else ""
        some = "" if self.unfrozen is None else f" u{self.unfrozen.level}/{self.unfrozen.every}"
        return f"{self.subnet} b{self.batch_size}{fourier}{some}"

    @classmethod
    def parse(cls, name: str) -> CostCell | None:
        """Return the cell of that name; None if it is the name of none."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        try:
            subnet = SubnetConfig(
                [int(blocks) for blocks in found["depth"].split("+")],
                int(found["size"]),
                _tokens(found),
            )
            every = found["every"]
            some = None if every is None else Unfrozen(every=int(every), level=int(found["level"]))
        except ValueError:  # numbers that are none, or break a law of their type
            return None
        return cls(subnet, int(found["batch"]), "fourier" if found["fourier"] else "resize", some)

    def loaded_px(self, full_px: int) -> int:
        """Return the size in px at which the loader delivers its images."""
        return full_px if self.shrink_by == "fourier" else self.subnet.img_size


def cell_name(subnet: SubnetConfig, batch_size: int) -> str:
    """Return the name of the cell of a plain step, such as ``d6 r128 b1024``."""
    return CostCell(subnet, batch_size).name


def cell_of_step(
    spec: ModelSpec, subnet: SubnetConfig, training: Training, batch_size: int
) -> CostCell:
    """Return the cell of a step that is no sandwich; `batch_size` is the recipe's."""
    cut = training.shrink_by == "fourier" and subnet.img_size != spec.img_size
    images = max(1, round(batch_size * training.batch_scale))
    return CostCell(subnet, images, "fourier" if cut else "resize", training.unfrozen)


def full_cell(spec: ModelSpec, batch_size: int) -> CostCell:
    """Return the cell of a plain step of the full model."""
    return CostCell(spec.full, batch_size)


def space_cells(space: SearchSpace, batch_size: int) -> tuple[CostCell, ...]:
    """Return the cell of each subnet of a space at each of its batch sizes, smallest first."""
    subnets = sorted(
        starmap(SubnetConfig, product(space.depths, space.sizes, space.keep_rates)), key=by_size
    )
    scales = sorted(space.axes.batch_scale.values)
    return tuple(
        cell_of_step(space.spec, subnet, Training(batch_scale=scale), batch_size)
        for scale in scales
        for subnet in subnets
    )


def _tokens(found: re.Match[str]) -> TokenRule:
    if found["rate"] is None:
        return ALL_TOKENS
    if found["by"] is None:
        return TokenRule(float(found["rate"]))
    places = tuple(int(place) for place in found["places"].split(","))
    return TokenRule(float(found["rate"]), found["by"], places)
