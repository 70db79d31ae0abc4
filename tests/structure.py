"""Measure how readable the source tree is, and check the reading paths of the contributor's guide.

    python tests/structure.py [FOLDER ...] [--json] [--path A|B|C|D] [--list-once-used] [--root DIR]

Folders, such as `autoprog/ui`, are measured alone: what imports or uses them from outside is not seen then.

What the figures mean:

* **module**: a `.py` file of the packages that holds code: an `__init__.py` of a docstring alone is none.
* **code line**: a line that holds code; blank lines, lines of nothing but a comment and docstrings are
  none. *Lines a file* counts every line of it.
* **body lines**: the code lines of a function below its signature and docstring, those of functions
  defined inside it included. Every `def` counts once, also methods and functions inside functions.
* **comment line**: a line that holds a `#` comment, alone or behind code. Notes for a tool (`# noqa`,
  `# type:`, `# fmt:`, `# ruff:`, `# mypy:`, `# pragma`) do not count.
* **import**: an edge between two modules of the packages, from an `import` at module level or inside a
  function. Imports under `if TYPE_CHECKING:` count where it is said; modules named by a string never.
  `from package import name` leads to the module `package.name` where there is one, else to `package`.
  That importing `a.b` runs `a/__init__.py` is no edge.
* **circle**: two or more modules that import each other, directly or through others (a strongly connected
  component). Three figures: by the imports at module level, with those inside functions, and with those
  under `if TYPE_CHECKING:` as well, which are what a reader follows.
* **longest import chain**: the most modules on one path along the imports, those for type checkers left
  out. A circle is one step of a path, and counts as all its modules: they have to be read together. Two
  figures: with the imports inside functions, and without.
* **private function**: a function of a module or a method whose name begins with one underscore.
* **use** of a private function: its name where it is read, outside its own body. For a function of a
  module: in that module, in those that import it, or as `module.name`. For a method: `self.name`,
  `cls.name` or `super().name` in its class or a relative of it (by the names of the bases), and
  `other.name` in its module. *Used once* has exactly one use; tests do not count. The fraction is of all
  functions, private or not: half of Optuna's private functions have one use, but they are few (15 %).
* p90 is the smallest value that at least 90 % of the values do not exceed.

A reading path is a numbered list in `docs/contributing.md`, under a heading that holds "Path A":

    ### Path A: from `train` to the optimizer step at a growth
    1. `autoprog/commands/train.py`: `run`, `Options.settings`. What else the line says is not read.

A row names a file, then the functions to read in it, as `function`, `Class`, `Class.method` or
`function.inner`. Files and functions count once a path, however often they are named. The script says
which names are gone, and which functions no other function of the path calls by name.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import math
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("autoprog", "supernet", "search_spaces")
GUIDE = Path("docs/contributing.md")
# Files and functions to open, at most.
PATH_GOALS = {"A": (14, 40), "B": (16, 50), "C": (12, 30), "D": (6, 20)}

_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
_FOR_A_TOOL = re.compile(r"#+\s*(noqa|type:|fmt:|ruff:|mypy:|pragma)")
_SPAN = r"`([^`]+)`"
_ROW = re.compile(rf"\s*\d+\.\s+{_SPAN}(?::\s*({_SPAN}(?:(?:,\s*|\s+and\s+|,\s+and\s+){_SPAN})*))?")

Function = ast.FunctionDef | ast.AsyncFunctionDef
Node = TypeVar("Node")


# --- source files


@dataclass(frozen=True)
class Source:
    """One Python file: the name of its module, its path, text and syntax tree."""

    module: str
    path: Path
    text: str
    tree: ast.Module

    @cached_property
    def code_lines(self) -> set[int]:
        """The numbers of the lines that hold code."""
        found: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in _LAYOUT:
                found.update(range(token.start[0], token.end[0] + 1))
        lines = self.text.splitlines()
        blank = {number for number, line in enumerate(lines, start=1) if not line.strip()}
        return found - blank - self._docstring_lines

    @cached_property
    def comment_lines(self) -> set[int]:
        return {
            token.start[0]
            for token in tokenize.generate_tokens(io.StringIO(self.text).readline)
            if token.type == tokenize.COMMENT and not _FOR_A_TOOL.match(token.string)
        }

    @property
    def _docstring_lines(self) -> set[int]:
        return {
            number
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Module | ast.ClassDef | Function) and _has_docstring(node)
            for number in _span(node.body[0])
        }

    def body_lines(self) -> list[int]:
        """The number of code lines in the body of every function."""
        return [
            len(self.code_lines.intersection(range(node.body[0].lineno, _end(node) + 1)))
            for node in ast.walk(self.tree)
            if isinstance(node, Function)
        ]


def sources(root: Path, packages: Sequence[str] = PACKAGES) -> list[Source]:
    """Read the packages below `root`."""
    found = []
    for path in (path for package in packages for path in sorted((root / package).rglob("*.py"))):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        found.append(Source(name, path, text, ast.parse(text)))
    return found


def _has_docstring(node: ast.Module | ast.ClassDef | Function) -> bool:
    first = node.body[0] if node.body else None
    return (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )


def _end(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


def _span(node: ast.stmt) -> range:
    return range(node.lineno, _end(node) + 1)


# --- imports


def import_graph(
    tree: Iterable[Source], *, inside_functions: bool = True, type_checking: bool = False
) -> dict[str, set[str]]:
    """Return which own modules each module imports."""
    tree = list(tree)
    own = {source.module for source in tree}
    graph: dict[str, set[str]] = {}
    for source in tree:
        imported = set()
        for node in _statements(source.tree, inside_functions, type_checking):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = absolute(source, node)
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    imported.add(full if full in own else base)
        graph[source.module] = (imported & own) - {source.module}
    return graph


def _statements(node: ast.AST, inside_functions: bool, type_checking: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function) and not inside_functions:
            continue
        yield child
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            kept = [*child.body, *child.orelse] if type_checking else child.orelse
            child = ast.Module(body=kept, type_ignores=[])
        yield from _statements(child, inside_functions, type_checking)


def absolute(source: Source, node: ast.ImportFrom) -> str:
    """Return the full name of the module in `from … import`, where it may be relative."""
    if not node.level:
        return node.module or ""
    package = source.module.split(".")
    if source.path.name != "__init__.py":
        package = package[:-1]
    base = package[: len(package) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components, those that import nothing else first (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            found.append(sorted(stack[cut:]))
            del stack[cut:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    return sorted(group for group in components(graph) if len(group) > 1)


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules on the longest path, the one that imports the rest first."""
    best: dict[str, list[str]] = {}  # by module: the longest path that begins with its component
    for group in components(graph):  # what a component imports comes before it
        below = {other for node in group for other in graph[node]}.difference(group)
        tail = max((best[other] for other in sorted(below)), key=len, default=[])
        best.update({node: [*group, *tail] for node in group})
    return max(best.values(), key=len, default=[])


