"""ResNet: He et al. 2016, "Deep Residual Learning for Image Recognition"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from nas.models.blocks import DropPath, init_he, make_activation
from nas.models.convnet import ConvNetConfig, conv_unit


@dataclass(frozen=True)
class ResNetStage:
    """``depth`` blocks at one resolution; the first of them has the ``stride``.

    A basic block is two ``kernel`` convolutions of ``width`` channels. A bottleneck is
    1x1, ``kernel``, 1x1, and its output is four times as wide.
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
        """Channels of a block's output."""
        return 4 * self.width if self.bottleneck else self.width

    def block(self, width: int, stride: int, drop_path: float) -> nn.Module:
        """A block from ``width`` channels to ``out_width``."""
        return _Block(width, self, stride, drop_path)


class _Block(nn.Module):
    """The stride is on the ``kernel`` convolution of a bottleneck (as is common since)."""

    def __init__(self, width: int, stage: ResNetStage, stride: int, drop_path: float) -> None:
        super().__init__()
        inner, out, kernel = stage.width, stage.out_width, stage.kernel
        norm, activation = stage.norm, stage.activation
        layers: list[nn.Module] = []
        if stage.bottleneck:
            layers += conv_unit(width, inner, 1, norm=norm, activation=activation)
            layers += conv_unit(
                inner, inner, kernel, stride=stride, norm=norm, activation=activation
            )
            layers += conv_unit(inner, out, 1, norm=norm)
        else:
            layers += conv_unit(
                width, inner, kernel, stride=stride, norm=norm, activation=activation
            )
            layers += conv_unit(inner, out, kernel, norm=norm)
        self.branch = nn.Sequential(*layers)
        self.residual = stage.residual
        self.shortcut: nn.Module = nn.Identity()
        if stage.residual and (stride != 1 or width != out):
            self.shortcut = nn.Sequential(*conv_unit(width, out, 1, stride=stride, norm=norm))
        self.drop_path = DropPath(drop_path)
        self.activation = make_activation(activation)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to (B, out_width, H / stride, W / stride)."""
        y: Tensor = self.branch(x)
        if self.residual:
            y = self.drop_path(y) + self.shortcut(x)
        out: Tensor = self.activation(y)
        return out


def _published(depths: Sequence[int], bottleneck: bool) -> ConvNetConfig:
    """He et al. 2016, table 1."""
    stages = tuple(
        ResNetStage(depth, 64 * 2**i, stride=2 if i else 1, bottleneck=bottleneck)
        for i, depth in enumerate(depths)
    )
    return ConvNetConfig(64, stages, stem_kernel=7, stem_stride=2, stem_pool=True)


RESNET18 = _published((2, 2, 2, 2), bottleneck=False)
RESNET50 = _published((3, 4, 6, 3), bottleneck=True)
