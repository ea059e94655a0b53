"""What a network costs: parameters, FLOPs, memory, latency, layer by layer.

Parameters and FLOPs are counted and the memory of training is estimated on the meta device,
before any memory is spent. Latency is measured.
"""

from __future__ import annotations

import fcntl
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Inputs = dict[str, Tensor]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def analyse(build: Callable[[], nn.Module], inputs: Inputs) -> dict[str, Any]:
    """Build on the meta device and run one forward pass of ``inputs`` through it.

    A network whose shapes depend on the values it is given (its attribute ``data_dependent``
    is true) is run on a CPU instead.

    Returns ``params``, ``flops`` (of the matrix products, convolutions and attention in the
    pass as given, a multiply-add counted as two; what works on single values is left out),
    ``activations_mb`` (what the forward keeps for the backward, MiB, as given) and
    ``layers``: name, type, output shape without the batch, parameters, in the order of
    execution. Attention is counted through its MATH form, as fused kernels count as zero
    on a CPU, and ``index_add`` as the product with a sparse matrix that it stands for.
    """
    with torch.device("meta"):
        network = build()
    device = "cpu" if getattr(network, "data_dependent", False) else "meta"
    if device == "cpu":
        network = build()
    given = {name: value.to(device) for name, value in inputs.items()}
    layers: list[dict[str, Any]] = []
    hooks = [
        module.register_forward_hook(_recorder(layers, name))
        for name, module in network.named_modules()
        if name and not any(True for _ in module.children())
    ]
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no number is used twice
    weights = {p.untyped_storage()._cdata for p in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # views, and results saved twice, share it
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor

    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.index_add: _sparse_product}
    )
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        counter,
    ):
        network.train()
        network(**given)
    for hook in hooks:
        hook.remove()
    own = sum(layer["params"] for layer in layers)
    total = parameters(network)
    if total > own:  # parameters that belong to a module with children: tokens, positions
        layers.append(
            {"name": "(other)", "type": "tokens, scales", "output": [], "params": total - own}
        )
    return {
        "params": total,
        "flops": counter.get_total_flops(),
        "activations_mb": sum(storage.nbytes() for storage in saved.values()) / 2**20,
        "layers": layers,
    }


def _sparse_product(
    total: Sequence[int], dim: int, index: Sequence[int], terms: Sequence[int], **_: Any
) -> int:
    """FLOPs of adding rows up where an index says: a product with a matrix that has one entry
    for each row, which the counter knows only in its dense form."""
    return 2 * math.prod(terms)


def _recorder(layers: list[dict[str, Any]], name: str) -> Callable[..., None]:
    def record(module: nn.Module, _: Any, output: Any) -> None:
        shape = list(output.shape[1:]) if isinstance(output, Tensor) else []
        again = any(layer["name"] == name for layer in layers)
        params = 0 if again else sum(p.numel() for p in module.parameters())
        layers.append(
            {"name": name, "type": type(module).__name__, "output": shape, "params": params}
        )

    return record


def training_memory_mb(params: int, activations_mb: float, batch: int) -> float:
    """What a training step in float32 with AdamW needs at least, MiB: weights, gradients and
    two moments, and the activations of the batch. Workspaces of kernels come on top."""
    return params * 16 / 2**20 + activations_mb * batch


def available_memory_mb(
    device: str, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> float:
    """What a training may still take, MiB. Of a GPU: what is free. On a CPU: what the machine can
    spare and what the process's control groups (a container's limit) leave, whichever is less;
    a group's cached files count as free. Infinite where the system tells neither.

    ``proc`` and ``groups`` are where Linux mounts these (man 5 proc; its admin-guide on cgroup
    v1 memory and cgroup v2).
    """
    if device != "cpu":
        return float(torch.cuda.mem_get_info()[0]) / 2**20
    spare = [math.inf]
    with suppress(FileNotFoundError):  # not Linux
        known = _numbers(proc / "meminfo")
        spare.append(known["MemAvailable"] * 2**10)
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                spare += _group_spare(groups / controllers, path.strip("/"))
    return min(spare) / 2**20


def _group_spare(mount: Path, path: str) -> Iterator[float]:
    """Bytes that a control group and each of those around it leave, where they have a limit."""
    old = mount.name == "memory"  # version 1
    limit, usage, cached = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if old
        else ("memory.max", "memory.current", "inactive_file")
    )
    group = mount / path
    for folder in (group, *group.parents):
        file = folder / limit
        # Inside a container the path is the host's, and the mount is the group itself.
        if file.is_file() and (most := file.read_text().strip()) != "max":
            used = int((folder / usage).read_text())
            yield int(most) - used + _numbers(folder / "memory.stat").get(cached, 0)
        if folder == mount:
            return


def _numbers(file: Path) -> dict[str, int]:
    """Lines of a name and a number, in whatever unit."""
    pairs = (line.replace(":", " ").split() for line in file.read_text().splitlines())
    return {name: int(number) for name, number, *_ in pairs}


@contextmanager
def device_lock(device: str) -> Iterator[None]:
    """One latency measurement at a time on a device, over all of this user's processes."""
    name = f"nas-latency-{os.getuid()}-{device.replace(':', '-')}.lock"
    with (Path(tempfile.gettempdir()) / name).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def latency(
    network: nn.Module, inputs: Inputs, *, device: str = "cpu", budget_s: float = 0.15
) -> dict[str, float]:
    """Median milliseconds of one forward pass in eval mode, and its interquartile range;
    ``inputs`` are of one sample.

    Warms up for a fifth of the budget and at least three passes, then repeats for the
    budget, at least 11 and at most 500 times. CUDA passes are timed by events.
    """
    training = network.training
    network.eval()
    cuda = device.startswith("cuda")

    def once() -> float:
        if cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            network(**inputs)
            end.record()
            torch.cuda.synchronize()
            return float(start.elapsed_time(end))
        begin = time.perf_counter()
        network(**inputs)
        return (time.perf_counter() - begin) * 1e3

    with device_lock(device), torch.inference_mode():
        _repeat(once, budget_s / 5, least=3)
        times = _repeat(once, budget_s, least=11)
    network.train(training)
    low, median, high = np.percentile(times, (25, 50, 75))
    return {
        "median_ms": float(median),
        "iqr_ms": float(high - low),
        "repeats": len(times),
        "threads": torch.get_num_threads(),
        "batch": 1,
    }


def _repeat(once: Callable[[], float], budget_s: float, least: int, most: int = 500) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < least or (time.perf_counter() < end and len(times) < most):
        times.append(once())
    return times
