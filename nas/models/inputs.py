"""Front ends that live inside the network: raw pixels and columns in, features out.

They hold the statistics of the training part as buffers, so that a saved or exported
network needs no other code to predict.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import real

CLIP_AT = 10.0  # standard deviations, or widths of an outer bin


def _resize_matrix(size: int, target: int) -> Tensor:
    """Antialiased linear interpolation as a (target, size) matrix; each row sums to one.

    A triangle as wide as the step between two target pixels, or source pixels where that is more,
    at their centres. As a matrix it needs no operator that an exported network might lack.
    """
    step = size / target
    centre = (torch.arange(target) + 0.5) * step
    distance = (torch.arange(size) + 0.5 - centre[:, None]).abs() / max(step, 1.0)
    weight = (1 - distance).clamp(min=0)
    return weight / weight.sum(1, keepdim=True)


class ImageInput(nn.Module):
    """Pixels in 0..255, uint8 or float, (B, C, H, W), to normalised maps.

    ``mean`` and ``std`` are per channel, of values scaled to 0..1; a channel without
    spread is only centred. If ``resolution`` is smaller than the longer side of ``size``
    (height, width), images are shrunk to it with their aspect kept, and with ``enlarge`` they
    grow to it where it is larger. The attribute ``size`` is that of the output.
    """

    scale: Tensor
    shift: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int],
        resolution: int | None = None,
        enlarge: bool = False,
    ) -> None:
        super().__init__()
        scale = 1 / torch.tensor([s or 1.0 for s in std], dtype=torch.float32)
        self.register_buffer("scale", (scale / 255).view(-1, 1, 1))
        self.register_buffer("shift", (-torch.tensor(mean) * scale).view(-1, 1, 1))
        self.resize = resolution is not None and (
            resolution < max(size) or (enlarge and resolution > max(size))
        )
        self.size = size
        if resolution is not None and self.resize:
            height, width = (max(1, round(side * resolution / max(size))) for side in size)
            self.size = (height, width)
            self.register_buffer("rows", _resize_matrix(size[0], height), persistent=False)
            columns = _resize_matrix(size[1], width).T.contiguous()
            self.register_buffer("columns", columns, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to maps (B, C, *size)."""
        x = image.to(self.scale.dtype)
        if self.resize:
            x = self.rows @ (x @ self.columns)
        return x * self.scale + self.shift


class PointInput(nn.Module):
    """Clouds of points (B, P, d), coordinates first, to normalised ones and their mask.

    Points are standardised by ``mean`` and ``std`` per channel. With the frame "data" they
    stay so; with "cloud" each cloud's coordinates are then moved to the middle of its
    bounding box and divided by the largest distance from there: into the unit ball
    (Qi et al. 2017, PointNet, sec. 5.1). Only the first ``points`` of a cloud are read.
    Coordinates lie within ±``extent``, but for outliers of the frame "data".
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        frame: Literal["cloud", "data"] | str = "cloud",
        points: int | None = None,
    ) -> None:
        super().__init__()
        if frame not in ("cloud", "data"):
            raise ValueError(f"unknown frame {frame!r}; known are cloud, data")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        scale = 1 / torch.tensor([s or 1.0 for s in std], dtype=torch.float32)
        self.register_buffer("scale", scale)
        self.channels, self.frame, self.points = len(mean), frame, points
        self.extent = 1.0 if frame == "cloud" else 2.5

    def forward(self, points: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, P, d), zero where padded, and the mask (B, P), true where not."""
        x = points[:, : self.points]
        mask = real(length, x.shape[1])
        there = mask.unsqueeze(-1)
        x = (x.to(self.mean.dtype) - self.mean) * self.scale
        if self.frame == "cloud":
            place, features = x[..., :3], x[..., 3:]
            # Extremes rather than means: they are exactly those of the cloud without padding.
            low = place.masked_fill(~there, torch.inf).amin(1, keepdim=True)
            high = place.masked_fill(~there, -torch.inf).amax(1, keepdim=True)
            place = (place - (low + high) / 2) * there
            radius = place.square().sum(-1).amax(1).sqrt().clamp(min=1e-6)
            x = torch.cat([place / radius[:, None, None], features], dim=-1)
        return x * there, mask


