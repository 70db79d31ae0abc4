"""Start or continue a run, show its events, and answer signals."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

from autoprog.accuracy import class_difference
from autoprog.cli import build_parser
from autoprog.commands.configure import Configured
from autoprog.commands.flags import (
    GIVEN_AGAIN,
    absolute,
    changeable,
    flag_of,
    from_anywhere,
    only_carries_out,
    words_of,
)
from autoprog.commands.preflight import check_run, check_validation_images
from autoprog.console import Console
from autoprog.data.cache_folder import check_cache_folder
from autoprog.data.run_data import open_data
from autoprog.data.sources import OpenedData
from autoprog.errors import (
    ConfigError,
    DivergedError,
    ResumableError,
    RunError,
    RunExistsError,
    command,
    tell_at_once,
)
from autoprog.events import Event, RunStarted, WarningRaised
from autoprog.files import FileModel, parse
from autoprog.libwarnings import passed_on
from autoprog.loggers.relay import Relays
from autoprog.outside import Ask, asks_of, asks_of_data, repeatable, words_of_asks
from autoprog.printable import one_line, say
from autoprog.runs import FollowedFolder, Run, RunFolder, is_written_now, load_run, runs_in
from autoprog.schedule import GrowthSchedule
from autoprog.search.trials import check_storage
from autoprog.settings import DataSettings, RecordedData, RunManifest, RunSettings
from autoprog.train.checkpoint import load_newest
from autoprog.train.device import is_out_of_memory
from autoprog.train.ranks import Ranks, is_lost_rank, was_restarted
from autoprog.train.run import Job
from autoprog.train.stop import InterruptedRunError, StopRequest, stop_on_signals
from autoprog.train.trainer import MAX_ROLLBACKS, Rollbacks
from autoprog.ui.live import make_display

__all__ = [
    "Begin",
    "Configure",
    "Launch",
    "RunConsole",
    "carried_out_by",
    "carry_out",
    "check_asks",
    "check_data_asks",
    "data_notice",
    "git_state",
    "given_again",
    "loads_weights",
    "moved_data",
    "new_run_id",
    "open_run",
    "recorded_data",
    "shown_words",
    "stop_on_signals",
    "versions",
    "with_absolute_paths",
    "words_to_repeat",
]


# --------------------------------------------------------------------------------------------------
# What a run is called, and what it was made with: versions and the commit.


_VERSIONED = ("autoprog", "torch", "timm", "optuna", "numpy")


_MAX_LETTERS = 40
"""Of a schedule's name in that of a folder, which file systems bound."""


def new_run_id(kind: str, model: str, schedule_from: str | None, now: datetime) -> str:
    """Return the name of a run's folder, such as ``2026-11-22-143005-train-deit-s-linear``.

    Args:
        kind: ``train`` or ``search``.
        model: Short name, or that of timm.
        schedule_from: A preset, or the path of a schedule file, of which the stem counts; None for a search.
        now: When the run begins.
    """
    schedule = re.sub(r"\.ya?ml$", "", PurePath(schedule_from or "").name)
    words = (_plain(model), _plain(schedule)[:_MAX_LETTERS].strip("-."))
    return "-".join([f"{now:%Y-%m-%d-%H%M%S}", kind, *filter(None, words)])


def _plain(name: str) -> str:
    """Return a name without what a shell, a file system or ``scp`` takes for something else."""
    return re.sub(r"[^\w.]+", "-", name).strip("-.")


