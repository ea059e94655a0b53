"""Tiny checkpoints in the formats of the libraries, made for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WORDS = ("good", "bad", "film", "plot", "un", "##like", "##ly", "a", "the", "not")
CONFIG: dict[str, Any] = {
    "model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
    "num_hidden_layers": 3, "max_position_embeddings": 40, "hidden_act": "gelu",
    "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
}  # fmt: skip


def bert_folder(folder: Path, words: Sequence[str] = WORDS, seed: int = 0, **config: Any) -> Path:
    """A BERT of three blocks with random weights, as ``save_pretrained`` of transformers writes
    it: config.json, tokenizer.json, model.safetensors, README.md."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    # As in BERT's own vocabulary the special tokens do not come first.
    names = ["[PAD]", *words, "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = CONFIG | {"vocab_size": len(names)} | config
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "README.md").write_text("---\nlicense: mit\ndatasets: [made-up]\n---\nA network.\n")
    save_file(bert_tensors(about, seed), folder / "model.safetensors")
    return folder


def bert_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights by the names of transformers' BertModel."""
    torch.manual_seed(seed)
    dim, hidden = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], dim),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], dim),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], dim),
        "pooler.dense.weight": (dim, dim),
        "pooler.dense.bias": (dim,),
    }
    linear = {
        "attention.self.query": (dim, dim), "attention.self.key": (dim, dim),
        "attention.self.value": (dim, dim), "attention.output.dense": (dim, dim),
        "intermediate.dense": (hidden, dim), "output.dense": (dim, hidden),
    }  # fmt: skip
    norms = ["embeddings.LayerNorm"]
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for name, (rows, columns) in linear.items():
            shapes[f"{layer}.{name}.weight"] = (rows, columns)
            shapes[f"{layer}.{name}.bias"] = (rows,)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    tensors = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    for name in norms:
        tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(dim)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(dim)
    return tensors


# -- EfficientNet-Lite0 ----------------------------------------------------------------------------

# Repeats, kernel, stride, expansion and width of each stage: Tan & Le 2019, table 1.
LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
         (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


def lite0_tensors(seed: int = 0, *, timm: bool = False) -> dict[str, torch.Tensor]:
    """Random weights by the names of the first port to PyTorch, or by those of ``timm``."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}

    def unit(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        fan = shape[1] * shape[2] * shape[3]
        tensors[f"{conv}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        tensors[f"{norm}.weight"] = 1 + 0.1 * torch.randn(shape[0], generator=generator)
        for name in ("bias", "running_mean"):
            tensors[f"{norm}.{name}"] = 0.1 * torch.randn(shape[0], generator=generator)
        tensors[f"{norm}.running_var"] = 0.5 + torch.rand(shape[0], generator=generator)
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    ends = ("conv_stem", "bn1", "conv_head", "bn2") if timm else (
        "_conv_stem", "_bn0", "_conv_head", "_bn1")  # fmt: skip
    unit(ends[0], ends[1], (32, 3, 3, 3))
    width, number = 32, 0
    for stage, (repeats, kernel, _, expand, wider) in enumerate(LITE0):
        for i in range(repeats):
            wide = width * expand
            block = f"blocks.{stage}.{i}" if timm else f"_blocks.{number}"
            first = ("conv_dw", "bn1", "conv_pw", "bn2")
            names = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            own = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
            chosen = (names[:2] + first if expand == 1 else names) if timm else own
            if expand > 1:
                unit(f"{block}.{chosen[0]}", f"{block}.{chosen[1]}", (wide, width, 1, 1))
            unit(f"{block}.{chosen[2]}", f"{block}.{chosen[3]}", (wide, 1, kernel, kernel))
            unit(f"{block}.{chosen[4]}", f"{block}.{chosen[5]}", (wider, wide, 1, 1))
            width, number = wider, number + 1
    unit(ends[2], ends[3], (1280, 320, 1, 1))
    return tensors


# -- encoders of sounds ----------------------------------------------------------------------------

WHISPER: dict[str, Any] = {
    "model_type": "whisper", "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "num_mel_bins": 20, "activation_function": "gelu",
}  # fmt: skip
WAV2VEC: dict[str, Any] = {
    "model_type": "wav2vec2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "conv_dim": [8, 8, 8], "conv_kernel": [10, 3, 3],
    "conv_stride": [20, 4, 4], "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    "conv_bias": True, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
FRONTS = {
    "whisper": {"sampling_rate": 16_000, "n_fft": 400, "hop_length": 160, "feature_size": 20},
    "wav2vec2": {"sampling_rate": 16_000, "do_normalize": True},
}


def audio_folder(folder: Path, kind: str, **config: Any) -> Path:
    """An encoder of two blocks with random weights, as transformers writes it: config.json,
    preprocessor_config.json, model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"whisper": WHISPER, "wav2vec2": WAV2VEC}[kind] | config
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "preprocessor_config.json").write_text(json.dumps(FRONTS[kind]))
    torch.manual_seed(0)
    shapes = _whisper_shapes(about) if kind == "whisper" else _wav2vec_shapes(about)
    tensors = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    if kind == "whisper":
        from nas.models.sequence import sinusoids

        tensors["model.encoder.embed_positions.weight"] = sinusoids(50, 16, torch.zeros(1))
    save_file(tensors, folder / "model.safetensors")
    return folder


