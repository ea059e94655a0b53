"""Graph networks: GCN, GAT and GraphSAGE, for one label a node or one a graph.

Graphs come packed: the nodes of all graphs of a batch end to end, and edges as pairs of
their rows. A message runs along an edge from source to target; an undirected edge is
given in both directions, and a node needs no edge to itself.

Sums over neighbours are ``index_add``. On a CPU a product with a sparse CSR matrix is
several times faster, but ONNX and the meta device have none, and the step of a training is
ruled by other products: of Cora (2,708 nodes, 10,556 edges, 1,433 inputs, width 64) 13
milliseconds for the inputs against 2 for the neighbours, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.blocks import make_activation, make_head, make_norm
from nas.models.inputs import CLIP_AT


@dataclass(frozen=True)
class Edges:
    """The edges of a batch, as all layers of one forward pass see them.

    ``source`` and ``target`` (E,) are rows of the nodes, ``degree`` (N, 1) counts the edges
    that end in each node, ``features`` is (E, k), and ``kept`` (E, 1) holds a zero for each
    edge that is left out of this pass. Where the edges are a sample of a larger graph's, ``whole``
    (N, 1) are the degrees there.
    """

    source: Tensor
    target: Tensor
    degree: Tensor
    features: Tensor | None = None
    kept: Tensor | None = None
    whole: Tensor | None = None

    @classmethod
    def of(
        cls,
        edges: Tensor,
        nodes: int,
        features: Tensor | None = None,
        drop: float = 0.0,
        whole: Tensor | None = None,
    ) -> Edges:
        """From pairs (E, 2), each left out with probability ``drop`` (DropEdge, Rong et al.
        2020, sec. 3.1: degrees are those of what is left, of the ``whole`` (N,) on average)."""
        source, target = edges.unbind(1)
        ones = torch.ones(source.shape[0], 1, device=edges.device)
        kept = ones.bernoulli(1 - drop) if drop else None
        degree = ones.new_zeros(nodes, 1).index_add(0, target, ones if kept is None else kept)
        if whole is not None:
            whole = (1 - drop) * whole.unsqueeze(1).to(ones.dtype)
        return cls(source, target, degree, features, kept, whole)

    def sum(self, messages: Tensor) -> Tensor:
        """Messages (E, w), added up where they end, (N, w)."""
        if self.kept is not None:
            messages = messages * self.kept
        return _add_rows(messages, self.target, self.degree.shape[0])

    def estimated_sum(self, messages: Tensor) -> Tensor:
        """The sum over all neighbours in the whole graph, (N, w), as their number times the mean
        of those that are here."""
        total = self.sum(messages)
        return total if self.whole is None else total * (self.whole / self.degree.clamp(min=1))

    def max(self, messages: Tensor) -> Tensor:
        """The largest of the messages that end in each node, (N, w); zero where none does."""
        if self.kept is not None:
            messages = messages.masked_fill(self.kept == 0, -torch.inf)
        index = self.target.unsqueeze(1).expand_as(messages)
        top = messages.new_full((self.degree.shape[0], messages.shape[1]), -torch.inf)
        top = top.scatter_reduce(0, index, messages, "amax")
        return top.masked_fill(self.degree == 0, 0.0)


def _add_rows(values: Tensor, index: Tensor, rows: int) -> Tensor:
    """Rows (n, w) added up by their index (n,), (rows, w), in float32 at least.

    bfloat16 has eight bits: a sum of equal terms stops growing after 256 of them, and a hub has
    thousands of neighbours.
    """
    values = values.float() if values.dtype.itemsize < 4 else values
    return values.new_zeros(rows, values.shape[1]).index_add(0, index, values)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, of a sparse ``x`` too."""
    if not x.is_sparse:
        return F.linear(x, weight, bias)
    y: Tensor = torch.sparse.mm(x, weight.T)
    return y if bias is None else y + bias


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return _linear(x, self.weight, self.bias)


