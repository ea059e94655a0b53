"""ResNet: He et al. 2016, "Deep Residual Learning for Image Recognition"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nas.models.blocks import (
    DropPath,
    GlobalPool,
    init_he,
    linear_rates,
    make_activation,
    make_head,
    make_norm,
    zero_branch,
)


@dataclass(frozen=True)
class Stage:
    """``depth`` blocks at one resolution; the first of them has the ``stride``.

    A basic block is two ``kernel`` convolutions of ``width`` channels. A bottleneck is
    1x1, ``kernel``, 1x1, and puts out four times ``width``.
    """

    depth: int
    width: int
    kernel: int = 3
    norm: str = "batch"
    activation: str = "relu"
    residual: bool = True
    stride: int = 2
    bottleneck: bool = False

    @property
    def out_width(self) -> int:
        return 4 * self.width if self.bottleneck else self.width


class _Block(nn.Module):
    """The stride is on the ``kernel`` convolution of a bottleneck (as is common since)."""

    def __init__(self, width: int, stage: Stage, stride: int, drop_path: float) -> None:
        super().__init__()

        def unit(n_in: int, n_out: int, kernel: int, stride: int) -> list[nn.Module]:
            bias = stage.norm == "none"
            conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=bias)
            return [conv, make_norm(stage.norm, n_out, dims=2)]

        inner, out, kernel = stage.width, stage.out_width, stage.kernel
        if stage.bottleneck:
            layers = [
                *unit(width, inner, 1, 1),
                make_activation(stage.activation),
                *unit(inner, inner, kernel, stride),
                make_activation(stage.activation),
                *unit(inner, out, 1, 1),
            ]
        else:
            layers = [
                *unit(width, inner, kernel, stride),
                make_activation(stage.activation),
                *unit(inner, out, kernel, 1),
            ]
        self.branch = nn.Sequential(*layers)
        self.residual = stage.residual
        self.shortcut: nn.Module = nn.Identity()
        if stage.residual and (stride != 1 or width != out):
            self.shortcut = nn.Sequential(*unit(width, out, 1, stride))
        self.drop_path = DropPath(drop_path)
        self.activation = make_activation(stage.activation)
        init_he(self)
        if stage.residual:
            zero_branch(*layers[-2:])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        if self.residual:
            y = self.drop_path(y) + self.shortcut(x)
        out: Tensor = self.activation(y)
        return out


class ResNet(nn.Module):
    """A stem, stages of convolutional blocks, global pooling and a linear head.

    ``norm`` and ``activation`` are the stem's; each stage has its own. ``drop_path`` is
    the rate of the last block. He initialisation; the head starts small and residual
    branches at zero.
    """

    def __init__(
        self,
        input: nn.Module,
        in_channels: int,
        outputs: int,
        stem_width: int,
        stem_kernel: int,
        stem_stride: int,
        stem_pool: bool,
        stages: Sequence[Stage],
        pooling: str = "avg",
        dropout: float = 0.0,
        drop_path: float = 0.0,
        norm: str = "batch",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.input = input
        padding, bias = stem_kernel // 2, norm == "none"
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_width, stem_kernel, stem_stride, padding, bias=bias),
            make_norm(norm, stem_width, dims=2),
            make_activation(activation),
            *([nn.MaxPool2d(3, stride=2, padding=1)] if stem_pool else []),
        )
        init_he(self.stem)
        rates = iter(linear_rates(drop_path, sum(stage.depth for stage in stages)))
        blocks: list[nn.Module] = []
        width = stem_width
        for stage in stages:
            for index in range(stage.depth):
                stride = 1 if index else stage.stride
                blocks.append(_Block(width, stage, stride, next(rates)))
                width = stage.out_width
        self.blocks = nn.Sequential(*blocks)
        self.width = width
        self.pool = GlobalPool(pooling, width, dims=2)
        self.dropout = nn.Dropout(dropout)
        self.head = make_head(width, outputs)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, outputs)."""
        y: Tensor = self.head(self.dropout(self.pool(self._maps(image))))
        return y

    def features(self, image: Tensor) -> tuple[Tensor, None]:
        """The positions of the last maps as tokens, (B, H * W, width)."""
        return self._maps(image).flatten(2).transpose(1, 2), None

    def _maps(self, image: Tensor) -> Tensor:
        x: Tensor = self.blocks(self.stem(self.input(image)))
        return x


def _published(depths: Sequence[int], bottleneck: bool) -> dict[str, Any]:
    stages = tuple(
        Stage(depth, 64 * 2**i, stride=2 if i else 1, bottleneck=bottleneck)
        for i, depth in enumerate(depths)
    )
    stem = {"stem_width": 64, "stem_kernel": 7, "stem_stride": 2, "stem_pool": True}
    return {**stem, "stages": stages}


RESNET18 = _published((2, 2, 2, 2), bottleneck=False)
RESNET50 = _published((3, 4, 6, 3), bottleneck=True)
