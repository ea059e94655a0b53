"""A trained network with all that is known of it: its weights, its data, its recipe, its scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nas import kept
from nas import recipe as recipes
from nas.data import Dataset
from nas.family import load_families
from nas.files import read_json
from nas.run import Run
from nas.task import InputError, Task
from nas.training.proxy import Proxy, TaskData, load_proxy, proxy_of


@dataclass(frozen=True)
class Trained:
    """What ``open_trained`` finds.

    Args:
        proxy: The network in eval mode, with its task.
        checkpoint: Its file.
        recipe: What it was trained by; empty where no recipe.yaml lies beside. Of a proxy it is
            what trains it in full.
        result: Of the training (``nas train``); empty where no result.json lies beside.
        fidelity: How far a search has trained it as a proxy, "4 epochs of 60% of the training
            samples"; empty of a training at full scale.
    """

    proxy: Proxy
    checkpoint: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    fidelity: str = ""

    @property
    def note(self) -> str:
        """Of a proxy in one line what it is, and what trains it in full; else empty."""
        if not self.fidelity or self.run is None:
            return ""
        number = int(self.recipe["provenance"]["candidate"])
        return (
            f"candidate {number} as the search trained it: {self.fidelity};"
            f" {_commands(self.run, number)} train it in full"
        )

    @property
    def task(self) -> Task:
        return self.proxy.task

    @property
    def title(self) -> str:
        """One line: family, modality, what is predicted."""
        targets = ", ".join(t.name for t in self.task.targets[:3])
        return f"{self.proxy.family} that predicts {targets} of {self.task.modality}"

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights."""
        return hashlib.sha256(self.checkpoint.read_bytes()).hexdigest()[:16]

    @property
    def run(self) -> Path | None:
        """The folder of the search that it lies in."""
        for folder in (self.checkpoint.parent.parent, self.checkpoint.parent.parent.parent):
            if (folder / "task.json").is_file():
                return folder
        return None

    @property
    def source(self) -> Path | None:
        """Where its data was read; None for data of a Python session, and where it has gone."""
        arguments = self.recipe.get("data", {}).get("init_args", {})
        path = Path(str(arguments.get("source", "")))
        saved = (path / "dataset.json").is_file()
        return path if arguments and path.exists() and not saved else None

    @cached_property
    def dataset(self) -> Dataset:
        """Its data, coded: that of the run, or read again.

        Raises:
            InputError: There is no recipe that says where, or the data is another now.
        """
        expected = self.task.profile.fingerprint
        folder = self.run
        if folder is not None and (folder / "data" / "dataset.json").is_file():
            saved = Dataset.load(folder / "data")
            if saved.profile.fingerprint == expected:
                return saved
        if not self.recipe:
            raise InputError(
                f"{self.checkpoint}: no recipe.yaml lies beside it, so its data is not known; keep"
                " the files of `nas train` together"
            )
        data = TaskData(**self.recipe["data"]["init_args"])
        data.task = self.task
        data.setup()
        assert data.dataset is not None
        return data.dataset


def checkpoint_in(model: Path) -> Path:
    """The checkpoint of a run's folder, of a model's, or the file itself; InputError where there
    is none."""
    places = (model / "model.ckpt", model / "model" / "model.ckpt") if model.is_dir() else (model,)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"no checkpoint at {model}; `nas train` makes one")
    return found


def open_trained(model: Path, number: int | None = None) -> Trained:
    """The trained network of a run's folder, of a model's folder or of a checkpoint.

    Args:
        model: The place; of a run it is RUN/model.
        number: Of a candidate of the run, which may also be in RUN/models/NUMBER. Where it was not
            trained at full scale, it has the weights that the search has kept.

    Raises:
        InputError: There is none, or a file beside it is damaged.
        UsageError: The run has no candidate of this number.
    """
    if number is not None:
        place = _of_candidate(model, number)
        if place is None:
            return _as_searched(model, number)
        model = place
    checkpoint = checkpoint_in(model)
    beside = checkpoint.parent
    proxy = load_proxy(checkpoint)
    recipe = beside / "recipe.yaml"
    found = recipes.load(recipe) if recipe.is_file() else {}
    if found and found["model"]["init_args"]["config"] != proxy.config:
        raise InputError(
            f"{recipe} is not the recipe of {checkpoint.name} beside it; train in another folder"
        )
    result = beside / "result.json"
    return Trained(
        proxy, checkpoint, found, read_json(result, dict[str, Any]) if result.is_file() else {}
    )


def _of_candidate(run: Path, number: int) -> Path | None:
    """The folder where a candidate of a run was trained at full scale, if it was, as a single
    network."""
    own = str(number)
    for place in (run / "models" / own, run / "model", run / "finalists" / own, run):
        recipe = place / "recipe.yaml"
        found = (
            recipes.load(recipe) if (place / "model.ckpt").is_file() and recipe.is_file() else {}
        )
        if found and found["provenance"]["candidate"] == number and recipes.size(found) == 1:
            return place
    return None


def _as_searched(folder: Path, number: int) -> Trained:
    """A candidate of a run with the weights that the search has kept."""
    run, file = Run(folder), kept.place(folder, number)
    candidate, commands = run.candidate(number), _commands(folder, number)
    if not file.is_file():
        raise InputError(
            f"candidate {number} of {folder} is not trained, and the search has kept no weights of"
            f" it; {commands} do it"
        )
    recipe = recipes.make(candidate, run.task, run.source, run.versions)
    proxy = proxy_of(recipe["model"]["init_args"], str(file), Proxy)
    published = load_families(run.task.modality)[candidate.family].starts_published
    repair = f"{commands} train it in full"
    fidelity = kept.restore(file, candidate, proxy.network, published=published, repair=repair)
    return Trained(proxy.eval(), file, recipe, fidelity=fidelity)


def _commands(run: Path, number: int) -> str:
    """What trains a candidate at full scale."""
    return (
        f"`nas export {run} -n {number} --out {number}.yaml` and `nas train {number}.yaml --out"
        f" {run / 'models' / str(number)}`"
    )
