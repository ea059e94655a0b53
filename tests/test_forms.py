"""Forms that people hold: tables of other libraries and programs, archives, texts and graphs. What
is not read is refused with the form to convert to."""

from __future__ import annotations

import json
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import networkx as nx
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pytest
import scipy.sparse as sp
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from nas.data import encode, forms, limits, read
from nas.task import InputError, UsageError

N = 60
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "size": RNG.normal(size=N).round(6),
        "count": RNG.integers(0, 50, N),
        "kind": RNG.choice(["red", "green", "blue"], N),
        "y": np.arange(N) % 2,
    }
)
NUMBERS = RNG.normal(size=(N, 3)).round(2)
LABELS = np.arange(N) % 2
EXPECTED = read(FRAME, target="y")


def same_as_the_frame(source: Any) -> None:
    data = read(source, target="y")
    assert data.modality == "tabular"
    for name, values in EXPECTED.inputs.items():
        np.testing.assert_array_equal(data.inputs[name], values)
    np.testing.assert_array_equal(data.labels["y"], EXPECTED.labels["y"])
    again = encode(source, data.profile, "tabular", data.targets)
    np.testing.assert_array_equal(again.inputs["numeric"], EXPECTED.inputs["numeric"])


# Files of tables -------------------------------------------------------------------------


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("deep/table.csv", FRAME.to_csv(index=False))


def lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps(row) for row in FRAME.to_dict("records")))


def stream(path: Path) -> None:
    table = pa.Table.from_pandas(FRAME)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


