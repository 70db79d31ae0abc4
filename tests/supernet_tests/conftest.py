from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from supernet.config import ModelSpec
from supernet.elastic import ElasticViT, create_elastic, describe


def shake(model: ElasticViT, seed: int) -> ElasticViT:
    """Give every tensor its own values, so that no two blocks, EMAs or layers look alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@dataclass
class Family:
    """An online network of eight slots, its EMAs from fast to slow, and images of its full size."""

    model: ElasticViT
    emas: list[ElasticViT]
    images: Tensor
    labels: Tensor


@pytest.fixture(scope="session")
def spec_of_eight() -> ModelSpec:
    return describe(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=8, num_heads=2
    )


@pytest.fixture(scope="session")
def untouched_family(spec_of_eight: ModelSpec) -> Family:
    torch.manual_seed(0)
    model = create_elastic(spec_of_eight, num_classes=5)
    emas = [shake(copy.deepcopy(model), seed) for seed in (1, 2)]
    images = torch.randn(6, 3, 16, 16)
    return Family(shake(model, 3), emas, images, torch.arange(6) % 5)


@pytest.fixture
def family(untouched_family: Family) -> Family:
    return copy.deepcopy(untouched_family)


@pytest.fixture
def build() -> Callable[[ModelSpec, int], ElasticViT]:
    def build_shaken(spec: ModelSpec, num_classes: int) -> ElasticViT:
        torch.manual_seed(0)
        return shake(create_elastic(spec, num_classes), 3)

    return build_shaken
