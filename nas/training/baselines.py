"""Simple scikit-learn models on the same split: what a network has to beat."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from scipy.fft import dct
from scipy.sparse import csr_matrix, hstack, issparse
from scipy.special import softmax
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifierCV, RidgeCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

from nas.data import Dataset
from nas.data.ragged import Input, Ragged, Whole
from nas.files import first_line
from nas.models.spectrogram import mel_filters
from nas.plan import SIMPLE_TEST_S
from nas.task import Target, Task, input_type
from nas.training.batches import proxy_folds, stratified
from nas.training.metrics import mean_scores, score
from nas.training.random_kernels import mini_rocket, statistics

SIDE = 32  # pixels, of the images that a baseline sees

# Rows that simple models are fitted to and scored on where a network is tested, and values of all
# images of either. The standard error of an accuracy on so many rows is a tenth of a point.
MOST_FITTED, MOST_SCORED, MOST_PIXELS = 50_000, 200_000, 6e7
FEWER_TESTED = 5_000  # rows of both for a model that has no time for as many

# The fractions of the rows, of so many at least, whose fits show how long one of all takes.
FRACTIONS, FEWEST = (1 / 512, 1 / 64, 1 / 8), 20
# By which powers of the samples seconds grow: before that was seen, and at most.
GROWTH, MOST_GROWTH = 0.5, 3.0
# Samples times outputs of a fit where no time limits it: some minutes of gradient boosting.
MOST_WORK = 3_000_000


def tested(dataset: Dataset, task: Task) -> list[dict[str, Any]]:
    """The simple models, fitted to at most ``MOST_FITTED`` rows of the training part and scored on
    at most ``MOST_SCORED`` of the test part, beside a network that is. A model that has
    no time for as many within ``SIMPLE_TEST_S`` sees at most ``FEWER_TESTED`` of either; rows as of
    ``baselines``."""
    room = float("inf")
    if task.modality == "images":
        images: Any = dataset.inputs["image"]
        room = MOST_PIXELS / _shrink(images[:1]).shape[1]

    def some(part: str, most: int) -> Any:
        fraction = min(most, room) / len(dataset.parts[part])
        return stratified(dataset, part, min(1.0, fraction), task.seed)

    many, few = (
        [(some("train", fitted), some("test", scored))]
        for fitted, scored in ((MOST_FITTED, MOST_SCORED), (FEWER_TESTED, FEWER_TESTED))
    )
    fewer = few if sum(map(len, few[0])) < sum(map(len, many[0])) else ()
    return baselines(dataset, task, many, SIMPLE_TEST_S, fewer)


def baselines(
    dataset: Dataset,
    task: Task,
    pairs: Sequence[Pair] = (),
    limit_s: float | None = None,
    fewer: Sequence[Pair] = (),
) -> list[dict[str, Any]]:
    """Fit each simple model to the rows that a proxy is trained on, and score it on those
    that a proxy is scored by; or to and on the rows of ``pairs``.

    Args:
        dataset: Of all samples.
        task: What is to be predicted.
        pairs: Rows to fit to and rows to score on, of each fold.
        limit_s: Seconds that all may take. None leaves all out whose samples times outputs are
            more than ``MOST_WORK``, so that no clock decides.
        fewer: In the place of ``pairs``, for models that have no time for these.

    Returns:
        One ``{"name", "metrics", "costs", "seconds", "samples"}`` for each. A model that cannot
        be fitted, or has no time, has no metrics and says why in "error": the search continues
        without it. Metrics that are not finite, as of values that overflow, are left out.
    """
    end = math.inf if limit_s is None else time.perf_counter() + limit_s
    pairs = pairs or proxy_folds(dataset, task)
    parts = [_Part.of(dataset, task, each) for each in (pairs, fewer) if each]
    results = []
    for number, (name, *_) in enumerate(parts[0].models):
        begin = time.perf_counter()
        found: dict[str, Any] = {}
        known: list[tuple[int, float]] = []
        for part in parts:
            found = {"name": name, "metrics": {}, "samples": part.samples}
            try:
                part.check_time(number, end, known)
                found |= part.scores(number, end)
                break
            except _NoTime as error:
                found["error"] = str(error)
            except Exception as error:  # whatever a library may raise: it is reported, not hidden
                found["error"] = f"{type(error).__name__}: {first_line(error)}"
                break
        results.append(found | {"seconds": time.perf_counter() - begin})
    return results


class _NoTime(Exception):  # noqa: N818  # an outcome, not a fault
    """A simple model cannot be fitted in the time that is left."""


@dataclass(frozen=True)
class _Part:
    """Some samples of a data set, and those of them that simple models are fitted to and scored
    on in each fold."""

    dataset: Dataset
    task: Task
    pairs: list[Pair]

    @classmethod
    def of(cls, dataset: Dataset, task: Task, pairs: Sequence[Pair]) -> _Part:
        rows = np.unique(np.concatenate([part for pair in pairs for part in pair]))
        own = [(np.searchsorted(rows, fitted), np.searchsorted(rows, s)) for fitted, s in pairs]
        return cls(_of(dataset, rows), task, own)

    @cached_property
    def models(self) -> list[Simple]:
        return _SIMPLE[self.task.modality](self.dataset, self.task)

    @property
    def samples(self) -> int:
        """Of the first fit."""
        return len(self.pairs[0][0])

    def scores(self, number: int, end: float) -> dict[str, Any]:
        """The means of the metrics of a model over all folds, and what it costs. Raises _NoTime
        where the time is over before the last of them."""
        x, fitted = self._fitted(number, end)
        found = mean_scores([scores for scores, _ in fitted])
        metrics = {name: v for name, v in found.items() if math.isfinite(v)}
        # Of the last fold: what codes the features is fitted again by each.
        return {"metrics": metrics, "costs": _costs(fitted[-1][1], x[self.pairs[-1][1][:1]])}

    def _fitted(
        self, number: int, end: float = math.inf
    ) -> tuple[Any, list[tuple[dict[str, float], list[Any]]]]:
        """The features, and of each fold the scores and the fitted models."""
        _, features, factory = self.models[number]
        x = features()
        fitted: list[tuple[dict[str, float], list[Any]]] = []
        for pair in self.pairs:
            if time.perf_counter() > end:
                done = f"{len(fitted)} of {len(self.pairs)} fits"
                raise _NoTime(f"no time: it was over after {done}")
            fitted.append(_fit(self.dataset, self.task, factory, x, *pair))
        return x, fitted

    def check_time(self, number: int, end: float, known: list[tuple[int, float]]) -> None:
        """Raise _NoTime where the fit of a model would not be over at ``end``. ``known`` are
        samples and seconds of earlier fits; without any, ever larger parts of the rows are."""
        if end == math.inf:
            work = self.samples * self.task.outputs  # trees and weights are learnt for each class
            if work > MOST_WORK:
                raise _NoTime(
                    f"no time: {work:,} samples times outputs; without a time limit at most"
                    f" {MOST_WORK:,} are fitted"
                )
            return
        smaller = [] if known else self._smaller
        for part in (*smaller, self):
            left_s = end - time.perf_counter()
            if _predicted_s(known, part.samples) > left_s:
                needed_s = _predicted_s(known, self.samples)
                needed = f"about {needed_s:.0f} s are needed, " if known else ""
                raise _NoTime(f"no time: {needed}{max(0.0, left_s):.0f} s are left")
            if part is self:
                return
            begin = time.perf_counter()
            with suppress(Exception):  # of one class alone, say: nothing is known then
                part._fitted(number)
                known.append((part.samples, time.perf_counter() - begin))

    @cached_property
    def _smaller(self) -> list[_Part]:
        """Ever larger parts of the rows of a fold, drawn at random."""
        found = []
        rng = np.random.default_rng(self.task.seed)
        drawn = [rng.permutation(rows) for rows in self.pairs[0]]
        for fraction in FRACTIONS:
            if fraction * len(drawn[0]) >= FEWEST:
                fitted, scored = (np.sort(r[: max(2, round(fraction * len(r)))]) for r in drawn)
                found.append(_Part.of(self.dataset, self.task, [(fitted, scored)]))
        return found


def _predicted_s(known: Sequence[tuple[int, float]], samples: int) -> float:
    """Seconds of a fit by those of other ones, each ``(samples, seconds)``: along the line or the
    power through the last two, whichever is longer."""
    if not known:
        return 0.0
    *_, (last, last_s) = known
    if len(known) == 1:
        return last_s * math.pow(samples / last, GROWTH)
    before, before_s = known[-2]
    power = min(MOST_GROWTH, math.log(last_s / before_s) / math.log(last / before))
    line_s = last_s + (last_s - before_s) / (last - before) * (samples - last)
    return max(last_s, line_s, last_s * math.pow(samples / last, power))


def _of(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """The samples ``rows`` of a data set alone: features of others, of which there may be many
    more, are not made."""

    def own(name: str, array: Input) -> Any:
        if isinstance(array, Whole):
            return array
        if isinstance(array, Ragged):
            return array.take(rows)
        return _Chosen(array, rows) if input_type(name) == "image" else array[rows]

    return replace(
        dataset,
        inputs={name: own(name, array) for name, array in dataset.inputs.items()},
        labels={name: np.asarray(label)[rows] for name, label in dataset.labels.items()},
        parts={
            name: np.searchsorted(rows, np.intersect1d(part, rows))
            for name, part in dataset.parts.items()
        },
    )


class _Chosen:
    """Some of many images, which are copied a few at a time."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows
        self.shape = (len(rows), *array.shape[1:])

    def __getitem__(self, some: Any) -> Any:
        return self.array[self.rows[some]]


