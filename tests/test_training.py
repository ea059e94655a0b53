"""Training: metrics, costs, batches, schedule, monitors, proxies and the simple baselines."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from default_run import one_of_each_modality
from pytorch_lightning.plugins.precision import MixedPrecision
from scipy.ndimage import affine_transform  # type: ignore[import-untyped]
from sklearn import metrics as sk
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

import nas.train
from nas import recipe as recipes
from nas.candidate import Candidate, State
from nas.data import Dataset, read
from nas.family import load_families
from nas.model import load
from nas.recipe_changes import Settings, apply
from nas.records import Baseline
from nas.task import Fidelity, InputError, Target, Task
from nas.testing import example_datasets, sample_inputs
from nas.testing.families import extreme_configs
from nas.training import baselines as simple
from nas.training import cost, latency
from nas.training.augment import KINDS, augment_images
from nas.training.batches import Batches, proxy_folds, to_tensors
from nas.training.callbacks import EpochLines
from nas.training.evaluator import Evaluator
from nas.training.fit import folds, train_folds
from nas.training.lr import WarmupCosine
from nas.training.metrics import mean_scores, score, score_target
from nas.training.monitors import GradientMonitor, StepClock, TimeLimit, TrainingStopped
from nas.training.proxy import AveragedWeights, LatestBest, Proxy, load_proxy, predict
from nas.training.resume import KeepLast, Signals

rng = np.random.default_rng(0)


def make_task(dataset: Dataset) -> Task:
    return Task(dataset.modality, dataset.targets, dataset.profile).with_objectives()


def table(n: int = 120, seed: int = 0, **targets: Any) -> Dataset:
    """Two numeric columns and a categorical one, with targets that follow from them."""
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(2, n))
    c = draw.choice(["red", "green", "blue"], n)
    given: dict[str, Any] = {
        "a": np.where(draw.random(n) < 0.1, np.nan, a),
        "b": b,
        "c": c,
    }
    known = {
        "binary": np.where(a + b > 0, "yes", "no"),
        "multiclass": np.array(["low", "mid", "high"])[np.digitize(a + b, (-0.5, 0.7))],
        "regression": 1e6 + 1e3 * (a - 2 * b) + draw.normal(size=n),
        "u": (a > 0).astype(int),
        "v": (b > 0).astype(int),
    }
    names = targets["names"]
    frame = pd.DataFrame(given | {name: known[name] for name in names})
    return read(frame, target=names, seed=0)


def pictures(n: int = 90, side: int = 8, channels: int = 1) -> Dataset:
    """Bright spots at the left or the right."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, n)
    x = draw.integers(0, 120, (n, side, side, channels), dtype=np.uint8)
    x[np.arange(n), :, np.where(y, 1, side - 2)] += 100
    return read((x, np.where(y, "left", "right")), seed=0)


def tensors(dataset: Dataset, part: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    rows = dataset.parts[part]
    return to_tensors(dataset.inputs, rows, "cpu"), to_tensors(dataset.labels, rows, "cpu")


def trainer(
    epochs: int = 1,
    clip: float | None = 1.0,
    *callbacks: pl.Callback,
    precision: Any = "32-true",
) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        precision=precision,
        gradient_clip_val=clip,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def run(trainer: pl.Trainer, proxy: Proxy, dataset: Dataset) -> None:
    train, val = (tensors(dataset, part) for part in ("train", "val"))
    trainer.fit(proxy, Batches(*train, 16, seed=3), Batches(*val, 512))


# -- metrics ---------------------------------------------------------------------------------


def probabilities(n: int, classes: int) -> Any:
    return rng.dirichlet(np.ones(classes), n)


BINARY = Target("y", "binary", ("no", "yes"), (1, 1))
FIVE = Target("y", "multiclass", tuple("abcde"), (1,) * 5)
LABELS = Target("y", "multilabel", ("u", "v", "w"), (1,) * 3)
NUMBER = Target("y", "regression", mean=10.0, std=3.0)


@pytest.mark.parametrize("target", [BINARY, FIVE])
def test_class_metrics_are_those_of_scikit_learn(target: Target) -> None:
    k = len(target.classes)
    truth, p = rng.integers(0, k, 200), probabilities(200, k)
    found, choice = score_target(target, truth, p), p.argmax(1)
    average = "binary" if k == 2 else "macro"
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(truth, choice),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, choice),
            "f1": sk.f1_score(truth, choice, average=average),
            "auc": sk.roc_auc_score(truth, p[:, 1] if k == 2 else p, multi_class="ovr"),
        }
    )


@pytest.mark.parametrize("target", [BINARY, FIVE])
def test_a_class_that_does_not_occur_leaves_out_the_auc_and_nothing_else(target: Target) -> None:
    truth, p = np.zeros(50, int), probabilities(50, len(target.classes))
    found = score_target(target, truth, p)
    assert set(found) == {"accuracy", "balanced_accuracy", "f1"}
    assert found["accuracy"] == found["balanced_accuracy"] == np.mean(p.argmax(1) == 0)
    assert all(math.isfinite(v) for v in found.values())


def test_multilabel_metrics_are_those_of_scikit_learn() -> None:
    truth, p = rng.integers(0, 2, (100, 3)).astype(np.float32), rng.random((100, 3))
    assert score_target(LABELS, truth, p) == pytest.approx(
        {
            "accuracy": 1 - sk.hamming_loss(truth, p >= 0.5),
            "f1": sk.f1_score(truth, p >= 0.5, average="macro"),
            "auc": sk.roc_auc_score(truth, p),
        }
    )
    truth[:, 1] = 1
    others = sk.roc_auc_score(truth[:, [0, 2]], p[:, [0, 2]])
    assert score_target(LABELS, truth, p)["auc"] == pytest.approx(others)


