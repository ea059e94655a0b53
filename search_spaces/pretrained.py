"""Families that start from published weights: what of a network is used, and what is trained.

A space is made for the checkpoints of the task. Where it has none (in the rulebook, and where the
contract of a family is checked) a small network of the same architecture stands in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING

from nas import rules
from nas.family import Family
from nas.space import Choice, Config, Float, Param, Space, When
from nas.task import Checkpoint, Modality, Task

if TYPE_CHECKING:
    from torch import nn

    from nas.models.pretrained_image import ImageBody
    from nas.models.wav2vec import Wav2Vec
    from nas.models.whisper import Whisper


def _stand_in(task: Task, modality: Modality) -> Checkpoint:
    if modality == "images":
        image: dict[str, int | float | str] = {"resolution": 64, "blocks": 3, "dim": 24}
        image |= {"mean": "0.5", "std": "0.5"}
        return Checkpoint("stand-in", "", "images", "efficientnet_lite0", image)
    if modality == "audio":
        sound: dict[str, int | float | str] = {"dim": 32, "heads": 2, "mlp_ratio": 2.0, "blocks": 2}
        sound |= {"mels": 40, "rate": 16_000, "dropout": 0.0}
        return Checkpoint("stand-in", "", "audio", "whisper", sound)
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


def _which(known: dict[str, Checkpoint]) -> list[Param]:
    """The choice of a checkpoint, where there are several."""
    names = tuple(known)
    if len(names) == 1:
        return []
    return [Choice("checkpoint", names, default=names[0], each=True, why=("pretrained-first",))]


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


def _rates(when: When | None = None) -> Float:
    """How the learning rates of layers fall towards the input."""
    why = ("layer-wise-rates",)
    return Float("layer_decay", 0.6, 1.0, default=1.0, when=when or {}, why=why)


def _adapted(task: Task, way: str, blocks: int, *, low_rank: bool) -> list[Param]:
    """How much of the network is trained: all of it ("full"), or a part ("top"): its last blocks,
    or updates of low rank where the network has such."""
    if way == "full":
        return [_rates()]
    top: When = {"adapt": ("top",)} if low_rank else {}
    params: list[Param] = [_rates(top)]
    if low_rank:
        params = [rules.partial_adaptation(), *_low_rank(), *params]
    if blocks > 1:
        params.append(rules.trained_blocks(task, blocks, top))
    return params


def _trained(config: Config, way: str, blocks: int) -> int:
    """How many blocks from the last on are trained, and with one more the layers before them."""
    last = min(int(config.get("trained", 1)), blocks)
    return {"full": blocks + 1, "top": last}.get(str(config.get("adapt", way)), 0)


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


def adapted_rate(known: Iterable[Checkpoint]) -> float:
    """The learning rate of pretrained networks: that of the widest Transformer among them (rule
    "pretrained-rate"), or of networks of convolutions."""
    dims = [int(c.sizes["dim"]) for c in known if c.modality != "images" or c.architecture == "vit"]
    return rules.pretrained_rate(max(dims)) if dims else 1e-3


# Texts -------------------------------------------------------------------------------------------


def _lengths(task: Task, positions: int) -> tuple[tuple[int, ...], int]:
    """Tokens that are read: of three of four texts, of nineteen of twenty, of all."""
    *_, most, almost, longest = task.profile.lengths["tokens"]
    found = sorted({min(max(n, 8), positions) for n in (most, almost, longest)})
    return tuple(found), found[-1]


def _text_space(task: Task, *, way: str) -> Space:
    frozen = way == "frozen"
    known = checkpoints(task, "text")
    blocks = max(int(c.sizes["blocks"]) for c in known.values())
    lengths, longest = _lengths(task, min(int(c.sizes["positions"]) for c in known.values()))
    first = next(iter(known.values()))
    params = _which(known)
    if not frozen:
        params += _adapted(task, way, blocks, low_rank=True)
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
            *_head(task, 3e-3 if frozen else adapted_rate(known.values()), frozen=frozen),
        )
    )


def _build_text(config: Config, task: Task, *, way: str) -> nn.Module:
    from nas.models.pretrained_text import EncoderConfig, PretrainedText, TextAdaptation

    checkpoint = _chosen(config, task, "text")
    names = {f.name for f in fields(EncoderConfig)}
    encoder = EncoderConfig(**{k: v for k, v in checkpoint.sizes.items() if k in names})  # type: ignore[arg-type]
    words = task.profile.vocabulary if config["vocabulary"] == "seen" else encoder.vocabulary
    blocks = min(int(config["blocks"]), encoder.blocks)
    encoder = replace(encoder, blocks=blocks, vocabulary=min(words, encoder.vocabulary))
    adaptation = TextAdaptation(
        trained=_trained(config, way, blocks),
        length=int(config["length"]),
        separator=2,
        tokenizer=hashlib.sha256(task.profile.tokenizer.encode()).hexdigest()[:16],
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


def _image_space(task: Task, *, way: str) -> Space:
    frozen = way == "frozen"
    known = checkpoints(task, "images")
    blocks = max(int(c.sizes["blocks"]) for c in known.values())
    published = int(next(iter(known.values())).sizes["resolution"])
    sides = _image_resolutions(task, published)
    tokens = all(c.architecture == "vit" for c in known.values())
    poolings = ("cls", "avg", "attention", "max") if tokens else ("avg", "attention", "max")
    # A step at the published resolution costs four times one at half of it; a frozen network
    # runs once.
    side = sides[-1] if frozen else min(sides, key=lambda s: abs(s - published // 2))
    params = _which(known)
    if not frozen:
        params += [
            *_adapted(task, way, blocks, low_rank=False),
            rules.moving_statistics(task),
            rules.image_augmentation(task, "affine"),
        ]
    return Space(
        (
            *params,
            # Of a network of convolutions they were never worth a training (experiments/LOG.md).
            _first_blocks(blocks, each=False),
            Choice("resolution", sides, default=side, why=("resolution",)),
            Choice("pooling", poolings, default=poolings[0], why=("global-pooling",)),
            *_head(task, 1e-2 if frozen else adapted_rate(known.values()), frozen=frozen),
        )
    )


def _build_image(config: Config, task: Task, *, way: str) -> nn.Module:
    from nas.models.inputs import ImageInput
    from nas.models.pretrained_image import ImageAdaptation, PretrainedImage

    checkpoint = _chosen(config, task, "images")
    blocks = min(int(config["blocks"]), int(checkpoint.sizes["blocks"]))
    adaptation = ImageAdaptation(
        trained=_trained(config, way, blocks),
        moving=config.get("statistics") == "moving",
        pooling=str(config["pooling"]),
        head=str(config["head"]),
        dropout=float(config["dropout"]),
        head_rate=float(config.get("head_rate", 1.0)),
        layer_decay=float(config.get("layer_decay", 1.0)),
    )
    channels, *size = task.profile.inputs["image"]
    mean, std = (_each_channel(checkpoint.sizes[name]) for name in ("mean", "std"))
    resolution = int(config["resolution"])
    front = ImageInput(mean, std, (size[0], size[1]), resolution, enlarge=True)
    body = _image_body(checkpoint, blocks, front.size)
    return PretrainedImage(front, body, adaptation, channels, task.outputs)


def _each_channel(given: float | str) -> tuple[float, ...]:
    """A number for each of three channels, of three or of one for all."""
    found = tuple(float(value) for value in str(given).split(","))
    return found if len(found) == 3 else found * 3


def _image_body(checkpoint: Checkpoint, blocks: int, size: tuple[int, int]) -> ImageBody:
    """The checkpoint's network for maps of a ``size``, of which the first ``blocks`` are used."""
    from nas.models.blocks import TransformerConfig
    from nas.models.pretrained_image import lite0_body, resnet_body, vit_body

    sizes = checkpoint.sizes
    if checkpoint.architecture == "efficientnet_lite0":
        return lite0_body(blocks)
    if checkpoint.architecture == "vit":
        dim, heads, ratio = int(sizes["dim"]), int(sizes["heads"]), float(sizes["mlp_ratio"])
        return vit_body(TransformerConfig(dim, blocks, heads, ratio), int(sizes["patch"]), size)
    depths = [int(depth) for depth in str(sizes["depths"]).split(",")]
    return resnet_body(depths, bool(sizes["bottleneck"]), blocks)


