"""Nothing serious is found in well-known sound networks, built by their own libraries, and what is
known of them is read right."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nas.audit import Audit, audit

pytestmark = pytest.mark.agreement
torch.set_num_threads(1)

TIMM = {  # blocks of attention, norms
    "resnet18": (0, 20),
    "resnet50": (0, 53),
    "seresnet18": (0, 20),
    "densenet121": (0, 121),
    "inception_v3": (0, 94),
    "mobilenetv2_100": (0, 52),
    "mobilenetv3_large_100": (0, 46),
    "efficientnet_b0": (0, 49),
    "regnety_002": (0, 44),
    "convnext_atto": (0, 17),
    "mixer_s32_224": (0, 17),
    "vit_tiny_patch16_224": (12, 25),
    "deit_tiny_patch16_224": (12, 25),
    "swin_tiny_patch4_window7_224": (12, 29),
    "levit_128s": (11, 52),
}
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4}
TEXT = SMALL | {"intermediate_size": 128, "vocab_size": 200, "num_labels": 3}
TEXT |= {"max_position_embeddings": 64}
HF: dict[str, tuple[str, dict[str, Any]]] = {
    "BertForSequenceClassification": ("BertConfig", TEXT),
    "RobertaForSequenceClassification": ("RobertaConfig", TEXT),
    "AlbertForSequenceClassification": ("AlbertConfig", TEXT | {"num_hidden_layers": 12}),
    "LlamaForSequenceClassification": ("LlamaConfig", TEXT | {"pad_token_id": 0}),
    "T5EncoderModel": ("T5Config", {"num_layers": 4, "d_model": 64, "d_kv": 16, "d_ff": 128}),
    "ViTForImageClassification": ("ViTConfig", SMALL | {"intermediate_size": 128}),
}


def sound(found: Audit) -> None:
    assert not found.serious, found.text()
    net = found.anatomy
    # Few parameters, as positions and scales, belong to no layer.
    assert sum(layer.params for layer in net.layers) >= 0.75 * net.params
    assert len(net.layers) > 5


@pytest.mark.parametrize("name", TIMM)
def test_nothing_serious_is_found_in_timms_networks(timm: Any, name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10)
    shape = network.pretrained_cfg["input_size"]
    found = audit(network, shape=shape, classes=10, samples=50_000, batch_size=64)
    sound(found)
    kinds = [layer.kind for layer in found.anatomy.layers]
    assert (kinds.count("attention"), kinds.count("norm")) == TIMM[name]


@pytest.mark.parametrize("name", HF)
def test_nothing_serious_is_found_in_transformers_networks(transformers: Any, name: str) -> None:
    torch.manual_seed(0)
    config, options = HF[name]
    network = getattr(transformers, name)(getattr(transformers, config)(**options))
    images = "ViT" in name
    x = torch.randn(2, 3, 224, 224) if images else torch.randint(1, 200, (2, 40))
    found = audit(network, x, samples=50_000, batch_size=32)
    sound(found)
    attention = [layer for layer in found.anatomy.layers if layer.kind == "attention"]
    assert len(attention) == options.get("num_hidden_layers", 4)
    assert {layer.tokens for layer in attention} == {(197, 197) if images else (40, 40)}


def test_vgg_is_a_plain_stack_with_a_wide_head(timm: Any) -> None:
    network = timm.create_model("vgg11", num_classes=10)
    found = {f.rule: f for f in audit(network, shape=(3, 224, 224), classes=10).findings}
    assert found["residual-from-10"].evidence.startswith("11 weighted layers in a row")
    assert found["residual-from-10"].where == "features.0 (Conv2d) … head.fc"
    assert found["residual-from-10"].severity == "serious"
    # The library writes the fully connected layers as convolutions.
    assert "global-pooling" not in found


def test_weights_that_exist_are_named_where_data_are_few(timm: Any) -> None:
    network = timm.create_model("resnet18", num_classes=10)
    found = audit(network, shape=(3, 64, 64), samples=500).findings
    assert [f.evidence for f in found if f.rule == "pretrained-first"] == [
        "500 samples, and weights exist: timm's resnet18"
    ]
