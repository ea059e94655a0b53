"""Mamba: Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces".

The recurrence of a selective state space, for each channel d and state n,

    h[t] = exp(Δ[t] A) h[t-1] + Δ[t] B[t] x[t],    y[t] = Σ_n C[t] h[t],

is an operator of its own, ``nas::selective_scan``: a loop over time with one fused
multiply-add in each step and a backward written by hand, so that time is linear in the
length. Chunks of a few steps are vectorised together, and only the state before each is kept
for the backward, which computes the others again. A network that is exported uses a form of
plain operators instead: a parallel prefix sum in ⌈log2 T⌉ steps (Hillis & Steele 1986).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from nas.models.blocks import DropPath, GlobalPool, linear_rates, make_head, make_norm, real
from nas.models.encoder import EmbeddingConfig, TokenEmbedding

CHUNK = 8  # steps: few enough for the processor's cache


def _states(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states (t, B, D, N) of one chunk, time first, from the state ``h`` before."""
    decay = (delta.unsqueeze(-1) * a).exp_()
    states = (delta * x).unsqueeze(-1) * b.unsqueeze(-2)
    for step, keep in zip(states.unbind(0), decay.unbind(0), strict=True):
        h = step.addcmul_(keep, h)
    return decay, states


def _chunks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """(B, T, …) cut along T and laid out time first."""
    cut = [torch.split(t.transpose(0, 1).contiguous(), CHUNK) for t in tensors]
    return list(zip(*cut, strict=True))


@torch.library.custom_op("nas::selective_scan", mutates_args=())
def _scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """y (B, T, D), and the state before each chunk (chunks, B, D, N)."""
    h = x.new_zeros(x.shape[0], *a.shape)
    before, outputs = [], []
    for x_, delta_, b_, c_ in _chunks(x, delta, b, c):
        before.append(h)
        _, states = _states(x_, delta_, a, b_, h)
        outputs.append((states @ c_.unsqueeze(-1)).squeeze(-1))
        h = states[-1].clone()  # the chunk itself is not kept
    return torch.cat(outputs).transpose(0, 1).contiguous(), torch.stack(before)


for _device in ("cpu", "cuda"):  # mixed precision leaves what is inside alone
    _scan.register_autocast(_device, torch.float32)


