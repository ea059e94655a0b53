"""The libraries that networks are compared with; they are only where `make agreement` put them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def _torchvision() -> Iterator[None]:
    """Lets what asks for torchvision be imported, though the one beside it has no operators.

    The registry's torchvision lacks them beside a CPU torch, and only asks for two of them
    by name. Nothing here calls them.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    if find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    yield
    del library  # the operators live as long as it does


def _imported(name: str) -> Any:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed here: run `make agreement`")
    return importlib.import_module(name)


@pytest.fixture(scope="session")
def transformers(_torchvision: None) -> Any:
    return _imported("transformers")


@pytest.fixture(scope="session")
def timm(_torchvision: None) -> Any:
    return _imported("timm")
