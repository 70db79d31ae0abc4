from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from autoprog.cli import main
from autoprog.errors import ConfigError, RunError
from autoprog.events import StageStarted
from autoprog.presets import preset
from autoprog.recipe import RECIPES
from autoprog.runs import RunFolder
from autoprog.stage import Curriculum, Unfrozen
from autoprog.ui.format import trained_text
from autoprog.ui.live import event_lines
from autoprog.ui.show import show
from autoprog.ui.state import RunState, reduce
from supernet.cost import relative_cost
from supernet.zoo import ZOO

SPEC = ZOO["deit-s"]


@pytest.fixture
def printed(
    fixed_console: Callable[..., Console], shown: Callable[[Console], str]
) -> Callable[..., str]:
    def run(target: str | Path, width: int = 100, **options: object) -> str:
        console = fixed_console(width)
        show(str(target), console=console, **options)  # type: ignore[arg-type]
        return shown(console)

    return run


def now_of(run: Path, later_seconds: float) -> Callable[[], float]:
    return lambda: (run / "events.jsonl").stat().st_mtime + later_seconds


def test_a_preset_is_drawn_for_a_model_with_a_note_of_the_default(
    printed: Callable[..., str],
) -> None:
    text = printed("linear")
    for word in ("deit-s", "--model NAME", "depth", "image px", "RandAugment", "step cost"):
        assert word in text
    assert "--model NAME" not in printed("linear", spec=ZOO["deit-ti"])


def test_plain_text_has_no_sign_that_a_screen_reader_chokes_on(
    printed: Callable[..., str], run_builder: Callable[[int], Path]
) -> None:
    preset_text = printed("linear", plain=True)
    assert preset_text.isascii()
    rows = [line.split() for line in preset_text.splitlines()]
    assert ["1", "0", "75", "6", "128", "4", "0", "0", "16%"] in rows
    assert ["4", "225", "300", "12", "224", "9", "0.1", "0.25", "100%"] in rows
    run = run_builder(2300)
    text = printed(run, plain=True, clock=now_of(run, 1))
    assert text.isascii()
    for part in ("status: training", "Decision 1 at epoch 20", "Growth", "Evaluations", "warning:"):
        assert part in text
    assert "supernet" in text.split("Schedule")[1].split("mean step cost")[0]


def test_a_simple_terminal_gets_plain_text(shown: Callable[[Console], str]) -> None:
    import io

    console = Console(file=io.StringIO(), width=80, force_terminal=True, _environ={"TERM": "dumb"})
    show("linear", console=console)
    assert shown(console).isascii()


def test_json_holds_the_schedule_and_unrounded_costs(printed: Callable[..., str]) -> None:
    values = json.loads(printed("linear", as_json=True, width=60))
    recipe = RECIPES["deit"]
    schedule = preset("linear", SPEC, recipe.epochs, recipe.strength, recipe.learning_rate)
    table = schedule.resolve(1000)
    assert values["schedule"] == schedule.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert values["total_steps"] == 300_000
    assert values["steps_are_nominal"] is True
    costs = [relative_cost(SPEC, segment.subnet) for segment in table.segments]
    assert [row["relative_cost"] for row in values["step_table"]] == costs
    assert values["ideal_speed_up"] == pytest.approx(4 / sum(costs))
    assert values["result"] is None


def test_json_of_a_run_equals_what_the_run_wrote(
    printed: Callable[..., str], run_builder: Callable[[int], Path]
) -> None:
    run = run_builder(4000)
    values = json.loads(printed(run, as_json=True))
    lines = (run / "decisions.jsonl").read_text().splitlines()
    assert values["decisions"] == [json.loads(line) for line in lines]
    assert values["result"] == json.loads((run / "result.json").read_text())
    assert values["status"] == "complete"
    assert values["steps_are_nominal"] is False
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for kind, key in (("evaluated", "evaluations"), ("grown", "growths")):
        written = [
            {k: v for k, v in row.items() if k not in ("time", "attempt")}
            for row in rows
            if row["kind"] == kind
        ]
        assert values[key] == written


@pytest.mark.parametrize("width", [60, 80, 160, 300])
def test_no_line_of_a_run_is_wider_than_the_terminal(
    width: int, printed: Callable[..., str], run_builder: Callable[[int], Path]
) -> None:
    text = printed(run_builder(4000), width=width)
    assert max(map(len, text.splitlines())) <= min(width, 200)
    for part in ("✔ complete", "Schedule", "Curves", "Decision 2", "Growth", "73.25 %", "6.00 GiB"):
        assert part in text


def test_a_torn_last_line_and_a_second_attempt_are_read_as_they_hold(
    printed: Callable[..., str],
    run_builder: Callable[[int], Path],
    events_until: Callable[[int], list[object]],
) -> None:
    run = run_builder(900)
    folder = RunFolder.reopen(run)
    first = events_until(0)[0]
    folder.append(first.model_copy(update={"step": 800}))  # type: ignore[attr-defined]
    folder.close()
    with (run / "events.jsonl").open("a") as file:
        file.write('{"attempt": 1, "step": 820, "kind": "progr')
    values = json.loads(printed(run, as_json=True, clock=now_of(run, 1)))
    assert values["step"] == 800
    assert [event["step"] for event in values["evaluations"]] == [200, 400, 600, 800]


