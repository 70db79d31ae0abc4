"""The views and the keys that are the same in all of them."""

from __future__ import annotations

from textual.binding import Binding, BindingType

__all__ = ["APP_KEYS", "LOOKING", "MOVES_IN_PAGE", "MOVES_IN_TABLE", "VIEWS"]

VIEWS = ("runs", "schedule", "why", "search", "live", "growth", "compare")

APP_KEYS: list[BindingType] = [
    *(
        Binding(str(number), f"view('{view}')", view.capitalize(), show=False)
        for number, view in enumerate(VIEWS, 1)
    ),
    Binding("tab,l,right", "next_view(1)", "Next view", show=False, priority=True),
    Binding("shift+tab,h,left", "next_view(-1)", "View before", show=False, priority=True),
    Binding("j", "move('down')", "Down", show=False),
    Binding("k", "move('up')", "Up", show=False),
    Binding("g,home", "move('first')", "First", show=False, priority=True),
    Binding("G,end", "move('last')", "Last", show=False, priority=True),
    Binding("space", "page(1)", "Page down", show=False),
    Binding("pagedown,ctrl+d", "page(1)", "Page down", show=False, priority=True),
    Binding("pageup,ctrl+u", "page(-1)", "Page up", show=False, priority=True),
    Binding("escape", "clear_filter", "Clear the filter", show=False),
    Binding("slash", "filter", "Filter"),
    Binding("question_mark", "guide", "Help"),
    Binding("q", "quit", "Quit; a run goes on"),
]

LOOKING = {"next_view", "move", "page", "view", "filter", "guide"}
"""What keys do unless something is typed into, or lies above the views."""

MOVES_IN_PAGE = {
    "down": "scroll_down",
    "up": "scroll_up",
    "first": "scroll_home",
    "last": "scroll_end",
}
MOVES_IN_TABLE = {
    "down": "cursor_down",
    "up": "cursor_up",
    "first": "scroll_top",
    "last": "scroll_bottom",
}
