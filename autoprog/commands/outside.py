"""What a run folder asks for outside itself is refused unless the command line says it again."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from autoprog.cli import build_parser
from autoprog.commands.data_flags import absolute
from autoprog.commands.flags import GIVEN_AGAIN, flag_of, words_of
from autoprog.commands.trial_flags import from_anywhere
from autoprog.errors import ConfigError
from autoprog.outside import Ask, asks_of, asks_of_data, repeatable
from autoprog.settings import DataSettings, RunSettings
from autoprog.train.checkpoint import load_newest

__all__ = [
    "check_asks",
    "check_data_asks",
    "given_again",
    "loads_weights",
    "shown_words",
    "words_to_repeat",
]

_IN_EVALUATION = ("input_key", "target_key", "num_classes")


def given_again(args: argparse.Namespace, settings: RunSettings) -> dict[str, Any]:
    """Return what was given of the settings that a run has already, with paths as a run records them.

    Raises:
        ConfigError: If one of them is another value than that of the run.
    """
    found = {}
    for name, value in repeatable(settings).items():
        if not hasattr(args, name):
            continue
        given = _as_recorded(name, getattr(args, name))
        if value is not None and given != value:
            law = f"must be {_shown(value)!r}, as the run has, or be left out"
            raise ConfigError(flag_of(name), "", law, _shown(given))
        found[name] = given
    return found


def check_asks(
    args: argparse.Namespace,
    settings: RunSettings,
    folder: Path,
    flag: str,
    *,
    loads_weights: bool = True,
    logs: bool = True,
) -> None:
    """Refuse what a run's settings ask for outside its folder and the command line does not.

    Args:
        args: What was given.
        settings: Of the run, with what was given laid over them.
        folder: The run folder.
        flag: What goes on with it, such as ``--resume``.
        loads_weights: Whether initial weights would be loaded now.
        logs: Whether loggers are told.

    Raises:
        ConfigError: It names the first thing, and the flags that allow all of them.
    """
    asks = asks_of(settings, folder, loads_weights=loads_weights, logs=logs)
    missing = [ask for ask in asks if any(not hasattr(args, name) for name in ask.flags)]
    if missing:
        cure = f"to allow that, add {shown_words(_words(missing))} to {flag}"
        if "log_wandb" in missing[0].flags:
            cure += ", or --wandb-mode offline to keep it in the run folder"
        raise _refusal(folder, missing[0], cure)


def check_data_asks(data: DataSettings, folder: Path) -> None:
    """Refuse to open by itself a data set that a run folder names and that is more than a folder.

    Raises:
        ConfigError: It names the flags that say which data set to open.
    """
    for ask in asks_of_data(data):
        fields = data.model_dump(include=set(_IN_EVALUATION), exclude_none=True)
        whole = Ask(ask.key, ask.what, {**ask.flags, **fields})
        raise _refusal(folder, ask, f"to allow that, add {shown_words(whole.words)}")


def words_to_repeat(words: Sequence[str]) -> tuple[str, ...]:
    """Return those of the words after ``autoprog`` that a run is given again when it goes on."""
    parser = build_parser(words[0])
    args, _ = parser.parse_known_args(list(words))
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    names = GIVEN_AGAIN | {"compile", "log_wandb", "wandb_project"}
    actions = (one for one in commands.choices[words[0]]._actions if one.dest in names)
    return tuple(words_of(args, actions))


def shown_words(words: Sequence[str]) -> str:
    """Return words of a command line as a shell takes them, with the passwords in addresses left out."""
    return shlex.join([_shown(word) for word in words])


def loads_weights(settings: RunSettings, folder: Path) -> bool:
    """Tell whether a run that goes on would load timm's weights, as it does without a readable checkpoint."""
    if (
        not settings.pretrained or settings.search is not None
    ):  # which also trains anew for its estimates
        return settings.pretrained
    return load_newest(folder / "checkpoints")[0] is None


def _refusal(folder: Path, ask: Ask, cure: str) -> ConfigError:
    where, (value, *_) = str(folder / "run.yaml"), ask.flags.values()
    law = f"must be allowed on the command line, since {ask.what}"
    got = ConfigError.NO_VALUE if value is True else _shown(value)
    return ConfigError(where, ask.key, law, got, cure)


def _words(asks: Iterable[Ask]) -> Sequence[str]:
    return [word for ask in asks for word in ask.words]


def _as_recorded(name: str, value: Any) -> Any:
    if name == "storage":
        return from_anywhere(value)
    if name == "data_dir" or (name == "cache" and value != "auto"):
        return absolute(value)
    return value


def _shown(value: Any) -> Any:
    """Return a value without the password that the address of a database may hold."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:***@", value) if isinstance(value, str) else value