# --- private functions


@dataclass(frozen=True)
class Private:
    """A private function or method, and how often the tree uses it."""

    path: Path
    line: int
    name: str
    uses: int


@dataclass(frozen=True)
class _Read:
    """A place where a name is read: `name` alone, or `holder.name`."""

    module: str
    name: str  # in full where it was imported: `package.module.name`
    holder: str | None  # as written; in full where it was imported
    classes: tuple[str, ...]  # around the place, the innermost last
    functions: tuple[int, ...]  # the lines of the functions around the place


def private_functions(tree: Iterable[Source]) -> list[Private]:
    """Return the private functions of the modules and their classes, with the number of their uses."""
    tree = list(tree)
    relatives = _relatives(tree)
    # By the name that a private function has where it is defined: an import may have renamed it.
    reads: dict[str, list[_Read]] = defaultdict(list)
    for source in tree:
        imported = _imported_names(source)
        for read in _reads(source.tree, source.module, imported):
            reads[read.name.rpartition(".")[2]].append(read)
    found = []
    for source in tree:
        for class_name, node in _private_definitions(source.tree):
            near = reads[node.name]
            if class_name is None:
                uses = sum(_is_use_of_function(read, node, source.module) for read in near)
                name = node.name
            else:
                family = relatives[class_name]
                uses = sum(_is_use_of_method(read, node, source.module, family) for read in near)
                name = f"{class_name}.{node.name}"
            found.append(Private(source.path, node.lineno, name, uses))
    return found


