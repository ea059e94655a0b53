"""Learning rates: the schedule, stepped once per optimiser step, and the range test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# A range test goes from a rate at which no loss falls to one at which every training diverges,
# in enough steps to separate the slope from the noise of single batches (all ours).
LOWEST, HIGHEST, STEPS = 1e-5, 1.0, 100
# Losses are smoothed by a Gaussian of this standard deviation, in steps.
_SMOOTHING = 4.0
# A smaller fall of the loss may be noise (ours).
FALL = 0.1
# A loss of more than this multiple of the first steps' ends the test.
_DIVERGED = 2.0


class WarmupCosine(LambdaLR):
    """Linear warm-up from zero, then half a cosine down to ``final`` of the base rate.

    Loshchilov & Hutter 2017, "SGDR", eq. 5 without restarts; warm-up as in Goyal et al.
    2017, sec. 2.2.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_steps: int, final: float = 0.01
    ) -> None:
        self.total_steps = total_steps

        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            done = min(1.0, (step - warmup_steps) / max(1, self.total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

        super().__init__(optimizer, factor)

    def end_after(self, steps: int) -> None:
        """End after so many more steps."""
        self.total_steps = self.last_epoch + max(1, steps)

    def state_dict(self) -> dict[str, Any]:
        """Without the number of steps: a training that continues may have another limit of time."""
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"total_steps": self.total_steps})


@dataclass(frozen=True)
class RangeTest:
    """The curve of a learning-rate range test and what it shows.

    ``losses`` are those of the batches at ``rates``, each before the step of its rate is taken;
    ``smooth`` are the same, averaged with their neighbours. ``steepest`` is the rate at which
    ``smooth`` falls fastest, and ``lowest`` the rate at which it is least; None where it falls
    by less than ``FALL`` of what it was. ``diverges`` is the first rate at which half of
    that fall is undone (where there was none: at which the loss is ``FALL`` above its start);
    None where there is none.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    steepest: float | None
    lowest: float | None
    diverges: float | None


def range_test(
    network: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Iterable[Any],
    *,
    low: float = LOWEST,
    high: float = HIGHEST,
    steps: int = STEPS,
    weight_decay: float = 0.0,
    clip: float = 0.0,
) -> RangeTest:
    """Train ``network`` with AdamW while its learning rate grows geometrically from ``low`` to
    ``high``, and see where its loss falls and where it rises (Smith 2017, sec. 3.3; there the
    rate grows linearly).

    ``loss`` returns the scalar loss of one of ``batches``, which are repeated where they are
    fewer than ``steps``. Gradients are clipped to the global norm ``clip``; 0 leaves
    them as they are. The test ends early where the loss diverges: where it is not finite, or twice
    what it was. The network is left as it then is: pass a fresh one. The same network, batches and
    ``torch.manual_seed`` give the same curve.

    Raises ValueError where there is no batch or nothing to train.
    """
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=low, weight_decay=weight_decay)
    rates, losses = [], []
    network.train()
    for step, batch in zip(range(steps), _repeated(batches), strict=False):
        rate = low * (high / low) ** (step / max(1, steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        value = loss(batch)
        rates.append(rate)
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]) or _diverged(losses):
            break
        value.backward()  # type: ignore[no-untyped-call]
        if clip:
            nn.utils.clip_grad_norm_(trained, clip)
        optimizer.step()
    return judge(rates, losses)


def judge(rates: Sequence[float], losses: Sequence[float]) -> RangeTest:
    """The steepest, lowest and diverging rate of a curve of losses."""
    smooth = _smooth(losses)
    steepest = lowest = diverges = None
    least = min(range(len(smooth)), key=smooth.__getitem__)
    bound = smooth[0] + FALL * abs(smooth[0])
    if smooth[0] - smooth[least] > FALL * abs(smooth[0]):
        bound = (smooth[0] + smooth[least]) / 2
        slopes = [b - a for a, b in pairwise(smooth[: least + 1])]
        steepest = rates[min(range(len(slopes)), key=slopes.__getitem__)]
        lowest = rates[least]
    for rate, loss, mean in list(zip(rates, losses, smooth, strict=True))[least:]:
        if mean > bound or not math.isfinite(loss):
            diverges = rate
            break
    return RangeTest(tuple(rates), tuple(losses), tuple(smooth), steepest, lowest, diverges)


def _smooth(losses: Sequence[float]) -> list[float]:
    """Each loss averaged with its neighbours; one that has diverged counts as ``_DIVERGED``
    times the first ones at most."""
    few = losses[: max(1, min(5, len(losses)))]
    cap = _DIVERGED * abs(sum(few) / len(few))
    capped = [min(x, cap) if math.isfinite(x) else cap for x in losses]
    smooth = []
    for i in range(len(capped)):
        weights = [math.exp(-(((i - j) / _SMOOTHING) ** 2) / 2) for j in range(len(capped))]
        total = sum(w * x for w, x in zip(weights, capped, strict=True))
        smooth.append(total / sum(weights))
    return smooth


def _repeated(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, over and over."""
    empty = True
    while True:
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("a range test needs at least one batch")


def _diverged(losses: list[float]) -> bool:
    """Whether the last losses are, on average, ``_DIVERGED`` times the first or more."""
    few = 5
    return len(losses) > 2 * few and sum(losses[-few:]) > _DIVERGED * sum(losses[:few])
