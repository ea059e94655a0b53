"""Networks from published weights: what is read of a checkpoint, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import (
    LITE0,
    bert_folder,
    bert_tensors,
    lite0_tensors,
    resnet_tensors,
    vit_folder,
    vit_tensors,
)
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from nas import kept
from nas.candidate import Candidate, State
from nas.data import Dataset, encode, read
from nas.family import load_families, pick_families, published_weights
from nas.pretrained import images, sources, tokenizer, weights
from nas.pretrained.sources import describe, usable
from nas.space import Config
from nas.task import Fidelity, InputError, Target, Task, UsageError
from nas.training import frozen
from nas.training.batches import part_tensors, row_inputs
from nas.training.calibration import part_logits
from nas.training.evaluator import Evaluator
from nas.training.metrics import score
from nas.training.proxy import Proxy, build_network


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_FEATURES", str(tmp_path / "features"))


def texts(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, n)
    words = np.array(["film", "plot", "a", "the", "unlikely", "strange"])
    said = [
        " ".join([*rng.choice(words, rng.integers(2, 9)), "good" if k else "bad"]) for k in label
    ]
    return pd.DataFrame({"text": said, "label": np.where(label, "yes", "no")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return read(texts(), target="label", pretrained=str(folder), modality="text")


@pytest.fixture(scope="module")
def task(folder: Path, data: Dataset) -> Task:
    made = Task("text", data.targets, data.profile).with_objectives()
    return replace(made, pretrained=(describe(str(folder)),))


def config_of(task: Task, family: str = "pretrained_text", **given: Any) -> Config:
    return load_families()[family].space(task).complete(given)


# -- what a checkpoint is --------------------------------------------------------------------------


def test_a_folder_says_what_it_is_and_where_it_comes_from(folder: Path) -> None:
    found = describe(str(folder))
    assert (found.name, found.modality, found.architecture) == ("tiny", "text", "bert")
    assert found.sizes["blocks"] == 3
    assert (found.licence, found.trained_on) == ("mit", "made-up")
    assert found.sha256 == sources.sha256(folder / "model.safetensors")


def test_sentence_transformers_say_how_they_pool(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "st")
    kind = "sentence_transformers.models"
    modules = [
        {"path": "", "type": f"{kind}.Transformer"},
        {"path": "1", "type": f"{kind}.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1").mkdir()
    (folder / "1" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert describe(str(folder)).sizes["pooling"] == "cls"


class Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched"),)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("remote code", "none is run"),
        ("truncated", "no whole safetensors file"),
        ("outside", "leads outside"),
        ("architecture", "'mpnet' is not known here"),
        ("no tokenizer", "has no tokenizer.json"),
        ("no weights", "has no weights"),
        ("no config", "config.json is missing"),
        ("not JSON", "cannot be read"),
    ],
)
def test_what_is_not_safe_or_not_whole_is_refused_in_one_line(
    change: str, says: str, tmp_path: Path
) -> None:
    folder = bert_folder(tmp_path / "tiny")
    file = folder / "model.safetensors"
    match change:
        case "remote code":
            bert_folder(folder, auto_map={"AutoModel": "modeling.Own"})
        case "truncated":
            file.write_bytes(file.read_bytes()[:-100])
        case "outside":
            (folder / "modules.json").write_text('[{"path": "../other", "type": "Transformer"}]')
        case "architecture":
            bert_folder(folder, model_type="mpnet")
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
        case "no weights":
            file.unlink()
        case "no config":
            (folder / "config.json").unlink()
        case "not JSON":
            (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=says) as refused:
        describe(str(folder))
    assert "\n" not in str(refused.value)


def test_a_pickle_of_more_than_tensors_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights.pth"
    torch.save({"a": Evil()}, file)
    with pytest.raises(InputError, match="more than tensors") as refused:
        describe(str(file))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "touched").exists()


def test_a_hub_that_does_not_answer_is_a_note_and_the_others_remain(
    folder: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, notes = usable(["somebody/absent", str(folder)], "text", data.profile)
    assert [c.name for c in found] == ["tiny"]
    assert len(notes) == 1
    assert "somebody/absent" in notes[0]
    assert "goes on without it" in notes[0]
    assert "\n" not in notes[0]


@pytest.mark.parametrize(
    ("name", "datasets", "place", "warned"),
    [
        ("distilbert-base-finetuned-sst-2-english", "", "text/sst2/train.csv", "sst2"),
        ("tiny", "[glue/sst2, other]", "text/sst2", "sst2"),
        ("tiny", "[stanfordnlp/IMDB]", "reviews/imdb.csv", "imdb"),
        ("text-base", "[text]", "text/base", ""),
        ("tiny", "[glue]", "text/sst2", ""),
        ("tiny", "[glue]", None, ""),
    ],
)
def test_a_checkpoint_that_may_have_seen_the_data_is_a_warning(
    name: str, datasets: str, place: str | None, warned: str, tmp_path: Path, task: Task
) -> None:
    folder = bert_folder(tmp_path / name)
    (folder / "README.md").write_text(f"---\ndatasets: {datasets or []}\n---\n")
    found, notes = usable([str(folder)], "text", task.profile, place)
    assert len(found) == 1
    assert len(notes) == bool(warned)
    assert all(f"names {warned}," in note and "too good" in note for note in notes)


def test_paths_are_found_from_elsewhere_and_ids_stay(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert sources.absolute(["tiny", "somebody/absent"]) == (str(folder), "somebody/absent")
    assert sources.absolute(None) is None


def test_a_checkpoint_of_another_modality_is_left_out(folder: Path, data: Dataset) -> None:
    found, notes = usable([str(folder)], "images", replace(data.profile, members={}))
    assert found == ()
    assert "reads text" in notes[0]


def test_families_of_weights_are_searched_only_where_there_are_some() -> None:
    assert "pretrained_text" not in pick_families("text")
    assert "pretrained_text" in pick_families("text", pretrained=True)
    with pytest.raises(UsageError, match="--pretrained"):
        pick_families("text", ("pretrained_text",))


@pytest.mark.parametrize("modality", ["text", "images"])
def test_what_never_paid_is_searched_only_where_it_is_named(modality: str) -> None:
    own = {"text": "text", "images": "image"}[modality]
    offered = pick_families(modality, pretrained=True)
    assert {f"frozen_{own}", f"pretrained_{own}"} < offered.keys()
    assert list(offered)[:2] == [f"frozen_{own}", f"pretrained_{own}"], "the first that are trained"
    assert f"partial_{own}" not in offered
    assert list(pick_families(modality, (f"partial_{own}",), True)) == [f"partial_{own}"]


def test_the_default_space_trains_all_layers_and_the_named_one_a_part(task: Task) -> None:
    families = load_families("text")
    spaces = {name: families[f"{name}_text"].space(task) for name in ("pretrained", "partial")}
    assert "adapt" not in spaces["pretrained"].baseline()
    assert [start["adapt"] for start in spaces["partial"].starts()[:2]] == ["top", "lora"]


@pytest.mark.parametrize(("n_train", "trained", "statistics"), [
    (999, 8, ("kept",)), (1_000, 15, ("kept", "moving")),
])  # fmt: skip
def test_with_few_samples_more_of_a_network_stays(
    n_train: int, trained: int, statistics: tuple[str, ...], image_task: Task
) -> None:
    made = replace(image_task, profile=replace(image_task.profile, n_train=n_train))
    space = load_families("images")["partial_image"].space(made)
    blocks: Any = space["trained"]
    assert (blocks.high, space["statistics"].options) == (trained, statistics)  # type: ignore[union-attr]


# -- tokens ----------------------------------------------------------------------------------------


def test_tokens_are_the_checkpoints_and_the_most_frequent_come_first(
    folder: Path, data: Dataset
) -> None:
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_padding()
    ours = Tokenizer.from_str(data.profile.tokenizer)
    for text in texts()["text"]:
        assert ours.encode(text).tokens == own.encode(text).tokens
    assert [ours.token_to_id(t) for t in ("[PAD]", "[UNK]", "[SEP]")] == [0, 1, 2]
    assert ours.token_to_id("[MASK]") >= data.profile.vocabulary, "it is in no text"
    assert ours.token_to_id("film") < data.profile.vocabulary
    new = encode(pd.DataFrame({"text": ["good film"]}), data.profile, "text")
    assert [ours.id_to_token(i) for i in new.inputs["tokens"][0]] == own.encode("good film").tokens  # type: ignore[index]


def test_a_tokenizer_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    other = bert_folder(tmp_path / "other", words=("x", "y"))
    read_with_other = tokenizer.of_checkpoint(other, ["x y"]).to_str()
    with pytest.raises(InputError, match="another tokenizer"):
        tokenizer.rows(folder, read_with_other)


# -- weights ---------------------------------------------------------------------------------------


def reference(tensors: dict[str, torch.Tensor], ids: torch.Tensor, blocks: int) -> torch.Tensor:
    """BERT of one text, written down from the paper, with the names of transformers."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (16,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-12)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    x = tensors["embeddings.word_embeddings.weight"][ids]
    x = x + tensors["embeddings.token_type_embeddings.weight"][0]
    x = norm(
        x + tensors["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm"
    )
    for i in range(blocks):
        layer = f"encoder.layer.{i}"
        query, key, value = (
            linear(x, f"{layer}.attention.self.{name}").view(len(ids), 2, 8).transpose(0, 1)
            for name in ("query", "key", "value")
        )
        seen = (query @ key.transpose(1, 2) / 8**0.5).softmax(-1) @ value
        after = linear(
            seen.transpose(0, 1).reshape(len(ids), 16), f"{layer}.attention.output.dense"
        )
        x = norm(x + after, f"{layer}.attention.output.LayerNorm")
        hidden = F.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_network_is_the_checkpoints_up_to_its_blocks(
    folder: Path, data: Dataset, task: Task, blocks: int
) -> None:
    network: Any = build_network(
        "pretrained_text", config_of(task, blocks=blocks), task, True
    ).eval()
    inputs = row_inputs(data, data.parts["train"][:5])
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_padding()
    tensors = load_file(folder / "model.safetensors")
    with torch.inference_mode():
        found, mask = network.features(**inputs)
    for row, text in enumerate(texts()["text"][data.parts["train"][:5]]):
        ids = torch.tensor(own.encode(text).ids)
        assert int(mask[row].sum()) == len(ids)
        expected = reference(tensors, ids, blocks)
        assert torch.allclose(found[row, : len(ids)], expected, atol=1e-5)


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "tiny")
    data = read(texts(), target="label", pretrained=str(folder), modality="text")
    task = Task("text", data.targets, data.profile).with_objectives()
    task = replace(task, pretrained=(describe(str(folder)),))
    save_file(bert_tensors(json.loads((folder / "config.json").read_text()), seed=9),
              folder / "model.safetensors")  # fmt: skip
    with pytest.raises(InputError, match="have changed"):
        build_network("pretrained_text", config_of(task), task, True)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="are missing"):
        build_network("pretrained_text", config_of(task), task, True)


