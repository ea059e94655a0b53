"""Numbers far from zero, and pixels of more than 8 bits: what is kept of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nas.data import encode, read
from nas.data.precision import column_shift

N = 600
STEP = np.arange(N)
Y = STEP // 30 % 2

FAR = {
    "epoch seconds": 1_717_200_000 + STEP,
    "epoch milliseconds": 1_717_200_000_000 + 100 * STEP,
    "nanoseconds as text": [str(1_717_200_000_000_000_000 + 1_000_000 * i) for i in STEP],
    "pressure in Pa": np.round(101_325 + STEP * 1e-3, 3),
    "northing in m": 5_000_000 + STEP * 0.01,
    "below zero": -(1e9 + STEP),
    "one outlier": np.where(STEP == 7, 0, 1_717_200_000 + STEP),
    "missing values": np.where(STEP % 50 == 7, np.nan, 1e9 + STEP),
    "nullable integers": pd.array(1_717_200_000 + STEP, dtype="Int64"),
    "moments": pd.Timestamp("2024-06-01") + pd.to_timedelta(STEP, unit="s"),
    "moments as text": (pd.Timestamp("2024-06-01") + pd.to_timedelta(STEP, unit="s")).astype(str),
}


@pytest.mark.parametrize("name", FAR)
def test_values_far_from_zero_stay_apart_in_training_and_in_prediction(name: str) -> None:
    frame = pd.DataFrame({"x": FAR[name], "y": Y})
    data = read(frame, target="y")
    values = data.inputs["numeric"][:, 0]
    known = ~np.isnan(values)
    assert len(np.unique(values[known])) == frame["x"].nunique()
    column = data.profile.columns[0]
    train = values[data.parts["train"]]
    assert column.mean == pytest.approx(np.nanmean(train, dtype=np.float64))
    again = encode(frame, data.profile, data.modality).inputs["numeric"]
    np.testing.assert_array_equal(again, data.inputs["numeric"])


def test_columns_of_an_array_are_shifted_each_for_itself() -> None:
    x = np.stack([1e9 + STEP, STEP / 7, 1e15 + STEP], axis=1)
    data = read((x, Y))
    values = data.inputs["numeric"]
    assert [len(np.unique(column)) for column in values.T] == [N, N, N]
    np.testing.assert_array_equal(values[:, 1], (STEP / 7).astype(np.float32))


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.random.default_rng(0).normal(5, 1, 100_000), id="measured"),
        pytest.param(np.round(np.random.default_rng(0).uniform(-124, -114, 20_000), 2), id="deg"),
        pytest.param(1e6 + np.arange(1_000.0), id="whole numbers that float32 holds"),
        pytest.param(np.random.default_rng(0).lognormal(0, 4, 5_000), id="long tail"),
    ],
)
def test_values_that_float32_holds_are_left_as_they_are(values: np.ndarray) -> None:
    assert column_shift(values) == 0


def test_what_no_shift_can_keep_apart_is_reported() -> None:
    two = np.where(STEP % 3 == 0, 1e12 + STEP, STEP * 0.5)
    notes = read(pd.DataFrame({"x": two, "y": Y}), target="y").notes
    assert any("'x'" in note and "float32 merges" in note for note in notes)
