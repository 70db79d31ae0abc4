"""The resolved configuration of one run: what ``run.yaml`` holds and a resume goes by.

A field that a user may set says its own flag, help text and whether a resume may change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
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
from autoprog.errors import ConfigError
from autoprog.fidelity_report import FidelitySettings
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
    "Sampler",
    "SearchSettings",
    "changed_on_resume",
]

Rule = Literal["rollout", "autoprog", "pareto", "budget"]
Sampler = Literal["nsga2", "tpe", "random", "gp"]

DEFAULT_COST_FRACTION = 0.5
"""Length of a search by the rule rollout, relative to the time of the full model over the same epochs."""

_EITHER: tuple[Literal["search", "train"], ...] = ("search", "train")

# The parts of the help that fields stand in.
_images = partial(Option, group="images")
_training_images = partial(Option, group="training images")
_search = partial(Option, group="search")
_trials = partial(Option, group="trials")
_first_weights = partial(Option, group="first weights")
_run = partial(Option, group="run")
_device = partial(Option, group="device", resume=_EITHER)
_loggers = partial(Option, group="loggers", resume=_EITHER)
_wandb = partial(Option, group="wandb", resume=_EITHER)


class DataSettings(FileModel):
    """Where images come from; with neither ``dir`` nor ``dataset`` the embedded digits.

    ``fraction`` of the training images is used; with ``on_held_out`` a slice of them takes the place of the
    validation images. ``val_fraction`` of the images of a data set without validation images, drawn with
    ``val_seed``, are these. ``class_folders`` says which of several folders above an image is its class.
    """

    dir: Annotated[
        str | None,
        _images(
            "folder with train and val, as class folders or .tar",
            flag="data",
            metavar="DIR",
            default="the embedded digits",
        ),
    ] = None
    dataset: Annotated[
        str | None,
        _images("timm reader: torch/…, hfds/…, wds/…, tfds/…", metavar="NAME", outside=True),
    ] = None
    data_dir: Annotated[
        str | None,
        _images("root folder of --dataset", needs="dataset", metavar="DIR", outside=True),
    ] = None
    train_split: Annotated[
        str,
        _images("split of --dataset to train on", needs="dataset", metavar="NAME", outside=True),
    ] = "train"
    val_split: Annotated[
        str,
        _images("split of --dataset to evaluate on", needs="dataset", metavar="NAME", outside=True),
    ] = "validation"
    input_key: Annotated[
        str | None, _images("field of the image in --dataset", needs="dataset", metavar="KEY")
    ] = None
    target_key: Annotated[
        str | None, _images("field of the target in --dataset", needs="dataset", metavar="KEY")
    ] = None
    num_classes: Annotated[
        Classes | None,
        _images("number of classes, where --dataset names none", needs="dataset", metavar="N"),
    ] = None
    val_fraction: Annotated[
        OpenFraction | None,
        _images(
            "evaluate on this fraction of the images of data without a val part, e.g. 0.2",
            metavar="F",
        ),
    ] = None
    val_seed: Annotated[
        Seed, _images("seed that draws those of --val-fraction", needs="val-fraction", metavar="N")
    ] = 0
    class_folders: Annotated[
        Literal["auto", "first", "innermost"],
        _images(
            "the folder of a class, where folders lie in folders; auto is the innermost, if that is clear"
        ),
    ] = "auto"
    white_level: Annotated[
        WhiteLevel | None,
        _images(
            "what is white in images of more than 8 bits, e.g. 4095",
            metavar="X",
            default="by the brightest of some images",
        ),
    ] = None
    fraction: Annotated[
        PositiveFraction,
        _training_images(
            "fraction of the training images to use, the same ones in every run",
            flag="data-fraction",
            metavar="F",
        ),
    ] = 1.0
    on_held_out: Annotated[
        bool,
        _training_images(
            "evaluate on 5 % of the training images, which are then not trained on", flag="held-out"
        ),
    ] = False

    @property
    def embedded(self) -> bool:
        """Return whether the run trains on the embedded digits."""
        return self.dir is None and self.dataset is None

    def has_names(self, class_names: Sequence[str]) -> bool:
        """Return whether class names are those of the data: a reader that has none numbers its classes."""
        # Numbers are no names: classes of other data must not be matched by them.
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
        _search(
            "how to choose: rollout again and again, autoprog by the score of AutoProg (CVPR 2022), pareto"
            " and budget once for good"
        ),
    ] = "rollout"
    sampler: Annotated[Sampler, _search("Optuna sampler of schedules")] = "nsga2"
    cost_fraction: Annotated[
        PositiveFraction | None,
        _search(
            "length of the run: the time of its steps as a fraction of that of the full model over"
            " --epochs; how many epochs that makes is an outcome",
            metavar="F",
            default=f"{DEFAULT_COST_FRACTION} for --rule rollout",
        ),
    ] = None
    budget_seconds: Annotated[
        Budget | None,
        _search(
            "time that --rule budget may train for, such as 90m",
            flag="budget",
            metavar="TIME",
            parse=duration_seconds,
        ),
    ] = None
    trials: Annotated[
        Many | None,
        _trials(
            "really train N schedules on a fraction of the data, then the best of them at full length",
            metavar="N",
        ),
    ] = None
    proxy: Annotated[
        PositiveFraction,
        _trials(
            "fraction of the images and of the epochs that trials take, or a whole search",
            metavar="F",
        ),
    ] = 1.0
    storage: Annotated[
        str | None,
        _trials(
            "Optuna storage URL for trials, such as sqlite:///trials.db",
            metavar="URL",
            default="a journal in the run folder",
            outside=True,
        ),
    ] = None
    costs_from: Annotated[
        str | None,
        _search("costs.json of an earlier run, instead of measuring", flag="costs", metavar="FILE"),
    ] = None
    profile_seconds: Annotated[
        Seconds,
        _search("most time to measure step seconds in, besides 1 % of the run", metavar="S"),
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

        So many that the estimates of all decisions keep to ``search_fraction``.
        """
        decisions = self.space.decisions
        # Estimates each subnet of a decision at each of its time points.
        if self.rule == "autoprog":
            most = (decisions.num_stages - 1) * _PUBLISHED_TIME_POINTS * _PUBLISHED_CANDIDATES
        else:
            # A search by time also estimates once before its first step: the zero-step probe.
            probes = 0 if self.cost_fraction is None else 1
            most = (decisions.num_points + probes) * decisions.max_candidates
        # A forward pass is a third of a training step; candidates cost 0.6 of the full model on average.
        affordable = 3 * decisions.search_fraction * run_images / (0.6 * most)
        return min(decisions.estimate_images, max(_MIN_ESTIMATED, int(affordable)))


