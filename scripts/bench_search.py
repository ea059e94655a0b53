"""How fast a search closes in on the front, replayed on tables of trained architectures.

    OMP_NUM_THREADS=1 python scripts/bench_search.py $NAS_DATA/nas --out results.jsonl --jobs 2

The folder holds nb201/nb201_table.parquet (NAS-Bench-201: six operations of a cell; accuracy
after 12 epochs against one cost) and nbgraph/nbgraph_light.parquet (NAS-Bench-Graph: how four
operations are linked; quality against latency and parameters). Each method is asked for one
architecture after the other and receives the figures of the table; all begin with the same
proven architecture. The score is the normalised hypervolume regret, 1 - HV(found) / HV(whole
table), with every objective scaled to 0..1 over the table and the reference at 1. Every
evaluation counts, those of an architecture that was evaluated before too.

Results are kept in --out, one JSON line for each run, and a run that is there is not made
again: a long benchmark can be interrupted and resumed. A run of ours counts as long as the code
of the search has not changed, one of a peer as long as its version has not. A peer that is
not installed (pip install -e ".[bench]") is left out, but for what --out holds of it.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from functools import cache, cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice, product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd

import nas
from nas.candidate import State
from nas.front import Floats, front_ranks, hypervolume, is_efficient
from nas.search.study import Study
from nas.space import Choice, Config, Space, split_family
from nas.task import COSTS, Target, direction
from nas.testing import small_task

EVALUATIONS = (25, 50, 100, 200)

# -- problems ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A table of architectures: ``values`` (rows × objectives, as the metrics are measured)
    and ``row``, which finds the row of a configuration (None where the table has none)."""

    name: str
    space: Space
    metrics: tuple[str, ...]
    classes: int
    values: Floats
    row: Callable[[Config], int | None]

    @property
    def choices(self) -> list[Choice]:
        return [param for param in self.space.params if isinstance(param, Choice)]

    def drawn(self, seed: int) -> Iterator[Config]:
        """The proven architecture, then others by chance."""
        rng = np.random.default_rng(seed)
        yield from self.space.starts()
        while True:
            yield self.space.sample(rng)

    @cached_property
    def costs(self) -> Floats:
        """The values, turned so that smaller is better."""
        return self.values * np.array([1 if direction(m) == "min" else -1 for m in self.metrics])

    @cached_property
    def _scaled(self) -> Floats:
        low, high = self.costs.min(axis=0), self.costs.max(axis=0)
        return (self.costs - low) / (high - low)

    def _volume(self, points: Floats) -> float:
        return hypervolume(points[is_efficient(points)], np.ones(points.shape[1]))

    @cached_property
    def _whole(self) -> float:
        return self._volume(self._scaled)

    def regret(self, run: Run, evaluations: int) -> float:
        """1 - HV(found) / HV(table)."""
        known = sorted({row for row in run.trace[:evaluations] if row is not None})
        return 1 - self._volume(self._scaled[known]) / self._whole


# The graph set's quality is accuracy but on proteins, where it is the area under the curve.
GRAPHS = ("cora", "citeseer", "pubmed", "cs", "physics", "photo", "computers", "arxiv", "proteins")
IMAGES = ("cifar10", "cifar100", "in16")
CLASSES = dict(zip(IMAGES, (10, 100, 120), strict=True)) | dict(
    zip(GRAPHS, (7, 6, 3, 15, 5, 8, 10, 40, 2), strict=True)
)
DEFAULTS = (
    *(f"cifar10/lat_{d}" for d in ("1080ti_1", "raspi4", "fpga", "pixel3", "eyeriss", "gold_6226")),
    "cifar10/params",
    *(f"graph/{g}" for g in ("cora", "pubmed", "arxiv", "proteins")),
)


@cache
def nb201(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "nb201" / "nb201_table.parquet")


@cache
def nbgraph(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "nbgraph" / "nbgraph_light.parquet")


