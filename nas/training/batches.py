"""Data as tensors on the device, and batches of it that are cut there, not collated.

What is larger than ``resident_limit`` stays in its file: its batches are read while the one before
is trained on (``StreamedInput``). So does a graph of which batches hold neighbourhoods alone
(``SampledNodes``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from nas import rules
from nas.data import Dataset, limits
from nas.data.graphs.sampling import first_edges, neighbourhood
from nas.data.ragged import Input, Layout, Ragged, Whole
from nas.data.split import draw
from nas.files import release
from nas.task import DataProfile, Task, input_type
from nas.training.cost import release_heap
from nas.training.device import free_bytes

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]

POOL = 32  # batches whose samples are sorted by length among each other
RESIDENT_GPU = 1 / 4  # of what this process may take of a GPU, for inputs; the rest is activations
# Floats for each value of an image: 32 channels of a first layer are 11 for each of its three
# colours, and about four such maps are held at once.
ACTIVATIONS = 44
AHEAD = 2  # batches that are read before they are needed


@dataclass(frozen=True)
class RaggedTensor:
    """A ``Ragged`` on the device. ``lengths`` stay on the host: the size of a batch must be known
    there, and reading it from the device would make the host wait."""

    values: Tensor
    offsets: Tensor
    lengths: Tensor
    layout: Layout
    into: str

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        return self.values.device

    def padded(self, rows: Tensor, on_host: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, …) with zeros after each sample's end, and the lengths (B,)."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        longest = max(int(self.lengths[on_host].max()), 1)
        position = torch.arange(longest, device=starts.device)
        index = (starts[:, None] + position).clamp(max=max(len(self.values) - 1, 0))
        real = position < lengths[:, None]
        if not len(self.values):  # every sample is empty
            return self.values.new_zeros((len(rows), longest, *self.values.shape[1:])), lengths
        values = self.values[index]
        return values.masked_fill_(~real.view(*real.shape, *[1] * (values.ndim - 2)), 0), lengths

    def packed(self, rows: Tensor, on_host: Tensor) -> tuple[Tensor, Tensor, int]:
        """(total, …), the lengths (B,) and their sum."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        total = int(self.lengths[on_host].sum())
        shift = starts - (lengths.cumsum(0) - lengths)
        index = torch.repeat_interleave(shift, lengths, output_size=total)
        return self.values[index + torch.arange(total, device=starts.device)], lengths, total


@dataclass(frozen=True)
class WholeTensor:
    """A ``Whole``, on the device from when its ``values`` are asked for first: of a large graph
    they never are."""

    array: np.ndarray
    device: str

    @cached_property
    def values(self) -> Tensor:
        return _tensor(self.array, self.device)

    @cached_property
    def starts(self) -> np.ndarray:
        """Of edges: see ``nas.data.graphs.sampling.first_edges``, as far as a node has any."""
        return first_edges(self.array, int(self.array[-1, 1]) + 1 if len(self.array) else 0)


class SampledNodes:
    """Nodes ``node`` (n,) of a graph that stays where it is: a batch holds some of them with the
    neighbours that ``fan_out`` says (``nas.data.graphs.sampling.neighbourhood``).

    ``graph`` are its "nodes", "edges" and "edge_features". Which neighbours are drawn follows from
    the nodes of the batch and their order: a resumed training draws the same, and a
    validation the same each time. With ``degrees`` a batch has those of the whole graph too.
    """

    def __init__(
        self,
        node: np.ndarray,
        graph: Mapping[str, WholeTensor],
        fan_out: tuple[int, ...],
        device: str,
        degrees: bool = False,
    ) -> None:
        self.node, self.graph, self.fan_out = node, dict(graph), fan_out
        self.device, self.degrees = device, degrees
        nodes, starts = len(graph["nodes"].array), graph["edges"].starts
        self.starts = np.pad(starts, (0, nodes + 1 - len(starts)), mode="edge")

    def __len__(self) -> int:
        return len(self.node)

    def read(self, rows: Tensor) -> dict[str, Tensor]:
        """The inputs of a network for the nodes at these places of ``self.node``."""
        node = self.node[rows.numpy()]
        return self.around(node, self.fan_out, np.random.default_rng(node))

    def around(
        self,
        node: np.ndarray,
        fan_out: Sequence[int | None],
        rng: np.random.Generator,
        values: np.ndarray | None = None,
    ) -> dict[str, Tensor]:
        """The inputs of a network for nodes of the graph, or with ``values`` (N, w) in the place of
        the nodes' features those of its later layers."""
        values = self.graph["nodes"].array if values is None else values
        edges = self.graph["edges"].array
        wanted, place = np.unique(node, return_inverse=True)  # a file is read forwards
        found = neighbourhood(edges, self.starts, wanted, fan_out, rng)
        batch = {
            "node": torch.from_numpy(place),
            "nodes": _tensor(values[found.nodes], "cpu"),
            "edges": torch.from_numpy(found.edges),
        }
        if "edge_features" in self.graph:
            features = self.graph["edge_features"].array[found.origin]
            batch["edge_features"] = _tensor(features, "cpu")
        if self.degrees:
            degree = self.starts[found.nodes + 1] - self.starts[found.nodes]
            batch["degree"] = torch.from_numpy(degree.astype(np.float32))
        return {name: _moved(value, self.device) for name, value in batch.items()}


