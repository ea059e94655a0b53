"""Families for sequences of numbers: InceptionTime, ResNet, random kernels, Transformer, LSTM,
Mamba."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nas import rules
from nas.family import Family, Reference, carried
from nas.space import Choice, Config, Param, Space, Value
from nas.task import DataProfile, SeriesForm, Target, Task
from search_spaces.layers import mamba_layers, transformer_layers

if TYPE_CHECKING:
    from torch import nn

    from nas.models.inception_time import ConvolutionsConfig
    from nas.models.series import Patches, SeriesConfig, SeriesInput

LONGEST_PATCH = 16  # steps
RANDOM_KERNELS = 84  # of nine weights of which three are 2 and six -1


def _length(task: Task) -> int:
    """The median length of a sequence, in steps."""
    return max(task.profile.lengths["series"][3], 1)


def _channels(task: Task) -> int:
    return task.profile.inputs["series"][1]


def _input_params(task: Task, augment: str = "jitter") -> list[Param]:
    """How steps enter, and what is done to them in training, by default ``augment``."""
    scales = ("none", "sequence", "sequence+level")
    kinds: tuple[Value, ...] = ("none", "jitter", "crop", "jitter+crop")
    forecast = task.profile.series is not None and task.profile.series.horizon > 0
    if forecast:  # a stretched window says nothing of the next steps
        kinds = ("jitter", "none")
    scale = "sequence" if forecast else "none"
    return [
        Choice("scale", scales, default=scale, why=("series-scale",)),
        Choice("augment", kinds, default=augment, why=("series-augmentation",)),
        Choice("masks", (0, 1, 2), default=0, why=("series-augmentation",)),
        *_linear(task),
    ]


def _linear(task: Task) -> list[Param]:
    """Whether a linear forecast runs beside the network, where the limit on parameters has room."""
    form = task.profile.series
    if form is None or not form.horizon:
        return []
    small = form.window * _channels(task) * task.outputs < rules.params_limit(task) / 4
    options: tuple[Value, ...] = (True, False) if small else (False,)
    return [Choice("linear", options, default=options[0], why=("forecast-linear",))]


def _forecasting(network: Any, config: Config, task: Task) -> nn.Module:
    """Of a forecast the network beside one that begins as the values a season before; of other
    tasks the network itself."""
    form, profile = task.profile.series, task.profile
    named = [target.name.rpartition("+") for target in task.targets]
    if form is None or any(name not in form.naive_errors for name, _, _ in named):
        return network  # type: ignore[no-any-return]
    from nas.models.series import Forecast

    places, scales = [], []
    for target, (name, _, ahead) in zip(task.targets, named, strict=True):
        channel = profile.channels.index(name)
        step = form.window - form.season + (int(ahead) - 1) % form.season
        shift = profile.channel_shift[channel] if profile.channel_shift else 0.0
        places.append((step, channel))
        middle = profile.channel_mean[channel] + shift - target.mean
        scales.append((profile.channel_std[channel] / target.std, middle / target.std))
    linear = bool(config["linear"])
    return Forecast(network, _steps(config, task), form.window, places, scales, linear)


def _steps(config: Config, task: Task) -> SeriesConfig:
    from nas.models.series import SeriesConfig

    profile = task.profile
    assert profile.series is not None
    return SeriesConfig(
        profile.channel_mean,
        profile.channel_std,
        added=profile.series.added,
        scale=str(config["scale"]),
        augment=str(config["augment"]),
        masks=int(config["masks"]),
    )


def _input(config: Config, task: Task) -> SeriesInput:
    from nas.models.series import SeriesInput

    return SeriesInput(_steps(config, task))


def _head(task: Task, lr: float) -> list[Param]:
    return [
        rules.dropout(task, default=0.1, before_head=True),
        rules.drop_path(task),
        *rules.label_smoothing(task),
        *rules.training(task, lr=lr),
    ]


# Convolutions ----------------------------------------------------------------------------


def _kernels(task: Task, options: tuple[int, ...], default: int) -> Choice:
    """Longest kernels that the median sequence holds, the paper's by default."""
    fitting: tuple[Value, ...] = tuple(k for k in options if k <= _length(task)) or options[:1]
    default = default if default in fitting else int(fitting[-1])
    return Choice("kernel", fitting, default=default, why=("series-kernels",))


def _published_sizes(task: Task, references: tuple[Reference, ...], kernel: Choice) -> list[Config]:
    """The published networks that the space of ``task`` holds: their layers, not how steps enter
    and what regularises; a kernel that is longer than the sequences is left out."""
    sizes = ("width", "depth", "kernel", "norm", "activation", "pooling")
    return [
        {
            name: value
            for name, value in reference.config.items()
            if name in sizes and (name != "kernel" or kernel.contains(value))
        }
        for reference in carried(references, task)
    ]


