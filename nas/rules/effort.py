"""What the rules decide that is no parameter of a space: which networks are trained first, how
much training a proxy and a recipe get, and on which folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nas.rules.bounds import batch_sizes, is_node_level, is_whole_graph, samples_neighbours
from nas.rules.decisions import sets
from nas.rules.numbers import (
    BASELINE_TIME_FACTOR,
    CROSS_VALIDATED,
    EARLY,
    GRADIENT_CLIP,
    LONGEST_CANDIDATE,
    LONGEST_STEPS,
    PATIENCE,
    PATIENCE_EPOCHS,
    PRETRAINED_BELOW,
    PRETRAINED_STEPS,
    VALIDATION_MOST,
    WARMUP,
)
from nas.space import Config, Space
from nas.task import Fidelity, Task

# Costs of an ensemble that are the sum of those of its networks.
_OF_EACH = ("latency_ms", "params", "flops", "inference_mb")


@sets("baseline-first", "first candidates of a search")
def first_candidates(spaces: Mapping[str, Space]) -> dict[str, list[Config]]:
    """The configurations of each family that are trained before any sampled one: its baseline,
    and one for each other option of a choice that is marked ``each``."""
    return {name: space.starts() for name, space in spaces.items()}


@sets("one-head-per-target", "weight of each target in the loss")
def target_weights(task: Task) -> tuple[float, ...]:
    """The weight of each target in the loss; they sum to 1."""
    return (1 / len(task.targets),) * len(task.targets)


@sets("pretrained-first", "advice where samples are few")
def wants_pretrained(task: Task) -> bool:
    """Whether weights that were pretrained on similar data are worth looking for."""
    available = {"images", "text", "audio"}
    modalities = {task.modality, *(m.modality for m in task.profile.members.values())}
    return bool(available & modalities) and task.profile.n_train < PRETRAINED_BELOW


@sets("pretrained-first", "winner where few validation samples decide")
def few_decide(task: Task) -> bool:
    """Whether the validation part is so small that what is proven decides among equals."""
    return task.profile.n_val < CROSS_VALIDATED


@dataclass(frozen=True)
class Effort:
    """How much training the networks of a modality get; steps are expensive on a CPU."""

    samples: int  # a proxy's, at most
    cpu_steps: int
    gpu_steps: int
    full_steps: int  # of a recipe, where the budget pays for no more
    longest: int  # epochs of a recipe, where the budget pays for all that help
    least: float = 1.0  # epochs of a recipe: at least as often as a proxy's


# The longest trainings: 200 epochs of CIFAR-10 in Zagoruyko & Komodakis 2016, sec. 3; 250 of clouds
# in Wang et al. 2019, sec. 5.1; 350 of graphs in Xu et al. 2019, sec. 7. Few texts are soon
# memorised (25 epochs in Kim 2014's code).
EFFORT = {
    "tabular": Effort(32_000, 1_600, 1_600, 3_000, longest=100),
    "images": Effort(8_000, 500, 1_600, 6_000, longest=200, least=2.0),
    "text": Effort(16_000, 700, 1_000, 800, longest=25),
    "series": Effort(8_000, 800, 1_600, 3_000, longest=300),
    "audio": Effort(8_000, 500, 1_600, 3_000, longest=100, least=2.0),
    "graphs": Effort(8_000, 800, 1_600, 3_000, longest=200),
    "pointclouds": Effort(8_000, 500, 1_600, 3_000, longest=250, least=2.0),
    "multimodal": Effort(4_000, 300, 1_600, 1_000, longest=50),
}


@sets("proxy-steps", "epochs of a proxy and its fraction of the data")
def fidelity(task: Task) -> Fidelity:
    """How much training a proxy gets (rule "proxy-steps"): the steps of ``EFFORT`` at the default
    batch size, on at most so many samples as it says. Few epochs of many samples rank networks
    better than many epochs of few, which favour the smallest. A candidate, all its folds
    together, is trained for at most a fifteenth of the worker time, or for 20 s a fold where
    that is more (ours)."""
    effort = EFFORT[task.modality]
    samples = min(task.profile.n_train, effort.samples)
    steps = max(1, samples // batch_sizes(task)[1])
    wanted = effort.cpu_steps if task.device == "cpu" else effort.gpu_steps
    epochs = min(max(round(wanted / steps), 4), 30)
    if is_whole_graph(task):
        # An epoch is one step, of the whole graph, and validation costs as much again. Kipf &
        # Welling 2017, sec. 5.2, stop after at most 200.
        epochs = wanted // 8
    chosen = Fidelity(epochs, samples / task.profile.n_train)
    if (worker_s := task.budget.worker_s) is None:
        return chosen
    # One limit for the whole of a candidate, as a mean over some folds cannot be compared with
    # means over all. The minimum grows with the folds, so that a promoted candidate can finish;
    # the fifteenth does not, as folds are for few data, which train fast.
    least = 20.0 * folds(replace(task, fidelity=chosen))
    return replace(chosen, time_limit_s=max(least, worker_s / 15))


def time_limit_s(task: Task, *, baseline: bool = False) -> float | None:
    """Seconds that a candidate's training may take, all folds together; None without a limit. A
    baseline, which all are compared with, gets ``BASELINE_TIME_FACTOR`` times that within
    ``LONGEST_CANDIDATE`` of the search."""
    limit, budget = task.fidelity.time_limit_s, task.budget
    if limit is None or not baseline:
        return limit
    most = math.inf if budget.worker_s is None else budget.worker_s / budget.workers
    return max(limit, min(BASELINE_TIME_FACTOR * limit, LONGEST_CANDIDATE * most))


@sets("cross-validation", "folds of a proxy")
def folds(task: Task) -> int:
    """How often a proxy is trained, each time scored on another part (rule
    "cross-validation"). The nodes of one graph keep the split that they came with, and so do
    samples that are divided by groups or in time: folds would mix them."""
    if task.fidelity.folds is not None:
        return task.fidelity.folds
    few = few_decide(task) and task.fidelity.share >= 1
    whole = is_node_level(task) or task.profile.parts_differ
    return 5 if few and not whole else 1


def scored_samples(task: Task, *, first_fold: bool = False) -> int:
    """How many samples a proxy is scored by: of all its folds together, or of the first."""
    profile, parts = task.profile, folds(task)
    if parts == 1:
        return min(profile.n_val, VALIDATION_MOST)
    return (profile.n_train + profile.n_val) // (parts if first_fold else 1)


@sets("warm-up-cosine", "schedule of a training")
def warmup_steps(steps: int) -> int:
    """How many of a training's steps warm the learning rate up."""
    return math.ceil(WARMUP * steps)


