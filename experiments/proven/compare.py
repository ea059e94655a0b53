"""The families' baselines, trained by their recipes, beside what was published on the same data.

    python -m experiments.proven.compare WORK --data FOLDER [--seeds 3] [--only gcn,gat] [--table]

A case is a family and a data set with its official test part. Its network is the baseline that the
rules give for a search of an hour; it is trained as long as a recipe may be, and its test part is
scored once. A finished training is one line of WORK/results.jsonl and is not run again; --table
only prints what is there.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from experiments.results import Results, mean_and_error
from nas import recipe as recipes
from nas import rules
from nas.candidate import Candidate
from nas.data import read
from nas.family import load_families
from nas.plan import make_task
from nas.task import Budget
from nas.train import train

KIM = "Kim 2014, Table 2, CNN-rand"
GORISHNIY = "Gorishniy et al. 2021, Table 2"
SIGNS = "Mavi 2020 (arXiv 2011.08927), a CNN"
FAWAZ = "Ismail Fawaz et al. 2020, results of InceptionTime"
RESNET = "Ismail Fawaz et al. 2019, results of ResNet"
MOLECULES = "Wu et al. 2018 (MoleculeNet), graph convolutions"


@dataclass(frozen=True)
class Case:
    """A family on a data set; the ``published`` figure of the ``metric``, and where it stands."""

    family: str
    path: str
    metric: str
    published: float | None
    source: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.family} on {Path(self.path).name}"


def _on(path: str, metric: str, *rows: tuple[str, float | None, str], **options: Any) -> list[Case]:
    """A case for each of several families on one data set, read with ``options``."""
    return [
        Case(f, path, metric, value, source, tuple(options.items())) for f, value, source in rows
    ]


TEXT = ("transformer", "lstm", "mamba", "text_cnn", "ngrams")
SOUND = ("audio_resnet", "audio_cnn_transformer", "wav2vec", "whisper")
CASES = [
    *_on(
        "graphs/cora", "accuracy",
        ("gcn", 0.815, "Kipf & Welling 2017, Table 2"),
        ("gat", 0.830, "Veličković et al. 2018, Table 2"),
        ("graphsage", 0.766, "Shchur et al. 2018, GS-mean on this split"),
    ),
    *_on("text/trec", "accuracy", *((f, 0.912, KIM) for f in TEXT), target="label"),
    *_on(
        "audio/fsdd", "accuracy",
        *((f, 0.97, "CNNs, 0.97 to 0.99") for f in SOUND),
        modality="audio",
    ),
    *_on(
        "images/sign_digits", "accuracy",
        *((f, 0.98, SIGNS) for f in ("resnet", "efficientnet", "vit")),
        modality="images",
    ),
    *_on(
        "tabular/adult", "accuracy",
        ("mlp", 0.852, GORISHNIY), ("tabnet", 0.850, GORISHNIY),
        ("ft_transformer", 0.859, GORISHNIY),
        target="income",
    ),
    *_on(
        "graphs/esol", "rmse",
        *((f, 0.97, MOLECULES) for f in ("gcn", "gat", "graphsage")), split="column=split_random",
    ),
    *_on(
        "tabular/california_housing", "rmse",
        ("mlp", 49_900, GORISHNIY), ("tabnet", 51_000, GORISHNIY),
        ("ft_transformer", 45_900, GORISHNIY),
        target="median_house_value",
    ),
    *_on(
        "series/GunPoint", "accuracy",
        ("inception_time", 1.0, FAWAZ), ("series_resnet", 0.991, RESNET),
    ),
    *_on(
        "series/ItalyPowerDemand", "accuracy",
        ("inception_time", 0.966, FAWAZ), ("series_resnet", 0.963, RESNET),
    ),
    *_on(
        "text/sst2", "accuracy", *((f, 0.827, KIM + ", with phrases") for f in TEXT),
        target="label",
    ),
    *_on(
        "multimodal/womens_reviews", "accuracy",
        *((f, None, "") for f in ("late_fusion", "early_fusion", "cross_attention")),
        target="Recommended IND",
    ),
    *_on(
        "pointcloud/mnist_points", "accuracy",
        *((f, None, "") for f in ("pointnet", "dgcnn", "sparse_cnn")), modality="pointclouds",
    ),
]  # fmt: skip


def trained(case: Case, data: Path, seed: int, work: Path) -> dict[str, Any]:
    """Train a case with a seed: the score on the test part, epochs, seconds and parameters."""
    dataset = read(data / case.path, **dict(case.options))
    task = make_task(dataset, budget=Budget(3600.0, workers=2), device="cpu")
    longest = rules.longest_epochs(task)
    task = replace(task, fidelity=replace(task.fidelity, recipe_epochs=longest))
    family = load_families(task.modality)[case.family]
    config = family.baseline(task)
    candidate = Candidate(
        1, family.name, config, seed + 1, epochs=1, metrics={task.quality.metric: 0.5}
    )
    shutil.rmtree(work, ignore_errors=True)
    dataset.save(work / "data")
    made = recipes.make(candidate, task, {"source": str(work / "data")}, {}, epochs=longest)
    recipes.write(made, work / "recipe.yaml")
    begin = time.monotonic()
    result = train(work / "recipe.yaml", work / "trained")
    shutil.rmtree(work / "data")
    return {
        "score": result["test"][case.metric],
        "epochs": [result["best_epoch"], result["epochs"], longest],
        "params": result["params"],
        "seconds": round(time.monotonic() - begin, 1),
        "config": config,
    }


def table(results: Results) -> None:
    print(
        "| baseline | parameters | epochs | test | published | source |\n|---|---|---|---|---|---|"
    )
    for case in CASES:
        own = results.having(case=case.name)
        if not own:
            continue
        digits = 0 if case.published and case.published > 1000 else 4
        best = "–" if case.published is None else f"{case.published:,}"
        print(
            f"| {case.name} | {own[0]['params']:,} | {max(r['epochs'][1] for r in own)} |"
            f" {mean_and_error([r['score'] for r in own], digits)}, {case.metric} |"
            f" {best} | {case.source} |"
        )


def main(given: argparse.Namespace) -> None:
    results = Results(given.work)
    torch.set_num_threads(1)
    for seed, case in () if given.table else product(range(given.seeds), CASES):
        chosen = not given.only or case.family in given.only.split(",")
        if chosen and not results.having(case=case.name, seed=seed):
            found = trained(case, given.data, seed, given.work / "training")
            results.add({"case": case.name, "seed": seed} | found)
    table(results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", help="families, separated by commas")
    parser.add_argument("--table", action="store_true")
    main(parser.parse_args())
