"""A pretrained EfficientNet-Lite0, ResNet or ViT with a new head.

Lite0: Tan & Le 2019 (EfficientNet), table 1, without squeeze and excitation and with ReLU6, as in
the weights of the "Lite" networks: TensorFlow's padding, BatchNorm with ε of 1e-3. ResNet and ViT
are this project's own (``nas.models.resnet``, ``nas.models.blocks``). Names of weights are this
project's; those of the libraries are mapped to them in ``nas.pretrained.weights``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.adapted import freeze, is_still, layer_groups
from nas.models.blocks import GlobalPool, TransformerConfig, TransformerStack, make_norm
from nas.models.convnet import ConvNet, ConvNetConfig
from nas.models.inputs import ImageInput
from nas.models.resnet import ResNetStage

EPS = 1e-3  # of BatchNorm
# Repeats, kernel, stride, expansion and width of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, TOP = 32, 1280


@dataclass(frozen=True)
class ImageAdaptation:
    """What of the network is used and trained, and with what rates.

    ``trained`` blocks from the last on are trained; the stem too where it is more than there are.
    With ``moving`` statistics the BatchNorm of what is trained follows the new data.
    """

    trained: int
    moving: bool = False
    pooling: str = "avg"  # "max" or "attention"; of a network with a class token "cls" too
    head: str = "linear"  # or "mlp"
    dropout: float = 0.1
    head_rate: float = 10.0  # the learning rate of what is new over that of the last block
    layer_decay: float = 1.0


class _Same(nn.Conv2d):
    """A convolution with TensorFlow's padding: what is odd goes below and to the right."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (input.shape[-1], input.shape[-2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        y: Tensor = self._conv_forward(F.pad(input, pads), self.weight, self.bias)
        return y


