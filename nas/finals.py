"""The last part of a search: its best candidates are trained at full scale, side by side, and the
one that is best on the validation part is scored once on the test part.

Proxies rank networks by a part of a training, and the best of many is partly luck. So several are
trained by their recipes: the best, the best of each other family where that costs little or its
proxy is within the noise, then the others by quality. One that was at its best early is trained
once more, with a schedule of as many epochs. In the time that is left, and on cores that no other
is for, more networks of the best are trained. Their logits and those of the finalists that are
nearly as good are averaged (rule "deep-ensemble"). Each training is a process of its own
(``nas train``) with a core or a GPU, here or on a cluster; a round begins only while there is time
for it.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas import rules
from nas.candidate import Candidate
from nas.family import load_families
from nas.files import NETWORKS, write_whole
from nas.front import standard_error
from nas.machine import Process, Site
from nas.plan import PRESSED, START_S, speedup
from nas.run import Finished, Run
from nas.task import Objective, Task

CHEAP = 0.1  # of the time that is left: what another family's best may take
MOST = 6  # finalists; on more cores or GPUs one for each
NEAR = 3.0  # standard errors: another family's best may be this much worse
MIXED = 2.0  # standard errors: what may be averaged with the best
AS_GOOD = 1.0  # standard errors: what is as good as the best where time is short, and in the end
SCORE_S = 300.0  # that scoring the test part may take, also beyond the time: no model without it
DECAY, ALIKE = 0.5, 1.25  # of the error with passes over the data; errors that are as good
FEW_CORES = 4  # up to which one training is faster on all of them
FEW = 1 / 16  # of the epochs that help: for fewer, all cores are for one network
HASTE = 1.5  # times the epochs that there is time for: a pace beside other work is a slow one
# What is no part of a trained network's folder.
_LOGS = shutil.ignore_patterns("log", "log.json", NETWORKS)
LATE = 0.5  # of the time that it had: what a training may take beyond


def train_finalists(run: Run, site: Site, end: float, show: Callable[[str], None]) -> Finished:
    """Train the best candidates of ``run`` on a ``site`` until ``end`` (of ``time.monotonic``),
    keep the winner in RUN/model and what became of all in RUN/finished.json. What fails says why
    there, and does not end the search. ``show`` receives the phase, some times a second."""
    places = site.count
    end -= sum(row.get("seconds", 0.0) for row in run.baselines())  # fitted again for the test part
    waiting = order(run.ranked(), run.task, end - time.monotonic() - START_S, places)
    trained: list[Finalist] = []
    more: list[Finalist] = []  # networks of finalists
    while True:
        left_s = end - time.monotonic() - 2 * START_S
        entries = _shorter(run, trained, left_s, places)
        if not entries and len({e.candidate.number for e in trained}) < max(MOST, places):
            room_s = left_s - _next_network_s(run, trained, places)
            entries = _round(run, waiting, room_s, places, trained)
        if not entries and not trained:  # a late score is better than no model
            entries = _round(run, waiting, left_s + START_S, places, trained)
        if not entries:
            break
        waiting = [c for c in waiting if all(c is not e.candidate for e in entries)]
        count = 0 if entries[0].alone else places - len(entries)
        beside = _networks(run, entries[0], 1, count)
        several = len(entries) + len(beside) + len(trained) > 1
        until = end - START_S * (2 if several else 1)  # to make one of them takes time too
        done = _train(run.task, [*entries, *beside], site, until, show)
        trained += done[: len(entries)]
        more += done[len(entries) :]
    averaged = _averaged(run, site, trained, more, end, show)
    found = _finished(run, site, trained, averaged, end, show)
    write_whole(run.folder / "finished.json", found.to_json())
    return found


@dataclass(frozen=True)
class Finalist:
    """A candidate that is trained at full scale: for ``epochs`` of the recipe's, in ``folder``;
    ``again`` where it was before, with a longer schedule; ``alone`` where it has all cores. The
    network ``network`` of those of a candidate that are averaged, of which the first, 0, is the
    finalist itself; or the mean of several, ``networks``, the numbers of their candidates."""

    candidate: Candidate
    epochs: int
    recipe_epochs: int
    folder: Path
    result: dict[str, Any] | None = None
    error: str = ""
    again: bool = False
    alone: bool = False
    network: int = 0
    networks: tuple[int, ...] = ()


def order(
    candidates: Sequence[Candidate], task: Task, left_s: float, places: int
) -> list[Candidate]:
    """Candidates, the best by quality first, in the order in which they are worth a training at
    full scale: the best that adapts published weights, where there is time for its recipe; the best
    of all; the best of each other family that is cheap or near; the rest. Beside the best of a
    family comes its proven configuration, where the family is near or this is cheap."""
    if not candidates:
        return []
    best = candidates[0]

    def cheap(candidate: Candidate) -> bool:
        return _recipe_s(task, candidate) <= CHEAP * left_s * places

    first: dict[str, Candidate] = {}
    proven: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.label, candidate)
        if candidate.origin == "baseline" and _is_cut_short(task, candidate):
            proven.setdefault(candidate.label, candidate)
    early: list[Candidate] = []
    for candidate in first.values():
        near = _is_near(task, best, candidate)
        pair = {c.number: c for c in (candidate, proven.get(candidate.label, candidate))}
        early += [c for c in pair.values() if near or cheap(c)]
    adapted = _best_adapted(candidates, task)
    if adapted is not None and _recipe_s(task, adapted) <= left_s:
        early = [adapted, *(c for c in early if c is not adapted)]
    return [*early, *(c for c in candidates if all(c is not e for e in early))]


def _is_cut_short(task: Task, candidate: Candidate) -> bool:
    """Whether a proxy saw less of the data than its recipe does. It then says too little of a
    network that learns slowly and ends well, as many that are proven do."""
    fidelity = task.of_family(candidate.family).fidelity
    return fidelity.epochs * fidelity.share < _recipe_epochs(task, candidate)


def _best_adapted(ranked: Sequence[Candidate], task: Task) -> Candidate | None:
    """Of candidates whose published weights are adapted, the best first, the one that is worth a
    training at full scale: within the noise of so short a proxy the proven configuration, which was
    trained first."""
    adapted = [c for c in ranked if _is_adapted(c, task)]
    proven = [c for c in adapted if c.origin == "baseline" and _is_near(task, adapted[0], c)]
    return min(proven, key=lambda c: c.number, default=next(iter(adapted), None))


def _is_adapted(candidate: Candidate, task: Task) -> bool:
    """Whether its published weights are trained on. Its proxy saw a part of the data once, and says
    less of what it comes to than the proxies of other families do."""
    family = load_families(task.modality).get(candidate.family)
    return candidate.family in task.fidelity.other and family is not None and not family.frozen


def _is_near(task: Task, best: Candidate, other: Candidate, errors: float = NEAR) -> bool:
    """Whether a proxy is within the noise of the best one."""
    metric = task.quality.metric
    behind = best.metrics[metric] - other.metrics[metric]
    noise = standard_error(task, metric, best.metrics[metric])
    return (behind if task.quality.direction == "max" else -behind) <= errors * noise


def epoch_s(task: Task, candidate: Candidate) -> float:
    """Seconds of an epoch of a candidate on all training data, by its steps as a proxy, or, of one
    that ran out of time, by its epochs."""
    task = task.of_family(candidate.family)
    if candidate.cost.step_ms is None:
        return candidate.seconds / max(1, len(candidate.curve)) / task.fidelity.share
    accumulate = candidate.cost.accumulate
    micro = int(candidate.config["batch_size"]) // accumulate
    steps = rules.steps_per_epoch(task.profile.n_train, micro, accumulate)
    return max(1e-3, steps * candidate.cost.step_ms / 1e3)


def _recipe_epochs(task: Task, candidate: Candidate) -> int:
    own = task.of_family(candidate.family)
    return rules.full_epochs(own, int(candidate.config["batch_size"]))


def _recipe_s(task: Task, candidate: Candidate) -> float:
    """Seconds of a candidate's recipe, on one core or GPU."""
    return _recipe_epochs(task, candidate) * epoch_s(task, candidate)


