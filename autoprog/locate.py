"""Which run folder a word on the command line means: a path, the name of a run, or the newest run."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from autoprog.errors import ConfigError, suggest

__all__ = ["LAST", "is_last", "is_word", "locate_run", "locate_schedule", "runs_in"]

LAST = ("last", "@last")
"""Words for the newest run; the first one gives way to a file or folder of that name."""

_MAX_NAMES = 5


def is_word(word: str, runs_dir: str | Path = "runs") -> bool:
    """Return whether a word means a run without being a path: ``last``, or a run's name."""
    by_name = not Path(word).exists() and (Path(runs_dir) / word / "run.yaml").is_file()
    return is_last(word) or by_name


def is_last(word: str) -> bool:
    """Return whether a word means the newest run, whichever that is."""
    return word == LAST[1] or (word == LAST[0] and not Path(word).exists())


def runs_in(folder: Path) -> list[Path]:
    """Return the run folders in a folder, the newest first; a link to one counts, hidden ones do not."""
    found = [file.parent for file in folder.glob("*/run.yaml") if file.parent.name[0] != "."]
    return sorted(found, key=_begun, reverse=True)


def locate_run(word: str, runs_dir: str | Path = "runs") -> Path:
    """Return the run folder that a word means.

    Args:
        word: Path of a run folder; ``last``; a folder of runs, for the newest one in it; or the name of a run
            in `runs_dir`.
        runs_dir: Where runs lie.

    Raises:
        ConfigError: If there is no such run.
    """
    path, place = Path(word), Path(runs_dir)
    if (path / "run.yaml").is_file():
        return path
    if is_last(word):  # a folder of that name goes before, unless it is @last
        return _newest(word, place)
    if path.is_dir():
        return _newest(word, path)
    if (place / word / "run.yaml").is_file():
        return place / word
    names = [run.name for run in runs_in(place)]
    near = suggest(path.name, names, list_all=False)
    hint = near or ("last means the newest run" if names else "")
    raise ConfigError(word, "", "must be a run folder with a run.yaml in it", hint=hint)


def locate_schedule(word: str, runs_dir: str | Path = "runs") -> Path:
    """Return the schedule file of the run that a word means: what a search found, else what was trained.

    Raises:
        ConfigError: If there is no such run, or it has no schedule yet.
    """
    run = locate_run(word, runs_dir)
    found = [run / name for name in ("best.yaml", "schedule.yaml") if (run / name).is_file()]
    if not found:
        problem = "must have a best.yaml or a schedule.yaml"
        raise ConfigError(str(run), "", problem, hint="its search has found none yet")
    return found[0]


def _newest(word: str, folder: Path) -> Path:
    """Return the newest run of a folder.

    Raises:
        ConfigError: If there is none; it says what the folder holds instead.
    """
    found = runs_in(folder)
    if found:
        return found[0]
    if not folder.is_dir():
        problem = f"must be a run, and there is no folder {folder} in {Path.cwd()}"
        raise ConfigError(word, "", problem, hint="name a run folder, or a folder of runs")
    deeper = {file.parent.parent for file in folder.glob("*/*/run.yaml")}
    inside = _listed(one.name for one in folder.iterdir()) or "nothing"
    hint = f"runs lie in {_listed(map(str, deeper))}" if deeper else f"it holds {inside}"
    problem = "must be a run folder with a run.yaml in it, or a folder of such folders"
    raise ConfigError(str(folder) if is_last(word) else word, "", problem, hint=hint)


def _listed(names: Iterable[str]) -> str:
    """Return the first few names, and how many more there are."""
    ordered = sorted(names)
    first = ", ".join(ordered[:_MAX_NAMES])
    more = len(ordered) - _MAX_NAMES
    return f"{first} and {more} more" if more > 0 else first


def _begun(run: Path) -> tuple[float, int, str]:
    """Return by what runs are ordered: when it was begun, as it says itself."""
    # A search for one line: parsing the YAML of hundreds of runs would take seconds.
    file = run / "run.yaml"
    with suppress(OSError, StopIteration, ValueError):
        with file.open(encoding="utf-8") as lines:
            text = next(line for line in lines if line.startswith("created:"))
        begun = datetime.fromisoformat(text.removeprefix("created:").strip(" \n'\""))
        return begun.timestamp(), file.stat().st_mtime_ns, run.name
    return 0.0, 0, run.name  # damaged, so after all others
