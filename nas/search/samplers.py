"""Where the next configuration comes from.

A sampler is made afresh for each ask from a stable hash of (seed, number), so that twelve
candidates and a resume to twenty-four equal twenty-four in one go.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
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


def stable_seed(seed: int, number: int) -> int:
    """The same on every machine and in every process, unlike ``hash``."""
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little")


def optuna_sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    import optuna

    stable = stable_seed(seed, number)
    if name == "tpe":
        # `group` is how TPE models conditional spaces; that it may change is pinned away.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=0, multivariate=True, group=True, constant_liar=True, seed=stable
        )
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=stable)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=stable)
    raise UsageError(f"unknown sampler {name!r}; known are {', '.join(NAMES)}")


def propose(
    name: str,
    space: Space,
    number: int,
    seed: int,
    sampled: int,
    front: Sequence[Candidate],
) -> Config | None:
    """A configuration that does not need the model, or None to let Optuna choose.

    The first ``4 × families`` are drawn at random, family by family in turn; later a
    quarter are neighbours of the current front.
    """
    rng = np.random.default_rng(stable_seed(seed, number))
    families = space["family"].options  # type: ignore[union-attr]  # always a Choice
    if name == "random" or sampled < 4 * len(families):
        wanted = families[sampled % len(families)]
        while (config := space.sample(rng))["family"] != wanted:
            pass
        return config
    if name == "tpe" and front and rng.random() < MUTATE:
        parent = front[int(rng.integers(len(front)))]
        return space.mutate(join_family(parent.family, parent.config), rng, changes=2)
    return None
