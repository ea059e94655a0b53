"""Members of a fusion that start from published weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from checkpoints import bert_folder, lite0_tensors
from safetensors.torch import load_file
from tokenizers import Tokenizer

from nas.data import Dataset, encode, read
from nas.family import load_families, pick_families, started_from
from nas.pretrained.sources import describe
from nas.space import Config
from nas.task import Task
from nas.training import frozen
from nas.training.batches import batch_inputs, part_tensors
from nas.training.proxy import Proxy

FUSIONS = ("frozen_fusion", "pretrained_fusion")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_FEATURES", str(tmp_path / "features"))


def frame(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, n)
    words = np.array(["film", "plot", "a", "the", "unlikely", "strange"])
    said: list[str | None] = [
        " ".join([*rng.choice(words, 7), "good" if k else "bad"]) for k in label
    ]
    said[3] = None
    size = rng.normal(size=n)
    return pd.DataFrame({"review": said, "size": size, "label": np.where(label, "yes", "no")})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def data(folder: Path) -> Dataset:
    return read(frame(), target="label", pretrained=str(folder), modality="multimodal")


@pytest.fixture(scope="module")
def task(folder: Path, data: Dataset) -> Task:
    made = Task("multimodal", data.targets, data.profile).with_objectives()
    return replace(made, pretrained=(describe(str(folder)),))


def proxy_of(task: Task, family: str, **given: Any) -> Proxy:
    config: Config = load_families()[family].space(task).complete(given)
    torch.manual_seed(0)
    return Proxy(family, dict(config), task).eval()


def test_fusions_with_published_weights_are_searched_only_where_there_are_some() -> None:
    assert not set(FUSIONS) & set(pick_families("multimodal"))
    assert set(FUSIONS) < set(pick_families("multimodal", pretrained=True))


def test_a_text_member_is_read_by_the_checkpoints_tokenizer(folder: Path, data: Dataset) -> None:
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_padding()
    ours = Tokenizer.from_str(data.profile.members["review"].profile.tokenizer)
    new = encode(pd.DataFrame({"review": ["good film"], "size": [1.0]}), data.profile, "multimodal")
    tokens: Any = new.inputs["review.tokens"]
    assert [ours.id_to_token(i) for i in tokens[0]] == own.encode("good film").tokens


@pytest.mark.parametrize("family", FUSIONS)
def test_a_member_has_the_checkpoints_weights_and_the_origin_is_known(
    family: str, folder: Path, task: Task
) -> None:
    proxy = proxy_of(task, family)
    network: Any = proxy.network.encoders.networks[0].network  # type: ignore[union-attr]
    expected = load_file(folder / "model.safetensors")
    found = network.state_dict()["blocks.2.up.weight"]
    assert found.equal(expected["encoder.layer.2.intermediate.dense.weight"])
    origin = started_from(family, proxy.config, task)
    assert origin is not None
    assert origin.name == "tiny"


def test_fusion_on_kept_features_is_the_whole_network(data: Dataset, task: Task) -> None:
    proxy = proxy_of(task, "frozen_fusion")
    tensors = part_tensors(data, np.arange(20), "cpu")  # one has no text
    kept, _ = frozen.frozen_tensors(proxy.network, tensors)
    assert sorted(kept) == ["review.features", "review.present", "table.numeric", "table.present"]
    again, _ = frozen.frozen_tensors(proxy.network, (kept, tensors[1]))
    assert again == kept, "they are features already"
    rows = torch.arange(20)
    with torch.inference_mode():
        whole = proxy.logits(batch_inputs(tensors[0], rows, rows))
        after = proxy.logits(batch_inputs(kept, rows, rows))
    assert torch.allclose(whole, after, atol=1e-5)


def test_a_member_runs_once_over_a_sample_whatever_is_fused(
    data: Dataset, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = part_tensors(data, data.parts["train"], "cpu")
    frozen.frozen_tensors(proxy_of(task, "frozen_fusion").network, tensors)
    other: Any = proxy_of(task, "frozen_fusion", fusion="softmax", width=8, lr=1e-2).network

    def refused(**inputs: torch.Tensor) -> Any:
        raise AssertionError("it runs again")

    monkeypatch.setattr(other.encoders.networks[0].network, "fixed", refused, raising=False)
    frozen.frozen_tensors(other, tensors)


def test_what_is_new_learns_faster_and_a_frozen_member_not_at_all(task: Task) -> None:
    adapted: Any = proxy_of(task, "pretrained_fusion", head_rate=20.0).network
    groups = adapted.parameter_groups(1e-4, 0.01)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids)) == len(list(adapted.parameters()))
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    member, body = adapted.encoders.networks[0].network, adapted.body
    assert rate[id(member.blocks[2].up.weight)] == pytest.approx(1e-4)
    assert rate[id(body[0].weight)] == pytest.approx(2e-3)
    still: Any = proxy_of(task, "frozen_fusion").network
    assert not any(p.requires_grad for p in still.encoders.networks[0].parameters())
    assert still.frozen_parts().keys() == {"review"}
    assert adapted.frozen_parts() == {}


def test_an_image_member_starts_from_an_images_checkpoint_and_a_text_from_nothing(
    tmp_path: Path,
) -> None:
    from PIL import Image

    torch.save(lite0_tensors(), tmp_path / "lite0.pth")
    rng = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
    table = frame(20).assign(photo=[f"{i}.png" for i in range(20)]).drop(columns="size")
    table.to_csv(tmp_path / "data.csv", index=False)
    weights = str(tmp_path / "lite0.pth")
    data = read(tmp_path / "data.csv", target="label", pretrained=weights, modality="multimodal")
    made = Task("multimodal", data.targets, data.profile).with_objectives()
    task = replace(made, pretrained=(describe(weights),))
    proxy = proxy_of(task, "frozen_fusion", **{"photo.frozen_image.resolution": 32})
    assert proxy.network.frozen_parts().keys() == {"photo"}  # type: ignore[operator, union-attr]
    tensors = part_tensors(data, data.parts["train"][:4], "cpu")
    kept, _ = frozen.frozen_tensors(proxy.network, tensors)
    rows = torch.arange(4)
    with torch.inference_mode():
        whole = proxy.logits(batch_inputs(tensors[0], rows, rows))
        after = proxy.logits(batch_inputs(kept, rows, rows))
    assert torch.allclose(whole, after, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
def test_a_fusion_is_trained_from_its_recipe_and_leaves_without_its_checkpoint(
    tmp_path: Path,
) -> None:
    import nas
    from nas.export.graph import write_onnx
    from nas.export.standalone import write_standalone
    from nas.export.trained import open_trained
    from nas.train import check, train

    folder = bert_folder(tmp_path / "tiny")
    table = tmp_path / "reviews.csv"
    frame(120).to_csv(table, index=False)
    run = nas.search(
        table, "label", pretrained=str(folder), families="frozen_fusion", trials=3, epochs=3,
        workers=1, out=tmp_path / "run", modality="multimodal",
    )  # fmt: skip
    assert {c.family for c in run.candidates()} == {"frozen_fusion"}
    recipe = run.export()
    again = check(recipe)
    assert again["again"] == pytest.approx(again["measured"], abs=1e-6)
    train(recipe, tmp_path / "model")
    expected = nas.load(tmp_path / "model").predict_proba(table)
    (folder / "model.safetensors").unlink()
    assert np.array_equal(nas.load(tmp_path / "model").predict_proba(table), expected)
    trained = open_trained(tmp_path / "model")
    write_standalone(trained, tmp_path / "standalone")  # repeats its predictions to 1e-5
    assert write_onnx(trained, tmp_path / "net.onnx").difference <= 1e-4
