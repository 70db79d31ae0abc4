"""Event files for TensorBoard, in the folder ``tensorboard`` of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from autoprog.files import dump_yaml
from autoprog.loggers.points import Point
from autoprog.settings import RunManifest

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger:
    """An event file that holds the whole run.

    It begins by taking back what earlier files of the folder say (``purge_step``). They stay: a
    TensorBoard that is open would go on waiting for one that is gone.
    """

    def __init__(self, folder: Path, manifest: RunManifest) -> None:
        path = folder / "tensorboard"
        self.place = f"tensorboard --logdir {path}"
        self._writer = SummaryWriter(str(path), purge_step=0)
        # As YAML, as in run.yaml, so that both can be compared by eye.
        settings = manifest.settings.model_dump(mode="json", exclude_none=True)
        self._writer.add_text("settings", _as_code(dump_yaml(settings)), 0)

    def write(self, points: Sequence[Point]) -> None:
        """Write points so that a TensorBoard that is open sees them."""
        for point in points:
            for tag, number in point.numbers.items():
                self._writer.add_scalar(tag, number, point.step, walltime=point.time)
            for tag, text in point.texts.items():
                self._writer.add_text(tag, text, point.step, walltime=point.time)
        # Every batch of points, or a TensorBoard that is open lags by its buffer of two minutes.
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _as_code(text: str) -> str:
    """Return Markdown that shows a text as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
