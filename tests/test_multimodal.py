"""Manifests, what is inferred of a table, members that are missing, and fused networks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor, nn

from nas import rules
from nas.data import Dataset, encode, multimodal, read
from nas.data.multimodal import infer, kind_of_table
from nas.data.ragged import Ragged
from nas.family import load_families
from nas.models.blocks import TransformerConfig
from nas.models.fusion import CrossAttentionFusion, EarlyFusion, Encoders, LateFusion, Numbered
from nas.plan import make_task
from nas.space import Choice, Config, Space
from nas.task import Budget, Constraint, DataProfile, InputError, Modality, Task, UsageError
from nas.training.augment import augment
from nas.training.baselines import baselines
from nas.training.batches import batch_inputs, to_tensors
from nas.training.cost import parameters
from search_spaces.pretrained import checkpoints

N = 40
WORDS = {"yes": "lovely dress which fits well", "no": "awful dress that tore at once"}


def frame(n: int = N) -> pd.DataFrame:
    """A review, its stars, its shop and whether it is recommended."""
    label = np.array(["no", "yes"])[np.arange(n) % 2]
    return pd.DataFrame(
        {
            "review": [f"{WORDS[name]} number {'x' * (i % 9)}{i}" for i, name in enumerate(label)],
            "stars": 2.0 * (np.arange(n) % 2) + np.arange(n) % 3,
            "shop": np.array(["Rome", "Oslo", "Lima"])[np.arange(n) % 3],
            "label": label,
        }
    )


def with_files(folder: Path, n: int = N) -> Path:
    """A manifest of a photo, a sound, a review and a table; every sixth row lacks its photo
    and every fifth its sound."""
    rng = np.random.default_rng(0)
    table = frame(n)
    for i in range(n):
        shade = 60 + 120 * (i % 2)
        pixels = rng.integers(shade - 40, shade + 40, (12, 12)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        wave = np.sin(np.arange(800 + 10 * i) * (0.1 + 0.3 * (i % 2)))
        soundfile.write(folder / f"{i}.wav", 0.4 * wave, 8000)
    table["photo"] = [f"{i}.png" if i % 6 else "" for i in range(n)]
    table["sound"] = [f"{i}.wav" if i % 5 else "" for i in range(n)]
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_files(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="module")
def dataset(media: Path) -> Dataset:
    return read(media, target="label")


def task_of(dataset: Dataset, *limits: Constraint) -> Task:
    return make_task(dataset, budget=Budget(), device="cpu", constraints=limits)


def batch(dataset: Dataset, rows: list[int]) -> dict[str, Tensor]:
    inputs = to_tensors(dataset.inputs, np.array(rows), "cpu")
    picked = torch.arange(len(rows))
    return batch_inputs(inputs, picked, picked)


# What kind of data -----------------------------------------------------------------------


def test_reviews_beside_a_table_are_multimodal_and_say_why() -> None:
    found = kind_of_table(frame(), ["label"], {})
    assert found == ("multimodal", "of its columns are review (text)")


def test_one_text_beside_the_target_is_text_with_or_without_the_targets_name() -> None:
    table = frame()[["review", "label"]]
    for target in (["label"], None):
        found = kind_of_table(table, target, {})
        assert found is not None
        assert found[0] == "text"


def test_names_tickets_dates_and_ids_leave_a_table_tabular() -> None:
    n = 60
    table = pd.DataFrame(
        {
            "name": [f"Braund, Mr. Owen {chr(65 + i % 26)}harris" for i in range(n)],
            "ticket": [f"A/5 2{i:04}" for i in range(n)],
            "day": [f"2024-01-{1 + i % 28:02} 10:00" for i in range(n)],
            "city": [["New York City by the large sea", "Rio"][i % 2] for i in range(n)],
            "label": np.arange(n) % 2,
        }
    )
    found = kind_of_table(table, ["label"], {})
    assert found is not None
    assert found[0] == "tabular"


def test_a_title_is_a_text_only_beside_a_longer_text() -> None:
    titles = [f"Very nice {'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}" for i in range(N)]
    table = frame().assign(title=titles).drop(columns="label")
    assert infer(table, {})["title"] == "text"
    assert infer(table.drop(columns="review"), {})["title"] == "numeric"


def test_a_table_that_lists_sounds_belongs_to_audio_and_a_named_modality_stands(
    media: Path,
) -> None:
    table = pd.read_csv(media).dropna()
    listing = table[["sound", "label"]].rename(columns={"sound": "file_name"})
    found = kind_of_table(listing, ["label"], {})
    assert found is not None
    assert found[0] == "audio"
    assert read(frame(), target="label", modality="tabular").modality == "tabular"


def test_a_folder_with_one_manifest_beside_its_files_is_multimodal(media: Path) -> None:
    found = kind_of_table(media.parent, ["label"], {})
    assert found is not None
    assert found[0] == "multimodal"


# The reader ------------------------------------------------------------------------------


def test_each_column_of_files_is_a_member_and_all_other_columns_one_table(
    dataset: Dataset,
) -> None:
    members = dataset.profile.members
    kinds = {name: member.modality for name, member in members.items()}
    assert kinds == {
        "review": "text", "table": "tabular", "photo": "images", "sound": "audio"
    }  # fmt: skip
    assert dataset.inputs["photo.image"].shape == (N, 1, 12, 12)  # type: ignore[union-attr]
    assert members["sound"].profile.sample_rate == 8000
    assert members["table"].profile.inputs == {"numeric": (1,), "categorical": (1,)}
    assert [c.name for c in members["table"].profile.columns] == ["stars", "shop"]
    assert any("photo (images)" in note for note in dataset.notes)
    assert any("photo is missing in 7 of 40 samples" in note for note in dataset.notes)


def test_what_is_missing_is_zeros_of_length_one_and_what_is_there_is_unchanged(
    dataset: Dataset, media: Path
) -> None:
    present = np.asarray(dataset.inputs["photo.present"])
    np.testing.assert_array_equal(present, (np.arange(N) % 6 > 0).astype(np.float32))
    pixels = np.asarray(dataset.inputs["photo.image"])
    assert not pixels[0].any()
    np.testing.assert_array_equal(pixels[7, 0], np.asarray(Image.open(media.parent / "7.png")))
    waves = dataset.inputs["sound.wave"]
    assert isinstance(waves, Ragged)
    assert waves.lengths[[0, 5, 7]].tolist() == [1, 1, 870]
    assert not waves[5].any()
    expected, _ = soundfile.read(media.parent / "7.wav", dtype="int16")
    np.testing.assert_array_equal(waves[7], expected)


def test_members_learn_from_the_training_rows_that_have_them(dataset: Dataset) -> None:
    train = dataset.parts["train"]
    own = train[train % 6 > 0]
    profile = dataset.profile.members["photo"].profile
    assert profile.n_train == len(own)
    pixels = np.asarray(dataset.inputs["photo.image"])[own] / 255
    assert profile.channel_mean == pytest.approx((pixels.mean(),), abs=1e-6)


def test_several_texts_are_one_member_and_a_name_that_is_taken_is_another(
    tmp_path: Path,
) -> None:
    table = frame()
    table["more"] = [f"a second text of row {'abcde'[i % 5]}{'y' * i}" for i in range(N)]
    Image.new("L", (12, 12)).save(tmp_path / "a.png")
    table["text"] = "a.png"
    table.to_csv(tmp_path / "data.csv", index=False)
    profile = read(tmp_path / "data.csv", target="label").profile
    assert [*profile.members] == ["text_", "table", "text"]
    assert [c.name for c in profile.members["text_"].profile.columns] == ["review", "more"]


def test_given_types_overrule_what_columns_look_like() -> None:
    types = {"review": "ignore", "stars": "categorical", "shop": "text"}
    dataset = read(frame(), target="label", columns=types)
    assert [*dataset.profile.members] == ["table", "shop"]
    (column,) = dataset.profile.members["table"].profile.columns
    assert column.kind == "categorical"


def test_graphs_in_a_frame_are_a_member_and_point_clouds_in_files_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = frame()[["stars", "label"]]
    graphs = []
    for i in range(N):
        ring = np.stack([np.arange(4 + i % 3), np.roll(np.arange(4 + i % 3), 1)])
        x = rng.normal(i % 2, 1.0, (4 + i % 3, 2)).astype(np.float32)
        graphs.append(SimpleNamespace(x=x, edge_index=ring))
        np.save(tmp_path / f"{i}.npy", rng.normal(size=(20 + i, 3)).astype(np.float32))
    table["molecule"] = [graph if i % 4 else None for i, graph in enumerate(graphs)]
    table["cloud"] = [f"{tmp_path}/{i}.npy" if i % 7 else "" for i in range(N)]
    dataset = read(table, target="label")
    kinds = {name: member.modality for name, member in dataset.profile.members.items()}
    assert kinds == {"table": "tabular", "molecule": "graphs", "cloud": "pointclouds"}
    found = batch(dataset, [0, 1, 2])
    assert found["molecule.nodes_length"].tolist() == [1, 5, 6]
    # The second and third ring come after the one node that stands for a missing graph.
    assert sorted(found["molecule.edges"].unique().tolist()) == list(range(1, 12))
    assert found["cloud.points_length"].tolist() == [1, 21, 22]
    again = encode(table[1:2], dataset.profile, "multimodal").inputs["molecule.nodes"]
    assert isinstance(again, Ragged)
    torch.testing.assert_close(torch.from_numpy(again[0]), found["molecule.nodes"][1:6])


def molecule(i: int) -> dict[str, np.ndarray]:
    """A ring of four to six atoms of three kinds, with a number for each atom and bond."""
    start = np.arange(4 + i % 3)
    return {
        "edges": np.stack([start, np.roll(start, -1)], axis=1),
        "x": start[:, None] + np.array([0.5 * (i % 2), 0.25 * i]),
        "node_tag": start % 3,
        "edge_feat": start[:, None] * 0.5,
    }


def with_molecules(folder: Path, n: int = N) -> Path:
    """A manifest of molecules and a number; every fourth row lacks its molecule. The files
    hold labels of their own, which are not the table's."""
    for i in range(n):
        np.savez(folder / f"{i}.npz", **molecule(i), y=np.arange(9))
    table = frame(n)[["stars", "label"]]
    table["molecule"] = [f"{i}.npz" if i % 4 else " " for i in range(n)]
    table.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def test_files_of_graphs_are_read_as_the_same_graphs_in_one_archive(tmp_path: Path) -> None:
    manifest = with_molecules(tmp_path)
    dataset = read(manifest, target="label")
    kinds = {name: member.modality for name, member in dataset.profile.members.items()}
    assert kinds == {"table": "tabular", "molecule": "graphs"}
    assert dataset.notes[0] == "multimodal: of its columns are molecule (graph)"
    assert any("molecule is missing in 10 of 40 samples" in note for note in dataset.notes)
    rows = [i for i in range(N) if i % 4]
    parts = [molecule(i) for i in rows]
    sizes = [len(part["x"]) for part in parts]
    named = {"x": "node_feat", "node_tag": "node_tag", "edges": "edges", "edge_feat": "edge_feat"}
    arrays = {new: np.concatenate([part[old] for part in parts]) for old, new in named.items()}
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    np.savez(tmp_path / "all.npz", **arrays, node_ptr=ptr, edge_ptr=ptr, y=np.arange(30) % 2)
    expected = read(tmp_path / "all.npz").inputs
    for name in ("nodes", "edges", "edge_features"):
        found, reference = dataset.inputs[f"molecule.{name}"], expected[name]
        assert isinstance(found, Ragged)
        assert isinstance(reference, Ragged)
        for place, row in enumerate(rows):
            np.testing.assert_array_equal(found[row], reference[place])
    absent = dataset.inputs["molecule.nodes"][4]  # type: ignore[index]
    np.testing.assert_array_equal(absent, np.zeros((1, 5)))


