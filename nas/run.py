"""Where search meets training: one search from a data set to its folder of results.

A run's folder holds everything: run.json (how it was asked for, the spaces), task.json, data/
(the coded data set), lr.json (the learning-rate range tests), study.journal (the candidates),
baselines.json, layers/, logs/, report.html, recipe.yaml. With a PostgreSQL storage the candidates
are there, and run.json says where.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import rules
from nas.candidate import Candidate, State
from nas.data import Dataset, read
from nas.family import pick_families
from nas.files import read_json, write_whole
from nas.front import constant_guess, pareto
from nas.search import samplers
from nas.space import Float, Space
from nas.task import (
    COSTS,
    Budget,
    Constraint,
    InputError,
    NoFeasibleCandidate,
    Task,
    UsageError,
    direction,
)

if TYPE_CHECKING:
    import pandas as pd

    from nas.search.study import Study
    from nas.search.workers import Workers


@dataclass(frozen=True)
class Progress:
    """A moment of a running search, for whoever shows it."""

    study: Study | None  # None before it begins
    running: tuple[Candidate, ...]
    spent_s: float
    budget: Budget
    phase: str  # "start", "learning-rates:1/3" (tests that are over), "search" or "measure"
    calls: tuple[str, ...] = ()  # what workers are at beside candidates


DEVICES = ("auto", "cpu", "cuda")
_DEFAULTS = {
    "device": "auto",
    "sampler": "auto",
    "seed": 0,
    "deterministic": False,
    "lr_test": rules.LR_TEST,
}
# A proxy seldom fills a GPU.
_WORKERS_PER_GPU = 2
# Where it lies in a folder, a search is beginning there, or was ended while it began.
_CREATING = ".creating"
# The share of a search's time that goes into the costs of networks before any is trained.
_MEASURING = 0.01
# The most of it that goes into tests of learning rates, which take far less as a rule.
_TESTING = 0.1
_READ_OPTIONS = ("target", "split", "problem", "image_size", "columns", "seed")


def search(
    data: Any = None,
    target: str | Sequence[str] | None = None,
    *,
    modality: str | None = None,
    families: Sequence[str] = (),
    objectives: Sequence[str] = (),
    constraints: Sequence[str] | dict[str, str] = (),
    time_limit: str | float | None = "auto",
    trials: int | None = None,
    cpu_hours: float | None = None,
    gpu_hours: float | None = None,
    workers: int | None = None,
    device: str = "auto",
    split: str | None = None,
    problem: str | None = None,
    image_size: int | None = None,
    columns: dict[str, str] | None = None,
    epochs: int | None = None,
    sampler: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    storage: str | None = None,
    study: str | None = None,
    executor: str = "local",
    address: str | None = None,
    cpus_per_trial: float | None = None,
    gpus_per_trial: float | None = None,
    deterministic: bool = False,
    lr_test: bool = rules.LR_TEST,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_start: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Search networks for ``data`` and return the run, whose folder is ``out``.

    ``data``, ``target``, ``modality``, ``split``, ``problem``, ``image_size`` and ``columns``
    are those of ``nas.data.read``. ``constraints`` are texts like "latency_ms<=5" (or a
    dictionary, {"latency_ms": "<=5"}). The search ends when the first is spent of
    ``time_limit`` (seconds, or "90s", "10m", "2h"; None for no limit; "auto" is ten minutes
    where no other budget is given), ``trials`` candidates, and ``cpu_hours`` or ``gpu_hours``
    in which candidates had a device to themselves (two on one GPU spend half an hour each in
    an hour). With ``resume`` an earlier run in ``out`` goes on: its data, spaces and
    objectives stand, only the budget is new (what was spent counts).

    ``storage`` is the URL of a PostgreSQL database to keep the candidates in, instead of a
    journal in ``out``, as the study of the name ``study`` (default: that of ``out``).

    ``executor`` is "local" (processes on this machine) or "ray" (actors of Ray Tune, on the
    cluster at ``address`` or of RAY_ADDRESS, else on this machine), where a candidate gets
    ``cpus_per_trial`` (default: 1) and ``gpus_per_trial`` (default: half of one where there are
    any) and by default as many are trained at once as there is room for.

    A ``deterministic`` search ends after ``trials`` candidates and by no clock. Its workers go
    in step, so that the same data, seed and number of workers give the same candidates again,
    on the same kind of machine, however fast each worker is. Latency is measured but
    steers nothing; by default FLOPs take its place among the objectives.

    With ``lr_test`` a learning-rate range test of each family's baseline comes first, and sets
    the bounds of its learning rate right where they are far off. It takes a hundred steps, and
    is given up where the tests would take more than a tenth of the budget.

    Raises InputError (one line: what, where, how to mend it) and NoFeasibleCandidate.
    """
    folder = Path(out) if out is not None else default_folder(data)
    check_counts(workers=workers, trials=trials, epochs=epochs)
    limits_given = _limits(time_limit, trials, cpu_hours, gpu_hours)
    samplers.check(sampler)
    limits = _parse_constraints(constraints)
    for metric in objectives:
        direction(metric)  # an unknown one is told before the data is read
    if device not in DEVICES:
        raise UsageError(f"unknown device {device!r}; choose {', '.join(DEVICES)}")
    options: dict[str, Any] = {
        "target": [target] if isinstance(target, str) else target and list(target),
        "modality": modality,
        "families": list(families),
        "objectives": list(objectives),
        "constraints": [str(limit) for limit in limits],
        "split": split,
        "problem": problem,
        "image_size": image_size,
        "columns": columns,
        "epochs": epochs,
        "device": device,
        "sampler": sampler,
        "seed": seed,
        "storage": storage,
        "study": study,
        "deterministic": deterministic,
        "lr_test": lr_test,
    }
    started = (folder / "task.json").exists()
    if started and not resume:
        _refuse_used(folder)
    if resume and not started:
        raise InputError(f"{folder} holds no search to resume; leave --resume out to start one")
    if started:
        run = Run(folder)
        run._same(options)
        device, deterministic = run.task.device, run.deterministic
    if deterministic:
        _check_deterministic(limits_given, [*objectives, *(c.metric for c in limits)])
    if not started:
        _refuse_used(folder)
        if storage:
            options["study"] = study or folder.resolve().name
            _refuse_known(storage, options["study"])
        elif study:
            raise UsageError("only a storage names its studies: give --storage too")
        if data is None:
            raise UsageError("give the data to search on")
        dataset = read(data, modality=modality, **{name: options[name] for name in _READ_OPTIONS})
        chosen = pick_families(dataset.modality, tuple(families))
    trial = (cpus_per_trial, gpus_per_trial)
    with _machine(executor, device, address, trial, deterministic) as machine:
        budget = machine.share(limits_given, workers)
        if not started:
            task = make_task(
                dataset,
                objectives=tuple(objectives),
                constraints=limits,
                budget=budget,
                device=machine.device,
                epochs=epochs,
                seed=seed,
                deterministic=deterministic,
            )
            spaces = {name: family.space(task) for name, family in chosen.items()}
            source = {
                "source": str(Path(data).resolve()) if isinstance(data, (str, Path)) else None,
                "modality": dataset.modality,
                **{name: options[name] for name in _READ_OPTIONS},
            }
            _create(folder, task, dataset, spaces, source, options)
            run = Run(folder)
        run._go(budget, machine, on_start, on_progress)
    return run