def versions() -> dict[str, str]:
    """Return the versions of Python and of what decides a run's numbers."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def git_state() -> dict[str, str]:
    """Return the commit of the working directory; empty outside git.

    Not whether there are changes: ``git status`` runs programs that the configuration of a repository
    names (file-system monitors, clean filters), and the working directory may be somebody else's.
    """
    command = ("git", "rev-parse", "--verify", "--quiet", "HEAD")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    commit = done.stdout.strip()
    return {"commit": commit} if re.fullmatch("[0-9a-f]{40,64}", commit) else {}


# --------------------------------------------------------------------------------------------------
# What a run records of its images, and how those of now are compared with it when it goes on.


def recorded_data(opened: OpenedData) -> RecordedData:
    """Return what a run records of its images."""
    return RecordedData(
        class_names=opened.class_names,
        num_train_images=len(opened.train),
        num_val_images=len(opened.val),
        digests=dict(opened.digests),
    )


def with_absolute_paths(settings: RunSettings) -> RunSettings:
    """Return settings whose paths mean the same from every folder, as a run records them."""
    search = settings.search
    if search is not None:
        search = search.model_copy(update=_absolute(search, "costs_from"))
    changes = _absolute(settings, "initial_checkpoint", "cache")
    data = settings.data.model_copy(update=_absolute(settings.data, "dir", "data_dir"))
    return settings.model_copy(update={**changes, "data": data, "search": search})


def _absolute(values: FileModel, *names: str) -> dict[str, str]:
    paths = {name: getattr(values, name) for name in names}
    return {k: absolute(path) for k, path in paths.items() if path not in (None, "auto")}


def moved_data(args: argparse.Namespace, data: DataSettings) -> DataSettings:
    """Return where the images of a resumed run lie now: where the flags say, or where they were.

    Raises:
        ConfigError: If a flag names a place that the run has none of.
    """
    changes = _absolute(data, "dir", "data_dir")
    for name, key, origin in (("data", "dir", data.dir), ("data_dir", "data_dir", data.dataset)):
        if not hasattr(args, name):
            continue
        if origin is None:
            now = "the embedded digits" if data.embedded else f"{data.dir or data.dataset}"
            problem = f"must be left out with --resume: the run trains on {now}"
            raise ConfigError("--" + name.replace("_", "-"), "", problem, getattr(args, name))
        changes[key] = absolute(getattr(args, name))
    return data.model_copy(update=changes)


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
# What a run folder asks for outside itself is refused unless the command line says it again.


_IN_EVALUATION = ("input_key", "target_key", "num_classes")


def given_again(args: argparse.Namespace, settings: RunSettings) -> dict[str, Any]:
    """Return what was given of the settings that a run has already, with paths as a run records them.

    Raises:
        ConfigError: If one of them is another value than that of the run.
    """
    found = {}
    for name, value in repeatable(settings).items():
        if not hasattr(args, name):
            continue
        given = _as_recorded(name, getattr(args, name))
        if value is not None and given != value:
            problem = f"must be {_shown(value)!r}, as the run has, or be left out"
            raise ConfigError(flag_of(name), "", problem, _shown(given))
        found[name] = given
    return found


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
        logs: Whether loggers are told.

    Raises:
        ConfigError: It names the first thing, and the flags that allow all of them.
    """
    asks = asks_of(settings, folder, loads_weights=loads_weights, logs=logs)
    missing = [ask for ask in asks if any(not hasattr(args, name) for name in ask.flags)]
    if missing:
        hint = f"to allow that, add {shown_words(_words(missing))} to {flag}"
        if "log_wandb" in missing[0].flags:
            hint += ", or --wandb-mode offline to keep it in the run folder"
        raise _refusal(folder, missing[0], hint)


def check_data_asks(data: DataSettings, folder: Path) -> None:
    """Refuse to open by itself a data set that a run folder names and that is more than a folder.

    Raises:
        ConfigError: It names the flags that say which data set to open.
    """
    for ask in asks_of_data(data):
        fields = data.model_dump(include=set(_IN_EVALUATION), exclude_none=True)
        whole = Ask(ask.key, ask.what, {**ask.flags, **fields})
        raise _refusal(folder, ask, f"to allow that, add {shown_words(whole.words)}")


