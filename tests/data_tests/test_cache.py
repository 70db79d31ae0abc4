"""The cache of decoded images: the same images, built once, whole or not at all, never stale."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autoprog.cli import main
from autoprog.data.batches import BadImages
from autoprog.data.cache import CachedSource, CacheSettings, content_digest, open_cached
from autoprog.data.cache_folder import FOOTER, MAGIC, cache_files
from autoprog.data.image_sources import FolderSource, ImageSource, ReaderSource, TarSource
from autoprog.data.loader import TrainLoader, eval_batches
from autoprog.data.opening import open_data
from autoprog.data.progress import progress_on_stderr
from autoprog.data.run_data import RunData, open_run_data
from autoprog.data.transforms import InputConfig, TransformSettings, eval_transform
from autoprog.errors import RunError
from autoprog.recipe import RECIPES
from autoprog.settings import DataSettings, RunSettings
from autoprog.stage import FullModel
from supernet.zoo import ZOO

SETTINGS = TransformSettings()
RICH = InputConfig(8, "rand-m9-mstd0.5-inc1", 0.5)
FULL_PX = 16


class Watch:
    """Notes the builds and how far they came."""

    def __init__(self, at: Callable[[int], None] = lambda done: None) -> None:
        self.texts: list[str] = []
        self.done: list[int] = []
        self._at = at

    @contextmanager
    def __call__(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        self.texts.append(text)
        yield self._advance

    def _advance(self, done: int) -> None:
        self.done.append(done)
        self._at(done)


def write_part(folder: Path, per_class: int = 10, seed: int = 0) -> None:
    rng = np.random.RandomState(seed)
    for name in ("ape", "cat"):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            ending = "jpg" if number % 2 else "png"
            pixels = rng.randint(0, 256, (20 + number % 3, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.{ending}")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_part(tmp_path / "data" / "train")
    write_part(tmp_path / "data" / "val", 4, seed=1)
    return tmp_path / "data"


@pytest.fixture
def cached(tree: Path, tmp_path: Path) -> Callable[..., tuple[ImageSource, Watch]]:
    def opened(
        source: ImageSource | None = None, exact: bool = False, **changes: Any
    ) -> tuple[ImageSource, Watch]:
        watch = Watch()
        given = {"full_px": FULL_PX, "workers": 0, "max_bad_images": 10, "progress": watch}
        settings = CacheSettings(**{"folder": str(tmp_path / "cache"), **given, **changes})
        chosen = FolderSource(tree / "train") if source is None else source
        return open_cached(chosen, "training", settings, exact), settings.progress  # type: ignore[return-value]

    return opened


def the_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").glob("*.images")
    return path


def assert_same_images(one: ImageSource, two: ImageSource) -> None:
    assert (len(one), one.class_names) == (len(two), two.class_names)
    assert one.targets.tolist() == two.targets.tolist()
    for index in range(len(one)):
        assert one.name(index) == two.name(index)
        (image, target), (expected, expected_target) = one.load(index), two.load(index)
        assert (image.mode, image.size, target) == ("RGB", expected.size, expected_target)
        assert image.tobytes() == expected.tobytes()


@pytest.mark.parametrize("workers", [0, 2])
def test_small_images_are_exactly_the_same(tree: Path, cached: Any, workers: int) -> None:
    source, watch = cached(workers=workers)
    assert isinstance(source, CachedSource)
    assert_same_images(source, FolderSource(tree / "train"))
    assert watch.done[-1] == 20
    assert watch.done == sorted(watch.done)
    assert len(watch.texts) == 1
    assert "decoding 20 training images into " in watch.texts[0]


def test_the_second_opening_decodes_nothing(
    tree: Path, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached()
    monkeypatch.setattr(FolderSource, "encoded", None)
    source, watch = cached()
    assert watch.texts == []
    assert source.load(7)[0].size == (24, 21)


def test_an_opening_is_noted_as_a_use_of_the_file(cached: Any, tmp_path: Path) -> None:
    cached()
    (file,) = cache_files(the_file(tmp_path).parent)
    os.utime(file.path, (1e9, 1e9))
    cached()
    (again,) = cache_files(file.path.parent)
    assert again.used > 1.5e9
    assert (again.part, again.data) == ("training", str(tmp_path / "data" / "train"))


def test_tars_and_torchvision_data_sets_are_cached(tree: Path, tmp_path: Path, cached: Any) -> None:
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(tree / "train", arcname="train")
    folder = DataSettings(dataset="torch/image_folder", data_dir=str(tree))
    for source in (TarSource(tmp_path / "train.tar"), open_data(folder).images[0]):
        held, watch = cached(source)
        assert_same_images(held, source)
        assert len(watch.texts) == 1
        assert cached(source)[1].texts == []


def touch(folder: Path) -> None:
    os.utime(folder / "ape" / "3.jpg", ns=(0, 12345))


def add(folder: Path) -> None:
    Image.new("RGB", (24, 20)).save(folder / "ape" / "new.png")


def remove(folder: Path) -> None:
    (folder / "cat" / "2.png").unlink()


def replace(folder: Path) -> None:
    """Replace an image by one of another size in bytes, with the same times."""
    path = folder / "ape" / "0.png"
    before = path.stat().st_mtime_ns
    Image.new("RGB", (24, 20), "red").save(path)
    os.utime(path, ns=(before, before))


def rename(folder: Path) -> None:
    (folder / "ape" / "9.jpg").rename(folder / "ape" / "8a.jpg")


def move(folder: Path) -> None:
    (folder / "ape" / "9.jpg").rename(folder / "cat" / "99.jpg")


@pytest.mark.parametrize("change", [touch, add, remove, replace, rename, move])
def test_a_change_in_the_folder_rebuilds_the_cache(
    tree: Path, tmp_path: Path, cached: Any, change: Callable[[Path], None]
) -> None:
    cached()
    change(tree / "train")
    source, watch = cached()
    assert len(watch.texts) == 1
    assert watch.texts[0].endswith("(the file is out of date or damaged)")
    assert_same_images(source, FolderSource(tree / "train"))
    assert cached()[1].texts == []
    assert the_file(tmp_path).exists()


def test_a_replaced_tar_rebuilds_the_cache(tree: Path, tmp_path: Path, cached: Any) -> None:
    archive = tmp_path / "train.tar"
    for expected in (1, 1):
        with tarfile.open(archive, "w") as tar:
            tar.add(tree / "train", arcname="train")
        os.utime(archive, ns=(0, time.time_ns()))
        assert len(cached(TarSource(archive))[1].texts) == expected
    assert cached(TarSource(archive))[1].texts == []


def test_a_changed_file_of_a_torchvision_data_set_rebuilds_the_cache(
    tree: Path, cached: Any
) -> None:
    data = DataSettings(dataset="torch/image_folder", data_dir=str(tree))
    cached(open_data(data).images[0])
    touch(tree / "train")
    assert len(cached(open_data(data).images[0])[1].texts) == 1


def test_another_limit_has_a_file_of_its_own(tree: Path, tmp_path: Path, cached: Any) -> None:
    assert len(cached(full_px=16)[1].texts) == 1
    small, watch = cached(full_px=8)
    assert len(watch.texts) == 1
    assert max(small.load(0)[0].size) < 24
    assert cached(full_px=16)[1].texts == cached(full_px=8)[1].texts == []
    assert len(list((tmp_path / "cache").glob("*.images"))) == 2


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def cut_in_pixels(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:999])


def shorten_inside(path: Path) -> None:
    path.write_bytes(path.read_bytes()[1:])


def damage_table(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-400] ^= 1
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    path.write_bytes(b"x" * 5000)


@pytest.mark.parametrize(
    "damage", [cut_off, cut_in_pixels, shorten_inside, damage_table, empty, foreign]
)
def test_a_damaged_or_foreign_file_is_rebuilt(
    tree: Path, tmp_path: Path, cached: Any, damage: Callable[[Path], None]
) -> None:
    cached()
    damage(the_file(tmp_path))
    source, watch = cached()
    assert len(watch.texts) == 1
    assert_same_images(source, FolderSource(tree / "train"))


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_killed_leaves_nothing_that_counts(
    tree: Path, tmp_path: Path, cached: Any, signal_number: int
) -> None:
    def child() -> None:
        cached(progress=Watch(lambda done: os.kill(os.getpid(), signal_number)))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode not in (0, None)
    parts = list((tmp_path / "cache").glob("*.part"))
    assert len(parts) == (1 if signal_number == signal.SIGKILL else 0)
    assert list((tmp_path / "cache").glob("*.images")) == []
    source, _ = cached()
    assert_same_images(source, FolderSource(tree / "train"))
    assert list((tmp_path / "cache").glob("*.part")) == []


def in_another_process(open_it: Callable[[Watch], Any], said: Any) -> Any:
    """Open a cache in a forked process, which says in how many builds that took."""

    def child() -> None:
        watch = Watch(lambda done: time.sleep(0.3))
        open_it(watch)
        said.put(len(watch.texts))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def test_two_builders_at_once_make_one_file(tree: Path, tmp_path: Path, cached: Any) -> None:
    said = multiprocessing.get_context("fork").SimpleQueue()
    builders = [in_another_process(lambda watch: cached(progress=watch), said) for _ in range(3)]
    assert sorted(said.get() for _ in builders) == [0, 0, 1]
    for builder in builders:
        builder.join(60)
        assert builder.exitcode == 0
    source, watch = cached()
    assert watch.texts == []
    assert_same_images(source, FolderSource(tree / "train"))


def test_who_wants_the_file_waits_for_whoever_builds_it(
    tree: Path, tmp_path: Path, cached: Any
) -> None:
    cached()
    path = the_file(tmp_path)
    whole = path.read_bytes()
    path.unlink()
    said = multiprocessing.get_context("fork").SimpleQueue()
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = in_another_process(lambda watch: cached(progress=watch), said)
        waiting.join(0.7)
        assert waiting.is_alive()
        assert not path.with_name(f"{path.name}.part").exists()
        path.write_bytes(whole)
        fcntl.flock(lock, fcntl.LOCK_UN)
    assert said.get() == 0
    waiting.join(60)


def test_a_full_disk_is_told_before_anything_is_written(
    tree: Path, tmp_path: Path, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=9999))
    with pytest.raises(RunError) as caught:
        cached()
    text = str(caught.value)
    assert text.startswith("the cache of the training images needs 0.0 GiB in ")
    assert "which has 0.0 GiB free; make room, name another folder with --cache DIR" in text
    assert list((tmp_path / "cache").glob("*.images*")) == list(
        (tmp_path / "cache").glob("*.images.lock")
    )


def test_the_space_that_is_asked_for_is_that_of_the_file(
    tree: Path, tmp_path: Path, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached()
    pixels = sum(3 * 24 * (20 + number % 3) for number in range(10)) * 2
    assert pixels <= the_file(tmp_path).stat().st_size <= pixels + 1000
    the_file(tmp_path).unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=pixels))
    cached()
    the_file(tmp_path).unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=pixels - 1))
    with pytest.raises(RunError, match="free"):
        cached()


def test_a_folder_that_cannot_be_written_is_named(tree: Path, tmp_path: Path, cached: Any) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RunError, match=r"cache/training-.*: the cache cannot be written: "):
        cached()


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    tree: Path, tmp_path: Path, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("autoprog.data.cache.os.fsync", full)
    with pytest.raises(RunError, match="the cache cannot be written: No space left on device"):
        cached()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_auto_is_the_users_cache_folder(
    tree: Path, tmp_path: Path, cached: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cached(folder="auto")
    assert len(list((tmp_path / "xdg" / "autoprog").glob("training-*-32px.images"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cached(folder="auto")
    assert len(list((tmp_path / "home/.cache/autoprog").glob("*.images"))) == 1


def test_large_images_are_made_smaller_at_the_same_aspect(tree: Path, cached: Any) -> None:
    rng = np.random.RandomState(0)
    smooth = Image.fromarray(rng.randint(0, 256, (8, 6, 3), dtype=np.uint8)).resize((450, 600))
    for name in ("ape/1.jpg", "ape/0.png"):
        smooth.save(tree / "train" / name)
    source, _ = cached()
    for index in (0, 1):
        image, _ = source.load(index)
        assert image.size == (32, 43)
        expected = np.asarray(smooth.resize((32, 43), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(np.asarray(image).astype(int) - expected).mean() < 3
    assert source.load(2)[0].size == (24, 22)
    assert source.are_thumbnails


@pytest.mark.parametrize("where", [0, 7])
def test_an_exact_cache_of_a_too_large_image_gives_the_source_itself(
    tree: Path, tmp_path: Path, cached: Any, where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoprog.data.cache._SAMPLED_IMAGES", 2)
    source = FolderSource(tree / "train")
    Image.new("RGB", (33, 34)).save(source.name(where))
    source = FolderSource(tree / "train")
    assert cached(source, exact=True)[0] is source
    assert the_file(tmp_path).stat().st_size < 1000
    again, watch = cached(source, exact=True)
    assert (again, watch.texts) == (source, [])


def test_an_exact_cache_of_small_images_is_used(tree: Path, cached: Any) -> None:
    source = FolderSource(tree / "train")
    held, _ = cached(source, exact=True)
    assert held is not source
    assert_same_images(held, source)


def test_forked_and_spawned_workers_read_the_map(tree: Path, cached: Any) -> None:
    source, _ = cached()
    data = pickle.dumps(source)
    assert len(data) < 20_000  # no pixels
    assert_same_images(pickle.loads(data), source)
    expected = list(eval_batches(source, SETTINGS, 8, 3, workers=0))
    for (images, targets), (images_0, targets_0) in zip(
        eval_batches(source, SETTINGS, 8, 3, workers=2), expected, strict=True
    ):
        assert images.equal(images_0)
        assert targets.equal(targets_0)


def test_a_map_outlives_its_file_but_is_not_sent_on_as_another(
    tree: Path, tmp_path: Path, cached: Any
) -> None:
    source, _ = cached()
    before = source.load(3)[0].tobytes()
    data = pickle.dumps(source)
    touch(tree / "train")
    Image.new("RGB", (24, 21)).save(tree / "train" / "ape" / "3.jpg")
    cached()
    assert source.load(3)[0].tobytes() == before
    with pytest.raises(RunError, match="the cache was replaced during the run"):
        pickle.loads(data)


def test_images_of_several_sizes_are_gathered_with_zeros_around(cached: Any) -> None:
    source, _ = cached()
    pixels, sizes = source.gather(np.array([0, 2, 1]))
    assert pixels.shape == (3, 22, 24, 3)
    assert sizes.tolist() == [[20, 24], [22, 24], [21, 24]]
    for row, index in enumerate((0, 2, 1)):
        height = sizes[row, 0]
        assert np.array_equal(pixels[row, :height], np.asarray(source.load(index)[0]))
        assert not pixels[row, height:].any()


@pytest.fixture
def torn(tree: Path) -> Path:
    """Images 3 (JPEG) and 12 (PNG) of the training part are unreadable."""
    for name in ("ape/3.jpg", "cat/2.png"):
        path = tree / "train" / name
        path.write_bytes(path.read_bytes()[:200])
    return tree


@pytest.mark.parametrize("full_px", [16, 60])
@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_recorded_and_skipped_as_without_the_cache(
    torn: Path, cached: Any, workers: int, full_px: int
) -> None:
    (torn / "train" / "ape" / "0.png").unlink()
    Image.new("RGB", (100, 120)).save(torn / "train" / "ape" / "0.png")
    plain = FolderSource(torn / "train")
    held, watch = cached(workers=workers, full_px=full_px)
    assert watch.done[-1] == 20
    assert cached(full_px=full_px)[1].texts == []
    assert held.are_thumbnails == (full_px == 16)
    said, labels = [], []
    for source in (plain, held):
        bad = BadImages(2)
        batches = draw(source, bad, range(20), 5, 8, workers)
        said.append(bad.new_warnings())
        labels.append([targets.tolist() for _, targets in batches])
    assert said[0] == said[1]
    assert len(said[0]) == 2
    assert labels[0] == labels[1]
    with pytest.raises(RunError, match=r"image (3|12) cannot be read: .*--max-bad-images is 1"):
        draw(held, BadImages(1), range(20), 5, 8, workers)
    with pytest.raises(RunError, match="nor can any other"):
        draw(held, BadImages(9), [3, 12], 2, 1, workers)


def draw(
    source: ImageSource, bad: BadImages, indices: Any, batch: int, steps: int, workers: int
) -> list[Any]:
    loader = TrainLoader(source, SETTINGS, 0, workers, bad_images=bad)
    try:
        return list(loader.batches(np.array(indices), 0, batch, steps, lambda step: RICH))
    finally:
        loader.close()


def test_a_stand_in_is_the_next_sample_with_its_own_draws(torn: Path, cached: Any) -> None:
    held, _ = cached()
    assert held.are_thumbnails

    def batch(indices: list[int]) -> torch.Tensor:
        return draw(held, BadImages(2), indices, len(indices), 1, 0)[0][0]  # type: ignore[no-any-return]

    whole = batch([3, 5, 7, 8, 12])
    alone = {index: batch([index])[0] for index in (5, 7, 8)}
    order = [next((k for k, one in alone.items() if one.equal(image)), None) for image in whole]
    assert None not in order
    assert sorted(set(order)) == [5, 7, 8]  # type: ignore[type-var]
    assert len(order) == 5


def test_more_unreadable_images_than_allowed_stop_the_build(torn: Path, cached: Any) -> None:
    with pytest.raises(RunError, match="that makes 2 unreadable images, and --max-bad-images is 1"):
        cached(max_bad_images=1)


def test_an_unreadable_validation_image_stops_the_build(torn: Path, cached: Any) -> None:
    with pytest.raises(RunError, match="image 3 cannot be read"):
        cached(exact=True)


@pytest.mark.parametrize("side", [16, 96])
def test_thumbnails_of_the_right_size_are_evaluated_as_one_by_one(
    tmp_path: Path, side: int
) -> None:
    """Also those that are augmented by batch, but large enough to be cut out as photographs are."""
    rng = np.random.RandomState(0)
    settings = dataclasses.replace(SETTINGS, crop_pct=0.9)
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(5):
            pixels = rng.randint(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    (tmp_path / "set" / "b" / "2.png").write_bytes(b"")
    source = FolderSource(tmp_path / "set")
    held = open_cached(
        source, "training", CacheSettings(str(tmp_path / "cache"), side, 0, 1, Watch())
    )
    for px in (side, 12):
        expected, found = (
            list(eval_batches(one, settings, px, 4, 0, bad_images=BadImages(1)))
            for one in (source, held)
        )
        assert [len(targets) for _, targets in found] == [4, 3, 2]
        for one, two in zip(expected, found, strict=True):
            assert one[0].equal(two[0])
            assert one[1].equal(two[1])
    image = eval_transform(side, settings)(source.load(0)[0])
    assert next(eval_batches(held, settings, side, 1, 0))[0][0].equal(image)


class Fields:
    """As much of a reader of several image fields as a source needs."""

    def __init__(self, image_key: str) -> None:
        self.image_key = image_key

    def __len__(self) -> int:
        return 2

    def iter_targets(self) -> list[int]:
        return [0, 1]


def test_another_field_of_a_data_set_is_another_content() -> None:
    left, right = (ReaderSource(Fields(key), "hfds/x", ("a", "b")) for key in ("left", "right"))
    assert content_digest(left) != content_digest(right)
    assert content_digest(left) == content_digest(
        ReaderSource(Fields("left"), "hfds/x", ("a", "b"))
    )


def run_data_of(folder: Path | None, progress: Any, **changes: Any) -> RunData:
    where = None if folder is None else str(folder)
    model = FullModel.of(ZOO["vit-mu"])
    settings = RunSettings(
        kind="train",
        model=model,
        data=DataSettings(dir=where),
        recipe_name="digits",
        recipe=RECIPES["digits"],
        **{"workers": 0, **changes},
    )
    return open_run_data(
        open_data(DataSettings(dir=where)), SETTINGS, settings, False, progress=progress
    )


def test_a_run_reads_both_parts_from_the_cache(tree: Path, tmp_path: Path) -> None:
    watch = Watch()
    run_data = run_data_of(tree, watch, cache=str(tmp_path / "cache"))
    assert [text.split()[3] for text in watch.texts] == ["training", "validation"]
    plain = run_data_of(tree, watch)
    assert run_data.probe[0].equal(plain.probe[0])
    assert next(run_data.validation())[0].equal(next(plain.validation())[0])
    assert len(watch.texts) == 2
    batches = list(run_data.batches(0, 64, 3, lambda k: InputConfig(8), held_out=False))
    again = run_data_of(tree, watch, cache=str(tmp_path / "cache"))
    resumed = list(again.batches(64, 64, 2, lambda k: InputConfig(8), held_out=False))
    assert all(a[0].equal(b[0]) for a, b in zip(batches[1:], resumed, strict=True))
    assert len(watch.texts) == 2


def test_the_digits_are_cached_in_memory_without_a_file(tmp_path: Path) -> None:
    run_data = run_data_of(None, Watch(), cache=str(tmp_path / "cache"))
    images, _ = next(run_data.batches(0, 64, 1, lambda k: InputConfig(16), held_out=False))
    assert images.shape[1:] == (3, 16, 16)
    assert not (tmp_path / "cache").exists()


def test_progress_is_one_line_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress_on_stderr("decoding", 9) as advance:
        advance(3)
        advance(9)
    assert capsys.readouterr() == ("", "decoding\n")


def test_progress_on_a_terminal_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress_on_stderr("decoding [x]", 9) as advance:
        advance(3)
        advance(9)
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("decoding [x]")
    assert "100%" in errors


# Files of somebody else in the place of the cache's.


def to_file(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "file")


def to_folder(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def to_nothing(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "new")


def to_itself(path: Path, victim: Path) -> None:
    path.symlink_to(path)


def to_device(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/zero")


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def folder(path: Path, victim: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    "plant", [to_file, to_folder, to_nothing, to_itself, to_device, pipe, folder]
)
@pytest.mark.parametrize("ending", ["", ".lock", ".part"])
def test_nothing_is_written_through_what_others_have_put_there(
    tree: Path, tmp_path: Path, cached: Any, plant: Callable[[Path, Path], None], ending: str
) -> None:
    cached()
    path = the_file(tmp_path)
    shutil.rmtree(path.parent)
    path.parent.mkdir()
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_bytes(b"dear")
    plant(path.with_name(path.name + ending), victim)
    planted = path.with_name(path.name + ending)
    if ending == ".lock" or (plant is folder and ending == ""):
        with pytest.raises(RunError, match=f"^{path}: the cache cannot be written: "):
            cached()
    else:
        assert_same_images(cached()[0], FolderSource(tree / "train"))
        assert path.is_file()
        assert not path.is_symlink()
    assert os.path.lexists(planted)
    assert [(file.name, file.read_bytes()) for file in victim.iterdir()] == [("file", b"dear")]


@pytest.mark.parametrize("plant", [to_file, to_nothing, to_device, pipe])
def test_a_run_with_planted_locks_is_told_in_one_line(
    tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    plant: Callable[[Path, Path], None],
) -> None:
    words = ["train", "--schedule=constant", "--model=vit-mu", "--epochs=1", f"--data={tree}", "-q"]
    here = ["--device=cpu", "--threads=1", "--workers=0", f"--runs-dir={tmp_path}/runs"]
    words += [*here, f"--cache={tmp_path}/cache", "--batch-size=4"]
    assert main(words) == 0
    locks = list((tmp_path / "cache").glob("*.lock"))
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_bytes(b"dear")
    for lock in locks:
        plant(lock, tmp_path / "victim")
    capsys.readouterr()
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    what = "a pipe" if plant is pipe else "a symbolic link"
    assert said.endswith(f": the cache cannot be written: {what}\n")
    assert (tmp_path / "victim" / "file").read_bytes() == b"dear"
    assert [file.name for file in (tmp_path / "victim").iterdir()] == ["file"]


@pytest.mark.parametrize("place", ["file", "file/cache", "pipe", "/dev/null", "/dev/null/x"])
def test_a_cache_that_is_no_folder_is_refused_before_a_run_folder_is_made(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    words = ["train", "--schedule=constant", "--model=vit-mu", f"--data={tree}", "-q"]
    assert main([*words, f"--runs-dir={tmp_path}/runs", f"--cache={tmp_path / place}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("autoprog: --cache: must be a folder, or where one can be made, but got")
    assert not (tmp_path / "runs").exists()


def rewritten(path: Path, facts: bytes, places: np.ndarray, pixels: int, **footer: int) -> None:
    """Write a cache file with the given parts, as large as it says, whose checksum is right."""
    continuation = places.tobytes() + facts
    parts = {"images": len(places), "facts_bytes": len(facts), **footer}
    with path.open("wb") as file:
        file.truncate(pixels)
        file.seek(pixels)
        file.write(continuation)
        file.write(
            FOOTER.pack(MAGIC, 1, zlib.crc32(continuation), parts["images"], parts["facts_bytes"])
        )


HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("facts", "places", "pixels", "footer"),
    [
        (None, [(0, 24, 20)] * 20, 20 * 3 * 24 * 20, {}),
        (None, [(-1440, 24, 20), *((1440 * k, 24, 20) for k in range(19))], 19 * 1440, {}),
        (None, [(0, 0, 0)] * 20, 0, {}),
        (None, [*[(0, 1, 0)] * 20], 0, {}),
        (None, [(0, HUGE, HUGE), *[(0, 0, 0)] * 19], 1000, {}),
        (None, [(0, 2**14, 2**14), *[(3 * 2**28, 1, 1)] * 19], 3 * 2**28 + 57, {}),
        (None, [(0, -1, -1)] * 20, 60, {}),
        (None, [(3 * k, 1, 1) for k in range(20)], 60, {"images": 2**40}),
        (None, [(3 * k, 1, 1) for k in range(20)], 2**42, {"images": 2**38}),
        (None, [(3 * k, 1, 1) for k in range(20)], 2**42, {"facts_bytes": 2**41}),
        (None, [(3 * k, 1, 1) for k in range(20)], 60, {"images": 2**64 - 1}),
        (None, [(3 * k, 1, 1) for k in range(20)], 60, {"facts_bytes": 2**64 - 1}),
        (b"[" * 100000, [(3 * k, 1, 1) for k in range(20)], 60, {}),
        (b"null", [(3 * k, 1, 1) for k in range(20)], 60, {}),
        (b'{"digest": NaN}', [(3 * k, 1, 1) for k in range(20)], 60, {}),
        (b'{"digest": 9', [(3 * k, 1, 1) for k in range(20)], 60, {}),
        ({"unreadable": []}, [(3 * k, 1, 1) for k in range(20)], 60, {}),
        ({"unreadable": {"x": "bad"}}, [(3 * k, 1, 1) for k in range(20)], 60, {}),
        ({"unreadable": {"99": "bad"}}, [(3 * k, 1, 1) for k in range(20)], 60, {}),
        ({"unreadable": {"0": {}}}, [(0, 0, 0), *((3 * k, 1, 1) for k in range(19))], 57, {}),
        ({"too_large": "yes"}, [(3 * k, 1, 1) for k in range(20)], 60, {}),
        ({"too_large": True}, [(3 * k, 1, 1) for k in range(20)], 60, {}),
        ({"too_large": False}, [], 0, {}),
    ],
)
def test_a_table_that_no_build_has_written_is_rebuilt(
    tree: Path,
    tmp_path: Path,
    cached: Any,
    facts: Any,
    places: list[tuple[int, int, int]],
    pixels: int,
    footer: dict[str, int],
) -> None:
    source, _ = cached()
    path, digest = the_file(tmp_path), source._table.digest
    own = {"digest": digest, "unreadable": {}, "too_large": False}
    text = facts if isinstance(facts, bytes) else json.dumps({**own, **(facts or {})}).encode()
    rewritten(path, text, np.array(places, dtype=source._table.places.dtype), pixels, **footer)
    begun = time.monotonic()
    again, watch = cached()
    assert time.monotonic() - begun < 5
    assert len(watch.texts) == 1
    assert_same_images(again, FolderSource(tree / "train"))


def test_a_table_of_small_images_is_taken(tree: Path, tmp_path: Path, cached: Any) -> None:
    source, _ = cached()
    path, digest = the_file(tmp_path), source._table.digest
    facts = json.dumps({"digest": digest, "unreadable": {"0": "bad"}, "too_large": False}).encode()
    places = [(0, 0, 0), *((3 * k, 1, 1) for k in range(19))]
    rewritten(path, facts, np.array(places, dtype=source._table.places.dtype), 57)
    again, watch = cached()
    assert watch.texts == []
    assert again.load(1)[0].size == (1, 1)
