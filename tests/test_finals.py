"""Which candidates are trained at full scale at the end of a search, and what comes of them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nas import finals, rules
from nas.candidate import Candidate, Cost, State
from nas.finals import average, finalist, jobs, pace, rounds, train_finalists
from nas.finals.finalist import Finalist
from nas.finals.pace import epoch_s
from nas.finals.rounds import order
from nas.plan import SIMPLE_TEST_S, speedup
from nas.run import Finished
from nas.task import Budget, Constraint, Fidelity, InputError, Target, Task
from nas.testing import small_task
from nas.train import score


def task() -> Task:
    made = replace(small_task(), budget=Budget(600.0, workers=2)).with_objectives()
    return replace(made, fidelity=Fidelity(epochs=5, recipe_epochs=10, folds=1))


def candidate(number: int, family: str, accuracy: float, step_ms: float = 1.0) -> Candidate:
    return Candidate(
        number=number,
        family=family,
        config={"batch_size": 32},
        seed=0,
        state=State.COMPLETE,
        metrics={"accuracy": accuracy, "latency_ms": 1.0, "params": 10.0},
        cost=Cost(step_ms=step_ms),
    )


RANKED = [
    candidate(4, "mlp", 0.80),
    candidate(2, "mlp", 0.79),
    candidate(7, "tabnet", 0.785),
    candidate(1, "ft_transformer", 0.30, step_ms=1e7),
]


def numbers(found: list[Candidate]) -> list[int]:
    return [c.number for c in found]


def test_the_best_is_first_and_another_familys_best_before_the_second_of_its_own() -> None:
    assert numbers(order(RANKED, task(), left_s=300.0, places=2)) == [4, 7, 2, 1]


def test_what_is_proven_follows_the_best_of_its_family_where_proxies_are_short() -> None:
    ranked = [*RANKED, *(replace(candidate(n, name, 0.2), origin="baseline")
                         for n, name in ((0, "mlp"), (9, "mlp"), (8, "tabnet")))]  # fmt: skip
    assert numbers(order(ranked, task(), left_s=300.0, places=2)) == [4, 0, 7, 8, 2, 1, 9]
    far = [c for c in ranked if c.number != 7]  # of a family that is far behind only what is cheap
    assert numbers(order(far, task(), left_s=300.0, places=2)) == [4, 0, 8, 2, 1, 9]
    slow = [replace(c, cost=Cost(step_ms=1e7)) if c.family == "tabnet" else c for c in far]
    assert numbers(order(slow, task(), left_s=300.0, places=2)) == [4, 0, 2, 1, 9, 8]
    whole = replace(task(), fidelity=replace(task().fidelity, epochs=10))  # as long as the recipe
    assert numbers(order(ranked, whole, left_s=300.0, places=2)) == [4, 7, 2, 1, 0, 9, 8]


@pytest.mark.parametrize(("step_ms", "first"), [(1e-3, [4, 7, 1]), (1e7, [4, 7, 2])])
def test_a_family_far_behind_is_tried_early_only_where_it_costs_little(
    step_ms: float, first: list[int]
) -> None:
    ranked = [*RANKED[:3], candidate(1, "ft_transformer", 0.30, step_ms=step_ms)]
    assert numbers(order(ranked, task(), left_s=300.0, places=2))[:3] == first


def test_nothing_is_ordered_where_nothing_is_complete() -> None:
    assert order([], task(), left_s=300.0, places=2) == []


@pytest.mark.parametrize(
    ("second", "left_s", "trained"),
    [(0.30, 0.01, [4]), (0.30, 300.0, [4, 1]), (0.79, 0.01, [4, 1])],
    ids=["alone", "time for both", "as good"],
)
def test_short_of_time_the_best_has_few_cores_for_itself(
    second: float, left_s: float, trained: list[int], tmp_path: Path
) -> None:
    run: Any = FakeRun(tmp_path, [RANKED[0], candidate(1, "tabnet", second)])
    entries = rounds.next_round(run, run.ranked(), left_s, places=2, trained=())
    assert [e.candidate.number for e in entries] == trained


@pytest.mark.parametrize(("seconds", "trained"), [(26.0, 1), (18.0, 1), (11.0, 0)])
def test_a_model_is_worth_a_score_that_comes_late(
    seconds: float, trained: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "epoch_s", lambda task, candidate: 4.0)
    found, _ = finish(tmp_path, monkeypatch, {4: 0.8, 7: 0.7, 2: 0.7, 1: 0.7}, seconds)
    assert bool(found.epochs) == bool(trained)


def test_who_has_all_cores_is_trained_for_more_epochs(tmp_path: Path) -> None:
    run: Any = FakeRun(tmp_path, [RANKED[0], candidate(1, "tabnet", 0.30)])
    each_s = pace.epoch_s(run.task, RANKED[0])
    (entry,) = rounds.next_round(run, run.ranked(), 15.2 * each_s, places=2, trained=())
    assert entry.epochs == int(rounds.HASTE * int(15.2 * speedup(2)))


@pytest.mark.parametrize(
    ("epoch_s", "proxy", "epochs"),
    [(5.0, 5, 30), (20.0, 5, 10), (0.1, 5, 250), (5.0, 10, 10)],
    ids=["as its pace allows", "the recipe's at least", "as many as help", "as its proxy"],
)
def test_a_network_faster_than_the_mean_is_trained_for_longer(
    epoch_s: float, proxy: int, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "longest_epochs", lambda task: 250)
    made = replace(task(), fidelity=Fidelity(epochs=proxy, recipe_epochs=10, folds=1))
    steps = rules.steps_per_epoch(made.profile.n_train, 32)
    run: Any = FakeRun(tmp_path, [candidate(1, "mlp", 0.8, step_ms=1e3 * epoch_s / steps)])
    run.task = made
    (entry,) = rounds.next_round(run, run.ranked(), 100.0, places=8, trained=())
    assert entry.epochs == min(epochs, int(rounds.HASTE * int(100.0 / epoch_s)))
    assert entry.recipe_epochs == epochs
    assert run.exported == {1: epochs}


def test_adapted_weights_have_all_cores_once_and_what_is_cheap_goes_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    families = {"own": SimpleNamespace(frozen=False), "kept": SimpleNamespace(frozen=True)}
    monkeypatch.setattr(finalist, "load_families", lambda modality: families)
    own = Fidelity(epochs=1, share=0.1, recipe_epochs=3, folds=1)
    made = replace(task(), fidelity=replace(task().fidelity, other={"own": own, "kept": own}))
    steps = rules.steps_per_epoch(made.profile.n_train, 32)
    slow = candidate(5, "own", 0.7, step_ms=1e5 / steps)  # 100 s an epoch
    run: Any = FakeRun(tmp_path, [candidate(3, "kept", 0.8, step_ms=1e-3), slow])
    run.task = made

    def next_round(trained: list[Finalist]) -> list[tuple[int, int]]:
        waiting = [c for c in run.ranked() if all(c is not e.candidate for e in trained)]
        found = rounds.next_round(run, waiting, 200.0, 2, trained)
        return [(e.candidate.number, e.epochs) for e in found]

    assert next_round([]) == [(3, 3)]
    run._ranked[0] = fast = replace(run.ranked()[0], family="mlp")
    (entry,) = rounds.next_round(run, run.ranked(), 200.0, 2, [])
    assert entry.epochs * epoch_s(made, fast) < 25, "no pace of its own takes the other's time"
    run._ranked[0] = replace(fast, family="kept")
    done = {"seconds": 1.0}
    before = [Finalist(run.ranked()[0], 3, 3, tmp_path, done)]
    assert next_round(before) == [(5, 3)], "three epochs in 200 s, on two cores"
    run._ranked = [*run.ranked(), replace(slow, number=6)]
    after = [*before, Finalist(slow, 3, 3, tmp_path, done)]
    assert next_round(after) == [], "a second has no time for its recipe on a core"


class FakeRun:
    """What the finals need of a run; trainings are made up by ``outcomes``."""

    def __init__(
        self, folder: Path, ranked: list[Candidate], earlier: Finished | None = None
    ) -> None:
        self.folder, self.task, self._ranked = folder, task(), ranked
        self.exported: dict[int | None, int | None] = {}
        self.referred: list[Path] = []
        self.winner = earlier
        self.options = SimpleNamespace(ensemble=1)
        (folder / "logs").mkdir()

    def ranked(self) -> list[Candidate]:
        return self._ranked

    def best(self) -> Candidate:
        return self._ranked[0]

    def baselines(self) -> list[dict[str, Any]]:
        return []

    def write_recipe(self, path: Path, number: int, epochs: int, network: int = 0) -> None:
        self.export(path, number, epochs=epochs, network=network)

    def refer_to_source(self, path: Path) -> None:
        self.referred.append(path)

    def export(
        self,
        path: Path | None = None,
        number: int | None = None,
        *,
        epochs: int | None = None,
        network: int = 0,
    ) -> Path:
        self.exported[number] = epochs
        path = path or self.folder / "recipe.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} network {network}" if network else str(number))
        return path

    def combine(self, folders: Sequence[Path], path: Path) -> None:
        path.write_text(" + ".join((folder / "recipe.yaml").read_text() for folder in folders))


def trained_by(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Have ``run`` stand for the processes of trainings."""
    for module in (finals, average, jobs):
        monkeypatch.setattr(module, "run_all", run)


