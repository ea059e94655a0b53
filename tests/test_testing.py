"""The contract of a family: a sound one passes, and each way to break it is told.

And a family from a package of its own: built as a wheel, installed, found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.family import Family
from nas.rules import training
from nas.space import Config, Int, Space
from nas.task import Modality, Task
from nas.testing import check_family, example_datasets, sample_inputs
from nas.training.batches import batch_inputs, to_tensors


class Mean(nn.Module):
    """The mean of the embedded tokens, with one flaw or none."""

    def __init__(self, width: int, task: Task, flaw: str) -> None:
        super().__init__()
        self.flaw, self.width = flaw, width
        self.embed = nn.Embedding(task.profile.vocabulary, width)
        self.unused = nn.Linear(2, 2) if flaw == "unused" else None
        self.head = nn.Linear(width, task.outputs + (flaw == "shape"))

    def features(self, tokens: Tensor, tokens_length: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.arange(tokens.shape[1], device=tokens.device) < tokens_length[:, None]
        x = self.embed(tokens)
        return (x.flatten(1) if self.flaw == "features" else x), mask

    def forward(self, tokens: Tensor, tokens_length: Tensor) -> Tensor:
        x = self.embed(tokens)
        mask = torch.arange(tokens.shape[1], device=tokens.device) < tokens_length[:, None]
        real = mask.unsqueeze(-1).to(x.dtype)
        if self.flaw == "padding":
            real = torch.ones_like(real)
        y: Tensor = self.head((x * real).sum(1) / real.sum(1))
        if self.flaw == "nan":
            y = y * torch.nan
        if self.flaw == "random":
            y = y + torch.rand_like(y)
        if self.flaw == "company":
            y = y - y.mean(0)
        return y


def family(flaw: str = "") -> Family:
    def space(task: Task) -> Space:
        top = 10**7 if flaw == "large" else 64
        width = Int("width", 8, top, default=top if flaw == "large" else 16)
        return Space((width, *training(task, lr=1e-3)))

    def build(config: Config, task: Task) -> nn.Module:
        if flaw == "end" and config["width"] == 64:
            raise AssertionError("64 is too wide")
        return Mean(int(config["width"]), task, flaw)

    return Family("mean", "text", "a paper", space, build)


def test_a_sound_family_keeps_the_contract() -> None:
    check_family(family(), export=False)


@pytest.mark.parametrize(
    ("flaw", "told"),
    [
        ("shape", "logits are"),
        ("unused", "unused.weight gets no gradient"),
        ("nan", "gradient of .* not finite"),
        ("padding", "change by .* with its company"),
        ("company", "change by .* with its company"),
        ("random", "other logits the second time"),
        ("features", "features are"),
        ("large", "parameters"),
        ("end", "too wide"),
    ],
)
def test_a_broken_family_is_told_what_it_breaks(flaw: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_family(family(flaw), export=False, draws=1)


def test_the_contract_is_checked_on_data_of_ones_own() -> None:
    (dataset,) = example_datasets("text", samples=30).values()
    seen: list[int] = []

    def build(config: Config, task: Task) -> nn.Module:
        seen.append(task.profile.n_train)
        return Mean(int(config["width"]), task, "")

    check_family(replace(family(), build=build), [dataset], export=False, draws=0)
    assert set(seen) == {len(dataset.parts["train"])}


MODULE = """
from nas.family import Family
from nas.space import Int, Space
from nas.rules import training

def space(task):
    return Space((Int("width", 4, 64, default=8), *training(task, lr=1e-3)))

def build(config, task):
    from torch import nn

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(task.profile.inputs["numeric"][0], task.outputs)

        def forward(self, numeric, categorical=None):
            return self.layer(numeric.nan_to_num())

    return Linear()

FAMILIES = (Family("foreign_linear", "tabular", "a paper of theirs", space, build),)
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "foreign-families"
version = "1.0"

[project.entry-points."nas.families"]
foreign = "foreign_families:FAMILIES"

[tool.hatch.build.targets.wheel]
only-include = ["foreign_families.py"]
"""
USE = """
from nas.family import load_families
from nas.testing import check_family
families = load_families("tabular")
assert "mlp" in families
check_family(families["foreign_linear"], export=False)
print("kept")
"""


def python(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ) | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_a_family_from_another_package_is_found_once_its_wheel_is_installed(
    tmp_path: Path,
) -> None:
    source, wheels, installed = (tmp_path / name for name in ("source", "wheels", "installed"))
    source.mkdir()
    (source / "foreign_families.py").write_text(MODULE)
    (source / "pyproject.toml").write_text(PROJECT)
    quiet = ("-m", "pip", "--disable-pip-version-check")
    options = ("--no-deps", "--no-build-isolation", "--quiet")
    built = python(*quiet, "wheel", str(source), "-w", str(wheels), *options)
    assert built.returncode == 0, built.stderr
    (wheel,) = wheels.glob("*.whl")
    done = python(*quiet, "install", str(wheel), "--target", str(installed), "--no-deps", "-q")
    assert done.returncode == 0, done.stderr
    used = python("-c", USE, path=installed)
    assert used.stdout.strip() == "kept", used.stderr
    without = python("-c", "from nas.family import load_families; print(*load_families())")
    assert "foreign_linear" not in without.stdout


@pytest.mark.parametrize("modality", get_args(Modality))
def test_made_up_inputs_have_the_names_types_and_axes_of_a_real_batch(modality: Modality) -> None:
    for dataset in example_datasets(modality).values():
        inputs = to_tensors(dataset.inputs, np.arange(3), "cpu")
        real = batch_inputs(inputs, torch.arange(3), torch.arange(3))
        made = sample_inputs(Task(modality, dataset.targets, dataset.profile), 3)
        assert made.keys() == real.keys()
        for name, value in real.items():
            assert made[name].dtype == value.dtype, name
            assert made[name].ndim == value.ndim, name
