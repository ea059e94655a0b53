"""The winner averaged with finalists that are nearly as good and with more networks of its own,
from other random weights (rule "deep-ensemble")."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from nas import rules
from nas.candidate import Candidate
from nas.files import NETWORKS
from nas.finals.finalist import (
    Finalist,
    complete,
    is_as_good,
    is_better,
    leader,
    unsureness,
)
from nas.finals.jobs import Job, copy_trained, run_all, train
from nas.finals.pace import epoch_s
from nas.machine import Site
from nas.plan import speedup
from nas.run import Run

MIXED = 2.0  # standard errors: what may be averaged with the best


def may_grow(run: Run, candidate: Candidate) -> int:
    """Of how many networks of a candidate the logits may be averaged, beyond the first."""
    family, costs = candidate.family, candidate.metrics
    return rules.ensemble_size(run.task, family, costs, run.options.ensemble) - 1


def beside(
    run: Run,
    entries: Sequence[Finalist],
    trained: Sequence[Finalist],
    more: Sequence[Finalist],
    left_s: float,
    places: int,
) -> list[Finalist]:
    """Networks for the places that a round's ``entries`` leave free: more of the winner so far or,
    in the first round, of its best candidate."""
    count = 0 if entries[0].alone else places - len(entries)
    best = leader(trained, run.task)
    if best is None:
        return _networks(run, entries[0], 1, count)
    count = count if _network_s(run, best) <= left_s else 0
    return _networks(run, best, _next(_of(best, more)), count)


def next_network_s(run: Run, trained: Sequence[Finalist]) -> float:
    """Seconds that are kept for one network more of the winner."""
    best = leader(trained, run.task)
    return _network_s(run, best) if best and may_grow(run, best.candidate) else 0.0


def tested_s(run: Run, ranked: Sequence[Candidate]) -> float:
    """Seconds that the best of the candidates ``ranked`` takes for the test part, where a step of
    training is three passes."""
    profile = run.task.profile
    each_s = epoch_s(run.task, ranked[0]) if ranked else 0.0
    return each_s / 3 * profile.n_test / profile.n_train


def mean_s(run: Run, networks: Sequence[Finalist]) -> float:
    """Seconds that it takes to make one of them and to score it: two passes of each over the
    validation part, and one over the test part."""
    passes = 2 + run.task.profile.n_test / max(1, run.task.profile.n_val)
    return run.task.budget.start_s + passes * sum(entry.scored_s for entry in networks)


def averages(
    run: Run,
    site: Site,
    trained: Sequence[Finalist],
    more: Sequence[Finalist],
    end: float,
    show: Callable[[str], None],
) -> list[Finalist]:
    """Means of the winner, what is nearly as good and more networks of the winner, as many as there
    is time for. The last one is the best; without what is nearly as good where that is better."""
    best = leader(trained, run.task)
    if best is None:
        return []
    mixed = _mixed(run, best, complete(trained))
    same = _more_networks(run, site, best, mixed, _of(best, more), end, show)
    found: list[Finalist] = []
    for networks in ([*mixed, *same], [best, *same] if same and len(mixed) > 1 else []):
        while not _fits(run, networks):
            networks = networks[:-1]
        late = found and time.monotonic() + mean_s(run, networks) > end
        if len(networks) < 2 or late:
            break
        found.append(_as_one(run, site, networks, end, show))
        if is_better(found[-1], best, run.task):
            break
    return found


def _more_networks(
    run: Run,
    site: Site,
    best: Finalist,
    mixed: Sequence[Finalist],
    same: Sequence[Finalist],
    end: float,
    show: Callable[[str], None],
) -> list[Finalist]:
    """The networks of the winner that are trained: ``same``, and more of them in the time that is
    left. One that fails ends this, as others would too."""
    places, same = site.count, list(same)
    while len(complete(same)) == len(same):
        made_s = mean_s(run, [*mixed, *same, *[best] * places])
        left_s = end - time.monotonic() - 2 * run.task.budget.start_s - made_s
        most = range(1, run.options.ensemble)
        room = sum(_fits(run, [*mixed, *same, *[best] * count]) for count in most)
        if _network_s(run, best) > left_s or room < 1:
            break
        entries = _networks(run, best, _next(same), min(places, room))
        if not entries:
            break
        same += train(run.task, entries, site, end - run.task.budget.start_s - made_s, show)
    return complete(same)


def _networks(run: Run, entry: Finalist, first: int, count: int) -> list[Finalist]:
    """``count`` networks more of a finalist, from the number ``first`` on, but no more than may
    be."""
    found = []
    last = min(first + count - 1, may_grow(run, entry.candidate))
    for number in range(first, last + 1):
        folder = entry.folder.with_name(f"{entry.folder.name}-network-{number}")
        recipe, epochs = folder / "recipe.yaml", entry.recipe_epochs
        run.write_recipe(recipe, entry.candidate.number, epochs, number)
        found.append(replace(entry, folder=folder, network=number, result=None))
    return found


def _network_s(run: Run, entry: Finalist) -> float:
    """Seconds of one more training of a finalist, on one core or GPU."""
    result = entry.result or {}
    threads = result.get("threads", 1) if run.task.device == "cpu" else 1
    return run.task.budget.start_s + float(result["seconds"]) * speedup(threads)


def _next(same: Sequence[Finalist]) -> int:
    """The number of the next network, after those that there are."""
    return 1 + max((entry.network for entry in same), default=0)


def _of(best: Finalist, more: Sequence[Finalist]) -> list[Finalist]:
    """Of further networks those of the winner, by its schedule."""
    return [e for e in more if e.candidate is best.candidate and e.again == best.again]


def _mixed(run: Run, best: Finalist, known: Sequence[Finalist]) -> list[Finalist]:
    """The winner and the finalists that are averaged with it: nearly as good, each of a candidate
    of its own, the surest first."""
    found = [best]
    for entry in sorted(known, key=lambda e: unsureness(e, run.task)):
        new = all(entry.candidate is not e.candidate for e in found)
        fits = new and _fits(run, [*found, entry])
        if fits and is_as_good(entry, best, run.task, MIXED):
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
    """Trained networks as one, the winner first. They have the time that it takes."""
    best = networks[0]
    folder = best.folder.with_name(f"{best.folder.name}-ensemble")
    shutil.rmtree(folder, ignore_errors=True)
    folders = [folder / NETWORKS / str(number) for number in range(len(networks))]
    for entry, place in zip(networks, folders, strict=True):
        copy_trained(entry.folder, place)
    run.combine(folders, folder / "recipe.yaml")
    job = Job(folder, ("--resume", "--test", "no", "--json"), folder / "log")
    late = max(end, time.monotonic() + mean_s(run, networks))
    ((result, error),) = run_all([job], site, late, show)
    of = tuple(entry.candidate.number for entry in networks)
    return replace(best, folder=folder, result=result or None, error=error, networks=of)
