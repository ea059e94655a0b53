"""Image networks that are known by the names and shapes of their weights alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nas.task import Checkpoint

KNOWN = ("efficientnet_lite0", "resnet", "vit")
HEAD = 64  # features of each head of a published ViT
Shapes = Mapping[str, tuple[int, ...]]
# The names in timm of what is computed here. Networks with other paddings, heads or poolings have
# weights of the same names and shapes: efficientnet_lite0, vit_huge_patch14_224, resnetaa50.
_OF_TIMM = {
    "efficientnet_lite0": re.compile(r"tf_efficientnet_lite0"),
    "resnet": re.compile(r"((tv|ssl|swsl)_)?resnet(18|26|34|50|101|152)|gluon_resnet\d+_v1b"),
    "vit": re.compile(r"(vit|deit)_(tiny|small|base|large)_patch\d+_\d+(_(in21k|dino|sam))?"),
}
_LITE0: dict[str, int | float | str] = {"resolution": 224, "blocks": 16, "dim": 1280}
# As the network was published: (x - 127) / 128.
_TENSORFLOW: dict[str, int | float | str] = {"mean": f"{127 / 255}", "std": f"{128 / 255}"}
# Of each channel, as ImageNet's networks of PyTorch have them.
_IMAGENET: dict[str, int | float | str] = {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"}


def recognise(shapes: Shapes) -> Checkpoint | None:
    """What a file of weights holds, from the shapes of its tensors; None where it is not known.

    EfficientNet-Lite0 comes with the names of timm (``conv_stem``) or of the first port to
    PyTorch (``_conv_stem``), ResNet with those of timm and torchvision, which are the same, ViT
    with those of timm. Mean and deviation of timm's Lite0 and ViT are not in their files, and
    other networks have the same names and shapes (``of_timm``, ``is_known``).
    """
    return _lite0(shapes) or _resnet(shapes) or _vit(shapes)


def _lite0(shapes: Shapes) -> Checkpoint | None:
    for mark in ("_", ""):
        stem, head = shapes.get(f"{mark}conv_stem.weight"), shapes.get(f"{mark}conv_head.weight")
        gates = any("_se_" in name or ".se." in name for name in shapes)
        if stem == (32, 3, 3, 3) and head == (1280, 320, 1, 1) and not gates:
            sizes = _LITE0 | (_TENSORFLOW if mark else {})
            return _checkpoint("efficientnet_lite0", sizes)
    return None


def _resnet(shapes: Shapes) -> Checkpoint | None:
    """Without the deeper stems, gates, groups and other widths that later ResNets have."""
    found = [re.fullmatch(r"layer([1-4])\.(\d+)\.conv1\.weight", name) for name in shapes]
    numbers = [tuple(map(int, match.groups())) for match in found if match]
    depths = [1 + max((i for s, i in numbers if s == stage), default=-1) for stage in (1, 2, 3, 4)]
    bottleneck = "layer1.0.conv3.weight" in shapes
    plain = not any(".se." in name or "downsample.2" in name for name in shapes)
    if shapes.get("conv1.weight") != (64, 3, 7, 7) or not plain or 0 in depths:
        return None
    if shapes.get("layer1.0.conv2.weight") != (64, 64, 3, 3):
        return None
    sizes: dict[str, int | float | str] = {
        "resolution": 224,
        "blocks": sum(depths),
        "dim": 2048 if bottleneck else 512,
        "depths": ",".join(map(str, depths)),
        "bottleneck": int(bottleneck),
    }
    return _checkpoint("resnet", sizes | _IMAGENET)


_VIT_NAME = re.compile(
    r"cls_token|pos_embed|(patch_embed\.proj|norm|head"
    r"|blocks\.\d+\.(norm[12]|mlp\.fc[12]|attn\.(qkv|proj)))\.(weight|bias)"
)


def _vit(shapes: Shapes) -> Checkpoint | None:
    """With a class token, without the scales, registers and norms that later ViTs have."""
    patch, position = shapes.get("patch_embed.proj.weight"), shapes.get("pos_embed")
    plain = all(_VIT_NAME.fullmatch(name) for name in shapes)
    if patch is None or position is None or "cls_token" not in shapes or not plain:
        return None
    dim, channels, side, _ = patch
    grid = math.isqrt(position[1] - 1)
    hidden = shapes.get("blocks.0.mlp.fc1.weight", (0,))[0]
    if channels != 3 or dim % HEAD or grid**2 != position[1] - 1 or not hidden:
        return None
    sizes: dict[str, int | float | str] = {
        "resolution": grid * side,
        "blocks": sum(name.endswith("attn.qkv.weight") for name in shapes),
        "dim": dim,
        "heads": dim // HEAD,
        "mlp_ratio": hidden / dim,
        "patch": side,
    }
    return _checkpoint("vit", sizes)


def _checkpoint(architecture: str, sizes: dict[str, int | float | str]) -> Checkpoint:
    return Checkpoint("", "", "images", architecture, sizes, trained_on="ImageNet")


def is_known(name: str, architecture: str) -> bool:
    """Whether timm's network ``name``, whose shapes are those of an ``architecture``, computes what
    that does here."""
    return _OF_TIMM[architecture].fullmatch(name) is not None


def of_timm(found: Checkpoint, config: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint with the preprocessing that a config.json of timm says.

    Raises:
        KeyError, TypeError, ValueError: It is damaged.
    """
    about = config.get("pretrained_cfg") or {}
    sizes: dict[str, int | float | str] = dict(found.sizes)
    for name in ("mean", "std"):
        if name in about:
            sizes[name] = ",".join(str(float(value)) for value in about[name])
    if "input_size" in about:
        sizes["resolution"] = int(max(about["input_size"][1:]))
    if "mean" not in sizes or "std" not in sizes:
        raise KeyError("pretrained_cfg.mean or std")
    return replace(found, sizes=sizes)
