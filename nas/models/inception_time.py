"""Convolutions over sequences of numbers: InceptionTime (Ismail Fawaz et al. 2020, "InceptionTime:
Finding AlexNet for Time Series Classification") and the ResNet of Wang et al. 2017, "Time Series
Classification from Scratch with Deep Neural Networks: A Strong Baseline"."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import (
    DropPath,
    GlobalPool,
    linear_rates,
    make_activation,
    make_head,
    make_masked_norm,
)
from nas.models.series import SeriesInput


@dataclass(frozen=True)
class ConvolutionsConfig:
    """``depth`` blocks of ``width`` filters, whose longest kernel has ``kernel`` steps."""

    width: int
    depth: int
    kernel: int
    norm: str = "batch"
    activation: str = "relu"
    drop_path: float = 0.0  # of the last block; rates grow linearly up to it


class _Conv(nn.Module):
    """A convolution of (B, C, T) that keeps T; an even kernel sees one step more ahead."""

    def __init__(self, width: int, out: int, kernel: int) -> None:
        super().__init__()
        self.padding = ((kernel - 1) // 2, kernel // 2)
        self.conv = nn.Conv1d(width, out, kernel, bias=False)
        # He et al. 2015, by the inputs.
        nn.init.normal_(self.conv.weight, std=math.sqrt(2 / (width * kernel)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, self.padding))
        return y


class _Norm(nn.Module):
    """A normalisation of (B, C, T) that leaves padding out, and zeroes it."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        self.norm = make_masked_norm(kind, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.norm(x.transpose(1, 2), mask) * mask.unsqueeze(2)
        return y.transpose(1, 2)


class _Shortcut(nn.Module):
    """The input of a residual branch, at its width, normalised as the branch is."""

    def __init__(self, width: int, out: int, norm: str, project: bool) -> None:
        super().__init__()
        self.conv = _Conv(width, out, 1) if project else nn.Identity()
        self.norm = _Norm(norm, out)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x), mask)
        return y


class _Module(nn.Module):
    """An inception module (sec. 3.1): a bottleneck, three convolutions of a half and a quarter of
    the longest kernel beside it, and a maximum of three steps; four times ``width`` come out."""

    def __init__(self, inputs: int, config: ConvolutionsConfig) -> None:
        super().__init__()
        width, kernel = config.width, config.kernel
        # One channel needs no bottleneck.
        self.bottleneck = _Conv(inputs, width, 1) if inputs > 1 else nn.Identity()
        seen = width if inputs > 1 else 1
        kernels = (kernel, max(1, kernel // 2), max(1, kernel // 4))
        self.branches = nn.ModuleList(_Conv(seen, width, k) for k in kernels)
        self.pooled = _Conv(inputs, width, 1)
        self.norm = _Norm(config.norm, 4 * width)
        self.activation = make_activation(config.activation)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, inputs, T) to (B, 4 * width, T)."""
        narrow = self.bottleneck(x)
        each = mask.unsqueeze(1)
        most = F.max_pool1d(x.masked_fill(~each, -torch.inf), 3, stride=1, padding=1)
        pooled = self.pooled(torch.where(each, most, 0.0))
        x = torch.cat([*(branch(narrow) for branch in self.branches), pooled], dim=1)
        y: Tensor = self.activation(self.norm(x, mask))
        return y


class _InceptionStage(nn.Module):
    """Up to three modules and a shortcut around them."""

    residual = True

    def __init__(self, inputs: int, count: int, config: ConvolutionsConfig, rate: float) -> None:
        super().__init__()
        width = 4 * config.width
        self.steps = nn.ModuleList(_Module(width if i else inputs, config) for i in range(count))
        self.shortcut = _Shortcut(inputs, width, config.norm, project=True)
        self.drop_path = DropPath(rate)
        self.activation = make_activation(config.activation)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        branch = x
        for module in self.steps:
            branch = module(branch, mask)
        y: Tensor = self.activation(self.shortcut(x, mask) + self.drop_path(branch))
        return y


class _ResidualBlock(nn.Module):
    """Three convolutions with a shortcut around them."""

    residual = True

    def __init__(self, inputs: int, width: int, config: ConvolutionsConfig, rate: float) -> None:
        super().__init__()
        kernel = config.kernel
        kernels = (kernel, max(1, round(5 * kernel / 8)), max(1, round(3 * kernel / 8)))
        self.convs = nn.ModuleList(
            _Conv(width if i else inputs, width, k) for i, k in enumerate(kernels)
        )
        self.norms = nn.ModuleList(_Norm(config.norm, width) for _ in kernels)
        self.shortcut = _Shortcut(inputs, width, config.norm, project=inputs != width)
        self.drop_path = DropPath(rate)
        self.activation = make_activation(config.activation)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, inputs, T) to (B, width, T)."""
        branch = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            branch = norm(conv(branch), mask)
            if i < 2:
                branch = self.activation(branch)
        y: Tensor = self.activation(self.shortcut(x, mask) + self.drop_path(branch))
        return y


class SeriesConvolutions(nn.Module):
    """``blocks`` over (B, channels, T) and its mask, then global pooling and one linear layer;
    ``width`` is that of the last block."""

    readout = ("head",)

    def __init__(
        self,
        input: SeriesInput,
        blocks: Iterable[nn.Module],
        width: int,
        outputs: int,
        pooling: str = "avg",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width = width
        self.input = input
        self.blocks = nn.ModuleList(blocks)
        self.pool = GlobalPool(pooling, width, dims=1)
        self.dropout = nn.Dropout(dropout)
        self.head = make_head(width, outputs)

    def features(self, series: Tensor, series_length: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (B, T, channels), padded, to (B, T, width) and which of them are real (B, T)."""
        x, mask = self.input(series, series_length)
        x = x.transpose(1, 2)
        for block in self.blocks:
            x = block(x, mask)
        return x.transpose(1, 2), mask

    def forward(self, series: Tensor, series_length: Tensor) -> Tensor:
        """Padded steps (B, T, channels) and lengths (B,) to logits (B, outputs)."""
        y: Tensor = self.head(self.dropout(self.pool(*self.features(series, series_length))))
        return y


def inception_time(
    input: SeriesInput, outputs: int, config: ConvolutionsConfig, pooling: str, dropout: float
) -> SeriesConvolutions:
    """One network of InceptionTime (the paper joins five): modules with a shortcut around every
    three; the paper has six of 32 filters and kernels of 40, 20 and 10."""
    width = 4 * config.width
    counts = [min(3, config.depth - done) for done in range(0, config.depth, 3)]
    rates = linear_rates(config.drop_path, len(counts))
    blocks = [
        _InceptionStage(width if i else input.channels, count, config, rate)
        for i, (count, rate) in enumerate(zip(counts, rates, strict=True))
    ]
    return SeriesConvolutions(input, blocks, width, outputs, pooling, dropout)


def series_resnet(
    input: SeriesInput, outputs: int, config: ConvolutionsConfig, pooling: str, dropout: float
) -> SeriesConvolutions:
    """Blocks of three convolutions with a shortcut (Wang et al. 2017, sec. II-C), the later ones
    twice as wide; the paper has three of 64, 128 and 128 filters and kernels of 8, 5 and 3."""
    widths = [config.width * (2 if i else 1) for i in range(config.depth)]
    rates = linear_rates(config.drop_path, config.depth)
    blocks = [
        _ResidualBlock(inputs, width, config, rate)
        for inputs, width, rate in zip([input.channels, *widths], widths, rates, strict=False)
    ]
    return SeriesConvolutions(input, blocks, widths[-1], outputs, pooling, dropout)
