"""A candidate that is trained at full scale, and what its results say beside those of others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas import rules
from nas.candidate import Candidate
from nas.family import load_families
from nas.front import standard_error
from nas.task import Task

AS_GOOD = 1.0  # standard errors: what is as good as the best where time is short, and in the end


@dataclass(frozen=True)
class Finalist:
    """A training at full scale of a candidate, or the mean of several.

    Args:
        candidate: Whose network it is; of a mean, the first one's.
        epochs: That it is trained for, of the recipe's.
        recipe_epochs: That its recipe says.
        folder: Of the training.
        result: Of ``nas train``; None before it, and where it failed.
        error: Why it failed.
        again: Whether the candidate was trained before, by a longer schedule.
        alone: Whether it has all cores.
        network: Its number among the networks of one candidate, which have other random weights;
            0 is the finalist itself.
        networks: Of a mean: the numbers of the candidates.
    """

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

    @property
    def scored_s(self) -> float:
        """Seconds that its validation part takes once."""
        return float((self.result or {}).get("scored_s", 0.0))


def complete(entries: Iterable[Finalist]) -> list[Finalist]:
    """Those that were trained."""
    return [entry for entry in entries if entry.result]


def leader(entries: Iterable[Finalist], task: Task) -> Finalist | None:
    """The winner of those that were trained; None where there is none."""
    trained = complete(entries)
    return winner(trained, task) if trained else None


def winner(trained: Sequence[Finalist], task: Task) -> Finalist:
    """The best on the validation part; of those within its standard error a proven configuration
    (the one-standard-error rule of Breiman et al. 1984, sec. 3.4.3): the best of many sampled ones
    is partly luck, and where all are nearly without error only what is proven speaks for any.
    Of several such the loss decides, as it says how sure each answer was, where accuracies differ
    by a few samples; each with the temperature that suits it, or who is too sure would lose.

    Where the part is small, those within the standard error of a difference are as good: of these
    the one that is proven for few samples (``_standing``), then, where proxies were scored on
    several folds and so saw more samples than this part has, the best proxy."""
    best = max(trained, key=lambda e: (goodness(e, task), -_loss(e)))
    few = rules.few_decide(task)
    folds = rules.folds(task) > 1
    if math.isinf(goodness(best, task)):
        return best
    errors = math.sqrt(2) if few or folds else AS_GOOD
    near = [e for e in trained if is_as_good(e, best, task, errors)]

    def order(entry: Finalist) -> tuple[float, ...]:
        proxy = task.quality.sign * entry.candidate.metrics[task.quality.metric] if folds else 0.0
        standing = _standing(entry, task) if few else 0
        proven = entry.candidate.origin == "baseline"
        surest = -unsureness(entry, task) if _is_of_classes(task) else 0.0
        return standing, proxy, proven, surest, goodness(entry, task), -_loss(entry)

    return max(near, key=order)


def is_as_good(entry: Finalist, best: Finalist, task: Task, errors: float) -> bool:
    """Whether a finalist is within so many standard errors of the best, of the whole validation
    part."""
    metric, samples = task.quality.metric, task.profile.n_val
    values = [_validation(e, task) for e in (entry, best)]
    if not math.isfinite(values[0]):
        return False
    noise = errors * max(standard_error(task, metric, v, samples) for v in values)
    return abs(values[0] - values[1]) <= noise


def is_better(mean: Finalist, single: Finalist, task: Task) -> bool:
    """Whether a mean is surer than the first of its networks alone, at the same quality."""
    if not mean.result or unsureness(mean, task) >= unsureness(single, task):
        return False
    same = goodness(mean, task) >= goodness(single, task)
    return same or is_as_good(mean, single, task, AS_GOOD)


def goodness(entry: Finalist, task: Task) -> float:
    """The quality on the validation part, larger where it is better."""
    value = task.quality.sign * _validation(entry, task)
    return value if math.isfinite(value) else -math.inf


def unsureness(entry: Finalist, task: Task) -> float:
    """The loss on the validation part, of classes with the temperature that suits the network: few
    samples give the same accuracy to many."""
    calibrated = _loss(entry, "calibrated_loss")
    return calibrated if _is_of_classes(task) and math.isfinite(calibrated) else _loss(entry)


def is_adapted(candidate: Candidate, task: Task) -> bool:
    """Whether its published weights are trained on. Its proxy saw a part of the data once, and says
    less of what it comes to than the proxies of other families do."""
    family = load_families(task.modality).get(candidate.family)
    return candidate.family in task.fidelity.other and family is not None and not family.frozen


def _standing(entry: Finalist, task: Task) -> int:
    """How well a finalist is proven for few samples (rule "pretrained-first"): 2 where published
    weights were adapted for the whole recipe, 1 where they stay under a new head, 0 for a
    network from random weights and for an adaptation that was cut short."""
    if entry.candidate.family not in task.fidelity.other:
        return 0
    if is_adapted(entry.candidate, task):
        return 2 if entry.epochs >= entry.recipe_epochs else 0
    return 1


def _is_of_classes(task: Task) -> bool:
    return all(target.kind != "regression" for target in task.targets)


def _validation(entry: Finalist, task: Task) -> float:
    return float((entry.result or {})["validation"][task.quality.metric])


def _loss(entry: Finalist, kind: str = "validation_loss") -> float:
    loss = (entry.result or {}).get(kind)
    return math.inf if loss is None else float(loss)