def make_task(
    dataset: Dataset,
    *,
    objectives: tuple[str, ...] = (),
    constraints: tuple[Constraint, ...] = (),
    budget: Budget,
    device: str,
    epochs: int | None = None,
    seed: int = 0,
    deterministic: bool = False,
) -> Task:
    """The task of a data set; the proxies' fidelity follows from the rules."""
    task = Task(
        modality=dataset.modality,
        targets=dataset.targets,
        profile=dataset.profile,
        constraints=constraints,
        device=device,
        budget=budget,
        seed=seed,
    )
    if deterministic and not objectives:
        objectives = (task.default_quality, "flops", "params")
    task = task.with_objectives(objectives)
    _check_measured(task, [o.metric for o in task.objectives] + [c.metric for c in constraints])
    fidelity = rules.fidelity(task)
    if epochs is not None:
        fidelity = replace(fidelity, epochs=epochs)
    return replace(task, fidelity=fidelity)


def _check_deterministic(limits: Budget, metrics: Sequence[str]) -> None:
    if limits.time_limit_s is not None or limits.device_hours:
        raise UsageError(
            "a clock never stops twice at the same candidate: a deterministic search"
            " takes --trials and no limit of time or device-hours"
        )
    if "latency_ms" in metrics:
        raise UsageError(
            "latency_ms differs from measurement to measurement: it cannot be an"
            " objective or a limit of a deterministic search; flops can"
        )


def _check_measured(task: Task, metrics: Sequence[str]) -> None:
    known = quality_metrics(task) + COSTS
    for metric in metrics:
        if metric not in known:
            raise UsageError(
                f"{metric!r} is not measured on this data; measured are {', '.join(known)}"
            )