@_scan.register_fake
def _(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(-(-x.shape[1] // CHUNK), x.shape[0], *a.shape)


@torch.library.custom_op("nas::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad: Tensor, x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, delta, a, b, c.

    With G[t] the gradient of h[t]: G[t] = C[t] ∂y[t] + exp(Δ[t+1] A) G[t+1].
    """
    later = x.new_zeros(x.shape[0], *a.shape)  # what the next chunk hands back
    da = torch.zeros_like(a)
    found = []
    chunks = _chunks(grad, x, delta, b, c)
    for h, (grad_, x_, delta_, b_, c_) in zip(reversed(before), reversed(chunks), strict=True):
        decay, states = _states(x_, delta_, a, b_, h)
        dc = (grad_.unsqueeze(-2) @ states).squeeze(-2)
        g = grad_.unsqueeze(-1) * c_.unsqueeze(-2)
        steps, keeps = g.unbind(0), decay.unbind(0)
        steps[-1].add_(later)
        for t in range(len(steps) - 2, -1, -1):
            steps[t].addcmul_(keeps[t + 1], steps[t + 1])
        later = keeps[0] * steps[0]
        db = ((delta_ * x_).unsqueeze(-2) @ g).squeeze(-2)
        through = (g @ b_.unsqueeze(-1)).squeeze(-1)  # gradient of Δ x
        # Through the decay: G[t] h[t-1] exp(Δ[t] A) is the gradient of Δ[t] A.
        g.mul_(decay)
        g[0].mul_(h)
        g[1:].mul_(states[:-1])
        da += (g * delta_.unsqueeze(-1)).sum((0, 1))
        ddelta = (g * a).sum(-1) + through * x_
        found.append((through * delta_, ddelta, db, dc))
    dx, ddelta, db, dc = (
        torch.cat(parts).transpose(0, 1).contiguous()
        for parts in zip(*reversed(found), strict=True)
    )
    return dx, ddelta, da, db, dc


@_scan_backward.register_fake
def _(
    grad: Tensor, x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, before: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(t) for t in (x, delta, a, b, c))  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = _scan_backward(grad.contiguous(), *ctx.saved_tensors)
    return found


_scan.register_autograd(_differentiate, setup_context=_keep)


@register_flop_formula(torch.ops.nas.selective_scan)
def scan_flops(
    x: Any, delta: Any, a: Any, b: Any, c: Any, *, out_shape: Any = None, **_: Any
) -> int:
    """Δ A, Δ x B, the multiply-add of the state and that of y: six for each state in each
    step, and Δ x."""
    batch, length, channels = x
    return int(batch * length * channels * (6 * a[1] + 1))


def parallel_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, most: int) -> Tensor:
    """The same y (B, T, D) in plain operators, for T up to ``most``.

    After step k each place holds the composition of the last 2^k steps of the recurrence.
    """
    decay = (delta.unsqueeze(-1) * a).exp()
    h = (delta * x).unsqueeze(-1) * b.unsqueeze(-2)
    length = x.shape[1]
    shift = 1
    while shift < most:
        back = (0, 0, 0, 0, shift, 0)
        h = h + decay * F.pad(h, back)[:, :length]
        decay = decay * F.pad(decay, back, value=1.0)[:, :length]
        shift *= 2
    return (h @ c.unsqueeze(-1)).squeeze(-1)


def selective_scan(
    x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, most: int = 0
) -> Tensor:
    """Gu & Dao 2023, algorithm 2: x, delta (B, T, D), a (D, N), b, c (B, T, N) to (B, T, D).

    ``most`` is the greatest T of an exported network.
    """
    if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return parallel_scan(x, delta, a, b, c, most or x.shape[1])
    y: Tensor = torch.ops.nas.selective_scan(x, delta, a, b, c)[0]
    return y


class _Mixer(nn.Module):
    """The block of Gu & Dao 2023, fig. 3: a gated, causal convolution and a selective scan.

    ``rank`` of the projection to Δ is a sixteenth of ``dim``; Δ starts between 0.001 and 0.1
    (sec. 3.6) and A at -1, -2, …, -states (S4D-real).
    """

    def __init__(self, dim: int, length: int, expand: int, states: int, kernel: int) -> None:
        super().__init__()
        inner, rank = expand * dim, max(1, math.ceil(dim / 16))
        self.length, self.sizes = length, [rank, states, states]
        self.into = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.select = nn.Linear(inner, rank + 2 * states, bias=False)
        self.delta = nn.Linear(rank, inner)
        self.log_a = nn.Parameter(torch.arange(1, states + 1).float().log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, dim, bias=False)
        nn.init.uniform_(self.delta.weight, -(rank**-0.5), rank**-0.5)
        start = torch.exp(torch.empty(inner).uniform_(math.log(1e-3), math.log(0.1)))
        with torch.no_grad():
            self.delta.bias.copy_(start + torch.log(-torch.expm1(-start)))  # softplus inverted

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) to (B, T, dim); a place sees none after it."""
        length = x.shape[1]
        x, gate = self.into(x).chunk(2, dim=-1)
        x = F.silu(self.conv(x.transpose(1, 2))[..., :length]).transpose(1, 2)
        delta, b, c = torch.split(self.select(x), self.sizes, dim=-1)
        # The recurrence runs in float32: a rounded decay is raised to the power of the length.
        delta = F.softplus(self.delta(delta).float())
        a = -self.log_a.float().exp()
        y = selective_scan(x.float(), delta, a, b.float(), c.float(), self.length)
        y = (y + x * self.skip).to(x.dtype) * F.silu(gate)
        result: Tensor = self.out(y)
        return result


@dataclass(frozen=True)
class MambaConfig:
    """A stack of ``depth`` equal Mamba blocks; the defaults are those of Gu & Dao 2023."""

    dim: int  # features of a token
    depth: int
    expand: int = 2  # channels inside a block, divided by dim
    states: int = 16  # of each channel
    kernel: int = 4  # of the causal convolution
    norm: str = "rms"
    dropout: float = 0.0
    drop_path: float = 0.0  # of the last block; rates grow linearly up to it


class MambaBlock(nn.Module):
    """A residual branch: norm, selective state space, dropout.

    ``length`` is that of the longest sample and ``drop_path`` the rate of this block.
    """

    residual = True

    def __init__(self, config: MambaConfig, length: int, drop_path: float) -> None:
        super().__init__()
        self.norm = make_norm(config.norm, config.dim, dims=1)
        self.mixer = _Mixer(config.dim, length, config.expand, config.states, config.kernel)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) to (B, T, dim)."""
        y: Tensor = x + self.drop_path(self.dropout(self.mixer(self.norm(x))))
        return y


class Mamba(nn.Module):
    """Mamba blocks over vectors (B, T, dim) that ``embedding`` makes, pooled into one.

    ``length`` is that of the longest sample. ``pooling``: "avg", "attention" and "max" of all
    places, or the "last" token's, which has seen all others. The pooled vector is normalised
    rather than each token: an informative word weighs more than one that is hardly known.
    """

    def __init__(
        self,
        embedding: nn.Module,
        length: int,
        outputs: int,
        layers: MambaConfig,
        pooling: str = "avg",
    ) -> None:
        super().__init__()
        dim = layers.dim
        self.width = dim
        self.embedding = embedding
        rates = linear_rates(layers.drop_path, layers.depth)
        self.blocks = nn.Sequential(*(MambaBlock(layers, length, rate) for rate in rates))
        self.norm = make_norm(layers.norm, dim, dims=1)
        self.readout = ("norm", "head")  # the modules that features do without
        self.last = pooling == "last"
        self.pool = GlobalPool("avg" if self.last else pooling, dim, dims=1)
        self.dropout = nn.Dropout(layers.dropout)
        self.head = make_head(dim, outputs)

    def read(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (B, T, dim), padded, to (B, T, width) and where it is real; the "last" one to
        (B, 1, width)."""
        x = self.blocks(x)
        if not self.last:
            return x, real(length, x.shape[1])
        last = (length - 1)[:, None, None].expand(-1, -1, x.shape[-1])
        return x.gather(1, last), None

    def answer(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What ``read`` returns to logits (B, outputs)."""
        y: Tensor = self.head(self.dropout(self.norm(self.pool(x, mask))))
        return y


class TextMamba(Mamba):
    """A ``Mamba`` over embedded tokens."""

    def __init__(
        self,
        embedding: EmbeddingConfig,
        length: int,
        outputs: int,
        layers: MambaConfig,
        pooling: str = "avg",
    ) -> None:
        super().__init__(TokenEmbedding(embedding, layers.dim), length, outputs, layers, pooling)

    def features(self, tokens: Tensor, tokens_length: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T), padded, as ``read`` returns them."""
        return self.read(self.embedding(tokens), tokens_length)

    def forward(self, tokens: Tensor, tokens_length: Tensor) -> Tensor:
        """Padded tokens (B, T) and their lengths (B,) to logits (B, outputs)."""
        return self.answer(*self.features(tokens, tokens_length))
