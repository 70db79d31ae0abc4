"""The search space: which values each growth axis may take, and when the search decides."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise, product, starmap
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from autoprog import migration
from autoprog.bounds import (
    BlockNumber,
    Blocks,
    Epochs,
    Few,
    OpenFraction,
    PositiveFraction,
    Proposals,
    Px,
    Range,
    Scale,
    Several,
    Visits,
)
from autoprog.errors import ConfigError, suggest
from autoprog.files import FileModel, parse, parse_yaml, read_yaml
from autoprog.options import Option
from autoprog.stage import Grow, nearest_multiples
from autoprog.subnets import KeptTokens
from supernet.config import ALL_TOKENS, ModelSpec, SubnetConfig, TokenRule

__all__ = [
    "Axes",
    "Axis",
    "Decisions",
    "SearchSpace",
    "SpaceFile",
    "by_size",
    "find_space",
    "is_shipped",
    "shipped_spaces",
]


class Axis(FileModel):
    """The values of one axis, given as such or as fractions of the full model's value."""

    values: tuple[Px, ...] | None = Field(default=None, max_length=64)
    fractions: tuple[PositiveFraction, ...] | None = Field(default=None, max_length=64)

    @model_validator(mode="after")
    def _one_form(self) -> Axis:
        given = self.values if self.values is not None else self.fractions
        if (self.values is None) == (self.fractions is None) or not given:
            raise ConfigError("", "", "must give either values or fractions")
        if list(given) != sorted(set(given)) or given[0] <= 0:
            raise ConfigError("", "", "must be rising and above 0", list(given))
        if self.fractions is not None and self.fractions[-1] != 1.0:
            raise ConfigError("", "fractions", "must end at 1.0", list(self.fractions))
        return self

    def grid(self, full: int, step: int) -> tuple[int, ...]:
        """Return the values for a model whose full value is `full`, on multiples of `step`."""
        if self.values is not None:
            return self.values
        assert self.fractions is not None
        # In a small model several fractions may come out as one value.
        return tuple(
            sorted({max(step, round(fraction * full / step) * step) for fraction in self.fractions})
        )


class KeepAxis(FileModel):
    """Keep-rates of tokens, rising to 1, and how tokens are dropped (see :class:`autoprog.stage.Tokens`)."""

    values: tuple[PositiveFraction, ...] = Field(default=(1.0,), min_length=1, max_length=64)
    by: Literal["magnitude", "l2_magnitude", "random", "class_attention"] = "magnitude"
    at_blocks: tuple[BlockNumber, ...] = Field(default=(0,), max_length=64)

    @model_validator(mode="after")
    def _rising_to_all(self) -> KeepAxis:
        if list(self.values) != sorted(set(self.values)) or self.values[0] <= 0:
            raise ConfigError("", "values", "must be rising and above 0", list(self.values))
        if self.values[-1] != 1:
            raise ConfigError("", "values", "must end at 1", list(self.values))
        return self

    @property
    def rules(self) -> tuple[TokenRule, ...]:
        """Return the token rule of each value."""
        return tuple(TokenRule(rate, self.by, self.at_blocks) for rate in self.values)


class ScaleAxis(FileModel):
    """Multiples of the recipe's value in the order in which a run goes through them; the last is 1."""

    values: tuple[Scale, ...] = Field(default=(1.0,), min_length=1, max_length=64)

    @model_validator(mode="after")
    def _ends_at_one(self) -> ScaleAxis:
        if not self.values or min(self.values) < 0 or len(set(self.values)) < len(self.values):
            raise ConfigError("", "values", "must differ and be at least 0", list(self.values))
        if self.values[-1] != 1:
            raise ConfigError("", "values", "must end at 1", list(self.values))
        return self


class Axes(FileModel):
    """The axes: those that grow over a run, and choices that hold for all of it.

    ``depth``, ``img_size`` and ``keep_rate`` make subnets, which a supernet can estimate. ``depth`` counts
    the blocks of all stages of a model; those of a VOLO are split as AutoProg does. ``randaug``,
    ``drop_path`` and ``batch_scale`` are multiples of the recipe's values. ``placement`` and ``init`` say
    where blocks are inserted and what they start from, ``lr`` is the shape of the learning rate. Only real
    trainings (``--trials``) show what those are worth, so no other search changes them.
    """

    depth: Axis = Axis(fractions=(0.5, 2 / 3, 5 / 6, 1.0))
    img_size: Axis = Axis(fractions=(0.5, 2 / 3, 5 / 6, 1.0))
    keep_rate: KeepAxis = KeepAxis()
    randaug: ScaleAxis = ScaleAxis()
    drop_path: ScaleAxis = ScaleAxis()
    batch_scale: ScaleAxis = ScaleAxis()
    placement: tuple[Literal["interpolate", "stack"], ...] = Field(
        default=("interpolate",), min_length=1
    )
    init: tuple[Literal["ema", "copy", "zero"], ...] = Field(default=("ema",), min_length=1)
    lr: tuple[Literal["cosine", "wsd", "constant"], ...] = ()

    @model_validator(mode="after")
    def _batches_of_something(self) -> Axes:
        if min(self.batch_scale.values) == 0:
            problem = "must be above 0"
            raise ConfigError("", "batch_scale.values", problem, list(self.batch_scale.values))
        return self


