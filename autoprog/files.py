"""Files in text: logs of JSON rows, safe YAML, validation by pydantic, and errors of one line."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from autoprog.errors import ConfigError, RunError, suggest
from autoprog.migration import NEW_KEYS, NEW_VALUES, SCHEMA
from autoprog.openfiles import (
    MAX_TEXT_BYTES,
    NotRegularFileError,
    open_for_appending,
    open_regular,
    read_bytes,
    write_all,
)
from autoprog.printable import brief, is_printable

__all__ = [
    "LONGEST_ROW_BYTES",
    "MAX_LETTERS",
    "FileModel",
    "Line",
    "append_row",
    "cut_torn_tail",
    "dump_yaml",
    "is_line",
    "json_object",
    "json_text",
    "parse",
    "parse_yaml",
    "read_lines",
    "read_object",
    "read_rows",
    "read_text",
    "read_yaml",
    "write_outputs",
]


_BLOCK_BYTES = 2**16
LONGEST_ROW_BYTES = 16 * 2**20
_MAX_LOG_BYTES = 32 * 2**20
# In one object: three lists with a number for each of 100,000 classes.
_MAX_VALUES = 300_000


# Logs of one JSON object a line: appended to disk, and read whatever a crash has left.


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row and wait until it is on disk."""
    # A resume goes by these rows, so what has been acted on must have been written.
    with open_for_appending(path) as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a log, none of one that is missing; a half-written last line is left out.

    Args:
        path: The log.
        most: The most rows that it may have; all of them together then have at most 32 MiB.

    Raises:
        ConfigError: If it is no regular file, too long, or any other line is no JSON object.
    """
    num_bytes = 0
    for number, line in enumerate(read_lines(path), 1):
        num_bytes += len(line)
        if most is not None and number > most:
            raise ConfigError(str(path), "", f"must have at most {most:,} lines")
        if most is not None and num_bytes > _MAX_LOG_BYTES:
            raise ConfigError(str(path), "", f"must have at most {_MAX_LOG_BYTES / 2**20:g} MiB")
        yield json_object(line, str(path), f"line {number}")


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a log, none of one that is missing.

    Raises:
        ConfigError: If it is no regular file, or a line is too long.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    except NotRegularFileError as error:
        problem = f"must be a regular file, but it is {error.strerror}"
        raise ConfigError(str(path), "", problem) from None
    except OSError as error:
        raise ConfigError(str(path), "", f"must be a readable file: {error.strerror}") from None
    with file:
        for number in itertools.count(1):
            line = file.readline(LONGEST_ROW_BYTES)
            if len(line) == LONGEST_ROW_BYTES:
                problem = f"must be a JSON object of at most {LONGEST_ROW_BYTES / 2**20:g} MiB"
                raise ConfigError(str(path), f"line {number}", problem)
            if not line.endswith(b"\n"):
                return
            yield line


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object.

    Raises:
        ConfigError: If it cannot be read or holds anything else.
    """
    return json_object(read_text(path), str(path))


def json_text(body: Mapping[str, Any]) -> str:
    """Return the text of a JSON file that people read, too."""
    return json.dumps(body, indent=1) + "\n"


def cut_torn_tail(path: Path) -> None:
    """Cut a half-written last line, so that the next row begins on a line of its own.

    Raises:
        OSError: If it is no regular file, or cannot be written.
    """
    with suppress(FileNotFoundError), open_regular(path, follow_links=False) as file:
        end = whole = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _BLOCK_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            end = start + found + 1 if found >= 0 else start
            if found >= 0:
                break
        if end != whole:
            os.truncate(path, end)


def json_object(text: str | bytes, where: str, key: str = "") -> dict[str, Any]:
    """Parse one JSON object.

    Args:
        text: UTF-8 where it is bytes; what is not is replaced.
        where: Names the file in errors.
        key: Names the place in it.

    Raises:
        ConfigError: If it is no JSON, no object, too large, nested too deep, or holds NaN or an infinity.
    """
    decoded = text if isinstance(text, str) else text.decode(errors="replace")
    if sum(map(decoded.count, ",[{")) > _MAX_VALUES:  # no value without one of these before it
        raise ConfigError(where, key, f"must hold at most {_MAX_VALUES:,} values")
    try:
        value = json.loads(decoded, parse_constant=_refuse_constant)
    except _NotANumberError as error:
        raise ConfigError(where, key, f"must hold finite numbers, but got {error}") from None
    except (ValueError, RecursionError):  # also an integer of thousands of digits
        value = None
    if not isinstance(value, dict):
        raise ConfigError(where, key, "must be a JSON object")
    return value


