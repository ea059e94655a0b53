"""Simple scikit-learn models on the same split: what a network has to beat."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nas.data import Dataset
from nas.task import Target, Task
from nas.training.batches import proxy_rows
from nas.training.metrics import score

SIDE = 32  # pixels, of the images that a baseline sees


def baselines(dataset: Dataset, task: Task) -> list[dict[str, Any]]:
    """Fit each simple model to the rows that a proxy is trained on, and score it on those
    that a proxy is scored by.

    Returns one ``{"name", "metrics", "seconds", "samples"}`` for each. A model that cannot
    be fitted has no metrics and says why in "error": the search goes on without it.
    """
    train, val = proxy_rows(dataset, task)
    results = []
    for name, features, factory in _SIMPLE[task.modality](dataset, task):
        begin = time.perf_counter()
        result: dict[str, Any] = {"name": name, "metrics": {}, "samples": len(train)}
        try:
            result["metrics"] = _fit(dataset, task, factory, features(), train, val)
        except Exception as error:  # whatever a library may raise: it is told, not hidden
            result["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        results.append(result | {"seconds": time.perf_counter() - begin})
    return results


def _fit(
    dataset: Dataset, task: Task, factory: Any, x: Any, train: Any, val: Any
) -> dict[str, float]:
    truth, predicted = {}, {}
    for target in task.targets:
        label = np.asarray(dataset.labels[target.name])
        model = factory(target)
        with warnings.catch_warnings():
            # What is not converged by then, or has one answer only, is a baseline still.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", message="Label .* is present in all")
            model.fit(x[train], label[train])
        truth[target.name] = label[val]
        predicted[target.name] = _predict(model, target, x[val])
    return score(task, truth, predicted)


# A simple model: its name, its features of all samples (made when it is its turn), and the
# estimator for a target.
Simple = tuple[str, Callable[[], Any], Callable[[Target], Any]]


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
    # By the covariance, the cost grows with the samples no faster than linearly.
    prepare = make_pipeline(StandardScaler(), PCA(0.9, svd_solver="covariance_eigh"))
    name = "PCA + " + ("logistic" if _classifies(task) else "ridge")
    return [(name, lambda: _shrink(dataset.inputs["image"]), _linear(prepare))]


def _shrink(images: Any) -> Any:
    """Images as rows of float32; a side over 32 is averaged over blocks of pixels."""
    n, channels, height, width = images.shape
    block = -(-max(height, width) // SIDE)
    rows, columns = height // block, width // block
    cut = images[:, :, : rows * block, : columns * block]
    result = np.empty((n, channels * rows * columns), np.float32)
    for i in range(0, n, 256):  # the array may be larger than memory as floats
        blocks = cut[i : i + 256].reshape(-1, channels, rows, block, columns, block)
        result[i : i + 256] = blocks.mean(axis=(3, 5), dtype=np.float32).reshape(len(blocks), -1)
    return result


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
}
