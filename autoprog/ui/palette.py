"""Colours (Okabe and Ito's, which colour-blind people tell apart) and the marks that repeat what they say."""

from __future__ import annotations

__all__ = [
    "BLOCKS",
    "DIM",
    "LANE_STYLES",
    "MARK_DECISION",
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
    "lane_style",
]

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
