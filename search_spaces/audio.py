"""Families for audio: ResNet and CNN + Transformer over log-mel frames, wav2vec, Whisper."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nas import rules
from nas.family import Family, Reference, carried
from nas.space import Choice, Config, Int, Param, Space
from nas.task import DataProfile, Target, Task
from search_spaces.layers import transformer_layers

if TYPE_CHECKING:
    from torch import nn

    from nas.models.spectrogram import LogMel

_RATE = 16_000  # Hz, of published networks
AUGMENTATIONS = ("none", "shift", "shift+speed")
HALVED = 2  # frames of a spectrogram become one token, at least


def _seconds(task: Task) -> float:
    """Length that nineteen of twenty sounds do not exceed."""
    return task.profile.lengths["wave"][5] / task.profile.sample_rate


def _step(task: Task, name: str, shortest: int, frames: int = 1) -> Choice:
    """The smallest step in ms, doubled from ``shortest``, that keeps to the most tokens there
    may be, of ``frames`` steps each, and the next."""
    step = shortest
    while _seconds(task) * 1000 / (step * frames) > rules.MOST_TOKENS:
        step *= 2
    return Choice(name, (step, 2 * step), default=step, why=("frame-rate", "wave-length"))


def _published(task: Task, references: tuple[Reference, ...], front: list[Param]) -> list[Config]:
    """The published networks that the space of ``task`` holds; of the parameters in ``front``,
    which follow from the sounds, theirs only where the sounds allow them."""
    return [
        {
            name: value
            for name, value in reference.config.items()
            if all(param.contains(value) for param in front if param.name == name)
        }
        for reference in carried(references, task)
    ]


def _window(task: Task, hop_ms: int) -> tuple[int, int]:
    """Window and hop in samples: 25 ms, or twice the hop where that is longer."""
    rate = task.profile.sample_rate
    window = max(16, round(rate * max(25, 2 * hop_ms) / 1000))
    return window, max(1, round(rate * hop_ms / 1000))


def _spectrogram(task: Task) -> list[Param]:
    hop = _step(task, "hop_ms", shortest=10, frames=HALVED)
    # Half as many bands as the bins of the Fourier transform at least, or some stay empty.
    window, _ = _window(task, int(hop.default))
    bins = 2 ** math.ceil(math.log2(window)) // 2 + 1
    bands = tuple(n for n in (40, 64, 80) if n < bins / 1.5) or (bins // 2,)
    kinds = ("sample", "band")
    return [
        hop,
        Choice("n_mels", bands, default=bands[0], why=("mel-bands",)),
        Choice("normalisation", kinds, default="sample", why=("mel-bands",)),
    ]


def _log_mel(config: Config, task: Task) -> LogMel:
    from nas.models.spectrogram import LogMel

    window, hop = _window(task, int(config["hop_ms"]))
    return LogMel(
        task.profile.sample_rate,
        int(config["n_mels"]),
        window,
        hop,
        normalisation=str(config["normalisation"]),
    )


def _transformer(
    task: Task, *, layers: int, inputs: int, fixed: int = 0, squares: int = 0
) -> list[Param]:
    """A Transformer's parameters; ``layers`` and ``squares`` / 8 more layers are the baseline's,
    beside ``inputs`` × dim and ``fixed`` parameters."""
    return [
        rules.depth(task, low=1, base=4, default=layers),
        rules.width(
            task,
            "dim",
            low=16,
            base=48,
            default=64,
            step=16,
            weights=8,
            layers=layers + squares / 8,
            # Biases and scales of a layer, and the head.
            inputs=inputs + 12 * layers + task.outputs + 4,
            fixed=fixed,
        ),
        rules.heads(),
        rules.mlp_ratio(),
        rules.token_norm(),
        rules.activation("activation", "gelu", ("gelu", "silu")),
    ]


def _head(task: Task, lr: float) -> list[Param]:
    return [
        Choice("pooling", ("max", "attention", "avg"), default="max", why=("global-pooling",)),
        rules.dropout(task, default=0.1),
        rules.drop_path(task, "attention_dropout"),
        rules.drop_path(task, default=0.05),
        Choice("spec_augment", (0, 1, 2), default=0, why=("spec-augment",)),
        Choice("augment", AUGMENTATIONS, default="shift", why=("time-shift",)),
        *rules.label_smoothing(task),
        *rules.training(task, lr=lr),
        rules.clipping(),
    ]


def _cnn_transformer_space(task: Task) -> Space:
    limit = rules.params_limit(task)
    spectrogram = _spectrogram(task)
    bands, kernel = int(spectrogram[1].default), 5
    # Half of the limit is for the convolutions, of which the first sees the bands.
    convolutions = rules.width(
        task,
        "conv_width",
        low=16,
        base=48,
        default=64,
        step=16,
        weights=kernel,
        layers=1,
        inputs=kernel * bands + 6,
        fixed=round(limit / 2),
    )
    width = convolutions.default
    front = kernel * width * (bands + width) + 6 * width
    space = Space(
        (
            *spectrogram,
            rules.depth(task, "conv_depth", low=2, base=3, default=2),
            convolutions,
            Choice("kernel", (3, 5, 7), default=kernel, why=("kernel",)),
            Choice("reduction", (2, 4), default=2, why=("frame-rate",)),
            Choice("residual", (True, False), default=True, why=("residual-from-10",)),
            rules.conv_norm(task, "conv_norm"),
            rules.activation("conv_activation", "relu", ("relu", "gelu", "silu")),
            *_transformer(task, layers=2, inputs=width, fixed=front),
            *_head(task, lr=3e-3),
        )
    )
    return space.holding(_published(task, CNN_TRANSFORMERS, spectrogram), "references")


def _build_cnn_transformer(config: Config, task: Task) -> nn.Module:
    from nas.models.audio_cnn_transformer import CNNTransformer, ConvolutionConfig

    convolutions = ConvolutionConfig(
        depth=int(config["conv_depth"]),
        width=int(config["conv_width"]),
        kernel=int(config["kernel"]),
        reduction=int(config["reduction"]),
        residual=bool(config["residual"]),
        norm=str(config["conv_norm"]),
        activation=str(config["conv_activation"]),
    )
    return CNNTransformer(
        _log_mel(config, task),
        task.outputs,
        convolutions,
        transformer_layers(config),
        pooling=str(config["pooling"]),
        spec_augment=int(config["spec_augment"]),
    )


def _resnet_space(task: Task) -> Space:
    depth = rules.depth(task, low=1, base=1, default=1)
    # A stage of two 3x3 convolutions of w channels has 18 w² weights, with half as wide an input
    # 14 w² and 0.5 w² in the shortcut; of three stages each is twice as wide as the one before.
    weights = 18 + 14.5 * 4 + 14.5 * 16
    return Space(
        (
            *_spectrogram(task),
            rules.width(
                task,
                "width",
                low=8,
                base=16,
                default=24,
                weights=weights,
                inputs=9 + 8 * 6 + 4 * task.outputs,
                fixed=task.outputs,
            ),
            depth,
            Int("stages", 2, 4, default=3, why=("stages",)),
            Choice("stem_stride", (1, 2), default=2, why=("early-downsampling",)),
            rules.conv_norm(task, "norm"),
            rules.activation("activation", "relu", ("relu", "gelu", "silu")),
            Choice("pooling", ("avg", "max", "attention"), default="avg", why=("global-pooling",)),
            rules.dropout(task, default=0.2, before_head=True),
            rules.drop_path(task),
            Choice("spec_augment", (0, 1, 2), default=1, why=("spec-augment",)),
            Choice("augment", AUGMENTATIONS, default="shift", why=("time-shift",)),
            *rules.label_smoothing(task),
            *rules.training(task, lr=3e-3),
        )
    )


def _build_resnet(config: Config, task: Task) -> nn.Module:
    from nas.models.audio_resnet import AudioResNet, AudioStage

    stages = [
        AudioStage(
            int(config["depth"]),
            int(config["width"]) * 2**i,
            stride=2 if i else 1,
            norm=str(config["norm"]),
            activation=str(config["activation"]),
        )
        for i in range(int(config["stages"]))
    ]
    return AudioResNet(
        _log_mel(config, task),
        task.outputs,
        stages,
        stem_stride=int(config["stem_stride"]),
        pooling=str(config["pooling"]),
        dropout=float(config["dropout"]),
        drop_path=float(config["drop_path"]),
        spec_augment=int(config["spec_augment"]),
    )


def _whisper_space(task: Task) -> Space:
    spectrogram = _spectrogram(task)
    layers = 3 if rules.params_limit(task) > 20_000 else 2
    bands = int(spectrogram[1].default)
    space = Space(
        (
            *spectrogram,
            *_transformer(task, layers=layers, inputs=3 * bands, squares=3),
            *_head(task, lr=2e-3),
        )
    )
    return space.holding(_published(task, WHISPERS, spectrogram), "references")


def _build_whisper(config: Config, task: Task) -> nn.Module:
    from nas.models.whisper import Whisper

    return Whisper(
        _log_mel(config, task),
        task.outputs,
        transformer_layers(config),
        pooling=str(config["pooling"]),
        spec_augment=int(config["spec_augment"]),
    )


def _strides(task: Task, front: str, frame_ms: int) -> tuple[list[int], list[int]]:
    """Kernels and strides of the convolutions over the raw wave, for a token every
    ``frame_ms`` or so: "deep" halves after a first stride of 5, as wav2vec 2.0 does; "flat"
    quarters after a stride of 10, for a third of the cost."""
    steps = max(1.0, task.profile.sample_rate * frame_ms / 1000)
    if front == "deep":
        halvings = max(0, round(math.log2(steps / 5)))
        kernels = [10, *[3] * (halvings - 2), *[2] * min(halvings, 2)]
        return kernels, [5, *[2] * halvings]
    halvings = max(0, round(math.log2(steps / 10)))
    quarters, rest = divmod(halvings, 2)
    return [20, *[8] * quarters, *[4] * rest], [10, *[4] * quarters, *[2] * rest]


def _wav2vec_space(task: Task) -> Space:
    limit = rules.params_limit(task)
    layers = 3 if limit > 20_000 else 2
    step = _step(task, "frame_ms", shortest=20)
    kernels, _ = _strides(task, "flat", int(step.default))
    convolutions = rules.width(
        task,
        "conv_width",
        low=8,
        base=32,
        default=48,
        step=8,
        weights=sum(kernels[1:]),
        inputs=kernels[0] + 3 * len(kernels),
        fixed=round(limit / 2),
    )
    width = convolutions.default
    front = (kernels[0] + 3 * len(kernels) + 2) * width + sum(kernels[1:]) * width**2
    # Tokens of 20 ms are held for longer sounds too: their number is that of the convolutions.
    at_16_khz = task.profile.sample_rate == _RATE
    space = Space(
        (
            step,
            Choice("front", ("flat", "deep"), default="flat", why=("raw-wave",)),
            convolutions,
            Choice("position_kernel", (7, 15, 31), default=15, why=("raw-wave",)),
            *_transformer(task, layers=layers, inputs=width + 15 * 4, fixed=front),
            *_head(task, lr=2e-3),
        )
    )
    # Its first maps hold a hundred values for each of the wave: its batches are those of a CPU.
    batch = min(rules.BATCH_SAMPLES, rules.batch_sizes(task)[1])
    published = [
        {**config, "batch_size": batch}
        for config in _published(task, WAV2VECS, [] if at_16_khz else [step])
    ]
    return space.holding(published, "references")


def _build_wav2vec(config: Config, task: Task) -> nn.Module:
    from nas.models.wav2vec import Wav2Vec

    kernels, strides = _strides(task, str(config["front"]), int(config["frame_ms"]))
    return Wav2Vec(
        task.outputs,
        kernels,
        strides,
        conv_width=int(config["conv_width"]),
        layers=transformer_layers(config),
        position_kernel=int(config["position_kernel"]),
        pooling=str(config["pooling"]),
        spec_augment=int(config["spec_augment"]),
    )


# Published networks --------------------------------------------------------------------------


def _speech_commands() -> Task:
    """Speech Commands v2 (Warden 2018): 35 words, a second each at 16 kHz."""
    words = tuple(f"word {i}" for i in range(35))
    target = Target("word", "multiclass", words, (2_424,) * 35)
    lengths: dict[str, tuple[int, ...]] = {
        "wave": (5_000, 12_000, 16_000, 16_000, 16_000, 16_000, 16_000)
    }
    profile = DataProfile(
        84_843, 9_981, 11_005, {"wave": (16_000,)}, lengths=lengths, sample_rate=_RATE
    )
    return Task("audio", (target,), profile)


def _published_whisper(
    name: str, size: tuple[int, int, int], params: int, rate: float
) -> Reference:
    """The encoder alone, by width, layers and heads, and AdamW's largest rate; 1,500 positions are
    sinusoids there as here, but counted."""
    dim, depth, heads = size
    config: Config = {"hop_ms": 10, "n_mels": 80, "normalisation": "sample", "dim": dim}
    config |= {"depth": depth, "heads": heads, "mlp_ratio": 4.0, "norm": "layer"}
    config |= {"activation": "gelu", "pooling": "avg", "dropout": 0.0, "attention_dropout": 0.0}
    config |= {"drop_path": 0.0, "spec_augment": 0, "lr": rate}
    task = _speech_commands()
    extra = depth * dim + (dim + 1) * task.outputs - 1_500 * dim
    differs = "biases of the keys and a head, but no table of positions"
    source = "Radford et al. 2022, table 1 (the encoder, as the authors' code has it) and app. F"
    # Half as many tokens as frames; a layer's weights are 12 d².
    tokens = 50
    macs = tokens * (3 * 80 * dim * 2 + 3 * dim**2 + depth * (12 * dim**2 + 2 * tokens * dim))
    return Reference(name, source, params, config, task, extra, differs, macs)


def _published_s2t(name: str, dim: int, heads: int, params: int, rate: float) -> Reference:
    """The encoder alone. Its two convolutions, 1,024 and 2 ``dim`` wide, are gated to half; Adam's
    rate is that of the authors' example."""
    width, depth, hidden, kernel = 512, 12, 2_048, 5
    config: Config = {"hop_ms": 10, "n_mels": 80, "normalisation": "band", "conv_depth": 2}
    config |= {"conv_width": width, "kernel": kernel, "reduction": 4, "residual": False}
    config |= {"conv_norm": "batch", "conv_activation": "relu", "depth": depth, "dim": dim}
    config |= {"heads": heads, "mlp_ratio": hidden / dim, "norm": "layer", "activation": "relu"}
    config |= {"pooling": "avg", "dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.0}
    config |= {"spec_augment": 1, "lr": rate}
    task = _speech_commands()
    gated = kernel * 80 * 1_024 + 1_024 + kernel * width * 2 * dim + 2 * dim
    plain = kernel * width * (80 + width) + 2 * 3 * width + (width + 1) * dim
    extra = plain - gated + (dim + 1) * task.outputs
    differs = (
        "convolutions with BatchNorm, a projection and a head, but no gates; no count is published"
        " of the encoder alone: it is that of the authors' code"
    )
    source = "Wang et al. 2020 (fairseq S2T), table 1, and the authors' code"
    tokens = 25  # a quarter of the frames
    macs = 2 * tokens * kernel * 80 * 1_024 + tokens * kernel * width * 2 * dim
    macs += tokens * depth * (4 * dim**2 + 2 * dim * hidden + 2 * tokens * dim)
    return Reference(name, source, params, config, task, extra, differs, macs)


def _published_wav2vec() -> Reference:
    """Base, whose quantiser and masks are no part of what it answers."""
    dim, depth, width = 768, 12, 512
    config: Config = {"frame_ms": 20, "front": "deep", "conv_width": width, "dim": dim}
    config |= {"position_kernel": 128, "depth": depth, "heads": 12, "mlp_ratio": 4.0}
    config |= {"norm": "layer", "activation": "gelu", "pooling": "avg", "dropout": 0.1}
    config |= {"attention_dropout": 0.1, "drop_path": 0.0, "spec_augment": 1, "lr": 5e-4}
    task = _speech_commands()
    # Of seven convolutions biases and normalisations, where theirs have one normalisation; the
    # scales of a kernel's weight normalisation, and the vector of what is masked.
    extra = 7 * 3 * width - 2 * width - 128 - dim + (dim + 1) * task.outputs
    differs = (
        "a head; biases and LayerNorm in all convolutions and before each branch, as its large"
        " network has; no weight normalisation and no vector of what is masked"
    )
    source = "Baevski et al. 2020, sec. 4.2 (95 million with the quantiser), and transformers"
    tokens = 50
    macs = tokens * (depth * (12 * dim**2 + 2 * tokens * dim) + 128 * dim**2 / 16 + width * dim)
    macs += width * 3_200 * 10 + width**2 * (3 * (1_600 + 800 + 400 + 200) + 2 * (100 + 50))
    return Reference("wav2vec 2.0 base", source, 94_371_712, config, task, extra, differs, macs)


CNN_TRANSFORMERS = (
    _published_s2t("S2T small encoder", 256, 4, 17_503_232, 2e-3),
    _published_s2t("S2T medium encoder", 512, 8, 40_862_720, 1e-3),
)
WAV2VECS = (_published_wav2vec(),)
WHISPERS = (
    _published_whisper("Whisper tiny encoder", (384, 4, 6), 8_208_384, 1.5e-3),
    _published_whisper("Whisper base encoder", (512, 6, 8), 20_590_592, 1e-3),
    _published_whisper("Whisper small encoder", (768, 12, 12), 88_154_112, 5e-4),
)

FAMILIES = (
    Family(
        "audio_resnet",
        "audio",
        "Hershey et al. 2017, CNN Architectures for Large-Scale Audio Classification",
        _resnet_space,
        _build_resnet,
        "Few sounds, of any kind: a spectrogram read as a picture of time and pitch.",
    ),
    Family(
        "audio_cnn_transformer",
        "audio",
        "Dong et al. 2018, Speech-Transformer; Wang et al. 2020, fairseq S2T",
        _cnn_transformer_space,
        _build_cnn_transformer,
        "Sounds of any kind: convolutions see what is near, attention the whole.",
        CNN_TRANSFORMERS,
    ),
    Family(
        "wav2vec",
        "audio",
        "Baevski et al. 2020, wav2vec 2.0: Self-Supervised Learning of Speech Representations",
        _wav2vec_space,
        _build_wav2vec,
        "Sounds whose detail a spectrogram loses: it learns its filters from the raw wave.",
        WAV2VECS,
    ),
    Family(
        "whisper",
        "audio",
        "Radford et al. 2022, Robust Speech Recognition via Large-Scale Weak Supervision",
        _whisper_space,
        _build_whisper,
        "Speech: attention over a log-mel spectrogram, with little before it.",
        WHISPERS,
    ),
)
