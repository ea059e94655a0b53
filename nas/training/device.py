"""The device of a worker: its arithmetic, its share of a GPU's memory, and whether it still works.

Everything that is asked of CUDA beside tensors goes through here. On a CPU there is nothing to do.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch

from nas.training.cost import available_memory_mb

OWN = 0.9  # of a worker's share: who was refused memory below it was refused a neighbour's

_fraction = 1.0  # of a GPU that this process may have, see ``prepare``


def precision(device: str) -> str:
    """What a network is trained in: float32 on a CPU; on a GPU bfloat16 mixed precision where the
    GPU has bfloat16 (from Ampere on), else float32."""
    if device == "cpu" or not torch.cuda.is_bf16_supported(including_emulation=False):
        return "32-true"
    return "bf16-mixed"


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 (AVX-512 BF16, AMX), as torch tells it from 2.11 on;
    others emulate it, which is slow."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def prepare(device: str, fraction: float = 1.0, deterministic: bool = False) -> None:
    """Set up a GPU for a worker that has ``fraction`` of it: what is float32 may use its TF32
    units, and no worker takes the memory of another. Where ``deterministic``, the same seed gives
    the same network, and an operator that cannot raises RuntimeError."""
    global _fraction
    if device == "cpu":
        return
    if deterministic:
        # Read by cuBLAS where it begins (its documentation, "Results reproducibility").
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("high")
    _fraction = fraction
    if fraction < 1:
        torch.cuda.set_per_process_memory_fraction(fraction)


def works(device: str) -> bool:
    """Whether a device still computes: after an illegal access or a failed assertion a process
    gets nothing but errors from its GPU, and only another process can go on."""
    if device == "cpu":
        return True
    try:
        torch.cuda.synchronize()
        return int((torch.ones(2, device=device) + 1).sum()) == 4
    except RuntimeError:
        return False


def available_mb(device: str) -> float:
    """The memory that this process may still take for a training, MiB: on a GPU what is left of
    its share, on a CPU what is available now."""
    if device == "cpu":
        return available_memory_mb(device)
    return (_share() - torch.cuda.memory_allocated()) / 2**20


def free_bytes() -> float:
    """What this process may take of a GPU now: what is free or cached, within its share."""
    held, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    cached = torch.cuda.memory_reserved() - held
    return max(0.0, min(free + cached, _share() - held))


def _share() -> float:
    """This process's share of the memory of its GPU, bytes."""
    return _fraction * float(torch.cuda.mem_get_info()[1])


def forget_peak(device: str) -> None:
    """Begin anew to note the most memory that this process holds of a GPU."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()


def neighbour_holds(device: str, needed_mb: float) -> bool:
    """Whether memory is short for a training only because another process holds it: the training
    would fit into this process's share, and the GPU has less than that left for it."""
    if device == "cpu":
        return False
    most = OWN * _share()
    left = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    return max(needed_mb * 2**20, torch.cuda.max_memory_reserved(), left) <= most


@cache
def name(device: str) -> str:
    """What tells a device from others of its kind, for locks: the UUID of a GPU, or of a part of
    one (MIG); "cpu"."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return device
    try:
        return f"gpu-{torch.cuda.get_device_properties(device).uuid}"
    except AttributeError:  # ROCm's, and older builds
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") or "0"
        return f"gpu-{visible.split(',')[torch.device(device).index or 0]}"


def settle(device: str) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.startswith("cuda") and torch.cuda.is_available():
        torch.cuda.synchronize()