def test_regression_metrics_follow_their_formulas() -> None:
    truth, guess = rng.normal(size=(2, 80))
    error = guess - truth
    assert score_target(NUMBER, truth, guess) == pytest.approx(
        {
            "rmse": math.sqrt(np.mean(error**2)),
            "mae": np.mean(abs(error)),
            "r2": 1 - np.sum(error**2) / np.sum((truth - truth.mean()) ** 2),
        }
    )


def test_one_sample_has_no_r2_and_several_targets_then_have_no_score() -> None:
    one = np.array([1.0])
    assert score_target(NUMBER, one, one + 1) == {"rmse": 1.0, "mae": 1.0}
    task = make_task(table(names=["regression", "binary"]))
    found = score(task, {"regression": one, "binary": np.array([1])},
                  {"regression": one, "binary": probabilities(1, 2)})  # fmt: skip
    assert {"score", "r2[regression]"}.isdisjoint(found)
    assert found["rmse[regression]"] == 0


def test_the_auc_is_the_mean_over_the_classes_that_occur() -> None:
    truth, p = rng.integers(0, 3, 90), probabilities(90, 5)
    each = [sk.roc_auc_score(truth == k, p[:, k]) for k in range(3)]
    assert score_target(FIVE, truth, p)["auc"] == pytest.approx(np.mean(each))


def test_a_metric_that_a_fold_lacks_is_the_mean_of_the_others() -> None:
    found = mean_scores([{"f1": 0.0}, {"f1": 1.0, "auc": 0.5}, {"f1": 0.5, "auc": 0.75}])
    assert found == {"f1": 0.5, "auc": 0.625}


def test_the_auc_of_a_candidate_is_the_mean_where_a_fold_lacks_a_class() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 60))
    labels = np.where(np.arange(60) < 5, "rare", np.where(a + b > 0, "yes", "no"))
    dataset = read(pd.DataFrame({"a": a, "b": b, "y": labels}), target="y", seed=0)
    task = make_task(dataset)
    rare = [dataset.labels["y"][scored] == 1 for _, scored in proxy_folds(dataset, task)]
    assert [bool(each.any()) for each in rare] != [True] * 5
    config = load_families("tabular")["mlp"].baseline(task)
    asked = Candidate(0, "mlp", config, seed=1, epochs=1)
    end = Candidate.from_dict(Evaluator(task, dataset).evaluate(asked.to_dict(), lambda *_: ""))
    each = train_folds("mlp", config, task, folds(dataset, task), 1, 1, list)
    expected = np.mean([float(metrics["auc"]) for metrics in each])
    assert end.metrics["auc"] == pytest.approx(expected)
    assert all("auc" in row["metrics"] for row in simple.baselines(dataset, task))


def test_several_targets_are_averaged_to_one_score_and_kept_by_name() -> None:
    dataset = table(names=["regression", "binary"])
    task = make_task(dataset)
    truth = {"regression": rng.normal(size=60), "binary": rng.integers(0, 2, 60)}
    guess = {"regression": truth["regression"] + 0.1, "binary": probabilities(60, 2)}
    found = score(task, truth, guess)
    each = {t.name: score_target(t, truth[t.name], guess[t.name]) for t in task.targets}
    assert found["score"] == (each["regression"]["r2"] + each["binary"]["accuracy"]) / 2
    assert found["rmse[regression]"] == each["regression"]["rmse"]


# -- costs -----------------------------------------------------------------------------------


class Mlp(nn.Module):
    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(100, 200), activation(), nn.Linear(200, 300), activation()
        )
        self.head = nn.Linear(300, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(x))
        return y


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.depthwise(self.conv(x))
        return y


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48, bias=False)
        self.token = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x + self.token).reshape(*x.shape[:2], 3, 4, 4).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    ("build", "shape", "params", "flops"),
    [
        (Mlp, (4, 100), 20_200 + 60_300 + 3_000, 2 * 4 * (20_000 + 60_000 + 3_000)),
        # 8 x 8 positions, 75 weights for each of 8 channels; then 9 weights.
        (Conv, (2, 3, 16, 16), 608 + 72, 2 * 2 * 64 * (8 * 75 + 8 * 9)),
        # 10 tokens: the projections, then scores and mixture of 4 heads of 4 values.
        (SelfAttention, (2, 10, 16), 16 * 48 + 16, 2 * 2 * (10 * 16 * 48 + 2 * 4 * 10 * 10 * 4)),
    ],
)
def test_parameters_and_flops_equal_a_count_by_hand(
    build: type[nn.Module], shape: tuple[int, ...], params: int, flops: int
) -> None:
    found = cost.analyse(build, {"x": torch.zeros(shape)})
    assert (found["params"], found["flops"]) == (params, flops)
    assert sum(layer["params"] for layer in found["layers"]) == params


