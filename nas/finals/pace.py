"""How long candidates take to be trained at full scale, and for how many epochs they are."""

from __future__ import annotations

from nas import rules
from nas.candidate import Candidate
from nas.task import Task


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


def recipe_epochs(task: Task, candidate: Candidate) -> int:
    own = task.of_family(candidate.family)
    return rules.full_epochs(own, int(candidate.config["batch_size"]))


def recipe_s(task: Task, candidate: Candidate) -> float:
    """Seconds of a candidate's recipe, on one core or GPU."""
    return recipe_epochs(task, candidate) * epoch_s(task, candidate)


def epochs_of(task: Task, candidate: Candidate, most: int) -> int:
    """Those of ``most`` that a candidate is to be trained for: its recipe's. Where the time was too
    short for as many as help, these follow from the mean pace of all families, and a faster network
    takes what its own pace allows."""
    recipe = recipe_epochs(task, candidate)
    # The proxies were as long, or the epochs are not for the time.
    if candidate.family in task.fidelity.other or not is_cut_short(task, candidate):
        return min(recipe, most)
    return min(max(recipe, rules.longest_epochs(task)), most)


def is_cut_short(task: Task, candidate: Candidate) -> bool:
    """Whether a proxy saw less of the data than its recipe does. It then says too little of a
    network that learns slowly and ends well, as many that are proven do."""
    fidelity = task.of_family(candidate.family).fidelity
    return fidelity.epochs * fidelity.share < recipe_epochs(task, candidate)
