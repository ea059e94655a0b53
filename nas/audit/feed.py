"""How anybody's ``forward`` is given samples: tensors, a data set, or random ones of a shape."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.audit.anatomy import forward, kept, main_output, relative_change
from nas.data import Dataset
from nas.task import DataProfile, InputError, Target, UsageError, input_type
from nas.training.batches import Batch, Batches, batch_inputs, part_tensors

Call = Callable[[dict[str, Tensor]], tuple[Sequence[Any], Mapping[str, Any]]]


class OutputShape(ValueError):  # noqa: N818
    """The output of a network is not one row of outputs for each sample."""


# Arguments of forward that say what is padding, by the names that torch and transformers use.
_LENGTHS = ("length", "lengths", "input_lengths")
_MASKS = ("mask", "attention_mask")  # true where there is something
_PADDING = ("padding_mask", "src_key_padding_mask", "key_padding_mask")  # true where not


@dataclass(frozen=True)
class Problem:
    """What a network is trained for: its targets, whose outputs stand side by side, and ``call``,
    which turns a batch's inputs into the arguments of ``forward``."""

    targets: tuple[Target, ...]
    call: Call

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean over the targets of cross-entropy or squared error in variances.

        Raises OutputShape.
        """
        inputs, labels = batch
        args, kwargs = self.call(inputs)
        output = main_output(forward(network, args, kwargs))
        rows = len(next(iter(labels.values())))
        output = output.float().unsqueeze(1) if output.ndim == 1 else output.float()
        parts = [self._width(target, output) for target in self.targets]
        if output.ndim != 2 or output.shape[0] != rows or output.shape[1] < sum(parts):
            wanted = f"({rows}, {sum(parts)})"
            raise OutputShape(f"it returns {tuple(output.shape)} for {rows} samples, not {wanted}")
        if len(parts) == 1:  # more outputs than classes can be trained too
            parts = [output.shape[1]]
        total = output.new_zeros(())
        for target, part in zip(self.targets, torch.split(output, parts, dim=1), strict=True):
            total = total + _loss(target, part, labels[target.name])
        return total / len(self.targets)

    def _width(self, target: Target, output: Tensor) -> int:
        binary = target.kind == "binary" and len(self.targets) == 1 and output.shape[-1] == 1
        return 1 if binary else target.outputs

    @property
    def uniform(self) -> float:
        """The loss of a network that knows nothing: each class is as likely, or a mean of zero."""
        losses = {"regression": 1.0, "multilabel": math.log(2)}
        return fmean(losses.get(t.kind) or math.log(max(len(t.classes), 2)) for t in self.targets)

    def constant(self, labels: Mapping[str, Tensor]) -> float:
        """The loss of the best prediction that is the same for all these samples."""
        return fmean(_constant(target, labels[target.name]) for target in self.targets)


def _loss(target: Target, output: Tensor, label: Tensor) -> Tensor:
    if target.kind == "regression":
        return F.mse_loss(output[:, 0], ((label - target.mean) / target.std).float())
    if target.kind == "multilabel":
        return F.binary_cross_entropy_with_logits(output, label.float())
    if output.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(output[:, 0], label.float())
    return F.cross_entropy(output, label)


def _constant(target: Target, label: Tensor) -> float:
    if target.kind == "regression":
        return float(((label - target.mean) / target.std).double().var(correction=0))
    if target.kind == "multilabel":
        fractions = torch.stack([label.float().mean(0), 1 - label.float().mean(0)])
        return float(torch.special.entr(fractions).sum(0).mean())
    return float(torch.special.entr(label.bincount() / len(label)).sum())


@dataclass(frozen=True)
class Feed:
    """The arguments of ``forward`` for a few samples, and, where there are labels, what a short
    training needs. ``scale`` is the largest mean or deviation of the inputs' values, and
    ``note`` says how the data are given."""

    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    batches: Batches | None = None
    problem: Problem | None = None
    samples: int | None = None
    classes: int | None = None  # 0 for numbers
    scale: float = 1.0
    whole_graph: bool = False
    note: str = ""


def _home(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where the parameters are, and of which type."""
    floats = (p for p in network.parameters() if p.is_floating_point())
    parameter = next(floats, torch.empty(0))
    return parameter.device, parameter.dtype


