"""The record of a search: asks for candidates, judges them at rungs, keeps what became of them.

One ``Study`` wraps one Optuna study and is its only writer. It knows nothing of torch or
of how a candidate is trained; workers report to it through an executor. Everything needed
to go on after a crash is in the journal: a finished candidate is stored before Optuna hears of it,
an unfinished one is found RUNNING and queued again.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from nas.candidate import Candidate, Reason, State, curve_point
from nas.files import damaged, write_whole
from nas.front import Floats, beats, constant_guess, pareto, to_costs
from nas.plan import rung_key, rungs
from nas.rules import folds
from nas.search import samplers
from nas.search.classic import RandomSampler
from nas.search.clock import Clock, lock
from nas.search.halving import is_promoted
from nas.search.journal import ABOUT, NEW, REVISED, ROW, DamagedJournal, Journal, warn_once
from nas.search.postgres import Postgres
from nas.search.samplers import History, Sampler, stable_seed
from nas.space import Config, Space, config_key, join_family, split_family
from nas.task import InputError, Task, UsageError

_STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}
# What the study of a folder is called where it needs no other name.
NAME = "nas"
# Configurations that Optuna's sampler repeats before one is drawn by chance.
MAX_REPEATS = 3


class Study:
    """A search over ``space`` for the objectives of ``task``, kept in a journal in ``folder``
    or, as the study ``name``, in the PostgreSQL database ``storage``.

    ``sampler`` is the name of an installed one, "auto", or a class. Opening takes locks: a
    second driver on the folder or on the study gets an InputError. That of the folder is the
    caller's where it ``is_locked``.
    """

    def __init__(
        self,
        folder: Path,
        task: Task,
        space: Space,
        *,
        sampler: str | type[Sampler] = samplers.AUTO,
        storage: str = "",
        name: str = NAME,
        is_locked: bool = False,
    ) -> None:
        self.task, self.space = task, space
        if isinstance(sampler, str):  # an unknown one is reported before anything is opened
            sampler = samplers.load(samplers.resolve(sampler, task))
        self._random = RandomSampler(space, task)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = _storage_of(folder, storage, name)
        self._lock = None if is_locked else lock(folder / "driver.lock")
        try:
            self.clock = Clock(folder)
            ended = max(self._storage.written, self.clock.written)
            self._layers = folder / "layers"
            self._layers.mkdir(exist_ok=True)
            self._open(name)
            self.sampler = sampler(space, task, folder)
            self._forget()
            with _keeping_all():
                self._load()
            self.settle("the driver ended while this candidate was in training", until=ended)
        except BaseException:
            self.close()
            raise

    def _open(self, name: str) -> None:
        if isinstance(self._storage, Journal):
            self._storage.check_there()
        try:
            with _keeping_all():
                self._study = self._opened(self._storage, name)
        except DamagedJournal as damage:
            assert isinstance(self._storage, Journal)
            self._restore(self._storage, name, str(damage))
            self._study = self._opened(self._storage, name)
        self._belongs(name)

    def _opened(self, storage: Journal | Postgres, name: str) -> optuna.Study:
        study = optuna.create_study(
            study_name=name,
            storage=storage.open(),
            directions=[
                "minimize" if o.direction == "min" else "maximize" for o in self.task.objectives
            ],
            load_if_exists=True,
        )
        try:
            self._stored = _stored(study)
        except (InputError, TypeError, KeyError) as error:  # lines that are whole and foreign
            if not isinstance(storage, Journal):
                raise
            raise DamagedJournal(str(error)) from None
        return study

    def _restore(self, journal: Journal, name: str, damage: str) -> None:
        """Write a damaged journal anew from the candidates that its whole lines hold. What waited
        is lost, but for candidates that were to be trained again."""
        candidates: dict[int, Candidate] = {}
        for number, row in sorted(journal.rows().items()):
            try:
                candidate = Candidate.from_dict(row)
                self.space.check(candidate.joined)
            except (InputError, UsageError):  # another study's
                continue
            candidates[number] = candidate
        if not candidates:
            raise damaged(
                journal.path,
                f"{damage}, and no line holds a candidate of this search",
                NEW,
            )
        whole = Journal(journal.path.with_name(f"{journal.path.name}.new"))
        whole.path.unlink(missing_ok=True)
        try:
            self._study = self._opened(whole, name)
            self._study.sampler = optuna.samplers.RandomSampler()
            self._forget()
            for number in range(max(candidates) + 1):
                self._add(candidates.get(number))
            for last in {c.root: c for c in candidates.values()}.values():
                lost = [c.root for c in candidates.values() if c.reason is Reason.LOST]
                once = last.reason is Reason.LOST and lost.count(last.root) == 1
                if once or last.reason is Reason.INTERRUPTED:
                    self.requeue(last)
            aside = journal.replace(whole)
        finally:
            whole.close()
        warn_once(
            f"{journal.path} was damaged ({damage}); it is written anew with the"
            f" {len(candidates)} candidates of its whole lines, and kept as {aside.name}"
        )

    def _add(self, candidate: Candidate | None) -> None:
        """Add a candidate to the study as it is; None for one that is lost."""
        if candidate is None:
            self._study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
            self._made += 1
            return
        self._enqueue(candidate.joined, root=candidate.root)
        trial = self._study.ask()
        self._queue.pop(trial.number, None)
        self.space.suggest(trial)
        self._keep(candidate, trial)
        if candidate.state != State.RUNNING:
            self._finish(candidate, trial)

    def _forget(self) -> None:
        """Begin with what is known of no candidate."""
        self._rows: dict[int, Candidate] = {}
        self._seen: dict[str, int] = {}
        # Kept beside the rows, so that nothing is counted over all of them at each event.
        self._running: set[int] = set()
        self._roots: set[int] = set()
        self._seconds: dict[str, float] = {"cpu": 0.0, "gpu": 0.0}
        self.ended = Counter[Reason]()
        # Trials that wait to be asked for: number to root, None for a configuration that is new.
        self._queue: dict[int, int | None] = {}
        self._made = 0
        # Rung to root to costs, and whether they are better than a guess: a candidate that is
        # trained again takes its own place.
        self._rungs: dict[tuple[float | None, ...], dict[int, tuple[Floats, bool]]] = {}
        self._guess = constant_guess(self.task, first_fold=True)
        self._handles: dict[int, optuna.Trial] = {}
        self._begun_at: dict[int, float] = {}  # of time.monotonic, by number
        # Where candidates are in their training: the fold and the epoch that is over.
        self.reached: dict[int, tuple[int, int]] = {}

    # -- state ---------------------------------------------------------------------------

    def candidates(self) -> list[Candidate]:
        return [self._rows[n] for n in sorted(self._rows)]

    def front(self) -> list[Candidate]:
        task = self.task
        return pareto(self.candidates(), task.objectives, task.constraints, constant_guess(task))

    def __getitem__(self, number: int) -> Candidate:
        return self._rows[number]

    @property
    def spent(self) -> int:
        """Candidates that count towards a budget of trials: each root once, no duplicates,
        none that waits to be trained again."""
        return len(self._roots) - len(self._roots.intersection(self._queue.values()))

    def hours(self, device: str) -> float:
        """CPU-hours ("cpu") or GPU-hours ("gpu") spent on candidates, whatever became of them,
        in this run and earlier ones: seconds by the fraction of a device that each has had."""
        seconds = self._seconds[device]
        for candidate in map(self.__getitem__, self._running):
            until_now = replace(candidate, seconds=self.training_s(candidate.number))
            seconds += until_now.device_seconds[device]
        return seconds / 3600

    def training_s(self, number: int) -> float:
        """Seconds since a worker began with a candidate of this session (``begin``); 0 before. By a
        clock that nobody adjusts and that stands still while the machine is suspended."""
        now = time.monotonic()
        return now - self._begun_at.get(number, now)

    def begin(self, number: int) -> None:
        """Note that a worker is at a candidate, which may have waited for one; twice is once."""
        self._begun_at.setdefault(number, time.monotonic())

    @property
    def out_of_hours(self) -> bool:
        """Whether the budget's CPU-hours or GPU-hours are spent."""
        limits = self.task.budget.device_hours
        return any(self.hours(device) >= limit for device, limit in limits.items())

    @property
    def waiting(self) -> bool:
        """Whether a baseline or a candidate that was lost waits to be asked for."""
        return bool(self._queue)

    def close(self) -> None:
        self._storage.close()
        if self._lock is not None:
            self._lock.close()

    # -- ask, report, tell ---------------------------------------------------------------

    def history(self) -> History:
        """What the sampler may know now."""
        return History(self.candidates(), self._made, self._is_new)

    def _is_new(self, config: Config) -> bool:
        return config_key(*split_family(config)) not in self._seen

    def ask(self, worker: int = -1, preferred: Sequence[Config] = ()) -> Candidate | None:
        """The next candidate for ``worker``: the first new one of the ``preferred``
        configurations, if any. None where the space has no new one left."""
        repeats = 0
        while self.waiting or self._propose(repeats >= MAX_REPEATS, preferred):
            seed = stable_seed(self.task.seed, self._made)
            self._study.sampler = self.sampler.optuna_sampler(seed)
            trial = self._study.ask()
            self._queue.pop(trial.number, None)
            self._made = max(self._made, trial.number + 1)
            family, config = split_family(self.space.suggest(trial))
            root = trial.user_attrs.get("root", trial.number)
            candidate = Candidate(
                number=trial.number,
                root=root,
                origin=trial.user_attrs.get("origin", "sampled"),
                family=family,
                config=config,
                seed=stable_seed(self.task.seed, root),
                epochs=self.task.of_family(family).fidelity.epochs,
                worker=worker,
                cpus=self.task.budget.cpus,
                gpus=self.task.budget.gpus,
                started=time.time(),  # seconds of the wall clock since the epoch
            )
            self._handles[trial.number] = trial
            twin = self._seen.get(config_key(family, config), root)
            if twin == root:
                self._keep(candidate)
                return candidate
            detail = f"the same network as candidate {twin}"
            self.tell(
                replace(candidate, state=State.FAILED, reason=Reason.DUPLICATE, detail=detail)
            )
            repeats += 1
        return None

    def _propose(self, by_chance: bool, preferred: Sequence[Config]) -> bool:
        """Queue a new configuration, or leave it to Optuna; False where there is no new one."""
        if self._queue_first_new(preferred):
            return True
        sampler: Sampler = self._random if by_chance else self.sampler
        proposed = sampler.propose(self.history())
        return proposed is None or self._queue_first_new(proposed)

    def _queue_first_new(self, configs: Iterable[Config]) -> bool:
        config = next(filter(self._is_new, configs), None)
        if config is None:
            return False
        try:
            self.space.check(config)  # Optuna would draw what is missing or wrong
        except UsageError as error:
            name = type(self.sampler).__name__
            raise UsageError(f"{name} proposed a network outside its space: {error}") from None
        self._enqueue(config)
        return True

    def report(self, number: int, epoch: int, metrics: dict[str, float], fold: int = 1) -> str:
        """Take the metrics after an epoch; "" means to go on, anything else is why to stop.
        Nothing is judged on a later ``fold`` than the first."""
        self.reached[number] = fold, epoch
        if fold > 1:
            return ""
        candidate = self._rows[number]
        candidate = replace(
            candidate,
            metrics=candidate.metrics | metrics,
            curve=(*candidate.curve, curve_point(epoch, metrics)),
        )
        self._rows[number] = candidate
        if epoch not in rungs(candidate.epochs):
            return ""
        if self._unmeasured(candidate):
            return Reason.NAN
        rung = self._add_to_rung(epoch, candidate)
        if candidate.origin == "baseline":
            return ""
        costs, beats_guess = map(np.array, zip(*rung.values(), strict=True))
        promoted = is_promoted(costs, beats_guess, list(rung).index(candidate.root))
        return "" if promoted else Reason.HALVING

    def _add_to_rung(self, epoch: int, candidate: Candidate) -> dict[int, tuple[Floats, bool]]:
        """The rung of an epoch, with the candidate in it, its latency as those of all others there:
        not measured again."""
        objectives, key = self.task.objectives, rung_key(self.task, candidate, epoch)
        rung = self._rungs.setdefault(key, {})
        beats_guess = beats(candidate.metrics, objectives, self._guess)
        rung[candidate.root] = to_costs([candidate.contended], objectives)[0], beats_guess
        return rung

    def tell(self, candidate: Candidate) -> None:
        """Store what became of a candidate; it is safe on disk when this returns.

        One that is complete without a finite number for each objective and constraint is
        stored as pruned for the reason "nan". One that ran out of time is complete with the
        figures of its last epoch, unless they are those of one fold of several: it is not as
        good as it might be, and better than nothing.
        """
        late = candidate.reason is Reason.TIMEOUT
        one_fold = folds(self.task.of_family(candidate.family)) == 1
        if late and candidate.curve and one_fold and not self._unmeasured(candidate):
            detail = f"{len(candidate.curve)} epochs trained, stopped {candidate.detail}"
            candidate = replace(candidate, state=State.COMPLETE, reason=Reason.NONE, detail=detail)
        if candidate.state == State.COMPLETE and (missing := self._unmeasured(candidate)):
            detail = f"no finite {', '.join(missing)} at the end"
            candidate = replace(candidate, state=State.PRUNED, reason=Reason.NAN, detail=detail)
        if candidate.layers:
            # Apart from the rows, which are read all: layers are looked at for a few only.
            # A report may look at any moment.
            write_whole(self._layers / f"{candidate.number}.json", json.dumps(candidate.layers))
            candidate = replace(candidate, layers=())
        trial = self._handles.pop(candidate.number)
        self._keep(candidate, trial)
        self._finish(candidate, trial)

    def requeue(self, candidate: Candidate) -> None:
        """Queue a candidate again that did not end by its own fault; twice is once.

        Call it before ``tell``: a driver killed between the two then loses nothing.
        """
        if candidate.root not in self._queue.values():
            origin = "baseline" if candidate.origin == "baseline" else "requeued"
            self._enqueue(candidate.joined, root=candidate.root, origin=origin)

    def settle(self, detail: str, until: float | None = None) -> None:
        """End all that is in training as interrupted and queue it again, and finish in Optuna what
        is stored but not finished there. ``until``: when it ended, if not now (epoch seconds)."""
        # No candidate has taken longer than all searches here, whatever the wall clock says.
        spent_s = self.clock.read() or math.inf
        for frozen in self._trials(TrialState.RUNNING):
            trial = self._handles.pop(frozen.number, None)
            trial = trial or optuna.Trial(self._study, frozen._trial_id)
            candidate = self._rows.get(frozen.number)
            if candidate is None:  # ended between being asked for and its first row
                queued = frozen.system_attrs.get("fixed_params")
                root = frozen.user_attrs.get("root")
                # A driver that was killed in here has queued that root again already.
                if queued is not None and (root is None or root not in self._queue.values()):
                    self._enqueue(queued, **frozen.user_attrs)
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            if candidate.state == State.RUNNING:
                self.requeue(candidate)
                if until is None:
                    seconds = self.training_s(candidate.number)
                else:
                    seconds = min(max(0.0, until - candidate.started), spent_s)
                candidate = replace(
                    candidate,
                    state=State.FAILED,
                    reason=Reason.INTERRUPTED,
                    detail=detail,
                    seconds=seconds,
                )
                self._keep(candidate, trial)
            self._finish(candidate, trial)

    def enqueue_baselines(self, baselines: Mapping[str, Sequence[Config]]) -> None:
        """Queue the proven configurations of each family, once in a study's life."""
        queued = {t.user_attrs["baseline"] for t in self._trials() if "baseline" in t.user_attrs}
        for family, configs in baselines.items():
            for i, config in enumerate(configs):
                name = f"{family} {i}" if i else family
                joined = join_family(family, config)
                if name not in queued and self._is_new(joined):
                    self._enqueue(joined, origin="baseline", baseline=name)

    def describe(self, about: Mapping[str, Any]) -> None:
        """Keep with the candidates what they are of, as JSON values, for those who have the storage
        and not the folder."""
        if self._study.user_attrs.get(ABOUT) != about:
            self._study.set_user_attr(ABOUT, about)

    def revise(self, candidate: Candidate) -> None:
        """Replace figures of a finished candidate (its latency on the isolated device)."""
        self._keep(candidate)

    # -- storage -------------------------------------------------------------------------

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _unmeasured(self, candidate: Candidate) -> list[str]:
        """The objectives and constraints without a finite number."""
        wanted = [o.metric for o in self.task.objectives]
        wanted += [c.metric for c in self.task.constraints if c.metric not in wanted]
        return [m for m in wanted if not math.isfinite(candidate.metrics.get(m, math.nan))]

    def _belongs(self, name: str) -> None:
        """A study goes on with what it was begun with, whichever folder asks for it."""
        search = [self.space.to_dict(), [o.metric for o in self.task.objectives]]
        data = [self.task.profile.fingerprint, self.task.profile.split]
        mine = hashlib.sha256(json.dumps(search + data).encode()).hexdigest()[:16]
        first = self._study.user_attrs.get("search")
        if first is None:
            self._study.set_user_attr("search", mine)
        elif first != mine:
            raise InputError(
                f"the study {name!r} was begun with other data, spaces or objectives;"
                " choose another name with --study"
            )

    def _enqueue(self, config: Config, **attributes: Any) -> None:
        self._study.enqueue_trial(config, user_attrs=attributes)
        self._queue[self._made] = attributes.get("root")
        self._made += 1

    def _count(self, candidate: Candidate, sign: int = 1) -> None:
        if candidate.state == State.RUNNING:
            (self._running.add if sign > 0 else self._running.discard)(candidate.number)
            return
        self.ended[candidate.reason] += sign
        for device, seconds in candidate.device_seconds.items():
            self._seconds[device] += sign * seconds

    def _take(self, candidate: Candidate) -> None:
        if candidate.number in self._rows:
            self._count(self._rows[candidate.number], -1)
        self._count(candidate)
        self._rows[candidate.number] = candidate
        self._seen.setdefault(config_key(candidate.family, candidate.config), candidate.root)
        if candidate.reason is not Reason.DUPLICATE:
            self._roots.add(candidate.root)

    def _keep(self, candidate: Candidate, trial: optuna.Trial | None = None) -> None:
        self._take(candidate)
        # Through the storage, because Optuna's own call refuses a finished trial.
        trial = trial or self._handles.get(candidate.number)
        if trial is not None:
            trial.set_user_attr(ROW, candidate.to_dict())
        else:
            self._study.set_user_attr(f"{REVISED}{candidate.number}", candidate.to_dict())

    def _finish(self, candidate: Candidate, trial: optuna.Trial) -> None:
        # A pruned trial without a constraint value would count as good while few are complete.
        # An error is reported as pruned too: Optuna learns nothing from a failure, and would ask
        # for the same kind of network again and again.
        complete = candidate.state == State.COMPLETE
        violations = {"pruned": 0.0 if complete else 1.0}
        for c in self.task.constraints:
            if complete or (
                candidate.reason is Reason.INFEASIBLE and c.metric in candidate.metrics
            ):
                # Relative to the limit: Optuna adds violations up, whatever their units.
                violations[str(c)] = c.violation(candidate.metrics) / (abs(c.bound) or 1.0)
        values = None
        if complete:
            values = [candidate.metrics[o.metric] for o in self.task.objectives]
        known = trial.constraints  # set already where the driver was killed before its tell
        for name in violations.keys() - known.keys():
            trial.set_constraint(name, violations[name])
        state = TrialState.PRUNED if candidate.reason is Reason.ERROR else _STATES[candidate.state]
        self._study.tell(trial, values, state=state)

    def _load(self) -> None:
        trials = self._trials()
        self._made = len(trials)
        waiting = [t for t in trials if t.state == TrialState.WAITING]
        self._queue.update({t.number: t.user_attrs.get("root") for t in waiting})
        for number in sorted(self._stored):
            candidate = self._stored[number]
            self._take(candidate)
            levels = rungs(candidate.epochs)
            for point in candidate.curve:
                if (epoch := int(point["epoch"])) not in levels:
                    continue
                # A requeued one comes later and takes the place of the one that was lost.
                reached = replace(candidate, metrics=candidate.metrics | point)
                if not self._unmeasured(reached):
                    self._add_to_rung(epoch, reached)


