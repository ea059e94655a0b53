"""Networks that are trained apart and kept as one (``nas.models.ensemble``)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nas.files import write_whole

_PREFIX = "network."  # of the weights of a proxy's network


def merge(checkpoints: Sequence[Path], model: dict[str, Any], out: Path) -> None:
    """Write one checkpoint of several, or of one: of the ensemble, or of the network, that the
    arguments of ``model`` describe. What is no weight of a network, such as those of classes, is
    that of the first."""
    state: dict[str, torch.Tensor] = {}
    for number, checkpoint in enumerate(checkpoints):
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for name, value in content["state_dict"].items():
            if name.startswith(_PREFIX):
                own, place = name.removeprefix(_PREFIX), f"networks.{number}."
                state[f"{_PREFIX}{place if len(checkpoints) > 1 else ''}{own}"] = value
            elif number == 0:
                state[name] = value
    saved = {name: model[name] for name in ("family", "config", "task")}
    write_checkpoint({"state_dict": state, "hyper_parameters": saved}, out)


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint all or nothing (``nas.files.write_whole``). Raises OSError."""
    whole = io.BytesIO()
    torch.save(content, whole)
    write_whole(path, whole.getvalue())
