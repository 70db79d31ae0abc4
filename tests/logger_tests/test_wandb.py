"""W&B in offline mode: what its own file holds."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from autoprog.cli import main
from autoprog.loggers.relay import Relay, check_loggers
from autoprog.settings import RunManifest
from tests.logger_tests.conftest import FIRST, LOSSES, SECOND, Write

pytest.importorskip("wandb")
records = pytest.importorskip("wandb.proto.wandb_internal_pb2")

BLOCK_BYTES = 32768
HEADER_BYTES = 7


def read_records(path: Path) -> list[Any]:
    """Read a W&B file: a LevelDB log of protocol buffers behind a header of 7 bytes."""
    data, place, found, parts = path.read_bytes(), HEADER_BYTES, [], b""
    while place + HEADER_BYTES <= len(data):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < HEADER_BYTES:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + HEADER_BYTES])
        place += HEADER_BYTES
        parts += data[place : place + size]
        place += size
        if kind in (1, 4):  # whole, or the last part
            found.append(records.Record.FromString(parts))
            parts = b""
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the last attempt's run, as soon as W&B has written the end of its file."""
    (path,) = (folder / "wandb" / "latest-run").resolve().glob("*.wandb")
    deadline, found = time.monotonic() + 10, read_records(path)
    while not (found and found[-1].HasField("exit")) and time.monotonic() < deadline:
        time.sleep(0.05)
        found = read_records(path)
    rows = [record.history for record in found if record.HasField("history")]
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in rows
    ]


def offline(manifest: RunManifest) -> RunManifest:
    values = {"log_wandb": True, "wandb_mode": "offline", "wandb_project": "vits"}
    return manifest.model_copy(update={"settings": manifest.settings.model_copy(update=values)})


def test_the_last_attempt_has_the_whole_run_once(
    folder: Path, manifest: RunManifest, write: Write
) -> None:
    for attempt, events in enumerate((FIRST, SECOND)):
        time.sleep(1.1 * attempt)  # W&B names its folders by the second
        relay = Relay("wandb", folder, offline(manifest))
        for event in events:
            write(attempt, event)
            assert relay.show(event) is None
        assert relay.close() is None
    rows = history(folder)
    losses = [(row["_step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == LOSSES
    assert [row["val/top1"] for row in rows if "val/top1" in row] == [50.0, 60.0]
    assert [row["_step"] for row in rows] == [10, 20, 30, 40]
    assert relay.place == f"wandb sync {folder / 'wandb' / 'latest-run'}"


def test_the_command_passes_a_run_on(
    folder: Path, manifest: RunManifest, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    from autoprog.files import dump_yaml

    (folder / "run.yaml").write_text(dump_yaml(manifest.model_dump(mode="json", by_alias=True)))
    for event in FIRST:
        write(0, event)
    command = ["export", str(folder), "--format", "wandb", "--wandb-mode", "offline"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("wandb sync ")
    assert len(history(folder)) == 3


def test_without_a_login_a_run_does_not_start(
    manifest: RunManifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    online = manifest.settings.model_copy(update={"log_wandb": True})
    with pytest.raises(
        ValueError, match="--log-wandb: nobody is logged in to W&B; call wandb login"
    ):
        check_loggers(online)
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_loggers(online)


def test_wandb_can_be_disabled_by_its_own_variable(
    folder: Path, manifest: RunManifest, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    online = manifest.settings.model_copy(update={"log_wandb": True})
    relay = Relay("wandb", folder, manifest.model_copy(update={"settings": online}))
    for event in FIRST:
        write(0, event)
        assert relay.show(event) is None
    assert relay.close() is None
    assert relay.place == "nowhere, as WANDB_MODE says"
    assert not (folder / "wandb").exists()
