"""Candidates: one line of JSON, one row of a table, feasible or not."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.candidate import Candidate, Cost, Health, Latency, Reason, State
from nas.space import Value
from nas.task import Constraint, InputError

CANDIDATE = Candidate(
    number=7,
    family="mlp",
    config={"residual": True, "depth": 1, "rate": 1.0, "norm": "1"},
    seed=3,
    root=2,
    origin="requeued",
    state=State.COMPLETE,
    metrics={"accuracy": 0.9, "params": 100.0},
    curve=({"accuracy": 0.8}, {"accuracy": 0.9}),
    cost=Cost(Latency(0.5, 0.1, isolated=True, threads=1, batch=1, rounds=50), step_ms=1.5),
    health=Health(samples=3, gradient_norm=0.25, step=20, layer="layers.0"),
    gradient_norms={"layers.0": 0.25},
    layers=({"name": "layers.0", "shape": [8, 3], "params": 32},),
    seconds=2.5,
)

numbers = st.floats()  # infinities and NaN too: what an exploding network leaves behind
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
config_values: st.SearchStrategy[Value] = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), names
)


@given(
    st.dictionaries(names, config_values, max_size=4),
    st.dictionaries(names, numbers, max_size=4),
    st.lists(st.dictionaries(names, numbers, max_size=2), max_size=3),
    st.sampled_from(State),
    st.text(st.characters(codec="utf-8")),
)
def test_a_candidate_is_one_line_of_json_that_keeps_every_value_and_type(
    config: dict[str, Value],
    metrics: dict[str, float],
    curve: list[dict[str, float]],
    state: State,
    detail: str,
) -> None:
    candidate = dataclasses.replace(
        CANDIDATE,
        config=config,
        metrics=metrics,
        gradient_norms=metrics,
        curve=tuple(curve),
        state=state,
        detail=detail,
    )
    line = candidate.to_json()
    assert "\n" not in line
    # repr distinguishes True from 1 and 1 from 1.0, and NaN is equal to itself there.
    assert repr(Candidate.from_json(line)) == repr(candidate)
    assert repr(Candidate.from_dict(json.loads(json.dumps(candidate.to_dict())))) == repr(candidate)


def test_infinite_and_missing_numbers_are_written_as_json_that_every_reader_takes() -> None:
    exploded = dataclasses.replace(CANDIDATE, gradient_norms={"a": math.inf, "b": math.nan})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    parsed = json.loads(exploded.to_json(), parse_constant=refuse)
    assert parsed["gradient_norms"] == {"a": "Infinity", "b": "NaN"}


@pytest.mark.parametrize(
    ("change", "place"),
    [({"state": "done"}, "state"), ({"metric": {}}, "metric"), ({"config": {"a": None}}, "config")],
)
def test_a_line_with_a_wrong_field_is_refused_by_its_place(
    change: dict[str, object], place: str
) -> None:
    with pytest.raises(InputError, match=f"not a valid Candidate: {place}"):
        Candidate.from_dict(CANDIDATE.to_dict() | change)


def test_a_row_is_flat_and_counts_the_epochs_that_were_run() -> None:
    row = CANDIDATE.row()
    assert row == {
        "number": 7,
        "family": "mlp",
        "state": "complete",
        "reason": "",
        "origin": "requeued",
        "epochs": 2,
        "seconds": 2.5,
        "accuracy": 0.9,
        "params": 100.0,
        "config.residual": True,
        "config.depth": 1,
        "config.rate": 1.0,
        "config.norm": "1",
    }


@pytest.mark.parametrize("state", State)
def test_only_a_complete_candidate_inside_every_limit_is_feasible(state: State) -> None:
    candidate = dataclasses.replace(CANDIDATE, state=state)
    inside = (Constraint("accuracy", ">=", 0.9), Constraint("params", "<=", 100))
    assert candidate.feasible(()) == candidate.feasible(inside) == (state is State.COMPLETE)
    assert not candidate.feasible((*inside, Constraint("params", "<=", 99)))


def test_a_candidate_without_metrics_is_infeasible_and_not_an_error() -> None:
    failed = Candidate(0, "mlp", {}, seed=0, state=State.FAILED, reason=Reason.ERROR)
    assert not failed.feasible((Constraint("accuracy", ">=", 0.5),))


def test_what_was_cut_off_does_not_stand_as_a_failure() -> None:
    ends = [
        (State.FAILED, "interrupted", ("cut off", "")),
        (State.FAILED, "lost", ("failed", "lost")),
        (State.PRUNED, "halving", ("pruned", "halving")),
        (State.RUNNING, "", ("running", "")),
    ]
    for state, reason, standing in ends:
        ended = dataclasses.replace(CANDIDATE, state=state, reason=reason)
        assert ended.standing == standing
        assert (ended.row()["state"], ended.row()["reason"]) == (state.value, reason)


def test_a_candidate_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CANDIDATE.state = State.FAILED  # type: ignore[misc]


def test_a_reason_is_the_word_that_files_hold_and_brings_its_kind_and_sentence() -> None:
    row = CANDIDATE.to_dict() | {"state": "pruned", "reason": "oom"}
    candidate = Candidate.from_dict(row)
    assert candidate.reason is Reason.OOM == "oom"
    assert candidate.to_dict()["reason"] == "oom"
    assert (candidate.reason.kind, candidate.reason.sentence) == ("limit", "ran out of memory")
    # An answer to a report travels as the word alone.
    assert dataclasses.replace(candidate, reason="nan").reason is Reason.NAN  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a valid Candidate: reason = 'tired'"):
        Candidate.from_dict(row | {"reason": "tired"})


def test_every_reason_but_none_says_its_kind_and_a_sentence() -> None:
    assert not Reason.NONE
    assert [r for r in Reason if not (r.kind and r.sentence)] == [Reason.NONE]


def test_figures_that_earlier_files_hold_by_other_keys_are_read_and_written_by_the_new_ones() -> (
    None
):
    earlier = {"ms": 0.5, "iqr_ms": 0.1, "quiet": 0.0, "threads": 1, "batch": 8}
    earlier |= {"loud_ms": 0.7, "loud_because": "its worker ended", "on": "phone"}
    latency = Candidate.from_dict(CANDIDATE.to_dict() | {"cost": {"latency": earlier}}).cost.latency
    assert latency is not None
    assert latency == Latency(
        0.5,
        0.1,
        False,
        1,
        8,
        contended_ms=0.7,
        contended_because="its worker ended",
        device="phone",
    )
    assert not {"quiet", "loud_ms", "loud_because", "on"} & set(latency.to_dict())
    assert Latency.from_json(json.dumps(earlier)) == latency
    assert Health.from_dict({"looks": 3}) == Health(samples=3)


def test_records_in_a_row_leave_out_what_says_nothing() -> None:
    plain = dataclasses.replace(CANDIDATE, cost=Cost(), health=Health())
    assert (plain.to_dict()["cost"], plain.to_dict()["health"]) == ({}, {})
    odd = dataclasses.replace(CANDIDATE, health=Health(2, gradient_norm=math.inf, value=math.nan))
    health = json.loads(odd.to_json())["health"]
    assert health == {"samples": 2, "gradient_norm": "Infinity", "value": "NaN"}
    assert repr(Candidate.from_json(odd.to_json())) == repr(odd)


def test_figures_without_a_latency_or_with_a_foreign_key_are_refused_by_their_place() -> None:
    for cost, place in (({"latency": {"ms": 1.0}}, "cost.latency"), ({"kernel": 1}, "cost.kernel")):
        with pytest.raises(InputError, match=f"not a valid Candidate: {place}"):
            Candidate.from_dict(CANDIDATE.to_dict() | {"cost": cost})
