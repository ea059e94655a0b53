"""Monitors: what they measure, each verdict on a training that was built to earn it, and none on
sound ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from default_run import mostly_slow
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from nas.candidate import Candidate, State
from nas.data import Dataset
from nas.family import load_families
from nas.plan import make_task
from nas.task import Budget, Fidelity, Target, Task
from nas.testing import example_datasets
from nas.training import monitors
from nas.training.batches import part_tensors
from nas.training.evaluator import Evaluator
from nas.training.fit import fit_proxy
from nas.training.monitors import GradientMonitor, GradientSample, TrainingStopped
from nas.training.proxy import Proxy

# Lightning gives hints about choices that we have made; they are no fault of a test.
pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")

FEATURES, CLASSES, BATCH = 16, 4, 32


@pytest.fixture(autouse=True)
def sample_every_tenth_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine: on networks as small as these, samples are expensive."""
    monkeypatch.setattr(monitors, "OVERHEAD", math.inf)


class Foreign(pl.LightningModule):
    """A module that is not ours: it trains ``network`` with Adam."""

    def __init__(self, network: nn.Module, lr: float = 1e-3) -> None:
        super().__init__()
        self.network, self.lr = network, lr
        self.chance_loss = math.log(CLASSES)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def clusters(noise: bool = False) -> TensorDataset:
    """512 points around the centres of four classes; with ``noise`` no label says anything."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (512,), generator=draw)
    x = torch.randn(512, FEATURES, generator=draw) + 2 * F.one_hot(y, FEATURES)
    return TensorDataset(x, torch.randint(0, CLASSES, (512,), generator=draw) if noise else y)


def fit(
    module: pl.LightningModule,
    *callbacks: pl.Callback,
    steps: int = 200,
    data: TensorDataset | None = None,
    clip: float | None = 1.0,
    accumulate: int = 1,
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        gradient_clip_val=clip,
        accumulate_grad_batches=accumulate,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data or clusters(), BATCH // accumulate, shuffle=True))
    return trainer


def stack(depth: int, activation: type[nn.Module], gain: float = 0.0, width: int = 32) -> Any:
    """A plain network; with a ``gain`` its weights are normal, that many times He's spread."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else FEATURES, width), activation()]
    layers.append(nn.Linear(width, CLASSES))
    for layer in layers:
        if gain and isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain * math.sqrt(2 / layer.in_features))
    return nn.Sequential(*layers)


class Each(pl.Callback):
    """Calls ``look(step, module)`` after each backward pass."""

    def __init__(self, look: Callable[[int, pl.LightningModule], None]) -> None:
        self.look = look

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(trainer.global_step, pl_module)


def spoil(layer: str, step: int, factor: float) -> Each:
    """Puts a factor on a layer's gradients from a step on."""

    def look(now: int, module: pl.LightningModule) -> None:
        if now >= step:
            for p in module.get_submodule(layer).parameters():
                assert p.grad is not None
                p.grad.mul_(factor)

    return Each(look)


# -- what is measured --------------------------------------------------------------------------


def test_norms_are_those_of_autograd_before_clipping() -> None:
    module, monitor, by_hand = Foreign(stack(2, nn.ReLU)), GradientMonitor(), {}

    def look(step: int, module: pl.LightningModule) -> None:
        if step == 20:
            for name, p in module.named_parameters():
                assert p.grad is not None
                layer = name.removeprefix("network.").rpartition(".")[0]
                by_hand[layer] = math.hypot(by_hand.get(layer, 0.0), float(p.grad.norm()))

    fit(module, Each(look), monitor, steps=25, clip=1e-4)
    assert [sample.step for sample in monitor.samples] == [0, 10, 20]
    assert monitor.samples[2].norms == pytest.approx(by_hand, rel=1e-4)
    assert monitor.samples[2].norm == pytest.approx(math.hypot(*by_hand.values()), rel=1e-4)
    assert monitor.samples[2].norm > 1e-2, "the clipped norm would be 1e-4"


def test_update_ratios_are_what_the_optimiser_adds_over_the_weights() -> None:
    module, monitor = Foreign(stack(1, nn.ReLU)), GradientMonitor()
    start = {name: value.clone() for name, value in module.network.state_dict().items()}
    fit(module, monitor, steps=1)
    end = module.network.state_dict()
    for layer in ("0", "2"):
        names = (f"{layer}.weight", f"{layer}.bias")
        added = math.hypot(*(float((end[n] - start[n]).norm()) for n in names))
        size = math.hypot(*(float(start[n].norm()) for n in names))
        assert monitor.samples[0].updates[layer] == pytest.approx(added / size, rel=1e-3)


