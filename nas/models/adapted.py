"""Ways to adapt pretrained layers: low-rank updates, rates by depth, and parts that stay still."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import GlobalPool, real


class LowRankLinear(nn.Linear):
    """A linear layer that stays as it is, plus a trained update of ``rank``: Hu et al. 2022
    (LoRA), eq. 3, with its scale α / r of 2. The update starts at zero."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        for own in (self.weight, self.bias):
            own.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        update = F.linear(F.linear(x, self.down), self.up)
        return F.linear(x, self.weight, self.bias) + 2.0 * update


def make_linear(inputs: int, outputs: int, rank: int = 0) -> nn.Linear:
    """A linear layer, with a low-rank update where ``rank`` is above 0."""
    return LowRankLinear(inputs, outputs, rank) if rank else nn.Linear(inputs, outputs)


def freeze(parts: Iterable[nn.Module]) -> None:
    """Train no parameter of these parts but low-rank updates."""
    for part in parts:
        for name, value in part.named_parameters():
            value.requires_grad_(name.rpartition(".")[2] in ("down", "up"))


def is_still(part: nn.Module) -> bool:
    """Whether no parameter of a part is trained."""
    return not any(p.requires_grad for p in part.parameters())


def layer_groups(
    layers: Sequence[nn.Module],
    new: Sequence[nn.Module],
    *,
    lr: float,
    new_lr: float,
    decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Groups of an optimiser: ``layers`` from the first to the last, each with ``decay`` times
    the rate of the next (Howard & Ruder 2018, ULMFiT, sec. 3.2), and what is ``new`` (heads and
    low-rank updates) with its own. Biases and scales do not decay."""
    groups: list[dict[str, Any]] = []

    def add(parameters: Iterator[nn.Parameter], rate: float) -> None:
        found = [p for p in parameters if p.requires_grad]
        for some, own in (
            ([p for p in found if p.ndim > 1], weight_decay),
            ([p for p in found if p.ndim <= 1], 0.0),
        ):
            if some:
                groups.append({"params": some, "lr": rate, "weight_decay": own})

    for i, layer in enumerate(layers):
        named = list(layer.named_parameters())
        updates = [p for name, p in named if name.rpartition(".")[2] in ("down", "up")]
        known = set(map(id, updates))
        rate = lr * decay ** (len(layers) - 1 - i)
        add((p for _, p in named if id(p) not in known), rate)
        add(iter(updates), new_lr)
    for part in new:
        add(part.parameters(), new_lr)
    return groups


class PretrainedTokens(nn.Module):
    """What pretrained networks over tokens have in common: a new head on pooled tokens, layers that
    stay or are trained, and features that may be kept.

    A network has ``layers`` and ``features(**inputs)``, which returns tokens (B, T, width) and the
    mask (B, T) that is true where one is real. Parts that are not trained stay in eval mode, so
    that what they put out of a sample is always the same: what is ``fixed`` of a ``frozen``
    network may be kept, and ``from_fixed`` continues from there (nas.training.frozen).

    Args:
        width: Of a token.
        pooling: "cls", "avg", "attention" or "max".
        head: "linear" or "mlp", with one hidden layer.
        dropout: Before the head.
        head_rate: The learning rate of what is new over that of the last layer.
        layer_decay: The rate of a layer over that of the next.
    """

    features: Callable[..., tuple[Tensor, Tensor]]

    def __init__(
        self,
        width: int,
        outputs: int,
        *,
        pooling: str,
        head: str,
        dropout: float,
        head_rate: float,
        layer_decay: float,
    ) -> None:
        super().__init__()
        self.width = width
        self.head_rate, self.layer_decay = head_rate, layer_decay
        self.pool = None if pooling == "cls" else GlobalPool(pooling, width, dims=1)
        self.dropout = nn.Dropout(dropout)
        self.head: nn.Module = nn.Linear(width, outputs)
        if head == "mlp":
            hidden = nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout)
            self.head = nn.Sequential(*hidden, nn.Linear(width, outputs))

    @property
    def layers(self) -> list[nn.Module]:
        """The pretrained layers from the first to the last."""
        raise NotImplementedError

    @property
    def frozen(self) -> bool:
        """Whether the head alone is trained."""
        return all(map(is_still, self.layers))

    def train(self, mode: bool = True) -> Self:
        """Layers that stay as they are stay in eval mode."""
        super().train(mode)
        for part in self.layers:
            if not is_still(part):
                break
            part.eval()
        return self

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """What an optimiser trains, with the rate of each part."""
        return layer_groups(
            self.layers,
            [self.head] if self.pool is None else [self.pool, self.head],
            lr=lr,
            new_lr=lr * self.head_rate,
            decay=self.layer_decay,
            weight_decay=weight_decay,
        )

    def vector(self, x: Tensor, mask: Tensor) -> Tensor:
        """One vector (B, width) from what ``features`` returns."""
        pooled: Tensor = x[:, 0] if self.pool is None else self.pool(x, mask)
        return pooled

    def answer(self, vector: Tensor) -> Tensor:
        """Logits (B, outputs) from what ``vector`` returns."""
        logits: Tensor = self.head(self.dropout(vector))
        return logits

    def fixed(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Of a frozen network what comes before its head: (B, T, width), and the lengths (B,)."""
        x, mask = self.features(**inputs)
        return x, mask.sum(1)

    def vector_of_fixed(self, features: Tensor, features_length: Tensor) -> Tensor:
        """One vector (B, width) from what ``fixed`` returns, padded by anything."""
        return self.vector(features, real(features_length, features.shape[1]))

    def from_fixed(self, features: Tensor, features_length: Tensor) -> Tensor:
        """Logits (B, outputs) from what ``fixed`` returns."""
        return self.answer(self.vector_of_fixed(features, features_length))

    def condensed(self, features: Tensor) -> Tensor:
        """One sample's features (T, width), pooled to (1, width) where that learns nothing."""
        if self.pool is None:
            return features[:1]
        return features if self.pool.kind == "attention" else self.pool(features[None])


class PretrainedMember(nn.Module):
    """A pretrained network as a member of a fusion: one vector a sample, pooled as the network
    pools, without its head. ``network`` has ``features``, ``vector`` and ``vector_of_fixed``."""

    readout: tuple[str, ...] = ()

    def __init__(self, network: Any) -> None:
        super().__init__()
        network.head = nn.Identity()
        self.network, self.width = network, int(network.width)

    def features(self, **inputs: Tensor) -> tuple[Tensor, None]:
        """Its inputs, or the kept features of a frozen network, to one token (B, 1, width)."""
        if "features" in inputs:
            vector = self.network.vector_of_fixed(**inputs)
        else:
            vector = self.network.vector(*self.network.features(**inputs))
        return vector.unsqueeze(1), None
