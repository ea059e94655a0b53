"""Families that start from published weights: what of a network is used, and what is trained.

A space is made for the checkpoints of the task. Where it has none (in the rulebook, and where the
contract of a family is checked) a small network of the same architecture stands in.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING

from nas import rules
from nas.family import Family
from nas.space import Choice, Config, Float, Int, Param, Space, When
from nas.task import Checkpoint, Modality, Task

if TYPE_CHECKING:
    from torch import nn


def _stand_in(task: Task, modality: Modality) -> Checkpoint:
    if modality == "images":
        image: dict[str, int | float | str] = {"resolution": 64, "blocks": 3, "dim": 24}
        image |= {"mean": 0.5, "std": 0.5}
        return Checkpoint("stand-in", "", "images", "efficientnet_lite0", image)
    words = task.profile.vocabulary
    sizes: dict[str, int | float | str] = {"vocabulary": words, "positions": 128, "dim": 32}
    sizes |= {"heads": 2, "hidden": 64, "blocks": 2, "activation": "gelu", "dropout": 0.1}
    return Checkpoint("stand-in", "", "text", "bert", sizes)


def checkpoints(task: Task, modality: Modality) -> dict[str, Checkpoint]:
    """The task's checkpoints of a modality by name, or the stand-in."""
    found = {c.name: c for c in task.pretrained if c.modality == modality}
    return found or {"stand-in": _stand_in(task, modality)}


def _chosen(config: Config, task: Task, modality: Modality) -> Checkpoint:
    known = checkpoints(task, modality)
    return known[str(config.get("checkpoint", next(iter(known))))]


def _first_blocks(blocks: int, *, each: bool) -> Choice:
    """How many blocks are used: a third, half, two thirds, all; ``each`` is tried once."""
    some = sorted({max(1, round(blocks * part)) for part in (1 / 3, 1 / 2, 2 / 3, 1)})
    return Choice("blocks", tuple(some), default=blocks, each=each, why=("first-blocks",))


def _low_rank() -> list[Param]:
    """Updates of low rank, and of which layers."""
    when: When = {"adapt": ("lora",)}
    targets = ("attention", "all")
    return [
        Choice("rank", (4, 8, 16), default=8, when=when, why=("low-rank",)),
        Choice("targets", targets, default="attention", when=when, why=("low-rank",)),
    ]


