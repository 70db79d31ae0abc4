"""Low-frequency cropping: a smaller image that holds the low frequencies of a larger one."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["fourier_crop"]


def fourier_crop(images: Tensor, img_size: int) -> Tensor:
    """Return images (B, C, H, W) cut to the lowest `img_size` frequencies: (B, C, img_size, img_size).

    EfficientTrain++ (arXiv 2405.08768): the centred block of the spectrum, transformed back and scaled by
    (img_size / H) (img_size / W), so that a constant image keeps its value. Values may leave the range of the
    input (ringing). It commutes with the normalisation of channels. Computed in float32.
    """
    height, width = images.shape[-2:]
    if (height, width) == (img_size, img_size):
        return images
    spectrum = torch.fft.fftshift(torch.fft.fft2(images.float()), dim=(-2, -1))
    top, left = (height // 2 - img_size // 2), (width // 2 - img_size // 2)
    block = spectrum[..., top : top + img_size, left : left + img_size]
    small = torch.fft.ifft2(torch.fft.ifftshift(block, dim=(-2, -1))).real
    return (small * (img_size / height) * (img_size / width)).to(images.dtype)
