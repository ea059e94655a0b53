"""Known costs first: which network may add most to the hypervolume.

In a search for networks only quality is expensive. Parameters, FLOPs and memory are exact
before any training and latency takes a moment, so the costs of a few hundred configurations
are measured when a search begins, and those of all others are foretold to some per cent. What
is left unknown is the quality of each, and the one is taken whose quality is hoped to add most
to the hypervolume at its costs: the expected hypervolume improvement (Emmerich et al. 2006)
with all objectives but one known, which makes it a sum of exact terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy import special
from scipy.stats import qmc, skew

from nas.candidate import Candidate, Reason, State
from nas.front import Floats, expected_guess, is_efficient
from nas.search.surrogate import Encoding, GaussianProcess
from nas.space import Config, Space, join_family
from nas.task import COSTS, Constraint, Objective, Task

# A configuration of the joined space, and what is known of its costs.
Measured = tuple[Config, dict[str, float]]
_Row = TypeVar("_Row")

# Configurations whose costs are measured when a search begins.
MEASURED = 200
# Configurations whose costs are measured before one of them is asked for, and the share of a
# candidate's time that may take.
LISTED, LISTING = 16, 0.05
# Configurations that are looked at: drawn from the space, near the front, near the best of these.
DRAWN, NEAR, NEARER = 400, 400, 200
# Rows that a model is conditioned on at most, and measured costs beside a share of them; its cost
# grows with their cube.
ROWS, COST_ROWS = 400, 300
# Measured costs that are kept beside the first MEASURED.
LATEST = 400
# Weights are fitted anew when so many times the rows have come in.
REFIT, FIRST_FIT = 1.25, 8
# The noise that is expected, as a share of the signal: of a proxy's quality, and of a cost.
QUALITY_NOISE, COST_NOISE = 0.05, 1e-3
# A failed training says "no better than chance here", less surely than a finished one.
FAILURES = {r for r in Reason if r.kind == "failure"} | {Reason.OOM, Reason.TIMEOUT}
FAILURE_NOISE = 4.0
# The reference lies so much of the range beyond the highest cost, for networks at the upper
# end to count too (Ishibuchi et al. 2018, "How to specify a reference point", sec. IV).
BEYOND = 0.1
# The share of asks that take the hypervolume in the costs' own units, where a network of half
# the largest cost is worth looking for as much as one of a thousandth; the others take it in
# the logarithm where costs lie more evenly there.
PLAIN = 0.5
# Budgets among which a free volume of three costs or more is counted.
BUDGETS = 512


def error(value: float, objective: Objective) -> float:
    """A quality as what it lacks: all that are maximised are at best one."""
    return 1.0 - value if objective.direction == "max" else value


def chance_error(task: Task) -> float:
    """The error of the best guess that looks at no input."""
    metric, _, named = task.quality.metric.rstrip("]").partition("[")
    guess = expected_guess(task)
    if task.quality.metric in guess:
        return error(guess[task.quality.metric], task.quality)
    target = next(t for t in task.targets if not named or t.name == named)
    if metric in ("rmse", "mae"):
        return target.std
    return max(1.0, math.log(max(target.outputs, 2))) if metric == "val_loss" else 1.0


def remembered(measured: Sequence[_Row]) -> list[_Row]:
    """Of all measured costs, in their order, those that are kept: those that were drawn first,
    and the latest, which lie where the search is."""
    return [*measured[:MEASURED], *measured[MEASURED:][-LATEST:]]


class Ehvi:
    """Chooses configurations of ``space`` (a joined one) for ``task``.

    What it says depends on its arguments, and on the weights of its models, which are fitted to
    the rows as they stand when it is time to: a search that is resumed fits its own.
    """

    def __init__(self, space: Space, task: Task) -> None:
        self._space, self._task = space, task
        self._encode = Encoding(space)
        self._fits: dict[tuple[str, int], Floats] = {}

    def propose(
        self,
        rows: Sequence[Candidate],
        measured: Sequence[Measured],
        rng: np.random.Generator,
        awaited: Sequence[Config] = (),
    ) -> Shortlist:
        """Configurations, the most promising first; known ones may be among them.

        ``rows`` are all candidates so far, those in training too; ``measured`` are further
        configurations, of which the costs are known; ``awaited`` are about to be trained.
        """

        def near(parents: Sequence[Config], count: int) -> list[Config]:
            turns = rng.integers(len(parents), size=count)
            changes = rng.integers(1, 4, size=count)
            return [
                self._space.mutate(parents[i], rng, changes=int(n))
                for i, n in zip(turns, changes, strict=True)
            ]

        outlook = self._outlook(rows, measured, plain=bool(rng.random() < PLAIN))
        if coming := [*(_joined(c) for c in rows if c.state == State.RUNNING), *awaited]:
            outlook = outlook.believing(self._encode(coming))
        parents = outlook.front or [self._space.baseline()]
        pool = [self._space.sample(rng) for _ in range(DRAWN)] + near(parents, NEAR)
        hopes = outlook.hopes(self._encode(pool))
        best = [pool[i] for i in np.argsort(-hopes, kind="stable")[: NEARER // 10]]
        pool = best + near(best, NEARER)
        hopes = outlook.hopes(self._encode(pool))
        order = np.argsort(-hopes, kind="stable")
        return Shortlist([pool[i] for i in order], outlook, self._encode)

    # -- the models ----------------------------------------------------------------------

    def _outlook(
        self,
        rows: Sequence[Candidate],
        measured: Sequence[Measured],
        plain: bool,
    ) -> Outlook:
        task = self._task
        limits = [c for c in task.constraints if c.metric in COSTS]
        wanted = [o.metric for o in task.objectives if o.metric in COSTS]
        models, scales = {}, []
        for metric in dict.fromkeys(wanted + [c.metric for c in limits]):
            before = [(config, costs[metric]) for config, costs in measured if metric in costs]
            having = [c for c in rows if metric in c.metrics]
            models[metric] = self._cost_model(metric, before, having)
            if metric in wanted:
                known = [*(v for _, v in before), *(c.metrics[metric] for c in having)]
                bounds = [c.bound for c in limits if c.metric == metric and c.op == "<="]
                scales.append(Scale.of(np.array(known), min(bounds, default=math.inf), plain))

        worst = chance_error(task)
        for c in task.constraints:  # a quality that must be reached counts from there on
            if c.metric == task.quality.metric:
                worst = min(worst, error(c.bound, task.quality))
        seen = _observed(rows, task.quality, chance_error(task))
        kept = _thinned(seen, ROWS)
        quality = self._model(
            "quality",
            len(seen),
            self._encode([_joined(o.candidate) for o in kept]),
            np.array([o.value for o in kept]),
            np.array([o.noise for o in kept]),
            QUALITY_NOISE,
        )
        done = [o for o in seen if o.candidate.feasible(task.constraints)]
        values = np.array([o.value for o in done])
        costs = [[o.candidate.metrics[m] for m in wanted] for o in done]
        shares = _shares(scales, np.array(costs).reshape(len(done), len(wanted)))
        best = is_efficient(np.column_stack([-values, shares]))
        return Outlook(
            front=[_joined(done[i].candidate) for i in np.flatnonzero(best)],
            quality=quality,
            costs=models,
            wanted=wanted,
            scales=scales,
            limits=limits,
            values=values,
            shares=shares,
            worst=-math.log(max(worst, 1e-12)),
        )

    def _cost_model(
        self, metric: str, measured: Sequence[tuple[Config, float]], rows: Sequence[Candidate]
    ) -> CostModel:
        total = len(measured) + len(rows)
        measured, kept = _thinned(measured, COST_ROWS), _thinned(rows, ROWS - COST_ROWS // 2)
        configs = [config for config, _ in measured] + [_joined(c) for c in kept]
        values = np.array([value for _, value in measured] + [c.metrics[metric] for c in kept])
        lift = 0.01 * float(np.median(values)) + 1e-12
        x, noise = self._encode(configs), np.ones(len(configs))
        y = np.log(values + lift)
        return CostModel(self._model(metric, total, x, y, noise, COST_NOISE), lift)

    def _model(
        self, name: str, total: int, x: Floats, y: Floats, noise: Floats, share: float
    ) -> GaussianProcess:
        """Conditioned on all rows, which stand for ``total``, with weights that are fitted to the
        first of them: to as many as there were when last it was time to."""
        last = FIRST_FIT
        while math.ceil(last * REFIT) <= total:
            last = math.ceil(last * REFIT)
        theta = self._fits.get((name, last))
        if theta is None:
            first = slice(last)
            process = GaussianProcess(x[first], y[first], self._encode.groups, noise[first], share)
            theta = self._fits[name, last] = process.fitted()
        return GaussianProcess(x, y, self._encode.groups, noise, share).condition(theta)


@dataclass(frozen=True)
class Shortlist:
    """Configurations, the most promising first as long as their costs are foretold."""

    configs: list[Config]
    outlook: Outlook
    encode: Encoding

    def ranked(self, costs: Sequence[dict[str, float]]) -> list[Config]:
        """Now that the ``costs`` of the first are measured: these in their new order, then the
        others."""
        first, others = self.configs[: len(costs)], self.configs[len(costs) :]
        if not first:
            return others
        hopes = self.outlook.hopes(self.encode(first), costs)
        return [first[i] for i in np.argsort(-hopes, kind="stable")] + others


@dataclass(frozen=True)
class Scale:
    """A cost as its share of the way from the least, 0, to the reference, 1."""

    log: bool
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats, limit: float = math.inf, plain: bool = False) -> Scale:
        """In the logarithm where ``values`` lie more evenly there, unless it is to be ``plain``;
        no further than ``limit``."""
        log = bool(np.all(values > 0)) and abs(skew(np.log(values))) < abs(skew(values))
        log = log and not plain
        at = np.log(values) if log else values
        low, high = float(at.min()), float(at.max())
        high += BEYOND * ((high - low) or 1.0)
        if math.isfinite(limit) and not (log and limit <= 0):
            high = max(min(high, math.log(limit) if log else limit), low + 1e-9)
        return cls(log, low, high)

    def __call__(self, values: Floats) -> Floats:
        at = np.log(np.maximum(values, 1e-300)) if self.log else values
        shares: Floats = (at - self.low) / (self.high - self.low)
        return shares


def _shares(scales: Sequence[Scale], costs: Floats) -> Floats:
    """(rows, costs) from the costs' own units."""
    shares = [scale(column) for scale, column in zip(scales, costs.T, strict=True)]
    return np.array(shares).reshape(len(scales), len(costs)).T


