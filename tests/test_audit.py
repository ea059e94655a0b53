"""The audit: a zoo of broken networks and trainings, one for each pitfall, each found where it is,
and sound ones in which nothing serious is."""

from __future__ import annotations

import importlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas import cli, rules
from nas.audit import Audit, audit, load
from nas.audit import checkup as checkups
from nas.audit.anatomy import anatomy, trace
from nas.audit.feed import company_error, from_dataset, from_tensors, padding_error
from nas.candidate import Reason
from nas.checks import CHECKS, check
from nas.data import read
from nas.family import load_families
from nas.layers import Anatomy, Layer, Observed
from nas.plan import make_task
from nas.task import Budget, InputError, UsageError
from nas.testing import example_datasets
from nas.training.batches import Batches

SIDE, CLASSES = 8, 4
IMAGES = {"shape": (3, SIDE, SIDE), "classes": CLASSES}
ROWS = {"shape": (16,), "classes": CLASSES}


# Building blocks of sound and of broken networks ----------------------------------------------


def convolutions(
    depth: int, norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d, drop: float = 0.0
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(8 if i else 3, 8, 3, padding=1)]
        layers += [norm(8)] if norm else []
        layers += [nn.ReLU()]
        layers += [nn.Dropout(drop)] if drop else []
    return layers


def pooled(*layers: nn.Module, width: int = 8) -> nn.Sequential:
    ends = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))
    return nn.Sequential(*layers, *ends)


def plain(depth: int, activation: Callable[[], nn.Module] = nn.ReLU, *ends: nn.Module) -> Any:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(16, 16), activation()]
    return nn.Sequential(*layers, nn.Linear(16, CLASSES), *ends)


class Residual(nn.Module):
    """x + f(x), by an addition of tensors, in place, or by a function."""

    def __init__(self, branch: nn.Module, how: str = "+") -> None:
        super().__init__()
        self.branch, self.how = branch, how

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        if self.how == "+=":
            y += x
            return y
        return torch.add(x, y) if self.how == "add" else x + y


def branch() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))


class Transformer(nn.Module):
    """Tokens (B, T) to logits; attention by torch's module, its function, or by hand."""

    def __init__(self, how: str = "function", activation: nn.Module | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.norm, self.last = nn.LayerNorm(16), nn.LayerNorm(16)
        self.how = how
        if how == "module":
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        else:
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.feed = nn.Sequential(nn.Linear(16, 32), activation or nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, CLASSES)

    def attend(self, x: Tensor) -> Tensor:
        if self.how == "module":
            return self.attention(x, x, x, need_weights=False)[0]
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        if self.how == "function":
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q @ k.mT / 8**0.5) + torch.zeros(x.shape[1])).softmax(-1) @ v
        z: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return z

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens)
        x = x + self.attend(self.norm(x))
        y: Tensor = self.head((x + self.feed(self.last(x))).mean(1))
        return y


class Function(nn.Module):
    """Any function as a layer without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Detached(nn.Module):
    def __init__(self, cut: bool) -> None:
        super().__init__()
        self.body, self.head, self.cut = nn.Linear(16, 16), nn.Linear(16, CLASSES), cut

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x).relu()
        y: Tensor = self.head(x.detach() if self.cut else x)
        return y


class Reader(nn.Module):
    """Texts (B, T) to logits by a mean of words; with ``masked`` without those of padding."""

    def __init__(self, masked: bool, vocabulary: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(vocabulary, 8), nn.Linear(8, 3)
        self.masked = masked

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        real = mask.float() if self.masked else torch.ones_like(mask, dtype=torch.float32)
        x = (self.words(tokens) * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        y: Tensor = self.head(x)
        return y


class Attend(nn.Module):
    """torch's attention over the cells of a map (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        y: Tensor = self.head((x + self.attention(x, x, x)[0]).mean(1))
        return y


def with_weights(network: nn.Module) -> nn.Module:
    network.pretrained_cfg = {"architecture": "plain_1", "hf_hub_id": "a/plain_1"}  # type: ignore[assignment]
    return network


# The zoo: a fault, its sound twin, and where it is ------------------------------------------------


@dataclass(frozen=True)
class Case:
    rule: str
    broken: Callable[[], nn.Module]
    sound: Callable[[], nn.Module]
    known: dict[str, Any]
    where: str  # as a regular expression
    severity: str = "advice"
    better: dict[str, Any] = field(default_factory=dict)  # known of the sound one, where it differs


