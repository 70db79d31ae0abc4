"""The golden table: small command lines whose results stay equal to the bit, whatever is restructured.

A row is one command line (sometimes two) and what is compared of it. What the rows came to is in
``recorded.json``, in the words of the day of the recording. Where the program calls something by another
name since, the rows below are changed to the new flags and the tables ``KEYS``, ``VALUES`` and ``TEXTS``
lead from the new name back to the recorded one. ``recorded.json`` itself is only written anew, by
``python tests/golden/record.py``, where results are meant to change.

A row is left alone by time: costs are given in a file, and evaluations are at fixed epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["FILES", "KEPT", "KEYS", "ROWS", "SCHEDULES", "TEXTS", "VALUES", "Row", "costs"]

# Translation, from what the program says today to what is recorded.

KEYS: dict[str, str] = {
    "continuation": "tail",
    "init": "op",
    "placement": "map",
    "old_blocks": "source",
    "optimizer_state": "state",
    "full_regularisation": "strengthens",
}
"""Renamed keys of events, decisions, results, schedules and JSON documents: new name -> recorded name."""

VALUES: dict[str, dict[Any, Any]] = {
    "kind": {
        "step_logged": "progressed",
        "trial_finished": "trial_told",
        "warning_raised": "warned",
    },
    "length_unit": {
        "fraction": "share",
        "budget_fraction": "time_share",
        "compute_fraction": "compute_share",
    },
    "op": {"ema": "mogrow"},
    "source": {"keep": "online"},
    "state": {"copy": "carry"},
    "differences": {"continuation": "tail"},
    "outcome": {
        "differs: subnet, continuation, candidates, front, reason": "differs: subnet, tail, candidates,"
        " front, reason"
    },
}
"""Renamed values: recorded key -> {new value: recorded value}; kinds of events are under ``kind``."""

TEXTS: dict[str, str] = {
    "mean step cost: 50% of the full model; ideal speed-up 2.01x": "mean step cost: 50% of the full model;"
    " ideal speed-up 2.01",
    "mean step cost: 52% of the full model; ideal speed-up 1.91x": "mean step cost: 52% of the full model;"
    " ideal speed-up 1.91",
    "top-1 EMA: 10.00 +- 3.1 %": "top-1 EMA: 10.00 ± 3.1 %",
    "top-1: 10.00 +- 3.1 %": "top-1: 10.00 ± 3.1 %",
    "step from to for init placement old blocks optimizer change of loss |change of logits| lost": "step"
    " from to for op map source state change of loss |change of logits| lost",
    "11 d2 r8 d3 r12 stage ema interpolate keep copy +0.0197 0.505 TIME": "11 d2 r8 d3 r12 stage mogrow"
    " interpolate online carry +0.0197 0.505 TIME",
    "33 d3 r12 d4 r16 stage ema interpolate keep copy -0.0017 0.578 TIME": "33 d3 r12 d4 r16 stage mogrow"
    " interpolate online carry -0.0017 0.578 TIME",
    "warning: top-1 of 10.00 % is not above the fraction of the largest class (10.3 % of the validation"
    " images): the network has learnt nothing beyond it": "warning: top-1 of 10.00 % is not above the"
    " share of the largest class (10.3 % of the validation images): the network has learnt nothing beyond it",
}
"""Reworded lines of errors and of plain views: new line -> recorded line."""

FILES = {
    "events": "events.jsonl",
    "result": "result.json",
    "best": "best.yaml",
    "final": "checkpoints/final.safetensors",
    "final_ema": "checkpoints/final_ema.safetensors",
}
"""Where a run folder keeps what is compared."""


@dataclass(frozen=True)
class Row:
    """One command line and what is compared of it.

    Attributes:
        name: The key in ``recorded.json``; the name of the row's folder for runs.
        words: The command line. ``{runs}`` is the row's folder for runs, ``{linear}`` the run of the row
            ``linear``, which is played first.
        compares: ``run`` (final weights, events, result, best schedule), ``end`` (the same without events),
            ``json`` or ``text`` (standard output), ``export`` (the file written), ``error`` (standard error).
        then: A second command line, after which is compared.
        stop_at_line: The line of output at which the first one gets a SIGTERM.
        document: The entry of ``KEPT`` for standard output.
        is_sensitive: Whether a last bit can change all that follows, as in a search: on another machine only
            the exit code is compared.
        slow: Whether it starts other processes and takes more than some seconds.
    """

    name: str
    words: str
    compares: str = "run"
    then: str = ""
    stop_at_line: int = 0
    document: str = ""
    is_sensitive: bool = False
    slow: bool = False


_AS_ALWAYS = "--threads 1 --workers 0 --amp none --eval-every-epochs 1 --log-every-steps 10"
_MU = f"--model vit-mu {_AS_ALWAYS} --runs-dir {{runs}} -q"
_FILE = f"{_AS_ALWAYS} --runs-dir {{runs}} -q"
_IMAGES = f"{_MU} --data images --epochs 2 --batch-size 8"
_AUGMENTED = (
    "--mixup 0.8 --cutmix 1 --aa rand-m9-mstd0.5-inc1 --reprob 0.5 --smoothing 0.1 --scale 0.3 1"
)
_SEARCH = f"search {_MU} --costs costs.json"

ROWS = (
    # Schedules, and how networks grow.
    Row("constant", f"train --schedule constant {_MU} --epochs 1"),
    Row("linear", f"train --schedule linear {_MU} --epochs 2"),
    Row("copy-stack-fresh", f"train --schedule copy-stack-fresh.yaml {_FILE} --epochs 2"),
    Row("zero-reset", f"train --schedule zero-reset.yaml {_FILE} --opt lamb"),
    Row("mogrow-stack-carry", f"train --schedule mogrow-stack-carry.yaml {_FILE} --seed 3"),
    Row("deep", f"train --schedule deep.yaml {_FILE}"),
    Row("tokens", f"train --schedule tokens.yaml {_FILE}"),
    Row("fourier-batch", f"train --schedule fourier-batch.yaml {_FILE}"),
    Row("patch-sampling", f"train --schedule patch-sampling {_MU} --epochs 2"),
    Row("unfreezing", f"train --schedule unfreezing {_MU} --epochs 2"),
    Row("elastic", f"train --elastic {_MU} --epochs 1"),
    Row("elastic-per-size", f"train --elastic --pos-embed per-size {_MU} --epochs 1"),
    Row(
        "volo",
        f"train --schedule linear --model volo-mu {_AS_ALWAYS} --runs-dir {{runs}} -q --epochs 1",
    ),
    Row(
        "local",
        f"train --schedule linear --model vit-mu-local {_AS_ALWAYS} --runs-dir {{runs}} -q --epochs 1",
    ),
    # Optimizer, averages and data.
    Row(
        "recipe",
        f"train --schedule linear {_MU} --epochs 2 --ema-epochs 0.2 --grad-accum-steps 3 --clip-grad 0.5"
        " --sched wsd --lr 0.004 --drop-path 0.1",
        is_sensitive=True,  # at so high a rate the losses of AVX2 and AVX-512 are 1 % apart after 44 steps
    ),
    Row(
        "finetune",
        f"train --schedule constant {_AS_ALWAYS} --runs-dir {{runs}} -q --epochs 1"
        " --initial-checkpoint {linear} --fresh-head --layer-decay 0.7",
    ),
    Row("images", f"train --schedule linear {_IMAGES} {_AUGMENTED}"),
    Row("images-workers", f"train --schedule linear {_IMAGES} {_AUGMENTED} --workers 2", "end"),
    Row("images-cache", f"train --schedule linear {_IMAGES} {_AUGMENTED} --cache cache"),
    Row("images-cached", f"train --schedule linear {_IMAGES} {_AUGMENTED} --cache cache", "end"),
    Row(
        "resume",
        f"train --schedule linear {_MU.replace(' -q', '')} --epochs 2",
        compares="end",
        then="train --resume {resume} -q",
        stop_at_line=12,
    ),
    Row("bfloat16", f"train --schedule linear {_MU} --epochs 1 --amp bfloat16", is_sensitive=True),
    # Searches.
    Row(
        "rollout", f"{_SEARCH} --epochs 6 --same-epochs --continuation-trials 6", is_sensitive=True
    ),
    Row(
        "rollout-by-time",
        f"{_SEARCH} --epochs 6 --continuation-trials 6 --sampler random --seed 1",
        is_sensitive=True,
    ),
    Row("autoprog", f"{_SEARCH} --epochs 6 --same-epochs --rule autoprog", is_sensitive=True),
    Row(
        "pareto",
        f"{_SEARCH} --epochs 6 --same-epochs --rule pareto --sampler tpe --continuation-trials 12",
        is_sensitive=True,
    ),
    Row(
        "search-fidelity",
        f"{_SEARCH} --epochs 4 --same-epochs --continuation-trials 20 --grow-init copy"
        " --grow-optimizer-state fresh --fidelity 4 --fidelity-seeds 1",
        is_sensitive=True,
    ),
    Row(
        "resume-search",
        f"{_SEARCH} --epochs 6 --same-epochs --continuation-trials 6".replace(" -q", ""),
        compares="end",
        then="search --resume {resume-search} -q",
        stop_at_line=24,
        is_sensitive=True,
    ),
    Row(
        "trials",
        f"{_SEARCH} --epochs 2 --same-epochs --trials 3 --proxy 0.5",
        is_sensitive=True,
        slow=True,
    ),
    Row(
        "pareto-tokens",
        f"{_SEARCH} --epochs 9 --same-epochs --space wide.yaml --rule pareto --continuation-trials 60",
        is_sensitive=True,
    ),
    Row("replay", "show --replay {rollout} --json", "json", document="replay", is_sensitive=True),
    Row(
        "replay-otherwise",
        "show --replay {rollout} --rule autoprog --json",
        "json",
        document="replay",
        is_sensitive=True,
    ),
    Row(
        "verify",
        "verify --schedule linear --model vit-mu --seeds 2 --epochs 2 --threads 1 --workers 0 --amp none"
        " --runs-dir {runs} --json",
        "json",
        document="verify",
        slow=True,
    ),
    # What is made of runs.
    Row(
        "evaluate-grid",
        "evaluate {elastic} --grid --rounds 1 --threads 1 --workers 0 --amp none --json",
        "json",
        document="evaluate",
    ),
    Row("export-pth", "export {linear} --output linear.pth", "export"),
    Row(
        "export-safetensors",
        "export {linear} --weights online --output linear.safetensors",
        "export",
    ),
    Row("export-hf", "export {linear} --format hf --output linear-hf", "export"),
    Row(
        "export-program",
        "export {linear} --format torch-export --keep-rate 0.5 --output linear.pt2",
        "export",
    ),
    Row("show-json", "show {rollout} --json", "json", document="show", is_sensitive=True),
    Row("show-plain", "show {linear} --plain", "text"),
    Row("show-preset", "show linear --model deit-s --epochs 100 --plain", "text"),
    Row("compare", "compare {constant} {linear} --json", "json", document="compare"),
    # Errors.
    Row("unknown-model", f"train --schedule linear --model vit-nu {_FILE}", "error"),
    Row("unknown-preset", f"train --schedule lineer {_MU}", "error"),
    Row("unknown-flag", f"train --schedule linear {_MU} --epoch 2", "error"),
    Row("unknown-key", f"train --schedule misspelt.yaml {_FILE}", "error"),
    Row("bad-size", f"train --schedule linear {_MU} --img-size 17", "error"),
    Row("bad-number", f"train --schedule linear {_MU} --lr -1", "error"),
    Row("missing-file", f"train --schedule nowhere.yaml {_FILE}", "error"),
    Row("missing-data", f"train --schedule linear {_MU} --data nowhere", "error"),
    Row("resume-of-nothing", "train --resume runs/gone", "error"),
    Row("output-exists", "export {linear} --output taken.pth", "error"),
    Row("flags-that-exclude", f"{_SEARCH} --rule pareto --budget 90m", "error"),
    Row("diverged", f"train --schedule linear {_MU} --epochs 1 --lr 1000", "error"),
)

_FULL = """schema: 1
full:
  {model: vit-mu, timm: vit_tiny_patch16_224, depth: 4, img_size: 16, stride: 4, embed_dim: 24, num_heads: 2,
   overrides: {depth: 4, embed_dim: 24, num_heads: 2, patch_size: 4}}
