"""The bench of the runner: its statistics by hand, its arms against a clock, the command end to end."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from autoprog.bench.runner import (
    BARE,
    BARE_EMA,
    LEAD_IN_STEPS,
    LOADED,
    LOADED_UNCACHED,
    RESIDENT,
    BareLoop,
    ResidentData,
    RunnerSpeed,
    ScriptSpeed,
    TimedRunner,
    as_json,
    autoprog_seconds,
    bare_loop,
    data_arguments,
    distinct_phases,
    print_report,
    subnet_speed,
    timm_arguments,
    timm_seconds,
)
from autoprog.bench.scratch import scratch_folder
from autoprog.cli import build_parser, main
from autoprog.commands.configure import Configured, configure_train
from autoprog.data.batches import Batch
from autoprog.events import Event, StepLogged
from autoprog.paired_timing import Estimate, estimate, fraction_lost, paired_blocks, speed_ratio
from autoprog.train.device import Compute
from autoprog.train.phase import Phase
from autoprog.train.run import Job, start_training
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig

HERE = ("--device", "cpu", "--threads", "1", "--workers", "0", "--model", "vit-mu")
FULL = SubnetConfig((4,), 16)


def configured(*flags: str) -> Configured:
    return configure_train(build_parser("train").parse_args(["train", *HERE, *flags]))


@contextmanager
def a_trainer(*flags: str) -> Iterator[tuple[Trainer, list[Phase]]]:
    """Yield a trainer of the digits at step 0 and the phases that a bench measures."""
    run = configured(*flags)
    assert run.schedule is not None
    with scratch_folder(run.settings) as folder:
        trainer = start_training(run.settings, folder, run.opened, run.schedule, Job())
        yield trainer, distinct_phases(run.schedule, trainer)
        trainer.data.close()


@pytest.fixture
def training() -> Iterator[tuple[Trainer, list[Phase]]]:
    with a_trainer("--schedule", "constant", "--batch-size", "8") as pair:
        yield pair


def some_batches(count: int = 2, img_size: int = 16) -> list[Batch]:
    images = torch.randn(count, 8, 3, img_size, img_size, generator=torch.Generator())
    return [(batch, torch.arange(8)) for batch in images]


# Statistics


def test_the_interval_of_six_values_is_their_range_and_holds_in_31_of_32_cases() -> None:
    values = [1.5, 1.1, 1.4, 1.2, 1.6, 1.3]
    assert estimate(values) == Estimate(pytest.approx(1.45 - 0.1), 1.1, 1.6, 1 - 2 / 64)


def test_of_twelve_values_the_two_outer_ones_do_not_count() -> None:
    """2 (1 + 12 + 66) / 4096 = 3.9 per cent; with the fourth it would be 14.6."""
    found = estimate([*range(1, 12), 1e9])
    assert (found.median, found.low, found.high) == (6.5, 3, 10)
    assert found.confidence == pytest.approx(1 - 158 / 4096)


def test_nine_values_give_the_second_and_the_eighth() -> None:
    found = estimate([9.0, 8, 7, 6, 5, 4, 3, 2, 1])
    assert (found.median, found.low, found.high) == (5, 2, 8)
    assert found.confidence == pytest.approx(1 - 20 / 512)


@pytest.mark.parametrize(
    ("values", "confidence"), [([2.0], 0.0), ([1.0, 3.0], 0.5), ([1, 2, 3], 0.75)]
)
def test_too_few_values_say_how_sure_they_are(values: list[float], confidence: float) -> None:
    found = estimate(values)
    assert (found.low, found.high, found.confidence) == (min(values), max(values), confidence)


def test_twice_the_seconds_is_half_the_speed_and_half_of_it_is_lost() -> None:
    slow, fast = [2.0, 4.0, 6.2], [1.0, 2.0, 3.1]
    assert speed_ratio(slow, fast) == Estimate(0.5, 0.5, 0.5, 0.75)
    assert fraction_lost(slow, fast) == Estimate(0.5, 0.5, 0.5, 0.75)


def test_the_ends_of_an_interval_change_places_where_a_fraction_is_lost() -> None:
    assert fraction_lost([1.0, 1.0], [0.9, 0.7]) == Estimate(
        pytest.approx(0.2), pytest.approx(0.1), pytest.approx(0.3), 0.5
    )


def test_a_ratio_is_taken_within_rounds_so_that_a_slow_spell_does_not_show() -> None:
    """The machine is ten times slower in the second half; own is always a quarter slower."""
    spell = [1.0] * 3 + [10.0] * 3
    ratio = speed_ratio([1.25 * second for second in spell], spell)
    assert (ratio.low, ratio.high) == (pytest.approx(0.8), pytest.approx(0.8))


def test_programs_alternate_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def arm(name: str) -> Callable[[int], float]:
        def block(steps: int) -> float:
            order.append(name)
            return len(order) * steps

        return block

    told: list[int] = []
    seconds = paired_blocks({name: arm(name) for name in "abc"}, 4, 10, told.append)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert seconds["b"] == [50.0, 70.0, 120.0, 140.0]
    assert told == [0, 1, 2, 3, 4]


# Arms


class Clock:
    """Seconds that pass only when something takes them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SlowData:
    """Batches each of which costs some seconds of a clock to fetch."""

    clock: Clock
    seconds: float
    closed: int = 0
    workers: int = 3

    def batches(
        self, first_sample: int, batch_size: int, steps: int, config_at: Any, held_out: bool
    ) -> Iterator[Batch]:
        assert config_at(0).img_size == 16
        for batch in some_batches(1) * steps:
            self.clock.now += self.seconds
            yield batch

    def close(self) -> None:
        self.closed += 1


