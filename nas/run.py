"""A run: one search on disk, from its first file to its report and recipes.

A run's folder holds everything: run.json (options, spaces), task.json, data/ (the coded data set),
lr.json (the learning-rate range tests), study.journal (the candidates), baselines.json, layers/,
weights/ (of the front), logs/, report.html, recipe.yaml. With a PostgreSQL storage the candidates
are there, and run.json says where.
"""

from __future__ import annotations

import hashlib
import platform
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import kept, rules
from nas.candidate import Candidate, Reason, State
from nas.data import Dataset
from nas.family import published_weights
from nas.files import read_json, write_whole
from nas.front import best, by_quality, constant_guess, pareto, standard_error
from nas.options import SearchOptions
from nas.plan import SearchPlan
from nas.records import Baseline, LatencyFile, LayerRow, RateTest, RunRecord
from nas.search.clock import Clock, take_lock
from nas.space import ENSEMBLE, Space
from nas.task import (
    Budget,
    Constraint,
    InputError,
    JsonRecord,
    NoFeasibleCandidate,
    Task,
    UsageError,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects

    from nas.report import StudyView

# A file that lies in the folder while a search begins there, or where one was ended meanwhile.
_CREATING = ".creating"
# A driver writes its clock some times a second; one that has not for so long has ended.
_ALIVE_S = 10.0
_UNNAMED = (("dev",), ("proc",))  # below the root: where pipes without a name are
# Standard errors across the 95 % interval of a score (nas.training.calibration): 1.96 to a side.
_INTERVAL_ERRORS = 3.92


@dataclass(frozen=True)
class Source:
    """Where the data of a run was read."""

    path: str
    files: str  # ``stamp`` of the path


def stamp(data: Any) -> str:
    """A hash of names, sizes and times of the files at a path: it changes where the data may have.
    Empty for data that is no path, and for a pipe."""
    if not isinstance(data, (str, Path)):
        return ""
    path = Path(data).expanduser()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if not file.is_file():
            return ""
        about = file.stat()
        name = file.relative_to(path) if path.is_dir() else ""
        digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode(errors="replace"))
    return digest.hexdigest()[:16]


