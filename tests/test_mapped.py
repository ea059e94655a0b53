"""Tables that are larger than memory: the same data set, of a few columns at a time."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nas.data import Dataset, encode, mapped, read
from nas.data.tables import read_table
from nas.task import InputError

ROWS = 400


@pytest.fixture
def small_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Memory for three columns; returns the folder of their files."""
    monkeypatch.setenv("NAS_DECODED", str(tmp_path / "decoded"))
    for module in ("mapped", "tabular", "csv_pieces"):
        monkeypatch.setattr(f"nas.data.{module}.resident_limit", lambda: 3 * 8 * ROWS)
    return tmp_path / "decoded"


def table() -> pd.DataFrame:
    """All kinds of columns, with and without gaps."""
    rng = np.random.default_rng(0)
    gaps = rng.random(ROWS) < 0.2
    days = pd.date_range("2020-01-01", periods=ROWS)
    amounts = pd.Series(rng.integers(1000, 9999, ROWS)).map("${:,}".format)
    return pd.DataFrame(
        {
            "number": rng.normal(size=ROWS).astype(np.float32),
            "gaps": np.where(gaps, np.nan, rng.normal(size=ROWS)),
            "seconds": rng.integers(0, 10_000, ROWS) + 1_700_000_000,
            "count": pd.Series(rng.integers(0, 9, ROWS), dtype="Int64").mask(gaps),
            "flag": rng.random(ROWS) < 0.5,
            "day": days,
            "moment": days.tz_localize("Europe/Berlin"),
            "colour": np.where(gaps, None, rng.choice(["red", "grün", "blue", "NA"], ROWS)),
            "letters": rng.choice(["", "a", "b"], ROWS),
            "size": pd.Categorical(rng.choice(["S", "M"], ROWS)),
            "amount": amounts,
            "code": rng.choice(["01", "2"], ROWS),
            "id": [f"id{i}" for i in range(ROWS)],
            "empty": np.nan,
            "blank": "",
            "silent": pd.Series([None] * ROWS, dtype="str"),
            "constant": "same",
            "group": rng.integers(0, 30, ROWS),
            "part": rng.choice(["train", "val", "test"], ROWS, p=[0.6, 0.2, 0.2]),
            "y": rng.choice(["yes", "no"], ROWS),
            "z": rng.normal(size=ROWS),
        }
    )


def written(folder: Path, name: str) -> Path:
    frame, place = table(), folder / name
    frame.loc[ROWS - 9 :] = frame.loc[:8].to_numpy()  # rows that leak from part to part
    frame = frame.astype(table().dtypes)
    if name == "parts":
        place.mkdir()
        for part, rows in frame.groupby("part"):
            rows.drop(columns="part").to_parquet(place / f"{part}.parquet")
    elif ".csv" in name:
        frame.to_csv(place, index=False)
    elif name.endswith(".parquet"):
        shuffled = frame.set_axis(np.random.default_rng(0).permutation(ROWS))
        shuffled.to_parquet(place, row_group_size=150)
    else:
        content = pa.Table.from_pandas(frame.set_axis(np.random.default_rng(0).permutation(ROWS)))
        new = pa.ipc.new_file if name.endswith(".feather") else pa.ipc.new_stream
        with pa.OSFile(str(place), "wb") as sink, new(sink, content.schema) as writer:
            writer.write_table(content, max_chunksize=150)
    return place


def assert_same(found: Dataset, expected: Dataset) -> None:
    assert replace(found, inputs={}, labels={}, parts={}) == replace(
        expected, inputs={}, labels={}, parts={}
    )
    for group in ("inputs", "labels", "parts"):
        arrays, others = getattr(found, group), getattr(expected, group)
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            values, wanted = (getattr(each, "values", each) for each in (array, others[name]))
            assert values.dtype == wanted.dtype
            np.testing.assert_array_equal(np.asarray(values), np.asarray(wanted))


