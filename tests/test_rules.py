"""The design rules: each has a source, and the bounds that follow from a task keep to them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas import rulebook, rules
from nas.family import Family, load_families, pick_families
from nas.rulebook import typical_task
from nas.space import Choice, Float, Int, Param, Space
from nas.task import (
    Budget,
    Column,
    Constraint,
    DataProfile,
    Fidelity,
    Modality,
    Target,
    Task,
)
from nas.training.batches import Batches

COUNTS = st.integers(10, 10**8)
YES = Target("y", "binary", ("no", "yes"), (90, 10))
FAMILIES = list(load_families().values())
uses = cache(rulebook.uses)  # not while the tests are collected


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


def test_every_rule_is_at_work_somewhere() -> None:
    idle = [
        name for name, use in uses().items() if not (use.parameters or use.decides or use.checked)
    ]
    assert not idle


STATEMENTS = {
    "modality decides the families": ["families-by-modality"],
    "baseline first": ["baseline-first"],
    "depth and width grow with the data, to a cap per sample, and with its complexity": [
        "depth-from-data", "width-from-data", "params-per-sample",
    ],
    "residual connections from ten layers on": ["residual-from-10"],
    "activations by the kind of network": ["activation-by-family"],
    "normalisation by the kind of network and the batch": [
        "norm-by-family", "groupnorm-for-small-batches",
    ],
    "dropout and weight decay by the risk of overfitting": [
        "dropout-from-risk", "weight-decay-from-risk", "no-dropout-after-batchnorm",
    ],
    "AdamW, warm-up, cosine; batches from data and memory; learning rate first": [
        "warm-up-cosine", "batch-from-data", "micro-batch", "learning-rate-first", "early-stopping",
    ],
    "attention local or linear where sequences are long": ["attention-cost", "long-sequences"],
    "global pooling": ["global-pooling"],
    "inference cost from the start": ["cost-from-the-start"],
    "pretrained weights where they exist": ["pretrained-first"],
    "padding masks and several heads": ["padding-masks", "one-head-per-target"],
    "classes that are unlike in number": ["imbalance"],
}  # fmt: skip


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_statement_of_the_design_has_its_rules_and_they_are_at_work(statement: str) -> None:
    for rule in STATEMENTS[statement]:
        use = uses()[rule]
        assert use.parameters or use.decides or use.checked, rule


def test_a_decision_names_a_rule_that_there_is() -> None:
    with pytest.raises(KeyError):
        rules.sets("no-such-rule", "anything")


def test_uses_are_those_that_the_spaces_name() -> None:
    heads = uses()["heads"].parameters
    assert set(heads) == {"heads"}
    assert {"vit", "gat", "whisper", "early_fusion"} <= set(heads["heads"])
    assert "resnet" not in heads["heads"]
    assert uses()["proxy-steps"].decides
    assert not uses()["proxy-steps"].parameters


# Bounds that follow from the data ----------------------------------------------------------


def space_of(family: Family, n_train: int, *limits: str) -> Space:
    task = typical_task(family.modality, n_train)
    return family.space(replace(task, constraints=tuple(map(Constraint.parse, limits))))


def bounds(space: Space, rule: str) -> dict[str, Param]:
    """The parameters that a rule bounds, by name."""
    return {p.name: p for p in space.params if rule in p.why}


def high(param: Param) -> float:
    assert not isinstance(param, Choice)
    return param.high


# The sizes of the others come with their weights.
@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.load], ids=lambda f: f.name)
def test_two_hundred_and_two_million_samples_have_visibly_different_spaces(family: Family) -> None:
    few, many = space_of(family, 200), space_of(family, 2_000_000)
    for rule in ("depth-from-data", "width-from-data"):
        small, large = bounds(few, rule), bounds(many, rule)
        assert small, rule
        assert all(high(large[name]) > high(small[name]) for name in small if name in large), rule
    batches = [space["batch_size"] for space in (few, many)]
    assert batches[0].default < batches[1].default  # type: ignore[operator]
    assert few["weight_decay"].default > many["weight_decay"].default  # type: ignore[operator]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_bounds_only_ever_move_one_way_with_the_samples(family: Family) -> None:
    sizes = [20, 64, 150, 400, 1_000, 3_300, 10_000, 47_000, 200_000, 10**6, 2 * 10**6]
    spaces = [space_of(family, n) for n in sizes]
    for rule, sign in (("depth-from-data", 1), ("width-from-data", 1), ("dropout-from-risk", -1)):
        for fewer, more in pairwise(spaces):
            small, large = bounds(fewer, rule), bounds(more, rule)
            for name in small.keys() & large.keys():
                if "references" in small[name].why:  # more samples: too long for the time
                    continue
                assert sign * (high(large[name]) - high(small[name])) >= 0, (name, rule)
    decays = [float(space["weight_decay"].default) for space in spaces]
    assert decays == sorted(decays, reverse=True)


def moved(modality: Modality, family: str, before: Task, after: Task, name: str) -> bool:
    spaces = [load_families(modality)[family].space(task) for task in (before, after)]
    found = [[p.to_dict() for p in space.params if p.name == name] for space in spaces]
    return found[0] != found[1]


def with_profile(given_task: Task, **fields: Any) -> Task:
    return replace(given_task, profile=replace(given_task.profile, **fields))


def long_texts(percentile95: int) -> Task:
    few, longest = percentile95 // 4, 2 * percentile95
    lengths = {"tokens": (1, 2, few, few, few, percentile95, longest)}
    return with_profile(typical_task("text"), lengths=lengths, inputs={"tokens": (longest,)})


def test_the_families_follow_from_the_modality() -> None:
    found = [set(pick_families(m)) for m in get_args(Modality)]
    assert all(found)
    assert len(set.union(*found)) == sum(map(len, found))


def test_each_family_begins_with_its_baseline_scaled_to_the_data() -> None:
    few, many = (
        {f.name: space_of(f, n) for f in load_families("multimodal").values()}
        for n in (200, 2_000_000)
    )
    for name, starts in rules.first_candidates(few).items():
        assert starts[0] == few[name].baseline()
        assert starts[0] != rules.first_candidates(many)[name][0]


def test_widths_grow_with_the_classes() -> None:
    ten = typical_task("images")
    classes = tuple(f"c{i}" for i in range(1_000))
    thousand = replace(ten, targets=(Target("y", "multiclass", classes, (10,) * 1_000),))
    widths = [high(load_families()["vit"].space(t)["dim"]) for t in (ten, thousand)]
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.1)


def test_a_wide_table_of_few_rows_meets_the_cap_on_parameters() -> None:
    wide = tuple(Column(f"x{i}", "numeric", quantiles=(0.0, 1.0)) for i in range(12_000))
    profile = DataProfile(100, 10, 10, {"numeric": (12_000,)}, columns=wide)
    width = load_families()["mlp"].space(Task("tabular", (YES,), profile))["width"]
    assert "params-per-sample" in width.why
    assert high(width) * 12_000 <= rules.FREE_PARAMS


def test_only_networks_of_fewer_than_ten_layers_may_be_plain() -> None:
    depth = Int("depth", 1, 20, default=3)
    assert rules.plain_depths(depth, around=1) == tuple(range(1, 9))
    assert rules.plain_depths(depth, around=3, each=3) == (1, 2)
    assert rules.plain_depths(replace(depth, high=4), around=1) == (1, 2, 3, 4)


def test_each_kind_of_network_has_the_activation_and_the_norm_of_its_kind() -> None:
    for name, activation, norm in (
        ("resnet", "relu", "batch"),
        ("efficientnet", "silu", "batch"),
        ("vit", "gelu", "layer"),
        ("transformer", "gelu", "layer"),
        ("pointnet", "relu", "batch"),
    ):
        baseline = space_of(load_families()[name], 5_000).baseline()
        number = "1" if name in ("resnet", "efficientnet") else ""
        assert baseline[f"activation{number}"] == activation
        assert baseline[f"norm{number}"] == norm


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_where_batches_are_small_no_family_offers_batchnorm(family: Family) -> None:
    few, many = space_of(family, 40), space_of(family, 10_000)
    changed = bounds(few, "groupnorm-for-small-batches")
    for param in few.params:
        if param.name.rpartition(".")[2].strip("1234") in ("norm", "conv_norm"):
            assert isinstance(param, Choice)
            assert "batch" not in param.options
            offered = many[param.name]
            assert isinstance(offered, Choice)
            assert (param.name in changed) == ("batch" in offered.options)
    if family.name == "vit":  # its convolutional stem has BatchNorm
        assert few["stem"].options == ("patch",)  # type: ignore[union-attr]
        assert "stem" in changed


def test_large_images_come_in_small_batches_that_have_groupnorm() -> None:
    normal = typical_task("images")
    large = with_profile(normal, inputs={"image": (3, 1_200, 1_200)})
    assert min(rules.batch_sizes(normal)[0]) >= rules.SMALL_BATCH
    sizes, default = rules.batch_sizes(large)
    assert max(sizes) * 3 * 1_200**2 <= rules.BATCH_VALUES
    assert default in sizes
    assert load_families()["resnet"].space(large).baseline()["norm1"] == "group"


def test_a_limit_on_parameters_lowers_the_risk_of_overfitting() -> None:
    free, small = task(10_000), task(10_000, "tabular", "params<=20000")
    assert rules.risk(small) < rules.risk(free)
    assert rules.dropout(small).high < rules.dropout(free).high
    decays = [
        next(p for p in rules.training(t, lr=1e-3) if p.name == "weight_decay").default
        for t in (small, free)
    ]
    assert rules.LEAST_DECAY <= decays[0] < decays[1] <= rules.MOST_DECAY


@pytest.mark.parametrize("limit", ["params<=8000", "memory_mb<=0.12"])
@pytest.mark.parametrize("modality", get_args(Modality))
def test_limits_bound_the_widths_from_the_start(modality: Modality, limit: str) -> None:
    for family in (f for f in load_families(modality).values() if not f.load):
        free, bound = space_of(family, 10_000), space_of(family, 10_000, limit)
        narrowed = bounds(bound, "cost-from-the-start")
        assert any(high(p) < high(free[n]) for n, p in narrowed.items() if isinstance(p, Int))


def test_larger_images_have_larger_patches_and_more_resolutions() -> None:
    small = typical_task("images")
    large = with_profile(small, inputs={"image": (3, 256, 256)})
    vit = load_families()["vit"]
    assert len(vit.space(large)["resolution"].options) > len(  # type: ignore[union-attr]
        vit.space(small)["resolution"].options  # type: ignore[union-attr]
    )
    assert min(vit.space(large)["patch@256"].options) == 16  # type: ignore[union-attr]
    assert min(vit.space(small)["patch@64"].options) == 4  # type: ignore[union-attr]


def test_attention_is_local_by_choice_in_long_texts_and_always_in_very_long_ones() -> None:
    transformer = load_families()["transformer"]
    short, long, very = (transformer.space(long_texts(n)) for n in (255, 256, 512))
    assert "window" not in {p.name for p in short.params}
    options = [space["window"].options for space in (long, very)]  # type: ignore[union-attr]
    assert 0 in options[0]
    assert 0 not in options[1]
    assert long["window"].why == very["window"].why == ("long-sequences",)
    assert "cls" in long["pooling"].options  # type: ignore[union-attr]
    assert "cls" not in very["pooling"].options  # type: ignore[union-attr]


def test_a_small_network_has_a_narrower_head_or_none() -> None:
    pointnet = load_families()["pointnet"]
    widest = [
        max(space_of(pointnet, 5_000, *limit)["head_width"].options)  # type: ignore[union-attr]
        for limit in ((), ("params<=20000",))
    ]
    assert widest == [rules.HEAD_WIDEST, 32]


def test_pretrained_weights_are_advised_where_such_data_are_few() -> None:
    assert rules.wants_pretrained(typical_task("images", 2_000))
    assert not rules.wants_pretrained(typical_task("images", 200_000))
    assert not rules.wants_pretrained(typical_task("tabular", 2_000))
    assert rules.wants_pretrained(typical_task("multimodal", 2_000)), "it has a photo"


def test_every_target_has_a_head_and_an_equal_share_of_the_loss() -> None:
    one = task(1_000)
    two = replace(one, targets=(YES, Target("z", "regression")))
    assert rules.target_weights(one) == (1.0,)
    assert rules.target_weights(two) == (0.5, 0.5)
    assert two.outputs == one.outputs + 1


def test_the_rate_warms_up_over_a_twentieth_of_the_steps() -> None:
    assert [rules.warmup_steps(n) for n in (1, 100, 1_010)] == [1, 5, 51]


def test_few_categories_have_short_vectors() -> None:
    few = tuple(Column(name, "categorical", categories=("x", "y", "z")) for name in "ab")
    profile = DataProfile(5_000, 50, 50, {"categorical": (2,)}, columns=few)
    small = load_families()["mlp"].space(Task("tabular", (YES,), profile))
    assert high(small["embedding"]) == 3
    assert high(space_of(load_families()["mlp"], 5_000)["embedding"]) == rules.CATEGORY_VALUES


def test_a_gpu_moves_the_defaults_of_clouds() -> None:
    cpu = typical_task("pointclouds")
    assert moved("pointclouds", "dgcnn", cpu, replace(cpu, device="cuda"), "points")


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


def on_a_gpu(side: int, n_train: int, memory_mb: float | None, *limits: str) -> Task:
    images = with_profile(task(n_train, "images", *limits), inputs={"image": (3, side, side)})
    return replace(images, device="cuda", budget=Budget(memory_mb=memory_mb))


@pytest.mark.parametrize(
    ("side", "memory_mb", "batches"),
    [
        (32, None, (128, 256)),  # unknown
        (32, 80_000, (128, 256)),
        (224, 80_000, (128, 256)),
        (224, 24_000, (64, 128)),
        (32, 16_000, (32, 64)),
    ],
)
def test_a_gpu_has_larger_batches_by_its_memory(
    side: int, memory_mb: float | None, batches: tuple[int, int]
) -> None:
    large = on_a_gpu(side, 1_000_000, memory_mb)
    sizes, default = rules.batch_sizes(large)
    assert (sizes[0], sizes[-1], default) == (*batches, batches[-1])
    assert rules.batch_sizes(replace(large, device="cpu"))[1] == min(64, default)


def test_a_limit_on_memory_bounds_the_batches_of_a_gpu() -> None:
    free, limited = (on_a_gpu(32, 10**6, 80_000, *c) for c in ((), ("memory_mb<=20000",)))
    assert [rules.batch_sizes(t)[1] for t in (free, limited)] == [256, 128]


def test_imagenet_on_a_gpu_is_trained_for_ninety_epochs_at_most() -> None:
    assert rules.longest_epochs(on_a_gpu(224, 1_281_167, 80_000)) == 89


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
    asked = replace(given_task, targets=(replace(YES, kind="multilabel", counts=counts),))
    assert "class_weights" not in {p.name for p in rules.training(asked, lr=1e-3)}
    several = replace(given_task, targets=(*given_task.targets, Target("z", "regression")))
    several = several.with_objectives((f"{metric}[y]",))
    assert ("class_weights" in {p.name for p in rules.training(several, lr=1e-3)}) == offered


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
    # 20 s a fold at least, of which there are five where fewer than 150 samples score it.
    assert rules.fidelity(replace(given_task, budget=Budget(30))).time_limit_s == 100
    plenty = replace(given_task, profile=replace(given_task.profile, n_val=150))
    assert rules.fidelity(replace(plenty, budget=Budget(30))).time_limit_s == 20
    assert rules.fidelity(plenty).time_limit_s == 240
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


@pytest.mark.parametrize(
    ("device", "epochs", "found"), [("cpu", 100, 200), ("cuda", 200, 200), ("cuda", 300, 300)]
)
def test_a_recipe_of_one_graph_has_two_hundred_epochs_or_those_of_its_proxy(
    device: str, epochs: int, found: int
) -> None:
    shapes = {"nodes": (2_708, 1_433), "edges": (10_556, 2), "node": ()}
    profile = DataProfile(140, 500, 1_000, shapes)  # Cora
    graph = replace(Task("graphs", (YES,), profile).with_objectives(), device=device)
    assert rules.fidelity(graph).epochs == (100 if device == "cpu" else 200)
    assert rules.full_epochs(replace(graph, fidelity=Fidelity(epochs)), 140) == found
