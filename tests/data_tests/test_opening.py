from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from autoprog.data.image_sources import FolderSource, TarSource, class_numbers
from autoprog.data.loader import eval_batches
from autoprog.data.opening import open_data
from autoprog.data.transforms import TransformSettings
from autoprog.errors import RunError
from autoprog.settings import DataSettings

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


def write_tree(folder: Path, classes: dict[str, int], seed: int = 0) -> None:
    rng = np.random.RandomState(seed)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.randint(0, 256, (12, 10, 3), dtype=np.uint8)
            ending = ".jpg" if number % 2 else ".png"
            Image.fromarray(pixels).save(folder / name / f"{number}{ending}")


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*"), reverse=True):
            tar.add(path, arcname=str(path.relative_to(folder)), recursive=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path / "train", {"cat": 11, "dog": 3, "ape": 4})
    write_tree(tmp_path / "val", {"cat": 2, "dog": 1, "ape": 1}, seed=1)
    return tmp_path


def test_nothing_asked_for_opens_the_digits_with_their_fixed_split() -> None:
    data = open_data(DataSettings())
    train, val = data.images
    assert (len(train), len(val)) == (1437, 360)
    assert data.class_names == tuple("0123456789")
    assert data.description == (
        "digits (embedded): 1,437 training and 360 validation images, 10 classes"
    )
    val_counts = np.bincount(val.targets)
    fractions = (np.bincount(train.targets) + val_counts) * 360 / 1797
    assert np.all(np.abs(val_counts - fractions) < 1.0)
    image, target = train.load(0)
    assert (image.mode, image.size, target) == ("RGB", (32, 32), int(train.targets[0]))
    assert image.getextrema()[0] == (0, 255)


def test_a_folder_of_class_folders_opens_in_timm_order(tree: Path) -> None:
    data = open_data(DataSettings(dir=str(tree)))
    train, _ = data.images
    assert data.class_names == ("ape", "cat", "dog")
    assert np.bincount(train.targets).tolist() == [4, 11, 3]
    # Natural order: 10 after 9, not after 1.
    assert train.name(4 + 10) == str(tree / "train" / "cat" / "10.png")
    image, target = train.load(4)
    assert (image.mode, image.size, target) == ("RGB", (10, 12), 1)


def test_validation_is_another_name_of_val(tree: Path) -> None:
    (tree / "val").rename(tree / "validation")
    assert len(open_data(DataSettings(dir=str(tree))).val) == 4


def test_tar_and_folder_give_the_same_images(tree: Path, tmp_path: Path) -> None:
    pack(tree / "train", tmp_path / "train_copy.tar")
    folder, tar = FolderSource(tree / "train"), TarSource(tmp_path / "train_copy.tar")
    assert tar.class_names == folder.class_names
    assert tar.targets.tolist() == folder.targets.tolist()
    for index in range(len(folder)):
        assert tar.load(index)[0].tobytes() == folder.load(index)[0].tobytes()