def _adapted(blocks: int, *, low_rank: bool) -> list[Param]:
    """How much of the network is trained, and how its rates fall towards the input."""
    params: list[Param] = [
        rules.adaptation(low_rank=low_rank),
        *(_low_rank() if low_rank else ()),
        Float(
            "layer_decay",
            0.6,
            1.0,
            default=1.0,
            when={"adapt": ("full", "top")},
            why=("layer-wise-rates",),
        ),
    ]
    if blocks > 1:
        half = max(1, blocks // 2)
        top: When = {"adapt": ("top",)}
        params.append(Int("trained", 1, blocks - 1, default=half, when=top, why=("adapt-by-data",)))
    return params


def _head(task: Task, lr: float, *, frozen: bool) -> list[Param]:
    """The head, and how it and the network are trained; of a frozen network the head alone."""
    most = max(16, task.profile.n_train // 4)
    batches = tuple(b for b in ((16, 32, 64, 128) if frozen else (16, 32, 64)) if b <= most)
    wanted = 64 if frozen else 32
    batch = wanted if wanted in batches else batches[-1]
    params: list[Param] = [
        Choice("head", ("linear", "mlp"), default="linear", why=("adapt-by-data",)),
        rules.dropout(task, default=0.1),
        *rules.label_smoothing(task),
    ]
    for param in rules.training(task, lr=lr):
        if isinstance(param, Choice) and param.name == "batch_size":
            param = Choice("batch_size", batches, default=batch, why=("pretrained-rate",))
        elif param.name == "lr":
            param = replace(param, why=("pretrained-rate",))
        params.append(param)
    if not frozen:
        params.append(
            Float("head_rate", 1.0, 100.0, default=5.0, log=True, why=("pretrained-rate",))
        )
    return [*params, rules.clipping()]


# Texts -------------------------------------------------------------------------------------------


def _lengths(task: Task, positions: int) -> tuple[tuple[int, ...], int]:
    """Tokens that are read: of three of four texts, of nineteen of twenty, of all."""
    *_, most, almost, longest = task.profile.lengths["tokens"]
    found = sorted({min(max(n, 8), positions) for n in (most, almost, longest)})
    return tuple(found), found[-1]


def _text_space(task: Task, *, frozen: bool) -> Space:
    known = checkpoints(task, "text")
    blocks = max(int(c.sizes["blocks"]) for c in known.values())
    dim = max(int(c.sizes["dim"]) for c in known.values())
    lengths, longest = _lengths(task, min(int(c.sizes["positions"]) for c in known.values()))
    first, names = next(iter(known.values())), tuple(known)
    params: list[Param] = []
    if len(known) > 1:
        params.append(
            Choice("checkpoint", names, default=names[0], each=True, why=("pretrained-first",))
        )
    if not frozen:
        params += _adapted(blocks, low_rank=True)
    return Space(
        (
            *params,
            _first_blocks(blocks, each=True),
            Choice("length", lengths, default=longest, why=("text-length",)),
            Choice("vocabulary", ("all", "seen"), default="all", why=("vocabulary",)),
            Choice(
                "pooling",
                ("avg", "cls", "attention", "max"),
                default=str(first.sizes.get("pooling", "avg")),
                why=("global-pooling",),
            ),
            *_head(task, 3e-3 if frozen else rules.pretrained_rate(dim), frozen=frozen),
        )
    )


def _build_text(config: Config, task: Task) -> nn.Module:
    from nas.models.pretrained_text import EncoderConfig, PretrainedText, TextAdaptation

    checkpoint = _chosen(config, task, "text")
    names = {f.name for f in fields(EncoderConfig)}
    encoder = EncoderConfig(**{k: v for k, v in checkpoint.sizes.items() if k in names})  # type: ignore[arg-type]
    words = task.profile.vocabulary if config["vocabulary"] == "seen" else encoder.vocabulary
    blocks = min(int(config["blocks"]), encoder.blocks)
    encoder = replace(encoder, blocks=blocks, vocabulary=min(words, encoder.vocabulary))
    trained = {"full": blocks + 1, "top": min(int(config.get("trained", 1)), blocks)}
    adaptation = TextAdaptation(
        trained=trained.get(str(config.get("adapt")), 0),
        length=int(config["length"]),
        separator=2,
        rank=int(config.get("rank", 0)),
        targets=str(config.get("targets", "attention")),
        pooling=str(config["pooling"]),
        head=str(config["head"]),
        dropout=float(config["dropout"]),
        head_rate=float(config.get("head_rate", 1.0)),
        layer_decay=float(config.get("layer_decay", 1.0)),
    )
    return PretrainedText(encoder, adaptation, task.outputs)


def _load_text(network: nn.Module, config: Config, task: Task) -> None:
    checkpoint = _chosen(config, task, "text")
    if checkpoint.path:
        from nas.pretrained.weights import load_text

        load_text(network, checkpoint, task.profile.tokenizer)


# Images ------------------------------------------------------------------------------------------


def _image_resolutions(task: Task, most: int) -> tuple[int, ...]:
    """Longer sides from that of the data up to that which the network was trained on, and half of
    the latter."""
    longer = max(task.profile.inputs["image"][1:])
    common = {most // 2, most * 5 // 7 // 32 * 32, most}
    return tuple(sorted({max(32, side) for side in common | {min(longer, most)}}))


def _image_space(task: Task, *, frozen: bool) -> Space:
    known = checkpoints(task, "images")
    first, names = next(iter(known.values())), tuple(known)
    blocks = int(first.sizes["blocks"])
    published = int(first.sizes["resolution"])
    sides = _image_resolutions(task, published)
    # A step at the published resolution costs four times one at half of it; a frozen network
    # runs once.
    side = sides[-1] if frozen else min(sides, key=lambda s: abs(s - published // 2))
    params: list[Param] = []
    if len(known) > 1:
        params.append(
            Choice("checkpoint", names, default=names[0], each=True, why=("pretrained-first",))
        )
    if not frozen:
        kinds = ("none", "shift", "affine", "affine+flip")
        params += [
            *_adapted(blocks, low_rank=False),
            Choice("statistics", ("kept", "moving"), default="kept", why=("adapt-by-data",)),
            Choice("augment", kinds, default="affine", why=("augmentation",)),
        ]
    return Space(
        (
            *params,
            # Of a network of convolutions they were never worth a training (experiments/LOG.md).
            _first_blocks(blocks, each=False),
            Choice("resolution", sides, default=side, why=("resolution",)),
            Choice("pooling", ("avg", "attention", "max"), default="avg", why=("global-pooling",)),
            *_head(task, 1e-2 if frozen else 1e-3, frozen=frozen),
        )
    )


def _build_image(config: Config, task: Task) -> nn.Module:
    from nas.models.pretrained_image import ImageAdaptation, PretrainedImage

    checkpoint = _chosen(config, task, "images")
    blocks = int(config["blocks"])
    trained = {"full": blocks + 1, "top": min(int(config.get("trained", 1)), blocks)}
    adaptation = ImageAdaptation(
        blocks=blocks,
        trained=trained.get(str(config.get("adapt")), 0),
        resolution=int(config["resolution"]),
        mean=float(checkpoint.sizes["mean"]),
        std=float(checkpoint.sizes["std"]),
        moving=config.get("statistics") == "moving",
        pooling=str(config["pooling"]),
        head=str(config["head"]),
        dropout=float(config["dropout"]),
        head_rate=float(config.get("head_rate", 1.0)),
        layer_decay=float(config.get("layer_decay", 1.0)),
    )
    channels, height, width = task.profile.inputs["image"]
    return PretrainedImage(adaptation, (height, width), channels, task.outputs)


def _load_image(network: nn.Module, config: Config, task: Task) -> None:
    checkpoint = _chosen(config, task, "images")
    if checkpoint.path:
        from nas.pretrained.weights import load_image

        load_image(network, checkpoint)


FAMILIES = (
    Family(
        "frozen_image",
        "images",
        "Kornblith et al. 2019, Do Better ImageNet Models Transfer Better?, sec. 4.1",
        partial(_image_space, frozen=True),
        _build_image,
        "Few images, or little time: a new head on a pretrained network that stays as it is.",
        load=_load_image,
        frozen=True,
    ),
    Family(
        "pretrained_image",
        "images",
        "Tan & Le 2019, EfficientNet; Kornblith et al. 2019, sec. 4.2 (fine-tuning)",
        partial(_image_space, frozen=False),
        _build_image,
        "Some dozen to some ten thousand photographs: it has seen a million others before.",
        load=_load_image,
    ),
    Family(
        "frozen_text",
        "text",
        "Devlin et al. 2019, BERT, sec. 5.3 (Feature-based Approach)",
        partial(_text_space, frozen=True),
        _build_text,
        "Few texts, or little time: a new head on a pretrained encoder that stays as it is.",
        load=_load_text,
        frozen=True,
    ),
    Family(
        "pretrained_text",
        "text",
        "Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers",
        partial(_text_space, frozen=False),
        _build_text,
        "Some hundred to some ten thousand texts: it knows the language before it sees them.",
        load=_load_text,
    ),
)