STATIC = [
    Case(
        "residual-from-10",
        lambda: plain(12),
        lambda: nn.Sequential(*(Residual(branch()) for _ in range(9)), nn.Linear(16, CLASSES)),
        ROWS,
        r"0 \(Linear\) … 24 \(Linear\)",
        "serious",
    ),
    Case(
        "groupnorm-for-small-batches",
        lambda: pooled(*convolutions(2)),
        lambda: pooled(*convolutions(2, lambda width: nn.GroupNorm(4, width))),
        IMAGES | {"batch_size": 4},
        r"1 \(BatchNorm2d\), 4 \(BatchNorm2d\)",
        "serious",
    ),
    Case(
        "norm-by-family",
        lambda: nn.Sequential(
            *(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU()),
            *(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES)),
        ),
        lambda: nn.Sequential(
            *(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, CLASSES)),
        ),
        ROWS,
        r"4 \(LayerNorm\)",
    ),
    Case(
        "no-dropout-after-batchnorm",
        lambda: pooled(*convolutions(1), nn.Dropout(0.3), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)),
        lambda: pooled(*convolutions(2), nn.Dropout(0.3)),
        IMAGES,
        r"3 \(Dropout\)",
    ),
    Case(
        "dropout-from-risk",
        lambda: nn.Sequential(plain(1), nn.Dropout(0.8), nn.ReLU(), nn.Linear(CLASSES, CLASSES)),
        lambda: nn.Sequential(plain(1), nn.Dropout(0.5), nn.ReLU(), nn.Linear(CLASSES, CLASSES)),
        ROWS,
        r"1 \(Dropout\)",
    ),
    Case(
        "saturating-activations",
        lambda: plain(6, nn.Sigmoid),
        lambda: plain(4, nn.Tanh),
        ROWS,
        r"1 \(Sigmoid\) … 11 \(Sigmoid\)",
        "serious",
    ),
    Case(
        "normalise-deep",
        lambda: nn.Sequential(
            *(Residual(nn.Sequential(nn.Linear(16, 16), nn.ReLU())) for _ in range(11))
        ),
        lambda: nn.Sequential(*(Residual(branch()) for _ in range(6))),
        {"shape": (16,)},
        r"0\.branch\.0 \(Linear\) … 10\.branch\.0 \(Linear\)",
    ),
    Case(
        "non-linear",
        lambda: plain(3, nn.Identity),
        lambda: plain(1),
        ROWS,
        r"0 \(Linear\) … 6 \(Linear\)",
        "serious",
    ),
    Case(
        "global-pooling",
        lambda: nn.Sequential(
            *(*convolutions(2), nn.Flatten(), nn.Linear(8 * SIDE**2, 256), nn.ReLU()),
            nn.Linear(256, CLASSES),
        ),
        lambda: pooled(*convolutions(2)),
        IMAGES,
        r"7 \(Linear\) … 9 \(Linear\)",
    ),
    Case(
        "params-per-sample",
        lambda: nn.Sequential(nn.Linear(16, 2000), nn.ReLU(), nn.Linear(2000, 3000)),
        lambda: plain(1),
        {"shape": (16,), "samples": 100},
        "the whole network",
        "serious",
    ),
    Case(
        "long-sequences",
        lambda: Transformer("by hand"),
        lambda: Transformer("by hand"),
        {"shape": (600,), "classes": CLASSES},
        r"\(network\)",
        better={"shape": (200,), "classes": CLASSES},
    ),
    Case(
        "attention-cost",
        lambda: nn.Sequential(nn.Conv2d(3, 16, 1), Attend()),
        lambda: nn.Sequential(nn.Conv2d(3, 16, 2, 2), Attend()),
        {"shape": (3, 18, 18), "classes": CLASSES},
        r"1\.attention",
    ),
    Case(
        "activation-by-family",
        lambda: Transformer("module", nn.ReLU()),
        lambda: Transformer("module"),
        {"shape": (20,), "classes": CLASSES},
        r"feed\.1 \(ReLU\)",
    ),
    Case(
        "one-output-a-class",
        lambda: plain(1),
        lambda: nn.Sequential(plain(1), nn.ReLU(), nn.Linear(CLASSES, 7)),
        {"shape": (16,), "classes": 7},
        "the output",
        "serious",
    ),
    Case(
        "logits",
        lambda: plain(1, nn.ReLU, nn.Softmax(-1)),
        lambda: plain(1, nn.ReLU, nn.LogSoftmax(-1)),
        ROWS,
        "the output",
        "serious",
    ),
    Case(
        "no-noise-in-prediction",
        lambda: nn.Sequential(plain(1), Function(lambda x: F.dropout(x, 0.2))),
        lambda: nn.Sequential(plain(1), nn.Dropout(0.2)),
        ROWS,
        "the output",
        "serious",
    ),
    Case(
        "independent-samples",
        lambda: nn.Sequential(
            Function(lambda x: F.batch_norm(x, None, None, training=True)), plain(1)
        ),
        lambda: nn.Sequential(nn.BatchNorm1d(16, affine=False), plain(1)),
        ROWS,
        "the output",
        "serious",
    ),
    Case(
        "gradient-for-all",
        lambda: Detached(cut=True),
        lambda: Detached(cut=False),
        ROWS,
        "body",
        "serious",
    ),
    Case(
        "weight-decay-from-risk",
        lambda: plain(1),
        lambda: plain(1),
        ROWS | {"weight_decay": 0.5},
        "the optimiser",
        "serious",
        better=ROWS | {"weight_decay": 1e-3},
    ),
    Case(
        "pretrained-first",
        lambda: with_weights(plain(1)),
        lambda: plain(1),
        ROWS | {"samples": 500},
        "the whole network",
    ),
]


# Further members of the kinds above: other layers, other ways to write them ---------------------


def stack(
    depth: int, conv: Callable[..., nn.Module], act: Callable[[], nn.Module]
) -> nn.Sequential:
    layers = [m for i in range(depth) for m in (conv(4 if i else 2, 4, 3, padding=1), act())]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(CLASSES))


def by_function(depth: int, function: Callable[[Tensor], Tensor]) -> nn.Sequential:
    return plain(depth, lambda: Function(function))


def dropped_head(norm: nn.Module, drop: nn.Module, *first: nn.Module) -> nn.Sequential:
    """A fully connected head whose norm follows a dropout."""
    return nn.Sequential(
        *first, nn.Linear(16, 16), nn.ReLU(), drop, nn.Linear(16, 16), norm, nn.ReLU(), plain(0)
    )


