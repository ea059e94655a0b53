"""What the benchmarks of the search rest on: tables that are looked up right, runs kept once."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))
import bench_halving  # noqa: E402
import bench_search  # noqa: E402
from bench_search import Key, Run, collect, network  # noqa: E402

KEYS: list[Key] = [("table", "method", seed) for seed in range(3)]


def play(key: Key) -> Run:
    return Run(*key, "1.0", 5, [key[2]] * 5, 0.1)


def kept(path: Path, version: str = "1.0", budget: int = 5) -> list[str]:
    collect(path, KEYS, {"method": version}, budget, play, 1)
    return path.read_text().splitlines()


def test_an_interrupted_benchmark_continues_with_what_is_missing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.jsonl"
    first = kept(path)
    assert len(first) == 3
    path.write_text("\n".join(first)[:-20])
    assert kept(path) == first
    assert kept(path) == first  # nothing is missing now


def test_a_run_of_another_version_or_of_too_few_evaluations_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    kept(path)
    assert len(kept(path, version="1.1")) == 6
    assert len(kept(path, budget=10)) == 9


def test_runs_of_a_method_that_is_not_installed_still_count(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    kept(path)
    assert [run.trace for run in collect(path, KEYS, {}, 5, play, 1)] == [[i] * 5 for i in range(3)]


def test_configurations_are_the_same_network_where_only_skips_that_do_nothing_differ() -> None:
    chain = network("0123", ["skip", "skip", "gcn", "gat"])
    assert chain == network("0123", ["gcn", "skip", "gat", "skip"])
    assert chain != network("0123", ["skip", "skip", "gat", "gcn"])
    fork = network("0111", ["gcn", "gat", "skip", "sage"])
    assert fork == network("0111", ["gcn", "skip", "sage", "gat"])
    assert fork != network("0111", ["gcn", "gat", "sage", "sage"])


@pytest.mark.data
def test_each_configuration_is_one_network_of_the_table_but_those_that_only_skip(
    data_folder: Path,
) -> None:
    problem = bench_search.load(data_folder / "nas", "graph/cora")
    names = [choice.name for choice in problem.choices]
    found, missing = set(), []
    for values in product(*(choice.options for choice in problem.choices)):
        row = problem.row(dict(zip(names, values, strict=True)))
        found.add(row)
        if row is None:
            missing.append(values[1:])
    assert len(found - {None}) == len(problem.values) == 26206
    assert missing == [("skip",) * 4] * 9
    whole = Run("graph/cora", "all", 0, "", 26206, list(range(26206)), 0.0)
    assert problem.regret(whole, 26206) == 0.0


def test_a_new_candidate_is_promoted_if_it_is_among_the_best_third() -> None:
    import numpy as np

    three = np.array([[1.0, 3.0], [3.0, 1.0], [2.0, 2.0]])
    assert bench_halving.is_promoted(three[:2])  # nobody to be judged by
    assert not bench_halving.is_promoted(three)  # the middle is the most crowded
    assert bench_halving.is_promoted(np.vstack([three, three, [[0.5, 0.5]]]))
    assert not bench_halving.is_promoted(np.vstack([three, three, [[4.0, 4.0]]]))