def test_dead_units_are_those_whose_relu_gives_zero_for_the_whole_batch() -> None:
    network, monitor = stack(2, nn.ReLU), GradientMonitor()
    batch = TensorDataset(*clusters()[:BATCH])
    with torch.no_grad():
        network[2].bias[:12] = -100.0
        by_hand = {
            layer: float((network[:end](batch[:][0]) == 0).all(0).float().mean())
            for layer, end in (("0", 2), ("2", 4))
        }
    assert by_hand["2"] >= 12 / 32
    fit(Foreign(network), monitor, steps=1, data=batch)
    assert monitor.samples[0].dead == pytest.approx(by_hand | {"4": 0.0})


def test_the_history_thins_samples_evenly_and_keeps_the_last() -> None:
    monitor = GradientMonitor()
    monitor.samples = [
        GradientSample(10 * i, {"first": 1.23456 * i, "last": math.inf if i == 5 else 2.0}, {})
        for i in range(101)
    ]
    history = monitor.history()
    steps = [step for step, _ in history["first"]]
    assert len(steps) <= 40
    assert steps[-1] == 1000
    assert len(set(np.diff(steps))) == 1
    assert history["first"][-1] == (1000, 123.0)
    monitor.samples = monitor.samples[:10]
    assert [step for step, _ in monitor.history()["last"]] == [0, 10, 20, 30, 40, 60, 70, 80, 90]


def test_dead_units_are_kept_by_step_of_the_layers_that_had_some() -> None:
    network, monitor = stack(2, nn.ReLU), GradientMonitor()
    with torch.no_grad():
        network[2].bias[:16] = -100.0
    fit(Foreign(network), monitor, steps=60)
    history = monitor.dead_history()
    assert "4" not in history
    steps = [step for step, _ in monitor.history()["2"]]
    assert [step for step, _ in history["2"]] == steps
    assert all(0.5 <= fraction < 0.8 for _, fraction in history["2"])


def test_a_summary_says_where_the_thresholds_are() -> None:
    monitor = GradientMonitor()
    assert monitor.summary().exploding is None
    fit(Foreign(stack(2, nn.ReLU)), monitor, steps=60)
    early = sorted(s.norm for s in monitor.samples if s.step <= 20)
    summary = monitor.summary()
    assert summary.exploding == pytest.approx(monitors.EXPLODING * np.median(early), rel=1e-2)
    assert summary.vanishing == monitors.VANISHING


def test_the_loss_and_the_norms_of_a_step_are_those_of_all_its_micro_batches() -> None:
    whole, parts = GradientMonitor(), GradientMonitor()
    batch = TensorDataset(*clusters()[:BATCH])
    fit(Foreign(stack(1, nn.ReLU)), whole, steps=15, data=batch)
    fit(Foreign(stack(1, nn.ReLU)), parts, steps=15, data=batch, accumulate=2)
    assert len(parts.losses) == 11
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4)
    assert parts.samples[1].norms == pytest.approx(whole.samples[1].norms, rel=1e-3)


def test_samples_that_are_expensive_become_rare_but_ten_remain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitors, "OVERHEAD", 1e-9)
    monitor = GradientMonitor()
    fit(Foreign(stack(1, nn.ReLU)), monitor, steps=300)
    assert [sample.step for sample in monitor.samples] == [0, *range(10, 300, 30)]


# -- verdicts ----------------------------------------------------------------------------------


def stopped(module: pl.LightningModule, *callbacks: pl.Callback, **options: Any) -> GradientMonitor:
    """The monitor that ended the training."""
    monitor = GradientMonitor()
    with pytest.raises(TrainingStopped) as stop:
        fit(module, *callbacks, monitor, **options)
    assert monitor.finding is not None
    assert (stop.value.reason, stop.value.evidence) == (
        monitor.finding.reason,
        monitor.finding.evidence,
    )
    return monitor


@pytest.mark.parametrize("step", [17, 20])
def test_a_gradient_that_is_not_finite_ends_the_run_before_it_reaches_the_weights(
    step: int,
) -> None:
    module = Foreign(stack(2, nn.ReLU))
    monitor = stopped(module, spoil("network.2", step, math.nan))
    assert monitor.finding is not None
    assert monitor.finding.evidence == f"the gradient of 2 is not finite at step {step}"
    assert (monitor.finding.reason, monitor.finding.layer) == ("nan", "2")
    assert all(p.isfinite().all() for p in module.parameters())


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x)


class LogInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.entry, self.head = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.log(self.entry(x)))
        return y