def test_an_analysis_allocates_nothing_and_records_layers_in_order() -> None:
    built: list[nn.Module] = []

    def build() -> nn.Module:
        built.append(nn.Sequential(nn.Linear(10**6, 10**6), nn.ReLU()))
        return Wrap(built[0])

    class Wrap(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y

    layers = cost.analyse(build, {"x": torch.zeros(1, 10**6)})["layers"]  # 4 TB, were it real
    assert [(x["type"], x["output"]) for x in layers] == [
        ("Linear", [10**6]),
        ("ReLU", [10**6]),
    ]
    assert all(p.is_meta for p in built[0].parameters())


@pytest.mark.parametrize("name", one_of_each_modality())
def test_the_layers_of_every_family_add_up(name: str) -> None:
    family = load_families()[name]
    for dataset in example_datasets(family.modality).values():
        task = make_task(dataset)
        config = family.baseline(task)
        found = cost.analyse(lambda: family.build(config, task), sample_inputs(task, 2))  # noqa: B023
        assert sum(layer["params"] for layer in found["layers"]) == found["params"]
        assert found["params"] == cost.parameters(family.build(config, task))
        assert found["flops"] > 0


def test_latency_is_sane_and_leaves_the_network_as_it_was() -> None:
    network = Mlp().train()
    found = latency.latency(network, {"x": torch.zeros(1, 100)}, budget_s=0.02)
    assert 0 < found.ms < 100
    assert found.iqr_ms >= 0
    assert 11 <= found.repeats <= 500
    assert (found.batch, found.threads) == (1, torch.get_num_threads())
    assert network.training


# -- batches, schedule, augmentation -----------------------------------------------------------


def rows(batches: Batches) -> list[list[int]]:
    return [inputs["x"].tolist() for inputs, _ in batches]


def batches_of(n: int, size: int, seed: int | None) -> Batches:
    x = torch.arange(n)
    return Batches({"x": x}, {"y": -x}, size, seed)


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("n", [1, 10, 12])
def test_batches_hold_every_sample_once_with_its_label(n: int, seed: int | None) -> None:
    batches = batches_of(n, 4, seed)
    found = list(batches)
    assert len(found) == len(batches)
    assert sorted(i for x in rows(batches) for i in x) == list(range(n))
    assert all(torch.equal(x["x"], -y["y"]) for x, y in found)


def test_batches_follow_their_seed_and_differ_between_epochs() -> None:
    one, same, other = batches_of(20, 6, 1), batches_of(20, 6, 1), batches_of(20, 6, 2)
    first = rows(one)
    assert first == rows(same)
    assert first != rows(one)
    assert first != rows(other)


def test_a_last_batch_of_one_is_left_out_in_training_only() -> None:
    assert [len(x) for x in rows(batches_of(13, 4, 0))] == [4, 4, 4]
    assert [len(x) for x in rows(batches_of(13, 4, None))] == [4, 4, 4, 1]


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    total, warmup, final = 50, 5, 0.01
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = WarmupCosine(optimizer, total, warmup, final)
    rates = []
    for _ in range(total + 5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    for step, rate in enumerate(rates):
        done = min(1.0, (step - warmup) / (total - warmup))
        cosine = final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
        assert rate == pytest.approx(2 * ((step + 1) / 6 if step < warmup else cosine))


@pytest.mark.parametrize("kind", KINDS)
def test_augmented_images_keep_shape_and_range_and_follow_the_seed(kind: str) -> None:
    images = torch.randint(20, 200, (6, 3, 12, 10), dtype=torch.uint8)
    torch.manual_seed(5)
    one = augment_images(images, kind)
    torch.manual_seed(5)
    assert torch.equal(one, augment_images(images, kind))
    assert one.shape == images.shape
    assert one.dtype == torch.float32
    assert one.min() >= 20
    assert one.max() <= 200
    assert torch.equal(one, images.float()) == (kind == "none")


def test_mixed_precision_leaves_augmented_images_as_they_are() -> None:
    images = torch.randint(0, 256, (4, 1, 64, 64))
    torch.manual_seed(5)
    whole = augment_images(images, "affine")
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment_images(images, "affine"), whole)


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniform draws all in their middle: no shift, no turn, no scale."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.5))


@pytest.mark.usefixtures("still")
def test_a_flip_mirrors_the_columns() -> None:
    images = torch.randint(0, 256, (32, 1, 7, 9)).float()
    changed = augment_images(images, "affine+flip")
    torch.manual_seed(0)
    mirrored = 0
    for before, after in zip(images, changed, strict=True):
        flipped = torch.allclose(after, before.flip(-1), atol=1e-3)
        assert flipped or torch.allclose(after, before, atol=1e-3)
        mirrored += flipped
    assert 4 < mirrored < 28


def test_a_turned_image_is_that_of_scipy_and_a_mirrored_one_its_mirror_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(shape))
    image = torch.rand(1, 1, 1, 1) * torch.randint(0, 256, (1, 1, 14, 20)).float()
    images = image.repeat(16, 1, 1, 1)
    plain, mirrored = (augment_images(images, kind) for kind in ("affine", "affine+flip"))
    # All draws at their top: by 15 degrees, 1.15 times as large, moved by an eighth.
    cos, sin = (f(math.radians(15)) / 1.15 for f in (math.cos, math.sin))
    matrix = np.array([[cos, sin], [-sin, cos]])
    centre = np.array([6.5, 9.5])
    offset = centre - matrix @ centre + np.array([14, 20]) / 8
    expected = affine_transform(image[0, 0].numpy(), matrix, offset, order=1, mode="nearest")
    np.testing.assert_allclose(plain[0, 0].numpy(), expected, atol=0.1)
    same = [torch.allclose(one, plain[0], atol=0.01) for one in mirrored]
    turned = [torch.allclose(one, plain[0].flip(-1), atol=0.01) for one in mirrored]
    assert 0 < sum(same) < 16
    assert sum(same) + sum(turned) == 16


def test_a_shift_moves_by_an_eighth_of_the_side_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.ones(shape))
    images = torch.randint(0, 256, (2, 1, 16, 24)).float()
    moved = augment_images(images, "shift")
    assert torch.allclose(moved[..., :14, :21], images[..., 2:, 3:], atol=1e-2)


# -- time limit --------------------------------------------------------------------------------

MLP = {"encoding": "quantile", "embedding": 2, "depth": 2, "width": 16, "residual": False,
       "norm": "none", "activation": "relu", "dropout": 0.0, "lr": 1e-3, "weight_decay": 1e-3,
       "batch_size": 16}  # fmt: skip


def fit(dataset: Dataset, config: dict[str, Any], epochs: int, *callbacks: pl.Callback) -> Proxy:
    torch.manual_seed(0)
    proxy = Proxy("mlp", config, make_task(dataset))
    run(trainer(epochs, 1e-3, *callbacks), proxy, dataset)
    return proxy


