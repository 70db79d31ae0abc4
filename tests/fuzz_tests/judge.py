"""What is wrong with how a command ended: nothing foreign may be obeyed, and a refusal is one clear line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tests.fuzz_tests.corpus import Command
from tests.fuzz_tests.sandbox import Limits, Outcome

__all__ = ["FAULTS", "Fault", "control_characters", "faults_of"]

FAULTS = (
    "executed",
    "outside",
    "traceback",
    "hang",
    "memory",
    "control bytes",
    "left files",
    "exit code",
    "message",
)

_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_MAX_LETTERS = 2_500
_MAX_LINES = 4
_TRACEBACK = "Traceback (most recent call last)"
_OF_PYTHON = re.compile(
    r'^\s*File "|^[\w.]+(Error|Exception|Warning)\b|: [A-Z]\w+(Error|Warning): '
)
_HARMLESS = re.compile(r"^git (-c \S+ |--\S+ )*rev-parse( |$)")
_OWN_WORDS = re.compile(r"^autoprog (train|search) ")
_DANGEROUS_WORDS = re.compile(r"--timm-script|--debug|pipe:|touch |\.\./|/victim")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong; `what` is one of `FAULTS`."""

    what: str
    detail: str


def faults_of(command: Command, outcome: Outcome, limits: Limits) -> list[Fault]:
    """Return everything that is wrong."""
    out = outcome.out.decode("utf-8", "replace")
    err = outcome.err.decode("utf-8", "replace")
    return [
        *_executed(outcome, command.real_git),
        *_outside(command, outcome),
        *_ended_badly(outcome, out, err),
        *_used_too_much(outcome, limits),
        *(
            Fault("control bytes", f"{name}: {found}")
            for name, text in (("stdout", out), ("stderr", err))
            if (found := control_characters(text))
        ),
        *_left(outcome),
        *_refused_badly(command, outcome, err),
    ]


def control_characters(text: str) -> str:
    """Return the first control character of a text with what is around it; nothing where there is none."""
    found = _CONTROL.search(text)
    return ascii(text[max(0, found.start() - 40) : found.start() + 40]) if found else ""


def _executed(outcome: Outcome, real_git: bool) -> Iterable[Fault]:
    if any("canary/" in change for change in outcome.changes):
        yield Fault("executed", "the canary was made")
    for note in outcome.notes:
        what, detail = note["what"], note["detail"]
        if what in ("executed", "unpickled", "network"):
            yield Fault("executed", f"{what}: {detail}")
        if what == "started":
            own = _OWN_WORDS.match(detail) and not _DANGEROUS_WORDS.search(detail)
            if not own and not _HARMLESS.match(detail):
                yield Fault("executed", f"started {detail}")


def _outside(command: Command, outcome: Outcome) -> Iterable[Fault]:
    for note in outcome.notes:
        if note["what"] in ("wrote outside", "changed outside"):
            yield Fault("outside", f"{note['what']}: {note['detail']}")
    for change in outcome.changes:
        verb, path = change.split(" ", 1)
        if path.startswith(("canary/", "tmp/")):
            continue
        if not any(_lies_in(path, allowed) for allowed in command.writes):
            victim = path.startswith(("victim/", "work/victim/"))
            if victim or outcome.code != 2:  # what a refused call leaves is told of by itself
                yield Fault("outside", f"{verb} {path}")


def _lies_in(path: str, allowed: str) -> bool:
    whole = allowed if allowed.startswith("home/") else f"work/{allowed}"
    # A folder that is needed for what may be written may be made too.
    return path == whole or path.startswith(f"{whole}/") or whole.startswith(f"{path}/")


def _ended_badly(outcome: Outcome, out: str, err: str) -> Iterable[Fault]:
    for text in (err, out):
        if _TRACEBACK in text:
            yield Fault("traceback", _where(text))
            return
    if outcome.code < 0 and not outcome.hung:
        yield Fault("traceback", f"ended by signal {-outcome.code}")


def _where(text: str) -> str:
    """Return the last frame of the program in a traceback, and the exception."""
    frames = re.findall(r'File "[^"]*/((?:autoprog|supernet)/[^"]+)", line (\d+), in (\S+)', text)
    lines = [line for line in text.splitlines() if line and not line.startswith(" ")]
    place = f"{frames[-1][0]} in {frames[-1][2]}" if frames else "somewhere"
    last = next(
        (
            line
            for line in reversed(lines)
            if re.match(r"[\w.]+(Error|Exception|Exit|Warning|Bomb)?\b", line)
        ),
        "",
    )
    return f"{place}: {last[:200]}"


def _used_too_much(outcome: Outcome, limits: Limits) -> Iterable[Fault]:
    if outcome.hung:
        yield Fault("hang", f"killed after {outcome.seconds:.0f} s")
    if outcome.peak_bytes > limits.memory_bytes:
        yield Fault("memory", f"{outcome.peak_bytes / 2**30:.1f} GB")
    elif _TRACEBACK.encode() in outcome.err and re.search(
        rb"MemoryError|[Cc]an.t allocate memory", outcome.err
    ):
        yield Fault("memory", "memory ran out")


def _left(outcome: Outcome) -> Iterable[Fault]:
    if outcome.code == 2:
        for change in outcome.changes:
            if not change.split(" ", 1)[1].startswith(("canary/", "victim/", "work/victim/")):
                yield Fault("left files", change)


def _refused_badly(command: Command, outcome: Outcome, err: str) -> Iterable[Fault]:
    if outcome.hung or outcome.code < 0 or _TRACEBACK in err:
        return
    if outcome.code not in command.codes and not outcome.long:
        yield Fault(
            "exit code", f"{outcome.code}, not one of {sorted(command.codes)}: {err[:200]!r}"
        )
    if outcome.code in (1, 2):
        lines = err.splitlines()
        said = [line for line in lines if not re.match(r"(autoprog: )?warning: ", line)]
        if outcome.code == 2 and not said:
            yield Fault("message", "refused without a word")
        # What was found on the way may be told before the refusal, such as where the class names came from.
        elif outcome.code == 2 and len(said) > _MAX_LINES:
            yield Fault("message", f"{len(said)} lines: {' / '.join(said)[:300]!r}")
        strange = [line for line in said if _OF_PYTHON.search(line)]
        if strange or (said and not said[-1].startswith("autoprog")):
            yield Fault("message", f"not the program's own words: {(strange or said)[-1][:200]!r}")
        longest = max(lines, key=len, default="")
        if len(longest) > _MAX_LETTERS:
            yield Fault("message", f"a line of {len(longest):,} characters: {longest[:150]!r}")
