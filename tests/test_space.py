"""Spaces: whatever is sampled, mutated or suggested is a point of the space."""

from __future__ import annotations

import doctest
import importlib
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.space import (
    Choice,
    Config,
    Float,
    Int,
    Param,
    Space,
    Value,
    When,
    config_key,
    join_family,
    split_family,
)
from nas.task import InputError, UsageError

optuna.logging.set_verbosity(optuna.logging.WARNING)

seeds = st.integers(0, 2**32 - 1)
values = st.one_of(
    st.booleans(),
    st.integers(-99, 99),
    st.floats(-99, 99),
    st.text(st.characters(codec="utf-8"), max_size=4),
)


def domain(param: Param) -> tuple[Value, ...]:
    """Every value of a parameter with finitely many."""
    if isinstance(param, Choice):
        return param.options
    assert isinstance(param, Int)
    return tuple(v for v in range(param.low, param.high + 1) if (v - param.low) % param.step == 0)


@st.composite
def ints(draw: st.DrawFn, name: str, when: When, most: int) -> Int:
    log, step = draw(st.booleans()), draw(st.integers(1, 9))
    low = draw(st.integers(1 if log else -30, 30))
    steps = draw(st.integers(0, most - 1))
    slack = draw(st.integers(0, step - 1))  # high need not be on the grid
    default = low + step * draw(st.integers(0, steps))
    return Int(name, low, low + step * steps + slack, default, step, log, when, ("R1",))


@st.composite
def floats(draw: st.DrawFn, name: str, when: When) -> Float:
    log = draw(st.booleans())
    low = draw(st.floats(1e-6 if log else -1e3, 1e3))
    high = low + draw(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)))
    return Float(name, low, high, draw(st.floats(low, high)), log, when, ("R2", "R3"))


@st.composite
def choices(draw: st.DrawFn, name: str, when: When) -> Choice:
    options = draw(st.lists(values, min_size=1, max_size=4, unique=True))
    return Choice(name, tuple(options), draw(st.sampled_from(options)), when)


@st.composite
def spaces(draw: st.DrawFn, conditional: bool = True, finite: bool = False) -> Space:
    """Up to six parameters; any may wait for up to two before it, which may wait themselves."""
    params: list[Param] = []
    for name in "abcdef"[: draw(st.integers(1, 4 if finite else 6))]:
        parents = [p for p in params if not isinstance(p, Float)] if conditional else []
        when = {
            parent.name: tuple(
                draw(st.lists(st.sampled_from(domain(parent)), min_size=1, unique=True))
            )
            for parent in draw(
                st.lists(st.sampled_from(parents), max_size=2, unique_by=lambda p: p.name)
                if parents
                else st.just([])
            )
        }
        most = 4 if finite else 30
        kinds: list[st.SearchStrategy[Param]] = [ints(name, when, most), choices(name, when)]
        params.append(draw(st.one_of(kinds if finite else [*kinds, floats(name, when)])))
    return Space(tuple(params))


def exactly(value: object) -> str:
    """repr tells True from 1 and 1 from 1.0, which == does not."""
    return repr(value)


# --- every way to draw a configuration ---------------------------------------------


@given(spaces(), seeds)
def test_samples_mutants_and_the_baseline_are_points_of_the_space(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = space.baseline()
    space.check(config)
    for changes in range(4):
        space.check(space.mutate(config, rng, changes))
        config = space.sample(rng)
        space.check(config)


@settings(max_examples=50)
@given(spaces(), seeds)
def test_what_optuna_suggests_is_a_point_of_the_space(space: Space, seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(3):
        space.check(space.suggest(study.ask()))


@settings(max_examples=50)
@given(spaces())
def test_an_enqueued_baseline_comes_back_from_optuna_unchanged(space: Space) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.baseline())
    assert exactly(space.suggest(study.ask())) == exactly(space.baseline())


def test_a_mutant_suggested_by_tpe_after_many_trials_is_still_a_point_of_the_space() -> None:
    space = Space(
        (
            Choice("kind", ("plain", "residual"), "plain"),
            Int("depth", 2, 9, 3, when={"kind": ("plain",)}),
            Int("width", 8, 60, 16, step=8, log=True),
            Float("rate", 1e-5, 1e-1, 1e-3, log=True),
        )
    )
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))
    for _ in range(25):
        trial = study.ask()
        config = space.suggest(trial)
        space.check(config)
        study.tell(trial, abs(float(config["rate"]) - 0.01))


