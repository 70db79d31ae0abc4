"""VOLO in the runner: running statistics in averages, evaluations and resumes; final weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from autoprog.cli import main
from autoprog.costs.table import CostKey
from autoprog.paired_timing import TimingLimits
from autoprog.presets import linear
from autoprog.runs import load_run
from autoprog.schedule import GrowthSchedule
from autoprog.search.estimate import estimate_losses
from autoprog.search.measured_costs import measure_step_costs, result_of
from autoprog.settings import RunSettings
from autoprog.stage import FullModel, Stage
from autoprog.train.model import build_model
from autoprog.train.optim import ElasticEma
from autoprog.train.phase import plain_choice
from autoprog.train.trainer import Trainer
from supernet.config import SubnetConfig, first_slots
from supernet.zoo import ZOO

SPEC = ZOO["volo-mu"]
FULL = plain_choice(SPEC.full)


def volo_settings(bench: Any, **changes: Any) -> RunSettings:
    settings: RunSettings = bench.settings(bench.rich, **changes)
    return settings.model_copy(update={"model": FullModel.of(SPEC)})


def growing(**last: Any) -> GrowthSchedule:
    """The outlookers grow at step 12, the transformers at 12 and 24, the size at 12."""
    stages = (
        {"length": 12, "depth": (1, 2), "img_size": 16},
        {"length": 12, "depth": (2, 3), "img_size": 32},
        {"length": 16, "depth": (2, 4), "img_size": 32, **last},
    )
    return GrowthSchedule(
        full=FullModel.of(SPEC),
        length_unit="steps",
        stages=tuple(Stage.model_validate(stage) for stage in stages),
    )


def volo_trainer(bench: Any, **changes: Any) -> Trainer:
    trainer: Trainer = bench.trainer(volo_settings(bench, **changes), growing())
    return trainer


def copied(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors]


def all_equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def take_steps(trainer: Trainer, count: int) -> None:
    trainer.stepper.model.train()
    for step in range(count):
        images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        trainer.stepper.step(images, torch.arange(16) % 10, FULL, FULL.slots, step)


def test_statistics_are_averaged_as_weights_are_and_counts_copied() -> None:
    model = build_model(SPEC, 10, seed=0)
    ema = ElasticEma(model, time_constant_steps=4)
    start = copied(ema.module.statistics())
    for value in model.statistics():
        value.fill_(8)
    ema.update_active(model, 100, first_slots(SPEC.depth))  # past the warm-up the decay is 3/4
    for averaged, online, old in zip(
        ema.module.statistics(), model.statistics(), start, strict=True
    ):
        expected = 0.75 * old + 0.25 * 8 if old.is_floating_point() else online
        torch.testing.assert_close(averaged, expected)
    rates = [b for name, b in ema.module.named_buffers() if name.endswith("rate")]
    assert all(rate.item() == 0 for rate in rates)


def test_a_step_moves_the_statistics_of_the_network_and_of_its_averages(bench: Any) -> None:
    trainer = volo_trainer(bench)
    networks = (trainer.stepper.model, trainer.stepper.emas[-1].module)
    before = [copied(network.statistics()) for network in networks]
    take_steps(trainer, 3)
    for network, old in zip(networks, before, strict=True):
        moved = [not torch.equal(a, b) for a, b in zip(network.statistics(), old, strict=True)]
        assert all(moved)
    assert networks[0].vit.patch_embed.conv[1].num_batches_tracked.item() == 3


def test_evaluations_and_estimates_leave_statistics_alone(bench: Any) -> None:
    trainer = volo_trainer(bench)
    take_steps(trainer, 2)
    before = trainer.stepper.fingerprint()
    list(trainer.evaluate(SPEC.depth))
    trainer.stepper.model.train()
    table = result_of(
        measure_step_costs(trainer, [CostKey(SubnetConfig((1, 2), 16), 16)], TimingLimits(0.0))
    )
    assert set(table.step_costs) == {"d1+2 r16 b16", "d2+4 r32 b16"}
    assert torch.equal(trainer.stepper.fingerprint(), before)
    assert trainer.stepper.model.training


def test_an_estimate_leaves_statistics_alone(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = volo_trainer(bench)
    take_steps(trainer, 2)
    batch = (torch.randn(8, 3, 32, 32), torch.arange(8))
    monkeypatch.setattr(trainer.data, "held_out_batches", [batch])
    before = trainer.stepper.fingerprint()
    (loss,) = estimate_losses(trainer, FULL)
    assert loss > 0
    assert torch.equal(trainer.stepper.fingerprint(), before)


def test_a_fingerprint_covers_statistics(bench: Any) -> None:
    trainer = volo_trainer(bench)
    before = trainer.stepper.fingerprint()
    for network in (trainer.stepper.model, trainer.stepper.emas[-1].module):
        for tensor in network.statistics():
            old = tensor.clone()
            tensor += 1
            assert not torch.equal(trainer.stepper.fingerprint(), before)
            tensor.copy_(old)
    assert torch.equal(trainer.stepper.fingerprint(), before)


GROWTHS: dict[str, dict[str, Any]] = {
    "from the average": {},
    "as AutoProg was released": {"init": "ema", "old_blocks": "ema", "optimizer_state": "reset"},
}


@pytest.mark.parametrize(
    ("stop", "grow"), list(zip((11, 23), GROWTHS.values(), strict=True)), ids=GROWTHS
)
def test_a_stopped_run_equals_the_straight_one(
    bench: Any, straight: Any, stop: int, grow: dict[str, Any]
) -> None:
    settings, schedule = volo_settings(bench), growing(grow=grow)
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, stop)
    stopped = bench.carry_out(trainer, schedule)
    assert stopped.state["step"] == stop + 1
    finished, whole = bench.resume(stopped.path, schedule, settings), straight(settings, schedule)
    assert bench.differences(finished.exact, whole.exact) == []
    grown = [(event.before.depth, event.after.depth) for event in whole.of("grown")]
    assert grown == [((1, 2), (2, 3)), ((2, 3), (2, 4))]


def test_a_killed_run_equals_the_straight_one(bench: Any, straight: Any) -> None:
    schedule, settings = growing(), volo_settings(bench)
    often = volo_settings(bench, checkpoint_minutes=0)
    killed = bench.carry_out(
        bench.trainer(often, schedule),
        schedule,
        until=lambda event: event.kind == "step_logged" and event.step == 20,
    )
    assert 12 < killed.state["step"] < 20
    finished = bench.resume(killed.path, schedule, often)
    assert bench.differences(finished.exact, straight(settings, schedule).exact) == []


@pytest.fixture(scope="module")
def trained(module_bench: Any) -> tuple[Any, Trainer]:
    settings = volo_settings(module_bench)
    schedule = linear(SPEC, 2, settings.recipe.strength)
    trainer = module_bench.trainer(settings, schedule)
    return module_bench.carry_out(trainer, schedule), trainer


@pytest.mark.parametrize("weights", ["final", "final_ema"])
def test_timm_loads_the_final_weights_strictly(trained: Any, weights: str) -> None:
    outcome, trainer = trained
    state = load_file(outcome.path / "checkpoints" / f"{weights}.safetensors")
    plain = timm.create_model(SPEC.timm, num_classes=10, **SPEC.create_kwargs())
    plain.load_state_dict(state, strict=True)
    stepper = trainer.stepper
    network = stepper.emas[-1].module if weights == "final_ema" else stepper.model
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # Laid out as ours: other strides get other kernels on some processors.
        plain.network[0].register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
        plain.network[1].register_forward_hook(lambda _, given, found: found.contiguous())
        found, expected = plain.eval()(images), network.eval()(images, SPEC.full)
    assert torch.equal(found, expected)
    assert plain.patch_embed.conv[1].num_batches_tracked.item() == trainer.step


def test_no_program_is_made_of_it(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", str(trained[0].path), "--format", "torch-export")
    assert main([*words, "--output", str(tmp_path / "w.pt2")]) == 2
    said = "--format: must be weights or hf for volo_mu; programs are made of plain ViTs"
    assert said in capsys.readouterr().err


def test_the_printed_line_says_what_to_import(
    trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "volo-mu.pth"
    assert main(["export", str(trained[0].path), "--output", str(output)]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("load with: import supernet.volo; timm.create_model('volo_mu', ")
    names: dict[str, Any] = {"timm": timm}
    exec(line.removeprefix("load with: ").replace("; ", "; model = "), names)
    state = names["model"].state_dict()
    stored = torch.load(output, weights_only=True)
    assert all(torch.equal(state[key], value) for key, value in stored.items())


def test_a_growth_measures_what_it_did_in_both_stages(trained: Any) -> None:
    outcome, _ = trained
    grown = outcome.of("grown")
    assert [event.after.depth for event in grown][-1] == SPEC.depth
    assert any(text.startswith("1.") for event in grown for text in event.origins)
    assert all(event.delta_logits > 0 for event in grown)


SEARCH = ["search", "--model", "volo-mu", "--epochs", "4", "--batch-size", "128", "-q"]


def test_a_search_decides_on_both_stages(tmp_path: Path) -> None:
    words = [*SEARCH, "--runs-dir", str(tmp_path), "--workers", "0", "--device", "cpu"]
    assert main(words) == 0
    (folder,) = tmp_path.iterdir()
    run = load_run(folder)
    assert run.best is not None
    assert run.best.stages[-1].depth == SPEC.depth
    assert run.best.full.outlook is not None
    looked_at = {c.subnet.depth for d in run.decisions for c in d.candidates}
    assert {(1, 1), (2, 4)} <= looked_at
    assert main(["show", str(folder), "--plain"]) == 0


def test_a_schedule_file_of_another_volo_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs = tmp_path / "wrong.yaml", tmp_path / "runs"
    path.write_text(growing().to_yaml().replace("stem_dim: 8", "stem_dim: 16"))
    assert main(["train", "--schedule", str(path), "--runs-dir", str(runs)]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "full.outlook: must be" in shown
    assert not runs.exists()


def test_subnets_of_both_stages_are_counted(trained: Any) -> None:
    _, trainer = trained
    assert trainer.steps_by_subnet[SubnetConfig((2, 4), 32)] > 0
    assert sum(trainer.steps_by_subnet.values()) == trainer.step