def make_steps_cost(
    monkeypatch: pytest.MonkeyPatch, trainer: Trainer, clock: Clock, seconds: float
) -> None:
    step = trainer.stepper.step

    def slow_step(*args: Any, **kwargs: Any) -> torch.Tensor:
        clock.now += seconds
        return step(*args, **kwargs)

    monkeypatch.setattr(trainer.stepper, "step", slow_step)


def test_data_cost_is_the_fraction_of_the_resident_speed_that_a_slow_loader_takes(
    monkeypatch: pytest.MonkeyPatch, training: tuple[Trainer, list[Phase]]
) -> None:
    """A step of 3 s after a wait of 1 s: a quarter of the speed is lost."""
    trainer, (phase,) = training
    clock = Clock()
    make_steps_cost(monkeypatch, trainer, clock, 3.0)
    slow = SlowData(clock, 1.0)
    race = {
        RESIDENT: TimedRunner(trainer, phase, lambda: ResidentData(some_batches()), clock=clock),
        LOADED: TimedRunner(trainer, phase, lambda: slow, clock=clock),  # type: ignore[arg-type]
    }
    seconds = paired_blocks(race, rounds=2, steps=5)
    assert seconds == {RESIDENT: [15.0, 15.0], LOADED: [20.0, 20.0]}
    cell = subnet_speed(
        FULL, {**seconds, BARE: [14.7, 14.7], BARE_EMA: [15.0, 15.0]}, block_images=40
    )
    assert cell.data_cost == Estimate(0.25, 0.25, 0.25, 0.5)
    assert cell.runner_to_bare.median == pytest.approx(0.98)
    assert cell.runner_to_bare_ema.median == 1.0
    assert cell.images_per_second[LOADED] == 2.0
    assert cell.data_cost_uncached is None
    assert slow.closed == 3, "each block opens and closes its own loader"


def test_the_cache_is_compared_with_the_same_resident_batches() -> None:
    seconds = {
        BARE: [1.0],
        BARE_EMA: [1.0],
        RESIDENT: [1.0],
        LOADED: [1.25],
        LOADED_UNCACHED: [2.0],
    }
    cell = subnet_speed(FULL, seconds, block_images=1)
    assert cell.data_cost.median == pytest.approx(0.2)
    assert cell.data_cost_uncached is not None
    assert cell.data_cost_uncached.median == pytest.approx(0.5)


