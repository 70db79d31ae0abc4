from __future__ import annotations

import pytest
import torch

from autoprog.train.step import fourier_crop


@pytest.mark.parametrize("size", [8, 20, 31, 32])
def test_a_constant_image_keeps_its_value(size: int) -> None:
    small = fourier_crop(torch.full((2, 3, 32, 32), 0.7), size)
    assert small.shape == (2, 3, size, size)
    assert torch.allclose(small, torch.full_like(small, 0.7), atol=1e-6)


@pytest.mark.parametrize(("full", "size"), [(32, 16), (32, 12), (48, 24)])
def test_low_waves_are_kept_and_high_ones_are_gone(full: int, size: int) -> None:
    def wave(cycles: int, side: int) -> torch.Tensor:
        row = torch.cos(2 * torch.pi * cycles * torch.arange(side) / side)
        return row.expand(1, 1, side, side)

    assert torch.allclose(fourier_crop(wave(3, full), size), wave(3, size), atol=1e-5)
    assert fourier_crop(wave(size // 2 + 2, full), size).abs().max() < 1e-5


def test_it_commutes_with_the_normalisation_of_channels() -> None:
    images = torch.rand(2, 3, 32, 32)
    mean, std = torch.rand(3, 1, 1), torch.rand(3, 1, 1) + 0.1
    before = fourier_crop((images - mean) / std, 16)
    assert torch.allclose(before, (fourier_crop(images, 16) - mean) / std, atol=1e-5)


def test_a_full_size_image_is_left_as_it_is() -> None:
    images = torch.rand(2, 3, 16, 16)
    assert fourier_crop(images, 16) is images