def _epochs(task: Task, candidate: Candidate, most: int) -> int:
    """Those of ``most`` that a candidate is to be trained for: its recipe's. Where the time was too
    short for as many as help, these follow from the mean pace of all families, and a faster network
    takes what its own pace allows."""
    recipe = _recipe_epochs(task, candidate)
    # The proxies were as long, or the epochs are not for the time.
    if candidate.family in task.fidelity.other or not _is_cut_short(task, candidate):
        return min(recipe, most)
    return min(max(recipe, rules.longest_epochs(task)), most)


def _round(
    run: Run, waiting: list[Candidate], left_s: float, places: int, trained: Sequence[Finalist]
) -> list[Finalist]:
    """Those to train next, as many as there are places. The first are trained for as many epochs
    as there is time for; later ones only by their whole recipe. Where the time is for a small part
    of the epochs that help, few cores are for the best one and for what is as good, or for more
    networks of it.

    A network whose published weights are adapted may need all cores (``_alone``): what is cheap is
    trained before, and nothing that would take its time.
    """
    entries: list[Finalist] = []
    first, alone_at_all = not trained, False
    if alone := _alone(run, waiting, left_s, places, trained):
        needed_s = alone.epochs * epoch_s(run.task, alone.candidate) / speedup(places)
        left_s = max(CHEAP * left_s, left_s - needed_s - START_S)
        waiting = [c for c in waiting if _recipe_s(run.task, c) <= left_s]
        if trained or not waiting:
            return [alone]
    if first and waiting and _is_pressed(run.task, waiting[0], left_s, places):
        best = _best_in_time(run.task, waiting, left_s)
        near = [c for c in waiting if c is not best and _is_near(run.task, best, c, AS_GOOD)]
        waiting = [best, *(c for c in near if _is_near(run.task, c, best, AS_GOOD))]
        alone_at_all = len(waiting) == 1 and not _has_room_beside(run, best, left_s)
        left_s *= speedup(places) if alone_at_all else 1.0
    elif first and waiting and _may_grow(run, waiting[0]):
        waiting = _worth_a_core(run, waiting, left_s, places)
    for candidate in waiting:
        if len(entries) == places:
            break
        recipe = _recipe_epochs(run.task, candidate)
        affordable = int(left_s / epoch_s(run.task, candidate))
        if affordable < (1 if first else recipe):
            continue
        hasty = int(HASTE * affordable)  # what proves too much is left out (``--time-limit``)
        epochs = _epochs(run.task, candidate, hasty) if first else recipe
        folder = run.folder / "finalists" / str(candidate.number)
        entry = Finalist(candidate, epochs, max(recipe, epochs), folder, alone=alone_at_all)
        entries.append(entry)
        run.export(folder / "recipe.yaml", candidate.number, epochs=entries[-1].recipe_epochs)
    return entries


