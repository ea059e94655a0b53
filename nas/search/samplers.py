"""Where the next configuration comes from.

A sampler is made afresh for each ask from a stable hash of (seed, number), so that twelve
candidates and a resume to twenty-four equal twenty-four in one go; but for "ehvi", whose models
are fitted when it is time to, and by a search that is resumed once more.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from nas.candidate import Candidate, State
from nas.front import farthest_first, front_ranks, is_efficient, to_costs
from nas.space import Config, Int, Space, Value, join_family
from nas.task import COSTS, Objective, Task, UsageError

if TYPE_CHECKING:
    import optuna

    from nas.search.ehvi import Ehvi, Measured

NAMES = ("auto", "ehvi", "evolution", "tpe", "nsga2", "random")
# What is drawn of each family before a model is asked.
START = 4
# The share of asks at which "ehvi" draws instead: what a model is wrong about it does not ask for.
CHANCE = 0.1
# Of regularised evolution: the youngest so many live, and so many enter a tournament.
POPULATION, TOURNAMENT = 50, 10
# TPE: after the start-up this share of asks refines each family's best, whatever the model thinks
# of the family: one that has settled early on the cheapest leaves half of the front out.
MUTATE = 0.5
PARENTS = 3
ON_FRONT = 3.0
# Draws without a new configuration after which a space counts as exhausted.
DRAWS = 2_000


def stable_seed(seed: int, number: int) -> int:
    """The same on every machine and in every process, unlike ``hash``."""
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def check(name: str) -> None:
    """Raise UsageError where there is no such sampler."""
    if name not in NAMES:
        raise UsageError(f"unknown sampler {name!r}; known are {', '.join(NAMES)}")


def chosen(name: str, task: Task) -> str:
    """The sampler that ``name`` stands for: "auto" is "ehvi" where the objectives hold one
    quality, as it models one, and "tpe" elsewhere. Raises UsageError."""
    check(name)
    qualities = [o.metric for o in task.objectives if o.metric not in COSTS]
    if name == "auto":
        return "ehvi" if len(qualities) == 1 else "tpe"
    if name == "ehvi" and len(qualities) > 1:
        raise UsageError(
            f"the sampler ehvi models one quality, but the objectives hold {len(qualities)}"
            f" ({', '.join(qualities)}); choose --sampler tpe"
        )
    return name


def optuna_sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    import optuna

    check(name)
    stable = stable_seed(seed, number)
    if name == "tpe":
        with warnings.catch_warnings():
            # `group` is how TPE models conditional spaces, and still marked experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=0, multivariate=True, group=True, constant_liar=True, seed=stable
            )
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=stable)
    return optuna.samplers.RandomSampler(seed=stable)


def _narrowed(space: Space, config: Config) -> Config:
    """The configuration with all its widths at their lower bounds.

    Costs pull towards narrow networks, and hardly a draw is narrow everywhere: each family
    gets one to start from.
    """
    parents = {name for param in space.params for name in param.when}
    widths = {p.name: p.low for p in space.params if isinstance(p, Int) and p.log}
    return {n: v if n in parents else widths.get(n, v) for n, v in config.items()}


def starting(space: Space, rows: Sequence[Candidate]) -> bool:
    """Whether there is too little for a model to learn from."""
    families = space["family"].options  # type: ignore[union-attr]  # always a Choice
    return _sampled(rows) < START * len(families) or all(c.state != State.COMPLETE for c in rows)


def _sampled(rows: Sequence[Candidate]) -> int:
    return sum(c.origin == "sampled" for c in rows)


def asks_model(rng: np.random.Generator) -> bool:
    """Whether "ehvi" asks its model this time, and not chance."""
    return bool(rng.random() >= CHANCE)


def proposals(
    name: str,
    space: Space,
    *,
    seed: int,
    rows: Sequence[Candidate],
    task: Task,
    model: Ehvi | None = None,
    measured: Sequence[Measured] = (),
) -> Iterator[Config] | None:
    """Configurations, to take the first new one of; None leaves the choice to Optuna.

    "random" draws at random, family by family in turn, and so do "ehvi" and "tpe" the first
    ``4 × families`` times. Then "ehvi" asks its ``model``, which knows the costs of
    ``measured`` configurations too, but for the share ``CHANCE``, and "tpe" gives the share
    ``MUTATE`` of the asks to mutation. "evolution" starts from the baselines. ``rows`` are all
    candidates so far.
    """
    rng = np.random.default_rng(seed)
    by_chance = (space.sample(rng) for _ in range(DRAWS))
    families = space["family"].options  # type: ignore[union-attr]  # always a Choice
    sampled = _sampled(rows)
    if name == "random" or (name in ("ehvi", "tpe") and starting(space, rows)):
        wanted = families[sampled % len(families)]
        drawn = (space.sample(rng) for _ in range(DRAWS))
        fitting = (config for config in drawn if config["family"] == wanted)
        if name != "random" and sampled < len(families):
            fitting = (_narrowed(space, config) for config in fitting)
        return chain(fitting, by_chance)
    if name == "nsga2":
        return None
    if name == "ehvi" and not asks_model(rng):
        return by_chance
    if name == "ehvi":
        assert model is not None
        return chain(model.propose(rows, measured, rng).configs, by_chance)
    feasible = [c for c in rows if c.feasible(task.constraints)]
    if name == "evolution":
        return chain(_evolved(space, feasible, task.objectives, rng), by_chance)
    return _refined(space, feasible, task.objectives, families, rng, by_chance)


def _evolved(
    space: Space,
    complete: Sequence[Candidate],
    objectives: Sequence[Objective],
    rng: np.random.Generator,
) -> Iterator[Config]:
    """Regularised evolution (Real et al. 2019, sec. 3): a change to the winner of a tournament
    among the youngest, here by rank and spread."""
    population = complete[-POPULATION:]
    if not population:
        return
    for _ in range(DRAWS // 10):
        picked = rng.choice(len(population), min(TOURNAMENT, len(population)), replace=False)
        entered = [population[i] for i in picked]
        winner = _fittest(entered, objectives, 1)[0]
        yield space.mutate(join_family(winner.family, winner.config), rng)


def _refined(
    space: Space,
    complete: Sequence[Candidate],
    objectives: Sequence[Objective],
    families: Sequence[Value],
    rng: np.random.Generator,
    by_chance: Iterator[Config],
) -> Iterator[Config] | None:
    """For the share ``MUTATE`` of the asks, one to three changes to one of a family's
    ``PARENTS`` best. Families on the front have their turn ``ON_FRONT`` times as often."""
    efficient = is_efficient(to_costs(complete, objectives))
    leading = {c.family for c, best in zip(complete, efficient, strict=True) if best}
    turns = np.array([ON_FRONT if f in leading else 1.0 for f in families])
    family = families[int(rng.choice(len(families), p=turns / turns.sum()))]
    own = [c for c in complete if c.family == family]
    if not own or rng.random() >= MUTATE:
        return None
    best = _fittest(own, objectives, PARENTS)
    parents = (best[int(rng.integers(len(best)))] for _ in range(DRAWS // 10))
    near = (
        space.mutate(join_family(c.family, c.config), rng, changes=int(rng.integers(1, 4)))
        for c in parents
    )
    return chain((config for config in near if config["family"] == family), by_chance)


def _fittest(
    candidates: Sequence[Candidate], objectives: Sequence[Objective], count: int
) -> list[Candidate]:
    """The best by rank and spread (NSGA-II, Deb et al. 2002, sec. III, with other distances)."""
    costs = to_costs(candidates, objectives)
    spread = np.argsort(farthest_first(costs))
    return [candidates[i] for i in np.lexsort((spread, front_ranks(costs)))[:count]]
