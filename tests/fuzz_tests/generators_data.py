"""Data of somebody else: tar files, images, folders of images, and the cache of decoded ones."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.fuzz_tests.corpus import ANY, Command, Draw, Kind, Place
from tests.fuzz_tests.specimens import SMALL, png
from tests.fuzz_tests.values import ESCAPES

__all__ = ["KINDS", "commands"]

_RUN = ("--epochs=1", "--batch-size=8", "-q")

_CODED_NAMES = (
    "\x1b]52;c;cHduZWQ=\x07",
    "\x1b[31mred",
    "\x9bred",
    "a\nb",
    "a\rb",
    "[/]",
    "[bold]x[/bold]",
)
_NAMES = (
    *_CODED_NAMES,
    "é",
    "e\u0301",
    "\u202egnp",
    " ",
    "-h",
    "--debug",
    "n" * 120,
    "$(x)",
    "`x`",
    ";x",
    "a'b",
)


def commands(data: str) -> list[tuple[list[str], tuple[str, ...]]]:
    train = ["train", "--schedule=constant", *SMALL, *_RUN, f"--data={data}"]
    return [
        (train, ("runs",)),
        ([*train, "--cache=cache"], ("runs", "cache")),
        ([*train, "--cache"], ("runs", "home/.cache/autoprog")),
        ([*train, "--dry-run"], ()),
        ([*train, "--held-out"], ("runs",)),
        ([*train, "--class-folders=first"], ("runs",)),
        (["doctor", f"--data={data}"], ()),
        (["doctor", f"--data={data}", "--json"], ()),
    ]


def _any_command(draw: Draw, data: str) -> tuple[list[str], tuple[str, ...]]:
    return draw.any(commands(data))


# --- tar files ---


def _member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    about = tarfile.TarInfo(name)
    about.type, about.linkname, about.size = kind, link, len(content)
    return about, content


def _tar(members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for about, content in members:
            tar.addfile(about, io.BytesIO(content))
    return file.getvalue()


def _tars(draw: Draw, place: Place) -> Command:
    """Make a train.tar that is hostile; val.tar is a good one."""
    folder = place.work / "data"
    folder.mkdir()
    shutil.copy(place.specimens.folder / "tars" / "val.tar", folder)
    good = [
        _member(f"{label}/{index}.png", png(index * 20))
        for label in ("cat", "dog")
        for index in range(8)
    ]
    images = [content for _, content in good]
    victim = str(place.victim / "new.png")
    lying = _member("cat/x.png", images[0])
    whole = _tar(good)

    def with_size(size: bytes) -> bytes:
        """Return a tar file whose second header says another size, with a right checksum."""
        start = whole.index(b"cat/1.png")
        header = bytearray(whole[start : start + 512])
        header[124:136] = size.ljust(12, b"\0")[:12]
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        return whole[:start] + bytes(header) + whole[start + 512 :]

    pax = _member("cat/p.png", images[0])[0]
    pax.pax_headers = {
        "path": draw.any([victim, "../../victim/new.png", "cat/\x1b[31m.png", "x" * 100_000])
    }
    odd = _member("cat/s.png", images[0])[0]
    odd.pax_headers = {"size": draw.any(["999999999999", "-1", "abc", "1e9"])}
    sparse = _member("cat/s.png", images[0])[0]
    sparse.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(10**15),
    }
    options: dict[str, Callable[[], bytes]] = {
        "parent": lambda: _tar([*good, _member("../../victim/new.png", images[0])]),
        "absolute": lambda: _tar([*good, _member(victim, images[0])]),
        "link to a file": lambda: _tar(
            [*good, _member("cat/l.png", kind=tarfile.SYMTYPE, link="/etc/passwd")]
        ),
        "hard link": lambda: _tar(
            [*good, _member("cat/l.png", kind=tarfile.LNKTYPE, link="/etc/passwd")]
        ),
        "hard link inside": lambda: _tar(
            [*good, _member("cat/l.png", kind=tarfile.LNKTYPE, link="cat/0.png")]
        ),
        "link to itself": lambda: _tar(
            [*good, _member("cat/l.png", kind=tarfile.SYMTYPE, link="l.png")]
        ),
        "device": lambda: _tar([*good, _member("cat/d.png", kind=tarfile.CHRTYPE)]),
        "pipe member": lambda: _tar([*good, _member("cat/f.png", kind=tarfile.FIFOTYPE)]),
        "unknown type": lambda: _tar([*good, _member("cat/f.png", images[0], b"Z")]),
        "escape codes": lambda: _tar(
            [*good, *(_member(f"{text}/1.png".replace("\x00", ""), images[0]) for text in ESCAPES)]
        ),
        "names": lambda: _tar(
            [_member(f"{text}/{i}.png", images[i]) for text in _NAMES for i in range(2)]
        ),
        "surrogates": lambda: _tar(
            [*good, _member("c\udcff/\udc80.png", images[0])], tarfile.GNU_FORMAT
        ),
        "path of pax": lambda: _tar([*good, (pax, images[0])]),
        "size of pax": lambda: _tar([*good, (odd, images[0])]),
        "sparse": lambda: _tar([*good, (sparse, images[0])]),
        "size of all": lambda: with_size(b"77777777777\0"),
        "size below 0": lambda: with_size(b"\xff" * 12),
        "size of base 256": lambda: with_size(b"\x80" + b"\0" * 3 + b"\xff" * 8),
        "size of text": lambda: with_size(b"zzz"),
        "twice the same": lambda: _tar([*good, *good, lying, lying]),
        "deep": lambda: _tar([*good, _member("/".join("d" * 1_000) + "/x.png", images[0])]),
        "long": lambda: _tar([*good, _member("cat/" + "n" * 60_000 + ".png", images[0])]),
        "many classes": lambda: _tar(
            [_member(f"c{index}/0.png", images[0]) for index in range(3_000)]
        ),
        "no images": lambda: _tar([_member("cat/a.txt", b"x")]),
        "empty members": lambda: _tar(
            [_member(f"{label}/{i}.png") for label in "ab" for i in range(8)]
        ),
        "empty": lambda: b"",
        "end only": lambda: b"\0" * 10_240,
        "cut": lambda: whole[: draw.random.randrange(len(whole))],
        "bit flips": lambda: _flipped(draw, whole),
        "random": lambda: draw.random.randbytes(20_000),
        "compressed": lambda: zlib.compress(whole),
        "tar in tar": lambda: _tar([_member("a.tar", whole), _member("b.tar", whole)]),
        "tar in tar in tar": lambda: _tar(
            [_member("a.tar", _tar([_member("b.tar", _tar([_member("c.tar", whole)]))]))]
        ),
        "tar of itself": lambda: _tar([*good, _member("train.tar", whole)]),
        "pipe": lambda: b"pipe",
        "folder": lambda: b"folder",
        "zero": lambda: b"zero",
        "sparse file": lambda: b"sparse",
        "link outside": lambda: b"link",
    }
    what = draw.turn(sorted(options))
    content = options[what]()
    path = folder / "train.tar"
    match content:
        case b"pipe":
            os.mkfifo(path)
        case b"folder":
            path.mkdir()
        case b"zero":
            path.symlink_to("/dev/zero")
        case b"sparse":
            with path.open("wb") as file:
                file.truncate(2**30)
        case b"link":
            path.symlink_to(place.victim / "keep.txt")
        case _:
            path.write_bytes(content)
    words, writes = _any_command(draw, "data")
    return Command(words, f"train.tar: {what}", writes, ANY)


def _flipped(draw: Draw, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.any([1, 5, 50])):
        changed[draw.random.randrange(len(changed))] ^= 1 << draw.random.randrange(8)
    return bytes(changed)


# --- images ---


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_of(
    width: int, height: int, data: bytes = b"", more: bytes = b"", depth: int = 8, colour: int = 2
) -> bytes:
    """Return a PNG that says that it has so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = data or zlib.compress(b"\0" * 1_000)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + more
        + _chunk(b"IDAT", body)
        + _chunk(b"IEND", b"")
    )


