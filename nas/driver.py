"""Where search meets training: one search, from a data set to a folder of results (``Run``)."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import rules, terminal
from nas.candidate import Candidate, Latency, State
from nas.data import Dataset, read
from nas.family import pick_families
from nas.files import first_line, write_whole
from nas.finals import expected_s, train_finalists
from nas.front import Point, by_quality, constant_guess, near_front, pareto
from nas.kept import FrontWeights
from nas.machine import Machine, open_machine
from nas.options import SearchOptions, takes
from nas.plan import (
    KEPT_BACK,
    KEPT_MOST,
    Pace,
    latencies_s,
    left_to_plan,
    make_task,
    plan_search,
)
from nas.pretrained.sources import absolute, usable
from nas.run import Run, Source, create, default_folder, refuse_used, stamp
from nas.search import samplers
from nas.search.clock import Clock, lock
from nas.space import Float, Space
from nas.task import Budget, InputError, NoFeasibleCandidate, Task, UsageError

if TYPE_CHECKING:
    from nas.search.study import Study
    from nas.search.workers import Workers

# The fraction of a search's time that goes into the costs of networks before any is trained.
_MEASURING = 0.01
# Seconds of timed steps of each family's baseline, from which the search is planned.
_PACED_S = 0.5
# The most of it that goes into tests of learning rates, which take far less as a rule.
_TESTING = 0.1
# The most of a search's time that one worker spends on simple models.
_SIMPLE = 0.1
# Seconds of latencies that are measured side by side, and what one takes at least: seconds and
# passes.
_TOGETHER_S, _LATENCY_S, _PASSES = 10.0, 1.0, 35
# Candidates that are measured in isolation although their contended latency is outside a limit.
_OUTSIDE = 8
# Seconds between two looks at which candidates have ended, for a logger.
_LOGGED_S = 5.0


@dataclass(frozen=True)
class Progress:
    """A moment of a running search, for whoever shows it."""

    study: Study | None  # None before it begins
    running: tuple[Candidate, ...]
    spent_s: float
    budget: Budget
    # "start:1/2" (workers that are ready), "learning-rates:1/3" (tests that are over), "pace:1/3",
    # "search", "measure" or "finish"
    phase: str
    # What workers do beside candidates: "costs:40/200", "simple-models", "latency".
    calls: tuple[str, ...] = ()


@takes(SearchOptions)
def search(
    data: Any = None,
    target: Any = None,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_start: Callable[[Run], None] = lambda run: None,
    **options: Any,
) -> Run:
    """Search networks for a data set.

    The search ends when the first of its budgets is spent: ``time_limit``, ``trials``
    candidates, ``cpu_hours`` or ``gpu_hours``. A ``deterministic`` search ends after ``trials``
    candidates: the same data, seed and number of workers give the same candidates again, on the
    same kind of machine.

    Args:
        data: What ``nas.data.read`` reads: a path, a DataFrame, or (X, y).
        target: Name or names of the columns to predict.
        out: Folder of the run. Default: runs/NAME.
        resume: Go on with the search in ``out``, or begin it where there is none. Its data, spaces
            and objectives stay, and the budget is for both together. ``data`` may be left out;
            where it is given, it must be what the search was begun with.
        on_progress: Is called with the state of the search, some times a second.
        on_start: Is called with the run when its data is read, before the first candidate.
        {options}

    Returns:
        The run, open: its front, its best candidate, its report and its recipes.

    Raises:
        InputError: Wrong data, or a failure: one line that says what, where and the repair.
        UsageError: A wrong argument.
        NoFeasibleCandidate: The search ended without a candidate inside the constraints.

    Example:
        >>> import nas
        >>> short = {"families": "mlp", "trials": 2, "epochs": 1}
        >>> run = nas.search("flowers.csv", "species", out="run", **short)
        >>> run.best().number in (0, 1)
        True
    """
    folder = Path(out) if out is not None else default_folder(data)
    given = SearchOptions(target=target, **options)
    given = replace(given, pretrained=absolute(given.pretrained))  # recipes are trained elsewhere
    samplers.check(given.sampler)
    _check_logger(given.logger)
    given.budget()
    run = _begun(folder, data, resume)
    chosen = replace(run.options.resumed(given), device=run.task.device) if run else given
    limits = chosen.budget()
    if run is None:
        refuse_used(folder)
        chosen = _named(chosen, folder)
        if data is None:
            raise UsageError("give the data to search on")
        files = stamp(data)
        dataset = read(data, **chosen.reading())
        given_weights = chosen.pretrained or ()
        weights, notes = usable(given_weights, dataset.modality, dataset.profile, data)
        dataset = replace(dataset, notes=(*dataset.notes, *notes))
        families = pick_families(dataset.modality, chosen.families, bool(weights))
    with open_machine(chosen) as machine:
        budget = machine.room.budget(limits, chosen.workers)
        if run is None:
            task = _task(dataset, chosen, budget, machine.room.device)
            task = replace(task, pretrained=weights)
            spaces = {name: family.space(task) for name, family in families.items()}
            source = Source(str(Path(data).expanduser().resolve()), files) if files else None
            run = create(folder, task, dataset, spaces, source, chosen)
        with _logged(run, chosen.logger, on_progress) as shown:
            drive_run(run, budget, machine, on_start, shown, chosen.finish)
    return run


def _check_logger(name: str | None) -> None:
    """Raise InputError where a logger's package is not installed, before the search begins."""
    packages = {"tensorboard": ("tensorboard", "tensorboardX")}.get(str(name), (str(name),))
    if name not in (None, "csv") and not any(map(find_spec, packages)):
        raise InputError(f"--logger {name} needs its package: pip install {name}")