def names(folder: Path) -> list[str]:
    """All problems of the tables."""
    costs = [c for c in nb201(folder).columns if str(c).startswith("lat_")] + ["params", "flops"]
    return [f"{a}/{b}" for a, b in product(IMAGES, costs)] + [f"graph/{g}" for g in GRAPHS]


@cache
def load(folder: Path, name: str) -> Problem:
    kind, which = name.split("/")
    return graphs(folder, which) if kind == "graph" else cells(folder, kind, which)


def cells(folder: Path, images: str, cost: str) -> Problem:
    """NAS-Bench-201: validation accuracy after 12 epochs, and one cost."""
    table = nb201(folder)
    columns = [f"op{i}" for i in range(6)]
    options = tuple(sorted(set(table.op0)))
    rows = {key: i for i, key in enumerate(table[columns].itertuples(index=False, name=None))}
    return Problem(
        name=f"{images}/{cost}",
        # The proven cell is one of convolutions alone, as in ResNet.
        space=Space(tuple(Choice(c, options, default="nor_conv_3x3") for c in columns)),
        metrics=("accuracy", "latency_ms" if cost.startswith("lat_") else cost),
        classes=CLASSES[images],
        values=table[[f"{images}_val_acc_ep12", cost]].to_numpy(dtype=float) * [0.01, 1],
        row=lambda config: rows[tuple(config[c] for c in columns)],
    )


def graphs(folder: Path, name: str) -> Problem:
    """NAS-Bench-Graph: each of four operations reads the input (0) or an earlier one (1..3),
    as ``link`` says; what nobody reads is the output. Many configurations are the same
    network, and the table holds each network once."""
    table = nbgraph(folder)
    table = table[table.dataset == name].reset_index(drop=True)
    links = tuple(sorted(table.link.astype(str).unique()))
    written = [ops.split("|") for ops in table.ops]
    rows = {network(*key): i for i, key in enumerate(zip(table.link, written, strict=True))}
    options = tuple(sorted({op for ops in written for op in ops}))
    two_layers = ("skip", "skip", "gcn", "gcn")  # the network of Kipf & Welling 2017
    ops = tuple(Choice(f"op{i}", options, default=op) for i, op in enumerate(two_layers, 1))
    return Problem(
        name=f"graph/{name}",
        space=Space((Choice("link", links, default="0123"), *ops)),
        metrics=("auc" if name == "proteins" else "accuracy", "latency_ms", "params"),
        classes=CLASSES[name],
        values=table[["valid_perf", "latency", "params"]].to_numpy(dtype=float) * [1, 1e3, 1e6],
        row=lambda c: rows.get(network(str(c["link"]), [str(c[f"op{i}"]) for i in range(1, 5)])),
    )


Tree = tuple[Any, ...]


def network(link: str, ops: Sequence[str]) -> Tree:
    """What a configuration computes: its operations as nested, sorted tuples, without the
    skips that change nothing. Equal for configurations that are the same network."""

    def readers(node: int, raw: bool) -> Tree:
        """What reads the output of ``node``; ``raw``: that is the network's own input."""
        found: list[Tree] = []
        for i, op in enumerate(ops, 1):
            if int(link[i - 1]) != node:
                continue
            below = readers(i, raw and op == "skip")
            if op != "skip":
                found.append((op, below))
            elif below:
                found += below
            elif not raw:  # the table's networks do not put out their input
                found.append(("skip", ()))
        # A skip with nothing beside it is the end of the one before.
        return () if found == [("skip", ())] else tuple(sorted(found))

    return readers(0, raw=True)


# -- methods -------------------------------------------------------------------------------

# Yields configurations, and is sent the row of each (None where its evaluation failed).
Asked = Generator[Config, int | None, None]


