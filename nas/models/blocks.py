"""What the networks share: normalisation, activations, attention, pooling, initialisation.

``dims`` says how features are laid out: 1 is channels-last, (B, ..., C); 2 is a map,
(B, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (B, T, C) whose statistics leave padding out.

    ``mask`` (B, T) is true where a position is real; without it all are. The output at padded
    positions is meaningless.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        # Reading the mask makes a GPU wait, but costs a CPU nothing: without padding the fused
        # kernel is four times as fast as the sums below.
        unpadded = mask is None or (x.device.type == "cpu" and self.training and bool(mask.all()))
        if mask is None or unpadded or not self.training:
            return super().forward(x.flatten(0, -2)).view_as(x)
        wide = x.float()  # sums over thousands of positions need more than bfloat16
        real = mask.unsqueeze(-1).float()
        count = real.sum()
        mean = (wide * real).sum((0, 1)) / count
        centred = wide - mean
        var = (centred.square() * real).sum((0, 1)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp(min=1), self.momentum)
        y = centred * (self.weight * (var + self.eps).rsqrt()) + self.bias
        return y.to(x.dtype)


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

    The fused kernel needs weight and input of one dtype, which mixed precision breaks.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class _RMSNorm2d(_RMSNorm):
    """Root-mean-square normalisation over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def groups(width: int) -> int:
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
            return (_GroupNorm if flat else nn.GroupNorm)(groups(width), width)
        case "none":
            return nn.Identity()
    raise ValueError(f"unknown norm {kind!r}; known are batch, layer, rms, group, none")


class _Positionwise(nn.Module):
    """A normalisation that sees one position at a time and needs no mask."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x)
        return y


def make_masked_norm(kind: str, width: int) -> nn.Module:
    """A normalisation of (B, T, width) that is called with the mask (B, T) of what is real."""
    if kind == "batch":
        return MaskedBatchNorm(width)
    return _Positionwise(make_norm(kind, width, dims=1))


def make_activation(kind: str) -> nn.Module:
    """An activation of ``ACTIVATIONS`` by its name."""
    if kind not in ACTIVATIONS:
        raise ValueError(f"unknown activation {kind!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[kind]()


def real(length: Tensor, size: int) -> Tensor:
    """(B, size) bool: true before the end of each sample."""
    return torch.arange(size, device=length.device) < length.unsqueeze(1)


def full_precision(kind: str) -> AbstractContextManager[object]:
    """A context without mixed precision, on devices of the type ``kind``."""
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


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
        """(B, ...) to (B, ...)."""
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty(x.shape[:1] + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def linear_rates(rate: float, depth: int) -> list[float]:
    """Drop-path rates of ``depth`` blocks, in equal steps up to ``rate``: Huang et al. 2016,
    sec. 3, where the input is block 0."""
    return [rate * (i + 1) / depth for i in range(depth)]


def rotary(x: Tensor) -> Tensor:
    """Rotate the features (..., T, d) of each position by angles in proportion to it.

    Su et al. 2021 (RoFormer), eq. 34, with feature i paired with feature i + d / 2. The
    product of a query and a key then depends on their distance alone.
    """
    half = x.shape[-1] // 2
    rate = 10_000 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * rate
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) over (B, T, dim).

    ``dropout`` is that of the attention weights. With ``rotary`` queries and keys are
    rotated by their positions. With a ``window`` a token attends to so many at either side.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float = 0.0,
        rotary: bool = False,
        window: int | None = None,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads must divide dim, but got dim={dim}, heads={heads}")
        if rotary and dim // heads % 2:
            raise ValueError(f"rotary needs an even dim / heads, but got {dim} / {heads}")
        self.heads = heads
        self.dropout = dropout
        self.rotary = rotary
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, queries: int | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T, dim) to (B, T, dim), or to (B, queries, dim) for the first tokens only.

        Tokens where ``mask`` (B, T) is false are not attended to.
        """
        if queries is not None and self.window is not None:
            return self.forward(x, mask=mask)[:, :queries]
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
        if self.rotary:
            q, k = rotary(q), rotary(k)
        dropout = self.dropout if self.training else 0.0
        if self.window is not None:
            mixed = _windowed(q, k, v, self.window, mask, dropout)
        else:
            seen = None if mask is None else mask[:, None, None, :]
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


