"""The resolved configuration of one run: what ``run.yaml`` holds and a resume goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

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
from autoprog.recipe import Recipe
from autoprog.space import SearchSpace
from autoprog.stage import FullModel

__all__ = ["DataSettings", "RecordedData", "Rule", "RunManifest", "RunSettings", "SearchSettings"]

Rule = Literal["rollout", "autoprog", "pareto", "budget"]


class DataSettings(FileModel):
    """Where images come from; with neither ``dir`` nor ``dataset`` the embedded digits.

    ``fraction`` of the training images is used; with ``on_held_out`` a slice of them takes the place of the
    validation images. ``val_fraction`` of the images of a data set without validation images, drawn with
    ``val_seed``, are these. ``class_folders`` says which of several folders above an image is its class.
    """

    dir: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    train_split: str = "train"
    val_split: str = "validation"
    input_key: str | None = None
    target_key: str | None = None
    num_classes: Classes | None = None
    val_fraction: OpenFraction | None = None
    val_seed: Seed = 0
    class_folders: Literal["auto", "first", "innermost"] = "auto"
    white_level: WhiteLevel | None = None
    fraction: PositiveFraction = 1.0
    on_held_out: bool = False

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
    """What the images of a run are: its classes in the order of its outputs, and what tells other images.

    ``digests`` has one of each part, ``train`` and ``val``, which does not depend on where the images lie.
    """

    class_names: tuple[str, ...]
    num_train_images: Count
    num_val_images: Count
    digests: dict[str, str] = Field(default_factory=dict)


class SearchSettings(FileModel):
    """What the search may choose from and by which rule it chooses.

    ``cost_fraction`` is the length of the run: what its steps take, by the costs measured at its start, relative
    to the full model over all epochs; how many epochs that makes is then an outcome. None for a run that is
    as long as its epochs.
    """

    space: SearchSpace
    space_from: str
    rule: Rule = "rollout"
    sampler: Literal["nsga2", "tpe", "random", "gp"] = "nsga2"
    cost_fraction: PositiveFraction | None = None
    budget_seconds: Budget | None = None
    trials: Many | None = None
    proxy: PositiveFraction = 1.0
    storage: str | None = None
    costs_from: str | None = None
    profile_seconds: Seconds = 20.0
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
        affordable = 3 * decisions.search_fraction * run_images / (0.6 * self._max_estimates)
        return min(decisions.estimate_images, max(_MIN_ESTIMATED, int(affordable)))

    @property
    def _max_estimates(self) -> int:
        """Return how often a subnet is estimated at most; AutoProg does it for all at each time point."""
        decisions = self.space.decisions
        if self.rule == "autoprog":
            return (decisions.num_stages - 1) * _PUBLISHED_TIME_POINTS * _PUBLISHED_CANDIDATES
        glances = 0 if self.cost_fraction is None else 1
        return (decisions.num_points + glances) * decisions.max_candidates


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
    seed: Seed = 0
    device: str = "auto"
    amp: Literal["auto", "none", "bfloat16", "float16"] = "auto"
    workers: LoaderProcesses = "auto"
    threads: Threads | None = None
    checkpoint_minutes: Minutes = 10.0
    log_every_steps: SomeSteps = 20
    eval_every_epochs: AnyEpochs | None = None
    patience: Many | None = None
    time_budget_seconds: Budget | None = None
    on_divergence: Literal["stop", "rollback"] = "stop"
    compile: bool = False
    cache: str | None = None
    max_bad_images: Count = 10
    pretrained: bool = False
    initial_checkpoint: str | None = None
    fresh_head: bool = False
    log_tensorboard: bool = False
    log_wandb: bool = False
    wandb_project: str | None = None
    wandb_mode: Literal["online", "offline"] | None = None

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
