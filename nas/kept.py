"""The weights that a search keeps of its front, RUN/weights/NUMBER.safetensors, so that a point can
be used at once.

A worker writes those of a candidate that is complete, as the last epoch of its proxy left them (of
the first fold, where there are several). The driver removes the files of candidates that have left
the front, and bounds what the others take.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from nas import rules
from nas.candidate import Candidate, State
from nas.files import damaged, first_line, write_whole
from nas.front import Point, at_best, constant_guess, near_front, pareto
from nas.space import config_key
from nas.task import InputError, Task
from nas.terminal import percent

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = "weights"
MOST_BYTES, MOST_OF_FREE = 2**30, 0.1  # of all files together; the latter of the disk's free bytes
TOGETHER = 32  # kept ones for each result that is looked at together with others
NOT_KEPT = "its weights are not kept"


def place(run: Path, number: int) -> Path:
    """The file of a candidate's weights."""
    return run / FOLDER / f"{number}.safetensors"


def sizes(run: Path) -> dict[int, int]:
    """The bytes of each file, by candidate."""
    found = {}
    for file in (run / FOLDER).glob("*.safetensors"):
        if file.stem.isdecimal():
            with suppress(FileNotFoundError):  # a search has removed it meanwhile
                found[int(file.stem)] = file.stat().st_size
    return found


# -- a worker's side -------------------------------------------------------------------------------


def state(network: nn.Module, *, published: bool) -> dict[str, Tensor]:
    """The tensors of a network that are kept: all, or of one that starts from ``published`` weights
    all but parameters that stay as they are, which its checkpoint has."""
    still = {name for name, p in network.named_parameters() if published and not p.requires_grad}
    return {name: value for name, value in network.state_dict().items() if name not in still}


def copied(network: nn.Module, *, published: bool) -> dict[str, Tensor]:
    """Copies of what is kept, in the memory of the CPU; none of more than ``MOST_BYTES``."""
    tensors = state(network, published=published)
    if sum(value.nbytes for value in tensors.values()) > MOST_BYTES:
        return {}
    return {name: value.to("cpu", copy=True).contiguous() for name, value in tensors.items()}


def write(run: Path, candidate: Candidate, weights: Mapping[str, Tensor], task: Task) -> str:
    """Write the weights of a candidate that has ended, unless a limit or a metric that is not
    finite keeps it off the front.

    Returns "", or in a sentence why they cannot be written: that costs the search nothing else.
    """
    lowest, limits = at_best(candidate).metrics, task.constraints
    wanted = {o.metric for o in task.objectives} | {limit.metric for limit in limits}
    measured = all(math.isfinite(lowest.get(metric, math.nan)) for metric in wanted)
    if not (measured and all(limit.met(lowest) for limit in limits)):
        return ""
    if not weights:
        return f"{NOT_KEPT}: they take more than {MOST_BYTES / 2**30:g} GiB"
    if not (run / FOLDER).is_dir():
        return (
            f"{NOT_KEPT}: its worker does not see {run}; give --out on a file system that all nodes"
            " share"
        )
    from safetensors.torch import save

    about = {
        "candidate": str(candidate.number),
        "family": candidate.family,
        "network": config_key(candidate.family, candidate.config),
        "epochs": str(len(candidate.curve)),
        "share": json.dumps(task.fidelity.share),
        "folds": str(rules.folds(task)),
        "nas": version("frontier-nas"),
    }
    try:
        write_whole(place(run, candidate.number), save(dict(weights), about))
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else ""
        return f"{NOT_KEPT}: {reason or first_line(error)}"
    return ""


# -- the driver's side -----------------------------------------------------------------------------


