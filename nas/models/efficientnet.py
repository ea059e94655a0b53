"""EfficientNet: Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for CNNs"."""

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
    """``depth`` MBConv blocks at one resolution; the first of them has the ``stride``.

    ``expand`` is the hidden width over the input's; ``se_ratio`` the squeezed width over
    the input's (0: no squeeze-excite). ``fused`` puts one full convolution in the place
    of the expansion and the depthwise one (Tan & Le 2021, "EfficientNetV2", sec. 3.2).
    """

    depth: int
    width: int
    kernel: int = 3
    expand: int = 6
    stride: int = 2
    norm: str = "batch"
    activation: str = "silu"
    se_ratio: float = 0.25
    residual: bool = True
    fused: bool = False


def _conv(
    n_in: int, n_out: int, kernel: int, stride: int, groups: int, norm: str, activation: str
) -> list[nn.Module]:
    bias = norm == "none"
    return [
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=bias),
        make_norm(norm, n_out, dims=2),
        *([make_activation(activation)] if activation else []),
    ]


class _SqueezeExcite(nn.Module):
    """Scales the channels by a gate computed from their means (Hu et al. 2018)."""

    def __init__(self, width: int, squeezed: int, activation: str) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(width, squeezed, 1)
        self.activation = make_activation(activation)
        self.excite = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.excite(self.activation(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class _MBConv(nn.Module):
    def __init__(self, width: int, stage: Stage, stride: int, drop_path: float) -> None:
        super().__init__()
        hidden = width * stage.expand
        kind = (stage.norm, stage.activation)
        layers: list[nn.Module] = []
        if stage.fused:
            layers += _conv(width, hidden, stage.kernel, stride, 1, *kind)
        else:
            if stage.expand != 1:
                layers += _conv(width, hidden, 1, 1, 1, *kind)
            layers += _conv(hidden, hidden, stage.kernel, stride, hidden, *kind)
        if stage.se_ratio:
            # The published networks have 4 at least; one or two ReLUs are soon all dead.
            squeezed = max(4, round(width * stage.se_ratio))
            layers.append(_SqueezeExcite(hidden, squeezed, stage.activation))
        layers += _conv(hidden, stage.width, 1, 1, 1, stage.norm, "")
        self.branch = nn.Sequential(*layers)
        self.residual = stage.residual and stride == 1 and width == stage.width
        self.drop_path = DropPath(drop_path)
        init_he(self)
        if self.residual:
            zero_branch(*layers[-2:])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + self.drop_path(y) if self.residual else y


class EfficientNet(nn.Module):
    """A stem, stages of MBConv blocks, a 1x1 convolution, global pooling, a linear head.

    The stem takes norm and activation of the first stage, the convolution of
    ``head_width`` channels (0: none) those of the last. ``drop_path`` is the rate of the
    last block. He initialisation; the head starts small and residual branches at zero.
    """

    def __init__(
        self,
        input: nn.Module,
        in_channels: int,
        outputs: int,
        stem_width: int,
        stem_stride: int,
        stages: Sequence[Stage],
        head_width: int = 0,
        pooling: str = "avg",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.input = input
        first, last = stages[0], stages[-1]
        self.stem = nn.Sequential(
            *_conv(in_channels, stem_width, 3, stem_stride, 1, first.norm, first.activation)
        )
        init_he(self.stem)
        rates = iter(linear_rates(drop_path, sum(stage.depth for stage in stages)))
        blocks: list[nn.Module] = []
        width = stem_width
        for stage in stages:
            for index in range(stage.depth):
                stride = 1 if index else stage.stride
                blocks.append(_MBConv(width, stage, stride, next(rates)))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.top = nn.Sequential()
        if head_width:
            self.top.extend(_conv(width, head_width, 1, 1, 1, last.norm, last.activation))
            init_he(self.top)
        width = head_width or width
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


EFFICIENTNET_B0: dict[str, Any] = {
    "stem_width": 32,
    "stem_stride": 2,
    "stages": (
        Stage(1, 16, kernel=3, expand=1, stride=1),
        Stage(2, 24, kernel=3),
        Stage(2, 40, kernel=5),
        Stage(3, 80, kernel=3),
        Stage(3, 112, kernel=5, stride=1),
        Stage(4, 192, kernel=5),
        Stage(1, 320, kernel=3, stride=1),
    ),
    "head_width": 1280,
}
