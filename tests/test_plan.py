"""How the time of a search is divided between candidates, their trainings and the winner's."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas import driver, rules
from nas import plan as plans
from nas.plan import Pace, SearchPlan, mean_epochs, plan_search, rungs
from nas.task import Budget, Checkpoint, DataProfile, Fidelity, Task
from nas.testing import small_spaces, small_task

SOUNDS = DataProfile(n_train=295, n_val=63, n_test=63, inputs={"wave": (32_000,)})
PICTURES = DataProfile(n_train=1_281_167, n_val=50_000, n_test=0, inputs={"image": (3, 224, 224)})


def task(profile: DataProfile = SOUNDS, modality: str = "audio", **budget: float) -> Task:
    target = replace(small_task().targets[0], kind="multiclass", classes=tuple("abcdefg"))
    made = Task(modality, (target,), profile, budget=Budget(**budget))  # type: ignore[arg-type]
    made = made.with_objectives()
    return replace(made, fidelity=rules.fidelity(made))


def pace(epoch_s: float) -> Pace:
    return Pace(step_ms=1e3 * epoch_s / 50, spread_ms=1.0, steps=9, epoch_s=epoch_s)


def planned(seconds: float, workers: int = 2, epoch_s: float = 1.0, **more: object) -> SearchPlan:
    paces = dict.fromkeys(("cnn", "wav2vec", "whisper"), pace(epoch_s))
    return plan_search(task(time_limit_s=seconds, workers=workers), paces, **more)  # type: ignore[arg-type]


budgets = st.floats(20, 1e6)
epochs_s = st.floats(1e-3, 1e3)


@given(budgets, st.integers(1, 512), epochs_s, st.integers(1, 5))
def test_the_candidates_of_a_plan_and_its_winner_fit_into_the_time(
    seconds: float, workers: int, epoch_s: float, ensemble: int
) -> None:
    plan, wall_s = planned(seconds, workers, epoch_s, ensemble=ensemble), seconds * (1 + 1e-9)
    fidelity = plan.fidelity
    passes = mean_epochs(fidelity.epochs) + 0.0
    mean_s = plans.BESIDE_S + passes * fidelity.share * epoch_s
    assert plan.candidates == 1 or plan.candidates * mean_s <= wall_s * workers
    more = ensemble > 1 or workers <= plans.FINALISTS
    most = plans.KEPT_MOST if more else plans.KEPT_BACK
    assert plan.finish_s <= most * wall_s
    assert fidelity.time_limit_s is not None
    assert fidelity.time_limit_s <= 0.5 * wall_s


@given(budgets, epochs_s)
def test_more_time_never_makes_a_candidates_training_shorter(
    seconds: float, epoch_s: float
) -> None:
    less, more = planned(seconds, epoch_s=epoch_s), planned(2 * seconds, epoch_s=epoch_s)
    assert more.candidate_s >= less.candidate_s - 1e-9


@given(budgets, epochs_s)
def test_a_slower_machine_never_gets_longer_trainings(seconds: float, epoch_s: float) -> None:
    quick, slow = planned(seconds, epoch_s=epoch_s).fidelity, planned(seconds, epoch_s=2 * epoch_s)
    trained = [f.epochs * f.share * (f.folds or 1) for f in (quick, slow.fidelity)]
    assert trained[1] <= trained[0] + 1e-9


def test_few_sounds_on_a_slow_machine_are_scored_on_one_split_for_fewer_epochs() -> None:
    rule = task(time_limit_s=240.0, workers=2)
    assert rules.folds(rule) == 5
    assert rule.fidelity.epochs >= 20
    plan = planned(240.0, epoch_s=4.0)
    assert plan.fidelity.folds == 1
    assert plan.fidelity.epochs < rule.fidelity.epochs
    assert plan.candidates >= 5
    assert any("folds" in reason for reason in plan.reasons)


@pytest.mark.parametrize(("limit_s", "more_s"), [(40.0, 6.0), (100.0, 5.0), (3600.0, 0.0)])
def test_a_plan_divides_what_a_start_and_the_latencies_of_a_short_search_leave(
    limit_s: float, more_s: float
) -> None:
    left = plans.left_to_plan(Budget(limit_s, workers=2), spent_s=9.0)
    assert left.time_limit_s == pytest.approx(limit_s - 9.0 - more_s)
    assert plans.left_to_plan(Budget(None, trials=3)) == Budget(None, trials=3)


def test_a_start_that_is_quick_leaves_more_for_candidates() -> None:
    def candidates(start_s: float) -> int:
        made = task(time_limit_s=300.0, workers=2)
        made = replace(made, budget=replace(made.budget, start_s=start_s))
        return plan_search(made, {"cnn": pace(0.1)}, ensemble=5).candidates

    assert candidates(3.0) > candidates(10.0)


def test_time_that_is_not_for_an_epoch_of_the_fastest_is_the_search_s_own() -> None:
    assert planned(60.0, epoch_s=8.0).finish_s > Budget.start_s + 8.0
    assert planned(60.0, epoch_s=60.0).finish_s == 0.0


def test_where_time_is_plenty_candidates_are_trained_as_long_as_the_recipe() -> None:
    plan = planned(24 * 3600.0, epoch_s=0.5)
    assert plan.fidelity.epochs == plan.fidelity.recipe_epochs == rules.longest_epochs(task())
    assert plan.fidelity.share == 1.0
    assert plan.fidelity.folds == 5
    assert any("as long as the recipe" in reason for reason in plan.reasons)


def test_a_cluster_sees_all_of_a_large_data_set_and_two_hours_of_it_a_part() -> None:
    names = ("resnet", "efficientnet", "vit")
    day = task(PICTURES, "images", time_limit_s=24 * 3600.0, workers=64)
    short = task(PICTURES, "images", time_limit_s=2 * 3600.0, workers=8)
    # An epoch of all images takes 120 s on one GPU.
    long, little = (
        plan_search(t, dict.fromkeys(names, pace(120.0 * t.fidelity.share))) for t in (day, short)
    )
    assert long.candidates >= 10
    assert long.fidelity.recipe_epochs is not None
    assert long.candidate_s >= 0.8 * long.fidelity.recipe_epochs * 120.0
    assert 0 < little.candidate_s < long.candidate_s
    assert little.candidates >= 10
    for plan, seconds in ((long, 24 * 3600.0), (little, 2 * 3600.0)):
        assert plan.fidelity.time_limit_s is not None
        assert plan.fidelity.time_limit_s <= rules.LONGEST_CANDIDATE * seconds


def test_a_plan_says_where_the_time_is_hardly_enough() -> None:
    plan = planned(20.0, epoch_s=300.0)
    assert plan.fidelity.epochs == 1
    assert any("--time-limit" in reason for reason in plan.reasons)


def test_no_time_is_kept_back_where_the_winner_is_not_to_be_trained() -> None:
    kept, given = planned(600.0), planned(600.0, finish=False)
    assert kept.finish_s > 0 == given.finish_s
    assert given.candidates >= kept.candidates


def test_a_budget_without_an_end_in_time_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="ends by time"):
        plan_search(task(time_limit_s=None, trials=10), {"cnn": pace(1.0)})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pace"):
        plan_search(task(time_limit_s=60.0), {})


def test_the_mean_of_epochs_is_that_of_candidates_that_halving_stops() -> None:
    for epochs in (1, 4, 9, 30):
        stops = (*rungs(epochs), epochs)
        reach = [plans.PROMOTED**i for i in range(len(stops))]
        steps = [b - a for a, b in zip((0, *stops), stops, strict=False)]
        assert mean_epochs(epochs) == pytest.approx(
            sum(r * s for r, s in zip(reach, steps, strict=True))
        )


def test_a_recipe_stays_as_long_whatever_the_plan_gives_its_proxy() -> None:
    made = task(time_limit_s=240.0, workers=2)
    batch = rules.batch_sizes(made)[1]
    plan = plan_search(made, {"cnn": pace(4.0)})
    assert plan.fidelity.epochs < made.fidelity.epochs
    assert rules.full_epochs(replace(made, fidelity=plan.fidelity), batch) == rules.full_epochs(
        made, batch
    )
    assert Fidelity.from_dict(plan.fidelity.to_dict()) == plan.fidelity


def test_other_work_on_the_machine_makes_an_epoch_longer() -> None:
    made = task(time_limit_s=600.0, workers=2)
    alone, beside = (
        plan_search(made, {"cnn": replace(pace(1.0), contention=c)}) for c in (1.0, 4.0)
    )
    assert beside == plan_search(made, {"cnn": pace(4.0)})
    assert beside.candidates <= alone.candidates


@pytest.mark.parametrize("epoch_s", [0.3, 1.0, 2.0])
def test_time_is_kept_for_more_networks_of_the_winner_and_none_of_them_is_trained_longer(
    epoch_s: float,
) -> None:
    one, several = (planned(600.0, epoch_s=epoch_s, ensemble=n) for n in (1, 5))
    assert one.finish_s < several.finish_s <= plans.KEPT_MOST * 600.0
    assert several.fidelity.recipe_epochs <= one.fidelity.recipe_epochs


def test_trainings_in_full_take_nothing_of_the_device_hours_of_candidates() -> None:
    made = task(time_limit_s=36_000.0, cpu_hours=2.0, workers=8)
    paces = {"cnn": pace(1.0)}
    kept, given = (plan_search(made, paces, finish=finish) for finish in (True, False))
    assert kept.finish_s > 0 == given.finish_s
    assert (kept.candidates, kept.fidelity) == (given.candidates, given.fidelity)
    # Where the wall clock is the shorter of the two it is divided as ever.
    short = replace(made, budget=replace(made.budget, time_limit_s=600.0))
    alone = replace(short, budget=replace(short.budget, cpu_hours=None))
    assert plan_search(short, paces) == plan_search(alone, paces)


@pytest.mark.parametrize("workers", [1, 8, 32])
def test_an_adaptation_of_published_weights_ends_before_the_search_however_many_workers(
    workers: int,
) -> None:
    """An epoch of these texts takes 2,000 s, of an hour."""
    profile = DataProfile(n_train=10_000, n_val=1_000, n_test=1_000, inputs={"tokens": (128,)})
    made = task(profile, "text", time_limit_s=3600.0, workers=workers)
    weights = Checkpoint("bert", "/weights", "text", "bert", {})
    made = replace(made, pretrained=(weights,))
    plan = plan_search(made, {"pretrained_text": pace(2000.0 * made.fidelity.share)}, finish=False)
    own = plan.fidelity.other["pretrained_text"]
    assert own.time_limit_s is not None
    assert own.epochs * own.share * 2000.0 <= own.time_limit_s <= 0.5 * 3600.0
    assert plan.candidate_s <= rules.LONGEST_CANDIDATE * 3600.0
    assert plan.candidates >= plans.ADAPTED_MOST


# -- what the driver makes of it -----------------------------------------------------------


def session(made: Task, **given: object) -> driver._Session:
    run: Any = SimpleNamespace(task=made, plan=None, **given)
    nobody: Any = None
    return driver._Session(run, nobody, time.monotonic(), lambda _: None)


@pytest.mark.parametrize(
    ("limit_s", "kept_s"), [(10.0, 2.0), (60.0, 10.0), (400.0, 20.0), (9000.0, 30.0)]
)
def test_latencies_of_a_front_have_their_time_within_that_of_the_search(
    limit_s: float, kept_s: float
) -> None:
    assert plans.latencies_s(limit_s) == kept_s
    begun = session(task(time_limit_s=limit_s))
    assert begun._measure_deadline() <= begun.end
    begun.begin -= limit_s - kept_s  # as when the candidates are over
    assert begun._measure_deadline() == pytest.approx(begun.end, abs=0.5)
    begun.begin -= 100.0
    assert begun._measure_deadline() == pytest.approx(time.monotonic() + kept_s, abs=0.5)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_range_test_takes_at_most_a_tenth_of_the_search_however_many_workers(
    workers: int, tmp_path: Path
) -> None:
    limits: list[float] = []

    def answer(method: str, calls: list[dict[str, Any]], **_: object) -> list[Any]:
        limits.extend(call["limit_s"] for call in calls)
        return [{"lowest": None} for _ in calls]

    begun = session(
        task(time_limit_s=600.0, workers=workers), spaces=small_spaces(), folder=tmp_path,
        rate_tests=dict, change_spaces=lambda spaces: None,
    )  # fmt: skip
    begun.workers = SimpleNamespace(map=answer)  # type: ignore[assignment]
    begun.test_rates()
    assert limits == [0.1 * 600.0 * workers / max(2, workers)] * 2