def test_what_was_loaded_is_accounted_for(folder: Path, task: Task) -> None:
    network = build_network("pretrained_text", config_of(task, blocks=2), task)
    found = weights.load_text(network, task.pretrained[0], task.profile.tokenizer)
    assert found.fresh == ("head.weight", "head.bias")
    assert any("layer.2" in name or "blocks.2" in name for name in found.unused)
    assert len(found.loaded) + len(found.fresh) == len(network.state_dict())


# -- what is trained -------------------------------------------------------------------------------


def trained(network: nn.Module) -> set[str]:
    return {n.split(".")[0] + "." + n.split(".")[1] for n, p in network.named_parameters()
            if p.requires_grad}  # fmt: skip


def test_layers_are_trained_from_the_top(task: Task) -> None:
    top = build_network("partial_text", config_of(task, "partial_text", trained=1), task)
    assert trained(top) == {"blocks.2", "head.weight", "head.bias"}
    low_rank = build_network("partial_text", config_of(task, "partial_text", adapt="lora"), task)
    names = {n for n, p in low_rank.named_parameters() if p.requires_grad}
    assert all(n.endswith((".down", ".up")) or n.startswith("head") for n in names)
    head = build_network("frozen_text", config_of(task, "frozen_text"), task)
    assert trained(head) == {"head.weight", "head.bias"}


