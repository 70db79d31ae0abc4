"""``autoprog bench costs``: the grid of a search space on this machine, as text and as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from autoprog.bench.costs import CostGrid, cost_rows, costs_as_json, print_costs
from autoprog.cli import main
from autoprog.costs.model import CostModel
from autoprog.costs.table import CostKey, CostTable, StepCost, table_of
from supernet.config import SubnetConfig, TokenRule
from supernet.zoo import ZOO

MU = ZOO["vit-mu"]
BATCH = 16
CELLS = [CostKey(SubnetConfig(depth, size), BATCH) for depth in (2, 3, 4) for size in (8, 16)]
MEASURED = {
    "d2 r8 b16": StepCost(
        seconds=0.01, interval=(0.009, 0.011), data_seconds=0.02, rounds=7, source="grid"
    ),
    "d2 r16 b16": StepCost(seconds=0.03, interval=(0.03, 0.03), data_seconds=0.025, rounds=7),
    "d4 r8 b16": StepCost(seconds=0.02, interval=(0.02, 0.02), data_seconds=0.02, rounds=7),
    "d4 r16 b16": StepCost(seconds=0.06, interval=(0.06, 0.07), data_seconds=0.025, rounds=7),
}
HERE = {"device": "cpu", "amp": "none", "threads": 1, "workers": 0, "processes": 1}
FAST = ("--device", "cpu", "--threads", "1", "--workers", "0", "--model", "vit-mu")


def grid(cells: list[CostKey] | None = None) -> CostGrid:
    model = CostModel(MU, CostTable(overlap=0.25, conditions=HERE, step_costs=MEASURED))
    rows = tuple(cost_rows(model, CELLS if cells is None else cells, BATCH, num_classes=10))
    return CostGrid("vit-mu", model.table, rows, model.left_out_errors(), seconds=12.0)


def text_of(found: CostGrid) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_costs(console, found)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def row_of(text: str, *words: str) -> list[str]:
    (found,) = [line.split() for line in text.splitlines() if line.split()[:2] == list(words)]
    return found


def test_a_row_says_what_a_cell_costs_against_the_full_one_and_its_work() -> None:
    rows = {row.key.name: row for row in grid().rows}
    small, full = rows["d2 r8 b16"], rows["d4 r16 b16"]
    assert small.step_ratio == pytest.approx(1 / 6)
    assert 0.1 < small.macs_ratio < 0.15
    assert (full.step_ratio, full.macs_ratio) == (1.0, 1.0)
    assert small.wall_seconds == pytest.approx(0.02 + 0.75 * 0.01)
    assert small.is_data_bound
    assert not full.is_data_bound


def test_cells_that_were_not_measured_are_marked() -> None:
    rows = {row.key.name: row for row in grid().rows}
    between = rows["d3 r16 b16"]
    assert between.is_estimated
    assert between.interval is None
    assert 0.03 < between.step_seconds < 0.06
    assert row_of(text_of(grid()), "3", "16")[-1] == "estimated"


def test_the_table_is_aligned_text_where_nobody_looks() -> None:
    text = text_of(grid())
    assert row_of(text, "2", "8") == [
        "2", "8", "10", "[9,", "11]", "20", "27.5", "0.167", "0.14", "7", "data-bound",
    ]  # fmt: skip
    assert "vit-mu, cpu, precision none, 1 threads, 0 loader workers; measured for 12 s" in text
    assert "each subnet estimated from the others: off by" in text
    assert text.isascii()


def test_keep_rates_and_batch_sizes_have_columns_where_there_are_several() -> None:
    assert "keep" not in text_of(grid())
    more = [*CELLS, CostKey(SubnetConfig(4, 16, TokenRule(0.5)), 2 * BATCH)]
    text = text_of(grid(more))
    assert "keep" in text
    assert "batch" in text
    (half,) = [line.split() for line in text.splitlines() if line.split()[2:4] == ["0.5", "32"]]
    assert half[:4] == ["4", "16", "0.5", "32"]


def test_json_holds_a_costs_file() -> None:
    body = json.loads(costs_as_json(grid()))
    assert table_of(body["costs"], "costs").step_costs == MEASURED
    assert [cell["name"] for cell in body["cells"]] == [cell.name for cell in CELLS]
    assert body["cells"][0]["is_data_bound"] is True
    assert set(body["left_out_errors"]) == set(MEASURED)


def test_the_command_measures_the_models_own_space(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = main(["bench", "costs", *FAST, "--profile-seconds", "0", "--json"])
    body = json.loads(capsys.readouterr().out)
    assert code == 0
    assert len(body["cells"]) == 9
    assert sum(not cell["is_estimated"] for cell in body["cells"]) == 2
    assert all(cell["wall_seconds"] > 0 for cell in body["cells"])
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps(body["costs"]), encoding="utf-8")
    assert table_of(json.loads(costs.read_text()), "costs").conditions["threads"] == 1


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "costs", *FAST, "--profile-seconds", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "step/full" in out
    assert row_of(out, "4", "16")[-3] == "1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("costs", *FAST, "--schedule", "linear"), "--schedule: must be left out"),
        (("costs", *FAST, "--resume", "x"), "--resume: must be left out: a bench is no run"),
        (
            ("costs", *FAST, "--timm-script", "x.py"),
            "--timm-script must be given with autoprog bench runner",
        ),
        (("costs", *FAST, "--space", "nowhere"), "--space: unknown space"),
        (("costs",), "--model: must be given"),
        (
            ("runner", *FAST, "--schedule", "linear", "--space", "vit-mu"),
            "--space must be given with autoprog bench costs",
        ),
        (
            ("runner", *FAST, "--schedule", "linear", "--profile-seconds", "1"),
            "--profile-seconds must be given with autoprog bench costs",
        ),
    ],
)
def test_what_does_not_belong_together_is_one_line(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(["bench", *words])
    except SystemExit as stopped:  # by argparse
        code = stopped.code
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon"])
def test_time_to_measure_in_is_a_number_of_seconds(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "costs", *FAST, f"--profile-seconds={text}"])
    assert stopped.value.code == 2
    assert "--profile-seconds: must be a number from 0" in capsys.readouterr().err
