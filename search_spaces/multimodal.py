"""Families for multimodal data: early, late and cross-attention fusion of other families'
networks.

The encoder of a member is a network of a family of its modality, whose own parameters are
nested: "photo.encoder" is the family, "photo.resnet.width1" one of its parameters. What
concerns training alone appears once, at the top.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from nas import rules
from nas.family import Family, load_families
from nas.space import Choice, Config, Float, Int, Param, Space, Value, When
from nas.task import Constraint, Task, UsageError
from search_spaces.layers import transformer_layers
from search_spaces.pretrained import adapted_rate

if TYPE_CHECKING:
    from torch import nn

    from nas.models.fusion import (
        CrossAttentionFusion,
        EarlyFusion,
        Encoders,
        LateFusion,
        PretrainedFusion,
    )

# The light families of each modality, the first by default (rule "light-encoders"): for one
# vector of a member, and for its tokens.
VECTORS = {
    "images": ("resnet",),
    "tabular": ("mlp",),
    "text": ("lstm", "transformer"),
    "series": ("inception_time",),
    "audio": ("audio_cnn_transformer",),
    "graphs": ("gcn",),
    "pointclouds": ("pointnet",),
}
TOKENS = VECTORS | {"tabular": ("ft_transformer",), "text": ("transformer", "lstm")}
# Families from published weights by modality, after "frozen_" or "pretrained_".
PRETRAINED = {"images": "image", "text": "text", "audio": "audio"}
ENCODER_FRACTION = 0.8  # of the parameters, for all encoders together
LATE_RATE = 3e-3  # learning rate of a late fusion from random weights
ALL, ONLY = "all", "only "  # options of "members"


def _member_task(task: Task, member: str) -> Task:
    """The task of one member's encoder, which may have an equal part of the parameters."""
    about = task.profile.members[member]
    room = ENCODER_FRACTION * rules.params_limit(task) / len(task.profile.members)
    others = tuple(c for c in task.constraints if c.metric != "params")
    return replace(
        task,
        modality=about.modality,
        profile=about.profile,
        constraints=(*others, Constraint("params", "<=", room)),
    )


def _families(task: Task, member: str, light: dict[str, tuple[str, ...]]) -> dict[str, Family]:
    modality = task.profile.members[member].modality
    known = load_families(modality)
    chosen = [name for name in light[modality] if name in known] or list(known)[:1]
    if not chosen:
        raise UsageError(f"no family for {modality} is installed, which {member!r} needs")
    return {name: known[name] for name in chosen}


def _encoder(task: Task, member: str, light: dict[str, tuple[str, ...]], when: When) -> list[Param]:
    """The choice of a member's family, and the nested parameters of each."""
    families = _families(task, member, light)
    names = tuple(families)
    choice = f"{member}.encoder"
    params: list[Param] = [
        Choice(choice, names, default=names[0], when=when, why=("light-encoders",))
    ]
    own = _member_task(task, member)
    for name, family in families.items():
        params += _nested(family.space(own), f"{member}.{name}.", {choice: (name,)})
    return params


# A family's parameters of training and of its head: at the top, or left out.
_OUTER = {
    *("lr", "weight_decay", "batch_size", "clip"),
    *("class_weights", "label_smoothing", "sparsity"),
}


def _nested(space: Space, prefix: str, when: When) -> list[Param]:
    """A family's parameters under a prefix, without those of training; its pooling, which the
    fusion brings itself, stays as it is by default."""
    kept: dict[str, Param] = {}
    for param in space.params:
        if param.name == "pooling" and isinstance(param, Choice):
            param = replace(param, options=(param.default,))
        possible = {
            parent: tuple(v for v in values if parent in kept and kept[parent].contains(v))
            for parent, values in param.when.items()
        }
        if param.name not in _OUTER and all(possible.values()):
            kept[param.name] = replace(param, when=possible)
    return [
        replace(
            param,
            name=f"{prefix}{param.name}",
            # A parameter with a parent is active only where the parent is.
            when={f"{prefix}{parent}": values for parent, values in param.when.items()} or when,
        )
        for param in kept.values()
    ]


# What a pretrained member's configuration lacks: the head that a fusion brings.
_NO_HEAD: Config = {"head": "linear", "dropout": 0.0, "head_rate": 1.0}


def _own(config: Config, member: str) -> tuple[Family, Config] | None:
    """A member's family and its configuration; None where another member is used alone."""
    name = config.get(f"{member}.encoder")
    if name is None:
        return None
    prefix = f"{member}.{name}."
    own = {k.removeprefix(prefix): v for k, v in config.items() if k.startswith(prefix)}
    outer = {k: v for k, v in config.items() if k in _OUTER}
    return load_families()[str(name)], outer | own