def test_a_run_over_its_time_is_stopped_and_one_without_a_chance_early() -> None:
    dataset = table(names=["binary"])
    with pytest.raises(TrainingStopped, match="after 0 s at step 1 of 24") as stopped:
        fit(dataset, MLP, 4, TimeLimit(0.0))
    assert stopped.value.reason == "timeout"
    fit(dataset, MLP, 2, TimeLimit(600.0))
    limit = TimeLimit(5.0)
    slow = Sleep(0.05)  # 2,000 steps of it are 100 s
    with pytest.raises(TrainingStopped, match="at its pace") as stopped:
        fit(dataset, MLP, 400, slow, limit)
    assert stopped.value.reason == "timeout"


class Clock(pl.Callback):
    """A clock for time limits that nothing but the steps of a training moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step_s = 0.0, lambda step: 0.5
        only = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("nas.training.monitors.time", only)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.now += self.step_s(trainer.global_step)


def test_folds_share_one_limit_and_a_slow_moment_in_a_later_one_ends_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, clock, limit = table(names=["binary"]), Clock(monkeypatch), TimeLimit(60.0, folds=3)
    fit(dataset, MLP, 4, clock, limit)
    assert clock.now == 12
    clock.step_s = lambda step: 3.0 if step < 5 else 0.5  # at that pace it would need minutes
    fit(dataset, MLP, 4, clock, limit)
    assert clock.now == 36.5
    clock.step_s = lambda step: 2.0
    evidence = r"after 60 s at step 12 of 24 on fold 3 \(the limit is 60 s\)"
    with pytest.raises(TrainingStopped, match=evidence):
        fit(dataset, MLP, 4, clock, limit)


def test_a_candidate_that_cannot_train_all_its_folds_in_time_is_ended_in_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset, clock = table(names=["binary"]), Clock(monkeypatch)
    fit(dataset, MLP, 4, clock, TimeLimit(12.0))
    with pytest.raises(TrainingStopped, match="at its pace it needs 60 s, the limit is 36 s"):
        fit(dataset, MLP, 4, clock, TimeLimit(36.0, folds=5))
    assert clock.now == 12 + 2.5


class Sleep(pl.Callback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(self.seconds / 20)


@pytest.mark.parametrize(("step_s", "steps"), [(0.25, 3), (1.0, 3), (4.0, 1)])
def test_a_pace_takes_three_steps_or_one_of_a_slow_machine(
    step_s: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    class Steps(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            nonlocal now
            now += step_s

    only = SimpleNamespace(perf_counter=lambda: now, process_time=lambda: now)
    monkeypatch.setattr("nas.training.monitors.time", only)
    clock = StepClock(0.5)
    with pytest.raises(TrainingStopped):
        fit(table(names=["binary"]), MLP, 4, Steps(), clock)
    assert clock.steps_s == [step_s] * steps


def test_a_pace_holds_what_metrics_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no epoch ended that would show it."""
    dataset, now = table(200, names=["binary"]), 0.0
    worker, scores = Evaluator(make_task(dataset), dataset), Proxy.scores
    _, (_, validated) = worker._folds_of("mlp")[0]

    def scored(proxy: Proxy, logits: Tensor, labels: Any) -> Any:
        nonlocal now
        now += 7.0
        assert len(logits) == len(labels["binary"]) == len(validated["binary"])
        return scores(proxy, logits, labels)

    monkeypatch.setattr(Proxy, "scores", scored)
    monkeypatch.setattr(StepClock, "now", lambda *_: now)
    assert worker.pace("mlp", MLP, 0.0, lambda *_: "")["epoch_s"] == 7.0


# -- proxies -----------------------------------------------------------------------------------

