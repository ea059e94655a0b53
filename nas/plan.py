"""From a data set and what is wanted to the task of a search, and from the measured pace and the
budget to the training that each candidate gets. No torch.

Three amounts compete for the time of the workers: how many candidates are trained, how long each
of them, and the training of the winner in full. ``plan_search`` divides the time by three rules:

- Trainings in full come first (nas.finals): time for ``FINALISTS`` of the best candidates is kept
  back, up to ``KEPT_BACK`` of the search, and with the networks that are averaged with the winner
  up to ``KEPT_MOST``.
- Some candidates for each family come before long trainings: a model of quality learns from
  ``FEW`` of each, and where these are affordable the next ``MANY`` come before longer training.
- Where even few are too expensive, what scores a candidate is made cheaper step by step: fewer
  folds, then fewer epochs, then a smaller part of the data. Where time is left over, candidates
  are trained on all data and for as long as the recipe, so that the front is of networks that are
  fully trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from nas import rules
from nas.candidate import Candidate
from nas.data import Dataset
from nas.family import load_families
from nas.task import Budget, Constraint, Fidelity, JsonRecord, Task
from nas.terminal import percent

KEPT_BACK = 0.5  # of the wall clock, at most, for trainings in full of the best candidates
KEPT_MOST = 2 / 3  # with the networks that are averaged with the winner
# Where this is for less than PRESSED of the epochs that help, and there are no more workers than
# finalists, a longer training is worth more than a choice between more networks.
PRESSED = 0.25
FINALISTS = 4  # that are trained in full, where there is time
FEW_CORES = 4  # up to which one training is faster on all of them
GRACE_S = 10.0  # for a training that is late or told to end
FEW, SOME, MANY = 3, 6, 24  # candidates for each family
BESIDE_S = 0.5  # of a candidate beside its epochs: counts, a latency, a start
USED = 0.95  # of the time; the rest is start-up, simple models and the front's latencies
LIMIT_FACTOR = 3.0  # of a candidate over a baseline of the plan, for larger networks
FEWEST_EPOCHS, FEWEST_SAMPLES = 4, 500
FEWEST_STEPS = 100  # of a proxy that is compared with others: fewer leave a network as it began
ADAPTED, ADAPTED_MOST = 0.6, 10  # of the time, for networks from published weights; how many
ETA = 3  # of the candidates at a rung one of so many is promoted
PROMOTED = 0.5  # of candidates at a rung: a third, and what else is on the first front
SIMPLE_TEST_S = 60.0  # seconds that simple models may take beside a network that is tested


def rungs(epochs: int) -> tuple[int, ...]:
    """Epochs after which successive halving judges a candidate: epochs/ETA², epochs/ETA.

    Not after the first, which warms up, and not after so few that the figures say little of
    the last: the first rung stands at three epochs or, where a third is less, at two.
    """
    first, second = round(epochs / ETA**2), round(epochs / ETA)
    return tuple(sorted({e for e, least in ((first, 3), (second, 2)) if least <= e < epochs}))


def rung_key(task: Task, candidate: Candidate, epoch: float) -> tuple[float | None, ...]:
    """The rung that a candidate reaches after an epoch. Only trainings of one length, on as much of
    the data, meet there: families that start from published weights have others."""
    own = task.fidelity.other.get(candidate.family, task.fidelity)
    return candidate.epochs, own.share, own.folds, epoch


def mean_epochs(epochs: int) -> float:
    """The mean over candidates, of which the rungs stop some."""
    mean, reach, before = 0.0, 1.0, 0
    for rung in (*rungs(epochs), epochs):
        mean, reach, before = mean + reach * (rung - before), reach * PROMOTED, rung
    return mean


def mean_fraction(task: Task) -> float:
    """The mean over candidates of the fraction of their epochs that they are trained for; other
    folds than the first are for those that reach its end."""
    epochs, folds = task.fidelity.epochs, rules.folds(task)
    complete = PROMOTED ** len(rungs(epochs))
    return (mean_epochs(epochs) + complete * (folds - 1) * epochs) / (folds * epochs)


def latencies_s(limit_s: float) -> float:
    """Seconds of a search of ``limit_s`` that are for the latencies of its front: a twentieth, at
    most half a minute; of a short search as many as a front of ten takes, at most a fifth."""
    return min(30.0, max(0.05 * limit_s, min(10.0, 0.2 * limit_s)))


def left_to_plan(budget: Budget, spent_s: float = 0.0) -> Budget:
    """What of a budget a plan may divide: not what is spent, nor what the latencies of a short
    search take beyond the time that a plan leaves by itself (``USED``)."""
    limit_s = budget.time_limit_s
    if limit_s is None:
        return budget
    more_s = max(0.0, latencies_s(limit_s) - (1 - USED) * limit_s)
    return replace(budget, time_limit_s=max(1.0, limit_s - spent_s - more_s))


def make_task(
    dataset: Dataset | Task,
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
        dataset: What ``nas.data.read`` returns, or an earlier task on the same data.
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


@dataclass(frozen=True)
class Pace(JsonRecord):
    """A training's speed as its first steps show it: on a CPU, of a core to itself."""

    step_ms: float
    spread_ms: float  # interquartile range of the steps
    steps: int  # that were timed
    epoch_s: float  # of a proxy, with its validation
    contention: float = 1.0  # seconds of the wall for each that the process had of a core