def _inception_space(task: Task) -> Space:
    kernel = _kernels(task, (10, 20, 40), default=40)
    depth = rules.depth(task, low=2, base=6, default=6)
    spread = int(kernel.default) * 7 / 4  # weights of the three kernels
    space = Space(
        (
            *_input_params(task),
            depth,
            rules.width(
                task,
                "width",
                low=4,
                base=32,
                default=16,
                step=4,
                # A bottleneck, the branches, the convolution after the maximum; and a shortcut of
                # 16 width² for every three modules.
                weights=8 + spread + 16 / 3,
                layers=depth.default,
                inputs=round(6 * _channels(task) + spread + 8 * depth.default + 4 * task.outputs),
                fixed=task.outputs,
            ),
            kernel,
            rules.conv_norm(task, "norm"),
            rules.activation("activation", "relu", ("relu", "gelu", "silu")),
            Choice("pooling", ("avg", "max", "attention"), default="avg", why=("global-pooling",)),
            *_head(task, lr=3e-3),
        )
    )
    return space.holding(_published_sizes(task, INCEPTIONS, kernel), "references")


def _resnet_space(task: Task) -> Space:
    kernel = _kernels(task, (5, 8, 16), default=8)
    depth = rules.depth(task, low=1, base=3, default=3)
    weights = 2 * int(kernel.default)  # of the kernels, k + 5 k / 8 + 3 k / 8
    space = Space(
        (
            *_input_params(task),
            depth,
            rules.width(
                task,
                "width",
                low=8,
                base=64,
                default=32,
                # Two kernels of the first block at its width, then all at twice that.
                weights=4 * weights + 2,
                layers=depth.default - 0.5,
                inputs=round((weights / 2 + 1) * _channels(task) + 30 * depth.default)
                + 2 * task.outputs,
                fixed=task.outputs,
            ),
            kernel,
            rules.conv_norm(task, "norm"),
            rules.activation("activation", "relu", ("relu", "gelu", "silu")),
            Choice("pooling", ("avg", "max", "attention"), default="avg", why=("global-pooling",)),
            *_head(task, lr=3e-3),
        )
    )
    return space.holding(_published_sizes(task, RESNETS, kernel), "references")


def _convolutions(config: Config) -> ConvolutionsConfig:
    from nas.models.inception_time import ConvolutionsConfig

    return ConvolutionsConfig(
        width=int(config["width"]),
        depth=int(config["depth"]),
        kernel=int(config["kernel"]),
        norm=str(config["norm"]),
        activation=str(config["activation"]),
        drop_path=float(config["drop_path"]),
    )


def _build_inception(config: Config, task: Task) -> nn.Module:
    from nas.models.inception_time import inception_time

    pooling, dropout = str(config["pooling"]), float(config["dropout"])
    input = _input(config, task)
    network = inception_time(input, task.outputs, _convolutions(config), pooling, dropout)
    return _forecasting(network, config, task)


def _build_resnet(config: Config, task: Task) -> nn.Module:
    from nas.models.inception_time import series_resnet

    pooling, dropout = str(config["pooling"]), float(config["dropout"])
    input = _input(config, task)
    network = series_resnet(input, task.outputs, _convolutions(config), pooling, dropout)
    return _forecasting(network, config, task)


# Random kernels --------------------------------------------------------------------------


def _kernels_space(task: Task) -> Space:
    dilations = rules.depth(task, "dilations", low=1, base=4, default=4)
    thresholds = rules.width(
        task,
        "thresholds",
        low=1,
        base=6,
        default=8,
        step=1,
        inputs=RANDOM_KERNELS * dilations.default * task.outputs,
        fixed=task.outputs,
    )
    why = "random-kernels"
    return Space(
        (
            # Noise of a step is what the shortest kernels look at.
            *_input_params(task, augment="none"),
            replace(dilations, why=(why, *dilations.why)),
            replace(thresholds, why=(why, *thresholds.why)),
            rules.dropout(task, default=0.1, before_head=True),
            *rules.label_smoothing(task),
            *rules.training(task, lr=3e-3),
        )
    )


def _build_kernels(config: Config, task: Task) -> nn.Module:
    from nas.models.random_kernels import RandomKernels

    sizes = int(config["dilations"]), int(config["thresholds"])
    dropout = float(config["dropout"])
    network = RandomKernels(_input(config, task), _length(task), task.outputs, *sizes, dropout)
    return _forecasting(network, config, task)


# Sequence models over patches ----------------------------------------------------------------


