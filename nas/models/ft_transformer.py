"""FT-Transformer: Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.models.blocks import TransformerConfig, TransformerStack, init_transformer, make_norm
from nas.models.inputs import TabularTokens


class FTTransformer(nn.Module):
    """A Transformer encoder over one token per column, read out at a class token (sec. 3.3).

    The paper's layers have a ``mlp_ratio`` of 4 / 3 and the activation "reglu". Weights start
    from a truncated normal of deviation 0.02, tokens as in ``TabularTokens``.
    """

    def __init__(self, input: TabularTokens, outputs: int, layers: TransformerConfig) -> None:
        super().__init__()
        dim = layers.dim
        self.input = input
        self.cls = nn.Parameter(torch.empty(dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.blocks = TransformerStack(layers)
        # The paper's app. E.1: tokens enter the first layer as they are.
        self.blocks[0].norm1 = nn.Identity()
        self.norm = make_norm(layers.norm, dim, dims=1)
        self.width = dim
        self.head = nn.Linear(dim, outputs)
        init_transformer(self)

    def forward(self, numeric: Tensor | None = None, categorical: Tensor | None = None) -> Tensor:
        """Columns (B, n) and codes (B, m) to logits (B, outputs)."""
        x = self._encode(numeric, categorical, queries=1)  # only the class token is read
        y: Tensor = self.head(x[:, 0])
        return y

    def features(
        self, numeric: Tensor | None = None, categorical: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The class token and one token per column: (B, 1 + columns, width)."""
        return self._encode(numeric, categorical), None

    def _encode(
        self, numeric: Tensor | None, categorical: Tensor | None, queries: int | None = None
    ) -> Tensor:
        tokens = self.input(numeric, categorical)
        x = torch.cat([self.cls.expand(tokens.shape[0], 1, -1), tokens], dim=1)
        y: Tensor = self.norm(self.blocks(x, queries=queries)).relu()
        return y
