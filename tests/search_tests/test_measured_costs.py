"""The measured grid: the runner's own steps, and afterwards a trainer that is the same to the bit."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autoprog.costs.table import CostKey, CostTable, StepCost
from autoprog.data.batches import Batch
from autoprog.data.transforms import InputConfig
from autoprog.errors import ConfigError
from autoprog.paired_timing import TimingLimits
from autoprog.runs import load_run
from autoprog.search import measured_costs
from autoprog.search.measured_costs import RUN_FRACTION, Costs, measure_step_costs, result_of
from autoprog.search.step_timing import restored_after
from autoprog.stage import Curriculum, Training, Unfrozen
from autoprog.train.meter import typical_seconds
from autoprog.train.phase import Choice, Phase, plain_choice
from autoprog.train.stop import GaveUpError
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig
from supernet.zoo import ZOO

BATCH = 16
FULL = CostKey(SubnetConfig(4, 16), BATCH)
SMALL = CostKey(SubnetConfig(2, 8), BATCH)
GRID = [CostKey(SubnetConfig(d, r), BATCH) for d in (2, 3, 4) for r in (8, 12, 16)]
RICH = {
    "mixup": 0.8,
    "drop_path": 0.3,
    "aa": "rand-m9-mstd0.5-inc1",
    "reprob": 0.5,
    "clip_grad": 1.0,
    "smoothing": 0.1,
}
ONCE = TimingLimits(0.0)


def measure_grid(*args: Any, **more: Any) -> CostTable:
    return result_of(measure_step_costs(*args, **more))


@pytest.fixture
def trainer(lab: Any) -> Trainer:
    found: Trainer = lab.prepare(lab.settings(recipe=RICH)).trainer
    return found


def train(trainer: Trainer, steps: int, depth: int = 3) -> None:
    subnet = SubnetConfig(depth, 12)
    phase = Phase(
        index=trainer.phase + 1,
        kind="plain",
        stage=0,
        start_step=trainer.step,
        stop_step=trainer.step + steps,
        choices=(plain_choice(subnet),),
        depth=subnet.depth,
        curriculum=Curriculum(drop_path=0.2),
        ends_stage=False,
    )
    for _ in trainer.run(phase):
        pass


def bits_of(trainer: Trainer) -> dict[str, Any]:
    """Return all that must be as before, as copies."""
    stepper, state = trainer.stepper, {}
    state["weights"] = dict(stepper.model.named_parameters())
    state["buffers"] = dict(stepper.model.named_buffers())
    for number, ema in enumerate(stepper.emas):
        state[f"ema {number}"] = dict(ema.module.named_parameters())
    state["optimizer"] = stepper.optimizer.state_dict()
    state["scaler"] = stepper.scaler.state_dict()
    state["generators"] = [
        random.getstate(),
        [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        torch.get_rng_state(),
    ]
    state["trainable"] = [p.requires_grad for p in stepper.model.parameters()]
    state["rates"] = [getattr(m, "drop_prob", None) for m in stepper.model.modules()]
    state["run"] = [
        trainer.step,
        trainer.samples,
        trainer.macs,
        trainer.phase,
        trainer.search_state,
    ]
    state["counts"] = [trainer.steps_by_subnet, trainer.phase_seconds]
    plain = (int, float, SubnetConfig, Training)
    state["settings"] = {k: v for k, v in vars(stepper).items() if isinstance(v, plain)}
    return copy.deepcopy(state)


def differences(one: Any, two: Any, where: str = "") -> list[str]:
    if isinstance(one, Tensor):
        return [] if torch.equal(one, two) else [where]
    if isinstance(one, dict):
        if one.keys() != two.keys():
            return [f"{where} keys"]
        return [d for key in one for d in differences(one[key], two[key], f"{where}/{key}")]
    if isinstance(one, list):
        pairs = zip(one, two, strict=True)
        return [d for k, (a, b) in enumerate(pairs) for d in differences(a, b, f"{where}/{k}")]
    return [] if one == two else [where]


@pytest.mark.parametrize("steps", [0, 5])
def test_measuring_leaves_everything_as_it_was(trainer: Trainer, steps: int) -> None:
    """Before the first step the optimizer has no moments; later it has those of some slots."""
    if steps:
        train(trainer, steps)
    before = bits_of(trainer)
    held = dict(vars(trainer.stepper))
    measure_grid(trainer, [*GRID, CostKey(SubnetConfig(3, 8), BATCH, "fourier")], ONCE)
    assert differences(before, bits_of(trainer)) == []
    assert all(vars(trainer.stepper)[name] is value for name, value in held.items())
    assert all(parameter.grad is None for parameter in trainer.stepper.model.parameters())


@pytest.mark.parametrize("opt", ["lamb", "adan"])
def test_the_steps_that_an_optimizer_counts_by_group_are_undone(lab: Any, opt: str) -> None:
    trainer = lab.prepare(lab.settings(recipe={"opt": opt})).trainer
    before = bits_of(trainer)
    measure_grid(trainer, GRID[:2], ONCE)
    assert differences(before, bits_of(trainer)) == []


def test_the_steps_that_are_undone_were_real(trainer: Trainer) -> None:
    """What the last test compares does change: without the way back it would fail."""
    train(trainer, 2)
    before = bits_of(trainer)
    seen: list[list[str]] = []
    with restored_after(trainer.stepper):
        train(trainer, 2, depth=4)
        seen.append(differences(before, bits_of(trainer)))
    changed = {place.split("/")[1] for place in seen[0]}
    assert {"weights", "ema 0", "ema 1", "generators", "trainable", "rates"} <= changed
    assert any(place.startswith("optimizer") or "/optimizer" in place for place in seen[0])


def test_it_is_put_back_even_when_measuring_fails(trainer: Trainer) -> None:
    train(trainer, 2)
    before = bits_of(trainer)

    def fail() -> None:
        with restored_after(trainer.stepper):
            trainer.stepper.model.vit.head.weight.data.zero_()
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail()
    assert differences(before, bits_of(trainer)) == []


def test_a_run_goes_on_as_if_nothing_had_been_measured(lab: Any) -> None:
    ends = []
    for name, measures in (("plain", False), ("measured", True)):
        trainer = lab.prepare(lab.settings(recipe=RICH), name).trainer
        train(trainer, 3)
        if measures:
            measure_grid(trainer, GRID[:4], ONCE)
        train(trainer, 3, depth=3)
        ends.append(bits_of(trainer))
    ends[0].pop("counts")
    ends[1].pop("counts")
    assert differences(*ends) == []


def test_the_scale_of_float16_is_put_back(trainer: Trainer) -> None:
    stepper = trainer.stepper
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    train(trainer, 2)
    before = stepper.scaler.state_dict()
    with restored_after(stepper):
        stepper.scaler.load_state_dict({**before, "scale": 8.0, "_growth_tracker": 77})
    assert stepper.scaler.state_dict() == before


class Clock:
    """Seconds that pass only when steps and batches take them, times how slow the machine is just then."""

    def __init__(self, slowness: Callable[[float], float] = lambda now: 1.0) -> None:
        self.now, self.slowness, self.steps = 0.0, slowness, 0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds * self.slowness(self.now)


def step_seconds(cell: CostKey) -> float:
    trained = 1.0 if cell.unfrozen is None else 1 - (1 - cell.unfrozen.fraction) / 3
    return 0.01 * trained * cell.subnet.total_depth * (cell.subnet.img_size / 8) ** 2


@pytest.fixture
def clock(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let a step of depth d at r px take 0.01 d (r / 8)² s, and a batch 0.001 (r / 8)² s."""
    clock = Clock()

    def step(images: Tensor, targets: Tensor, choice: Any, slots: Any, step: int) -> Tensor:
        clock.steps += 1
        unfrozen = trainer.stepper.training.unfrozen
        clock.spend(step_seconds(CostKey(choice.subnet, BATCH, unfrozen=unfrozen)))
        return images.new_zeros(())

    def slow_batches(
        first: int, size: int, steps: int, config_at: Callable[[int], InputConfig], held_out: bool
    ) -> Iterator[Batch]:
        for number in range(steps):
            px = config_at(number).img_size
            clock.spend(0.001 * (px / 8) ** 2)
            yield torch.zeros(size, 3, px, px), torch.zeros(size)

    monkeypatch.setattr(trainer.stepper, "step", step)
    monkeypatch.setattr(trainer.data, "batches", slow_batches)
    trainer.clock = clock
    return clock


