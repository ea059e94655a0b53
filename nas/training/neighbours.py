"""Networks on a graph that is too large for one batch: trained on neighbourhoods that are drawn
anew for each batch, and asked layer by layer, with all neighbours of every node.

Such a network has the attribute ``fan_out``, the most neighbours of a node for each hop, and those
that ``nas.models.gnn.GNN`` splits its forward pass into. The network that is measured, saved and
deployed stays the same: it takes the features of nodes, and edges between them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from nas.data import Dataset, limits
from nas.training.batches import (
    SampledNodes,
    StreamedInput,
    Tensors,
    WholeTensor,
    batch_inputs,
    to_tensors,
)

EDGES_AT_ONCE = 2**18  # that end in the nodes of one piece of a layer, if not in a single node
NODES_AT_ONCE = 2**16


def sampled_tensors(network: nn.Module, tensors: Tensors) -> Tensors:
    """The inputs of a training on batches of nodes with drawn neighbours; as they are where the
    network reads the whole graph, and where they are so already."""
    fan_out: tuple[int, ...] = getattr(network, "fan_out", ())
    inputs, labels = tensors
    graph = {name: x for name, x in inputs.items() if isinstance(x, WholeTensor)}
    node = inputs.get("node")
    if not fan_out or not graph or not isinstance(node, Tensor):
        return tensors
    degrees = bool(getattr(network, "scales_by_degree", False))
    nodes = SampledNodes(node.cpu().numpy(), graph, fan_out, graph["nodes"].device, degrees)
    return {"node": nodes}, labels


def network_inputs(network: nn.Module, dataset: Dataset, rows: np.ndarray) -> dict[str, Tensor]:
    """The inputs of these rows as one batch on the CPU, as ``nas.training.batches.row_inputs``; of
    a network with a ``fan_out`` with drawn neighbours, whose edges count as all there are: so a
    network is deployed, with a graph of the user's own."""
    several = torch.arange(len(rows))
    inputs, _ = sampled_tensors(network, (to_tensors(dataset.inputs, rows, "cpu"), {}))
    batch = batch_inputs(inputs, several, several)
    return {name: value for name, value in batch.items() if name != "degree"}


def layered_tensors(network: nn.Module, tensors: Tensors) -> Tensors:
    """Inputs for scores and predictions of a network with a ``fan_out``: "features", what its head
    reads of each node, of all neighbours in as many hops as it has. Otherwise as they are.

    A layer at a time is computed for all nodes, piece by piece: the device holds a piece and the
    nodes that it reads, and the host two layers of all nodes, in files where they are large.
    """
    inputs, labels = sampled_tensors(network, tensors)
    found = inputs.get("node")
    if not isinstance(found, SampledNodes):
        return tensors
    was_training = network.training
    network.eval()
    with torch.no_grad():
        features = _layer_by_layer(network, found)
    network.train(was_training)
    given = StreamedInput(features.numpy(), np.arange(len(found)), found.device)
    return {"features": given}, labels


def _layer_by_layer(network: nn.Module, asked: SampledNodes) -> Tensor:
    """What is read of the convolutions, (n, w), of the nodes ``asked``."""
    device = next(network.parameters()).device
    features, rng = asked.graph["nodes"].array, np.random.default_rng()

    def embedded(nodes: np.ndarray) -> Tensor:
        given = torch.from_numpy(np.asarray(features[nodes])).to(device)
        return network.embed(given).to_dense()  # type: ignore[operator, no-any-return]

    every = np.arange(len(features))
    x = _computed(embedded, np.array_split(every, -(-len(every) // NODES_AT_ONCE)), len(every))
    seen = []
    layers: list[nn.Module] = network.convolutions  # type: ignore[assignment]
    for layer in layers:

        def convolved(nodes: np.ndarray, layer: nn.Module = layer, x: np.ndarray = x) -> Tensor:
            given = asked.around(nodes, (None,), rng, x)
            values, node = given.pop("nodes"), given.pop("node")
            edges = network.joined(len(values), **given)  # type: ignore[operator]
            return layer(values, edges)[node]  # type: ignore[no-any-return]

        wanted = np.unique(asked.node) if layer is layers[-1] else every
        x = _computed(convolved, _pieces(asked.starts, wanted), len(every))
        seen.append(torch.from_numpy(x[asked.node]))
    return network.read(seen)  # type: ignore[operator, no-any-return]


def _computed(
    compute: Callable[[np.ndarray], Tensor], pieces: Iterable[np.ndarray], nodes: int
) -> np.ndarray:
    """(nodes, w) with what ``compute`` gives for the nodes of each piece."""
    found: np.ndarray | None = None
    for piece in pieces:
        values = compute(piece).float().cpu().numpy()
        if found is None:
            found = _room(nodes, values.shape[1])
        found[piece] = values
    assert found is not None
    return found


def _room(nodes: int, width: int) -> np.ndarray:
    """float32 (nodes, width), in a file that has no name where it is large."""
    if 4 * nodes * width <= limits.resident_limit():
        return np.empty((nodes, width), np.float32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=(nodes, width))


def _pieces(starts: np.ndarray, nodes: np.ndarray) -> list[np.ndarray]:
    """``nodes`` cut so that about ``EDGES_AT_ONCE`` edges end in those of each piece."""
    size = np.cumsum(starts[nodes + 1] - starts[nodes] + 1)
    return np.split(nodes, np.flatnonzero(np.diff(size // EDGES_AT_ONCE)) + 1)