def test_new_molecules_are_coded_as_in_training_alone_without_bonds_or_absent(
    tmp_path: Path,
) -> None:
    manifest = with_molecules(tmp_path)
    dataset = read(manifest, target="label")
    np.savez(tmp_path / "atom.npz", x=np.ones((1, 2)), node_tag=[2], edges=[])
    new = pd.read_csv(manifest)[:3].drop(columns="label")
    for names, lengths in (
        (["5.npz", "", "6.npz"], [6, 1, 4]),
        (["", "atom.npz", ""], [1, 1, 1]),
        (["", "", ""], [1, 1, 1]),
    ):
        new.assign(molecule=names).to_csv(tmp_path / "new.csv", index=False)
        inputs = encode(tmp_path / "new.csv", dataset.profile, "multimodal").inputs
        assert [*inputs] == [*dataset.inputs]
        nodes, present = inputs["molecule.nodes"], inputs["molecule.present"]
        assert isinstance(nodes, Ragged)
        assert nodes.lengths.tolist() == lengths
        assert np.asarray(present).tolist() == [float(name != "") for name in names]
        for row, name in enumerate(names):
            if name in ("5.npz", "6.npz"):
                known = dataset.inputs["molecule.nodes"][int(name[0])]  # type: ignore[index]
                np.testing.assert_array_equal(nodes[row], known)
        if names[1]:
            np.testing.assert_array_equal(nodes[1], [[1, 1, 0, 0, 1]])


