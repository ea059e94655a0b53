"""A trained network with all that is known of it: its weights, its data, its recipe, its scores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nas import recipe as recipes
from nas.data import Dataset
from nas.files import read_json
from nas.task import InputError, Task
from nas.training.proxy import Proxy, TaskData, load_proxy


@dataclass(frozen=True)
class Trained:
    """What ``open_trained`` finds.

    Args:
        proxy: The network in eval mode, with its task.
        checkpoint: Its file.
        recipe: What it was trained by; empty where no recipe.yaml lies beside.
        result: Of the training (``nas train``); empty where no result.json lies beside.
    """

    proxy: Proxy
    checkpoint: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

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
        number: Of a candidate of the run, which may also be in RUN/models/NUMBER.

    Raises:
        InputError: There is none, or a file beside it is damaged.
    """
    if number is not None:
        model = _of_candidate(model, number)
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


def _of_candidate(run: Path, number: int) -> Path:
    """The folder where a candidate of a run was trained."""
    own = str(number)
    for place in (run / "models" / own, run / "model", run / "finalists" / own, run):
        recipe = place / "recipe.yaml"
        found = (
            recipes.load(recipe) if (place / "model.ckpt").is_file() and recipe.is_file() else {}
        )
        if found and found["provenance"]["candidate"] == number:
            return place
    raise InputError(
        f"candidate {number} of {run} is not trained; `nas export {run} -n {number} --out"
        f" {number}.yaml` and `nas train {number}.yaml --out {run / 'models' / str(number)}` do it"
    )
