"""What a family is, and how families are found.

A family is declared in one place: a function that turns a task into its space (whose
defaults are the proven baseline) and one that builds the network. Families come only
through the entry point group ``nas.families``; ours and a third party's are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from nas import rules
from nas.space import Config, Space
from nas.task import Modality, Task, UsageError

if TYPE_CHECKING:
    from torch import nn

GROUP = "nas.families"


@dataclass(frozen=True)
class Reference:
    """A published network of a family: ``family.build(config, task)`` is that network.

    ``params`` is the published number of its parameters, and ``task`` data like those that it was
    published on. The network here has ``extra`` parameters more (or, negative, fewer), which
    ``differs`` accounts for. A configuration may lie outside of the spaces that smaller data have.
    """

    name: str
    source: str
    params: int
    config: Config
    task: Task
    extra: int = 0
    differs: str = ""


@dataclass(frozen=True)
class Family:
    """A family of networks.

    ``build(config, task)`` returns an ``nn.Module`` that takes the task's inputs as
    keyword arguments (batch first) and returns logits of shape (batch, task.outputs).
    ``good_for`` says in one sentence on which data the family is at home, and ``references``
    are its published networks, the smallest first.
    """

    name: str
    modality: Modality
    paper: str
    space: Callable[[Task], Space]
    build: Callable[[Config, Task], nn.Module]
    good_for: str = ""
    references: tuple[Reference, ...] = ()

    def baseline(self, task: Task) -> Config:
        """The proven configuration, scaled to the data."""
        return self.space(task).baseline()


def load_families(modality: str | None = None) -> dict[str, Family]:
    """All installed families by name, in the order they are declared."""
    families: dict[str, Family] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        for family in entry.load():
            if family.name in families:
                raise UsageError(
                    f"two families are called {family.name!r}; the second comes from"
                    f" {entry.value}: uninstall one of the packages"
                )
            families[family.name] = family
    if not families:
        raise UsageError("no families are installed; install the project with `pip install .`")
    return {n: f for n, f in families.items() if modality in (None, f.modality)}


@rules.sets("families-by-modality", "families of a search")
def pick_families(modality: str, names: tuple[str, ...] = ()) -> dict[str, Family]:
    """The families of a modality, or those of them that are named."""
    known = load_families(modality)
    for name in names:
        if name not in known:
            raise UsageError(
                f"unknown family {name!r} for {modality}; known are {', '.join(known)}"
            )
    return {name: known[name] for name in names} if names else known
