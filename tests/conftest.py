"""One torch thread, no deadlines, and the folder of the real data sets."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports torch: threads that share busy cores cost a step 100-fold.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

settings.register_profile("nas", deadline=None)
settings.load_profile("nas")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    if "NAS_DATA" not in os.environ:
        pytest.skip("set NAS_DATA to the folder of the real data sets")
    return Path(os.environ["NAS_DATA"])