def _stored(study: optuna.Study) -> dict[int, Candidate]:
    """The latest row of each candidate by number. Raises InputError, TypeError or KeyError where
    one is foreign, or of another trial: then a line before it is missing."""
    found = {}
    for trial in study.get_trials(deepcopy=False):
        if (row := trial.user_attrs.get(ROW)) is not None:
            found[trial.number] = Candidate.from_dict(row)
            if row["number"] != trial.number:
                raise InputError(f"a candidate before number {row['number']} is missing")
    for key, row in study.user_attrs.items():
        if key.startswith(REVISED):
            found[row["number"]] = Candidate.from_dict(row)
    return found


def load_candidates(folder: Path, storage: str = "", name: str = NAME) -> list[Candidate]:
    """All candidates of a study, read without a lock: safe beside a running search. Empty
    before the search has asked for its first."""
    with _keeping_all():
        rows = _storage_of(folder, storage, name).rows()
        found = []
        for number in sorted(rows):
            try:
                found.append(Candidate.from_dict(rows[number]))
            except InputError as error:  # a line that is whole, and not what was written
                warn_once(f"{folder}: candidate {number} cannot be read ({error}); it is left out")
        return found


def _storage_of(folder: Path, url: str, name: str) -> Journal | Postgres:
    """Where the study ``name`` is kept: in the database at ``url``, or ("") in a journal in
    ``folder``. Nothing is opened yet."""
    return Postgres(url, name) if url else Journal(folder / "study.journal")


@contextmanager
def _keeping_all() -> Iterator[None]:
    """Without the garbage collector, which takes a quarter of the time in which a large study
    is read, and finds nothing."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
