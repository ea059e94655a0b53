"""A trained network in Python, in pieces, and behind a server: one answer in all of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner
from PIL import Image

import nas
from nas import model as models
from nas.cli import cli
from nas.data import Dataset, read
from nas.data.csv_files import read_csv
from nas.data.csv_pieces import read_csv_pieces
from nas.family import load_families
from nas.model import Model
from nas.task import InputError, Modality, Task, UsageError
from nas.testing import example_datasets
from nas.training.proxy import Proxy

pytestmark = pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning")
EARLIER = Path(__file__).parent / "earlier_format"
TOKEN = "a-token"


@pytest.fixture(scope="module")
def model() -> Model:
    return nas.load(EARLIER / "model")


@pytest.fixture(scope="module")
def wine() -> pd.DataFrame:
    return pd.read_csv(EARLIER / "wine.csv")


def test_labels_and_probabilities_agree(model: Model, wine: pd.DataFrame) -> None:
    labels, probabilities = model.predict(wine), model.predict_proba(wine)
    assert probabilities.shape == (len(wine), len(model.classes))
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert labels.tolist() == [model.classes[k] for k in probabilities.argmax(axis=1)]


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        nas.load(tmp_path)


def test_pieces_give_what_the_whole_gives(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, scores = model.frame(EARLIER / "wine.csv")
    monkeypatch.setattr(models, "PIECE_ROWS", 50)
    pieces = list(model.stream(EARLIER / "wine.csv"))
    assert [len(piece.frame) for piece in pieces] == [50, 50, 50, 28]
    found = pd.concat([piece.frame for piece in pieces], ignore_index=True)
    pd.testing.assert_frame_equal(found, whole, atol=1e-6)
    total = models.Scores(model.task)
    for piece in pieces:
        total.add(piece)
    assert total.result() == pytest.approx(scores)
    out = tmp_path / "out.csv"
    done = CliRunner().invoke(
        cli, ["predict", str(EARLIER / "model"), str(EARLIER / "wine.csv"), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert pd.read_csv(out)["row"].tolist() == list(range(1, len(whole) + 1))


def test_pieces_of_a_csv_file_are_its_rows(tmp_path: Path) -> None:
    text = "sep=;\na;b;c\n" + "".join(f"{i},5;x{i};0{i}\n" for i in range(10))
    (tmp_path / "t.csv").write_text(text)
    whole = read_csv(tmp_path / "t.csv", None, ("",), {"c"})
    pieces = list(read_csv_pieces(tmp_path / "t.csv", 4, {"c"}, ("",)))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    joined = pd.concat(pieces, ignore_index=True)
    assert joined.astype(str).equals(whole.astype(str))
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(InputError, match="line 3: 1 values"):
        list(read_csv_pieces(tmp_path / "bad.csv", 1, ()))


def test_files_have_the_same_names_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(20):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), 10 * i, np.uint8)).save(
            tmp_path / "ab"[i % 2] / f"{i}.png"
        )
    model = untrained(read(tmp_path))
    whole, scores = model.frame(tmp_path)
    monkeypatch.setattr(models, "PIECE_FILES", 8)
    pieces = list(model.stream(tmp_path))
    assert [len(piece.frame) for piece in pieces] == [8, 8, 4]
    found = pd.concat([piece.frame for piece in pieces], ignore_index=True)
    pd.testing.assert_frame_equal(found, whole, atol=1e-6)
    assert scores


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_one_image_of_colour_is_not_taken_for_many_grey_ones(axes: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 10, 3)).astype(np.uint8)
    model = untrained(read((pixels, np.arange(20) % 2), modality="images"))
    image = pixels[0].transpose(axes)
    with pytest.raises(InputError, match=r"grey images .* give one image as x\[None\]"):
        model.predict(image)
    assert len(model.predict(image[None])) == 1
    grey = pixels[:3, :, :, 0]
    assert len(model.predict(grey[..., None])) == 3
    assert len(model.predict(pixels[:5, :, :, 0])) == 5


def rows(wine: pd.DataFrame, count: int) -> list[dict[str, Any]]:
    return json.loads(wine.head(count).to_json(orient="records"))


def test_rows_by_themselves_give_what_a_frame_gives(model: Model, wine: pd.DataFrame) -> None:
    given = rows(wine, 20)
    given[3] |= {name: None for name in given[3] if name != "cultivar"}
    fast = model.answer(given)
    slow = json.loads(model.frame(pd.DataFrame(given))[0].to_json(orient="records"))
    for one, other in zip(fast, slow, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert value == (pytest.approx(other[name], abs=1e-5) if "[" in name else other[name])


@pytest.fixture(scope="module")
def client(model: Model) -> Any:
    testclient = pytest.importorskip("starlette.testclient")
    from nas.serve import app

    found = testclient.TestClient(app(model, TOKEN), base_url="http://127.0.0.1")
    found.headers["authorization"] = f"Bearer {TOKEN}"
    return found


def test_a_server_answers_like_the_model(client: Any, model: Model, wine: pd.DataFrame) -> None:
    given = rows(wine, 5)
    answer = client.post("/predict", json={"rows": given})
    assert answer.status_code == 200
    assert [row["cultivar"] for row in answer.json()["predictions"]] == (
        model.predict(wine.head(5)).tolist()
    )
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/").json()["targets"][0]["name"] == "cultivar"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the request is not JSON"),
        (b"[]", 'no object with "rows"'),
        (b"{}", 'a request on tabular holds "rows"'),
        (b'{"rows": []}', '"rows" is no list of samples'),
        (b'{"rows": [1]}', "row 1 is no object"),
        (b'{"rows": ["a"]}', "a row is an object"),
        (b'{"rows": [{"alcohol": [1]}]}', "row 1: alcohol is no number"),
        (b'{"rows": [{"alcohol": 1}]}', "the table lacks the columns"),
        (b"[" * 100_000, "the request is not JSON"),
        (b'{"rows": [{"alcohol": "\\ud83d"}]}', "row 1: alcohol holds half of a character"),
        (b'{"rows": ["good", "\\ud83d"]}', "a row is an object"),
    ],
)
def test_bad_input_is_one_line_of_json(client: Any, body: bytes, message: str) -> None:
    answer = client.post("/predict", content=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_server_wants_its_token_and_its_name(client: Any) -> None:
    for path in ("/", "/predict"):
        for token in ("", "wrong", "ü"):
            given = {"authorization": f"Bearer {token}".encode()}
            method = client.get if path == "/" else client.post
            assert method(path, headers=given).status_code == 401
    assert client.get("/health", headers={"authorization": ""}).status_code == 200
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/predict").status_code == 405


def test_a_request_has_a_largest_size(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas import serve

    monkeypatch.setattr(serve, "MOST_BYTES", 100)
    assert client.post("/predict", content=b"x" * 101).status_code == 413


def untrained(dataset: Dataset) -> Model:
    """A network of the first family as it is before training."""
    task = Task(dataset.modality, dataset.targets, dataset.profile).with_objectives()
    name, family = next(iter(load_families(dataset.modality).items()))
    made = Model.__new__(Model)
    made.proxy = Proxy(name, family.baseline(task), task).eval()
    return made


def posted(model: Model, suffix: str, content: bytes) -> Any:
    """The answer to a request with one file."""
    testclient = pytest.importorskip("starlette.testclient")
    from nas.serve import app

    client = testclient.TestClient(app(model, TOKEN), base_url="http://127.0.0.1")
    body = {"files": [base64.b64encode(content).decode()], "suffix": suffix}
    return client.post("/predict", json=body, headers={"authorization": f"Bearer {TOKEN}"})


def image(folder: Path) -> Path:
    Image.fromarray(np.zeros((12, 10, 3), np.uint8)).save(folder / "a.png")
    return folder / "a.png"


def sound(folder: Path) -> Path:
    soundfile.write(folder / "a.wav", np.sin(np.arange(2000) / 5) / 2, 8000)
    return folder / "a.wav"


def cloud(folder: Path) -> Path:
    np.save(folder / "a.npy", np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32))
    return folder / "a.npy"


def sequence(folder: Path) -> Path:
    pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2))).to_csv(
        folder / "a.csv", index=False
    )
    return folder / "a.csv"


@pytest.mark.parametrize(
    ("modality", "sample"),
    [("images", image), ("audio", sound), ("pointclouds", cloud), ("series", sequence)],
)
def test_a_request_holds_samples_and_names_no_files_of_the_server(
    modality: Modality, sample: Callable[[Path], Path], tmp_path: Path
) -> None:
    model, file = untrained(next(iter(example_datasets(modality).values()))), sample(tmp_path)
    answer = posted(model, file.suffix, file.read_bytes())
    assert answer.status_code == 200, answer.json()
    assert len(answer.json()["predictions"]) == 1
    for suffix, table in (
        (".csv", f"file_name\n{file}\n"),
        (".json", json.dumps([{"file_name": str(file)}])),
    ):
        refused = posted(model, suffix, table.encode())
        assert (refused.status_code, refused.json().keys()) == (400, {"error"})
        assert "\n" not in refused.json()["error"]


def test_a_table_of_sequences_is_served_and_a_list_of_files_is_not(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(30, 12))
    wide = pd.DataFrame(values, columns=[f"t{i}" for i in range(12)])
    model = untrained(read(wide.assign(y=np.arange(30) % 2), target="y", modality="series"))
    answer = posted(model, ".csv", wide.to_csv(index=False).encode())
    assert len(answer.json()["predictions"]) == 30
    pd.DataFrame({"value": values[0]}).to_csv(tmp_path / "a.csv", index=False)
    refused = posted(model, ".csv", f"file_name\n{tmp_path / 'a.csv'}\n".encode())
    assert refused.status_code == 400
    assert "a table that lists files is not served" in refused.json()["error"]
    # A long table may call its sequences by the files that they come from.
    names = [f"{i}.csv" for i in range(30)]
    long = pd.DataFrame({"file": np.repeat(names, 12), "value": values.ravel()})
    labelled = long.assign(y=np.repeat(np.arange(30) % 2, 12))
    answer = posted(
        untrained(read(labelled, target="y", sequence="file")),
        ".csv",
        long.to_csv(index=False).encode(),
    )
    assert len(answer.json()["predictions"]) == 30


def test_numbers_have_no_probabilities(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    target = replace(model.task.targets[0], kind="regression", classes=(), counts=())
    changed = Model.__new__(Model)
    changed.proxy = model.proxy
    monkeypatch.setattr(
        Model, "task", property(lambda self: replace(self.proxy.task, targets=(target,)))
    )
    monkeypatch.setattr(Model, "_predicted", lambda self, data: (None, {target.name: np.ones(2)}))
    with pytest.raises(UsageError, match="have no probabilities"):
        changed.predict_proba(None)
