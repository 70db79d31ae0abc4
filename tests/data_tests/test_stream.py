from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autoprog.data.opening import open_data
from autoprog.data.stream import StreamLoader, StreamSource, pixel_hash
from autoprog.data.transforms import InputConfig, TransformSettings
from autoprog.errors import ConfigError, RunError
from autoprog.settings import DataSettings

from .hostile_data import EPS

SETTINGS = TransformSettings()
NUM_IMAGES = 200
FLAT_HASH = 2394169450173904639


def picture(number: int) -> Image.Image:
    pixels = np.random.RandomState(number).randint(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class FakeReader:
    def __init__(self, class_to_idx: dict[str, int]) -> None:
        self.class_to_idx = class_to_idx


class FakeStream:
    """Images 0 to 199 in an order that depends on the pass, dealt out among the workers."""

    def __init__(self, classes: int = 2, **asked: Any) -> None:
        self.reader = FakeReader({str(number): number for number in range(classes)})
        self.asked, self.pass_number = asked, 0

    def __len__(self) -> int:
        return NUM_IMAGES

    def set_epoch(self, count: int) -> None:
        self.pass_number = count

    def set_loader_cfg(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        info = torch.utils.data.get_worker_info()
        start, step = (info.id, info.num_workers) if info else (0, 1)
        order = np.random.RandomState(self.pass_number).permutation(NUM_IMAGES)
        if not self.asked["is_training"]:
            order = np.arange(NUM_IMAGES)
        for number in order[start::step]:
            yield picture(number), int(number) % 2


def fake_source() -> StreamSource:
    return StreamSource(
        "wds/fake",
        None,
        "train",
        {},
        create=lambda name, **asked: FakeStream(
            **{key: value for key, value in asked.items() if key not in ("root", "split")}
        ),
    )


def held_numbers() -> list[int]:
    return [n for n in range(NUM_IMAGES) if pixel_hash(picture(n)) % 20 == 0]


def test_the_pixel_hash_is_stable_and_sees_shape_and_pixels() -> None:
    flat, tall = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert pixel_hash(flat) == FLAT_HASH
    assert len({pixel_hash(flat), pixel_hash(tall), pixel_hash(picture(0))}) == 3


def test_the_held_out_slice_does_not_depend_on_order_or_workers() -> None:
    held = held_numbers()
    assert 1 <= len(held) <= 25
    for workers in (0, 2):
        loader = StreamLoader(fake_source(), SETTINGS, 0, workers)
        batches = list(loader.eval_batches(8, 4, part="held_out"))
        assert sum(len(targets) for _, targets in batches) == len(held)


def test_training_never_sees_the_held_out_slice_and_all_sees_everything() -> None:
    loader = StreamLoader(fake_source(), SETTINGS, 0, 0)
    count = {
        part: sum(len(targets) for _, targets in loader.eval_batches(8, 1, part))
        for part in ("training", "held_out", "all")
    }
    assert count["training"] + count["held_out"] == count["all"] == NUM_IMAGES


def test_steps_go_on_through_passes_and_a_pass_can_be_entered_at_its_start() -> None:
    loader = StreamLoader(fake_source(), SETTINGS, 0, 0)
    per_pass = (NUM_IMAGES - len(held_numbers())) // 16
    straight = list(loader.batches(0, 16, 2 * per_pass, InputConfig(8)))
    resumed = list(loader.batches(1, 16, per_pass, InputConfig(8)))
    assert len(straight) == 2 * per_pass
    for (images, targets), (images_2, targets_2) in zip(straight[per_pass:], resumed, strict=True):
        assert images.equal(images_2)
        assert targets.equal(targets_2)


def test_workers_repeat_themselves_and_end_with_the_call() -> None:
    loader = StreamLoader(fake_source(), SETTINGS, 0, 2)
    one, two = (list(loader.batches(0, 16, 9, InputConfig(8))) for _ in range(2))
    assert all(a[0].equal(b[0]) for a, b in zip(one, two, strict=True))


def test_the_limit_is_rounded_up_to_a_batch() -> None:
    loader = StreamLoader(fake_source(), SETTINGS, 0, 0)
    batches = loader.eval_batches(8, 16, limit=20)
    assert sum(len(targets) for _, targets in batches) == 32


def test_too_few_images_for_one_batch_are_refused_instead_of_waiting_forever() -> None:
    loader = StreamLoader(fake_source(), SETTINGS, 0, 0)
    with pytest.raises(ConfigError, match="at least one batch of 500 a pass"):
        next(loader.batches(0, 500, 1, InputConfig(8)))


def test_unnamed_classes_need_their_number() -> None:
    def create(name: str, **asked: Any) -> FakeStream:
        return FakeStream(classes=0)

    with pytest.raises(ConfigError, match=r"add --num-classes$"):
        StreamSource("wds/fake", None, "train", {}, create=create)
    source = StreamSource("wds/fake", None, "train", {}, num_classes=3, create=create)
    assert source.class_names == ("0", "1", "2")


def test_web_dataset_shards_open_and_train(tmp_path: Path) -> None:
    pytest.importorskip("webdataset", reason="the optional package webdataset is not installed")
    splits = {}
    for part in ("train", "validation"):
        names = [f"{part}-{shard}.tar" for shard in range(2)]
        for shard, name in enumerate(names):
            write_shard(tmp_path / name, range(shard * 40, shard * 40 + 40))
        splits[part] = {
            "name": part, "num_samples": 80, "filenames": names, "shard_lengths": [40, 40]
        }  # fmt: skip
    (tmp_path / "info.json").write_text(json.dumps({"splits": splits}))
    data = open_data(DataSettings(dataset="wds/toy", data_dir=str(tmp_path), num_classes=2))
    assert isinstance(data.train, StreamSource)
    assert (len(data.train), len(data.val)) == (80, 80)
    for workers in (0, 2):
        loader = StreamLoader(data.train, SETTINGS, 0, workers)
        runs = [list(loader.batches(0, 8, 12, InputConfig(8))) for _ in range(2)]
        assert len(runs[0]) == 12
        assert all(a[0].equal(b[0]) for a, b in zip(*runs, strict=True))
        seen = sum(len(targets) for _, targets in loader.eval_batches(8, 16))
        assert seen == 80


def write_shard(path: Path, numbers: range) -> None:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            file = io.BytesIO()
            picture(number).save(file, "png")
            for name, data in (
                (f"{number:04}.png", file.getvalue()),
                (f"{number:04}.cls", str(number % 2).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_ranks_share_an_evaluation_so_that_each_image_counts_once(world_size: int) -> None:
    fractions = []
    for rank in range(world_size):
        workers = rank % 3  # machines may differ in their cores
        loader = StreamLoader(fake_source(), SETTINGS, 0, workers, world_size, rank=rank)
        batches = loader.eval_batches(8, 16, divided=True)
        fractions.append({image.numpy().tobytes() for images, _ in batches for image in images})
    whole = StreamLoader(fake_source(), SETTINGS, 0, 0).eval_batches(8, 16)
    assert sum(len(fraction) for fraction in fractions) == NUM_IMAGES
    assert set().union(*fractions) == {
        image.numpy().tobytes() for images, _ in whole for image in images
    }


def test_a_reader_that_divides_the_data_gives_all_of_it_to_an_evaluation() -> None:
    source = fake_source()
    opened = source.open
    readers = []

    def open_divided(**asked: Any) -> FakeStream:
        dataset = opened(**asked)
        dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 1, 2
        readers.append(dataset.reader)
        return dataset  # type: ignore[no-any-return]

    source.open = open_divided  # type: ignore[method-assign, assignment]
    loader = StreamLoader(source, SETTINGS, 0, 0, world_size=2, rank=1)
    list(loader.eval_batches(8, 16))
    next(loader.batches(0, 16, 1, InputConfig(8)))
    assert [(r.dist_rank, r.dist_num_replicas) for r in readers] == [(0, 1), (1, 2)]


def sharded(folder: Path, info: object, split: str = "train") -> DataSettings:
    """Return a web dataset with such an info file."""
    pytest.importorskip("webdataset", reason="the optional package webdataset is not installed")
    write_shard(folder / "train-0.tar", range(40))
    text = info if isinstance(info, str) else json.dumps(info)
    (folder / "_info.json").write_text(text)
    return DataSettings(
        dataset="wds/x", data_dir=str(folder), num_classes=2, train_split=split, val_split=split
    )


def info_of(*names: object, **changes: object) -> dict[str, object]:
    split = {"name": "train", "num_samples": 40, "filenames": names, "shard_lengths": [40]}
    return {"splits": {"train": {**split, **changes}}}


@pytest.mark.parametrize(
    "info",
    [
        info_of("train-0.tar; touch CANARY"),
        info_of("$(touch CANARY).tar"),
        info_of("pipe:touch CANARY"),
        info_of("../other.tar"),
        info_of("/etc/passwd"),
        info_of("a/../../b.tar"),
        info_of("train-0.tar", "\x1b]0;x\x07.tar"),
        info_of("gone.tar"),
        info_of(3),
        info_of("train-0.tar", filenames="train-0.tar"),
        info_of("train-0.tar", num_samples=10**30),
        info_of("train-0.tar", num_samples=-5),
        info_of("train-0.tar", num_samples="many"),
        info_of("train-0.tar", shard_lengths=7),
        {"splits": [1]},
        {"splits": {"train": 1}},
        "[" * 100_000,
        "[1]",
        '{"splits": {"train": {"num_samples": NaN}}}',
    ],
)
def test_info_files_of_shards_are_checked(
    tmp_path: Path, info: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = sharded(tmp_path, info)
    with pytest.raises(ConfigError) as caught:
        open_data(source)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "CANARY").exists()


def test_no_file_has_a_shell_run_for_the_shards_of_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = sharded(tmp_path, info_of("train-0.tar; touch CANARY"))
    with pytest.raises(ConfigError, match="must name its shards by plain file names"):
        open_data(source.model_copy(update={"data_dir": f"pipe:cat {tmp_path}"}))
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", ["_info.json", "info.json", "train-0.tar"])
def test_pipes_in_place_of_shards_are_not_waited_for(tmp_path: Path, name: str) -> None:
    source = sharded(tmp_path, info_of("train-0.tar"))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError):
        open_data(source)


def test_a_split_of_a_billion_shards_is_refused(tmp_path: Path) -> None:
    source = sharded(tmp_path, info_of("train-0.tar"), "train-{0..999}-{0..9999999}.tar|40")
    with pytest.raises(ConfigError, match="must be at most 1,000,000 shards"):
        open_data(source)


@pytest.mark.parametrize(
    "sample",
    [
        (picture(0), 2),
        (picture(0), -1),
        (picture(0), 10**30),
        (picture(0), [1, 2]),
        (picture(0), None),
        ("no image", 1),
        (None, 1),
        (picture(0),),
        ValueError("two\nlines"),
        OverflowError("\x1b[2J"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_are_none_stop_a_run_with_a_line(sample: object, workers: int) -> None:
    class Broken(FakeStream):
        def __iter__(self) -> Iterator[Any]:
            if isinstance(sample, Exception):
                raise sample
            yield sample

    source = StreamSource(
        "wds/fake", None, "train", {}, create=lambda name, **asked: Broken(is_training=False)
    )
    with pytest.raises(RunError, match=r"^wds/fake: a ") as caught:
        list(StreamLoader(source, SETTINGS, 0, workers).eval_batches(8, 4))
    assert str(caught.value).isprintable()


def test_a_stream_opens_only_the_formats_that_are_read(tmp_path: Path) -> None:
    """The reader has Pillow open samples, which would start Ghostscript for EPS."""

    class Opening(FakeStream):
        def __iter__(self) -> Iterator[Any]:
            yield Image.open(io.BytesIO(EPS)), 1

    source = StreamSource(
        "wds/fake", None, "train", {}, create=lambda name, **asked: Opening(is_training=False)
    )
    with pytest.raises(RunError, match="cannot identify image file"):
        list(StreamLoader(source, SETTINGS, 0, 0).eval_batches(8, 4))
    assert "EPS" in Image.ID  # as before
