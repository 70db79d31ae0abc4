"""What torchrun starts in the tests of several ranks: ``ranks_driver.py FOLDER``.

A start of torch on every rank costs more than what most tests look at, so one job carries out several parts,
one after the other: ``parts.json`` in the folder lists their names and words. Each part has a folder of its
own; what its ranks say on standard error goes to ``said``, what they hold to ``held``, and their exit codes
to ``codes``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprog.cli import main

if (
    TYPE_CHECKING
):  # the first part shows that the program itself sets up torch before it is imported
    from autoprog.events import Grown
    from autoprog.train.ranks import Ranks
    from autoprog.train.step import Stepper

KILLED_RANK, KILLED_STEP = 1, 50


def digest(stepper: Stepper) -> str:
    """Return a hash of every bit of weights, averages and optimizer state."""
    import torch

    def as_bytes(state: Any) -> bytes:
        if torch.is_tensor(state):
            return state.numpy().tobytes()
        assert isinstance(state, dict)
        return b"".join(str(key).encode() + as_bytes(state[key]) for key in sorted(state))

    found = hashlib.sha256()
    states: list[Any] = [stepper.model.state_dict(), stepper.optimizer.state_dict()["state"]]
    states += [ema.module.state_dict() for ema in stepper.emas]
    for state in states:
        found.update(as_bytes(state))
    return found.hexdigest()


@contextmanager
def noted_growths(path: Path) -> Iterator[None]:
    """Write the digest after each growth, one line each, into a file of this rank."""
    from autoprog.train.step import Stepper

    grow = Stepper.grow

    def noting(stepper: Stepper, *rest: Any) -> Grown:
        event = grow(stepper, *rest)
        with path.open("a") as file:
            file.write(f"{event.step} {digest(stepper)}\n")
        return event

    Stepper.grow = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Stepper.grow = grow  # type: ignore[method-assign]


def die_once() -> None:
    """Let one rank die in the middle of the first attempt, as if by kill -9."""
    from autoprog.train.step import Stepper

    take = Stepper.step
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"

    def step(self: Stepper, images: Any, targets: Any, choice: Any, slots: Any, now: int) -> Any:
        if first and self.ranks.rank == KILLED_RANK and now == KILLED_STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, images, targets, choice, slots, now)

    Stepper.step = step  # type: ignore[method-assign]


def try_words(ranks: Ranks) -> dict[str, Any]:
    """Return what each collective gives on this rank."""
    import torch

    from autoprog.errors import RunError

    try:
        ranks.check_equal(torch.tensor([7, ranks.rank]), "a test")
        refused = ""
    except RunError as error:
        refused = str(error)
    ranks.check_equal(torch.tensor([7, 8]), "what is equal")
    statistics = [torch.tensor([1.0, ranks.rank]), torch.full((2, 1), 3.0 * ranks.rank)]
    ranks.average(statistics)
    return {
        "shared": [ranks.broadcast(f"héllo {ranks.rank}"), ranks.broadcast("")],
        "total": ranks.total(torch.tensor([1.5, ranks.rank])).tolist(),
        "most": ranks.most(ranks.rank * 15),
        "refused": refused,
        "averaged": [tensor.tolist() for tensor in statistics],
    }


def separate_groups(part: str) -> None:
    """Let the groups of a part meet under keys of its own, not read the addresses of an earlier part."""
    from torch import distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore

    def of_the_part(name: str, store: Any) -> PrefixStore:
        return PrefixStore(f"{part}/{name}", store)

    dist.PrefixStore = of_the_part  # type: ignore[assignment,misc]


@contextmanager
def standard_error_in(path: Path) -> Iterator[None]:
    """Lead standard error, also what C++ writes there, into a file meanwhile."""
    kept = os.dup(2)
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def carry_out(name: str, words: list[str], folder: Path, held: Path) -> int:
    """Carry out one part; return its exit code."""
    words = [word.replace("{folder}", str(folder)) for word in words]
    if name == "talk":
        from autoprog.train.ranks import joined_ranks

        with joined_ranks() as joined:
            answers = try_words(joined)
        held.write_text(json.dumps(answers))
        return 0
    if name == "kill":
        die_once()
    try:
        with noted_growths(held) if name == "grow" else nullcontext():
            return main(words)
    except SystemExit as ended:
        return int(ended.code or 0)


if __name__ == "__main__":
    top, rank = Path(sys.argv[1]), os.environ["RANK"]
    for kind in ("said", "held", "codes"):
        (top / kind).mkdir(exist_ok=True)
    for number, (part, part_words) in enumerate(json.loads((top / "parts.json").read_text())):
        code = top / "codes" / f"{part}-{rank}"
        if code.exists():  # done before the job was started anew
            continue
        (top / part).mkdir(exist_ok=True)
        if number > 0:
            separate_groups(part)
        with standard_error_in(top / "said" / f"{part}-{rank}"):
            ended_with = carry_out(part, part_words, top / part, top / "held" / f"{part}-{rank}")
        code.write_text(str(ended_with))
