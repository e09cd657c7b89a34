"""Kriging: what a law leaves unexplained, carried from the points that were measured to those near them.

Residuals are taken as a random field of one variance whose correlation falls with the distance between two
points (Matheron 1963; Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and
5): Matern's of order 3/2, every feature with a scale of its own. Scales and noise are those that make the
measurements most likely; a feature that tells nothing is left out. Far from every point the
correction is the mean of all, and with nothing to explain it is nothing.
"""

from __future__ import annotations

from typing import Any

__all__ = ["Kriging"]

# Bounds of one over the distance at which correlation is lost, by feature, and where the search begins; and
# of noise, as a share of the variance. A feature at its least tells next to nothing, and is left out.
_LEAST, _MOST, _BEGIN = 0.03, 4.0, 0.5
_QUIET, _LOUD, _USUAL = 0.003, 3.0, 0.1
# Scales are sought with so many points at most, in so many steps; all points then take part.
_SOUGHT_WITH, _STEPS = 120, 30
_LEAST_VARIANCE = 1e-12
# A value is odd that is so many times the usual away from its neighbours, unless it is as near as that.
_OUTLYING, _NEAR, _ROUNDS = 2.0, 0.1, 3


class Kriging:
    """Fitted by its constructor to ``values`` at ``points``, one row each.

    A value that its neighbours contradict by far more than they do others counts as so much noisier.
    """

    def __init__(self, points: Any, values: Any) -> None:
        import numpy as np

        self._points = np.asarray(points, dtype=float)
        values = np.asarray(values, dtype=float)
        self._mean = float(np.median(values))
        left = values - self._mean
        self.scales = np.zeros(self._points.shape[1])
        """One over the distance, in each feature's own unit, at which correlation is lost; 0: left out."""
        self._weights = np.zeros(len(left))
        if float(np.abs(left).max(initial=0.0)) ** 2 < _LEAST_VARIANCE:
            return
        some = np.random.default_rng(0).permutation(len(left))[:_SOUGHT_WITH]
        self.scales, noise = _sought(self._points[some], left[some])
        if self.scales.any():
            correlation = _matern(_squared(self._points, self._points, self.scales))
            self._weights = np.linalg.solve(correlation + np.diag(_noises(correlation, left, noise)), left)

    def at(self, points: Any) -> Any:
        """The expected value at each of other points."""
        import numpy as np

        squared = _squared(np.asarray(points, dtype=float), self._points, self.scales)
        return self._mean + _matern(squared) @ self._weights


def _squared(first: Any, second: Any, scales: Any) -> Any:
    """The squared distances, a row for each of the first points."""
    import numpy as np

    a, b = first * scales, second * scales
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0.0)


def _matern(squared: Any) -> Any:
    import numpy as np

    distance = np.sqrt(3 * squared)
    return (1 + distance) * np.exp(-distance)


def _sought(points: Any, values: Any) -> tuple[Any, float]:
    """The scales and the noise that make the values most likely, with the variance that does so."""
    import numpy as np
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    count, used = len(values), np.ptp(points, axis=0) > 0
    apart = (points[:, None, used] - points[None, :, used]) ** 2

    def unlikely(logs: Any) -> tuple[float, Any]:
        """Minus the logarithm of the likelihood, but for a constant, and its gradient."""
        scaled, noise = apart * np.exp(2 * logs[:-1]), np.exp(logs[-1])
        distance = np.sqrt(3 * scaled.sum(2))
        factor = cho_factor((1 + distance) * np.exp(-distance) + noise * np.eye(count))
        solved, inverse = cho_solve(factor, values), cho_solve(factor, np.eye(count))
        variance = float(values @ solved) / count + _LEAST_VARIANCE
        worth = 0.5 * count * np.log(variance) + np.log(np.diag(factor[0])).sum()
        pull = 0.5 * (inverse - np.outer(solved, solved) / variance)
        slopes = -3 * np.einsum("ij,ij,ijk->k", pull, np.exp(-distance), scaled)
        return worth, np.append(slopes, noise * np.trace(pull))

    logs = np.log([*[_BEGIN] * used.sum(), _USUAL])
    bounds = np.log([*[(_LEAST, _MOST)] * used.sum(), (_QUIET, _LOUD)])
    found = np.exp(minimize(unlikely, logs, jac=True, bounds=bounds, options={"maxiter": _STEPS}).x)
    scales = np.zeros(len(used))
    scales[used] = np.where(found[:-1] > 1.01 * _LEAST, found[:-1], 0.0)
    return scales, float(found[-1])


def _noises(correlation: Any, values: Any, noise: float) -> Any:
    """Of each value: more where it is far from what all others say of it (in closed form, one left out), by
    the uncertainty that they have there."""
    import numpy as np

    noises = np.full(len(values), noise)
    for _ in range(_ROUNDS):
        inverse = np.linalg.inv(correlation + np.diag(noises))
        certain = np.sqrt(np.diag(inverse))
        odd = np.abs(inverse @ values) / certain
        usual = np.maximum(_OUTLYING * float(np.median(odd)), _NEAR * certain)
        noises = noise * np.maximum(1.0, odd / usual)
    return noises