def finish(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    validation: dict[int | str, float],
    seconds: float,
    *,
    ensemble: int = 1,
    each_s: float = 1.0,
    earlier: Finished | None = None,
) -> tuple[Finished, list[tuple[str, ...]]]:
    """The finals of RANKED, whose trainings take ``each_s`` and score as ``validation`` says, with
    a loss of what is missing to 1; others fail."""
    commands: list[tuple[str, ...]] = []

    def run(jobs: Any, site: Any, end: float, show: Any) -> list[tuple[dict[str, Any], str]]:
        found = []
        for job in jobs:
            commands.append(job.options)
            if "only" in job.options:
                found.append(({"test": {"accuracy": 0.7}}, ""))
                continue
            text = (job.folder / "recipe.yaml").read_text()
            score = validation.get(int(text) if text.isdecimal() else text)
            if score is None:
                found.append(({}, "error: no memory"))
                continue
            result = {"validation": {"accuracy": score}, "seconds": each_s}
            found.append((result | {"calibrated_loss": 1 - score}, ""))
        return found

    trained_by(monkeypatch, run)
    made = FakeRun(folder, RANKED, earlier)
    made.options.ensemble = ensemble
    site: Any = SimpleNamespace(count=2)
    found = train_finalists(made, site, time.monotonic() + seconds, lambda phase: None)  # type: ignore[arg-type]
    assert Finished.from_dict(json.loads((folder / "finished.json").read_text())) == found
    return found, commands


