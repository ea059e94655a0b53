"""What halving is worth: hypervolume at equal epochs spent, replayed on a surrogate.

    OMP_NUM_THREADS=1 python scripts/bench_halving.py $NAS_DATA/nas/yahpo/lcbench \\
        --out halving.jsonl --jobs 2

The folder holds YAHPO Gym's surrogate of LCBench (query.py; pip install -e ".[bench]"):
networks of funnel shape with their training, on tables, after each of 52 epochs. Three
objectives are judged: validation cross-entropy, training time, parameters. The time is that
of all epochs, and stands where a search has latency: it is the same at each rung, and our
sampler knows it beforehand for the configurations whose costs it requests. Ours and random
search run with halving and without; random search with halving is MO-ASHA with crowding
distances (Schmucker et al. 2021, sec. 4), written here by itself as the reference. All have one
worker, the same rungs, and begin with the same configuration.

The score is the hypervolume regret against 10,000 random configurations that are trained to
the end, 1 - HV(found) / HV(random), with each objective scaled so that 0 is their best and
the reference, 1, their median; it may fall below 0. Only candidates that were trained to the
end count as found, and the epochs of all as spent. Results are kept as in bench_search.py.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from bench_search import (
    OURS,
    Key,
    Run,
    arguments,
    collect,
    engine,
    matching,
    show_all,
)

from nas.candidate import State
from nas.front import Floats, front_ranks, hypervolume, is_efficient
from nas.plan import ETA, rungs
from nas.search.study import Study
from nas.space import Config, Float, Int, Space, split_family
from nas.testing import small_task

EPOCHS = 52
TRAININGS = (5, 10, 20, 40)  # budgets, in epochs of so many full trainings
RANDOM = 10_000

# The space of LCBench; the defaults are those that a textbook would give a network for tables.
SPACE = Space(
    (
        Int("batch_size", 16, 512, default=128, log=True),
        Float("learning_rate", 1e-4, 1e-1, default=1e-2, log=True),
        Float("momentum", 0.1, 0.99, default=0.9),
        Float("weight_decay", 1e-5, 1e-1, default=1e-3),
        Int("num_layers", 1, 5, default=3),
        Int("max_units", 64, 1024, default=256, log=True),
        Float("max_dropout", 0.0, 1.0, default=0.2),
    )
)
# The project's metrics that hold the figures.
METRICS = ("val_loss", "latency_ms", "params")


def parameters(layers: int, units: int) -> float:
    """Weights and biases of a funnel: hidden widths fall evenly from ``units`` to the outputs.

    The surrogate does not say what the data's inputs and classes are: 50 and 2 stand for all.
    """
    inputs, outputs = 50, 2
    hidden = [units - (units - outputs) * i // layers for i in range(layers)]
    widths = [inputs, *hidden, outputs]
    return float(sum((a + 1) * b for a, b in pairwise(widths)))


@dataclass(frozen=True)
class Problem:
    """Training networks on one of the surrogate's tables, which goes by OpenML's number."""

    folder: Path
    task: str

    def curves(self, configs: Sequence[Config], epochs: Sequence[int]) -> Floats:
        """Shape (configs, epochs, objectives); smaller is better in all. The last epoch is
        that of a whole training."""
        rows = [config | {"epoch": epoch} for config, epoch in product(configs, epochs)]
        found = surrogate(self.folder).query(self.task, rows)
        sizes = [parameters(int(r["num_layers"]), int(r["max_units"])) for r in rows]
        figures = [
            (figure["val_cross_entropy"], figure["time"], size)
            for figure, size in zip(found, sizes, strict=True)
        ]
        result = np.array(figures).reshape(len(configs), len(epochs), len(METRICS))
        result[..., 1] = result[:, -1:, 1]  # the time of the whole training
        return result

    @cached_property
    def _random(self) -> Floats:
        rng = np.random.default_rng(0)
        return self.curves([SPACE.sample(rng) for _ in range(RANDOM)], (EPOCHS,))[:, 0]

    def _volume(self, costs: Floats) -> float:
        low = self._random.min(axis=0)
        points = (costs - low) / (np.median(self._random, axis=0) - low)
        points = points[np.all(points < 1, axis=1)]
        return hypervolume(points[is_efficient(points)], np.ones(len(METRICS)))

    @cached_property
    def _whole(self) -> float:
        return self._volume(self._random)

    def regret(self, run: Run, trainings: int) -> float:
        """1 - HV(found) / HV(random) after the epochs of so many trainings."""
        spent = np.cumsum([epochs for epochs, _ in run.trace])
        last = np.searchsorted(spent, trainings * EPOCHS, side="right")
        found = [costs for epochs, costs in run.trace[:last] if epochs == EPOCHS]
        return 1 - self._volume(np.array(found).reshape(-1, len(METRICS))) / self._whole


@cache
def surrogate(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("lcbench_query", folder / "query.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def load(folder: Path, task: str) -> Problem:
    return Problem(folder, task)


# -- methods: (problem, seed, budget in epochs) → epochs and last costs of each candidate --

Trace = list[tuple[int, list[float]]]


def ours(problem: Problem, seed: int, budget: int, *, sampler: str, halving: bool) -> Trace:
    trace: Trace = []
    levels = (*(rungs(EPOCHS) if halving else ()), EPOCHS)
    task = small_task(epochs=EPOCHS, seed=seed, objectives=METRICS)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        study = Study(Path(folder), task, Space.join({"funnel": SPACE}), sampler=sampler)
        study.enqueue_baselines({"funnel": SPACE.starts()})
        if listed := study.sampler.to_measure():
            each = problem.curves([split_family(config)[1] for config in listed], (EPOCHS,))
            costs = [dict(zip(METRICS[1:], row[1:], strict=True)) for row in each[:, 0].tolist()]
            study.sampler.learn_costs(listed, costs)
        while sum(epochs for epochs, _ in trace) < budget:
            candidate = study.ask()
            assert candidate is not None  # the space has real numbers: there is always a new one
            curve = problem.curves([candidate.config], levels)[0].tolist()
            for epoch, reached in zip(levels, curve, strict=True):
                figures = dict(zip(METRICS, reached, strict=True))
                if verdict := study.report(candidate.number, epoch, figures):
                    break
            state = State.PRUNED if verdict else State.COMPLETE
            study.tell(replace(study[candidate.number], state=state, reason=verdict))
            trace.append((epoch, reached))
        study.close()
    return trace


def at_random(problem: Problem, seed: int, budget: int, *, halving: bool) -> Trace:
    trace: Trace = []
    levels = (*(rungs(EPOCHS) if halving else ()), EPOCHS)
    rng = np.random.default_rng(seed)
    configs = SPACE.starts()
    arrived: dict[int, list[list[float]]] = defaultdict(list)
    while sum(epochs for epochs, _ in trace) < budget:
        config = configs.pop(0) if configs else SPACE.sample(rng)
        curve = problem.curves([config], levels)[0].tolist()
        for epoch, costs in zip(levels, curve, strict=True):
            arrived[epoch].append(costs)
            if epoch < EPOCHS and not is_promoted(np.array(arrived[epoch])):
                break
        trace.append((epoch, costs))
    return trace


def is_promoted(costs: Floats) -> bool:
    """Whether the last row is among the best 1/ETA by non-dominated rank, and inside a rank
    by crowding distance (NSGA-II, Deb et al. 2002, sec. III-B). Too few pass unjudged."""
    if len(costs) < ETA:
        return True
    ranks = front_ranks(costs)
    crowding = np.empty(len(costs))
    for rank in range(ranks.max() + 1):
        mates = np.flatnonzero(ranks == rank)
        crowding[mates] = crowding_distances(costs[mates])
    order = np.lexsort((-crowding, ranks))
    return len(costs) - 1 in order[: max(1, len(costs) // ETA)]


def crowding_distances(costs: Floats) -> Floats:
    total = np.zeros(len(costs))
    for column in costs.T:
        order = np.argsort(column)
        ordered = column[order]
        gaps = np.full(len(column), np.inf)
        gaps[1:-1] = (ordered[2:] - ordered[:-2]) / (ordered[-1] - ordered[0] or 1.0)
        total[order] += gaps
    return total


Method = Callable[[Problem, int, int], Trace]


def methods(sampler: str) -> dict[str, Method]:
    return {
        f"{OURS}-{sampler}-halving": partial(ours, sampler=sampler, halving=True),
        f"{OURS}-{sampler}": partial(ours, sampler=sampler, halving=False),
        "random-halving": partial(at_random, halving=True),
        "random": partial(at_random, halving=False),
    }


def replay(folder: Path, sampler: str, versions: dict[str, str], key: Key) -> Run:
    task, method, seed = key
    begin = time.perf_counter()
    most = max(TRAININGS)
    trace = methods(sampler)[method](load(folder, task), seed, most * EPOCHS)
    seconds = round(time.perf_counter() - begin, 2)
    return Run(*key, versions[method], most, trace, seconds)


def main() -> None:
    parser = arguments(__doc__, ["*"], ["*"], seeds=10)
    options = parser.parse_args()
    # Every third task of the surrogate, whose first entry stands for unknown ones.
    tasks = matching(list(surrogate(options.folder).ENC)[1::3], options.problems)
    available = matching(methods(options.sampler), options.methods)
    versions = {name: engine() if name.startswith(OURS) else "" for name in available}
    keys = [(t, m, seed) for seed, t, m in product(range(options.seeds), tasks, available)]
    play = partial(replay, options.folder, options.sampler, versions)
    runs = collect(options.out, keys, versions, max(TRAININGS), play, options.jobs)

    print("hypervolume regret after the epochs of so many trainings: mean ± standard error")

    def note(each: Sequence[Run]) -> str:
        asked = np.mean([len(run.trace) for run in each])
        whole = np.mean([sum(epochs == EPOCHS for epochs, _ in run.trace) for run in each])
        return f"{asked:.0f} candidates, {whole:.0f} to the end"

    titles = {task: f"task {task}" for task in tasks}
    regrets = {task: load(options.folder, task).regret for task in tasks}
    show_all("tasks", runs, TRAININGS, titles, regrets, note)


if __name__ == "__main__":
    main()
