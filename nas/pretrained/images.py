"""Image networks that are known by the names and shapes of their weights alone."""

from __future__ import annotations

from collections.abc import Mapping

from nas.task import Checkpoint

KNOWN = ("efficientnet_lite0",)
# The sizes that follow from the network's published training: 224 pixels, (x - 127) / 128.
_LITE0: dict[str, int | float | str] = {
    "resolution": 224,
    "blocks": 16,
    "dim": 1280,
    "mean": 127 / 255,
    "std": 128 / 255,
}


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Checkpoint | None:
    """What a file of weights holds, from the shapes of its tensors; None where it is not known.

    EfficientNet-Lite0 comes with the names of timm (``conv_stem``) or of the first port to
    PyTorch (``_conv_stem``).
    """
    for mark in ("_", ""):
        stem, head = shapes.get(f"{mark}conv_stem.weight"), shapes.get(f"{mark}conv_head.weight")
        gates = any("_se_" in name or ".se." in name for name in shapes)
        if stem == (32, 3, 3, 3) and head == (1280, 320, 1, 1) and not gates:
            return Checkpoint(
                name="",
                path="",
                modality="images",
                architecture="efficientnet_lite0",
                sizes=_LITE0,
                trained_on="ImageNet",
            )
    return None
