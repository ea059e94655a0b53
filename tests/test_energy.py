"""The energy of a training, from counters that begin anew, of devices that may not report any."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas.training import energy, evaluator
from nas.training.energy import Energy, cpu_counters, gpu_counters, gpu_use
from nas.training.evaluator import _Use


def package(folder: Path, number: int, joules: float, name: str = "package-0") -> Path:
    """A zone of Linux's powercap."""
    zone = folder / f"intel-rapl:{number}"
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text("1000000000\n")  # 1 kJ
    (zone / "energy_uj").write_text(f"{int(1e6 * joules)}\n")
    return zone


def trainer(device: str = "cpu", nodes: int = 1) -> Any:
    root = SimpleNamespace(root_device=SimpleNamespace(type=device))
    return SimpleNamespace(strategy=root, device_ids=[0], num_nodes=nodes)


def test_the_energy_of_all_packages_is_added_up_where_counters_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy.cpu_counters, "__defaults__", (tmp_path,))
    package(tmp_path, 0, 100)
    package(tmp_path, 1, 900, "package-1")
    package(tmp_path, 2, 5, "psys")  # the whole system, which holds the packages
    meter, of = Energy(), trainer()
    meter.on_fit_start(of, None)  # type: ignore[arg-type]
    package(tmp_path, 0, 460)
    package(tmp_path, 1, 260, "package-1")  # past 1 kJ
    package(tmp_path, 2, 500, "psys")
    meter.on_train_epoch_end(of, None)  # type: ignore[arg-type]
    assert meter.spent_wh == {"CPU": pytest.approx((360 + 360) / 3600)}
    package(tmp_path, 0, 820)
    later = Energy()
    later.load_state_dict(meter.state_dict())
    meter.on_fit_end(of, None)  # type: ignore[arg-type]
    assert meter.spent_wh == {"CPU": pytest.approx(0.3)}
    assert later.spent_wh == {"CPU": pytest.approx(0.2)}  # a training that continues


def test_nothing_is_known_where_a_counter_cannot_be_read(tmp_path: Path) -> None:
    assert cpu_counters(tmp_path / "absent") == []
    package(tmp_path, 0, 1)
    (package(tmp_path, 1, 1) / "energy_uj").unlink()
    assert cpu_counters(tmp_path) == []


class Nvml:
    """A driver's library; ``millijoules`` is None for a GPU without the counter."""

    def __init__(self, millijoules: int | None) -> None:
        self.millijoules, self.asked = millijoules, b""

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:  # noqa: N802
        self.asked = name
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:  # noqa: N802
        if self.millijoules is None:
            return 3  # NVML_ERROR_NOT_SUPPORTED
        value._obj.value = self.millijoules
        return 0

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:  # noqa: N802
        rates._obj[0], rates._obj[1] = 63, 20
        return 0 if self.millijoules is not None else 3


def test_a_gpu_that_reports_is_counted_and_one_that_does_not_leaves_nothing_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy.cpu_counters, "__defaults__", (tmp_path,))
    package(tmp_path, 0, 100)
    uuid = SimpleNamespace(uuid="1a-2b")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: uuid)
    driver = Nvml(7_000)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    meter = Energy()
    meter.on_fit_start(trainer("cuda"), None)  # type: ignore[arg-type]
    driver.millijoules = 3_607_000
    package(tmp_path, 0, 136)
    meter.on_fit_end(trainer("cuda"), None)  # type: ignore[arg-type]
    assert driver.asked == b"GPU-1a-2b"
    assert meter.spent_wh == {"CPU": pytest.approx(0.01), "GPU": pytest.approx(1.0)}
    driver.millijoules = None
    assert gpu_counters([0]) == []
    for of in (trainer("cuda"), trainer("cpu", nodes=2)):
        unknown = Energy()
        unknown.on_fit_start(of, None)  # type: ignore[arg-type]
        unknown.on_fit_end(of, None)  # type: ignore[arg-type]
        assert unknown.spent_wh == {}


def test_a_gpu_says_how_busy_it_is_or_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    uuid = SimpleNamespace(uuid="1a-2b")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: uuid)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Nvml(0))
    read = gpu_use(0)
    assert read is not None
    assert read() == 0.63
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Nvml(None))
    assert gpu_use(0) is None


def test_a_gpu_that_stops_reporting_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its driver is restarted: of the energy nothing is known then."""
    monkeypatch.setattr(energy.cpu_counters, "__defaults__", (tmp_path,))
    uuid = SimpleNamespace(uuid="1a-2b")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: uuid)
    driver = Nvml(7_000)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    meter, use, of = Energy(), _Use(), trainer("cuda")
    module: Any = SimpleNamespace(device=SimpleNamespace(type="cuda", index=0))
    meter.on_fit_start(of, module)
    use.on_train_start(of, module)
    use.on_train_batch_end(of, module)
    meter.on_train_epoch_end(of, module)
    assert meter.spent_wh == {"GPU": 0.0}
    driver.millijoules = None
    monkeypatch.setattr(evaluator, "USE_S", 0.0)
    for _ in range(2):
        use.on_train_batch_end(of, module)
        meter.on_train_epoch_end(of, module)
    assert use.fraction == 0.63
    assert meter.spent_wh == {}
