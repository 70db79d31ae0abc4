"""The documentation is true: its Python and its quick commands run as they stand, its other command lines are
those of the program, and the links, flags, keys and files that it names are there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
import yaml

import autoprog
from autoprog import run_files
from autoprog.cli import COMMANDS, build_parser, main
from autoprog.files import parse
from autoprog.schedule import GrowthSchedule
from autoprog.space import SpaceFile
from autoprog.starter_files import schema_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (README, *sorted(DOCS.glob("*.md")))
}
LINKED = {
    **PAGES,
    **{
        name: (ROOT / name).read_text(encoding="utf-8")
        for name in ("SECURITY.md", "CHANGELOG.md", "runs/README.md")
    },
}
TEST_COMMAND = "pip install -e '.[test]' && pytest -n auto --dist loadfile"
Block = tuple[str, str, str]
"""Page, language and text of a block of code."""

BLOCKS: list[Block] = [
    (page, language, body)
    for page, text in PAGES.items()
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
]
PYTHON = [(page, body) for page, language, body in BLOCKS if language == "python"]
SHELL = [body for _, language, body in BLOCKS if language in ("", "sh")]
PROSE = {
    page: re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for page, text in PAGES.items()
}
SPANS = [
    (page, " ".join(span.split()))
    for page, text in PROSE.items()
    for span in re.findall(r"`([^`]+)`", text)
]
END_OF_COMMAND = re.compile(r"&&|\|\||[|>;)]")
FOREIGN_FLAGS = {
    "--array",
    "--cases",
    "--check",
    "--cpus-per-task",
    "--dependency",
    "--dist",
    "--gpus",
    "--gpus-per-node",
    "--gpus-per-task",
    "--logdir",
    "--max-restarts",
    "--nnodes",
    "--nodes",
    "--nproc-per-node",
    "--ntasks",
    "--ntasks-per-node",
    "--path",
    "--rdzv-backend",
    "--rdzv-endpoint",
    "--rdzv-id",
    "--requeue",
    "--signal",
    "--strict",
    "--time",
    "--wrap",
}
"""Flags of torchrun, Slurm, TensorBoard, pytest, ruff, MkDocs and the scripts of the repository."""

OLD_WORDS = "## Words that changed"
"""The section of the glossary that may name what is no more."""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all Python blocks, run one after the other as they stand, leave behind."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("docs"))
    left: dict[str, Any] = {}
    try:
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()) as out:
            for page, block in PYTHON:
                exec(compile(block, page, "exec"), left)
        left["runs"] = [autoprog.load_run(path.parent) for path in Path().glob("runs/*/run.yaml")]
        left["printed"] = out.getvalue()
    finally:
        os.chdir(before)
    return left


def test_the_runs_of_the_python_page_are_complete(names: dict[str, Any]) -> None:
    kinds = {run.manifest.settings.kind: run for run in names["runs"]}
    assert kinds.keys() == {"search", "train"}
    assert all(run.result is not None for run in kinds.values())
    assert kinds["train"].schedule == kinds["search"].best == names["schedule"]


def test_the_python_page_reads_a_run_and_resolves_its_schedule(names: dict[str, Any]) -> None:
    result = names["run"].result
    assert names["curve"][-1] == (pytest.approx(result.epochs), result.top1_ema)
    assert names["table"].total_steps == 3000
    assert f"({names['curve'][-1][0]}, " in names["printed"]
    assert result.top1_ema > 50  # chance is 10


def test_the_loop_of_ones_own_grows_and_learns(names: dict[str, Any]) -> None:
    model, optimizer = names["model"], names["optimizer"]
    assert str(names["subnet"]) == "d4 r24"
    states = [[optimizer.state[p] for p in block.parameters()] for block in model.stages[0]]
    steps = {int(entry["step"]) for block in states for entry in block}
    batches = len(names["loader"])
    assert steps == {5 * batches}, "a new block has its source's state, step count included"
    pointers = [entry["exp_avg"].data_ptr() for block in states for entry in block]
    assert len(set(pointers)) == len(pointers), "no moment is shared"
    images, targets = names["images"][:500], names["dataset"].tensors[1][:500]
    with torch.no_grad():
        logits = names["vit"].eval()(torch.nn.functional.interpolate(images, 24, mode="bilinear"))
    accuracy = (logits.argmax(1) == targets).float().mean()
    assert accuracy > 0.3  # chance is 0.1


def shell_lines() -> Iterator[str]:
    """Yield the lines of all blocks of commands, joined where they go on."""
    for block in SHELL:
        yield from block.replace("\\\n", " ").splitlines()


def commands_in(line: str) -> Iterator[list[str]]:
    """Yield the words after each ``autoprog`` that a shell would run in a line."""
    for match in re.finditer(r"(?:^|[\s('])autoprog +(?=[\w-])", line):
        rest = line[match.end() :]
        if line[match.start()] == "'":  # a command in quotes, for another program
            rest = rest.partition("'")[0]
        rest = END_OF_COMMAND.split(rest)[0]
        yield shlex.split(rest, comments=True)


def is_command(words: list[str]) -> bool:
    return bool(words) and (words[0] in COMMANDS or words[0].startswith("--"))


def old_words() -> set[str]:
    """Return what the glossary puts into code in its section of words that are no more."""
    _, _, section = PAGES["docs/glossary.md"].partition(OLD_WORDS)
    return set(re.findall(r"`([^`]+)`", section))


IN_BLOCKS = [words for line in shell_lines() for words in commands_in(line)]
IN_PROSE = [
    words
    for page, span in SPANS
    if span.startswith("autoprog ") and span not in old_words()
    for words in commands_in(span)
]


def examples_of(command: str) -> list[list[str]]:
    """Return the command lines that ``--help`` of a command shows."""
    (commands,) = (
        action
        for action in build_parser(command)._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    epilog = commands.choices[command].epilog or ""
    lines = [line for line in epilog.splitlines() if line.strip().startswith("autoprog ")]
    return [words for line in lines for words in commands_in(line.strip())]


IN_HELP = [words for command in COMMANDS for words in examples_of(command)]
IN_SUMMARY = [
    words
    for line in (build_parser(None).epilog or "").splitlines()
    for words in commands_in(re.split(r" {3,}", line.strip())[0])
]


def refusal(words: list[str]) -> str:
    """Return what the parser says against a command line, nothing if it takes it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parser = build_parser(words[0])
            _, unknown = parser.parse_known_args([filled(word) for word in words])
    except SystemExit as stopped:
        return said.getvalue() if stopped.code else ""
    return f"unknown {unknown}" if unknown else ""


