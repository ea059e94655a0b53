"""Every installed family, on made-up tasks of every kind: its space, its networks, its export."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from default_run import mostly_slow
from torch import Tensor, nn

from nas import rulebook, rules
from nas.data import Dataset, read
from nas.family import Family, Reference, carried, load_families
from nas.models.meta import without_values
from nas.space import Config, Float, Int, Space, Value
from nas.task import Budget, Column, Constraint, DataProfile, Target, Task
from nas.testing import check_family, example_datasets, sample_inputs
from nas.training.cost import parameters
from nas.training.latency import prepare
from nas.training.proxy import build_network

FAMILIES = load_families()
# Families whose sizes follow from the data, not from published weights.
GRIDDED = [f.name for f in FAMILIES.values() if f.modality in ("tabular", "images") and not f.load]
SMALL = Constraint("params", "<=", 100_000)


def numeric(name: str, missing: float = 0.0, bins: int = 48) -> Column:
    edges = tuple(np.linspace(-2.0, 2.0, bins + 1).tolist())
    return Column(name, "numeric", missing, mean=0.1, std=1.2, quantiles=edges)


def categorical(name: str, size: int) -> Column:
    return Column(name, "categorical", categories=tuple(f"{name}{i}" for i in range(size)))


COLUMNS = {
    "numeric": tuple(numeric(f"n{i}") for i in range(12)),
    "categorical": tuple(categorical(f"c{i}", 3 * i + 2) for i in range(6)),
    "mixed": (
        *(numeric(f"n{i}", missing=0.1 * i, bins=4 * i + 1) for i in range(5)),
        categorical("c", 40),
        categorical("d", 2),
    ),
    "one": (numeric("n"),),
    "wide": tuple(numeric(f"n{i}") for i in range(600)),
}
TARGETS = {
    "binary": (Target("y", "binary", ("no", "yes"), (70, 30)),),
    "multiclass": (Target("y", "multiclass", tuple("abcdefg"), (10,) * 7),),
    "multilabel": (Target("y", "multilabel", ("u", "v", "w"), (50, 20, 30)),),
    "regression": (Target("y", "regression", mean=5.0, std=2.0),),
    "several": (
        Target("p", "regression", mean=5.0, std=2.0),
        Target("q", "multiclass", ("r", "s", "t"), (40, 30, 30)),
        Target("r", "multilabel", ("u", "v"), (50, 20)),
    ),
}
IMAGES = {"8x8x1": (1, 8, 8), "28x28x1": (1, 28, 28), "100x100x3": (3, 100, 100),
          "32x24x3": (3, 32, 24)}  # fmt: skip


def table(columns: str, target: str = "binary", n_train: int = 5_000, *limits: Constraint) -> Task:
    chosen = COLUMNS[columns]
    kinds = [c.kind for c in chosen]
    inputs: dict[str, tuple[int, ...]] = {
        kind: (kinds.count(kind),) for kind in ("numeric", "categorical") if kind in kinds
    }
    profile = DataProfile(n_train, 50, 50, inputs, columns=chosen)
    return Task("tabular", TARGETS[target], profile, constraints=limits).with_objectives()


def images(
    size: str, target: str = "multiclass", n_train: int = 5_000, *limits: Constraint
) -> Task:
    shape = IMAGES[size]
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]
    profile = DataProfile(n_train, 50, 50, {"image": shape}, channel_mean=mean, channel_std=std)
    return Task("images", TARGETS[target], profile, constraints=limits).with_objectives()


# Each kind of input with each kind of target at least once, and each amount of data.
TASKS: dict[str, Task] = {}
for limits, suffix in (((), ""), ((SMALL,), " params<=100000")):
    for n in (100, 5_000, 2_000_000):
        TASKS |= {
            f"{c} binary {n}{suffix}": table(c, "binary", n, *limits)
            for c in ("numeric", "categorical", "mixed", "one", *(["wide"] if n == 100 else []))
        }
        TASKS |= {
            f"{s} multiclass {n}{suffix}": images(s, "multiclass", n, *limits) for s in IMAGES
        }
    for kind in ("multiclass", "multilabel", "regression", "several"):
        TASKS[f"mixed {kind} 5000{suffix}"] = table("mixed", kind, 5_000, *limits)
    for kind in ("binary", "multilabel", "regression", "several"):
        TASKS[f"8x8x1 {kind} 5000{suffix}"] = images("8x8x1", kind, 5_000, *limits)
CASES = [
    pytest.param(family, task, id=f"{family.name}: {name}")
    for family in FAMILIES.values()
    for name, task in TASKS.items()
    if task.modality == family.modality
]
SMALL_TASKS = ("mixed several 5000", "8x8x1 several 5000", "one binary 100",
               "categorical binary 5000", "32x24x3 multiclass 100")  # fmt: skip
SMALL_CASES = [case for case in CASES if str(case.id).split(": ")[1] in SMALL_TASKS]
LARGE_CASES = [
    pytest.param(*case.values, id=case.id, marks=pytest.mark.slow)
    for case in CASES
    if case not in SMALL_CASES
]


def on_meta(family: Family, config: Config, task: Task) -> nn.Module:
    with without_values():
        return family.build(config, task)


def samples(space: Space, count: int, seed: int = 0) -> list[Config]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def plainest(space: Space, deep: bool) -> Config:
    """The baseline with no shortcut that can be left out, and as many layers between."""
    config: Config = {}
    for param in space.params:
        if not Space._active(param, config):
            continue
        config[param.name] = param.default
        if isinstance(param, Int):
            of_stage = re.fullmatch(r"depth\d?", param.name) and not deep
            config[param.name] = param.low if of_stage else param.high
            if param.name.startswith(("width", "stem", "dim", "embedding")):
                config[param.name] = param.low
        elif param.name.startswith("residual"):
            config[param.name] = False
        elif param.name.startswith(("expand", "head_width")):
            config[param.name] = max(param.options)  # type: ignore[union-attr]
    return config


def is_shortcut(module: nn.Module) -> bool:
    """Whether a module adds its input to its output."""
    kinds = ("_Residual", "TransformerBlock", "_FeatureTransformer")
    return type(module).__name__ in kinds or bool(getattr(module, "residual", False))


def longest_plain_run(network: nn.Module) -> int:
    """Layers with weights in a row that no shortcut spans (He et al. count these)."""
    run = longest = 0
    modules = dict(network.named_modules())
    for name, module in modules.items():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        parts = name.split(".")
        above = [modules[".".join(parts[:i])] for i in range(len(parts))]
        if any(type(m).__name__ == "_SqueezeExcite" for m in above):
            continue  # a gate beside the path
        run = 0 if any(map(is_shortcut, above)) else run + 1
        longest = max(longest, run)
    return longest


# Every row of the table of families that the project promises.
PROMISED = {
    "tabular": ["mlp", "tabnet", "ft_transformer"],
    "images": [
        "resnet",
        "efficientnet",
        "vit",
        "pretrained_image",
        "frozen_image",
        "partial_image",
    ],
    "text": [
        "transformer",
        "lstm",
        "mamba",
        "text_cnn",
        "ngrams",
        "pretrained_text",
        "frozen_text",
        "partial_text",
    ],
    "series": [
        "inception_time",
        "series_resnet",
        "random_kernels",
        "series_transformer",
        "series_lstm",
        "series_mamba",
    ],
    "audio": [
        "audio_resnet",
        "audio_cnn_transformer",
        "wav2vec",
        "whisper",
        "pretrained_audio",
        "frozen_audio",
    ],
    "graphs": ["gcn", "gat", "graphsage"],
    "pointclouds": ["pointnet", "dgcnn", "sparse_cnn"],
    "multimodal": [
        "early_fusion",
        "late_fusion",
        "cross_attention",
        "frozen_fusion",
        "pretrained_fusion",
    ],
}


def test_every_promised_family_is_installed_under_its_modality() -> None:
    found: dict[str, list[str]] = {}
    for family in FAMILIES.values():
        found.setdefault(family.modality, []).append(family.name)
    assert {modality: sorted(names) for modality, names in found.items()} == {
        modality: sorted(names) for modality, names in PROMISED.items()
    }


REFERENCES = [
    pytest.param(family, reference, id=reference.name)
    for family in FAMILIES.values()
    for reference in family.references
]


@pytest.mark.parametrize(("family", "reference"), REFERENCES)
def test_a_reference_has_its_published_number_of_parameters(
    family: Family, reference: Reference
) -> None:
    network = on_meta(family, reference.config, reference.task)
    assert parameters(network) == reference.params + reference.extra
    assert reference.differs or not reference.extra


@pytest.mark.parametrize(
    ("name", "dropout"),
    [
        ("DGCNN", 0.5),  # Wang et al. 2019, sec. 5.1
        ("GAT on Cora", 0.6),  # Veličković et al. 2018, sec. 3.3
        ("PointNet, vanilla", 0.3),  # Qi et al. 2017, app. C
    ],
)
def test_a_reference_has_the_dropout_of_its_paper(name: str, dropout: float) -> None:
    (found,) = (r for family in FAMILIES.values() for r in family.references if r.name == name)
    assert found.config["dropout"] == dropout


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_references_have_sources_and_go_from_small_to_large(family: Family) -> None:
    sizes = [reference.params for reference in family.references]
    assert sizes == sorted(sizes)
    for reference in family.references:
        assert re.search(r"\b(19|20)\d\d\b", reference.source), reference.name
        assert reference.task.modality == family.modality


def of_size(task: Task, n_train: int) -> Task:
    """As many samples of the same kind; of one graph, also as many nodes."""
    profile = replace(task.profile, n_train=n_train)
    if "node" in profile.inputs:
        nodes = (n_train, profile.inputs["nodes"][1])
        profile = replace(profile, inputs={**profile.inputs, "nodes": nodes})
    return replace(task, profile=profile)


def on_a_cluster(task: Task, n_train: int = 1_000_000, **changes: float | None) -> Task:
    """A week of 64 GPUs, for a million samples of the same kind."""
    budget = Budget(7 * 86_400.0, workers=64, gpus=1.0, memory_mb=141_000.0)
    return replace(of_size(task, n_train), device="cuda", budget=replace(budget, **changes))


@pytest.mark.parametrize(("family", "reference"), REFERENCES)
def test_a_space_holds_exactly_the_references_that_its_task_carries(
    family: Family, reference: Reference
) -> None:
    large = on_a_cluster(reference.task)
    assert reference.left_out(large) == ""
    space = family.space(large)
    config = space.complete(reference.config)
    space.check(config)
    assert config.items() >= reference.config.items()
    network = on_meta(family, config, large)
    assert parameters(network) == reference.params + reference.extra
    for little, reason in (
        (on_a_cluster(reference.task, n_train=reference.params // 1_000), "samples carry"),
        (on_a_cluster(reference.task, memory_mb=0.05), "MiB"),
        (on_a_cluster(reference.task, time_limit_s=0.01), "of the time"),
        (on_a_cluster(reference.task, time_limit_s=None, gpu_hours=1e-6), "of the budget"),
    ):
        assert reason in reference.left_out(little)
        assert reference not in carried(family.references, little)


def built(family: Family, reference: Reference, task: Task) -> int:
    """Parameters of a published network on other data, where numbers enter as by default."""
    config = {name: value for name, value in reference.config.items() if name != "encoding"}
    return parameters(on_meta(family, family.space(task).complete(config), task))


PUBLISHED = [family for family in FAMILIES.values() if family.references]


@pytest.mark.parametrize("family", PUBLISHED, ids=lambda family: family.name)
def test_the_largest_reference_is_the_baseline_and_the_ladder_leads_to_it(family: Family) -> None:
    large = on_a_cluster(family.references[-1].task)
    space = family.space(large)
    starts = space.starts()
    own = parameters(on_meta(family, starts[0], large))
    counts = {built(family, r, large): r for r in carried(family.references, large)}
    larger = [counts[size] for size in sorted(counts) if size > own]
    assert starts[len(larger)] == space.baseline()
    sizes = [parameters(on_meta(family, config, large)) for config in starts[: len(larger) + 1]]
    assert sizes == sorted(sizes)
    for reference, config in zip(larger, starts[1:], strict=False):
        assert (
            config.items()
            >= {
                name: value
                for name, value in reference.config.items()
                if isinstance(space[name], Int) and name != "vocabulary"  # of the texts
            }.items()
        )


@pytest.mark.parametrize("family", PUBLISHED, ids=lambda family: family.name)
def test_what_lies_between_references_can_be_built(family: Family) -> None:
    large = on_a_cluster(family.references[-1].task)
    for config in samples(family.space(large), 12):
        assert parameters(on_meta(family, config, large)) > 0


@pytest.mark.parametrize("family", PUBLISHED, ids=lambda family: family.name)
def test_no_reference_widens_the_space_of_a_thousand_samples(family: Family) -> None:
    kinds = [of_size(reference.task, 1_000) for reference in family.references]
    for task in (rulebook.typical_task(family.modality, 1_000), *kinds):
        space = family.space(on_a_cluster(task, n_train=1_000))
        wider = {param.name for param in space.params if "references" in param.why}
        assert wider <= {"head"}  # of a GCN of 16 units


@pytest.mark.parametrize("side", mostly_slow([256, 512], [512]))
@pytest.mark.parametrize("name", ["resnet", "efficientnet", "vit"])
def test_published_networks_shrink_images_that_are_larger_than_theirs(name: str, side: int) -> None:
    family = FAMILIES[name]
    task = on_a_cluster(family.references[0].task)
    task = replace(task, profile=replace(task.profile, inputs={"image": (3, side, side)}))
    assert carried(family.references, task)
    space = family.space(task)
    for config in (*space.starts(), *samples(space, 10)):
        space.check(config)
        on_meta(family, config, task)
    assert int(space.baseline()["resolution"]) <= 300  # as EfficientNet-B3


def of_side(task: Task, side: int) -> Task:
    return replace(task, profile=replace(task.profile, inputs={"image": (3, side, side)}))


@pytest.mark.parametrize("side", mostly_slow([20, 28, 32, 33, 48, 64, 65, 100], [28]))
@pytest.mark.parametrize("name", ["resnet", "efficientnet", "vit"])
def test_published_networks_end_in_about_four_cells_a_side_of_small_images(
    name: str, side: int
) -> None:
    family = FAMILIES[name]
    task = of_side(on_a_cluster(family.references[0].task), side)
    published = family.space(task).starts()[1:]
    assert len(published) == len(family.references)
    for config in published:
        network: Any = on_meta(family, config, task)
        tokens, _ = network.features(torch.empty(1, 3, side, side, device="meta"))
        if name == "vit":
            assert 16 <= tokens.shape[1] - 1 <= 64  # without the class token
        else:
            assert 3**2 <= tokens.shape[1] <= 4**2


@pytest.mark.parametrize("family", [FAMILIES["resnet"], FAMILIES["vit"]], ids=lambda f: f.name)
def test_small_images_take_a_published_network_as_long_as_images_four_times_as_large(
    family: Family,
) -> None:
    hour = on_a_cluster(family.references[0].task, time_limit_s=3_600.0)
    reasons = [family.references[-1].left_out(of_side(hour, side)) for side in (32, 64, 128)]
    assert "a fifth of the time" in reasons[0]
    assert len(set(reasons)) == 1


def test_a_published_network_is_not_for_images_that_its_stages_would_use_up() -> None:
    reference = FAMILIES["resnet"].references[0]
    large = on_a_cluster(reference.task)
    assert "256 pixels are too few" in reference.left_out(of_side(large, 16))
    assert reference.left_out(of_side(large, 17)) == ""
    assert "stem_pool" not in FAMILIES["resnet"].space(of_side(large, 16)).baseline()


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("ViT-B/16", 3e-3 * 256 / 4_096),  # Dosovitskiy et al. 2021, table 3, for batches of 256
        ("BERT-base", 1e-4),  # Devlin et al. 2019, app. A.2
        ("FT-Transformer, default", 1e-4),  # Gorishniy et al. 2021, app. E.2
        ("PointNet, vanilla", 1e-3),  # Qi et al. 2017, app. C
        ("Whisper small encoder", 5e-4),  # Radford et al. 2022, app. F
        ("wav2vec 2.0 base", 5e-4),  # Baevski et al. 2020, sec. 4.2
        ("S2T medium encoder", 1e-3),  # the authors' example
    ],
)
def test_a_published_network_begins_at_its_own_rate_and_the_family_at_its_own(
    name: str, rate: float
) -> None:
    family, reference = next(
        (family, r) for family in FAMILIES.values() for r in family.references if r.name == name
    )
    few, many = (family.space(on_a_cluster(reference.task, n)) for n in (1_000, 1_000_000))
    own, lr = few["lr"], many["lr"]
    assert isinstance(own, Float)
    assert isinstance(lr, Float)
    assert many.baseline()["lr"] == pytest.approx(rate)
    assert many.starts()[0]["lr"] == own.default > rate
    assert lr.low == pytest.approx(min(own.low, rate))
    assert lr.high == own.high


@pytest.mark.parametrize(("tokens", "window"), [(255, None), (256, 0), (511, 0), (512, 64)])
def test_a_published_text_network_attends_to_the_whole_text_where_that_is_offered(
    tokens: int, window: int | None
) -> None:
    family = FAMILIES["transformer"]
    task = on_a_cluster(family.references[0].task)
    lengths = {"tokens": (2, 4, 8, 13, 24, tokens, 512)}
    space = family.space(replace(task, profile=replace(task.profile, lengths=lengths)))
    published = space.starts()[1:]
    assert len(published) == len(family.references)
    assert {config.get("window") for config in published} == {window}
    assert space.starts()[0].get("window") == (None if window is None else 64)


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "vit"])
def test_images_are_not_moved_by_default_where_a_number_may_be_a_place_in_them(name: str) -> None:
    found = {t: FAMILIES[name].space(images("28x28x1", t))["augment"] for t in TARGETS}
    moved = {target for target, augment in found.items() if augment.default != "none"}
    assert moved == {"binary", "multiclass", "multilabel"}
    assert len({augment.domain for augment in found.values()}) == 1


def test_a_published_network_of_raw_waves_has_smaller_batches_on_a_gpu() -> None:
    batches = {}
    for name in ("wav2vec", "whisper"):
        family = FAMILIES[name]
        batches[name] = family.space(on_a_cluster(family.references[0].task)).baseline()[
            "batch_size"
        ]
    assert batches == {"wav2vec": 64, "whisper": 256}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_the_contract(name: str) -> None:
    check_family(FAMILIES[name], extremes=1, export=False)


def shallow(space: Space) -> Config:
    """The baseline with as few layers of each kind as the space has."""
    baseline = space.baseline()
    counts = re.compile(r"(.*\.)?(.*depth\d?|steps|n_shared|n_independent)")
    fewest = {
        p.name: p.low
        for p in space.params
        if isinstance(p, Int) and p.name in baseline and counts.fullmatch(p.name)
    }
    return space.complete(baseline | fewest)


# Those with operators that the others lack; the slow tests have all families.
EXPORTED = ("ft_transformer", "mamba", "gat")


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # the exporter's own
@pytest.mark.parametrize("name", mostly_slow(FAMILIES, EXPORTED))
def test_every_family_gives_the_same_logits_in_onnxruntime(name: str) -> None:
    """The baseline of each, with one layer instead of several alike; a slow test has them all."""
    family = FAMILIES[name]
    for dataset in example_datasets(family.modality).values():
        task = Task(family.modality, dataset.targets, dataset.profile).with_objectives()
        torch.manual_seed(0)
        network = family.build(shallow(family.space(task)), task)
        prepare(network, sample_inputs(task, 3), "onnxruntime", "cpu", threads=1)


@pytest.mark.slow  # two minutes
@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # the exporter's own
@pytest.mark.parametrize("name", FAMILIES)
def test_no_configuration_of_a_space_is_untrainable(name: str) -> None:
    family = FAMILIES[name]
    ordinary = example_datasets(family.modality).values()
    check_family(family, ordinary)
    check_family(family, unusual_datasets(family.modality), export=False)


def unusual_datasets(modality: str) -> list[Dataset]:
    """As little of each kind as there can be: one column, one channel, one word, one point, a
    graph of one node, a graph of one edge, one member."""
    names = np.array(["a", "b", "c"])[np.arange(60) % 3]
    rng = np.random.default_rng(0)
    match modality:
        case "tabular":
            frames = [{"size": rng.normal(size=60)}, {"colour": np.roll(names, 7)}]
            return [read(pd.DataFrame(f | {"label": names}), target="label") for f in frames]
        case "images":
            pixels = rng.integers(0, 256, (60, 1, 8, 8)).astype(np.uint8)
            return [read((pixels, names))]
        case "text":
            texts = [f"{name} {name}" if i % 2 else name for i, name in enumerate(names)]
            return [read((texts, names), modality="text")]
        case "series":
            steps = [rng.normal(size=(n, 1)) for n in 1 + np.arange(60) % 3]
            return [read((steps, names), modality="series")]
        case "audio":
            waves = [rng.uniform(-1, 1, n).astype(np.float32) for n in rng.integers(1, 40, 60)]
            return [read((waves, names), modality="audio")]
        case "pointclouds":
            clouds = [rng.normal(size=(n, 3)).astype(np.float32) for n in 1 + np.arange(60) % 3]
            return [read((clouds, names), modality="pointclouds")]
        case "graphs":
            one, none = np.array([[0], [1]]), np.zeros((2, 0), dtype=np.int64)
            x = rng.normal(size=(60, 1)).astype(np.float32)
            labels = np.arange(60) % 3
            single = [
                SimpleNamespace(
                    x=x[: 1 + (i == 0)], edge_index=none if i else one, y=labels[i : i + 1]
                )
                for i in range(60)
            ]
            return [read(single), read(SimpleNamespace(x=x, edge_index=one, y=labels))]
    texts = [f"{name} is word {i} of a text, as said" for i, name in enumerate(names)]
    frame = pd.DataFrame({"review": texts})
    return [read(frame.assign(label=names), target="label", modality="multimodal")]


@pytest.mark.parametrize(("family", "task"), CASES)
def test_a_space_survives_json_and_names_only_known_rules(family: Family, task: Task) -> None:
    space = family.space(task)
    assert Space.from_json(space.to_json()) == space
    unknown = {rule for param in space.params for rule in param.why} - set(rules.RULES)
    assert not unknown
    space.check(family.baseline(task))


@pytest.mark.parametrize(("family", "task"), [*SMALL_CASES, *LARGE_CASES])
def test_the_baseline_and_samples_build_without_memory_and_without_deep_plain_stacks(
    family: Family, task: Task
) -> None:
    space = family.space(task)
    extremes = [plainest(space, deep) for deep in (False, True)]
    drawn = samples(space, 2 if task.constraints else 3)
    for config in (family.baseline(task), *extremes, *drawn):
        space.check(config)
        network = on_meta(family, config, task)
        assert all(p.is_meta for p in network.parameters()), config
        assert longest_plain_run(network) < 10, config


@pytest.mark.parametrize(("family", "task"), [case for case in CASES if not case.values[0].load])
def test_the_baseline_keeps_the_limits_on_parameters(family: Family, task: Task) -> None:
    size = parameters(on_meta(family, family.baseline(task), task))
    assert size <= rules.params_limit(task)


@pytest.mark.parametrize("name", GRIDDED)
def test_a_limit_of_ten_thousand_parameters_still_has_its_baseline(name: str) -> None:
    family, limit = FAMILIES[name], Constraint("params", "<=", 10_000)
    if family.modality == "tabular":
        task = table("mixed", "binary", 5_000, limit)
    else:
        task = images("28x28x1", "multiclass", 60_000, limit)
    assert parameters(on_meta(family, family.baseline(task), task)) <= 10_000


@pytest.mark.parametrize("name", GRIDDED)
def test_a_quarter_of_the_samples_or_more_keep_a_limit_on_parameters(name: str) -> None:
    family = FAMILIES[name]
    task = (
        table("mixed", "binary", 5_000, SMALL)
        if family.modality == "tabular"
        else images("28x28x1", "multiclass", 5_000, SMALL)
    )
    configs = samples(family.space(task), 60)
    inside = [parameters(on_meta(family, c, task)) <= 100_000 for c in configs]
    assert np.mean(inside) >= 0.25


@pytest.mark.parametrize(("family", "task"), SMALL_CASES)
def test_logits_have_the_right_shape_and_every_parameter_gets_a_gradient(
    family: Family, task: Task
) -> None:
    space = family.space(task)
    for seed, config in enumerate((family.baseline(task), *samples(space, 2, seed=3))):
        torch.manual_seed(seed)
        network = family.build(config, task)
        with torch.no_grad():  # branches start at zero, which would hide those before them
            for p in network.parameters():
                p.add_(0.02 * torch.randn_like(p))
        alone = network.eval()(**sample_inputs(task, 1))
        assert alone.shape == (1, task.outputs)
        logits: Tensor = network.train()(**sample_inputs(task, 4))
        assert logits.shape == (4, task.outputs)
        assert torch.isfinite(alone).all()
        assert torch.isfinite(logits).all()
        (logits * torch.randn_like(logits)).sum().backward()  # type: ignore[no-untyped-call]
        missing = [n for n, p in network.named_parameters() if p.grad is None and p.requires_grad]
        assert not missing, config
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "vit"])
def test_convolutions_compute_with_channels_last_and_the_same_logits(name: str) -> None:
    family, task = next(c.values for c in SMALL_CASES if c.values[0].name == name)
    config = family.baseline(task)
    torch.manual_seed(0)
    plain = family.build(config, task).eval()
    torch.manual_seed(0)
    network = build_network(name, config, task).eval()
    weights = [m.weight for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    inputs = sample_inputs(task, 3)
    torch.testing.assert_close(network(**inputs), plain(**inputs), rtol=1e-4, atol=1e-5)


def bounds(space: Space) -> dict[str, int]:
    return {p.name: p.high for p in space.params if isinstance(p, Int)}


@pytest.mark.parametrize("name", GRIDDED)
def test_more_data_raise_the_bounds_of_depth_or_width(name: str) -> None:
    family = FAMILIES[name]

    def found(n_train: int) -> dict[str, int]:
        if family.modality == "tabular":
            return bounds(family.space(table("mixed", "binary", n_train)))
        return bounds(family.space(images("32x24x3", "multiclass", n_train)))

    few, many, most = map(found, (100, 5_000, 2_000_000))
    shared = few.keys() & many.keys() & most.keys()
    assert all(few[p] <= many[p] <= most[p] for p in shared)
    assert sum(few[p] < many[p] < most[p] for p in shared) >= 1


@pytest.mark.parametrize("name", ["resnet", "efficientnet"])
def test_every_stage_of_a_convolutional_family_chooses_its_own_blocks(name: str) -> None:
    space = FAMILIES[name].space(images("100x100x3"))
    own: dict[str, set[int]] = {}
    for param in space.params:
        if found := re.fullmatch(r"([a-z]+)(\d)", param.name):
            assert param.size > 1
            own.setdefault(found[1], set()).add(int(found[2]))
    for choice in ("depth", "width", "kernel", "norm", "activation"):
        assert own[choice] == {1, 2, 3, 4}, choice
    assert 1 in own["residual"]
    assert space["pooling"].size > 1


@pytest.mark.parametrize(
    ("n_train", "norms"), [(40, ("group",)), (100, ("batch", "group")), (10**6, ("batch", "group"))]
)
def test_batchnorm_is_not_offered_where_batches_are_small(
    n_train: int, norms: tuple[Value, ...]
) -> None:
    space = FAMILIES["resnet"].space(images("28x28x1", "multiclass", n_train))
    assert space["norm1"].options == norms  # type: ignore[union-attr]
    batches = space["batch_size"].options  # type: ignore[union-attr]
    assert all(int(b) >= 16 for b in batches) == ("batch" in norms)


def test_clipping_is_searched_in_networks_over_sequences_alone() -> None:
    clipped = set()
    for family in FAMILIES.values():
        if family.load is not None:  # published weights: also those of images
            continue
        dataset = next(iter(example_datasets(family.modality).values()))
        task = Task(family.modality, dataset.targets, dataset.profile).with_objectives()
        space = family.space(task)
        found = [param for param in space.params if param.name.endswith("clip")]
        if found:
            clipped.add(family.name)
            assert rules.gradient_clip(space.baseline()) == rules.GRADIENT_CLIP
            assert rules.gradient_clip(space.baseline() | {"clip": found[0].options[1]}) == 0  # type: ignore[union-attr]
    sequences = {"transformer", "lstm", "mamba", "ngrams", "audio_cnn_transformer", "wav2vec"}
    series = {"series_transformer", "series_lstm", "series_mamba"}
    assert clipped == {*sequences, *series, "whisper", "ft_transformer"}


def test_piecewise_codes_are_offered_only_where_their_weights_are_affordable() -> None:
    few, wide = (FAMILIES["mlp"].space(table(c, "binary", 100)) for c in ("numeric", "wide"))
    assert "piecewise" in few["encoding"].options  # type: ignore[union-attr]
    assert "piecewise" not in wide["encoding"].options  # type: ignore[union-attr]


@pytest.mark.parametrize("side", [257, 512, 1000])
@pytest.mark.parametrize("name", ["resnet", "efficientnet", "vit"])
def test_large_images_have_a_baseline_and_a_vit_at_most_256_tokens(name: str, side: int) -> None:
    profile = replace(images("8x8x1").profile, inputs={"image": (1, side, side // 2)})
    task, family = replace(images("8x8x1"), profile=profile), FAMILIES[name]
    for config in (family.baseline(task), *samples(family.space(task), 10)):
        network = on_meta(family, config, task)
        if name == "vit":
            assert network.position.shape[1] <= 256 + 1  # and a class token  # type: ignore[index]