def words_to_repeat(words: Sequence[str]) -> tuple[str, ...]:
    """Return those of the words after ``autoprog`` that a run is given again when it goes on."""
    parser = build_parser(words[0])
    args, _ = parser.parse_known_args(list(words))
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    names = GIVEN_AGAIN | {"compile", "log_wandb", "wandb_project"}
    actions = (one for one in commands.choices[words[0]]._actions if one.dest in names)
    return tuple(words_of(args, actions))


def shown_words(words: Sequence[str]) -> str:
    """Return words of a command line as a shell takes them, with the passwords in addresses left out."""
    return shlex.join([_shown(word) for word in words])


def loads_weights(settings: RunSettings, folder: Path) -> bool:
    """Tell whether a run that goes on would load timm's weights, as it does without a readable checkpoint."""
    if (
        not settings.pretrained or settings.search is not None
    ):  # which also trains anew for its estimates
        return settings.pretrained
    return load_newest(folder / "checkpoints")[0] is None


def _refusal(folder: Path, ask: Ask, hint: str) -> ConfigError:
    where, (value, *_) = str(folder / "run.yaml"), ask.flags.values()
    problem = f"must be allowed on the command line, since {ask.what}"
    got = ConfigError.NO_VALUE if value is True else _shown(value)
    return ConfigError(where, ask.key, problem, got, hint)


def _words(asks: Iterable[Ask]) -> Sequence[str]:
    return [word for ask in asks for word in ask.words]


def _as_recorded(name: str, value: Any) -> Any:
    if name == "storage":
        return from_anywhere(value)
    if name == "data_dir" or (name == "cache" and value != "auto"):
        return absolute(value)
    return value


def _shown(value: Any) -> Any:
    """Return a value without the password that the address of a database may hold."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", value) if isinstance(value, str) else value


Configure = Callable[[argparse.Namespace], Configured]
Begin = Callable[[RunFolder, Job], Iterator[Event]]

_KEPT_ON_RESUME = {
    "command",
    "debug",
    "resume",
    "runs_dir",
    "quiet",
    "schedule",
    "jobs",
    "join",
    "data",
    "data_dir",
    "allow_changed_data",
}


class RunConsole(Console):
    """A console whose run goes on when nobody reads the output any more, as behind ``| head``."""

    def on_broken_pipe(self) -> None:
        """Let everything from now on go nowhere."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


@dataclass(frozen=True)
class Launch:
    """How a run is carried out: by which processes, and how it is shown."""

    ranks: Ranks
    console: Console
    quiet: bool
    rolls_back: bool = False
    schedule: GrowthSchedule | None = None
    settings: RunSettings | None = None
    notices: tuple[str, ...] = ()

    @classmethod
    def on_terminal(cls, ranks: Ranks, quiet: bool, configured: Configured) -> Launch:
        """Return a launch that is shown on standard output, by rank 0."""
        console = RunConsole(highlight=False, quiet=not ranks.is_main)
        rolls_back = configured.settings.on_divergence == "rollback"
        shown = configured.schedule, configured.settings, configured.notices
        return cls(ranks, console, quiet, rolls_back, *shown)

    def relays(self, folder: RunFolder) -> Relays:
        """Return what tells a run to its loggers: those of now, whatever those of its start were."""
        settings = self.settings or folder.manifest.settings
        return Relays(folder.path, folder.manifest.model_copy(update={"settings": settings}))


