"""The end of a folder's preprocess.py: files to what the network reads, batch by batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nas.data.ragged import Input, Ragged, Whole
from nas.data.readers import reader
from nas.data.samples import read_npz
from nas.task import Column, DataProfile, Member, SeriesForm


@cache
def settings() -> dict[str, Any]:
    """What was learnt of the training data."""
    file = Path(__file__).with_name("preprocess.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def load(source: Path) -> tuple[dict[str, Input], list[str]]:
    """The inputs of all samples of a file or folder, and their names where each is a file."""
    read_by = reader(settings()["modality"])
    opened = read_npz(source, predict=True) if source.suffix.lower() in ARCHIVES else source
    found = read_by.load_inputs(opened, settings()["as_written"])
    samples = getattr(found, "inputs", found)
    names: list[str] = []
    if (settings()["profile"]["series"] or {}).get("sequence"):
        names = [name for name, _ in found.files]
    elif isinstance(samples, list) and isinstance(samples[0], Path):
        base = source if source.is_dir() else source.parent
        names = [str(p.relative_to(base) if p.is_relative_to(base) else p) for p in samples]
    return read_by.encode(samples, profile(settings()["profile"])), names


ARCHIVES: tuple[str, ...] = (".npz",)  # of arrays x; not where an archive is a sample itself


def profile(about: dict[str, Any]) -> DataProfile:
    """The record that preprocess.json holds."""

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    plain = {name: tuples(value) for name, value in about.items()}
    plain["columns"] = tuple(
        Column(**{name: tuples(value) for name, value in column.items()})
        for column in about["columns"]
    )
    plain["members"] = {
        name: Member(member["modality"], profile(member["profile"]))
        for name, member in about["members"].items()
    }
    plain["series"] = series_form(about["series"])
    plain["inputs"] = {name: tuple(shape) for name, shape in about["inputs"].items()}
    return DataProfile(**plain)


def series_form(about: dict[str, Any] | None) -> SeriesForm | None:
    """How sequences of numbers are coded."""
    if about is None:
        return None
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about.items()}
    return SeriesForm(**plain)


def batches(inputs: dict[str, Input], size: int) -> Iterator[dict[str, np.ndarray]]:
    """What the network is called with, ``size`` samples at a time: samples of different lengths
    are padded with zeros, or lie end to end beside their lengths."""
    count = max(len(x) for x in inputs.values() if not isinstance(x, Whole))
    if any(isinstance(x, Whole) for x in inputs.values()):
        size = count  # they share the graph
    for start in range(0, count, size):
        yield _batch(inputs, range(start, min(start + size, count)))


def _batch(inputs: dict[str, Input], rows: Sequence[int]) -> dict[str, np.ndarray]:
    batch: dict[str, np.ndarray] = {}
    starts: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        if isinstance(value, Whole):
            batch[name] = value.values
        elif not isinstance(value, Ragged):
            batch[name] = value[rows[0] : rows[-1] + 1]
        else:
            parts = [value[row] for row in rows]
            lengths = np.array([len(part) for part in parts])
            if value.layout == "padded":
                shape = (len(parts), max(int(lengths.max()), 1), *value.values.shape[1:])
                padded = np.zeros(shape, value.values.dtype)
                for place, part in zip(padded, parts, strict=True):
                    place[: len(part)] = part
                batch[name], batch[f"{name}_length"] = padded, lengths
                continue
            starts[name] = np.cumsum(lengths) - lengths
            joined = np.concatenate(parts)
            if value.into:
                joined = joined + np.repeat(starts[value.into], lengths)[:, None]
            elif name.rpartition(".")[2] == "nodes":
                batch[f"{name}_length"] = lengths
            batch[name] = joined
    return {
        name: value.astype(np.int64) if value.dtype == np.int32 else np.array(value)
        for name, value in batch.items()
    }
