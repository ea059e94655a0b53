"""Wav2Vec 2.0's encoder: Baevski et al. 2020, "wav2vec 2.0: A Framework for Self-Supervised
Learning of Speech Representations", sec. 2 and 4.2."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import (
    GlobalPool,
    TransformerConfig,
    TransformerStack,
    init_transformer,
    make_activation,
    make_head,
    make_norm,
    real,
)
from nas.models.spectrogram import FULL_SCALE, SpecAugment, standardise


class _ConvLayer(nn.Module):
    """Convolution, normalisation of each position's channels, activation, on (B, C, T)."""

    def __init__(
        self, width: int, out: int, kernel: int, stride: int, norm: str, activation: str
    ) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, out, kernel, stride=stride)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one
        self.norm = make_norm(norm, out, dims=1)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.activation(x)
        return y


class _ConvPositions(nn.Module):
    """Relative positions by a grouped convolution over the tokens (sec. 2, "Contextualized
    representations"), without the paper's weight normalisation, which is no part of the
    function."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(self.conv.weight, std=math.sqrt(4 / (kernel * dim)))
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x * mask.unsqueeze(2)
        positions = self.conv(x.transpose(1, 2)).transpose(1, 2)
        # An even kernel gives one position too many.
        return x + F.gelu(positions[:, : x.shape[1]])


class Wav2Vec(nn.Module):
    """Strided convolutions on the raw wave, then a Transformer with convolutional positions.

    ``kernels`` and ``strides`` are those of the convolutions, each ``conv_width`` wide, whose
    norm and activation are those of ``layers``; the paper has (10, 3, 3, 3, 3, 2, 2) and
    (5, 2, 2, 2, 2, 2, 2) at 16 kHz. A wave of ``n`` samples has
    ``ceil(n / product of the strides)`` tokens: silence is put behind it, so that the shortest
    one has a token. Waves are standardised sample by sample. ``spec_augment``: see
    ``SpecAugment``.
    """

    def __init__(
        self,
        outputs: int,
        kernels: Sequence[int],
        strides: Sequence[int],
        conv_width: int,
        layers: TransformerConfig,
        position_kernel: int,
        position_groups: int = 16,
        pooling: str = "avg",
        spec_augment: int = 0,
    ) -> None:
        super().__init__()
        dim, norm, activation = layers.dim, layers.norm, layers.activation
        self.width = dim
        self.hop = math.prod(strides)
        seen = 1  # samples that one token sees
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            seen = (seen - 1) * stride + kernel
        self.silence = max(0, seen - self.hop)
        self.convolutions = nn.Sequential(
            *(
                _ConvLayer(conv_width if i else 1, conv_width, kernel, stride, norm, activation)
                for i, (kernel, stride) in enumerate(zip(kernels, strides, strict=True))
            )
        )
        self.projection_norm = make_norm(norm, conv_width, dims=1)
        self.projection = nn.Linear(conv_width, dim)
        self.spec_augment = SpecAugment(spec_augment)
        self.positions = _ConvPositions(dim, position_kernel, math.gcd(position_groups, dim))
        self.embedding_dropout = nn.Dropout(layers.dropout)
        self.blocks = TransformerStack(layers)
        self.norm = make_norm(norm, dim, dims=1)
        self.pool = GlobalPool(pooling, dim, dims=1)
        self.dropout = nn.Dropout(layers.dropout)
        init_transformer(self)
        self.head = make_head(dim, outputs)

    def features(self, wave: Tensor, wave_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (B, samples) to tokens (B, T, width) and which of them are real (B, T)."""
        x = wave.to(self.projection.weight.dtype) / FULL_SCALE
        x = standardise(x, real(wave_length, wave.shape[1]), (1,), epsilon=1e-7)
        # Up to the end of the last token: a real one then sees the sample and zeros alone.
        rest = -wave.shape[1] % self.hop
        x = F.pad(x, (0, rest + self.silence))
        x = self.convolutions(x.unsqueeze(1)).transpose(1, 2)
        mask = real((wave_length + self.hop - 1) // self.hop, x.shape[1])
        x = self.spec_augment(self.projection(self.projection_norm(x)), mask)
        x = self.embedding_dropout(self.positions(x, mask))
        return self.norm(self.blocks(x, mask=mask)), mask

    def forward(self, wave: Tensor, wave_length: Tensor) -> Tensor:
        """Waves (B, samples) of the given lengths (B,) to logits (B, outputs)."""
        x, mask = self.features(wave, wave_length)
        y: Tensor = self.head(self.dropout(self.pool(x, mask)))
        return y