FILES: dict[str, Callable[[Path], Any]] = {
    "table.feather": FRAME.to_feather,
    "stream.arrow": stream,
    "polars.ipc": lambda path: pl.from_pandas(FRAME).write_ipc(path),
    "records.json": lambda path: FRAME.to_json(path, orient="records"),
    "columns.json": lambda path: FRAME.to_json(path),
    "lists.json": lambda path: path.write_text(json.dumps(FRAME.to_dict("list"))),
    "split.json": lambda path: FRAME.to_json(path, orient="split"),
    "schema.json": lambda path: FRAME.to_json(path, orient="table", index=False),
    "lines.json": lines,
    "book.xlsx": lambda path: FRAME.to_excel(path, index=False),
    "table.csv.zip": zipped,
    "pandas.csv.zip": lambda path: FRAME.to_csv(path, index=False),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_a_table_gives_the_same_data_as_the_frame(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    same_as_the_frame(tmp_path / name)


def test_only_a_line_feed_ends_a_line_of_json(tmp_path: Path) -> None:
    signs = "\u2028\x85"
    rows = [{"text": f"words{signs[i % 2]}of a text {i}", "y": "pq"[i % 2]} for i in range(20)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "t.json").write_text(lines, encoding="utf-8")
    assert forms.read_json(tmp_path / "t.json", None).to_dict("records") == rows


def test_a_part_of_a_workbook_is_read_like_one_of_a_csv(tmp_path: Path) -> None:
    for part, rows in (("train", slice(0, 40)), ("test", slice(40, 60))):
        FRAME.iloc[rows].to_excel(tmp_path / f"{part}.xlsx", index=False)
    assert len(read(tmp_path, target="y").parts["test"]) == 20


def test_gaps_and_labels_of_a_workbook_are_those_of_its_cells(tmp_path: Path) -> None:
    frame = FRAME.assign(size=FRAME["size"].where(FRAME["size"] > -0.5), y=["01", "1E5"] * (N // 2))
    frame.loc[3, "kind"] = "?"
    frame.to_excel(tmp_path / "book.xlsx", index=False)
    data = read(tmp_path / "book.xlsx", target="y")
    assert set(data.targets[0].classes) == {"01", "1E5"}
    column = data.inputs["numeric"][:, 0]
    np.testing.assert_array_equal(np.isnan(column), frame["size"].isna())
    assert data.inputs["categorical"][3, 0] == 0


def test_a_workbook_of_several_sheets_names_them(tmp_path: Path) -> None:
    with pd.ExcelWriter(tmp_path / "book.xlsx") as writer:
        FRAME.to_excel(writer, sheet_name="people", index=False)
        FRAME.to_excel(writer, sheet_name="prices", index=False)
    with pytest.raises(InputError, match="the sheets people, prices; keep the one"):
        read(tmp_path / "book.xlsx", target="y")


def test_a_workbook_without_openpyxl_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FRAME.to_excel(tmp_path / "book.xlsx", index=False)
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install 'frontier-nas\[formats\]'"):
        read(tmp_path / "book.xlsx", target="y")


@pytest.mark.parametrize("name", ["a.feather", "a.json", "a.xlsx", "a.zip"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x03\x04" + bytes(50)])
def test_a_file_that_is_not_what_its_ending_says_is_one_line(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((InputError, UsageError)) as caught:
        read(tmp_path / name, target="y")
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["a.xls", "a.pkl", "a.dta", "a.mat", "a.tar.gz", "a.rar", "a.h5ad.pickle", "a.sqlite",
     "a.csv.bz2", "a.pt", "a.npy", "a.mp4", "a.m4a", "a.las", "a.nii.gz", "a.pdf", "a.graphml",
     "a.txt"],
)  # fmt: skip
@pytest.mark.parametrize("modality", [None, "tabular", "images", "text"])
def test_a_file_that_nobody_reads_says_what_to_convert_it_to(
    tmp_path: Path, name: str, modality: str | None
) -> None:
    (tmp_path / name).write_bytes(b"x" * 100)
    with pytest.raises(UsageError) as caught:
        read(tmp_path / name, target="y", modality=modality)
    message = str(caught.value)
    assert "modality" not in message
    assert any(word in message for word in ("save", "convert", "unpack", "write"))


def test_a_folder_of_nothing_known_lists_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.xyzzy").write_text("x")
    with pytest.raises(UsageError, match="holds no data that is read: give a table"):
        read(tmp_path)


# Size bombs ------------------------------------------------------------------------------


def packed_csv(path: Path) -> None:
    FRAME.loc[np.zeros(2**20, int)].to_csv(path, index=False)


def packed_parquet(path: Path) -> None:
    pd.DataFrame({"a": np.zeros(2**22), "y": np.ones(2**22)}).to_parquet(path)


def packed_feather(path: Path) -> None:
    table = pa.table({"a": np.zeros(2**22), "y": np.ones(2**22)})
    pa.feather.write_feather(table, str(path), compression="zstd")


def packed_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", bytes(2**25))


PACKED = {"a.csv.gz": packed_csv, "a.parquet": packed_parquet, "a.feather": packed_feather,
          "a.zip": packed_zip, "a.xlsx": packed_zip}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_a_table_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    PACKED[name](tmp_path / name)
    monkeypatch.setattr(limits, "memory_limit", lambda: 2**24)
    with pytest.raises(InputError, match="half of this machine's") as caught:
        read(tmp_path / name, target="y")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../out.csv", "/out.csv", "a/../../out.csv", "..\\out.csv"])
def test_an_archive_that_leads_out_of_itself_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, FRAME.to_csv(index=False))
    with pytest.raises(InputError, match="outside of itself"):
        read(tmp_path / "a.zip", target="y")


def test_an_archive_of_class_folders_is_read_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for label in ("cat", "dog"):
            for i in range(8):
                Image.fromarray(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(
                    tmp_path / "one.png"
                )
                archive.write(tmp_path / "one.png", f"pets/{label}/{i}.png")
                archive.write(tmp_path / "one.png", f"__MACOSX/pets/{label}/._{i}.png")
    (tmp_path / "one.png").unlink()
    data = read(tmp_path / "pets.zip")
    assert data.modality == "images"
    assert data.targets[0].classes == ("cat", "dog")
    assert len(data.inputs["image"]) == 16
    new = encode(tmp_path / "pets.zip", data.profile, "images", data.targets)
    assert new.names[0] == "pets/cat/0.png"
    assert [path.name for path in tmp_path.iterdir()] == ["pets.zip"]


@pytest.mark.parametrize("around", ["contest", "download/contest"])
@pytest.mark.parametrize("packed", [True, False])
def test_tables_of_the_parts_in_a_folder_of_an_archive_are_found(
    tmp_path: Path, around: str, packed: bool
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for part, rows in (("train", slice(0, 40)), ("test", slice(40, 60))):
            archive.writestr(f"{around}/{part}.csv", FRAME.iloc[rows].to_csv(index=False))
            archive.writestr(f"__MACOSX/{around}/._{part}.csv", "x")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "a")
    assert len(read(tmp_path / ("a.zip" if packed else "a"), target="y").parts["test"]) == 20


def test_graphs_in_a_folder_of_an_archive_are_found(tmp_path: Path) -> None:
    files = {"A": "", "graph_indicator": "", "graph_labels": ""}
    for graph in range(30):
        first = 4 * graph + 1
        pairs = [(first, first + i) for i in (1, 2, 3)]
        pairs += [(first + 1, first + 2)] if graph % 2 else []
        files["A"] += "".join(f"{a}, {b}\n{b}, {a}\n" for a, b in pairs)
        files["graph_indicator"] += f"{graph + 1}\n" * 4
        files["graph_labels"] += f"{graph % 2}\n"
    with zipfile.ZipFile(tmp_path / "STARS.zip", "w") as archive:
        for name, text in files.items():
            archive.writestr(f"STARS/STARS_{name}.txt", text)
        archive.writestr("STARS/README.txt", "stars, half of them with one more edge")
    data = read(tmp_path / "STARS.zip")
    assert data.modality == "graphs"
    new = encode(tmp_path / "STARS.zip", data.profile, "graphs", data.targets)
    np.testing.assert_array_equal(next(iter(new.labels.values())), np.arange(30) % 2)


# Tables in memory ------------------------------------------------------------------------

TABLES: dict[str, Callable[[], Any]] = {
    "polars frame": lambda: pl.from_pandas(FRAME),
    "polars query": lambda: pl.from_pandas(FRAME).lazy(),
    "polars categories": lambda: pl.from_pandas(FRAME).with_columns(
        pl.col("kind").cast(pl.Categorical)
    ),
    "arrow table": lambda: pa.Table.from_pandas(FRAME),
    "arrow batch": lambda: pa.RecordBatch.from_pandas(FRAME),
    "arrow reader": lambda: pa.Table.from_pandas(FRAME).to_reader(),
    "hugging face": lambda: datasets.Dataset.from_pandas(FRAME, preserve_index=False),
    "dictionary of lists": lambda: FRAME.to_dict("list"),
    "dictionary of arrays": lambda: {name: FRAME[name].to_numpy() for name in FRAME},
    "sparse columns": lambda: FRAME.astype({"count": pd.SparseDtype("int64", 0)}),
    "numbers of another byte order": lambda: FRAME.astype(
        {"size": ">f8", "count": ">i4", "y": ">i8"}
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_memory_gives_the_same_data_as_the_frame(name: str) -> None:
    data = read(TABLES[name](), target="y")
    for key, values in EXPECTED.inputs.items():
        np.testing.assert_array_equal(data.inputs[key], values)
    np.testing.assert_array_equal(data.labels["y"], EXPECTED.labels["y"])
    again = encode(TABLES[name](), data.profile, "tabular", data.targets)
    np.testing.assert_array_equal(again.inputs["numeric"], EXPECTED.inputs["numeric"])


@pytest.mark.parametrize("form", ["polars", "arrow", "hugging face"])
def test_inputs_and_labels_of_another_library_are_a_pair(form: str) -> None:
    x, y = FRAME.drop(columns="y"), FRAME["y"]
    pair = {
        "polars": lambda: (pl.from_pandas(x), pl.Series("y", y)),
        "arrow": lambda: (pa.Table.from_pandas(x), pa.array(y)),
        "hugging face": lambda: (datasets.Dataset.from_pandas(x), y),
    }[form]()
    data = read(pair)
    np.testing.assert_array_equal(data.inputs["numeric"], EXPECTED.inputs["numeric"])
    np.testing.assert_array_equal(data.labels[data.targets[0].name], EXPECTED.labels["y"])


@pytest.mark.parametrize("make", [pl.from_pandas, pa.Table.from_pandas], ids=["polars", "arrow"])
def test_whole_numbers_with_gaps_stay_whole(make: Callable[[pd.DataFrame], Any]) -> None:
    big = pd.array([10**15 + i if i % 9 else None for i in range(N)], dtype="Int64")
    data = read(make(pd.DataFrame({"x": big, "y": FRAME["y"]})), target="y")
    assert int(np.isnan(data.inputs["numeric"]).sum()) == len(range(0, N, 9))


@pytest.mark.parametrize("form", ["csr_matrix", "csr_array", "coo_array"])
def test_sparse_matrices_are_read_as_their_dense_values(form: str) -> None:
    x = RNG.normal(size=(N, 5)) * (RNG.random((N, 5)) < 0.4)
    data = read((getattr(sp, form)(x), FRAME["y"]))
    np.testing.assert_array_equal(data.inputs["numeric"], read((x, FRAME["y"])).inputs["numeric"])


def test_a_sparse_matrix_that_takes_too_much_memory_is_refused() -> None:
    x = sp.random_array((10**6, 10**6), density=1e-12, format="csr", rng=0)
    with pytest.raises(InputError, match="the sparse matrix takes"):
        read((x, np.zeros(10**6)))


@pytest.mark.parametrize("names", [("train", "test"), ("train", "validation", "test")])
@pytest.mark.parametrize("form", ["frames", "hugging face"])
def test_tables_by_the_names_of_the_parts_keep_their_parts(
    form: str, names: tuple[str, ...]
) -> None:
    halves = {name: FRAME.iloc[20 * i : 20 * i + 20] for i, name in enumerate(names)}
    source: Any = halves
    if form == "hugging face":
        made = {n: datasets.Dataset.from_pandas(f, preserve_index=False) for n, f in halves.items()}
        source = datasets.DatasetDict(made)
    data = read(source, target="y")
    last = 20 * (len(names) - 1)
    assert data.parts["test"].tolist() == list(range(last, last + 20))


def test_class_labels_of_a_hugging_face_data_set_are_classes() -> None:
    names = [f"intent {i}" for i in range(25)]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    rows = {
        "text": [f"this is the sentence number {i} of the set" for i in range(200)],
        "label": [i % 25 for i in range(200)],
    }
    data = read(datasets.Dataset.from_dict(rows, features=features), target="label")
    assert data.modality == "text"
    assert (data.targets[0].kind, len(data.targets[0].classes)) == ("multiclass", 25)


def test_pictures_in_a_hugging_face_data_set_say_how_to_hand_them_over() -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": [{"bytes": b"x", "path": None}] * 20, "label": [0, 1] * 10}
    with pytest.raises(UsageError, match=r"'image' of the data set holds images.*save them"):
        read(datasets.Dataset.from_dict(rows, features=features), target="label")


# Torch -----------------------------------------------------------------------------------

DIGITS = load_digits()
PIXELS = (DIGITS.images[:200] * 15).astype(np.uint8)


class Items(Dataset):  # type: ignore[type-arg]
    """A data set of whatever its items are."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def of_images() -> list[Any]:
    return [(Image.fromarray(p), int(y)) for p, y in zip(PIXELS, DIGITS.target, strict=False)]


TORCH: dict[str, Callable[[], Any]] = {
    "tensors": lambda: TensorDataset(
        torch.from_numpy(PIXELS), torch.from_numpy(DIGITS.target[:200])
    ),
    "images": lambda: Items(of_images()),
    "a loader": lambda: DataLoader(Items(of_images()), batch_size=7, shuffle=True),
    "a pair of images and labels": lambda: ([x for x, _ in of_images()], DIGITS.target[:200]),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_torch_data_set_of_images_is_read_in_its_order(name: str) -> None:
    data = read(TORCH[name]())
    assert data.modality == "images"
    np.testing.assert_array_equal(data.inputs["image"][:, 0], PIXELS)
    np.testing.assert_array_equal(data.labels["target"], DIGITS.target[:200])


def test_a_loader_that_draws_some_samples_alone_is_refused() -> None:
    from torch.utils.data import SubsetRandomSampler

    loader = DataLoader(Items(of_images()), sampler=SubsetRandomSampler(range(50)))
    with pytest.raises(UsageError, match=r"give torch\.utils\.data\.Subset"):
        read(loader)


MODES = {"1": ".png", "L": ".png", "LA": ".png", "P": ".png", "RGB": ".png", "RGBA": ".png",
         "CMYK": ".tif", "I;16": ".png", "turned": ".jpg", "L and RGB": ".png"}  # fmt: skip


def picture(i: int, mode: str) -> Image.Image:
    """An image of 9 x 9 pixels, partly transparent where its mode allows it."""
    made = Image.fromarray(RNG.integers(0, 256, (9, 9, 4), dtype=np.uint8))
    match mode:
        case "I;16":
            return Image.fromarray(RNG.integers(0, 2**16, (9, 9)).astype(np.uint16))
        case "P":
            return made.convert("RGB").quantize(16)
        case "L and RGB":
            return made.convert("L" if i % 2 else "RGB")
        case "turned":
            return made.convert("RGB")
    return made.convert("RGB").convert(mode) if mode == "CMYK" else made.convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_list_of_pillow_images_is_read_as_their_files(mode: str, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    for i in range(20):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        how = {"exif": turned} if mode == "turned" else {}
        picture(i, mode).save(tmp_path / "ab"[i % 2] / f"{i:02}{MODES[mode]}", **how)
    files = sorted(tmp_path.glob("*/*"))
    images, labels = [Image.open(file) for file in files], [file.parent.name for file in files]
    expected, found = read(tmp_path), read((images, labels))
    np.testing.assert_array_equal(found.inputs["image"], expected.inputs["image"])
    items = Items(list(zip(images, labels, strict=True)))
    np.testing.assert_array_equal(read(items).inputs["image"], expected.inputs["image"])


def test_pillow_images_of_eight_and_of_more_bits_are_not_mixed() -> None:
    deep = [Image.fromarray(np.full((9, 9), 300 + i, np.uint16)) for i in range(10)]
    plain = [Image.fromarray(np.full((9, 9), i, np.uint8)) for i in range(10)]
    with pytest.raises(UsageError, match="differ in size or mode"):
        read((deep + plain, [0, 1] * 10))


def test_torch_data_sets_of_rows_texts_and_clouds_have_their_modality() -> None:
    rows = Items([(torch.randn(4), i % 2) for i in range(40)])
    assert read(rows).modality == "tabular"
    texts = Items([(f"a sentence of several words {i}", i % 2) for i in range(40)])
    assert read(texts).modality == "text"
    clouds = Items([(torch.randn(20 + i, 3), i % 2) for i in range(40)])
    assert read(clouds).modality == "pointclouds"


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (Endless(), "without a length"),
        (Items([]), "is empty"),
        (Items([{"x": 1}] * 20), r"expected \(x, y\)"),
        (Items([(np.zeros((8, 8 + i % 2, 3)), 0) for i in range(20)]), "differ in size"),
        ({"a": [1, 2], "b": [1]}, "columns of equal length"),
        ({"train": FRAME.assign(split="x"), "test": FRAME}, "has a column 'split'"),
        ({1, 2}, r"builtins.set is not read; give a DataFrame"),
        ((i for i in range(9)), "generator is not read"),
        (object(), "builtins.object is not read"),
        (None, "NoneType is not read"),
    ],
)
@pytest.mark.parametrize("modality", [None, "tabular", "text"])
def test_an_object_that_is_not_read_says_what_to_give(
    source: Any, words: str, modality: str | None
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        read(source, target="y", modality=modality)
    assert "--modality" not in str(caught.value)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom"])
def test_a_device_that_never_ends_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=f"{device} is a device that never ends"):
        read(device, target="y")


def test_a_pipe_that_holds_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "memory_limit", lambda: 1000)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=["a,y\n" * 1000])
    writer.start()
    with pytest.raises(InputError, match="pipe holds more than"):
        read(tmp_path / "pipe", target="y")
    writer.join()


def test_messages_on_an_archive_name_the_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a.csv", "b.csv"):
            archive.writestr(name, FRAME.to_csv(index=False))
    with pytest.raises(UsageError, match=r"two\.zip holds no data that is read") as caught:
        read(tmp_path / "two.zip", target="y")
    assert "/nas-" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_files_of_one_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for rows in (10, 60):
            archive.writestr("a.csv", FRAME.head(rows).to_csv(index=False))
    with pytest.raises(InputError, match=r"two\.zip holds 'a\.csv' twice; keep one"):
        read(tmp_path / "two.zip", target="y")


# Arrays and tensors ----------------------------------------------------------------------

ARRAYS: dict[str, Callable[[], Any]] = {
    "another byte order": lambda: NUMBERS.astype(">f8"),
    "a mask that hides nothing": lambda: np.ma.masked_invalid(NUMBERS),
    "sparse tensor": lambda: torch.tensor(NUMBERS).to_sparse(),
    "compressed tensor": lambda: torch.tensor(NUMBERS).to_sparse_csr(),
    "tensor with gradients": lambda: torch.tensor(NUMBERS, requires_grad=True),
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_an_array_of_any_layout_is_read_as_its_values(name: str) -> None:
    data = read((ARRAYS[name](), LABELS))
    np.testing.assert_array_equal(data.inputs["numeric"], NUMBERS.astype(np.float32))


def test_a_tensor_of_half_precision_is_read() -> None:
    x = torch.tensor(NUMBERS).bfloat16()
    data = read((x, torch.tensor(LABELS)))
    np.testing.assert_array_equal(data.inputs["numeric"], x.float().numpy())


@pytest.mark.parametrize("kind", ["f8", "f4", "i8", "U1"])
def test_what_a_mask_hides_is_missing(kind: str) -> None:
    hidden = np.arange(3 * N).reshape(N, 3) % 4 == 1
    values = (np.arange(3 * N).reshape(N, 3) % 7).astype(kind)
    plain = values.astype(object if kind == "U1" else float)
    plain[hidden] = None if kind == "U1" else np.nan
    data, expected = read((np.ma.array(values, mask=hidden), LABELS)), read((plain, LABELS))
    assert data.profile.fingerprint == expected.profile.fingerprint
    with pytest.raises(InputError, match="is missing in 45 of 180 rows"):
        read((np.zeros((3 * N, 2)), np.ma.array(values.ravel(), mask=hidden.ravel())))


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (lambda: torch.rand(N, 3, device="meta"), "no data"),
        (lambda: torch.quantize_per_tensor(torch.rand(N, 3), 0.1, 0, torch.quint8), "QUInt8"),
        (lambda: torch.nested.nested_tensor([torch.rand(2, 3)] * N), "Nested"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_no_array_is_one_line(tensor: Callable[[], Any], words: str) -> None:
    with pytest.raises(InputError, match=rf"a tensor cannot be read as an array \(.*{words}"):
        read((tensor(), LABELS))


def test_an_error_of_a_data_set_names_the_item() -> None:
    class Broken(Items):
        def __getitem__(self, i: int) -> Any:
            return self.items[i] if i < 7 else 1 / 0

    with pytest.raises(InputError, match=r"item 7 of .* ZeroDivisionError: division by zero"):
        read(Broken([(np.zeros(3), 0)] * 20))


@pytest.mark.parametrize("kind", [np.complex64, np.complex128])
def test_complex_numbers_keep_both_parts_or_are_refused(kind: type) -> None:
    for source in (FRAME.assign(c=FRAME["size"].astype(kind)), (NUMBERS.astype(kind), LABELS)):
        with pytest.raises(InputError, match="give real and imaginary columns"):
            read(source, target="y" if isinstance(source, pd.DataFrame) else None)


def test_whole_numbers_with_gaps_stay_in_their_rows_where_arrow_keeps_an_index() -> None:
    values = pd.array([1, None, 3], dtype="Int64")
    frame = pd.DataFrame({"count": values, "x": [0.1, 0.2, 0.3]}, index=[2, 0, 1])
    found = forms.arrow_frame(pa.Table.from_pandas(frame))
    pd.testing.assert_frame_equal(found, frame)


def test_columns_of_arrow_lists_and_of_bytes_are_read() -> None:
    lists = pd.array([[i % 3] for i in range(N)], dtype=pd.ArrowDtype(pa.list_(pa.int64())))
    frame = FRAME.assign(lists=lists, raw=[b"ab" if i % 3 else b"c\xff" for i in range(N)])
    kinds = {c.name: len(c.categories) for c in read(frame, target="y").profile.columns}
    assert kinds["lists"] == 3
    assert kinds["raw"] == 2


def test_labels_in_another_order_than_the_rows_are_refused() -> None:
    x, y = FRAME.drop(columns="y"), FRAME["y"]
    with pytest.raises(InputError, match=r"in another order.*give y\.loc\[X\.index\]"):
        read((x, y.sort_values(kind="stable")))
    read((x, y.reset_index(drop=True)))
    read((x.iloc[::-1], y.iloc[::-1]))
    read((x, y.set_axis([f"r{i}" for i in range(N)])))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x" * 5000, "cannot be opened: File name too long"),
        ("~nobody-of-this-name/x.csv", "cannot be opened: Could not determine home"),
        ("", "the data has no name"),
        (" ", "the data has no name"),
        ("https://example.org/x.csv", "https://example.org/x.csv is an address"),
        ("s3://bucket/x.parquet", "nothing is downloaded"),
    ],
)
def test_what_names_no_file_is_one_line(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        read(source, target="y")


@pytest.mark.parametrize(
    "source",
    [
        (NUMBERS, LABELS, NUMBERS),
        [{"a": i, "y": i % 2} for i in range(30)],
        (np.zeros((30, 2, 3, 4, 5)), np.arange(30)),
    ],
)
def test_an_object_of_no_known_form_says_what_to_give(source: Any) -> None:
    with pytest.raises(UsageError, match="form of the data is not known; give a DataFrame"):
        read(source)


# Texts -----------------------------------------------------------------------------------


def reviews(root: Path) -> Path:
    for label, word in (("pos", "good"), ("neg", "bad")):
        (root / label).mkdir(parents=True)
        for i in range(10):
            (root / label / f"{i}.txt").write_text(f"A {word} film,\nnumber {i} of many others.")
    return root


def test_class_folders_of_texts_are_read(tmp_path: Path) -> None:
    data = read(reviews(tmp_path / "reviews"))
    assert data.modality == "text"
    assert data.targets[0].classes == ("neg", "pos")
    new = encode(tmp_path / "reviews", data.profile, "text", data.targets)
    np.testing.assert_array_equal(new.labels["label"], data.labels["label"])
    for part in ("train", "test"):
        reviews(tmp_path / "divided" / part)
    assert len(read(tmp_path / "divided").parts["test"]) == 20


def test_a_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    root = reviews(tmp_path / "reviews")
    (root / "pos" / "3.txt").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(InputError, match=r"1 of 20 texts .*3\.txt \(not UTF-8 text\)"):
        read(root)


# Graphs ----------------------------------------------------------------------------------


def test_the_nodes_of_a_networkx_graph_are_classified_by_the_named_attribute() -> None:
    club = nx.karate_club_graph()
    for node in club:
        club.nodes[node]["degree"] = float(club.degree[node])
    data = read(club, target="club")
    assert data.modality == "graphs"
    assert data.targets[0].classes == ("Mr. Hi", "Officer")
    assert data.profile.inputs["edges"][0] == 2 * club.number_of_edges()
    assert len(data.labels["club"]) == 34
    with pytest.raises(UsageError, match=r"no attribute 'clubb'; .* club, degree"):
        read(club, target="clubb")


@pytest.mark.parametrize("where", ["in the graphs", "beside them"])
def test_networkx_graphs_are_classified_as_wholes(where: str) -> None:
    made = [nx.cycle_graph(5 + i) if i % 2 else nx.star_graph(5 + i) for i in range(40)]
    y = [i % 2 for i in range(40)]
    for graph, label in zip(made, y, strict=True):
        if where == "in the graphs":
            graph.graph["label"] = label
    data = read(made if where == "in the graphs" else (made, y))
    assert data.modality == "graphs"
    np.testing.assert_array_equal(next(iter(data.labels.values())), y)


def test_directed_edges_stay_directed_and_words_are_refused() -> None:
    graph = nx.DiGraph()
    for i in range(30):
        graph.add_node(f"n{i}", size=i / 7, y=i % 2)
        graph.add_edge(f"n{i}", f"n{(i * 7 + 1) % 30}", weight=0.5)
    assert read(graph).modality == "graphs"
    graph.nodes["n3"]["colour"] = "red"
    with pytest.raises(UsageError, match=r"node attribute 'colour' is not a number.*nodes\.csv"):
        read(graph)


@pytest.mark.parametrize("users", [30, 1500])
def test_ids_of_nodes_keep_their_zeros_where_those_of_edges_are_digits(
    users: int, tmp_path: Path
) -> None:
    ids = [f"{i:05}" for i in range(users)] + ["A1", "A2"]
    nodes = {"id": ids, "f": RNG.random(users + 2), "y": [i % 2 for i in range(users + 2)]}
    pd.DataFrame(nodes).to_csv(tmp_path / "nodes.csv", index=False)
    edges = {"source": ids[:users], "target": [f"A{1 + i % 2}" for i in range(users)]}
    pd.DataFrame(edges).to_csv(tmp_path / "edges.csv", index=False)
    data = read(tmp_path, target="y")
    found = data.inputs["edges"].values  # type: ignore[union-attr]
    expected = [(i, users + i % 2) for i in range(users)]
    assert set(expected) <= set(map(tuple, found.tolist()))
