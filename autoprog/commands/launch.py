"""Start or continue a run, show its events, and answer signals."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from autoprog.cachefolder import check_cache_folder
from autoprog.commands.configure import Configured
from autoprog.commands.data_record import (
    data_notice,
    moved_data,
    recorded_data,
    with_absolute_paths,
)
from autoprog.commands.flags import changeable, flag_of, only_carries_out
from autoprog.commands.outside import check_asks, given_again, loads_weights, shown_words
from autoprog.commands.preflight import check_run, check_validation_images
from autoprog.commands.provenance import git_state, new_run_id, versions
from autoprog.console import Console
from autoprog.errors import (
    ConfigError,
    DivergedError,
    ResumableError,
    RunError,
    RunExistsError,
    tell_at_once,
)
from autoprog.events import Event, RunStarted, Warned
from autoprog.files import parse
from autoprog.follower import FollowedFolder
from autoprog.hints import command
from autoprog.libwarnings import passed_on
from autoprog.locate import runs_in
from autoprog.loggers.relay import Relays
from autoprog.outside import words_of_asks
from autoprog.printable import one_line, say
from autoprog.runs import Run, RunFolder, is_written_now, load_run
from autoprog.schedule import GrowthSchedule
from autoprog.search.trials import check_storage
from autoprog.settings import RunManifest, RunSettings
from autoprog.train.device import is_out_of_memory
from autoprog.train.engine import Job
from autoprog.train.feed import open_data
from autoprog.train.ranks import Ranks, is_lost_rank, was_restarted
from autoprog.train.rollback import MOST_ROLLBACKS, Rollbacks
from autoprog.train.stop import InterruptedRunError, StopRequest, stop_on_signals
from autoprog.ui.display import make_display

__all__ = [
    "Begin",
    "Configure",
    "Launch",
    "RunConsole",
    "carried_out_by",
    "carry_out",
    "open_run",
    "stop_on_signals",
]

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
        ranks.share(str(folder.path))
        return configured, folder
    path = Path(ranks.share(""))
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
        for number in range(MOST_ROLLBACKS + 1):
            try:
                _carry_out(begin, launch, folder, job)
                return
            except DivergedError:
                if not launch.rolls_back or number == MOST_ROLLBACKS:
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
        cure = f"lower --batch-size or --workers; go on with {_resume_of(launch, folder)}"
        raise RunError(f"{folder.path}: out of memory; {cure}") from error
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
            yield from (Warned(step=event.step, message=text) for text in notices)


def _tell(events: Iterator[Event], launch: Launch, folder: RunFolder, stop: StopRequest) -> None:
    """Write the events, show them, and pass them on to loggers, which may fail by themselves."""
    relays = launch.relays(folder)
    step = 0

    def warn(text: str) -> None:
        warned = Warned(step=step, message=text)
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
        if isinstance(event, Warned):
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
        cure = f"use {command(settings.kind, '--resume', path)}"
        raise ConfigError("--resume", "", f"must be a {args.command} run", str(path), cure)
    if run.result is not None:
        cure = f"see {command('show', path)}"
        raise ConfigError("--resume", "", "must be an unfinished run", str(path), cure)
    if settings.kind == "train" and run.schedule is None:
        cure = "it was stopped before its start: start a new run"
        raise ConfigError("--resume", "", "must be a run with a schedule.yaml", str(path), cure)
    if getattr(args, "schedule", settings.schedule_from) != settings.schedule_from:
        law = f"must be {settings.schedule_from!r}, as the run has, or be left out"
        raise ConfigError("--schedule", "", law, args.schedule)
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
        law, cure = f"must not be given with {flag} RUN", "leave it out, or start a new run"
        raise ConfigError(flag_of(wrong[0]), "", law, cure=cure)
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
    name = ranks.share(str(min(unfinished, key=is_written_now)) if unfinished else "")
    if not name:
        law = f"must find an unfinished {args.command} run in {args.runs_dir}, and there is none"
        raise ConfigError("--resume auto", "", law, cure="without --resume a new one begins")
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
    name = ranks.share(str(found or ""))
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
