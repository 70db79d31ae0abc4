"""Images, tar files and folders of somebody who wants autoprog to hang, to crash or to run something."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

# ---- Images


def encoded(size: tuple[int, int] = (16, 16), format: str = "PNG", **options: object) -> bytes:
    """Return a small image with a pattern as a file."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def white_png(width: int, height: int) -> bytes:
    """Return a PNG file of one bit a pixel, a thousandth of its pixels long or less."""
    row = bytes(1 + -(-width // 8))
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def png_with(kind: bytes, start: bytes, num_bytes: int) -> bytes:
    """Return a PNG file with a chunk that inflates to so many bytes."""
    whole = encoded()
    packer = zlib.compressobj(1)
    zeros = bytes(2**20)
    packed = b"".join(packer.compress(zeros) for _ in range(num_bytes >> 20)) + packer.flush()
    return whole[:33] + png_chunk(kind, start + packed) + whole[33:]


def between(format: str, parts: bytes) -> bytes:
    """Return an image file with something between its start and the rest."""
    whole, start = encoded(format=format), 33 if format == "PNG" else 2
    return whole[:start] + parts + whole[start:]


def jpeg_of_scans(count: int) -> bytes:
    """Return a progressive JPEG file with its last scan again and again."""
    whole = encoded((64, 64), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + count * last + whole[-2:]


def tiff(num_strips: int = 1, tags: int = 0, frames: int = 1) -> bytes:
    """Return a TIFF file of 16 x 16 pixels that says to have so many strips, tags and images."""
    numbers = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 278: 16}
    count = len(numbers) + 2 + tags
    size = 2 + 12 * count + 4
    end = 8 + frames * size
    strips = end + 256
    parts = [b"II*\0" + struct.pack("<I", 8)]
    for frame in range(frames):
        parts.append(struct.pack("<H", count))
        entries = [(tag, 3, 1, value) for tag, value in numbers.items()]
        place = end if num_strips == 1 else strips
        entries += [(273, 4, num_strips, place), (279, 4, num_strips, strips)]
        entries += [(40000 + number, 1, 2**16, end) for number in range(tags)]
        parts += [struct.pack("<HHII", *entry) for entry in entries]
        parts.append(struct.pack("<I", 8 + (frame + 1) * size if frame + 1 < frames else 0))
    return b"".join(parts) + bytes(range(256)) + struct.pack("<I", 256) * max(num_strips, 2**14)


def exif_of_tags(count: int) -> bytes:
    """Return a JPEG file with an EXIF block of tags that all lie over each other."""
    block = tiff(tags=count)
    parts = [block[start : start + 65000] for start in range(0, len(block), 65000)]
    whole = encoded(format="JPEG")
    marks = b"".join(
        b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts
    )
    return whole[:2] + marks + whole[2:]


def gif_beyond_its_screen() -> bytes:
    """Return a GIF file with a frame that is larger than the file says to be."""
    whole = bytearray(encoded(format="GIF"))
    start = whole.index(b"\x2c", 13 + 3 * 2 ** ((whole[10] & 7) + 1))
    whole[start + 5 : start + 9] = struct.pack("<HH", 60000, 60000)
    return bytes(whole)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"

READABLE_IMAGES: dict[str, Callable[[], bytes]] = {
    "one pixel high": lambda: white_png(60_000_000, 1),
    "one pixel wide": lambda: white_png(1, 300_000),
    "100,000 images": lambda: tiff(frames=100_000),
    "tags over each other": lambda: tiff(tags=20_000),
    "EXIF over itself": lambda: exif_of_tags(5_000),
    "50 scans": lambda: jpeg_of_scans(50),
    "100,000 empty chunks": lambda: between("PNG", 100_000 * png_chunk(b"prVt", b"")),
}
"""Images that look dangerous and are read."""

UNREADABLE_IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "170,000,000 x 1": (lambda: white_png(170_000_000, 1), "more than the 67,108,864 pixels"),
    "13,000 x 13,000": (lambda: white_png(13_000, 13_000), "more than the 67,108,864 pixels"),
    "a size of 10^18": (
        lambda: encoded().replace(struct.pack(">II", 16, 16), b"\x7f\xff\xff\xff" * 2, 1),
        "",
    ),
    "WebP": (lambda: encoded((8192, 4097), "WEBP", lossless=True, method=0), "33,554,432 pixels"),
    "numbers as text": (lambda: b"P3\n3000 3000\n255\n" + b"1 " * 100, "4,194,304 pixels"),
    "decoded in Python": (
        lambda: b"qoif" + struct.pack(">IIBB", 4000, 4000, 3, 0) + bytes(9),
        "4,194,304 pixels",
    ),
    "text of 256 MB": (lambda: png_with(b"zTXt", b"key\0\0", 2**28), ""),
    "international text of 256 MB": (
        lambda: png_with(b"iTXt", b"key\0\1\0\0\0", 2**28),
        "",
    ),
    "a colour profile of 256 MB": (lambda: png_with(b"iCCP", b"key\0\0", 2**28), ""),
    "100,000 scans": (lambda: jpeg_of_scans(100_000), "more than 64 scans"),
    "a million strips": (lambda: tiff(num_strips=10**6), "more than 131,072 strips"),
    "a million empty chunks": (
        lambda: between("PNG", 1_000_000 * png_chunk(b"prVt", b"")),
        "too many parts",
    ),
    "5 MB before a mark": (lambda: between("JPEG", 5_000_000 * b"\xff"), "too many parts"),
    "three million comments": (lambda: b"P6\n" + 3_000_000 * b"#\n", "too many parts"),
    "10^18 tags": (lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 10**18), "tags"),
    "a directory beyond the file": (lambda: b"MM\0*\xff\xff\xff\xff", "cut short"),
    "a frame beyond the screen": (gif_beyond_its_screen, ""),
    "EPS": (lambda: EPS, "not an image"),
    "EPS for DOS": (
        lambda: b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS,
        "not an image",
    ),
    "PDF": (lambda: b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n%%EOF\n", "not an image"),
    "SVG": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "nothing": (lambda: b"", "not an image"),
    "a start alone": (lambda: b"\xff\xd8\xff", ""),
}
"""Images that cannot be read, and what is said of each; nothing where that is Pillow's matter."""

FORMATS = {
    "PNG": {}, "JPEG": {}, "GIF": {}, "TIFF": {"compression": "tiff_lzw"}, "BMP": {}, "WEBP": {}, "TGA": {},
    "PPM": {}, "ICO": {}, "PCX": {}, "SGI": {}, "JPEG2000": {}, "QOI": {}, "DDS": {}, "XBM": {}, "AVIF": {},
}  # fmt: skip


def damaged_image(rng: random.Random) -> bytes:
    """Return an image file with some bytes turned, cut out or repeated."""
    format = rng.choice(list(FORMATS))
    file = io.BytesIO()
    image = Image.linear_gradient("L").resize((24, 20))
    image.convert("1" if format == "XBM" else "RGB").save(file, format, **FORMATS[format])
    data = bytearray(file.getvalue())
    for _ in range(rng.choice([1, 1, 3, 10])):
        place = rng.randrange(min(len(data), rng.choice([64, 10**6])))
        kind = rng.randrange(4)
        if kind == 0:
            data[place] = rng.randrange(256)
        elif kind == 1:
            data[place : place + 4] = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)])
        elif kind == 2:
            del data[place : place + rng.randrange(1, 40)]
        else:
            data[place:place] = bytes(data[place : place + 30])
        if not data:
            break
    return bytes(data)


