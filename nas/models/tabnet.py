"""TabNet: Arik & Pfister 2019, "TabNet: Attentive Interpretable Tabular Learning"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.models.inputs import TabularInput

SCALE = math.sqrt(0.5)  # keeps the variance of a sum of two
EPSILON = 1e-15  # inside the logarithm of the sparsity loss


def sparsemax(x: Tensor) -> Tensor:
    """Euclidean projection of the last dimension onto the simplex.

    Martins & Astudillo 2016, algorithm 1. The support is found without a gradient; the
    threshold is then a mean over it, whose derivative is that of their proposition 2.
    """
    with torch.no_grad():
        ordered = x.sort(dim=-1, descending=True).values
        rank = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
        excess = ordered.cumsum(-1) - 1
        size = (rank * ordered > excess).sum(-1, keepdim=True)
        threshold = excess.gather(-1, size - 1) / size
        support = (x > threshold).to(x.dtype)
    threshold = ((x * support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
    return (x - threshold).relu()


def entmax15(x: Tensor) -> Tensor:
    """1.5-entmax over the last dimension: between softmax and sparsemax.

    Peters et al. 2019, "Sparse Sequence-to-Sequence Models", algorithm 2. As in
    ``sparsemax``, only the support is found without a gradient.
    """
    x = (x - x.amax(-1, keepdim=True)) / 2  # the largest at 0 keeps the squares exact
    with torch.no_grad():
        ordered = x.sort(dim=-1, descending=True).values
        rank = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
        mean = ordered.cumsum(-1) / rank
        spread = ordered.square().cumsum(-1) - rank * mean.square()
        thresholds = mean - ((1 - spread) / rank).clamp(min=0).sqrt()
        size = (thresholds <= ordered).sum(-1, keepdim=True)
        support = (x > thresholds.gather(-1, size - 1)).to(x.dtype)
    size = support.sum(-1, keepdim=True)
    mean = (x * support).sum(-1, keepdim=True) / size
    spread = ((x - mean).square() * support).sum(-1, keepdim=True)
    threshold = mean - ((1 - spread) / size).sqrt()
    return (x - threshold).relu().square()


class _GhostBatchNorm(nn.Module):
    """Batch normalisation over virtual batches (Hoffer et al. 2017, algorithm 1)."""

    def __init__(self, width: int, virtual_batch_size: int, momentum: float) -> None:
        super().__init__()
        self.virtual_batch_size = virtual_batch_size
        self.norm = nn.BatchNorm1d(width, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] > self.virtual_batch_size:
            parts = x.chunk(math.ceil(x.shape[0] / self.virtual_batch_size))
            return torch.cat([self.norm(part) for part in parts])
        y: Tensor = self.norm(x)
        return y


class _GLU(nn.Module):
    """Linear, ghost batch norm, gated linear unit. ``linear`` may belong to several of them."""

    def __init__(self, linear: nn.Linear, norm: _GhostBatchNorm) -> None:
        super().__init__()
        self.linear = linear
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.glu(self.norm(self.linear(x)), dim=-1)


class _FeatureTransformer(nn.Module):
    """Shared, then own GLU layers, with residual connections after the first (fig. 4c)."""

    def __init__(self, layers: Sequence[_GLU]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.layers
        y: Tensor = first(x)
        for layer in others:
            y = (y + layer(y)) * SCALE
        return y


class _AttentiveTransformer(nn.Module):
    """The mask over features, from the previous step and what it may still use (fig. 4d)."""

    def __init__(self, linear: nn.Linear, norm: _GhostBatchNorm, mask: str) -> None:
        super().__init__()
        self.linear = linear
        self.norm = norm
        self.select = MASKS[mask]

    def forward(self, prior: Tensor, attention: Tensor) -> Tensor:
        return self.select(self.norm(self.linear(attention)) * prior)


MASKS = {"sparsemax": sparsemax, "entmax": entmax15}


class TabNet(nn.Module):
    """``steps`` decisions, each on the features that a sparse mask selects.

    ``n_d`` and ``n_a`` are the widths of the decision and of the attention; ``gamma``
    (>= 1) says how freely a feature is used again; ``n_shared`` and ``n_independent``
    count the GLU layers of a step that all steps share, and its own. ``momentum`` is the
    weight of a new batch in the running statistics.

    A forward pass in training mode leaves the sparsity loss (the paper's "Feature
    selection": the mean entropy of the masks over samples and steps) in
    ``auxiliary_loss``, to be weighted and added to the loss. Linear layers start from a
    normal of deviation (4 / n_in) ** 0.25 before a GLU and n_in ** -0.25 elsewhere, as in
    the authors' code.
    """

    def __init__(
        self,
        input: TabularInput,
        outputs: int,
        n_d: int = 8,
        n_a: int = 8,
        steps: int = 3,
        gamma: float = 1.3,
        n_independent: int = 2,
        n_shared: int = 2,
        momentum: float = 0.02,
        virtual_batch_size: int = 128,
        mask: str = "sparsemax",
    ) -> None:
        super().__init__()
        if mask not in MASKS:
            raise ValueError(f"unknown mask {mask!r}; known are {', '.join(MASKS)}")
        if n_independent + n_shared < 1 or steps < 1:
            raise ValueError(
                "TabNet needs a step and a GLU layer, but got"
                f" steps={steps}, n_independent={n_independent}, n_shared={n_shared}"
            )
        self.input = input
        self.n_d = n_d
        self.gamma = gamma
        self.auxiliary_loss = torch.zeros(())
        self.norm = nn.BatchNorm1d(input.width, momentum=0.01)
        width = n_d + n_a

        def linear(n_in: int, n_out: int, std: float) -> nn.Linear:
            layer = nn.Linear(n_in, n_out, bias=False)
            nn.init.normal_(layer.weight, std=std)
            return layer

        def glu_linear(index: int) -> nn.Linear:
            n_in = width if index else input.width
            return linear(n_in, 2 * width, std=(4 / n_in) ** 0.25)

        def ghost(features: int) -> _GhostBatchNorm:
            return _GhostBatchNorm(features, virtual_batch_size, momentum)

        shared = [glu_linear(i) for i in range(n_shared)]

        def feature_transformer() -> _FeatureTransformer:
            own = [glu_linear(n_shared + i) for i in range(n_independent)]
            return _FeatureTransformer([_GLU(layer, ghost(2 * width)) for layer in shared + own])

        self.splitter = feature_transformer()
        self.transformers = nn.ModuleList(feature_transformer() for _ in range(steps))
        self.attentions = nn.ModuleList(
            _AttentiveTransformer(
                linear(n_a, input.width, std=n_a**-0.25), ghost(input.width), mask
            )
            for _ in range(steps)
        )
        self.width = n_d
        self.head = linear(n_d, outputs, std=n_d**-0.25)

    def forward(self, numeric: Tensor | None = None, categorical: Tensor | None = None) -> Tensor:
        """Columns (B, n) and codes (B, m) to logits (B, outputs)."""
        x, _ = self.features(numeric, categorical)
        y: Tensor = self.head(x[:, 0])
        return y

    def features(
        self, numeric: Tensor | None = None, categorical: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """The summed decisions as one token: (B, 1, width)."""
        decision, sparsity = self.decide(self.input(numeric, categorical))
        if self.training:
            self.auxiliary_loss = sparsity
        return decision.unsqueeze(1), None

    def decide(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, input.width) to the summed decisions (B, n_d) and the sparsity loss."""
        x = self.norm(features)
        # Like x, float32 under mixed precision, where the masks' sums and EPSILON need it.
        prior = torch.ones_like(x)
        attention = self.splitter(x)[:, self.n_d :]
        decision = x.new_zeros(())
        entropy = x.new_zeros(())
        for features_of, mask_of in zip(self.transformers, self.attentions, strict=True):
            mask = mask_of(prior, attention)
            entropy = entropy - (mask * (mask + EPSILON).log()).sum(-1).mean()
            prior = (self.gamma - mask) * prior
            out = features_of(mask * x)
            decision = decision + out[:, : self.n_d].relu()
            attention = out[:, self.n_d :]
        return decision, entropy / len(self.transformers)

    def __getstate__(self) -> dict[str, Any]:
        # A tensor inside a graph can be neither copied nor pickled.
        return {**self.__dict__, "auxiliary_loss": self.auxiliary_loss.detach()}
