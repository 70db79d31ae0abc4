"""Write what the documentation takes from the program itself: ``python docs/generate.py [--check]``.

A page may hold ``<!-- generated: NAME -->`` and ``<!-- /generated -->``; what lies between is replaced by the
table or text of that name. ``command-line.md`` is made from the parser as a whole, below its marker. With
``--check`` nothing is written, and stale pages are an error; ``tests/test_docs.py`` does the same.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

_MARKED = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def pages() -> dict[Path, str]:
    """Return the text that each page with generated parts should have."""
    fresh = {}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        new = _MARKED.sub(
            lambda match: f"{match[1]}\n{GENERATORS[match[2]]().strip()}\n\n{match[3]}", text
        )
        if new != text or _MARKED.search(text):
            fresh[path] = new
    return fresh


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, [":--"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def presets() -> str:
    """Return the table of the presets, from their docstrings."""
    from autoprog.presets import PRESETS, summary_of

    rows = [[f"`{name}`", _prose(summary_of(name))] for name in PRESETS]
    return _table(["preset", "what it is"], rows)


def recipes() -> str:
    """Return the table of the recipes' values, from the fields of a recipe."""
    from autoprog.recipe import RECIPES, Recipe

    def shown(value: object) -> str:
        if isinstance(value, tuple):
            return " ".join(f"{one:.3g}" for one in value)
        return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    rows = []
    for key, field in Recipe.model_fields.items():
        values = [shown(getattr(recipe, key)) for recipe in RECIPES.values()]
        same = values[:1] + ["" if value == values[0] else value for value in values[1:]]
        rows.append([f"`{key}`", _prose(field.description or ""), *same])
    head = ["key", "meaning", *(f"`{name}`" for name in RECIPES)]
    first = next(iter(RECIPES))
    return f"An empty cell is the value of `{first}`.\n\n" + _table(head, rows)


def models() -> str:
    """Return the table of the models that have a short name."""
    from supernet.cost import macs, parameters
    from supernet.zoo import ZOO

    rows = []
    for name, spec in ZOO.items():
        overrides = ", ".join(f"{key} {value}" for key, value in spec.overrides)
        made_from = f"`{spec.timm}`" + (f" with {overrides.replace('_', ' ')}" if overrides else "")
        depth = "+".join(map(str, spec.depth))
        cost = [
            _engineering(number) for number in (parameters(spec, spec.depth), macs(spec, spec.full))
        ]
        rows.append([f"`{name}`", made_from, depth, str(spec.img_size), *cost])
    return _table(["model", "in timm", "depth", "px", "parameters", "MACs"], rows)


def _engineering(number: float) -> str:
    for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:g}"


def decisions() -> str:
    """Return the table of the keys of ``decisions:`` in a search space, from its JSON Schema."""
    from autoprog.starter_files import schema_of

    properties = schema_of("space")["$defs"]["Decisions"]["properties"]
    rows = []
    for key, field in properties.items():
        default = field.get("default")
        shown = "" if isinstance(default, dict) or default is None else f"`{default}`"
        rows.append([f"`{key}`", shown, _prose(field.get("description", "how blocks are added"))])
    return _table(["key", "default", "meaning"], rows)


def commands() -> str:
    """Return all commands with their arguments, from the parser."""
    from autoprog.cli import build_parser

    lines, shared = [], {}
    for name, parser in _leaves(build_parser(None, all_flags=True)):
        lines += [f"## {name}\n", f"{_prose(parser.description or '')}\n"]
        for group in parser._action_groups:
            rows = [_argument(parser, action) for action in group._group_actions]
            rows = [row for row in rows if row and not row.startswith(("- `--help`", "- `-h`"))]
            if not rows or _is_plain_options(group, rows):
                continue
            title = _prose(group.title or "").capitalize()
            body = "\n".join(rows)
            if body in shared and len(rows) > 2:
                lines.append(
                    f"**{title}**: as for [{shared[body]}](#{shared[body].replace(' ', '-')}).\n"
                )
                continue
            shared.setdefault(body, name)
            about = f": {_prose(group.description)}" if group.description else ""
            lines += [f"**{title}**{about}\n", body + "\n"]
        examples = [line.strip() for line in (parser.epilog or "").splitlines()]
        examples = [line for line in examples if line.startswith("autoprog ")]
        if examples:
            lines += ["```", *examples, "```\n"]
    return "\n".join(lines)