@pytest.mark.parametrize(
    ("network", "layer", "place"),
    [
        (nn.Sequential(nn.Linear(FEATURES, 8), Log(), nn.Linear(8, CLASSES)), "1", "the output"),
        (LogInside(), "head", "the input"),
    ],
)
def test_the_log_of_a_negative_number_is_found_where_it_first_shows(
    network: nn.Module, layer: str, place: str
) -> None:
    module = Foreign(network)
    monitor = stopped(module)
    assert monitor.finding is not None
    assert (monitor.finding.reason, monitor.finding.layer) == ("nan", layer)
    assert monitor.finding.evidence == (f"the loss is nan at step 0, from {place} of {layer} on")
    assert all(p.isfinite().all() for p in module.parameters())


def test_a_plain_deep_stack_with_large_weights_explodes() -> None:
    monitor = stopped(Foreign(stack(20, nn.ReLU, gain=4.0), lr=1e-4))
    assert monitor.finding is not None
    assert monitor.finding.reason == "exploding"
    assert monitor.finding.layer in monitor.samples[-1].norms
    assert monitor.finding.value > monitor.finding.threshold
    assert f"at step {monitor.finding.step}" in monitor.finding.evidence


def test_a_gradient_that_grows_a_thousandfold_explodes_where_nothing_is_learnt() -> None:
    monitor = stopped(
        Foreign(stack(2, nn.ReLU), lr=1e-4),
        spoil("network.2", 45, 1e5),
        data=clusters(noise=True),
        steps=400,
    )
    assert monitor.finding is not None
    assert (monitor.finding.reason, monitor.finding.layer) == ("exploding", "2")
    assert monitor.finding.step == 70, "the third sample in a row"


def test_a_gradient_that_grows_a_thousandfold_is_no_matter_to_a_network_that_learns() -> None:
    monitor = GradientMonitor()
    fit(Foreign(stack(2, nn.ReLU), lr=1e-2), spoil("network", 45, 1e5), monitor)
    assert monitor.finding is None
    assert monitor.samples[-1].norm > 1e3 * monitor.samples[0].norm


@pytest.mark.parametrize("depth", [12, 40])
def test_the_gradient_of_many_sigmoid_layers_vanishes_at_the_first(depth: int) -> None:
    monitor = stopped(Foreign(stack(depth, nn.Sigmoid)))
    assert monitor.finding is not None
    assert (monitor.finding.reason, monitor.finding.layer) == ("vanishing", "0")
    assert monitor.finding.value < monitor.finding.threshold == 1e-6
    assert monitor.finding.step <= 30


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("layer", [0, 3])
def test_a_layer_of_dead_units_is_named(layer: int, norm: bool) -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(4):
        layers.append(nn.Linear(32 if i else FEATURES, 32, bias=not norm))
        layers += [nn.BatchNorm1d(32), nn.ReLU()] if norm else [nn.Identity(), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(32, CLASSES))
    culprit = 3 * layer + norm
    nn.init.constant_(network[culprit].bias, -100.0)  # type: ignore[arg-type]
    monitor = stopped(Foreign(network))
    assert monitor.finding is not None
    assert (monitor.finding.reason, monitor.finding.layer) == ("dead", str(culprit))
    assert monitor.finding.step == 20
    assert monitor.samples[-1].dead[str(culprit)] == 1.0


@pytest.mark.parametrize("known", [True, False])
def test_a_loss_that_never_falls_is_a_plateau_after_a_quarter_of_the_steps(known: bool) -> None:
    module = Foreign(stack(2, nn.ReLU, gain=0.1), lr=1e-7)
    if not known:
        del module.chance_loss
    monitor = stopped(module, steps=640)
    assert monitor.finding is not None
    assert (monitor.finding.reason, monitor.finding.layer) == ("plateau", "")
    assert monitor.finding.step == 160
    assert monitor.finding.value == pytest.approx(math.log(CLASSES), rel=0.02)


def test_a_monitor_that_does_not_stop_keeps_its_first_finding_and_the_run_continues() -> None:
    monitor = GradientMonitor(stop=False)
    trainer = fit(Foreign(stack(3, nn.ReLU)), spoil("network.4", 33, math.nan), monitor, steps=80)
    assert trainer.global_step == 80
    assert monitor.finding is not None
    assert (monitor.finding.step, monitor.finding.layer) == (33, "4")


# -- no verdict on what is sound -----------------------------------------------------------------


def learnable(modality: str) -> Dataset:
    return next(iter(example_datasets(modality, samples=240).values()))  # type: ignore[arg-type]


