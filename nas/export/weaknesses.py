"""Where a trained network is weak, on the validation part: what it takes for what, how sure it is
and how right, and which classes or values it misses."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from nas.export.trained import Trained
from nas.task import JsonRecord, Target
from nas.training.calibration import examined

BINS = 10  # of confidence
MOST_CLASSES = 20  # of a confusion matrix
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Bin(JsonRecord):
    """Predictions of like confidence: how sure they are on average, and how often right."""

    confidence: float
    accuracy: float
    samples: int


@dataclass(frozen=True)
class ClassScore(JsonRecord):
    """Of the samples of a class the fraction that is found."""

    label: str
    recall: float
    samples: int


@dataclass(frozen=True)
class TargetWeaknesses(JsonRecord):
    """One target. ``confusion`` has a row for each true class; ``residuals`` are quantiles of what
    is predicted less what is true, at ``QUANTILES``; ``interval`` has the level and the half width
    of intervals of numbers, and their test_coverage where it was measured."""

    target: str
    classes: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    calibration: tuple[Bin, ...] = ()
    calibration_error: float | None = None
    worst: tuple[ClassScore, ...] = ()
    residuals: tuple[float, ...] = ()
    interval: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Weaknesses(JsonRecord):
    """Of all targets, on ``samples`` of the validation part."""

    samples: int
    targets: tuple[TargetWeaknesses, ...]


def weaknesses(trained: Trained) -> Weaknesses:
    """Predict the validation part of a trained network and look at its errors."""
    dataset, proxy = trained.dataset, trained.proxy
    found = examined(proxy, dataset, "val")
    targets = []
    for target in proxy.task.targets:
        truth = np.asarray(dataset.labels[target.name])[found.rows]
        own = trained.result.get("intervals", {}).get(target.name, {})
        about = _target(target, found.predicted[target.name], truth)
        targets.append(replace(about, interval=own))
    return Weaknesses(len(found.rows), tuple(targets))


def _target(target: Target, predicted: np.ndarray, truth: np.ndarray) -> TargetWeaknesses:
    if target.kind == "regression":
        errors = np.quantile(predicted - truth, QUANTILES)
        return TargetWeaknesses(target.name, residuals=tuple(float(e) for e in errors))
    if target.kind == "multilabel":
        hits = (predicted >= 0.5) & (truth > 0.5)
        scores = [
            ClassScore(label, float(hits[:, k].sum() / max(1, n)), int(n))
            for k, (label, n) in enumerate(
                zip(target.classes, (truth > 0.5).sum(axis=0), strict=True)
            )
        ]
        sure = np.maximum(predicted, 1 - predicted).ravel()
        right = ((predicted >= 0.5) == (truth > 0.5)).ravel()
        bins, error = calibration(sure, right)
        worst = tuple(sorted(scores, key=lambda s: s.recall)[:5])
        return TargetWeaknesses(
            target.name, target.classes, (), bins, error, tuple(s for s in worst if s.samples)
        )
    chosen = predicted.argmax(axis=1)
    count = len(target.classes)
    table = np.zeros((count, count), int)
    np.add.at(table, (truth, chosen), 1)
    scores = [
        ClassScore(label, float(table[k, k] / total), int(total))
        for k, (label, total) in enumerate(zip(target.classes, table.sum(axis=1), strict=True))
        if total
    ]
    bins, error = calibration(predicted.max(axis=1), chosen == truth)
    shown = count <= MOST_CLASSES
    return TargetWeaknesses(
        target.name,
        target.classes,
        tuple(tuple(int(v) for v in row) for row in table) if shown else (),
        bins,
        error,
        tuple(sorted(scores, key=lambda s: s.recall)[:5]),
    )


def calibration(sure: np.ndarray, right: np.ndarray) -> tuple[tuple[Bin, ...], float]:
    """Bins of equal width of confidence, and the expected calibration error: the mean distance of
    confidence and accuracy over the samples (Guo et al. 2017, "On Calibration of Modern Neural
    Networks", sec. 2).

    >>> calibration(np.array([0.9, 0.9]), np.array([True, False]))[1]
    0.4
    """
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins, error = [], 0.0
    for k in range(BINS):
        own = place == k
        if own.any():
            mean, hits = float(sure[own].mean()), float(right[own].mean())
            bins.append(Bin(mean, hits, int(own.sum())))
            error += float(own.mean()) * abs(mean - hits)
    return tuple(bins), error
