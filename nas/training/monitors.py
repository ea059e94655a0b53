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

    Raises TrainingStopped with the reason "nan" or "exploding", before the optimiser can
    carry what is not finite into the weights; on a CPU every step is looked at for that, on
    a GPU, which a look makes wait, every ``every``-th. The last norms by layer are in
    ``norms``; ``total`` is the record of the whole network's norm. A layer is a module that
    owns parameters.
    """

    def __init__(self, every: int = 10) -> None:
        self.every = every
        self.norms: dict[str, float] = {}
        self.total: list[float] = []
        self._owned: list[tuple[str, torch.nn.Parameter]] = []
        self._batch: Any = None
        self._loss: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._owned = [
            (name.removeprefix("network.") or "(other)", p)
            for name, module in pl_module.named_modules()
            for p in module.parameters(recurse=False)
            if p.requires_grad
        ]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        step = trainer.global_step
        due = step % self.every == 0
        if not due and pl_module.device.type != "cpu":
            return
        assert self._loss is not None
        if not math.isfinite(loss := float(self._loss)):
            source = _first_not_finite(pl_module, self._batch)
            raise TrainingStopped("nan", f"the loss is {loss} at step {step}{source}")
        owned = [(name, p.grad) for name, p in self._owned if p.grad is not None]
        norms = torch.stack(torch._foreach_norm([grad for _, grad in owned])).double()
        norm = float(norms.norm())
        if math.isfinite(norm) and not due:
            return
        squares = dict.fromkeys((name for name, _ in owned), 0.0)
        for (name, _), square in zip(owned, norms.square().tolist(), strict=True):
            squares[name] += square
        self.norms = {name: math.sqrt(square) for name, square in squares.items()}
        if not math.isfinite(norm):
            # Backwards from the loss: the last layer is where it came up.
            layer = [n for n, v in self.norms.items() if not math.isfinite(v)][-1]
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


@torch.no_grad()
def _first_not_finite(pl_module: pl.LightningModule, batch: Any) -> str:
    """Run the batch again: the first layer that puts out what is not finite, in words."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not torch.isfinite(output).all():
                found.append(name.removeprefix("network."))

        return hook

    leaves = [(n, m) for n, m in pl_module.named_modules() if not any(True for _ in m.children())]
    hooks = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        pl_module.training_step(batch, 0)
    finally:
        for hook in hooks:
            hook.remove()
    return f", from the output of {found[0]} on" if found else ""


class TimeLimit(pl.Callback):
    """Ends a training that takes, or from its pace will take, more than ``limit_s`` seconds.

    The pace is looked at once, after a twentieth of the steps, and only a training that
    would need half as much again is ended for it.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._begin = 0.0
        self._total = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.monotonic()
        self._total = int(trainer.estimated_stepping_batches)  # slow: not at every step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        spent = time.monotonic() - self._begin
        total = self._total
        step = trainer.global_step
        if spent > self.limit_s:
            raise TrainingStopped(
                "timeout", f"after {spent:.0f} s at step {step} of {total} ({self.limit_s:.0f} s)"
            )
        if step == max(5, total // 20) and (needed := spent * total / step) > 1.5 * self.limit_s:
            raise TrainingStopped(
                "timeout", f"at its pace it needs {needed:.0f} s, the limit is {self.limit_s:.0f} s"
            )