def ours(problem: Problem, seed: int, *, sampler: str) -> Asked:
    """The project's own search, driven as an executor drives it: the costs of some hundred
    configurations are measured first, as they need no training."""
    names = tuple(map(str, range(problem.classes)))
    label = Target("label", "multiclass", names, (1000 // problem.classes,) * problem.classes)
    task = replace(small_task(epochs=1, seed=seed), targets=(label,))
    task = task.with_objectives(problem.metrics)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        space = Space.join({"network": problem.space})
        study = Study(Path(folder), task, space, sampler=sampler)
        study.enqueue_baselines({"network": problem.space.starts()})
        learn_costs(study, problem, study.sampler.to_measure())
        while candidate := study.ask(preferred=listed(study, problem)):
            if (row := (yield candidate.config)) is None:
                detail = "the table does not have it"
                study.tell(replace(candidate, state=State.FAILED, reason="error", detail=detail))
                continue
            study.report(candidate.number, 1, figures(problem, row))
            study.tell(replace(study[candidate.number], state=State.COMPLETE))
        study.close()


def listed(study: Study, problem: Problem) -> list[Config]:
    """A shortlist in the order of its costs."""
    if study.waiting or not (shortlist := study.sampler.shortlist(study.history())):
        return []
    return shortlist.ranked(learn_costs(study, problem, shortlist.configs))


def learn_costs(study: Study, problem: Problem, configs: list[Config]) -> list[dict[str, float]]:
    """Costs from the table, as a preflight measures them; none for what it does not hold."""
    rows = [problem.row(split_family(config)[1]) for config in configs]
    costs = [{} if row is None else figures(problem, row, costs_only=True) for row in rows]
    study.sampler.learn_costs(configs, costs)
    return costs


def figures(problem: Problem, row: int, costs_only: bool = False) -> dict[str, float]:
    values = zip(problem.metrics, problem.values[row].tolist(), strict=True)
    return {metric: value for metric, value in values if metric in COSTS or not costs_only}


def at_random(problem: Problem, seed: int) -> Asked:
    draws = problem.drawn(seed)
    while True:
        yield next(draws)


def evolution(problem: Problem, seed: int, population: int = 20, contest: int = 5) -> Asked:
    """Regularised evolution (Real et al. 2019, algorithm 1), for several objectives: the
    parent is the contestant of the lowest non-dominated rank in the population. Their ratio
    of population to contest, at a size for hundreds of evaluations."""
    rng, draws = np.random.default_rng(seed), problem.drawn(seed)
    living: deque[tuple[Config, Floats]] = deque(maxlen=population)
    while True:
        if len(living) < population:
            config = next(draws)
        else:
            ranks = front_ranks([costs for _, costs in living])
            contestants = rng.choice(population, size=contest, replace=False)
            config = problem.space.mutate(living[min(contestants, key=ranks.__getitem__)][0], rng)
        if (row := (yield config)) is not None:
            living.append((config, problem.costs[row]))


def optuna_study(problem: Problem, seed: int, *, sampler: str, **options: Any) -> Asked:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        directions=["minimize"] * len(problem.metrics),
        sampler=getattr(optuna.samplers, sampler)(seed=seed, **options),
    )
    for start in problem.space.starts():
        study.enqueue_trial(start)
    while True:
        trial = study.ask()
        if (row := (yield problem.space.suggest(trial))) is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, problem.costs[row].tolist())


