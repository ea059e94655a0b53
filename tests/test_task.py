"""Tasks: what a user may write, what it means, and that JSON keeps it."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.task import (
    COSTS,
    DIRECTIONS,
    Budget,
    Column,
    Constraint,
    DataProfile,
    Fidelity,
    InputError,
    Kind,
    NoFeasibleCandidate,
    Objective,
    SelfCheckFailed,
    Target,
    Task,
    UsageError,
    direction,
)

PROFILE = DataProfile(
    n_train=70,
    n_val=15,
    n_test=15,
    inputs={"numeric": (3,), "categorical": (1,)},
    columns=(
        Column("age", "numeric", missing=0.1, mean=40.5, std=9.0, quantiles=(18.0, 41.0, 90.0)),
        Column("city", "categorical", categories=("Köln", "Łódź")),
    ),
    fingerprint="ab12",
    split_method="stratified",
)


def task(*targets: Target) -> Task:
    return Task("tabular", targets or (Target("y", "binary", ("no", "yes"), (60, 10)),), PROFILE)


# --- constraints -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency_ms<=5", Constraint("latency_ms", "<=", 5.0)),
        ("  latency_ms <= 5.5 ", Constraint("latency_ms", "<=", 5.5)),
        ("latency_ms<5", Constraint("latency_ms", "<=", 5.0)),
        ("params<=1e6", Constraint("params", "<=", 1e6)),
        ("params<=1_000_000", Constraint("params", "<=", 1e6)),
        ("accuracy>=0.9", Constraint("accuracy", ">=", 0.9)),
        ("accuracy>.9", Constraint("accuracy", ">=", 0.9)),
        ("r2>=-1", Constraint("r2", ">=", -1.0)),
        ("rmse[house price]<=2.5", Constraint("rmse[house price]", "<=", 2.5)),
    ],
)
def test_a_constraint_is_read_from_text(text: str, expected: Constraint) -> None:
    assert Constraint.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latency_ms",
        "latency_ms=5",
        "latency_ms==5",
        "<=5",
        "latency_ms<=",
        "latency_ms<=fast",
        "latency_ms<=5ms",
        "latency_ms<=5,params<=3",
        "5>=latency_ms",
        "params<=1e",
        "params<=nan",
        "params<=1e999",
    ],
)
def test_a_malformed_constraint_is_refused_with_the_form_it_should_have(text: str) -> None:
    with pytest.raises(UsageError, match="METRIC<=NUMBER") as error:
        Constraint.parse(text)
    assert repr(text) in str(error.value)


def test_a_constraint_on_an_unknown_metric_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"unknown metric 'latency'.*latency_ms"):
        Constraint.parse("latency<=5")


@pytest.mark.parametrize(
    ("refused", "met", "shown"),
    [
        ("accuracy>=1.01", "accuracy>=1", "accuracy lies between 0 and 1"),
        ("accuracy>=90", "accuracy>=0.9", "90 % are 0.9"),
        ("f1<=-0.1", "f1<=0", "f1 lies between 0 and 1"),
        ("auc[sold] > 2", "auc[sold]<=2", r"auc\[sold\] lies between 0 and 1"),
        ("balanced_accuracy>=2", "balanced_accuracy<=2", "lies between"),
        ("r2>=1.5", "r2<=-5", "r2 is at most 1"),
        ("score>=2", "score>=-2", "score is at most 1"),
        ("params<=-1", "params>=1e9", "params is at least 0"),
        ("latency_ms<=-0.1", "latency_ms<=0", "latency_ms is at least 0"),
        ("rmse<=-1", "rmse>=5", "rmse is at least 0"),
    ],
)
def test_a_limit_that_no_value_of_its_metric_meets_is_refused(
    refused: str, met: str, shown: str
) -> None:
    with pytest.raises(UsageError, match=f"no network can meet '.*{shown}"):
        Constraint.parse(refused)
    Constraint.parse(met)


# On the side where no bound is out of reach.
open_sides = [(name, ">=" if way == "min" else "<=") for name, way in DIRECTIONS.items()]
open_sides = [(n, op) for n, op in open_sides if op == ">=" or n in ("r2", "score")]
bounds = st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6).map(lambda x: float(f"{x:.15g}"))


@given(st.sampled_from(open_sides), bounds)
def test_a_printed_constraint_reads_back_as_itself(side: tuple[str, str], bound: float) -> None:
    constraint = Constraint.parse(f"{side[0]}{side[1]}{bound!r}")
    assert constraint.bound == bound
    assert Constraint.parse(str(constraint)) == constraint


@pytest.mark.parametrize(
    ("text", "value", "violation"),
    [
        ("latency_ms<=5", 4.0, -1.0),
        ("latency_ms<=5", 5.0, 0.0),
        ("latency_ms<=5", 7.0, 2.0),
        ("accuracy>=0.5", 0.75, -0.25),
        ("accuracy>=0.5", 0.25, 0.25),
        ("latency_ms<=5", math.inf, math.inf),
    ],
)
def test_a_violation_is_the_distance_outside_in_the_units_of_the_metric(
    text: str, value: float, violation: float
) -> None:
    constraint = Constraint.parse(text)
    metrics = {constraint.metric: value}
    assert constraint.violation(metrics) == violation
    assert constraint.met(metrics) == (violation <= 0)


def test_a_metric_that_is_nan_meets_no_constraint() -> None:
    assert not Constraint("latency_ms", "<=", 5).met({"latency_ms": math.nan})
    assert not Constraint("accuracy", ">=", 0).met({"accuracy": math.nan})


# --- objectives --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("accuracy", "max"), ("rmse", "min"), ("rmse[price]", "min"), ("f1[a]", "max")],
)
def test_a_metric_of_one_target_is_judged_like_the_metric(metric: str, expected: str) -> None:
    assert direction(metric) == expected


def test_every_cost_is_a_metric_that_is_better_low() -> None:
    assert [name for name in COSTS if direction(name) != "min"] == []


def test_an_unknown_metric_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"unknown metric 'speed'; known are accuracy, .*params"):
        direction("speed")


@pytest.mark.parametrize(
    ("kinds", "quality", "outputs"),
    [
        (("binary",), "accuracy", 2),
        (("multiclass",), "accuracy", 2),
        (("multilabel",), "f1", 2),
        (("regression",), "rmse", 1),
        (("regression", "binary"), "score", 3),
        (("regression", "regression"), "score", 2),
    ],
)
def test_the_kind_of_problem_sets_the_quality_and_the_outputs(
    kinds: tuple[Kind, ...], quality: str, outputs: int
) -> None:
    targets = [
        Target(f"y{i}", kind, () if kind == "regression" else ("no", "yes"))
        for i, kind in enumerate(kinds)
    ]
    problem = task(*targets)
    assert (problem.default_quality, problem.outputs) == (quality, outputs)
    names = [objective.metric for objective in problem.with_objectives().objectives]
    assert names == [quality, "latency_ms", "params"]


def test_objectives_take_their_direction_from_the_metric_and_leave_the_rest_alone() -> None:
    before = task()
    after = before.with_objectives(("params", "auc"))
    assert after.objectives == (Objective("params", "min"), Objective("auc", "max"))
    assert (before.objectives, after.profile, after.targets) == ((), PROFILE, before.targets)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("latency_ms", "params"), "hold no quality; add accuracy"),
        (("accuracy", "params", "accuracy"), "name one metric twice"),
        (("accuracy", "speed"), "unknown metric 'speed'"),
    ],
)
def test_objectives_that_make_no_search_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        task().with_objectives(names)


# --- the profile -------------------------------------------------------------------


def test_features_count_the_values_of_one_sample_over_all_inputs() -> None:
    assert PROFILE.features == 4
    assert DataProfile(1, 1, 1, {"image": (3, 8, 5), "age": (1,)}).features == 121


@pytest.mark.parametrize(("counts", "expected"), [((60, 10), 6.0), ((5, 0, 10), 2.0), ((), 1.0)])
def test_imbalance_compares_the_classes_that_were_seen(
    counts: tuple[int, ...], expected: float
) -> None:
    assert Target("y", "multiclass", ("a", "b", "c"), counts).imbalance == expected


# --- JSON --------------------------------------------------------------------------

RECORDS = [
    PROFILE,
    Column("age", "numeric", quantiles=(0.1, 1 / 3)),
    Target("y", "regression", mean=-1.5, std=1e-300),
    Constraint("params", "<=", 1e6),
    Constraint("params", "<=", math.inf),
    Budget(time_limit_s=None, trials=3),
    Fidelity(epochs=3, share=0.1, time_limit_s=2.5),
    task(),
    task(Target("a", "regression"), Target("b", "multilabel", ("x", "y"))).with_objectives(),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_a_record_survives_json(record: Task) -> None:
    assert type(record).from_json(record.to_json()) == record
    assert type(record).from_json(record.to_json().encode()) == record
    assert type(record).from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_record_of_defaults_reads_from_the_fields_without_one() -> None:
    assert Fidelity.from_dict({"epochs": 4}) == Fidelity(4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 3}, ("Task", "epoch")),
        ({"profile": {"n_train": 1}}, ("profile.n_val",)),
        ({"modality": "smells"}, ("modality", "'smells'", "'tabular'")),
        ({"seed": "many"}, ("seed", "'many'", "integer")),
        ({"budget": {"time_limit_s": "1h", "trials": 3}}, ("budget.time_limit_s", "'1h'")),
        ({"fidelity": {"epochs": 3, "share": 1.0, "epoch": 4}}, ("fidelity.epoch", "4")),
    ],
)
def test_a_wrong_field_is_refused_by_its_place_and_value(
    change: dict[str, object], words: tuple[str, ...]
) -> None:
    data = task().to_dict() | change
    with pytest.raises(InputError) as from_dict:
        Task.from_dict(data)
    with pytest.raises(InputError) as from_json:
        Task.from_json(json.dumps(data))
    for message in (str(from_dict.value), str(from_json.value)):
        assert [word for word in words if word not in message] == []
        assert "\n" not in message


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(InputError, match=r"not a valid Fidelity: .*JSON"):
        Fidelity.from_json("{epochs: 3")


def test_each_kind_of_failure_has_its_own_exit_code() -> None:
    errors = (InputError, UsageError, NoFeasibleCandidate, SelfCheckFailed)
    assert [error.exit_code for error in errors] == [1, 2, 3, 4]
    assert all(issubclass(error, InputError) for error in errors)
