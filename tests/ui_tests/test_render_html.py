"""Web pages: well-formed, whole, and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from autoprog.cli import main
from autoprog.ui.render_html import lanes_svg
from autoprog.ui.subject import find_subject

VOID = {"meta"}


class Reader(HTMLParser):
    """Collects tags and text; fails where a tag is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    assert reader.sources == []
    assert {"script", "link", "img"}.isdisjoint(reader.tags)
    return reader


def test_the_page_of_a_run_holds_tables_and_pictures(
    tmp_path: Path, run_builder: Callable[[int], Path]
) -> None:
    page = tmp_path / "a.html"
    assert main(["show", str(run_builder(4000)), "--html", str(page)]) == 0
    reader, text = read(page), page.read_text(encoding="utf-8")
    assert reader.tags.count("svg") == 3  # schedule, accuracy, loss
    assert reader.tags.count("table") == 6  # stages, three decisions, growth, evaluations
    words = " ".join(reader.words)
    for word in (
        "74.50 %",
        "Decision 2",
        "depth 8, 160 px",
        "step cost",
        "the data loader is slower",
    ):
        assert word in words
    assert text.count('class="winner"') == 3
    assert not set("╭╮╰╯│▄█") & set(words)  # no drawing of a terminal


@pytest.mark.parametrize("target", ["linear", "unfreezing", "patch-sampling", "supervit"])
def test_a_plan_and_a_diff_have_pages_too(tmp_path: Path, target: str) -> None:
    page = tmp_path / "a.html"
    assert main(["show", target, "--epochs", "20", "--html", str(page)]) == 0
    assert read(page).tags.count("svg") == 1
    assert main(["show", target, "--diff", "constant", "--html", str(page)]) == 0
    reader = read(page)
    assert (reader.tags.count("svg"), reader.tags.count("table")) == (2, 1)


def test_names_are_text_in_a_page(tmp_path: Path, schedule_text: str) -> None:
    named = tmp_path / "<b>&.yaml"
    named.write_text(schedule_text)
    assert main(["show", str(named), "--html", str(tmp_path / "a.html")]) == 0
    reader = read(tmp_path / "a.html")
    assert "b" not in reader.tags
    assert "<b>&.yaml" in " ".join(reader.words)


def test_labels_of_lanes_never_lie_on_each_other(run_builder: Callable[[int], Path]) -> None:
    """Also where a keep-rate changes in each of hundreds of steps."""
    for subject in (
        find_subject("patch-sampling", None, 300, None, 0.0),
        find_subject(str(run_builder(2300)), None, None, None, 0.0),
    ):
        assert subject.track is not None
        rows: dict[str, list[tuple[float, float]]] = {}
        for part in lanes_svg(subject.track).split('<text class="value" x="')[1:]:
            x, _, rest = part.partition('" y="')
            y, _, label = rest.partition('">')
            width = 7.5 * len(label.partition("<")[0])
            rows.setdefault(y, []).append((float(x), float(x) + width))
        for places in rows.values():
            assert all(a[1] < b[0] for a, b in pairwise(places))
            assert places[-1][1] <= 900