@contextmanager
def _logged(
    run: Run, logger: str | None, on_progress: Callable[[Progress], None]
) -> Iterator[Callable[[Progress], None]]:
    """``on_progress``, which hands candidates to a logger too."""
    if logger is None:
        yield on_progress
        return
    from nas.training.loggers import CandidateLog

    log, looked = CandidateLog(logger, run.folder), -math.inf

    def update(progress: Progress) -> None:
        nonlocal looked
        on_progress(progress)
        if progress.study is not None and time.monotonic() > looked + _LOGGED_S:
            looked = time.monotonic()
            log.update(progress.study.candidates())

    try:
        yield update
    finally:
        log.update(run.candidates())
        log.close()


def _begun(folder: Path, data: Any, resume: bool) -> Run | None:
    """The search in ``folder`` that is to go on; None where one is to begin."""
    if not (folder / "task.json").exists():
        if resume and data is None:
            raise InputError(f"{folder} holds no search to resume; give the data to start one")
        if resume:  # a cluster repeats the same command, the first time too
            terminal.line(f"note: {folder} holds no search yet; begins one", err=True)
        return None
    if not resume:
        refuse_used(folder)
    run = Run(folder)
    if data is not None:
        _check_same_data(run, data)
    return run


def _task(dataset: Dataset, options: SearchOptions, budget: Budget, device: str) -> Task:
    return make_task(
        dataset,
        objectives=options.objectives,
        constraints=options.limits,
        budget=budget,
        device=device,
        epochs=options.epochs,
        seed=options.seed,
        deterministic=options.deterministic,
    )


def _check_same_data(run: Run, data: Any) -> None:
    """Raise InputError where ``data`` is not what the search in ``run`` was begun with.

    Files of the same names, sizes and times are not read again.
    """
    repair = f"leave the data out to go on with the copy in {run.folder / 'data'}"
    if isinstance(data, (str, Path)) and not Path(data).expanduser().exists():
        raise UsageError(f"{data} does not exist; {repair}")
    if run.data_files and run.data_files == stamp(data):
        return
    how = run.options.reading() | {"modality": run.source["modality"]}
    found, first = read(data, **how).profile, run.task.profile
    if (found.fingerprint, found.split) == (first.fingerprint, first.split):
        return
    sizes = [p.n_train + p.n_val + p.n_test for p in (found, first)]
    differs = "{:,} samples, not {:,}".format(*sizes) if len(set(sizes)) > 1 else "other values"
    name = data if isinstance(data, (str, Path)) else "the data"
    raise InputError(
        f"{name} is not what the search in {run.folder} was begun with ({differs}); {repair}, or"
        " start another search with --out"
    )


