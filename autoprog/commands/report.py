"""What a run says before it starts and after it has ended."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from autoprog.commands.configure import Configured
from autoprog.runs import RunFolder
from autoprog.search.plan import SearchPlan, point_candidates
from autoprog.settings import RunSettings

__all__ = ["announce_search", "announce_train", "farewell"]


def announce_search(
    console: Console, configured: Configured, folder: RunFolder, plan: SearchPlan
) -> None:
    """Print the plan of a search: what it may choose from, and when it decides."""
    settings = configured.settings
    search = settings.search
    assert search is not None
    space = search.space
    epoch = plan.total_steps / settings.recipe.epochs
    dates = ", ".join(f"{point.start_step / epoch:g}" for point in plan.points)
    most = min(
        space.decisions.max_candidates,
        len(point_candidates(search.rule, space, space.smallest, first=True)),
    )
    _say(
        console,
        "search",
        f"{settings.model.model} at {settings.model.img_size} px, seed {settings.seed}",
    )
    _say_common(console, configured, folder)
    depths = " ".join("+".join(map(str, depth)) for depth in space.depths)
    _say(
        console,
        "space",
        f"depth {depths} · size {' '.join(map(str, space.sizes))} px ({search.space_from})",
    )
    _say(
        console,
        "plan",
        f"rule {search.rule}: {len(plan.points)} decisions at epochs {dates}, at most {most} candidates"
        f" each, supernet {space.decisions.supernet_epochs:g} epochs; full model from epoch"
        f" {plan.full_step / epoch:.4g} at the latest",
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


def farewell(console: Console, folder: Path, settings: RunSettings) -> None:
    """Print where everything lies and what to do next."""
    if settings.kind == "search":
        _say(console, "found", f"{folder / 'best.yaml'}")
        _say(
            console,
            "repeat it",
            f"autoprog train --schedule {folder / 'best.yaml'}{_data_flag(settings)}",
        )
    _say(console, "look at it", f"autoprog show {folder}")
    _say(console, "take it", f"autoprog export {folder} --output {settings.model.model}.pth")
    if settings.data.embedded:
        model = settings.model.model
        schedule = "" if settings.kind == "search" else f" --schedule {settings.schedule_from}"
        command = f"autoprog {settings.kind}{schedule} --model {model} --data DIR"
        _say(console, "real thing", command)


def _say_common(console: Console, configured: Configured, folder: RunFolder) -> None:
    settings, recipe = configured.settings, configured.settings.recipe
    budget = settings.time_budget_seconds
    length = f"{recipe.epochs:g} epochs" if budget is None else f"{budget:g} s"
    _say(console, "data", configured.opened.description)
    _say(
        console,
        "recipe",
        f"{settings.recipe_name}: {length}, batch {recipe.batch_size}, {recipe.opt},"
        f" lr {recipe.peak_lr:.3g} {recipe.sched}",
    )
    if settings.has_initial_weights:
        start = f"pretrained {settings.model.timm}" if settings.pretrained else ""
        _say(console, "weights", start or str(settings.initial_checkpoint))
    _say(console, "folder", str(folder.path))


def _data_flag(settings: RunSettings) -> str:
    if settings.data.dir is not None:
        return f" --data {settings.data.dir}"
    return f" --dataset {settings.data.dataset}" if settings.data.dataset is not None else ""


def _say(console: Console, name: str, text: str) -> None:
    console.print(f"[bold]{name:<10}[/] {text}", soft_wrap=True)
