"""Learning-rate schedules, stepped once per optimiser step."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up from zero, then half a cosine down to ``final`` of the base rate.

    Loshchilov & Hutter 2017, "SGDR", eq. 5 without restarts; warm-up as in Goyal et al.
    2017, sec. 2.2.
    """

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_steps: int, final: float = 0.01
    ) -> None:
        def factor(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))

        super().__init__(optimizer, factor)
