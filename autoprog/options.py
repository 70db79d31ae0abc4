"""How settings are given on the command line: flag, help and default are said once, at the field itself.

``Annotated[Seed, Option("seed of everything random", metavar="N")] = 0`` makes ``--seed N`` in every command
that adds the fields of its group, and the words of a command line again from a value.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from autoprog.bounds import Budget, Range, range_of, ranges_in
from autoprog.errors import ConfigError
from autoprog.printable import short_repr

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

__all__ = [
    "Flag",
    "Option",
    "add_options",
    "check_needs",
    "duration_seconds",
    "flag_words",
    "flags_of_model",
    "given",
    "number_text",
    "value_text",
]


@dataclass(frozen=True)
class Option:
    """Annotation of a field that has a flag.

    Attributes:
        help: What the flag says; where empty, the description of the field.
        flag: Its name without dashes; where empty, that of the field.
        group: The part of a command's help that it stands in, so that a command can add a part.
        metavar: What stands for its value in the help.
        default: The default in words, where it is only known once a run is configured.
        parse: Makes the value of a word, where that is neither a text nor a number in bounds.
        alone: The value of the flag without one; None where it needs one.
        resume: The kinds of run that ``--resume`` may go on with under another value: it decides how a run is
            carried out, and nothing that it computes.
        needs: The flag, without dashes, that this one says more of and cannot be given without.
        outside: Whether it lets a run write outside its folder, start a program or read from the network. A
            folder may come from somebody else, so ``--resume`` must be given it again.
    """

    help: str = ""
    flag: str = ""
    group: str = ""
    metavar: str = ""
    default: str = ""
    parse: Callable[[str], Any] | None = None
    alone: str | None = None
    resume: tuple[Literal["search", "train"], ...] = ()
    needs: str = ""
    outside: bool = False


@dataclass(frozen=True)
class Flag:
    """The flag of one field."""

    field: str
    option: Option
    info: FieldInfo

    @property
    def name(self) -> str:
        """Return it as it is written, such as ``--val-seed``."""
        return "--" + (self.option.flag or self.field.replace("_", "-"))

    @property
    def dest(self) -> str:
        """Return the attribute of the parsed arguments that holds its value."""
        return self.name[2:].replace("-", "_")

    def default_text(self) -> str:
        """Return the default in words; empty where nothing stands for "not given"."""
        value = self.info.get_default(call_default_factory=False)
        if self.option.default or self.info.is_required():
            return self.option.default
        # What a switch does not do goes without saying.
        if value is None or isinstance(value, bool):
            return ""
        return value_text(value)

    def add(self, group: argparse._ActionsContainer, default: str) -> None:
        """Add it to a parser; not given, it sets no attribute, since the defaults lie in the fields."""
        help_text = self.option.help or self.info.description or ""
        help_text = f"{help_text} (default: {default})" if default else help_text
        annotation = self.info.annotation
        ranges = [one for part in (annotation, *self.info.metadata) for one in ranges_in(part)]
        options: dict[str, Any] = {"metavar": self.option.metavar or None}
        # The kind of a flag follows from the type of its field: a switch, words to choose from, numbers in
        # bounds, or a text.
        if annotation is bool:
            options = {"action": "store_true"}
        elif self.option.alone is not None:
            options |= {"nargs": "?", "const": self.option.alone}
        elif len(ranges) == 2:
            options = {"nargs": 2, "type": ranges[0], "metavar": ("LOW", "HIGH")}
        elif self.option.parse is not None or ranges:
            options |= {"type": self.option.parse or ranges[0]}
        elif choices := [*_choices_in(annotation)]:
            options = {"choices": choices}
        group.add_argument(
            self.name,
            dest=self.dest,
            default=argparse.SUPPRESS,
            help=help_text.replace("%", "%%"),  # argparse fills in what stands behind a %
            **options,
        )


@cache
def flags_of_model(model: type[BaseModel]) -> tuple[Flag, ...]:
    """Return the flags of the fields that have one, in their order.

    A model whose every field has a flag says what they have in common as ``option_of_each``.
    """
    flags, common = [], getattr(model, "option_of_each", None)
    for name, info in model.model_fields.items():
        option = next((one for one in info.metadata if isinstance(one, Option)), common)
        if option is not None:
            flags.append(Flag(name, option, info))
    return tuple(flags)


def add_options(
    group: argparse._ActionsContainer,
    model: type[BaseModel],
    only: str | None = None,
    defaults: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add the flags of a model's fields.

    Args:
        group: Takes them.
        model: Of the settings.
        only: The group of fields to add; None adds all.
        defaults: What the default of a field is in this command, where the field does not say it.
    """
    for flag in flags_of_model(model):
        if only is None or flag.option.group == only:
            flag.add(group, defaults.get(flag.field, flag.default_text()))


def given(args: argparse.Namespace, model: type[BaseModel]) -> dict[str, Any]:
    """Return the values of the model's fields that the command line gives."""
    flags = flags_of_model(model)
    return {f.field: getattr(args, f.dest) for f in flags if hasattr(args, f.dest)}


def check_needs(args: argparse.Namespace, model: type[BaseModel]) -> None:
    """Refuse a flag of the model's fields without the one that it says more of.

    Raises:
        ConfigError: If that one is missing.
    """
    for flag in flags_of_model(model):
        needed = flag.option.needs
        if needed and hasattr(args, flag.dest) and not hasattr(args, needed.replace("-", "_")):
            raise ConfigError(flag.name, "", f"must be given together with --{needed}")


def flag_words(flags: Iterable[Flag], values: Mapping[str, Any]) -> list[str]:
    """Return values of fields as words of a command line, in which no value can be taken for a flag.

    Args:
        flags: Those that may be said, in the order of the words.
        values: By field. A switch is said for True; nothing is said for False and None.
    """
    words: list[str] = []
    for flag in flags:
        value = values.get(flag.field)
        if value is None or value is False:
            continue
        if value is True:
            words.append(flag.name)
        elif isinstance(value, list | tuple):
            words += [flag.name, *map(number_text, value)]
        else:
            words.append(f"{flag.name}={number_text(value)}")
    return words


def number_text(value: Any) -> str:
    """Return a number in short as far as it stays the same number; anything else as a text."""
    if not isinstance(value, float):
        return str(value)
    return text if float(text := f"{value:g}") == value else repr(value)


def value_text(value: Any) -> str:
    """Return a default as a help text shows it."""
    if isinstance(value, tuple):
        return " ".join(f"{one:.3g}" for one in value)
    return "none" if value is None else number_text(value)


def _choices_in(annotation: Any) -> Iterator[str]:
    """Yield the words that a field can be, also those of a union with None."""
    if get_origin(annotation) is Literal:
        yield from (word for word in get_args(annotation) if isinstance(word, str))
        return
    for part in get_args(annotation):
        yield from _choices_in(part)


_PART = r"([0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})"


def duration_seconds(text: str) -> float:
    """Return the seconds that a text such as ``90m``, ``24h``, ``1h30m`` or ``45s`` means."""
    match = re.fullmatch(rf"(?:{_PART}h)?(?:{_PART}m)?(?:{_PART}s)?", text)
    if match is None or not text:
        problem = f"must be a duration such as 90m, 24h or 1h30m, but got {short_repr(text)}"
        raise argparse.ArgumentTypeError(problem)
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    granted: Range = range_of(Budget)
    if total not in granted:
        problem = f"must be a duration from 1 ms to {granted.high / 3600:,.0f}h"
        raise argparse.ArgumentTypeError(f"{problem}, but got {short_repr(text)}")
    return total