def _networks(config: Config, task: Task) -> Encoders:
    from nas.models.adapted import PretrainedMember
    from nas.models.fusion import Encoders

    networks: dict[str, nn.Module] = {}
    for member in task.profile.members:
        if (own := _own(config, member)) is None:
            continue
        family, inner = own
        about = _member_task(task, member)
        if family.load is None:
            networks[member] = family.build(inner, about)
        else:
            networks[member] = PretrainedMember(family.build(_NO_HEAD | inner, about))
    return Encoders(networks, float(config.get("modality_dropout", 0.0)))


def _modality_dropout(task: Task, when: When) -> list[Param]:
    if len(task.profile.members) == 1:
        return []
    return [Float("modality_dropout", 0.0, 0.3, default=0.0, when=when, why=("modality-dropout",))]


def _training(task: Task, lr: float) -> list[Param]:
    return [*rules.label_smoothing(task), *rules.training(task, lr=lr)]


def _room(task: Task) -> int:
    """The parameters that are not left for the fusion, by the defaults."""
    return int(ENCODER_FRACTION * rules.params_limit(task))


def _late_body(task: Task) -> list[Param]:
    """The hidden layers over the joined vectors."""
    inputs = 128 * len(task.profile.members)
    return [
        rules.depth(task, low=0, base=1, default=1),
        rules.width(task, "width", low=8, base=32, default=64, inputs=inputs, fixed=_room(task)),
        rules.activation("activation", "relu", ("relu", "gelu", "silu")),
        rules.dropout(task),
    ]


def _late_space(task: Task) -> Space:
    members = list(task.profile.members)
    params: list[Param] = []
    together: When = {}
    if len(members) > 1:
        options: tuple[Value, ...] = (ALL, *(f"{ONLY}{member}" for member in members))
        together = {"members": (ALL,)}
        fusions = ("concat", "softmax", "sigmoid")
        params = [
            Choice("members", options, default=ALL, each=True, why=("single-members",)),
            Choice("fusion", fusions, default="concat", when=together, why=("fusion",)),
            *_modality_dropout(task, together),
        ]
    for member in members:
        when: When = {"members": (ALL, f"{ONLY}{member}")} if together else {}
        params += _encoder(task, member, VECTORS, when)
    return Space(
        (
            *params,
            Choice("pooling", ("avg", "max", "attention"), default="max", why=("global-pooling",)),
            *_late_body(task),
            *_training(task, lr=LATE_RATE),
        )
    )


def _build_late(config: Config, task: Task) -> LateFusion:
    from nas.models.fusion import LateFusion

    return LateFusion(_networks(config, task), task.outputs, **_late(config))


def _late(config: Config) -> dict[str, Any]:
    """The arguments of a late fusion beside its encoders."""
    return {
        "width": int(config["width"]),
        "depth": int(config["depth"]),
        "fusion": str(config.get("fusion", "concat")),
        "pooling": str(config["pooling"]),
        "activation": str(config["activation"]),
        "dropout": float(config["dropout"]),
    }


# Members from published weights -------------------------------------------------------------


def _pretrained_members(task: Task) -> list[str]:
    """Members whose modality has a checkpoint; where the task has none (in the rulebook, and where
    the contract of a family is checked) those that could have one."""
    given: set[str] = {c.modality for c in task.pretrained} or set(PRETRAINED)
    members = task.profile.members.items()
    return [name for name, about in members if about.modality in given & set(PRETRAINED)]


def _pretrained_encoder(task: Task, member: str, way: str) -> list[Param]:
    """A network that starts from published weights, without its head and its training."""
    name = f"{way}_{PRETRAINED[task.profile.members[member].modality]}"
    choice = f"{member}.encoder"
    space = load_families()[name].space(_member_task(task, member))
    own = [
        replace(p, each=False) if isinstance(p, Choice) else p
        for p in _nested(space, f"{member}.{name}.", {choice: (name,)})
        if p.name.rpartition(".")[2] not in _NO_HEAD
    ]
    return [Choice(choice, (name,), default=name, why=("pretrained-first",)), *own]


def _pretrained_space(task: Task, *, way: str) -> Space:
    members = list(task.profile.members)
    published = _pretrained_members(task)
    params: list[Param] = []
    if len(members) > 1:
        fusions = ("concat", "softmax", "sigmoid")
        params = [Choice("fusion", fusions, default="concat", why=("fusion",))]
    for member in members:
        if member in published:
            params += _pretrained_encoder(task, member, way)
        else:
            params += _encoder(task, member, VECTORS, {})
    training = _training(task, lr=LATE_RATE)
    if way != "frozen":
        rate = adapted_rate(task.pretrained)
        faster = min(20.0, LATE_RATE / rate)
        new = Float("head_rate", 1.0, 100.0, default=faster, log=True, why=("pretrained-rate",))
        training = [*_training(task, lr=rate), new]
    return Space(
        (
            *params,
            Choice("pooling", ("avg", "max", "attention"), default="max", why=("global-pooling",)),
            *_late_body(task),
            *training,
        )
    )


