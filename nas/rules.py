"""The design rules of the field, each with its source, and the bounds that follow from them.

A rule is a sentence, and its source what supports it; where the number in a rule is a choice
of this project, the source says so. The numbers stand first, once each: sentences, bounds,
defaults and checks use the same. The functions below turn a task into a parameter whose
bounds, default and reasons (``why``: ids of rules) come from one place. What a rule decides
that is no parameter of a space is decided by a function marked with ``sets``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, TypeVar

from nas.space import Choice, Config, Float, Int, Param, Space, Value, When
from nas.task import Fidelity, Task

RESIDUAL_FROM = 10  # weighted layers from which on a network has residual connections
SMALL_BATCH = 16  # samples of a batch below which GroupNorm replaces BatchNorm
MOST_TOKENS = 256  # that attention spans before it is local, or the model linear in them
FREE_PARAMS, PARAMS_PER_SAMPLE = 500_000, 2_000  # a network's at most, whichever is more
LEAST_DROPOUT, MOST_DROPOUT = 0.1, 0.5  # the bound where data abound, and where they are few
MOST_DROP_PATH = 0.2  # of whole branches, and of attention's weights
SATURATING_MOST = 4  # layers of sigmoid or tanh in a row
LEAST_DECAY, MOST_DECAY = 1e-4, 1e-2  # decoupled weight decay
IMBALANCED = 1.5  # largest class over smallest from which on classes may be weighed
STEPS_OF_AN_EPOCH = 100  # that the batch size leaves, about
BATCH_VALUES = 2**24  # input values of a batch at most: 64 MiB in float32
HEAD_WIDEST = 128  # units of a fully connected layer after the pooling
PRETRAINED_BELOW = 10_000  # samples below which pretrained weights are worth looking for
CATEGORY_VALUES = 16  # of a category's vector, at most
WARMUP = 0.05  # share of the steps
GRADIENT_CLIP = 1.0  # of the global norm
VALIDATION_MOST = 5_000  # samples that score a proxy: a standard error of half a per cent
CROSS_VALIDATED = 150  # validation samples from which on one split is enough
CLOUD_MOST = 2_048  # points of a cloud that are kept
CLOUD_CELLS = 64  # of a grid for each point of a cloud, at most
WAVE_LONGEST_S = 10.0  # seconds of a sound that are kept
TEXT_LONGEST = 1_024  # tokens of a text that are kept
NEW_WORDS, WORD_COUNT, MOST_WORDS, MOST_PIECES = 0.15, 2, 30_000, 8_000  # of a vocabulary
LR_TEST = False  # whether a search begins with range tests; experiments/LOG.md has their worth
NEAR = 3.0  # a factor within which a range test tells a learning rate


@dataclass(frozen=True)
class Rule:
    """``check`` finds where a network breaks the rule; it is attached at the end of this file."""

    id: str
    statement: str
    source: str
    check: Callable[[Anatomy], Iterator[Finding]] | None = None


_ALL = (
    Rule(
        "families-by-modality",
        "What the data is (a table, images, texts …) says which families of networks are tried.",
        "Bronstein et al. 2021, Geometric Deep Learning, sec. 3 (symmetries of the data)",
    ),
    Rule(
        "baseline-first",
        "Each family's proven configuration, scaled to the data, is trained before any sample.",
        "Feurer et al. 2015 (a search starts from configurations that proved good elsewhere)",
    ),
    Rule(
        "pretrained-first",
        "Where weights trained on like data exist they are preferred to random ones, the more so"
        f" with fewer than {PRETRAINED_BELOW:,} samples.",
        "He et al. 2019 (Rethinking ImageNet Pre-Training): it made up for 10,000 images, not for"
        " 1,000",
    ),
    Rule(
        "depth-from-data",
        "Depth grows with the logarithm of the number of training samples.",
        "Kaplan et al. 2020, sec. 4 (more data carry more parameters); the logarithm is ours",
    ),
    Rule(
        "width-from-data",
        "Width doubles with tenfold training samples, and grows with the logarithm of the classes.",
        "Kaplan et al. 2020, sec. 4 (more data carry more parameters); Yang et al. 2018 (a narrow"
        " last layer cannot tell many classes apart); the doublings and the logarithm are ours",
    ),
    Rule(
        "params-per-sample",
        f"A network has at most {FREE_PARAMS:,} parameters, or {PARAMS_PER_SAMPLE:,} for each"
        " sample where that is more.",
        "Zhang et al. 2017, sec. 4 (two for each sample fit any labels); the cap is ours",
    ),
    Rule(
        "cost-from-the-start",
        "Costs are objectives and limits from the start: a limit on parameters or memory bounds"
        " the widths, and each baseline keeps it.",
        "Tan et al. 2019 (MnasNet), sec. 3",
    ),
    Rule(
        "residual-from-10",
        f"From {RESIDUAL_FROM} layers on a network has residual connections.",
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
        f"With fewer than {SMALL_BATCH} samples in a batch GroupNorm replaces BatchNorm"
        " (LayerNorm where a layer has no positions).",
        "Wu & He 2018, fig. 1; sec. 3 (LayerNorm is GroupNorm of one group)",
    ),
    Rule(
        "dropout-from-risk",
        f"Dropout of at most {MOST_DROPOUT:g} (of paths and of attention {MOST_DROP_PATH:g}) where"
        " overfitting is likely, and a fifth of that where it is not: parameters against samples.",
        "Srivastava et al. 2014, sec. 7.3 and 7.4 (rate, and size of the data); Huang et al. 2016"
        " (paths); the proportion is ours",
    ),
    Rule(
        "no-dropout-after-batchnorm",
        "Convolutional blocks with BatchNorm have no dropout inside; it stands before the head.",
        "Li et al. 2019 (variance shift), sec. 4",
    ),
    Rule(
        "weight-decay-from-risk",
        f"Decoupled weight decay of {LEAST_DECAY:g} to {MOST_DECAY:g}, by default in proportion to"
        " the risk of overfitting: parameters against samples.",
        "Loshchilov & Hutter 2019, sec. 4; the proportion is ours",
    ),
    Rule(
        "learning-rate-by-family",
        "Convolutions take larger rates than attention; each family begins near its own.",
        "Xiong et al. 2020, sec. 3 (Transformers need small rates or warm-up); the rates are ours",
    ),
    Rule(
        "learning-rate-first",
        "A range test of a family's baseline sets right a learning rate that is far off.",
        "Smith 2017, sec. 3.3 (a rate that grows while the loss is watched); the tenth of the rate"
        " of least loss, and the factors around it, are ours",
    ),
    Rule(
        "warm-up-cosine",
        f"AdamW; its rate warms up over {WARMUP:.0%} of the steps and falls along half a cosine.",
        "Loshchilov & Hutter 2017, eq. 5 (cosine), and 2019 (AdamW); Goyal et al. 2017, sec. 2.2"
        " (warm-up); its length is ours",
    ),
    Rule(
        "gradient-clipping",
        f"Gradients are clipped to a global norm of {GRADIENT_CLIP:g}; in networks over sequences"
        " the search finds whether that helps.",
        "Pascanu et al. 2013, sec. 3.2; the norm is ours",
    ),
    Rule(
        "batch-from-data",
        f"The batch size leaves about {STEPS_OF_AN_EPOCH} steps in an epoch, and of large samples"
        f" as many as hold {BATCH_VALUES / 1e6:.0f} million values.",
        "Masters & Luschi 2018, sec. 5 (small batches generalise); the numbers are ours",
    ),
    Rule(
        "micro-batch",
        "Where memory is short a batch comes in two halves, for BatchNorm of at least"
        f" {SMALL_BATCH} samples.",
        "Goyal et al. 2017, sec. 2.3 and 3 (gradients of parts are averaged; BatchNorm sees each"
        " part alone); Wu & He 2018, fig. 1 (its error grows below 16)",
    ),
    Rule(
        "attention-cost",
        f"Attention is quadratic in the tokens: patches leave 16 to {MOST_TOKENS} of an image.",
        f"Dosovitskiy et al. 2021, sec. 3.1; the {MOST_TOKENS} are ours",
    ),
    Rule(
        "long-sequences",
        f"From {MOST_TOKENS} tokens on attention may be local, from {2 * MOST_TOKENS} on it is;"
        " recurrent and state-space models are linear in the length.",
        "Beltagy et al. 2020 (Longformer), sec. 3.1; Gu & Dao 2023 (Mamba), sec. 3; the numbers"
        " are ours",
    ),
    Rule(
        "padding-masks",
        "Samples of different lengths are padded in a batch; what is padding changes no output.",
        "Vaswani et al. 2017, sec. 3.2.3 (masks)",
    ),
    Rule(
        "one-head-per-target",
        "Several targets share one network, with a head and an equal share of the loss for each.",
        "Caruana 1997, Multitask Learning, sec. 2; the equal shares are ours",
    ),
    Rule(
        "global-pooling",
        "Global pooling and one linear layer, or one of at most"
        f" {HEAD_WIDEST} units before it, instead of wide fully connected heads.",
        "Lin et al. 2014, sec. 3.2",
    ),
    Rule(
        "resolution",
        "Input resolution is searched with depth and width.",
        "Tan & Le 2019, sec. 3.2",
    ),
    Rule(
        "stages",
        "Maps are halved stage by stage until about four cells a side are left, at most four"
        " times.",
        "He et al. 2016, table 1 (four stages) and sec. 4.2 (three for small images); the four"
        " cells are ours",
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
        "embedding",
        f"A category's vector has at most {CATEGORY_VALUES} values, and no more than there are"
        " categories.",
        "Guo & Berkhahn 2016, Entity Embeddings of Categorical Variables, sec. 5; the"
        f" {CATEGORY_VALUES} are ours",
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
        f"Sounds are cut after {WAVE_LONGEST_S:g} s, as attention is quadratic in their frames.",
        "Vaswani et al. 2017, table 1 (cost of self-attention); the ten seconds are ours",
    ),
    Rule(
        "frame-rate",
        "Windows of 25 ms every 10 ms; longer sounds take longer steps, for some"
        f" {MOST_TOKENS} tokens.",
        f"Radford et al. 2022 (Whisper), sec. 2.2; the {MOST_TOKENS} are ours",
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
        "Words seen twice or more in training have a vector; where"
        f" {NEW_WORDS:.0%} are seen once, pieces do.",
        "Chen et al. 2019 (How Large a Vocabulary Does Text Classification Need?), sec. 4;"
        " Sennrich et al. 2016, sec. 3 (pieces); Good 1953 (new words); the 15 % are ours",
    ),
    Rule(
        "text-length",
        "Texts are cut at twice the 95th percentile of their lengths, and at"
        f" {TEXT_LONGEST:,} tokens.",
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
        "Where the objective weighs classes equally and the largest has over"
        f" {IMBALANCED:g} times the samples of the smallest, the loss may weigh them too.",
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
        f"With fewer than {CROSS_VALIDATED} validation samples a proxy is scored on five folds of"
        " all but test.",
        "Kohavi 1995, sec. 4; the 150 (a standard error of four per cent) are ours",
    ),
    Rule(
        "proxy-steps",
        "A proxy trains for 500 (images on a CPU) to 1,600 steps, on a share of plentiful data.",
        "Zhou et al. 2020 (EcoNAS), sec. 3 and 4; the 800 are ours",
    ),
    Rule(
        "cloud-size",
        f"Of larger clouds {CLOUD_MOST:,} points are drawn; how many of them a network reads is"
        " searched.",
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
        "cloud-features",
        "The last layer before the pooling is two to eight times as wide as those before it.",
        "Qi et al. 2017 (PointNet), fig. 2 (from 64 to 1,024); Wang et al. 2019, fig. 3",
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
        "A grid has 8 to 64 voxels a side, and no more cells than"
        f" {CLOUD_CELLS} for each point of a cloud.",
        "Maturana & Scherer 2015 (VoxNet), sec. III (32); Graham et al. 2018; the"
        f" {CLOUD_CELLS} are ours",
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
    # What is checked in a network, and bounds nothing.
    Rule(
        "saturating-activations",
        f"More than {SATURATING_MOST} layers of sigmoid or tanh in a row saturate; ReLU and its kin"
        " do not.",
        "Glorot & Bengio 2010, sec. 3.1 and 3.2; the number is ours",
    ),
    Rule(
        "normalise-deep",
        f"From {RESIDUAL_FROM} layers on a network is normalised.",
        "Ioffe & Szegedy 2015, sec. 3.3 (larger rates); the number is ours",
    ),
    Rule(
        "non-linear",
        "Between two layers stands an activation: without it they are one.",
        "Goodfellow et al. 2016, Deep Learning, sec. 6.1",
    ),
    Rule(
        "one-output-a-class",
        "A classifier has one output for each class, or a single one for two.",
        "Goodfellow et al. 2016, Deep Learning, sec. 6.2.2.2 and 6.2.2.3",
    ),
    Rule(
        "logits",
        "A classifier puts out logits: the cross-entropy takes the softmax itself.",
        "Goodfellow et al. 2016, Deep Learning, sec. 6.2.2.3",
    ),
    Rule(
        "gradient-for-all",
        "Every trainable parameter gets a gradient; one without it never changes.",
        "Rumelhart et al. 1986 (Learning representations by back-propagating errors)",
    ),
    Rule(
        "inputs-standardised",
        "Inputs have a mean near zero and a deviation near one.",
        "LeCun et al. 1998 (Efficient BackProp), sec. 4.3",
    ),
    Rule(
        "loss-at-start",
        "Before the first step a classifier's loss is near the logarithm of its classes.",
        "Karpathy 2019 (A Recipe for Training Neural Networks), step 2; the tolerance is ours",
    ),
    Rule(
        "one-batch",
        "A network that can learn learns one batch by heart.",
        "Karpathy 2019 (A Recipe for Training Neural Networks), step 2",
    ),
    Rule(
        "finite",
        "Losses, gradients and activations are finite numbers.",
        "Pei et al. 2024 (BTTackler), sec. 4",
    ),
    Rule(
        "vanishing-gradients",
        "Gradients reach the first layers, and do not shrink from layer to layer.",
        "Glorot & Bengio 2010, sec. 4.2",
    ),
    Rule(
        "exploding-gradients",
        "Gradients stay of a size; what grows without end undoes what was learnt.",
        "Pascanu et al. 2013, sec. 2",
    ),
    Rule(
        "dead-units",
        "Units that are zero for every sample get no gradient and stay so.",
        "Lu et al. 2020 (Dying ReLU and Initialization), sec. 2",
    ),
    Rule(
        "learns",
        "In its first quarter a training brings the loss below that of a constant.",
        "Pei et al. 2024 (BTTackler), sec. 4; the quarter is ours",
    ),
)
RULES = {rule.id: rule for rule in _ALL}

_Decides = TypeVar("_Decides", bound=Callable[..., Any])
_SETS: dict[str, list[str]] = {}


def sets(rule: str, what: str) -> Callable[[_Decides], _Decides]:
    """Marks the function through which a rule decides ``what``, that is no parameter of a
    space. Raises KeyError where there is no such rule."""
    _SETS.setdefault(RULES[rule].id, []).append(what)
    return lambda decides: decides


def decided(rule: str) -> tuple[str, ...]:
    """What a rule decides beside the parameters of spaces."""
    return tuple(_SETS.get(rule, ()))


def scale(task: Task) -> float:
    """log10 of the training samples, within 2 and 6."""
    return min(max(math.log10(max(task.profile.n_train, 1)), 2.0), 6.0)


def risk(task: Task) -> float:
    """Risk of overfitting: 1 where a network of a million parameters (or of the user's limit,
    where that is less) has a thousand or more for each sample, 0 where it has one."""
    params = min([1e6, *_user_limits(task)])
    return min(max((math.log10(max(params, 1)) - scale(task)) / 3.0, 0.0), 1.0)


@sets("params-per-sample", "limit of the preflight")
def parameter_cap(task: Task) -> int:
    """params-per-sample, but never below what a small baseline needs."""
    return params_cap(task.profile.n_train)


def params_cap(samples: int) -> int:
    """The most parameters of a network for so many training samples."""
    return max(FREE_PARAMS, PARAMS_PER_SAMPLE * samples)


def params_limit(task: Task) -> float:
    """The most parameters a candidate may have: the user's limit or params-per-sample."""
    return min([*_user_limits(task), parameter_cap(task)])