def test_rates_fall_towards_the_input(task: Task) -> None:
    config = config_of(task, layer_decay=0.5, lr=1e-4, head_rate=8.0)
    network: Any = build_network("pretrained_text", config, task)
    rates = sorted({group["lr"] for group in network.parameter_groups(1e-4, 0.01)})
    assert rates == pytest.approx([1.25e-5, 2.5e-5, 5e-5, 1e-4, 8e-4])
    groups = network.parameter_groups(1e-4, 0.01)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(network.parameters()))


def test_parts_that_stay_are_never_random(data: Dataset, task: Task) -> None:
    network: Any = build_network("frozen_text", config_of(task, "frozen_text"), task, True).train()
    inputs = row_inputs(data, data.parts["train"][:4])
    assert torch.equal(network.fixed(**inputs)[0], network.fixed(**inputs)[0])


# -- kept features ---------------------------------------------------------------------------------


def test_a_head_on_kept_features_is_the_whole_network(data: Dataset, task: Task) -> None:
    proxy = Proxy("frozen_text", dict(config_of(task, "frozen_text")), task).eval()
    tensors = part_tensors(data, data.parts["train"], "cpu")
    kept, _ = frozen.frozen_tensors(proxy.network, tensors)
    rows = torch.arange(7)
    from nas.training.batches import batch_inputs

    with torch.inference_mode():
        whole = proxy.logits(batch_inputs(tensors[0], rows, rows))
        head = proxy.logits(batch_inputs(kept, rows, rows))
    assert torch.allclose(whole, head, atol=1e-5)