WAVES = {"shape": (2, 20), "classes": CLASSES}
VOLUMES = {"shape": (2, 4, 4, 4), "classes": CLASSES}
KINDS: dict[str, tuple[str, Callable[[], nn.Module], dict[str, Any]]] = {
    "12 plain 1-D convolutions": ("residual-from-10", lambda: stack(12, nn.Conv1d, nn.ReLU), WAVES),
    "12 plain 3-D convolutions": (
        "residual-from-10", lambda: stack(12, nn.Conv3d, nn.ReLU), VOLUMES,
    ),
    "12 transposed convolutions": (
        "residual-from-10", lambda: stack(12, nn.ConvTranspose1d, nn.ReLU), WAVES,
    ),
    "tanh between 3-D convolutions": (
        "saturating-activations", lambda: stack(6, nn.Conv3d, nn.Tanh), VOLUMES,
    ),
    "torch.sigmoid": ("saturating-activations", lambda: by_function(6, torch.sigmoid), ROWS),
    "Tensor.tanh": ("saturating-activations", lambda: by_function(6, lambda x: x.tanh()), ROWS),
    "F.hardtanh": ("saturating-activations", lambda: by_function(6, F.hardtanh), ROWS),
    "BatchNorm3d of few": (
        "groupnorm-for-small-batches",
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten()),
        {"shape": (2, 4, 4, 4), "batch_size": 4},
    ),
    "SyncBatchNorm of few": (
        "groupnorm-for-small-batches",
        lambda: nn.Sequential(nn.Linear(16, 4), nn.SyncBatchNorm(4)),
        {"shape": (16,), "batch_size": 4},
    ),
    "LazyBatchNorm of few": (
        "groupnorm-for-small-batches",
        lambda: nn.Sequential(nn.Linear(16, 4), nn.LazyBatchNorm1d()),
        {"shape": (16,), "batch_size": 4},
    ),
    "F.batch_norm of few": (
        "groupnorm-for-small-batches",
        lambda: nn.Sequential(
            nn.Linear(16, 4), Function(lambda x: F.batch_norm(x, None, None, training=True))
        ),
        {"shape": (16,), "batch_size": 4},
    ),
    "dropout before BatchNorm1d in a head": (
        "no-dropout-after-batchnorm",
        lambda: dropped_head(nn.BatchNorm1d(16), nn.Dropout(0.3)),
        ROWS,
    ),
    "dropout before BatchNorm1d after convolutions": (
        "no-dropout-after-batchnorm",
        lambda: dropped_head(
            nn.BatchNorm1d(16), nn.Dropout(0.3), *convolutions(2), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, 16),
        ),
        IMAGES,
    ),
    "dropout right before BatchNorm1d": (
        "no-dropout-after-batchnorm",
        lambda: nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.3), nn.BatchNorm1d(16), plain(0)),
        ROWS,
    ),
    "F.dropout before LazyBatchNorm1d": (
        "no-dropout-after-batchnorm",
        lambda: dropped_head(nn.LazyBatchNorm1d(), Functional(0.3)),
        ROWS,
    ),
    "AlphaDropout before BatchNorm1d": (
        "no-dropout-after-batchnorm",
        lambda: dropped_head(nn.BatchNorm1d(16), nn.AlphaDropout(0.3)),
        ROWS,
    ),
    "Dropout3d before BatchNorm3d": (
        "no-dropout-after-batchnorm",
        lambda: nn.Sequential(
            nn.Conv3d(2, 4, 3, padding=1), nn.Dropout3d(0.3), nn.Conv3d(4, 4, 3),
            nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES),
        ),
        VOLUMES,
    ),
    "a softmax over the batch": (
        "logits", lambda: plain(1, nn.ReLU, nn.Softmax(dim=0)), ROWS,
    ),
    "a sigmoid of each class": ("logits", lambda: plain(1, nn.ReLU, nn.Sigmoid()), ROWS),
    "a ReLU at the end": ("logits", lambda: plain(1, nn.ReLU, nn.ReLU()), ROWS),
    "a softmax by hand": (
        "logits",
        lambda: nn.Sequential(plain(1), Function(lambda x: x.exp() / x.exp().sum(-1)[:, None])),
        ROWS,
    ),
    "a mean over the batch": (
        "independent-samples",
        lambda: nn.Sequential(plain(1), Function(lambda x: x - x.mean(0))),
        ROWS,
    ),
    "a squeeze of every axis": (
        "independent-samples",
        lambda: nn.Sequential(plain(1), Function(lambda x: x[:, None].squeeze())),
        ROWS,
    ),
    "noise without a look at training": (
        "no-noise-in-prediction",
        lambda: nn.Sequential(plain(1), Function(lambda x: x + 0.1 * torch.randn_like(x))),
        ROWS,
    ),
}  # fmt: skip


