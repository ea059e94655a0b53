"""The brain: asks for candidates, judges them on the way, keeps what became of them.

One ``Study`` wraps one Optuna study and is its only writer. It knows nothing of torch or
of how a candidate is trained; workers answer to it through an executor. Everything needed
to go on after a crash is in the journal: a finished candidate is stored before it is told,
an unfinished one is found RUNNING and queued again.
"""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from nas.candidate import Candidate, State
from nas.front import pareto, to_costs
from nas.search.halving import goes_on, rungs
from nas.search.samplers import optuna_sampler, propose, stable_seed
from nas.space import Config, Space, config_key, join_family, split_family
from nas.task import COSTS, InputError, Task

_STATES = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}
_ROW = "candidate"


def repair_journal(path: Path) -> int:
    """Cut a torn last line off and return how many bytes went.

    A writer killed half-way leaves one; the next write would glue itself to it and make
    the file unreadable for good.
    """
    if not path.exists():
        return 0
    with path.open("rb+") as file:
        data = file.read()
        keep = data.rfind(b"\n") + 1
        file.truncate(keep)
    return len(data) - keep


class Study:
    """A search over ``space`` for the objectives of ``task``, kept in ``folder``.

    Opening takes a lock: a second driver on the same folder gets an InputError.
    """

    def __init__(self, folder: Path, task: Task, space: Space, *, sampler: str = "tpe") -> None:
        self.task, self.space, self.sampler = task, space, sampler
        self._lock = _lock(folder / "driver.lock")
        journal = folder / "study.journal"
        repair_journal(journal)
        # Left by a driver that was killed while it wrote; Optuna would wait 30 s for it.
        Path(f"{journal}.lock").unlink(missing_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
        self._study = optuna.create_study(
            study_name="nas",
            storage=JournalStorage(backend),
            directions=[
                "minimize" if o.direction == "min" else "maximize" for o in task.objectives
            ],
            load_if_exists=True,
            sampler=optuna_sampler(sampler, task.seed, 0),
        )
        self._rows: dict[int, Candidate] = {}
        self._seen: dict[str, int] = {}
        self._rungs: dict[int, dict[int, dict[str, float]]] = {}
        self._handles: dict[int, optuna.Trial] = {}
        self._recover()

    # -- state ---------------------------------------------------------------------------

    def candidates(self) -> list[Candidate]:
        return [self._rows[n] for n in sorted(self._rows)]

    def front(self) -> list[Candidate]:
        return pareto(self.candidates(), self.task.objectives, self.task.constraints)

    def __getitem__(self, number: int) -> Candidate:
        return self._rows[number]

    @property
    def spent(self) -> int:
        """Candidates that count towards a budget of trials: each root once, no duplicates,
        none that waits to be trained again."""
        roots = {c.root for c in self._rows.values() if c.reason != "duplicate"}
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return len(roots - {t.user_attrs.get("root") for t in waiting})

    def close(self) -> None:
        self._lock.close()

    # -- ask, report, tell ---------------------------------------------------------------

    def ask(self) -> Candidate | None:
        """The next candidate to train, or None where the space has no new one left."""
        for attempt in range(50):
            trial = self._next_trial(blind=attempt >= 3)
            family, config = split_family(self.space.suggest(trial))
            attrs = trial.user_attrs
            candidate = Candidate(
                number=trial.number,
                root=attrs.get("root", trial.number),
                origin=attrs.get("origin", "sampled"),
                family=family,
                config=config,
                seed=stable_seed(self.task.seed, attrs.get("root", trial.number)),
                epochs=self.task.fidelity.epochs,
                started=time.time(),
            )
            self._handles[trial.number] = trial
            twin = self._seen.get(config_key(family, config))
            if twin is None or twin == candidate.root:
                self._keep(candidate)
                return candidate
            self.tell(
                replace(
                    candidate,
                    state=State.FAILED,
                    reason="duplicate",
                    detail=f"the same network as candidate {twin}",
                )
            )
        return None

    def _next_trial(self, blind: bool) -> optuna.Trial:
        number = len(self._study.get_trials(deepcopy=False))
        if not any(t.state == TrialState.WAITING for t in self._study.get_trials(deepcopy=False)):
            sampled = sum(c.origin == "sampled" for c in self._rows.values())
            name = "random" if blind else self.sampler
            config = propose(name, self.space, number, self.task.seed, sampled, self.front())
            if config is not None:
                self._study.enqueue_trial(config)
        self._study.sampler = optuna_sampler(self.sampler, self.task.seed, number)
        return self._study.ask()

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> str:
        """Take the metrics after an epoch; "" means go on, anything else is why to stop."""
        candidate = self._rows[number]
        candidate = replace(
            candidate,
            metrics=candidate.metrics | metrics,
            curve=(*candidate.curve, curve_point(epoch, metrics)),
        )
        self._rows[number] = candidate
        if epoch not in rungs(candidate.epochs):
            return ""
        rung = self._rungs.setdefault(epoch, {})
        rung[number] = candidate.metrics
        if candidate.origin == "baseline":
            return ""
        numbers = list(rung)
        reached = [replace(candidate, metrics=rung[n]) for n in numbers]
        costs = to_costs(reached, self.task.objectives)
        return "" if goes_on(costs, numbers.index(number)) else "halving"

    def tell(self, candidate: Candidate) -> None:
        """Store what became of a candidate; it is safe on disk when this returns."""
        trial = self._handles.pop(candidate.number)
        self._keep(candidate, trial)
        self._finish(candidate, trial)

    def requeue(self, candidate: Candidate) -> None:
        """Queue a candidate again that was lost by no fault of its own."""
        self._study.enqueue_trial(
            join_family(candidate.family, candidate.config),
            user_attrs={"root": candidate.root, "origin": "requeued"},
        )

    def enqueue_baselines(self, baselines: dict[str, Config]) -> None:
        """Queue the proven configuration of each family, once in a study's life."""
        queued = {
            t.user_attrs["baseline"]
            for t in self._study.get_trials(deepcopy=False)
            if "baseline" in t.user_attrs
        }
        for family, config in baselines.items():
            if family not in queued:
                self._study.enqueue_trial(
                    join_family(family, config),
                    user_attrs={"origin": "baseline", "baseline": family},
                )

    def revise(self, candidate: Candidate) -> None:
        """Replace figures of a finished candidate (its latency on the quiet device)."""
        self._keep(candidate)

    # -- storage -------------------------------------------------------------------------

    def _keep(self, candidate: Candidate, trial: optuna.Trial | None = None) -> None:
        self._rows[candidate.number] = candidate
        self._seen.setdefault(config_key(candidate.family, candidate.config), candidate.root)
        # Through the storage, because Optuna's own call refuses a finished trial.
        trial = trial or self._handles.get(candidate.number)
        if trial is not None:
            trial.set_user_attr(_ROW, candidate.to_dict())
        else:
            self._study.set_user_attr(f"revised:{candidate.number}", candidate.to_dict())

    def _finish(self, candidate: Candidate, trial: optuna.Trial) -> None:
        # A pruned trial without a constraint value would count as good while few are complete.
        # An error is told as pruned too: Optuna learns nothing from a failure, and would ask
        # for the same kind of network again and again.
        trial.set_constraint("pruned", 0.0 if candidate.state == State.COMPLETE else 1.0)
        values = None
        if candidate.state == State.COMPLETE:
            values = [candidate.metrics[o.metric] for o in self.task.objectives]
            for constraint in self.task.constraints:
                trial.set_constraint(str(constraint), constraint.violation(candidate.metrics))
        state = TrialState.PRUNED if candidate.reason == "error" else _STATES[candidate.state]
        self._study.tell(trial, values, state=state)

    def _recover(self) -> None:
        for frozen in self._study.get_trials(deepcopy=False):
            row = frozen.user_attrs.get(_ROW)
            if row is None:
                if frozen.state == TrialState.RUNNING:  # killed between ask and the first write
                    self._study.tell(frozen.number, state=TrialState.FAIL)
                    if frozen.params:
                        self._study.enqueue_trial(frozen.params, user_attrs=frozen.user_attrs)
                continue
            candidate = Candidate.from_dict(row)
            if frozen.state == TrialState.RUNNING:
                trial = optuna.Trial(self._study, frozen._trial_id)
                if candidate.state == State.RUNNING:
                    candidate = replace(
                        candidate,
                        state=State.FAILED,
                        reason="lost",
                        detail="the driver ended while this candidate was in training",
                    )
                    self.requeue(candidate)
                    self._keep(candidate, trial)
                self._finish(candidate, trial)
            self._rows[candidate.number] = candidate
            self._seen.setdefault(config_key(candidate.family, candidate.config), candidate.root)
            for point in candidate.curve:
                if (epoch := int(point["epoch"])) in rungs(candidate.epochs):
                    self._rungs.setdefault(epoch, {})[candidate.number] = {
                        **candidate.metrics,
                        **point,
                    }
        for key, row in self._study.user_attrs.items():
            if key.startswith("revised:"):
                candidate = Candidate.from_dict(row)
                self._rows[candidate.number] = candidate


def curve_point(epoch: int, metrics: dict[str, float]) -> dict[str, float]:
    """One entry of a training curve: what changes from epoch to epoch."""
    return {"epoch": epoch} | {k: v for k, v in metrics.items() if k not in COSTS}


def _lock(path: Path) -> IO[str]:
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise InputError(
            f"{path.parent} is in use by another search (process {owner});"
            " wait for it, or choose another folder with --out"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def load_candidates(folder: Path) -> list[Candidate]:
    """All candidates of a study, read without a lock: safe beside a running search."""
    rows: dict[int, Candidate] = {}
    journal = folder / "study.journal"
    if not journal.exists():
        raise InputError(f"{folder} holds no study; `nas search … --out {folder}` makes one")
    backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
    study = optuna.load_study(study_name="nas", storage=JournalStorage(backend))
    for frozen in study.get_trials(deepcopy=False):
        if _ROW in frozen.user_attrs:
            rows[frozen.number] = Candidate.from_dict(frozen.user_attrs[_ROW])
    for key, row in study.user_attrs.items():
        if key.startswith("revised:"):
            candidate = Candidate.from_dict(row)
            rows[candidate.number] = candidate
    return [rows[number] for number in sorted(rows)]
