"""The design rules: each has a source, and the bounds that follow from a task keep to them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas import rules
from nas.family import load_families
from nas.space import Choice, Float
from nas.task import (
    Budget,
    Column,
    Constraint,
    DataProfile,
    Fidelity,
    Modality,
    Objective,
    Target,
    Task,
)
from nas.testing import example_datasets
from nas.training.batches import Batches

COUNTS = st.integers(10, 10**8)
YES = Target("y", "binary", ("no", "yes"), (90, 10))


def task(n_train: int, modality: str = "tabular", *limits: str) -> Task:
    shape: dict[str, tuple[int, ...]] = (
        {"numeric": (3,)} if modality == "tabular" else {"image": (1, 40, 100)}
    )
    columns = tuple(Column(name, "numeric", quantiles=(0.0, 1.0, 2.0)) for name in "abc")
    profile = DataProfile(n_train, 10, 10, shape, columns=columns if "numeric" in shape else ())
    constraints = tuple(Constraint.parse(text) for text in limits)
    return Task(modality, (YES,), profile, constraints=constraints).with_objectives()  # type: ignore[arg-type]


def test_every_rule_has_a_sentence_and_a_source_with_a_year() -> None:
    for name, rule in rules.RULES.items():
        assert name == rule.id
        assert rule.statement.endswith(".")
        assert any(
            part.isdigit() and len(part) == 4 for part in rule.source.replace(",", "").split()
        )


def test_every_rule_is_the_reason_of_a_parameter_or_of_the_search_itself() -> None:
    named = {"baseline-first", "proxy-steps", "cross-validation", "micro-batch"}
    for modality in get_args(Modality):
        profiles = [data.profile for data in example_datasets(modality).values()]
        if modality in ("tabular", "images"):
            profiles.append(task(100, modality).profile)
        if modality == "graphs":  # many words, which a node holds or not
            inputs = profiles[-1].inputs | {"nodes": (60, 500)}
            zeros, ones = (0.0,) * 500, (1.0,) * 500
            words = replace(profiles[-1], inputs=inputs, channel_mean=zeros, channel_std=ones)
            profiles.append(words)
        for profile in profiles:
            long = {name: tuple(100 * n for n in found) for name, found in profile.lengths.items()}
            for n, limit in ((40, "params<=1e9"), (10**4, "params<=1e5"), (10**6, "params<=1e9")):
                for lengths in (profile.lengths, long):
                    of_size = replace(profile, n_train=n, lengths=lengths)
                    given_task = replace(task(n, modality, limit), profile=of_size)
                    given_task = replace(given_task, objectives=(Objective("f1", "max"),))
                    for family in load_families(modality).values():
                        space = family.space(given_task)
                        named |= {rule for p in space.params for rule in p.why}
    # A table of many columns on few rows meets the cap.
    wide = tuple(Column(f"x{i}", "numeric", quantiles=(0.0, 1.0)) for i in range(12_000))
    profile = DataProfile(100, 10, 10, {"numeric": (12_000,)}, columns=wide)
    many = load_families()["mlp"].space(Task("tabular", (YES,), profile))
    named |= {rule for p in many.params for rule in p.why}
    assert named == set(rules.RULES)


@given(COUNTS, st.sampled_from(["tabular", "images"]))
def test_batches_are_powers_of_two_that_leave_enough_steps(n: int, modality: str) -> None:
    sizes, default = rules.batch_sizes(task(n, modality))
    assert default in sizes
    assert list(sizes) == sorted(set(sizes))
    assert all(size == 2 ** int(math.log2(size)) for size in sizes)
    assert max(sizes) <= (512 if modality == "tabular" else 64)
    assert default <= max(4, n // 4)
    if n >= 640:
        assert min(sizes) >= 16
        assert n / default >= 40
    if n >= 64:
        assert min(sizes) >= 16, "BatchNorm is offered from 16 on"


@given(COUNTS, COUNTS)
def test_bounds_grow_with_the_data_and_stay_within_their_range(few: int, many: int) -> None:
    few, many = sorted((few, many))
    low, high = task(few), task(many)
    assert 2 <= rules.scale(low) <= rules.scale(high) <= 6
    assert 1 >= rules.risk(low) >= rules.risk(high) >= 0
    assert rules.depth(low, base=4, default=3).high <= rules.depth(high, base=4, default=3).high
    widths = [rules.width(t, "w", low=8, base=64, default=128).high for t in (low, high)]
    assert 64 <= widths[0] <= widths[1] <= 64 * 16
    assert 0.5 >= rules.dropout(low).high >= rules.dropout(high).high >= 0.1


@given(st.integers(200, 10**7), st.integers(0, 500), st.floats(1, 20), st.integers(1, 9))
def test_a_width_keeps_the_limit_wherever_the_narrowest_network_does(
    limit: int, inputs: int, weights: float, layers: int
) -> None:
    limited = task(10**6, "tabular", f"params<={limit}")
    found = rules.width(
        limited, "w", low=8, base=64, default=128, weights=weights, layers=layers, inputs=inputs
    )

    def params(width: int, layers: int) -> float:
        return inputs * width + layers * weights * width**2

    assert found.high == 8 or params(found.high, 1) <= limit
    assert found.default == 8 or params(found.default, layers) <= limit
    capped = params(64 * 16, 1) > limit
    assert ("cost-from-the-start" in found.why) == capped


def test_the_cap_on_parameters_is_two_thousand_a_sample_but_no_less_than_half_a_million() -> None:
    assert [rules.parameter_cap(task(n)) for n in (10, 250, 10**4)] == [500_000, 500_000, 2 * 10**7]
    assert rules.params_limit(task(10, "tabular", "params<=1e9", "params>=3")) == 500_000
    assert rules.params_limit(task(10, "tabular", "params<=900", "params<=1e4")) == 900


@given(COUNTS)
def test_training_parameters_stay_where_the_rules_put_them(n: int) -> None:
    params = {p.name: p for p in rules.training(task(n), lr=1e-3)}
    lr, decay = params["lr"], params["weight_decay"]
    assert isinstance(lr, Float)
    assert isinstance(decay, Float)
    assert (lr.low, lr.high) == pytest.approx((2e-4, 5e-3))
    assert (decay.low, decay.high) == (1e-4, 1e-2)
    assert decay.default == pytest.approx(1e-4 * 10 ** (1.5 * rules.risk(task(n))))


@pytest.mark.parametrize(
    ("metric", "counts", "offered"),
    [
        ("balanced_accuracy", (90, 10), True),
        ("f1", (90, 10), True),
        ("accuracy", (90, 10), False),
        ("f1", (50, 50), False),
    ],
)
def test_classes_are_weighed_only_where_that_serves_the_objective(
    metric: str, counts: tuple[int, ...], offered: bool
) -> None:
    given_task = task(1_000).with_objectives((metric,))
    given_task = replace(given_task, targets=(replace(YES, counts=counts),))
    assert ("class_weights" in {p.name for p in rules.training(given_task, lr=1e-3)}) == offered


def test_small_batches_have_groupnorm_alone() -> None:
    few, many = (rules.conv_norm(task(n, "images"), "norm") for n in (40, 64))
    assert few.options == ("group",)
    assert "groupnorm-for-small-batches" in few.why
    assert many.options == ("batch", "group")


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((1, 8, 8), (8,)), ((3, 40, 100), (32, 48, 64, 100)), ((3, 128, 32), (32, 48, 64, 96, 128))],
)
def test_resolutions_go_down_to_32_from_the_images_own(
    shape: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    given_task = task(1_000, "images")
    given_task = replace(given_task, profile=replace(given_task.profile, inputs={"image": shape}))
    assert rules.resolutions(given_task) == sizes
    space = load_families()["vit"].space(given_task)
    for size in sizes:
        patches = space[f"patch@{size}"]
        assert isinstance(patches, Choice)
        assert all(16 <= math.ceil(size / int(p)) ** 2 <= 256 for p in patches.options)


@given(COUNTS, st.sampled_from(["tabular", "images"]))
def test_a_proxy_trains_for_some_steps_of_a_capped_share(n: int, modality: str) -> None:
    given_task = task(n, modality)
    fidelity = rules.fidelity(given_task)
    samples = round(fidelity.share * n)
    assert samples <= (32_000 if modality == "tabular" else 8_000)
    assert samples == n or fidelity.share < 1
    assert 4 <= fidelity.epochs <= 30
    steps = fidelity.epochs * rules.steps_per_epoch(samples, rules.batch_sizes(given_task)[1])
    wanted = 1_600 if modality == "tabular" else 500
    assert steps <= 2 * wanted
    assert n < 2_000 or steps >= wanted / 2


def test_a_candidate_gets_a_fifteenth_of_all_worker_time() -> None:
    given_task = replace(task(1_000), budget=Budget(time_limit_s=900, workers=4))
    assert rules.fidelity(given_task).time_limit_s == 240
    assert rules.fidelity(replace(given_task, budget=Budget(30))).time_limit_s == 20
    assert rules.fidelity(replace(given_task, budget=Budget(None))).time_limit_s is None
    for hours in ({"cpu_hours": 0.5, "cpus": 0.5}, {"gpu_hours": 0.25, "gpus": 0.25}):
        budget = Budget(7200, workers=4, **hours)
        assert rules.fidelity(replace(given_task, budget=budget)).time_limit_s == 240


@given(st.integers(2, 500), st.integers(2, 100))
def test_steps_of_an_epoch_are_those_that_the_batches_give(samples: int, batch: int) -> None:
    x = {"x": torch.zeros(samples)}
    assert rules.steps_per_epoch(samples, batch) == len(list(Batches(x, x, batch, seed=0)))


@given(COUNTS, st.integers(1, 40), st.sampled_from([16, 64, 256]))
def test_a_recipe_trains_at_least_as_long_as_its_proxy_and_three_times_at_most(
    n: int, epochs: int, batch: int
) -> None:
    given_task = replace(task(n), fidelity=Fidelity(epochs))
    assert epochs <= rules.full_epochs(given_task, batch) <= 3 * epochs
