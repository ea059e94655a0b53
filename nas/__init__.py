"""Neural architecture search for your own data.

``nas.search(...)`` runs a search and returns a ``nas.Run``; ``nas.Run(folder)`` opens one;
``nas.audit(network, ...)`` finds what is wrong with a network of your own.
Importing this package imports neither torch nor optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.audit import audit as audit
    from nas.candidate import Candidate as Candidate
    from nas.driver import search as search
    from nas.family import Family as Family
    from nas.family import load_families as load_families
    from nas.run import Run as Run
    from nas.space import Choice as Choice
    from nas.space import Float as Float
    from nas.space import Int as Int
    from nas.space import Space as Space
    from nas.task import InputError as InputError
    from nas.task import Task as Task

__version__ = "0.1.0"

_HOME = {
    "Candidate": "nas.candidate",
    "audit": "nas.audit",
    "Family": "nas.family",
    "load_families": "nas.family",
    "Run": "nas.run",
    "search": "nas.driver",
    "Choice": "nas.space",
    "Float": "nas.space",
    "Int": "nas.space",
    "Space": "nas.space",
    "InputError": "nas.task",
    "Task": "nas.task",
}
__all__ = sorted(_HOME)


# Loading a module binds its name here. Those that are called like a function are loaded now,
# once, and their names taken back, so that `nas.search` stays the function.
for _name in ("search", "audit"):
    import_module(f"nas.{_name}")
    del globals()[_name]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