RESNET = {"resolution": 8, "stem_width": 8, "stem_stride": 1, "stages": 2, "bottleneck": False,
          "depth1": 1, "width1": 8, "kernel1": 3, "norm1": "batch", "activation1": "relu",
          "depth2": 1, "width2": 8, "kernel2": 3, "norm2": "group", "activation2": "silu",
          "pooling": "avg", "dropout": 0.1, "drop_path": 0.0, "augment": "shift", "lr": 3e-3,
          "weight_decay": 1e-2, "batch_size": 16, "label_smoothing": 0.1}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "config", "make"),
    [("mlp", MLP, lambda: table(names=["regression"])), ("resnet", RESNET, pictures)],
)
def test_a_proxy_trains_to_the_weights_of_a_bare_loop(
    family: str, config: dict[str, Any], make: Any
) -> None:
    dataset, epochs = make(), 3
    task, (inputs, labels) = make_task(dataset), tensors(dataset, "train")
    torch.manual_seed(7)
    proxy = Proxy(family, config, task)
    torch.manual_seed(7)
    network = load_families()[family].build(config, task)

    torch.manual_seed(8)
    run(trainer(epochs), proxy, dataset)

    torch.manual_seed(8)
    (target,) = task.targets
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config["lr"], weight_decay=config["weight_decay"]
    )
    order = torch.Generator().manual_seed(3)
    n = task.profile.n_train
    total = epochs * math.ceil(n / 16)
    warmup, step = math.ceil(0.05 * total), 0
    network.train()
    for _ in range(epochs):
        shuffled = torch.randperm(n, generator=order)
        for start in range(0, n, 16):
            done = (step - warmup) / (total - warmup)
            factor = 0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = config["lr"] * (
                (step + 1) / (warmup + 1) if step < warmup else factor
            )
            rows = shuffled[start : start + 16]
            x, y = {k: v[rows] for k, v in inputs.items()}, labels[target.name][rows]
            if "image" in x:
                x["image"] = augment_images(x["image"], "shift")
            logits = network(**x)
            if target.kind == "regression":
                loss = (logits[:, 0] - ((y - target.mean) / target.std).float()).square().mean()
            else:
                loss = F.cross_entropy(logits, y, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            step += 1
    assert step == total
    for (name, ours), bare in zip(
        proxy.network.state_dict().items(), network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, bare, rtol=1e-3, atol=1e-5, msg=name)


class LargestStep(pl.Callback):
    """The norm of the gradients that reach the optimiser, at its largest."""

    norm = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.norm = max(self.norm, float(torch.stack([g.norm() for g in grads]).norm()))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("family", one_of_each_modality())
def test_every_family_trains_with_clipped_gradients_in_either_precision(
    family: str, precision: str
) -> None:
    found = load_families()[family]
    for dataset in example_datasets(found.modality).values():
        task, largest = make_task(dataset), LargestStep()
        proxy = Proxy(family, dict(found.baseline(task)), task)
        fitted = trainer(1, 1e-2, largest, precision=precision)
        run(fitted, proxy, dataset)
        assert 0 < largest.norm < 1.01e-2
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in proxy.parameters())


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
def test_a_loss_scaler_leaves_clipping_and_monitors_as_they_are() -> None:
    """On a CPU in float16, as on a GPU without bfloat16: the first steps overflow."""
    dataset = table(names=["binary"])
    task = make_task(dataset)
    candidate = Candidate(0, "mlp", MLP, 1, epochs=1, metrics={task.quality.metric: 0.9})
    recipe = recipes.make(candidate, task, {"source": "x"}, {})
    apply(recipe, Settings(precision="16-mixed", epochs=6))
    proxy = nas.train.build(recipe, "here").module
    before = [p.detach().clone() for p in proxy.parameters()]
    scaler, monitor = torch.amp.GradScaler("cpu", 2.0**24), GradientMonitor()
    scaled = pl.Trainer(
        max_epochs=6, accelerator="cpu", plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        gradient_clip_val=1e-2, callbacks=[monitor], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    run(scaled, proxy, dataset)
    assert scaler.get_scale() < 2.0**24
    assert monitor.samples
    assert all(math.isfinite(sample.norm) for sample in monitor.samples)
    assert max(monitor.losses) < 2
    assert any(not torch.equal(a, b) for a, b in zip(before, proxy.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_weights_in_parts_are_clipped_by_the_norm_of_the_whole(precision: str) -> None:
    proxy, clips = Proxy("mlp", MLP, make_task(table(names=["binary"]))), list[float]()
    whole = SimpleNamespace(model=SimpleNamespace(clip_grad_norm_=clips.append))
    proxy.trainer = SimpleNamespace(strategy=whole, precision=precision)  # type: ignore[assignment]
    proxy.configure_gradient_clipping(torch.optim.SGD(proxy.parameters()), 0.5, "norm")
    assert clips == [0.5]


def test_the_errors_of_a_regression_are_in_the_users_units_and_exact() -> None:
    dataset = table(names=["regression"])
    far = replace(dataset.targets[0], mean=1e9 + dataset.targets[0].mean)
    dataset = replace(
        dataset,
        targets=(far,),
        labels={"regression": dataset.labels["regression"] + 1e9},  # 2e-6 of it are one sigma
    )
    proxy = Proxy("mlp", MLP, make_task(dataset)).eval()
    with torch.no_grad():
        proxy.network.head.weight.zero_()  # type: ignore[union-attr, operator]
        proxy.network.head.bias.zero_()  # type: ignore[union-attr, operator]
    loader = Batches(*tensors(dataset, "val"), 7)
    (found,) = trainer().validate(proxy, loader, verbose=False)
    truth = dataset.labels["regression"][dataset.parts["val"]]
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((truth - far.mean) ** 2)), rel=1e-6)
    assert found["val_loss"] == pytest.approx((found["rmse"] / far.std) ** 2, rel=1e-5)


def test_every_head_has_its_own_loss_and_its_own_predictions() -> None:
    dataset = table(names=["regression", "multiclass"])
    task = make_task(dataset)
    proxy = Proxy("mlp", MLP, task)
    logits = torch.randn(84, 4)
    _, labels = tensors(dataset, "train")
    number = next(t for t in task.targets if t.kind == "regression")
    standard = (labels["regression"] - number.mean) / number.std
    expected = F.mse_loss(logits[:, 0], standard.float()) + F.cross_entropy(
        logits[:, 1:], labels["multiclass"]
    )
    assert float(proxy.loss(logits, labels)) == pytest.approx(float(expected) / 2, rel=1e-5)
    found = proxy.predictions(logits)
    assert found["regression"] == pytest.approx(
        logits[:, 0].double().numpy() * number.std + number.mean
    )
    assert found["multiclass"] == pytest.approx(logits[:, 1:].softmax(1).numpy())


def test_class_weights_are_inverse_frequencies_with_a_mean_of_one() -> None:
    dataset = table(names=["multiclass"])
    proxy = Proxy("mlp", MLP | {"class_weights": "balanced"}, make_task(dataset))
    counts = np.bincount(dataset.labels["multiclass"][dataset.parts["train"]])
    weights = proxy.class_weights_0.numpy()  # type: ignore[operator]
    assert weights * counts == pytest.approx(np.full(3, counts.sum() / 3), rel=1e-5)
    assert Proxy("mlp", MLP, make_task(dataset)).class_weights_0 is None
    logits, labels = torch.randn(84, 3), tensors(dataset, "train")[1]
    expected = F.cross_entropy(logits, labels["multiclass"], torch.from_numpy(weights))
    assert float(proxy.loss(logits, labels)) == pytest.approx(float(expected))


@pytest.mark.parametrize("names", [["multiclass"], ["multiclass", "binary"]])
def test_the_loss_of_a_validation_is_the_same_whatever_the_training_s(names: list[str]) -> None:
    """Networks of different smoothing and weights are compared by it."""
    dataset, found = table(names=names), []
    for more in ({}, {"label_smoothing": 0.1, "class_weights": "balanced"}):
        torch.manual_seed(0)
        proxy = Proxy("mlp", MLP | more, make_task(dataset))
        loader = Batches(*tensors(dataset, "val"), 7)
        (validated,) = trainer().validate(proxy, loader, verbose=False)
        (tested,) = trainer().test(proxy, loader, verbose=False)
        assert validated["val_loss"] == tested["test_loss"]
        found.append(validated["val_loss"])
    assert found[0] == found[1]
    inputs, labels = tensors(dataset, "val")
    with torch.no_grad():
        heads = proxy.eval().heads(proxy(**inputs))
    plain = [float(F.cross_entropy(heads[name], labels[name])) for name in names]
    assert found[0] == pytest.approx(np.mean(plain), rel=1e-5)


@pytest.mark.parametrize("names", [["regression", "binary"], ["multiclass"], ["u", "v"]])
def test_a_checkpoint_loads_without_pickle_and_predicts_the_same(
    names: list[str], tmp_path: Path
) -> None:
    dataset = table(names=names)
    proxy = Proxy("mlp", MLP | {"class_weights": "balanced"}, make_task(dataset))
    fitted = trainer(1)
    run(fitted, proxy, dataset)
    file = tmp_path / "model.ckpt"
    fitted.save_checkpoint(file)
    again = load_proxy(file)
    assert again.task == proxy.task
    rows = dataset.parts["test"]
    inputs = {name: array[rows] for name, array in dataset.inputs.items()}
    one, other = predict(proxy.eval(), inputs), predict(again, inputs)
    for name in one:
        assert one[name] == pytest.approx(other[name], rel=1e-5)


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(
    content: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "model.ckpt"
    with pytest.raises(InputError, match="no checkpoint at"):
        load_proxy(file)
    file.write_bytes(content)
    with pytest.raises(InputError, match="is not a checkpoint of"):
        load_proxy(file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "not_here"}, "the family 'not_here' is not installed here"),
        ({"family": ["mlp"]}, "is not a checkpoint of"),
        ({"config": {}}, "is not a checkpoint of"),
        ({"config": 3}, "is not a checkpoint of"),
        ({"config": {"width": "wide"}}, "is not a checkpoint of"),
        ({"task": {}}, "not a valid Task"),
        ({"task": None}, "not a valid Task"),
    ],
)
def test_a_checkpoint_of_other_contents_is_refused_in_one_line(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    task = make_task(table(names=["binary"]))
    proxy = Proxy("mlp", dict(load_families()["mlp"].baseline(task)), task)
    parameters = dict(proxy.hparams) | changes
    content = {"hyper_parameters": parameters, "state_dict": proxy.state_dict()}
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(InputError) as error:
        load_proxy(tmp_path / "model.ckpt")
    assert said in str(error.value)
    assert "model.ckpt" in str(error.value)
    assert "\n" not in str(error.value)


# -- the simple baselines ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "metric", "least"),
    [
        (["binary"], "accuracy", 0.8),
        (["multiclass"], "accuracy", 0.7),
        (["regression"], "r2", 0.5),
        (["u", "v"], "f1", 0.7),
        (["regression", "multiclass"], "score", 0.5),
    ],
)
def test_the_simple_models_learn_each_kind_of_problem(
    names: list[str], metric: str, least: float
) -> None:
    dataset = table(300, names=names)
    found = simple.baselines(dataset, make_task(dataset))
    assert len(found) == 2
    for each in found:
        assert "error" not in each
        assert each["metrics"][metric] > least, each["name"]
        # Few samples: four of five folds of all but the test part.
        rest = dataset.profile.n_train + dataset.profile.n_val
        assert each["samples"] == pytest.approx(0.8 * rest, abs=2)
        assert each["seconds"] > 0