def botorch(problem: Problem, seed: int, begin: int = 10) -> Asked:
    """Log expected hypervolume improvement (Daulton et al. 2020; Ament et al. 2023) over a
    Gaussian process with a Hamming kernel for each objective, its best by local search among
    what is new. The reference point is the worst of each objective so far."""
    import torch
    from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import MixedSingleTaskGP, ModelListGP
    from botorch.optim import optimize_acqf_discrete_local_search
    from botorch.sampling import SobolQMCNormalSampler
    from botorch.utils.multi_objective.box_decompositions import FastNondominatedPartitioning
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    choices = problem.choices
    domains = [torch.arange(len(c.options), dtype=torch.double) for c in choices]
    configs = list(islice(problem.drawn(seed), begin))
    asked: list[list[int]] = []
    known: list[list[int]] = []
    observed: list[Floats] = []
    models: list[MixedSingleTaskGP] = []
    while True:
        config = configs.pop(0)
        asked.append([c.options.index(config[c.name]) for c in choices])
        if (row := (yield config)) is not None:
            known.append(asked[-1])
            observed.append(problem.costs[row])
        if configs:
            continue
        x, y = torch.tensor(known).double(), -torch.tensor(np.array(observed))
        y = (y - y.mean(dim=0)) / y.std(dim=0)
        last = [model.state_dict() for model in models]
        every = list(range(len(choices)))
        models = [MixedSingleTaskGP(x, v[:, None], every, outcome_transform=None) for v in y.T]
        for i, model in enumerate(models):
            if last:  # begin where the last fit ended
                model.load_state_dict(last[i])
            likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
            fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": 50}})
        reference = y.min(dim=0).values
        gain = qLogExpectedHypervolumeImprovement(
            ModelListGP(*models),
            reference,
            FastNondominatedPartitioning(reference, y),
            SobolQMCNormalSampler(torch.Size([64]), seed=seed),
        )
        best, _ = optimize_acqf_discrete_local_search(
            gain,
            domains,
            q=1,
            num_restarts=4,
            raw_samples=256,
            X_avoid=torch.tensor(asked).double(),
        )
        found = zip(choices, best[0].tolist(), strict=True)
        configs = [{choice.name: choice.options[round(code)] for choice, code in found}]


def smac(problem: Problem, seed: int) -> Asked:
    """ParEGO (Knowles 2006) over SMAC's random forest and local search."""
    from ConfigSpace import Categorical, ConfigurationSpace
    from smac import HyperparameterOptimizationFacade as Facade
    from smac import Scenario
    from smac.runhistory import StatusType, TrialValue

    space = ConfigurationSpace(seed=seed)
    space.add([Categorical(c.name, c.options, default=c.default) for c in problem.choices])
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space,
            objectives=list(problem.metrics),
            n_trials=max(EVALUATIONS),
            deterministic=True,
            seed=seed,
            output_directory=Path(folder),
        )
        facade = Facade(
            scenario,
            lambda config, seed: 0.0,
            initial_design=Facade.get_initial_design(
                scenario, n_configs=10, additional_configs=[space.get_default_configuration()]
            ),
            multi_objective_algorithm=Facade.get_multi_objective_algorithm(scenario),
            logging_level=False,
            overwrite=True,
        )
        logging.getLogger("smac").setLevel(logging.ERROR)  # it logs every random draw
        while True:
            trial = facade.ask()
            if (row := (yield dict(trial.config))) is None:
                worst = problem.costs.max(axis=0).tolist()
                facade.tell(trial, TrialValue(cost=worst, status=StatusType.CRASHED))
            else:
                facade.tell(trial, TrialValue(cost=problem.costs[row].tolist()))


@dataclass(frozen=True)
class Method:
    begin: Callable[..., Asked]  # (problem, seed)
    package: str  # the distribution that it needs

    @property
    def version(self) -> str:
        """What a run was made with; empty where that is not installed."""
        if self.package == "nas":
            return engine()
        try:
            return f"{self.package} {version(self.package)}"
        except PackageNotFoundError:
            return ""


