"""What a schedule may ask of tokens and of sandwich steps, each broken rule reported in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoprog.errors import ConfigError
from autoprog.files import parse
from autoprog.schedule import GrowthSchedule
from autoprog.stage import FullModel
from supernet.config import ModelSpec
from supernet.zoo import ZOO

WITHOUT_CLASS_TOKEN = replace(ZOO["deit-s"], class_token=False, num_prefix_tokens=4)
SANDWICH = {"sandwich": {"sizes": [128, 192], "keep_rates": [0.5]}}


def schedule(spec: ModelSpec, **stage: Any) -> GrowthSchedule:
    body = {"length": 1, "depth": 12, "img_size": 224, **stage}
    stages = [body, {"length": 1, "depth": 12, "img_size": 224}]
    values = {"full": FullModel.of(spec), "stages": stages, "monotone": False}
    return parse(GrowthSchedule, values, "s.yaml")


BROKEN: dict[str, tuple[ModelSpec, dict[str, Any], str]] = {
    "no class token": (
        WITHOUT_CLASS_TOKEN,
        {"tokens": {"keep_rate": 0.5, "by": "class_attention"}},
        "tokens.by: must be magnitude, l2_magnitude or random: deit-s has no class token, "
        "but got 'class_attention'",
    ),
    "no class token in a sandwich": (
        WITHOUT_CLASS_TOKEN,
        {"tokens": {"by": "class_attention", "at_blocks": [3]}, "step": SANDWICH},
        "tokens.by: must be magnitude, l2_magnitude or random: deit-s has no class token, "
        "but got 'class_attention'",
    ),
    "a block that is not there": (
        ZOO["deit-s"],
        {"tokens": {"keep_rate": 0.5, "at_blocks": [3, 12]}},
        "tokens.at_blocks: must be below the depth 12, but got 12",
    ),
    "a size above that of the stage": (
        ZOO["deit-s"],
        {"img_size": 192, "step": SANDWICH},
        "step.sandwich.sizes: must be multiples of the stride 16 below 192, but got 192",
    ),
}


@pytest.mark.parametrize(("spec", "stage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_is_reported_in_one_line(
    spec: ModelSpec, stage: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        schedule(spec, **stage)
    assert str(caught.value) == f"s.yaml: stages[0].{message}"


def test_a_class_token_survives_the_file() -> None:
    assert FullModel.of(WITHOUT_CLASS_TOKEN).spec() == WITHOUT_CLASS_TOKEN
    made = schedule(ZOO["deit-s"], tokens={"keep_rate": 0.5, "by": "class_attention"})
    assert made.full.spec() == ZOO["deit-s"]
    assert "class_token" not in made.to_yaml()