@dataclass(frozen=True)
class StreamedInput:
    """Samples ``rows`` of an array that stays where it is, mostly in a file: ``read`` brings a
    batch of them to ``device``."""

    array: np.ndarray | Ragged
    rows: np.ndarray
    device: str

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def layout(self) -> Layout | None:
        return self.array.layout if isinstance(self.array, Ragged) else None

    @property
    def lengths(self) -> Tensor:
        assert isinstance(self.array, Ragged)
        return torch.from_numpy(self.array.lengths[self.rows])

    def read(self, rows: Tensor) -> Tensor | RaggedTensor:
        """The samples at these places of ``self.rows``, in their order."""
        # A file is read forwards.
        wanted, back = np.unique(self.rows[rows.numpy()], return_inverse=True)
        own: Input = self.array
        found = to_tensors({"": own}, wanted, "cpu")[""]
        release(self.array.values if isinstance(self.array, Ragged) else self.array)
        if isinstance(found, Tensor):
            return _moved(found[torch.from_numpy(back)], self.device)
        assert isinstance(found, RaggedTensor)
        some = Ragged(found.values.numpy(), found.offsets.numpy(), found.layout, found.into)
        moved = to_tensors({"": some.take(back)}, slice(None), self.device)[""]
        assert isinstance(moved, RaggedTensor)
        return moved


def _moved(values: Tensor, device: str) -> Tensor:
    """On the device, while the host continues."""
    return values if device == "cpu" else values.pin_memory().to(device, non_blocking=True)


DeviceInput = Tensor | RaggedTensor | WholeTensor | StreamedInput | SampledNodes
Tensors = tuple[dict[str, DeviceInput], dict[str, Tensor]]  # inputs and labels


