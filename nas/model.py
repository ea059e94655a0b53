"""A trained network that predicts: in Python (``nas.load``), file by file, or behind a server.

Large tables and folders are read in pieces, so that memory does not grow with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.data import categories, encode
from nas.data.targets import LISTS, columns_of
from nas.export.trained import Trained, checkpoint_in, open_trained
from nas.task import Target, Task, UsageError
from nas.training.calibration import half_width
from nas.training.metrics import score
from nas.training.proxy import load_proxy
from nas.training.proxy import predict as network_predictions

if TYPE_CHECKING:
    import pandas as pd

PIECE_ROWS = 2**16  # of a table, predicted at once
PIECE_FILES = 512  # or so many files
MOST_SCORED = 2**26  # predicted values that are kept for a score


@dataclass(frozen=True)
class Piece:
    """The predictions of some samples: a frame with one row for each, and the coded ``labels`` and
    ``predicted`` values by target."""

    frame: pd.DataFrame
    labels: Mapping[str, np.ndarray]
    predicted: Mapping[str, np.ndarray]


class Model:
    """A trained network, opened by ``nas.load``.

    ``note`` says in a line how far a search has trained a candidate that was not trained in full;
    else it is empty.

    Example:
        >>> import nas
        >>> model = nas.load("runs/flowers/model")
        >>> labels = model.predict("flowers.csv")
        >>> model.predict_proba("flowers.csv").shape == (len(labels), len(model.classes))
        True
    """

    def __init__(self, checkpoint: Path, trained: Trained | None = None) -> None:
        self.checkpoint = checkpoint
        self.proxy = trained.proxy if trained else load_proxy(checkpoint)
        self.note = trained.note if trained else ""

    def __repr__(self) -> str:
        """What it is: nas.Model(mlp, target income)."""
        targets = ", ".join(target.name for target in self.task.targets[:3])
        return f"nas.Model({self.proxy.family}, target {targets})"

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return self.proxy.task

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels of the first target, in the order of ``predict_proba``; () of a number."""
        return self.task.targets[0].labels

    def predict(self, data: Any) -> Any:
        """Labels as they stand in the training data, or numbers.

        Args:
            data: Anything that ``nas predict`` reads, or a frame or arrays.

        Returns:
            An array (n,); of several targets, or of several labels, a frame with their columns.

        Raises:
            InputError: The data lacks what the network reads.
        """
        frame = self.frame(data)[0]
        own = [c for c in frame if not str(c).startswith("probability[") and c != "file_name"]
        target = self.task.targets[0]
        if len(self.task.targets) > 1 or target.kind == "multilabel":
            return frame[own]
        return frame[target.name].to_numpy()

    def predict_proba(self, data: Any) -> Any:
        """Probabilities (n, labels); of several targets by name. Raises UsageError for numbers."""
        predicted = self._predicted(data)[1]
        found = {t.name: predicted[t.name] for t in self.task.targets if t.kind != "regression"}
        if not found:
            raise UsageError("the network predicts numbers, which have no probabilities")
        return next(iter(found.values())) if len(self.task.targets) == 1 else found

    def predict_interval(self, data: Any, level: float = 0.9) -> Any:
        """Intervals that hold the true number with the probability ``level``, where new samples are
        like those of the validation part (``nas.training.calibration.half_width``).

        Args:
            data: As for ``predict``.
            level: Between 0 and 1; of several targets it holds for each by itself.

        Returns:
            The lower and the upper end of each, an array (n, 2); of several targets by name.

        Raises:
            UsageError: The network predicts no numbers, or has too few validation samples.

        Example:
            >>> import nas
            >>> ends = nas.load("runs/houses/model").predict_interval("houses.csv", 0.8)
            >>> bool((ends[:, 0] <= ends[:, 1]).all())
            True
        """
        half = self.half_widths(level)
        predicted = self._predicted(data)[1]
        found = {
            name: np.stack([predicted[name] - width, predicted[name] + width], axis=1)
            for name, width in half.items()
        }
        return next(iter(found.values())) if len(self.task.targets) == 1 else found

    def half_widths(self, level: float | None) -> dict[str, float]:
        """Half the width of an interval of this level, by target of numbers; none for None."""
        if level is None:
            return {}
        numbers = [t.name for t in self.task.targets if t.kind == "regression"]
        if not numbers:
            raise UsageError("the network predicts classes, which have no intervals")
        return {name: half_width(self.proxy.val_errors.get(name, ()), level) for name in numbers}

    def frame(
        self,
        data: Any,
        keep: Sequence[str] = (),
        on_note: Callable[[str], object] = lambda note: None,
        interval: float | None = None,
    ) -> tuple[pd.DataFrame, dict[str, float]]:
        """A data frame with one row for each sample, in the order of ``data``, and the scores
        where ``data`` holds all targets (empty where it does not).

        Args:
            data: As for ``predict``.
            keep: Columns of it to put beside the predictions.
            on_note: Receives what was inferred from the data.
            interval: A level as for ``predict_interval``: the columns low[TARGET] and
                high[TARGET].

        Raises:
            UsageError: For a column that the data does not have, and as ``predict_interval``.
        """
        piece = self._piece(data, keep, on_note, self.half_widths(interval))
        known = all(t.name in piece.labels for t in self.task.targets)
        found = score(self.task, piece.labels, dict(piece.predicted)) if known else {}
        return piece.frame, found

    def answer(
        self, rows: Sequence[Mapping[str, Any]], interval: float | None = None
    ) -> list[dict[str, Any]]:
        """What ``frame`` says of rows of a table, one object for each: numbers and names go to the
        network by themselves, without a frame, which takes longer than the network.

        Raises InputError as ``frame``.
        """
        half = self.half_widths(interval)
        from nas.data.tabular import encode_rows

        plain = self.task.modality == "tabular"
        inputs = encode_rows(rows, self.task.profile.columns) if plain else None
        if inputs is None:  # a text for a number, a column that is absent ...
            import pandas as pd

            frame = self.frame(pd.DataFrame(rows), interval=interval)[0]
            found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
            return found
        predicted = network_predictions(self.proxy, inputs)
        columns: dict[str, Any] = {}
        for target in self.task.targets:
            columns |= self._answers(target, predicted[target.name], half)
        values = [v.tolist() if isinstance(v, np.ndarray) else v for v in columns.values()]
        return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]

    def stream(
        self,
        data: Any,
        keep: Sequence[str] = (),
        on_note: Callable[[str], object] = lambda note: None,
        interval: float | None = None,
    ) -> Iterator[Piece]:
        """The same piece by piece: of a CSV file rows, of a folder files."""
        from nas.data.pieces import pieces

        half = self.half_widths(interval)
        names = {*columns_of(self.task.targets), *categories(self.task.profile)}
        for part, files in pieces(data, self.task.modality, names, PIECE_ROWS, PIECE_FILES):
            yield self._piece(part, keep, on_note, half, files)

    def _piece(
        self,
        data: Any,
        keep: Sequence[str],
        on_note: Callable[[str], object],
        half: Mapping[str, float],
        files: Sequence[str] = (),
    ) -> Piece:
        import pandas as pd

        encoded, predicted = self._predicted(data)
        for note in encoded.notes:
            on_note(note)
        names = files or encoded.names
        columns: dict[str, Any] = {"file_name": names} if names else {}
        for target in self.task.targets:
            columns |= self._answers(target, predicted[target.name], half)
        columns = _kept(encoded.columns, keep, columns) | columns
        return Piece(pd.DataFrame(columns), encoded.labels, predicted)

    def _answers(
        self, target: Target, values: np.ndarray, half: Mapping[str, float]
    ) -> dict[str, Any]:
        columns = _answers(target, values, len(self.task.targets) > 1)
        if target.name in half:
            width = half[target.name]
            columns |= {f"low[{target.name}]": values - width}
            columns |= {f"high[{target.name}]": values + width}
        return columns

    def _predicted(self, data: Any) -> tuple[Any, dict[str, np.ndarray]]:
        task = self.task
        encoded = encode(data, task.profile, task.modality, task.targets)
        return encoded, network_predictions(self.proxy, encoded.inputs)


