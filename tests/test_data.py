"""Reading data: what becomes of columns, images, labels and parts, and what is refused."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from nas import rules
from nas.data import Dataset, encode, read
from nas.data.samples import Samples
from nas.data.split import divide, draw
from nas.task import InputError, Task, UsageError


def frame(n: int = 60, seed: int = 0) -> pd.DataFrame:
    """A small table with one column of every ordinary sort."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "size": rng.normal(10, 3, n).round(3),
            "rooms": rng.integers(1, 6, n),
            "colour": rng.choice(["red", " green", "blue "], n),
            "sold": rng.random(n) < 0.5,
            "price": rng.normal(1e5, 1e4, n).round(2),
            "label": rng.choice(["yes", "no"], n),
        }
    )


def picture(path: Path, size: tuple[int, int] = (12, 10), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], bands), np.uint8)
    if mode in ("P", "1"):
        image = Image.fromarray(values[..., 0]).convert("RGB" if mode == "P" else "L").convert(mode)
    else:
        image = Image.fromarray(values.squeeze(), mode=mode)
    image.save(path)


def class_folders(root: Path, n: int = 8, classes: Sequence[str] = "ab", **kwargs: object) -> Path:
    for label in classes:
        for i in range(n):
            picture(root / label / f"{i}.png", seed=i + 100 * ord(label[-1]), **kwargs)  # type: ignore[arg-type]
    return root


# Tables ----------------------------------------------------------------------------------


def _write(table: pd.DataFrame, path: Path) -> Path:
    if ".parquet" in path.name:
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz", "t.parquet"])
def test_every_table_format_gives_the_same_data_as_the_frame(tmp_path, name):
    table = frame()
    from_file = read(_write(table, tmp_path / name), target="label")
    from_memory = read(table, target="label")
    assert from_file.profile == from_memory.profile
    assert from_file.targets == from_memory.targets


def test_a_folder_around_one_file_stands_for_the_file(tmp_path):
    (tmp_path / "alone").mkdir()
    file = _write(frame(), tmp_path / "alone" / "t.csv")
    from_folder = read(tmp_path / "alone", target="label")
    assert from_folder.profile == read(file, target="label").profile


def test_columns_are_numbers_or_categories_by_what_they_hold():
    columns = {c.name: c for c in read(frame(), target="label").profile.columns}
    kinds = {name: column.kind for name, column in columns.items()}
    assert kinds == {
        "size": "numeric", "rooms": "numeric", "colour": "categorical",
        "sold": "numeric", "price": "numeric",
    }  # fmt: skip
    assert columns["colour"].categories == ("blue", "green", "red")


def test_statistics_are_those_of_the_training_part_alone():
    table = frame(200)
    table.loc[::7, "size"] = np.nan
    data = read(table, target="label", seed=3)
    train = table.iloc[data.parts["train"]]["size"].astype(np.float32)
    column = data.profile.columns[0]
    assert column.mean == pytest.approx(train.mean(), rel=1e-6)
    assert column.std == pytest.approx(train.std(ddof=0), rel=1e-5)
    assert column.missing == pytest.approx(train.isna().mean())
    edges = np.nanquantile(train.astype(np.float64), np.linspace(0, 1, 49))
    np.testing.assert_allclose(column.quantiles, edges)  # all values differ: plain quantiles
    target = data.targets[0]
    counts = table["label"].iloc[data.parts["train"]].value_counts()
    assert target.counts == (counts["no"], counts["yes"])


def test_a_value_that_fills_a_bin_leaves_the_other_edges_to_the_tail():
    gain = np.concatenate([np.zeros(900), np.linspace(1.0, 100.0, 100)])
    table = pd.DataFrame({"gain": gain, "y": ["a", "b"] * 500, "split": ["train"] * 1000})
    table.loc[::5, "split"] = "val"
    table.loc[1::5, "split"] = "test"
    column = read(table, target="y").profile.columns[0]
    train = gain[(table["split"] == "train").to_numpy()]
    tail = np.quantile(train[train > 0], np.linspace(0, 1, 48))
    np.testing.assert_allclose(column.quantiles, np.concatenate([[0.0], tail]))


def test_missing_markers_infinities_and_new_categories_are_coded_as_missing(tmp_path):
    table = pd.DataFrame(
        {
            "x": ["1", "?", "NA", " 4", "inf"] * 12,
            "c": ["a", " b", "?", "", "None"] * 12,
            "y": [0, 1, 0, 1, 1] * 12,
        }
    )
    data = read(_write(table, tmp_path / "t.csv"), target="y")
    numeric = data.inputs["numeric"][:5, 0]
    np.testing.assert_array_equal(numeric, [1, np.nan, np.nan, 4, np.nan])
    assert data.profile.columns[1].categories == ("None", "a", "b")
    np.testing.assert_array_equal(data.inputs["categorical"][:5, 0], [2, 3, 0, 0, 1])
    assert any("infinite" in note for note in data.notes)
    new = encode(pd.DataFrame({"x": [2.5], "c": ["zebra"]}), data.profile, "tabular")
    assert new.inputs["categorical"].item() == 0
    assert new.inputs["numeric"].item() == 2.5
    assert new.labels == {}


def test_categories_that_only_val_and_test_hold_are_unknown():
    table = frame(100)
    table["split"] = ["train"] * 60 + ["dev"] * 20 + ["TEST"] * 20
    table.loc[70:, "colour"] = "violet"
    data = read(table, target="label")
    assert data.profile.columns[2].categories == ("blue", "green", "red")
    assert (data.inputs["categorical"][70:] == 0).all()


def test_a_column_called_split_that_names_other_things_is_an_input(tmp_path):
    table = frame(100).assign(split=["test", "race", "dev", "trial", "race"] * 20)
    data = read(table, target="label")
    assert data.profile.columns[-1].categories == ("dev", "race", "test", "trial")
    assert data.profile.split_method == "stratified 70/15/15"
    table["file_name"] = [f"{i}.png" for i in range(100)]
    for name in table["file_name"]:
        picture(tmp_path / name)
    table[["file_name", "split", "label"]].to_csv(tmp_path / "metadata.csv", index=False)
    assert read(tmp_path).profile.split_method == "stratified 70/15/15"


