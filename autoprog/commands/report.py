"""What a run says before it starts and after it has ended."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from autoprog.commands.configure import Configured
from autoprog.commands.flags import (
    LOGGER_SETTINGS,
    add_initial_flags,
    add_recipe_flags,
    add_run_flags,
    flag_of,
    words_of,
)
from autoprog.console import Console
from autoprog.decisions import Fidelity, read_fidelity
from autoprog.recipe import RECIPES
from autoprog.runs import RunFolder
from autoprog.search.plan import SearchPlan, point_candidates
from autoprog.settings import RunSettings, SearchSettings
from autoprog.ui.search_sections import fidelity_lines

__all__ = ["announce_search", "announce_train", "farewell", "plan_text", "space_text"]


def announce_search(
    console: Console, configured: Configured, folder: RunFolder, plan: SearchPlan | None
) -> None:
    """Print the plan of a search: what it may choose from, and when it decides or what it tries."""
    settings = configured.settings
    search = settings.search
    assert search is not None
    _say(
        console,
        "search",
        f"{settings.model.model} at {settings.model.img_size} px, seed {settings.seed}",
    )
    _say_common(console, configured, folder)
    _say(console, "space", space_text(search))
    _say(console, "plan", plan_text(settings, plan))


def space_text(search: SearchSettings) -> str:
    """Return what a search may choose from."""
    space = search.space
    kept = " ".join(f"{rule.keep_rate:g}" for rule in space.keep_rates)
    rates = f" · keep-rate {kept}" if len(space.keep_rates) > 1 else ""
    depths = " ".join("+".join(map(str, depth)) for depth in space.depths)
    sizes = " ".join(map(str, space.sizes))
    return f"depth {depths} · size {sizes} px{rates} ({search.space_from})"


def plan_text(settings: RunSettings, plan: SearchPlan | None) -> str:
    """Return when a search decides, and between how many; of one by trials what it tries."""
    search = settings.search
    assert search is not None
    if plan is None:
        return _trials_text(search)
    if search.cost_fraction is not None:
        return _time_text(search, plan)
    epoch, space = plan.total_steps / settings.recipe.epochs, search.space
    dates = ", ".join(f"{point.start_step / epoch:.3g}" for point in plan.points)
    first = point_candidates(search.rule, space, space.smallest, first=True)
    most = min(space.decisions.max_candidates, len(first))
    return (
        f"rule {search.rule}: decisions at epochs {dates}, at most {most} candidates each, supernet"
        f" {plan.supernet_steps / epoch:.3g} epochs; full model from epoch"
        f" {plan.full_step / epoch:.4g} at the latest"
    )


def _time_text(search: SearchSettings, plan: SearchPlan) -> str:
    """Return when a search decides whose length is a time."""
    assert search.cost_fraction is not None
    dates = ", ".join(f"{point.start_step / plan.total_steps:.0%}" for point in plan.points)
    most = min(
        search.space.decisions.max_candidates, len(search.space.above(search.space.smallest))
    )
    return (
        f"rule {search.rule}: {search.cost_fraction:.0%} of the time of the full model over these epochs;"
        f" decisions at {dates} of it, at most {most} candidates each, supernet"
        f" {plan.supernet_steps / plan.total_steps:.1%}; full model from"
        f" {plan.full_step / plan.total_steps:.0%} at the latest"
    )


def _trials_text(search: SearchSettings) -> str:
    return (
        f"{search.trials} trials by {search.sampler}, each on {search.proxy:.0%} of the images and epochs;"
        f" rule {search.rule} chooses"
    )


def announce_train(console: Console, configured: Configured, folder: RunFolder) -> None:
    """Print what a training run is about to do."""
    settings = configured.settings
    _say(
        console,
        "train",
        f"{settings.model.model} at {settings.model.img_size} px, seed {settings.seed}",
    )
    _say_common(console, configured, folder)
    _say(console, "schedule", f"{settings.schedule_from}")


def farewell(console: Console, run: RunFolder, settings: RunSettings) -> None:
    """Print where everything lies and what to do next."""
    folder = run.path
    if settings.search is not None and settings.search.fidelity is not None:
        _say_fidelity(console, read_fidelity(folder))
    if settings.kind == "search":
        _say(console, "found", f"{folder / 'best.yaml'}", to_copy=True)
        words = ["--schedule", str(folder / "best.yaml"), *_data_words(settings)]
        words += _recipe_words(run.manifest.argv)
        _say(console, "repeat it", f"autoprog train {shlex.join(words)}", to_copy=True)
    where = shlex.quote(str(folder))
    if settings.kind == "search" or settings.schedule_from != "constant":
        _say(console, "compare it", _comparison_command(run), to_copy=True)
    _say(console, "look at it", f"autoprog show {where}", to_copy=True)
    export = f"autoprog export {where} --output {settings.model.model}.pth"
    _say(console, "take it", export, to_copy=True)
    if settings.data.embedded:
        model = settings.model.model
        name = shlex.quote(str(settings.schedule_from))
        schedule = "" if settings.kind == "search" else f" --schedule {name}"
        command = f"autoprog {settings.kind}{schedule} --model {model} --data DIR"
        _say(console, "real thing", command, to_copy=True)


_OFF = {"aa": "none", "clip_grad": 0, "layer_decay": 1}
"""How a flag turns off what a named recipe has."""


def _comparison_command(run: RunFolder) -> str:
    """Return the commands that train the full model likewise, and set the run beside it."""
    settings, parent = run.manifest.settings, run.path.parent
    recipe, model = settings.recipe, settings.model
    words = ["--schedule", "constant", "--model", model.model, "--img-size", str(model.img_size)]
    words += [*_data_words(settings), "--recipe", settings.recipe_name]
    named = RECIPES[settings.recipe_name].model_dump()
    for name, value in recipe.model_dump().items():
        if name in ("epochs", "sched") or value != named[name]:
            if value is None:
                value = _OFF[name]
            values = value if isinstance(value, list | tuple) else [value]
            words += [
                flag_of(name),
                *(f"{one:g}" if isinstance(one, float) else str(one) for one in values),
            ]
    if settings.time_budget_seconds is not None:
        words += ["--time-budget", f"{settings.time_budget_seconds:g}s"]
    words += ["--seed", str(settings.seed), *_carried_out_words(run.manifest.argv)]
    place = "" if str(parent) == "runs" else f" --runs-dir {shlex.quote(str(parent))}"
    own = shlex.quote(str(run.path))
    return f"autoprog train {shlex.join(words)}{place} && autoprog compare last {own}{place}"


def _carried_out_words(argv: Sequence[str]) -> list[str]:
    """Return the given flags of first weights and of how a run is carried out."""
    if tuple(argv[:1]) != ("autoprog",) or tuple(argv[1:2]) not in (("search",), ("train",)):
        return []  # another program has called it
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_initial_flags(parser)
    add_run_flags(parser)
    known = ("seed", "runs_dir", "resume", "quiet", *LOGGER_SETTINGS)
    actions = [one for one in parser._actions if one.dest not in known]
    for one in actions:
        one.default = argparse.SUPPRESS
    args, _ = parser.parse_known_args(argv[2:])
    return words_of(args, actions)


def _say_fidelity(console: Console, fidelity: Fidelity | None) -> None:
    if fidelity is None:
        _say(console, "fidelity", "not measured: the decision was not taken, or its start is lost")
        return
    for line in fidelity_lines(fidelity):
        _say(console, "fidelity", line)


def _say_common(console: Console, configured: Configured, folder: RunFolder) -> None:
    settings, recipe = configured.settings, configured.settings.recipe
    budget = settings.time_budget_seconds
    length = f"{recipe.epochs:g} epochs" if budget is None else f"{budget:g} s"
    _say(console, "data", configured.opened.description)
    for line in configured.opened.report.lines():
        _say(console, "", line)
    is_default = settings.recipe_name == "finetune" and "--recipe" not in folder.manifest.argv
    because = ", because weights are given" if is_default else ""
    _say(
        console,
        "recipe",
        f"{settings.recipe_name}{because}: {length}, batch {recipe.batch_size}, {recipe.opt},"
        f" lr {recipe.peak_lr:.3g} {recipe.sched}",
    )
    if settings.has_initial_weights:
        start = f"pretrained {settings.model.timm}" if settings.pretrained else ""
        _say(console, "weights", start or str(settings.initial_checkpoint))
    _say(console, "folder", str(folder.path), to_copy=True)


def _data_words(settings: RunSettings) -> list[str]:
    """Return the flags of the data of a search, of which ``--proxy`` may have taken a fraction beside."""
    data, search = settings.data, settings.search
    given = {
        "--data": data.dir,
        "--dataset": data.dataset,
        "--data-dir": data.data_dir,
        "--train-split": data.train_split if data.train_split != "train" else None,
        "--val-split": data.val_split if data.val_split != "validation" else None,
        "--input-key": data.input_key,
        "--target-key": data.target_key,
        "--num-classes": data.num_classes,
        "--class-folders": data.class_folders if data.class_folders != "auto" else None,
        "--white-level": data.white_level,
        "--val-fraction": data.val_fraction,
        "--val-seed": data.val_seed if data.val_seed else None,
    }
    words = [w for flag, value in given.items() if value is not None for w in (flag, str(value))]
    beside = search.proxy if search is not None and search.trials is None else 1.0
    if (fraction := data.fraction / beside) < 1:
        words += ["--data-fraction", f"{fraction:g}"]
    return words + (["--held-out"] if data.on_held_out else [])


def _recipe_words(argv: Sequence[str]) -> list[str]:
    """Return the given flags of recipe and first weights, but for what the schedule of a search holds."""
    if tuple(argv[:2]) != ("autoprog", "search"):  # another program has called it
        return []
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_recipe_flags(parser)
    add_initial_flags(parser)
    args, _ = parser.parse_known_args(argv[2:])
    return words_of(args, (one for one in parser._actions if one.dest not in ("epochs", "sched")))


def _say(console: Console, name: str, text: str, *, to_copy: bool = False) -> None:
    """Print a line; the text is what it is, whatever brackets a path in it has.

    On a terminal it is broken between words, but for what is ``to_copy``, which stays one line.
    """
    if to_copy or not console.is_terminal:
        console.print(Text.assemble((f"{name:<10}", "bold"), f" {text}"), soft_wrap=True)
        return
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(width=10)
    table.add_column(overflow="fold")
    table.add_row(Text(name, "bold"), Text(text))
    console.print(table)
