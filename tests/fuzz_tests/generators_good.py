"""Cases with nothing hostile in them, which must complete: otherwise the others would test refusals alone."""

from __future__ import annotations

import shutil
from dataclasses import replace

from tests.fuzz_tests import (
    generators_data,
    generators_run_folder,
    generators_weights,
    generators_yaml,
)
from tests.fuzz_tests.corpus import Command, Draw, Kind, Place

__all__ = ["KINDS"]

_DONE = frozenset({0})


def _files(draw: Draw, place: Place) -> Command:
    every = [
        (text, words, writes)
        for kind, text in generators_yaml.GOOD_FILES.items()
        for words, writes in generators_yaml.commands(kind, "f.yaml")
        if words[0] != "verify"  # its arms are not run here
    ]
    text, words, writes = draw.turn(every)
    place.file("f.yaml", text)
    return Command(words, "a good file", writes, _DONE)


def _readers(draw: Draw, place: Place) -> Command:
    run = place.copy("search")
    readers = generators_run_folder.readers(f"runs/{run.name}")
    words, writes = draw.turn([one for one in readers if "--format=wandb" not in one[0]])
    return Command(words, "a good run", writes, _DONE)


def _resumers(draw: Draw, place: Place) -> Command:
    name = draw.turn(["stopped-train", "stopped-search", "stopped-trials", "verify", "bench"])
    run = place.copy(name)
    words, writes = draw.turn(generators_run_folder.resumers(name, f"runs/{run.name}")[:2])
    return Command(words, f"a good {name}", writes, _DONE)


def _weights(draw: Draw, place: Place) -> Command:
    name = draw.turn(["vit.safetensors", "vit.pth", "hf"])
    for source in (place.specimens.folder / "weights").glob(f"{name}*"):
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, place.work / source.name)
    words, writes = draw.turn(generators_weights.commands(name))
    return Command(words, "good weights", writes, _DONE)


def _data(draw: Draw, place: Place) -> Command:
    shutil.copytree(place.specimens.folder / draw.turn(["data", "tars"]), place.work / "data")
    words, writes = draw.turn(generators_data.commands("data"))
    command = Command(words, "good data", writes, _DONE)
    # That no GPU is there, or no memory, is wrong to the doctor alone.
    return replace(command, codes=frozenset({0, 1})) if words[0] == "doctor" else command


KINDS = [
    Kind("good-yaml", _files, 13),
    Kind("good-run", _readers, 24),
    Kind("good-resume", _resumers, 10),
    Kind("good-weights", _weights, 18),
    Kind("good-data", _data, 16),
]