def test_useless_columns_are_dropped_with_a_note():
    table = frame().assign(
        constant=1, nothing=np.nan, only="x", name=[f"person {i}" for i in range(60)]
    )
    data = read(table, target="label")
    assert [c.name for c in data.profile.columns] == ["size", "rooms", "colour", "sold", "price"]
    for name in ("constant", "nothing", "only", "name"):
        assert sum(repr(name) in note for note in data.notes) == 1


def test_dates_become_days_and_say_so():
    days = pd.date_range("2020-01-01", periods=60)
    table = frame().assign(moment=days, text=days.strftime("%Y-%m-%d"))
    data = read(table, target="label")
    expected = np.arange(60) + (np.datetime64("2020-01-01") - np.datetime64("1970-01-01")).astype(
        int
    )
    numeric = [c.name for c in data.profile.columns if c.kind == "numeric"]
    for name in ("moment", "text"):
        np.testing.assert_array_equal(data.inputs["numeric"][:, numeric.index(name)], expected)
    assert sum("days since" in note for note in data.notes) == 2


@pytest.mark.parametrize("texts", [["31/01/2024", "1.2.24"], ["$5", "€7"], ["1:30", "12:05"]])
def test_dates_and_amounts_in_another_notation_are_categories_and_say_so(texts):
    data = read(frame().assign(odd=texts * 30, fine=["8a", "8b"] * 30), target="label")
    assert [c.name for c in data.profile.columns if c.kind == "categorical"][1:] == ["odd", "fine"]
    (note,) = (note for note in data.notes if "must be written like" in note)
    assert repr(texts[0]) in note
    assert "'odd'" in note


def test_a_column_that_numbers_the_rows_is_noted():
    order = np.random.default_rng(0).permutation(60)
    table = frame().assign(key=order + 7, gaps=2 * order, holes=np.where(order, order, np.nan))
    notes = [note for note in read(table, target="label").notes if "another whole number" in note]
    assert len(notes) == 2
    assert "'key'" in notes[0]
    assert "'gaps'" in notes[1]


def test_a_number_column_with_a_stray_word_stays_numeric_and_says_so():
    table = frame(100).astype({"size": object})
    table.loc[5, "size"] = "unknown"
    data = read(table, target="label")
    assert data.profile.columns[0].kind == "numeric"
    assert np.isnan(data.inputs["numeric"][5, 0])
    assert any("'unknown'" in note for note in data.notes)


@pytest.mark.parametrize("dtype", ["category", "object"])
def test_category_and_object_dtype_keep_whole_numbers_as_names(dtype):
    table = frame().astype({"rooms": dtype})
    column = read(table, target="label").profile.columns[1]
    assert (column.kind, column.categories) == ("categorical", ("1", "2", "3", "4", "5"))


def test_only_the_thousand_most_frequent_categories_are_kept():
    names = [f"c{i:04d}" for i in range(1200)]
    table = pd.DataFrame({"c": names * 3 + names[:900] * 5, "y": [0, 1] * 4050, "split": "train"})
    table = pd.concat([table, table.head(20).assign(split="test")])
    table = pd.concat([table, table.head(20).assign(split="val")])
    data = read(table, target="y")
    assert len(data.profile.columns[0].categories) == 1000
    assert set(names[:900]) < set(data.profile.columns[0].categories)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)),
            st.one_of(st.none(), st.sampled_from(["a", "b", "c d", "é"])),
        ),
        min_size=20,
        max_size=60,
    )
)
@settings(max_examples=25, deadline=None)
def test_codes_decode_to_the_table_they_came_from(rows):
    table = pd.DataFrame(rows, columns=["x", "c"])
    table["anchor"] = np.arange(len(table)) % 5
    table["y"] = np.arange(len(table)) % 2
    data = read(table, target="y")
    seen = {"numeric": 0, "categorical": 0}
    for column in data.profile.columns:
        codes = data.inputs[column.kind][:, seen[column.kind]]
        seen[column.kind] += 1
        if column.kind == "categorical":
            decoded = [None, *column.categories]
            for code, value in zip(codes, table[column.name], strict=True):
                text = str(int(value)) if isinstance(value, float) and value == value else value
                assert decoded[code] == text or (code == 0 and text not in column.categories)
        else:
            np.testing.assert_array_equal(codes, table[column.name].astype(np.float32))
    again = encode(table, data.profile, "tabular", data.targets)
    for kind, array in data.inputs.items():
        np.testing.assert_array_equal(again.inputs[kind], array)
    np.testing.assert_array_equal(again.labels["y"], data.labels["y"])


@pytest.mark.parametrize(
    "text",
    [
        "a;b;y\n" + "".join(f"{i};{i % 3}.5;{i % 2}\n" for i in range(30)),
        "\ufeffa,b,y\r\n" + "".join(f"{i},{i % 3}.5,{i % 2}\r\n" for i in range(30)),
        ",a,b,y\n" + "".join(f"{i},{i},{i % 3}.5,{i % 2}\n" for i in range(30)),
        '"a", b ,y\n\n' + "".join(f'{i}, "{i % 3}.5",{i % 2}\n\n' for i in range(30)),
        "a;b;y\n" + "".join(f"{i};{i % 3},5{'e0' * (i % 2)};{i % 2}\n" for i in range(30)),
    ],
    ids=[
        "semicolons",
        "byte-order mark",
        "saved index",
        "spaces and blank lines",
        "decimal commas",
    ],
)
def test_the_dialects_of_csv_read_alike(tmp_path, text):
    (tmp_path / "t.csv").write_bytes(text.encode())
    data = read(tmp_path / "t.csv", target="y")
    rows = np.array([[i, i % 3 + 0.5] for i in range(30)], np.float32)
    np.testing.assert_array_equal(data.inputs["numeric"], rows)
    assert [c.name for c in data.profile.columns] == ["a", "b"]