@dataclass(frozen=True)
class SearchPlan(JsonRecord):
    """What a search's time is for.

    Args:
        fidelity: The training of each candidate.
        candidates: How many the time is for, where candidates are of the baselines' size.
        candidate_s: Seconds of one that is trained to its end, on one worker.
        finish_s: Seconds of the wall clock that are kept back for trainings at full scale.
        full_s: Seconds that the winner's training takes by the recipe, on one worker.
        reasons: What the plan follows from, a sentence each.
    """

    fidelity: Fidelity
    candidates: int
    candidate_s: float
    finish_s: float
    full_s: float
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Level:
    """One way to score a candidate, and how many candidates it must leave room for."""

    wanted: int
    folds: int
    epochs: int
    share: float

    def seconds(self, epoch_s: float) -> float:
        """Of one candidate, where an epoch of all training data takes ``epoch_s``."""
        return BESIDE_S + self.folds * self.epochs * self.share * epoch_s

    def mean_seconds(self, epoch_s: float) -> float:
        """The mean over candidates of which halving stops most."""
        first = mean_epochs(self.epochs) * self.share * epoch_s
        complete = PROMOTED ** len(rungs(self.epochs))  # other folds are for those alone
        others = complete * (self.folds - 1) * self.epochs * self.share * epoch_s
        return BESIDE_S + first + others


