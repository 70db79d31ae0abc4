"""Play the rows of the golden table, and write what they come to.

``python tests/golden/record.py`` writes ``recorded.json`` anew; with a file name it writes there instead,
and with names of rows after it those rows alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
if (
    __name__ == "__main__"
):  # run as a file, which does not make the other files of tests/ importable
    sys.path.insert(0, str(ROOT))
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import torch  # noqa: E402
import yaml  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from autoprog.cli import main  # noqa: E402
from tests.golden.table import (  # noqa: E402
    FILES,
    KEPT,
    KEYS,
    ROWS,
    SCHEDULES,
    TEXTS,
    VALUES,
    Row,
    costs,
)

__all__ = ["RECORDED", "Player", "differences", "here"]

RECORDED = Path(__file__).with_name("recorded.json")

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "optuna", "pillow", "scikit-learn")
_RELATIVE_TOLERANCE = 1e-3
_ON_THIS_MACHINE_ONLY = {"sha256", "outputs", "top1", "top1_ema", "balanced_top1", "class_top1_ema"}
_ON_THIS_MACHINE_ONLY |= {"best_top1", "best_step", "best_epoch", "balanced_top1_ema", "mean", "sd"}
_ON_THIS_MACHINE_ONLY |= {"lower", "upper", "outcome", "more_seeds", "text"}
_ON_THIS_MACHINE_ONLY |= {"delta_loss", "delta_logits"}
"""What a last bit that differs may change by more than that, such as the classes of images near a boundary
and differences of two numbers that are nearly equal."""


def here() -> dict[str, Any]:
    """Return what bits depend on: the processor, how many threads, and the packages that compute."""
    return {
        "cpu": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    """Return the model of the processor, after which the kernels of MKL and oneDNN are chosen."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    found = re.findall(
        r"^(?:vendor_id|cpu family|model|model name)\t*: (.*)$", cpuinfo.read_text(), re.MULTILINE
    )
    return " ".join(found[:4])


@dataclass
class Player:
    """Plays rows in one folder; a run that several rows look at is trained once.

    Attributes:
        folder: An empty folder, the working directory of all command lines.
        records: What the rows played so far came to.
    """

    folder: Path
    records: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write the files that command lines name."""
        for name, text in SCHEDULES.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        (self.folder / "costs.json").write_text(json.dumps(costs()), encoding="utf-8")
        (self.folder / "taken.pth").write_bytes(b"taken")
        _write_images(self.folder / "images")

    def record(self, row: Row) -> dict[str, Any]:
        """Return what a row comes to, in recorded words."""
        if row.name not in self.records:
            for name in re.findall(r"\{([\w-]+)\}", row.words):
                if name not in ("runs", row.name):
                    self.record(next(one for one in ROWS if one.name == name))
            self.records[row.name] = self._play(row)
        return self.records[row.name]

    def _play(self, row: Row) -> dict[str, Any]:
        code, out, err = self._run(row.words, row, row.stop_at_line)
        record: dict[str, Any] = {"exit": code}
        if row.then:
            code, out, err = self._run(row.then, row)
            record["then"] = code
        match row.compares:
            case "run" | "end":
                assert code == 0, err
                record |= _of_run(self.run_of(row.name), with_events=row.compares == "run")
            case "json":
                record["json"] = _recorded_words(json.loads(out), KEPT[row.document])
            case "text":
                record["text"] = [*_lines(self._without_places(out))]
            case "export":
                record |= _of_export(self.folder / shlex.split(row.words)[-1])
            case "error":
                record["text"] = [*_lines(self._without_places(err))]
        return record

    def run_of(self, name: str) -> Path:
        """Return the folder of the one run of a row."""
        (folder,) = (self.folder / "runs" / name).iterdir()
        return folder

    def _run(self, words: str, row: Row, stop_at_line: int = 0) -> tuple[int, str, str]:
        def place(found: re.Match[str]) -> str:
            if found[1] == "runs":
                return f"runs/{row.name}"
            return str(self.run_of(found[1]).relative_to(self.folder))

        given = re.sub(r"\{([\w-]+)\}", place, words)
        out, err = _Stopping(stop_at_line), io.StringIO()
        with (
            _surroundings(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                code = main(shlex.split(given))
            except SystemExit as ended:  # usage errors, as in a program of its own
                code = int(ended.code or 0)
        return code, out.getvalue(), err.getvalue()

    def _without_places(self, text: str) -> str:
        """Return the text without the names of folders that have a date or lie anywhere."""
        text = text.replace(f"{self.folder}/", "")
        return re.sub(r"\d{4}-\d\d-\d\d-\d{6}-", "DATE-", text)


class _Stopping(io.StringIO):
    """Standard output that sends a SIGTERM to this process when so many lines were written."""

    def __init__(self, at_line: int) -> None:
        super().__init__()
        self.left = at_line

    def write(self, text: str) -> int:
        """Write, and count lines."""
        before, self.left = self.left, self.left - text.count("\n")
        if before > 0 >= self.left:
            signal.raise_signal(signal.SIGTERM)
        return super().write(text)


@contextlib.contextmanager
def _surroundings(folder: Path) -> Iterator[None]:
    """Run a command line in a folder, with a screen and an environment that are always the same."""
    changed = {"COLUMNS": "120", "XDG_CACHE_HOME": str(folder / "user-cache"), "NO_COLOR": "1"}
    before, environment = Path.cwd(), {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _write_images(root: Path) -> None:
    """Write small pictures of two classes, as PNG and as JPEG: stripes that lean one way or the other."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 24), ("val", 8)):
        for label in ("left", "right"):
            (root / split / label).mkdir(parents=True)
            for number in range(count):
                height, width = 20 + number % 3 * 4, 24
                rows, columns = torch.arange(height)[:, None], torch.arange(width)
                lean = columns + rows if label == "left" else columns - rows
                stripes = 110 + 80 * torch.sin(lean * (0.4 + 0.02 * number))
                noise = torch.randint(0, 40, (height, width, 3), generator=generator)
                pixels = (stripes[..., None] + noise).clamp(0, 255).to(torch.uint8).numpy()
                suffix = "png" if number % 2 else "jpg"
                Image.fromarray(pixels).save(root / split / label / f"{number:02}.{suffix}")


