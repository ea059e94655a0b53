"""Fronts and hypervolume against definitions written out: pairs, unit cells, Optuna."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from nas.candidate import Candidate, Cost, Latency, State
from nas.front import (
    CLEAR,
    Point,
    at_best,
    beats,
    best,
    best_at_equal_time,
    constant_guess,
    farthest_first,
    front_ranks,
    hypervolume,
    is_efficient,
    near_front,
    pareto,
    standard_error,
    to_costs,
    within_noise,
)
from nas.task import Constraint, DataProfile, Fidelity, Kind, Objective, Target, Task
from nas.testing import small_task

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
RNG = np.random.default_rng(0)


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


# --- the constant guess ------------------------------------------------------------

NAMES = ("a", "b", "c")


def guessing(target: Target, n_train: int = 1000, n_val: int = 400, share: float = 1.0) -> Task:
    profile = DataProfile(n_train, n_val, n_test=0, inputs={"numeric": (2,)})
    return Task("tabular", (target,), profile, fidelity=Fidelity(5, share)).with_objectives()


def simulated(kind: Kind, shares: Floats, samples: int) -> dict[str, Floats]:
    """Scores of 2,000 guesses by definition, each metric by the guess that is best for it."""
    classes = len(shares)
    each = np.arange(classes)
    if kind == "multilabel":  # where all labels come and go together, luck is largest
        asked = RNG.random((2000, samples, 1)) < shares
        pick = np.ones(classes, bool)
        right = np.where(shares > 0.5, asked, ~asked).mean(axis=(1, 2))
    else:
        truth = RNG.choice(classes, (2000, samples), p=shares)
        asked = truth[..., None] == each
        pick = each == (1 if classes == 2 else shares.argmax())
        right = asked[..., shares.argmax()].mean(axis=1)
    n = asked.sum(axis=1)
    f1 = np.where(pick, 2 * n / (n + samples), 0.0)
    scores = {"accuracy": right, "f1": f1[:, 1] if kind == "binary" else f1.mean(axis=1)}
    if kind != "multilabel":
        predicted = RNG.integers(classes, size=truth.shape)[..., None] == each
        ranks = 1 + RNG.random(truth.shape).argsort(axis=1)
        above = np.where(asked, ranks[..., None], 0).sum(axis=1) - n * (n + 1) / 2
        scores["balanced_accuracy"] = ((asked & predicted).sum(axis=1) / n).mean(axis=1)
        scores["auc"] = (above / (n * (samples - n)))[:, 1]
    return scores


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("binary", (700, 300)),
        ("multiclass", (200, 500, 300)),
        ("multilabel", (200, 500, 300)),
    ],
)
def test_a_guess_scores_as_simulated_ones_do(kind: Kind, counts: tuple[int, ...]) -> None:
    task = guessing(Target("y", kind, NAMES[: len(counts)], counts))
    guess = constant_guess(task)
    scores = simulated(kind, np.array(counts) / 1000, task.profile.n_val)
    assert guess.keys() == scores.keys()
    for metric, values in scores.items():
        lucky = values.mean() + CLEAR * values.std()
        assert guess[metric] == pytest.approx(lucky, abs=0.01), metric


def test_a_regression_by_chance_explains_less_than_a_lucky_guess() -> None:
    guess = constant_guess(guessing(Target("y", "regression")))["r2"]
    explained = np.array(
        [np.corrcoef(RNG.normal(size=400), RNG.normal(size=400))[0, 1] ** 2 for _ in range(4000)]
    )
    assert np.mean(explained > guess) == pytest.approx(0.0027, abs=0.002)  # beyond three sigmas


def test_fewer_samples_ask_for_more_and_the_first_of_five_folds_for_most() -> None:
    target = Target("y", "binary", ("no", "yes"), (500, 500))
    many, few = guessing(target), guessing(target, n_train=100, n_val=40)
    assert constant_guess(many)["accuracy"] == pytest.approx(0.5 + 1.5 / 400**0.5)
    assert constant_guess(many, first_fold=True) == constant_guess(many)
    assert constant_guess(few)["accuracy"] == pytest.approx(0.5 + 1.5 / 140**0.5)
    assert constant_guess(few, first_fold=True)["accuracy"] == pytest.approx(0.5 + 1.5 / 28**0.5)


def test_several_targets_are_guessed_each_and_on_average() -> None:
    targets = (Target("y", "binary", ("no", "yes"), (500, 500)), Target("z", "regression"))
    task = replace(guessing(targets[0]), targets=targets, objectives=()).with_objectives()
    guess = constant_guess(task)
    assert guess["score"] == pytest.approx((guess["accuracy[y]"] + guess["r2[z]"]) / 2)
    unknown = replace(task, targets=(Target("y", "binary", ("no", "yes")), targets[1]))
    assert set(constant_guess(unknown)) == {"r2[z]"}


def test_errors_are_judged_by_r2_and_what_is_not_known_of_a_guess_never_counts_against() -> None:
    def objectives(*metrics: str) -> list[Objective]:
        return [Objective(metric, "min") for metric in metrics]

    for metric in ("rmse", "mae", "r2"):
        assert not beats({metric: 1.0, "r2": 0.1}, objectives(metric, "params"), {"r2": 0.1})
        assert beats({metric: 1.0, "r2": 0.2}, objectives(metric, "params"), {"r2": 0.1})
        named = objectives(f"{metric}[rmse]")
        assert not beats({"r2[rmse]": 0.1}, named, {"r2[rmse]": 0.1})
    assert beats({"val_loss": 9.0, "r2": 0.0}, objectives("val_loss"), {"r2": 0.1})
    both = objectives("accuracy", "auc")
    assert beats({"accuracy": 0.5, "auc": 0.8}, both, {"accuracy": 0.6, "auc": 0.6})
    assert not beats({"accuracy": 0.5, "auc": 0.5}, both, {"accuracy": 0.6, "auc": 0.6})


def test_a_guess_dominates_what_is_no_better_unless_that_is_all_there_is() -> None:
    cheap = candidate(7, 0.55, 1, State.COMPLETE)
    assert [c.number for c in pareto([*CANDIDATES, cheap], OBJECTIVES)] == [3, 1, 5, 0, 7]
    guess = {"accuracy": 0.6}
    assert [c.number for c in pareto([*CANDIDATES, cheap], OBJECTIVES, (), guess)] == [3, 1, 5, 0]
    assert [c.number for c in pareto([cheap], OBJECTIVES, (), guess)] == [7]


# -- noise ---------------------------------------------------------------------------------


def measured(number: int, accuracy: float, latency_ms: float, params: float) -> Candidate:
    latency = Latency(ms=latency_ms, iqr_ms=0.02, isolated=True, device="cpu", threads=1, batch=1)
    return Candidate(
        number=number,
        family="mlp",
        config={},
        seed=0,
        state=State.COMPLETE,
        metrics={"accuracy": accuracy, "latency_ms": latency_ms, "params": params},
        cost=Cost(latency=latency),
    )


def noisy_task() -> Task:
    """400 samples score it: a standard error of two points at an accuracy of 0.8."""
    task = small_task().with_objectives()
    return replace(task, profile=replace(task.profile, n_val=400))


def test_a_point_that_is_on_the_front_by_noise_alone_is_within_noise_of_a_clear_one() -> None:
    points = [
        measured(0, 0.80, 1.000, 100.0),
        measured(1, 0.79, 0.995, 300.0),  # faster by less than the spread
        measured(2, 0.70, 0.500, 50.0),  # worse and faster, both clearly
        measured(3, 0.71, 0.505, 49.0),  # as 2, and smaller
    ]
    assert within_noise(points, noisy_task()) == {1: 0, 2: 3}


def test_the_best_quality_always_stays_on_the_front() -> None:
    points = [measured(0, 0.80, 1.0, 300.0), measured(1, 0.79, 1.0, 100.0)]
    assert within_noise(points, noisy_task()) == {}
    assert within_noise([], noisy_task()) == {}


@given(
    st.lists(
        st.tuples(st.floats(0.5, 1.0), st.floats(0.1, 2.0), st.integers(1, 9)), min_size=1,
        max_size=12,
    )
)  # fmt: skip
def test_what_is_left_of_a_front_covers_all_that_is_left_out(points: list[Any]) -> None:
    task = noisy_task()
    front = pareto([measured(i, *p) for i, p in enumerate(points)], task.objectives)
    noise = within_noise(front, task)
    left = [c for c in front if c.number not in noise]
    assert left
    assert set(noise) <= {c.number for c in front}
    assert best(front, task.quality) in left


@given(
    st.lists(st.tuples(*[st.integers(1, 5)] * 3, st.booleans()), max_size=12),
    st.sampled_from([(), ("latency_ms<=2",), ("latency_ms<=0.5",)]),
)
@example([(2, 3, 1, False), (2, 3, 2, False), (1, 1, 1, False)], ("latency_ms<=2",))
def test_the_front_and_what_another_latency_may_bring_there_is_found_one_by_one(
    points: list[Any], limits: tuple[str, ...]
) -> None:
    task = replace(noisy_task(), constraints=tuple(map(Constraint.parse, limits)))
    found = []
    for i, (accuracy, ms, params, isolated) in enumerate(points):
        cost = Cost(Latency(float(ms), 0.0, isolated=isolated, threads=1, batch=1))
        found.append(replace(measured(i, accuracy / 6, float(ms), params), cost=cost))
    rules = task.objectives, task.constraints, constant_guess(task)
    given = [Point.of(c, task, rules[-1]) for c in found]
    front, near = pareto(found, *rules), [point.candidate for point in near_front(given)]
    if not front:
        return
    assert {c.number for c in near[: len(front)]} == {c.number for c in front}
    for c in found:
        low = at_best(c)
        others = [f for f in front if f.number != c.number]
        assert (c in near) == (low in pareto([low, *others], *rules) and _counts(c, front, task))
    one_by_one: list[Point] = []
    for point in given:
        one_by_one = near_front([*one_by_one, point])
    assert [point.candidate.number for point in one_by_one] == [c.number for c in near]


def _counts(candidate: Candidate, front: list[Candidate], task: Task) -> bool:
    """Whether it is better than a guess, or no point of the front is."""
    guess = constant_guess(task)
    better = [beats(c.metrics, task.objectives, guess) for c in (candidate, *front)]
    return better[0] or not any(better)


def test_a_standard_error_is_that_of_the_samples_that_score() -> None:
    task = noisy_task()
    assert standard_error(task, "accuracy", 0.8) == pytest.approx(0.02)
    assert standard_error(task, "rmse", 4.0) == pytest.approx(0.2)
    assert standard_error(task, "r2", 0.5) == pytest.approx(0.05)
    assert standard_error(task, "accuracy", 0.8, 1600) == pytest.approx(0.01)  # a full training's
    rng = np.random.default_rng(0)
    hits = rng.random((2_000, 400)) < 0.8
    assert hits.mean(axis=1).std() == pytest.approx(standard_error(task, "accuracy", 0.8), rel=0.1)


def test_groups_are_compared_when_both_have_used_the_same_time() -> None:
    quality = Objective("accuracy", "max")

    def made(number: int, started: float, seconds: float, value: float) -> Candidate:
        state = State.COMPLETE if value else State.FAILED
        metrics = {"accuracy": value}
        return Candidate(number, "mlp", {}, 0, state=state, metrics=metrics, started=started,
                         seconds=seconds)  # fmt: skip

    one = [made(0, 0.0, 10.0, 0.7), made(1, 10.0, 20.0, 0.8)]
    other = [made(2, 0.0, 20.0, 0.6), made(3, 20.0, 5.0, 0.0), made(4, 30.0, 99.0, 0.9)]
    found = best_at_equal_time(one, other, quality)
    assert found is not None
    assert [c.number for c in found[:2]] == [1, 2], "0.9 came after 30 s"
    assert found[2] == 30.0
    assert best_at_equal_time(one, other[1:2], quality) is None
    assert best_at_equal_time(one, [], quality) is None
