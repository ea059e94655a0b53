"""What a network costs before it runs: parameters, FLOPs, memory, layer by layer.

Parameters and FLOPs are counted, and memory is predicted, on the meta device, before any memory
is spent.

A multiply-add counts as two FLOPs. Counted are matrix products, convolutions (padding included),
attention, recurrent layers, scans, and sums over edges and voxels; elementwise operations
(activations, norms, sums of two tensors, pooling) are left out.
"""

from __future__ import annotations

import ctypes
import math
import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nas.data.limits import memory_groups
from nas.models.meta import without_values

Inputs = dict[str, Tensor]

REAL_SAMPLES = 8  # of a step that runs on real tensors, not on the meta device
HEAP_OVERHEAD = (
    2.5  # the most that a heap was seen to hold of what was needed (scripts/bench_memory.py)
)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def analyse(build: Callable[[], nn.Module], inputs: Inputs) -> dict[str, Any]:
    """Build on the meta device and run one forward pass of ``inputs`` through it.

    A network whose shapes depend on the values of its inputs (its attribute ``data_dependent``
    is true) is run on the device of the inputs instead.

    Returns ``params``, those that are ``trainable``, and ``components``: the parameters of each
    part of the network by its name; ``flops`` of the pass (see the top of this file for what
    counts); and ``layers``: name, type, output shape without the batch, parameters, in the order
    of execution, and ``skips`` where shortcuts end, see ``_Shortcuts``.
    """
    network, real = _built(build)
    given = _placed(network, inputs, real)
    layers: list[dict[str, Any]] = []
    shortcuts = _Shortcuts(layers, given.values())
    hooks = [
        module.register_forward_hook(_recorder(layers, name, shortcuts))
        for name, module in network.named_modules()
        if name and not any(True for _ in module.children())
    ]
    counter = FlopCounterMode(display=False, custom_mapping=_FLOPS)
    with _FusedOps(), shortcuts, counter:
        network.train()
        network(**given)
    for hook in hooks:
        hook.remove()
    # Parameters that belong to a module with children, or to one that is not called: tokens,
    # positions, vectors for what is missing.
    known = {layer["name"] for layer in layers}
    for name, value in network.named_parameters():
        if (owner := name.rpartition(".")[0]) not in known:
            kind = type(network.get_submodule(owner)).__name__
            layers.append({"name": name, "type": kind, "output": [], "params": value.numel()})
    return {
        "params": parameters(network),
        "trainable": sum(p.numel() for p in network.parameters() if p.requires_grad),
        "components": components(layers),
        "flops": counter.get_total_flops(),
        "layers": layers,
    }