class FrontWeights:
    """Keeps the files of the candidates that are on the front of a search, those of the best
    quality first, while all of them take at most ``MOST_BYTES`` and the part ``MOST_OF_FREE`` of
    what is free on the disk.

    As long as latencies are measured beside trainings, candidates that isolated ones may bring to
    the front keep theirs too (``nas.front.near_front``), as far as there is room. A result is
    compared with those that are kept, not with all; where these are many, a few results together.
    """

    def __init__(self, run: Path, task: Task) -> None:
        self.run, self.task = run, task
        self._guess = constant_guess(task)
        self._near: list[Point] = []
        self._new: list[Point] = []
        self._sizes: dict[int, int] = {}
        self._said: set[str] = set()
        (run / FOLDER).mkdir(exist_ok=True)

    def begin(self, candidates: Sequence[Candidate]) -> None:
        """Of all candidates so far keep those that may be on the front."""
        self._only(candidates)

    def end(self, candidates: Sequence[Candidate]) -> None:
        """Of all candidates keep the front, now that latencies are isolated."""
        task = self.task
        self._only(pareto(candidates, task.objectives, task.constraints, self._guess))

    def add(self, candidate: Candidate) -> None:
        """Take a candidate that has ended."""
        if candidate.state != State.COMPLETE:
            return
        _, failed, reason = candidate.detail.partition(NOT_KEPT)
        if failed and reason not in self._said:
            self._said.add(reason)
            # Python writes it to standard error where nobody asks for it elsewhere.
            warning = "candidate %d: %s; it is complete"
            logging.getLogger("nas").warning(warning, candidate.number, failed + reason)
        file = place(self.run, candidate.number)
        if file.is_file():
            self._sizes[candidate.number] = file.stat().st_size
        self._new.append(self._point(candidate))
        if len(self._new) > len(self._near) // TOGETHER:
            self._near, self._new = near_front([*self._near, *self._new]), []
            self._bound()

    def _point(self, candidate: Candidate) -> Point:
        return Point.of(candidate, self.task, self._guess)

    def _only(self, candidates: Sequence[Candidate]) -> None:
        """Keep no file of others in the folder, nor what writers that were killed have left."""
        complete = [c for c in candidates if c.state == State.COMPLETE]
        self._near, self._new = near_front(list(map(self._point, complete))), []
        self._sizes = sizes(self.run)
        names = {place(self.run, number).name for number in self._sizes}
        for file in (self.run / FOLDER).iterdir():
            if file.name not in names:
                file.unlink(missing_ok=True)
        self._bound()

    def _bound(self) -> None:
        """Remove what is off the front, and what there is no room for."""
        numbers = (point.candidate.number for point in self._near)
        order = [number for number in numbers if number in self._sizes]
        free = shutil.disk_usage(self.run).free + sum(self._sizes.values())
        room, kept = min(MOST_BYTES, MOST_OF_FREE * free), set[int]()
        for number in order:
            if self._sizes[number] <= room:
                kept.add(number)
                room -= self._sizes[number]
        for number in self._sizes.keys() - kept:
            place(self.run, number).unlink(missing_ok=True)
            del self._sizes[number]


# -- the way out -----------------------------------------------------------------------------------


def restore(
    file: Path, candidate: Candidate, network: nn.Module, *, published: bool, repair: str
) -> str:
    """Load a candidate's weights into its network.

    Returns how far they are trained: "4 epochs of 60% of the training samples".

    Raises:
        InputError: The file is damaged, or of another network; ``repair`` is what can be done.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        fidelity = _fidelity(int(about["epochs"]), float(about["share"]), int(about["folds"]))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        wrong = f"it is no whole file of a candidate's weights ({first_line(error)})"
        raise damaged(file, wrong, repair) from None
    own = state(network, published=published)
    key = config_key(candidate.family, candidate.config)
    fits = {n: (v.shape, v.dtype) for n, v in tensors.items()} == {
        n: (v.shape, v.dtype) for n, v in own.items()
    }
    if about.get("network") != key or not fits:
        of = about.get("candidate", "unknown")
        raise InputError(
            f"{file} holds another network than candidate {candidate.number} (candidate {of:.20},"
            f" {about.get('family', 'unknown'):.40}); {repair}"
        )
    network.load_state_dict(tensors, strict=False)  # the rest is of the checkpoint
    return fidelity


def _fidelity(epochs: int, share: float, folds: int) -> str:
    """How much of a training it was, in words."""
    trained = f"{epochs} epoch{'s' if epochs != 1 else ''}"
    if folds > 1:
        return f"{trained} on the first of {folds} folds"
    return f"{trained} of {'all' if share >= 1 else percent(share) + ' of the'} training samples"
