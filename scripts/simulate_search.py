"""How busy a cluster's workers would be: a search whose trainings are modelled, not run.

    python scripts/simulate_search.py --workers 64 --time-limit 24h
    python scripts/simulate_search.py --workers 512 --time-limit 24h
    python scripts/simulate_search.py --workers 64 --time-limit 6h --faster 200

The data are ImageNet's profile (1.28 M images of 224 x 224, 1,000 classes). The plan, the sampler,
the halving and the journal are the real ones, and what they take is measured; a virtual clock runs
the trainings, whose seconds and scores are modelled from the size of the network. The driver does
one thing at a time, so that its workers wait for it as they would. ``--faster`` shortens the
trainings, and the search with them, but not the plan: so short candidates are more than a plan asks
for, and show what the driver can do. Prints the plan, the fraction of the worker time that is spent
training, and the driver's milliseconds a candidate.
"""

from __future__ import annotations

import heapq
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from nas import rules
from nas.candidate import Candidate, Latency, State
from nas.family import load_families
from nas.options import parse_duration
from nas.plan import Pace, make_task, plan_search
from nas.search.study import Study
from nas.space import Config, Space, split_family
from nas.task import Budget, Task

# Seconds of an epoch over all images of the baselines, on half an A100 (modelled).
PACE_S = {"resnet": 520.0, "efficientnet": 900.0, "vit": 700.0}
COUNT_S = 0.05  # of a worker, to count parameters and time a latency


@dataclass
class Clock:
    """Virtual seconds; the driver is busy until ``free``, and has worked ``spent`` in all;
    ``trained`` is of all workers."""

    free: float = 0.0
    spent: float = 0.0
    trained: float = 0.0

    def driver(self, at: float, work: Callable[[], Any]) -> tuple[Any, float]:
        """What ``work`` returns, and when the driver is through with it, asked ``at`` a time."""
        begin = time.perf_counter()
        result = work()
        worked = time.perf_counter() - begin
        self.free, self.spent = max(self.free, at) + worked, self.spent + worked
        return result, self.free


def modelled_costs(joined: Config) -> dict[str, float]:
    """Parameters, FLOPs and latency from widths, depths and resolution alone."""
    _, config = split_family(joined)
    sizes = [
        float(value) ** 2 * float(config.get(name.replace("width", "depth"), 1))
        for name, value in config.items()
        if name.startswith("width") or name == "dim"
    ]
    params = 9.0 * sum(sizes) * float(config.get("depth", 1))
    flops = params * (float(config.get("resolution", 224)) / 16) ** 2
    return {"params": params, "flops": flops, "latency_ms": 0.3 + flops**0.5 / 1e4}


def score(params: float, epoch: int, rng: np.random.Generator) -> float:
    """A curve that rises with size and epochs, and noise."""
    return float(0.45 + 0.04 * math.log10(params) - 0.5 / (epoch + 2) + rng.normal(0, 0.003))


def simulate(
    task: Task, spaces: dict[str, Space], limit_s: float, seed: int, faster: float
) -> dict[str, float]:
    """One search until ``limit_s`` virtual seconds, of trainings that are so many times faster."""
    rng, clock = np.random.default_rng(seed), Clock()
    longest = {name: modelled_costs({"family": name} | {f"{name}.{k}": v for k, v in
               space.baseline().items()})["params"] for name, space in spaces.items()}  # fmt: skip
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Study(Path(folder), task, Space.join(spaces))) as study,
    ):
        study.enqueue_baselines(rules.first_candidates(spaces))
        measured = study.sampler.to_measure()
        study.sampler.learn_costs(measured, [modelled_costs(config) for config in measured])
        # (when, tie, worker, candidate and epoch that is over, if any)
        events: list[tuple[float, int, int, Candidate | None, int]] = [
            (0.0, worker, worker, None, 0) for worker in range(task.budget.workers)
        ]
        tie, counts = len(events), {"complete": 0, "stopped": 0}
        while events:
            now, _, worker, candidate, epoch = heapq.heappop(events)
            if now >= limit_s:
                continue
            if candidate is not None:
                candidate, now = _report(study, clock, candidate, epoch, now, rng, counts)
            if candidate is None:
                epoch = 0
                candidate, now = _next(study, clock, worker, now)
            if candidate is None:
                break
            size = modelled_costs(candidate.joined)["params"] / longest[candidate.family]
            seconds = task.fidelity.share * PACE_S[candidate.family] * max(0.05, size**0.5)
            seconds *= math.exp(rng.normal(0, 0.1)) / faster
            clock.trained += min(seconds, max(0.0, limit_s - now))
            tie += 1
            candidate = replace(candidate, seconds=candidate.seconds + seconds)
            heapq.heappush(events, (now + seconds, tie, worker, candidate, epoch + 1))
        ended = max(1, counts["complete"] + counts["stopped"])
        return {
            "busy": clock.trained / (limit_s * task.budget.workers),
            "driver_ms": 1e3 * clock.spent / ended,
            **counts,
        }


