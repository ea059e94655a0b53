"""A Gaussian process over a conditional space, which predicts figures of all networks from those
of a few.

One kind serves both a quality, which takes a training, and a cost, which is cheap to measure
and smooth in the logarithm.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize
from scipy.spatial import distance

from nas.space import Choice, Config, Param, Space

Floats = NDArray[np.float64]

JITTER = 1e-6
# Standard deviations of the log-normal priors of the weights and of the noise variance (relative
# to the signal's): few parameters matter much, and a figure repeats itself to some per cent.
WEIGHT_SPREAD, NOISE_SPREAD = 1.5, 1.5
# Rows that the weights are fitted to: each parameter keeps a matrix of them.
FIT_ROWS = 200


class Encoding:
    """Configurations as points whose weighted city-block distance is what differs in them.

    A number stands at its place between its bounds (on a log scale where it has one), 0.5 where
    it does not apply, beside half a step that says whether it applies; numbers to choose among
    stand at their ranks; names are corners at distance one from each other. ``groups`` numbers
    the parameter of each column: columns of one parameter share a weight.
    """

    def __init__(self, space: Space) -> None:
        self._params = [p for p in space.params if p.size > 1]
        widths = [self._width(p) for p in self._params]
        self.groups: NDArray[np.intp] = np.repeat(np.arange(len(widths)), widths)

    @staticmethod
    def _width(param: Param) -> int:
        return len(param.options) if _is_name(param) else 1 + bool(param.when)  # type: ignore[union-attr]

    def __call__(self, configs: Sequence[Config]) -> Floats:
        """(configurations, columns)"""
        columns: list[Floats] = []
        for param in self._params:
            values = [config.get(param.name) for config in configs]
            if _is_name(param):
                assert isinstance(param, Choice)
                columns += [
                    np.array([0.5 * (value == option) for value in values])
                    for option in param.options
                ]
                continue
            applies = np.array([value is not None for value in values])
            place = np.full(len(values), 0.5)
            place[applies] = _places(param, [v for v in values if v is not None])
            columns.append(place)
            if param.when:
                columns.append(np.where(applies, 0.0, 0.5))
        return np.stack(columns, axis=1) if columns else np.zeros((len(configs), 0))


def _is_name(param: Param) -> bool:
    return isinstance(param, Choice) and any(isinstance(o, str) for o in param.options)


def _places(param: Param, values: Sequence[object]) -> Floats:
    """Where numbers stand between the bounds of ``param``, in 0..1."""
    if isinstance(param, Choice):
        ranks = {option: i for i, option in enumerate(sorted(param.options))}
        return np.array([ranks[value] for value in values]) / (len(ranks) - 1)  # type: ignore[index]
    low, high = float(param.low), float(param.high)
    at = np.array(values, dtype=float)
    if param.log:
        low, high, at = math.log(low), math.log(high), np.log(at)
    places: Floats = (at - low) / (high - low)
    return places


@dataclass(frozen=True)
class Points:
    """Rows ``x`` as a process sees them, whatever it awaits: their means, and their covariances
    with its own rows, whitened (own rows, rows)."""

    x: Floats
    mean: Floats
    whitened: Floats


class GaussianProcess:
    """Exact regression with the kernel exp(-Σ wᵢ dᵢ) over parameters i, and noise.

    The exponential kernel on mixed and conditional parameters (of the Hamming distance, where
    they are names) is positive definite as a product of such kernels. The weights are the
    maximum of the posterior, by L-BFGS. Rasmussen & Williams 2006, sec. 2.2, 5.4.1.
    """

    def __init__(
        self, x: Floats, y: Floats, groups: NDArray[np.intp], noise: Floats, noise_variance: float
    ) -> None:
        """``x`` (n, columns), ``y`` (n,); ``noise_variance`` is the prior for the noise of a row,
        relative to the signal's variance, and ``noise`` (n,) a factor on it for each row."""
        self.x, self.groups, self.noise = x, groups, noise
        self.centre = float(np.median(y))
        self.spread = float(np.std(y)) or 1.0
        self.y = (y - self.centre) / self.spread
        count = int(groups.max(initial=-1)) + 1
        # Random configurations differ by about a third in each parameter that applies; the
        # prior lets their correlation be e^-1.
        self._prior = np.append(
            np.full(count, math.log(3.0 / max(1, count))), math.log(noise_variance)
        )
        self._scale = np.append(np.full(count, WEIGHT_SPREAD), NOISE_SPREAD)
        self._awaited: tuple[Points, Floats] | None = None

    def fitted(self, steps: int = 40) -> Floats:
        """Logarithms of the weights, one for each parameter, and of the relative noise variance."""
        rows = slice(None)
        if len(self.x) > FIT_ROWS:
            rows = np.linspace(0, len(self.x) - 1, FIT_ROWS).astype(np.intp)  # type: ignore[assignment]
        x, count = self.x[rows], len(self._prior) - 1
        apart = np.zeros((count, len(x), len(x)))
        for column, group in zip(x.T, self.groups, strict=True):
            apart[group] += np.abs(column[:, None] - column[None, :])
        found = optimize.minimize(
            self._loss,
            self._prior,
            args=(apart, self.y[rows], self.noise[rows]),
            jac=True,
            method="L-BFGS-B",
            bounds=optimize.Bounds(self._prior - 4 * self._scale, self._prior + 4 * self._scale),
            options={"maxiter": steps},
        )
        theta: Floats = found.x
        return theta

    def condition(self, theta: Floats) -> GaussianProcess:
        """Make ready to predict, with the weights and the noise of ``theta``."""
        self._theta = theta
        self._weights = np.exp(theta[:-1])[self.groups]
        covariance = self._kernel(self.x, self.x)
        covariance[np.diag_indices(len(self.x))] += math.exp(theta[-1]) * self.noise + JITTER
        self._factor = linalg.cholesky(covariance, lower=True)
        self._alpha = linalg.cho_solve((self._factor, True), self.y)
        self._signal = max(float(self.y @ self._alpha) / len(self.y), 1e-12)
        return self

    def awaiting(self, points: Points) -> GaussianProcess:
        """The same process as if further rows, of the usual noise, had come out as it predicts them
        (Kriging believer: Ginsbourger et al. 2010, sec. 2.3): no mean changes, and what is near is
        better known."""
        own = self._kernel(points.x, points.x) - points.whitened.T @ points.whitened
        own[np.diag_indices(len(own))] += math.exp(self._theta[-1]) + JITTER
        changed = copy.copy(self)
        changed._awaited = points, linalg.cholesky(own, lower=True)
        return changed

    def at(self, x: Floats) -> Points:
        """Rows as this process sees them."""
        cross = self._kernel(x, self.x)
        mean = (cross @ self._alpha) * self.spread + self.centre
        return Points(x, mean, linalg.solve_triangular(self._factor, cross.T, lower=True))

    def deviation(self, points: Points) -> Floats:
        """Standard deviation (rows,) of what is without noise, in the units of y."""
        known = np.einsum("ij,ij->j", points.whitened, points.whitened)
        if self._awaited is not None:
            awaited, factor = self._awaited
            between = self._kernel(awaited.x, points.x) - awaited.whitened.T @ points.whitened
            solved = linalg.solve_triangular(factor, between, lower=True)
            known += np.einsum("ij,ij->j", solved, solved)
        deviation: Floats = np.sqrt(np.maximum(1.0 - known, 1e-9) * self._signal) * self.spread
        return deviation

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation (rows,) of what is without noise, in the units of y."""
        points = self.at(x)
        return points.mean, self.deviation(points)

    def _kernel(self, x: Floats, others: Floats) -> Floats:
        weights = self._weights
        weighted = distance.cdist(x * weights, others * weights, "cityblock")
        kernel: Floats = np.exp(-weighted)
        return kernel

    def _loss(self, theta: Floats, apart: Floats, y: Floats, noise: Floats) -> tuple[float, Floats]:
        """Negative log posterior, with the signal's variance at its best, and its gradient."""
        n = len(y)
        weights, noise_variance = np.exp(theta[:-1]), math.exp(theta[-1])
        kernel = np.exp(-np.tensordot(weights, apart, 1))
        covariance = kernel.copy()
        covariance[np.diag_indices(n)] += noise_variance * noise + JITTER
        factor = linalg.cholesky(covariance, lower=True)
        inverse = linalg.cho_solve((factor, True), np.eye(n))
        alpha = inverse @ y
        signal = max(float(y @ alpha) / n, 1e-12)
        loss = n / 2 * math.log(signal) + float(np.log(np.diag(factor)).sum())
        inner = inverse - np.outer(alpha, alpha) / signal
        gradient = np.append(
            -0.5 * weights * np.tensordot(apart, inner * kernel, 2),
            0.5 * noise_variance * float(np.sum(np.diag(inner) * noise)),
        )
        gap = (theta - self._prior) / self._scale
        return loss + 0.5 * float(gap @ gap), gradient + gap / self._scale
