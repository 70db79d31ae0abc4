"""The arms of a verification beside its two: more lengths, a longer baseline, and controls."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from autoprog.bounds import Few, range_of
from autoprog.commands.configure import Configured, space_name
from autoprog.costs.model import CostModel
from autoprog.costs.predict import predict_seconds
from autoprog.errors import ConfigError
from autoprog.proof.arms import ArmSettings
from autoprog.proof.controls import (
    Control,
    Cost,
    always,
    epochs_of_cost,
    macs_cost,
    ramps,
    random_schedules,
)
from autoprog.proof.pairs import OtherArm
from autoprog.search.profile import Costs
from autoprog.space import SearchSpace, find_space
from autoprog.steptable import StepTable
from autoprog.train.engine import step_table, steps_per_epoch_of

__all__ = ["Others", "other_arms"]

_CONTROLS = ("reannealed", "ramp", "random")
_RANDOM_SCHEDULES = 3


@dataclass(frozen=True)
class Others:
    """Other arms, and what makes the controls among them cost as much as the candidate."""

    arms: tuple[OtherArm, ...]
    equal_by: str = ""


def other_arms(
    args: argparse.Namespace,
    arms: tuple[Configured, Configured],
    settings: tuple[ArmSettings, ArmSettings],
    file: str | None,
) -> Others:
    """Return the arms asked for beside `arms`, baseline and candidate, which `settings` say.

    Raises:
        ConfigError: If one cannot be made.
    """
    for flag in ("controls_space", "costs"):
        if hasattr(args, flag) and not hasattr(args, "controls"):
            name = "--" + flag.replace("_", "-")
            raise ConfigError(name, "", "must be given together with --controls")
    longer = _longer(args, arms[0], settings[0])
    found = [*_lengths(args, arms, settings[1]), *longer]
    if not hasattr(args, "controls"):
        return Others(tuple(found))
    controls, equal_by = _controls(args, arms, file)
    return Others((*found, *(_control_arm(one, settings[0]) for one in controls)), equal_by)


def _lengths(
    args: argparse.Namespace, arms: tuple[Configured, Configured], settings: ArmSettings
) -> list[OtherArm]:
    """Return the candidate at other lengths, the shortest first; of a search by time these are its shares."""
    baseline, candidate = arms
    shares = sorted(getattr(args, "lengths", ()))
    search = candidate.settings.search
    by_time = None if search is None else search.time_share
    times = candidate.settings.recipe.epochs / baseline.settings.recipe.epochs
    own = times * (1.0 if by_time is None else by_time)
    for index, share in enumerate(shares):
        if not 0 < share <= 100:
            raise ConfigError("--lengths", "", "must lie in (0, 100]", share)
        if share in shares[:index]:
            raise ConfigError("--lengths", "", "must differ", share)
        if abs(share - own) < 1e-9:
            law = f"must leave out {own:g}: the candidate has that length"
            raise ConfigError("--lengths", "", law, share)
    if by_time is not None:
        return [_at_time_share(share, times, candidate, settings) for share in shares]
    return [
        OtherArm(
            name=f"candidate-{share:g}",
            role="length",
            settings=settings.having(epochs=f"{_at(candidate, share / own):g}"),
            epochs=_at(candidate, share / own),
            about=f"at {share:g} x the baseline's epochs",
        )
        for share in shares
    ]


def _at_time_share(
    share: float, times: float, candidate: Configured, settings: ArmSettings
) -> OtherArm:
    """Return a search at another share of the baseline's time.

    Its own share is of the time of the full model over the candidate's epochs, `times` the baseline's.

    Raises:
        ConfigError: If that is longer than the full model takes.
    """
    if share > times:
        law = f"must be at most {times:g} for a search whose length is a share of the time"
        raise ConfigError("--lengths", "", law, share, "or give --same-epochs after --")
    return OtherArm(
        name=f"candidate-{share:g}",
        role="length",
        settings=settings.having(time_share=f"{share / times:g}"),
        epochs=share * candidate.settings.recipe.epochs / times,  # full ones, which take as long
        about=f"at {share:g} of the baseline's time",
    )


def _longer(
    args: argparse.Namespace, baseline: Configured, settings: ArmSettings
) -> list[OtherArm]:
    if not hasattr(args, "baseline_longer"):
        if hasattr(args, "longer_seeds"):
            law = "must be given together with --baseline-longer"
            raise ConfigError("--longer-seeds", "", law)
        return []
    times = args.baseline_longer
    if not 1 < times <= 100:
        raise ConfigError("--baseline-longer", "", "must lie in (1, 100]", times)
    epochs, seeds = _at(baseline, times), getattr(args, "longer_seeds", None)
    if seeds is not None and seeds < 1:
        raise ConfigError("--longer-seeds", "", "must be at least 1", seeds)
    return [
        OtherArm(
            name=f"baseline-{times:g}",
            role="longer",
            settings=settings.having(epochs=f"{epochs:g}"),
            epochs=epochs,
            about=f"at {times:g} x its epochs",
            seeds=seeds,
        )
    ]


def _at(arm: Configured, times: float) -> float:
    """Return so many times the epochs of an arm.

    Raises:
        ConfigError: If a stage of its schedule is shorter than a step then.
    """
    recipe = arm.settings.recipe
    epochs = float(f"{times * recipe.epochs:g}")  # as the word says
    if arm.schedule is not None:
        longer = recipe.model_copy(update={"epochs": epochs})
        step_table(longer, arm.schedule, len(arm.opened.train))
    return epochs


def _controls(
    args: argparse.Namespace, arms: tuple[Configured, Configured], file: str | None
) -> tuple[list[Control], str]:
    """Return the controls asked for, and what makes them cost as much as the candidate."""
    baseline, candidate = arms
    wanted = _wanted(args.controls)
    if candidate.schedule is None or baseline.schedule is None:
        cure = "verify the best.yaml of a search, whose cost is known before it runs"
        raise ConfigError("--controls", "", "must be given together with --schedule", cure=cure)
    settings, num_images = candidate.settings, len(candidate.opened.train)
    steps_per_epoch = steps_per_epoch_of(num_images, settings.recipe.batch_size)
    cost, equal_by = _cost(args, candidate, file)
    target = cost(step_table(settings.recipe, candidate.schedule, num_images))
    found, lr = [], candidate.schedule.lr
    if "reannealed" in wanted:
        epochs = epochs_of_cost(always(baseline.schedule), steps_per_epoch, cost, target)
        found.append(
            Control("reannealed", "the baseline, annealed sooner", baseline.schedule, epochs)
        )
    if "ramp" in wanted:
        found += ramps(_space(args, candidate), lr, steps_per_epoch, cost, target)
    if "random" in wanted:
        count, seed = wanted["random"], getattr(args, "seed", 0)
        space = _space(args, candidate)
        found += random_schedules(space, lr, steps_per_epoch, cost, target, count, seed)
    return found, equal_by


def _wanted(words: list[str]) -> dict[str, int]:
    """Return the names of controls with how many of each kind."""
    wanted: dict[str, int] = {}
    for word in words:
        name, colon, number = word.partition(":")
        try:
            count = range_of(Few)(number) if colon else _RANDOM_SCHEDULES
        except argparse.ArgumentTypeError:
            count = 0
        if name not in _CONTROLS or not count or (colon and name != "random"):
            law = f"must be {', '.join(_CONTROLS)} or random:N"
            raise ConfigError("--controls", "", law, word)
        if name in wanted:
            raise ConfigError("--controls", "", "must differ", word)
        wanted[name] = int(count)
    return wanted


def _cost(args: argparse.Namespace, candidate: Configured, file: str | None) -> tuple[Cost, str]:
    """Return what steps cost: by measured seconds where there are some, else by compute."""
    spec, batch_size = candidate.settings.model.spec(), candidate.settings.recipe.batch_size
    beside = None if file is None else Path(file).with_name("costs.json")
    is_found = beside is not None and Path(file or "").name == "best.yaml" and beside.exists()
    path = getattr(args, "costs", beside if is_found else None)
    if path is None:
        return macs_cost(spec), "training MACs"
    table = Costs.read(Path(path), batch_size).table
    if not table.cells:
        raise ConfigError(str(path), "", "must hold at least one cell")
    model = CostModel(spec, table)

    def seconds(steps: StepTable) -> float:
        return predict_seconds(steps, model, batch_size).total

    return seconds, f"seconds predicted from {path}"


def _space(args: argparse.Namespace, candidate: Configured) -> SearchSpace:
    settings = candidate.settings
    spec = settings.model.spec()
    given = getattr(args, "controls_space", None)
    file, where = find_space(given or space_name(args, settings.data, spec), spec.name)
    space = file.space(spec, where)
    return space.at_full_depth() if settings.has_initial_weights else space


def _control_arm(control: Control, baseline: ArmSettings) -> OtherArm:
    """Return the arm of a control: a run as the baseline, along another schedule for other epochs."""
    is_constant = control.name == "reannealed"
    along = baseline if is_constant else baseline.following_file()
    return OtherArm(
        name=control.name,
        role="control",
        settings=along.having(epochs=repr(control.epochs)),
        schedule=None if is_constant else control.schedule.to_yaml(),
        epochs=control.epochs,
        about=control.about,
    )
