"""What a curriculum means for one phase: augmentation, drop-path, mixing and the loss."""

from __future__ import annotations

from autoprog.curves import Curriculum
from autoprog.recipe import Recipe, with_randaug_magnitude
from autoprog.stage import Training
from autoprog.train.data import Cell
from autoprog.train.loop import Stepper
from autoprog.train.optim import create_loss, create_mixup
from autoprog.train.phase import Phase, choice_of

__all__ = ["batch_size_of", "cell_of", "regularise", "scaled_batch_size"]


def batch_size_of(phase: Phase, recipe: Recipe) -> int:
    """Return the images a step of a phase takes, over all processes."""
    return scaled_batch_size(recipe, phase.training)


def scaled_batch_size(recipe: Recipe, training: Training) -> int:
    """Return the images a step takes that trains so, over all processes."""
    return max(1, round(recipe.batch_size * training.batch_scale))


def cell_of(phase: Phase, recipe: Recipe, full_px: int, seed: int, step: int) -> Cell:
    """Return how the images of a step are made: at its subnet's size, or full where the step shrinks them."""
    subnet = choice_of(phase, seed, step).subnet
    whole = phase.training.shrink_by == "fourier"
    return augmented_cell(phase.curriculum, recipe, full_px if whole else subnet.img_size)


def augmented_cell(curriculum: Curriculum, recipe: Recipe, img_size: int) -> Cell:
    """Return how images of `img_size` px are augmented; the recipe fills what the curriculum leaves."""
    magnitude = None if curriculum.randaug is None else _given(curriculum.randaug, 0.0)
    return Cell(
        img_size=img_size,
        aa=with_randaug_magnitude(recipe.aa, magnitude),
        reprob=_given(curriculum.reprob, recipe.reprob),
    )


def regularise(stepper: Stepper, phase: Phase, recipe: Recipe, num_classes: int) -> None:
    """Set drop-path, mixing and the loss of a phase."""
    values = phase.curriculum
    stepper.model.set_drop_path(_given(values.drop_path, recipe.drop_path), phase.depth)
    stepper.mixup = create_mixup(
        _given(values.mixup, recipe.mixup),
        _given(values.cutmix, recipe.cutmix),
        recipe.smoothing,
        num_classes,
    )
    stepper.loss = create_loss(recipe.smoothing, mixed=stepper.mixup is not None)


def _given(value: object, default: float) -> float:
    """Return a curriculum's constant value, or the recipe's where it has none."""
    if value is None:
        return default
    assert isinstance(value, int | float), "a step table holds constants"
    return float(value)