def count_passes(network: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    fixed = network.fixed

    def counted(**inputs: torch.Tensor) -> Any:
        seen.append(len(inputs["tokens"]))
        return fixed(**inputs)

    monkeypatch.setattr(network, "fixed", counted, raising=False)
    return seen


def test_an_encoder_runs_once_over_a_sample(
    data: Dataset, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def network(**given: Any) -> Any:
        return build_network("frozen_text", config_of(task, "frozen_text", **given), task, True)

    some = part_tensors(data, data.parts["train"][:20], "cpu")
    more = part_tensors(data, data.parts["train"], "cpu")
    first = network()
    seen = count_passes(first, monkeypatch)
    frozen.frozen_tensors(first, some)
    assert 0 < sum(seen) <= 20
    done = sum(seen)
    # Another head needs no pass; other samples need their own; fewer blocks need all again.
    other = network(head="mlp", pooling="attention", lr=1e-3)
    seen = count_passes(other, monkeypatch)
    frozen.frozen_tensors(other, some)
    assert seen == []
    frozen.frozen_tensors(other, more)
    assert 0 < sum(seen) <= len(data.parts["train"]) - done
    # Tokens that no text has, and places that none reaches, change nothing.
    for same in (network(vocabulary="seen"), network(length=99)):
        seen = count_passes(same, monkeypatch)
        frozen.frozen_tensors(same, some)
        assert seen == []
    cut = network(length=4)
    seen = count_passes(cut, monkeypatch)
    frozen.frozen_tensors(cut, some)
    assert 0 < sum(seen) < done, "the short ones are known"
    shorter = network(blocks=1)
    seen = count_passes(shorter, monkeypatch)
    frozen.frozen_tensors(shorter, some)
    assert sum(seen) == done


def test_a_token_that_is_another_word_in_other_data_has_features_of_its_own(folder: Path) -> None:
    tokens, features = [], []
    for often, rarely in (("not", "un"), ("un", "not")):
        said = ["film plot a the good bad"] * 40 + [f"film {often}"] * 20 + [f"film {rarely}"] * 8
        frame = pd.DataFrame({"text": said, "label": ["yes", "no"] * 34})
        found = read(frame, target="label", pretrained=str(folder), modality="text")
        made = Task("text", found.targets, found.profile).with_objectives()
        made = replace(made, pretrained=(describe(str(folder)),))
        network = build_network("frozen_text", config_of(made, "frozen_text"), made, True)
        given = part_tensors(found, np.array([50]), "cpu")
        tokens.append(given[0]["tokens"].values)  # type: ignore[union-attr]
        features.append(frozen.frozen_tensors(network, given)[0]["features"].values)  # type: ignore[union-attr]
    assert torch.equal(*tokens)
    assert not torch.allclose(*features, atol=1e-3)


def store(place: Path) -> frozen.Store:
    return frozen.Store(place, width=3)


def entries(n: int, seed: int = 0) -> dict[bytes, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {bytes([seed + 1, i + 1]) * 8: rng.normal(size=(i + 1, 3)).astype("<f4")
            for i in range(n)}  # fmt: skip


def test_kept_features_survive_writers_that_are_killed(tmp_path: Path) -> None:
    first = entries(4)
    store(tmp_path / "a").add(first)
    for name, torn in (("values.bin", b"\1" * 7), ("index.bin", b"\2" * 5)):
        with (tmp_path / "a" / name).open("ab") as file:
            file.write(torn)
    second = entries(3, seed=5)
    store(tmp_path / "a").add(second)
    found = dict(store(tmp_path / "a").read([*first, *second]))
    assert found.keys() == first.keys() | second.keys()
    assert all(np.array_equal(found[d], v) for d, v in (first | second).items())


def test_features_of_a_file_that_was_cut_are_computed_again(tmp_path: Path) -> None:
    all_of_them = entries(4)
    store(tmp_path / "a").add(all_of_them)
    values = tmp_path / "a" / "values.bin"
    values.write_bytes(values.read_bytes()[:-4])
    found = dict(store(tmp_path / "a").read(list(all_of_them)))
    assert len(found) == 3
    assert all(np.array_equal(found[d], all_of_them[d]) for d in found)


def test_a_disk_that_is_full_costs_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    kept = store(tmp_path / "a")
    monkeypatch.setattr(frozen.Store, "_append", full)
    kept.add(entries(2))
    assert not kept.writes
    assert dict(kept.read(list(entries(2)))) == {}


def test_features_are_bounded_and_the_oldest_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    for i, name in enumerate("abc"):
        store(tmp_path / name).add(entries(20, seed=i))
        os.utime(tmp_path / name, (i, i))
    size = sum(f.stat().st_size for f in (tmp_path / "a").iterdir())
    monkeypatch.setenv("NAS_FEATURES_MB", str(3.2 * size / 2**20))
    store(tmp_path / "d").add(entries(20, seed=7))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c", "d"]
    monkeypatch.setenv("NAS_FEATURES_MB", str(0.2 * size / 2**20))
    store(tmp_path / "e").add(entries(20, seed=8))
    assert dict(store(tmp_path / "e").read(list(entries(20, seed=8)))) == {}
    # What has no room by itself takes that of no other.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c", "d", "e"]


def test_a_folder_that_another_worker_removes_meanwhile_costs_no_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path / "other").add(entries(3))
    (tmp_path / "other" / "gone").symlink_to(tmp_path / "nowhere")  # listed, and not there

    def gone(self: Path) -> Any:
        if self.name == "other":
            raise FileNotFoundError(self)
        return list_of(self)

    list_of = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", gone)
    kept, given = store(tmp_path / "own"), entries(2, seed=4)
    kept.add(given)
    assert dict(kept.read(list(given))).keys() == given.keys()


def test_a_limit_of_features_that_is_no_number_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_FEATURES_MB", "4GB")
    with pytest.raises(InputError, match="NAS_FEATURES_MB is a number of MiB"):
        frozen.limit_bytes()


def test_the_tokens_of_a_text_are_let_go_where_its_pooling_learns_nothing(
    data: Dataset, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    network: Any = build_network("frozen_text", config_of(task, "frozen_text"), task, True)
    assert network.pool is None or network.pool.kind != "attention"
    given = part_tensors(data, data.parts["train"][:8], "cpu")[0]
    held: list[int] = []
    whole = torch.cat

    def seen(parts: Any, *rest: Any) -> Any:
        if isinstance(parts, list) and parts and parts[0].shape[-1] == network.width:
            held.extend(part.untyped_storage().nbytes() for part in parts)
        return whole(parts, *rest)

    monkeypatch.setattr(frozen.torch, "cat", seen)
    frozen.features_of(network, given)
    assert held
    assert set(held) == {4 * network.width}


def _write_many(place: str, seed: int) -> None:
    for i in range(20):
        store(Path(place)).add({d: v for k, (d, v) in enumerate(entries(20, 0).items())
                                if (k * (seed + 1) + i) % 3 == 0})  # fmt: skip


def test_two_workers_at_once_leave_the_features_right(tmp_path: Path) -> None:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(str(tmp_path / "a"), s)) for s in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    expected = entries(20)
    found = dict(store(tmp_path / "a").read(list(expected)))
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[d], v) for d, v in expected.items())
    index = (tmp_path / "a" / "index.bin").stat().st_size
    assert index == 20 * 32, "each sample is kept once"


