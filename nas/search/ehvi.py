"""Known costs first: which network may add most to the hypervolume.

In a search for networks only quality is expensive. Parameters, FLOPs and memory are exact
before any training and latency takes a moment, so the costs of a few hundred configurations
are measured when a search begins, and those of all others are predicted to some per cent. What
is left unknown is the quality of each, and the sampler takes the configuration with the largest
expected hypervolume improvement (Emmerich et al. 2006) with all objectives but one known, which
makes it a sum of exact terms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy import special
from scipy.stats import qmc, skew

from nas.candidate import Candidate, Reason, State
from nas.front import CONTENTION, Floats, at_best, expected_guess, is_efficient
from nas.plan import rung_key
from nas.search.classic import initial_design, needs_initial_design, random_draws
from nas.search.journal import repair_journal, warn_once
from nas.search.samplers import History, Sampler, Shortlist, generator
from nas.search.surrogate import Encoding, GaussianProcess, Points
from nas.space import Config, Space
from nas.task import COSTS, Constraint, Objective, Task, UsageError

# A configuration of the joined space, and what is known of its costs.
Measured = tuple[Config, dict[str, float]]
_Row = TypeVar("_Row")

# The fraction of candidates that are drawn by chance: what a model is wrong about it never
# proposes.
RANDOM_FRACTION = 0.1
# Configurations whose costs are measured when a search begins, and the latest of those measured
# later that are kept beside them.
INITIAL_COSTS, LATEST_COSTS = 200, 400
# Configurations whose costs are measured before one of them is trained, and the fraction of a
# candidate's time that may take.
SHORTLIST_SIZE, SHORTLIST_TIME = 16, 0.05
# Configurations among which the acquisition is maximised: random ones, mutations of the front,
# and mutations of the best of these.
RANDOM_POOL, FRONT_POOL, REFINED_POOL = 400, 400, 200
# By which fraction of the candidates that have ended the models may lag behind, or of those that
# are in training, and at most by how many: one more of a thousand says little, and with 64 in
# training much is unknown anyway. Many workers would wait for models that are made anew for each.
LAG, LAG_BESIDE, LAG_MOST = 0.01, 0.125, REFINED_POOL // 10
# Rows that a model is conditioned on at most, and measured costs among them; its time grows with
# their cube.
MODEL_ROWS, COST_ROWS = 400, 300
# Weights are fitted anew when so many times the rows have come in.
REFIT, FIRST_FIT = 1.25, 8
# The prior of the noise variance, relative to the signal: of a proxy's quality, and of a cost.
QUALITY_NOISE, COST_NOISE = 0.05, 1e-3
# A failed training says "no better than chance here", less surely than a finished one.
FAILURES = {r for r in Reason if r.kind == "failure"} | {Reason.OOM, Reason.TIMEOUT}
FAILURE_NOISE = 4.0
# The reference lies so much of the range beyond the highest cost, for networks at the upper
# end to count too (Ishibuchi et al. 2018, "How to specify a reference point", sec. IV).
REFERENCE_MARGIN = 0.1
# The fraction of proposals that take the hypervolume in the costs' own units, where a network of
# half the largest cost is worth looking for as much as one of a thousandth; the others take it
# in the logarithm where costs lie more evenly there.
LINEAR_FRACTION = 0.5
# Sobol points that count a free volume of three costs or more.
VOLUME_POINTS = 512


class EhviSampler(Sampler):
    """Chooses by expected hypervolume improvement at known costs.

    It models one quality. Costs that were measured are kept in costs.jsonl of the folder, a
    line of JSON, [configuration, {metric: value}], for each.
    """

    def __init__(self, space: Space, task: Task, folder: Path | None = None) -> None:
        super().__init__(space, task, folder)
        self.check_task(task)
        self._model = Ehvi(space, task)
        self._file = folder / "costs.jsonl" if folder is not None else None
        self.measured: list[Measured] = []
        if self._file is not None and self._file.exists():
            repair_journal(self._file)
            lines = self._file.read_bytes().splitlines()
            found = [self._measured(line) for line in kept_costs(lines)]
            self.measured = [pair for pair in found if pair is not None]
            if damaged := len(found) - len(self.measured):
                warn_once(
                    f"{self._file}: {damaged} of {len(found)} lines cannot be read; the costs of"
                    " the other networks are used, and the search goes on"
                )
        wanted = [o.metric for o in task.objectives] + [c.metric for c in task.constraints]
        self._costs_matter = any(metric in COSTS for metric in wanted)

    def _measured(self, line: bytes) -> Measured | None:
        """What a line holds; None where that are no costs of a network of this space."""
        try:
            config, costs = json.loads(line)
            self.space.check(config)
            return config, {str(m): float(value) for m, value in costs.items()}
        except (ValueError, TypeError, AttributeError, RecursionError, UsageError):
            return None

    @classmethod
    def check_task(cls, task: Task) -> None:
        qualities = [o.metric for o in task.objectives if o.metric not in COSTS]
        if len(qualities) > 1:
            raise UsageError(
                f"the sampler ehvi models one quality, but the objectives hold {len(qualities)}"
                f" ({', '.join(qualities)}); choose --sampler tpe"
            )

    def propose(self, history: History) -> Iterator[Config]:
        rng, candidates = generator(self.task, history.number), history.candidates
        if needs_initial_design(self.space, self.task, candidates):
            return initial_design(self.space, candidates, rng)
        proposed: list[Config] = []
        if self._uses_model(rng):
            proposed = self._model.propose(candidates, self.measured, rng).configs
        return chain(proposed, random_draws(self.space, rng))

    def to_measure(self) -> list[Config]:
        if self.measured or not self._costs_matter:
            return []
        rng = generator(self.task, -1)
        return [self.space.sample(rng) for _ in range(INITIAL_COSTS)]

    def learn_costs(self, configs: Sequence[Config], costs: Sequence[dict[str, float]]) -> None:
        pairs = list(zip(configs, costs, strict=False))
        if self._file is not None:
            with self._file.open("a") as file:
                file.writelines(json.dumps(pair) + "\n" for pair in pairs)
        self.measured = kept_costs([*self.measured, *pairs])

    def shortlist(self, history: History, pending: Sequence[Shortlist] = ()) -> Shortlist | None:
        """The first of each pending shortlist counts as if it were in training."""
        begins = needs_initial_design(self.space, self.task, history.candidates)
        if begins or not self._costs_matter:
            return None
        rng = generator(self.task, history.number + len(pending))
        if not self._uses_model(rng):
            return None
        awaited = [other.configs[0] for other in pending]
        ranking = self._model.propose(history.candidates, self.measured, rng, awaited)
        new = [config for config in ranking.configs if history.is_new(config)][:SHORTLIST_SIZE]
        limit_s = self._shortlist_limit_s(history.candidates)
        return replace(ranking, configs=new, limit_s=limit_s) if new else None

    def _uses_model(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() >= RANDOM_FRACTION)

    def _shortlist_limit_s(self, candidates: Sequence[Candidate]) -> float | None:
        """How long the costs of a shortlist may take; None where time is no limit."""
        seconds = [c.seconds for c in candidates if c.state == State.COMPLETE]
        if self.task.budget.time_limit_s is None or not seconds:
            return None
        return SHORTLIST_TIME * sum(seconds) / len(seconds)


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


def kept_costs(measured: Sequence[_Row]) -> list[_Row]:
    """Of all measured costs, in their order, those that are kept: those that were drawn first,
    and the latest, which lie where the search is."""
    return [*measured[:INITIAL_COSTS], *measured[INITIAL_COSTS:][-LATEST_COSTS:]]


class Ehvi:
    """The models of quality and costs over ``space`` (a joined one) for ``task``.

    What it proposes depends on its arguments, and on the weights of its models, which are fitted
    to the rows as they stand when it is time to: a search that is resumed fits its own.
    """

    def __init__(self, space: Space, task: Task) -> None:
        self._space, self._task = space, task
        self._encode = Encoding(space)
        self._fits: dict[tuple[str, int], Floats] = {}
        self._latest: _Latest | None = None

    def propose(
        self,
        rows: Sequence[Candidate],
        measured: Sequence[Measured],
        rng: np.random.Generator,
        awaited: Sequence[Config] = (),
    ) -> Ranking:
        """Configurations, the most promising first; known ones may be among them.

        ``rows`` are all candidates so far, those in training too; ``measured`` are further
        configurations, of which the costs are known; ``awaited`` are about to be trained.
        """

        def mutations(parents: Sequence[Config], count: int) -> list[Config]:
            turns = rng.integers(len(parents), size=count)
            changes = rng.integers(1, 4, size=count)
            return [
                self._space.mutate(parents[i], rng, changes=int(n))
                for i, n in zip(turns, changes, strict=True)
            ]

        latest = self._latest
        lacking = [c for c in rows if latest is None or c.number not in latest.ended]
        running = [c for c in lacking if c.state == State.RUNNING]
        ended, beside = len(rows) - len(running), LAG_BESIDE * len(running)
        lag = int(min(max(LAG * ended, beside), LAG_MOST))
        if latest is None or not lag or len(lacking) - len(running) > lag:
            linear = bool(rng.random() < LINEAR_FRACTION)
            known = frozenset(c.number for c in rows) - {c.number for c in running}
            latest = self._latest = _Latest(known, self._posterior(rows, measured, linear))
            lacking = running
        posterior = latest.posterior
        if (pending := self._pending(lacking, awaited, latest)) is not None:
            posterior = posterior.awaiting(pending)
        if latest.judged is None:
            parents = posterior.front or [self._space.baseline()]
            pool = [self._space.sample(rng) for _ in range(RANDOM_POOL)]
            pool += mutations(parents, FRONT_POOL)
            improvement = posterior.acquisition(self._encode(pool))
            best = [pool[i] for i in np.argsort(-improvement, kind="stable")[: REFINED_POOL // 10]]
            latest.pool = best + mutations(best, REFINED_POOL)
            latest.judged = posterior.judge(self._encode(latest.pool))
        improvement = posterior.improvement(latest.judged)
        order = np.argsort(-improvement, kind="stable")
        return Ranking([latest.pool[i] for i in order], posterior, self._encode)

    def _pending(
        self, lacking: Sequence[Candidate], awaited: Sequence[Config], latest: _Latest
    ) -> Judged | None:
        """What the ``latest`` models say of all whose end they do not know; None where that is
        nothing. Each is judged once, as with many in training little else would be done."""
        new = [c for c in lacking if c.number not in latest.pending]
        if new:
            judged = latest.posterior.judge(self._encode([c.joined for c in new]))
            latest.pending |= {c.number: judged.row(i) for i, c in enumerate(new)}
        found = [latest.pending[c.number] for c in lacking]
        if awaited:
            found.append(latest.posterior.judge(self._encode(awaited)))
        return Judged.of(found) if found else None

    # -- the models ----------------------------------------------------------------------

    def _posterior(
        self,
        rows: Sequence[Candidate],
        measured: Sequence[Measured],
        linear: bool,
    ) -> Posterior:
        task = self._task
        limits = [c for c in task.constraints if c.metric in COSTS]
        wanted = [o.metric for o in task.objectives if o.metric in COSTS]
        models, scales = {}, []
        for metric in dict.fromkeys(wanted + [c.metric for c in limits]):
            before = [(config, costs[metric]) for config, costs in measured if metric in costs]
            having = [c.contended for c in rows if metric in c.metrics]
            models[metric] = self._cost_model(metric, before, having)
            if metric in wanted:
                known = [*(v for _, v in before), *(c.metrics[metric] for c in having)]
                ends = [_either(c)[-1] for c in limits if c.metric == metric and c.op == "<="]
                bound = min((c.bound for c in ends), default=math.inf)
                scales.append(Scale.of(np.array(known), bound, linear))

        reference = chance_error(task)
        for c in task.constraints:  # a quality that must be reached counts from there on
            if c.metric == task.quality.metric:
                reference = min(reference, error(c.bound, task.quality))
        seen = _observed(rows, task, chance_error(task))
        kept = _subsample(seen, MODEL_ROWS)
        quality = self._model(
            "quality",
            len(seen),
            self._encode([o.candidate.joined for o in kept]),
            np.array([o.value for o in kept]),
            np.array([o.noise for o in kept]),
            QUALITY_NOISE,
        )
        done = [o for o in seen if _may_be_feasible(o.candidate, task)]
        values = np.array([o.value for o in done])
        figures = [o.candidate.contended.metrics for o in done]
        costs = [[metrics[m] for m in wanted] for metrics in figures]
        scaled = _scale(scales, np.array(costs).reshape(len(done), len(wanted)))
        least = -math.log(max(reference, 1e-12))
        limited = any(c.metric == task.quality.metric for c in task.constraints)
        if len(values) and not limited and values.max() <= least:
            least = float(values.min()) - 1e-9  # no network is as good as a guess: all count
        best = is_efficient(np.column_stack([-values, scaled]))
        return Posterior(
            front=[done[i].candidate.joined for i in np.flatnonzero(best)],
            quality=quality,
            costs=models,
            wanted=wanted,
            scales=scales,
            limits=limits,
            values=values,
            scaled_costs=scaled,
            reference=least,
        )

    def _cost_model(
        self, metric: str, measured: Sequence[tuple[Config, float]], rows: Sequence[Candidate]
    ) -> CostModel:
        total = len(measured) + len(rows)
        measured = _subsample(measured, COST_ROWS)
        kept = _subsample(rows, MODEL_ROWS - COST_ROWS // 2)
        configs = [config for config, _ in measured] + [c.joined for c in kept]
        values = np.array([value for _, value in measured] + [c.metrics[metric] for c in kept])
        offset = 0.01 * float(np.median(values)) + 1e-12
        x, noise = self._encode(configs), np.ones(len(configs))
        y = np.log(values + offset)
        return CostModel(self._model(metric, total, x, y, noise, COST_NOISE), offset)

    def _model(
        self, name: str, total: int, x: Floats, y: Floats, noise: Floats, noise_prior: float
    ) -> GaussianProcess:
        """Conditioned on all rows, which stand for ``total``, with weights that are fitted to the
        first of them: to as many as there were when last it was time to."""
        last = FIRST_FIT
        while math.ceil(last * REFIT) <= total:
            last = math.ceil(last * REFIT)
        theta = self._fits.get((name, last))
        if theta is None:
            first = slice(last)
            process = GaussianProcess(
                x[first], y[first], self._encode.groups, noise[first], noise_prior
            )
            theta = self._fits[name, last] = process.fitted()
        return GaussianProcess(x, y, self._encode.groups, noise, noise_prior).condition(theta)


@dataclass
class _Latest:
    """The models of the candidates that had ``ended``, the configurations that were the most
    promising by them, and what they say of these and of candidates that have not, by number."""

    ended: frozenset[int]
    posterior: Posterior
    pool: list[Config] = field(default_factory=list)
    judged: Judged | None = None
    pending: dict[int, Judged] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """Configurations, the most promising first by predicted costs: a ``Shortlist``."""

    configs: list[Config]
    posterior: Posterior
    encode: Encoding
    limit_s: float | None = None

    def ranked(self, costs: Sequence[dict[str, float]]) -> list[Config]:
        """Now that the ``costs`` of the first are measured: these in their new order, then the
        others."""
        first, others = self.configs[: len(costs)], self.configs[len(costs) :]
        if not first:
            return others
        improvement = self.posterior.acquisition(self.encode(first), costs)
        return [first[i] for i in np.argsort(-improvement, kind="stable")] + others


@dataclass(frozen=True)
class Scale:
    """A cost as a number between the least, 0, and the reference, 1."""

    log: bool
    low: float
    high: float

    @classmethod
    def of(cls, values: Floats, limit: float = math.inf, linear: bool = False) -> Scale:
        """In the logarithm where ``values`` lie more evenly there, unless it is to be ``linear``;
        no further than ``limit``."""
        log = bool(np.all(values > 0)) and abs(skew(np.log(values))) < abs(skew(values))
        log = log and not linear
        at = np.log(values) if log else values
        low, high = float(at.min()), float(at.max())
        high += REFERENCE_MARGIN * ((high - low) or 1.0)
        if math.isfinite(limit) and not (log and limit <= 0):
            high = max(min(high, math.log(limit) if log else limit), low + 1e-9)
        return cls(log, low, high)

    def __call__(self, values: Floats) -> Floats:
        at = np.log(np.maximum(values, 1e-300)) if self.log else values
        scaled: Floats = (at - self.low) / (self.high - self.low)
        return scaled


def _scale(scales: Sequence[Scale], costs: Floats) -> Floats:
    """(rows, costs) from the costs' own units."""
    scaled = [scale(column) for scale, column in zip(scales, costs.T, strict=True)]
    return np.array(scaled).reshape(len(scales), len(costs)).T


