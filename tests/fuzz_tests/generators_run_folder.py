"""Run, verification and benchmark folders that somebody else made: damaged, swapped, linked, or lying."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from autoprog.files import parse_yaml
from tests.fuzz_tests.corpus import ANY, Command, Draw, Kind, Place
from tests.fuzz_tests.specimens import BENCH
from tests.fuzz_tests.values import hostile, mutated, shown, texts, to_json, to_yaml

__all__ = ["KINDS", "readers", "resumers"]

Met = tuple[list[str], tuple[str, ...]]
"""A command line, and what it may write."""

_DAMAGES = (
    "missing",
    "empty",
    "cut",
    "bit flips",
    "swapped",
    "folder",
    "pipe",
    "link to a file elsewhere",
    "link to a folder elsewhere",
    "link to nowhere elsewhere",
    "link to itself",
    "link to /dev/zero",
    "link to its own copy",
    "random bytes",
    "huge and empty",
    "other rights",
    "many lines",
    "deep",
)
_TEXTS = {".yaml", ".json", ".jsonl", ".journal"}
_PLANTED = (
    ".result.json.tmp",
    ".best.yaml.tmp",
    ".costs.json.tmp",
    ".schedule.yaml.tmp",
    ".run.yaml.tmp",
    "checkpoints/.next.pt",
    "checkpoints/.best.safetensors.tmp",
    "checkpoints/.final.safetensors.tmp",
    "checkpoints/final.safetensors",
    "checkpoints/final_ema.safetensors",
    "checkpoints/best.safetensors",
    "checkpoints",
    "events.jsonl",
    "result.json",
    "run.lock",
    "search.journal",
    "search.journal.lock",
    "decisions.jsonl",
    "inputs.jsonl",
    "best.yaml",
    "schedule.yaml",
    "workers",
    "workers/worker-0.json",
    "workers/worker-0.log",
    "workers/worker-1.log",
    "trials",
    "trials/0000",
    "trials/0002/events.jsonl",
    "trials/0003",
    ".clock",
    "tensorboard",
    "verify.lock",
    "verify.json",
    ".verify.json.tmp",
    "bench.lock",
    "bench.json",
    "seed-0-baseline-attempt-0.err",
    "seed-0-baseline-attempt-1.err",
    "seed-0-baseline-attempt-1.out",
    "seed-0-baseline",
    "seed-0-candidate",
    "seed-0-constant-attempt-1.err",
    "seed-0-late-jump",
)


def readers(run: str) -> list[Met]:
    """Return the commands that only read a run."""
    return [
        (["show", run], ()),
        (["show", run, "--plain"], ()),
        (["show", run, "--json"], ()),
        (["show", run, "--svg=out.svg"], ("out.svg",)),
        (["show", run, "--html=out.html"], ("out.html",)),
        (["show", run, "--diff=linear"], ()),
        (["show", "linear", "--model=vit-mu", f"--diff={run}"], ()),
        (["compare", run, run], ()),
        (["compare", run, "--json"], ()),
        (["compare", run, "--markdown"], ()),
        (["compare", "last", "--html=out.html"], ("out.html",)),
        (["evaluate", run, "--device=cpu", "--workers=0", "--threads=1"], ()),
        (["evaluate", run, "--checkpoint=best", "--device=cpu", "--workers=0", "--json"], ()),
        (["export", run, "--output=out.pth"], ("out.pth", "out.pth.json", "out.pth.classes.txt")),
        (
            ["export", run, "--checkpoint=last", "--output=out.safetensors"],
            _exported("out.safetensors"),
        ),
        (["export", run, "--format=hf", "--output=out"], ("out",)),
        (["show", run, "--replay"], ()),
        (["show", run, "--replay", "--json"], ()),
        (["export", run, "--format=tensorboard"], (run,)),
        (["export", run, "--format=wandb", "--wandb-mode=offline"], (run, "wandb")),
        (["train", f"--schedule={run}/schedule.yaml", "--workers=0", "-q", "--dry-run"], ()),
        (
            [
                "train",
                "--schedule=unfreezing",
                f"--initial-checkpoint={run}",
                "--workers=0",
                "--dry-run",
            ],
            (),
        ),
        (["search", "--model=vit-mu", "--workers=0", f"--costs={run}/costs.json", "--dry-run"], ()),
        (["doctor", "--runs-dir=runs", "--json"], ()),
        (["show", "last"], ()),
    ]


def _exported(name: str) -> tuple[str, ...]:
    return (name, f"{name}.json", f"{name}.classes.txt")


def _resumers(run: str, kind: str) -> list[Met]:
    """Return the commands that go on with a run, so write into it."""
    return [
        ([kind, "--resume", run, "-q"], (run,)),
        ([kind, "--resume", run], (run,)),
        ([kind, "--resume", "last", "-q"], ("runs",)),
        ([kind, "--resume", "auto", "-q"], ("runs",)),
        ([kind, "--resume", run, "--log-tensorboard", "-q"], (run,)),
    ]


def resumers(name: str, run: str) -> list[Met]:
    """Return the commands that go on with a specimen."""
    if name == "stopped-trials":
        return [
            (["search", "--join", run, "--device=cpu"], (run,)),
            (["search", "--resume", run, "-q"], (run,)),
            (["search", "--resume", run, "-j", "2"], (run,)),
        ]
    if name == "verify":
        return [
            (["verify", "--resume", run], (run,)),
            (["verify", "--resume", run, "--json"], (run,)),
            (["verify", "--resume", run, "--seeds=2"], (run,)),
            (["verify", "--resume", "last", "--markdown"], (run,)),
        ]
    if name == "bench":  # the same command line goes on
        again = [*BENCH, "--runs-dir=runs"]
        return [
            (again, ("runs",)),
            ([*again, "--json"], ("runs",)),
            ([*again, "--seeds=2"], ("runs",)),
        ]
    return _resumers(run, "search" if "search" in name else "train")


_READ = ("train", "search", "trials", "stopped-train", "stopped-search")
_WRITTEN = ("stopped-train", "stopped-search", "stopped-trials", "train")
_PROOFS = ("verify", "bench")


def _files(run: Path, ours: bool = True) -> list[Path]:
    """Return the files and folders of a run, but for the checkpoints that have a kind of their own."""
    return [path for path in sorted(run.rglob("*")) if ours or path.suffix in _TEXTS]


def _damage(draw: Draw, place: Place, path: Path, how: str) -> None:
    """Put something else in place of a file or a folder."""
    content = path.read_bytes() if path.is_file() else b""
    if how in ("cut", "bit flips", "other rights", "many lines") and not content:
        how = "random bytes"
    if how == "other rights":
        path.chmod(0)
        return
    if how == "link to its own copy":
        copy = place.work / "elsewhere"
        path.rename(copy)
        path.symlink_to(copy)
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    match how:
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: draw.random.randrange(len(content))])
        case "bit flips":
            changed = bytearray(content)
            for _ in range(draw.any([1, 5, 40])):
                changed[draw.random.randrange(len(changed))] ^= 1 << draw.random.randrange(8)
            path.write_bytes(bytes(changed))
        case "swapped":
            others = [
                one for one in place.specimens.run(draw.any(_READ)).rglob("*") if one.is_file()
            ]
            path.write_bytes(draw.any(sorted(others)).read_bytes())
        case "folder":
            path.mkdir()
            (path / "file").write_text("x")
        case "pipe":
            os.mkfifo(path)
        case "link to a file elsewhere":
            path.symlink_to(draw.any([place.victim / "keep.txt", "../../victim/keep.yaml"]))
        case "link to a folder elsewhere":
            path.symlink_to(place.victim / "docs")
        case "link to nowhere elsewhere":
            path.symlink_to(place.victim / "new")
        case "link to itself":
            path.symlink_to(path.name)
        case "link to /dev/zero":
            path.symlink_to("/dev/zero")
        case "random bytes":
            path.write_bytes(draw.random.randbytes(draw.any([1, 100, 100_000])))
        case "huge and empty":
            with path.open("wb") as file:
                file.truncate(400 * 2**20)
        case "many lines":
            path.write_bytes(content * max(1, 3_000_000 // max(1, len(content))))
        case "deep":
            path.write_bytes(
                draw.any([b"[", b'{"a":', b'{"kind":[']) * draw.any([100, 5_000, 200_000])
            )


def _damaged(names: Sequence[str], draw: Draw, place: Place, run_again: bool) -> Command:
    name = draw.turn(names)
    how = draw.turn(_DAMAGES)
    run = place.copy(name)
    path = draw.any(_files(run))
    _damage(draw, place, path, how)
    words, writes = draw.any(
        resumers(name, f"runs/{run.name}") if run_again else readers(f"runs/{run.name}")
    )
    where = path.relative_to(run)
    return Command(words, f"{name}: {where}: {how}", writes, ANY)


def _lying(names: Sequence[str], draw: Draw, place: Place, run_again: bool) -> Command:
    name = draw.turn(names)
    run = place.copy(name)
    found = _files(run, ours=False)
    top = [path for path in found if path.parent == run]
    path = draw.any(top if draw.random.random() < 0.8 else found)
    note = _lie(draw, place, path)
    words, writes = draw.any(
        resumers(name, f"runs/{run.name}") if run_again else readers(f"runs/{run.name}")
    )
    return Command(words, f"{name}: {path.relative_to(run)}: {note}", writes, ANY)


def _lie(draw: Draw, place: Place, path: Path) -> str:
    """Put something hostile into a text file, at any depth; return what it is in words."""
    if path.suffix == ".yaml":
        document, note = mutated(draw, place, parse_yaml(path.read_text(), "specimen"))
        try:
            path.write_text(to_yaml(document))
        except (ValueError, UnicodeError):
            path.write_text(json.dumps(str(document)[:100]))
        return note
    if path.suffix == ".json":
        document, note = mutated(draw, place, json.loads(path.read_text() or "{}"))
        path.write_text(_as_json(document))
        return note
    lines = path.read_text().splitlines() or ["{}"]
    index = draw.random.randrange(len(lines))
    row, note = mutated(draw, place, json.loads(lines[index]))
    lines[index] = _as_json(row)
    path.write_text("\n".join(lines) + "\n")
    return f"line {index + 1}: {note}"


def _as_json(document: Any) -> str:
    try:
        return to_json(document)
    except ValueError:  # a number of more digits than Python writes
        return '{"number": ' + "9" * 5_000 + "}"


def _planted(draw: Draw, place: Place) -> Command:
    """Plant links in a folder where the program would write."""
    where = draw.turn(_PLANTED)
    name = draw.turn(("stopped-train", "stopped-search", "stopped-trials", "verify", "bench"))
    run = place.copy(name)
    path = run / where
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    folder = place.victim / "docs"
    target = draw.any(
        [place.victim / "keep.txt", place.victim / "new.txt", folder, "../../victim/keep.yaml"]
    )
    path.symlink_to(target)
    words, writes = draw.any(resumers(name, f"runs/{run.name}"))
    return Command(words, f"{name}: {where} -> {os.path.basename(target)}", writes, ANY)


def _redirected(draw: Draw, place: Place) -> Command:
    """Let a foreign run.yaml say where things are read from and written to, and what is called."""
    name = draw.turn(("stopped-train", "stopped-search", "stopped-trials"))
    run = place.copy(name)
    path = run / "run.yaml"
    document = parse_yaml(path.read_text(), "specimen")
    settings = document["settings"]
    victim = str(place.victim)
    options: list[tuple[tuple[str, ...], Any]] = [
        (("cache",), victim),
        (("cache",), f"{victim}/new"),
        (("cache",), "auto"),
        (("search", "storage"), f"sqlite:///{victim}/evil.db"),
        (("search", "storage"), "mysql://u:p@127.0.0.1:9/x"),
        (("search", "storage"), "redis://127.0.0.1:9/0"),
        (("search", "storage"), f"{victim}/evil.journal"),
        (("log_wandb",), True),
        (("log_tensorboard",), True),
        (("wandb_project",), f"; {place.touch}"),
        (("data", "dir"), f"pipe:{place.touch}"),
        (("data", "dir"), "/dev"),
        (("data", "dataset"), "hfds/x/y"),
        (("data", "dataset"), "wds/x"),
        (("data", "dataset"), "torch/cifar10"),
        (("data", "data_dir"), victim),
        (("initial_checkpoint",), "hf-hub:x/y"),
        (("initial_checkpoint",), f"{victim}/keep.txt"),
        (("pretrained",), True),
        (("compile",), True),
        (("model", "timm"), "hf-hub:x/y"),
        (("model", "timm"), "local-dir:/nowhere"),
        (("model", "timm"), "vit_giant_patch14_224"),
        (("model", "overrides"), {"checkpoint_path": f"{victim}/keep.txt"}),
        (("model", "overrides"), {"depth": 10**9}),
        (("model", "overrides"), {"depth": 2, "pretrained": True}),
        (("model", "overrides"), {"embed_layer": "os.system"}),
        (("model", "depth"), 10**9),
        (("model", "img_size"), 10**6),
        (("model", "embed_dim"), 10**6),
        (("workers",), 10**6),
        (("threads",), 10**6),
        (("device",), "meta"),
        (("recipe", "epochs"), 10**12),
        (("recipe", "batch_size"), 10**12),
        (("recipe", "aa"), "rand-m9-n99999999"),
        (("recipe", "opt"), "__import__"),
        (("search", "costs_from"), f"{victim}/keep.txt"),
        (("search", "space_from"), "../../victim"),
        (("search", "trials"), 10**12),
        (("search", "profile_seconds"), 1e300),
    ]
    keys, value = draw.turn(options)
    inside = settings
    for key in keys[:-1]:
        inside[key] = inside.get(key) or {}
        inside = inside[key]
    inside[keys[-1]] = value
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    words, writes = draw.any(resumers(name, f"runs/{run.name}")[:2])
    return Command(words, f"{name}: run.yaml: {'.'.join(keys)}: {shown(value)}", writes, ANY)


def _proof_words(draw: Draw, place: Place) -> Command:
    """Let verify.json and bench.json name commands, folders and schedules."""
    name = draw.turn(_PROOFS)
    run = place.copy(name)
    path = run / f"{name}.json"
    document = json.loads(path.read_text())
    bad = [
        ["bench", "runner", "--schedule=linear", "--model=vit-mu", f"--timm-script={place.script}"],
        ["bench", "runner", f"--timm-script={place.script}"],
        ["train", f"--timm-script={place.script}"],
        ["list", "caches", "--remove", "--all", f"--dir={place.victim}"],
        ["init", "recipe", "--model=vit-mu", f"--output={place.victim}/new.yaml", "--force"],
        ["train", "--schedule=constant", "--model=vit-mu", f"--runs-dir={place.victim}"],
        ["train", "--schedule=constant", "--model=vit-mu", f"--cache={place.victim}"],
        ["train", "--schedule=constant", "--model=vit-mu", "--log-wandb"],
        ["train", "--schedule=constant", "--model=vit-mu", "--dataset=hfds/x/y"],
        ["train", "--schedule=constant", "--model=vit-mu", f"--data=pipe:{place.touch}"],
        ["train", "--resume", str(place.victim)],
        ["search", f"--storage=sqlite:///{place.victim}/evil.db", "--trials=3"],
        ["bench", "stress", "--", "train"],
        ["export", "x", f"--output={place.victim}/new.pth"],
        ["-c", place.code],
        [],
        [""],
        [f"$({place.touch})"],
        "train",
        [1, 2],
        None,
    ]
    words = draw.turn(bad)
    arm = draw.any(["words", "names", "both"])
    hostile_name = draw.any(
        ["x/../../victim", "../../victim", str(place.victim), "", ".", "..", *texts(place)[:9]]
    )
    shutil.rmtree(run / "seed-0-candidate", ignore_errors=True)
    (run / "seed-0-x").mkdir()
    if name == "verify":
        plan = document["plan"]
        other = {"name": "x", "words": words}
        if arm != "words":
            other = {"name": hostile_name, "words": ["train"], "schedule": "schema: 1\n"}
        plan["others"] = [other] if draw.any([True, False]) or arm == "names" else []
        if arm != "names":
            plan[draw.any(["baseline", "candidate"])] = words
        document["pairs"] = draw.any([[], document["pairs"]])
    else:
        shutil.rmtree(run / "seed-0-constant", ignore_errors=True)
        entrant = draw.any(document["schedules"])
        if arm != "names":
            entrant["words"] = words
        if arm != "words":
            entrant["name"] = hostile_name
    path.write_text(json.dumps(document))
    given, writes = draw.any(resumers(name, f"runs/{run.name}"))
    note = f"{name}.json: {arm}: {shown(words)} {shown(hostile_name)}"
    return Command(given, note, writes, ANY)


def _checkpoint_values(draw: Draw, place: Place) -> Command:
    """Put hostile values into a checkpoint that is otherwise as torch wrote it."""
    import torch

    name = draw.turn(("stopped-train", "stopped-search", "train"))
    run = place.copy(name)
    where = draw.turn(("last.pt", "last.pt", "both"))
    last = run / "checkpoints" / "last.pt"
    held = torch.load(last, weights_only=True)
    document = held
    path: list[Any] = []
    for _ in range(draw.random.randrange(1, 5)):
        if isinstance(document, dict) and document:
            path.append(draw.any(list(document)))
        elif isinstance(document, (list, tuple)) and len(document):
            path.append(draw.random.randrange(len(document)))
        else:
            break
        document = document[path[-1]]
    tensors = [
        torch.zeros(3),
        torch.zeros(2, 2, dtype=torch.complex64),
        torch.tensor(float("nan")),
        torch.zeros(1).expand(10**9),
        torch.zeros(0),
        torch.zeros(4, 4).to_sparse(),
        torch.ones(4, dtype=torch.bool),
    ]
    value = draw.any(tensors) if draw.random.random() < 0.4 else hostile(draw, place)
    value = None if isinstance(value, int) and abs(value) > 2**1000 else value
    inside = held
    for step in path[:-1]:
        inside = inside[step]
    if path and isinstance(inside, (dict, list)):
        inside[path[-1]] = value
    else:
        held = value
    torch.save(held, run / "checkpoints" / "new.pt")
    for target in ("last.pt", "previous.pt") if where == "both" else ("last.pt",):
        (run / "checkpoints" / target).unlink(missing_ok=True)
        shutil.copy(run / "checkpoints" / "new.pt", run / "checkpoints" / target)
    (run / "checkpoints" / "new.pt").unlink()
    kind = "search" if "search" in name else "train"
    run_name = f"runs/{run.name}"
    words, writes = draw.any(
        [
            *_resumers(run_name, kind)[:2],
            (["export", run_name, "--checkpoint=last", "--output=out.pth"], _exported("out.pth")),
            (["evaluate", run_name, "--checkpoint=last", "--device=cpu", "--workers=0"], ()),
        ]
    )
    note = f"{name}: {where}: {'.'.join(map(str, path))}: {shown(value)}"
    return Command(words, note, writes, ANY)


KINDS = [
    Kind("run-read-damaged", lambda draw, place: _damaged(_READ, draw, place, False), 300),
    Kind("run-read-lying", lambda draw, place: _lying(_READ, draw, place, False), 460),
    Kind("run-resume-damaged", lambda draw, place: _damaged(_WRITTEN, draw, place, True), 220),
    Kind("run-resume-lying", lambda draw, place: _lying(_WRITTEN, draw, place, True), 300),
    Kind("run-planted-links", _planted, 215),
    Kind("run-redirected", _redirected, 123),
    Kind("proof-damaged", lambda draw, place: _damaged(_PROOFS, draw, place, True), 80),
    Kind("proof-lying", lambda draw, place: _lying(_PROOFS, draw, place, True), 140),
    Kind("proof-words", _proof_words, 100),
    Kind("checkpoint-values", _checkpoint_values, 150),
]
