"""The settings of an arm: a training or a search with flags of a fixed list, and nothing else.

``verify.json`` and ``bench.json`` may come from somebody else, and what they say is started. So they hold
settings, from which the words of a command line are made here, and nothing that is taken for words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from autoprog.data.cache_folder import cache_folder
from autoprog.errors import ConfigError, suggest
from autoprog.fidelity_report import FidelitySettings
from autoprog.files import MAX_LETTERS, FileModel, is_line
from autoprog.migration import FLAGS
from autoprog.options import flags_of_model
from autoprog.presets import PRESETS
from autoprog.recipe import Recipe
from autoprog.settings import DataSettings, RunSettings, SearchSettings
from autoprog.space import Decisions
from autoprog.stage import Grow

__all__ = [
    "ELSEWHERE",
    "FLAGS_OF_BOTH",
    "FLAGS_OF_SEARCH",
    "PAIRS",
    "SWITCHES",
    "Arm",
    "ArmName",
    "ArmSettings",
    "FlagValue",
    "flag_words",
    "flags_of_words",
    "settings_of_words",
    "with_numbers",
]

_OF_BOTH: tuple[type[BaseModel], ...] = (Recipe, DataSettings, RunSettings)
_OF_SEARCH: tuple[type[BaseModel], ...] = (SearchSettings, Decisions, Grow, FidelitySettings)
_OPTIONS = {
    flag.name.removeprefix("--"): flag
    for model in (*_OF_BOTH, *_OF_SEARCH)
    for flag in flags_of_model(model)
}


def _names_in(models: Iterable[type[BaseModel]]) -> set[str]:
    return {flag.name.removeprefix("--") for model in models for flag in flags_of_model(model)}


# The verification gives each run its seed, both arms have the same epochs rather than the same time, and a
# search that is measured measures its own costs and keeps its own trials.
FLAGS_OF_BOTH = frozenset(
    _names_in(_OF_BOTH) - {"seed", "time-budget"} | {"recipe", "model", "img-size"}
)
"""Flags that any arm may have."""
FLAGS_OF_SEARCH = frozenset(
    _names_in(_OF_SEARCH) - {"costs", "storage"} | {"same-epochs", "jobs", "space"}
)
"""Flags that a search may have beside them."""
SWITCHES = frozenset(
    {name for name, flag in _OPTIONS.items() if flag.info.annotation is bool} | {"same-epochs"}
)
"""Flags that have no value."""
PAIRS = frozenset(
    name for name, flag in _OPTIONS.items() if get_origin(flag.info.annotation) is tuple
)
"""Flags that have two numbers."""

ELSEWHERE = tuple(
    name
    for name, flag in _OPTIONS.items()
    if flag.option.outside and name in FLAGS_OF_BOTH | FLAGS_OF_SEARCH
)
"""Flags that let a run write outside its folder, start a compiler, or read from the network."""
# Without a sign: a word that begins with a dash would be read as a flag.
_NUMBER = re.compile(r"\d+(\.\d*)?([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?")
_NAME, _LONGEST_NAME = re.compile(r"[a-z0-9]+([.:+-][a-z0-9]+)*"), 64
_MAX_WORDS = 500  # more than there are flags with their values


def _arm_name(text: str) -> str:
    if len(text) > _LONGEST_NAME or not _NAME.fullmatch(text):
        problem = (
            f"must be at most {_LONGEST_NAME} small letters and digits, with single .:+- between"
        )
        raise ConfigError("", "", problem, text)
    return text


Arm = str
"""Name of one way to train, such as ``baseline``."""
ArmName = Annotated[str, AfterValidator(_arm_name)]
"""An arm's name from a file. It names a folder too, so that it can neither leave nor hide one."""
FlagValue = Literal[True] | str | tuple[str, str]
"""Of a flag: True for a switch, else its text, or the texts of a pair of numbers."""


