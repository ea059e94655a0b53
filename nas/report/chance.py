"""What random sampling would have reached, beside which a search shows what it has learnt.

The candidates of a search are no random ones, so no order of theirs is a random search: those that
a model has chosen late are better than what chance finds. In their place configurations are drawn
from the same spaces, family by family in turn as the random sampler draws them, and a forest that
was fitted to the candidates predicts what each would have scored and cost. A prediction gets the
error of one for a candidate that the forest had not seen, without which the best of many draws
would be too good or too even.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.candidate import Candidate, State
from nas.front import Floats, expected_guess, hypervolume, is_efficient
from nas.report.importance import LEAST, columns
from nas.space import Config, Space
from nas.task import COSTS, Objective, Task

_MOST, _FOLDS, _TREES = 1000, 5, 40
# Forests, random searches that are played with them, candidates of each, and moments at which
# fronts are measured.
_FORESTS, _SEARCHES, _LONGEST, _MOMENTS = 8, 32, 1000, 25
# Between these quantiles of the played searches a band is drawn.
_BAND = 0.1, 0.9
# A positive cost that spans more than this factor counts by its logarithm.
_WIDE = 20


def chance(
    candidates: Sequence[Candidate], task: Task, spaces: Mapping[str, Space]
) -> dict[str, Any]:
    """The hypervolume of random sampling by number of candidates.

    Args:
        candidates: Of a study; those that are complete are learnt from.
        task: Its task.
        spaces: Its spaces, by family.

    Returns:
        ``box``: for each objective the metric, whether it counts by its logarithm, and the best and
        worst value (``low``, ``high``), both as costs; ``at``: numbers of candidates; ``mean``,
        ``low`` and ``high``: the hypervolume, as a fraction of the box, of the mean search and of
        a good and a bad one; ``r2``: of the quality of candidates that the forest had not seen;
        ``candidates``: how many it was fitted to. Empty where fewer than ``LEAST`` are complete.
    """
    objectives = sorted(task.objectives, key=lambda o: o != task.quality)
    needed = [o.metric for o in objectives]
    needed += [c.metric for c in task.constraints if c.metric not in needed]
    done = [
        c
        for c in candidates
        if c.state == State.COMPLETE
        and c.family in spaces
        and all(np.isfinite(c.metrics.get(name, np.nan)) for name in needed)
    ]
    if len(done) < LEAST:
        return {}
    box = [_side(o, done, task) for o in objectives]
    done = done[-_MOST:]
    rng = np.random.default_rng(0)
    count = min(_LONGEST, sum(c.state != State.RUNNING for c in candidates))
    families = sorted({c.family for c in done})
    pool = [
        (name, spaces[name].sample(rng))
        for _ in range(3 * count // len(families) + 1)
        for name in families
    ]
    targets = np.array([[_scaled(c.metrics[name], name) for name in needed] for c in done])
    middle, spread = targets.mean(axis=0), targets.std(axis=0)
    spread[spread == 0] = 1.0  # a forest splits by the variance of all targets together
    targets = (targets - middle) / spread
    x = _matrix([(c.family, c.config) for c in done] + pool)
    known, new = x[: len(done)], x[len(done) :]
    errors, r2 = _errors(known, targets)
    failing = _failing(candidates)
    works = 1.0 - np.array([failing.get(name, 0.0) for name, _ in pool])
    at = np.unique(np.geomspace(1, count, _MOMENTS).round().astype(int))
    played: list[list[float]] = []
    for _ in range(_FORESTS):
        chosen = rng.integers(len(done), size=len(done))  # how sure the forest is shows in the band
        predicted = _forest(known[chosen], targets[chosen]).predict(new).reshape(len(new), -1)
        for _ in range(_SEARCHES // _FORESTS):
            drawn = predicted + errors[rng.integers(len(errors), size=len(new))]
            drawn = drawn * spread + middle
            values = {name: _unscaled(drawn[:, i], name) for i, name in enumerate(needed)}
            costs = np.column_stack([_in_box(values[side["metric"]], side) for side in box])
            costs[(rng.random(len(new)) >= works) | ~_feasible(values, task)] = 2.0  # outside
            played.append(_play(costs, rng, at, len(families)))
    low, high = np.quantile(played, _BAND, axis=0)
    return {
        "box": box,
        "at": at.tolist(),
        "mean": np.mean(played, axis=0).round(5).tolist(),
        "low": low.round(5).tolist(),
        "high": high.round(5).tolist(),
        "r2": round(r2, 3),
        "candidates": len(done),
    }


def _side(objective: Objective, done: Sequence[Candidate], task: Task) -> dict[str, Any]:
    """One side of the box: from the best of an objective to the worst; of a quality to a constant
    guess."""
    metric, sign = objective.metric, 1.0 if objective.direction == "min" else -1.0
    values = np.array([c.metrics[metric] for c in done])
    is_quality = objective == task.quality
    low, high = float(values.min()), float(values.max())
    log = not is_quality and low > 0 and high > _WIDE * low
    ends = sorted(sign * (float(np.log10(v)) if log else v) for v in (low, high))
    guess = expected_guess(task).get(metric) if is_quality else None
    if guess is not None and sign * guess > ends[0]:
        ends[1] = sign * guess
    return {"metric": metric, "sign": sign, "log": bool(log), "low": ends[0], "high": ends[1]}


def _in_box(values: Floats, side: Mapping[str, Any]) -> Floats:
    scaled = np.log10(np.maximum(values, 1e-300)) if side["log"] else values
    found: Floats = (side["sign"] * scaled - side["low"]) / (side["high"] - side["low"] or 1.0)
    return np.maximum(found, 0.0)  # what nobody has reached, chance does not either


def _scaled(value: float, name: str) -> float:
    return float(np.log(max(value, 1e-12))) if name in COSTS else value


def _unscaled(values: Floats, name: str) -> Floats:
    return np.exp(values) if name in COSTS else values


def _matrix(configs: Sequence[tuple[str, Config]]) -> Floats:
    """Families and parameters as numbers, a row for each configuration."""
    families = sorted({name for name, _ in configs})
    one_hot = np.array([[name == each for each in families] for name, _ in configs], dtype=float)
    _, settings = columns([config for _, config in configs])
    return np.hstack([one_hot, settings])


def _feasible(values: Mapping[str, Floats], task: Task) -> Any:
    """Which of the configurations meet all limits."""
    met = np.ones(len(values[task.quality.metric]), dtype=bool)
    for limit in task.constraints:
        value = values[limit.metric]
        met &= value <= limit.bound if limit.op == "<=" else value >= limit.bound
    return met


def _forest(x: Floats, y: Floats) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(_TREES, min_samples_leaf=2, random_state=0).fit(x, y)


def _errors(x: Floats, targets: Floats) -> tuple[Floats, float]:
    """What a forest gets wrong of candidates that it had not seen, and how much of the variance of
    the first target it explains of those."""
    from sklearn.model_selection import KFold

    errors = np.empty_like(targets)
    for train, rest in KFold(_FOLDS, shuffle=True, random_state=0).split(x):
        found = _forest(x[train], targets[train]).predict(x[rest]).reshape(len(rest), -1)
        errors[rest] = targets[rest] - found
    return errors, 1.0 - float(np.mean(errors[:, 0] ** 2))


def _failing(candidates: Sequence[Candidate]) -> dict[str, float]:
    """The fraction of each family's candidates that failed; of those that were stopped as worse
    than others, or cut off, nothing is known to be wrong."""
    ended: dict[str, list[bool]] = {}
    for c in candidates:
        if c.state == State.COMPLETE or c.reason.kind in ("stopped", "failure", "limit"):
            ended.setdefault(c.family, []).append(c.reason.kind in ("failure", "limit"))
    return {family: float(np.mean(failed)) for family, failed in ended.items()}


def _play(costs: Floats, rng: np.random.Generator, at: Any, turns: int) -> list[float]:
    """The hypervolume of one random search at each of the numbers ``at`` of candidates: the drawn
    ones lie family by family in turn, and each family's are taken in a random order."""
    per_family = len(costs) // turns
    order = np.column_stack([rng.permutation(per_family) * turns + i for i in range(turns)]).ravel()
    front = np.empty((0, costs.shape[1]))
    found, begin = [], 0
    for end in at:
        points = np.vstack([front, costs[order[begin:end]]])
        front = points[is_efficient(points)]
        found.append(hypervolume(front, np.ones(costs.shape[1])))
        begin = end
    return found
