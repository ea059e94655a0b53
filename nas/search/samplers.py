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
from nas.space import Config, Space, join_family
from nas.task import UsageError

if TYPE_CHECKING:
    import optuna

NAMES = ("tpe", "nsga2", "random")
# Shares of asks after the start-up: some neighbours of the front beside the model's choices,
# so that a family the model has given up is still refined where it is on the front.
MUTATE = 0.25
# Draws without a new configuration after which a space counts as exhausted.
DRAWS = 2_000


def stable_seed(seed: int, number: int) -> int:
    """The same on every machine and in every process, unlike ``hash``."""
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def optuna_sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    import optuna

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
    if name == "random":
        return optuna.samplers.RandomSampler(seed=stable)
    raise UsageError(f"unknown sampler {name!r}; known are {', '.join(NAMES)}")


def proposals(
    name: str, space: Space, *, seed: int, sampled: int, front: Sequence[Candidate]
) -> Iterator[Config] | None:
    """Configurations that do not need the model, to take the first new one of; None leaves
    the choice to the model.

    "random" and the first ``4 × families`` of all draw at random, family by family in turn
    (``sampled`` have been before); later a quarter are neighbours of the current front.
    """
    rng = np.random.default_rng(seed)
    by_chance = (space.sample(rng) for _ in range(DRAWS))
    families = space["family"].options  # type: ignore[union-attr]  # always a Choice
    if name == "random" or sampled < 4 * len(families):
        wanted = families[sampled % len(families)]
        drawn = (space.sample(rng) for _ in range(DRAWS))
        return chain((config for config in drawn if config["family"] == wanted), by_chance)
    if name == "tpe" and front and rng.random() < MUTATE:
        parents = (front[int(rng.integers(len(front)))] for _ in range(DRAWS // 10))
        near = (space.mutate(join_family(c.family, c.config), rng, changes=2) for c in parents)
        return chain(near, by_chance)
    return None
