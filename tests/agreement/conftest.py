"""The libraries that networks are compared with; they are only where `make agreement` put them."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import pytest


def _imported(name: str) -> Any:
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed here: run `make agreement`")
    return importlib.import_module(name)


@pytest.fixture(scope="session")
def transformers() -> Any:
    return _imported("transformers")


@pytest.fixture(scope="session")
def timm() -> Any:
    return _imported("timm")
