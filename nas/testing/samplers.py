"""The contract of a sampler, held by any: searches of formulas, in seconds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nas.candidate import Candidate, Reason, State
from nas.search import samplers
from nas.search.samplers import Sampler
from nas.space import Config, Int, Space, config_key, split_family
from nas.task import COSTS, Task, UsageError
from nas.testing.formulas import formula, small_spaces, small_task

if TYPE_CHECKING:
    from nas.search.study import Study

# What becomes of candidates, in turn: samplers see all of these.
_ENDS = ("", "", "nan", "", "error", "", "lost", "", "infeasible", "", "oom", "")


def check_sampler(sampler: str | type[Sampler], *, trials: int = 16) -> None:
    """Raise AssertionError, in a sentence, where a sampler breaks its contract.

    ``sampler`` is the name of an installed one or a class. Searches of ``trials`` candidates,
    with a formula in place of trainings, show that

    - each configuration is a point of the space, survives JSON, and is asked for once;
    - half the trials and a resume ask for what all in one go ask for, and another seed for
      something else;
    - a finite space is asked for once each, and then ends;
    - candidates that fail, are stopped or are still in training do not end a search, and several
      workers that ask at once get different configurations;
    - limits, quality alone and several qualities are searched, or refused in one line by
      ``check_task``;
    - costs: what ``to_measure`` and ``shortlist`` list are points of the space, a shortlist holds
      what is new and keeps it when ranked by all, some or no costs; what was learnt is known to
      the next that opens the folder.

    Example::

        check_sampler("ehvi")
        check_sampler(MySampler)
    """
    kind = samplers.load(sampler) if isinstance(sampler, str) else sampler
    name = sampler if isinstance(sampler, str) else sampler.__name__
    check = _Check(name, kind, trials)
    check.resumed()
    check.finite()
    check.ends()
    check.objectives()
    check.costs()


class _Check:
    def __init__(self, name: str, kind: type[Sampler], trials: int) -> None:
        self.name, self.kind, self.trials = name, kind, trials
        self.spaces = small_spaces()
        self.space = Space.join(self.spaces)

    def _hold(self, truth: bool, complaint: str) -> None:
        if not truth:
            raise AssertionError(f"{self.name}: {complaint}")

    @contextmanager
    def _study(
        self, folder: str, task: Task, spaces: dict[str, Space] | None = None
    ) -> Iterator[Study]:
        from nas.search.study import Study  # workers import this package, and need no Optuna

        spaces = spaces or self.spaces
        study = Study(Path(folder), task, Space.join(spaces), sampler=self.kind)
        try:
            study.enqueue_baselines({name: space.starts() for name, space in spaces.items()})
            yield study
        finally:
            study.close()

    def _ask(self, study: Study, workers: int = 1) -> list[Candidate]:
        """What so many workers get that ask at once; fewer where the space is exhausted."""
        try:
            found = [study.ask(worker) for worker in range(workers)]
        except UsageError as error:
            raise AssertionError(f"{self.name}: {error}") from None
        candidates = [candidate for candidate in found if candidate is not None]
        for c in candidates:
            self._hold_config(study.space, c.joined)
        return candidates

    def _hold_config(self, space: Space, config: Config) -> None:
        try:
            space.check(config)
        except UsageError as error:
            raise AssertionError(f"{self.name}: it leaves the space: {error}") from None
        self._hold(json.loads(json.dumps(config)) == config, f"{config} changes in JSON")

    def _search(self, study: Study, trials: int, ends: Sequence[str] = ("",)) -> None:
        while study.spent < trials:
            asked = self._ask(study)
            self._hold(bool(asked), f"it ends after {study.spent} of {trials} candidates")
            _train(study, asked[0], ends[asked[0].number % len(ends)])
        rows = study.candidates()
        keys = {config_key(c.family, c.config) for c in rows if c.reason is not Reason.DUPLICATE}
        roots = {c.root for c in rows if c.reason is not Reason.DUPLICATE}
        self._hold(len(keys) == len(roots), "it asks for a configuration twice")

    def resumed(self) -> None:
        whole = self._asked_for(small_task(), self.trials)
        halves = self._asked_for(small_task(), self.trials // 2, self.trials)
        self._hold(whole == halves, "a search that is resumed asks for other configurations")
        first = len(self.spaces)
        other = self._asked_for(small_task(seed=1), self.trials)
        self._hold(whole[first:] != other[first:], "the seed changes nothing")

    def _asked_for(self, task: Task, *stops: int) -> list[Config]:
        with tempfile.TemporaryDirectory() as folder:
            for trials in stops:
                with self._study(folder, task) as study:
                    self._search(study, trials)
                    asked = [c.joined for c in study.candidates()]
        return asked

    def finite(self) -> None:
        spaces = {"plain": Space((Int("width", 8, 32, default=16, step=8),))}
        with (
            tempfile.TemporaryDirectory() as folder,
            self._study(folder, small_task(), spaces) as study,
        ):
            widths = []
            for _ in range(20):
                if not (asked := self._ask(study)):
                    break
                _train(study, asked[0])
                widths.append(asked[0].config["width"])
            self._hold(
                sorted(widths) == [8, 16, 24, 32],
                f"of the widths 8, 16, 24, 32 it asks for {widths}",
            )

    def ends(self) -> None:
        with tempfile.TemporaryDirectory() as folder, self._study(folder, small_task()) as study:
            self._search(study, self.trials, _ENDS)
            running = self._ask(study, workers=4)
            keys = {config_key(c.family, c.config) for c in running}
            self._hold(len(keys) == 4, "workers that ask at once get the same configuration")
            self._hold(bool(self._ask(study)), "it asks for nothing while others are in training")
        with tempfile.TemporaryDirectory() as folder, self._study(folder, small_task()) as study:
            self._search(study, self.trials, ("nan", "error", "oom"))  # nothing ever completes

    def objectives(self) -> None:
        limits = ("params<=3000", "accuracy>=0.99")
        for objectives, constraints in (
            (("accuracy",), ()),
            (("accuracy", "params"), limits),
            (("accuracy", "val_loss", "params"), ()),
        ):
            task = small_task(objectives=objectives, constraints=constraints)
            try:
                self.kind.check_task(task)
            except UsageError as error:
                self._hold("\n" not in str(error).strip(), "it refuses a task in several lines")
                continue
            with tempfile.TemporaryDirectory() as folder, self._study(folder, task) as study:
                self._search(study, self.trials, _ENDS)

    def costs(self) -> None:
        task = small_task(epochs=1)
        with tempfile.TemporaryDirectory() as folder:
            with self._study(folder, task) as study:
                first = study.sampler.to_measure()
                for config in first:
                    self._hold_config(self.space, config)
                study.sampler.learn_costs(first, list(map(_costs_of, first)))
                self._shortlist(study)
                for trials in range(self.trials - 2, self.trials + 1):
                    self._search(study, trials)
                    self._shortlist(study)
            with self._study(folder, task) as study:
                self._hold(
                    not (first and study.sampler.to_measure()),
                    "it forgets what it has learnt of costs when it is opened again",
                )

    def _shortlist(self, study: Study) -> None:
        history = study.history()
        if not (listed := study.sampler.shortlist(history)):
            return
        for config in listed.configs:
            self._hold_config(self.space, config)
            self._hold(history.is_new(config), "its shortlist holds what was asked for before")
        keys = sorted(config_key(*split_family(c)) for c in listed.configs)
        for known in (len(keys), len(keys) // 2, 0):
            costs = [_costs_of(config) for config in listed.configs[:known]]
            ranked = sorted(config_key(*split_family(c)) for c in listed.ranked(costs))
            self._hold(ranked == keys, f"ranked by {known} costs, its shortlist holds other ones")
        study.sampler.shortlist(study.history(), [listed])


def _costs_of(config: Config) -> dict[str, float]:
    """What a formula says a configuration of the joined space costs."""
    figures = formula(split_family(config)[1], 1)
    return {metric: figures[metric] for metric in COSTS if metric in figures}


def _train(study: Study, candidate: Candidate, end: str = "") -> None:
    """Report all epochs of ``candidate``, unless the study stops it, and its end: complete (""),
    or the reason why it is not."""
    for epoch in range(1, candidate.epochs + 1):
        if reason := study.report(candidate.number, epoch, formula(candidate.config, epoch)):
            break
        if reason := end:
            break
    failed = reason in (Reason.ERROR, Reason.LOST)
    state = State.COMPLETE if not reason else State.FAILED if failed else State.PRUNED
    study.tell(replace(study[candidate.number], state=state, reason=Reason(reason)))
