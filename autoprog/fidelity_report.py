"""How far estimates can be trusted: what ``fidelity.jsonl`` and ``fidelity.json`` hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from autoprog import migration
from autoprog.bounds import (
    Amount,
    Compared,
    Correlation,
    CorrelationGain,
    Count,
    Epochs,
    Few,
    Index,
    Measured,
    PassedEpochs,
    Seconds,
    Seed,
    Steps,
)
from autoprog.files import FileModel, append_row, json_text, parse, read_object, read_rows
from autoprog.openfiles import write_atomically
from autoprog.options import Option
from autoprog.subnets import Subnet

__all__ = [
    "Agreement",
    "ComparedSubnet",
    "FidelityReport",
    "FidelitySettings",
    "FidelitySummary",
    "RealTraining",
    "append_training",
    "read_fidelity",
    "read_trainings",
    "write_fidelity",
]

Start = Literal["start", "scratch"]

_TRAININGS, _REPORT = "fidelity.jsonl", "fidelity.json"
_MAX_TRAININGS = 10_000


class FidelitySettings(FileModel):
    """How the estimates of a decision are checked against real trainings.

    Attributes:
        candidates: The most subnets that are trained.
        at: Number of the decision, of those that train a supernet.
        epochs: Length of each training; None is that of the supernet phase.
        seeds: Trainings of each subnet.
        begin: From the network that the supernet was grown from, or from new weights.
    """

    candidates: Annotated[
        Compared,
        Option(
            "check the estimates of one decision: really train N subnets, at extra cost",
            flag="fidelity",
            metavar="N",
        ),
    ]
    at: Annotated[
        Index, Option("number of that decision", flag="fidelity-at", needs="fidelity", metavar="K")
    ] = 0
    epochs: Annotated[
        Epochs | None,
        Option(
            "length of each training",
            flag="fidelity-epochs",
            needs="fidelity",
            metavar="E",
            default="that of the supernet phase",
        ),
    ] = None
    seeds: Annotated[
        Few,
        Option("trainings of each subnet", flag="fidelity-seeds", needs="fidelity", metavar="S"),
    ] = 2
    begin: Annotated[
        Start,
        Option(
            "begin with the network before the supernet phase, or with new weights",
            flag="fidelity-from",
            needs="fidelity",
        ),
    ] = "start"


class RealTraining(FileModel):
    """One subnet trained by itself: a line of ``fidelity.jsonl``.

    ``seed`` counts the trainings of a subnet from 0. ``loss`` is that of the held-out slice, at the
    subnet's own size; None if it is not finite.
    """

    subnet: Subnet
    seed: Seed
    loss: Measured | None
    seconds: Seconds


class ComparedSubnet(FileModel):
    """A subnet with its estimate and the losses of its real trainings, one a seed.

    ``relative_cost`` are its multiply-accumulates as a fraction of those of the full model.
    """

    subnet: Subnet
    relative_cost: Amount
    estimate: Measured
    losses: tuple[Measured | None, ...]

    @property
    def loss(self) -> float | None:
        """Return the mean over seeds; None if one of them is not finite."""
        known = [loss for loss in self.losses if loss is not None]
        return sum(known) / len(known) if len(known) == len(self.losses) else None


class Agreement(FileModel):
    """How the order of subnets by estimate agrees with that by real training, over some of their pairs.

    All are Kendall's tau-b in -1..1, or None where too few pairs are in any order.

    Attributes:
        pairs: Pairs that are compared.
        tau: Of the estimates.
        low: Lower end of the bootstrap 95 % interval of ``tau``, over subnets.
        high: Upper end.
        null_tau: Of the predictor that needs no supernet: more multiply-accumulates, lower loss.
        gain_low: Lower end of the bootstrap 95 % interval of ``tau`` - ``null_tau``, on the same draws.
        gain_high: Upper end.
        seeds_tau: Of one real training against another; what can be expected at best.
    """

    pairs: Count
    tau: Correlation | None
    low: Correlation | None
    high: Correlation | None
    null_tau: Correlation | None
    gain_low: CorrelationGain | None
    gain_high: CorrelationGain | None
    seeds_tau: Correlation | None


class FidelityReport(FileModel):
    """``fidelity.json``: estimates against real trainings at one decision.

    ``epochs`` is the length of each training, ``seconds`` what all of them took. ``overall`` compares all
    pairs of subnets, ``equal_cost`` those whose costs differ by no more than ``cost_ratio``, and
    ``beyond_seed_noise`` those whose real losses differ by more than their seeds do; None with one seed.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    decision: Index
    step: Steps
    begin: Start
    epochs: PassedEpochs
    seeds: Count
    subnets: tuple[ComparedSubnet, ...]
    overall: Agreement
    equal_cost: Agreement
    beyond_seed_noise: Agreement | None = None
    cost_ratio: Amount
    seconds: Seconds

    @property
    def summary(self) -> FidelitySummary:
        """Return what a schedule says of it."""
        whole = self.overall
        return FidelitySummary(
            tau=whole.tau,
            low=whole.low,
            high=whole.high,
            n=len(self.subnets),
            null_tau=whole.null_tau,
        )


class FidelitySummary(FileModel):
    """Kendall's tau of the estimates on ``n`` subnets with its 95 % interval, and that of cost alone."""

    tau: Correlation | None
    low: Correlation | None
    high: Correlation | None
    n: Count
    null_tau: Correlation | None


def append_training(run: Path, training: RealTraining) -> None:
    """Append a finished training to the run folder and wait until it is on disk."""
    append_row(run / _TRAININGS, training.model_dump(mode="json"))


def read_trainings(run: Path) -> list[RealTraining]:
    """Return the finished trainings; a half-written last line is left out.

    Raises:
        ConfigError: If a line is not one of them.
    """
    path = run / _TRAININGS
    return [parse(RealTraining, row, str(path)) for row in read_rows(path, _MAX_TRAININGS)]


def write_fidelity(run: Path, fidelity: FidelityReport) -> None:
    """Write the report into the run folder."""
    body = fidelity.model_dump(mode="json", by_alias=True)
    write_atomically(run / _REPORT, json_text(body))


def read_fidelity(run: Path) -> FidelityReport | None:
    """Return the report of a run, if there is one.

    Raises:
        ConfigError: If it is not one of this version of autoprog.
    """
    path = run / _REPORT
    if not path.exists():
        return None
    return parse(FidelityReport, migration.fidelity(read_object(path)), str(path))
