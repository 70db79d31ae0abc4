"""What carries out a run: what a resume may change, and what failures of torch are called."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from rich.console import Console

from autoprog.api import run_training
from autoprog.commands import preflight
from autoprog.commands.launch import _created_under_free_name, _known_failure, stop_on_signals
from autoprog.commands.preflight import _check_batches
from autoprog.commands.report import _say
from autoprog.errors import ConfigError, DivergedError, RunError
from autoprog.runs import load_run
from autoprog.schedule import GrowthSchedule
from autoprog.settings import RunManifest, RunSettings, changed_on_resume
from autoprog.stage import FullModel
from autoprog.train.ranks import ONE_PROCESS, Ranks
from supernet.zoo import ZOO

TWO = Ranks(rank=0, world_size=2, local_world_size=2)


def test_a_search_goes_by_the_losses_that_it_logs() -> None:
    assert changed_on_resume("train") - changed_on_resume("search") == {"log_every_steps"}
    assert "workers" in changed_on_resume("search")


def test_failures_outside_our_code_are_told_in_a_line() -> None:
    memory = torch.OutOfMemoryError("CUDA out of memory")
    assert "lower --batch-size" in str(_known_failure(memory, ONE_PROCESS))
    with pytest.raises(RuntimeError) as of_a_cpu:
        torch.empty(2**60, dtype=torch.uint8)
    assert "lower --batch-size" in str(_known_failure(of_a_cpu.value, ONE_PROCESS))
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer\nmore")
    assert _known_failure(lost, TWO) == "another process of this run is gone"
    assert _known_failure(lost, ONE_PROCESS) is None
    assert _known_failure(RuntimeError("a mistake of ours"), TWO) is None


def test_each_rank_tells_what_only_it_met() -> None:
    assert not RunError("a full disk").on_all_ranks
    assert DivergedError("nan").on_all_ranks
    assert ConfigError("--lr", "", "must be above 0").on_all_ranks


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, manifest: RunManifest
) -> None:
    folders = [_created_under_free_name(tmp_path, manifest) for _ in range(3)]
    name = manifest.run_id
    assert [folder.path.name for folder in folders] == [name, f"{name}-2", f"{name}-3"]
    assert all(folder.manifest.run_id == folder.path.name for folder in folders)
    assert [load_run(folder.path).manifest.run_id for folder in folders][2] == f"{name}-3"


def mixing(settings: RunSettings, scale: float = 1.0) -> GrowthSchedule:
    """One stage of the full model that mixes images, in batches of a multiple of the recipe's."""
    stage = {"length": settings.recipe.epochs, "depth": 4, "img_size": 16, "batch_scale": scale}
    body = {"full": settings.model, "stages": [{**stage, "curriculum": {"mixup": 0.8}}]}
    return GrowthSchedule.model_validate(body)


def test_fractions_must_be_even_to_be_mixed(manifest: RunManifest) -> None:
    recipe = manifest.settings.recipe.model_copy(update={"batch_size": 66})
    settings = manifest.settings.model_copy(update={"recipe": recipe})
    schedule = mixing(settings)
    _check_batches(settings, schedule, 660, ONE_PROCESS)
    with pytest.raises(ConfigError, match="must be even in each process for mixup and cutmix"):
        _check_batches(settings, schedule, 660, TWO)


@pytest.mark.parametrize(
    ("scale", "ranks", "said"),
    [
        (0.25, ONE_PROCESS, r"even for mixup and cutmix, not of 15 images, but got 0\.25"),
        (1.25, TWO, r"a multiple of 2 \(2 processes x --grad-accum-steps\), not of 75 images"),
    ],
)
def test_scaled_batches_are_checked_before_they_are_reached(
    manifest: RunManifest, scale: float, ranks: Ranks, said: str
) -> None:
    recipe = manifest.settings.recipe.model_copy(update={"batch_size": 60})
    settings = manifest.settings.model_copy(update={"recipe": recipe})
    where = r"--schedule: stages\[0\]\.batch_scale: must make batches that are "
    with pytest.raises(ConfigError, match=where + said):
        _check_batches(settings, mixing(settings, scale), 600, ranks)


@pytest.mark.parametrize(
    ("img_size", "batch_size", "is_held"),
    [(16, 2**17, True), (512, 64, True), (512, 2**15, False), (256, 2**20, False)],
)
def test_batches_that_no_memory_holds_are_refused_beforehand(
    manifest: RunManifest,
    img_size: int,
    batch_size: int,
    is_held: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "machine_bytes", lambda: 24 * 2**30)
    model = FullModel.of(ZOO["vit-mu"].with_img_size(img_size))
    recipe = manifest.settings.recipe.model_copy(update={"batch_size": batch_size})
    settings = manifest.settings.model_copy(update={"recipe": recipe, "model": model})
    if is_held:
        _check_batches(settings, None, 2**20, ONE_PROCESS)
    else:
        with pytest.raises(
            ConfigError, match=r"--batch-size: must be smaller: a step takes .* GiB"
        ):
            _check_batches(settings, None, 2**20, ONE_PROCESS)


def test_a_run_may_be_started_from_any_thread(tmp_path: Path) -> None:
    done: list[object] = []

    def work() -> None:
        flags = {"model": "vit-mu", "epochs": 1, "workers": 0, "threads": 1, "quiet": True}
        done.append(run_training("constant", runs_dir=str(tmp_path), **flags).result)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
    assert done[0] is not None


def test_torchrun_may_send_a_signal_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a job")
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal_name == "SIGTERM"
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)


def test_what_is_said_is_broken_between_words_and_what_is_to_copy_never() -> None:
    text = (
        "rule rollout: 50% of the time of the full model over these epochs; decisions at 10%, 40%"
    )
    terminal = Console(file=io.StringIO(), width=60, force_terminal=True, color_system=None)
    _say(terminal, "plan", text)
    _say(terminal, "found", "runs/" + "a" * 70, to_copy=True)
    assert isinstance(terminal.file, io.StringIO)
    first, second, third = terminal.file.getvalue().splitlines()
    assert (len(first) <= 60, first.split()[0], second[:11]) == (True, "plan", " " * 11)
    assert f"{first} {second}".split()[1:] == text.split()
    assert third.endswith("/" + "a" * 70)
    pipe = Console(file=io.StringIO(), width=60)
    _say(pipe, "plan", text)
    assert isinstance(pipe.file, io.StringIO)
    assert pipe.file.getvalue() == f"{'plan':<10} {text}\n"
