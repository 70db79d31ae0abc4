from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import UpdateFinishedTrialError

from autoprog.processes import ProcessName, this_process
from autoprog.search.controller.workers import (
    Lease,
    LeaseKeeper,
    folder_clock,
    lease_in,
    verdict_on,
)

FAR = ProcessName("far", "another boot", 7, 1)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_lease_is_read_as_it_was_written() -> None:
    lease = Lease(this_process(), 3, 12.5)
    assert lease_in(lease.attribute()) == lease
    assert {"host", "pid", "boot_id", "expires"} <= lease.attribute().keys()


@pytest.mark.parametrize("attribute", [None, 5, {}, {"host": "h", "pid": 1}, {"expires": "soon"}])
def test_what_is_no_lease_is_none(attribute: Any) -> None:
    assert lease_in(attribute) is None


@pytest.mark.parametrize(
    ("who", "expires", "verdict"),
    [
        ("here", 11, "held"),
        ("here", 9, "doubtful"),
        ("far", 11, "held"),
        ("far", 9, "lost"),
        ("dead", 11, "lost"),
        ("dead", 9, "lost"),
    ],
)
def test_the_process_table_comes_before_the_clock(
    who: str, expires: float, verdict: str, dead: ProcessName
) -> None:
    holder = {"here": this_process(), "far": FAR, "dead": dead}[who]
    assert verdict_on(Lease(holder, 0, expires), now=10) == verdict


def test_the_clock_is_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = folder_clock(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 12.0)  # of a host that lost its way
    first = clock()
    assert first > 1e9
    time.sleep(0.02)
    assert clock() > first
    (tmp_path / "mine").touch()
    assert abs((tmp_path / "mine").stat().st_mtime - clock()) < 5


def test_without_a_folder_to_write_the_hosts_own_clock_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = folder_clock(tmp_path)

    def refuse(path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert abs(clock() - time.time()) < 5


class Hours:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def keeper(write: Callable[[Lease], None], clock: Hours, **fields: Any) -> LeaseKeeper:
    return LeaseKeeper(Lease(this_process(), 0, 100.06), write, clock, 0.06, **fields)


def test_a_lease_is_renewed_before_it_ends() -> None:
    written: list[Lease] = []
    beats: list[int] = []
    clock = Hours()
    with keeper(written.append, clock, beat=lambda: beats.append(1)):
        wait_for(lambda: len(beats) > 3)
        assert written == []  # not due yet
        clock.now = 100.03
        wait_for(lambda: len(written) == 1)
    count = threading.active_count()
    assert written[0].expires == pytest.approx(100.09)
    clock.now = 200
    time.sleep(0.05)
    assert len(written) == 1
    assert threading.active_count() == count


def test_a_lease_that_others_ended_is_known_to_be_lost() -> None:
    def refuse(lease: Lease) -> None:
        raise UpdateFinishedTrialError

    clock = Hours()
    with keeper(refuse, clock) as kept:
        assert not kept.is_lost
        clock.now = 101
        wait_for(lambda: kept.is_lost)


def test_a_full_disk_is_no_reason_to_give_up() -> None:
    tries: list[Lease] = []

    def refuse_first(lease: Lease) -> None:
        tries.append(lease)
        if len(tries) < 3:
            raise OSError(28, "No space left on device")

    clock = Hours()
    clock.now = 101
    with keeper(refuse_first, clock) as kept:
        wait_for(lambda: len(tries) == 3)
        assert not kept.is_lost
