"""Encoders of sounds in transformers' format: what their config.json and
preprocessor_config.json say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KNOWN = ("whisper", "wav2vec2")
Sizes = dict[str, int | float | str]


def sizes(kind: str, config: Mapping[str, Any], front: Mapping[str, Any]) -> Sizes:
    """The sizes of an encoder, and what it does to a wave before.

    Args:
        kind: One of ``KNOWN``.
        config: Of config.json.
        front: Of preprocessor_config.json.

    Raises:
        KeyError, TypeError, ValueError: Something is missing, or is not as it is built here; the
            message names it.
    """
    return _whisper(config, front) if kind == "whisper" else _wav2vec(config, front)


def _need(about: Mapping[str, Any], name: str, expected: Any) -> None:
    if about.get(name, expected) != expected:
        raise ValueError(f"{name} {about[name]!r} (only {expected!r} is known here)")


def _whisper(config: Mapping[str, Any], front: Mapping[str, Any]) -> Sizes:
    for name, expected in (("n_fft", 400), ("hop_length", 160), ("sampling_rate", 16_000)):
        _need(front, name, expected)
    _need(config, "activation_function", "gelu")
    dim, hidden = int(config["d_model"]), int(config["encoder_ffn_dim"])
    return {
        "dim": dim,
        "heads": int(config["encoder_attention_heads"]),
        "mlp_ratio": hidden / dim,
        "blocks": int(config["encoder_layers"]),
        "mels": int(config["num_mel_bins"]),
        "rate": 16_000,
        "dropout": float(config.get("dropout", 0.0)),
    }


def _wav2vec(config: Mapping[str, Any], front: Mapping[str, Any]) -> Sizes:
    _need(front, "do_normalize", True)
    # Networks as wav2vec 2.0 large has them; base normalises its first convolution over time.
    known = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
             "hidden_act": "gelu", "feat_extract_activation": "gelu"}  # fmt: skip
    published = {"feat_extract_norm": "group", "do_stable_layer_norm": False, "conv_bias": False}
    for name, expected in known.items():
        _need(published | dict(config), name, expected)
    _need(config, "adapter_attn_dim", None)
    kernels, strides = list(config["conv_kernel"]), list(config["conv_stride"])
    widths = set(config["conv_dim"])
    if len(widths) != 1:
        raise ValueError(f"conv_dim {sorted(widths)} (only one width is known here)")
    dim = int(config["hidden_size"])
    return {
        "dim": dim,
        "heads": int(config["num_attention_heads"]),
        "mlp_ratio": int(config["intermediate_size"]) / dim,
        "blocks": int(config["num_hidden_layers"]),
        "kernels": ",".join(map(str, kernels)),
        "strides": ",".join(map(str, strides)),
        "conv_width": int(widths.pop()),
        "position_kernel": int(config["num_conv_pos_embeddings"]),
        "position_groups": int(config["num_conv_pos_embedding_groups"]),
        "rate": int(front["sampling_rate"]),
        "dropout": float(config.get("hidden_dropout", 0.1)),
    }
