"""Where the next configuration comes from.

A sampler is made afresh for each ask from a stable hash of (seed, number), so that twelve
candidates and a resume to twenty-four equal twenty-four in one go.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from nas.candidate import Candidate
from nas.front import farthest_first, front_ranks, is_efficient, to_costs
from nas.space import Config, Int, Space, join_family
from nas.task import Objective, UsageError

if TYPE_CHECKING:
    import optuna

NAMES = ("tpe", "nsga2", "random")
# After the start-up this share of asks refines each family's best, whatever the model thinks
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


def proposals(
    name: str,
    space: Space,
    *,
    seed: int,
    sampled: int,
    complete: Sequence[Candidate],
    objectives: Sequence[Objective],
) -> Iterator[Config] | None:
    """Configurations that do not need the model, to take the first new one of; None leaves
    the choice to the model.

    "random" and the first ``4 × families`` of all draw at random, family by family in turn
    (``sampled`` have been before). Later, "tpe" gives the share ``MUTATE`` of the asks to
    evolution: one to three changes to one of a family's ``PARENTS`` best by rank and spread
    (NSGA-II, Deb et al. 2002, sec. III, with other distances). Families that are on the front
    have their turn ``ON_FRONT`` times as often. ``complete`` are those inside all limits.
    """
    rng = np.random.default_rng(seed)
    by_chance = (space.sample(rng) for _ in range(DRAWS))
    families = space["family"].options  # type: ignore[union-attr]  # always a Choice
    if name == "random" or sampled < 4 * len(families):
        wanted = families[sampled % len(families)]
        drawn = (space.sample(rng) for _ in range(DRAWS))
        fitting = (config for config in drawn if config["family"] == wanted)
        if name != "random" and sampled < len(families):
            fitting = (_narrowed(space, config) for config in fitting)
        return chain(fitting, by_chance)
    if name != "tpe":
        return None
    efficient = is_efficient(to_costs(complete, objectives))
    leading = {c.family for c, best in zip(complete, efficient, strict=True) if best}
    turns = np.array([ON_FRONT if f in leading else 1.0 for f in families])
    family = families[int(rng.choice(len(families), p=turns / turns.sum()))]
    own = [c for c in complete if c.family == family]
    if own and rng.random() < MUTATE:
        costs = to_costs(own, objectives)
        spread = np.argsort(farthest_first(costs))
        best = [own[i] for i in np.lexsort((spread, front_ranks(costs)))[:PARENTS]]
        parents = (best[int(rng.integers(len(best)))] for _ in range(DRAWS // 10))
        near = (
            space.mutate(join_family(c.family, c.config), rng, changes=int(rng.integers(1, 4)))
            for c in parents
        )
        return chain((config for config in near if config["family"] == family), by_chance)
    return None
