"""The words that start autoprog anew, as for the workers of a search and the arms of a verification."""

from __future__ import annotations

import sys
from pathlib import Path

import autoprog

__all__ = ["PROGRAM", "program_in_processes"]

_ROOT = str(Path(autoprog.__file__).resolve().parent.parent)
# Not `python -m autoprog`, which looks for modules in the working directory first: a file torch.py in it
# would be run. With -c the first place to look is '', the working directory; this very package takes it.
_PREPARE = f"import sys; sys.path[0] = {_ROOT!r}; "
PROGRAM = (
    sys.executable,
    "-c",
    f"{_PREPARE}from autoprog.cli import main; sys.exit(main())",
)
"""Words of a process of this very package; those of its command line follow."""
_TORCHRUN = (
    sys.executable,
    "-c",
    f"{_PREPARE}from torch.distributed.run import main; sys.exit(main())",
)


def program_in_processes(num_processes: int, program: tuple[str, ...] = PROGRAM) -> tuple[str, ...]:
    """Return the words that start `program` in so many processes of this machine, through torchrun."""
    if num_processes == 1:
        return program
    places = ("--standalone", "--nproc-per-node", str(num_processes), "--no-python")
    return (*_TORCHRUN, *places, *program)
