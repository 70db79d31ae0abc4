"""Unreadable images: skipped and counted in training, fatal in validation, the same for any workers."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autoprog.data.batches import BadImages, Batch, Unreadable, replacement_places
from autoprog.data.image_sources import FolderSource, ImageSource, TarSource
from autoprog.data.loader import TrainLoader, eval_batches
from autoprog.data.opening import open_data
from autoprog.data.run_data import Place, RunData, open_run_data
from autoprog.data.transforms import InputConfig, TransformSettings
from autoprog.errors import RunError
from autoprog.recipe import RECIPES, Recipe
from autoprog.settings import DataSettings, RunSettings, SearchSettings
from autoprog.space import SpaceFile
from autoprog.stage import FullModel
from supernet.zoo import ZOO

SETTINGS = TransformSettings()
RICH = InputConfig(8, "rand-m9-mstd0.5-inc1", 0.5)
PER_CLASS = 30


def write_part(folder: Path, per_class: int, seed: int = 0) -> None:
    rng = np.random.RandomState(seed)
    for name in ("ape", "cat"):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            ending = "jpg" if number % 2 else "png"
            pixels = rng.randint(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{ending}")


def cut(path: Path) -> None:
    """Truncate a PNG, or destroy the middle of a JPEG and cut its end off."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if path.suffix == ".png" else data[:200])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_part(tmp_path / "train", PER_CLASS)
    write_part(tmp_path / "val", 4, seed=1)
    return tmp_path


@pytest.fixture
def torn(tree: Path) -> Path:
    """Images 4 (PNG), 5 (JPEG) and 30 + 29 (JPEG) of the training part are unreadable."""
    for name in ("ape/4.png", "ape/5.jpg", "cat/29.jpg"):
        cut(tree / "train" / name)
    return tree


def draw(
    source: ImageSource, bad_images: BadImages, indices: Any, batch: int, steps: int, workers: int
) -> list[Batch]:
    loader = TrainLoader(source, SETTINGS, 3, workers, bad_images=bad_images)
    try:
        return list(loader.batches(np.asarray(indices), 0, batch, steps, lambda step: RICH))
    finally:
        loader.close()


def run_data_of(folder: Path, place: tuple[int, int] = (0, 1), **changes: Any) -> RunData:
    recipe = Recipe(**{**RECIPES["digits"].model_dump(), "batch_size": 8})
    space = SpaceFile().space(ZOO["vit-mu"], "test")  # what a search is given a held-out slice for
    settings = RunSettings(
        kind="search",
        search=SearchSettings(space=space, space_from="test"),
        model=FullModel.of(ZOO["vit-mu"]),
        data=DataSettings(dir=str(folder)),
        recipe_name="digits",
        recipe=recipe,
        **{"workers": 0, **changes},
    )
    opened = open_data(DataSettings(dir=str(folder)))
    return open_run_data(opened, SETTINGS, settings, False, Place(*place))


@pytest.mark.parametrize(
    ("readable", "places"),
    [
        ([1, 1, 1], [0, 1, 2]),
        ([1, 0, 1], [0, 2, 2]),
        ([0, 0, 1], [2, 2, 2]),
        ([1, 1, 0], [0, 1, 0]),
        ([0, 1, 0, 0], [1, 1, 1, 1]),
        ([0, 0], []),
    ],
)
def test_a_place_is_filled_from_the_next_readable_one(
    readable: list[int], places: list[int]
) -> None:
    assert replacement_places(np.array(readable, dtype=bool)).tolist() == places


