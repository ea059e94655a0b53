"""EfficientNet: Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for CNNs"."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from nas.models.blocks import DropPath, init_he, make_activation
from nas.models.convnet import ConvNetConfig, conv_unit


@dataclass(frozen=True)
class MBConvStage:
    """``depth`` MBConv blocks at one resolution; the first of them has the ``stride``.

    ``expand`` is the hidden width divided by the input's; ``se_ratio`` the squeezed width
    divided by the input's (0: no squeeze-excite). ``fused`` puts one full convolution in the
    place of the expansion and the depthwise one (Tan & Le 2021, "EfficientNetV2", sec. 3.2).
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

    @property
    def out_width(self) -> int:
        """Channels of a block's output."""
        return self.width

    def block(self, width: int, stride: int, drop_path: float) -> nn.Module:
        """A block from ``width`` channels to ``out_width``."""
        return _MBConv(width, self, stride, drop_path)


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
    """Inverted residual with squeeze-excite (Sandler et al. 2018, sec. 3.3; Hu et al. 2018)."""

    def __init__(self, width: int, stage: MBConvStage, stride: int, drop_path: float) -> None:
        super().__init__()
        hidden, kernel = width * stage.expand, stage.kernel
        norm, activation = stage.norm, stage.activation
        layers: list[nn.Module] = []
        if stage.fused:
            layers += conv_unit(
                width, hidden, kernel, stride=stride, norm=norm, activation=activation
            )
        else:
            if stage.expand != 1:
                layers += conv_unit(width, hidden, 1, norm=norm, activation=activation)
            layers += conv_unit(
                hidden,
                hidden,
                kernel,
                stride=stride,
                groups=hidden,
                norm=norm,
                activation=activation,
            )
        if stage.se_ratio:
            # The published networks have 4 at least; one or two ReLUs are soon all dead.
            squeezed = max(4, round(width * stage.se_ratio))
            layers.append(_SqueezeExcite(hidden, squeezed, activation))
        layers += conv_unit(hidden, stage.width, 1, norm=norm)
        self.branch = nn.Sequential(*layers)
        self.residual = stage.residual and stride == 1 and width == stage.width
        self.drop_path = DropPath(drop_path)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to (B, out_width, H / stride, W / stride)."""
        y: Tensor = self.branch(x)
        return x + self.drop_path(y) if self.residual else y


# Tan & Le 2019, table 1.
EFFICIENTNET_B0 = ConvNetConfig(
    stem_width=32,
    stem_stride=2,
    stages=(
        MBConvStage(1, 16, kernel=3, expand=1, stride=1),
        MBConvStage(2, 24, kernel=3),
        MBConvStage(2, 40, kernel=5),
        MBConvStage(3, 80, kernel=3),
        MBConvStage(3, 112, kernel=5, stride=1),
        MBConvStage(4, 192, kernel=5),
        MBConvStage(1, 320, kernel=3, stride=1),
    ),
    top_width=1280,
)
