"""LSTM: Hochreiter & Schmidhuber 1997; in both directions, Graves & Schmidhuber 2005. The gated
recurrent unit in its place: Cho et al. 2014."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.models.blocks import GlobalPool, make_head, real
from nas.models.encoder import EmbeddingConfig, TokenEmbedding

CELLS: dict[str, tuple[type[nn.LSTM] | type[nn.GRU], tuple[float, ...]]] = {
    # Layer, and the bias of each gate: the forget gate starts open (Jozefowicz et al. 2015, sec. 4)
    "lstm": (nn.LSTM, (0.0, 1.0, 0.0, 0.0)),
    "gru": (nn.GRU, (0.0, 0.0, 0.0)),
}


class _Direction(nn.Module):
    """One recurrent layer over padded sequences (B, T, C), from the last token to the first on
    demand.

    Each sequence is turned round within its own length, so that the state never passes over
    padding: the same as packing, without waiting for the lengths to leave the device.
    """

    def __init__(self, inputs: int, hidden: int, cell: str) -> None:
        super().__init__()
        kind, starts = CELLS[cell]
        self.cell = cell
        self.add_module(cell, kind(inputs, hidden, batch_first=True))
        for name, value in self.named_parameters():
            gates = value.chunk(len(starts))
            match name.removeprefix(f"{cell}.").removesuffix("_l0"):
                case "weight_hh":
                    for gate in gates:
                        nn.init.orthogonal_(gate)
                case "weight_ih":
                    nn.init.xavier_uniform_(value)
                case "bias_hh":
                    nn.init.zeros_(value)
                case _:
                    for gate, start in zip(gates, starts, strict=True):
                        nn.init.constant_(gate, start)

    def forward(self, x: Tensor, turn: Tensor | None = None) -> Tensor:
        """``turn`` (B, T): where each place of the turned sequence comes from, and goes to."""
        if turn is None:
            return self._run(x)
        return _pick(self._run(_pick(x, turn)), turn)

    def _run(self, x: Tensor) -> Tensor:
        """In the dtype of its weights under mixed precision too: a state is rounded at every
        step, and its errors add up over a text."""
        kind = x.device.type
        layer = self.get_submodule(self.cell)
        x = x.to(next(layer.parameters()).dtype)
        if kind != "meta" and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                y: Tensor = layer(x)[0]
        else:
            y = layer(x)[0]
        return y


def _pick(x: Tensor, places: Tensor) -> Tensor:
    return x.gather(1, places.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class LSTM(nn.Module):
    """``depth`` layers of a ``cell``, "lstm" or "gru", over vectors (B, T, dim) that ``embedding``
    makes, pooled into one.

    A ``bidirectional`` layer reads in both directions, with ``hidden`` units each, side by
    side, and the last layer with ``last_hidden`` where that is not 0. ``pooling``: "avg",
    "attention" and "max" of all places; "last" the state after the last token, and of a second
    direction that after the first.
    """

    def __init__(
        self,
        embedding: nn.Module,
        outputs: int,
        dim: int,
        hidden: int,
        depth: int,
        bidirectional: bool = True,
        pooling: str = "max",
        dropout: float = 0.0,
        last_hidden: int = 0,
        cell: str = "lstm",
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"unknown cell {cell!r}; known are {', '.join(CELLS)}")
        self.hidden = last_hidden or hidden
        self.width = self.hidden * (1 + bidirectional)
        self.embedding = embedding
        self.forwards = nn.ModuleList()
        self.backwards = nn.ModuleList()
        inputs = dim
        for units in [*[hidden] * (depth - 1), self.hidden]:
            self.forwards.append(_Direction(inputs, units, cell))
            if bidirectional:
                self.backwards.append(_Direction(inputs, units, cell))
            inputs = units * (1 + bidirectional)
        self.last = pooling == "last"
        self.pool = GlobalPool("avg" if self.last else pooling, self.width, dims=1)
        self.dropout = nn.Dropout(dropout)
        self.head = make_head(self.width, outputs)

    def read(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (B, T, dim), padded, to (B, T, width) and where it is real; "last" states to
        (B, 1, width)."""
        mask = real(length, x.shape[1])
        place = torch.arange(x.shape[1], device=x.device)
        turn = torch.where(mask, length[:, None] - 1 - place, place)
        for i, forwards in enumerate(self.forwards):
            x = x if i == 0 else self.dropout(x)
            parts = [forwards(x)]
            if len(self.backwards):
                parts.append(self.backwards[i](x, turn))
            x = torch.cat(parts, dim=-1)
        if not self.last:
            return x, mask
        ends = _pick(x[..., : self.hidden], length[:, None] - 1)
        return torch.cat((ends, x[:, :1, self.hidden :]), dim=-1), None

    def answer(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What ``read`` returns to logits (B, outputs)."""
        y: Tensor = self.head(self.dropout(self.pool(x, mask)))
        return y


class TextLSTM(LSTM):
    """An ``LSTM`` over embedded tokens."""

    def __init__(
        self,
        embedding: EmbeddingConfig,
        outputs: int,
        dim: int,
        hidden: int,
        depth: int,
        bidirectional: bool = True,
        pooling: str = "max",
        dropout: float = 0.0,
        last_hidden: int = 0,
    ) -> None:
        # As large as the gates can tell apart: nothing is normalised here.
        table = TokenEmbedding(embedding, dim, std=0.1)
        super().__init__(
            table, outputs, dim, hidden, depth, bidirectional, pooling, dropout, last_hidden
        )

    def features(self, tokens: Tensor, tokens_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T), padded, as ``read`` returns them."""
        return self.read(self.embedding(tokens), tokens_length)

    def forward(self, tokens: Tensor, tokens_length: Tensor) -> Tensor:
        """Padded tokens (B, T) and their lengths (B,) to logits (B, outputs)."""
        return self.answer(*self.features(tokens, tokens_length))