def open_run(
    args: argparse.Namespace, configure: Configure, ranks: Ranks
) -> tuple[Configured, RunFolder]:
    """Return what to run and its folder: a new one, or the one that ``--resume`` names.

    Nothing is written before everything given has been checked, and then by rank 0 alone. A job that
    torchrun has restarted goes on with its run as by ``--resume auto``.

    Raises:
        ConfigError: If anything given is unknown, breaks a law, or does not go with ``--resume``; if the
            run folder asks for something outside itself that was not given.
        RunError: If the folder cannot be written or another process writes it.
    """
    found: Path | None
    if args.resume == "auto" and only_carries_out(args):
        found = _newest_unfinished(args, ranks)
        configured = _recorded(args, found)
    elif args.resume in (None, "auto"):
        configured = configure(args)
        look_for_it = args.resume == "auto" or was_restarted()
        found = _unfinished(Path(args.runs_dir), configured, ranks) if look_for_it else None
        if hasattr(args, "allow_changed_data") and args.resume is None:
            raise ConfigError("--allow-changed-data", "", "must be given together with --resume")
        if found is not None:
            configured = _with_data_of(args, configured, load_run(found))
    else:
        found = Path(args.resume)
        configured = _recorded(args, found)
    check_run(configured, is_new=found is None, ranks=ranks)
    check_validation_images(configured, found, ranks)
    if ranks.is_main:
        if configured.settings.cache is not None:
            check_cache_folder(configured.settings.cache)
        if found is None:
            check_storage(configured.settings)
        folder = _create(args, configured) if found is None else _reopened(found, configured)
        ranks.broadcast(str(folder.path))
        return configured, folder
    path = Path(ranks.broadcast(""))
    return configured, FollowedFolder(path, load_run(path).manifest)


def carry_out(begin: Begin, launch: Launch, folder: RunFolder) -> None:
    """Write and show all events of a run; where it diverges, go back and on if the settings say so.

    Args:
        begin: Returns the events of a run from wherever its folder stands.
        launch: How they are shown, and by which processes they come about.
        folder: Where they are written.

    Raises:
        RunError: If the run fails, or a file cannot be written.
    """
    rollbacks = Rollbacks()
    with stop_on_signals() as stop:  # one for all attempts: a signal between two is not lost
        job = Job(stop, launch.ranks, rollbacks)
        for number in range(MAX_ROLLBACKS + 1):
            try:
                _carry_out(begin, launch, folder, job)
                return
            except DivergedError:
                if not launch.rolls_back or number == MAX_ROLLBACKS:
                    raise
            rollbacks.count += 1
            if launch.ranks.is_main:
                folder = RunFolder.reopen(folder.path)


def _carry_out(begin: Begin, launch: Launch, folder: RunFolder, job: Job) -> None:
    try:
        events = begin(folder, job)
        if launch.ranks.is_main and not job.rollbacks.count:
            events = _with_notices(events, launch.notices)
        if not launch.ranks.is_main:
            _follow(events, launch.ranks)
            return
        _tell(events, launch, folder, job.stop)
    except InterruptedRunError as error:
        raise error.with_flags(_flags_again(launch, folder)) from None
    except ResumableError as error:
        raise ResumableError(f"{error}; then {_resume_of(launch, folder)}") from error
    except OSError as error:
        raise RunError(f"{folder.path}: {error}") from error
    except KeyboardInterrupt:  # such as while the cache is built, which is given up at once
        where, flags = "before a step was taken", _flags_again(launch, folder)
        raise InterruptedRunError("SIGINT", str(folder.path), where, flags) from None
    except MemoryError as error:
        hint = f"lower --batch-size or --workers; go on with {_resume_of(launch, folder)}"
        raise RunError(f"{folder.path}: out of memory; {hint}") from error
    except RuntimeError as error:
        what = _known_failure(error, launch.ranks)
        if what is None:
            raise
        raise RunError(f"{folder.path}: {what}; go on with {_resume_of(launch, folder)}") from error
    finally:
        folder.close()


def _resume_of(launch: Launch, folder: RunFolder) -> str:
    """Return the flags that go on with a run, as a shell takes them."""
    flags = _flags_again(launch, folder)
    return f"--resume {shlex.quote(str(folder.path))} {flags}".rstrip()


def _flags_again(launch: Launch, folder: RunFolder) -> str:
    """Return the flags for what a run asks for outside its folder, as a shell takes them."""
    return shown_words(words_of_asks(launch.settings or folder.manifest.settings, folder.path))


