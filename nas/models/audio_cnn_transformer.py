"""A one-dimensional CNN over log-mel frames before a Transformer: Gulati et al. 2020 (Conformer,
sec. 2) have such a front; here the two are separate, as in Dong et al. 2018, "Speech-Transformer",
sec. 3.2."""

from __future__ import annotations

from torch import Tensor, nn

from nas.models.blocks import (
    DropPath,
    GlobalPool,
    TransformerBlock,
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


class CNNTransformer(nn.Module):
    """``conv_depth`` convolutions over log-mel frames, then ``depth`` Transformer blocks.

    Of the convolutions the first ones halve the time until one token stands for
    ``reduction`` frames; those after have shortcuts where ``residual``. ``conv_norm`` and
    ``conv_activation`` are the convolutions', ``norm`` and ``activation`` the Transformer's.
    """

    def __init__(
        self,
        input: LogMel,
        n_mels: int,
        outputs: int,
        conv_depth: int,
        conv_width: int,
        kernel: int,
        reduction: int,
        dim: int,
        depth: int,
        heads: int,
        residual: bool = True,
        conv_norm: str = "batch",
        conv_activation: str = "relu",
        mlp_ratio: float = 2.0,
        norm: str = "layer",
        activation: str = "gelu",
        pooling: str = "avg",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        spec_augment: int = 0,
    ) -> None:
        super().__init__()
        halvings = reduction.bit_length() - 1
        if reduction != 1 << halvings or halvings > conv_depth:
            raise ValueError(
                f"reduction must be a power of two of at most 2^conv_depth, but got {reduction}"
                f" with conv_depth={conv_depth}"
            )
        self.width = dim
        self.input = input
        self.spec_augment = SpecAugment(spec_augment)
        rates = linear_rates(drop_path, conv_depth + depth)
        self.convolutions = nn.ModuleList(
            _ConvBlock(
                conv_width if i else n_mels,
                conv_width,
                kernel,
                stride=2 if i < halvings else 1,
                norm=conv_norm,
                activation=conv_activation,
                residual=residual and i >= max(halvings, 1),
                drop_path=rates[i],
            )
            for i in range(conv_depth)
        )
        self.projection = nn.Linear(conv_width, dim)
        self.embedding_dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim, heads, mlp_ratio, norm, activation, dropout, attention_dropout, rate
            )
            for rate in rates[conv_depth:]
        )
        self.norm = make_norm(norm, dim, dims=1)
        self.pool = GlobalPool(pooling, dim, dims=1)
        self.dropout = nn.Dropout(dropout)
        init_transformer(self)
        # Tokens as large as the positions that are added to them.
        nn.init.xavier_uniform_(self.projection.weight)
        self.head = make_head(dim, outputs)

    def features(self, wave: Tensor, wave_length: Tensor) -> tuple[Tensor, Tensor]:
        """Waves (B, samples) to tokens (B, T, width) and which of them are real (B, T)."""
        x, mask = self.input(wave, wave_length)
        x = self.spec_augment(x, mask)
        for block in self.convolutions:
            x, mask = block(x, mask)
        x = self.projection(x)
        x = self.embedding_dropout(x + sinusoids(x.shape[1], self.width, x))
        for transformer_block in self.blocks:
            x = transformer_block(x, mask=mask)
        return self.norm(x), mask

    def forward(self, wave: Tensor, wave_length: Tensor) -> Tensor:
        """Waves (B, samples) of the given lengths (B,) to logits (B, outputs)."""
        x, mask = self.features(wave, wave_length)
        y: Tensor = self.head(self.dropout(self.pool(x, mask)))
        return y
