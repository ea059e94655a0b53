"""One training of a proxy in Lightning's barest form, the same in a search and for a recipe.

A search trains candidates on ``folds`` (nas.training.evaluator); ``nas train --check`` repeats
such a training from its recipe (nas.train) and must arrive at the same figures.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from nas import rules
from nas.data import Dataset
from nas.space import Config
from nas.task import Task
from nas.training import device
from nas.training.batches import (
    Batch,
    Batches,
    Tensors,
    evaluation_batch,
    part_tensors,
    proxy_folds,
)
from nas.training.frozen import frozen_fold
from nas.training.neighbours import sampled_tensors
from nas.training.proxy import Proxy

PRECISION_STEPS, PRECISION_S = 4, 0.5  # that decide: the most steps, and seconds of a core
FASTER = 0.9  # of the time in float32: what a step in bfloat16 must be within

Fold = tuple[Tensors, Tensors]  # what a proxy is trained on, and what it is scored by


def folds(dataset: Dataset, task: Task) -> list[Fold]:
    """Inputs and labels that a proxy is trained on and scored by, as tensors on ``task.device``;
    one pair, or several where the data are few (``rules.folds``)."""
    pairs = proxy_folds(dataset, task)
    return [
        (part_tensors(dataset, train, task.device), part_tensors(dataset, val, task.device))
        for train, val in pairs
    ]


def train_folds(
    family: str,
    config: Config,
    task: Task,
    folds: Sequence[Fold],
    epochs: int,
    seed: int,
    callbacks: Callable[[], list[pl.Callback]],
    accumulate: int = 1,
    precision: str | None = None,
) -> list[dict[str, Any]]:
    """Train a proxy on each fold, from the same initial weights each time.

    ``callbacks`` makes those of one fold; ``accumulate`` and ``precision`` as in ``fit_proxy``.
    Returns the metrics
    of the last epoch by name, one dictionary a fold.
    """
    scores = []
    for fold in folds:
        torch.manual_seed(seed)
        module = Proxy(family, dict(config), task).to(task.device)
        parts = frozen_fold(module.network, fold)
        trainer = fit_proxy(module, *parts, epochs, seed, callbacks(), accumulate, precision)
        scores.append(trainer.callback_metrics)
    return scores


def faster_precision(module: Proxy, train: Tensors, batch_size: int) -> str:
    """What ``module`` is best trained in, as Lightning names it: on a GPU see
    ``nas.training.device.precision``. On a CPU that multiplies in bfloat16, mixed precision halves
    the time of large convolutions and matrices, and costs small networks some: the first steps
    decide, by the time that this thread had of a core. ``module`` stays as it is."""
    usual = device.precision(module.task.device)
    if module.task.device != "cpu" or not device.cpu_has_bfloat16():
        return usual
    batch = next(iter(Batches(*sampled_tensors(module.network, train), batch_size, seed=0)))
    best = {usual: math.inf, "bf16-mixed": math.inf}
    begin = time.thread_time()
    with torch.random.fork_rng(devices=[]):
        copied = copy.deepcopy(module).train()
        for _ in range(PRECISION_STEPS):
            for kind in best:
                best[kind] = min(best[kind], _step_s(copied, batch, kind == "bf16-mixed"))
            if time.thread_time() - begin > PRECISION_S:
                break
    return "bf16-mixed" if best["bf16-mixed"] < FASTER * best[usual] else usual


def _step_s(module: Proxy, batch: Batch, half: bool) -> float:
    """Seconds of a core for the loss of ``batch`` and its gradients; endless where an operator has
    no form for bfloat16."""
    begin = time.thread_time()
    try:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = module.training_step(batch, 0)
        loss.backward()  # type: ignore[no-untyped-call]
    except (NotImplementedError, RuntimeError):
        if half:
            return math.inf
        raise
    return time.thread_time() - begin


def fit_proxy(
    module: Proxy,
    train: Tensors,
    val: Tensors,
    epochs: int,
    seed: int,
    callbacks: list[pl.Callback],
    accumulate: int = 1,
    precision: str | None = None,
) -> pl.Trainer:
    """Train ``module`` for ``epochs`` and validate after each; the same ``seed`` gives the same
    network.

    Each batch of ``config["batch_size"]`` samples is split into ``accumulate`` micro-batches whose
    gradients are averaged. ``precision`` is as Lightning names it, by default that of the device
    (``nas.training.device``). Returns the trainer, whose ``callback_metrics`` are those of the last
    epoch. A callback may end the training by raising TrainingStopped.
    """
    cpu = module.task.device == "cpu"
    arithmetic: Any = precision or device.precision(module.task.device)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu" if cpu else "gpu",
        devices=1,
        precision=arithmetic,
        gradient_clip_val=rules.gradient_clip(module.config),
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # One process, whatever the variables of Slurm or torchrun say of the job around it.
        plugins=[LightningEnvironment()],
    )
    batch_size = int(module.config["batch_size"]) // accumulate
    train, val = (sampled_tensors(module.network, part) for part in (train, val))
    evaluation = evaluation_batch(module.task.modality, val[0])
    trainer.fit(module, Batches(*train, batch_size, seed=seed), Batches(*val, evaluation))
    return trainer