def plan_search(
    task: Task, paces: Mapping[str, Pace], *, finish: bool = True, ensemble: int = 1
) -> SearchPlan:
    """How much training candidates get, from the pace that was measured and the task's budget.

    Args:
        task: With the rules' fidelity (``rules.fidelity``) and a budget that ends by time.
        paces: Of each family's baseline, trained as the task's fidelity says.
        finish: Whether the winner's training is to be kept time for.
        ensemble: Of how many networks of the winner.

    Raises:
        ValueError: For a budget without an end in time, or without a pace.

    Example:
        A hundred times the time gives more candidates, and longer trainings:

        >>> from nas.testing import small_task
        >>> from nas.task import Budget
        >>> from dataclasses import replace
        >>> short, long = (replace(small_task(), budget=Budget(s)) for s in (60.0, 6000.0))
        >>> pace = Pace(step_ms=10.0, spread_ms=1.0, steps=9, epoch_s=1.0)
        >>> less, more = (plan_search(task, {"mlp": pace}) for task in (short, long))
        >>> less.candidates < more.candidates and less.candidate_s < more.candidate_s
        True
    """
    worker_s, budget, rule = task.budget.worker_s, task.budget, task.fidelity
    if worker_s is None or not paces:
        raise ValueError("a plan needs a budget that ends by time, and the pace of a family")
    if adapted := starting_from_weights(task, paces):
        return _with_pretrained(task, paces, adapted, finish=finish, ensemble=ensemble)
    families = len(paces)
    # Of an epoch over all training data, beside the other workers.
    mean_s = sum(p.epoch_s * p.contention for p in paces.values()) / families / rule.share
    fastest_s = min(p.epoch_s * p.contention for p in paces.values()) / rule.share
    wall_s = worker_s / budget.workers
    finals_s = budget.time_limit_s or 0.0  # of the wall clock, as these spend no device-hours
    kept_back = _kept_back(task, mean_s, finals_s)

    def kept_s(recipe: int) -> float:
        places = max(1.0, budget.workers * (budget.gpus or budget.cpus))
        rounds, more = (math.ceil(n / places) for n in (FINALISTS, ensemble - 1))
        round_s = 1.2 * recipe * mean_s + budget.start_s
        kept = min(rounds * round_s + budget.start_s, kept_back * finals_s)
        kept = min(kept + more * round_s, max(kept, KEPT_MOST * finals_s))
        # Less than an epoch of the fastest is of more use to the search.
        return kept if finish and kept > budget.start_s + fastest_s else 0.0

    def affordable(level: _Level, recipe: int) -> bool:
        room_s = _room_s(budget, kept_s(recipe))
        wanted_s = level.wanted * level.mean_seconds(mean_s)
        return wanted_s <= room_s and level.seconds(mean_s) <= rules.LONGEST_CANDIDATE * wall_s

    recipe = _recipe_epochs(
        task,
        lambda epochs: affordable(_Level(MANY * families, rules.folds(task), epochs, 1.0), epochs),
        _epochs_in(kept_back * finals_s, mean_s, budget.start_s) if finish else 0,
    )
    full_s, finish_s = recipe * mean_s, kept_s(recipe)
    room_s = _room_s(budget, finish_s)
    levels = list(_levels(task, families, recipe))
    level = next((level for level in levels if affordable(level, recipe)), None)
    short = level is None
    level = level or levels[-1]
    candidate_s = level.seconds(mean_s)
    most_s = rules.LONGEST_CANDIDATE * wall_s
    limit_s = max(min(LIMIT_FACTOR * candidate_s, most_s), min(candidate_s, 0.5 * wall_s))
    fidelity = Fidelity(
        level.epochs,
        level.share,
        time_limit_s=limit_s,
        folds=level.folds,
        rule_epochs=rule.rule_epochs or rule.epochs,
        recipe_epochs=recipe,
    )
    return SearchPlan(
        fidelity,
        candidates=max(1, int(room_s / level.mean_seconds(mean_s))),
        candidate_s=candidate_s,
        finish_s=finish_s,
        full_s=full_s,
        reasons=tuple(_reasons(task, level, recipe, finish_s, full_s, short)),
    )


def _room_s(budget: Budget, kept_s: float) -> float:
    """Worker-seconds for candidates, where ``kept_s`` of the wall clock are kept back."""
    hours_s = replace(budget, time_limit_s=None).worker_s  # which candidates alone spend
    room_s = math.inf if hours_s is None else USED * hours_s
    if budget.time_limit_s is None:
        return room_s
    return min(room_s, (USED * budget.time_limit_s - kept_s) * budget.workers)


def _epochs_in(seconds: float, epoch_s: float, start_s: float) -> int:
    """Epochs of one round of trainings in full, with the start of the process that scores it."""
    return int((seconds - 2 * start_s) / (1.2 * epoch_s))


def _kept_back(task: Task, epoch_s: float, wall_s: float) -> float:
    """The fraction of the wall clock that may be kept for trainings in full."""
    enough = PRESSED * rules.longest_epochs(task)
    pressed = _epochs_in(KEPT_BACK * wall_s, epoch_s, task.budget.start_s) < enough
    return KEPT_MOST if pressed and task.budget.workers <= FINALISTS else KEPT_BACK


def _recipe_epochs(task: Task, affordable: Callable[[int], bool], in_finals: int) -> int:
    """Epochs of the recipe: from as many as help (``rules.longest_epochs``) down to a proxy's, the
    most by which the search's candidates can be trained too; else as many as the time that is
    kept back has for one round of trainings (``in_finals``), but no fewer than the rules say. A
    training that has stopped to get better ends early."""
    most = rules.longest_epochs(task)
    least = min(task.fidelity.epochs, most)
    for i in range(16, -1, -1):
        if affordable(epochs := round(least * math.pow(most / least, i / 16))):
            return epochs
    return max(rules.full_epochs(task, rules.batch_sizes(task)[1]), min(most, in_finals))


