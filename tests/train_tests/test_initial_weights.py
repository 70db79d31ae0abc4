"""Fine-tuning: where the first weights come from, what is done to make them fit, and layer decay."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from autoprog.errors import ConfigError, RunError
from autoprog.recipe import Recipe
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel
from autoprog.train.initial_weights import find_initial
from autoprog.train.model import build_model
from autoprog.train.optim import create_optimizer, create_scheduler
from autoprog.train.run import start
from supernet.config import ModelSpec
from supernet.zoo import ZOO

SPEC = ZOO["vit-mu"]
DIGITS = tuple("0123456789")
UNNAMED = "head, whose classes are not named, is kept as it is (--fresh-head for other ones)"
Weights = dict[str, Tensor]


def weights_of(spec: ModelSpec = SPEC, num_classes: int = 10, seed: int = 7) -> Weights:
    """Return weights that no run of the tests draws."""
    torch.manual_seed(seed)
    vit = timm.create_model(spec.timm, num_classes=num_classes, **spec.create_kwargs())
    return dict(vit.state_dict())


def write(path: Path, content: Any) -> Path:
    if path.suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save(content, path)
    return path


def two_sizes(lr: str = "cosine") -> GrowthSchedule:
    """Four steps at 8 px, four at 16 px, all of them at full depth."""
    stages = [{"length": 4, "depth": 4, "img_size": size} for size in (8, 16)]
    body = {"full": FullModel.of(SPEC), "length_unit": "steps", "lr": {"shape": lr}}
    return GrowthSchedule.model_validate({**body, "stages": stages})


def settings_of(bench: Any, source: Path | None = None, **changes: Any) -> Any:
    given = {} if source is None else {"initial_checkpoint": str(source)}
    return bench.settings({**bench.plain, "epochs": 0.8}, **given, **changes)


def equal(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def wrapped(weights: Weights) -> Weights:
    return {f"module.{key}": value for key, value in weights.items()}


FORMS: dict[str, tuple[str, list[str], Callable[[Weights, Weights], Any]]] = {
    "safetensors": ("x.safetensors", [], lambda weights, _: weights),
    "a plain state dict": ("x.pth", [], lambda weights, _: weights),
    "a checkpoint of timm's script": (
        "x.pth.tar",
        ["averaged weights, 'state_dict_ema' of x.pth.tar"],
        lambda weights, other: {
            "args": argparse.Namespace(lr=0.1),
            "epoch": 3,
            "state_dict": other,
            "state_dict_ema": wrapped(weights),
        },
    ),
    "a checkpoint of other scripts": (
        "x.pth",
        ["online weights, 'model' of x.pth"],
        lambda weights, _: {"model": wrapped(weights)},
    ),
}


@pytest.mark.parametrize(("name", "taken", "form"), FORMS.values(), ids=FORMS)
def test_a_run_starts_from_the_weights_of_a_file_and_says_which(
    bench: Any,
    tmp_path: Path,
    name: str,
    taken: list[str],
    form: Callable[[Weights, Weights], Any],
) -> None:
    weights, other = weights_of(), weights_of(seed=8)
    path = write(tmp_path / name, form(weights, other))
    trainer = bench.trainer(settings_of(bench, path), two_sizes())
    _, *warned = start(trainer)
    assert [e.message.removeprefix("initial weights: ") for e in warned] == [*taken, UNNAMED]
    assert equal(trainer.stepper.model.vit.state_dict(), weights)
    for ema in trainer.stepper.emas:
        assert equal(ema.module.vit.state_dict(), weights)
    assert not any(p.requires_grad for p in trainer.stepper.emas[0].module.parameters())


def test_a_run_starts_from_the_averaged_weights_of_another(bench: Any) -> None:
    earlier = bench.run(settings_of(bench), two_sizes())
    trainer = bench.trainer(settings_of(bench, earlier.path), two_sizes())
    list(start(trainer))
    assert equal(trainer.stepper.model.vit.state_dict(), earlier.state["emas"][-1])


def test_a_head_for_other_classes_starts_afresh_and_it_says_so(bench: Any, tmp_path: Path) -> None:
    weights = weights_of(num_classes=3)
    settings = settings_of(bench, write(tmp_path / "x.pth", weights))
    trainer = bench.trainer(settings, two_sizes())
    drawn = {key: value.clone() for key, value in trainer.stepper.model.vit.state_dict().items()}
    _, warned = start(trainer)
    assert warned.message == ("initial weights: head starts afresh: it has 3 classes, the run 10")
    found = trainer.stepper.model.vit.state_dict()
    for key, value in found.items():
        assert torch.equal(value, drawn[key] if key.startswith("head.") else weights[key])
    assert equal(trainer.stepper.emas[-1].module.vit.state_dict(), found)


def test_positions_for_another_size_are_resampled_and_it_says_so(
    bench: Any, tmp_path: Path
) -> None:
    weights = weights_of(SPEC.with_img_size(32))
    settings = settings_of(bench, write(tmp_path / "x.safetensors", weights))
    trainer = bench.trainer(settings, two_sizes())
    *_, warned = start(trainer)
    message = "initial weights: pos_embed is resampled from 1x65x24 to 1x17x24"
    assert warned.message == message
    expected = resample_abs_pos_embed(weights["pos_embed"], [4, 4], num_prefix_tokens=1)
    assert torch.equal(trainer.stepper.model.vit.pos_embed, expected)


def test_tables_of_further_sizes_are_resampled_from_the_new_one(bench: Any, tmp_path: Path) -> None:
    weights = weights_of()
    settings = settings_of(bench, write(tmp_path / "x.pth", weights), table_sizes=(8,))
    trainer = bench.trainer(settings, two_sizes())
    assert len(list(start(trainer))) == 2
    expected = resample_abs_pos_embed(weights["pos_embed"], [2, 2], num_prefix_tokens=1)
    for network in (trainer.stepper.model, trainer.stepper.emas[-1].module):
        assert torch.equal(network.vit.pos_embed_list["8"], expected)


def test_tables_of_an_elastic_run_are_taken_over_or_left_out(bench: Any, tmp_path: Path) -> None:
    table = {"pos_embed_list.8": torch.ones(1, 5, 24)}
    path = write(tmp_path / "x.pth", {**weights_of(), **table})
    trainer = bench.trainer(settings_of(bench, path, table_sizes=(8, 12)), two_sizes())
    assert len(list(start(trainer))) == 2
    assert torch.equal(trainer.stepper.model.vit.pos_embed_list["8"], table["pos_embed_list.8"])
    found = find_initial(settings_of(bench, path), DIGITS)
    assert found is not None
    assert found.notes == (UNNAMED, "pos_embed_list does not fit and is left out")


def test_tables_beside_the_weights_of_an_elastic_run_are_taken_over(
    bench: Any, tmp_path: Path
) -> None:
    """As a finished run has them: ``final_ema.safetensors`` for timm, the tables in a file of their own."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    table = torch.full((1, 5, 24), 7.0)
    write(folder / "final_ema.safetensors", weights_of())
    write(folder / "final_ema_tables.safetensors", {"pos_embed_list.8": table})
    for source in (tmp_path / "run", folder / "final_ema.safetensors"):
        trainer = bench.trainer(settings_of(bench, source, table_sizes=(8,)), two_sizes())
        assert len(list(start(trainer))) == 2
        assert torch.equal(trainer.stepper.model.vit.pos_embed_list["8"], table)


