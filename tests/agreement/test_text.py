"""The encoder and Mamba as transformers has them, on identical weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.models.blocks import TransformerConfig
from nas.models.encoder import EmbeddingConfig, TextTransformer
from nas.models.mamba import MambaConfig, TextMamba

pytestmark = [pytest.mark.agreement, pytest.mark.filterwarnings("ignore")]  # theirs
WORDS, DIM, HEADS, DEPTH, LENGTH = 50, 16, 4, 2, 11


def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    length = torch.tensor([11, 4, 7])
    mask = torch.arange(LENGTH) < length[:, None]
    ids = torch.randint(2, WORDS, (3, LENGTH)).masked_fill(~mask, 0)
    return ids, length, mask


def copy(ours: nn.Parameter | Tensor, *theirs: Tensor) -> None:
    with torch.no_grad():
        ours.copy_(torch.cat(theirs))


def shake(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


def test_the_encoder_is_bert(transformers: Any) -> None:
    ids, length, mask = batch()
    theirs = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=WORDS,
            hidden_size=DIM,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=2 * DIM,
            max_position_embeddings=LENGTH,
            layer_norm_eps=1e-6,
        ),
        add_pooling_layer=False,
    ).eval()
    shake(theirs)
    layers = TransformerConfig(DIM, DEPTH, HEADS, 2.0, post_norm=True)
    ours = TextTransformer(EmbeddingConfig(WORDS), LENGTH, 2, layers)
    embeddings = theirs.embeddings
    kind = embeddings.token_type_embeddings.weight[0]
    copy(ours.embedding.table.weight, embeddings.word_embeddings.weight)
    copy(ours.position.table, embeddings.position_embeddings.weight + kind)
    ours.norm.load_state_dict(embeddings.LayerNorm.state_dict())
    for block, layer in zip(ours.blocks, theirs.encoder.layer, strict=True):
        heads = (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value)
        copy(block.attention.qkv.weight, *(part.weight for part in heads))
        copy(block.attention.qkv.bias, *(part.bias for part in heads))
        for mine, other in (
            (block.attention.out, layer.attention.output.dense),
            (block.norm1, layer.attention.output.LayerNorm),
            (block.feed_forward.up, layer.intermediate.dense),
            (block.feed_forward.down, layer.output.dense),
            (block.norm2, layer.output.LayerNorm),
        ):
            mine.load_state_dict(other.state_dict())
    with torch.inference_mode():
        expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        found, real = ours.eval().features(tokens=ids, tokens_length=length)
    assert real is not None
    assert torch.equal(real, mask)
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=0)


def test_mamba_is_mamba_forward_and_backward(transformers: Any) -> None:
    ids, length, mask = batch()
    theirs = transformers.MambaModel(
        transformers.MambaConfig(
            vocab_size=WORDS,
            hidden_size=DIM,
            num_hidden_layers=DEPTH,
            state_size=8,
            conv_kernel=3,
            time_step_rank=1,
            layer_norm_epsilon=1e-6,
            use_cache=False,
        )
    )
    shake(theirs)
    ours = TextMamba(EmbeddingConfig(WORDS), LENGTH, 2, MambaConfig(DIM, DEPTH, states=8, kernel=3))
    pairs: list[tuple[Tensor, Tensor]] = [
        (ours.embedding.table.weight, theirs.embeddings.weight),
        (ours.norm.weight, theirs.norm_f.weight),
    ]
    for block, layer in zip(ours.blocks, theirs.layers, strict=True):
        mine, other = block.mixer, layer.mixer
        pairs += [
            (block.norm.weight, layer.norm.weight),
            (mine.into.weight, other.in_proj.weight),
            (mine.conv.weight, other.conv1d.weight),
            (mine.conv.bias, other.conv1d.bias),
            (mine.select.weight, other.x_proj.weight),
            (mine.delta.weight, other.dt_proj.weight),
            (mine.delta.bias, other.dt_proj.bias),
            (mine.log_a, other.A_log),
            (mine.skip, other.D),
            (mine.out.weight, other.out_proj.weight),
        ]
    for a, b in pairs:
        copy(a, b)
    expected = theirs(input_ids=ids).last_hidden_state
    found = ours.norm(ours.features(tokens=ids, tokens_length=length)[0])
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=0)
    weights = torch.randn_like(expected)[mask]
    (expected[mask] * weights).sum().backward()
    (found[mask] * weights).sum().backward()
    for a, b in pairs:
        if a is ours.embedding.table.weight:  # padding is not learnt here
            a, b = a.grad[2:], b.grad[2:]
        else:
            a, b = a.grad, b.grad
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
