"""For networks over padded sequences (B, T, C): convolutions that do not see the padding, and
positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoids(length: int, dim: int, like: Tensor) -> Tensor:
    """Position embeddings (length, dim), sines then cosines, as Whisper arranges those of
    Vaswani et al. 2017, sec. 3.5. ``dim`` is even."""
    half = dim // 2
    step = math.log(10_000) / max(half - 1, 1)
    rates = torch.exp(-step * torch.arange(half, device=like.device, dtype=torch.float32))
    angles = torch.arange(length, device=like.device, dtype=torch.float32).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


class Convolution(nn.Module):
    """A convolution over time of (B, T, C) in which everything outside a sample is zero.

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
        """(B, T, width) and its mask to (B, ceil(T / stride), out) and the mask of that."""
        x = self.conv((x * mask.unsqueeze(2)).transpose(1, 2)).transpose(1, 2)
        # Position t of the output is centred on t * stride of the input.
        return x, mask[:, :: self.stride]
