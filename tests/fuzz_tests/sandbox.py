"""One command in a forked child: watched, limited, and kept from the rest of the machine.

The parent has imported everything, so that a case costs what its command itself does.
"""

from __future__ import annotations

import atexit
import errno
import faulthandler
import io
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from autoprog.supervise import PROGRAM
from tests.fuzz_tests.corpus import Command, Place

__all__ = ["GIB", "Limits", "Outcome", "Snapshot", "own_words", "run_command", "snapshot"]

GIB = 2**30
ROOT = Path(__file__).resolve().parent.parent.parent

Snapshot = dict[str, tuple[Any, ...]]
"""What a folder holds, by path: the type, the size, when it was changed, and of small files a digest."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
    "shutil.move",
}
_STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn"}
_GADGETS = {
    "os",
    "posix",
    "nt",
    "subprocess",
    "builtins",
    "shutil",
    "runpy",
    "pathlib",
    "importlib",
    "sys",
}
_WRAPPED = (
    "sh",
    "bash",
    "git",
    "wandb",
    "curl",
    "wget",
    "gs",
    "python",
    "python3",
    "convert",
    "xdg-open",
)


@dataclass(frozen=True)
class Limits:
    """What a command may use."""

    seconds: float = 10.0
    memory_bytes: int = 3 * GIB // 2


@dataclass
class Outcome:
    """What a command came to.

    Attributes:
        code: The exit code, below 0 for the number of a signal.
        out: Standard output.
        err: Standard error.
        seconds: Until the end.
        peak_bytes: Most memory held.
        hung: Whether it had to be killed.
        long: Whether it was still at work at the limit, and stopped when it was asked to.
        notes: What the guards saw: programs started, connections, writes outside of the case.
        changes: What became different in the folders of the case.
    """

    code: int
    out: bytes
    err: bytes
    seconds: float
    peak_bytes: int
    hung: bool = False
    long: bool = False
    notes: list[dict[str, str]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


def snapshot(folder: Path) -> Snapshot:
    """Return what a folder holds, without following links."""
    found: Snapshot = {}
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            about = entry.stat(follow_symlinks=False)
            path = os.path.relpath(entry.path, folder)
            kind = stat.S_IFMT(about.st_mode)
            if kind == stat.S_IFDIR:
                found[path] = (kind, stat.S_IMODE(about.st_mode))
                waiting.append(Path(entry.path))
            elif kind == stat.S_IFLNK:
                found[path] = (kind, os.readlink(entry.path))
            elif kind == stat.S_IFREG and about.st_size < 4096:
                digest = blake2b(Path(entry.path).read_bytes()).digest()
                found[path] = (kind, stat.S_IMODE(about.st_mode), digest)
            else:
                found[path] = (kind, stat.S_IMODE(about.st_mode), about.st_size, about.st_mtime_ns)
    return found


def run_command(
    command: Command,
    place: Place,
    limits: Limits,
    program: Callable[[Sequence[str]], int] | None = None,
) -> Outcome:
    """Run a command in a place and return what it came to.

    Args:
        command: The words, and how they are run.
        place: Its files lie there already.
        limits: Of time and memory.
        program: What is run in place of autoprog, in tests of the judge.
    """
    _make_wrappers(place, command.real_git)
    before = _snapshots(place)
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = _child(command, place, limits, program)
        finally:
            os._exit(code)
    status, peak_bytes, hung, long = _wait(pid, limits)
    seconds = time.monotonic() - began
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    outcome = Outcome(
        os.waitstatus_to_exitcode(status),
        _read(place.judge / "out"),
        _read(place.judge / "err"),
        seconds,
        peak_bytes,
        hung,
        long,
    )
    lines = _read(place.judge / "notes").decode("utf-8", "replace").splitlines()
    outcome.notes = [json.loads(line) for line in lines if line.startswith("{")]
    started = _read(place.judge / "started").decode("utf-8", "replace").splitlines()
    outcome.notes += [{"what": "started", "detail": line} for line in started]
    outcome.changes = _differences(before, _snapshots(place))
    return outcome


def own_words(args: Sequence[str | os.PathLike[str]]) -> list[str] | None:
    """Return what stands after ``autoprog`` where a process is the program itself, else None."""
    words = list(map(os.fspath, args))
    count = len(PROGRAM)
    for start in range(
        len(words) - count + 1
    ):  # behind the words of torchrun, where there are several
        if tuple(words[start : start + count]) == PROGRAM:
            return words[start + count :]
    return None


def _read(path: Path) -> bytes:
    """Return the first 20 MB of a file; nothing where there is none."""
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(20_000_000)


def _snapshots(place: Place) -> Snapshot:
    return {
        f"{folder.name}/{path}": about
        for folder in (place.work, place.home, place.tmp, place.victim, place.canary)
        for path, about in snapshot(folder).items()
    }


def _differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Return what is new, gone or changed, in a word and a path each."""
    new = [f"new {path}" for path in sorted(after.keys() - before.keys())]
    gone = [f"gone {path}" for path in sorted(before.keys() - after.keys())]
    both = sorted(before.keys() & after.keys())
    return new + gone + [f"changed {path}" for path in both if before[path] != after[path]]


