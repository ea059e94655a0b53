"""Samplers without a model of ours: chance, regularised evolution, Optuna's TPE and NSGA-II."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
import optuna

from nas.candidate import Candidate, State
from nas.front import farthest_first, front_ranks, is_efficient, to_costs
from nas.search.samplers import History, Sampler, generator
from nas.space import Config, Int, Space, Value
from nas.task import Objective, Task

# Random configurations of each family before a model is used. Where the candidates so far have
# taken a sixth of the workers' time one of each is enough, where a third the proven ones are.
INITIAL_PER_FAMILY, INITIAL_TIME = 4, (1 / 6, 1 / 3)
# Draws without a new configuration after which a space counts as exhausted.
MAX_DRAWS = 2_000
# Of regularised evolution: the sizes of its population and of a tournament.
POPULATION, TOURNAMENT = 50, 10
# After the initial design this fraction of TPE's candidates are mutations of a family's best,
# whatever the model thinks of the family: one that has settled early on the cheapest family
# leaves half of the front out.
MUTATED_FRACTION = 0.5
# Candidates of a family that are mutated, and how much more often a family on the front is.
PARENTS, FRONT_WEIGHT = 3, 3.0


class RandomSampler(Sampler):
    """Random search, family by family in turn."""

    def propose(self, history: History) -> Iterator[Config]:
        rng = generator(self.task, history.number)
        return _by_family(self.space, history.candidates, rng, narrow_first=False)


class EvolutionSampler(Sampler):
    """Regularised evolution (Real et al. 2019, sec. 3): a mutation of the winner of a tournament
    among the latest candidates, here by non-dominated rank and spread."""

    def propose(self, history: History) -> Iterator[Config]:
        rng = generator(self.task, history.number)
        feasible = [c for c in history.candidates if c.feasible(self.task.constraints)]
        return chain(self._mutations(feasible[-POPULATION:], rng), random_draws(self.space, rng))

    def _mutations(
        self, population: Sequence[Candidate], rng: np.random.Generator
    ) -> Iterator[Config]:
        if not population:
            return
        for _ in range(MAX_DRAWS // 10):
            picked = rng.choice(len(population), min(TOURNAMENT, len(population)), replace=False)
            tournament = [population[i] for i in picked]
            winner = _fittest(tournament, self.task.objectives, 1)[0]
            yield self.space.mutate(winner.joined, rng)


class TpeSampler(Sampler):
    """Optuna's multivariate TPE after an initial design, beside mutations of each family's best."""

    def propose(self, history: History) -> Iterator[Config] | None:
        rng, candidates = generator(self.task, history.number), history.candidates
        if needs_initial_design(self.space, self.task, candidates):
            return initial_design(self.space, candidates, rng)
        feasible = [c for c in candidates if c.feasible(self.task.constraints)]
        efficient = is_efficient(to_costs([c.contended for c in feasible], self.task.objectives))
        on_front = {c.family for c, best in zip(feasible, efficient, strict=True) if best}
        families = family_names(self.space)
        weights = np.array([FRONT_WEIGHT if f in on_front else 1.0 for f in families])
        family = families[int(rng.choice(len(families), p=weights / weights.sum()))]
        members = [c for c in feasible if c.family == family]
        if not members or rng.random() >= MUTATED_FRACTION:
            return None
        return chain(self._mutations(members, rng), random_draws(self.space, rng))

    def _mutations(
        self, members: Sequence[Candidate], rng: np.random.Generator
    ) -> Iterator[Config]:
        """One to three changes to one of the best of a family."""
        best = _fittest(members, self.task.objectives, PARENTS)
        for _ in range(MAX_DRAWS // 10):
            parent = best[int(rng.integers(len(best)))]
            config = self.space.mutate(parent.joined, rng, changes=int(rng.integers(1, 4)))
            if config["family"] == parent.family:
                yield config

    def optuna_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            # `group` is how TPE models conditional spaces, and still marked experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=0, multivariate=True, group=True, constant_liar=True, seed=seed
            )


class Nsga2Sampler(Sampler):
    """Optuna's NSGA-II (Deb et al. 2002)."""

    def propose(self, history: History) -> None:
        return None

    def optuna_sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.NSGAIISampler(seed=seed)


# -- initial designs -----------------------------------------------------------------------


def family_names(space: Space) -> Sequence[Value]:
    """The families of a joined space."""
    return space["family"].options  # type: ignore[union-attr]  # always a Choice


def random_draws(space: Space, rng: np.random.Generator) -> Iterator[Config]:
    """Configurations by chance, as many as a space may hold without a new one."""
    return (space.sample(rng) for _ in range(MAX_DRAWS))


def needs_initial_design(space: Space, task: Task, candidates: Sequence[Candidate]) -> bool:
    """Whether there is too little for a model to learn from."""
    each, worker_s = INITIAL_PER_FAMILY, task.budget.worker_s
    if worker_s is not None:
        spent = sum(c.seconds for c in candidates) / worker_s
        each = (INITIAL_PER_FAMILY, 1, 0)[sum(spent > limit for limit in INITIAL_TIME)]
    enough = each * len(family_names(space))
    few = _sampled(candidates, enough) < enough
    return few or all(c.state != State.COMPLETE for c in candidates)


def initial_design(
    space: Space, candidates: Sequence[Candidate], rng: np.random.Generator
) -> Iterator[Config]:
    """Random configurations, family by family in turn, the first of each with the narrowest
    widths: costs pull towards narrow networks, and hardly a draw is narrow everywhere."""
    return _by_family(space, candidates, rng, narrow_first=True)


def _by_family(
    space: Space, candidates: Sequence[Candidate], rng: np.random.Generator, *, narrow_first: bool
) -> Iterator[Config]:
    families, sampled = family_names(space), _sampled(candidates)
    turn = families[sampled % len(families)]
    drawn = (config for config in random_draws(space, rng) if config["family"] == turn)
    if narrow_first and sampled < len(families):
        drawn = (_narrowed(space, config) for config in drawn)
    return chain(drawn, random_draws(space, rng))


def _narrowed(space: Space, config: Config) -> Config:
    """The configuration with all its widths at their lower bounds."""
    parents = {name for param in space.params for name in param.when}
    widths = {p.name: p.low for p in space.params if isinstance(p, Int) and p.log}
    return {n: v if n in parents else widths.get(n, v) for n, v in config.items()}


def _sampled(candidates: Sequence[Candidate], most: int | None = None) -> int:
    """How many were sampled; it counts to ``most``."""
    return sum(1 for _ in islice((c for c in candidates if c.origin == "sampled"), most))


def _fittest(
    candidates: Sequence[Candidate], objectives: Sequence[Objective], count: int
) -> list[Candidate]:
    """The best by rank and spread (NSGA-II, Deb et al. 2002, sec. III, with other distances)."""
    costs = to_costs([c.contended for c in candidates], objectives)
    spread = np.argsort(farthest_first(costs))
    return [candidates[i] for i in np.lexsort((spread, front_ranks(costs)))[:count]]
