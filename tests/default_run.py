"""The part of a parametrisation over all families that is in the default run: the rest is slow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from nas.family import load_families


def mostly_slow(values: Iterable[Any], default: Collection[Any]) -> list[Any]:
    """``values`` as parameters, of which those of ``default`` are not marked as slow."""
    return [v if v in default else pytest.param(v, marks=pytest.mark.slow) for v in values]


def one_of_each_modality() -> list[Any]:
    """All families by name, of which the first of each modality is not marked as slow."""
    families = load_families()
    first = {family.modality: name for name, family in reversed(families.items())}
    return mostly_slow(families, first.values())