def _named(options: SearchOptions, folder: Path) -> SearchOptions:
    """The options of a new search with the name of its study in the storage, if it has one.

    Raises InputError where the storage cannot be reached or has a study of this name.
    """
    if not options.storage:
        if options.study:
            raise UsageError("only a storage names its studies: give --storage too")
        return options
    from nas.search.postgres import Postgres

    study = options.study or folder.resolve().name
    if Postgres(options.storage, study).exists():
        raise InputError(
            f"{options.storage} holds a study {study!r}; go on with --resume and its folder, or"
            " choose another name with --study"
        )
    return replace(options, study=study)


def drive_run(
    run: Run,
    budget: Budget,
    machine: Machine,
    on_start: Callable[[Run], None],
    on_progress: Callable[[Progress], None],
    finish: bool = False,
) -> None:
    """Search in the folder of ``run`` until the budget is spent; with ``finish`` the training of
    the best candidate at full scale is within it.

    Raises NoFeasibleCandidate where the front is empty then.
    """
    begin = time.monotonic()
    # A search that no time ends leaves none for the training of the best.
    finish = finish and budget.time_limit_s is not None
    with closing(lock(run.folder / "driver.lock")):
        run.begin(budget)
        on_start(run)
        with machine.start(run) as workers:
            earlier = Clock(run.folder).read()
            session = _Session(run, workers, begin, on_progress, finish, earlier)
            if run.options.lr_test:
                session.test_rates()
            session.plan()
            session.search()
        if not run.front():
            raise NoFeasibleCandidate(run.why_none())
        # A search that has ended, and is resumed without time for more, has its model already.
        ended = run.winner
        has_model = ended is not None and ended.candidates == len(run.ranked())
        if finish and not has_model:
            train_finalists(run, machine.site(run), session.end, session.show_finish)


