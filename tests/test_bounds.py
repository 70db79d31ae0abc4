"""The bounds of numbers in files: each field has some, and takes nothing else for a number."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import UnionType
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import TypeAdapter, ValidationError

import autoprog
from autoprog import bounds
from autoprog.bounds import Range
from autoprog.curves import Ramp
from autoprog.errors import ConfigError
from autoprog.files import FileModel, parse

BY_NAME = {name: flag for name, flag in vars(bounds).items() if get_origin(flag) is Annotated}
OF_THE_NETWORK = {"FullModel", "OutlookPart"}
"""Bounded by supernet.limits, together with all other ways to describe a network."""


def models() -> list[type[FileModel]]:
    for module in pkgutil.walk_packages(autoprog.__path__, "autoprog."):
        if not module.name.endswith(("__main__", ".wandb", ".tensorboard", "timm_script")):
            import_module(module.name)
    found: list[type[FileModel]] = []
    waiting = [FileModel]
    while waiting:
        derived = waiting.pop().__subclasses__()
        found += [one for one in derived if one.__module__.startswith("autoprog.")]
        waiting += derived
    return sorted(set(found), key=lambda model: f"{model.__module__}.{model.__name__}")


def unbounded(annotation: Any) -> Iterator[str]:
    """Yield the numbers in an annotation that have no range: plain ones, at any depth."""
    if annotation in (int, float, complex):
        yield annotation.__name__
    elif get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        if not any(isinstance(one, Range) for one in metadata):
            yield from unbounded(inner)
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from unbounded(part)


@pytest.mark.parametrize("model", models(), ids=lambda model: model.__name__)
def test_every_number_of_a_file_has_bounds(model: type[FileModel]) -> None:
    if model.__name__ in OF_THE_NETWORK:
        return
    hints = get_type_hints(model, include_extras=True)
    without = {
        name: [*unbounded(hints[name])]
        for name in model.model_fields
        if name in model.__annotations__ and [*unbounded(hints[name])]
    }
    assert not without, f"{model.__module__}.{model.__name__}: take a type of autoprog.bounds"
