"""The rules of ``nas.rules`` as checks: read off a network that is already there.

Nothing here imports torch: a check is given the anatomy of a network, and yields where it breaks
its rule. The numbers in a rule's sentence are those of ``nas.rules``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from nas.candidate import Reason
from nas.layers import Anatomy, Layer
from nas.rules import (
    LEAST_DECAY,
    LEAST_DROPOUT,
    MOST_DECAY,
    MOST_DROPOUT,
    MOST_TOKENS,
    PRETRAINED_BELOW,
    RESIDUAL_FROM,
    RULES,
    SATURATING_MOST,
    SMALL_BATCH,
    params_cap,
)

# Thresholds of the checks alone: they are ours.
HEAD_SHARE, HEAD_PARAMS = 0.5, 100_000  # of the parameters, and so many, make a head wide
FAR_OVER = 10  # times the cap on parameters, or the tokens: no longer a matter of taste
BAD_START = 2.0  # times the loss of a network that knows nothing
MEMORISED_AT = 0.5  # of it, at which one batch counts as memorised
SATURATING = ("sigmoid", "tanh", "hardsigmoid", "hardtanh", "softsign")
HALF_DEAD = 0.5  # of the units of a layer
FAR_BELOW = 100  # times below the steepest rate of a range test: steps too small to matter
OUTPUT_ERROR = 1e-3  # of the size of the output: more is no rounding


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
        """The rule's sentence."""
        return RULES[self.rule].statement


Check = Callable[[Anatomy], Iterator[Finding]]
CHECKS: dict[str, Check] = {}  # by the id of their rule


def check(anatomy: Anatomy) -> list[Finding]:
    """All findings, serious ones first, in the order of the rules."""
    found = [f for rule in RULES if rule in CHECKS for f in CHECKS[rule](anatomy)]
    return sorted(found, key=lambda finding: finding.severity == "advice")


def _checks(*ids: str) -> Callable[[Check], Check]:
    """Attach a check to its rules."""

    def attach(check: Check) -> Check:
        CHECKS.update(dict.fromkeys(ids, check))
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
    path = net.stretch(lambda layer: layer.depth if layer.weighted else 0)
    stack = [layer for layer in path if layer.weighted]
    depth = sum(layer.depth for layer in stack)
    if depth <= RESIDUAL_FROM:
        return
    normed = any(layer.kind == "norm" for layer in path)
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
        and len(x.shape) > 1  # tokens: beside them a table may be read by an MLP
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
        return layer.kind == "activation" and layer.type in SATURATING and not layer.gate

    path = net.stretch(lambda layer: int(saturates(layer)))
    found = [layer for layer in path if saturates(layer)]
    if len(found) <= SATURATING_MOST:
        return
    normed = any(layer.kind == "norm" for layer in path)
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
    # A product or a quotient of data bends too: gates, softsign.
    if any(x.kind in bends or (x.kind == "join" and x.type in ("mul", "div")) for x in net.layers):
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
        inside = all(
            any(x.kind == "conv" for x in part) and any(x.type == "batch" for x in part)
            for part in (before, after)
        )
        if inside or _meets_batch_norm(net, place):
            found.append(layer)
    if found:
        yield Finding(
            "no-dropout-after-batchnorm",
            "advice",
            _named(found),
            f"dropout of {max(x.rate for x in found):.3g} comes before BatchNorm, which meets"
            " another variance in prediction than in training",
            "drop before the last layer alone, or whole branches (drop path)",
        )


def _meets_batch_norm(net: Anatomy, place: int) -> bool:
    """Whether a BatchNorm normalises what the dropout at ``place`` has left, by way of layers of
    any kind. Another norm restores the variance, and a shortcut brings values that were kept; of
    attention weights only the mean counts. A dropout of 0.1 widens what follows a ReLU by less
    than a tenth (of x ≥ 0 half normal: √((0.5 / 0.9 - 1 / 2π) / (0.5 - 1 / 2π)) = 1.08)."""
    layers = net.layers
    weights = any(layers[i].kind == "attention" for i in layers[place].reads)
    if weights or layers[place].rate <= LEAST_DROPOUT:
        return False
    reached = {place}
    for i, layer in enumerate(layers):
        if reached.isdisjoint(layer.reads):
            continue
        if layer.kind == "norm":
            if layer.type == "batch":
                return True
        elif not (layer.kind == "join" and layer.shortcut):
            reached.add(i)
    return False


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
    if net.classes == 0 or not net.ends or net.outputs is None:
        return
    wide = net.outputs > 1
    if net.ends == "softmax over the batch":
        yield Finding(
            "logits",
            "serious",
            "the output",
            f"the {net.outputs} outputs of each class sum to 1 over the samples, not over classes",
            "take the softmax over the last axis, dim=-1, and only in prediction",
        )
        return
    if net.ends == "relu":
        if net.classes:
            yield Finding(
                "logits",
                "advice",
                "the output",
                f"the network ends in a {net.ends}: none of its {net.outputs} logits can be"
                " negative, and a class whose logit is 0 gets no gradient",
                "leave the last activation out",
            )
        return
    if wide and net.ends == "sigmoid" and not net.classes:
        return  # several yes/no questions
    if wide and net.ends == "sigmoid":
        yield Finding(
            "logits",
            "advice",
            "the output",
            f"the network ends in a sigmoid of each of its {net.outputs} classes: a cross-entropy"
            " of values between 0 and 1 cannot fall far",
            "leave the sigmoid out and use the cross-entropy; for several answers at once use the"
            " binary cross-entropy of logits",
        )
        return
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
    if net.padding_error is not None and net.padding_error > OUTPUT_ERROR:
        yield Finding(
            "padding-masks",
            "serious",
            "the output",
            f"a sample's output changes by {net.padding_error:.1%} of its size where a longer one"
            " stands in its batch",
            "mask what is padding in attention, pooling and statistics; pack recurrent input",
        )


