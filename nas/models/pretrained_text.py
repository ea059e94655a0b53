"""A pretrained Transformer encoder over tokens, BERT's architecture, with a new head.

Devlin et al. 2019 (BERT), sec. 3, as in the weights of BERT, RoBERTa, DistilBERT and MiniLM:
normalisation after each sum, learned positions, GELU. Names of weights are this project's; those of
the libraries are mapped to them in ``nas.pretrained.weights``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.adapted import PretrainedTokens, freeze, make_linear
from nas.models.blocks import make_activation, real

IDENTITY_ROWS = 8  # of a table of words, which tell one network from another


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes of a published encoder, of which the first ``blocks`` are used."""

    vocabulary: int
    positions: int
    dim: int
    heads: int
    hidden: int  # width of the feed-forward part
    blocks: int
    activation: str = "gelu"
    eps: float = 1e-12
    dropout: float = 0.1


@dataclass(frozen=True)
class TextAdaptation:
    """What of an encoder is trained, and with what rates.

    ``trained`` blocks from the last on; the embedding too where it is ``blocks`` + 1. With a
    ``rank`` the encoder stays, and linear layers get updates of that rank: those of queries and
    values (``targets`` "attention") or all ("all"). A text's first ``length`` tokens are read.
    """

    trained: int
    length: int
    separator: int  # the token that ends a text
    tokenizer: str  # a hash of that of the data, which says what word a token is
    rank: int = 0
    targets: str = "attention"
    pooling: str = "avg"  # "cls", "avg", "attention" or "max"
    head: str = "linear"  # or "mlp"
    dropout: float = 0.1  # before the head
    head_rate: float = 10.0  # the learning rate of what is new over that of the last block
    layer_decay: float = 1.0


class _Embedding(nn.Module):
    """Tokens (B, T) to vectors (B, T, dim); ids from the table's length on become unknown ones."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocabulary, config.dim)
        self.positions = nn.Parameter(torch.empty(config.positions, config.dim))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.norm = nn.LayerNorm(config.dim, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens.masked_fill(tokens >= self.words.num_embeddings, 1))
        x = self.norm(x + self.positions[: x.shape[1]])
        embedded: Tensor = self.dropout(x)
        return embedded


class _Block(nn.Module):
    """Attention and a feed-forward part, each added and then normalised."""

    def __init__(self, config: EncoderConfig, rank: int, targets: str) -> None:
        super().__init__()
        dim, everywhere = config.dim, rank if targets == "all" else 0
        self.heads = config.heads
        self.query = make_linear(dim, dim, rank)
        self.key = make_linear(dim, dim, everywhere)
        self.value = make_linear(dim, dim, rank)
        self.out = make_linear(dim, dim, everywhere)
        self.norm1 = nn.LayerNorm(dim, eps=config.eps)
        self.up = make_linear(dim, config.hidden, everywhere)
        self.activation = make_activation(config.activation)
        self.down = make_linear(config.hidden, dim, everywhere)
        self.norm2 = nn.LayerNorm(dim, eps=config.eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, dim) to the same; ``mask`` (B, 1, 1, T) is true where a token is real."""

        def heads(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], self.heads, -1).transpose(1, 2)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        # Without dropout of attention weights, which the fused operator of a CPU lacks.
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm1(x + self.dropout(self.out(seen.transpose(1, 2).flatten(2))))
        y = self.down(self.activation(self.up(x)))
        after: Tensor = self.norm2(x + self.dropout(y))
        return after


class PretrainedText(PretrainedTokens):
    """Tokens (B, T) and their lengths (B,) to logits (B, outputs)."""

    def __init__(self, config: EncoderConfig, adaptation: TextAdaptation, outputs: int) -> None:
        how = adaptation
        super().__init__(
            config.dim,
            outputs,
            pooling=how.pooling,
            head=how.head,
            dropout=how.dropout,
            head_rate=how.head_rate,
            layer_decay=how.layer_decay,
        )
        self.adaptation = adaptation
        self.embedding = _Embedding(config)
        self.blocks = nn.ModuleList(
            _Block(config, how.rank, how.targets) for _ in range(config.blocks)
        )
        trained = 0 if how.rank else how.trained
        freeze(self.layers[: max(0, len(self.layers) - trained)])

    @property
    def layers(self) -> list[nn.Module]:
        """The embedding and the blocks."""
        return [self.embedding, *self.blocks]

    def features(self, tokens: Tensor, tokens_length: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, width), and the mask (B, T), true where a token is real."""
        longest = self.adaptation.length
        tokens, length = tokens[:, :longest], tokens_length.clamp(max=longest)
        mask = real(length, tokens.shape[1])
        # A text that is cut ends with the token that ends all texts.
        is_last = torch.arange(tokens.shape[1], device=tokens.device) == length.unsqueeze(1) - 1
        cut = (tokens_length > longest).unsqueeze(1)
        x = self.embedding(tokens.masked_fill(is_last & cut, self.adaptation.separator))
        for block in self.blocks:
            x = block(x, mask[:, None, None, :])
        return x, mask

    def seen(self, name: str, values: np.ndarray) -> np.ndarray:
        """A text's tokens as its encoder sees them: cut, and what it does not know as unknown."""
        tokens, length = values.copy(), self.adaptation.length
        tokens[tokens >= self.embedding.words.num_embeddings] = 1
        if len(tokens) > length:
            tokens = tokens[:length]
            tokens[-1] = self.adaptation.separator
        return tokens

    def identity(self) -> Iterator[Any]:
        """What its features follow from beside the tokens of a text. The tokenizer and the first
        rows stand for the table of words, as smaller vocabularies have the first rows of larger
        ones."""
        yield self.adaptation.tokenizer
        yield self.embedding.words.weight[:IDENTITY_ROWS]
        for name, value in (*self.embedding.named_parameters(), *self.blocks.named_parameters()):
            if name != "words.weight":
                yield value

    def forward(self, tokens: Tensor, tokens_length: Tensor) -> Tensor:
        """Logits (B, outputs)."""
        return self.answer(self.vector(*self.features(tokens, tokens_length)))
