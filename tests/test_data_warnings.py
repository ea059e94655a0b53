"""What looks wrong in a data set is said, and what only looks so is not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nas.data import read
from nas.rules import folds
from nas.task import Task

RNG = np.random.default_rng(0)
N = 600


def table(**columns: object) -> pd.DataFrame:
    """Two columns that tell something of the label ``y``, but not all, and those given."""
    rng = np.random.default_rng(1)
    y = rng.random(N) < 0.4
    frame = {"a": rng.normal(y, 1.0), "b": np.where(rng.random(N) < 0.7, y, ~y).astype(str)}
    return pd.DataFrame(frame | {"y": np.where(y, "yes", "no")} | columns)


def notes(frame: pd.DataFrame, word: str, target: str = "y") -> list[str]:
    return [note for note in read(frame, target=target).notes if word in note]


def is_yes() -> np.ndarray:
    return (table()["y"] == "yes").to_numpy()


LEAKS = {
    "a copy under another name": np.where(is_yes(), "J", "N"),
    "a number on each side of a threshold": np.where(is_yes(), 2.0, 1.0) + RNG.random(N) / 2,
    "a column that is filled in afterwards": np.where(is_yes(), RNG.normal(size=N), np.nan),
    "names of which each has one answer": np.char.add(
        np.where(is_yes(), "r", "s"), RNG.integers(0, 9, N).astype(str)
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_column_that_gives_the_target_away_is_named(leak: str) -> None:
    (note,) = notes(table(late=LEAKS[leak]), "alone predicts")
    assert "'late'" in note
    assert "'y'" in note
    assert note.endswith("leave it out: --columns late=ignore")


def test_a_rescaled_target_is_found_and_a_good_predictor_is_not() -> None:
    price = RNG.lognormal(10, 1, N)
    frame = table(y=price, euros=price * 0.93 + 12, size=np.log(price) + RNG.normal(0, 0.2, N))
    (note,) = notes(frame, "alone predicts")
    assert "'euros'" in note


def test_honest_columns_raise_no_alarm() -> None:
    strong = np.where(RNG.random(N) < 0.95, is_yes(), ~is_yes())
    found = read(table(strong=strong.astype(str)), target="y").notes
    assert not [n for n in found if "alone" in n or "rare" in n or "row" in n or "missing" in n]


def test_sets_of_scikit_learn_raise_no_alarm_of_a_leak() -> None:
    from sklearn import datasets

    for load in (datasets.load_iris, datasets.load_wine, datasets.load_breast_cancer):
        x, y = load(return_X_y=True, as_frame=True)
        assert not [n for n in read((x, y)).notes if "alone" in n or "whole number" in n]


def test_identifiers_are_named_by_what_they_hold_or_are_called() -> None:
    whole = {
        "row no": RNG.permutation(N) + 7,
        "customer_id": RNG.choice(10**9, N, replace=False),
        "sampled": RNG.choice(3 * N, N, replace=False),
    }
    honest = {"income": RNG.choice(10**9, N, replace=False), "age": RNG.integers(18, 90, N)}
    found = notes(table(**whole, **honest), "another whole number")
    assert len(found) == 3
    assert all(any(f"'{name}'" in note for note in found) for name in whole)
    assert any(note.endswith("--columns 'row no=ignore'") for note in found)


def test_empty_constant_and_scattered_columns_are_named() -> None:
    empty = np.where(RNG.random(N) < 0.9, np.nan, RNG.normal(size=N))
    still = np.where(np.arange(N) < N - 2, 0.0, 1.0)
    half = np.where(RNG.random(N) < 0.9, 0.0, RNG.normal(size=N))
    words = np.char.add("w", (np.arange(N) * 3 // 4).astype(str))
    frame = table(empty=empty, still=still, half=half, words=words)
    frame = frame.sample(frac=1, random_state=0)
    (missing,) = notes(frame, "mostly missing")
    (constant,) = notes(frame, "one value in nearly every")
    (scattered,) = notes(frame, "too many to learn")
    assert "'empty'" in missing
    assert "'still'" in constant
    assert "'half'" not in missing + constant
    assert "'words'" in scattered


def test_rare_classes_are_named_and_unequal_ones_are_not() -> None:
    kinds = np.array(["a"] * 400 + ["b"] * 185 + ["c"] * 15)
    (note,) = notes(table(y=kinds), "rare classes")
    assert "'c'" in note
    assert "'b'" not in note
    assert "balanced_accuracy" in note
    assert not notes(table(y=np.array(["a"] * 450 + ["b"] * 150)), "rare classes")


def test_few_samples_are_noted_with_the_standard_error_of_a_score() -> None:
    (note,) = notes(table().iloc[:100], "few samples")
    assert "rests on 85" in note  # all but the test part, in folds
    assert "5.4 points" in note  # the root of a quarter over 85
    assert not notes(pd.concat([table()] * 10).reset_index(drop=True), "few samples")


@pytest.mark.parametrize("split", ["group=who", "time=who"])
def test_samples_that_stay_apart_are_scored_by_the_validation_part_alone(split: str) -> None:
    data = read(table(who=np.arange(N) // 5).iloc[:200], target="y", split=split)
    (note,) = [note for note in data.notes if "few samples" in note]
    assert f"rests on {len(data.parts['val'])}," in note
    assert folds(Task(data.modality, data.targets, data.profile)) == 1


def test_duplicates_across_parts_are_noted_where_they_are_many() -> None:
    frame = table()
    twice = pd.concat([frame, frame.iloc[:200]], ignore_index=True)
    assert notes(twice, "also occur in train")
    assert not notes(pd.concat([frame, frame.iloc[:3]], ignore_index=True), "also occur")


def test_texts_that_differ_in_unknown_words_alone_are_no_doubles() -> None:
    # One word of ten is seen once: few enough for a vocabulary of words, and not of pieces.
    texts = [f"what is a word{i} then and now or here and there" for i in range(300)]
    labels = ["x", "y"] * 150
    assert not [n for n in read((texts, labels), modality="text").notes if "also occur" in n]
    again = [*texts[:100]] * 3
    labels = (["x", "y"] * 50) * 3
    assert [n for n in read((again, labels), modality="text").notes if "also occur" in n]


def test_long_texts_are_noted() -> None:
    texts = [" ".join(["word", "other"] * (20 if i % 8 else 150)) for i in range(200)]
    labels = ["x", "y"] * 100
    assert [n for n in read((texts, labels), modality="text").notes if "long-sequences" in n]


@pytest.mark.data
def test_real_data_raise_no_alarm_of_a_leak() -> None:
    folder = os.environ.get("NAS_DATA")
    if not folder:
        pytest.skip("NAS_DATA names no folder of real data")
    for name, target in (
        ("tabular/adult", "income"),
        ("tabular/california_housing", "median_house_value"),
        ("tabular/titanic", "Survived"),
        ("text/trec", "label"),
        ("multimodal/womens_reviews", "Recommended IND"),
    ):
        found = read(Path(folder) / name, target=target).notes
        assert not [n for n in found if "alone predicts" in n or "also occur" in n], name
