"""Neural architecture search for your own data.

``nas.search(...)`` runs a search and returns a ``nas.Run``; ``nas.Run(folder)`` opens one;
``nas.load(model)`` opens a trained network;
``nas.audit(network, ...)`` finds what is wrong with a network of your own.
Importing this package imports neither torch nor optuna.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.audit import audit as audit
    from nas.candidate import Candidate as Candidate
    from nas.driver import search as search
    from nas.estimators import SearchClassifier as SearchClassifier
    from nas.estimators import SearchRegressor as SearchRegressor
    from nas.family import Family as Family
    from nas.family import load_families as load_families
    from nas.model import Model as Model
    from nas.model import load as load
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
    "Model": "nas.model",
    "SearchClassifier": "nas.estimators",
    "SearchRegressor": "nas.estimators",
    "load": "nas.model",
    "search": "nas.driver",
    "Choice": "nas.space",
    "Float": "nas.space",
    "Int": "nas.space",
    "Space": "nas.space",
    "InputError": "nas.task",
    "Task": "nas.task",
}
__all__ = sorted(_HOME)


class _CallablePackage(ModuleType):
    """A package that is called like the function of its name, and hides nothing that it holds:
    ``nas.search(...)`` beside ``nas.search.study``."""

    @property
    def _function(self) -> Callable[..., Any]:
        name = self.__name__.removeprefix("nas.")
        function: Callable[..., Any] = vars(import_module(_HOME[name]))[name]
        return function

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    def __getattribute__(self, name: str) -> Any:
        if name == "__doc__":
            return self._function.__doc__  # for help(nas.search)
        return super().__getattribute__(name)


for _name in ("search", "audit"):
    import_module(f"nas.{_name}").__class__ = _CallablePackage


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
