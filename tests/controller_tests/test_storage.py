from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._base import BaseJournalSnapshot

from autoprog.cli import main
from autoprog.errors import ConfigError, RunError
from autoprog.search.controller import (
    IntDistribution,
    Plan,
    SharedStudy,
    TrialState,
    open_storage,
)
from autoprog.search.controller.storage import open_journal

SPACE = {"x": IntDistribution(0, 9)}
TORN = b'{"op_code":4,"worker_id":"w","stud'

APPENDER = """
import sys
from pathlib import Path
import optuna
from autoprog.search.controller import IntDistribution
from autoprog.search.controller.storage import open_journal
study = optuna.load_study(study_name="s", storage=open_journal(Path(sys.argv[1])))
for _ in range(40):
    trial = study.ask({"x": IntDistribution(0, 9)})
    study.tell(trial, trial.params["x"])
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "search.journal"


def add_trials(study: optuna.Study, count: int) -> None:
    for _ in range(count):
        trial = study.ask(SPACE)
        study.tell(trial, trial.params["x"])


def study_in(path: Path) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=open_journal(path), load_if_exists=True)


def test_what_is_told_is_read_by_the_next(journal: Path) -> None:
    study = study_in(journal)
    add_trials(study, 3)
    assert [t.values for t in study_in(journal).trials] == [t.values for t in study.trials]


def test_plain_optuna_reads_and_writes_the_same_file(journal: Path) -> None:
    ours = study_in(journal)
    add_trials(ours, 2)
    theirs = optuna.load_study(
        study_name="s", storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    add_trials(theirs, 2)
    assert len(ours.trials) == 4
    assert not journal.with_name("search.journal.lock").exists()


def test_a_torn_line_is_cut_and_kept_aside(journal: Path) -> None:
    add_trials(study_in(journal), 3)
    whole = journal.read_bytes()
    journal.write_bytes(whole + TORN)
    assert len(study_in(journal).trials) == 3
    assert journal.read_bytes().startswith(whole)
    bak = journal.with_name("search.journal.bak")
    assert bak.read_bytes() == TORN + b"\n"
    journal.write_bytes(journal.read_bytes() + b"{")
    open_journal(journal)
    assert bak.read_bytes() == TORN + b"\n{\n"


def test_a_whole_journal_is_left_alone(journal: Path) -> None:
    add_trials(study_in(journal), 3)
    whole = journal.read_bytes()
    open_journal(journal)
    assert journal.read_bytes() == whole
    assert not journal.with_name("search.journal.bak").exists()


def test_a_writer_goes_on_behind_a_line_that_another_one_tore(journal: Path) -> None:
    one, other = study_in(journal), study_in(journal)
    add_trials(one, 2)
    with journal.open("ab") as file:
        file.write(TORN)
    add_trials(other, 2)
    add_trials(one, 1)
    assert len(study_in(journal).trials) == 5
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_a_full_disk_leaves_no_half_line(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, write, left = study_in(journal), os.write, [30]
    add_trials(study, 1)
    whole = journal.read_bytes()

    def fill(file: int, data: bytes) -> int:
        if b'"op_code"' not in data and left[0] == 30:
            return write(file, data)  # the lock
        if not left[0]:
            raise OSError(28, "No space left on device")
        count, left[0] = write(file, data[: left[0]]), 0
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill)
        with pytest.raises(OSError, match="No space left"):
            study.ask(SPACE)
    assert journal.read_bytes() == whole
    add_trials(study, 1)
    assert len(study_in(journal).trials) == 2


def test_damage_in_the_middle_is_told_in_one_line(journal: Path) -> None:
    add_trials(study_in(journal), 2)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b'{"op_c{"op_code"\n', *lines[1:]]))
    with pytest.raises(RunError, match="the journal is damaged") as told:
        open_journal(journal)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "change",
    [
        {"datetime_start": "0001-01-01T00:00:00+23:00"},
        {"params": {"x": float("inf")}},
        {
            "params": {"y": 0.5},
            "distributions": {
                "y": '{"name": "FloatDistribution", "attributes":'
                ' {"step": 1e-300, "low": 0.0, "high": 1e300, "log": false}}'
            },
        },
    ],
)
def test_rows_that_break_optunas_arithmetic_are_told_in_one_line(
    journal: Path, change: dict[str, object]
) -> None:
    space = {
        "x": '{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 0, "high": 2}}'
    }
    add_trials(study_in(journal), 1)
    worker = json.loads(journal.read_text().splitlines()[0])["worker_id"]
    row = {
        **{"op_code": 4, "worker_id": worker, "study_id": 0, "state": 2, "value": None},
        **{"values": None, "datetime_start": "2026-01-01T00:00:00", "distributions": space},
        **{"datetime_complete": "2026-01-01T00:00:00", "params": {"x": 1}},
        **{"user_attrs": {}, "system_attrs": {}},
        **change,
    }
    with journal.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(RunError, match="the journal is damaged") as told:
        open_journal(journal)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("make", ["folder", "missing"])
def test_a_journal_that_cannot_be_opened_is_told_in_one_line(tmp_path: Path, make: str) -> None:
    path = tmp_path / "no" / "search.journal"
    if make == "folder":
        path.mkdir(parents=True)
    with pytest.raises(RunError, match="cannot be opened"):
        open_journal(path)


def test_threads_and_processes_write_at_once(journal: Path, repository: Path) -> None:
    study = study_in(journal)
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(journal)],
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    threads = [threading.Thread(target=add_trials, args=(study_in(journal), 40)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.wait() == 0
    trials = study.trials
    assert len(trials) == 120
    assert all(trial.values == [trial.params["x"]] for trial in trials)


def test_a_database_is_opened_by_its_url(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    storage = open_storage(url)
    assert isinstance(storage, RDBStorage)
    add_trials(optuna.create_study(study_name="s", storage=storage), 2)
    again = optuna.load_study(study_name="s", storage=open_storage(url))
    assert len(again.trials) == 2


def test_a_busy_database_is_waited_for(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/studies.db")
    assert isinstance(storage, RDBStorage)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("pragma busy_timeout").scalar() == 60_000


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("studies.db", "must be the URL of a database, but got 'studies.db'"),
        ("sqlite://", "must be the URL of a database"),
        ("sqlite:///:memory:", "must be the URL of a database"),
        ("sqlite:////no/such/folder/studies.db", "unable to open database file"),
        ("nosuch://user:secret@host/studies", "must be the URL of a database that answers"),
        ("oracle+nodriver://user:secret@host/studies", "must be the URL of a database that answ"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as told:
        open_storage(url)
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_missing_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ConfigError, match="whose Python driver is installed") as told:
        open_storage("postgresql://user:secret@host/studies")
    assert "secret" not in str(told.value)


# Databases and journals of somebody else.


def test_no_storage_of_ours_reads_a_snapshot_which_would_be_unpickled(journal: Path) -> None:
    study_in(journal)
    assert not isinstance(open_journal(journal)._backend, BaseJournalSnapshot)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "://x",
        "os://x/y",
        "grpc://host:1/x",
        "redis://localhost:6379",
        "mysql://host:port/x",
        "sqlite://host/x.db",
        "sqlite:///a\0b",
        "sqlite:////dev/zero",
        "sqlite:////proc/x.db",
        "sqlite:///{folder}",
        "sqlite:///{folder}/x.db?timeout=soon",
        "sqlite:///{folder}/missing/x.db",
        "sqlite:///{folder}/pipe",
        "sqlite:///{folder}/text",
        "sqlite:///" + "x" * 5000,
    ],
)
def test_a_database_that_cannot_be_used_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    (tmp_path / "text").write_text("text\n" * 2000)
    os.mkfifo(tmp_path / "pipe")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    words = ("--model=vit-mu", "--trials=1", f"--runs-dir={tmp_path}/runs", "--device=cpu", "-q")
    assert main(["search", *words, f"--storage={url.format(folder=tmp_path)}"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("autoprog: --storage: must be ")
    assert shown.count("\n") == 1
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("params", "values"),
    [
        ({"y": 1}, [1.0]),
        ({"x": 1, "y": 1}, [1.0]),
        ({"x": 10**9}, [1.0]),
        ({"x": "1"}, [1.0]),
        ({"x": 1}, [1.0, 2.0]),
        ({"x": 1}, [float("inf")]),
        ({"x": 1}, ["1"]),
        ({"x": 1}, [10**400]),
    ],
)
def test_a_trial_of_another_study_is_not_taken(
    tmp_path: Path, params: dict[str, object], values: list[object]
) -> None:
    shared = SharedStudy.open(
        tmp_path, Plan("s", ("loss",), SPACE), optuna.samplers.RandomSampler()
    )
    trial = optuna.trial.create_trial(params={"x": 1}, distributions=SPACE, value=1.0)
    shared.study.add_trial(trial)
    (one,) = shared.ended(TrialState.COMPLETE)
    one.params, one._values = params, values  # as a journal that somebody else wrote gives them
    with pytest.raises(
        RunError, match=r"^s: trial 0 is none of this search; move its journal away"
    ):
        shared.ended(TrialState.COMPLETE)
