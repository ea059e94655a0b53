"""Log-mel frames and encoders as librosa and transformers have them, on identical weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.models.blocks import TransformerConfig
from nas.models.spectrogram import LogMel
from nas.models.wav2vec import Wav2Vec
from nas.models.whisper import Whisper

pytestmark = [
    pytest.mark.agreement,
    pytest.mark.filterwarnings("ignore"),  # theirs
]
DIM, HEADS, DEPTH = 32, 4, 3


def noise(n: int) -> np.ndarray:
    """int16 with a loud and a quiet half."""
    wave = np.random.default_rng(0).normal(0, 4000, n)
    wave[n // 2 :] /= 100
    return wave.round().astype(np.int16)


def frames(front: LogMel, wave: np.ndarray) -> np.ndarray:
    mel, _ = front(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    return mel[0].numpy()


@pytest.mark.parametrize(
    ("rate", "window", "hop", "bands"), [(16000, 400, 160, 80), (8000, 200, 80, 40)]
)
def test_log_mel_agrees_with_librosa(rate: int, window: int, hop: int, bands: int) -> None:
    librosa = pytest.importorskip("librosa", reason="not installed here: run `make agreement`")
    wave = noise(rate + 77)
    power = librosa.feature.melspectrogram(
        y=wave / 32768,
        sr=rate,
        n_fft=2 ** int(np.ceil(np.log2(window))),
        win_length=window,
        hop_length=hop,
        n_mels=bands,
    )
    expected = (librosa.power_to_db(power, top_db=80).T / 10 + 4) / 4
    np.testing.assert_allclose(
        frames(LogMel(rate, bands, window, hop), wave), expected, atol=2e-5, rtol=0
    )


def test_log_mel_agrees_with_whispers_feature_extractor(transformers: Any) -> None:
    wave = noise(30 * 16000)
    extract = transformers.WhisperFeatureExtractor(feature_size=80)
    theirs = extract(wave / 32768, sampling_rate=16000, return_tensors="np")["input_features"][0].T
    ours = frames(LogMel(16000, 80, 400, 160, n_fft=400), wave)
    # Ours is silent before the wave, theirs mirrored, and has no frame at its very end.
    np.testing.assert_allclose(ours[2:-3], theirs[2:-2], atol=2e-5)


def copy(ours: nn.Module, weight: Tensor, bias: Tensor | None = None) -> None:
    with torch.no_grad():
        ours.weight.copy_(weight)  # type: ignore[operator, union-attr]
        if bias is not None:
            ours.bias.copy_(bias)  # type: ignore[operator, union-attr]


def copy_block(ours: nn.Module, theirs: nn.Module, attention: str, norms: tuple[str, str]) -> None:
    them = getattr(theirs, attention)
    keys = them.k_proj.bias  # Whisper's keys have none
    biases = [them.q_proj.bias, torch.zeros(DIM) if keys is None else keys, them.v_proj.bias]
    weights = [them.q_proj.weight, them.k_proj.weight, them.v_proj.weight]
    copy(ours.attention.qkv, torch.cat(weights), torch.cat(biases))
    copy(ours.attention.out, them.out_proj.weight, them.out_proj.bias)
    for norm, name in zip((ours.norm1, ours.norm2), norms, strict=True):
        copy(norm, getattr(theirs, name).weight, getattr(theirs, name).bias)
        norm.eps = 1e-5


def shake(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network.eval()


def test_whisper_is_transformers_encoder_on_identical_weights(transformers: Any) -> None:
    config = transformers.WhisperConfig(
        decoder_layers=1,
        decoder_attention_heads=1,
        num_mel_bins=40,
        d_model=DIM,
        encoder_layers=DEPTH,
        encoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * DIM,
        max_source_positions=51,
        dropout=0.0,
    )
    theirs = transformers.WhisperModel(config).encoder
    positions = theirs.embed_positions.weight.clone()
    shake(theirs).embed_positions.weight.data = positions
    ours = Whisper(LogMel(16000, 40, 400, 160), 2, TransformerConfig(DIM, DEPTH, HEADS)).eval()
    copy(ours.conv1.conv, theirs.conv1.weight, theirs.conv1.bias)
    copy(ours.conv2.conv, theirs.conv2.weight, theirs.conv2.bias)
    for block, layer in zip(ours.blocks, theirs.layers, strict=True):
        copy_block(block, layer, "self_attn", ("self_attn_layer_norm", "final_layer_norm"))
        copy(block.feed_forward.up, layer.fc1.weight, layer.fc1.bias)
        copy(block.feed_forward.down, layer.fc2.weight, layer.fc2.bias)
    copy(ours.norm, theirs.layer_norm.weight, theirs.layer_norm.bias)
    ours.norm.eps = 1e-5
    mel = torch.randn(2, 102, 40)
    with torch.inference_mode():
        expected = theirs(mel.transpose(1, 2)).last_hidden_state
        found, _ = ours.encode(mel, torch.ones(2, 102, dtype=torch.bool))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_wav2vec_is_transformers_model_on_identical_weights(transformers: Any) -> None:
    kernels, strides, width = (10, 3, 3, 2), (5, 2, 2, 2), 24
    config = transformers.Wav2Vec2Config(
        hidden_size=DIM,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * DIM,
        conv_dim=(width,) * 4,
        conv_kernel=kernels,
        conv_stride=strides,
        num_feat_extract_layers=4,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=8,
        layer_norm_eps=1e-5,
    )
    theirs = shake(transformers.Wav2Vec2Model(config))
    layers = TransformerConfig(DIM, DEPTH, HEADS)
    ours = Wav2Vec(2, kernels, strides, width, layers, position_kernel=16, position_groups=8).eval()
    for layer, other in zip(ours.convolutions, theirs.feature_extractor.conv_layers, strict=True):
        copy(layer.conv, other.conv.weight, other.conv.bias)
        copy(layer.norm, other.layer_norm.weight, other.layer_norm.bias)
        layer.norm.eps = 1e-5
    projection = theirs.feature_projection
    copy(ours.projection_norm, projection.layer_norm.weight, projection.layer_norm.bias)
    copy(ours.projection, projection.projection.weight, projection.projection.bias)
    positions = theirs.encoder.pos_conv_embed.conv  # its weight is that after normalisation
    copy(ours.positions.conv, positions.weight, positions.bias)
    for block, layer in zip(ours.blocks, theirs.encoder.layers, strict=True):
        copy_block(block, layer, "attention", ("layer_norm", "final_layer_norm"))
        dense = layer.feed_forward
        copy(
            block.feed_forward.up,
            dense.intermediate_dense.weight,
            dense.intermediate_dense.bias,
        )
        copy(block.feed_forward.down, dense.output_dense.weight, dense.output_dense.bias)
    copy(ours.norm, theirs.encoder.layer_norm.weight, theirs.encoder.layer_norm.bias)
    for norm in (ours.projection_norm, ours.norm):
        norm.eps = 1e-5
    waves, lengths = [noise(4000), noise(2317)], torch.tensor([4000, 2317])
    with torch.inference_mode():
        for wave in waves:  # theirs is used alone: ours must not change in the batch
            [values] = transformers.Wav2Vec2FeatureExtractor()(
                wave / 32768.0, sampling_rate=16000, return_tensors="pt"
            )["input_values"]
            silence = -len(wave) % ours.hop + ours.silence
            expected = theirs(nn.functional.pad(values, (0, silence))[None]).last_hidden_state[0]
            padded = torch.zeros(2, 4000, dtype=torch.int16)
            for row, each in zip(padded, waves, strict=True):
                row[: len(each)] = torch.from_numpy(each)
            x, mask = ours.features(padded, lengths)
            row = 0 if len(wave) == 4000 else 1
            torch.testing.assert_close(x[row][mask[row]], expected, atol=1e-5, rtol=0)
