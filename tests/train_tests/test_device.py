"""Where a run computes, in which precision, and with which threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprog.environment import usable_cores
from autoprog.errors import ConfigError
from autoprog.stage import FullModel
from autoprog.train import device
from autoprog.train.device import Compute, processor_name, resolve_compute
from autoprog.train.ranks import Ranks
from supernet.zoo import ZOO


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def settings(bench: Any, model: str = "vit-mu", **changes: Any) -> Any:
    made = bench.settings(**changes)
    return made.model_copy(update={"model": FullModel.of(ZOO[model])})


@pytest.mark.parametrize(
    ("has_it", "model", "precision"),
    [
        (True, "vit-xs", "none"),
        (True, "deit-ti", "bfloat16"),
        (True, "deit-s", "bfloat16"),
        (False, "deit-s", "none"),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_has_it_and_the_network_is_wide(
    bench: Any, monkeypatch: pytest.MonkeyPatch, has_it: bool, model: str, precision: str
) -> None:
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: has_it)
    assert resolve_compute(settings(bench, model, amp="auto")).amp == precision
    assert resolve_compute(settings(bench, model, amp="none")).amp == "none"


@pytest.mark.parametrize(
    ("name", "ranks", "said"),
    [
        *(
            (name, Ranks(0, 1), "--device: must be auto, cpu, mps, cuda or cuda:N, but got ")
            for name in (
                "cuda:99999999999",
                "cuda:-1",
                "cuda:２",
                "cpu:3",
                "meta",
                "mkldnn",
                "",
                "CPU",
            )
        ),
        ("cuda:7", Ranks(0, 1), "--device: must be there on this machine, but got 'cuda:7'"),
        (
            "cuda",
            Ranks(1, 2, local_rank=1, local_world_size=2),
            "torchrun: --nproc-per-node: must be at most 1, the GPUs of this machine, but got 2",
        ),
    ],
)
def test_gpus_that_are_not_there_are_refused(
    bench: Any, monkeypatch: pytest.MonkeyPatch, name: str, ranks: Ranks, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=said):
        resolve_compute(settings(bench, device=name), ranks)


def test_ranks_on_one_machine_share_its_cores(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: 16)
    resolve_compute(settings(bench), Ranks(1, 4, local_rank=1, local_world_size=4))
    assert torch.get_num_threads() == 4
    resolve_compute(settings(bench, threads=3), Ranks(1, 4, local_rank=1, local_world_size=4))
    assert torch.get_num_threads() == 3


def test_one_process_keeps_the_threads_that_torch_chose(bench: Any) -> None:
    before = torch.get_num_threads()
    resolve_compute(settings(bench))
    assert torch.get_num_threads() == before


def test_ranks_choose_their_device_themselves(bench: Any) -> None:
    problem = r"--device: must leave the number to the 2 processes.*take --device cpu"
    with pytest.raises(ConfigError, match=problem):
        resolve_compute(settings(bench, device="cpu:0"), Ranks(0, 2, local_world_size=2))


def test_a_seed_is_that_of_torch() -> None:
    compute = Compute(torch.device("cpu"), "none")
    compute.seed(2**62 + 7)
    drawn = torch.rand(5)
    torch.manual_seed(2**62 + 7)
    assert torch.equal(drawn, torch.rand(5))


def test_another_c_library_is_left_alone(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(device.ctypes, "CDLL", missing)
    assert resolve_compute(settings(bench)).device.type == "cpu"


def test_freed_memory_is_kept(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []

    class Library:
        def __init__(self, name: str) -> None:
            assert name == "libc.so.6"

        def mallopt(self, option: int, value: int) -> None:
            told.append((option, value))

    monkeypatch.setattr(device.ctypes, "CDLL", Library)
    resolve_compute(settings(bench))
    assert told == [(-1, 2**31 - 1), (-2, 64 << 20), (-3, 32 << 20)]


@pytest.mark.parametrize(("given", "cores"), [("3", 3), ("", 5), ("0", 5), ("many", 5)])
def test_the_environment_says_how_many_cores_are_used(
    monkeypatch: pytest.MonkeyPatch, given: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)), raising=False)
    monkeypatch.setenv("PYTHON_CPU_COUNT", given)
    assert usable_cores() == cores


def test_the_hardware_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Chip 9000\nflags\t: x\n")
    assert processor_name(tmp_path / "cpuinfo") == "A Chip 9000"
    assert processor_name(tmp_path / "nowhere")  # what Python knows
    monkeypatch.setattr(device, "processor_name", lambda: "A Chip 9000")
    monkeypatch.setattr(device, "usable_cores", lambda: 3)
    assert Compute(torch.device("cpu"), "none").hardware() == "A Chip 9000, 3 cores"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    assert Compute(torch.device("cuda", 0), "none").hardware() == "A GPU"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"threads": 65},
            "--threads: must be at most 64 on a machine with 2 cores, but got 65; lower",
        ),
        (
            {"workers": 17},
            "--workers: must be at most 16 on a machine with 2 cores, but got 17; lower",
        ),
    ],
)
def test_more_processes_than_the_cores_can_carry_are_refused(
    bench: Any, monkeypatch: pytest.MonkeyPatch, values: dict[str, int], said: str
) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: 2)
    with pytest.raises(ConfigError, match=said):
        resolve_compute(settings(bench, **values))
    monkeypatch.setattr(device, "usable_cores", lambda: 64)
    resolve_compute(settings(bench, workers=17))
