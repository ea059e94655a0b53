"""A sparse 3-D CNN: submanifold convolutions over the occupied voxels alone.

Graham, Engelcke & van der Maaten 2018, "3D Semantic Segmentation with Submanifold Sparse
Convolutional Networks"; residual stages as in Choy et al. 2019, "4D Spatio-Temporal ConvNets".

All occupied voxels of a batch are the rows of one matrix (N, C). Which row is the neighbour of
which, the *kernel map*, depends on where they are alone: it is found once for each level of
resolution, and all convolutions of the level share it. N depends on the data, and so the
network cannot run on the meta device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nas.models.blocks import (
    DropPath,
    linear_rates,
    make_activation,
    make_norm,
)
from nas.models.inputs import PointInput
from nas.models.pointnet import CloudConfig, CloudPool, cloud_head

TABLE_CELLS = 2**26  # of a grid up to which a table of all cells is the fastest look-up
GATHERED_VALUES = 2**20  # around all voxels, up to which they are gathered at once
CENTRE = 13  # of the 27 voxels of a 3x3x3 kernel
# Half of the others: the other half are their mirror images, from the neighbour's side.
HALF = 13


@dataclass(frozen=True)
class Voxels:
    """The occupied voxels of ``clouds`` grids of ``side``³.

    ``cells`` (N,) int64, increasing, number them in grids with one empty layer around each:
    ((cloud (side + 2) + x + 1) (side + 2) + y + 1) (side + 2) + z + 1. A neighbour is then a
    fixed step away, and never in another row or another cloud.
    """

    cells: Tensor
    clouds: int
    side: int

    @property
    def edge(self) -> int:
        """Cells along one side of a grid, with the empty layer around it."""
        return self.side + 2

    @classmethod
    def of(cls, place: Tensor, cloud: Tensor, clouds: int, side: int) -> tuple[Voxels, Tensor]:
        """From voxel coordinates (M, 3) in 0..side - 1 and the cloud (M,) of each; a row
        whose cloud is ``clouds`` is padding. Also the voxel's row of each, N for padding."""
        edge = side + 2
        x, y, z = (place + 1).unbind(1)
        cell = ((cloud * edge + x) * edge + y) * edge + z
        size = clouds * edge**3  # padding is from here on
        if size > TABLE_CELLS:
            known = cloud < clouds
            cells = torch.unique(cell[known])
            return cls(cells, clouds, side), torch.searchsorted(cells, cell)
        seen = torch.zeros(size + 1, dtype=torch.bool, device=cell.device)
        seen = seen.index_fill(0, cell.clamp(max=size), True)
        cells = seen[:size].nonzero()[:, 0]
        # torch.export does not know the data, and has to be given this fact.
        torch._check(cells.shape[0] > 0)  # type: ignore[no-untyped-call]
        voxels = cls(cells, clouds, side)
        return voxels, voxels._table[cell.clamp(max=size)]

    @cached_property
    def _table(self) -> Tensor:
        """The row of each cell, N for an empty one: a perfect hash."""
        count = self.cells.shape[0]
        table = self.cells.new_full((self.clouds * self.edge**3 + 1,), count)
        return table.index_put((self.cells,), torch.arange(count, device=self.cells.device))

    def find(self, cells: Tensor) -> Tensor:
        """The rows of cells of any shape; N where a cell is empty."""
        if self.clouds * self.edge**3 <= TABLE_CELLS:
            return self._table[cells]
        row = torch.searchsorted(self.cells, cells)
        count = self.cells.shape[0]
        there = self.cells[row.clamp(max=count - 1)] == cells
        return torch.where(there, row, count)

    def place(self) -> tuple[Tensor, Tensor]:
        """Voxel coordinates (N, 3) and clouds (N,)."""
        rest, axes = self.cells, []
        for _ in range(3):
            axes.append(rest % self.edge - 1)
            rest = rest // self.edge
        return torch.stack(axes[::-1], dim=1), rest

    def _steps(self) -> Tensor:
        """From a cell to each of the 27 around it, in the order of a kernel's weights."""
        step = torch.arange(-1, 2, device=self.cells.device)
        return ((step[:, None, None] * self.edge + step[:, None]) * self.edge + step).flatten()

    @cached_property
    def around(self) -> Tensor:
        """The rows (N, 27) of the voxels around each voxel; N where there is none."""
        return self.find(self.cells[:, None] + self._steps())

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, list[int]]:
        """The neighbours that there are: voxel (M,), neighbour (M,), and how many of them
        belong to each of the first 13 weights of the kernel, which stand in that order."""
        found = self.find(self.cells + self._steps()[:HALF, None])
        there = found < self.cells.shape[0]
        return there.nonzero()[:, 1], found[there], there.sum(1).tolist()