class _Unit(nn.Module):
    """A convolution with BatchNorm, and ReLU6 where it is ``active``."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *,
        groups: int = 1, active: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = _Same(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=EPS)
        self.activation = nn.ReLU6() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)))
        return y


class _Block(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018, MobileNetV2, sec. 3.3)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inputs * expand
        self.expand = _Unit(inputs, wide) if expand > 1 else nn.Identity()
        self.depthwise = _Unit(wide, wide, kernel, stride, groups=wide)
        self.project = _Unit(wide, outputs, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class ImageBody(nn.Module):
    """The first blocks of a published network: a ``stem``, ``blocks``, and what comes after all of
    them (``top``). ``width`` is that of the last map, or of tokens, of which the first
    ``class_tokens`` are of no place."""

    def __init__(
        self,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        top: nn.Module,
        width: int,
        class_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.stem, self.blocks, self.top = stem, nn.ModuleList(blocks), top
        self.width, self.class_tokens = width, class_tokens


def lite0_body(blocks: int) -> ImageBody:
    """EfficientNet-Lite0 up to ``blocks`` of its 16; with all the last convolution after them."""
    stem, found, width = _Unit(3, STEM, 3, 2), list[nn.Module](), STEM
    for repeats, kernel, stride, expand, wider in STAGES:
        for i in range(repeats):
            if len(found) < blocks:
                found.append(_Block(width, wider, kernel, 1 if i else stride, expand))
                width = wider
    if blocks < sum(repeats for repeats, *_ in STAGES):
        return ImageBody(stem, found, nn.Identity(), width)
    return ImageBody(stem, found, _Unit(width, TOP), TOP)


def resnet_body(depths: Sequence[int], bottleneck: bool, blocks: int) -> ImageBody:
    """He et al. 2016, table 1, up to ``blocks`` of all."""
    stages = [
        ResNetStage(depth, 64 * 2**i, stride=2 if i else 1, bottleneck=bottleneck)
        for i, depth in enumerate(depths)
    ]
    config = ConvNetConfig(64, stages, stem_kernel=7, stem_stride=2, stem_pool=True)
    whole = ConvNet(nn.Identity(), 3, 1, config)
    widths = [stage.out_width for stage in stages for _ in range(stage.depth)]
    return ImageBody(whole.stem, list(whole.blocks)[:blocks], nn.Identity(), widths[blocks - 1])


class _Patches(nn.Module):
    """Maps (B, 3, H, W) of a ``size`` (H, W) to tokens: the class token, then one a patch. Sides
    that ``patch`` does not divide are padded at the right and the bottom."""

    def __init__(self, dim: int, patch: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.padding = (0, -size[1] % patch, 0, -size[0] % patch)
        self.grid = tuple(-(-side // patch) for side in size)
        self.projection = nn.Conv2d(3, dim, patch, stride=patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.zeros(1, 1 + self.grid[0] * self.grid[1], dim))

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            x = F.pad(x, self.padding)
        x = self.projection(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.position


def vit_body(layers: TransformerConfig, patch: int, size: tuple[int, int]) -> ImageBody:
    """Dosovitskiy et al. 2021, sec. 3.1, for maps of a ``size`` (height, width)."""
    stem, blocks = _Patches(layers.dim, patch, size), TransformerStack(layers)
    return ImageBody(stem, list(blocks), make_norm("layer", layers.dim, dims=1), layers.dim, 1)


class PretrainedImage(nn.Module):
    """Images (B, 1 or 3, H, W) of 0..255 to logits (B, outputs).

    Parts that are not trained stay in eval mode, so that what is ``fixed`` of a ``frozen`` network
    may be kept, and ``from_fixed`` continues from there (nas.training.frozen).
    """

    def __init__(
        self,
        input: ImageInput,
        body: ImageBody,
        adaptation: ImageAdaptation,
        channels: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.adaptation = how = adaptation
        self.grey = channels == 1
        self.input = input
        self.stem, self.blocks, self.top = body.stem, body.blocks, body.top
        self.width, self.class_tokens = body.width, body.class_tokens
        pooled = how.pooling != "cls"
        self.pool = GlobalPool(how.pooling, self.width, dims=1) if pooled else None
        self.dropout = nn.Dropout(how.dropout)
        self.head: nn.Module = nn.Linear(self.width, outputs)
        if how.head == "mlp":
            hidden = min(self.width, 256)
            layers = nn.Linear(self.width, hidden), nn.GELU(), nn.Dropout(how.dropout)
            self.head = nn.Sequential(*layers, nn.Linear(hidden, outputs))
        layers_of = [self.stem, *self.blocks]
        freeze(layers_of[: max(0, len(layers_of) - how.trained)])
        if how.trained == 0:
            freeze([self.top])

    @property
    def frozen(self) -> bool:
        """Whether the head alone is trained."""
        return self.adaptation.trained == 0

    def train(self, mode: bool = True) -> PretrainedImage:
        """Parts that stay as they are stay in eval mode, and so do statistics that are kept."""
        super().train(mode)
        for part in (self.stem, *self.blocks, self.top):
            for module in part.modules():
                if isinstance(module, nn.BatchNorm2d) and (
                    is_still(part) or not self.adaptation.moving
                ):
                    module.eval()
        return self

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """What an optimiser trains, with the rate of each part."""
        return layer_groups(
            [self.stem, *self.blocks, self.top],
            [self.head] if self.pool is None else [self.pool, self.head],
            lr=lr,
            new_lr=lr * self.adaptation.head_rate,
            decay=self.adaptation.layer_decay,
            weight_decay=weight_decay,
        )

    def features(self, image: Tensor) -> tuple[Tensor, None]:
        """Tokens (B, T, width): class tokens, and one for each place of the last map."""
        if self.grey:
            image = image.expand(-1, 3, -1, -1)
        x = self.stem(self.input(image))
        for block in self.blocks:
            x = block(x)
        x = self.top(x)
        return x if x.ndim == 3 else x.flatten(2).transpose(1, 2), None

    def vector(self, x: Tensor, mask: None = None) -> Tensor:
        """One vector (B, width) from what ``features`` returns."""
        pooled: Tensor = x[:, 0] if self.pool is None else self.pool(x[:, self.class_tokens :])
        return pooled

    def fixed(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Of a frozen network what comes before all that is trained: (B, T, width), and T of each;
        pooled already where the pooling has nothing to learn."""
        x, _ = self.features(image)
        if self.adaptation.pooling != "attention":
            x = self.vector(x).unsqueeze(1)
        return x, x.new_full((len(x),), x.shape[1]).long()

    def condensed(self, features: Tensor) -> Tensor:
        """One sample's features as ``fixed`` has pooled them."""
        return features

    def seen(self, name: str, values: np.ndarray) -> np.ndarray:
        """An image is seen as it is."""
        return values

    def identity(self) -> Iterator[Any]:
        """What its features follow from beside the image."""
        how = self.adaptation
        yield self.input.size, self.grey, how.pooling
        yield from self.input.state_dict().values()
        for part in (self.stem, self.blocks, self.top):
            yield from part.state_dict().values()

    def vector_of_fixed(self, features: Tensor, features_length: Tensor) -> Tensor:
        """One vector (B, width) from what ``fixed`` returns."""
        return self.vector(features) if self.adaptation.pooling == "attention" else features[:, 0]

    def from_fixed(self, features: Tensor, features_length: Tensor) -> Tensor:
        """Logits (B, outputs) from what ``fixed`` returns."""
        logits: Tensor = self.head(self.dropout(self.vector_of_fixed(features, features_length)))
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, outputs)."""
        logits: Tensor = self.head(self.dropout(self.vector(*self.features(image))))
        return logits