def _of_run(path: Path, *, with_events: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: _of_tensors(load_file(path / FILES[name])) for name in ("final", "final_ema")
    }
    result = json.loads((path / FILES["result"]).read_text(encoding="utf-8"))
    found["result"] = _recorded_words(result, KEPT["result"])
    if (path / FILES["best"]).exists():
        best = yaml.safe_load((path / FILES["best"]).read_text(encoding="utf-8"))
        found["best"] = _recorded_words(best, KEPT["best"])
    if with_events:
        lines = (path / FILES["events"]).read_text(encoding="utf-8").splitlines()
        found["events"] = [*_events(map(json.loads, lines))]
    return found


def _events(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        kind = VALUES.get("kind", {}).get(row["kind"], row["kind"])
        if kind in KEPT:
            step = row["step"]
            fields = {name: value for name, value in row.items() if name not in ("kind", "step")}
            yield {"kind": kind, "step": step, **_recorded_words(fields, KEPT[kind])}


def _of_export(path: Path) -> dict[str, Any]:
    """Return the names and the hash of what was exported; of a program its outputs for a fixed input."""
    beside = sorted(one.name for one in path.parent.glob(f"{path.name}*"))
    if path.is_dir():
        beside += sorted(f"{path.name}/{one.name}" for one in path.iterdir())
        return {
            "files": beside,
            "keys": sorted(json.loads((path / "config.json").read_text(encoding="utf-8"))),
            **_of_tensors(load_file(path / "model.safetensors")),
        }
    keys = sorted(json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8")))
    found = {"files": beside, "keys": keys}
    if path.suffix == ".pt2":
        images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
        with torch.no_grad():
            outputs = torch.export.load(path).module()(images)
        return {**found, "outputs": outputs.flatten().tolist()}
    state = (
        load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    )
    return {**found, **_of_tensors(state)}


def _of_tensors(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return how many tensors there are, and a hash over their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"tensors": len(state), "sha256": digest.hexdigest()}


def _recorded_words(value: Any, kept: frozenset[str], key: str = "") -> Any:
    """Return a value in recorded words, its dictionaries reduced to the keys that are kept."""
    if isinstance(value, dict):
        renamed = {KEYS.get(name, name): one for name, one in value.items()}
        if renamed.keys() == {"depth", "img_size", "tokens"} and "keep_rate" in renamed["tokens"]:
            return _subnet_text(renamed)
        if key == "costs":  # by subnet
            return renamed
        return {
            name: _recorded_words(one, kept, name) for name, one in renamed.items() if name in kept
        }
    if isinstance(value, list):
        return [_recorded_words(one, kept, key) for one in value]
    return VALUES.get(key, {}).get(value, value)


def _subnet_text(subnet: dict[str, Any]) -> str:
    tokens = {KEYS.get(name, name): one for name, one in subnet["tokens"].items()}
    depth = "+".join(map(str, subnet["depth"]))
    places = ",".join(map(str, tokens["at_blocks"]))
    whole = f"d{depth} r{subnet['img_size']}"
    if tokens["keep_rate"] == 1:
        return whole
    return f"{whole} k{tokens['keep_rate']!r} by {tokens['by']} at {places}"


_TIME = re.compile(r"\d[\d.,]* ?(?:s|min|h|ms|MiB|GiB|img/s)\b")


def _lines(text: str) -> Iterator[str]:
    """Yield the lines in recorded words, without times, peak memory and the width of columns."""
    for line in text.splitlines():
        plain = re.sub(r"\s+", " ", _TIME.sub("TIME", line)).strip()
        if plain and not plain.startswith("full model:"):  # this sentence goes by the time taken
            yield TEXTS.get(plain, plain)


def differences(recorded: Any, now: Any, *, exact: bool, at: str = "") -> Iterator[str]:
    """Yield where two records differ; unless `exact`, floats may by a thousandth and hashes altogether."""
    if isinstance(recorded, dict) and isinstance(now, dict):
        for name in [*recorded, *(name for name in now if name not in recorded)]:
            if not exact and name in _ON_THIS_MACHINE_ONLY:
                continue
            if name not in recorded or name not in now:
                what = "recorded" if name in recorded else "new"
                yield f"{at}.{name}: only {what}: {recorded.get(name, now.get(name))!r}"
            else:
                yield from differences(recorded[name], now[name], exact=exact, at=f"{at}.{name}")
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        for index, pair in enumerate(zip(recorded, now, strict=True)):
            yield from differences(*pair, exact=exact, at=f"{at}[{index}]")
    elif not (_same if exact else _near)(recorded, now):
        yield f"{at}: recorded {recorded!r}, now {now!r}"


def _same(recorded: Any, now: Any) -> bool:
    return bool(recorded == now)


def _near(recorded: Any, now: Any) -> bool:
    if isinstance(recorded, float) and isinstance(now, float):
        return math.isclose(recorded, now, rel_tol=_RELATIVE_TOLERANCE)
    return bool(recorded == now)


def to_json(record: dict[str, Any]) -> str:
    """Return a recording as JSON: an event a line, the rest of a row a line."""
    rows = []
    for name, row in record["rows"].items():
        parts = []
        for key, value in row.items():
            if key in ("events", "text"):
                inner = ",\n   ".join(json.dumps(one) for one in value)
                parts.append(f'"{key}": [\n   {inner}\n  ]')
            else:
                parts.append(f'"{key}": {json.dumps(value)}')
        rows.append(f'"{name}": {{\n  ' + ",\n  ".join(parts) + "\n }")
    return (
        f'{{\n"here": {json.dumps(record["here"])},\n"rows": {{\n ' + ",\n ".join(rows) + "\n}}\n"
    )


def _write(path: Path, names: list[str], say: Callable[[str], object] = print) -> None:
    torch.set_num_threads(1)
    rows = [row for row in ROWS if not names or row.name in names]
    with tempfile.TemporaryDirectory() as folder:
        player = Player(Path(folder).resolve())
        records = {}
        for row in rows:
            records[row.name] = player.record(row)
            say(row.name)
    path.write_text(to_json({"here": here(), "rows": records}), encoding="utf-8")


if __name__ == "__main__":
    given = sys.argv[1:]
    _write(Path(given[0]) if given else RECORDED, given[1:])