@dataclass(frozen=True)
class CostModel:
    """Foretells a cost from a process in its logarithm, where zeros are lifted by ``lift``."""

    process: GaussianProcess
    lift: float

    def predict(self, x: Floats) -> Floats:
        mean, _ = self.process.predict(x)
        return np.maximum(np.exp(mean) - self.lift, 0.0)

    def keeps(self, x: Floats, limit: Constraint) -> Floats:
        """The probability that a row keeps the limit (Gardner et al. 2014, sec. 3.2)."""
        mean, std = self.process.predict(x)
        gap = (math.log(max(limit.bound, 0.0) + self.lift) - mean) / std
        chance: Floats = special.ndtr(gap if limit.op == "<=" else -gap)
        return chance


@dataclass(frozen=True)
class Outlook:
    """What one moment of a search lets hope of configurations.

    ``values`` and ``shares`` are qualities (-log error) and scaled costs of what is feasible;
    what is not better than ``worst`` adds nothing.
    """

    front: list[Config]
    quality: GaussianProcess
    costs: dict[str, CostModel]
    wanted: list[str]
    scales: list[Scale]
    limits: list[Constraint]
    values: Floats
    shares: Floats
    worst: float

    def hopes(self, x: Floats, known: Sequence[dict[str, float]] = ()) -> Floats:
        """What each encoded row is hoped to add to the hypervolume (0..1 in each cost, error
        in its own units), times the probability that it keeps the limits. Costs that are not
        ``known`` (by row) are foretold."""
        mean, std = self.quality.predict(x)
        shares = self._scaled(x, known)
        hoped = expected_hypervolume_improvement(
            mean, std, shares, self.values, self.shares, self.worst
        )
        for limit in self.limits:
            keeps = self.costs[limit.metric].keeps(x, limit)
            for row, costs in enumerate(known):
                if limit.metric in costs:
                    keeps[row] = limit.met(costs)
            hoped = hoped * keeps
        return hoped

    def believing(self, x: Floats) -> Outlook:
        """As if rows that are in training had ended as foretold, so that workers do not all ask
        for the same (the believer of Ginsbourger et al. 2010, sec. 2.3)."""
        mean, _ = self.quality.predict(x)
        return replace(
            self,
            quality=self.quality.with_rows(x, mean),
            values=np.append(self.values, mean),
            shares=np.concatenate([self.shares, self._scaled(x)]),
        )

    def _scaled(self, x: Floats, known: Sequence[dict[str, float]] = ()) -> Floats:
        foretold = np.array([self.costs[m].predict(x) for m in self.wanted]).reshape(-1, len(x))
        for row, costs in enumerate(known):
            for i, metric in enumerate(self.wanted):
                foretold[i, row] = costs.get(metric, foretold[i, row])
        return _shares(self.scales, foretold.T)