def _fit(
    dataset: Dataset, task: Task, factory: Any, x: Any, train: Any, val: Any
) -> tuple[dict[str, float], list[Any]]:
    """Scores, and a fitted model for each target."""
    truth, predicted, models = {}, {}, []
    for target in task.targets:
        label = np.asarray(dataset.labels[target.name])
        model = factory(target)
        with warnings.catch_warnings():
            # What is not converged by then, or has one answer only, is a baseline still.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", message="Label .* is present in all")
            warnings.filterwarnings("ignore", message="The number of unique classes is greater")
            model.fit(x[train], label[train])
        truth[target.name] = label[val]
        predicted[target.name] = _predict(model, target, x[val])
        models.append(model)
    return score(task, truth, predicted), models


def _costs(models: Sequence[Any], row: Any) -> dict[str, float]:
    """What simple models cost in use: the median latency of a prediction for one ``row`` of
    features, which are given, with half its interquartile range (``spread_ms``), and the numbers
    that were learnt (``params``)."""
    times_ms: list[float] = []
    end = time.perf_counter() + 0.3
    while len(times_ms) < 3 or (len(times_ms) < 30 and time.perf_counter() < end):
        begin = time.perf_counter()
        for model in models:
            model.predict(row)
        times_ms.append(1e3 * (time.perf_counter() - begin))
    low, middle, high = np.percentile(times_ms, (25, 50, 75))
    return {
        "latency_ms": float(middle),
        "spread_ms": float(high - low) / 2,
        "params": float(_learnt(list(models))),
    }


