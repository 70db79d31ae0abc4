"""What schema 1 wrote, in the words of schema 2: plain values in, plain values out.

Each kind of file is translated at the one place where it is read, before it is checked. Nothing is checked
here: whatever a body holds beside the keys that were renamed is returned as it is, for its model to refuse.

A file that says ``schema: 2`` (or a schedule or space that says nothing) is not translated: there an old key
is a mistake, and the error names the new one, by :data:`NEW_KEYS` and :data:`NEW_VALUES`. The rows of logs
have no schema of their own, and one log may hold rows of both, where a run that schema 1 began goes on: they
are translated key by key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "FLAGS",
    "NEW_KEYS",
    "NEW_VALUES",
    "SCHEMA",
    "bench",
    "checkpoint",
    "costs",
    "decision",
    "decision_inputs",
    "event",
    "fidelity",
    "manifest",
    "recipe",
    "result",
    "schedule",
    "space",
    "verification",
]

SCHEMA = 2

Body = Mapping[str, Any]
Names = Mapping[str, str]
Translations = Mapping[str, Callable[[Any], Any]]

_RECIPE: Names = {"warmup_share": "warmup_fraction", "decay_share": "decay_fraction"}
_GROWTH: Names = {
    "op": "init",
    "map": "placement",
    "source": "old_blocks",
    "state": "optimizer_state",
}
_DECISIONS: Names = {  # of a space
    "supernet_share": "supernet_fraction",
    "search_share": "search_fraction",
    "min_full_share": "min_full_fraction",
    "tail_trials": "continuation_trials",
}
_AXES: Names = {"map": "placement", "grow": "init"}
_EVALUATION: Names = {"largest_class_share": "largest_class_fraction"}
_DECISION: Names = {"tail": "continuation", "strengthens": "full_regularisation"}
_REACHED: Names = {"held_out": "held_out_loss", "training": "training_loss"}
_INPUTS: Names = {
    "shown": "current_losses",
    "shown_before": "previous_losses",
    "is_strengthened": "full_regularisation",
}
_FIDELITY: Names = {"told_apart": "beyond_seed_noise"}
FLAGS: Names = {  # of an arm, as they stand on a command line
    "data-share": "data-fraction",
    "warmup-share": "warmup-fraction",
    "decay-share": "decay-fraction",
    "time-share": "cost-fraction",
    "supernet-share": "supernet-fraction",
    "search-share": "search-fraction",
    "min-full-share": "min-full-fraction",
    "tail-trials": "continuation-trials",
    "grow-op": "grow-init",
    "grow-map": "grow-placement",
    "grow-source": "grow-old-blocks",
    "grow-state": "grow-optimizer-state",
}

_INITS: Names = {"mogrow": "ema"}
_OLD_BLOCKS: Names = {"online": "keep"}
_OPTIMIZER_STATES: Names = {"carry": "copy"}
_LENGTH_UNITS: Names = {
    "share": "fraction",
    "time_share": "budget_fraction",
    "compute_share": "compute_fraction",
}
_KINDS: Names = {
    "progressed": "step_logged",
    "trial_told": "trial_finished",
    "warned": "warning_raised",
}

NEW_KEYS: Names = {
    **_RECIPE,
    **_GROWTH,
    **_DECISIONS,
    "grow": "init",  # of the axes of a space; where ``grow`` is a key of its own it is known
    "share": "fraction",
    "shares": "fractions",
    "time_share": "cost_fraction",
    **_EVALUATION,
    **_DECISION,
    **_REACHED,
    **_INPUTS,
    **_FIDELITY,
    **FLAGS,
    "cells": "step_costs",
    "entrants": "schedules",
}
"""The new name of each key, for errors; which of the known keys is meant is for the reader to say."""
NEW_VALUES: Names = {**_INITS, **_OLD_BLOCKS, **_OPTIMIZER_STATES, **_LENGTH_UNITS}
"""The new name of each value, likewise."""


def schedule(body: Any) -> Any:
    """Return the body of a schedule file."""
    return _of_schema(body, _schedule)


def space(body: Any) -> Any:
    """Return the body of a file of a search space."""
    return _of_schema(body, _space)


def recipe(body: Any) -> Any:
    """Return the values of a recipe file: schema 1 had none that said so, so without it both words hold."""
    if isinstance(body, Mapping) and "schema" not in body:
        return _recipe(body)
    return _of_schema(body, _recipe)


def manifest(body: Any) -> Any:
    """Return the body of a ``run.yaml``."""
    return _of_schema(body, lambda old: _renamed(old, {}, settings=_settings))


def result(body: Any) -> Any:
    """Return the body of a ``result.json``."""
    return _of_schema(body, _result)


def costs(body: Any) -> Any:
    """Return the body of a ``costs.json``; the first ones held seconds by name and no schema."""
    return _of_schema(body, lambda old: _renamed(old, {"cells": "step_costs"}))


def fidelity(body: Any) -> Any:
    """Return the body of a ``fidelity.json``."""
    return _of_schema(body, lambda old: _renamed(old, _FIDELITY))


def verification(body: Any) -> Any:
    """Return the body of a ``verify.json`` of schema 2 in schema 3.

    Its verdict is left out, since it follows from the pairs.
    """
    return _of_schema(body, _verification, schema=2)


def bench(body: Any) -> Any:
    """Return the body of a ``bench.json`` of schema 2 in schema 3."""

    def translated(old: Any) -> Any:
        return _renamed(old, {"entrants": "schedules"}, schedules=_each(_with_arm))

    return _of_schema(body, translated, schema=2)


def checkpoint(state: dict[str, Any]) -> dict[str, Any]:
    """Return what a checkpoint holds; its tensors are not touched."""

    def search_state(old: Any) -> Any:
        return _renamed(old, {"shown": "reached_losses"}, reached_losses=_by_key(_reached))

    def translated(old: Any) -> Any:
        return _renamed(
            old,
            {"notes": "search_state"},
            search_state=search_state,
            last_evaluation=lambda evaluation: _renamed(evaluation, _EVALUATION),
        )

    found: dict[str, Any] = _of_schema(state, translated)
    return found


def decision(row: Any) -> Any:
    """Return a row of ``decisions.jsonl``."""
    parts = _each(lambda part: _renamed(part, _DECISION))
    return _renamed(row, _DECISION, candidates=parts, front=parts)


def decision_inputs(row: Any) -> Any:
    """Return a row of ``inputs.jsonl``."""
    return _renamed(row, _INPUTS, current_losses=_reached, previous_losses=_reached)


def event(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of ``events.jsonl``; most rows of a log of today are returned as they are."""
    kind = row.get("kind")
    translate = _EVENTS.get(kind) if isinstance(kind, str) else None
    if translate is None:
        return row
    found: dict[str, Any] = translate(row)
    return {**found, "kind": _KINDS.get(found["kind"], found["kind"])}


