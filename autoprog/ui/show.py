"""``autoprog show``: a run, a schedule file or a preset, printed once or written as a picture or a page."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from autoprog.console import Console
from autoprog.errors import ConfigError, consistent
from autoprog.files import write_outputs
from autoprog.presets import PRESETS
from autoprog.printable import say
from autoprog.ui.render_rich import print_sections, views
from autoprog.ui.run_sections import run_sections
from autoprog.ui.schedule_diff import diff_section, schedule_diff
from autoprog.ui.section import Section, document
from autoprog.ui.subject import find_subject, preset_beside
from supernet.config import ModelSpec

__all__ = ["show"]

_PICTURE_WIDTH = 110


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
    """Print what is known of `target`, or write it to files.

    Args:
        target: Path of a run folder or of a schedule file, or the name of a preset.
        spec: Model of a preset; else that of the other schedule of a diff.
        epochs: Length of the run of a preset, or of a file in fractions or with 'rest'.
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
        problem = (
            "goes with a preset alone, since a run and a schedule file say their model themselves"
        )
        raise ConfigError("--model", "", problem, spec.name)
    with consistent(target):
        subject = find_subject(target, spec, epochs, recipe, clock())
        name, title = subject.name, f"{subject.spec.name} {subject.name}"
        if diff is None:
            sections = run_sections(subject)
        else:
            other = find_subject(diff, spec, epochs, recipe, clock())
            if other.kind == "preset" != subject.kind:
                other = preset_beside(diff, subject, spec, epochs, recipe)
            elif subject.kind == "preset" != other.kind:
                subject = preset_beside(target, other, spec, epochs, recipe)
            found = schedule_diff(subject, other)
            sections = [diff_section(found)]
            name = f"{name} --diff {other.name}"
            title = " and ".join(cost.name for cost in found.costs)
        if as_json:
            # Not through rich, which takes ten times as long.
            text = json.dumps(document(sections), indent=1, allow_nan=False)
            say(text, file=console.file)
        elif svg is not None or html is not None:
            _write_files(name, title, sections, svg, html)
        else:
            print_sections(console, sections, plain)


def _write_files(
    name: str, title: str, sections: Sequence[Section], svg: Path | None, html: Path | None
) -> None:
    from autoprog.ui.render_html import FONT_ASPECT_RATIO, sections_page, with_local_fonts

    texts = {}
    if svg is not None:
        console = Console(
            record=True,
            file=io.StringIO(),
            width=_PICTURE_WIDTH,
            # A picture has colours, wherever it is made.
            force_terminal=True,
            color_system="truecolor",
            _environ={},
        )
        for drawing in views(sections):
            console.print(drawing)
        picture = console.export_svg(
            title=f"autoprog show {name}", font_aspect_ratio=FONT_ASPECT_RATIO
        )
        texts[svg] = with_local_fonts(picture)
    if html is not None:
        texts[html] = sections_page(title, sections)
    write_outputs(texts)