def filled(word: str) -> str:
    """Put a value in the place of a placeholder that stands for a number."""
    return "3" if word in ("N", "$SLURM_ARRAY_TASK_ID") else word


def test_the_command_lines_are_found() -> None:
    assert len(IN_BLOCKS) > 100
    assert len(IN_PROSE) > 20
    assert len(IN_HELP) > 30
    assert len(IN_SUMMARY) > 8
    assert {words[0] for words in IN_BLOCKS} == set(COMMANDS)


@pytest.mark.parametrize("words", [*IN_BLOCKS, *IN_HELP, *IN_SUMMARY], ids=" ".join)
def test_a_command_line_is_one_that_the_program_takes(words: list[str]) -> None:
    assert refusal(words) == ""


@pytest.mark.parametrize("words", [*filter(is_command, IN_PROSE)], ids=" ".join)
def test_what_the_text_names_is_there(words: list[str]) -> None:
    said = refusal(words)
    assert said == "" or "the following arguments are required" in said


def test_a_command_line_that_rots_is_seen() -> None:
    assert "unknown" in refusal(["train", "--schedul", "linear"])
    assert "unknown command" in refusal(["trian"])
    assert refusal(["search", "--seed", "one"])


def test_a_command_that_the_text_names_is_one_of_the_program() -> None:
    named = {words[0] for words in IN_PROSE if words and words[0].isalpha() and words[0].islower()}
    assert named <= set(COMMANDS)


