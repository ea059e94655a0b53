"""The files of a run: written whole or not at all, and read with an error that names the file."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from nas.task import InputError, wrong_field

if TYPE_CHECKING:
    import numpy as np

# What can be done about a file that nothing can make again.
COPY = "copy the folder again from where it is whole"
LAST = "last.ckpt"  # the state of a training that is not over
PREVIOUS = "previous.ckpt"  # that of one that another has taken the place of
NETWORKS = "networks"  # the folder of those that an ensemble averages


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write ``content`` (a text in UTF-8) to ``path`` all or nothing: whoever is killed or finds
    the disk full leaves what was there before, and a reader never sees half. Folders on the way are
    made.

    Raises OSError, which names ``path``.
    """
    whole = content.encode() if isinstance(content, str) else content
    _write(Path(path), lambda file: file.write(whole))


@contextmanager
def whole_file(path: str | Path) -> Iterator[TextIO]:
    """A text file (UTF-8) to write to bit by bit, all or nothing like ``write_whole``."""
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    target = place.resolve()
    if target.exists() and not target.is_file():
        with place.open("w", encoding="utf-8") as file:
            yield file
        return
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.new")
    try:
        with unfinished.open("w", encoding="utf-8", newline="") as file:
            yield file
        unfinished.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        unfinished.unlink(missing_ok=True)


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


def read_json(path: Path, kind: Any = Any, *, repair: str = COPY) -> Any:
    """The value in a JSON file of a run.

    Args:
        kind: The type of the value, as pydantic reads it: a record, ``dict[str, int]`` ...
        repair: What the user can do where the file is missing or damaged.

    Raises:
        InputError: The file is missing, no JSON in UTF-8, or of another type: one line that names
            the file, what was found and the repair.

    >>> read_json(Path("runs/flowers/run.json"))["versions"]["python"]
    '3.11.7'
    """
    from pydantic import ValidationError

    content = _read(path, path.read_bytes, repair)
    try:
        value = json.loads(content.decode())
        return value if kind is Any else _adapter(kind).validate_python(value)
    except ValidationError as error:
        wrong = f"{wrong_field(error)} (or another version wrote it)"
    except UnicodeDecodeError as error:
        wrong = f"its byte {error.start + 1} ({content[error.start]:#04x}) is not UTF-8"
    except RecursionError:
        wrong = "it is nested too deeply"
    except ValueError as error:
        wrong = f"it is not JSON ({first_line(error)})"
        if not content.strip():
            wrong = "it is empty"
        elif not content.strip(b"\0"):
            wrong = "it holds NUL bytes alone"
    raise damaged(path, wrong, repair)


def read_array(path: Path, *, mapped: bool = True) -> np.ndarray:
    """The array in a .npy file of a run; ``mapped`` it stays there and is read-only.

    Raises:
        InputError: The file is missing, no array, or shorter than its header says.
    """
    from numpy import load  # not for `nas --help`
    from numpy.lib.format import MAGIC_PREFIX

    def read() -> np.ndarray:
        try:
            with path.open("rb") as file:
                if not file.read(6).startswith(MAGIC_PREFIX):  # a ZIP archive, a pickle ...
                    raise ValueError("it does not begin like one")
            found: np.ndarray = load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
            return found
        except OSError:
            raise
        except Exception as error:  # a header is parsed as Python: many kinds of errors
            raise damaged(path, f"it is no whole .npy file ({first_line(error)})") from None

    array: np.ndarray = _read(path, read, COPY)
    return array


def cache_folder(variable: str, name: str) -> Path:
    """Where what can be made again is kept: the environment's ``variable``, or the folder ``name``
    of the user's cache."""
    if given := os.environ.get(variable):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "frontier-nas" / name


def release(array: np.ndarray) -> None:
    """Take the pages of a mapped array out of this process: what was read of a file counts as
    memory of who read it until then. The system's cache may keep them."""
    from numpy import memmap

    base: Any = array
    while base is not None:
        if isinstance(base, memmap) and base.mode == "r":  # others may hold what no file does
            base._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
            return
        base = getattr(base, "base", None)


def damaged(path: Path, wrong: str, repair: str = COPY) -> InputError:
    """The error about a file of a run whose content is wrong, to be raised."""
    return InputError(f"{path} is damaged: {wrong}; {repair}")


def _read(path: Path, read: Callable[[], Any], repair: str) -> Any:
    try:
        return read()
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {repair}") from None


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
