"""The facts on top of every view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rich.console import Console

from autoprog.ui.format import amount
from autoprog.ui.render_rich import view
from autoprog.ui.run_sections import header_facts, header_section
from autoprog.ui.subject import find_subject
from supernet.cost import macs, parameters
from supernet.zoo import ZOO


def test_compute_and_parameters_are_those_with_the_classes_of_the_run() -> None:
    plan = find_subject("linear", ZOO["vit-mu"], 4.0, None, 0.0)
    spec = ZOO["vit-mu"]
    for classes in (1000, 10):
        subject = replace(plan, state=replace(plan.state, num_classes=classes))
        facts = dict(header_facts(subject))
        assert facts["MACs"] == amount(macs(spec, spec.full, classes))
        assert facts["parameters"] == amount(parameters(spec, spec.depth, classes))


def test_facts_are_never_broken(
    fixed_console: Callable[..., Console], shown: Callable[[Console], str]
) -> None:
    plan = find_subject("linear", ZOO["vit-mu"], 4.0, None, 0.0)
    for width in (40, 60, 80):
        console = fixed_console(width)
        console.print(view(header_section(plan)))
        text = shown(console)
        for name, value in header_facts(plan):
            assert f"{name} {value}" in text
        assert max(map(len, text.splitlines())) <= width