def test_extension_types_of_pandas_are_read_and_lists_do_no_harm():
    table = frame().assign(
        i=pd.array([1, None, 3] * 20, dtype="Int64"),
        b=pd.array([True, None, False] * 20, dtype="boolean"),
        zone=pd.date_range("2020-01-01", periods=60, tz="Europe/Paris"),
        lists=[[1, k % 2] for k in range(60)],
    )
    data = read(table, target="label")
    numeric = [c.name for c in data.profile.columns if c.kind == "numeric"]
    columns = dict(zip(numeric, data.inputs["numeric"].T, strict=True))
    np.testing.assert_array_equal(columns["i"][:3], [1, np.nan, 3])
    np.testing.assert_array_equal(columns["b"][:3], [1, np.nan, 0])
    np.testing.assert_allclose(np.diff(columns["zone"])[:30], 1)
    assert next(c for c in data.profile.columns if c.name == "lists").categories == (
        "[1, 0]", "[1, 1]",
    )  # fmt: skip


# Problems --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "kind", "classes"),
    [
        (["no", "yes"] * 30, "binary", ("no", "yes")),
        ([True, False] * 30, "binary", ("False", "True")),
        ([10, 9, 2] * 20, "multiclass", ("2", "9", "10")),
        ([0.0, 1.0] * 30, "binary", ("0", "1")),
        (["None", "some"] * 30, "binary", ("None", "some")),
        (list(range(60)), "regression", ()),
        (list(np.linspace(0, 1, 60)), "regression", ()),
        (list(range(20)) * 3, "regression", ()),
        (["1.5", "2.5", "7"] * 20, "regression", ()),
    ],
)
def test_the_problem_follows_from_the_target(y, kind, classes):
    target = read(frame().assign(y=y), target="y").targets[0]
    assert (target.kind, target.classes) == (kind, classes)


def test_problem_overrides_what_the_target_looks_like():
    table = frame().assign(y=list(range(6)) * 10)
    assert read(table, target="y").targets[0].kind == "multiclass"
    assert read(table, target="y", problem="regression").targets[0].kind == "regression"
    table["y"] += 0.5
    assert read(table, target="y", problem="classification").targets[0].outputs == 6


def test_several_yes_no_columns_are_one_multilabel_target_and_others_one_each():
    table = frame().assign(a=[0, 1, 1] * 20, b=[1, 0, 1] * 20)
    data = read(table, target=["a", "b"])
    assert [(t.name, t.kind, t.classes) for t in data.targets] == [
        ("a+b", "multilabel", ("a", "b"))
    ]
    np.testing.assert_array_equal(data.labels["a+b"], table[["a", "b"]].to_numpy(np.float32))
    mixed = read(table, target=["label", "price"])
    assert [(t.name, t.kind) for t in mixed.targets] == [
        ("label", "binary"),
        ("price", "regression"),
    ]
    np.testing.assert_array_equal(mixed.labels["price"], table["price"])


@pytest.mark.parametrize("loader", [load_iris, load_wine, load_breast_cancer, load_diabetes])
@pytest.mark.parametrize("form", ["numpy", "pandas", "torch"])
def test_bundled_tables_are_read_from_arrays_frames_and_tensors(loader, form):
    bunch = loader(as_frame=form == "pandas")
    x, y = bunch.data, bunch.target
    if form == "torch":
        import torch

        x, y = torch.from_numpy(x), torch.from_numpy(y)
    data = read((x, y))
    reference = loader()
    np.testing.assert_array_equal(data.inputs["numeric"], reference.data.astype(np.float32))
    if loader is load_diabetes:
        assert data.targets[0].kind == "regression"
    else:
        assert data.targets[0].outputs == len(reference.target_names)
    np.testing.assert_array_equal(next(iter(data.labels.values())), reference.target)


def test_two_dimensional_y_is_multilabel_or_several_regressions():
    x, rng = load_iris().data, np.random.default_rng(0)
    assert [t.kind for t in read((x, rng.integers(0, 2, (150, 3)))).targets] == ["multilabel"]
    column = read((x, rng.integers(0, 2, (150, 1)))).targets
    assert [(t.name, t.kind) for t in column] == [("target", "binary")]
    data = read((x, rng.normal(size=(150, 2))))
    assert [(t.name, t.kind) for t in data.targets] == [("y0", "regression"), ("y1", "regression")]


# Parts -----------------------------------------------------------------------------------


@given(
    st.lists(st.integers(3, 40), min_size=2, max_size=8),
    st.tuples(st.floats(0.2, 0.8), st.floats(0.05, 0.5), st.floats(0.05, 0.5)),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_class_is_in_every_part_and_the_parts_cover_everything(sizes, ratios, seed):
    strata = np.repeat(np.arange(len(sizes)), sizes)
    codes = draw(strata, ratios, np.random.default_rng(seed))
    assert len(codes) == len(strata)
    for stratum in range(len(sizes)):
        assert set(codes[strata == stratum]) == {0, 1, 2}
    np.testing.assert_array_equal(codes, draw(strata, ratios, np.random.default_rng(seed)))


@given(st.integers(10, 200), st.integers(0, 3), st.sampled_from(["price", "label"]))
@settings(max_examples=20, deadline=None)
def test_parts_are_disjoint_sorted_and_deterministic(n, seed, target):
    table = frame(n, seed).assign(label=[("yes", "no")[i % 2] for i in range(n)])
    data, again = read(table, target=target, seed=seed), read(table, target=target, seed=seed)
    rows = np.concatenate(list(data.parts.values()))
    assert sorted(rows) == list(range(n))
    assert all((np.diff(part) > 0).all() and part.dtype == np.int64 for part in data.parts.values())
    assert data.profile == again.profile


def test_many_small_classes_still_give_parts_of_the_asked_size():
    codes = draw(np.repeat(np.arange(100), 10), (0.7, 0.15, 0.15), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(codes), [700, 150, 150], atol=2)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([1000], 150), ([330_000], 49_500), ([2_000_000], 50_000), ([999_000, 1_000], 150_000),
     ([990_000, 10_000], 50_000), ([990_000, 2_000], 99_200), ([10**6, 3], 150_000)],
)  # fmt: skip
def test_of_many_samples_few_per_cent_are_enough_to_validate_and_test_by(counts, expected):
    """The smallest parts that still know each class, as far as 15 % would."""
    strata = np.repeat(np.arange(len(counts)), counts)
    samples = Samples(pd.DataFrame({"x": strata}), pd.DataFrame({"y": strata}))
    parts, method = divide(samples, strata, None, 0)
    assert len(parts["val"]) == pytest.approx(expected, abs=1)
    assert len(parts["test"]) == pytest.approx(expected, abs=1)
    share = len(parts["val"]) / len(strata)
    rarest = np.bincount(strata[parts["val"]]).min()
    assert rarest >= min(200, 0.15 * min(counts) - 1)
    assert method == f"stratified {100 - 200 * share:.4g}/{100 * share:.4g}/{100 * share:.4g}"
    given = np.where(np.arange(len(strata)) % 2, 0, 2)
    samples = replace(samples, given=given.astype(np.int8))
    _, method = divide(samples, strata, None, 0)
    assert method.startswith("given train and test, stratified ")


