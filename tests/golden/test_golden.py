"""The golden table: what small command lines come to is what was recorded before anything was restructured.

Where processor, threads and packages are those of the recording, everything is equal to the bit. On any
other machine the last bits differ, so there hashes and accuracies are left out, floats may differ by a
thousandth (losses of such short runs do by less: tried with AVX2 against a recording with AVX-512), and of
searches, whose decisions a last bit can turn, the exit code alone is compared, as of a few runs that drift
apart. Error lines are the same everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.golden import table
from tests.golden.record import RECORDED, Player, _lines, _recorded_words, differences, here
from tests.golden.table import KEPT, ROWS, Row

PARAMETERS = [
    pytest.param(row, id=row.name, marks=[pytest.mark.slow] if row.slow else []) for row in ROWS
]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them add up in another order, in other bits
    yield Player(tmp_path_factory.mktemp("golden").resolve())
    torch.set_num_threads(threads)


@pytest.mark.parametrize("row", PARAMETERS)
def test_a_row_comes_to_what_was_recorded(
    row: Row, player: Player, recorded: dict[str, Any]
) -> None:
    exact = here() == recorded["here"]
    now, before = json.loads(json.dumps(player.record(row))), recorded["rows"][row.name]
    if row.is_sensitive and not exact:
        now, before = {"exit": now["exit"]}, {"exit": before["exit"]}
    found = [*differences(before, now, exact=exact or row.compares == "error")]
    assert not found, "\n".join(found[:20])


def test_every_row_is_recorded_and_every_record_has_a_row(recorded: dict[str, Any]) -> None:
    assert [*recorded["rows"]] == [row.name for row in ROWS]


def test_ways_to_the_same_weights_were_recorded_with_the_same_hash(
    recorded: dict[str, Any],
) -> None:
    rows = recorded["rows"]
    same = [("linear", "resume"), ("rollout", "resume-search"), ("images", "images-workers")]
    for one, other in [*same, ("images-cache", "images-cached")]:
        assert rows[one]["final"] == rows[other]["final"]
        assert rows[one]["final_ema"] == rows[other]["final_ema"]
    assert (
        len({row["final"]["sha256"] for row in rows.values() if "final" in row})
        == sum("final" in row for row in rows.values()) - len(same) - 1
    )


def test_new_names_lead_back_to_the_recorded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.KEYS, "optimizer_state", "state")
    monkeypatch.setitem(table.VALUES, "state", {"copy": "carry"})
    monkeypatch.setitem(table.TEXTS, "the new sentence", "the recorded one")
    renamed = {"grow": {"op": "zero", "optimizer_state": "copy"}, "added": 1}
    assert _recorded_words(renamed, KEPT["best"]) == {"grow": {"op": "zero", "state": "carry"}}
    assert [*_lines("the  new sentence\n")] == ["the recorded one"]


@pytest.mark.parametrize(
    ("change", "exact", "told"),
    [
        ({"loss": 2.0 + 1e-15}, True, [".loss: recorded 2.0, now 2.000000000000001"]),
        ({"loss": 2.001}, False, []),
        ({"loss": 2.01}, False, [".loss: recorded 2.0, now 2.01"]),
        ({"sha256": "b"}, True, [".sha256: recorded 'a', now 'b'"]),
        ({"sha256": "b", "top1": 7.0}, False, []),
        ({"steps": [1, 3]}, False, [".steps[1]: recorded 2, now 3"]),
        ({"steps": [1]}, False, [".steps: recorded [1, 2], now [1]"]),
        ({"new": 0}, False, [".new: only new: 0"]),
    ],
)
def test_differences_are_told(change: dict[str, Any], exact: bool, told: list[str]) -> None:
    before = {"loss": 2.0, "sha256": "a", "steps": [1, 2], "top1": 5.0}
    assert [*differences(before, {**before, **change}, exact=exact)] == told


def test_the_recording_is_small() -> None:
    assert RECORDED.stat().st_size < 200_000
