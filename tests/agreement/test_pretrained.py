"""Encoders from published weights beside transformers' own, saved by its ``save_pretrained``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from nas.data import read
from nas.family import load_families
from nas.pretrained.sources import describe
from nas.task import Task
from nas.training.batches import row_inputs
from nas.training.proxy import build_network

transformers: Any = pytest.importorskip("transformers", reason="run `make agreement`")
pytestmark = pytest.mark.agreement
WORDS = [f"w{i}" for i in range(40)]
SIZES = {"vocab_size": 45, "max_position_embeddings": 30}
BERT = SIZES | {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
                "num_hidden_layers": 3}  # fmt: skip
DISTIL = SIZES | {"dim": 16, "n_heads": 2, "hidden_dim": 32, "n_layers": 3}
MODELS = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**BERT)),
    "distilbert": lambda: transformers.DistilBertModel(transformers.DistilBertConfig(**DISTIL)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**BERT)),
    "xlm-roberta": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**BERT)),
}


def word_tokenizer(kind: str, folder: Path) -> Tokenizer:
    """Whole words, with the special tokens where BERT or RoBERTa has them."""
    names = ["[PAD]", *WORDS[:20], "[UNK]", "[CLS]", "[SEP]", *WORDS[20:], "[MASK]"]
    begin, end, unknown = "[CLS]", "[SEP]", "[UNK]"
    if "roberta" in kind:
        names = ["<s>", "<pad>", "</s>", "<unk>", *WORDS, "<mask>"]
        begin, end, unknown = "<s>", "</s>", "<unk>"
    ids = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, ids[begin]), (end, ids[end])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_an_encoder_is_that_of_transformers(kind: str, blocks: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = MODELS[kind]().eval()
    with torch.no_grad():
        for value in theirs.parameters():
            value.add_(0.1 * torch.randn_like(value))
    theirs.save_pretrained(tmp_path)
    tokenizer = word_tokenizer(kind, tmp_path)
    generator = torch.Generator().manual_seed(1)
    texts = [
        " ".join(WORDS[i] for i in torch.randint(0, 40, (n,), generator=generator).tolist())
        for n in (3, 9, 1, 14) * 10
    ]
    frame = pd.DataFrame({"text": texts, "label": [0, 1] * 20})
    data = read(frame, target="label", modality="text", pretrained=str(tmp_path))
    task = Task("text", data.targets, data.profile).with_objectives()
    task = replace(task, pretrained=(describe(str(tmp_path)),))
    config = load_families()["frozen_text"].space(task).complete({}) | {"blocks": blocks}
    ours: Any = build_network("frozen_text", config, task, True).eval()
    rows = data.parts["train"][:4]
    with torch.inference_mode():
        found, mask = ours.features(**row_inputs(data, rows))
        for i, row in enumerate(rows):
            ids = torch.tensor([tokenizer.encode(texts[row]).ids])
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            states = theirs(**given, output_hidden_states=True).hidden_states[blocks][0]
            assert int(mask[i].sum()) == len(states)
            assert float((found[i, : len(states)] - states).abs().max()) <= 1e-5


WHISPER = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 64,
           "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
           "num_mel_bins": 40, "max_source_positions": 50, "vocab_size": 60,
           "pad_token_id": 0}  # fmt: skip
WAV2VEC = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
           "intermediate_size": 64, "conv_dim": (24,) * 4, "conv_kernel": (10, 3, 3, 2),
           "conv_stride": (5, 2, 2, 2), "num_feat_extract_layers": 4, "conv_bias": True,
           "feat_extract_norm": "layer", "do_stable_layer_norm": True,
           "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 8}  # fmt: skip


def heard(theirs: Any, extract: Any, blocks: int, folder: Path) -> tuple[Any, Any]:
    """Some sounds, and our network with the weights that theirs was saved with."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "embed_positions" not in name:
                value.add_(0.05 * torch.randn_like(value))
    theirs.eval().save_pretrained(folder)
    extract.save_pretrained(folder)
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.1, n).astype(np.float32) for n in (16_000, 9_000) * 10]
    data = read((waves, np.array(["a", "b"] * 10)), modality="audio")
    task = Task("audio", data.targets, data.profile).with_objectives()
    task = replace(task, pretrained=(describe(str(folder)),))
    config = load_families()["frozen_audio"].space(task).complete({"blocks": blocks})
    return data, build_network("frozen_audio", config, task, True).eval()


