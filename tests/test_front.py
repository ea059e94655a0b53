"""Fronts and hypervolume against definitions written out: pairs, unit cells, Optuna."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nas.candidate import Candidate, State
from nas.front import farthest_first, front_ranks, hypervolume, is_efficient, pareto, to_costs
from nas.task import Constraint, Objective

Floats = NDArray[np.float64]


@st.composite
def costs(draw: st.DrawFn, most: int = 25, low: int = 1, high: int = 4) -> Floats:
    """Few distinct values, so that ties and duplicates are common; sometimes real numbers."""
    shape = draw(st.tuples(st.integers(0, most), st.integers(low, high)))
    values = draw(st.sampled_from([st.integers(0, 4).map(float), st.floats(-1e6, 1e6)]))
    return draw(arrays(float, shape, elements=values))


def dominates(a: Floats, b: Floats) -> bool:
    return bool(np.all(a <= b) and np.any(a < b))


@given(costs())
def test_the_front_is_every_point_that_no_other_dominates(points: Floats) -> None:
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert is_efficient(points).tolist() == expected


@given(costs())
def test_ranks_peel_one_front_after_the_other(points: Floats) -> None:
    expected = np.full(len(points), -1)
    rank = 0
    while (left := np.flatnonzero(expected < 0)).size:
        for i in left:
            if not any(dominates(points[j], points[i]) for j in left):
                expected[i] = rank
        rank += 1
    assert front_ranks(points).tolist() == expected.tolist()


def test_infinite_costs_and_both_zeros_are_ordered_like_any_other() -> None:
    points = [[0.0, np.inf], [-0.0, np.inf], [np.inf, 0.0], [np.inf, np.inf], [-np.inf, 5.0]]
    assert is_efficient(points).tolist() == [False, False, True, False, True]
    assert is_efficient([[0.0, 1.0], [-0.0, 1.0]]).all()


@pytest.mark.parametrize("function", [is_efficient, front_ranks, farthest_first])
def test_no_points_give_an_empty_answer(function: Callable[[Any], NDArray[Any]]) -> None:
    assert function([]).shape == (0,)
    assert function(np.empty((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    "function",
    [is_efficient, front_ranks, farthest_first, lambda points: hypervolume(points, [1.0, 1.0])],
)
def test_nan_and_a_missing_axis_are_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match="a cost is NaN"):
        function([[0.0, 1.0], [np.nan, 0.5]])
    with pytest.raises(ValueError, match=r"\(points, objectives\), but got \(3,\)"):
        function([0.1, 0.2, 0.3])


# --- hypervolume -------------------------------------------------------------------


@given(st.integers(1, 4).flatmap(lambda m: costs(12, m, m)))
def test_hypervolume_of_whole_numbers_is_the_count_of_dominated_unit_cells(points: Floats) -> None:
    points = np.clip(np.round(points), 0, 5)
    side, objectives = 4, points.shape[1]
    cells = np.indices((side,) * objectives).reshape(objectives, -1).T  # lower corners
    dominated = np.any(np.all(points[None] <= cells[:, None], axis=2), axis=1)
    assert hypervolume(points, [side] * objectives) == pytest.approx(dominated.sum())


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_hypervolume_agrees_with_optuna(objectives: int, seed: int) -> None:
    reference_implementation = pytest.importorskip("optuna._hypervolume").compute_hypervolume
    rng = np.random.default_rng(seed)
    points = rng.random((30, objectives))
    reference = rng.uniform(0.6, 1.2, objectives)
    below = points[np.all(points <= reference, axis=1)]
    expected = reference_implementation(below, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, rel=1e-12)


@given(costs(10, 2, 4), st.randoms(use_true_random=False))
def test_hypervolume_does_not_depend_on_the_order_of_points_or_objectives(
    points: Floats, random: Any
) -> None:
    points = np.clip(points, -10, 10)
    reference = np.full(points.shape[1], 4.5)
    rows, columns = list(range(len(points))), list(range(points.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    expected = hypervolume(points, reference)
    assert hypervolume(points[rows][:, columns], reference) == pytest.approx(expected)


def test_a_point_on_or_beyond_the_reference_adds_nothing() -> None:
    assert hypervolume([[0.5, 0.5]], [1.0, 1.0]) == 0.25
    assert hypervolume([[0.5, 0.5], [0.0, 1.0], [-9.0, 2.0]], [1.0, 1.0]) == 0.25
    assert hypervolume([], [1.0, 1.0]) == 0.0


def test_a_reference_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 objectives, but got shape \(2,\)"):
        hypervolume(np.zeros((2, 3)), [1.0, 1.0])


# --- spread ------------------------------------------------------------------------


@given(costs())
def test_each_next_point_is_the_farthest_from_those_before_it(points: Floats) -> None:
    order = farthest_first(points).tolist()
    assert sorted(order) == list(range(len(points)))
    if not order:
        return
    assert points[order[0], 0] == points[:, 0].min()
    span = points.max(axis=0) - points.min(axis=0)
    scaled = np.divide(points - points.min(axis=0), span, where=span > 0, out=np.zeros_like(points))
    distances = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    for n in range(1, len(order)):
        to_chosen = distances[:, order[:n]].min(axis=1)
        assert to_chosen[order[n]] == pytest.approx(to_chosen[order[n:]].max())


def test_a_spread_order_takes_both_ends_of_a_front_before_its_middle() -> None:
    assert farthest_first([[0.4, 0.6], [1.0, 0.0], [0.0, 1.0], [0.05, 0.95]]).tolist()[:3] == [
        2,
        1,
        0,
    ]


def test_a_spread_order_does_not_depend_on_the_units_of_an_objective() -> None:
    points = np.random.default_rng(0).random((20, 3))
    scaled = points * [1.0, 1e6, 1e-3] + [0.0, 5.0, 2.0]
    assert farthest_first(points).tolist() == farthest_first(scaled).tolist()


# --- candidates --------------------------------------------------------------------

OBJECTIVES = (Objective("accuracy", "max"), Objective("params", "min"))


def candidate(number: int, accuracy: float, params: float, state: State) -> Candidate:
    metrics = {"accuracy": accuracy, "params": params}
    return Candidate(number, "mlp", {}, seed=0, state=state, metrics=metrics)


CANDIDATES = [
    candidate(0, 0.90, 100, State.COMPLETE),
    candidate(1, 0.95, 500, State.COMPLETE),
    candidate(2, 0.85, 200, State.COMPLETE),  # dominated by 0
    candidate(3, 0.99, 900, State.COMPLETE),
    candidate(4, 0.99, 10, State.PRUNED),
    candidate(5, 0.95, 500, State.COMPLETE),  # equal to 1
]


def test_costs_turn_what_is_better_high_into_what_is_better_low() -> None:
    assert to_costs(CANDIDATES[:2], OBJECTIVES).tolist() == [[-0.90, 100.0], [-0.95, 500.0]]
    assert to_costs([], OBJECTIVES).shape == (0, 2)


def test_the_pareto_front_holds_complete_candidates_best_in_the_first_objective_first() -> None:
    front = [c.number for c in pareto(CANDIDATES, OBJECTIVES)]
    assert front == [3, 1, 5, 0]
    assert [c.number for c in pareto(CANDIDATES, OBJECTIVES[::-1])] == [0, 1, 5, 3]


def test_a_candidate_outside_a_constraint_neither_joins_nor_shades_the_front() -> None:
    limits = (Constraint("params", "<=", 600), Constraint("accuracy", ">=", 0.91))
    assert [c.number for c in pareto(CANDIDATES, OBJECTIVES, limits)] == [1, 5]
    fast = candidate(6, 0.97, 550, State.COMPLETE)
    assert [c.number for c in pareto([fast, *CANDIDATES[3:4]], OBJECTIVES, limits)] == [6]
    assert pareto(CANDIDATES, OBJECTIVES, (Constraint("params", "<=", 1),)) == []