@sets("early-stopping", "end of a training")
def patience(epochs: int) -> int:
    """After how many epochs in a row a training of ``epochs`` ends in which neither quality nor
    loss was better than before."""
    return max(PATIENCE_EPOCHS, math.ceil(PATIENCE * epochs))


@sets("schedule-length", "schedule of a second training")
def shorter_schedule(epochs: int, best: int, least: int = 1) -> int:
    """The epochs of a schedule that suits a training of ``epochs`` better whose ``best`` epoch came
    early, but no fewer than ``least``; 0 where its own was not too long.

    Example:
        >>> shorter_schedule(100, best=20), shorter_schedule(100, best=60)
        (20, 0)
    """
    shorter = max(best, least)
    return shorter if best <= EARLY * epochs and shorter < epochs else 0


@sets("deep-ensemble", "networks that are averaged")
def ensemble_size(task: Task, family: str, costs: Mapping[str, float], most: int) -> int:
    """Of how many networks of a family, which has these costs, the logits may be averaged: at most
    ``most``, and as many as the constraints allow.

    Example:
        >>> from nas.rulebook import typical_task
        >>> from nas.task import Constraint
        >>> task = typical_task("tabular")
        >>> ensemble_size(task, "mlp", {"latency_ms": 1.0}, 5)
        5
        >>> limited = replace(task, constraints=(Constraint.parse("latency_ms<=2.5"),))
        >>> ensemble_size(limited, "mlp", {"latency_ms": 1.0}, 5)
        2
    """
    sizes = range(most, 1, -1)
    return next((n for n in sizes if may_be_averaged(task, [(family, costs)] * n)), 1)


