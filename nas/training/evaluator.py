"""A worker's side of a search: train a candidate, fit the simple models, measure latencies."""

from __future__ import annotations

import gc
import math
import platform
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nas import kept, rules
from nas.candidate import Candidate, Cost, Reason, State, curve_point
from nas.data import Dataset
from nas.family import load_families
from nas.files import read_json
from nas.front import CONTENTION
from nas.models.meta import without_values
from nas.space import Config, split_family
from nas.task import COSTS, Fidelity, InputError, Task
from nas.training import cost, device, latency, lr
from nas.training.augment import augment
from nas.training.baselines import baselines
from nas.training.batches import (
    AHEAD,
    Batch,
    Batches,
    batch_inputs,
    largest_rows,
    resident_limit,
    to_tensors,
    typical_rows,
)
from nas.training.energy import gpu_use
from nas.training.fit import Fold, faster_precision, fit_proxy, folds, train_folds
from nas.training.frozen import frozen_fold
from nas.training.locks import WorkLock
from nas.training.metrics import mean_scores
from nas.training.monitors import GradientMonitor, StepClock, TimeLimit, TrainingStopped
from nas.training.neighbours import network_inputs, sampled_tensors
from nas.training.proxy import Proxy, build_network, quiet_lightning

FOLD_REPORTS = 5  # of a fold after the first
FREED_S = 10.0  # of a candidate, beside which giving back its memory takes little
USE_S = 1.0  # between two questions to a GPU how busy it is
STATES = 4  # of a parameter in a training: its value, its gradient and AdamW's two moments
COSTS_REPORTED = 20  # configurations between two reports of how far a measurement of costs is

Report = Callable[..., str]


@dataclass(frozen=True)
class Preflight:
    """What a candidate costs, known before any of it is trained.

    ``costs``: "params", "flops" (of one sample), and, unless those are over a limit already,
    "memory_mb" (of a training in whole batches) and "inference_mb", MiB; ``layers`` as in
    ``cost.analyse``; ``violation``: the limit that is exceeded, "" where all are met.
    """

    costs: dict[str, float]
    layers: tuple[dict[str, Any], ...]
    violation: str = ""


