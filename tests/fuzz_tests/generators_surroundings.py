"""What surrounds a command: its environment, the working directory that somebody else made, and its flags."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import cache
from typing import Any

from autoprog.cli import COMMANDS, build_parser
from tests.fuzz_tests.corpus import ANY, Command, Draw, Kind, Place
from tests.fuzz_tests.specimens import SMALL
from tests.fuzz_tests.values import ESCAPES, shown

__all__ = ["KINDS"]

_WHOLE = (
    "-1",
    "0",
    "1",
    "1000000",
    "1000000000",
    "1" + "0" * 30,
    "9" * 5_000,
    "9" * 20,
    "1_0",
    "١",
)
_REAL = ("0.5", "1e300", "-1e300", "1e-320", "nan", "inf", "-inf", "1,5")
_NUMBERS = (*_WHOLE, *_REAL, "", " ", "abc", "0x10", "2**3")
_VARIABLES = {
    "WORLD_SIZE": ("abc", "-1", "0", "2", "1000000", "", "nan"),
    "RANK": ("abc", "-1", "7", ""),
    "LOCAL_RANK": ("abc", "-1"),
    "COLUMNS": ("0", "-1", "abc", "1", "1000000", "99999999999999999999"),
    "LINES": ("0", "-1", "abc"),
    "HOME": (None, "", "relative", "/dev/null", "/nonexistent", "\x1b[31m"),
    "XDG_CACHE_HOME": ("", "relative", "/dev/null", "~", "../victim", "\x1b[31m"),
    "OMP_NUM_THREADS": ("abc", "-1", "0"),
    "AUTOPROG_CORES": ("abc", "-1", "0", "1000000"),
    "AUTOPROG_WORKER": ("abc", "-1", "../../victim"),
    "TMPDIR": ("/nonexistent", "", "/dev/null"),
    "TERM": ("", "dumb", "\x1b[31m", "x" * 10_000),
    "LANG": ("xx_YY", "\x1b", "C", ""),
    "PYTHONIOENCODING": ("xx", "ascii"),
    "TZ": ("../../../../dev/zero", "\x1b[31m", ":/dev/zero"),
    "WANDB_MODE": ("abc", "online"),
    "WANDB_PROJECT": ("; touch x", "\x1b[31m"),
    "CUDA_VISIBLE_DEVICES": ("abc", "-1", "\x1b[31m", "9" * 1_000),
    "TORCHELASTIC_RESTART_COUNT": ("abc", "-1", "1"),
    "TORCHELASTIC_RUN_ID": ("x", "\x1b[31m"),
    "MASTER_ADDR": ("127.0.0.1", "\x1b[31m"),
    "MASTER_PORT": ("abc", "0", "99999999"),
    "NO_COLOR": ("",),
    "PAGER": ("touch canary",),
    "GIT_DIR": ("/dev/null", "../victim"),
    "HF_HOME": ("/dev/null", "\x1b[31m"),
    "TORCH_HOME": ("/dev/null",),
    "MPLBACKEND": ("nonesuch",),
    "PYTHONWARNINGS": ("error",),
}


def _environment(draw: Draw, place: Place) -> Command:
    """Set one or two variables to something hostile."""
    name = draw.turn(sorted(_VARIABLES))
    environment: dict[str, str | None] = {name: draw.turn(_VARIABLES[name] * 2)}
    if name in ("RANK", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR"):
        environment = {
            "WORLD_SIZE": "2",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "2",
            **environment,
        }
    if draw.random.random() < 0.3:
        other = draw.any(sorted(_VARIABLES))
        environment.setdefault(other, draw.any(_VARIABLES[other]))
    run = place.copy("train")
    options = [
        (["train", "--schedule=linear", *SMALL, "--epochs=1", "-q"], ("runs",)),
        (["train", "--schedule=linear", *SMALL, "--epochs=1", "--dry-run"], ()),
        (["show", f"runs/{run.name}"], ()),
        (["compare", f"runs/{run.name}"], ()),
        (["list", "caches"], ()),
        (["doctor"], ()),
        (["list", "presets"], ()),
        (["verify", "--schedule=linear", *SMALL, "--seeds=1"], ("runs",)),
        (["search", *SMALL, "--epochs=1", "--trials=2", "-j", "2"], ("runs",)),
    ]
    words, writes = draw.any(options)
    return Command(words, f"{environment!a}"[:200], writes, ANY, environment)


def _git(place: Place, what: str) -> None:
    """Make the working directory a git repository whose configuration runs something."""
    git = place.work / ".git"
    for folder in ("objects", "refs/heads", "hooks", "info"):
        (git / folder).mkdir(parents=True)
    hook = place.file("hook.sh", f"#!/bin/sh\n{place.touch}\nexit 1\n")
    hook.chmod(0o755)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    settings = {
        "fsmonitor": f"[core]\n fsmonitor = {hook}\n",
        "hooks": f"[core]\n hooksPath = {place.work}\n",
        "filter": f'[filter "x"]\n clean = {hook}\n smudge = {hook}\n process = {hook}\n required = true\n',
        "alias": f"[alias]\n status = !{hook}\n rev-parse = !{hook}\n",
        "pager": f"[core]\n pager = {hook}\n[pager]\n status = {hook}\n rev-parse = {hook}\n",
        "diff": f"[diff]\n external = {hook}\n",
        "editor": f"[core]\n editor = {hook}\n sshCommand = {hook}\n gitProxy = {hook}\n",
        "include": f"[include]\n path = {place.work}/more.config\n",
        "worktree": f"[core]\n worktree = {place.victim}\n",
        "broken": "[core\n",
        "pipe": "",
        "submodule": f'[submodule "x"]\n path = x\n update = !{hook}\n',
    }
    place.file("more.config", settings["fsmonitor"])
    base = "[core]\n repositoryformatversion = 0\n bare = false\n"
    if what == "pipe":
        os.mkfifo(git / "config")
    else:
        (git / "config").write_text(base + settings[what])
    (git / "info" / "attributes").write_text("* filter=x diff=x\n")
    for name in ("post-index-change", "post-checkout", "fsmonitor-watchman", "pre-commit"):
        (git / "hooks" / name).write_text(f"#!/bin/sh\n{place.touch}\n")
        (git / "hooks" / name).chmod(0o755)


def _commit(place: Place) -> None:
    """Give the repository a commit and an index, so that git has a file to look at."""
    import subprocess

    git = {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "PATH": "/usr/bin:/bin",
        "HOME": str(place.tmp),
        "GIT_CONFIG_COUNT": "0",
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    place.file("file.txt", "x\n")
    for words in (["init", "-q", "."], ["add", "file.txt"], ["commit", "-q", "-m", "x"]):
        subprocess.run(["git", *words], cwd=place.work, env=git, check=True, capture_output=True)
    # Another time than that of the index: git compares the content, through the filters.
    os.utime(place.work / "file.txt", (1, 1))


def _make_modules(place: Place) -> None:
    """Make modules of names that the program imports, or that Python imports by itself."""
    by_python = ("sitecustomize", "usercustomize", "argparse", "json")
    by_program = ("autoprog/__init__", "supernet", "torch", "timm", "yaml", "rich", "PIL/__init__")
    for name in (*by_python, *by_program, "wandb", "tensorboard", "onnx", "pillow_heif"):
        place.file(f"{name}.py", place.code)


def _working_directory(draw: Draw, place: Place) -> Command:
    """Make a working directory that acts on whoever works in it: git, modules of known names, settings."""
    gits = [
        "fsmonitor",
        "hooks",
        "filter",
        "alias",
        "pager",
        "diff",
        "editor",
        "include",
        "worktree",
        "broken",
        "submodule",
    ]
    others = (
        *(
            "git pipe",
            "git is a file",
            "git is a pipe",
            "modules",
            "dot files",
            "wandb",
            "runs links to itself",
        ),
        *("runs is a file", "runs is a pipe", "runs of many", "latest", "search_spaces"),
    )
    what = draw.turn([*(f"git {name}" for name in gits), *others])
    if what in [f"git {name}" for name in gits]:
        _commit(place)
        config = (place.work / ".git" / "config").read_text()
        _rm_hooks(place)
        (place.work / ".git").rename(place.work / "kept")
        _git(place, what.split()[1])
        written = (place.work / ".git" / "config").read_text()
        for path in ("objects", "refs", "HEAD", "index"):
            _replace(place, path)
        (place.work / ".git" / "config").write_text(config + written)
    elif what == "git pipe":
        _git(place, "pipe")
    elif what == "git is a file":
        place.file(
            ".git",
            f"gitdir: {draw.any(['/dev/zero', str(place.victim), '../x', chr(27) + '[31m'])}\n",
        )
    elif what == "git is a pipe":
        os.mkfifo(place.work / ".git")
    elif what == "modules":
        _make_modules(place)
    elif what == "dot files":
        names = ".env .netrc .pdbrc pyproject.toml setup.cfg .autoprog.yaml autoprog.yaml tox.ini"
        for name in f"{names} .config/autoprog.yaml .python-version pyvenv.cfg".split():
            place.file(
                name,
                f"PYTHONPATH={place.work}\nx: !!python/object/apply:os.system ['{place.touch}']\n",
            )
    elif what == "wandb":
        place.file(
            "wandb/settings",
            f"[default]\nbase_url = http://127.0.0.1:9\nprogram = {place.script}\n",
        )
    elif what == "runs links to itself":
        (place.work / "runs").symlink_to("runs")
    elif what == "runs is a file":
        place.file("runs", "x")
    elif what == "runs is a pipe":
        os.mkfifo(place.work / "runs")
    elif what == "runs of many":
        for index in range(300):
            place.file(
                f"runs/{draw.any(ESCAPES).replace(chr(0), '')}{index}/run.yaml",
                draw.any(["", "x", "{}", "schema: 1"]),
            )
    elif what == "latest":
        place.copy("train")
        (place.work / "runs" / "zzz").symlink_to("zzz")
        os.mkfifo(place.work / "runs" / "pipe")
        place.file("runs/2099-01-01-000000-train-x/run.yaml", "schema: 1\nargv: [\x1b[31m]\n")
    elif what == "search_spaces":
        place.file(
            "search_spaces/vit-mu.yaml", f"x: !!python/object/apply:os.system ['{place.touch}']\n"
        )
        place.file("linear", "stages: 1\n")
        place.file("constant", f"!!python/object/apply:os.system ['{place.touch}']\n")
        place.file("vit-mu", "x")
    options = [
        (["train", "--schedule=constant", *SMALL, "--epochs=1", "-q"], ("runs",)),
        (["search", *SMALL, "--epochs=4", "--batch-size=128", "-q"], ("runs",)),
        (
            [
                "train",
                "--schedule=constant",
                *SMALL,
                "--epochs=1",
                "--resume",
                draw.any(["last", "auto"]),
            ],
            ("runs",),
        ),
        (["show", "last"], ()),
        (["compare", "last"], ()),
        (["doctor"], ()),
        (["verify", "--schedule=linear", *SMALL, "--seeds=1"], ("runs",)),
        (["export", "last", "--format=wandb"], ("runs",)),
    ]
    words, writes = draw.any(options)
    return Command(words, what, writes, ANY, {}, real_git=True)


def _rm_hooks(place: Place) -> None:
    for path in (place.work / ".git" / "hooks").glob("*"):
        path.unlink()


def _replace(place: Place, name: str) -> None:
    """Take a part of the good repository in place of that of the made one."""
    import shutil

    target = place.work / ".git" / name
    if target.is_dir():
        shutil.rmtree(target)
    elif target.exists():
        target.unlink()
    (place.work / "kept" / name).rename(target)


_BASES: dict[str, list[str]] = {
    "train": [
        "--schedule=linear",
        "--model=vit-mu",
        "--device=cpu",
        "--workers=0",
        "-q",
        "--data=nowhere",
    ],
    "search": ["--model=vit-mu", "--device=cpu", "--workers=0", "-q", "--data=nowhere"],
    "show": ["linear"],
    "compare": ["runs"],
    "export": ["runs/RUN"],
    "evaluate": ["runs/RUN"],
    "init schedule": ["--from=linear"],
    "init completion": ["bash"],
    "bench runner": ["--schedule=linear", "--model=vit-mu", "--data=nowhere"],
    "bench costs": ["--model=vit-mu", "--data=nowhere"],
    "bench presets": ["--model=vit-mu", "--data=nowhere"],
    "bench tier": ["gpu", "--data=nowhere"],
    "bench stress": ["--", "train", "--schedule=linear", "--model=vit-mu", "--data=nowhere"],
    "verify": ["--schedule=linear", "--model=vit-mu", "--data=nowhere"],
}


@cache
def _actions(command: str) -> tuple[argparse.Action, ...]:
    """Return the arguments of a command that take a value."""
    parser = build_parser(command.split()[0])
    for word in command.split():
        parser = _subparsers(parser)[word]
    return tuple(a for a in parser._actions if a.nargs != 0)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return dict(next(found, {}))


@cache
def _commands() -> tuple[str, ...]:
    """Return the commands, those with a second word with each of these."""
    names = []
    for name in COMMANDS:
        words = _subparsers(_subparsers(build_parser(name))[name])
        names += [f"{name} {word}" for word in words] or [name]
    return tuple(names)


def _flag_texts(place: Place) -> list[str]:
    return [
        *ESCAPES[:6],
        "",
        " ",
        "[/]",
        "[bold]x[/bold]",
        "../../victim",
        str(place.victim / "keep.txt"),
        str(place.victim),
        "/dev/zero",
        "/dev/stdin",
        "/",
        ".",
        "hf-hub:x/y",
        "local-dir:/nowhere",
        f"pipe:{place.touch}",
        f"$({place.touch})",
        f"sqlite:///{place.victim}/evil.db",
        "nonesuch+driver://x",
        "http://127.0.0.1:9/x",
        "x" * 300,
        "x" * 100_000,
        "a/b" * 3_000,
        "\udcff",
        "é\u202e",
        "-h",
        "--debug",
        "vit_giant_patch14_224",
        "rand-m9-n99999999",
        "rand-m1e9-mstd1e9",
        "aa-" * 3_000,
    ]


def _flags(draw: Draw, place: Place, texts: Callable[[Place], list[str]], bounded: bool) -> Command:
    """Give one flag of a command something hostile; data are not there, so that nothing trains."""
    flags = [
        (name, action) for name in _commands() if name != "inspect" for action in _actions(name)
    ]
    name, action = draw.turn(flags)
    value = draw.any(texts(place))
    base = list(_BASES.get(name, []))
    if any(word.startswith("runs/RUN") for word in base) or name == "show":
        run = place.copy("train")
        base = [word.replace("runs/RUN", f"runs/{run.name}") for word in base]
    if name == "export":
        base.append("--output=out.pth")
    if name in ("init space", "init recipe", "init schedule"):
        base.append("--model=vit-mu")
    loads = name.split()[0] in ("train", "search", "evaluate", "bench", "verify")
    if bounded and loads and name != "bench stress":
        # What is in bounds is told apart from what is not before data are looked for, or soon after it.
        base = [word for word in base if not word.startswith("--data=")]
        base += (
            ["--dry-run"]
            if name in ("train", "search")
            else []
            if name == "evaluate"
            else ["--data=nowhere"]
        )
    words = _with_value(name, base, action, value)
    writes = ("out.pth", "out.pth.json", "out.pth.classes.txt", "runs") if name == "export" else ()
    where = action.option_strings[-1] if action.option_strings else action.dest
    value = value.replace("\x00", "\\0")
    words = [word.replace("\x00", "\\0") for word in words]
    names_outputs = ("init", "show", "compare", "list", "bench", "export", "doctor")
    if name.split()[0] in names_outputs or where == "--keep":
        writes = (*writes, *_named(value))
    return Command(words, f"{name} {where} {shown(value)}", writes, ANY)


def _with_value(name: str, base: list[str], action: argparse.Action, value: str) -> list[str]:
    if not action.option_strings:  # a word of its own, in place of the good one
        base = [word for word in base if word.startswith("-")] if name != "bench stress" else []
        return [*name.split(), *base, *(["--", value] if value.startswith("-") else [value])]
    flag = action.option_strings[-1]
    base = [word for word in base if not word.startswith(f"{flag}=")]
    given = (
        [flag, value]
        if action.nargs in ("+", "*") and not value.startswith("-")
        else [f"{flag}={value}"]
    )
    # In front of what follows "--" and behind what stands for itself.
    cut = base.index("--") if "--" in base else len(base)
    return [*name.split(), *base[:cut], *given, *base[cut:]]


def _named(value: str) -> tuple[str, ...]:
    """Return where a value that names an output lets the program write: the user has named it."""
    return (
        (value,)
        if value and not os.path.isabs(value) and len(value) < 256 and ".." not in value
        else ()
    )


def _numbers(place: Place) -> list[str]:
    return list(_NUMBERS)


def _started_anew(draw: Draw, place: Place) -> Command:
    """Start the program as its console script does, in a working directory with modules of known names."""
    _make_modules(place)
    words = draw.turn(
        [["list", "presets"], ["list", "spaces"], ["show", "linear"], ["list", "caches"]]
    )
    return Command(words, "modules in the working directory", anew=True)


def _other_words(draw: Draw, place: Place) -> Command:
    """Give words that are no command, no flag, or too many."""
    word: Any = draw.turn(
        [*_flag_texts(place), "sho", "TRAIN", "help", "--version", "--nonesuch", "-x", "=", "--="]
    )
    before = draw.turn(
        [
            [],
            ["show"],
            ["train"],
            ["list", "caches", "--remove"],
            ["bench", "stress"],
            ["train", "--schedule=linear"],
        ]
    )
    words = [*before, word.replace("\x00", "\\0")]
    if word == "--debug":  # which asks for a traceback
        words = ["--debug"]
    return Command(words, f"words {shown(words)}", (), ANY)


KINDS = [
    Kind("environment", _environment, 120),
    Kind("working-directory", _working_directory, 120),
    Kind("started-anew", _started_anew, 4),
    Kind("flags-numbers", lambda draw, place: _flags(draw, place, _numbers, True), 420),
    Kind("flags-texts", lambda draw, place: _flags(draw, place, _flag_texts, False), 420),
    Kind("words", _other_words, 120),
]
