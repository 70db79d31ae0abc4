"""Start or continue a run, write and show its events until it ends, and answer signals."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from autoprog.commands.configure import Configure, Configured
from autoprog.commands.flags import only_carries_out, worker_words
from autoprog.commands.preflight import check_run, check_validation_images
from autoprog.commands.resume import (
    newest_unfinished,
    recorded_run,
    shown_words,
    unfinished_like,
    with_data_of,
)
from autoprog.commands.run_manifest import new_manifest, recorded_data
from autoprog.commands.run_messages import announce_search, announce_train, print_outcome
from autoprog.commands.run_words import replace_run_words
from autoprog.console import Console
from autoprog.data.cache_folder import check_cache_folder
from autoprog.errors import (
    ConfigError,
    DivergedError,
    ResumableError,
    RunError,
    RunExistsError,
    write_at_once,
)
from autoprog.events import Event, RunStarted, WarningRaised
from autoprog.library_warnings import warnings_passed_to
from autoprog.loggers.logger_threads import Relays
from autoprog.outside_access import words_of_asks
from autoprog.printable import one_line, say
from autoprog.runs import FollowedFolder, RunFolder, load_run
from autoprog.schedule import GrowthSchedule
from autoprog.search.searcher import build_searcher
from autoprog.search.trials import Workforce, check_storage, search_by_trials
from autoprog.settings import RunManifest, RunSettings
from autoprog.train.device import is_out_of_memory
from autoprog.train.ranks import Ranks, is_lost_rank, joined_ranks, was_restarted
from autoprog.train.run import Job, start_training, train_schedule
from autoprog.train.stop import InterruptedRunError, StopRequest, stop_on_signals
from autoprog.train.trainer import MAX_ROLLBACKS, Rollbacks
from autoprog.ui.live import make_display

__all__ = ["Begin", "Launch", "RunConsole", "carry_out", "launch"]

Begin = Callable[[RunFolder, Job], Iterator[Event]]


def launch(args: argparse.Namespace, configure: Configure) -> Path:
    """Start the run that the arguments say, or go on with it, until it ends; return its folder.

    Raises:
        ConfigError: If anything given is refused; nothing has been written then.
        RunError: If the run fails.
    """
    replace_run_words(args)
    with joined_ranks() as ranks:
        if hasattr(args, "trials") and not ranks.alone:
            raise ConfigError(
                "--trials",
                "",
                "cannot run under torchrun; its workers are started by -j and --join",
            )
        configured, folder = _open_run(args, configure, ranks)
        settings, opened, schedule = configured.settings, configured.opened, configured.schedule
        launched = Launch.on_terminal(ranks, args.quiet, configured)
        search = settings.search

        # Called again after each rollback, with the folder as it is then.
        def begin(folder: RunFolder, job: Job) -> Iterator[Event]:
            if search is None:
                assert schedule is not None, "a training run has a schedule"
                trainer = start_training(settings, folder, opened, schedule, job)
                return train_schedule(trainer, schedule)
            if search.trials is not None:
                again = words_of_asks(settings, folder.path, logs=False)
                workforce = Workforce(args.jobs, (*worker_words(args), *again))
                return search_by_trials(settings, folder, opened, workforce, job)
            searcher = build_searcher(settings, folder, opened, job)
            if not args.quiet and not job.rollbacks.count:
                announce_search(launched.console, configured, folder, searcher.plan)
            return searcher.run()

        if not args.quiet and search is None:
            announce_train(launched.console, configured, folder)
        elif not args.quiet and search is not None and search.trials is not None:
            announce_search(launched.console, configured, folder, None)
        carry_out(begin, launched, folder)
        if not args.quiet:
            print_outcome(launched.console, folder, settings)
    return folder.path


def _open_run(
    args: argparse.Namespace, configure: Configure, ranks: Ranks
) -> tuple[Configured, RunFolder]:
    """Return what to run and its folder: a new one, or the one that ``--resume`` names.

    Nothing is written before everything given has been checked, and then by rank 0 alone. A job that
    torchrun has restarted goes on with its run as by ``--resume auto``.

    Raises:
        ConfigError: If anything given is unknown or refused, or does not go with ``--resume``; if the
            run folder asks for something outside itself that was not given.
        RunError: If the folder cannot be written or another process writes it.
    """
    continued: Path | None
    if args.resume == "auto" and only_carries_out(args):
        continued = newest_unfinished(args, ranks)
        configured = recorded_run(args, continued)
    elif args.resume in (None, "auto"):
        configured = configure(args)
        look_for_it = args.resume == "auto" or was_restarted()
        continued = unfinished_like(Path(args.runs_dir), configured, ranks) if look_for_it else None
        if hasattr(args, "allow_changed_data") and args.resume is None:
            raise ConfigError("--allow-changed-data", "", "must be given together with --resume")
        if continued is not None:
            configured = with_data_of(args, configured, load_run(continued))
    else:
        continued = Path(args.resume)
        configured = recorded_run(args, continued)
    # What can be known to fail is refused before a folder is made.
    check_run(configured, is_new=continued is None, ranks=ranks)
    check_validation_images(configured, continued, ranks)
    if ranks.is_main:  # one process writes; the others learn the folder from it
        if configured.settings.cache is not None:
            check_cache_folder(configured.settings.cache)
        if continued is not None:
            folder = _reopened(continued, configured)
        else:
            check_storage(configured.settings)
            folder = _created_under_free_name(Path(args.runs_dir), new_manifest(configured))
            try:
                if configured.schedule is not None:
                    folder.write_schedule(configured.schedule)
            except OSError as error:
                folder.close()
                raise RunError(f"{folder.path}: {error}") from None
        ranks.broadcast(str(folder.path))
        return configured, folder
    path = Path(ranks.broadcast(""))
    return configured, FollowedFolder(path, load_run(path).manifest)


def _created_under_free_name(runs_dir: Path, manifest: RunManifest) -> RunFolder:
    """Make the folder of a new run; its name gets a number where another run took it in the same second."""
    number = 1
    while True:
        name = manifest.run_id + (f"-{number}" if number > 1 else "")
        try:
            return RunFolder.create(runs_dir, manifest.model_copy(update={"run_id": name}))
        except RunExistsError:
            number += 1


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


# --------------------------------------------------------------------------------------------------
# The events of a run, written, shown and passed on to loggers.


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
        return cls(
            ranks=ranks,
            console=console,
            quiet=quiet,
            rolls_back=rolls_back,
            schedule=configured.schedule,
            settings=configured.settings,
            notices=configured.notices,
        )

    def relays(self, folder: RunFolder) -> Relays:
        """Return what passes a run on to its loggers: those of now, whatever those of its start were."""
        settings = self.settings or folder.manifest.settings
        return Relays(folder.path, folder.manifest.model_copy(update={"settings": settings}))


def carry_out(begin: Begin, launch: Launch, folder: RunFolder) -> None:
    """Write and show all events of a run; where it diverges, go back and on if the settings say so.

    Args:
        begin: Returns the events of a run from wherever its folder stands.
        launch: How they are shown, and by which processes they come about.
        folder: Where they are written.

    Raises:
        RunError: If the run fails, or a file cannot be written.
    """
    rollbacks = Rollbacks()  # how many there were halves the learning rate of the next attempt
    with stop_on_signals() as stop:  # one for all attempts: a signal between two is not lost
        job = Job(stop, launch.ranks, rollbacks)
        for number in range(MAX_ROLLBACKS + 1):
            try:
                _one_attempt(begin, launch, folder, job)
                return
            except DivergedError:
                if not launch.rolls_back or number == MAX_ROLLBACKS:
                    raise
            rollbacks.count += 1
            if launch.ranks.is_main:
                folder = RunFolder.reopen(folder.path)


def _one_attempt(begin: Begin, launch: Launch, folder: RunFolder, job: Job) -> None:
    """Carry out a run until it ends or fails; errors of torch and of the system become a RunError."""
    try:
        events = begin(folder, job)
        if launch.ranks.is_main and not job.rollbacks.count:
            events = _with_notices(events, launch.notices)
        if not launch.ranks.is_main:
            for event in events:  # rank 0 writes and shows them; warnings are each rank's own
                if isinstance(event, WarningRaised):
                    say(one_line(f"rank {launch.ranks.rank}: {event.message}"), file=sys.stderr)
            return
        _show_events(events, launch, folder, job.stop)
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


def _show_events(
    events: Iterator[Event], launch: Launch, folder: RunFolder, stop: StopRequest
) -> None:
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
            warnings_passed_to(warn),
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
        stop.answer = write_at_once
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