@dataclass(frozen=True)
class CostModel:
    """Predicts a cost by a process in its logarithm, after adding ``offset`` (costs may be 0)."""

    process: GaussianProcess
    offset: float

    def predict(self, x: Floats) -> Floats:
        mean, _ = self.process.predict(x)
        return np.maximum(np.exp(mean) - self.offset, 0.0)

    def feasibility(self, x: Floats, limit: Constraint) -> Floats:
        """The probability that a row keeps the limit (Gardner et al. 2014, sec. 3.2)."""
        mean, std = self.process.predict(x)
        gap = (math.log(max(limit.bound, 0.0) + self.offset) - mean) / std
        probability: Floats = special.ndtr(gap if limit.op == "<=" else -gap)
        return probability


@dataclass(frozen=True)
class Posterior:
    """The models as they stand at one moment of a search.

    ``values`` and ``scaled_costs`` are qualities (-log error) and costs of what is feasible;
    what is not better than ``reference`` adds nothing.
    """

    front: list[Config]
    quality: GaussianProcess
    costs: dict[str, CostModel]
    wanted: list[str]
    scales: list[Scale]
    limits: list[Constraint]
    values: Floats
    scaled_costs: Floats
    reference: float

    def acquisition(self, x: Floats, known: Sequence[dict[str, float]] = ()) -> Floats:
        """The expected hypervolume improvement of each encoded row (0..1 in each cost, error in
        its own units) times the probability that it keeps the limits, (rows,). Costs that are
        not ``known`` (by row) are predicted."""
        return self.improvement(self.judge(x, known))

    def judge(self, x: Floats, known: Sequence[dict[str, float]] = ()) -> Judged:
        """What the models say of encoded rows, whatever else is awaited."""
        feasibility = np.ones(len(x))
        for limit in self.limits:
            model, either = self.costs[limit.metric], _either(limit)
            kept = np.mean([model.feasibility(x, one) for one in either], axis=0)
            for row, costs in enumerate(known):
                if limit.metric in costs:
                    kept[row] = np.mean([one.met(costs) for one in either])
            feasibility *= kept
        return Judged(self.quality.at(x), self._scaled(x, known), feasibility)

    def improvement(self, rows: Judged) -> Floats:
        """As ``acquisition``."""
        mean, std = rows.quality.mean, self.quality.deviation(rows.quality)
        best = *self._best, self.reference
        return rows.feasibility * expected_hypervolume_improvement(mean, std, rows.costs, *best)

    @cached_property
    def _best(self) -> tuple[Floats, Floats]:
        """``values`` and ``scaled_costs`` of what nothing else dominates: the rest takes no volume,
        and would be most of the work after thousands of candidates."""
        best = is_efficient(np.column_stack([-self.values, self.scaled_costs]))
        return self.values[best], self.scaled_costs[best]

    def awaiting(self, rows: Judged) -> Posterior:
        """As if the rows that are in training had ended with their predicted figures, so that
        workers do not all ask for the same (``GaussianProcess.awaiting``)."""
        values, scaled_costs = self._best
        return replace(
            self,
            quality=self.quality.awaiting(rows.quality),
            values=np.append(values, rows.quality.mean),
            scaled_costs=np.concatenate([scaled_costs, rows.costs]),
        )

    def _scaled(self, x: Floats, known: Sequence[dict[str, float]] = ()) -> Floats:
        predicted = np.array([self.costs[m].predict(x) for m in self.wanted]).reshape(-1, len(x))
        for row, costs in enumerate(known):
            for i, metric in enumerate(self.wanted):
                predicted[i, row] = costs.get(metric, predicted[i, row])
        return _scale(self.scales, predicted.T)


