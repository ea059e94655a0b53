"""What networks over padded sequences (B, T, C) share: convolutions and normalisation that
never see the filling, and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nas.models.blocks import make_norm


def sinusoids(length: int, dim: int, like: Tensor) -> Tensor:
    """Position embeddings (length, dim), sines then cosines, as Whisper arranges those of
    Vaswani et al. 2017, sec. 3.5. ``dim`` is even."""
    half = dim // 2
    step = math.log(10_000) / max(half - 1, 1)
    rates = torch.exp(-step * torch.arange(half, device=like.device, dtype=torch.float32))
    angles = torch.arange(length, device=like.device, dtype=torch.float32).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


class Convolution(nn.Module):
    """A convolution over time of (B, T, C) that is zero around each sample, filling and all.

    An odd ``kernel`` and ``stride`` leave ``ceil(n / stride)`` positions of ``n``. The mask
    (B, T) that comes back is that of the output.
    """

    def __init__(self, width: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, but got {kernel}")
        self.stride = stride
        self.conv = nn.Conv1d(width, out, kernel, stride=stride, padding=kernel // 2)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv((x * mask.unsqueeze(2)).transpose(1, 2)).transpose(1, 2)
        # Position t of the output is centred on t * stride of the input.
        return x, mask[:, :: self.stride]


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, T, C) by the statistics of what ``mask`` (B, T) leaves."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, variance = self.running_mean, self.running_var
        if self.training:
            weight = mask.unsqueeze(2).float()
            count = weight.sum()
            mean = (x * weight).sum((0, 1)) / count
            variance = ((x - mean).square() * weight).sum((0, 1)) / count
            with torch.no_grad():
                share = self.momentum or 0.1
                unbiased = variance * count / (count - 1).clamp(min=1)
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(unbiased, share)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return x * scale + (self.bias - mean * scale)


class _Positionwise(nn.Module):
    """A normalisation that sees one position at a time and needs no mask."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y


def make_masked_norm(kind: str, width: int) -> nn.Module:
    """A normalisation of (B, T, width) that is called with the mask (B, T)."""
    if kind == "batch":
        return MaskedBatchNorm(width)
    return _Positionwise(make_norm(kind, width, dims=1))
