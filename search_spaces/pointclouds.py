"""Families for point clouds: PointNet, DGCNN, sparse 3-D CNN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import rules
from nas.family import Family, Reference, carried
from nas.space import Choice, Config, Float, Int, Param, Space, When
from nas.task import DataProfile, Target, Task

if TYPE_CHECKING:
    from torch import nn

    from nas.models.inputs import PointInput
    from nas.models.pointnet import CloudConfig

USUAL_CELLS = 16  # by default: neighbours are to be found in them


def _channels(task: Task) -> int:
    return task.profile.inputs["points"][1]


def _typical(task: Task) -> int:
    """The points of the middle cloud."""
    return max(task.profile.lengths["points"][3], 1)


def _points(task: Task, most: int) -> Choice:
    """How many points of a cloud are read: powers of two, and all of the middle one.

    By default at most 128 on a CPU and ``most`` elsewhere, which is the most on offer.
    """
    typical, cpu = _typical(task), task.device == "cpu"
    top = min(most, 512) if cpu else most
    powers = [2**i for i in range(5, 12) if 2**i <= top and 2**i < 0.8 * typical][-4:]
    options = (*powers, typical) if typical <= top else tuple(powers)
    usual = [n for n in options if n <= (128 if cpu else most)]
    default = usual[-1] if usual else options[0]
    return Choice("points", options, default=default, why=("cloud-size",))


def _published(
    task: Task, references: tuple[Reference, ...], own: dict[str, Choice]
) -> list[Config]:
    """The published networks that the space of ``task`` holds: points no more than the middle cloud
    has, and of the parameters in ``own``, which follow from the clouds, what those allow."""

    def fits(name: str, value: object) -> bool:
        if name == "points":
            return int(str(value)) <= _typical(task)
        return name not in own or own[name].contains(value)  # type: ignore[arg-type]

    return [
        {name: value for name, value in reference.config.items() if fits(name, value)}
        for reference in carried(references, task)
    ]


def _published_layers(published: list[Config]) -> list[Param]:
    """What published networks have beside: last layers of points each twice as wide as the one
    before, and a second fully connected layer, half as wide as the first."""
    if not published:
        return []
    return [
        Int("doublings", 0, 2, default=0, why=("references",)),
        Choice("head_layers", (1, 2), default=1, why=("references",)),
    ]


def _widths(config: Config) -> tuple[int, ...]:
    """Of the layers of points."""
    width, doublings = int(config["width"]), int(config.get("doublings", 0))
    layers = 1 + int(config["depth"])
    even = max(layers - doublings, 1)
    return (*[width] * even, *(width * 2**i for i in range(1, layers - even + 1)))


def _frame(task: Task) -> Choice:
    """A ball is meaningless where the axes have different units, each with a spread of its own."""
    alike = len(set(task.profile.channel_std[:3])) == 1
    default = "cloud" if alike else "data"
    return Choice("frame", ("cloud", "data"), default=default, why=("cloud-frame",))


def _input(config: Config, task: Task) -> PointInput:
    from nas.models.inputs import PointInput

    return PointInput(
        task.profile.channel_mean,
        task.profile.channel_std,
        frame=str(config["frame"]),
        points=int(config["points"]) if "points" in config else None,
    )


def _layers(depth: Int, expand: int) -> list[Param]:
    """What the layers of single points have, ``expand`` the widening of the last of them. The
    transform's two, the first, the wide one and the head's two stand around the others."""
    plain = rules.plain_depths(depth, around=6)
    return [
        Choice("expand", (2, 4, 8), default=expand, why=("cloud-features",)),
        Choice("residual", (True, False), default=True, when={"depth": plain},
               why=("residual-from-10",)),
    ]  # fmt: skip


def _rest(task: Task) -> list[Param]:
    """Of every family: normalisation, activation, pooling, the layer after it, augmentation
    and training."""
    narrow = rules.params_limit(task) <= 50_000
    widths: tuple[int, ...] = (0, 32) if narrow else (0, 64, rules.HEAD_WIDEST)
    why = ("cloud-augmentation",)
    return [
        rules.conv_norm(task, "norm"),
        rules.activation("activation", "relu", ("relu", "gelu", "silu")),
        Choice("pooling", ("max", "avg", "max+avg"), default="max+avg", why=("cloud-pooling",)),
        Choice("head_width", widths, default=0 if narrow else 64, why=("global-pooling",)),
        rules.dropout(task, default=0.3, before_head=True),
        Choice("rotate", ("none", "small", "z"), default="none", why=why),
        Float("stretch", 0.0, 0.3, default=0.1, why=why),
        Float("jitter", 0.0, 0.05, default=0.01, why=why),
        Float("point_dropout", 0.0, 0.5, default=0.0, why=why),
        *rules.label_smoothing(task),
        *rules.training(task, lr=6e-3),
    ]


def _common(config: Config, task: Task) -> CloudConfig:
    """What all networks here have."""
    from nas.models.pointnet import CloudConfig

    width = int(config["head_width"])
    head = [width, width // 2][: int(config.get("head_layers", 1))] if width else []
    return CloudConfig(
        task.outputs,
        norm=str(config["norm"]),
        activation=str(config["activation"]),
        pooling=str(config["pooling"]),
        head=head,
        dropout=float(config["dropout"]),
    )


def _pooled(task: Task) -> int:
    """What a feature costs after "max+avg" pooling: twice the layer after it."""
    return 2 * (task.outputs if rules.params_limit(task) <= 50_000 else 64)


def _pointnet_space(task: Task) -> Space:
    expand = 8  # a maximum keeps one point of each feature: it takes many
    deeper = rules.depth(task, low=1, base=3, default=2)
    published = _published(task, POINTNETS, {})
    return Space(
        (
            _points(task, 2048),
            _frame(task),
            Choice("transform", (False, True), default=False, why=("cloud-transform",)),
            deeper,
            rules.width(
                task,
                "width",
                low=8,
                base=32,
                default=32 if task.device == "cpu" else 64,
                weights=1,
                layers=deeper.default + expand + 0.5,
                inputs=_channels(task) + 2 * (deeper.default + expand) + expand * _pooled(task),
                fixed=64 * task.outputs + 256,
            ),
            *_layers(deeper, expand),
            *_published_layers(published),
            *_rest(task),
        )
    ).holding(published, "references")  # fmt: skip


def _build_pointnet(config: Config, task: Task) -> nn.Module:
    from nas.models.pointnet import PointNet

    width = int(config["width"])
    return PointNet(
        _input(config, task),
        _common(config, task),
        widths=(*_widths(config), int(config["expand"]) * width),
        transform=width if config["transform"] else 0,
        residual=bool(config.get("residual", True)),
    )


def _dgcnn_space(task: Task) -> Space:
    cpu = task.device == "cpu"
    points = _points(task, 1024)
    nearest = tuple(k for k in (4, 8, 16, 20) if k < min(int(o) for o in points.options)) or (1,)
    k = 8 if cpu else 20
    expand, deeper = 4, rules.depth(task, low=1, base=3, default=2)
    layers = deeper.default
    neighbours = Choice(
        "k", nearest, default=k if k in nearest else nearest[-1], why=("neighbours",)
    )
    published = _published(task, DGCNNS, {"k": neighbours})
    return Space(
        (
            points,
            _frame(task),
            neighbours,
            Choice("graph", ("static", "dynamic"), default="static" if cpu else "dynamic",
                   why=("graph-of-points",)),
            deeper,
            rules.width(
                task,
                "width",
                low=8,
                base=24,
                default=16 if cpu else 48,
                weights=2,
                # Two maps of each layer but the first, and the one that mixes all.
                layers=(2 * layers + expand * (layers + 1)) / 2,
                inputs=2 * _channels(task) + 2 * (layers + expand) + expand * _pooled(task),
                fixed=64 * task.outputs + 256,
            ),
            *_layers(deeper, expand),
            *_published_layers(published),
            *_rest(task),
        )
    ).holding(published, "references")  # fmt: skip


def _build_dgcnn(config: Config, task: Task) -> nn.Module:
    from nas.models.dgcnn import DGCNN

    width = int(config["width"])
    return DGCNN(
        _input(config, task),
        _common(config, task),
        widths=_widths(config),
        embedding=int(config["expand"]) * width,
        k=int(config["k"]),
        dynamic=config["graph"] == "dynamic",
        residual=bool(config.get("residual", True)),
    )


def _grid(task: Task) -> Choice:
    options = tuple(
        side
        for side in (8, 12, 16, 24, 32, 48, 64)
        if side**3 <= rules.CLOUD_CELLS * _typical(task)
    ) or (8,)
    options = options[-4:]
    usual = [side for side in options if side**3 <= USUAL_CELLS * _typical(task)]
    return Choice("grid", options, default=usual[-1] if usual else options[0], why=("voxels",))


def _sparse_space(task: Task) -> Space:
    # A residual block is 54 w² weights. Each stage is twice as wide as the one before: its
    # first layer is 8 w (2 w) = 16 w², of the first stage's width.
    stages, weights = 2, 54 + 16 + 54 * 4
    grid = _grid(task)
    published = _published(task, SPARSE_CNNS, {"grid": grid})
    most = max([3, *(int(config["stages"]) for config in published)])
    params: list[Param] = [
        grid,
        _frame(task),
        Int("stages", 2, most, default=stages, why=("stages",)),
    ]
    if published:
        kinds = ("stride", "block")
        params += [
            Choice("stem_stride", (1, 2), default=1, why=("references", "early-downsampling")),
            Choice("widening", kinds, default="stride", why=("references", "stages")),
        ]
    for i in range(1, most + 1):
        when: When = {} if i < 3 else {"stages": tuple(range(i, most + 1))}
        blocks = 1 + int(rules.scale(task)) // 3
        params.append(Int(f"depth{i}", 1, blocks, default=1, when=when, why=("depth-from-data",)))
    return Space(
        (
            *params,
            rules.width(
                task,
                "width",
                low=4,
                base=16,
                default=16,
                step=4,
                weights=weights,
                inputs=27 * (_channels(task) + 1) + 20 + 2 * _pooled(task),
                fixed=64 * task.outputs + 256,
            ),
            rules.drop_path(task),
            *_rest(task),
        )
    ).holding(published, "references")


def _build_sparse(config: Config, task: Task) -> nn.Module:
    from nas.models.sparse_conv import SparseCNN, Stage

    front_end = _input(config, task)
    return SparseCNN(
        front_end,
        _common(config, task),
        side=int(config["grid"]),
        stages=[
            Stage(int(config[f"depth{i}"]), int(config["width"]) * 2 ** (i - 1))
            for i in range(1, int(config["stages"]) + 1)
        ],
        extent=front_end.extent,
        drop_path=float(config["drop_path"]),
        stem_stride=int(config.get("stem_stride", 1)),
        widening=str(config.get("widening", "stride")),
    )


# Published networks --------------------------------------------------------------------------


def _modelnet(points: int) -> Task:
    """ModelNet40 (Wu et al. 2015), with so many points of a shape."""
    shapes = tuple(f"shape {i}" for i in range(40))
    target = Target("shape", "multiclass", shapes, (246,) * 40)
    profile = DataProfile(
        9_843, 1_000, 2_468, {"points": (points, 3)}, lengths={"points": (points,) * 7},
        channel_mean=(0.0,) * 3, channel_std=(0.4,) * 3,
    )  # fmt: skip
    return Task("pointclouds", (target,), profile)


_MODELNET = _modelnet(1_024)
_TRAINED: Config = {"norm": "batch", "activation": "relu", "dropout": 0.3, "rotate": "z"}
_TRAINED |= {"stretch": 0.0, "jitter": 0.01, "point_dropout": 0.0, "frame": "cloud"}
_TWO_LAYERS: Config = {"head_width": 512, "head_layers": 2}

POINTNETS = (
    Reference(
        "PointNet, vanilla",
        "Qi et al. 2017, fig. 2 without its transforms, table 6 (0.8 million) and app. C",
        819_624,
        {
            "points": 1_024, "transform": False, "depth": 3, "width": 64, "doublings": 1,
            "expand": 16, "residual": False, "pooling": "max", **_TWO_LAYERS, **_TRAINED,
            "lr": 1e-3,
        },
        _MODELNET,
        -(3 * 64 + 128 + 1_024),
        "no biases before BatchNorm, and LayerNorm in the head; the count is that of the layers",
        148e6,
    ),
)  # fmt: skip
DGCNNS = (
    Reference(
        "DGCNN",
        "Wang et al. 2019, fig. 3 and sec. 5.1",
        1_809_576,
        {
            "points": 1_024, "k": 20, "graph": "dynamic", "depth": 3, "width": 64, "doublings": 2,
            "expand": 16, "residual": False, "pooling": "max+avg", **_TWO_LAYERS, **_TRAINED,
            "dropout": 0.5,
        },
        _MODELNET,
        512,
        "a bias before the first normalisation of the head, which is LayerNorm, dropout before its"
        " last layer alone, and ReLU that does not leak; no count is published: it is that of the"
        " authors' code",
        2.4e9,
    ),
)  # fmt: skip


def _published_minkunet(name: str, layers: tuple[int, int, int, int], params: int) -> Reference:
    config: Config = {"grid": 48, "stages": 4, "stem_stride": 2, "widening": "block", "width": 32}
    config |= {f"depth{i}": depth for i, depth in enumerate(layers, 1)}
    config |= {"pooling": "avg", "head_width": 0, "drop_path": 0.0, **_TRAINED}
    # A kernel of 3 over four values of a voxel in the stem, where theirs has one of 5 over three.
    extra = 27 * 4 * 32 - 125 * 3 * 32 + 256 * 40 + 40
    differs = (
        "a smaller kernel in the stem, and a head; no count is published: it is that of the layers"
        " up to the coarsest level in the authors' MinkowskiEngine"
    )
    source = "Choy et al. 2019, fig. 4, and the authors' MinkowskiEngine (minkunet.py)"
    # Of 2,048 points some 1,500 voxels, a fraction of that at each level. Gathering takes its time.
    return Reference(name, source, params, config, _modelnet(2_048), extra, differs, 0.1e9, 0.1)


SPARSE_CNNS = (
    _published_minkunet("MinkUNet14 encoder", (1, 1, 1, 1), 3_777_568),
    _published_minkunet("MinkUNet18 encoder", (2, 2, 2, 2), 8_479_648),
    _published_minkunet("MinkUNet34 encoder", (2, 3, 4, 6), 24_631_456),
)

FAMILIES = (
    Family(
        "pointnet",
        "pointclouds",
        "Qi et al. 2017, PointNet: Deep Learning on Point Sets",
        _pointnet_space,
        _build_pointnet,
        "Clouds told apart by their points one by one, not their surface; the cheapest.",
        POINTNETS,
    ),
    Family(
        "dgcnn",
        "pointclouds",
        "Wang et al. 2019, Dynamic Graph CNN for Learning on Point Clouds",
        _dgcnn_space,
        _build_dgcnn,
        "Clouds told apart by local shape: each point is compared with its nearest.",
        DGCNNS,
    ),
    Family(
        "sparse_cnn",
        "pointclouds",
        "Graham et al. 2018, Submanifold Sparse Convolutional Networks; Choy et al. 2019",
        _sparse_space,
        _build_sparse,
        "Large clouds that fill their space thinly: only cells with points are computed.",
        SPARSE_CNNS,
    ),
)
