"""The optimizer, the learning rate and the losses: timm's, set up from a recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from autoprog.errors import ConfigError, suggest
from autoprog.recipe import Recipe
from supernet.config import GrowthRule, Slots
from supernet.elastic import ElasticViT
from supernet.grow import check_state

__all__ = [
    "ElasticEma",
    "check_growth",
    "check_optimizer",
    "create_loss",
    "create_mixup",
    "create_optimizer",
    "create_scheduler",
    "decay_of",
    "example_states",
    "time_constants_steps",
]


_LONGEST_FRACTION = 1 / 40
"""Of a run. Where a network still learns fast at the end, a longer average lags behind it: on the embedded
digits (vit-mu, WSD, 8 to 32 epochs, schedules constant and linear, three seeds each) one of a tenth of the
run was 0.6 to 5.3 points below the online weights, one of a 16th 0.1 to 1.9, and one of a 40th between 0.8
below and 0.4 above. With cosine over 16 and 32 epochs a 40th was between 0.6 below and 0.6 above."""


def decay_of(time_constant_steps: float) -> float:
    """Return the decay whose average reaches back `time_constant_steps` (at least 1): 1 - 1/t."""
    return 1.0 - 1.0 / max(1.0, time_constant_steps)


def time_constants_steps(
    slow_epochs: float, supernet_steps: int | None, steps_per_epoch: int, total_steps: int
) -> tuple[float, ...]:
    """Return the EMAs' time constants, fast to slow.

    The fast one, a quarter of a supernet phase, serves the search's estimates; a run without a search has
    none. The slow one serves growth and evaluation; a 40th of the run clips it, so that the weights of
    the end are averaged over the end. Runs of 40 times ``slow_epochs`` and more have all of it.
    """
    slow = min(slow_epochs * steps_per_epoch, _longest_steps(total_steps))
    if supernet_steps is None:
        return (slow,)
    return (min(supernet_steps / 4, slow), slow)


def _longest_steps(total_steps: float) -> float:
    """Return the longest time constant in a run; below two steps nothing would be averaged."""
    return max(2.0, total_steps * _LONGEST_FRACTION)


class ElasticEma(ModelEmaV3):
    """timm's EMA of an elastic model in float32, which only moves what a forward over `slots` uses."""

    module: ElasticViT

    def __init__(self, model: ElasticViT, time_constant_steps: float) -> None:
        super().__init__(
            model, decay=decay_of(time_constant_steps), use_warmup=True, dtype=torch.float32
        )
        self.module.requires_grad_(False)
        self._time_constant_steps = time_constant_steps
        self._slots: Slots | None = None
        self._pairs: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._counts: tuple[list[Tensor], list[Tensor]] = ([], [])

    def limit(self, total_steps: float) -> None:
        """Let a 40th of the run clip the time constant, where its length is not known beforehand."""
        self.decay = decay_of(min(self._time_constant_steps, _longest_steps(total_steps)))

    @torch.no_grad()
    def update_active(self, model: ElasticViT, step: int, slots: Slots) -> None:
        """Move the average towards `model` after optimizer step `step`, counted from 1.

        Running statistics are averaged as weights are, since they belong to them; counts are copied.
        """
        if slots != self._slots:  # the lists of a step's tensors hold until the network changes
            self._slots = slots
            self._pairs = (_averaged(self.module, slots), _averaged(model, slots))
            self._counts = (_counts(self.module), _counts(model))
        averaged, online = self._pairs
        self._foreach_lerp_(averaged, online, weight=1.0 - self.get_decay(step + 1))
        for copied, counted in zip(*self._counts, strict=True):
            copied.copy_(counted)


def _averaged(model: ElasticViT, slots: Slots) -> list[Tensor]:
    """Return active parameters and running statistics; these lie outside blocks."""
    statistics = [tensor for tensor in model.statistics() if tensor.is_floating_point()]
    return [*(parameter.data for parameter in model.active_parameters(slots)), *statistics]


def _counts(model: ElasticViT) -> list[Tensor]:
    return [tensor for tensor in model.statistics() if not tensor.is_floating_point()]


def create_optimizer(
    model: ElasticViT, recipe: Recipe, device: torch.device
) -> torch.optim.Optimizer:
    """Return timm's optimizer over the whole full-size model.

    It must be built before any parameter is frozen, since timm's grouping skips frozen ones. Idle slots have
    no gradient, so it leaves them alone. AdamW is fused where the device can: on CPU that halves its cost.

    Raises:
        ConfigError: If timm knows no such optimizer, or it does not work here.
    """
    return _create_optimizer(model.vit, recipe, device)


