from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from autoprog.data.opening import open_data
from autoprog.errors import ConfigError
from autoprog.settings import DataSettings


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        write_classes(tmp_path / part, ["cat", "dog", "ape"])
    return tmp_path


def write_classes(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(folder / name / "0.png")


def refusal(source: DataSettings) -> str:
    with pytest.raises(ConfigError) as caught:
        open_data(source)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "absent")
    assert refusal(DataSettings(dir=path)) == (
        f"--data: must be an existing folder, but got {path!r}; "
        "give a folder with train and val in it, as class folders or as .tar files"
    )


def test_folder_without_a_part_is_refused_with_what_it_holds(tree: Path) -> None:
    (tree / "val").rename(tree / "test")
    assert refusal(DataSettings(dir=str(tree))) == (
        "--data: must hold a val part (val/ or val.tar, validation/ or validation.tar, "
        f"valid/ or valid.tar), but got {str(tree)!r}; it holds test, train; "
        "--val-fraction 0.2 evaluates on a fifth of the training images instead"
    )


def test_part_without_images_is_refused(tree: Path) -> None:
    (tree / "val").rename(tree / "old")
    (tree / "val" / "cat").mkdir(parents=True)
    (tree / "val" / "cat" / "notes.txt").write_text("no image")
    assert refusal(DataSettings(dir=str(tree))) == (
        f"--data: must hold images, such as .jpg or .png files, but got {str(tree / 'val')!r}; "
        "it holds 1 .txt files (cat/notes.txt)"
    )


def test_tar_without_images_is_refused(tree: Path) -> None:
    (tree / "val").rename(tree / "old")
    with tarfile.open(tree / "val.tar", "w"):
        pass
    assert "must hold images, such as .jpg or .png files" in refusal(DataSettings(dir=str(tree)))


def test_parts_with_different_classes_are_refused_by_name(tree: Path) -> None:
    (tree / "val" / "dog").rename(tree / "val" / "emu")
    assert refusal(DataSettings(dir=str(tree))) == (
        "--data: train and val must have the same classes: 'dog' is only in train and "
        "'emu' is only in val; add or remove that class"
    )


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_classes(tmp_path / part, ["cat"])
    assert refusal(DataSettings(dir=str(tmp_path))) == (
        "--data: train: must have at least 2 classes, but got ['cat']; give one folder a class"
    )


@pytest.mark.parametrize("damage", ["no tar", "cut in a header", "cut in an image"])
def test_unreadable_tar_is_refused(tree: Path, damage: str) -> None:
    archive = tree / "train.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tree / "train", arcname="train")
    (tree / "train").rename(tree / "old")
    with tarfile.open(archive) as tar:
        last = tar.getmembers()[-1]
    whole = archive.read_bytes()
    stop = {"cut in a header": last.offset + 100, "cut in an image": last.offset_data + 9}
    archive.write_bytes(whole[: stop[damage]] if damage in stop else b"x" * 2000)
    text = refusal(DataSettings(dir=str(tree)))
    assert text.startswith("--data: must be an uncompressed, complete tar file (")
    assert text.endswith(f"but got {str(archive)!r}; pack it anew with tar -cf")


def test_data_and_dataset_together_are_refused(tree: Path) -> None:
    text = refusal(DataSettings(dir=str(tree), dataset="torch/cifar10"))
    assert text.startswith("--data: must not be given together with --dataset, but got ")


@pytest.mark.parametrize("name", ["imagenet", "tourch/cifar10"])
def test_unknown_reader_is_refused(name: str) -> None:
    assert refusal(DataSettings(dataset=name)) == (
        "--dataset: must be one of hfds/…, hfids/…, tfds/…, wds/…, torch/…, "
        f"but got {name!r}; for folders use --data"
    )


@pytest.mark.parametrize(
    ("prefix", "package", "module"),
    [
        ("hfds", "datasets", "datasets"),
        ("wds", "webdataset", "webdataset"),
        ("tfds", "tensorflow-datasets", "tensorflow_datasets"),
    ],
)
def test_missing_package_is_named(
    prefix: str, package: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert refusal(DataSettings(dataset=f"{prefix}/pets")) == (
        f"--dataset: '{prefix}/pets' needs the package {package}, which is not installed; "
        f"pip install {package}"
    )


def test_named_dataset_that_timm_cannot_open_is_refused(tmp_path: Path) -> None:
    text = refusal(DataSettings(dataset="torch/cifar10", data_dir=str(tmp_path)))
    assert text == (
        "--dataset: must be a data set that timm can open as split 'train' (Dataset not found or "
        "corrupted. You can use download=True to download it), but got 'torch/cifar10'; "
        f"check its name, --data-dir (now {str(tmp_path)!r}) and the splits"
    )
