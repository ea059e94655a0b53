"""Monitors watch a network train and stop it when it fails, with the evidence.

What is checked, and the words for what goes wrong, follow Pei et al. 2024 (BTTackler), sec. 4,
and Zhang et al. 2021 (AutoTrainer), sec. 3. Their thresholds are not taken over: Adam divides
the size of a gradient out again (Kingma & Ba 2015, sec. 2.1), and networks with faint gradients
or with half of their units dead are among the best that were measured. So gradients only say
*why*: a network is stopped for them while its loss shows that it has learnt nothing. The numbers
below come from ``scripts/bench_monitors.py``; see experiments/LOG.md.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median, variance
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from nas.candidate import Health, Reason
from nas.training.resume import ASKED_EVERY

OVERHEAD = 0.02  # fraction of the time that samples may take
# The run's own early history: this fraction of its steps, and at least this number.
EARLY, EARLY_STEPS = 0.05, 20
IN_A_ROW = 3  # samples that must agree
# Nothing is learnt while the loss is not below this fraction of a constant prediction's.
LEARNING = 0.98
# A gradient norm of this multiple of the early history's, which counts as SOUND at most.
EXPLODING, SOUND = 1e3, 1e2
VANISHING = 1e-6  # the gradient norm of the first layer over the largest of any layer
# Nothing learnt in this fraction of the steps, and in at least this number: with branches that
# start at zero, or a loss with a penalty, sound networks have needed up to 150 to begin.
PLATEAU, PLATEAU_STEPS = 0.25, 150
HISTORY = 40  # samples that are kept of a training


class TrainingStopped(Exception):  # noqa: N818  # a verdict, not an error
    """Ends a training at once: why, as the study keeps it, and the sentence that shows it."""

    def __init__(self, reason: Reason, evidence: str = "") -> None:
        super().__init__(f"{reason}: {evidence}" if evidence else reason.value)
        self.reason = reason
        self.evidence = evidence


@dataclass(frozen=True)
class GradientSample:
    """What is seen of a network at one step, by layer in the order of their declaration.

    ``norms``: of the gradient, before clipping. ``dead``: the fraction of a layer's units that get
    no gradient from any sample of the batch, as their biases show (Lu et al. 2020, sec. 2: what
    has died is constant). ``updates``: the norm of what the optimiser adds, over that of the
    weights; some 1e-3 is sound (You et al. 2017, LARS, sec. 4, has its inverse).
    """

    step: int
    norms: dict[str, float]
    dead: dict[str, float]
    updates: dict[str, float] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        """Of the whole gradient."""
        return math.hypot(*self.norms.values())


@dataclass(frozen=True)
class Finding:
    """What went wrong, where, and the value that shows it beside its threshold."""

    reason: Reason  # of kind "failure"
    evidence: str
    step: int
    layer: str = ""
    value: float | None = None
    threshold: float | None = None


class GradientMonitor(pl.Callback):
    """Checks the loss and the gradients of any LightningModule and ends a training that
    fails; with ``stop`` false it goes on. The first ``finding`` is kept.

    - "nan": the loss or a gradient is not finite. Reported before the optimiser can carry it into
      the weights; on a GPU, which a sample makes wait, no sooner than the next sample.
      With a loss scaler only the loss counts: it leaves out steps whose gradient overflows.
    - "exploding", "vanishing", "dead": the last ``IN_A_ROW`` samples agree, after the early
      history and while nothing is learnt. The gradient explodes against its own early norm. It
      vanishes from layer to layer (Glorot & Bengio 2010, sec. 4.2), unless it grows again. Dead
      is an exact zero from the input up to the layer that is named.
    - "plateau": nothing was learnt from the first step on, for ``PLATEAU`` of the steps, and the
      loss does not fall towards that either. Not reported once half of the steps are done.

    Nothing is learnt while the mean loss of the latest steps is not below ``LEARNING`` times that
    of a constant prediction, which a module gives in its attribute ``chance_loss``; where it has
    none, that of its own first steps stands in.

    Every ``every``-th step is sampled, or fewer where samples would take more than
    ``OVERHEAD`` of the time; ten in all at least. A layer is a module that owns parameters.

    Several processes end together, after ``ASKED_EVERY`` steps at most: each has losses and samples
    of its own, and one that ended alone would leave the others waiting.
    """

    def __init__(self, every: int = 10, stop: bool = True) -> None:
        self.every, self.stop = every, stop
        self.finding: Finding | None = None
        self.samples: list[GradientSample] = []
        self.losses: list[float] = []  # of each step up to the last sample

    def summary(self) -> Health:
        """What the last sample shows and the finding, to three digits."""
        last = self.samples[-1] if self.samples else None
        updates = [ratio for sample in self.samples[-2:] for ratio in sample.updates.values()]
        found = self.finding
        return Health(
            samples=len(self.samples),
            gradient_norm=_rounded(last.norm if last else None),
            dead_units=_rounded(fmean(last.dead.values()) if last and last.dead else None),
            update_ratio=_rounded(median(updates) if updates else None),
            step=found.step if found else None,
            layer=found.layer if found else "",
            value=_rounded(found.value if found else None),
            threshold=_rounded(found.threshold if found else None),
            exploding=_rounded(EXPLODING * self._usual()) if last else None,
            vanishing=VANISHING if last else None,
        )

    def history(self) -> dict[str, list[tuple[int, float]]]:
        """The gradient norms of each layer: steps and norms of at most ``HISTORY`` samples, evenly
        over the training, to three digits; without those that are not finite."""
        return _by_step([(sample.step, sample.norms) for sample in self._kept()])

    def dead_history(self) -> dict[str, list[tuple[int, float]]]:
        """The fraction of dead units at the same steps, of the layers that ever had some."""
        found = _by_step([(sample.step, sample.dead) for sample in self._kept()])
        return {name: rows for name, rows in found.items() if any(share for _, share in rows)}

    def _kept(self) -> list[GradientSample]:
        every = max(1, math.ceil(len(self.samples) / HISTORY))
        return self.samples[(len(self.samples) - 1) % every :: every]  # with the last

    def _usual(self) -> float:
        """The norm of a sound gradient: that of the early history, and ``SOUND`` at most."""
        early = [sample.norm for sample in self.samples if sample.step <= self._early]
        return min(SOUND, median(early))

    # -- sampling ----------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.finding, self.samples, self.losses = None, [], []
        self._owned = [
            (name.removeprefix("network.") or "(other)", kind.startswith("bias"), p)
            for name, module in pl_module.named_modules()
            for kind, p in module.named_parameters(recurse=False)
            if p.requires_grad
        ]
        device = pl_module.device
        self._cpu, self._alone = device.type == "cpu", trainer.world_size == 1
        self._one, self._flag = torch.ones((), device=device), torch.zeros((), device=device)
        self._scaler = trainer.scaler  # of losses in float16
        self._chance: float = getattr(pl_module, "chance_loss", math.nan)
        self._total = trainer.estimated_stepping_batches  # infinite where only time ends it
        self._early = EARLY_STEPS
        if math.isfinite(self._total):
            self._early = max(EARLY_STEPS, math.ceil(EARLY * self._total))
        self._learnt = False
        self._batch: Any = None
        self._loss: Tensor | None = None  # of the step, over its micro-batches
        self._since: list[Tensor] = []  # losses of the steps since the last sample
        self._before: list[tuple[str, Tensor, Tensor]] = []  # layer, weights and their copy
        self._next = 0
        self._begin = time.perf_counter()
        self._spent = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        loss = loss.detach()
        if self._scaler is not None:
            loss = loss / self._scaler.scale(self._one)
        self._loss = loss if self._loss is None else self._loss + loss
        if self._cpu and not math.isfinite(value := float(loss)):
            self._loss_is(value, trainer.global_step, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        assert self._loss is not None
        self._since.append(self._loss)
        self._loss = None
        step = trainer.global_step
        owned = [each for each in self._owned if each[2].grad is not None]
        if step < self._next:
            if self._cpu and not (self._scaler or self._finite([p.grad for *_, p in owned])):
                self._gradient_is(owned, step)
            return
        begin = self._clock()
        losses = torch.stack(self._since).tolist()
        self._since.clear()
        self.losses += losses
        for loss in losses:
            if not math.isfinite(loss):
                self._loss_is(loss, step, pl_module)
        sample = self._sample(owned, step)
        if self._scaler is not None and not math.isfinite(sample.norm):
            return  # too large for float16: the step is left out, and the scale comes down
        self.samples.append(sample)
        if not math.isfinite(sample.norm):
            self._gradient_is(owned, step)
        elif self.finding is None:
            self._judge(step, pl_module)
        self._before = [(name, p, p.detach().clone()) for name, _, p in owned]
        self._spent += time.perf_counter() - begin

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        every = ASKED_EVERY * trainer.accumulate_grad_batches
        is_due = (i + 1) % every == 0 or i + 1 >= trainer.num_training_batches
        if self.stop and is_due and not self._alone:
            self._end_together(trainer)
        if not self._before:
            return
        begin = self._clock()
        names, now, before = zip(*self._before, strict=True)
        with torch.no_grad():
            added = _by_layer(names, torch._foreach_sub(now, before))
        sizes = _by_layer(names, before)
        self.samples[-1].updates.update({n: added[n] / sizes[n] for n in sizes if sizes[n] > 0})
        self._before = []
        end = time.perf_counter()
        self._spent += end - begin
        taken, step = len(self.samples), self.samples[-1].step
        if taken == 1:  # the first step sets much up: neither its time nor its sample's counts
            self._begin, self._spent, self._next = end, 0.0, step + self.every
            return
        pace = (end - self._begin - self._spent) / step
        cost = self._spent / (taken - 1)
        # At least ten samples in all: a verdict needs some.
        wanted = min(cost / (OVERHEAD * pace), self._total / 10)
        self._next = step + max(self.every, math.ceil(wanted))

    def _clock(self) -> float:
        """The time at which all steps before are done: waiting for a GPU is no cost of a sample."""
        if not self._cpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _finite(self, grads: list[Any]) -> bool:
        """Whether all are; in a fraction of the time that a norm takes."""
        torch._amp_foreach_non_finite_check_and_unscale_(grads, self._flag, self._one)
        return not self._flag

    def _sample(self, owned: Sequence[tuple[str, bool, Any]], step: int) -> GradientSample:
        norms = _by_layer([name for name, *_ in owned], [p.grad for *_, p in owned])
        biases = [(name, p.grad) for name, bias, p in owned if bias]
        dead: dict[str, float] = {}
        if biases:
            alive = torch.stack([grad.count_nonzero() for _, grad in biases]).tolist()
            for (name, grad), count in zip(biases, alive, strict=True):
                # Of several biases, as in a recurrent layer, the one with the most life counts.
                dead[name] = min(1 - count / grad.numel(), dead.get(name, 1.0))
        return GradientSample(step, norms, dead)

    # -- judging -----------------------------------------------------------------------------

    def _find(self, finding: Finding) -> None:
        if self.finding is None:
            self.finding = finding
            if self.stop and self._alone:
                raise TrainingStopped(finding.reason, finding.evidence)

    def _end_together(self, trainer: pl.Trainer) -> None:
        """End the training in all processes where one of them has found something."""
        if not trainer.strategy.reduce_boolean_decision(self.finding is not None, all=False):
            return
        found: list[Finding | None] = [None] * trainer.world_size
        torch.distributed.all_gather_object(found, self.finding)
        # A loss, which is of no layer, comes before the gradients that it has spoiled.
        finding = min(filter(None, found), key=lambda each: (each.step, each.layer))
        self.finding = finding
        raise TrainingStopped(finding.reason, finding.evidence)

    def _place(
        self, pl_module: pl.LightningModule, wrong: Callable[[Tensor], bool]
    ) -> tuple[str, str, str]:
        """``_first`` of the last batch. Nothing of several processes: where they hold parts of the
        weights, none can run the network alone."""
        return _first(pl_module, self._batch, wrong) if self._alone else ("", "", "")

    def _loss_is(self, value: float, step: int, pl_module: pl.LightningModule) -> None:
        if self.finding is None:
            module, end, _ = self._place(pl_module, _not_finite)
            place = f", from the {end} of {module} on" if module else ""
            self._find(
                Finding(Reason.NAN, f"the loss is {value} at step {step}{place}", step, module)
            )

    def _gradient_is(self, owned: Sequence[tuple[str, bool, Any]], step: int) -> None:
        # Backwards from the loss: the last layer is where it came up.
        broken = [name for name, _, p in owned if not p.grad.isfinite().all()]
        if broken:
            evidence = f"the gradient of {broken[-1]} is not finite at step {step}"
            self._find(Finding(Reason.NAN, evidence, step, broken[-1]))

    def _judge(self, step: int, pl_module: pl.LightningModule) -> None:
        latest = fmean(self.losses[-self._early :])
        chance = self._chance
        if math.isnan(chance):
            chance = fmean(self.losses[: self._early])
        learns = latest < LEARNING * chance
        self._learnt |= learns
        if learns or step < self._early or len(self.samples) < IN_A_ROW:
            return
        latest_samples = self.samples[-IN_A_ROW:]
        state = f"and the loss {latest:.3g} shows nothing learnt (a constant's is {chance:.3g})"
        usual = self._usual()
        norm = min(sample.norm for sample in latest_samples)
        if norm > EXPLODING * usual:
            layer = max(latest_samples[-1].norms, key=latest_samples[-1].norms.__getitem__)
            evidence = (
                f"the gradient norm, most of it {layer}'s, is {norm:.3g} at step {step}, more than"
                f" {EXPLODING:g} times the {usual:.3g} of a sound start, {state}"
            )
            self._find(Finding(Reason.EXPLODING, evidence, step, layer, norm, EXPLODING * usual))
        inlets = [_inlet(sample) for sample in latest_samples]
        layer, ratio = inlets[-1]
        if all(r == 0 for _, r in inlets):
            # Those after a dead layer may have no gradient either; its output shows which.
            layer = self._place(pl_module, _constant)[2] or layer
            evidence = (
                f"the units of {layer} are dead: no gradient passes it towards the input, for"
                f" {IN_A_ROW} samples up to step {step}, {state}"
            )
            self._find(Finding(Reason.DEAD, evidence, step, layer, 0.0, 0.0))
        elif all(r < VANISHING for _, r in inlets) and 0 < ratio <= 2 * _inlet(self.samples[0])[1]:
            evidence = (
                f"the gradient norm of {layer} is {ratio:.1e} of the largest of a layer at step"
                f" {step}, less than {VANISHING:g} for {IN_A_ROW} samples, {state}"
            )
            self._find(Finding(Reason.VANISHING, evidence, step, layer, ratio, VANISHING))
        due = max(PLATEAU * self._total, PLATEAU_STEPS) <= step <= self._total / 2
        if due and not self._learnt and not _falls(self.losses, self._early):
            evidence = (
                f"nothing has been learnt from the first step to step {step} of {self._total}:"
                f" the loss is {latest:.4g} and does not fall (a constant's is {chance:.4g})"
            )
            self._find(Finding(Reason.PLATEAU, evidence, step, "", latest, LEARNING * chance))


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")


def _by_step(rows: Sequence[tuple[int, dict[str, float]]]) -> dict[str, list[tuple[int, float]]]:
    """Values by step and layer as steps and values by layer, to three digits."""
    found: dict[str, list[tuple[int, float]]] = {}
    for step, values in rows:
        for name, value in values.items():
            if (rounded := _rounded(value)) is not None:
                found.setdefault(name, []).append((step, rounded))
    return found


def _falls(losses: list[float], latest: int) -> bool:
    """Whether the ``latest`` losses are below those of the second half before them by more than
    two standard errors of the difference."""
    parts = losses[len(losses) // 2 : -latest], losses[-latest:]
    error = math.sqrt(sum(variance(part) / len(part) for part in parts))
    return fmean(parts[1]) < fmean(parts[0]) - 2 * error


def _by_layer(names: Sequence[str], tensors: list[Tensor] | tuple[Tensor, ...]) -> dict[str, float]:
    """The norm of all tensors of a name together; one wait for a GPU."""
    squares = torch.stack(torch._foreach_norm(tensors)).double().square().tolist()
    total = dict.fromkeys(names, 0.0)
    for name, square in zip(names, squares, strict=True):
        total[name] += square
    return {name: math.sqrt(square) for name, square in total.items()}


def _inlet(sample: GradientSample) -> tuple[str, float]:
    """What is left of the gradient where it reaches the input: the first layer, and its norm
    over the largest of a layer. Where it ends before, the layer that ends it, and zero."""
    norms = list(sample.norms.items())
    largest = max(sample.norms.values())
    reached = next((i for i, (_, norm) in enumerate(norms) if norm > 0), len(norms))
    if reached == 0:
        return norms[0][0], norms[0][1] / largest
    if reached < len(norms) and norms[reached][1] < VANISHING * largest:
        # It did not end there: it became too small for the squares in a float32's norm.
        return norms[0][0], norms[reached][1] / largest
    silent = [name for name, _ in norms[:reached]]
    # A layer without a bias also gets no gradient where it is given nothing but zeros.
    return ([name for name in silent if name in sample.dead] or silent)[-1], 0.0


@torch.no_grad()
def _first(
    pl_module: pl.LightningModule, batch: Any, wrong: Callable[[Tensor], bool]
) -> tuple[str, str, str]:
    """Run the batch again up to the first module that puts out what is ``wrong``.

    Returns its name, whether it was wrong at its "input" already or only at its "output", and
    the name of the last layer before it that owns parameters. All empty where there is none.
    """
    found: list[tuple[str, str, str]] = []
    layer = ""

    def any_wrong(values: Any) -> bool:
        values = values if isinstance(values, tuple) else (values,)
        return any(isinstance(v, Tensor) and v.is_floating_point() and wrong(v) for v in values)

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            nonlocal layer
            if any(True for _ in module.parameters()):
                layer = name
            if not found and any_wrong(output):
                found.append((name, "input" if any_wrong(inputs) else "output", layer))

        return hook

    hooks = [
        module.register_forward_hook(watch(name.removeprefix("network.")))
        for name, module in pl_module.named_modules()
        if not any(True for _ in module.children())
    ]
    try:
        pl_module.training_step(batch, 0)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else ("", "", "")


def _not_finite(values: Tensor) -> bool:
    return not values.isfinite().all()


def _constant(values: Tensor) -> bool:
    """Whether all of several samples have the same."""
    return values.ndim > 1 and len(values) > 1 and bool((values == values[:1]).all())


class TimeLimit(pl.Callback):
    """Ends a training that takes, or from its pace will take, more than ``limit_s`` seconds: on
    all ``folds`` together, one after the other with this same callback.

    The pace is checked once, after a twentieth of the first fold's steps (a slow moment later
    must not throw finished folds away), and only a training that would need half as much again
    is ended for its pace.
    """

    def __init__(self, limit_s: float, folds: int = 1) -> None:
        self.limit_s, self.folds = limit_s, folds
        self._begin = 0.0
        self._fold = self._total = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._fold:
            self._begin = time.monotonic()
        self._fold += 1
        self._total = int(trainer.estimated_stepping_batches)  # slow: not at every step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        spent = time.monotonic() - self._begin
        total = self._total
        step = trainer.global_step
        if spent > self.limit_s:
            at = f"step {step} of {total}" + f" on fold {self._fold}" * (self.folds > 1)
            raise TrainingStopped(
                Reason.TIMEOUT, f"after {spent:.0f} s at {at} (the limit is {self.limit_s:.0f} s)"
            )
        if self._fold > 1 or step != max(5, total // 20):
            return
        if (needed := self.folds * spent * total / step) > 1.5 * self.limit_s:
            raise TrainingStopped(
                Reason.TIMEOUT,
                f"at its pace it needs {needed:.0f} s, the limit is {self.limit_s:.0f} s",
            )


class StepClock(pl.Callback):
    """Times the steps of a training that has just begun, from end to end within an epoch, and
    whole epochs with their validation; then ends it, by raising TrainingStopped.

    On a CPU the seconds are those of the process on a core, which other processes do not stretch
    as they do the wall's; ``contention`` is how many seconds of the wall went by for each of them.
    The first two steps are left out: they allocate memory and the optimiser's moments. At
    least ``least`` steps are timed, but one is enough after ten times ``limit_s``.
    """

    def __init__(self, limit_s: float, least: int = 3) -> None:
        self.limit_s, self.least = limit_s, least
        self.steps_s: list[float] = []
        self.epochs_s: list[float] = []
        self._begin = self._step = self._epoch = 0.0
        self._counted: tuple[float, float] | None = None  # both clocks at the first step timed
        self.contention = 1.0

    def now(self, device: str) -> float:
        """Seconds of the process on a CPU; of the wall on a GPU, once it has done its work."""
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = self.now(pl_module.device.type)
        if trainer.current_epoch > 1:  # the first is not like the others
            self.epochs_s.append(now - self._epoch)
        self._epoch = self._step = now

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        now = self.now(pl_module.device.type)
        if trainer.global_step > 2:
            self.steps_s.append(now - self._step)
        self._step = now
        wall, process = time.perf_counter(), time.process_time()
        if self._counted is None:
            self._counted = wall, process
        elif pl_module.device.type == "cpu" and process > self._counted[1]:
            spent = (wall - self._counted[0]) / (process - self._counted[1])
            self.contention = max(1.0, spent)
        passed = wall - self._begin
        least = self.least if passed <= 10 * self.limit_s else 1
        if passed > self.limit_s and len(self.steps_s) >= least:
            raise TrainingStopped(Reason.TIMEOUT, f"{self.limit_s:g} s were allowed")