@given(spaces(conditional=False), seeds, st.integers(0, 7))
def test_a_mutation_changes_exactly_as_many_parameters_as_asked(
    space: Space, seed: int, changes: int
) -> None:
    rng = np.random.default_rng(seed)
    old = space.sample(rng)
    new = space.mutate(old, rng, changes)
    movable = sum(param.size > 1 for param in space.params)
    changed = [name for name in old if exactly(old[name]) != exactly(new[name])]
    assert len(changed) == min(changes, movable)


@given(spaces(), seeds, st.integers(1, 3))
def test_a_mutation_keeps_what_it_did_not_draw_and_starts_new_children_at_their_default(
    space: Space, seed: int, changes: int
) -> None:
    rng = np.random.default_rng(seed)
    old = space.sample(rng)
    new = space.mutate(old, rng, changes)
    changed = [name for name in old if name in new and old[name] != new[name]]
    assert len(changed) <= changes
    assert changed or not any(space[name].size > 1 for name in old)
    assert all(new[name] == space[name].default for name in new if name not in old)


def test_a_mutation_can_reach_every_neighbour() -> None:
    space = Space((Int("a", 1, 3, 1), Choice("b", ("x", "y", "z"), "x")))
    rng = np.random.default_rng(0)
    seen = {config_key("f", space.mutate({"a": 1, "b": "x"}, rng)) for _ in range(200)}
    neighbours: list[Config] = [
        {"a": 2, "b": "x"},
        {"a": 3, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 1, "b": "z"},
    ]
    assert seen == {config_key("f", config) for config in neighbours}


# --- the ends of a range -----------------------------------------------------------

RANGES = [
    Int("n", 0, 6, 0),
    Int("n", -3, 3, 0),
    Int("n", 2, 17, 2, step=5),
    Int("n", 2, 18, 2, step=5),  # 18 is not on the grid
    Int("n", 1, 8, 1, log=True),
    Int("n", 8, 64, 8, step=8, log=True),
    Int("n", 8, 60, 8, step=8, log=True),
    Int("n", 5, 5, 5, log=True),
]


@pytest.mark.parametrize("param", RANGES, ids=lambda p: p.domain)
def test_an_int_reaches_every_value_up_to_the_top(param: Int) -> None:
    rng = np.random.default_rng(0)
    assert {param.sample(rng) for _ in range(2000)} == set(domain(param))


