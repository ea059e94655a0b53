"""Which candidates are trained at full scale next, by their proxies and what was trained so far."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from nas import rules
from nas.candidate import Candidate
from nas.finals.average import may_grow
from nas.finals.finalist import AS_GOOD, Finalist, complete, is_adapted, is_as_good, leader
from nas.finals.pace import epoch_s, epochs_of, is_cut_short, recipe_epochs, recipe_s
from nas.front import standard_error
from nas.plan import FEW_CORES, PRESSED, speedup
from nas.run import Run
from nas.task import Task

CHEAP = 0.1  # of the time that is left: what another family's best may take
NEAR = 3.0  # standard errors: another family's best may be this much worse
DECAY, ALIKE = 0.5, 1.25  # of the error with passes over the data; errors that are as good
FEW = 1 / 16  # of the epochs that help: for fewer, all cores are for one network
SLACK = 1.5  # times the seconds that steps of proxies predict of a training
HASTE = 1.5  # times the epochs that there is time for: a pace beside other work is a slow one


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
        return recipe_s(task, candidate) <= CHEAP * left_s * places

    first: dict[str, Candidate] = {}
    proven: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.label, candidate)
        if candidate.origin == "baseline" and is_cut_short(task, candidate):
            proven.setdefault(candidate.label, candidate)
    early: list[Candidate] = []
    for candidate in first.values():
        near = _is_near(task, best, candidate)
        pair = {c.number: c for c in (candidate, proven.get(candidate.label, candidate))}
        early += [c for c in pair.values() if near or cheap(c)]
    adapted = _best_adapted(candidates, task)
    if adapted is not None and recipe_s(task, adapted) <= left_s:
        early = [adapted, *(c for c in early if c is not adapted)]
    return [*early, *(c for c in candidates if all(c is not e for e in early))]


def near(task: Task, ranked: Sequence[Candidate], waiting: Sequence[Candidate]) -> list[Candidate]:
    """Of those that wait the ones whose proxies are as good as the best of all, ``ranked``."""
    return [c for c in waiting if _is_near(task, ranked[0], c, AS_GOOD)]


def expected_s(run: Run, ranked: Sequence[Candidate], most: int, places: int) -> float:
    """Seconds that the trainings of up to ``most`` of the candidates ``ranked``, the best first,
    and of further networks of the best are expected to take, each by its whole recipe."""
    task = run.task
    first = order(ranked, task, math.inf, places)[: max(most, places)]
    each = [epochs_of(task, c, sys.maxsize) * epoch_s(task, c) for c in first]
    each += [each[0]] * may_grow(run, first[0])
    rounds = sorted(each, reverse=True)[::places]
    start_s = task.budget.start_s
    return sum(SLACK * seconds + start_s for seconds in rounds) + 2 * start_s


def next_round(
    run: Run, waiting: list[Candidate], left_s: float, places: int, trained: Sequence[Finalist]
) -> list[Finalist]:
    """Those to train next, as many as there are places. Until one is trained they have as many
    epochs as there is time for; later ones only their whole recipe.

    A network whose published weights are adapted may need all cores (``_alone``): what is cheap is
    trained before, and nothing that would take its time.
    """
    if alone := _alone(run, waiting, left_s, places, trained):
        needed_s = alone.epochs * epoch_s(run.task, alone.candidate) / speedup(places)
        left_s = max(CHEAP * left_s, left_s - needed_s - run.task.budget.start_s)
        waiting = [c for c in waiting if recipe_s(run.task, c) <= left_s]
        if trained or not waiting:
            return [alone]
    if complete(trained):
        return _later(run, waiting, left_s, places)
    return _first(run, waiting, left_s, places)


def _first(run: Run, waiting: list[Candidate], left_s: float, places: int) -> list[Finalist]:
    """The first to be trained. Where the time is for a small part of the epochs that help, few
    cores are for the best one and for what is as good, or for more networks of it."""
    task, alone = run.task, False
    if waiting and _is_pressed(task, waiting[0], left_s, places):
        best = _best_in_time(task, waiting, left_s)
        near = [c for c in waiting if c is not best and _is_near(task, best, c, AS_GOOD)]
        waiting = [best, *(c for c in near if _is_near(task, c, best, AS_GOOD))]
        alone = len(waiting) == 1 and not _has_room_beside(run, best, left_s)
        left_s *= speedup(places) if alone else 1.0
    elif waiting and may_grow(run, waiting[0]):
        waiting = _worth_a_core(run, waiting, left_s, places)
    entries: list[Finalist] = []
    for candidate in waiting:
        affordable = int(left_s / epoch_s(task, candidate))
        if affordable >= 1 and len(entries) < places:
            hasty = int(HASTE * affordable)  # what proves too much is left out (``--time-limit``)
            epochs = epochs_of(task, candidate, hasty)
            most = max(recipe_epochs(task, candidate), epochs)
            entries.append(_entry(run, candidate, epochs, most, alone=alone))
    return entries


def _later(run: Run, waiting: list[Candidate], left_s: float, places: int) -> list[Finalist]:
    """Others, by their whole recipe."""
    fits = [c for c in waiting if int(left_s / epoch_s(run.task, c)) >= recipe_epochs(run.task, c)]
    recipes = [(c, recipe_epochs(run.task, c)) for c in fits[:places]]
    return [_entry(run, candidate, epochs, epochs) for candidate, epochs in recipes]


def _entry(
    run: Run, candidate: Candidate, epochs: int, most: int, *, alone: bool = False
) -> Finalist:
    """A finalist whose recipe, of ``most`` epochs, is written."""
    folder = run.folder / "finalists" / str(candidate.number)
    run.write_recipe(folder / "recipe.yaml", candidate.number, most)
    return Finalist(candidate, epochs, most, folder, alone=alone)


def shorter(run: Run, trained: Sequence[Finalist], left_s: float, places: int) -> list[Finalist]:
    """Those of the best that came to their best epoch early, again with a schedule of as many
    epochs (rule "schedule-length")."""
    task, found = run.task, list[Finalist]()
    best = leader(trained, task)
    if best is None:
        return []
    done = {e.candidate.number for e in trained if e.again}
    for entry in complete(trained):
        result, number = entry.result or {}, entry.candidate.number
        epochs = _shorter_epochs(task, entry)
        needed_s = epochs * result["seconds"] / max(1, result.get("epochs", 0))
        if not epochs or number in done or needed_s > left_s or len(found) == places:
            continue
        if is_as_good(entry, best, task, AS_GOOD):
            folder = run.folder / "finalists" / f"{number}-{epochs}"
            run.write_recipe(folder / "recipe.yaml", number, epochs)
            found.append(Finalist(entry.candidate, epochs, epochs, folder, again=True))
    return found


def _shorter_epochs(task: Task, entry: Finalist) -> int:
    """The epochs of a shorter schedule of a finalist; 0 where its own was not too long."""
    if is_adapted(entry.candidate, task):
        return 0
    proxy = task.of_family(entry.candidate.family).fidelity
    best = int((entry.result or {}).get("best_epoch", entry.epochs))
    return rules.shorter_schedule(entry.epochs, best, math.ceil(proxy.epochs * proxy.share))


def _best_adapted(ranked: Sequence[Candidate], task: Task) -> Candidate | None:
    """Of candidates whose published weights are adapted, the best first, the one that is worth a
    training at full scale: within the noise of so short a proxy the proven configuration, which was
    trained first."""
    adapted = [c for c in ranked if is_adapted(c, task)]
    proven = [c for c in adapted if c.origin == "baseline" and _is_near(task, adapted[0], c)]
    return min(proven, key=lambda c: c.number, default=next(iter(adapted), None))


def _is_near(task: Task, best: Candidate, other: Candidate, errors: float = NEAR) -> bool:
    """Whether a proxy is within the noise of the best one."""
    metric = task.quality.metric
    behind = task.quality.sign * (best.metrics[metric] - other.metrics[metric])
    return behind <= errors * standard_error(task, metric, best.metrics[metric])


def _is_pressed(task: Task, best: Candidate, left_s: float, places: int) -> bool:
    """Whether on a core of few the time is for a small part of the epochs that help."""
    if task.device != "cpu" or places > FEW_CORES:
        return False
    most = recipe_epochs(task, best)
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
        trained = len(candidate.curve) or proxy.epochs  # fewer, where its time was over
        gain = max(1.0, passes / (trained * proxy.share))
        return abs(1.0 - value if larger else value) / math.pow(gain, DECAY)

    best = min(waiting, key=error)
    proven = [c for c in waiting if c.origin == "baseline" and error(c) <= ALIKE * error(best)]
    return min(proven, key=error, default=best)


def _alone(
    run: Run, waiting: list[Candidate], left_s: float, places: int, trained: Sequence[Finalist]
) -> Finalist | None:
    """The best candidate whose published weights are adapted, with all cores of a CPU, where one
    has no time for its recipe: its layers are large enough for several. None where one was
    ``trained`` already."""
    task = run.task
    best = _best_adapted(waiting, task)
    earlier = any(is_adapted(e.candidate, task) for e in trained)
    if best is None or earlier or task.device != "cpu" or places < 2:
        return None
    epochs, each_s = recipe_epochs(task, best), epoch_s(task, best)
    affordable = min(epochs, int(left_s * speedup(places) / each_s))
    proxy = task.of_family(best.family).fidelity
    if left_s >= epochs * each_s or affordable < 2 * proxy.epochs * proxy.share:
        return None
    return _entry(run, best, affordable, epochs, alone=True)


def _worth_a_core(
    run: Run, waiting: list[Candidate], left_s: float, places: int
) -> list[Candidate]:
    """The best and, of the others, what is near, cheap or proven. Where more places than are for
    those and for further networks of the best are left, the rest too."""
    task, best = run.task, waiting[0]

    def worth(c: Candidate) -> bool:
        cheap = recipe_s(task, c) <= CHEAP * left_s * places
        return c is best or c.origin == "baseline" or cheap or _is_near(task, best, c)

    first = [c for c in waiting if worth(c)]
    rest = [c for c in waiting if not worth(c)]
    return first + rest[: max(0, places - len(first) - may_grow(run, best))]


def _has_room_beside(run: Run, best: Candidate, left_s: float) -> bool:
    """Whether another network of the best is worth a core more than a longer training is."""
    few = FEW * rules.longest_epochs(run.task) * epoch_s(run.task, best)
    return left_s >= few and may_grow(run, best) > 0