def test_a_silent_run_is_stale(
    printed: Callable[..., str], run_builder: Callable[[int], Path]
) -> None:
    run = run_builder(900)
    assert "? stale" in printed(run, clock=now_of(run, 601))
    assert "● supernet" in printed(run, clock=now_of(run, 599))


def test_a_run_without_events_or_schedule_is_shown(
    printed: Callable[..., str], run_builder: Callable[[int], Path]
) -> None:
    run = run_builder(-1)
    assert "● starting" in printed(run, clock=now_of(run, 1))
    (run / "events.jsonl").unlink()
    assert "? stale" in printed(run, clock=lambda: 1e12)


def test_a_planned_run_without_events_shows_its_plan(
    printed: Callable[..., str], run_builder: Callable[[int], Path]
) -> None:
    run = run_builder(-1)
    (run / "schedule.yaml").write_text(
        preset("linear", SPEC, 40, RECIPES["deit"].strength).to_yaml()
    )
    assert "image px" in printed(run, clock=now_of(run, 1))


def test_a_schedule_file_is_drawn_at_its_own_length(
    printed: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(preset("linear", SPEC, 40, RECIPES["deit"].strength).to_yaml())
    axis = next(line for line in printed(path).splitlines() if "│ epoch" in line)
    assert axis.split()[2:-1] == ["0", "10", "20", "30", "40"]


def test_a_schedule_in_fractions_is_drawn_for_a_length_that_is_told(
    printed: Callable[..., str], tmp_path: Path
) -> None:
    text = preset("constant", SPEC, 40, RECIPES["deit"].strength).to_yaml()
    path = tmp_path / "shares.yaml"
    path.write_text(text.replace("length: 40", "length: rest").replace(".0\n", "\n"))
    assert "drawn for 300 epochs" in printed(path)
    assert "drawn for" not in printed(path, epochs=7.0)


def test_an_unknown_target_names_the_presets(printed: Callable[..., str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'linear'"):
        printed("linaer")
    with pytest.raises(ConfigError, match="constant, efficienttrain"):
        printed("runs/nothing")


def test_a_preset_is_drawn_for_any_model_of_timm_that_can_grow(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "linear", "--model", "vit_small_patch32_224", "--plain"]) == 0
    assert "full: depth 12, 224 px" in capsys.readouterr().out
    assert main(["show", "linear", "--model", "swin_tiny_patch4_window7_224"]) == 2
    assert "--model: must be" in capsys.readouterr().err


def test_pictures_are_written_to_files(printed: Callable[..., str], tmp_path: Path) -> None:
    svg, html = tmp_path / "a.svg", tmp_path / "a.html"
    printed("linear", svg=svg, html=html)
    assert "<svg" in svg.read_text()
    assert "RandAugment" in svg.read_text()
    assert "RandAugment" in html.read_text()
    with pytest.raises(RunError, match="cannot be written"):
        printed("linear", svg=tmp_path / "missing" / "a.svg")


def test_showing_imports_nothing_heavy() -> None:
    code = (
        "import sys, autoprog.ui.show as s; s.show('linear');"
        "heavy = {'torch', 'optuna', 'timm', 'numpy'} & set(sys.modules);"
        "own = [m for m in sys.modules if m.startswith(('autoprog.train.', 'autoprog.search.'))];"
        "sys.exit(str(heavy or own) if heavy or own else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_state_is_had_without_rich() -> None:
    code = "import sys, autoprog.ui.state, autoprog.ui.track; sys.exit('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_cyclic_keep_rate_takes_one_row(printed: Callable[..., str]) -> None:
    text = printed("patch-sampling", spec=ZOO["deit-s"], epochs=30, plain=True)
    (row,) = [line for line in text.splitlines() if line.strip().startswith("1  ")]
    assert "0.2 to 1" in row


def test_which_blocks_train_is_told(printed: Callable[..., str]) -> None:
    for plain in (True, False):
        text = printed("unfreezing", spec=ZOO["deit-s"], plain=plain)
        assert "3 of 12" in text
        assert "stage 1: 3 of 12 blocks train: 0, 4, 8" in text
        assert "stage 2: 6 of 12 blocks train: 0, 1, 4, 5, 8, 9" in text
        assert "stage 4" not in text
    assert trained_text(Unfrozen(level=3), 24) == (
        "18 of 24 blocks train: those whose number modulo 4 is below 3"
    )


def test_a_training_tells_which_blocks_train() -> None:
    schedule = preset("unfreezing", ZOO["vit-mu"], 4, RECIPES["digits"].strength)
    begun = StageStarted(
        step=22, stop_step=44, stage=1, subnet=ZOO["vit-mu"].full, curriculum=Curriculum()
    )
    state = reduce(RunState(schedule=schedule), begun)
    (line,) = event_lines(begun, state)
    assert line == "stage 2/4: step 22 to 44, depth 4, 16 px, 2 of 4 blocks train: 0, 1"


def test_a_picture_needs_no_font_of_the_web(printed: Callable[..., str], tmp_path: Path) -> None:
    printed("linear", svg=tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace(
        "https://www.textualize.io", ""
    )
    assert "Fira" not in text
    assert "ui-monospace" in text