# What scikit-learn's estimators keep of what they learn, and where they keep other estimators.
_NUMBERS = (
    *("coef_", "intercept_", "components_", "mean_", "scale_"),
    *("idf_", "statistics_", "support_vectors_", "dual_coef_"),
)
_PARTS = (
    *("steps", "transformers_", "estimators_", "_predictors", "tree_", "parts"),
    *("regressor_", "transformer_"),
)


def _learnt(fitted: Any) -> int:
    """How many numbers fitted estimators use; a split of a tree is a feature and a threshold."""
    if isinstance(fitted, (list, tuple, np.ndarray)):
        return sum(map(_learnt, fitted))
    if hasattr(fitted, "node_count"):  # a tree of a forest
        return 2 * int(fitted.node_count) + int(fitted.value.size)
    if hasattr(fitted, "nodes"):  # one of gradient boosting, each node with its value
        return 3 * len(fitted.nodes)
    if not isinstance(fitted, BaseEstimator):
        return 0
    numbers = sum(_size(getattr(fitted, name)) for name in _NUMBERS if hasattr(fitted, name))
    return numbers + sum(_learnt(getattr(fitted, name)) for name in _PARTS if hasattr(fitted, name))


def _size(numbers: Any) -> int:
    if issparse(numbers):
        return int(numbers.nnz)
    return 0 if numbers is None else int(np.size(numbers))