def test_another_seed_gives_another_split_of_the_same_data():
    first, second = (read(frame(), target="label", seed=seed).profile for seed in (0, 1))
    assert first.fingerprint == second.fingerprint
    assert first.split != second.split


def test_fingerprint_ignores_memory_order_and_sees_a_single_value():
    x, y = load_wine(return_X_y=True)
    reference = read((x, y)).profile.fingerprint
    assert read((np.asfortranarray(x), y)).profile.fingerprint == reference
    x[3, 3] += 1
    assert read((x, y)).profile.fingerprint != reference


def test_a_folder_of_part_files_gives_the_split_and_val_comes_from_train(tmp_path):
    _write(frame(80), tmp_path / "train.csv")
    _write(frame(40, 1), tmp_path / "test.csv.gz")
    data = read(tmp_path, target="label")
    np.testing.assert_array_equal(data.parts["test"], np.arange(80, 120))
    assert len(data.parts["val"]) == 12
    assert data.profile.split_method == "given train and test, stratified 15 % of train as val"
    _write(frame(30, 2), tmp_path / "valid.parquet")
    data = read(tmp_path, target="label")
    assert {name: len(rows) for name, rows in data.parts.items()} == {
        "train": 80, "val": 30, "test": 40,
    }  # fmt: skip
    assert data.profile.split_method == "given train and val and test"


def test_ratios_groups_and_time_divide_as_asked():
    table = frame(200).assign(
        who=np.arange(200) % 23, when=np.random.default_rng(1).permutation(200)
    )
    half = read(table, target="price", split="0.5,0.25,0.25").parts
    assert [len(half[name]) for name in ("train", "val", "test")] == [100, 50, 50]
    groups = read(table, target="label", split="group=who")
    held = [set(table["who"].iloc[rows]) for rows in groups.parts.values()]
    assert not held[0] & held[1]
    assert not (held[0] | held[1]) & held[2]
    np.testing.assert_allclose(
        [len(r) / 200 for r in groups.parts.values()], [0.7, 0.15, 0.15], atol=0.06
    )
    assert "who" not in [c.name for c in groups.profile.columns]
    by_time = read(table, target="label", split="time=when").parts
    when = table["when"].to_numpy()
    assert when[by_time["train"]].max() < when[by_time["val"]].min()
    assert when[by_time["val"]].max() < when[by_time["test"]].min()
    assert [len(by_time[name]) for name in ("train", "val", "test")] == [140, 30, 30]


@pytest.mark.parametrize("ignored", [True, False])
def test_a_column_that_divides_the_data_may_be_ignored_too(ignored):
    table = frame(200).assign(who=np.arange(200) % 23)
    options = {"columns": {"who": "ignore"}} if ignored else {}
    data = read(table, target="label", split="group=who", **options)
    held = [set(table["who"].iloc[rows]) for rows in data.parts.values()]
    assert not held[0] & (held[1] | held[2])
    assert "who" not in [column.name for column in data.profile.columns]


def test_a_column_that_divides_sequences_is_no_step_of_them():
    steps = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 8))).add_prefix("t")
    table = steps.assign(subject=np.arange(60) % 12, label=np.arange(60) % 2)
    data = read(table, target="label", modality="series", split="group=subject")
    assert data.profile.series.columns == tuple(steps)
    held = [set(table["subject"].iloc[rows]) for rows in data.parts.values()]
    assert not held[0] & (held[1] | held[2])


def test_the_column_split_may_be_named_as_the_one_that_divides():
    table = frame(100).assign(split=["train"] * 60 + ["dev"] * 20 + ["TEST"] * 20)
    named = read(table, target="label", split="column=split")
    for part, rows in read(table, target="label").parts.items():
        np.testing.assert_array_equal(named.parts[part], rows)
    assert "split" not in [column.name for column in named.profile.columns]


def clouds_of_people(
    folder: Path, people: np.ndarray, test: np.ndarray, labels: np.ndarray
) -> Dataset:
    rows = np.arange(len(people))
    for i in rows:
        np.save(folder / f"{i}.npy", np.random.default_rng(i).normal(size=(8, 3)))
    table = pd.DataFrame({
        "file_name": [f"{i}.npy" for i in rows], "label": labels, "person": people, "shot": rows,
        "split": np.where(test, "test", "train"),
    })  # fmt: skip
    table.to_csv(folder / "metadata.csv", index=False)
    return read(folder, target="label", modality="pointclouds")


def test_where_the_test_part_holds_other_people_the_validation_part_does_too(tmp_path):
    people = np.repeat(np.arange(40), 6)
    data = clouds_of_people(tmp_path, people, people >= 34, np.tile(["a", "b"], 120))
    held = [set(people[rows]) for rows in data.parts.values()]
    assert [len(each) for each in held] == [29, 5, 6]
    assert not held[0] & held[1]
    assert "15% of train as val with other values of 'person'" in data.profile.split_method


def test_folds_never_mix_people_whom_the_parts_keep_apart(tmp_path):
    people = np.repeat(np.arange(40), 6)
    data = clouds_of_people(tmp_path, people, people >= 34, np.tile(["a", "b"], 120))
    task = Task("pointclouds", data.targets, data.profile).with_objectives()
    assert rules.folds(task) == 1
    drawn = replace(data.profile, split_method="given train and test, stratified 15 % of train")
    assert rules.folds(replace(task, profile=drawn)) == 5


