"""What columns, labels and layouts are taken for, over many members of each kind."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas.cli import cli
from nas.data import encode, read
from nas.data.columns import ColumnValues, numbers
from nas.data.csv_files import MISSING, read_csv, refuse_duplicates
from nas.data.csv_pieces import read_csv_pieces, read_large_csv
from nas.data.pieces import pieces
from nas.data.tables import read_table
from nas.data.tabular import encode_rows
from nas.task import InputError, UsageError

RNG = np.random.default_rng(0)
N = 60


def table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"a": RNG.random(N), "b": RNG.random(N)} | columns)


def labels(*values: object) -> list[object]:
    return [values[i % len(values)] for i in range(N)]


# Labels ----------------------------------------------------------------------------------


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("form", ["csv", "tsv", "csv.gz", "jsonl", "parquet", "frame", "arrays"])
@pytest.mark.parametrize(
    "texts",
    [("01", "02"), ("007", "7", "8"), ("1E5", "2E3"), ("NA", "EU"), ("null", "x"), ("1.0", "2.0")],
)
def test_labels_come_back_as_they_are_written(
    form: str, texts: tuple[str, ...], tmp_path: Path
) -> None:
    frame = table(y=labels(*texts))
    if form == "arrays":
        data = read((frame[["a", "b"]], frame["y"]))
    elif form == "frame":
        data = read(frame, target="y")
    else:
        data = read(write(frame, tmp_path / f"t.{form}"), target="y")
        again = encode(tmp_path / f"t.{form}", data.profile, data.modality, data.targets)
        np.testing.assert_array_equal(again.labels["y"], data.labels["y"])
    assert set(data.targets[0].labels) == set(texts)
    np.testing.assert_array_equal(
        np.array(data.targets[0].labels, object)[data.labels["y"]], frame["y"].to_numpy(object)
    )


@pytest.mark.parametrize(
    "values", [(3, 7), (-1, 1), (True, False), (1.0, 2.0), (np.int8(0), np.int8(5))]
)
def test_labels_keep_their_type(values: tuple[object, ...]) -> None:
    (target,) = read(table(y=labels(*values)), target="y").targets
    assert set(target.labels) == set(values)
    plain = {type(value.item() if isinstance(value, np.generic) else value) for value in values}
    assert {type(label) for label in target.labels} == plain


def test_labels_of_bytes_are_texts() -> None:
    y = np.array([b"cat", b"dog"] * 30)
    assert read((RNG.random((N, 2)), y)).targets[0].classes == ("cat", "dog")


def test_class_codes_in_a_table_of_files_keep_their_zeros(tmp_path: Path) -> None:
    for i in range(N):
        Image.fromarray(RNG.integers(0, 255, (9, 9), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    files = [f"{i}.png" for i in range(N)]
    frame = pd.DataFrame({"file_name": files, "label": labels("01", "1")})
    frame.to_csv(tmp_path / "metadata.csv", index=False)
    data = read(tmp_path)
    assert (data.modality, data.targets[0].classes) == ("images", ("01", "1"))


def test_a_missing_label_among_numbers_is_no_class(tmp_path: Path) -> None:
    frame = table(y=[*map(str, np.arange(N - 4) % 3), *["NA"] * 4])
    with pytest.raises(InputError, match="'y' is missing in 4 of 60 rows"):
        read(write(frame, tmp_path / "t.csv"), target="y")


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (labels("a;c", "b", "a", "b;c", "a;b"), ("a", "b", "c")),
        (labels("a|c", "b", "a", "b|c", "c"), ("a", "b", "c")),
        (labels("a, c", "b", "a", "b, c", "a, b, c"), ("a", "b", "c")),
        (labels("['a', 'c']", "['b']", "[]"), ("a", "b", "c")),
        ([["a", "c"], ["b"], []] * 20, ("a", "b", "c")),
        ([("x", 1), ("x",), (1, 2)] * 20, ("1", "2", "x")),
    ],
)
def test_several_labels_in_a_cell_are_multilabel(cells: list[object], classes: object) -> None:
    frame = table(tags=cells)
    data = read(frame, target="tags")
    assert (data.targets[0].kind, data.targets[0].classes) == ("multilabel", classes)
    assert any("multilabel" in note for note in data.notes)
    again = encode(frame, data.profile, data.modality, data.targets)
    np.testing.assert_array_equal(again.labels["tags"], data.labels["tags"])


@pytest.mark.parametrize(
    "cells",
    [
        labels("Paris, France", "Rome, Italy", "Berlin, Germany"),
        labels("a;b", "c;d"),
        [f"{i % 9},{i % 7}" for i in range(N)],
        [f"{i},{i % 10}" for i in range(N)],
    ],
)
def test_a_separator_alone_makes_no_multilabel(cells: list[object]) -> None:
    assert read(table(y=cells), target="y", problem=None).targets[0].kind != "multilabel"


def test_many_whole_numbers_are_classes_only_where_they_are_even() -> None:
    wide = pd.DataFrame({"a": RNG.random(600), "y": RNG.permutation(np.repeat(np.arange(30), 20))})
    assert read(wide, target="y").targets[0].kind == "multiclass"
    data = read(wide.assign(y=RNG.binomial(60, 0.5, 600)), target="y")
    assert data.targets[0].kind == "regression"
    assert any("--problem classification" in note for note in data.notes)


@pytest.mark.parametrize(
    ("texts", "first"),
    [
        (lambda v: f"${v:,.2f}", 1118.27),
        (lambda v: f"{v:.2f}%", 1118.27),
        (lambda v: f"{v} EUR", 1118.27),
    ],
)
def test_a_target_of_amounts_is_a_regression(texts: object, first: float) -> None:
    values = [first, *RNG.uniform(1, 5000, N - 1).round(2)]
    data = read(table(y=[texts(value) for value in values]), target="y")  # type: ignore[operator]
    assert data.targets[0].kind == "regression"
    np.testing.assert_allclose(data.labels["y"], values)


def test_a_target_over_several_orders_of_magnitude_is_noted() -> None:
    notes = read(table(y=10 ** RNG.uniform(0, 6, N)), target="y").notes
    assert any("orders of magnitude" in note for note in notes)
    assert not any("orders of" in n for n in read(table(y=RNG.random(N) + 1), target="y").notes)


# Columns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["$1,118.27", "-$5", "$ 3"], [1118.27, -5, 3]),
        (["11.2%", "5 %"], [11.2, 5]),
        (["1.118,27 €", "5,5 €"], [1118.27, 5.5]),
        (["(5.00)", "1,000"], [-5, 1000]),
        (["12 000", "1 234,5"], [12000, 1234.5]),
        (["2024-01-02", "1970-01-02"], [19724, 1]),
        (["1e3", "TRUE"], [1000, 1]),
    ],
)
def test_numbers_are_read_as_people_write_them(texts: list[str], values: list[float]) -> None:
    read_as = ColumnValues(pd.Series(texts))
    assert read_as.is_numeric
    np.testing.assert_allclose(read_as.numbers.values, values)
    alone = [numbers(pd.Series([text]), read_as.numbers.form).values[0] for text in texts]
    np.testing.assert_allclose(alone, values)


@pytest.mark.parametrize("texts", [["€5", "$6"], ["1_000", "2_000"], ["31/01/2024"], ["012 345"]])
def test_what_may_be_something_else_is_no_number(texts: list[str]) -> None:
    assert not ColumnValues(pd.Series(texts * 5)).is_numeric


DAYS = pd.date_range("2024-01-01", periods=N).strftime("%Y-%m-%d").tolist()


@pytest.mark.parametrize("form", ["csv", "frame"])
@pytest.mark.parametrize(
    "column",
    [
        DAYS,
        list(map(str, range(N))),
        [f"${i}.50" for i in range(N)],
        [str(i % 5) for i in range(N)],
    ],
    ids=["dates", "numbers", "amounts", "few numbers"],
)
@pytest.mark.parametrize("odd", ["unknown", "-", "2024-99-99"])
def test_one_odd_value_changes_no_type(
    column: list[str], odd: str, form: str, tmp_path: Path
) -> None:
    frame = table(d=[*column[:-1], odd], y=labels("p", "q"))
    source = frame if form == "frame" else write(frame, tmp_path / "t.csv")
    data = read(source, target="y")
    assert [c.kind for c in data.profile.columns] == ["numeric"] * 3
    both = encode(frame.tail(2), data.profile, "tabular")
    one = encode(frame.tail(1), data.profile, "tabular")
    np.testing.assert_array_equal(one.inputs["numeric"], both.inputs["numeric"][1:])
    assert np.isnan(one.inputs["numeric"][0, 2])


@pytest.mark.parametrize("values", [[1, np.nan], ["yes", None], [1.5, np.nan], ["1", ""]])
def test_a_flag_of_one_value_or_none_is_kept(values: list[object]) -> None:
    frame = table(flag=labels(*values), y=labels("p", "q", "r"))
    data = read(frame, target="y")
    assert "flag" in [column.name for column in data.profile.columns]
    codes = data.inputs["categorical"][:, 0]
    assert sorted(set(codes)) == [0, 1]
    np.testing.assert_array_equal(codes[::2], 1)


def test_a_code_alone_in_a_file_to_predict_is_no_number(tmp_path: Path) -> None:
    frame = table(zone=labels("01", "02", "A1"), y=labels("p", "q"))
    data = read(write(frame, tmp_path / "t.csv"), target="y")
    write(frame.head(1), tmp_path / "one.csv")
    again = encode(tmp_path / "one.csv", data.profile, "tabular")
    np.testing.assert_array_equal(again.inputs["categorical"], data.inputs["categorical"][:1])


@pytest.mark.parametrize("role", ["input", "target"])
@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["950,00", "1.250,00", "12,50", "2.100,00"], [950, 1250, 12.5, 2100]),
        (["1,234.50", "2,000", "17"], [1234.5, 2000, 17]),
        (["1,679", "1,739"], [1.679, 1.739]),
        ([*(f"1,{i}" for i in range(600, 640)), "x"], [*(1 + i / 1000 for i in range(600, 640))]),
    ],
    ids=["European", "English", "either", "either, and a word"],
)
def test_a_column_of_a_file_with_semicolons_is_read_as_a_whole(
    texts: list[str], values: list[float], role: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text("x;y\n" + "".join(f"{text};p\n" for text in texts))
    as_target = ["x"] if role == "target" else []
    frame = read_table(tmp_path / "t.csv", as_written=as_target, targets=as_target)
    read_as = ColumnValues(frame["x"])
    assert read_as.is_numeric
    np.testing.assert_allclose(read_as.numbers.values[: len(values)], values)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e7, 1e7), st.integers(0, 3)), max_size=12))
def test_decimal_commas_and_points_between_thousands_are_read_in_any_mixture(
    drawn: list[tuple[float, int]],
) -> None:
    """Also row by row, as new files are, by what training has read the column as."""
    english = [f"{value:,.{places}f}" for value, places in [*drawn, (1.679, 3)]]
    texts = [text.translate(str.maketrans(",.", ".,")) for text in english]
    values = [float(text.replace(",", "")) for text in english]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "t.csv"
        file.write_text("x;y\n" + "".join(f"{text};{text}\n" for text in texts))
        frame = read_table(file, as_written=["y"], targets=["y"])
        for name in ("x", "y"):
            np.testing.assert_allclose(ColumnValues(frame[name]).numbers.values, values)
        form = ColumnValues(frame["x"]).numbers.form
        if form == "comma":
            rows = [numbers(piece["x"], form).values for piece in read_csv_pieces(file, 1, ["x"])]
            np.testing.assert_allclose(np.concatenate(rows), values)


@pytest.mark.parametrize(
    ("separator", "texts", "new", "value"),
    [
        (",", ["1.118,27", "2.504,50", "12,5"], "1.118", 1118),
        (";", ["1.118,27", "2.504,50", "12,5"], "1.118", 1118),
        (";", ["1,118.27", "2,504.5", "12.5"], "1,118", 1118),
        (";", ["1.5", "2.25", "12"], "1,5", 1.5),
    ],
)
def test_an_amount_alone_in_a_file_to_predict_is_read_as_in_training(
    separator: str, texts: list[str], new: str, value: float, tmp_path: Path
) -> None:
    frame = table(price=labels(*texts), y=labels("p", "q"))
    frame.to_csv(tmp_path / "t.csv", sep=separator, index=False)
    data = read(tmp_path / "t.csv", target="y")
    frame.head(1).assign(price=new).to_csv(tmp_path / "one.csv", sep=separator, index=False)
    again = encode(tmp_path / "one.csv", data.profile, "tabular", data.targets)
    assert again.inputs["numeric"][0, 2] == value  # type: ignore[index]


def test_a_category_called_na_is_known_to_new_rows(tmp_path: Path) -> None:
    frame = table(zone=pd.Categorical(labels("EU", "NA")), y=labels("p", "q"))
    data = read(frame, target="y")
    write(frame, tmp_path / "t.csv")
    texts = frame.assign(zone=frame["zone"].astype(object))
    for source in (tmp_path / "t.csv", texts):
        found = encode(source, data.profile, "tabular").inputs["categorical"]
        np.testing.assert_array_equal(found, data.inputs["categorical"])
    rows = encode_rows(texts.to_dict("records"), data.profile.columns)  # type: ignore[arg-type]
    assert rows is not None
    np.testing.assert_array_equal(rows["categorical"], data.inputs["categorical"])


def test_truth_values_of_json_are_the_words_of_a_csv(tmp_path: Path) -> None:
    frame = table(sold=labels("true", "false", "maybe"), y=labels("p", "q"))
    data = read(write(frame, tmp_path / "t.csv"), target="y")
    answers = [{"a": 1, "b": 2, "sold": sold} for sold in (True, False)]
    fast = encode_rows(answers, data.profile.columns)
    assert fast is not None
    for found in (fast, encode(pd.DataFrame(answers), data.profile, "tabular").inputs):
        np.testing.assert_array_equal(found["categorical"], data.inputs["categorical"][:2])


def test_an_integer_that_no_float_holds_is_missing_in_new_rows() -> None:
    data = read(table(y=labels("p", "q")), target="y")
    rows = [{"a": 10**400, "b": 2}]
    assert encode_rows(rows, data.profile.columns) is None
    found = encode(pd.DataFrame(rows), data.profile, "tabular").inputs["numeric"]
    np.testing.assert_array_equal(found, [[np.nan, 2]])


def test_files_for_parts_are_read_alike(tmp_path: Path) -> None:
    write(table(zone=labels("01", "A1"), y=labels("p", "q")), tmp_path / "train.csv")
    write(table(zone=labels("01", "02"), y=labels("p", "q")), tmp_path / "test.csv")
    (column,) = [c for c in read(tmp_path, target="y").profile.columns if c.kind == "categorical"]
    assert column.categories == ("01", "A1")


# Texts and files -------------------------------------------------------------------------


SENTENCES = {
    "Chinese": "这个产品非常好用我很喜欢它第{}号",
    "Japanese": "この製品はとても使いやすくて気に入っています{}",
    "Thai": "สินค้านี้ใช้งานได้ดีมากฉันชอบมันจริงๆครับ {}",
    "Korean": "이 제품은 매우 좋고 나는 그것을 좋아한다 {}",
    "English": "this product is good and I like it number {}",
}


@pytest.mark.parametrize("beside", ["nothing", "a number", "an id"])
@pytest.mark.parametrize("language", SENTENCES)
def test_texts_of_any_script_are_texts(language: str, beside: str) -> None:
    frame = pd.DataFrame({"review": [SENTENCES[language].format(i) for i in range(N)]})
    if beside != "nothing":
        frame["x"] = RNG.random(N) if beside == "a number" else [f"id{i}" for i in range(N)]
    data = read(frame.assign(y=labels("p", "q")), target="y")
    assert data.modality == ("multimodal" if beside == "a number" else "text")
    assert any("tokens" in name for name in data.inputs)


USELESS = {
    "id": [f"id{i:05d}" for i in range(N)],
    "number": range(N),
    "lang": ["en"] * N,
    "note": [""] * N,
    "none": [np.nan] * N,
    "Unnamed: 0": range(N),
}


@pytest.mark.parametrize("form", ["csv", "frame", "jsonl"])
@pytest.mark.parametrize("name", USELESS)
def test_a_text_is_read_beside_a_column_that_tells_nothing(
    name: str, form: str, tmp_path: Path
) -> None:
    texts = [f"a sentence of some plain words {i}" for i in range(N)]
    frame = pd.DataFrame({name: USELESS[name], "text": texts, "y": labels("p", "q")})
    source = frame if form == "frame" else write(frame, tmp_path / f"t.{form}")
    assert read(source, target="y").modality == "text"


def pictures(folder: Path) -> list[str]:
    (folder / "imgs").mkdir()
    for i in range(N):
        pixels = RNG.integers(0, 255, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "imgs" / f"my photo number {i}.png")
    return [f"imgs/my photo number {i}.png" for i in range(N)]


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(("column", "modality"), [("file_name", "images"), ("photo", "multimodal")])
def test_a_column_of_file_names_is_no_text(
    column: str, modality: str, form: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame({column: pictures(tmp_path), "y": labels("p", "q")})
    data = read(write(frame, tmp_path / f"t.{form}"), target="y")
    assert data.modality == modality
    assert not any("tokens" in name for name in data.inputs)


@pytest.mark.parametrize("name", USELESS)
def test_pictures_are_read_beside_a_column_that_tells_nothing(name: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({name: USELESS[name], "photo": pictures(tmp_path), "y": labels("p", "q")})
    data = read(write(frame, tmp_path / "t.csv"), target="y")
    assert any("image" in name for name in data.inputs)


# Layouts of tables -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '"price, net";qty;y\n' + "1.5;2;p\n2.5;3;q\n" * 30,
        '"a;b",c,y\n' + "1.5,2,p\n2.5,3,q\n" * 30,
        "sep=;\na;b;y\n" + "1.5;2;p\n2.5;3;q\n" * 30,
        '"sep=|"\na|b|y\n' + "1.5|2|p\n2.5|3|q\n" * 30,
        "a,b,,y,,\n" + "1.5,2,,p,,\n2.5,3,,q,,\n" * 30,
        "a,b,y\n" + '1.5,"2",p\n2.5,"3\n\n",q\n' * 30,
        'a,b,y,t\n1,2,p,5" disk\n' + "2,3,q,x\n1,2,p,x\n" * 30,
    ],
)
def test_ordinary_delimiters_and_headers_are_read(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("t.csv", "t.csv.gz"):
        data = read(tmp_path / name, target="y")
        assert data.inputs["numeric"].shape[1] == 2
        assert data.targets[0].classes == ("p", "q")


@pytest.mark.parametrize("row", ["1,2", "1,2,3,4", '1,"2,3'])
@pytest.mark.parametrize("quoted", [False, True])
def test_a_row_that_does_not_fit_is_named(row: str, quoted: bool, tmp_path: Path) -> None:
    good = '"1","2","x,y"\n' if quoted else "1,2,x\n"
    (tmp_path / "t.csv").write_text("a,b,y\n" + good * 70 + row + "\n" + good * 70)
    with pytest.raises(InputError, match=r"t\.csv line \d+: \d+ values, but the header names 3"):
        read(tmp_path / "t.csv", target="y")


def test_a_header_of_many_columns_is_checked_in_no_time() -> None:
    start = time.perf_counter()
    refuse_duplicates([f"c{i}" for i in range(20_000)], "the table")
    assert time.perf_counter() - start < 1


# What a cell of a file may hold, of several kinds that a column mixes.
_CELLS = st.one_of(
    st.integers(-(10**4), 10**4).map(str),
    st.sampled_from(["", "NA", "nan", "?", "True", "False", "007", "+5", "1e3", "-0", "inf", " 4"]),
    st.sampled_from([str(2**53 + 1), str(2**63), str(-(2**63)), str(2**64), "0x1F", "1_000"]),
    st.floats(-1e6, 1e6, width=32).map(str),
    st.sampled_from(
        ['"a, b"', '"x""y"', '"line\nbreak"', '"cr\rhere"', 'in"side', '"', "é", "a b"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters='",\r\n\0'), max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_csv_in_parts_is_what_pandas_reads_at_once(data: st.DataObject) -> None:
    plain, odd = (data.draw(st.lists(_CELLS, min_size=1, max_size=k)) for k in (2, 5))
    n = data.draw(st.integers(1, 25))
    kinds = [data.draw(st.sampled_from([plain, odd])) for _ in range(3)]
    rows = [[f"{i}", *(data.draw(st.sampled_from(kind)) for kind in kinds)] for i in range(n)]
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    content = end.join(",".join(row) for row in [["i", "a", "b", "c"], *rows])
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        file = Path(folder) / "t.csv"
        file.write_bytes(content.encode() + end.encode() * data.draw(st.integers(0, 2)))
        patch.setattr("nas.data.csv_files.CHUNK_BYTES", 32)
        patch.setattr("pandas._libs.parsers.DEFAULT_BUFFER_HEURISTIC", 16)  # parts of two rows
        try:
            found = read_csv(file, None, MISSING)
        except (InputError, ValueError):
            assert '"' in content or "\r" in content  # a row of another width, as is seen there
            return
        whole = pd.read_csv(
            file, keep_default_na=False, na_values=[*MISSING], low_memory=False, index_col=False,
            skipinitialspace=True, encoding="utf-8-sig",
        )  # fmt: skip
        pd.testing.assert_frame_equal(found, whole)
        patch.setattr("nas.data.csv_pieces.FEWEST_ROWS", 2)
        patch.setattr("nas.data.csv_pieces.resident_limit", lambda: 0)
        large = read_large_csv(file, MISSING)
        # Of 2**63 beside a missing value pandas makes texts at once, and numbers in pieces.
        odd = {str(2**63), str(2**64)}
        alike = [name for name, *cells in zip("iabc", *rows, strict=True) if not odd & {*cells}]
        pd.testing.assert_frame_equal(large[alike], whole[alike])


@pytest.mark.parametrize(
    "late",
    [
        ["x"],
        ["True"],
        ["2.5"],
        [""],
        [str(2**63), "-1"],
        [str(2**63), ""],
        [str(2**64)],
        [str(2**63), *["1"] * 9, "-1"],
    ],
)
@pytest.mark.parametrize("early", ["1", "True", "x", ""])
def test_a_column_is_of_one_type_whatever_comes_late(
    early: str, late: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pandas._libs.parsers.DEFAULT_BUFFER_HEURISTIC", 8)  # parts of two rows
    file = tmp_path / "t.csv"
    file.write_text("a,b\n" + "".join(f"0,{word}\n" for word in [early] * 9 + late))
    found = read_csv(file, None, [""])
    whole = pd.read_csv(file, keep_default_na=False, na_values=[""], low_memory=False)
    pd.testing.assert_frame_equal(found, whole)


@pytest.mark.parametrize("rows", ["1,2\r3,4,5", 'x,a"b\nc"d,e,f', '"x" "y\nz",1,2,3'])
def test_what_ends_a_row_within_a_row_is_seen(rows: str, tmp_path: Path) -> None:
    good = "".join(f"{i},1,2,w{i % 2}\n" for i in range(40))
    (tmp_path / "t.csv").write_bytes(f"a,b,c,y\n{good}{rows}\n".encode())
    with pytest.raises(InputError, match=r"line \d+: \d values, but the header names 4"):
        read_csv(tmp_path / "t.csv", None, MISSING)


ROWS = [f"{i},x{i}\n" for i in range(9000)]
TEXT = ("a,b\n" + "".join(ROWS)).encode()
PACKED = gzip.compress(TEXT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", TEXT + "1,é\n".encode("latin-1"), "is not UTF-8 text"),
        ("t.csv", TEXT.decode().encode("utf-16"), "is not UTF-8 text"),
        ("t.csv.gz", PACKED[:-99], "cannot be read"),
        ("t.csv.gz", PACKED[:9000] + bytes(99) + PACKED[9099:], "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_in_pieces_as_in_the_whole(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    for take in (read_table, lambda path: list(pieces(path, "tabular", (), 50, 9))):
        with pytest.raises(InputError, match=message) as caught:
            take(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("late", ["x, y", 'x ""y, z""', "x\ny", "x"])
def test_late_quotes_behind_a_space_are_read_the_same_in_pieces(late: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(ROWS[:70]) + f'1, "{late}"\n2,y\n')
    whole = read_csv(tmp_path / "t.csv", None, MISSING)
    found = pd.concat(read_csv_pieces(tmp_path / "t.csv", 20, ()), ignore_index=True)
    pd.testing.assert_frame_equal(found, whole)
    assert late == "x" or whole["b"].iloc[-2] == late.replace('""', '"')


def test_a_text_of_many_letters_is_read(tmp_path: Path) -> None:
    rows = "".join(f'"{"many words, " * 12_000}{i}",{"pq"[i % 2]}\n' for i in range(12))
    (tmp_path / "t.csv").write_text("text,y\n" + rows)
    assert read_csv(tmp_path / "t.csv", None, MISSING)["text"].str.len().min() > 2**17


def test_classes_that_differ_in_capitals_only_get_a_note() -> None:
    data = read(table(y=labels("Yes", "yes", "no")), target="y")
    assert any("'Yes' and 'yes' differ in capitals only" in note for note in data.notes)
    data = read(table(y=labels("Yes", "maybe", "no")), target="y")
    assert not any("capitals" in note for note in data.notes)


def test_a_test_table_without_the_target_is_left_out(tmp_path: Path) -> None:
    write(table(y=labels("p", "q")), tmp_path / "train.csv")
    write(table(), tmp_path / "test.csv")
    data = read(tmp_path, target="y")
    assert sum(map(len, data.parts.values())) == N
    assert any("test.csv has no column 'y'" in note for note in data.notes)
    write(table(y=labels("p", "q")).drop(columns="a"), tmp_path / "val.csv")
    with pytest.raises(InputError, match="'a' are in only one of"):
        read(tmp_path, target="y")


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("price, EUR", ["price, EUR"]),
        (["price, EUR", "b"], ["price, EUR", "b"]),
        (["price", " EUR", "b"], ["price, EUR", "b"]),
        ("b,price, EUR", ["b", "price, EUR"]),
        ("a,b", ["a", "b"]),
    ],
)
def test_a_target_may_have_a_comma_in_its_name(target: object, names: list[str]) -> None:
    frame = table(**{"price, EUR": RNG.random(N), "c": RNG.random(N)})
    assert [each.name for each in read(frame, target=target).targets] == names


# Columns to ignore -----------------------------------------------------------------------


def modality_sources(folder: Path) -> dict[str, tuple[Path, str]]:
    texts = [f"a sentence of some plain words {i}" for i in range(N)]
    more = {"extra": RNG.random(N), "y": labels("p", "q")}
    found = {}
    for name, columns in {
        "tabular": {"a": RNG.random(N)},
        "text": {"text": texts},
        "multimodal": {"a": RNG.random(N), "text": texts},
        "images": {"file_name": pictures(folder)},
    }.items():
        found[name] = (write(pd.DataFrame(columns | more), folder / f"{name}.csv"), "y")
    graphs = folder / "graphs"
    graphs.mkdir()
    nodes = {"id": range(N), "f": RNG.random(N), "extra": RNG.random(N), "y": labels("p", "q")}
    write(pd.DataFrame(nodes), graphs / "nodes.csv")
    edges = {"source": range(N), "target": [(i + 1) % N for i in range(N)]}
    write(pd.DataFrame(edges), graphs / "edges.csv")
    return found | {"graphs": (graphs, "y")}


@pytest.mark.parametrize("modality", ["tabular", "text", "multimodal", "images", "graphs"])
def test_a_column_is_ignored_in_every_modality(modality: str, tmp_path: Path) -> None:
    source, target = modality_sources(tmp_path)[modality]
    given = {"modality": modality} if modality == "images" else {}
    data = read(source, target=target, columns={"extra": "ignore"}, **given)
    assert data.modality == modality
    assert "extra" not in json.dumps(data.profile.to_dict())
    with pytest.raises(UsageError, match=r"no input column 'extro'.*did you mean 'extra'"):
        read(source, target=target, columns={"extro": "ignore"}, **given)


def test_a_column_of_categories_makes_no_multimodal_data(tmp_path: Path) -> None:
    frame = table(zone=labels(1, 2, 3), y=labels("p", "q"))
    data = read(write(frame, tmp_path / "t.csv"), target="y", columns={"zone": "categorical"})
    assert data.modality == "tabular"
    again = encode(write(frame.head(1), tmp_path / "one.csv"), data.profile, "tabular")
    np.testing.assert_array_equal(again.inputs["categorical"], data.inputs["categorical"][:1])


@pytest.mark.parametrize("kind", ["zone=image", "zone=text"])
def test_a_type_of_another_modality_is_refused(kind: str) -> None:
    name, _, given = kind.partition("=")
    with pytest.raises(UsageError, match="cannot be of the type"):
        read(
            table(zone=labels("u", "v"), y=labels("p", "q")),
            target="y", modality="tabular", columns={name: given},
        )  # fmt: skip


def test_ignore_and_commas_work_on_the_command_line(tmp_path: Path) -> None:
    frame = table(**{"price, EUR": RNG.random(N), "customer, id": range(N)})
    file = write(frame, tmp_path / "t.csv")
    words = ["--columns", "customer, id=ignore", "-f", "mlp"]
    done = CliRunner().invoke(cli, ["design", str(file), "-t", "price, EUR", *words])
    assert done.exit_code == 0, done.output
    assert "2 numeric columns" in done.output


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
def test_a_pipe_is_read(form: str, tmp_path: Path) -> None:
    file = write(table(y=labels("01", "02")), tmp_path / f"t.{form}")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(file.read_bytes()))
    writer.start()
    data = read(pipe, target="y")
    writer.join()
    assert data.targets[0].classes == ("01", "02")
    assert data.profile.fingerprint == read(file, target="y").profile.fingerprint
