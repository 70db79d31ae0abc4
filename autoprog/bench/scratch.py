"""A run folder for measurements, which is gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from autoprog.runs import RunFolder
from autoprog.settings import RunManifest, RunSettings

__all__ = ["scratch_folder", "scratch_manifest"]


@contextmanager
def scratch_folder(settings: RunSettings) -> Iterator[RunFolder]:
    """Yield a run folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="autoprog-bench-") as place:
        folder = RunFolder.create(Path(place), scratch_manifest(settings))
        try:
            yield folder
        finally:
            folder.close()  # its log, before the files go


def scratch_manifest(settings: RunSettings) -> RunManifest:
    """Return the manifest of a run that nobody will look at."""
    return RunManifest(
        run_id="bench",
        created=datetime.now().astimezone().isoformat(timespec="seconds"),
        argv=("bench",),
        versions={},
        settings=settings,
    )
