"""A run that goes on: which one ``--resume`` names, what may be another then, and what it may reach for.

A run folder may come from somebody else: what its ``run.yaml`` asks for outside it is refused unless the
command line says it again.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprog.accuracy import class_difference
from autoprog.cli import build_parser
from autoprog.commands.configure import Configured
from autoprog.commands.flags import NO_SETTINGS, absolute, absolute_storage_url, flag_of
from autoprog.commands.run_manifest import absolute_paths, recorded_data, with_absolute_paths
from autoprog.data.open_data import open_data
from autoprog.errors import ConfigError, command
from autoprog.files import parse
from autoprog.locate import runs_in
from autoprog.options import flag_words, flags_of_model
from autoprog.outside_access import Ask, asks_of, asks_of_data, repeatable
from autoprog.runs import Run, is_written_now, load_run
from autoprog.settings import (
    OUTSIDE,
    DataSettings,
    RecordedData,
    RunSettings,
    changed_on_resume,
)
from autoprog.train.checkpoint import load_newest
from autoprog.train.ranks import Ranks

__all__ = [
    "carried_out_by",
    "check_asks",
    "check_data_asks",
    "newest_unfinished",
    "recorded_run",
    "shown_words",
    "unfinished_like",
    "with_data_of",
    "words_to_repeat",
]

# --------------------------------------------------------------------------------------------------
# Which run goes on.


def newest_unfinished(args: argparse.Namespace, ranks: Ranks) -> Path:
    """Return the newest run of this command that can go on, as rank 0 finds it.

    One that a process is writing now is the last choice.

    Raises:
        ConfigError: If there is none.
    """
    needed = "schedule.yaml" if args.command == "train" else "run.yaml"
    unfinished = []
    for folder in runs_in(Path(args.runs_dir)) if ranks.is_main else ():
        if (folder / "result.json").exists() or not (folder / needed).exists():
            continue
        # One of another version, or damaged, is none of this command line's business.
        with suppress(ConfigError):
            if load_run(folder).manifest.settings.kind == args.command:
                unfinished.append(folder)
    name = ranks.broadcast(str(min(unfinished, key=is_written_now)) if unfinished else "")
    if not name:
        problem = f"there is no unfinished {args.command} run in {args.runs_dir}"
        raise ConfigError("--resume auto", "", problem, hint="without --resume a new one begins")
    return Path(name)


def unfinished_like(runs_dir: Path, configured: Configured, ranks: Ranks) -> Path | None:
    """Return the newest unfinished run with these settings and this schedule, as rank 0 finds it."""
    unfinished = None
    if ranks.is_main:
        unfinished = next((one for one in runs_in(runs_dir) if _goes_on_as(one, configured)), None)
    name = ranks.broadcast(str(unfinished or ""))
    return Path(name) if name else None


def _goes_on_as(folder: Path, configured: Configured) -> bool:
    """Return whether a run is unfinished and has these settings, these images and this schedule."""
    if (folder / "result.json").exists():
        return False
    try:
        run = load_run(folder)
    except ConfigError:
        return False  # of another version, or damaged: none of this command line's business
    before, now = map(with_absolute_paths, (run.manifest.settings, configured.settings))
    place = {"dir", "data_dir"}
    if before.data.model_dump(exclude=place) != now.data.model_dump(exclude=place):
        return False
    # Images may lie elsewhere now; then their digests say whether they are the same ones.
    if before.data != now.data and run.manifest.data != recorded_data(configured.opened):
        return False
    if now.kind == "train" and run.schedule != configured.schedule:
        return False
    free = {*changed_on_resume(before.kind), "data"}
    return before.model_dump(exclude=free) == now.model_dump(exclude=free)


# --------------------------------------------------------------------------------------------------
# What it goes on with: its settings with the flags over them that a resume may change, and its images.


def recorded_run(args: argparse.Namespace, path: Path) -> Configured:
    """Return what a run folder says, with the flags that a resume may change laid over it."""
    run = load_run(path)
    settings = run.manifest.settings
    if settings.kind != args.command:
        hint = f"use {command(settings.kind, '--resume', path)}"
        raise ConfigError("--resume", "", f"must be a {args.command} run", str(path), hint)
    if run.result is not None:
        hint = f"see {command('show', path)}"
        raise ConfigError("--resume", "", "must be an unfinished run", str(path), hint)
    if settings.kind == "train" and run.schedule is None:
        hint = "it was stopped before its start: start a new run"
        raise ConfigError("--resume", "", "must be a run with a schedule.yaml", str(path), hint)
    if getattr(args, "schedule", settings.schedule_from) != settings.schedule_from:
        problem = f"must be {settings.schedule_from!r}, as the run has, or be left out"
        raise ConfigError("--schedule", "", problem, args.schedule)
    kept = NO_SETTINGS | {"schedule", "data", "data_dir"}
    settings = carried_out_by(args, settings, kept, "--resume")
    settings = settings.model_copy(update={"data": moved_data(args, settings.data)})
    now = not hasattr(args, "pretrained") and loads_weights(settings, path)
    check_asks(args, settings, path, "--resume", loads_weights=now)
    configured = Configured(settings, open_data(settings.data), run.schedule)
    return with_data_of(args, configured, run)


def carried_out_by(
    args: argparse.Namespace, settings: RunSettings, kept: Collection[str], flag: str
) -> RunSettings:
    """Return recorded settings with the flags over them that say how a run is carried out here.

    What a run asks for outside its folder may be given again.

    Args:
        args: What was given.
        settings: Of the run that `flag` names.
        kept: What may be given beside them and is no setting.
        flag: Such as ``--resume``.

    Raises:
        ConfigError: If anything else is given.
    """
    again = given_again(args, settings)
    names = {name for name in vars(args) if name not in kept} - again.keys()
    if wrong := sorted(names - changed_on_resume(settings.kind)):
        problem, hint = f"must not be given with {flag} RUN", "leave it out, or start a new run"
        raise ConfigError(flag_of(wrong[0]), "", problem, hint=hint)
    # Validated as a whole: flags may not go together with what the run has.
    values = {**settings.model_dump(), **{name: getattr(args, name) for name in names}}
    values["cache"] = again.get("cache", settings.cache)
    values["data"]["data_dir"] = again.get("data_dir", settings.data.data_dir)
    return parse(RunSettings, values, "flags")


def given_again(args: argparse.Namespace, settings: RunSettings) -> dict[str, Any]:
    """Return what was given of the settings that a run has already, with paths as a run records them.

    Raises:
        ConfigError: If one of them is another value than that of the run.
    """
    values = {}
    for name, value in repeatable(settings).items():
        if not hasattr(args, name):
            continue
        again = getattr(args, name)
        if name == "storage":
            again = absolute_storage_url(again)
        elif name == "data_dir" or (name == "cache" and again != "auto"):
            again = absolute(again)
        if value is not None and again != value:
            problem = f"must be {_shown(value)!r}, as the run has, or be left out"
            raise ConfigError(flag_of(name), "", problem, _shown(again))
        values[name] = again
    return values


def moved_data(args: argparse.Namespace, data: DataSettings) -> DataSettings:
    """Return where the images of a resumed run lie now: where the flags say, or where they were.

    Raises:
        ConfigError: If a flag names a place that the run has none of.
    """
    changes = absolute_paths(data, "dir", "data_dir")
    for name, key, origin in (("data", "dir", data.dir), ("data_dir", "data_dir", data.dataset)):
        if not hasattr(args, name):
            continue
        if origin is None:
            now = "the embedded digits" if data.embedded else f"{data.dir or data.dataset}"
            problem = f"must be left out with --resume: the run trains on {now}"
            raise ConfigError(flag_of(name), "", problem, getattr(args, name))
        changes[key] = absolute(getattr(args, name))
    return data.model_copy(update=changes)


def with_data_of(args: argparse.Namespace, configured: Configured, run: Run) -> Configured:
    """Return what to go on with, after its images were compared with those that the run began with."""
    is_moved = args.resume != "auto" and (hasattr(args, "data") or hasattr(args, "data_dir"))
    now, allowed = recorded_data(configured.opened), hasattr(args, "allow_changed_data")
    notice = data_notice(run, now, allowed, is_moved)
    return configured if notice is None else replace(configured, notices=(notice,))


def data_notice(run: Run, now: RecordedData, allow_changed: bool, is_moved: bool) -> str | None:
    """Return a warning to go on with where images cannot be compared or may differ; None for the same.

    Raises:
        ConfigError: If the classes differ, whatever is allowed: the outputs of the network would mean others;
            or the images, unless that is allowed.
    """
    before = run.manifest.data
    if before is None:
        if run.manifest.settings.data.embedded:
            return None
        if is_moved and not allow_changed:
            problem = "must be left out: the run did not record what its images were"
            hint = "or add --allow-changed-data"
            raise ConfigError("--data", "", problem, hint=hint)
        return "the run did not record its images: they are not compared with those it began with"
    if now.class_names != before.class_names:
        what = class_difference(now.class_names, before.class_names)
        hint = "put the class folders back, or start a new run"
        problem = f"classes must be those that the run began with: {what}"
        raise ConfigError("--resume", str(run.path), problem, hint=hint)
    changes = _changes(before, now)
    if not changes:
        return None
    if changes == _VAL_REPLACED:  # as by the repair of a broken one, which no weight depends on
        return f"the images have changed: {changes}; evaluations are of these from here on"
    if not allow_changed:
        problem = f"images must be those that the run began with, but {changes}"
        hint = "put them back, or add --allow-changed-data to go on with these"
        raise ConfigError("--resume", str(run.path), problem, hint=hint)
    return f"the images have changed: {changes}; their order is another from here on"


_REPLACED = "some {} images are others or in other classes"
_VAL_REPLACED = _REPLACED.format("validation")


def _changes(before: RecordedData, now: RecordedData) -> str:
    """Return in words what has changed of the images; empty for nothing."""
    texts = []
    for part, word in (("train", "training"), ("val", "validation")):
        counts = [getattr(one, f"num_{part}_images") for one in (now, before)]
        digests = [one.digests.get(part) for one in (now, before)]
        if counts[0] != counts[1]:
            texts.append(f"there are {counts[0]:,} instead of {counts[1]:,} {word} images")
        elif None not in digests and digests[0] != digests[1]:
            texts.append(_REPLACED.format(word))
    return " and ".join(texts)


# --------------------------------------------------------------------------------------------------
# What its folder asks for outside itself.


def check_asks(
    args: argparse.Namespace,
    settings: RunSettings,
    folder: Path,
    flag: str,
    *,
    loads_weights: bool = True,
    logs: bool = True,
) -> None:
    """Refuse what a run's settings ask for outside its folder and the command line does not.

    Args:
        args: What was given.
        settings: Of the run, with what was given laid over them.
        folder: The run folder.
        flag: What goes on with it, such as ``--resume``.
        loads_weights: Whether initial weights would be loaded now.
        logs: Whether the run is passed on to loggers.

    Raises:
        ConfigError: It names the first thing, and the flags that allow all of them.
    """
    asks = asks_of(settings, folder, loads_weights=loads_weights, logs=logs)
    # All of what an ask needs must be said, such as the project that a run is sent to.
    missing = [ask for ask in asks if any(not hasattr(args, name) for name in ask.flags)]
    if missing:
        hint = f"to allow that, add {shown_words([word for ask in missing for word in ask.words])} to {flag}"
        if "log_wandb" in missing[0].flags:
            hint += ", or --wandb-mode offline to keep it in the run folder"
        raise _refusal(folder, missing[0], hint)


def check_data_asks(data: DataSettings, folder: Path) -> None:
    """Refuse to open by itself a data set that a run folder names and that is more than a folder.

    Raises:
        ConfigError: It names the flags that say which data set to open.
    """
    for ask in asks_of_data(data):
        needed = {f.field for f in flags_of_model(DataSettings) if f.option.needs == "dataset"}
        fields = data.model_dump(include=needed, exclude_defaults=True)
        whole = Ask(ask.key, ask.what, {**ask.flags, **fields})
        raise _refusal(folder, ask, f"to allow that, add {shown_words(whole.words)}")


def loads_weights(settings: RunSettings, folder: Path) -> bool:
    """Return whether a resumed run would load timm's weights, as it does without a readable checkpoint."""
    # A search from those weights also trains anew for its estimates.
    if not settings.pretrained or settings.search is not None:
        return settings.pretrained
    return load_newest(folder / "checkpoints")[0] is None


def _refusal(folder: Path, ask: Ask, hint: str) -> ConfigError:
    where, (value, *_) = str(folder / "run.yaml"), ask.flags.values()
    problem = f"must be allowed on the command line, since {ask.what}"
    got = ConfigError.NO_VALUE if value is True else _shown(value)
    return ConfigError(where, ask.key, problem, got, hint)


def shown_words(words: Sequence[str]) -> str:
    """Return words of a command line as a shell takes them, with the passwords in addresses left out."""
    return shlex.join([_shown(word) for word in words])


def _shown(value: Any) -> Any:
    """Return a value without the password that the address of a database may hold."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", value) if isinstance(value, str) else value


def words_to_repeat(words: Sequence[str]) -> tuple[str, ...]:
    """Return those of the words after ``autoprog`` that a run is given again when it goes on."""
    args, _ = build_parser(words[0]).parse_known_args(list(words))
    values = {name: getattr(args, flag.dest, None) for name, flag in OUTSIDE.items()}
    return tuple(flag_words(OUTSIDE.values(), values))
