"""The search space: which values each growth axis may take, and when the search decides."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from autoprog.errors import ConfigError, suggest
from autoprog.files import FileModel, parse, parse_yaml, read_yaml
from autoprog.laws import nearest_multiples
from autoprog.stage import Grow
from supernet.config import ModelSpec, SubnetConfig

__all__ = ["Axis", "Decisions", "SearchSpace", "SpaceFile", "find_space", "shipped_spaces"]


class Axis(FileModel):
    """The values of one axis, given as such or as shares of the full model's value."""

    values: tuple[int, ...] | None = None
    shares: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Axis:
        given = self.values if self.values is not None else self.shares
        if (self.values is None) == (self.shares is None) or not given:
            raise ConfigError("", "", "must give either values or shares")
        if list(given) != sorted(set(given)) or given[0] <= 0:
            raise ConfigError("", "", "must be rising and above 0", list(given))
        if self.shares is not None and self.shares[-1] != 1.0:
            raise ConfigError("", "shares", "must end at 1.0", list(self.shares))
        return self

    def grid(self, full: int, step: int) -> tuple[int, ...]:
        """Return the values for a model whose full value is `full`, on multiples of `step`."""
        if self.values is not None:
            return self.values
        assert self.shares is not None
        return tuple(
            sorted({max(step, round(share * full / step) * step) for share in self.shares})
        )


class Axes(FileModel):
    """The growth axes."""

    depth: Axis = Axis(shares=(0.5, 2 / 3, 5 / 6, 1.0))
    img_size: Axis = Axis(shares=(0.5, 2 / 3, 5 / 6, 1.0))


class Decisions(FileModel):
    """When the search decides and what it may spend on it.

    ``num_stages`` is K of AutoProg: the run is cut into K equal pieces, with a decision at each cut.
    ``min_full_share`` is the least share of the steps that the full model trains for, ``estimate_images``
    the most images of the held-out slice, which is otherwise 5 % of the training images.
    """

    num_stages: int = Field(default=4, ge=2)
    supernet_epochs: float = Field(default=2.0, gt=0)
    max_candidates: int = Field(default=9, ge=2)
    min_full_share: float = Field(default=0.15, gt=0, lt=1)
    estimate_images: int = Field(default=2500, ge=2)
    grow: Grow = Grow()


class SpaceFile(FileModel):
    """One file of ``search_spaces/``: the largest network, the choices, and recipe values that suit it."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: str | None = None
    img_size: int | None = Field(default=None, gt=0)
    axes: Axes = Axes()
    decisions: Decisions = Decisions()
    recipe: dict[str, Any] = Field(default_factory=dict)

    def space(self, spec: ModelSpec, where: str) -> SearchSpace:
        """Return the space of one model, with every axis ending at the full value.

        Raises:
            ConfigError: If an axis does not end at the full value or leaves the grid of the stride.
        """
        sizes = self.axes.img_size.grid(spec.img_size, spec.patch_size)
        depths = tuple(_depth_grid(self.axes.depth, spec, where))
        _check_axis(where, "axes.depth", [depth[0] for depth in depths], spec.depth[0], 1)
        _check_axis(where, "axes.img_size", list(sizes), spec.img_size, spec.patch_size)
        return SearchSpace(spec=spec, depths=depths, sizes=sizes, decisions=self.decisions)


class SearchSpace(FileModel):
    """The growth space of one model: a grid of depths and image sizes, both rising to the full model."""

    spec: ModelSpec
    depths: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]
    decisions: Decisions

    @property
    def smallest(self) -> SubnetConfig:
        """Return the point that training starts from."""
        return SubnetConfig(self.depths[0], self.sizes[0])

    def above(self, current: SubnetConfig) -> tuple[SubnetConfig, ...]:
        """Return all points that `current` can stay at or grow to, smallest first."""
        points = (SubnetConfig(d, r) for d, r in product(self.depths, self.sizes))
        reachable = {point for point in points if current.within(point)} | {current}
        return tuple(sorted(reachable, key=lambda point: (point.total_depth, point.img_size)))


def _depth_grid(axis: Axis, spec: ModelSpec, where: str) -> Iterator[tuple[int, ...]]:
    """Yield depths as one entry a stage; several stages grow in step, by shares only."""
    if len(spec.depth) == 1:
        yield from ((blocks,) for blocks in axis.grid(spec.depth[0], 1))
        return
    if axis.shares is None:
        raise ConfigError(
            where, "axes.depth", "must be given as shares for a model of several stages"
        )
    yield from dict.fromkeys(
        tuple(max(1, round(share * blocks)) for blocks in spec.depth) for share in axis.shares
    )


def _check_axis(where: str, key: str, values: list[int], full: int, step: int) -> None:
    if values[-1] != full:
        raise ConfigError(where, key, f"must end at the full value {full}", values)
    for value in values:
        if value % step:
            low, high = nearest_multiples(value, step)
            law = f"must be a multiple of the stride {step}"
            raise ConfigError(where, key, law, value, f"nearest are {low} and {high}")


def shipped_spaces() -> dict[str, str]:
    """Return the YAML text of each space that ships with autoprog, by name."""
    folder = resources.files("search_spaces")
    files = [entry for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8")
        for entry in sorted(files, key=lambda e: e.name)
    }


def find_space(name_or_path: str | None, model: str) -> tuple[SpaceFile, str]:
    """Return a space by name or path and where it came from; None takes the model's own or the default.

    Raises:
        ConfigError: If a name or file is given that does not exist, or the file breaks a law.
    """
    shipped = shipped_spaces()
    if name_or_path is None:
        name = model if model in shipped else "default"
    elif name_or_path in shipped:
        name = name_or_path
    elif Path(name_or_path).suffix in (".yaml", ".yml"):
        return parse(SpaceFile, read_yaml(Path(name_or_path)), name_or_path), name_or_path
    else:
        raise ConfigError(
            "--space", "", "unknown space", name_or_path, suggest(name_or_path, shipped)
        )
    where = f"search_spaces/{name}.yaml"
    return parse(SpaceFile, parse_yaml(shipped[name], where), where), where