def _build_pretrained(config: Config, task: Task) -> PretrainedFusion:
    from nas.models.fusion import PretrainedFusion

    return PretrainedFusion(
        _networks(config, task),
        task.outputs,
        float(config.get("head_rate", 1.0)),
        **_late(config),
    )


def _load_pretrained(network: nn.Module, config: Config, task: Task) -> None:
    encoders: Any = network.encoders
    for member, part in zip(encoders.members, encoders.networks, strict=True):
        own = _own(config, member)
        assert own is not None  # of every member that the network has
        family, inner = own
        if family.load is not None:
            family.load(part.network, inner, _member_task(task, member))


def _attention(task: Task, *, weights: float, layers: int) -> list[Param]:
    """What both fusions by attention have; a layer holds ``weights`` × dim² parameters."""
    members = len(task.profile.members)
    return [
        Int("depth", 1, 2 + int(rules.scale(task)) // 2, default=layers, why=("depth-from-data",)),
        rules.width(
            task,
            "dim",
            low=16,
            base=32,
            default=64,
            step=16,
            weights=weights,
            layers=layers,
            inputs=64 * members + 16 * layers * members + task.outputs * members,
            fixed=_room(task),
        ),
        rules.heads(),
        rules.mlp_ratio(),
        rules.token_norm(),
        rules.activation("activation", "gelu", ("gelu", "silu")),
        rules.dropout(task, default=0.1),
        rules.drop_path(task),
    ]


def _token_encoders(task: Task) -> list[Param]:
    return [p for member in task.profile.members for p in _encoder(task, member, TOKENS, {})]


def _early_space(task: Task) -> Space:
    return Space(
        (
            *_modality_dropout(task, {}),
            *_token_encoders(task),
            *_attention(task, weights=8, layers=1),
            Choice("pooling", ("cls", "avg", "attention"), default="cls", why=("global-pooling",)),
            rules.drop_path(task, "attention_dropout"),
            *_training(task, lr=1e-3),
        )
    )


def _build_early(config: Config, task: Task) -> EarlyFusion:
    from nas.models.fusion import EarlyFusion

    return EarlyFusion(
        _networks(config, task),
        task.outputs,
        transformer_layers(config),
        pooling=str(config["pooling"]),
    )


def _cross_space(task: Task) -> Space:
    return Space(
        (
            *_modality_dropout(task, {}),
            *_token_encoders(task),
            *_attention(task, weights=8 * len(task.profile.members), layers=1),
            Choice("pooling", ("avg", "max", "attention"), default="avg", why=("global-pooling",)),
            *_training(task, lr=1e-3),
        )
    )


def _build_cross(config: Config, task: Task) -> CrossAttentionFusion:
    from nas.models.fusion import CrossAttentionFusion

    return CrossAttentionFusion(
        _networks(config, task),
        task.outputs,
        transformer_layers(config),
        pooling=str(config["pooling"]),
    )


FAMILIES = (
    Family(
        "late_fusion",
        "multimodal",
        "Baltrušaitis et al. 2019, Multimodal Machine Learning; Arevalo et al. 2017 (gates)",
        _late_space,
        _build_late,
        "Members that are informative alone: their vectors are joined last; the cheapest.",
    ),
    Family(
        "early_fusion",
        "multimodal",
        "Kim et al. 2021, ViLT: Vision-and-Language Transformer Without Convolution",
        _early_space,
        _build_early,
        "Members that must be seen together: all their tokens attend to each other.",
    ),
    Family(
        "cross_attention",
        "multimodal",
        "Tsai et al. 2019, Multimodal Transformer for Unaligned Multimodal Language Sequences",
        _cross_space,
        _build_cross,
        "Members of different length or rate: each attends to the others' tokens.",
    ),
    Family(
        "frozen_fusion",
        "multimodal",
        "Baltrušaitis et al. 2019; Devlin et al. 2019, BERT, sec. 5.3 (Feature-based Approach)",
        partial(_pretrained_space, way="frozen"),
        _build_pretrained,
        "Few samples with a text or an image: a pretrained network reads it and stays as it is.",
        load=_load_pretrained,
        frozen=True,
    ),
    Family(
        "pretrained_fusion",
        "multimodal",
        "Baltrušaitis et al. 2019; Gu & Budhkar 2021, A Package for Learning on Tabular and Text",
        partial(_pretrained_space, way="pretrained"),
        _build_pretrained,
        "Samples with a text or an image that decides: the network that reads it is adapted.",
        load=_load_pretrained,
    ),
)
