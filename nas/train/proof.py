"""``nas train --check``: whether the proxy of a recipe, trained again, gives what the search has
measured."""

from __future__ import annotations

import statistics
import warnings
from pathlib import Path
from typing import Any

import torch

from nas import recipe as recipes
from nas.space import members
from nas.task import InputError, SelfCheckFailed, Task
from nas.training.callbacks import EpochLines, StopAfter, kept_threads
from nas.training.device import prepare
from nas.training.fit import folds, train_folds
from nas.training.metrics import mean_scores
from nas.training.monitors import GradientMonitor, TrainingStopped
from nas.training.proxy import Proxy, TaskData, proxy_of, quiet_lightning
from nas.training.resume import kept_generators


def check(path: Path, seeds: int = 1) -> dict[str, Any]:
    """Train the proxy of a recipe again and compare it with what the search measured.

    Returns the ``objective``, its ``measured``, ``again`` and ``tolerance``, and of how many
    ``folds`` the two are the mean. Raises SelfCheckFailed where they differ by more. On the
    machine of the search, with the same versions, the two are equal.

    With several ``seeds`` the proxy is trained with others too, and the recipe's tolerance becomes
    two standard deviations of what they give.
    """
    recipe = recipes.load(path)
    of = recipe["provenance"]
    found = [proxy_again(recipe, path, of["proxy"]["seed"] + k) for k in range(seeds)]
    name, folded = of["objective"], found[0][1]
    values = [value for value, _ in found]
    tolerance = float(of["tolerance"])
    if seeds > 1:
        tolerance = max(2 * statistics.stdev(values), 1e-6)
        content = recipes.read(path)
        content["provenance"] |= {"tolerance": tolerance, "repeats": values}
        recipes.write(content, path)
    result = {
        "objective": name,
        "folds": folded,
        "measured": float(of["validation"][name]),
        "again": values[0],
        "tolerance": tolerance,
        **({"repeats": values} if seeds > 1 else {}),
    }
    if not abs(result["again"] - result["measured"]) <= result["tolerance"]:
        mean = f", the mean of {folded} folds," if folded > 1 else ""
        raise SelfCheckFailed(
            f"{path}: {name}{mean} is {result['again']:.5g} now and was {result['measured']:.5g},"
            f" more than {result['tolerance']:.2g} apart; compare the versions in its provenance"
        )
    return result


@kept_generators()
@kept_threads()
def proxy_again(recipe: dict[str, Any], path: Path, seed: int) -> tuple[float, int]:
    """The objective of a recipe's proxy with a seed, and of how many folds it is the mean."""
    of, arguments = recipe["provenance"], recipe["model"]["init_args"]
    quiet_lightning()
    proxy_of(arguments, str(path), Proxy)  # a configuration that does not fit is refused here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # as in a worker: sums in another order differ
        data, task = TaskData(**recipe["data"]["init_args"]), Task.from_dict(arguments["task"])
        data.task = task
        data.setup()
        assert data.dataset is not None
        if task.device != "cpu" and not torch.cuda.is_available():
            raise InputError(
                f"{path}: its proxy was trained on a GPU, and none is visible here; check it on a"
                " machine that has one"
            )
        prepare(task.device)  # float32 has the units of a worker's
        parts, trained = folds(data.dataset, task), of["proxy"].get("trained")
        lines = EpochLines(len(parts), trained)
        try:
            scores = train_folds(
                *members(arguments["family"], arguments["config"])[0],
                task,
                parts,
                of["proxy"]["epochs"],
                seed,
                lambda: [lines, GradientMonitor(), StopAfter(trained)],
                of["proxy"].get("accumulate", 1),
                of["proxy"].get("precision"),
            )
        except TrainingStopped as stop:
            raise SelfCheckFailed(f"{path}: the proxy did not finish this time: {stop}") from None
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
    return float(mean_scores(scores)[of["objective"]]), len(parts)
