"""Sequences of numbers: sources that are read and refused, coding, simple models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nas import rules
from nas.data import Dataset, encode, read
from nas.data.columns import distinct
from nas.data.long_tables import find_season
from nas.data.ragged import Ragged
from nas.family import load_families
from nas.task import InputError, Task, UsageError
from nas.testing import check_family
from nas.training.baselines import baselines
from nas.training.batches import row_inputs
from nas.training.random_kernels import mini_rocket, statistics

LABELS = np.array(["a", "b", "c"])


def made(n: int = 30, channels: int = 2, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences of different lengths and their classes."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    steps = [rng.normal(k, 1.0, (int(rng.integers(5, 12)), channels)) for k in label]
    return steps, LABELS[label]


def series(dataset: Dataset) -> Ragged:
    found = dataset.inputs["series"]
    assert isinstance(found, Ragged)
    return found


def ts(values: list[np.ndarray], labels: Any, header: str = "@classLabel true a b c") -> str:
    """The text of a .ts file."""
    lines = ["# made up", "@problemName Made", "@timeStamps false", header, "@data"]
    for sample, label in zip(values, labels, strict=True):
        parts = [",".join("?" if np.isnan(v) else repr(float(v)) for v in c) for c in sample.T]
        lines.append(":".join([*parts, str(label)]))
    return "\n".join(lines)


# Sources ---------------------------------------------------------------------------------


def test_a_folder_of_ts_files_brings_its_parts_classes_and_lengths(tmp_path: Path) -> None:
    steps, labels = made(30)
    steps[3][1, 0] = np.nan
    folder = tmp_path / "Made"
    folder.mkdir()
    (folder / "Made_TRAIN.ts").write_text(ts(steps[:21], labels[:21]))
    (folder / "Made_TEST.ts").write_text(ts(steps[21:], labels[21:]))
    data = read(folder)
    assert (data.modality, data.targets[0].classes) == ("series", ("a", "b", "c"))
    assert data.parts["test"].tolist() == list(range(21, 30))
    np.testing.assert_array_equal(series(data).lengths, [len(x) for x in steps])
    np.testing.assert_allclose(series(data)[25][:, :2], steps[25], rtol=1e-6)


def test_the_numbers_of_a_ts_file_are_a_regression_even_where_they_are_whole(
    tmp_path: Path,
) -> None:
    steps, _ = made(30)
    (tmp_path / "made.ts").write_text(ts(steps, np.arange(30) % 2, "@targetLabel true"))
    assert read(tmp_path / "made.ts").targets[0].kind == "regression"


def test_arrays_lists_and_wide_tables_hold_the_same_sequences() -> None:
    steps, labels = made(30, channels=1)
    longest = max(map(len, steps))
    wide = np.full((30, longest), np.nan)
    for row, x in enumerate(steps):
        wide[row, : len(x)] = x[:, 0]
    table = pd.DataFrame(wide).add_prefix("t").assign(label=labels)
    one = read((steps, labels), modality="series")
    flat = read(([x[:, 0] for x in steps], labels))
    rows = read(table, target="label", modality="series")
    for other in (flat, rows):
        np.testing.assert_array_equal(series(one).values, series(other).values)
        np.testing.assert_array_equal(series(one).offsets, series(other).offsets)
    assert read(table, target="label").modality == "tabular"
    new = encode(table.assign(id="x"), rows.profile, "series", rows.targets)
    np.testing.assert_array_equal(new.inputs["series"].values, series(rows).values)  # type: ignore[union-attr]


def test_a_table_for_each_sample_in_class_folders_is_read(tmp_path: Path) -> None:
    steps, labels = made(30)
    for row, (x, label) in enumerate(zip(steps, labels, strict=True)):
        folder = tmp_path / "data" / label
        folder.mkdir(parents=True, exist_ok=True)
        columns = ["x", "y"] if row % 2 else ["y", "x"]  # any order
        pd.DataFrame(x, columns=["x", "y"])[columns].to_csv(folder / f"{row:02}.csv", index=False)
    data = read(tmp_path / "data")
    assert data.modality == "series"
    assert set(data.profile.channels) == {"x", "y"}
    order = sorted(range(30), key=lambda row: (labels[row], row))
    at = [data.profile.channels.index(name) for name in ("x", "y")]
    for place, row in enumerate(order):
        np.testing.assert_allclose(series(data)[place][:, at], steps[row], rtol=1e-6)
    again = encode(tmp_path / "data", data.profile, "series", data.targets)
    np.testing.assert_array_equal(again.inputs["series"].values, series(data).values)  # type: ignore[union-attr]
    assert again.names[0] == os.path.join("a", "00.csv")


def test_class_folders_train_a_network_for_one_file_alone(tmp_path: Path) -> None:
    steps, labels = made(30)
    for row, (x, label) in enumerate(zip(steps, labels, strict=True)):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame(x, columns=["x", "y"])
        frame.to_csv(tmp_path / "data" / label / f"{row:02}.csv", index=False)
    data = read(tmp_path / "data")
    (tmp_path / "new").mkdir()
    (tmp_path / "data" / "a" / "00.csv").rename(tmp_path / "new" / "00.csv")
    for source in (tmp_path / "new", tmp_path / "new" / "00.csv"):
        new = encode(source, data.profile, "series", data.targets)
        np.testing.assert_array_equal(new.inputs["series"].values, series(data)[0])  # type: ignore[union-attr]
        assert new.names == ("00.csv",)


def test_an_array_of_steps_and_channels_is_asked_about_and_no_longer_an_image_alone() -> None:
    values = np.random.default_rng(0).normal(size=(30, 40, 4))
    labels = LABELS[np.arange(30) % 3]
    with pytest.raises(UsageError, match=r"--modality images or .*series|series.*images"):
        read((values, labels))
    assert read((values, labels), modality="series").profile.inputs == {"series": (40, 4)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@problemName Made\n1,2,3:a\n", "expected @data"),
        ("@classLabel true a b\n@data\n1,x,3:a\n", "line 3"),
        ("@classLabel true a b\n@data\n1,2:3,4:a\n1,2:b\n", "sequence 2 has 1 dimensions"),
        ("@classLabel false\n@data\n" + "1,2,3\n" * 12, "holds no labels"),
        ("@classLabel true a b\n@data\n", "no sequences"),
        (
            "@timeStamps true\n@classLabel true a b\n@data\n(1,2),(1,3),(2,4):(1,2),(2,5):a\n",
            "line 4: a dimension has two values of one time",
        ),
    ],
)
def test_a_damaged_ts_file_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "made.ts").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path / "made.ts")
    assert "\n" not in str(caught.value)


def test_sequences_without_labels_or_of_other_channels_are_refused() -> None:
    steps, labels = made(30)
    with pytest.raises(UsageError, match="needs its labels"):
        read(steps, modality="series")
    with pytest.raises(InputError, match="row 2 has 1 channels"):
        read(([steps[0], steps[1][:, :1], *steps[2:]], labels), modality="series")
    data = read((steps, labels), modality="series")
    with pytest.raises(InputError, match="the training data had 2"):
        encode([x[:, :1] for x in steps], data.profile, "series")


# Coding ----------------------------------------------------------------------------------


def test_what_is_missing_is_filled_along_the_sequence_and_marked() -> None:
    steps, labels = made(30)
    steps[0] = np.array([[1.0, 5.0], [np.nan, 5.0], [3.0, 5.0], [np.nan, 6.0], [np.nan, 7.0]])
    data = read((steps, labels), modality="series", split="0.8,0.1,0.1", seed=1)
    assert 0 in data.parts["train"]
    expected = [[1, 5, 0], [2, 5, 1], [3, 5, 0], [3, 6, 1], [3, 7, 1]]
    np.testing.assert_array_equal(series(data)[0], expected)
    assert any("filled" in note for note in data.notes)


def test_a_sample_is_coded_the_same_in_training_and_prediction() -> None:
    steps, labels = made(30)
    steps[4][:, 1] = np.nan  # a channel that is empty in a sequence
    steps[7][2, 0] = np.nan
    data = read(([x + 1e7 for x in steps], labels), modality="series")
    new = encode([x + 1e7 for x in steps], data.profile, "series").inputs["series"]
    np.testing.assert_array_equal(new.values, series(data).values)  # type: ignore[union-attr]
    # Far from zero float32 keeps the values by what is subtracted.
    shift = np.array(data.profile.channel_shift)
    np.testing.assert_allclose(series(data)[0][:, :2] + shift, steps[0] + 1e7, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sentinel", [1e39, -np.finfo(np.float64).max])
def test_values_that_float32_does_not_hold_count_as_missing(sentinel: float) -> None:
    steps, labels = made(30)
    holed = [np.where(np.arange(len(x))[:, None] == 2, [np.nan, 1.0], x) for x in steps]
    beyond = [np.where(np.isnan(x), sentinel, x) for x in holed]
    missing, data = (read((x, labels), modality="series") for x in (holed, beyond))
    assert data.profile.fingerprint == missing.profile.fingerprint
    assert "30 values that are infinite in float32 count as missing" in data.notes
    new = encode(beyond, data.profile, "series").inputs["series"]
    np.testing.assert_array_equal(new.values, series(data).values)  # type: ignore[union-attr]
    # A forecast learns no such value either.
    gap, frame = seasonal(), seasonal()
    gap.loc[300, "load"], frame.loc[300, "load"] = np.nan, sentinel
    missing, data = (read(f, target="load", time="hour", horizon=4) for f in (gap, frame))
    assert data.profile.fingerprint == missing.profile.fingerprint
    assert "1 values that are infinite in float32 count as missing" in data.notes


def test_nothing_is_learnt_from_validation_and_test() -> None:
    steps, labels = made(30)
    data = read((steps, labels), modality="series")
    other = [x * (1 if row in data.parts["train"] else 9) for row, x in enumerate(steps)]
    again = read((other, labels), modality="series")
    assert again.profile.channel_mean == data.profile.channel_mean
    assert again.profile.channel_std == data.profile.channel_std


def test_steps_of_long_sequences_are_averaged() -> None:
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(3_000, 1)) for _ in range(20)]
    data = read((steps, LABELS[np.arange(20) % 2]), modality="series")
    form = data.profile.series
    assert form is not None
    assert form.stride == 3
    assert series(data).lengths.tolist() == [1_000] * 20
    np.testing.assert_allclose(series(data)[3][7, 0], steps[3][21:24].mean(), rtol=1e-5)
    assert any("3 steps each are averaged" in note for note in data.notes)


# Simple models ---------------------------------------------------------------------------


def test_random_kernels_are_the_convolutions_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(40, 1)).astype(np.float32) for _ in range(6)]
    found = mini_rocket(Ragged.of(steps), np.arange(4))
    assert found.shape == (6, 9_996)
    # The first kernel has its weights of 2 first; dilation 1; biases from a training sequence.
    weights = np.full(9, -1.0)
    weights[:3] = 2.0
    convolved = [np.correlate(np.pad(x[:, 0], 4), weights, "valid") for x in steps]
    golden = (5**0.5 + 1) / 2
    first = [
        [(own > np.quantile(of, golden % 1)).mean() for own in convolved] for of in convolved[:4]
    ]
    assert any(np.allclose(found[:, 0], column) for column in first)


def test_mixed_precision_leaves_features_of_random_kernels_as_they_are() -> None:
    steps, labels = made(30)
    data = read((steps, labels), modality="series")
    task = Task("series", data.targets, data.profile).with_objectives()
    family = load_families("series")["random_kernels"]
    network: Any = family.build(family.baseline(task), task).eval()
    inputs = row_inputs(data, np.arange(6))
    with torch.no_grad():
        whole, _ = network.features(**inputs)
        with torch.autocast("cpu", torch.bfloat16):
            found, _ = network.features(**inputs)
    torch.testing.assert_close(found, whole, atol=0, rtol=0)


def test_features_of_simple_models_do_not_see_other_sequences() -> None:
    steps, _ = made(12)
    all_of_them = Ragged.of([x.astype(np.float32) for x in steps])
    some = all_of_them.take(np.arange(5))
    rows = np.arange(5)
    np.testing.assert_array_equal(mini_rocket(all_of_them, rows)[:5], mini_rocket(some, rows))
    np.testing.assert_array_equal(statistics(all_of_them)[:5], statistics(some))


# Long tables -----------------------------------------------------------------------------


def long(
    steps: list[np.ndarray], labels: Any, seed: int = 0, irregular: bool = True
) -> pd.DataFrame:
    """A row a step, in random order; three sequences of each recording."""
    rng = np.random.default_rng(seed)
    frames = []
    for row, (x, label) in enumerate(zip(steps, labels, strict=True)):
        frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
        frame["at"] = np.cumsum(
            rng.uniform(0.5, 2.0, len(x)) if irregular else np.full(len(x), 2.0)
        )
        frames.append(frame.assign(id=f"s{row:02}", label=label, recording=f"r{row // 3}"))
    return pd.concat(frames).sample(frac=1, random_state=seed).reset_index(drop=True)


def test_a_long_table_holds_the_same_sequences_as_arrays_with_gaps() -> None:
    steps, labels = made(30)
    rng = np.random.default_rng(1)
    gaps = [np.where(rng.random(x.shape) < 0.1, np.nan, x) for x in steps]
    table = long(gaps, labels, irregular=False)
    data = read(table, target="label", sequence="id", time="at", split="0.7,0.15,0.15")
    assert data.profile.channels == ("x0", "x1")
    order = [*pd.unique(table["id"])]
    for place, name in enumerate(order):
        row = int(name[1:])
        known = ~np.isnan(gaps[row])
        found = series(data)[place]
        np.testing.assert_allclose(found[:, :2][known], steps[row][known], rtol=1e-6)
        np.testing.assert_array_equal(found[:, 2:4], np.isnan(gaps[row]))
        assert data.targets[0].classes[data.labels["label"][place]] == labels[row]
    new = encode(table, data.profile, "series", data.targets)
    np.testing.assert_array_equal(new.inputs["series"].values, series(data).values)  # type: ignore[union-attr]
    np.testing.assert_array_equal(new.labels["label"], data.labels["label"])
    assert new.names == tuple(order)


@pytest.mark.parametrize("kind", ["numbers", "regression"])
def test_labels_of_new_sequences_are_found_whatever_they_are(kind: str, tmp_path: Path) -> None:
    steps, _ = made(30)
    labels = 1 + np.arange(30) % 3 if kind == "numbers" else np.arange(30) / 7
    table = long(steps, labels)
    table.to_csv(tmp_path / "t.csv", index=False)
    data = read(tmp_path / "t.csv", target="label", sequence="id", time="at")
    assert (data.targets[0].kind == "regression") == (kind == "regression")
    new = encode(tmp_path / "t.csv", data.profile, "series", data.targets)
    np.testing.assert_array_equal(new.labels["label"], data.labels["label"])


def test_channels_of_numbers_are_not_taken_for_texts_to_see_whether_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps, labels = made(30)
    table = long(steps, labels)
    seen: list[np.dtype] = []

    def recorded(column: pd.Series, **more: Any) -> Any:
        seen.append(column.dtype)
        return distinct(column, **more)

    monkeypatch.setattr("nas.data.long_tables.distinct", recorded)
    assert read(table, target="label", sequence="id", time="at").profile.channels == ("x0", "x1")
    assert not any(pd.api.types.is_numeric_dtype(kind) for kind in seen)


def test_irregular_times_are_resampled_to_what_lies_between() -> None:
    labels = LABELS[np.arange(30) % 3]
    steps = [np.stack([np.arange(12.0), 3 * np.arange(12.0) + k], axis=1) for k in range(30)]
    whole = long(steps, labels, irregular=False)
    # A fifth of the rows are gone, but no first or last one: a line has the same values between.
    inside = ~whole["at"].isin([whole["at"].min(), whole["at"].max()])
    table = whole[~(inside & (np.random.default_rng(0).random(len(whole)) < 0.2))]
    read_as = {"target": "label", "sequence": "id", "time": "at"}
    full, some = read(whole, **read_as), read(table, **read_as)  # type: ignore[arg-type]
    form = some.profile.series
    assert form is not None
    assert (form.irregular, form.median_step) == (True, 2.0)
    places = {name: place for place, name in enumerate(pd.unique(whole["id"]))}
    for place, name in enumerate(pd.unique(table["id"])):
        np.testing.assert_allclose(series(some)[place], series(full)[places[name]], atol=1e-4)
    new = encode(table, some.profile, "series", some.targets)
    np.testing.assert_array_equal(new.inputs["series"].values, series(some).values)  # type: ignore[union-attr]
    assert any("resampled to the median step" in note for note in some.notes)


def test_pauses_are_not_filled() -> None:
    labels = LABELS[np.arange(30) % 3]
    steps = [np.stack([np.arange(40.0), np.arange(40.0) ** 2 + k], axis=1) for k in range(30)]
    table = long(steps, labels, irregular=False)
    table.loc[table["at"] > 40, "at"] += 1e9  # half of each an age later
    data = read(table, target="label", sequence="id", time="at")
    form = data.profile.series
    assert form is not None
    assert (form.irregular, form.stride) == (False, 1)
    assert {len(x) for x in series(data)} == {40}
    assert any("long pauses" in note for note in data.notes)
    new = encode(table, data.profile, "series", data.targets)
    np.testing.assert_array_equal(new.inputs["series"].values, series(data).values)  # type: ignore[union-attr]


def test_windows_of_one_recording_never_fall_into_two_parts_where_a_group_is_named() -> None:
    steps, labels = made(60)
    table = long(steps, labels)
    read_as = {"target": "label", "sequence": "id", "time": "at"}
    data = read(table, **read_as, split="group=recording")  # type: ignore[arg-type]
    order = pd.unique(table["id"])
    recording = [table["recording"][table["id"] == name].iloc[0] for name in order]
    parts = [{recording[row] for row in rows} for rows in data.parts.values()]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts))
    assert not [note for note in data.notes if "--split group" in note]
    # Without it the recordings are in several parts, and a note says so.
    leaking = read(table, **read_as)  # type: ignore[arg-type]
    parts = [{recording[row] for row in rows} for rows in leaking.parts.values()]
    assert parts[0] & parts[2]
    assert any("--split group=recording" in note for note in leaking.notes)


def test_labels_may_stand_in_a_table_beside_the_long_one(tmp_path: Path) -> None:
    steps, labels = made(30)
    table = long(steps, labels)
    table.drop(columns="label").to_csv(tmp_path / "steps.csv", index=False)
    beside = table.groupby("id")["label"].first().reset_index()
    beside.to_csv(tmp_path / "labels.csv", index=False)
    data = read(tmp_path, target="label", sequence="id", time="at")
    order = [*pd.unique(table["id"])]
    found = [data.targets[0].classes[k] for k in data.labels["label"]]
    assert found == [labels[int(name[1:])] for name in order]
    beside.iloc[1:].to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(InputError, match="1 sequences have no row"):
        read(tmp_path, target="label", sequence="id", time="at")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence": "idd"}, "did you mean 'id'"),
        ({"sequence": "id", "time": "recording"}, "neither a number nor an ISO date"),
        ({"sequence": "id", "time": "at", "target": "x0"}, "changes within a sequence"),
        ({"time": "at"}, "time goes with sequence or horizon"),
        ({"sequence": "id", "modality": "images"}, "not for images"),
        ({"horizon": 90, "sequence": "id", "target": "x0"}, "too few for windows"),
    ],
)
def test_a_wrong_call_for_a_long_table_is_one_line(options: Any, message: str) -> None:
    table = long(*made(30)).drop(columns="label").iloc[:150]
    table = table.assign(label="a")
    with pytest.raises(InputError, match=message) as caught:
        read(table, **({"target": "label"} | options))
    assert "\n" not in str(caught.value)


# Forecasts -------------------------------------------------------------------------------


def seasonal(n: int = 600, period: int = 12, noise: float = 0.1) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    t = np.arange(n)
    load = 10 + 3 * np.sin(2 * np.pi * t / period) + 0.002 * t + noise * rng.normal(size=n)
    return pd.DataFrame({"hour": t, "load": load, "other": rng.normal(size=n)})


def test_windows_hold_what_was_before_and_labels_what_follows() -> None:
    frame = seasonal()
    data = read(frame.sample(frac=1, random_state=0), target="load", time="hour", horizon=4)
    form = data.profile.series
    assert form is not None
    assert (form.season, form.window, form.horizon) == (12, 24, 4)
    assert [target.name for target in data.targets] == [f"load+{k}" for k in (1, 2, 3, 4)]
    at = data.profile.channels.index("load")
    values = frame["load"].to_numpy()
    for row in (0, 100, len(series(data)) - 1):
        start = int(np.abs(values[:, None] - data.labels["load+1"][row]).argmin())
        window = series(data)[row][:, at]
        np.testing.assert_allclose(window, values[start - 24 : start], rtol=1e-5)
        ahead = [data.labels[f"load+{k + 1}"][row] for k in range(4)]
        np.testing.assert_allclose(ahead, values[start : start + 4])


def working_days(n: int = 400) -> pd.DataFrame:
    """A week's pattern on dates without weekends, and without one day in ten."""
    rng = np.random.default_rng(0)
    days = pd.bdate_range("2020-01-01", periods=n)
    load = 10 + np.array([0.0, 2, 5, 1, -3])[np.arange(n) % 5] + 0.1 * rng.normal(size=n)
    frame = pd.DataFrame({"day": days.astype(str), "load": load})
    return frame[rng.random(n) > 0.1].reset_index(drop=True)