class Functional(nn.Module):
    """Dropout by a function, and only in training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, self.training)


@pytest.mark.parametrize("name", KINDS)
def test_a_pitfall_is_found_beyond_the_layer_that_a_rule_was_written_for(name: str) -> None:
    rule, make, known = KINDS[name]
    assert rule in rules_of(audited(make, known))


HARMLESS: dict[str, tuple[str, Callable[[], nn.Module], dict[str, Any]]] = {
    "dropout after the last BatchNorm": (
        "no-dropout-after-batchnorm",
        lambda: nn.Sequential(
            *(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)), plain(0)
        ),
        ROWS,
    ),
    "dropout before LayerNorm": (
        "no-dropout-after-batchnorm",
        lambda: dropped_head(nn.LayerNorm(16), nn.Dropout(0.3)),
        ROWS,
    ),
    "dropout of little": (
        "no-dropout-after-batchnorm",
        lambda: dropped_head(nn.BatchNorm1d(16), nn.Dropout(0.1)),
        ROWS,
    ),
    "a log-softmax for NLL": ("logits", lambda: plain(1, nn.ReLU, nn.LogSoftmax(-1)), ROWS),
    "a ReLU that is not the end": ("logits", lambda: plain(3), ROWS),
    "11 residual 1-D convolutions": (
        "residual-from-10",
        lambda: nn.Sequential(
            nn.Conv1d(2, 4, 1),
            *(Residual(nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU())) for _ in range(11)),
            nn.Flatten(),
            nn.LazyLinear(CLASSES),
        ),
        WAVES,
    ),
}
for name, function in {
    "softsign": F.softsign,
    "a product with its sign": lambda x: x * (x > 0),
    "a choice by its sign": lambda x: torch.where(x > 0, x, 0.1 * x),
    "a sine": torch.sin,
    "a gated linear unit": lambda x: F.glu(torch.cat([x, x], dim=-1)),
    "softshrink": F.softshrink,
    "the larger of it and zero": lambda x: torch.maximum(x, torch.zeros(1)),
    "its absolute value": torch.abs,
    "randomised leaky ReLU": lambda x: F.rrelu(x),
}.items():
    HARMLESS[name] = ("non-linear", lambda f=function: by_function(2, f), ROWS)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_like_a_pitfall_is_not_reported(name: str) -> None:
    rule, make, known = HARMLESS[name]
    assert rule not in rules_of(audited(make, known))


def clusters(scale: float = 1.0, noise: bool = False) -> dict[str, Tensor]:
    """512 points around the centres of four classes; with ``noise`` no label says anything."""
    draw = torch.Generator().manual_seed(0)
    y = torch.randint(0, CLASSES, (512,), generator=draw)
    x = scale * (torch.randn(512, 16, generator=draw) + 2 * F.one_hot(y, 16))
    return {"x": x, "y": torch.randint(0, CLASSES, (512,), generator=draw) if noise else y}


def scaled(network: nn.Module, spread: float) -> nn.Module:
    """Weights that are normal, of so many times He's spread."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=spread * math.sqrt(2 / layer.in_features))
    return network


def dead(layer: int) -> nn.Module:
    network = plain(4)
    nn.init.constant_(network[layer].bias, -100.0)
    return network


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x)


def frozen(network: nn.Sequential) -> nn.Module:
    """Only the first layer is left to train, of which the head sees nothing."""
    nn.init.zeros_(network[-1].weight)  # type: ignore[arg-type]
    network[-1].requires_grad_(False)
    return network


def sound() -> nn.Module:
    return plain(2)


WATCHED = [
    Case("finite", lambda: plain(1, Log), sound, clusters(), "1", "serious"),
    Case(
        "exploding-gradients",
        lambda: scaled(plain(20), 4.0),
        sound,
        clusters() | {"lr": 1e-4},
        r"\d+",
        "serious",
    ),
    Case(
        "vanishing-gradients",
        lambda: plain(12, nn.Sigmoid),
        sound,
        clusters() | {"lr": 1e-3},
        "0",
        "serious",
    ),
    Case("dead-units", lambda: dead(2), sound, clusters(), "2", "serious"),
    Case(
        "learns",
        lambda: scaled(plain(2), 0.1),
        sound,
        clusters() | {"lr": 1e-7},
        "the loss",
        "serious",
    ),
    Case(
        "loss-at-start",
        lambda: scaled(plain(2), 9.0),
        sound,
        clusters(),
        "the last layer",
        "serious",
    ),
    Case(
        "one-batch",
        lambda: frozen(plain(1)),
        sound,
        clusters(),
        "the whole network",
        "serious",
    ),
    Case(
        "learning-rate-first",
        lambda: plain(2),
        sound,
        clusters() | {"lr": 1.0},
        "the optimiser",
        "serious",
    ),
    Case(
        "inputs-standardised",
        lambda: plain(2),
        sound,
        clusters(scale=1000.0),
        "the input",
        "serious",
    ),
]


def audited(make: Callable[[], nn.Module], known: dict[str, Any]) -> Audit:
    torch.manual_seed(0)
    return audit(make(), **known)


def rules_of(found: Audit) -> set[str]:
    return {finding.rule for finding in found.findings}


@pytest.mark.parametrize("case", STATIC, ids=lambda case: case.rule)
def test_a_fault_of_a_network_is_found_where_it_is_and_not_in_its_sound_twin(case: Case) -> None:
    found = audited(case.broken, case.known)
    finding = next(f for f in found.findings if f.rule == case.rule)
    assert re.fullmatch(case.where, finding.where)
    assert finding.severity == case.severity
    assert any(part.isdigit() for part in finding.evidence), "evidence has numbers"
    assert finding.why == rules.RULES[case.rule].statement
    twin = audited(case.sound, case.better or case.known)
    assert case.rule not in rules_of(twin)
    assert not twin.serious


@pytest.mark.parametrize("case", WATCHED, ids=lambda case: case.rule)
def test_a_fault_of_a_training_is_found_where_it_is(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkups, "ONE_BATCH_STEPS", 50)
    if case.rule != "learns":  # a plateau takes its time
        monkeypatch.setattr(checkups, "TRAINING_STEPS", 60)
    found = audited(case.broken, case.known)
    finding = next(f for f in found.findings if f.rule == case.rule)
    assert re.fullmatch(case.where, finding.where)
    assert finding.severity == case.severity


