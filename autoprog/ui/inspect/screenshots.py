"""Pictures of all views, without a terminal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import cast

from textual.pilot import Pilot
from textual.widgets import Static

from autoprog.errors import RunError
from autoprog.openfiles import write_all
from autoprog.ui.inspect.app import InspectApp
from autoprog.ui.inspect.keys import VIEWS
from autoprog.ui.inspect.search_pane import SearchPane
from autoprog.ui.svg import with_local_fonts

__all__ = ["take_screenshots"]

MOST_SECONDS = 60.0
PAUSE_SECONDS = 0.02


def take_screenshots(app: InspectApp, folder: Path, size: tuple[int, int]) -> list[Path]:
    """Write ``runs.svg``, ``schedule.svg`` … of a program that nobody has started.

    Args:
        app: What to show.
        folder: Where the files go; made if it is missing.
        size: Columns and rows of the terminal there would be.

    Returns:
        The files, in the order of the views.

    Raises:
        RunError: If they cannot be written, or a run cannot be read.
    """
    pictures = asyncio.run(_take(app, size))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_all({folder / name: picture for name, picture in pictures.items()})
        return [folder / name for name in pictures]
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None


async def _take(app: InspectApp, size: tuple[int, int]) -> dict[str, str]:
    """Return the pictures by the names of their files."""
    pictures = {}
    async with app.run_test(size=size) as pilot:
        for view in VIEWS:
            await _settled(app, pilot, view)
            problem = app.query_one("#problem", Static)
            if problem.display:
                raise RunError(str(problem.content).removeprefix(" ! "))
            picture = app.export_screenshot(title="autoprog inspect")
            pictures[f"{view}.svg"] = with_local_fonts(picture)
    return pictures


async def _settled(app: InspectApp, pilot: Pilot[None], view: str) -> None:
    """Wait until a view is shown and what it shows has been read twice, so that it is all there."""
    search = cast(SearchPane, app.query_one("#search-pane"))
    await pilot.pause()
    app.action_view(view)
    await pilot.pause()
    end, last = app.num_reads + 2, time.monotonic() + MOST_SECONDS
    while (app.num_reads < end or search.is_computing) and time.monotonic() < last:
        await pilot.pause(PAUSE_SECONDS)
    await pilot.pause()
