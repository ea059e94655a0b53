"""Families for text: Transformer encoder, LSTM, Mamba, convolutions, and a bag of n-grams."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from nas import rules
from nas.family import Family, Reference, carried
from nas.space import Choice, Config, Float, Int, Param, Space
from nas.task import DataProfile, Target, Task
from search_spaces.layers import mamba_layers, transformer_layers

if TYPE_CHECKING:
    from torch import nn

    from nas.models.encoder import EmbeddingConfig

NARROWEST = 16  # width of an embedding
RUNS = 12  # words in runs of three, four and five
_BAG_DIM = 8  # of a bag of n-grams, whose rows are many and read alone


def _length(task: Task) -> int:
    return task.profile.inputs["tokens"][0]


def _published(task: Task, references: tuple[Reference, ...]) -> list[Config]:
    """The published networks that the space of ``task`` holds, with its texts' vocabulary where
    that is smaller than theirs."""
    most = _vocabulary(task).high
    return [
        {**reference.config, "vocabulary": min(most, int(reference.config["vocabulary"]))}
        for reference in carried(references, task)
    ]


def _vocabulary(task: Task) -> Int:
    """The most frequent words that get a vector; the others are unknown ones.

    By default all, or as many as half of the limit on parameters pays for.
    """
    room = rules.params_limit(task) / 2
    high = max(3, min(task.profile.vocabulary, int(room / NARROWEST)))
    low = min(256, high)
    default = max(low, min(high, int(room / (2 * NARROWEST))))
    why = ("vocabulary", "cost-from-the-start")
    return Int("vocabulary", low, high, default=default, log=True, why=why)


def _dim(task: Task, words: Int, *, weights: float, layers: int, inputs: int) -> Int:
    """Width of the embedding; ``inputs`` × dim are the parameters outside of words and layers."""
    return rules.width(
        task,
        "dim",
        low=NARROWEST,
        base=32,
        default=64,
        step=16,
        weights=weights,
        layers=layers,
        inputs=words.default + inputs + task.outputs,
        fixed=task.outputs,
    )


def _regularised(task: Task, lr: float) -> list[Param]:
    """What keeps a network from memorising few texts, and how it is trained."""
    return [
        rules.dropout(task),
        rules.dropout(task, "embedding_dropout"),
        Float("token_dropout", 0.0, 0.4, default=0.1, why=("token-dropout",)),
        *rules.label_smoothing(task),
        *rules.training(task, lr=lr),
        rules.clipping(),
    ]


def _embedding(config: Config) -> EmbeddingConfig:
    from nas.models.encoder import EmbeddingConfig

    return EmbeddingConfig(
        vocabulary=int(config["vocabulary"]),
        dropout=float(config["embedding_dropout"]),
        token_dropout=float(config["token_dropout"]),
    )


def _layers(task: Task) -> int:
    """A baseline's blocks: a second one where data and the limit on parameters carry it."""
    return 2 if rules.scale(task) >= 4.5 and rules.params_limit(task) > 20_000 else 1


def _transformer_space(task: Task) -> Space:
    words, layers = _vocabulary(task), _layers(task)
    # Through a window a class token does not see the text.
    poolings: tuple[str, ...] = ("avg", "attention", "max")
    window = rules.window(task.profile.lengths["tokens"][5], {"pooling": poolings})
    if window is None or 0 in window.options:
        poolings = (*poolings, "cls")
    placements, positions = ("pre", "post"), ("learned", "sinusoidal", "rotary", "none")
    params: list[Param] = [
        words,
        rules.depth(task, low=1, base=4, default=layers),
        # A layer's biases and scales are some 14 vectors.
        _dim(task, words, weights=8, layers=layers, inputs=_length(task) + 14 * layers),
        rules.heads(),
        rules.mlp_ratio(),
        Choice("position", positions, default="learned", why=("positions", "text-length")),
        Choice("placement", placements, default="pre", why=("norm-placement",)),
        rules.token_norm(),
        rules.activation("activation", "gelu", ("gelu", "swiglu")),
        Choice("pooling", poolings, default="avg", why=("global-pooling",)),
    ]
    published = _published(task, BERTS)
    if window is not None:
        params.append(window)
        if 0 in window.options:  # published networks attend to the whole text
            published = [{**config, "window": 0} for config in published]
    return Space(
        (
            *params,
            rules.drop_path(task, "attention_dropout"),
            rules.drop_path(task),
            *_regularised(task, lr=2e-3),
        )
    ).holding(published, "references")


def _build_transformer(config: Config, task: Task) -> nn.Module:
    from nas.models.encoder import TextTransformer

    return TextTransformer(
        _embedding(config),
        _length(task),
        task.outputs,
        transformer_layers(config, post_norm=config["placement"] == "post"),
        position=str(config["position"]),
        pooling=str(config["pooling"]),
    )