def _rows(width: int, height: int) -> bytes:
    """Return the compressed rows of a black grey image, made by pieces."""
    packer = zlib.compressobj(9)
    row = b"\0" * (width + 1)
    return b"".join(packer.compress(row) for _ in range(height)) + packer.flush()


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _images(draw: Draw, place: Place) -> Command:
    """Put hostile images among good ones."""
    small = Image.new("RGB", (16, 16), (200, 40, 90))
    good = png(7)
    forms = [
        "GIF",
        "BMP",
        "TIFF",
        "WEBP",
        "PPM",
        "ICO",
        "TGA",
        "PCX",
        "JPEG",
        "JPEG2000",
        "SGI",
        "DDS",
        "AVIF",
        "EPS",
        "PDF",
        "SPIDER",
        "IM",
        "MPO",
        "ICNS",
        "BLP",
        "DIB",
        "MSP",
        "XBM",
    ]

    def bad_form() -> bytes:
        form = draw.any(forms)
        try:
            image = {
                "SPIDER": small.convert("F"),
                "MSP": small.convert("1"),
                "XBM": small.convert("1"),
                "BLP": small.convert("P"),
            }.get(form, small)
            content = _saved(image, form)
        except (KeyError, OSError, ValueError):
            content = good
        return draw.any([content, content[: len(content) // 2], _flipped(draw, content)])

    eps = (
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n"
        f"({place.canary}/CANARY) (w) file closefile\nshowpage\n%%EOF\n"
    )
    svg = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&e;</svg>'
    options: dict[str, Callable[[], bytes]] = {
        "a bomb of 170,000,000 x 1": lambda: _png_of(170_000_000, 1),
        "a bomb of 1 x 170,000,000": lambda: _png_of(1, 170_000_000),
        "a bomb of 13,000 x 13,000": lambda: _png_of(
            13_000, 13_000, _rows(13_000, 13_000), colour=0
        ),
        "a bomb of 2**31": lambda: _png_of(2**31 - 1, 2**31 - 1),
        "9,000 x 9,000": lambda: _png_of(9_000, 9_000, _rows(9_000, 9_000), colour=0),
        "100,000 x 1": lambda: _png_of(100_000, 1, _rows(100_000, 1), colour=0),
        "1 x 100,000": lambda: _png_of(1, 100_000, _rows(1, 100_000), colour=0),
        "0 x 0": lambda: _png_of(0, 0),
        "1 x 1": lambda: png(1, 1),
        "text bomb": lambda: _png_of(
            16, 16, more=_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 90_000_000))
        ),
        "many text chunks": lambda: _png_of(
            16, 16, more=_chunk(b"tEXt", b"k\0" + b"x" * 1_000) * 3_000
        ),
        "profile bomb": lambda: _png_of(
            16, 16, more=_chunk(b"iCCP", b"p\0\0" + zlib.compress(b"x" * 50_000_000))
        ),
        "escape codes in text": lambda: _png_of(
            16, 16, more=_chunk(b"tEXt", b"Title\0\x1b]52;c;cHduZWQ=\x07")
        ),
        "bad checksum": lambda: good[:-20] + b"\0" * 8 + good[-12:],
        "unknown chunk": lambda: _png_of(16, 16, more=_chunk(b"QQQQ", b"x" * 100)),
        "depth of 16": lambda: _png_of(
            16, 16, zlib.compress(b"\0" * (33 * 16)), depth=16, colour=0
        ),
        "depth of 3": lambda: _png_of(16, 16, depth=3),
        "cut": lambda: good[: draw.random.randrange(len(good))],
        "bit flips": lambda: _flipped(draw, good),
        "empty": lambda: b"",
        "text": lambda: b"hello",
        "random": lambda: draw.random.randbytes(2_000),
        "another format": bad_form,
        "postscript": lambda: eps.encode(),
        "svg": lambda: svg.encode(),
        "html": lambda: b"<html><script>x</script></html>",
        "many frames": lambda: _saved(
            small,
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (16, 16), (i % 256, 0, 0)) for i in range(300)],
        ),
        "gif of 65,535": lambda: (
            b"GIF89a"
            + struct.pack("<HH", 65_535, 65_535)
            + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0"
            + struct.pack("<HH", 65_535, 65_535)
            + b"\0\x02\x02D\x01\0;"
        ),
        "bmp of 2**31": lambda: (
            b"BM"
            + struct.pack(
                "<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0
            )
        ),
        "bmp below 0": lambda: (
            b"BM"
            + struct.pack(
                "<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, 16, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0
            )
        ),
        "tiff of tags": lambda: (
            b"II*\0\x08\0\0\0"
            + struct.pack("<H", 65_535)
            + os.urandom(0)
            + b"\0\x01\x04\0\xff\xff\xff\xff\0\0\0\0" * 2_000
        ),
        "tiff in a circle": lambda: (
            b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8)
        ),
        "floating tiff of NaN": lambda: _saved(Image.new("F", (16, 16), float("nan")), "TIFF"),
        "floating tiff of infinity": lambda: _saved(Image.new("F", (16, 16), float("inf")), "TIFF"),
        "integer tiff": lambda: _saved(Image.new("I", (16, 16), 2**30), "TIFF"),
        "cmyk": lambda: _saved(Image.new("CMYK", (16, 16)), "JPEG"),
        "palette of none": lambda: _png_of(
            16, 16, zlib.compress(b"\0" + b"\xff" * 16 * 17), colour=3
        ),
        "ppm of 10**9": lambda: b"P6 1000000000 1000000000 255\n",
        "ppm of text": lambda: b"P6 \x1b[31m 16 255\n",
        "exif of any turn": lambda: _with_exif(small),
        "heic cut": lambda: (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x20meta" + os.urandom(0) + b"\xff" * 60
        ),
        "pipe": lambda: b"pipe",
        "zero": lambda: b"zero",
        "link to itself": lambda: b"itself",
        "link outside": lambda: b"outside",
        "folder": lambda: b"folder",
        "sparse file": lambda: b"sparse",
    }
    what = draw.turn(sorted(options))
    part = draw.turn(["train", "val"])
    folder = place.work / "data"
    shutil.copytree(place.specimens.folder / "data", folder)
    path = (
        folder
        / part
        / "cat"
        / f"00{draw.any(['.png', '.png', '.jpg', '.tif', '.gif', '.bmp', '.webp', '.heic', '.eps'])}"
    )
    path.unlink(missing_ok=True)
    content = options[what]()
    match content:
        case b"pipe":
            os.mkfifo(path)
        case b"zero":
            path.symlink_to("/dev/zero")
        case b"itself":
            path.symlink_to(path.name)
        case b"outside":
            path.symlink_to(place.victim / "keep.txt")
        case b"folder":
            path.mkdir()
        case b"sparse":
            with path.open("wb") as file:
                file.truncate(2**30)
        case _:
            path.write_bytes(content)
    words, writes = _any_command(draw, "data")
    return Command(words, f"{part}: {path.name}: {what}", writes, ANY)


