"""DGCNN: Wang et al. 2019, "Dynamic Graph CNN for Learning on Point Clouds"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas.models.blocks import init_he, make_activation, make_masked_norm
from nas.models.inputs import PointInput
from nas.models.pointnet import CloudConfig, CloudPool, PointLayer, cloud_head

GRAIN = 2.0**20  # squared distances are compared in units of 1 / GRAIN, equal ones by number


@torch.no_grad()
def nearest(x: Tensor, mask: Tensor, k: int) -> Tensor:
    """The rows (B, P, k) of the ``k`` nearest points of each point, itself among them.

    ``x`` (B, P, C); k is at most P. Of equally distant points the first are taken, so that
    padding cannot change the choice: points on a grid have many. Where a cloud has fewer
    than k points, a point is its own neighbour as often as needed.
    """
    points = x.shape[1]
    x = x.double()  # mixed precision leaves it alone, and its errors are far below the grain
    square = x.square().sum(-1)
    distance = square[:, :, None] + square[:, None, :] - 2 * x @ x.transpose(1, 2)
    itself = torch.arange(points, device=x.device)
    # The distance above, the number below, in one whole number; padding is farther than all.
    whole = (distance.clamp(0, 2.0**20) * GRAIN).round().long()
    whole = whole.masked_fill(~mask[:, None, :], 2**42) * 2**20 + itself
    whole = torch.where(itself == itself[:, None], itself, whole)
    found = whole.topk(min(k, points), dim=-1, largest=False).values
    number = found % 2**20
    return torch.where(found < 2**62, number, itself[:, None])


class EdgeConv(nn.Module):
    """The maximum over a point's neighbours of a layer of the point and of its difference.

    y_i = activation(norm(max_j W1 x_i + W2 (x_j - x_i))), sec. 3.1 with the linear map before
    the maximum and the rest, which grows with it, after: a k-th of the values. Both maps are
    taken of the points rather than of the edges.
    """

    def __init__(
        self, n_in: int, n_out: int, norm: str, activation: str, residual: bool = False
    ) -> None:
        super().__init__()
        self.both = nn.Linear(2 * n_in, n_out, bias=norm == "none")  # of x_i, and of x_j - x_i
        self.norm = make_masked_norm(norm, n_out)
        self.activation = make_activation(activation)
        self.residual = residual and n_in == n_out
        init_he(self)

    def forward(self, x: Tensor, neighbours: Tensor, mask: Tensor) -> Tensor:
        """(B, P, n_in) and rows (B, P, k) to (B, P, n_out)."""
        own, difference = self.both.weight.chunk(2, dim=1)
        here = nn.functional.linear(x, own - difference, self.both.bias)
        y = here + _largest(nn.functional.linear(x, difference), neighbours)
        y = self.norm(y, mask)
        out: Tensor = self.activation(x + y if self.residual else y)
        return out


def _largest(x: Tensor, neighbours: Tensor) -> Tensor:
    """The maximum of each channel over the neighbours, (B, P, C).

    Which neighbour holds it is found without a gradient, so that the backward pass touches
    one value for each maximum rather than k.
    """
    batch, points, k = neighbours.shape
    with torch.no_grad():
        first = torch.arange(batch, device=x.device)[:, None, None] * points
        rows = (neighbours + first).flatten()
        edges = x.flatten(0, 1).index_select(0, rows).view(batch, points, k, x.shape[2])
        holder = neighbours.gather(2, edges.max(2).indices)
    return x.gather(1, holder)


class DGCNN(nn.Module):
    """Edge convolutions over the k nearest neighbours, all joined and mixed, then pooled.

    ``widths`` are those of the edge convolutions, and ``embedding`` of the layer that mixes
    them (fig. 3). With ``dynamic`` each finds its neighbours among the features it is given;
    otherwise the neighbours in space serve all. ``residual``: convolutions as wide as their input
    add it. He initialisation.
    """

    def __init__(
        self,
        input: PointInput,
        config: CloudConfig,
        widths: Sequence[int],
        embedding: int,
        k: int,
        dynamic: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.input = input
        self.k, self.dynamic = k, dynamic
        kinds = (config.norm, config.activation)
        sizes = zip((input.channels, *widths), widths, strict=False)
        self.layers = nn.ModuleList(EdgeConv(*size, *kinds, residual) for size in sizes)
        self.mix = PointLayer(sum(widths), embedding, *kinds)
        self.width = embedding
        self.pool = CloudPool(config.pooling, self.width)
        self.head = cloud_head(self.pool.width, config)

    def features(self, points: Tensor, points_length: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, P, d) and their numbers (B,) to (B, P, width) and the mask (B, P)."""
        x, mask = self.input(points, points_length)
        neighbours = nearest(x[..., :3], mask, self.k)
        found = []
        for i, layer in enumerate(self.layers):
            if self.dynamic and i:
                neighbours = nearest(x, mask, self.k)
            x = layer(x, neighbours, mask)
            found.append(x)
        return self.mix(torch.cat(found, dim=-1), mask), mask

    def forward(self, points: Tensor, points_length: Tensor) -> Tensor:
        """Points (B, P, d) and their numbers (B,) to logits (B, outputs)."""
        x, mask = self.features(points, points_length)
        y: Tensor = self.head(self.pool(x, mask))
        return y


# The classifier of fig. 3 and sec. 5.1, for the 40 classes of ModelNet.
DGCNN_MODELNET: dict[str, Any] = {
    "widths": (64, 64, 128, 256),
    "embedding": 1024,
    "k": 20,
    "config": CloudConfig(40, pooling="max+avg", head=(512, 256)),
}