@dataclass(frozen=True)
class _Observation:
    candidate: Candidate
    value: float  # -log error
    noise: float  # variances of a plain row


def _observed(rows: Sequence[Candidate], quality: Objective, chance: float) -> list[_Observation]:
    """What rows say of qualities: finished ones most, stopped ones by their curves, failed
    ones that there is no better than chance."""
    done = [c for c in rows if c.state == State.COMPLETE]
    errors = [error(c.metrics[quality.metric], quality) for c in done]
    # Of no error the logarithm is taken as of half of the least: one sample fewer.
    floor = 0.5 * min((e for e in errors if e > 0), default=1.0)

    def value(metrics: dict[str, float]) -> float:
        return -math.log(max(error(metrics[quality.metric], quality), floor))

    seen = [_Observation(c, value(c.metrics), 1.0) for c in done]
    spread = float(np.var([o.value for o in seen])) if seen else 1.0
    stopped = [c for c in rows if c.reason is Reason.HALVING and c.curve]
    later: dict[float, tuple[float, float]] = {}  # by epoch: mean and variance of what is gained
    for epoch in {c.curve[-1]["epoch"] for c in stopped}:
        gains = [
            o.value - value(point)
            for o in seen
            for point in o.candidate.curve
            if point["epoch"] == epoch and quality.metric in point
        ]
        known = len(gains) > 2
        later[epoch] = (float(np.mean(gains)), float(np.var(gains))) if known else (0.0, spread)
    for c in stopped:
        gain, doubt = later[c.curve[-1]["epoch"]]
        noise = 1.0 + doubt / max(QUALITY_NOISE * spread, 1e-12)
        seen.append(_Observation(c, value(c.curve[-1]) + gain, noise))
    low = -math.log(max(chance, floor))
    seen += [_Observation(c, low, FAILURE_NOISE) for c in rows if c.reason in FAILURES]
    return sorted(seen, key=lambda o: o.candidate.number)


