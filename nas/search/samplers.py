"""Where the next configuration comes from: the contract of a sampler, and those installed.

Samplers are found through the entry point group ``nas.samplers``, ours and a third party's
alike; the name of the entry is the name to search by::

    [project.entry-points."nas.samplers"]
    mine = "my_package:MySampler"

``nas.testing.check_sampler`` holds a sampler to the contract.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from nas.candidate import Candidate
from nas.family import installed
from nas.space import Config, Space
from nas.task import COSTS, Task, UsageError

if TYPE_CHECKING:
    import optuna

GROUP = "nas.samplers"
# Stands for the sampler that suits the objectives.
AUTO = "auto"


@dataclass(frozen=True)
class History:
    """What a study knows when it needs a configuration.

    ``candidates`` are all so far by number, those in training too. ``number`` is that of the
    next one. ``is_new`` says of a configuration of the joined space whether nobody has asked
    for it yet.
    """

    candidates: Sequence[Candidate]
    number: int
    is_new: Callable[[Config], bool] = lambda config: True


@runtime_checkable
class Shortlist(Protocol):
    """Configurations, the most promising first, whose costs are to be measured before one of
    them is trained; that may take ``limit_s`` seconds (None: no limit)."""

    @property
    def configs(self) -> list[Config]: ...

    @property
    def limit_s(self) -> float | None: ...

    def ranked(self, costs: Sequence[dict[str, float]]) -> list[Config]:
        """The configurations in their new order, now that the ``costs`` (metric to value) of
        the first of them are measured."""


class Sampler(Protocol):
    """Proposes configurations of ``space``, the joined one of all families, for ``task``.

    A study makes its sampler when it is opened. What a sampler draws depends on the seed of the
    task and on the history alone (``generator`` gives a random number generator for both), so
    that twelve candidates and a resume to twenty-four equal twenty-four in one go. What else it
    has to remember it keeps in ``folder``; without one it forgets.

    A class that inherits from this one needs ``propose`` only. Example::

        class Nearby(Sampler):
            def propose(self, history):
                rng = generator(self.task, history.number)
                while True:
                    yield self.space.mutate(self.space.baseline(), rng)
    """

    space: Space
    task: Task
    folder: Path | None

    def __init__(self, space: Space, task: Task, folder: Path | None = None) -> None:
        self.space, self.task, self.folder = space, task, folder

    @classmethod
    def check_task(cls, task: Task) -> None:
        """Raise UsageError where this sampler cannot search for the objectives of ``task``."""
        return

    def propose(self, history: History) -> Iterable[Config] | None:
        """Configurations, the preferred first: the study takes the first that is new, and where
        they end without a new one, the space counts as exhausted. None leaves the choice to
        ``optuna_sampler``."""
        ...

    def optuna_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """What Optuna is to draw with where ``propose`` leaves it the choice; made anew for each
        candidate. It sees the candidates that are proposed here, too."""
        import optuna

        return optuna.samplers.RandomSampler(seed=seed)

    # -- samplers that learn costs without training ---------------------------------------

    def to_measure(self) -> list[Config]:
        """Configurations whose costs should be measured before the first candidate."""
        return []

    def learn_costs(self, configs: Sequence[Config], costs: Sequence[dict[str, float]]) -> None:
        """Remember what the first of ``configs`` cost, as many as were measured."""
        return

    def shortlist(self, history: History, pending: Sequence[Shortlist] = ()) -> Shortlist | None:
        """Configurations whose costs are worth measuring before one of them is trained; None
        where there are none this time. The costs of the ``pending`` ones are being measured."""
        return None


def stable_seed(seed: int, number: int) -> int:
    """The same on every machine and in every process, unlike ``hash``."""
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def generator(task: Task, number: int) -> np.random.Generator:
    """The random number generator for the candidate ``number`` of a search for ``task``."""
    return np.random.default_rng(stable_seed(task.seed, number))


# -- the registry --------------------------------------------------------------------------


def _entries() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in installed(GROUP, tuple(sys.path)):
        if entry.name in (AUTO, *found):
            raise UsageError(
                f"two samplers are called {entry.name!r}; the second comes from {entry.value}:"
                " uninstall one of the packages"
            )
        found[entry.name] = entry
    if not found:
        raise UsageError("no samplers are installed; install the project with `pip install .`")
    return found


def names() -> tuple[str, ...]:
    """The names to search by: "auto" and the installed samplers."""
    return (AUTO, *_entries())


def check(name: str) -> None:
    """Raise UsageError where there is no such sampler."""
    if name not in (known := names()):
        raise UsageError(f"unknown sampler {name!r}; known are {', '.join(known)}")


def resolve(name: str, task: Task) -> str:
    """The sampler that ``name`` stands for: "auto" is "ehvi" where the objectives hold one
    quality, as it models one, and "tpe" elsewhere. Raises UsageError where there is no such
    sampler, or where it cannot search for these objectives."""
    check(name)
    if name == AUTO:
        qualities = [o.metric for o in task.objectives if o.metric not in COSTS]
        return "ehvi" if len(qualities) == 1 else "tpe"
    load(name).check_task(task)
    return name


def load(name: str) -> type[Sampler]:
    """The class of an installed sampler."""
    sampler: type[Sampler] = _entries()[name].load()
    return sampler