class NumericEncoding(nn.Module):
    """Numeric columns (B, n), NaN where missing, to (B, n, slots).

    - "standard": (x - mean) / std, clipped to ±10; one slot.
    - "quantile": the empirical distribution function, linear between the edges, scaled
      to -1..1; one slot.
    - "piecewise": the piecewise-linear encoding of Gorishniy et al. 2022, "On Embeddings
      for Numerical Features in Tabular Deep Learning", sec. 3.2, eq. 1; one slot per bin.
      The outer bins go on linearly beyond their edges, up to ±10 bin widths (the paper
      has no limit there).

    ``quantiles`` holds the distinct, increasing bin edges of each column; a column with
    fewer than two was constant, and gets the edges mean and mean + 1. A column without
    spread is only centred by "standard".

    A missing value is all zeros. If any column is marked ``missing``, one last slot is
    one where a marked column's value is missing. Columns have ``bins`` slots of their
    own (the attribute); ``used`` indexes all used slots in the flattened (n * slots,),
    and ``width`` counts them. Slots that are not used are always zero.
    """

    left: Tensor
    inverse: Tensor
    low: Tensor
    high: Tensor
    flags: Tensor
    share: Tensor
    used: Tensor

    def __init__(
        self,
        means: Sequence[float],
        stds: Sequence[float],
        quantiles: Sequence[Sequence[float]],
        kind: Literal["standard", "quantile", "piecewise"] | str,
        missing: Sequence[bool],
    ) -> None:
        super().__init__()
        columns = len(means)
        lengths = {"stds": len(stds), "quantiles": len(quantiles), "missing": len(missing)}
        for name, length in lengths.items():
            if length != columns:
                raise ValueError(f"{name} must have one entry per mean, {columns}, not {length}")
        if kind not in ("standard", "quantile", "piecewise"):
            raise ValueError(f"unknown kind {kind!r}; known are standard, quantile, piecewise")
        if kind == "standard":
            edges = [[m, m + (s or 1.0)] for m, s in zip(means, stds, strict=True)]
        else:
            edges = [
                list(q) if len(q) > 1 else [m, m + 1] for m, q in zip(means, quantiles, strict=True)
            ]
        for column, e in enumerate(edges):
            if not all(a < b for a, b in pairwise(e)):
                raise ValueError(f"edges of numeric column {column} do not increase: {e}")
        self.kind = kind
        self.columns = columns
        self.indicator = any(missing)
        bins = [len(e) - 1 for e in edges]
        size = max(bins, default=0)
        # Rectangles: a column with fewer bins is filled up with bins whose value is 0.
        left, inverse, low, high = (torch.zeros(columns, size, device="cpu") for _ in range(4))
        for column, e in enumerate(edges):
            t = bins[column]
            precise = torch.tensor(e, dtype=torch.float64, device="cpu")
            left[column, :t] = precise[:-1]
            inverse[column, :t] = 1 / precise.diff()
            high[column, :t] = 1
            if kind != "quantile":
                low[column, 0] = -CLIP_AT
                high[column, t - 1] = CLIP_AT
        if kind == "quantile":
            # Twice the fraction of bins passed: the mean over a column's bins as one product.
            self.register_buffer("share", torch.tensor([2.0 / t for t in bins]))
        device = torch.get_default_device()
        self.register_buffer("left", left.to(device))
        self.register_buffer("inverse", inverse.to(device))
        self.register_buffer("low", low.to(device))
        self.register_buffer("high", high.to(device))
        self.register_buffer("flags", torch.tensor(list(missing), dtype=torch.float32))
        self.bins = bins if kind == "piecewise" else [1] * columns
        self.slots = max(self.bins, default=0) + self.indicator
        used = [
            column * self.slots + slot
            for column, t in enumerate(self.bins)
            for slot in [*range(t), *([self.slots - 1] if missing[column] else [])]
        ]
        self.register_buffer("used", torch.tensor(used), persistent=False)
        self.width = len(used)

    def forward(self, numeric: Tensor) -> Tensor:
        """Columns (B, n) to (B, n, slots)."""
        nan = numeric.isnan()
        # Infinite values become the largest floats: inf times a filler bin's 0 were NaN.
        x = numeric.to(self.left.dtype).nan_to_num().unsqueeze(-1)
        z = ((x - self.left) * self.inverse).clamp(self.low, self.high)
        if self.kind == "quantile":
            z = (z.sum(-1) * self.share - 1).unsqueeze(-1)
        z = z.masked_fill(nan.unsqueeze(-1), 0.0)
        if self.indicator:
            z = torch.cat([z, (nan * self.flags).unsqueeze(-1)], dim=-1)
        return z

    def flat(self, numeric: Tensor) -> Tensor:
        """The used slots side by side, (B, width)."""
        z: Tensor = self(numeric)
        z = z.flatten(1)
        return z if z.shape[1] == self.width else z.index_select(1, self.used)


