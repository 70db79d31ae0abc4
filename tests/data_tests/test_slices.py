"""A fraction of the training images, and evaluation on some of them: by settings and command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoprog import recipe
from autoprog.cli import build_parser, main
from autoprog.commands.configure import configure_search
from autoprog.data.image_sources import SlicedSource, whole_of
from autoprog.data.opening import open_data, sliced
from autoprog.errors import ConfigError
from autoprog.search.trials import trial_settings
from autoprog.settings import DataSettings, RunManifest, SearchSettings
from autoprog.space import find_space
from supernet.zoo import ZOO

SMALL = ("--model=vit-mu", "--device=cpu", "--threads=1", "--workers=0", "--epochs=1")


def numbers(source: SlicedSource) -> set[int]:
    return set(whole_of(source)[1].tolist())


def test_a_fraction_is_the_same_every_time_and_alike_in_all_classes() -> None:
    whole, (part, again) = (
        open_data(DataSettings()),
        (open_data(DataSettings(fraction=0.2)) for _ in range(2)),
    )
    assert isinstance(part.train, SlicedSource)
    assert isinstance(again.train, SlicedSource)
    assert numbers(part.train) == numbers(again.train)
    sizes, all_sizes = (np.bincount(one.train.targets) for one in (part, whole))
    assert np.all(np.abs(sizes - 0.2 * all_sizes) <= 0.5)
    assert len(part.val) == len(whole.val)


def test_held_out_images_are_training_images_that_are_not_trained_on() -> None:
    whole, held = open_data(DataSettings()), open_data(DataSettings(on_held_out=True))
    both = [numbers(source) for source in held.images]
    assert not both[0] & both[1]
    assert both[0] | both[1] == set(range(len(whole.train)))
    assert len(both[1]) == int(0.05 * len(whole.train))


def test_a_fraction_never_holds_what_is_held_out() -> None:
    held = open_data(DataSettings(on_held_out=True)).images[1]
    part = open_data(DataSettings(on_held_out=True, fraction=0.3)).images
    assert numbers(part[1]) == numbers(held)
    assert not numbers(part[0]) & numbers(held)
    without = numbers(open_data(DataSettings(fraction=0.3)).images[0])
    others = (without - numbers(held)) ^ numbers(part[0])
    assert len(others) <= 20  # two a class: else it is the same fraction


def test_too_few_images_to_hold_any_out_are_refused() -> None:
    whole = open_data(DataSettings())
    few = replace(whole, train=SlicedSource(whole.images[0], np.arange(19)))
    with pytest.raises(ConfigError, match="must have images to hold out: 5% of them are none"):
        sliced(few, 1.0, on_held_out=True)


def test_trials_take_their_fraction_of_the_fraction(manifest: RunManifest) -> None:
    space, where = find_space(None, "vit-mu")
    search = SearchSettings(space=space.space(ZOO["vit-mu"], where), space_from=where, proxy=0.5)
    data = DataSettings(fraction=0.4)
    settings = manifest.settings.model_copy(update={"search": search, "data": data})
    trial = trial_settings(settings)
    assert (trial.data.fraction, trial.data.on_held_out) == (0.2, True)


@pytest.mark.parametrize(
    ("flag", "name"), [("--proxy=0.25", "deit"), ("--data-fraction=0.25", "small-data")]
)
def test_a_proxy_takes_the_recipe_of_what_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, name: str
) -> None:
    """Its schedule is trained on all images later, and is compared with the recipe that suits them."""
    for part in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(20):
                Image.new("RGB", (16, 16)).save(tmp_path / part / label / f"{number}.png")
    monkeypatch.setattr(recipe, "_SMALL_DATA_IMAGES", 15)
    words = ["search", "--model=vit-mu", f"--data={tmp_path}", "--epochs=40", flag]
    assert configure_search(build_parser("search").parse_args(words)).settings.recipe_name == name


def test_both_are_flags_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "--schedule=constant", *SMALL, f"--runs-dir={tmp_path}")
    assert main([*words, "--data-fraction=0.25", "--held-out"]) == 0
    (run,) = tmp_path.iterdir()
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert "; trained on " in capsys.readouterr().out
    whole = len(open_data(DataSettings()).train)
    held = int(0.05 * whole)
    (started,) = (row for row in rows if row["kind"] == "run_started")
    assert started["num_images"] == pytest.approx(0.25 * (whole - held), abs=5)


def exit_code(words: list[str]) -> int:
    """Return what a command ends with, also where argparse ends it."""
    try:
        return main(words)
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--data-fraction", "0"),
            "--data-fraction: must be a number from 1e-06 to 1, but got '0'",
        ),
        (
            ("--data-fraction", "nan"),
            "--data-fraction: must be a number from 1e-06 to 1, but got 'nan'",
        ),
        (
            ("--data-fraction", "1.5"),
            "--data-fraction: must be a number from 1e-06 to 1, but got '1.5'",
        ),
        (("--held-out", "--trials", "2"), "--held-out: must be left out with --trials; trials are"),
    ],
)
def test_bad_fractions_are_one_line_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    command = ("search", *SMALL, f"--runs-dir={tmp_path / 'runs'}", *words)
    assert exit_code(list(command)) == 2
    err = capsys.readouterr().err
    assert (said in err, err.count("\n")) == (True, 1), err
    assert list(tmp_path.iterdir()) == []
