"""A worker's side of a search: train a proxy, fit the simple models, measure a latency."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nas import rules
from nas.candidate import Candidate, State, curve_point
from nas.data import Dataset
from nas.space import Config
from nas.task import Task
from nas.training import cost
from nas.training.baselines import baselines
from nas.training.batches import (
    Batches,
    Tensors,
    batch_inputs,
    evaluation_batch,
    part_tensors,
    proxy_folds,
    to_tensors,
    typical_rows,
)
from nas.training.metrics import mean_scores
from nas.training.monitors import GradientMonitor, TimeLimit, TrainingStopped
from nas.training.proxy import Proxy, build_network

# The baselines are what all others are compared with: they may take this much longer.
BASELINE_PATIENCE = 2.0
LOUD = 1.5

Report = Callable[..., str]


class Evaluator:
    """Made once in each worker from the run's folder; every method is a call of the driver.

    ``report(epoch, metrics)`` hands figures to the driver and returns "" to go on, or the
    reason to stop. Candidates come and go as dictionaries, as they travel in JSON.
    """

    def __init__(self, folder: str) -> None:
        torch.set_num_threads(1)
        self.folder = Path(folder)
        self.task = Task.from_json((self.folder / "task.json").read_text())
        self.device = self.task.device
        self.dataset = Dataset.load(self.folder / "data")
        self._folds = folds(self.dataset, self.task)
        # BatchNorm cannot be trained on one sample: two are the most that costs are taken of.
        rows = typical_rows(self.dataset, 2)
        self._typical = to_tensors(self.dataset.inputs, rows, self.device)
        (self.folder / "layers").mkdir(exist_ok=True)

    def baselines(self, report: Report) -> list[dict[str, Any]]:
        """The simple models' scores, see ``nas.training.baselines``."""
        return baselines(self.dataset, self.task)

    def latency(self, candidate: dict[str, Any], report: Report) -> dict[str, float]:
        """Latency on the quiet device, with a longer look than during the search."""
        network = self._network(Candidate.from_dict(candidate)).to(self.device)
        sample = self._sample(1)
        return cost.latency(network, sample, device=self.device, budget_s=0.5) | {"quiet": True}

    def evaluate(self, candidate: dict[str, Any], report: Report) -> dict[str, Any]:
        """Train one candidate; whatever happens to it comes back as a state and a reason."""
        begun = time.monotonic()
        self._now = Candidate.from_dict(candidate)
        try:
            self._preflight()
            self._fit(report)
            self._now = replace(self._now, state=State.COMPLETE)
        except TrainingStopped as stop:
            state = State.FAILED if stop.reason == "interrupted" else State.PRUNED
            self._now = replace(self._now, state=state, reason=stop.reason, detail=stop.evidence)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            detail = str(error).splitlines()[0] if str(error) else "no memory left"
            self._now = replace(self._now, state=State.PRUNED, reason="oom", detail=detail)
        finally:
            if self.device != "cpu":  # what is cached here is missing to the other workers
                torch.cuda.empty_cache()
        return replace(self._now, seconds=time.monotonic() - begun).to_dict()

    def _preflight(self) -> None:
        """The exact costs, before any memory is spent; a candidate over a limit ends here."""
        candidate = self._now
        found = cost.analyse(lambda: self._network(candidate), self._sample(2))
        # One pass over a graph serves all its nodes; other passes are of two samples, as
        # BatchNorm cannot be trained on one.
        passes, batch = 2, int(candidate.config["batch_size"])
        if rules.is_node_level(self.task):
            passes = batch = 1
        costs = {
            "params": float(found["params"]),
            "flops": found["flops"] / passes,
            "memory_mb": cost.training_memory_mb(
                found["params"], found["activations_mb"] / passes, batch
            ),
        }
        # Apart from the journal, which is read whole: layers are looked at for a few only.
        layers = self.folder / "layers" / f"{candidate.number}.json"
        unfinished = layers.with_suffix(".new")  # a report may look at any moment
        unfinished.write_text(json.dumps(found["layers"]))
        unfinished.replace(layers)
        self._now = replace(candidate, metrics=costs)
        _require(self.task, costs)

    def _fit(self, report: Report) -> None:
        """Train on the first fold, of which the driver hears, then on the others if any."""
        module = self._measured()
        candidate, task = self._now, self.task
        monitor = GradientMonitor()
        callbacks: list[pl.Callback] = [monitor, _EpochReport(self._take, report, monitor)]

        def limits() -> list[pl.Callback]:
            if task.fidelity.time_limit_s is None:
                return []
            patience = BASELINE_PATIENCE if candidate.origin == "baseline" else 1.0
            # Few data train fast, and most candidates end on the first fold: half the limit each.
            return [TimeLimit(patience * task.fidelity.time_limit_s / min(2, len(self._folds)))]

        begin = time.perf_counter()
        first, *others = self._folds
        trainer = fit_proxy(module, *first, candidate.epochs, candidate.seed, callbacks + limits())
        step_ms = (time.perf_counter() - begin) * 1e3 / max(1, trainer.global_step)
        self._now = replace(self._now, cost=self._now.cost | {"step_ms": step_ms})
        if others:
            found = (candidate.family, candidate.config, task)
            schedule = (candidate.epochs, candidate.seed)
            more = train_folds(*found, others, *schedule, lambda: [GradientMonitor(), *limits()])
            mean = mean_scores([trainer.callback_metrics, *more])
            self._now = replace(self._now, metrics=self._now.metrics | mean)

    def _measured(self) -> Proxy:
        """The network of the candidate, its latency taken; one over a limit ends here."""
        candidate = self._now
        torch.manual_seed(candidate.seed)
        module = Proxy(candidate.family, dict(candidate.config), self.task)
        module.to(self.device)
        latency = cost.latency(module.network, self._sample(1), device=self.device)
        metrics = candidate.metrics | {"latency_ms": latency["median_ms"]}
        self._now = replace(
            candidate, metrics=metrics, cost={"latency": latency | {"quiet": False}}
        )
        _require(self.task, metrics)
        return module

    def _take(self, epoch: int, metrics: dict[str, float], norms: dict[str, float]) -> Candidate:
        """Add an epoch's figures to the candidate in training."""
        self._now = replace(
            self._now,
            metrics=self._now.metrics | metrics,
            curve=(*self._now.curve, curve_point(epoch, metrics)),
            gradient_norms=norms,
        )
        return self._now

    def _network(self, candidate: Candidate) -> nn.Module:
        return build_network(candidate.family, candidate.config, self.task)

    def _sample(self, batch: int) -> dict[str, Tensor]:
        """Samples of median length: costs are stated for them."""
        rows = torch.arange(batch)
        return batch_inputs(self._typical, rows, rows.to(self.device))


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
) -> list[dict[str, Any]]:
    """The last metrics of a proxy on each fold, trained from the same start each time."""
    scores = []
    for fold in folds:
        torch.manual_seed(seed)
        module = Proxy(family, dict(config), task).to(task.device)
        scores.append(fit_proxy(module, *fold, epochs, seed, callbacks()).callback_metrics)
    return scores


