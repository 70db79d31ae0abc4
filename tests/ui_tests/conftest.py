"""A synthetic search of deit-s: 40 epochs of 100 steps, three decisions, two growths."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from autoprog.decisions import Candidate, Decision
from autoprog.events import (
    CheckpointSaved,
    Decided,
    Evaluated,
    Event,
    Grown,
    RunFinished,
    RunStarted,
    StageStarted,
    StepLogged,
    SupernetStarted,
    WarningRaised,
)
from autoprog.recipe import RECIPES
from autoprog.runs import Result, RunFolder
from autoprog.settings import DataSettings, RunManifest, RunSettings
from autoprog.stage import Curriculum, FullModel
from supernet.config import SubnetConfig
from supernet.zoo import ZOO

SPEC = ZOO["deit-s"]
RUN_ID = "2026-11-22-143005-search-deit-s"
STEPS_PER_EPOCH = 100
TOTAL_STEPS = 4000
STAGES = (
    SubnetConfig(6, 128),
    SubnetConfig(8, 160),
    SubnetConfig(8, 160),
    SubnetConfig(12, 224),
)
STEP_SECONDS = {128: 0.05, 160: 0.08, 224: 0.2}
SUPERNET_STEPS = 200
STRENGTH = (4.0, 6.0, 6.0, 9.0)


def make_decision(index: int, current: SubnetConfig, chosen: SubnetConfig) -> Decision:
    step = (index + 1) * 1000
    depths = [d for d in (6, 8, 10, 12) if d >= current.total_depth][:3]
    sizes = [r for r in (128, 160, 192, 224) if r >= current.img_size][:3]
    if chosen == SPEC.full:
        depths, sizes = [8, 10, 12], [160, 192, 224]
    subnets = [SubnetConfig(d, r) for d in depths for r in sizes]
    candidates = tuple(
        Candidate(
            subnet=subnet,
            label="stay" if subnet == current else f"d{subnet.total_depth} r{subnet.img_size}",
            loss=2.4 - 0.011 * subnet.total_depth - 0.0004 * subnet.img_size,
            difference=0.0 if subnet == current else -0.0115 * (subnet.total_depth - 5),
            difference_se=0.0 if subnet == current else 0.0042,
            step_seconds=0.005 * subnet.total_depth * subnet.img_size / 100,
            predicted_loss=1.9 + abs(subnet.total_depth - chosen.total_depth) * 0.01,
            remaining_seconds=4000.0 + subnet.img_size * 12,
            score=0.8
            + 0.01 * abs(subnet.total_depth - chosen.total_depth)
            + 0.0003 * abs(subnet.img_size - chosen.img_size),
        )
        for subnet in subnets
    )
    return Decision(
        index=index,
        step=step,
        epoch=step / STEPS_PER_EPOCH,
        rule="rollout",
        current=current,
        candidates=candidates,
        winner=subnets.index(chosen),
        alpha=0.07,
        reason="lowest predicted loss at the end within the seconds that remain",
    )


def synthetic_events(last_step: int = TOTAL_STEPS) -> Iterator[Event]:
    """Yield what happens up to `last_step`."""
    for event in _whole_run():
        if event.step > last_step:
            return
        yield event


def _whole_run() -> Iterator[Event]:
    yield RunStarted(
        step=0,
        run_id=RUN_ID,
        run_kind="search",
        model="deit-s",
        total_steps=TOTAL_STEPS,
        steps_per_epoch=STEPS_PER_EPOCH,
        epochs=TOTAL_STEPS / STEPS_PER_EPOCH,
        num_images=12_800,
        device="cuda",
        amp="bfloat16",
        seed=3,
    )
    seconds = 0.0
    for stage, subnet in enumerate(STAGES):
        start = stage * 1000
        search_start = start + 1000 - SUPERNET_STEPS
        if stage and subnet != STAGES[stage - 1]:
            yield _grown(start, STAGES[stage - 1], subnet)
        stop = search_start if stage < 3 else TOTAL_STEPS
        yield StageStarted(
            step=start,
            stage=stage,
            subnet=subnet,
            stop_step=stop,
            curriculum=Curriculum(randaug=STRENGTH[stage], drop_path=round(0.1 * stage / 3, 4)),
        )
        for step in range(start + 20, start + 1001, 20):
            if step == search_start + 20 and stage < 3:
                candidates = (subnet, STAGES[stage + 1])
                yield SupernetStarted(
                    step=search_start,
                    decision=stage,
                    current=subnet,
                    candidates=candidates,
                    stop_step=start + 1000,
                )
            seconds += 20 * STEP_SECONDS[subnet.img_size]
            yield _progressed(step, subnet, seconds)
            if step % 200 == 0:
                yield _evaluated(step, subnet, seconds)
                yield CheckpointSaved(step=step, path="checkpoints/last.pt")
        if stage == 1:
            yield WarningRaised(
                step=start + 1000, message="the data loader is slower than the model"
            )
        if stage < 3:
            decision = make_decision(stage, subnet, STAGES[stage + 1])
            yield Decided(step=start + 1000, decision=decision)
    yield RunFinished(step=TOTAL_STEPS, result=make_result().model_dump(mode="json"))


def _progressed(step: int, subnet: SubnetConfig, seconds: float) -> StepLogged:
    return StepLogged(
        step=step,
        epoch=step / STEPS_PER_EPOCH,
        loss=1.8 + 5.0 * math.exp(-step / 900) + 0.05 * math.sin(step / 30),
        lr=1e-3 * 0.5 * (1 + math.cos(math.pi * step / TOTAL_STEPS)),
        subnet=subnet,
        step_seconds=STEP_SECONDS[subnet.img_size],
        images_per_second=128 / STEP_SECONDS[subnet.img_size],
        data_wait_fraction=0.2,
        train_seconds=seconds,
    )


def _evaluated(step: int, subnet: SubnetConfig, seconds: float) -> Evaluated:
    top1 = 76 * (1 - math.exp(-step / 1200)) + 1.5 * math.sin(step / 130)
    return Evaluated(
        step=step,
        epoch=step / STEPS_PER_EPOCH,
        subnet=subnet,
        loss=2.0,
        top1=top1,
        loss_ema=1.9,
        top1_ema=77 * (1 - math.exp(-step / 1300)),
        seconds=8.5,
        train_seconds=seconds,
        wall_seconds=1.25 * seconds,
    )


def _grown(step: int, before: SubnetConfig, after: SubnetConfig) -> Grown:
    return Grown(
        step=step,
        before=before,
        after=after,
        init="ema",
        placement="interpolate",
        old_blocks="keep",
        optimizer_state="copy",
        origins=("0 <- 0 (online)",),
        delta_loss=0.1234,
        delta_logits=0.0873,
        lost_seconds=1.9,
    )


def make_result() -> Result:
    return Result(
        run_id=RUN_ID,
        kind="search",
        model="deit-s",
        top1=73.25,
        top1_ema=74.5,
        loss=1.1,
        loss_ema=1.05,
        epochs=40.0,
        wall_seconds=520.0,
        train_seconds=410.0,
        supernet_seconds=48.0,
        search_seconds=12.0,
        lost_seconds=3.8,
        data_wait_seconds=82.0,
        eval_seconds=170.0,
        image_epochs=40.0,
        macs=3.21e15,
        peak_memory_bytes=6 * 2**30,
        seed=3,
        device="cuda",
        amp="bfloat16",
        versions={"torch": "2.5"},
        schedule={},
    )


def make_manifest() -> RunManifest:
    settings = RunSettings(
        kind="search",
        model=FullModel.of(SPEC),
        data=DataSettings(dir="flowers"),
        recipe_name="small-data",
        recipe=RECIPES["small-data"],
        seed=3,
    )
    return RunManifest(
        run_id=RUN_ID,
        created="2026-11-22T14:30:05",
        argv=("autoprog", "search"),
        versions={},
        settings=settings,
    )


def build_run(runs_dir: Path, last_step: int = TOTAL_STEPS) -> Path:
    """Write a run folder as far as `last_step`; complete at the end."""
    folder = RunFolder.create(runs_dir, make_manifest())
    for event in synthetic_events(last_step):
        folder.append(event)
        if isinstance(event, Decided):
            folder.record_decision(event.decision)
    if last_step >= TOTAL_STEPS:
        folder.write_result(make_result())
    folder.close()
    return folder.path


def make_console(width: int = 100, **options: object) -> Console:
    """Return a console of fixed width and no colour that writes to memory."""
    return Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        _environ={},
        **options,  # type: ignore[arg-type]
    )


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def events() -> list[Event]:
    return list(synthetic_events())


@pytest.fixture
def events_until() -> Callable[[int], list[Event]]:
    return lambda last_step: list(synthetic_events(last_step))


@pytest.fixture
def decision() -> Decision:
    return make_decision(0, STAGES[0], STAGES[1])


@pytest.fixture
def run_builder(tmp_path: Path) -> Callable[[int], Path]:
    return lambda last_step: build_run(tmp_path, last_step)


@pytest.fixture
def fixed_console() -> Callable[..., Console]:
    return make_console


@pytest.fixture
def shown() -> Callable[[Console], str]:
    return text_of