def test_a_named_column_of_parts_keeps_people_apart_as_one_called_split_does(tmp_path):
    people = np.repeat(np.arange(40), 6)
    clouds_of_people(tmp_path, people, people >= 34, np.tile(["a", "b"], 120))
    table = pd.read_csv(tmp_path / "metadata.csv").rename(columns={"split": "part"})
    table.to_csv(tmp_path / "metadata.csv", index=False)
    data = read(tmp_path, target="label", modality="pointclouds", split="column=part")
    held = [set(people[rows]) for rows in data.parts.values()]
    assert not held[0] & held[1]
    assert "other values of 'person', as test has by part" in data.profile.split_method


@pytest.mark.parametrize("apart", [True, False])
def test_folds_never_mix_people_whom_given_parts_keep_apart(tmp_path, apart):
    people = np.repeat(np.arange(40), 6)
    clouds_of_people(tmp_path, people, people >= 34, np.tile(["a", "b"], 120))
    table = pd.read_csv(tmp_path / "metadata.csv")
    val = people // 6 == 4 if apart else np.arange(len(people)) % 7 == 0
    table["split"] = np.where(people >= 34, "test", np.where(val, "val", "train"))
    table.to_csv(tmp_path / "metadata.csv", index=False)
    data = read(tmp_path, target="label", modality="pointclouds")
    assert data.profile.parts_differ == apart
    task = Task("pointclouds", data.targets, data.profile).with_objectives()
    assert rules.folds(task) == (1 if apart else 5)


@pytest.mark.parametrize("case", ["few people", "one of a class"])
def test_few_people_do_not_divide_and_the_split_says_that_the_test_part_has_others(tmp_path, case):
    people = np.repeat(np.arange(8 if case == "few people" else 40), 10)
    classes = people > 0 if case == "one of a class" else np.arange(len(people)) % 2
    data = clouds_of_people(
        tmp_path, people, people >= people.max() - 1, np.where(classes, "a", "b")
    )
    held = [set(people[rows]) for rows in data.parts.values()]
    assert held[0] & held[1]
    assert "test has other values of 'person'" in data.profile.split_method


def test_people_whom_both_parts_share_do_not_divide(tmp_path):
    people = np.repeat(np.arange(40), 6)
    test = people >= 34
    test[:3] = True
    data = clouds_of_people(tmp_path, people, test, np.tile(["a", "b"], 120))
    assert data.profile.split_method == "given train and test, stratified 15 % of train as val"


@example([0, 1, 2] * 4, "group")
@example([0] * 31 + [1] * 8 + [2], "time")
@given(st.lists(st.integers(0, 6), min_size=12, max_size=60), st.sampled_from(["group", "time"]))
@settings(max_examples=40, deadline=None)
def test_groups_and_moments_are_never_torn_and_no_part_is_empty(keys, how):
    table = frame(len(keys)).assign(key=keys, price=np.arange(len(keys)) + 0.5)
    if len(set(keys)) < 3:
        with pytest.raises(InputError, match="cannot fill three parts"):
            read(table, target="price", split=f"{how}=key")
        return
    parts = read(table, target="price", split=f"{how}=key").parts
    held = [set(np.array(keys)[rows]) for rows in parts.values()]
    assert all(held)
    assert sum(map(len, held)) == len(set(keys))
    if how == "time":
        assert max(held[0]) < min(held[1])
        assert max(held[1]) < min(held[2])


def test_samples_shared_by_train_and_test_are_counted(tmp_path):
    train = frame(80)
    _write(train, tmp_path / "train.csv")
    _write(pd.concat([frame(40, 1), train.head(7)]), tmp_path / "test.csv")
    _write(frame(20, 2), tmp_path / "val.csv")
    notes = read(tmp_path, target="label").notes
    printed = "7 of 67 samples of val and test (10 %) also occur"
    assert any(note.startswith(printed) for note in notes)


# Images ----------------------------------------------------------------------------------


