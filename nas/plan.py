"""From a data set and what is wanted to the task of a search. No torch."""

from __future__ import annotations

from dataclasses import replace

from nas import rules
from nas.data import Dataset
from nas.task import Budget, Constraint, Task


def make_task(
    dataset: Dataset,
    *,
    objectives: tuple[str, ...] = (),
    constraints: tuple[Constraint, ...] = (),
    budget: Budget,
    device: str,
    epochs: int | None = None,
    seed: int = 0,
    deterministic: bool = False,
) -> Task:
    """The task of a data set.

    Args:
        dataset: What ``nas.data.read`` returns.
        objectives: Metrics to optimise; none for a quality, latency and parameters. FLOPs take
            the place of latency in a ``deterministic`` search.
        constraints: Limits that every answer must meet.
        budget: What the search may spend.
        device: "cpu" or "cuda".
        epochs: Of a proxy; None for what the rules say (``rules.fidelity``).
        seed: Of all that is drawn at random.
        deterministic: Whether nothing that a clock says may steer the search.

    Raises:
        UsageError: An objective or a limit is not measured on this data.
    """
    task = Task(
        modality=dataset.modality,
        targets=dataset.targets,
        profile=dataset.profile,
        constraints=constraints,
        device=device,
        budget=budget,
        seed=seed,
    )
    if deterministic and not objectives:
        objectives = (task.default_quality, "flops", "params")
    task = task.with_objectives(objectives)
    task.check_measured([o.metric for o in task.objectives] + [c.metric for c in constraints])
    fidelity = rules.fidelity(task)
    if epochs is not None:
        fidelity = replace(fidelity, epochs=epochs)
    return replace(task, fidelity=fidelity)