class ArmSettings(FileModel):
    """What ``train`` or ``search`` is to do, without seed and folder.

    Args:
        command: Which of the two.
        preset: The preset that a training follows.
        follows_file: Whether a training follows a schedule file, which is copied beside the plan.
        flags: Text of each flag, without the dashes.
    """

    command: Literal["train", "search"]
    preset: Literal[tuple(PRESETS)] | None = None  # type: ignore[valid-type]
    follows_file: bool = False
    flags: dict[str, FlagValue] = Field(default_factory=dict)

    @field_validator("flags", mode="before")
    @classmethod
    def _values_have_the_kind_of_their_flag(cls, flags: Any) -> dict[str, FlagValue]:
        if not isinstance(flags, Mapping):
            raise ConfigError("", "", "must be a mapping of flags to values", flags)
        checked: dict[str, FlagValue] = {}
        for flag, value in flags.items():
            if flag in SWITCHES:
                if value is not True:
                    raise ConfigError("", flag, "must be true", value)
                checked[flag] = True
            elif flag in PAIRS:
                is_pair = isinstance(value, list | tuple) and len(value) == 2
                if not is_pair or not all(
                    isinstance(v, str) and _NUMBER.fullmatch(v) for v in value
                ):
                    raise ConfigError("", flag, "must be the texts of two numbers", value)
                checked[flag] = value[0], value[1]
            elif not isinstance(value, str) or len(value) > MAX_LETTERS or not is_line(value):
                problem = (
                    f"must be a text of at most {MAX_LETTERS} letters, without control characters"
                )
                raise ConfigError("", flag, problem, value)
            # Argparse takes it out wherever it stands, so the flag had no value.
            elif value == "--":
                raise ConfigError("", flag, "must be a value", value)
            else:
                checked[flag] = value
        return checked

    @model_validator(mode="after")
    def _is_a_run(self) -> ArmSettings:
        known = _flags_of(self.command)
        for flag in self.flags:
            if flag not in known:
                near = suggest(flag, known, list_all=False)
                raise ConfigError("", "flags", f"unknown flag of a {self.command}", flag, near)
        schedules = (self.preset is not None) + self.follows_file
        if schedules != (self.command == "train"):
            problem = "must be given, or follows_file, for a training and for nothing else"
            raise ConfigError("", "preset", problem, self.preset)
        return self

    def having(self, **flags: FlagValue) -> ArmSettings:
        """Return it with other values of some flags, whose names have underscores here."""
        named = {name.replace("_", "-"): value for name, value in flags.items()}
        return self.model_copy(update={"flags": {**self.flags, **named}})

    def following_file(self) -> ArmSettings:
        """Return the same training along a schedule file."""
        return self.model_copy(update={"preset": None, "follows_file": True})

    def words(self, schedule: Path | None) -> tuple[str, ...]:
        """Return what stands after ``autoprog``; `schedule` is the file that it follows, if it does."""
        along = self.preset if schedule is None or not self.follows_file else schedule
        own = () if self.command == "search" else (f"--schedule={along}",)
        return (self.command, *own, *flag_words(self.flags))

    @property
    def elsewhere(self) -> dict[str, FlagValue]:
        """Return the flags that let a run write outside its folder, or read from the network.

        The user's own cache folder is none of these, nor is what W&B keeps to be sent later.
        """
        asks = {flag: self.flags[flag] for flag in ELSEWHERE if flag in self.flags}
        # Any run of this user may write there.
        if cache_folder(str(asks.get("cache", "auto"))) == cache_folder("auto"):
            asks.pop("cache", None)
        if self.flags.get("wandb-mode") == "offline":  # W&B then writes into the run folder
            asks = {flag: value for flag, value in asks.items() if "wandb" not in flag}
        return asks