def quality_metrics(task: Task) -> tuple[str, ...]:
    """The quality metrics that networks of this task are scored by."""
    by_kind = {
        "regression": ("rmse", "mae", "r2"),
        "multilabel": ("accuracy", "f1", "auc"),
        "binary": ("accuracy", "balanced_accuracy", "f1", "auc"),
        "multiclass": ("accuracy", "balanced_accuracy", "f1", "auc"),
    }
    if len(task.targets) == 1:
        return (*by_kind[task.targets[0].kind], "val_loss")
    each = tuple(f"{metric}[{t.name}]" for t in task.targets for metric in by_kind[t.kind])
    return ("score", *each, "val_loss")


def _create(
    folder: Path,
    task: Task,
    dataset: Dataset,
    spaces: dict[str, Space],
    source: dict[str, Any],
    options: dict[str, Any],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _CREATING
    with marker.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of two that start at once, the second waits here
        _refuse_used(folder)
        dataset.save(folder / "data")
        if source["source"] is None:
            source["source"] = str((folder / "data").resolve())
        record = {
            "options": options,
            "spaces": {name: space.to_dict() for name, space in spaces.items()},
            "source": source,
            "versions": versions(),
        }
        write_whole(folder / "run.json", json.dumps(record))
        write_whole(folder / "task.json", task.to_json())  # last: it marks the run as begun
        marker.unlink(missing_ok=True)


def _refuse_used(folder: Path) -> None:
    """A new search needs an empty folder, or what one left that was ended while it began."""
    if (folder / "task.json").exists():
        (folder / _CREATING).unlink(missing_ok=True)
        raise InputError(f"{folder} holds a search; go on with --resume, or choose --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _CREATING).exists():
        raise InputError(f"{folder} is not empty and holds no search; choose another --out")


def _refuse_known(storage: str, study: str) -> None:
    """A new search needs a study of its own, in a storage that can be reached."""
    from nas.search.storage import Postgres

    if Postgres(storage, study).exists():
        raise InputError(
            f"{storage} holds a study {study!r}; go on with --resume and its folder, or choose"
            " another name with --study"
        )


class Run:
    """A search on disk: what ``nas.search`` returns, and what the commands open."""

    def __init__(self, folder: str | Path, latency: str | Path | None = None) -> None:
        """``latency`` is a file of ``nas latency``: its figures take the place of those that
        the search measured, and what it does not hold has none."""
        self.folder = Path(folder)
        self._latency = Path(latency) if latency is not None else None
        if not (self.folder / "task.json").exists():
            raise InputError(
                f"{folder} holds no search; `nas search DATA --out {folder}` makes one"
            )

    @cached_property
    def task(self) -> Task:
        file = self.folder / "task.json"
        content = read_json(file)
        try:
            return Task.from_dict(content)
        except InputError as error:
            raise InputError(f"{file}: {error}; was it written by another version?") from None

    @cached_property
    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = read_json(self.folder / "run.json")
        return record

    @cached_property
    def spaces(self) -> dict[str, Space]:
        return {name: Space.from_dict(s) for name, s in self._record["spaces"].items()}

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of ``nas.data.read`` that give this run's data again."""
        source: dict[str, Any] = self._record["source"]
        return source

    @property
    def versions(self) -> dict[str, str]:
        return dict(self._record["versions"])

    @property
    def _storage(self) -> dict[str, str]:
        """The arguments of ``Study`` that say where it is kept."""
        options = self._record["options"]
        if not options.get("storage"):
            return {}
        return {"storage": options["storage"], "name": options["study"]}

    @property
    def deterministic(self) -> bool:
        return bool(self._record["options"].get("deterministic"))

    @property
    def notes(self) -> tuple[str, ...]:
        tests = self.rate_tests()
        untold = (f"{name}: {t['note']}" for name, t in tests.items() if "note" in t)
        return (*Dataset.load(self.folder / "data").notes, *untold)

    def rate_tests(self) -> dict[str, dict[str, Any]]:
        """The learning-rate range tests by family: ``nas.training.lr.RangeTest`` by name, or
        the note that says why there is none; empty before they are over."""
        file = self.folder / "lr.json"
        return dict(read_json(file)) if file.exists() else {}

    def baselines(self) -> list[dict[str, Any]]:
        """The simple models' scores on the validation part; empty until they are fitted."""
        file = self.folder / "baselines.json"
        return list(read_json(file)) if file.exists() else []

    def candidates(self) -> list[Candidate]:
        from nas.search.study import load_candidates

        found = load_candidates(self.folder, **self._storage)
        return [self._elsewhere(c) for c in found] if self._latency else found

    @cached_property
    def measured(self) -> dict[str, Any]:
        """What another device has measured of this run: the file of ``nas latency``."""
        assert self._latency is not None
        try:
            found: dict[str, Any] = json.loads(self._latency.read_text())
            if not {"device", "batches", "candidates"} <= set(found):
                raise ValueError("it lacks device, batches or candidates")
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{self._latency} is no file of `nas latency` ({error}); measure with"
                f" `nas latency {self.folder}`"
            ) from None
        return found

    @property
    def measured_on(self) -> str:
        """The device of ``measured`` in a few words."""
        device = self.measured["device"]
        how = f"{device['kind']}, {device['backend']}, batch {self.measured['batches'][0]}"
        return f"{device['name']} ({how})"

    def _elsewhere(self, candidate: Candidate) -> Candidate:
        """A candidate with the latency of the first batch size in ``measured``."""
        row = self.measured["candidates"].get(str(candidate.number), {})
        if row and (row["family"], row["config"]) != (candidate.family, candidate.config):
            raise InputError(
                f"{self._latency} was measured on another run: its candidate {candidate.number} is"
                f" another network; measure with `nas latency {self.folder}`"
            )
        metrics = {k: v for k, v in candidate.metrics.items() if k != "latency_ms"}
        batch = self.measured["batches"][0]
        found = row.get("latency", {}).get(str(batch))  # a backend may fail at this size alone
        if found is None:
            return replace(candidate, metrics=metrics)
        threads = self.measured["device"]["threads"]
        figures = found | {"batch": batch, "on": self.measured_on, "threads": threads}
        return replace(
            candidate,
            metrics=metrics | {"latency_ms": figures["ms"]},
            cost=candidate.cost | {"latency": figures},
        )

    def layers(self, number: int) -> tuple[dict[str, Any], ...]:
        """The layers of a candidate: name, type, output shape and parameters of each."""
        file = self.folder / "layers" / f"{number}.json"
        return tuple(read_json(file)) if file.exists() else ()

    def frame(self) -> pd.DataFrame:
        """One row for each candidate."""
        import pandas as pd

        return pd.DataFrame([c.row() for c in self.candidates()])

    def front(self, *limits: str) -> list[Candidate]:
        """The non-dominated candidates inside the run's constraints and ``limits``."""
        constraints = self.task.constraints + _parse_constraints(limits)
        _check_measured(self.task, [c.metric for c in constraints])
        return pareto(
            self._ranked(constraints), self.task.objectives, constraints, constant_guess(self.task)
        )

    def _ranked(self, constraints: Sequence[Constraint]) -> list[Candidate]:
        """The candidates; of another device's latencies those that it has measured."""
        found = self.candidates()
        if self._latency is None:
            return found
        needed = {o.metric for o in self.task.objectives} | {c.metric for c in constraints}
        return [c for c in found if c.state != State.COMPLETE or needed <= set(c.metrics)]

    def best(self, *limits: str) -> Candidate:
        """The candidate of the best quality inside the run's constraints and ``limits``."""
        front = self.front(*limits)
        if not front:
            raise NoFeasibleCandidate(self._why_none(limits))
        quality = self.task.quality
        sign = -1 if quality.direction == "max" else 1
        return min(front, key=lambda c: sign * c.metrics[quality.metric])

    def _why_none(self, limits: Sequence[str] = ()) -> str:
        candidates = self.candidates()
        ends = Counter(why or how for how, why in (c.standing for c in candidates))
        told = ", ".join(f"{n} {what}" for what, n in ends.items()) or "none was trained"
        wanted = " and ".join([str(c) for c in self.task.constraints] + list(limits))
        if not wanted:
            return f"no candidate is complete ({told}); search longer"
        nearest = ""
        for limit in self.task.constraints + _parse_constraints(limits):
            measured = [c.metrics for c in candidates if limit.metric in c.metrics]
            if measured and not any(map(limit.met, measured)):
                values = [metrics[limit.metric] for metrics in measured]
                value = min(values) if limit.op == "<=" else max(values)
                nearest += f"; the nearest {limit.metric} was {value:g}"
        mend = "relax the limit or search longer" if nearest else "search longer"
        return f"no candidate is complete and meets {wanted} ({told}{nearest}); {mend}"

    @property
    def spent_s(self) -> float:
        """Seconds of the wall clock that searches in this folder have taken, from the start of
        their workers to the last latency."""
        from nas.search.storage import Clock

        return Clock(self.folder).read()

    def hours(self, device: str) -> float:
        """CPU-hours ("cpu") or GPU-hours ("gpu") that candidates have spent."""
        return sum(c.device_seconds[device] for c in self.candidates()) / 3600

    def report(self, path: str | Path | None = None) -> Path:
        """Write the self-contained page and return its path."""
        from nas import report

        path = Path(path) if path is not None else self.folder / "report.html"
        view = report.StudyView(
            task=self.task,
            candidates=[replace(c, layers=self.layers(c.number)) for c in self.candidates()],
            baselines=self.baselines(),
            name=self.folder.resolve().name,
            spaces=self.spaces,
            rate_tests=self.rate_tests(),
            rules={r.id: (r.statement, r.source) for r in rules.RULES.values()},
            notes=(*([f"latency on {self.measured_on}"] if self._latency else []), *self.notes),
            latency_on=self.measured["device"]["name"] if self._latency else "",
            seconds=self.spent_s,
            versions=self.versions,
        )
        report.write(view, path)
        return path

    def export(self, path: str | Path | None = None, number: int | None = None) -> Path:
        """Write the recipe of a candidate (default: the best) and return its path."""
        from nas import recipe

        candidate = self.best() if number is None else self._candidate(number)
        path = Path(path) if path is not None else self.folder / "recipe.yaml"
        recipe.write(recipe.make(candidate, self.task, self.source, self.versions), path)
        return path

    def measure_latency(self, numbers: Sequence[int] = (), **how: Any) -> dict[str, Any]:
        """Latencies of candidates (default: the front) on this device; ``how`` are the arguments
        of ``nas.training.latency.measure`` from ``backend`` on. Inputs are of the run's data, or
        made up from their profile where a copy of the run has no data."""
        from nas.training import latency
        from nas.training.batches import row_inputs, typical_rows

        chosen = [self._candidate(n) for n in numbers] if numbers else self.front()
        if not chosen:
            raise NoFeasibleCandidate(self._why_none())
        subjects = [latency.Subject(c.number, c.family, c.config) for c in chosen]
        sample = None
        if (self.folder / "data" / "dataset.json").exists():
            dataset = Dataset.load(self.folder / "data")

            def sample(batch: int) -> dict[str, Any]:
                return row_inputs(dataset, typical_rows(dataset, batch))

        return latency.measure(subjects, self.task, sample, **how)

    def _candidate(self, number: int) -> Candidate:
        known = {c.number: c for c in self.candidates()}
        if number not in known:
            raise UsageError(f"no candidate {number} in {self.folder}; it has {len(known)}")
        if known[number].state != State.COMPLETE:
            how, why = known[number].standing
            raise InputError(f"candidate {number} is not complete ({why or how}); choose another")
        return known[number]

    # -- the search itself ---------------------------------------------------------------

    def _same(self, options: dict[str, Any]) -> None:
        """Raise UsageError where a resume asks for another search than the one it resumes;
        what it leaves out stands as it was."""
        for name, first in self._record["options"].items():
            if options[name] not in (first, None, [], _DEFAULTS.get(name)):
                raise UsageError(
                    f"the search in {self.folder} was begun with {name} = {first}, not"
                    f" {options[name]}; resume with the same, or start another with --out"
                )

    def _go(
        self,
        budget: Budget,
        machine: _Machine,
        on_start: Callable[[Run], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        from nas.search.storage import lock

        begin = time.monotonic()
        with ExitStack() as stack:
            with closing(lock(self.folder / "driver.lock")):  # until the study takes it
                self.task = replace(self.task, budget=budget)
                write_whole(self.folder / "task.json", self.task.to_json())
                on_start(self)
                workers = stack.enter_context(machine.start(self))
                if self._record["options"].get("lr_test"):
                    self._test_rates(workers, begin, on_progress)
            self._study(workers, begin, on_progress)
        if not self.front():
            raise NoFeasibleCandidate(self._why_none())

    def _test_rates(
        self, workers: Workers, begin: float, on_progress: Callable[[Progress], None]
    ) -> None:
        """Bounds of learning rates from range tests (rule "learning-rate-first"). Where one
        fails, or tells nothing, the family's bounds stand and a note says why."""
        budget, told = self.task.budget, self.rate_tests()
        rates = {
            name: rate
            for name, space in self.spaces.items()
            for rate in space.params
            if rate.name == "lr" and isinstance(rate, Float)
        }
        if not told and rates:
            limit = None
            if budget.worker_s is not None:
                limit = _TESTING * budget.worker_s / len(rates)
            calls = [
                {"family": name, "config": self.spaces[name].baseline(), "limit_s": limit}
                for name in rates
            ]

            def show(over: int) -> None:
                phase = f"learning-rates:{over}/{len(calls)}"
                on_progress(Progress(None, (), time.monotonic() - begin, budget, phase))

            tests = workers.map("range_test", calls, on_wait=show)
            told = {n: _tested(rates[n], t) for n, t in zip(rates, tests, strict=True)}
            write_whole(self.folder / "lr.json", json.dumps(told))
        for name, test in told.items():
            rate = Float.from_dict(rates[name].to_dict() | test["bounds"])
            params = (rate if p.name == rate.name else p for p in self.spaces[name].params)
            self.spaces[name] = Space(tuple(params))
        self._record["spaces"] = {name: s.to_dict() for name, s in self.spaces.items()}
        write_whole(self.folder / "run.json", json.dumps(self._record))

    def _study(
        self,
        workers: Workers,
        begin: float,
        on_progress: Callable[[Progress], None],
    ) -> None:
        from optuna.exceptions import StorageInternalError

        from nas.search.study import Study

        space, budget = Space.join(self.spaces), self.task.budget
        sampler = self._record["options"]["sampler"]
        study = Study(self.folder, self.task, space, sampler=sampler, **self._storage)
        try:
            earlier = study.clock.read()
            study.enqueue_baselines(rules.first_candidates(self.spaces))
            phase, begun = "search", False

            def show(_: Any = None) -> None:
                jobs = workers.jobs()
                running = tuple(study[job.number] for job in jobs if isinstance(job, Candidate))
                calls = tuple(_name(job) for job in jobs if not isinstance(job, Candidate))
                spent = earlier + time.monotonic() - begin
                nonlocal begun
                begun = begun or bool(jobs)
                now = phase if begun else "start"  # as long as the workers do
                study.clock.write(spent)
                on_progress(Progress(study, running, spent, budget, now, calls))

            if budget.time_limit_s is None or earlier < budget.time_limit_s:
                self._search(study, workers, begin, earlier, show)
            phase = "measure"
            self._measure_front(study, workers, show)
            show()
        except StorageInternalError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise InputError(
                f"the storage failed ({reason}); what is finished is kept: go on with --resume"
            ) from error
        finally:
            study.close()

    def _search(
        self,
        study: Study,
        workers: Workers,
        begin: float,
        earlier: float,
        show: Callable[..., None],
    ) -> None:
        from nas.search.loop import drive

        limit, deadline = self.task.budget.time_limit_s, None
        if limit is not None:
            # The last twentieth (at most half a minute) is for the quiet latencies.
            deadline = begin + (limit - earlier) - min(30.0, 0.05 * limit)

        listed = study.to_measure()
        told = self.folder / "baselines.json"

        def also(name: str, value: Any) -> None:
            if name == "costs":
                if not isinstance(value, InputError):  # else candidates alone tell of costs
                    study.learn_costs(listed, value)
                return
            if isinstance(value, InputError):  # no reason to end the search, nor to hide it
                value = [{"name": "simple models", "metrics": {}, "error": str(value)}]
            write_whole(told, json.dumps(value))

        calls: dict[str, dict[str, Any]] = {}
        if listed:
            share = None if limit is None else _MEASURING * limit * self.task.budget.workers
            calls["costs"] = {"configs": listed, "limit_s": share}
        if not told.exists():
            calls["baselines"] = {}
        drive(
            study,
            workers,
            deadline=deadline,
            trials=self.task.budget.trials,
            calls=calls,
            on_result=also,
            on_event=show,
        )

    def _measure_front(self, study: Study, workers: Workers, show: Callable[..., None]) -> None:
        """Measure latencies again, side by side, while all trainings on this machine hold still.

        Not only the front's: the others were measured beside trainings too, so each is taken
        to gain as the measured ones did, and is measured if it would then be on the front.
        One that takes two workers with it keeps the latency it has, and says why.
        """
        tried: set[int] = set()
        guess = constant_guess(self.task)
        while True:
            measured = [c.cost["latency"] for c in study.candidates() if _is_quiet(c)]
            gains = [now["ms"] / now["loud_ms"] for now in measured]
            gain = min(1.0, statistics.median(gains)) if len(gains) >= 3 else 1.0
            hoped = [
                c
                if _is_quiet(c) or "latency_ms" not in c.metrics
                else _with_latency(c, gain * c.metrics["latency_ms"])
                for c in study.candidates()
            ]
            front = pareto(hoped, self.task.objectives, self.task.constraints, guess)
            wanted = {c.number for c in front if not _is_quiet(c)} - tried
            if not wanted:
                return
            candidates = [study[number] for number in sorted(wanted)]
            values = _quiet_latencies(workers, candidates, show)
            for candidate, value in zip(candidates, values, strict=True):
                value["loud_ms"] = candidate.metrics["latency_ms"]
                measured_again = _with_latency(candidate, value["ms"])
                study.revise(replace(measured_again, cost=candidate.cost | {"latency": value}))
            tried |= wanted


def _name(job: Any) -> str:
    """What a worker's call that trains no candidate is for; a shortlist waits for its costs."""
    names = {"baselines": "simple-models", "latency": "latency", "latencies": "latency"}
    return names.get(str(job), "costs")


def _tested(rate: Float, test: Any) -> dict[str, Any]:
    """What is kept of a family's range test: what it has seen, the bounds that follow, and
    where they are the family's own, a note."""
    if isinstance(test, InputError):
        test = {"note": f"its learning rates stay its own: {test}"}
    elif test["lowest"] is None:
        test["note"] = "its learning rates stay its own: the loss hardly fell in the range test"
    else:
        rate = rules.tested_rate(rate, test["lowest"])
    bounds = {name: getattr(rate, name) for name in ("low", "high", "default", "why")}
    return {**test, "bounds": bounds}


def _quiet_latencies(
    workers: Workers, candidates: list[Candidate], show: Callable[..., None]
) -> list[dict[str, Any]]:
    """Of all together, or where that ends their worker, each by itself."""
    rows = [candidate.to_dict() for candidate in candidates]
    try:
        values = workers.call_alone("latencies", candidates=rows, on_wait=show)
        return [dict(value) for value in values]
    except InputError:
        return [_quiet_latency(workers, candidate, show) for candidate in candidates]


def _quiet_latency(
    workers: Workers, candidate: Candidate, show: Callable[..., None]
) -> dict[str, Any]:
    for _ in range(2):
        try:
            value = workers.call_alone("latency", candidate=candidate.to_dict(), on_wait=show)
            return dict(value)
        except InputError as error:
            reason = str(error)
    loud: dict[str, Any] = candidate.cost["latency"]
    return loud | {"loud_because": reason}


def _is_quiet(candidate: Candidate) -> bool:
    return bool(candidate.cost.get("latency", {}).get("quiet"))


def _with_latency(candidate: Candidate, latency_ms: float) -> Candidate:
    return replace(candidate, metrics=candidate.metrics | {"latency_ms": latency_ms})


def _parse_constraints(given: Sequence[str] | dict[str, str]) -> tuple[Constraint, ...]:
    if isinstance(given, dict):
        given = [f"{name}{bound}" for name, bound in given.items()]
    return tuple(Constraint.parse(text) for text in given)


def parse_duration(value: str | float | None) -> float | None:
    """Seconds of 90, "90", "90s", "10m" or "1.5h"."""
    if value is None:
        return None
    text = str(value).strip().lower()
    factor = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    try:
        seconds = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"{value!r} is not a time; write 90s, 10m or 2h")
    return seconds


def check_counts(**given: int | None) -> None:
    """Raise UsageError for a number, by the name of what it counts, that is less than one."""
    for name, count in given.items():
        if count is not None and count < 1:
            raise UsageError(f"{count} {name} are too few; give at least 1")


def _limits(
    time_limit: str | float | None,
    trials: int | None,
    cpu_hours: float | None,
    gpu_hours: float | None,
) -> Budget:
    if time_limit == "auto":
        time_limit = "10m" if trials is cpu_hours is gpu_hours is None else None
    limits = Budget(parse_duration(time_limit), trials, cpu_hours, gpu_hours)
    if limits.time_limit_s is None and trials is None and not limits.device_hours:
        raise UsageError(
            "a search needs an end: give a time limit, a number of trials, or device-hours"
        )
    for device, hours in limits.device_hours.items():
        if not (math.isfinite(hours) and hours > 0):
            raise UsageError(f"{hours:g} {device.upper()}-hours are no budget; give some")
    return limits


def measure_recipe(path: Path, **how: Any) -> dict[str, Any]:
    """The latency of a recipe's network on this device, as ``Run.measure_latency``; its data are
    not needed, inputs are made up from their profile."""
    from nas import recipe as recipes
    from nas.training import latency

    found = recipes.load(path)
    model = found["model"]["init_args"]
    number = found["provenance"]["candidate"]
    subject = latency.Subject(number, model["family"], model["config"])
    return latency.measure([subject], Task.from_dict(model["task"]), None, **how)


@dataclass(frozen=True)
class _Machine:
    """Where the workers of a search run."""

    device: str
    room: int  # for so many workers at once
    part: Callable[[int], tuple[float, float]]  # CPUs and GPUs of each of so many workers
    start: Callable[[Run], Workers]

    def share(self, limits: Budget, workers: int | None) -> Budget:
        """The budget for so many workers, and what each of them has of the machine."""
        if limits.gpu_hours is not None and self.device == "cpu":
            raise UsageError("a search on the CPU spends no GPU-hours; give CPU-hours")
        workers = workers or self.room
        cpus, gpus = self.part(workers)
        return replace(limits, workers=workers, cpus=cpus, gpus=gpus)


@contextmanager
def _machine(
    executor: str,
    device: str,
    address: str | None,
    trial: tuple[float | None, float | None],
    lockstep: bool,
) -> Iterator[_Machine]:
    """This machine or a Ray cluster, on which a ``trial`` gets so many CPUs and GPUs."""
    if executor == "ray":
        with _ray(device, address, trial, lockstep) as machine:
            yield machine
        return
    if executor != "local":
        raise UsageError(f"unknown executor {executor!r}; choose local or ray")
    if (address, *trial) != (None, None, None):
        raise UsageError(
            "--address, --cpus-per-trial and --gpus-per-trial are for Ray: give --executor ray"
        )
    visible = visible_gpus(device)

    def start(run: Run) -> Workers:
        from nas.search.local import LocalWorkers

        evaluator, settings = "nas.training.evaluator:from_folder", {"folder": str(run.folder)}
        count, logs = run.task.budget.workers, run.folder / "logs"
        return LocalWorkers(count, evaluator, settings, logs, visible, lockstep)

    yield _Machine(*local_room(len(visible)), start)


def local_room(gpus: int) -> tuple[str, int, Callable[[int], tuple[float, float]]]:
    """The device of this machine's workers, for how many there is room, and the CPUs and GPUs
    that each of so many has."""
    cores = _cores()
    return (
        "cuda" if gpus else "cpu",
        gpus * _WORKERS_PER_GPU or cores,
        lambda workers: (min(1.0, cores / workers), min(1.0, gpus / workers)),
    )


@contextmanager
def _ray(
    device: str, address: str | None, trial: tuple[float | None, float | None], lockstep: bool
) -> Iterator[_Machine]:
    if any(share is not None and not (math.isfinite(share) and share >= 0) for share in trial):
        raise UsageError("--cpus-per-trial and --gpus-per-trial are numbers, at least 0")
    cpus, gpus = trial
    if device == "cpu" and gpus:
        raise UsageError(f"--gpus-per-trial {gpus:g} needs another --device than cpu")
    if address is not None:
        os.environ["RAY_ADDRESS"] = address  # read where Ray is imported
    from nas.search.tune import Cluster, TuneWorkers

    with Cluster(
        cpus_per_trial=1.0 if cpus is None else cpus,
        gpus_per_trial=0.0 if device == "cpu" else gpus,
    ) as cluster:
        share_of = cluster.resources
        if device == "cuda" and not share_of["gpu"]:
            raise InputError("the Ray cluster has no GPU for a trial; choose --device cpu")

        def start(run: Run) -> Workers:
            dataset = Dataset.load(run.folder / "data", mapped=False)
            settings = {"task": run.task, "dataset": dataset}
            evaluator = "nas.training.evaluator:Evaluator"
            return TuneWorkers(run.task.budget.workers, evaluator, settings, cluster, lockstep)

        yield _Machine(
            "cuda" if share_of["gpu"] else "cpu",
            cluster.workers,
            lambda workers: (share_of["cpu"], share_of["gpu"]),
            start,
        )


def visible_gpus(device: str) -> list[str]:
    """The CUDA devices, as CUDA_VISIBLE_DEVICES names them; none for "cpu". A process of its
    own is asked, as the driver stays free of torch.

    Raises InputError for "cuda" where there is none.
    """
    if device == "cpu":
        return []
    code = "import torch; print('gpus', torch.cuda.device_count())"
    asked = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        last = asked.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise InputError(f"torch does not work here ({last[0]}); install it again")
    count = int(asked.stdout.split()[-1])
    if device == "cuda" and not count:
        raise InputError("no CUDA device is visible here; choose --device cpu")
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if named != [""] else [str(i) for i in range(count)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_folder(data: Any) -> Path:
    """Where a search of ``data`` goes that is told no folder: runs/NAME."""
    named = isinstance(data, (str, Path))
    return Path("runs") / (Path(data).resolve().name.split(".")[0] if named else "search")


def versions() -> dict[str, str]:
    names = ("frontier-nas", "torch", "pytorch-lightning", "optuna", "scikit-learn", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