def test_simple_models_of_few_samples_or_large_numbers_are_rows_that_a_run_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = table(10, names=["regression"])
    task = make_task(dataset)
    assert min(len(scored) for _, scored in proxy_folds(dataset, task)) == 1
    for row in simple.baselines(dataset, task):
        assert Baseline.from_dict(row).metrics.keys() >= {"rmse", "mae", "r2"}
    monkeypatch.setattr(simple, "score", lambda *_: {"rmse": math.inf, "mae": 1.0})
    for row in simple.baselines(dataset, task):
        assert Baseline.from_dict(row).metrics == {"mae": 1.0}


def test_the_simple_model_of_images_learns_from_large_ones_too() -> None:
    for side, channels in ((8, 1), (50, 3)):
        dataset = pictures(side=side, channels=channels)
        (found,) = simple.baselines(dataset, make_task(dataset))
        assert found["name"] == "PCA + logistic"
        assert found["metrics"]["accuracy"] > 0.8


def test_large_images_are_averaged_over_whole_blocks() -> None:
    images = rng.integers(0, 256, (3, 2, 70, 40), dtype=np.uint8)
    found = simple._shrink(images).reshape(3, 2, 23, 13)
    assert found[1, 0, 2, 5] == pytest.approx(images[1, 0, 6:9, 15:18].mean())
    assert simple._shrink(images[..., :32, :8]) == pytest.approx(
        images[..., :32, :8].reshape(3, -1).astype(float)
    )


def test_columns_of_many_categories_are_taken() -> None:
    n = 900
    city = np.repeat([f"city{i}" for i in range(300)], 3)
    frame = pd.DataFrame({"city": city, "x": rng.normal(size=n), "y": np.arange(n) % 2})
    dataset = read(frame, target="y", seed=0)
    assert len(dataset.profile.columns[0].categories) > 255
    assert not any("error" in b for b in simple.baselines(dataset, make_task(dataset)))


def test_a_class_that_the_capped_training_part_lacks_gets_probability_zero() -> None:
    dataset = table(1200, names=["multiclass"])
    labels = dataset.labels["multiclass"]
    rare = 0
    keep = labels[dataset.parts["train"]] != rare
    order = np.argsort(~keep, kind="stable")  # the cap takes what comes first
    capped = replace(
        dataset, parts=dataset.parts | {"train": dataset.parts["train"][order][: keep.sum()]}
    )
    found = simple.baselines(capped, make_task(dataset))
    assert all("error" not in b for b in found)
    assert all(0.5 < b["metrics"]["accuracy"] < 0.9 for b in found)
    halved = replace(make_task(dataset), fidelity=Fidelity(epochs=1, share=0.5))
    size = len(dataset.parts["train"]) / 2
    assert all(abs(b["samples"] - size) < 3 for b in simple.baselines(dataset, halved))