def _shorter(run: Run, trained: Sequence[Finalist], left_s: float, places: int) -> list[Finalist]:
    """Those of the best that came to their best epoch early, again with a schedule of as many
    epochs (rule "schedule-length")."""
    task = run.task
    complete = [e for e in trained if e.result]
    if not complete:
        return []
    best, found = _winner(complete, task), list[Finalist]()
    done = {e.candidate.number for e in trained if e.again}
    for entry in complete:
        result, number = entry.result or {}, entry.candidate.number
        epochs = _shorter_epochs(task, entry)
        needed_s = epochs * result["seconds"] / max(1, result.get("epochs", 0))
        if not epochs or number in done or needed_s > left_s or len(found) == places:
            continue
        if _is_as_good(entry, best, task, AS_GOOD):
            folder = run.folder / "finalists" / f"{number}-{epochs}"
            run.export(folder / "recipe.yaml", number, epochs=epochs)
            found.append(Finalist(entry.candidate, epochs, epochs, folder, again=True))
    return found


def _shorter_epochs(task: Task, entry: Finalist) -> int:
    """The epochs of a shorter schedule of a finalist; 0 where its own was not too long."""
    if _is_adapted(entry.candidate, task):
        return 0
    proxy = task.of_family(entry.candidate.family).fidelity
    best = int((entry.result or {}).get("best_epoch", entry.epochs))
    return rules.shorter_schedule(entry.epochs, best, math.ceil(proxy.epochs * proxy.share))


def _is_pressed(task: Task, best: Candidate, left_s: float, places: int) -> bool:
    """Whether on a core of few the time is for a small part of the epochs that help."""
    if task.device != "cpu" or places > FEW_CORES:
        return False
    most = _recipe_epochs(task, best)
    if best.family not in task.fidelity.other:
        most = max(most, int(PRESSED * rules.longest_epochs(task)))
    return left_s < most * epoch_s(task, best)


