"""What a family is, and how families are found.

A family is declared in one place: a function that turns a task into its space (whose
defaults are the proven baseline) and one that builds the network. Families come only
through the entry point group ``nas.families``; ours and a third party's are alike.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from nas import rules
from nas.candidate import Candidate
from nas.space import Config, Space
from nas.task import Checkpoint, Modality, Task, UsageError

if TYPE_CHECKING:
    from torch import nn

GROUP = "nas.families"


@dataclass(frozen=True)
class Reference:
    """A published network of a family: ``family.build(config, task)`` is that network.

    ``params`` is the published number of its parameters, ``task`` data like those that it was
    published on, and ``macs`` the multiply-adds of one sample of them, at ``efficiency`` of the
    speed that dense convolutions and matrices reach. The network here has ``extra`` parameters
    more (or, negative, fewer), which ``differs`` accounts for; it also says where no source gives
    ``params``, so that they are counted from the layers of the paper or of its code. ``config``
    holds the learning rate where the source gives one for Adam below the family's own. ``message``
    are the values that a graph network sends along an edge.
    """

    name: str
    source: str
    params: int
    config: Config
    task: Task
    extra: int = 0
    differs: str = ""
    macs: float = 0.0
    efficiency: float = 1.0
    message: int = 0

    def left_out(self, task: Task) -> str:
        """Why the space of ``task`` does not hold it (rule "references"), in a sentence; "" where
        it does.

        The cost of a training is three passes of two operations each for a multiply-add, in
        proportion to the size of a sample, or of the maps that a network makes of a small image.
        Where a whole graph is in every batch, the messages along all of its edges are in memory at
        once.
        """
        data, budget = task.profile, task.budget
        if rules.is_node_level(task) != rules.is_node_level(self.task):
            nodes = rules.is_node_level(self.task)
            return f"it is for {'the nodes of one graph' if nodes else 'whole graphs'}"
        if self.params > rules.REFERENCE_PARAMS_PER_SAMPLE * data.n_train:
            return f"{self.params:,} parameters are more than {data.n_train:,} samples carry"
        rows, kind = _rows(task)
        if self.params > rules.REFERENCE_PARAMS_PER_ROW.get(task.modality, math.inf) * rows:
            return f"{self.params:,} parameters are more than {rows:,} {kind} carry"
        if "image" in data.inputs and _volume(task) <= (rules.WHOLE_IMAGE / 2) ** 2:
            return f"images of {_volume(task):,.0f} pixels are too few for it"
        if self.params > (most := rules.params_limit(task)):
            return f"{self.params:,} parameters exceed the limit of {most:,.0f}"
        if budget.memory_mb is not None and 16 * self.params / 2**20 > budget.memory_mb:
            return f"{self.params:,} parameters and AdamW exceed {budget.memory_mb:,.0f} MiB"
        if rules.is_whole_graph(task) and budget.memory_mb is not None:
            edges, _ = data.inputs["edges"]
            if (needed_mb := 4 * edges * self.message / 2**20) > budget.memory_mb:
                return f"messages along {edges:,} edges take {needed_mb:,.0f} MiB"
        if rules.samples_neighbours(task) and self.config.get("norm") == "batch":
            return "drawn neighbours distort the statistics of BatchNorm"
        size = _volume(task) / _volume(self.task)
        if "image" in data.inputs:  # larger ones are shrunk to its resolution
            size = min(1.0, size * rules.less_reduced(task) ** 2)
        speed = self.efficiency * rules.TRAINING_FLOPS[task.device]
        epochs = rules.REFERENCE_EPOCHS
        needed_s = epochs * 6 * self.macs * size * data.n_train / speed
        if budget.time_limit_s is not None and needed_s > budget.time_limit_s / 5:
            return f"{epochs} epochs take a worker {_hours(needed_s)}, over a fifth of the time"
        if budget.worker_s is not None and needed_s > budget.worker_s / 3:
            return f"{epochs} epochs take a worker {_hours(needed_s)}, over a third of the budget"
        return ""


def _rows(task: Task) -> tuple[int, str]:
    """What a network learns from, labelled or not: all nodes of a single graph."""
    if rules.is_node_level(task):
        return task.profile.inputs["nodes"][0], "nodes"
    return task.profile.n_train, "graphs" if task.modality == "graphs" else "rows"


def _volume(task: Task) -> float:
    """Extent of a usual sample: pixels, seconds of a sound, the length that nineteen of twenty do
    not exceed, or the nodes of the graph for each that has a label."""
    if rules.is_node_level(task):
        return task.profile.inputs["nodes"][0] / max(task.profile.n_train, 1)
    if "image" in task.profile.inputs:
        _, height, width = task.profile.inputs["image"]
        return float(height * width)
    rate = max(task.profile.sample_rate, 1)
    return float(max([1, *(lengths[5] for lengths in task.profile.lengths.values())])) / rate


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2g} h" if seconds >= 360 else f"{seconds:,.2g} s"


@rules.sets("references", "published networks that a space holds")
def carried(references: Sequence[Reference], task: Task) -> list[Reference]:
    """Those of the published networks that the space of ``task`` holds, the smallest first."""
    return [reference for reference in references if not reference.left_out(task)]


@dataclass(frozen=True)
class Family:
    """A family of networks.

    ``build(config, task)`` returns an ``nn.Module`` that takes the task's inputs as
    keyword arguments (batch first) and returns logits of shape (batch, task.outputs).
    ``good_for`` says in one sentence on which data the family is at home, and ``references``
    are its published networks, the smallest first.

    ``load(network, config, task)`` puts published weights into a network that ``build`` has made.
    A family that has it starts from the task's checkpoints (``Task.pretrained``), and is searched
    only where there are some; those weights are no new parameters (rule "params-per-sample").
    Where all of them are ``frozen``, what they put out is kept, so that epochs cost next to nothing
    (nas.training.frozen). A family ``on_request`` has not paid where it was measured: it is
    searched only where it is named.
    """

    name: str
    modality: Modality
    paper: str
    space: Callable[[Task], Space]
    build: Callable[[Config, Task], nn.Module]
    good_for: str = ""
    references: tuple[Reference, ...] = ()
    load: Callable[[nn.Module, Config, Task], None] | None = None
    frozen: bool = False
    on_request: bool = False

    @property
    def starts_published(self) -> bool:
        """Whether its networks start from published weights."""
        return self.load is not None

    def baseline(self, task: Task) -> Config:
        """The proven configuration, scaled to the data."""
        return self.space(task).baseline()


@cache
def installed(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a group on ``path``, which is ``sys.path``, by name: to find them takes a
    look at each installed package."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: entry.name))


def load_families(modality: str | None = None) -> dict[str, Family]:
    """All installed families by name, in the order they are declared."""
    families: dict[str, Family] = {}
    for entry in installed(GROUP, tuple(sys.path)):
        for family in entry.load():
            if family.name in families:
                raise UsageError(
                    f"two families are called {family.name!r}; the second comes from"
                    f" {entry.value}: uninstall one of the packages"
                )
            families[family.name] = family
    if not families:
        raise UsageError("no families are installed; install the project with `pip install .`")
    return {n: f for n, f in families.items() if modality in (None, f.modality)}


def started_from(family: str, config: Config, task: Task) -> Checkpoint | None:
    """The checkpoint that a network of ``family``, or the first such member of a fusion, started
    from; None where it began at random."""
    known = load_families(task.modality)
    if family not in known or not known[family].starts_published:
        return None
    named = {value for name, value in config.items() if name.rpartition(".")[2] == "checkpoint"}
    own = {task.modality, *(member.modality for member in task.profile.members.values())}
    found = [c for c in task.pretrained if c.modality in own]
    return next((c for c in found if c.name in named), next(iter(found), None))


@rules.sets("families-by-modality", "families of a search")
@rules.sets("pretrained-first", "order of a search's families")
def pick_families(
    modality: str, names: tuple[str, ...] = (), pretrained: bool = False
) -> dict[str, Family]:
    """The families of a modality but those ``on_request``, or those of them that are named; such as
    start from published weights only where there are some (``pretrained``), and then first (rule
    "pretrained-first")."""
    known = load_families(modality)
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown family {name!r} for {modality}; known are {', '.join(known)}"
            )
        if known[name].starts_published and not pretrained:
            raise UsageError(f"family {name!r} needs weights: give --pretrained FOLDER")
    first = sorted(known.items(), key=lambda item: not item[1].starts_published)
    offered = {name: family for name, family in first if not family.on_request}
    chosen = {name: known[name] for name in names} if names else offered
    return {
        name: family for name, family in chosen.items() if pretrained or not family.starts_published
    }


def published_weights(task: Task, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Sentences on the pretrained networks of a search: what each is, and how the best candidate
    that starts from one compares with the best from random weights at equal time."""
    from nas.front import best_at_equal_time, standard_error  # which import NumPy

    if not task.pretrained:
        return ()
    known = load_families(task.modality)
    starts = {name for name, family in known.items() if family.starts_published}
    adapted = [c for c in candidates if c.family in starts]
    others = [c for c in candidates if c.family not in starts]
    sentences = tuple(checkpoint.origin for checkpoint in task.pretrained)
    if (compared := best_at_equal_time(adapted, others, task.quality)) is None:
        return sentences
    metric, seconds = task.quality.metric, compared[2]
    figures = [
        f"{c.metrics[metric]:.4g} ± {standard_error(task, metric, c.metrics[metric]):.2g}"
        f" (candidate {c.number}, {c.family})"
        for c in compared[:2]
    ]
    return (
        *sentences,
        f"At equal time, {seconds:.0f} s of workers: {metric} {figures[0]} from published weights,"
        f" {figures[1]} from random ones.",
    )