def test_beside_a_tested_network_simple_models_see_a_bounded_part_of_many_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = {}

    def watched(dataset: Dataset, task: Task, pairs: Any, *_: Any) -> list[dict[str, Any]]:
        seen["rows"] = [set(rows) <= set(dataset.parts[part]) and len(rows)
                        for part, rows in zip(("train", "test"), *pairs, strict=True)]  # fmt: skip
        return []

    monkeypatch.setattr(simple, "baselines", watched)
    for name, most in (("MOST_FITTED", 60), ("MOST_SCORED", 20)):
        monkeypatch.setattr(simple, name, most)
    dataset = table(300, names=["regression"])
    simple.tested(dataset, make_task(dataset))
    assert seen["rows"] == [60, 20]
    dataset = pictures(side=8, channels=1)
    monkeypatch.setattr(simple, "MOST_PIXELS", 12 * 64)
    simple.tested(dataset, make_task(dataset))
    assert seen["rows"] == pytest.approx([12, 12], abs=2)


def test_a_simple_model_that_fails_is_recorded_and_the_others_continue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("no convergence today\nand more")

    monkeypatch.setattr(LogisticRegression, "fit", broken)
    dataset = table(names=["binary"])
    failed, fine = simple.baselines(dataset, make_task(dataset))
    assert failed["error"] == "ValueError: no convergence today"
    assert failed["metrics"] == {}
    assert fine["metrics"]["accuracy"] > 0.6


