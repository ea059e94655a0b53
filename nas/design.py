"""What a search would do with a data set, told in seconds and without training.

The data in words, what looks wrong in it, the families that fit it with their baselines' costs
and pace, the spaces that the rules leave, and the search with what it can be expected to train.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas import rules
from nas import run as runs
from nas.data import Dataset, read
from nas.family import Family, pick_families
from nas.search import halving, samplers
from nas.space import Config, Float, Space, join_family
from nas.task import COSTS, Budget, Constraint, InputError, Objective, Target, Task, UsageError

PACED_S = 0.25  # of timed steps for each family
BESIDE_S = 0.5  # a candidate's seconds beside its epochs: counts, a latency, a start


@dataclass(frozen=True)
class Pace:
    """A training's speed as a few steps show it: on a CPU, of a core to itself."""

    step_ms: float
    spread_ms: float  # interquartile range of the steps
    steps: int  # that were timed
    epoch_s: float  # foretold: of a proxy, with its validation


@dataclass(frozen=True)
class Plan:
    """One family on this data: its space, and its baseline with costs, pace, and the limits
    that the baseline misses."""

    family: Family
    space: Space
    costs: dict[str, float]
    pace: Pace | None
    misses: tuple[str, ...]

    @property
    def baseline(self) -> Config:
        return self.space.baseline()

    @property
    def reals(self) -> int:
        """Parameters that are real numbers; the others' combinations can be counted."""
        return sum(isinstance(param, Float) for param in self.space.params)

    @property
    def configurations(self) -> float:
        """Combinations of all parameters that are no real numbers."""
        return Space(tuple(p for p in self.space.params if not isinstance(p, Float))).size


@dataclass(frozen=True)
class Design:
    name: str
    task: Task
    notes: tuple[str, ...]
    plans: tuple[Plan, ...]
    sampler: str
    seconds: float

    @property
    def candidates(self) -> tuple[int, int] | None:
        """How many of the baselines' size the time limit is for: all trained to the end, and
        all but the best third stopped at each rung. None where no pace or no end is known."""
        paces = [plan.pace for plan in self.plans if plan.pace]
        worker_s = self.task.budget.worker_s
        if not paces or worker_s is None:
            return None
        counts = []
        for share in (1.0, self._share_of_epochs()):
            each = [self._candidate_s(pace, share) for pace in paces]
            counts.append(int(0.95 * worker_s * len(each) / sum(each)))
        return min(counts), max(counts)

    @property
    def cut(self) -> tuple[str, ...]:
        """The families in which a proxy of the baseline's size, all its folds together, would
        train for longer than a candidate may (``rules.fidelity``)."""
        most = self.task.fidelity.time_limit_s or math.inf
        epochs = rules.folds(self.task) * self.task.fidelity.epochs
        paces = {plan.family.name: plan.pace for plan in self.plans if plan.pace}
        return tuple(name for name, pace in paces.items() if epochs * pace.epoch_s > most)

    def _candidate_s(self, pace: Pace, share: float) -> float:
        fidelity = self.task.fidelity
        training_s = share * rules.folds(self.task) * fidelity.epochs * pace.epoch_s
        return BESIDE_S + min(training_s, fidelity.time_limit_s or math.inf)

    def _share_of_epochs(self, eta: int = 3) -> float:
        """Of a candidate's epochs, where each rung lets a third go on; other folds than the
        first are for those that reach its end."""
        epochs, folds = self.task.fidelity.epochs, rules.folds(self.task)
        spent, reach, before = 0.0, 1.0, 0
        for rung in (*halving.rungs(epochs, eta), epochs):
            spent, reach, before = spent + reach * (rung - before), reach / eta, rung
        return (spent + reach * eta * (folds - 1) * epochs) / (folds * epochs)

    def to_dict(self) -> dict[str, Any]:
        """What ``nas design --json`` prints."""
        task = self.task
        return {
            "name": self.name,
            "task": task.to_dict(),
            "profile": list(described(task)),
            "notes": list(self.notes),
            "families": [
                {
                    "name": plan.family.name,
                    "paper": plan.family.paper,
                    "good_for": plan.family.good_for,
                    "misses": list(plan.misses),
                    "baseline": plan.baseline,
                    "costs": plan.costs,
                    "pace": asdict(plan.pace) if plan.pace else None,
                    "space": plan.space.to_dict(),
                    "parameters": len(plan.space.params),
                    "real_parameters": plan.reals,
                    "configurations": plan.configurations,
                }
                for plan in self.plans
            ],
            "search": {
                "sampler": self.sampler,
                "folds": rules.folds(task),
                "rungs": list(halving.rungs(task.fidelity.epochs)),
                "candidates": self.candidates,
            },
            "seconds": self.seconds,
        }