@pytest.mark.parametrize("blocks", [1, 3])
def test_whispers_encoder_is_that_of_transformers(blocks: int, tmp_path: Path) -> None:
    theirs = transformers.WhisperModel(transformers.WhisperConfig(**WHISPER))
    extract = transformers.WhisperFeatureExtractor(feature_size=40, chunk_length=1)
    _, ours = heard(theirs, extract, blocks, tmp_path)
    mel = torch.randn(2, 100, 40)
    with torch.inference_mode():
        states = theirs.encoder(mel.transpose(1, 2), output_hidden_states=True)
        expected = states.last_hidden_state
        if blocks < 3:
            expected = theirs.encoder.layer_norm(states.hidden_states[blocks])
        found, _ = ours.encoder.encode(mel, torch.ones(2, 100, dtype=torch.bool))
    assert float((found - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("blocks", [1, 3])
def test_wav2vecs_encoder_is_that_of_transformers(blocks: int, tmp_path: Path) -> None:
    theirs = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**WAV2VEC))
    extract = transformers.Wav2Vec2FeatureExtractor()
    data, ours = heard(theirs, extract, blocks, tmp_path)
    given = row_inputs(data, np.arange(2))
    with torch.inference_mode():
        found, mask = ours.features(**given)
        for i, length in enumerate(given["wave_length"].tolist()):
            wave = given["wave"][i, :length].numpy() / 32768
            [values] = extract(wave, sampling_rate=16_000, return_tensors="pt")["input_values"]
            rest = -length % ours.encoder.hop + ours.encoder.silence
            padded = torch.nn.functional.pad(values, (0, rest))[None]
            states = theirs(padded, output_hidden_states=True)
            expected = states.last_hidden_state
            if blocks < 3:
                expected = theirs.encoder.layer_norm(states.hidden_states[blocks])
            assert float((found[i][mask[i]] - expected[0]).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_is_that_of_timm(timm: Any, name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    with torch.no_grad():
        for buffer, value in theirs.named_buffers():
            if "running" in buffer:
                value += 0.1 * torch.rand_like(value)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 64, 64)).astype(np.uint8)
    data = read((pixels, np.array(["a", "b"] * 10)))
    task = Task("images", data.targets, data.profile).with_objectives()
    task = replace(task, pretrained=(describe(str(tmp_path)),))
    config = load_families()["frozen_image"].space(task).complete({}) | {"resolution": 64}
    ours: Any = build_network("frozen_image", config, task, True).eval()
    images = torch.from_numpy(pixels[:2])
    with torch.inference_mode():
        expected = theirs.forward_features(ours.input(images)).flatten(2).transpose(1, 2)
        found, _ = ours.features(images)
        error = (found - expected).abs().max() / expected.abs().max()
    assert float(error) <= 1e-5


@pytest.mark.parametrize("side", [224, 112])
def test_a_vit_is_that_of_timm(timm: Any, side: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224").eval()
    with torch.no_grad():
        for value in theirs.parameters():
            value += 0.02 * torch.randn_like(value)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    about = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]}
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": about}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, side, side)).astype(np.uint8)
    data = read((pixels, np.array(["a", "b"] * 10)), image_size=side)
    task = Task("images", data.targets, data.profile).with_objectives()
    task = replace(task, pretrained=(describe(str(tmp_path)),))
    own = load_families()["frozen_image"].space(task).complete({"resolution": side})
    ours: Any = build_network("frozen_image", own, task, True).eval()
    images = torch.from_numpy(pixels[:2])
    if side != 224:
        theirs.set_input_size((side, side))  # timm moves the positions to the new grid
    with torch.inference_mode():
        expected = theirs.forward_features(images / 127.5 - 1)
        found, _ = ours.features(images)
        assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
        assert torch.equal(ours.vector(found), found[:, 0])