def test_an_image_counts_once_and_is_told_once() -> None:
    bad = BadImages(2)
    bad.add([Unreadable(7, "x.jpg: image 7 cannot be read: cut")])
    bad.add([Unreadable(7, "x.jpg: image 7 cannot be read: cut"), Unreadable(9, "y.png: bad")])
    assert bad.new_warnings() == [
        "x.jpg: image 7 cannot be read: cut; skipped (1 of at most 2)",
        "y.png: bad; skipped (2 of at most 2)",
    ]
    assert bad.new_warnings() == []
    bad.add([Unreadable(9, "y.png: bad")])
    assert bad.new_warnings() == []
    with pytest.raises(RunError) as caught:
        bad.add([Unreadable(1, "z.png: bad")])
    assert str(caught.value) == (
        "z.png: bad; that makes 3 unreadable images, and --max-bad-images is 2"
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_next_of_the_batch_stands_in_whatever_the_workers(
    torn: Path, tmp_path: Path, packed: bool, workers: int
) -> None:
    source: ImageSource = FolderSource(torn / "train")
    whole = [index for index in range(60) if index not in (4, 5, 59)]
    alone = {
        index: draw(source, BadImages(0), [index], 1, 1, 0)[0][0][0] for index in (*whole[:8], 58)
    }
    if packed:
        with tarfile.open(tmp_path / "train.tar", "w") as tar:
            tar.add(torn / "train", arcname="train")
        source = TarSource(tmp_path / "train.tar")
    bad = BadImages(3)
    order = draw_order([*range(8), 58, 59], 10)
    images, targets = draw(source, bad, [*range(8), 58, 59], 10, 1, workers)[0]
    places = replacement_places(np.array([index not in (4, 5, 59) for index in order]))
    for place, image, target in zip(places, images, targets, strict=True):
        assert image.equal(alone[order[place]])
        assert int(target) == order[place] // PER_CLASS
    said = bad.new_warnings()
    assert len(said) == 3
    first_bad = next(index for index in order if index in (4, 5, 59))
    assert f": image {first_bad} cannot be read: " in said[0]
    assert said[0].endswith("; skipped (1 of at most 3)")
    assert all("\n" not in line for line in said)


def draw_order(indices: list[int], batch: int) -> list[int]:
    from autoprog.data.loader import SampleStream

    return SampleStream(np.array(indices), 3).index(0, batch).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_more_than_the_limit_stops_the_run(torn: Path, workers: int) -> None:
    bad = BadImages(2)
    with pytest.raises(RunError, match="that makes 3 unreadable images, and --max-bad-images is 2"):
        draw(FolderSource(torn / "train"), bad, np.arange(60), 20, 6, workers)
    assert len(bad.new_warnings()) == 2


def test_the_same_image_in_later_passes_does_not_count_again(torn: Path) -> None:
    bad = BadImages(3)
    assert len(draw(FolderSource(torn / "train"), bad, np.arange(60), 20, 12, 0)) == 12
    assert len(bad.new_warnings()) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_without_any_readable_image_stops_the_run(torn: Path, workers: int) -> None:
    with pytest.raises(RunError, match=r"image [45] cannot be read: .*; nor can any other"):
        draw(FolderSource(torn / "train"), BadImages(9), [4, 5], 2, 1, workers)


def test_a_run_counts_all_that_it_reads_of_the_training_set(torn: Path) -> None:
    run_data = run_data_of(torn, max_bad_images=3)
    _, targets = run_data.probe
    assert len(targets) == 57
    said = run_data.new_warnings()
    assert [line.rpartition("; ")[2] for line in said] == [
        f"skipped ({count} of at most 3)" for count in (1, 2, 3)
    ]
    list(run_data.batches(0, 8, 10, lambda k: RICH, held_out=False))
    assert run_data.new_warnings() == []
    run_data.close()


def test_the_held_out_slice_leaves_unreadable_images_out(tree: Path) -> None:
    run_data = run_data_of(tree)
    before = sum(len(targets) for _, targets in run_data.held_out_batches)
    held = run_data._held  # type: ignore[attr-defined]
    cut(Path(FolderSource(tree / "train").name(int(held[0]))))
    again = run_data_of(tree)
    assert sum(len(targets) for _, targets in again.held_out_batches) == before - 1
    assert f": image {held[0]} cannot be read" in again.new_warnings()[0]
    for index in held:
        path = Path(FolderSource(tree / "train").name(int(index)))
        path.write_bytes(b"")
    with pytest.raises(RunError, match="no image of its slice is readable"):
        _ = run_data_of(tree).held_out_batches


def test_a_limit_of_none_stops_at_the_first(torn: Path) -> None:
    run_data = run_data_of(torn, max_bad_images=0)
    with pytest.raises(RunError, match=r"image 4 cannot be read: .*--max-bad-images is 0"):
        _ = run_data.probe


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_validation_image_stops_the_run(tree: Path, workers: int) -> None:
    cut(tree / "val" / "cat" / "3.jpg")
    run_data = run_data_of(tree, workers=workers)
    with pytest.raises(RunError, match=r"cat/3\.jpg: image 7 cannot be read"):
        list(run_data.validation())


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_ranks_share_the_validation_set_and_nothing_else(tree: Path, world_size: int) -> None:
    whole = run_data_of(tree)
    of_ranks = [run_data_of(tree, (rank, world_size)) for rank in range(world_size)]
    fractions = [[image for images, _ in own.validation() for image in images] for own in of_ranks]
    assert sum(len(fraction) for fraction in fractions) == 8
    assert world_size < 9 or fractions[8] == []
    images = torch.cat([images for images, _ in whole.validation()])
    for rank, fraction in enumerate(fractions):
        for position, image in enumerate(fraction):
            assert image.equal(images[rank + position * world_size])
    for run_data in of_ranks:
        assert run_data.probe[0].equal(whole.probe[0])
        held = zip(run_data.held_out_batches, whole.held_out_batches, strict=True)
        assert all(one[0].equal(two[0]) for one, two in held)


def test_ranks_share_the_batches(tree: Path) -> None:
    whole = list(run_data_of(tree).batches(16, 8, 5, lambda k: RICH, held_out=True))
    of_ranks = [run_data_of(tree, (rank, 2)) for rank in range(2)]
    fractions = [list(own.batches(16, 8, 5, lambda k: RICH, held_out=True)) for own in of_ranks]
    for (images, targets), one, two in zip(whole, *fractions, strict=True):
        assert images.equal(torch.cat([one[0], two[0]]))
        assert targets.equal(torch.cat([one[1], two[1]]))


def test_evaluation_batches_may_lose_a_whole_batch(torn: Path) -> None:
    bad = BadImages(5)
    chosen = np.array([3, 4, 5, 59, 7])
    batches = list(eval_batches(FolderSource(torn / "train"), SETTINGS, 8, 2, 0, chosen, bad))
    assert [len(targets) for _, targets in batches] == [1, 1]
    assert len(bad.new_warnings()) == 3