def _patch_params(task: Task) -> list[Param]:
    """The shortest patches that keep to the most tokens there may be, and longer ones."""
    *_, most, _ = task.profile.lengths["series"]
    shortest = 1
    while most / shortest > rules.MOST_TOKENS:
        shortest *= 2
    options = [p for p in (1, 2, 4, 8, LONGEST_PATCH) if p >= shortest and p * 4 <= max(most, 4)]
    patches: tuple[Value, ...] = tuple(options) or (shortest,)
    wanted = [p for p in patches if most / int(p) >= 24]  # tokens enough for attention to compare
    default = min(wanted[-1] if wanted else patches[0], max(shortest, 8))
    return [
        Choice("patch", patches, default=default, why=("series-patches",)),
        Choice("stem", ("conv", "linear"), default="conv", why=("conv-stem",)),
    ]


def _patches(config: Config, task: Task) -> Patches:
    from nas.models.series import Patches

    input = _input(config, task)
    return Patches(input, int(config["dim"]), int(config["patch"]), str(config["stem"]))


def _embedding_weights(task: Task) -> int:
    """Of the stem, beside dim²: each step of a patch and channel, or a kernel of five."""
    return 3 * _channels(task) * LONGEST_PATCH


def _transformer_space(task: Task) -> Space:
    layers = 2
    return Space(
        (
            *_input_params(task),
            *_patch_params(task),
            rules.depth(task, low=1, base=4, default=layers),
            rules.width(
                task,
                "dim",
                low=16,
                base=64,
                default=64,
                step=16,
                weights=8,
                # The stem's second convolution is about two layers.
                layers=layers + 2,
                inputs=_embedding_weights(task) + 14 * layers + task.outputs + 4,
                fixed=task.outputs,
            ),
            rules.heads(),
            rules.mlp_ratio(),
            Choice(
                "position",
                ("sinusoidal", "rotary", "none"),
                default="sinusoidal",
                why=("positions",),
            ),
            rules.token_norm(),
            rules.activation("activation", "gelu", ("gelu", "silu", "swiglu")),
            Choice("pooling", ("avg", "max", "attention"), default="avg", why=("global-pooling",)),
            rules.drop_path(task, "attention_dropout"),
            rules.dropout(task, default=0.1),
            rules.drop_path(task),
            *rules.label_smoothing(task),
            *rules.training(task, lr=2e-3),
            rules.clipping(),
        )
    )


def _build_transformer(config: Config, task: Task) -> nn.Module:
    from nas.models.series import SeriesTransformer

    network = SeriesTransformer(
        _patches(config, task),
        task.outputs,
        transformer_layers(config),
        position=str(config["position"]),
        pooling=str(config["pooling"]),
    )
    return _forecasting(network, config, task)


def _lstm_space(task: Task) -> Space:
    dim = rules.width(
        task,
        "dim",
        low=16,
        base=48,
        default=48,
        step=16,
        weights=17,
        layers=1.5,
        inputs=_embedding_weights(task) + 16 + 2 * task.outputs,
        fixed=task.outputs,
    )
    hidden = rules.width(
        task,
        "hidden",
        low=16,
        base=64,
        default=dim.default,
        weights=8,
        inputs=8 * dim.default + 16 + 2 * task.outputs,
        fixed=17 * dim.default**2 + _embedding_weights(task) * dim.default,
    )
    return Space(
        (
            *_input_params(task),
            *_patch_params(task),
            Choice("cell", ("lstm", "gru"), default="lstm", why=("recurrent-cell",)),
            dim,
            rules.depth(task, low=1, base=2, default=1),
            hidden,
            Choice("bidirectional", (True, False), default=True, why=("two-directions",)),
            Choice(
                "pooling",
                ("avg", "max", "attention", "last"),
                default="avg",
                why=("global-pooling",),
            ),
            rules.dropout(task, default=0.1),
            *rules.label_smoothing(task),
            *rules.training(task, lr=3e-3),
            rules.clipping(),
        )
    )


def _build_lstm(config: Config, task: Task) -> nn.Module:
    from nas.models.series import SeriesLSTM

    network = SeriesLSTM(
        _patches(config, task),
        task.outputs,
        int(config["dim"]),
        hidden=int(config["hidden"]),
        depth=int(config["depth"]),
        bidirectional=bool(config["bidirectional"]),
        pooling=str(config["pooling"]),
        dropout=float(config["dropout"]),
        cell=str(config.get("cell", "lstm")),
    )
    return _forecasting(network, config, task)


