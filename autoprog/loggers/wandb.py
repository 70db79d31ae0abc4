"""A run of Weights & Biases, with its local files in the folder ``wandb`` of the run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import wandb

from autoprog.errors import ConfigError
from autoprog.loggers.points import Point
from autoprog.settings import RunManifest, RunSettings

__all__ = ["WandbLogger", "check_wandb"]

_UPLOAD_SECONDS = 120.0
"""How long the end of a run waits for a slow server; what is missing then is still in the folder."""


class WandbLogger:
    """A W&B run under the run's own name; W&B's steps are the run's.

    Online, another attempt goes on with the same W&B run, which keeps the first values that it got of a
    step. Offline, each attempt has a folder that holds the whole run, ``wandb/latest-run`` the last one.
    """

    def __init__(self, folder: Path, manifest: RunManifest) -> None:
        settings = manifest.settings
        mode = _mode(settings)
        self._run = wandb.init(
            project=settings.wandb_project or os.environ.get("WANDB_PROJECT") or "autoprog",
            # W&B takes no other letters in an id.
            id=re.sub(r"[^\w.-]", "-", manifest.run_id),
            name=manifest.run_id,
            job_type=settings.kind,
            dir=str(folder),
            config=settings.model_dump(mode="json", exclude_none=True),
            mode=mode,
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                console="off",
                silent=True,
                save_code=False,
                reinit="create_new",
                finish_timeout=_UPLOAD_SECONDS,
            ),
        )
        self.place = {
            "online": self._run.url or "W&B",
            "offline": f"wandb sync {folder / 'wandb' / 'latest-run'}",
            "disabled": "nowhere, as WANDB_MODE says",
        }[mode]
        self._first_step = self._run.step

    def write(self, points: Sequence[Point]) -> None:
        """Write the points that W&B does not have yet."""
        for point in points:
            # W&B refuses steps below those that it has, with a warning for each.
            if point.step >= self._first_step:
                self._run.log({**point.numbers, **point.texts}, step=point.step)

    def close(self) -> None:
        """Finish the run, and wait a while until the server has it."""
        self._run.finish()


def check_wandb(settings: RunSettings) -> None:
    """Refuse a run that W&B would not take.

    Raises:
        ConfigError: If nobody is logged in.
    """
    if _mode(settings) != "online":
        return
    try:
        # Without a prompt: nobody may be there to answer it.
        logged_in = wandb.login(prompt=False, verify=False)
    except wandb.Error:
        logged_in = False
    if not logged_in:
        hint = "call wandb login, or add --wandb-mode offline"
        raise ConfigError("--log-wandb", "", "nobody is logged in to W&B", hint=hint)


def _mode(settings: RunSettings) -> Literal["online", "offline", "disabled"]:
    mode = settings.wandb_mode or os.environ.get("WANDB_MODE")
    return "offline" if mode == "offline" else "disabled" if mode == "disabled" else "online"
