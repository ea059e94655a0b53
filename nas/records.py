"""What the JSON files of a run hold, beside its task: run.json, lr.json, baselines.json, layers
and the files of ``nas latency``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from nas.candidate import Latency
from nas.options import ReadOptions, SearchOptions
from nas.space import Config, Space
from nas.task import InputError, JsonRecord


@dataclass(frozen=True)
class RunRecord(JsonRecord):
    """run.json: the options of the search, the spaces of its families, the arguments of
    ``nas.data.read`` that give its data again, and the versions that it began with."""

    options: SearchOptions
    spaces: dict[str, Space]
    source: dict[str, Any]
    versions: dict[str, str]
    files: str = ""  # ``nas.run.stamp`` of the data's files

    def __post_init__(self) -> None:
        if not isinstance(self.source.get("source"), str):
            raise InputError("source.source is not the path of the data")
        ReadOptions.from_dict({k: v for k, v in self.source.items() if k != "source"})
        if not self.spaces:
            raise InputError("spaces is empty")

    def written(self) -> str:
        """The content of the file, with those options alone that a resumed search keeps."""
        return json.dumps(self.to_dict() | {"options": self.options.kept()})


@dataclass(frozen=True)
class Bounds(JsonRecord):
    """The learning rates that follow from a range test, and the rules that set them."""

    low: float
    high: float
    default: float
    why: tuple[str, ...]


@dataclass(frozen=True)
class RateTest(JsonRecord):
    """One family in lr.json: its range test (``nas.training.lr.RangeTest``), if there was one,
    the bounds that follow, and a note where they are the family's own."""

    SPARSE: ClassVar[bool] = True

    bounds: Bounds
    rates: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    smooth: tuple[float, ...] = ()
    steepest: float | None = None
    lowest: float | None = None
    diverges: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Baseline(JsonRecord):
    """One simple model in baselines.json: its metrics on the validation part, what it costs in use,
    the samples that it was fitted to, the seconds that took, and the error where it could not be
    fitted."""

    SPARSE: ClassVar[bool] = True

    name: str
    metrics: dict[str, float]
    costs: dict[str, float] = field(default_factory=dict)  # latency_ms, spread_ms, params
    samples: int = 0
    seconds: float = 0.0
    error: str = ""

    def __post_init__(self) -> None:
        for name, value in {**self.metrics, **self.costs}.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")


@dataclass(frozen=True)
class LayerRow(JsonRecord):
    """One layer of a candidate: its name in the network, its class, the shape of its output
    without the batch, how many parameters it owns, the places of the layers from which shortcuts
    end behind it (-1: the input), and of its training, by step, the norms of its gradient and the
    fraction of its units that were dead (empty where none was, or that is unknown)."""

    name: str
    type: str
    output: tuple[int, ...] = ()
    params: int = 0
    skips: tuple[int, ...] = ()
    gradients: tuple[tuple[int, float], ...] = ()
    dead: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if min(self.params, *self.output, 0) < 0:
            raise ValueError("params and output must not be negative")


@dataclass(frozen=True)
class Device(JsonRecord):
    """The device of a file of ``nas latency``, and how it runs networks there."""

    name: str
    kind: str
    backend: str
    threads: int
    processor: str = ""
    torch: str = ""


@dataclass(frozen=True)
class Measured(JsonRecord):
    """What ``nas latency`` has measured of one candidate, by batch size, or why it could not."""

    family: str
    config: Config
    latency: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class LatencyFile(JsonRecord):
    """A file of ``nas latency``: the first of its ``batches`` ranks the candidates."""

    device: Device
    batches: tuple[int, ...]
    candidates: dict[str, Measured]
    inputs: str = ""

    def __post_init__(self) -> None:
        if not self.batches:
            raise InputError("batches is empty")
        for measured in self.candidates.values():
            for figures in measured.latency.values():
                self._latency(figures)

    @property
    def measured_on(self) -> str:
        """The device in a few words."""
        device = self.device
        return f"{device.name} ({device.kind}, {device.backend}, batch {self.batches[0]})"

    def latency(self, number: int) -> Latency | None:
        """The latency of a candidate; None where it was not measured at the first batch size."""
        measured = self.candidates.get(str(number))
        figures = measured.latency.get(str(self.batches[0])) if measured else None
        return None if figures is None else self._latency(figures)

    def _latency(self, figures: Mapping[str, Any]) -> Latency:
        setting = {"batch": self.batches[0], "threads": self.device.threads}
        return Latency.from_dict({**figures, **setting, "device": self.measured_on})
