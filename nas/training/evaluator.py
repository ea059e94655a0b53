"""A worker's side of a search: train a proxy, fit the simple models, measure a latency."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nas import rules
from nas.candidate import Candidate, Reason, State, curve_point
from nas.data import Dataset
from nas.space import Config, split_family
from nas.task import COSTS, Task
from nas.training import cost, latency, lr
from nas.training.augment import augment
from nas.training.baselines import baselines
from nas.training.batches import (
    Batch,
    Batches,
    Tensors,
    batch_inputs,
    evaluation_batch,
    largest_rows,
    part_tensors,
    proxy_folds,
    row_inputs,
    to_tensors,
    typical_rows,
)
from nas.training.metrics import mean_scores
from nas.training.monitors import GradientMonitor, StepClock, TimeLimit, TrainingStopped
from nas.training.proxy import Proxy, build_network

LOUD = 1.5
FOLD_REPORTS = 5

Report = Callable[..., str]


class Evaluator:
    """Made once in each worker; every method is a call of the driver.

    ``report(epoch, metrics)`` hands figures to the driver and returns "" to go on, or the
    reason to stop. Candidates come and go as dictionaries, as they travel in JSON.
    """

    def __init__(self, task: Task, dataset: Dataset) -> None:
        torch.set_num_threads(1)
        self.task, self.dataset, self.device = task, dataset, task.device
        self._folds = folds(self.dataset, self.task)
        # BatchNorm cannot be trained on one sample: two are the most that costs are taken of.
        rows = typical_rows(self.dataset, 2)
        self._typical = to_tensors(self.dataset.inputs, rows, self.device)
        self._share = latency.Share(self.device)
        self._short = False  # of memory

    def baselines(self, report: Report) -> list[dict[str, Any]]:
        """The simple models' scores, see ``nas.training.baselines``."""
        with self._share:
            return baselines(self.dataset, self.task)

    def latency(self, candidate: dict[str, Any], report: Report) -> dict[str, Any]:
        """Latency on the quiet device, with a longer look than during the search."""
        return self.latencies([candidate], report)[0]

    def latencies(self, candidates: list[dict[str, Any]], report: Report) -> list[dict[str, Any]]:
        """Those of several, side by side."""
        sample = self._sample(1)
        networks = [self._network(Candidate.from_dict(c)).to(self.device) for c in candidates]
        passes = [latency.timed(network.eval(), sample, self.device) for network in networks]
        told = {"threads": torch.get_num_threads(), "batch": 1}
        return [found | told for found in latency.side_by_side(passes, self.device)]

    def evaluate(self, candidate: dict[str, Any], report: Report) -> dict[str, Any]:
        """Train one candidate; whatever happens to it comes back as a state and a reason."""
        begun = time.monotonic()
        self._now = Candidate.from_dict(candidate)
        try:
            self._preflight()
            self._fit(report)
            self._now = replace(self._now, state=State.COMPLETE)
        except TrainingStopped as stop:
            state = State.FAILED if stop.reason.kind == "cut off" else State.PRUNED
            self._now = replace(self._now, state=state, reason=stop.reason, detail=stop.evidence)
        except (MemoryError, RuntimeError) as error:
            detail = _shortage(error)
            self._now = replace(self._now, state=State.PRUNED, reason=Reason.OOM, detail=detail)
        if self.device != "cpu" or self._now.reason is Reason.OOM:
            self._free()
        return replace(self._now, seconds=time.monotonic() - begun).to_dict()

    def costs(
        self, configs: list[Config], limit_s: float | None, report: Report
    ) -> list[dict[str, float]]:
        """What configurations of the joined space cost, without training: of as many as
        ``limit_s`` allows. Latency is taken where the task asks for it, with a short look."""
        asked = [o.metric for o in self.task.objectives] + [c.metric for c in self.task.constraints]
        end = math.inf if limit_s is None else time.monotonic() + limit_s
        found: list[dict[str, float]] = []
        for i, config in enumerate(configs):
            if time.monotonic() > end:
                break
            family, own = split_family(config)
            candidate = Candidate(number=i, family=family, config=own, seed=i)
            found.append(self._analysed(candidate, asked)[0])
            if "latency_ms" in asked:
                network = self._network(candidate).to(self.device)
                look = latency.latency(network, self._sample(1), device=self.device, budget_s=0.03)
                found[-1]["latency_ms"] = look["ms"]
        return found

    def range_test(
        self, family: str, config: Config, limit_s: float | None, report: Report
    ) -> dict[str, Any]:
        """The learning-rate range test of a configuration, by name as in ``RangeTest``; raises
        TrainingStopped where there is no memory for it, or it is not over in ``limit_s``."""
        seed, end = self.task.seed, math.inf if limit_s is None else time.monotonic() + limit_s
        candidate = Candidate(number=0, family=family, config=config, seed=seed)
        if shortage := self._lack(self._analysed(candidate, ())[2](1)):
            raise TrainingStopped(Reason.OOM, shortage)
        torch.manual_seed(seed)
        module = Proxy(family, dict(config), self.task).to(self.device)

        def loss(batch: Batch) -> Tensor:
            self._share.give_way()
            if time.monotonic() > end:
                raise TrainingStopped(Reason.TIMEOUT, f"not over after {limit_s:.0f} s")
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
                return module.training_step(batch, 0)

        batches = Batches(*self._folds[0][0], int(config["batch_size"]), seed)
        decay, clip = float(config["weight_decay"]), rules.gradient_clip(config)
        try:
            with self._share:
                return asdict(lr.range_test(module, loss, batches, weight_decay=decay, clip=clip))
        finally:
            self._free()

    def pace(self, family: str, config: Config, limit_s: float, report: Report) -> dict[str, Any]:
        """How fast a training of a configuration goes, as its first steps tell: ``step_ms``, their
        interquartile range ``spread_ms``, how many ``steps`` there were, and ``epoch_s``, what an
        epoch with its validation takes. Whether there is memory for it is not asked."""
        torch.manual_seed(self.task.seed)
        module = Proxy(family, dict(config), self.task).to(self.device)
        clock, schedule = StepClock(limit_s), (max(4, self.task.fidelity.epochs), self.task.seed)
        with suppress(TrainingStopped):  # by the clock
            fit_proxy(module, *self._folds[0], *schedule, [GradientMonitor(stop=False), clock])
        self._free()
        low, high = np.percentile(clock.steps_s, (25, 75))
        step_s = float(np.mean(clock.steps_s))
        train, val = (len(next(iter(labels.values()))) for _, labels in self._folds[0])
        batch = min(int(config["batch_size"]), train)
        # Of an epoch that is not over in time the validation is foretold: a pass forward costs
        # about half of one backward.
        epoch_s = (rules.steps_per_epoch(train, batch) + val / batch / 3) * step_s
        return {
            "step_ms": 1e3 * step_s,
            "spread_ms": 1e3 * float(high - low),
            "steps": len(clock.steps_s),
            "epoch_s": float(np.median(clock.epochs_s)) if clock.epochs_s else epoch_s,
        }

    def _preflight(self) -> None:
        """The costs, before any memory is spent; a candidate over a limit ends here, before its
        memory is told where it is over another."""
        costs, layers, self._memory_mb = self._analysed(self._now, ())
        self._now = replace(self._now, metrics=costs, layers=layers)
        _require(self.task, costs)
        costs |= {"memory_mb": self._memory_mb(1), "inference_mb": self._inference_mb(self._now)}
        self._now = replace(self._now, metrics=costs)
        _require(self.task, costs)

    def _analysed(
        self, candidate: Candidate, metrics: Collection[str] = COSTS
    ) -> tuple[dict[str, float], tuple[dict[str, Any], ...], Callable[[int], float]]:
        """Parameters, FLOPs, and the memory where it is among ``metrics``; layers; and the memory
        of training by the number of parts that a batch comes in."""

        def build() -> nn.Module:
            return self._network(candidate)

        found = cost.analyse(build, self._sample(2))
        # One pass over a graph serves all its nodes; other passes are of two samples, as
        # BatchNorm cannot be trained on one.
        passes, batch = 2, int(candidate.config["batch_size"])
        if rules.is_node_level(self.task):
            passes = batch = 1

        def memory_mb(parts: int) -> float:
            samples = max(1, batch // parts)
            change = partial(augment, config=dict(candidate.config))
            return cost.training_mb(build, self._largest, samples, change)

        costs = {"params": float(found["params"]), "flops": found["flops"] / passes}
        if "memory_mb" in metrics:
            costs["memory_mb"] = memory_mb(1)
        if "inference_mb" in metrics:
            costs["inference_mb"] = self._inference_mb(candidate)
        return costs, tuple(found["layers"]), memory_mb

    def _inference_mb(self, candidate: Candidate) -> float:
        return cost.inference_mb(lambda: self._network(candidate), self._sample, 1)

    def _fit(self, report: Report) -> None:
        """Train, in half batches (rule "micro-batch") where whole ones would need more memory
        than there is or turn out to."""
        known, shortage = self._now, ""
        for accumulate in self._parts():
            needed = self._memory_mb(accumulate)
            if shortage := self._lack(needed):
                continue
            self._now = replace(known, metrics=known.metrics | {"memory_mb": needed})
            if accumulate > 1:
                self._now = replace(self._now, cost={"accumulate": accumulate})
            try:
                return self._train(report, accumulate)
            except (MemoryError, RuntimeError) as error:
                shortage = _shortage(error)
            self._free()
        batches = "half" if accumulate > 1 else "whole"
        raise TrainingStopped(
            Reason.OOM, f"no memory for a training in {batches} batches: {shortage}"
        )

    def _lack(self, needed_mb: float) -> str:
        """What a training lacks that needs so much, "" where there is room. Where memory is short
        no more of it is held than needed, at the expense of time."""
        available = cost.available_memory_mb(self.device)
        if needed_mb > available:
            return f"it needs {needed_mb:.0f} MiB, {available:.0f} MiB are available"
        short = self.device == "cpu" and needed_mb * cost.KEPT > available
        if short != self._short:
            cost.hand_back(at_once=short)
            self._short = short
        return ""

    def _free(self) -> None:
        """Give back what a training held that has ended: a trainer and its module hold each
        other, and what is cached on a GPU is missing to the other workers."""
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def _parts(self) -> Iterator[int]:
        """In how many parts a batch may come."""
        yield 1
        with torch.device("meta"):
            modules = list(self._network(self._now).modules())
        batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in modules)
        if rules.halves(self.task, int(self._now.config["batch_size"]), batch_norm):
            yield 2

    def _train(self, report: Report, accumulate: int) -> None:
        """Train on the first fold, of which the driver hears, then on the others if any."""
        module = self._measured()
        candidate, task = self._now, self.task

        watching: list[pl.Callback] = [_GiveWay(self._share)]
        if (limit_s := task.fidelity.time_limit_s) is not None:
            limit_s *= rules.BASELINE_PATIENCE if candidate.origin == "baseline" else 1.0
            watching.append(TimeLimit(limit_s, len(self._folds)))
        monitor = GradientMonitor()
        callbacks = [monitor, *watching, _EpochReport(self._take, report)]
        begin = time.perf_counter()
        first, *others = self._folds
        schedule = (candidate.epochs, candidate.seed)
        try:
            with self._share:
                trainer = fit_proxy(module, *first, *schedule, callbacks, accumulate)
        finally:
            norms = monitor.looks[-1].norms if monitor.looks else {}
            self._now = replace(self._now, health=monitor.summary(), gradient_norms=norms)
        step_ms = (time.perf_counter() - begin) * 1e3 / max(1, trainer.global_step)
        self._now = replace(self._now, cost=self._now.cost | {"step_ms": step_ms})
        if others:
            found = (candidate.family, candidate.config, task)
            turn = count(2)

            def later() -> list[pl.Callback]:
                return [GradientMonitor(), *watching, _FoldReport(next(turn), report)]

            with self._share:
                more = train_folds(*found, others, *schedule, later, accumulate)
            mean = mean_scores([trainer.callback_metrics, *more])
            self._now = replace(self._now, metrics=self._now.metrics | mean)

    def _measured(self) -> Proxy:
        """The network of the candidate, its latency taken; one over a limit ends here."""
        candidate = self._now
        torch.manual_seed(candidate.seed)
        module = Proxy(candidate.family, dict(candidate.config), self.task)
        module.to(self.device)
        look = latency.latency(module.network, self._sample(1), device=self.device)
        metrics = candidate.metrics | {"latency_ms": look["ms"]}
        self._now = replace(
            candidate,
            metrics=metrics,
            cost=candidate.cost | {"latency": look | {"quiet": False}},
        )
        _require(self.task, metrics)
        return module

    def _take(self, epoch: int, metrics: dict[str, float]) -> Candidate:
        """Add an epoch's figures to the candidate in training."""
        self._now = replace(
            self._now,
            metrics=self._now.metrics | metrics,
            curve=(*self._now.curve, curve_point(epoch, metrics)),
        )
        return self._now

    def _network(self, candidate: Candidate) -> nn.Module:
        return build_network(candidate.family, candidate.config, self.task)

    def _largest(self, batch: int) -> dict[str, Tensor]:
        """Samples of a batch that needs the most memory."""
        return row_inputs(self.dataset, largest_rows(self.dataset, batch))

    def _sample(self, batch: int) -> dict[str, Tensor]:
        """Samples of median length: costs are stated for them."""
        rows = torch.arange(batch)
        return batch_inputs(self._typical, rows, rows.to(self.device))


