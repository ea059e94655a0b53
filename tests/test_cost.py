"""Costs: FLOPs of every family against counts by hand, memory against what is measured, latency.

A count by hand gives the multiply-adds for one sample, from the configuration and the shapes
alone; a multiply-add is two FLOPs. Activations, norms, sums of two tensors and pooling are left
out.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from default_run import one_of_each_modality
from torch import Tensor, nn

from nas import show
from nas.candidate import Candidate, Cost, Latency, State
from nas.family import load_families
from nas.models.random_kernels import spaced
from nas.options import SearchOptions
from nas.plan import make_task
from nas.records import RunRecord
from nas.run import Run
from nas.space import Config
from nas.task import (
    Budget,
    Column,
    Constraint,
    DataProfile,
    InputError,
    Member,
    Modality,
    SeriesForm,
    Target,
    Task,
)
from nas.testing import example_datasets, sample_inputs, small_spaces, small_task
from nas.training import cost, evaluator, latency

CLASSES, SAMPLES = 5, 2
TARGET = (Target("y", "multiclass", tuple("abcde"), (400,) * CLASSES),)

# Profiles whose numbers stand in the counts below.
NUMBERS, BINS, CATEGORIES = 5, 8, 6
TABLE = DataProfile(
    2_000, 300, 300, {"numeric": (NUMBERS,), "categorical": (1,)},
    columns=(
        *(Column(f"n{i}", "numeric", quantiles=tuple(range(BINS + 1))) for i in range(NUMBERS)),
        Column("c", "categorical", categories=tuple("abcdef")),
    ),
)  # fmt: skip
COLUMNS = NUMBERS + 1
HEIGHT, WIDTH = 64, 48
IMAGES = DataProfile(
    2_000, 300, 300, {"image": (3, HEIGHT, WIDTH)},
    channel_mean=(0.5,) * 3, channel_std=(0.2,) * 3,
)  # fmt: skip
WORDS = 14  # of the median text
TEXTS = DataProfile(
    2_000, 300, 300, {"tokens": (40,)},
    lengths={"tokens": (2, 5, 9, WORDS, 20, 30, 40)}, vocabulary=500,
)  # fmt: skip
STEPS, CHANNELS = 22, 3  # of the median sequence
SERIES = DataProfile(
    2_000, 300, 300, {"series": (40, CHANNELS)},
    lengths={"series": (10, 12, 18, STEPS, 25, 30, 40)},
    channel_mean=(0.1,) * CHANNELS, channel_std=(1.0,) * CHANNELS, series=SeriesForm(),
)  # fmt: skip
SOUND, RATE = 4_000, 8_000  # values of the median sound; and a second
WAVES = DataProfile(
    2_000, 300, 300, {"wave": (6_000,)},
    lengths={"wave": (1_000, 2_000, 3_000, SOUND, 5_000, 5_500, 6_000)}, sample_rate=RATE,
)  # fmt: skip
NODES, EDGES, FEATURES = 10, 24, 6  # of the median graph
GRAPHS = DataProfile(
    2_000, 300, 300, {"nodes": (20, FEATURES), "edges": (50, 2)},
    lengths={"nodes": (4, 5, 8, NODES, 14, 18, 20), "edges": (8, 10, 18, EDGES, 34, 44, 50)},
    channel_mean=(0.1,) * FEATURES, channel_std=(1.0,) * FEATURES,
)  # fmt: skip
POINTS = 64
CLOUDS = DataProfile(
    2_000, 300, 300, {"points": (POINTS, 3)}, lengths={"points": (POINTS,) * 7},
    channel_mean=(0.0,) * 3, channel_std=(0.4,) * 3,
)  # fmt: skip
BOTH = DataProfile(
    2_000, 300, 300,
    {"table.numeric": (NUMBERS,), "table.categorical": (1,), "table.present": (),
     "note.tokens": (40,), "note.present": ()},
    lengths={"note.tokens": TEXTS.lengths["tokens"]},
    members={"table": Member("tabular", TABLE), "note": Member("text", TEXTS)},
)  # fmt: skip
PROFILES: dict[Modality, DataProfile] = {
    "tabular": TABLE, "images": IMAGES, "text": TEXTS, "series": SERIES,
    "audio": WAVES, "graphs": GRAPHS, "pointclouds": CLOUDS, "multimodal": BOTH,
}  # fmt: skip


def task_of(name: str) -> Task:
    modality = load_families()[name].modality
    return Task(modality, TARGET, PROFILES[modality]).with_objectives()


# -- counts by hand ------------------------------------------------------------------------------

Count = Callable[[dict[str, Any], dict[str, Tensor]], float]


def transformer(
    tokens: int, dim: int, ratio: float, queries: int | None = None, gated: bool = False
) -> float:
    """A block: keys and values of all tokens; of those that are put out the query, scores and
    mixture, the map after them and the feed-forward part."""
    out, hidden = queries or tokens, int(dim * ratio)
    return (
        tokens * 2 * dim**2
        + out * (dim**2 + 2 * tokens * dim + dim**2)
        + out * (3 if gated else 2) * dim * hidden
    )


def transformers(c: dict[str, Any], tokens: int, queries: int | None = None) -> float:
    layer = (tokens, c["dim"], c["mlp_ratio"])
    return (c["depth"] - 1) * transformer(*layer) + transformer(*layer, queries)


def row(c: dict[str, Any]) -> int:
    """Values of a table's row: piecewise codes, and an embedding."""
    assert c["encoding"] == "piecewise"
    return NUMBERS * BINS + int(c["embedding"])


