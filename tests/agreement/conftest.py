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
def transformers() -> Iterator[Any]:
    """The package, though a torchvision beside it has no operators.

    The registry's torchvision lacks them beside a CPU torch, and only asks for two of them
    by name. Nothing here calls them.
    """
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed here: run `make agreement`")
    library = torch.library.Library("torchvision", "FRAGMENT")
    if find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except RuntimeError:
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
    yield importlib.import_module("transformers")
    del library  # the operators live as long as it does
