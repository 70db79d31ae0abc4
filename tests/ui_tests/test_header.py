"""The facts on top of every view."""

from __future__ import annotations

from dataclasses import replace

from autoprog.ui.header import header_facts
from autoprog.ui.subject import find_subject
from autoprog.ui.units import amount
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