@dataclass(frozen=True)
class Judged:
    """What models say of rows: their quality, their scaled ``costs`` (rows, k), and the probability
    that they keep the limits (rows,)."""

    quality: Points
    costs: Floats
    feasibility: Floats

    def row(self, i: int) -> Judged:
        """One of the rows."""
        q, at = self.quality, slice(i, i + 1)
        quality = Points(q.x[at], q.mean[at], q.whitened[:, at])
        return Judged(quality, self.costs[at], self.feasibility[at])

    @classmethod
    def of(cls, parts: Sequence[Judged]) -> Judged:
        """The rows of several."""
        qualities = [part.quality for part in parts]
        quality = Points(
            np.concatenate([q.x for q in qualities]),
            np.concatenate([q.mean for q in qualities]),
            np.concatenate([q.whitened for q in qualities], axis=1),
        )
        costs = np.concatenate([part.costs for part in parts])
        return cls(quality, costs, np.concatenate([part.feasibility for part in parts]))


@dataclass(frozen=True)
class _Observation:
    candidate: Candidate
    value: float  # -log error
    noise: float  # variance, relative to a finished candidate


def _observed(rows: Sequence[Candidate], task: Task, chance: float) -> list[_Observation]:
    """What rows say of qualities: finished ones most, those that halving or a lack of time has
    stopped by their curves, failed ones that there is no better than chance, or than the worst."""
    quality = task.quality
    done = [c for c in rows if c.state == State.COMPLETE]
    errors = [error(c.metrics[quality.metric], quality) for c in done]
    # Of no error the logarithm is taken as of half of the least: one sample fewer.
    floor = 0.5 * min((e for e in errors if e > 0), default=1.0)

    def value(metrics: dict[str, float]) -> float:
        return -math.log(max(error(metrics[quality.metric], quality), floor))

    late = [c for c in done if 0 < len(c.curve) < c.epochs]  # complete by their last epochs
    cut_off = {c.number for c in late}
    seen = [_Observation(c, value(c.metrics), 1.0) for c in done if c.number not in cut_off]
    spread = float(np.var([o.value for o in seen])) if seen else 1.0
    stopped = late + [c for c in rows if c.reason is Reason.HALVING and c.curve]

    def rung(candidate: Candidate, point: dict[str, float]) -> tuple[float | None, ...]:
        return rung_key(task, candidate, point["epoch"])

    later: dict[tuple[float | None, ...], tuple[float, float]] = {}  # mean and variance of gains
    for last in {rung(c, c.curve[-1]) for c in stopped}:
        gains = [
            o.value - value(point)
            for o in seen
            for point in o.candidate.curve
            if point["epoch"] == last[-1] and rung(o.candidate, point) == last
            if quality.metric in point
        ]
        known = len(gains) > 2
        later[last] = (float(np.mean(gains)), float(np.var(gains))) if known else (0.0, spread)
    for c in stopped:
        gain, variance = later[rung(c, c.curve[-1])]
        noise = 1.0 + variance / max(QUALITY_NOISE * spread, 1e-12)
        seen.append(_Observation(c, value(c.curve[-1]) + gain, noise))
    low = min([-math.log(max(chance, floor)), *(o.value for o in seen)])
    seen += [_Observation(c, low, FAILURE_NOISE) for c in rows if c.reason in FAILURES]
    return sorted(seen, key=lambda o: o.candidate.number)


