"""The engine without training: trials a second, and what 10,000 finished ones cost.

    python scripts/bench_engine.py FOLDER --prepare [--finished 10000]
    python scripts/bench_engine.py FOLDER [--finished 10000] [--noop 400]

The first writes the finished trials (minutes), the second measures, and can be repeated; it
writes them too where they are missing. FOLDER is on the disk that searches are kept on: waiting
for it is part of what is measured. Each figure stands beside plain Optuna's, for the same space
and the same journal, in the same run:

- no-op trials a second of the clock: two worker processes that compute a formula, random search;
  plain Optuna calls ask and tell in one process, without workers.
- opening a study of finished trials, and reading its candidates; plain Optuna loads them.
- one ask at a tenth of the trials and at all, the mean of some, of our own sampler (ehvi) of as
  many as make its models anew twice; plain Optuna asks the same sampler, beside ours its TPE.

The last two are this process's own time, which other work on the machine disturbs less, with one
thread of BLAS, as a driver has.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from threadpoolctl import threadpool_limits

from nas.candidate import State
from nas.search.ehvi import LAG_MOST
from nas.search.local import LocalWorkers
from nas.search.loop import drive
from nas.search.samplers import load, stable_seed
from nas.search.study import NAME, Study, load_candidates
from nas.space import Space, split_family
from nas.testing import EVALUATOR, formula, small_spaces, small_task

TASK, SPACE = small_task(epochs=1), Space.join(small_spaces())
PEERS = {"random": "random", "nsga2": "nsga2", "tpe": "tpe", "ehvi": "tpe"}
ASKS = {"ehvi": 2 * LAG_MOST}
FEW_ASKS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--finished", type=int, default=10_000, help="trials to load")
    parser.add_argument("--noop", type=int, default=400, help="trials to run")
    parser.add_argument("--prepare", action="store_true", help="only write the finished trials")
    args = parser.parse_args()
    few, many = (args.folder / f"finished-{n}" for n in (args.finished // 10, args.finished))
    fill(few, args.finished // 10)
    if not many.exists():
        shutil.copytree(few, many)
    fill(many, args.finished)
    if args.prepare:
        return
    where = tempfile.TemporaryDirectory(dir=args.folder)  # asks leave trials behind
    with where as folder, threadpool_limits(1):
        measure(Path(folder), few, many, args.finished, args.noop)


def measure(folder: Path, few: Path, many: Path, finished: int, trials: int) -> None:
    for name in ("noop", "plain"):
        (folder / name).mkdir()
    few = shutil.copytree(few, folder / "few")
    many = shutil.copytree(many, folder / "many")
    mine, plain = noop(folder / "noop", trials), noop_plain(folder / "plain", trials)
    row("no-op trials a second", mine, plain, unit="/s")
    loading = seconds(lambda: plain_study(many).get_trials(deepcopy=False))
    row(f"opening {finished} finished", seconds(lambda: opened(many).close()), loading)
    row(f"reading {finished} candidates", seconds(lambda: load_candidates(many)), loading)
    for place, count in ((few, finished // 10), (many, finished)):
        for sampler, peer in PEERS.items():
            row(f"one ask of {sampler} at {count}", ask(place, sampler), ask_plain(place, peer))


def row(what: str, mine: float, plain: float, unit: str = "s") -> None:
    figures = f"{mine:9.4g} {unit:3} plain Optuna {plain:9.4g} {unit:3}"
    print(f"{what:32} {figures} ratio {mine / plain:.2f}", flush=True)


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    begin = clock()
    call()
    return clock() - begin


def opened(folder: Path, sampler: str = "random") -> Study:
    return Study(folder, TASK, SPACE, sampler=sampler)


def plain_study(folder: Path, sampler: str = "random") -> optuna.Study:
    """The journal in ``folder`` by Optuna's own means."""
    return optuna.create_study(
        study_name=NAME,
        storage=JournalStorage(JournalFileBackend(str(folder / "study.journal"))),
        sampler=load(sampler)(SPACE, TASK).optuna_sampler(stable_seed(0, 0)),
        directions=["minimize" if o.direction == "min" else "maximize" for o in TASK.objectives],
        load_if_exists=True,
    )


def noop(folder: Path, trials: int) -> float:
    """Trials a second, from the moment at which both workers are ready."""
    workers = LocalWorkers(2, EVALUATOR, {"folder": str(folder)}, folder / "logs")
    with closing(opened(folder)) as study, workers:
        while len(workers.idle()) < 2:
            list(workers.events(timeout=0.1))
        return trials / seconds(lambda: drive(study, workers, trials=trials), time.perf_counter)


def noop_plain(folder: Path, trials: int) -> float:
    study = plain_study(folder)

    def trial() -> None:
        trial = study.ask()
        metrics = formula(split_family(SPACE.suggest(trial))[1], 1)
        trial.set_user_attr("metrics", metrics)
        study.tell(trial, [metrics[o.metric] for o in TASK.objectives])

    return trials / seconds(lambda: [trial() for _ in range(trials)], time.perf_counter)


def fill(folder: Path, trials: int) -> None:
    """Finish candidates until there are so many."""
    folder.mkdir(parents=True, exist_ok=True)
    with closing(opened(folder)) as study:
        while study.spent < trials:
            candidate = study.ask()
            assert candidate is not None
            study.report(candidate.number, 1, formula(candidate.config, 1))
            study.tell(replace(study[candidate.number], state=State.COMPLETE))


def ask(folder: Path, sampler: str) -> float:
    """Mean seconds of an ask; each candidate is ended, so that none waits for the next."""
    times = []
    with closing(opened(folder, sampler)) as study:
        for _ in range(ASKS.get(sampler, FEW_ASKS)):
            begin = time.process_time()
            candidate = study.ask()
            times.append(time.process_time() - begin)
            assert candidate is not None
            study.tell(replace(candidate, state=State.PRUNED, reason="halving"))
    return statistics.mean(times)


def ask_plain(folder: Path, sampler: str) -> float:
    study, times = plain_study(folder, sampler), []
    for _ in range(FEW_ASKS):
        begin = time.process_time()
        trial = study.ask()
        SPACE.suggest(trial)
        times.append(time.process_time() - begin)
        study.tell(trial, state=TrialState.FAIL)
    return statistics.mean(times)


if __name__ == "__main__":
    main()