# -- what is said of them --------------------------------------------------------------------------


def test_the_report_says_what_weights_there_are_and_what_they_are_worth(task: Task) -> None:
    def made(number: int, family: str, value: float) -> Candidate:
        return Candidate(number, family, {}, 0, state=State.COMPLETE, seconds=10.0,
                         metrics={"accuracy": value}, started=10.0 * number)  # fmt: skip

    candidates = [made(0, "lstm", 0.7), made(1, "frozen_text", 0.8), made(2, "lstm", 0.75)]
    origin, compared = published_weights(task, candidates)
    assert "tiny (bert" in origin
    assert "licence: mit; trained on: made-up" in origin
    assert "10 s of workers: accuracy 0.8 ±" in compared
    assert "(candidate 1, frozen_text) from published weights, 0.7 ±" in compared
    assert published_weights(task, candidates[:1]) == (origin,)
    assert published_weights(replace(task, pretrained=()), candidates) == ()


# -- images ----------------------------------------------------------------------------------------


def lite0(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """EfficientNet-Lite0's last map, written down from the paper and TensorFlow's padding."""

    def unit(x: torch.Tensor, conv: str, norm: str, stride: int = 1) -> torch.Tensor:
        weight = tensors[f"{conv}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        values = (tensors[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight"))
        return F.batch_norm(x, *values, tensors[f"{norm}.bias"], eps=1e-3)

    x = unit(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    number = 0
    for repeats, _, stride, expand, _ in LITE0:
        for i in range(repeats):
            block, y = f"_blocks.{number}", x
            if expand > 1:
                y = unit(y, f"{block}._expand_conv", f"{block}._bn0").clamp(0, 6)
            own = stride if i == 0 else 1
            y = unit(y, f"{block}._depthwise_conv", f"{block}._bn1", own).clamp(0, 6)
            y = unit(y, f"{block}._project_conv", f"{block}._bn2")
            x = x + y if x.shape == y.shape else y
            number += 1
    return unit(x, "_conv_head", "_bn1").clamp(0, 6)


@pytest.fixture(scope="module")
def image_task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    file = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(lite0_tensors(), file)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32)).astype(np.uint8)
    data = read((pixels, np.array(["a", "b"])[np.arange(40) % 2]), pretrained=str(file))
    made = Task("images", data.targets, data.profile).with_objectives()
    return replace(made, pretrained=(describe(str(file)),))


@pytest.mark.parametrize("side", [32, 45, 224])
def test_efficientnet_lite0_is_that_of_its_paper(image_task: Task, side: int) -> None:
    profile = replace(image_task.profile, inputs={"image": (3, side, side)})
    task = replace(image_task, profile=profile)
    config = config_of(task, "frozen_image") | {"resolution": side}
    # In float64: random weights enlarge the rounding of 50 layers.
    network: Any = build_network("frozen_image", config, task, True).eval().double()
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    with torch.inference_mode():
        found, _ = network.features(images)
        tensors = {name: value.double() for name, value in lite0_tensors().items()}
        pixels = network.input(images)
        expected = lite0(tensors, pixels)
    assert torch.allclose(pixels, (images.double() - 127) / 128, atol=1e-6)
    assert torch.allclose(found, expected.flatten(2).transpose(1, 2), atol=1e-5)


def lite0_folder(folder: Path, architecture: str) -> Path:
    """As timm saves it."""
    folder.mkdir()
    about = {"mean": [127 / 255] * 3, "std": [128 / 255] * 3, "input_size": [3, 224, 224]}
    config = {"architecture": architecture, "pretrained_cfg": about}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(lite0_tensors(timm=True), folder / "model.safetensors")
    return folder