def test_the_best_by_validation_wins_and_the_test_part_is_scored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, commands = finish(tmp_path, monkeypatch, {4: 0.81, 7: 0.83, 2: 0.82}, seconds=300.0)
    assert found.candidate == 7
    assert found.result["test"] == {"accuracy": 0.7}
    assert [row["candidate"] for row in found.finalists] == [4, 7, 2]
    assert [command[-2] for command in commands] == ["no", "no", "no", "only"]
    assert (tmp_path / "model" / "recipe.yaml").read_text() == "7"


@pytest.mark.parametrize(("most", "trained"), [(6, [4, 7, 2]), (1, [4, 7, 2])])
def test_in_time_that_is_left_what_is_as_good_is_trained_too(
    most: int, trained: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the number of finalists those whose proxies are within the noise of the best one."""
    monkeypatch.setattr(finals, "MOST", most)
    scores: dict[int | str, float] = {4: 0.8, 7: 0.8, 2: 0.8, 1: 0.3}
    found, _ = finish(tmp_path, monkeypatch, scores, seconds=300.0)
    assert [row["candidate"] for row in found.finalists] == trained


def test_the_time_that_finals_have_use_for_follows_from_the_candidates(tmp_path: Path) -> None:
    run: Any = FakeRun(tmp_path, [candidate(n, "mlp", 0.8, step_ms=1.0) for n in range(9)])
    each_s = pace.epochs_of(run.task, run.ranked()[0], 10**9) * epoch_s(run.task, run.ranked()[0])
    start_s = run.task.budget.start_s
    room_s = rounds.SLACK * each_s + start_s
    ends_s = 2 * start_s + average.tested_s(run, run.ranked())
    assert finals.expected_s(run, 2) == pytest.approx(3 * room_s + ends_s)
    run.options.ensemble = 5
    assert finals.expected_s(run, 2) == pytest.approx(5 * room_s + ends_s)
    run.baselines = lambda: [{"seconds": 7.0}, {"error": "no time"}]
    assert finals.expected_s(run, 2) == pytest.approx(5 * room_s + ends_s + 7.0)
    run._ranked = []
    assert finals.expected_s(run, 2) == float("inf")


def test_the_test_part_is_part_of_the_time_of_networks_that_are_averaged(tmp_path: Path) -> None:
    run: Any = FakeRun(tmp_path, RANKED)
    profile = replace(run.task.profile, n_train=900, n_val=100, n_test=300)
    run.task = replace(run.task, profile=profile)
    scored = [Finalist(c, 10, 10, Path(), {"scored_s": 2.0}) for c in RANKED[:2]]
    passes = 2 + 3  # over the validation part, and over one of three times its size
    assert average.mean_s(run, scored) == run.task.budget.start_s + passes * 4.0
    each_s = epoch_s(run.task, RANKED[0])
    assert average.tested_s(run, RANKED) == pytest.approx(each_s / 9)
    assert average.tested_s(run, []) == 0.0


@pytest.mark.parametrize(("folds", "first", "winner"), [(1, 0.81, 7), (5, 0.81, 4), (5, 0.3, 7)])
def test_where_proxies_were_cross_validated_they_decide_between_equals(
    folds: int, first: float, winner: int
) -> None:
    made = replace(task(), fidelity=replace(task().fidelity, folds=folds))
    scores = {4: first, 7: 0.83}
    entries = [
        Finalist(c, 10, 10, Path(), {"validation": {"accuracy": scores[c.number]}})
        for c in (RANKED[0], RANKED[2])
    ]
    assert finalist.winner(entries, made).candidate.number == winner


@pytest.mark.parametrize(("n_val", "winner"), [(400, 7), (40_000, 4)])
def test_within_a_standard_error_of_the_best_the_proven_configuration_wins(
    n_val: int, winner: int
) -> None:
    made = replace(task(), profile=replace(task().profile, n_val=n_val))
    scores = {4: 0.922, 7: 0.92, 2: 0.90}
    entries = [
        Finalist(c, 10, 10, Path(), {"validation": {"accuracy": scores[c.number]}})
        for c in (RANKED[0], *(replace(c, origin="baseline") for c in (RANKED[1], RANKED[2])))
    ]
    assert finalist.winner(entries, made).candidate.number == winner


@pytest.mark.parametrize("winner", [4, 7])
def test_of_equal_accuracies_the_lower_loss_wins(winner: int) -> None:
    entries = [
        Finalist(c, 10, 10, Path(), {"validation": {"accuracy": 1.0}, "validation_loss": loss})
        for c in (RANKED[0], RANKED[2])
        for loss in [0.1 if c.number == winner else 0.2]
    ]
    assert finalist.winner(entries, task()).candidate.number == winner


@pytest.mark.parametrize("winner", [4, 7])
def test_of_those_within_a_standard_error_the_lower_calibrated_loss_wins(winner: int) -> None:
    """The one that is too sure has the higher loss before."""
    made = replace(task(), profile=replace(task().profile, n_val=400))
    entries = [
        Finalist(
            c, 10, 10, Path(),
            {"validation": {"accuracy": accuracy}, "validation_loss": 0.5 - loss,
             "calibrated_loss": loss},
        )
        for c, accuracy in ((RANKED[0], 0.92), (RANKED[2], 0.925))
        for loss in [0.1 if c.number == winner else 0.2]
    ]  # fmt: skip
    assert finalist.winner(entries, made).candidate.number == winner


PRETRAINED = {
    "adapted": SimpleNamespace(frozen=False), "head": SimpleNamespace(frozen=True),
}  # fmt: skip


@pytest.mark.parametrize(
    ("n_val", "validation", "epochs", "winner"),
    [
        (15, {"mlp": 0.93, "head": 0.80, "adapted": 0.87}, 40, "adapted"),
        (15, {"mlp": 1.0, "head": 0.87, "adapted": 0.93}, 40, "adapted"),
        (15, {"mlp": 0.93, "head": 0.87, "adapted": 0.87}, 14, "head"),
        (15, {"mlp": 0.93, "head": 0.60, "adapted": 0.60}, 40, "mlp"),
        (2_000, {"mlp": 0.93, "head": 0.90, "adapted": 0.92}, 40, "mlp"),
    ],
    ids=["as good", "one image", "cut short", "clearly worse", "many samples"],
)
def test_where_a_handful_of_samples_decides_published_weights_win_among_equals(
    n_val: int,
    validation: dict[str, float],
    epochs: int,
    winner: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finalist, "load_families", lambda modality: PRETRAINED)
    own = Fidelity(epochs=1, share=0.2, recipe_epochs=40, folds=1)
    fidelity = replace(task().fidelity, folds=None, other=dict.fromkeys(PRETRAINED, own))
    made = replace(task(), fidelity=fidelity, profile=replace(task().profile, n_val=n_val))
    # The proxy of a few steps says the least of the network that is adapted.
    proxies = {"mlp": 0.7, "head": 0.75, "adapted": 0.4}
    entries = [
        Finalist(candidate(i, name, proxies[name]), epochs if name == "adapted" else 40, 40,
                        Path(), {"validation": {"accuracy": value}})
        for i, (name, value) in enumerate(validation.items())
    ]  # fmt: skip
    assert finalist.winner(entries, made).candidate.family == winner


def test_the_best_that_adapts_published_weights_is_first_where_there_is_time_for_its_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(finalist, "load_families", lambda modality: PRETRAINED)
    own = Fidelity(epochs=1, share=0.2, recipe_epochs=40, folds=1)
    made = replace(task(), fidelity=replace(task().fidelity, other={"adapted": own}))
    steps = rules.steps_per_epoch(made.profile.n_train, 32)
    adapted = [candidate(n, "adapted", accuracy, step_ms=5e3 / steps)  # 5 s an epoch, 40 of them
               for n, accuracy in ((9, 0.31), (8, 0.30))]  # fmt: skip
    ranked = [*RANKED[:3], *adapted]
    assert numbers(order(ranked, made, left_s=300.0, places=2)) == [9, 4, 7, 2, 8]
    assert numbers(order(ranked, made, left_s=150.0, places=2)) == [4, 7, 2, 9, 8]
    ranked[-1] = replace(ranked[-1], origin="baseline")
    assert numbers(order(ranked, made, left_s=300.0, places=2)) == [8, 4, 7, 2, 9]


def test_a_training_that_fails_leaves_the_others_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = finish(tmp_path, monkeypatch, {7: 0.5}, seconds=300.0)
    assert (found.candidate, found.error) == (7, "")
    assert found.finalists[0] == {"candidate": 4, "epochs": 100, "error": "error: no memory"}


def test_where_all_fail_the_first_error_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = finish(tmp_path, monkeypatch, {}, seconds=300.0)
    assert (found.result, found.error) == ({}, "error: no memory")


def test_without_time_for_an_epoch_nothing_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, commands = finish(tmp_path, monkeypatch, {}, seconds=1.0)
    assert commands == []
    assert found.epochs == 0
    assert "no time was left" in found.error


def test_seconds_of_an_epoch_follow_from_epochs_where_time_ran_out() -> None:
    task = replace(small_task(), fidelity=Fidelity(10, share=0.5))
    point = {"epoch": 1.0}
    late = Candidate(0, "plain", {"batch_size": 10}, 0, seconds=12.0, curve=(point, point, point))
    assert epoch_s(task, late) == 12.0 / 3 / 0.5
    ended = replace(late, cost=Cost(step_ms=100.0))
    assert epoch_s(task, ended) == pytest.approx(0.1 * task.profile.n_train / 10)


def early(number: int, best_epoch: int, accuracy: float, epochs: int = 100) -> Finalist:
    made = next(c for c in RANKED if c.number == number)
    result = {"validation": {"accuracy": accuracy}, "seconds": 40.0, "epochs": 40}
    return Finalist(made, epochs, epochs, Path(), {**result, "best_epoch": best_epoch})


@pytest.mark.parametrize(
    ("best_epoch", "left_s", "epochs"),
    [(20, 30.0, 20), (50, 60.0, 50), (51, 60.0, 0), (20, 19.0, 0), (1, 30.0, 3)],
)
def test_one_that_was_at_its_best_early_is_trained_again_by_a_shorter_schedule(
    tmp_path: Path, best_epoch: int, left_s: float, epochs: int
) -> None:
    """As long as its proxy at least, and only where there is time for it."""
    run: Any = FakeRun(tmp_path, RANKED)
    run.task = replace(run.task, fidelity=replace(run.task.fidelity, epochs=3, share=1.0))
    trained = [early(4, best_epoch, 0.8)]
    found = rounds.shorter(run, trained, left_s, 2)
    assert [(e.candidate.number, e.epochs, e.again) for e in found] == (
        [(4, epochs, True)] if epochs else []
    )
    assert run.exported == ({4: epochs} if epochs else {})
    assert rounds.shorter(run, [*trained, *found], left_s, 2) == [], "once"


def test_only_what_is_as_good_as_the_best_is_trained_again(tmp_path: Path) -> None:
    run: Any = FakeRun(tmp_path, RANKED)
    trained = [early(4, 20, 0.80), early(7, 90, 0.95)]
    assert rounds.shorter(run, trained, 1e3, 2) == []
    equal = [early(4, 20, 0.95), early(7, 20, 0.95), early(2, 20, 0.95)]
    assert len(rounds.shorter(run, equal, 1e3, 2)) == 2, "as many as there are places"


@pytest.mark.parametrize(
    ("planned", "recipe", "schedule", "found"),
    [(30, 30, 30, (30, 30)), (30, 30, 22, (22, 22)), (30, 30, 7, (7, 10)), (4, 4, 3, (3, 4))],
    ids=["as planned", "more than its recipe", "less than its recipe", "a shorter schedule"],
)
def test_a_finalist_has_the_epochs_of_the_schedule_that_its_pace_allowed(
    planned: int, recipe: int, schedule: int, found: tuple[int, int]
) -> None:
    entry = Finalist(RANKED[0], planned, recipe, Path())
    shortened = jobs.as_trained(task(), entry, {"schedule_epochs": schedule})
    assert (shortened.epochs, shortened.recipe_epochs) == found


@pytest.mark.parametrize(
    ("step_ms", "error", "first"),
    [(400.0, 0.10, 0), (250.0, 0.10, 0), (200.0, 0.05, 7), (400.0, 0.02, 7)],
    ids=["half the epochs", "alike", "ahead", "far ahead"],
)
def test_short_of_time_the_best_is_who_gets_furthest_in_it(
    step_ms: float, error: float, first: int, tmp_path: Path
) -> None:
    """A proven network at 200 ms a step with an error of 0.12, and a sampled one."""
    proven = replace(candidate(0, "mlp", 0.88, step_ms=200.0), origin="baseline")
    run: Any = FakeRun(tmp_path, [candidate(7, "tabnet", 1 - error, step_ms=step_ms), proven])
    entries = rounds.next_round(run, run.ranked(), 4 * pace.epoch_s(run.task, proven), 2, ())
    assert entries[0].candidate.number == first


def test_who_was_cut_off_after_an_epoch_has_more_to_gain_in_the_same_time() -> None:
    """Both at the same pace, in time for twenty epochs."""
    whole = replace(candidate(0, "mlp", 0.88), epochs=5, curve=({"epoch": 1.0},) * 5)
    late = replace(candidate(7, "tabnet", 0.80), epochs=5, curve=({"epoch": 1.0},))
    left_s = 20 * pace.epoch_s(task(), whole)
    assert rounds._best_in_time(task(), [whole, late], left_s) is late
    complete = replace(late, curve=whole.curve)
    assert rounds._best_in_time(task(), [whole, complete], left_s) is whole


@pytest.mark.parametrize("scored", [True, False])
def test_a_score_is_kept_whose_simple_models_came_too_late(
    scored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score: dict[str, Any] = {"test": {"accuracy": 0.7}, "simple_test": {}}

    def run(jobs: Any, *_: Any) -> list[tuple[dict[str, Any], str]]:
        if "only" not in jobs[0].options:
            return [({"validation": {"accuracy": 0.8}, "seconds": 1.0}, "") for _ in jobs]
        result = score if scored else {"test": {}}
        (jobs[0].folder / "result.json").write_text(json.dumps(result))
        return [({}, "it took longer than the time that was kept for it")]

    trained_by(monkeypatch, run)
    made: Any = FakeRun(tmp_path, RANKED)
    site: Any = SimpleNamespace(count=2)
    found = train_finalists(made, site, time.monotonic() + 300, lambda phase: None)
    assert (found.result, bool(found.error)) == ((score, False) if scored else ({}, True))


def test_no_more_is_kept_for_simple_models_than_they_may_take(tmp_path: Path) -> None:
    run: Any = FakeRun(tmp_path, RANKED)
    run.baselines = lambda: [{"seconds": 20.0}, {"seconds": 5.0}]
    assert finals._simple_s(run) == 25.0
    run.baselines = lambda: [{"seconds": 5000.0}]
    assert finals._simple_s(run) == SIMPLE_TEST_S


SCORES: dict[int | str, float] = {4: 0.80, 7: 0.60, 2: 0.60, 1: 0.60}
NETWORKS: dict[int | str, float] = {f"4 network {n}": 0.79 for n in range(1, 5)}


def together(*numbers: int) -> str:
    """The recipe of the mean of networks of candidate 4, and of other candidates."""
    return " + ".join(["4", *(f"4 network {n}" if n < 5 else str(n) for n in numbers)])


@pytest.mark.parametrize(
    ("more", "ensemble", "each_s", "kept"),
    [
        (NETWORKS | {together(1, 2, 3, 4): 0.82}, 5, 1.0, together(1, 2, 3, 4)),
        (NETWORKS | {together(1, 2): 0.82}, 3, 1.0, together(1, 2)),
        (NETWORKS | {together(1, 2): 0.99}, 3, 1.0, together(1, 2)),
        (NETWORKS | {together(1, 2, 3, 4): 0.78}, 5, 1.0, "4"),
        (NETWORKS, 1, 1.0, "4"),
        (NETWORKS, 5, 300.0, "4"),
        ({"4 network 1": 0.79, together(1): 0.81}, 5, 1.0, together(1)),
        ({}, 5, 1.0, "4"),
        (NETWORKS | {7: 0.79, together(7, 1, 2, 3): 0.82}, 5, 1.0, together(7, 1, 2, 3)),
        (
            NETWORKS | {7: 0.79, together(7, 1, 2, 3): 0.78, together(1, 2, 3): 0.81},
            5,
            1.0,
            together(1, 2, 3),
        ),
        ({7: 0.79, together(7): 0.82}, 2, 1.0, together(7)),
        ({7: 0.79, together(7): 0.82}, 5, 300.0, together(7)),
    ],
    ids=[
        *(
            "surer",
            "three",
            "far better",
            "less sure",
            "one asked for",
            "no time",
            "one fails",
            "all fail",
        ),
        *("another as good", "better without it", "two asked for", "no time but two finalists"),
    ],
)
def test_the_best_is_averaged_with_what_is_as_good_and_more_networks_of_it(
    more: dict[int | str, float],
    ensemble: int,
    each_s: float,
    kept: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, commands = finish(
        tmp_path, monkeypatch, SCORES | more, 300.0, ensemble=ensemble, each_s=each_s
    )
    assert (found.candidate, found.networks) == (4, len(kept.split(" + ")))
    assert [command[-2] for command in commands].count("only") == 1
    assert (tmp_path / "model" / "recipe.yaml").read_text() == kept
    trained = {row["candidate"] for row in found.finalists}
    assert trained == ({4, 7} if each_s > 1 else {4, 7, 2}), "others were trained first"


@pytest.mark.parametrize("copied", ["model.new", "4-ensemble/networks/0"])
def test_a_full_disk_where_a_network_is_copied_is_one_line_with_the_repair(
    copied: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    scores, ensemble = SCORES | NETWORKS, 5 if "ensemble" in copied else 1
    line = rf"{copied} cannot be written \(.*No space left on device\); make room and go on with --"
    with pytest.raises(InputError, match=line):
        finish(tmp_path, monkeypatch, scores, 300.0, ensemble=ensemble)


@pytest.mark.parametrize(("second", "trained"), [(0.30, ["4", "4 network 1"]), (0.79, ["4", "1"])])
def test_a_core_that_no_other_is_for_trains_another_network_of_the_best(
    second: float, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_is_pressed", lambda *_: False)
    far = candidate(1, "tabnet", second, step_ms=1e5)
    run: Any = FakeRun(tmp_path, [candidate(4, "mlp", 0.8, step_ms=1e5), far])
    run.options.ensemble = 5
    seen: list[list[str]] = []

    def fake(jobs: Any, *_: Any) -> list[tuple[dict[str, Any], str]]:
        seen.append([(job.folder / "recipe.yaml").read_text() for job in jobs])
        return [({"validation": {"accuracy": 0.8}, "seconds": 90.0, "test": {}}, "")] * len(jobs)

    trained_by(monkeypatch, fake)
    steps = rules.steps_per_epoch(run.task.profile.n_train, 32)
    seconds = 1e2 * steps * 11 + 40  # of the recipe once
    train_finalists(run, SimpleNamespace(count=2), time.monotonic() + seconds, lambda phase: None)  # type: ignore[arg-type]
    assert seen[0] == trained


@pytest.mark.parametrize(
    ("epochs", "ensemble", "alone"), [(7, 5, False), (6, 5, True), (7, 1, True)]
)
def test_short_of_time_networks_are_side_by_side_only_where_each_has_epochs_enough(
    epochs: int, ensemble: int, alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 epochs that help, a table's, seven are more than a sixteenth."""
    run: Any = FakeRun(tmp_path, [RANKED[0]])
    run.options.ensemble = ensemble
    monkeypatch.setattr(rules, "longest_epochs", lambda task: 100)
    left_s = epochs * pace.epoch_s(run.task, RANKED[0])
    (entry,) = rounds.next_round(run, run.ranked(), left_s, places=2, trained=())
    assert entry.alone == alone
    assert entry.epochs == int(rounds.HASTE * int(epochs * (speedup(2) if alone else 1)))


@pytest.mark.parametrize(("bound", "networks"), [(1.5, [4]), (2.5, [4, 7]), (3.5, [4, 7, 4])])
def test_limits_hold_for_all_that_is_averaged_together(
    bound: float, networks: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a millisecond."""
    run: Any = FakeRun(tmp_path, RANKED)
    run.options.ensemble = 5
    run.task = replace(run.task, constraints=(Constraint.parse(f"latency_ms<={bound}"),))
    kept: list[list[int]] = []

    def fake(jobs: Any, *_: Any) -> list[tuple[dict[str, Any], str]]:
        result = {"validation": {"accuracy": 0.8}, "seconds": 1.0, "calibrated_loss": 0.5}
        return [(result, "") for _ in jobs]

    def as_one(_: Any, site: Any, of: list[Finalist], *rest: Any) -> Finalist:
        kept.append([e.candidate.number for e in of])
        return of[0]

    trained_by(monkeypatch, fake)
    monkeypatch.setattr(average, "_as_one", as_one)
    complete = [early(4, 90, 0.8), early(7, 90, 0.8)]
    complete = [replace(e, folder=tmp_path / str(e.candidate.number)) for e in complete]
    site: Any = SimpleNamespace(count=2)
    monkeypatch.setattr(average, "leader", lambda entries, task: entries[0])
    average.averages(run, site, complete, [], time.monotonic() + 300, lambda phase: None)
    assert kept[:1] == ([networks] if len(networks) > 1 else [])


def test_where_the_first_fail_their_time_is_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which have as many epochs as there is time for, not only a whole recipe."""
    monkeypatch.setattr(rounds, "epoch_s", lambda task, candidate: 20.0)
    run: Any = FakeRun(tmp_path, [RANKED[0], candidate(1, "tabnet", 0.3)])
    seen: list[str] = []

    def fake(jobs: Any, *_: Any) -> list[tuple[dict[str, Any], str]]:
        seen.extend((job.folder / "recipe.yaml").read_text() for job in jobs)
        result = {"validation": {"accuracy": 0.3}, "seconds": 40.0, "test": {}}
        return [({}, "error: no memory") if seen[-1] == "4" else (result, "") for _ in jobs]

    trained_by(monkeypatch, fake)
    site: Any = SimpleNamespace(count=2)
    found = train_finalists(run, site, time.monotonic() + 90, lambda phase: None)
    assert seen[:2] == ["4", "1"]
    assert found.candidate == 1
    assert 1 <= found.epochs < found.recipe_epochs


def test_cores_that_a_later_round_leaves_free_are_for_the_winner(
    tmp_path: Path,
) -> None:
    run: Any = FakeRun(tmp_path, RANKED)
    run.options.ensemble = 5
    trained = [early(4, 90, 0.7), replace(early(7, 90, 0.9), folder=tmp_path / "7")]
    before = replace(trained[1], network=1)
    entry = Finalist(RANKED[3], 10, 10, tmp_path / "1")
    for left_s, found in ((300.0, [(7, 2)]), (30.0, [])):
        more = average.beside(run, [entry], trained, [before], left_s, places=2)
        assert [(e.candidate.number, e.network) for e in more] == found
    (first,) = average.beside(run, [entry], [], [], 30.0, places=2)
    assert (first.candidate.number, first.network) == (1, 1), "nothing is known of others"


def test_of_numbers_the_validation_loss_says_what_is_averaged_first(tmp_path: Path) -> None:
    """They have no calibrated loss."""
    run: Any = FakeRun(tmp_path, RANKED)
    run.options.ensemble = 3
    numbers = (Target("price", "regression", std=1.0),)
    run.task = replace(run.task, targets=numbers).with_objectives()
    entries = [
        replace(entry, result={**(entry.result or {}), "validation": {"rmse": 1.0},
                               "validation_loss": loss, "calibrated_loss": None})
        for entry, loss in ((early(4, 90, 0), 0.1), (early(2, 90, 0), 0.3), (early(7, 90, 0), 0.2))
    ]  # fmt: skip
    mixed = average._mixed(run, entries[0], entries)
    assert [e.candidate.number for e in mixed] == [4, 7, 2]
    both = replace(run.task, targets=(*numbers, *task().targets))
    worse = replace(entries[2], result={**(entries[2].result or {}), "calibrated_loss": 0.01})
    assert finalist.unsureness(worse, both) == 0.2, "that of classes alone says nothing of numbers"


def kept(folder: Path, name: str, accuracy: float, epochs: int = 100) -> None:
    """The folder of a finalist that was trained."""
    folder = folder / "finalists" / name
    folder.mkdir(parents=True)
    figures = {"seconds": 1.0, "schedule_epochs": epochs, "calibrated_loss": 1 - accuracy}
    result = {"validation": {"accuracy": accuracy}} | figures
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "model.ckpt").touch()
    number, _, network = name.partition("-network-")
    (folder / "recipe.yaml").write_text(f"{number} network {network}" if network else number)


def recipe_of(path: Path) -> dict[str, Any]:
    number = int(path.read_text().split()[0].split("-")[0])
    trained = next(c for c in RANKED if c.number == number)
    return {"model": {"init_args": {"family": trained.family, "config": trained.config}}}


@pytest.mark.parametrize("ended", [False, True], ids=["interrupted", "shorter"])
def test_what_earlier_searches_of_a_run_have_trained_is_not_trained_again(
    ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finals.recipes, "load", recipe_of)
    kept(tmp_path, "7", 0.9)
    kept(tmp_path, "2", 0.8)
    (tmp_path / "finalists" / "2" / "result.json").unlink()  # was interrupted
    earlier = Finished(2, 10, 10, {"test": {"accuracy": 0.9}}, "", (), 1) if ended else None
    scores: dict[int | str, float] = {4: 0.5, 2: 0.5}
    found, commands = finish(tmp_path, monkeypatch, scores, 300.0, earlier=earlier)
    assert (found.candidate, found.candidates) == (7, len(RANKED))
    assert [command[-2] for command in commands] == ["no", "no", "only"]
    assert [row["candidate"] for row in found.finalists] == [7, 4, 2]


def test_with_time_for_far_more_epochs_a_finalist_is_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finals.recipes, "load", recipe_of)
    kept(tmp_path, "7", 0.9, epochs=20)
    found, commands = finish(tmp_path, monkeypatch, {4: 0.5, 2: 0.5, 7: 0.6}, 300.0)
    assert [row["candidate"] for row in found.finalists] == [4, 7, 2]
    assert len(commands) == 4


