"""What a scan makes of real folders and tar files: one order, nothing lost without a word."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets

from autoprog.data.decode import fitting_white_level
from autoprog.data.folders import natural_key
from autoprog.data.image_sources import FolderSource, TarSource, digest_of
from autoprog.data.opening import open_data
from autoprog.errors import ConfigError
from autoprog.settings import DataSettings

LABELS = """
import json, sys
from pathlib import Path
from autoprog.data.image_sources import FolderSource, TarSource
path = Path(sys.argv[1])
source = (FolderSource if path.is_dir() else TarSource)(path)
print(json.dumps([source.class_names, source.targets.tolist()]))
"""


def image(path: Path, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 10, 20)).save(path)


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*"), reverse=True):
            tar.add(path, arcname=str(path.relative_to(folder)), recursive=False)


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        FolderSource(folder, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.isprintable()
    return text


@pytest.mark.parametrize("packed", [False, True])
def test_names_that_tie_in_timms_order_have_one_order_in_every_process(
    tmp_path: Path, packed: bool
) -> None:
    names = ["A", "a", "Cat", "cat", "1", "01", "001"]
    for name in names:
        image(tmp_path / "set" / name / "0.png")
    where = tmp_path / "set"
    if packed:
        pack(where, where := tmp_path / "set.tar")
    answers = [
        subprocess.run(
            [sys.executable, "-c", LABELS, str(where)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert answers[0] == answers[1]
    assert json.loads(answers[0]) == [
        ["001", "01", "1", "A", "a", "Cat", "cat"],
        [0, 1, 2, 3, 4, 5, 6],
    ]


def test_the_order_is_timms_where_timm_has_one(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    names = ["cat", "cat2", "cat10", "Dog", "x-1", "x-02", "x", "a b", "é", "cat!", "1", "10", "9"]
    for name in names:
        for number in rng.permutation(12):
            image(tmp_path / name / f"{'IMG_' if number % 2 else 'z'}{number}.png")
    samples, classes = find_images_and_targets(str(tmp_path))
    source = FolderSource(tmp_path)
    assert source.class_names == tuple(classes)
    assert [source.name(k) for k in range(len(source))] == [path for path, _ in samples]
    assert source.targets.tolist() == [target for _, target in samples]


def test_digits_that_are_none_to_python_are_letters() -> None:
    assert natural_key("a²10") == ["a²", 10, ""]


def test_a_folder_and_its_tar_are_the_same_data(tmp_path: Path) -> None:
    for name in ("a", "b10", "b9"):
        for number in range(3):
            image(tmp_path / "set" / name / f"{number}.png", 20 * number)
    pack(tmp_path / "set", tmp_path / "set.tar")
    folder, tar = FolderSource(tmp_path / "set"), TarSource(tmp_path / "set.tar")
    assert digest_of(folder) == digest_of(tar)
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = tmp_path / "moved"
    assert digest_of(FolderSource(moved)) == digest_of(folder)
    (moved / "a" / "0.png").rename(moved / "a" / "00.png")
    assert digest_of(FolderSource(moved)) != digest_of(folder)
    (moved / "a" / "00.png").rename(moved / "a" / "0.png")
    with (moved / "a" / "0.png").open("ab") as file:
        file.write(b"x")
    assert digest_of(FolderSource(moved)) != digest_of(folder)


@pytest.mark.parametrize("packed", [False, True])
def test_hidden_and_system_files_are_left_out_and_told(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "set"
    for name in ("cat", "dog", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "cat/.hidden"):
        image(root / name / "0.png")
    image(root / "cat" / "._0.png")
    image(root / "loose.png")
    (root / "cat" / "notes.txt").write_text("no image")
    where = root
    if packed:
        pack(root, where := tmp_path / "set.tar")
    source = (TarSource if packed else FolderSource)(where)
    assert source.class_names == ("cat", "dog")
    assert len(source) == 2
    told = {one.reason: (one.count, one.example) for one in source.left_out}
    assert told[".txt files"] == (1, "cat/notes.txt")
    assert told["outside the class folders"] == (1, "loose.png")
    assert told["hidden or system"][0] == 5
    assert all(name.isprintable() for _, name in told.values())


@pytest.mark.parametrize("ending", ["webp", "tif", "bmp", "JPEG", "gif", "ppm", "tga", "jfif"])
def test_what_pillow_reads_is_read(tmp_path: Path, ending: str) -> None:
    image(tmp_path / "cat" / f"0.{ending}")
    image(tmp_path / "dog" / "0.png")
    source = FolderSource(tmp_path)
    assert (source.class_names, len(source)) == (("cat", "dog"), 2)
    assert source.load(0)[0].mode == "RGB"


def test_heic_is_read_with_its_package(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="the optional package pillow-heif is not installed")
    image(tmp_path / "cat" / "0.heic")
    assert FolderSource(tmp_path).load(0)[0].size == (8, 8)


def test_a_class_whose_files_are_all_left_out_is_refused(tmp_path: Path) -> None:
    image(tmp_path / "cat" / "0.png")
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "0.dng").write_bytes(b"raw")
    assert refusal(tmp_path) == (
        f"--data: {str(tmp_path)!r}: class folder 'dog' holds no image, but .dng files; "
        "put images into it, convert those it has, or remove it"
    )


def test_a_name_never_makes_pillow_start_a_program(tmp_path: Path) -> None:
    image(tmp_path / "cat" / "0.png")
    image(tmp_path / "dog" / "0.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "dog" / "1.eps")
    shutil.copy(tmp_path / "dog" / "1.eps", tmp_path / "dog" / "1.png")
    source = FolderSource(tmp_path)
    assert [one.reason for one in source.left_out] == [".eps files"]
    with pytest.raises(Exception, match=r"dog/1\.png: image 2 cannot be read"):
        source.load(2)


def nested(root: Path, *folders: str) -> Path:
    for number, folder in enumerate(folders):
        image(root / folder / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (("cat/2023", "cat/2024", "dog/2023", "dog/2024"), "'cat/2023' and 'dog/2023' end alike"),
        (("x/1", "x/2", "y/1", "y/2"), "'x/1' and 'y/1' end alike"),
        (("w/x/1", "w/y/1"), "'w/x/1' and 'w/y/1' end alike"),
        (("cat", "cat/more", "dog"), "images lie in 'cat' and 'cat/more'"),
        (("cat", "animals/dog"), "images lie in 'cat' and 'animals/dog'"),
    ],
)
def test_folders_in_folders_that_do_not_tell_classes_are_refused(
    tmp_path: Path, folders: tuple[str, ...], said: str
) -> None:
    text = refusal(nested(tmp_path, *folders))
    assert said in text
    assert "--class-folders first or --class-folders innermost" in text


def test_folders_in_folders_are_classes_by_either_end(tmp_path: Path) -> None:
    dated = nested(tmp_path / "a", "cat/2023", "cat/2024", "dog/2023", "dog/2024/more")
    assert FolderSource(dated, "first").class_names == ("cat", "dog")
    assert FolderSource(dated, "first").targets.tolist() == [0, 0, 1, 1]
    assert FolderSource(dated, "innermost").class_names == ("2023", "2024", "more")
    clear = FolderSource(nested(tmp_path / "b", "animals/cat", "animals/dog", "things/car"))
    assert clear.class_names == ("car", "cat", "dog")
    assert clear.notes == (
        "classes are the innermost folders; with --class-folders first they would be animals, things",
    )
    wrapped = FolderSource(nested(tmp_path / "c", "set/train/cat", "set/train/dog"))
    assert (wrapped.class_names, wrapped.notes) == (("cat", "dog"), ())


def test_images_without_any_class_folder_are_refused(tmp_path: Path) -> None:
    text = refusal(nested(tmp_path, ""))
    assert "'0.png' and all other images lie directly in it" in text


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    root = nested(tmp_path / "set", "cat", "dog")
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nothing.png")
    (root / "kitten").symlink_to(root / "dog")
    os.mkfifo(root / "dog" / "pipe.png")
    source = FolderSource(root)
    assert source.class_names == ("cat", "dog", "kitten")
    assert len(source) == 3
    assert {one.reason: one.count for one in source.left_out} == {
        "links to a folder above them": 1,
        "links that lead nowhere": 1,
        "no regular files": 2,  # the FIFO, by both of its names
    }


def test_names_of_any_bytes_become_text_once(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path)
    for name in (b"caf\xe9", "z\u0065\u0301".encode(), b"two\nlines"):
        os.mkdir(raw + b"/" + name)
        Image.new("RGB", (8, 8)).save(os.fsdecode(raw + b"/" + name + b"/0.png"))
    source = FolderSource(tmp_path)
    assert source.class_names == ("caf\\xe9", "two\nlines", "z\u00e9")
    assert all(source.load(index)[0].size == (8, 8) for index in range(3))


def test_two_encodings_of_one_name_are_refused(tmp_path: Path) -> None:
    image(tmp_path / "z\u0065\u0301" / "0.png")
    image(tmp_path / "z\u00e9" / "0.png")
    assert "two class folders whose names are both shown as 'zé'" in refusal(tmp_path)


def test_of_a_file_written_twice_into_a_tar_the_last_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for value, name in ((10, "cat/0.png"), (200, "cat/0.png"), (30, "dog/0.png")):
            image(tmp_path / "one.png", value)
            tar.add(tmp_path / "one.png", arcname=name)
        link = tarfile.TarInfo("cat/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        up = tarfile.TarInfo("../dog/1.png")
        tar.addfile(up, io.BytesIO())
    source = TarSource(tmp_path / "set.tar")
    assert len(source) == 2
    assert source.load(0)[0].getpixel((0, 0)) == (200, 10, 20)
    assert {one.reason: one.count for one in source.left_out} == {
        "older versions of a file": 1,
        "no regular files": 1,
        "of impossible names": 1,
    }


@pytest.mark.parametrize(
    ("mode", "ending", "values", "expected"),
    [
        ("I;16", "png", [1000, 6000, 40000, 65535], [3, 23, 156, 255]),
        ("I", "tif", [1000, 6000, 40000, 45000], [3, 23, 156, 175]),
        ("I", "tif", [0, 7, 99, 255], [0, 7, 99, 255]),
        ("F", "tif", [0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        ("F", "tif", [0.0, 20.0, 99.7, 255.5], [0, 20, 100, 255]),
        ("F", "tif", [1000.0, 6000.0, 40000.0, 65535.0], [3, 23, 156, 255]),
    ],
)
def test_brightness_of_more_than_8_bits_is_scaled(
    tmp_path: Path, mode: str, ending: str, values: list[float], expected: list[int]
) -> None:
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    path = tmp_path / "cat" / f"0.{ending}"
    path.parent.mkdir()
    wide = Image.fromarray(np.array([values], dtype=kind))
    wide.save(path)
    with Image.open(path) as again:
        assert again.mode == mode
    source = FolderSource(tmp_path)
    source.white_level = fitting_white_level(max(values))
    pixels = np.asarray(source.load(0)[0])
    assert pixels[0, :, 0].tolist() == expected
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("brightness", [np.nan, np.inf])
def test_images_whose_brightness_is_not_finite_are_named(brightness: float, tmp_path: Path) -> None:
    for name in ("a", "b"):
        for part in ("train", "val"):
            (tmp_path / part / name).mkdir(parents=True)
            pixels = Image.fromarray(np.full((8, 8), brightness, np.float32))
            pixels.save(tmp_path / part / name / "1.tif")
    opened = open_data(DataSettings(dir=str(tmp_path)))
    assert opened.white_level is None
    said = (
        "2 of 2 images looked at are of floating-point numbers, but their brightness is not finite"
    )
    assert f"train: {said}" in opened.report.lines()


@pytest.mark.parametrize(
    ("brightness", "white"),
    [
        (0.2, 1),
        (1.02, 1),
        (1.5, 255),
        (255.5, 255),
        (300, 4095),
        (4095, 4095),
        (45000, 65535),
        (9e9, 9e9),
    ],
)
def test_the_white_level_is_a_usual_one(brightness: float, white: float) -> None:
    assert fitting_white_level(brightness) == white


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_one_scale_serves_all_images_of_a_data_set(tmp_path: Path, kind: type) -> None:
    white = 1.02 if kind is np.float32 else 3000
    for part in ("train", "val"):
        for name, low, high in (("dark", 0.0, 0.1), ("bright", 0.5, 1.0)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(60):
                values = np.linspace(low * white, high * white * (number + 1) / 60, 16)
                picture = Image.fromarray(values.astype(kind).reshape(4, 4))
                picture.save(tmp_path / part / name / f"{number}.tif")
    opened = open_data(DataSettings(dir=str(tmp_path)))
    assert opened.white_level == (1 if kind is np.float32 else 4095)
    means = {"dark": [], "bright": []}
    for source in opened.images:
        for index in range(len(source)):
            picture, target = source.load(index)
            means[source.class_names[target]].append(np.asarray(picture).mean())
    assert max(means["dark"]) < min(means["bright"])
    given = open_data(DataSettings(dir=str(tmp_path), white_level=2 * opened.white_level))
    assert (
        np.asarray(given.images[0].load(0)[0]).mean()
        < np.asarray(opened.images[0].load(0)[0]).mean()
    )


@pytest.mark.parametrize("values", [[-1.0, 2.0], [float("nan"), 1.0], [0.0, float("inf")]])
def test_brightness_that_cannot_be_told_is_an_unreadable_image(
    tmp_path: Path, values: list[float]
) -> None:
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "cat" / "0.tif")
    with pytest.raises(Exception, match="it must be finite and not negative"):
        FolderSource(tmp_path).load(0)


def test_the_report_says_what_was_seen(tmp_path: Path) -> None:
    for part, count in (("train", 12), ("val", 2)):
        for number in range(count):
            image(tmp_path / part / "cat" / f"{number}.png")
        (tmp_path / part / "dog").mkdir()
        Image.fromarray(np.full((8, 8), 9000, np.uint16)).save(tmp_path / part / "dog" / "0.png")
    (tmp_path / "train" / "dog" / "raw.dng").write_bytes(b"raw")
    assert open_data(DataSettings(dir=str(tmp_path))).report.lines() == [
        "cat 12, dog 1; uneven: 92% are cat",
        "train: left out 1 .dng files (dog/raw.dng)",
        "train: 1 of 13 images looked at are of 16 bits: 0 to 65535 becomes black to white (--white-level)",
        "val: 1 of 3 images looked at are of 16 bits: 0 to 65535 becomes black to white (--white-level)",
    ]


def test_of_many_classes_the_smallest_and_the_largest_are_told(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for number in range(12):
            for k in range((part == "train") + (4 if number == 7 else 1 + (number != 3))):
                image(tmp_path / part / f"c{number}" / f"{k}.png")
    assert open_data(DataSettings(dir=str(tmp_path))).report.lines() == [
        "c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, … (12 in all); smallest c3 2, largest c7 5"
    ]


def test_a_mark_to_turn_images_is_told(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            image(tmp_path / part / name / "0.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "train" / "cat" / "0.jpg", exif=exif)
    opened = open_data(DataSettings(dir=str(tmp_path)))
    assert opened.report.lines()[1:] == [
        "train: 1 of 2 images looked at are marked as turned (EXIF), which is not applied, as in timm"
    ]
    assert opened.images[0].load(0)[0].size == (8, 4)


def test_a_fraction_of_each_class_is_held_out_by_seed(tmp_path: Path) -> None:
    for name, count in (("cat", 20), ("dog", 10), ("emu", 1)):
        for number in range(count):
            image(tmp_path / name / f"{number}.png")
    source = DataSettings(dir=str(tmp_path), val_fraction=0.2)
    opened = open_data(source)
    train, val = opened.images
    assert np.bincount(train.targets).tolist() == [16, 8, 1]
    assert np.bincount(val.targets, minlength=3).tolist() == [4, 2, 0]
    names = {train.name(k) for k in range(len(train))}, {val.name(k) for k in range(len(val))}
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 31
    assert opened.report.lines()[-1] == "val: no image of emu"
    assert open_data(source).digests == opened.digests
    other = open_data(DataSettings(dir=str(tmp_path), val_fraction=0.2, val_seed=1))
    assert other.digests != opened.digests
    (tmp_path / "set" / "train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (tmp_path / name).rename(tmp_path / "set" / "train" / name)
    assert len(open_data(DataSettings(dir=str(tmp_path / "set"), val_fraction=0.2)).val) == 6


def test_a_fraction_beside_a_val_part_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        nested(tmp_path / part, "cat", "dog")
    with pytest.raises(
        ConfigError, match="--val-fraction: --data has validation images of its own, val"
    ):
        open_data(DataSettings(dir=str(tmp_path), val_fraction=0.2))


def test_parts_are_found_by_names_in_any_case_but_only_one_of_each(tmp_path: Path) -> None:
    nested(tmp_path / "Train", "cat", "dog")
    nested(tmp_path / "VAL", "cat", "dog")
    assert len(open_data(DataSettings(dir=str(tmp_path))).val) == 2
    pack(tmp_path / "VAL", tmp_path / "VAL.tar")
    assert len(open_data(DataSettings(dir=str(tmp_path))).val) == 2
    nested(tmp_path / "valid", "cat", "dog")
    with pytest.raises(ConfigError, match="there are two val parts, VAL and"):
        open_data(DataSettings(dir=str(tmp_path)))


def test_one_folder_under_two_names_is_refused_and_equal_parts_are_told(tmp_path: Path) -> None:
    nested(tmp_path / "train", "cat", "dog")
    (tmp_path / "val").symlink_to(tmp_path / "train")
    with pytest.raises(ConfigError, match="train and val must be different images"):
        open_data(DataSettings(dir=str(tmp_path)))
    (tmp_path / "val").unlink()
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    lines = open_data(DataSettings(dir=str(tmp_path))).report.lines()
    assert "train and val hold images of the same names and sizes: are they the same?" in lines


def test_a_split_of_class_folders_that_is_missing_is_refused(tmp_path: Path) -> None:
    nested(tmp_path / "train", "cat", "dog", "__MACOSX")
    nested(tmp_path / "test", "cat", "dog", "dog")
    named = DataSettings(dataset="torch/image_folder", data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="must hold a val part"):
        open_data(named)
    with pytest.raises(ConfigError, match="--data-dir: must hold a folder 'tset'"):
        open_data(named.model_copy(update={"val_split": "tset"}))
    opened = open_data(named.model_copy(update={"val_split": "test"}))
    assert opened.class_names == ("cat", "dog")
    assert (len(opened.train), len(opened.val)) == (2, 3)


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"class_folders": "first"}, "--class-folders"),
        ({"white_level": 255.0}, "--white-level"),
        ({"white_level": 255.0, "dataset": "torch/cifar10"}, "--white-level"),
        ({"class_folders": "first", "dataset": "hfds/x"}, "--class-folders"),
    ],
)
def test_what_the_data_would_not_heed_is_refused(given: dict[str, object], flag: str) -> None:
    with pytest.raises(ConfigError, match=f"^{flag}: must be given "):
        open_data(DataSettings(**given))  # type: ignore[arg-type]
