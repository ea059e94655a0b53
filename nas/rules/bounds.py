"""The bounds that follow from the rules: a task becomes a parameter whose bounds, default and
reasons (``why``: ids of rules) come from one place."""

from __future__ import annotations

import math
from dataclasses import replace

from nas.rules.decisions import sets
from nas.rules.numbers import (
    BATCH_ROWS,
    BATCH_SAMPLES,
    BATCH_VALUES,
    EDGE_VALUES,
    FORECAST_SHORTEST,
    FREE_PARAMS,
    FREEZE_BELOW,
    GPU_BATCH_MB,
    GPU_BATCHES,
    GRADIENT_CLIP,
    GRAPH_L2,
    LATER_HOPS,
    LEAST_DECAY,
    LEAST_DROPOUT,
    MOST_DECAY,
    MOST_DROP_PATH,
    MOST_DROPOUT,
    MOST_HOPS,
    MOST_TOKENS,
    NODE_VALUES,
    PARAMS_PER_SAMPLE,
    RATE_TOLERANCE,
    RESIDUAL_FROM,
    SERIES_LONGEST,
    SMALL_BATCH,
    STEPS_OF_AN_EPOCH,
    TEXT_LONGEST,
    WEIGH_CLASSES_FROM,
    WHOLE_IMAGE,
)
from nas.space import Choice, Float, Int, Param, Value, When
from nas.task import Task


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
    """The most parameters that the training samples support (rule "params-per-sample")."""
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
    """An activation out of ``options`` (rule "activation-by-family")."""
    return Choice(name, options, default=default, when=when or {}, why=("activation-by-family",))


def heads(default: int = 4) -> Choice:
    """Attention heads (rule "heads")."""
    return Choice("heads", (1, 2, 4, 8), default=default, why=("heads",))


def mlp_ratio() -> Float:
    """Hidden width of a Transformer's feed-forward part over its own (rule "feed-forward")."""
    return Float("mlp_ratio", 1.0, 4.0, default=2.0, why=("feed-forward",))


def token_norm() -> Choice:
    """The normalisation of a Transformer, of each token alone (rule "norm-by-family")."""
    return Choice("norm", ("layer", "rms"), default="layer", why=("norm-by-family",))


def partial_adaptation() -> Choice:
    """How a part of a pretrained network is trained: its last blocks (``top``), or updates of low
    rank (``lora``)."""
    why = ("adapt-by-data", "low-rank")
    return Choice("adapt", ("top", "lora"), default="top", each=True, why=why)


