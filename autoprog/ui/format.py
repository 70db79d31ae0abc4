"""Numbers as people read them; plain strings, the same in every view."""

from __future__ import annotations

import math

from autoprog.stage import Unfrozen
from supernet.config import ALL_TOKENS, SubnetConfig

__all__ = [
    "BLOCKS",
    "DIM",
    "LANE_STYLES",
    "MARK_DECISION",
    "MARK_DIFFERENT",
    "MARK_GROWTH",
    "MARK_NOW",
    "MARK_PLANNED",
    "MARK_SUPERNET",
    "MARK_UNDECIDED",
    "MARK_WINNER",
    "SHADES",
    "STATUS",
    "WARNING",
    "WINNER",
    "amount",
    "ascii_text",
    "count",
    "depth_text",
    "duration",
    "lane_style",
    "loss_text",
    "mebibytes",
    "milliseconds",
    "number",
    "per_cent",
    "signed",
    "speed_text",
    "steps_text",
    "subnet_text",
    "trained_text",
]


# --------------------------------------------------------------------------------------------------
# Colours (Okabe and Ito's, which colour-blind people distinguish) and the marks that repeat what
# they say.


ORANGE, SKY, GREEN = "#e69f00", "#56b4e9", "#009e73"
BLUE, VERMILLION, PURPLE = "#0072b2", "#d55e00", "#cc79a7"

DIM = "bright_black"
WINNER = f"bold {ORANGE}"
WARNING = f"bold {VERMILLION}"

BLOCKS = " ▁▂▃▄▅▆▇█"
SHADES = "░▒▓█"
MARK_PLANNED = "░"
MARK_UNDECIDED = "·"
MARK_NOW = "┊"
MARK_GROWTH = "▲"
MARK_DECISION = "◆"
MARK_SUPERNET = "≈"
MARK_WINNER = "▶"
MARK_DIFFERENT = "≠"

# Depth, size and cost have the same colour in every picture, so that runs can be compared by eye.
LANE_STYLES = {"depth": SKY, "image px": ORANGE, "step cost": VERMILLION}
_CURRICULUM_STYLES = (GREEN, PURPLE, BLUE)  # yellow cannot be read on white

STATUS = {
    "complete": ("✔", f"bold {GREEN}"),
    "training": ("●", f"bold {SKY}"),
    "supernet": ("●", f"bold {PURPLE}"),
    "starting": ("●", DIM),
    "measuring": ("●", f"bold {ORANGE}"),
    "interrupted": ("■", f"bold {ORANGE}"),
    "stale": ("?", f"bold {VERMILLION}"),
}


def lane_style(name: str, index: int) -> str:
    """Return the colour of a lane."""
    return LANE_STYLES.get(name, _CURRICULUM_STYLES[index % len(_CURRICULUM_STYLES)])


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")
_MAX_BLOCKS = 12
_ASCII = {
    "▶": "*",
    "±": "+-",
    "×": "x",
    "→": "->",
    "Δ": "change of ",
    "‖": "|",
    "·": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "≈": "~",
    "✔": "",
    "●": "",
    "■": "",
}


def number(value: float | None, digits: int = 4) -> str:
    """Return a number at so many significant digits, without trailing zeros; a dash for None."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    # Never as a power of ten, which takes a moment to read.
    whole = 10**digits - 0.5 <= abs(value) < 1e9
    return f"{value:,.0f}" if whole else f"{value:.{digits}g}"


def count(value: int) -> str:
    """Return a whole number with separators between the thousands."""
    return f"{value:,}"


def signed(value: float, digits: int = 4) -> str:
    """Return a number with its sign and so many decimals."""
    return f"{value:+.{digits}f}"


def per_cent(fraction: float) -> str:
    """Return a fraction in whole per cent, with one decimal below ten."""
    # 9.95 would be rounded to 10.0, with a digit more than its neighbours 9.9 and 11.
    value = 100 * fraction
    return f"{value:.0f}%" if value >= 9.95 or value == 0 else f"{value:.1f}%"


def loss_text(value: float | None) -> str:
    """Return a loss at four decimals; a dash for None."""
    return "–" if value is None else f"{value:.4f}"


def speed_text(images_per_second: float | None) -> str:
    """Return images a second; a dash for None."""
    if images_per_second is None or images_per_second < 100:
        return number(images_per_second, 3)
    return f"{images_per_second:,.0f}"


def duration(seconds: float | None) -> str:
    """Return seconds as ``4.2 s``, ``41:12``, ``3:05:09`` or ``2d 03:05``; a dash where unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    # Tenths of a second matter below a minute; above one they would only flicker in a live bar.
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def milliseconds(seconds: float) -> str:
    """Return seconds in milliseconds at three digits, never as a power of ten: ``6.28`` or ``1,130``."""
    value = 1000 * seconds
    # Three digits of 1,130 ms would be written as 1.13e+03.
    return f"{value:,.0f}" if value >= 99.95 else number(value, 3)


def amount(value: float) -> str:
    """Return a large count with a prefix, such as ``4.60 G``."""
    power = 0
    # 999.5 at three digits would be written as 1e+03.
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {_PREFIXES[power]}".rstrip()


def mebibytes(size: float) -> str:
    """Return bytes in MiB or GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def depth_text(subnet: SubnetConfig) -> str:
    """Return the blocks of each stage, such as ``12`` or ``4+14``."""
    return "+".join(map(str, subnet.depth))


def trained_text(unfrozen: Unfrozen, depth: int) -> str:
    """Return which blocks train: ``2 of 4 blocks train: 0, 1``."""
    blocks = unfrozen.blocks(depth)
    rule = f"those whose number modulo {unfrozen.every} is below {unfrozen.level}"
    # Lists of more than a dozen blocks are longer than the rule that makes them.
    which = ", ".join(map(str, blocks)) if len(blocks) <= _MAX_BLOCKS else rule
    return f"{len(blocks)} of {depth} blocks train: {which}"


def subnet_text(subnet: SubnetConfig) -> str:
    """Return a subnet in words: ``depth 8, 160 px``."""
    tokens = "" if subnet.tokens == ALL_TOKENS else f", {subnet.tokens}"
    return f"depth {depth_text(subnet)}, {subnet.img_size} px{tokens}"


def ascii_text(text: str) -> str:
    """Return text that any terminal and any screen reader takes."""
    # Names of folders may hold any letter; what has no spelling above becomes a question mark.
    spelled = "".join(_ASCII.get(letter, letter) for letter in text)
    return spelled.encode("ascii", "replace").decode("ascii").strip()


def steps_text(step: int, total_steps: int | None, is_open_ended: bool) -> str:
    """Return where a run stands; where time bounds it, the total is a guess, or not known yet (None)."""
    if total_steps is None:
        return count(step)
    # Only at its end a run that time bounds knows how many steps it had.
    about = "≈" if is_open_ended and step < total_steps else ""
    return f"{count(step)}/{about}{count(total_steps)}"