def test_every_flag_in_the_documentation_is_known() -> None:
    parser = build_parser(None, all_flags=True)
    known = {*FOREIGN_FLAGS, *flags_in(parser)}
    code = [*(span for _, span in SPANS if span not in old_words()), *shell_lines()]
    flags = {flag for text in code for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert len(flags) > 60
    assert sorted(flags - known) == []


def flags_in(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*map(flags_in, action.choices.values()))
    return found


def test_scripts_for_bash_are_bash(tmp_path: Path) -> None:
    for number, (_, language, body) in enumerate(BLOCKS):
        if language == "sh":
            script = tmp_path / f"{number}.sh"
            script.write_text(body.replace("…", "x"), encoding="utf-8")
            subprocess.run(["bash", "-n", str(script)], check=True)


RUNNABLE = ("list", "init")
"""Commands that need no images, no run and no placeholder."""


def test_what_needs_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [
        words for words in (*IN_BLOCKS, *IN_PROSE) if words[0] in RUNNABLE and refusal(words) == ""
    ]
    lines += [words for words in IN_BLOCKS if words[:2] == ["show", "linear"]]
    lines = [words for words in lines if not any("…" in w or w.isupper() for w in words)]
    assert {words[0] for words in lines} == {*RUNNABLE, "show"}
    for words in {tuple(words): words for words in lines if "--remove" not in words}.values():
        force = ["--force"] if "--output" in words else []
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*words, *force]) == 0, words


SMALL = {
    "8": "2",
    "64": "1",
    "deit-s": "vit-mu",
    "best.yaml": "constant",
    "100": "2",
    "/shared/runs": "runs",
    "$SLURM_NNODES": "2",
    "$SLURM_JOB_ID": "7",
}
"""What stands in the place of what a laptop does not have."""


def torchrun_lines() -> list[list[str]]:
    """Return the words after each ``torchrun`` of the documentation, made small."""
    found = []
    for line in shell_lines():
        _, torchrun, rest = line.partition("torchrun ")
        if torchrun:
            words = [SMALL.get(word, word) for word in shlex.split(rest)]
            at = words.index("--data")
            del words[at : at + 2]  # the embedded digits
            model = [] if "--model" in words else ["--model", "vit-mu"]
            found.append([*words, *model, "--epochs", "2", "--workers", "0", "--device", "cpu"])
    return found