@sets("deep-ensemble", "networks that are averaged")
def may_be_averaged(task: Task, networks: Sequence[tuple[str, Mapping[str, float]]]) -> bool:
    """Whether networks, each with its family and costs, are inside the constraints together, and
    none of them starts from published weights or is trained on drawn neighbours."""
    if samples_neighbours(task) or any(family in task.fidelity.other for family, _ in networks):
        return False
    limits = [c for c in task.constraints if c.op == "<=" and c.metric in _OF_EACH]
    return all(
        sum(costs.get(limit.metric, 0.0) for _, costs in networks) <= limit.bound
        for limit in limits
    )


@sets("gradient-clipping", "largest gradient of a training")
def gradient_clip(config: Config) -> float:
    """The global norm that gradients are clipped to: a family's own ``clip``, or 1 (Pascanu et
    al. 2013, sec. 3.2); 0 leaves them as they are."""
    return float(config.get("clip", GRADIENT_CLIP))


def steps_per_epoch(samples: int, batch_size: int, accumulate: int = 1, devices: int = 1) -> int:
    """Optimiser steps in an epoch, of ``accumulate`` batches on each device; a last batch of one
    sample for each is left out."""
    full, rest = divmod(samples, min(batch_size * devices, samples))
    return math.ceil((full + (rest // devices > 1)) / accumulate)


def full_epochs(task: Task, batch_size: int) -> int:
    """Epochs of a recipe at full scale: those of the search's plan, if it has one. Else the steps
    that ``EFFORT`` says, but at least as many epochs as a proxy had (or twice as many) and at
    most three times as many."""
    if task.fidelity.recipe_epochs is not None:
        return task.fidelity.recipe_epochs
    proxy = task.fidelity.rule_epochs or task.fidelity.epochs
    effort = EFFORT[task.modality]
    if is_whole_graph(task):  # 200 in all, as Kipf & Welling 2017, sec. 5.2; more overfit
        return min(2 * proxy, max(proxy, effort.longest))
    steps = steps_per_epoch(task.profile.n_train, batch_size)
    wanted = math.ceil(effort.full_steps / steps)
    return min(max(wanted, round(effort.least * proxy)), 3 * proxy)


@sets("pretrained-steps", "epochs of a pretrained network's recipe")
def pretrained_epochs(task: Task, frozen: bool = False, batch_size: int = 32) -> int:
    """Epochs of the training of a pretrained network at full scale; of a ``frozen`` one only the
    head is trained."""
    if frozen:
        steps = steps_per_epoch(task.profile.n_train, 2 * batch_size)
        return min(max(math.ceil(PRETRAINED_STEPS / max(1, steps)), 10), 40)
    steps = steps_per_epoch(task.profile.n_train, batch_size)
    most = 40 if task.modality == "images" else 20
    return min(max(math.ceil(PRETRAINED_STEPS / max(1, steps)), 3), most)


def longest_epochs(task: Task) -> int:
    """Epochs of a recipe where the budget pays for all that help: ``EFFORT``'s, of at most
    ``LONGEST_STEPS`` steps, and no fewer than ``full_epochs``."""
    batch = batch_sizes(task)[1]
    least = full_epochs(task, batch)
    if is_whole_graph(task):
        return least
    most = LONGEST_STEPS // max(1, steps_per_epoch(task.profile.n_train, batch))
    return max(least, min(EFFORT[task.modality].longest, most))
