"""Where to save an edited schedule."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from autoprog.errors import ConfigError
from autoprog.ui.draft import Draft, save_draft
from autoprog.ui.palette import WARNING

__all__ = ["SaveScreen"]

DEFAULT_NAME = "edited.yaml"


class SaveScreen(ModalScreen[Path | None]):
    """Asks for a path, and again before a file of that name is replaced; gives the path or None."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "cancel", "Back")]

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft
        self._agreed: Path | None = None

    def compose(self) -> ComposeResult:
        """Yield the line for the path."""
        with Vertical(id="save"):
            yield Static(Text("Save the edited schedule as; Enter saves, Esc goes back"))
            yield Input(DEFAULT_NAME, id="save-path")
            yield Static("", id="save-problem")

    def action_cancel(self) -> None:
        """Go back to the editor."""
        self.dismiss(None)

    @on(Input.Changed)
    def _typed(self) -> None:
        self._agreed = None
        self._say("")

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        path = Path(event.value.strip()).expanduser()
        if path.is_file() and self._agreed != path:
            self._agreed = path
            self._say(f"{path} is there already: Enter replaces it, another name keeps it")
            return
        try:
            save_draft(self._draft, path, overwrite=self._agreed == path)
        except ConfigError as error:
            self._say(str(error))
            return
        self.dismiss(path)

    def _say(self, text: str) -> None:
        self.query_one("#save-problem", Static).update(Text(text, WARNING))
