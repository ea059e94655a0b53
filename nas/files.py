"""The files of a run: written whole or not at all, and read with an error that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

from nas.task import InputError

if TYPE_CHECKING:
    import numpy as np


def write_whole(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` all or nothing: whoever is killed or finds the disk full
    leaves what was there before, and a reader never sees half. Folders on the way are made.

    Raises OSError, which names ``path``.
    """
    _write(Path(path), lambda file: file.write(text.encode()))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write ``array`` to the .npy file ``path``, all or nothing like ``write_whole``."""
    from numpy.lib.format import write_array

    # To a file that it knows as one NumPy writes by itself, and does not say what failed.
    _write(path, lambda f: write_array(SimpleNamespace(write=f.write), array, allow_pickle=False))


def _write(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.resolve()  # a link stays, and what it leads to is replaced
    if place.exists() and not place.is_file():
        with path.open("wb") as file:  # a pipe or a device is never replaced; a folder refuses
            fill(file)
        return
    # Two processes may write at once: each has its own.
    unfinished = place.with_name(f"{place.name}.{os.getpid()}.new")
    try:
        with unfinished.open("wb") as file:
            fill(file)
        unfinished.replace(place)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        unfinished.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The value in a file of a run. Raises InputError where the file is absent or damaged."""
    return _read(path, lambda: json.loads(path.read_text(encoding="utf-8")))


def read_array(path: Path, *, mapped: bool = True) -> np.ndarray:
    """The array in a file of a run; ``mapped`` it stays there. Raises InputError likewise."""
    from numpy import load  # not for `nas --help`

    array: np.ndarray = _read(path, lambda: load(path, mmap_mode="r" if mapped else None))
    return array


def _read(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except FileNotFoundError:
        wrong = "missing"
    except (ValueError, EOFError):  # what is written whole was cut short since
        wrong = "damaged"
    raise InputError(f"{path} is {wrong}; copy the folder again from where it is whole")
