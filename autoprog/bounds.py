"""The numbers that files and flags may hold, each with the least and the greatest that make sense.

A name here says what is counted or measured. As the annotation of a field it refuses everything else in a
file, truth values and texts too; :func:`range_of` makes the same of a word of the command line. The bounds
are far beyond any run that was ever made, and near enough that nothing which is built from such a number
takes all of the memory or a day. pydantic is imported by those who have fields: flags do without.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from autoprog.printable import brief

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

__all__ = [
    "MAX_STEPS",
    "Amount",
    "AnyEpochs",
    "Aspect",
    "BatchSize",
    "BlockNumber",
    "Blocks",
    "Budget",
    "Bytes",
    "Channels",
    "Classes",
    "Compared",
    "Correlation",
    "CorrelationGain",
    "Count",
    "CropPct",
    "CurveValue",
    "Days",
    "DropPath",
    "Epochs",
    "Few",
    "FewOrNone",
    "FewValues",
    "FractionBelowOne",
    "GradientNorm",
    "Heads",
    "Index",
    "Jitter",
    "Length",
    "LevelEpochs",
    "LoaderProcesses",
    "Many",
    "Measured",
    "MicroBatches",
    "Minutes",
    "MixingAlpha",
    "OpenFraction",
    "PassedEpochs",
    "Percent",
    "Points",
    "Port",
    "PositiveFraction",
    "PrefixTokens",
    "ProcessNumber",
    "Processes",
    "Proposals",
    "Px",
    "RampEnd",
    "Range",
    "Rate",
    "Scale",
    "Seconds",
    "Seed",
    "Several",
    "SignedSeconds",
    "SomeAmount",
    "SomeRate",
    "SomeScale",
    "SomeSeconds",
    "SomeSteps",
    "Steps",
    "TerminalSize",
    "Threads",
    "Ticks",
    "Times",
    "UnitInterval",
    "UnixSeconds",
    "Visits",
    "WeightDecay",
    "WhiteLevel",
    "Width",
    "WidthRatio",
    "Workers",
    "WorldSize",
    "range_of",
    "ranges_in",
]

_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,4})?")
_WHOLE_NUMBER = re.compile(r"[-+]?[0-9]+")
MAX_STEPS = 10**9
_MAX_DIGITS = 400  # Python refuses whole numbers of more than 4,300 with an error of its own


@dataclass(frozen=True)
class Range:
    """The numbers from ``low`` to ``high``.

    Attributes:
        low: The least.
        high: The greatest.
        whole: Whether only whole numbers are.
        or_zero: Whether 0 is as well, below ``low``.
        word: What may stand in place of a number, such as ``auto``; empty if nothing may.
    """

    low: float
    high: float
    whole: bool = False
    or_zero: bool = False
    word: str = ""

    @property
    def problem(self) -> str:
        """Return what must hold, for errors."""
        kind = "a whole number" if self.whole else "a number"
        kind = f"0 or {kind}" if self.or_zero else kind
        word = f" or {self.word!r}" if self.word else ""
        return f"must be {kind} from {_text(self.low)} to {_text(self.high)}{word}"

    def __contains__(self, number: float) -> bool:
        """Tell whether a number is one of them."""
        return self.low <= number <= self.high or (self.or_zero and number == 0)

    def __call__(self, text: str) -> int | float | str:
        """Return the number that a word of the command line is, as argparse asks for it."""
        if self.word and text == self.word:
            return text
        is_whole = _WHOLE_NUMBER.fullmatch(text) is not None
        if len(text) <= _MAX_DIGITS and (is_whole if self.whole else _NUMBER.fullmatch(text)):
            number = int(text) if is_whole else float(text)
            if number in self:
                return number
        raise argparse.ArgumentTypeError(f"{self.problem}, but got {brief(text)}")

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return how pydantic checks a value of a file, with one error for all that can be wrong."""
        from pydantic_core import core_schema as core

        numbers: list[CoreSchema | tuple[CoreSchema, str]]
        if self.whole:
            low, high = int(self.low), int(self.high)
            counted = core.int_schema(ge=low, le=high)  # takes 12.0 as well, and 12.5 never
            numbers = [
                core.int_schema(strict=True, ge=low, le=high),
                core.chain_schema([core.float_schema(strict=True), counted]),
            ]
        else:
            numbers = [core.float_schema(strict=True, ge=self.low, le=self.high)]
            if self.or_zero:
                numbers.append(core.float_schema(strict=True, ge=0, le=0))
        if self.word:
            numbers.append(core.literal_schema([self.word]))
        return core.custom_error_schema(
            core.union_schema(numbers, mode="left_to_right"),
            custom_error_type="number_type",
            custom_error_message=self.problem,
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return what a JSON Schema says of it, for editors."""
        kind = "integer" if self.whole else "number"
        low = 0 if self.or_zero else self.low
        number = {"type": kind, "minimum": low, "maximum": self.high}
        return {"anyOf": [number, {"const": self.word}]} if self.word else number


def _text(number: float) -> str:
    """Return a bound as errors write it: 1,048,576 and 1e-06, but 2^63 - 1 in short."""
    if isinstance(number, int):
        return f"{number:,}" if abs(number) < 10**15 else f"{number + 1:.4g}"
    return f"{number:g}"


def range_of(number: Any) -> Range:
    """Return the ``type`` of a flag for one of the numbers below."""
    (found,) = ranges_in(number)
    return found


def ranges_in(annotation: Any) -> Iterator[Range]:
    """Yield the ranges in an annotation, also those inside its unions, lists and mappings."""
    if isinstance(annotation, Range):
        yield annotation
    for part in get_args(annotation):
        yield from ranges_in(part)


class FewValues(argparse.Action):
    """Stores the list of a flag with ``nargs``, of at most :attr:`most` values."""

    most = 64

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the values (a method that argparse calls)."""
        if values is not None and len(values) > self.most:
            problem = f"must be at most {self.most} values, but got {len(values):,} of them"
            raise argparse.ArgumentError(self, problem)
        setattr(namespace, self.dest, values)


# Counts.
# Images, pairs, ticks: things of which there may be none. The largest public set has 6 · 10^9 images.
Count = Annotated[int, Range(0, 10**10, whole=True)]
# What each costs a training or a loop over all others: stages, decisions, candidates, repeats.
Few = Annotated[int, Range(1, 1_000, whole=True)]
# Subnets whose order is compared: of fewer there is none to speak of.
Compared = Annotated[int, Range(4, 1_000, whole=True)]
Several = Annotated[int, Range(2, 1_000, whole=True)]
# What each costs a moment: trials, evaluations, timed steps.
Many = Annotated[int, Range(1, 100_000, whole=True)]
# Schedules of one decision: Optuna takes milliseconds for each, and more of them as they get more.
Proposals = Annotated[int, Range(1, 2_000, whole=True)]
FewOrNone = Annotated[int, Range(0, 1_000, whole=True)]
# The number of one of a list that is counted from 0.
Index = Annotated[int, Range(0, 10**6, whole=True)]
Steps = Annotated[int, Range(0, MAX_STEPS, whole=True)]
SomeSteps = Annotated[int, Range(1, MAX_STEPS, whole=True)]
Bytes = Annotated[int, Range(0, 2**50, whole=True)]
# torch and numpy take seeds of 63 bits.
Seed = Annotated[int, Range(0, 2**63 - 1, whole=True)]
ProcessNumber = Annotated[int, Range(0, 2**31 - 1, whole=True)]
Ticks = Annotated[int, Range(0, 2**63 - 1, whole=True)]

# How a machine is used.
# OpenMP fails to make a million threads by a segmentation fault.
Threads = Annotated[int, Range(1, 1_024, whole=True)]
LoaderProcesses = Annotated[int | Literal["auto"], Range(0, 256, whole=True, word="auto")]
Workers = Annotated[int, Range(1, 256, whole=True)]
Processes = Annotated[int, Range(1, 1_024, whole=True)]
Port = Annotated[int, Range(1, 65_535, whole=True)]
WorldSize = Annotated[int, Range(1, 10**6, whole=True)]
TerminalSize = Annotated[int, Range(2, 10_000, whole=True)]

# Images and networks.
BatchSize = Annotated[int, Range(1, 2**20, whole=True)]
MicroBatches = Annotated[int, Range(1, 2**16, whole=True)]
Px = Annotated[int, Range(1, 4_096, whole=True)]
Blocks = Annotated[int, Range(1, 1_000, whole=True)]
BlockNumber = Annotated[int, Range(0, 999, whole=True)]
Width = Annotated[int, Range(1, 32_768, whole=True)]
Channels = Annotated[int, Range(1, 1_024, whole=True)]
Heads = Annotated[int, Range(1, 512, whole=True)]
PrefixTokens = Annotated[int, Range(0, 1_024, whole=True)]
WidthRatio = Annotated[float, Range(1e-3, 64)]
Classes = Annotated[int, Range(1, 10**6, whole=True)]
WhiteLevel = Annotated[float, Range(1e-6, 1e9)]

# Lengths and times.
Epochs = Annotated[float, Range(1e-6, 100_000)]
# A part of a stage, which may be one of a thousand levels of a ramp.
LevelEpochs = Annotated[float, Range(1e-9, 100_000)]
AnyEpochs = Annotated[float, Range(1e-6, 100_000, or_zero=True)]
# Of a run by time there may be more than anybody asks for.
PassedEpochs = Annotated[float, Range(0, 1e9)]
# Of a stage, in whatever unit: down to one of a thousand stages of the shortest run.
Length = Annotated[float | Literal["rest"], Range(1e-9, MAX_STEPS, word="rest")]
Seconds = Annotated[float, Range(0, 1e10)]
SignedSeconds = Annotated[float, Range(-1e10, 1e10)]
# What a step takes: no nanosecond is measured.
SomeSeconds = Annotated[float, Range(1e-9, 1e10)]
# Seconds that somebody grants: up to ten years.
Budget = Annotated[float, Range(1e-3, 10 * 365 * 86_400)]
# Since 1970; the calendar of Python ends in the year 9999.
UnixSeconds = Annotated[float, Range(0, 1e11)]
Minutes = Annotated[float, Range(0, 10 * 365 * 1_440)]
# Steps that each subnet of a supernet phase gets, on average.
Visits = Annotated[float, Range(1e-3, 10**6)]
Days = Annotated[float, Range(0, 100_000)]

# Shares, rates and measures.
UnitInterval = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(1e-6, 1)]
OpenFraction = Annotated[float, Range(1e-6, 1 - 1e-6)]
FractionBelowOne = Annotated[float, Range(0, 1 - 1e-6)]
# Of an image size, a keep-rate, a magnitude or a rate.
RampEnd = Annotated[float, Range(1e-6, 4_096, or_zero=True)]
# One of them on the way, of as many levels as there may be.
CurveValue = Annotated[float, Range(1e-12, 4_096, or_zero=True)]
# Images are enlarged by its inverse before they are cropped.
CropPct = Annotated[float, Range(0.25, 1)]
DropPath = Annotated[float, Range(0, 0.99)]
# A mean over classes may come out above 100 by rounding.
Percent = Annotated[float, Range(0, 100 + 1e-6)]
Points = Annotated[float, Range(1e-6, 100)]
Correlation = Annotated[float, Range(-1, 1)]
CorrelationGain = Annotated[float, Range(-2, 2)]
SomeRate = Annotated[float, Range(1e-12, 1_000)]
Rate = Annotated[float, Range(0, 1_000)]
WeightDecay = Annotated[float, Range(0, 1_000)]
GradientNorm = Annotated[float, Range(1e-9, 1e9, or_zero=True)]
# Of a beta distribution, from which numpy draws what is no number for still smaller ones.
MixingAlpha = Annotated[float, Range(1e-6, 1_000, or_zero=True)]
Jitter = Annotated[float, Range(0, 10)]
Aspect = Annotated[float, Range(0.01, 100)]
SomeScale = Annotated[float, Range(1e-3, 64)]
Scale = Annotated[float, Range(1e-3, 64, or_zero=True)]
Times = Annotated[float, Range(1e-3, 1_000)]
# Whatever a run measures or predicts: what float32 can hold, so that diverging runs can be written down.
Measured = Annotated[float, Range(-3.4e38, 3.4e38)]
Amount = Annotated[float, Range(0, 3.4e38)]
SomeAmount = Annotated[float, Range(1e-12, 3.4e38)]