def test_the_runner_is_timed_from_the_first_batch_after_the_lead_in_with_its_progress_events(
    monkeypatch: pytest.MonkeyPatch, training: tuple[Trainer, list[Phase]]
) -> None:
    trainer, (phase,) = training
    trainer.settings = trainer.settings.model_copy(update={"log_every_steps": 4})
    seen: list[Event] = []
    run = trainer.run

    def watched(phase: Phase) -> Iterator[Event]:
        for event in run(phase):
            seen.append(event)
            yield event

    monkeypatch.setattr(trainer, "run", watched)
    own = trainer.data
    arm = TimedRunner(trainer, phase, lambda: ResidentData(some_batches()))
    assert arm(8) > 0
    steps = [event.step for event in seen if isinstance(event, StepLogged)]
    assert steps == [4, 8, 12], "one in the lead-in, two for 8 steps"
    assert trainer.data is own
    assert trainer.step == 12
    assert arm(4) > 0
    assert trainer.step == 20, "the next block begins at a progress event as well"


def test_a_runner_that_sleeps_is_found_to_be_slower(training: tuple[Trainer, list[Phase]]) -> None:
    trainer, (phase,) = training
    batches = some_batches()
    trainer.stepper.regularise(phase, trainer.recipe, trainer.data.num_classes)
    bare = bare_loop(trainer, phase, batches)
    step = bare.update

    def drowsy(images: torch.Tensor, targets: torch.Tensor) -> None:
        step(images, targets)
        time.sleep(0.05)

    sleepy = bare_loop(trainer, phase, batches)
    sleepy.update = drowsy  # type: ignore[method-assign]
    seconds = paired_blocks({"bare": bare, "sleepy": sleepy}, rounds=6, steps=2)
    ratio = speed_ratio(seconds["sleepy"], seconds["bare"])
    assert ratio.high < 0.7
    assert min(seconds["sleepy"]) >= 0.1


def test_a_bare_loop_trains_and_its_lead_in_is_not_timed(
    training: tuple[Trainer, list[Phase]],
) -> None:
    trainer, (phase,) = training
    clock = Clock()
    loop = bare_loop(trainer, phase, some_batches(), with_ema=True)
    loop.clock = clock
    before = {name: value.clone() for name, value in loop.model.state_dict().items()}
    assert loop.ema is not None
    step = loop.update

    def timed(images: torch.Tensor, targets: torch.Tensor) -> None:
        step(images, targets)
        clock.now += 1.0

    loop.update = timed  # type: ignore[method-assign]
    assert loop(3) == 3.0
    assert loop.step == 3 + LEAD_IN_STEPS
    after, averaged = loop.model.state_dict(), loop.ema.module.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(averaged["head.weight"], after["head.weight"])