def test_a_forecast_on_dates_counts_rows_however_far_apart_they_are() -> None:
    frame = working_days()
    data = read(frame, target="load", time="day", horizon=3)
    form = data.profile.series
    assert form is not None
    assert {len(series(data)[row]) for row in range(len(series(data)))} == {form.window}
    at = data.profile.channels.index("load")
    values = frame["load"].to_numpy()
    for row in (0, 50, len(series(data)) - 1):
        start = int(np.abs(values - data.labels["load+1"][row]).argmin())
        window = series(data)[row][:, at]
        np.testing.assert_allclose(window, values[start - form.window : start], rtol=1e-5)
    new = encode(frame, data.profile, "series")
    found = new.inputs["series"][0]  # type: ignore[index]
    np.testing.assert_allclose(found[:, at], values[-form.window :], rtol=1e-5)
    # What an earlier version coded in the time of the calendar is rows from now on.
    earlier = replace(data.profile, series=replace(form, irregular=True))
    old = encode(frame, earlier, "series").inputs["series"]
    np.testing.assert_array_equal(old[0], found)  # type: ignore[index]


def test_a_season_that_no_window_holds_is_none() -> None:
    # Of 100 rows of training 45 are left for what follows: 27 for a window.
    frame = seasonal(200, period=30, noise=0.01)
    assert find_season([frame["load"].to_numpy()[:100]]) == 30
    data = read(frame, target="load", time="hour", horizon=45, split="0.5,0.25,0.25")
    form = data.profile.series
    assert form is not None
    assert (form.season, form.window) == (1, 27)


