"""Networks over several kinds of data: the encoders of the members, and how they are joined.

Every input of a member has the member's name and a point before its own; the input
"<member>.present" (B,) is 1 where a sample has the member. Where it is 0, nothing of the
member's content reaches the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.models.adapted import PretrainedMember, layer_groups
from nas.models.blocks import (
    DropPath,
    FeedForward,
    GlobalPool,
    TransformerConfig,
    TransformerStack,
    init_he,
    init_transformer,
    linear_rates,
    make_activation,
    make_head,
    make_norm,
)


class Encoders(nn.Module):
    """One network for each member, of which only the features are used.

    What comes after these is removed: the head, or the modules that a network names in
    ``readout``. ``dropout`` is modality dropout (Neverova et al. 2016, "ModDrop"): in
    training each member of a sample counts as missing with this probability, but never all.

    In training a sample that lacks a member has the content of one that does not, since blanks
    would count in the statistics of BatchNorm; what comes out of it is left out all the same.
    Graphs, whose batches are packed, keep their one blank node.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        self.members = tuple(encoders)
        self.dropout = dropout
        self.networks = nn.ModuleList(encoders.values())
        self.widths = [int(network.width) for network in encoders.values()]  # type: ignore[arg-type]
        self.data_dependent = any(getattr(n, "data_dependent", False) for n in self.networks)
        for network in self.networks:
            for name in getattr(network, "readout", ("head",)):
                setattr(network, name, nn.Identity())

    def present(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Which sample has which member, bool (B, members)."""
        known = torch.stack([inputs[f"{m}.present"] for m in self.members], dim=1) > 0.5
        if not self.training or self.dropout == 0:
            return known
        kept = known & (torch.rand(known.shape, device=known.device) >= self.dropout)
        return torch.where(kept.any(1, keepdim=True), kept, known)

    def tokens(self, inputs: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What each member's pooling would see, (B, T, width of the member), and its masks."""
        tokens, masks = [], []
        for member, network in zip(self.members, self.networks, strict=True):
            own = self._own(inputs, member)
            if self.training and "nodes" not in own:
                rows = _stand_ins(inputs[f"{member}.present"] > 0.5)
                own = {name: value[rows] for name, value in own.items()}
            x, mask = network.features(**own)  # type: ignore[operator]
            tokens.append(x)
            masks.append(x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask)
        return tokens, masks

    def _own(self, inputs: Mapping[str, Tensor], member: str) -> dict[str, Tensor]:
        parts = ((*name.rpartition(".")[::2], value) for name, value in inputs.items())
        return {own: value for of, own, value in parts if of == member and own != "present"}


def _stand_ins(present: Tensor) -> Tensor:
    """The rows (B,) whose content each sample of a batch is given: its own where it is ``present``
    (B,); the others are spread evenly over those that are, or have row 0 where none is."""
    has_it = present.long().argsort(descending=True, stable=True)  # these rows come first
    lacks_it = (~present).long()
    place = (lacks_it.cumsum(0) - 1).clamp(min=0) * present.sum() // lacks_it.sum().clamp(min=1)
    return torch.where(present, torch.arange(len(present), device=present.device), has_it[place])


class LateFusion(nn.Module):
    """Each member pooled to a vector, the vectors joined, then ``depth`` hidden layers.

    "concat" puts the vectors side by side, with a learned vector for a missing one. "gated"
    maps each to ``width`` and adds them up by gates: "softmax" over the members that are
    there, from a score of each (as attention over modalities), or "sigmoid" (Arevalo et al.
    2017, "Gated Multimodal Units", sec. 3, whose gates see all members).
    """

    def __init__(
        self,
        encoders: Encoders,
        outputs: int,
        width: int,
        depth: int = 1,
        fusion: str = "concat",
        pooling: str = "avg",
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if fusion not in ("concat", "softmax", "sigmoid"):
            raise ValueError(f"unknown fusion {fusion!r}; known are concat, softmax, sigmoid")
        self.encoders, self.fusion = encoders, fusion
        self.data_dependent = encoders.data_dependent
        widths, total = encoders.widths, sum(encoders.widths)
        self.pools = nn.ModuleList(GlobalPool(pooling, w, dims=1) for w in widths)
        self.norms = nn.ModuleList(make_norm("layer", w, dims=1) for w in widths)
        self.missing = nn.ParameterList(nn.Parameter(torch.zeros(w)) for w in widths)
        layers: list[nn.Module] = []
        entry = total
        if fusion != "concat":
            entry = width
            self.maps = nn.ModuleList(nn.Linear(w, width) for w in widths)
            seen = [total] * len(widths) if fusion == "sigmoid" else widths
            gates = 1 if fusion == "softmax" else width
            self.gates = nn.ModuleList(nn.Linear(w, gates) for w in seen)
        for _ in range(depth):
            layers += [nn.Linear(entry, width), make_activation(activation), nn.Dropout(dropout)]
            entry = width
        self.body = nn.Sequential(*layers)
        init_he(self.body)
        self.width = entry
        self.head = make_head(entry, outputs)

    def forward(self, **inputs: Tensor) -> Tensor:
        """The members' inputs by name to logits (B, outputs)."""
        y: Tensor = self.head(self._join(inputs))
        return y

    def features(self, **inputs: Tensor) -> tuple[Tensor, None]:
        """What the head sees, as one token: (B, 1, width)."""
        return self._join(inputs).unsqueeze(1), None

    def _join(self, inputs: Mapping[str, Tensor]) -> Tensor:
        present = self.encoders.present(inputs)
        vectors = []
        for i, (x, mask) in enumerate(zip(*self.encoders.tokens(inputs), strict=True)):
            pooled = self.norms[i](self.pools[i](x, mask))
            missing = self.missing[i].to(pooled.dtype)
            vectors.append(torch.where(present[:, i : i + 1], pooled, missing))
        joined = torch.cat(vectors, dim=1)
        if self.fusion != "concat":
            mapped = [layer(x).tanh() for layer, x in zip(self.maps, vectors, strict=True)]
            if self.fusion == "softmax":
                scores = [gate(x) for gate, x in zip(self.gates, vectors, strict=True)]
                # A finite number: a sample without any member has even weights, not NaN.
                hidden = torch.cat(scores, dim=1).float().masked_fill(~present, -1e4)
                weights = list(hidden.softmax(1).to(joined.dtype).chunk(len(scores), dim=1))
            else:
                weights = [gate(joined).sigmoid() for gate in self.gates]
            joined = torch.stack([w * x for w, x in zip(weights, mapped, strict=True)]).sum(0)
        y: Tensor = self.body(joined)
        return y


class PretrainedFusion(LateFusion):
    """Late fusion some of whose members start from published weights (``PretrainedMember``).

    What is new learns at ``head_rate`` times the rate of the last pretrained layer. The features of
    members that stay as they are may be kept (nas.training.frozen).
    """

    def __init__(self, encoders: Encoders, outputs: int, head_rate: float, **how: Any) -> None:
        super().__init__(encoders, outputs, **how)
        self.head_rate = head_rate

    def frozen_parts(self) -> dict[str, nn.Module]:
        """Networks that stay as they are, by member."""
        named = zip(self.encoders.members, self.encoders.networks, strict=True)
        return {
            member: part.network
            for member, part in named
            if isinstance(part, PretrainedMember) and part.network.frozen
        }

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """What an optimiser trains, with the rate of each part."""
        new: list[nn.Module] = [m for name, m in self.named_children() if name != "encoders"]
        groups: list[dict[str, Any]] = []
        for part in self.encoders.networks:
            if isinstance(part, PretrainedMember):
                groups += part.network.parameter_groups(lr, weight_decay)
            else:
                new.append(part)
        rate = lr * self.head_rate
        return groups + layer_groups(
            [], new, lr=lr, new_lr=rate, decay=1.0, weight_decay=weight_decay
        )


class Numbered(nn.Module):
    """A network whose inputs ``names`` are called input_0, input_1 and so on.

    torch.export writes a program in which each input is a variable, and a member's name is
    whatever a column is called. ``input_names`` of torch.onnx.export brings the names back.
    """

    def __init__(self, network: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Inputs input_0, input_1 … to logits (B, outputs)."""
        named = {name: inputs[f"input_{i}"] for i, name in enumerate(self.names)}
        logits: Tensor = self.network(**named)
        return logits


class _Projections(nn.Module):
    """The members' tokens in one width, each with its member's embedding."""

    def __init__(self, widths: list[int], dim: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(make_norm("layer", w, dims=1) for w in widths)
        self.maps = nn.ModuleList(nn.Linear(w, dim) for w in widths)
        self.embeddings = nn.Parameter(torch.empty(len(widths), dim).normal_(std=0.02))
        init_transformer(self.maps)

    def forward(self, tokens: list[Tensor]) -> list[Tensor]:
        parts = zip(tokens, self.norms, self.maps, self.embeddings, strict=True)
        return [layer(norm(x)) + embedding for x, norm, layer, embedding in parts]


class EarlyFusion(nn.Module):
    """The tokens of all members, end to end, through one Transformer.

    As in Kim et al. 2021 (ViLT, sec. 3.1): each token is mapped to one width and marked with
    its member's embedding; a class token goes before them. The tokens of a missing member
    are not attended to. ``pooling``: "cls" reads out the class token, "avg" and
    "attention" all that are there.
    """

    def __init__(
        self,
        encoders: Encoders,
        outputs: int,
        layers: TransformerConfig,
        pooling: str = "cls",
    ) -> None:
        super().__init__()
        dim = layers.dim
        self.encoders, self.width = encoders, dim
        self.data_dependent = encoders.data_dependent
        self.entry = _Projections(encoders.widths, dim)
        self.cls = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.blocks = TransformerStack(layers)
        init_transformer(self.blocks)
        self.norm = make_norm(layers.norm, dim, dims=1)
        self.pool = GlobalPool(pooling, dim, dims=1) if pooling != "cls" else None
        self.dropout = nn.Dropout(layers.dropout)
        self.head = make_head(dim, outputs)

    def forward(self, **inputs: Tensor) -> Tensor:
        """The members' inputs by name to logits (B, outputs)."""
        # Others than "cls" read all tokens.
        x, mask = self._encode(inputs, queries=1 if self.pool is None else None)
        y: Tensor = self.head(self.dropout(x[:, 0] if self.pool is None else self.pool(x, mask)))
        return y

    def features(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The class token and all members' tokens, (B, T, width), and which of them count."""
        return self._encode(inputs)

    def _encode(
        self, inputs: Mapping[str, Tensor], queries: int | None = None
    ) -> tuple[Tensor, Tensor]:
        present = self.encoders.present(inputs)
        tokens, masks = self.encoders.tokens(inputs)
        mapped = self.entry(tokens)
        cls = self.cls.expand(present.shape[0], 1, -1)
        x = torch.cat([cls, *mapped], dim=1)
        there = [mask & one[:, None] for mask, one in zip(masks, present.unbind(1), strict=True)]
        mask = torch.cat([torch.ones_like(present[:, :1]), *there], dim=1)
        return self.norm(self.blocks(x, queries=queries, mask=mask)), mask


class _CrossAttention(nn.Module):
    """Queries of one sequence, keys and values of another; pre-norm, with a feed-forward part.

    Vaswani et al. 2017, sec. 3.2.3 ("encoder-decoder attention"). ``context`` brings a token
    that is always there, so that no softmax is over nothing.
    """

    def __init__(self, config: TransformerConfig, drop_path: float) -> None:
        super().__init__()
        dim, norm = config.dim, config.norm
        if dim % config.heads:
            raise ValueError(f"heads must divide dim, but got dim={dim}, heads={config.heads}")
        self.heads = config.heads
        self.norm_own = make_norm(norm, dim, dims=1)
        self.norm_other = make_norm(norm, dim, dims=1)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm = make_norm(norm, dim, dims=1)
        hidden = max(1, int(dim * config.mlp_ratio))
        self.feed_forward = FeedForward(dim, hidden, config.activation, config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """(B, T, dim), context (B, S, dim) and its mask (B, S) to (B, T, dim)."""
        query = self.query(self.norm_own(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key_value = self.key_value(self.norm_other(context)).unflatten(2, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, mask[:, None, None, :])
        x = x + self.drop_path(self.dropout(self.out(mixed.transpose(1, 2).flatten(2))))
        y: Tensor = x + self.drop_path(self.dropout(self.feed_forward(self.norm(x))))
        return y


class _CrossLayer(nn.Module):
    """One layer of all directions at once: each member's tokens attend to all the others'."""

    def __init__(self, blocks: Iterable[_CrossAttention]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, streams: list[Tensor], there: list[Tensor], nothing: Tensor) -> list[Tensor]:
        """``there`` are the masks; ``nothing`` (B, 1, dim) is part of every context."""
        always = torch.ones_like(there[0][:, :1])
        result = []
        for i, block in enumerate(self.blocks):
            context = torch.cat([nothing, *streams[:i], *streams[i + 1 :]], dim=1)
            mask = torch.cat([always, *there[:i], *there[i + 1 :]], dim=1)
            result.append(block(streams[i], context, mask))
        return result


class CrossAttentionFusion(nn.Module):
    """The tokens of each member attend to those of all others, layer by layer.

    As in Tsai et al. 2019 (Multimodal Transformer, sec. 3.1 and 3.2), with all directions of
    a layer at once and the others side by side as one context; then each member is pooled,
    and the vectors are concatenated, with a learned vector for a missing one.
    """

    def __init__(
        self,
        encoders: Encoders,
        outputs: int,
        layers: TransformerConfig,
        pooling: str = "avg",
    ) -> None:
        super().__init__()
        dim, norm = layers.dim, layers.norm
        self.encoders = encoders
        self.data_dependent = encoders.data_dependent
        members = len(encoders.members)
        self.entry = _Projections(encoders.widths, dim)
        self.nothing = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.layers = nn.ModuleList(
            _CrossLayer(_CrossAttention(layers, rate) for _ in range(members))
            for rate in linear_rates(layers.drop_path, layers.depth)
        )
        init_transformer(self.layers)
        self.norms = nn.ModuleList(make_norm(norm, dim, dims=1) for _ in range(members))
        self.pools = nn.ModuleList(GlobalPool(pooling, dim, dims=1) for _ in range(members))
        self.missing = nn.Parameter(torch.zeros(members, dim))
        self.width = members * dim
        self.dropout = nn.Dropout(layers.dropout)
        self.head = make_head(self.width, outputs)

    def forward(self, **inputs: Tensor) -> Tensor:
        """The members' inputs by name to logits (B, outputs)."""
        y: Tensor = self.head(self.dropout(self._join(inputs)))
        return y

    def features(self, **inputs: Tensor) -> tuple[Tensor, None]:
        """What the head sees, as one token: (B, 1, width)."""
        return self._join(inputs).unsqueeze(1), None

    def _join(self, inputs: Mapping[str, Tensor]) -> Tensor:
        present = self.encoders.present(inputs)
        tokens, masks = self.encoders.tokens(inputs)
        streams = self.entry(tokens)
        there = [mask & one[:, None] for mask, one in zip(masks, present.unbind(1), strict=True)]
        nothing = self.nothing.expand(present.shape[0], 1, -1)
        for layer in self.layers:
            streams = layer(streams, there, nothing)
        ends = zip(streams, masks, self.norms, self.pools, strict=True)
        pooled = torch.stack([pool(norm(x), mask) for x, mask, norm, pool in ends], dim=1)
        return torch.where(present[:, :, None], pooled, self.missing.to(pooled.dtype)).flatten(1)