# A simple model: its name, its features of all samples (made when it is its turn), and the
# estimator for a target.
Simple = tuple[str, Callable[[], Any], Callable[[Target], Any]]
# Rows to fit to, and rows to score on.
Pair = tuple[Any, Any]


def _classifies(task: Task) -> bool:
    return any(t.kind != "regression" for t in task.targets)


def _linear(prepare: Any) -> Callable[[Target], Any]:
    """Logistic or ridge regression after ``prepare``."""

    def make(target: Target) -> Pipeline:
        if target.kind == "regression":
            return make_pipeline(prepare, Ridge())
        model: Any = LogisticRegression(max_iter=1000)
        if target.kind == "multilabel":
            model = OneVsRestClassifier(model)
        return make_pipeline(prepare, model)

    return make


def _tabular(dataset: Dataset, task: Task) -> list[Simple]:
    parts = [dataset.inputs[n] for n in ("numeric", "categorical") if n in dataset.inputs]
    x = np.concatenate([np.asarray(p, np.float32) for p in parts], axis=1)
    kinds = [c.kind for c in dataset.profile.columns]
    n = kinds.count("numeric")
    columns = list(range(x.shape[1]))
    numbers = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
    )
    codes = OneHotEncoder(handle_unknown="ignore")
    linear = make_column_transformer((numbers, columns[:n]), (codes, columns[n:]))
    # scikit-learn's trees take at most 255 categories a column; wider ones count as numbers.
    sizes = [len(c.categories) for c in dataset.profile.columns if c.kind == "categorical"]
    narrow = [i for i, size in zip(columns[n:], sizes, strict=True) if size < 255]

    def boosted(target: Target) -> Any:
        # Early stopping would set samples aside by class, which a class of one cannot.
        options = {
            "categorical_features": narrow,
            "early_stopping": False,
            # The usual 20 would leave 36 samples without a split.
            "min_samples_leaf": min(20, max(1, task.profile.n_train // 25)),
            "random_state": 0,
        }
        if target.kind == "regression":
            return HistGradientBoostingRegressor(**options)
        model: Any = HistGradientBoostingClassifier(**options)
        return OneVsRestClassifier(model) if target.kind == "multilabel" else model

    name = "logistic regression" if _classifies(task) else "ridge regression"
    return [(name, lambda: x, _linear(linear)), ("HistGradientBoosting", lambda: x, boosted)]


def _images(dataset: Dataset, task: Task) -> list[Simple]:
    images: Any = dataset.inputs["image"]
    # By the covariance, the cost grows with the samples no faster than linearly; of fewer samples
    # than values an image has, the decomposition of the samples is quicker.
    pixels = _shrink(images[:1]).shape[1]
    solver = "full" if dataset.profile.n_train < pixels else "covariance_eigh"
    prepare = make_pipeline(StandardScaler(), PCA(0.9, svd_solver=solver))
    name = "PCA + " + ("logistic" if _classifies(task) else "ridge")
    return [(name, lambda: _shrink(images), _linear(prepare))]


def _shrink(images: Any) -> Any:
    """Images as rows of float32; a side over 32 is averaged over blocks of pixels."""
    n, channels, height, width = images.shape
    block = -(-max(height, width) // SIDE)
    rows, columns = height // block, width // block
    result = np.empty((n, channels * rows * columns), np.float32)
    for i in range(0, n, 256):  # the array may be larger than memory
        some = images[i : i + 256][:, :, : rows * block, : columns * block]
        blocks = some.reshape(-1, channels, rows, block, columns, block)
        result[i : i + 256] = blocks.mean(axis=(3, 5), dtype=np.float32).reshape(len(blocks), -1)
    return result


def _forest(target: Target) -> Any:
    options = {"n_estimators": 200, "min_samples_leaf": 2, "random_state": 0}
    if target.kind == "regression":
        return RandomForestRegressor(**options)
    if target.kind == "multilabel":
        return OneVsRestClassifier(RandomForestClassifier(**options))
    return RandomForestClassifier(**options)


def _graphs(dataset: Dataset, task: Task) -> list[Simple]:
    nodes = dataset.inputs["nodes"]
    if isinstance(nodes, Ragged):
        return [("graph statistics + forest", lambda: _counts(dataset), _forest)]
    assert isinstance(nodes, Whole)
    x, rows = np.asarray(nodes.values), np.asarray(dataset.inputs["node"])
    name = "features only + " + ("logistic" if _classifies(task) else "ridge")
    return [(name, lambda: x[rows], _linear(StandardScaler(with_mean=False)))]


def _counts(dataset: Dataset, degrees: int = 8) -> Any:
    """Statistics of each graph: nodes, edges, the histogram of the nodes' degrees, sums and
    means of the features of nodes and edges."""
    nodes, edges = dataset.inputs["nodes"], dataset.inputs["edges"]
    assert isinstance(nodes, Ragged)
    assert isinstance(edges, Ragged)
    first = np.repeat(nodes.offsets[:-1], edges.lengths)
    degree = np.bincount(edges.values[:, 1] + first, minlength=len(nodes.values))
    histogram = np.eye(degrees + 1)[np.minimum(degree, degrees)]
    parts = [nodes.lengths[:, None], edges.lengths[:, None]]
    described = [(nodes, histogram), (nodes, nodes.values)]
    features = dataset.inputs.get("edge_features")
    if isinstance(features, Ragged):
        described.append((features, features.values))
    for ragged, values in described:
        # A running sum, as a graph may have no edge.
        total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, 0, float)])
        sums = total[ragged.offsets[1:]] - total[ragged.offsets[:-1]]
        parts += [sums, sums / np.maximum(ragged.lengths, 1)[:, None]]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _pointclouds(dataset: Dataset, task: Task) -> list[Simple]:
    return [("shape statistics + forest", lambda: _shapes(dataset), _forest)]