def _make_wrappers(place: Place, real_git: bool) -> None:
    """Make programs of common names that note that they were started, and fail."""
    folder = place.judge / "bin"
    folder.mkdir(exist_ok=True)
    for name in _WRAPPED:
        ending = 'exec /usr/bin/git "$@"' if real_git and name == "git" else "exit 1"
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {place.judge}/started\n{ending}\n')
        path.chmod(0o755)


def _wait(pid: int, limits: Limits) -> tuple[int, int, bool, bool]:
    """Wait for the child; return its status, its most memory, and whether it hung or worked on."""
    began = time.monotonic()
    asked_at: float | None = None
    seen = (began, 0.0)
    pause, pace = 0.002, min(3.0, limits.seconds)
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            # The handler of the program answers the request; without one the signal itself ends it.
            worked = asked_at is not None and os.waitstatus_to_exitcode(status) in (143, 130)
            return status, usage.ru_maxrss * 1024, asked_at is not None and not worked, worked
        now = time.monotonic()
        busy = _cpu_seconds(pid)
        if asked_at is not None and now - asked_at > 8:
            os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage.ru_maxrss * 1024, True, False
        if asked_at is None and now - began > limits.seconds:
            # Other processes keep this one waiting on a busy machine: what counts is its own time, or that
            # it does nothing at all.
            if now - seen[0] > pace:
                idle = busy - seen[1] < 0.05
                seen = (now, busy)
            else:
                idle = False
            if busy > 0.9 * limits.seconds or idle or now - began > 6 * limits.seconds:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                asked_at = now
        elif asked_at is None and now - seen[0] > pace:
            seen = (now, busy)
        time.sleep(pause)
        pause = min(0.02, pause * 1.2)


def _cpu_seconds(pid: int) -> float:
    """Return the seconds of processor time that a process and its ended children have had."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            parts = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, parts[11:15])) / os.sysconf("SC_CLK_TCK")


def _child(
    command: Command,
    place: Place,
    limits: Limits,
    program: Callable[[Sequence[str]], int] | None,
) -> int:
    """Become the command; return its exit code."""
    os.setsid()
    atexit._clear()  # what the parent wants to do at its own end
    faulthandler.disable()  # pytest's, which tells of a child's end where the parent's output goes
    _redirect(place)
    os.chdir(place.work)
    _set_environment(command, place)
    _limit(limits)
    if command.anew:
        script = place.judge / "autoprog"
        script.write_text("import sys\nfrom autoprog.cli import main\nsys.exit(main())\n")
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, str(script), *command.words], environment)
    _guard(place)
    sys.argv = ["autoprog", *command.words]
    code = _exit_code(program, command.words)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError):
            stream.flush()
    return code


def _exit_code(program: Callable[[Sequence[str]], int] | None, words: Sequence[str]) -> int:
    """Run the program; return what the interpreter would end with."""
    try:
        if program is None:
            from autoprog.cli import main as program
        return int(program(list(words)) or 0)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:  # what the interpreter does with everything that gets out of a program
        traceback.print_exc()
        return 1


def _redirect(place: Place) -> None:
    """Lead the three streams from nowhere and into files."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(nowhere, 0)
    os.dup2(os.open(place.judge / "out", flags, 0o600), 1)
    os.dup2(os.open(place.judge / "err", flags, 0o600), 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), "utf-8")  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", closefd=False),  # noqa: SIM115
        "utf-8",
        "backslashreplace",
        write_through=True,
    )


