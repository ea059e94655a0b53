"""A one-dimensional CNN over log-mel frames before a Transformer: Gulati et al. 2020 (Conformer,
sec. 2) have such a front; here the two are separate, as in Dong et al. 2018, "Speech-Transformer",
sec. 3.2."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from nas.models.blocks import (
    DropPath,
    GlobalPool,
    TransformerConfig,
    TransformerStack,
    init_transformer,
    linear_rates,
    make_activation,
    make_head,
    make_masked_norm,
    make_norm,
)
from nas.models.sequence import Convolution, sinusoids
from nas.models.spectrogram import LogMel, SpecAugment


class _ConvBlock(nn.Module):
    """Convolution over time, normalisation, activation; with a shortcut around it where
    ``residual``, which needs equal widths and a stride of 1."""

    def __init__(
        self,
        width: int,
        out: int,
        kernel: int,
        stride: int,
        norm: str,
        activation: str,
        residual: bool,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if residual and (width != out or stride != 1):
            raise ValueError(
                f"residual needs equal widths and stride 1, but got {width}, {out}, {stride}"
            )
        self.conv = Convolution(width, out, kernel, stride)
        self.norm = make_masked_norm(norm, out)
        self.activation = make_activation(activation)
        self.drop_path = DropPath(drop_path)
        self.residual = residual

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        y, mask = self.conv(x, mask)
        y = self.activation(self.norm(y, mask))
        return (x + self.drop_path(y) if self.residual else y), mask


@dataclass(frozen=True)
class ConvolutionConfig:
    """``depth`` convolutions over time, each ``width`` wide.

    The first ones halve the time until one token stands for ``reduction`` frames, a power of
    two; those after have shortcuts where ``residual``.
    """

    depth: int
    width: int
    kernel: int
    reduction: int
    residual: bool = True
    norm: str = "batch"
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.reduction != 1 << self.halvings or self.halvings > self.depth:
            raise ValueError(
                f"reduction must be a power of two of at most 2^depth, but got {self.reduction}"
                f" with depth={self.depth}"
            )

    @property
    def halvings(self) -> int:
        """Convolutions of stride 2."""
        return self.reduction.bit_length() - 1


class CNNTransformer(nn.Module):
    """Convolutions over log-mel frames, then Transformer layers.

    ``input`` turns waves into frames. ``spec_augment``: see ``SpecAugment``.
    """

    def __init__(
        self,
        input: LogMel,
        outputs: int,
        convolutions: ConvolutionConfig,
        layers: TransformerConfig,
        pooling: str = "avg",
        spec_augment: int = 0,
    ) -> None:
        super().__init__()
        self.width = layers.dim
        self.input = input
        self.spec_augment = SpecAugment(spec_augment)
        front, halvings = convolutions, convolutions.halvings
        rates = linear_rates(layers.drop_path, front.depth + layers.depth)
        self.convolutions = nn.ModuleList(
            _ConvBlock(
                front.width if i else input.n_mels,
                front.width,
                front.kernel,
                stride=2 if i < halvings else 1,
                norm=front.norm,
                activation=front.activation,
                residual=front.residual and i >= max(halvings, 1),
                drop_path=rates[i],
            )
            for i in range(front.depth)
        )
        self.projection = nn.Linear(front.width, self.width)
        self.embedding_dropout = nn.Dropout(layers.dropout)
        self.blocks = TransformerStack(layers, rates[front.depth :])
        self.norm = make_norm(layers.norm, self.width, dims=1)
        self.pool = GlobalPool(pooling, self.width, dims=1)
        self.dropout = nn.Dropout(layers.dropout)
        init_transformer(self)
        self.head = make_head(self.width, outputs)

    def features(self, wave: Tensor, wave_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (B, samples) to tokens (B, T, width) and which of them are real (B, T)."""
        x, mask = self.input(wave, wave_length)
        x = self.spec_augment(x, mask)
        for block in self.convolutions:
            x, mask = block(x, mask)
        x = self.projection(x)
        x = self.embedding_dropout(x + sinusoids(x.shape[1], self.width, x))
        return self.norm(self.blocks(x, mask=mask)), mask

    def forward(self, wave: Tensor, wave_length: Tensor) -> Tensor:
        """Waves (B, samples) of the given lengths (B,) to logits (B, outputs)."""
        x, mask = self.features(wave, wave_length)
        y: Tensor = self.head(self.dropout(self.pool(x, mask)))
        return y
