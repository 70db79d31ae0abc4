"""How long a search is: a share of the time of a plain training, or as many epochs."""

from __future__ import annotations

import argparse

from autoprog.bounds import SomeShare, range_of
from autoprog.errors import ConfigError

__all__ = ["TIME_SHARE", "add_length_flags", "given_time_share"]

TIME_SHARE = 0.5
"""Length of a search where nothing is said, relative to the time of the full model over the same epochs."""


def add_length_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say how long a search is."""
    group.add_argument(
        "--time-share",
        type=range_of(SomeShare),
        default=argparse.SUPPRESS,
        metavar="S",
        help=f"time of the steps of the run, relative to the full model over --epochs; how many epochs that"
        f" makes is an outcome ({TIME_SHARE})",
    )
    group.add_argument(
        "--same-epochs",
        action="store_true",
        default=argparse.SUPPRESS,
        help="train for --epochs epochs, whatever they take",
    )


def given_time_share(args: argparse.Namespace) -> float | None:
    """Return the length of a search relative to the time of its epochs; None if it is as long as these.

    Raises:
        ConfigError: If two lengths are given.
    """
    given = getattr(args, "time_share", None)
    if hasattr(args, "same_epochs"):
        if given is not None:
            raise ConfigError("--same-epochs", "", "must not be given together with --time-share")
        return None
    by_default = getattr(args, "rule", "rollout") == "rollout" and not hasattr(args, "trials")
    return TIME_SHARE if given is None and by_default else given