class _NotANumberError(ValueError):
    """``NaN`` or ``Infinity``, which Python writes and reads but JSON does not know."""


def _refuse_constant(name: str) -> None:
    raise _NotANumberError(name)


# PyYAML reads about 1 MB a second; the class names of ImageNet-21k take 0.6 MB.
_MAX_YAML_BYTES = 4 * 2**20
# Signs that begin a value or end one; PyYAML reads about 60,000 values a second, so that the names of
# 203,000 classes, as many as Google Landmarks has, take 4 s.
_MAX_YAML_SIGNS = 350_000
_DEEPEST = 64


class _Loader(yaml.SafeLoader):
    """The safe loader for the scalars of YAML 1.2, without aliases, deep nests and keys given twice.

    YAML 1.1, as PyYAML reads it, takes ``12:30`` for 750 and ``on`` for true.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own attribute: those of 1.1, made empty)
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node; an alias would let a short text stand for a huge value."""
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        if self.depth >= _DEEPEST:
            problem = f"it is nested more than {_DEEPEST} levels deep"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping; a repeated key would silently drop what the user wrote first."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # the base class refuses it, with its place
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {brief(key)} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Build a number of YAML 1.2: no underscores, no sixties, octal only as ``0o17``."""
        text = self.construct_scalar(node)
        if node.tag.endswith(":int"):
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        return float(_SPECIAL_FLOATS.get(text.lower(), text))


_SPECIAL_FLOATS = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
_CORE_SCHEMA = {  # YAML 1.2.2, section 10.3.2; first characters, pattern
    "null": ("~nN", r"~|null|Null|NULL|"),
    "bool": ("tTfF", r"true|True|TRUE|false|False|FALSE"),
    "int": ("-+0123456789", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": (
        "-+.0123456789",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    ),
}


class _Dumper(yaml.SafeDumper):
    """The safe dumper with short lists and flat mappings on one line.

    It quotes what either version of YAML would take for something else than text.
    """


for _name, (_first, _pattern) in _CORE_SCHEMA.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), [*_first]
        )
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])
_Loader.yaml_constructors = {  # without those of YAML 1.1 alone: dates, sets, binary, …
    tag: construct
    for tag, construct in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "str", "seq", "map")
}
for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _Loader.construct_number)


def _represent_list(dumper: yaml.SafeDumper, values: list[Any]) -> yaml.Node:
    flat = all(not isinstance(value, list | dict) for value in values)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=flat)


_Dumper.add_representer(list, _represent_list)


def _check_amount(text: str, where: str) -> None:
    if sum(map(text.count, ",\n-:?[{")) > _MAX_YAML_SIGNS or len(text) > _MAX_YAML_BYTES:
        raise ConfigError(where, "", "must hold fewer values: it is too large to read in seconds")


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text safely; `where` names it in errors.

    Raises:
        ConfigError: If the text is not YAML or gives a key twice.
    """
    _check_amount(text, where)
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(where, place, f"must be valid YAML, but {problem}") from None
    except (KeyError, ValueError) as error:  # PyYAML's answer to impossible dates and to !!bool 5
        raise ConfigError(where, "", f"must be valid YAML, but {error}") from None


def read_yaml(path: Path) -> Any:
    """Read one YAML file.

    Raises:
        ConfigError: If it is missing, unreadable or not YAML.
    """
    return parse_yaml(read_text(path, _MAX_YAML_BYTES), str(path))


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a regular UTF-8 file.

    Raises:
        ConfigError: If it is missing, something else, too large or in another encoding.
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8")
    except NotRegularFileError as error:
        problem = f"must be a regular file, but it is {error.strerror}"
        raise ConfigError(str(path), "", problem) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(str(path), "", f"must be a readable file: {reason}") from None


def write_outputs(texts: Mapping[Path, str]) -> None:
    """Write files that the user has named, all of them or none.

    A link at such a place is replaced by the file, and not followed.

    Raises:
        ConfigError: If something else than a file is in a place.
        RunError: If one cannot be written.
    """
    try:
        write_all(texts)
    except NotRegularFileError as error:
        problem = f"must be a file, but it is {error.strerror}"
        raise ConfigError(str(error.filename), "", problem, hint="take another name") from None
    except OSError as error:
        paths = " and ".join(map(str, texts))
        raise RunError(f"{paths}: the file cannot be written: {error.strerror}") from None


def dump_yaml(value: Mapping[str, Any]) -> str:
    """Return `value` as YAML in the order given.

    Raises:
        ConfigError: If there is so much of it that it could not be read again, as with too many classes.
    """
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    _check_amount(text, "what is to be written as YAML")
    return str(text)


# Values that are checked where they are read.

