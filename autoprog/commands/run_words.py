"""Words of the command line that mean a run without being its path: ``last``, a folder of runs, a name."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from autoprog.errors import ConfigError
from autoprog.locate import is_last, is_word, locate_run, locate_schedule, runs_in
from autoprog.presets import PRESETS
from autoprog.printable import one_line, say

__all__ = ["named_run", "put_paths"]


def named_run(word: str, runs_dir: str = "runs") -> Path:
    """Return the run that a word means; standard error says which one that is, unless the word does.

    Raises:
        ConfigError: If there is no such run.
    """
    path = locate_run(word, runs_dir)
    _say_which(word, path)
    return path


def put_paths(args: argparse.Namespace) -> None:
    """Replace the words for runs in the flags of a search or a training by paths.

    Raises:
        ConfigError: If there is no such run, or the newest one could be this very run.
    """
    if args.resume not in (None, "auto"):
        args.resume = str(named_run(args.resume, args.runs_dir))
    for name, locate in (("schedule", locate_schedule), ("initial_checkpoint", locate_run)):
        word = getattr(args, name, None)
        if word is None or word in PRESETS:
            continue
        # --initial-checkpoint may also name a folder of weights, which is left as it is.
        is_run = name == "schedule" and os.path.isfile(os.path.join(word, "run.yaml"))
        holds_runs = os.path.isdir(word) and bool(runs_in(Path(word)))
        if not (is_run or holds_runs or is_word(word, args.runs_dir)):
            continue
        # The newest run would be this very one: begun by another rank, or the one to resume.
        if is_last(word) and (args.resume is not None or "WORLD_SIZE" in os.environ):
            problem, hint = "must be a path with --resume and under torchrun", "name the run"
            raise ConfigError(f"--{name.replace('_', '-')}", "", problem, word, hint)
        path = locate(word, args.runs_dir)
        _say_which(word, path)
        setattr(args, name, str(path))


def _say_which(word: str, path: Path) -> None:
    if Path(word).name not in (path.name, path.parent.name) and os.environ.get("RANK", "0") == "0":
        say(one_line(f"autoprog: {word} is {path}"), file=sys.stderr)