"""

SCHEDULES = {
    "copy-stack-fresh.yaml": f"""{_FULL}stages:
- {{length: 0.5, depth: 2, img_size: 8}}
- {{length: 0.5, depth: 4, img_size: 12, grow: {{op: copy, map: stack, source: online, state: fresh}}}}
- {{length: rest, depth: 4, img_size: 16}}
""",
    "zero-reset.yaml": f"""{_FULL}stages:
- {{length: 0.5, depth: 2, img_size: 16}}
- {{length: 0.5, depth: 3, img_size: 16, grow: {{op: zero, map: interpolate, state: reset}}}}
- {{length: 0.5, depth: 4, img_size: 16, grow: {{op: zero, map: interpolate, state: reset}}}}
""",
    "mogrow-stack-carry.yaml": f"""{_FULL}stages:
- {{length: 0.6, depth: 3, img_size: 16}}
- {{length: 0.6, depth: 4, img_size: 16, grow: {{op: mogrow, map: stack, source: ema, state: carry}}}}
""",
    "deep.yaml": """schema: 1
full:
  {model: vit-xs, timm: vit_tiny_patch16_224, depth: 6, img_size: 32, stride: 4, embed_dim: 96, num_heads: 3,
   overrides: {depth: 6, embed_dim: 96, num_heads: 3, patch_size: 4}}
