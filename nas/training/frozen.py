"""What frozen encoders put out, kept on disk: an encoder runs once over each sample.

A network whose head alone is trained has the attribute ``frozen`` and these methods:

- ``fixed(**inputs)``: what comes before anything that is trained, (B, T, width) and lengths (B,);
- ``condensed(features)``: those of one sample (T, width) after what its pooling has not to learn;
- ``from_fixed(features, features_length)``: the logits from either;
- ``seen(name, values)``: one sample's input as the encoder sees it, so that samples which differ
  only beyond that share their features;
- ``identity()``: tensors and values that the features follow from beside the sample.

``frozen_tensors`` runs the first over the samples of a training, which then is one of the head
alone. A fusion has the method ``frozen_parts()`` instead, such networks by the member that they
read, and takes "<member>.features" in the place of its inputs. The network that is measured, saved
and deployed stays whole.

Features lie in one folder a network (``store_key``: its frozen weights and its preprocessing), and
in it by the content of the samples, so that folds, parts of the data and other searches share them.
``values.bin`` holds vectors end to end, ``index.bin`` a record for each sample; both only grow,
the index last and under a lock, so that a writer that is killed leaves nothing half. ``LIMIT_MB``
bounds all folders together: the one that was used least recently goes first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from nas.files import cache_folder
from nas.task import InputError
from nas.training.batches import (
    DeviceInput,
    RaggedTensor,
    StreamedInput,
    Tensors,
    batch_inputs,
)

LIMIT_MB = 4096  # of all features together; NAS_FEATURES_MB sets another
AT_ONCE = 64  # samples that an encoder sees together
_RECORD = np.dtype([("digest", "S16"), ("start", "<i8"), ("length", "<i8")])


def folder() -> Path:
    """Where features are kept: NAS_FEATURES, or a folder of the user's cache."""
    return cache_folder("NAS_FEATURES", "features")


def limit_bytes() -> int:
    """The most that all features together may take on disk."""
    given = os.environ.get("NAS_FEATURES_MB") or LIMIT_MB
    try:
        return int(float(given) * 2**20)
    except ValueError:
        raise InputError(
            f"NAS_FEATURES_MB is a number of MiB, such as 4096, not {given!r}"
        ) from None


