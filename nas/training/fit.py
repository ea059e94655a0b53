"""One training of a proxy in Lightning's barest form, the same in a search and for a recipe.

A search trains candidates on ``folds`` (nas.training.evaluator); ``nas train --check`` repeats
such a training from its recipe (nas.train) and must arrive at the same figures.
"""

from __future__ import annotations

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
from nas.training.batches import Batches, Tensors, evaluation_batch, part_tensors, proxy_folds
from nas.training.frozen import frozen_fold
from nas.training.proxy import Proxy

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
    evaluation = evaluation_batch(module.task.modality)
    trainer.fit(module, Batches(*train, batch_size, seed=seed), Batches(*val, evaluation))
    return trainer