def test_further_networks_and_shorter_schedules_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finals.recipes, "load", recipe_of)
    for name, accuracy in (("4", 0.8), ("4-30", 0.82), ("4-30-network-2", 0.8), ("42", 0.9)):
        kept(tmp_path, name, accuracy, epochs=30 if "30" in name else 100)
    kept(tmp_path, "4-ensemble", 0.9)
    found = list(finals._earlier(FakeRun(tmp_path, RANKED), RANKED[:1], 300.0))  # type: ignore[arg-type]
    kinds = [(e.folder.name, e.again, e.network, e.epochs) for e in found]
    assert kinds == [("4", False, 0, 100), ("4-30", True, 0, 30), ("4-30-network-2", True, 2, 30)]
    best = finalist.winner([e for e in found if not e.network], task())
    same = average._of(best, [e for e in found if e.network])
    assert average._next(same) == 3, "no number twice"


def test_without_time_a_model_that_there_is_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Finished(7, 10, 10, {"test": {"accuracy": 0.9}}, "", (), 1)
    run: Any = FakeRun(tmp_path, RANKED, ended)
    trained_by(monkeypatch, lambda *_: pytest.fail("nothing is trained"))
    site: Any = SimpleNamespace(count=2)
    assert train_finalists(run, site, time.monotonic() - 10, lambda _: None) is ended


