"""Multi-layer perceptrons for tables, plain and residual."""

from __future__ import annotations

from torch import Tensor, nn

from nas.models.blocks import init_he, make_activation, make_head, make_norm
from nas.models.inputs import TabularInput


class _Residual(nn.Module):
    """x + dropout(linear(dropout(activation(linear(norm(x)))))), at first x alone."""

    def __init__(self, width: int, hidden: int, norm: str, activation: str, dropout: float) -> None:
        super().__init__()
        last = nn.Linear(hidden, width)
        self.branch = nn.Sequential(
            make_norm(norm, width, dims=1),
            nn.Linear(width, hidden),
            make_activation(activation),
            nn.Dropout(dropout),
            last,
            nn.Dropout(dropout),
        )
        init_he(self)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


class MLP(nn.Module):
    """``depth`` hidden blocks of ``width`` units over the columns of a table.

    Plain: linear, norm, activation, dropout. Residual: a linear layer, then the pre-norm
    blocks of two linear layers, ``hidden_ratio`` times as wide inside, and the norm and
    activation before the head, of the ResNet in Gorishniy et al. 2021, "Revisiting Deep Learning
    Models for Tabular Data", sec. 3.2. He initialisation; residual branches start at zero.
    """

    def __init__(
        self,
        input: TabularInput,
        outputs: int,
        width: int,
        depth: int,
        norm: str = "batch",
        activation: str = "relu",
        dropout: float = 0.0,
        residual: bool = False,
        hidden_ratio: int = 1,
    ) -> None:
        super().__init__()
        self.input = input
        layers: list[nn.Module] = []
        if residual:
            entry = nn.Linear(input.width, width)
            init_he(entry)
            layers.append(entry)
            hidden = hidden_ratio * width
            layers += [_Residual(width, hidden, norm, activation, dropout) for _ in range(depth)]
            layers += [make_norm(norm, width, dims=1), make_activation(activation)]
        else:
            for block in range(depth):
                # A batch norm takes every bias out again.
                entry = nn.Linear(width if block else input.width, width, bias=norm != "batch")
                init_he(entry)
                layers += [entry, make_norm(norm, width, dims=1)]
                layers += [make_activation(activation), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.width = width if depth or residual else input.width
        self.head = make_head(self.width, outputs)

    def forward(self, numeric: Tensor | None = None, categorical: Tensor | None = None) -> Tensor:
        """Columns (B, n) and codes (B, m) to logits (B, outputs)."""
        y: Tensor = self.head(self.body(self.input(numeric, categorical)))
        return y

    def features(
        self, numeric: Tensor | None = None, categorical: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """What the head sees, as one token: (B, 1, width)."""
        x: Tensor = self.body(self.input(numeric, categorical))
        return x.unsqueeze(1), None