@pytest.mark.parametrize("param", RANGES, ids=lambda p: p.domain)
def test_an_int_suggested_by_optuna_reaches_every_value_up_to_the_top(param: Int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    assert {param.suggest(study.ask(), "n") for _ in range(400)} == set(domain(param))


@pytest.mark.parametrize(
    "param", [Int("n", 1, 10_000, 1, log=True), Float("x", 1e-4, 1e4, 1.0, log=True)]
)
def test_a_log_parameter_puts_half_of_its_samples_below_the_geometric_mean(
    param: Int | Float,
) -> None:
    rng = np.random.default_rng(0)
    samples = np.array([param.sample(rng) for _ in range(4000)])
    assert np.mean(samples < math.sqrt(param.low * param.high)) == pytest.approx(0.5, abs=0.03)


@given(ints("n", {}, 30), st.floats(-1e6, 1e6))
def test_snap_gives_the_nearest_value_of_the_grid(param: Int, value: float) -> None:
    snapped = param.snap(value)
    assert param.contains(snapped)
    assert abs(snapped - value) == pytest.approx(min(abs(float(v) - value) for v in domain(param)))


# --- counting ----------------------------------------------------------------------


@given(spaces(finite=True))
def test_size_is_the_number_of_distinct_configurations(space: Space) -> None:
    distinct = set()
    for row in itertools.product(*map(domain, space.params)):
        config: Config = {}
        for param, value in zip(space.params, row, strict=True):
            if all(p in config and config[p] in allowed for p, allowed in param.when.items()):
                config[param.name] = value
        distinct.add(frozenset(config.items()))
    assert space.size == len(distinct)


def test_a_real_valued_parameter_makes_a_space_infinite_only_where_it_can_be_active() -> None:
    switch = Choice("on", (True, False), False)
    rate = Float("rate", 0.0, 1.0, 0.5, when={"on": (True,)})
    fixed = Float("rate", 0.5, 0.5, 0.5, when={"on": (True,)})
    assert Space((switch, rate)).size == math.inf
    assert Space((switch, fixed)).size == 2


# --- JSON --------------------------------------------------------------------------


@given(spaces())
def test_a_space_survives_json_with_every_type_kept(space: Space) -> None:
    assert exactly(Space.from_json(space.to_json())) == exactly(space)
    assert exactly(Space.from_dict(json.loads(json.dumps(space.to_dict())))) == exactly(space)


def test_a_space_with_an_unknown_field_is_refused() -> None:
    data = Space((Int("depth", 1, 3, 1),)).to_dict()
    data["params"][0]["hgih"] = 9
    with pytest.raises(InputError, match="hgih"):
        Space.from_dict(data)


# --- families ----------------------------------------------------------------------


@given(st.dictionaries(st.sampled_from(["mlp", "resnet", "vit"]), spaces(), min_size=1), seeds)
def test_a_joined_configuration_splits_into_a_point_of_its_family(
    families: dict[str, Space], seed: int
) -> None:
    joined = Space.join(families)
    config = joined.sample(np.random.default_rng(seed))
    joined.check(config)
    name, own = split_family(config)
    families[name].check(own)
    assert join_family(name, own) == config
    assert joined.size == sum(space.size for space in families.values())


@given(spaces(), seeds)
def test_joining_and_splitting_a_configuration_gives_it_back(space: Space, seed: int) -> None:
    config = space.sample(np.random.default_rng(seed))
    assert split_family(join_family("mlp", config)) == ("mlp", config)


def test_equal_configurations_have_one_key_and_a_switch_is_not_a_number() -> None:
    assert config_key("f", {"a": 1, "b": 2}) == config_key("f", {"b": 2, "a": 1})
    keys = [config_key("f", {"a": value}) for value in (1, True, "1")] + [config_key("g", {"a": 1})]
    assert len(set(keys)) == 4


# --- mistakes ----------------------------------------------------------------------

BAD_DECLARATIONS: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (lambda: Int("depth", 5, 3, 4), ("depth", "low <= high", "5, 3")),
    (lambda: Int("depth", 1, 3, 4), ("depth", "default 4", "1 … 3")),
    (lambda: Int("depth", 1, 9, 4, step=2), ("depth", "default 4", "1 … 9 step 2")),
    (lambda: Int("depth", 1, 9, 1, step=0), ("depth", "step >= 1", "0")),
    (lambda: Int("depth", 0, 9, 1, log=True), ("depth", "low >= 1", "0")),
    (lambda: Int("depth", 0, 9, True), ("depth", "True")),
    (lambda: Float("rate", 1.0, 0.5, 0.7), ("rate", "low <= high", "1.0, 0.5")),
    (lambda: Float("rate", 0.0, math.inf, 0.7), ("rate", "finite", "inf")),
    (lambda: Float("rate", math.nan, 1.0, 0.7), ("rate", "finite", "nan")),
    (lambda: Float("rate", 0.0, 0.5, 0.1, log=True), ("rate", "low > 0", "0.0")),
    (lambda: Float("rate", 0.0, 0.5, 0.7), ("rate", "default 0.7", "0 … 0.5")),
    (lambda: Choice("norm", (), "batch"), ("norm", "not empty")),
    (lambda: Choice("norm", ("batch", "batch"), "batch"), ("norm", "distinct", "batch")),
    (lambda: Choice("norm", (1, True), 1), ("norm", "distinct", "(1, True)")),
    (lambda: Choice("norm", ("batch", None), "batch"), ("norm", "None")),  # type: ignore[arg-type]
    (lambda: Choice("norm", ("batch", "layer"), "none"), ("norm", "'none'", "batch | layer")),
    (lambda: Choice("norm", (1, 2), True), ("norm", "True", "1 | 2")),
    (lambda: Space((Int("a", 1, 2, 1), Int("a", 1, 2, 1))), ("two parameters", "'a'")),
    (lambda: Space((Int("a", 1, 2, 1, when={"b": (1,)}), Int("b", 1, 2, 1))), ("'a'", "'b'")),
    (
        lambda: Space((Int("a", 1, 2, 1), Int("b", 1, 2, 1, when={"a": (3,)}))),
        ("'b'", "a = [3]", "1 … 2"),
    ),
    (lambda: Space((Int("a", 1, 2, 1), Int("b", 1, 2, 1, when={"a": ()}))), ("'b'", "a = ()")),
    (
        lambda: Space((Float("a", 0.0, 1.0, 0.5), Int("b", 1, 2, 1, when={"a": (0.5,)}))),
        ("'b'", "'a'", "is a Float"),
    ),
]


