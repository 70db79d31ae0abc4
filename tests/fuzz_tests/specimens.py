"""The small real things that hostile cases are made of: runs, a verification, a benchmark, data, weights."""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tarfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from tests.fuzz_tests.corpus import Specimens
from tests.fuzz_tests.sandbox import own_words

__all__ = ["BENCH", "SMALL", "build", "png", "warm"]

SMALL = ("--model=vit-mu", "--device=cpu", "--amp=none", "--threads=1", "--workers=0")
_OFTEN = ("--log-every-steps=4", "--checkpoint-minutes=0", "-q")
BENCH = ("bench", "presets", *SMALL, "--epochs=1", "--seeds=1", "--presets", "late-jump")
_TRAIN = ("train", "--schedule=linear", *SMALL, *_OFTEN, "--epochs=1", "--seed=3")
_SEARCH = ("search", *SMALL, *_OFTEN, "--epochs=4", "--batch-size=128")
_LEFT_OUT = {"autoprog.__main__", "autoprog.loggers.wandb"}


def warm() -> None:
    """Import whatever commands need; no thread may come of it, since children are forked."""
    import autoprog

    for module in pkgutil.walk_packages(autoprog.__path__, "autoprog."):
        if module.name not in _LEFT_OUT and ".inspect" not in module.name:
            importlib.import_module(module.name)
    import torch

    torch.set_num_threads(1)


def build(folder: Path) -> Specimens:
    """Make all specimens in a folder, each in a forked process; import what they had to import here too."""
    runs = {
        "train": _TRAIN,
        "search": _SEARCH,
        "trials": ("search", *SMALL, "-q", "--epochs=4", "--trials=2"),
        "verify": ("verify", "--schedule=linear", *SMALL, "--epochs=1", "--seeds=1"),
        "bench": BENCH,
        "cached": ("train", "--schedule=constant", *SMALL, "-q", "--epochs=1", "--batch-size=8"),
    }
    folder.mkdir(parents=True)
    _make_data(folder / "data")
    _make_tars(folder / "data", folder / "tars")
    for name, words in runs.items():
        more = (
            (f"--data={folder / 'data'}", f"--cache={folder / 'cache'}") if name == "cached" else ()
        )
        _forked([*words, *more, f"--runs-dir={folder / name}"], folder)
    for kind, words in (("train", _TRAIN), ("search", _SEARCH)):
        _forked([*words, f"--runs-dir={folder / f'stopped-{kind}'}"], folder, stop_late=True)
    specimens = Specimens(folder)
    shutil.copytree(folder / "trials", folder / "stopped-trials")
    (specimens.run("stopped-trials") / "result.json").unlink()
    (folder / "weights").mkdir()
    for ending in ("pth", "safetensors"):
        output = f"--output={folder / 'weights' / f'vit.{ending}'}"
        _forked(["export", str(specimens.run("train")), output], folder)
    output = f"--output={folder / 'weights' / 'hf'}"
    _forked(["export", str(specimens.run("train")), "--format=hf", output], folder)
    return specimens


def _forked(words: Sequence[str], folder: Path, stop_late: bool = False) -> None:
    """Run the program in a forked process, and import here what it had to import, for those to come.

    With `stop_late` a signal stops a run when its result is nearly reported, so that little is left of it.
    """
    said, modules = folder / "said", folder / "modules"
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = _child(words, said, modules, stop_late)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != (143 if stop_late else 0):
        raise RuntimeError(
            f"autoprog {' '.join(words)}: exit code {code}: {said.read_text()[-2000:]}"
        )
    for name in sorted(set(json.loads(modules.read_text())) - sys.modules.keys()):
        with suppress(ImportError):
            importlib.import_module(name)


def _child(words: Sequence[str], said: Path, modules: Path, stop_late: bool) -> int:
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    (said.parent / "elsewhere").mkdir(exist_ok=True)
    os.chdir(said.parent / "elsewhere")
    subprocess.Popen = _Forked  # type: ignore[assignment,misc]
    if stop_late:
        _stop_at_step(20 if words[0] == "train" else 9)
    from autoprog.cli import main

    try:
        code = main(words)
    except SystemExit as ended:
        code = int(ended.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    modules.write_text(
        json.dumps(sorted(name for name in sys.modules if "_remote_module" not in name))
    )
    return code


def _stop_at_step(step: int) -> None:
    """Send SIGTERM to this process when progress beyond a step is reported."""
    from autoprog.runs import RunFolder

    append: Callable[..., None] = RunFolder.append

    def append_and_stop(self: Any, event: Any) -> None:
        append(self, event)
        if event.kind == "step_logged" and event.step >= step:
            os.kill(os.getpid(), signal.SIGTERM)

    RunFolder.append = append_and_stop  # type: ignore[method-assign]


class _Forked:
    """A process of the program, forked from this one, in place of one that would load torch anew.

    It has of `subprocess.Popen` what the program uses; other programs are not there.
    """

    def __init__(self, args: Sequence[str], **options: Any) -> None:
        words = own_words(args)
        if words is None:
            raise FileNotFoundError(args[0])
        self.args, self.returncode = args, None
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.environ.clear()
                os.environ.update(options.get("env") or {})
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_DFL)
                for name, target in (("stdout", 1), ("stderr", 2)):
                    stream = options.get(name)
                    if hasattr(stream, "fileno"):
                        os.dup2(stream.fileno(), target)
                from autoprog.cli import main

                code = main(words)
                sys.stdout.flush()
                sys.stderr.flush()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    terminate = kill


def png(colour: int, size: int = 16) -> bytes:
    """Return a small image of one colour as PNG."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (colour % 256, 90, 160)).save(file, "PNG")
    return file.getvalue()


def _make_data(folder: Path) -> None:
    for part, count in (("train", 16), ("val", 6)):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for index in range(count):
                path = folder / part / label / f"{index:02d}.png"
                path.write_bytes(png(index * 16 + (120 if label == "dog" else 0)))


def _make_tars(data: Path, folder: Path) -> None:
    folder.mkdir()
    for part in ("train", "val"):
        with tarfile.open(folder / f"{part}.tar", "w") as tar:
            tar.add(data / part, ".")


def main() -> None:
    """Build the specimens in the folder that is named, to look at them."""
    warm()
    target = Path(sys.argv[1])
    shutil.rmtree(target, ignore_errors=True)
    build(target)


if __name__ == "__main__":
    main()