def create(
    folder: Path,
    task: Task,
    dataset: Dataset,
    spaces: dict[str, Space],
    source: Source | None,
    options: SearchOptions,
) -> Run:
    """Begin a run in ``folder``: its data set, run.json and, last, task.json.

    ``source`` is None for data of a Python session, which a recipe then reads from the folder.
    Raises InputError where the folder is in use, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / _CREATING
    with marker.open("a") as file:
        take_lock(file, wait=True)  # of two that start at once, the second waits here
        refuse_used(folder)
        dataset.save(folder / "data")
        reading = options.reading() | {"modality": dataset.modality}
        path = source.path if source else str((folder / "data").resolve())
        files = source.files if source else ""
        record = RunRecord(options, spaces, {"source": path, **reading}, versions(), files)
        write_whole(folder / "run.json", record.written())
        write_whole(folder / "task.json", task.to_json())  # last: it marks the run as begun
        marker.unlink(missing_ok=True)
    return Run(folder)


def refuse_used(folder: Path) -> None:
    """A new search needs an empty folder, or what one left that was ended while it began."""
    if (folder / "task.json").exists():
        (folder / _CREATING).unlink(missing_ok=True)
        raise InputError(f"{folder} holds a search; go on with --resume, or choose --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _CREATING).exists():
        raise InputError(f"{folder} is not empty and holds no search; choose another --out")


@dataclass(frozen=True)
class Finished(JsonRecord):
    """The trainings at full scale that end a search, and the winner's score.

    Args:
        candidate: Its number.
        epochs: That it was trained for; 0 where there was no time.
        recipe_epochs: That its recipe says.
        result: What ``nas train`` returns: test and validation metrics, seconds, the checkpoint.
        error: Why there is no result.
        networks: Whose logits are averaged; 1 of a single one.
        finalists: What was trained: ``candidate``, ``epochs``, and ``validation`` (the quality) and
            ``seconds``, or the ``error``; ``network`` of further networks of a candidate, and
            ``networks`` of a mean.
        candidates: Of how many that were complete it was chosen.
    """

    candidate: int
    epochs: int
    recipe_epochs: int
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    finalists: tuple[dict[str, Any], ...] = ()
    networks: int = 1
    candidates: int = 0


class Run:
    """A search on disk: what ``nas.search`` returns, and what the commands open.

    Args:
        folder: Of the run. It may be read while a search writes there.
        latency: A file of ``nas latency``. Its figures take the place of those that the search
            measured; a candidate that it does not hold has no latency.

    Raises:
        InputError: The folder holds no search, or a file in it is damaged.

    Example:
        >>> import nas
        >>> run = nas.Run("runs/flowers")
        >>> best = run.best("params<=1e6")
        >>> best.family in run.spaces, best.metrics["accuracy"] > 0.5
        (True, True)
        >>> len(run.front()) <= len(run.frame())
        True
    """

    def __init__(self, folder: str | Path, latency: str | Path | None = None) -> None:
        self.folder = Path(folder)
        self._latency = Path(latency) if latency is not None else None
        if not (self.folder / "task.json").exists():
            raise InputError(
                f"{folder} holds no search; `nas search DATA --out {folder}` makes one"
            )
        # All files but those of single candidates, so that every command says the same about
        # a folder with a damaged one.
        _ = self.task, self._record, self.rate_tests(), self.baselines(), self.spent_s
        _ = self.plan, self.finished
        if (self.folder / "data").exists():  # a copy for another device may lack it
            _ = self.notes

    def __repr__(self) -> str:
        """Where it is, on what, and how far: nas.Run('runs/adult', tabular, target income, …)."""
        try:
            targets = ", ".join(target.name for target in self.task.targets[:3])
            more = ", …" * (len(self.task.targets) > 3)
            about = f", {self.task.modality}, target {targets}{more}"
            about += f", {len(self.candidates())} candidates, {len(self.front())} on the front"
        except InputError as error:
            about = f", damaged: {error}"
        return f"nas.Run({str(self.folder)!r}{about})"

    def _repr_html_(self) -> str:
        """The front as a picture and a table, in Jupyter."""
        from nas.report.figure import notebook_html

        return notebook_html(self.view())

    def figure(self, x: str = "", y: str = "") -> plotly.graph_objects.Figure:
        """The candidates over two measures and the front on top, as a plotly figure.

        Args:
            x: A metric; default: the first objective that is a cost, else the latency.
            y: A metric; default: the quality.

        Raises:
            UsageError: No candidate has this metric.
        """
        from nas.report.figure import figure

        return figure(self.view(), x, y)

    @cached_property
    def task(self) -> Task:
        """What the search solves: data profile, targets, objectives, constraints, budget."""
        task: Task = read_json(self.folder / "task.json", Task)
        return task

    @cached_property
    def _record(self) -> RunRecord:
        record: RunRecord = read_json(self.folder / "run.json", RunRecord)
        return record

    @property
    def spaces(self) -> dict[str, Space]:
        """The search space of each family, by the family's name."""
        return dict(self._record.spaces)

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of ``nas.data.read`` that give this run's data again."""
        return dict(self._record.source)

    @property
    def data_files(self) -> str:
        """The ``stamp`` of the files that the data was read from; empty where there is none."""
        return self._record.files

    @property
    def versions(self) -> dict[str, str]:
        """The versions of Python and of the libraries that the search began with."""
        return dict(self._record.versions)

    @property
    def options(self) -> SearchOptions:
        """What the search was asked for; how long and where are those of no earlier search."""
        return self._record.options

    @property
    def storage(self) -> dict[str, str]:
        """The arguments of ``Study`` that say where it is kept."""
        if not self.options.storage:
            return {}
        return {"storage": self.options.storage, "name": str(self.options.study)}

    def begin(self, budget: Budget) -> None:
        """Write down what the search that begins now may spend."""
        self.task = replace(self.task, budget=budget)
        write_whole(self.folder / "task.json", self.task.to_json())

    @property
    def plan(self) -> SearchPlan | None:
        """What the time of the search is for; None before it is planned, and where no time ends
        it."""
        file = self.folder / "plan.json"
        return read_json(file, SearchPlan) if file.exists() else None

    @property
    def finished(self) -> Finished | None:
        """The training of the best candidate that ended the search; None where there was none."""
        file = self.folder / "finished.json"
        return read_json(file, Finished) if file.exists() else None

    @property
    def winner(self) -> Finished | None:
        """``finished``, where it came to a result."""
        finished = self.finished
        return finished if finished and finished.result else None

    @property
    def trained(self) -> frozenset[int]:
        """The candidates that were trained at full scale."""
        models = (
            m for f in ("models", "finalists") for m in self.folder.glob(f"{f}/*/result.json")
        )
        found = {int(path.parent.name) for path in models if path.parent.name.isdecimal()}
        winner = self.winner
        return frozenset(found | ({winner.candidate} if winner else set()))

    @property
    def kept(self) -> dict[int, int]:
        """Bytes of the weights that the search has kept, by candidate (``nas.kept``)."""
        return kept.sizes(self.folder)

    def adopt(self, plan: SearchPlan) -> None:
        """Train candidates from now on as planned."""
        write_whole(self.folder / "plan.json", plan.to_json())
        self.task = replace(self.task, fidelity=plan.fidelity)
        write_whole(self.folder / "task.json", self.task.to_json())

    def change_spaces(self, spaces: dict[str, Space]) -> None:
        """Write down other spaces of the families."""
        self._record = replace(self._record, spaces=self.spaces | spaces)
        write_whole(self.folder / "run.json", self._record.written())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped, changed or looks wrong in the data, and range tests that failed."""
        tests = self.rate_tests()
        more = (f"{name}: {t['note']}" for name, t in tests.items() if "note" in t)
        return (*Dataset.load(self.folder / "data").notes, *more)

    def rate_tests(self) -> dict[str, dict[str, Any]]:
        """The learning-rate range test of each family: the fields of
        ``nas.training.lr.RangeTest``, or a note that says why there is none. Empty before they
        are over."""
        file = self.folder / "lr.json"
        tests = read_json(file, dict[str, RateTest]) if file.exists() else {}
        return {name: test.to_dict() for name, test in tests.items()}

    def baselines(self) -> list[dict[str, Any]]:
        """The simple models' scores on the validation part; empty until they are fitted."""
        file = self.folder / "baselines.json"
        repair = "remove it and go on with --resume, which fits the simple models again"
        rows = read_json(file, list[Baseline], repair=repair) if file.exists() else []
        return [row.to_dict() for row in rows]

    def candidates(self) -> list[Candidate]:
        """All candidates by number, those in training too."""
        from nas.search.study import load_candidates

        found = load_candidates(self.folder, **self.storage)
        return [self._elsewhere(c) for c in found] if self._latency else found

    @cached_property
    def measured(self) -> LatencyFile:
        """What another device has measured of this run: the file of ``nas latency``."""
        assert self._latency is not None
        expected = f"a file of `nas latency {self.folder}` was expected"
        measured: LatencyFile = read_json(self._latency, LatencyFile, repair=expected)
        return measured

    def _elsewhere(self, candidate: Candidate) -> Candidate:
        """A candidate with the latency of the first batch size in ``measured``."""
        row = self.measured.candidates.get(str(candidate.number))
        if row and (row.family, row.config) != (candidate.family, candidate.config):
            raise InputError(
                f"{self._latency} was measured on another run: its candidate {candidate.number} is"
                f" another network; measure with `nas latency {self.folder}`"
            )
        metrics = {k: v for k, v in candidate.metrics.items() if k != "latency_ms"}
        latency = self.measured.latency(candidate.number)
        return replace(
            candidate,
            metrics=metrics if latency is None else metrics | {"latency_ms": latency.ms},
            cost=replace(candidate.cost, latency=latency),
        )

    def layers(self, number: int) -> tuple[dict[str, Any], ...]:
        """The layers of a candidate: name, type, output shape and parameters of each."""
        file = self.folder / "layers" / f"{number}.json"
        repair = f"remove it: the report then shows candidate {number} without layers"
        rows = read_json(file, list[LayerRow], repair=repair) if file.exists() else ()
        return tuple(row.to_dict() for row in rows)

    def frame(self) -> pd.DataFrame:
        """A data frame with one row for each candidate: ``Candidate.row``."""
        import pandas as pd

        return pd.DataFrame([c.row() for c in self.candidates()])

    def front(self, *limits: str) -> list[Candidate]:
        """The Pareto front: the complete candidates that no other dominates.

        Args:
            *limits: Constraints beside the run's own, as "latency_ms<=1" or "accuracy>=0.9".

        Raises:
            UsageError: A limit is malformed, or its metric is not measured on this data.
        """
        constraints = self.task.constraints + tuple(map(Constraint.parse, limits))
        self.task.check_measured(c.metric for c in constraints)
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

    def ranked(self) -> list[Candidate]:
        """The complete candidates inside the run's constraints, the best quality first."""
        met = [c for c in self._ranked(self.task.constraints) if c.feasible(self.task.constraints)]
        return by_quality(met, self.task.quality)

    def simple_scores(self) -> dict[str, float]:
        """The quality of each simple model on the validation part, the best first."""
        quality, metric = self.task.quality, self.task.quality.metric
        rows = [b for b in self.baselines() if metric in b["metrics"]]
        rows.sort(key=lambda b: -quality.sign * b["metrics"][metric])
        return {b["name"]: b["metrics"][metric] for b in rows}

    def simple_test_scores(self) -> dict[str, float]:
        """The same on the test part, where a search ended with a training at full scale; in the
        order of the validation part."""
        metric, winner = self.task.quality.metric, self.winner
        tested = winner.result.get("simple_test", {}) if winner else {}
        names = [name for name in self.simple_scores() if metric in tested.get(name, {})]
        return {name: tested[name][metric] for name in names}

    def verdict(self) -> str:
        """How the best network and the best simple model compare, in one sentence; "" where one of
        them is missing. Where the search ended with a training at full scale, it is of that one and
        of the test part; else of the proxies and of the validation part."""
        quality, front, simple = self.task.quality, self.front(), self.simple_scores()
        if not simple or not front:
            return ""
        metric = quality.metric
        network, theirs, where = best(front, quality), simple, ""
        number, ours = network.number, network.metrics[metric]
        error = standard_error(self.task, metric, ours)
        winner, tested = self.winner, self.simple_test_scores()
        result = winner.result if winner else {}
        interval = result.get("test_interval", {}).get(metric)
        if winner and tested and interval and metric in result["test"]:
            number, ours, theirs = winner.candidate, result["test"][metric], tested
            low, high = interval
            error = (high - low) / _INTERVAL_ERRORS
            where = " on the test part"
        name = next(iter(theirs))  # the best on the validation part, never chosen by the test part
        figures = f"{metric} {ours:.4g} ± {error:.2g} against {theirs[name]:.4g}{where}"
        gain = quality.sign * (ours - theirs[name])
        if gain > error:
            return f"candidate {number} beats {name} ({figures})"
        clearly = f"candidate {number} is not" if where else "no network here is"
        if gain >= -error:
            return f"{clearly} clearly better than {name} ({figures})"
        beats = f"candidate {number} does not beat" if where else "no network here beats"
        return f"{beats} {name} ({figures})"

    def best(self, *limits: str) -> Candidate:
        """The candidate of the front with the best quality (the first objective that is no
        cost). Arguments as for ``front``.

        Raises:
            NoFeasibleCandidate: The front is empty; the message says what comes nearest.
        """
        front = self.front(*limits)
        if not front:
            raise NoFeasibleCandidate(self.why_none(limits))
        return best(front, self.task.quality)

    def why_none(self, limits: Sequence[str] = ()) -> str:
        """Why no candidate is inside the run's constraints and ``limits``, and the repair."""
        candidates = self.candidates()
        ends = Counter(why or how for how, why in (c.standing for c in candidates))
        found = ", ".join(f"{n} {what}" for what, n in ends.items()) or "none was trained"
        wanted = " and ".join([str(c) for c in self.task.constraints] + list(limits))
        if not wanted:
            repair = next(iter(self.failures()), "search longer")
            return f"no candidate is complete ({found}); {repair}"
        nearest = ""
        for limit in self.task.constraints + tuple(map(Constraint.parse, limits)):
            measured = [c.metrics for c in candidates if limit.metric in c.metrics]
            if measured and not any(map(limit.met, measured)):
                values = [metrics[limit.metric] for metrics in measured]
                value = min(values) if limit.op == "<=" else max(values)
                nearest += f"; the nearest {limit.metric} was {value:g}"
        repair = "relax the limit or search longer" if nearest else "search longer"
        return f"no candidate is complete and meets {wanted} ({found}{nearest}); {repair}"

    def infeasible_baselines(self) -> list[str]:
        """A sentence for each baseline that a limit of the run has left out."""
        return [
            f"the baseline of {c.label} (candidate {c.number}) was not trained: {c.detail}"
            for c in self.candidates()
            if c.origin == "baseline" and c.reason is Reason.INFEASIBLE
        ]

    def failures(self) -> list[str]:
        """A sentence for each kind of error that ended candidates: how often, and where its log
        is. The most frequent comes first."""
        ended: dict[str, list[Candidate]] = {}
        for c in self.candidates():
            if c.reason in (Reason.ERROR, Reason.LOST):
                lines = c.detail.strip().splitlines()
                reason = next((x for x in lines if re.match(r"[\w.]+(Error|Exception)\b", x)), "")
                ended.setdefault(reason or (lines or [str(c.reason)])[-1], []).append(c)
        found = []
        for reason, those in sorted(ended.items(), key=lambda item: -len(item[1])):
            log = self.folder / "logs" / f"worker-{those[0].worker}.log"
            where = f" (see {log})" if log.exists() else ""
            often = f"{len(those)} candidates" if len(those) > 1 else f"candidate {those[0].number}"
            found.append(f"{often} failed: {reason}{where}")
        return found

    @property
    def spent_s(self) -> float:
        """Seconds of the wall clock that searches in this folder have taken, from the start of
        their workers to the last latency."""
        return Clock(self.folder).read()

    @property
    def is_running(self) -> bool:
        """Whether a driver has written its clock within the last ten seconds."""
        return time.time() - Clock(self.folder).written < _ALIVE_S

    def hours(self, device: str) -> float:
        """CPU-hours (``device`` "cpu") or GPU-hours ("gpu") that candidates have spent."""
        return sum(c.device_seconds[device] for c in self.candidates()) / 3600

    def view(self, candidates: Sequence[Candidate] | None = None) -> StudyView:
        """What the report shows; of some ``candidates`` only, without what went wrong with others
        or how all compare."""
        from nas.report import StudyView

        failures: tuple[str, ...] = ()
        if candidates is None:
            candidates = [replace(c, layers=self.layers(c.number)) for c in self.candidates()]
            failures = (*self.infeasible_baselines(), *self.failures())
        return StudyView(
            task=self.task,
            candidates=candidates,
            baselines=self.baselines(),
            name=self.folder.resolve().name,
            spaces=self.spaces,
            rate_tests=self.rate_tests(),
            rules={r.id: (r.statement, r.source) for r in rules.RULES.values()},
            notes=(
                *([f"latency on {self.measured.measured_on}"] if self._latency else []),
                *published_weights(self.task, candidates),
                # A copy for another device may lack the data.
                *(self.notes if (self.folder / "data").exists() else ()),
            ),
            latency_on=self.measured.device.name if self._latency else "",
            failures=failures,
            seconds=self.spent_s,
            versions=self.versions,
            folder=str(self.folder),
            trained=self.trained,
            kept=frozenset(self.kept),
            tested=self._tested(),
        )

    def _tested(self) -> dict[str, Any]:
        """What ended the search and how it compares (``StudyView.tested``)."""
        finished, metric = self.finished, self.task.quality.metric
        if finished is None or metric not in finished.result.get("test", {}):
            return {}
        low, high = finished.result.get("test_interval", {}).get(metric, (None, None))
        return {
            "number": finished.candidate,
            "family": self.candidate(finished.candidate).label,
            "networks": finished.networks,
            "value": finished.result["test"][metric],
            "low": low,
            "high": high,
            "simple": next(iter(self.simple_test_scores().items()), None),
        }

    def about(self) -> dict[str, Any]:
        """What a report needs of the run beside its candidates, as JSON values: what its study
        keeps with them (``Study.describe``)."""
        return {
            "task": self.task.to_dict(),
            "spaces": {name: space.to_dict() for name, space in self.spaces.items()},
            "baselines": self.baselines(),
            "rate_tests": self.rate_tests(),
            "notes": list(self.notes),
            "versions": self.versions,
        }

    def report(self, path: str | Path | None = None) -> Path:
        """Write the report, one self-contained HTML page, and return its path.

        Args:
            path: Default: report.html in the run's folder.

        Raises:
            OSError: The file cannot be written.
        """
        from nas import report

        path = Path(path) if path is not None else self.folder / "report.html"
        recipes = {c.number: self.recipe_text(c) for c in self.front()}
        report.write(replace(self.view(), recipes=recipes), path)
        return path

    def recipe_text(self, candidate: Candidate) -> str:
        """The training recipe of a complete candidate, as YAML (``export`` writes it)."""
        from nas import recipe

        return recipe.text(self._recipe(candidate), f"recipe-{candidate.number}.yaml")

    def write_recipe(self, path: Path, number: int, epochs: int, network: int = 0) -> None:
        """Write the recipe of a candidate as ``export`` does, for a training that reads the run's
        own copy of the data: where they were read at first they may have changed or moved since.
        """
        from nas import recipe

        path.parent.mkdir(parents=True, exist_ok=True)
        made = self._recipe(self.candidate(number), epochs, network)
        recipe.write(recipe.read_from(made, str((self.folder / "data").resolve())), path)

    def refer_to_source(self, path: Path) -> None:
        """Have a recipe that ``write_recipe`` has written refer to the data as they were given."""
        from nas import recipe

        recipe.write(recipe.read_from(recipe.read(path), self.source["source"]), path)

    def _recipe(
        self, candidate: Candidate, epochs: int | None = None, network: int = 0
    ) -> dict[str, Any]:
        from nas import recipe

        trained = self.winner
        if epochs is None and trained and trained.candidate == candidate.number:
            epochs = trained.recipe_epochs
        source = self.source, self.versions
        return recipe.make(candidate, self.task, *source, epochs, network=network)

    def combine(self, folders: Sequence[Path], path: Path) -> None:
        """Write the recipe of the mean of networks whose own recipes lie in ``folders``."""
        from nas import recipe

        found = [recipe.read(folder / "recipe.yaml") for folder in folders]
        recipe.write(recipe.combined(found), path)

    def export(
        self,
        path: str | Path | None = None,
        number: int | None = None,
        *,
        epochs: int | None = None,
        network: int = 0,
    ) -> Path:
        """Write the training recipe of a candidate and return its path.

        Args:
            path: Default: recipe.yaml in the run's folder.
            number: Of the candidate; default: the one that was trained at full scale, else the
                best.
            epochs: Of the training; default: what the search planned, of the candidate that was
                trained at full scale what it was trained by.
            network: Of several of the candidate that are averaged; the others have other seeds
                than the first, 0. Without ``number`` the recipe is of all that were averaged.

        Raises:
            UsageError: There is no such candidate.
            InputError: It is not complete.
            NoFeasibleCandidate: The front is empty.
        """
        from nas import recipe

        trained = self.winner
        if number is None and not self._latency and trained:
            number = trained.candidate
            averaged = self.folder / "model" / "recipe.yaml"
            if trained.networks > 1 and epochs is None and averaged.is_file():
                path = Path(path) if path is not None else self.folder / "recipe.yaml"
                recipe.write(recipe.read(averaged), path)
                return path
        candidate = self.best() if number is None else self.candidate(number)
        path = Path(path) if path is not None else self.folder / "recipe.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        recipe.write(self._recipe(candidate, epochs, network), path)
        return path

    def measure_latency(
        self, numbers: Sequence[int] = (), files: Sequence[Path] = (), **how: Any
    ) -> dict[str, Any]:
        """Measure latencies (ms) on this device.

        Inputs come from the run's data, or are made up from its profile where a copy of the run
        has no data.

        Args:
            numbers: Of the candidates; default: the front.
            files: Of ``nas export --onnx``, whose candidates they stand for; instead of numbers.
            **how: Arguments of ``nas.training.latency.measure`` from ``backend`` on.

        Returns:
            What a file of ``nas latency`` holds: device, batches, candidates.
        """
        from nas.training import latency
        from nas.training.batches import typical_rows
        from nas.training.neighbours import network_inputs
        from nas.training.proxy import build_network

        subjects = [latency.of_file(file)[0] for file in files]
        for subject in subjects:
            own = self.candidate(subject.number)
            if ENSEMBLE in subject.config:
                raise InputError(
                    f"{subject.file} holds several networks as one, and candidate {own.number} is a"
                    f" single network; measure it by `nas latency --file {subject.file}`"
                )
            if (own.family, own.config) != (subject.family, subject.config):
                raise InputError(f"{subject.file} was written of another run")
        if not files:
            chosen = [self.candidate(n) for n in numbers] if numbers else self.front()
            if not chosen:
                raise NoFeasibleCandidate(self.why_none())
            subjects = [latency.Subject(c.number, c.family, c.config) for c in chosen]
        sample = None
        if (self.folder / "data" / "dataset.json").exists():
            dataset = Dataset.load(self.folder / "data")

            def sample(subject: latency.Subject, batch: int) -> dict[str, Any]:
                network = build_network(subject.family, subject.config, self.task)
                return network_inputs(network, dataset, typical_rows(dataset, batch))

        return latency.measure(subjects, self.task, sample, **how)

    def candidate(self, number: int) -> Candidate:
        """A complete candidate. Raises UsageError where there is none of this number, InputError
        where it is not complete."""
        known = {c.number: c for c in self.candidates()}
        if number not in known:
            raise UsageError(f"no candidate {number} in {self.folder}; it has {len(known)}")
        if known[number].state != State.COMPLETE:
            how, why = known[number].standing
            raise InputError(f"candidate {number} is not complete ({why or how}); choose another")
        return known[number]