def _user_limits(task: Task) -> list[float]:
    """The parameters that the user's limits leave: AdamW in float32 keeps 16 bytes for each."""
    each = {"params": 1.0, "memory_mb": 16 / 2**20}
    return [c.bound / each[c.metric] for c in task.constraints if c.metric in each and c.op == "<="]


@sets("baseline-first", "first candidates of a search")
def first_candidates(spaces: Mapping[str, Space]) -> dict[str, list[Config]]:
    """What each family trains before any sample: its baseline, and what a choice of its space
    asks to begin with."""
    return {name: space.starts() for name, space in spaces.items()}


@sets("one-head-per-target", "share of each target in the loss")
def target_shares(task: Task) -> tuple[float, ...]:
    """What the loss of each target counts."""
    return (1 / len(task.targets),) * len(task.targets)


@sets("pretrained-first", "advice where samples are few")
def wants_pretrained(task: Task) -> bool:
    """Whether weights that somebody trained on like data are worth looking for."""
    like = {"images", "text", "audio"}
    found = {task.modality, *(m.modality for m in task.profile.members.values())}
    return bool(like & found) and task.profile.n_train < PRETRAINED_BELOW


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
    """Up to ``base`` at 100 samples and twice that per tenfold data; twice as wide for a hundred
    classes, or targets, as for ten.

    The baseline has about ``fixed`` + ``inputs`` × width + ``layers`` × ``weights`` × width²
    parameters. The limit on them caps the default so, and the bound with a single layer.
    """
    limit = params_limit(task)
    room = max(0.0, limit - fixed)

    def widest(square: float) -> float:
        return (math.sqrt(inputs**2 + 4 * square * room) - inputs) / (2 * square)

    high = base * 2 ** (scale(task) - 2) * max(1.0, math.log10(task.outputs))
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


