from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.console import Console, RenderableType

from autoprog.events import Event
from autoprog.presets import preset
from autoprog.recipe import RECIPES
from autoprog.ui.render_rich import place_labels, step_plot, view
from autoprog.ui.run_sections import schedule_section
from autoprog.ui.state import fold
from autoprog.ui.subject import Subject
from autoprog.ui.track import Lane, Track, track_of_run, track_of_table
from supernet.config import SubnetConfig
from supernet.cost import relative_cost
from supernet.zoo import ZOO

SPEC = ZOO["deit-s"]
STRENGTH = RECIPES["deit"].strength


def linear_track() -> Track:
    schedule = preset("linear", SPEC, 300, STRENGTH)
    return track_of_table(SPEC, schedule.resolve(1000), STRENGTH)


def drawn(track: Track) -> RenderableType:
    return view(schedule_section(Subject("a", "schedule", SPEC, None, track)))


def test_lanes_of_the_linear_preset_are_the_published_ramp() -> None:
    table = {lane.name: lane.texts for lane in linear_track().lanes()}
    assert table == {
        "depth": ("6", "8", "10", "12"),
        "image px": ("128", "160", "192", "224"),
        "RandAugment": ("4", "6", "7", "9"),
        "drop-path": ("0", "0.0333", "0.0667", "0.1"),
        "erasing": ("0", "0.0833", "0.167", "0.25"),
        "step cost": ("16%", "33%", "60%", "100%"),
    }
    assert linear_track().constants() == {"mixup": "0.8", "cutmix": "1"}


def test_a_constant_schedule_has_no_lane_of_regularisation_and_costs_one() -> None:
    table = preset("constant", SPEC, 300, STRENGTH).resolve(1000)
    track = track_of_table(SPEC, table, STRENGTH)
    assert [lane.name for lane in track.lanes()] == ["depth", "image px", "step cost"]
    assert track.mean_step_cost() == 1.0


def test_mean_cost_weighs_segments_by_their_steps() -> None:
    track = linear_track()
    subnets = [SubnetConfig(d, r) for d, r in ((6, 128), (8, 160), (10, 192), (12, 224))]
    expected = sum(relative_cost(SPEC, subnet) for subnet in subnets) / 4
    assert track.mean_step_cost() == pytest.approx(expected)


def test_measured_speed_up_needs_every_cell() -> None:
    costs = {"d6 r128": 1.0, "d8 r160": 2.0, "d10 r192": 4.0}
    assert linear_track().measured_speed_up(costs) is None
    assert linear_track().measured_speed_up({**costs, "d12 r224": 5.0}) == pytest.approx(20 / 12)


def test_heights_are_fractions_of_the_top() -> None:
    lane = Lane("depth", (6.0, 12.0), ("6", "12"), 12.0)
    assert step_plot(lane, [0, 4], now=8, known=8, width=8) == "▄▄▄▄████"


def test_planned_columns_are_hatched_and_undecided_ones_dotted() -> None:
    lane = Lane("depth", (6.0, 12.0), ("6", "12"), 12.0)
    assert step_plot(lane, [0, 4], now=5, known=8, width=10) == "▄▄▄▄█┊░░··"


def test_labels_keep_the_ends_where_room_is_short() -> None:
    assert place_labels([(0, "128"), (2, "160"), (9, "224")], 12) == "128      224"
    assert place_labels([(0, "6"), (4, "8"), (11, "12")], 12) == "6   8     12"


@pytest.mark.parametrize("width", [60, 80, 160, 200])
def test_the_picture_fits_and_shows_every_change(
    width: int, fixed_console: Callable[..., Console], shown: Callable[[Console], str]
) -> None:
    console = fixed_console(width)
    console.print(drawn(linear_track()))
    text = shown(console)
    assert max(map(len, text.splitlines())) == width
    for lane in linear_track().lanes():
        row = next(line for line in text.splitlines() if lane.name in line)
        assert row.split(lane.name)[1].rstrip(" │").split() == list(lane.texts)
    axis = next(line for line in text.splitlines() if "│ epoch" in line)
    assert axis.split()[2:-1] == ["0", "75", "150", "225", "300"]
    assert "1.91×" in text


def test_a_run_shows_where_it_is_and_what_it_has_not_decided(
    events_until: Callable[[int], list[Event]],
    fixed_console: Callable[..., Console],
    shown: Callable[[Console], str],
) -> None:
    track = track_of_run(fold(events_until(2300)))
    assert track is not None
    assert track.known_steps == 2800
    console = fixed_console(100)
    console.print(drawn(track))
    text = shown(console)
    for sign in ("now: epoch 23", "not decided yet", "░", "┊", "≈", "◆ decision", "▲ growth"):
        assert sign in text


def test_a_complete_run_has_no_cursor(events: list[Event]) -> None:
    track = track_of_run(fold(events))
    assert track is not None
    assert (track.now_step, track.known_steps) == (None, 4000)


def test_a_run_that_has_not_begun_has_no_track() -> None:
    assert track_of_run(fold([])) is None
