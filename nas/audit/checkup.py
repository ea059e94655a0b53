"""A short training of anybody's network, watched: what its losses, gradients and learning rates
show."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, median

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nas.audit.anatomy import NORM_CLASS, kept
from nas.audit.feed import Problem
from nas.candidate import Reason
from nas.checks import MEMORISED_AT
from nas.layers import Observed
from nas.rules import GRADIENT_CLIP
from nas.training.batches import Batch, Batches
from nas.training.lr import STEPS as RATE_STEPS
from nas.training.lr import RangeTest, range_test
from nas.training.monitors import GradientMonitor, GradientSample

TRAINING_STEPS = 400  # of the watched training; a plateau shows between 150 and half of them
ONE_BATCH, ONE_BATCH_STEPS = 32, 100  # samples to memorise, and steps for it
FEWEST_STEPS = 60  # of each, however long they take
DEFAULT_RATE = 1e-3  # where neither the user nor a range test names one: AdamW's own


class TooSlow(RuntimeError):  # noqa: N818
    """A network whose steps take too long to be watched in the time there is."""


@dataclass(frozen=True)
class Checkup:
    """What was observed, and the curves to draw of it."""

    observed: Observed
    range_test: RangeTest
    lr: float  # that it was trained at
    losses: tuple[float, ...]  # of its steps
    short: bool  # whether there were fewer steps than usual, for lack of time
    samples: tuple[GradientSample, ...]
    seconds: float


def checkup(
    network: nn.Module,
    problem: Problem,
    batches: Batches,
    *,
    input_scale: float = 1.0,
    lr: float | None = None,
    weight_decay: float | None = None,
    limit_s: float = 60.0,
    on_phase: Callable[[str], None] = lambda phase: None,
) -> Checkup:
    """Train ``network`` with AdamW, each time from where it stands: up the learning rates, on one
    batch, and on ``batches`` at ``lr`` (or the rate at which the loss fell fastest), for some
    hundred steps each, or fewer where these would need more than ``limit_s`` seconds. The network
    is left as it was.

    Raises OutputShape, and TooSlow where even few steps would take more than twice ``limit_s``.
    """
    begun = time.perf_counter()
    on_phase("the loss at the start")
    start, pace_s = _start(network, problem, batches)
    planned = RATE_STEPS + ONE_BATCH_STEPS + TRAINING_STEPS
    fraction = min(1.0, limit_s / (planned * max(pace_s, 1e-6)))
    if (fewest_s := 3 * FEWEST_STEPS * pace_s) > 2 * limit_s:
        raise TooSlow(
            f"a step takes {pace_s:.2g} s, and {3 * FEWEST_STEPS} of them {fewest_s:.0f} s:"
            " give it so long, or fewer or smaller samples"
        )

    def steps(most: int) -> int:
        return max(FEWEST_STEPS, round(fraction * most))

    on_phase(f"learning rates, {steps(RATE_STEPS)} steps")
    with _again(network):
        rates = range_test(
            network,
            lambda batch: problem.loss(network, batch),
            batches,
            steps=steps(RATE_STEPS),
            clip=GRADIENT_CLIP,
        )
    rate = lr or rates.steepest or DEFAULT_RATE
    on_phase(f"one batch, {steps(ONE_BATCH_STEPS)} steps at most at a rate")
    sound = rates.steepest or DEFAULT_RATE  # whether it can learn at all is not the rate's fault
    tried = (sound,) if fraction < 1 else (sound, sound / 10, sound * 10)
    one_batch = _one_batch(network, problem, batches, tried, steps(ONE_BATCH_STEPS))
    on_phase(f"a training of {steps(TRAINING_STEPS)} steps")
    monitor = GradientMonitor(every=max(1, steps(TRAINING_STEPS) // 30), stop=False)
    module = _Module(network, problem, batches, rate, weight_decay)
    with _again(network):
        _fit(module, batches, steps(TRAINING_STEPS), monitor)
    losses = tuple(float(value) for value in module.losses)
    found, last = monitor.finding, monitor.samples[-1:]
    dead = max((x for look in last for x in look.dead.items()), key=lambda x: x[1], default=None)
    observed = Observed(
        chance=problem.uniform,
        start=start,
        end=fmean(losses[-max(1, len(losses) // 10) :]),
        input_scale=input_scale,
        failure=found.reason if found else Reason.NONE,
        failed_at=found.layer if found else "",
        evidence=found.evidence if found else "",
        one_batch=one_batch,
        steepest=rates.steepest,
        diverges=rates.diverges,
        dead=dead,
    )
    seconds = time.perf_counter() - begun
    return Checkup(observed, rates, rate, losses, fraction < 1, tuple(monitor.samples), seconds)


@contextmanager
def _again(network: nn.Module) -> Iterator[None]:
    """The same start and the same draws each time."""
    with kept(network), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        network.train()
        yield


def _start(network: nn.Module, problem: Problem, batches: Batches) -> tuple[float, float]:
    """The mean loss of some batches before the first step, and the seconds of a step: those of
    the clock, or of the processor where other work keeps it busy."""
    losses: list[float] = []
    laps: list[float] = []
    with _again(network):
        for batch in islice(batches, 6):
            clock, processor = time.perf_counter(), time.process_time()
            value = problem.loss(network, batch)
            if value.requires_grad:
                value.backward()  # type: ignore[no-untyped-call]
            losses.append(float(value.detach()))
            laps.append(min(time.perf_counter() - clock, time.process_time() - processor))
    return fmean(losses), median(laps)


def _one_batch(
    network: nn.Module, problem: Problem, batches: Batches, rates: Sequence[float], steps: int
) -> tuple[float, float, int]:
    """Whether a batch can be memorised, without dropout, at one of the rates: the loss of the
    best constant prediction, the least loss, and steps."""
    few = Batches(batches.inputs, batches.labels, ONE_BATCH, seed=0)
    batch = next(iter(few))
    constant = max(problem.constant(batch[1]), 0.1 * problem.uniform)  # it may be of one class
    best = math.inf
    for rate in rates:
        with _again(network):
            network.eval()
            for module in network.modules():
                if NORM_CLASS.search(type(module).__name__):
                    module.train()
            trained = [p for p in network.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
            for step in range(steps):
                value = problem.loss(network, batch)
                if not bool(value.isfinite()):
                    break
                best = min(best, float(value.detach()))
                if best <= MEMORISED_AT * constant or not value.requires_grad:
                    return constant, best, step
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trained, GRADIENT_CLIP)
                optimizer.step()
    return constant, best, steps


class _Module(pl.LightningModule):
    """The network with its loss, as the monitors know trainings."""

    def __init__(
        self,
        network: nn.Module,
        problem: Problem,
        batches: Batches,
        lr: float,
        weight_decay: float | None,
    ) -> None:
        super().__init__()
        self.network, self.problem = network, problem
        self.rate, self.decay = lr, weight_decay or 0.0
        self.chance_loss = problem.constant(batches.labels)
        self.losses: list[Tensor] = []

    def training_step(self, batch: Batch, _: int) -> Tensor:
        loss = self.problem.loss(self.network, batch)
        if loss.requires_grad:  # not where a monitor looks again
            self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return torch.optim.AdamW(trained, lr=self.rate, weight_decay=self.decay)


def _fit(module: _Module, batches: Batches, steps: int, monitor: GradientMonitor) -> None:
    """Train in Lightning's barest form, on the device where the data are, without its hints."""
    for name in ("pytorch_lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    device = next(iter(batches.labels.values())).device
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning")
        trainer = pl.Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu" if device.type == "cpu" else "gpu",
            devices=1 if device.index is None else [device.index],
            gradient_clip_val=GRADIENT_CLIP,
            callbacks=[monitor],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, batches)
