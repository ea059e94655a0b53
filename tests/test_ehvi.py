"""The model-based sampler against closed forms, simulation, and searches of formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from nas.candidate import Candidate, Cost, Latency, State
from nas.front import hypervolume, to_costs
from nas.search import ehvi
from nas.search.classic import EvolutionSampler, needs_initial_design
from nas.search.ehvi import Ehvi, EhviSampler, Ranking, Scale
from nas.search.samplers import History, Shortlist, resolve
from nas.search.study import Study
from nas.search.surrogate import JITTER, Encoding, GaussianProcess
from nas.space import Choice, Config, Float, Int, Space, join_family, split_family
from nas.task import Budget, Constraint, DataProfile, Target, Task, UsageError
from nas.testing import formula, small_spaces, small_task

SPACES = small_spaces()
SPACE = Space.join(SPACES)
PLACES = st.floats(0, 1, width=32)


# -- the improvement ----------------------------------------------------------------------


@pytest.mark.parametrize("level", [-0.5, 0.3, 2.0])
def test_expected_improvement_is_the_mean_over_draws(level: float) -> None:
    mean, std = np.array([0.2, 1.5]), np.array([0.7, 0.1])
    rng = np.random.default_rng(0)
    errors = np.exp(-rng.normal(mean, std, size=(400_000, 2)))
    drawn = np.maximum(math.exp(-level) - errors, 0).mean(axis=0)
    found = ehvi.expected_improvement(mean, std, np.array([level]))[:, 0]
    assert found == pytest.approx(drawn, abs=2e-3)


@pytest.mark.parametrize("costs", [0, 1, 2, 3])
def test_expected_hypervolume_improvement_is_the_mean_gain_over_draws(costs: int) -> None:
    rng = np.random.default_rng(costs)
    values, scaled = rng.normal(0.5, 0.6, size=9), rng.random((9, costs)) * 1.2
    mean, std, own = np.array([0.4, 1.2]), np.array([0.5, 0.3]), rng.random((2, costs)) * 0.7
    reference = 0.0
    corner = np.append(math.exp(-reference), np.ones(costs))
    front = np.column_stack([np.exp(-values), scaled])
    before = hypervolume(front, corner)
    found = ehvi.expected_hypervolume_improvement(mean, std, own, values, scaled, reference)
    for i in range(2):
        gains = []
        for value in rng.normal(mean[i], std[i], size=1500):
            point = np.append(math.exp(-value), own[i])
            gains.append(hypervolume(np.vstack([front, point]), corner) - before)
        error = 4 * np.std(gains) / math.sqrt(len(gains)) + (0.02 if costs == 3 else 1e-6)
        assert found[i] == pytest.approx(np.mean(gains), abs=error)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3).flatmap(lambda k: arrays(float, (6, k), elements=PLACES)))
def test_a_free_volume_is_what_a_point_adds_to_a_hypervolume(points: Any) -> None:
    own, taken = points[:1], points[1:]
    one = np.ones(points.shape[1])
    expected = hypervolume(points, one) - hypervolume(taken, one)
    tolerance = 1e-9 if points.shape[1] < 3 else 0.05
    assert ehvi.free_volume(own, taken)[0] == pytest.approx(expected, abs=tolerance)


def test_costs_are_scaled_by_the_logarithm_where_they_lie_more_evenly_there() -> None:
    widths = np.array([1e3, 3e3, 1e4, 3e4, 1e5, 3e5])
    scale = Scale.of(widths)
    assert scale(np.array([1e3, 1e4])) == pytest.approx([0, math.log(10) / math.log(300) / 1.1])
    even = Scale.of(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert even(np.array([1.0, 3.0])) == pytest.approx([0, 2 / 4.4])
    assert Scale.of(widths, limit=1e4)(np.array([1e4]))[0] == pytest.approx(1)
    assert np.all(np.isfinite(Scale.of(np.array([0.0, 0.0]))(np.array([0.0, 1.0]))))


# -- when a model begins ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampled", "seconds", "begins"),
    [(1, 20.0, True), (2, 20.0, False), (2, 1.0, True), (0, 40.0, False), (0, 30.0, True)],
)
def test_the_more_time_is_spent_the_fewer_draws_are_needed(
    sampled: int, seconds: float, begins: bool
) -> None:
    made = replace(small_task(), budget=Budget(300.0, workers=1))
    kinds = ["baseline"] * 3 + ["sampled"] * sampled
    rows = [
        Candidate(i, "mlp", {}, seed=i, origin=kind, state=State.COMPLETE, seconds=seconds)  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    ]
    assert len(SPACES) == 2
    assert needs_initial_design(SPACE, made, rows) == begins
    assert needs_initial_design(SPACE, replace(made, budget=Budget(None, trials=9)), rows)


# -- the process --------------------------------------------------------------------------


def test_a_process_of_one_parameter_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    x, y, new = rng.random((25, 1)), rng.normal(size=25), rng.random((7, 1))
    weight, share = 3.0, 0.2
    mine = GaussianProcess(x, y, np.zeros(1, np.intp), np.ones(25), 0.05)
    mean, std = mine.condition(np.log([weight, share])).predict(new)
    kernel = Matern(1 / weight, nu=0.5) + WhiteKernel(share + JITTER)
    other = GaussianProcessRegressor(kernel, optimizer=None, alpha=0)
    other.fit(x, (y - np.median(y)) / np.std(y))
    theirs, their_std = other.predict(new, return_std=True)
    assert mean == pytest.approx(theirs * np.std(y) + np.median(y))
    # Theirs has a signal of one and adds the noise; ours is at the signal's best and has none.
    signal = (mine._alpha @ mine.y) / 25
    expected = np.sqrt((their_std**2 - share - JITTER) * signal) * np.std(y)
    assert std == pytest.approx(expected, rel=1e-5)


def test_the_posterior_of_the_weights_has_the_gradient_of_its_differences() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.random((20, 3)), rng.normal(size=20)
    process = GaussianProcess(x, y, np.array([0, 1, 1]), rng.random(20) + 1, 0.05)
    apart = np.abs(x[:, None] - x[None]).transpose(2, 0, 1)
    apart = np.stack([apart[0], apart[1] + apart[2]])
    at = [lambda t, i=i: process._loss(t, apart, process.y, process.noise)[i] for i in (0, 1)]
    for _ in range(5):
        assert check_grad(*at, rng.normal(-1, 1, size=3)) < 1e-4


def test_a_process_finds_the_parameter_that_matters() -> None:
    rng = np.random.default_rng(3)
    x = rng.random((120, 4))
    y = np.sin(6 * x[:, 2])
    process = GaussianProcess(x, y, np.arange(4), np.ones(120), 1e-3)
    theta = process.fitted()
    assert theta[2] > max(theta[[0, 1, 3]]) + 1
    new = rng.random((50, 4))
    mean, std = process.condition(theta).predict(new)
    assert np.abs(mean - np.sin(6 * new[:, 2])).mean() < 0.1
    assert np.all(std > 0)


def test_what_is_awaited_changes_no_mean_and_leaves_the_deviation_of_a_process_that_knows_it() -> (
    None
):
    rng = np.random.default_rng(4)
    x, awaited, new = (rng.random((n, 3)) for n in (30, 7, 20))
    y, theta = x.sum(axis=1), np.log([2.0, 0.5, 1.0, 0.05])
    process = GaussianProcess(x, y, np.arange(3), np.ones(30), 0.05).condition(theta)
    mean, std = process.predict(new)
    same_mean, less = process.awaiting(process.at(awaited)).predict(new)
    assert same_mean == pytest.approx(mean)
    believed = np.append(y, process.predict(awaited)[0])
    rows = np.concatenate([x, awaited])
    whole = GaussianProcess(rows, believed, np.arange(3), np.ones(37), 0.05).condition(theta)
    ratio = math.sqrt(process._signal / whole._signal) * process.spread / whole.spread
    assert less == pytest.approx(whole.predict(new)[1] * ratio)
    assert np.all(less <= std)
    again, none = process.awaiting(process.at(awaited)).predict(awaited)
    assert again == pytest.approx(believed[30:])
    assert np.all(none < 0.7 * process.predict(awaited)[1])


def test_an_encoding_distinguishes_all_configurations_and_puts_numbers_in_order() -> None:
    space = Space(
        (
            Choice("norm", ("batch", "layer", "none"), "batch"),
            Choice("kernel", (7, 3, 5), 3),
            Int("depth", 1, 5, 2),
            Float("rate", 1e-4, 1e-1, 1e-2, log=True, when={"norm": ("none",)}),
            Int("fixed", 3, 3, 3),
        )
    )
    encode = Encoding(space)
    assert encode.groups.tolist() == [0, 0, 0, 1, 2, 3, 3]
    base: Config = {"norm": "none", "kernel": 3, "depth": 1, "rate": 1e-4, "fixed": 3}
    rows = encode(
        [
            base,
            base | {"kernel": 5, "depth": 3},
            base | {"kernel": 7, "depth": 5, "rate": 1e-1},
            {"norm": "layer", "kernel": 3, "depth": 1, "fixed": 3},
        ]
    )
    assert rows[:3, 3].tolist() == [0, 0.5, 1]
    assert rows[:3, 4].tolist() == [0, 0.5, 1]
    assert rows[:, 5].tolist() == [0, 0, 1, 0.5]
    apart = np.abs(rows[:, None] - rows[None]).sum(axis=2)
    assert np.all(apart[~np.eye(4, dtype=bool)] > 0)
    assert apart[0, 3] == pytest.approx(1 + 1)  # another name, and a rate that does not apply


def test_numbers_beside_a_name_are_names() -> None:
    """As "auto" has no place among them."""
    for options in ((3, 5, "auto"), ("auto", 3, 5)):
        encode = Encoding(Space((Choice("heads", options, 3),)))
        rows = encode([{"heads": option} for option in options])
        apart = np.abs(rows[:, None] - rows[None]).sum(axis=2)
        assert np.array_equal(apart, 1 - np.eye(3))


# -- searches -----------------------------------------------------------------------------


def search(folder: Path, trials: int, task: Task, sampler: str = "ehvi", **changes: Any) -> Study:
    study = Study(folder, task, SPACE, sampler=sampler)
    study.enqueue_baselines({name: space.starts() for name, space in SPACES.items()})
    for config in study.sampler.to_measure():
        figures = formula(split_family(config)[1], 1)
        study.sampler.learn_costs([config], [{m: figures[m] for m in ("latency_ms", "params")}])
    while study.spent < trials:
        candidate = study.ask()
        assert candidate is not None
        end(study, candidate, **changes)
    study.close()
    return study


def end(study: Study, candidate: Candidate, doomed: str = "") -> None:
    if doomed and candidate.config.get("norm") == doomed:
        study.tell(replace(candidate, state=State.PRUNED, reason="nan"))
        return
    for epoch in range(1, candidate.epochs + 1):
        if study.report(candidate.number, epoch, formula(candidate.config, epoch)):
            state, reason = State.PRUNED, "halving"
            break
    else:
        state, reason = State.COMPLETE, ""
    study.tell(replace(study[candidate.number], state=state, reason=reason))


def complete(count: int, rng: np.random.Generator) -> list[Candidate]:
    """Candidates drawn by chance, trained to the end."""
    drawn = [split_family(SPACE.sample(rng)) for _ in range(count)]
    return [
        Candidate(i, family, config, seed=0, state=State.COMPLETE, metrics=formula(config, 1))
        for i, (family, config) in enumerate(drawn)
    ]


def volume(study: Study) -> float:
    low, high = np.array([-1.0, 0.0, 2.0]), np.array([0.0, 5.0, 6.0])
    costs = to_costs(study.front(), study.task.objectives)
    costs[:, 2] = np.log10(costs[:, 2])
    return hypervolume((costs - low) / (high - low), np.ones(3))


def test_it_covers_more_than_chance_does(tmp_path: Path) -> None:
    mine, chance = [], []
    for seed in range(3):
        task = small_task(epochs=1, seed=seed)
        folders = [tmp_path / f"{name}{seed}" for name in ("mine", "chance")]
        for folder in folders:
            folder.mkdir()
        mine.append(volume(search(folders[0], 35, task)))
        chance.append(volume(search(folders[1], 35, task, sampler="random")))
    assert np.mean(mine) > np.mean(chance)


def test_a_limit_on_a_cost_is_kept_by_nearly_all_it_asks_for(tmp_path: Path) -> None:
    task = small_task(epochs=1, constraints=["params<=3000"])
    asked = search(tmp_path, 40, task).candidates()
    late = [c for c in asked if c.origin == "sampled"][8:]
    kept = [c for c in late if formula(c.config, 1)["params"] <= 3000]
    assert len(kept) >= 0.85 * len(late)
    rng = np.random.default_rng(0)
    chance = [formula(split_family(SPACE.sample(rng))[1], 1)["params"] <= 3000 for _ in range(300)]
    assert np.mean(chance) < 0.5, "chance keeps it too, so that this test says nothing"


def test_it_leaves_alone_what_fails(tmp_path: Path) -> None:
    study = search(tmp_path, 40, small_task(epochs=1), doomed="none")
    late = [c for c in study.candidates() if c.origin == "sampled"][16:]
    assert np.mean([c.config.get("norm") == "none" for c in late]) <= 0.15


def test_shortlists_of_workers_that_are_idle_at_once_differ(tmp_path: Path) -> None:
    search(tmp_path, 30, small_task(epochs=1))
    study = Study(tmp_path, small_task(epochs=1), SPACE, sampler="ehvi")
    out: list[Shortlist] = []
    while len(out) < 3:
        listed = study.sampler.shortlist(study.history(), out)
        assert listed is not None
        out.append(listed)
    study.close()
    listed_configs = [config for listed in out for config in listed.configs]
    assert len({str(c) for c in listed_configs}) > 0.8 * len(listed_configs)
    x = Encoding(SPACE)([listed.configs[0] for listed in out])
    assert np.abs(x[:, None] - x[None]).sum(axis=2)[np.triu_indices(3, 1)].min() > 0.02


def test_what_was_tried_is_on_no_shortlist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(tmp_path, 30, small_task(epochs=1))
    study = Study(tmp_path, small_task(epochs=1), SPACE, sampler="ehvi")
    listed = study.sampler.shortlist(study.history())
    assert isinstance(listed, Ranking)
    tried = [join_family(c.family, c.config) for c in study.candidates()]
    proposed = replace(listed, configs=[*tried, *listed.configs])
    monkeypatch.setattr(Ehvi, "propose", lambda *_: proposed)
    again = study.sampler.shortlist(study.history())
    study.close()
    assert again is not None
    assert again.configs == listed.configs


def test_a_shortlist_may_take_a_twentieth_of_a_training() -> None:
    seconds = (10.0, 30.0) * 4
    rows = complete(8, np.random.default_rng(0))
    rows = [replace(c, seconds=s) for c, s in zip(rows, seconds, strict=True)]

    def limit_s(time_limit_s: float | None) -> float | None:
        budget = Budget(time_limit_s, trials=50)
        sampler = EhviSampler(SPACE, replace(small_task(epochs=1), budget=budget))
        found = (sampler.shortlist(History(rows, number)) for number in range(9))
        return next(f.limit_s for f in found if f is not None)

    assert limit_s(600.0) == pytest.approx(1.0)
    assert limit_s(None) is None  # time is no limit


def test_workers_that_ask_at_once_are_not_sent_to_one_place(tmp_path: Path) -> None:
    search(tmp_path, 30, small_task(epochs=1))
    study = Study(tmp_path, small_task(epochs=1), SPACE, sampler="ehvi")
    asked = [study.ask() for _ in range(4)]
    study.close()
    x = Encoding(SPACE)([join_family(c.family, c.config) for c in asked if c])
    apart = np.abs(x[:, None] - x[None]).sum(axis=2)[np.triu_indices(4, 1)]
    assert apart.min() > 0.02


def test_a_shortlist_is_ranked_anew_by_the_costs_that_are_measured() -> None:
    task = small_task(epochs=1, constraints=["params<=20000"])
    rng = np.random.default_rng(0)
    listed = Ehvi(SPACE, task).propose(complete(30, rng), [], rng)
    assert listed.ranked([]) == listed.configs
    costs = [
        {m: formula(split_family(c)[1], 1)[m] for m in ("latency_ms", "params")}
        for c in listed.configs[:4]
    ]
    assert sorted(map(str, listed.ranked(costs)[:4])) == sorted(map(str, listed.configs[:4]))
    assert listed.ranked(costs)[4:] == listed.configs[4:]
    cheap = [
        c | {"params": 50.0, "latency_ms": 0.001} if i == 3 else c for i, c in enumerate(costs)
    ]
    assert listed.ranked(cheap)[0] == listed.configs[3]
    over = [c | {"params": 30000.0} if i == 0 else c for i, c in enumerate(costs)]
    assert listed.ranked(over)[3] == listed.configs[0]


@pytest.mark.parametrize("limit", ["flops<=3000", "flops>=3000"])
def test_an_improvement_counts_by_the_probability_to_keep_a_limit(limit: str) -> None:
    task = small_task(epochs=1, objectives=["accuracy", "latency_ms"], constraints=[limit])
    rng = np.random.default_rng(0)
    listed = Ehvi(SPACE, task).propose(complete(40, rng), [], rng)
    posterior, drawn = listed.posterior, [SPACE.sample(rng) for _ in range(30)]
    x, model = listed.encode(drawn), posterior.costs["flops"]
    mean, std = model.process.predict(x)
    flops = np.exp(rng.normal(mean, std, size=(20_000, len(x)))) - model.offset
    kept = np.mean(flops <= 3000 if "<=" in limit else flops >= 3000, axis=0)
    assert 0.2 < kept.mean() < 0.8, "a chance of nearly all or none says nothing"
    free = replace(posterior, limits=[]).acquisition(x)
    assert posterior.acquisition(x) == pytest.approx(free * kept, abs=0.02 * free.max())
    # What was measured is kept or not, whatever was predicted.
    known = [{"flops": n} for n in np.resize([2999.0, 3001.0], len(x))]
    kept = np.resize([1.0, 0.0] if "<=" in limit else [0.0, 1.0], len(x))
    assert posterior.acquisition(x, known) == pytest.approx(free * kept)


def test_what_misses_a_limit_takes_no_volume_and_is_no_parent() -> None:
    task = small_task(epochs=1, constraints=["params<=5000", "accuracy>=0.65"])
    rng = np.random.default_rng(0)
    rows = complete(40, rng)
    posterior = Ehvi(SPACE, task).propose(rows, [], rng).posterior
    feasible = [c for c in rows if c.feasible(task.constraints)]
    assert 3 < len(feasible) < 37
    assert sorted(posterior.values) == pytest.approx(
        sorted(-math.log(1 - c.metrics["accuracy"]) for c in feasible)
    )
    joined = [join_family(c.family, c.config) for c in feasible]
    assert posterior.front
    assert all(parent in joined for parent in posterior.front)
    # What does not reach the limit on quality adds nothing.
    assert posterior.reference == pytest.approx(-math.log(0.35))


@pytest.mark.parametrize("objectives", [["accuracy"], ["accuracy", "params"]])
def test_where_nothing_reaches_a_limit_yet_it_still_proposes(objectives: list[str]) -> None:
    task = small_task(epochs=1, objectives=objectives, constraints=["accuracy>=0.9999"])
    rng = np.random.default_rng(0)
    assert Ehvi(SPACE, task).propose(complete(20, rng), [], rng).configs


@pytest.mark.parametrize("awaited", [False, True])
def test_what_is_pending_has_little_expected_improvement_left(awaited: bool) -> None:
    task, rng = small_task(epochs=1), np.random.default_rng(0)
    rows, model = complete(30, rng), Ehvi(SPACE, small_task(epochs=1))
    before = model.propose(rows, [], np.random.default_rng(1))
    best = before.configs[0]
    family, config = split_family(best)
    running = Candidate(30, family, config, seed=0, state=State.RUNNING)
    pending = ([best],) if awaited else ()
    now = Ehvi(SPACE, task).propose(
        rows if awaited else [*rows, running], [], np.random.default_rng(1), *pending
    )
    x = before.encode([best])
    assert now.posterior.acquisition(x)[0] < 0.3 * before.posterior.acquisition(x)[0]
    assert now.configs[0] != best


@pytest.mark.parametrize(
    ("counts", "running", "made"),
    [
        ((200, 201, 202), 0, 1),
        ((200, 201, 203), 0, 2),
        ((50, 50, 51), 0, 3),
        ((5000, 5020, 5021), 0, 2),
        ((50, 51, 58, 59), 64, 2),
        ((50, 51, 52), 4, 3),
    ],
    ids=[
        "a hundredth", "more than that", "few candidates", "at most twenty",
        "an eighth of many in training", "few in training",
    ],
)  # fmt: skip
def test_models_of_many_candidates_lag_a_little_behind(
    counts: tuple[int, ...], running: int, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, rng = small_task(epochs=1, objectives=["accuracy"]), np.random.default_rng(0)
    model, rows = Ehvi(SPACE, task), complete(30, rng)
    posterior, calls = model._posterior(rows, [], False), []
    monkeypatch.setattr(model, "_posterior", lambda *_: calls.append(1) or posterior)
    for count in counts:
        more = [replace(rows[i % 30], number=i) for i in range(count)]
        more += [replace(row, number=count, state=State.RUNNING) for row in (rows * 3)[:running]]
        model.propose(more, [], rng)
    assert len(calls) == made


def test_what_ended_since_the_models_were_made_is_not_proposed_again() -> None:
    task, rng = small_task(epochs=1), np.random.default_rng(0)
    rows, model = complete(150, rng), Ehvi(SPACE, task)
    before = model.propose(rows, [], rng)
    family, config = split_family(best := before.configs[0])
    ended = Candidate(150, family, config, seed=0, state=State.COMPLETE, metrics=formula(config, 1))
    now = model.propose([*rows, ended], [], rng)
    assert now.configs[0] != best
    assert set(map(str, now.configs)) == set(map(str, before.configs))


def test_many_rows_are_thinned_to_the_latest_and_evenly_many_before() -> None:
    assert ehvi._subsample(list(range(5)), 8) == [0, 1, 2, 3, 4]
    assert ehvi._subsample(list(range(104)), 8) == [0, 33, 66, 99, 100, 101, 102, 103]


def test_weights_are_fitted_anew_however_many_rows_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ehvi, "MODEL_ROWS", 20)
    fits: list[int] = []
    fitted = GaussianProcess.fitted
    monkeypatch.setattr(
        GaussianProcess, "fitted", lambda self: fits.append(len(self.x)) or fitted(self)
    )
    task, rng = small_task(epochs=1, objectives=["accuracy"]), np.random.default_rng(0)
    model, rows = Ehvi(SPACE, task), complete(80, rng)
    counts = []
    for count in (20, 40, 41, 80):
        model.propose(rows[:count], [], rng)
        counts.append(len(fits))
    assert counts == [1, 2, 2, 3]
    assert max(fits) == 20


def test_of_measured_costs_the_first_and_the_latest_are_remembered(tmp_path: Path) -> None:
    lines = list(range(ehvi.INITIAL_COSTS + ehvi.LATEST_COSTS + 50))
    kept = ehvi.kept_costs(lines)
    assert kept == lines[: ehvi.INITIAL_COSTS] + lines[-ehvi.LATEST_COSTS :]
    assert ehvi.kept_costs(lines[:300]) == lines[:300]
    sampler, rng = EhviSampler(SPACE, small_task(), tmp_path), np.random.default_rng(0)
    for i in range(0, len(lines), 50):
        configs = [SPACE.sample(rng) for _ in range(50)]
        sampler.learn_costs(configs, [{"params": float(i + k)} for k in range(50)])
    assert [costs["params"] for _, costs in sampler.measured] == kept
    assert EhviSampler(SPACE, small_task(), tmp_path).measured == sampler.measured


@pytest.mark.parametrize(
    ("kind", "counts", "metric", "expected"),
    [
        ("binary", (20, 80), "accuracy", 0.2),
        ("binary", (20, 80), "f1", 1 - 2 * 0.8 / 1.8),
        ("multilabel", (80, 80, 80), "f1", 1 - 2 * 0.8 / 1.8),
        ("multilabel", (10, 10, 10), "accuracy", 0.1),
        ("multiclass", (50, 50, 0), "balanced_accuracy", 0.5),
        ("regression", (), "rmse", 3.5),
        ("regression", (), "r2", 1.0),
    ],
)
def test_the_worst_is_what_a_guess_that_looks_at_no_input_misses(
    kind: str, counts: tuple[int, ...], metric: str, expected: float
) -> None:
    classes = tuple("abc"[: len(counts)]) if kind != "regression" else ()
    target = Target("y", kind, classes, counts, std=3.5)  # type: ignore[arg-type]
    profile = DataProfile(n_train=100, n_val=30, n_test=30, inputs={"numeric": (4,)})
    task = Task("tabular", (target,), profile).with_objectives((metric, "params"))
    assert ehvi.chance_error(task) == pytest.approx(expected)


def test_costs_that_were_measured_are_known_to_the_next_driver(tmp_path: Path) -> None:
    first = EhviSampler(SPACE, small_task(), tmp_path)
    drawn, costs = first.to_measure(), [{"params": float(i)} for i in range(3)]
    first.learn_costs(drawn, costs)  # of as many as time allowed
    first.learn_costs(drawn[3:4], [{"params": 3.0}])
    with (tmp_path / "costs.jsonl").open("a") as file:
        file.write('[{"family"')  # a driver was killed here
    again = EhviSampler(SPACE, small_task(), tmp_path)
    assert again.measured == [(c, {"params": float(i)}) for i, c in enumerate(drawn[:4])]
    assert again.to_measure() == []  # not once more
    again.learn_costs(drawn[4:5], [{"params": 4.0}])
    assert len(EhviSampler(SPACE, small_task(), tmp_path).measured) == 5


@pytest.mark.parametrize(
    "line",
    [
        b"\0" * 100,
        b"\xff\xfe",
        b"[" * 100_000,
        b"{}",
        b"[1, 2]",
        b'[{"family": "other"}, {"params": 1.0}]',
        b'[{"family": "plain", "plain.width": 8, "plain.lr": 0.01}, {"params": "many"}]',
    ],
)
def test_costs_that_are_damaged_are_left_out_with_a_warning(
    tmp_path: Path, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first = EhviSampler(SPACE, small_task(), tmp_path)
    configs = first.to_measure()[:4]
    first.learn_costs(configs, [{"params": float(i)} for i in range(4)])
    file = tmp_path / "costs.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([*lines[:2], line, *lines[3:]]) + b"\n")
    again = EhviSampler(SPACE, small_task(), tmp_path)
    assert again.measured == [(configs[i], {"params": float(i)}) for i in (0, 1, 3)]
    assert "costs.jsonl: 1 of 4 lines cannot be read" in caplog.text


def test_stopped_candidates_count_by_what_is_still_gained_after_their_epoch() -> None:
    task = small_task(epochs=4)
    rng = np.random.default_rng(0)

    def row(number: int, epochs: int) -> Candidate:
        config = SPACES["plain"].sample(rng)
        figures = [formula(config, e) for e in range(1, epochs + 1)]
        pruned = epochs < 4
        accuracies = [f["accuracy"] + 0.003 * rng.normal() for f in figures[:-1]]
        accuracies.append(figures[-1]["accuracy"])
        curve = tuple({"epoch": e, "accuracy": value} for e, value in enumerate(accuracies, 1))
        return Candidate(
            number,
            "plain",
            config,
            seed=0,
            state=State.PRUNED if pruned else State.COMPLETE,
            reason="halving" if pruned else "",
            metrics=figures[-1],
            curve=curve,
        )

    rows = [row(i, 4) for i in range(8)] + [row(8, 1)]
    seen = ehvi._observed(rows, task, 0.5)
    end = -math.log(1 - formula(rows[8].config, 4)["accuracy"])
    assert seen[8].value == pytest.approx(end, abs=0.1)
    stopped = -math.log(1 - formula(rows[8].config, 1)["accuracy"])
    assert abs(stopped - end) > 0.2
    assert seen[8].noise > seen[0].noise == 1


def test_evolution_changes_the_better_of_the_living(tmp_path: Path) -> None:
    study = search(tmp_path, 60, small_task(epochs=1), sampler="evolution")
    rows = study.candidates()
    assert [c.origin for c in rows[:2]] == ["baseline", "baseline"]
    proposed = EvolutionSampler(SPACE, study.task).propose(History(rows, 5))
    living = [join_family(c.family, c.config) for c in rows[-50:]]
    for config in [next(proposed) for _ in range(20)]:
        changed = [
            [n for n in config.keys() | other.keys() if config.get(n) != other.get(n)]
            for other in living
        ]
        fewest = min(changed, key=len)
        # One is redrawn; others only where they depend on it.
        assert len(fewest) <= 1 or {"family", "deep.norm"} & set(fewest)


def test_a_search_of_several_qualities_is_not_for_it() -> None:
    task = small_task(objectives=["accuracy", "val_loss", "params"])
    assert resolve("auto", task) == "tpe"
    assert resolve("auto", small_task()) == "ehvi"
    with pytest.raises(UsageError, match=r"2 \(accuracy, val_loss\); choose --sampler tpe"):
        resolve("ehvi", task)


def test_quality_alone_is_searched_too() -> None:
    task = small_task(epochs=1, objectives=["accuracy"])
    rng = np.random.default_rng(0)
    rows = complete(20, rng)
    found = Ehvi(SPACE, task).propose(rows, [], rng)
    best = max(r.metrics["accuracy"] for r in rows)
    reached = [formula(split_family(c)[1], 1)["accuracy"] for c in found.configs[:5]]
    assert np.mean(reached) > np.median([r.metrics["accuracy"] for r in rows])
    assert max(reached) > best - 0.02


def test_gains_after_an_epoch_are_those_of_candidates_that_are_trained_alike() -> None:
    task = small_task(epochs=4)
    other = {"deep": replace(task.fidelity, share=0.2)}
    task = replace(task, fidelity=replace(task.fidelity, other=other))

    def row(number: int, family: str, *accuracies: float) -> Candidate:
        curve = tuple({"epoch": e, "accuracy": a} for e, a in enumerate(accuracies, 1))
        state, reason = (State.COMPLETE, "") if len(curve) == 4 else (State.PRUNED, "halving")
        config, metrics = SPACES[family].baseline(), {"accuracy": accuracies[-1]}
        made = Candidate(number, family, config, seed=0, state=state, metrics=metrics, curve=curve)
        return replace(made, reason=reason)

    rows = [row(i, "plain", 0.5, 0.6, 0.7, 0.8) for i in range(4)]
    seen = ehvi._observed([*rows, row(4, "plain", 0.5), row(5, "deep", 0.5)], task, 0.5)
    assert seen[4].value == pytest.approx(-math.log(0.2))
    assert seen[5].value == pytest.approx(-math.log(0.5)), "nothing is known of its gains"


def measured_again(candidate: Candidate, latency_ms: float) -> Candidate:
    """On the isolated device."""
    before = candidate.metrics["latency_ms"]
    latency = Latency(latency_ms, 0.0, isolated=True, threads=1, batch=1, contended_ms=before)
    metrics = candidate.metrics | {"latency_ms": latency_ms}
    return replace(candidate, metrics=metrics, cost=Cost(latency))


def test_latencies_that_were_measured_again_change_no_model() -> None:
    task, rows = small_task(epochs=1), complete(30, np.random.default_rng(0))
    again = [measured_again(c, 0.7 * c.metrics["latency_ms"]) for c in rows[:10]] + rows[10:]
    before, after = (Ehvi(SPACE, task)._posterior(found, [], False) for found in (rows, again))
    assert after.scales == before.scales
    assert np.array_equal(after.scaled_costs, before.scaled_costs)
    x = Encoding(SPACE)([c.joined for c in rows])
    found, expected = (p.costs["latency_ms"].predict(x) for p in (after, before))
    assert found == pytest.approx(expected)


def test_what_may_keep_a_limit_on_the_isolated_device_counts_too() -> None:
    rng = np.random.default_rng(0)
    rows = sorted(complete(40, rng), key=lambda c: c.metrics["latency_ms"])
    rows = [replace(c, number=i) for i, c in enumerate(rows)]
    bound = rows[10].metrics["latency_ms"] / 1.2
    task = small_task(epochs=1, constraints=[f"latency_ms<={bound}"])
    inside = sum(c.metrics["latency_ms"] <= 1.5 * bound for c in rows)
    posterior = Ehvi(SPACE, task)._posterior(rows, [], False)
    assert len(posterior.values) == inside > 10
    # What is certain to be outside does not.
    certain = [measured_again(rows[10], 1.1 * bound) if c.number == 10 else c for c in rows]
    assert len(Ehvi(SPACE, task)._posterior(certain, [], False).values) == inside - 1
    x = Encoding(SPACE)([rows[-1].joined] * 3)
    figures = rows[-1].metrics
    known = [figures | {"latency_ms": factor * bound} for factor in (1.0, 1.2, 1.6)]
    free = replace(posterior, limits=[]).acquisition(x, known)
    assert free[1] > 0
    assert posterior.acquisition(x, known) == pytest.approx(free * [1.0, 0.5, 0.0])


NUMBER = (Target("y", "regression", std=1.0),)


def drifted(errors: Sequence[float], reasons: Sequence[str] = ()) -> list[Candidate]:
    """Candidates whose RMSE is larger than that of the mean of the training part, and failed
    ones."""
    rows = complete(len(errors), np.random.default_rng(0))
    rows = [replace(c, metrics=c.metrics | {"rmse": e}) for c, e in zip(rows, errors, strict=True)]
    failed = [
        Candidate(len(rows) + i, "plain", SPACES["plain"].baseline(), seed=0, reason=reason)
        for i, reason in enumerate(reasons)
    ]
    return rows + [replace(c, state=State.FAILED) for c in failed]


def test_where_no_network_is_as_good_as_a_guess_a_failure_is_no_better_than_the_worst() -> None:
    task = replace(small_task(), targets=NUMBER).with_objectives(("rmse", "params"))
    assert ehvi.chance_error(task) == 1.0
    *_, failed = ehvi._observed(drifted([1.5, 3.0, 2.0], ["nan"]), task, 1.0)
    assert failed.value == pytest.approx(-math.log(3.0))
    *_, failed = ehvi._observed(drifted([0.5, 0.8], ["nan"]), task, 1.0)
    assert failed.value == pytest.approx(-math.log(1.0))


def test_where_no_network_is_as_good_as_a_guess_the_best_still_make_a_front() -> None:
    task = replace(small_task(), targets=NUMBER).with_objectives(("rmse", "params"))
    rows = drifted(list(np.linspace(1.2, 3.0, 30)))
    posterior = Ehvi(SPACE, task)._posterior(rows, [], False)
    assert np.sum(posterior.values > posterior.reference) == 30
    within = Ehvi(SPACE, replace(task, constraints=(Constraint.parse("rmse<=1"),)))
    assert within._posterior(rows, [], False).reference == 0.0, "a limit is a limit"
    better = Ehvi(SPACE, task)._posterior(drifted([0.9, *np.linspace(1.2, 3.0, 29)]), [], False)
    assert better.reference == 0.0


def test_a_training_that_was_ended_for_its_pace_counts_by_what_it_might_have_gained() -> None:
    task = small_task(epochs=4)

    def row(number: int, *accuracies: float) -> Candidate:
        curve = tuple({"epoch": e, "accuracy": a} for e, a in enumerate(accuracies, 1))
        config, metrics = SPACES["plain"].baseline(), {"accuracy": accuracies[-1]}
        made = Candidate(number, "plain", config, seed=0, epochs=4, metrics=metrics, curve=curve)
        return replace(made, state=State.COMPLETE)

    whole = [row(i, 0.5, 0.6, 0.7, 0.8) for i in range(4)]
    seen = ehvi._observed([*whole, row(4, 0.5), row(5, 0.5, 0.6)], task, 0.5)
    assert [o.value for o in seen[4:]] == pytest.approx([-math.log(0.2)] * 2)
    assert seen[4].noise == seen[0].noise == 1, "all have gained the same"
    uneven = [row(0, 0.5, 0.6, 0.7, 0.9), *whole[1:]]
    assert ehvi._observed([*uneven, row(4, 0.5)], task, 0.5)[4].noise > 1