class Decisions(FileModel):
    """When the search decides and what it may spend on it.

    AutoProg's rule decides at the start of each of ``num_stages`` equal stages but the last, the others at up
    to ``num_points`` points evenly spread up to the last growth. Fractions of the run are of its steps, or of
    its time where that is its length. A rule that decides once has five times as many
    ``continuation_trials``. The held-out slice is 5 % of the images, at most ``estimate_images``.
    """

    num_stages: Annotated[
        Several,
        Option(
            "stages of the run: of its regularisation, and of --rule autoprog its decisions",
            metavar="K",
        ),
    ] = 4
    supernet_epochs: Annotated[
        Epochs, Option("length of a supernet phase of --rule autoprog", metavar="E")
    ] = 2.0
    num_points: Annotated[Few, Option("most decision points of the other rules", metavar="N")] = 8
    supernet_fraction: Annotated[
        OpenFraction,
        Option("fraction of the run that their supernet phases may take", metavar="F"),
    ] = 0.1
    min_visits: Visits = Field(
        default=2.0, description="steps that a supernet phase gives each subnet at the least"
    )
    # Below it a run decides less often, so that each subnet is visited so often.
    good_visits: Visits = Field(
        default=8.0, description="steps a subnet from which on its estimates are worth something"
    )
    search_fraction: Annotated[
        OpenFraction,
        Option("most that estimates may cost, as a fraction of a full run", metavar="F"),
    ] = 0.03
    max_candidates: Annotated[
        Several, Option("most subnets that are estimated at a decision", metavar="N")
    ] = 9
    min_full_fraction: Annotated[
        OpenFraction,
        Option("least fraction of the run that the full model trains for", metavar="F"),
    ] = 0.15
    estimate_images: Annotated[int, Range(2, 10**7, whole=True)] = Field(
        default=2500, description="most images of the held-out slice"
    )
    continuation_trials: Annotated[
        Proposals, Option("schedules that Optuna proposes at a decision", metavar="N")
    ] = 200
    grow: Grow = Grow()


class SpaceFile(FileModel):
    """One file of ``search_spaces/``: the largest network, the choices, and recipe values that suit it."""

    schema_version: Literal[2] = Field(default=2, alias="schema")
    model: str | None = None
    img_size: Px | None = None
    axes: Axes = Axes()
    decisions: Decisions = Decisions()
    recipe: dict[str, Any] = Field(default_factory=dict)

    def space(self, spec: ModelSpec, where: str) -> SearchSpace:
        """Return the space of one model, with every axis ending at the full value.

        Raises:
            ConfigError: If an axis does not end at the full value or leaves the grid of the stride.
        """
        sizes = self.axes.img_size.grid(spec.img_size, spec.patch_size)
        blocks = self.axes.depth.grid(spec.full.total_depth, 1)
        _check_axis(where, "axes.depth", list(blocks), spec.full.total_depth, 1)
        depths = tuple(dict.fromkeys(map(spec.split, blocks)))  # two totals may split alike
        # Totals may rise while one stage of the model falls, as 9 and 10 blocks of VOLO-D1 do.
        for low, high in pairwise(depths):
            if any(a > b for a, b in zip(low, high, strict=True)):
                problem = (
                    f"must not fall in a stage of the model, but {sum(low)} blocks are {list(low)}"
                )
                hint = f"{sum(high)} are {list(high)}; leave out one of the two"
                raise ConfigError(where, "axes.depth", f"{problem} and {hint}")
        _check_axis(where, "axes.img_size", list(sizes), spec.img_size, spec.patch_size)
        if spec.needs_grid and len(self.axes.keep_rate.values) > 1:
            problem, rates = "must be [1.0]", list(self.axes.keep_rate.values)
            hint = f"{spec.name} needs the whole grid"
            raise ConfigError(where, "axes.keep_rate.values", problem, rates, hint)
        values = {
            "spec": spec,
            "depths": depths,
            "sizes": sizes,
            "keep_rates": self.axes.keep_rate.rules,
            "axes": self.axes,
            "decisions": self.decisions,
        }
        return parse(SearchSpace, values, where)


# A supernet phase trains each of them, and each decision compares them all.
_MAX_POINTS = 2_000