def _with_exif(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 99
    exif[0x010E] = "\x1b]52;c;cHduZWQ=\x07"
    return _saved(image, "JPEG", exif=exif)


def _move(path: Path, target: Path) -> None:
    """Rename a file or a folder; a slash in the new name makes folders."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def _folders(draw: Draw, place: Place) -> Command:
    """Make folders of images whose names, links and shapes are hostile."""
    folder = place.work / "data"
    what = draw.turn(
        [
            "class names",
            "image names",
            "data name",
            "link to a class elsewhere",
            "link in a circle",
            "link to /",
            "pipe for a class",
            "deep",
            "many classes",
            "no classes",
            "class without images",
            "other classes",
            "one image",
            "dataset",
            "data is a file",
            "data is a pipe",
            "unreadable",
            "hidden",
            "same but for case",
        ]
    )
    shutil.copytree(place.specimens.folder / "data", folder)
    train, name = folder / "train", draw.any(_NAMES)
    given = "data"
    match what:
        case "class names":
            for part in ("train", "val"):
                _move(folder / part / "cat", folder / part / name)
        case "image names":
            _move(train / "cat" / "00.png", train / "cat" / f"{name}.png")
            _move(train / "cat" / "01.png", train / "cat" / f"{name}.txt")
            (train / "dog" / "01.png").write_bytes(b"no image")
            _move(train / "dog" / "01.png", train / "dog" / f"{name}.png")
        case "data name":
            given = draw.any([f"d{name}", f"./{name}"])
            _move(folder, place.work / given)
        case "link to a class elsewhere":
            (train / "elsewhere").symlink_to(place.victim)
        case "link in a circle":
            (train / "cat" / "up").symlink_to("..")
        case "link to /":
            (train / "cat" / "root").symlink_to("/proc/self")
        case "pipe for a class":
            os.mkfifo(train / "pipe")
        case "deep":
            (train / Path(*["d"] * 150)).mkdir(parents=True)
            (train / Path(*["d"] * 150) / "x.png").write_bytes(png(1))
        case "many classes":
            for index in range(1_000):
                (train / f"c{index}").mkdir()
                (train / f"c{index}" / "0.png").write_bytes(b"")
        case "no classes":
            shutil.rmtree(train)
            train.mkdir()
        case "class without images":
            shutil.rmtree(train / "cat")
            (train / "cat").mkdir()
        case "other classes":
            (folder / "val" / "cat").rename(folder / "val" / name.replace("/", "_"))
        case "one image":
            for path in sorted(train.rglob("*.png"))[1:]:
                path.unlink()
        case "dataset":
            given = "data"
            names = [
                "torch/cifar10",
                "hfds/x/y",
                "wds/x",
                "tfds/x",
                "hfids/x",
                "",
                "folder",
                "../../victim",
            ]
            reader = draw.any([*names, name, f"torch/{name}"])
            roots = ["data", str(place.victim), ""]  # an address would be the user's own wish
            root = draw.any([*roots, f"pipe:{place.touch}"])
            words = ["train", "--schedule=constant", *SMALL, *_RUN]
            words += [f"--dataset={reader}", f"--data-dir={root}"]
            return Command(words, f"{what}: {words[-2:]}", ("runs",), ANY)
        case "data is a file":
            given = draw.any(
                ["data/train/cat/00.png", "/dev/zero", "/dev/null", "", "/proc/self/mem"]
            )
        case "data is a pipe":
            os.mkfifo(place.work / "pipe")
            given = "pipe"
        case "unreadable":
            (train / "cat" / "00.png").chmod(0)
        case "hidden":
            (train / ".hidden").mkdir()
            (train / "__MACOSX" / name).mkdir(parents=True)
            (train / "Thumbs.db").write_bytes(b"x")
        case "same but for case":
            (train / "CAT").mkdir()
            (train / "CAT" / "00.PNG").write_bytes(png(1))
    words, writes = _any_command(draw, given)
    return Command(words, f"{what}: {name!a}", writes, ANY)


# --- the cache ---


def _caches(draw: Draw, place: Place) -> Command:
    """Damage files of the cache, plant links there, and read, use or clear it."""
    cache = place.work / "cache"
    shutil.copytree(place.specimens.folder / "cache", cache)
    names = sorted(path.name for path in cache.iterdir())
    ours = draw.any([name for name in names if name.endswith(".images")])
    what = draw.turn(
        [
            "missing",
            "empty",
            "cut",
            "bit flips",
            "flips at the end",
            "zeros",
            "footer of many",
            "footer of facts",
            "pipe",
            "folder",
            "zero device",
            "link to a file",
            "link to itself",
            "lock is a link",
            "part is a link",
            "lock is a link to nowhere",
            "part is a link to nowhere",
            "lock is a folder",
            "lock is a pipe",
            "part is a pipe",
            "other names",
            "deep facts",
            "odd facts",
            "cache is a link",
            "cache is a file",
            "sparse",
            "other rights",
        ]
    )
    path, lock, part = cache / ours, cache / f"{ours}.lock", cache / f"{ours}.part"
    content = path.read_bytes()
    footer = 32

    def replaced(target: Path, link: Path | str) -> None:
        target.unlink(missing_ok=True)
        target.symlink_to(link)

    def with_facts(facts: bytes) -> bytes:
        magic, version, _, images, length = struct.unpack("<8sIIQQ", content[-footer:])
        rest = content[: -footer - length]
        return (
            rest
            + facts
            + struct.pack("<8sIIQQ", magic, version, zlib.crc32(facts), images, len(facts))
        )

    match what:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(content[: draw.random.randrange(len(content))])
        case "bit flips":
            path.write_bytes(_flipped(draw, content))
        case "flips at the end":
            path.write_bytes(content[:-600] + _flipped(draw, content[-600:]))
        case "zeros":
            path.write_bytes(b"\0" * len(content))
        case "footer of many":
            magic, version, checksum, _, length = struct.unpack("<8sIIQQ", content[-footer:])
            many = draw.any([0, 1, 10**9, 2**63, 2**64 - 1])
            path.write_bytes(
                content[:-footer] + struct.pack("<8sIIQQ", magic, version, checksum, many, length)
            )
        case "footer of facts":
            magic, version, checksum, images, _ = struct.unpack("<8sIIQQ", content[-footer:])
            many = draw.any([0, 1, len(content), 2**26, 2**63, 2**64 - 1])
            path.write_bytes(
                content[:-footer] + struct.pack("<8sIIQQ", magic, version, checksum, images, many)
            )
        case "pipe":
            path.unlink()
            os.mkfifo(path)
        case "folder":
            path.unlink()
            path.mkdir()
        case "zero device":
            replaced(path, "/dev/zero")
        case "link to a file":
            replaced(path, place.victim / "keep.txt")
        case "link to itself":
            replaced(path, path.name)
        case "lock is a link":
            replaced(lock, place.victim / "keep.txt")
            path.unlink()
        case "lock is a link to nowhere":
            replaced(lock, place.victim / "new.txt")
            path.unlink()
        case "part is a link":
            replaced(part, "../victim/keep.txt")
            path.unlink()
        case "part is a link to nowhere":
            replaced(part, place.victim / "new.txt")
            path.unlink()
        case "lock is a folder":
            lock.unlink()
            lock.mkdir()
        case "lock is a pipe":
            lock.unlink()
            os.mkfifo(lock)
        case "part is a pipe":
            os.mkfifo(part)
            path.unlink()
        case "other names":
            path.rename(
                cache / f"{draw.any(_CODED_NAMES)}-000000000000-32px.images".replace("/", "_")
            )
        case "deep facts":
            path.write_bytes(
                with_facts(draw.any([b"[", b'{"a":']) * draw.any([100, 10_000, 300_000]))
            )
        case "odd facts":
            odd = [
                b"[]",
                b"null",
                b"NaN",
                b'{"data": 1}',
                b'{"data": "\\u001b[31m", "images": -1}',
                b'{"shapes": [[1e9, 1e9]]}',
                b"9" * 5_000,
                b"\xff\xfe",
            ]
            path.write_bytes(with_facts(draw.any(odd)))
        case "cache is a link":
            shutil.move(cache, place.work / "real")
            cache.symlink_to(place.work / "real")
        case "cache is a file":
            shutil.rmtree(cache)
            cache.write_text("x")
        case "sparse":
            with path.open("ab") as file:
                file.truncate(400 * 2**20)
        case "other rights":
            path.chmod(0)
    data = f"--data={place.specimens.folder / 'data'}"
    train = ["train", "--schedule=constant", *SMALL, *_RUN, data, "--cache=cache"]
    words, writes = draw.turn(
        [
            (train, ("runs", "cache")),
            (["list", "caches", "--dir=cache"], ()),
            (["list", "caches", "--dir=cache", "--json"], ()),
            (["list", "caches", "--remove", "--all", "--dir=cache"], ("cache",)),
            (["list", "caches", "--remove", ours, "--dir=cache", "--json"], ("cache",)),
            (["list", "caches", "--remove", "--older-than=0", "--dir=cache"], ("cache",)),
            (
                [
                    "list",
                    "caches",
                    "--remove",
                    draw.any(
                        ["../victim/keep.txt", "/etc/passwd", "\x1b[31m", f"x/../../victim/{ours}"]
                    ),
                    "--dir=cache",
                ],
                (),
            ),
        ]
    )
    if what == "cache is a link" and "cache" in writes:
        writes = (*writes, "real")  # the user has named the link
    return Command(words, f"cache: {ours}: {what}", writes, ANY)


KINDS = [
    Kind("data-tars", _tars, 120),
    Kind("data-images", _images, 190),
    Kind("data-folders", _folders, 76),
    Kind("data-caches", _caches, 189),
]