def _private_definitions(tree: ast.Module) -> Iterator[tuple[str | None, Function]]:
    seen = set()
    classes = [
        (None, tree),
        *((node.name, node) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)),
    ]
    for class_name, holder in classes:
        for node in _unconditional(holder.body):
            if isinstance(node, Function) and re.match("_(?!_)", node.name):
                if (class_name, node.name) not in seen:  # overloads, and setters of a property
                    yield class_name, node
                seen.add((class_name, node.name))


def _unconditional(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _unconditional(node.body)
            yield from _unconditional(node.orelse)


def _reads(
    node: ast.AST,
    module: str,
    imported: dict[str, str],
    classes: tuple[str, ...] = (),
    functions: tuple[int, ...] = (),
) -> Iterator[_Read]:
    for child in ast.iter_child_nodes(node):
        inner_classes, inner_functions = classes, functions
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
            yield _Read(module, imported.get(child.id, child.id), None, classes, functions)
        elif isinstance(child, ast.Attribute) and isinstance(child.ctx, ast.Load):
            holder = ast.unparse(child.value)
            holder = imported.get(holder, holder)
            yield _Read(module, child.attr, holder, classes, functions)
        elif isinstance(child, ast.ClassDef):
            inner_classes = (*classes, child.name)
        elif isinstance(child, Function):
            inner_functions = (*functions, child.lineno)
        yield from _reads(child, module, imported, inner_classes, inner_functions)


def _imported_names(source: Source) -> dict[str, str]:
    """Return what the names that a file imports stand for: `module` or `module.name`."""
    found = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found.update({alias.asname or alias.name: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom):
            base = absolute(source, node)
            found.update(
                {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
            )
    return found


def _is_use_of_function(read: _Read, node: Function, home: str) -> bool:
    if read.module == home and node.lineno in read.functions:
        return False  # a function that calls itself
    if read.holder is not None:
        return read.holder == home
    return read.name == (node.name if read.module == home else f"{home}.{node.name}")


def _is_use_of_method(read: _Read, node: Function, home: str, family: set[str]) -> bool:
    if read.module == home and node.lineno in read.functions:
        return False
    if read.holder is None:  # in the body of the class itself, such as the default of a field
        return read.module == home and bool(read.classes) and not read.functions
    if read.holder in ("self", "cls", "super()"):
        return bool(family.intersection(read.classes))
    return read.module == home


def _relatives(tree: Iterable[Source]) -> dict[str, set[str]]:
    """Return for each class its ancestors, its descendants and itself, by their names."""
    bases: dict[str, set[str]] = defaultdict(set)
    for source in tree:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] |= {_last_name(base) for base in node.bases}
    ancestors = {name: _closure(name, bases) for name in list(bases)}
    return {
        name: ancestors[name] | {other for other in ancestors if name in ancestors[other]}
        for name in ancestors
    }


def _last_name(base: ast.expr) -> str:
    return ast.unparse(base.value if isinstance(base, ast.Subscript) else base).rpartition(".")[2]


def _closure(name: str, bases: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        if (now := waiting.pop()) not in found:
            found.add(now)
            waiting.extend(bases.get(now, ()))
    return found


# --- reading paths


@dataclass(frozen=True)
class ReadingPath:
    """What a reader opens to follow one path, and what of it is gone or not connected."""

    files: tuple[str, ...]
    functions: tuple[str, ...]
    missing: tuple[str, ...]
    not_called: tuple[str, ...]


def rows_of_path(guide: str, letter: str) -> list[tuple[str, list[str]]]:
    """Return the files and functions in the list below the heading of a path."""
    rows: list[tuple[str, list[str]]] = []
    depth = 0  # of the heading whose section is read
    for line in _joined(guide):
        if heading := re.match(r"(#+)\s+(.*)", line):
            if re.search(rf"\bPath \(?{letter}\b", heading[2], re.IGNORECASE):
                depth = len(heading[1])
            elif len(heading[1]) <= depth:
                depth = 0
        elif depth and (row := _ROW.match(line)):
            rows.append((row[1], re.findall(_SPAN, row[2] or "")))
    return rows


def _joined(text: str) -> list[str]:
    """Return the lines of a Markdown text, each row of a list as one line."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and re.match(r"\s*\d+\.\s", lines[-1]) and re.match(r"\s+(?!\d+\.\s)\S", line):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines


def reading_path(root: Path, letter: str) -> ReadingPath:
    """Check a path of the guide against the files below `root`."""
    rows = rows_of_path((root / GUIDE).read_text(encoding="utf-8"), letter)
    missing: list[str] = []
    found: dict[str, ast.AST | None] = {}
    for file, names in rows:
        if not (root / file).is_file():
            missing.append(file)
            continue
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        for name in names:
            label = f"{file}: {name}"
            found[label] = _definition(tree, name)
            if found[label] is None:
                missing.append(label)
    called = [
        label
        for label in list(found)[1:]
        if not any(
            _mentions(node, label.rpartition(": ")[2])
            for other, node in found.items()
            if other != label and node is not None
        )
    ]
    files = tuple(dict.fromkeys(file for file, _ in rows))
    return ReadingPath(files, tuple(found), tuple(dict.fromkeys(missing)), tuple(called))


def _definition(tree: ast.AST, dotted: str) -> ast.AST | None:
    node: ast.AST = tree
    for part in dotted.removesuffix("()").split("."):
        inner = [
            child
            for child in ast.walk(node)
            if isinstance(child, Function | ast.ClassDef)
            and child.name == part
            and child is not node
        ]
        if not inner:
            return None
        node = inner[0]
    return node


def _mentions(node: ast.AST, dotted: str) -> bool:
    *holders, name = dotted.removesuffix("()").split(".")
    if holders and name.startswith("__"):
        name = holders[-1]  # a constructor is called by the name of its class
    return any(
        (isinstance(child, ast.Name) and child.id == name)
        or (isinstance(child, ast.Attribute) and child.attr == name)
        for child in ast.walk(node)
    )


# --- report


@dataclass(frozen=True)
class Figures:
    """Everything that is measured of a tree but its reading paths."""

    modules: int
    code_lines: int
    file_lines: tuple[float, int]  # median and p90
    body_lines: tuple[float, int, int]  # median, p90 and maximum
    comments: int
    chain: list[str]
    chain_at_module_level: list[str]
    circles: list[list[str]]  # with the imports inside functions
    circles_at_module_level: list[list[str]]
    circles_with_types: list[list[str]]  # with the imports for type checkers as well
    functions: int
    private: list[Private]

    @property
    def comments_per_100(self) -> float:
        return 100 * self.comments / max(1, self.code_lines)

    @property
    def once_used(self) -> list[Private]:
        return [function for function in self.private if function.uses == 1]

    @property
    def once_used_percent(self) -> float:
        return 100 * len(self.once_used) / max(1, self.functions)


def measure(root: Path, packages: Sequence[str] = PACKAGES) -> Figures:
    """Measure the packages below `root`."""
    tree = sources(root, packages)
    files = [len(source.text.splitlines()) for source in tree if source.code_lines]
    bodies = [lines for source in tree for lines in source.body_lines()]
    graph = import_graph(tree)
    at_module_level = import_graph(tree, inside_functions=False)
    return Figures(
        modules=sum(bool(source.code_lines) for source in tree),
        code_lines=sum(len(source.code_lines) for source in tree),
        file_lines=(median(files or [0]), p90(files)),
        body_lines=(median(bodies or [0]), p90(bodies), max(bodies, default=0)),
        comments=sum(len(source.comment_lines) for source in tree),
        chain=longest_chain(graph),
        chain_at_module_level=longest_chain(at_module_level),
        circles=circles(graph),
        circles_at_module_level=circles(at_module_level),
        circles_with_types=circles(import_graph(tree, type_checking=True)),
        functions=len(bodies),
        private=private_functions(tree),
    )


def p90(values: Sequence[int]) -> int:
    return sorted(values)[math.ceil(0.9 * len(values)) - 1] if values else 0


def as_json(figures: Figures) -> dict[str, object]:
    return {
        "modules": figures.modules,
        "code_lines": figures.code_lines,
        "file_lines": dict(zip(("median", "p90"), figures.file_lines, strict=True)),
        "body_lines": dict(zip(("median", "p90", "max"), figures.body_lines, strict=True)),
        "comments_per_100_code_lines": round(figures.comments_per_100, 2),
        "longest_import_chain": figures.chain,
        "longest_import_chain_at_module_level": figures.chain_at_module_level,
        "import_circles": figures.circles,
        "import_circles_at_module_level": figures.circles_at_module_level,
        "import_circles_with_types": figures.circles_with_types,
        "functions": figures.functions,
        "private_functions": len(figures.private),
        "private_functions_used_once": len(figures.once_used),
        "once_used_percent": round(figures.once_used_percent, 1),
    }


def as_text(figures: Figures) -> str:
    body = figures.body_lines
    rows = [
        ("modules", f"{figures.modules}"),
        ("code lines", f"{figures.code_lines:,}"),
        ("lines a file", f"median {figures.file_lines[0]:g}, p90 {figures.file_lines[1]}"),
        ("body lines a function", f"median {body[0]:g}, p90 {body[1]}, max {body[2]}"),
        ("comments per 100 code lines", f"{figures.comments_per_100:.1f}"),
        ("longest import chain", f"{len(figures.chain)} modules: {' > '.join(figures.chain)}"),
        ("  at module level", f"{len(figures.chain_at_module_level)} modules"),
        *_circle_rows("import circles", figures.circles),
        *_circle_rows("  at module level", figures.circles_at_module_level),
        *_circle_rows("  with imports for types", figures.circles_with_types),
        (
            "private functions used once",
            f"{figures.once_used_percent:.1f} % of all functions"
            f" ({len(figures.once_used)} of {len(figures.private)} private, {figures.functions} in all)",
        ),
    ]
    return "\n".join(f"{label:32}{value}" for label, value in rows)


def _circle_rows(label: str, found: list[list[str]]) -> list[tuple[str, str]]:
    return [(label, f"{len(found)}"), *(("", ", ".join(circle)) for circle in found)]


def _path_text(letter: str, path: ReadingPath) -> str:
    files, functions = PATH_GOALS[letter]
    lines = [
        f"path {letter}: {len(path.files)} files (goal {files}),"
        f" {len(path.functions)} functions (goal {functions})",
        *(f"  gone: {name}" for name in path.missing),
        *(f"  not called by name on the path: {name}" for name in path.not_called),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "folders", nargs="*", default=PACKAGES, metavar="FOLDER", help="these alone"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--path", choices=PATH_GOALS, help="check one reading path of the guide")
    parser.add_argument("--list-once-used", action="store_true", help="name those functions")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of the packages")
    args = parser.parse_args(arguments)
    if args.path:
        if not (args.root / GUIDE).is_file():
            parser.error(f"there is no {args.root / GUIDE}")
        path = reading_path(args.root, args.path)
        print(json.dumps(vars(path), indent=2) if args.json else _path_text(args.path, path))
        return 1 if path.missing or not path.files else 0
    figures = measure(args.root, args.folders)
    if args.list_once_used:
        once = [f"{f.path.relative_to(args.root)}:{f.line}: {f.name}" for f in figures.once_used]
        print(json.dumps(once, indent=2) if args.json else "\n".join(once))
    else:
        print(json.dumps(as_json(figures), indent=2) if args.json else as_text(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