def with_numbers(value: Any) -> Any:
    """Return a value with a number for each text of one, so that 2.5e-4 and 0.00025 are the same."""
    if isinstance(value, Mapping):
        return {key: with_numbers(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [with_numbers(one) for one in value]
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def flag_words(flags: Mapping[str, FlagValue]) -> tuple[str, ...]:
    """Return flags as words of a command line, in which no value can be taken for a flag."""
    # --flag=value holds together whatever the value is. Two numbers cannot be given so, but they have
    # been checked to be numbers.
    words: list[str] = []
    for flag, value in flags.items():
        if value is True:
            words.append(f"--{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *value]
        else:
            words.append(f"--{flag}={value}")
    return tuple(words)


def flags_of_words(words: Iterable[str], known: Iterable[str]) -> dict[str, FlagValue]:
    """Return the flags that stand on a command line; of one that is given twice, the last.

    Raises:
        ConfigError: If anything but flags of `known` with their values stands there.
    """
    flags: dict[str, FlagValue] = {}
    allowed, waiting = frozenset(known), list(words)
    while waiting:
        word, equals, value = waiting.pop(0).partition("=")
        # Whole names alone, as the parser takes them, and not -abc for three switches.
        flag = "jobs" if word == "-j" else word.removeprefix("--")
        if flag not in allowed or word not in ("-j", f"--{flag}"):
            raise ConfigError(
                word, "", "must be a flag of a run", hint="see autoprog search --help"
            )
        # --cache alone is the user's own cache folder, and --cache DIR another one.
        if flag in SWITCHES or (flag == "cache" and not equals and not _next_value(waiting)):
            if equals:
                raise ConfigError(word, "", "must have no value", value)
            flags[flag] = True if flag in SWITCHES else "auto"
            continue
        values = [value] if equals else []
        for _ in range((2 if flag in PAIRS else 1) - len(values)):
            if not _next_value(waiting):
                raise ConfigError(word, "", "must have a value")
            values.append(waiting.pop(0))
        flags[flag] = (values[0], values[1]) if flag in PAIRS else values[0]
    return flags


def settings_of_words(holder: Any, old: str, new: str, where: str, place: str) -> Any:
    """Return a mapping of the first file format with settings in place of words of a command line.

    Args:
        holder: The mapping; anything else is returned as it is, for its validation to refuse.
        old: The key of the words.
        new: The key of the settings.
        where: The file.
        place: The key of the mapping in it.

    Raises:
        ConfigError: If the words are not those of an arm.
    """
    if not isinstance(holder, dict) or old not in holder:
        return holder
    key, words = f"{place}.{old}", holder[old]
    is_list = isinstance(words, list) and 0 < len(words) <= _MAX_WORDS
    if not is_list or not all(isinstance(word, str) for word in words):
        raise ConfigError(where, key, "must be a list of words", words)
    command, *flags = words
    if command not in ("train", "search"):
        raise ConfigError(where, key, "must begin with train or search", command)
    # Files of that age hold the flags of their time, which the migration renames afterwards.
    known = _flags_of(command) | frozenset(FLAGS)
    along: dict[str, Any] = {}
    try:
        if command == "train":
            flag, equals, schedule = (flags.pop(0) if flags else "").partition("=")
            if flag != "--schedule" or not (equals or flags):
                raise ConfigError("--schedule", "", "must follow train")
            schedule = schedule if equals else flags.pop(0)
            is_file = schedule == "{schedule}"  # a placeholder for the copy beside the plan
            along = {"follows_file": True} if is_file else {"preset": schedule}
        settings = {"command": command, **along, "flags": flags_of_words(flags, known)}
    except ConfigError as error:
        raise ConfigError(where, key, str(error)) from None
    return {**{one: value for one, value in holder.items() if one != old}, new: settings}


def _flags_of(command: str) -> frozenset[str]:
    return FLAGS_OF_BOTH | FLAGS_OF_SEARCH if command == "search" else FLAGS_OF_BOTH


def _next_value(words: Sequence[str]) -> bool:
    """Return whether the next word is a value, such as ``-0.5``, and no flag."""
    return bool(words) and (words[0][:1] != "-" or words[0][1:2].isdigit())
