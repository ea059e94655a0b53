"""Monitors watch a network train and stop it when it fails, with the evidence."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

# A gradient norm this many times the median of the run's own first records, this often in
# a row, is an explosion and not a hard batch.
EXPLODING_RATIO = 1e3
EXPLODING_RECORDS = 3
HISTORY = 20


class TrainingStopped(Exception):  # noqa: N818  # a verdict, not an error
    """Ends a training at once: ``reason`` is a word for the study, ``evidence`` a sentence."""

    def __init__(self, reason: str, evidence: str = "") -> None:
        super().__init__(f"{reason}: {evidence}" if evidence else reason)
        self.reason = reason
        self.evidence = evidence


class GradientMonitor(pl.Callback):
    """Per-layer gradient norms, before clipping, every ``every`` steps.

    Raises TrainingStopped with the reason "nan" or "exploding". The last norms by layer are
    in ``norms``; ``total`` is the record of the whole network's norm. A layer is a module
    that owns parameters.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.norms: dict[str, float] = {}
        self.total: list[float] = []
        self._layers: dict[str, list[torch.nn.Parameter]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, module in pl_module.named_modules():
            own = [p for p in module.parameters(recurse=False) if p.requires_grad]
            if own:
                self._layers[name.removeprefix("network.") or "(other)"] = own

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        step = trainer.global_step
        if step % self.every:
            return
        owner: list[str] = []
        grads: list[Tensor] = []
        for name, own in self._layers.items():
            for p in own:
                if p.grad is not None:
                    owner.append(name)
                    grads.append(p.grad)
        squares = torch.stack(torch._foreach_norm(grads)).double().square().tolist()
        by_layer = dict.fromkeys(owner, 0.0)
        for name, square in zip(owner, squares, strict=True):
            by_layer[name] += square
        self.norms = {name: math.sqrt(square) for name, square in by_layer.items()}
        norm = math.sqrt(sum(by_layer.values()))
        if not math.isfinite(norm):
            layer = next(n for n, v in self.norms.items() if not math.isfinite(v))
            raise TrainingStopped("nan", f"the gradient of {layer} is not finite at step {step}")
        self.total.append(norm)
        early = sorted(self.total[:HISTORY])[len(self.total[:HISTORY]) // 2]
        recent = self.total[-EXPLODING_RECORDS:]
        limit = EXPLODING_RATIO * early
        if len(self.total) > HISTORY and min(recent) > limit:
            raise TrainingStopped(
                "exploding",
                f"gradient norm {min(recent):.3g} at step {step} is over {EXPLODING_RATIO:g} times"
                f" the {early:.3g} of the first steps",
            )

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        # On a GPU a look at the loss waits for it: not at every step.
        if pl_module.device.type == "cpu" or batch_idx % self.every == 0:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs
            if not math.isfinite(float(loss)):
                raise TrainingStopped("nan", f"the loss is {float(loss)} at step {batch_idx}")


class TimeLimit(pl.Callback):
    """Ends a training that takes, or from its pace will take, more than ``limit_s`` seconds.

    The pace is looked at once, after a twentieth of the steps, and only a training that
    would need half as much again is ended for it.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._begin = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        spent = time.monotonic() - self._begin
        total = int(trainer.estimated_stepping_batches)
        step = trainer.global_step
        if spent > self.limit_s:
            raise TrainingStopped(
                "timeout", f"after {spent:.0f} s at step {step} of {total} ({self.limit_s:.0f} s)"
            )
        if step == max(5, total // 20) and (needed := spent * total / step) > 1.5 * self.limit_s:
            raise TrainingStopped(
                "timeout", f"at its pace it needs {needed:.0f} s, the limit is {self.limit_s:.0f} s"
            )