def test_a_grid_holds_steps_and_batches(trainer: Trainer, clock: Clock) -> None:
    table = measure_grid(trainer, GRID, TimingLimits(1000.0))
    assert set(table.step_costs) == {cell.name for cell in GRID}
    for cell in GRID:
        found = table.step_costs[cell.name]
        assert found.seconds == pytest.approx(step_seconds(cell))
        assert found.data_seconds == pytest.approx(0.001 * (cell.subnet.img_size / 8) ** 2)
        assert found.interval == (pytest.approx(found.seconds), pytest.approx(found.seconds))
        assert (found.rounds, found.source) == (6, "grid")
    assert (table.overlap, table.overlap_is_measured) == (0.0, True)
    assert table.conditions == {
        "device": "cpu",
        "amp": "none",
        "threads": 1,
        "workers": 0,
        "processes": 1,
    }


def test_a_machine_that_slows_down_slows_no_cell_more_than_another(
    trainer: Trainer, clock: Clock
) -> None:
    clock.slowness = lambda now: 1.0 + now / 50
    table = measure_grid(trainer, GRID, TimingLimits(1000.0))
    full = table.step_costs[FULL.name].seconds
    for cell in GRID:
        ratio = step_seconds(cell) / step_seconds(FULL)
        assert table.step_costs[cell.name].seconds / full == pytest.approx(ratio, rel=0.03)


