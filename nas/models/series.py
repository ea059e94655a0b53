"""Sequences of numbers (B, T, channels) as inputs of networks, and the sequence models over them.

A batch is padded with zeros; nothing here lets padding reach a real step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import TransformerConfig, real
from nas.models.encoder import SinusoidalPosition, Transformer
from nas.models.lstm import LSTM
from nas.models.mamba import Mamba
from nas.models.sequence import Convolution
from nas.models.spectrogram import standardise

SCALES = ("none", "sequence", "sequence+level")
AUGMENTATIONS = ("none", "jitter", "crop", "jitter+crop")
JITTER, STRETCH = 0.05, 0.1  # deviations: of the noise, and of each channel's factor
SHORTEST_CROP = 0.8  # of a sequence
BLANK = 0.15  # of a sequence, the longest stretch


@dataclass(frozen=True)
class SeriesConfig:
    """How steps enter a network.

    ``mean`` and ``std`` are those of all channels; the last ``added`` of them are marks and time
    steps, which are not standardised by sequence, nor jittered. ``scale``: "none"; "sequence"
    standardises each channel of each sequence; "sequence+level" gives its mean and deviation as
    channels too. ``augment`` and ``masks``: see ``SeriesInput``.
    """

    mean: Sequence[float]
    std: Sequence[float]
    added: int = 0
    scale: str = "none"
    augment: str = "none"
    masks: int = 0


class SeriesInput(nn.Module):
    """Raw steps (B, T, channels) and lengths (B,) to standardised ones, zero where padded.

    In training only, with "jitter" values get noise and each channel a random factor (Um et al.
    2017, sec. 3), with "crop" a random stretch of each sequence is stretched to its length (Le
    Guennec et al. 2016, sec. 2), and ``masks`` short stretches are blanked (Park et al. 2019).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SeriesConfig) -> None:
        super().__init__()
        if config.scale not in SCALES:
            raise ValueError(f"unknown scale {config.scale!r}; known are {', '.join(SCALES)}")
        if config.augment not in AUGMENTATIONS:
            known = ", ".join(AUGMENTATIONS)
            raise ValueError(f"unknown augmentation {config.augment!r}; known are {known}")
        self.config = config
        self.values = len(config.mean) - config.added
        self.channels = len(config.mean)
        if config.scale == "sequence+level":
            self.channels += 2 * self.values
        self.register_buffer("mean", torch.tensor(config.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(config.std, dtype=torch.float32))

    def forward(self, series: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, channels given) and (B,) to (B, T, ``channels``) and the mask (B, T)."""
        mask = real(length, series.shape[1])
        each = mask.unsqueeze(2)
        x = (series - self.mean) / self.std
        if self.training and "crop" in self.config.augment:
            x = _cropped(x, length)
        x = torch.where(each, x, 0.0)
        values, added = x[..., : self.values], x[..., self.values :]
        parts = [values]
        if self.config.scale != "none":
            parts = [standardise(values, each, (1,), epsilon=1e-5)]
        if self.training and "jitter" in self.config.augment:
            factor = 1 + STRETCH * torch.randn_like(parts[0][:, :1])
            parts = [(parts[0] * factor + JITTER * torch.randn_like(parts[0])) * each]
        if self.config.scale == "sequence+level":
            count = each.sum(1, keepdim=True)
            level = values.sum(1, keepdim=True) / count
            spread = (((values - level) * each).square().sum(1, keepdim=True) / count + 1e-5).sqrt()
            # Heavy tails are drawn in: one sequence may be a thousand times another.
            parts += [torch.asinh(level) * each, torch.asinh(spread) * each]
        x = torch.cat([*parts, added], dim=2)
        if self.training and self.config.masks:
            x = x * _kept(length, x.shape[1], self.config.masks).unsqueeze(2)
        return x, mask


def _cropped(x: Tensor, length: Tensor) -> Tensor:
    """A stretch of ``SHORTEST_CROP`` to all of each sequence, stretched to its length."""
    last = (length - 1).unsqueeze(1).to(x.dtype)
    share = 1 - (1 - SHORTEST_CROP) * torch.rand_like(last)
    start = (1 - share) * torch.rand_like(last) * last
    time = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    position = (start + time * share).minimum(last)
    before = position.floor().long()
    after = (before + 1).minimum((length - 1).unsqueeze(1))
    index = (-1, -1, x.shape[2])
    first = x.gather(1, before.unsqueeze(2).expand(*index))
    second = x.gather(1, after.unsqueeze(2).expand(*index))
    return torch.lerp(first, second, (position - before).unsqueeze(2))


def _kept(length: Tensor, size: int, masks: int) -> Tensor:
    """(B, size): false in ``masks`` stretches of up to ``BLANK`` of each length."""
    shape = (len(length), masks)
    width = torch.rand(shape, device=length.device) * (BLANK * length).unsqueeze(1)
    start = torch.rand(shape, device=length.device) * (length.unsqueeze(1) - width)
    place = torch.arange(size, device=length.device)
    first, last = start.round().unsqueeze(2), (start + width).round().unsqueeze(2)
    return ((place < first) | (place >= last)).all(1)


class Patches(nn.Module):
    """Steps to tokens (B, ceil(T / patch), dim): each patch through one linear layer ("linear"), or
    two convolutions, of which the second makes a step of ``patch`` ("conv")."""

    def __init__(self, input: SeriesInput, dim: int, patch: int, stem: str = "linear") -> None:
        super().__init__()
        if stem not in ("linear", "conv"):
            raise ValueError(f"unknown stem {stem!r}; known are linear, conv")
        self.input, self.patch, self.stem = input, patch, stem
        if stem == "linear":
            self.projection = nn.Linear(patch * input.channels, dim)
        else:
            self.near = Convolution(input.channels, dim, 5)
            self.far = Convolution(dim, dim, max(3, patch | 1), stride=patch)
        self.start()

    def start(self) -> None:
        """Initial weights, for tokens as large as their steps are."""
        if self.stem == "linear":
            nn.init.xavier_uniform_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)

    def forward(self, series: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, channels) and (B,) to (B, tokens, dim) and how many tokens are real (B,)."""
        x, mask = self.input(series, length)
        tokens = (length + self.patch - 1) // self.patch
        if self.stem == "conv":
            x, mask = self.near(x, mask)
            x, _ = self.far(F.gelu(x), mask)
            return x, tokens
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.patch))
        x = self.projection(x.reshape(len(x), -1, self.patch * x.shape[2]))
        return x, tokens