def test_tar_has_the_order_and_classes_of_timms_reader(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "copy.tar"
    pack(tree / "train", archive)
    ours, timms = TarSource(archive), ReaderImageInTar(str(archive))
    assert list(timms.class_name_to_idx) == list(ours.class_names)
    assert ours.targets.tolist() == timms.targets.tolist()
    assert [ours.name(index) for index in range(len(ours))] == [
        f"{archive}:{timms.filename(index)}" for index in range(len(timms))
    ]


def test_a_tar_of_one_tar_a_class_is_read_in_place(tree: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder in (tree / "train").iterdir():
        pack(folder, inner / f"{folder.name}.tar")
    pack(inner, tmp_path / "outer.tar")
    tar, files = TarSource(tmp_path / "outer.tar"), FolderSource(tree / "train")
    assert tar.class_names == files.class_names
    assert [tar.load(i)[0].tobytes() for i in range(len(tar))] == [
        files.load(i)[0].tobytes() for i in range(len(files))
    ]


def test_tar_opened_before_the_fork_is_read_right_by_all_workers(
    tree: Path, tmp_path: Path
) -> None:
    pack(tree / "train", tmp_path / "copy.tar")
    source = TarSource(tmp_path / "copy.tar")
    source.load(0)
    settings = TransformSettings()
    expected = list(eval_batches(source, settings, 8, 1, workers=0))
    for (images, targets), (images_0, targets_0) in zip(
        eval_batches(source, settings, 8, 1, workers=2), expected, strict=True
    ):
        assert images.equal(images_0)
        assert targets.equal(targets_0)


def test_a_read_leaves_the_file_position_alone_because_forked_workers_share_it(
    tree: Path, tmp_path: Path
) -> None:
    pack(tree / "train", tmp_path / "copy.tar")
    source = TarSource(tmp_path / "copy.tar")
    source.load(3)
    assert source._file is not None
    assert source._file.tell() == 0


def test_tar_that_is_open_can_be_sent_to_another_process(tree: Path, tmp_path: Path) -> None:
    pack(tree / "train", tmp_path / "copy.tar")
    source = TarSource(tmp_path / "copy.tar")
    image, _ = source.load(0)
    assert pickle.loads(pickle.dumps(source)).load(0)[0].tobytes() == image.tobytes()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_every_image_mode_becomes_rgb(tree: Path, mode: str) -> None:
    path = tree / "train" / "ape" / "0.png"
    Image.new("I;16" if mode == "I;16" else "RGB", (9, 9), 7).convert(mode).save(path)
    assert FolderSource(tree / "train").load(0)[0].mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image_is_named_with_its_index(tree: Path, content: bytes | None) -> None:
    path = tree / "train" / "cat" / "1.jpg"
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    with pytest.raises(RunError, match=r"cat/1\.jpg: image 5 cannot be read: ") as caught:
        FolderSource(tree / "train").load(5)
    assert "\n" not in str(caught.value)


def test_torch_image_folder_opens_by_split(tree: Path) -> None:
    data = open_data(DataSettings(dataset="torch/image_folder", data_dir=str(tree)))
    train, val = data.images
    assert data.class_names == ("ape", "cat", "dog")
    assert (len(train), len(val)) == (18, 4)
    image, target = train.load(17)
    assert (image.mode, target) == ("RGB", 2)
    assert train.name(0).endswith(os.path.join("ape", "0.png"))


def test_torch_cifar10_with_local_files_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10 as TorchCifar10

    folder = tmp_path / TorchCifar10.base_folder
    folder.mkdir()
    for names in (TorchCifar10.train_list, TorchCifar10.test_list):
        for name, _ in names:
            batch = {"data": np.full((2, 3072), 9, np.uint8), "labels": [3, 1]}
            (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5: True)
    data = open_data(DataSettings(dataset="torch/cifar10", data_dir=str(tmp_path)))
    train, val = data.images
    assert (len(train), len(val)) == (10, 2)
    assert data.class_names == tuple("abcdefghij")
    image, target = val.load(0)
    assert (image.mode, image.size, target) == ("RGB", (32, 32), 3)


def test_hugging_face_data_set_in_a_local_folder_opens(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pytest.importorskip("datasets", reason="the optional package datasets is not installed")
    data = open_data(
        DataSettings(dataset=f"hfds/{tree}", data_dir=str(tmp_path_factory.mktemp("cache")))
    )
    train, val = data.images
    assert data.class_names == ("ape", "cat", "dog")
    assert (np.bincount(train.targets).tolist(), len(val)) == ([4, 11, 3], 4)
    image, target = train.load(0)
    assert (image.mode, image.size, target) == ("RGB", (10, 12), int(train.targets[0]))


def test_cifar10_tars_open() -> None:
    if not (CIFAR10 / "train.tar").exists():
        pytest.skip("CIFAR-10 is not at ../shared/data/cifar10")
    data = open_data(DataSettings(dir=str(CIFAR10)))
    train, val = data.images
    assert np.bincount(train.targets).tolist() == [5000] * 10
    assert np.bincount(val.targets).tolist() == [1000] * 10
    assert data.class_names[0] == "airplane"
    image, target = train.load(49_999)
    assert (image.mode, image.size, target) == ("RGB", (32, 32), 9)


@pytest.mark.parametrize("target", [2, -1, 10**30, None, 0.5, "cat", [1]])
def test_targets_that_are_no_class_are_refused(target: object) -> None:
    with pytest.raises(ValueError, match=r"image 1 must be of one of the 2 classes, 0 to 1, but"):
        class_numbers([0, target, 1], 2)
    assert class_numbers([0, np.int32(1)], 2).tolist() == [0, 1]
