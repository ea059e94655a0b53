"""The design rules of the field, each with its source, and the bounds that follow from them.

A rule is a sentence, and its source what supports it; where the number in a rule is a choice
of this project, the source says so. The functions below turn a task into a parameter
whose bounds, default and reasons (``why``: ids of rules) come from one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from nas.space import Choice, Config, Float, Int, Param, Value, When
from nas.task import Fidelity, Task


@dataclass(frozen=True)
class Rule:
    """``check`` finds where a network breaks the rule; it is attached at the end of this file."""

    id: str
    statement: str
    source: str
    check: Callable[[Anatomy], Iterator[Finding]] | None = None


_ALL = (
    Rule(
        "baseline-first",
        "Each family's proven configuration, scaled to the data, is trained before any sample.",
        "Feurer et al. 2015 (a search starts from configurations that proved good elsewhere)",
    ),
    Rule(
        "depth-from-data",
        "Depth grows with the logarithm of the number of training samples.",
        "Kaplan et al. 2020, sec. 4 (more data carry more parameters); the logarithm is ours",
    ),
    Rule(
        "width-from-data",
        "Width grows with the training samples and the number of inputs and classes.",
        "Kaplan et al. 2020, sec. 4 (more data carry more parameters); the doublings are ours",
    ),
    Rule(
        "params-per-sample",
        "A network has at most 500,000 parameters, or 2,000 for each sample where that is more.",
        "Zhang et al. 2017, sec. 4 (two for each sample fit any labels); the cap is ours",
    ),
    Rule(
        "cost-from-the-start",
        "A limit on parameters bounds the widths, and each baseline keeps it.",
        "Tan et al. 2019 (MnasNet), sec. 3",
    ),
    Rule(
        "residual-from-10",
        "From 10 layers on a network has residual connections.",
        "He et al. 2016, sec. 4.1 (plain networks degrade with depth); the ten is ours",
    ),
    Rule(
        "activation-by-family",
        "ReLU for convolutions, GELU for Transformers, SiLU for modern networks.",
        "He et al. 2015; Hendrycks & Gimpel 2016; Ramachandran et al. 2017",
    ),
    Rule(
        "norm-by-family",
        "BatchNorm for convolutions, LayerNorm or RMSNorm for Transformers.",
        "Ioffe & Szegedy 2015; Ba et al. 2016; Zhang & Sennrich 2019",
    ),
    Rule(
        "groupnorm-for-small-batches",
        "With fewer than 16 samples in a batch GroupNorm replaces BatchNorm.",
        "Wu & He 2018, fig. 1",
    ),
    Rule(
        "dropout-from-risk",
        "Dropout of at most 0.5, in proportion to the risk of overfitting.",
        "Srivastava et al. 2014, sec. 7.3 and 7.4 (rate, and size of the data)",
    ),
    Rule(
        "no-dropout-after-batchnorm",
        "Convolutional blocks with BatchNorm have no dropout inside; it stands before the head.",
        "Li et al. 2019 (variance shift), sec. 4",
    ),
    Rule(
        "weight-decay-from-risk",
        "Decoupled weight decay of 1e-4 to 1e-2, more where overfitting is likely.",
        "Loshchilov & Hutter 2019, sec. 4",
    ),
    Rule(
        "learning-rate-by-family",
        "AdamW, warm-up and cosine; convolutions take larger rates than attention.",
        "Loshchilov & Hutter 2017 and 2019; Xiong et al. 2020, sec. 3",
    ),
    Rule(
        "learning-rate-first",
        "A range test of each family's baseline sets the bounds of its learning rate.",
        "Smith 2017, sec. 3.3 (a rate that grows while the loss is watched); the tenth of the rate"
        " of least loss, and the factors around it, are ours",
    ),
    Rule(
        "batch-from-data",
        "The batch size leaves about a hundred steps in an epoch.",
        "Masters & Luschi 2018, sec. 5 (small batches generalise); the hundred is ours",
    ),
    Rule(
        "micro-batch",
        "Where memory is short a batch comes in two halves, for BatchNorm of at least 16 samples.",
        "Goyal et al. 2017, sec. 2.3 and 3 (gradients of parts are averaged; BatchNorm sees each"
        " part alone); Wu & He 2018, fig. 1 (its error grows below 16)",
    ),
    Rule(
        "attention-cost",
        "Attention is quadratic: patches leave at most 256 tokens; a longer text is seen locally.",
        "Dosovitskiy et al. 2021, sec. 3.1; Beltagy et al. 2020, sec. 3.1; the 256 are ours",
    ),
    Rule(
        "global-pooling",
        "Global pooling and one linear layer instead of wide fully connected heads.",
        "Lin et al. 2014, sec. 3.2",
    ),
    Rule(
        "resolution",
        "Input resolution is searched with depth and width.",
        "Tan & Le 2019, sec. 3.2",
    ),
    Rule(
        "early-downsampling",
        "Images over 32 pixels are halved by the stem: most of the cost is in the first maps.",
        "He et al. 2016, table 1; for small images kept whole, sec. 4.2",
    ),
    Rule(
        "kernel",
        "Kernels of 3 or 5: two small ones see as far as a large one for fewer weights.",
        "Simonyan & Zisserman 2015, sec. 2.3; Tan et al. 2019 (MnasNet), sec. 4.1",
    ),
    Rule(
        "bottleneck",
        "Bottleneck blocks make deep networks of wide stages affordable.",
        "He et al. 2016, sec. 4.1 (deeper bottleneck architectures)",
    ),
    Rule(
        "expansion",
        "Inverted residuals widen a block's input up to six times.",
        "Sandler et al. 2018 (MobileNetV2), sec. 3.3",
    ),
    Rule(
        "squeeze-excite",
        "Channels are weighed by their global means, at a quarter of the width.",
        "Hu et al. 2018, sec. 3; the ratio as in Tan & Le 2019",
    ),
    Rule(
        "conv-stem",
        "A small Transformer trains better on a convolutional stem than on raw patches.",
        "Xiao et al. 2021 (Early Convolutions Help Transformers See Better), sec. 4",
    ),
    Rule(
        "heads",
        "One to eight attention heads, which share the width.",
        "Vaswani et al. 2017, sec. 3.2.2 and table 3",
    ),
    Rule(
        "feed-forward",
        "The feed-forward layer is one to four times as wide as the attention.",
        "Vaswani et al. 2017, sec. 3.3; Gorishniy et al. 2021, app. E",
    ),
    Rule(
        "label-smoothing",
        "Targets of 0.9 rather than 1 keep a classifier from overconfidence.",
        "Szegedy et al. 2016, sec. 7",
    ),
    Rule(
        "tabnet",
        "TabNet's relaxation, shared and own layers, and sparsity lie around the paper's.",
        "Arik & Pfister 2019, the section on hyperparameters; entmax: Peters et al. 2019",
    ),
    Rule(
        "numeric-encoding",
        "Numbers enter as piecewise-linear codes between their quantiles.",
        "Gorishniy et al. 2022, sec. 3.2",
    ),
    Rule(
        "augmentation",
        "Images are moved, turned or mirrored where the search finds that it helps.",
        "Shorten & Khoshgoftaar 2019, sec. 3",
    ),
    Rule(
        "wave-length",
        "Sounds are cut after ten seconds, as attention is quadratic in their frames.",
        "Vaswani et al. 2017, table 1 (cost of self-attention); the ten seconds are ours",
    ),
    Rule(
        "frame-rate",
        "Windows of 25 ms every 10 ms; longer sounds take longer steps, for some 256 tokens.",
        "Radford et al. 2022 (Whisper), sec. 2.2; the 256 are ours",
    ),
    Rule(
        "mel-bands",
        "40 to 80 mel bands, standardised by sample or by band.",
        "Radford et al. 2022 (Whisper), sec. 2.2; Viikki & Laurila 1998 (by band), sec. 2",
    ),
    Rule(
        "raw-wave",
        "Strided convolutions over the raw wave: a token every 20 ms or so.",
        "Baevski et al. 2020 (wav2vec 2.0), sec. 4.2; Schneider et al. 2019, sec. 3.1",
    ),
    Rule(
        "spec-augment",
        "Stretches of time and of frequency are blanked in training.",
        "Park et al. 2019 (SpecAugment), sec. 2",
    ),
    Rule(
        "time-shift",
        "Sounds are moved in time, and played slower or faster, where it helps.",
        "Ko et al. 2015, Audio Augmentation for Speech Recognition, sec. 2 (speed)",
    ),
    Rule(
        "vocabulary",
        "Words seen twice or more in training have a vector; where 15 % are seen once, pieces do.",
        "Chen et al. 2019 (How Large a Vocabulary Does Text Classification Need?), sec. 4;"
        " Sennrich et al. 2016, sec. 3 (pieces); Good 1953 (new words); the 15 % are ours",
    ),
    Rule(
        "text-length",
        "Texts are cut at twice the 95th percentile of their lengths, and at 1,024 tokens.",
        "Devlin et al. 2019, app. A.2 (512); the numbers are ours",
    ),
    Rule(
        "token-dropout",
        "Whole words are left out in training, so that no single one is relied upon.",
        "Iyyer et al. 2015 (Deep Averaging Networks), sec. 3",
    ),
    Rule(
        "positions",
        "Positions are learned, sinusoidal, rotary or left out.",
        "Vaswani et al. 2017, sec. 3.5; Su et al. 2021 (RoFormer), sec. 3.2",
    ),
    Rule(
        "norm-placement",
        "Normalising before each branch trains more stably than after each sum.",
        "Xiong et al. 2020, sec. 3",
    ),
    Rule(
        "two-directions",
        "A recurrent layer reads a text in both directions where all of it is at hand.",
        "Schuster & Paliwal 1997; Graves & Schmidhuber 2005, sec. 5",
    ),
    Rule(
        "state-space",
        "Mamba's expansion, states and kernel lie around the paper's 2, 16 and 4.",
        "Gu & Dao 2023, sec. 3.4 and 3.6, table 10 (states)",
    ),
    Rule(
        "imbalance",
        "Where classes are weighed equally by the objective, the loss may weigh them too.",
        "King & Zeng 2001, sec. 4; Brodersen et al. 2010",
    ),
    Rule(
        "single-members",
        "A fused network is measured against one of each member alone.",
        "Wang et al. 2020 (What Makes Training Multi-Modal Networks Hard?), sec. 1",
    ),
    Rule(
        "light-encoders",
        "Each member has a light encoder of its modality; they share the limit on parameters.",
        "Kim et al. 2021 (ViLT), sec. 2.1; the equal shares are ours",
    ),
    Rule(
        "fusion",
        "Members' vectors stand side by side, or are weighed by gates.",
        "Baltrušaitis et al. 2019, sec. 6; Arevalo et al. 2017, sec. 3",
    ),
    Rule(
        "modality-dropout",
        "In training a member is left out at random, so that none is relied upon alone.",
        "Neverova et al. 2016 (ModDrop)",
    ),
    Rule(
        "cross-validation",
        "With fewer than 150 validation samples a proxy is scored on five folds of all but test.",
        "Kohavi 1995, sec. 4; the 150 (a standard error of four per cent) are ours",
    ),
    Rule(
        "proxy-steps",
        "A proxy trains for 500 (images on a CPU) to 1,600 steps, on a share of plentiful data.",
        "Zhou et al. 2020 (EcoNAS), sec. 3 and 4; the 800 are ours",
    ),
    Rule(
        "cloud-size",
        "Of larger clouds 2,048 points are drawn; how many of them a network reads is searched.",
        "Qi et al. 2017 (PointNet), sec. 5.1 and 5.3 (half of 1,024 points cost 2.4 to 3.8 %)",
    ),
    Rule(
        "cloud-frame",
        "Each cloud is moved and scaled into the unit ball, unless place and size tell something.",
        "Qi et al. 2017 (PointNet), sec. 5.1",
    ),
    Rule(
        "cloud-pooling",
        "Points have no order: a maximum, a mean or both make one vector of them.",
        "Qi et al. 2017 (PointNet), sec. 4.2 and fig. 5; Wang et al. 2019, fig. 3 (both)",
    ),
    Rule(
        "cloud-transform",
        "A small network may turn each cloud into a common pose first.",
        "Qi et al. 2017 (PointNet), sec. 4.2 and 5.2",
    ),
    Rule(
        "neighbours",
        "Each point is compared with its 4 to 20 nearest; with few points these are near enough.",
        "Wang et al. 2019 (DGCNN), sec. 5.1 and table 5 (k = 20 of 1,024); the four are ours",
    ),
    Rule(
        "graph-of-points",
        "Neighbours are found once in space, or by each layer anew among its features.",
        "Wang et al. 2019 (DGCNN), sec. 3.2 and table 4 (0.7 % for three times the work)",
    ),
    Rule(
        "voxels",
        "A grid has 8 to 64 voxels a side, and no more cells than 64 for each point of a cloud.",
        "Maturana & Scherer 2015 (VoxNet), sec. III (32); Graham et al. 2018; the 64 are ours",
    ),
    Rule(
        "cloud-augmentation",
        "Clouds are turned, scaled, jittered and thinned where the search finds that it helps.",
        "Qi et al. 2017 (PointNet), sec. 5.1; Qi et al. 2017 (PointNet++), sec. 3.3",
    ),
    Rule(
        "graph-depth",
        "Two layers on one graph, three on many: further ones blur the nodes into each other.",
        "Kipf & Welling 2017, app. B; Li et al. 2018 (Deeper Insights into GCNs), sec. 3",
    ),
    Rule(
        "graph-layers",
        "Linear layers before and after the convolutions, which normalise as the search finds.",
        "You et al. 2020 (Design Space for GNNs), sec. 3.1 and 7.1; Luo et al. 2024, sec. 3",
    ),
    Rule(
        "jumping-knowledge",
        "The head reads the last layer, all of them, or the largest value of each feature.",
        "Xu et al. 2018 (Jumping Knowledge Networks), sec. 4; Xu et al. 2019 (GIN), eq. 4.2",
    ),
    Rule(
        "graph-pooling",
        "A sum of the nodes counts what a graph holds, a mean what it holds on the whole.",
        "Xu et al. 2019 (GIN), sec. 5.2; Li et al. 2016 (Gated Graph Sequence NNs), sec. 3.2",
    ),
    Rule(
        "neighbours-mean",
        "Neighbours are averaged, or the largest of each of their features is taken.",
        "Hamilton et al. 2017 (GraphSAGE), sec. 3.3",
    ),
    Rule(
        "drop-edge",
        "Edges are left out in training, each with the same chance.",
        "Rong et al. 2020 (DropEdge), sec. 3.1",
    ),
    Rule(
        "drop-features",
        "Features of nodes are left out in training, most of them where labels are few.",
        "Kipf & Welling 2017, sec. 5.2; Veličković et al. 2018, sec. 3.3 (0.5, 0.6; 0.8 is ours)",
    ),
    Rule(
        "word-counts",
        "Word counts of a node are divided by their sum, and no mean is taken off.",
        "Kipf & Welling 2017, sec. 5.2",
    ),
    Rule(
        "whole-graph",
        "One graph is one batch: all its labelled nodes at once.",
        "Kipf & Welling 2017, sec. 3.1",
    ),
    Rule(
        "weight-decay-few-steps",
        "Of few steps each decays the weights more: by up to 2 where a graph is the batch.",
        "Loshchilov & Hutter 2019, app. B.1 (decay over the root of the steps); the 2 is ours",
    ),
)
# Thresholds that bounds and checks share.
RESIDUAL_FROM = 10  # layers
SMALL_BATCH = 16  # samples, below which GroupNorm replaces BatchNorm
MOST_DROPOUT = 0.5
LEAST_DECAY, MOST_DECAY = 1e-4, 1e-2
MOST_TOKENS = 256  # of full attention
FREE_PARAMS, PARAMS_PER_SAMPLE = 500_000, 2_000
WARMUP = 0.05  # share of the steps
GRADIENT_CLIP = 1.0  # of the global norm
NEAR = 3.0  # a factor within which a range test tells a learning rate (rule "learning-rate-first")
VALIDATION_MOST = 5_000  # samples that score a proxy: a standard error of half a per cent
CROSS_VALIDATED = 150  # validation samples from which on one split is enough
CLOUD_MOST = 2_048  # points of a cloud that are kept (rule "cloud-size")
WAVE_LONGEST_S = 10.0  # seconds of a sound that are kept (rule "wave-length")
NEW_WORDS, WORD_COUNT, MOST_WORDS, MOST_PIECES = 0.15, 2, 30_000, 8_000  # of a vocabulary
RULES = {rule.id: rule for rule in _ALL}


def scale(task: Task) -> float:
    """log10 of the training samples, within 2 and 6."""
    return min(max(math.log10(max(task.profile.n_train, 1)), 2.0), 6.0)


def risk(task: Task) -> float:
    """Risk of overfitting: 1 with a thousand samples or fewer, 0 with a million."""
    return min(max((6.0 - scale(task)) / 3.0, 0.0), 1.0)


def parameter_cap(task: Task) -> int:
    """params-per-sample, but never below what a small baseline needs."""
    return params_cap(task.profile.n_train)


def params_cap(samples: int) -> int:
    """The most parameters of a network for so many training samples."""
    return max(FREE_PARAMS, PARAMS_PER_SAMPLE * samples)


def params_limit(task: Task) -> float:
    """The most parameters a candidate may have: the user's limit or params-per-sample."""
    bounds = [c.bound for c in task.constraints if c.metric == "params" and c.op == "<="]
    return min([*bounds, parameter_cap(task)])