def measure_recipe(path: Path, **how: Any) -> dict[str, Any]:
    """The latency of a recipe's network on this device, as ``Run.measure_latency``; its data are
    not needed, inputs are made up from their profile."""
    from nas import recipe as recipes
    from nas.training import latency
    from nas.training.proxy import Proxy, proxy_of

    found = recipes.load(path)
    model = found["model"]["init_args"]
    proxy_of(model, str(path), Proxy)  # a configuration that does not fit is one line
    number = found["provenance"]["candidate"]
    subject = latency.Subject(number, model["family"], model["config"])
    return latency.measure([subject], Task.from_dict(model["task"]), None, **how)


def measure_file(file: Path, **how: Any) -> dict[str, Any]:
    """The latency of a file of ``nas export --onnx``, as ``Run.measure_latency``; its inputs are
    made up."""
    from nas.rulebook import typical_task
    from nas.training import latency

    subject, inputs = latency.of_file(file)
    if list(how["batches"]) != [1]:
        raise UsageError("a file without its run is measured on one sample: leave --batch out")
    return latency.measure([subject], typical_task("tabular"), lambda *_: inputs, **how)


def default_folder(data: Any) -> Path:
    """The folder of a search of ``data`` where none is given: runs/NAME, runs/stdin of a pipe that
    has none."""
    name = ""
    if isinstance(data, (str, Path)):
        place = Path(data).resolve()
        is_named = place.parts[1:2] not in _UNNAMED or place.is_file() or place.is_dir()
        name = place.name.lstrip(".").split(".")[0] if is_named else "stdin"
    return Path("runs") / (name or "search")


def versions() -> dict[str, str]:
    names = ("frontier-nas", "torch", "pytorch-lightning", "optuna", "scikit-learn", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