class SearchSpace(FileModel):
    """The growth space of one model: depths, image sizes and keep-rates that rise to the full model."""

    spec: ModelSpec
    depths: tuple[tuple[Blocks, ...], ...] = Field(min_length=1)
    sizes: tuple[Px, ...] = Field(min_length=1)
    keep_rates: tuple[KeptTokens, ...] = (ALL_TOKENS,)
    axes: Axes = Axes()
    decisions: Decisions

    @model_validator(mode="after")
    def _lies_in_the_model(self) -> SearchSpace:
        stages = {len(depth) for depth in self.depths}
        if stages != {len(self.spec.depth)} or not all(
            blocks <= most
            for depth in self.depths
            for blocks, most in zip(depth, self.spec.depth, strict=True)
        ):
            problem = f"must be depths of {self.spec.name}, at most {list(self.spec.depth)}"
            raise ConfigError("", "depths", problem, [*map(list, self.depths)])
        stride, max_px = self.spec.patch_size, self.spec.img_size
        if any(size % stride or size > max_px for size in self.sizes):
            problem = f"must be multiples of the stride {stride}, at most {max_px}"
            raise ConfigError("", "sizes", problem, [*self.sizes])
        count = len(self.depths) * len(self.sizes) * len(self.keep_rates)
        if count > _MAX_POINTS:
            problem = f"must make at most {_MAX_POINTS:,} subnets"
            raise ConfigError("", "axes", problem, count, "give fewer values to an axis")
        return self

    @property
    def smallest(self) -> SubnetConfig:
        """Return the point that training starts from."""
        return SubnetConfig(self.depths[0], self.sizes[0], self.keep_rates[0])

    def at_full_depth(self) -> SearchSpace:
        """Return the part of the space that given weights leave: growth would overwrite blocks of theirs.

        Raises:
            ConfigError: If nothing is left to choose.
        """
        if len(self.sizes) == len(self.keep_rates) == 1:
            problem, hint = "must have several with given weights", "or train --schedule constant"
            raise ConfigError("--space", "axes.img_size", problem, list(self.sizes), hint)
        return self.model_copy(update={"depths": (self.spec.depth,)})

    def above(self, current: SubnetConfig) -> tuple[SubnetConfig, ...]:
        """Return all points that `current` can stay at or grow to, smallest first."""
        points = starmap(SubnetConfig, product(self.depths, self.sizes, self.keep_rates))
        # Staying is always possible, also at a subnet that is no point of the space.
        reachable = {point for point in points if current.within(point)} | {current}
        return tuple(sorted(reachable, key=by_size))


def by_size(subnet: SubnetConfig) -> tuple[int, int, float]:
    """Return the order of subnets: by depth, then image size, then keep-rate."""
    return subnet.total_depth, subnet.img_size, subnet.tokens.keep_rate


def _check_axis(where: str, key: str, values: list[int], full: int, step: int) -> None:
    if values[-1] != full:
        hint = "take --space default, which fits any model and size" if is_shipped(where) else ""
        raise ConfigError(where, key, f"must end at the full value {full}", values, hint)
    for value in values:
        if value % step:
            low, high = nearest_multiples(value, step)
            problem = f"must be a multiple of the stride {step}"
            raise ConfigError(where, key, problem, value, f"nearest are {low} and {high}")


def shipped_spaces() -> dict[str, str]:
    """Return the YAML text of each space that ships with autoprog, by name."""
    folder = resources.files("search_spaces")
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
        for entry in sorted(files, key=lambda e: e.name)
    }


def is_shipped(where: str) -> bool:
    """Return whether a space came with autoprog, so that its user has no file to change."""
    return where in map(_origin, shipped_spaces())


def _origin(name: str) -> str:
    return f"search_spaces/{name}.yaml"


def find_space(name_or_path: str | None, model: str) -> tuple[SpaceFile, str]:
    """Return a space by name or path and where it came from; None takes the model's own or the default.

    Raises:
        ConfigError: If a name or file is given that does not exist, or the file cannot be used.
    """
    shipped = shipped_spaces()
    if name_or_path is None:
        own = (model, model.removesuffix("-local"))  # the local variant grows like the plain one
        name = next((name for name in own if name in shipped), "default")
    elif name_or_path in shipped:
        name = name_or_path
    elif Path(name_or_path).suffix in (".yaml", ".yml"):
        body = migration.space(read_yaml(Path(name_or_path)))
        return parse(SpaceFile, body, name_or_path), name_or_path
    else:
        raise ConfigError(
            "--space", "", "unknown space", name_or_path, suggest(name_or_path, shipped)
        )
    where = _origin(name)
    return parse(SpaceFile, parse_yaml(shipped[name], where), where), where