def from_folder(folder: str) -> Evaluator:
    """The evaluator of a run that is on this machine."""
    task = Task.from_json((Path(folder) / "task.json").read_text())
    return Evaluator(task, Dataset.load(Path(folder) / "data"))


def folds(dataset: Dataset, task: Task) -> list[tuple[Tensors, Tensors]]:
    """Inputs and labels that a proxy is trained on and scored by, on the device for good; one
    pair, or several where the data are few."""
    pairs = proxy_folds(dataset, task)
    return [
        (part_tensors(dataset, train, task.device), part_tensors(dataset, val, task.device))
        for train, val in pairs
    ]


def train_folds(
    family: str,
    config: Config,
    task: Task,
    folds: list[tuple[Tensors, Tensors]],
    epochs: int,
    seed: int,
    callbacks: Callable[[], list[pl.Callback]],
    accumulate: int = 1,
) -> list[dict[str, Any]]:
    """The last metrics of a proxy on each fold, trained from the same start each time."""
    scores = []
    for fold in folds:
        torch.manual_seed(seed)
        module = Proxy(family, dict(config), task).to(task.device)
        trainer = fit_proxy(module, *fold, epochs, seed, callbacks(), accumulate)
        scores.append(trainer.callback_metrics)
    return scores


def fit_proxy(
    module: Proxy,
    train: Tensors,
    val: Tensors,
    epochs: int,
    seed: int,
    callbacks: list[pl.Callback],
    accumulate: int = 1,
) -> pl.Trainer:
    """Train a proxy, in Lightning's barest form; the same seed gives the same network. Each
    batch comes in ``accumulate`` parts, whose gradients are averaged."""
    cpu = module.task.device == "cpu"
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu" if cpu else "gpu",
        devices=1,
        precision="32-true" if cpu else "bf16-mixed",
        gradient_clip_val=rules.gradient_clip(module.config),
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    batch_size = int(module.config["batch_size"]) // accumulate
    evaluation = evaluation_batch(module.task.modality)
    trainer.fit(module, Batches(*train, batch_size, seed=seed), Batches(*val, evaluation))
    return trainer