def test_nothing_that_is_predicted_in_one_part_is_predicted_in_another() -> None:
    frame = seasonal()
    data = read(frame, target="load", time="hour", horizon=4)
    spans = {}
    for part, rows in data.parts.items():
        names = np.stack([data.labels[f"load+{k + 1}"][rows] for k in range(4)])
        times = np.abs(frame["load"].to_numpy()[:, None, None] - names).argmin(axis=0)
        spans[part] = (times.min(), times.max())
    assert spans["train"][1] < spans["val"][0]
    assert spans["val"][1] < spans["test"][0]
    # Folds would mix them.
    task = Task("series", data.targets, data.profile).with_objectives()
    assert rules.folds(task) == 1


@pytest.mark.parametrize(("later", "noted"), [(0, False), (150, True)])
def test_sequences_of_other_times_whose_parts_overlap_are_noted(later: int, noted: bool) -> None:
    frames = [seasonal(200).assign(shop=k) for k in range(2)]
    frames[1]["hour"] += later
    data = read(pd.concat(frames), target="load", time="hour", sequence="shop", horizon=4)
    assert any("cut the sequences to the same times" in note for note in data.notes) is noted


def test_of_sequences_with_a_given_part_the_validation_part_is_the_end_of_train() -> None:
    frames = [seasonal(200).assign(id=k, split="test" if k > 1 else "train") for k in range(4)]
    table = pd.concat(frames)
    data = read(table, target="load", time="hour", sequence="id", horizon=4)
    assert data.parts["val"].max() < data.parts["test"].min()
    assert len(data.parts["test"]) == 2 * (200 - 24 - 4 + 1)
    ends = [data.labels["load+1"][rows] for rows in (data.parts["train"], data.parts["val"])]
    assert len(ends[0]) == 2 * (170 - 24 - 4 + 1)
    assert len(ends[1]) == 2 * (30 - 4 + 1)
    with pytest.raises(UsageError, match="follow in time"):
        read(table, target="load", time="hour", sequence="id", horizon=4, split="group=id")


