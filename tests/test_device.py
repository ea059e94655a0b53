"""What a worker asks of its device, of a GPU on a machine without one."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nas import machine
from nas import recipe as recipes
from nas.candidate import Candidate, Cost, Reason
from nas.data import Dataset
from nas.driver import make_task
from nas.family import load_families
from nas.options import SearchOptions
from nas.task import Budget, Task, UsageError
from nas.testing import example_datasets
from nas.train import proof
from nas.training import device, evaluator, fit
from nas.training.batches import part_tensors, resident_limit
from nas.training.fit import fit_proxy, folds
from nas.training.proxy import Proxy

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
GIB = 2**30


class FakeGpu:
    """Of 8 GiB, as torch.cuda describes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, bf16: bool = True) -> None:
        self.free, self.fraction = 8 * GIB, 1.0
        self.allocated = self.reserved = self.peak = 0
        monkeypatch.setattr(device, "_fraction", 1.0)
        for name, value in {
            "is_bf16_supported": lambda **_: bf16,
            "mem_get_info": lambda *_: (self.free, 8 * GIB),
            "memory_allocated": lambda *_: self.allocated,
            "memory_reserved": lambda *_: self.reserved,
            "max_memory_reserved": lambda *_: self.peak,
            "reset_peak_memory_stats": lambda *_: setattr(self, "peak", self.reserved),
            "set_per_process_memory_fraction": lambda part: setattr(self, "fraction", part),
            "synchronize": lambda *_: None,
            "empty_cache": lambda: None,
        }.items():
            monkeypatch.setattr(f"torch.cuda.{name}", value)


def small_task() -> tuple[Task, Dataset]:
    dataset = next(iter(example_datasets("tabular").values()))
    return make_task(dataset, budget=Budget(None, 1), device="cpu", epochs=1), dataset


def small_worker() -> tuple[evaluator.Evaluator, Candidate]:
    """And a candidate for it."""
    task, dataset = small_task()
    config = load_families()["mlp"].baseline(task)
    return evaluator.Evaluator(task, dataset), Candidate(0, "mlp", config, 1, epochs=1)