def _growth(body: Any) -> Any:
    words = {"init": _INITS, "old_blocks": _OLD_BLOCKS, "optimizer_state": _OPTIMIZER_STATES}
    return _renamed(body, _GROWTH, **{key: _word(names) for key, names in words.items()})


def _schedule(body: Any) -> Any:
    stages = _each(lambda stage: _renamed(stage, {}, grow=_growth))
    return _renamed(body, {}, length_unit=_word(_LENGTH_UNITS), stages=stages)


def _recipe(body: Any) -> Any:
    return _renamed(body, _RECIPE)


def _axes(body: Any) -> Any:
    fractions = _by_key(lambda axis: _renamed(axis, {"shares": "fractions"}))
    return _renamed(fractions(body), _AXES, init=_each(_word(_INITS)))


def _space(body: Any) -> Any:
    def decisions(old: Any) -> Any:
        return _renamed(old, _DECISIONS, grow=_growth)

    return _renamed(body, {}, axes=_axes, decisions=decisions, recipe=_recipe)


def _settings(body: Any) -> Any:
    def search(old: Any) -> Any:
        return _renamed(old, {"time_share": "cost_fraction"}, space=_space)

    def data(old: Any) -> Any:
        return _renamed(old, {"share": "fraction"})

    return _renamed(body, {}, recipe=_recipe, data=data, search=search)


def _result(body: Any) -> Any:
    # Its schedule says no schema of its own, since what a schedule says by default is left out there.
    return _renamed(body, _EVALUATION, schedule=_schedule)


def _reached(body: Any) -> Any:
    return _renamed(body, _REACHED)


def _with_arm(body: Any) -> Any:
    """Return a mapping with the settings of an arm, such as an entrant of a benchmark."""
    return _renamed(body, {}, settings=_arm)


def _arm(body: Any) -> Any:
    words = {
        "grow-init": _INITS,
        "grow-old-blocks": _OLD_BLOCKS,
        "grow-optimizer-state": _OPTIMIZER_STATES,
    }
    inner = {flag: _word(names) for flag, names in words.items()}
    return _renamed(body, {}, flags=lambda flags: _renamed(flags, FLAGS, **inner))


def _verification(body: Any) -> Any:
    def plan(old: Any) -> Any:
        return _renamed(old, {}, baseline=_arm, candidate=_arm, others=_each(_with_arm))

    def pair(old: Any) -> Any:
        return _renamed(old, {}, baseline=result, candidate=result, others=_by_key(result))

    # The plan's schedule is a text that goes into a file of its own, and is translated when that is read.
    return _renamed(body, {}, plan=plan, differing=_recipe, pairs=_each(pair))


_EVENTS: Translations = {
    "run_started": lambda row: _renamed(row, {"time_share": "cost_fraction"}),
    "progressed": lambda row: _renamed(
        row, {"data_wait_share": "data_wait_fraction", "budget_share": "budget_fraction"}
    ),
    "evaluated": lambda row: _renamed(row, _EVALUATION),
    "trial_told": dict,
    "decided": lambda row: _renamed(row, {}, decision=decision),
    "grown": _growth,
    "warned": dict,
    "run_finished": lambda row: _renamed(row, {}, result=result),
}


def _of_schema(body: Any, translate: Callable[[Any], Any], schema: int = 1) -> Any:
    """Return the body of a file of `schema` translated and of the next one; any other as it is."""
    said = body.get("schema") if isinstance(body, Mapping) else None
    if type(said) is not int or said != schema:  # True == 1, and a tensor is neither equal nor not
        return body
    return {**translate(body), "schema": schema + 1}


def _renamed(body: Any, names: Names, **inner: Callable[[Any], Any]) -> Any:
    """Return a mapping with its keys renamed, in their order, and the values of some translated.

    A key stays where its new name is there as well: what two keys say at once is for the check to refuse.
    """
    if not isinstance(body, Mapping):
        return body
    keys = {key: names.get(key, key) for key in body}
    found = {key if new in body else new: body[key] for key, new in keys.items()}
    return {key: inner[key](value) if key in inner else value for key, value in found.items()}


def _each(translate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what translates all values of a list."""

    def translated(values: Any) -> Any:
        return [translate(value) for value in values] if isinstance(values, list) else values

    return translated


def _by_key(translate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what translates all values of a mapping, whatever their keys."""

    def translated(values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: translate(value) for key, value in values.items()}

    return translated


def _word(names: Names) -> Callable[[Any], Any]:
    """Return what translates one word."""
    return lambda value: names.get(value, value) if isinstance(value, str) else value