@pytest.mark.parametrize("known", [{}, {"lr": 1e-3, "weight_decay": 1e-2}, {"lr": 3e-2}])
def test_nothing_is_found_in_a_sound_training(
    known: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkups, "TRAINING_STEPS", 60)
    assert not audited(sound, clusters() | known).findings


def test_every_check_has_its_fault_in_the_zoo() -> None:
    assert set(CHECKS) == {case.rule for case in STATIC + WATCHED} | {"padding-masks"}


# What is sound ------------------------------------------------------------------------------------


class Squeezed(nn.Module):
    """A map weighed by its channels' means."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Dense(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 8, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], dim=1)


class UNet(nn.Module):
    """Four levels down and up again, whose maps are put side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Sequential(*self.level(3 if i == 0 else 8)) for i in range(4))
        self.up = nn.ModuleList(nn.Sequential(*self.level(16)) for _ in range(3))
        self.head = nn.Conv2d(8, CLASSES, 1)

    @staticmethod
    def level(width: int) -> list[nn.Module]:
        second = nn.Conv2d(8, 8, 3, 1, 1)
        norms = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        return [nn.Conv2d(width, 8, 3, 1, 1), norms[0], nn.ReLU(), second, norms[1], nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for level in self.down:
            x = level(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        for level, skipped in zip(self.up, maps[-2::-1], strict=True):
            x = level(torch.cat([F.interpolate(x, skipped.shape[2:]), skipped], dim=1))
        y: Tensor = self.head(x).mean((2, 3))
        return y


class Gated(nn.Module):
    """A recurrent network by hand: 30 steps of the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(32, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 16)
        for step in x.unbind(1):
            state = torch.tanh(self.cell(torch.cat([step, state], dim=1)))
        y: Tensor = self.head(state)
        return y


class Recurrent(nn.Module):
    def __init__(self, make: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.body, self.head = make(16, 16, 2, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.words(tokens))[0][:, -1])
        return y


class Encoder(nn.Module):
    """torch's own Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 16), nn.Linear(16, CLASSES)
        layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)
        self.body = nn.TransformerEncoder(layer, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.words(tokens)).mean(1))
        return y


SOUND: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "a perceptron": (lambda: plain(3), ROWS),
    "a small convolutional network": (lambda: pooled(*convolutions(6)), IMAGES),
    "a residual network": (
        lambda: pooled(*convolutions(1), *(conv_block("+=") for _ in range(8))),
        IMAGES,
    ),
    "a dense network": (
        lambda: pooled(nn.Conv2d(3, 8, 3), *(Dense(8 + 8 * i) for i in range(12)), width=104),
        IMAGES,
    ),
    "squeezed maps": (
        lambda: pooled(*convolutions(3), Squeezed(), *convolutions(4)[3:], Squeezed()),
        IMAGES,
    ),
    "a U-Net": (UNet, IMAGES),
    "torch's Transformer": (Encoder, {"shape": (20,), "classes": CLASSES}),
    "torch's LSTM": (lambda: Recurrent(nn.LSTM), {"shape": (20,), "classes": CLASSES}),
    "torch's GRU": (lambda: Recurrent(nn.GRU), {"shape": (20,), "classes": CLASSES}),
    "a loop over time": (Gated, {"shape": (30, 16), "classes": CLASSES}),
    "normalised weights": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), nn.ReLU(), plain(1)
        ),
        ROWS,
    ),
}


def conv_block(how: str) -> nn.Module:
    return Residual(
        nn.Sequential(
            *(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
            *(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8)),
        ),
        how,
    )


@pytest.mark.parametrize("name", SOUND)
def test_nothing_serious_is_found_in_sound_networks(name: str) -> None:
    make, known = SOUND[name]
    found = audited(make, known | {"batch_size": 32, "samples": 50_000})
    assert not found.serious
    assert found.anatomy.layers[-1].kind != "input"


FAMILIES = [(family.modality, name) for name, family in load_families().items()]


@pytest.mark.parametrize(("modality", "name"), FAMILIES)
def test_nothing_is_found_in_the_baseline_of_a_family(modality: Any, name: str) -> None:
    dataset = next(iter(example_datasets(modality, samples=120).values()))
    task = make_task(dataset, budget=Budget(60), device="cpu")
    family = load_families()[name]
    config = family.baseline(task)
    torch.manual_seed(0)
    network = family.build(config, task)
    fed = from_dataset(network, dataset, 16)
    net = replace(
        anatomy(network, fed.args, fed.kwargs),
        padding_error=padding_error(network, fed),
        company_error=company_error(network, fed),
        samples=fed.samples,
        classes=fed.classes,
        batch_size=int(config["batch_size"]),
        weight_decay=None if fed.whole_graph else float(config["weight_decay"]),
        whole_graph=fed.whole_graph,
    )
    assert not check(net)


# How a network is read ----------------------------------------------------------------------------


def layers_of(network: nn.Module, *args: Tensor) -> tuple[Layer, ...]:
    return trace(network.train(), args, {})[0]


@pytest.mark.parametrize("how", ["+", "+=", "add"])
def test_a_shortcut_is_seen_however_it_is_written(how: str) -> None:
    network = nn.Sequential(*(Residual(branch(), how) for _ in range(3)))
    layers = layers_of(network, torch.randn(2, 16))
    joins = [layer for layer in layers if layer.kind == "join"]
    assert [layer.shortcut for layer in joins] == [True] * 3
    net = Anatomy(layers, 0)
    assert len([x for x in net.stretch(lambda x: x.weighted) if x.weighted]) == 2