def _best_in_time(task: Task, waiting: Sequence[Candidate], left_s: float) -> Candidate:
    """The candidate that ``left_s`` seconds are for: proxies of equal epochs say little of a
    training in equal time. Their errors are projected to the passes over the data that each has
    time for, by a power law whose exponent is ours, and low; what is proven goes before what is
    ahead by less than ``ALIKE``."""
    metric, larger = task.quality.metric, task.quality.direction == "max"

    def error(candidate: Candidate) -> float:
        proxy = task.of_family(candidate.family).fidelity
        value = candidate.metrics[metric]
        passes = min(left_s / epoch_s(task, candidate), rules.longest_epochs(task))
        gain = max(1.0, passes / (proxy.epochs * proxy.share))
        return abs(1.0 - value if larger else value) / math.pow(gain, DECAY)

    best = min(waiting, key=error)
    proven = [c for c in waiting if c.origin == "baseline" and error(c) <= ALIKE * error(best)]
    return min(proven, key=error, default=best)


def _alone(
    run: Run,
    waiting: list[Candidate],
    left_s: float,
    places: int,
    trained: Sequence[Finalist] = (),
) -> Finalist | None:
    """The best candidate whose published weights are adapted, with all cores of a CPU, where one
    has no time for its recipe: its layers are large enough for several. None where one was
    ``trained`` already."""
    task = run.task
    best = _best_adapted(waiting, task)
    earlier = any(_is_adapted(e.candidate, task) for e in trained)
    if best is None or earlier or task.device != "cpu" or places < 2:
        return None
    epochs, each_s = _recipe_epochs(task, best), epoch_s(task, best)
    affordable = min(epochs, int(left_s * speedup(places) / each_s))
    proxy = task.of_family(best.family).fidelity
    if left_s >= epochs * each_s or affordable < 2 * proxy.epochs * proxy.share:
        return None
    folder = run.folder / "finalists" / str(best.number)
    run.export(folder / "recipe.yaml", best.number)
    return Finalist(best, affordable, epochs, folder, alone=True)


def _worth_a_core(
    run: Run, waiting: list[Candidate], left_s: float, places: int
) -> list[Candidate]:
    """The best and, of the others, what is near, cheap or proven. Where more places than are for
    those and for further networks of the best are left, the rest too."""
    task, best = run.task, waiting[0]

    def worth(c: Candidate) -> bool:
        cheap = _recipe_s(task, c) <= CHEAP * left_s * places
        return c is best or c.origin == "baseline" or cheap or _is_near(task, best, c)

    first = [c for c in waiting if worth(c)]
    rest = [c for c in waiting if not worth(c)]
    return first + rest[: max(0, places - len(first) - _may_grow(run, best))]


def _has_room_beside(run: Run, best: Candidate, left_s: float) -> bool:
    """Whether another network of the best is worth a core more than a longer training is."""
    few = FEW * rules.longest_epochs(run.task) * epoch_s(run.task, best)
    return left_s >= few and _may_grow(run, best) > 0


def _may_grow(run: Run, candidate: Candidate) -> int:
    """Of how many networks of a candidate the logits may be averaged, beyond the first."""
    family, costs = candidate.family, candidate.metrics
    return rules.ensemble_size(run.task, family, costs, run.options.ensemble) - 1


def _networks(run: Run, entry: Finalist, first: int, count: int) -> list[Finalist]:
    """``count`` networks more of a finalist, from the number ``first`` on, but no more than may
    be."""
    found = []
    last = min(first + count - 1, _may_grow(run, entry.candidate))
    for number in range(first, last + 1):
        folder = entry.folder.with_name(f"{entry.folder.name}-network-{number}")
        recipe, epochs = folder / "recipe.yaml", entry.recipe_epochs
        run.export(recipe, entry.candidate.number, epochs=epochs, network=number)
        found.append(replace(entry, folder=folder, network=number, result=None))
    return found


def _network_s(entry: Finalist, places: int) -> float:
    """Seconds of one more training of a finalist, on one core or GPU."""
    seconds = float((entry.result or {})["seconds"])
    return START_S + seconds * (speedup(places) if entry.alone else 1.0)


