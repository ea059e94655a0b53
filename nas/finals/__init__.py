"""The last part of a search: its best candidates are trained at full scale, side by side, and the
one that is best on the validation part is scored once on the test part.

Proxies rank networks by a part of a training, and the best of many is partly luck. So several are
trained by their recipes: the best, the best of each other family where that costs little or its
proxy is within the noise, then the others by quality (``rounds``). One that was at its best early
is trained once more, with a schedule of as many epochs. In the time that is left, and on cores that
no other is for, more networks of the best are trained. Their logits and those of the finalists that
are nearly as good are averaged (``average``). Each training is a process of its own (``jobs``) with
a core or a GPU, here or on a cluster; a round begins only while there is time for it.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas import recipe as recipes
from nas.candidate import Candidate
from nas.files import read_json, write_whole
from nas.finals import average, rounds
from nas.finals.finalist import Finalist, complete, is_better, leader
from nas.finals.jobs import Job, copy_trained, run_all, train
from nas.finals.pace import epoch_s, epochs_of, recipe_epochs
from nas.machine import Site
from nas.plan import SIMPLE_TEST_S
from nas.run import Finished, Run
from nas.task import InputError, Task

MOST = 6  # finalists, or one for each core or GPU; in time that is left also what is as good
FAR_MORE = 2.0  # times the epochs that it had: for so many a finalist is trained anew
SCORE_S = 300.0  # that scoring the test part may take, also beyond the time: no model without it


def train_finalists(run: Run, site: Site, end: float, show: Callable[[str], None]) -> Finished:
    """Train the best candidates of ``run`` on a ``site`` until ``end`` (of ``time.monotonic``),
    keep the winner in RUN/model and what became of all in RUN/finished.json. What fails says why
    there, and does not end the search. ``show`` receives the phase, some times a second.

    What earlier searches of the run have trained, as one that was interrupted, is not trained again
    where there is not the time for far more epochs."""
    places, ranked, last = site.count, run.ranked(), end
    start_s = run.task.budget.start_s
    end -= _simple_s(run) + average.tested_s(run, ranked)
    left_s = end - time.monotonic() - start_s
    waiting = rounds.order(ranked, run.task, left_s, places)
    known = list(_earlier(run, waiting, left_s))
    trained = [entry for entry in known if not entry.network]
    more = [entry for entry in known if entry.network]  # networks of finalists
    waiting = [c for c in waiting if all(c is not e.candidate for e in trained)]
    while True:
        left_s = end - time.monotonic() - 2 * start_s
        entries = rounds.shorter(run, trained, left_s, places)
        if not entries:
            few = len({e.candidate.number for e in trained}) < max(MOST, places)
            allowed = waiting if few else rounds.near(run.task, ranked, waiting)
            room_s = left_s - average.next_network_s(run, trained)
            entries = rounds.next_round(run, allowed, room_s, places, trained) if allowed else []
        if not entries and not complete(trained):  # a late score is better than no model
            entries = rounds.next_round(run, waiting, left_s + start_s, places, trained)
        if not entries:
            break
        waiting = [c for c in waiting if all(c is not e.candidate for e in entries)]
        beside = average.beside(run, entries, trained, more, left_s, places)
        together = [*trained, *entries, *beside]
        made_s = average.mean_s(run, complete(trained)) if len(together) > 1 else 0.0
        done = train(run.task, [*entries, *beside], site, end - start_s - made_s, show)
        trained += done[: len(entries)]
        more += done[len(entries) :]
    means = average.averages(run, site, trained, more, end, show)
    if not complete(trained) and (earlier := run.winner):
        return earlier  # there was no time to find a better one
    found = _finished(run, site, trained, [*more, *means], last, show)
    found = replace(found, candidates=len(ranked))
    write_whole(run.folder / "finished.json", found.to_json())
    return found


def expected_s(run: Run, places: int) -> float:
    """Seconds that ``train_finalists`` has use for, as the candidates are now; endless where none
    is complete."""
    ranked = run.ranked()
    if not ranked:
        return math.inf
    tested_s = average.tested_s(run, ranked) + _simple_s(run)
    return rounds.expected_s(run, ranked, MOST, places) + tested_s


def _simple_s(run: Run) -> float:
    """Seconds that are kept for the simple models, which are fitted again for the test part."""
    fitted_s = sum(float(row.get("seconds", 0.0)) for row in run.baselines())
    return min(SIMPLE_TEST_S, fitted_s)


def _earlier(run: Run, candidates: Sequence[Candidate], left_s: float) -> Iterator[Finalist]:
    """What is trained already of ``candidates``: their finalists, by a shorter schedule too, and
    further networks of these."""
    for candidate in candidates:
        own = run.folder / "finalists" / str(candidate.number)
        planned = epochs_of(run.task, candidate, int(left_s / epoch_s(run.task, candidate)))
        for folder in (own, *sorted(own.parent.glob(f"{candidate.number}-*"))):
            kind = re.fullmatch(r"\d+(-\d+)?(?:-network-(\d+))?", folder.name)
            result = _result_in(folder, candidate) if kind else None
            if kind is None or result is None:
                continue
            again, epochs = bool(kind[1]), int(result["schedule_epochs"])
            if folder == own and planned > FAR_MORE * epochs:
                break  # nor its further networks
            most = epochs if again else max(epochs, recipe_epochs(run.task, candidate))
            number = int(kind[2] or 0)
            yield Finalist(candidate, epochs, most, folder, result, again=again, network=number)


def _result_in(folder: Path, candidate: Candidate) -> dict[str, Any] | None:
    """What a training of a candidate in ``folder`` has come to; None where there was none that
    came to its end."""
    file, model = folder / "result.json", folder / "model.ckpt"
    if not (file.is_file() and model.is_file()):
        return None
    try:
        own = recipes.load(folder / "recipe.yaml")["model"]["init_args"]
        result: dict[str, Any] = read_json(file, dict[str, Any])
    except InputError:  # damaged: it is trained again
        return None
    same = (own["family"], own["config"]) == (candidate.family, candidate.config)
    return result if same else None


def _finished(
    run: Run,
    site: Site,
    trained: Sequence[Finalist],
    others: Sequence[Finalist],
    end: float,
    show: Callable[[str], None],
) -> Finished:
    """The winner, or the last of the means among ``others`` where that is better, its folder as
    RUN/model, and its score on the test part, also where that takes longer than until ``end``."""
    task = run.task
    best = leader(trained, task)
    summary = tuple(_row(entry, task) for entry in [*trained, *others])
    if best is None:
        first = trained[0] if trained else None
        candidate = first.candidate if first else run.best()
        error = (
            first.error
            if first
            else (f"no time was left for an epoch; `nas train {run.export()}` trains it")
        )
        return Finished(candidate.number, 0, recipe_epochs(task, candidate), {}, error, summary)
    if others and others[-1].networks and is_better(others[-1], best, task):
        best = others[-1]
    model, new = run.folder / "model", run.folder / "model.new"
    shutil.rmtree(new, ignore_errors=True)
    copy_trained(best.folder, new)
    # A driver that is killed from here on scores again: nothing speaks of another model.
    (run.folder / "finished.json").unlink(missing_ok=True)
    shutil.rmtree(model, ignore_errors=True)
    new.rename(model)
    job = Job(model, ("--test", "only", "--json"), run.folder / "logs" / "test.log")
    late = max(end, time.monotonic() + SCORE_S)
    ((result, error),) = run_all([job], site, late, show)
    run.refer_to_source(model / "recipe.yaml")
    if not result and (written := _tested_in(model)):  # the simple models alone came too late
        result, error = written, ""
    number, networks = best.candidate.number, max(1, len(best.networks))
    return Finished(number, best.epochs, best.recipe_epochs, result, error, summary, networks)


def _tested_in(model: Path) -> dict[str, Any]:
    """The result in the folder of a network, once it has a score on the test part; {} before."""
    file = model / "result.json"
    result: dict[str, Any] = read_json(file, dict[str, Any]) if file.is_file() else {}
    return result if result.get("test") else {}


def _row(entry: Finalist, task: Task) -> dict[str, Any]:
    row: dict[str, Any] = {"candidate": entry.candidate.number, "epochs": entry.epochs}
    row |= {"network": entry.network} if entry.network else {}
    row |= {"networks": list(entry.networks)} if entry.networks else {}
    if entry.result:
        row["validation"] = entry.result["validation"][task.quality.metric]
        row["seconds"] = entry.result["seconds"]
    return row | ({"error": entry.error} if entry.error else {})