def _thinned(rows: Sequence[_Row], most: int) -> Sequence[_Row]:
    """At most so many rows: the latest half of them, and of those before evenly many."""
    if len(rows) <= most:
        return rows
    early = rows[: len(rows) - most // 2]
    kept = np.linspace(0, len(early) - 1, most - most // 2).astype(int)
    return [early[i] for i in kept] + list(rows[len(early) :])


def _joined(candidate: Candidate) -> Config:
    return join_family(candidate.family, candidate.config)


# -- the improvement ---------------------------------------------------------------------


def expected_improvement(mean: Floats, std: Floats, levels: Floats) -> Floats:
    """By how much an error is hoped to be under that of each level, (rows, levels).

    -log error is normal with ``mean`` and ``std`` (rows,), and ``levels`` are -log errors, so
    this is the price of a put on a log-normal (Black & Scholes 1973, eq. 13, no interest).
    """
    gap = (mean[:, None] - levels[None, :]) / std[:, None]
    expected = np.exp(0.5 * std**2 - mean)[:, None]
    sure = np.exp(-levels)[None, :] * special.ndtr(gap)
    hoped: Floats = np.maximum(sure - expected * special.ndtr(gap - std[:, None]), 0.0)
    return hoped


def expected_hypervolume_improvement(
    mean: Floats, std: Floats, costs: Floats, values: Floats, shares: Floats, worst: float
) -> Floats:
    """What each row is hoped to add to the hypervolume, (rows,).

    Its -log error is normal, its ``costs`` (rows, k) are known, in shares of the way to the
    reference. ``values`` and ``shares`` are those of finished networks; the reference's error
    is that of ``worst``. Between two errors of the front the volume of costs that a row newly
    dominates is constant, so the expectation is a sum over them of volume × (improvement on
    the larger error − improvement on the smaller).
    """
    inside = (values > worst) & np.all(shares < 1, axis=1)
    inside[inside] = is_efficient(np.column_stack([-values[inside], shares[inside]]))
    order = np.flatnonzero(inside)[np.argsort(values[inside])]
    values, shares = values[order], shares[order]
    gains = expected_improvement(mean, std, np.append(worst, values))
    gains[:, :-1] -= gains[:, 1:]  # within each step; above the last it is open
    volumes = np.stack([free_volume(costs, shares[k:]) for k in range(len(values) + 1)], axis=1)
    hoped: Floats = np.sum(volumes * gains, axis=1)
    return hoped


def free_volume(costs: Floats, taken: Floats) -> Floats:
    """The part of the box from each row of ``costs`` (rows, k) to 1 that no row of ``taken``
    dominates, (rows,): exact for up to two costs, counted among Sobol points for more."""
    dimensions = costs.shape[1]
    sides = np.maximum(1 - costs, 0.0)
    if not len(taken):
        whole: Floats = sides.prod(axis=1)
        return whole
    if dimensions == 0:
        return np.zeros(len(costs))
    if dimensions == 1:
        length: Floats = np.maximum(np.minimum(taken.min(), 1.0) - costs[:, 0], 0.0)
        return length
    if dimensions == 2:
        return _free_area(costs, taken)
    budgets = qmc.Sobol(dimensions, scramble=False).random(BUDGETS)
    open_ = ~np.any(np.all(taken[:, None] <= budgets[None], axis=2), axis=0)
    reached = np.all(costs[:, None] <= budgets[open_][None], axis=2)
    volume: Floats = np.count_nonzero(reached, axis=1) / BUDGETS
    return volume


def _free_area(costs: Floats, taken: Floats) -> Floats:
    taken = taken[np.lexsort((taken[:, 1], taken[:, 0]))]
    best = np.minimum.accumulate(taken[:, 1])
    steps = np.append(True, best[1:] < best[:-1])
    left, height = taken[steps, 0], best[steps]
    # Under each step of the staircase, and before its first.
    edges = np.clip(np.concatenate([[-np.inf], left, [np.inf]])[None], costs[:, :1], 1.0)
    tops = np.minimum(np.append(1.0, height), 1.0)
    heights = np.maximum(tops[None] - costs[:, 1:], 0.0)
    area: Floats = np.sum((edges[:, 1:] - edges[:, :-1]).clip(0.0) * heights, axis=1)
    return area
