"""The contracts of a family and of a sampler: sound ones pass, each way to break one is reported.

And a family and a sampler from packages of their own: installed, found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.family import Family, load_families
from nas.rules import training
from nas.search import samplers
from nas.search.samplers import History, Sampler, generator
from nas.space import Choice, Config, Float, Int, Space
from nas.task import Modality, Task
from nas.testing import check_family, check_sampler, example_datasets, sample_inputs
from nas.testing.families import extreme_configs
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
        if self.flaw == "batch" and self.training and len(y) < 3:
            raise ValueError("three samples are the least")
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
        wide_and_slow = config["width"] == 64 and float(config["lr"]) < 1e-3
        if flaw == "pair":  # of values, of which each alone is harmless
            return Mean(int(config["width"]), task, "batch" if wide_and_slow else "")
        if flaw == "number" and task.targets[0].kind == "regression":
            return Mean(int(config["width"]), task, "batch")
        return Mean(int(config["width"]), task, flaw)

    return Family("mean", "text", "a paper", space, build)


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # the exporter's own
def test_a_sound_family_keeps_the_contract() -> None:
    check_family(family())


@pytest.mark.parametrize(
    ("flaw", "message"),
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
        ("pair", "costs cannot be predicted .*three samples"),
        ("number", "a step of 2 samples fails .*three samples"),
    ],
)
def test_a_broken_family_is_reported_by_what_it_breaks(flaw: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_family(family(flaw), export=False, draws=1)


def test_the_ends_of_any_two_parameters_meet_in_few_configurations() -> None:
    space = Space(
        (
            *(Choice(f"choice{i}", ("a", "b", "c"), default="a") for i in range(8)),
            Int("depth", 1, 6, default=2),
            Float("dropout", 0.0, 0.5, default=0.1, when={"choice1": ("a", "b")}),
        )
    )
    configs = extreme_configs(space)
    ends = {f"choice{i}": "abc" for i in range(8)} | {"depth": (1, 6), "dropout": (0.0, 0.5)}
    for one, other in combinations(ends, 2):
        met = {(c[one], c[other]) for c in configs if one in c and other in c}
        expected = set(product(ends[one], ends[other]))
        if {one, other} == {"choice1", "dropout"}:
            expected -= {("c", 0.0), ("c", 0.5)}
        assert met == expected, (one, other)
    assert len(configs) < 25  # of 3^8 * 4


def test_the_contract_is_checked_on_data_of_ones_own() -> None:
    (dataset,) = example_datasets("text", samples=30).values()
    seen: list[int] = []

    def build(config: Config, task: Task) -> nn.Module:
        seen.append(task.profile.n_train)
        return Mean(int(config["width"]), task, "")

    check_family(replace(family(), build=build), [dataset], export=False, draws=0)
    assert set(seen) == {len(dataset.parts["train"])}


MODULE = """
from nas.family import Family, load_families
from nas.space import Int, Space
from nas.rules import training
from nas.search import samplers
from nas.search.samplers import History, Sampler, generator

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


def test_a_family_from_another_package_is_found_once_its_wheel_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    (source / "foreign_families.py").write_text(MODULE)
    (source / "pyproject.toml").write_text(PROJECT)
    assert "foreign_linear" not in load_families()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", str(source)]
    options = ["--target", str(installed), "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run([*pip, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    monkeypatch.syspath_prepend(installed)
    families = load_families("tabular")
    assert "mlp" in families
    check_family(families["foreign_linear"], export=False)
    monkeypatch.delitem(sys.modules, "foreign_families")


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


# -- samplers ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", samplers.names()[1:])
def test_each_installed_sampler_keeps_the_contract(name: str) -> None:
    check_sampler(name)


class Nearby(Sampler):
    """Mutations of the baselines, with one flaw or none."""

    flaw = ""

    def propose(self, history: History) -> Iterator[Config]:
        number = 0 if self.flaw == "repeats itself" else history.number
        rng = generator(replace(self.task, seed=0) if self.flaw == "no seed" else self.task, number)
        if self.flaw == "clock":
            rng = np.random.default_rng()
        if self.flaw == "failures" and any(c.reason == "oom" for c in history.candidates):
            raise AssertionError("it cannot learn from failures")
        families = self.space["family"].options  # type: ignore[union-attr]
        for _ in range(300):
            family = families[int(rng.integers(len(families)))]
            config = self.space.complete({"family": family})
            config = self.space.mutate(config, rng, changes=int(rng.integers(1, 4)))
            if self.flaw == "outside":
                config["width"] = 3
            yield config
            if self.flaw == "repeats itself":
                return


def test_a_sampler_of_ten_lines_keeps_the_contract() -> None:
    check_sampler(Nearby)


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [
        ("outside", "outside its space: parameter 'width' does not apply"),
        ("repeats itself", r"it ends after \d of 16 candidates"),
        ("clock", "a search that is resumed asks for other configurations"),
        ("no seed", "the seed changes nothing"),
        ("failures", "it cannot learn from failures"),
    ],
)
def test_a_broken_sampler_is_reported_by_what_it_breaks(
    flaw: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Nearby, "flaw", flaw)
    with pytest.raises(AssertionError, match=complaint):
        check_sampler(Nearby)


class Forgetful(Nearby):
    """Measures costs, and lists what was asked for before."""

    flaw = ""

    def to_measure(self) -> list[Config]:
        return [self.space.baseline()]

    def shortlist(self, history: History, pending: object = ()) -> Any:
        if not self.flaw:
            return None
        listed = [self.space.baseline(), next(self.propose(history))]
        configs = listed[self.flaw == "others" :]
        ranked = lambda costs: listed  # noqa: E731
        return SimpleNamespace(configs=configs, limit_s=None, ranked=ranked)


@pytest.mark.parametrize(
    ("flaw", "complaint"),
    [
        ("", "it forgets what it has learnt of costs"),
        ("known", "its shortlist holds what was asked for before"),
        ("others", "its shortlist holds other ones"),
    ],
)
def test_a_sampler_that_mishandles_costs_is_reported(
    flaw: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Forgetful, "flaw", flaw)
    with pytest.raises(AssertionError, match=complaint):
        check_sampler(Forgetful)


def test_a_sampler_of_another_package_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(
        """
from nas.search.samplers import Sampler, generator


class Nearby(Sampler):
    def propose(self, history):
        rng = generator(self.task, history.number)
        for _ in range(100):
            yield self.space.mutate(self.space.baseline(), rng, changes=2)
"""
    )
    package = tmp_path / "toy-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[nas.samplers]\nnearby = toy:Nearby\n")
    code = """
import sys
from pathlib import Path
from nas.search import samplers
from nas.search.study import Study
from nas.space import Space
from nas.testing import small_spaces, small_task
print(*samplers.names())
study = Study(Path(sys.argv[1]), small_task(), Space.join(small_spaces()), sampler="nearby")
print(study.ask().family, type(study.sampler).__name__)
"""

    def python(*path: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
        return subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    with_it = python(str(tmp_path))
    known, drawn, _ = with_it.stdout.split("\n")
    assert known == "auto ehvi evolution nearby nsga2 random tpe"
    assert drawn.endswith("Nearby")
    assert "unknown sampler 'nearby'; known are auto, ehvi," in python().stderr
    (package / "entry_points.txt").write_text("[nas.samplers]\nehvi = toy:Nearby\n")
    assert "two samplers are called 'ehvi'; the second comes from" in python(str(tmp_path)).stderr