@dataclass
class _Session:
    """One search of a run, from the start of its workers to the last latency."""

    run: Run
    workers: Workers
    begin: float  # of time.monotonic
    on_progress: Callable[[Progress], None]
    finish: bool = False
    earlier: float = 0.0  # seconds that earlier searches of the run have taken
    kept_s: float | None = None  # for the trainings in full; None where this session planned none
    measured: str = ""  # how many of the first costs, as 40/200

    @property
    def end(self) -> float:
        """When the time is over, of time.monotonic; never where no time ends the search."""
        limit = self.run.task.budget.time_limit_s
        return math.inf if limit is None else self.begin + limit - self.earlier

    @property
    def spent_s(self) -> float:
        return self.earlier + time.monotonic() - self.begin

    def show_phase(self, phase: str) -> None:
        """Report a phase in which no candidate is trained."""
        self.on_progress(Progress(None, (), self.spent_s, self.run.task.budget, phase))

    def show_finish(self, phase: str) -> None:
        """Report the trainings at the end, whose time counts too."""
        Clock(self.run.folder).write(self.spent_s)
        self.show_phase(phase)

    def test_rates(self) -> None:
        """Set bounds of learning rates by range tests (rule "learning-rate-first"). Where one
        fails, or finds nothing, the family's bounds stand and a note says why."""
        run, budget, tests = self.run, self.run.task.budget, self.run.rate_tests()
        rates = {
            name: rate
            for name, space in run.spaces.items()
            for rate in space.params
            if rate.name == "lr" and isinstance(rate, Float)
        }
        if not tests and rates:
            limit = None
            if budget.worker_s is not None:
                limit = _TESTING * budget.worker_s / max(len(rates), budget.workers)
            calls = [
                {"family": name, "config": run.spaces[name].baseline(), "limit_s": limit}
                for name in rates
            ]

            def show(over: int) -> None:
                self.show_phase(self._starting() or f"learning-rates:{over}/{len(calls)}")

            results = self.workers.map("range_test", calls, on_wait=show)
            tests = {n: _tested(rates[n], t) for n, t in zip(rates, results, strict=True)}
            write_whole(run.folder / "lr.json", json.dumps(tests))
        spaces = {}
        for name, test in tests.items():
            rate = Float.from_dict(rates[name].to_dict() | test["bounds"])
            params = (rate if p.name == rate.name else p for p in run.spaces[name].params)
            spaces[name] = replace(run.spaces[name], params=tuple(params))
        run.change_spaces(spaces)

    def plan(self) -> None:
        """Plan the training of candidates from the pace of each family's baseline, once in a
        run's life. A search that no time ends, that is to be deterministic, or whose epochs were
        given trains as the rules say, and one that has candidates trains all others as these: for
        it only the trainings in full are planned."""
        run, task = self.run, self.run.task
        if task.budget.worker_s is None or run.options.deterministic or run.plan is not None:
            return
        settled = run.options.epochs is not None or bool(run.candidates())
        if settled and not (self.finish and time.monotonic() < self.end):
            return
        calls = [
            {"family": name, "config": space.baseline(), "limit_s": _PACED_S}
            for name, space in run.spaces.items()
        ]

        def show(over: int) -> None:
            self.show_phase(self._starting() or f"pace:{over}/{len(calls)}")

        found = self.workers.map("pace", calls, on_wait=show)
        paces = {
            name: Pace(**pace)
            for name, pace in zip(run.spaces, found, strict=True)
            if not isinstance(pace, InputError)  # its candidates will say what is wrong
        }
        if paces:
            left = left_to_plan(task.budget, self.spent_s)
            task, ensemble = replace(task, budget=left), run.options.ensemble
            planned = plan_search(task, paces, finish=self.finish, ensemble=ensemble)
            self.kept_s = planned.finish_s
            if not settled:
                run.adopt(planned)

    def _starting(self) -> str:
        """The phase while workers start: how many of them are ready; "" when all are."""
        ready, count = self.workers.ready, self.run.task.budget.workers
        return f"start:{ready}/{count}" if ready < count else ""

    def search(self) -> None:
        """Search candidates, then measure the latencies of the front again. The folder is
        locked."""
        from optuna.exceptions import StorageInternalError

        from nas.search.study import Study

        run, space, sampler = self.run, Space.join(self.run.spaces), self.run.options.sampler
        how = {"sampler": sampler, **run.storage}
        try:
            with closing(Study(run.folder, run.task, space, is_locked=True, **how)) as study:
                self._search_in(study)
        except StorageInternalError as error:
            reason = first_line(error.__cause__ or error)
            raise InputError(
                f"the storage failed ({reason}); what is finished is kept: go on with --resume"
            ) from error

    def _search_in(self, study: Study) -> None:
        """``search``, with its study open."""
        run, workers, budget = self.run, self.workers, self.run.task.budget
        study.describe(run.about())
        study.enqueue_baselines(rules.first_candidates(run.spaces))
        weights = FrontWeights(run.folder, run.task)
        weights.begin(study.candidates())
        phase, begun = "search", False

        def show(_: Any = None) -> None:
            jobs = workers.jobs()
            running = tuple(study[job.number] for job in jobs if isinstance(job, Candidate))
            calls = tuple(self._name(job) for job in jobs if not isinstance(job, Candidate))
            nonlocal begun
            begun = begun or bool(jobs)
            now = phase if begun else self._starting() or phase
            study.clock.write(self.spent_s)
            self.on_progress(Progress(study, running, self.spent_s, budget, now, calls))

        if budget.time_limit_s is None or self.earlier < budget.time_limit_s:
            self._candidates(study, weights, show)
        phase = "measure"
        self._measure_front(study, self._measure_deadline(), show)
        weights.end(study.candidates())
        show()

    def _candidates(self, study: Study, weights: FrontWeights, show: Callable[..., None]) -> None:
        from nas.search.loop import drive

        budget, deadline = self.run.task.budget, None
        limit, latest = budget.time_limit_s, None
        if limit is not None:
            # As long as no candidate is complete, the time for the training of the best is theirs.
            latest = self.end - latencies_s(limit)
            deadline = latest - self._kept_s()

        def later() -> float:
            """The end of the search by what its candidates take in full: less time than was kept
            back for those of mean pace is enough for fast ones."""
            if latest is None or not self.finish:
                return -math.inf
            places = max(1, int(budget.workers * (budget.gpus or budget.cpus)))
            return latest - min(self._kept_s(), expected_s(self.run, places))

        to_measure = study.sampler.to_measure()
        baselines = self.run.folder / "baselines.json"

        def also(name: str, value: Any) -> None:
            if name == "costs":
                if not isinstance(value, InputError):  # else costs are learnt from candidates alone
                    study.sampler.learn_costs(to_measure, value)
                return
            if isinstance(value, InputError):  # no reason to end the search, nor to hide it
                value = [{"name": "simple models", "metrics": {}, "error": str(value)}]
            write_whole(baselines, json.dumps(value))
            study.describe(self.run.about())

        def note(method: str, done: int) -> None:
            self.measured = f"{done}/{len(to_measure)}"

        calls: dict[str, dict[str, Any]] = {}
        if to_measure:
            limit_s = None if limit is None else _MEASURING * limit * budget.workers
            calls["costs"] = {"configs": to_measure, "limit_s": limit_s}
        if not baselines.exists() or _have_failed(self.run.baselines()):
            worker_s = budget.worker_s
            limit_s = None if worker_s is None else _SIMPLE * worker_s / budget.workers
            fidelity = self.run.task.fidelity.to_dict()
            calls["baselines"] = {"fidelity": fidelity, "limit_s": limit_s}
        drive(
            study,
            self.workers,
            deadline=deadline,
            latest=latest,
            later=later,
            trials=budget.trials,
            calls=calls,
            on_end=weights.add,
            on_result=also,
            on_report=note,
            on_event=show,
        )

    def _kept_s(self) -> float:
        """Seconds that are kept back for the trainings in full: what was planned, as far as the
        time that is left now allows, or a part of that where nothing was."""
        plan, left_s = self.run.plan, max(0.0, self.end - time.monotonic())
        if not self.finish:
            return 0.0
        if self.kept_s is not None:
            return self.kept_s
        if plan is not None and plan.finish_s:
            return min(plan.finish_s, KEPT_MOST * left_s)
        return KEPT_BACK * left_s

    def _name(self, job: Any) -> str:
        """In a word, what a worker does that trains no candidate."""
        names = {"baselines": "simple-models", "latency": "latency", "latencies": "latency"}
        if job == "costs" and self.measured:
            return f"costs:{self.measured}"
        return names.get(str(job), "costs")  # a shortlist waits for its costs

    def _measure_deadline(self) -> float:
        """When latencies are given up that a device does not give (of ``time.monotonic``): within
        the time limit, but not before those of a front have had their time."""
        limit, now = self.run.task.budget.time_limit_s, time.monotonic()
        if limit is None:
            return math.inf
        return min(now + max(60.0, 0.05 * limit), max(self.end, now + latencies_s(limit)))

    def _measure_front(self, study: Study, deadline: float, show: Callable[..., None]) -> None:
        """Measure latencies again, side by side, while all trainings on this machine pause.

        Not only the front's: the others were measured beside trainings too, so each is assumed
        to gain as the measured ones did, and is measured if it would then be on the front.
        Nor only those inside the limits, as long as that gain is unknown: the others may be, too.
        One that ends two workers, or comes too late, keeps the latency it has, and says why.
        """
        task, tried = self.run.task, set[int]()
        guess = constant_guess(task)
        while True:
            measured = [c.cost.latency for c in study.candidates() if c.cost.latency]
            gains = [
                now.ms / now.contended_ms for now in measured if now.isolated and now.contended_ms
            ]
            gain = min(1.0, statistics.median(gains)) if len(gains) >= 3 else 1.0
            expected = [
                c
                if _is_isolated(c) or "latency_ms" not in c.metrics
                else _with_latency(c, gain * c.metrics["latency_ms"])
                for c in study.candidates()
            ]
            front = pareto(expected, task.objectives, task.constraints, guess)
            if len(gains) < 3:
                front += _perhaps_inside(study.candidates(), task, guess)
            wanted = {c.number for c in front if not _is_isolated(c)} - tried
            if not wanted:
                return
            tried |= wanted
            candidates = by_quality([study[n] for n in sorted(wanted)], task.quality)
            for together in _side_by_side(candidates):
                latencies = _isolated_latencies(self.workers, together, deadline, show)
                for candidate, latency in zip(together, latencies, strict=True):
                    latency = replace(latency, contended_ms=candidate.metrics["latency_ms"])
                    cost = replace(candidate.cost, latency=latency)
                    study.revise(replace(_with_latency(candidate, latency.ms), cost=cost))