def components(layers: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The parameters of a network's parts (stem, blocks, head …), from its layers."""
    found: dict[str, int] = {}
    for layer in layers:
        if layer["params"]:
            part = str(layer["name"]).split(".")[0]
            found[part] = found.get(part, 0) + int(layer["params"])
    return found


def _built(build: Callable[[], nn.Module]) -> tuple[nn.Module, bool]:
    """The network on the meta device, or with real tensors where its shapes depend on values;
    whether they do."""
    with without_values():
        network = build()
    if getattr(network, "data_dependent", False):
        return build(), True
    return network, False


def _placed(network: nn.Module, inputs: Inputs, real: bool) -> Inputs:
    """Network and inputs on one device: the meta device, or that of the inputs."""
    device = next(iter(inputs.values())).device if real else torch.device("meta")
    network.to(device)
    return {name: value.to(device) for name, value in inputs.items()}


class _FusedOps(TorchFunctionMode):
    """Attention and recurrent layers on the meta device as fused operators, as on a real one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        whole: Any = {F.scaled_dot_product_attention: _attended, torch._VF.lstm: _lstm}.get(func)
        if whole is None or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        result = whole(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is None else result


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Fused attention, which stores no attention weights; None where a CPU does not fuse it."""
    if dropout_p or enable_gqa or query.ndim != 4 or query.shape[-1] != value.shape[-1]:
        return None
    if attn_mask is not None:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    result: Tensor = fused(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
    return result


def _lstm(
    x: Tensor,
    states: Any,
    weights: Any,
    biases: Any,
    layers: Any,
    dropout: Any,
    training: Any,
    both_ways: Any = False,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Layer by layer as oneDNN runs it; the meta device would unroll the steps. None for packed
    sequences and projections."""
    if isinstance(states, Tensor) or len(weights) != layers * (1 + both_ways) * (2 + 2 * biases):
        return None
    x = x.transpose(0, 1) if batch_first else x
    own = [weights[i : i + 2 + 2 * biases] for i in range(0, len(weights), 2 + 2 * biases)]
    for layer in range(layers):
        directions = own[layer * (1 + both_ways) : (layer + 1) * (1 + both_ways)]
        train = torch.is_grad_enabled()
        found = [_Direction.apply(train, x, *way) for way in directions]  # type: ignore[no-untyped-call]
        x = torch.cat(found, dim=-1) if both_ways else found[0]
    x = x.transpose(0, 1) if batch_first else x
    return x, torch.empty_like(states[0]), torch.empty_like(states[1])


class _Direction(torch.autograd.Function):
    """One direction of one layer over (T, B, d), with the memory that oneDNN uses for it.

    In tensors as large as the output (T, B, h), as measured with torch 2.13, h of 64 to 256 and d
    of a quarter to twice that: forward 1 beside the output, and where gradients are wanted 5,
    which are kept, and 4 while it runs; backward 9, of which half grow with d where that is
    more than h. Also a copy of an input that does not lie time first.
    """

    @staticmethod
    def forward(ctx: Any, train: bool, x: Tensor, *weights: Tensor) -> Tensor:
        x, hidden = x.contiguous(), weights[1].shape[1]
        biases = weights[2:] or [x.new_empty(4 * hidden)] * 2
        state = x.new_empty(1, x.shape[1], hidden)
        how: tuple[Any, ...] = (False, [], 2, hidden, 1, True, False, False, train)
        y: Tensor = torch.ops.aten.mkldnn_rnn_layer(x, *weights[:2], *biases, state, state, *how)[0]
        gates = y.new_empty(5 if train else 1, *y.shape)
        _while_it_runs = y.new_empty(4 if train else 0, *y.shape)
        if train:
            ctx.save_for_backward(x, y, gates, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, _, *weights = ctx.saved_tensors
        wider = x if x.shape[-1] > y.shape[-1] else y
        _while_it_runs = [t.new_empty(9, *t.shape[:2], t.shape[2] // 2) for t in (y, wider)]
        return None, *(torch.empty_like(value) for value in (x, *weights))


def _sum_of_rows(
    total: Sequence[int], dim: int, index: Sequence[int], terms: Sequence[int], **_: Any
) -> int:
    """FLOPs of adding rows up by an index: a product with a matrix of one entry a row, which
    torch's counter knows only in its dense form."""
    return 2 * math.prod(terms)


def _matrix_vector(matrix: Sequence[int], vector: Sequence[int], **_: Any) -> int:
    return 2 * math.prod(matrix)


def _sparse_matrix(total: Tensor, sparse: Tensor, dense: Tensor, **_: Any) -> int:
    """Only stored entries are multiplied."""
    return int(2 * sparse._nnz() * dense.shape[1])


_sparse_matrix._get_raw = True  # type: ignore[attr-defined]  # tensors, not their shapes


def _attention(
    query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    """Queries (B, heads, T, d) by keys (B, heads, S, d), and weights by values."""
    return 2 * math.prod(query) * key[2] + 2 * math.prod(query[:3]) * math.prod(value[2:])


def _recurrent(
    steps: Sequence[int], by_input: Sequence[int], by_state: Sequence[int], *_: Any, **__: Any
) -> int:
    """One direction of one layer over (T, B, d): each step is multiplied by all weights."""
    return 2 * math.prod(steps[:2]) * (math.prod(by_input) + math.prod(by_state))


def _recurrent_layers(
    steps: Sequence[int], weights: Sequence[Sequence[int]], *_: Any, **__: Any
) -> int:
    """All layers and directions at once, as on a GPU."""
    return 2 * math.prod(steps[:-1]) * sum(math.prod(w) for w in weights if len(w) == 2)


# Operators that torch's counter lacks.
_FLOPS: dict[Any, Any] = {
    torch.ops.aten.index_add: _sum_of_rows,
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten._sparse_addmm: _sparse_matrix,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent,
    torch.ops.aten._cudnn_rnn: _recurrent_layers,
}


class _Shortcuts(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Finds the sums in which data meet again: a row of ``layers`` gets ``skips``, the places of
    the rows after which the two parted (-1: an input), where one way has fewer weighted layers.

    Each tensor of data is known by the rows that it was made by, as the bits of a number.
    """

    def __init__(self, layers: list[dict[str, Any]], inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers = layers
        # Storages are held, so that no number of one is given to another.
        self._made: dict[int, tuple[Any, int]] = {}
        for tensor in inputs:
            self._mark(tensor, 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        found = [bits for t in tree_leaves((args, kwargs)) if (bits := self._bits(t)) is not None]
        if str(func.overloadpacket) in ("aten.add", "aten.add_") and len(found) == 2:
            self._meet(*found)
        if found:
            bits = 0
            for each in found:
                bits |= each
            for tensor in tree_leaves(result):
                self._mark(tensor, bits)
        return result

    def _meet(self, one: int, other: int) -> None:
        """Of two ways from where they part the one with fewer weighted layers is a shortcut."""
        last = (one | other).bit_length() - 1
        if last >= 0 and self._weighted(one & ~other) != self._weighted(other & ~one):
            self.layers[last].setdefault("skips", []).append((one & other).bit_length() - 1)

    def _weighted(self, bits: int) -> int:
        return sum(bits >> i & 1 for i, row in enumerate(self.layers) if row["params"])

    def made(self, given: Any, output: Any) -> None:
        """The last row of ``layers`` has this output; one that returns what it was given is no
        step of the way."""
        own = {
            storage._cdata for storage in map(_storage, tree_leaves(given)) if storage is not None
        }
        for tensor in tree_leaves(output):
            storage, bits = _storage(tensor), self._bits(tensor)
            if storage is not None and storage._cdata not in own and bits is not None:
                self._mark(tensor, bits | 1 << len(self.layers) - 1)

    def _bits(self, value: Any) -> int | None:
        storage = _storage(value)
        found = None if storage is None else self._made.get(storage._cdata)
        return None if found is None else found[1]

    def _mark(self, value: Any, bits: int) -> None:
        storage = _storage(value)
        if storage is not None:
            self._made[storage._cdata] = (storage, bits)


def _storage(value: Any) -> torch.UntypedStorage | None:
    """Where a dense tensor's values are; None for all else."""
    dense = isinstance(value, Tensor) and value.layout == torch.strided
    return value.untyped_storage() if dense else None


def _recorder(
    layers: list[dict[str, Any]], name: str, shortcuts: _Shortcuts
) -> Callable[..., None]:
    def record(module: nn.Module, given: Any, output: Any) -> None:
        shape = list(output.shape[1:]) if isinstance(output, Tensor) else []
        again = any(layer["name"] == name for layer in layers)
        params = 0 if again else sum(p.numel() for p in module.parameters())
        layers.append(
            {"name": name, "type": type(module).__name__, "output": shape, "params": params}
        )
        shortcuts.made(given, output)

    return record


def training_mb(
    build: Callable[[], nn.Module],
    batch: Callable[[int], Inputs],
    samples: int,
    augment: Callable[[Inputs], Inputs] = dict,
) -> float:
    """The most memory that a training step of ``samples`` in float32 with AdamW needs, MiB.

    A process may hold more, up to ``HEAP_OVERHEAD`` times: see ``trim_heap``.

    ``build()`` makes the network, ``batch(samples)`` its inputs. The step is traced on the meta
    device with ``augment(batch(samples))``: weights and two moments, the activations kept by the
    forward pass beside the gradients of the step before, the new gradients as the backward pass
    makes them, the workspace of each operator, and the inputs. A data-dependent network runs on
    real tensors, with ``REAL_SAMPLES`` at most, and what they need is multiplied.
    """

    def step(network: nn.Module, given: Inputs, ledger: _Ledger) -> int:
        network.train()
        loss = network(**augment(given)).float().square().mean()
        loss = loss + getattr(network, "auxiliary_loss", 0.0)
        forward, ledger.peak = ledger.peak, ledger.live  # the old gradients are freed here
        loss.backward()
        weights = _trained(network)
        return 2 * weights + max(forward + weights, ledger.peak)

    return _traced(build, batch, samples, step, copies=3)


def inference_mb(
    build: Callable[[], nn.Module], batch: Callable[[int], Inputs], samples: int
) -> float:
    """The most memory that a prediction of ``samples`` in float32 needs, weights included, MiB;
    arguments as in ``training_mb``."""

    def predict(network: nn.Module, given: Inputs, ledger: _Ledger) -> int:
        network.eval()
        with torch.no_grad():
            network(**given)
        return ledger.peak

    return _traced(build, batch, samples, predict, copies=0)


def _traced(
    build: Callable[[], nn.Module],
    batch: Callable[[int], Inputs],
    samples: int,
    play: Callable[[nn.Module, Inputs, _Ledger], int],
    copies: int,
) -> float:
    """MiB at the peak of ``play``; ``copies`` of the trained weights (gradients, moments) come on
    top of them and do not grow with the batch."""
    network, real = _built(build)
    few = min(REAL_SAMPLES, samples) if real else samples
    given = _placed(network, batch(few), real)
    own = [*network.parameters(), *network.buffers()]
    ledger = _Ledger([*own, *given.values()])
    with _FusedOps(), ledger:
        most = play(network, given, ledger)
    fixed = _bytes(own) + copies * _trained(network)
    return (fixed + (most - fixed) * samples / few) / 2**20


def _trained(network: nn.Module) -> int:
    return _bytes(p for p in network.parameters() if p.requires_grad)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts the bytes of all live tensors, and their peak."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}
        self._hold(tensors)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._hold(tree_leaves(result))
        own = _WORKSPACE.get(str(func.overloadpacket))
        if own is not None:
            self.peak = max(self.peak, self.live + own(args, result))
        return result

    def _hold(self, values: Iterable[Any]) -> None:
        for value in values:
            if not isinstance(value, Tensor):
                continue
            parts = (value._indices(), value._values()) if value.is_sparse else (value,)
            for storage in (part.untyped_storage() for part in parts):
                key = storage._cdata
                if key not in self._known:
                    size = storage.nbytes()
                    gone = partial(self._drop, key, size)
                    self._known[key] = weakref.ref(storage, gone)
                    self.live += size
        self.peak = max(self.peak, self.live)

    def _drop(self, key: int, size: int, _: Any) -> None:
        del self._known[key]
        self.live -= size


def _convolved(args: Any, result: Any) -> int:
    """On a CPU (oneDNN) a convolution's input and output are reordered, not both at a time; the
    backward pass has the input beside either."""
    if isinstance(result, Tensor):
        inputs = args[:1]
        own: int = max(args[0].nbytes, result.nbytes)
    else:
        inputs = args[:2]
        own = args[1].nbytes + max(args[0].nbytes, args[1].nbytes)
    return own + _copied(inputs)


def _normalised(args: Any, result: Any) -> int:
    """The first argument is the input, or its gradient's; the gradient of an input that needs none
    is None."""
    return _copied(t for t in args if isinstance(t, Tensor) and t.ndim == args[0].ndim)


def _copied(tensors: Iterable[Tensor]) -> int:
    """What is not contiguous is copied first."""
    return _bytes(t for t in tensors if not t.is_contiguous())


def _scanned(args: Any, result: Any) -> int:
    """A scan lays its inputs out time first, keeps the results of its chunks, joins them, and
    holds two tensors of all states of one chunk, or seven in the backward pass."""
    given = _bytes(t for t in args if t.ndim == 3)
    found: list[int] = [t.nbytes for t in result if t.ndim == 3]
    *_, states = (t for t in (*args, *result) if t.ndim == 4)
    chunk: int = states[0].nbytes * -(-args[0].shape[1] // len(states))
    return given + sum(found) + max(found) + chunk * (2 if states is result[-1] else 7)


def _converted(args: Any, result: Any) -> int:
    """Operands of another type than the result's are converted as a whole: a comparison that is
    summed, or multiplied by, as in the gradient of a greatest value."""
    others = (t for t in args if isinstance(t, Tensor) and t.ndim and t.dtype != result.dtype)
    return sum(t.numel() * result.itemsize for t in others)


# By name, as a scan's operators are registered only when its module is imported.
_WORKSPACE: dict[str, Callable[[Any, Any], int]] = {
    **{f"aten.{name}": _converted for name in ("add", "sub", "mul", "div", "sum")},
    "aten.convolution": _convolved,
    "aten.convolution_backward": _convolved,
    "aten.native_layer_norm": _normalised,
    "aten.native_layer_norm_backward": _normalised,
    "nas.selective_scan": _scanned,
    "nas.selective_scan_backward": _scanned,
}


def trim_heap(at_once: bool) -> None:
    """Set whether the C library's heap returns freed memory to the system at once, or keeps it.

    Kept, it fragments, and a process holds up to ``HEAP_OVERHEAD`` times what it needs; returned
    at once, a process holds what ``training_mb`` predicts, and a step takes 1.6 to 2.7 times as
    long.

    glibc's (man 3 mallopt); with another C library nothing changes.
    """
    if libc := _glibc():
        mapped = 2**16 if at_once else 2**25  # bytes from which a block is mapped by itself
        libc.mallopt(-3, mapped)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2 * mapped)  # M_TRIM_THRESHOLD
        libc.malloc_trim(0)


def release_heap() -> None:
    """Return what is free in glibc's heap to the system; with another C library do nothing."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def available_memory_mb(
    device: str, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")
) -> float:
    """The memory that a training may still use, MiB. On a GPU: what is free. On a CPU: what is
    available to the machine or left by the process's control groups (a container's limit),
    whichever is less; a group's cached files count as free. Infinite where neither is known.

    ``proc`` and ``groups`` are where Linux mounts these (man 5 proc; its admin-guide on cgroup
    v1 memory and cgroup v2).
    """
    if device != "cpu":
        return float(torch.cuda.mem_get_info()[0]) / 2**20
    available = [math.inf]
    with suppress(FileNotFoundError):  # not Linux
        available.append(_numbers(proc / "meminfo")["MemAvailable"] * 2**10)
    for limit, usage, cached in memory_groups(proc, groups):
        used = int(usage.read_text()) - _numbers(usage.with_name("memory.stat")).get(cached, 0)
        available.append(limit - used)
    return min(available) / 2**20


def _numbers(file: Path) -> dict[str, int]:
    """Lines of a name and a number, in any unit."""
    pairs = (line.replace(":", " ").split() for line in file.read_text().splitlines())
    return {name: int(number) for name, number, *_ in pairs}