def plain_depths(depth: Int, *, around: int, each: int = 1) -> tuple[int, ...]:
    """The depths at which a network may be plain (rule "residual-from-10"): of ``each`` layers
    for one of depth, and ``around`` that stand around them."""
    most = min((RESIDUAL_FROM - 1 - around) // each, depth.high)
    return tuple(range(max(depth.low, 1), most + 1))


def conv_norm(task: Task, name: str, when: When | None = None) -> Choice:
    """BatchNorm or GroupNorm, the latter alone where a batch may be small."""
    return norm(task, name, ("batch", "group"), "batch", when)


def norm(
    task: Task,
    name: str,
    options: tuple[str, ...],
    default: str,
    when: When | None = None,
    rule: str = "norm-by-family",
) -> Choice:
    """The normalisations on offer, BatchNorm not among them where a batch may be small: then
    the first of the others is the default."""
    why: tuple[str, ...] = (rule,)
    if min(batch_sizes(task)[0]) < SMALL_BATCH and not is_node_level(task):
        options = tuple(option for option in options if option != "batch")
        why = (*why, "groupnorm-for-small-batches")
    default = default if default in options else options[0]
    return Choice(name, options, default=default, when=when or {}, why=why)


def window(tokens: int, when: When | None = None) -> Choice | None:
    """How many tokens attention looks at, 0 being all (rule "long-sequences"); ``tokens`` are
    those that nineteen of twenty samples do not exceed. None where it may look at all."""
    if tokens < MOST_TOKENS:
        return None
    options = (32, 64, 128) if tokens >= 2 * MOST_TOKENS else (0, 32, 64, 128)
    return Choice("window", options, default=64, when=when or {}, why=("long-sequences",))


def dropout(
    task: Task,
    name: str = "dropout",
    default: float | None = None,
    before_head: bool = False,
    most: float = MOST_DROPOUT,
) -> Float:
    """Up to ``most`` where overfitting is likely and a fifth of it where data abound; half of
    the bound by default.

    ``before_head`` says that it stands there alone, as in a network of convolutions.
    """
    least = LEAST_DROPOUT / MOST_DROPOUT
    low, high = 0.0, round(most * (least + (1 - least) * risk(task)), 2)
    value = round(high / 2, 2) if default is None else min(default, high)
    why: tuple[str, ...] = ("dropout-from-risk",)
    if before_head:
        why = (*why, "no-dropout-after-batchnorm")
    return Float(name, low, high, default=value, why=why)


def drop_path(task: Task, name: str = "drop_path", default: float = 0.0) -> Float:
    """The share of branches, or of attention's weights, that training leaves out."""
    return dropout(task, name, default, most=MOST_DROP_PATH)


def batch_sizes(task: Task) -> tuple[tuple[int, ...], int]:
    """The batch sizes on offer and the default, a power of two near a hundredth of the
    training samples; below 16 only where there are hardly more than that, or where more
    would be too large."""
    if is_node_level(task):
        return (task.profile.n_train,), task.profile.n_train
    room = max(2, BATCH_VALUES // max(task.profile.features, 1))
    most = min(512 if task.modality == "tabular" else 64, 2 ** int(math.log2(room)))
    default = 2 ** round(math.log2(max(task.profile.n_train, 64) / STEPS_OF_AN_EPOCH))
    default = min(max(default, SMALL_BATCH), most)
    while default > max(task.profile.n_train // 4, 4):
        default //= 2
    low = max(default // 2, min(default, SMALL_BATCH))
    return tuple(sorted({low, default, min(2 * default, most)})), default


@sets("micro-batch", "halves of a batch where memory is short")
def halves(task: Task, batch_size: int, batch_norm: bool) -> bool:
    """Whether a batch may come in two halves (rule "micro-batch")."""
    least = SMALL_BATCH if batch_norm else 1
    return not is_node_level(task) and batch_size % 2 == 0 and batch_size // 2 >= least


def training(task: Task, *, lr: float, spread: float = 5.0) -> list[Param]:
    """Learning rate (a factor ``spread`` around ``lr``), weight decay and batch size."""
    batches, batch = batch_sizes(task)
    decay = LEAST_DECAY * 10 ** (1.5 * risk(task))
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
    if weighs and max(t.imbalance for t in task.targets) > IMBALANCED:
        options: tuple[Value, ...] = ("balanced", "none")
        params.append(Choice("class_weights", options, default="balanced", why=("imbalance",)))
    return params


@sets("learning-rate-first", "bounds of the learning rate")
def tested_rate(rate: Float, lowest: float) -> Float:
    """The learning rate of a family after a range test whose loss was least at ``lowest``.

    A tenth of that is the rate of a training, within a factor of 2.4 as one standard deviation of
    our measurements (experiments/LOG.md); a family's own rate was better known, within 1.5. So it
    stands where both agree within ``NEAR``, and moves that near where they do not. Nothing above
    ``lowest`` is searched.
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


@sets("text-length", "tokens of a text that are read")
def text_length(percentiles: tuple[int, ...]) -> int:
    """The most tokens of a text (rule "text-length"), from the percentiles of a profile."""
    *_, most, longest = percentiles
    return min(longest, max(2 * most, 16), TEXT_LONGEST)


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


@sets("proxy-steps", "epochs and share of a proxy")
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


@sets("cross-validation", "folds of a proxy")
def folds(task: Task) -> int:
    """How often a proxy is trained, each time scored on another part (rule
    "cross-validation"). The nodes of one graph keep the labels they were given."""
    few = task.profile.n_val < CROSS_VALIDATED and task.fidelity.share >= 1
    return 5 if few and not is_node_level(task) else 1


@sets("warm-up-cosine", "schedule of a training")
def warmup_steps(steps: int) -> int:
    """How many of a training's steps warm the learning rate up."""
    return math.ceil(WARMUP * steps)


def clipping() -> Choice:
    """Whether gradients are clipped: recurrent networks and Transformers have the steep places
    that clipping is for, and Adam, which divides by the size of gradients, may do without."""
    return Choice("clip", (GRADIENT_CLIP, 0.0), default=GRADIENT_CLIP, why=("gradient-clipping",))


@sets("gradient-clipping", "largest gradient of a training")
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

# Thresholds of the checks alone; where a rule's sentence holds none, they are ours.
HEAD_SHARE, HEAD_PARAMS = 0.5, 100_000  # of the parameters, and so many, make a head wide
FAR_OVER = 10  # times the cap on parameters, or the tokens: no longer a matter of taste
BAD_START = 2.0  # times the loss of a network that knows nothing
LEARNT = 0.9  # of that loss, below which a training has begun to learn
HALF_LEARNT = 0.5  # of it, at which one batch counts as learnt
HALF_DEAD = 0.5  # of the units of a layer
FAR_BELOW = 100  # times below the steepest rate of a range test: steps too small to matter
PADDING_ERROR = 1e-3  # of the size of the output


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
    rate: float = 0.0  # of a dropout
    tokens: tuple[int, int] = (0, 0)  # queries and keys of an attention

    @property
    def weighted(self) -> bool:
        return self.kind in ("linear", "conv", "recurrent")


@dataclass(frozen=True)
class Observed:
    """What a short training has shown. Losses are a cross-entropy, or squared errors in
    variances; ``chance`` is that of a network that knows nothing."""

    chance: float
    start: float  # before the first step
    end: float = math.nan  # at the end of the training
    input_scale: float = 1.0  # the largest mean or deviation of the inputs' values
    failure: str = ""  # nan | exploding | vanishing | dead | plateau, as the monitors say
    failed_at: str = ""  # the layer
    evidence: str = ""
    one_batch: tuple[float, float, int] | None = None  # loss of knowing nothing, end, steps
    steepest: float | None = None  # learning rate at which the loss falls fastest
    diverges: float | None = None  # and the first at which it has risen again
    dead: tuple[str, float] | None = None  # the layer with most dead units at the end, its share

    @property
    def learnt(self) -> bool:
        """Whether the training went well, whatever the design lets fear."""
        return not self.failure and self.end < LEARNT * self.chance


@dataclass(frozen=True)
class Anatomy:
    """What is known of a network, and of the training it is meant for; where something is
    unknown (None, or empty) the checks are silent."""

    layers: tuple[Layer, ...]
    params: int
    outputs: int | None = None  # values of one prediction
    ends: str = ""  # the activation that makes the output
    unreached: Mapping[str, int] = field(default_factory=dict)  # trainable parameters without a
    # gradient, and how many values each has
    pretrained: str = ""  # where weights for it can be had
    padding_error: float | None = None  # what padding changes, over the size of the output
    samples: int | None = None  # of training
    classes: int | None = None  # 0 for a regression
    batch_size: int | None = None  # on one device
    lr: float | None = None
    weight_decay: float | None = None
    whole_graph: bool = False  # each batch is one graph
    observed: Observed | None = None

    @property
    def learns(self) -> bool:
        """Whether it was seen to learn."""
        return self.observed is not None and self.observed.learnt

    @cached_property
    def above(self) -> tuple[int, ...]:
        """For each layer one bit for each layer that its input was made by."""
        bits: list[int] = []
        for layer in self.layers:
            bits.append(0)
            for i in layer.reads:
                bits[-1] |= bits[i] | 1 << i
        return tuple(bits)

    def upstream(self, place: int, *kinds: str) -> list[Layer]:
        """The layers of these kinds that the layer at ``place`` depends on."""
        bits = self.above[place]
        return [x for i, x in enumerate(self.layers) if bits >> i & 1 and x.kind in kinds]

    def downstream(self, place: int, *kinds: str) -> list[Layer]:
        """The layers of these kinds that depend on the layer at ``place``."""
        found = zip(self.layers, self.above, strict=True)
        return [x for x, bits in found if bits >> place & 1 and x.kind in kinds]

    def bridged(self, place: int) -> bool:
        """Whether a shortcut ends downstream of the layer at ``place``."""
        return any(layer.shortcut for layer in self.downstream(place, "join"))

    def stretch(self, count: Callable[[Layer], int]) -> list[Layer]:
        """Of the ways between two ends of shortcuts the one with most of what ``count`` counts,
        layer by layer."""
        most: list[int] = []
        last: list[int | None] = []
        for layer in self.layers:
            ways = [None if self.layers[i].shortcut else i for i in layer.reads]
            # What a branch is multiplied by is passed by: the gradient takes the shorter way.
            pick = min if layer.type == "mul" else max
            back = pick(ways, key=lambda i: 0 if i is None else most[i], default=None)
            most.append(count(layer) + (0 if back is None else most[back]))
            last.append(back)
        place = max(range(len(most)), key=most.__getitem__, default=None)
        way: list[Layer] = []
        while place is not None:
            way.append(self.layers[place])
            place = last[place]
        return way[::-1]


Severity = Literal["serious", "advice"]


@dataclass(frozen=True)
class Finding:
    """Where a network or its training breaks a rule. "serious" is what is likely to make the
    training fail or its figures wrong; "advice" what costs more, or learns less, than need be."""

    rule: str
    severity: Severity
    where: str
    evidence: str  # with numbers
    change: str  # what to do about it

    @property
    def why(self) -> str:
        return RULES[self.rule].statement


def check(anatomy: Anatomy) -> list[Finding]:
    """All findings, serious ones first, in the order of the rules."""
    found = [f for rule in RULES.values() if rule.check for f in rule.check(anatomy)]
    return sorted(found, key=lambda finding: finding.severity == "advice")


Check = Callable[[Anatomy], Iterator[Finding]]


def _checks(*ids: str) -> Callable[[Check], Check]:
    """Attach a check to its rule."""

    def attach(check: Check) -> Check:
        for name in ids:
            RULES[name] = replace(RULES[name], check=check)
        return check

    return attach


def _name(layer: Layer) -> str:
    """Its name; a number in a Sequential says little without the class."""
    numbered = layer.name.rpartition(".")[2].isdigit()
    return f"{layer.name} ({layer.owner})" if numbered and layer.owner else layer.name


def _named(layers: Sequence[Layer], most: int = 3) -> str:
    names = list(dict.fromkeys(map(_name, layers)))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _span(layers: Sequence[Layer]) -> str:
    first, last = _name(layers[0]), _name(layers[-1])
    return first if first == last else f"{first} … {last}"


@_checks("residual-from-10")
def _plain_stack(net: Anatomy) -> Iterator[Finding]:
    way = net.stretch(lambda layer: layer.depth if layer.weighted else 0)
    stack = [layer for layer in way if layer.weighted]
    depth = sum(layer.depth for layer in stack)
    if depth <= RESIDUAL_FROM:
        return
    normed = any(layer.kind == "norm" for layer in way)
    # Normalised, 18 plain layers train as well as residual ones do, and 34 do not (sec. 4.1).
    mild = (normed and depth <= 2 * RESIDUAL_FROM) or net.learns
    yield Finding(
        "residual-from-10",
        "advice" if mild else "serious",
        _span(stack),
        f"{depth} weighted layers in a row, from {stack[0].name} to {stack[-1].name}, that no"
        f" shortcut bridges, {'normalised' if normed else 'and none is normalised'}",
        "add the input of every two or three layers to their output, or leave layers out",
    )


@_checks("groupnorm-for-small-batches")
def _small_batches(net: Anatomy) -> Iterator[Finding]:
    norms = [x for x in net.layers if x.kind == "norm" and x.type == "batch"]
    if not norms or net.batch_size is None or net.batch_size >= SMALL_BATCH:
        return
    yield Finding(
        "groupnorm-for-small-batches",
        "serious" if 2 * net.batch_size < SMALL_BATCH else "advice",
        _named(norms),
        f"{len(norms)} BatchNorm layers see {net.batch_size} samples at a time",
        f"use GroupNorm (LayerNorm after linear layers), or batches of {SMALL_BATCH} or more",
    )


@_checks("norm-by-family")
def _mixed_norms(net: Anatomy) -> Iterator[Finding]:
    attends = any(layer.kind == "attention" for layer in net.layers)
    of: dict[str, list[Layer]] = {}  # by the kind of the layer whose output is normalised
    for layer in net.layers:
        if layer.kind == "norm" and layer.type in ("batch", "layer") and layer.reads:
            read = net.layers[layer.reads[0]]
            while not read.weighted and not read.shortcut and read.reads:
                read = net.layers[read.reads[0]]
            if read.weighted and not read.shortcut:
                of.setdefault(read.kind, []).append(layer)
    for kind, norms in of.items():
        batch = [x for x in norms if x.type == "batch"]
        layer_ = [x for x in norms if x.type == "layer"]
        # One change is that from a stem to a body, or to a head.
        if sum(one.type != other.type for one, other in pairwise(norms)) > 1:
            fewer = min(batch, layer_, key=len)
            yield Finding(
                "norm-by-family",
                "advice",
                _named(fewer),
                f"of the {kind} layers {len(batch)} are followed by BatchNorm and {len(layer_)}"
                " by LayerNorm",
                "normalise like layers alike",
            )
    tokens = [x for x in of.get("linear", []) if x.type == "batch" and len(x.shape) > 1]
    if attends and tokens:
        yield Finding(
            "norm-by-family",
            "advice",
            _named(tokens),
            f"{len(tokens)} BatchNorm layers normalise the tokens of a Transformer",
            "use LayerNorm or RMSNorm there",
        )


@_checks("activation-by-family")
def _relu_in_transformer(net: Anatomy) -> Iterator[Finding]:
    if not any(layer.kind == "attention" for layer in net.layers):
        return
    relus = [
        x
        for place, x in enumerate(net.layers)
        if x.kind == "activation"
        and x.type == "relu"
        and not x.gate
        and net.layers[x.reads[0]].kind == "linear"
        and net.bridged(place)  # a head may have what it likes
    ]
    if relus:
        yield Finding(
            "activation-by-family",
            "advice",
            _named(relus),
            f"{len(relus)} feed-forward layers of a Transformer have ReLU",
            "use GELU (or SiLU)",
        )


@_checks("saturating-activations")
def _saturating(net: Anatomy) -> Iterator[Finding]:
    def saturates(layer: Layer) -> bool:
        squashes = layer.kind == "activation" and layer.type in ("sigmoid", "tanh", "hardsigmoid")
        return squashes and not layer.gate

    way = net.stretch(lambda layer: int(saturates(layer)))
    found = [layer for layer in way if saturates(layer)]
    if len(found) <= SATURATING_MOST:
        return
    normed = any(layer.kind == "norm" for layer in way)
    types = " and ".join(sorted({layer.type for layer in found}))
    yield Finding(
        "saturating-activations",
        "advice" if normed or net.learns else "serious",
        _span(found),
        f"{len(found)} layers of {types} in a row"
        + (", though normalised" if normed else ", and none is normalised"),
        "use ReLU, GELU or SiLU",
    )


@_checks("normalise-deep")
def _unnormalised(net: Anatomy) -> Iterator[Finding]:
    weighted = [layer for layer in net.layers if layer.weighted]
    depth = sum(layer.depth for layer in weighted)
    if depth <= RESIDUAL_FROM or any(layer.kind == "norm" for layer in net.layers):
        return
    yield Finding(
        "normalise-deep",
        "advice",
        _span(weighted),
        f"{depth} weighted layers and no normalisation",
        "put BatchNorm after convolutions, LayerNorm before the branches of a Transformer",
    )


@_checks("non-linear")
def _linear_network(net: Anatomy) -> Iterator[Finding]:
    weighted = [layer for layer in net.layers if layer.weighted]
    bends = ("activation", "attention", "recurrent")
    if any(x.kind in bends or (x.kind == "join" and x.type == "mul") for x in net.layers):
        return
    # LayerNorm, a maximum or a product of data bend too, but nobody means these to be all.
    if len(weighted) > 1:
        yield Finding(
            "non-linear",
            "serious",
            _span(weighted),
            f"{len(weighted)} weighted layers and no activation between them",
            "put ReLU, GELU or SiLU between the layers",
        )


@_checks("dropout-from-risk")
def _high_dropout(net: Anatomy) -> Iterator[Finding]:
    high = [x for x in net.layers if x.kind == "dropout" and x.rate > MOST_DROPOUT]
    if high and not net.whole_graph:  # there more is usual: rule "drop-features"
        worst = max(x.rate for x in high)
        yield Finding(
            "dropout-from-risk",
            "serious" if worst >= 1 - (1 - MOST_DROPOUT) / 5 else "advice",
            _named(high),
            f"dropout of {worst:.3g} leaves {1 - worst:.3g} of the values",
            f"take {MOST_DROPOUT} at most",
        )


@_checks("no-dropout-after-batchnorm")
def _dropout_in_block(net: Anatomy) -> Iterator[Finding]:
    found = []
    for place, layer in enumerate(net.layers):
        if layer.kind != "dropout" or layer.type == "path" or not layer.rate:
            continue
        before, after = net.upstream(place, "norm", "conv"), net.downstream(place, "norm", "conv")
        if all(
            any(x.kind == "conv" for x in part) and any(x.type == "batch" for x in part)
            for part in (before, after)
        ):
            found.append(layer)
    if found:
        yield Finding(
            "no-dropout-after-batchnorm",
            "advice",
            _named(found),
            f"dropout of {max(x.rate for x in found):.3g} stands between BatchNorm layers: in"
            " prediction these meet another variance than in training",
            "drop before the last layer alone, or whole branches (drop path)",
        )


@_checks("global-pooling")
def _wide_head(net: Anatomy) -> Iterator[Finding]:
    convs = [i for i, layer in enumerate(net.layers) if layer.kind == "conv"]
    if not convs or not net.params:
        return
    channels = net.layers[convs[-1]].shape[0]
    for place, layer in enumerate(net.layers):
        # The first layer that reads a map cell by cell, where a pooled one has its channels.
        if layer.kind != "linear" or layer.width < 4 * channels or layer.width % channels:
            continue
        if not net.upstream(place, "conv") or net.downstream(place, "conv", "attention"):
            continue
        if net.bridged(place):
            continue
        head = [layer, *net.downstream(place, "linear")]
        params = sum(x.params for x in head)
        if params >= max(HEAD_PARAMS, HEAD_SHARE * net.params):
            yield Finding(
                "global-pooling",
                "advice",
                _span(head),
                f"{layer.name} reads {layer.width:,} values ({channels} channels of"
                f" {layer.width // channels} cells); the head holds {params:,} of {net.params:,}"
                f" parameters ({params / net.params:.0%})",
                "average each channel first (AdaptiveAvgPool), then one linear layer",
            )
        return


@_checks("params-per-sample")
def _too_large(net: Anatomy) -> Iterator[Finding]:
    if net.samples is None or net.params <= (cap := params_cap(net.samples)):
        return
    far = net.params > FAR_OVER * cap and not net.pretrained
    yield Finding(
        "params-per-sample",
        "serious" if far else "advice",
        "the whole network",
        f"{net.params:,} parameters for {net.samples:,} samples, {net.params / cap:.3g} times the"
        f" most that these carry ({cap:,})",
        "make it narrower or shallower, begin with pretrained weights, or get more data",
    )


@_checks("attention-cost")
def _image_attention(net: Anatomy) -> Iterator[Finding]:
    if any(layer.kind == "conv" for layer in net.layers):
        yield from _long_attention(net, "attention-cost", MOST_TOKENS)


@_checks("long-sequences")
def _text_attention(net: Anatomy) -> Iterator[Finding]:
    if not any(layer.kind == "conv" for layer in net.layers):
        yield from _long_attention(net, "long-sequences", 2 * MOST_TOKENS)


def _long_attention(net: Anatomy, rule: str, most: int) -> Iterator[Finding]:
    spans = [x for x in net.layers if x.kind == "attention" and min(x.tokens) > most]
    if not spans:
        return
    longest = max(spans, key=lambda x: math.prod(x.tokens))
    queries, keys = longest.tokens
    mb = 4 * math.prod(longest.shape) / 2**20
    yield Finding(
        rule,
        "serious" if min(queries, keys) > FAR_OVER * MOST_TOKENS else "advice",
        _named(spans),
        f"attention over {keys:,} tokens: {mb:,.3g} MiB of weights for each sample and layer, four"
        " times that for twice the length",
        "use local windows, larger patches or strides, or a model that is linear in the length",
    )


@_checks("pretrained-first")
def _pretrained(net: Anatomy) -> Iterator[Finding]:
    if net.pretrained and net.samples is not None and net.samples < PRETRAINED_BELOW:
        yield Finding(
            "pretrained-first",
            "advice",
            "the whole network",
            f"{net.samples:,} samples, and weights exist: {net.pretrained}",
            "begin with them, if these are not they",
        )


@_checks("one-output-a-class")
def _outputs(net: Anatomy) -> Iterator[Finding]:
    if net.outputs is None or not net.classes or net.outputs == net.classes:
        return
    if (net.outputs, net.classes) == (1, 2):
        return
    yield Finding(
        "one-output-a-class",
        "serious" if net.outputs < net.classes else "advice",
        "the output",
        f"{net.outputs:,} outputs for {net.classes:,} classes",
        f"let the last layer have {net.classes:,} outputs",
    )


@_checks("logits")
def _normalised_output(net: Anatomy) -> Iterator[Finding]:
    if net.classes == 0 or net.ends not in ("softmax", "sigmoid") or net.outputs is None:
        return
    wide = net.outputs > 1
    if wide and net.ends == "sigmoid":
        return  # several yes/no questions, or a loss that takes probabilities
    yield Finding(
        "logits",
        "serious" if net.classes else "advice",
        "the output",
        f"the network ends in a {net.ends}"
        + (f": its {net.outputs} outputs sum to 1" if wide else " of 1 output")
        + ", and the cross-entropy applies one again: its loss cannot fall far",
        f"leave the last {net.ends} out in training",
    )


@_checks("padding-masks")
def _padding(net: Anatomy) -> Iterator[Finding]:
    if net.padding_error is not None and net.padding_error > PADDING_ERROR:
        yield Finding(
            "padding-masks",
            "serious",
            "the output",
            f"a sample's output changes by {net.padding_error:.1%} of its size where a longer one"
            " stands in its batch",
            "mask what is padding in attention, pooling and statistics; pack recurrent input",
        )


@_checks("gradient-for-all")
def _unreached(net: Anatomy) -> Iterator[Finding]:
    if not net.unreached:
        return
    params = sum(net.unreached.values())
    share = params / net.params
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in net.unreached))
    yield Finding(
        "gradient-for-all",
        "serious" if share > 0.01 else "advice",
        ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else ""),
        f"{params:,} parameters ({share:.1%}) get no gradient from the output",
        "use them in forward, without detach(), .data, .item() or argmax between them and the"
        " output, or delete them",
    )


@_checks("weight-decay-from-risk")
def _decay(net: Anatomy) -> Iterator[Finding]:
    if net.weight_decay is None or LEAST_DECAY <= net.weight_decay <= MOST_DECAY:
        return
    yield Finding(
        "weight-decay-from-risk",
        "serious" if net.weight_decay > FAR_OVER * MOST_DECAY else "advice",
        "the optimiser",
        f"weight decay of {net.weight_decay:g}",
        f"take {LEAST_DECAY:g} to {MOST_DECAY:g}",
    )


@_checks("learning-rate-first")
def _learning_rate(net: Anatomy) -> Iterator[Finding]:
    seen = net.observed
    if net.lr is None or seen is None or seen.steepest is None:
        return
    high = seen.diverges is not None and net.lr >= seen.diverges
    low = net.lr * FAR_BELOW < seen.steepest
    if high or low:
        yield Finding(
            "learning-rate-first",
            "serious",
            "the optimiser",
            f"at a rate of {net.lr:.2g} "
            + (
                f"the loss has risen again (from {seen.diverges:.2g} on)"
                if high
                else f"steps are {seen.steepest / net.lr:,.0f} times smaller than where it falls"
                f" fastest ({seen.steepest:.2g})"
            ),
            f"begin near {seen.steepest:.1g}",
        )


@_checks("inputs-standardised")
def _raw_inputs(net: Anatomy) -> Iterator[Finding]:
    if net.observed is not None and net.observed.input_scale > 10:
        yield Finding(
            "inputs-standardised",
            "serious" if net.observed.input_scale > 100 else "advice",
            "the input",
            f"a mean or deviation of {net.observed.input_scale:,.3g} among its values",
            "take the mean off each feature and divide by its deviation, by the training part's",
        )


@_checks("loss-at-start")
def _bad_start(net: Anatomy) -> Iterator[Finding]:
    seen = net.observed
    # A spread of the logits costs half its variance; 0.5 is what sound starts have.
    if seen is None or not seen.start > BAD_START * seen.chance + 0.5:
        return
    yield Finding(
        "loss-at-start",
        "serious",
        "the last layer",
        f"a loss of {seen.start:.3g} before the first step, where knowing nothing has"
        f" {seen.chance:.3g}"
        + (f" (log of {net.classes} classes)" if net.classes and net.classes > 1 else ""),
        "begin the last layer with small weights, and standardise inputs and targets",
    )


@_checks("one-batch")
def _one_batch(net: Anatomy) -> Iterator[Finding]:
    seen = net.observed
    if seen is None or seen.one_batch is None:
        return
    chance, end, steps = seen.one_batch
    if not end <= HALF_LEARNT * chance:
        yield Finding(
            "one-batch",
            "serious",
            "the whole network",
            f"one batch is not learnt by heart: its loss is {end:.3g} after {steps} steps, where"
            f" knowing nothing has {chance:.3g}",
            "look at what stands between inputs and loss: the targets, the loss, detached or"
            " frozen parts, dead or saturated layers",
        )


@_checks("dead-units")
def _dead(net: Anatomy) -> Iterator[Finding]:
    seen = net.observed
    if seen is None:
        return
    change = "lower the rate or the bias, use GELU or leaky ReLU, normalise"
    if seen.failure == "dead":
        yield Finding("dead-units", "serious", seen.failed_at, seen.evidence, change)
    elif seen.dead is not None and seen.dead[1] > HALF_DEAD:
        layer, share = seen.dead
        evidence = f"{share:.0%} of its units get no gradient from any sample of the last batch"
        yield Finding("dead-units", "advice", layer, evidence, change)


def _watched(rule: str, failure: str, change: str) -> None:
    """The check of what a monitor has found."""

    @_checks(rule)
    def _found(net: Anatomy) -> Iterator[Finding]:
        seen = net.observed
        if seen is not None and seen.failure == failure:
            where = seen.failed_at or "the loss"
            yield Finding(rule, "serious", where, seen.evidence, change)


_watched("finite", "nan", "look there for a logarithm, root, quotient or exp; lower the rate")
_watched("exploding-gradients", "exploding", "normalise, clip gradients, lower the rate")
_watched("vanishing-gradients", "vanishing", "add shortcuts and normalisation, change activations")
_watched("learns", "plateau", "try the rate of a range test; look at the targets and the loss")