class _EdgeMessage(nn.Module):
    """ReLU(x_source + W e): how an edge's features join a neighbour's (Hu et al. 2020,
    "Strategies for Pre-training Graph Neural Networks", and the GCN of the same authors'
    Open Graph Benchmark)."""

    def __init__(self, edge_width: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(edge_width, width, bias=False)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        y: Tensor = F.relu(x.index_select(0, edges.source) + self.linear(edges.features))
        return y


class GCNConv(nn.Module):
    """Kipf & Welling 2017, eq. 2: D^-1/2 (A + I) D^-1/2 X W + b, D the degrees of A + I.

    With ``edge_width`` each message is ReLU(W x_source + V e), that of a node to itself
    being without features. Of sampled edges D is that of the whole graph, and their sum is scaled
    to that over all (Chen et al. 2018, "Stochastic Training of Graph Convolutional Networks with
    Variance Reduction", sec. 2.2).
    """

    def __init__(self, in_width: int, width: int, edge_width: int = 0) -> None:
        super().__init__()
        self.linear = _Linear(in_width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.message = _EdgeMessage(edge_width, width) if edge_width else None

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """(N, in_width) to (N, width)."""
        scale = ((edges.degree if edges.whole is None else edges.whole) + 1).rsqrt()
        h = self.linear(x)
        if self.message is None:
            h = h * scale
            messages = h.index_select(0, edges.source)
        else:
            messages = self.message(h, edges) * scale.index_select(0, edges.source)
            h = F.relu(h) * scale
        y: Tensor = (h + edges.estimated_sum(messages)) * scale + self.bias
        return y


class GATConv(nn.Module):
    """Veličković et al. 2018, sec. 2.1, the heads side by side: (N, in_width) to (N, width).

    A node attends to its neighbours and to itself. With ``edge_width`` the features of an
    edge take part in its score; a node's edge to itself has the mean of those that end in it.
    """

    def __init__(
        self, in_width: int, width: int, heads: int, edge_width: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide width, but got width={width}, heads={heads}")
        self.heads = heads
        self.dropout = dropout  # of the attention weights
        self.linear = _Linear(in_width, width, bias=False)
        self.source = nn.Parameter(torch.empty(heads, width // heads))
        self.target = nn.Parameter(torch.empty(heads, width // heads))
        self.bias = nn.Parameter(torch.zeros(width))
        self.edge = nn.Linear(edge_width, heads, bias=False) if edge_width else None
        for vectors in (self.source, self.target):
            nn.init.xavier_uniform_(vectors)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """(N, in_width) to (N, width)."""
        h = self.linear(x)
        split = h.unflatten(1, (self.heads, -1))
        by_source, by_target = (split * self.source).sum(-1), (split * self.target).sum(-1)
        score = by_source.index_select(0, edges.source) + by_target.index_select(0, edges.target)
        own = by_source + by_target
        if self.edge is not None:
            extra = self.edge(edges.features)
            score = score + extra
            own = own + edges.sum(extra) / edges.degree.clamp(min=1)
        score, own = F.leaky_relu(score, 0.2), F.leaky_relu(own, 0.2)
        # The softmax over neighbours, whose largest score is taken off: exp stays finite.
        index = edges.target.unsqueeze(1).expand_as(score)
        top = own.detach().scatter_reduce(0, index, score.detach(), "amax")
        weight = (score - top.index_select(0, edges.target)).exp()
        own = (own - top).exp()
        total = own + edges.sum(weight)
        weight = F.dropout(weight, self.dropout, self.training).unsqueeze(2)
        own = F.dropout(own, self.dropout, self.training).unsqueeze(2)
        messages = (split.index_select(0, edges.source) * weight).flatten(1)
        mixed = (split * own).flatten(1) + edges.sum(messages)
        y: Tensor = (mixed.unflatten(1, (self.heads, -1)) / total.unsqueeze(2)).flatten(1)
        return y + self.bias


class SAGEConv(nn.Module):
    """Hamilton et al. 2017, alg. 1 without the scaling to unit length: W x + V a + b, with a
    the mean or the largest of the neighbours' features.

    With ``edge_width`` a neighbour's message is ReLU(x_source + U e).
    """

    def __init__(
        self, in_width: int, width: int, aggregation: str = "mean", edge_width: int = 0
    ) -> None:
        super().__init__()
        if aggregation not in ("mean", "max"):
            raise ValueError(f"unknown aggregation {aggregation!r}; known are mean, max")
        self.root = _Linear(in_width, width, bias=False)
        self.neighbours = nn.Linear(in_width, width)
        self.message = _EdgeMessage(edge_width, in_width) if edge_width else None
        self.aggregation = aggregation
        # A mean of projections is the projection of a mean, and shorter ones cost less.
        self.project_first = aggregation == "mean" and not edge_width and in_width > width

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """(N, in_width) to (N, width)."""
        h = _linear(x, self.neighbours.weight) if self.project_first else x
        if self.message is None:
            messages = h.index_select(0, edges.source)
        else:
            messages = self.message(h, edges)
        if self.aggregation == "max":
            h = edges.max(messages)
        else:
            h = edges.sum(messages) / edges.degree.clamp(min=1)
        h = h + self.neighbours.bias if self.project_first else self.neighbours(h)
        y: Tensor = self.root(x) + h
        return y


class GraphPool(nn.Module):
    """One vector for each graph from its nodes: (N, width) to (B, width).

    "sum" is in units of ``size`` nodes, so that its scale does not depend on the data;
    "attention" weighs the nodes by the softmax of a learned score (Li et al. 2016, sec.
    3.2, without the second transformation), which starts at zero: as the mean.
    """

    def __init__(self, kind: str, width: int, size: float = 1.0) -> None:
        super().__init__()
        if kind not in ("mean", "max", "sum", "attention"):
            raise ValueError(f"unknown pooling {kind!r}; known are mean, max, sum, attention")
        self.kind = kind
        self.size = size
        self.score = nn.Parameter(torch.zeros(width, 1)) if kind == "attention" else None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Nodes (N, width) of graphs with ``lengths`` (B,) nodes to (B, width)."""
        graphs = lengths.shape[0]  # of len() an exported graph makes a constant
        # The graph of each node: a graph begins where the one before it ends. (ONNX has no
        # repeat_interleave of a known size.)
        end = lengths.cumsum(0)
        ends = end.new_zeros(x.shape[0] + 1).index_add(0, end, torch.ones_like(end))
        graph = ends[:-1].cumsum(0)

        def add(values: Tensor) -> Tensor:
            return _add_rows(values, graph, graphs)

        if self.kind == "sum":
            return add(x) / self.size
        if self.kind == "mean":
            return add(x) / lengths.unsqueeze(1)
        if self.score is None:
            top = x.new_full((graphs, x.shape[1]), -torch.inf)
            return top.scatter_reduce(0, graph.unsqueeze(1).expand_as(x), x, "amax")
        score = x @ self.score
        top = score.new_full((graphs, 1), -torch.inf)
        top = top.scatter_reduce(0, graph.unsqueeze(1), score.detach(), "amax")
        weight = (score - top.index_select(0, graph)).exp()
        return add(x * weight) / add(weight)


class FeatureInput(nn.Module):
    """Features (n, f) standardised by ``mean`` and ``std`` and clipped to ±10; with ``rows``
    each row is divided by the sum of its sizes (as Kipf & Welling 2017, sec. 5.2, do with the
    words of a document). A sparse matrix is accepted where no mean is subtracted."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], rows: bool = False) -> None:
        super().__init__()
        self.plain = all(m == 0 for m in mean) and all(s in (0, 1) for s in std)
        self.width = len(mean)
        self.rows = rows
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        scale = 1 / torch.tensor([s or 1.0 for s in std], dtype=torch.float32)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """(n, f) to (n, f)."""
        x = x.to(self.mean.dtype)
        if not self.plain:
            x = ((x - self.mean) * self.scale).clamp(-CLIP_AT, CLIP_AT)
        if not self.rows:
            return x
        if x.is_sparse:
            row, values = x.indices()[0], x.values()
            total = values.new_zeros(x.shape[0]).index_add(0, row, values.abs())
            return _with_values(x, values / total.clamp(min=1e-6).index_select(0, row))
        return x / x.abs().sum(1, keepdim=True).clamp(min=1e-6)


class _InputDropout(nn.Dropout):
    """Dropout, of a sparse matrix too: what is zero stays so."""

    def forward(self, x: Tensor) -> Tensor:
        return _with_values(x, super().forward(x.values())) if x.is_sparse else super().forward(x)


def _with_values(x: Tensor, values: Tensor) -> Tensor:
    """The sparse matrix ``x`` with other values in its places."""
    return torch.sparse_coo_tensor(
        x.indices(), values, x.shape, is_coalesced=True, check_invariants=False
    )


@dataclass(frozen=True)
class GNNConfig:
    """``pre`` linear layers, ``depth`` convolutions of one kind, read-out, ``post`` layers.

    ``jumping`` says what is read of the convolutions' outputs: that of the "last", their "max",
    or all side by side, "cat" (Xu et al. 2018, "Representation Learning on Graphs with Jumping
    Knowledge Networks", sec. 4). With the ``head`` "convolution" the last of them, of one attention
    head, gives the logits of nodes (Kipf & Welling 2017, eq. 9); otherwise a linear layer does.
    Pre- and post-layers: You et al. 2020, "Design Space for Graph Neural Networks", sec. 3.1.
    """

    kind: str  # gcn, gat or graphsage
    width: int
    depth: int
    pre: int = 0
    post: int = 0
    heads: int = 1  # of gat
    aggregation: str = "mean"  # of graphsage
    norm: str = "none"
    activation: str = "relu"
    residual: bool = False  # shortcuts where widths agree
    jumping: str = "last"
    attention_dropout: float = 0.0  # of gat
    head: str = "linear"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, ("gcn", "gat", "graphsage")),
            ("jumping", self.jumping, ("last", "max", "cat")),
            ("head", self.head, ("linear", "convolution")),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known are {', '.join(known)}")
        if self.head == "convolution" and (self.post or self.jumping != "last"):
            raise ValueError(
                "a convolution as the head needs post=0 and jumping='last', but got"
                f" post={self.post}, jumping={self.jumping!r}"
            )

    @property
    def read_width(self) -> int:
        """Features of what is read of the convolutions."""
        return self.depth * self.width if self.jumping == "cat" else self.width

    def convolution(self, in_width: int, edge_width: int, outputs: int = 0) -> nn.Module:
        """One convolution, from ``in_width`` features of a node and ``edge_width`` of an edge to
        ``width`` features, or by one attention head to ``outputs``."""
        width = outputs or self.width
        match self.kind:
            case "gcn":
                return GCNConv(in_width, width, edge_width)
            case "gat":
                heads = 1 if outputs else self.heads
                return GATConv(in_width, width, heads, edge_width, self.attention_dropout)
        return SAGEConv(in_width, width, self.aggregation, edge_width)

    def dense(self, in_width: int, depth: int, dropout: float) -> nn.Sequential:
        """``depth`` linear layers, each with norm, activation and dropout."""
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [
                _Linear(self.width if i else in_width, self.width),
                make_norm(self.norm, self.width, dims=1),
                make_activation(self.activation),
                nn.Dropout(dropout),
            ]
        return nn.Sequential(*layers)


class _Layer(nn.Module):
    """Convolution, normalisation, activation, dropout, and the shortcut around them
    (Li et al. 2019, "DeepGCNs", sec. 3.2) where ``residual`` and the widths agree."""

    def __init__(self, layers: GNNConfig, in_width: int, edge_width: int, dropout: float) -> None:
        super().__init__()
        self.conv = layers.convolution(in_width, edge_width)
        self.norm = make_norm(layers.norm, layers.width, dims=1)
        self.activation = make_activation(layers.activation)
        self.dropout = nn.Dropout(dropout)
        self.residual = layers.residual and in_width == layers.width

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        y: Tensor = self.dropout(self.activation(self.norm(self.conv(x, edges))))
        return x + y if self.residual else y


class GNN(nn.Module):
    """Graph convolutions, for graphs that ``pooling`` makes one vector of, or, where it is None,
    for the nodes that ``node`` numbers.

    ``dropout`` follows each layer and stands before the head, ``input_dropout`` falls on the
    features of nodes, ``edge_dropout`` on edges. ``size`` is the unit of "sum" pooling, in
    nodes. A last convolution that nothing but the head follows on a node is linear, as in Kipf &
    Welling 2017, eq. 9: neighbours are averaged after the last activation. Weights
    start as Glorot & Bengio 2010.

    ``sparse`` says that most features of nodes are zero, as counts of words are: on a CPU they
    are then multiplied as a sparse matrix. Of Cora (1,433 features, 1.3 % not zero) a step
    takes a third of the time, as dense dropout costs more than the product itself.

    Where the graph is too large for a batch, a node comes with at most ``fan_out`` neighbours, as
    many of each hop as that says (Hamilton et al. 2017, alg. 2); () is for whole graphs.
    """

    def __init__(
        self,
        input: FeatureInput,
        outputs: int,
        layers: GNNConfig,
        *,
        edge_input: FeatureInput | None = None,
        pooling: str | None = None,
        size: float = 1.0,
        sparse: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        edge_dropout: float = 0.0,
        fan_out: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if fan_out and len(fan_out) != layers.depth:
            raise ValueError(f"fan_out has {len(fan_out)} hops, not one for each of {layers.depth}")
        self.fan_out = fan_out
        # A sum over neighbours needs to know how many there are beside those that are drawn.
        self.scales_by_degree = layers.kind == "gcn"
        self.input, self.edge_input = input, edge_input
        self.input_dropout = _InputDropout(input_dropout)
        self.edge_dropout = edge_dropout
        self.jumping = layers.jumping
        self.pre = layers.dense(input.width, layers.pre, dropout)
        width, edge_width = layers.width, edge_input.width if edge_input else 0
        in_widths = [width if layers.pre else input.width, *[width] * (layers.depth - 1)]
        self.last: nn.Module | None = None  # the convolution that is the head
        if layers.head == "convolution":
            if pooling is not None:
                raise ValueError(f"a convolution is the head of nodes, but pooling is {pooling!r}")
            self.last = layers.convolution(in_widths.pop(), edge_width, outputs)
        self.layers = nn.ModuleList(_Layer(layers, n_in, edge_width, dropout) for n_in in in_widths)
        linear = pooling is None and layers.jumping == "last" and not layers.post
        if linear and self.last is None:
            self.layers[-1].activation = nn.Identity()
            self.layers[-1].dropout = nn.Identity()
        read = layers.read_width
        self.pool = None if pooling is None else GraphPool(pooling, read, size)
        self.post = layers.dense(read, layers.post, dropout)
        self.width = width if layers.post else read
        self.dropout = nn.Dropout(0.0 if layers.post or linear else dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.last is None:
            self.head: nn.Module = make_head(self.width, outputs)
        else:
            self.width, self.head = outputs, nn.Identity()
        first = self.layers[0].conv if len(self.layers) else self.last
        gathers = isinstance(first, SAGEConv) and not first.project_first
        self.sparse = sparse and input.plain and bool(layers.pre or not gathers)
        self.data_dependent = self.sparse  # how much is multiplied depends on the zeros

    @property
    def convolutions(self) -> list[nn.Module]:
        """The layers that read neighbours, each called with nodes (N, w) and their ``Edges``."""
        return [*self.layers, *([] if self.last is None else [self.last])]

    def embed(self, nodes: Tensor) -> Tensor:
        """What the first convolution reads, (N, w), of the nodes' features (N, f)."""
        if self.sparse and nodes.device.type == "cpu" and not torch.compiler.is_compiling():
            nodes = nodes.to_sparse()
        x: Tensor = self.pre(self.input_dropout(self.input(nodes)))
        return x

    def joined(
        self,
        nodes: int,
        edges: Tensor,
        edge_features: Tensor | None = None,
        degree: Tensor | None = None,
    ) -> Edges:
        """The edges of ``nodes`` nodes as the convolutions read them; arguments as of
        ``forward``."""
        described = None
        if self.edge_input is not None:
            if edge_features is None:
                raise TypeError("this network reads edge features: pass edge_features=")
            described = self.edge_input(edge_features)
        drop = self.edge_dropout if self.training else 0.0
        return Edges.of(edges, nodes, described, drop, degree)

    def read(self, seen: Sequence[Tensor]) -> Tensor:
        """What is read of the outputs (N, w) of all convolutions."""
        if self.jumping == "max":
            return torch.stack(list(seen)).amax(0)
        return torch.cat(list(seen), dim=1) if self.jumping == "cat" else seen[-1]

    def from_fixed(self, features: Tensor) -> Tensor:
        """Logits (B, outputs) from what is read of the convolutions, (B, w)."""
        y: Tensor = self.head(self.dropout(self.post(features)))
        return y

    def features(
        self,
        nodes: Tensor,
        edges: Tensor,
        edge_features: Tensor | None = None,
        nodes_length: Tensor | None = None,
        node: Tensor | None = None,
        degree: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """One vector for each sample, as a single token: (B, 1, width)."""
        x = self.embed(nodes)
        graph = self.joined(nodes.shape[0], edges, edge_features, degree)
        seen = []
        for layer in self.convolutions:
            x = layer(x, graph)
            seen.append(x)
        x = self.read(seen)
        if self.pool is not None:
            if nodes_length is None:
                raise TypeError("this network reads graphs: pass nodes_length=")
            x = self.pool(x, nodes_length)
        elif node is not None:
            x = x.index_select(0, node)
        else:
            raise TypeError("this network reads nodes: pass node=")
        return self.post(x).unsqueeze(1), None

    def forward(
        self,
        nodes: Tensor,
        edges: Tensor,
        edge_features: Tensor | None = None,
        nodes_length: Tensor | None = None,
        node: Tensor | None = None,
        degree: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, outputs) of the graphs, or of the nodes numbered ``node`` (B,).

        ``nodes`` (ΣN, f) and ``nodes_length`` (B,), ``edges`` (ΣE, 2) rows of ``nodes``, source
        and target, ``edge_features`` (ΣE, k). For nodes of one graph ``nodes`` and ``edges``
        are the whole graph, or what is drawn of it around them; then ``degree`` (N,) are the
        nodes' degrees in the whole.
        """
        x, _ = self.features(nodes, edges, edge_features, nodes_length, node, degree)
        y: Tensor = self.head(self.dropout(x.squeeze(1)))
        return y