@_checks("no-noise-in-prediction")
def _noisy(net: Anatomy) -> Iterator[Finding]:
    if net.noise > OUTPUT_ERROR:
        yield Finding(
            "no-noise-in-prediction",
            "serious",
            "the output",
            f"two predictions of the same samples differ by {net.noise:.1%} of their size, though"
            " the network is in eval mode",
            "pass training=self.training to F.dropout, and draw no random numbers in eval mode",
        )


@_checks("independent-samples")
def _dependent(net: Anatomy) -> Iterator[Finding]:
    if net.company_error is None or net.company_error <= OUTPUT_ERROR:
        return
    alone = (
        f"changes by {net.company_error:.1%} of its size where another one is in its batch"
        if math.isfinite(net.company_error)
        else "cannot be had in a batch of 1: forward fails, or its output has another shape"
    )
    yield Finding(
        "independent-samples",
        "serious",
        "the output",
        f"in eval mode a sample's output {alone}",
        "give F.batch_norm training=self.training, take means and softmax over axes other than the"
        " first, and name the axis of squeeze",
    )


@_checks("gradient-for-all")
def _unreached(net: Anatomy) -> Iterator[Finding]:
    if not net.unreached:
        return
    params = sum(net.unreached.values())
    fraction = params / net.params
    layers = list(dict.fromkeys(name.rpartition(".")[0] or name for name in net.unreached))
    yield Finding(
        "gradient-for-all",
        "serious" if fraction > 0.01 else "advice",
        ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else ""),
        f"{params:,} parameters ({fraction:.1%}) get no gradient from the output",
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
    observed = net.observed
    if net.lr is None or observed is None or observed.steepest is None:
        return
    high = observed.diverges is not None and net.lr >= observed.diverges
    low = net.lr * FAR_BELOW < observed.steepest
    if high or low:
        yield Finding(
            "learning-rate-first",
            "serious",
            "the optimiser",
            f"at a rate of {net.lr:.2g} "
            + (
                f"the loss has risen again (from {observed.diverges:.2g} on)"
                if high
                else f"steps are {observed.steepest / net.lr:,.0f} times smaller than where it"
                f" falls fastest ({observed.steepest:.2g})"
            ),
            f"begin near {observed.steepest:.1g}",
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
    observed = net.observed
    # A spread of the logits costs half its variance; 0.5 is what sound starts have.
    if observed is None or not observed.start > BAD_START * observed.chance + 0.5:
        return
    yield Finding(
        "loss-at-start",
        "serious",
        "the last layer",
        f"a loss of {observed.start:.3g} before the first step, where a uniform prediction has"
        f" {observed.chance:.3g}"
        + (f" (log of {net.classes} classes)" if net.classes and net.classes > 1 else ""),
        "begin the last layer with small weights, and standardise inputs and targets",
    )


@_checks("one-batch")
def _one_batch(net: Anatomy) -> Iterator[Finding]:
    observed = net.observed
    if observed is None or observed.one_batch is None:
        return
    chance, end, steps = observed.one_batch
    if not end <= MEMORISED_AT * chance:
        yield Finding(
            "one-batch",
            "serious",
            "the whole network",
            f"one batch cannot be memorised: its loss is {end:.3g} after {steps} steps, where"
            f" a constant prediction has {chance:.3g}",
            "look at what stands between inputs and loss: the targets, the loss, detached or"
            " frozen parts, dead or saturated layers",
        )


@_checks("dead-units")
def _dead(net: Anatomy) -> Iterator[Finding]:
    observed = net.observed
    if observed is None:
        return
    change = "lower the rate or the bias, use GELU or leaky ReLU, normalise"
    if observed.failure is Reason.DEAD:
        yield Finding("dead-units", "serious", observed.failed_at, observed.evidence, change)
    elif observed.dead is not None and observed.dead[1] > HALF_DEAD:
        layer, fraction = observed.dead
        evidence = f"{fraction:.0%} of its units get no gradient from any sample of the last batch"
        yield Finding("dead-units", "advice", layer, evidence, change)


def _watched(rule: str, failure: Reason, change: str) -> None:
    """The check of what a monitor has found."""

    @_checks(rule)
    def _found(net: Anatomy) -> Iterator[Finding]:
        observed = net.observed
        if observed is not None and observed.failure is failure:
            where = observed.failed_at or "the loss"
            yield Finding(rule, "serious", where, observed.evidence, change)


_watched("finite", Reason.NAN, "look there for a logarithm, root, quotient or exp; lower the rate")
_watched("exploding-gradients", Reason.EXPLODING, "normalise, clip gradients, lower the rate")
_watched(
    "vanishing-gradients", Reason.VANISHING, "add shortcuts and normalisation, change activations"
)
_watched("learns", Reason.PLATEAU, "try the rate of a range test; look at the targets and the loss")