def test_a_network_whose_weights_have_the_names_and_shapes_of_another_is_refused(
    tmp_path: Path,
) -> None:
    folder = lite0_folder(tmp_path / "lite0", "efficientnet_lite0")
    with pytest.raises(InputError, match="'efficientnet_lite0' is not known here"):
        describe(str(folder))
    with pytest.raises(InputError, match="give the folder with its config"):
        describe(str(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("name", "architecture", "known"),
    [
        ("resnet18", "resnet", True), ("tv_resnet50", "resnet", True),
        ("resnetaa50", "resnet", False), ("resnetblur50", "resnet", False),
        ("vit_base_patch16_224", "vit", True), ("deit_tiny_patch16_224", "vit", True),
        ("vit_base_patch16_224_in21k", "vit", True), ("vit_large_patch14_224", "vit", True),
        ("vit_huge_patch14_224", "vit", False), ("vit_base_patch16_224", "resnet", False),
    ],
)  # fmt: skip
def test_what_computes_the_same_is_known_by_its_name(
    name: str, architecture: str, known: bool
) -> None:
    assert images.is_known(name, architecture) == known


def test_rows_of_an_embedding_for_which_there_are_no_tokens_are_left_out(
    folder: Path, data: Dataset, task: Task, tmp_path: Path
) -> None:
    place = tmp_path / "padded"
    shutil.copytree(folder, place)
    tensors = load_file(place / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    words = len(tensors[name])
    tensors[name] = torch.cat([tensors[name], torch.zeros(9, tensors[name].shape[1])])
    save_file(tensors, place / "model.safetensors")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"vocab_size": words + 9}))
    found = describe(str(place))
    assert found.sizes["vocabulary"] == words
    by_it = replace(task, pretrained=(replace(found, name=task.pretrained[0].name),))
    config = config_of(task, "frozen_text")
    assert config["vocabulary"] == "all"
    one, other = (build_network("frozen_text", config, each, True) for each in (task, by_it))
    weights.load_text(other, found, data.profile.tokenizer)
    assert one.embedding.words.weight.equal(other.embedding.words.weight)  # type: ignore[union-attr,operator,arg-type]


