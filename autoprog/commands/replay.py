"""``autoprog show --replay``: every decision of a run taken again, and whether it comes out the same."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autoprog.commands.run_words import named_run
from autoprog.decisions import Decision
from autoprog.errors import ConfigError
from autoprog.printable import say
from autoprog.runs import load_run

if TYPE_CHECKING:
    from autoprog.search.decide import Chooser
    from autoprog.search.replay import Replayed
    from autoprog.ui.tables import Column

__all__ = ["replay_columns", "replay_document", "replay_run"]


def replay_run(args: argparse.Namespace) -> int:
    """Print what the decisions of a run come to; write nothing.

    Returns:
        1 if a decision differs though rule, sampler and seed are those of the run, else 0.

    Raises:
        ConfigError: If the run has nothing to replay, or other flags are given.
    """
    from autoprog.search.replay import chooser_of, replay
    from autoprog.ui.tables import plain_table

    for name in ("model", "epochs", "recipe", "diff", "svg", "html"):
        if getattr(args, name) is not None:
            problem = "must not be given with --replay"
            hint = "only --rule, --sampler, --seed, --plain and --json go with it"
            raise ConfigError(f"--{name}", "", problem, hint=hint)
    run = load_run(named_run(args.target))
    recorded, chooser = chooser_of(run), chooser_of(run, args.rule, args.sampler, args.seed)
    search = run.manifest.settings.search
    # What was recorded of such a search are continuations of equal time, which other rules do not compare.
    if chooser.rule != recorded.rule and search is not None and search.cost_fraction is not None:
        problem, hint = (
            "must be rollout for a search by time",
            "its continuations all take the same time",
        )
        raise ConfigError("--rule", "", problem, chooser.rule, hint)
    found = replay(run, chooser)
    if args.as_json:
        say(json.dumps(replay_document(run.path.name, chooser, recorded, found), indent=1))
    else:
        say("\n".join(plain_table(replay_columns(found))))
    differs = any(one.differences for one in found)
    # Another rule, sampler or seed may well decide otherwise: that is an answer and no failure.
    return int(differs and chooser == recorded)


def replay_columns(found: Sequence[Replayed]) -> list[Column]:
    """Return the table: when, what was decided, what the inputs come to, and how the two differ."""
    from autoprog.ui.format import number
    from autoprog.ui.tables import Column

    return [
        Column("decision", tuple(str(one.known.index) for one in found)),
        Column("epoch", tuple(number(one.known.epoch) for one in found)),
        Column("recorded", tuple(_schedule_text(one.recorded) for one in found), "left"),
        Column("again", tuple(_schedule_text(one.again) for one in found), "left"),
        Column("outcome", tuple(_outcome(one) for one in found), "left"),
    ]


def replay_document(
    name: str, chooser: Chooser, recorded: Chooser, found: Sequence[Replayed]
) -> dict[str, Any]:
    """Return the same as values that JSON can hold, with all decisions in full."""
    return {
        "run": name,
        "rule": chooser.rule,
        "sampler": chooser.sampler,
        "seed": chooser.seed,
        "as_recorded": chooser == recorded,
        "same": not any(one.differences for one in found),
        "decisions": [
            {
                "index": one.known.index,
                "outcome": _outcome(one),
                "differences": list(one.differences),
                "recorded": _values(one.recorded),
                "again": _values(one.again),
            }
            for one in found
        ],
    }


def _outcome(one: Replayed) -> str:
    if one.again is None:
        return "forced"
    if one.recorded is None:
        return "not taken yet"
    return f"differs: {', '.join(one.differences)}" if one.differences else "same"


def _schedule_text(decision: Decision | None) -> str:
    from autoprog.ui.search_sections import continuation_text

    return "-" if decision is None else continuation_text(decision)


def _values(decision: Decision | None) -> dict[str, Any] | None:
    return None if decision is None else decision.model_dump(mode="json")