def check_optimizer(recipe: Recipe, device: torch.device, shape: str, total_steps: int) -> None:
    """Try the optimizer and the learning rate of a run without its network.

    Raises:
        ConfigError: As :func:`create_optimizer` and :func:`create_scheduler` do.
    """
    flat = recipe.model_copy(update={"layer_decay": None})  # which asks a network for its layers
    optimizer = _create_optimizer(nn.Linear(1, 1).to(device), flat, device)
    create_scheduler(optimizer, recipe, shape, total_steps)


def check_growth(
    recipe: Recipe, device: torch.device, rules: Sequence[tuple[tuple[str, str], GrowthRule]]
) -> None:
    """Try whether growth rules go with the optimizer of a run, on one that has taken a step.

    Args:
        recipe: Names the optimizer.
        device: Where it is tried.
        rules: Each with the file or flag, and the key in it, that says so.

    Raises:
        ConfigError: If one does not.
    """
    optimizer, _ = _stepped_optimizer(recipe, device)
    for (where, key), rule in rules:
        try:
            check_state(rule, optimizer)
        except ValueError as error:
            raise ConfigError(where, key, str(error)) from None


def example_states(
    recipe: Recipe, device: torch.device
) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Return parameters of one and two dimensions with what the optimizer of a run keeps of each."""
    optimizer, parameters = _stepped_optimizer(recipe, device)
    return [(parameter, dict(optimizer.state[parameter])) for parameter in parameters]


def _stepped_optimizer(
    recipe: Recipe, device: torch.device
) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    """Return the optimizer of a run over a weight (5, 3) and a bias (5), which has taken a step."""
    flat = recipe.model_copy(update={"layer_decay": None})
    with torch.random.fork_rng(devices=[]):  # the weights of the layer are of no use
        network = nn.Linear(3, 5).to(device)
        optimizer = _create_optimizer(network, flat, device)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return optimizer, list(network.parameters())


def _create_optimizer(
    network: nn.Module, recipe: Recipe, device: torch.device
) -> torch.optim.Optimizer:
    name = recipe.opt
    can_fuse = name in ("adam", "adamw") and device.type in ("cpu", "cuda")
    extra: dict[str, Any] = {"fused": True} if can_fuse else {}
    if name.lower() not in list_optimizers():
        raise ConfigError("--opt", "", "unknown optimizer", name, suggest(name, _COMMON))
    try:
        optimizer = create_optimizer_v2(
            network,
            opt=name,
            lr=recipe.peak_lr,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
            **extra,
        )
    except (
        AssertionError,
        ImportError,
    ) as error:  # optimizers of CUDA libraries that are not there
        problem = f"must be an optimizer that works on this machine ({error})"
        raise ConfigError("--opt", "", problem, name) from None
    # timm's mark of optimizers whose backward must build a graph, which a step here does not.
    if getattr(optimizer, "is_second_order", False):
        raise ConfigError("--opt", "", "must do without second derivatives", name)
    return optimizer


_COMMON = ("adamw", "adam", "sgd", "lamb", "lion", "nadamw", "adopt", "muon", "adafactor")


def create_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, shape: str, total_steps: int
) -> Scheduler:
    """Return timm's schedule, a pure function of the step: growth and resume need no state of it.

    Raises:
        ConfigError: If the warm-up and the decay of `wsd` do not fit into the run together.
    """
    warmup_steps = math.ceil(recipe.warmup_fraction * total_steps)
    decay_steps = math.ceil(recipe.decay_fraction * total_steps)
    if shape == "wsd" and warmup_steps + decay_steps > total_steps:
        problem = f"must leave {warmup_steps} of {total_steps} steps to the warm-up"
        raise ConfigError(
            "--decay-fraction", "", problem, recipe.decay_fraction, "lower --warmup-fraction"
        )
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=shape,
        num_epochs=total_steps,  # whole epochs would be too coarse: short runs have only a few
        warmup_epochs=warmup_steps,
        warmup_lr=min(recipe.warmup_lr, recipe.peak_lr),
        min_lr=min(recipe.min_lr, recipe.peak_lr),
        decay_epochs=decay_steps,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    assert scheduler is not None
    return scheduler


def create_mixup(mixup: float, cutmix: float, smoothing: float, num_classes: int) -> Mixup | None:
    """Return timm's mixup and cutmix, or None when both are off; it draws from numpy's global generator."""
    if mixup == 0 and cutmix == 0:
        return None
    return Mixup(
        mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=smoothing, num_classes=num_classes
    )


def create_loss(smoothing: float, mixed: bool) -> nn.Module:
    """Return the training loss: mixed targets carry their smoothing already."""
    if mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing) if smoothing > 0 else nn.CrossEntropyLoss()
