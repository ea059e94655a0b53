"""Where the workers of a search and the trainings at its end run: this machine's cores or GPUs, or
a Ray cluster."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from runpy import run_path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from nas import child
from nas.options import SearchOptions
from nas.task import Budget, InputError, Task, UsageError

if TYPE_CHECKING:
    from nas.run import Run
    from nas.search.forks import Forks
    from nas.search.workers import Workers

# Where Linux says which cgroups this process is in, and what they allow.
_OWN_CGROUPS, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_EVALUATOR = "nas.training.evaluator"  # what workers import, and trainings too
_FORKED_S = 3.0  # until a forked training has taken its first step
# A proxy seldom fills a GPU.
_WORKERS_PER_GPU = 2


@dataclass(frozen=True)
class Room:
    """What a place has for workers."""

    device: str  # "cpu" or "cuda"
    workers: int  # that fit at once
    part: Callable[[int], tuple[float, float]]  # workers -> CPUs and GPUs of each
    memory_mb: float | None = None  # of a GPU, or of the machine; None where unknown
    start_s: float = Budget.start_s

    def budget(self, limits: Budget, workers: int | None) -> Budget:
        """``limits`` with the number of workers (default: as many as fit) and what each of them
        gets of the machine."""
        if limits.gpu_hours is not None and self.device == "cpu":
            raise UsageError("a search on the CPU spends no GPU-hours; give CPU-hours")
        workers = workers or self.workers
        cpus, gpus = self.part(workers)
        memory = self.memory_mb
        if memory is not None:
            memory *= gpu_share(gpus) if self.device == "cuda" else 1 / workers
        return replace(
            limits,
            workers=workers,
            cpus=cpus,
            gpus=gpus,
            memory_mb=memory,
            start_s=self.start_s,
        )


def gpu_share(gpus: float) -> float:
    """Of the memory of a GPU, for a worker of this machine that has ``gpus`` on average: of three
    workers on two GPUs, two are on one and have half of it each."""
    return 1 / math.ceil(round(1 / gpus, 6))


class Process(Protocol):
    """A training that was started: what is used of a ``subprocess.Popen``."""

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Site(Protocol):
    """Where trainings at full scale run, ``count`` of them side by side."""

    count: int

    def start(
        self,
        folder: Path,
        options: Sequence[str],
        output: BinaryIO,
        errors: BinaryIO,
        place: int | None = None,
    ) -> Process:
        """Begin ``nas train FOLDER/recipe.yaml --out FOLDER`` with more ``options``, on one of the
        places or, without one, with all that the site has for a training that is alone. What it
        prints goes to ``output`` and ``errors``."""


class Here:
    """This machine as a site: each core, or each GPU, is a place. Trainings on a CPU are forked by
    ``forks`` where these are given."""

    def __init__(self, task: Task, forks: Forks | None = None) -> None:
        self._forks = forks if task.device == "cpu" else None
        cores = max(1, int(task.budget.workers * task.budget.cpus))
        self._places = [{"OMP_NUM_THREADS": "1"}] * cores
        if task.device != "cpu":
            self._places = [{"CUDA_VISIBLE_DEVICES": g} for g in visible_gpus(task.device)[0]]
        self.count = len(self._places)

    def start(
        self,
        folder: Path,
        options: Sequence[str],
        output: BinaryIO,
        errors: BinaryIO,
        place: int | None = None,
    ) -> Process:
        train = ["train", str(folder / "recipe.yaml"), "--out", str(folder), "--executor", "local"]
        command = ["nas.child", *train, *options]
        own = {} if place is None else self._places[place]
        if self._forks is not None:
            given = os.environ.get("OMP_NUM_THREADS", "")
            threads = given if given.isdecimal() and int(given) else str(_cores())
            environment = {"OMP_NUM_THREADS": threads, **own}
            return self._forks.start(command, errors, output, environment)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=child.environment() | own,
            start_new_session=True,
        )


@dataclass(frozen=True)
class Machine:
    """A place for workers and for trainings at full scale, and how to start them there."""

    room: Room
    start: Callable[[Run], Workers]
    site: Callable[[Run], Site]


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
    visible, memory_mb = visible_gpus(options.device)
    forks = None
    if _forks(len(visible)):
        from nas.search.forks import Forks

        forks = Forks(_EVALUATOR)

    def start(run: Run) -> Workers:
        from nas.search.local import LocalWorkers

        evaluator = f"{_EVALUATOR}:from_folder"
        settings: dict[str, Any] = {"folder": str(run.folder)}
        settings["deterministic"] = options.deterministic
        if gpus := run.task.budget.gpus:
            settings["part"] = gpu_share(gpus)
        count, logs = run.task.budget.workers, run.folder / "logs"
        lockstep = options.deterministic
        return LocalWorkers(count, evaluator, settings, logs, visible, lockstep, forks)

    try:
        room = local_room(len(visible), memory_mb)
        yield Machine(room, start, lambda run: Here(run.task, forks))
    finally:
        if forks is not None:
            forks.close()


def local_room(gpus: int, gpu_memory_mb: float | None = None) -> Room:
    """This machine, with ``gpus`` to use, of which each has ``gpu_memory_mb``."""
    cores = _cores()
    return Room(
        "cuda" if gpus else "cpu",
        gpus * _WORKERS_PER_GPU or cores,
        lambda workers: (min(1.0, cores / workers), min(1.0, gpus / workers)),
        gpu_memory_mb if gpus else _memory_mb(),
        _FORKED_S if _forks(gpus) else Budget.start_s,
    )


def _forks(gpus: int) -> bool:
    """Whether processes are forked from one import here: see nas.search.forks."""
    return sys.platform == "linux" and not gpus


def other_room(device: str) -> Room:
    """Other machines, as many as the workers need: two of them have a GPU, or each has a core."""
    gpu = device == "cuda"
    return Room(
        "cuda" if gpu else "cpu",
        _WORKERS_PER_GPU if gpu else _cores(),
        lambda workers: (1.0, math.ceil(workers / _WORKERS_PER_GPU) / workers if gpu else 0.0),
    )


@contextmanager
def _ray(options: SearchOptions) -> Iterator[Machine]:
    device, address = options.device, options.address
    cpus, gpus = options.cpus_per_trial, options.gpus_per_trial
    if device == "cpu" and gpus:
        raise UsageError(f"--gpus-per-trial {gpus:g} needs another --device than cpu")
    if address is not None:
        os.environ["RAY_ADDRESS"] = address  # read where Ray is imported
    from nas import remote
    from nas.search.cluster import Cluster
    from nas.search.tune import TuneWorkers

    with Cluster(
        cpus_per_trial=1.0 if cpus is None else cpus,
        gpus_per_trial=0.0 if device == "cpu" else gpus,
        grows=options.workers is not None,
    ) as cluster:
        part = cluster.resources
        if device == "cuda" and not part["gpu"]:
            raise InputError("the Ray cluster has no GPU for a trial; choose --device cpu")

        def start(run: Run) -> Workers:
            data = remote.sendable(run.folder / "data")
            settings: dict[str, Any] = {"task": run.task, "deterministic": options.deterministic}
            settings["run"] = str(run.folder.resolve())
            if isinstance(data, Path):
                settings["data"] = str(data)
                evaluator = f"{_EVALUATOR}:from_shared"
            else:
                settings["dataset"] = data
                evaluator = f"{_EVALUATOR}:Evaluator"
            count, lockstep = run.task.budget.workers, options.deterministic
            logs = run.folder / "logs"
            return TuneWorkers(count, evaluator, settings, cluster, lockstep, logs)

        def site(run: Run) -> Site:
            return remote.Trainings(cluster, remote.sendable(run.folder / "data"), run.task.device)

        device = "cuda" if part["gpu"] else "cpu"
        room = Room(device, cluster.workers, lambda workers: (part["cpu"], part["gpu"]))
        yield Machine(room, start, site)


def visible_gpus(device: str) -> tuple[list[str], float | None]:
    """The CUDA devices, as CUDA_VISIBLE_DEVICES names them, and the memory of the smallest, MiB;
    none for "cpu". torch is imported in a process of its own, so that the driver does without.

    Raises InputError for "cuda" where there is none.
    """
    if device == "cpu":
        return [], None
    count, memory = _ask_torch() if _torch_is_built_for_gpus() else (0, None)
    if device == "cuda" and not count:
        raise InputError("no CUDA device is visible here; choose --device cpu")
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = named[:count] if named != [""] else [str(i) for i in range(count)]
    if count and named[0].startswith("MIG-"):
        names = named  # CUDA shows a process only one of several parts of GPUs
    return names, memory


def _torch_is_built_for_gpus() -> bool:
    """Read from torch's own file of versions, as an import of torch takes seconds; where there is
    no such file, torch has to be asked."""
    torch = find_spec("torch")
    file = Path(torch.origin or "").with_name("version.py") if torch else None
    if file is None or not file.is_file():
        return True
    version = run_path(str(file))
    return bool(version.get("cuda") or version.get("hip"))


def _ask_torch() -> tuple[int, float | None]:
    """The number of GPUs, and MiB of the smallest."""
    code = (
        "import torch; n = torch.cuda.device_count(); "
        "sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(n)]; "
        "print('gpus', n, min(sizes, default=0) / 2**20)"
    )
    asked = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        last = asked.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise InputError(f"torch does not work here ({last[0]}); install it again")
    found, memory = asked.stdout.split()[-2:]
    return int(found), float(memory) if int(found) else None


def _cores() -> int:
    """The cores that this process may run on, and no more than its cgroups' quota pays for."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, int(min(cores, _quota())))


def _quota() -> float:
    """How many cores' time the cgroups of this process may use, of version 2 or 1; infinite where
    nothing limits it. In a container the paths are those of the host, or of the container."""
    quota = math.inf
    with suppress(OSError):  # no Linux
        for line in _OWN_CGROUPS.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "cpu" not in kinds.split(","):
                continue
            own = PurePosixPath(path)
            for folder in (own, *own.parents):  # each limits what is in it
                allowed = _quota_in(_CGROUPS / ("cpu" if kinds else "") / str(folder).lstrip("/"))
                quota = min(quota, allowed)
    return quota


def _quota_in(folder: Path) -> float:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        # Without a quota it is "max", or -1.
        with suppress(OSError, ValueError):
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            return float(quota) / float(period) if float(quota) > 0 else math.inf
    return math.inf


def _memory_mb() -> float | None:
    """MiB of the machine's memory that this process may have; None where the system does not
    tell."""
    from nas.data.limits import memory

    try:
        return memory() / 2**20
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None
