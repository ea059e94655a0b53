"""Families are found through entry points alone, whoever installed them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from nas import family as module
from nas.family import Family, load_families, pick_families
from nas.space import Int, Space
from nas.task import DataProfile, Modality, Target, Task, UsageError


@dataclass(frozen=True)
class Entry:
    """What importlib.metadata gives for one entry point, as far as it is used."""

    name: str
    value: str
    families: tuple[Family, ...]

    def load(self) -> tuple[Family, ...]:
        return self.families


def family(name: str, modality: Modality) -> Family:
    def space(task: Task) -> Space:
        return Space((Int("width", 8, 512, default=min(512, 8 * task.profile.n_train)),))

    def build(config: object, task: Task) -> None:
        raise AssertionError("finding a family builds nothing")

    return Family(name, modality, "a paper", space, build)  # type: ignore[arg-type]


ENTRIES = (
    Entry("tabular", "ours.tabular:FAMILIES", (family("mlp", "tabular"), family("ft", "tabular"))),
    Entry("images", "ours.images:FAMILIES", (family("resnet", "images"),)),
    Entry("zoo", "theirs:FAMILIES", (family("kan", "tabular"),)),
)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Entry]:
    entries = list(ENTRIES)

    def installed(group: str, path: tuple[str, ...]) -> list[Entry]:
        return sorted(entries, key=lambda e: e.name) if group == "nas.families" else []

    monkeypatch.setattr(module, "installed", installed)
    return entries


def test_families_of_every_package_are_found_alike(installed: list[Entry]) -> None:
    assert list(load_families()) == ["resnet", "mlp", "ft", "kan"]
    assert list(load_families("tabular")) == ["mlp", "ft", "kan"]
    assert list(load_families("audio")) == []


def test_named_families_come_in_the_order_asked(installed: list[Entry]) -> None:
    assert list(pick_families("tabular", ("kan", "mlp"))) == ["kan", "mlp"]
    assert list(pick_families("tabular")) == ["mlp", "ft", "kan"]


@pytest.mark.parametrize("name", ["mpl", "resnet"])
def test_a_family_the_modality_does_not_have_is_refused_with_those_it_has(
    installed: list[Entry], name: str
) -> None:
    with pytest.raises(UsageError, match=f"unknown family '{name}' for tabular.*mlp, ft, kan"):
        pick_families("tabular", (name,))


def test_two_families_of_one_name_are_refused_with_the_package_to_remove(
    installed: list[Entry],
) -> None:
    installed.append(Entry("zz", "rival:FAMILIES", (family("mlp", "tabular"),)))
    with pytest.raises(UsageError, match=r"two families are called 'mlp'.*rival:FAMILIES"):
        load_families()


def test_no_installed_family_is_an_error_that_says_how_to_install(installed: list[Entry]) -> None:
    installed.clear()
    with pytest.raises(UsageError, match="pip install"):
        load_families()


def test_a_baseline_is_scaled_to_the_data() -> None:
    def task(n_train: int) -> Task:
        return Task(
            "tabular", (Target("y", "regression"),), DataProfile(n_train, 1, 1, {"x": (3,)})
        )

    assert family("mlp", "tabular").baseline(task(4)) == {"width": 32}
    assert family("mlp", "tabular").baseline(task(1000)) == {"width": 512}
