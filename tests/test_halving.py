"""Which candidates are promoted at a rung, against a reference in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.plan import ETA, rungs
from nas.search.halving import is_promoted

COSTS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12
)
# The guess has the first cost, and none of the others.
GUESS = (2, -math.inf, -math.inf)


def dominates(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def order(costs: list[tuple[int, ...]]) -> list[int]:
    """All points, best first: front by front, inside a front the farthest next."""
    ordered: list[int] = []
    left = list(range(len(costs)))
    while left:
        front = [i for i in left if not any(dominates(costs[j], costs[i]) for j in left)]
        left = [i for i in left if i not in front]
        low = [min(costs[i][k] for i in front) for k in range(3)]
        span = [max(costs[i][k] for i in front) - low[k] or 1 for k in range(3)]
        place = {i: [(costs[i][k] - low[k]) / span[k] for k in range(3)] for i in front}
        chosen = [min(front, key=lambda i: (costs[i], i))]
        while len(chosen) < len(front):
            rest = [i for i in front if i not in chosen]
            gaps = {i: min(math.dist(place[i], place[j]) for j in chosen) for i in rest}
            chosen.append(max(rest, key=lambda i: (gaps[i], -i)))
        ordered += chosen
    return ordered


@given(COSTS, st.booleans())
def test_the_best_fraction_of_a_rung_and_its_front_are_promoted(
    costs: list[tuple[int, ...]], guessed: bool
) -> None:
    rivals = [*costs, GUESS] if guessed else costs
    front = [i for i, one in enumerate(costs) if not any(dominates(two, one) for two in rivals)]
    left = [i for i in range(len(costs)) if i not in front]
    room = max(0, len(costs) // ETA - len(front))
    best = front + [left[i] for i in order([costs[i] for i in left])[:room]]
    expected = [len(costs) < ETA or i in best for i in range(len(costs))]
    better = np.array([not guessed or first < GUESS[0] for first, *_ in costs])
    rows = np.asarray(costs, float)
    assert [is_promoted(rows, better, i) for i in range(len(costs))] == expected


def test_the_first_arrivals_pass_as_there_is_nothing_to_compare_with() -> None:
    costs = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    better = np.array([True, False, True])
    assert is_promoted(costs[:2], better[:2], 1)
    assert not is_promoted(costs, better, 1)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, ()), (2, ()), (3, ()), (5, (2,)), (8, (3,)), (10, (3,)), (18, (6,)), (27, (3, 9))],
)
def test_rungs_stand_at_a_ninth_and_a_third(epochs: int, expected: tuple[int, ...]) -> None:
    assert rungs(epochs) == expected
