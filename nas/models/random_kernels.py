"""Fixed random kernels over sequences of numbers and one trained layer, after MiniRocket: Dempster
et al. 2021, "MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series
Classification"."""

from __future__ import annotations

import math
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import full_precision, make_head
from nas.models.series import SeriesInput

# Nine weights of which three are 2 and six -1 (sec. 3.1.1): where the three are.
KERNELS = tuple(combinations(range(9), 3))
GOLDEN = (math.sqrt(5) + 1) / 2  # its multiples spread the quantiles evenly (sec. 3.1.3)
MOST_CHANNELS = 9  # of a kernel, as the paper's code for several channels has it
SHARP = 20.0  # slope of a threshold, in deviations of what a kernel gives


def spaced(length: int, count: int) -> list[int]:
    """``count`` dilations, exponentially spaced up to where a kernel is as long as a sequence of
    ``length`` steps (sec. 3.1.2); in short ones several are the same.

    >>> spaced(33, 3)
    [1, 2, 4]
    """
    top = math.log2(max((length - 1) / 8, 1))
    return [int(2 ** (top * i / max(count - 1, 1))) for i in range(count)]


class _Standardised(nn.Module):
    """Features (N, k) by the mean and the deviation of all that was seen in training. As these are
    of fixed kernels, they settle within the first epoch."""

    mean: Tensor
    square: Tensor
    seen: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.ones(width))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """(..., width), of which only what has a ``weight`` (...) of one is looked at."""
        if self.training:
            self._look(x.detach().float(), weight)
        deviation = (self.square - self.mean.square()).clamp(min=0).add(1e-4).sqrt()
        return (x - self.mean) / deviation

    def _look(self, x: Tensor, weight: Tensor | None) -> None:
        weight = torch.ones_like(x[..., 0]) if weight is None else weight
        x, weight = x.flatten(0, -2), weight.flatten().float().unsqueeze(1)
        self.seen += weight.sum()
        share = 1 / self.seen.clamp(min=1)
        left = 1 - weight.sum() * share
        self.mean.mul_(left).add_((weight * x).sum(0) * share)
        self.square.mul_(left).add_((weight * x.square()).sum(0) * share)


class RandomKernels(nn.Module):
    """Of the 84 kernels at several dilations, the fraction of the steps at which each is above
    each of its thresholds; then one linear layer, which alone is trained.

    The paper's thresholds are quantiles of what a kernel gives on a training sequence. Here they
    are those of a normal distribution with the mean and the deviation of what it gives on all, and
    a little soft, so that rounding moves no feature by a whole step. A kernel adds a random few of
    several channels up, always the same.

    Args:
        input: What steps become first.
        length: A usual one, in steps; no kernel is longer.
        outputs: Width of the last layer.
        dilations: How many, where the length leaves room for as many.
        thresholds: Of a kernel at a dilation.
        dropout: Of features.
    """

    readout = ("dropout", "head")

    patterns: Tensor

    def __init__(
        self,
        input: SeriesInput,
        length: int,
        outputs: int,
        dilations: int,
        thresholds: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input = input
        self.dilations = sorted(set(spaced(length, dilations)))
        count = len(KERNELS)
        patterns = torch.full((count, 1, 9), -1.0)
        for pattern, places in zip(patterns, KERNELS, strict=True):
            pattern[0, list(places)] = 2.0
        self.register_buffer("patterns", patterns)
        generator = torch.Generator().manual_seed(0)
        self.width = count * thresholds * len(self.dilations)
        place = torch.arange(1, 1 + self.width, device="cpu").double()
        at = torch.special.ndtri((place * GOLDEN % 1).clamp(0.005, 0.995)).float()
        for i, own in enumerate(at.view(-1, count, thresholds)):
            self.register_buffer(f"mix{i}", _mix(input.channels, generator))
            self.register_buffer(f"threshold{i}", own.clone())
        self.kernels = nn.ModuleList(_Standardised(count) for _ in self.dilations)
        self.fractions = _Standardised(self.width)
        self.dropout = nn.Dropout(dropout)
        self.head = make_head(self.width, outputs)

    def features(self, series: Tensor, series_length: Tensor) -> tuple[Tensor, None]:
        """Steps (B, T, channels), padded, to one token (B, 1, width) of length about 1, all of
        which is real."""
        x, mask = self.input(series, series_length)
        x, real = x.transpose(1, 2), mask.to(x.dtype)
        parts = []
        for i, dilation in enumerate(self.dilations):
            with full_precision(x.device.type):  # bfloat16 blurs what is near a threshold
                y = F.conv1d(
                    self.get_buffer(f"mix{i}") @ x,
                    self.patterns,
                    padding=4 * dilation,
                    dilation=dilation,
                    groups=len(KERNELS),
                )
            y = self.kernels[i](y.transpose(1, 2), mask).transpose(1, 2)
            for threshold in self.get_buffer(f"threshold{i}").unbind(1):
                above = ((y - threshold.unsqueeze(1)) * SHARP).sigmoid()
                parts.append((above * real.unsqueeze(1)).sum(2) / real.sum(1, keepdim=True))
        found: Tensor = self.fractions(torch.cat(parts, 1))
        return (found / math.sqrt(self.width)).unsqueeze(1), None

    def forward(self, series: Tensor, series_length: Tensor) -> Tensor:
        """Padded steps (B, T, channels) and lengths (B,) to logits (B, outputs)."""
        found, _ = self.features(series, series_length)
        y: Tensor = self.head(self.dropout(found.squeeze(1)))
        return y


def _mix(channels: int, generator: torch.Generator) -> Tensor:
    """(84, channels): one for those that a kernel adds up, few of them more often than many."""
    count = len(KERNELS)
    top = math.log2(min(channels, MOST_CHANNELS) + 1)
    few = 2 ** (top * torch.rand(count, 1, generator=generator, device="cpu"))
    order = torch.rand(count, channels, generator=generator, device="cpu").argsort(1).argsort(1)
    return (order < few.floor().clamp(max=channels)).float()
