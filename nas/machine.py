"""Where the workers of a search run: this machine's cores or GPUs, or a Ray cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nas.data import Dataset
from nas.options import SearchOptions
from nas.task import Budget, InputError, UsageError

if TYPE_CHECKING:
    from nas.run import Run
    from nas.search.workers import Workers

# A proxy seldom fills a GPU.
_WORKERS_PER_GPU = 2


@dataclass(frozen=True)
class Machine:
    """A place for workers, and how to start them there."""

    device: str  # "cpu" or "cuda"
    room: int  # the number of workers that fit at once
    part: Callable[[int], tuple[float, float]]  # workers -> CPUs and GPUs of each
    start: Callable[[Run], Workers]

    def budget(self, limits: Budget, workers: int | None) -> Budget:
        """``limits`` with the number of workers (default: as many as fit) and what each of them
        gets of the machine."""
        if limits.gpu_hours is not None and self.device == "cpu":
            raise UsageError("a search on the CPU spends no GPU-hours; give CPU-hours")
        workers = workers or self.room
        cpus, gpus = self.part(workers)
        return replace(limits, workers=workers, cpus=cpus, gpus=gpus)


@contextmanager
def open_machine(options: SearchOptions) -> Iterator[Machine]:
    """This machine, or the Ray cluster of ``options`` while it is in use."""
    if options.executor == "ray":
        with _ray(options) as machine:
            yield machine
        return
    if (options.address, options.cpus_per_trial, options.gpus_per_trial) != (None, None, None):
        raise UsageError(
            "--address, --cpus-per-trial and --gpus-per-trial are for Ray: give --executor ray"
        )
    visible = visible_gpus(options.device)

    def start(run: Run) -> Workers:
        from nas.search.local import LocalWorkers

        evaluator, settings = "nas.training.evaluator:from_folder", {"folder": str(run.folder)}
        count, logs = run.task.budget.workers, run.folder / "logs"
        return LocalWorkers(count, evaluator, settings, logs, visible, options.deterministic)

    yield Machine(*local_room(len(visible)), start)


def local_room(gpus: int) -> tuple[str, int, Callable[[int], tuple[float, float]]]:
    """The first three fields of this machine's ``Machine``, with ``gpus`` to use."""
    cores = _cores()
    return (
        "cuda" if gpus else "cpu",
        gpus * _WORKERS_PER_GPU or cores,
        lambda workers: (min(1.0, cores / workers), min(1.0, gpus / workers)),
    )


@contextmanager
def _ray(options: SearchOptions) -> Iterator[Machine]:
    device, address = options.device, options.address
    cpus, gpus = options.cpus_per_trial, options.gpus_per_trial
    if device == "cpu" and gpus:
        raise UsageError(f"--gpus-per-trial {gpus:g} needs another --device than cpu")
    if address is not None:
        os.environ["RAY_ADDRESS"] = address  # read where Ray is imported
    from nas.search.tune import Cluster, TuneWorkers

    with Cluster(
        cpus_per_trial=1.0 if cpus is None else cpus,
        gpus_per_trial=0.0 if device == "cpu" else gpus,
    ) as cluster:
        part = cluster.resources
        if device == "cuda" and not part["gpu"]:
            raise InputError("the Ray cluster has no GPU for a trial; choose --device cpu")

        def start(run: Run) -> Workers:
            dataset = Dataset.load(run.folder / "data", mapped=False)
            settings = {"task": run.task, "dataset": dataset}
            evaluator = "nas.training.evaluator:Evaluator"
            count, lockstep = run.task.budget.workers, options.deterministic
            return TuneWorkers(count, evaluator, settings, cluster, lockstep)

        yield Machine(
            "cuda" if part["gpu"] else "cpu",
            cluster.workers,
            lambda workers: (part["cpu"], part["gpu"]),
            start,
        )


def visible_gpus(device: str) -> list[str]:
    """The CUDA devices, as CUDA_VISIBLE_DEVICES names them; none for "cpu". torch is imported in
    a process of its own, so that the driver does without.

    Raises InputError for "cuda" where there is none.
    """
    if device == "cpu":
        return []
    code = "import torch; print('gpus', torch.cuda.device_count())"
    asked = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        last = asked.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise InputError(f"torch does not work here ({last[0]}); install it again")
    count = int(asked.stdout.split()[-1])
    if device == "cuda" and not count:
        raise InputError("no CUDA device is visible here; choose --device cpu")
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[:count] if named != [""] else [str(i) for i in range(count)]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