@pytest.mark.parametrize(("declare", "words"), BAD_DECLARATIONS)
def test_a_bad_declaration_is_refused_by_name_and_value(
    declare: Callable[[], Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011  # the words are checked below
        declare()
    assert [word for word in words if word not in str(error.value)] == []


CHECKED = Space(
    (
        Choice("kind", ("plain", "residual"), "plain"),
        Int("depth", 2, 8, 4, step=2, when={"kind": ("plain",)}),
        Float("rate", 1e-4, 0.1, 1e-3, log=True),
    )
)
GOOD: Config = {"kind": "plain", "depth": 4, "rate": 0.01}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GOOD | {"depth": 5}, ("depth = 5", "2 … 8 step 2")),
        (GOOD | {"depth": 10}, ("depth = 10", "2 … 8 step 2")),
        (GOOD | {"depth": 4.0}, ("depth = 4.0", "2 … 8 step 2")),
        (GOOD | {"rate": 1.0}, ("rate = 1.0", "0.0001 … 0.1 log")),
        (GOOD | {"rate": True}, ("rate = True", "0.0001 … 0.1 log")),
        (GOOD | {"rate": "fast"}, ("rate = 'fast'", "0.0001 … 0.1 log")),
        # The parent is wrong, not the child that waits for it.
        (GOOD | {"kind": "plane"}, ("kind = 'plane'", "plain | residual")),
        (GOOD | {"kind": "residual"}, ("'depth' does not apply", "kind, rate")),
        (GOOD | {"width": 3}, ("'width' does not apply", "kind, depth, rate")),
        ({"kind": "plain", "rate": 0.01}, ("'depth' is missing", "2 … 8 step 2")),
        ({"kind": "plain", "dept": 4, "rate": 0.01}, ("'dept' does not apply", "depth")),
        ({}, ("'kind' is missing", "plain | residual")),
    ],
)
def test_check_names_the_parameter_and_its_domain(config: Config, words: tuple[str, ...]) -> None:
    CHECKED.check(GOOD)
    with pytest.raises(UsageError) as error:
        CHECKED.check(config)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_parameter_is_found_by_its_name() -> None:
    assert CHECKED["depth"].default == 4
    with pytest.raises(KeyError, match="width"):
        CHECKED["width"]


@pytest.mark.parametrize("module", ["nas.space", "nas.audit", "nas.candidate", "nas.front"])
def test_the_examples_of_docstrings_are_what_they_give(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted
    assert not results.failed