def task_of(dataset: Dataset) -> Task:
    return make_task(dataset, budget=Budget(None, 1, 1), device="cpu")


@pytest.mark.parametrize(
    "family",
    mostly_slow(["resnet", "vit", "transformer", "lstm", "mamba", "tabnet"], ["resnet", "lstm"]),
)
def test_a_sound_training_gets_no_verdict(family: str) -> None:
    found = load_families()[family]
    dataset = learnable(found.modality)
    task = task_of(dataset)
    parts = [part_tensors(dataset, dataset.parts[name], "cpu") for name in ("train", "val")]
    torch.manual_seed(0)
    config = dict(found.baseline(task))
    monitor = GradientMonitor()
    epochs = 12 if family == "tabnet" else 8  # it learns slowly
    fit_proxy(Proxy(family, config, task), *parts, epochs, 0, [monitor])  # type: ignore[arg-type]
    assert monitor.finding is None
    assert np.mean(monitor.losses[-10:]) < 0.98 * math.log(3)
    updates = [u for sample in monitor.samples for u in sample.updates.values()]
    assert 1e-5 < np.median(updates) < 1e-1


# -- what the candidate keeps --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "reasons"), [(1e-9, {"plateau"}), (1e4, {"nan", "exploding", "dead"})]
)
def test_the_evidence_is_in_the_candidate(lr: float, reasons: set[str]) -> None:
    dataset = learnable("images")
    task = replace(task_of(dataset), fidelity=Fidelity(30, 1.0, None))
    config = dict(load_families()["resnet"].baseline(task)) | {"lr": lr, "norm1": "group"}
    asked = Candidate(7, "resnet", config, seed=1, epochs=30)
    answer = Evaluator(task, dataset).evaluate(asked.to_dict(), lambda *_: "")
    end = Candidate.from_dict(answer)
    assert end.state == State.PRUNED
    assert end.reason in reasons
    assert f"step {end.health.step}" in end.detail
    assert len(end.health.to_json()) < 400
    assert end == Candidate.from_json(end.to_json())


def test_a_sound_candidate_has_its_health_in_numbers() -> None:
    dataset = learnable("tabular")
    task = replace(task_of(dataset), fidelity=Fidelity(3, 1.0, None))
    config = dict(load_families()["mlp"].baseline(task))
    asked = Candidate(7, "mlp", config, seed=1, epochs=3)
    answer = Evaluator(task, dataset).evaluate(asked.to_dict(), lambda *_: "")
    health = Candidate.from_dict(answer).health
    seen = {"samples", "gradient_norm", "dead_units", "update_ratio"}
    assert set(health.to_dict()) == seen | {"exploding", "vanishing"}
    assert health.dead_units is not None
    assert health.update_ratio is not None
    assert 0 <= health.dead_units <= 1
    assert 1e-5 < health.update_ratio < 1e-1


# -- the loss without learning -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "config"),
    [
        (Target("y", "binary", ("a", "b"), (70, 30)), {}),
        (Target("y", "multiclass", ("a", "b", "c"), (60, 30, 10)), {"label_smoothing": 0.1}),
        (Target("y", "multiclass", ("a", "b", "c"), (60, 30, 10)), {"class_weights": "balanced"}),
        (
            Target("y", "multiclass", ("a", "b", "c"), (60, 30, 10)),
            {"class_weights": "balanced", "label_smoothing": 0.1},
        ),
        (Target("y", "multilabel", ("u", "v"), (80, 10)), {}),
        (Target("y", "regression", mean=3.0, std=2.0), {}),
    ],
)
def test_the_chance_loss_is_the_least_that_constant_logits_reach(
    target: Target, config: dict[str, Any]
) -> None:
    dataset = learnable("tabular")
    task = task_of(dataset)
    task = replace(task, targets=(target,), profile=replace(task.profile, n_train=100))
    config = dict(load_families()["mlp"].baseline(task)) | config
    proxy = Proxy("mlp", config, task)
    if target.kind == "multilabel":
        rows = torch.arange(100)[:, None]
        y = (rows < torch.tensor(target.counts)).float()
    elif target.kind == "regression":
        y = torch.linspace(-1, 1, 100).double()
        y = 3.0 + 2.0 * y / y.std(correction=0)
    else:
        y = torch.repeat_interleave(torch.arange(len(target.counts)), torch.tensor(target.counts))
    logits = torch.zeros(target.outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_change=1e-12)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = proxy.loss(logits.expand(100, -1), {"y": y})
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    assert proxy.chance_loss == pytest.approx(float(loss().detach()), rel=1e-3)
