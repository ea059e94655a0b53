"""The learning-rate range test: its curve, what it says, and the bounds that follow."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from nas import rules
from nas.space import Float
from nas.training.lr import RangeTest, WarmupCosine, judge, range_test

Batch = tuple[Tensor, Tensor]
RATES = [10 ** (-5 + 5 * i / 99) for i in range(100)]


def problem(seed: int = 0) -> tuple[nn.Module, list[Batch]]:
    """A small network and batches of a function that it can learn."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.randn(640, 8)
    y = torch.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    return network, list(zip(x.split(64), y.split(64), strict=True))


def swept(network: nn.Module, batches: list[Batch], **given: float) -> RangeTest:
    return range_test(network, lambda b: F.mse_loss(network(b[0]), b[1]), batches, **given)  # type: ignore[arg-type]


def test_the_curve_is_that_of_adamw_by_hand() -> None:
    network, batches = problem()
    found = swept(network, batches, low=1e-4, high=1e-1, steps=25, weight_decay=0.01, clip=0.5)
    network, batches = problem()
    p = list(network.parameters())
    m, v = [torch.zeros_like(q) for q in p], [torch.zeros_like(q) for q in p]
    for step, (x, y) in enumerate(islice(batches * 3, 25)):
        rate = 1e-4 * 10 ** (3 * step / 24)
        loss = ((network(x) - y) ** 2).mean()
        assert found.rates[step] == pytest.approx(rate)
        assert found.losses[step] == pytest.approx(float(loss.detach()), rel=1e-4)
        gradients = torch.autograd.grad(loss, p)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        for i, g in enumerate(gradients):
            clipped = g * min(1.0, 0.5 / norm)
            m[i] = 0.9 * m[i] + 0.1 * clipped
            v[i] = 0.999 * v[i] + 0.001 * clipped**2
            first, second = m[i] / (1 - 0.9 ** (step + 1)), v[i] / (1 - 0.999 ** (step + 1))
            with torch.no_grad():
                p[i].mul_(1 - rate * 0.01).sub_(rate * first / (second.sqrt() + 1e-8))


def test_the_same_start_and_batches_give_the_same_curve() -> None:
    assert swept(*problem(1)) == swept(*problem(1)) != swept(*problem(2))


def test_a_tenth_of_the_rate_of_least_loss_trains_better_than_rates_far_from_it() -> None:
    found = swept(*problem())
    assert found.lowest is not None

    def trained(rate: float) -> float:
        network, batches = problem()
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
        for x, y in batches * 10:
            optimizer.zero_grad()
            F.mse_loss(network(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            return sum(float(F.mse_loss(network(x), y)) for x, y in batches)

    assert trained(found.lowest / 10) < min(trained(found.lowest / 1e3), trained(found.lowest * 10))


def test_what_a_curve_says_is_where_it_was_made_to_say_so() -> None:
    # It falls by a logistic about 1e-3, and comes back by another about 1e-1.
    def loss(rate: float) -> float:
        x = math.log10(rate)
        return 2 - 1.5 / (1 + math.exp(-6 * (x + 3))) + 1.5 / (1 + math.exp(-6 * (x + 1)))

    found = judge(RATES, [loss(rate) for rate in RATES])
    assert found.steepest == pytest.approx(1e-3, rel=0.15)
    assert found.lowest == pytest.approx(1e-2, rel=0.15)
    assert found.diverges == pytest.approx(1e-1, rel=0.15)


def test_a_loss_that_hardly_falls_says_nothing_but_where_it_rises() -> None:
    flat = [2.3 + 0.05 * (-1) ** i for i in range(80)]
    found = judge(RATES, [*flat, *(2.3 * 1.1**i for i in range(20))])
    assert found.steepest is found.lowest is None
    assert found.diverges == pytest.approx(RATES[81], rel=0.5)
    assert judge(RATES[:80], flat).diverges is None


def test_it_ends_where_the_loss_is_lost_or_not_a_number() -> None:
    network, batches = problem()
    found = swept(network, batches, high=1e4)
    assert len(found.rates) < 100
    assert found.diverges is not None
    assert found.losses[-1] > 2 * found.losses[0]
    network, batches = problem()
    broken = swept(network, [(x * math.nan, y) for x, y in batches])
    assert len(broken.rates) == 1
    assert broken.steepest is broken.lowest is None
    assert broken.diverges == broken.rates[0]


def test_without_a_batch_it_raises() -> None:
    network, _ = problem()
    with pytest.raises(ValueError, match="at least one batch"):
        swept(network, [])


@given(st.floats(1e-7, 1e2), st.floats(1e-5, 1.0), st.floats(1.5, 50.0))
def test_the_bounds_after_a_test_hold_a_default_near_what_it_found(
    own: float, lowest: float, spread: float
) -> None:
    rate = Float("lr", own / spread, own * spread, default=own, log=True, why=("a",))
    after = rules.tested_rate(rate, lowest)
    assert after.low <= after.default <= after.high <= max(lowest, after.default)
    assert after.high <= lowest
    apart = 10 * after.default / lowest
    assert 1 / rules.RATE_TOLERANCE * 0.999 <= apart <= rules.RATE_TOLERANCE * 1.001
    if (
        1 / rules.RATE_TOLERANCE < 10 * own / lowest < rules.RATE_TOLERANCE
    ):  # what agrees is left alone
        assert after.default == own
    assert after.why == ("a", "learning-rate-first")


@pytest.mark.parametrize("earlier", [{}, {"total_steps": 12}], ids=["now", "of an earlier version"])
def test_a_training_that_continues_without_its_limit_of_time_has_its_whole_schedule(
    earlier: dict[str, int],
) -> None:
    def stepped(schedule: WarmupCosine, steps: int) -> WarmupCosine:
        for _ in range(steps):
            schedule.optimizer.step()
            schedule.step()
        return schedule

    optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0) for _ in range(3)]
    whole, shortened, again = (WarmupCosine(each, 100, warmup_steps=5) for each in optimizers)
    stepped(shortened, 8).end_after(4)
    again.load_state_dict(shortened.state_dict() | earlier)
    assert stepped(again, 10).get_last_lr() == stepped(whole, 18).get_last_lr()
    assert stepped(shortened, 4).get_last_lr() == pytest.approx([0.01])
