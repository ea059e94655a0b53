"""ViT: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words"."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import (
    GlobalPool,
    TransformerConfig,
    TransformerStack,
    init_transformer,
    make_activation,
    make_norm,
)


def _conv_stem(in_channels: int, dim: int, patch: int) -> nn.Sequential:
    """Xiao et al. 2021, "Early Convolutions Help Transformers See Better", sec. 4.

    One 3x3 convolution of stride 2 for every factor of two in ``patch``, its width
    doubling up to ``dim``, then a linear projection over what is left of the patch.
    """
    halvings = (patch & -patch).bit_length() - 1
    layers: list[nn.Module] = []
    width = in_channels
    for left in range(halvings - 1, -1, -1):
        out = max(1, dim >> left)
        layers += [
            nn.Conv2d(width, out, 3, stride=2, padding=1, bias=False),
            make_norm("batch", out, dims=2),
            make_activation("relu"),
        ]
        width = out
    rest = patch >> halvings
    return nn.Sequential(*layers, _projection(width, dim, rest))


def _projection(in_channels: int, dim: int, patch: int) -> nn.Conv2d:
    """A linear map of each patch that keeps the variance (LeCun et al. 1998)."""
    conv = nn.Conv2d(in_channels, dim, patch, stride=patch)
    nn.init.normal_(conv.weight, std=(in_channels * patch**2) ** -0.5)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
    return conv


class ViT(nn.Module):
    """A Transformer encoder over patches of an image.

    ``size`` (height, width) is that of the output of ``input``; sides that ``patch``
    does not divide are padded at the right and the bottom. ``stem``: "patch", one linear
    map of each patch, or "conv", a stack of convolutions. ``pooling``: "cls" reads out a
    class token, "avg" and "attention" all patches. Weights, class token and position
    embeddings start from a truncated normal of deviation 0.02.
    """

    def __init__(
        self,
        input: nn.Module,
        in_channels: int,
        outputs: int,
        size: tuple[int, int],
        patch: int,
        layers: TransformerConfig,
        pooling: str = "cls",
        stem: str = "patch",
    ) -> None:
        super().__init__()
        if stem not in ("patch", "conv"):
            raise ValueError(f"unknown stem {stem!r}; known are patch, conv")
        dim = layers.dim
        self.input = input
        # As F.pad counts: left, right, top, bottom.
        self.padding = (0, -size[1] % patch, 0, -size[0] % patch)
        patches = -(-size[0] // patch) * -(-size[1] // patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim)) if pooling == "cls" else None
        self.position = nn.Parameter(torch.zeros(1, patches + (pooling == "cls"), dim))
        if stem == "conv":
            self.stem: nn.Module = _conv_stem(in_channels, dim, patch)
        else:
            self.stem = _projection(in_channels, dim, patch)
        self.dropout = nn.Dropout(layers.dropout)
        self.blocks = TransformerStack(layers)
        self.norm = make_norm(layers.norm, dim, dims=1)
        self.width = dim
        self.pool = GlobalPool(pooling, dim, dims=1) if pooling != "cls" else None
        self.head = nn.Linear(dim, outputs)
        init_transformer(self)
        for embedding in (self.cls, self.position):
            if embedding is not None:
                nn.init.trunc_normal_(embedding, std=0.02, a=-0.04, b=0.04)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, outputs)."""
        # Others than "cls" read all tokens.
        x = self._encode(image, queries=1 if self.pool is None else None)
        y: Tensor = self.head(x[:, 0] if self.pool is None else self.pool(x))
        return y

    def features(self, image: Tensor) -> tuple[Tensor, None]:
        """The patches, and before them the class token if there is one: (B, T, width)."""
        return self._encode(image), None

    def _encode(self, image: Tensor, queries: int | None = None) -> Tensor:
        x = self.input(image)
        if any(self.padding):
            x = F.pad(x, self.padding)
        x = self.stem(x).flatten(2).transpose(1, 2)
        if self.cls is not None:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)
        x = self.dropout(x + self.position)
        y: Tensor = self.norm(self.blocks(x, queries=queries))
        return y


VIT_B16: dict[str, Any] = {
    "size": (224, 224),
    "patch": 16,
    "layers": TransformerConfig(dim=768, depth=12, heads=12),
}