@cache
def engine() -> str:
    """A hash of the code that decides what ours asks for: all of the search but executors."""
    home = Path(inspect.getfile(nas)).parent
    files = [home / "space.py", home / "front.py", *sorted((home / "search").glob("*.py"))]
    files = [
        file
        for file in files
        if file.stem not in ("local", "loop", "tune", "worker", "workers", "storage")
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


OURS = "ours"
# What ``nas.search`` takes where nothing else is asked for.
SAMPLER = inspect.signature(nas.search).parameters["sampler"].default
PEERS = {
    "random": Method(at_random, "numpy"),
    "evolution": Method(evolution, "numpy"),
    "optuna-tpe": Method(partial(optuna_study, sampler="TPESampler"), "optuna"),
    "optuna-tpe-group": Method(
        partial(optuna_study, sampler="TPESampler", multivariate=True, group=True), "optuna"
    ),
    "optuna-nsga2": Method(partial(optuna_study, sampler="NSGAIISampler"), "optuna"),
    "optuna-gp": Method(
        partial(optuna_study, sampler="GPSampler", deterministic_objective=True), "optuna"
    ),
    "botorch": Method(botorch, "botorch"),
    "smac": Method(smac, "smac"),
}


def methods(sampler: str) -> dict[str, Method]:
    return {f"{OURS}-{sampler}": Method(partial(ours, sampler=sampler), "nas"), **PEERS}


# -- runs ----------------------------------------------------------------------------------

Key = tuple[str, str, int]  # problem, method, seed


@dataclass(frozen=True)
class Run:
    """One method on one problem with one seed, and what it came upon, in order."""

    problem: str
    method: str
    seed: int
    version: str
    budget: int
    trace: list[Any]
    seconds: float
    asks: str = ""  # a hash of the configurations, in order

    @property
    def key(self) -> Key:
        return self.problem, self.method, self.seed


def replay(folder: Path, sampler: str, budget: int, key: Key) -> Run:
    """The trace is of rows of the table; None where it has no such network."""
    name, method, seed = key
    problem, chosen = load(folder, name), methods(sampler)[method]
    begin = time.perf_counter()
    asked = chosen.begin(problem, seed)
    configs = [next(asked)]
    rows = [problem.row(configs[0])]
    while len(rows) < budget:
        configs.append(asked.send(rows[-1]))
        rows.append(problem.row(configs[-1]))
    asked.close()
    seconds = round(time.perf_counter() - begin, 2)
    asks = hashlib.sha256(json.dumps(configs).encode()).hexdigest()[:16]
    return Run(*key, chosen.version, budget, rows, seconds, asks)


def collect(
    path: Path,
    keys: Sequence[Key],
    versions: dict[str, str],
    budget: int,
    play: Callable[[Key], Run],
    workers: int,
) -> list[Run]:
    """The runs that ``path`` holds and still hold, and those of ``keys`` that it lacks.
    ``versions`` are those of the methods that are installed."""
    path.touch()
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # half a line, of a benchmark that was cut off
        path.write_text(whole)
    kept = (Run(**json.loads(line)) for line in whole.splitlines())
    runs = {r.key: r for r in kept if versions.get(r.method, r.version) == r.version}
    done = {key for key, run in runs.items() if run.budget >= budget}
    missing = [key for key in keys if key not in done and key[1] in versions]
    begin = printed = time.perf_counter()
    with path.open("a") as file, ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(play, key) for key in missing]
        for count, future in enumerate(as_completed(futures), 1):
            run = future.result()
            runs[run.key] = run
            print(json.dumps(asdict(run)), file=file, flush=True)
            now = time.perf_counter()
            if now - printed > 10 or count == len(missing):
                printed = now
                left = (now - begin) / count * (len(missing) - count) / 60
                print(f"{count} of {len(missing)} runs, {left:.1f} min left", file=sys.stderr)
    return list(runs.values())


# -- tables --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A mean and its standard error."""

    mean: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Score:
        error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(mean(values), error)

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.error:.4f}"


# Of each method, by how much it had spent.
Scores = dict[str, dict[int, Score]]


def scores(
    runs: Sequence[Run], spent: Sequence[int], regret: Callable[[Run, int], float]
) -> Scores:
    found: Scores = {}
    for name in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == name]
        found[name] = {
            n: Score.of([regret(run, n) for run in own if run.budget >= n])
            for n in spent
            if any(run.budget >= n for run in own)
        }
    return found


def average(tables: Sequence[Scores]) -> Scores:
    """The means over problems, of the methods that were run on all of them."""
    found: Scores = {}
    for name in set.intersection(*map(set, tables)):
        reached = set.intersection(*(set(table[name]) for table in tables))
        found[name] = {}
        for n in sorted(reached):
            each = [table[name][n] for table in tables]
            error = math.hypot(*(score.error for score in each)) / len(each)
            found[name][n] = Score(mean(score.mean for score in each), error)
    return found