def _shapes(dataset: Dataset, side: int = 6, bins: int = 32, pairs: int = 512) -> Any:
    """Shape statistics of each cloud, with its axes in the units of a network's input: the
    moments of each channel, the histogram of distances between random pairs of points (Osada
    et al. 2002, D2), and how full each of ``side``³ cells of its bounding box is."""
    points, profile = dataset.inputs["points"], dataset.profile
    assert isinstance(points, Ragged)
    x = (points.values - profile.channel_mean) / profile.channel_std
    lengths, first = points.lengths, points.offsets[:-1]
    cloud = np.repeat(np.arange(len(points)), lengths)

    def mean(values: np.ndarray) -> np.ndarray:
        total: np.ndarray = np.add.reduceat(values, first) / lengths[:, None]
        return total

    middle = mean(x)
    centred = x - middle[cloud]
    spread = np.sqrt(mean(centred**2))
    skew = mean(centred**3) / np.maximum(spread, 1e-9) ** 3
    low, high = np.minimum.reduceat(x, first), np.maximum.reduceat(x, first)
    box = np.maximum(high - low, 1e-9)
    cell = ((x - low[cloud]) / box[cloud] * side).astype(int)[:, :3].clip(0, side - 1)
    number = (cloud * side + cell[:, 0]) * side**2 + cell[:, 1] * side + cell[:, 2]
    full = np.bincount(number, minlength=len(points) * side**3).reshape(len(points), -1)
    rng = np.random.default_rng(0)
    one, other = (rng.integers(0, lengths[:, None], (len(points), pairs)) for _ in range(2))
    place = x[:, :3]
    distance = np.linalg.norm(place[first[:, None] + one] - place[first[:, None] + other], axis=2)
    reach = np.linalg.norm(box[:, :3], axis=1)
    bin_ = np.minimum(distance / reach[:, None] * bins, bins - 1).astype(int)
    number = np.arange(len(points))[:, None] * bins + bin_
    apart = np.bincount(number.ravel(), minlength=len(points) * bins).reshape(len(points), bins)
    parts = [middle, spread, skew, box, lengths[:, None], full / lengths[:, None], apart / pairs]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _series(dataset: Dataset, task: Task) -> list[Simple]:
    series, train = dataset.inputs["series"], dataset.parts["train"]
    assert isinstance(series, Ragged)
    if task.is_forecast:
        return _naive(dataset, series)
    rest = "ridge" if not _classifies(task) else "ridge classifier"
    return [
        (f"random kernels + {rest}", lambda: mini_rocket(series, train), _ridge),
        ("statistics + forest", lambda: statistics(series), _forest),
    ]