def mlp_body(c: dict[str, Any]) -> float:
    return row(c) * c["width"] + c["depth"] * 2 * c["width"] ** 2


def mlp(c: dict[str, Any], _: Any) -> float:
    return mlp_body(c) + c["width"] * CLASSES


def tabnet(c: dict[str, Any], _: Any) -> float:
    n = c["width"]  # of the decision, and of the attention
    glu = row(c) * 4 * n + (c["n_shared"] + c["n_independent"] - 1) * 2 * n * 4 * n
    return (c["steps"] + 1) * glu + c["steps"] * n * row(c) + n * CLASSES


def column_tokens(c: dict[str, Any], queries: int | None) -> float:
    codes = NUMBERS * BINS * c["dim"]
    layer = (COLUMNS + 1, c["dim"], c["ffn_factor"])
    last = transformer(*layer, queries, gated=True)
    return codes + (c["depth"] - 1) * transformer(*layer, gated=True) + last


def ft_transformer(c: dict[str, Any], _: Any) -> float:
    return column_tokens(c, queries=1) + c["dim"] * CLASSES


def shrunk(c: dict[str, Any]) -> tuple[float, int, int]:
    """Two products with matrices of interpolation, and the size that they leave."""
    side = c["resolution"]
    assert side < HEIGHT
    h, w = side, round(WIDTH * side / HEIGHT)
    return 3 * (HEIGHT * WIDTH * w + h * HEIGHT * w), h, w


def stages(c: dict[str, Any]) -> list[tuple[int, int, int, int]]:
    """Of each block: width, kernel, stride, and the number of its stage."""
    return [
        (c[f"width{i}"], c[f"kernel{i}"], 2 if i > 1 and not block else 1, i)
        for i in range(1, c["stages"] + 1)
        for block in range(c[f"depth{i}"])
    ]


def resnet(c: dict[str, Any], _: Any) -> float:
    total, h, w = shrunk(c)
    assert c["stem_stride"] == 1
    width = c["stem_width"]
    total += h * w * 9 * 3 * width
    for out, kernel, stride, _ in stages(c):
        h, w = math.ceil(h / stride), math.ceil(w / stride)
        total += h * w * kernel**2 * (width * out + out * out)
        total += h * w * width * out * (stride > 1 or width != out)  # the shortcut
        width = out
    return total + width * CLASSES


def efficientnet(c: dict[str, Any], _: Any) -> float:
    total, h, w = shrunk(c)
    width = c["width1"]
    total += h * w * 9 * 3 * width
    for out, kernel, stride, i in stages(c):
        hidden = width * c[f"expand{i}"]
        total += h * w * width * hidden
        h, w = math.ceil(h / stride), math.ceil(w / stride)
        total += h * w * (kernel**2 * hidden + hidden * out)
        total += 2 * hidden * max(4, round(width * c["se_ratio"]))
        width = out
    return total + width * CLASSES


def vit(c: dict[str, Any], _: Any) -> float:
    total, h, w = shrunk(c)
    assert (c[f"patch@{c['resolution']}"], c["stem"]) == (4, "conv")
    half, dim = c["dim"] // 2, c["dim"]
    total += h * w / 4 * 9 * 3 * half  # stride 2, twice, and a map of each place
    tokens = h * w // 16
    return total + tokens * (9 * half * dim + dim**2) + transformers(c, tokens) + dim * CLASSES


def text_transformer(c: dict[str, Any], _: Any) -> float:
    return transformers(c, WORDS) + c["dim"] * CLASSES


def lstm_layers(c: dict[str, Any], words: int = WORDS) -> float:
    total, width = 0.0, c["dim"]
    for _ in range(c["depth"]):  # two directions of four gates
        total += words * 2 * 4 * c["hidden"] * (width + c["hidden"])
        width = 2 * c["hidden"]
    return total


def lstm(c: dict[str, Any], _: Any) -> float:
    return lstm_layers(c) + 2 * c["hidden"] * CLASSES


