"""Networks of one recipe that are trained apart and kept as one (``nas.models.ensemble``)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nas.space import ENSEMBLE, apart

_PREFIX = "network."  # of the weights of a proxy's network


def network_recipe(recipe: dict[str, Any], number: int) -> dict[str, Any]:
    """The recipe of one network of those that a recipe averages: its configuration alone, and a
    seed of its own."""
    own = copy.deepcopy(recipe)
    model = own["model"]["init_args"]
    model["config"] = apart(model["config"])[0]
    seed = own["seed_everything"]
    if seed is not False:
        own["seed_everything"] = (int(seed if seed is not True else 0) + number) % 2**31
    return own


def merge(checkpoints: Sequence[Path], out: Path) -> None:
    """Write one checkpoint of several that differ in their weights alone: of the ensemble."""
    state: dict[str, torch.Tensor] = {}
    saved: dict[str, Any] = {}
    for number, checkpoint in enumerate(checkpoints):
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        saved = saved or content["hyper_parameters"]
        for name, value in content["state_dict"].items():
            if name.startswith(_PREFIX):
                name = f"{_PREFIX}networks.{number}.{name.removeprefix(_PREFIX)}"
            state[name] = value
    own = {name: saved[name] for name in ("family", "task")}
    own["config"] = saved["config"] | {ENSEMBLE: len(checkpoints)}
    torch.save({"state_dict": state, "hyper_parameters": own}, out)