_MIN_ESTIMATED = 64  # of fewer images a loss says too little to choose by
_PUBLISHED_TIME_POINTS, _PUBLISHED_CANDIDATES = 5, 9  # of AutoProg (CVPR 2022)


class RunSettings(FileModel):
    """Everything that decides what a run computes, and how it is carried out here.

    ``table_sizes`` are the image sizes that have position tables of their own.
    """

    # The order of the fields is that of run.yaml.
    kind: Literal["search", "train"]
    model: FullModel
    data: DataSettings
    recipe_name: str
    recipe: Recipe
    schedule_from: str | None = None
    search: SearchSettings | None = None
    table_sizes: tuple[Px, ...] = Field(default=(), max_length=64)
    seed: Annotated[Seed, _run("seed of everything random", metavar="N")] = 0
    device: Annotated[str, _device("auto, cpu, mps, cuda or cuda:N", metavar="NAME")] = "auto"
    amp: Annotated[
        Literal["auto", "none", "bfloat16", "float16"],
        _device("precision of the forward and backward pass"),
    ] = "auto"
    workers: Annotated[LoaderProcesses, _device("loader processes", metavar="N")] = "auto"
    threads: Annotated[
        Threads | None, _device("CPU threads of the training process", metavar="N")
    ] = None
    checkpoint_minutes: Annotated[
        Minutes, _run("minutes between checkpoints within a stage", metavar="M", resume=_EITHER)
    ] = 10.0
    # A search looks at the losses that it logs, so only a training may log more or fewer of them.
    log_every_steps: Annotated[
        SomeSteps, _run("steps between logged losses", metavar="N", resume=("train",))
    ] = 20
    eval_every_epochs: Annotated[
        AnyEpochs | None,
        _run(
            "evaluate every so many epochs, and at each stage end; 0 for once, at the end",
            metavar="E",
            default="about 20 times, where each is less than 5 % of the training since the last one,"
            " and at the end",
        ),
    ] = None
    patience: Annotated[
        Many | None,
        _run(
            "stop where N evaluations of the full model in a row were not better than the best one",
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
        _run(
            "when a loss is not finite: stop, or go back to the last checkpoint at half the learning"
            " rate, up to 3 times",
            resume=_EITHER,
        ),
    ] = "stop"
    compile: Annotated[
        bool,
        _run(
            "compile each block with torch.compile; costs a minute at the start",
            resume=_EITHER,
            outside=True,
        ),
    ] = False
    cache: Annotated[
        str | None,
        _run(
            "keep decoded images in DIR, or the user's cache folder, and augment them by batch",
            metavar="DIR",
            alone="auto",
            outside=True,
        ),
    ] = None
    max_bad_images: Annotated[
        Count,
        _run(
            "unreadable training images to skip before the run stops", metavar="N", resume=_EITHER
        ),
    ] = 10
    pretrained: Annotated[
        bool, _first_weights("start from timm's weights of the model", outside=True)
    ] = False
    initial_checkpoint: Annotated[
        str | None,
        _first_weights(
            "start from a .safetensors or .pth file, a finished run (which names --model and"
            " --img-size), or a folder of export --format hf",
            metavar="FILE|RUN",
        ),
    ] = None
    fresh_head: Annotated[
        bool, _first_weights("draw the head anew, also where the weights have as many classes")
    ] = False
    log_tensorboard: Annotated[
        bool,
        _loggers(
            "write for TensorBoard, into the run folder (pip install 'autoprog[tensorboard]')"
        ),
    ] = False
    log_wandb: Annotated[
        bool, _loggers("log to Weights & Biases (pip install 'autoprog[wandb]')", outside=True)
    ] = False
    wandb_project: Annotated[
        str | None,
        _wandb("W&B project", metavar="NAME", default="WANDB_PROJECT, else autoprog", outside=True),
    ] = None
    wandb_mode: Annotated[
        Literal["online", "offline"] | None,
        _wandb("send at once, or keep for wandb sync", default="WANDB_MODE, else online"),
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
        # A setting that has no effect would be taken for one that has.
        for key in ("wandb_project", "wandb_mode"):
            if getattr(self, key) is not None and not self.log_wandb:
                raise ConfigError("", key, "must be given together with --log-wandb")
        return self

    @property
    def has_initial_weights(self) -> bool:
        """Return whether a run starts from given weights, which are of full depth."""
        return self.pretrained or self.initial_checkpoint is not None


def changed_on_resume(kind: Literal["search", "train"]) -> set[str]:
    """Return the fields that a resumed run may have other values of than it began with."""
    flags = flags_of_model(RunSettings)
    return {flag.field for flag in flags if kind in flag.option.resume}


# One list for --resume, --join, verify and the stress test: a field that reaches outside cannot be forgotten
# in one of them.
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