def from_shape(network: nn.Module, shapes: Sequence[Sequence[int]]) -> Feed:
    """Two samples of normal numbers; ids where the network looks an input up in a table."""
    draw = torch.Generator().manual_seed(0)
    device, dtype = _home(network)
    given = [torch.randn(2, *shape, generator=draw).to(device, dtype) for shape in shapes]
    ids: dict[int, int] = {}  # input → rows of its table

    def record_ids(table: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not args[0].is_floating_point():
            return args
        where = args[0].untyped_storage().data_ptr()
        for i, tensor in enumerate(given):
            if tensor.untyped_storage().data_ptr() == where:
                ids[i] = min(int(table.num_embeddings), ids.get(i, 2**31))  # type: ignore[arg-type]
        return (torch.zeros_like(args[0], dtype=torch.long),)

    tables = [m for m in network.modules() if isinstance(m, nn.Embedding)]
    if tables:
        hooks = [table.register_forward_pre_hook(record_ids) for table in tables]
        try:
            with kept(network), torch.no_grad():
                network.eval()
                forward(network, given, {})
        finally:
            for hook in hooks:
                hook.remove()
        for i, rows in ids.items():
            drawn = torch.randint(0, rows, given[i].shape, generator=draw)
            given[i] = drawn.to(device)
    kinds = [f"ids below {ids[i]:,}" if i in ids else "normal numbers" for i in range(len(given))]
    sides = [",".join(map(str, shape)) for shape in shapes]
    pairs = [f"{name} of shape {shape}" for name, shape in zip(kinds, sides, strict=True)]
    return Feed(given, {}, note=f"the input is drawn: {'; '.join(pairs)}")


def from_tensors(network: nn.Module, x: Any, y: Any, batch_size: int) -> Feed:
    """``x`` as ``forward`` takes it, a tensor or several; ``y`` their labels, or None."""
    if isinstance(x, Mapping):
        named = dict(x)
    elif isinstance(x, (tuple, list)) and any(hasattr(part, "ndim") for part in x):
        named = {str(i): part for i, part in enumerate(x)}
    else:
        named = {"0": x}
    device, dtype = _home(network)
    inputs = {key: _tensor(value, "an input").to(device) for key, value in named.items()}
    inputs = {k: t.to(dtype) if t.is_floating_point() else t for k, t in inputs.items()}
    if len({len(t) for t in inputs.values()}) != 1:
        sizes = ", ".join(str(tuple(t.shape)) for t in inputs.values())
        raise InputError(f"the inputs differ in their number of samples: {sizes}")
    samples = len(next(iter(inputs.values())))
    args, kwargs = _by_place({key: value[:2] for key, value in inputs.items()})
    scale = _scale(inputs)
    if y is None:
        return Feed(args, kwargs, scale=scale)
    labels = _tensor(y, "the labels").to(device)
    if len(labels) != samples:
        raise InputError(f"{len(labels)} labels for {samples} samples")
    target, labels = _target(labels)
    return Feed(
        args,
        kwargs,
        Batches(dict(inputs), {"y": labels}, batch_size, seed=0),
        Problem((target,), _by_place),
        samples,
        _classes((target,)),
        scale,
    )


def from_dataset(network: nn.Module, dataset: Dataset, batch_size: int) -> Feed:
    """The training part of a data set. A network whose arguments have the names of its inputs is
    given these; others get one tensor: images, tables and sounds standardised as floats, texts as
    ids, and what says their lengths where an argument is called so."""
    inputs, labels = part_tensors(dataset, dataset.parts["train"], str(_home(network)[0]))
    batches = Batches(inputs, labels, batch_size, seed=0)
    few = some_inputs(batches, range(min(2, batches.samples)))
    call, note = _call(network, dataset, list(few))
    args, kwargs = call(few)
    return Feed(
        args,
        kwargs,
        batches,
        Problem(dataset.targets, call),
        dataset.profile.n_train,
        _classes(dataset.targets),
        whole_graph="node" in dataset.profile.inputs,
        note=note,
    )


def described(dataset: Dataset) -> str:
    """What a network is given of a data set, and the outputs that it must have, for people who
    write one: "one sample is (7,): …; 2 outputs (classes of y)"."""

    class Unwritten(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError

    outputs = " + ".join(
        f"{t.outputs} ({t.kind} {t.name})"
        if len(dataset.targets) > 1
        else f"{t.outputs} ({t.kind})"
        for t in dataset.targets
    )
    try:
        fed = from_dataset(Unwritten(), dataset, batch_size=2)
        shape = tuple(fed.args[0].shape[1:])
        given = f"one sample is {shape}: {fed.note}"
    except UsageError:
        given = "forward takes its inputs by name"
    names = ", ".join(f"{name} {shape}" for name, shape in dataset.profile.inputs.items())
    return (
        f"{given}\narguments of forward of these names are given them uncoded: {names}\n"
        f"outputs: {outputs}"
    )


def some_inputs(batches: Batches, rows: Sequence[int]) -> dict[str, Tensor]:
    """A batch's inputs for these of its samples."""
    chosen = torch.tensor(list(rows))
    device = next(iter(batches.labels.values())).device
    return batch_inputs(batches.inputs, chosen, chosen.to(device))


@torch.no_grad()
def padding_error(network: nn.Module, feed: Feed) -> float | None:
    """By how much the output of a short sample changes, over its size, where a long one stands in
    its batch; None where all samples are of a length."""
    if feed.batches is None or feed.problem is None:
        return None
    lengths = feed.batches._lengths
    if lengths is None or int(lengths.min()) == int(lengths.max()):
        return None
    order = lengths.argsort(stable=True)
    # Of the shortest tenth: an empty sample would show nothing.
    rows = [int(order[len(order) // 10]), int(order[-1])]
    if lengths[rows[0]] == lengths[rows[1]]:
        return None
    outputs = []
    with kept(network):
        network.eval()
        for some in (rows, rows[:1]):
            args, kwargs = feed.problem.call(some_inputs(feed.batches, some))
            outputs.append(main_output(forward(network, args, kwargs))[0].float())
    return relative_change(*outputs)


@torch.no_grad()
def company_error(network: nn.Module, feed: Feed) -> float | None:
    """By how much the output of a sample changes, over its size, where another one stands in its
    batch; infinite where it has none alone, None where inputs are not cut by samples."""
    tensors = [t for t in (*feed.args, *feed.kwargs.values()) if isinstance(t, Tensor)]
    sizes = {len(t) if t.ndim else 0 for t in tensors}
    if feed.whole_graph or len(sizes) != 1 or min(sizes) < 2:
        return None

    def first(value: Any) -> Any:
        return value[:1] if isinstance(value, Tensor) else value

    with kept(network):
        network.eval()
        together = main_output(forward(network, feed.args, feed.kwargs)).float()
        kwargs = {name: first(value) for name, value in feed.kwargs.items()}
        try:
            alone = main_output(forward(network, [first(value) for value in feed.args], kwargs))
        except InputError:
            return math.inf
    return relative_change(together[:1], alone.float())


def _tensor(value: Any, what: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{what} cannot be made a tensor of numbers: {error}") from None


def _by_place(inputs: dict[str, Tensor]) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Inputs called by numbers are positional."""
    args = [value for key, value in inputs.items() if key.isdigit()]
    return args, {key: value for key, value in inputs.items() if not key.isdigit()}


def _scale(inputs: Mapping[str, Tensor]) -> float:
    numbers = [t.detach().float() for t in inputs.values() if t.is_floating_point()]
    return max((max(float(t.mean().abs()), float(t.std())) for t in numbers), default=1.0)


def _classes(targets: Sequence[Target]) -> int | None:
    """What one target needs; of several, or of several yes/no questions, unknown."""
    if len(targets) > 1 or targets[0].kind == "multilabel":
        return None
    return 0 if targets[0].kind == "regression" else len(targets[0].classes)


def _target(labels: Tensor) -> tuple[Target, Tensor]:
    """What labels mean: integers are classes, columns of 0 and 1 yes/no questions, others
    numbers."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        if not bool(((labels == 0) | (labels == 1)).all()):
            raise InputError("labels of several columns must be 0 or 1 (multilabel)")
        names = tuple(str(i) for i in range(labels.shape[1]))
        return Target("y", "multilabel", names, tuple(labels.long().sum(0).tolist())), labels
    if labels.is_floating_point():
        values = labels.double()
        spread = float(values.std()) or 1.0
        return Target("y", "regression", mean=float(values.mean()), std=spread), values
    labels = labels.long()
    if int(labels.min()) < 0:
        raise InputError(f"classes are numbered from 0; there is a label {int(labels.min())}")
    counts = tuple(labels.bincount().tolist())
    names = tuple(str(i) for i in range(len(counts)))
    if len(counts) == 2:
        return Target("y", "binary", names, counts), labels
    return Target("y", "multiclass", names, counts), labels


def _call(network: nn.Module, dataset: Dataset, names: Sequence[str]) -> tuple[Call, str]:
    """How a batch of the data set becomes the arguments of ``forward``."""
    signature = inspect.signature(network.forward).parameters
    parameters = list(signature)
    any_name = {p.kind for p in signature.values()} == {inspect.Parameter.VAR_KEYWORD}
    if set(names) <= set(parameters) or any_name:
        return (lambda inputs: ((), inputs)), ""
    kinds = {input_type(name.removesuffix("_length")) for name in names}
    tables = {"numeric", "categorical"}
    if kinds <= tables:
        kind, described = "table", "a table as floats (B, values), standardised, categories one-hot"
    elif len(kinds) == 1 and (kind := kinds.pop()) in _FORMS:
        described = _FORMS[kind]
    else:
        raise UsageError(
            f"forward of {type(network).__name__} takes {', '.join(parameters)}; for this data its"
            f" arguments must be called {', '.join(names)}"
        )
    extra = [p for p in parameters[1:] if p in (*_LENGTHS, *_MASKS, *_PADDING)]

    def call(inputs: dict[str, Tensor]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        value = _plain(kind, inputs, dataset)
        more: dict[str, Tensor] = {}
        if (lengths := inputs.get(f"{kind}_length")) is not None:
            real = torch.arange(value.shape[1], device=value.device) < lengths[:, None]
            for name in extra:
                more[name] = lengths if name in _LENGTHS else real if name in _MASKS else ~real
            if "attention_mask" in more:  # transformers' are of integers
                more["attention_mask"] = real.long()
        return (value,), more

    if f"{kind}_length" in names:
        listed = ", ".join(extra)
        described += f"; {listed} from their lengths" if extra else "; it takes no lengths"
    return call, f"the network is given {described}"


_FORMS = {
    "image": "images as floats (B, C, H, W), standardised by channel",
    "tokens": "texts as ids of tokens (B, T), where 0 is padding",
    "series": "sequences as floats (B, T, channels), standardised by channel",
    "wave": "sounds as floats (B, T) within ±1",
    "points": "clouds as floats (B, points, features)",
}


def _plain(kind: str, inputs: dict[str, Tensor], dataset: Dataset) -> Tensor:
    """One tensor of a batch's inputs."""
    profile = dataset.profile
    if kind == "image":
        pixels = inputs["image"].float() / 255
        mean, std = (
            pixels.new_tensor(v).view(1, -1, 1, 1)
            for v in (profile.channel_mean, profile.channel_std)
        )
        return (pixels - mean) / std
    if kind == "series":
        return _standardised(inputs["series"], inputs["series_length"], profile)
    if kind == "wave":
        return inputs["wave"].float() / 2**15
    if kind != "table":
        return inputs[kind]
    parts = []
    if (values := inputs.get("numeric")) is not None:
        columns = [c for c in profile.columns if c.kind == "numeric"]
        mean = values.new_tensor([c.mean for c in columns])
        std = values.new_tensor([c.std or 1.0 for c in columns])
        parts.append(((values - mean) / std).nan_to_num(0.0))
    if (codes := inputs.get("categorical")) is not None:
        columns = [c for c in profile.columns if c.kind == "categorical"]
        parts += [
            nn.functional.one_hot(codes[:, i].long(), len(column.categories) + 1).float()
            for i, column in enumerate(columns)
        ]
    return torch.cat(parts, dim=1)


def _standardised(steps: Tensor, length: Tensor, profile: DataProfile) -> Tensor:
    """Sequences (B, T, channels), zero where padded."""
    mean, std = (steps.new_tensor(v) for v in (profile.channel_mean, profile.channel_std))
    real = torch.arange(steps.shape[1], device=steps.device) < length[:, None]
    return (steps - mean) / std * real.unsqueeze(2)