def _lstm_space(task: Task) -> Space:
    words = _vocabulary(task)
    # In two directions a layer of h units on d inputs has 8 h (d + h + 2) parameters.
    dim = _dim(task, words, weights=16, layers=1, inputs=16 + 2 * task.outputs)
    published = _published(task, LSTMS)
    # The last layer of a published network may be narrower; 0 is as wide as the others.
    last = [Choice("last_hidden", (0,), default=0, why=("references",))] if published else []
    return Space(
        (
            words,
            dim,
            rules.depth(task, low=1, base=1, default=1),
            rules.width(
                task,
                "hidden",
                low=NARROWEST,
                base=32,
                default=dim.default,
                weights=8,
                inputs=8 * dim.default + 16 + 2 * task.outputs,
                fixed=words.default * dim.default,
            ),
            *last,
            Choice("bidirectional", (True, False), default=True, why=("two-directions",)),
            Choice(
                "pooling",
                ("max", "avg", "attention", "last"),
                default="max",
                why=("global-pooling",),
            ),
            *_regularised(task, lr=2e-3),
        )
    ).holding(published, "references")


def _build_lstm(config: Config, task: Task) -> nn.Module:
    from nas.models.lstm import TextLSTM

    return TextLSTM(
        _embedding(config),
        task.outputs,
        dim=int(config["dim"]),
        hidden=int(config["hidden"]),
        last_hidden=int(config.get("last_hidden", 0)),
        depth=int(config["depth"]),
        bidirectional=bool(config["bidirectional"]),
        pooling=str(config["pooling"]),
        dropout=float(config["dropout"]),
    )


def _mamba_space(task: Task) -> Space:
    words, layers = _vocabulary(task), _layers(task)
    return Space(
        (
            words,
            rules.depth(task, low=1, base=4, default=layers),
            # Twice as wide inside: 6 d² in projections, and for each of the 2 d channels the
            # kernel, three vectors over the states, the rank of Δ and four numbers.
            _dim(task, words, weights=6.5, layers=layers, inputs=2 * (4 + 3 * 8 + 4) * layers + 2),
            Choice("expand", (1, 2), default=2, why=("state-space",)),
            Choice("states", (4, 8, 16), default=8, why=("state-space",)),
            Choice("kernel", (2, 3, 4), default=4, why=("state-space",)),
            Choice("norm", ("rms", "layer"), default="rms", why=("norm-by-family",)),
            Choice(
                "pooling",
                ("avg", "attention", "max", "last"),
                default="avg",
                why=("global-pooling",),
            ),
            rules.drop_path(task),
            *_regularised(task, lr=2e-3),
        )
    ).holding(_published(task, MAMBAS), "references")


def _build_mamba(config: Config, task: Task) -> nn.Module:
    from nas.models.mamba import TextMamba

    layers = mamba_layers(config)
    pooling = str(config["pooling"])
    return TextMamba(_embedding(config), _length(task), task.outputs, layers, pooling)


def _cnn_space(task: Task) -> Space:
    words = _vocabulary(task)
    lengths = rules.depth(task, "lengths", low=1, base=3, default=3)
    dim = rules.width(
        task,
        "dim",
        low=NARROWEST,
        base=64,
        default=128,
        step=16,
        weights=RUNS,  # with as many detectors of a length as a word has features
        inputs=words.default + 3 + 3 * task.outputs,
        fixed=task.outputs,
    )
    width = rules.width(
        task,
        "width",
        low=8,
        base=48,
        default=96,
        # Weights of the detectors of three lengths, and their part of the head.
        inputs=RUNS * dim.default + 3 + 3 * task.outputs,
        fixed=words.default * dim.default + task.outputs,
    )
    return Space(
        (
            words,
            dim,
            replace(width, why=("text-convolutions", *width.why)),
            replace(lengths, why=("text-convolutions", *lengths.why)),
            Int("shortest", 1, 3, default=1, why=("text-convolutions",)),
            Int("apart", 1, 2, default=2, why=("text-convolutions",)),
            Choice("pooling", ("max", "avg", "attention"), default="max", why=("global-pooling",)),
            rules.dropout(task, default=0.5, before_head=True),
            rules.dropout(task, "embedding_dropout"),
            Float("token_dropout", 0.0, 0.4, default=0.1, why=("token-dropout",)),
            *rules.label_smoothing(task),
            *rules.training(task, lr=1e-3),
        )
    ).holding(_published(task, CNNS), "references")


def _kernels(config: Config) -> list[int]:
    """The lengths of runs that are read, in words."""
    apart, shortest = int(config["apart"]), int(config["shortest"])
    return [shortest + i * apart for i in range(int(config["lengths"]))]


