"""What the sixteen colours of a terminal look like on the grounds that the program paints."""

from __future__ import annotations

from rich.terminal_theme import TerminalTheme

__all__ = ["DARK", "LIGHT"]

_COLOURS = [
    (213, 94, 0),
    (0, 158, 115),
    (230, 159, 0),
    (86, 180, 233),
    (204, 121, 167),
    (86, 180, 233),
]  # red, green, yellow, blue, magenta, cyan, as in the palette

# Dim text has to be read: 6.6 to 1 on the dark ground, 5.3 to 1 on the light one.
DARK = TerminalTheme(
    (18, 18, 18),
    (224, 224, 224),
    [(40, 40, 40), *_COLOURS, (208, 208, 208)],
    [(150, 150, 150), *_COLOURS, (255, 255, 255)],
)
LIGHT = TerminalTheme(
    (255, 255, 255),
    (31, 31, 31),
    [(0, 0, 0), *_COLOURS, (90, 90, 90)],
    [(107, 107, 107), *_COLOURS, (0, 0, 0)],
)