def test_class_folders_are_images_of_the_median_size(tmp_path):
    class_folders(tmp_path, size=(20, 14))
    picture(tmp_path / "a" / "large.png", (300, 210))
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    data = read(tmp_path)
    assert data.modality == "images"
    assert data.profile.inputs == {"image": (3, 14, 20)}
    assert data.inputs["image"].shape == (17, 3, 14, 20)
    assert data.targets[0].classes == ("a", "b")
    assert any("210 x 300" in note for note in data.notes)
    pixels = data.inputs["image"][data.parts["train"]] / 255
    np.testing.assert_allclose(data.profile.channel_mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.profile.channel_std, pixels.std(axis=(0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("parts", [("",), ("train", "test")], ids=["whole", "divided"])
def test_class_folders_are_classes_even_if_called_null_or_by_number(tmp_path, parts):
    classes = ["NA", "null", *(f"{i:05d}" for i in range(25))]
    for part in parts:
        for label in classes[: -1 if part == "test" else None]:
            class_folders(tmp_path / part, 4, classes=[label])
    data = read(tmp_path)
    target = data.targets[0]
    assert (target.kind, target.classes) == ("multiclass", tuple(sorted(classes)))
    again = encode(tmp_path / parts[0], data.profile, "images", data.targets)
    files = sorted((tmp_path / parts[0]).rglob("*.png"))
    named = [target.classes[k] for k in again.labels["label"]]
    assert named == [file.parent.name for file in files]


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [((12, 10), None, (10, 12)), ((256, 128), None, (64, 128)), ((4, 6), None, (8, 8)),
     ((12, 10), 24, (20, 24)), ((300, 300), 160, (160, 160))],
)  # fmt: skip
def test_the_longer_side_is_at_most_128_unless_asked_for(tmp_path, size, image_size, expected):
    data = read(class_folders(tmp_path, 6, size=size), image_size=image_size)
    assert data.inputs["image"].shape[2:] == expected


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "RGBA", "P", "CMYK", "LA"])
def test_any_mode_becomes_grey_or_colour(tmp_path, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    for label in "ab":
        for i in range(6):
            picture(tmp_path / label / f"{i}{suffix}", mode=mode, seed=i + ord(label))
    channels = 1 if mode in ("L", "1", "LA") else 3
    assert read(tmp_path).inputs["image"].shape == (12, channels, 10, 12)


def test_grey_images_stored_in_colour_are_one_channel(tmp_path):
    class_folders(tmp_path, mode="L")
    grey = read(tmp_path)
    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            colour = image.convert("RGB")
        colour.save(path)
    again = read(tmp_path)
    np.testing.assert_array_equal(again.inputs["image"], grey.inputs["image"])
    assert any("read as one channel" in note for note in again.notes)


def test_sixteen_bit_keeps_its_range_and_transparency_is_white(tmp_path):
    for label in "ab":
        for i in range(6):
            picture(tmp_path / label / f"{i}.png", (8, 8), mode="L")
    Image.fromarray(np.full((8, 8), 65535 // 2, np.uint16)).save(tmp_path / "a" / "0.png")
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "a" / "1.png")
    pixels = read(tmp_path).inputs["image"]
    assert pixels.shape[1] == 1
    assert set(pixels[0].ravel()) == {127}
    assert set(pixels[1].ravel()) == {255}


def test_exif_orientation_is_respected(tmp_path):
    upright = Image.fromarray(np.arange(128, dtype=np.uint8).reshape(16, 8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: shown rotated by 90 degrees clockwise
    for path in class_folders(tmp_path, 6, mode="L").rglob("*.png"):
        upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    pixels = read(tmp_path).inputs["image"]
    np.testing.assert_array_equal(pixels[:, 0], np.stack([np.asarray(upright)[..., 0]] * 12))


def test_given_image_folders_and_metadata_are_read(tmp_path):
    class_folders(tmp_path / "parts" / "train", 10)
    class_folders(tmp_path / "parts" / "Test", 4)
    data = read(tmp_path / "parts")
    assert {name: len(rows) for name, rows in data.parts.items()} == {
        "train": 17, "val": 3, "test": 8,
    }  # fmt: skip
    flat = tmp_path / "flat"
    for i in range(12):
        picture(flat / "img" / f"{i}.png", seed=i)
    listing = pd.DataFrame({"file_name": [f"img/{i}.png" for i in range(12)], "age": range(12)})
    _write(listing.assign(age=listing["age"] + 0.5), flat / "metadata.csv")
    data = read(flat)
    assert (data.targets[0].name, data.targets[0].kind) == ("age", "regression")
    np.testing.assert_array_equal(data.labels["age"], np.arange(12) + 0.5)
    _write(listing.assign(k=[0, 1] * 6), flat / "metadata.csv")
    with pytest.raises(UsageError, match="name the target column, one of age, k"):
        read(flat)
    assert read(flat, target="k").targets[0].kind == "binary"


@pytest.mark.parametrize("layout", ["nhw", "nhwc", "nchw", "torch", "float"])
def test_image_arrays_of_every_layout_agree(layout):
    digits = load_digits()
    grey = (digits.images * 15).astype(np.uint8)[:200]
    y = digits.target[:200]
    colour = np.repeat(grey[:, None], 3, axis=1)
    if layout == "torch":
        import torch

        x = torch.from_numpy(colour)
    else:
        x = {
            "nhw": grey, "nhwc": colour.transpose(0, 2, 3, 1), "nchw": colour, "float": grey / 255
        }[layout]  # fmt: skip
    data = read((x, y))
    expected = colour if layout in ("nhwc", "nchw", "torch") else grey[:, None]
    np.testing.assert_array_equal(data.inputs["image"], expected)
    assert data.targets[0].classes == tuple("0123456789")


def test_npz_files_bring_their_parts_and_their_modality(tmp_path):
    digits = load_digits()
    x, y = digits.images, digits.target
    np.savez(
        tmp_path / "i.npz", x_train=x[:1000], y_train=y[:1000], x_test=x[1000:], y_test=y[1000:]
    )
    data = read(tmp_path / "i.npz")
    assert data.modality == "images"
    np.testing.assert_array_equal(data.parts["test"], np.arange(1000, len(x)))
    np.savez(tmp_path / "t.npz", x=digits.data, y=y)
    assert read(tmp_path / "t.npz").modality == "tabular"


def test_of_given_parts_only_the_test_part_is_predicted_and_a_note_says_so(tmp_path):
    digits = load_digits()
    x, y = digits.images, digits.target
    parts = {"x_train": x[:1000], "y_train": y[:1000], "x_test": x[1000:], "y_test": y[1000:]}
    np.savez(tmp_path / "d.npz", **parts)
    data = read(tmp_path / "d.npz")
    found = encode(tmp_path / "d.npz", data.profile, "images", data.targets)
    (target,) = data.targets
    np.testing.assert_array_equal(found.inputs["image"], data.inputs["image"][1000:])
    np.testing.assert_array_equal(found.labels[target.name], data.labels[target.name][1000:])
    assert found.notes == ("of x_train, x_test only x_test is predicted",)
    del parts["y_test"]
    np.savez(tmp_path / "d.npz", **parts)
    assert not encode(tmp_path / "d.npz", data.profile, "images", data.targets).labels
    np.savez(tmp_path / "d.npz", x=x)
    assert encode(tmp_path / "d.npz", data.profile, "images", data.targets).notes == ()
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y)
    with pytest.raises(InputError, match="holds x_train; what is predicted is x_test or x"):
        encode(tmp_path / "d.npz", data.profile, "images", data.targets)


def test_new_images_are_coded_like_the_training_data(tmp_path):
    root = class_folders(tmp_path / "train", 8, size=(16, 12))
    data = read(root)
    again = encode(root, data.profile, "images", data.targets)
    np.testing.assert_array_equal(again.inputs["image"], data.inputs["image"])
    np.testing.assert_array_equal(again.labels["label"], data.labels["label"])
    picture(tmp_path / "new" / "x.png", (40, 40), mode="L")
    new = encode(tmp_path / "new", data.profile, "images", data.targets)
    assert new.inputs["image"].shape == (1, 3, 12, 16)
    assert (new.names, new.labels) == (("x.png",), {})
    picture(tmp_path / "new" / "monday" / "x.png", (40, 40))
    (tmp_path / "new" / "x.png").unlink()
    assert encode(tmp_path / "new", data.profile, "images", data.targets).labels == {}
    _write(
        pd.DataFrame({"file_name": ["monday/x.png"], "label": ["b"]}), tmp_path / "new/metadata.csv"
    )
    new = encode(tmp_path / "new", data.profile, "images", data.targets)
    np.testing.assert_array_equal(new.labels["label"], [1])
    one = encode(tmp_path / "new" / "monday" / "x.png", data.profile, "images")
    np.testing.assert_array_equal(one.inputs["image"], new.inputs["image"])
    colour = again.inputs["image"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(
        encode(colour, data.profile, "images").inputs["image"], data.inputs["image"]
    )


# Saving, and what the process pays --------------------------------------------------------


@pytest.mark.parametrize("kind", ["tabular", "images"])
def test_a_saved_data_set_loads_as_it_was_by_memory_map(tmp_path, kind):
    if kind == "tabular":
        data = read(frame().assign(a=[0, 1, 1] * 20), target=["label", "price"])
    else:
        data = read(class_folders(tmp_path / "x"))
    data.save(tmp_path / "saved")
    again = Dataset.load(tmp_path / "saved")
    assert (again.modality, again.targets, again.profile, again.notes) == (
        data.modality, data.targets, data.profile, data.notes,
    )  # fmt: skip
    for group in ("inputs", "labels", "parts"):
        ours, theirs = getattr(data, group), getattr(again, group)
        assert list(ours) == list(theirs)
        for name, array in ours.items():
            assert isinstance(theirs[name], np.memmap)
            np.testing.assert_array_equal(theirs[name], array)


def test_reading_never_imports_torch_and_loading_not_even_pandas(tmp_path):
    _write(frame(), tmp_path / "t.csv")
    class_folders(tmp_path / "images")
    code = (
        "import sys; from pathlib import Path; import nas.data as d\n"
        "from nas.data import read, Dataset; here = Path(sys.argv[1])\n"
        "if sys.argv[2] == 'read':\n"
        "    read(here / 't.csv', target='label').save(here / 's'); read(here / 'images')\n"
        "    assert 'torch' not in sys.modules\n"
        "else:\n"
        "    Dataset.load(here / 's'); assert not {'torch', 'pandas', 'PIL'} & set(sys.modules)\n"
    )
    for step in ("read", "load"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path), step], check=True)


# Mistakes --------------------------------------------------------------------------------


def test_a_wrong_path_names_the_closest_one(tmp_path):
    _write(frame(), tmp_path / "housing.csv")
    with pytest.raises(UsageError, match=r"does not exist; did you mean .*housing\.csv"):
        read(tmp_path / "housnig.csv", target="y")


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "words"),
    [
        (None, {}, UsageError, "needs a target column; name one of size, rooms"),
        (None, {"target": "lable"}, UsageError, "did you mean 'label'.* its columns are size"),
        (None, {"target": ["label", "label"]}, UsageError, "label twice"),
        (None, {"target": "label", "modality": "images"}, InputError, "has no column file_name"),
        (None, {"target": "label", "modality": "tabula"}, UsageError, "did you mean tabular"),
        (None, {"target": "label", "problem": "ranking"}, UsageError, "unknown problem"),
        (None, {"target": "label", "seed": -1}, UsageError, r"seed must be in .*got -1"),
        (None, {"target": "label", "seed": 2**32}, UsageError, "got 4294967296"),
        (None, {"target": "label", "split": "0.7,0.7"}, UsageError, "three ratios"),
        (None, {"target": "label", "split": "group=town"}, UsageError, "no column 'town'"),
        (None, {"target": "label", "split": "time=colour"}, InputError, "row 1 is neither"),
        (None, {"target": "label", "image_size": 32}, UsageError, "image_size is for images"),
        (None, {"target": "label", "problem": "regression"}, InputError, "row 1, which is not"),
        (lambda t: t.head(2), {"target": "label"}, InputError, "needed, got 2"),
        (lambda t: t.assign(y=1), {"target": "y"}, InputError, "single class '1'"),
        (lambda t: t.assign(y=["a"] * 58 + ["b", "c"]), {"target": "y"}, InputError,
         r"fewer than 3 samples of class 'b' \(1\), 'c' \(1\); merge or drop"),
        (lambda t: t.assign(y=[np.nan, *range(59)]), {"target": "y"}, InputError,
         "missing in 1 of 60 rows, first in row 1; drop"),
        (lambda t: t.assign(y=[*range(59), np.inf]), {"target": "y"}, InputError, "infinite in 1"),
        (lambda t: t.assign(y=[*map(str, range(59)), "12a"]), {"target": "y"}, InputError,
         "'12a' in row 60, which is not a number"),
        (lambda t: t.assign(split=["train"] * 59 + ["tset"]), {"target": "label"}, InputError,
         "unknown split value 'tset'"),
        (lambda t: t.assign(split=["train"] * 40 + ["test"] * 20),
         {"target": "label", "split": "group=rooms"}, UsageError, "brings its own"),
        (lambda t: t[["label"]].assign(id=[f"n{i}" for i in range(60)]), {"target": "label"},
         InputError, "no column can be used .*'id' is dropped"),
        (lambda t: pd.concat([t, t[["size"]]], axis=1), {"target": "label"}, InputError,
         "several columns are called 'size'"),
        (lambda t: t.assign(y=["a"] * 30 + ["b"] * 30, split=["train"] * 30 + ["test"] * 30),
         {"target": "y"}, InputError, "training part holds no sample of class 'b'"),
    ],
)  # fmt: skip
def test_a_wrong_table_or_call_is_one_clear_line(change, kwargs, error, words):
    table = frame() if change is None else change(frame())
    with pytest.raises(InputError, match=words) as caught:
        read(table, **kwargs)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"a,b,y\n", "holds no rows"),
        (b"a,b,y\n1,2,3\n4,5\n", "line 3: 2 values, but the header names 3 columns"),
        (b"a,b,y\n1,2,3,4\n", "line 2: 4 values"),
        (b"a,a,y\n1,2,3\n", "several columns are called 'a'"),
        (b"a,y\n\xff\xfe,1\n", "is not UTF-8"),
        (b"5.1,3.5,0\n4.9,3.0,1\n", "the first line holds numbers"),
        (b"1,0,0\n4,3,1\n", "the first line holds numbers"),
    ],
)
def test_a_malformed_csv_names_the_file_and_the_line(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"t\.csv.*{words}"):
        read(tmp_path / "t.csv", target="y")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv.gz", "t.npz"])