def launched(words: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_the_recipes_for_torchrun_and_slurm_run(tmp_path: Path) -> None:
    lines = torchrun_lines()
    assert len(lines) == 3
    for number, words in enumerate(lines):
        several = "--rdzv-endpoint" in words
        if several:  # what srun would start, once on each node
            words[words.index("--rdzv-endpoint") + 1] = "localhost:29517"
        folder = tmp_path / str(number)
        folder.mkdir()
        nodes = [launched(words, folder) for _ in range(2 if several else 1)]
        said = [node.communicate(timeout=300)[0] for node in nodes]
        assert [node.returncode for node in nodes] == [0] * len(nodes), said
        (path,) = folder.glob("runs/*/run.yaml")
        run = autoprog.load_run(path.parent)
        assert run.result is not None
        starts = [event for event in run.events() if event.kind == "run_started"]
        assert [start.world_size for start in starts] == [4 if several else 2]


# --- files of settings


YAML = [(page, body) for page, language, body in BLOCKS if language == "yaml"]


@pytest.mark.parametrize(("page", "body"), YAML, ids=[page for page, _ in YAML])
def test_a_file_of_settings_in_the_text_is_read_as_it_stands(page: str, body: str) -> None:
    values = yaml.safe_load(body)
    kind = GrowthSchedule if "stages" in values else SpaceFile
    parse(kind, values, page)


def test_there_is_a_schedule_and_a_space_in_the_text() -> None:
    assert len(YAML) >= 2


def tables_of_fields() -> dict[str, dict[str, str]]:
    """Return the documented keys of each part of a schedule with their defaults as written."""
    found = {}
    for text in PAGES.values():
        for name, table in re.findall(r"<!-- fields: (\w+) -->\n\n((?:\|.*\n)+)", text):
            rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
            found[name] = {key.strip(" `"): default.strip(" `") for key, default in rows}
    return found


PARTS = {
    "GrowthSchedule",
    "FullModel",
    "LearningRate",
    "Stage",
    "Ramp",
    "Grow",
    "Tokens",
    "KeepCurve",
    "Curriculum",
    "Unfrozen",
    "SandwichSizes",
}


def test_every_part_of_a_schedule_has_a_table() -> None:
    assert set(tables_of_fields()) == PARTS


@pytest.mark.parametrize("part", sorted(PARTS))
def test_the_keys_and_defaults_of_a_schedule_are_those_of_its_schema(part: str) -> None:
    schema = schema_of("schedule")
    properties = (schema if part == "GrowthSchedule" else schema["$defs"][part])["properties"]
    documented = tables_of_fields()[part]
    assert documented.keys() == properties.keys()
    for key, text in documented.items():
        default = properties[key].get("default")
        if text == "{}":  # a part with defaults of its own
            assert isinstance(default, dict), key
        else:
            assert (yaml.safe_load(text) if text else None) == default, key


# --- generated parts


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_what_the_program_says_now() -> None:
    pages = generator().pages()
    assert {path.name for path in pages} >= {"command-line.md", "schedules.md", "python-api.md"}
    stale = [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python docs/generate.py"


def test_every_command_and_flag_is_on_the_page_of_the_command_line() -> None:
    page = PAGES["docs/command-line.md"]
    for name in COMMANDS:
        assert re.search(rf"^## {name}( |$)", page, re.MULTILINE), name
    flags = flags_in(build_parser(None, all_flags=True)) - {"-h", "--help", "--version"}
    assert [flag for flag in sorted(flags) if flag not in page] == []


# --- links and files


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


LINKS = [
    (page, target)
    for page, text in LINKED.items()
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    if "://" not in target
]


def test_links_are_found() -> None:
    assert len(LINKS) > 80


@pytest.mark.parametrize(("page", "target"), LINKS, ids=[f"{a}: {b}" for a, b in LINKS])
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    place = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert place.exists()
    if anchor:
        assert anchor in anchors(place.read_text(encoding="utf-8"))


def test_every_page_is_reached_from_the_readme_and_listed_for_mkdocs() -> None:
    names = {path.name for path in DOCS.glob("*.md")}
    from_readme = {
        target[5:] for page, target in LINKS if page == "README.md" and target[:5] == "docs/"
    }
    assert names - {"index.md"} <= from_readme
    listed = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == names
    from_index = {target for page, target in LINKS if page == "docs/index.md"}
    assert names - {"index.md"} <= from_index


FOLDERS = ("autoprog", "docs", "runs", "search_spaces", "supernet", "tests", ".ci")


def test_every_file_that_is_named_is_there() -> None:
    paths = {
        span
        for page, span in SPANS
        if re.fullmatch(rf"({'|'.join(map(re.escape, FOLDERS))})/[\w./-]+", span)
    }
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_the_table_of_a_run_folder_is_complete() -> None:
    text = LINKED["runs/README.md"]
    table = text[: text.index("## Experiment log")]
    named = {name for span in re.findall(r"`([^`]+)`", table) for name in [span.rstrip("/")]}
    assert [name for name in run_files._FILES if name not in named] == []
    assert [name for name in run_files._FOLDERS if name not in named] == []


# --- the README


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_readme_holds_the_test_command_that_the_checks_use() -> None:
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert TEST_COMMAND in checks
    install, _, run = TEST_COMMAND.partition(" && ")
    assert f"{install.removeprefix('pip ')}".split()[-1] in checks
    assert f"-m {run}" in checks
    for page in ("README.md", "docs/contributing.md"):
        assert TEST_COMMAND in PAGES[page], page


def test_the_figures_of_the_readme_are_those_of_the_published_verification() -> None:
    path = ROOT / "runs/published/cifar10-cpu-tier/verify.json"
    pairs = json.loads(path.read_text(encoding="utf-8"))["pairs"]
    arms = {
        "baseline": [pair["baseline"] for pair in pairs],
        "candidate": [pair["candidate"] for pair in pairs],
        "longer candidate": [pair["others"]["candidate-0.45"] for pair in pairs],
    }
    seconds = {name: mean(run["wall_seconds"] for run in runs) for name, runs in arms.items()}
    for name, runs in arms.items():
        top1 = [run["top1_ema"] for run in runs]
        shown = f"{mean(top1):.2f} ± {stdev(top1):.2f} %"
        clock = "{}:{:02}".format(*divmod(round(seconds[name]), 60))
        row = rf"\| {shown} \|[^\n]*\| {clock}\b"
        assert re.search(row, PAGES["README.md"]), (name, shown, clock)
        assert shown in PAGES["docs/results.md"], name


# --- the site


def test_mkdocs_builds_the_site_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert names <= {path.name for path in tmp_path.iterdir()}