def _levels(task: Task, families: int, recipe_epochs: int) -> Iterator[_Level]:
    """From the most expensive to the cheapest way to score a candidate."""
    rule, folds = task.fidelity, rules.folds(task)
    few, some, many = (count * families for count in (FEW, SOME, MANY))
    # With time to spare: all data, as long as the recipe; then what lies between.
    span = (rule.share * rule.epochs, float(recipe_epochs))
    for i in range(8, 0, -1):
        passes = span[0] * (span[1] / span[0]) ** (i / 8) if span[1] > span[0] else span[0]
        share = min(1.0, max(rule.share, passes / rule.epochs))
        yield _Level(many, folds, max(rule.epochs, round(passes / share)), share)
    # As the rules say, of fewer candidates.
    for wanted in (many, (some + many) // 2, some):
        yield _Level(wanted, folds, rule.epochs, rule.share)
    for fewer in (n for n in (3, 1) if n < folds):
        yield _Level(some, fewer, rule.epochs, rule.share)
    # Then fewer of them, fewer epochs, and a smaller part of the data, down to what still teaches
    # a network something; then only the baselines, and whatever can be trained at all.
    least, samples = min(FEWEST_EPOCHS, rule.epochs), task.profile.n_train
    smallest = min(1.0, max(FEWEST_SAMPLES / samples, 0.01), rule.share)
    taught = FEWEST_STEPS * rules.batch_sizes(task)[1] / samples / least
    floor = min(rule.share, max(smallest, taught))
    for wanted in ((some + few) // 2, few):
        yield _Level(wanted, 1, rule.epochs, rule.share)
    for i in range(1, 5):
        yield _Level(few, 1, round(rule.epochs * (least / rule.epochs) ** (i / 4)), rule.share)
    for share in _between(rule.share, floor):
        yield _Level(few, 1, least, share)
    for wanted in (2 * families, families):
        yield _Level(wanted, 1, least, floor)
    for share in _between(floor, smallest):
        yield _Level(families, 1, least, share)
    for epochs in range(least - 1, 0, -1):
        yield _Level(families, 1, epochs, smallest)
    yield _Level(1, 1, 1, smallest)


def _between(first: float, last: float) -> Iterator[float]:
    """Four steps from ``first``, which is left out, to ``last``, each by the same factor."""
    for i in range(1, 5):
        yield first * (last / first) ** (i / 4)


def _reasons(
    task: Task, level: _Level, recipe_epochs: int, finish_s: float, full_s: float, short: bool
) -> Iterator[str]:
    rule, folds = task.fidelity, rules.folds(task)
    if level.share >= 1 and level.epochs >= recipe_epochs:
        yield "the time is for candidates that are trained as long as the recipe"
    elif level.share * level.epochs > rule.share * rule.epochs:
        yield "the time is for longer trainings than the rules' proxies"
    if level.folds < folds:
        yield f"{level.folds} of {folds} folds: the time is not for more"
    if level.share * level.epochs < 0.99 * rule.share * rule.epochs:
        yield (
            f"{level.epochs} epochs on {percent(level.share)} of the data instead of"
            f" {rule.epochs} on {percent(rule.share)}: the time is not for more"
        )
    if finish_s and finish_s < full_s:
        yield (
            f"the best are trained for {finish_s:.0f} s, and would be for {full_s:.0f} s by their"
            " recipes; `nas train` does the whole"
        )
    if short:
        yield (
            "the time is hardly enough for one candidate of each family: a longer --time-limit"
            " would do better"
        )


# -- networks that start from published weights ----------------------------------------------------


def starting_from_weights(task: Task, paces: Mapping[str, Pace]) -> dict[str, Pace]:
    """The paces of families that start from published weights."""
    if not task.pretrained:
        return {}
    known = load_families(task.modality)
    return {name: p for name, p in paces.items() if name in known and known[name].starts_published}


def _with_pretrained(
    task: Task,
    paces: Mapping[str, Pace],
    adapted: Mapping[str, Pace],
    *,
    finish: bool,
    ensemble: int,
) -> SearchPlan:
    """The plan of a search some of whose families start from published weights: these need few
    epochs (rule "pretrained-steps") of expensive steps, and get ``ADAPTED`` of the time; the others
    are planned for the rest by themselves. A frozen encoder runs once over the data of a candidate,
    and then its head is trained for as many epochs as it takes."""
    budget, wall_s = task.budget, (task.budget.worker_s or 0.0) / task.budget.workers
    known, own = load_families(task.modality), {n: p for n, p in paces.items() if n not in adapted}
    each_s = {n: p.epoch_s * p.contention / task.fidelity.share for n, p in adapted.items()}
    recipes = {name: rules.pretrained_epochs(task, known[name].frozen) for name in adapted}
    passes = {name: 1 if known[name].frozen else recipes[name] for name in adapted}
    cores = max(1.0, budget.workers * (budget.gpus or budget.cpus))
    full_s = max(passes[name] * each_s[name] for name in adapted)
    limit_s = budget.time_limit_s or 0.0  # no training in full follows where none is given
    finish_s = (
        min(1.1 * full_s / speedup(cores) + 2 * budget.start_s, ADAPTED * limit_s)
        if finish
        else 0.0
    )
    if own and finish:  # whichever family wins, its training is kept time for
        alone = plan_search(replace(task, pretrained=()), own, ensemble=ensemble)
        finish_s = max(finish_s, alone.finish_s)
    searched_s = min(wall_s, limit_s - finish_s) if limit_s else wall_s
    less = replace(budget, time_limit_s=searched_s * (1 - ADAPTED if own else 1.0))
    rest = plan_search(replace(task, budget=less, pretrained=()), own or paces, finish=False)
    room_s = USED * searched_s * budget.workers * ADAPTED
    # Candidates share the time of all workers, but each is trained by one of them.
    candidate_s = min(room_s / ADAPTED_MOST, rules.LONGEST_CANDIDATE * searched_s)
    fidelities = {
        name: _adapted_fidelity(
            task, each_s[name], candidate_s, 0.5 * searched_s, recipes[name], known[name].frozen
        )
        for name in adapted
    }
    return SearchPlan(
        replace(rest.fidelity, other=fidelities),
        candidates=rest.candidates + max(ADAPTED_MOST, int(room_s / candidate_s)),
        candidate_s=candidate_s,
        finish_s=finish_s,
        full_s=full_s,
        reasons=(
            *rest.reasons,
            *(
                f"{name} is trained for {f.epochs} epochs on {percent(f.share)} of the data, and"
                f" for {f.recipe_epochs} in full"
                for name, f in fidelities.items()
            ),
        ),
    )


def _adapted_fidelity(
    task: Task, epoch_s: float, candidate_s: float, limit_s: float, recipe: int, frozen: bool
) -> Fidelity:
    """The training of a candidate that starts from published weights in ``candidate_s`` seconds: of
    one epoch of all the data, or more, where there is time, else one of a part of it. A larger
    network may take ``LIMIT_FACTOR`` times that, but no more than ``limit_s``."""
    folds = rules.folds(task)
    passes = candidate_s / max(epoch_s, 1e-6)
    if frozen:  # once over all samples, whichever fold they are in
        folds = folds if passes >= 1 else 1
    elif passes < folds:
        folds = 1
    else:
        passes /= folds
    least = min(1.0, FEWEST_SAMPLES / task.profile.n_train)
    share = min(1.0, max(passes, least))
    epochs = recipe if frozen else min(recipe, max(1, int(passes)))
    most_s = share * epoch_s * (1 if frozen else folds * epochs)
    return Fidelity(
        epochs,
        share,
        time_limit_s=min(LIMIT_FACTOR * max(candidate_s, most_s), limit_s),
        folds=folds,
        rule_epochs=task.fidelity.rule_epochs or task.fidelity.epochs,
        recipe_epochs=recipe,
    )


def speedup(cores: float) -> float:
    """How much faster a training of large layers is on so many cores of a CPU than on one. No more
    is counted upon than ``FEW_CORES`` give: beyond, memory decides."""
    return max(1.0, 0.8 * min(cores, FEW_CORES))
