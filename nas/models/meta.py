"""Networks that have shapes and no values, for what is counted before one is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _Uninitialised(TorchFunctionMode):
    """No initial values on the meta device, which holds none: half of the time of a build there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == torch.nn.init.__name__:
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """What is built within is on the meta device, without memory for its weights.

    Example:
        >>> with without_values():
        ...     layer = torch.nn.Linear(1_000_000, 1_000_000)
        >>> layer.weight.is_meta
        True
    """
    with torch.device("meta"), _Uninitialised():
        yield