def _next_network_s(run: Run, trained: Sequence[Finalist], places: int) -> float:
    """Seconds that are kept for one network more of the best."""
    complete = [e for e in trained if e.result]
    if not complete:
        return 0.0
    best = _winner(complete, run.task)
    return _network_s(best, places) if _may_grow(run, best.candidate) else 0.0


def _averaged(
    run: Run,
    site: Site,
    trained: Sequence[Finalist],
    more: Sequence[Finalist],
    end: float,
    show: Callable[[str], None],
) -> Finalist | None:
    """The winner, what is nearly as good and more networks of the winner as one, as many as there
    is time for; without what is nearly as good where they are not better so. None where there are
    no two."""
    complete = [e for e in trained if e.result]
    if not complete:
        return None
    best, places = _winner(complete, run.task), site.count
    mixed = _mixed(run, best, complete)
    same = [e for e in more if e.candidate is best.candidate and e.again == best.again]
    while all(e.result for e in same):
        left_s = end - time.monotonic() - 3 * START_S
        most = range(1, run.options.ensemble)
        room = sum(_fits(run, [*mixed, *same, *[best] * count]) for count in most)
        if _network_s(best, places) > left_s or room < 1:
            break
        entries = _networks(run, best, len(same) + 1, min(places, room))
        if not entries:
            break
        same += _train(run.task, entries, site, end - 2 * START_S, show)
    same = [e for e in same if e.result]
    found: Finalist | None = None
    for networks in ([*mixed, *same], [best, *same] if same and len(mixed) > 1 else []):
        while not _fits(run, networks):
            networks = networks[:-1]
        if len(networks) < 2:
            break
        found = _as_one(run, site, networks, end, show)
        if _is_better(found, best, run.task):
            break
    return found


def _mixed(run: Run, best: Finalist, complete: Sequence[Finalist]) -> list[Finalist]:
    """The winner and the finalists that are averaged with it: nearly as good, each of a candidate
    of its own, the surest first."""
    found = [best]
    for entry in sorted(complete, key=lambda e: _loss(e, "calibrated_loss")):
        new = all(entry.candidate is not e.candidate for e in found)
        fits = new and _fits(run, [*found, entry])
        if fits and _is_as_good(entry, best, run.task, MIXED):
            found.append(entry)
    return found


def _fits(run: Run, networks: Sequence[Finalist]) -> bool:
    """Whether a single network, or so many as one, may be kept."""
    costs = [(e.candidate.family, e.candidate.metrics) for e in networks]
    few = len(costs) <= run.options.ensemble and rules.may_be_averaged(run.task, costs)
    return len(costs) == 1 or few


def _as_one(
    run: Run, site: Site, networks: list[Finalist], end: float, show: Callable[[str], None]
) -> Finalist:
    """Trained networks as one, the winner first."""
    best = networks[0]
    folder = best.folder.with_name(f"{best.folder.name}-ensemble")
    shutil.rmtree(folder, ignore_errors=True)
    places = [folder / NETWORKS / str(number) for number in range(len(networks))]
    for entry, place in zip(networks, places, strict=True):
        shutil.copytree(entry.folder, place, ignore=_LOGS)
    run.combine(places, folder / "recipe.yaml")
    job = _Job(folder, ("--resume", "--test", "no", "--json"), folder / "log")
    ((result, error),) = _run([job], site, end, show)
    of = tuple(entry.candidate.number for entry in networks)
    return replace(best, folder=folder, result=result or None, error=error, networks=of)


def _is_better(averaged: Finalist | None, single: Finalist, task: Task) -> bool:
    """Whether networks as one are surer than the first of them alone, at the same quality."""
    if averaged is None or not averaged.result:
        return False
    calibrated = (single.result or {}).get("calibrated_loss") is not None
    kind = "calibrated_loss" if calibrated else "validation_loss"
    surer = _loss(averaged, kind) < _loss(single, kind)
    sign = 1 if task.quality.direction == "max" else -1
    ours, its = (sign * _validation(entry, task.quality) for entry in (averaged, single))
    return surer and (ours >= its or _is_as_good(averaged, single, task, AS_GOOD))


