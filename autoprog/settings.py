"""The resolved configuration of one run: what ``run.yaml`` holds and a resume goes by.

A field that a user may set says its own flag, help text and whether a resume may change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from autoprog.bounds import (
    AnyEpochs,
    Budget,
    Classes,
    Count,
    LoaderProcesses,
    Many,
    Minutes,
    OpenFraction,
    PositiveFraction,
    Px,
    Seconds,
    Seed,
    SomeSteps,
    Threads,
    WhiteLevel,
)
from autoprog.decisions import FidelitySettings
from autoprog.errors import ConfigError
from autoprog.files import FileModel, Line
from autoprog.options import Option, duration_seconds, flags_of_model
from autoprog.recipe import Recipe
from autoprog.space import SearchSpace
from autoprog.stage import FullModel

__all__ = [
    "OUTSIDE",
    "REPEATABLE",
    "DataSettings",
    "RecordedData",
    "Rule",
    "RunManifest",
    "RunSettings",
    "SearchSettings",
    "changed_on_resume",
]

Rule = Literal["rollout", "autoprog", "pareto", "budget"]

DEFAULT_COST_FRACTION = 0.5
"""Length of a search by the rule rollout, relative to the time of the full model over the same epochs."""

_EITHER: tuple[Literal["search", "train"], ...] = ("search", "train")


class DataSettings(FileModel):
    """Where images come from; with neither ``dir`` nor ``dataset`` the embedded digits.

    ``fraction`` of the training images is used; with ``on_held_out`` a slice of them takes the place of the
    validation images. ``val_fraction`` of the images of a data set without validation images, drawn with
    ``val_seed``, are these. ``class_folders`` says which of several folders above an image is its class.
    """

    dir: Annotated[
        str | None,
        Option(
            "folder with train and val, as class folders or .tar",
            flag="data",
            group="images",
            metavar="DIR",
            default="the embedded digits",
        ),
    ] = None
    dataset: Annotated[
        str | None,
        Option(
            "timm reader: torch/…, hfds/…, wds/…, tfds/…",
            group="images",
            metavar="NAME",
            outside=True,
        ),
    ] = None
    data_dir: Annotated[
        str | None,
        Option(
            "root folder of --dataset", needs="dataset", group="images", metavar="DIR", outside=True
        ),
    ] = None
    train_split: Annotated[
        str,
        Option(
            "split of --dataset to train on",
            needs="dataset",
            group="images",
            metavar="NAME",
            outside=True,
        ),
    ] = "train"
    val_split: Annotated[
        str,
        Option(
            "split of --dataset to evaluate on",
            needs="dataset",
            group="images",
            metavar="NAME",
            outside=True,
        ),
    ] = "validation"
    input_key: Annotated[
        str | None,
        Option("field of the image in --dataset", needs="dataset", group="images", metavar="KEY"),
    ] = None
    target_key: Annotated[
        str | None,
        Option("field of the target in --dataset", needs="dataset", group="images", metavar="KEY"),
    ] = None
    num_classes: Annotated[
        Classes | None,
        Option(
            "number of classes, where --dataset names none",
            needs="dataset",
            group="images",
            metavar="N",
        ),
    ] = None
    val_fraction: Annotated[
        OpenFraction | None,
        Option(
            "evaluate on this fraction of the images of data without a val part, e.g. 0.2",
            group="images",
            metavar="F",
        ),
    ] = None
    val_seed: Annotated[
        Seed,
        Option(
            "seed that draws those of --val-fraction",
            needs="val-fraction",
            group="images",
            metavar="N",
        ),
    ] = 0
    class_folders: Annotated[
        Literal["auto", "first", "innermost"],
        Option(
            "the folder of a class, where folders lie in folders; auto is the innermost, if that is clear",
            group="images",
        ),
    ] = "auto"
    white_level: Annotated[
        WhiteLevel | None,
        Option(
            "what is white in images of more than 8 bits, e.g. 4095",
            group="images",
            metavar="X",
            default="by the brightest of some images",
        ),
    ] = None
    fraction: Annotated[
        PositiveFraction,
        Option(
            "fraction of the training images to use, the same ones in every run",
            flag="data-fraction",
            group="training images",
            metavar="F",
        ),
    ] = 1.0
    on_held_out: Annotated[
        bool,
        Option(
            "evaluate on 5 % of the training images, which are then not trained on",
            flag="held-out",
            group="training images",
        ),
    ] = False

    @property
    def embedded(self) -> bool:
        """Tell whether the run trains on the embedded digits."""
        return self.dir is None and self.dataset is None

    def has_names(self, class_names: Sequence[str]) -> bool:
        """Tell whether class names are those of the data: a reader that has none numbers its classes."""
        numbers = tuple(map(str, range(len(class_names))))
        is_numbered = self.dataset is not None and self.num_classes is not None
        return not (is_numbered and tuple(class_names) == numbers)


class RecordedData(FileModel):
    """What the images of a run are: its classes in the order of its outputs, and what identifies its images.

    ``digests`` has one of each part, ``train`` and ``val``, which does not depend on where the images lie.
    """

    class_names: tuple[str, ...]
    num_train_images: Count
    num_val_images: Count
    digests: dict[str, str] = Field(default_factory=dict)


class SearchSettings(FileModel):
    """What the search may choose from and by which rule it chooses.

    ``cost_fraction`` is the length of the run: what its steps take, by the costs measured at its start,
    relative to the full model over all epochs; how many epochs that makes is then an outcome. None for a run
    that is as long as its epochs.
    """

    space: SearchSpace
    space_from: str
    rule: Annotated[
        Rule,
        Option(
            "how to choose: rollout again and again, autoprog by the score of AutoProg (CVPR 2022), pareto"
            " and budget once for good",
            group="search",
        ),
    ] = "rollout"
    sampler: Annotated[
        Literal["nsga2", "tpe", "random", "gp"],
        Option("Optuna sampler of schedules", group="search"),
    ] = "nsga2"
    cost_fraction: Annotated[
        PositiveFraction | None,
        Option(
            "length of the run: the time of its steps as a fraction of that of the full model over"
            " --epochs; how many epochs that makes is an outcome",
            group="search",
            metavar="F",
            default=f"{DEFAULT_COST_FRACTION} for --rule rollout",
        ),
    ] = None
    budget_seconds: Annotated[
        Budget | None,
        Option(
            "time that --rule budget may train for, such as 90m",
            flag="budget",
            group="search",
            metavar="TIME",
            parse=duration_seconds,
        ),
    ] = None
    trials: Annotated[
        Many | None,
        Option(
            "really train N schedules on a fraction of the data, then the best of them at full length",
            group="trials",
            metavar="N",
        ),
    ] = None
    proxy: Annotated[
        PositiveFraction,
        Option(
            "fraction of the images and of the epochs that trials take, or a whole search",
            group="trials",
            metavar="F",
        ),
    ] = 1.0
    storage: Annotated[
        str | None,
        Option(
            "Optuna storage URL for trials, such as sqlite:///trials.db",
            group="trials",
            metavar="URL",
            default="a journal in the run folder",
            outside=True,
        ),
    ] = None
    costs_from: Annotated[
        str | None,
        Option(
            "costs.json of an earlier run, instead of measuring",
            flag="costs",
            group="search",
            metavar="FILE",
        ),
    ] = None
    profile_seconds: Annotated[
        Seconds,
        Option(
            "most time to measure step seconds in, besides 1 % of the run",
            group="search",
            metavar="S",
        ),
    ] = 20.0
    fidelity: FidelitySettings | None = None

    @model_validator(mode="after")
    def _budget_goes_with_its_rule(self) -> SearchSettings:
        if (self.rule == "budget") != (self.budget_seconds is not None):
            problem = "must be given for --rule budget, and for no other"
            raise ConfigError("", "budget", problem, hint="such as --budget 90m")
        if self.cost_fraction is not None and (self.rule != "rollout" or self.trials is not None):
            problem, hint = "must be rollout, without --trials", "or leave out --cost-fraction"
            raise ConfigError("", "rule", problem, self.rule, hint)
        if self.trials is not None and self.rule not in ("pareto", "budget"):
            problem, hint = "must be pareto or budget with --trials", "leave it out, or take pareto"
            raise ConfigError("", "rule", problem, self.rule, hint)
        return self

    def images_to_estimate(self, run_images: float) -> int:
        """Return the most images of the held-out slice in a run over so many images.

        So many that the estimates of all decisions keep to ``search_fraction``: a forward pass is a third of
        a training step, and the candidates cost 0.6 of the full model on average.
        """
        decisions = self.space.decisions
        if (
            self.rule == "autoprog"
        ):  # estimates each subnet of a decision at each of its time points
            most = (decisions.num_stages - 1) * _PUBLISHED_TIME_POINTS * _PUBLISHED_CANDIDATES
        else:
            # A search by time also estimates once before its first step: the zero-step probe.
            probes = 0 if self.cost_fraction is None else 1
            most = (decisions.num_points + probes) * decisions.max_candidates
        affordable = 3 * decisions.search_fraction * run_images / (0.6 * most)
        return min(decisions.estimate_images, max(_MIN_ESTIMATED, int(affordable)))


_MIN_ESTIMATED = 64
_PUBLISHED_TIME_POINTS, _PUBLISHED_CANDIDATES = 5, 9


class RunSettings(FileModel):
    """Everything that decides what a run computes, and how it is carried out here.

    ``table_sizes`` are the image sizes that have position tables of their own.
    """

    kind: Literal["search", "train"]
    model: FullModel
    data: DataSettings
    recipe_name: str
    recipe: Recipe
    schedule_from: str | None = None
    search: SearchSettings | None = None
    table_sizes: tuple[Px, ...] = Field(default=(), max_length=64)
    seed: Annotated[Seed, Option("seed of everything random", group="run", metavar="N")] = 0
    device: Annotated[
        str,
        Option("auto, cpu, mps, cuda or cuda:N", group="device", metavar="NAME", resume=_EITHER),
    ] = "auto"
    amp: Annotated[
        Literal["auto", "none", "bfloat16", "float16"],
        Option("precision of the forward and backward pass", group="device", resume=_EITHER),
    ] = "auto"
    workers: Annotated[
        LoaderProcesses, Option("loader processes", group="device", metavar="N", resume=_EITHER)
    ] = "auto"
    threads: Annotated[
        Threads | None,
        Option("CPU threads of the training process", group="device", metavar="N", resume=_EITHER),
    ] = None
    checkpoint_minutes: Annotated[
        Minutes,
        Option(
            "minutes between checkpoints within a stage", group="run", metavar="M", resume=_EITHER
        ),
    ] = 10.0
    # A search looks at the losses that it logs, so only a training may log more or fewer of them.
    log_every_steps: Annotated[
        SomeSteps,
        Option("steps between progress events", group="run", metavar="N", resume=("train",)),
    ] = 20
    eval_every_epochs: Annotated[
        AnyEpochs | None,
        Option(
            "evaluate every so many epochs, and at each stage end; 0 for once, at the end",
            group="run",
            metavar="E",
            default="some 20 times, where each is less than 5 % of the training since the last one,"
            " and at the end",
        ),
    ] = None
    patience: Annotated[
        Many | None,
        Option(
            "stop where N evaluations of the full model in a row were not better than the best one",
            group="run",
            metavar="N",
        ),
    ] = None
    time_budget_seconds: Annotated[
        Budget | None,
        Option(
            "train for 90m, 24h …: stages and learning rate follow the time used, not the epochs",
            flag="time-budget",
            group="length",
            metavar="TIME",
            parse=duration_seconds,
        ),
    ] = None
    on_divergence: Annotated[
        Literal["stop", "rollback"],
        Option(
            "when a loss is not finite: stop, or go back to the last checkpoint at half the learning"
            " rate, up to 3 times",
            group="run",
            resume=_EITHER,
        ),
    ] = "stop"
    compile: Annotated[
        bool,
        Option(
            "compile each block with torch.compile; costs a minute at the start",
            group="run",
            resume=_EITHER,
            outside=True,
        ),
    ] = False
    cache: Annotated[
        str | None,
        Option(
            "keep decoded images in DIR, or the user's cache folder, and augment them by batch",
            group="run",
            metavar="DIR",
            alone="auto",
            outside=True,
        ),
    ] = None
    max_bad_images: Annotated[
        Count,
        Option(
            "unreadable training images to skip before the run stops",
            group="run",
            metavar="N",
            resume=_EITHER,
        ),
    ] = 10
    pretrained: Annotated[
        bool,
        Option("start from timm's weights of the model", group="first weights", outside=True),
    ] = False
    initial_checkpoint: Annotated[
        str | None,
        Option(
            "start from a .safetensors or .pth file, a finished run (which names --model and"
            " --img-size), or a folder of export --format hf",
            group="first weights",
            metavar="FILE|RUN",
        ),
    ] = None
    fresh_head: Annotated[
        bool,
        Option(
            "draw the head anew, also where the weights have as many classes", group="first weights"
        ),
    ] = False
    log_tensorboard: Annotated[
        bool,
        Option(
            "write for TensorBoard, into the run folder (pip install 'autoprog[tensorboard]')",
            group="loggers",
            resume=_EITHER,
        ),
    ] = False
    log_wandb: Annotated[
        bool,
        Option(
            "log to Weights & Biases (pip install 'autoprog[wandb]')",
            group="loggers",
            resume=_EITHER,
            outside=True,
        ),
    ] = False
    wandb_project: Annotated[
        str | None,
        Option(
            "W&B project",
            group="wandb",
            metavar="NAME",
            default="WANDB_PROJECT, else autoprog",
            resume=_EITHER,
            outside=True,
        ),
    ] = None
    wandb_mode: Annotated[
        Literal["online", "offline"] | None,
        Option(
            "send at once, or keep for wandb sync",
            group="wandb",
            default="WANDB_MODE, else online",
            resume=_EITHER,
        ),
    ] = None

    @model_validator(mode="after")
    def _searches_its_own_model(self) -> RunSettings:
        """A space describes its model once more, beyond what is stored of it only by parameter counts."""
        if self.search is not None:
            spec = replace(self.search.space.spec, extra_parameters=(0, 0))
            if spec != self.model.spec():
                problem = f"must be the model of the run, {self.model.model}"
                raise ConfigError("", "search.space.spec", problem, spec.name)
        return self

    @model_validator(mode="after")
    def _one_start(self) -> RunSettings:
        if self.pretrained and self.initial_checkpoint is not None:
            problem = "must not be given together with --pretrained"
            raise ConfigError("", "initial_checkpoint", problem, self.initial_checkpoint)
        if self.fresh_head and not self.has_initial_weights:
            problem = "must be given together with --pretrained or --initial-checkpoint"
            raise ConfigError("", "fresh_head", problem)
        return self

    @model_validator(mode="after")
    def _wandb_is_on(self) -> RunSettings:
        for key in ("wandb_project", "wandb_mode"):
            if getattr(self, key) is not None and not self.log_wandb:
                raise ConfigError("", key, "must be given together with --log-wandb")
        return self

    @property
    def has_initial_weights(self) -> bool:
        """Tell whether a run starts from given weights, which are of full depth."""
        return self.pretrained or self.initial_checkpoint is not None


def changed_on_resume(kind: Literal["search", "train"]) -> set[str]:
    """Return the fields that a resumed run may have other values of than it began with."""
    flags = flags_of_model(RunSettings)
    return {flag.field for flag in flags if kind in flag.option.resume}


OUTSIDE = {
    flag.field: flag
    for model in (DataSettings, SearchSettings, RunSettings)
    for flag in flags_of_model(model)
    if flag.option.outside
}
"""The flags that let a run reach for something outside its folder, by field."""

REPEATABLE = set(OUTSIDE) - changed_on_resume("search")
"""The fields that ``--resume`` takes with the value that the run has already, and with no other."""


class RunManifest(FileModel):
    """``run.yaml``: the settings, where they come from, and what the images are.

    ``data`` is None in runs from before it was recorded, and in those of a search's trials.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    run_id: Line
    created: Line
    argv: tuple[str, ...]
    versions: dict[Line, Line]
    git: dict[str, Any] = Field(default_factory=dict)
    settings: RunSettings
    data: RecordedData | None = None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Return the names of the run's outputs; None where they are not known."""
        if self.data is None or not self.settings.data.has_names(self.data.class_names):
            return None
        return self.data.class_names
