"""A bag of n-grams: Joulin et al. 2017, Bag of Tricks for Efficient Text Classification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import make_head, real
from nas.models.encoder import EmbeddingConfig, TokenEmbedding

# The polynomial hash of a run of tokens; products of both stay within 64 bits.
_BASE, _MODULUS = 1_000_003, 2**31 - 1


class RootPool(nn.Module):
    """The sum over places divided by the root of their number: long texts weigh more than in a
    mean, but not in proportion."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, C), zero where padded, and the mask (B, T) to (B, C)."""
        return x.sum(1) / mask.sum(1, keepdim=True).to(x.dtype).clamp(min=1).sqrt()


class NGramBag(nn.Module):
    """Vectors of tokens and of runs of up to ``longest`` tokens, added up over the text.

    A single token has a row of its own, up to ``vocabulary``; runs of two or more share
    ``buckets`` rows for each length by a hash (sec. 2.1 of the paper). In training
    ``token_dropout`` leaves out whole tokens, and the runs that hold them (Iyyer et al. 2015,
    sec. 3); ``dropout`` leaves out features of the sum.
    """

    def __init__(
        self,
        vocabulary: int,
        outputs: int,
        dim: int,
        longest: int = 2,
        buckets: int = 2**15,
        dropout: float = 0.0,
        token_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if longest < 1:
            raise ValueError(f"longest must be at least 1, got {longest}")
        self.width, self.buckets, self.token_dropout = dim, buckets, token_dropout
        std = 0.1 / dim**0.5
        self.embedding = TokenEmbedding(EmbeddingConfig(vocabulary), dim, std)
        self.runs = nn.ModuleList(nn.Embedding(buckets, dim) for _ in range(longest - 1))
        for table in self.runs:
            nn.init.normal_(table.weight, std=std)  # type: ignore[arg-type]  # it has one
        self.pool = RootPool()
        self.dropout = nn.Dropout(dropout)
        self.head = make_head(dim, outputs)

    def features(self, tokens: Tensor, tokens_length: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T), padded, to (B, T, dim), the sum of what begins at each place, and the
        mask (B, T), true where a token is."""
        mask = present = real(tokens_length, tokens.shape[1])
        if self.training and self.token_dropout > 0:
            drawn = torch.rand(tokens.shape, device=tokens.device) >= self.token_dropout
            present = mask & drawn
        x: Tensor = self.embedding(tokens) * present.unsqueeze(2)
        code, whole = tokens.long() + 1, present
        for i, table in enumerate(self.runs, start=1):
            code = (code * _BASE + F.pad(tokens.long() + 1, (0, i))[:, i:]) % _MODULUS
            whole = whole & F.pad(present, (0, i))[:, i:]
            x = x + table(code % self.buckets) * whole.unsqueeze(2)
        return x, mask

    def forward(self, tokens: Tensor, tokens_length: Tensor) -> Tensor:
        """Padded tokens (B, T) and their lengths (B,) to logits (B, outputs)."""
        pooled = self.pool(*self.features(tokens, tokens_length))
        y: Tensor = self.head(self.dropout(pooled))
        return y