@dataclass(frozen=True)
class _Job:
    """``nas train`` of the recipe in ``folder``, on a place of a site or, without one, alone."""

    folder: Path
    options: tuple[str, ...]
    log: Path
    place: int | None = None


def _train(
    task: Task, entries: list[Finalist], site: Site, end: float, show: Callable[[str], None]
) -> list[Finalist]:
    """Train ``entries`` side by side; on a machine for one alone with all that it has."""
    jobs: list[_Job] = []
    entries = [replace(entry, alone=len(entries) == 1) for entry in entries]
    for place, entry in enumerate(entries):
        # Its schedule is as short as its pace asks for, from its first step on.
        left_s = max(START_S, end - time.monotonic() - 1.5 * START_S)
        limits = ("--epochs", str(entry.epochs), "--time-limit", f"{left_s:.0f}s")
        options = (*limits, "--test", "no", "--json")
        at = None if entry.alone else place
        jobs.append(_Job(entry.folder, options, entry.folder / "log", at))
    found = _run(jobs, site, end, show)
    return [
        replace(_as_trained(task, entry, result), result=result or None, error=error)
        for entry, (result, error) in zip(entries, found, strict=True)
    ]


def _as_trained(task: Task, entry: Finalist, result: dict[str, Any]) -> Finalist:
    """A finalist with the epochs of the schedule that it was trained by."""
    epochs = result.get("schedule_epochs", entry.epochs)
    if epochs == entry.epochs:
        return entry
    recipe = max(epochs, min(entry.recipe_epochs, _recipe_epochs(task, entry.candidate)))
    return replace(entry, epochs=epochs, recipe_epochs=recipe)


def _run(
    jobs: list[_Job], site: Site, end: float, show: Callable[[str], None]
) -> list[tuple[dict[str, Any], str]]:
    """What trainings print as JSON, and why there is none: all at the same time, each with its log.
    At ``end`` and ``LATE`` of the time more they are interrupted, as Ctrl-C does."""
    deadline = end + LATE * max(0.0, end - time.monotonic()) + START_S
    processes: list[Process] = []
    with ExitStack() as stack:
        try:
            for job in jobs:
                job.log.parent.mkdir(parents=True, exist_ok=True)
                files = [job.log, job.log.with_suffix(".json")]
                errors, output = (stack.enter_context(file.open("wb")) for file in files)
                processes.append(site.start(job.folder, job.options, output, errors, job.place))
            late = False
            while None in [process.poll() for process in processes]:
                show("finish")
                if time.monotonic() > deadline:
                    _signal(processes, signal.SIGKILL if late else signal.SIGINT)
                    late, deadline = True, deadline + START_S
                time.sleep(0.2)
        except BaseException:
            _signal(processes, signal.SIGINT)
            for process in processes:
                try:
                    process.wait(START_S)
                except subprocess.TimeoutExpired:  # it ignores Ctrl-C, as in a script's background
                    process.kill()
            raise
    return [_outcome(process, job.log) for process, job in zip(processes, jobs, strict=True)]


def _signal(processes: list[Process], number: signal.Signals) -> None:
    for process in processes:
        if process.poll() is not None:
            continue
        if number == signal.SIGKILL:
            process.kill()
        else:
            process.send_signal(number)


def _outcome(process: Process, log: Path) -> tuple[dict[str, Any], str]:
    output = log.with_suffix(".json")
    if process.returncode in (-signal.SIGINT, -signal.SIGKILL, 130):
        return {}, "it took longer than the time that was kept for it"
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
        return {}, f"{lines[-1]} (see {log})"
    try:
        return dict(json.loads(output.read_text().strip().splitlines()[-1])), ""
    finally:
        output.unlink()


