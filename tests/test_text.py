"""Text: what becomes of tables and lists, and networks that do not read the filling."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from nas import rules
from nas.data import Dataset, encode, read
from nas.data.ragged import Ragged
from nas.data.text import recognise
from nas.family import load_families
from nas.models.blocks import Attention, TransformerConfig, rotary
from nas.models.encoder import (
    EmbeddingConfig,
    SinusoidalPosition,
    TextTransformer,
    TokenEmbedding,
)
from nas.models.lstm import LSTM, TextLSTM
from nas.models.mamba import MambaConfig, TextMamba, parallel_scan, selective_scan
from nas.models.ngram_bag import NGramBag
from nas.models.text_cnn import TextCNN
from nas.task import Constraint, DataProfile, InputError, Target, Task
from nas.training.cost import analyse, parameters

GOOD = ("a warm and funny film", "funny , warm and wise", "what a good , wise film this is")
BAD = ("a cold and dull film", "dull , cold and long", "what a bad , long film this is")
TEXTS = [text for pair in zip(GOOD, BAD, strict=True) for text in pair] * 6
LABELS = ["good", "bad"] * 18


def frame(**columns: Any) -> pd.DataFrame:
    """36 short reviews, each with a number of its own."""
    texts = [f"{text} , says critic {i}" for i, text in enumerate(TEXTS)]
    return pd.DataFrame({"text": texts, "label": LABELS, **columns})


def tokens(dataset: Dataset) -> Ragged:
    found = dataset.inputs["tokens"]
    assert isinstance(found, Ragged)
    return found


def words(dataset: Dataset, row: int) -> list[str]:
    """A sample back from its ids."""
    known = json.loads(dataset.profile.tokenizer)["model"]["vocab"]
    names = {i: word for word, i in known.items()}
    return [names[i] for i in tokens(dataset)[row].tolist()]


# Reading ---------------------------------------------------------------------------------


def test_a_csv_a_tsv_and_json_lines_plain_or_gzipped_read_alike(tmp_path: Path) -> None:
    table = frame()
    lines = "".join(json.dumps(row) + "\n" for row in table.to_dict("records"))
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "a.csv.gz", index=False)
    table.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    prints = set()
    for name in ("a.csv", "a.csv.gz", "a.tsv", "a.jsonl", "a.jsonl.gz"):
        dataset = read(tmp_path / name, target="label")
        assert dataset.modality == "text", name
        prints.add(dataset.profile.fingerprint)
    assert len(prints) == 1


def test_strings_and_labels_in_python_read_like_the_table() -> None:
    table = frame()
    of_list = read((table["text"].tolist(), table["label"].tolist()))
    of_array = read((table["text"].to_numpy(), table["label"].to_numpy()))
    of_frame = read(table, target="label")
    assert of_list.modality == of_array.modality == of_frame.modality == "text"
    ids = [tokens(d).values.tolist() for d in (of_list, of_array, of_frame)]
    assert ids[0] == ids[1] == ids[2]


def test_tables_of_a_folder_are_the_parts(tmp_path: Path) -> None:
    for i, name in enumerate(("train.csv.gz", "dev.csv.gz", "test.csv.gz")):
        frame().iloc[12 * i : 12 * i + 12].to_csv(tmp_path / name, index=False)
    dataset = read(tmp_path, target="label")
    assert dataset.modality == "text"
    assert {name: rows.tolist() for name, rows in dataset.parts.items()} == {
        "train": list(range(12)),
        "val": list(range(12, 24)),
        "test": list(range(24, 36)),
    }


def test_null_and_none_are_words(tmp_path: Path) -> None:
    table = frame()
    table.loc[3, "text"] = "null"
    table.loc[4, "text"] = "None"
    table.to_csv(tmp_path / "a.csv", index=False)
    dataset = read(tmp_path / "a.csv", target="label", modality="text")
    assert len(tokens(dataset)) == 36
    new = pd.DataFrame({"text": ["null", "a warm film"]})
    new.to_csv(tmp_path / "new.csv", index=False)
    assert tokens_of(encode(tmp_path / "new.csv", dataset.profile, "text"))[0].tolist() == [1]


def tokens_of(encoded: Any) -> Ragged:
    found = encoded.inputs["tokens"]
    assert isinstance(found, Ragged)
    return found


def test_the_vocabulary_holds_the_words_that_training_texts_hold_twice() -> None:
    table = frame(split=["train"] * 24 + ["val"] * 6 + ["test"] * 6)
    table.loc[0, "text"] = "A Film , a film -- isn't it the critic's thrice thrice once"
    table.loc[30:, "text"] = "marmalade and marmalade"
    dataset = read(table, target="label")
    known = json.loads(dataset.profile.tokenizer)["model"]["vocab"]
    assert list(known)[:3] == ["[PAD]", "[UNK]", "[SEP]"]
    assert dataset.profile.vocabulary == len(known)
    assert {"film", "thrice", ","} <= set(known)
    assert not {"once", "marmalade", "Film", "isn't"} & set(known)
    assert words(dataset, 0)[:8] == ["a", "film", ",", "a", "film", "-", "-", "[UNK]"]
    assert words(dataset, 30) == ["[UNK]", "and", "[UNK]"]
    assert dataset.profile.lengths["tokens"][-1] == dataset.profile.inputs["tokens"][0]


def test_apostrophes_stay_with_their_words() -> None:
    text = "isn't 'quoted' the critic's 've n't re-made"
    table = frame(split=["train"] * 24 + ["val"] * 6 + ["test"] * 6)
    table.loc[:1, "text"] = text
    found = words(read(table, target="label"), 0)
    expected = "isn't ' quoted ' the critic's 've n't re - made"
    assert found == expected.split()


def test_words_that_are_mostly_new_are_cut_into_pieces() -> None:
    rng = np.random.default_rng(0)
    syllables = ("ka", "lo", "mi", "ne", "ru", "so", "ta", "vi")
    texts = ["".join(rng.choice(syllables, 6)) + f" {label} zu" for label in LABELS]
    dataset = read((texts, LABELS), modality="text")
    assert json.loads(dataset.profile.tokenizer)["model"]["type"] == "BPE"
    again = read((texts, LABELS), modality="text")
    assert again.profile == dataset.profile
    new = tokens_of(encode((["rusotavi kaloka", "ßß"], None), dataset.profile, "text"))
    assert 1 not in new[0].tolist()
    assert 1 in new[1].tolist()


def test_long_texts_are_cut_with_a_note() -> None:
    table = frame(split=["train"] * 24 + ["val"] * 6 + ["test"] * 6)
    table.loc[5, "text"] = "warm film " * 60
    table.loc[30, "text"] = "warm film " * 80
    dataset = read(table, target="label")
    lengths = tokens(dataset).lengths
    most = dataset.profile.inputs["tokens"][0]
    assert lengths[5] == lengths[30] == most == rules.text_length(dataset.profile.lengths["tokens"])
    assert any(f"cut after {most} tokens" in note for note in dataset.notes)
    new = tokens_of(encode((["warm film " * 90], None), dataset.profile, "text"))
    assert new.lengths.tolist() == [most]


def test_several_texts_are_joined_by_a_separator() -> None:
    table = frame()
    table["title"] = [f"a {word} tale of critic {i}" for i, word in enumerate(LABELS)]
    dataset = read(table, target="label", modality="text")
    ids = tokens(dataset)[0].tolist()
    assert ids.count(2) == 1
    assert [column.name for column in dataset.profile.columns] == ["text", "title"]
    new = pd.DataFrame({"title": ["a good tale"], "text": ["a warm film"], "more": [1]})
    found = tokens_of(encode(new, dataset.profile, "text"))[0].tolist()
    assert found.index(2) == 3
    with pytest.raises(InputError, match="lacks the columns 'title'"):
        encode(new.drop(columns="title"), dataset.profile, "text")


def test_coding_again_by_the_profile_gives_the_same_tokens() -> None:
    table = frame()
    dataset = read(table, target="label")
    profile = DataProfile.from_json(dataset.profile.to_json())
    again = encode(table, profile, "text", dataset.targets)
    np.testing.assert_array_equal(tokens_of(again).values, tokens(dataset).values)
    np.testing.assert_array_equal(again.labels["label"], dataset.labels["label"])


def test_new_texts_come_as_lines_and_an_empty_one_is_an_unknown_word(tmp_path: Path) -> None:
    dataset = read(frame(), target="label")
    (tmp_path / "new.txt").write_text("a warm film\n\nDull !\n", encoding="utf-8")
    found = tokens_of(encode(tmp_path / "new.txt", dataset.profile, "text"))
    assert found.lengths.tolist() == [3, 1, 2]
    assert found[1].tolist() == [1]


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_a_line_feed_ends_a_text(tmp_path: Path, sign: str) -> None:
    dataset = read(frame(), target="label")
    lines = f"a warm{sign}film\r\n\nDull !\n"
    (tmp_path / "new.txt").write_bytes(lines.encode())
    found = tokens_of(encode(tmp_path / "new.txt", dataset.profile, "text"))
    assert len(found) == 3


def test_columns_that_hold_no_text_are_named() -> None:
    dataset = read(frame(stars=np.arange(36)), target="label", modality="text")
    assert any("'stars'" in note for note in dataset.notes)
    assert [column.name for column in dataset.profile.columns] == ["text"]


def test_a_saved_data_set_loads_with_its_tokens(tmp_path: Path) -> None:
    dataset = read(frame(), target="label")
    dataset.save(tmp_path / "data")
    loaded = Dataset.load(tmp_path / "data")
    assert loaded.profile == dataset.profile
    np.testing.assert_array_equal(tokens(loaded).values, tokens(dataset).values)


def _empty(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[7, "text"] = "  "
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_empty, "is empty in 1 of 36 samples, first in row 8"),
        (lambda t: t.assign(text=LABELS, more=LABELS[::-1]), "holds sentences"),
        (lambda t: t.rename(columns={"label": "lable"}), "did you mean 'lable'"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(
    change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read(change(frame()), target="label", modality="text")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"text": "a"}\n{"text": \n', "cannot be read|is not JSON"),
        ("text,label\ngrün,a\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_corrupt_file_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / ("a.jsonl" if content[:1] == b"{" else "a.csv")
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read(file, target="label", modality="text")
    assert "\n" not in str(error.value)


def test_lists_of_texts_are_recognised_and_others_are_not() -> None:
    from nas.data.samples import Arrays

    assert recognise(Arrays(["a film", "another"]))
    assert not recognise(Arrays([[1, 2], [3]]))
    assert not recognise(Arrays(np.zeros(4)))
    assert not recognise(frame())  # its columns tell


# Networks --------------------------------------------------------------------------------

LENGTH = 12
EMBEDDING = EmbeddingConfig(30)


def transformer(
    length: int = LENGTH, position: str = "learned", pooling: str = "avg", **layers: Any
) -> TextTransformer:
    config = TransformerConfig(16, 2, 4, **layers)
    return TextTransformer(EMBEDDING, length, 3, config, position, pooling)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "learned": lambda: transformer(),
    "sinusoidal, post, cls": lambda: transformer(
        position="sinusoidal", pooling="cls", post_norm=True
    ),
    "rotary, window": lambda: transformer(
        position="rotary", pooling="attention", window=3, norm="rms"
    ),
    "swiglu, max": lambda: transformer(position="none", pooling="max", activation="swiglu"),
    "lstm": lambda: TextLSTM(EMBEDDING, 3, 16, 8, 2),
    "lstm, one direction": lambda: TextLSTM(EMBEDDING, 3, 16, 8, 1, False, pooling="attention"),
    "lstm, last": lambda: TextLSTM(EMBEDDING, 3, 16, 8, 2, pooling="last"),
    "text_cnn": lambda: TextCNN(EMBEDDING, 3, 16, 8),
    "text_cnn, even": lambda: TextCNN(EMBEDDING, 3, 16, 8, (1, 2), pooling="attention"),
    "ngrams": lambda: NGramBag(30, 3, 8, longest=3, buckets=64),
    "mamba": lambda: TextMamba(EMBEDDING, LENGTH, 3, MambaConfig(16, 2)),
    "mamba, last": lambda: TextMamba(
        EMBEDDING, LENGTH, 3, MambaConfig(16, 1, states=4), pooling="last"
    ),
}


def shaken(build: Callable[[], nn.Module], by: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    network = build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return network.eval()


def batch(*lengths: int, longest: int = LENGTH) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    length = torch.tensor(lengths)
    ids = torch.randint(2, 30, (len(lengths), longest))
    return ids.masked_fill(torch.arange(longest) >= length[:, None], 0), length


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_a_text_alone_and_in_any_batch_has_the_same_logits(name: str) -> None:
    network = shaken(NETWORKS[name])
    ids, length = batch(5, 12, 1, 8)
    together = network(tokens=ids, tokens_length=length)
    assert together.std(0).min() > 1e-3  # it does read them
    for i, n in enumerate(length.tolist()):
        alone = network(tokens=ids[i : i + 1, :n], tokens_length=length[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETWORKS)
@torch.inference_mode()
def test_the_logits_are_the_head_of_the_pooled_features(name: str) -> None:
    network: Any = shaken(NETWORKS[name])
    ids, length = batch(5, 12, 1)
    x, mask = network.features(tokens=ids, tokens_length=length)
    assert x.shape[0] == 3
    assert x.shape[2] == network.width
    assert mask is None or torch.equal(mask.sum(1), length)
    pooled = network.pool(x, mask)
    if hasattr(network, "norm") and not getattr(network, "post_norm", False):
        pooled = network.norm(pooled)
    torch.testing.assert_close(network.head(pooled), network(tokens=ids, tokens_length=length))


def test_words_beyond_the_vocabulary_and_dropped_ones_are_the_unknown_word() -> None:
    embedding = TokenEmbedding(EmbeddingConfig(10, token_dropout=0.5), 4)
    ids = torch.arange(20).repeat(50, 1)
    vectors = embedding.eval()(ids)
    unknown = embedding.table.weight[1]
    assert torch.equal(vectors[:, :10], embedding.table.weight.expand(50, -1, -1))
    assert (vectors[:, 10:] == unknown).all()
    dropped = (embedding.train()(ids)[:, 2:10] == unknown).all(-1).float().mean()
    assert 0.4 < float(dropped) < 0.6


def test_a_window_is_full_attention_with_a_band_for_a_mask() -> None:
    torch.manual_seed(0)
    near, full = Attention(8, 2, window=3), Attention(8, 2)
    full.load_state_dict(near.state_dict())
    x = torch.randn(2, 11, 8)
    mask = torch.arange(11) < torch.tensor([11, 7])[:, None]
    place = torch.arange(11)
    band = (place - place[:, None]).abs() <= 3
    q, k, v = full.qkv(x).reshape(2, 11, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    scores = q @ k.transpose(-1, -2) / 2
    scores = scores.masked_fill(~(band & mask[:, None, None, :]), -1e9).softmax(-1)
    expected = full.out((scores @ v).transpose(1, 2).flatten(2))
    found = near(x, mask=mask)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1, :7], expected[1, :7])
    assert torch.isfinite(found).all()


def test_rotary_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(8).expand(10, 8), torch.randn(8).expand(10, 8)
    products = rotary(q) @ rotary(k).T
    for distance in (-3, 0, 4):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert products[0].std() > 0.1
    torch.testing.assert_close(rotary(q).norm(dim=-1), q.norm(dim=-1))


def test_sinusoidal_positions_are_those_of_the_paper() -> None:
    position = SinusoidalPosition(6)
    nn.init.ones_(position.scale)
    table = position(torch.zeros(1, 5, 6))[0]
    for place in range(5):
        for i in range(3):
            angle = place / 10_000 ** (2 * i / 6)
            expected = torch.tensor([np.sin(angle), np.cos(angle)], dtype=torch.float32)
            torch.testing.assert_close(table[place, 2 * i : 2 * i + 2], expected)


def test_a_bag_of_n_grams_is_the_sum_of_the_rows_of_all_its_runs() -> None:
    torch.manual_seed(0)
    network = NGramBag(30, 3, 8, longest=3, buckets=16).eval()
    nn.init.normal_(network.head.weight)
    texts = [[4, 7, 4, 7, 9], [5], [29, 40, 6]]  # 40 is in no row: an unknown word
    tokens = torch.zeros(3, 6, dtype=torch.int32)
    expected = []
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
        total = torch.zeros(8)
        for length in (1, 2, 3):
            for start in range(len(text) - length + 1):
                run = text[start : start + length]
                if length == 1:
                    total += network.embedding.table.weight[run[0] if run[0] < 30 else 1]
                    continue
                code = 0
                for place, word in enumerate(run):
                    code = (word + 1) if place == 0 else (code * 1_000_003 + word + 1) % (2**31 - 1)
                total += network.runs[length - 2].weight[code % 16]  # type: ignore[union-attr,index]
        expected.append(network.head(total / len(text) ** 0.5))
    lengths = torch.tensor([len(text) for text in texts])
    assert torch.allclose(network(tokens, lengths), torch.stack(expected), atol=1e-6)


def test_a_bag_of_n_grams_tells_the_order_of_words_from_two_on() -> None:
    tokens, turned = torch.tensor([[4, 5, 6]]), torch.tensor([[6, 5, 4]])
    length = torch.tensor([3])
    for longest, same in ((1, True), (2, False)):
        torch.manual_seed(0)
        network = NGramBag(30, 3, 8, longest=longest, buckets=64).eval()
        nn.init.normal_(network.head.weight)
        assert torch.allclose(network(tokens, length), network(turned, length)) == same


@pytest.mark.parametrize(("cell", "layer"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_both_directions_are_those_of_a_packed_layer(cell: str, layer: Any) -> None:
    table = TokenEmbedding(EMBEDDING, 6, std=0.1)
    network: Any = shaken(lambda: LSTM(table, 3, 6, 5, depth=2, cell=cell))
    reference = layer(6, 5, num_layers=2, bidirectional=True, batch_first=True)
    with torch.no_grad():
        for i in range(2):
            for ending, direction in (
                ("", network.forwards[i]),
                ("_reverse", network.backwards[i]),
            ):
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    ours = getattr(direction.get_submodule(cell), f"{kind}_l0")
                    getattr(reference, f"{kind}_l{i}{ending}").copy_(ours)
    ids, length = batch(5, 12, 1, 8)
    packed = pack_padded_sequence(
        network.embedding(ids), length, batch_first=True, enforce_sorted=False
    )
    out, ends = reference(packed)
    ends = ends[0] if cell == "lstm" else ends
    expected, _ = pad_packed_sequence(out, batch_first=True)
    found, mask = network.read(network.embedding(ids), length)
    torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=0)
    network.last = True
    last, _ = network.read(network.embedding(ids), length)
    torch.testing.assert_close(last[:, 0], torch.cat((ends[-2], ends[-1]), -1), atol=1e-5, rtol=0)


def scan_inputs(length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x, delta = normal(2, length, 3), normal(2, length, 3).exp()
    tensors = [x, delta, -normal(3, 4).exp(), normal(2, length, 4), normal(2, length, 4)]
    return [tensor.requires_grad_() for tensor in tensors]


def recurrence(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Gu & Dao 2023, eq. 2a with the discretisation of eq. 4, word for word."""
    h = torch.zeros(x.shape[0], *a.shape, dtype=x.dtype)
    outputs = []
    for t in range(x.shape[1]):
        h = torch.exp(delta[:, t, :, None] * a) * h
        h = h + delta[:, t, :, None] * b[:, t, None, :] * x[:, t, :, None]
        outputs.append((h * c[:, t, None, :]).sum(-1))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("length", [1, 8, 30])  # a part of a chunk, one, several