def _transformer_shapes(layer: str, attention: str, norms: Sequence[str]) -> dict[str, Any]:
    shapes: dict[str, Any] = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes[f"{layer}.{attention}.{name}.weight"] = (16, 16)
        shapes[f"{layer}.{attention}.{name}.bias"] = (16,)
    for name in norms:
        shapes |= {f"{layer}.{name}.{each}": (16,) for each in ("weight", "bias")}
    return shapes


def _whisper_shapes(about: dict[str, Any]) -> dict[str, Any]:
    root, mels = "model.encoder", about["num_mel_bins"]
    shapes: dict[str, Any] = {
        f"{root}.conv1.weight": (16, mels, 3), f"{root}.conv1.bias": (16,),
        f"{root}.conv2.weight": (16, 16, 3), f"{root}.conv2.bias": (16,),
        f"{root}.layer_norm.weight": (16,), f"{root}.layer_norm.bias": (16,),
        "model.decoder.layer_norm.weight": (16,),
    }  # fmt: skip
    for i in range(about["encoder_layers"]):
        layer = f"{root}.layers.{i}"
        shapes |= _transformer_shapes(layer, "self_attn", ("self_attn_layer_norm",
                                                           "final_layer_norm"))  # fmt: skip
        del shapes[f"{layer}.self_attn.k_proj.bias"]  # it has none
        shapes |= {f"{layer}.fc1.weight": (32, 16), f"{layer}.fc1.bias": (32,),
                   f"{layer}.fc2.weight": (16, 32), f"{layer}.fc2.bias": (16,)}  # fmt: skip
    return shapes


