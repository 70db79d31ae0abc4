"""The training recipe: everything about a run that is not its growth schedule, under timm's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator

from autoprog.bounds import (
    Aspect,
    BatchSize,
    CropPct,
    DropPath,
    Epochs,
    FractionBelowOne,
    GradientNorm,
    Jitter,
    MicroBatches,
    MixingAlpha,
    OpenFraction,
    PositiveFraction,
    Range,
    Rate,
    SomeRate,
    UnitInterval,
    WeightDecay,
)
from autoprog.errors import ConfigError, suggest
from autoprog.files import FileModel, parse
from autoprog.options import Option, value_text
from autoprog.stage import Curriculum, LearningRate

__all__ = [
    "RECIPES",
    "Recipe",
    "default_recipe_name",
    "defaults_text",
    "fitting_batch_size",
    "resolve_recipe",
    "with_randaug_magnitude",
]


def randaug_magnitude(policy: str | None) -> float | None:
    """Return the magnitude in a timm policy such as ``rand-m9-mstd0.5-inc1``, None if it is another."""
    if policy is None or not policy.startswith("rand"):
        return None
    found = re.search(r"-m(\d+(?:\.\d+)?)", policy)
    return float(found.group(1)) if found else 10.0


_SWITCH = Range(0, 1, whole=True)
_OF_A_POLICY = {
    "m": Range(0, 10),
    "mstd": Range(0, 1_000),  # timm draws evenly where it is above 100
    "mmax": Range(0, 100),
    "n": Range(0, 16, whole=True),  # operations an image, of which timm makes a list
    "w": Range(1, 16, whole=True),
    "d": Range(0, 16, whole=True),
    "a": Range(0.01, 100),
    "p": Range(0, 1),
}
"""The numbers in timm's policies, by what stands before them."""


