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

# Of one over the distance at which correlation is lost, by feature; and of noise, as a share of the variance.
_SCALES = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
_BEGIN = 2
_NOISES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_FIRST_NOISE = 3
_SWEEPS = 4
# Scales are sought with so many points at most; all of them then take part.
_SOUGHT_WITH = 120
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
    """Scales and noise, one at a time a step up or down or to nothing, as long as the likelihood grows."""
    import numpy as np

    apart = [(column[:, None] - column[None]) ** 2 for column in points.T]
    used = [number for number, squared in enumerate(apart) if squared.any()]
    steps, noise = dict.fromkeys(used, _BEGIN), _FIRST_NOISE

    def worth(squared: Any, noise: int) -> float:
        return _log_likelihood(_matern(squared), values, _NOISES[noise])

    def all_squared(steps: dict[int, int]) -> Any:
        zero = np.zeros((len(values), len(values)))
        return sum((_SCALES[step] ** 2 * apart[number] for number, step in steps.items()), zero)

    squared = all_squared(steps)
    best = worth(squared, noise)
    for _ in range(_SWEEPS):
        before = best
        for number in used:
            now = steps[number]
            for step in {max(now - 1, 0), min(now + 1, len(_SCALES) - 1), 0 if now else _BEGIN} - {now}:
                changed = _SCALES[step] ** 2 - _SCALES[steps[number]] ** 2
                tried = np.maximum(squared + changed * apart[number], 0.0)
                found = worth(tried, noise)
                if found > best:
                    best, squared, steps[number] = found, tried, step
        for step in (noise - 1, noise + 1):
            if 0 <= step < len(_NOISES) and (found := worth(squared, step)) > best:
                best, noise = found, step
        if best - before < 1e-6:
            break
    scales = np.zeros(points.shape[1])
    for number, step in steps.items():
        scales[number] = _SCALES[step]
    return scales, _NOISES[noise]


def _log_likelihood(correlation: Any, values: Any, noise: float) -> float:
    """Of the values, with the variance that makes it largest; a constant is left away."""
    import numpy as np

    count = len(values)
    factor = np.linalg.cholesky(correlation + noise * np.eye(count))
    whitened = np.linalg.solve(factor, values)
    variance = float(whitened @ whitened) / count
    return -0.5 * count * float(np.log(variance + _LEAST_VARIANCE)) - float(np.log(np.diag(factor)).sum())


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
