"""The networks: sizes, gradients, front ends, and the formulas they are made of."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from default_run import mostly_slow
from torch import Tensor, nn

from nas.models.blocks import (
    Attention,
    DropPath,
    FeedForward,
    GlobalPool,
    TransformerBlock,
    TransformerConfig,
    linear_rates,
    make_activation,
    make_norm,
)
from nas.models.convnet import ConvNet, ConvNetConfig
from nas.models.efficientnet import EFFICIENTNET_B0, MBConvStage
from nas.models.ft_transformer import FTTransformer
from nas.models.inputs import ImageInput, NumericEncoding, TabularInput, TabularTokens
from nas.models.mlp import MLP
from nas.models.resnet import RESNET18, RESNET50, ResNetStage
from nas.models.tabnet import TabNet, entmax15, sparsemax
from nas.models.vit import VIT_B16, ViT

torch.set_num_threads(1)

NORMS = ("batch", "layer", "rms", "group", "none")
ACTIVATIONS = ("relu", "gelu", "silu")
QUANTILES = [(0.0, 1.0, 2.0, 4.0), (-1.0, 1.0), (-3.0, 0.0, 3.0)]
CARDINALITIES = (2, 5)


def encoding(kind: str = "piecewise", missing: tuple[bool, ...] = (True, False, True)):
    return NumericEncoding([1.0, 0.0, 0.0], [1.5, 1.0, 2.0], QUANTILES, kind, missing)


def table_input(kind: str = "piecewise") -> TabularInput:
    return TabularInput(encoding(kind), CARDINALITIES, embedding=4)


def image_input(size: tuple[int, int] = (13, 10)) -> ImageInput:
    return ImageInput([0.5, 0.4], [0.2, 0.3], size)


def rows(batch: int) -> dict[str, Tensor]:
    numeric = torch.randn(batch, 3)
    numeric[0, 0] = math.nan
    high = torch.tensor(CARDINALITIES) + 1
    return {"numeric": numeric, "categorical": (torch.rand(batch, 2) * high).long()}


def images(batch: int) -> dict[str, Tensor]:
    return {"image": torch.randint(0, 256, (batch, 2, 13, 10), dtype=torch.uint8)}


def _mlp(norm: str, activation: str, **options: Any) -> nn.Module:
    return MLP(table_input(), 3, 8, 2, norm, activation, dropout=0.1, **options)


def _ft(norm: str, activation: str, **options: Any) -> nn.Module:
    tokens = TabularTokens(encoding(), CARDINALITIES, 8)
    layers = TransformerConfig(8, 2, 2, 4 / 3, norm, activation, 0.1, 0.1, 0.1)
    return FTTransformer(tokens, 3, layers, **options)


def _resnet(
    norm: str,
    activation: str,
    residual: bool = True,
    bottleneck: bool = False,
    drop_path: float = 0.0,
    **options,
):
    stages = [
        ResNetStage(2, 8, 3, norm, activation, residual, stride, bottleneck) for stride in (1, 2)
    ]
    body = ConvNetConfig(8, stages, stem_pool=True, drop_path=drop_path)
    return ConvNet(image_input(), 2, 3, body, **options)


def _efficientnet(norm: str, activation: str, fused: bool = False, se_ratio=0.25, **options):
    stage = MBConvStage(2, 8, 3, 1, 1, norm, activation, se_ratio, True, fused)
    stages = [stage, replace(stage, expand=2, kernel=5, stride=2)]
    body = ConvNetConfig(8, stages, top_width=16, drop_path=0.1)
    return ConvNet(image_input(), 2, 3, body, **options)


def _vit(norm: str, activation: str, pooling: str = "cls", stem: str = "patch", **options):
    layers = TransformerConfig(8, 2, 2, 2.0, norm, activation, drop_path=0.1)
    return ViT(image_input(), 2, 3, (13, 10), 4, layers, pooling=pooling, stem=stem, **options)


def _tabnet(norm: str, activation: str, **options: Any) -> nn.Module:
    return TabNet(table_input(), 3, 4, 4, virtual_batch_size=4, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    f"{name}-{norm}-{activation}": lambda f=f, n=norm, a=activation: f(n, a)
    for name, f in {
        "mlp": _mlp,
        "residual mlp": lambda n, a: _mlp(n, a, residual=True),
        "ft_transformer": _ft,
        "resnet": _resnet,
        "efficientnet": _efficientnet,
        "vit": _vit,
    }.items()
    for norm in NORMS
    for activation in ACTIVATIONS
} | {
    "ft_transformer-reglu": lambda: _ft("layer", "reglu"),
    "ft_transformer-geglu": lambda: _ft("layer", "geglu"),
    "ft_transformer-swiglu": lambda: _ft("layer", "swiglu"),
    "resnet-plain": lambda: _resnet("batch", "relu", residual=False),
    "resnet-bottleneck": lambda: _resnet("batch", "relu", bottleneck=True, drop_path=0.2),
    "resnet-attention": lambda: _resnet("batch", "relu", pooling="attention", dropout=0.1),
    "resnet-max": lambda: _resnet("batch", "relu", pooling="max"),
    "efficientnet-fused": lambda: _efficientnet("batch", "silu", fused=True),
    "efficientnet-plain": lambda: _efficientnet("batch", "silu", se_ratio=0.0),
    "vit-avg": lambda: _vit("layer", "gelu", pooling="avg"),
    "vit-attention": lambda: _vit("layer", "gelu", pooling="attention"),
    "vit-conv": lambda: _vit("layer", "gelu", stem="conv"),
    "tabnet": lambda: _tabnet("", ""),
    "tabnet-entmax": lambda: _tabnet("", "", mask="entmax"),
    "tabnet-own": lambda: _tabnet("", "", n_shared=0),
    "tabnet-shared": lambda: _tabnet("", "", n_independent=0),
}


def batch_for(network: nn.Module, size: int) -> dict[str, Tensor]:
    return images(size) if isinstance(network.input, ImageInput) else rows(size)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_learns_and_every_output_is_finite(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.no_grad():  # branches start at zero, and hide what lies behind them
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    for module in network.modules():  # a sample's branch may be dropped: not in this test
        if isinstance(module, DropPath):
            module.p = 0.0
    logits = network(**batch_for(network, 8))
    assert logits.shape == (8, 3)
    assert logits.isfinite().all()
    (logits.square().mean() + getattr(network, "auxiliary_loss", 0.0)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_on_two_samples_and_predicts_one(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    assert network(**batch_for(network, 2)).isfinite().all()
    network.eval()
    batch = batch_for(network, 4)
    together = network(**batch)
    alone = torch.cat([network(**{k: v[i : i + 1] for k, v in batch.items()}) for i in range(4)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_builds_on_meta_with_the_same_parameters(name: str) -> None:
    with torch.device("meta"):
        network = NETWORKS[name]()
        logits = network(**{k: v.to("meta") for k, v in batch_for_meta(network).items()})
    assert logits.shape == (2, 3)
    for tensor in [*network.parameters(), *network.buffers()]:
        assert tensor.is_meta
    real = NETWORKS[name]()
    assert [p.shape for p in network.parameters()] == [p.shape for p in real.parameters()]


def batch_for_meta(network: nn.Module) -> dict[str, Tensor]:
    with torch.device("cpu"):
        return batch_for(network, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "name",
    [
        "residual mlp-rms-silu",
        "tabnet",
        "tabnet-entmax",
        "ft_transformer-reglu",
        "resnet-attention",
        "efficientnet-layer-silu",
        "vit-attention",
    ],
)
def test_it_trains_in_mixed_precision(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    with torch.autocast("cpu", dtype):
        logits = network(**batch_for(network, 8)).float()
    (logits.square().mean() + getattr(network, "auxiliary_loss", 0.0)).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("norm", NORMS)
def test_residual_branches_of_an_mlp_start_at_zero(norm: str) -> None:
    x = torch.rand(4, 8)
    block = _mlp(norm, "relu", residual=True).body[1]
    torch.testing.assert_close(block(x), x)


def test_a_residual_network_learns_in_sixty_steps_of_adamw() -> None:
    """Stripes across or along, at any phase: branches that begin at zero hardly leave it by then,
    and a loss of ln 2 = 0.69 is a guess (0.04 here; 0.72 with zeros)."""
    torch.manual_seed(0)
    network = _resnet("batch", "relu")
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        across = torch.rand(32) < 0.5
        wave = torch.sin(torch.arange(16) * 1.2 + 6.3 * torch.rand(32, 1))
        rows, columns = (w.expand(32, 16, 16) for w in (wave[:, :, None], wave[:, None, :]))
        image = torch.where(across[:, None, None], rows, columns)[:, None]
        loss = F.cross_entropy(network(image + 0.5 * torch.randn(32, 2, 16, 16)), across.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.3


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        ["mlp-batch-relu", "tabnet", "ft_transformer-reglu", "resnet-attention", "vit-cls-rms"],
        ["tabnet", "resnet-attention"],
    ),
)
def test_it_exports_with_a_free_batch_size(name: str) -> None:
    torch.manual_seed(0)
    network = (NETWORKS | {"vit-cls-rms": lambda: _vit("rms", "gelu")})[name]().eval()
    batch = torch.export.Dim.DYNAMIC
    example = batch_for(network, 4)
    program = torch.export.export(
        network, (), example, dynamic_shapes={k: {0: batch} for k in example}
    )
    other = batch_for(network, 7)
    torch.testing.assert_close(program.module()(**other), network(**other))


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda i: ConvNet(i, 3, 1000, RESNET18), 11_689_512),  # He et al. 2016
        (lambda i: ConvNet(i, 3, 1000, RESNET50), 25_557_032),
        (lambda i: ConvNet(i, 3, 1000, EFFICIENTNET_B0), 5_288_548),  # Tan & Le 2019
        (lambda i: ViT(i, 3, 1000, **VIT_B16), 86_567_656),  # Dosovitskiy et al. 2021
    ],
    ids=["resnet18", "resnet50", "efficientnet_b0", "vit_b16"],
)
def test_published_networks_have_their_published_number_of_parameters(build, count) -> None:
    with torch.device("meta"):
        network = build(ImageInput([0.5] * 3, [0.2] * 3, (224, 224)))
    assert sum(p.numel() for p in network.parameters()) == count


def test_tabnet_can_be_copied_and_exported_after_a_training_step() -> None:
    network = _tabnet("", "")
    network(**rows(8))
    assert network.auxiliary_loss.requires_grad
    assert not copy.deepcopy(network).auxiliary_loss.requires_grad


def test_tabnet_refuses_an_unknown_mask_and_no_layers() -> None:
    with pytest.raises(ValueError, match="known are sparsemax, entmax"):
        _tabnet("", "", mask="softmax")
    with pytest.raises(ValueError, match="n_independent=0, n_shared=0"):
        _tabnet("", "", n_shared=0, n_independent=0)


# Normalisation, activation, pooling, attention ---------------------------------------


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_of_a_map_is_that_of_its_positions(kind: str) -> None:
    x = torch.randn(3, 12, 4, 5) * 3 + 1
    on_map = make_norm(kind, 12, dims=2)(x).permute(0, 2, 3, 1)
    on_tokens = make_norm(kind, 12, dims=1)(x.permute(0, 2, 3, 1).flatten(1, 2))
    if kind == "group":  # on maps, statistics are over the positions too (Wu & He 2018)
        groups = x.view(3, 3, -1)
        mean, var = groups.mean(-1, keepdim=True), groups.var(-1, keepdim=True, correction=0)
        expected = ((groups - mean) / (var + 1e-5).sqrt()).view_as(x).permute(0, 2, 3, 1)
        torch.testing.assert_close(on_map, expected, rtol=1e-4, atol=1e-4)
    else:
        torch.testing.assert_close(on_tokens.view_as(on_map), on_map, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_takes_vectors_and_sequences(kind: str) -> None:
    norm = make_norm(kind, 6, dims=1)
    assert norm(torch.randn(4, 6)).shape == (4, 6)
    assert norm(torch.randn(4, 5, 6)).shape == (4, 5, 6)


@pytest.mark.parametrize(("width", "groups"), [(256, 32), (64, 16), (12, 3), (7, 1), (3, 1)])
def test_groups_divide_the_width_and_hold_four_channels(width: int, groups: int) -> None:
    assert make_norm("group", width, dims=2).num_groups == groups


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    x = torch.randn(2, 6, 3, 3)
    expected = x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(make_norm("rms", 6, dims=2)(x), expected)


@pytest.mark.parametrize("make", [lambda: make_norm("bach", 8, 1), lambda: make_activation("tahn")])
def test_a_misspelt_kind_is_refused_with_the_known_ones(make) -> None:
    with pytest.raises(ValueError, match="known are"):
        make()


def test_drop_path_keeps_the_mean_and_drops_whole_samples() -> None:
    torch.manual_seed(0)
    x = torch.ones(20_000, 3, 2)
    drop = DropPath(0.25)
    y = drop(x)
    assert set(y.flatten(1).std(1).tolist()) == {0.0}
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert drop.eval()(x) is x


def test_drop_path_rates_grow_linearly_with_depth() -> None:
    """Huang et al. 2016, sec. 3: the input is block 0, and a single block has the whole rate."""
    assert linear_rates(0.3, 3) == pytest.approx([0.1, 0.2, 0.3])
    assert linear_rates(0.3, 1) == [0.3]
    network = _resnet("batch", "relu", drop_path=0.3)
    rates = [m.p for m in network.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.075, 0.15, 0.225, 0.3])


def test_attention_is_that_of_torch_on_the_same_weights() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.in_proj_weight = ours.qkv.weight
    theirs.in_proj_bias = ours.qkv.bias
    theirs.out_proj = ours.out
    x = torch.randn(2, 5, 12)
    expected, _ = theirs(x, x, x)
    torch.testing.assert_close(ours(x), expected)
    torch.testing.assert_close(ours(x, queries=2), expected[:, :2])


def test_attention_heads_must_divide_its_width() -> None:
    with pytest.raises(ValueError, match="dim=10, heads=3"):
        Attention(10, 3)


def test_a_block_asked_for_its_first_tokens_computes_the_same() -> None:
    block = TransformerBlock(TransformerConfig(8, 1, 2))
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(block(x, queries=1), block(x)[:, :1])


@pytest.mark.parametrize(
    ("kind", "gate"), [("reglu", F.relu), ("geglu", F.gelu), ("swiglu", F.silu)]
)
def test_gated_feed_forward_multiplies_by_its_gate(kind: str, gate) -> None:
    layer = FeedForward(4, 6, kind)
    x = torch.randn(3, 4)
    value, opening = F.linear(x, layer.up.weight, layer.up.bias).split(6, dim=1)
    torch.testing.assert_close(layer(x), layer.down(value * gate(opening)))


@pytest.mark.parametrize("dims", [1, 2])
def test_attention_pooling_starts_as_the_average_and_can_pick_one_position(dims: int) -> None:
    pool = GlobalPool("attention", 3, dims)
    x = torch.randn(2, 3, 2, 2) if dims == 2 else torch.randn(2, 4, 3)
    torch.testing.assert_close(pool(x), GlobalPool("avg", 3, dims)(x))
    with torch.no_grad():
        pool.score[0] = 1e4
    tokens = x.flatten(2).transpose(1, 2) if dims == 2 else x
    best = tokens[torch.arange(2), tokens[:, :, 0].argmax(1)]
    torch.testing.assert_close(pool(x), best)


def test_max_pooling_is_the_maximum() -> None:
    x = torch.randn(2, 3, 2, 2)
    torch.testing.assert_close(GlobalPool("max", 3, 2)(x), x.flatten(2).max(-1).values)


# Front ends ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_are_normalised_by_channel(dtype: torch.dtype) -> None:
    image = torch.randint(0, 256, (2, 2, 13, 10)).to(dtype)
    mean, std = torch.tensor([0.5, 0.4]), torch.tensor([0.2, 0.3])
    expected = (image.float() / 255 - mean.view(2, 1, 1)) / std.view(2, 1, 1)
    torch.testing.assert_close(image_input()(image), expected, rtol=1e-5, atol=1e-5)


def test_a_channel_without_spread_is_only_centred() -> None:
    front = ImageInput([1.0], [0.0], (4, 4))
    assert front(torch.full((1, 1, 4, 4), 255.0)).abs().max() < 1e-6


@pytest.mark.parametrize(("size", "resolution"), [((224, 224), 64), ((30, 45), 20), ((9, 7), 8)])
def test_shrinking_is_torchs_antialiased_resize(size: tuple[int, int], resolution: int) -> None:
    front = ImageInput([0.0], [1 / 255], size, resolution)
    image = torch.rand(2, 1, *size) * 255
    expected = F.interpolate(image, front.size, mode="bilinear", antialias=True)
    assert max(front.size) == resolution
    torch.testing.assert_close(front(image), expected, rtol=1e-4, atol=1e-3)


def test_images_are_never_enlarged() -> None:
    front = ImageInput([0.0], [1.0], (8, 6), 32)
    assert front.size == (8, 6)
    assert front(torch.zeros(1, 1, 8, 6)).shape == (1, 1, 8, 6)


def piecewise(x: float, edges: tuple[float, ...]) -> list[float]:
    """Gorishniy et al. 2022, eq. 1, case by case; outer bins limited to ±10."""
    values = []
    bins = len(edges) - 1
    for t in range(1, bins + 1):
        low, high = edges[t - 1], edges[t]
        if x < low and t > 1:
            values.append(0.0)
        elif x >= high and t < bins:
            values.append(1.0)
        else:
            values.append(min(10.0, max(-10.0, (x - low) / (high - low))))
    return values


def test_the_piecewise_encoding_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200, 3) * 3, torch.tensor([[0.0, 1.0, 3.0], [1e9, -1e9, math.inf]])])
    expected = [
        [value for column, edges in enumerate(QUANTILES) for value in piecewise(row[column], edges)]
        for row in x.tolist()
    ]
    flat = encoding(missing=(False,) * 3).flat(x)
    torch.testing.assert_close(flat, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_quantile_encoding_is_the_empirical_distribution() -> None:
    x = torch.linspace(-5, 5, 101)[:, None].repeat(1, 3)
    expected = np.stack(
        [np.interp(x[:, c], q, np.linspace(-1, 1, len(q))) for c, q in enumerate(QUANTILES)], axis=1
    )
    flat = encoding("quantile", (False,) * 3).flat(x)
    torch.testing.assert_close(flat, torch.tensor(expected, dtype=torch.float32))


def test_the_standard_encoding_is_clipped_at_ten_deviations() -> None:
    x = torch.tensor([[2.5, 1.0, 1e6], [1.0, 0.0, -1e6]])
    expected = torch.tensor([[1.0, 1.0, 10.0], [0.0, 0.0, -10.0]])
    torch.testing.assert_close(encoding("standard", (False,) * 3).flat(x), expected)


@pytest.mark.parametrize("kind", ["standard", "quantile", "piecewise"])
def test_a_missing_value_is_zeros_and_an_indicator_where_one_is_kept(kind: str) -> None:
    front = encoding(kind, (True, False, True))
    slots = front(torch.full((1, 3), math.nan))[0]
    assert not slots[:, :-1].any()
    assert slots[:, -1].tolist() == [1.0, 0.0, 1.0]
    assert front(torch.zeros(1, 3))[0, :, -1].tolist() == [0.0, 0.0, 0.0]
    assert front.width == {"standard": 5, "quantile": 5, "piecewise": 8}[kind]
    assert front.flat(torch.full((1, 3), math.nan)).sum() == 2


def test_a_constant_column_is_encoded_without_an_error() -> None:
    for kind in ("standard", "quantile", "piecewise"):
        front = NumericEncoding([3.0], [0.0], [(3.0,)], kind, [False])
        assert front.flat(torch.tensor([[3.0], [1e30]])).isfinite().all()


def test_edges_that_do_not_increase_are_refused() -> None:
    with pytest.raises(ValueError, match="column 0 do not increase"):
        NumericEncoding([0.0], [1.0], [(1.0, 1.0)], "piecewise", [False])


def test_a_flag_for_each_column_is_required() -> None:
    with pytest.raises(ValueError, match="missing must have one entry per mean, 1, not 0"):
        NumericEncoding([0.0], [1.0], [(0.0, 1.0)], "standard", [])


def test_an_unseen_category_is_row_zero_and_never_another_columns() -> None:
    front = TabularInput(None, CARDINALITIES, embedding=4)
    zeros = front(categorical=torch.zeros(1, 2, dtype=torch.long))
    unseen = front(categorical=torch.tensor([[3, 6], [-1, 99]], dtype=torch.int32))
    torch.testing.assert_close(unseen, zeros.repeat(2, 1))
    codes = torch.tensor([[2, 0], [0, 5]])
    table = front.table.weight
    expected = torch.stack([torch.cat([table[2], table[3]]), torch.cat([table[0], table[8]])])
    torch.testing.assert_close(front(categorical=codes), expected)


@pytest.mark.parametrize("kind", ["standard", "quantile", "piecewise"])
def test_a_numeric_token_is_its_bias_plus_its_encoding_by_its_own_weights(kind: str) -> None:
    front = encoding(kind)
    tokens = TabularTokens(front, CARDINALITIES, dim=4)
    batch = rows(5)
    flat = front.flat(batch["numeric"])
    got = tokens(**batch)
    start = 0
    for column, bins in enumerate(front.bins):
        stop = start + bins + (column != 1)  # an indicator of its own, but for column 1
        expected = tokens.bias[column] + flat[:, start:stop] @ tokens.weight[start:stop]
        torch.testing.assert_close(got[:, column], expected)
        start = stop
    assert start == front.width
    category = tokens.table.weight[batch["categorical"][:, 1] + 3] + tokens.bias[4]
    torch.testing.assert_close(got[:, 4], category)


def test_tokens_start_uniform_within_the_bounds_of_their_width_and_bins() -> None:
    torch.manual_seed(0)
    tokens = TabularTokens(encoding(missing=(False,) * 3), CARDINALITIES, dim=256)
    largest = torch.stack([r.abs().max() for r in [*tokens.weight.split([3, 1, 2]), tokens.bias]])
    bounds = torch.tensor([3, 1, 2, 1]).rsqrt() / 16
    assert (largest <= bounds).all()
    assert (largest > 0.95 * bounds).all()


def test_a_table_without_columns_and_a_call_without_them_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TabularInput(None, (), 4)
    with pytest.raises(TypeError, match="pass them as numeric="):
        table_input()(categorical=torch.zeros(1, 2, dtype=torch.long))


def test_a_trained_front_end_is_saved_with_the_network() -> None:
    saved = table_input("standard").state_dict()
    other = NumericEncoding([9.0] * 3, [9.0] * 3, QUANTILES, "standard", (True, False, True))
    network = TabularInput(other, CARDINALITIES, embedding=4)
    network.load_state_dict(saved)
    batch = rows(3)
    torch.testing.assert_close(network(**batch)[:, :5], encoding("standard").flat(batch["numeric"]))


# Masks --------------------------------------------------------------------------------


def projection(x: list[float]) -> list[float]:
    """Onto the simplex, by trying every size of the support."""
    for size in range(len(x), 0, -1):
        top = sorted(x, reverse=True)[:size]
        threshold = (sum(top) - 1) / size
        if top[-1] > threshold:
            return [max(v - threshold, 0.0) for v in x]
    raise AssertionError(x)


def test_sparsemax_is_the_projection_onto_the_simplex() -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 7, dtype=torch.float64) * torch.logspace(-2, 2, 200)[:, None]
    x[0] = 0.0
    expected = torch.tensor([projection(row) for row in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(sparsemax(x), expected)


def test_entmax_solves_its_equation() -> None:
    # Peters et al. 2019, eq. 10: p = relu(x / 2 - tau) ** 2 with sum 1, tau by bisection.
    torch.manual_seed(0)
    x = torch.randn(200, 7, dtype=torch.float64) * torch.logspace(-2, 2, 200)[:, None]
    x[0] = 0.0
    half = x / 2
    low, high = half.amax(-1, keepdim=True) - 1, half.amax(-1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        above = (half - middle).relu().square().sum(-1, keepdim=True) > 1
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    torch.testing.assert_close(entmax15(x), (half - low).relu().square())


@pytest.mark.parametrize("mask", [sparsemax, entmax15])
def test_a_mask_has_the_gradient_of_its_differences(mask) -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mask, (x,), eps=1e-7, atol=1e-5)