class Ends:
    """A process that has ended with a ``code``, or that ends when it is asked to."""

    def __init__(self, code: int | None) -> None:
        self.returncode = code

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        self.returncode = -number

    kill = wait = poll


@pytest.mark.parametrize(
    ("code", "printed", "said"),
    [
        (0, '{"seconds": 1.0}', ""),
        (0, "", "Traceback of its own"),
        (-9, "", "for want of memory"),
        (1, "", "error: no such column"),
        (None, "", "took longer than the time"),
    ],
    ids=["ended", "silent", "killed", "failed", "late"],
)
def test_why_a_training_has_no_result_is_said(
    code: int | None, printed: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Site:
        count = 1

        def start(self, folder: Path, options: Any, output: Any, errors: Any, place: Any) -> Ends:
            output.write(printed.encode())
            errors.write(f"a line\n{said}\n".encode())
            return Ends(code)

    monkeypatch.setattr(jobs, "GRACE_S", 0.0)
    job = jobs.Job(tmp_path, (), tmp_path / "log", None)
    ((result, error),) = jobs.run_all([job], Site(), time.monotonic(), lambda _: None)
    assert bool(result) == bool(printed)
    assert said in error


def test_a_process_that_nothing_ends_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a drive that is gone."""
    signals: list[int] = []

    class Stuck(Ends):
        def send_signal(self, number: int) -> None:
            signals.append(number)

        def kill(self) -> None:
            signals.append(signal.SIGKILL)

    monkeypatch.setattr(jobs, "GRACE_S", 0.0)
    site: Any = SimpleNamespace(start=lambda *_: Stuck(None))
    job, end = jobs.Job(tmp_path, (), tmp_path / "log", None), time.monotonic() + 30.0

    def show(phase: str) -> None:
        assert time.monotonic() < end, "it waits for ever"

    ((result, error),) = jobs.run_all([job], site, time.monotonic(), show)
    assert signals == [signal.SIGINT, signal.SIGKILL, signal.SIGKILL]
    assert (result, error) == ({}, "it took longer than the time that was kept for it")


@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
def test_a_test_score_is_written_before_simple_models_are_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = Path(__file__).parent / "earlier_format"
    out = tmp_path / "model"
    shutil.copytree(earlier / "model", out)
    recipe = out / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("/data/wine.csv", str(earlier / "wine.csv")))

    def late(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(score, "tested", late)
    with pytest.raises(KeyboardInterrupt):
        score.score_once(recipe, out)
    written = json.loads((out / "result.json").read_text())
    assert 0.5 < written["test"]["accuracy"] <= 1.0
    assert written["test_interval"]["accuracy"]
    assert written["simple_test"] == {}
    monkeypatch.undo()
    whole = score.score_once(recipe, out)
    assert whole["simple_test"]
    assert json.loads((out / "result.json").read_text()) == whole
    assert whole["test"] == written["test"]