def show(title: str, found: Scores, spent: Sequence[int], notes: dict[str, str]) -> None:
    """Print a table, the best on top, and how ours does beside the best peer: their ratio,
    and their difference with its standard error ("worse" is by more than one)."""
    print(f"\n{title:22}" + "".join(f"{n:>18}" for n in spent))
    for name, at in sorted(
        found.items(), key=lambda item: [score.mean for score in item[1].values()]
    ):
        cells = "".join(f"{str(at[n]) if n in at else '':>18}" for n in spent)
        print(f"  {name:20}{cells}  {notes.get(name, '')}")
    for name, n in product(found, spent):
        rivals = {m: at[n] for m, at in found.items() if not m.startswith(OURS) and n in at}
        if not name.startswith(OURS) or n not in found[name] or not rivals:
            continue
        best = min(rivals, key=lambda m: rivals[m].mean)
        mine, other = found[name][n], rivals[best]
        gap, error = mine.mean - other.mean, math.hypot(mine.error, other.error)
        word = "worse" if gap > error else "better" if gap < -error else "as good"
        compared = f"{mine.mean / other.mean:5.2f}   {gap:+.4f} ± {error:.4f} ({word})"
        print(f"  after {n:3}: {name} / best peer ({best}) {compared}")


def show_all(
    what: str,
    runs: Sequence[Run],
    spent: Sequence[int],
    titles: dict[str, str],
    regrets: dict[str, Callable[[Any, int], float]],
    note: Callable[[Sequence[Any]], str],
) -> None:
    """Print a table for each problem of ``titles``, and their mean."""
    tables = []
    for name, title in titles.items():
        own = [run for run in runs if run.problem == name]
        tables.append(scores(own, spent, regrets[name]))
        notes = {}
        for method in tables[-1]:
            each = [run for run in own if run.method == method]
            notes[method] = f"{len(each):2} seeds, {note(each)}"
        show(title, tables[-1], spent, notes)
    if len(tables) > 1:
        show(f"mean of {len(tables)} {what}", average(tables), spent, {})


def arguments(
    doc: str, problems: Sequence[str], methods: Sequence[str], seeds: int
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the tables are")
    parser.add_argument("--out", type=Path, required=True, help="the file that keeps the runs")
    parser.add_argument("--problems", nargs="+", default=problems, help="names, * for any text")
    parser.add_argument("--methods", nargs="+", default=methods, help="names, * for any text")
    parser.add_argument("--sampler", default=SAMPLER, help="what ours searches with")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    return parser


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    found = [n for n in names if any(fnmatch(n, pattern) for pattern in patterns)]
    if not found:
        sys.exit(f"nothing is called {' or '.join(patterns)}; there are {', '.join(names)}")
    return found


def main() -> None:
    parser = arguments(__doc__, DEFAULTS, ["*"], seeds=20)
    parser.add_argument("--evaluations", type=int, default=max(EVALUATIONS), help="of a run")
    options = parser.parse_args()
    problems = matching(names(options.folder), options.problems)
    available = methods(options.sampler)
    wanted = matching(available, options.methods)
    versions = {name: method.version for name, method in available.items() if method.version}
    for name in wanted:
        if name not in versions:
            print(
                f"{name} is left out: {available[name].package} is not installed", file=sys.stderr
            )
    keys = [(p, m, seed) for seed, p, m in product(range(options.seeds), problems, wanted)]
    play = partial(replay, options.folder, options.sampler, options.evaluations)
    runs = collect(options.out, keys, versions, options.evaluations, play, options.jobs)

    print("normalised hypervolume regret after so many evaluations: mean ± standard error")

    def note(each: Sequence[Run]) -> str:
        new = mean(len(set(run.trace)) / len(run.trace) for run in each)
        pace = sum(run.seconds for run in each) / sum(len(run.trace) for run in each)
        return f"{new:4.0%} new, {pace:.3f} s"

    titles = {name: name for name in problems}
    regrets = {name: load(options.folder, name).regret for name in problems}
    show_all("problems", runs, EVALUATIONS, titles, regrets, note)


if __name__ == "__main__":
    main()
