"""PointNet: Qi et al. 2017, "PointNet: Deep Learning on Point Sets"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.models.blocks import (
    GlobalPool,
    init_he,
    make_activation,
    make_head,
    make_masked_norm,
    make_norm,
)
from nas.models.inputs import PointInput


class PointLayer(nn.Module):
    """A linear layer, a normalisation and an activation, the same for every point.

    With ``residual`` the input is added before the activation where the widths agree; the
    layer starts as the identity then.
    """

    def __init__(
        self, n_in: int, n_out: int, norm: str, activation: str, residual: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=norm == "none")
        self.norm = make_masked_norm(norm, n_out)
        self.activation = make_activation(activation)
        self.residual = residual and n_in == n_out
        init_he(self)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, P, n_in) and the mask (B, P) of what is no padding, to (B, P, n_out)."""
        y = self.norm(self.linear(x), mask)
        out: Tensor = self.activation(x + y if self.residual else y)
        return out


class CloudPool(nn.Module):
    """One vector of a cloud: its "max", "avg" or "attention" pooling, or "max+avg" side by
    side, (B, ``width``)."""

    def __init__(self, kind: str, width: int) -> None:
        super().__init__()
        kinds = kind.split("+")
        self.pools = nn.ModuleList(GlobalPool(each, width, dims=1) for each in kinds)
        self.width = width * len(kinds)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, P, width of a point) and the mask (B, P) of what is no padding."""
        pooled = [pool(x, mask) for pool in self.pools]
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


@dataclass(frozen=True)
class CloudConfig:
    """What networks over points have in common: norm and activation of their layers, and the
    read-out.

    After ``pooling`` (see ``CloudPool``) stand fully connected layers of the widths ``head``, with
    BatchNorm (LayerNorm where ``norm`` is another, as a batch may be small then), ``dropout``, and
    a linear layer to ``outputs``.
    """

    outputs: int
    norm: str = "batch"
    activation: str = "relu"
    pooling: str = "max"
    head: Sequence[int] = ()
    dropout: float = 0.0


def cloud_head(width: int, config: CloudConfig) -> nn.Sequential:
    """The layers after the pooling, whose vectors have ``width`` values: those of Qi et al. 2017,
    fig. 2, with dropout before the last (appendix C)."""
    layers: list[nn.Module] = []
    norm = "batch" if config.norm == "batch" else "layer"
    for size in config.head:
        layers += [nn.Linear(width, size), make_norm(norm, size, dims=1)]
        layers += [make_activation(config.activation)]
        width = size
    head = nn.Sequential(*layers, nn.Dropout(config.dropout))
    init_he(head)
    head.append(make_head(width, config.outputs))
    return head


class _Transform(nn.Module):
    """Transforms each cloud by a 3x3 matrix that a small PointNet reads off it (sec. 4.2, T-Net).

    The matrix starts as the identity.
    """

    def __init__(self, in_channels: int, width: int, norm: str, activation: str) -> None:
        super().__init__()
        self.local = PointLayer(in_channels, width, norm, activation)
        self.pool = GlobalPool("max", width, dims=1)
        self.matrix = nn.Linear(width, 9)
        nn.init.zeros_(self.matrix.weight)
        nn.init.zeros_(self.matrix.bias)
        self.register_buffer("identity", torch.eye(3), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        matrix = self.matrix(self.pool(self.local(x, mask), mask)).unflatten(1, (3, 3))
        place = x[..., :3] @ (matrix + self.identity)
        return torch.cat([place, x[..., 3:]], dim=-1)


class PointNet(nn.Module):
    """Layers shared by all points, one pooling over the cloud, fully connected layers.

    ``widths`` are those of the shared layers; the last is what is pooled, and wide, as the
    maximum keeps the most informative point of each of its channels (sec. 4.3 and 5.4).
    ``residual``: layers as wide as their input add it. ``transform`` is the width of the
    layer that turns the input (0: none). He initialisation.
    """

    def __init__(
        self,
        input: PointInput,
        config: CloudConfig,
        widths: Sequence[int],
        transform: int = 0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.input = input
        kinds = (config.norm, config.activation)
        self.transform = _Transform(input.channels, transform, *kinds) if transform else None
        sizes = zip((input.channels, *widths), widths, strict=False)
        self.layers = nn.ModuleList(PointLayer(*size, *kinds, residual) for size in sizes)
        self.width = widths[-1]
        self.pool = CloudPool(config.pooling, self.width)
        self.head = cloud_head(self.pool.width, config)

    def features(self, points: Tensor, points_length: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, P, d) and their numbers (B,) to (B, P, width) and the mask (B, P)."""
        x, mask = self.input(points, points_length)
        if self.transform is not None:
            x = self.transform(x, mask)
        for layer in self.layers:
            x = layer(x, mask)
        return x, mask

    def forward(self, points: Tensor, points_length: Tensor) -> Tensor:
        """Points (B, P, d) and their numbers (B,) to logits (B, outputs)."""
        x, mask = self.features(points, points_length)
        y: Tensor = self.head(self.pool(x, mask))
        return y


# The classifier of fig. 2, without its transforms, for the 40 classes of ModelNet.
POINTNET: dict[str, Any] = {
    "widths": (64, 64, 64, 128, 1024),
    "config": CloudConfig(40, head=(512, 256)),
}
