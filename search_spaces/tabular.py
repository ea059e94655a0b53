"""Families for tables: MLP (plain and residual), TabNet, FT-Transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas import rules
from nas.family import Family, Reference, carried
from nas.space import Choice, Config, Float, Int, Param, Space
from nas.task import Column, DataProfile, Target, Task
from search_spaces.layers import transformer_layers

if TYPE_CHECKING:
    from torch import nn

    from nas.models.inputs import NumericEncoding


def _columns(task: Task, kind: str) -> list[Column]:
    return [c for c in task.profile.columns if c.kind == kind]


def _values(task: Task, encoding: str) -> int:
    """How many values the numeric columns of a row become."""
    columns = _columns(task, "numeric")
    bins = (max(len(c.quantiles) - 1, 1) if encoding == "piecewise" else 1 for c in columns)
    return sum(bins) + sum(c.missing > 0 for c in columns)


def _encoding(task: Task, cost: int) -> Choice | None:
    """How numbers become values, of which each takes ``cost`` weights in a small network:
    piecewise codes only where those are affordable."""
    if not _columns(task, "numeric"):
        return None
    options: tuple[str, ...] = ("piecewise", "quantile", "standard")
    why: tuple[str, ...] = ("numeric-encoding",)
    if _values(task, "piecewise") * cost > rules.params_limit(task):
        options, why = options[1:], (*why, "cost-from-the-start")
    return Choice("encoding", options, default=options[0], why=why)


def _embedding(task: Task) -> Int | None:
    """Values for each category; at most half of the parameters are spent on them."""
    if not _columns(task, "categorical"):
        return None
    room = int(rules.params_limit(task) / 2 / _rows(task))
    most = min(rules.CATEGORY_VALUES, max(2, *_cardinalities(task)))
    high = min(most, max(2, room))
    why = ("embedding", *(("cost-from-the-start",) if high < most else ()))
    return Int("embedding", 2, high, default=min(6, high), log=True, why=why)


def _rows(task: Task) -> int:
    """Rows of the table of embeddings: the categories, and one per column for no other."""
    return sum(len(c.categories) + 1 for c in _columns(task, "categorical"))


def _present(*params: Param | None) -> list[Param]:
    return [param for param in params if param is not None]


def _sizes(task: Task, encoding: Choice | None, embedding: Int | None) -> tuple[int, int]:
    """Values of a row, and parameters of its embeddings, by the defaults."""
    values = _values(task, str(encoding.default)) if encoding else 0
    each = embedding.default if embedding else 0
    return values + each * len(_columns(task, "categorical")), each * _rows(task)


def _holding(space: Space, task: Task, references: tuple[Reference, ...], width: str) -> Space:
    """``space`` with the published networks that ``task`` carries; those that are no wider than
    its baseline do not replace it. Numbers enter as they do by default: coded they are worth more
    than width, and the published way is among the options."""
    configs = [
        {name: value for name, value in reference.config.items() if name != "encoding"}
        for reference in carried(references, task)
    ]
    small = [c for c in configs if int(c[width]) <= int(space[width].default)]
    return space.holding([c for c in configs if c not in small], "references", small)


def _numeric(config: Config, task: Task) -> NumericEncoding | None:
    from nas.models.inputs import NumericEncoding

    columns = _columns(task, "numeric")
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
    return [len(c.categories) for c in _columns(task, "categorical")]


def _flat(config: Config, task: Task) -> Any:
    from nas.models.inputs import TabularInput

    embedding = int(config.get("embedding", 1))
    return TabularInput(_numeric(config, task), _cardinalities(task), embedding)


def _mlp_space(task: Task) -> Space:
    encoding, embedding = _encoding(task, cost=32), _embedding(task)
    values, table = _sizes(task, encoding, embedding)
    depth = rules.depth(task, base=4, default=3)
    inputs = values + task.outputs
    # Inside of residual blocks published networks may be wider than between them.
    ratio = Choice("hidden_ratio", (1,), default=1, why=("references",))
    space = Space(
        (
            *_present(encoding, embedding),
            depth,
            rules.width(
                task,
                "width",
                low=8,
                base=64,
                default=128,
                weights=2,
                layers=depth.default,
                inputs=inputs,
                fixed=table,
            ),
            Choice(
                "residual",
                (True, False),
                default=True,
                when={"depth": rules.plain_depths(depth, around=1)},  # the head
                why=("residual-from-10",),
            ),
            rules.norm(task, "norm", ("batch", "layer", "none"), "batch"),
            rules.activation("activation", "relu", ("relu", "gelu", "silu")),
            *([ratio] if carried(MLPS, task) else []),
            rules.dropout(task),
            *rules.training(task, lr=2e-3),
        )
    )
    return _holding(space, task, MLPS, "width")


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
        hidden_ratio=int(config.get("hidden_ratio", 1)),
    )


def _tabnet_space(task: Task) -> Space:
    # Four weights per unit of width for a value in the first layer, one in each mask.
    encoding, embedding = _encoding(task, cost=8 * 7), _embedding(task)
    values, table = _sizes(task, encoding, embedding)
    space = Space(
        (
            *_present(encoding, embedding),
            rules.width(
                task,
                "width",
                low=4,
                base=16,
                default=16,
                step=4,
                weights=8,
                layers=5,
                inputs=7 * values + task.outputs,
                fixed=table + 8 * values,
            ),
            rules.depth(task, "steps", base=4, default=3),
            Float("gamma", 1.0, 2.0, default=1.3, why=("tabnet",)),
            Int("n_shared", 1, 3, default=2, why=("tabnet",)),
            Int("n_independent", 1, 3, default=1, why=("tabnet",)),
            Choice("mask", ("sparsemax", "entmax"), default="sparsemax", why=("tabnet",)),
            Float("sparsity", 1e-6, 1e-2, default=1e-4, log=True, why=("tabnet",)),
            *rules.training(task, lr=1e-2),
        )
    )
    return _holding(space, task, TABNETS, "width")


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
        virtual_batch_size=min(128, int(config.get("batch_size", 128))),
        mask=str(config["mask"]),
    )


def _ft_space(task: Task) -> Space:
    encoding = _encoding(task, cost=16)
    values, _ = _sizes(task, encoding, None)
    depth = rules.depth(task, base=2, default=2)
    space = Space(
        (
            *_present(encoding),
            depth,
            rules.width(
                task,
                "dim",
                low=8,
                base=32,
                default=16,
                weights=9,
                layers=depth.default,
                inputs=values + len(task.profile.columns) + _rows(task) + task.outputs,
            ),
            rules.heads(),
            Float("ffn_factor", 1.0, 3.0, default=1.5, why=("feed-forward",)),
            rules.activation("activation", "reglu", ("reglu", "gelu", "relu")),
            rules.token_norm(),
            rules.dropout(task, default=0.1),
            rules.dropout(task, "attention_dropout", default=0.0),
            rules.drop_path(task),
            *rules.training(task, lr=3e-3),
            rules.clipping(),
        )
    )
    return _holding(space, task, FT_TRANSFORMERS, "dim")


def _build_ft(config: Config, task: Task) -> nn.Module:
    from nas.models.ft_transformer import FTTransformer
    from nas.models.inputs import TabularTokens

    return FTTransformer(
        TabularTokens(_numeric(config, task), _cardinalities(task), int(config["dim"])),
        task.outputs,
        transformer_layers(config, mlp_ratio="ffn_factor"),
    )


# Published networks --------------------------------------------------------------------------


def _numbers(columns: int, rows: int, targets: int) -> Task:
    """A table of numbers, with numbers to predict."""
    edges = tuple(i / 48 for i in range(49))
    described = tuple(Column(f"x{i}", "numeric", quantiles=edges) for i in range(columns))
    profile = DataProfile(rows, rows // 4, rows // 4, {"numeric": (columns,)}, columns=described)
    wanted = tuple(Target(f"y{i}", "regression") for i in range(targets))
    return Task("tabular", wanted, profile)


_CALIFORNIA = _numbers(8, 13_209, 1)  # housing, as Gorishniy et al. 2021 split it
_SARCOS = _numbers(21, 44_484, 7)  # joints' places, speeds and accelerations to torques
_OF_CODE = "no count is published: it is that of the layers in the authors' package"


def _published_mlp(name: str, width: int, residual: bool, params: int) -> Reference:
    """The sizes that the authors' package shows for California housing."""
    config: Config = {"encoding": "standard", "depth": 2, "width": width, "residual": residual}
    config |= {"norm": "batch" if residual else "none", "activation": "relu", "dropout": 0.1}
    config |= {"hidden_ratio": 2 if residual else 1}
    source = "Gorishniy et al. 2021, sec. 3.1 and 3.2, and the example of rtdl_revisiting_models"
    return Reference(name, source, params, config, _CALIFORNIA, 0, _OF_CODE, params)