@pytest.fixture
def precision_kept() -> Any:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    torch.use_deterministic_algorithms(False)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_gpu_without_bfloat16_trains_in_float32(
    bf16: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeGpu(monkeypatch, bf16=bf16)
    assert device.precision("cuda") == expected
    assert device.precision("cpu") == "32-true"


@pytest.mark.usefixtures("precision_kept")
def test_a_worker_takes_no_more_than_its_share_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    device.prepare("cuda", 0.25)
    assert gpu.fraction == 0.25
    assert torch.get_float32_matmul_precision() == "high"
    gpu.allocated = GIB // 2
    assert device.available_mb("cuda") == 1536


@pytest.mark.usefixtures("precision_kept")
@pytest.mark.parametrize(
    ("free", "allocated", "reserved", "expected"),
    [(8.0, 0.0, 0.0, 0.5), (8.0, 1.5, 1.5, 0.125), (0.25, 1.0, 1.25, 0.125), (0.0, 2.0, 2.0, 0.0)],
    ids=["nothing held", "its data are there", "a neighbour", "a full share"],
)
def test_data_that_stay_on_a_gpu_fit_into_the_share_of_a_worker(
    free: float,
    allocated: float,
    reserved: float,
    expected: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu(monkeypatch)
    device.prepare("cuda", 0.25)
    gpu.free, gpu.allocated, gpu.reserved = (int(GIB * n) for n in (free, allocated, reserved))
    assert resident_limit("cuda") == GIB * expected


@pytest.mark.usefixtures("precision_kept")
@pytest.mark.parametrize(
    ("free_mb", "peak_mb", "needed_mb", "expected"),
    [
        (512, 1024, 1000, True),
        (512, 1024, 2000, False),  # it would not have fitted
        (512, 2000, 1000, False),  # this process has had all of its share
        (7000, 1332, 1000, False),  # nobody else holds anything: one block was too large
    ],
)
def test_a_neighbour_holds_memory_only_where_less_than_a_share_is_left(
    free_mb: int, peak_mb: int, needed_mb: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(monkeypatch)
    device.prepare("cuda", 0.25)
    gpu.free, gpu.reserved, gpu.peak = free_mb * 2**20, 1024 * 2**20, peak_mb * 2**20
    assert device.neighbour_holds("cuda", needed_mb) is expected


def test_the_memory_of_an_earlier_training_says_nothing_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = FakeGpu(monkeypatch)
    gpu.peak = 8 * GIB
    device.forget_peak("cuda")
    assert gpu.peak == 0
    worker, candidate = small_worker()
    begun: list[str] = []
    monkeypatch.setattr(device, "forget_peak", begun.append)
    worker.evaluate(candidate.to_dict(), lambda *_: "")
    assert begun == ["cpu"]


def test_what_a_worker_keeps_on_a_gpu_is_missing_to_its_next_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker, _ = small_worker()
    gpu = FakeGpu(monkeypatch)
    worker.device = "cuda"
    assert worker._shortage(5_000) == ""
    gpu.allocated = 4 * GIB
    assert worker._shortage(5_000) == "it needs 5000 MiB, 4096 MiB are available"


def test_memory_is_predicted_for_inputs_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that runs on them may take other ways on a GPU."""
    worker, candidate = small_worker()
    worker.device = "meta"
    seen: set[str] = set()

    def predicted(build: Any, batch: Any, *_: Any) -> float:
        seen.update(value.device.type for value in batch(2).values())
        return 1.0

    monkeypatch.setattr(evaluator.cost, "training_mb", predicted)
    worker._training_mb(candidate)
    assert seen == {"meta"}


@pytest.mark.parametrize(
    ("workers", "gpus", "part"), [(3, 2, 1 / 2), (4, 2, 1 / 2), (5, 2, 1 / 3), (1, 2, 1.0)]
)
def test_workers_on_the_fullest_gpu_share_its_memory(
    workers: int, gpus: int, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "visible_gpus", lambda _: (list("01")[:gpus], 60_000.0))
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        "nas.search.local.LocalWorkers", lambda count, name, settings, *_: given.update(settings)
    )
    with machine.open_machine(SearchOptions()) as place:
        budget = place.room.budget(Budget(60), workers)
        run: Any = SimpleNamespace(task=SimpleNamespace(budget=budget), folder=Path("run"))
        place.start(run)
    assert budget.memory_mb == pytest.approx(60_000 * part)
    assert budget.gpus == min(1.0, gpus / workers), "of what a worker computes on"
    assert given["part"] == part
    prepared: list[float] = []
    monkeypatch.setattr(device, "prepare", lambda _, part, deterministic: prepared.append(part))
    evaluator.Evaluator(*small_task(), part=given["part"])
    assert prepared == [part]


@pytest.mark.parametrize(
    ("named", "count", "names"),
    [("MIG-a,MIG-b", 1, ["MIG-a", "MIG-b"]), ("3,5", 2, ["3", "5"]), ("3,-1,5", 1, ["3"])],
)
def test_every_part_of_a_gpu_is_a_device(
    named: str, count: int, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA shows a process the first of them alone."""
    monkeypatch.setattr(machine, "_torch_is_built_for_gpus", lambda: True)
    monkeypatch.setattr(machine, "_ask_torch", lambda: (count, 20_000.0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert machine.visible_gpus("auto") == (names, 20_000.0)


@pytest.mark.usefixtures("precision_kept")
def test_deterministic_on_a_gpu_asks_for_all_that_makes_it_true(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch)
    device.prepare("cuda", 1.0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_device_that_gives_nothing_but_errors_does_not_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeGpu(monkeypatch)

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    assert device.works("cpu")
    monkeypatch.setattr("torch.cuda.synchronize", broken)
    assert not device.works("cuda")


@pytest.mark.parametrize(("neighbour", "reason"), [(True, Reason.LOST), (False, Reason.OOM)])
def test_memory_that_a_neighbour_holds_is_no_verdict_on_the_candidate(
    neighbour: bool, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, candidate = small_worker()

    def refused(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(evaluator, "fit_proxy", refused)
    monkeypatch.setattr(device, "neighbour_holds", lambda *_: neighbour)
    end = worker.evaluate(candidate.to_dict(), lambda *_: "")
    assert end["reason"] == reason


SLURM = [
    {},
    {"SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "1"},
    {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "4"},
]


@pytest.mark.parametrize("variables", SLURM)
def test_a_proxy_trains_alone_inside_a_job_of_several_tasks(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would raise, or wait for the others."""
    job = {"SLURM_NTASKS": "8", "SLURM_JOB_NAME": "nas", "SLURM_JOB_ID": "1", "SLURM_NNODES": "1"}
    for name, value in (job | variables).items():
        monkeypatch.setenv(name, value)
    task, dataset = small_task()
    module = Proxy("mlp", load_families()["mlp"].baseline(task), task)
    trainer = fit_proxy(module, *folds(dataset, task)[0], 1, 0, [])
    assert trainer.world_size == 1


def test_a_recipe_says_in_which_precision_its_proxy_was_trained() -> None:
    task, _ = small_task()
    config = load_families()["mlp"].baseline(task)
    candidate = Candidate(0, "mlp", config, 1, epochs=1, metrics={task.quality.metric: 0.9})
    on_gpu = replace(candidate, cost=Cost(precision="bf16-mixed"))
    for each, expected in ((candidate, "32-true"), (on_gpu, "bf16-mixed")):
        made = recipes.make(each, task, {"source": "x"}, {})
        assert made["trainer"]["precision"] == made["provenance"]["proxy"]["precision"] == expected


def test_a_worker_notes_its_precision() -> None:
    worker, candidate = small_worker()
    end = worker.evaluate(candidate.to_dict(), lambda *_: "")
    assert Candidate.from_dict(end).cost.precision == "32-true"


@pytest.mark.ray
@pytest.mark.parametrize("grows", [False, True])
def test_a_cluster_without_nodes_is_taken_where_it_grows(
    grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoscaling group that is at zero starts its nodes for the first calls."""
    from nas.search import cluster

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(cluster, "nodes", list)
    refused = pytest.raises(UsageError, match="give --workers for a cluster that grows")
    with nullcontext() if grows else refused:
        assert cluster.Cluster(gpus_per_trial=0.25, grows=grows).workers == 0


def small_module() -> tuple[Any, Any]:
    dataset = next(iter(example_datasets("tabular").values()))
    made = Task("tabular", dataset.targets, dataset.profile).with_objectives()
    rows = dataset.parts["train"]
    config = load_families("tabular")["mlp"].baseline(made)
    return Proxy("mlp", dict(config), made), part_tensors(dataset, rows, "cpu")


@pytest.mark.parametrize(
    ("capable", "half_s", "expected"),
    [
        (True, 0.5, "bf16-mixed"),
        (True, 0.95, "32-true"),
        (True, math.inf, "32-true"),
        (False, 0.5, "32-true"),
    ],
    ids=["faster", "hardly faster", "no operator for it", "a CPU that emulates it"],
)
def test_a_cpu_trains_in_bfloat16_where_that_is_faster(
    capable: bool, half_s: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, train = small_module()
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: capable)
    monkeypatch.setattr(fit, "_step_s", lambda module, batch, half: half_s if half else 1.0)
    assert fit.faster_precision(module, train, 8) == expected


def test_deciding_on_a_precision_leaves_the_network_and_the_next_draws_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "cpu_has_bfloat16", lambda: True)
    module, train = small_module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(3)
    fit.faster_precision(module, train, 8)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))
    assert all(torch.equal(before[name], v) for name, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_an_operator_without_bfloat16_is_no_error_but_one_without_float32_is() -> None:
    def only_whole(batch: Any, index: int) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise NotImplementedError("not implemented for 'BFloat16'")
        return torch.ones((), requires_grad=True)

    module: Any = SimpleNamespace(training_step=only_whole)
    assert fit._step_s(module, ({}, {}), half=True) == math.inf
    assert fit._step_s(module, ({}, {}), half=False) < 1.0


def test_a_repeated_proxy_has_the_arithmetic_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task, dataset), (_, candidate) = small_task(), small_worker()
    dataset.save(tmp_path / "data")
    measured = replace(candidate, metrics={task.quality.metric: 0.9})
    recipe = recipes.make(measured, task, {"source": str(tmp_path / "data")}, {})
    prepared: list[str] = []
    monkeypatch.setattr(proof, "prepare", prepared.append)
    proof.proxy_again(recipe, tmp_path / "recipe.yaml", 1)
    assert prepared == ["cpu"]