def design(
    data: Any,
    target: str | Sequence[str] | None = None,
    *,
    modality: str | None = None,
    families: Sequence[str] = (),
    objectives: Sequence[str] = (),
    constraints: Sequence[str] = (),
    time_limit: str | float = "auto",
    workers: int | None = None,
    device: str = "auto",
    split: str | None = None,
    problem: str | None = None,
    image_size: int | None = None,
    columns: dict[str, str] | None = None,
    epochs: int | None = None,
    sampler: str = "auto",
    seed: int = 0,
) -> Design:
    """The design of a search of ``data``: the arguments are those of ``nas.run.search``.

    A few steps of each family's baseline are timed, at most half a second each where a step is
    not slower than that. Raises InputError, as a search would.
    """
    begin = time.monotonic()
    runs.check_counts(workers=workers, epochs=epochs)
    samplers.check(sampler)
    limits = tuple(map(Constraint.parse, constraints))
    seconds = runs.parse_duration("10m" if time_limit == "auto" else time_limit)
    dataset = read(
        data, target=target, modality=modality, split=split, problem=problem,
        image_size=image_size, columns=columns, seed=seed,
    )  # fmt: skip
    chosen = pick_families(dataset.modality, tuple(families))
    place, room, shares = runs.local_room(_gpus(device))
    workers = workers or room
    cpus, gpus = shares(workers)
    task = runs.make_task(
        dataset,
        objectives=tuple(objectives),
        constraints=limits,
        budget=Budget(seconds, workers=workers, cpus=cpus, gpus=gpus),
        device=place,
        epochs=epochs,
        seed=seed,
    )
    name = Path(data).resolve().name.split(".")[0] if isinstance(data, (str, Path)) else "the data"
    return Design(
        name,
        task,
        (*dataset.notes, *_advice(task)),
        tuple(_plans(task, dataset, chosen)),
        samplers.chosen(sampler, task),
        time.monotonic() - begin,
    )


def _gpus(device: str) -> int:
    """Those that are visible here, of the kind asked for; torch is needed anyway."""
    import torch

    if device not in runs.DEVICES:
        raise UsageError(f"unknown device {device!r}; choose {', '.join(runs.DEVICES)}")
    count = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and not count:
        raise InputError("no CUDA device is visible here; choose --device cpu")
    return count


def _advice(task: Task) -> Iterator[str]:
    if rules.wants_pretrained(task):
        yield (
            f"{task.profile.n_train:,} training samples: a network whose weights were trained on"
            " like data would likely be better; the families here begin at random"
        )