def test_what_is_measured_later_is_put_on_the_scale_of_what_is_on_record(
    trainer: Trainer, clock: Clock
) -> None:
    clock.slowness = lambda now: 3.0
    table = measure_grid(trainer, [SMALL], TimingLimits(1000.0), full_seconds=step_seconds(FULL))
    assert table.step_costs[SMALL.name].seconds == pytest.approx(step_seconds(SMALL))
    assert table.step_costs[SMALL.name].data_seconds == pytest.approx(0.001)
    assert table.step_costs[FULL.name].seconds == pytest.approx(step_seconds(FULL))


def test_frozen_blocks_and_cut_images_are_measured_as_such(trainer: Trainer, clock: Clock) -> None:
    frozen = CostKey(SubnetConfig(4, 8), BATCH, unfrozen=Unfrozen(every=2, level=1))
    cut = CostKey(SubnetConfig(4, 8), BATCH, "fourier")
    table = measure_grid(trainer, [frozen, cut], TimingLimits(1000.0))
    assert table.step_costs[frozen.name].seconds == pytest.approx(0.04 * 5 / 6)
    assert table.step_costs[frozen.name].data_seconds == pytest.approx(0.001)
    assert table.step_costs[cut.name].seconds == pytest.approx(0.04)
    assert table.step_costs[cut.name].data_seconds == pytest.approx(0.004), "loaded at full size"


def test_a_short_time_leaves_cells_to_the_law(trainer: Trainer, clock: Clock) -> None:
    table = measure_grid(trainer, GRID, TimingLimits(3.0))
    assert {FULL.name, SMALL.name} <= set(table.step_costs)
    assert len(table.step_costs) < len(GRID)
    assert clock.now < 4.0


def test_without_time_two_cells_are_still_measured(trainer: Trainer, clock: Clock) -> None:
    table = measure_grid(trainer, GRID, ONCE)
    assert set(table.step_costs) == {FULL.name, SMALL.name}
    assert {cost.rounds for cost in table.step_costs.values()} == {1}


