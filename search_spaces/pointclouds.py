"""Families for point clouds: PointNet, DGCNN, sparse 3-D CNN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import rules
from nas.family import Family
from nas.space import Choice, Config, Float, Int, Param, Space, When
from nas.task import Task

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
        rules.dropout(task, default=0.1, before_head=True),
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
    return CloudConfig(
        task.outputs,
        norm=str(config["norm"]),
        activation=str(config["activation"]),
        pooling=str(config["pooling"]),
        head=(width,) if width else (),
        dropout=float(config["dropout"]),
    )


def _pooled(task: Task) -> int:
    """What a feature costs after "max+avg" pooling: twice the layer after it."""
    return 2 * (task.outputs if rules.params_limit(task) <= 50_000 else 64)


def _pointnet_space(task: Task) -> Space:
    expand = 8  # a maximum keeps one point of each feature: it takes many
    deeper = rules.depth(task, low=1, base=3, default=2)
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
            *_rest(task),
        )
    )  # fmt: skip


def _build_pointnet(config: Config, task: Task) -> nn.Module:
    from nas.models.pointnet import PointNet

    width = int(config["width"])
    return PointNet(
        _input(config, task),
        _common(config, task),
        widths=(*[width] * (1 + int(config["depth"])), int(config["expand"]) * width),
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
    return Space(
        (
            points,
            _frame(task),
            Choice("k", nearest, default=k if k in nearest else nearest[-1], why=("neighbours",)),
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
            *_rest(task),
        )
    )  # fmt: skip


def _build_dgcnn(config: Config, task: Task) -> nn.Module:
    from nas.models.dgcnn import DGCNN

    width = int(config["width"])
    return DGCNN(
        _input(config, task),
        _common(config, task),
        widths=(width,) * (1 + int(config["depth"])),
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
    params: list[Param] = [
        _grid(task),
        _frame(task),
        Int("stages", 2, 3, default=stages, why=("stages",)),
    ]
    for i in (1, 2, 3):
        when: When = {} if i < 3 else {"stages": (3,)}
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
    )


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
    )


FAMILIES = (
    Family(
        "pointnet",
        "pointclouds",
        "Qi et al. 2017, PointNet: Deep Learning on Point Sets",
        _pointnet_space,
        _build_pointnet,
        "Clouds told apart by their points one by one, not their surface; the cheapest.",
    ),
    Family(
        "dgcnn",
        "pointclouds",
        "Wang et al. 2019, Dynamic Graph CNN for Learning on Point Clouds",
        _dgcnn_space,
        _build_dgcnn,
        "Clouds told apart by local shape: each point is compared with its nearest.",
    ),
    Family(
        "sparse_cnn",
        "pointclouds",
        "Graham et al. 2018, Submanifold Sparse Convolutional Networks; Choy et al. 2019",
        _sparse_space,
        _build_sparse,
        "Large clouds that fill their space thinly: only cells with points are computed.",
    ),
)
