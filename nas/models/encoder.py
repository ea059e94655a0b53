"""A Transformer encoder over tokens: Vaswani et al. 2017, as in Devlin et al. 2019 (BERT)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas.models.blocks import (
    GlobalPool,
    TransformerConfig,
    TransformerStack,
    init_transformer,
    make_norm,
    real,
)

UNKNOWN_ID = 1  # of tokens that are not in the vocabulary; 0 is padding


@dataclass(frozen=True)
class EmbeddingConfig:
    """How tokens become vectors: ids from ``vocabulary`` on count as unknown."""

    vocabulary: int
    dropout: float = 0.0  # of single features
    token_dropout: float = 0.0  # of whole tokens, which become unknown ones


class TokenEmbedding(nn.Module):
    """Tokens (B, T) to vectors (B, T, dim).

    With token dropout, in training, no single word is relied upon (Iyyer et al. 2015, sec. 3).
    Vectors start with a standard deviation of ``std``.
    """

    def __init__(self, config: EmbeddingConfig, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.token_dropout = config.token_dropout
        self.table = nn.Embedding(config.vocabulary, dim, padding_idx=0)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids (B, T), 0 where padded, to vectors (B, T, dim)."""
        unknown = tokens >= self.table.num_embeddings
        if self.training and self.token_dropout > 0:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.token_dropout
            unknown = unknown | dropped
        tokens = tokens.masked_fill(unknown, UNKNOWN_ID)
        x: Tensor = self.dropout(self.table(tokens))
        return x


class SinusoidalPosition(nn.Module):
    """Vaswani et al. 2017, sec. 3.5, times a learned number (Li et al. 2019, Transformer-TTS,
    sec. 3.2) that starts where positions are as large as embeddings are."""

    def __init__(self, dim: int, scale: float = 0.02) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) with the positions added."""
        rate = 10_000 ** (-torch.arange(0, self.dim, 2, device=x.device) / self.dim)
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * rate
        table = torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)
        return x + self.scale * table[:, : self.dim]


class LearnedPosition(nn.Module):
    """One vector for each of ``length`` places; starts with a deviation of 0.02."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(length, dim))
        nn.init.trunc_normal_(self.table, std=0.02, a=-0.04, b=0.04)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) with the positions added; T is at most ``length``."""
        return x + self.table[: x.shape[1]]


class Transformer(nn.Module):
    """Transformer layers over vectors (B, T, dim) that ``embedding`` makes, pooled into one.

    ``length`` is that of the longest sample, which "learned" positions need; they are also
    "sinusoidal", "rotary" (inside the attention) or "none". ``pooling``: "cls" reads out a
    token that stands before the others, "avg", "attention" and "max" all of them. With
    ``layers.post_norm`` the embedding is normalised and each layer's sums are, as in BERT.
    Otherwise each branch's input is, and the pooled vector: tokens keep their norms until
    then, so that an informative word weighs more than one that is hardly known.
    """

    def __init__(
        self,
        embedding: nn.Module,
        length: int,
        outputs: int,
        layers: TransformerConfig,
        position: str = "learned",
        pooling: str = "avg",
    ) -> None:
        super().__init__()
        if position not in ("learned", "sinusoidal", "rotary", "none"):
            raise ValueError(
                f"unknown position {position!r}; known are learned, sinusoidal, rotary, none"
            )
        if pooling == "cls" and layers.window is not None:
            raise ValueError("a class token cannot see the text through a window")
        dim = layers.dim
        self.width = dim
        self.embedding = embedding
        self.cls = nn.Parameter(torch.zeros(1, 1, dim)) if pooling == "cls" else None
        self.position: nn.Module = nn.Identity()
        if position == "learned":
            self.position = LearnedPosition(length + (pooling == "cls"), dim)
        elif position == "sinusoidal":
            self.position = SinusoidalPosition(dim)
        self.post_norm = layers.post_norm
        self.norm = make_norm(layers.norm, dim, dims=1)
        # The modules that features do without.
        self.readout = ("head",) if layers.post_norm else ("norm", "head")
        self.blocks = TransformerStack(replace(layers, rotary=position == "rotary"))
        # A class token is the only one left, and its own average.
        self.pool = GlobalPool("avg" if pooling == "cls" else pooling, dim, dims=1)
        self.dropout = nn.Dropout(layers.dropout)
        self.head = nn.Linear(dim, outputs)
        init_transformer(self)
        if self.cls is not None:
            nn.init.trunc_normal_(self.cls, std=0.02, a=-0.04, b=0.04)

    def read(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (B, T, dim), padded, to (B, T, width) and where it is real; a class token alone
        to (B, 1, width)."""
        mask = real(length, x.shape[1])
        if self.cls is not None:
            x = torch.cat((self.cls.expand(len(x), -1, -1), x), dim=1)
            mask = torch.cat((mask.new_ones(len(x), 1), mask), dim=1)
        x = self.position(x)
        if self.post_norm:
            x = self.norm(x)
        x = self.blocks(x, queries=None if self.cls is None else 1, mask=mask)
        return x, mask if self.cls is None else None

    def answer(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What ``read`` returns to logits (B, outputs)."""
        x = self.pool(x, mask)
        y: Tensor = self.head(self.dropout(x if self.post_norm else self.norm(x)))
        return y


class TextTransformer(Transformer):
    """A ``Transformer`` over embedded tokens."""

    def __init__(
        self,
        embedding: EmbeddingConfig,
        length: int,
        outputs: int,
        layers: TransformerConfig,
        position: str = "learned",
        pooling: str = "avg",
    ) -> None:
        table = TokenEmbedding(embedding, layers.dim)
        super().__init__(table, length, outputs, layers, position, pooling)

    def features(self, tokens: Tensor, tokens_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T), padded, as ``read`` returns them."""
        return self.read(self.embedding(tokens), tokens_length)

    def forward(self, tokens: Tensor, tokens_length: Tensor) -> Tensor:
        """Padded tokens (B, T) and their lengths (B,) to logits (B, outputs)."""
        return self.answer(*self.features(tokens, tokens_length))