class _GiveWay(pl.Callback):
    """Holds a training still, between two batches, while a front is measured."""

    def __init__(self, share: latency.Share) -> None:
        self._share = share

    def on_train_batch_start(self, *_: Any) -> None:
        self._share.give_way()

    def on_validation_batch_start(self, *_: Any) -> None:
        self._share.give_way()


class _EpochReport(pl.Callback):
    """Hands each epoch to the driver and carries out its verdict."""

    def __init__(self, take: Callable[..., Candidate], report: Report) -> None:
        self._take, self._report = take, report
        self._loss: Any = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loss = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self._loss = self._loss + outputs["loss"].detach()  # no look at it: no wait for a GPU

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # Lightning has divided the loss of each part by the number of parts.
        steps = int(trainer.num_training_batches) / trainer.accumulate_grad_batches
        metrics["loss"] = float(self._loss) / steps
        candidate = self._take(epoch, metrics)
        if verdict := self._report(epoch, candidate.metrics):
            raise TrainingStopped(Reason(verdict), f"after epoch {epoch} of {trainer.max_epochs}")


class _FoldReport(pl.Callback):
    """Tells the driver now and then how far a later fold is, and hears whether to stop."""

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


def _require(task: Task, costs: dict[str, float]) -> None:
    """Stop a candidate whose known costs are over a limit."""
    for constraint in task.constraints:
        if constraint.metric not in costs:
            continue
        value = costs[constraint.metric]
        # Measured beside other trainings, a latency may be over a limit that it keeps.
        if constraint.metric == "latency_ms" and value <= LOUD * constraint.bound:
            continue
        if not constraint.met(costs):
            raise TrainingStopped(
                Reason.INFEASIBLE, f"{constraint.metric} {value:g}, not {constraint}"
            )
    cap = rules.parameter_cap(task)
    if costs["params"] > cap:
        raise TrainingStopped(
            Reason.INFEASIBLE, f"{costs['params']:g} parameters, at most {cap} (params-per-sample)"
        )


def _shortage(error: Exception) -> str:
    """What memory was short of, in one line; raises an error that tells of something else."""
    said = ("out of memory", "not enough memory", "can't allocate memory", "STATUS_ALLOC_FAILED")
    if not isinstance(error, MemoryError) and not any(text in str(error) for text in said):
        raise error
    return str(error).splitlines()[0] if str(error) else "no memory left"