def _with_notices(events: Iterator[Event], notices: Collection[str]) -> Iterator[Event]:
    """Pass events on, with warnings after the first one of the run: a resume replays what stands before."""
    for event in events:
        yield event
        if isinstance(event, RunStarted):
            yield from (WarningRaised(step=event.step, message=text) for text in notices)


def _tell(events: Iterator[Event], launch: Launch, folder: RunFolder, stop: StopRequest) -> None:
    """Write the events, show them, and pass them on to loggers, which may fail by themselves."""
    relays = launch.relays(folder)
    step = 0

    def warn(text: str) -> None:
        warned = WarningRaised(step=step, message=text)
        folder.append(warned)
        display.show(warned)

    try:
        with (
            make_display(launch.console, launch.quiet, schedule=launch.schedule) as display,
            passed_on(warn),
        ):
            stop.answer = display.answer
            for event in events:
                step = event.step
                folder.append(event)
                display.show(event)
                for problem in relays.show(event):
                    folder.append(problem)
                    display.show(problem)
    finally:
        stop.answer = tell_at_once
        problems = relays.close()
        for line in (*problems, *(() if launch.quiet else relays.places)):
            launch.console.print(line, markup=False, soft_wrap=True)


def _known_failure(error: RuntimeError, ranks: Ranks) -> str | None:
    """Return what a RuntimeError of torch means, where it is not a mistake of ours."""
    if is_out_of_memory(error):
        return "out of memory; lower --batch-size or --img-size"
    if not ranks.alone and is_lost_rank(error):
        return "another process of this run is gone"
    return None


def _follow(events: Iterator[Event], ranks: Ranks) -> None:
    """Carry out a run whose events rank 0 writes and shows; only warnings are this rank's own."""
    for event in events:
        if isinstance(event, WarningRaised):
            say(one_line(f"rank {ranks.rank}: {event.message}"), file=sys.stderr)


def _create(args: argparse.Namespace, configured: Configured) -> RunFolder:
    settings, now = configured.settings, datetime.now()
    manifest = RunManifest(
        run_id=new_run_id(settings.kind, settings.model.model, settings.schedule_from, now),
        created=now.astimezone().isoformat(timespec="seconds"),
        argv=("autoprog", *sys.argv[1:]),
        versions=versions(),
        git=git_state(),
        settings=with_absolute_paths(settings),
        data=recorded_data(configured.opened),
    )
    folder = _created_under_free_name(Path(args.runs_dir), manifest)
    try:
        if configured.schedule is not None:
            folder.write_schedule(configured.schedule)
    except OSError as error:
        folder.close()
        raise RunError(f"{folder.path}: {error}") from None
    return folder


def _reopened(path: Path, configured: Configured) -> RunFolder:
    """Go on with a run; where its images lie, and what they are, is written down as it is now."""
    folder = RunFolder.reopen(path)
    data = {"data": recorded_data(configured.opened)}
    settings = folder.manifest.settings.model_copy(update={"data": configured.settings.data})
    manifest = folder.manifest.model_copy(update={"settings": settings, **data})
    try:
        if manifest != folder.manifest:
            folder.write_manifest(manifest)
    except OSError as error:
        folder.close()
        raise RunError(f"{path}: run.yaml cannot be written: {error.strerror}") from None
    return folder


def _created_under_free_name(runs_dir: Path, manifest: RunManifest) -> RunFolder:
    """Make the folder of a new run; its name gets a number where another run took it in the same second."""
    number = 1
    while True:
        name = manifest.run_id + (f"-{number}" if number > 1 else "")
        try:
            return RunFolder.create(runs_dir, manifest.model_copy(update={"run_id": name}))
        except RunExistsError:
            number += 1


def _recorded(args: argparse.Namespace, path: Path) -> Configured:
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
    settings = carried_out_by(args, settings, _KEPT_ON_RESUME, "--resume")
    settings = settings.model_copy(update={"data": moved_data(args, settings.data)})
    now = not hasattr(args, "pretrained") and loads_weights(settings, path)
    check_asks(args, settings, path, "--resume", loads_weights=now)
    configured = Configured(settings, open_data(settings.data), run.schedule)
    return _with_data_of(args, configured, run)