def _published_ft_transformer() -> Reference:
    dim, depth, tokens = 192, 3, 9
    config: Config = {"encoding": "standard", "depth": depth, "dim": dim, "heads": 8}
    config |= {"ffn_factor": 4 / 3, "activation": "reglu", "norm": "layer", "dropout": 0.1}
    config |= {"attention_dropout": 0.2, "drop_path": 0.0, "lr": 1e-4}
    source = "Gorishniy et al. 2021, app. E.2 (the default), and rtdl_revisiting_models"
    macs = tokens * depth * (8 * dim**2 + 2 * tokens * dim)
    differs = f"the dropout of the feed-forward part falls on both branches too; {_OF_CODE}"
    return Reference(
        "FT-Transformer, default", source, 894_913, config, _CALIFORNIA, 0, differs, macs
    )


def _published_tabnet(
    name: str, size: tuple[int, int], gamma: float, params: int, published: str
) -> Reference:
    """``size`` is the width of a decision, and of the attention, and the steps."""
    width, steps = size
    config: Config = {"encoding": "standard", "width": width, "steps": steps, "gamma": gamma}
    config |= {"n_shared": 2, "n_independent": 2, "mask": "sparsemax", "sparsity": 1e-4}
    differs = f"the paper has {published}: this is the count of its layers by its settings"
    source = "Arik & Pfister 2019, sec. 5.2 and its appendix (Sarcos)"
    macs = (steps + 1) * (4 * width * 21 + 24 * width**2)
    return Reference(name, source, params, config, _SARCOS, 0, differs, macs)


