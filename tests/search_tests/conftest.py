"""Small searches: vit-mu on some of the embedded digits, eight epochs of eight steps."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from autoprog.costs.table import CostKey
from autoprog.data.dataset import DataReport, OpenedData, PartReport
from autoprog.data.image_sources import DigitsSource, open_digits
from autoprog.decisions import Continuation, Decision, DecisionInputs
from autoprog.events import Decided, Event
from autoprog.recipe import Recipe, resolve_recipe
from autoprog.runs import Run, RunFolder, load_run
from autoprog.schedule import GrowthSchedule
from autoprog.search.searcher import Searcher, build_searcher
from autoprog.settings import DataSettings, Rule, RunManifest, RunSettings, SearchSettings
from autoprog.space import SearchSpace, SpaceFile
from autoprog.stage import FullModel
from autoprog.train.phase import Choice
from autoprog.train.run import Job, start_training, train_schedule
from autoprog.train.stop import InterruptedRunError, StopRequest
from autoprog.train.trainer import Trainer
from supernet.config import ModelSpec, Slots, SubnetConfig
from supernet.cost import relative_cost
from supernet.zoo import ZOO

BATCH = 16
NUM_IMAGES = 8 * BATCH
EPOCHS = 8.0
DEPTHS, SIZES = [1, 2, 3, 4], [8, 12, 16]
SPEC: ModelSpec = ZOO["vit-mu"]

Kind = TypeVar("Kind", bound=Event)
When = Callable[[Event], bool]


class StopAt(StopRequest):
    """A signal that comes while the given step is under way."""

    trainer: Trainer | None = None

    def __init__(self, step: int) -> None:
        self._step = step

    @property
    def signal_name(self) -> str | None:  # type: ignore[override]
        due = self.trainer is not None and self.trainer.step >= self._step
        return "SIGTERM" if due else None


def part(source: DigitsSource, count: int) -> DigitsSource:
    small = DigitsSource.__new__(DigitsSource)
    small.targets, small._images = source.targets[:count], source._images[:count]
    return small


@dataclass
class Attempt:
    """One attempt at a run: what happened, and what drove it."""

    path: Path
    events: list[Event]
    searcher: Searcher | None
    trainer: Trainer
    interrupted: bool

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def run(self) -> Run:
        return load_run(self.path)

    @property
    def best(self) -> GrowthSchedule:
        best = self.run.best
        assert best is not None
        return best

    @property
    def weights(self) -> dict[str, Tensor]:
        names = ("final", "final_ema")
        files = {name: load_file(self.path / f"checkpoints/{name}.safetensors") for name in names}
        return {f"{name}.{key}": w for name, found in files.items() for key, w in found.items()}


@dataclass
class Lab:
    """Makes settings, costs and runs below one folder."""

    folder: Path
    opened: OpenedData
    script: dict[int, SubnetConfig] = field(default_factory=dict)
    continuation: Continuation = ()
    repeated: RunSettings | None = None

    def space(
        self,
        depths: list[int] | None = None,
        sizes: list[int] | None = None,
        rates: list[float] | None = None,
        **decisions: Any,
    ) -> SearchSpace:
        file = SpaceFile.model_validate(
            {
                "axes": {
                    "depth": {"values": depths or DEPTHS},
                    "img_size": {"values": sizes or SIZES},
                    "keep_rate": {"values": rates or [1.0]},
                },
                "decisions": {
                    "num_stages": 4,
                    "supernet_epochs": 1,
                    "num_points": 2,
                    "supernet_fraction": 0.25,
                    "min_visits": 0.5,
                    "good_visits": 0.5,
                    "search_fraction": 0.9,
                    "max_candidates": 12,
                    "continuation_trials": 20,
                    **decisions,
                },
            }
        )
        return file.space(SPEC, "test")

    def settings(
        self,
        rule: Rule = "rollout",
        space: SearchSpace | None = None,
        costs: Path | None = None,
        recipe: dict[str, Any] | None = None,
        budget_seconds: float | None = None,
        cost_fraction: float | None = None,
        **values: Any,
    ) -> RunSettings:
        layer = {"epochs": EPOCHS, "batch_size": BATCH, **(recipe or {})}
        chosen: Recipe = resolve_recipe("digits", ("test", layer))
        search = SearchSettings(
            space=space or self.space(),
            space_from="test",
            rule=rule,
            budget_seconds=budget_seconds,
            cost_fraction=cost_fraction,
            costs_from=None if costs is None else str(costs),
        )
        return self._settings(kind="search", recipe=chosen, search=search, **values)

    def train_settings(self, **values: Any) -> RunSettings:
        recipe = resolve_recipe("digits", ("test", {"epochs": EPOCHS, "batch_size": BATCH}))
        return self._settings(kind="train", recipe=recipe, **values)

    def _settings(self, **values: Any) -> RunSettings:
        fixed = {
            "model": FullModel.of(SPEC),
            "data": DataSettings(),
            "recipe_name": "digits",
            "device": "cpu",
            "amp": "none",
            "workers": 0,
            "threads": 1,
            "log_every_steps": 3,
            "eval_every_epochs": 1000.0,  # at each stage end, however short the stage
        }
        return RunSettings.model_validate({**fixed, **values})

    def costs(self, name: str = "given.json", **changed: float) -> Path:
        """Write the cost of every cell: proportional to multiply-accumulates, unless changed."""
        sizes = [SubnetConfig(depth, size) for depth in DEPTHS for size in SIZES]
        table = {CostKey(s, BATCH).name: 0.01 * relative_cost(SPEC, s) for s in sizes}
        path = self.folder / name
        path.write_text(json.dumps({**table, **changed}), encoding="utf-8")
        return path

    def open(self, settings: RunSettings, name: str) -> RunFolder:
        path = self.folder / name
        if path.exists():
            return RunFolder.reopen(path)
        manifest = RunManifest(run_id=name, created="now", argv=(), versions={}, settings=settings)
        return RunFolder.create(self.folder, manifest)

    def prepare(self, settings: RunSettings, name: str = "run") -> Searcher:
        """Build a search without carrying it out."""
        return build_searcher(settings, self.open(settings, name), self.opened, Job())

    def search(
        self,
        settings: RunSettings,
        name: str = "run",
        stop_at: int | None = None,
        crash_when: When | None = None,
        stop: StopRequest | None = None,
    ) -> Attempt:
        """Carry out a search, or go on with it, until a signal (at a step) or a crash at an event."""
        folder = self.open(settings, name)
        stop = stop or (StopRequest() if stop_at is None else StopAt(stop_at))
        searcher = build_searcher(settings, folder, self.opened, Job(stop))
        stop.trainer = searcher.trainer  # type: ignore[attr-defined]
        events = searcher.run()
        return _carry_out(events, folder, searcher, searcher.trainer, crash_when)

    def train(
        self, settings: RunSettings, schedule: GrowthSchedule, name: str = "train"
    ) -> Attempt:
        folder = self.open(settings, name)
        trainer = start_training(settings, folder, self.opened, schedule, Job())
        return _carry_out(train_schedule(trainer, schedule), folder, None, trainer, None)


def _carry_out(
    events: Iterator[Event],
    folder: RunFolder,
    searcher: Searcher | None,
    trainer: Trainer,
    crash_when: When | None,
) -> Attempt:
    attempt = Attempt(folder.path, [], searcher, trainer, interrupted=False)
    try:
        for event in events:
            folder.append(event)
            attempt.events.append(event)
            if crash_when is not None and crash_when(event):
                attempt.interrupted = True
                break
    except InterruptedRunError:
        attempt.interrupted = True
    finally:
        events.close()  # type: ignore[attr-defined]
        folder.close()
    return attempt


def _scripted(lab: Lab, decide: Callable[..., Decision]) -> Callable[..., Decision]:
    """Let the script choose the winner and the continuation; everything else of a decision stays as it is."""

    def scripted(*args: Any, **fields: Any) -> Decision:
        decision = decide(*args, **fields)
        wanted = lab.continuation[0][1] if lab.continuation else lab.script.get(decision.index)
        subnets = [candidate.subnet for candidate in decision.candidates]
        if wanted is None or wanted not in subnets:
            return decision
        winner = subnets.index(wanted)
        continuation = lab.continuation or decision.candidates[winner].continuation
        return decision.model_copy(update={"winner": winner, "continuation": continuation})

    return scripted


@pytest.fixture(autouse=True)
def quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: no test here cuts the power, and the waits are a third of the time."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(scope="module", autouse=True)
def longer_averages() -> Iterator[None]:
    """Average over a tenth of a run: of so few steps a 40th would make all averages of a search alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoprog.train.optim._LONGEST_FRACTION", 0.1)
        yield