# ---- Tar files


def header(name: str, size: int | bytes, kind: bytes = b"0") -> bytes:
    """Return a tar header; a size in bytes is taken as it is."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(512)
    block[0 : len(name)] = name.encode()
    block[100:108], block[124:136] = b"0000644\0", field
    block[156:157], block[257:265] = kind, b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Return data filled up to whole blocks."""
    return data + bytes(-len(data) % 512)


def member(name: str, data: bytes, kind: bytes = b"0") -> bytes:
    """Return a member of a tar file."""
    return header(name, len(data), kind) + padded(data)


def pax(**records: str) -> bytes:
    """Return a pax header for the member that follows."""
    data = b""
    for key, value in records.items():
        rest = f" {key}={value}\n".encode()
        length = len(rest) + len(str(len(rest) + len(str(len(rest)))))
        data += str(length).encode() + rest
    return member("pax", data, b"x")


END = bytes(1024)
NEGATIVE = b"\xff" * 10 + b"\xfe\x00"  # -512, as numbers of base 256


def images() -> bytes:
    """Return members that make a data set of two classes."""
    return member("cat/0.png", encoded()) + member("dog/0.png", encoded())


def nested(depth: int) -> bytes:
    """Return a tar file in a tar file in a tar file."""
    data = images() + END
    for _ in range(depth):
        data = images() + member("inner.tar", data) + END
    return data