MLPS = (
    _published_mlp("MLP", 384, False, 151_681),
    _published_mlp("ResNet-like MLP", 192, True, 299_137),
)
TABNETS = (
    _published_tabnet("TabNet-S", (8, 3), 1.2, 7_032, "6.3 thousand"),
    _published_tabnet("TabNet-M", (64, 7), 1.5, 589_008, "0.59 million"),
    _published_tabnet("TabNet-L", (128, 5), 1.5, 1_753_852, "1.75 million"),
)
FT_TRANSFORMERS = (_published_ft_transformer(),)

FAMILIES = (
    Family(
        "mlp",
        "tabular",
        "Gorishniy et al. 2021, Revisiting Deep Learning Models for Tabular Data (MLP, ResNet)",
        _mlp_space,
        _build_mlp,
        "Any table: the cheapest, and with coded numbers close to boosted trees.",
        MLPS,
    ),
    Family(
        "tabnet",
        "tabular",
        "Arik & Pfister 2019, TabNet: Attentive Interpretable Tabular Learning",
        _tabnet_space,
        _build_tabnet,
        "Tables of many columns of which few matter for a row: it picks them step by step.",
        TABNETS,
    ),
    Family(
        "ft_transformer",
        "tabular",
        "Gorishniy et al. 2021, Revisiting Deep Learning Models for Tabular Data",
        _ft_space,
        _build_ft,
        "Tables whose columns work together: each attends to all, at their square's cost.",
        FT_TRANSFORMERS,
    ),
)