def _leaves(
    parser: argparse.ArgumentParser, path: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command that has no commands of its own, with its words."""
    inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not inner:
        yield path, parser
    for action in inner:
        for name, one in action.choices.items():
            yield from _leaves(one, f"{path} {name}".strip())


def _is_plain_options(group: Any, rows: list[str]) -> bool:
    """Return whether a group holds ``--debug`` alone, which every command has."""
    return len(rows) == 1 and "--debug" in rows[0]


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return one argument as an item of a list."""
    if action.help == argparse.SUPPRESS:
        return ""
    formatter = argparse.HelpFormatter(prog=parser.prog)
    value = "" if action.nargs == 0 else formatter._format_args(action, _metavar(action))
    flags = ", ".join(f"`{flag} {value}`".replace(" `", "`") for flag in action.option_strings)
    text = formatter._expand_help(action) if action.help else ""
    return f"- {flags or f'`{value}`'}: {_prose(text)}"


def _metavar(action: argparse.Action) -> str:
    if action.metavar is None and action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


def renamed() -> str:
    """Return the commands, flags, keys and values of schema 1 with their names of today."""
    from autoprog import cli, migration

    def shown(text: str) -> str:
        # Of `a|b|c` the first in code, since a | would end the cell of a table.
        first = re.sub(r"(\w+)(?:\|\w+)+", r"\1", text)
        others = [one for group in re.findall(r"\w+((?:\|\w+)+)", text) for one in group.split("|")]
        return f"`{first}`" + "".join(f", `{one}`" for one in others if one)

    commands = {
        **{f"autoprog {old}": f"autoprog {new}" for old, new in cli.RENAMED_COMMANDS.items()},
        **{f"autoprog {' '.join(old)}": new for old, new in cli._MOVED_FLAGS.items()},
    }
    places: dict[str, Mapping[str, str]] = {
        "a recipe": migration._RECIPE,
        "`grow`": migration._GROWTH,
        "`axes` of a space": {**migration._AXES, "shares": "fractions"},
        "`decisions` of a space": migration._DECISIONS,
        "`data` in `run.yaml`": {"share": "fraction"},
        "`search` in `run.yaml`": {"time_share": "cost_fraction"},
        "`result.json`": migration._EVALUATION,
        "`decisions.jsonl`": migration._DECISION,
        "`inputs.jsonl`": {**migration._INPUTS, **migration._REACHED},
        "`fidelity.json`": migration._FIDELITY,
        "`costs.json`": {"cells": "step_costs"},
        "`bench.json`": {"entrants": "schedules"},
    }
    known = {old for names in places.values() for old in names}
    assert known == migration.NEW_KEYS.keys() - migration.FLAGS.keys(), "a key has no place here"
    values: dict[str, Mapping[str, str]] = {
        "`grow.init`, `axes.init`": migration._INITS,
        "`grow.old_blocks`": migration._OLD_BLOCKS,
        "`grow.optimizer_state`": migration._OPTIMIZER_STATES,
        "`length_unit`": migration._LENGTH_UNITS,
        "`kind` of an event": migration._KINDS,
    }

    def table(names: Mapping[str, str]) -> str:
        rows = [[shown(old), shown(new)] for old, new in names.items()]
        return _table(["before", "now"], rows)

    def table_by_place(head: str, names_in: Mapping[str, Mapping[str, str]]) -> str:
        rows = [
            [place, shown(old), shown(new)]
            for place, names in names_in.items()
            for old, new in names.items()
        ]
        return _table([head, "before", "now"], rows)

    return "\n".join(
        (
            f"### Commands\n\n{table(commands)}",
            f"### Flags\n\n{table(cli.RENAMED_FLAGS)}",
            f"### Keys of files\n\n{table_by_place('in', places)}",
            f"### Values of keys\n\n{table_by_place('of', values)}",
        )
    )


def api() -> str:
    """Return the public names of ``autoprog`` with their docstrings."""
    import autoprog

    return _reference(autoprog, autoprog.__all__)


def supernet() -> str:
    """Return what of ``supernet`` a training loop needs, with its docstrings."""
    import supernet as package
    from supernet.grow import grow

    names = [
        "describe",
        "lookup",
        "create_elastic",
        "ModelSpec",
        "SubnetConfig",
        "TokenRule",
        "GrowthRule",
        "compact",
        "plain_state_dict",
        "export_subnet",
        "static_model",
        "macs",
        "parameters",
        "relative_cost",
    ]
    before, after = names[:7], names[7:]
    own = _entry("supernet.grow.grow", grow)
    return _reference(package, before) + own + _reference(package, after)


def _reference(package: Any, names: list[str]) -> str:
    return "".join(_entry(f"{package.__name__}.{name}", getattr(package, name)) for name in names)


def _entry(name: str, thing: Any) -> str:
    """Return the section of one function or class."""
    short = name.rpartition(".")[2]
    is_model = inspect.isclass(thing) and hasattr(thing, "model_fields")
    signature = "" if is_model else _signature(short, thing)
    parts = [f"### {name}\n", signature, _docstring(thing)]
    if inspect.isclass(thing):
        parts += _members(thing)
    return "\n".join(part for part in parts if part) + "\n"


def _signature(name: str, thing: Any) -> str:
    text = str(inspect.signature(thing)).replace("'", "").replace(" -> None", "")
    if len(f"{name}{text}") > 96:
        parameters = inspect.signature(thing).parameters.values()
        inside = ",\n    ".join(str(one).replace("'", "") for one in parameters)
        returned = text[text.rindex(")") + 1 :]
        text = f"(\n    {inside},\n){returned}"
    return f"```text\n{name}{text}\n```\n"


def _members(thing: Any) -> list[str]:
    """Return the methods and properties that a class itself defines, each with its first line."""
    rows = []
    for key, member in vars(thing).items():
        function = (
            member.fget
            if isinstance(member, property)
            else inspect.unwrap(
                member.__func__ if isinstance(member, classmethod | staticmethod) else member
            )
        )
        if key.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        call = "" if isinstance(member, property) else "()"
        rows.append(f"- `{key}{call}`: {_prose(function.__doc__.splitlines()[0])}")
    return ["Methods and properties:\n", "\n".join(rows) + "\n"] if rows else []


_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):$", re.MULTILINE)
_ITEM = re.compile(r"^ {4}(\*{0,2}[\w, *]+): ", re.MULTILINE)
_TITLES = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Raises": "Raises",
    "Returns": "Returns",
}