def test_a_bare_step_is_a_step_of_the_runner(training: tuple[Trainer, list[Phase]]) -> None:
    """From the same weights both loops come to the same ones: they do the same work."""
    trainer, (phase,) = training
    trainer.stepper.regularise(phase, trainer.recipe, trainer.data.num_classes)
    batch = some_batches(1)
    loop = bare_loop(trainer, phase, batch)
    loop.model.load_state_dict(trainer.stepper.model.vit.state_dict())
    trainer.stepper.model.train()
    groups = [
        [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        for optimizer in (loop.optimizer, trainer.stepper.optimizer)
    ]
    assert groups[0] == groups[1]
    assert type(loop.optimizer) is type(trainer.stepper.optimizer)
    trainer.stepper.step(*batch[0], phase.choices[0], phase.slots, 0)
    for group in loop.optimizer.param_groups:
        group["lr"] = trainer.stepper.optimizer.param_groups[0]["lr"]
    loop.model.train()
    loop.update(*batch[0])
    ours = trainer.stepper.model.vit.state_dict()
    for name, value in loop.model.state_dict().items():
        torch.testing.assert_close(value, ours[name], rtol=1e-5, atol=1e-6)


def test_a_bare_loop_accumulates_over_micro_batches() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 10))
    gradients = []
    for parts in (1, 4):
        recipe = configured("--schedule", "constant").settings.recipe.model_copy(
            update={"grad_accum_steps": parts, "clip_grad": None}
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        compute = Compute(torch.device("cpu"), "none")
        loss = torch.nn.CrossEntropyLoss()
        BareLoop(model, optimizer, loss, None, recipe, compute, ()).update(*some_batches(1)[0])
        gradients.append(model[1].weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_subnets_of_a_schedule_are_its_distinct_subnets_from_small_to_full() -> None:
    with a_trainer("--schedule", "linear") as (_, phases):
        subnets = [phase.choices[0].subnet for phase in phases]
    assert subnets == [SubnetConfig((2,), 8), SubnetConfig((3,), 12), FULL]
    assert all(phase.change is None and not phase.ends_stage for phase in phases)


# Report


def a_speed(confidence: float = 0.961) -> RunnerSpeed:
    def value(median: float) -> Estimate:
        return Estimate(median, median - 0.01, median + 0.01, confidence)

    cell = subnet_speed(FULL, {arm: [1.0] for arm in (BARE, BARE_EMA, RESIDENT, LOADED)}, 1234)
    cells = tuple(
        type(cell)(cell.subnet, cell.images_per_second, value(ratio), value(1.0), value(0.1))
        for ratio in (0.995, 0.985, 0.9)
    )
    return RunnerSpeed("vit-mu", "cpu", "none", 1, 0, 64, 12, 20, cells)


def printed(speed: RunnerSpeed, script: ScriptSpeed | None, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, highlight=False)
    print_report(console, speed, script)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_report_says_where_the_goal_is_reached_missed_and_open() -> None:
    text = printed(a_speed(), None, terminal=False)
    assert (
        "goal: runner / bare at least 0.98: reached in 1, missed in 1, undecided in 1 of 3" in text
    )
    assert "in brackets: 96.1% interval" in text
    assert "0.995 [0.985, 1.005]" in text
    assert "1,234" in text
    assert text.isascii()


def test_few_blocks_are_called_a_range_and_a_terminal_gets_a_drawn_table() -> None:
    text = printed(a_speed(confidence=0.5), None, terminal=True)
    assert "whole range, a 50.0% interval," in text
    assert "─" in text
    assert "0.995 [0.985, 1.005]" in text


def test_the_report_and_the_json_have_timms_script() -> None:
    script = ScriptSpeed(100.0, 110.0, Estimate(1.1, 1.05, 1.15, 0.97), rounds=6, timed_steps=60)
    text = printed(a_speed(), script, terminal=False)
    assert "timm's train.py 100 images/s, autoprog train 110: ratio 1.100 [1.050, 1.150]" in text
    body = json.loads(as_json(a_speed(), script))
    assert body["timm_script"]["ratio"]["median"] == 1.1
    assert body["cells"][0]["subnet"] == {"depth": [4], "img_size": 16}
    assert body["cells"][0]["runner_to_bare"]["median"] == 0.995


# timm's script


TIMM_LOG = """Scheduled epochs: 1
Train: 0 [   0/390 (  0%)]  Loss: 2.34 (2.34)  Time: 4.000s,   32.00/s  (4.000s,   32.00/s)  LR: 1e-3
Train: 0 [   9/390 (  2%)]  Loss: 2.24 (2.25)  Time: 1.581s,   80.94/s  (2.000s,   64.00/s)  LR: 1e-3
Train: 0 [  10/390 (  2%)]  Loss: 2.24 (2.25)  Time: 1.581s,   80.94/s  (2.000s,   64.00/s)  LR: 1e-3
Train: 0 [  40/390 ( 11%)]  Loss: 2.12 (2.22)  Time: 1.992s,   64.27/s  (1.000s,  128.00/s)  LR: 1e-3
"""


def test_timms_log_gives_the_seconds_between_two_of_its_means() -> None:
    """Update 10 is the eleventh: 11 of 2 s; 41 of 1 s: 19 s for the steps between."""
    assert timm_seconds(TIMM_LOG, block_steps=10, batch_size=128) == pytest.approx(41 - 22)
    assert timm_seconds(TIMM_LOG.rpartition("Train: 0")[0], 10, 128) is None


def test_our_log_gives_the_seconds_between_two_progress_events() -> None:
    rows = [
        {"kind": kind, "step": step, "time": f"2026-01-02T03:04:{second}+00:00"}
        for kind, step, second in (
            ("run_started", 0, "01.000"),
            ("step_logged", 10, "05.250"),
            ("evaluated", 40, "09.000"),
            ("step_logged", 40, "09.500"),
        )
    ]
    log = "".join(json.dumps(row) + "\n" for row in rows)
    assert autoprog_seconds(log, block_steps=10) == 4.25
    assert autoprog_seconds(log[:-5], block_steps=10) is None, "the last line is not whole yet"


def option(words: Sequence[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_timms_script_is_given_the_same_training(tmp_path: Path) -> None:
    folders(tmp_path)
    run = configured(
        *("--schedule", "constant", "--data", str(tmp_path), "--batch-size", "8"),
        *("--aa", "rand-m5", "--grad-accum-steps", "2", "--drop-path", "0.1"),
    )
    words = timm_arguments(run.settings, run.opened, Compute(torch.device("cpu"), "bfloat16"), 10)
    assert option(words, "--model") == "vit_tiny_patch16_224"
    assert {"depth=4", "embed_dim=24", "img_size=16"} <= set(words)
    assert option(words, "--data-dir") == str(tmp_path)
    assert (option(words, "--train-split"), option(words, "--val-split")) == ("train", "")
    assert (option(words, "--batch-size"), option(words, "--grad-accum-steps")) == ("4", "2")
    assert float(option(words, "--lr")) == run.settings.recipe.peak_lr
    assert (option(words, "--aa"), option(words, "--drop-path")) == ("rand-m5", "0.1")
    assert (option(words, "--workers"), option(words, "--num-classes")) == ("0", "2")
    assert option(words, "--amp-dtype") == "bfloat16"
    assert "--model-ema" in words
    assert "--no-prefetcher" in words
    assert "--torchcompile" not in words


def test_a_tar_is_given_to_timms_script_by_itself(tmp_path: Path) -> None:
    (tmp_path / "train.tar").touch()
    assert data_arguments(tmp_path) == {"data-dir": tmp_path / "train.tar", "val-split": ""}


def folders(place: Path, images: int = 48) -> None:
    """Make class folders of two colours."""
    for split in ("train", "val"):
        for number in range(images):
            folder = place / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            colour = (200, 5 * number, 0) if number % 2 else (0, 5 * number, 200)
            Image.new("RGB", (16, 16), colour).save(folder / f"{number}.png")


FAKE_SCRIPT = '''"""Prints what timm's train.py prints: updates of 0.01 s."""
import sys, time
every = int(sys.argv[sys.argv.index("--log-interval") + 1])
for update in range(9):
    time.sleep(0.01)
    if update % every == 0:
        print(f"Train: 0 [{update:4d}/9 (0%)]  Loss: 1 (1)  Time: 0.010s, 800.00/s  (0.010s,  800.00/s)",
              file=sys.stderr, flush=True)
time.sleep(60)
'''


def bench(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = main(["bench", "runner", *HERE, *flags])
    done = capsys.readouterr()
    return code, done.out, done.err


def test_the_race_against_a_script_is_run_and_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    """The script would go on for a minute: it is ended when its timed steps are in its log."""
    folders(tmp_path / "data")
    script = tmp_path / "train.py"
    script.write_text(FAKE_SCRIPT)
    start = time.monotonic()
    code, out, err = bench(
        capsys, "--schedule", "constant", "--data", str(tmp_path / "data"), "--batch-size", "8",
        "--blocks", "1", "--block-steps", "1", "--timm-script", str(script), "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    found = json.loads(out)["timm_script"]
    assert found["timm_images_per_second"] == pytest.approx(800)
    assert found["autoprog_images_per_second"] > 0
    assert found["ratio"]["median"] == pytest.approx(found["autoprog_images_per_second"] / 800)
    assert time.monotonic() - start < 55


def test_a_script_that_fails_is_reported_by_its_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path / "data")
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit('no such model')")
    code, _, err = bench(
        capsys, "--schedule", "constant", "--data", str(tmp_path / "data"), "--batch-size", "8",
        "--blocks", "1", "--block-steps", "1", "--timm-script", str(script),
    )  # fmt: skip
    assert code == 1
    assert err.strip() == f"autoprog: {script} ended before it was timed: no such model"


# The command


def test_the_command_measures_every_subnet_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--schedule", "linear", "--batch-size", "8", "--blocks", "2", "--block-steps", "3")
    code, out, err = bench(capsys, *flags)
    assert (code, err) == (0, "")
    for word in (
        "depth 2, 8 px",
        "depth 3, 12 px",
        "depth 4, 16 px",
        "runner / bare",
        "data cost",
        "goal",
    ):
        assert word in out
    code, out, err = bench(capsys, *flags, "--json")
    assert (code, err) == (0, "")
    body = json.loads(out)
    assert (body["schema"], body["rounds"], body["block_steps"], body["workers"]) == (1, 2, 3, 0)
    assert [cell["subnet"]["depth"] for cell in body["cells"]] == [[2], [3], [4]]
    for cell in body["cells"]:
        rates = cell["images_per_second"]
        assert set(rates) == {BARE, BARE_EMA, RESIDENT, LOADED}
        assert all(math.isfinite(rate) and rate > 0 for rate in rates.values())
        for name in ("runner_to_bare", "runner_to_bare_ema", "data_cost"):
            assert cell[name]["low"] <= cell[name]["median"] <= cell[name]["high"]
        assert cell["data_cost"]["confidence"] == 0.5
    assert body["timm_script"] is None
    assert list(tmp_path.iterdir()) == []


def test_with_a_cache_the_loader_is_raced_with_and_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path / "data", images=16)
    code, out, _ = bench(
        capsys,
        *("--schedule", "constant", "--data", str(tmp_path / "data"), "--batch-size", "8"),
        *("--blocks", "1", "--block-steps", "1", "--cache", str(tmp_path / "cache"), "--json"),
    )
    assert code == 0
    (cell,) = json.loads(out)["cells"]
    seconds = {arm: 8 / rate for arm, rate in cell["images_per_second"].items()}
    for name, arm in (("data_cost", LOADED), ("data_cost_uncached", LOADED_UNCACHED)):
        lost = 1 - seconds[RESIDENT] / seconds[arm]
        assert cell[name]["median"] == pytest.approx(lost)
    assert list((tmp_path / "cache").rglob("*"))


def test_compiled_blocks_race_against_compiled_blocks() -> None:
    with a_trainer("--schedule", "constant", "--compile", "--batch-size", "8") as (trainer, phases):
        loop = bare_loop(trainer, phases[0], some_batches())
    blocks: Any = loop.model
    assert all(block._compiled_call_impl is not None for block in blocks.blocks)


@pytest.mark.parametrize(("flags", "shown"), [((), True), (("--quiet",), False)])
def test_a_terminal_sees_the_round_under_way(
    flags: tuple[str, ...],
    shown: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    few = ("--schedule", "constant", "--batch-size", "8", "--blocks", "2", "--block-steps", "1")
    code, _, err = bench(capsys, *few, *flags)
    assert code == 0
    assert ("depth 4, 16 px: round 2 of 2" in err) is shown


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "--schedule: must be given"),
        (("--schedule", "linear", "--resume", "x"), "--resume: must be left out"),
        (("--schedule", "linear", "--time-budget", "1h"), "--time-budget: must be left out"),
        (
            ("--schedule", "linear", "--timm-script", "no.py"),
            "--timm-script: must be timm's train.py",
        ),
        (("--schedule", "linear", "--timm-script", __file__), "must be given together with --data"),
        (("--schedule", "linear", "--lr", "-1"), "--lr: must be a number from 1e-12"),
    ],
)
def test_what_a_bench_cannot_do_is_one_line(
    flags: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code, out, err = bench(capsys, *flags)
    except SystemExit as refused:  # by argparse
        code, (out, err) = refused.code, capsys.readouterr()
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_an_epoch_too_short_for_the_script_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path)
    code, _, err = bench(
        capsys, "--schedule", "constant", "--data", str(tmp_path), "--batch-size", "8",
        "--block-steps", "2", "--timm-script", __file__,
    )  # fmt: skip
    assert code == 2
    assert "--block-steps: must be below 1.5, a quarter of an epoch, but got 2" in err


@pytest.mark.parametrize("flag", ["--blocks", "--block-steps"])
def test_a_count_of_zero_is_a_usage_error(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "runner", flag, "0"])
    assert stopped.value.code == 2
    assert "must be a whole number from 1" in capsys.readouterr().err


def test_the_flags_of_train_are_all_there() -> None:
    parser = build_parser("bench")
    given = parser.parse_args(["bench", "runner", "--epochs", "2", "--cache", "--compile"])
    assert (given.blocks, given.block_steps, given.compile) == (12, 20, True)
