"""What rules decide beside the parameters of spaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from nas.rules.statements import RULES

_Decides = TypeVar("_Decides", bound=Callable[..., Any])
_SETS: dict[str, list[str]] = {}


def sets(rule: str, what: str) -> Callable[[_Decides], _Decides]:
    """Mark the function through which a rule decides ``what``, which is no parameter of a
    space. Raises KeyError where there is no such rule."""
    _SETS.setdefault(RULES[rule].id, []).append(what)
    return lambda decides: decides


def decided(rule: str) -> tuple[str, ...]:
    """What a rule decides beside the parameters of spaces."""
    return tuple(_SETS.get(rule, ()))