def _with_data_of(args: argparse.Namespace, configured: Configured, run: Run) -> Configured:
    """Return what to go on with, after its images were compared with those that the run began with."""
    is_moved = args.resume != "auto" and (hasattr(args, "data") or hasattr(args, "data_dir"))
    now, allowed = recorded_data(configured.opened), hasattr(args, "allow_changed_data")
    notice = data_notice(run, now, allowed, is_moved)
    return configured if notice is None else replace(configured, notices=(notice,))


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
    given = {name for name in vars(args) if name not in kept} - again.keys()
    if wrong := sorted(given - changeable(settings.kind)):
        problem, hint = f"must not be given with {flag} RUN", "leave it out, or start a new run"
        raise ConfigError(flag_of(wrong[0]), "", problem, hint=hint)
    values = {**settings.model_dump(), **{name: getattr(args, name) for name in given}}
    values["cache"] = again.get("cache", settings.cache)
    values["data"]["data_dir"] = again.get("data_dir", settings.data.data_dir)
    return parse(RunSettings, values, "flags")


def _newest_unfinished(args: argparse.Namespace, ranks: Ranks) -> Path:
    """Return the newest run of this command that can go on, as rank 0 finds it.

    One that a process is writing now is the last choice.

    Raises:
        ConfigError: If there is none.
    """
    needed = "schedule.yaml" if args.command == "train" else "run.yaml"
    unfinished = [
        folder
        for folder in (runs_in(Path(args.runs_dir)) if ranks.is_main else ())
        if not (folder / "result.json").exists()
        and (folder / needed).exists()
        and _kind_of(folder) == args.command
    ]
    name = ranks.broadcast(str(min(unfinished, key=is_written_now)) if unfinished else "")
    if not name:
        problem = (
            f"must find an unfinished {args.command} run in {args.runs_dir}, and there is none"
        )
        raise ConfigError("--resume auto", "", problem, hint="without --resume a new one begins")
    return Path(name)


def _kind_of(folder: Path) -> str:
    try:
        return load_run(folder).manifest.settings.kind
    except ConfigError:
        return ""  # of another version, or damaged: none of this command line's business


def _unfinished(runs_dir: Path, configured: Configured, ranks: Ranks) -> Path | None:
    """Return the newest unfinished run with these settings and this schedule, as rank 0 finds it."""
    found = None
    if ranks.is_main:
        folders = runs_in(runs_dir)
        found = next((folder for folder in folders if _is_unfinished(folder, configured)), None)
    name = ranks.broadcast(str(found or ""))
    return Path(name) if name else None


def _is_unfinished(folder: Path, configured: Configured) -> bool:
    if (folder / "result.json").exists():
        return False
    try:
        run = load_run(folder)
    except ConfigError:
        return False  # of another version, or damaged: none of this command line's business
    if not _same_images(run.manifest, configured):
        return False
    same_schedule = configured.settings.kind != "train" or run.schedule == configured.schedule
    return same_schedule and _same_run(run.manifest.settings, configured.settings)


def _same_images(manifest: RunManifest, configured: Configured) -> bool:
    """Tell whether images are from where a run has them, or are the same ones elsewhere."""
    one, other = (
        with_absolute_paths(settings).data for settings in (manifest.settings, configured.settings)
    )
    place = {"dir", "data_dir"}
    if one.model_dump(exclude=place) != other.model_dump(exclude=place):
        return False
    return one == other or manifest.data == recorded_data(configured.opened)


def _same_run(one: RunSettings, other: RunSettings) -> bool:
    free = {*changeable(one.kind), "data"}
    first, second = (with_absolute_paths(settings) for settings in (one, other))
    return first.model_dump(exclude=free) == second.model_dump(exclude=free)