def _set_environment(command: Command, place: Place) -> None:
    """Leave nothing of the environment but what the case sets."""
    os.environ.clear()
    os.environ.update(
        HOME=str(place.home),
        TMPDIR=str(place.tmp),
        PATH=f"{place.judge}/bin:/usr/bin:/bin",
        LANG="C.UTF-8",
        OMP_NUM_THREADS="1",
        GIT_CEILING_DIRECTORIES=str(place.root),
    )
    for name, value in command.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    import tempfile

    tempfile.tempdir = None


def _limit(limits: Limits) -> None:
    """Bound files, and memory a little above the limit, so that a case cannot harm the machine."""
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    most = held + limits.memory_bytes + GIB // 4
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (GIB // 2, GIB // 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _guard(place: Place) -> None:
    """Note, and where it would leave the machine forbid, what a case must not do."""
    notes = os.open(place.judge / "notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    root, python = str(place.root), sys.executable
    state = threading.local()

    def note(what: str, detail: object) -> None:
        row = json.dumps({"what": what, "detail": str(detail)[:500]})
        os.write(notes, (row + "\n").encode("utf-8", "replace"))

    def is_outside(path: object) -> bool:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, str):
            return False
        whole = os.path.abspath(path)
        # Python's own caches of compiled modules, and streams, are nobody's files.
        return not whole.startswith((root, "/dev/", "/proc/self/")) and "__pycache__" not in whole

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if getattr(state, "inside", False):
            return
        state.inside = True
        try:
            if event == "open":
                path, _, flags = args
                if isinstance(flags, int) and flags & _WRITES and is_outside(path):
                    note("wrote outside", path)
            elif event in _CHANGES:
                if any(map(is_outside, args[:2])):
                    note("changed outside", f"{event} {args}")
            elif event in _STARTS:
                note("started", f"{event} {args[:2]}")
            elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
                address = args[1] if event == "socket.connect" else args[0]
                if event != "socket.connect" or isinstance(address, tuple):
                    note("network", f"{event} {address}")
                    raise OSError(errno.ENETUNREACH, "network is unreachable")
            elif event == "exec":
                name = getattr(args[0], "co_filename", "")
                if name.startswith(root):
                    note("executed", name)
            elif event == "pickle.find_class" and args[0] in _GADGETS:
                note("unpickled", f"{args[0]}.{args[1]}")
        finally:
            state.inside = False

    sys.addaudithook(hook)
    plain = subprocess.Popen.__init__

    def started(self: Any, args: Any, *others: Any, **options: Any) -> None:
        words = [args] if isinstance(args, (str, bytes)) else [os.fspath(word) for word in args]
        if words[0] == python:  # it would take seconds to load
            own = own_words(words)
            shown = ["python", *words[1:]] if own is None else ["autoprog", *own]
            note("started", " ".join(map(str, shown)))
            words[0] = "/bin/false"
        elif options.get("shell"):
            note("started", f"shell: {words}")
        elif "/" in str(words[0]):
            note("started", " ".join(map(str, words)))
        plain(self, args if options.get("shell") else words, *others, **options)

    subprocess.Popen.__init__ = started  # type: ignore[method-assign]
