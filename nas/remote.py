"""Trainings at full scale on a Ray cluster: ``nas train``, run on a node in a copy of its folder.

The driver keeps the folder, and a process on the node does what a local one would. The recipe, the
data and what earlier parts of the training have kept travel there; checkpoints, results and what is
printed come back while it runs. So no file system is shared, and a training whose node is lost goes
on elsewhere from what the driver has.

One device is one task of Ray's, which starts in a second. Several are the workers of a
``TorchTrainer``, which takes half a minute: it finds them room all at once, gives them their ranks,
and ends all where one ends. Its own checkpoints need a file system that all nodes share.

The process on a node ends with the worker that has started it (nas.child).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from nas import child
from nas import recipe as recipes
from nas.data import Dataset, read
from nas.data.limits import resident_limit
from nas.files import LAST, NETWORKS, first_line, write_whole
from nas.options import ReadOptions
from nas.plan import FEW_CORES
from nas.recipe_changes import device_count
from nas.task import InputError, UsageError

if TYPE_CHECKING:
    from nas.search.cluster import Cluster

ATTEMPTS = 4  # of a training whose worker is lost
# What of a folder a training, or the rest of one, may need.
_TRAINED = (LAST, "model.ckpt", "result.json", "checkpoints/*.ckpt")
_OF_NETWORK = ("recipe.yaml", *_TRAINED)
_NEEDED = (*_TRAINED, *(f"{NETWORKS}/*/{name}" for name in _OF_NETWORK))
# Of these, what another worker continues from.
_STATES = (LAST, f"{NETWORKS}/*/{LAST}", f"{NETWORKS}/*/result.json")
_TICK_S = 0.5  # between two looks of a worker at its process
_PAUSE = 9.0  # times as long as files took to send, until more are sent
_PRINTED = 65_536  # bytes of what is printed that go out at once; what is more is left out
_ROOM_S = 15.0  # until a training that waits for room says so
_PATIENCE = 2  # times that Ctrl-C asks for the end of a training
_OF_BATCHES = ("batch_size", "fingerprint", "split_hash")  # of a recipe's data, what reads none
_INTERRUPTED = 130  # exit code

_PRINTS = ("out", "err")
_Message = tuple[str, str, Any]  # out, err, file, gone or code; a file's name; the content


@dataclass(frozen=True)
class _Job:
    """``nas train`` with ``options`` for one worker, or for each of several."""

    key: str
    home: str  # the driver's folder, as messages and results name it
    recipe: dict[str, Any]
    source: str  # where workers read the data, if they have not been sent
    options: tuple[str, ...]
    devices: int
    cpus: float  # for each device, as are the GPUs
    gpus: float


class Trainings:
    """A Ray cluster as the place of trainings of one data set; see ``nas.machine.Site``.

    Args:
        cluster: Where they run.
        data: What they are trained on, which crosses to each node once; or the folder or file of
            it, on a file system that all nodes share.
        device: "cpu" or "cuda".

    As many run side by side, ``count``, as have a core or a GPU.
    """

    def __init__(self, cluster: Cluster, data: Dataset | Path, device: str) -> None:
        import ray

        from nas.search.cluster import beside_driver

        self._gpus, self._cores = float(device != "cpu"), cluster.cores
        self.count = max(1, cluster.fit(cpu=1.0, gpu=self._gpus))
        self.source = str(data.resolve()) if isinstance(data, Path) else ""
        self.data = [] if isinstance(data, Path) else [ray.put(data)]
        self.mail = beside_driver(_Mail)
        self._started = 0

    def start(
        self,
        folder: Path,
        options: Sequence[str],
        output: BinaryIO,
        errors: BinaryIO,
        place: int | None = None,
        devices: int = 1,
    ) -> Remote:
        alone = place is None and not self._gpus
        cpus = max(1, int(min(FEW_CORES, self._cores, self.count / devices))) if alone else 1
        self._started += 1
        recipe = recipes.read(folder / "recipe.yaml")
        key, home, given = str(self._started), str(folder), tuple(options)
        job = _Job(key, home, recipe, self.source, given, devices, float(cpus), self._gpus)
        return Remote(self, job, output, errors)


class Remote:
    """A training on the cluster, with the surface of ``subprocess.Popen``. What comes back is taken
    in by ``poll``."""

    def __init__(self, site: Trainings, job: _Job, output: BinaryIO, errors: BinaryIO) -> None:
        self.returncode: int | None = None
        self._site, self._job = site, job
        self._streams = {"out": output, "err": errors}
        self._attempt = 0
        self._is_kept = "--resume" in job.options  # what is in the folder, or has come back since
        self._begin(job)

    def _begin(self, job: _Job) -> None:
        import ray

        self._attempt += 1
        self._key = f"{job.key}.{self._attempt}"
        self._code: int | None = None
        self._begun, self._said, self._since = False, False, time.monotonic()
        home = Path(job.home)
        found = [path for pattern in _NEEDED for path in home.glob(pattern)]
        files = {str(path.relative_to(home)): path.read_bytes() for path in found}
        share = {"num_cpus": job.cpus, "num_gpus": job.gpus}
        task: Any = ray.remote(_alone)
        if job.devices > 1:
            share, task = {"num_cpus": 0.0}, ray.remote(_together)
        self._task = task.options(max_retries=0, **share).remote(
            replace(job, key=self._key), files, self._site.data, self._site.mail
        )

    def poll(self) -> int | None:
        """Take in what has come back; the exit code, None while the training runs."""
        if self.returncode is None:
            import ray

            over, _ = ray.wait([self._task], timeout=0)
            self._take()
            if over:
                self._end()
            elif not (self._begun or self._said) and time.monotonic() > self._since + _ROOM_S:
                self._said = True
                each = f"{self._job.cpus:g} CPUs and {self._job.gpus:g} GPUs"
                self._say(f"note: waits for room on the cluster: {self._job.devices} x {each}")
        return self.returncode

    def _take(self) -> None:
        import ray

        home = Path(self._job.home)
        try:
            messages: list[_Message] = ray.get(self._site.mail.take.remote(self._key))
        except ray.exceptions.RayError as error:
            reason = first_line(error)
            raise InputError(
                f"the Ray cluster is gone ({reason}); what came back is in {home}:"
                " go on with --resume"
            ) from None
        for kind, name, content in messages:
            self._begun = True
            if kind in self._streams:
                self._streams[kind].write(content)
                self._streams[kind].flush()
            elif kind == "file":
                write_whole(home / name, content)
                self._is_kept |= any(map(PurePath(name).match, _STATES))
            elif kind == "gone":
                (home / name).unlink(missing_ok=True)
            else:
                self._code = content

    def _end(self) -> None:
        """The task is over: so is the training, or its worker is lost and another continues it."""
        import ray

        reason = f"its process ended with code {self._code}"
        try:
            ray.get(self._task)
        except Exception as error:  # of Ray, of Ray Train, and of a node's disk
            reason = first_line(error)
        crashed = self._code == child.CRASHED
        if self._code is not None and self._code >= 0 and not (crashed and self._job.devices > 1):
            self.returncode = 1 if crashed else self._code
        elif self._attempt == ATTEMPTS:
            self._say(f"error: the training lost its worker {ATTEMPTS} times ({reason})")
            self.returncode = 1
        else:
            job, kept = self._job, self._is_kept and _is_begun(Path(self._job.home))
            self._say(
                f"note: its worker was lost ({reason});"
                f" {'continues from what is kept' if kept else 'begins again'}"
            )
            if kept and "--resume" not in job.options:
                job = replace(job, options=(*job.options, "--resume"))
            self._begin(job)

    def _say(self, text: str) -> None:
        self._streams["err"].write(f"{text}\n".encode())
        self._streams["err"].flush()

    def send_signal(self, number: int) -> None:
        """Hand a signal on to the process; one that has not begun is over."""
        if self.poll() is None and self._begun:
            self._site.mail.signal.remote(self._key, number)
        elif self.returncode is None:
            self._cancel(_INTERRUPTED)

    def kill(self) -> None:
        if self.poll() is None:
            self._cancel(-signal.SIGKILL)

    def _cancel(self, code: int) -> None:
        import ray

        ray.cancel(self._task, force=True)
        self.returncode = code

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises ``subprocess.TimeoutExpired`` like Popen's."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("nas train", timeout or 0.0)
            time.sleep(0.2)
        return code


class _Mail:
    """An actor between the driver and the workers: keeps messages until they are asked for."""

    def __init__(self) -> None:
        self._messages: defaultdict[str, list[_Message]] = defaultdict(list)
        self._signals: defaultdict[str, list[int]] = defaultdict(list)

    def post(self, key: str, messages: list[_Message], first: bool) -> list[int]:
        """Keep a worker's messages, and return the signals that its process is to get: the first
        one, on which the others act too."""
        self._messages[key] += messages
        return self._signals.pop(key, []) if first else []

    def take(self, key: str) -> list[_Message]:
        return self._messages.pop(key, [])

    def signal(self, key: str, number: int) -> None:
        self._signals[key].append(number)


def train(
    path: Path, out: Path, options: Sequence[str], devices: str | None, address: str | None
) -> dict[str, Any]:
    """``nas train`` on the Ray cluster at ``address``; a Ray of its own where there is none.

    Args:
        path: The recipe.
        out: The folder of the training, as of ``nas.train.train``.
        options: Further ones of the command.
        devices: A number, "auto" for all GPUs of the cluster, or None for as many as the recipe
            says.
        address: HOST:PORT, "auto", or None for RAY_ADDRESS or a Ray of its own.

    Returns:
        The result, as ``nas.train.train`` does.

    Raises:
        InputError: Wrong data, or a cluster that does not answer.
        UsageError: More devices than a Ray of its own has.
        SystemExit: The training ended without a result; what it printed says why, and the code is
            its exit code: 130 where Ctrl-C has ended it.

    Example:
        >>> train(Path("recipe.yaml"), Path("model"), ["--epochs", "3"], "2", "auto")["epochs"]
        3
    """
    if address is not None:
        os.environ["RAY_ADDRESS"] = address  # read where Ray is imported
    from nas.search.cluster import Cluster

    recipe = recipes.load(path, out)
    count = device_count(recipe["trainer"] if devices in (None, "auto") else {"devices": devices})
    data = _data_of(recipe)
    with Cluster(address, gpus_per_trial=0.0, grows=True) as cluster:
        found = cluster.fit(cpu=1.0, gpu=1.0)
        device = "cuda" if found and recipe["trainer"].get("accelerator") != "cpu" else "cpu"
        if devices == "auto":
            count = max(1, found)
        room = cluster.fit(cpu=1.0, gpu=float(device == "cuda"))
        if cluster.is_own and count > room:
            raise UsageError(
                f"{count} devices need a core{' and a GPU' * (device == 'cuda')} each, and this"
                f" machine has {room}; lower --devices, or give --address of a cluster"
            )
        recipes.write(recipes.read(path), out / "recipe.yaml")
        given = [*options, "--devices", str(count), "--json"]
        with tempfile.TemporaryFile() as output:
            site = Trainings(cluster, data, device)
            code = _followed(site.start(out, given, output, sys.stderr.buffer, devices=count))
            if code:
                raise SystemExit(code)
            output.seek(0)
            result: dict[str, Any] = json.loads(output.read().splitlines()[-1])
    return result


def sendable(data: Path) -> Dataset | Path:
    """A saved data set that is to go to the nodes of a cluster: itself or, where it is too large
    for a process, its folder, which every node must see."""
    if sum(file.stat().st_size for file in data.iterdir()) > resident_limit():
        return data.resolve()
    return Dataset.load(data, mapped=False)


def _data_of(recipe: dict[str, Any]) -> Dataset | Path:
    """The data of a recipe as they are to go to the nodes."""
    given = dict(recipe["data"]["init_args"])
    source = Path(given.pop("source"))
    if (source / "dataset.json").is_file():
        return sendable(source)
    known = {name: value for name, value in given.items() if name not in _OF_BATCHES}
    dataset = read(source, **ReadOptions(**known).reading())
    arrays = (x if isinstance(x, np.ndarray) else x.values for x in dataset.inputs.values())
    return source.resolve() if sum(x.nbytes for x in arrays) > resident_limit() else dataset


def _followed(training: Remote) -> int:
    """Wait for the end of a training, whose exit code is returned: Ctrl-C asks for it, a third one
    does not wait. A signal is acted upon between two polls, as what comes back in one is lost where
    it is broken off."""
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)
        if len(heard) > _PATIENCE:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.getsignal(number) for number in numbers}
    for number, handler in kept.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, hear)
    asked = 0
    try:
        while (code := training.poll()) is None:
            if len(heard) > asked:
                asked = len(heard)
                training.send_signal(signal.SIGINT)
            time.sleep(0.2)
        return code
    except KeyboardInterrupt:
        training.kill()
        return _INTERRUPTED
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _is_begun(home: Path) -> bool:
    """Whether a training in the driver's folder has something that another worker can go on with:
    its last state or, of an ensemble, that of a network or a network that is trained."""
    return any(any(home.glob(state)) for state in _STATES)


# -- on a node ---------------------------------------------------------------------------------


def _alone(job: _Job, files: dict[str, bytes], data: list[Any], mail: Any) -> None:
    _train(job, files, data, mail, {})


def _together(job: _Job, files: dict[str, bytes], data: list[Any], mail: Any) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    share = {"CPU": job.cpus} | ({"GPU": job.gpus} if job.gpus else {})
    with tempfile.TemporaryDirectory(prefix="nas-train-") as folder:
        TorchTrainer(
            _member,
            train_loop_config={"job": job, "files": files, "data": data, "mail": mail},
            torch_config=TorchConfig(backend="gloo"),  # to agree on a port
            scaling_config=ScalingConfig(
                num_workers=job.devices, use_gpu=bool(job.gpus), resources_per_worker=share
            ),
            run_config=RunConfig(storage_path=folder, name="train"),
        ).fit()


def _member(given: dict[str, Any]) -> None:
    """One of several workers; its process gets the variables of torchrun."""
    import torch.distributed as dist

    rank, port = dist.get_rank(), [0]
    if rank == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            port = [free.getsockname()[1]]
    dist.broadcast_object_list(port)
    world = {"RANK": rank, "WORLD_SIZE": dist.get_world_size(), "GROUP_RANK": rank}
    world |= {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port[0]}  # its GPU is its only
    job, files = given["job"], given["files"]
    if rank > 0 and "--resume" not in job.options:  # the first alone keeps an earlier training
        files = {name: content for name, content in files.items() if name != LAST}
    environment = {name: str(value) for name, value in world.items()}
    environment["TORCHELASTIC_RUN_ID"] = "nas"
    if code := _train(job, files, given["data"], given["mail"], environment):
        raise RuntimeError(f"the process of rank {rank} ended with code {code}")


def _train(
    job: _Job, files: dict[str, bytes], data: list[Any], mail: Any, world: dict[str, str]
) -> int:
    """Run the process in a copy of the folder until it ends, and send home what it writes."""
    import ray

    first = world.get("RANK", "0") == "0"
    here = f"note: trains on {ray.util.get_node_ip_address()}\n"  # type: ignore[no-untyped-call]
    ray.get(mail.post.remote(job.key, [("err", "", here.encode())], False))
    if gpus := ray.get_gpu_ids():
        world = world | {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
    with tempfile.TemporaryDirectory(prefix="nas-train-") as name:
        copy = _Copy(Path(name), job, files, data)
        process = copy.start(world)
        try:
            files_at, code = 0.0, None
            while code is None:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(_TICK_S)
                begin, over = time.monotonic(), code is not None
                messages: list[_Message] = []
                if first and (over or begin > files_at):
                    messages += copy.changes()
                # Afterwards: the line of an epoch comes with the checkpoint that holds it.
                messages += copy.printed(over)
                if first and over:
                    messages.append(("code", "", code))
                for number in ray.get(mail.post.remote(job.key, messages, first)):
                    process.send_signal(number)
                files_at = begin + _PAUSE * (time.monotonic() - begin)
        finally:
            process.kill()
            process.wait()
    return code


class _Copy:
    """A worker's copy of the folder of a training, in ``place``."""

    def __init__(self, place: Path, job: _Job, files: dict[str, bytes], data: list[Any]) -> None:
        import ray

        self._place, self._job = place, job
        self._folder = place / "out"
        self._source = job.source
        self._sent: dict[str, int] = {}  # bytes of what was printed
        if data:
            self._source = str(place / "data")
            ray.get(data[0]).save(Path(self._source))
        for name, content in files.items():
            write_whole(self._folder / name, content)
        recipes.write(job.recipe, self._folder / "recipe.yaml")
        for path in self._folder.rglob("recipe.yaml"):  # those of an ensemble's networks too
            recipes.write(recipes.read_from(recipes.read(path), self._source), path)
        self._known = self._stamps()

    def start(self, world: dict[str, str]) -> subprocess.Popen[bytes]:
        arguments = ["train", str(self._folder / "recipe.yaml"), "--out", str(self._folder)]
        command = [sys.executable, "-P", "-m", "nas.child", *arguments, "--executor", "local"]
        with ExitStack() as stack:
            out, err = (
                stack.enter_context((self._place / f"{kind}.txt").open("wb")) for kind in _PRINTS
            )
            return subprocess.Popen(
                [*command, *self._job.options],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=child.environment() | world,
            )

    def printed(self, over: bool) -> Iterator[_Message]:
        """What was printed since the last call, in whole lines."""
        for kind in _PRINTS:
            with (self._place / f"{kind}.txt").open("rb") as file:
                begin = file.seek(self._sent.get(kind, 0))
                more = file.read()
            if not over:
                more = more[: more.rfind(b"\n") + 1]
            self._sent[kind] = begin + len(more)
            if kind == "err" and len(more) > _PRINTED:
                more = b"... %d bytes are left out\n" % (len(more) - _PRINTED) + more[-_PRINTED:]
            if more:
                yield kind, "", self._as_at_home(more)

    def changes(self) -> Iterator[_Message]:
        """The files that have changed since the last call: last.ckpt after those it speaks of."""
        known, self._known = self._known, self._stamps()
        changed = [name for name, stamp in self._known.items() if known.get(name) != stamp]
        for name in sorted(changed, key=lambda name: (name == LAST, name)):
            with suppress(FileNotFoundError):  # the next call finds it gone
                yield "file", name, self._content(self._folder / name)
        for name in known.keys() - self._known.keys():
            yield "gone", name, None

    def _stamps(self) -> dict[str, tuple[int, int]]:
        found = {}
        for path in self._folder.rglob("*"):
            with suppress(FileNotFoundError):
                about = path.stat()
                if path.is_file() and path.suffix != ".new":  # which is being written
                    name = str(path.relative_to(self._folder))
                    found[name] = (about.st_mtime_ns, about.st_size)
        return found

    def _content(self, path: Path) -> bytes:
        if path.name == "recipe.yaml":
            own = self._job.recipe["data"]["init_args"]["source"]
            return recipes.text(recipes.read_from(recipes.read(path), own), path.name).encode()
        content = path.read_bytes()
        return self._as_at_home(content) if path.suffix == ".json" else content

    def _as_at_home(self, text: bytes) -> bytes:
        """Text that names the driver's folder in the place of this copy."""
        home = json.dumps(self._job.home)[1:-1]
        return text.replace(str(self._folder).encode(), home.encode())