@pytest.mark.parametrize(
    "how",
    [
        {"target": "y"},
        {"target": "z", "split": "0.6,0.2,0.2"},
        {"target": ["y", "z"], "split": "column=part"},
        {"target": "y", "split": "group=group"},
        {"target": "y", "split": "time=day"},
        {"target": "flag", "columns": {"count": "categorical", "code": "numeric", "id": "ignore"}},
        {"target": "part", "columns": {"y": "text", "number": "numeric"}},
    ],
    ids=str,
)
def test_a_large_table_gives_the_same_data_set(
    how: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = written(tmp_path, "table.parquet")
    expected = read(source, **how)
    request.getfixturevalue("small_memory")
    found = read(source, **how)
    assert_same(found, expected)
    assert isinstance(next(iter(found.inputs.values())), np.memmap) or found.profile.members
    again = encode(source, found.profile, found.modality, found.targets)
    for name, array in expected.inputs.items():
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(np.asarray(again.inputs[name]), array)


@pytest.mark.parametrize(
    "form", ["parts", "table.feather", "table.arrow", "table.csv", "table.csv.gz"]
)
def test_large_tables_of_other_forms_give_the_same_data_set(
    form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = written(tmp_path, form)
    expected = read(source, target="y")
    request.getfixturevalue("small_memory")
    assert_same(read(source, target="y"), expected)


@pytest.mark.parametrize("form", ["table.parquet", "table.feather", "table.arrow"])
def test_a_large_table_is_the_same_frame_with_its_columns_in_files(
    form: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path, form)
    expected = read_table(source)
    cache: Path = request.getfixturevalue("small_memory")
    batches: list[int] = []
    original = mapped._in_file
    monkeypatch.setattr(
        mapped, "_in_file", lambda frame: batches.append(frame.shape[1]) or original(frame)
    )
    found = read_table(source)
    pd.testing.assert_frame_equal(found, expected)
    assert batches == [3] * 7
    for name in ("number", "gaps", "flag", "day"):
        array: Any = found[name].to_numpy()
        while not isinstance(array, np.memmap):
            array = array.base
    held = sum(file.stat().st_size for file in cache.iterdir())
    texts = [c for c in found if isinstance(found[c].array, pd.arrays.ArrowStringArray)]
    assert held > sum(found[name].nbytes for name in [*texts, "number", "gaps", "flag", "day"])
    del found, array
    gc.collect()
    assert not list(cache.iterdir())


@pytest.mark.parametrize("form", ["table.parquet", "table.feather", "table.arrow"])
def test_the_first_rows_are_read_alone(form: str, tmp_path: Path) -> None:
    source = written(tmp_path, form)
    found = read_table(source, rows=200)
    expected = read_table(source).head(200)
    pd.testing.assert_frame_equal(found, expected)


def test_a_large_csv_is_the_same_frame_whatever_its_last_rows_hold(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each piece is parsed by itself; a column has the type that all of its rows say."""
    frame = pd.DataFrame({f"c{i}": range(ROWS) for i in range(4)}).astype(object)
    late = {"word": "many", "fraction": "2.5", "gap": "", "flag": "True", "large": 2**63}
    for name, value in late.items():
        frame[name] = [*range(ROWS - 1), value]
        frame[f"{name} first"] = [value, *range(ROWS - 1)]
    frame["begun"] = [*[""] * (ROWS - 3), "a", "b", "a"]
    frame["flags"] = [*[""] * 300, *["True", "False"] * 50]
    frame["code"] = [*[f"{i % 9}" for i in range(ROWS - 1)], "01"]
    source = tmp_path / "t.csv"
    frame.to_csv(source, index=False)
    expected = read_table(source, as_written={"code"})
    cache: Path = request.getfixturevalue("small_memory")
    found = read_table(source, as_written={"code"})
    assert list(cache.glob("scratch-*"))
    pd.testing.assert_frame_equal(found, expected)
    del found
    gc.collect()
    assert not list(cache.iterdir())


def test_a_large_csv_that_cannot_be_read_is_one_line_and_leaves_nothing(
    tmp_path: Path, small_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a,b\n" + "1,2\n" * 5000 + "3\n")
    with pytest.raises(InputError, match="line 5002: 1 values"):
        read_table(source)
    source.write_text("a,b\n" + "1,2\n" * 5000)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_feather", full)
    with pytest.raises(InputError, match=r"No space left on device\); set NAS_DECODED"):
        read_table(source)
    assert not list(small_memory.glob("scratch-*"))
