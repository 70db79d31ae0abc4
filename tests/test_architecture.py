"""Policies of the code base, each as a test that names the file and line that breaks it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, resources
from pathlib import Path

import pytest

from tests.structure import absolute

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("autoprog", "supernet", "search_spaces")
CORE = (
    "errors",
    "space",
    "schedule",
    "stage",
    "presets",
    "recipe",
    "events",
    "runs",
    "runfiles",
    "openfiles",
    "files",
    "data.cache_folder",
    "outside",
    "steptable",
    "settings",
    "starters",
    "decisions",
    "paired_timing",
    "costs",
    "costs.table",
    "processes",
    "eventlog",
    "locate",
    "migration",
    "options",
    "supervise",
    "pareto",
    "budget_record",
    "fidelity_report",
    "search.encoding",
    "environment",
    "bounds",
    "subnets",
    "accuracy",
    "evaluation_grid",
    "libwarnings",
)
TORCH_FREE_SUPERNET = (
    "supernet.config",
    "supernet.zoo",
    "supernet.cost",
    "supernet.depthmap",
    "supernet.cost",
)
HEAVY = ("torch", "torchvision", "timm", "optuna", "rich", "textual", "sklearn", "scipy")
THE_ONE_IMPORTER = {
    "yaml": "autoprog.files",
    "optuna": "autoprog.search.controller",
    "shtab": "autoprog.commands.completion",
    "torch.utils.tensorboard": "autoprog.loggers.tensorboard",
    "wandb": "autoprog.loggers.wandb",
    "textual": "autoprog.ui.inspect",
}
UPWARDS = {
    "supernet": ("autoprog", "search_spaces"),
    "autoprog.train": ("autoprog.search", "autoprog.bench", "autoprog.ui", "autoprog.cli"),
    "autoprog.search": ("autoprog.bench", "autoprog.ui", "autoprog.cli"),
    "autoprog.ui": ("autoprog.train", "autoprog.search", "autoprog.bench", "autoprog.cli"),
    "autoprog.loggers": (
        "autoprog.train",
        "autoprog.search",
        "autoprog.bench",
        "autoprog.ui",
        "autoprog.cli",
    ),
    **{
        f"autoprog.{name}": (
            "autoprog.train",
            "autoprog.search",
            "autoprog.bench",
            "autoprog.ui",
            "autoprog.cli",
        )
        for name in CORE
    },
}


@dataclass(frozen=True)
class Source:
    """One Python file: its dotted module name, its path and its syntax tree."""

    module: str
    path: Path
    tree: ast.Module

    def place(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def sources() -> list[Source]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [
        Source(module_name(path), path, ast.parse(path.read_text(encoding="utf-8")))
        for path in paths
    ]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sources()


def imports(source: Source, typing_too: bool = True) -> Iterator[tuple[str, ast.AST]]:
    """Yield every module that a file imports, also inside functions; relative ones made absolute."""
    skipped = set() if typing_too else set(typing_only_nodes(source.tree))
    for node in ast.walk(source.tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(source, node)
            yield base, node
            yield from ((f"{base}.{alias.name}", node) for alias in node.names)


def typing_only_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from ast.walk(statement)


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def calls(source: Source) -> Iterator[ast.Call]:
    return (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))


def test_the_sources_are_found() -> None:
    modules = {source.module for source in SOURCES}
    assert {"autoprog.files", "supernet.config", "search_spaces"} <= modules
    assert {f"autoprog.{name}" for name in CORE} <= modules


@pytest.mark.parametrize("package", UPWARDS)
def test_imports_point_downwards_only(package: str) -> None:
    broken = [
        f"{source.place(node)} imports {name}"
        for source in SOURCES
        if inside(source.module, package)
        for name, node in imports(source)
        if any(inside(name, above) for above in UPWARDS[package])
    ]
    assert broken == []


@pytest.mark.parametrize("third_party", THE_ONE_IMPORTER)
def test_one_module_or_package_imports_each_third_party(third_party: str) -> None:
    broken = [
        f"{source.place(node)} imports {name}"
        for source in SOURCES
        if not inside(source.module, THE_ONE_IMPORTER[third_party])
        for name, node in imports(source)
        if inside(name, third_party)
    ]
    assert broken == []


def test_the_core_imports_nothing_heavy() -> None:
    light = {*(f"autoprog.{name}" for name in CORE), *TORCH_FREE_SUPERNET}
    broken = [
        f"{source.place(node)} imports {name}"
        for source in SOURCES
        if source.module in light
        for name, node in imports(source, typing_too=False)
        if any(inside(name, heavy) for heavy in HEAVY)
    ]
    assert broken == []


def test_loading_the_core_loads_nothing_heavy() -> None:
    names = [*(f"autoprog.{name}" for name in CORE), *TORCH_FREE_SUPERNET]
    program = (
        f"import sys, {', '.join(names)}\n"
        f"print(sorted(set({HEAVY!r}) & {{name.partition('.')[0] for name in sys.modules}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def handler_names(handler: ast.ExceptHandler) -> list[str]:
    caught = handler.type
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught] if caught else []
    return [ast.unparse(kind) for kind in kinds]


def test_no_handler_catches_everything() -> None:
    broken = [
        source.place(node)
        for source in SOURCES
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & set(handler_names(node)))
    ]
    assert broken == []


def test_no_file_is_loaded_in_a_way_that_can_run_code() -> None:
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    error_only = ("pickle", "pickle.UnpicklingError")  # what torch.load raises for a broken file
    broken = [
        f"{source.place(node)} imports {name}"
        for source in SOURCES
        for name, node in imports(source)
        if name.partition(".")[0] in modules
        and not (name in error_only and imports_only_an_error(node))
    ]
    unsafe_yaml = {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
    for source in SOURCES:
        for call in calls(source):
            name = ast.unparse(call.func)
            weights_only = [word.value for word in call.keywords if word.arg == "weights_only"]
            if name in unsafe_yaml or name in {"eval", "exec"}:
                broken.append(f"{source.place(call)} calls {name}")
            if any(not is_true(value) for value in weights_only):
                broken.append(f"{source.place(call)} loads more than weights")
            if name == "torch.load" and not weights_only:
                broken.append(f"{source.place(call)} must say weights_only=True")
    assert broken == []


def imports_only_an_error(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and [a.name for a in node.names] == ["UnpicklingError"]


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_one_console_and_one_way_to_print() -> None:
    broken = [
        source.place(node)
        for source in SOURCES
        if source.module not in ("autoprog.printable", "autoprog.console")
        for node in calls(source)
        if ast.unparse(node.func) == "print"
        or (
            ast.unparse(node.func) in ("sys.stdout.write", "sys.stderr.write")
            and not isinstance(node.args[0], ast.Constant)
        )
    ]
    assert broken == [], "printed otherwise than by autoprog.printable.say"
    broken = [
        source.place(node)
        for source in SOURCES
        if source.module != "autoprog.console"
        and not any(name == "autoprog.console.Console" for name, _ in imports(source))
        for node in calls(source)
        if ast.unparse(node.func).rpartition(".")[2] == "Console"
    ]
    assert broken == [], "a console of rich that is not autoprog.console.Console"


def test_no_library_code_draws_from_a_global_generator_of_python_or_numpy() -> None:
    module_calls = {
        f"{module}.{name}"
        for module in ("random", "np.random", "numpy.random")
        for name in ("random", "randint", "choice", "shuffle", "uniform", "rand", "randn", "sample")
    }
    broken = [
        f"{source.place(call)} calls {ast.unparse(call.func)}"
        for source in SOURCES
        for call in calls(source)
        if ast.unparse(call.func) in module_calls
    ]
    assert broken == []


def test_every_module_with_functions_postpones_annotations() -> None:
    broken = [
        source.place(source.tree)
        for source in SOURCES
        if any(isinstance(node, ast.FunctionDef) for node in ast.walk(source.tree))
        and not any(
            isinstance(node, ast.ImportFrom)
            and node.module == "__future__"
            and any(alias.name == "annotations" for alias in node.names)
            for node in source.tree.body
        )
    ]
    assert broken == []


def is_private(source: Source) -> bool:
    return any(part.startswith("_") for part in source.module.split("."))


def exported(source: Source) -> list[str] | None:
    for node in source.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assert isinstance(node, ast.Assign)
            names = ast.literal_eval(node.value)
            assert isinstance(names, list)
            return names
    return None


def test_every_public_module_says_what_it_exports() -> None:
    broken = [
        source.place(source.tree)
        for source in SOURCES
        if not is_private(source)
        and source.path.name not in ("__init__.py", "__main__.py")
        and exported(source) is None
    ]
    assert broken == []


def bound_names(tree: ast.Module) -> Iterator[str]:
    """Yield what the top level of a module defines or imports."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_what_a_module_exports_is_there() -> None:
    broken = [
        f"{source.place(source.tree)} exports {name}"
        for source in SOURCES
        if "__getattr__" not in bound_names(source.tree)
        for name in set(exported(source) or ()) - set(bound_names(source.tree))
    ]
    assert broken == []


def test_package_data_is_found_as_after_an_install() -> None:
    names = {entry.name for entry in resources.files("search_spaces").iterdir()}
    assert {"default.yaml", "deit-s.yaml", "vit-mu.yaml", "digits.yaml"} <= names
    for package in ("autoprog", "supernet"):
        assert resources.files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_comes_from_this_checkout(package: str) -> None:
    assert Path(str(import_module(package).__file__)).is_relative_to(ROOT)


def test_every_folder_of_code_is_a_package() -> None:
    folders = {source.path.parent for source in SOURCES}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_one_function_builds_the_networks_that_files_describe() -> None:
    own = {
        "supernet/build.py",
        "autoprog/train/initial_weights.py",
    }  # the other gets the weights of timm
    places = [
        source.place(call)
        for source in SOURCES
        for call in calls(source)
        if ast.unparse(call.func) in ("timm.create_model", "create_model")
    ]
    assert [place for place in places if place.partition(":")[0] not in own] == []
    assert len(places) == 2
