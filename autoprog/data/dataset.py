"""An opened data set: its two parts, their classes, what was left out and why, and unusual images."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import ExifTags

from autoprog.data.decode import (
    IMAGE_ERRORS,
    WIDE_MODES,
    brightest,
    fitting_white_level,
    open_image,
    pillow_limits,
)
from autoprog.data.folders import LeftOut, printable
from autoprog.data.image_sources import EncodedSource, ImageSource, digest_of, whole_of
from autoprog.data.stream import StreamSource

__all__ = [
    "AnySource",
    "DataReport",
    "HeaderProbe",
    "OpenedData",
    "PartReport",
    "probe_headers",
    "report_of",
]

AnySource: TypeAlias = ImageSource | StreamSource

_MAX_NAMED = 10
_MAX_REASONS = 5
_PROBED_IMAGES = 48
# Ratio of the largest and the smallest class from which a line says so.
_UNUSUALLY_UNEVEN = 10


@dataclass(frozen=True)
class OpenedData:
    """Both parts of a data set; they have the same classes.

    ``white_level`` is that of images of more than 8 bits; None where none were seen.
    """

    train: AnySource
    val: AnySource
    class_names: tuple[str, ...]
    description: str
    report: DataReport
    white_level: float | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Return a hash of the images of each part, ``train`` and ``val``, wherever they lie."""
        parts = {"train": self.train, "val": self.val}
        return {
            name: source.digest() if isinstance(source, StreamSource) else digest_of(source)
            for name, source in parts.items()
        }

    @property
    def images(self) -> tuple[ImageSource, ImageSource]:
        """(train, val) of map-style data; asserts that it is no stream."""
        assert not isinstance(self.train, StreamSource), self.description
        assert not isinstance(self.val, StreamSource), self.description
        return self.train, self.val


@dataclass(frozen=True)
class PartReport:
    """What one part holds. ``class_sizes`` is empty where the images only come one after another."""

    class_sizes: tuple[int, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: ImageSource) -> PartReport:
        """Return the report of images of which nothing was left out."""
        counts = np.bincount(source.targets, minlength=len(source.class_names))
        return cls(tuple(counts.tolist()))


@dataclass(frozen=True)
class DataReport:
    """What both parts of a data set hold."""

    class_names: tuple[str, ...]
    train: PartReport
    val: PartReport
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report in lines of (at most some) words, the classes first."""
        lines: list[str] = []
        if self.train.class_sizes:
            sizes = self._sizes(self.train)
            if len(sizes) <= _MAX_NAMED:
                text = ", ".join(f"{printable(name)} {size:,}" for name, size in sizes)
            else:
                text = f"{_listed(self.class_names)} ({len(sizes):,} in all)"
            (small, fewest), (large, most) = (
                min(sizes, key=lambda one: one[1]),
                max(sizes, key=lambda one: one[1]),
            )
            if len(sizes) > _MAX_NAMED:
                text += (
                    f"; smallest {printable(small)} {fewest:,}, largest {printable(large)} {most:,}"
                )
            if most >= _UNUSUALLY_UNEVEN * max(1, fewest):
                text += (
                    f"; uneven: {most / sum(size for _, size in sizes):.0%} are {printable(large)}"
                )
            lines.append(text)
        lines += self.notes
        for part, report in (("train", self.train), ("val", self.val)):
            empty = [name for name, size in self._sizes(report) if size == 0]
            if empty:
                lines.append(f"{part}: no image of {_listed(empty)}")
            if report.left_out:
                shown = ", ".join(map(str, report.left_out[:_MAX_REASONS]))
                more = ", …" if len(report.left_out) > _MAX_REASONS else ""
                lines.append(f"{part}: left out {shown}{more}")
            lines += [f"{part}: {note}" for note in report.notes]
        return lines

    def _sizes(self, part: PartReport) -> list[tuple[str, int]]:
        return list(zip(self.class_names, part.class_sizes, strict=bool(part.class_sizes)))


@dataclass(frozen=True)
class HeaderProbe:
    """What the headers of some images say, and the brightest of those of more than 8 bits."""

    num_images: int = 0
    kinds: tuple[tuple[str, int], ...] = ()
    num_turned: int = 0
    brightness: float | None = None

    @property
    def white_level(self) -> float | None:
        """Return the usual white level of such images; None where none has more than 8 bits."""
        return None if self.brightness is None else fitting_white_level(self.brightness)

    def notes(self, white_level: float | None) -> Iterator[str]:
        """Yield what users of other programs may not expect of the images."""
        for kind, count in self.kinds:
            text = f"{count} of {self.num_images} images looked at are {kind}"
            if white_level is None:
                yield f"{text}, but their brightness is not finite"
            else:
                yield f"{text}: 0 to {white_level:g} becomes black to white (--white-level)"
        if self.num_turned:
            text = f"{self.num_turned} of {self.num_images} images looked at are marked as turned"
            yield f"{text} (EXIF), which is not applied, as in timm"


def report_of(
    source: ImageSource | StreamSource,
    headers: HeaderProbe | None = None,
    white_level: float | None = None,
) -> PartReport:
    """Return what a part holds.

    Args:
        source: The images.
        headers: What those of some of them say.
        white_level: Of the data set.
    """
    if isinstance(source, StreamSource):
        return PartReport(())
    left_out: tuple[LeftOut, ...] = getattr(source, "left_out", ())
    notes: tuple[str, ...] = getattr(source, "notes", ())
    if headers is not None:
        notes = (*notes, *headers.notes(white_level))
    return PartReport(PartReport.of(source).class_sizes, left_out, notes)


def probe_headers(source: ImageSource | StreamSource) -> HeaderProbe:
    """Look at the headers of some images, spread over a part, and at pixels of more than 8 bits."""
    if isinstance(source, StreamSource):
        return HeaderProbe()
    whole, indices = whole_of(source)
    if not isinstance(whole, EncodedSource):
        return HeaderProbe()
    spread = np.unique(np.linspace(0, len(indices) - 1, _PROBED_IMAGES).astype(np.int64))
    kinds: Counter[str] = Counter()
    brightness: list[float] = []
    turned = probed = 0
    for index in indices[spread].tolist() if len(indices) else ():
        try:
            data = whole.encoded(index)
            with pillow_limits(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = open_image(data)
                if image.mode in WIDE_MODES:
                    brightness.append(brightest(image))
                    kinds[WIDE_MODES[image.mode]] += 1
                turned += image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
        except IMAGE_ERRORS:
            continue  # found where it is read for real
        probed += 1
    finite = [value for value in brightness if math.isfinite(value)]
    return HeaderProbe(probed, tuple(sorted(kinds.items())), turned, max(finite, default=None))


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and that there are more."""
    shown = ", ".join(map(printable, names[:_MAX_NAMED]))
    return shown + (", …" if len(names) > _MAX_NAMED else "")
