"""What anybody's network is made of, read off one forward pass.

Every operation passes below autograd, where a module's layers and what a ``forward`` does by
hand look alike: a sum is a sum, a product with a weight is a layer. Tensors are known by their
storage, so that views and what is changed in place need no care. A tensor is *data* if it was
made from the inputs, and a *weight* if from parameters alone. Data that meet again after
different numbers of layers are the two ends of a shortcut.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas.layers import Anatomy, Layer
from nas.task import InputError

# Where the operands stand in the arguments of ATen's products.
_PRODUCTS = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "addmm": (1, 2),
    "baddbmm": (1, 2),
    "convolution": (0, 1),
    "_trilinear": (0, 1),
}
_ACTIVATIONS = {
    "relu": "relu",
    "threshold": "relu",
    "gelu": "gelu",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "leaky_relu": "leaky relu",
    "_prelu_kernel": "prelu",
    "elu": "elu",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "hardtanh": "hardtanh",
    "mish": "mish",
    "softplus": "softplus",
    "log_sigmoid_forward": "log sigmoid",
    "_softmax": "softmax",
    "_safe_softmax": "softmax",
    "_log_softmax": "log softmax",
    "glu": "glu",
    "hardshrink": "hardshrink",
    "softshrink": "softshrink",
    "rrelu_with_noise": "rrelu",
    "rrelu_with_noise_functional": "rrelu",
    "sin": "sine",
    "cos": "sine",
    "abs": "absolute value",
}
# A product with, or a choice by, which data are positive: an activation written by hand.
_COMPARISONS = {"gt", "ge", "lt", "le", "sign", "heaviside"}
_NORMS = {"batch_norm": "batch", "layer_norm": "layer", "group_norm": "group", "rms_norm": "rms"}
NORM_CLASS = re.compile(r"(Batch|Layer|Group|Instance|RMS)_?Norm", re.IGNORECASE)
# Sums and their like, whose gradient reaches each part as it is.
_SUMS = {"add", "sub", "rsub", "cat", "stack", "lerp", "copy", "index_add", "scatter_add"}
# What these return takes only its size from the data.
_EMPTY = re.compile(r"^(empty|zeros|ones|full|rand|randn|randint)_like$|^new_|^bernoulli$")


def trace(
    network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Layer, ...], Any]:
    """Run ``network`` once, as it stands (training or not), and return its layers in the order
    of execution and its output.

    Fused attention is taken apart into its products. A recurrent module of torch is one layer.
    Weights that are used again downstream of their first use add no depth, so that a loop over
    time is no stack. Tensors of subclasses and sparse ones are not followed.
    """
    tracer = _Tracer(network)
    tracer.take_inputs(args, kwargs)
    with _hooked(network, tracer), sdpa_kernel(SDPBackend.MATH), tracer:
        output = forward(network, args, kwargs)
    return tuple(tracer.layers), output


def anatomy(
    network: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Anatomy:
    """What one pass of a few samples shows of a network. Its parameters, buffers and mode are
    the same afterwards.

    Raises InputError where ``forward`` fails, its output holds no numbers, or the network is on
    the meta device.
    """
    kwargs = kwargs or {}
    if any(t.is_meta for t in (*network.parameters(), *network.buffers())):
        raise InputError(f"{type(network).__name__} has no values yet (it is on the meta device)")
    with kept(network), torch.no_grad():
        network.eval()
        forward(network, args, kwargs)  # mistakes show here, and lazy parameters get their sizes
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    with kept(network), torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        # Some layers are left out by chance in training, and some heads are there only then.
        network.train()
        layers, output = trace(network, args, kwargs)
        reached = _reached(network, output, trained)
        network.eval()
        output = forward(network, args, kwargs)
        reached |= _reached(network, output, trained)
        values = main_output(output).detach().float()
        with torch.no_grad():
            # A few more passes: a mask that is drawn may be the same twice.
            others = [main_output(forward(network, args, kwargs)).float() for _ in range(3)]
    return Anatomy(
        layers=layers,
        params=sum(p.numel() for p in network.parameters()),
        outputs=int(values.shape[-1]) if values.ndim > 1 else 1,
        ends=_ends(layers, values),
        noise=max(relative_change(values, other) for other in others),
        unreached={name: p.numel() for name, p in trained.items() if name not in reached},
        pretrained=_weights_for(network),
    )


def forward(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The network's output; what ``forward`` raises becomes one line that names the shapes it
    was given, an InputError."""
    try:
        return network(*args, **kwargs)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if traceback.extract_tb(error.__traceback__)[-1].filename == __file__:
            raise  # the tracer's own
        shapes = ", ".join(str(tuple(t.shape)) for t in _tensors([args, kwargs]))
        what = f"forward of {type(network).__name__} fails on input of shape {shapes}"
        raise InputError(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


@contextmanager
def kept(network: nn.Module) -> Iterator[None]:
    """Gives parameters, buffers, gradients and each module's mode back as they were, on their
    devices; lazy parameters may get their sizes."""
    tensors = [t for t in (*network.parameters(), *network.buffers()) if not is_lazy(t)]
    values = [t.detach().clone() for t in tensors]
    # Assigned anew where a forward counts in them, and where a trainer moves the network.
    buffers = [(module, dict(module._buffers)) for module in network.modules()]
    grads = [(p, p.grad) for p in network.parameters() if not is_lazy(p)]
    modes = [(module, module.training) for module in network.modules()]
    for p, _ in grads:
        p.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                if tensor.device == value.device:
                    tensor.copy_(value)
                else:
                    tensor.data = value
        for module, named in buffers:
            for name, buffer in named.items():
                module._buffers[name] = buffer
        for p, grad in grads:
            p.grad = grad
        for module, mode in modes:
            module.training = mode


def _reached(network: nn.Module, output: Any, trained: Mapping[str, nn.Parameter]) -> set[str]:
    """The parameters that some output has a gradient of; InputError where it has none that can be
    computed, as where ``forward`` has overwritten what is needed for it."""
    ends = [t.sum() for t in _tensors(output) if t.is_floating_point() and t.requires_grad]
    if not ends or not trained:
        return set()
    try:
        grads = torch.autograd.grad(ends, list(trained.values()), allow_unused=True)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        what = f"the gradient of {type(network).__name__} cannot be computed"
        raise InputError(f"{what}: {_first_line(error)}") from error
    return {name for name, grad in zip(trained, grads, strict=True) if grad is not None}


def relative_change(one: Tensor, other: Tensor) -> float:
    """The norm of the difference of two outputs over that of the second; infinite where their
    shapes differ."""
    if one.shape != other.shape:
        return math.inf
    return float((one - other).norm() / other.norm().clamp(min=1e-12))


def _ends(layers: Sequence[Layer], output: Tensor) -> str:
    """The activation that the output is: by its values, a sigmoid and a ReLU by their place too."""
    rows = output.flatten(end_dim=-2) if output.ndim > 1 else output.unsqueeze(1)
    read = {place for layer in layers for place in layer.reads}
    last = [x.type for i, x in enumerate(layers) if i not in read and x.kind == "activation"]
    if last in (["relu"], ["relu6"]):
        return "relu"
    if not bool(((rows >= 0) & (rows <= 1)).all()):
        return ""
    if rows.shape[1] > 1 and bool(((rows.sum(1) - 1).abs() < 1e-3).all()):
        return "softmax"
    if last == ["softmax"] and bool(((output.sum(0) - 1).abs() < 1e-3).all()):
        return "softmax over the batch"
    return "sigmoid" if last == ["sigmoid"] else ""


def _weights_for(network: nn.Module) -> str:
    """Where weights can be had, as timm's and transformers' networks state."""
    found = getattr(network, "pretrained_cfg", None)
    if isinstance(found, Mapping) and (found.get("hf_hub_id") or found.get("url")):
        return f"timm's {found.get('architecture', type(network).__name__)}"
    config = getattr(network, "config", None)
    if hasattr(type(network), "from_pretrained") and (kind := getattr(config, "model_type", "")):
        return f"transformers' {type(network).__name__}.from_pretrained ({kind})"
    return ""


def main_output(output: Any) -> Tensor:
    """The tensor that a loss takes: the output itself, its ``logits``, or the first of several.

    Raises InputError where there is none.
    """
    for name in ("logits", "prediction_logits"):
        if isinstance(found := getattr(output, name, None), Tensor):
            return found
    leaves = [t for t in tree_leaves(_plain(output)) if isinstance(t, Tensor)]
    floats = [t for t in leaves if t.is_floating_point()]
    if not floats:
        raise InputError("the network returns no tensor of numbers")
    return floats[0]


def _plain(value: Any) -> Any:
    """Dictionaries of other classes as dictionaries, which the search for tensors enters."""
    if isinstance(value, PackedSequence):
        return value.data
    return dict(value) if isinstance(value, Mapping) else value


def _tensors(value: Any) -> list[Tensor]:
    leaves = (_plain(leaf) for leaf in tree_leaves(_plain(value)))
    return [
        t
        for leaf in leaves
        for t in ([leaf] if isinstance(leaf, Tensor) else tree_leaves(leaf))
        if isinstance(t, Tensor) and t.layout == torch.strided
    ]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        self.modules: list[tuple[str, nn.Module]] = [("", network)]
        self.inside = 0  # of modules that are one layer
        self._owners = dict(network.named_modules(remove_duplicate=False))
        self._node: dict[int, int] = {}  # storage of data → place of the layer it came from
        self._weights: dict[int, frozenset[str]] = {}  # storage of weights → parameters
        self._noise: dict[int, float] = {}  # storage → fraction of ones in it
        self._scores: set[int] = set()  # storages of products of data with data
        self._signs: set[int] = set()  # storages of what says where data are positive
        self._above: list[int] = []  # for each layer the bits of all it was made from, and its own
        self._depth: list[int] = []  # weighted layers on the longest way to it
        self._uses: dict[frozenset[str], list[int]] = {}
        self._counted: set[str] = set()  # modules whose parameters a layer has
        self._held: list[torch.UntypedStorage] = []  # so that no number is used twice
        for name, p in network.named_parameters():
            self._hold(p)
            self._weights[_key(p)] = frozenset([name])

    def take_inputs(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Record the network's inputs as its first layers."""
        named = [(f"input {i}" if i else "input", value) for i, value in enumerate(args)]
        for name, value in [*named, *kwargs.items()]:
            for tensor in _tensors(value):
                self._put([tensor], self._add(Layer(name, "input", shape=tuple(tensor.shape[1:]))))

    # -- modules ---------------------------------------------------------------------------------

    def enter(self, name: str, module: nn.Module) -> None:
        """A module's ``forward`` begins."""
        self.modules.append((name, module))
        self.inside += isinstance(module, nn.RNNBase | nn.RNNCellBase)

    def leave(self, name: str, module: nn.Module, given: Any, output: Any, since: int) -> None:
        """A module's ``forward`` ends; ``since`` counts the layers there were when it began."""
        recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase)
        self.inside -= recurrent
        norm = NORM_CLASS.search(type(module).__name__)
        own = not any(True for _ in module.children())
        by_hand = norm and own and not any(x.kind == "norm" for x in self.layers[since:])
        if not self.inside and (recurrent or by_hand):
            data, made = self._data(_tensors(given)), _tensors(output)
            weights = frozenset(f"{name}.{p}".lstrip(".") for p, _ in module.named_parameters())
            if recurrent:
                depth = self._fresh(weights, data, getattr(module, "num_layers", 1))
                kind = type(module).__name__.lower().removesuffix("cell")
                self._record("recurrent", kind, data, made, weights=weights, depth=depth)
            elif norm and data:
                self._record("norm", norm[1].lower(), data, made, weights=weights)
        self.modules.pop()

    # -- operations ------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.inside:
            self._see(str(func.overloadpacket.__name__), args, kwargs or {}, result)
        return result

    def _see(self, op: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        given, made = _tensors([args, kwargs]), _tensors(result)
        op = op.removesuffix("_")
        data = [] if _EMPTY.search(op) else self._data(given)
        if op == "bernoulli" and made:
            rate = next((a for a in args[1:] if isinstance(a, float)), None)  # no generator
            if rate is not None:
                self._mark(made, self._noise, rate)
            return
        if not data:
            weights = [w for t in given if (w := self._weights.get(_key(t)))]
            noise = [n for t in given if (n := self._noise.get(_key(t))) is not None]
            if weights and made:
                self._mark(made, self._weights, _union(weights))
            if noise:
                self._mark(made, self._noise, noise[0])
            return
        if op in _COMPARISONS and any(t.is_floating_point() for t in given):
            self._hold_all(made, self._signs)
            if made and made[0].dtype == torch.bool:
                return
        made = [t for t in made if t.dtype != torch.bool]
        if not made:
            return
        by_sign = any(_key(t) in self._signs for t in given)
        if by_sign and len(data) == 1 and op in ("mul", "where", "masked_fill"):
            self._record("activation", "by sign", data, made[:1])
            return
        if op in _PRODUCTS:
            self._product(op, args, data, made)
        elif "embedding" in op and self._weights.get(_key(given[0])):
            self._record("embedding", "", data, made, weights=self._weights[_key(given[0])])
        elif norm := next((kind for part, kind in _NORMS.items() if part in op), ""):
            own = _union(self._weights.get(_key(t), frozenset()) for t in given)
            # torch normalises instances as channels of a batch of one
            one = norm == "batch" and given[0].shape[0] == 1 < given[0].ndim - 1
            self._record("norm", "instance" if one else norm, data, made[:1], weights=own)
        elif (
            op in _ACTIVATIONS
            or (op in ("clamp", "clamp_min") and _is_zero(args[1]))
            or (op in ("maximum", "minimum") and len(data) == 1)
        ):
            self._activation(op, args, data, made)
        elif op == "native_dropout":
            self._record("dropout", "", data, made[:1], rate=float(args[1]))
        elif op == "mul" and self._dropped(given, data, made):
            pass
        elif len(data) == 1:
            self._put(made, data[0])
            if any(_key(t) in self._scores for t in given):
                self._scores.update(map(_key, made))
        else:
            self._join(op, given, data, made)

    def _product(self, op: str, args: Sequence[Any], data: list[int], made: list[Tensor]) -> None:
        operands = [args[i] for i in _PRODUCTS[op]]
        weights = [t for t in operands if _key(t) not in self._node]
        if not weights:  # of data with data
            self._record("join", "product", data, made)
            self._scores.update(map(_key, made))
            return
        names = self._weights.get(_key(weights[0]), frozenset())
        if not names:  # with a constant
            self._put(made, data[0])
            return
        if op == "convolution":
            kind, width = "conv", weights[0].shape[1:].numel()
        else:
            kind, width = "linear", weights[0].shape[-2]
        bias = _bias(op, args)
        names = names | (self._weights.get(_key(bias), frozenset()) if bias is not None else set())
        depth = self._fresh(names, data, 1)
        self._record(kind, op, data, made, weights=names, depth=depth, width=width)

    def _activation(
        self, op: str, args: Sequence[Any], data: list[int], made: list[Tensor]
    ) -> None:
        kind = _ACTIVATIONS.get(op, "relu")
        if op == "hardtanh" and args[1:] and _is_zero(args[1]):
            kind = "relu6"
        if kind == "softmax" and _key(args[0]) in self._scores and args[0].ndim > 1:
            queries, keys = (int(n) for n in made[0].shape[-2:])
            self._record("attention", "softmax", data, made[:1], tokens=(queries, keys))
        else:
            self._record("activation", kind, data, made[:1])

    def _dropped(self, given: list[Tensor], data: list[int], made: list[Tensor]) -> bool:
        """Whether data are multiplied by drawn zeros and ones; then a dropout is recorded."""
        noise = [t for t in given if _key(t) in self._noise and _key(t) not in self._node]
        if not noise or len(data) != 1:
            return False
        shape = noise[0].shape
        kind = "element" if shape == made[0].shape else "channel"
        if shape[1:].numel() == 1 < made[0].shape[1:].numel():
            kind = "path"
        self._record("dropout", kind, data, made, rate=round(1 - self._noise[_key(noise[0])], 6))
        return True

    def _join(self, op: str, given: list[Tensor], data: list[int], made: list[Tensor]) -> None:
        if op in _SUMS:
            ends = {
                (self._above[a] & self._above[b]).bit_length() - 1
                for a, b in combinations(data, 2)
                if self._depth[a] != self._depth[b] and self._above[a] & self._above[b]
            }
            for fork in ends:
                self.layers[fork] = replace(self.layers[fork], shortcut=True)
            self._record("join", op, data, made, shortcut=bool(ends))
        else:
            for place in data:
                if op == "mul" and self.layers[place].kind == "activation":
                    self.layers[place] = replace(self.layers[place], gate=True)
            self._record("join", op, data, made)
        if any(_key(t) in self._scores for t in given):
            self._scores.update(map(_key, made))

    # -- bookkeeping -----------------------------------------------------------------------------

    def _data(self, tensors: Iterable[Tensor]) -> list[int]:
        """Where data came from; indices and masks count only where there is nothing else."""
        floats, others = dict[int, None](), dict[int, None]()
        for t in tensors:
            if (place := self._node.get(_key(t))) is not None:
                (floats if t.is_floating_point() or t.is_complex() else others)[place] = None
        return list(floats or others)

    def _record(
        self,
        kind: str,
        type_: str,
        data: list[int],
        made: list[Tensor],
        *,
        weights: frozenset[str] = frozenset(),
        **about: Any,
    ) -> None:
        name, module = self.modules[-1]
        if weights:  # a layer is where its weights are declared
            name = min(weights).partition(".parametrizations.")[0]
            name = name if name in self._owners else name.rpartition(".")[0]
            module = self._owners[name]
            self._uses.setdefault(weights, []).append(len(self.layers))
        own = () if name in self._counted or not weights else module.parameters(recurse=False)
        if weights:
            self._counted.add(name)
        layer = Layer(
            name or "(network)",
            kind,
            type_,
            type(module).__name__,
            shape=tuple(made[0].shape[1:]) if made else (),
            reads=tuple(data),
            params=sum(p.numel() for p in own),
            **about,
        )
        self._put(made, self._add(layer))

    def _fresh(self, weights: frozenset[str], data: list[int], depth: int) -> int:
        """The depth of a layer: none where its weights were used upstream."""
        above = 0
        for place in data:
            above |= self._above[place]
        return 0 if any(above >> i & 1 for i in self._uses.get(weights, ())) else depth

    def _add(self, layer: Layer) -> int:
        place = len(self.layers)
        bits, depth = 1 << place, 0
        for i in layer.reads:
            bits |= self._above[i]
            depth = max(depth, self._depth[i])
        self.layers.append(layer)
        self._above.append(bits)
        self._depth.append(depth + (layer.depth if layer.weighted else 0))
        return place

    def _put(self, tensors: Iterable[Tensor], place: int) -> None:
        for tensor in tensors:
            self._hold(tensor)
            self._node[_key(tensor)] = place

    def _mark(self, tensors: Iterable[Tensor], marks: dict[int, Any], value: Any) -> None:
        for tensor in tensors:
            self._hold(tensor)
            marks[_key(tensor)] = value

    def _hold_all(self, tensors: Iterable[Tensor], marks: set[int]) -> None:
        for tensor in tensors:
            self._hold(tensor)
            marks.add(_key(tensor))

    def _hold(self, tensor: Tensor) -> None:
        self._held.append(tensor.untyped_storage())


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == 0


def _union(sets: Iterable[frozenset[str]]) -> frozenset[str]:
    return frozenset[str]().union(*sets)


def _bias(op: str, args: Sequence[Any]) -> Tensor | None:
    at = {"addmm": 0, "baddbmm": 0, "convolution": 2}.get(op)
    return None if at is None else args[at]


@contextmanager
def _hooked(network: nn.Module, tracer: _Tracer) -> Iterator[None]:
    """Sets the module at work in the tracer."""
    begun: list[int] = []
    hooks = []

    def enter(name: str) -> Any:
        def hook(module: nn.Module, *_: Any) -> None:
            begun.append(len(tracer.layers))
            tracer.enter(name, module)

        return hook

    def leave(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            tracer.leave(name, module, [args, kwargs], output, begun.pop())

        return hook

    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # these take no hooks
            continue
        hooks.append(module.register_forward_pre_hook(enter(name), prepend=True))
        hooks.append(module.register_forward_hook(leave(name), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