def test_measuring_takes_a_hundredth_of_a_long_run(trainer: Trainer, clock: Clock) -> None:
    run_steps = 10_000
    measure_grid(
        trainer, GRID, TimingLimits(1e9, tolerance=0.0, max_rounds=10**6), run_steps=run_steps
    )
    mean = sum(map(step_seconds, GRID)) / len(GRID)
    assert 0.9 < clock.now / (RUN_FRACTION * run_steps * mean) < 1.05


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.7, 1.5, 2.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("spell", [1.0, 3.0])
@pytest.mark.parametrize("run_steps", [None, 20, 10**6])
def test_no_step_is_begun_when_the_time_is_up(
    trainer: Trainer, clock: Clock, limit: float, spell: float, run_steps: int | None
) -> None:
    """But for one of the full model and one of the smallest, with their batches; in slow spells too."""
    clock.slowness = lambda now: spell if int(2 * now) % 2 else 1.0
    begun = []
    step = trainer.stepper.step

    def noted(*args: Any) -> Tensor:
        begun.append((clock.now, args[2].subnet))
        found: Tensor = step(*args)
        return found

    trainer.stepper.step = noted  # type: ignore[method-assign]
    measure_grid(trainer, GRID, TimingLimits(limit), run_steps=run_steps)
    always = [subnet for now, subnet in begun if now > limit]
    assert always in ([], [SMALL.subnet], [FULL.subnet, SMALL.subnet])
    assert clock.now <= limit + spell * (step_seconds(FULL) + step_seconds(SMALL) + 0.01)