class SeriesNetwork(Protocol):
    """What ``SeriesLSTM`` and the others are."""

    width: int
    head: nn.Linear

    def features(self, series: Tensor, series_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, tokens, width) and which of them are real."""

    def __call__(self, series: Tensor, series_length: Tensor) -> Tensor:
        """Logits (B, outputs)."""


class Forecast(nn.Module):
    """A network over windows of one length, with a linear forecast beside it (Zeng et al. 2023,
    sec. 4), in units of each window's own level and spread (Kim et al. 2022, RevIN, sec. 3.1).

    ``places`` are the step and the channel that each output begins as: a naive forecast, as the
    network's part begins at zero. ``scales`` are the factor and the offset that take a channel's
    units, standardised by ``mean`` and ``std``, to those of each output. Without ``linear`` the
    naive forecast stays as it begins. The width of ``features`` is that of the network.
    """

    mean: Tensor
    std: Tensor
    channel: Tensor
    step: Tensor
    factor: Tensor
    offset: Tensor

    def __init__(
        self,
        network: SeriesNetwork,
        config: SeriesConfig,
        window: int,
        places: Sequence[tuple[int, int]],
        scales: Sequence[tuple[float, float]],
        linear: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        self.width = network.width
        channels = len(config.mean)
        for name, values in (("mean", config.mean), ("std", config.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        for name, whole in zip(("step", "channel"), zip(*places, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(whole))
        for name, values in zip(("factor", "offset"), zip(*scales, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.linear = nn.Linear(window * channels, len(places)) if linear else None
        for layer in (self.linear, network.head):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def features(self, series: Tensor, series_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Those of the network."""
        return self.network.features(series, series_length)

    def forward(self, series: Tensor, series_length: Tensor) -> Tensor:
        """Windows (B, window, channels) and lengths (B,) to (B, outputs)."""
        steps = (series - self.mean) / self.std
        level = steps.mean(1, keepdim=True)
        spread = ((steps - level).square().mean(1, keepdim=True) + 1e-5).sqrt()
        steps = (steps - level) / spread
        ahead = steps[:, self.step, self.channel] + self.network(series, series_length)
        if self.linear is not None:
            ahead = ahead + self.linear(steps.flatten(1))
        ahead = ahead * spread[:, 0, self.channel] + level[:, 0, self.channel]
        return ahead * self.factor + self.offset


class SeriesTransformer(Transformer):
    """A ``Transformer`` over patches of time (Nie et al. 2023, PatchTST, sec. 3.1); positions are
    "sinusoidal", "rotary" or "none", so that sequences may be longer than any in training."""

    def __init__(
        self,
        embedding: Patches,
        outputs: int,
        layers: TransformerConfig,
        position: str = "sinusoidal",
        pooling: str = "avg",
    ) -> None:
        if position == "learned":
            raise ValueError("learned positions end where the training data do; take another")
        super().__init__(embedding, 0, outputs, layers, position, pooling)
        embedding.start()  # whose weights are not those of a Transformer
        if position == "sinusoidal":
            self.position = SinusoidalPosition(layers.dim, scale=0.5)

    def features(self, series: Tensor, series_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Steps (B, T, channels), padded, as ``read`` returns them."""
        return self.read(*self.embedding(series, series_length))

    def forward(self, series: Tensor, series_length: Tensor) -> Tensor:
        """Padded steps (B, T, channels) and lengths (B,) to logits (B, outputs)."""
        return self.answer(*self.features(series, series_length))


class SeriesLSTM(LSTM):
    """An ``LSTM`` over patches of time."""

    embedding: Patches

    def features(self, series: Tensor, series_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Steps (B, T, channels), padded, as ``read`` returns them."""
        return self.read(*self.embedding(series, series_length))

    def forward(self, series: Tensor, series_length: Tensor) -> Tensor:
        """Padded steps (B, T, channels) and lengths (B,) to logits (B, outputs)."""
        return self.answer(*self.features(series, series_length))


class SeriesMamba(Mamba):
    """A ``Mamba`` over patches of time."""

    embedding: Patches

    def features(self, series: Tensor, series_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Steps (B, T, channels), padded, as ``read`` returns them."""
        return self.read(*self.embedding(series, series_length))

    def forward(self, series: Tensor, series_length: Tensor) -> Tensor:
        """Padded steps (B, T, channels) and lengths (B,) to logits (B, outputs)."""
        return self.answer(*self.features(series, series_length))
