"""Families for tables: MLP (plain and residual), TabNet, FT-Transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas import rules
from nas.family import Family
from nas.space import Choice, Config, Float, Int, Param, Space
from nas.task import Task

if TYPE_CHECKING:
    from torch import nn

    from nas.models.inputs import NumericEncoding


def _front_end(task: Task, *, embedding: bool) -> list[Param]:
    """How columns become numbers: shared by the families of this file."""
    kinds = {column.kind for column in task.profile.columns}
    params: list[Param] = []
    if "numeric" in kinds:
        options = ("piecewise", "quantile", "standard")
        params.append(Choice("encoding", options, default="piecewise", why=("numeric-encoding",)))
    if embedding and "categorical" in kinds:
        params.append(Int("embedding", 2, 16, default=6, log=True, why=("width-from-data",)))
    return params


def _numeric(config: Config, task: Task) -> NumericEncoding | None:
    from nas.models.inputs import NumericEncoding

    columns = [c for c in task.profile.columns if c.kind == "numeric"]
    if not columns:
        return None
    return NumericEncoding(
        means=[c.mean for c in columns],
        stds=[c.std for c in columns],
        quantiles=[c.quantiles for c in columns],
        missing=[c.missing > 0 for c in columns],
        kind=str(config["encoding"]),
    )


def _cardinalities(task: Task) -> list[int]:
    return [len(c.categories) for c in task.profile.columns if c.kind == "categorical"]


def _flat(config: Config, task: Task) -> Any:
    from nas.models.inputs import TabularInput

    embedding = int(config.get("embedding", 1))
    return TabularInput(_numeric(config, task), _cardinalities(task), embedding)


def _mlp_space(task: Task) -> Space:
    return Space(
        (
            *_front_end(task, embedding=True),
            rules.depth(task, base=4, default=3),
            rules.width(task, "width", low=8, base=64, default=128),
            Choice(
                "residual",
                (True, False),
                default=True,
                # Deeper ones are residual without being asked.
                when={
                    "depth": tuple(range(1, min(9, rules.depth(task, base=4, default=3).high) + 1))
                },
                why=("residual-from-10",),
            ),
            Choice("norm", ("batch", "layer", "none"), default="batch", why=("norm-by-family",)),
            rules.activation("activation", "relu", ("relu", "gelu", "silu")),
            rules.dropout(task),
            *rules.training(task, lr=2e-3),
        )
    )


def _build_mlp(config: Config, task: Task) -> nn.Module:
    from nas.models.mlp import MLP

    return MLP(
        _flat(config, task),
        task.outputs,
        width=int(config["width"]),
        depth=int(config["depth"]),
        norm=str(config["norm"]),
        activation=str(config["activation"]),
        dropout=float(config["dropout"]),
        residual=bool(config.get("residual", True)),
    )


def _tabnet_space(task: Task) -> Space:
    return Space(
        (
            *_front_end(task, embedding=True),
            rules.width(task, "width", low=4, base=16, default=16, step=4),
            Int("steps", 1, 6, default=3, why=("depth-from-data",)),
            Float("gamma", 1.0, 2.0, default=1.3),
            Int("n_shared", 1, 3, default=2),
            Int("n_independent", 1, 3, default=1),
            Choice("mask", ("sparsemax", "entmax"), default="sparsemax"),
            Float("sparsity", 1e-6, 1e-2, default=1e-4, log=True),
            *rules.training(task, lr=1e-2),
        )
    )


def _build_tabnet(config: Config, task: Task) -> nn.Module:
    from nas.models.tabnet import TabNet

    return TabNet(
        _flat(config, task),
        task.outputs,
        n_d=int(config["width"]),
        n_a=int(config["width"]),
        steps=int(config["steps"]),
        gamma=float(config["gamma"]),
        n_independent=int(config["n_independent"]),
        n_shared=int(config["n_shared"]),
        momentum=0.05,
        virtual_batch_size=min(128, int(config["batch_size"])),
        mask=str(config["mask"]),
    )


def _ft_space(task: Task) -> Space:
    return Space(
        (
            *_front_end(task, embedding=False),
            rules.depth(task, base=2, default=2),
            rules.width(task, "dim", low=8, base=32, default=32, weights=8),
            Choice("heads", (1, 2, 4, 8), default=4),
            Float("ffn_factor", 1.0, 3.0, default=1.5),
            rules.activation("activation", "reglu", ("reglu", "gelu", "relu")),
            Choice("norm", ("layer", "rms"), default="layer", why=("norm-by-family",)),
            rules.dropout(task, default=0.1),
            rules.dropout(task, "attention_dropout", default=0.15),
            Float("drop_path", 0.0, 0.2, default=0.0, why=("dropout-from-risk",)),
            *rules.training(task, lr=1e-3),
        )
    )


def _build_ft(config: Config, task: Task) -> nn.Module:
    from nas.models.ft_transformer import FTTransformer
    from nas.models.inputs import TabularTokens

    dim = int(config["dim"])
    return FTTransformer(
        TabularTokens(_numeric(config, task), _cardinalities(task), dim),
        task.outputs,
        dim=dim,
        depth=int(config["depth"]),
        heads=int(config["heads"]),
        ffn_factor=float(config["ffn_factor"]),
        activation=str(config["activation"]),
        norm=str(config["norm"]),
        dropout=float(config["dropout"]),
        attention_dropout=float(config["attention_dropout"]),
        drop_path=float(config["drop_path"]),
    )


FAMILIES = (
    Family(
        "mlp",
        "tabular",
        "Gorishniy et al. 2021, Revisiting Deep Learning Models for Tabular Data (MLP, ResNet)",
        _mlp_space,
        _build_mlp,
    ),
    Family(
        "tabnet",
        "tabular",
        "Arik & Pfister 2019, TabNet: Attentive Interpretable Tabular Learning",
        _tabnet_space,
        _build_tabnet,
    ),
    Family(
        "ft_transformer",
        "tabular",
        "Gorishniy et al. 2021, Revisiting Deep Learning Models for Tabular Data",
        _ft_space,
        _build_ft,
    ),
)
