"""What torchrun starts in the tests of several ranks: ``ranks_driver.py grow|kill FOLDER WORDS…``."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from autoprog.cli import main
from autoprog.errors import RunError
from autoprog.events import Grown
from autoprog.train.ranks import Ranks, joined_ranks
from autoprog.train.step import Stepper

KILLED_RANK, KILLED_STEP = 1, 50


def digest(stepper: Stepper) -> str:
    """Return a hash of every bit of weights, averages and optimizer state."""
    found = hashlib.sha256()
    states: list[Any] = [stepper.model.state_dict(), stepper.optimizer.state_dict()["state"]]
    states += [ema.module.state_dict() for ema in stepper.emas]
    for state in states:
        found.update(_bytes(state))
    return found.hexdigest()


def _bytes(state: Any) -> bytes:
    if torch.is_tensor(state):
        return state.numpy().tobytes()
    assert isinstance(state, dict)
    return b"".join(str(key).encode() + _bytes(state[key]) for key in sorted(state))


def note_growths(folder: Path) -> None:
    """Write the digest after each growth, one line each, into a file of this rank."""
    grow = Stepper.grow
    path = folder / f"rank-{os.environ['RANK']}.txt"

    def noting(stepper: Stepper, *rest: Any) -> Grown:
        event = grow(stepper, *rest)
        with path.open("a") as file:
            file.write(f"{event.step} {digest(stepper)}\n")
        return event

    Stepper.grow = noting  # type: ignore[method-assign]


def die_once() -> None:
    """Let one rank die in the middle of the first attempt, as if by kill -9."""
    take = Stepper.step
    first = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"

    def step(self: Stepper, images: Any, targets: Any, choice: Any, slots: Any, now: int) -> Any:
        if first and self.ranks.rank == KILLED_RANK and now == KILLED_STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, images, targets, choice, slots, now)

    Stepper.step = step  # type: ignore[method-assign]


def try_words(ranks: Ranks) -> dict[str, Any]:
    """Return what each collective gives on this rank."""
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


if __name__ == "__main__":
    mode, folder, words = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    if mode == "grow":
        note_growths(folder)
    elif mode == "kill":
        die_once()
    elif mode == "words":
        with joined_ranks() as joined:
            answers = try_words(joined)
        (folder / f"rank-{joined.rank}.json").write_text(json.dumps(answers))
        sys.exit(0)
    sys.exit(main(words))