def test_a_file_that_is_not_what_its_name_says_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is plain text\n" * 5)
    with pytest.raises(InputError, match="cannot be read") as caught:
        read(tmp_path / name, target="y")
    assert not any(word in str(caught.value) for word in ("\n", "pickle", "unsafe"))


def test_a_truncated_gzip_is_one_line(tmp_path):
    whole = gzip.compress(frame(500).to_csv(index=False).encode())
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "t.csv.gz", target="label")


def test_a_missing_target_is_found_in_its_own_file(tmp_path):
    _write(frame(), tmp_path / "train.csv")
    table = frame()
    table.loc[4, "label"] = None
    _write(table, tmp_path / "test.csv")
    with pytest.raises(InputError, match=r"missing in 1 of 120 rows, first in row 5 of test\.csv"):
        read(tmp_path, target="label")


def test_part_files_with_differing_columns_are_refused(tmp_path):
    _write(frame(), tmp_path / "train.csv")
    _write(frame().drop(columns="rooms"), tmp_path / "test.csv")
    with pytest.raises(InputError, match=r"'rooms' are in only one of train\.csv and test\.csv"):
        read(tmp_path, target="label")


def test_every_broken_image_is_named_at_once(tmp_path):
    class_folders(tmp_path)
    picture(tmp_path / "a" / "cut.jpg", (64, 64))
    jpeg = tmp_path / "a" / "cut.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:600])
    (tmp_path / "b" / "empty.png").write_bytes(b"")
    (tmp_path / "b" / "text.png").write_text("hello")
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert message.startswith("3 of 19 images cannot be read")
    assert all(
        words in message for words in ("cut.jpg (", "empty.png (empty", "text.png (no image")
    )


