"""Whether proxies rank networks as full trainings do, at the fidelity that a search plans.

    python -m experiments.fidelity.compare WORK --data FOLDER \
        [--only trec,sign_digits] [--networks 12] [--table]

For each data set the pace of the families' baselines is measured and a search is planned for ten
minutes and for two hours, on two workers. The same networks, baselines first and then random draws,
are trained as proxies of both plans, and once in full, by the longest recipe, whose test part says
how good they are. What is printed is Kendall's tau between both. A finished training is one line of
WORK/results.jsonl and is not run again; the plans are kept there too.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from experiments.results import Results
from nas import recipe as recipes
from nas import rules
from nas.candidate import Candidate
from nas.data import Dataset, read
from nas.family import load_families
from nas.plan import Pace, SearchPlan, make_task, plan_search
from nas.space import Space, split_family
from nas.task import Budget, Task
from nas.train import train
from nas.training.evaluator import Evaluator

LIMITS_S = {"10 minutes": 600.0, "2 hours": 7200.0}
PACED_S = 8.0  # that the pace of a baseline is measured for
DATA: dict[str, dict[str, Any]] = {
    "text/trec": {"target": "label"},
    "images/sign_digits": {"modality": "images"},
    "tabular/california_housing": {"target": "median_house_value"},
}


def paces_of(task: Task, evaluator: Evaluator) -> dict[str, Any]:
    """How fast each family's baseline is trained, on a core to itself."""
    spaces = {name: family.space(task) for name, family in load_families(task.modality).items()}
    found = {n: evaluator.pace(n, s.baseline(), PACED_S, lambda *_: "") for n, s in spaces.items()}
    return {name: pace | {"contention": 1.0} for name, pace in found.items()}


def plans_of(task: Task, paces: dict[str, Any]) -> dict[str, SearchPlan]:
    known = {family: Pace(**pace) for family, pace in paces.items()}
    budgets = {limit: replace(task.budget, time_limit_s=s) for limit, s in LIMITS_S.items()}
    return {limit: plan_search(replace(task, budget=b), known) for limit, b in budgets.items()}


def networks(task: Task, count: int) -> list[Candidate]:
    """The baselines of all families, then random draws of the joined space."""
    spaces = {name: family.space(task) for name, family in load_families(task.modality).items()}
    found = [Candidate(i, n, s.baseline(), i) for i, (n, s) in enumerate(spaces.items())][:count]
    joined, rng = Space.join(spaces), np.random.default_rng(0)
    while len(found) < count:
        number = len(found)
        found.append(Candidate(number, *split_family(joined.sample(rng)), number))
    return found


def proxy_of(plan: SearchPlan, candidate: Candidate, evaluator: Evaluator) -> dict[str, Any]:
    """A candidate as the plan trains it, without halving and without a limit of time."""
    fidelity = replace(plan.fidelity, time_limit_s=None)
    asked = replace(candidate, epochs=fidelity.epochs)
    end = evaluator.evaluate(asked.to_dict(), lambda *_, **__: "", fidelity.to_dict())
    metric = evaluator.task.quality.metric
    score = end["metrics"].get(metric) if end["state"] == "complete" else None
    return {"score": score, "reason": end["reason"], "seconds": round(end["seconds"], 1)}


def in_full(
    candidate: Candidate, task: Task, dataset: Dataset, epochs: int, work: Path
) -> dict[str, Any]:
    shutil.rmtree(work, ignore_errors=True)
    dataset.save(work / "data")
    own = replace(task, fidelity=replace(task.fidelity, recipe_epochs=epochs))
    done = replace(candidate, epochs=1, metrics={task.quality.metric: 0.5})
    recipe = recipes.make(done, own, {"source": str(work / "data")}, {}, epochs=epochs)
    recipes.write(recipe, work / "recipe.yaml")
    begin = time.monotonic()
    result = train(work / "recipe.yaml", work / "trained")
    seconds = round(time.monotonic() - begin, 1)
    return {"score": result["test"][task.quality.metric], "seconds": seconds}


def problem(data: Path, path: str) -> tuple[Dataset, Task]:
    dataset = read(data / path, **DATA[path])
    return dataset, make_task(dataset, budget=Budget(workers=2), device="cpu")


def compare(results: Results, path: str, given: argparse.Namespace) -> None:
    name, work = Path(path).name, given.work / "training"
    dataset, task = problem(given.data, path)
    evaluator = Evaluator(task, dataset)
    if not results.having(data=name, kind="paces"):
        results.add({"data": name, "kind": "paces", "paces": paces_of(task, evaluator)})
    plans = plans_of(task, results.having(data=name, kind="paces")[0]["paces"])
    longest = max(plan.fidelity.recipe_epochs or 0 for plan in plans.values())
    for candidate in networks(task, given.networks):
        about = {"data": name, "network": candidate.number, "family": candidate.family}
        for limit, plan in plans.items():
            if not results.having(**about, kind=limit):
                results.add(about | {"kind": limit} | proxy_of(plan, candidate, evaluator))
        if not results.having(**about, kind="full"):
            full = in_full(candidate, task, dataset, longest, work)
            results.add(about | {"kind": "full", "epochs": longest} | full)


def table(results: Results, data: Path) -> None:
    print("| data | plan | epochs x share, folds | networks | tau |\n|---|---|---|---|---|")
    for path in DATA:
        name = Path(path).name
        if not (known := results.having(data=name, kind="paces")):
            continue
        _, task = problem(data, path)
        for limit, plan in plans_of(task, known[0]["paces"]).items():
            pairs = [
                (row["score"], full["score"])
                for row in results.having(data=name, kind=limit)
                for full in results.having(data=name, kind="full", network=row["network"])
                if row["score"] is not None
            ]
            tau = kendalltau(*zip(*pairs, strict=True)).statistic if len(pairs) > 2 else math.nan
            f = plan.fidelity
            how = f"{f.epochs} x {f.share:.2f}, {f.folds or rules.folds(task)}"
            print(f"| {name} | {limit} | {how} | {len(pairs)} | {tau:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--only", default="", help="data sets, separated by commas")
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    finished = Results(given.work)
    for path in DATA:
        chosen = not given.only or Path(path).name in given.only.split(",")
        if chosen and not given.table:
            compare(finished, path, given)
    table(finished, given.data)