def _have_failed(simple_models: Sequence[Mapping[str, Any]]) -> bool:
    """Whether none of them has scores, as where their worker was lost: they are tried again."""
    return bool(simple_models) and not any(row["metrics"] for row in simple_models)


def _tested(rate: Float, test: Any) -> dict[str, Any]:
    """What is kept of a family's range test: its figures, the bounds that follow, and a note where
    they are the family's own."""
    if isinstance(test, InputError):
        test = {"note": f"its learning rates stay its own: {test}"}
    elif test["lowest"] is None:
        test["note"] = "its learning rates stay its own: the loss hardly fell in the range test"
    else:
        rate = rules.tested_rate(rate, test["lowest"])
    bounds = {name: getattr(rate, name) for name in ("low", "high", "default", "why")}
    return {**test, "bounds": bounds}


def _perhaps_inside(
    candidates: Sequence[Candidate], task: Task, guess: Mapping[str, float]
) -> list[Candidate]:
    """A few candidates that only their latency on the isolated device may bring inside the limits,
    and to the front: the best quality first."""
    complete = [c for c in candidates if c.state == State.COMPLETE]
    near = near_front([Point.of(c, task, guess) for c in complete])
    return [point.candidate for point in near if point.feasible == (False, True)][:_OUTSIDE]