def _naive(dataset: Dataset, series: Ragged) -> list[Simple]:
    """The last value, that of a season before (each step's own column of the features), and a
    linear forecast of the window."""
    form, channels = dataset.profile.series, dataset.profile.channels
    assert form is not None
    shift = np.array(dataset.profile.channel_shift or [0.0] * len(channels))
    windows = series.values.reshape(len(series), form.window, -1)[..., : len(channels)] + shift

    def features(season: int) -> Any:
        return _Columns(
            {
                f"{column}+{step + 1}": windows[:, form.window - season + step % season, i]
                for column, i in ((name, channels.index(name)) for name in form.naive_errors)
                for step in range(form.horizon)
            }
        )

    simple: list[Simple] = [("last value", partial(features, 1), _Naive)]
    if form.season > 1:
        simple.append(("seasonal naive", partial(features, form.season), _Naive))
    flat = series.values.reshape(len(series), -1)
    return [*simple, ("ridge of the window", lambda: flat, _ridge)]


class _Columns:
    """Columns by name, of which rows are taken together."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns = columns

    def __getitem__(self, rows: Any) -> _Columns:
        return _Columns({name: column[rows] for name, column in self.columns.items()})


class _Naive:
    """Predicts what the column of its target holds."""

    def __init__(self, target: Target) -> None:
        self.name = target.name

    def fit(self, x: _Columns, y: Any) -> None:
        pass

    def predict(self, x: _Columns) -> Any:
        return x.columns[self.name]


def _ridge(target: Target) -> Any:
    """Ridge regression whose strength is that of the least leave-one-out error (Dempster et al.
    2020, sec. 3.2)."""
    strengths = np.logspace(-3, 3, 10)
    if target.kind == "regression":
        return make_pipeline(StandardScaler(), RidgeCV(strengths))
    model: Any = make_pipeline(StandardScaler(), _RidgeClassifier(strengths))
    return OneVsRestClassifier(model) if target.kind == "multilabel" else model


def _audio(dataset: Dataset, task: Task) -> list[Simple]:
    def make(target: Target) -> Any:
        if target.kind == "regression":
            scaled = TransformedTargetRegressor(SVR(C=10.0), transformer=StandardScaler())
            return make_pipeline(StandardScaler(), scaled)
        model: Any = make_pipeline(StandardScaler(), _SVC(C=10.0))
        return OneVsRestClassifier(model) if target.kind == "multilabel" else model

    name = "MFCC statistics + " + ("SVC" if _classifies(task) else "SVR")
    return [(name, lambda: _mfcc(dataset), make)]


class _Decides:
    """Probabilities that are the softmax of the decision function: they rank as it decides, which
    those of Platt's sigmoids do not."""

    decision_function: Callable[[Any], Any]

    def predict_proba(self, x: Any) -> Any:
        decision = self.decision_function(x)
        if decision.ndim == 1:
            decision = np.stack([-decision, decision], axis=1)
        return softmax(decision, axis=1)


class _SVC(_Decides, SVC):  # type: ignore[misc]  # scikit-learn has no types
    pass


class _RidgeClassifier(_Decides, RidgeClassifierCV):  # type: ignore[misc]
    pass


