"""What a search would do with a data set, in seconds and without training.

The data in words, what looks wrong in it, the families that fit it with their baselines' costs
and pace, the spaces that the rules leave, and the search with what it can be expected to train.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas import rules
from nas.data import Dataset, read
from nas.family import Family, pick_families
from nas.files import read_json
from nas.machine import local_room, other_room
from nas.options import PlanOptions, takes
from nas.plan import (
    BESIDE_S,
    USED,
    Pace,
    SearchPlan,
    left_to_plan,
    make_task,
    mean_fraction,
    plan_search,
    rungs,
)
from nas.pretrained.sources import usable
from nas.run import default_folder
from nas.search import samplers
from nas.space import Config, Float, Space, join_family
from nas.task import COSTS, Budget, InputError, Objective, Target, Task

PACED_S = 0.25  # of timed steps for each family


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
    plan: SearchPlan | None = None  # None where no time ends the search, or epochs were given

    @property
    def candidates(self) -> tuple[int, int] | None:
        """How many of the baselines' size the time limit is for: all trained to the end, and
        as many stopped at each rung as the plan expects. None where no pace or no end is known."""
        paces = [plan.pace for plan in self.plans if plan.pace]
        budget = self.task.budget
        if self.plan is not None and budget.time_limit_s is not None:
            # The training of the best is within the time, and spends no device-hours.
            budget = replace(budget, time_limit_s=budget.time_limit_s - self.plan.finish_s)
        worker_s = budget.worker_s
        if not paces or worker_s is None:
            return None
        counts = []
        for fraction in (1.0, mean_fraction(self.task)):
            each = [self._candidate_s(pace, fraction) for pace in paces]
            counts.append(int(USED * worker_s * len(each) / sum(each)))
        return min(counts), max(counts)

    @property
    def cut(self) -> tuple[str, ...]:
        """The families in which a proxy of the baseline's size, all its folds together, would
        train for longer than a candidate may (``rules.fidelity``)."""
        most = self.task.fidelity.time_limit_s or math.inf
        epochs = rules.folds(self.task) * self.task.fidelity.epochs
        paces = {plan.family.name: plan.pace for plan in self.plans if plan.pace}
        return tuple(name for name, pace in paces.items() if epochs * pace.epoch_s > most)

    def _candidate_s(self, pace: Pace, fraction: float) -> float:
        fidelity = self.task.fidelity
        training_s = fraction * rules.folds(self.task) * fidelity.epochs * pace.epoch_s
        return BESIDE_S + min(training_s, fidelity.time_limit_s or math.inf)

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
                "rungs": list(rungs(task.fidelity.epochs)),
                "candidates": self.candidates,
                "plan": self.plan.to_dict() if self.plan else None,
            },
            "seconds": self.seconds,
        }


@takes(PlanOptions)
def design(
    data: Any, target: Any = None, *, pace: str | Path | None = None, **options: Any
) -> Design:
    """What a search of a data set would do. Trains nothing.

    A few steps of each family's baseline are timed, at most half a second each where a step is
    not slower than that.

    Args:
        data: What ``nas.data.read`` reads: a path, a DataFrame, or (X, y). Or the folder of a
            run, whose data another search is planned for; with ``pace`` its task.json is enough.
        target: Name or names of the columns to predict.
        pace: Of another machine: a JSON file with, for each family, the seconds that an epoch of
            its baseline over all training data takes one worker. Nothing is timed then.
        {options}

    Raises:
        InputError: What a search would raise for the same data and options; a file of paces that
            is none.

    Example:
        >>> from nas.design import design
        >>> found = design("flowers.csv", "species", families=["mlp"])
        >>> [plan.family.name for plan in found.plans]
        ['mlp']
    """
    begin = time.monotonic()
    chosen = PlanOptions(target=target, **options)
    samplers.check(chosen.sampler)
    epoch_s = None if pace is None else _read_pace(Path(pace))
    run = _of_run(data)
    dataset = None if epoch_s and run else _data(data, run, chosen)
    about = dataset or run
    assert about is not None  # one of both is there
    weights, notes = usable(chosen.pretrained or (), about.modality, about.profile, data)
    families = pick_families(about.modality, chosen.families, bool(weights))
    if epoch_s is None:
        room = local_room(_gpus(chosen.device))
    else:
        room = other_room(chosen.device)
        if missing := [name for name in families if name not in epoch_s]:
            raise InputError(f"{pace} has no pace of {', '.join(missing)}: add it, or --family")
    task = make_task(
        about,
        objectives=chosen.objectives,
        constraints=chosen.limits,
        budget=room.budget(Budget(chosen.time_limit_s), chosen.workers),
        device=room.device,
        epochs=chosen.epochs,
        seed=chosen.seed,
    )
    task = replace(task, pretrained=weights)
    plans = tuple(_plans(task, dataset, families, epoch_s))
    planned = None
    paces = {plan.family.name: plan.pace for plan in plans if plan.pace}
    if paces and chosen.epochs is None and task.budget.worker_s is not None:
        divided = replace(task, budget=left_to_plan(task.budget))
        planned = plan_search(divided, paces, finish=chosen.finish, ensemble=chosen.ensemble)
        # An epoch is of a proxy, and its part of the data is another now.
        other = planned.fidelity.share / task.fidelity.share
        plans = tuple(_with_epochs(plan, other) for plan in plans)
        task = replace(task, fidelity=planned.fidelity)
    return Design(
        default_folder(data).name if isinstance(data, (str, Path)) else "the data",
        task,
        (*(dataset.notes if dataset else ()), *notes, *_advice(task)),
        plans,
        samplers.resolve(chosen.sampler, task),
        time.monotonic() - begin,
        planned,
    )


def _of_run(data: Any) -> Task | None:
    """The task of a run, where ``data`` is its folder."""
    if not isinstance(data, (str, Path)) or not (Path(data) / "task.json").is_file():
        return None
    task: Task = read_json(Path(data) / "task.json", Task)
    return task


def _data(data: Any, run: Task | None, chosen: PlanOptions) -> Dataset:
    return read(data, **chosen.reading()) if run is None else Dataset.load(Path(data) / "data")


def _read_pace(file: Path) -> dict[str, float]:
    """Seconds of an epoch by family, from a JSON file; InputError where it holds something else."""
    try:
        content = json.loads(file.read_text())
        paces = {str(name): float(seconds) for name, seconds in content.items()}
        if not all(0 < seconds < math.inf for seconds in paces.values()):
            raise ValueError("seconds are above 0")
        return paces
    except FileNotFoundError:
        raise InputError(f"{file} does not exist") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} is not a file of paces ({error}); expected is one JSON object of seconds an"
            ' epoch by family, like {"resnet": 120}'
        ) from None


def _with_epochs(plan: Plan, times: float) -> Plan:
    if plan.pace is None:
        return plan
    return replace(plan, pace=replace(plan.pace, epoch_s=times * plan.pace.epoch_s))


def _gpus(device: str) -> int:
    """The number of GPUs that are visible here, none for "cpu"; torch is needed anyway."""
    import torch

    count = 0 if device == "cpu" else torch.cuda.device_count()
    if device == "cuda" and not count:
        raise InputError("no CUDA device is visible here; choose --device cpu")
    return count


def _advice(task: Task) -> Iterator[str]:
    if rules.wants_pretrained(task) and not task.pretrained:
        yield (
            f"{task.profile.n_train:,} training samples: a network whose weights were trained on"
            " like data would likely be better (--pretrained); the families here begin at random"
        )


def _plans(
    task: Task,
    dataset: Dataset | None,
    families: dict[str, Family],
    epoch_s: dict[str, float] | None,
) -> Iterator[Plan]:
    """Each family's; without a data set the baseline's parameters alone are known of its costs."""
    from nas.training.cost import available_memory_mb
    from nas.training.evaluator import Evaluator

    # All costs are asked for, whatever the objectives.
    asked = replace(task, objectives=tuple(Objective(m, "min") for m in COSTS))
    evaluator = Evaluator(asked, dataset) if dataset else None
    for name, family in families.items():
        space = family.space(task)
        config = join_family(name, space.baseline())
        if evaluator:
            (costs,) = evaluator.costs([config], None, lambda *_: "")
        else:
            costs = {"params": float(_parameters(family, space.baseline(), task))}
        misses = tuple(
            f"{c.metric} {costs[c.metric]:.4g}, not {c}"
            for c in task.constraints
            if c.metric in costs and not c.met(costs)
        )
        pace = None
        if epoch_s is not None:
            pace = _given_pace(epoch_s[name], space.baseline(), task)
        elif evaluator and costs["memory_mb"] <= available_memory_mb(task.device):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # hints about options that were chosen
                pace = Pace(**evaluator.pace(name, space.baseline(), PACED_S, lambda *_: ""))
        yield Plan(family, space, costs, pace, misses)


def _parameters(family: Family, config: Config, task: Task) -> int:
    from nas.models.meta import without_values
    from nas.training.cost import parameters

    with without_values():
        return parameters(family.build(config, task))


def _given_pace(epoch_s: float, config: Config, task: Task) -> Pace:
    """Of a proxy, from the seconds of an epoch over all training data."""
    share = task.fidelity.share
    samples = round(share * task.profile.n_train)
    steps = rules.steps_per_epoch(samples, int(config["batch_size"]))
    return Pace(1e3 * share * epoch_s / steps, 0.0, 0, share * epoch_s)


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
    if task.is_forecast and (form := profile.series):
        yield (
            f"forecast: the next {form.horizon} values of {', '.join(form.naive_errors)}, from the"
            f" {form.window} before"
            + (f"; they repeat after {form.season}" if form.season > 1 else "")
        )
        return
    for target in task.targets[:6]:
        yield f"target {target.name}: {_kind(target)}"
    if len(task.targets) > 6:
        yield f"and {len(task.targets) - 6} more targets"


def _inputs(profile: Any) -> Iterator[str]:
    numeric = [c for c in profile.columns if c.kind == "numeric"]
    names = [c for c in profile.columns if c.kind == "categorical"]
    kinds = []
    if numeric and "numeric" in profile.inputs:
        kinds.append(f"{len(numeric)} numeric")
    if names and "categorical" in profile.inputs:
        most = max(len(c.categories) for c in names)
        kinds.append(f"{len(names)} categorical (of up to {most:,} categories)")
    if kinds:
        missing = sum(c.missing for c in profile.columns) / len(profile.columns)
        gaps = f"; {100 * missing:.2g} % of the values are missing" if missing else ""
        yield f"{' and '.join(kinds)} columns{gaps}"
    if "image" in profile.inputs:
        channels, height, width = profile.inputs["image"]
        yield f"images of {height} x {width} pixels, {channels} channel{'s' * (channels > 1)}"
    units = {"tokens": "tokens", "wave": "samples", "points": "points", "nodes": "nodes",
             "series": "steps"}  # fmt: skip
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
    sizes = sorted(zip(target.counts, target.classes, strict=True), reverse=True)
    if len(sizes) > 4:
        (most, first), (least, last) = sizes[0], sizes[-1]
        return (
            f"{target.kind}, {len(sizes)} classes of {100 * least / total:.3g} % ({last!r}) to"
            f" {100 * most / total:.3g} % ({first!r})"
        )
    each = ", ".join(f"{name!r} {100 * n / total:.3g} %" for n, name in sizes)
    return f"{target.kind}, {each}"