def fit_proxy(
    module: Proxy,
    train: Tensors,
    val: Tensors,
    epochs: int,
    seed: int,
    callbacks: list[pl.Callback],
) -> pl.Trainer:
    """Train a proxy, in Lightning's barest form; the same seed gives the same network."""
    cpu = module.task.device == "cpu"
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu" if cpu else "gpu",
        devices=1,
        precision="32-true" if cpu else "bf16-mixed",
        gradient_clip_val=rules.GRADIENT_CLIP,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    batch_size = int(module.config["batch_size"])
    evaluation = evaluation_batch(module.task.modality)
    trainer.fit(module, Batches(*train, batch_size, seed=seed), Batches(*val, evaluation))
    return trainer


class _EpochReport(pl.Callback):
    """Hands each epoch to the driver and carries out its verdict."""

    def __init__(
        self, take: Callable[..., Candidate], report: Report, monitor: GradientMonitor
    ) -> None:
        self._take, self._report, self._monitor = take, report, monitor
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
        metrics["loss"] = float(self._loss) / int(trainer.num_training_batches)
        candidate = self._take(epoch, metrics, self._monitor.norms)
        if verdict := self._report(epoch, candidate.metrics):
            raise TrainingStopped(verdict, f"after epoch {epoch} of {trainer.max_epochs}")


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
            raise TrainingStopped("infeasible", f"{constraint.metric} {value:g}, not {constraint}")
    cap = rules.parameter_cap(task)
    if costs["params"] > cap:
        raise TrainingStopped(
            "infeasible", f"{costs['params']:g} parameters, at most {cap} (params-per-sample)"
        )


def _out_of_memory(error: BaseException) -> bool:
    said = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in said)
