"""The check-up: each verdict, its cure, and the exit code."""

from __future__ import annotations

import configparser
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autoprog.bench import doctor, packages
from autoprog.bench.doctor import check_disk, check_loading, check_processor, check_threads
from autoprog.bench.packages import PACKAGES, check_packages
from autoprog.cli import main
from autoprog.settings import DataSettings

Capture = pytest.CaptureFixture[str]


def test_a_whole_checkup_is_one_json_list(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_MIN_FREE_BYTES", 1)
    monkeypatch.setattr(doctor, "LOADING_SECONDS", 0.1)
    assert main(["doctor", "--json", "--runs-dir", str(tmp_path / "a" / "b")]) == 0
    found = {one["subject"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == [
        "python",
        *PACKAGES,
        "device",
        "processor",
        "threads",
        "runs folder",
        "loading",
    ]
    assert found["torch"]["found"] == torch.__version__.partition("+")[0]
    assert "images/s of the embedded digits" in found["loading"]["found"]
    assert {one["hint"] == "" for one in found.values() if one["verdict"] == "ok"} == {True}
    assert list(tmp_path.iterdir()) == []


def test_something_wrong_is_exit_code_1_and_has_a_cure(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_MIN_FREE_BYTES", 1)
    assert main(["doctor", "--data", str(tmp_path / "none"), "--runs-dir", str(tmp_path)]) == 1
    *others, data = capsys.readouterr().out.splitlines()
    assert data.startswith("wrong data ")
    assert ";" in data
    assert all(line.startswith(("ok ", "slow ")) for line in others)


def test_a_package_that_is_missing_ends_the_checkup(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "PACKAGES", {"no-such-package": (1, 2)})
    assert main(["doctor"]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == ("wrong no-such-package not installed; pip install 'no-such-package>=1.2'")


@pytest.mark.parametrize(
    ("installed", "verdict"),
    [("2.6.0+cpu", "ok"), ("2.10.1", "ok"), ("2.5.1", "wrong"), ("2.6", "ok")],
)
def test_versions_are_compared_as_numbers(
    installed: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "PACKAGES", {"torch": (2, 6)})
    monkeypatch.setattr(packages, "version", lambda name: installed)
    _, torch_finding = check_packages()
    assert torch_finding.verdict == verdict
    assert (torch_finding.hint == "") == (verdict == "ok")


def test_the_least_versions_are_those_that_are_installed(repository: Path) -> None:
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    required = config["options"]["install_requires"].split()
    assert {f"{name}>={'.'.join(map(str, least))}" for name, least in PACKAGES.items()} <= {
        *required
    }


@pytest.mark.parametrize(
    ("cores", "threads", "environment", "verdict"),
    [
        (4, 4, {}, "ok"),
        (4, 8, {}, "slow"),
        (4, 1, {"OMP_NUM_THREADS": "1"}, "slow"),
        (4, 2, {}, "ok"),  # such as 2 cores with two threads each
    ],
)
def test_threads_are_compared_with_cores(
    cores: int, threads: int, environment: dict[str, str], verdict: str
) -> None:
    assert check_threads(cores, threads, environment).verdict == verdict


def test_a_full_disk_and_a_file_in_the_way_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_MIN_FREE_BYTES", 1)
    assert check_disk(tmp_path).verdict == "ok"
    monkeypatch.setattr(doctor, "_MIN_FREE_BYTES", 2**80)
    assert "make room" in check_disk(tmp_path).hint
    (tmp_path / "file").touch()
    assert check_disk(tmp_path / "file" / "runs").found.endswith("file cannot be written")


def test_a_processor_without_vector_instructions_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert check_processor().verdict == "slow"


def test_loading_below_the_pace_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds: Any = {"cuda": 1e9, "mps": 1e9, "cpu": 1e9}
    monkeypatch.setattr(doctor, "_MIN_SPEED", speeds)
    found = check_loading(DataSettings(), seconds=0.05)
    assert (found.verdict, "--cache" in found.hint) == ("slow", True)


def test_what_training_would_find_in_the_images_is_found(tmp_path: Path, capsys: Capture) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8)).save(tmp_path / part / name / f"{number}.png")
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"no image")
    (tmp_path / "train" / "cat" / "raw.dng").write_bytes(b"raw")
    Image.fromarray(np.full((8, 8), 9000, np.uint16)).save(tmp_path / "train" / "dog" / "0.png")
    words = ["doctor", "--runs-dir", str(tmp_path), "--json", "--data"]
    assert main([*words, str(tmp_path)]) == 0
    found = {
        (one["subject"], one["verdict"]): one["found"]
        for one in json.loads(capsys.readouterr().out)
    }
    assert found["classes", "ok"] == "cat 3, dog 3"
    assert found["data", "note"].startswith("train: 1 of 5 images looked at are of 16 bits")
    assert "6 of 6 images read, 1 cannot be read" in found["train", "note"]
    assert found["val", "ok"] == "6 of 6 images read, all fine"
    (tmp_path / "val" / "dog" / "2.png").write_bytes(b"no image")
    assert main([*words, str(tmp_path)]) == 1
    (wrong,) = [one for one in json.loads(capsys.readouterr().out) if one["verdict"] == "wrong"]
    assert wrong["subject"] == "val"
    assert "dog/2.png" in wrong["found"]