def test_a_forecast_of_too_few_rows_is_refused_and_no_part_is_drawn_from_another() -> None:
    message = r"no window .* next 12 values in the val part.* 9 rows .*; shorten --horizon or give"
    with pytest.raises(InputError, match=message) as caught:
        read(seasonal(60), target="load", time="hour", horizon=12)
    assert "\n" not in str(caught.value)


def test_a_forecast_without_a_training_part_is_refused() -> None:
    table = pd.concat([seasonal(100).assign(id=k, split="test") for k in range(3)])
    with pytest.raises(InputError, match="no training part; name one part train"):
        read(table, target="load", time="hour", sequence="id", horizon=4)


def test_where_windows_are_skipped_every_part_of_a_sequence_keeps_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nas.data.long_tables.MOST_WINDOWS", 10)
    table = pd.concat([seasonal(100).assign(id=k) for k in range(8)])
    table["load"] += 100 * table["id"]
    data = read(table, target="load", time="hour", sequence="id", horizon=4)
    assert any("each 59 steps" in note for note in data.notes)
    values = seasonal(100)["load"].to_numpy()
    for rows, start in zip(data.parts.values(), (24, 70, 85), strict=True):
        np.testing.assert_allclose(data.labels["load+1"][rows], values[start] + 100 * np.arange(8))