def store_key(network: nn.Module) -> str:
    """A hash of all that its features follow from but the sample: weights and preprocessing."""
    digest = hashlib.sha256()
    for value in network.identity():  # type: ignore[operator]
        if isinstance(value, Tensor):
            digest.update(str(tuple(value.shape)).encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()[:32]


def frozen_tensors(network: nn.Module, tensors: Tensors) -> Tensors:
    """The inputs of a training as the features of a frozen network, "features"; as they are where
    more than its head is trained, and where they are features already. Of a fusion those of its
    members that are frozen."""
    inputs, labels = dict(tensors[0]), tensors[1]
    for member, part in _parts(network).items():
        own = {
            name.rpartition(".")[2]: name for name in inputs if name.rpartition(".")[0] == member
        }
        own.pop("present", None)
        if "features" in own:
            continue
        device = next(part.parameters()).device
        given = {kind: inputs.pop(name) for kind, name in own.items()}
        values, lengths = features_of(part, given)
        offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
        found = RaggedTensor(values.to(device), offsets.to(device), lengths, "padded", "")
        inputs[f"{member}.features" if member else "features"] = found
    return inputs, labels


def _parts(network: nn.Module) -> dict[str, nn.Module]:
    """The networks whose features can be kept, by the member that they read; "" of a single one."""
    parts = getattr(network, "frozen_parts", None)
    if parts is not None:
        return dict(parts())
    return {"": network} if is_frozen(network) else {}


def frozen_fold(network: nn.Module, fold: tuple[Tensors, Tensors]) -> tuple[Tensors, Tensors]:
    """``frozen_tensors`` of what a network is trained on and of what it is scored by."""
    train, val = fold
    return frozen_tensors(network, train), frozen_tensors(network, val)


def is_frozen(network: nn.Module) -> bool:
    """Whether the features of a network can be kept: its head alone is trained."""
    return bool(getattr(network, "frozen", False)) and hasattr(network, "fixed")


@torch.no_grad()
def features_of(network: nn.Module, inputs: Mapping[str, DeviceInput]) -> tuple[Tensor, Tensor]:
    """The features of all samples, end to end (total, width) on the CPU, and their lengths (n,).

    What is not on disk yet is computed, and kept there where there is room; a disk that is full or
    may not be written costs the time to compute it again.
    """
    store = Store(folder() / store_key(network), int(network.width))  # type: ignore[arg-type]
    digests, sizes = _contents(network, inputs)

    def condensed(values: np.ndarray) -> Tensor:
        """A copy, so that a pooling which learns nothing lets a sample's tokens go at once."""
        found: Tensor = network.condensed(torch.from_numpy(values))  # type: ignore[operator]
        return found.clone()

    known = {digest: condensed(values) for digest, values in store.read(digests)}
    # Samples of similar length together, as padding costs as much as what is real.
    missing = sorted({d: i for i, d in enumerate(digests) if d not in known}.values(),
                     key=sizes.__getitem__)  # fmt: skip
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    for start in range(0, len(missing), AT_ONCE):
        rows = torch.tensor(missing[start : start + AT_ONCE])
        x, lengths = network.fixed(**batch_inputs(inputs, rows, rows.to(device)))  # type: ignore[operator]
        fresh = {
            digests[row]: part[:length].cpu().numpy()
            for row, part, length in zip(rows.tolist(), x.float(), lengths.tolist(), strict=True)
        }
        store.add(fresh)
        known |= {digest: condensed(values) for digest, values in fresh.items()}
    network.train(was_training)
    parts = [known[d] for d in digests]
    return torch.cat(parts), torch.tensor([len(part) for part in parts])


def _contents(
    network: nn.Module, inputs: Mapping[str, DeviceInput]
) -> tuple[list[bytes], list[int]]:
    """A hash of each sample as the encoder sees it, over all its inputs, and its length."""
    see: Callable[[str, np.ndarray], np.ndarray] = network.seen  # type: ignore[assignment]
    columns: list[list[bytes]] = []
    sizes: list[int] = []
    for name, value in inputs.items():
        if isinstance(value, (RaggedTensor, StreamedInput)) and value.layout is not None:
            sizes = value.lengths.tolist()
        columns.append([see(name, sample).tobytes() for sample in _samples(name, value)])
    digests = [hashlib.md5(b"|".join(parts), usedforsecurity=False).digest()
               for parts in zip(*columns, strict=True)]  # fmt: skip
    # NumPy's byte strings end before zeros.
    digests = [d if not d.endswith(b"\0") else d[:-1] + b"\1" for d in digests]
    return digests, sizes or [1] * len(digests)


def _samples(name: str, value: DeviceInput) -> Iterator[np.ndarray]:
    """The samples of an input, one after the other."""
    if isinstance(value, StreamedInput):
        for rows in torch.split(torch.arange(len(value)), AT_ONCE):
            yield from _samples(name, value.read(rows))
    elif isinstance(value, RaggedTensor):
        values = value.values.cpu().numpy()
        yield from (values[a:b] for a, b in pairwise(value.offsets.tolist()))
    elif isinstance(value, Tensor):
        yield from value.cpu().numpy()
    else:
        raise TypeError(f"{name} belongs to all samples together")


class Store:
    """The features of one network on disk."""

    def __init__(self, place: Path, width: int) -> None:
        self.place, self.width = place, width
        self.writes = True
        try:
            place.mkdir(parents=True, exist_ok=True)
            os.utime(place)  # used now
        except OSError:
            self.writes = False

    def read(self, digests: list[bytes]) -> Iterator[tuple[bytes, np.ndarray]]:
        """Those of the samples that are there, one after the other."""
        index = self._index()
        yield from self._entries(index[np.isin(index["digest"], np.array(digests, "S16"))])

    def add(self, fresh: Mapping[bytes, np.ndarray]) -> None:
        """Append features; what another worker has added meanwhile is left out."""
        needed = sum(values.nbytes for values in fresh.values())
        if not self.writes:
            return
        try:
            if not self._make_room(needed):
                self.writes = False  # nor will there be room for the next ones
                return
            with self._locked():
                os.utime(self.place)  # in use, so that another worker removes it last
                known = set(self._index()["digest"])
                new = {d: v for d, v in fresh.items() if d not in known}
                self._append(new)
        # A full disk, or another worker makes room at the same time; what is there stays whole.
        except OSError:
            self.writes = False

    def _append(self, new: Mapping[bytes, np.ndarray]) -> None:
        row = 4 * self.width
        with (self.place / "values.bin").open("ab") as values:
            # Behind whatever a writer has left that did not get to the index.
            start = -(-values.tell() // row)
            values.write(b"\0" * (start * row - values.tell()))
            records = []
            for digest, part in new.items():
                values.write(np.ascontiguousarray(part, "<f4").tobytes())
                records.append((digest, start, len(part)))
                start += len(part)
            values.flush()
        with (self.place / "index.bin").open("r+b" if self._has_index else "wb") as index:
            whole = self._whole(index)
            index.truncate(whole)
            index.seek(whole)
            index.write(np.array(records, _RECORD).tobytes())

    @property
    def _has_index(self) -> bool:
        return (self.place / "index.bin").is_file()

    def _whole(self, index: BinaryIO) -> int:
        """Bytes of the records that are whole."""
        size = index.seek(0, os.SEEK_END)
        return size - size % _RECORD.itemsize

    def _index(self) -> np.ndarray:
        try:
            content = (self.place / "index.bin").read_bytes()
        except OSError:
            return np.empty(0, _RECORD)
        return np.frombuffer(content[: len(content) - len(content) % _RECORD.itemsize], _RECORD)

    def _entries(self, index: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
        if not len(index):
            return
        try:
            values = np.memmap(self.place / "values.bin", "<f4", mode="r")
        except (OSError, ValueError):
            return
        for digest, start, length in index.tolist():
            part = values[start * self.width : (start + length) * self.width]
            if len(part) == length * self.width:  # else the file was cut
                yield digest, np.array(part).reshape(length, self.width)

    def _make_room(self, needed: int) -> bool:
        """Whether so many bytes more are within the limit; other networks' features are removed
        for them, those first that were used least recently."""
        limit, own = limit_bytes(), _size(self.place)[0] + needed
        if own > limit:
            return False
        others = [place for place in self.place.parent.iterdir() if place != self.place]
        sizes = {place: _size(place) for place in others}
        total = own + sum(size for size, _ in sizes.values())
        for place in sorted(sizes, key=lambda place: sizes[place][1]):
            if total <= limit:
                break
            shutil.rmtree(place, ignore_errors=True)
            total -= 0 if place.exists() else sizes[place][0]
        return total <= limit

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.place / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _size(place: Path) -> tuple[int, float]:
    """Bytes of the files in a folder, and when it was used last; 0 of what is another user's, no
    folder, or removed at this moment."""
    try:
        used = place.stat().st_mtime
        return sum(f.stat().st_size for f in place.iterdir() if f.is_file()), used
    except OSError:
        return 0, 0.0
