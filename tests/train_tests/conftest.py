"""A bench for the trainer: vit-mu on 160 of the embedded digits, ten steps an epoch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch._functorch.aot_autograd import aot_module_simplified

from autoprog.data.dataset import DataReport, OpenedData, PartReport
from autoprog.data.image_sources import DigitsSource, open_digits
from autoprog.events import Event
from autoprog.recipe import RECIPES, Recipe
from autoprog.runs import RunFolder, load_run
from autoprog.schedule import GrowthSchedule
from autoprog.settings import DataSettings, RunManifest, RunSettings
from autoprog.stage import FullModel, LearningRate, Stage
from autoprog.train.run import Job, start_training, train_schedule
from autoprog.train.stop import InterruptedRunError
from autoprog.train.trainer import Trainer
from supernet.elastic import ElasticViT
from supernet.zoo import ZOO

torch.set_num_threads(1)

NUM_TRAIN, NUM_VAL, BATCH_SIZE = 160, 48, 16
PLAIN: dict[str, Any] = {"epochs": 4.0, "batch_size": BATCH_SIZE, "warmup_fraction": 0.1}
RICH: dict[str, Any] = {
    **PLAIN,
    "mixup": 0.8,
    "cutmix": 1.0,
    "smoothing": 0.1,
    "aa": "rand-m9-mstd0.5-inc1",
    "reprob": 0.5,
    "drop_path": 0.3,
    "hflip": 0.5,
    "weight_decay": 0.1,
}


def ramped(lr: str = "cosine", **last: Any) -> GrowthSchedule:
    """Depth grows at steps 12 and 24; within the second stage the size climbs 8, 12, 16 at 16 and 20."""
    ramp = {"ramp": "linear", "from": 8, "to": 16, "every_epochs": 0.4}
    stages = (
        {"length": 12, "depth": 2, "img_size": 8, "curriculum": {"randaug": 4, "drop_path": 0.0}},
        {"length": 12, "depth": 3, "img_size": ramp, "curriculum": {"reprob": 0.25}},
        {"length": 16, "depth": 4, "img_size": 16, **last},
    )
    return GrowthSchedule(
        full=FullModel.of(ZOO["vit-mu"]),
        length_unit="steps",
        lr=LearningRate.model_validate({"shape": lr}),
        stages=tuple(Stage.model_validate(stage) for stage in stages),
    )


class FirstImages:
    """The first images of a source."""

    in_memory = True

    def __init__(self, source: DigitsSource, count: int) -> None:
        self.targets, self.class_names = source.targets[:count], source.class_names
        self.name, self.load = source.name, source.load

    def __len__(self) -> int:
        return len(self.targets)


@dataclass
class Outcome:
    """What a run left behind."""

    path: Path
    events: list[Event]
    state: dict[str, Any]

    @property
    def result(self) -> Any:
        result = load_run(self.path).result
        assert result is not None
        return result

    def of(self, kind: str) -> list[Any]:
        """Return the events of a kind, without the warning of how little such a brief run has learnt."""
        found = [event for event in self.events if event.kind == kind]
        return [one for one in found if "largest class" not in getattr(one, "message", "")]

    @property
    def exact(self) -> dict[str, Any]:
        """What must not depend on where a run was stopped: all of the checkpoint but wall-clock times."""
        timed = ("seconds", "phase_seconds", "last_evaluation", "search_state")
        return {key: value for key, value in self.state.items() if key not in timed}


def signal_during(trainer: Trainer, step: int, name: str = "SIGTERM") -> None:
    """Let a signal arrive while `step`, counted from 0, is under way."""
    take = trainer.stepper.step

    def interrupted(images: Tensor, targets: Tensor, choice: Any, slots: Any, now: int) -> Tensor:
        if now == step:
            trainer.stop.signal_name = name
        return take(images, targets, choice, slots, now)

    trainer.stepper.step = interrupted  # type: ignore[method-assign, assignment]


def differences(one: Any, two: Any, where: str = "") -> list[str]:
    """Return where two nested values differ in any bit."""
    if isinstance(one, Tensor):
        same = isinstance(two, Tensor) and one.dtype == two.dtype and torch.equal(one, two)
        return [] if same else [where]
    if isinstance(one, dict) and isinstance(two, dict):
        if one.keys() != two.keys():
            return [f"{where} keys"]
        return [d for key in one for d in differences(one[key], two[key], f"{where}/{key}")]
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        if len(one) != len(two):
            return [f"{where} length"]
        return [
            d
            for i, (a, b) in enumerate(zip(one, two, strict=True))
            for d in differences(a, b, f"{where}/{i}")
        ]
    return [] if one == two else [f"{where}: {one} and {two}"]


@dataclass
class Bench:
    """Starts, stops and resumes small runs below one folder."""

    root: Path
    opened: OpenedData
    names: Iterator[int] = field(default_factory=itertools.count)
    plain: ClassVar = PLAIN
    rich: ClassVar = RICH
    ramped: ClassVar = staticmethod(ramped)
    differences: ClassVar = staticmethod(differences)
    signal_during: ClassVar = staticmethod(signal_during)

    def settings(self, recipe: dict[str, Any] | None = None, **changes: Any) -> RunSettings:
        values = {**RECIPES["digits"].model_dump(), **(PLAIN if recipe is None else recipe)}
        fixed: dict[str, Any] = {"device": "cpu", "amp": "none", "workers": 0, "log_every_steps": 4}
        fixed["eval_every_epochs"] = 1000.0  # at each stage end, however short the stage
        return RunSettings(
            kind="train",
            model=FullModel.of(ZOO["vit-mu"]),
            data=DataSettings(),
            recipe_name="digits",
            recipe=Recipe(**values),
            **{**fixed, **changes},
        )

    def folder(self, settings: RunSettings) -> RunFolder:
        name = f"run-{next(self.names)}"
        manifest = RunManifest(run_id=name, created="-", argv=(), versions={}, settings=settings)
        return RunFolder.create(self.root, manifest)

    def trainer(
        self, settings: RunSettings, schedule: GrowthSchedule, folder: RunFolder | None = None
    ) -> Trainer:
        where = self.folder(settings) if folder is None else folder
        return start_training(settings, where, self.opened, schedule, Job())

    def carry_out(
        self,
        trainer: Trainer,
        schedule: GrowthSchedule,
        until: Callable[[Event], bool] = lambda event: False,
    ) -> Outcome:
        """Run to the end; when `until` holds for an event, drop everything as a killed process does."""
        events = train_schedule(trainer, schedule)
        try:
            for event in events:
                trainer.folder.append(event)
                if until(event):
                    break
        except InterruptedRunError:
            pass
        finally:
            events.close()  # type: ignore[attr-defined]
            trainer.folder.close()
        return self.outcome(trainer.folder.path)

    def run(self, settings: RunSettings, schedule: GrowthSchedule) -> Outcome:
        """Train from the beginning to the end."""
        return self.carry_out(self.trainer(settings, schedule), schedule)

    def resume(self, path: Path, schedule: GrowthSchedule, settings: RunSettings) -> Outcome:
        """Go on with a run to its end."""
        return self.carry_out(self.reopened(path, schedule, settings), schedule)

    def reopened(self, path: Path, schedule: GrowthSchedule, settings: RunSettings) -> Trainer:
        return self.trainer(settings, schedule, RunFolder.reopen(path))

    def outcome(self, path: Path) -> Outcome:
        newest = path / "checkpoints" / "last.pt"
        state = torch.load(newest, weights_only=True) if newest.exists() else {}
        return Outcome(path, list(load_run(path).events()), state)


@pytest.fixture(scope="session")
def some_digits() -> OpenedData:
    train, val = open_digits()
    parts = FirstImages(train, NUM_TRAIN), FirstImages(val, NUM_VAL)
    names = train.class_names
    report = DataReport(names, *map(PartReport.of, parts))
    return OpenedData(*parts, names, "some digits", report)


@pytest.fixture
def bench(tmp_path: Path, some_digits: OpenedData) -> Bench:
    return Bench(tmp_path, some_digits)


@pytest.fixture(scope="session")
def straight(
    tmp_path_factory: pytest.TempPathFactory, some_digits: OpenedData
) -> Callable[[RunSettings, GrowthSchedule], Outcome]:
    """Return the outcome of a run that nothing interrupts; each is carried out once."""
    shared = Bench(tmp_path_factory.mktemp("straight"), some_digits)
    known: dict[str, Outcome] = {}

    def of(settings: RunSettings, schedule: GrowthSchedule) -> Outcome:
        key = f"{settings.model_dump_json()} {schedule.model_dump_json()}"
        if key not in known:
            known[key] = shared.run(settings, schedule)
        return known[key]

    return of


@pytest.fixture(scope="module")
def module_bench(tmp_path_factory: pytest.TempPathFactory, some_digits: OpenedData) -> Bench:
    """Return a bench for a run that several tests look at."""
    return Bench(tmp_path_factory.mktemp("shared"), some_digits)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Compile blocks by a backend that traces forward and backward as usual and lists the graphs."""
    torch._dynamo.reset()
    compile_blocks, found = ElasticViT.compile_blocks, []

    def listing(graph: Any, inputs: Any) -> Callable[..., Any]:
        found.append(graph)
        return aot_module_simplified(graph, inputs, fw_compiler=lambda traced, _: traced.forward)

    monkeypatch.setattr(
        ElasticViT, "compile_blocks", lambda self, *_: compile_blocks(self, True, listing)
    )
    return found
