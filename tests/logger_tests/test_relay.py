"""A logger that fails or is slow costs a run nothing but one line."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from autoprog.errors import ConfigError, RunError
from autoprog.events import WarningRaised
from autoprog.loggers import relay
from autoprog.loggers.points import Point
from autoprog.loggers.relay import Relay, Relays, check_logger, check_loggers, replay
from autoprog.settings import RunManifest, RunSettings
from tests.logger_tests.conftest import FIRST, SECOND, Write


class Recorder:
    """A logger that keeps what it gets, once `gate` is open."""

    place = "here"

    def __init__(self, gate: threading.Event | None = None, fails_at: str = "") -> None:
        self.points: list[Point] = []
        self.closed = False
        self._gate, self._fails_at = gate, fails_at

    def write(self, points: list[Point]) -> None:
        if self._gate is not None:
            assert self._gate.wait(10)
        if self._fails_at == "write":
            raise KeyError("no\nroom")
        self.points += points

    def close(self) -> None:
        if self._fails_at == "close":
            raise SystemExit("the server is gone")
        self.closed = True

    @property
    def steps(self) -> list[int]:
        return [point.step for point in self.points]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Let a logger take the place of any other."""

    def put(logger: Recorder) -> Recorder:
        monkeypatch.setattr(relay, "open_logger", lambda *_: logger)
        return logger

    return put


def settings_with(manifest: RunManifest, **values: object) -> RunSettings:
    return RunSettings(**{**manifest.settings.model_dump(), **values})


def test_every_point_arrives_in_order(folder: Path, manifest: RunManifest, write, use) -> None:
    logger = use(Recorder())
    passing = Relay("tensorboard", folder, manifest)
    for event in FIRST[:5]:
        write(0, event)
        assert passing.show(event) is None
    assert passing.close() is None
    assert (logger.steps, logger.closed) == ([10, 20, 20], True)


def test_a_new_attempt_is_passed_on_from_the_start_of_the_run(
    folder: Path, manifest: RunManifest, write: Write, use
) -> None:
    for event in FIRST:
        write(0, event)
    logger = use(Recorder())
    passing = Relay("tensorboard", folder, manifest)
    damaged = WarningRaised(step=20, message="last.pt is damaged, previous.pt is taken")
    for event in (damaged, *SECOND):
        write(1, event)
        assert passing.show(event) is None
    passing.close()
    assert logger.steps == [10, 20, 20, 30, 40, 40]


def test_a_slow_logger_makes_nobody_wait_but_the_end(
    folder: Path, manifest: RunManifest, write: Write, use
) -> None:
    gate = threading.Event()
    logger = use(Recorder(gate))
    passing = Relay("tensorboard", folder, manifest)
    for event in FIRST[:5]:
        write(0, event)
        passing.show(event)  # would fail after 10 s if it waited
    assert logger.points == []
    gate.set()
    passing.close()
    assert logger.steps == [10, 20, 20]


def test_a_failure_is_told_once_and_ends_the_logger_alone(
    folder: Path, manifest: RunManifest, write: Write, use
) -> None:
    use(Recorder(fails_at="write"))
    relays = Relays(folder, settings_manifest(manifest))
    told = []
    for event in FIRST:
        write(0, event)
        told += relays.show(event)
        threading.Event().wait(0.02)
    (warning,) = told
    assert warning.message == (
        "tensorboard has stopped (KeyError: 'no\\nroom'); the run goes on, and autoprog export can repeat it"
    )
    assert relays.close() == []
    assert relays.places == []


def settings_manifest(manifest: RunManifest) -> RunManifest:
    return manifest.model_copy(update={"settings": settings_with(manifest, log_tensorboard=True)})


def test_a_failure_at_the_end_is_told(folder: Path, manifest: RunManifest, write, use) -> None:
    use(Recorder(fails_at="close"))
    relays = Relays(folder, settings_manifest(manifest))
    write(0, FIRST[0])
    assert relays.show(FIRST[0]) == []
    assert relays.close() == ["tensorboard has stopped (SystemExit: the server is gone)"]


def test_without_a_start_there_is_nothing_to_close(folder: Path, manifest: RunManifest) -> None:
    relays = Relays(folder, settings_manifest(manifest))
    assert (relays.close(), relays.places) == ([], [])


def test_a_replay_tells_where_it_went_or_fails(folder: Path, manifest: RunManifest, write, use):  # type: ignore[no-untyped-def]
    for attempt, events in enumerate((FIRST, SECOND)):
        for event in events:
            write(attempt, event)
    logger = use(Recorder())
    assert replay("tensorboard", folder, manifest) == "here"
    assert logger.steps == [10, 20, 20, 30, 40, 40]
    use(Recorder(fails_at="write"))
    with pytest.raises(RunError, match="tensorboard has stopped"):
        replay("tensorboard", folder, manifest)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_refused_with_the_way_to_get_it(
    name: str, manifest: RunManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"autoprog.loggers.{name}", raising=False)
    for module in [m for m in sys.modules if m.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    wanted = settings_with(manifest, **{f"log_{name}": True})
    with pytest.raises(ConfigError) as caught:
        check_loggers(wanted)
    problem = f"--log-{name}: {name} is not installed; pip install 'autoprog[{name}]'"
    assert str(caught.value) == problem
    with pytest.raises(ConfigError, match=f"^--to {name}: {name} is not installed"):
        check_logger(name, wanted, f"--to {name}")


def test_without_loggers_nothing_is_needed(manifest: RunManifest) -> None:
    check_loggers(manifest.settings)


@pytest.mark.parametrize(("key", "value"), [("wandb_project", "vits"), ("wandb_mode", "offline")])
def test_what_is_said_of_wandb_needs_wandb(key: str, value: str, manifest: RunManifest) -> None:
    with pytest.raises(ValueError, match="must be given together with --log-wandb"):
        settings_with(manifest, **{key: value})
