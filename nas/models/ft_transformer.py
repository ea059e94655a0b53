"""FT-Transformer: Gorishniy et al. 2021, "Revisiting Deep Learning Models for Tabular Data"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.models.blocks import TransformerBlock, init_transformer, linear_rates, make_norm
from nas.models.inputs import TabularTokens


class FTTransformer(nn.Module):
    """A Transformer encoder over one token per column, read out at a class token (sec. 3.3).

    ``ffn_factor`` is the hidden width of the feed-forward part over ``dim``. Weights
    start from a truncated normal of deviation 0.02, tokens as in ``TabularTokens``.
    """

    def __init__(
        self,
        input: TabularTokens,
        outputs: int,
        dim: int,
        depth: int,
        heads: int,
        ffn_factor: float = 4 / 3,
        activation: str = "reglu",
        norm: str = "layer",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.input = input
        self.cls = nn.Parameter(torch.empty(dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim, heads, ffn_factor, norm, activation, dropout, attention_dropout, rate
            )
            for rate in linear_rates(drop_path, depth)
        )
        # The paper's app. E.1: tokens enter the first layer as they are.
        self.blocks[0].norm1 = nn.Identity()
        self.norm = make_norm(norm, dim, dims=1)
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
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        y: Tensor = self.norm(last(x, queries=queries)).relu()
        return y
