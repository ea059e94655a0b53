"""The energy that a machine reports while a network is trained on it, and how busy its GPU is.

Sources: the counters of GPUs (NVML, from Volta on) and those of CPU packages (RAPL, in Linux's
powercap; most systems let only root read them). They count the whole device, other work included.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

RAPL = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"
Counter = tuple[Callable[[], float], float]  # joules so far, and where they begin anew


class Energy(pl.Callback):
    """Adds up the energy of a training: of its GPUs and of the CPU packages of its machine.

    Where a GPU trains and does not report, nothing is known, and likewise of several machines.
    ``spent_wh`` are watt-hours by source, "GPU" and "CPU"; empty where nothing is known.
    """

    def __init__(self) -> None:
        self._counters: dict[str, list[Counter]] = {}
        self._last: dict[str, list[float]] = {}
        self._joules: dict[str, float] = {}

    @property
    def spent_wh(self) -> dict[str, float]:
        return {source: joules / 3600 for source, joules in self._joules.items()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        counters = {"CPU": cpu_counters()}
        if on_gpu:
            counters["GPU"] = gpu_counters(trainer.device_ids)
        if trainer.num_nodes > 1 or (on_gpu and not counters["GPU"]):
            counters = {}
        self._counters = {source: found for source, found in counters.items() if found}
        self._last = self._now()

    def _now(self) -> dict[str, list[float]]:
        """What the counters say. Where one fails nothing is known: what was counted until then is a
        part only."""
        try:
            return {s: [read() for read, _ in found] for s, found in self._counters.items()}
        except OSError:
            self._counters, self._joules = {}, {}
            return {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = self._now()
        for source, counters in self._counters.items():
            each = zip(now[source], self._last[source], counters, strict=True)
            spent = ((after - before) % again for after, before, (_, again) in each)
            self._joules[source] = self._joules.get(source, 0.0) + sum(spent)
        self._last = now

    on_fit_end = on_train_epoch_end

    def state_dict(self) -> dict[str, Any]:
        return dict(self._joules)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._joules = {source: float(joules) for source, joules in state_dict.items()}


def cpu_counters(folder: Path = RAPL) -> list[Counter]:
    """A counter for each CPU package; none where one cannot be read.

    They begin anew within an hour at full load, so that they are read every epoch
    (https://docs.kernel.org/power/powercap/powercap.html).
    """
    found = []
    for zone in sorted(folder.glob("intel-rapl:*")):  # of AMD's CPUs too
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            again = int((zone / "max_energy_range_uj").read_text()) / 1e6
            read = _microjoules(zone / "energy_uj")
            read()
        except (OSError, ValueError):
            return []
        found.append((read, again))
    return found


def _microjoules(file: Path) -> Callable[[], float]:
    return lambda: int(file.read_text()) / 1e6


def gpu_counters(indices: Iterable[int]) -> list[Counter]:
    """A counter for each of these CUDA devices; none where one does not report."""
    found: list[Counter] = []
    for index in indices:
        if (gpu := _nvml(index)) is None:
            return []
        joules = _millijoules(*gpu)
        try:
            joules()
        except OSError:
            return []
        found.append((joules, 2**64 / 1e3))
    return found


def gpu_use(index: int) -> Callable[[], float] | None:
    """How busy a CUDA device has been in the last second, 0 to 1, by whatever process; None where
    it does not report."""
    gpu = _nvml(index)
    if gpu is None:
        return None
    library, handle = gpu

    def read() -> float:
        rates = (ctypes.c_uint * 2)()  # of the processor and of the memory, in percent
        if code := library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(rates)):
            raise OSError(f"NVML returned {code}")
        return float(rates[0]) / 100

    try:
        read()
    except OSError:
        return None
    return read


def _nvml(index: int) -> tuple[Any, ctypes.c_void_p] | None:
    """NVIDIA's library and a CUDA device in it; None where there is none."""
    try:
        library = ctypes.CDLL(NVML)
    except OSError:
        return None
    if library.nvmlInit_v2():
        return None
    name = f"GPU-{torch.cuda.get_device_properties(index).uuid}".encode()
    handle = ctypes.c_void_p()
    if library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)):
        return None
    return library, handle


def _millijoules(library: Any, handle: ctypes.c_void_p) -> Callable[[], float]:
    def read() -> float:
        value = ctypes.c_ulonglong()
        if code := library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(value)):
            raise OSError(f"NVML returned {code}")
        return value.value / 1e3

    return read