class Recipe(FileModel):
    """Optimizer, learning rate, augmentation and averaging. Rates and fractions lie in [0, 1] unless said."""

    model_config = ConfigDict(allow_inf_nan=False)
    option_of_each: ClassVar[Option] = Option(metavar="N")

    epochs: Epochs = Field(default=300, description="passes over the training images")
    batch_size: BatchSize = Field(default=1024, description="images a step, over all processes")
    grad_accum_steps: MicroBatches = Field(
        default=1, description="micro-batches a step is split into"
    )
    opt: Annotated[str, Option(metavar="NAME")] = Field(
        default="adamw", max_length=64, description="timm optimizer"
    )
    lr: SomeRate | None = Field(default=None, description="learning rate; overrides --lr-base")
    lr_base: SomeRate = Field(
        default=5e-4, description="learning rate at --lr-base-size images a step"
    )
    lr_base_size: BatchSize = Field(
        default=512, description="batch size that --lr-base is meant for"
    )
    weight_decay: WeightDecay = Field(default=0.05, description="weight decay")
    layer_decay: PositiveFraction | None = Field(
        default=None, description="learning rate of a block over that of the next"
    )
    clip_grad: GradientNorm | None = Field(
        default=None, description="largest gradient norm, 0 or none is without limit"
    )
    sched: Literal["cosine", "wsd", "constant"] = Field(
        default="cosine", description="shape of the rate"
    )
    warmup_fraction: FractionBelowOne = Field(
        default=0.05, description="fraction of the run to warm up in"
    )
    warmup_lr: Rate = Field(default=1e-6, description="learning rate at the first step")
    min_lr: Rate = Field(default=1e-5, description="learning rate at the last step")
    decay_fraction: OpenFraction = Field(
        default=0.2, description="fraction of the run that wsd decays in"
    )
    smoothing: FractionBelowOne = Field(default=0.1, description="label smoothing")
    mixup: MixingAlpha = Field(default=0.8, description="mixup alpha, 0 turns it off")
    cutmix: MixingAlpha = Field(default=1.0, description="cutmix alpha, 0 turns it off")
    aa: Annotated[str | None, Option(metavar="POLICY")] = Field(
        default="rand-m9-mstd0.5-inc1",
        max_length=100,
        description="timm auto-augment policy or none",
    )
    reprob: UnitInterval = Field(default=0.25, description="random erasing probability")
    remode: Literal["const", "rand", "pixel"] = Field(default="pixel", description="erasing mode")
    drop_path: DropPath = Field(default=0.1, description="drop-path rate of the last block")
    scale: tuple[PositiveFraction, PositiveFraction] = Field(
        default=(0.08, 1.0), description="area of the random crop"
    )
    ratio: tuple[Aspect, Aspect] = Field(
        default=(3 / 4, 4 / 3), description="aspect of the random crop"
    )
    hflip: UnitInterval = Field(default=0.5, description="horizontal flip probability")
    vflip: UnitInterval = Field(default=0.0, description="vertical flip probability")
    color_jitter: Jitter = Field(default=0.4, description="colour jitter where aa is none")
    interpolation: Literal["random", "bilinear", "bicubic"] = Field(
        default="bicubic", description="resize filter"
    )
    crop_pct: CropPct = Field(default=0.9, description="centre crop at evaluation")
    ema_epochs: Epochs = Field(default=1.0, description="time constant of the slow EMA, in epochs")

    @field_validator("clip_grad")
    @classmethod
    def _no_clipping_at_zero(cls, value: float | None) -> float | None:
        return value or None  # 0 turns off what a named recipe has

    @field_validator("aa", mode="before")
    @classmethod
    def _none_is_off(cls, policy: str | None) -> str | None:
        return None if policy in (None, "", "none") else policy  # as files and flags write it

    @field_validator("aa")
    @classmethod
    def _magnitude_in_range(cls, policy: str | None) -> str | None:
        if (randaug_magnitude(policy) or 0.0) > 10:
            raise ConfigError("", "", "must have a magnitude of at most 10", policy)
        for name, text in re.findall(r"-([^-\d]*)(\d[^-]*)", policy or ""):
            bounds = _OF_A_POLICY.get(name, _SWITCH)
            is_number = re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) is not None
            if not is_number or float(text) not in bounds:
                raise ConfigError("", "", f"after -{name} {bounds.problem}", policy)
        return policy

    @field_validator("scale", "ratio")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 < bounds[0] <= bounds[1]:
            raise ConfigError("", "", "must be two rising numbers above 0", bounds)
        return bounds

    @property
    def peak_lr(self) -> float:
        """Return the highest learning rate: linear in the batch size unless `lr` is given."""
        return (
            self.lr if self.lr is not None else self.lr_base * self.batch_size / self.lr_base_size
        )

    @property
    def mixes(self) -> bool:
        """Tell whether images are mixed in pairs, for which a batch must be even."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def strength(self) -> Curriculum:
        """Return the full regularisation, which a schedule may ramp."""
        return Curriculum(
            randaug=randaug_magnitude(self.aa),
            drop_path=self.drop_path,
            reprob=self.reprob,
            mixup=self.mixup,
            cutmix=self.cutmix,
        )

    @property
    def learning_rate(self) -> LearningRate:
        """Return the shape that a schedule made for this recipe carries."""
        return LearningRate(shape=self.sched)


_SMALL_DATA = Recipe(
    epochs=100,
    batch_size=128,
    lr_base=1e-3,
    lr_base_size=128,
    clip_grad=1.0,
    mixup=0.0,
    cutmix=0.0,
    aa="rand-m5-mstd0.5-inc1",
    reprob=0.0,
    drop_path=0.05,
    scale=(0.5, 1.0),
    crop_pct=1.0,
)

RECIPES: dict[str, Recipe] = {
    "deit": Recipe(),
    "small-data": _SMALL_DATA,
    # From given weights: the rate falls with the distance from the head, and little is distorted.
    "finetune": _SMALL_DATA.model_copy(
        update={
            "epochs": 30,
            "lr_base": 2e-4,
            "layer_decay": 0.75,
            "warmup_fraction": 0.1,
            "min_lr": 1e-6,
        }
    ),
    "digits": Recipe(
        epochs=16,
        batch_size=64,
        lr_base=5e-4,
        lr_base_size=64,
        clip_grad=1.0,
        warmup_fraction=0.1,
        smoothing=0.0,
        mixup=0.0,
        cutmix=0.0,
        aa=None,
        reprob=0.0,
        drop_path=0.0,
        scale=(0.75, 1.0),
        ratio=(0.9, 1.1),
        hflip=0.0,
        color_jitter=0.0,
        crop_pct=1.0,
    ),
}

# DeiT's recipe is made for the 1.28 million images of ImageNet.
_SMALL_DATA_IMAGES = 200_000


def default_recipe_name(num_images: int, embedded: bool, has_initial_weights: bool = False) -> str:
    """Return the recipe of a run: ``finetune`` from given weights, else by its data.

    That is ``small-data`` below 200,000 training images.
    """
    if has_initial_weights:
        return "finetune"
    if embedded:
        return "digits"
    return "small-data" if num_images < _SMALL_DATA_IMAGES else "deit"


def defaults_text(key: str, first: str = "deit") -> str:
    """Return what a key is in the recipe `first`, and in those where it differs: ``300; digits: 16``."""
    texts = {name: value_text(getattr(recipe, key)) for name, recipe in RECIPES.items()}
    others = [f"{name}: {text}" for name, text in texts.items() if text != texts[first]]
    return "; ".join([texts[first], *others])


def resolve_recipe(base: str, *layers: tuple[str, Mapping[str, Any]]) -> Recipe:
    """Return the recipe `base` with layers of (where, values) laid over it, later ones winning.

    Raises:
        ConfigError: If the name or a key is unknown, or a value is refused; names the layer.
    """
    if base not in RECIPES:
        raise ConfigError("--recipe", "", "unknown recipe", base, suggest(base, RECIPES))
    recipe = RECIPES[base]
    for where, values in layers:
        if values:
            recipe = parse(Recipe, {**recipe.model_dump(), **values}, where)
    return recipe


def fitting_batch_size(batch_size: int, num_images: int, multiple_of: int = 1) -> int:
    """Return the largest batch size up to the given one of which whole batches make about one pass.

    It is the given one where these are within 5 % of the images, as they are in all but small data sets.

    Args:
        batch_size: Images a step.
        num_images: Of the training set.
        multiple_of: What a batch must be divided into; a lower batch size is a multiple of it, if possible.
    """
    # A schedule's epochs are whole steps: with 1.5 batches a pass every epoch would be a third too long
    # or too short.
    exact = num_images / batch_size
    if exact >= 1 and abs(round(exact) - exact) <= 0.05 * exact:
        return batch_size
    if exact >= 10:  # the remainder is below a tenth: never mind
        return batch_size
    # One batch more than fits, each a little smaller.
    size = max(1, round(num_images / math.ceil(exact)))
    return min(batch_size, size // multiple_of * multiple_of or size)


def with_randaug_magnitude(policy: str | None, magnitude: float | None) -> str | None:
    """Return the policy at another magnitude; None leaves it as it is.

    timm takes whole numbers only, so others are rounded. 0 is timm's m0 as well: without any policy timm
    would take colour jitter in its place.
    """
    if policy is None or magnitude is None or randaug_magnitude(policy) is None:
        return policy
    return re.sub(r"-m\d+(?:\.\d+)?", "", policy).replace("rand", f"rand-m{round(magnitude)}", 1)