def _mfcc(dataset: Dataset) -> Any:
    """20 mel-frequency cepstral coefficients (Davis & Mermelstein 1980) of every sample: mean
    and deviation over time, of their differences too, and the means of five equal stretches."""
    waves, rate = dataset.inputs["wave"], dataset.profile.sample_rate
    assert isinstance(waves, Ragged)
    window, hop = max(16, rate // 40), max(1, rate // 100)
    size = 1 << (window - 1).bit_length()
    hann = np.hanning(window + 1)[:-1]
    filters = mel_filters(rate, size, 40).numpy().T
    rows = []
    for i in range(len(waves)):
        wave = np.pad(waves[i] / 32768, (window // 2, window))
        frames = np.lib.stride_tricks.sliding_window_view(wave, window)[::hop] * hann
        power = np.abs(np.fft.rfft(frames, size)) ** 2 @ filters
        cepstrum = dct(np.log10(power + 1e-10), norm="ortho")[:, :20]
        least = max(len(cepstrum), 5)  # a very short sound stands still
        cepstrum = cepstrum[np.arange(least) * len(cepstrum) // least]
        change = np.diff(cepstrum, axis=0)
        parts = [x for c in (cepstrum, change) for x in (c.mean(axis=0), c.std(axis=0))]
        parts += [stretch.mean(axis=0) for stretch in np.array_split(cepstrum, 5)]
        rows.append(np.concatenate(parts))
    return np.stack(rows).astype(np.float32)


def _text(dataset: Dataset, task: Task) -> list[Simple]:
    """Words and pairs of them, as the numbers that their tokens have."""
    tokens = dataset.inputs["tokens"]
    assert isinstance(tokens, Ragged)

    def texts() -> Any:
        samples = (tokens[i].tolist() for i in range(len(tokens)))
        return np.array([" ".join(map(str, ids)) for ids in samples], dtype=object)

    weights = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2))
    return [("TF-IDF + " + ("logistic" if _classifies(task) else "ridge"), texts, _linear(weights))]


def _multimodal(dataset: Dataset, task: Task) -> list[Simple]:
    """The simple models of each member alone, and a linear one of all members' features side
    by side, each prepared as for the member's first model."""
    singles: list[Simple] = []
    found: list[Simple] = []
    for member, about in dataset.profile.members.items():
        own = {
            name.rpartition(".")[2]: value
            for name, value in dataset.inputs.items()
            if name.rpartition(".")[0] == member
        }
        del own["present"]
        part = replace(dataset, modality=about.modality, inputs=own, profile=about.profile)
        single = replace(task, modality=about.modality, profile=about.profile)
        simple = _SIMPLE[about.modality](part, single)
        singles += [(f"{member}: {name}", features, make) for name, features, make in simple]
        found.append(simple[0])
    if len(found) == 1:
        return singles

    def joined(target: Target) -> Any:
        models = [make(target) for _, _, make in found]
        prepared = [m[:-1] if isinstance(m, Pipeline) else StandardScaler() for m in models]
        return _linear(_Joined(prepared))(target)

    name = "all features + " + ("logistic" if _classifies(task) else "ridge")
    return [*singles, (name, lambda: _SideBySide([make() for _, make, _ in found]), joined)]


class _SideBySide:
    """Several matrices over the same samples, of which rows are taken together."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: Any) -> _SideBySide:
        return _SideBySide([part[rows] for part in self.parts])


class _Joined(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Each part of a ``_SideBySide`` through a transformer of its own, then one matrix."""

    def __init__(self, transformers: list[Any]) -> None:
        self.transformers = transformers

    def fit(self, x: _SideBySide, y: Any = None) -> _Joined:
        for transformer, part in zip(self.transformers, x.parts, strict=True):
            transformer.fit(part, y)
        return self

    def transform(self, x: _SideBySide) -> Any:
        pairs = zip(self.transformers, x.parts, strict=True)
        return hstack([csr_matrix(transformer.transform(part)) for transformer, part in pairs])


def _predict(model: Any, target: Target, x: Any) -> Any:
    if target.kind == "regression":
        return model.predict(x)
    probability = model.predict_proba(x)
    if target.kind == "multilabel":
        return probability
    # A capped training part may lack a rare class: put its column back as zeros.
    full = np.zeros((len(x), len(target.classes)))
    full[:, model.classes_] = probability
    return full


_SIMPLE: dict[str, Callable[[Dataset, Task], list[Simple]]] = {
    "tabular": _tabular,
    "images": _images,
    "text": _text,
    "series": _series,
    "audio": _audio,
    "graphs": _graphs,
    "pointclouds": _pointclouds,
    "multimodal": _multimodal,
}
