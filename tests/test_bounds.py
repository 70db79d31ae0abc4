"""The bounds of numbers in files: each field has some, and takes nothing else for a number."""

from __future__ import annotations

import pkgutil
from argparse import ArgumentTypeError
from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import TypeAdapter, ValidationError

import autoprog
from autoprog import bounds
from autoprog.bounds import Range
from autoprog.errors import ConfigError
from autoprog.files import FileModel, parse
from autoprog.stage import Ramp

BY_NAME = {name: flag for name, flag in vars(bounds).items() if get_origin(flag) is Annotated}


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
    hints = get_type_hints(model, include_extras=True)
    without = {
        name: [*unbounded(hints[name])]
        for name in model.model_fields
        if name in model.__annotations__ and [*unbounded(hints[name])]
    }
    assert not without, f"{model.__module__}.{model.__name__}: take a type of autoprog.bounds"


def test_the_search_for_plain_numbers_finds_them_at_any_depth() -> None:
    bounded = bounds.Count
    assert [*unbounded(dict[str, tuple[bounded | None, ...]])] == []
    assert [*unbounded(dict[str, tuple[int | None, ...]])] == ["int"]
    assert [*unbounded(Literal[1] | Annotated[float, "words"] | bounded)] == ["float"]


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize(
    "value",
    [True, False, "12", "0.5", b"1", 10**40, -(10**40), 1e300, -1e300, *map(float, ("nan", "inf"))],
    ids=repr,
)
def test_no_bounds_take_what_is_no_number_or_beyond_all_sense(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="must be "):
        TypeAdapter(BY_NAME[name]).validate_python(value)


@pytest.mark.parametrize("name", BY_NAME)
def test_bounds_are_numbers_themselves(name: str) -> None:
    found, adapter = bounds.range_of(BY_NAME[name]), TypeAdapter(BY_NAME[name])
    for number in (found.low, found.high):
        assert adapter.validate_python(number) == number
        assert found(str(number)) == number
    step = 1 if found.whole else 0.01 * max(abs(found.high), 1)
    with pytest.raises(ValidationError):
        adapter.validate_python(found.high + step)


class Sheet(FileModel):
    """A file with some numbers."""

    count: bounds.Few = 1
    size: bounds.Px | Ramp = 8
    alpha: bounds.MixingAlpha | None = None
    fractions: tuple[bounds.UnitInterval, ...] = ()
    workers: bounds.LoaderProcesses = "auto"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"count": "12"}, "count: must be a whole number from 1 to 1,000, but got '12'"),
        ({"count": True}, "count: must be a whole number from 1 to 1,000, but got True"),
        ({"count": 1.5}, "count: must be a whole number from 1 to 1,000, but got 1.5"),
        ({"count": None}, "count: must be a whole number from 1 to 1,000, but got None"),
        ({"size": "on"}, "size: must be a whole number from 1 to 4,096, but got 'on'"),
        ({"size": {"ramp": "linear", "from": 8, "to": -1}}, "size.to: must be 0 or a number from"),
        ({"alpha": 1e-320}, "alpha: must be 0 or a number from 1e-06 to 1,000, but got 1e-320"),
        ({"fractions": [0.5, "1"]}, "fractions[1]: must be a number from 0 to 1, but got '1'"),
        ({"workers": "two"}, "workers: must be a whole number from 0 to 256 or 'auto', but got"),
        ({"count": 10**5000}, "count: must be a whole number from 1 to 1,000, but got a number of"),
    ],
)
def test_a_number_of_a_file_is_refused_in_one_sentence(
    values: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(Sheet, values, "a.yaml")
    assert str(refused.value).startswith(f"a.yaml: {complaint}")


def test_whole_numbers_may_be_written_with_a_point() -> None:
    sheet = parse(Sheet, {"count": 12.0, "alpha": 0, "workers": 4, "fractions": [1, 0.5]}, "a.yaml")
    assert (sheet.count, type(sheet.count)) == (12, int)
    assert (sheet.alpha, sheet.workers, sheet.fractions) == (0.0, 4, (1.0, 0.5))


@pytest.mark.parametrize(
    "text",
    ["", " 5", "5 ", "1_000", "0x10", "１２", "nan", "inf", "1e400", "--1", "5" * 5000, "1e", "٣"],
)
def test_a_word_that_is_no_plain_number_is_none(text: str) -> None:
    for one in (bounds.Count, bounds.Measured):
        with pytest.raises(ArgumentTypeError, match=r"must be .* from .* to .*, but got '"):
            bounds.range_of(one)(text)


def test_a_word_of_the_command_line_is_the_number_that_it_says() -> None:
    assert bounds.range_of(bounds.Count)("12") == 12
    assert bounds.range_of(bounds.Epochs)("1e-3") == 0.001
    assert isinstance(bounds.range_of(bounds.Epochs)("16"), int)  # so that it is written as given
    assert bounds.range_of(bounds.LoaderProcesses)("auto") == "auto"