def test_an_archive_is_a_graph_only_if_it_holds_edges(tmp_path: Path) -> None:
    manifest = with_molecules(tmp_path)
    table = pd.read_csv(manifest).drop(columns="label")
    assert infer(table, {}, tmp_path)["molecule"] == "graph"
    (tmp_path / "1.npz").write_bytes(b"torn")  # which is an error, not taken for a name
    assert infer(table, {}, tmp_path)["molecule"] == "graph"
    for i in range(N):
        np.savez(tmp_path / f"{i}.npz", embedding=np.zeros(3))
    assert infer(table, {}, tmp_path)["molecule"] == "numeric"
    listing = table.rename(columns={"molecule": "file"})
    assert kind_of_table(listing[["file"]].assign(label=1), ["label"], {}) == (
        "multimodal", "of its columns are file (graph)"
    )  # fmt: skip


def test_all_faulty_graphs_of_a_column_are_named_at_once(tmp_path: Path) -> None:
    manifest = with_molecules(tmp_path)
    good = molecule(1)
    (tmp_path / "1.npz").write_bytes(b"")
    (tmp_path / "2.npz").write_bytes((tmp_path / "3.npz").read_bytes()[:200])
    np.savez(tmp_path / "3.npz", x=np.zeros((3, 2)))
    np.savez(tmp_path / "5.npz", **good | {"edges": np.array([[0, 7]]), "edge_feat": [[1.0]]})
    np.savez(tmp_path / "6.npz", **good, node_ptr=[0, 5])
    np.savez(tmp_path / "7.npz", **good | {"x": np.full((5, 2), np.inf)})
    np.savez(tmp_path / "9.npz", edges=[])
    with pytest.raises(InputError) as raised:
        read(manifest, target="label")
    shown = str(raised.value)
    assert shown.startswith("column 'molecule': 7 of 30 graphs cannot be read: ")
    for reason in (
        "1.npz (empty)", "2.npz (cannot be read as .npz: it is not an archive of numpy.savez)",
        "3.npz (holds x; expected edges (E, 2))",
        "5.npz (edge 0 joins the nodes 0 and 7", "6.npz (holds node_ptr",
    ):  # fmt: skip
        assert reason in shown
    assert "\n" not in shown
    for i in (1, 2, 3, 5, 6, 7, 9):
        np.savez(tmp_path / f"{i}.npz", **molecule(i))
    np.savez(tmp_path / "7.npz", **good | {"x": np.zeros((5, 3))})
    with pytest.raises(InputError, match=r"7.npz \(3 numbers and 1 categories a node, most have 2"):
        read(manifest, target="label")


