"""Random folders of images as people have them, and a program that reads them in a process of its own."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import tarfile
from pathlib import Path

from PIL import Image

CLASSES = [
    "cat", "Cat", "CAT", "dog", "a", "A", "1", "01", "001", "10", "9", "x-1", "x-02", "a b", " ", "'q'",
    "é", "é", "日本", "n01440764", "²", "--help", "$HOME", "[bold]", "two\nlines", "tab\t", "{0}",
    "%s", "caf\udce9", "c" * 200, "cat!", "cat2", "..x", "val", "train", "con", "#1", "a;b", "~",
]  # fmt: skip
HIDDEN = [
    ".ipynb_checkpoints",
    "__MACOSX",
    "@eaDir",
    ".git",
    "Thumbs.db",
    ".DS_Store",
    "$RECYCLE.BIN",
]
ENDINGS = ["png", "jpg", "JPG", "jpeg", "webp", "tif", "bmp", "gif", "ppm", "PNG"]
OTHERS = ["txt", "json", "dng", "svg", "eps", "mp4", "npy", "", "png.tmp", "xml", "pdf", "zip"]
STARTS = [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"<html>", b"\xff\xd8\xff", b"II*\0"]
MODES = ["RGB", "L", "P", "RGBA", "1", "LA", "CMYK", "I;16", "I", "F"]


def write_image(path: Path, rng: random.Random) -> None:
    """Write an image in some mode, or what claims to be one."""
    ending = path.suffix.lower().lstrip(".")
    kind = rng.random()
    if kind < 0.05:
        path.write_bytes(rng.choice(STARTS))
        return
    mode = rng.choice(MODES) if kind < 0.5 else "RGB"
    size = rng.choice([(1, 1), (3, 2), (8, 8), (16, 5)])
    image = Image.new("L", size, rng.randrange(256))
    try:
        image.convert("RGB" if mode in ("CMYK", "P") else "L").convert(mode).save(path)
    except (OSError, ValueError, KeyError):
        image.save(path, format="PNG" if ending not in ("png",) else None)
    if kind > 0.95:  # cut short, or a byte turned
        data = bytearray(path.read_bytes())
        if rng.random() < 0.5:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))


def write_layout(root: Path, seed: int) -> None:
    """Write a random data set with train and val, or without."""
    rng = random.Random(seed)
    classes = rng.sample(CLASSES, rng.choice([0, 1, 2, 2, 3, 3, 3, 4, 4, 5]))
    levels = rng.choice([[""]] * 8 + [["2023", "2024"], ["only"]])
    wrapper = rng.choice(["", "", "", "data", "data/images"])
    if seed % 3 == 0:  # to be divided
        names = rng.choice([("train",), ("",), ("Training",), ("train", "val")])
    else:
        pairs = [("train", "val"), ("training", "validation"), ("Train", "valid")]
        names = rng.choice([*pairs, *pairs, *pairs, ("train",), ("train", "val", "validation")])
    inverted = rng.random() < 0.1
    for part in names:
        base = root / part / wrapper
        for name in classes:
            for level in levels if rng.random() < 0.9 else [""]:
                folder = base / level / name if inverted else base / name / level
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError:
                    continue
                for number in range(rng.choice([0, 1, 2, 3, 3, 3]) if rng.random() < 0.15 else 2):
                    write_image(
                        folder / f"{rng.choice(['', 'IMG_', 'x'])}{number}.{rng.choice(ENDINGS)}",
                        rng,
                    )
                _write_litter(folder, root, rng)
        if rng.random() < 0.3:
            base.mkdir(parents=True, exist_ok=True)
            _write_litter(base, root, rng)


def _write_litter(folder: Path, root: Path, rng: random.Random) -> None:
    """Write what lies about beside images."""
    place = folder / f"litter{rng.randrange(100)}.{rng.choice(ENDINGS)}"
    choice = rng.randrange(14)
    if place.exists() or place.is_symlink():
        return
    if choice == 0:
        hidden = folder / rng.choice(HIDDEN)
        hidden.mkdir(exist_ok=True)
        write_image(hidden / "0.png", rng)
    elif choice == 1:
        (folder / rng.choice(["._0.png", ".hidden.jpg", "Thumbs.db", "desktop.ini"])).write_bytes(
            b"x"
        )
    elif choice == 2:
        (folder / f"other.{rng.choice(OTHERS)}").write_bytes(b"other")
    elif choice == 3:
        place.symlink_to(rng.choice([root / "gone.png", place, root]))
    elif choice == 4:
        os.mkfifo(place)
    elif choice == 5:
        (folder / "up").symlink_to(rng.choice([root, folder, folder.parent]))
    elif choice == 6:
        place.mkdir()
    elif choice == 7 and len(os.fsencode(place)) < 100:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(place))
    elif choice == 8:
        write_image(place, rng)


def pack_parts(root: Path, target: Path) -> None:
    """Write each part of a layout as a tar file, with members in no order."""
    target.mkdir()
    rng = random.Random(0)
    for part in sorted(root.iterdir()):
        if not part.is_dir() or part.is_symlink():
            continue
        paths = [path for path in sorted(part.rglob("*")) if not path.is_socket()]
        rng.shuffle(paths)
        with tarfile.open(target / f"{part.name}.tar", "w") as tar:
            for path in paths:
                tar.add(path, arcname=str(path.relative_to(part)), recursive=False)


def answer(root: str, fraction: float | None) -> dict[str, object]:
    """Return what autoprog makes of a folder: labels, report and what can be read; or its refusal."""
    from autoprog.data.opening import open_data
    from autoprog.errors import ConfigError, RunError
    from autoprog.settings import DataSettings

    try:
        opened = open_data(DataSettings(dir=root, val_fraction=fraction))
    except ConfigError as error:
        return {"refused": str(error).replace(root, "DIR")}
    read: dict[str, object] = {}
    for part, source in zip(("train", "val"), opened.images, strict=True):
        pixels, broken = 0, 0
        for index in range(len(source)):
            try:
                pixels += sum(source.load(index)[0].resize((1, 1)).tobytes())
            except RunError as error:
                if str(error).count("\n") > source.name(index).count("\n"):
                    raise ValueError(f"more than a line: {error}") from error
                broken += 1
        labels = [
            [source.name(index).removeprefix(root), int(source.targets[index])]
            for index in range(len(source))
        ]
        read[part] = {"labels": labels, "pixels": pixels, "broken": broken}
    return {
        "classes": list(opened.class_names),
        "digests": opened.digests,
        "report": opened.report.lines(),
        "left_out": {
            part: sum(one.count for one in getattr(opened.report, part).left_out) for part in read
        },
        "sizes": {part: sum(getattr(opened.report, part).class_sizes) for part in read},
        **read,
    }


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), flush=True)
