"""One sensible training by a plain script: what a search has to beat in the same time.

    python -m experiments.equal_time.rival NAME --data FOLDER --seconds 600 [--seed 0] [--simple]

NAME is a data set of data.py. One network that a practitioner would write first for its modality
is trained until the time is over (reading the data, validation and the test included): AdamW, a
one-cycle learning rate over the time, the usual augmentation, the best epoch by a tenth of the
training part. The test part is scored once. With --simple a scikit-learn model takes its place.
Prints one JSON object. Nothing here imports nas.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.equal_time.data import PROBLEMS, Parts

Encoded = tuple[Tensor, ...]


# ---- networks -----------------------------------------------------------------------------------


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Block(nn.Module):
    """A basic residual block (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(inputs, outputs, stride),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, channels: int, classes: int, stem_stride: int, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(channels, width, stem_stride),
            Block(width, width, 1),
            Block(width, 2 * width, 2),
            Block(2 * width, 4 * width, 2),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * width, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


class TableMLP(nn.Module):
    """Embeddings of the categories beside the numbers, three hidden layers."""

    def __init__(self, numbers: int, sizes: list[int], outputs: int, width: int = 256) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(n, min(16, (n + 1) // 2)) for n in sizes)
        wide = numbers + sum(e.embedding_dim for e in self.embeddings)
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Linear(wide, width), nn.ReLU(), nn.Dropout(0.2)]
            wide = width
        self.body = nn.Sequential(*layers, nn.Linear(wide, outputs))

    def forward(self, numbers: Tensor, names: Tensor) -> Tensor:
        vectors = [e(names[:, i]) for i, e in enumerate(self.embeddings)]
        return self.body(torch.cat([numbers, *vectors], 1))


class TextCNN(nn.Module):
    """Kim 2014: convolutions of three lengths over word vectors, max over time."""

    def __init__(self, words: int, classes: int, dim: int = 200, width: int = 128) -> None:
        super().__init__()
        self.words = nn.Embedding(words, dim, padding_idx=0)
        self.convs = nn.ModuleList(nn.Conv1d(dim, width, k, padding=k // 2) for k in (1, 3, 5))
        self.head = nn.Linear(3 * width, classes)

    def forward(self, words: Tensor) -> Tensor:
        x = F.dropout(self.words(words).transpose(1, 2), 0.3, self.training)
        pooled = [F.relu(c(x)).amax(2) for c in self.convs]
        return self.head(F.dropout(torch.cat(pooled, 1), 0.5, self.training))


class GIN(nn.Module):
    """Xu et al. 2019: sums over neighbours, an MLP in each layer, sums over nodes of all layers."""

    def __init__(self, tags: int, classes: int, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.tags = nn.Embedding(tags, width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width),
                nn.BatchNorm1d(width),
                nn.ReLU(),
                nn.Linear(width, width),
                nn.BatchNorm1d(width),
                nn.ReLU(),
            )
            for _ in range(depth)
        )
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(depth + 1))

    def forward(self, graphs: list[tuple[Tensor, Tensor]]) -> Tensor:
        sizes = torch.tensor([len(tag) for tag, _ in graphs])
        starts = sizes.cumsum(0) - sizes
        graph = torch.arange(len(graphs)).repeat_interleave(sizes)
        edges = torch.cat([e + s for (_, e), s in zip(graphs, starts, strict=True)])
        x = self.tags(torch.cat([tag for tag, _ in graphs]))
        result = torch.zeros(())
        for i, head in enumerate(self.heads):
            pooled = torch.zeros(len(graphs), x.shape[1]).index_add(0, graph, x)
            result = result + F.dropout(head(pooled), 0.5, self.training)
            if i < len(self.layers):
                x = self.layers[i](
                    x + torch.zeros_like(x).index_add(0, edges[:, 0], x[edges[:, 1]])
                )
        return result


class PointNet(nn.Module):
    """Qi et al. 2017 without the alignment networks, which hardly matter on small clouds."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        sizes = (channels, 64, 128, 512)
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Conv1d(a, b, 1, bias=False), nn.BatchNorm1d(b), nn.ReLU()]
        self.points = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(512, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(256, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x.transpose(1, 2)).amax(2))


# ---- what a modality needs ----------------------------------------------------------------------


def shifted(x: Tensor, pixels: int) -> Tensor:
    """Random crops of images that are padded by so many pixels."""
    padded = F.pad(x, [pixels] * 4, mode="replicate")
    rows, columns = torch.randint(0, 2 * pixels + 1, (2, len(x)))
    height, width = x.shape[2:]
    return torch.stack(
        [p[:, r : r + height, c : c + width]
         for p, r, c in zip(padded, rows, columns, strict=True)]
    )  # fmt: skip


def turned(x: Tensor, degrees: float) -> Tensor:
    """Images rotated and scaled at random, each by its own."""
    angle = (torch.rand(len(x)) * 2 - 1) * math.radians(degrees)
    size = 1 + 0.1 * (torch.rand(len(x)) * 2 - 1)
    cos, sin, zero = angle.cos() * size, angle.sin() * size, torch.zeros(len(x))
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def log_mel(
    waves: list[np.ndarray], rate: int = 8000, bands: int = 64, frames: int = 100
) -> Tensor:
    """(n, 1, bands, frames): 25 ms windows each 10 ms, one second in the middle."""
    size, hop = rate // 40, rate // 100
    frequencies = np.fft.rfftfreq(256, 1 / rate)
    mel = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    corners = 700 * (10 ** (mel / 2595) - 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    filters = np.maximum(0, np.minimum(rising, falling))
    result = []
    for wave in waves:
        wave = np.pad(wave, (0, max(0, size - len(wave))))
        starts = np.arange(0, len(wave) - size + 1, hop)
        cut = wave[starts[:, None] + np.arange(size)] * np.hanning(size)
        energy = np.abs(np.fft.rfft(cut, 256)) ** 2 @ filters.T
        log = np.log(energy + 1e-6).T
        log = (log - log.mean()) / (log.std() + 1e-6)
        spare = frames - log.shape[1]
        if spare >= 0:
            log = np.pad(log, ((0, 0), (spare // 2, spare - spare // 2)), constant_values=log.min())
        else:
            log = log[:, -spare // 2 :][:, :frames]
        result.append(log)
    return torch.tensor(np.stack(result)[:, None], dtype=torch.float32)


def masked(x: Tensor) -> Tensor:
    """SpecAugment's masks (Park et al. 2019), one of each kind, and a shift in time."""
    x = x.clone()
    for sample in x:
        sample[:] = sample.roll(int(torch.randint(-10, 11, ())), 2)
        band, frame = int(torch.randint(0, 56, ())), int(torch.randint(0, 85, ()))
        sample[:, band : band + 8] = 0
        sample[:, :, frame : frame + 15] = 0
    return x


def table_inputs(parts: Parts) -> tuple[Encoded, Encoded, list[int]]:
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OrdinalEncoder, QuantileTransformer

    frame, test = parts.x, parts.test_x
    numeric = frame.select_dtypes("number").columns
    names = frame.columns.difference(numeric)
    fill = SimpleImputer(strategy="median").fit(frame[numeric])
    spread = QuantileTransformer(output_distribution="normal", random_state=0)
    spread.fit(fill.transform(frame[numeric]))
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    codes.fit(frame[names].astype(object).fillna("missing").astype(str))

    def encode(f: Any) -> Encoded:
        numbers = spread.transform(fill.transform(f[numeric]))
        text = f[names].astype(object).fillna("missing").astype(str)
        named = codes.transform(text) + 1
        return torch.tensor(numbers, dtype=torch.float32), torch.tensor(named, dtype=torch.int64)

    return encode(frame), encode(test), [len(c) + 1 for c in codes.categories_]


def text_inputs(parts: Parts, longest: int = 64) -> tuple[Encoded, Encoded, int]:
    counts = Counter(w for text in parts.x for w in text.lower().split())
    words = {w: i + 2 for i, (w, n) in enumerate(counts.most_common()) if n > 1}

    def encode(texts: list[str]) -> Encoded:
        rows = np.zeros((len(texts), longest), np.int64)
        for row, text in zip(rows, texts, strict=True):
            codes = [words.get(w, 1) for w in text.lower().split()[:longest]]
            row[: len(codes)] = codes
        return (torch.from_numpy(rows),)

    return encode(parts.x), encode(parts.test_x), len(words) + 2


def graph_inputs(graphs: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[Tensor, Tensor]]:
    return [(torch.as_tensor(t).long(), torch.as_tensor(e).long()) for t, e in graphs]


def setup(
    name: str, parts: Parts, outputs: int
) -> tuple[nn.Module, Any, Any, Callable, int, float]:
    """Network, inputs, test inputs, augmentation, batch size and highest learning rate."""

    def same(x: Tensor) -> Tensor:
        return x

    if name in ("adult", "california_housing"):
        x, test, sizes = table_inputs(parts)
        return TableMLP(x[0].shape[1], sizes, outputs), x, test, same, 256, 2e-3
    if name == "trec":
        x, test, words = text_inputs(parts)
        return TextCNN(words, outputs), x, test, same, 64, 2e-3
    if name == "proteins":
        tags = 1 + max(int(t.max()) for t, _ in parts.x + parts.test_x)
        return GIN(tags, outputs), graph_inputs(parts.x), graph_inputs(parts.test_x), same, 32, 5e-3
    if name == "mnist_points":

        def moved(x: Tensor) -> Tensor:
            x = x * (1 + 0.1 * torch.randn(len(x), 1, x.shape[2]).clamp(-2, 2))
            return x + 0.02 * torch.randn_like(x)

        x, test = torch.tensor(parts.x), torch.tensor(parts.test_x)
        return PointNet(x.shape[2], outputs), (x,), (test,), moved, 32, 2e-3
    if name == "fsdd":
        x, test = log_mel(parts.x), log_mel(parts.test_x)
        return ResNet(1, outputs, 2), (x,), (test,), masked, 32, 3e-3
    x, test = torch.tensor(parts.x), torch.tensor(parts.test_x)
    stride, pixels = (2, 4) if x.shape[2] > 32 else (1, 2)
    network = ResNet(x.shape[1], outputs, stride, width=32 if stride == 2 else 16)
    return network, (x,), (test,), lambda b: shifted(turned(b, 12), pixels), 64, 3e-3


# ---- training -----------------------------------------------------------------------------------


def pick(x: Any, rows: np.ndarray) -> Any:
    if isinstance(x, list):
        return ([x[i] for i in rows],)
    return tuple(each[rows] for each in x)


def train(name: str, parts: Parts, end: float, seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    regression = PROBLEMS[name].metric == "rmse"
    if regression:
        mean, std = float(parts.y.mean()), float(parts.y.std())
        labels, classes, outputs = torch.tensor((parts.y - mean) / std).float(), None, 1
    else:
        classes, codes = np.unique(parts.y, return_inverse=True)
        labels, outputs = torch.from_numpy(codes), len(classes)
    network, x, test, augmented, batch, rate = setup(name, parts, outputs)
    own, held = train_test_split(
        np.arange(len(labels)),
        test_size=0.1,
        random_state=seed,
        stratify=None if regression else labels,
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-2)
    best, best_state, epochs, begin = math.inf, None, 0, time.monotonic()
    most_epochs = 100 if len(own) > 5_000 else 300
    rng = np.random.default_rng(seed)

    def raw(inputs: Any, rows: np.ndarray) -> Tensor:
        network.eval()
        with torch.inference_mode():
            return torch.cat([network(*pick(inputs, r)) for r in np.array_split(
                rows, max(1, len(rows) // 256))])  # fmt: skip

    def loss_of(logits: Tensor, truth: Tensor, smoothing: float = 0.0) -> Tensor:
        if regression:
            return F.mse_loss(logits[:, 0], truth)
        return F.cross_entropy(logits, truth, label_smoothing=smoothing)

    def ended(share: float) -> float:
        """Of the time or the epochs, whichever is further."""
        now = (time.monotonic() - begin) / max(1e-9, end - begin)
        return min(1.0, max(now, (epochs + share) / most_epochs))

    while ended(0.0) < 1.0:
        network.train()
        order = rng.permutation(own)
        for at in range(0, len(order) - 1, batch):
            done = ended(at / len(order))
            if done >= 1.0:
                break
            warm = min(1.0, done / 0.05)
            optimizer.param_groups[0]["lr"] = rate * max(
                1e-3, warm * 0.5 * (1 + math.cos(math.pi * done))
            )
            rows = order[at : at + batch]
            inputs = pick(x, rows)
            if isinstance(inputs[0], Tensor) and len(inputs) == 1:
                inputs = (augmented(inputs[0]),)
            loss = loss_of(network(*inputs), labels[rows], 0.0 if regression else 0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        epochs += 1
        logits = raw(x, held)
        value = float(loss_of(logits, labels[held]))
        if not regression:
            value = float((logits.argmax(1) != labels[held]).float().mean()) + 1e-3 * value
        if value <= best:
            best, best_state = value, copy.deepcopy(network.state_dict())
    if best_state is not None:
        network.load_state_dict(best_state)
    logits = raw(test, np.arange(len(parts.test_y)))
    if regression:
        predicted = logits[:, 0].double().numpy() * std + mean
        score = float(np.sqrt(((predicted - parts.test_y) ** 2).mean()))
    else:
        score = float((classes[logits.argmax(1).numpy()] == parts.test_y).mean())
    params = sum(p.numel() for p in network.parameters())
    return {"score": score, "epochs": epochs, "params": params}


def simple(name: str, parts: Parts, seed: int) -> dict[str, Any]:
    """A scikit-learn model with its defaults, as the modality is usually begun with."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
    )
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    def flat(x: Any) -> np.ndarray:
        return np.asarray(x).reshape(len(x), -1)

    def sounds(x: list[np.ndarray]) -> np.ndarray:
        mel = log_mel(x)[:, 0].numpy()
        return np.concatenate([mel.mean(2), mel.std(2), np.diff(mel, axis=2).std(2)], 1)

    def graphs(x: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        rows = []
        for tag, edges in x:
            degree = np.bincount(edges[:, 0], minlength=len(tag)) if len(edges) else np.zeros(1)
            counts = np.bincount(tag, minlength=8)[:8]
            rows.append([len(tag), len(edges), degree.mean(), degree.max(), degree.std(),
                         *counts, *counts / len(tag)])  # fmt: skip
        return np.array(rows)

    def cells(x: np.ndarray) -> np.ndarray:
        at = np.clip(((x[..., :2] + 1) * 7).astype(int), 0, 13)
        grid = np.zeros((len(x), 196))
        for i, row in enumerate(at[..., 1] * 14 + at[..., 0]):
            grid[i] = np.bincount(row, minlength=196)
        return grid

    modality = PROBLEMS[name].modality
    if modality == "tabular":
        kind = HistGradientBoostingRegressor if name == "california_housing" else (
            HistGradientBoostingClassifier)  # fmt: skip
        model = kind(random_state=seed, categorical_features="from_dtype")

        def tables(x: Any) -> Any:
            named = x.select_dtypes(exclude="number").columns
            frame = x.copy()
            for column in named:
                values = sorted(parts.x[column].dropna().unique())
                frame[column] = frame[column].astype("category").cat.set_categories(values)
            return frame

        features: Callable[[Any], Any] = tables
    elif modality == "images":
        features, model = flat, make_pipeline(PCA(60, random_state=seed), SVC())
    elif modality == "text":
        terms = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        features, model = list, make_pipeline(terms, LogisticRegression(C=10, max_iter=1000))
    elif modality == "audio":
        features, model = sounds, make_pipeline(StandardScaler(), SVC(C=10))
    elif modality == "graphs":
        features, model = graphs, RandomForestClassifier(500, random_state=seed)
    else:
        features, model = cells, SVC(C=10)
    model.fit(features(parts.x), parts.y)
    predicted = model.predict(features(parts.test_x))
    if PROBLEMS[name].metric == "rmse":
        score = float(np.sqrt(((predicted - parts.test_y) ** 2).mean()))
    else:
        score = float((predicted == parts.test_y).mean())
    return {"score": score}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=PROBLEMS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--simple", action="store_true", help="the simple model instead")
    given = parser.parse_args()
    begun = time.monotonic()
    parts = PROBLEMS[given.name].parts(given.data)
    # The last hundredth, and two seconds, are for the test part.
    end = begun + 0.99 * given.seconds - 2
    if given.simple:
        found = simple(given.name, parts, given.seed)
    else:
        found = train(given.name, parts, end, given.seed)
    print(
        json.dumps(
            found | {"metric": PROBLEMS[given.name].metric, "seconds": time.monotonic() - begun}
        )
    )
