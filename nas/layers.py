"""What is known of a network that an audit judges: its layers, and what a short training showed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from nas.candidate import Reason

LEARNS_BELOW = 0.9  # of the loss of a uniform prediction: a training has begun to learn


@dataclass(frozen=True)
class Layer:
    """One step of a forward pass.

    ``name`` is its module's (of a function, that of the module that calls it) and ``owner``
    that module's class. ``kind`` is "input", "linear", "conv", "recurrent", "embedding",
    "norm", "activation", "dropout", "attention" or "join", where several tensors meet;
    ``type`` is which of its kind, as "batch", "relu", "add". ``shape`` is that of the output
    without the batch, and ``width`` the values that each of a layer's outputs is made from.
    ``reads`` are the places, in the order of execution, of the layers it is given.
    """

    name: str
    kind: str
    type: str = ""
    owner: str = ""
    shape: tuple[int, ...] = ()
    reads: tuple[int, ...] = ()
    params: int = 0
    width: int = 0
    depth: int = 1  # weighted layers in it: those of a recurrent module come as one
    shortcut: bool = False  # a shortcut over weighted layers begins or ends after it
    gate: bool = False  # an activation that another branch is multiplied by
    rate: float = 0.0  # of a dropout
    tokens: tuple[int, int] = (0, 0)  # queries and keys of an attention

    @property
    def weighted(self) -> bool:
        """Whether it counts towards the depth."""
        return self.kind in ("linear", "conv", "recurrent")


@dataclass(frozen=True)
class Observed:
    """What a short training has shown. Losses are a cross-entropy, or squared errors in
    variances; ``chance`` is that of a network that knows nothing."""

    chance: float
    start: float  # before the first step
    end: float = math.nan  # at the end of the training
    input_scale: float = 1.0  # the largest mean or deviation of the inputs' values
    failure: Reason = Reason.NONE  # as the monitors say
    failed_at: str = ""  # the layer
    evidence: str = ""
    one_batch: tuple[float, float, int] | None = None  # loss of a constant, end, steps
    steepest: float | None = None  # learning rate at which the loss falls fastest
    diverges: float | None = None  # and the first at which it has risen again
    dead: tuple[str, float] | None = None  # the layer with most dead units at the end, its fraction

    @property
    def learnt(self) -> bool:
        """Whether the training went well, whatever the design suggests."""
        return not self.failure and self.end < LEARNS_BELOW * self.chance


@dataclass(frozen=True)
class Anatomy:
    """What is known of a network, and of the training it is meant for; where something is
    unknown (None, or empty) the checks are silent."""

    layers: tuple[Layer, ...]
    params: int
    outputs: int | None = None  # values of one prediction
    ends: str = ""  # the activation that makes the output
    unreached: Mapping[str, int] = field(default_factory=dict)  # trainable parameters without a
    # gradient, and how many values each has
    pretrained: str = ""  # where weights for it can be had
    padding_error: float | None = None  # what padding changes, over the size of the output
    noise: float = 0.0  # what a second prediction changes, over the size of the output
    company_error: float | None = None  # what another sample changes; infinite: alone it fails
    samples: int | None = None  # of training
    classes: int | None = None  # 0 for a regression
    batch_size: int | None = None  # on one device
    lr: float | None = None
    weight_decay: float | None = None
    whole_graph: bool = False  # each batch is one graph
    observed: Observed | None = None

    @property
    def learns(self) -> bool:
        """Whether it was observed to learn."""
        return self.observed is not None and self.observed.learnt

    @cached_property
    def above(self) -> tuple[int, ...]:
        """For each layer one bit for each layer that its input was made by."""
        bits: list[int] = []
        for layer in self.layers:
            bits.append(0)
            for i in layer.reads:
                bits[-1] |= bits[i] | 1 << i
        return tuple(bits)

    def upstream(self, place: int, *kinds: str) -> list[Layer]:
        """The layers of these kinds that the layer at ``place`` depends on."""
        bits = self.above[place]
        return [x for i, x in enumerate(self.layers) if bits >> i & 1 and x.kind in kinds]

    def downstream(self, place: int, *kinds: str) -> list[Layer]:
        """The layers of these kinds that depend on the layer at ``place``."""
        found = zip(self.layers, self.above, strict=True)
        return [x for x, bits in found if bits >> place & 1 and x.kind in kinds]

    def bridged(self, place: int) -> bool:
        """Whether a shortcut ends downstream of the layer at ``place``."""
        return any(layer.shortcut for layer in self.downstream(place, "join"))

    def stretch(self, count: Callable[[Layer], int]) -> list[Layer]:
        """Of the ways between two ends of shortcuts the one with most of what ``count`` counts,
        layer by layer."""
        most: list[int] = []
        last: list[int | None] = []
        for layer in self.layers:
            ways = [None if self.layers[i].shortcut else i for i in layer.reads]
            # A gate is not part of the stack: the gradient takes the shorter factor of a product.
            pick = min if layer.type == "mul" else max
            back = pick(ways, key=lambda i: 0 if i is None else most[i], default=None)
            most.append(count(layer) + (0 if back is None else most[back]))
            last.append(back)
        place = max(range(len(most)), key=most.__getitem__, default=None)
        path: list[Layer] = []
        while place is not None:
            path.append(self.layers[place])
            place = last[place]
        return path[::-1]