@pytest.mark.parametrize("num_classes", [10, 3])
def test_a_volo_is_fine_tuned_at_another_size(bench: Any, tmp_path: Path, num_classes: int) -> None:
    spec = ZOO["volo-mu"]
    weights = weights_of(spec, num_classes)
    settings = settings_of(bench, write(tmp_path / "x.pth", weights))
    larger = FullModel.of(spec.with_img_size(48))
    found = find_initial(settings.model_copy(update={"model": larger}), DIGITS)
    assert found is not None
    fresh = "starts afresh: it has 3 classes, the run 10"
    kept = UNNAMED.removeprefix("head")
    heads = [f"head{kept}", f"aux_head{kept}"]
    if num_classes == 3:
        heads = [f"head {fresh}", f"aux_head {fresh}"]
    resampled = "pos_embed is resampled from 1x2x2x24 to 1x3x3x24"
    assert found.notes == (*heads, resampled)
    fresh = {key for key in weights if num_classes == 3 and key.startswith(("head.", "aux_head."))}
    assert found.state.keys() == weights.keys() - fresh


MISFITS = {
    "a deeper network": (
        ModelSpec(
            "x", SPEC.timm, (5,), 24, 2, 4.0, 4, 16, overrides=(*SPEC.overrides[1:], ("depth", 5))
        ),
        "12 too many, such as blocks.4.norm1.weight",
    ),
    "a shallower network": (
        ModelSpec(
            "x", SPEC.timm, (3,), 24, 2, 4.0, 4, 16, overrides=(*SPEC.overrides[1:], ("depth", 3))
        ),
        "12 missing, such as blocks.3.norm1.weight",
    ),
    "another width": (ZOO["deit-ti"].with_img_size(16), "of another shape, such as cls_token"),
    "another feed-forward": (ZOO["vit-mu-local"], "8 missing, such as blocks.0.mlp.fc1.bias"),
}


