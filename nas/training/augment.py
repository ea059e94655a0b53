"""Random transformations of training batches, on the device, one draw for each sample."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.models.blocks import full_precision

KINDS = ("none", "shift", "affine", "affine+flip")


def augment(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The inputs of a training batch, transformed as ``config`` says.

    Each input by its type; those of a member as the configuration of its encoder says.
    """
    result = dict(inputs)
    for name, value in inputs.items():
        member, kind = name.rpartition(".")[::2]
        own = _of_member(config, member) if member else config
        if kind == "image" and own.get("augment", "none") != "none":
            result[name] = augment_images(value, str(own["augment"]))
        if kind == "wave" and own.get("augment", "none") != "none":
            result[name], result[f"{name}_length"] = augment_waves(
                value, inputs[f"{name}_length"], str(own["augment"])
            )
        if kind == "points":
            result[name] = augment_points(
                value,
                inputs[f"{name}_length"],
                rotate=str(own.get("rotate", "none")),
                stretch=float(own.get("stretch", 0.0)),
                jitter=float(own.get("jitter", 0.0)),
                dropout=float(own.get("point_dropout", 0.0)),
            )
    return result


def _of_member(config: dict[str, Any], member: str) -> dict[str, Any]:
    """What the configuration of a fused network says of one member's encoder."""
    prefix = f"{member}.{config.get(f'{member}.encoder')}."
    return {k.removeprefix(prefix): v for k, v in config.items() if k.startswith(prefix)}


def augment_images(images: Tensor, kind: str) -> Tensor:
    """(B, C, H, W) of any dtype to float images of the same range.

    "shift" moves by up to an eighth of the side; "affine" also turns by up to 15 degrees
    and scales by 0.85 to 1.15; "affine+flip" also mirrors half of the images.
    """
    images = images.float()
    if kind == "none":
        return images
    n, _, height, width = images.shape
    device = images.device
    shift = (torch.rand(n, 2, device=device) * 2 - 1) / 4  # of half the side
    angle = torch.zeros(n, device=device)
    scale = torch.ones(n, device=device)
    mirror = torch.ones(n, device=device)
    if kind != "shift":
        angle = (torch.rand(n, device=device) * 2 - 1) * math.radians(15)
        scale = 0.85 + 0.3 * torch.rand(n, device=device)
    if kind == "affine+flip":
        mirror = torch.randint(0, 2, (n,), device=device) * 2.0 - 1
    cos, sin = angle.cos() / scale, angle.sin() / scale
    aspect = height / width
    rows = torch.stack(
        (
            torch.stack((cos * mirror, -sin * aspect, shift[:, 0]), dim=1),
            torch.stack((sin / aspect * mirror, cos, shift[:, 1]), dim=1),
        ),
        dim=1,
    )
    with full_precision(device.type):  # bfloat16 would round to half a pixel of 256
        grid = F.affine_grid(rows, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def augment_waves(wave: Tensor, length: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(B, T) of any dtype to float waves of the same range, and their new lengths (B,).

    "shift" moves by up to a tenth of a sample's length, with silence where nothing is left;
    "shift+speed" also plays 0.9 to 1.1 times as fast (Ko et al. 2015, sec. 2).
    """
    if kind not in ("shift", "shift+speed"):
        raise ValueError(f"unknown kind {kind!r} for waves; known are shift, shift+speed")
    n, size = wave.shape
    device = wave.device
    wave = wave.float()
    speed = torch.ones(n, device=device)
    if kind == "shift+speed":
        speed = 0.9 + 0.2 * torch.rand(n, device=device)
        size = math.ceil(size / 0.9)
    new = (length / speed).round().long().clamp(min=1, max=size)
    shift = ((torch.rand(n, device=device) * 2 - 1) * new / 10).round()
    time = torch.arange(size, device=device)
    position = (time - shift.unsqueeze(1)) * speed.unsqueeze(1)  # in the old wave
    last = (length - 1).unsqueeze(1)
    inside = (position >= 0) & (position <= last) & (time < new.unsqueeze(1))
    before = position.clamp(min=0).floor().long().minimum(last)
    after = (before + 1).minimum(last)
    mixed = torch.lerp(wave.gather(1, before), wave.gather(1, after), position - before)
    return torch.where(inside, mixed, 0.0), new


def augment_points(
    points: Tensor,
    length: Tensor,
    rotate: str = "none",
    stretch: float = 0.0,
    jitter: float = 0.0,
    dropout: float = 0.0,
) -> Tensor:
    """Clouds (B, P, d), coordinates first, with their other channels as they are.

    About the middle of each cloud: ``rotate`` about the third axis by up to 15 degrees
    ("small") or by any angle ("z"), stretch each axis by 1 ± ``stretch``, and move each point
    by normal noise of ``jitter`` spreads of the cloud along each axis. Of each cloud a fraction
    of up to ``dropout`` of the points is replaced by its first (Qi et al. 2017, PointNet++,
    sec. 3.3), so that the number of points stays.
    """
    if rotate not in ("none", "small", "z"):
        raise ValueError(f"unknown rotation {rotate!r}; known are none, small, z")
    n, size, _ = points.shape
    device = points.device
    if dropout:
        fraction = dropout * torch.rand(n, 1, device=device)
        gone = torch.rand(n, size, device=device) < fraction
        points = torch.where(gone.unsqueeze(-1), points[:, :1], points)
    real = (torch.arange(size, device=device) < length.unsqueeze(1)).unsqueeze(-1)
    count = length.view(-1, 1, 1)
    place = points[..., :3]
    middle = (place * real).sum(1, keepdim=True) / count
    place = (place - middle) * real
    spread = (place.square().sum(1, keepdim=True) / count).sqrt()
    if rotate != "none":
        most = math.pi if rotate == "z" else math.radians(15)
        angle = (torch.rand(n, 1, device=device) * 2 - 1) * most
        cos, sin = angle.cos(), angle.sin()
        x, y, z = place.unbind(-1)
        place = torch.stack((cos * x - sin * y, sin * x + cos * y, z), dim=-1)
    if stretch:
        place = place * (1 + stretch * (torch.rand(n, 1, 3, device=device) * 2 - 1))
    if jitter:
        place = place + jitter * spread * torch.randn_like(place)
    return torch.cat([(place + middle) * real, points[..., 3:]], dim=-1)
