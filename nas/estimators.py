"""Searches as estimators of scikit-learn: ``nas.SearchClassifier`` and ``nas.SearchRegressor``.

Both search networks for a table, train the best at full scale, and predict with it. They hold the
contract of scikit-learn's estimators (its own checks, tests/test_estimators.py) for dense tables of
numbers, and take no sample weights.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from nas.data import FEWEST_ROWS
from nas.driver import search
from nas.model import Model
from nas.run import Run
from nas.train import train

COLUMN = "feature{:05d}"
TARGET = "target"


class _Search(BaseEstimator):  # type: ignore[misc]
    """What both estimators have in common."""

    _problem: str  # of ``nas.search``

    def __init__(
        self,
        *,
        time_limit: str | None = "5m",
        trials: int | None = None,
        epochs: int | None = None,
        families: tuple[str, ...] | None = None,
        constraints: tuple[str, ...] = (),
        workers: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        folder: str | None = None,
    ) -> None:
        self.time_limit = time_limit
        self.trials = trials
        self.epochs = epochs
        self.families = families
        self.constraints = constraints
        self.workers = workers
        self.random_state = random_state
        self.folder = folder

    def _fit(self, x: np.ndarray, y: Any) -> None:
        """Search, train, and keep the model."""
        if self.folder is not None:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
        place = tempfile.mkdtemp(prefix="nas-search-", dir=self.folder)
        if self.folder is None:
            self._cleanup = weakref.finalize(self, shutil.rmtree, place, True)
        out = Path(place) / "run"
        self.model_ = Model(self._trained(self._frame(x, y), out))
        self.run_folder_ = str(out)

    def _trained(self, frame: Any, out: Path) -> Path:
        """Search in the folder ``out``; the checkpoint of the best network at full scale."""
        options: dict[str, Any] = {
            "time_limit": self.time_limit,
            "trials": self.trials,
            "constraints": self.constraints,
            "finish": False,
            "problem": self._problem,
        }
        if self.families is not None:
            options["families"] = self.families
        if self.workers is not None:
            options["workers"] = self.workers
        if self.random_state is not None:
            options["seed"] = int(check_random_state(self.random_state).randint(2**31))
        run: Run = search(frame, target=TARGET, out=out, **options)
        train(run.export(), out / "model", self.epochs)
        return out / "model" / "model.ckpt"

    @staticmethod
    def _frame(x: np.ndarray, y: Any = None) -> Any:
        import pandas as pd

        frame = pd.DataFrame(x, columns=[COLUMN.format(i) for i in range(x.shape[1])])
        return frame if y is None else frame.assign(**{TARGET: y})

    def _checked(self, x: Any) -> Any:
        """New samples as a frame."""
        check_is_fitted(self)
        values = validate_data(self, x, reset=False, dtype="numeric", ensure_all_finite="allow-nan")
        return self._frame(values)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = True  # it is given time, not steps
        tags.input_tags.allow_nan = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Weights travel in the state, as the folder of the run may not."""
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_cleanup", None)
        model = state.pop("model_", None)
        if model is not None:
            state["_weights"] = model.checkpoint.read_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        weights = state.pop("_weights", None)
        super().__setstate__(state)
        if weights is not None:
            place = Path(tempfile.mkdtemp(prefix="nas-search-"))
            self._cleanup = weakref.finalize(self, shutil.rmtree, place, True)
            (place / "model.ckpt").write_bytes(weights)
            self.model_ = Model(place / "model.ckpt")


class SearchClassifier(ClassifierMixin, _Search):  # type: ignore[misc]
    """A classifier that searches its network, trains the best one in full and predicts with it.

    Args:
        time_limit: Of the search alone, as ``nas.search`` has it. The training in full comes after
            it and has no limit but its ``epochs``; it is of a single network.
        trials: Candidates at most; None for as many as there is time for.
        epochs: Of the training in full; None for those of the recipe.
        families: Names of the families to search; None for all of tables.
        constraints: Limits of the network, as ("latency_ms<=1",).
        workers: Processes that train at the same time.
        random_state: Of the split and of the search: a number or a ``numpy.random.RandomState``.
        folder: Where the runs are kept, that of each fit in a folder of its own; None for a
            temporary folder that goes with the estimator.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> import nas
        >>> x, y = load_iris(return_X_y=True)
        >>> found = nas.SearchClassifier(trials=2, time_limit=None, epochs=20).fit(x, y)
        >>> found.predict_proba(x).shape
        (150, 3)
    """

    _problem = "classification"

    def fit(self, x: Any, y: Any) -> Self:
        """Search a network for ``x`` (n, columns) and the labels ``y`` (n,)."""
        x, y = validate_data(
            self,
            x,
            y,
            dtype="numeric",
            ensure_all_finite="allow-nan",
            ensure_min_samples=FEWEST_ROWS,
        )
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("a classifier needs labels of two classes at least; y has one class")
        self._fit(x, np.array([f"class{code:05d}" for code in codes]))
        return self

    def predict_proba(self, x: Any) -> np.ndarray:
        """Probabilities (n, classes) in the order of ``classes_``."""
        frame = self._checked(x)
        found = self.model_.predict_proba(frame)
        order = [int(str(name).removeprefix("class")) for name in self.model_.classes]
        result = np.zeros((len(found), len(self.classes_)))
        result[:, order] = found
        return result

    def predict(self, x: Any) -> np.ndarray:
        """The likeliest label of each sample (n,)."""
        chosen: np.ndarray = self.predict_proba(x).argmax(axis=1)
        labels: np.ndarray = self.classes_[chosen]
        return labels


class SearchRegressor(RegressorMixin, _Search):  # type: ignore[misc]
    """A regressor that searches its network; its arguments are those of ``SearchClassifier``."""

    _problem = "regression"

    def fit(self, x: Any, y: Any) -> Self:
        """Search a network for ``x`` (n, columns) and the numbers ``y`` (n,)."""
        x, y = validate_data(
            self,
            x,
            y,
            dtype="numeric",
            y_numeric=True,
            ensure_all_finite="allow-nan",
            ensure_min_samples=FEWEST_ROWS,
        )
        self._fit(x, np.asarray(y, np.float64))
        return self

    def predict(self, x: Any) -> np.ndarray:
        """Numbers (n,)."""
        frame = self._checked(x)
        found: np.ndarray = np.asarray(self.model_.predict(frame), np.float64)
        return found