def test_naive_forecasts_and_the_scale_of_mase_are_those_of_the_formulas() -> None:
    frame = seasonal()
    data = read(frame, target="load", time="hour", horizon=4)
    task = Task("series", data.targets, data.profile).with_objectives()
    assert task.quality.metric == "mase"
    values = frame["load"].to_numpy()
    scale = np.abs(values[12:420] - values[: 420 - 12]).mean()
    rows = data.parts["val"]
    first = [int(np.abs(values - v).argmin()) for v in data.labels["load+1"][rows]]
    found = {b["name"]: b["metrics"]["mase"] for b in baselines(data, task)}
    ahead = np.array([[values[s + k] for k in range(4)] for s in first])
    last = np.array([values[s - 1] for s in first])[:, None]
    before = np.array([[values[s + k - 12] for k in range(4)] for s in first])
    assert found["last value"] == pytest.approx(np.abs(ahead - last).mean() / scale, rel=1e-4)
    assert found["seasonal naive"] == pytest.approx(np.abs(ahead - before).mean() / scale, rel=1e-4)
    assert found["ridge of the window"] < found["seasonal naive"] < found["last value"]


@pytest.mark.parametrize("name", load_families("series"))
def test_a_forecast_begins_as_the_value_a_season_before(name: str) -> None:
    data = read(seasonal(), target="load", time="hour", horizon=4)
    task = Task("series", data.targets, data.profile).with_objectives()
    family = load_families("series")[name]
    network = family.build(family.baseline(task), task).eval()
    windows = torch.from_numpy(series(data).values.reshape(-1, 24, 2)[:5])
    with torch.no_grad():
        found = network(series=windows, series_length=torch.full((5,), 24))
    std = torch.tensor([t.std for t in data.targets])
    mean = torch.tensor([t.mean for t in data.targets])
    shift = np.array(data.profile.channel_shift or [0.0, 0.0])
    at = data.profile.channels.index("load")
    expected = windows[:, 12:16, at] + shift[at]
    torch.testing.assert_close(found * std + mean, expected.float(), rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # the exporter's own
def test_a_network_that_forecasts_keeps_the_contract_of_families() -> None:
    data = read(seasonal(120), target="load", time="hour", horizon=3)
    check_family(load_families("series")["series_lstm"], [data], draws=2, extremes=0)


@pytest.mark.parametrize("period", [7, 12, 24, 168])
def test_the_season_is_found(period: int) -> None:
    rng = np.random.default_rng(0)
    pattern = np.cumsum(rng.normal(size=period))
    values = np.tile(pattern - pattern.mean(), 2000 // period) + 0.01 * np.arange(
        2000 // period * period
    )
    assert find_season([values + 0.1 * rng.normal(size=len(values))]) == period
    assert find_season([rng.normal(size=500)]) == 1


# Archives --------------------------------------------------------------------------------


def test_arff_files_hold_the_same_sequences_as_ts_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one = [rng.normal(size=(4, 1)).round(3) for _ in range(30)]
    two = [rng.normal(size=(4, 2)).round(3) for _ in range(30)]
    one[2][1, 0] = np.nan
    labels = LABELS[np.arange(30) % 3]

    def cells(values: np.ndarray) -> str:
        return ",".join("?" if np.isnan(v) else str(v) for v in values)

    head = "% made up\n@relation 'made up'\n"
    flat = [f"@attribute att{i} numeric" for i in range(4)] + ["@attribute target {a,b,c}", "@data"]
    rows = [f"{cells(x[:, 0])},{label}" for x, label in zip(one, labels, strict=True)]
    (tmp_path / "one.arff").write_text(head + "\n".join([*flat, *rows]))
    nested = ["@attribute series relational", *(f"  @attribute t{i} numeric" for i in range(4))]
    nested += ["@end series", "@attribute class {a,b,c}", "@data"]
    rows = [
        f"'{cells(x[:, 0])}\\n{cells(x[:, 1])}',{label}"
        for x, label in zip(two, labels, strict=True)
    ]
    (tmp_path / "two.arff").write_text(head + "\n".join([*nested, *rows]))
    for name, steps in (("one", one), ("two", two)):
        (tmp_path / f"{name}.ts").write_text(ts(steps, labels))
        arff, plain = read(tmp_path / f"{name}.arff"), read(tmp_path / f"{name}.ts")
        assert arff.profile.fingerprint == plain.profile.fingerprint
        assert arff.modality == "series"
    iris = "@relation iris\n@attribute sepal numeric\n@attribute class {a,b}\n@data\n1,a\n"
    (tmp_path / "iris.arff").write_text(iris)
    with pytest.raises(UsageError, match=r"save it as \.csv"):
        read(tmp_path / "iris.arff")


def test_a_row_of_one_cell_in_an_arff_file_of_sequences_is_named(tmp_path: Path) -> None:
    nested = "@attribute series relational\n@attribute t0 numeric\n@end series\n"
    text = f"@relation made\n{nested}@attribute class {{a,b}}\n@data\n'1,2\\n3,4'\n"
    (tmp_path / "made.arff").write_text(text)
    with pytest.raises(InputError, match=r"line 7: one value; expected a sequence and its label"):
        read(tmp_path / "made.arff")


def test_times_of_a_ts_file_are_read(tmp_path: Path) -> None:
    lines = ["@timeStamps true", "@classLabel true a b", "@data"]
    for row in range(20):
        pairs = [(t * t, row + t) for t in range(1, 5)]
        one = ",".join(f"({t},{v})" for t, v in pairs)
        lines.append(f"{one}:{one}:{'ab'[row % 2]}")
    (tmp_path / "made.ts").write_text("\n".join(lines))
    data = read(tmp_path / "made.ts")
    form = data.profile.series
    assert form is not None
    assert (form.irregular, form.median_step) == (True, 5.0)
    # Times 1, 4, 9, 16 hold row + 1 … row + 4; resampled to 1, 6, 11, 16.
    np.testing.assert_allclose(series(data)[3][:, 0], [4, 5.4, 6 + 2 / 7, 7], rtol=1e-6)


# Many files ------------------------------------------------------------------------------


def files(folder: Path, steps: list[np.ndarray]) -> list[str]:
    """A CSV file of each sequence, with a column of regular times; their names."""
    (folder / "steps").mkdir(parents=True)
    names = [f"steps/{row:02}.csv" for row in range(len(steps))]
    for name, x in zip(names, steps, strict=True):
        frame = pd.DataFrame(x, columns=["x", "y"]).assign(time=np.arange(len(x)))
        frame.to_csv(folder / name, index=False)
    return names


def test_a_metadata_table_lists_files_and_their_targets(tmp_path: Path) -> None:
    steps, labels = made(30)
    table = pd.DataFrame({"file_name": files(tmp_path, steps), "label": labels})
    table["age"] = np.linspace(20, 60, 30) + 0.5
    table.to_csv(tmp_path / "metadata.csv", index=False)
    data = read(tmp_path, target="label,age")
    assert data.modality == "series"
    assert [target.kind for target in data.targets] == ["multiclass", "regression"]
    assert data.profile.channels == ("x", "y")
    np.testing.assert_allclose(series(data)[7], steps[7], rtol=1e-6)
    assert not [note for note in data.notes if "not named" in note]


def test_a_column_of_file_names_is_a_member_of_multimodal_data(tmp_path: Path) -> None:
    steps, labels = made(30)
    names = files(tmp_path, steps)
    names[4] = ""
    table = pd.DataFrame({"motion": names, "age": np.linspace(20, 60, 30), "label": labels})
    table.to_csv(tmp_path / "people.csv", index=False)
    data = read(tmp_path / "people.csv", target="label")
    assert data.modality == "multimodal"
    assert data.profile.members["motion"].modality == "series"
    member = data.inputs["motion.series"]
    assert isinstance(member, Ragged)
    np.testing.assert_allclose(member[7], steps[7], rtol=1e-6)
    assert data.inputs["motion.present"][4] == 0  # type: ignore[index]
    new = encode(tmp_path / "people.csv", data.profile, "multimodal", data.targets)
    np.testing.assert_array_equal(new.inputs["motion.series"].values, member.values)  # type: ignore[union-attr]
    task = Task("multimodal", data.targets, data.profile).with_objectives()
    family = load_families("multimodal")["late_fusion"]
    network = family.build(family.baseline(task), task).eval()
    with torch.no_grad():
        logits = network(**row_inputs(data, np.arange(6)))
    assert logits.shape == (6, 3)


def test_broken_and_unlike_files_are_named(tmp_path: Path) -> None:
    steps, labels = made(30)
    names = files(tmp_path, steps)
    table = pd.DataFrame({"file_name": names, "label": labels})
    table.to_csv(tmp_path / "metadata.csv", index=False)
    (tmp_path / names[3]).write_text("x,y,time\n1,high,0\n")
    with pytest.raises(InputError, match=r"1 of 30 series cannot be read: .*03\.csv .*'high'"):
        read(tmp_path, target="label")
    (tmp_path / names[3]).write_text("x,z,time\n1,2,0\n")
    with pytest.raises(InputError, match=r"03\.csv and .*00\.csv differ in the columns 'y', 'z'"):
        read(tmp_path, target="label")


# Real data -------------------------------------------------------------------------------

DATA = os.environ.get("NAS_DATA", "")


@pytest.mark.data
@pytest.mark.skipif(not DATA, reason="NAS_DATA does not name the folder of the data sets")
def test_a_long_table_of_basic_motions_reads_to_its_samples() -> None:
    archive = read(Path(DATA) / "series" / "BasicMotions")
    names = np.array(archive.targets[0].classes)[archive.labels["label"]]
    rng = np.random.default_rng(0)
    frames = []
    for row, name in enumerate(names):
        steps = series(archive)[row].astype(np.float64)
        steps[rng.random(steps.shape) < 0.02] = np.nan  # gaps
        at = 0.1 * np.arange(len(steps))
        frame = pd.DataFrame(steps, columns=list("abcdef")).assign(at=at, id=row, label=name)
        kept = rng.random(len(frame)) > 0.05  # steps that were not recorded
        kept[[0, -1]] = True
        frames.append(frame[kept].assign(split="test" if row in archive.parts["test"] else "train"))
    table = pd.concat(frames).sample(frac=1, random_state=0)
    data = read(table, target="label", sequence="id", time="at")
    assert data.profile.series is not None
    assert data.profile.series.irregular
    order = [*pd.unique(table["id"])]
    for place, row in enumerate(order):
        found, whole = series(data)[place], series(archive)[int(row)]
        assert found.shape == (100, 12)
        there = np.round(frames[int(row)]["at"] * 10).astype(int).to_numpy()
        known = frames[int(row)][list("abcdef")].notna().to_numpy()
        np.testing.assert_allclose(found[there, :6][known], whole[there][known], atol=1e-3)
