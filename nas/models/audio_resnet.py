"""A ResNet over log-mel frames as a picture of time and pitch: Hershey et al. 2017, "CNN
Architectures for Large-Scale Audio Classification"; Kong et al. 2020, "PANNs"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas.models.blocks import (
    DropPath,
    GlobalPool,
    groups,
    init_he,
    linear_rates,
    make_activation,
    make_head,
    make_masked_norm,
)
from nas.models.spectrogram import LogMel, SpecAugment, standardise


class _GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) of each sample's real positions together, as those of a
    map are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.groups = groups(width)
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Positions (B, P, C) and which are real (B, P) to (B, P, C)."""
        parts = x.view(*x.shape[:2], self.groups, -1)
        y = standardise(parts, mask[:, :, None, None], (1, 3), epsilon=1e-5).flatten(2)
        return y * self.weight + self.bias


class _Unit(nn.Module):
    """A convolution over maps (B, C, T, bands) and its normalisation, neither of which sees what
    lies behind the end of a sample."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv = nn.Conv2d(width, out, kernel, stride, kernel // 2, bias=bias)
        self.norm = _GroupNorm(out) if norm == "group" else make_masked_norm(norm, out)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x``, zero where padded, and the mask (B, T) of the output; what is padded is not zero
        there."""
        y = self.conv(x).permute(0, 2, 3, 1)
        places = mask.unsqueeze(2).expand(y.shape[:3]).flatten(1)
        z: Tensor = self.norm(y.flatten(1, 2), places).view_as(y).permute(0, 3, 1, 2)
        return z


class _Block(nn.Module):
    """Two convolutions and a shortcut around them; the first has the ``stride``."""

    def __init__(self, width: int, stage: AudioStage, stride: int, drop_path: float) -> None:
        super().__init__()
        out, kernel, norm = stage.width, stage.kernel, stage.norm
        self.stride = stride
        self.first = _Unit(width, out, kernel, stride, norm)
        self.second = _Unit(out, out, kernel, 1, norm)
        fits = stride == 1 and width == out
        self.shortcut = None if fits else _Unit(width, out, 1, stride, norm)
        self.drop_path = DropPath(drop_path)
        self.activation = make_activation(stage.activation)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        # Position t of the output is centred on t * stride of the input.
        mask = mask[:, :: self.stride]
        there = mask[:, None, :, None].to(x.dtype)
        y = self.second(self.activation(self.first(x, mask)) * there, mask)
        around = x if self.shortcut is None else self.shortcut(x, mask)
        return self.activation(self.drop_path(y) + around) * there, mask


@dataclass(frozen=True)
class AudioStage:
    """``depth`` blocks, each ``width`` wide; the first halves time and bands where ``stride`` is
    2."""

    depth: int
    width: int
    stride: int
    kernel: int = 3
    norm: str = "batch"
    activation: str = "relu"


class AudioResNet(nn.Module):
    """A stem and stages of residual blocks over log-mel frames; bands are averaged at the end, and
    time is pooled.

    ``input`` turns waves into frames. The stem is as wide as the first stage, and halves time and
    bands where ``stem_stride`` is 2. ``spec_augment``: see ``SpecAugment``.
    """

    def __init__(
        self,
        input: LogMel,
        outputs: int,
        stages: Sequence[AudioStage],
        stem_stride: int = 1,
        pooling: str = "avg",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        spec_augment: int = 0,
    ) -> None:
        super().__init__()
        self.input = input
        self.spec_augment = SpecAugment(spec_augment)
        first, self.stem_stride = stages[0], stem_stride
        self.stem = _Unit(1, first.width, 3, stem_stride, first.norm)
        self.activation = make_activation(first.activation)
        rates = iter(linear_rates(drop_path, sum(stage.depth for stage in stages)))
        self.blocks, width = nn.ModuleList(), first.width
        for stage in stages:
            for i in range(stage.depth):
                stride = 1 if i else stage.stride
                self.blocks.append(_Block(width, stage, stride, next(rates)))
                width = stage.width
        init_he(self)
        self.width = width
        self.pool = GlobalPool(pooling, width, dims=1)
        self.dropout = nn.Dropout(dropout)
        self.head = make_head(width, outputs)

    def features(self, wave: Tensor, wave_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (B, samples) to tokens (B, T, width) and which of them are real (B, T)."""
        frames, mask = self.input(wave, wave_length)
        x = self.spec_augment(frames, mask).unsqueeze(1)
        mask = mask[:, :: self.stem_stride]
        x = self.activation(self.stem(x, mask)) * mask[:, None, :, None].to(x.dtype)
        for block in self.blocks:
            x, mask = block(x, mask)
        return x.mean(3).transpose(1, 2), mask

    def forward(self, wave: Tensor, wave_length: Tensor) -> Tensor:
        """Waves (B, samples) of the given lengths (B,) to logits (B, outputs)."""
        x, mask = self.features(wave, wave_length)
        y: Tensor = self.head(self.dropout(self.pool(x, mask)))
        return y
