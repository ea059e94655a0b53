"""Convolutions over words: Kim 2014, Convolutional Neural Networks for Sentence Classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import GlobalPool, make_head, real
from nas.models.encoder import EmbeddingConfig, TokenEmbedding


class TextCNN(nn.Module):
    """Detectors of runs of words: ``width`` for each length in ``kernels``, of which the largest
    response over the text is read (sec. 2 of the paper).

    Everything outside a text is zero, so that the first and the last words are in as many runs as
    the others. ``dropout`` leaves out features before the head.
    """

    def __init__(
        self,
        embedding: EmbeddingConfig,
        outputs: int,
        dim: int,
        width: int,
        kernels: Sequence[int] = (3, 4, 5),
        pooling: str = "max",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not kernels or min(kernels) < 1:
            raise ValueError(f"kernels must be lengths of one or more, got {list(kernels)}")
        self.width = width * len(kernels)
        # As large as those of the paper, which are uniform within 0.25: nothing is normalised here.
        self.embedding = TokenEmbedding(embedding, dim, std=0.14)
        self.runs = nn.ModuleList(nn.Conv1d(dim, width, kernel) for kernel in kernels)
        for run in self.runs:
            nn.init.kaiming_normal_(run.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(run.bias)  # type: ignore[arg-type]  # it has one
        self.pool = GlobalPool(pooling, self.width, dims=1)
        self.dropout = nn.Dropout(dropout)
        self.head = make_head(self.width, outputs)

    def features(self, tokens: Tensor, tokens_length: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T), padded, to (B, T, width), what the run around each place gives, and the
        mask (B, T), true where a token is."""
        mask = real(tokens_length, tokens.shape[1])
        x = (self.embedding(tokens) * mask.unsqueeze(2)).transpose(1, 2)
        parts = []
        for run in self.runs:
            (kernel,) = run.kernel_size  # type: ignore[misc]  # of one dimension
            parts.append(run(F.pad(x, ((kernel - 1) // 2, kernel // 2))))
        return F.relu(torch.cat(parts, 1)).transpose(1, 2), mask

    def forward(self, tokens: Tensor, tokens_length: Tensor) -> Tensor:
        """Padded tokens (B, T) and their lengths (B,) to logits (B, outputs)."""
        y: Tensor = self.head(self.dropout(self.pool(*self.features(tokens, tokens_length))))
        return y