def compressed(mode: str) -> bytes:
    """Return a compressed tar file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{mode}") as tar:
        tar.addfile(tarfile.TarInfo("cat/0.png"))
    return file.getvalue()


READABLE_TARS: dict[str, Callable[[], bytes]] = {
    "links and devices": lambda: (
        images()
        + header("cat/1.png", 0, b"1")
        + header("cat/2.png", 0, b"2")
        + header("cat/3.png", 0, b"3")
        + header("cat/4.png", 0, b"6")
        + END
    ),
    "names that lead out": lambda: (
        images()
        + member("../dog/1.png", encoded())
        + member("dog/../../2.png", encoded())
        + pax(path="dog/\0/3.png")
        + member("x", encoded())
        + END
    ),
    "tars in tars": lambda: nested(12),
    "control characters": lambda: images() + pax(path="dog/\x1b]52;c;\x07.png") + member("x", b"") + END,
    "a thousand folders deep": lambda: images() + pax(path="d/" * 1000 + "1.png") + member("x", b"") + END,
    "sparse, of 10 TB": lambda: (
        images()
        + pax(**{"GNU.sparse.size": str(10**13), "GNU.sparse.map": "0,0"})
        + member("x.png", b"")
        + END
    ),
    "100,000 empty members": lambda: images() + 100_000 * header("dog/x.txt", 0) + END,
}  # fmt: skip
"""Tar files of two images and more, which are read."""

HUGE = b"\x80" + bytes(5) + (10**13).to_bytes(6, "big")  # 10 TB
LAST = member("dog/1.png", b"") + END

REFUSED_TARS: dict[str, Callable[[], bytes]] = {
    "a negative size": lambda: header("cat/0.png", NEGATIVE) + images() + END,
    "10 TB": lambda: images() + header("dog/1.png", HUGE) + END,
    "a size by pax": lambda: images() + pax(size=str(10**15)) + LAST,
    "a negative size by pax": lambda: images() + pax(size="-10240") + LAST,
    "a global size": lambda: images() + member("pax", b"18 size=999999999\n", b"g") + LAST,
    "a pax header of 100 MB": lambda: images() + member("pax", b"a" * 10**8, b"x") + LAST,
    "a pax header of -1 bytes": lambda: images() + header("pax", NEGATIVE, b"x") + images() + END,
    "a pax header of digits": lambda: images() + member("pax", b"1" * 60_000, b"x") + LAST,
    "a pax header of a long length": lambda: (
        images() + member("pax", b"9" * 5000 + b" a=b\n", b"x") + LAST
    ),
    "a name of 100 MB": lambda: images() + member("long", b"a" * 10**8, b"L") + LAST,
    "a name of 10 TB": lambda: images() + header("long", HUGE, b"L") + END,
    "headers before headers": lambda: images() + 5000 * pax(path="cat/1.png") + LAST,
    "names before names": lambda: images() + 5000 * member("long", b"a", b"L") + LAST,
    "many global headers": lambda: images() + global_headers(1000) + LAST,
    "a sparse map without an end": lambda: images() + sparse_without_end() + END,
    "a turned bit in a header": lambda: images().replace(b"dog/0.png", b"dig/0.png", 1) + END,
    "cut in a header": lambda: images()[:-1000],
    "no end": images,
    "gzip": lambda: compressed("gz"),
    "xz": lambda: compressed("xz"),
    "nothing": lambda: b"",
    "zeros alone": lambda: bytes(10240),
    "noise": lambda: random.Random(0).randbytes(5000) + END,
    "a tar in it that is none": lambda: images() + member("emu.tar", b"x" * 600) + END,
}
"""Tar files that are refused."""


def global_headers(count: int) -> bytes:
    """Return members, each after a pax header for all that follow."""
    return b"".join(
        member("pax", f"{11 + len(str(n))} key{n}=bcd\n".encode(), b"g") + header("dog", 0, b"5")
        for n in range(count)
    )


def sparse_without_end() -> bytes:
    """Return a GNU sparse member with a map of many blocks."""
    block = bytearray(header("dog/1.png", 0, b"S"))
    block[257:265] = b"ustar  \0"
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    more = (b"%011o\0" % 1) * 42
    return bytes(block) + 5000 * (more + b"\1" + bytes(511 - len(more)))


def damaged_tar(rng: random.Random) -> bytes:
    """Return a tar file of which some bytes of the headers are turned."""
    data = bytearray(images() + pax(path="dog/2.png", mtime="1.5") + member("x", encoded()) + END)
    for _ in range(rng.choice([1, 2, 5])):
        place = rng.randrange(len(data))
        start = place - place % 512
        data[place] = rng.choice([0, 0xFF, 0x80, ord("7"), ord(" "), rng.randrange(256)])
        if rng.random() < 0.8:  # with a checksum that is right again
            data[start + 148 : start + 156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


# ---- Folders


def put(path: Path, kind: str) -> None:
    """Put something else in place of a file or a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the address of a socket may be of 107 bytes
        try:
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"x")
    else:
        path.symlink_to({"endless": "/dev/zero", "terminal": "/dev/tty", "itself": path.name}[kind])


KINDS = ("pipe", "socket", "folder", "file", "endless", "terminal", "itself")