@pytest.mark.parametrize(
    ("scores", "samples", "kept"),
    [
        ([0.5, 0.9, 0.7, 0.9, 0.8], 100, 3),
        ([0.5, 0.9, 0.896, 0.88, 0.7], 400, 2),  # a third of a standard error of 0.015
        ([0.5, 0.9, 0.88, 0.8, 0.7], 1000, 1),
        ([0.9, 0.896, 0.892, 0.888, 0.88], 400, 1),  # near the best, not near the one kept
        ([0.5, 1.0, 0.99, 0.98, 0.97], 100, 2),  # a standard error of 0
    ],
    ids=["equally good", "within noise", "beyond noise", "no drift", "one sample"],
)
def test_of_equally_good_epochs_the_latest_is_kept(
    scores: list[float], samples: int, kept: int, tmp_path: Path
) -> None:
    scored, dataset = iter(scores), table(names=["binary"])
    profile = replace(dataset.profile, n_val=samples)

    class Scored(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.task = replace(make_task(dataset), profile=profile)
            self.weight = torch.nn.Parameter(torch.ones(1))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return (self.weight * batch[0]["x"]).sum()

        def on_train_epoch_end(self) -> None:
            self.log("accuracy", next(scored))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    keeper = LatestBest(monitor="accuracy", mode="max", dirpath=tmp_path, filename="{epoch}")
    trainer = pl.Trainer(
        max_epochs=5, callbacks=[keeper], logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Scored(), Batches({"x": torch.ones(2)}, {}, 2))
    assert [path.name for path in tmp_path.iterdir()] == [f"epoch={kept}.ckpt"]


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_checkpoint_of_either_kind_holds_the_average_of_the_weights(
    weights_only: bool, tmp_path: Path
) -> None:
    dataset = table(names=["binary"])
    keeper = LatestBest(
        monitor=None, dirpath=tmp_path, filename="model", save_weights_only=weights_only
    )
    torch.manual_seed(0)
    proxy = Proxy("mlp", MLP, make_task(dataset))
    fitted = pl.Trainer(
        max_epochs=2, callbacks=[AveragedWeights(0.9), keeper], logger=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    run(fitted, proxy, dataset)
    # At the end of a training its network has the average.
    kept, averaged = load_proxy(tmp_path / "model.ckpt").state_dict(), proxy.state_dict()
    assert kept.keys() == averaged.keys()
    for name, value in averaged.items():
        torch.testing.assert_close(kept[name], value, msg=name)


def test_the_average_of_the_weights_is_kept_on_the_device_of_the_training() -> None:
    """The network is still on the CPU where a callback is set up."""
    proxy, average = Proxy("mlp", MLP, make_task(table(names=["binary"]))), AveragedWeights()
    there: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    average.setup(there, proxy, "fit")
    assert average._average_model is not None
    assert all(p.device.type == "meta" for p in average._average_model.parameters())
    assert proxy.device.type == "cpu"


def test_several_processes_agree_on_an_end_every_twenty_steps(tmp_path: Path) -> None:
    """To agree makes each of them wait for its GPU."""
    asked: list[bool] = []

    def reduced(wish: bool, all: bool) -> bool:
        asked.append(wish)
        return wish

    several: Any = SimpleNamespace(
        accumulate_grad_batches=2, num_training_batches=200, world_size=2, is_global_zero=True,
        strategy=SimpleNamespace(reduce_boolean_decision=reduced),
    )  # fmt: skip
    keeper: Any = KeepLast(tmp_path / "last.ckpt", {}, Signals())
    for i in range(200):
        keeper.on_train_batch_end(several, None, None, None, i)
    assert asked == [False] * 4  # the end of an epoch is another question


def test_boosting_learns_from_forty_rows() -> None:
    dataset = table(60, names=["binary"])
    *_, boosted = simple.baselines(dataset, make_task(dataset))
    assert boosted["name"] == "HistGradientBoosting"
    assert boosted["metrics"]["auc"] != 0.5  # one leaf for all gives everybody the same


# -- labels ----------------------------------------------------------------------------------------

LABEL_VALUES: dict[str, list[Any]] = {
    "integers": [0, 1, 2],
    "negative integers": [-1, 1],
    "numbers": [0.5, 1.5, 2.5],
    "booleans": [False, True],
    "texts": ["no", "yes"],
    "texts of digits": ["01", "007", "1E5"],
    "texts that look missing": ["NA", "SA", "EU"],
}


def labelled(values: list[Any]) -> pd.DataFrame:
    return pd.DataFrame({"x": np.linspace(-1, 1, 60), "y": (values * 60)[:60]})


def untrained(
    source: Any, folder: Path, problem: str | None = "classification"
) -> tuple[Path, Target]:
    """A checkpoint of an untrained network for the target y."""
    task = make_task(read(source, target="y", problem=problem))
    proxy = Proxy("mlp", dict(load_families()["mlp"].baseline(task)), task)
    content = {"hyper_parameters": dict(proxy.hparams), "state_dict": proxy.state_dict()}
    torch.save(content, folder / "model.ckpt")
    return folder / "model.ckpt", task.targets[0]


@pytest.mark.parametrize("form", ["frame", "categorical", "csv"])
@pytest.mark.parametrize("name", LABEL_VALUES)
def test_a_label_comes_back_as_it_went_in(name: str, form: str, tmp_path: Path) -> None:
    values = LABEL_VALUES[name]
    frame = labelled(values)
    if form == "categorical":
        frame["y"] = frame["y"].astype("category")
    source: Any = frame
    if form == "csv":
        source = tmp_path / "t.csv"
        frame.to_csv(source, index=False)
    predicted, scores = load(untrained(source, tmp_path)[0]).frame(source)
    assert scores, "the labels of the data were understood"
    if form != "csv":
        found = predicted["y"].tolist()
        assert {type(value) for value in found} == {type(values[0])}
        assert set(found) <= set(values)
    predicted.to_csv(tmp_path / "p.csv", index=False)
    texts = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)["y"]
    assert set(texts) <= {str(value) for value in values}


TAGS = [["a", "c"], ["a"], ["c", "d"], ["b", "d"], ["b"], ["a", "b", "d"]]


@pytest.mark.parametrize("cells", [TAGS, [";".join(tags) for tags in TAGS]], ids=["lists", "texts"])
def test_labels_of_one_cell_come_back_in_one_cell(cells: list[Any], tmp_path: Path) -> None:
    frame = labelled(cells)
    checkpoint, target = untrained(frame, tmp_path, problem=None)
    predicted, scores = load(checkpoint).frame(frame)
    assert scores, "the labels of the data were understood"
    assert {type(cell) for cell in predicted["y"]} == {type(cells[0])}
    for label in target.classes:
        chosen = [label in cell for cell in predicted["y"]]
        assert chosen == (predicted[f"probability[{label}]"] >= 0.5).tolist()


# -- few columns, small batches --------------------------------------------------------------------

ONE_COLUMN = {
    "a number": np.linspace(-1, 1, 24),
    "a number that is missing": np.where(np.arange(24) % 3, np.nan, 1.0 * np.arange(24)),
    "a category": np.array(["red", "green", "blue"] * 8),
}
FIRST_RUN = ("tabnet", "a number that is missing")  # BatchNorm and a mask; the others are slow


@pytest.mark.parametrize(
    ("name", "column"),
    [
        pytest.param(name, column, marks=[] if (name, column) == FIRST_RUN else pytest.mark.slow)
        for name in load_families("tabular")
        for column in ONE_COLUMN
    ],
)
def test_one_column_two_classes_and_batches_of_two_train_from_preflight_to_the_end(
    name: str, column: str
) -> None:
    frame = pd.DataFrame({"x": ONE_COLUMN[column], "y": ["no", "yes"] * 12})
    dataset = read(frame, target="y")
    task = replace(make_task(dataset), fidelity=Fidelity(1, 1.0, None))
    space = load_families()[name].space(task)
    evaluator = Evaluator(task, dataset)
    for config in (space.baseline(), *extreme_configs(space, most=2)):
        asked = Candidate(0, name, dict(config) | {"batch_size": 2}, seed=1, epochs=1)
        end = Candidate.from_dict(evaluator.evaluate(asked.to_dict(), lambda *_: ""))
        assert (end.state, end.detail) == (State.COMPLETE, "")
        assert end.cost.device
        assert end.cost.use is not None
        assert 0 < end.cost.use <= 1


def test_the_numbers_that_a_simple_model_has_learnt_are_counted() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 10))
    y = (x[:, 0] > 0).astype(int)
    # Mean and scale; mean and axes; coefficients and intercept.
    linear = make_pipeline(StandardScaler(), PCA(3), LogisticRegression()).fit(x, y)
    assert simple._learnt([linear]) == (10 + 10) + (10 + 30) + (3 + 1)
    forest = RandomForestClassifier(3, random_state=0).fit(x, y)
    splits = sum(tree.tree_.node_count for tree in forest.estimators_)
    assert simple._learnt(forest) == (2 + 2) * splits  # a value for each of two classes
    words = TfidfVectorizer().fit(["one two three", "two four"])
    assert simple._learnt(words) == 4


def test_a_long_epoch_says_each_minute_how_far_it_is_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=100.0)
    clocks = SimpleNamespace(monotonic=lambda: clock.now)
    monkeypatch.setattr("nas.training.callbacks.time", clocks)
    lines, module = EpochLines(), Any
    trainer: Any = SimpleNamespace(
        max_epochs=2, current_epoch=0, num_training_batches=2_000, is_global_zero=True
    )
    lines.on_fit_start(trainer, module)  # type: ignore[arg-type]
    lines.on_train_start(trainer, module)  # type: ignore[arg-type]
    for step in range(1_000):
        clock.now += 0.125
        lines.on_train_batch_end(trainer, module, None, {}, step)  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1/2  step 480 of 2,000  (440 s left)",
        "epoch 1/2  step 960 of 2,000  (380 s left)",
    ]
