"""Our networks and the libraries' on identical weights: the same function.

TabNet runs always; timm only where it is installed (``make agreement``).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nas.models.convnet import ConvNet
from nas.models.efficientnet import EFFICIENTNET_B0
from nas.models.inputs import ImageInput, NumericEncoding, TabularInput
from nas.models.resnet import RESNET18, RESNET50
from nas.models.tabnet import TabNet
from nas.models.vit import VIT_B16, ViT

torch.set_num_threads(1)


def copy_by_order(source: nn.Module, target: nn.Module) -> None:
    """Layers of both in the order they are declared, each with its own weights and statistics.

    Both libraries and we declare layers in the order of the forward pass, so that equal
    shapes at every place are enough of a name.
    """

    def own_tensors(network: nn.Module) -> list[Tensor]:
        tensors = []
        for module in network.modules():
            tensors += list(module.parameters(recurse=False))
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                tensors += [module.running_mean, module.running_var]
        return list({id(t): t for t in tensors}.values())

    ours, theirs = own_tensors(target), own_tensors(source)
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            a.copy_(b)


def shake(network: nn.Module) -> nn.Module:
    """Weights, scales and statistics that are neither zero nor one."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer += 0.1 * torch.rand_like(buffer)
    return network


# TabNet -------------------------------------------------------------------------------


def _tabnets(**options):
    from pytorch_tabnet.tab_network import TabNetNoEmbeddings

    numeric = NumericEncoding([0.0] * 6, [1.0] * 6, [()] * 6, "standard", [False] * 6)
    sizes = {"n_d": 5, "n_a": 3, "gamma": 1.5, "momentum": 0.1, "virtual_batch_size": 16}
    mask = options.pop("mask")
    steps = options.pop("steps")
    ours = TabNet(TabularInput(numeric, (), 1), 2, steps=steps, mask=mask, **sizes, **options)
    theirs = TabNetNoEmbeddings(6, 2, n_steps=steps, mask_type=mask, **sizes, **options)
    del theirs.initial_bn  # never used; the encoder has another
    _copy_tabnet(shake(theirs), ours)
    return ours, theirs


def _glu_layers(transformer: nn.Module) -> list[nn.Module]:
    """Theirs nests shared and own layers in two blocks; ours are one list."""
    blocks = (transformer.shared, transformer.specifics)
    return [layer for block in blocks for layer in getattr(block, "glu_layers", [])]


def _copy_tabnet(theirs: nn.Module, ours: TabNet) -> None:
    def copy(source: nn.Module, target: nn.Module) -> None:
        target.load_state_dict(source.state_dict())

    encoder = theirs.encoder
    copy(encoder.initial_bn, ours.norm)
    pairs = zip(
        [encoder.initial_splitter, *encoder.feat_transformers],
        [ours.splitter, *ours.transformers],
        strict=True,
    )
    for source, target in pairs:
        for a, b in zip(_glu_layers(source), target.layers, strict=True):
            copy(a.fc, b.linear)
            copy(a.bn.bn, b.norm.norm)
    for a, b in zip(encoder.att_transformers, ours.attentions, strict=True):
        copy(a.fc, b.linear)
        copy(a.bn.bn, b.norm.norm)
    copy(theirs.final_mapping, ours.head)


TABNETS = [
    {"mask": "sparsemax", "steps": 3, "n_shared": 2, "n_independent": 2},
    {"mask": "entmax", "steps": 4, "n_shared": 1, "n_independent": 2},
    {"mask": "sparsemax", "steps": 1, "n_shared": 0, "n_independent": 1},
    {"mask": "sparsemax", "steps": 2, "n_shared": 3, "n_independent": 0},
]


@pytest.mark.parametrize("options", TABNETS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_tabnet_is_that_of_pytorch_tabnet(options) -> None:
    torch.manual_seed(0)
    ours, theirs = _tabnets(**options)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    # 50 rows are four ghost batches of 13, 13, 13 and 11.
    x = torch.randn(50, 6)
    for training in (False, True, True, False):
        ours.train(training)
        theirs.train(training)
        expected, m_loss = theirs(x)
        torch.testing.assert_close(ours(numeric=x), expected, rtol=1e-5, atol=1e-5)
        _, sparsity = ours.decide(ours.input(numeric=x))
        theirs.encoder(x)  # as many updates of the running statistics as ours
        torch.testing.assert_close(sparsity, -m_loss, rtol=1e-5, atol=1e-5)  # theirs is negative


@pytest.mark.parametrize("options", TABNETS, ids=lambda o: "-".join(str(v) for v in o.values()))
def test_tabnet_has_the_gradients_of_pytorch_tabnet(options, monkeypatch) -> None:
    # Theirs keeps the root of one half as float32 in a network of float64.
    monkeypatch.setattr("nas.models.tabnet.SCALE", torch.tensor(0.5).sqrt().item())
    torch.manual_seed(0)
    ours, theirs = (network.double() for network in _tabnets(**options))
    theirs.encoder.group_attention_matrix = torch.eye(6, dtype=torch.float64)
    x = torch.randn(50, 6, dtype=torch.float64)
    expected, m_loss = theirs(x)
    (expected.square().sum() - 0.1 * m_loss).backward()
    (ours(numeric=x).square().sum() + 0.1 * ours.auxiliary_loss).backward()
    splitter, their_splitter = ours.splitter, theirs.encoder.initial_splitter
    pairs = [
        (ours.norm.weight, theirs.encoder.initial_bn.weight),
        (ours.head.weight, theirs.final_mapping.weight),
        (splitter.layers[0].linear.weight, _glu_layers(their_splitter)[0].fc.weight),
    ]
    for a, b in zip(ours.attentions, theirs.encoder.att_transformers, strict=True):
        pairs += [(a.linear.weight, b.fc.weight), (a.norm.norm.bias, b.bn.bn.bias)]
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)


# timm ---------------------------------------------------------------------------------


TWO_LAYERS = replace(VIT_B16["layers"], depth=2)
IMAGES = {
    "resnet18": (lambda i: ConvNet(i, 3, 1000, RESNET18), 64),
    "resnet50": (lambda i: ConvNet(i, 3, 1000, RESNET50), 64),
    "efficientnet_b0": (lambda i: ConvNet(i, 3, 1000, EFFICIENTNET_B0), 64),
    # Two of its twelve equal blocks; the first and the last are what differs.
    "vit_base_patch16_224": (lambda i: ViT(i, 3, 1000, **VIT_B16 | {"layers": TWO_LAYERS}), 224),
}


@pytest.mark.agreement
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_network_is_that_of_timm(timm, name: str) -> None:
    torch.manual_seed(0)
    build, side = IMAGES[name]
    theirs = timm.create_model(name, **({"depth": 2} if name.startswith("vit") else {}))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    ours = build(ImageInput(mean, std, (side, side)))
    copy_by_order(shake(theirs), ours)
    image = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    pixels = (image / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        for training in (False, True):  # with batch statistics too
            ours.train(training)
            theirs.train(training)
            expected = theirs(pixels)
            assert expected.std() > 0.01
            error = (ours(image) - expected).abs().max() / expected.abs().max()
            assert error < 1e-5