def _wav2vec_shapes(about: dict[str, Any]) -> dict[str, Any]:
    shapes: dict[str, Any] = {
        "feature_projection.layer_norm.weight": (8,), "feature_projection.layer_norm.bias": (8,),
        "feature_projection.projection.weight": (16, 8),
        "feature_projection.projection.bias": (16,),
        "encoder.pos_conv_embed.conv.weight_g": (1, 1, 8),
        "encoder.pos_conv_embed.conv.weight_v": (16, 4, 8),
        "encoder.pos_conv_embed.conv.bias": (16,),
        "encoder.layer_norm.weight": (16,), "encoder.layer_norm.bias": (16,),
        "masked_spec_embed": (16,),
    }  # fmt: skip
    for i, kernel in enumerate(about["conv_kernel"]):
        layer = f"feature_extractor.conv_layers.{i}"
        shapes[f"{layer}.conv.weight"] = (8, 8 if i else 1, kernel)
        shapes |= {f"{layer}.{name}": (8,) for name in ("conv.bias", "layer_norm.weight",
                                                        "layer_norm.bias")}  # fmt: skip
    for i in range(about["num_hidden_layers"]):
        layer = f"encoder.layers.{i}"
        shapes |= _transformer_shapes(layer, "attention", ("layer_norm", "final_layer_norm"))
        for name, shape in (("intermediate_dense", (32, 16)), ("output_dense", (16, 32))):
            shapes[f"{layer}.feed_forward.{name}.weight"] = shape
            shapes[f"{layer}.feed_forward.{name}.bias"] = shape[:1]
    return {f"wav2vec2.{name}": shape for name, shape in shapes.items()}


# -- ResNet ----------------------------------------------------------------------------------------


def resnet_tensors(depths: Sequence[int], *, bottleneck: bool = False) -> dict[str, torch.Tensor]:
    """Random weights by the names of torchvision and timm."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}

    def unit(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        fan = shape[1] * shape[2] * shape[3]
        tensors[f"{conv}.weight"] = torch.randn(shape, generator=generator) * (1 / fan) ** 0.5
        tensors[f"{norm}.weight"] = 1 + 0.1 * torch.randn(shape[0], generator=generator)
        for name in ("bias", "running_mean"):
            tensors[f"{norm}.{name}"] = 0.1 * torch.randn(shape[0], generator=generator)
        tensors[f"{norm}.running_var"] = 0.5 + torch.rand(shape[0], generator=generator)
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    unit("conv1", "bn1", (64, 3, 7, 7))
    width = 64
    for stage, depth in enumerate(depths, 1):
        inner = 32 * 2**stage
        out = 4 * inner if bottleneck else inner
        for i in range(depth):
            block = f"layer{stage}.{i}"
            plain = ((inner, width, 3), (out, inner, 3))
            three = ((inner, width, 1), (inner, inner, 3), (out, inner, 1))
            for k, (wide, before, kernel) in enumerate(three if bottleneck else plain, 1):
                unit(f"{block}.conv{k}", f"{block}.bn{k}", (wide, before, kernel, kernel))
            if i == 0 and (stage > 1 or width != out):
                unit(f"{block}.downsample.0", f"{block}.downsample.1", (out, width, 1, 1))
            width = out
    tensors["fc.weight"] = torch.randn(10, width, generator=generator)
    tensors["fc.bias"] = torch.zeros(10)
    return tensors


# -- ViT -------------------------------------------------------------------------------------------


def vit_folder(folder: Path, **about: Any) -> Path:
    """A ViT of two blocks with random weights, patches of 16 of 32 pixels, as timm saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]} | about
    config = {"architecture": "vit_small_patch16_32", "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(vit_tensors(), folder / "model.safetensors")
    return folder


def vit_tensors() -> dict[str, torch.Tensor]:
    """Random weights by the names of timm."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 64), "pos_embed": (1, 5, 64),
        "patch_embed.proj.weight": (64, 3, 16, 16), "patch_embed.proj.bias": (64,),
        "head.weight": (10, 64), "head.bias": (10,),
    }  # fmt: skip
    norms = ["norm"]
    for i in range(2):
        layers = {"attn.qkv": (192, 64), "attn.proj": (64, 64), "mlp.fc1": (128, 64),
                  "mlp.fc2": (64, 128)}  # fmt: skip
        for name, shape in layers.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
        norms += [f"blocks.{i}.norm1", f"blocks.{i}.norm2"]
    tensors = {
        name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    for name in norms:
        tensors[f"{name}.weight"] = 1 + 0.1 * torch.randn(64, generator=generator)
        tensors[f"{name}.bias"] = 0.1 * torch.randn(64, generator=generator)
    return tensors