def depth(task: Task, name: str = "depth", *, low: int = 1, base: int, default: int) -> Int:
    """From ``low`` to ``base`` layers at 100 samples, and one more per tenfold data."""
    high = base + math.floor(scale(task)) - 2
    return Int(name, low, high, default=min(default, high), why=("depth-from-data",))


def width(
    task: Task,
    name: str,
    *,
    low: int,
    base: int,
    default: int,
    step: int = 8,
    weights: float = 1.0,
    layers: float = 1.0,
    inputs: int = 0,
    fixed: int = 0,
    when: When | None = None,
) -> Int:
    """Up to ``base`` at 100 samples and twice that per tenfold data.

    The baseline has about ``fixed`` + ``inputs`` × width + ``layers`` × ``weights`` × width²
    parameters. The limit on them caps the default so, and the bound with a single layer.
    """
    limit = params_limit(task)
    room = max(0.0, limit - fixed)

    def widest(square: float) -> float:
        return (math.sqrt(inputs**2 + 4 * square * room) - inputs) / (2 * square)

    high = base * 2 ** (scale(task) - 2)
    why: tuple[str, ...] = ("width-from-data",)
    if widest(weights) < high:
        high = widest(weights)
        binding = limit < parameter_cap(task)
        why = (*why, "cost-from-the-start" if binding else "params-per-sample")
    high = max(low, int(high) // step * step)
    wanted = min(default, high, int(widest(weights * layers)))
    snapped = low + (max(wanted, low) - low) // step * step
    return Int(name, low, high, default=snapped, step=step, log=True, when=when or {}, why=why)


def activation(
    name: str, default: str, options: tuple[str, ...], when: When | None = None
) -> Choice:
    return Choice(name, options, default=default, when=when or {}, why=("activation-by-family",))


def conv_norm(task: Task, name: str, when: When | None = None) -> Choice:
    """BatchNorm or GroupNorm, the latter alone where a batch may be small."""
    if min(batch_sizes(task)[0]) < SMALL_BATCH:
        why = ("norm-by-family", "groupnorm-for-small-batches")
        return Choice(name, ("group",), default="group", when=when or {}, why=why)
    return Choice(
        name, ("batch", "group"), default="batch", when=when or {}, why=("norm-by-family",)
    )


def dropout(
    task: Task, name: str = "dropout", default: float | None = None, before_head: bool = False
) -> Float:
    """Up to 0.1 where data abound and 0.5 where overfitting is likely; a third by default.

    ``before_head`` says that it stands there alone, as in a network of convolutions.
    """
    low, high = 0.0, round(0.1 + 0.4 * risk(task), 2)
    value = round(high / 2, 2) if default is None else min(default, high)
    why: tuple[str, ...] = ("dropout-from-risk",)
    if before_head:
        why = (*why, "no-dropout-after-batchnorm")
    return Float(name, low, high, default=value, why=why)


def batch_sizes(task: Task) -> tuple[tuple[int, ...], int]:
    """The batch sizes on offer and the default, a power of two near a hundredth of the
    training samples; below 16 only where there are hardly more than that."""
    if is_node_level(task):
        return (task.profile.n_train,), task.profile.n_train
    most = 512 if task.modality == "tabular" else 64
    default = 2 ** round(math.log2(max(task.profile.n_train, 64) / 100))
    default = min(max(default, 16), most)
    while default > max(task.profile.n_train // 4, 4):
        default //= 2
    low = max(default // 2, min(default, 16))
    return tuple(sorted({low, default, min(2 * default, most)})), default


def halves(task: Task, batch_size: int, batch_norm: bool) -> bool:
    """Whether a batch may come in two halves (rule "micro-batch")."""
    least = SMALL_BATCH if batch_norm else 1
    return not is_node_level(task) and batch_size % 2 == 0 and batch_size // 2 >= least


def training(task: Task, *, lr: float, spread: float = 5.0) -> list[Param]:
    """Learning rate (a factor ``spread`` around ``lr``), weight decay and batch size."""
    batches, batch = batch_sizes(task)
    decay = 1e-4 * 10 ** (1.5 * risk(task))
    low, high, why = LEAST_DECAY, MOST_DECAY, "weight-decay-from-risk"
    if is_node_level(task):
        low, high, decay, why = 1e-2, 2.0, 1.0, "weight-decay-few-steps"
    params: list[Param] = [
        Float(
            "lr", lr / spread, lr * spread, default=lr, log=True, why=("learning-rate-by-family",)
        ),
        Float("weight_decay", low, high, default=decay, log=True, why=(why,)),
        Choice(
            "batch_size",
            batches,
            default=batch,
            why=("whole-graph" if is_node_level(task) else "batch-from-data",),
        ),
    ]
    weighs = {"balanced_accuracy", "f1"} & {o.metric for o in task.objectives}
    if weighs and max(t.imbalance for t in task.targets) > 1.5:
        options: tuple[Value, ...] = ("balanced", "none")
        params.append(Choice("class_weights", options, default="balanced", why=("imbalance",)))
    return params


def tested_rate(rate: Float, lowest: float) -> Float:
    """The learning rate of a family after a range test whose loss was least at ``lowest``.

    A tenth of that is the rate of a training. One such curve tells it within a factor of three
    or so; a family's own rate stands where it lies that near, and moves that near where it does
    not. Nothing above ``lowest`` is searched.
    """
    near = min(max(rate.default, lowest / 10 / NEAR), lowest / 10 * NEAR)
    moved = near / rate.default
    return replace(
        rate,
        low=rate.low * moved,
        high=min(rate.high * moved, lowest),
        default=near,
        why=(*rate.why, "learning-rate-first"),
    )


def text_length(percentiles: tuple[int, ...]) -> int:
    """The most tokens of a text (rule "text-length"), from the percentiles of a profile."""
    *_, most, longest = percentiles
    return min(longest, max(2 * most, 16), 1_024)


def resolutions(task: Task) -> tuple[int, ...]:
    """The image's longer side, and the common sizes below it down to 32."""
    longer = max(task.profile.inputs["image"][1:])
    smaller = [r for r in (32, 48, 64, 96) if r < 0.8 * longer]
    return (*smaller, longer)


@dataclass(frozen=True)
class Effort:
    """How much training the networks of a modality get; on a CPU they are dear."""

    samples: int  # a proxy's, at most
    cpu_steps: int
    gpu_steps: int
    full_steps: int  # of a recipe
    least: float = 1.0  # epochs of a recipe: at least as often as a proxy's


EFFORT = {
    "tabular": Effort(32_000, 1_600, 1_600, 3_000),
    "images": Effort(8_000, 500, 1_600, 6_000, least=2.0),
    "text": Effort(16_000, 700, 1_000, 800),  # few texts are soon learnt by heart
    "audio": Effort(8_000, 500, 1_600, 3_000, least=2.0),
    "graphs": Effort(8_000, 800, 1_600, 3_000),
    "pointclouds": Effort(8_000, 500, 1_600, 3_000, least=2.0),
    "multimodal": Effort(4_000, 300, 1_600, 1_000),
}


def fidelity(task: Task) -> Fidelity:
    """How much training a proxy gets (rule "proxy-steps"): some hundred steps of the default
    batch where they are dear, on at most so many samples as ``EFFORT`` says. Few epochs of many
    samples rank networks better than many epochs of few, which favour the smallest. One
    candidate takes at most a fifteenth of all worker time."""
    effort = EFFORT[task.modality]
    samples = min(task.profile.n_train, effort.samples)
    steps = max(1, samples // batch_sizes(task)[1])
    wanted = effort.cpu_steps if task.device == "cpu" else effort.gpu_steps
    epochs = min(max(round(wanted / steps), 4), 30)
    if is_node_level(task):
        # An epoch is one step, of the whole graph, and validation costs as much again. Kipf &
        # Welling 2017, sec. 5.2, stop after at most 200.
        epochs = wanted // 8
    limit = None
    if (worker_s := task.budget.worker_s) is not None:
        limit = max(20.0, worker_s / 15)
    return Fidelity(epochs, samples / task.profile.n_train, limit)


def folds(task: Task) -> int:
    """How often a proxy is trained, each time scored on another part (rule
    "cross-validation"). The nodes of one graph keep the labels they were given."""
    few = task.profile.n_val < CROSS_VALIDATED and task.fidelity.share >= 1
    return 5 if few and not is_node_level(task) else 1


def gradient_clip(config: Config) -> float:
    """The global norm that gradients are clipped to: a family's own ``clip``, or 1 (Pascanu et
    al. 2013, sec. 3.2); 0 leaves them as they are."""
    return float(config.get("clip", GRADIENT_CLIP))


def is_node_level(task: Task) -> bool:
    """Whether the samples are the nodes of one graph, which every batch holds whole."""
    return "node" in task.profile.inputs


def steps_per_epoch(samples: int, batch_size: int, accumulate: int = 1) -> int:
    """Optimiser steps in an epoch, of ``accumulate`` batches each; a last batch of one sample
    is left out."""
    full, rest = divmod(samples, min(batch_size, samples))
    return math.ceil((full + (rest > 1)) / accumulate)


def full_epochs(task: Task, batch_size: int) -> int:
    """Epochs of a recipe at full scale: the steps that ``EFFORT`` says, but at least as many
    epochs as a proxy had (or twice as many) and at most three times as many."""
    proxy, effort = task.fidelity.epochs, EFFORT[task.modality]
    if is_node_level(task):  # 200 in all, as Kipf & Welling 2017, sec. 5.2; more overfit
        return 2 * proxy
    steps = steps_per_epoch(task.profile.n_train, batch_size)
    wanted = math.ceil(effort.full_steps / steps)
    return min(max(wanted, round(effort.least * proxy)), 3 * proxy)


# Checks: the same rules, read off a network that is already there ------------------------------


@dataclass(frozen=True)
class Layer:
    """One step of a forward pass.

    ``name`` is its module's (of a function, that of the module that calls it) and ``owner``
    that module's class. ``kind`` is "input", "linear", "conv", "recurrent", "embedding",
    "norm", "activation", "dropout", "attention" or "join", where several tensors meet;
    ``type`` is which of its kind, as "batch", "relu", "add". ``shape`` is that of the output
    without the batch, and ``width`` the values that each of a layer's outputs is made from.
    ``reads`` are the places, in the order of execution, of the layers it is given.
    """

    name: str
    kind: str
    type: str = ""
    owner: str = ""
    shape: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    params: int = 0
    width: int = 0
    depth: int = 1  # weighted layers in it: those of a recurrent module come as one
    shortcut: bool = False  # a shortcut over weighted layers begins or ends after it
    gate: bool = False  # an activation that another branch is multiplied by
    rate: float | None = None  # of a dropout
    tokens: tuple[int, int] | None = None  # queries and keys of an attention

    @property
    def weighted(self) -> bool:
        return self.kind in ("linear", "conv", "recurrent")


@dataclass(frozen=True)
class Anatomy:
    """What is known of a network, and of the training it is meant for; of what is unknown
    (None) the checks are silent."""

    layers: tuple[Layer, ...]
    params: int


@dataclass(frozen=True)
class Finding:
    """Where a network or its training breaks a rule."""

    rule: str
    severity: Literal["serious", "advice"]
    where: str
    evidence: str  # with numbers
    change: str  # what to do about it

    @property
    def why(self) -> str:
        return RULES[self.rule].statement