class _Codes(nn.Module):
    """Codes (B, columns), each 0..cardinality, to rows of one table for all columns.

    0 is "missing or never seen"; so is a code outside the range, which must not reach
    into the next column's rows.
    """

    offsets: Tensor
    limits: Tensor

    def __init__(self, cardinalities: Sequence[int]) -> None:
        super().__init__()
        starts = [sum(cardinalities[:i]) + i for i in range(len(cardinalities))]
        self.rows = sum(cardinalities) + len(cardinalities)
        self.register_buffer("offsets", torch.tensor(starts), persistent=False)
        self.register_buffer("limits", torch.tensor(list(cardinalities)), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        codes = codes.long()
        unknown = (codes < 0) | (codes > self.limits)
        return codes.masked_fill(unknown, 0) + self.offsets


class TabularInput(nn.Module):
    """A row of a table as one vector: (B, width).

    Categorical columns are embedded, ``embedding`` values each; the table starts from
    N(0, 1), the spread of a standardised numeric column.
    """

    def __init__(
        self, numeric: NumericEncoding | None, cardinalities: Sequence[int], embedding: int
    ) -> None:
        super().__init__()
        _require_columns(numeric, cardinalities)
        self.numeric = numeric
        self.width = (numeric.width if numeric else 0) + len(cardinalities) * embedding
        self.codes = _Codes(cardinalities) if cardinalities else None
        self.table = nn.Embedding(self.codes.rows, embedding) if self.codes else None

    def forward(self, numeric: Tensor | None = None, categorical: Tensor | None = None) -> Tensor:
        """``numeric`` (B, n) float, ``categorical`` (B, m) integer codes."""
        features = []
        if self.numeric is not None:
            features.append(self.numeric.flat(_given(numeric, "numeric")))
        if self.codes is not None and self.table is not None:
            rows = self.codes(_given(categorical, "categorical"))
            features.append(self.table(rows).flatten(1))
        return features[0] if len(features) == 1 else torch.cat(features, dim=1)


class TabularTokens(nn.Module):
    """A row of a table as one token per column: (B, tokens, dim).

    The feature tokenizer of FT-Transformer (Gorishniy et al. 2021, "Revisiting Deep
    Learning Models for Tabular Data", sec. 3.3): a numeric token is the column's bias
    plus its encoding times the column's weights, a categorical one is a bias plus a row
    of a table. All start uniform within ±1/√dim; the weights of a column with T bins,
    within ±1/√(dim T).
    """

    source: Tensor

    def __init__(
        self, numeric: NumericEncoding | None, cardinalities: Sequence[int], dim: int
    ) -> None:
        super().__init__()
        _require_columns(numeric, cardinalities)
        self.numeric = numeric
        self.tokens = (numeric.columns if numeric else 0) + len(cardinalities)
        self.bias = nn.Parameter(torch.empty(self.tokens, dim).uniform_(-1, 1) / dim**0.5)
        if numeric is not None:
            bins = torch.tensor(numeric.bins).repeat_interleave(numeric.slots)[numeric.used]
            bound = (dim * bins).rsqrt().unsqueeze(1)
            self.weight = nn.Parameter(torch.empty(numeric.width, dim).uniform_(-1, 1) * bound)
            # Where each slot's weights lie; slots that are not used share a row of zeros.
            source = torch.full((numeric.columns * numeric.slots,), numeric.width)
            source[numeric.used] = torch.arange(numeric.width)
            self.register_buffer("source", source, persistent=False)
        self.codes = _Codes(cardinalities) if cardinalities else None
        self.table = nn.Embedding(self.codes.rows, dim) if self.codes else None
        if self.table is not None:
            nn.init.uniform_(self.table.weight, -(dim**-0.5), dim**-0.5)

    def forward(self, numeric: Tensor | None = None, categorical: Tensor | None = None) -> Tensor:
        """``numeric`` (B, n) float, ``categorical`` (B, m) integer codes."""
        tokens = []
        if self.numeric is not None:
            z = self.numeric(_given(numeric, "numeric"))
            weight: Tensor = self.weight
            if self.numeric.width < self.source.shape[0]:
                weight = F.pad(weight, (0, 0, 0, 1)).index_select(0, self.source)
            weight = weight.view(self.numeric.columns, self.numeric.slots, -1)
            tokens.append(torch.einsum("bns,nsd->bnd", z, weight))
        if self.codes is not None and self.table is not None:
            tokens.append(self.table(self.codes(_given(categorical, "categorical"))))
        x = tokens[0] if len(tokens) == 1 else torch.cat(tokens, dim=1)
        return x + self.bias


def _require_columns(numeric: NumericEncoding | None, cardinalities: Sequence[int]) -> None:
    if not cardinalities and (numeric is None or not numeric.columns):
        raise ValueError("a table needs at least one numeric or categorical column")


def _given(x: Tensor | None, name: str) -> Tensor:
    if x is None:
        raise TypeError(f"this network reads {name} columns: pass them as {name}=")
    return x