def _side_by_side(candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Those that are measured together: not so many that a deadline would cost all of them."""
    together: list[Candidate] = []
    seconds = 0.0
    for candidate in candidates:
        together.append(candidate)
        seconds += max(_LATENCY_S, _PASSES * candidate.metrics["latency_ms"] / 1e3)
        if seconds >= _TOGETHER_S:
            yield together
            together, seconds = [], 0.0
    if together:
        yield together


def _isolated_latencies(
    workers: Workers, candidates: list[Candidate], deadline: float, show: Callable[..., None]
) -> list[Latency]:
    """Of all together, or where that ends their worker, each by itself. Those that are not
    measured at ``deadline`` keep the latency they have."""
    rows = [candidate.to_dict() for candidate in candidates]
    if time.monotonic() < deadline:
        with suppress(InputError):
            found = workers.call_alone(
                "latencies", candidates=rows, deadline=deadline, on_wait=show
            )
            return [Latency.from_dict(value) for value in found]
    return [_isolated_latency(workers, c, deadline, show) for c in candidates]


def _isolated_latency(
    workers: Workers, candidate: Candidate, deadline: float, show: Callable[..., None]
) -> Latency:
    row, reason = candidate.to_dict(), "the time for latencies was over"
    for _ in range(2):
        if time.monotonic() >= deadline:
            break
        try:
            value = workers.call_alone("latency", candidate=row, deadline=deadline, on_wait=show)
            return Latency.from_dict(value)
        except InputError as error:
            reason = str(error)
    assert candidate.cost.latency is not None  # of every complete candidate
    return replace(candidate.cost.latency, contended_because=reason)


def _is_isolated(candidate: Candidate) -> bool:
    latency = candidate.cost.latency
    return latency is not None and latency.isolated


def _with_latency(candidate: Candidate, latency_ms: float) -> Candidate:
    return replace(candidate, metrics=candidate.metrics | {"latency_ms": latency_ms})