Model = TypeVar("Model", bound=BaseModel)
_LONGEST_TEXT = 100_000
MAX_LETTERS = 4096
"""Of a :data:`Line`."""


class FileModel(BaseModel):
    """A frozen value that refuses unknown keys; the base of everything read from or written to a file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
        str_max_length=_LONGEST_TEXT,
    )


def is_line(text: str) -> bool:
    """Return whether a text is one line that a terminal may show as it is."""
    return is_printable(text) and "\n" not in text and "\t" not in text


def _line(text: str) -> str:
    if not is_line(text):
        raise ConfigError("", "", "must be a line without control characters", text)
    return text


Line = Annotated[str, Field(max_length=MAX_LETTERS), AfterValidator(_line)]
"""A line of text that a terminal may show, so that it cannot look like other lines of the program."""


def parse(model: type[Model], data: Any, where: str) -> Model:
    """Validate `data` as `model`.

    Raises:
        ConfigError: With the first problem, as *where: key: problem, but got value; hint*.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(where, "", "must be a mapping of keys to values", _brief(data))
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first_problem(error, model, where) from None


def _first_problem(error: ValidationError, model: type[BaseModel], where: str) -> ConfigError:
    """Return the one of pydantic's errors that says most, as a sentence."""
    best = min(error.errors(), key=_rank)
    key = _key_of(best["loc"])
    if best["type"] == "extra_forbidden":
        *parents, last = best["loc"]
        unknown, known = str(last), _fields_at(model, tuple(parents))
        key = ".".join(part for part in (_key_of(parents), unknown) if part)
        new = NEW_KEYS.get(unknown)
        hint = _since(unknown, new) if new in known else suggest(unknown, known)
        return ConfigError(where, key, "unknown key", unknown, hint)
    if best["type"] in ("value_error", "assertion_error"):
        cause = best.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):  # of a validator of ours: it knows the rest of the place
            key = ".".join(part for part in (key, cause.key) if part)
            return ConfigError(where, key, cause.problem, cause.value, cause.hint)
        return ConfigError(where, key, str(cause))
    if best["type"] == "missing":
        return ConfigError(where, key, "must be given", hint="add this key")
    problem = best["msg"][0].lower() + best["msg"][1:]
    problem = _PROBLEMS.get(best["type"], re.sub(r"^\w+ should (be|have)", r"must \1", problem))
    word = best["input"] if isinstance(best["input"], str) else ""
    new = NEW_VALUES.get(word) if best["type"] == "literal_error" else None
    hint = _since(word, new) if new is not None and f"'{new}'" in problem else ""
    return ConfigError(where, key, problem, _brief(best["input"]), hint)


def _since(old: str, new: str) -> str:
    return f"`{old}` is called `{new}` since schema {SCHEMA}"


def _rank(problem: ErrorDetails) -> int:
    """Return the order of problems: unknown keys cause others, so they come first."""
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        return 0
    scalar = problem["type"].endswith("_type") or problem["type"] == "literal_error"
    # Of a union pydantic reports each member: that a mapping is no number says nothing of what is wrong.
    tried_as_scalar = scalar and isinstance(problem["input"], Mapping | list)
    return 2 if tried_as_scalar else 1


_PROBLEMS = {
    "too_short": "must have at least one entry",
    "tuple_type": "must be a list",
    "string_too_long": f"must be at most {_LONGEST_TEXT:,} characters long",
    "model_type": "must be a mapping of keys to values",
    "invalid_key": "keys must be words",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
}


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Return the keys known at `location`, found by the names of the models on the way."""
    current: type[BaseModel] = model
    for part in location:
        field = current.model_fields.get(str(part)) if isinstance(part, str) else None
        if field is not None:
            current = next(iter(_models_in(field.annotation)), current)
            continue
        # Pydantic puts the name of the member of a union that it tried, such as Ramp, into the place.
        fields = current.model_fields.values()
        members = (model for field in fields for model in _models_in(field.annotation))
        current = next((model for model in members if model.__name__ == part), current)
    return {field.alias or name for name, field in current.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    arguments = getattr(annotation, "__args__", ())
    return [model for argument in arguments for model in _models_in(argument)]


def _key_of(location: Iterable[int | str]) -> str:
    """Return ``stages[2].img_size`` for a location; names of union members are left out."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not (part[:1].isupper() or part in _SCALAR_MEMBERS or "[" in part):
            text += f".{part}" if text else part
    return text


# Pydantic puts the member of a union that it tried into the place of an error.
_SCALAR_MEMBERS = {"int", "float", "str", "bool", "none"}


def _brief(value: Any) -> Any:
    """Return a value short enough for one line."""
    text = brief(value)
    return value if len(text) <= 60 else text[:57] + "..."