def _finished(
    run: Run,
    site: Site,
    trained: list[Finalist],
    averaged: Finalist | None,
    end: float,
    show: Callable[[str], None],
) -> Finished:
    """The winner (``_winner``), alone or ``averaged`` with more networks of it, its folder as
    RUN/model, and its score on the test part."""
    complete = [e for e in trained if e.result]
    shown = [*trained, *([averaged] if averaged else [])]
    summary = tuple(_row(entry, run.task.quality) for entry in shown)
    if not complete:
        best = trained[0] if trained else None
        candidate = best.candidate if best else run.best()
        error = (
            best.error
            if best
            else (f"no time was left for an epoch; `nas train {run.export()}` trains it")
        )
        return Finished(
            candidate.number, 0, _recipe_epochs(run.task, candidate), {}, error, summary
        )
    winner = _winner(complete, run.task)
    if averaged is not None and _is_better(averaged, winner, run.task):
        winner = averaged
    model = run.folder / "model"
    if model.exists():
        shutil.rmtree(model)
    shutil.copytree(winner.folder, model, ignore=_LOGS)
    job = _Job(model, ("--test", "only", "--json"), run.folder / "logs" / "test.log")
    late = max(end, time.monotonic() + SCORE_S)
    ((result, error),) = _run([job], site, late, show)
    return Finished(
        winner.candidate.number,
        winner.epochs,
        winner.recipe_epochs,
        result,
        error,
        summary,
        max(1, len(winner.networks)),
    )


def _winner(complete: list[Finalist], task: Task) -> Finalist:
    """The best on the validation part; of those within its standard error a proven configuration
    (the one-standard-error rule of Breiman et al. 1984, sec. 3.4.3): the best of many sampled ones
    is partly luck, and where all are nearly without error only what is proven speaks for any.
    Of several such the loss decides, as it says how sure each answer was, where accuracies differ
    by a few samples; each with the temperature that suits it, or who is too sure would lose.

    Where the part is small, those within the standard error of a difference are as good: of these
    the one that is proven for few samples (``_standing``), then, where proxies were scored on
    several folds and so saw more samples than this part has, the best proxy."""
    sign = 1 if task.quality.direction == "max" else -1
    best = max(complete, key=lambda e: (sign * _validation(e, task.quality), -_loss(e)))
    few = rules.few_decide(task)
    folds = rules.folds(task) > 1
    if math.isinf(_validation(best, task.quality)):
        return best
    errors = math.sqrt(2) if few or folds else AS_GOOD
    near = [e for e in complete if _is_as_good(e, best, task, errors)]

    def proxy(entry: Finalist) -> float:
        return entry.candidate.metrics[task.quality.metric] if folds else 0.0

    def order(entry: Finalist) -> tuple[float, ...]:
        validation = sign * _validation(entry, task.quality)
        standing = _standing(entry, task) if few else 0
        proven = entry.candidate.origin == "baseline"
        calibrated = -_loss(entry, "calibrated_loss")
        return standing, sign * proxy(entry), proven, calibrated, validation, -_loss(entry)

    return max(near, key=order)


def _is_as_good(entry: Finalist, best: Finalist, task: Task, errors: float) -> bool:
    """Whether a finalist is within so many standard errors of the best."""
    once = replace(task, fidelity=replace(task.fidelity, folds=1))
    values = [_validation(e, task.quality) for e in (entry, best)]
    if not math.isfinite(values[0]):
        return False
    noise = errors * max(standard_error(once, task.quality.metric, v) for v in values)
    return abs(values[0] - values[1]) <= noise


def _standing(entry: Finalist, task: Task) -> int:
    """How well a finalist is proven for few samples (rule "pretrained-first"): 2 where published
    weights were adapted for the whole recipe, 1 where they stay under a new head, 0 for a
    network from random weights and for an adaptation that was cut short."""
    if entry.candidate.family not in task.fidelity.other:
        return 0
    if _is_adapted(entry.candidate, task):
        return 2 if entry.epochs >= entry.recipe_epochs else 0
    return 1


def _validation(entry: Finalist, quality: Objective) -> float:
    value = float((entry.result or {})["validation"][quality.metric])
    return value if math.isfinite(value) else -math.inf


def _loss(entry: Finalist, kind: str = "validation_loss") -> float:
    """On the validation part: a few samples give the same accuracy to many."""
    loss = (entry.result or {}).get(kind)
    return math.inf if loss is None else float(loss)


def _row(entry: Finalist, quality: Objective) -> dict[str, Any]:
    row: dict[str, Any] = {"candidate": entry.candidate.number, "epochs": entry.epochs}
    row |= {"networks": list(entry.networks)} if entry.networks else {}
    if entry.result:
        row["validation"] = entry.result["validation"][quality.metric]
        row["seconds"] = entry.result["seconds"]
    return row | ({"error": entry.error} if entry.error else {})