def _plans(task: Task, dataset: Dataset, families: dict[str, Family]) -> Iterator[Plan]:
    from nas.training.cost import available_memory_mb
    from nas.training.evaluator import Evaluator
    from nas.training.proxy import quiet_lightning

    quiet_lightning()
    # All costs are asked for, whatever the objectives.
    asked = replace(task, objectives=tuple(Objective(m, "min") for m in COSTS))
    evaluator = Evaluator(asked, dataset)
    for name, family in families.items():
        space = family.space(task)
        config = join_family(name, space.baseline())
        (costs,) = evaluator.costs([config], None, lambda *_: "")
        misses = tuple(
            f"{c.metric} {costs[c.metric]:.4g}, not {c}"
            for c in task.constraints
            if c.metric in costs and not c.met(costs)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # hints about options that were chosen
            pace = None
            if costs["memory_mb"] <= available_memory_mb(task.device):
                found = evaluator.pace(name, space.baseline(), PACED_S, lambda *_: "")
                pace = Pace(**found)
        yield Plan(family, space, costs, pace, misses)


# Words -----------------------------------------------------------------------------------


def described(task: Task) -> Iterator[str]:
    """The data in a few plain sentences."""
    profile = task.profile
    yield (
        f"{task.modality}: {profile.n_train:,} samples to train on, {profile.n_val:,} to validate,"
        f" {profile.n_test:,} to test ({profile.split_method})"
    )
    members = {name: m.profile for name, m in profile.members.items()} or {"": profile}
    for name, part in members.items():
        for sentence in _inputs(part):
            yield f"{name}: {sentence}" if name else sentence
    for target in task.targets[:6]:
        yield f"target {target.name}: {_kind(target)}"
    if len(task.targets) > 6:
        yield f"and {len(task.targets) - 6} more targets"


def _inputs(profile: Any) -> Iterator[str]:
    numeric = [c for c in profile.columns if c.kind == "numeric"]
    names = [c for c in profile.columns if c.kind == "categorical"]
    told = []
    if numeric and "numeric" in profile.inputs:
        told.append(f"{len(numeric)} numeric")
    if names and "categorical" in profile.inputs:
        most = max(len(c.categories) for c in names)
        told.append(f"{len(names)} categorical (of up to {most:,} categories)")
    if told:
        missing = sum(c.missing for c in profile.columns) / len(profile.columns)
        gaps = f"; {100 * missing:.2g} % of the values are missing" if missing else ""
        yield f"{' and '.join(told)} columns{gaps}"
    if "image" in profile.inputs:
        channels, height, width = profile.inputs["image"]
        yield f"images of {height} x {width} pixels, {channels} channel{'s' * (channels > 1)}"
    units = {"tokens": "tokens", "wave": "samples", "points": "points", "nodes": "nodes"}
    for kind, unit in units.items():
        if kind in profile.lengths:
            least, _, _, middle, _, most, longest = profile.lengths[kind]
            scale, unit = 1.0, unit
            if kind == "wave":
                scale, unit = 1 / profile.sample_rate, f"s at {profile.sample_rate:,} Hz"
            spans = [f"{scale * n:,.3g}" if scale < 1 else f"{n:,}" for n in
                     (least, middle, most, longest)]  # fmt: skip
            if least == longest:
                yield f"each {spans[0]} {unit}"
                continue
            yield (
                f"each {spans[0]} to {spans[3]} {unit}; {spans[1]} at the median, {spans[2]} at the"
                " 95th percentile"
            )
    if "nodes" in profile.inputs:
        features = profile.inputs["nodes"][-1]
        graph = f"one graph of {profile.inputs['nodes'][0]:,} nodes; " * ("node" in profile.inputs)
        yield f"{graph}{features:,} features of a node"
    if profile.vocabulary:
        yield f"a vocabulary of {profile.vocabulary:,}"


def _kind(target: Target) -> str:
    if target.kind == "regression":
        return f"regression, mean {target.mean:.4g}, standard deviation {target.std:.4g}"
    if target.kind == "multilabel":
        return f"multilabel, {len(target.classes)} yes/no questions"
    total = sum(target.counts)
    shares = sorted(zip(target.counts, target.classes, strict=True), reverse=True)
    if len(shares) > 4:
        (most, first), (least, last) = shares[0], shares[-1]
        return (
            f"{target.kind}, {len(shares)} classes of {100 * least / total:.3g} % ({last!r}) to"
            f" {100 * most / total:.3g} % ({first!r})"
        )
    each = ", ".join(f"{name!r} {100 * n / total:.3g} %" for n, name in shares)
    return f"{target.kind}, {each}"


def show(found: Design, width: int | None = None) -> None:
    """Print a design."""
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table

    console = Console(width=width, highlight=False)

    def heading(text: str, about: str = "") -> None:
        console.print(f"\n[bold]{text}[/]  [dim]{about}[/]")

    def line(text: str, mark: str = "") -> None:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(*([mark, escape(text)] if mark else [escape(text)]))
        console.print(Padding(grid, (0, 0, 0, 2)))

    console.print(f"[bold]{escape(found.name)}[/]")
    for text in described(found.task):
        line(text)
    heading("Notes", "" if found.notes else "nothing looks odd")
    for text in found.notes:
        line(text, "-")
    heading("Families", "each begins with this baseline; times are of a core or a GPU to itself")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    heads = ("params", "FLOPs", "latency ms", "train MiB", "run MiB", "step ms", "epoch s")
    for i, head in enumerate(("family", *heads)):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for plan in found.plans:
        c, pace = plan.costs, plan.pace
        table.add_row(
            plan.family.name, f"{c['params']:,.0f}", _short(c["flops"]), f"{c['latency_ms']:.3g}",
            f"{c['memory_mb']:,.3g}", f"{c['inference_mb']:,.3g}",
            f"{pace.step_ms:.3g} ±{_short(round(pace.spread_ms / 2, 1))}" if pace else "no memory",
            f"{pace.epoch_s:.2g}" if pace else "",
        )  # fmt: skip
    console.print(Padding(table, (0, 0, 0, 2)))
    grid = Table.grid(padding=(0, 2))
    for plan in found.plans:
        verdict = f"[red]misses {escape('; '.join(plan.misses))}.[/] " if plan.misses else ""
        grid.add_row(plan.family.name, verdict + escape(plan.family.good_for))
    console.print(Padding(grid, (1, 0, 0, 2)))
    heading(
        "Space", f"`nas families {found.plans[0].family.name} --data …` tells each bound and why"
    )
    grid = Table.grid(padding=(0, 2))
    for plan in found.plans:
        kinds = f"{len(plan.space.params)} parameters, {plan.reals} of them real numbers"
        grid.add_row(
            plan.family.name, f"{kinds}; {_short(plan.configurations)} settings of the rest"
        )
    console.print(Padding(grid, (0, 0, 0, 2)))
    heading("Search")
    for text in _search_words(found):
        line(text)


def _search_words(found: Design) -> Iterator[str]:
    task = found.task
    fidelity, budget = task.fidelity, task.budget
    wanted = ", ".join(f"{o.metric} ({o.direction})" for o in task.objectives)
    limits = f"; limits: {', '.join(map(str, task.constraints))}" if task.constraints else ""
    yield f"objectives: {wanted}{limits}"
    yield f"sampler: {found.sampler}, after the {len(found.plans)} baselines"
    parts = rules.folds(task)
    folded = f", {parts}-fold cross-validation" if parts > 1 else ""
    stops = halving.rungs(fidelity.epochs)
    judged = f", judged after {' and '.join(map(str, stops))}" if stops else ""
    yield (
        f"proxies: {fidelity.epochs} epochs on {fidelity.share:.0%} of the training part{judged}"
        f"{folded}; {budget.workers} workers on {task.device}"
    )
    if found.candidates:
        few, many = found.candidates
        slow = ""
        if found.cut:
            limit_s = fidelity.time_limit_s or math.inf
            slow = (
                f"; one of {' or '.join(found.cut)} would train for longer than it may,"
                f" {limit_s:.0f} s{' for all folds' * (parts > 1)} (a baseline"
                f" {rules.BASELINE_PATIENCE * limit_s:.0f} s)"
            )
        stopped = f", or {many:,} if rungs stop two of three" if stops else ""
        yield (
            f"in {budget.time_limit_s:.0f} s about {few:,} candidates of the baselines' size, each"
            f" trained to its end{stopped}; smaller ones take less{slow}"
        )


def _short(value: float) -> str:
    """Three digits: 812, 1.23 k, 45.1 M, 3.2 G, and powers of ten beyond."""
    if value >= 1e15:
        return f"10^{math.log10(value):.0f}"
    for size, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