@pytest.mark.parametrize(("spec", "part"), MISFITS.values(), ids=MISFITS)
def test_weights_of_another_network_are_refused(
    bench: Any, tmp_path: Path, spec: ModelSpec, part: str
) -> None:
    path = write(tmp_path / "x.pth", weights_of(spec))
    with pytest.raises(ConfigError) as refusal:
        find_initial(settings_of(bench, path), DIGITS)
    message = str(refusal.value)
    assert message.startswith("--initial-checkpoint: must hold the weights of vit-mu (")
    assert message.endswith(f"), but got {str(path)!r}")
    assert part in message


class Attack:
    """What a pickle may do to whoever loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 torn"])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_files_that_hold_no_weights_are_refused(
    bench: Any, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"--initial-checkpoint: .*x\..*: must hold weights, but it is "
    ):
        find_initial(settings_of(bench, tmp_path / name), DIGITS)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3)])
def test_other_content_is_refused(bench: Any, tmp_path: Path, content: Any) -> None:
    path = write(tmp_path / "x.pth", content)
    with pytest.raises(ConfigError, match=r"--initial-checkpoint: .*: must hold tensors by name"):
        find_initial(settings_of(bench, path), DIGITS)


def test_nothing_is_unpickled(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "x.pth", {"model": Attack()})
    with pytest.raises(ConfigError, match="more than tensors in it, such as 'pathlib"):
        find_initial(settings_of(bench, path), DIGITS)
    assert not Path("attacked").exists()


def test_a_missing_file_and_an_unfinished_run_are_refused(bench: Any, tmp_path: Path) -> None:
    folder = bench.folder(bench.settings())
    folder.close()
    for path, problem in (
        (tmp_path / "nowhere.pth", "must be a weights file, a finished run, or a folder that"),
        (tmp_path, "must be a run folder, or one with config.json and model.safetensors"),
        (folder.path, "must be a finished run; go on with --resume first"),
    ):
        with pytest.raises(ConfigError, match=problem):
            find_initial(settings_of(bench, path), DIGITS)


def test_a_resume_does_not_load_them_again(bench: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", weights_of())
    settings, schedule = settings_of(bench, path), two_sizes()
    whole = bench.run(settings, schedule)
    trainer = bench.trainer(settings, schedule)
    bench.signal_during(trainer, 2)
    stopped = bench.carry_out(trainer, schedule)
    path.unlink()
    finished = bench.resume(stopped.path, schedule, settings)
    assert bench.differences(finished.exact, whole.exact) == []


def test_a_run_that_was_killed_before_its_first_checkpoint_loads_them(
    bench: Any, tmp_path: Path
) -> None:
    settings, schedule = settings_of(bench, write(tmp_path / "x.pth", weights_of())), two_sizes()
    trainer = bench.trainer(settings, schedule)
    killed = bench.carry_out(trainer, schedule, until=lambda event: event.kind == "step_logged")
    assert killed.state == {}
    finished = bench.resume(killed.path, schedule, settings)
    assert bench.differences(finished.exact, bench.run(settings, schedule).exact) == []


@pytest.fixture
def from_timm(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[str]]:
    """Let timm answer a request for pretrained weights by what is given, and list the requests."""

    def answering(answer: Any) -> list[str]:
        asked: list[str] = []

        def create_model(name: str, pretrained: bool = False, **_: Any) -> Any:
            assert pretrained
            asked.append(name)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr("autoprog.train.initial_weights.timm.create_model", create_model)
        return asked

    return answering


def test_pretrained_weights_come_from_timm_and_are_made_to_fit(
    bench: Any, monkeypatch: pytest.MonkeyPatch, from_timm: Callable[[Any], list[str]]
) -> None:
    spec = ZOO["deit-ti"]
    settings = settings_of(bench, pretrained=True)
    settings = settings.model_copy(update={"model": FullModel.of(spec.with_img_size(64))})
    plain = timm.create_model("deit_tiny_patch16_224", num_classes=1000)
    skeleton = build_model(spec.with_img_size(64), 10, seed=0)
    monkeypatch.setattr("autoprog.train.initial_weights.build_model", lambda *_, **__: skeleton)
    asked = from_timm(plain)
    before = torch.get_rng_state()
    found = find_initial(settings, DIGITS)
    assert torch.equal(torch.get_rng_state(), before)
    assert asked == ["deit_tiny_patch16_224"]
    assert found is not None
    assert found.notes == (
        "head starts afresh: it has 1000 classes, the run 10",
        "pos_embed is resampled from 1x197x192 to 1x17x192",
    )
    assert "head.weight" not in found.state
    assert torch.equal(found.state["blocks.3.mlp.fc1.weight"], plain.blocks[3].mlp.fc1.weight)


@pytest.mark.parametrize("name", ["vit-mu", "vit-mu-local", "deit-s-local"])
def test_models_that_timm_has_no_weights_of_are_refused(
    bench: Any, from_timm: Callable[[Any], list[str]], name: str
) -> None:
    settings = settings_of(bench, pretrained=True)
    settings = settings.model_copy(update={"model": FullModel.of(ZOO[name])})
    asked = from_timm(RuntimeError("must not be asked"))
    refusal = f"--pretrained: must be given with a model that timm has weights of, but got '{name}'"
    with pytest.raises(ConfigError, match=refusal):
        find_initial(settings, DIGITS)
    assert asked == []


def test_without_a_network_it_is_one_line(
    bench: Any, from_timm: Callable[[Any], list[str]]
) -> None:
    settings = settings_of(bench, pretrained=True)
    settings = settings.model_copy(update={"model": FullModel.of(ZOO["deit-s"])})
    from_timm(OSError("no route to host\nmore"))
    with pytest.raises(RunError) as failure:
        find_initial(settings, DIGITS)
    expected = "--pretrained: deit_small_patch16_224 cannot be loaded: no route to host"
    assert str(failure.value) == expected


def test_with_layer_decay_each_layer_learns_more_slowly_than_the_next() -> None:
    model = build_model(SPEC, 10, seed=0)
    recipe = Recipe(lr=1e-3, layer_decay=0.5, warmup_fraction=0.0)
    optimizer = create_optimizer(model, recipe, torch.device("cpu"))
    create_scheduler(optimizer, recipe, "constant", 10).step_update(5)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    vit = model.vit
    assert set(rates) == set(vit.parameters())
    layers = [[vit.cls_token, vit.pos_embed, *vit.patch_embed.parameters()]]
    layers += [list(block.parameters()) for block in vit.blocks]
    layers[-1] += vit.norm.parameters()  # timm counts it to the last block
    layers += [list(vit.head.parameters())]
    for power, layer in zip((5, 4, 3, 2, 1, 0), layers, strict=True):
        (rate,) = {rates[parameter] for parameter in layer}
        assert rate == pytest.approx(1e-3 * 0.5**power)


def test_a_run_with_layer_decay_reports_the_rate_of_the_head(bench: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", weights_of())
    recipe = {**bench.plain, "epochs": 0.8, "layer_decay": 0.65}
    settings = bench.settings(recipe, initial_checkpoint=str(path))
    outcome = bench.run(settings, two_sizes("constant"))
    assert outcome.of("step_logged")[-1].lr == pytest.approx(settings.recipe.peak_lr)