@pytest.fixture(scope="session")
def small_digits() -> OpenedData:
    torch.set_num_threads(1)
    train, val = open_digits()
    names, parts = train.class_names, (part(train, NUM_IMAGES), part(val, 64))
    return OpenedData(*parts, names, "digits", DataReport(names, *map(PartReport.of, parts)))


@pytest.fixture(scope="session")
def new_lab(
    tmp_path_factory: pytest.TempPathFactory, small_digits: OpenedData
) -> Callable[[], Lab]:
    """Makes labs for runs that several tests look at."""
    return lambda: Lab(tmp_path_factory.mktemp("lab"), small_digits)


@pytest.fixture
def lab(tmp_path: Path, small_digits: OpenedData, monkeypatch: pytest.MonkeyPatch) -> Lab:
    from autoprog.search import searcher

    made = Lab(tmp_path, small_digits)
    monkeypatch.setattr(searcher, "decide", _scripted(made, searcher.decide))
    return made


@pytest.fixture(scope="session")
def begun(
    tmp_path_factory: pytest.TempPathFactory, small_digits: OpenedData
) -> Callable[[Rule], Run]:
    """Runs by each rule up to their second decision, or their only one; nothing is scripted."""

    @cache
    def begin(rule: Rule) -> Run:
        made = Lab(tmp_path_factory.mktemp("begun"), small_digits)
        budget = 1e3 if rule == "budget" else None
        given = made.settings(rule, costs=made.costs(), budget_seconds=budget)
        last = 0 if budget or rule == "pareto" else 1
        return made.search(given, crash_when=lambda event: _decided(event, last)).run

    return begin


