"""``autoprog show``: the views of a run, a schedule file or a preset, printed once."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from autoprog.console import Console
from autoprog.errors import ConfigError, consistent
from autoprog.files import write_outputs
from autoprog.presets import PRESETS
from autoprog.printable import say
from autoprog.ui.diff import diff_document, diff_plain, diff_view, schedule_diff
from autoprog.ui.document import document
from autoprog.ui.plain import plain_text
from autoprog.ui.show_html import diff_page, show_page
from autoprog.ui.subject import Subject, find_subject, preset_beside
from autoprog.ui.svg import FONT_ASPECT_RATIO, with_local_fonts
from autoprog.ui.views import views
from supernet.config import ModelSpec

__all__ = ["show"]

MIN_WIDTH, MAX_WIDTH = 60, 200
PICTURE_WIDTH = 110


def show(
    target: str,
    *,
    spec: ModelSpec | None = None,
    epochs: float | None = None,
    recipe: str | None = None,
    plain: bool = False,
    as_json: bool = False,
    svg: Path | None = None,
    html: Path | None = None,
    diff: str | None = None,
    console: Console | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Print the views of `target`, or write them to files.

    Args:
        target: Path of a run folder or of a schedule file, or the name of a preset.
        spec: Model of a preset; else that of the other schedule of a diff.
        epochs: Length of the run of a preset, or of a file in shares or with 'rest'.
        recipe: Recipe that gives a preset its length and strength.
        plain: Print aligned ASCII text; also done where the terminal takes nothing else.
        as_json: Print one JSON object.
        svg: File for a picture, instead of printing.
        html: File for a web page, instead of printing.
        diff: Another run, file or preset, whose schedule is set beside that of `target` instead.
        console: Where to print; standard output if None.
        clock: Seconds since the epoch, by which a silent run counts as stale.

    Raises:
        ConfigError: If `target` is nothing that can be shown.
        RunError: If a file cannot be written; then none is.
    """
    console = Console() if console is None else console
    if spec is not None and not {target, diff} & PRESETS.keys():
        law = "must go with a preset: a run and a schedule file say it themselves"
        raise ConfigError("--model", "", law, spec.name)
    with consistent(target):
        subject = find_subject(target, spec, epochs, recipe, clock())
        forms = _forms(subject)
        if diff is not None:
            other = find_subject(diff, spec, epochs, recipe, clock())
            if other.kind == "preset" != subject.kind:
                other = preset_beside(diff, subject, spec, epochs, recipe)
            elif subject.kind == "preset" != other.kind:
                subject = preset_beside(target, other, spec, epochs, recipe)
            forms = _diff_forms(subject, other)
        if as_json:
            text = json.dumps(forms.document(), indent=1, allow_nan=False)
            say(text, file=console.file)  # rich takes ten times as long
        elif svg is not None or html is not None:
            _export(forms, svg, html)
        elif plain or not _draws(console):
            console.out(forms.plain(), end="", highlight=False)
        else:
            width = max(MIN_WIDTH, min(console.width, MAX_WIDTH))
            for view in forms.views():
                console.print(view, width=width, crop=False)


@dataclass(frozen=True)
class _Forms:
    """One thing in the forms in which it is shown."""

    name: str
    document: Callable[[], dict[str, Any]]
    plain: Callable[[], str]
    views: Callable[[], Iterable[RenderableType]]
    page: Callable[[], str]


def _forms(subject: Subject) -> _Forms:
    return _Forms(
        subject.name,
        lambda: document(subject),
        lambda: plain_text(subject),
        lambda: views(subject),
        lambda: show_page(subject),
    )


def _diff_forms(a: Subject, b: Subject) -> _Forms:
    found = schedule_diff(a, b)
    return _Forms(
        f"{a.name} --diff {b.name}",
        lambda: diff_document(found),
        lambda: diff_plain(found),
        lambda: [diff_view(found)],
        lambda: diff_page(found),
    )


def _draws(console: Console) -> bool:
    return not console.is_dumb_terminal and console.encoding.startswith("utf")


def _export(forms: _Forms, svg: Path | None, html: Path | None) -> None:
    texts = {}
    if svg is not None:
        console = Console(
            record=True,
            file=io.StringIO(),
            width=PICTURE_WIDTH,
            force_terminal=True,
            color_system="truecolor",
            _environ={},
        )
        for view in forms.views():
            console.print(view)
        title = f"autoprog show {forms.name}"
        picture = console.export_svg(title=title, font_aspect_ratio=FONT_ASPECT_RATIO)
        texts[svg] = with_local_fonts(picture)
    if html is not None:
        texts[html] = forms.page()
    write_outputs(texts)
