"""Pipes: what /dev/stdin or a named pipe holds, kept in a file, as it can be read only once."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from nas.data import limits
from nas.data.limits import refuse_larger
from nas.task import InputError

PREFIX = "nas-pipe-"
_ENDLESS = {os.makedev(1, 5), os.makedev(1, 7), os.makedev(1, 8), os.makedev(1, 9)}  # zero, random
# How the first bytes of a table begin, and the ending of its file.
_ENDINGS = {b"PAR1": ".parquet", b"\x1f\x8b": ".csv.gz", b"ARROW1": ".feather", b"{": ".jsonl"}


def is_pipe(path: Path) -> bool:
    """Whether a path that exists is a pipe or a device rather than a file or a folder."""
    if path.is_dir():
        return False
    return not path.is_file() or path.parts[:2] in (("/", "dev"), ("/", "proc"))


def is_kept(path: Path) -> bool:
    """Whether a file holds what came from a pipe, whose paths start from the working folder."""
    return path.stem == "table" and path.parent.name.startswith(PREFIX)


@cache
def kept(path: Path) -> Path:
    """A file with what a pipe holds, deleted at the end of the program.

    Raises InputError where nothing comes.
    """
    if path.is_char_device() and path.stat().st_rdev in _ENDLESS:
        raise InputError(f"{path} is a device that never ends; give a file or a pipe")
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "table"
    try:
        with path.open("rb") as stream, file.open("wb") as target:
            while chunk := stream.read(2**20):
                target.write(chunk)
                if target.tell() > limits.memory_limit():
                    refuse_larger(target.tell(), f"{path} holds more than", "give a file")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    with file.open("rb") as stream:
        first = stream.read(8).lstrip()
    if not first:
        raise InputError(f"{path} is empty; expected a table, as in `cat table.csv | nas …`")
    ending = next((end for begin, end in _ENDINGS.items() if first.startswith(begin)), ".csv")
    return file.rename(file.with_name(f"table{ending}"))
