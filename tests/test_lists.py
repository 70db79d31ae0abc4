"""What there is: models and spaces, as tables and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch

from autoprog.cli import main
from autoprog.space import find_space, shipped_spaces
from supernet.zoo import ZOO

SPEC = ZOO["deit-s"]
Capture = pytest.CaptureFixture[str]


def listed(capsys: Capture, *words: str) -> dict[str, Any]:
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_all_short_names_are_listed_with_what_they_mean(capsys: Capture) -> None:
    found = listed(capsys, "list", "models")
    assert list(found) == list(ZOO)
    assert found["deit-s"] == {
        "timm": "deit_small_patch16_224",
        "overrides": {},
        "depth": [12],
        "embed_dim": 384,
        "num_heads": 6,
        "stride_px": 16,
        "img_size_px": 224,
        "parameters": 22_050_664,  # of timm's model card
        "macs": 4_598_882_304,
    }
    assert found["volo-d1"]["depth"] == [4, 14]


def test_a_pattern_finds_models_of_timm_that_can_grow(capsys: Capture) -> None:
    found = listed(capsys, "list", "models", "--filter", "vit_tiny_*")
    assert "vit_tiny_patch16_224" in found
    assert "vit_tiny_r_s16_p8_224" not in found  # its stem is a ResNet
    assert {"vit-xs", "vit-mu"} <= found.keys()  # built from it, with other shapes
    plain = timm.create_model("vit_tiny_patch16_224")
    total = sum(weight.numel() for weight in plain.parameters())
    assert found["vit_tiny_patch16_224"]["parameters"] == total


def test_a_model_with_a_short_name_is_listed_once(capsys: Capture) -> None:
    assert list(listed(capsys, "list", "models", "--filter", "deit_small_patch16_224")) == [
        "deit-s"
    ]
    assert list(listed(capsys, "list", "models", "--filter", "volo-m*")) == ["volo-mu"]


@pytest.mark.parametrize("name", ZOO)
def test_a_listed_model_is_what_timm_makes_of_its_name_and_overrides(
    name: str, capsys: Capture
) -> None:
    facts = listed(capsys, "list", "models", "--filter", name)[name]
    with torch.device("meta"):
        made = timm.create_model(
            facts["timm"], img_size=facts["img_size_px"], **facts["overrides"], num_classes=1000
        )
    assert sum(weight.numel() for weight in made.parameters()) == facts["parameters"]


def test_a_model_of_another_shape_than_its_timm_name_says_so(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["list", "models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    marked = {line.split()[0] for line in lines if " * " in line and not line.startswith("*")}
    assert marked == {spec.name for spec in ZOO.values() if spec.overrides}
    assert (
        "* vit-xs: timm's vit_tiny_patch16_224 with depth 6, width 96, 3 heads, patches of 4 px and images"
        " of 32 px"
    ) in lines
    assert any(line.startswith("local_NAME and volo_mu are no names of timm") for line in lines)
    assert main(["list", "models", "--filter", "deit-*"]) == 0
    assert "*" not in capsys.readouterr().out.replace("local_", "")


@pytest.mark.parametrize("pattern", ["nothing_*", "resnet50"])
def test_a_pattern_that_matches_nothing_that_grows_is_one_line(
    capsys: Capture, pattern: str
) -> None:
    assert main(["list", "models", "--filter", pattern]) == 2
    assert capsys.readouterr() == (
        "",
        f"autoprog: --filter: must match a model that can grow, but got {pattern!r};"
        " see autoprog list models\n",
    )


def test_the_table_of_models_fits_a_narrow_terminal(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", "models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("deit-s "))
    assert row.split() == ["deit-s", SPEC.timm, "12", "224", "22.1", "M", "4.6", "G"]
    assert max(map(len, lines[:-1])) <= 80
    assert "any timm VisionTransformer" in "".join(lines[-2:])


def test_the_shipped_spaces_are_listed_with_their_subnets(capsys: Capture) -> None:
    found = listed(capsys, "list", "spaces")
    assert list(found) == list(shipped_spaces())
    for name, facts in found.items():
        spec = ZOO[facts["model"] or "deit-s"]
        file, where = find_space(name, spec.name)
        space = file.space(spec, where)
        assert facts["subnets"] == len(space.above(space.smallest))
        if facts["model"]:
            assert tuple(facts["axes"]["img_size"]["values"]) == space.sizes


def test_the_table_of_spaces_names_fractions_as_such(capsys: Capture) -> None:
    assert main(["list", "spaces"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert rows["vit-mu"] == ["vit-mu", "vit-mu", "2", "3", "4", "8", "12", "16", "1", "9"]
    assert rows["digits"] == [
        "digits",
        "any",
        "50",
        "75",
        "100",
        "%",
        "50",
        "75",
        "100",
        "%",
        "1",
        "9",
    ]