def _decided(event: Event, index: int) -> bool:
    return isinstance(event, Decided) and event.decision.index == index


@dataclass
class Observed:
    """A whole search, and what was seen inside it, each by the step at which it was."""

    attempt: Attempt
    given: Path
    script: dict[int, SubnetConfig]
    samples: dict[int, list[int]] = field(default_factory=dict)
    trained: list[tuple[int, Choice, Slots]] = field(default_factory=list)
    estimated: list[tuple[int, Choice]] = field(default_factory=list)
    compacted: list[tuple[int, Slots]] = field(default_factory=list)
    logits_around_compaction: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    costs_at_decisions: list[tuple[set[str], dict[str, float]]] = field(default_factory=list)


SCRIPTS: dict[Rule, dict[int, SubnetConfig]] = {
    "rollout": {0: SubnetConfig(3, 12), 1: SubnetConfig(3, 16)},
    "autoprog": {0: SubnetConfig(1, 8), 1: SubnetConfig(3, 12), 2: SubnetConfig(4, 12)},
}


def _observe(lab: Lab, rule: Rule, patch: pytest.MonkeyPatch) -> Observed:
    from autoprog.data import loader
    from autoprog.search import searcher
    from autoprog.train import trainer as entry_module
    from autoprog.train.step import Stepper

    given = lab.costs()
    settings = lab.settings(rule, costs=given)
    seen = Observed(None, given, lab.script)  # type: ignore[arg-type]
    plan_batches, step_of = loader.plan_batches, Stepper.step
    estimate_losses, compact, decide = (
        searcher.estimate_losses,
        entry_module.compact,
        searcher.decide,
    )

    def planned(stream: Any, first_sample: int, batch_size: int, *rest: Any) -> Iterator[Any]:
        batches = plan_batches(stream, first_sample, batch_size, *rest)
        for number, batch in enumerate(batches, first_sample // batch_size):
            seen.samples[number] = [index for index, _, _ in batch]
            yield batch

    def stepped(self: Stepper, images: Tensor, targets: Tensor, *rest: Any) -> Tensor:
        choice, slots, step = rest
        seen.trained.append((step, choice, slots))
        return step_of(self, images, targets, *rest)

    def estimated(trainer: Trainer, choice: Choice) -> list[float]:
        seen.estimated.append((trainer.step, choice))
        return estimate_losses(trainer, choice)

    def compacted(model: Any, averages: list[Any], optimizer: Any, slots: Slots) -> None:
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        networks = [model, *averages]
        subnet = SubnetConfig(tuple(map(len, slots)), 12)
        before = [_logits(network, images, subnet, slots) for network in networks]
        compact(model, averages, optimizer, slots)
        after = [_logits(network, images, subnet, None) for network in networks]
        seen.compacted.append((seen.trained[-1][0] + 1, slots))
        seen.logits_around_compaction.extend(zip(before, after, strict=True))

    def decided(chooser: Any, inputs: DecisionInputs) -> Decision:
        decision = decide(chooser, inputs)
        asked = {CostKey(subnet, BATCH).name for subnet in inputs.candidates}
        seen.costs_at_decisions.append((asked, load_run(lab.folder / "run").costs))
        return decision

    patch.setattr(loader, "plan_batches", planned)
    patch.setattr(Stepper, "step", stepped)
    patch.setattr(searcher, "estimate_losses", estimated)
    patch.setattr(entry_module, "compact", compacted)
    patch.setattr(searcher, "decide", decided)
    seen.attempt = lab.search(settings)
    return seen


@torch.no_grad()
def _logits(network: Any, images: Tensor, subnet: SubnetConfig, slots: Slots | None) -> Tensor:
    training = network.training
    found: Tensor = network.eval()(images, subnet, slots)
    network.train(training)
    return found


@pytest.fixture(scope="session")
def observations(
    tmp_path_factory: pytest.TempPathFactory, small_digits: OpenedData
) -> Callable[[Rule], Observed]:
    from autoprog.search import searcher

    @cache
    def observe(rule: Rule) -> Observed:
        made = Lab(tmp_path_factory.mktemp("straight"), small_digits, SCRIPTS[rule])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(searcher, "decide", _scripted(made, searcher.decide))
            return _observe(made, rule, patch)

    return observe


@pytest.fixture(params=["rollout", "autoprog"])
def observed(request: pytest.FixtureRequest, observations: Callable[[Rule], Observed]) -> Observed:
    """A whole search by each rule whose winners are scripted, so that it grows by way of all axes."""
    return observations(request.param)