class Twofold(nn.Module):
    """Two layers of the same input, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(x) + self.right(x).relu()
        return y


class Towers(nn.Module):
    """A deep and a shallow network of two inputs, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = plain(11), plain(1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.left(x) + self.right(self.other)
        return y

    @property
    def other(self) -> Tensor:
        return torch.randn(2, 16)


class Wide(nn.Module):
    """A deep network and a linear one of the same input, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.deep, self.wide = plain(11), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.deep(x) + self.wide(x)
        return y


class Again(nn.Module):
    """One layer, twelve times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(12):
            x = self.layer(x).relu()
        return x


ROW, IMAGE, TOKENS = torch.randn(2, 16), torch.randn(2, 3, 8, 8), torch.zeros(2, 5).long()


@pytest.mark.parametrize(
    ("make", "x", "longest"),
    [
        (lambda: plain(11), ROW, 12),
        (lambda: nn.Sequential(*(Residual(branch()) for _ in range(9))), ROW, 2),
        (lambda: nn.Sequential(plain(8)[:-1], Residual(branch()), plain(4)), ROW, 8),
        (lambda: nn.Sequential(*(Twofold() for _ in range(7))), ROW, 7),
        (Towers, ROW, 12),
        (Wide, ROW, 12),
        (Again, ROW, 1),
        (lambda: pooled(*convolutions(1), *(Squeezed() for _ in range(4))), IMAGE, 3),
        (UNet, IMAGE, 3),
        (lambda: Recurrent(nn.LSTM), TOKENS, 3),
        (Encoder, TOKENS, 2),
    ],
)
def test_the_longest_stretch_lies_between_the_ends_of_shortcuts(
    make: Callable[[], nn.Module], x: Tensor, longest: int
) -> None:
    net = Anatomy(layers_of(make(), x), 0)
    way = net.stretch(lambda layer: layer.depth if layer.weighted else 0)
    assert sum(layer.depth for layer in way if layer.weighted) == longest


@pytest.mark.parametrize("how", ["module", "function", "by hand"])
def test_attention_and_its_tokens_are_seen_however_it_is_written(how: str) -> None:
    network = Transformer(how)
    layers = layers_of(network, torch.randint(0, 50, (2, 7)))
    assert [x.tokens for x in layers if x.kind == "attention"] == [(7, 7)]
    assert [x.name for x in layers if x.kind == "norm"] == ["norm", "last"]
    assert [x.name for x in layers if x.kind == "embedding"] == ["words"]


def test_layers_hold_all_parameters_in_the_order_of_execution() -> None:
    network = pooled(*convolutions(2), Squeezed(), *convolutions(2)[3:])
    layers = [x for x in layers_of(network, torch.randn(2, 3, 8, 8)) if x.params]
    assert sum(x.params for x in layers) == sum(p.numel() for p in network.parameters())
    names = [x.name for x in layers]
    assert names == [n for n, m in network.named_modules() if any(True for _ in own(m))]


def own(module: nn.Module) -> Any:
    return module.parameters(recurse=False)


def test_dropout_is_seen_in_functions_and_paths_are_distinguished_from_units() -> None:
    class Dropped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(x, 0.25, self.training)
            keep = x.new_empty((len(x), 1, 1)).bernoulli_(0.8)
            return x * (keep / 0.8)

    layers = layers_of(Dropped(), torch.randn(4, 5, 6))
    assert [(x.type, x.rate) for x in layers if x.kind == "dropout"] == [
        ("element", 0.25),
        ("path", pytest.approx(0.2)),
    ]


def test_norms_are_distinguished_by_what_they_do() -> None:
    class RMSNorm(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8)),
        *(nn.Flatten(), nn.LayerNorm(32), RMSNorm(), nn.RMSNorm(32)),
    )
    layers = layers_of(network, torch.randn(2, 3, 2, 2))
    kinds = [x.type for x in layers if x.kind == "norm"]
    assert kinds == ["batch", "group", "instance", "layer", "rms", "rms"]


def test_an_audit_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "TRAINING_STEPS", 30)
    network = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), plain(1))
    network[0].eval()
    network(torch.randn(8, 16)).sum().backward()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    state = torch.get_rng_state()
    audit(network, **clusters())
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [m.training for m in network] == [False, True, True, True]
    for p, grad in zip(network.parameters(), grads, strict=True):
        assert (p.grad is None and grad is None) or torch.equal(p.grad, grad)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


class Counting(nn.Module):
    """Assigns a buffer in each pass, and has one from the first on."""

    count: Tensor
    first: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.body = plain(1)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("first", None)

    def forward(self, x: Tensor) -> Tensor:
        self.count, self.first = self.count + 1, x[0]
        out: Tensor = self.body(x)
        return out


def test_an_audit_gives_back_buffers_that_a_forward_assigns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkups, "TRAINING_STEPS", 30)
    network = Counting()
    before = network.count
    audit(network, **clusters())
    assert network.count is before
    assert (int(before), network.first) == (0, None)


def test_a_network_is_trained_on_the_gpu_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Trainer:
        def __init__(self, **options: Any) -> None:
            asked.append((options["accelerator"], options["devices"]))

        def fit(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(checkups.pl, "Trainer", Trainer)
    for device in ("cpu", "cuda:1"):
        batches: Any = SimpleNamespace(labels={"y": SimpleNamespace(device=torch.device(device))})
        checkups._fit(None, batches, 1, None)  # type: ignore[arg-type]
    assert asked == [("cpu", 1), ("gpu", [1])]


def test_the_same_audit_twice_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "TRAINING_STEPS", 30)
    network = plain(2)
    first, second = (audit(network, **clusters()) for _ in range(2))
    assert rules_of(first) == rules_of(second)
    assert first.checkup is not None
    assert second.checkup is not None
    assert first.checkup.losses == second.checkup.losses
    assert first.checkup.range_test == second.checkup.range_test


