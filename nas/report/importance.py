"""Which parameters of a family decide its quality, and how well that is known.

A forest predicts the quality from the configuration; a parameter is as important as the prediction
of unseen candidates gets worse when its column is shuffled (Breiman 2001, sec. 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.candidate import Candidate, State
from nas.space import Config
from nas.task import Task

# Fewer candidates say little of ten parameters.
LEAST = 30
_MOST, _FOLDS, _TREES, _SHUFFLES = 500, 5, 40, 3


def importance(candidates: Sequence[Candidate], task: Task) -> dict[str, dict[str, Any]]:
    """By family of at least ``LEAST`` complete candidates: how many were used, the R² of
    predictions for those held out in five folds, and ``parameters``, pairs of a name and the loss
    of R² without it, the most important first."""
    metric = task.quality.metric
    by_family: dict[str, list[Candidate]] = {}
    for c in candidates:
        if c.state == State.COMPLETE and np.isfinite(c.metrics.get(metric, np.nan)):
            by_family.setdefault(c.family, []).append(c)
    return {
        family: _of_family(own[-_MOST:], metric)
        for family, own in by_family.items()
        if len(own) >= LEAST
    }


def _of_family(candidates: Sequence[Candidate], metric: str) -> dict[str, Any]:
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    names, x = columns([c.config for c in candidates])
    y = np.array([c.metrics[metric] for c in candidates])
    rng = np.random.default_rng(0)
    spread = float(np.var(y)) * len(y) or 1.0
    wrong, wrong_without = 0.0, np.zeros(len(names))
    for train, rest in KFold(_FOLDS, shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=0)
        forest.fit(x[train], y[train])
        wrong += float(np.sum((forest.predict(x[rest]) - y[rest]) ** 2))
        # All shuffled copies in one call, whose overhead is most of its time.
        copies = np.repeat(x[rest][None], len(names) * _SHUFFLES, axis=0)
        for k, copy in enumerate(copies):
            copy[:, k // _SHUFFLES] = rng.permutation(copy[:, k // _SHUFFLES])
        predicted = forest.predict(copies.reshape(-1, len(names))).reshape(len(copies), -1)
        errors = np.sum((predicted - y[rest]) ** 2, axis=1)
        wrong_without += errors.reshape(len(names), _SHUFFLES).mean(axis=1)
    lost = (wrong_without - wrong) / spread
    order = np.argsort(-lost)
    return {
        "candidates": len(candidates),
        "r2": round(1 - wrong / spread, 3),
        "parameters": [[names[i], round(float(lost[i]), 4)] for i in order],
    }


def columns(configs: Sequence[Config]) -> tuple[list[str], Any]:
    """The names of all parameters, and a matrix with a row for each configuration."""
    names = sorted({name for config in configs for name in config})
    return names, np.stack([_column([c.get(name) for c in configs]) for name in names], axis=1)


def _column(values: Sequence[Any]) -> Any:
    """A parameter as numbers: those as they are, words by their order; -1 where there is none."""
    if all(isinstance(v, (int, float)) or v is None for v in values):
        return np.array([-1.0 if v is None else float(v) for v in values])
    words = sorted({str(v) for v in values})
    return np.array([float(words.index(str(v))) for v in values])