def _next(study: Study, clock: Clock, worker: int, now: float) -> tuple[Candidate | None, float]:
    """The next candidate of an idle worker, which measures a shortlist first where there is one."""
    history = study.history()
    shortlist, now = clock.driver(
        now, lambda: None if study.waiting else study.sampler.shortlist(history, [])
    )
    preferred: list[Config] = []
    if shortlist is not None:
        now += COUNT_S * len(shortlist.configs)
        costs = [modelled_costs(config) for config in shortlist.configs]
        study.sampler.learn_costs(shortlist.configs, costs)
        preferred = shortlist.ranked(costs)
    return clock.driver(now, lambda: study.ask(worker, preferred))


def _report(
    study: Study,
    clock: Clock,
    candidate: Candidate,
    epoch: int,
    now: float,
    rng: np.random.Generator,
    counts: dict[str, int],
) -> tuple[Candidate | None, float]:
    """The candidate if it continues, and when its worker knows."""
    costs = modelled_costs(candidate.joined)
    metrics = costs | {"accuracy": score(costs["params"], epoch, rng)}
    verdict, now = clock.driver(now, lambda: study.report(candidate.number, epoch, metrics))
    if not verdict and epoch < candidate.epochs:
        return candidate, now
    state = State.PRUNED if verdict else State.COMPLETE
    counts["stopped" if verdict else "complete"] += 1
    latency = Latency(
        ms=costs["latency_ms"], iqr_ms=0.01, isolated=True, device="modelled", threads=1, batch=1
    )
    ended = replace(
        study[candidate.number],
        state=state,
        reason=verdict or "",
        metrics=metrics,
        seconds=candidate.seconds,
        cost=replace(candidate.cost, latency=latency, step_ms=1.0),
    )
    _, now = clock.driver(now, lambda: study.tell(ended))
    return None, now


@click.command()
@click.option("--workers", default=64)
@click.option("--time-limit", default="24h")
@click.option("--seed", default=0)
@click.option("--faster", default=1.0)
def main(workers: int, time_limit: str, seed: int, faster: float) -> None:
    limit_s = parse_duration(time_limit)
    assert limit_s is not None
    families = {n: f for n, f in load_families("images").items() if n in PACE_S}
    like = families["resnet"].references[0].task
    budget = Budget(limit_s, workers=workers, gpus=0.5, memory_mb=40_000.0)
    task = make_task(like, budget=budget, device="cuda", seed=seed)
    spaces = {name: family.space(task) for name, family in families.items()}
    paces = {n: Pace(0.0, 0.0, 0, PACE_S[n] * task.fidelity.share) for n in families}
    plan = plan_search(task, paces)
    task = replace(task, fidelity=plan.fidelity)
    kept = (limit_s - plan.finish_s) / faster
    print(f"plan: {plan.to_json()}")
    print(f"baselines: { ({n: s.baseline() for n, s in spaces.items()}) }")
    begin = time.perf_counter()
    found = simulate(task, spaces, kept, seed, faster)
    print(
        f"{workers} workers, {kept:.0f} s of search: {found['busy']:.1%} of the worker time in"
        f" training, {found['driver_ms']:.0f} ms of the driver a candidate;"
        f" {found['complete']:.0f} complete, {found['stopped']:.0f} stopped by halving;"
        f" simulated in {time.perf_counter() - begin:.0f} s"
    )


if __name__ == "__main__":
    main()