class Evaluator:
    """Made once in each worker; every method is a call of the driver.

    ``report(epoch, metrics)`` hands figures to the driver and returns "" to go on, or the
    reason to stop. Candidates come and go as dictionaries, as they travel in JSON. Between two
    calls nothing of a candidate is kept, but in the folder of the ``run``, if one is given, its
    weights (``nas.kept``). ``part`` is its share of the memory of a GPU, by default that of the
    GPU itself (``task.budget``).
    """

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        deterministic: bool = False,
        run: str = "",
        part: float | None = None,
    ) -> None:
        torch.set_num_threads(1)
        quiet_lightning()
        self.task, self.dataset, self.device = task, dataset, task.device
        device.prepare(self.device, part or min(1.0, task.budget.gpus) or 1.0, deterministic)
        self._folds: dict[tuple[float, int], list[Fold]] = {}
        # BatchNorm cannot be trained on one sample: two are the most that costs are taken of.
        rows = typical_rows(self.dataset, 2)
        self._typical = to_tensors(self.dataset.inputs, rows, self.device)
        self._lock = WorkLock(self.device)
        self._deterministic = deterministic
        self._run = Path(run) if run else None
        self._model = latency.processor(self.device)
        self._trims_heap = False

    def _adopt(self, fidelity: dict[str, Any] | None) -> None:
        """Train and score as the driver's plan says, which it makes when workers run already."""
        if fidelity is None:
            return
        given = Fidelity.from_dict(fidelity)
        if given != self.task.fidelity:
            self.task = replace(self.task, fidelity=given)
            self._folds.clear()

    def _folds_of(self, family: str) -> list[Fold]:
        """What candidates of a family are trained on and scored by."""
        task = self.task.of_family(family)
        key = task.fidelity.share, rules.folds(task)
        if key not in self._folds:
            self._folds[key] = folds(self.dataset, task)
        return self._folds[key]

    def usable(self) -> bool:
        """Whether this process can go on after an error, see ``nas.training.device.works``."""
        return device.works(self.device)

    def baselines(
        self,
        report: Report,
        fidelity: dict[str, Any] | None = None,
        limit_s: float | None = None,
    ) -> list[dict[str, Any]]:
        """The simple models' scores, see ``nas.training.baselines``."""
        self._adopt(fidelity)
        with self._lock:
            return baselines(self.dataset, self.task, limit_s=limit_s)

    def latency(self, candidate: dict[str, Any], report: Report) -> dict[str, Any]:
        """Latency on the isolated device, measured for longer than during the search."""
        return self.latencies([candidate], report)[0]

    def latencies(self, candidates: list[dict[str, Any]], report: Report) -> list[dict[str, Any]]:
        """Those of several, side by side."""
        passes = []
        for candidate in map(Candidate.from_dict, candidates):
            network = self._network(candidate).to(self.device).eval()
            passes.append(latency.timed(network, self._sample(candidate, 1), self.device))
        return [found.to_dict() for found in latency.side_by_side(passes, self.device)]

    def evaluate(
        self, candidate: dict[str, Any], report: Report, fidelity: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Train one candidate; whatever happens to it comes back as a state and a reason.

        ``fidelity`` is a ``Fidelity`` by name, where another is planned than the task's.
        """
        begin = time.monotonic()
        self._adopt(fidelity)
        end = self._evaluated(Candidate.from_dict(candidate), report)
        seconds = time.monotonic() - begin
        if self.device != "cpu" or end.reason is Reason.OOM or seconds > FREED_S:
            _free(self.device)
        return replace(end, seconds=seconds).to_dict()

    def costs(
        self, configs: list[Config], limit_s: float | None, report: Report
    ) -> list[dict[str, float]]:
        """What configurations of the joined space cost, without training: of as many as
        ``limit_s`` seconds allow. Latency is measured where the task asks for it, briefly. Now and
        then ``report`` gets how many are measured, in place of an epoch."""
        asked = [o.metric for o in self.task.objectives] + [c.metric for c in self.task.constraints]
        end = math.inf if limit_s is None else time.monotonic() + limit_s
        result: list[dict[str, float]] = []
        for i, config in enumerate(configs):
            if time.monotonic() > end:
                break
            if i and i % COSTS_REPORTED == 0:
                report(i, {})
            family, own = split_family(config)
            candidate = Candidate(number=i, family=family, config=own, seed=i)
            result.append(self._counted(candidate)[0] | self._memory(candidate, asked))
            if "latency_ms" in asked:
                network = self._network(candidate).to(self.device)
                sample = self._sample(candidate, 1)
                brief = latency.latency(network, sample, device=self.device, budget_s=0.03)
                result[-1]["latency_ms"] = brief.ms
        return result

    def range_test(
        self, family: str, config: Config, limit_s: float | None, report: Report
    ) -> dict[str, Any]:
        """The learning-rate range test of a configuration, by name as in ``RangeTest``; raises
        TrainingStopped where there is no memory for it, or it is not over in ``limit_s``."""
        seed, end = self.task.seed, math.inf if limit_s is None else time.monotonic() + limit_s
        candidate = Candidate(number=0, family=family, config=config, seed=seed)
        if shortage := self._shortage(self._training_mb(candidate)):
            raise TrainingStopped(Reason.OOM, shortage)
        torch.manual_seed(seed)
        module = Proxy(family, dict(config), self.task).to(self.device)

        def loss(batch: Batch) -> Tensor:
            self._lock.give_way()
            if time.monotonic() > end:
                raise TrainingStopped(Reason.TIMEOUT, f"not over after {limit_s:.0f} s")
            mixed = device.precision(self.device) == "bf16-mixed"
            with torch.autocast(self.device, torch.bfloat16, enabled=mixed):
                return module.training_step(batch, 0)

        train = sampled_tensors(module.network, self._folds_of(family)[0][0])
        batches = Batches(*train, int(config["batch_size"]), seed)
        decay, clip = float(config["weight_decay"]), rules.gradient_clip(config)
        try:
            with self._lock:
                return asdict(lr.range_test(module, loss, batches, weight_decay=decay, clip=clip))
        finally:
            _free(self.device)

    def pace(self, family: str, config: Config, limit_s: float, report: Report) -> dict[str, Any]:
        """How fast a training of a configuration is, from its first steps in ``limit_s`` seconds:
        ``step_ms``, the interquartile range of the steps ``spread_ms``, how many ``steps`` there
        were, ``epoch_s``, what an epoch with its validation takes, and ``contention``, the
        seconds of the wall for each that the process had of a core. Whether there is memory
        for it is not checked."""
        torch.manual_seed(self.task.seed)
        module = Proxy(family, dict(config), self.task).to(self.device)
        first = self._folds_of(family)[0]
        clock, schedule = StepClock(limit_s), (max(4, self.task.fidelity.epochs), self.task.seed)
        watching = [GradientMonitor(stop=False), clock]
        precision = self._precision(module, first, 1)
        with suppress(TrainingStopped):  # by the clock
            fit_proxy(module, *first, *schedule, watching, precision=precision)
        _free(self.device)
        low, high = np.percentile(clock.steps_s, (25, 75))
        step_s = float(np.mean(clock.steps_s))
        train, val = (len(next(iter(labels.values()))) for _, labels in first)
        if clock.epochs_s:
            epoch_s = float(np.median(clock.epochs_s))
        else:
            # A forward pass costs about a third of a training step.
            batch = min(int(config["batch_size"]), train)
            epoch_s = (rules.steps_per_epoch(train, batch) + val / batch / 3) * step_s
            epoch_s += self._scoring_s(module, first[1][1], clock)
        return {
            "step_ms": 1e3 * step_s,
            "spread_ms": 1e3 * float(high - low),
            "steps": len(clock.steps_s),
            "epoch_s": epoch_s,
            "contention": clock.contention,
        }

    def _scoring_s(self, module: Proxy, labels: dict[str, Tensor], clock: StepClock) -> float:
        """Seconds that the metrics of made-up logits for ``labels`` take."""
        shape = len(next(iter(labels.values()))), self.task.outputs
        logits, begin = torch.randn(shape, device=self.device), clock.now(self.device)
        module.scores(logits, labels)
        return clock.now(self.device) - begin

    def _precision(self, module: Proxy, fold: Fold, accumulate: int) -> str:
        """What a network is trained in; by no clock where the search is deterministic."""
        if self._deterministic:
            return device.precision(self.device)
        return faster_precision(module, fold[0], int(module.config["batch_size"]) // accumulate)

    def preflight(self, candidate: Candidate) -> Preflight:
        """The costs of a candidate, before any memory is spent. Memory is predicted only where
        parameters and FLOPs meet the task's limits."""
        costs, layers = self._counted(candidate)
        new = not self._starts_published(candidate)
        violation = _violation(self.task, costs, new)
        if not violation:
            costs = costs | self._memory(candidate)
            violation = _violation(self.task, costs, new)
        return Preflight(costs, layers, violation)

    def _starts_published(self, candidate: Candidate) -> bool:
        """Whether the candidate starts from published weights."""
        family = load_families(self.task.modality).get(candidate.family)
        return family is not None and family.starts_published

    # -- costs -------------------------------------------------------------------------------

    def _counted(self, candidate: Candidate) -> tuple[dict[str, float], tuple[dict[str, Any], ...]]:
        """Parameters and FLOPs of one sample; layers."""
        found = cost.analyse(lambda: self._network(candidate), self._sample(candidate, 2))
        # One pass over a graph serves all its nodes; other passes are of two samples, as
        # BatchNorm cannot be trained on one.
        samples = 1 if self._reads_all(candidate) else 2
        costs = {"params": float(found["params"]), "flops": found["flops"] / samples}
        return costs, tuple(found["layers"])

    def _memory(self, candidate: Candidate, metrics: Collection[str] = COSTS) -> dict[str, float]:
        """Those of "memory_mb" and "inference_mb" that are among ``metrics``."""
        found = {}
        if "memory_mb" in metrics:
            found["memory_mb"] = self._training_mb(candidate)
        if "inference_mb" in metrics:
            network, sample = partial(self._network, candidate), partial(self._sample, candidate)
            found["inference_mb"] = cost.inference_mb(network, sample, 1)
        return found

    def _training_mb(self, candidate: Candidate, accumulate: int = 1) -> float:
        """The memory of a training whose batches come in ``accumulate`` micro-batches, MiB."""
        whole_graph = self._reads_all(candidate)  # and all its labelled nodes in each batch
        samples = 1 if whole_graph else max(1, int(candidate.config["batch_size"]) // accumulate)

        def largest(batch: int) -> dict[str, Tensor]:
            count = self.task.profile.n_train if whole_graph else batch
            found = self._largest(candidate, count)
            # A network that runs on them takes other ways on a GPU.
            return {name: value.to(self.device) for name, value in found.items()}

        change = partial(augment, config=dict(candidate.config))
        needed = cost.training_mb(partial(self._network, candidate), largest, samples, change)
        if "fan_out" in candidate.config:  # the next batches are drawn meanwhile
            needed += AHEAD * sum(x.nbytes for x in largest(samples).values()) / 2**20
        return needed

    def _shortage(self, needed_mb: float) -> str:
        """By how much memory falls short of ``needed_mb``, "" where it suffices. Where it is
        short, freed memory goes back to the system at once, which takes time."""
        available = device.available_mb(self.device)
        if needed_mb > available:
            return f"it needs {needed_mb:.0f} MiB, {available:.0f} MiB are available"
        trim = self.device == "cpu" and needed_mb * cost.HEAP_OVERHEAD > available
        if trim != self._trims_heap:
            cost.trim_heap(at_once=trim)
            self._trims_heap = trim
        return ""

    # -- training ----------------------------------------------------------------------------

    def _evaluated(self, candidate: Candidate, report: Report) -> Candidate:
        """The candidate as it ends: its costs, and its training if it meets the limits."""
        try:
            preflight = self.preflight(candidate)
        except (MemoryError, RuntimeError) as error:
            return _stopped(candidate, Reason.OOM, _out_of_memory(error))
        candidate = replace(candidate, metrics=preflight.costs, layers=preflight.layers)
        if preflight.violation:
            return _stopped(candidate, Reason.INFEASIBLE, preflight.violation)
        # In micro-batches (rule "micro-batch") where whole batches would need more memory than
        # there is, or turn out to.
        end, shortage, accumulate = candidate, "", 1
        for accumulate, needed in self._micro_batches(candidate):
            if shortage := self._shortage(needed):
                continue
            metrics = candidate.metrics | {"memory_mb": needed}
            split = replace(candidate, metrics=metrics, cost=Cost(accumulate=accumulate))
            end = self._train(split, accumulate, report)
            if end.reason is not Reason.OOM:
                return end
            if device.neighbour_holds(self.device, needed):
                detail = f"another process held the memory of the GPU: {end.detail}"
                return _stopped(end, Reason.LOST, detail)
            shortage = end.detail
            _free(self.device)
        samples = int(candidate.config["batch_size"]) // accumulate
        return _stopped(
            end, Reason.OOM, f"no memory for a training in batches of {samples:,}: {shortage}"
        )

    def _micro_batches(self, candidate: Candidate) -> Iterator[tuple[int, float]]:
        """In how many micro-batches a batch may come, and the memory that they need, MiB.

        On a CPU not in fewer than keep what a step computes within half of what a data set may
        take: its memory is shared by all workers, and small batches are as fast there.
        """
        batch_size, metrics = int(candidate.config["batch_size"]), candidate.metrics
        accumulate, needed = 1, metrics["memory_mb"]
        most = math.inf
        if self.device == "cpu":
            most = (STATES * 4 * metrics["params"] + resident_limit("cpu") / 2) / 2**20
        if needed <= most:
            yield accumulate, needed
        batch_norm = self._batch_norm(candidate)
        while rules.splits(self.task, batch_size // accumulate, batch_norm):
            accumulate *= 2
            needed = self._training_mb(candidate, accumulate)
            if needed <= most:
                yield accumulate, needed
        if needed > most:
            yield accumulate, needed

    def _batch_norm(self, candidate: Candidate) -> bool:
        """Whether a training of the candidate uses statistics of its batches."""
        with without_values():
            modules = self._network(candidate).modules()
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules)

    def _train(self, candidate: Candidate, accumulate: int, report: Report) -> Candidate:
        """Measure its latency and train it on all folds; the candidate as far as it came, with
        the reason where it was stopped ("oom" where memory ran out)."""
        device.forget_peak(self.device)
        published = None if self._run is None else self._starts_published(candidate)
        progress = _Progress(candidate, report, published)
        try:
            torch.manual_seed(candidate.seed)
            module = Proxy(candidate.family, dict(candidate.config), self.task).to(self.device)
            progress.candidate = candidate = self._with_latency(candidate, module)
            if violation := _violation(self.task, candidate.metrics, new=False):
                return _stopped(candidate, Reason.INFEASIBLE, violation)
            with self._lock:
                end = replace(self._fit(module, progress, accumulate), state=State.COMPLETE)
        except TrainingStopped as stop:
            end = _stopped(progress.candidate, stop.reason, stop.evidence)
        except (MemoryError, RuntimeError) as error:
            return _stopped(progress.candidate, Reason.OOM, _out_of_memory(error))
        return self._kept(end, progress)

    def _kept(self, end: Candidate, progress: _Progress) -> Candidate:
        """The candidate as it ended, its weights written where it counts as complete: one that ran
        out of time does by its last epoch (``Study.tell``)."""
        task = self.task.of_family(end.family)
        late = end.reason is Reason.TIMEOUT and end.curve and rules.folds(task) == 1
        if self._run is None or not (end.state == State.COMPLETE or late):
            return end
        failure = kept.write(self._run, end, progress.weights, task)
        detail = "; ".join(filter(None, (end.detail, failure)))
        return replace(end, detail=detail)

    def _fit(self, module: Proxy, progress: _Progress, accumulate: int) -> Candidate:
        """Train on the first fold, whose epochs the driver hears of, then on the others if any."""
        asked = progress.candidate
        task = self.task.of_family(asked.family)
        watching: list[pl.Callback] = [_GiveWay(self._lock)]
        limit_s = rules.time_limit_s(task, baseline=asked.origin == "baseline")
        if limit_s is not None:
            watching.append(TimeLimit(limit_s, rules.folds(task)))
        monitor = GradientMonitor()
        # An encoder that is frozen runs once, which is no part of a step.
        first, *others = (
            frozen_fold(module.network, fold) for fold in self._folds_of(asked.family)
        )
        schedule = (asked.epochs, asked.seed)
        begin, use = time.perf_counter(), _Use()
        try:
            precision = self._precision(module, first, accumulate)
            callbacks = [monitor, *watching, use, progress]
            trainer = fit_proxy(module, *first, *schedule, callbacks, accumulate, precision)
        finally:
            norms = monitor.samples[-1].norms if monitor.samples else {}
            known = replace(progress.candidate, health=monitor.summary(), gradient_norms=norms)
            known = replace(known, cost=replace(known.cost, use=use.fraction))
            known = progress.candidate = replace(known, layers=_with_gradients(known, monitor))
        step_ms = (time.perf_counter() - begin) * 1e3 / max(1, trainer.global_step)
        known = replace(known, cost=replace(known.cost, step_ms=step_ms, precision=precision))
        progress.candidate = known
        if not others:
            return known
        numbers = count(2)

        def callbacks_of_fold() -> list[pl.Callback]:
            return [GradientMonitor(), *watching, _FoldReport(next(numbers), progress.report)]

        network = (asked.family, asked.config, task)
        more = train_folds(*network, others, *schedule, callbacks_of_fold, accumulate, precision)
        mean = mean_scores([trainer.callback_metrics, *more])
        return replace(known, metrics=known.metrics | mean)

    def _with_latency(self, candidate: Candidate, module: Proxy) -> Candidate:
        """The candidate with its latency as measured beside other trainings."""
        brief = latency.latency(module.network, self._sample(candidate, 1), device=self.device)
        return replace(
            candidate,
            metrics=candidate.metrics | {"latency_ms": brief.ms},
            cost=replace(candidate.cost, latency=brief, device=self._model),
        )

    def _network(self, candidate: Candidate) -> nn.Module:
        return build_network(candidate.family, candidate.config, self.task)

    def _largest(self, candidate: Candidate, batch: int) -> dict[str, Tensor]:
        """Samples of a batch that needs the most memory."""
        rows = largest_rows(self.dataset, batch)
        return network_inputs(self._shape(candidate), self.dataset, rows)

    def _sample(self, candidate: Candidate, batch: int) -> dict[str, Tensor]:
        """Samples of median length, as the candidate reads them: costs are stated for them."""
        rows = torch.arange(batch)
        inputs, _ = sampled_tensors(self._shape(candidate), (self._typical, {}))
        return batch_inputs(inputs, rows, rows.to(self.device))

    def _shape(self, candidate: Candidate) -> nn.Module:
        """The network without its weights, of a candidate that reads drawn neighbours."""
        if "fan_out" not in candidate.config:
            return nn.Identity()
        with without_values():
            return self._network(candidate)

    def _reads_all(self, candidate: Candidate) -> bool:
        """Whether the candidate reads a whole graph in each batch."""
        return rules.is_node_level(self.task) and "fan_out" not in candidate.config


def from_folder(folder: str, deterministic: bool = False, part: float | None = None) -> Evaluator:
    """The evaluator of a run that is on this machine."""
    task = read_json(Path(folder) / "task.json", Task)
    return Evaluator(task, Dataset.load(Path(folder) / "data"), deterministic, folder, part)


def from_shared(task: Task, data: str, deterministic: bool = False, run: str = "") -> Evaluator:
    """The evaluator of a run whose data set, in the folder ``data``, is too large to be sent: it
    is read from there on every machine."""
    if not Path(data).is_dir():
        raise InputError(
            f"{platform.node()} does not see {data}, and the data set there is too large to be"
            " sent; give --out a folder on a file system that all nodes share"
        )
    return Evaluator(task, Dataset.load(Path(data)), deterministic, run)


class _GiveWay(pl.Callback):
    """Pauses a training, between two batches, while a front is measured."""

    def __init__(self, lock: WorkLock) -> None:
        self._lock = lock

    def on_train_batch_start(self, *_: Any) -> None:
        self._lock.give_way()

    def on_validation_batch_start(self, *_: Any) -> None:
        self._lock.give_way()


class _Use(pl.Callback):
    """How busy the device is during a training: of a CPU what this process computes, of one core;
    of a GPU what it reports, once a second."""

    def __init__(self) -> None:
        self._read: Callable[[], float] | None = None
        self._begin = self._asked = 0.0
        self._computed = 0.0
        self._seen: list[float] = []

    @property
    def fraction(self) -> float | None:
        return float(f"{np.mean(self._seen):.3g}") if self._seen else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = self._asked = time.monotonic()
        self._computed = time.process_time()
        if pl_module.device.type == "cuda":
            self._read = gpu_use(pl_module.device.index or 0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        now = time.monotonic()
        if pl_module.device.type == "cpu":
            spent = time.process_time() - self._computed
            self._seen = [min(1.0, spent / (now - self._begin))] if now > self._begin else []
        elif self._read is not None and (now - self._asked >= USE_S or not self._seen):
            self._asked = now
            try:
                self._seen.append(self._read())
            except OSError:  # what it has reported so far counts
                self._read = None


def _with_gradients(candidate: Candidate, monitor: GradientMonitor) -> tuple[dict[str, Any], ...]:
    """The layers of a candidate, each with the history of its gradient norms and dead units."""
    seen = {"gradients": monitor.history(), "dead": monitor.dead_history()}
    return tuple(
        {**layer, **{what: by[layer["name"]] for what, by in seen.items() if layer["name"] in by}}
        for layer in candidate.layers
    )


class _Progress(pl.Callback):
    """The candidate as far as it is trained: adds each epoch to it, hands the epoch to the
    driver, and stops the training where the driver says so. It has the ``weights`` of the last
    epoch, as a training that runs out of time ends in the middle of the next; ``published`` as for
    ``nas.kept.state``, None where no weights are kept."""

    def __init__(self, candidate: Candidate, report: Report, published: bool | None = None) -> None:
        self.candidate, self.report, self.published = candidate, report, published
        self.weights: dict[str, Tensor] = {}
        self._loss: Any = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loss = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self._loss = self._loss + outputs["loss"].detach()  # not read: no wait for a GPU

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # Lightning has divided the loss of each micro-batch by their number.
        steps = int(trainer.num_training_batches) / trainer.accumulate_grad_batches
        metrics["loss"] = float(self._loss) / steps
        self.candidate = replace(
            self.candidate,
            metrics=self.candidate.metrics | metrics,
            curve=(*self.candidate.curve, curve_point(epoch, metrics)),
        )
        if self.published is not None:
            assert isinstance(pl_module, Proxy)
            self.weights = kept.copied(pl_module.network, published=self.published)
        if verdict := self.report(epoch, self.candidate.metrics):
            raise TrainingStopped(Reason(verdict), f"after epoch {epoch} of {trainer.max_epochs}")


class _FoldReport(pl.Callback):
    """Reports now and then how far a later fold is, and stops where the driver says so."""

    def __init__(self, fold: int, report: Report) -> None:
        self._fold, self._report = fold, report

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        # A few times: an answer may take as long as a short epoch.
        if epoch % math.ceil(epochs / FOLD_REPORTS):
            return
        if verdict := self._report(epoch, {}, self._fold):
            detail = f"after epoch {epoch} of {epochs} on fold {self._fold}"
            raise TrainingStopped(Reason(verdict), detail)


def _stopped(candidate: Candidate, reason: Reason, detail: str) -> Candidate:
    """``candidate``, ended without being complete."""
    state = State.FAILED if reason.kind == "cut off" else State.PRUNED
    return replace(candidate, state=state, reason=reason, detail=detail)


def _violation(task: Task, costs: dict[str, float], new: bool = True) -> str:
    """The first limit that known ``costs`` exceed, in one sentence; "" where they meet all. Where
    its weights are not ``new`` but published, a network may have any number of them."""
    for constraint in task.constraints:
        if constraint.metric not in costs:
            continue
        value = costs[constraint.metric]
        if constraint.metric == "latency_ms" and value <= CONTENTION * constraint.bound:
            continue
        if not constraint.met(costs):
            return f"{constraint.metric} {value:g}, not {constraint}"
    cap = rules.parameter_cap(task)
    if new and costs["params"] > cap:
        return f"{costs['params']:g} parameters, at most {cap} (params-per-sample)"
    return ""


def _out_of_memory(error: Exception) -> str:
    """What memory ran out of, in one line; raises ``error`` again where it is another kind."""
    texts = (
        *("out of memory", "not enough memory", "can't allocate memory", "STATUS_ALLOC_FAILED"),
        "find an engine",  # cuDNN, without memory for its workspace
    )
    if not isinstance(error, MemoryError) and not any(text in str(error) for text in texts):
        raise error
    return str(error).splitlines()[0] if str(error) else "no memory left"


def _free(device: str) -> None:
    """Give back what a training held that has ended: a trainer and its module hold each
    other, and what is cached on a GPU is missing to the other workers."""
    gc.collect()
    if device == "cpu":
        cost.release_heap()
    else:
        torch.cuda.empty_cache()