class _Submanifold(torch.autograd.Function):
    """Gather, one product for each weight of the kernel, add; hand-written, as autograd would
    write a matrix of zeros for each of the 26 gathers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, voxels: Voxels) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.voxels = voxels
        y = x @ weight[CENTRE]
        for k, here, there in _kernel(voxels):
            y.index_add_(0, here, x.index_select(0, there) @ weight[k])
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = gradients
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = grad @ weight[CENTRE].T, torch.zeros_like(weight)
        grad_weight[CENTRE] = x.T @ grad
        for k, here, there in _kernel(ctx.voxels):
            coming = grad.index_select(0, here)
            grad_x.index_add_(0, there, coming @ weight[k].T)
            grad_weight[k] = x.index_select(0, there).T @ coming
        return grad_x, grad_weight, None


def _kernel(voxels: Voxels) -> list[tuple[int, Tensor, Tensor]]:
    """Of each weight beside the centre: its number, and the voxels and neighbours it joins."""
    here, there, counts = voxels.pairs
    found = []
    ways = zip(torch.split(here, counts), torch.split(there, counts), strict=True)
    for k, (a, b) in enumerate(ways):
        if len(a):
            found += [(k, a, b), (26 - k, b, a)]
    return found


class SubmanifoldConv(nn.Module):
    """A 3x3x3 convolution whose output has the voxels of its input, and no others (sec. 3).

    At them it equals ``nn.Conv3d`` with padding 1 over the grid that is zero elsewhere.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(27, n_in, n_out))
        nn.init.normal_(self.weight, std=(2 / (27 * n_in)) ** 0.5)

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        """(N, n_in) to (N, n_out)."""
        weight: Tensor = self.weight
        # An exported graph has no loop over counts, and a prediction for a cloud or two is
        # quicker with one product, zeros and all, than with a small one for each weight.
        if torch.compiler.is_compiling() or (
            not torch.is_grad_enabled() and 27 * x.numel() <= GATHERED_VALUES
        ):
            x = torch.cat([x, x.new_zeros(1, x.shape[1])])
            return x[voxels.around].flatten(1) @ weight.flatten(0, 1)
        device = x.device.type
        if torch.is_autocast_enabled(device):  # the backward pass knows of no autocast
            dtype = torch.get_autocast_dtype(device)
            x, weight = x.to(dtype), weight.to(dtype)
        y: Tensor = _Submanifold.apply(x, weight, voxels)  # type: ignore[no-untyped-call]
        return y


