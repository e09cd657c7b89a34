"""Kriging: the residuals of a law, interpolated from measured points to points near them.

Residuals are taken as a random field of one variance whose correlation falls with the distance between two
points (Matheron 1963; Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and
5): Matern correlation of order 3/2, with a scale for each feature. Scales and noise maximise the likelihood
of the measurements; a feature that tells nothing is left out. Far from every point the correction is the
median of all residuals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]

__all__ = ["Kriging"]

# Bounds and start of the search for each scale, the inverse of the distance at which correlation is lost, and
# for the noise, as a share of the variance. A feature at its least scale is left out.
_LEAST, _MOST, _BEGIN = 0.03, 4.0, 0.5
_QUIET, _LOUD, _USUAL = 0.003, 3.0, 0.1
# The search takes at most so many points and steps; the correction then uses all points.
_SOUGHT_WITH, _STEPS = 120, 30
_LEAST_VARIANCE = 1e-12
# A value is an outlier from so many times the median distance from its prediction on, unless it is near.
_OUTLYING, _NEAR, _ROUNDS = 2.0, 0.1, 3


class Kriging:
    """A Gaussian process fitted to values at points.

    An outlier among its neighbours counts as so much noisier.

    Args:
        points: the features, (points, features).
        values: the residuals, (points,).
    """

    def __init__(self, points: ArrayLike, values: ArrayLike) -> None:
        import numpy as np

        self._points = np.asarray(points, dtype=float)
        found: Array = np.asarray(values, dtype=float)
        self._mean = float(np.median(found))
        left: Array = found - self._mean
        self.scales: Array = np.zeros(self._points.shape[1])
        """Inverse of the distance at which correlation is lost, by feature; 0: the feature is left out."""
        self._weights: Array = np.zeros(len(left))
        if float(np.abs(left).max(initial=0.0)) ** 2 < _LEAST_VARIANCE:
            return
        some = np.random.default_rng(0).permutation(len(left))[:_SOUGHT_WITH]
        self.scales, noise = _sought(self._points[some], left[some])
        if self.scales.any():
            correlation = _matern(_squared(self._points, self._points, self.scales))
            noisy = correlation + np.diag(_noises(correlation, left, noise))
            self._weights = np.asarray(np.linalg.solve(noisy, left), dtype=float)

    def at(self, points: ArrayLike) -> Array:
        """The expected value, (n,), at each of other points, (n, features)."""
        import numpy as np

        squared = _squared(np.asarray(points, dtype=float), self._points, self.scales)
        return self._mean + _matern(squared) @ self._weights


def _squared(first: Array, second: Array, scales: Array) -> Array:
    """Squared distances between scaled points, a row for each of the first."""
    import numpy as np

    a, b = first * scales, second * scales
    squared: Array = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0)
    return squared


def _matern(squared: Array) -> Array:
    """Matern correlation of order 3/2 at squared distances."""
    import numpy as np

    distance = np.sqrt(3 * squared)
    return (1 + distance) * np.exp(-distance)


def _sought(points: Array, values: Array) -> tuple[Array, float]:
    """The scales and the noise that maximise the likelihood of the values, the variance profiled out."""
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    count, used = len(values), np.ptp(points, axis=0) > 0
    apart = (points[:, None, used] - points[None, :, used]) ** 2

    def negative_log_likelihood(logs: Array) -> tuple[float, Array]:
        """The negative log-likelihood up to a constant, and its gradient."""
        scaled, noise = apart * np.exp(2 * logs[:-1]), np.exp(logs[-1])
        distance = np.sqrt(3 * scaled.sum(2))
        factor = cho_factor((1 + distance) * np.exp(-distance) + noise * np.eye(count))
        solved, inverse = cho_solve(factor, values), cho_solve(factor, np.eye(count))
        variance = float(values @ solved) / count + _LEAST_VARIANCE
        loss = 0.5 * count * np.log(variance) + np.log(np.diag(factor[0])).sum()
        pull = 0.5 * (inverse - np.outer(solved, solved) / variance)
        gradient = -3 * np.einsum("ij,ij,ijk->k", pull, np.exp(-distance), scaled)
        return loss, np.append(gradient, noise * np.trace(pull))

    logs = np.log([*[_BEGIN] * used.sum(), _USUAL])
    bounds = np.log([*[(_LEAST, _MOST)] * used.sum(), (_QUIET, _LOUD)])
    found = np.exp(
        minimize(negative_log_likelihood, logs, jac=True, bounds=bounds, options={"maxiter": _STEPS}).x
    )
    scales = np.zeros(len(used))
    scales[used] = np.where(found[:-1] > 1.01 * _LEAST, found[:-1], 0.0)
    return scales, float(found[-1])


def _noises(correlation: Array, values: Array, noise: float) -> Array:
    """The noise of each value: more where its standardised leave-one-out residual is large."""
    import numpy as np

    noises = np.full(len(values), noise)
    for _ in range(_ROUNDS):
        inverse = np.linalg.inv(correlation + np.diag(noises))
        certain = np.sqrt(np.diag(inverse))
        odd = np.abs(inverse @ values) / certain
        usual = np.maximum(_OUTLYING * float(np.median(odd)), _NEAR * certain)
        noises = noise * np.maximum(1.0, odd / usual)
    return noises