def _load_image(network: nn.Module, config: Config, task: Task) -> None:
    checkpoint = _chosen(config, task, "images")
    if checkpoint.path:
        from nas.pretrained.weights import load_image

        load_image(network, checkpoint)


# Sounds ------------------------------------------------------------------------------------------


def _audio_space(task: Task, *, way: str) -> Space:
    frozen = way == "frozen"
    known = checkpoints(task, "audio")
    blocks = max(int(c.sizes["blocks"]) for c in known.values())
    params = _which(known)
    if not frozen:
        kinds = ("none", "shift", "shift+speed")
        params += [
            *_adapted(task, way, blocks, low_rank=False),
            Choice("augment", kinds, default="shift", why=("time-shift",)),
        ]
    return Space(
        (
            *params,
            _first_blocks(blocks, each=True),
            Choice("pooling", ("avg", "attention", "max"), default="avg", why=("global-pooling",)),
            *_head(task, 3e-3 if frozen else adapted_rate(known.values()), frozen=frozen),
        )
    )


def _build_audio(config: Config, task: Task, *, way: str) -> nn.Module:
    from nas.models.pretrained_audio import AudioAdaptation, PretrainedAudio

    checkpoint = _chosen(config, task, "audio")
    blocks = min(int(config["blocks"]), int(checkpoint.sizes["blocks"]))
    adaptation = AudioAdaptation(
        trained=_trained(config, way, blocks),
        rate=task.profile.sample_rate,
        published_rate=int(checkpoint.sizes["rate"]),
        pooling=str(config["pooling"]),
        head=str(config["head"]),
        dropout=float(config["dropout"]),
        head_rate=float(config.get("head_rate", 1.0)),
        layer_decay=float(config.get("layer_decay", 1.0)),
    )
    return PretrainedAudio(_audio_encoder(checkpoint, blocks), adaptation, task.outputs)