stages:
- {length: 0.2, depth: 3, img_size: 8}
- {length: 0.2, depth: 5, img_size: 8}
- {length: 0.2, depth: 6, img_size: 32}
""",
    "tokens.yaml": f"""{_FULL}stages:
- {{length: 0.4, depth: 4, img_size: 16, tokens: {{keep_rate: 0.5, by: random}}}}
- {{length: 0.4, depth: 4, img_size: 16, tokens: {{keep_rate: 0.7, by: class_attention, at_blocks: [1, 2]}}}}
- {{length: 0.4, depth: 4, img_size: 16, tokens: {{keep_rate: 0.8, by: l2_magnitude}}}}
- {{length: 0.4, depth: 4, img_size: 16}}
""",
    "fourier-batch.yaml": f"""{_FULL}stages:
- {{length: 0.5, depth: 4, img_size: 8, shrink_by: fourier, batch_scale: 2}}
- {{length: 0.5, depth: 4, img_size: 12, shrink_by: fourier, curriculum: {{drop_path: 0.1, mixup: 0.2}}}}
- {{length: 0.5, depth: 4, img_size: 16}}
""",
    "wide.yaml": """schema: 1
model: vit-mu
axes:
  depth: {values: [1, 2, 3, 4]}
  img_size: {values: [8, 12, 16]}
  keep_rate: {values: [0.5, 0.75, 1.0], by: magnitude}