@pytest.mark.parametrize("name", ["m.tsv", "m.jsonl", "m.parquet"])
def test_manifests_of_every_form_read_alike(name: str, tmp_path: Path) -> None:
    expected, path = read(frame(), target="label"), tmp_path / name
    match path.suffix:
        case ".tsv":
            frame().to_csv(path, sep="\t", index=False)
        case ".jsonl":
            frame().to_json(path, orient="records", lines=True)
        case _:
            frame().to_parquet(path)
    assert read(path, target="label").profile == expected.profile


def test_a_folder_with_train_and_test_tables_keeps_its_parts(media: Path, tmp_path: Path) -> None:
    table = pd.read_csv(media)
    for name in ("photo", "sound"):
        table[name] = str(media.parent) + "/" + table[name]
    table[:30].to_csv(tmp_path / "train.csv", index=False)
    table[30:].to_csv(tmp_path / "test.csv", index=False)
    dataset = read(tmp_path, target="label")
    assert dataset.modality == "multimodal"
    assert dataset.parts["test"].tolist() == list(range(30, 40))


def test_the_column_that_divides_the_data_is_no_input() -> None:
    table = frame().assign(who=np.arange(N) // 4)
    dataset = read(table, target="label", split="group=who")
    assert [c.name for c in dataset.profile.members["table"].profile.columns] == ["stars", "shop"]


def test_a_data_set_and_its_profile_survive_the_disk(dataset: Dataset, tmp_path: Path) -> None:
    dataset.save(tmp_path / "data")
    again = Dataset.load(tmp_path / "data")
    assert again.profile == dataset.profile == DataProfile.from_json(dataset.profile.to_json())
    assert {*again.inputs} == {*dataset.inputs}
    loaded = batch(again, [0, 3, 5])
    assert all(torch.equal(v, loaded[name]) for name, v in batch(dataset, [0, 3, 5]).items())


def test_new_samples_are_coded_as_in_training_whoever_else_is_there(
    dataset: Dataset, media: Path
) -> None:
    new = pd.read_csv(media, keep_default_na=False)[8:13].drop(columns="label")
    new.to_csv(media.parent / "new.csv", index=False)
    encoded = encode(media.parent / "new.csv", dataset.profile, "multimodal")
    inputs = to_tensors(encoded.inputs, slice(0, 5), "cpu")
    picked = torch.arange(5)
    found = batch_inputs(inputs, picked, picked)
    assert all(torch.equal(v, found[k]) for k, v in batch(dataset, [*range(8, 13)]).items())


def test_new_samples_may_lack_a_member_altogether_but_not_its_column(
    dataset: Dataset, media: Path
) -> None:
    new = pd.read_csv(media)[:4].assign(photo=None, sound="", review=None)
    new.to_csv(media.parent / "without.csv", index=False)
    encoded = encode(media.parent / "without.csv", dataset.profile, "multimodal")
    for member in ("photo", "sound", "review"):
        assert not np.asarray(encoded.inputs[f"{member}.present"]).any()
    assert np.asarray(encoded.inputs["table.present"]).all()
    new.drop(columns="photo").to_csv(media.parent / "absent.csv", index=False)
    with pytest.raises(InputError, match="lacks the columns 'photo'"):
        encode(media.parent / "absent.csv", dataset.profile, "multimodal")


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda t: t, {"columns": {"photo": "picture"}}, UsageError, "types are image, audio"),
        (lambda t: t, {"columns": {"foto": "image"}}, UsageError, "did you mean 'photo'"),
        (lambda t: t, {"columns": {"label": "text"}}, UsageError, "no input column 'label'"),
        (lambda t: t.assign(photo="x.png"), {}, InputError, "names 40 files that do not exist"),
        (
            lambda t: t.assign(photo="bad.png"), {}, InputError,
            "column 'photo': 40 of 40 images cannot be read",
        ),
        (
            lambda t: t.assign(photo=None), {"columns": {"photo": "image"}}, InputError,
            "'photo' is empty in every training sample",
        ),
        (
            lambda t: t, {"columns": {"shop": "numeric"}}, InputError,
            "column 'shop' holds no number",
        ),
        (
            lambda t: t, {"columns": {"shop": "text"}, "modality": "tabular"}, UsageError,
            "cannot be of the type 'text' in tabular data",
        ),
    ],
)  # fmt: skip
def test_a_wrong_manifest_or_type_is_one_clear_line(
    change: object, options: dict[str, object], error: type, message: str, media: Path
) -> None:
    (media.parent / "bad.png").write_bytes(b"no image")
    path = media.parent / "wrong.csv"
    change(pd.read_csv(media)).to_csv(path, index=False)  # type: ignore[operator]
    with pytest.raises(error, match=message) as raised:
        read(path, target="label", **options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


# Networks --------------------------------------------------------------------------------


class _Stub(nn.Module):
    """Puts out its input as one token; its head is not to be used."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.head = nn.Linear(width, 2)

    def features(self, x: Tensor) -> tuple[Tensor, None]:
        return x.unsqueeze(1), None


def fused(kind: str, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    encoders = Encoders({"a": _Stub(4), "b.c": _Stub(6)}, dropout)
    layers = TransformerConfig(16, 2, 2)
    match kind:
        case "early":
            return EarlyFusion(encoders, 3, layers)
        case "cross":
            return CrossAttentionFusion(encoders, 3, layers)
    return LateFusion(encoders, 3, width=16, fusion=kind)


KINDS = ("concat", "softmax", "sigmoid", "early", "cross")


def pair(rows: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.x": torch.randn(rows, 4, generator=generator),
        "a.present": torch.ones(rows),
        "b.c.x": torch.randn(rows, 6, generator=generator),
        "b.c.present": torch.ones(rows),
    }


def stirred(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_content_of_a_missing_member_never_reaches_the_output(kind: str) -> None:
    network = stirred(fused(kind))
    inputs = pair(5) | {"b.c.present": torch.tensor([1.0, 0, 1, 0, 0])}
    other = inputs | {"b.c.x": torch.randn(5, 6)}
    one, two = network(**inputs), network(**other)
    torch.testing.assert_close(one[[1, 3, 4]], two[[1, 3, 4]])
    assert (one[[0, 2]] - two[[0, 2]]).abs().min() > 1e-4


class _Normalised(_Stub):
    """Its input after a BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.norm = nn.BatchNorm1d(width)

    def features(self, x: Tensor) -> tuple[Tensor, None]:
        return self.norm(x).unsqueeze(1), None


@pytest.mark.parametrize("absent", [[], [0, 1, 4], [0, 1, 2, 5], [0, 1, 2, 3, 5]])
def test_the_statistics_of_batch_norm_are_of_samples_that_have_the_member(
    absent: list[int],
) -> None:
    encoders = Encoders({"a": _Normalised(4), "b.c": _Stub(6)}).train()
    inputs = pair(6)
    inputs["a.x"][absent] = inputs["a.present"][absent] = 0
    has_it = [row for row in range(6) if row not in absent]
    (tokens, other), _ = encoders.tokens(inputs)
    content = inputs["a.x"][has_it]
    torch.testing.assert_close(encoders.networks[0].norm.running_mean, 0.1 * content.mean(0))
    expected = (content - content.mean(0)) / (content.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(tokens[has_it, 0], expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(other[:, 0], inputs["b.c.x"])
    blank = encoders.tokens(inputs | {"a.x": torch.zeros(6, 4), "a.present": torch.zeros(6)})
    assert torch.isfinite(blank[0][0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_without_any_member_has_finite_logits(kind: str) -> None:
    inputs = pair(3) | {"a.present": torch.zeros(3), "b.c.present": torch.zeros(3)}
    logits = stirred(fused(kind))(**inputs)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[0], logits[1])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient_and_the_encoders_own_heads_are_gone(kind: str) -> None:
    network = stirred(fused(kind)).train()
    network(**pair(4)).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    assert not any("networks" in name for name, _ in network.named_parameters())


def test_modality_dropout_leaves_out_members_but_never_all_of_a_sample() -> None:
    encoders = fused("concat", dropout=0.5).encoders
    assert isinstance(encoders, Encoders)
    inputs = pair(4_000) | {"b.c.present": (torch.arange(4_000) % 2).float()}
    kept = encoders.present(inputs)
    assert kept.any(1).all()
    assert not (kept[0::2, 1]).any()  # what is missing stays so
    # Of two members one is kept alone with 1/4, either way; with 1/4 both stay by the rule.
    assert kept[1::2].float().mean(0).numpy() == pytest.approx([0.75, 0.75], abs=0.05)
    assert encoders.eval().present(inputs)[:, 0].all()


def test_softmax_gates_are_a_weighted_mean_of_those_that_are_there() -> None:
    network = stirred(fused("softmax"))
    assert isinstance(network, LateFusion)
    inputs = pair(3) | {"b.c.present": torch.tensor([1.0, 0, 1])}
    values, scores = [], []
    for i, name in enumerate(("a.x", "b.c.x")):
        x = network.norms[i](inputs[name])
        values.append(network.maps[i](x).tanh())
        scores.append(network.gates[i](x))
    both = torch.cat(scores, 1).softmax(1)
    expected = both[:, :1] * values[0] + both[:, 1:] * values[1]
    expected[1] = values[0][1]
    torch.testing.assert_close(network(**inputs), network.head(network.body(expected)))


def test_numbered_inputs_give_the_same_logits() -> None:
    network, inputs = stirred(fused("concat")), pair(2)
    numbered = {f"input_{i}": value for i, value in enumerate(inputs.values())}
    torch.testing.assert_close(Numbered(network, inputs)(**numbered), network(**inputs))


# Families --------------------------------------------------------------------------------

FAMILIES = load_families("multimodal")


@pytest.mark.parametrize("name", FAMILIES)
def test_of_four_members_all_learn_and_a_sample_is_the_same_alone_and_in_company(
    name: str, dataset: Dataset
) -> None:
    task, family = task_of(dataset), FAMILIES[name]
    torch.manual_seed(0)
    network = stirred(family.build(family.baseline(task), task))
    rows = [0, 1, 5, 9]  # without photo and sound, with all, without sound, with all
    together = network(**batch(dataset, rows))
    alone = torch.cat([network(**batch(dataset, [row])) for row in rows])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    network.train()(**batch(dataset, rows)).square().sum().backward()
    learning = {n: p for n, p in network.named_parameters() if p.requires_grad}
    assert [n for n, p in learning.items() if p.grad is None] == []


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if not f.load])
def test_a_limit_on_parameters_holds_for_the_baseline(name: str, dataset: Dataset) -> None:
    task = task_of(dataset, Constraint("params", "<=", 40_000))
    with torch.device("meta"):
        assert parameters(FAMILIES[name].build(FAMILIES[name].baseline(task), task)) <= 40_000


def nested(config: Config, prefix: str) -> Config:
    return {k.removeprefix(prefix): v for k, v in config.items() if k.startswith(prefix)}


def test_an_encoders_own_parameters_are_those_of_its_family_without_training(
    dataset: Dataset,
) -> None:
    task = task_of(dataset)
    space = FAMILIES["late_fusion"].space(task)
    config = space.baseline()
    own = nested(config, "photo.resnet.")
    assert {"stages", "width1", "augment", "pooling"} <= own.keys()
    assert not {"lr", "weight_decay", "batch_size", "label_smoothing"} & own.keys()
    assert {rule for p in space.params for rule in p.why} <= set(rules.RULES)
    assert Space.from_json(space.to_json()) == space


def test_a_search_begins_with_each_member_alone_and_its_network_holds_no_other(
    dataset: Dataset,
) -> None:
    task = task_of(dataset)
    family = FAMILIES["late_fusion"]
    space = family.space(task)
    starts = space.starts()
    alone = ["only review", "only table", "only photo", "only sound"]
    assert [config["members"] for config in starts] == ["all", *alone]
    for config in starts:
        space.check(config)
    only = starts[3]
    assert not [name for name in only if name.startswith(("review.", "sound.", "table."))]
    network = stirred(family.build(only, task))
    inputs = batch(dataset, [1, 2, 3])
    changed = inputs | {"sound.wave": inputs["sound.wave"] + 100}
    torch.testing.assert_close(network(**inputs), network(**changed))


def test_a_space_without_marked_choices_starts_with_its_baseline_alone() -> None:
    space = Space((Choice("a", (1, 2), default=1),))
    assert space.starts() == [{"a": 1}]
    marked = Space((Choice("a", (1, 2), default=1, each=True),))
    assert marked.starts() == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("modality", "architecture", "dim", "rate", "faster"),
    [
        ("text", "bert", 384, 1e-4, 20.0),
        ("text", "bert", 64, 3e-4, 10.0),
        ("audio", "wav2vec2", 768, 5e-5, 20.0),
        ("images", "vit", 768, 5e-5, 20.0),
        ("images", "resnet", 2048, 1e-3, 3.0),
    ],
)
def test_a_pretrained_member_learns_at_the_rate_of_its_width_and_what_is_new_at_3e_3_at_most(
    modality: Modality, architecture: str, dim: int, rate: float, faster: float, dataset: Dataset
) -> None:
    task = task_of(dataset)
    (known,) = checkpoints(task, modality).values()
    known = replace(known, architecture=architecture, sizes=known.sizes | {"dim": dim})
    space = FAMILIES["pretrained_fusion"].space(replace(task, pretrained=(known,)))
    found = [space[name].default for name in ("lr", "head_rate")]
    assert found == pytest.approx([rate, faster])


def test_augmentation_of_a_member_follows_its_encoders_configuration(dataset: Dataset) -> None:
    inputs = batch(dataset, [1, 2, 3, 4])
    torch.manual_seed(0)
    kept = augment(inputs, {"photo.encoder": "resnet", "photo.vit.augment": "affine"})
    assert torch.equal(kept["photo.image"], inputs["photo.image"])
    moved = augment(inputs, {"photo.encoder": "resnet", "photo.resnet.augment": "affine"})
    assert not torch.equal(moved["photo.image"].byte(), inputs["photo.image"])


def test_simple_models_are_each_members_own_and_one_of_all_features() -> None:
    dataset = read(frame(60), target="label")
    found = {b["name"]: b for b in baselines(dataset, task_of(dataset))}
    assert [*found] == [
        "review: TF-IDF + logistic",
        "table: logistic regression",
        "table: HistGradientBoosting",
        "all features + logistic",
    ]
    assert not [b["error"] for b in found.values() if "error" in b]
    assert found["all features + logistic"]["metrics"]["accuracy"] == 1.0


# Real data -------------------------------------------------------------------------------

DATA = os.environ.get("NAS_DATA", "")


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="NAS_DATA does not name the folder of the data sets")
@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("multimodal/womens_reviews", "Recommended IND", "multimodal"),
        ("tabular/titanic", "Survived", "tabular"),
        ("tabular/adult", "income", "tabular"),
        ("tabular/california_housing", "median_house_value", "tabular"),
        ("text/sst2", "label", "text"),
        ("text/trec", "label", "text"),
        ("audio/fsdd", "label", "audio"),
    ],
)
def test_the_kind_of_real_tables_follows_from_their_columns(
    path: str, target: str, expected: str
) -> None:
    dataset = read(Path(DATA) / path, target=target)
    assert dataset.modality == expected
    if path.endswith("womens_reviews"):
        about = json.loads((Path(DATA) / path / "column_info.json").read_text())
        text = dataset.profile.members["text"].profile
        assert [c.name for c in text.columns] == about["text_cols"]
        assert replace(text).vocabulary > 1_000


def test_an_array_that_all_samples_have_is_not_copied() -> None:
    image = np.zeros((4, 1, 2, 2), np.uint8)
    found = multimodal._spread("photo", {"image": image}, np.arange(4), 4)
    assert found["photo.image"] is image
    found = multimodal._spread("photo", {"image": image[:2] + 1}, np.array([0, 3]), 4)
    spread = found["photo.image"]
    assert isinstance(spread, np.ndarray)
    assert spread[:, 0, 0, 0].tolist() == [1, 0, 0, 1]