def test_a_slow_loader_is_part_of_the_time(
    trainer: Trainer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch takes 4 s: two are fetched in any case, and what they took is kept as a guess."""
    batches = trainer.data.batches

    def slow(*args: Any, **more: Any) -> Iterator[Batch]:
        for batch in batches(*args, **more):
            clock.spend(4.0)
            yield batch

    monkeypatch.setattr(trainer.data, "batches", slow)
    table = measure_grid(trainer, GRID, TimingLimits(20.0))
    assert clock.now <= 20.0
    assert len(table.step_costs) > 2
    assert [cost.data_seconds for cost in table.step_costs.values()] == pytest.approx(
        [4.0] * len(table.step_costs), rel=0.01
    )


def test_a_short_run_is_measured_for_as_long_as_nobody_minds(
    trainer: Trainer, clock: Clock
) -> None:
    """Ten steps take 3 s: a twentieth would be too short for two turns of the cells."""
    measure_grid(trainer, GRID, TimingLimits(20.0), run_steps=10)
    assert 1.5 < clock.now <= 2.0


def test_how_far_measuring_is_is_told(trainer: Trainer, clock: Clock) -> None:
    told = list(measure_step_costs(trainer, GRID, TimingLimits(4.0), run_steps=100))
    assert (told[0].num_measured, told[0].num_subnets, told[0].run_seconds) == (0, 9, None)
    assert told[0].left_seconds == 4.0
    assert told[1].num_measured == 2
    full, batch = step_seconds(FULL), 0.004
    evaluation = 64 * 2 / 3 / BATCH * full  # two networks' forward passes over 64 images
    assert told[1].run_seconds == pytest.approx(100 * (full + batch) + evaluation, rel=0.01)
    measured = [event.num_measured for event in told]
    assert measured == sorted(measured)
    assert measured[-1] > 2
    lefts = [event.left_seconds for event in told]
    assert lefts == sorted(lefts, reverse=True)
    assert len(told) < 25, "no more often than anybody could read"


@pytest.mark.parametrize("at_step", [1, 2, 3, 8, 40])
def test_measuring_is_given_up_between_two_steps(
    trainer: Trainer, clock: Clock, at_step: int
) -> None:
    before, step = bits_of(trainer), trainer.stepper.step

    def interrupted(*args: Any) -> Tensor:
        found: Tensor = step(*args)
        if clock.steps == at_step:
            trainer.stop.signal_name = "SIGINT"
        return found

    trainer.stepper.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(GaveUpError):
        measure_grid(trainer, GRID, TimingLimits(1000.0))
    assert clock.steps == at_step
    assert differences(before, bits_of(trainer)) == []


def test_a_batch_that_does_not_fit_keeps_its_parts_to_its_own_cell(
    trainer: Trainer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = trainer.stepper.step, []

    def halving(images: Tensor, targets: Tensor, choice: Any, slots: Any, now: int) -> Tensor:
        if choice.subnet == FULL.subnet:
            trainer.stepper.micro_batches = 4
        seen.append((choice.subnet, trainer.stepper.micro_batches))
        return step(images, targets, choice, slots, now)

    monkeypatch.setattr(trainer.stepper, "step", halving)
    measure_grid(trainer, [SMALL], TimingLimits(1000.0))
    assert set(seen) == {(FULL.subnet, 4), (SMALL.subnet, 1)}
    assert trainer.stepper.micro_batches == 1


def test_batches_of_the_same_images_are_fetched_for_all_depths_together(
    trainer: Trainer, clock: Clock
) -> None:
    deep = [CostKey(SubnetConfig(depth, 8), BATCH) for depth in (1, 2, 3, 4)]
    table = measure_grid(trainer, deep, TimingLimits(1000.0))
    assert len({table.step_costs[cell.name].data_seconds for cell in deep}) == 1


@pytest.mark.parametrize("overlap", [0.0, 0.6, 1.0])
def test_what_workers_hide_is_measured(
    trainer: Trainer, clock: Clock, monkeypatch: pytest.MonkeyPatch, overlap: float
) -> None:
    """Two workers make a batch in 0.05 s, of which a step of 0.16 s at the same time hides a part."""
    trainer.data.workers = 2

    def batches(
        first: int, size: int, steps: int, config_at: Callable[[int], InputConfig], held_out: bool
    ) -> Iterator[Batch]:
        px, before = config_at(0).img_size, clock.steps
        for number in range(steps):
            stepping = clock.steps > before
            made_meanwhile = stepping and number < trainer.data.workers
            clock.now += 0.0 if made_meanwhile else 0.05 * (1 - overlap if stepping else 1)
            yield torch.zeros(size, 3, px, px), torch.zeros(size)

    monkeypatch.setattr(trainer.data, "batches", batches)
    table = measure_grid(trainer, [FULL], TimingLimits(1000.0))
    assert table.step_costs[FULL.name].data_seconds == pytest.approx(0.05)
    assert table.overlap_is_measured
    assert table.overlap == pytest.approx(overlap, abs=0.02)


def test_without_time_workers_on_a_cpu_are_taken_to_hide_nothing(
    trainer: Trainer, clock: Clock
) -> None:
    trainer.data.workers = 2
    table = measure_grid(trainer, [SMALL], ONCE)
    assert (table.overlap, table.overlap_is_measured) == (0.0, False)


def test_real_steps_are_timed(trainer: Trainer) -> None:
    """By the real clock: the largest of nine takes longest, the smallest is the fastest or nearly so."""
    table = measure_grid(trainer, GRID, TimingLimits(0.0))
    assert isinstance(table, CostTable)
    assert all(0 < cost.seconds < 10 for cost in table.step_costs.values())
    assert all((cost.data_seconds or 0) > 0 for cost in table.step_costs.values())


SMALL_NET, MIDDLE, FULL_NET = SubnetConfig(2, 8), SubnetConfig(3, 12), SubnetConfig(4, 16)


@pytest.fixture
def plain_trainer(lab: Any) -> Trainer:
    found: Trainer = lab.prepare(lab.settings()).trainer
    return found


def complete(costs: Costs, plain_trainer: Trainer, choices: list[Choice]) -> bool:
    return result_of(costs.complete(plain_trainer, choices))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_name_holds_depth_size_and_batch() -> None:
    assert CostKey(SubnetConfig(6, 128), 1024).name == "d6 r128 b1024"
    assert CostKey(SubnetConfig((4, 14), 224), 64).name == "d4+14 r224 b64"


def test_costs_are_those_of_their_batch_size(tmp_path: Path) -> None:
    path = written(tmp_path, '{"d2 r8 b16": 0.5, "d2 r8 b64": 0.9, "d3 r12 b16": 1}')
    costs = Costs.read(path, BATCH)
    assert (costs.get(SMALL_NET), costs.get(MIDDLE), costs.get(FULL_NET)) == (0.5, 1, None)
    assert Costs.read(path, 64).get(SMALL_NET) == 0.9


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"d2 r8 b16": 0}', "d2 r8 b16: must be seconds above 0, but got 0"),
        ('{"d2 r8 b16": -0.1}', "d2 r8 b16: must be seconds above 0, but got -0.1"),
        ('{"d2 r8 b16": "fast"}', "d2 r8 b16: must be seconds above 0, but got 'fast'"),
        ('{"d2 r8 b16": null}', "d2 r8 b16: must be seconds above 0, but got None"),
        ('{"d2 r8 b16": true}', "d2 r8 b16: must be seconds above 0, but got True"),
        ('{"d2 r8 b16": NaN}', "d2 r8 b16: must be seconds above 0, but got nan"),
        ('{"d2 r8 b16": Infinity}', "d2 r8 b16: must be seconds above 0, but got inf"),
        (
            '{"d2r8 b16": 0.1}',
            "must be the name of a step, such as 'd6 r128 b1024', but got 'd2r8 b16'",
        ),
        (
            '{"schema": 2, "step_costs": {"d2 r8 b16": {"seconds": -1}}}',
            "step_costs.d2 r8 b16.seconds: must be a number from 1e-09 to 1e+10, but got -1",
        ),
        ("[0.1, 0.2]", "must be seconds above 0, but got [0.1, 0.2]"),
        ('{"d2 r8 b16": 0.1', "must be a readable JSON file of step seconds"),
        ("", "must be a readable JSON file of step seconds"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        Costs.read(path, BATCH)
    assert str(refused.value) == f"{path}: {complaint}"


def test_a_missing_file_a_folder_and_binary_rubbish_are_refused(tmp_path: Path) -> None:
    rubbish, deep, pipe, large = (tmp_path / name for name in ("rubbish", "deep", "pipe", "large"))
    rubbish.write_bytes(b"\xff\xfe\x00")
    deep.write_text("[" * 100_000)
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(2**40)
    for path in (tmp_path / "none.json", tmp_path, rubbish, deep, pipe, large, Path("/dev/zero")):
        with pytest.raises(ConfigError, match="must be a readable JSON file"):
            Costs.read(path, BATCH)


def test_a_bad_file_is_refused_before_the_search_begins(lab: Any, tmp_path: Path) -> None:
    settings = lab.settings(costs=written(tmp_path, '{"d2 r8 b16": 0}'))
    with pytest.raises(ConfigError, match="must be seconds above 0"):
        lab.prepare(settings)


def test_the_median_leaves_out_the_first_step() -> None:
    assert typical_seconds([9.0, 1.0, 2.0, 3.0]) == 2.0
    assert typical_seconds([9.0, 1.0]) == 1.0
    assert typical_seconds([9.0]) is None
    assert typical_seconds([]) is None


def test_the_seconds_of_own_steps_are_taken_where_there_are_any(plain_trainer: Trainer) -> None:
    plain_trainer.phase_seconds[SMALL_NET] = [50.0, 2.0, 1.0, 3.0]
    costs = Costs({}, BATCH)
    assert complete(costs, plain_trainer, [plain_choice(SMALL_NET)])
    assert costs.seconds == {"d2 r8 b16": 2.0}


@pytest.mark.parametrize("seconds", [[], [50.0]])
def test_a_missing_cell_is_measured(plain_trainer: Trainer, seconds: list[float]) -> None:
    plain_trainer.phase_seconds[MIDDLE] = seconds
    costs = Costs({}, BATCH)
    assert complete(costs, plain_trainer, [Choice(MIDDLE, ((0, 1, 3),))])
    assert 0 < costs.seconds["d3 r12 b16"] < 10


def test_what_is_on_record_is_never_measured_again(plain_trainer: Trainer) -> None:
    plain_trainer.phase_seconds[SMALL_NET] = [50.0, 2.0]
    costs = Costs({"d2 r8 b16": 0.5}, BATCH)
    assert not complete(costs, plain_trainer, [plain_choice(SMALL_NET)])
    assert costs.get(SMALL_NET) == 0.5


@pytest.mark.parametrize(("accumulated", "parts"), [(1, [16]), (4, [4, 4, 4, 4])])
def test_measuring_takes_a_batch_in_the_parts_that_training_takes_it_in(
    lab: Any, accumulated: int, parts: list[int]
) -> None:
    """Sizes are those of the full model, the reference, and of the cell: an untimed step and more, twice."""
    settings = lab.settings(recipe={"grad_accum_steps": accumulated})
    plain_trainer = lab.prepare(settings).trainer
    seen: list[torch.Size] = []
    plain_trainer.stepper.model.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape)
    )
    complete(Costs({}, BATCH), plain_trainer, [plain_choice(MIDDLE)])
    middle = [shape for shape in seen if shape[-1] == 12]
    times = len(middle) // len(parts)
    assert times >= 4
    assert middle == [torch.Size((part, 3, 12, 12)) for part in parts] * times
    assert set(seen) == {torch.Size((parts[0], 3, px, px)) for px in (12, 16)}


def test_all_missing_cells_are_measured_in_one_go_with_their_data(
    plain_trainer: Trainer,
) -> None:
    search = plain_trainer.settings.search
    assert search is not None
    quick = search.model_copy(update={"profile_seconds": 2.0})
    plain_trainer.settings = plain_trainer.settings.model_copy(update={"search": quick})
    plain_trainer.total_steps = 10**9  # of which a hundredth is time enough
    costs = Costs({}, BATCH)
    assert complete(costs, plain_trainer, [plain_choice(s) for s in (SMALL_NET, MIDDLE, FULL_NET)])
    assert set(costs.seconds) == {"d2 r8 b16", "d3 r12 b16", "d4 r16 b16"}
    assert {cost.source for cost in costs.table.step_costs.values()} == {"grid"}
    assert all((cost.data_seconds or 0) > 0 for cost in costs.table.step_costs.values())
    assert costs.table.conditions["workers"] == 0
    assert 0 < costs.spent_seconds < 10


def test_own_steps_and_the_grid_stand_side_by_side(plain_trainer: Trainer) -> None:
    plain_trainer.phase_seconds[SMALL_NET] = [50.0, 2.0, 1.0, 3.0]
    costs = Costs({}, BATCH)
    complete(costs, plain_trainer, [plain_choice(SMALL_NET), plain_choice(MIDDLE)])
    own, grid = costs.table.step_costs["d2 r8 b16"], costs.table.step_costs["d3 r12 b16"]
    assert (own.source, own.rounds, own.interval, own.data_seconds) == ("own", 3, (1.0, 3.0), None)
    assert grid.source == "grid"


def test_what_a_later_measurement_says_of_the_full_cell_changes_nothing(
    plain_trainer: Trainer,
) -> None:
    costs = Costs({"d4 r16 b16": 0.5}, BATCH)
    complete(costs, plain_trainer, [plain_choice(MIDDLE)])
    assert costs.get(FULL_NET) == 0.5
    assert costs.table.step_costs["d4 r16 b16"].source == "file"
    assert 0.05 < costs.seconds["d3 r12 b16"] < 1.0, "on the scale of the full cell on record"


def test_no_more_is_measured_when_the_time_is_spent(
    plain_trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    measure = measured_costs.measure_step_costs

    def watched(plain_trainer: Trainer, cells: Any, given: Any, **more: Any) -> Any:
        limits.append(given.seconds)
        return measure(plain_trainer, cells, given, **more)

    monkeypatch.setattr(measured_costs, "measure_step_costs", watched)
    costs = Costs({}, BATCH)
    complete(costs, plain_trainer, [plain_choice(SMALL_NET)])
    complete(costs, plain_trainer, [plain_choice(MIDDLE)])
    assert limits[0] == 20.0
    assert 0 < limits[1] < 20.0
    costs.spent_seconds = 1e9
    unknown = SubnetConfig(1, 8)
    assert not complete(costs, plain_trainer, [plain_choice(unknown)])
    assert (len(limits), costs.get(unknown)) == (2, None)
    assert costs.all_seconds(ZOO["vit-mu"], [unknown])["d1 r8"] > 0
    plain_trainer.phase_seconds[unknown] = [50.0, 2.0]
    assert complete(costs, plain_trainer, [plain_choice(unknown)]), "own steps take no time"


def test_seconds_of_all_subnets_come_with_their_data_and_with_estimates() -> None:
    cells = {
        "d2 r8 b16": StepCost(seconds=0.1, data_seconds=0.01),
        "d4 r8 b16": StepCost(seconds=0.2, data_seconds=0.01),
        "d4 r16 b16": StepCost(seconds=0.8, data_seconds=0.04),
    }
    costs = Costs(CostTable(step_costs=cells), BATCH)
    found = costs.all_seconds(ZOO["vit-mu"], [SMALL_NET, SubnetConfig(3, 8), FULL_NET])
    assert found["d2 r8"] == pytest.approx(0.11)
    assert found["d4 r16"] == pytest.approx(0.84)
    assert found["d3 r8"] == pytest.approx(0.16, rel=0.1)


def test_a_round_trip_over_the_disk_changes_nothing(plain_trainer: Trainer) -> None:
    costs = Costs({}, BATCH)
    complete(costs, plain_trainer, [plain_choice(SMALL_NET)])
    plain_trainer.folder.write_costs(costs.table)
    assert load_run(plain_trainer.folder.path).cost_table == costs.table
    read = Costs.read(plain_trainer.folder.path / "costs.json", BATCH)
    assert read.table == costs.table.as_given()


def test_given_costs_are_on_record_in_the_run_folder_from_the_start(lab: Any) -> None:
    given = lab.costs()
    searcher = lab.prepare(lab.settings(costs=given))
    recorded = load_run(searcher.trainer.folder.path)
    assert recorded.costs == json.loads(given.read_text())
    assert {cost.source for cost in recorded.cost_table.step_costs.values()} == {"file"}


def test_a_run_that_goes_on_keeps_its_own_costs(lab: Any) -> None:
    settings = lab.settings(costs=lab.costs())
    searcher = lab.prepare(settings)
    before = dict(searcher.costs.seconds)
    searcher.trainer.folder.close()
    lab.costs(**{"d2 r8 b16": 7.0})
    assert lab.prepare(settings).costs.seconds == before
    assert before["d2 r8 b16"] != 7.0


def begun(searcher: Any) -> None:
    """Carry a search out until its first stage has started, which nothing is measured after."""
    events = searcher.run()
    next(event for event in events if event.kind == "stage_started")
    events.close()  # type: ignore[attr-defined]


def test_a_search_measures_a_grid_before_its_first_step_and_never_again(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = lab.prepare(lab.settings())
    begun(searcher)
    folder = searcher.trainer.folder
    recorded = load_run(folder.path).cost_table
    assert {"d1 r8 b16", "d4 r16 b16"} <= set(recorded.step_costs)
    assert {cost.source for cost in recorded.step_costs.values()} == {"grid"}
    assert recorded.conditions["device"] == "cpu"
    assert searcher.trainer.ledger.seconds["search"] > 0
    folder.close()
    monkeypatch.setattr(measured_costs, "measure_step_costs", None)  # what is called fails
    again = lab.prepare(lab.settings())
    begun(again)
    assert again.costs.table == recorded


def test_a_search_that_is_given_all_costs_measures_none(
    lab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_costs, "measure_step_costs", None)
    begun(lab.prepare(lab.settings(costs=lab.costs())))
