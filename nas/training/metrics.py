"""Quality of predictions, the same for networks and for the simple baselines.

Predictions are probabilities of shape (n, classes) for classes, (n, labels) for a
multilabel target, and values in the user's units of shape (n,) for regression.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from nas.task import Target, Task

Array = NDArray[Any]

SLOW = frozenset({"auc", "f1"})  # metrics that take long of many classes and samples


def score_target(
    target: Target, truth: Array, predicted: Array, slow: Collection[str] = SLOW
) -> dict[str, float]:
    """Metrics of one target, of those that are ``SLOW`` the ones in ``slow``. R² is left out of
    fewer than two samples. AUC is the mean over the classes or labels of which ``truth`` holds some
    samples and not all, and left out where there is none."""
    if target.kind == "regression":
        result = {
            "rmse": float(sk.root_mean_squared_error(truth, predicted)),
            "mae": float(sk.mean_absolute_error(truth, predicted)),
        }
        return result | ({"r2": float(sk.r2_score(truth, predicted))} if len(truth) > 1 else {})
    probability = np.asarray(predicted, dtype=np.float64)
    if target.kind == "multilabel":
        chosen = probability >= 0.5
        result = {"accuracy": float(np.mean(chosen == (truth > 0)))}
        if "f1" in slow:
            f1 = sk.f1_score(truth > 0, chosen, average="macro", zero_division=0.0)
            result["f1"] = float(f1)
        return result | (_auc(truth > 0, probability) if "auc" in slow else {})
    choice = probability.argmax(axis=1)
    of_class = np.bincount(truth)
    right = np.bincount(truth[choice == truth], minlength=len(of_class))
    present = of_class > 0
    result = {
        "accuracy": float(np.mean(choice == truth)),
        # The mean recall over the classes that occur (Brodersen et al. 2010).
        "balanced_accuracy": float(np.mean(right[present] / of_class[present])),
    }
    if "f1" in slow:
        how = {"pos_label": 1} if target.kind == "binary" else {"average": "macro"}
        result["f1"] = float(sk.f1_score(truth, choice, zero_division=0.0, **how))
    if "auc" not in slow:
        return result
    classes = np.arange(len(target.classes))
    if target.kind == "multiclass":
        probability = probability / probability.sum(axis=1, keepdims=True)
    else:
        classes, probability = classes[1:], probability[:, 1:]
    return result | _auc(truth[:, None] == classes, probability)


def _auc(positive: Array, probability: Array) -> dict[str, float]:
    """The mean AUC over the questions (n, k) that have both answers in ``positive``."""
    asked = positive.any(axis=0) & ~positive.all(axis=0)
    if not asked.any():
        return {}
    # Both answers are two samples at least: one question becomes (n,), as scikit-learn takes it.
    positive, probability = (np.squeeze(each[:, asked]) for each in (positive, probability))
    return {"auc": float(sk.roc_auc_score(positive, probability))}


def score(
    task: Task,
    truth: Mapping[str, Array],
    predicted: Mapping[str, Array],
    only: Collection[str] = (),
) -> dict[str, float]:
    """Metrics of a task. With several targets each is named ``rmse[target]`` and their
    skills (accuracy, F1 or R²) are averaged to ``score``, unless one lacks its own. A forecast is
    scored over all its steps and columns together. Where ``only`` some are asked for, others that
    are ``SLOW`` are left out."""
    if task.is_forecast:
        return score_forecast(task, truth, predicted)
    slow: Collection[str] = SLOW
    if only:  # the score of several targets may hold an F1
        slow = {"f1" if metric == "score" else metric.split("[")[0] for metric in only}
    each = {t.name: score_target(t, truth[t.name], predicted[t.name], slow) for t in task.targets}
    if len(task.targets) == 1:
        return each[task.targets[0].name]
    skill = {"regression": "r2", "multilabel": "f1"}
    skills = [each[t.name].get(skill.get(t.kind, "accuracy"), np.nan) for t in task.targets]
    named = {f"{metric}[{name}]": v for name, m in each.items() for metric, v in m.items()}
    return ({} if np.isnan(skills).any() else {"score": float(np.mean(skills))}) | named


def score_forecast(
    task: Task, truth: Mapping[str, Array], predicted: Mapping[str, Array]
) -> dict[str, float]:
    """MAE, RMSE and MASE over all steps; the scale of MASE is that of training (Hyndman & Koehler
    2006, eq. 2)."""
    form = task.profile.series
    assert form is not None
    errors = {t.name: predicted[t.name] - truth[t.name] for t in task.targets}
    scales = {name: form.naive_errors[name.rpartition("+")[0]] for name in errors}
    return {
        "mase": float(np.mean([np.abs(e).mean() / scales[name] for name, e in errors.items()])),
        "mae": float(np.mean([np.abs(e).mean() for e in errors.values()])),
        "rmse": float(np.sqrt(np.mean([np.square(e).mean() for e in errors.values()]))),
    }


def mean_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each metric over the folds that have it: a fold of one class has no AUC, and
    another may have one."""
    return {
        name: statistics.fmean(float(each[name]) for each in scores if name in each)
        for name in dict.fromkeys(name for each in scores for name in each)
    }