def _either(limit: Constraint) -> tuple[Constraint, ...]:
    """A limit, and of latencies the highest (``CONTENTION``) that may be inside it on the isolated
    device, where they were measured beside trainings. A network between the two is as likely to be
    inside as not."""
    if (limit.metric, limit.op) != ("latency_ms", "<="):
        return (limit,)
    return limit, replace(limit, bound=CONTENTION * limit.bound)


def _may_be_feasible(candidate: Candidate, task: Task) -> bool:
    """Whether it is inside the limits, or may be on the isolated device."""
    limits = task.constraints
    return candidate.feasible(limits) or at_best(candidate).feasible(limits)


def _subsample(rows: Sequence[_Row], most: int) -> Sequence[_Row]:
    """At most so many rows: the latest half of them, and of those before evenly many."""
    if len(rows) <= most:
        return rows
    early = rows[: len(rows) - most // 2]
    kept = np.linspace(0, len(early) - 1, most - most // 2).astype(int)
    return [early[i] for i in kept] + list(rows[len(early) :])


# -- the improvement ---------------------------------------------------------------------


def expected_improvement(mean: Floats, std: Floats, levels: Floats) -> Floats:
    """By how much an error is expected to be under that of each level, (rows, levels).

    -log error is normal with ``mean`` and ``std`` (rows,), and ``levels`` are -log errors, so
    this is the price of a put on a log-normal (Black & Scholes 1973, eq. 13, no interest).
    """
    gap = (mean[:, None] - levels[None, :]) / std[:, None]
    expected = np.exp(0.5 * std**2 - mean)[:, None]
    strike = np.exp(-levels)[None, :] * special.ndtr(gap)
    gains: Floats = np.maximum(strike - expected * special.ndtr(gap - std[:, None]), 0.0)
    return gains


def expected_hypervolume_improvement(
    mean: Floats,
    std: Floats,
    costs: Floats,
    values: Floats,
    scaled_costs: Floats,
    reference: float,
) -> Floats:
    """What each row is expected to add to the hypervolume, (rows,).

    Its -log error is normal, its ``costs`` (rows, k) are known, scaled so that the reference
    is 1. ``values`` and ``scaled_costs`` are those of finished networks; the reference's error
    is that of ``reference``. Between two errors of the front the volume of costs that a row newly
    dominates is constant, so the expectation is a sum over them of volume × (improvement on
    the larger error − improvement on the smaller).
    """
    inside = (values > reference) & np.all(scaled_costs < 1, axis=1)
    inside[inside] = is_efficient(np.column_stack([-values[inside], scaled_costs[inside]]))
    order = np.flatnonzero(inside)[np.argsort(values[inside])]
    values, scaled_costs = values[order], scaled_costs[order]
    gains = expected_improvement(mean, std, np.append(reference, values))
    gains[:, :-1] -= gains[:, 1:]  # within each step; above the last it is open
    steps = range(len(values) + 1)
    volumes = np.stack([free_volume(costs, scaled_costs[k:]) for k in steps], axis=1)
    improvement: Floats = np.sum(volumes * gains, axis=1)
    return improvement


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
    points = qmc.Sobol(dimensions, scramble=False).random(VOLUME_POINTS)
    open_ = ~np.any(np.all(taken[:, None] <= points[None], axis=2), axis=0)
    reached = np.all(costs[:, None] <= points[open_][None], axis=2)
    volume: Floats = np.count_nonzero(reached, axis=1) / VOLUME_POINTS
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