def _build_cnn(config: Config, task: Task) -> nn.Module:
    from nas.models.text_cnn import TextCNN

    return TextCNN(
        _embedding(config),
        task.outputs,
        dim=int(config["dim"]),
        width=int(config["width"]),
        kernels=_kernels(config),
        pooling=str(config["pooling"]),
        dropout=float(config["dropout"]),
    )


def _ngrams_space(task: Task) -> Space:
    # Rows for the words and for the runs, each at most half of what the limit pays for.
    room = int(rules.params_limit(task) / 2 / _BAG_DIM)
    words = _vocabulary(task)
    running = task.profile.n_train * task.profile.lengths["tokens"][3]
    high = max(2, min(2 ** max(4, round(math.log2(max(running, 16)))), room))
    low = min(high, max(2, high // 32))
    longest = rules.depth(task, "longest", low=1, base=2, default=2)
    dim = rules.width(
        task,
        "dim",
        low=4,
        base=8,
        default=_BAG_DIM,
        step=4,
        inputs=words.default + max(low, high // 2) + task.outputs,
        fixed=task.outputs,
    )
    return Space(
        (
            words,
            replace(longest, why=("n-grams", *longest.why)),
            Int(
                "buckets",
                low,
                high,
                default=max(low, high // 2),
                log=True,
                when={"longest": tuple(range(2, longest.high + 1))},
                why=("n-grams", "cost-from-the-start"),
            ),
            replace(dim, why=("n-grams", *dim.why)),
            rules.dropout(task),
            Float("token_dropout", 0.0, 0.5, default=0.3, why=("token-dropout",)),
            *rules.label_smoothing(task),
            *rules.training(task, lr=5e-3),
            rules.clipping(),
        )
    )


def _build_ngrams(config: Config, task: Task) -> nn.Module:
    from nas.models.ngram_bag import NGramBag

    return NGramBag(
        int(config["vocabulary"]),
        task.outputs,
        int(config["dim"]),
        longest=int(config["longest"]),
        buckets=int(config.get("buckets", 1)),
        dropout=float(config["dropout"]),
        token_dropout=float(config["token_dropout"]),
    )


# Published networks --------------------------------------------------------------------------


def _texts(vocabulary: int, length: int) -> Task:
    """Texts of two classes, as SST-2 has them, with a network's vocabulary and longest text."""
    target = Target("label", "binary", ("negative", "positive"), (29_780, 37_569))
    lengths: dict[str, tuple[int, ...]] = {"tokens": (2, 4, 8, 13, 24, 40, length)}
    profile = DataProfile(
        67_349, 872, 1_821, {"tokens": (length,)}, lengths=lengths, vocabulary=vocabulary
    )
    return Task("text", (target,), profile)


def _published_bert(
    name: str, source: str, size: tuple[int, int, int], params: int, *, whole: bool = True
) -> Reference:
    """``size`` is width, layers and heads; DistilBERT has no pooler and no segments (not
    ``whole``)."""
    dim, depth, heads = size
    config: Config = {"vocabulary": 30_522, "dim": dim, "depth": depth, "heads": heads}
    config |= {"mlp_ratio": 4.0, "position": "learned", "placement": "post", "norm": "layer"}
    config |= {"activation": "gelu", "pooling": "avg", "dropout": 0.1, "attention_dropout": 0.1}
    config |= {"drop_path": 0.0, "embedding_dropout": 0.1, "token_dropout": 0.0}
    # Devlin et al. 2019, app. A.2; of narrower ones as the rule "pretrained-rate" has it.
    config |= {"lr": round(1e-4 * 768 / dim, 6)}
    head, pooler_and_segments = 2 * dim + 2, dim * (dim + 1) + 2 * dim
    extra, differs = head, "a head of two classes"
    if whole:
        extra, differs = head - pooler_and_segments, f"{differs}, but no pooler and no segments"
    # Of a usual text: a layer's weights are 12 d², and attention to each other token.
    length = _texts(30_522, 512).profile.lengths["tokens"][5]
    macs = length * depth * (12 * dim**2 + 2 * length * dim)
    return Reference(name, source, params, config, _texts(30_522, 512), extra, differs, macs)


def _published_mamba(name: str, dim: int, depth: int, params: int) -> Reference:
    config: Config = {"vocabulary": 50_280, "dim": dim, "depth": depth, "expand": 2, "states": 16}
    config |= {"kernel": 4, "norm": "rms", "pooling": "last", "dropout": 0.0, "drop_path": 0.0}
    config |= {"embedding_dropout": 0.0, "token_dropout": 0.0}
    # Table 12 gives a rate of 3e-3, for batches of half a million tokens: the family's is lower.
    differs = "a head of two classes; that of the words is the embedding's transpose"
    source = "Gu & Dao 2023, table 12, and the authors' code (a vocabulary of 50,280)"
    task = _texts(50_280, 2_048)
    macs = task.profile.lengths["tokens"][5] * (params - 50_280 * dim)
    return Reference(name, source, params, config, task, 2 * dim + 2, differs, macs)


def _published_lstm(
    name: str,
    source: str,
    size: tuple[int, int, int, int, int],
    params: int,
    extra: int,
    differs: str,
) -> Reference:
    """``size`` is vocabulary, width of a word, layers, their units and those of the last layer (0:
    as many)."""
    vocabulary, dim, depth, hidden, last = size
    config: Config = {"vocabulary": vocabulary, "dim": dim, "depth": depth, "hidden": hidden}
    config |= {"last_hidden": last, "bidirectional": False, "pooling": "last", "dropout": 0.1}
    config |= {"embedding_dropout": 0.1, "token_dropout": 0.0}
    task = _texts(vocabulary, 512)
    macs = task.profile.lengths["tokens"][5] * (params - vocabulary * dim)
    # One step waits for the other, which leaves a GPU a fraction of its speed.
    return Reference(name, source, params, config, task, extra, differs, macs, efficiency=0.3)


_TURC = "Turc et al. 2019 (Well-Read Students Learn Better), sec. 4"
BERTS = (
    _published_bert("BERT-mini", _TURC, (256, 4, 4), 11_170_560),
    _published_bert("BERT-small", _TURC, (512, 4, 8), 28_763_648),
    _published_bert(
        "DistilBERT", "Sanh et al. 2019 (DistilBERT), sec. 3", (768, 6, 12), 66_362_880, whole=False
    ),
    _published_bert("BERT-base", "Devlin et al. 2019, sec. 3", (768, 12, 12), 109_482_240),
)
MAMBAS = (_published_mamba("Mamba-130M", 768, 24, 129_135_360),)
LSTMS = (
    _published_lstm(
        "LSTM on SST",
        "Tai et al. 2015, table 1 (315,840 without words), and Kim 2014, table 1 (its words)",
        (16_185, 300, 1, 168, 0),
        315_840 + 16_185 * 300,
        2 * 168 + 2,
        "a head of two classes",
    ),
    _published_lstm(
        "AWD-LSTM on Penn Treebank",
        "Merity et al. 2018, sec. 5 (24 million; the count of its layers)",
        (10_000, 400, 3, 1_150, 400),
        24_221_600,
        2 * 400 + 2 - 10_000,
        "a head of two classes, but no biases of the words that come next",
    ),
)

_WHOLE: Config = {"embedding_dropout": 0.0, "token_dropout": 0.0}
_KIM: Config = {"vocabulary": 16_185, "dim": 300, "width": 100, "lengths": 3}
CNNS = (
    Reference(
        "CNN on SST-2",
        "Kim 2014, sec. 3.1 and table 1 (its words)",
        16_185 * 300 + 100 * (RUNS * 300 + 3),
        {**_KIM, "shortest": 3, "apart": 1, "pooling": "max", "dropout": 0.5, **_WHOLE},
        _texts(16_185, 512),
        2 * 300 + 2,
        "a head of two classes; no count is published: it is that of the layers",
        _texts(16_185, 512).profile.lengths["tokens"][5] * 100 * RUNS * 300,
    ),
)

FAMILIES = (
    Family(
        "transformer",
        "text",
        "Vaswani et al. 2017, Attention Is All You Need; Devlin et al. 2019 (BERT)",
        _transformer_space,
        _build_transformer,
        "Texts whose words relate over a distance; its cost grows with length or window.",
        BERTS,
    ),
    Family(
        "lstm",
        "text",
        "Hochreiter & Schmidhuber 1997, Long Short-Term Memory",
        _lstm_space,
        _build_lstm,
        "Short texts, and few of them: it reads word by word, in time linear in the length.",
        LSTMS,
    ),
    Family(
        "mamba",
        "text",
        "Gu & Dao 2023, Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        _mamba_space,
        _build_mamba,
        "Long texts: it reads in time linear in the length, with states the text selects.",
        MAMBAS,
    ),
    Family(
        "text_cnn",
        "text",
        "Kim 2014, Convolutional Neural Networks for Sentence Classification",
        _cnn_space,
        _build_cnn,
        "Short texts in which some words side by side decide; all runs are read at once.",
        CNNS,
    ),
    Family(
        "ngrams",
        "text",
        "Joulin et al. 2017, Bag of Tricks for Efficient Text Classification (fastText)",
        _ngrams_space,
        _build_ngrams,
        "Few or short texts, and the fastest answers: it counts words and runs of words.",
    ),
)
