"""The whole state of a trainer as plain containers and tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from autoprog.errors import RunError
from autoprog.events import Evaluated
from autoprog.train.checkpoint import load_newest
from autoprog.train.evaluations import Best
from autoprog.train.initial import load_initial
from autoprog.train.state_check import check_state
from autoprog.train.weights import metadata_of
from supernet.config import SubnetConfig, TokenRule

if TYPE_CHECKING:
    from autoprog.train.trainer import Trainer

__all__ = ["restore", "restore_newest", "snapshot"]


def snapshot(trainer: Trainer) -> dict[str, Any]:
    """Return what a checkpoint holds; its tensors are the trainer's own."""
    stepper, evaluation = trainer.stepper, trainer.last_evaluation
    return {
        "step": trainer.step,
        "samples": trainer.samples,
        "macs": trainer.macs,
        "phase": trainer.phase,
        "model": stepper.model.vit.state_dict(),
        "emas": [ema.module.vit.state_dict() for ema in stepper.emas],
        "optimizer": stepper.optimizer.state_dict(),
        "scaler": stepper.scaler.state_dict(),
        "seconds": dict(trainer.ledger.seconds),
        "steps_by_subnet": _rows(trainer.steps_by_subnet),
        "phase_seconds": _rows(trainer.phase_seconds),
        "last_evaluation": evaluation.model_dump(mode="json") if evaluation else None,
        "marked_at": trainer.evaluated_step,
        "evaluated_macs": trainer.evaluated_macs,
        "evaluated_position": trainer.evaluated_position,
        "best": asdict(trainer.best) if trainer.best else None,
        "evaluations_since_best": trainer.evaluations_since_best,
        "stopped_early": trainer.stopped_early,
        "by_class": trainer.by_class,
        "notes": trainer.notes,
        "micro_batches": stepper.micro_batches,
        "rollbacks": trainer.rollbacks.count,
    }


def restore_newest(trainer: Trainer) -> list[str]:
    """Restore the newest readable checkpoint; without one, load the weights that the run starts from.

    Returns a word on each checkpoint passed over, and on what initial weights did not fit as they were.

    Raises:
        ConfigError: If there are no initial weights any more, or other ones.
        RunError: If all that can be read are of another network or optimizer, or the ranks read different
            ones.
    """
    folder, rollbacks = trainer.folder.checkpoints, trainer.rollbacks
    state, complaints = load_newest(folder, partial(check_state, trainer))
    if state is None:
        misfits = [text for text in complaints if "does not fit this run" in text]
        if misfits:  # to begin anew would replace what may be the checkpoint of another run
            raise RunError(f"{folder}: {misfits[0]}; was it copied from another one?")
        complaints += _begin(trainer)
    else:
        try:
            restore(trainer, state)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(
                f"{folder}: the checkpoint does not fit this run ({reason});"
                " was it copied from another one?"
            ) from None
    if rollbacks.count > (state["rollbacks"] if state else 0):
        scale = f"learning rate x {rollbacks.lr_scale:g} from now on"
        complaints.append(f"the run diverged: rolled back to step {trainer.step}, {scale}")
    what = "the checkpoints they read; the run folder must be on a shared file system"
    trainer.ranks.check_equal(torch.tensor([trainer.step, trainer.phase]), what)
    return complaints


def _begin(trainer: Trainer) -> list[str]:
    """Load initial weights, if the settings name any."""
    stepper = trainer.stepper
    networks = (stepper.model, *(ema.module for ema in stepper.emas))
    notes = load_initial(networks, trainer.settings, trainer.feed.class_names)
    return [f"initial weights: {note}" for note in notes]


def restore(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Put a trainer into the state that :func:`snapshot` returned.

    Raises:
        KeyError: If something is missing.
        RuntimeError: If the weights are of another network.
        ValueError: If the optimizer or the number of averages is another.
    """
    stepper = trainer.stepper
    stepper.model.vit.load_state_dict(state["model"], strict=True)
    for ema, weights in zip(stepper.emas, state["emas"], strict=True):
        ema.module.vit.load_state_dict(weights, strict=True)
    stepper.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:  # empty where the precision needed none; a resume may choose another one
        stepper.scaler.load_state_dict(state["scaler"])
    trainer.step, trainer.phase, trainer.notes = state["step"], state["phase"], state["notes"]
    trainer.samples, trainer.macs = state["samples"], state["macs"]
    trainer.ledger.seconds.update(state["seconds"])
    for *subnet, steps in state["steps_by_subnet"]:
        trainer.steps_by_subnet[_subnet(*subnet)] = steps
    for *subnet, seconds in state["phase_seconds"]:
        trainer.phase_seconds[_subnet(*subnet)] = list(seconds)
    if state["last_evaluation"] is not None:
        trainer.last_evaluation = Evaluated(**state["last_evaluation"])
    trainer.evaluated_step = state["marked_at"]
    trainer.evaluated_macs = state.get("evaluated_macs", 0)  # older checkpoints have none
    trainer.evaluated_position = state.get("evaluated_position", 0.0)
    trainer.by_class = state.get("by_class", {})
    trainer.stopped_early = state.get("stopped_early", False)
    _restore_best(trainer, state)
    stepper.micro_batches = max(stepper.micro_batches, state["micro_batches"])
    trainer.rollbacks.count = max(trainer.rollbacks.count, state["rollbacks"])


def _restore_best(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Take over the best evaluation, unless its weights are gone.

    Better ones of a later evaluation replaced them then. A run that goes on as before finds these again.
    """
    best = state.get("best")
    path = trainer.folder.checkpoints / "best.safetensors"
    if best is not None and metadata_of(path).get("step") == str(best["step"]):
        trainer.best = Best(**best)
        trainer.evaluations_since_best = state["evaluations_since_best"]


def _rows(by_subnet: Mapping[SubnetConfig, Any]) -> list[list[Any]]:
    """Return a mapping in containers that are read back without unpickling classes."""
    return [
        [
            list(net.depth),
            net.img_size,
            [net.tokens.keep_rate, net.tokens.by, net.tokens.at_blocks],
            value,
        ]
        for net, value in by_subnet.items()
    ]


def _subnet(depth: list[int], img_size: int, tokens: list[Any]) -> SubnetConfig:
    return SubnetConfig(depth, img_size, TokenRule(*tokens))
