"""A Ray cluster: joined, or started on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read by Ray where it is imported: no telemetry, no output, no files beside its own folder.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_AIR_NEW_OUTPUT="0",
    RAY_CHDIR_TO_TRIAL_DIR="0",
    RAY_DEDUP_LOGS_SKIP_REGEX=".",  # its messages would go to standard output
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
    TUNE_PRINT_ALL_TRIAL_ERRORS="0",
    TUNE_GLOBAL_CHECKPOINT_S="1e9",
    TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S="0",
)
if "RAY_ADDRESS" not in os.environ:  # a Ray of our own stays on loopback and asks for a token
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.files import first_line
from nas.task import InputError, UsageError

_CONNECT_TIMEOUT_S = 10.0


class Cluster:
    """Ray, and how much of it a trial gets.

    Uses the Ray that this process is connected to, else the cluster at ``address`` ("auto" for
    the one on this machine) or of RAY_ADDRESS, else starts one of its own, which listens on
    loopback only, asks for a token that this process makes up, keeps its files in a folder of
    this user's and ends with ``close``. By default a trial gets half a GPU where there are any: a
    proxy seldom fills one. A cluster that ``grows`` may have no room yet, or no node.

    Raises InputError where nothing answers at the address, or this machine is no node of the
    cluster; UsageError where a trial asks for more than any node has.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus_per_trial: float = 1.0,
        gpus_per_trial: float | None = None,
        grows: bool = False,
    ) -> None:
        self._connected = not ray.is_initialized()
        self._folder: Path | None = None
        if self._connected:
            with _signals_kept():
                self._connect(address or os.environ.get("RAY_ADDRESS"))
        if gpus_per_trial is None:
            gpus = any(node["Resources"].get("GPU") for node in nodes())
            gpus_per_trial = 0.5 if gpus else 0.0
        self.resources = {"cpu": cpus_per_trial, "gpu": gpus_per_trial}
        self.workers = self.fit(**self.resources)
        # A Ray of our own is this machine.
        if not self.workers and (self.is_own or not grows):
            self.close()
            raise UsageError(
                f"no node of the Ray cluster has {cpus_per_trial:g} CPUs and"
                f" {gpus_per_trial:g} GPUs free for a trial; lower --cpus-per-trial or"
                " --gpus-per-trial, or give --workers for a cluster that grows"
            )

    def _connect(self, address: str | None) -> None:
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address is not None:
            if address.startswith("ray://"):
                raise UsageError(
                    f"{address} is an address of Ray Client, which cannot carry a search; give the"
                    " cluster's HOST:PORT on one of its nodes, or run the search in it with"
                    " `ray job submit`"
                )
            try:
                _check_reachable(address)
                ray.init(address, **quiet)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"no Ray cluster answers at {address} ({first_line(error)}); start one with"
                    " `ray start --head`, or leave --address out"
                ) from None
            except (RuntimeError, RayError) as error:  # no node here, a wrong token, other versions
                raise InputError(
                    f"the Ray cluster at {address} cannot be joined from here"
                    f" ({first_line(error)}); run this on one of its nodes with its RAY_AUTH_TOKEN"
                    " and the same versions, or by `ray job submit`"
                ) from None
            return
        # Ray opens its folder to all users: it lies in one that is this user's alone.
        self._folder = Path(tempfile.mkdtemp(prefix="nas-ray-"))
        own: dict[str, Any] = {"include_dashboard": False, "_temp_dir": str(self._folder / "r")}
        ray.init("local", **quiet, **own)

    def fit(self, cpu: float, gpu: float) -> int:
        """How many that need so much the nodes hold at once."""
        total = 0
        for node in nodes():
            fractions = [
                node["Resources"].get(name, 0.0) / wanted
                for name, wanted in (("CPU", cpu), ("GPU", gpu))
                if wanted
            ]
            total += int(min(fractions, default=1.0) + 1e-9)
        return total

    @property
    def is_own(self) -> bool:
        """Whether it was started here, and is this machine."""
        return self._folder is not None

    @property
    def cores(self) -> float:
        """CPUs of the node that has most."""
        return max((node["Resources"].get("CPU", 0.0) for node in nodes()), default=0.0)

    def close(self) -> None:
        if self._connected:
            ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def nodes() -> list[dict[str, Any]]:
    """What Ray says of the nodes that are there."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _check_reachable(address: str) -> None:
    """Raise OSError where nothing listens: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo that Ray ends the driver by SIGTERM in its own way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, kept)


def beside_driver(kind: type) -> Any:
    """An actor of a class on the driver's own node, so that it goes with no other.

    A soft affinity does not hold (2.60): Ray hands an actor that needs no resource to any node
    to be placed, which keeps it. One byte of memory makes it ask the driver's first.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(kind)
    return actor.options(num_cpus=0, memory=1, scheduling_strategy=here).remote()
