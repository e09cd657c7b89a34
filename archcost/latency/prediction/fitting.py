"""The law of a path for a kind of convolution, and its correction by kriging.

    t = a * multiplications + b * bytes of input and output + w * bytes of weights and workspace
        + f * multiplications in transforms + c

with coefficients of at least 0, so that time grows with the work. Weights have a coefficient of their own,
because PyTorch lays them out anew in every call. Relative errors are minimised: a small layer is to be as
right as a large one. The law knows nothing of vectors that channels fill or not, or of kernels with code of
their own: these show in its residuals, which `Kriging` carries to the convolutions nearby.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

from archcost.latency.prediction.kriging import Kriging
from archcost.latency.prediction.work import Work, features_of, work_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from archcost.latency.store.measurement import Measurement

    Array = NDArray[np.float64]

__all__ = ["LEAST_MEASUREMENTS", "PathFit", "fit_of", "nonnegative_least_squares"]

LEAST_MEASUREMENTS = 8
# Only the latest are taken, because the time of a fit grows with the third power of their number.
_MOST_MEASUREMENTS = 300
_FOLDS = 10
_FEW = 40


@dataclass(frozen=True)
class PathFit:
    """The law of a path for a kind of convolution, with its correction."""

    path: str
    kind: str
    """The kind of convolution, see `kind_of`."""
    per_multiplication: float
    """Seconds for each multiplication of data by weights."""
    per_byte: float
    """Seconds for each byte of input and output."""
    per_weight_byte: float
    """Seconds for each byte of weights and workspace."""
    per_transform: float
    """Seconds for each multiplication in transforms."""
    per_call: float
    """Seconds for each call."""
    measurements: int
    """The number of measurements that it was fitted to."""
    least: Work
    """The least of each kind of work in those measurements."""
    most: Work
    """The most of each kind of work in those measurements."""
    correction: Kriging = field(repr=False, compare=False)
    """Kriging of the logarithm of time over law, by `features_of`."""
    _samples: _Samples = field(repr=False, compare=False)

    def seconds(self, work: Work) -> float:
        """Seconds by the law alone."""
        laws = (self.per_multiplication, self.per_byte, self.per_weight_byte, self.per_transform)
        return sum(law * count for law, count in zip(laws, work, strict=True)) + self.per_call

    def corrected(self, work: Work, features: Sequence[float]) -> float:
        """Seconds by the law and the correction."""
        import numpy as np

        return self.seconds(work) * float(np.exp(self.correction.at([features])[0]))

    def covers(self, work: Work) -> bool:
        """Whether each kind of work lies within the range of the measurements."""
        ranges = zip(self.least, work, self.most, strict=True)
        return all(least <= count <= most for least, count, most in ranges)

    @cached_property
    def error(self) -> float:
        """The median relative error in cross-validation, law, scales and correction fitted anew each time.

        Tenfold, or leave-one-out for 40 measurements or fewer. Computed when first asked for.
        """
        import numpy as np

        samples = self._samples
        count = len(samples.times)
        folds = np.arange(count) % (_FOLDS if count > _FEW else count)
        folds = folds[np.random.default_rng(0).permutation(count)]
        errors: list[float] = []
        for fold in np.unique(folds):
            out = folds == fold
            law, correction = _fitted(samples.of(~out))
            left = samples.of(out)
            predicted = _by_law(left.counts, law) * np.exp(correction.at(left.points))
            errors.extend(np.abs(predicted / left.times - 1).tolist())
        return median(errors)


@dataclass(frozen=True)
class _Samples:
    """Work with a 1 appended, features and seconds, a row or number for each measurement."""

    counts: Array
    points: Array
    times: Array

    def of(self, chosen: NDArray[np.bool_]) -> _Samples:
        return _Samples(self.counts[chosen], self.points[chosen], self.times[chosen])


def fit_of(path: str, kind: str, found: Sequence[Measurement], itemsize: int) -> PathFit | str:
    """Fit the law and correction to measurements of a path and a kind of convolution.

    Args:
        path: the name of the path.
        kind: the kind of convolution, see `kind_of`.
        found: the measurements, all of that path and kind.
        itemsize: bytes of a number.

    Returns:
        The fit, or the reason why there is none.
    """
    import numpy as np

    from archcost.paths import available

    if path not in available():
        return f"unknown path {path!r}"
    if len(found) < LEAST_MEASUREMENTS:
        return f"{len(found)} measurements of {kind} convolutions, {LEAST_MEASUREMENTS} needed"
    if any(one.median_s <= 0 for one in found):
        return "a measured time is 0"
    if len({one.clock for one in found}) > 1:
        return "some were measured in CPU time and some in wall time"
    found = sorted(found, key=lambda one: one.measured_at)[-_MOST_MEASUREMENTS:]
    work = [work_of(one.key.spec, path, itemsize) for one in found]
    features = [features_of(one.key.spec, path, its) for one, its in zip(found, work, strict=True)]
    samples = _Samples(
        np.array([[*one, 1.0] for one in work]),
        np.array(features),
        np.array([one.median_s for one in found]),
    )
    law, correction = _fitted(samples)
    least, most = (Work(*map(end, zip(*work, strict=True))) for end in (min, max))
    a, b, w, f, c = map(float, law)
    return PathFit(path, kind, a, b, w, f, c, len(found), least, most, correction, samples)


def _fitted(samples: _Samples) -> tuple[Array, Kriging]:
    import numpy as np

    # Each row is divided by its time: then the residuals are the relative errors.
    law = nonnegative_least_squares(samples.counts / samples.times[:, None], np.ones(len(samples.times)))
    return law, Kriging(samples.points, np.log(samples.times / _by_law(samples.counts, law)))


def _by_law(counts: Array, law: Array) -> Array:
    """Seconds by the law, at least a nanosecond each: 0 has no logarithm."""
    import numpy as np

    return np.maximum(counts @ law, 1e-9)


def nonnegative_least_squares(matrix: Array, target: Array) -> Array:
    """The ``x >= 0`` for which ``matrix @ x`` is nearest to ``target``.

    Columns are scaled first: counts of multiplications and the number 1 are far apart.
    """
    import numpy as np
    from scipy.optimize import nnls

    scale: Array = np.linalg.norm(matrix, axis=0)
    scale[scale == 0] = 1.0
    scaled: Array = nnls(matrix / scale, target)[0]
    return scaled / scale