def trained_blocks(task: Task, blocks: int, when: When) -> Int:
    """How many of the last ``blocks`` of a pretrained network are trained (rule "freeze-few"): all
    but the first, or half of them where samples are few; half by default."""
    half = max(1, blocks // 2)
    few = task.profile.n_train < FREEZE_BELOW
    why = ("adapt-by-data", "freeze-few") if few else ("adapt-by-data",)
    return Int("trained", 1, half if few else blocks - 1, default=half, when=when, why=why)


def moving_statistics(task: Task) -> Choice:
    """Whether the statistics of a pretrained network's BatchNorm follow the new data; where samples
    are few they do not (rule "freeze-few")."""
    few = task.profile.n_train < FREEZE_BELOW
    options = ("kept",) if few else ("kept", "moving")
    why = ("adapt-by-data", "freeze-few") if few else ("adapt-by-data",)
    return Choice("statistics", options, default="kept", why=why)


def pretrained_rate(dim: int) -> float:
    """The learning rate of a pretrained network of width ``dim`` (rule "pretrained-rate")."""
    return min(3e-4, 5e-5 * 768 / dim)


def image_augmentation(task: Task, usual: str) -> Choice:
    """How images are moved in training: by default as ``usual``, or not at all where a number is
    predicted, which may be a place in the image that would move with it."""
    kinds = ("none", "shift", "affine", "affine+flip")
    numbers = any(target.kind == "regression" for target in task.targets)
    return Choice("augment", kinds, default="none" if numbers else usual, why=("augmentation",))


def label_smoothing(task: Task) -> list[Param]:
    """How much targets are smoothed, where some target is one of several classes."""
    if not any(target.kind in ("binary", "multiclass") for target in task.targets):
        return []
    return [Choice("label_smoothing", (0.0, 0.1), default=0.0, why=("label-smoothing",))]


def plain_depths(depth: Int, *, around: int, each: int = 1) -> tuple[int, ...]:
    """The depths at which a network may do without shortcuts (rule "residual-from-10"): one of
    depth stands for ``each`` weighted layers, and ``around`` more are outside of them."""
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
    if small_batches(task):
        options = tuple(option for option in options if option != "batch")
        why = (*why, "groupnorm-for-small-batches")
    default = default if default in options else options[0]
    return Choice(name, options, default=default, when=when or {}, why=why)


def window(tokens: int, when: When | None = None) -> Choice | None:
    """How many tokens at either side attention sees, 0 for all (rule "long-sequences");
    ``tokens`` is the 95th percentile of the lengths. None where it may always see all."""
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
    """The fraction of branches, or of attention weights, that training leaves out."""
    return dropout(task, name, default, most=MOST_DROP_PATH)


def batch_sizes(task: Task) -> tuple[tuple[int, ...], int]:
    """The batch sizes on offer and the default, a power of two near a hundredth of the
    training samples; below 16 only where there are hardly more than that, or where more
    would be too large."""
    if is_whole_graph(task):
        return (task.profile.n_train,), task.profile.n_train
    if samples_neighbours(task):  # features of a node say little of how large a batch is
        few = tuple(size for size in (256, 512, 1024) if 2 * size <= task.profile.n_train)
        return few or (task.profile.n_train,), few[len(few) // 2] if few else task.profile.n_train
    times = _gpu_batches(task)
    room = max(2, times * BATCH_VALUES // max(task.profile.features, 1))
    most = BATCH_ROWS if task.modality == "tabular" else times * BATCH_SAMPLES
    most = min(most, 2 ** int(math.log2(room)))
    default = 2 ** round(math.log2(max(task.profile.n_train, 64) / STEPS_OF_AN_EPOCH))
    default = min(max(default, SMALL_BATCH), most)
    while default > max(task.profile.n_train // 4, 4):
        default //= 2
    low = max(default // 2, min(default, SMALL_BATCH))
    return tuple(sorted({low, default, min(2 * default, most)})), default


def _gpu_batches(task: Task) -> int:
    """How many times as many samples and values a batch may have as on a CPU: a power of two."""
    if task.device == "cpu":
        return 1
    times = min(GPU_BATCHES, max(1.0, _memory_mb(task) / GPU_BATCH_MB))
    return 1 << int(math.log2(times))


def small_batches(task: Task) -> bool:
    """Whether BatchNorm might see too few samples at once (rule "groupnorm-for-small-batches")."""
    return min(batch_sizes(task)[0]) < SMALL_BATCH and not is_whole_graph(task)


@sets("micro-batch", "parts of a batch where memory is short")
def splits(task: Task, batch_size: int, batch_norm: bool) -> bool:
    """Whether a batch may come in two halves (rule "micro-batch")."""
    least = SMALL_BATCH if batch_norm else 1
    return not is_whole_graph(task) and batch_size % 2 == 0 and batch_size // 2 >= least


def training(task: Task, *, lr: float, spread: float = 5.0) -> list[Param]:
    """Learning rate (a factor ``spread`` around ``lr``), weight decay and batch size."""
    batches, batch = batch_sizes(task)
    decay = LEAST_DECAY * 10 ** (1.5 * risk(task))
    low, high, why = LEAST_DECAY, MOST_DECAY, "weight-decay-from-risk"
    if not decouples_decay(task):
        low, decay, high = GRAPH_L2
        why = "l2-one-graph"
    batch_why = "sampled-neighbours" if samples_neighbours(task) else "batch-from-data"
    params: list[Param] = [
        Float(
            "lr", lr / spread, lr * spread, default=lr, log=True, why=("learning-rate-by-family",)
        ),
        Float("weight_decay", low, high, default=decay, log=True, why=(why,)),
        Choice(
            "batch_size",
            batches,
            default=batch,
            why=("whole-graph" if is_whole_graph(task) else batch_why,),
        ),
    ]
    by_class = {"balanced_accuracy", "f1"} & {o.metric.split("[")[0] for o in task.objectives}
    weighed = [t.imbalance for t in task.targets if t.kind in ("binary", "multiclass")]
    if by_class and max(weighed, default=1.0) > WEIGH_CLASSES_FROM:
        options: tuple[Value, ...] = ("balanced", "none")
        params.append(Choice("class_weights", options, default="balanced", why=("imbalance",)))
    return params


@sets("l2-one-graph", "optimiser")
def decouples_decay(task: Task) -> bool:
    """Whether weights decay beside the gradient's step (AdamW) or by a term of the loss (Adam)."""
    return not is_whole_graph(task)


@sets("learning-rate-first", "bounds of the learning rate")
def tested_rate(rate: Float, lowest: float) -> Float:
    """The learning rate of a family after a range test whose loss was least at ``lowest``.

    A tenth of that is the rate of a training, within a factor of 2.4 as one standard deviation of
    our measurements (experiments/LOG.md); a family's own rate was better known, within 1.5. So
    the family's rate is kept where both agree within ``RATE_TOLERANCE``, and otherwise moved to
    the edge of that range. Nothing above ``lowest`` is searched.
    """
    tested = lowest / 10
    default = min(max(rate.default, tested / RATE_TOLERANCE), tested * RATE_TOLERANCE)
    moved = default / rate.default
    return replace(
        rate,
        low=rate.low * moved,
        high=min(rate.high * moved, lowest),
        default=default,
        why=(*rate.why, "learning-rate-first"),
    )


@sets("text-length", "tokens of a text that are read")
def text_length(percentiles: tuple[int, ...]) -> int:
    """The most tokens of a text (rule "text-length"), from the percentiles of a profile."""
    *_, most, longest = percentiles
    return min(longest, max(2 * most, 16), TEXT_LONGEST)


@sets("series-length", "steps of a sequence that are averaged")
def series_stride(percentiles: tuple[int, ...]) -> int:
    """How many steps become one (rule "series-length"), from the percentiles of the lengths."""
    *_, most, _ = percentiles
    return max(1, math.ceil(most / SERIES_LONGEST))


@sets("forecast-window", "steps that a forecast is made from")
def forecast_window(horizon: int, season: int, shortest: int) -> int:
    """The steps of a window (rule "forecast-window"), of sequences whose training part has
    ``shortest`` steps or more; 0 where none leaves the horizon behind it."""
    wanted = max(2 * season, 2 * horizon, FORECAST_SHORTEST)
    return max(0, min(wanted, (shortest - horizon) // 2, SERIES_LONGEST))


def resolutions(task: Task) -> tuple[int, ...]:
    """The image's longer side, and the common sizes below it down to 32."""
    longer = max(task.profile.inputs["image"][1:])
    smaller = [r for r in (32, 48, 64, 96) if r < 0.8 * longer]
    return (*smaller, longer)


@sets("early-downsampling", "stems and patches of published networks")
def less_reduced(task: Task) -> int:
    """By what factor a published network reduces the images of ``task`` less, in its stem or
    patches, than those that it was published on: its maps are those of images so many times as
    large."""
    side = math.sqrt(math.prod(task.profile.inputs["image"][1:]))
    return 4 if side <= WHOLE_IMAGE else 2 if side <= 2 * WHOLE_IMAGE else 1


def clipping() -> Choice:
    """Whether gradients are clipped: recurrent networks and Transformers have the steep regions
    that clipping is for, while Adam, which divides by the gradients' size, may do without."""
    return Choice("clip", (GRADIENT_CLIP, 0.0), default=GRADIENT_CLIP, why=("gradient-clipping",))


def is_node_level(task: Task) -> bool:
    """Whether the samples are the nodes of one graph."""
    return "node" in task.profile.inputs


def is_whole_graph(task: Task) -> bool:
    """Whether every batch holds the whole graph whose nodes are the samples (rule
    "whole-graph")."""
    return is_node_level(task) and not samples_neighbours(task)


def samples_neighbours(task: Task) -> bool:
    """Whether batches hold nodes of one graph with drawn neighbours (rule "sampled-neighbours"):
    the whole is more than a worker, or the user's limit on memory, has room for."""
    if not is_node_level(task):
        return False
    nodes, features = task.profile.inputs["nodes"]
    values = EDGE_VALUES * task.profile.inputs["edges"][0] + (NODE_VALUES + features) * nodes
    return 4 * values / 2**20 > _memory_mb(task)


def _memory_mb(task: Task) -> float:
    """What a training step may take: the memory of a worker, or the user's limit on it, in MiB;
    infinite where both are unknown."""
    limits = [c.bound for c in task.constraints if c.metric == "memory_mb" and c.op == "<="]
    return min([*limits, task.budget.memory_mb or math.inf])


def fan_out() -> Choice:
    """The most neighbours of a node that are drawn in the first hop."""
    return Choice("fan_out", (10, 15, 25), default=25, why=("sampled-neighbours",))


def fan_outs(first: int, hops: int) -> tuple[int, ...]:
    """Of each of the hops, ``first`` in the first; raises ValueError where there are more than the
    rule "sampled-neighbours" allows."""
    if hops > MOST_HOPS:
        raise ValueError(f"hops must be at most {MOST_HOPS}, got {hops}; use fewer layers")
    return (first, *LATER_HOPS)[:hops]
