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