decisions: {num_stages: 3, supernet_epochs: 1, max_candidates: 6, min_full_share: 0.2}
""",
    "misspelt.yaml": f"""{_FULL}stages:
- {{length: 1, depht: 4, img_size: 16}}
""",
}
"""The schedule files that rows train along, in the form of schema 1."""


def costs() -> dict[str, Any]:
    """Return a costs.json of vit-mu's space, in the form of schema 1: more blocks and pixels cost more."""
    cells = {}
    for depth in (1, 2, 3, 4):
        for size in (8, 12, 16):
            for keep_rate in (0.5, 0.75, 1):
                seconds = round(0.001 + 6e-6 * depth * size**2 * keep_rate, 6)
                tokens = "" if keep_rate == 1 else f" k{keep_rate}"
                cells[f"d{depth} r{size}{tokens} b64"] = {
                    "seconds": seconds,
                    "interval": [seconds, seconds],
                    "data_seconds": 0.0005,
                    "rounds": 3,
                    "source": "grid",
                }
    conditions = {"device": "cpu", "amp": "none", "threads": 1, "workers": 0, "processes": 1}
    return {
        "schema": 1,
        "overlap": 0.0,
        "overlap_is_measured": True,
        "conditions": conditions,
        "cells": cells,
    }


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OF_STAGES = (
    "length depth img_size tokens grow curriculum shrink_by batch_scale lr_scale trainable step"
)
_OF_STAGES += " keep_rate by at_blocks op map source state randaug drop_path reprob mixup cutmix"
_OF_STAGES += " curve drop quantum sandwich sizes keep_rates every level"
_OF_DECISIONS = (
    "index step epoch rule current candidates winner forced alpha tail front position length"
)
_OF_DECISIONS += (
    " strengthens subnet label loss difference difference_se step_seconds predicted_loss"
)
_OF_DECISIONS += " remaining_seconds score"
_OF_CURRICULA = "stage subnet stop_step curriculum randaug drop_path reprob mixup cutmix"
_OF_EVALUATIONS = (
    "step epoch subnet loss top1 loss_ema top1_ema balanced_top1 balanced_top1_ema num_images"
)
_OF_GROWTHS = "step before after op map source state origins delta_loss delta_logits opens_supernet"
_OF_RESULTS = (
    "kind model top1 top1_ema loss loss_ema epochs image_epochs macs seed amp best_top1 best_step"
)
_OF_RESULTS += (
    " num_validation_images balanced_top1 class_images class_top1_ema best_epoch stopped_early"
)