def ngrams(c: dict[str, Any], _: Any) -> float:
    return c["dim"] * CLASSES  # rows are looked up, and added up


def text_cnn(c: dict[str, Any], _: Any) -> float:
    kernels = [c["shortest"] + i * c["apart"] for i in range(c["lengths"])]
    runs = WORDS * sum(kernels) * c["dim"] * c["width"]
    return runs + len(kernels) * c["width"] * CLASSES


def mamba_layers(c: dict[str, Any], words: int = WORDS) -> float:
    dim, states, kernel = c["dim"], c["states"], c["kernel"]
    inner, rank = c["expand"] * dim, math.ceil(dim / 16)
    maps = dim * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * dim
    # Of a state in a step: Δ A, Δ x B, the decay of the state and its sum, and C h.
    scan = inner * (6 * states + 1) / 2
    convolution = (words + kernel - 1) * kernel * inner
    return float(c["depth"] * (words * (maps + scan) + convolution))


def mamba(c: dict[str, Any], _: Any) -> float:
    return mamba_layers(c) + c["dim"] * CLASSES


def inception_time(c: dict[str, Any], _: Any) -> float:
    """Modules of a bottleneck, three kernels and a convolution after the maximum."""
    w, k, total, inputs = c["width"], c["kernel"], 0.0, CHANNELS
    for i in range(c["depth"]):
        total += STEPS * (2 * inputs * w + w * w * (k + k // 2 + k // 4))
        total += STEPS * inputs * 4 * w * (i % 3 == 0)  # the shortcut around three
        inputs = 4 * w
    return total + 4 * w * CLASSES


def series_resnet(c: dict[str, Any], _: Any) -> float:
    assert c["kernel"] == 8
    total, inputs = 0.0, CHANNELS
    for i in range(c["depth"]):
        w = c["width"] * (2 if i else 1)
        total += STEPS * (8 * inputs * w + (5 + 3) * w * w + inputs * w * (inputs != w))
        inputs = w
    return total + inputs * CLASSES


def random_kernels(c: dict[str, Any], _: Any) -> float:
    """Of each of 84 kernels and dilation the sum of its channels, and nine weights a step."""
    count = len(set(spaced(STEPS, c["dilations"])))
    return count * 84 * (STEPS * (CHANNELS + 9) + c["thresholds"] * CLASSES)


def patches(c: dict[str, Any]) -> tuple[float, int]:
    """Two convolutions, of which the second makes the tokens."""
    assert (c["stem"], c["scale"]) == ("conv", "none")
    tokens = math.ceil(STEPS / c["patch"])
    kernel = max(3, c["patch"] + 1 - c["patch"] % 2)
    return STEPS * 5 * CHANNELS * c["dim"] + tokens * kernel * c["dim"] ** 2, tokens


def series_transformer(c: dict[str, Any], _: Any) -> float:
    total, tokens = patches(c)
    return total + transformers(c, tokens) + c["dim"] * CLASSES


def series_lstm(c: dict[str, Any], _: Any) -> float:
    total, tokens = patches(c)
    assert c["cell"] == "lstm"
    return total + lstm_layers(c, tokens) + 2 * c["hidden"] * CLASSES


def series_mamba(c: dict[str, Any], _: Any) -> float:
    total, tokens = patches(c)
    return total + mamba_layers(c, tokens) + c["dim"] * CLASSES


def spectrogram(c: dict[str, Any]) -> tuple[float, int]:
    """25 ms of 200 values, filled up to 256, so 129 frequencies: cosines, sines, mel bands."""
    frames = 1 + SOUND // (c["hop_ms"] * RATE // 1000)
    return frames * (2 * 129 * 200 + 129 * c["n_mels"]), frames


def audio_resnet(c: dict[str, Any], _: Any) -> float:
    total, frames = spectrogram(c)
    width, (time, bands) = (
        c["width"],
        (math.ceil(n / c["stem_stride"]) for n in (frames, c["n_mels"])),
    )
    total += time * bands * 9 * width
    for i in range(c["stages"]):
        out, shortcut = c["width"] * 2**i, i > 0
        time, bands = (math.ceil(n / (1 + shortcut)) for n in (time, bands))
        first = 9 * width * out + 9 * out**2 + shortcut * width * out
        total += time * bands * (first + (c["depth"] - 1) * 18 * out**2)
        width = out
    return total + width * CLASSES


def audio_cnn_transformer(c: dict[str, Any], _: Any) -> float:
    total, frames = spectrogram(c)
    assert c["reduction"] == 2
    tokens, kernel, width = math.ceil(frames / 2), c["kernel"], c["conv_width"]
    total += tokens * kernel * width * (c["n_mels"] + (c["conv_depth"] - 1) * width)
    return total + tokens * width * c["dim"] + transformers(c, tokens) + c["dim"] * CLASSES


def whisper(c: dict[str, Any], _: Any) -> float:
    total, frames = spectrogram(c)
    tokens, dim = math.ceil(frames / 2), c["dim"]
    total += 3 * dim * (frames * c["n_mels"] + tokens * dim)
    return total + transformers(c, tokens) + dim * CLASSES


def wav2vec(c: dict[str, Any], _: Any) -> float:
    assert (c["frame_ms"], c["front"]) == (20, "flat")
    # A token sees 20 + 7 x 10 + 7 x 40 = 370 values, 210 more than it stands for.
    length, width, total = SOUND + 210, 1, 0.0
    for kernel, stride in ((20, 10), (8, 4), (8, 4)):
        length = (length - kernel) // stride + 1
        total += length * kernel * width * c["conv_width"]
        width = c["conv_width"]
    assert length == SOUND / 160
    total += length * width * c["dim"]
    total += length * c["position_kernel"] * c["dim"] * c["dim"] / 16  # in groups
    return total + transformers(c, length) + c["dim"] * CLASSES


def graph(c: dict[str, Any], layer: float) -> float:
    """Degrees, a layer before, the layers side by side, their mean, a layer after."""
    assert (c["pre"], c["post"], c["jumping"], c["pooling"]) == (1, 1, "cat", "mean")
    w, read = c["width"], c["depth"] * c["width"]
    around = EDGES + NODES * FEATURES * w + NODES * read + read * w + w * CLASSES
    return float(around + c["depth"] * layer)


def gcn(c: dict[str, Any], _: Any) -> float:
    return graph(c, NODES * c["width"] ** 2 + EDGES * c["width"])


def gat(c: dict[str, Any], _: Any) -> float:
    return graph(c, NODES * c["width"] ** 2 + EDGES * (c["heads"] + c["width"]))


def graphsage(c: dict[str, Any], _: Any) -> float:
    return graph(c, 2 * NODES * c["width"] ** 2 + EDGES * c["width"])


def cloud_head(c: dict[str, Any], width: int) -> float:
    assert c["pooling"] == "max+avg"
    return 2 * width * c["head_width"] + c["head_width"] * CLASSES


def pointnet(c: dict[str, Any], _: Any) -> float:
    w, wide = c["width"], c["expand"] * c["width"]
    turned = POINTS * 3 * w + 9 * w + POINTS * 9
    return turned + POINTS * (3 * w + c["depth"] * w * w + w * wide) + cloud_head(c, wide)


def dgcnn(c: dict[str, Any], _: Any) -> float:
    w, wide, layers = c["width"], c["expand"] * c["width"], 1 + c["depth"]
    assert c["graph"] == "dynamic"
    distances = POINTS**2 * (3 + c["depth"] * w)
    edges = POINTS * 2 * (3 * w + c["depth"] * w * w)
    return distances + edges + POINTS * layers * w * wide + cloud_head(c, wide)


def occupied(points: np.ndarray, side: int) -> set[tuple[int, ...]]:
    low, high = points.min(0), points.max(0)
    centred = points - (low + high) / 2
    centred = centred / np.linalg.norm(centred, axis=1).max()
    place = np.floor((centred + 1) * side / 2).clip(0, side - 1).astype(int)
    return {tuple(int(v) for v in p) for p in place}


def neighbours(voxels: set[tuple[int, ...]]) -> int:
    """Ordered pairs of occupied voxels that touch, each with itself too."""
    near = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
    return sum((x + i, y + j, z + k) in voxels for x, y, z in voxels for i, j, k in near)


def sparse_cnn(c: dict[str, Any], inputs: dict[str, Tensor]) -> float:
    assert (c["stages"], c["frame"]) == (2, "cloud")
    w, total = c["width"], 0.0
    for cloud in inputs["points"].numpy():
        fine = occupied(cloud, c["grid"])
        coarse = {(x // 2, y // 2, z // 2) for x, y, z in fine}
        total += POINTS * 4 + neighbours(fine) * (4 * w + 2 * c["depth1"] * w**2)
        total += len(coarse) * 8 * w * 2 * w
        total += neighbours(coarse) * 2 * c["depth2"] * (2 * w) ** 2
    return total / SAMPLES + cloud_head(c, 2 * w)


def member(c: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in c.items() if k.startswith(prefix)}


def late_fusion(c: dict[str, Any], _: Any) -> float:
    table, note = member(c, "table.mlp."), member(c, "note.lstm.")
    assert (c["members"], c["fusion"], c["depth"]) == ("all", "concat", 1)
    joined = table["width"] + 2 * note["hidden"]
    fused = joined * c["width"] + c["width"] * CLASSES
    return mlp_body(table) + lstm_layers(note) + fused


def encoded(c: dict[str, Any]) -> tuple[float, list[int]]:
    """Encoders of tokens, each mapped to one width; and how many tokens there are."""
    table, note = member(c, "table.ft_transformer."), member(c, "note.transformer.")
    tokens = [COLUMNS + 1, WORDS]
    maps = c["dim"] * (tokens[0] * table["dim"] + tokens[1] * note["dim"])
    return column_tokens(table, None) + transformers(note, WORDS) + maps, tokens


def early_fusion(c: dict[str, Any], _: Any) -> float:
    total, tokens = encoded(c)
    assert c["pooling"] == "cls"
    return total + transformers(c, 1 + sum(tokens), queries=1) + c["dim"] * CLASSES


def cross_attention(c: dict[str, Any], _: Any) -> float:
    total, tokens = encoded(c)
    dim = c["dim"]
    for own, other in (tokens, tokens[::-1]):
        context = 1 + other  # and a token that is always there
        each = own * 2 * dim**2 + context * 2 * dim**2 + 2 * own * context * dim
        total += c["depth"] * (each + own * 2 * dim * int(dim * c["mlp_ratio"]))
    return total + 2 * dim * CLASSES


BY_HAND: dict[str, tuple[Count, Config]] = {
    "mlp": (mlp, {"width": 48, "depth": 3}),
    "tabnet": (tabnet, {"width": 16, "steps": 4}),
    "ft_transformer": (ft_transformer, {"dim": 32, "depth": 3}),
    "resnet": (resnet, {"resolution": 32, "stem_stride": 1}),
    "efficientnet": (efficientnet, {"resolution": 32, "stem_stride": 1}),
    "vit": (vit, {"resolution": 32, "patch@32": 4}),
    "transformer": (text_transformer, {"depth": 2, "dim": 64}),
    "lstm": (lstm, {"depth": 2, "dim": 48}),
    "mamba": (mamba, {"depth": 2, "dim": 48}),
    "text_cnn": (text_cnn, {"dim": 32}),
    "ngrams": (ngrams, {"longest": 3}),
    "audio_resnet": (audio_resnet, {"depth": 2}),
    "audio_cnn_transformer": (audio_cnn_transformer, {"conv_depth": 3}),
    "whisper": (whisper, {}),
    "inception_time": (inception_time, {}),
    "series_resnet": (series_resnet, {}),
    "random_kernels": (random_kernels, {}),
    "series_transformer": (series_transformer, {}),
    "series_lstm": (series_lstm, {}),
    "series_mamba": (series_mamba, {}),
    "wav2vec": (wav2vec, {}),
    "gcn": (gcn, {}),
    "gat": (gat, {}),
    "graphsage": (graphsage, {}),
    "pointnet": (
        pointnet,
        # The family's own baseline, where a published one takes its place.
        {"transform": True, "depth": 2, "width": 64, "expand": 8, "doublings": 0}
        | {"pooling": "max+avg", "head_width": 64, "head_layers": 1},
    ),
    "dgcnn": (dgcnn, {"graph": "dynamic"}),
    "sparse_cnn": (sparse_cnn, {"grid": 8}),
    "late_fusion": (late_fusion, {}),
    "early_fusion": (early_fusion, {"depth": 2}),
    "cross_attention": (cross_attention, {"depth": 2}),
}


def test_every_family_has_a_count_by_hand() -> None:
    # Networks with published weights are compared with their libraries instead.
    own = {name for name, family in load_families().items() if family.load is None}
    assert set(BY_HAND) == own


@pytest.mark.parametrize("name", BY_HAND)
def test_flops_are_those_counted_by_hand(name: str) -> None:
    family, task = load_families()[name], task_of(name)
    by_hand, changes = BY_HAND[name]
    space = family.space(task)
    config = space.complete(changes)
    space.check(config)
    inputs = sample_inputs(task, SAMPLES)
    found = cost.analyse(lambda: family.build(config, task), inputs)["flops"] / SAMPLES
    assert found == pytest.approx(2 * by_hand(dict(config), inputs), rel=0.01)


class Net(nn.Module):
    """A layer and a call of it, on sequences (B, T, 16)."""

    def __init__(self, inner: Callable[[], nn.Module], real: bool = False) -> None:
        super().__init__()
        self.inner, self.data_dependent = inner(), real

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("real", [False, True], ids=["meta", "run"])
@pytest.mark.parametrize(
    ("layer", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)], ids=["lstm", "gru", "rnn"]
)
def test_recurrent_layers_are_counted_where_they_run_and_where_they_do_not(
    layer: type[nn.RNNBase], gates: int, real: bool
) -> None:
    def build() -> nn.Module:
        return Net(lambda: layer(16, 8, 2, batch_first=True, bidirectional=True), real)

    found = cost.analyse(build, {"x": torch.zeros(3, 5, 16)})["flops"]
    assert found == 2 * 3 * 5 * 2 * gates * 8 * ((16 + 8) + (16 + 8))


def test_recurrent_layers_of_a_gpu_are_counted() -> None:
    class Cudnn(nn.LSTM):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            weights = [weight for layer in self.all_weights for weight in layer]
            state = x.new_zeros(4, 3, 8)
            how = (2, 8, 0, 2, True, 0.0, True, True, [], None)  # an LSTM of two layers
            return torch.ops.aten._cudnn_rnn(x, weights, 4, None, state, state, *how)

    layer = lambda: Net(lambda: Cudnn(16, 8, 2, batch_first=True, bidirectional=True))  # noqa: E731
    found = cost.analyse(layer, {"x": torch.zeros(3, 5, 16)})["flops"]
    assert found == 2 * 3 * 5 * 2 * 4 * 8 * ((16 + 8) + (16 + 8))


def test_attention_pooling_is_counted() -> None:
    from nas.models.blocks import GlobalPool

    found = cost.analyse(lambda: Net(lambda: GlobalPool("attention", 16, 1)), {
        "x": torch.zeros(3, 5, 16)
    })  # fmt: skip
    assert found["flops"] == 2 * 3 * 5 * (16 + 16)  # scores, and the weighted sum


def test_zeros_of_sparse_features_are_not_counted() -> None:
    from nas.models.gnn import GNN, FeatureInput, GNNConfig

    nodes, edges, width, words, classes = 50, 120, 16, 300, 3
    features = torch.zeros(nodes, words)
    features[:, :7] = 1.0

    def build() -> GNN:
        plain = FeatureInput([0.0] * words, [1.0] * words)
        return GNN(plain, classes, GNNConfig("gcn", width, 1), sparse=True)

    inputs = {
        "nodes": features,
        "edges": torch.randint(0, nodes, (edges, 2)),
        "node": torch.arange(10),
    }
    by_hand = 2 * (edges + 7 * nodes * width + edges * width + 10 * width * classes)
    assert cost.analyse(build, inputs)["flops"] == by_hand


def test_parameters_are_given_by_part_and_by_what_is_trained() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.token = nn.Linear(16, 8), nn.Parameter(torch.zeros(5))
            self.blocks = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8, bias=False))
            self.stem.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.blocks(self.stem(x))
            return y

    found = cost.analyse(Parts, {"x": torch.zeros(2, 16)})
    assert found["components"] == {"stem": 136, "blocks": 72 + 64, "token": 5}
    assert (found["params"], found["trainable"]) == (277, 141)


# -- memory --------------------------------------------------------------------------------------

MIB = 2**20


def wide(depth: int) -> nn.Module:
    hidden = [m for _ in range(depth) for m in (nn.Linear(512, 512), nn.SiLU())]
    return Net(lambda: nn.Sequential(nn.Linear(16, 512), nn.SiLU(), *hidden, nn.Linear(512, 1)))


def rows(count: int) -> dict[str, Tensor]:
    return {"x": torch.zeros(count, 16)}


def test_a_small_batch_takes_weights_gradients_and_two_moments() -> None:
    weights = 4 * (17 * 512 + 513 * 512 + 513)
    assert cost.training_mb(lambda: wide(1), rows, 1) * MIB == pytest.approx(4 * weights, rel=0.03)
    assert cost.inference_mb(lambda: wide(1), rows, 1) * MIB == pytest.approx(weights, rel=0.03)


@pytest.mark.parametrize("depth", [0, 3])
def test_a_large_batch_takes_what_the_forward_keeps(depth: int) -> None:
    """Of each layer what goes into its activation and what comes out; and the gradient of the
    last. A prediction holds no more than the two."""
    few, many = 10_000, 30_000

    def per_sample(memory_mb: Callable[..., float]) -> float:
        found = [memory_mb(lambda: wide(depth), rows, n) * MIB for n in (few, many)]
        return (found[1] - found[0]) / (many - few)

    kept = 16 + 2 * 512 * (1 + depth) + 512
    assert per_sample(cost.training_mb) == pytest.approx(4 * kept, rel=0.02)
    assert per_sample(cost.inference_mb) == pytest.approx(4 * (16 + 2 * 512), rel=0.02)


def test_attention_without_dropout_holds_no_weights() -> None:
    def heads(dropout: float) -> nn.Module:
        from nas.models.blocks import Attention

        return Net(lambda: Attention(16, 2, dropout=dropout))

    def texts(count: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(count, 1024, 16)}

    fused, apart = (cost.training_mb(lambda: heads(p), texts, 1) for p in (0.0, 0.1))  # noqa: B023
    weights = 2 * 1024**2 * 4 / MIB  # of two heads
    assert fused < weights < 3 * weights < apart


def test_what_is_made_of_the_inputs_stands_beside_them() -> None:
    def plus_two(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"x": inputs["x"] + torch.zeros_like(inputs["x"]).repeat(2, 1)[: len(inputs["x"])]}

    def predicted_mb(*augment: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> float:
        return cost.training_mb(lambda: Net(lambda: nn.Linear(16, 1)), rows, 100_000, *augment)

    # Beside the inputs: zeros, twice as many, and the sum; the network itself holds next to none.
    assert predicted_mb(plus_two) - predicted_mb() == pytest.approx(
        3 * 16 * 4 * 100_000 / MIB, rel=0.2
    )


def test_what_is_of_another_type_is_converted_as_a_whole() -> None:
    """The gradient of a greatest value sums a comparison: each of its bytes becomes eight."""

    class Greatest(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(x).amax(1)  # type: ignore[no-any-return]

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 256, bias=False)

    def texts(count: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(count, 1024, 16)}

    values = 1024 * 256
    found = cost.training_mb(Greatest, texts, 100) - cost.training_mb(Greatest, texts, 50)
    # The layer's output, the comparison, and its numbers; inputs.
    expected = 50 * (values * (4 + 1 + 8) + 1024 * 16 * 4) / MIB
    assert found == pytest.approx(expected, rel=0.02)


def test_a_data_dependent_network_is_run_with_few_samples_and_scaled() -> None:
    seen: list[int] = []

    class Real(Net):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return super().forward(x)

    def texts(count: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(count, 400, 16)}

    found = cost.training_mb(lambda: Real(lambda: nn.Linear(16, 64), real=True), texts, 512)
    assert seen == [cost.REAL_SAMPLES]
    plain = cost.training_mb(lambda: Net(lambda: nn.Linear(16, 64)), texts, 512)
    assert found == pytest.approx(plain, rel=0.02)


# -- latency -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def locks_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other searches on this machine have theirs."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_side_by_side_disturbances_pass_over_all_and_the_fast_rounds_count() -> None:
    """Three networks of 1, 2 and 3 ms; all are three times as slow in two rounds of three."""
    calls = 0

    def network(ms: float) -> Callable[[], float]:
        def once() -> float:
            nonlocal calls
            calls += 1
            time.sleep(0.0005)
            return ms * (1 if calls // 60 % 3 == 0 else 3)

        return once

    found = latency.side_by_side([network(ms) for ms in (1.0, 2.0, 3.0)], "cpu")
    assert [each.ms for each in found] == [1.0, 2.0, 3.0]
    assert {each.rounds for each in found} == {latency.ROUNDS}
    assert all(each.isolated for each in found)


def subject(name: str) -> tuple[Task, latency.Subject]:
    task = task_of(name)
    return task, latency.Subject(3, name, load_families()[name].space(task).baseline())


def measured(name: str, backend: str, *batches: int) -> dict[str, Any]:
    task, chosen = subject(name)
    how: dict[str, Any] = {"device": "cpu", "threads": 1, "name": "here"}
    return latency.measure([chosen], task, None, backend=backend, batches=batches or (1,), **how)


def test_a_file_of_latencies_holds_device_threads_batches_and_spread() -> None:
    found = measured("mlp", "eager", 1, 4)
    device = found["device"]
    assert (device["name"], device["backend"], device["threads"]) == ("here", "eager", 1)
    figures = found["candidates"]["3"]["latency"]
    assert set(figures) == {"1", "4"}
    assert all(0 < f["ms"] < 1e3 and f["iqr_ms"] >= 0 for f in figures.values())


def test_an_exported_network_is_measured_and_one_that_cannot_be_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime")
    assert measured("mlp", "onnxruntime")["candidates"]["3"]["latency"]["1"]["ms"] > 0

    def refused(*_: Any) -> None:
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(latency, "export_onnx", refused)
    row = measured("mlp", "onnxruntime")["candidates"]["3"]
    assert "latency" not in row
    assert row["error"] == "onnxruntime cannot run it: no such operator"


def test_other_logits_than_eager_ones_are_no_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: nn.Module, inputs: Any, threads: int) -> Any:
        return network(**inputs) + 0.01, lambda: 1.0

    monkeypatch.setattr(latency, "_exported", wrong)
    row = measured("mlp", "onnxruntime")["candidates"]["3"]
    assert row["error"].startswith("its logits differ by 0.01 with onnxruntime")


# -- preflight -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", one_of_each_modality())
def test_a_candidate_over_a_limit_costs_under_a_second_and_no_training(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any) -> None:
        raise AssertionError("it was trained")

    monkeypatch.setattr(evaluator, "fit_proxy", trained)
    family = load_families()[name]
    dataset = next(iter(example_datasets(family.modality).values()))
    task = make_task(
        dataset, budget=Budget(None, 1), device="cpu", constraints=(Constraint("params", "<=", 9),)
    )
    work = evaluator.Evaluator(task, dataset)
    config = family.space(replace(task, constraints=())).baseline()
    asked = Candidate(1, name, config, seed=1, epochs=2).to_dict()
    spent = []
    for _ in range(2):  # the first in a process imports more
        begin = time.process_time()
        end = Candidate.from_dict(work.evaluate(asked, lambda *_: ""))
        spent.append(time.process_time() - begin)
        assert end.reason == "infeasible"
    assert min(spent) < 1.0


# -- another device's figures --------------------------------------------------------------------


def finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of three candidates; the better, the slower."""
    from nas.search import study

    task = small_task()
    folder.mkdir()
    (folder / "task.json").write_text(task.to_json())
    record = RunRecord(SearchOptions(), small_spaces(), {"source": "data.csv"}, {})
    (folder / "run.json").write_text(record.written())
    found = [
        Candidate(
            i, "plain", {"width": 8 * i}, seed=0, state=State.COMPLETE,
            metrics={"accuracy": 0.8 + i / 20, "latency_ms": 1.0 + i, "params": 100.0},
        )
        for i in range(3)
    ]  # fmt: skip
    monkeypatch.setattr(study, "load_candidates", lambda *_, **__: found)


def file_of(folder: Path, ms: dict[int, float], family: str = "plain") -> Path:
    file = folder / "phone.json"
    device = {"name": "phone", "kind": "cpu", "backend": "onnxruntime", "threads": 2}
    rows = {
        str(i): {
            "family": family,
            "config": {"width": 8 * i},
            "latency": {"8": {"ms": value, "iqr_ms": 0.0, "quiet": True}},
        }
        for i, value in ms.items()
    }
    file.write_text(json.dumps({"device": device, "batches": [8], "candidates": rows}))
    return file


def test_a_run_is_ranked_by_what_another_device_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "run", monkeypatch)
    assert Run(tmp_path / "run").best("latency_ms<=2").number == 1
    elsewhere = Run(tmp_path / "run", file_of(tmp_path, {1: 9.0, 2: 1.5}))
    assert elsewhere.best("latency_ms<=2").number == 2
    assert [c.number for c in elsewhere.front()] == [2], "what was not measured has no rank"
    measured_on = elsewhere.measured.measured_on
    assert measured_on == "phone (cpu, onnxruntime, batch 8)"
    devices = [c.cost.latency and c.cost.latency.device for c in elsewhere.candidates()]
    assert devices == [None, measured_on, measured_on]


def test_the_latency_of_the_search_does_not_stand_for_one_that_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nas.search import study

    finished(tmp_path / "run", monkeypatch)
    task = small_task().with_objectives(("accuracy", "params"))
    (tmp_path / "run" / "task.json").write_text(task.to_json())
    measured = Latency(1.0, 0.2, isolated=False, threads=1, batch=1)
    found = [
        replace(c, cost=Cost(measured), metrics=c.metrics | {"flops": 200.0})
        for c in Run(tmp_path / "run").candidates()
    ]
    monkeypatch.setattr(study, "load_candidates", lambda *_, **__: found)
    elsewhere = Run(tmp_path / "run", file_of(tmp_path, {2: 1.5}))
    first, *_ = elsewhere.candidates()
    assert (first.cost.latency, "latency_ms" in first.metrics) == (None, False)
    show.front(elsewhere, [first], concluded=False)
    assert "±" not in capsys.readouterr().out


def test_a_network_that_fails_at_the_first_batch_size_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "run", monkeypatch)
    file = file_of(tmp_path, {1: 9.0, 2: 1.5})
    found = json.loads(file.read_text())
    found["batches"] = [1, 8]
    rows = found["candidates"]
    rows["1"]["error"] = "onnxruntime cannot run it"  # with one sample
    rows["2"]["latency"]["1"] = {"ms": 0.5, "iqr_ms": 0.0, "quiet": True}
    rows["2"]["error"] = "onnxruntime cannot run it"  # with eight
    file.write_text(json.dumps(found))
    elsewhere = Run(tmp_path / "run", file)
    latencies = [c.metrics.get("latency_ms") for c in elsewhere.candidates()]
    assert latencies == [None, None, 0.5]
    assert [c.number for c in elsewhere.front()] == [2]


def test_figures_of_another_run_or_of_no_device_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "run", monkeypatch)
    other = Run(tmp_path / "run", file_of(tmp_path, {1: 9.0}, family="deep"))
    with pytest.raises(InputError, match="was measured on another run: its candidate 1"):
        other.front()
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match=r"device is missing.*a file of `nas latency"):
        Run(tmp_path / "run", tmp_path / "x.json").front()
