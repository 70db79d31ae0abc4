"""The flags of a search by trials: what they are, what is refused, and what workers are told."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from autoprog.bounds import Many, SomeShare, Workers, range_of
from autoprog.commands.flags import LOGGER_SETTINGS, add_run_flags, changeable, words_of
from autoprog.errors import ConfigError

__all__ = ["add_trial_flags", "check_trials", "from_anywhere", "worker_words"]


def add_trial_flags(group: argparse._ArgumentGroup) -> None:
    """Add how many trials, of what size, by which workers and where they are recorded."""
    trials = "really train N schedules on a share of the data, then the best of them at full length"
    _add(group, "--trials", type=range_of(Many), metavar="N", help=trials)
    proxy = "share of the images and of the epochs that trials take, or a whole search (1)"
    _add(group, "--proxy", type=range_of(SomeShare), metavar="S", help=proxy)
    group.add_argument(
        "-j",
        "--jobs",
        type=range_of(Workers),
        default=1,
        metavar="N",
        help="workers that carry out trials (1)",
    )
    join = "work on the trials of a run that another process has begun"
    group.add_argument("--join", metavar="RUN", help=join)
    storage = (
        "Optuna storage URL for trials, such as sqlite:///trials.db (a journal in the run folder)"
    )
    _add(group, "--storage", metavar="URL", help=storage)


def check_trials(args: argparse.Namespace, by_trials: bool) -> None:
    """Refuse what is for trials without them, and what several workers cannot share.

    Raises:
        ConfigError: If any of that is given.
    """
    given = {"-j": getattr(args, "jobs", 1) != 1, "--storage": hasattr(args, "storage")}
    for flag, is_given in given.items():
        if is_given and not by_trials:
            raise ConfigError(flag, "", "must come with --trials N, whose workers it is for")
    device = getattr(args, "device", "")
    if by_trials and device.startswith("cuda:"):
        cure = f"set CUDA_VISIBLE_DEVICES={device.removeprefix('cuda:')}"
        raise ConfigError("--device", "", "must leave the number to the workers", device, cure)


def from_anywhere(storage: str) -> str:
    """Return the URL of a database that means the same file to workers in other folders."""
    scheme, _, path = storage.partition(":///")
    if not scheme.startswith("sqlite") or not path.strip("/") or ":memory:" in path:
        return storage
    return f"{scheme}:///{Path(path).absolute()}"


def worker_words(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the flags that say how trials are carried out, for the workers."""
    parser = argparse.ArgumentParser()
    add_run_flags(parser)
    names = changeable("search").difference(LOGGER_SETTINGS)
    return tuple(words_of(args, (one for one in parser._actions if one.dest in names)))


def _add(group: argparse._ArgumentGroup, flag: str, **options: Any) -> None:
    group.add_argument(flag, default=argparse.SUPPRESS, **options)
