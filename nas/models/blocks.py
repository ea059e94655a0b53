"""What the networks share: normalisation, activations, attention, pooling, initialisation.

``dims`` says how features are laid out: 1 is channels-last, (B, ..., C); 2 is a map,
(B, C, H, W).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "layer", "rms", "group", "none"]
Activation = Literal["relu", "gelu", "silu"]
Pooling = Literal["avg", "attention", "max"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
# Gated linear units (Shazeer 2020): the activation of the half that opens the gate.
GATED = {"reglu": "relu", "geglu": "gelu", "swiglu": "silu"}


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of channels-last features, (B, C) or (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


class _GroupNorm(nn.GroupNorm):
    """Group normalisation of channels-last features, position by position.

    Statistics stay inside one position, so that padding cannot reach its neighbours.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


class _LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a map (Liu et al. 2022, ConvNeXt)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation (Zhang & Sennrich 2019) that stays fused under autocast.

    The fused kernel needs weight and input of one type, which mixed precision breaks.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class _RMSNorm2d(_RMSNorm):
    """Root-mean-square normalisation over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _groups(width: int) -> int:
    """The most groups up to 32 (Wu & He 2018) that leave at least 4 channels in each."""
    return max((g for g in range(1, 33) if width % g == 0 and width // g >= 4), default=1)


def make_norm(kind: str, width: int, dims: int) -> nn.Module:
    """A normalisation of ``width`` channels. ``dims``: 1 for (B, ..., C), 2 for (B, C, H, W)."""
    flat = dims == 1
    match kind:
        case "batch":
            return _BatchNorm(width) if flat else nn.BatchNorm2d(width)
        case "layer":
            return (nn.LayerNorm if flat else _LayerNorm2d)(width, eps=1e-6)
        case "rms":
            return (_RMSNorm if flat else _RMSNorm2d)(width, eps=1e-6)
        case "group":
            return (_GroupNorm if flat else nn.GroupNorm)(_groups(width), width)
        case "none":
            return nn.Identity()
    raise ValueError(f"unknown norm {kind!r}; known are batch, layer, rms, group, none")


def make_activation(kind: str) -> nn.Module:
    if kind not in ACTIVATIONS:
        raise ValueError(f"unknown activation {kind!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[kind]()


class DropPath(nn.Module):
    """Leaves a residual branch out for a whole sample with probability ``p``.

    Stochastic depth, Huang et al. 2016; what is kept is divided by 1 - p, so that
    evaluation needs no scaling.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"drop_path must be in [0, 1), but got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty(x.shape[:1] + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def linear_rates(rate: float, depth: int) -> list[float]:
    """Drop-path rates of ``depth`` blocks: from 0 to ``rate``, as Huang et al. 2016, sec. 3."""
    return [rate * i / max(1, depth - 1) for i in range(depth)]


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) over (B, T, dim).

    ``dropout`` is that of the attention weights.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads must divide dim, but got dim={dim}, heads={heads}")
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """(B, T, dim) to (B, T, dim), or to (B, queries, dim) for the first tokens only."""
        if queries is None:
            qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.heads, -1)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        else:
            dim = x.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x[:, :queries], weight[:dim], bias[:dim])
            q = q.reshape(*q.shape[:2], self.heads, -1).transpose(1, 2)
            kv = F.linear(x, weight[dim:], bias[dim:]).reshape(*x.shape[:2], 2, self.heads, -1)
            k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class FeedForward(nn.Module):
    """Linear, activation, dropout, linear. ``reglu``, ``geglu`` and ``swiglu`` are gated."""

    def __init__(self, dim: int, hidden: int, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.gated = activation in GATED
        self.up = nn.Linear(dim, 2 * hidden if self.gated else hidden)
        self.activation = make_activation(GATED.get(activation, activation))
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.gated:
            value, gate = x.chunk(2, dim=-1)
            x = value * self.activation(gate)
        else:
            x = self.activation(x)
        y: Tensor = self.down(self.dropout(x))
        return y


class TransformerBlock(nn.Module):
    """Pre-norm Transformer encoder layer (Xiong et al. 2020) over (B, T, dim).

    ``dropout`` falls on the hidden layer of the feed-forward part and on both branches.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm: str = "layer",
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, dim, dims=1)
        self.attention = Attention(dim, heads, attention_dropout)
        self.norm2 = make_norm(norm, dim, dims=1)
        self.feed_forward = FeedForward(dim, max(1, int(dim * mlp_ratio)), activation, dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """With ``queries`` only the first tokens are put out, (B, queries, dim).

        The last layer of a network that reads a class token alone need compute no more.
        """
        branch = self.attention(self.norm1(x), queries)
        x = x[:, :queries] + self.drop_path(self.dropout(branch))
        y: Tensor = x + self.drop_path(self.dropout(self.feed_forward(self.norm2(x))))
        return y


class GlobalPool(nn.Module):
    """One vector (B, dim) from a map (B, dim, H, W) or from tokens (B, T, dim).

    "attention" weighs the positions by the softmax of a learned score (Ilse et al. 2018,
    sec. 2.4, without the hidden layer). The scores start at zero: as the average.
    """

    def __init__(self, kind: str, dim: int, dims: int) -> None:
        super().__init__()
        if kind not in ("avg", "attention", "max"):
            raise ValueError(f"unknown pooling {kind!r}; known are avg, attention, max")
        self.kind = kind
        self.dims = dims
        if kind == "attention":
            self.score = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        positions = (2, 3) if self.dims == 2 else (1,)
        if self.kind == "avg":
            return x.mean(positions)
        if self.kind == "max":
            return x.amax(positions)
        tokens = x.flatten(2).transpose(1, 2) if self.dims == 2 else x
        weights = (tokens @ self.score).softmax(-1)
        return (weights.unsqueeze(1) @ tokens).squeeze(1)


def init_he(network: nn.Module) -> None:
    """He et al. 2015: by the outputs of a convolution, by the inputs of a linear layer.

    Biases start at zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan = module.weight[0].numel()
            if isinstance(module, nn.Conv2d):
                # A channel reaches only the outputs of its own group.
                fan = module.weight[:, 0].numel() // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_transformer(network: nn.Module) -> None:
    """Normal with deviation 0.02, cut at two deviations (Devlin et al. 2019), biases zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def make_head(width: int, outputs: int) -> nn.Linear:
    """The last layer; weights of deviation 0.01 (Goyal et al. 2017, sec. 5.1): even logits."""
    head = nn.Linear(width, outputs)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def zero_branch(last: nn.Module, norm: nn.Module) -> None:
    """Start a residual branch as zero: the scale of its last norm (Goyal et al. 2017,
    sec. 5.1), or its last layer's weights where it has no norm."""
    scale = last.weight if isinstance(norm, nn.Identity) else norm.weight
    nn.init.zeros_(scale)  # type: ignore[arg-type]  # a module's attribute, not typed as Tensor
