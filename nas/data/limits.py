"""How much memory a data set may take, and files that would take more than they seem to.

Compressed and headed files can promise or unpack to far more than their size: an .npz of
zeros, a header with a made-up shape, an image of 10^10 white pixels. Readers ask here
before they allocate.
"""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np

from nas.task import InputError

GIB = 2**30
# Headers of arrays are parsed as Python, which fails in threads now and then ("AST constructor
# recursion depth mismatch", CPython 3.11 and 3.12).
_PARSING = threading.Lock()
RESIDENT = 16  # the part of that which one process may hold; of more cores one part for each
THREADS = 8  # that read files at the same time, at the most
_ONE_LARGE = threading.Lock()


@cache
def memory_limit() -> int:
    """Bytes that a data set may take: half of the machine's memory, or of what a container, a
    Slurm job or a service may have of it."""
    return memory() // 2


def memory() -> int:
    """Bytes of this machine's memory, or of what a container, a Slurm job or a service may have of
    it."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *(limit for limit, _, _ in memory_groups())])


def memory_groups(
    proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> Iterator[tuple[int, Path, str]]:
    """The limits on the memory of this process's control groups and of their parents, bytes; the
    file that tells what a group uses, and the name of its cached files in memory.stat.

    ``proc`` and ``groups`` are where Linux mounts these (man 5 proc; its admin-guide on cgroup
    v1 memory and cgroup v2).
    """
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        mount = groups / controllers
        limit, usage, cached = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers == "memory"  # version 1
            else ("memory.max", "memory.current", "inactive_file")
        )
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            file = folder / limit
            # Inside a container the path is the host's, and the mount is the group itself.
            if file.is_file() and (most := file.read_text().strip()) != "max":
                yield int(most), folder / usage, cached
            if folder == mount:
                break


def resident_limit() -> int:
    """Bytes of a data set that one process may hold: one on each core may work on it at the same
    time, and what is larger stays in a file."""
    return memory_limit() // max(RESIDENT, os.cpu_count() or 1)


def refuse_larger(needed: float, what: str, repair: str) -> None:
    """Raise InputError where ``needed`` bytes are over the limit; ``what`` begins the message."""
    limit = memory_limit()
    if needed > limit:
        raise InputError(
            f"{what} {needed / GIB:,.1f} GiB, more than half of this machine's"
            f" {2 * limit / GIB:.1f} GiB; {repair}"
        )


@contextmanager
def room_for(needed: float, what: str) -> Iterator[None]:
    """Waits, where ``needed`` bytes are so many that only one thread may take them at a time.

    Raises ValueError where they are more than half of the limit; ``what`` begins the message.
    """
    limit = memory_limit()
    if needed > limit / 2:
        raise ValueError(
            f"{what} takes {needed / GIB:,.1f} GiB, more than a quarter of this machine's"
            f" {2 * limit / GIB:.1f} GiB"
        )
    with _ONE_LARGE if needed > limit / (2 * THREADS) else nullcontext():
        yield


def read_npy(path: Path) -> np.ndarray:
    """The array in an .npy file.

    Raises ValueError (in one line) where it is none, holds Python objects or is shorter than
    its header says, and InputError where it is larger than the memory limit.
    """
    with path.open("rb") as file:
        promised = _promised(file)
        actual = path.stat().st_size - file.tell()
    if promised > actual:
        raise ValueError(f"its header promises {promised:,} bytes, but it holds {actual:,}")
    refuse_larger(promised, f"{path} holds", "store a part of it, or a smaller type")
    with _PARSING:
        array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def npy_shape(path: Path) -> tuple[int, ...]:
    """The shape in the header of an .npy file; ValueError where there is none."""
    with path.open("rb") as file:
        return _header(file)[0]


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """The arrays in an .npz by name.

    Raises InputError where it is none, and where its arrays are larger than the memory limit
    or than the archive holds.
    """
    # NumPy takes what is no archive for a pickle, and its message says how to load that.
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} cannot be read as .npz: it is not an archive of numpy.savez")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            unpacked = sum(member.file_size for member in archive.infolist())
            refuse_larger(unpacked, f"{path} unpacks to", "store a part of it, or a smaller type")
            for member in members:
                with archive.open(member) as file:
                    promised = _promised(file)
                    actual = member.file_size - file.tell()
                if promised > actual:
                    raise ValueError(
                        f"the header of {member.filename} promises {promised:,} bytes, but it"
                        f" holds {actual:,}"
                    )
        with _PARSING, np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as .npz: {reason}") from None


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    major, _ = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    )
    with _PARSING:
        shape, _, dtype = read(file)
    return shape, dtype


def _promised(file: IO[bytes]) -> int:
    """Bytes of the array that the header describes; ValueError where they are Python objects.
    The file is left where the array begins."""
    shape, dtype = _header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded; store numbers")
    if any(side < 0 for side in shape):
        raise ValueError(f"its header has the shape {shape}")
    total = dtype.itemsize
    for side in shape:
        total *= side
    return total