def _docstring(thing: Any) -> str:
    """Return a docstring in the style of Google as Markdown."""
    text = inspect.cleandoc(thing.__doc__ or "")
    head, *rest = _SECTION.split(text)
    lines = [_prose(head.strip()) + "\n"]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        items = _ITEM.split(body)
        lines.append(f"{_TITLES[title]}:\n")
        if len(items) == 1:
            lines.append(_prose(" ".join(items[0].split())) + "\n")
            continue
        for name, meaning in zip(items[1::2], items[2::2], strict=True):
            first = meaning.split("\n\n")[0]
            lines.append(f"- `{name}`: {_prose(' '.join(first.split()))}")
        lines[-1] += "\n"
    return "\n".join(lines)


_ROLE = re.compile(r":\w+:`~?(?:[\w.]*\.)?(\w+)`")
# A flag, with the choice that follows it in sentences such as "for --rule rollout".
_FLAG = re.compile(
    r"(?<![\w`'/-])(--[a-z][\w-]*(?: (?:rollout|autoprog|budget|hf|tensorboard|wandb)\b)?)(?![\w-]*`)"
)


def _prose(text: str) -> str:
    """Return a text of the program as Markdown that shows it as it is."""
    text = _ROLE.sub(r"`\1`", text.replace("``", "`"))
    pieces = re.split(r"(`[^`]*`)", text)
    for index in range(0, len(pieces), 2):  # outside code
        plain = pieces[index].replace("<", "&lt;").replace("*", "\\*").replace("|", "\\|")
        pieces[index] = _FLAG.sub(r"`\1`", plain)
    return "".join(pieces)


def modules() -> str:
    """Return what each module is for: the first line of its docstring, a table for each package."""
    lines, root = [], DOCS.parent
    for package in ("supernet", "autoprog"):
        for folder in sorted({path.parent for path in (root / package).rglob("*.py")}):
            rows = []
            for path in sorted(folder.glob("*.py")):
                about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
                if path.stem != "__init__":
                    rows.append([f"`{path.name}`", _prose(about.partition("\n")[0])])
            name = folder.relative_to(root).as_posix()
            lines += [f"### {name}\n", _table(["module", "what it is about"], rows)]
    return "\n".join(lines)


GENERATORS: dict[str, Callable[[], str]] = {
    "api": api,
    "commands": commands,
    "decisions": decisions,
    "models": models,
    "modules": modules,
    "presets": presets,
    "recipes": recipes,
    "renamed": renamed,
    "supernet": supernet,
}


def main() -> int:
    """Write or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a stale page")
    check = parser.parse_args().check
    stale = []
    for path, text in pages().items():
        if path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not check:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{path.name}: {'stale' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