def test_the_scan_and_its_backward_are_those_of_the_recurrence(length: int) -> None:
    inputs = scan_inputs(length)
    expected, found = recurrence(*inputs), selective_scan(*inputs)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(parallel_scan(*inputs, most=length), expected)
    weights = torch.randn_like(expected)
    ours = torch.autograd.grad((found * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted)


def test_mamba_sees_nothing_of_later_tokens() -> None:
    network: Any = shaken(NETWORKS["mamba"])
    ids, length = batch(12)
    other = ids.clone()
    other[0, 8] = ids[0, 8] % 20 + 3
    with torch.inference_mode():
        (a, _), (b, _) = (network.features(tokens=i, tokens_length=length) for i in (ids, other))
    torch.testing.assert_close(a[:, :8], b[:, :8])
    assert (a[:, 8:] - b[:, 8:]).abs().amax(-1).min() > 0


# Costs -----------------------------------------------------------------------------------


def flops(build: Callable[[], nn.Module], samples: int = 3) -> int:
    ids, length = batch(*[LENGTH] * samples)
    return int(analyse(build, {"tokens": ids, "tokens_length": length})["flops"])


def test_flops_of_an_lstm_are_the_hand_count() -> None:
    dim, hidden, places = 16, 8, 3 * LENGTH
    first, second = (2 * 4 * hidden * (inputs + hidden) for inputs in (dim, 2 * hidden))
    head = 3 * 2 * (2 * hidden) * 3
    assert flops(NETWORKS["lstm"]) == 2 * places * (first + second) + head


def test_flops_of_mamba_are_the_hand_count() -> None:
    dim, inner, states, rank, kernel = 16, 32, 16, 1, 4
    places = 3 * LENGTH
    linear = 2 * (dim * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * dim)
    convolution = 2 * kernel * inner * 3 * (LENGTH + kernel - 1)
    scan = inner * (6 * states + 1)
    head = 3 * 2 * dim * 3
    assert flops(NETWORKS["mamba"]) == 2 * (places * (linear + scan) + convolution) + head


def test_flops_of_attention_through_a_window_grow_with_the_length_alone() -> None:
    def attention(length: int, window: int | None) -> int:
        inputs = {
            "tokens": torch.ones(1, length, dtype=torch.int64),
            "tokens_length": torch.tensor([length]),
        }

        def build() -> nn.Module:
            return transformer(length, window=window)

        return int(analyse(build, inputs)["flops"])

    ratio = attention(512, 16) / attention(128, 16)
    assert 3.9 < ratio < 4.1
    assert attention(512, None) / attention(128, None) > 8


# Families --------------------------------------------------------------------------------


def task(
    n: int = 5_000,
    vocabulary: int = 7_000,
    lengths: tuple[int, ...] = (2, 6, 13, 19, 27, 38, 64),
    *limits: Constraint,
) -> Task:
    profile = DataProfile(
        n, 50, 50, {"tokens": (lengths[-1],)}, lengths={"tokens": lengths}, vocabulary=vocabulary
    )
    return Task(
        "text", (Target("y", "binary", ("a", "b"), (n // 2, n // 2)),), profile, constraints=limits
    ).with_objectives()


@pytest.mark.parametrize("name", [n for n, f in load_families("text").items() if not f.load])
@pytest.mark.parametrize("limit", [10_000, 100_000])
def test_a_limit_on_parameters_still_has_its_baseline(name: str, limit: int) -> None:
    family = load_families("text")[name]
    limited = task(5_000, 7_000, (2, 6, 13, 19, 27, 38, 64), Constraint("params", "<=", limit))
    with torch.device("meta"):
        assert parameters(family.build(family.baseline(limited), limited)) <= limit


def test_windows_are_offered_where_texts_are_long() -> None:
    family = load_families("text")["transformer"]
    assert "window" not in family.baseline(task())
    long = task(5_000, 7_000, (20, 60, 150, 300, 450, 800, 1024))
    assert int(family.baseline(long)["window"]) > 0


@pytest.mark.data
def test_sst2_is_read_as_its_parts_with_few_unknown_words(data_folder: Path) -> None:
    dataset = read(data_folder / "text" / "sst2", target="label")
    assert dataset.modality == "text"
    profile = dataset.profile
    assert (profile.n_train, profile.n_val, profile.n_test) == (6920, 872, 1821)
    held_out = tokens(dataset).take(dataset.parts["test"]).values
    assert (held_out == 1).mean() < 0.1


def test_an_lstm_keeps_its_state_in_float32_under_mixed_precision() -> None:
    network = shaken(lambda: TextLSTM(EMBEDDING, 3, 16, 8, 2, pooling="last")).eval()
    seen: list[torch.dtype] = []
    for module in network.modules():
        if isinstance(module, nn.LSTM):
            module.register_forward_hook(lambda _, given, made: seen.append(made[0].dtype))
    tokens, length = torch.randint(2, 30, (2, 400)), torch.tensor([400, 300])
    with torch.no_grad():
        exact = network(tokens, length)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(tokens, length).float()
    assert set(seen) == {torch.float32}
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.02)


def test_texts_are_tokenised_some_at_a_time_with_the_same_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = pd.DataFrame(
        {"text": [f"word {i} of {i % 7}" for i in range(60)], "y": ["a", "b"] * 30}
    )
    whole = read(frame, target="y").inputs["tokens"]
    monkeypatch.setattr("nas.data.text.AT_ONCE", 7)
    parts = read(frame, target="y").inputs["tokens"]
    np.testing.assert_array_equal(parts.values, whole.values)
    np.testing.assert_array_equal(parts.offsets, whole.offsets)
