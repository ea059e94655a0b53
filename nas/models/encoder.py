"""A Transformer encoder over tokens: Vaswani et al. 2017, as in Devlin et al. 2019 (BERT)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.models.blocks import (
    GlobalPool,
    init_transformer,
    make_norm,
    real,
    transformer_stack,
)

UNKNOWN = 1  # the token for all that have no row of their own; 0 is padding


class TokenEmbedding(nn.Module):
    """Tokens (B, T) to vectors (B, T, dim); ids from ``vocabulary`` on count as unknown.

    ``dropout`` leaves single features out, and ``token_dropout``, in training, whole tokens:
    they become unknown ones (Iyyer et al. 2015, sec. 3), so that no word is relied upon.
    Vectors start with the deviation ``std``.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.token_dropout = token_dropout
        self.table = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.table.weight, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        unknown = tokens >= self.table.num_embeddings
        if self.training and self.token_dropout > 0:
            drawn = torch.rand(tokens.shape, device=tokens.device) < self.token_dropout
            unknown = unknown | drawn
        tokens = tokens.masked_fill(unknown, UNKNOWN)
        x: Tensor = self.dropout(self.table(tokens))
        return x


class SinusoidalPosition(nn.Module):
    """Vaswani et al. 2017, sec. 3.5, times a learned number (Li et al. 2019, Transformer-TTS,
    sec. 3.2) that starts where positions are as large as embeddings are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Parameter(torch.tensor(0.02))

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


class TextTransformer(nn.Module):
    """``depth`` Transformer layers over embedded tokens, pooled into one vector.

    ``length`` is that of the longest sample, which "learned" positions need; they are also
    "sinusoidal", "rotary" (inside the attention) or "none". ``pooling``: "cls" reads out a
    token that stands before the others, "avg", "attention" and "max" all of them. With
    ``post_norm`` the embedding is normalised and each layer's sums are, as in BERT.
    Otherwise each branch's input is, and the pooled vector: tokens keep their lengths until
    then, so that a word that says much weighs more than one that is hardly known.
    ``window``: see ``Attention``.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        outputs: int,
        dim: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        position: str = "learned",
        post_norm: bool = False,
        norm: str = "layer",
        activation: str = "gelu",
        pooling: str = "avg",
        window: int | None = None,
        dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        token_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if position not in ("learned", "sinusoidal", "rotary", "none"):
            raise ValueError(
                f"unknown position {position!r}; known are learned, sinusoidal, rotary, none"
            )
        if pooling == "cls" and window is not None:
            raise ValueError("a class token cannot see the text through a window")
        self.width = dim
        self.embedding = TokenEmbedding(vocabulary, dim, embedding_dropout, token_dropout)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim)) if pooling == "cls" else None
        self.position: nn.Module = nn.Identity()
        if position == "learned":
            self.position = LearnedPosition(length + (pooling == "cls"), dim)
        elif position == "sinusoidal":
            self.position = SinusoidalPosition(dim)
        self.post_norm = post_norm
        self.norm = make_norm(norm, dim, dims=1)
        self.readout = ("head",) if post_norm else ("norm", "head")  # what features lack
        self.blocks = transformer_stack(
            depth, drop_path, dim, heads, mlp_ratio, norm, activation, dropout, attention_dropout,
            post_norm=post_norm, rotary=position == "rotary", window=window,
        )  # fmt: skip
        # A class token is the only one left, and its own average.
        self.pool = GlobalPool("avg" if pooling == "cls" else pooling, dim, dims=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, outputs)
        init_transformer(self)
        if self.cls is not None:
            nn.init.trunc_normal_(self.cls, std=0.02, a=-0.04, b=0.04)

    def features(self, tokens: Tensor, tokens_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T), padded, to (B, T, width) and where it is real; a class token alone
        to (B, 1, width)."""
        x, mask = self.embedding(tokens), real(tokens_length, tokens.shape[1])
        if self.cls is not None:
            x = torch.cat((self.cls.expand(len(x), -1, -1), x), dim=1)
            mask = torch.cat((mask.new_ones(len(x), 1), mask), dim=1)
        x = self.position(x)
        if self.post_norm:
            x = self.norm(x)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x, mask=mask)
        x = last(x, queries=None if self.cls is None else 1, mask=mask)
        return x, mask if self.cls is None else None

    def forward(self, tokens: Tensor, tokens_length: Tensor) -> Tensor:
        """Padded tokens (B, T) and their lengths (B,) to logits (B, outputs)."""
        x = self.pool(*self.features(tokens, tokens_length))
        y: Tensor = self.head(self.dropout(x if self.post_norm else self.norm(x)))
        return y