def test_image_folders_without_what_they_need_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    for modality in (None, "images"):
        with pytest.raises(InputError, match="is empty: there is no file in it"):
            read(tmp_path, modality=modality)
    (tmp_path / "a" / "letter.abc").touch()
    with pytest.raises(UsageError, match="holds no data that is read"):
        read(tmp_path)
    with pytest.raises(InputError, match="holds no image file; expected one folder per class"):
        read(tmp_path, modality="images")
    picture(tmp_path / "0.png")
    with pytest.raises(InputError, match="1 image files, but none in a folder"):
        read(tmp_path)
    _write(pd.DataFrame({"file_name": ["0.png", "1.png"], "y": [0, 1]}), tmp_path / "metadata.csv")
    with pytest.raises(InputError, match=r"1 files that do not exist: 1\.png"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((20, 3, 9, 3)), "which axis holds the channels"),
        (np.full((20, 8, 8), "white"), "must be numbers"),
        (np.full((20, 8, 8), np.nan), "are NaN or infinite"),
        (np.zeros((19, 8, 8)), "19 images, but y has 20"),
    ],
)
def test_image_arrays_that_cannot_be_meant_are_refused(x, words):
    with pytest.raises(InputError, match=words):
        read((x, np.arange(20) % 2))


def test_new_rows_must_have_the_columns_of_training_and_known_classes():
    data = read(frame(), target="label")
    with pytest.raises(InputError, match=r"lacks the columns 'size' .* it has 'Size'"):
        encode(frame().rename(columns={"size": "Size"}), data.profile, "tabular")
    with pytest.raises(InputError, match="held numbers in training"):
        encode(frame().assign(size="big"), data.profile, "tabular")
    with pytest.raises(InputError, match="'maybe' in row 1; expected one of no, yes, or no such"):
        encode(frame().assign(label="maybe"), data.profile, "tabular", data.targets)
    partly = frame()
    partly.loc[3, "label"] = None
    with pytest.raises(InputError, match="'label' is missing in row 4; expected one of no, yes"):
        encode(partly, data.profile, "tabular", data.targets)


# Real data -------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(
    "NAS_DATA" not in os.environ, reason="NAS_DATA does not name the folder of the data sets"
)


@pytest.mark.data
@needs_data
@pytest.mark.parametrize(
    ("path", "target", "sizes", "inputs", "limit_s"),
    [
        ("tabular/adult", "income", (27677, 4884, 16281),
         {"numeric": (6,), "categorical": (8,)}, 2),
        ("tabular/california_housing", "median_house_value", (14035, 2477, 4128),
         {"numeric": (8,), "categorical": (1,)}, 2),
        ("tabular/titanic", "Survived", (606, 107, 178), {"numeric": (6,), "categorical": (4,)}, 2),
        ("images/mnist/mnist.npz", None, (51000, 9000, 10000), {"image": (1, 28, 28)}, 10),
        ("images/sign_digits", None, (1405, 248, 409), {"image": (3, 100, 100)}, 10),
    ],
)  # fmt: skip
def test_real_data_is_read_whole_and_fast(path, target, sizes, inputs, limit_s):
    start = time.perf_counter()
    data = read(Path(os.environ["NAS_DATA"]) / path, target=target)
    elapsed = time.perf_counter() - start
    profile = data.profile
    assert (profile.n_train, profile.n_val, profile.n_test) == sizes
    assert profile.inputs == inputs
    assert elapsed < limit_s


@pytest.mark.data
@needs_data
def test_reading_adult_stays_below_300_mb():
    code = (
        "import os; from nas.data import read\n"
        "read(os.environ['NAS_DATA'] + '/tabular/adult', target='income')\n"
        # ru_maxrss would count the process that started this one, too
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(run.stdout) < 300 * 1024