@pytest.mark.parametrize("masked", [True, False])
def test_padding_that_changes_results_is_found(masked: bool) -> None:
    texts = ["good film"] * 20 + ["a bad film, and far too long as well"] * 20 + ["fine"] * 20
    dataset = read((texts, np.repeat(["g", "b", "f"], 20)), modality="text")
    network = Reader(masked, dataset.profile.vocabulary)
    fed = from_dataset(network, dataset, 16)
    error = padding_error(network, fed)
    assert error is not None
    assert (error < 1e-5) == masked
    net = replace(anatomy(network, fed.args, fed.kwargs), padding_error=error)
    assert ("padding-masks" in {f.rule for f in check(net)}) != masked
    assert fed.note.endswith("mask from their lengths")


def test_a_network_whose_steps_take_too_long_is_not_trained() -> None:
    found = audit(plain(2), **clusters(), limit_s=1e-6)
    assert found.checkup is None
    assert "could not be trained on this data: a step takes" in found.notes[-1]


def test_the_loss_at_the_start_is_compared_with_the_logarithm_of_the_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkups, "TRAINING_STEPS", 30)
    zero = plain(1)
    nn.init.zeros_(zero[-1].weight)
    nn.init.zeros_(zero[-1].bias)
    seen = audit(zero, **clusters()).checkup
    assert seen is not None
    assert seen.observed.chance == pytest.approx(math.log(CLASSES))
    assert seen.observed.start == pytest.approx(math.log(CLASSES), rel=1e-5)


@pytest.mark.parametrize(
    ("y", "kind", "chance"),
    [
        (torch.linspace(100, 200, 64), "regression", 1.0),
        (torch.arange(64) % 2, "binary", math.log(2)),
        ((torch.rand(64, 3) > 0.5).float(), "multilabel", math.log(2)),
        (torch.arange(64) % 5, "multiclass", math.log(5)),
    ],
)
def test_labels_tell_the_loss(y: Tensor, kind: str, chance: float) -> None:
    fed = from_tensors(plain(1), torch.randn(64, 16), y, 32)
    assert fed.problem is not None
    assert fed.problem.targets[0].kind == kind
    assert fed.problem.uniform == pytest.approx(chance)
    outputs = {"regression": 1, "binary": 1, "multilabel": 3, "multiclass": 5}[kind]
    head = nn.Linear(16, outputs)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    assert fed.batches is not None
    batch = next(iter(Batches(fed.batches.inputs, fed.batches.labels, 64)))
    assert fed.problem.loss(head, batch).item() == pytest.approx(chance, rel=0.03)


# The command --------------------------------------------------------------------------------------


NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, depth=1, end=None):
        layers = [m for _ in range(depth) for m in (nn.Linear(4, 4), nn.ReLU())]
        super().__init__(*layers, nn.Linear(4, 3), *([nn.Softmax(-1)] if end else []))

def build():
    return Net(2)

made = Net(3)
number = 3

def fails():
    raise RuntimeError("no such thing")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "wrong.py").write_text("import nothing_like_this\n")
    (tmp_path / "syntax.py").write_text("def (\n")
    (tmp_path / "outer.py").write_text("import inner\n")
    (tmp_path / "inner.py").write_text("def (\n")
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(
        tmp_path / "rows.npz", x=rng.normal(y[:, None], 1, (120, 4)), y=np.array(list("abc"))[y]
    )
    return tmp_path


def command(*args: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(["audit", *args])
    return int(end.value.code or 0)


@pytest.mark.parametrize("model", ["net.py:Net", "net.py:build()", "net.py:build", "net.py:made"])
def test_a_network_is_loaded_from_a_file(here: Path, model: str) -> None:
    network = load(model)
    assert isinstance(network, nn.Module)
    depth = {"Net": 1, "made": 3}.get(model.partition(":")[2], 2)
    assert sum(isinstance(m, nn.Linear) for m in network.modules()) == depth + 1


def test_a_file_does_not_take_the_place_of_a_module_of_its_name(here: Path) -> None:
    shutil.copy(here / "net.py", here / "nas.py")
    shutil.copy(here / "net.py", here / "queue.py")
    before = sys.modules["nas"], importlib.import_module("queue")
    assert isinstance(load("nas.py:Net"), nn.Module)
    assert isinstance(load("queue.py:Net"), nn.Module)
    assert (sys.modules["nas"], sys.modules["queue"]) == before


def test_a_network_is_loaded_from_a_package_with_arguments() -> None:
    network = load("torch.nn:Linear", {"in_features": 3, "out_features": 2})
    assert network.weight.shape == (2, 3)


def test_what_is_serious_ends_in_exit_code_4(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = ("net.py:Net", "--shape", "4", "--classes", "3")
    assert command(*sound) == 0
    assert "nothing serious was found" in capsys.readouterr().out
    assert command(*sound, "--args", '{"end": true}') == 4
    out = capsys.readouterr().out
    assert re.search(r"^SERIOUS \(1\)\n\nthe output  \[logits\]\n  found   the network", out, re.M)
    assert max(map(len, out.splitlines())) <= 100


def test_a_training_is_reported_as_text_json_and_a_page(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkups, "TRAINING_STEPS", 40)
    call = ("net.py:Net", "--data", "rows.npz", "--figure", "out/audit.html", "--json")
    assert command(*call, "--lr", "1e-6", "--batch-size", "16") == 4
    printed = json.loads(capsys.readouterr().out)
    assert printed["serious"] == len([f for f in printed["findings"] if f["severity"] == "serious"])
    assert "learning-rate-first" in {f["rule"] for f in printed["findings"]}
    assert all(
        f["why"] and f["where"] and f["evidence"] and f["change"] for f in printed["findings"]
    )
    assert printed["training"]["lr"] == 1e-6
    assert len(printed["training"]["range_test"]["rates"]) > 10
    page = Path("out/audit.html").read_text()
    assert '"showSendToCloud": false' in page
    assert "Learning-rate range test" in page
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)


def test_the_page_says_what_the_text_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkups, "TRAINING_STEPS", 60)
    found = audited(sound, clusters())
    assert found.checkup is not None
    seen = found.checkup.range_test
    test = replace(seen, steepest=0.0551, diverges=0.144)  # of two digits both
    found = replace(found, checkup=replace(found.checkup, range_test=test))
    advice = replace(check(replace(found.anatomy, lr=7.0))[0], severity="advice")
    for findings, sounds in (((), 1), ((advice,), 1), ((replace(advice, severity="serious"),), 0)):
        shown = replace(found, findings=findings)
        shown.figure(tmp_path / "page.html")
        text, page = shown.text(), (tmp_path / "page.html").read_text(encoding="utf-8")
        assert text.count("nothing serious was found") == sounds
        assert page.count("nothing serious was found") == sounds
    assert "falls fastest at 0.055 and has risen again at 0.14" in " ".join(text.split())
    assert " falls fastest 0.055" in page
    assert " rises again 0.14" in page