KEPT: dict[str, frozenset[str]] = {
    "run_started": _names("run_kind model total_steps steps_per_epoch epochs num_images seed amp"),
    "stage_started": _names(_OF_CURRICULA),
    "supernet_started": _names("decision current candidates stop_step"),
    "progressed": _names("epoch loss lr subnet"),
    "evaluated": _names(_OF_EVALUATIONS),
    "estimated": _names("decision point losses"),
    "trial_told": _names("number pruned loss stages"),
    "subnet_trained": _names("decision number total subnet loss"),
    "decided": _names(f"decision {_OF_DECISIONS}"),
    "grown": _names(_OF_GROWTHS),
    "checkpoint_saved": _names("path"),
    "warned": frozenset(),
    "result": _names(f"{_OF_RESULTS} schedule stages {_OF_STAGES}"),
    "best": _names(f"stages length_unit lr shape clock monotone end {_OF_STAGES}"),
    "evaluate": _names(f"model num_images class_images cells macs {_OF_STAGES} {_OF_EVALUATIONS}"),
    "replay": _names("rule sampler seed as_recorded same decisions index outcome differences"),
    "verify": _names(
        "verdict outcome pairs mean sd lower upper more_seeds margin baseline candidate ratios macs"
        " image_epochs low high arms arm role seeds difference seed order top1 top1_ema loss loss_ema"
    ),
    "show": _names(
        f"kind model status schedule steps_per_epoch total_steps step_table stages decisions evaluations"
        f" growths start_step stop_step start_epoch stop_epoch relative_cost mean_relative_cost costs"
        f" ideal_speed_up {_OF_STAGES} {_OF_DECISIONS} {_OF_EVALUATIONS} {_OF_GROWTHS} {_OF_CURRICULA}"
    ),
    "compare": _names(
        "groups label name seeds top1 top1_ema mean sd image_epochs macs macs_ratio difference model n"
    ),
}
"""By document or kind of event, the recorded names that are compared at every depth of it: what depends on
time is none of them. An event that is not here, as of measured costs, is left out."""
