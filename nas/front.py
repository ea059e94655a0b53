"""Pareto dominance, fronts and hypervolume, in numpy alone.

All functions take costs of shape (points, objectives), where smaller is better;
``to_costs`` turns candidates into such an array.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas import rules
from nas.candidate import Candidate, State
from nas.task import COSTS, Constraint, Objective, Target, Task

Floats = NDArray[np.float64]

# Measured beside other trainings, a latency may be so many times that on the isolated device.
CONTENTION = 1.5

# A network must beat a constant prediction by so many standard errors of its score: the best of
# a hundred networks that have learnt nothing rarely does.
CLEAR = 3.0


def to_costs(candidates: Sequence[Candidate], objectives: Sequence[Objective]) -> Floats:
    """Metrics as an array in which smaller is better."""
    signs = [-o.sign for o in objectives]
    rows = [
        [s * c.metrics[o.metric] for s, o in zip(signs, objectives, strict=True)]
        for c in candidates
    ]
    return np.asarray(rows, dtype=float).reshape(len(rows), len(signs))


def _as_costs(costs: ArrayLike) -> Floats:
    points = np.asarray(costs, dtype=float)
    if points.shape == (0,):  # an empty list has no second axis
        points = points.reshape(0, 0)
    if points.ndim != 2:
        raise ValueError(f"costs must have shape (points, objectives), but got {points.shape}")
    if np.isnan(points).any():
        raise ValueError("a cost is NaN; leave failed candidates out of the front")
    return points


def is_efficient(costs: ArrayLike) -> NDArray[np.bool_]:
    """Which points no other point dominates. Equal points are all kept.

    Dominated: another point is nowhere worse and somewhere better. In lexicographic
    order no point dominates an earlier one, so the first that is left is always on the
    front and sweeps away what it dominates: O(points × front) (Kung et al. 1975).

    >>> is_efficient([[1, 5], [2, 3], [2, 4], [4, 1]]).tolist()
    [True, True, False, True]
    """
    points = _as_costs(costs)
    if not len(points):
        return np.zeros(0, dtype=bool)
    order = np.lexsort(points.T[::-1])
    ordered = points[order]
    distinct = np.append(True, np.any(ordered[1:] != ordered[:-1], axis=1))
    efficient = np.zeros(np.count_nonzero(distinct), dtype=bool)
    left = np.arange(len(efficient))
    # The first objective is sorted; a later point survives by being better in another.
    columns = np.ascontiguousarray(ordered[distinct, 1:].T)
    while left.size:
        efficient[left[0]] = True
        better = np.zeros(left.size, dtype=bool)
        for column in columns:
            better |= column < column[0]
        left, columns = left[better], columns[:, better]
    result = np.empty(len(points), dtype=bool)
    result[order] = efficient[np.cumsum(distinct) - 1]
    return result


def front_ranks(costs: ArrayLike) -> NDArray[np.intp]:
    """Rank 0 is the front, rank 1 the front of what remains, and so on (NSGA-II, sec. III-A).

    >>> front_ranks([[1, 5], [2, 3], [2, 4], [4, 1], [5, 5]]).tolist()
    [0, 0, 1, 0, 2]
    """
    points = _as_costs(costs)
    ranks = np.full(len(points), -1, dtype=np.intp)
    rank = 0
    while (left := np.flatnonzero(ranks < 0)).size:
        ranks[left[is_efficient(points[left])]] = rank
        rank += 1
    return ranks


def farthest_first(costs: ArrayLike) -> NDArray[np.intp]:
    """An order in which every prefix is spread widely: best of the first objective, then
    each time the point farthest from those before it (Gonzalez 1985), on normalised costs."""
    points = _as_costs(costs)
    if not len(points):
        return np.empty(0, dtype=np.intp)
    span = np.ptp(points, axis=0)
    points = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    order = [int(np.lexsort(points.T[::-1])[0])]
    distance = np.linalg.norm(points - points[order[0]], axis=1)
    distance[order[0]] = -1.0
    while len(order) < len(points):
        order.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[order[-1]], axis=1))
        distance[order] = -1.0
    return np.asarray(order, dtype=np.intp)


def hypervolume(costs: ArrayLike, reference: ArrayLike) -> float:
    """Volume that the points dominate inside the box below ``reference``.

    Exact for any number of objectives, by slicing along the last one (HSO, While et al.
    2006); two objectives are a sorted sweep. Points that are not strictly below the
    reference in every objective add nothing. Raises ValueError where the reference has another
    number of objectives, or a cost is NaN.

    >>> hypervolume([[1, 3], [2, 1]], [4, 4])
    7.0
    """
    points, ref = _as_costs(costs), np.asarray(reference, dtype=float)
    if not len(points):
        return 0.0
    if ref.shape != points.shape[1:]:
        raise ValueError(
            f"the reference must have one value for each of the {points.shape[1]} objectives,"
            f" but got shape {ref.shape}"
        )
    return _volume(points[np.all(points < ref, axis=1)], ref)


def _volume(points: Floats, ref: Floats) -> float:
    if not len(points):
        return 0.0
    if len(ref) == 1:
        return float(ref[0] - points.min())
    if len(ref) == 2:
        points = points[np.argsort(points[:, 0])]
        heights = np.minimum.accumulate(np.append(ref[1], points[:, 1]))
        return float(np.sum((ref[0] - points[:, 0]) * (heights[:-1] - heights[1:])))
    points = points[is_efficient(points)]
    points = points[np.argsort(points[:, -1])]
    edges = np.append(points[:, -1], ref[-1])
    return float(
        sum(
            (edges[i + 1] - edges[i]) * _volume(points[: i + 1, :-1], ref[:-1])
            for i in range(len(points))
            if edges[i + 1] > edges[i]
        )
    )


def pareto(
    candidates: Sequence[Candidate],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
    guess: Mapping[str, float] | None = None,
) -> list[Candidate]:
    """The non-dominated candidates that are complete and meet the constraints, the best in the
    first objective first.

    ``guess`` holds the scores of a constant prediction (``constant_guess``): it costs nothing, so
    what does not beat it is dominated. Where nothing beats it, all feasible candidates compete.
    """
    feasible = [c for c in candidates if c.feasible(tuple(constraints))]
    feasible = [c for c in feasible if beats(c.metrics, objectives, guess or {})] or feasible
    if not feasible:
        return []
    costs = to_costs(feasible, objectives)
    keep = np.flatnonzero(is_efficient(costs))
    return [feasible[i] for i in keep[np.lexsort(costs[keep].T[::-1])]]


def at_best(candidate: Candidate) -> Candidate:
    """``candidate`` with the lowest latency that it may have on the isolated device."""
    latency = candidate.cost.latency
    if "latency_ms" not in candidate.metrics or (latency is not None and latency.isolated):
        return candidate
    lowest = candidate.metrics["latency_ms"] / CONTENTION
    return replace(candidate, metrics=candidate.metrics | {"latency_ms": lowest})


@dataclass(frozen=True)
class Point:
    """A candidate with what decides whether it is on a front: its ``costs`` and the ``lowest`` that
    they may be (``at_best``), whether it is ``feasible`` with either, and whether it ``beats`` a
    constant guess. ``quality`` is smaller where it is better."""

    candidate: Candidate
    costs: tuple[float, ...]
    lowest: tuple[float, ...]
    feasible: tuple[bool, bool]
    beats: bool
    quality: float

    @classmethod
    def of(cls, candidate: Candidate, task: Task, guess: Mapping[str, float]) -> Point:
        """Of a complete candidate; ``guess`` as for ``pareto``."""
        both = candidate, at_best(candidate)
        now, lowest = (tuple(row) for row in to_costs(both, task.objectives).tolist())
        return cls(
            candidate,
            now,
            lowest,
            (both[0].feasible(task.constraints), both[1].feasible(task.constraints)),
            beats(candidate.metrics, task.objectives, guess),
            float(to_costs([candidate], [task.quality])[0, 0]),
        )


def near_front(points: Sequence[Point]) -> list[Point]:
    """The front (``pareto``), and then the points that would be on it with the lowest latency that
    they may have; of either the best quality first, and of equals the earliest. As long as no point
    is certain to be inside the limits, all that may be are kept.

    What is left out once never returns: points may be given a few at a time, with those that were
    found before.
    """
    points = [point for point in points if point.feasible[1]]
    if not points:
        return []
    costs, lowest = (np.array([getattr(p, of) for p in points]) for of in ("costs", "lowest"))
    beating = np.array([point.beats for point in points])
    competing = np.array([point.feasible[0] for point in points])
    if not competing.any():  # nothing is certain to be inside the limits, so nothing is left out
        front, near = np.flatnonzero(is_efficient(lowest)), np.ones_like(beating)
    else:
        eligible = np.ones_like(beating)
        if (competing & beating).any():
            competing, eligible = competing & beating, beating
        front = np.flatnonzero(competing)[is_efficient(costs[competing])]
        others = lowest[:, None]
        worse = np.all(costs[front] <= others, axis=2) & np.any(costs[front] < others, axis=2)
        near = eligible & ~np.any(worse, axis=1)
    off = np.ones_like(beating)
    off[front] = False
    numbers, qualities = zip(*((p.candidate.number, p.quality) for p in points), strict=True)
    order = np.lexsort((numbers, qualities, off))
    return [points[i] for i in order if near[i]]


# -- noise -------------------------------------------------------------------------------


def standard_error(task: Task, metric: str, value: float, samples: int | None = None) -> float:
    """The standard error of a quality that is measured by so many ``samples``; by default by those
    that score a proxy.

    Of a fraction p the binomial √(p (1 - p) / n), also for F1 and AUC; of an RMSE, an MAE, a MASE
    or a loss value/√n: Gaussian errors have 1/√(2n) of it, heavier tails more; of R² and the score
    of several targets 2 (1 - value)/√n, as R² is 1 - MSE/variance.
    """
    samples = max(1, rules.scored_samples(task) if samples is None else samples)
    kind = metric.split("[")[0]
    if kind in ("rmse", "mae", "mase", "val_loss"):
        return abs(value) / math.sqrt(samples)
    if kind in ("r2", "score"):
        return 2 * max(0.0, 1 - value) / math.sqrt(samples)
    return math.sqrt(max(value * (1 - value), 0.0) / samples)


def best_at_equal_time(
    one: Sequence[Candidate], other: Sequence[Candidate], quality: Objective
) -> tuple[Candidate, Candidate, float] | None:
    """The best complete candidate of each group, of those that had ended when the group had used
    the seconds of workers that both have, and these seconds; None where a group has none."""
    seconds = min(sum(c.seconds for c in group) for group in (one, other))
    found = []
    for group in (one, other):
        begun = sorted(group, key=lambda c: (c.started, c.number))
        spent = accumulate(c.seconds for c in begun)
        within = [c for c, at in zip(begun, spent, strict=True) if at <= seconds * (1 + 1e-9)]
        found.append(by_quality([c for c in within if c.state == State.COMPLETE], quality))
    if not all(found):
        return None
    return found[0][0], found[1][0], seconds


def within_noise(front: Sequence[Candidate], task: Task) -> dict[int, int]:
    """The points of a front that another one equals within noise in all objectives and clearly
    beats in one: their numbers, and the other's.

    Noise is one standard error of a quality, the spread of a latency (half its interquartile range)
    and nothing of a count. The points that are left are clearly different from each other, but
    for the best in quality, which always stays.
    """
    noise = [[_noise(c, o, task) for o in task.objectives] for c in front]
    costs, left = to_costs(front, task.objectives), list(range(len(front)))
    found: dict[int, int] = {}
    kept = best(front, task.quality) if front else None
    for i, candidate in enumerate(front):
        if candidate is kept:
            continue
        for j in left:
            gain = costs[i] - costs[j]  # of j over i
            unsure = np.maximum(noise[i], noise[j])
            if i != j and np.any(gain > unsure) and not np.any(-gain > unsure):
                found[candidate.number] = front[j].number
                left.remove(i)
                break
    return found


def _noise(candidate: Candidate, objective: Objective, task: Task) -> float:
    if objective.metric == "latency_ms":
        latency = candidate.cost.latency
        return latency.iqr_ms / 2 if latency else 0.0
    if objective.metric in COSTS:
        return 0.0
    return standard_error(task, objective.metric, candidate.metrics[objective.metric])


# -- the constant guess ------------------------------------------------------------------


def by_quality(candidates: Sequence[Candidate], quality: Objective) -> list[Candidate]:
    """The candidates sorted by ``quality``, the best first; equal ones keep their order."""
    return sorted(candidates, key=lambda c: -quality.sign * c.metrics[quality.metric])


def best(candidates: Sequence[Candidate], quality: Objective) -> Candidate:
    """The first of the candidates with the best ``quality``. There must be one."""
    return by_quality(candidates, quality)[0]


def constant_guess(task: Task, *, first_fold: bool = False) -> dict[str, float]:
    """By metric, the score that a network must exceed to be clearly better than a constant
    prediction: the expected score of that (``expected_guess``) and ``CLEAR`` standard errors.

    The errors are those of the samples that score a proxy; with ``first_fold`` of the first fold
    alone, where there are several (rule "cross-validation").
    """
    scores = _scores_of_a_guess(task, rules.scored_samples(task, first_fold=first_fold))
    return {metric: value + CLEAR * error for metric, (value, error) in scores.items()}


def expected_guess(task: Task) -> dict[str, float]:
    """By metric, the expected score of a prediction that ignores its input: always the most
    frequent class, for F1 always yes, in a regression the mean.

    Losses are left out, as they depend on how a network is trained.
    """
    return {metric: value for metric, (value, _) in _scores_of_a_guess(task, 1).items()}


def _scores_of_a_guess(task: Task, samples: int) -> dict[str, tuple[float, float]]:
    """Expected score and standard error over ``samples`` by metric."""
    several = len(task.targets) > 1
    scores = {
        f"{metric}[{target.name}]" if several else metric: score
        for target in task.targets
        for metric, score in _guessed(target, task.profile.n_train, max(samples, 1)).items()
    }
    skill = {"regression": "r2", "multilabel": "f1"}
    skills = [f"{skill.get(t.kind, 'accuracy')}[{t.name}]" for t in task.targets]
    if several and scores.keys() >= set(skills):
        # As if chance favoured it on all targets at once.
        values, errors = zip(*map(scores.__getitem__, skills), strict=True)
        scores["score"] = (fmean(values), fmean(errors))
    return scores


def _guessed(target: Target, train: int, samples: int) -> dict[str, tuple[float, float]]:
    """Expected score and standard error by metric, from the class frequencies in training."""
    if target.kind == "regression":
        # A correlation by chance of three standard errors, 1/√n each, explains its square.
        return {"r2": (0.0, CLEAR / samples)}
    if not any(target.counts):
        return {}

    def error(fraction: float) -> float:
        return math.sqrt(fraction * (1 - fraction) / samples)

    if target.kind == "multilabel":
        frequencies = [n / train for n in target.counts]
        return {
            "accuracy": (fmean(max(s, 1 - s) for s in frequencies), fmean(map(error, frequencies))),
            "f1": (
                fmean(map(_always_yes, frequencies)),
                fmean(2 * error(s) / (1 + s) ** 2 for s in frequencies),
            ),
        }
    total = sum(target.counts)
    fractions = [n / total for n in target.counts if n]
    classes, most = len(fractions), max(fractions)
    # A mean over several classes has one term that is not zero.
    yes, terms = (target.counts[1] / total, 1) if target.kind == "binary" else (most, classes)
    each = [max(1.0, fraction * samples) for fraction in fractions]
    # Recalls of a guess among all classes; and a rank sum (Mann & Whitney 1947) of one class
    # against the others.
    recalls = [(1 - 1 / classes) / classes / n for n in each]
    ranks = [math.sqrt((samples + 1) / 12 / n / max(1.0, samples - n)) for n in each]
    return {
        "accuracy": (most, error(most)),
        "balanced_accuracy": (1 / classes, math.sqrt(sum(recalls)) / classes),
        "f1": (_always_yes(yes) / terms, 2 * error(yes) / (1 + yes) ** 2 / terms),
        "auc": (0.5, fmean(ranks)),
    }


def _always_yes(fraction: float) -> float:
    """F1 of always yes, where the given fraction of the answers is yes."""
    return 2 * fraction / (1 + fraction)


def beats(
    metrics: Mapping[str, float], objectives: Sequence[Objective], guess: Mapping[str, float]
) -> bool:
    """Whether any quality among the objectives exceeds that of ``guess``; True where no score of a
    guess is known. RMSE and MAE are compared by R², which has no unit."""
    judged = (re.sub(r"^(rmse|mae)\b", "r2", o.metric) for o in objectives)
    known = [metric for metric in judged if metric in guess]
    return not known or any(metrics.get(m, math.inf) > guess[m] for m in known)
