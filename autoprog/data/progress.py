"""How a long task of the data shows how far it is: a bar on a terminal, else a line at its start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

from autoprog.printable import say

__all__ = ["Progress", "progress_on_stderr"]

# Given what is done, in one line, and the number of its parts; the context takes the number done
# so far.
Progress: TypeAlias = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def progress_on_stderr(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a task's line, and on a terminal a bar with the time that is left."""
    if not sys.stderr.isatty():
        say(text, file=sys.stderr)
        yield lambda done: None
        return
    from rich import progress  # for terminals alone

    from autoprog.console import Console

    console = Console(stderr=True, highlight=False)
    console.print(text, markup=False)
    columns = (progress.BarColumn(), progress.TaskProgressColumn(), progress.TimeRemainingColumn())
    with progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