WRONG = [
    ("net.py:Net", 2, "give the network's input"),
    ("net.py:Net --shape 4 --data rows.npz", 2, "give the network's input"),
    ("net.py:Net --shape 4 --figure a.html", 2, "--figure shows a training"),
    ("net.py:Net --shape four", 2, "'four' is not a list of sides"),
    ("net.py:Net --shape 5", 1, r"forward of Net fails on input of shape \(2, 5\): RuntimeError"),
    ("net.py:Nett --shape 4", 2, "net.py has no Nett; did you mean Net"),
    ("nett.py:Net --shape 4", 2, "nett.py does not exist"),
    ("net --shape 4", 2, "'net' names no network; write package.module:Class"),
    ("net.py:number --shape 4", 2, "is int, not a network"),
    ("net.py:fails --shape 4", 1, r"fails: RuntimeError: no such thing \(net.py, line 16\)"),
    ("net.py:Net --shape 4 --args {", 2, "is not JSON"),
    ("net.py:Net --shape 4 --args [1]", 2, "is not an object"),
    ('net.py:made --shape 4 --args {"a":1}', 2, "it takes no arguments"),
    ('net.py:Net --shape 4 --args {"a":1}', 1, "unexpected keyword argument 'a'"),
    ("wrong.py:Net --shape 4", 1, "No module named 'nothing_like_this'"),
    ("syntax.py:Net --shape 4", 1, r"fails: SyntaxError: .* \(syntax\.py, line 1\)$"),
    ("outer.py:Net --shape 4", 1, r"fails: SyntaxError: .* \(inner\.py, line 1\)$"),
    ("no_package.net:Net --shape 4", 1, "No module named 'no_package'"),
    ("net.py:Net --data none.npz", 2, "does not exist"),
    ("net.py:Net --shape 4 --time-limit soon", 2, "'soon' is not a time"),
]


@pytest.mark.parametrize(("call", "code", "printed"), WRONG, ids=[call for call, *_ in WRONG])
def test_a_mistake_is_one_line_and_an_exit_code(
    here: Path, capsys: pytest.CaptureFixture[str], call: str, code: int, printed: str
) -> None:
    assert command(*call.split()) == code
    err = capsys.readouterr().err
    errors = re.findall(r"^(?:error|Error): (.*)$", err, flags=re.M)
    assert len(errors) == 1
    assert re.search(printed, errors[0])
    assert "Traceback" not in err


def test_from_python_a_mistake_is_an_error_with_a_message_too() -> None:
    with pytest.raises(UsageError, match="one of: samples, their shape, a data set"):
        nas.audit(plain(1))
    with pytest.raises(UsageError, match=r"takes a torch\.nn\.Module, not str"):
        nas.audit("net", shape=(3,))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3 labels for 2 samples"):
        nas.audit(plain(1), torch.randn(2, 16), torch.arange(3))
    with pytest.raises(InputError, match="returns no tensor of numbers"):
        nas.audit(Words(), torch.randn(2, 16))
    with pytest.raises(
        InputError, match="gradient of Overwriting cannot be computed: RuntimeError"
    ):
        nas.audit(Overwriting(), torch.randn(2, 16))


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x).sigmoid()
        return out.mul_(2)


class Words(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "two"


def test_a_design_that_is_seen_to_learn_is_no_longer_serious() -> None:
    """Twelve plain layers: advice where a training shows that they learn."""
    layers = trace(plain(12), (torch.randn(2, 16),), {})[0]
    learnt = Observed(chance=1.4, start=1.4, end=0.4)
    for observed, severity in (
        (None, "serious"),
        (learnt, "advice"),
        (replace(learnt, end=1.39), "serious"),
        (replace(learnt, failure=Reason.VANISHING), "serious"),
    ):
        found = check(Anatomy(layers, 0, observed=observed))
        stack = next(f for f in found if f.rule == "residual-from-10")
        assert stack.severity == severity