class Scores:
    """The scores of predictions that come in pieces; none where one piece has no labels, or where
    there are more values than ``MOST_SCORED``."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._parts: list[Piece] | None = []
        self._values = 0

    def add(self, piece: Piece) -> pd.DataFrame:
        """Take the next piece into account; its frame is returned."""
        self._values += sum(np.size(values) for values in piece.predicted.values())
        known = all(t.name in piece.labels for t in self.task.targets)
        if self._parts is None or not known or self._values > MOST_SCORED:
            self._parts = None
        else:
            self._parts.append(Piece(piece.frame[:0], piece.labels, piece.predicted))
        return piece.frame

    def result(self) -> dict[str, float]:
        """All metrics, or nothing."""
        if not self._parts:
            return {}
        names = [t.name for t in self.task.targets]
        truth = {n: np.concatenate([p.labels[n] for p in self._parts]) for n in names}
        found = {n: np.concatenate([p.predicted[n] for p in self._parts]) for n in names}
        return score(self.task, truth, found)


def load(model: str | Path, candidate: int | None = None) -> Model:
    """Open a trained network.

    Args:
        model: The folder of a run or of a model, or a checkpoint.
        candidate: Its number in the run; where it was not trained at full scale, it has the weights
            that the search has kept. Default: the one in RUN/model.

    Raises:
        InputError: There is none; the message says what makes one.
        UsageError: The run has no candidate of this number.

    Example:
        >>> import nas
        >>> run = nas.Run("runs/flowers")
        >>> small = min(run.front(), key=lambda c: c.metrics["params"])
        >>> len(nas.load(run.folder, small.number).predict("flowers.csv")) > 0
        True
    """
    if candidate is not None:
        trained = open_trained(Path(model), candidate)
        return Model(trained.checkpoint, trained)
    return Model(checkpoint_in(Path(model)))


def _answers(target: Target, values: np.ndarray, several: bool) -> dict[str, Any]:
    """The columns of one target: what is predicted, and the probability of each label.

    ``values`` as in ``Proxy.predictions``; with ``several`` targets theirs names the column.
    """
    if target.kind == "regression":
        return {target.name: values}
    prefix = f"{target.name}=" if several else ""
    probabilities = {
        f"probability[{prefix}{label}]": values[:, k] for k, label in enumerate(target.classes)
    }
    if target.kind != "multilabel":
        return {target.name: [target.labels[k] for k in values.argmax(axis=1)]} | probabilities
    chosen = values >= 0.5
    if target.separator:
        labels = [[target.labels[k] for k in np.flatnonzero(row)] for row in chosen]
        joined = [target.separator.join(map(str, row)) for row in labels]
        return {target.name: labels if target.separator == LISTS else joined} | probabilities
    columns: dict[str, Any] = {}
    for k, label in enumerate(target.classes):
        columns[label] = chosen[:, k].astype(int)
        columns[f"probability[{label}]"] = values[:, k]
    return columns


def _kept(found: Any, keep: Sequence[str], predicted: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of new files to keep; one that is predicted too is called "NAME (data)"."""
    known = {str(name): name for name in found.columns}
    for name in keep:
        if name not in known:
            near = ", ".join(map(repr, known)) or "none"
            raise UsageError(f"there is no column {name!r} to keep; the columns are {near}")
    values = {name: found[known[name]].to_numpy() for name in keep}
    return {f"{name} (data)" if name in predicted else name: v for name, v in values.items()}
