"""The flags of a search that checks its estimates."""

from __future__ import annotations

import argparse
from typing import Any

from autoprog.bounds import Compared, Epochs, Few, Index, range_of
from autoprog.errors import ConfigError
from autoprog.fidelity import FidelitySettings
from autoprog.files import parse

__all__ = ["add_fidelity_flags", "given_fidelity"]

_FLAGS = {
    "candidates": "fidelity",
    "at": "fidelity_at",
    "epochs": "fidelity_epochs",
    "seeds": "fidelity_seeds",
    "begin": "fidelity_from",
}


def add_fidelity_flags(group: argparse._ArgumentGroup) -> None:
    """Add what is trained for real, at which decision and how."""
    check = "check the estimates of one decision: really train N subnets, at extra cost"
    _add(group, "--fidelity", type=range_of(Compared), metavar="N", help=check)
    _add(
        group,
        "--fidelity-at",
        type=range_of(Index),
        metavar="K",
        help="number of that decision (0)",
    )
    length = "length of each training (that of the supernet phase)"
    _add(group, "--fidelity-epochs", type=range_of(Epochs), metavar="E", help=length)
    _add(
        group,
        "--fidelity-seeds",
        type=range_of(Few),
        metavar="S",
        help="trainings of each subnet (2)",
    )
    begin = "begin with the network before the supernet phase, or new weights (start)"
    _add(group, "--fidelity-from", choices=["start", "scratch"], help=begin)


def given_fidelity(args: argparse.Namespace) -> FidelitySettings | None:
    """Return how estimates are to be checked, if they are.

    Raises:
        ConfigError: If a value breaks a law, or there is nothing to be checked.
    """
    given = {key: getattr(args, flag) for key, flag in _FLAGS.items() if hasattr(args, flag)}
    if not given:
        return None
    flag = "--" + _FLAGS[next(iter(given))].replace("_", "-")
    if not hasattr(args, "fidelity"):
        raise ConfigError(flag, "", "must be given together with --fidelity")
    if hasattr(args, "trials"):
        raise ConfigError(flag, "", "must be left out with --trials, which estimate nothing")
    return parse(FidelitySettings, given, flag)


def _add(group: argparse._ArgumentGroup, flag: str, **options: Any) -> None:
    group.add_argument(flag, default=argparse.SUPPRESS, **options)