class DownConv(nn.Module):
    """A 2x2x2 convolution of stride 2, whose voxels are those with any voxel inside.

    At them it equals ``nn.Conv3d`` with kernel and stride 2 over the grid that is zero
    elsewhere, of an even side.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8, n_in, n_out))
        nn.init.normal_(self.weight, std=(2 / (8 * n_in)) ** 0.5)

    def forward(self, x: Tensor, voxels: Voxels) -> tuple[Tensor, Voxels]:
        """(N, n_in) to (N', n_out) and its voxels."""
        place, cloud = voxels.place()
        coarse, row = Voxels.of(place // 2, cloud, voxels.clouds, (voxels.side + 1) // 2)
        corner = (place % 2 * torch.tensor([4, 2, 1], device=x.device)).sum(1)
        parts = x.new_zeros(coarse.cells.shape[0] * 8, x.shape[1])
        parts = parts.index_put((row * 8 + corner,), x)
        return parts.view(-1, 8 * x.shape[1]) @ self.weight.flatten(0, 1), coarse


class _Residual(nn.Module):
    """Two submanifold convolutions around a shortcut, which a product widens where need be."""

    def __init__(self, n_in: int, width: int, norm: str, activation: str, drop_path: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = SubmanifoldConv(n_in, width), SubmanifoldConv(width, width)
        self.norm1, self.norm2 = (make_norm(norm, width, dims=1) for _ in range(2))
        self.shortcut: nn.Module = nn.Identity()
        if n_in != width:
            widen = nn.Linear(n_in, width, bias=False)
            nn.init.kaiming_normal_(widen.weight, nonlinearity="relu")
            self.shortcut = nn.Sequential(widen, make_norm(norm, width, dims=1))
        self.activation = make_activation(activation)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, voxels: Voxels) -> Tensor:
        y = self.activation(self.norm1(self.conv1(x, voxels)))
        y = self.norm2(self.conv2(y, voxels))
        if self.drop_path.training and self.drop_path.p:
            # Left out for a whole cloud, not for single voxels.
            y = y * self.drop_path(y.new_ones(voxels.clouds, 1))[voxels.place()[1]]
        out: Tensor = self.activation(self.shortcut(x) + y)
        return out


@dataclass(frozen=True)
class Stage:
    """``depth`` residual blocks of ``width`` channels at one level of resolution."""

    depth: int
    width: int


class _Level(nn.Module):
    """A stage of blocks, with ``halve`` after halving the resolution, by a convolution to ``width``
    channels."""

    def __init__(
        self,
        n_in: int,
        width: int,
        halve: bool,
        stage: Stage,
        norm: str,
        activation: str,
        rates: Iterator[float],
    ) -> None:
        super().__init__()
        self.down = DownConv(n_in, width) if halve else None
        self.norm = make_norm(norm, width, dims=1) if halve else None
        self.activation = make_activation(activation)
        widths = [width, *[stage.width] * (stage.depth - 1)]
        self.blocks = nn.ModuleList(
            _Residual(first, stage.width, norm, activation, next(rates)) for first in widths
        )

    def forward(self, x: Tensor, voxels: Voxels) -> tuple[Tensor, Voxels]:
        if self.down is not None and self.norm is not None:
            x, voxels = self.down(x, voxels)
            x = self.activation(self.norm(x))
        for block in self.blocks:
            x = block(x, voxels)
        return x, voxels


class SparseCNN(nn.Module):
    """Points to voxels, a submanifold convolution, stages of residual blocks, pooling.

    Coordinates within ± the input's ``extent`` are cut into ``side``³ voxels; what is outside
    falls into the outermost. A voxel is described by a one, the mean place of its points from
    its middle, in voxels, and the mean of their further channels. Each stage but the first
    begins by halving the resolution, with a ``stem_stride`` of 2 also the first. What makes it
    wider is that convolution ("stride") or the first block after it ("block", as in MinkUNet: Choy
    et al. 2019, and the authors' MinkowskiEngine). ``drop_path`` is the rate of the last block. He
    initialisation.
    """

    data_dependent = True

    def __init__(
        self,
        input: PointInput,
        config: CloudConfig,
        side: int,
        stages: Sequence[Stage],
        extent: float = 1.0,
        drop_path: float = 0.0,
        stem_stride: int = 1,
        widening: str = "stride",
    ) -> None:
        super().__init__()
        if widening not in ("stride", "block"):
            raise ValueError(f"unknown widening {widening!r}; known are stride, block")
        self.input = input
        self.side, self.extent = side, extent
        width, norm = stages[0].width, config.norm
        self.stem = SubmanifoldConv(input.channels + 1, width)
        self.stem_norm = make_norm(norm, width, dims=1)
        self.activation = make_activation(config.activation)
        rates = iter(linear_rates(drop_path, sum(stage.depth for stage in stages)))
        self.levels = nn.ModuleList()
        for i, stage in enumerate(stages):
            halve = i > 0 or stem_stride > 1
            down = width if widening == "block" else stage.width
            self.levels.append(_Level(width, down, halve, stage, norm, config.activation, rates))
            width = stage.width
        self.width = width
        self.pool = CloudPool(config.pooling, width)
        self.head = cloud_head(self.pool.width, config)

    def voxelise(self, points: Tensor, mask: Tensor) -> tuple[Tensor, Voxels]:
        """Normalised points (B, P, d) and their mask to what describes each voxel,
        (N, d + 1), and the voxels."""
        clouds, count, _ = points.shape
        cloud = torch.arange(clouds, device=points.device)[:, None].expand(-1, count)
        cloud = torch.where(mask, cloud, clouds).flatten()
        flat = points.flatten(0, 1).float()
        scaled = (flat[:, :3] / self.extent + 1) * (self.side / 2)
        place = scaled.floor().clamp(0, self.side - 1)
        voxels, row = Voxels.of(place.long(), cloud, clouds, self.side)
        offset = (scaled - place - 0.5).clamp(-1, 1)
        one = mask.flatten().to(flat.dtype)[:, None]
        described = torch.cat([one, offset, flat[:, 3:]], dim=1)
        rows = voxels.cells.shape[0]
        total = flat.new_zeros(rows + 1, described.shape[1]).index_add(0, row, described)[:rows]
        number = total[:, :1]
        return torch.cat([torch.ones_like(number), total[:, 1:] / number], dim=1), voxels

    def features(self, points: Tensor, points_length: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, P, d) and their numbers (B,) to the voxels of the last level, in place
        in their grid, (B, side³, width), and the mask of the occupied ones."""
        x, voxels = self.voxelise(*self.input(points, points_length))
        x = self.activation(self.stem_norm(self.stem(x, voxels)))
        for level in self.levels:
            x, voxels = level(x, voxels)
        place, cloud = voxels.place()
        side, clouds = voxels.side, voxels.clouds
        slot = ((cloud * side + place[:, 0]) * side + place[:, 1]) * side + place[:, 2]
        grid = x.new_zeros(clouds * side**3, self.width).index_put((slot,), x)
        mask = torch.zeros(clouds * side**3, dtype=torch.bool, device=x.device)
        mask = mask.index_fill(0, slot, True)
        return grid.view(clouds, side**3, -1), mask.view(clouds, -1)

    def forward(self, points: Tensor, points_length: Tensor) -> Tensor:
        """Points (B, P, d) and their numbers (B,) to logits (B, outputs)."""
        x, mask = self.features(points, points_length)
        y: Tensor = self.head(self.pool(x, mask))
        return y
