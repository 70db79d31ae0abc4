"""What a run says before it starts and after it has ended."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from autoprog.console import Console
from autoprog.fidelity_report import read_fidelity
from autoprog.options import flag_words, flags_of_model
from autoprog.recipe import RECIPES, Recipe, default_recipe_name
from autoprog.runs import RunFolder
from autoprog.search.plan import SearchPlan, point_candidates
from autoprog.settings import DataSettings, RunManifest, RunSettings, SearchSettings
from autoprog.ui.search_sections import fidelity_lines

if TYPE_CHECKING:
    from autoprog.commands.configure import Configured

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
        return (
            f"{search.trials} trials by {search.sampler}, each on {search.proxy:.0%} of the images and"
            f" epochs; rule {search.rule} chooses"
        )
    space = search.space
    if search.cost_fraction is not None:  # the length of the run is a time
        dates = ", ".join(f"{point.start_step / plan.total_steps:.0%}" for point in plan.points)
        most = min(space.decisions.max_candidates, len(space.above(space.smallest)))
        return (
            f"rule {search.rule}: {search.cost_fraction:.0%} of the time of the full model over these"
            f" epochs; decisions at {dates} of it, at most {most} candidates each, supernet"
            f" {plan.supernet_steps / plan.total_steps:.1%}; full model from"
            f" {plan.full_step / plan.total_steps:.0%} at the latest"
        )
    epoch = plan.total_steps / settings.recipe.epochs
    dates = ", ".join(f"{point.start_step / epoch:.3g}" for point in plan.points)
    first = point_candidates(search.rule, space, space.smallest, first=True)
    most = min(space.decisions.max_candidates, len(first))
    return (
        f"rule {search.rule}: decisions at epochs {dates}, at most {most} candidates each, supernet"
        f" {plan.supernet_steps / epoch:.3g} epochs; full model from epoch"
        f" {plan.full_step / epoch:.4g} at the latest"
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
        fidelity = read_fidelity(folder)
        lost = ["not measured: the decision was not taken, or its start is lost"]
        for line in lost if fidelity is None else fidelity_lines(fidelity):
            _say(console, "fidelity", line)
    if settings.kind == "search":
        _say(console, "found", f"{folder / 'best.yaml'}", to_copy=True)
        words = ["--schedule", str(folder / "best.yaml"), *_data_words(settings)]
        words += [*_recipe_words(run.manifest), *_setting_words(settings, "first weights")]
        _say(console, "repeat it", f"autoprog train {shlex.join(words)}", to_copy=True)
    where = shlex.quote(str(folder))
    if settings.kind == "search" or settings.schedule_from != "constant":
        _say(console, "compare it", _comparison_command(run), to_copy=True)
    _say(console, "look at it", f"autoprog show {where}", to_copy=True)
    export = f"autoprog export {where} --output {settings.model.model}.pth"
    _say(console, "take it", export, to_copy=True)
    if settings.data.embedded:  # a demonstration, after which comes the user's own data
        model = settings.model.model
        name = shlex.quote(str(settings.schedule_from))
        schedule = "" if settings.kind == "search" else f" --schedule {name}"
        command = f"autoprog {settings.kind}{schedule} --model {model} --data DIR"
        _say(console, "real thing", command, to_copy=True)


def _comparison_command(run: RunFolder) -> str:
    """Return the commands that train the full model likewise, and set the run beside it."""
    settings, parent = run.manifest.settings, run.path.parent
    recipe, model = settings.recipe, settings.model
    words = ["--schedule", "constant", "--model", model.model, "--img-size", str(model.img_size)]
    words += [*_data_words(settings), "--recipe", settings.recipe_name]
    words += flag_words(
        flags_of_model(Recipe),
        {"epochs": recipe.epochs, "sched": recipe.sched, **_own_values(settings)},
    )
    if settings.time_budget_seconds is not None:
        words += ["--time-budget", f"{settings.time_budget_seconds:g}s"]
    words += ["--seed", str(settings.seed)]
    words += _setting_words(settings, "first weights", "device", "run")
    # ``last`` is the newest run of that folder, which the first command will have made.
    place = "" if str(parent) == "runs" else f" --runs-dir {shlex.quote(str(parent))}"
    own = shlex.quote(str(run.path))
    return f"autoprog train {shlex.join(words)}{place} && autoprog compare last {own}{place}"


def _setting_words(settings: RunSettings, *groups: str) -> list[str]:
    """Return the flags of some groups of settings whose values are not the default; the seed is left out."""
    values = settings.model_dump(exclude_defaults=True, exclude={"seed"})
    flags = (
        flag
        for group in groups
        for flag in flags_of_model(RunSettings)
        if flag.option.group == group
    )
    return flag_words(flags, values)


def _own_values(settings: RunSettings) -> dict[str, object]:
    """Return the values of a recipe that are not those of the recipe it is based on."""
    named = RECIPES[settings.recipe_name].model_dump()
    own = {k: v for k, v in settings.recipe.model_dump().items() if v != named[k]}
    # How a flag turns off what a named recipe has.
    off = {"aa": "none", "clip_grad": 0, "layer_decay": 1}
    return {key: off[key] if value is None else value for key, value in own.items()}


def _recipe_words(manifest: RunManifest) -> list[str]:
    """Return the flags of a search's recipe, but for what the schedule that it found holds."""
    settings, data = manifest.settings, manifest.data
    words = flag_words(
        (flag for flag in flags_of_model(Recipe) if flag.field not in ("epochs", "sched")),
        _own_values(settings),
    )
    assert data is not None, "a run that has just ended recorded its images"
    search, num_images = settings.search, data.num_train_images
    if search is not None and search.trials is None:
        num_images = round(num_images / search.proxy)  # as many as are trained on again
    embedded, has_weights = settings.data.embedded, settings.has_initial_weights
    if settings.recipe_name != default_recipe_name(num_images, embedded, has_weights):
        words = ["--recipe", settings.recipe_name, *words]
    return words


def _say_common(console: Console, configured: Configured, folder: RunFolder) -> None:
    settings, recipe = configured.settings, configured.settings.recipe
    budget = settings.time_budget_seconds
    length = f"{recipe.epochs:g} epochs" if budget is None else f"{budget:g} s"
    _say(console, "data", configured.opened.description)
    for line in configured.opened.report.lines():
        _say(console, "", line)
    # Nobody asked for it by name, so it is said why.
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
    search, values = settings.search, settings.data.model_dump(exclude_defaults=True)
    if search is not None and search.trials is None:
        values["fraction"] = settings.data.fraction / search.proxy
        if values["fraction"] >= 1:  # all of it was the proxy's
            del values["fraction"]
    return flag_words(flags_of_model(DataSettings), values)


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