def test_tokens_that_the_network_has_no_words_for_are_one_line(
    folder: Path, data: Dataset, task: Task, tmp_path: Path
) -> None:
    place = tmp_path / "short"
    shutil.copytree(folder, place)
    tensors = load_file(place / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    tensors[name] = tensors[name][:-2].clone()
    save_file(tensors, place / "model.safetensors")
    network = build_network("frozen_text", config_of(task, "frozen_text"), task, True)
    with pytest.raises(InputError, match=r"tokens, and its tokenizer knows .* together"):
        weights.load_text(network, describe(str(place)), data.profile.tokenizer)


def test_a_network_of_a_hub_is_called_by_its_name_there(tmp_path: Path) -> None:
    cached = tmp_path / "models--org--bert-finetuned-sst-2" / "snapshots" / "1110a243"
    found = describe(str(bert_folder(cached)))
    assert found.name == "bert-finetuned-sst-2"
    assert sources._seen(found, "text/sst2/train.csv") == "sst2"


def test_names_of_timm_give_the_same_network(image_task: Task, tmp_path: Path) -> None:
    folder = lite0_folder(tmp_path / "lite0", "tf_efficientnet_lite0")
    config = config_of(image_task, "frozen_image")
    by_timm = replace(image_task, pretrained=(describe(str(folder)),))
    one, other = (build_network("frozen_image", config, t, True) for t in (image_task, by_timm))
    for name, value in one.state_dict().items():
        if not name.startswith("head."):
            assert value.equal(other.state_dict()[name]), name


def test_images_of_one_channel_are_seen_as_grey(image_task: Task) -> None:
    config = config_of(image_task, "frozen_image")
    grey_profile = replace(image_task.profile, inputs={"image": (1, 32, 32)})
    grey = replace(image_task, profile=grey_profile)
    networks: list[Any] = [
        build_network("frozen_image", config, t, True).eval() for t in (image_task, grey)
    ]
    one = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        expected, _ = networks[0].features(one.expand(-1, 3, -1, -1))
        found, _ = networks[1].features(one)
    assert torch.allclose(found, expected, atol=1e-5)


def test_statistics_are_kept_unless_they_are_to_move(image_task: Task) -> None:
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    moved = {}
    for statistics in ("kept", "moving"):
        config = config_of(image_task, "partial_image", trained=2) | {"statistics": statistics}
        network = build_network("partial_image", config, image_task, True).train()
        before = {n: v.clone() for n, v in network.state_dict().items() if "running_mean" in n}
        network(image=images)
        moved[statistics] = {n.split(".")[1] for n, v in before.items()
                             if not v.equal(network.state_dict()[n])}  # fmt: skip
    assert moved == {"kept": set(), "moving": {"14", "15", "norm"}}


def resnet(tensors: dict[str, torch.Tensor], x: torch.Tensor, blocks: int) -> torch.Tensor:
    """ResNet's map after some blocks, written down from the paper."""

    def unit(x: torch.Tensor, conv: str, norm: str, stride: int = 1) -> torch.Tensor:
        weight = tensors[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        values = (tensors[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight"))
        return F.batch_norm(x, *values, tensors[f"{norm}.bias"], eps=1e-5)

    x = F.max_pool2d(unit(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    names = sorted({name.rsplit(".conv")[0] for name in tensors if ".conv1" in name})
    for name in names[:blocks]:
        stride = 2 if name.endswith(".0") and name != "layer1.0" else 1
        three = f"{name}.conv3.weight" in tensors
        y, strides = x, (1, stride, 1) if three else (stride, 1)
        for k, own in enumerate(strides, 1):
            y = unit(y, f"{name}.conv{k}", f"{name}.bn{k}", own)
            y = y.relu() if k < len(strides) else y
        if f"{name}.downsample.0.weight" in tensors:
            x = unit(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        x = (x + y).relu()
    return x


@pytest.mark.parametrize(("bottleneck", "blocks"), [(False, 5), (True, 5), (True, 2)])
def test_resnet_is_that_of_its_paper(
    bottleneck: bool, blocks: int, image_task: Task, tmp_path: Path
) -> None:
    tensors = resnet_tensors((1, 2, 1, 1), bottleneck=bottleneck)
    file = tmp_path / "resnet.safetensors"
    save_file(tensors, file)
    found = describe(str(file))
    assert (found.architecture, found.sizes["depths"]) == ("resnet", "1,2,1,1")
    task = replace(image_task, pretrained=(found,))
    config = config_of(task, "frozen_image") | {"blocks": blocks, "resolution": 64}
    network: Any = build_network("frozen_image", config, task).eval()
    loaded = weights.load_image(network, found)
    assert set(loaded.fresh) == {"head.weight", "head.bias", "input.scale", "input.shift"}
    assert {"fc.weight", "fc.bias"} <= set(loaded.unused)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        features, _ = network.features(images)
        expected = resnet(tensors, network.input(images), blocks)
    assert torch.allclose(features, expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    grey = network.input(torch.full((1, 3, 32, 32), 255.0))[0, :, 0, 0]
    assert torch.allclose(grey, (1 - mean) / std, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("conv1.weight", (32, 3, 3, 3)), ("layer1.0.conv2.weight", (128, 4, 3, 3))],
    ids=["another stem", "groups"],
)
def test_a_network_that_is_like_resnet_is_refused(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = resnet_tensors((1, 1, 1, 1), bottleneck=True) | {name: torch.zeros(shape)}
    save_file(tensors, tmp_path / "resnext.safetensors")
    with pytest.raises(InputError, match="no architecture that is known here"):
        describe(str(tmp_path / "resnext.safetensors"))


def test_a_folder_of_timm_says_what_is_done_to_an_image(tmp_path: Path) -> None:
    about = {"architecture": "resnet18", "pretrained_cfg": {
        "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "input_size": [3, 176, 176]}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\ndatasets: [imagenet-1k]\n---\n")
    save_file(resnet_tensors((1, 1, 1, 1)), tmp_path / "model.safetensors")
    found = describe(str(tmp_path))
    assert (found.sizes["mean"], found.sizes["resolution"]) == ("0.5,0.4,0.3", 176)
    assert (found.licence, found.trained_on) == ("apache-2.0", "imagenet-1k")
    assert found.name == tmp_path.name


def vit(tensors: dict[str, torch.Tensor], x: torch.Tensor, blocks: int) -> torch.Tensor:
    """ViT's tokens of maps (B, 3, 32, 32), written down from the paper; one head of 64."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (64,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    x = F.conv2d(x, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], 16)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([tensors["cls_token"].expand(len(x), -1, -1), x], 1) + tensors["pos_embed"]
    for i in range(blocks):
        query, key, value = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv").chunk(3, 2)
        seen = (query @ key.transpose(1, 2) / 8).softmax(-1) @ value
        x = x + linear(seen, f"blocks.{i}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(hidden, f"blocks.{i}.mlp.fc2")
    return norm(x, "norm")


def test_beside_a_transformer_networks_of_convolutions_learn_at_its_rate(
    image_task: Task, tmp_path: Path
) -> None:
    (lite0,) = image_task.pretrained
    small = describe(str(vit_folder(tmp_path / "vit")))
    large = replace(small, name="large", sizes=small.sizes | {"dim": 768})
    for known, rate in (((lite0,), 1e-3), ((lite0, small), 3e-4), ((small, lite0, large), 5e-5)):
        space = load_families()["pretrained_image"].space(replace(image_task, pretrained=known))
        assert space["lr"].default == pytest.approx(rate)


def test_images_are_moved_by_default_unless_a_number_is_predicted(image_task: Task) -> None:
    assert config_of(image_task, "pretrained_image")["augment"] == "affine"
    place = Target("x", "regression", mean=16.0, std=4.0)
    for targets in ((place,), (*image_task.targets, place)):
        task = replace(image_task, targets=targets)
        assert config_of(task, "pretrained_image")["augment"] == "none"


@pytest.mark.parametrize("blocks", [1, 2])
def test_vit_is_that_of_its_paper(blocks: int, image_task: Task, tmp_path: Path) -> None:
    found = describe(str(vit_folder(tmp_path / "vit")))
    task = replace(image_task, pretrained=(found,))
    config = config_of(task, "frozen_image") | {"blocks": blocks, "resolution": 32}
    assert config["pooling"] == "cls"
    network: Any = build_network("frozen_image", config, task, True).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        features, _ = network.features(images)
        expected = vit(vit_tensors(), images / 127.5 - 1, blocks)
        assert torch.allclose(features, expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(network.vector(features), features[:, 0])
        kept = network.fixed(images)
        assert torch.allclose(network.from_fixed(*kept), network(images), atol=1e-5)


def test_positions_of_a_vit_follow_the_shape_of_the_images(
    image_task: Task, tmp_path: Path
) -> None:
    task = replace(image_task, pretrained=(describe(str(vit_folder(tmp_path / "vit"))),))
    task = replace(task, profile=replace(task.profile, inputs={"image": (1, 32, 20)}))
    for resolution in (32, 64):
        config = config_of(task, "pretrained_image", pooling="avg") | {"resolution": resolution}
        network: Any = build_network("pretrained_image", config, task, True)
        rows, columns = network.stem.grid
        assert (rows, columns) == (resolution // 16, -(-network.input.size[1] // 16))
        logits = network(torch.zeros(2, 1, 32, 20))
        assert logits.shape == (2, task.outputs)
        table = network.stem.position[0, 1:].detach()
        assert float(table.abs().max()) <= 1.3 * float(vit_tensors()["pos_embed"].abs().max())


def test_a_vit_without_its_config_or_with_other_parts_is_refused(tmp_path: Path) -> None:
    folder = vit_folder(tmp_path / "vit")
    with pytest.raises(InputError, match="give the folder with its config"):
        describe(str(folder / "model.safetensors"))
    (folder / "config.json").write_text('{"architecture": "vit_small_patch16_224"}')
    with pytest.raises(InputError, match="mean or std"):
        describe(str(folder))
    save_file(vit_tensors() | {"blocks.0.ls1.gamma": torch.ones(64)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="no architecture that is known here"):
        describe(str(folder))


# -- the whole way ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "given"),
    [("frozen_text", {}), ("partial_text", {"trained": 1}), ("partial_text", {"adapt": "lora"})],
)
@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
def test_a_search_keeps_what_it_has_trained_and_leaves_the_rest_to_the_checkpoint(
    family: str, given: dict[str, Any], task: Task, data: Dataset, tmp_path: Path
) -> None:
    task = replace(task, fidelity=Fidelity(epochs=2, folds=1))
    asked = Candidate(3, family, config_of(task, family, **given), seed=1, epochs=2)
    (tmp_path / kept.FOLDER).mkdir()
    work = Evaluator(task, data, deterministic=True, run=str(tmp_path))
    end = Candidate.from_dict(work.evaluate(asked.to_dict(), lambda *_: ""))
    file = kept.place(tmp_path, 3)
    proxy = Proxy(family, dict(asked.config), task).eval()
    still = {n for n, p in proxy.network.named_parameters() if not p.requires_grad}
    assert load_file(file).keys() == proxy.network.state_dict().keys() - still
    assert still
    kept.restore(file, asked, proxy.network, published=True, repair="train it")
    rows = data.parts["val"]
    truth = {"label": np.asarray(data.labels["label"])[rows]}
    again = score(task, truth, proxy.predictions(part_logits(proxy, data, rows)))
    assert again == pytest.approx({name: end.metrics[name] for name in again}, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pretrained_text", "frozen_text"])
@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
def test_a_winner_is_trained_from_its_recipe_and_leaves_without_its_checkpoint(
    family: str, tmp_path: Path
) -> None:
    import nas
    from nas.export.graph import write_onnx
    from nas.export.standalone import write_standalone
    from nas.export.trained import open_trained
    from nas.train import check, train

    folder = bert_folder(tmp_path / "tiny")
    table = tmp_path / "texts.csv"
    texts(120).to_csv(table, index=False)
    run = nas.search(
        table, "label", pretrained=str(folder), families=family, trials=3, epochs=3, workers=1,
        out=tmp_path / "run", modality="text",
    )  # fmt: skip
    assert {c.family for c in run.candidates()} == {family}
    recipe = run.export()
    assert str(folder / "model.safetensors") in recipe.read_text()
    assert describe(str(folder)).sha256 in recipe.read_text()
    again = check(recipe)
    assert again["again"] == pytest.approx(again["measured"], abs=1e-6)
    train(recipe, tmp_path / "model")
    expected = nas.load(tmp_path / "model").predict_proba(table)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="are missing"):
        train(recipe, tmp_path / "other")
    assert np.array_equal(nas.load(tmp_path / "model").predict_proba(table), expected)
    trained = open_trained(tmp_path / "model")
    assert "starts from" in trained.task.pretrained[0].origin.lower()
    made = write_standalone(trained, tmp_path / "standalone")  # repeats its predictions to 1e-5
    assert "Starts from the published weights tiny" in (made / "README.md").read_text()
    assert write_onnx(trained, tmp_path / "net.onnx").difference <= 1e-4
