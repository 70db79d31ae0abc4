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
from torch import nn

from autoprog.errors import ConfigError, suggest
from autoprog.recipe import Recipe
from supernet.config import GrowthRule
from supernet.elastic import ElasticViT
from supernet.grow import check_state

__all__ = [
    "check_growth",
    "check_optimizer",
    "create_loss",
    "create_mixup",
    "create_optimizer",
    "create_scheduler",
    "example_states",
]


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
    flat = recipe.model_copy(update={"layer_decay": None})
    optimizer = _create_optimizer(nn.Linear(1, 1).to(device), flat, device)
    create_scheduler(optimizer, recipe, shape, total_steps)


def check_growth(
    recipe: Recipe, device: torch.device, rules: Sequence[tuple[tuple[str, str], GrowthRule]]
) -> None:
    """Try whether ways to grow go with the optimizer of a run, on one that has taken a step.

    Args:
        recipe: Names the optimizer.
        device: Where it is tried.
        rules: Each with the file or flag, and the key in it, that says so.

    Raises:
        ConfigError: If one does not.
    """
    flat, tried = recipe.model_copy(update={"layer_decay": None}), nn.Linear(1, 1).to(device)
    optimizer = _create_optimizer(tried, flat, device)
    for parameter in tried.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for (where, key), rule in rules:
        try:
            check_state(rule, optimizer)
        except ValueError as error:
            raise ConfigError(where, key, str(error)) from None


def example_states(
    recipe: Recipe, device: torch.device
) -> list[tuple[torch.Tensor, dict[str, Any]]]:
    """Return parameters of one and two dimensions with what the optimizer of a run keeps of each."""
    flat = recipe.model_copy(update={"layer_decay": None})
    with torch.random.fork_rng(devices=[]):  # the weights of the layer are of no use
        network = nn.Linear(3, 5).to(device)
        optimizer = _create_optimizer(network, flat, device)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return [(parameter, dict(optimizer.state[parameter])) for parameter in network.parameters()]


def _create_optimizer(
    network: nn.Module, recipe: Recipe, device: torch.device
) -> torch.optim.Optimizer:
    name = recipe.opt
    extra: dict[str, Any] = {"fused": True} if _can_fuse(name, device) else {}
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
    except (AssertionError, ImportError) as error:  # those of CUDA libraries that are not there
        law = f"must be an optimizer that works on this machine ({error})"
        raise ConfigError("--opt", "", law, name) from None
    if getattr(optimizer, "is_second_order", False):
        raise ConfigError("--opt", "", "must do without second derivatives", name)
    return optimizer


_COMMON = ("adamw", "adam", "sgd", "lamb", "lion", "nadamw", "adopt", "muon", "adafactor")


def _can_fuse(name: str, device: torch.device) -> bool:
    return name in ("adam", "adamw") and device.type in ("cpu", "cuda")


def create_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, shape: str, total_steps: int
) -> Scheduler:
    """Return timm's schedule, a pure function of the step: growth and resume need no state of it.

    Raises:
        ConfigError: If the warm-up and the decay of `wsd` do not fit into the run together.
    """
    warmup_steps = math.ceil(recipe.warmup_share * total_steps)
    decay_steps = math.ceil(recipe.decay_share * total_steps)
    if shape == "wsd" and warmup_steps + decay_steps > total_steps:
        law = f"must leave {warmup_steps} of {total_steps} steps to the warm-up"
        raise ConfigError("--decay-share", "", law, recipe.decay_share, "lower --warmup-share")
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=shape,
        num_epochs=total_steps,
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
