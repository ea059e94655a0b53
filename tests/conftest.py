"""One torch thread, no deadlines, locks of its own for each test process, real data sets, and the
order of the files."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

# Before anything imports torch: threads that share busy cores cost a step 100-fold.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

# Searches of one user wait for each other's latency measurements, by locks in these folders. The
# processes of pytest-xdist (make test) must not: each has folders of its own.
if "PYTEST_XDIST_WORKER" in os.environ:
    tempfile.tempdir = None
    os.environ["TMPDIR"] = os.environ["XDG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="nas-")
    tempfile.tempdir = None
    atexit.register(shutil.rmtree, os.environ["TMPDIR"], ignore_errors=True)

import pytest
from hypothesis import settings

# What is decoded to files is never kept in the cache of who runs the tests.
os.environ["NAS_DECODED"] = tempfile.mkdtemp(prefix="nas-decoded-")
atexit.register(shutil.rmtree, os.environ["NAS_DECODED"], ignore_errors=True)


def _declare_torchvision() -> object:
    """Lets Lightning, timm and transformers be imported where `make agreement` has put timm: the
    registry's torchvision lacks its operators beside a CPU torch, and asks for two of them by name.
    Nothing here calls them. They live as long as what is returned."""
    if find_spec("torchvision") is None:
        return None
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    return library


_OPERATORS = _declare_torchvision()

settings.register_profile("nas", deadline=None)
settings.load_profile("nas")


# `make test` gives a file to the process that is free: the longest ones are begun first, so that
# the two processes end at about the same time.
LONGEST = ("test_families", "test_run", "test_local", "test_training", "test_recipe", "test_cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def data_folder() -> Path:
    if "NAS_DATA" not in os.environ:
        pytest.skip("set NAS_DATA to the folder of the real data sets")
    return Path(os.environ["NAS_DATA"])