class Batches:
    """Batches by indexing tensors that already are on the device: nothing is copied or
    collated sample by sample.

    With a ``seed`` it shuffles anew in each epoch, and then leaves out a last batch of one
    sample, which BatchNorm cannot be trained on. Where an input is padded, samples of similar
    length come together: in training among those of ``POOL`` batches, else among all.
    Where all samples have an input in common (``Whole``), one batch holds them all.

    Of several processes that train one network, this is number ``rank`` of ``world``: each gets
    ``batch_size`` samples of every batch of ``world * batch_size``, and all get the same number of
    samples. In training up to ``world - 1`` samples of an epoch's last batch are left out for it;
    else the first samples come again at the end (see ``gathered``).
    """

    def __init__(
        self,
        inputs: Mapping[str, DeviceInput],
        labels: Mapping[str, Tensor],
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in [0, {world}), got {rank}")
        self.inputs, self.labels = dict(inputs), dict(labels)
        self.rank, self.world = rank, world
        own = [value for value in inputs.values() if not isinstance(value, WholeTensor)]
        self.samples = len(own[0])
        shared = len(own) < len(inputs)
        # Of all processes together.
        self.batch_size = self.samples if shared else min(batch_size * world, self.samples)
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._begun = torch.empty(0)  # the state of the generator at the begin of the epoch
        self._skip = 0  # batches of it that an earlier training has had
        self._device = torch.device(own[0].device)
        self._streams = any(isinstance(value, (StreamedInput, SampledNodes)) for value in own)
        ragged = [value for value in own if isinstance(value, (RaggedTensor, StreamedInput))]
        padded = [value.lengths for value in ragged if value.layout == "padded"]
        self._lengths = torch.stack(padded).sum(0) if padded else None

    def __len__(self) -> int:
        if self._generator is None:
            return math.ceil(self.samples / self.batch_size)
        full, rest = divmod(self.samples, self.batch_size)
        return full + (rest // self.world > 1)

    def __iter__(self) -> Iterator[Batch]:
        if self._generator is not None:
            self._begun = self._generator.get_state()
        skip, self._skip = self._skip, 0
        order = self._own(self._order())[skip:]
        if not order:
            return
        # A copy to a GPU makes the host wait: one for the whole epoch.
        moved = torch.split(torch.cat(order).to(self._device), [len(rows) for rows in order])

        def cut(rows: Tensor, on_device: Tensor) -> Batch:
            labels = {name: value[on_device] for name, value in self.labels.items()}
            return batch_inputs(self.inputs, rows, on_device), labels

        places = zip(order, moved, strict=True)
        if self._streams:
            yield from _ahead(cut, places)
        else:
            for place in places:
                yield cut(*place)

    def _own(self, batches: list[Tensor]) -> list[Tensor]:
        """The rows of each batch that are this process's."""
        if self.world == 1:
            return batches
        if self._generator is not None:
            return [rows[self.rank :: self.world][: len(rows) // self.world] for rows in batches]
        order = torch.cat(batches)
        each = math.ceil(len(order) / self.world)
        own = order[(self.rank + self.world * torch.arange(each)) % len(order)]
        return list(torch.split(own, math.ceil(self.batch_size / self.world)))

    def gathered(self, parts: Tensor) -> Tensor:
        """What all processes found for their samples (world, samples each, …) as one tensor,
        without the samples that came again."""
        return parts.transpose(0, 1).flatten(0, 1)[: self.samples]

    def position(self, done: int) -> dict[str, Any]:
        """Where a training is after ``done`` batches of its present epoch, for ``go_to``."""
        assert self._generator is not None
        if done >= len(self):
            return {"generator": self._generator.get_state(), "done": 0}
        return {"generator": self._begun, "done": done}

    def go_to(self, position: Mapping[str, Any]) -> None:
        """Go on with the same batches as a training of the same data that was at ``position``."""
        assert self._generator is not None
        self._generator.set_state(position["generator"])
        self._begun, self._skip = position["generator"], int(position["done"])

    def _order(self) -> list[Tensor]:
        """The rows of each batch, of all processes together."""
        if self._generator is None:
            order = torch.arange(self.samples)
            if self._lengths is not None:
                order = self._lengths.argsort(stable=True)
            return list(torch.split(order, self.batch_size))
        order = torch.randperm(self.samples, generator=self._generator)
        if self._lengths is None:
            return list(torch.split(order, self.batch_size))[: len(self)]
        lengths = self._lengths
        pools = torch.split(order, POOL * self.batch_size)
        order = torch.cat([pool[lengths[pool].argsort()] for pool in pools])
        batches = list(torch.split(order, self.batch_size))[: len(self)]
        shuffled = torch.randperm(len(batches), generator=self._generator)
        return [batches[i] for i in shuffled.tolist()]


def _ahead(work: Callable[..., Batch], places: Iterator[tuple[Any, ...]]) -> Iterator[Batch]:
    """``work`` of each place in turn, ``AHEAD`` of them begun before they are asked for.

    Batches that one thread makes and another one drops leave holes in the heap, which grows by
    gigabytes in an epoch: what is free goes back whenever so much was read as may be held.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(work, *place) for place in islice(places, AHEAD)]
        try:
            read = 0
            while waiting:
                found = waiting.pop(0).result()
                waiting += [pool.submit(work, *place) for place in islice(places, 1)]
                read += sum(value.nbytes for value in found[0].values())
                if read > limits.resident_limit():
                    read = 0
                    release_heap()
                yield found
        finally:
            for each in waiting:
                each.cancel()


def batch_inputs(
    inputs: Mapping[str, DeviceInput], rows: Tensor, on_device: Tensor
) -> dict[str, Tensor]:
    """The inputs of a network for the samples ``rows``, by name; ``on_device`` are the same
    numbers on the device. For shapes see ``nas.data.ragged.Ragged``."""
    batch: dict[str, Tensor] = {}
    starts: dict[str, Tensor] = {}  # where each sample begins, of packed inputs
    every = torch.arange(len(rows))
    for name, given in inputs.items():
        if isinstance(given, SampledNodes):
            batch |= given.read(rows)
            continue
        at, at_device = rows, on_device
        value: Tensor | RaggedTensor | WholeTensor
        if isinstance(given, StreamedInput):
            value = given.read(rows)
            at, at_device = every, every.to(given.device)
        else:
            value = given[on_device] if isinstance(given, Tensor) else given
        if isinstance(value, Tensor):
            batch[name] = value
        elif isinstance(value, WholeTensor):
            batch[name] = value.values
        elif value.layout == "padded":
            batch[name], batch[f"{name}_length"] = value.padded(at_device, at)
        else:
            batch[name], lengths, total = value.packed(at_device, at)
            starts[name] = lengths.cumsum(0) - lengths
            if value.into:
                shift = torch.repeat_interleave(starts[value.into], lengths, output_size=total)
                batch[name] = batch[name] + shift[:, None]
            elif input_type(name) == "nodes":
                batch[f"{name}_length"] = lengths
    return batch


def to_tensors(arrays: Mapping[str, Input], rows: Any, device: str) -> dict[str, DeviceInput]:
    """The given rows of each array as tensors on ``device``; a ``Whole`` comes whole, and int32
    becomes int64.

    Labels of a regression stay float64: a float32 holds seven digits of, say, a price.
    """

    result: dict[str, DeviceInput] = {}
    for name, array in arrays.items():
        if isinstance(array, Whole):
            result[name] = WholeTensor(array.values, device)
        elif isinstance(array, Ragged):
            some = array.take(rows)
            lengths = torch.from_numpy(some.lengths)
            result[name] = RaggedTensor(
                *(_tensor(some.values, device), _tensor(some.offsets, device), lengths),
                *(some.layout, some.into),
            )
        else:
            result[name] = _tensor(array[rows], device)
    return result


def _tensor(array: np.ndarray, device: str) -> Tensor:
    array = np.ascontiguousarray(array)
    # A saved data set is mapped read-only, which torch does not take.
    value = torch.from_numpy(array if array.flags.writeable else array.copy())
    return (value.long() if value.dtype == torch.int32 else value).to(device)


def part_tensors(dataset: Dataset, rows: Any, device: str) -> Tensors:
    """Inputs and labels of the samples ``rows`` as tensors on ``device``, or as ``StreamedInput``
    where together they are larger than ``resident_limit``."""
    labels = to_tensors(dataset.labels, rows, device)
    plain = {name: value for name, value in labels.items() if isinstance(value, Tensor)}
    return part_inputs(dataset.inputs, np.asarray(rows), device), plain


def part_inputs(
    arrays: Mapping[str, Input], rows: np.ndarray, device: str
) -> dict[str, DeviceInput]:
    """The inputs of ``part_tensors``."""
    if sum(_bytes(array, rows) for array in arrays.values()) <= resident_limit(device):
        return to_tensors(arrays, rows, device)
    streamed: dict[str, DeviceInput] = {
        name: StreamedInput(array, rows, device)
        for name, array in arrays.items()
        if not isinstance(array, Whole)
    }
    whole = {name: array for name, array in arrays.items() if isinstance(array, Whole)}
    both = streamed | to_tensors(whole, rows, device)
    return {name: both[name] for name in arrays}


def resident_limit(device: str) -> float:
    """Bytes that the inputs of a training may take on ``device``."""
    if device == "cpu":
        return limits.resident_limit()
    return RESIDENT_GPU * free_bytes()


def _bytes(array: Input, rows: np.ndarray) -> float:
    """Of these samples of an array; of what all share nothing, as it is on the device anyway."""
    if isinstance(array, Whole):
        return 0.0
    if isinstance(array, Ragged):
        each = array.values[:1].nbytes
        return float(array.lengths[rows].sum()) * each
    return float(len(rows)) * array[:1].nbytes


def evaluation_batch(modality: str, inputs: Mapping[str, DeviceInput]) -> int:
    """The batch size where nothing is trained: activations of so many samples fit in memory.

    A sample of many values, as a large image, takes ``ACTIVATIONS`` floats for each; all may take
    as much as inputs may (``resident_limit``).
    """
    most = 512 if modality == "tabular" else 128
    own = [v for v in inputs.values() if isinstance(v, Tensor | RaggedTensor | StreamedInput)]
    if not (values := sum(map(_values_of_a_sample, own))):
        return most
    room = resident_limit(str(own[0].device))
    return max(1, min(most, int(room / (4 * ACTIVATIONS * values))))


def _values_of_a_sample(value: Tensor | RaggedTensor | StreamedInput) -> int:
    """Of the longest where their lengths differ."""
    if isinstance(value, Tensor):
        return math.prod(value.shape[1:])
    stored = value.array if isinstance(value, StreamedInput) else value
    if isinstance(stored, np.ndarray):
        return math.prod(stored.shape[1:])
    return int(value.lengths.max()) * math.prod(stored.values.shape[1:])


def proxy_folds(dataset: Dataset, task: Task) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows that a proxy, and a simple model beside it, is trained on and scored by.

    One pair: stratified fractions of the training and the validation part. Where these are too
    small for that (``rules.folds``), several: each fold of both parts is the validation part
    once, while the others are trained on.
    """
    count = rules.folds(task)
    if count == 1:
        fraction = min(1.0, rules.VALIDATION_MOST / len(dataset.parts["val"]))
        train = stratified(dataset, "train", task.fidelity.share, task.seed)
        return [(train, stratified(dataset, "val", fraction, task.seed))]
    rows = np.sort(np.concatenate([dataset.parts["train"], dataset.parts["val"]]))
    target = dataset.targets[0]
    strata = np.zeros(len(rows), int)
    if target.kind in ("binary", "multiclass"):
        strata = np.asarray(dataset.labels[target.name])[rows]
    fold = draw(strata, (1.0,) * count, np.random.default_rng(task.seed))
    return [(rows[fold != k], rows[fold == k]) for k in range(count)]


def stratified(dataset: Dataset, part: str, fraction: float, seed: int) -> Any:
    """A fraction of a part's rows, sorted, stratified by the first target's classes, and the
    same for the same seed."""
    rows = dataset.parts[part]
    if fraction >= 1:
        return rows
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    target = dataset.targets[0]
    if target.kind in ("binary", "multiclass"):
        label = np.asarray(dataset.labels[target.name])[rows][order]
        # Each class in turn gives its first rows; rounding never leaves a class out.
        picked = [
            order[label == k][: max(1, round(fraction * int((label == k).sum())))]
            for k in np.unique(label)
        ]
        return np.sort(rows[np.concatenate(picked)])
    return np.sort(rows[order[: max(2, round(fraction * len(rows)))]])


def typical_rows(dataset: Dataset, batch: int) -> np.ndarray:
    """Training rows of median length, for which a candidate's costs are stated."""
    rows = dataset.parts["train"]
    ragged = [v.lengths[rows] for v in dataset.inputs.values() if isinstance(v, Ragged)]
    if ragged:
        total = np.sum(ragged, axis=0)
        middle = np.argsort(total, kind="stable")[(len(rows) - 1) // 2 :]
        rows = rows[middle]
    return np.asarray(np.resize(rows, batch))


def row_inputs(dataset: Dataset, rows: np.ndarray) -> dict[str, Tensor]:
    """The inputs of these rows as one batch, on the CPU."""
    several = torch.arange(len(rows))
    return batch_inputs(to_tensors(dataset.inputs, rows, "cpu"), several, several)


def largest_rows(dataset: Dataset, batch: int) -> np.ndarray:
    """Training rows of a batch that needs the most memory: of padded inputs the longest, as
    samples of similar length come together; of packed ones, which come in any order, rows of all
    lengths."""
    rows = dataset.parts["train"]
    ragged = [v for v in dataset.inputs.values() if isinstance(v, Ragged)]
    padded = [v for v in ragged if v.layout == "padded"]
    even = np.linspace(0, len(rows) - 1, batch).round().astype(int)
    if ragged:
        total = np.sum([v.lengths[rows] for v in padded or ragged], axis=0)
        order = rows[np.argsort(total, kind="stable")]
        rows = order[::-1] if padded else order[even]
    elif any(isinstance(v, Whole) for v in dataset.inputs.values()):
        rows = rows[even]  # neighbours in a graph often have numbers that are near
    return np.asarray(np.resize(rows, batch))


def made_up_inputs(task: Task, batch: int) -> dict[str, Tensor]:
    """A made-up batch of the task's inputs, each of the median length."""
    generator = torch.Generator().manual_seed(0)
    profiles = {name: member.profile for name, member in task.profile.members.items()}
    own = _around(task.profile, batch) if rules.samples_neighbours(task) else task.profile
    result: dict[str, Tensor] = {}
    for name in task.profile.inputs:
        member = name.rpartition(".")[0]
        result |= _made_up(name, profiles.get(member, own), batch, generator)
    return result


def _around(profile: DataProfile, batch: int) -> DataProfile:
    """Of ``batch`` nodes with as many neighbours as a space draws by default, in two hops."""
    (first, second), shapes = rules.fan_outs(int(rules.fan_out().default), 2), profile.inputs
    edges = batch * first * (1 + second)
    few = {"nodes": batch + edges, "edges": edges, "edge_features": edges}
    sizes = {
        name: (min(shape[0], few[name]), *shape[1:]) if name in few else shape
        for name, shape in shapes.items()
    }
    return replace(profile, inputs=sizes)


def _made_up(
    name: str, profile: DataProfile, batch: int, generator: Generator
) -> dict[str, Tensor]:
    kind = input_type(name)
    if kind == "present":
        return {name: torch.ones(batch)}
    shape = profile.inputs[kind]
    length = max(profile.lengths[kind][3], 1) if kind in profile.lengths else None

    def integers(top: int, *size: int) -> Tensor:
        return torch.randint(0, max(top, 1), size, generator=generator)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    lengths = torch.full((batch,), length) if length is not None else None
    match kind:
        case "image":
            return {name: integers(256, batch, *shape).byte()}
        case "categorical":
            limits = [len(c.categories) for c in profile.columns if c.kind == "categorical"]
            return {name: torch.stack([integers(top + 1, batch) for top in limits], dim=1)}
        case "tokens":
            assert length is not None
            words = 1 + integers(profile.vocabulary - 1, batch, length)
            return {name: words, f"{name}_length": torch.full((batch,), length)}
        case "wave":
            assert length is not None
            wave = (3_000 * normal(batch, length)).clamp(-32_768, 32_767).short()
            return {name: wave, f"{name}_length": torch.full((batch,), length)}
        case "points" | "series":
            assert length is not None
            mean, std = (torch.tensor(v) for v in (profile.channel_mean, profile.channel_std))
            points = normal(batch, length, shape[-1])
            if len(mean):
                points = points * std + mean
            return {name: points, f"{name}_length": torch.full((batch,), length)}
        case "nodes" if lengths is not None:
            total = int(lengths.sum())
            return {name: normal(total, *shape[1:]), f"{name}_length": lengths}
        case "edges" if length is not None:
            nodes = max(profile.lengths["nodes"][3], 1)
            first = torch.arange(batch).repeat_interleave(length) * nodes
            return {name: integers(nodes, batch * length, 2) + first[:, None]}
        case "edge_features" if length is not None:
            return {name: normal(batch * length, *shape[1:])}
        case "edges":
            return {name: integers(profile.inputs["nodes"][0], *shape)}
        case "node":
            return {name: integers(profile.inputs["nodes"][0], batch)}
        case "nodes" | "edge_features":
            return {name: normal(*shape)}
    return {name: normal(batch, *shape)}