def _windowed(
    q: Tensor, k: Tensor, v: Tensor, window: int, mask: Tensor | None, dropout: float
) -> Tensor:
    """Attention (B, heads, T, d) to the ``window`` positions at either side of each.

    Blocks of ``window`` queries against their own and both neighbouring blocks of keys, so
    that the cost is linear in T (Beltagy et al. 2020, Longformer, sec. 3.1).
    """
    batch, heads, length, size = q.shape
    blocks = -(-length // window)
    short = blocks * window - length

    def near(x: Tensor, dim: int) -> Tensor:
        """The three blocks around each: ``dim`` becomes two, (blocks, 3 * window)."""
        x = F.pad(x, (0, 0) * (x.ndim - 1 - dim) + (window, short + window))
        split = (*x.shape[:dim], blocks, window, *x.shape[dim + 1 :])
        parts = [x.narrow(dim, i * window, blocks * window).reshape(split) for i in range(3)]
        return torch.cat(parts, dim=dim + 1)

    # Blocks join the batch: attention as an operator, and as an exported one, has four axes.
    q = F.pad(q, (0, 0, 0, short)).view(batch, heads, blocks, window, size)
    q = q.transpose(1, 2).flatten(0, 1)
    k, v = (near(x, 2).transpose(1, 2).flatten(0, 1) for x in (k, v))
    key = torch.arange(3 * window, device=q.device) - window
    distance = key - torch.arange(window, device=q.device)[:, None]
    real = q.new_ones(1, length, dtype=torch.bool) if mask is None else mask
    real = near(real, 1).expand(batch, -1, -1).flatten(0, 1)[:, None, None, :]
    # Padding attends to itself: a softmax over nothing would be NaN.
    seen = (distance.abs() <= window) & real | (distance == 0)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
    mixed = mixed.view(batch, blocks, heads, window, size).transpose(1, 2)
    return mixed.flatten(2, 3)[:, :, :length]


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
        """(..., dim) to (..., dim)."""
        x = self.up(x)
        if self.gated:
            value, gate = x.chunk(2, dim=-1)
            x = value * self.activation(gate)
        else:
            x = self.activation(x)
        y: Tensor = self.down(self.dropout(x))
        return y


@dataclass(frozen=True)
class TransformerConfig:
    """A stack of ``depth`` equal Transformer encoder layers (Vaswani et al. 2017, sec. 3.1)."""

    dim: int  # features of a token
    depth: int
    heads: int  # must divide dim
    mlp_ratio: float = 4.0  # hidden width of the feed-forward part, divided by dim
    norm: str = "layer"
    activation: str = "gelu"  # of the feed-forward part: see FeedForward
    dropout: float = 0.0  # of the feed-forward part's hidden layer and of both branches
    attention_dropout: float = 0.0  # of the attention weights
    drop_path: float = 0.0  # of the last layer; the rate grows linearly up to it
    post_norm: bool = False  # normalise each sum (as Vaswani et al.), not each branch's input
    rotary: bool = False  # rotary positions: see Attention
    window: int | None = None  # local attention: see Attention


class TransformerBlock(nn.Module):
    """Transformer encoder layer over (B, T, dim), pre-norm (Xiong et al. 2020) by default.

    ``drop_path`` is the rate of this layer, in place of the stack's.
    """

    def __init__(self, config: TransformerConfig, drop_path: float = 0.0) -> None:
        super().__init__()
        dim, hidden = config.dim, max(1, int(config.dim * config.mlp_ratio))
        self.post_norm = config.post_norm
        self.norm1 = make_norm(config.norm, dim, dims=1)
        self.attention = Attention(
            dim, config.heads, config.attention_dropout, config.rotary, config.window
        )
        self.norm2 = make_norm(config.norm, dim, dims=1)
        self.feed_forward = FeedForward(dim, hidden, config.activation, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, queries: int | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T, dim) to (B, T, dim), or to (B, queries, dim) for the first tokens only.

        Tokens where ``mask`` (B, T) is false are padding.
        """
        branch = self.attention(x if self.post_norm else self.norm1(x), queries, mask)
        x = x[:, :queries] + self.drop_path(self.dropout(branch))
        if self.post_norm:
            x = self.norm1(x)
        branch = self.feed_forward(x if self.post_norm else self.norm2(x))
        y: Tensor = x + self.drop_path(self.dropout(branch))
        return self.norm2(y) if self.post_norm else y


class TransformerStack(nn.ModuleList):
    """The layers of a ``TransformerConfig``, one after another.

    ``rates`` are their drop-path rates, where other layers come before them.
    """

    def __init__(self, config: TransformerConfig, rates: Sequence[float] | None = None) -> None:
        rates = linear_rates(config.drop_path, config.depth) if rates is None else rates
        super().__init__(TransformerBlock(config, rate) for rate in rates)

    def forward(self, x: Tensor, queries: int | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T, dim) to (B, T, dim); tokens where ``mask`` (B, T) is false are padding.

        With ``queries`` the last layer computes the first tokens only, (B, queries, dim): a
        network that reads a class token needs no others.
        """
        *blocks, last = self
        for block in blocks:
            x = block(x, mask=mask)
        y: Tensor = last(x, queries=queries, mask=mask)
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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens where ``mask`` (B, T) is false are left out; each sample has one at least."""
        positions = (2, 3) if self.dims == 2 else (1,)
        if self.kind == "avg":
            if mask is None:
                return x.mean(positions)
            real = mask.unsqueeze(-1).to(x.dtype)
            return (x * real).sum(1) / real.sum(1)
        if self.kind == "max":
            if mask is not None:
                x = x.masked_fill(~mask.unsqueeze(-1), -torch.inf)
            return x.amax(positions)
        tokens = x.flatten(2).transpose(1, 2) if self.dims == 2 else x
        scores = tokens @ self.score
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1).unsqueeze(1) @ tokens).squeeze(1)


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
    """Uniform by inputs and outputs (Glorot & Bengio 2010, sec. 4.2.1, as Vaswani et al. 2017's
    code), biases zero. BERT's deviation of 0.02 is for widths of 768: narrow layers would start
    with hardly any signal."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def make_head(width: int, outputs: int) -> nn.Linear:
    """The last layer, uniform within 1/√width (LeCun et al. 1998, sec. 4.6); biases zero.

    Weights near zero, and residual branches that start at zero (Goyal et al. 2017, sec. 5.1), are
    for SGD with large rates: a step of AdamW moves a weight by the learning rate at most, so that
    short trainings end before they have grown.
    """
    head = nn.Linear(width, outputs)
    nn.init.zeros_(head.bias)
    return head