def _audio_encoder(checkpoint: Checkpoint, blocks: int) -> Wav2Vec | Whisper:
    """The checkpoint's encoder, of which the first ``blocks`` are used."""
    from nas.models.blocks import TransformerConfig
    from nas.models.spectrogram import LogMel
    from nas.models.wav2vec import Wav2Vec
    from nas.models.whisper import Whisper

    sizes = checkpoint.sizes
    layers = TransformerConfig(
        int(sizes["dim"]),
        blocks,
        int(sizes["heads"]),
        float(sizes["mlp_ratio"]),
        dropout=float(sizes["dropout"]),
    )
    if checkpoint.architecture == "whisper":
        front = LogMel(int(sizes["rate"]), int(sizes["mels"]), 400, 160, n_fft=400)
        return Whisper(front, 1, layers)
    kernels, strides = (
        [int(n) for n in str(sizes[name]).split(",")] for name in ("kernels", "strides")
    )
    return Wav2Vec(
        1,
        kernels,
        strides,
        int(sizes["conv_width"]),
        layers,
        int(sizes["position_kernel"]),
        int(sizes["position_groups"]),
    )


def _load_audio(network: nn.Module, config: Config, task: Task) -> None:
    checkpoint = _chosen(config, task, "audio")
    if checkpoint.path:
        from nas.pretrained.weights import load_audio

        load_audio(network, checkpoint)


FAMILIES = (
    Family(
        "frozen_audio",
        "audio",
        "Yang et al. 2021, SUPERB: Speech processing Universal PERformance Benchmark, sec. 3",
        partial(_audio_space, way="frozen"),
        partial(_build_audio, way="frozen"),
        "Few sounds, or little time: a new head on a pretrained encoder that stays as it is.",
        load=_load_audio,
        frozen=True,
    ),
    Family(
        "pretrained_audio",
        "audio",
        "Baevski et al. 2020, wav2vec 2.0; Radford et al. 2022, Whisper",
        partial(_audio_space, way="full"),
        partial(_build_audio, way="full"),
        "Some hundred to some ten thousand recordings of speech: it has heard much more.",
        load=_load_audio,
    ),
    Family(
        "frozen_image",
        "images",
        "Kornblith et al. 2019, Do Better ImageNet Models Transfer Better?, sec. 4.1",
        partial(_image_space, way="frozen"),
        partial(_build_image, way="frozen"),
        "Few images, or little time: a new head on a pretrained network that stays as it is.",
        load=_load_image,
        frozen=True,
    ),
    Family(
        "pretrained_image",
        "images",
        "Tan & Le 2019, EfficientNet; Kornblith et al. 2019, sec. 4.2 (fine-tuning)",
        partial(_image_space, way="full"),
        partial(_build_image, way="full"),
        "Some dozen to some ten thousand photographs: it has seen a million others before.",
        load=_load_image,
    ),
    Family(
        "partial_image",
        "images",
        "Yosinski et al. 2014, How transferable are features in deep neural networks?, sec. 4",
        partial(_image_space, way="top"),
        partial(_build_image, way="top"),
        "Photographs like those that the network knows: its last blocks alone are trained.",
        load=_load_image,
        on_request=True,
    ),
    Family(
        "frozen_text",
        "text",
        "Devlin et al. 2019, BERT, sec. 5.3 (Feature-based Approach)",
        partial(_text_space, way="frozen"),
        partial(_build_text, way="frozen"),
        "Few texts, or little time: a new head on a pretrained encoder that stays as it is.",
        load=_load_text,
        frozen=True,
    ),
    Family(
        "pretrained_text",
        "text",
        "Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers",
        partial(_text_space, way="full"),
        partial(_build_text, way="full"),
        "Some hundred to some ten thousand texts: it knows the language before it sees them.",
        load=_load_text,
    ),
    Family(
        "partial_text",
        "text",
        "Hu et al. 2022, LoRA; Howard & Ruder 2018, ULMFiT, sec. 3.3 (unfreezing from the top)",
        partial(_text_space, way="top"),
        partial(_build_text, way="top"),
        "Little memory for training: the last blocks alone, or updates of low rank.",
        load=_load_text,
        on_request=True,
    ),
)
