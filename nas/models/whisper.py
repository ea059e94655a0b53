"""The encoder of Whisper: Radford et al. 2022, "Robust Speech Recognition via Large-Scale
Weak Supervision", sec. 2.2 and figure 1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import (
    GlobalPool,
    TransformerConfig,
    TransformerStack,
    init_transformer,
    make_head,
    make_norm,
)
from nas.models.sequence import Convolution, sinusoids
from nas.models.spectrogram import LogMel, SpecAugment


class Whisper(nn.Module):
    """Two convolutions over log-mel frames, the second of stride 2, sinusoidal positions and
    pre-norm Transformer blocks.

    ``input`` turns waves into frames. The convolutions have kernels of 3 and are followed by
    GELU, as in the paper. ``spec_augment``: see ``SpecAugment``.
    """

    def __init__(
        self,
        input: LogMel,
        outputs: int,
        layers: TransformerConfig,
        pooling: str = "avg",
        spec_augment: int = 0,
    ) -> None:
        super().__init__()
        dim = layers.dim
        self.width = dim
        self.input = input
        self.spec_augment = SpecAugment(spec_augment)
        self.conv1 = Convolution(input.n_mels, dim, kernel=3)
        self.conv2 = Convolution(dim, dim, kernel=3, stride=2)
        self.embedding_dropout = nn.Dropout(layers.dropout)
        self.blocks = TransformerStack(layers)
        self.norm = make_norm(layers.norm, dim, dims=1)
        self.pool = GlobalPool(pooling, dim, dims=1)
        self.dropout = nn.Dropout(layers.dropout)
        init_transformer(self)
        self.head = make_head(dim, outputs)

    def features(self, wave: Tensor, wave_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (B, samples) to tokens (B, T, width) and which of them are real (B, T)."""
        x, mask = self.input(wave, wave_length)
        return self.encode(self.spec_augment(x, mask), mask)

    def encode(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, F, n_mels) to tokens."""
        x, mask = self.conv1(x, mask)
        x, mask = self.conv2(F.gelu(x), mask)
        x = F.gelu(x)
        x = self.embedding_dropout(x + sinusoids(x.shape[1], self.width, x))
        return self.norm(self.blocks(x, mask=mask)), mask

    def forward(self, wave: Tensor, wave_length: Tensor) -> Tensor:
        """Waves (B, samples) of the given lengths (B,) to logits (B, outputs)."""
        x, mask = self.features(wave, wave_length)
        y: Tensor = self.head(self.dropout(self.pool(x, mask)))
        return y