def _mamba_space(task: Task) -> Space:
    layers = 2
    return Space(
        (
            *_input_params(task),
            *_patch_params(task),
            rules.depth(task, low=1, base=4, default=layers),
            rules.width(
                task,
                "dim",
                low=16,
                base=48,
                default=48,
                step=16,
                weights=6.5,
                layers=layers + 2.6,
                inputs=_embedding_weights(task) + 2 * (4 + 3 * 8 + 4) * layers + 2 + task.outputs,
                fixed=task.outputs,
            ),
            Choice("expand", (1, 2), default=2, why=("state-space",)),
            Choice("states", (4, 8, 16), default=8, why=("state-space",)),
            Choice("kernel", (2, 3, 4), default=4, why=("state-space",)),
            Choice("norm", ("rms", "layer"), default="rms", why=("norm-by-family",)),
            Choice(
                "pooling",
                ("avg", "max", "attention", "last"),
                default="avg",
                why=("global-pooling",),
            ),
            rules.dropout(task, default=0.1),
            rules.drop_path(task),
            *rules.label_smoothing(task),
            *rules.training(task, lr=3e-3),
            rules.clipping(),
        )
    )


def _build_mamba(config: Config, task: Task) -> nn.Module:
    from nas.models.series import SeriesMamba

    layers = mamba_layers(config)
    length = -(-rules.SERIES_LONGEST // int(config["patch"]))
    pooling = str(config["pooling"])
    network = SeriesMamba(_patches(config, task), length, task.outputs, layers, pooling)
    return _forecasting(network, config, task)


# Published networks --------------------------------------------------------------------------


def _gun_point() -> Task:
    """GunPoint of the UCR archive: 50 sequences of 150 steps, one channel, two classes."""
    target = Target("label", "binary", ("1", "2"), (24, 26))
    lengths: dict[str, tuple[int, ...]] = {"series": (150,) * 7}
    profile = DataProfile(
        50, 15, 150, {"series": (150, 1)}, lengths=lengths, channel_mean=(0.0,),
        channel_std=(1.0,), series=SeriesForm(),
    )  # fmt: skip
    return Task("series", (target,), profile)


def _published(
    name: str, source: str, size: tuple[int, int, int], params: int, extra: int, differs: str
) -> Reference:
    """``size`` is width, depth and longest kernel. Nearly each weight is used at each step."""
    width, depth, kernel = size
    config: Config = {"width": width, "depth": depth, "kernel": kernel, "norm": "batch"}
    config |= {"activation": "relu", "pooling": "avg", "dropout": 0.0, "drop_path": 0.0}
    config |= {"scale": "none", "augment": "none", "masks": 0}
    return Reference(name, source, params, config, _gun_point(), extra, differs, 150.0 * params)


_LITE = "as Ismail-Fawaz et al. 2023 (LITE) count it without its head"
INCEPTIONS = (
    _published(
        "InceptionTime, one network",
        f"Ismail Fawaz et al. 2020, sec. 3.1, {_LITE}",
        (32, 6, 40),
        420_192,
        2 * 128 + 2,
        "a head of two classes",
    ),
)
RESNETS = (
    _published(
        "ResNet for time series",
        f"Wang et al. 2017, sec. II-C, {_LITE}",
        (64, 3, 8),
        504_000,
        2 * 128 + 2 - (4 * 64 + 4 * 128 + 3 * 128),
        "a head of two classes, but no biases before BatchNorm",
    ),
)

FAMILIES = (
    Family(
        "inception_time",
        "series",
        "Ismail Fawaz et al. 2020, InceptionTime: Finding AlexNet for Time Series Classification",
        _inception_space,
        _build_inception,
        "Sequences of any kind, and few of them: shapes of many lengths, wherever they occur.",
        INCEPTIONS,
    ),
    Family(
        "series_resnet",
        "series",
        "Wang et al. 2017, Time Series Classification from Scratch with Deep Neural Networks",
        _resnet_space,
        _build_resnet,
        "Sequences whose shapes are short; the cheapest for long ones.",
        RESNETS,
    ),
    Family(
        "random_kernels",
        "series",
        "Dempster et al. 2021, MiniRocket: A Very Fast (Almost) Deterministic Transform",
        _kernels_space,
        _build_kernels,
        "Few sequences of any kind: fixed kernels of all lengths, and one layer that is trained.",
    ),
    Family(
        "series_transformer",
        "series",
        "Nie et al. 2023, A Time Series is Worth 64 Words (PatchTST); Vaswani et al. 2017",
        _transformer_space,
        _build_transformer,
        "Sequences whose distant steps relate, and forecasts of them, where data are many.",
    ),
    Family(
        "series_lstm",
        "series",
        "Hochreiter & Schmidhuber 1997, Long Short-Term Memory; Cho et al. 2014 (GRU)",
        _lstm_space,
        _build_lstm,
        "Short sequences of many channels, where the order of steps is what matters.",
    ),
    Family(
        "series_mamba",
        "series",
        "Gu & Dao 2023, Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        _mamba_space,
        _build_mamba,
        "Long sequences: time linear in the length, with states the sequence selects.",
    ),
)
