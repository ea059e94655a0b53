"""What convolutional networks over images share: a stem, stages of blocks, pooling and a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from nas.models.blocks import (
    GlobalPool,
    init_he,
    linear_rates,
    make_activation,
    make_head,
    make_norm,
)


class ConvStage(Protocol):
    """``depth`` blocks at one resolution; the first of them has the ``stride``."""

    @property
    def depth(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def norm(self) -> str: ...
    @property
    def activation(self) -> str: ...
    @property
    def out_width(self) -> int: ...

    def block(self, width: int, stride: int, drop_path: float) -> nn.Module:
        """A block from maps (B, width, H, W) to (B, out_width, H / stride, W / stride)."""
        ...


@dataclass(frozen=True)
class ConvNetConfig:
    """The body of a convolutional network.

    The stem has the norm and activation of the first stage, and the 1x1 convolution of
    ``top_width`` channels after the stages (0: none) those of the last.
    """

    stem_width: int
    stages: Sequence[ConvStage]
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: bool = False  # a maximum over 3x3 of stride 2 ends the stem
    top_width: int = 0
    drop_path: float = 0.0  # of the last block; rates grow linearly up to it


def conv_unit(
    n_in: int,
    n_out: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: str,
    activation: str = "",
) -> list[nn.Module]:
    """A convolution that keeps the size (over ``stride``), its norm, and its activation if any."""
    bias = norm == "none"
    return [
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=bias),
        make_norm(norm, n_out, dims=2),
        *([make_activation(activation)] if activation else []),
    ]


class ConvNet(nn.Module):
    """A stem, stages of blocks, global pooling and a linear head: ResNet or EfficientNet, by its
    stages.

    He initialisation. ``dropout`` stands before the head.
    """

    def __init__(
        self,
        input: nn.Module,
        in_channels: int,
        outputs: int,
        body: ConvNetConfig,
        pooling: str = "avg",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.input = input
        first, last = body.stages[0], body.stages[-1]
        width = body.stem_width
        stem = conv_unit(
            in_channels,
            width,
            body.stem_kernel,
            stride=body.stem_stride,
            norm=first.norm,
            activation=first.activation,
        )
        if body.stem_pool:
            stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        self.stem = nn.Sequential(*stem)
        init_he(self.stem)
        rates = iter(linear_rates(body.drop_path, sum(stage.depth for stage in body.stages)))
        blocks: list[nn.Module] = []
        for stage in body.stages:
            for i in range(stage.depth):
                blocks.append(stage.block(width, 1 if i else stage.stride, next(rates)))
                width = stage.out_width
        self.blocks = nn.Sequential(*blocks)
        self.top = nn.Sequential()
        if body.top_width:
            self.top.extend(
                conv_unit(width, body.top_width, 1, norm=last.norm, activation=last.activation)
            )
            init_he(self.top)
            width = body.top_width
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
        x: Tensor = self.top(self.blocks(self.stem(self.input(image))))
        return x
