"""Families for images: ResNet, EfficientNet (MBConv), ViT."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nas import rules
from nas.family import Family, Reference, carried
from nas.space import Choice, Config, Int, Param, Space, When
from nas.task import DataProfile, Target, Task
from search_spaces.layers import transformer_layers

if TYPE_CHECKING:
    from torch import nn

    from nas.models.convnet import ConvNet, ConvNetConfig
    from nas.models.inputs import ImageInput


# What halves the maps in published networks first, at a value that keeps them.
_UNHALVED: Config = {"stem_pool": False, "stem_stride": 1, "stride2": 1}
_RATE_BATCH = 512  # of the learning rates of published networks, which grow with the batch


def _shape(task: Task) -> tuple[int, int, int]:
    channels, height, width = task.profile.inputs["image"]
    return channels, height, width


def _published(task: Task, references: tuple[Reference, ...]) -> list[Config]:
    """The published networks that the space of ``task`` holds: at its images' resolution where
    that is less than theirs, with the stem or patches of small ones (rule "early-downsampling"),
    and with learning rates in proportion to its batches."""
    longer, less = max(_shape(task)[1:]), rules.less_reduced(task)
    found = []
    for reference in carried(references, task):
        config = dict(reference.config)
        theirs = int(config["resolution"])
        own = config["resolution"] = min(theirs, longer)
        if (patch := config.pop(f"patch@{theirs}", None)) is not None:
            config[f"patch@{own}"] = int(patch) // less
        halvings = [name for name in _UNHALVED if name in config][: less.bit_length() - 1]
        config |= {name: _UNHALVED[name] for name in halvings}
        if "stem_kernel" in config and config["stem_stride"] == 1:
            config["stem_kernel"] = 3
        if "lr" in config:
            config["lr"] = float(config["lr"]) * rules.batch_sizes(task)[1] / _RATE_BATCH
        found.append(config)
    return found


def _resolution(task: Task) -> Choice:
    """The middle of the sizes on offer is the default: half the cost of the next."""
    options = rules.resolutions(task)
    return Choice("resolution", options, default=options[len(options) // 2], why=("resolution",))


def _stages(task: Task) -> int:
    """As many halvings as leave a map of about four pixels a side, at most four."""
    side = min(_shape(task)[1:])
    return min(max(int(math.log2(max(side, 8) / 4)) + 1, 2), 4)


def _image_training(task: Task, lr: float) -> list[Param]:
    return [
        rules.image_augmentation(task, "shift"),
        *rules.label_smoothing(task),
        *rules.training(task, lr=lr),
    ]


def _start(task: Task, weights: tuple[float, float]) -> tuple[int, int]:
    """Stages and first width of a baseline: three stages of one block, each twice as wide.

    Two or three such stages hold ``weights`` × width² parameters, which with a tenth for
    the rest keep the limit on them.
    """
    room = 0.9 * rules.params_limit(task)
    stages = 3 if _stages(task) >= 3 and 8**2 * weights[1] <= room else 2
    most = 16 if rules.scale(task) < 5 else 32
    width = min(most, int(math.sqrt(room / weights[stages - 2])))
    return stages, max(8, width // 8 * 8)


def _input(config: Config, task: Task) -> ImageInput:
    from nas.models.inputs import ImageInput

    _, height, width = _shape(task)
    resolution = int(config["resolution"])
    return ImageInput(
        mean=task.profile.channel_mean,
        std=task.profile.channel_std,
        size=(height, width),
        resolution=resolution if resolution < max(height, width) else None,
    )


def _stem_stride(task: Task) -> Choice:
    small = min(_shape(task)[1:]) <= rules.WHOLE_IMAGE
    return Choice("stem_stride", (1, 2), default=1 if small else 2, why=("early-downsampling",))


def _most_blocks(task: Task) -> int:
    return 2 + int(rules.scale(task)) // 3


def _stage_params(
    task: Task,
    i: int,
    first: int,
    when: When,
    *,
    activations: tuple[str, ...],
    weights: float,
    blocks: int = 1,
) -> list[Param]:
    """What stage ``i`` of a convolutional network may be; ``first`` is the width of the
    first by default, and each is twice as wide as the one before it."""
    why = ("depth-from-data", "residual-from-10") if blocks > 1 else ("depth-from-data",)
    return [
        Int(f"depth{i}", blocks, _most_blocks(task), default=blocks, when=when, why=why),
        rules.width(
            task,
            f"width{i}",
            low=8,
            base=16 * 2 ** (i - 1),
            default=first * 2 ** (i - 1),
            weights=weights,
            when=when,
        ),
        Choice(f"kernel{i}", (3, 5), default=3, when=when, why=("kernel",)),
        rules.conv_norm(task, f"norm{i}", when),
        rules.activation(f"activation{i}", activations[0], activations, when),
    ]


def _stage(config: Config, i: int) -> dict[str, Any]:
    """The arguments of stage ``i`` that both convolutional families have."""
    return {
        "depth": int(config[f"depth{i}"]),
        "width": int(config[f"width{i}"]),
        "kernel": int(config[f"kernel{i}"]),
        "norm": str(config[f"norm{i}"]),
        "activation": str(config[f"activation{i}"]),
        "residual": bool(config.get(f"residual{i}", True)),
        "stride": int(config.get(f"stride{i}", 1 if i == 1 else 2)),
    }


def _conv_head(task: Task) -> list[Param]:
    return [
        Choice("pooling", ("avg", "attention"), default="avg", why=("global-pooling",)),
        rules.dropout(task, before_head=True),
        rules.drop_path(task),
        *_image_training(task, lr=3e-3),
    ]


def _conv_net(config: Config, task: Task, body: ConvNetConfig) -> ConvNet:
    from nas.models.convnet import ConvNet

    return ConvNet(
        _input(config, task),
        in_channels=_shape(task)[0],
        outputs=task.outputs,
        body=body,
        pooling=str(config["pooling"]),
        dropout=float(config["dropout"]),
    )


def _resnet_space(task: Task) -> Space:
    published = _published(task, RESNETS)
    most = max([_stages(task), *(int(config["stages"]) for config in published)])
    # Two 3x3 convolutions of w channels are 18 w² weights; with a half as wide input, 14 w².
    stages, first = _start(task, (18 + 14 * 4, 18 + 14 * 4 + 14 * 16))
    params: list[Param] = [
        _resolution(task),
        rules.width(task, "stem_width", low=8, base=16, default=first, weights=9),
        *_published_stem(published),
        _stem_stride(task),
        Int("stages", 2, most, default=stages, why=("stages",)),
        Choice("bottleneck", (False, True), default=False, why=("bottleneck",)),
    ]
    for i in range(1, most + 1):
        when: When = {} if i <= 2 else {"stages": tuple(range(i, most + 1))}
        params += _stage_params(task, i, first, when, activations=("relu", "silu"), weights=9)
        if i < 4:
            # Stem, head and three plain stages of one basic block are eight layers.
            params.append(
                Choice(
                    f"residual{i}",
                    (True, False),
                    default=True,
                    when={**when, f"depth{i}": (1,), "bottleneck": (False,)},
                    why=("residual-from-10",),
                )
            )
    return Space((*params, *_conv_head(task))).holding(published, "references")


def _published_stem(published: list[Config]) -> list[Param]:
    """The larger kernel and the pooling in the stem of published networks, where there are any."""
    if not published:
        return []
    return [
        Choice("stem_kernel", (3, 7), default=3, why=("references", "kernel")),
        Choice("stem_pool", (False, True), default=False, why=("references", "early-downsampling")),
    ]


def _build_resnet(config: Config, task: Task) -> nn.Module:
    from nas.models.convnet import ConvNetConfig
    from nas.models.resnet import ResNetStage

    body = ConvNetConfig(
        stem_width=int(config["stem_width"]),
        stem_kernel=int(config.get("stem_kernel", 3)),
        stem_stride=int(config["stem_stride"]),
        stem_pool=bool(config.get("stem_pool", False)),
        stages=[
            ResNetStage(**_stage(config, i), bottleneck=bool(config["bottleneck"]))
            for i in range(1, int(config["stages"]) + 1)
        ],
        drop_path=float(config["drop_path"]),
    )
    return _conv_net(config, task, body)


def _efficientnet_space(task: Task) -> Space:
    published = _published(task, EFFICIENTNETS)
    most = max([_stages(task), *(int(config["stages"]) for config in published)])
    # A block that widens its input fourfold: 10 w² weights, with a half as wide input 3.5 w².
    stages, first = _start(task, (10 + 3.5 * 4, 10 + 3.5 * 4 + 3.5 * 16))
    params: list[Param] = [
        _resolution(task),
        _stem_stride(task),
        Int("stages", 2, most, default=stages, why=("stages",)),
    ]
    if published:  # else as wide as the first stage
        params.append(rules.width(task, "stem_width", low=8, base=16, default=first, weights=9))
    for i in range(1, most + 1):
        when: When = {} if i <= 2 else {"stages": tuple(range(i, most + 1))}
        # Only a block that keeps width and resolution has a shortcut: the first, as the stem
        # is as wide as it, and the second of a stage. Two stages of one block are six layers
        # without one, so that a fourth has two blocks.
        blocks = 2 if i == 4 else 1
        params += _stage_params(
            task, i, first, when, activations=("silu", "relu"), weights=8, blocks=blocks
        )
        params.append(Choice(f"expand{i}", (1, 2, 4, 6), default=4, when=when, why=("expansion",)))
        if published:
            stride = 1 if i == 1 else 2
            params.append(
                Choice(
                    f"stride{i}", (1, 2), default=stride, when=when, why=("references", "stages")
                )
            )
    deeper = tuple(range(2, _most_blocks(task) + 1))
    params.append(
        Choice(
            "residual1",
            (True, False),
            default=True,
            # Without its shortcut there are seven layers before that of the second stage.
            when={"depth1": (1,), "depth2": deeper},
            why=("residual-from-10",),
        )
    )
    return Space(
        (
            *params,
            Choice("se_ratio", (0.0, 0.25), default=0.25, why=("squeeze-excite",)),
            Choice(
                "head_width",
                (0, rules.HEAD_WIDEST // 2, rules.HEAD_WIDEST),
                default=0,
                why=("global-pooling",),
            ),
            *_conv_head(task),
        )
    ).holding(published, "references")


def _build_efficientnet(config: Config, task: Task) -> nn.Module:
    from nas.models.convnet import ConvNetConfig
    from nas.models.efficientnet import MBConvStage

    body = ConvNetConfig(
        stem_width=int(config.get("stem_width", config["width1"])),
        stem_stride=int(config["stem_stride"]),
        stages=[
            MBConvStage(
                **_stage(config, i),
                expand=int(config[f"expand{i}"]),
                se_ratio=float(config["se_ratio"]),
            )
            for i in range(1, int(config["stages"]) + 1)
        ],
        top_width=int(config["head_width"]),
        drop_path=float(config["drop_path"]),
    )
    return _conv_net(config, task, body)


def _vit_stem(task: Task) -> Choice:
    """The convolutional stem normalises by batches."""
    if rules.small_batches(task):
        why = ("conv-stem", "groupnorm-for-small-batches")
        return Choice("stem", ("patch",), default="patch", why=why)
    return Choice("stem", ("patch", "conv"), default="conv", why=("conv-stem",))


def _vit_space(task: Task) -> Space:
    published = _published(task, VITS)
    sides = _resolution(task)
    theirs = {int(config["resolution"]) for config in published} - {*rules.resolutions(task)}
    if theirs:
        why = (*sides.why, "references")
        sides = replace(sides, options=(*sides.options, *sorted(theirs)), why=why)
    layers = 4 if rules.params_limit(task) > 20_000 else 2
    params: list[Param] = [sides]
    for resolution in map(int, sides.options):
        # From 16 tokens on there is something to attend to. A large image has one patch: the
        # smallest power of two that keeps to the most of them.
        most = rules.MOST_TOKENS
        patches = tuple(
            p for p in (2, 4, 6, 8, 12, 16) if 16 <= math.ceil(resolution / p) ** 2 <= most
        ) or (2 ** math.ceil(math.log2(resolution / math.sqrt(most))),)
        params.append(
            Choice(
                f"patch@{resolution}",
                patches,
                default=patches[min(1, len(patches) - 1)],
                when={"resolution": (resolution,)},
                why=("attention-cost",),
            )
        )
    return Space(
        (
            *params,
            rules.depth(task, low=2, base=4, default=layers),
            rules.width(
                task,
                "dim",
                low=16,
                base=48,
                default=64,
                step=16,
                weights=10,
                layers=layers,
                inputs=rules.MOST_TOKENS + task.outputs,  # the positions
            ),
            rules.heads(),
            rules.mlp_ratio(),
            _vit_stem(task),
            rules.token_norm(),
            rules.activation("activation", "gelu", ("gelu", "silu")),
            Choice("pooling", ("avg", "cls", "attention"), default="avg", why=("global-pooling",)),
            rules.dropout(task, default=0.1),
            rules.drop_path(task, "attention_dropout"),
            rules.drop_path(task, default=0.05),
            *_image_training(task, lr=1e-3),
        )
    ).holding(published, "references")


def _build_vit(config: Config, task: Task) -> nn.Module:
    from nas.models.vit import ViT

    resolution = int(config["resolution"])
    front_end = _input(config, task)
    return ViT(
        front_end,
        in_channels=_shape(task)[0],
        outputs=task.outputs,
        size=front_end.size,
        patch=int(config[f"patch@{resolution}"]),
        layers=transformer_layers(config),
        pooling=str(config["pooling"]),
        stem=str(config["stem"]),
    )


# Published networks --------------------------------------------------------------------------


def _imagenet(side: int) -> Task:
    """ImageNet-1k (Russakovsky et al. 2015), at a resolution."""
    classes = tuple(f"class {i}" for i in range(1_000))
    target = Target("class", "multiclass", classes, (1_281,) * 1_000)
    profile = DataProfile(
        1_281_167,
        50_000,
        100_000,
        {"image": (3, side, side)},
        channel_mean=(0.485, 0.456, 0.406),
        channel_std=(0.229, 0.224, 0.225),
    )
    return Task("images", (target,), profile)


def _published_resnet(
    name: str, depths: tuple[int, ...], bottleneck: bool, params: int, macs: float
) -> Reference:
    """He et al. 2016, table 1."""
    config: Config = {"resolution": 224, "stem_width": 64, "stem_kernel": 7, "stem_stride": 2}
    config |= {"stem_pool": True, "stages": 4, "bottleneck": bottleneck}
    for i, depth in enumerate(depths, 1):
        config |= {f"depth{i}": depth, f"width{i}": 32 * 2**i, f"kernel{i}": 3}
        config |= {f"norm{i}": "batch", f"activation{i}": "relu"}
    config |= {"pooling": "avg", "dropout": 0.0, "drop_path": 0.0}
    return Reference(name, "He et al. 2016, table 1", params, config, _imagenet(224), macs=macs)


# Tan & Le 2019, table 1: blocks, width, kernel, expansion and stride of each stage.
_B0 = (
    (1, 16, 3, 1, 1), (2, 24, 3, 6, 2), (2, 40, 5, 6, 2), (3, 80, 3, 6, 2),
    (3, 112, 5, 6, 1), (4, 192, 5, 6, 2), (1, 320, 3, 6, 1),
)  # fmt: skip


def _published_efficientnet(
    name: str,
    scaled: tuple[float, float, int],
    dropout: float,
    params: int,
    macs: float,
) -> Reference:
    """B0 scaled as in Tan & Le 2019, sec. 4; widths are rounded to multiples of 8, by a tenth
    down at most, as in the authors' code; ``scaled`` by width, depth and resolution."""
    width, depth, side = scaled

    def rounded(channels: int) -> int:
        wanted = channels * width
        near = max(8, int(wanted + 4) // 8 * 8)
        return near + 8 if near < 0.9 * wanted else near

    config: Config = {"resolution": side, "stem_width": rounded(32), "stem_stride": 2}
    config |= {"stages": len(_B0), "se_ratio": 0.25, "head_width": rounded(1_280)}
    for i, (blocks, channels, kernel, expand, stride) in enumerate(_B0, 1):
        config |= {f"depth{i}": math.ceil(blocks * depth), f"width{i}": rounded(channels)}
        config |= {f"kernel{i}": kernel, f"expand{i}": expand, f"stride{i}": stride}
        config |= {f"norm{i}": "batch", f"activation{i}": "silu"}
    config |= {"pooling": "avg", "dropout": dropout, "drop_path": 0.2}
    source = "Tan & Le 2019, table 1 and sec. 4"
    # Depthwise convolutions wait for memory (Tan & Le 2021, EfficientNetV2, sec. 3.2).
    task, slow = _imagenet(side), 0.2
    return Reference(name, source, params, config, task, macs=macs, efficiency=slow)


def _published_vit(
    name: str, source: str, size: tuple[int, int], params: int, macs: float, rate: float
) -> Reference:
    """``size`` is width and heads, and ``rate`` that of AdamW for batches of ``_RATE_BATCH``."""
    dim, heads = size
    config: Config = {"resolution": 224, "patch@224": 16, "dim": dim, "depth": 12, "heads": heads}
    config |= {"mlp_ratio": 4.0, "stem": "patch", "norm": "layer", "activation": "gelu"}
    config |= {"pooling": "cls", "dropout": 0.0, "attention_dropout": 0.0, "drop_path": 0.0}
    config |= {"lr": rate}
    return Reference(name, source, params, config, _imagenet(224), macs=macs)


RESNETS = (
    _published_resnet("ResNet-18", (2, 2, 2, 2), False, 11_689_512, 1.8e9),
    _published_resnet("ResNet-34", (3, 4, 6, 3), False, 21_797_672, 3.6e9),
    _published_resnet("ResNet-50", (3, 4, 6, 3), True, 25_557_032, 3.8e9),
    _published_resnet("ResNet-101", (3, 4, 23, 3), True, 44_549_160, 7.6e9),
)
EFFICIENTNETS = (
    _published_efficientnet("EfficientNet-B0", (1.0, 1.0, 224), 0.2, 5_288_548, 0.39e9),
    _published_efficientnet("EfficientNet-B1", (1.0, 1.1, 240), 0.2, 7_794_184, 0.70e9),
    _published_efficientnet("EfficientNet-B2", (1.1, 1.2, 260), 0.3, 9_109_994, 1.0e9),
    _published_efficientnet("EfficientNet-B3", (1.2, 1.4, 300), 0.3, 12_233_232, 1.8e9),
)
_DEIT = "Touvron et al. 2021 (DeiT), tables 1 and 9"
_VIT = "Dosovitskiy et al. 2021, table 1, and table 3 (3e-3 for batches of 4,096)"
VITS = (
    _published_vit("ViT-Ti/16", _DEIT, (192, 3), 5_717_416, 1.3e9, 5e-4),
    _published_vit("ViT-S/16", _DEIT, (384, 6), 22_050_664, 4.6e9, 5e-4),
    _published_vit("ViT-B/16", _VIT, (768, 12), 86_567_656, 17.6e9, 3e-3 * _RATE_BATCH / 4_096),
)

FAMILIES = (
    Family(
        "resnet",
        "images",
        "He et al. 2016, Deep Residual Learning for Image Recognition",
        _resnet_space,
        _build_resnet,
        "Images of any kind: convolutions need fewer samples than attention.",
        RESNETS,
    ),
    Family(
        "efficientnet",
        "images",
        "Tan & Le 2019, EfficientNet: Rethinking Model Scaling for CNNs",
        _efficientnet_space,
        _build_efficientnet,
        "Images under tight limits on parameters and FLOPs: it is frugal with both.",
        EFFICIENTNETS,
    ),
    Family(
        "vit",
        "images",
        "Dosovitskiy et al. 2021, An Image Is Worth 16x16 Words",
        _vit_space,
        _build_vit,
        "Many images: it assumes less than convolutions, and needs more samples for that.",
        VITS,
    ),
)
