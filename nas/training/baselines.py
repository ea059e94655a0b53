"""Simple scikit-learn models on the same split: what a network has to beat."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from nas.data import Dataset
from nas.task import Target, Task
from nas.training.metrics import score

MAX_SAMPLES = 20_000  # of the training part: a baseline must not eat the search's time


def baselines(dataset: Dataset, task: Task) -> list[dict[str, Any]]:
    """Fit each simple model on the training part and score it on the validation part.

    Returns one ``{"name", "metrics", "seconds", "samples"}`` for each.
    """
    train = dataset.parts["train"]
    if len(train) > MAX_SAMPLES:
        train = np.sort(np.random.default_rng(task.seed).permutation(train)[:MAX_SAMPLES])
    val = dataset.parts["val"]
    x, linear, boosted = _features(dataset)
    results = []
    for name, factory in _models(task, linear, boosted):
        begin = time.perf_counter()
        truth, predicted = {}, {}
        for target in task.targets:
            label = np.asarray(dataset.labels[target.name])
            model = factory(target)
            model.fit(x[train], label[train])
            truth[target.name] = label[val]
            predicted[target.name] = _predict(model, target, x[val])
        results.append(
            {
                "name": name,
                "metrics": score(task, truth, predicted),
                "seconds": time.perf_counter() - begin,
                "samples": len(train),
            }
        )
    return results


def _features(dataset: Dataset) -> tuple[Any, Any, Any]:
    """The samples as one matrix, and how a linear and a boosted model take it."""
    if "image" in dataset.inputs:
        image = dataset.inputs["image"]
        flat = np.asarray(image).reshape(len(image), -1)
        return flat, make_pipeline(StandardScaler(), PCA(0.9, random_state=0, svd_solver="full")), 0
    numeric = dataset.inputs.get("numeric")
    categorical = dataset.inputs.get("categorical")
    parts = [np.asarray(p) for p in (numeric, categorical) if p is not None]
    x = np.concatenate([p.astype(np.float32) for p in parts], axis=1)
    n = 0 if numeric is None else numeric.shape[1]
    columns = list(range(x.shape[1]))
    linear = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), columns[:n]),
        (OneHotEncoder(handle_unknown="ignore"), columns[n:]),
    )
    return x, linear, columns[n:]


def _models(task: Task, prepare: Any, categorical: Any) -> list[tuple[str, Any]]:
    classes = any(t.kind != "regression" for t in task.targets)

    def linear(target: Target) -> Pipeline:
        if target.kind == "regression":
            return make_pipeline(prepare, Ridge())
        model: Any = LogisticRegression(max_iter=1000)
        if target.kind == "multilabel":
            model = OneVsRestClassifier(model)
        return make_pipeline(prepare, model)

    def boosted(target: Target) -> Any:
        # scikit-learn takes at most 255 categories a column; wider ones count as numbers.
        options = {"categorical_features": categorical, "random_state": 0}
        if target.kind == "regression":
            return HistGradientBoostingRegressor(**options)
        model: Any = HistGradientBoostingClassifier(**options)
        return OneVsRestClassifier(model) if target.kind == "multilabel" else model

    if task.modality == "images":
        return [("PCA + " + ("logistic" if classes else "ridge"), linear)]
    name = "logistic regression" if classes else "ridge regression"
    return [(name, linear), ("HistGradientBoosting", boosted)]


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
