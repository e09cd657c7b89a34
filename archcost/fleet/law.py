"""The law of whole models by their layers: fitted to those that were measured, with its error.

Layers timed alone are 3 to 33 % too fast for PyTorch's own models, and a table of layers lacks all else. So

    t = a * dense convolutions + g * grouped convolutions + p * matrix products + s * attention
        + bytes of all other operations, by kind (see `archcost.fleet.work`) + c * their number

has coefficients of at least 0, a, g, p and s of at least 1, fitted by relative error. Attention counts as
matrix products of as many multiply-accumulates; few models have it, so that s is drawn towards 1.5. A
program of archcost's engine is little else than its layers, which are timed as it runs them:

    t = the sum over kinds of k * layers of that kind + b * bytes that other steps move + c * their number

where each k is drawn towards 1. The error that a law states is that of the same fit without each model in
turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Literal

from archcost.fleet.work import BYTES, WORK, work_of
from archcost.latency.prediction.fitting import nonnegative_least_squares

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["FEWEST", "How", "Law", "Layers", "row_of", "seconds_by_work"]

How = Literal["eager", "program"]
FEWEST = 8
"""Fewest whole models for the fit: fewer have as many unknowns as equations."""
_EAGER = ("dense", "grouped", "product", "attention")
_PROGRAM = ("dense", "pointwise", "grouped", "InvertedResidual", "Linear", "row", "other")
# As many models as the prior of a coefficient counts for.
_PRIOR = 3.0
_ATTENTION = 1.5
"""The coefficient of attention, with its softmax, over products of matrices, where too few models tell."""


@dataclass(frozen=True)
class Layers:
    """Seconds of a model's layers, each alone, by kind, and how many the table has and lacks."""

    seconds: Mapping[str, float]
    there: int
    lacking: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Law:
    """The coefficients, and the errors of estimates by the same fit for models that it leaves out."""

    coefficients: Array
    error: float
    error_80: float

    @classmethod
    def of(cls, rows: Array, seconds: Array, how: How) -> Law:
        """The law of models.

        Args:
            rows: their `row_of`.
            seconds: their times.
            how: as PyTorch runs them, or as programs.
        """
        import numpy as np

        solved: Callable[[Array], Array] = _eager if how == "eager" else _program
        # A row over its time: relative errors count, for small models and large.
        scaled = rows / seconds[:, None]
        errors = []
        for left_out in range(len(rows)):
            others = np.arange(len(rows)) != left_out
            errors.append(abs(float(scaled[left_out] @ solved(scaled[others])) - 1))
        return cls(solved(scaled), median(errors), quantiles(errors, n=5, method="inclusive")[-1])

    def seconds(self, row: Array) -> float:
        """The time of a model by its `row_of`."""
        return float(row @ self.coefficients)


def row_of(paper: Mapping[str, Any], layers: Layers, how: How) -> Array:
    """All that the law counts of a model: seconds of its layers by kind, then its other work."""
    import numpy as np

    if how == "eager":
        work = work_of(paper)
        return np.array([*(layers.seconds.get(kind, 0.0) for kind in _EAGER), *(work[one] for one in WORK)])
    others = paper["program"]["others"].values()
    found = dict.fromkeys(_PROGRAM, 0.0)
    for kind, seconds in layers.seconds.items():
        found[kind if kind in found else "other"] += seconds
    return np.array([*found.values(), sum(moved for _, moved in others), sum(calls for calls, _ in others)])


def _program(scaled: Array) -> Array:
    """The law of least squares, each kind of layer drawn towards 1: in a small table some are rare."""
    import numpy as np

    sizes = np.sqrt(_PRIOR * (scaled[:, : len(_PROGRAM)] ** 2).mean(axis=0))
    prior = np.zeros((len(_PROGRAM), scaled.shape[1]))
    prior[:, : len(_PROGRAM)] = np.diag(np.maximum(sizes, 1e-3))
    return nonnegative_least_squares(
        np.vstack([scaled, prior]), np.concatenate([np.ones(len(scaled)), prior.sum(axis=1)])
    )


def _eager(scaled: Array) -> Array:
    """The law of least squares, layers with coefficients of at least 1: none is faster in a model than alone.

    Each kind of bytes is drawn towards the coefficient of all: a small table tells few apart.
    """
    import numpy as np

    start, stop = len(_EAGER), len(_EAGER) + len(BYTES)
    floor = np.array([1.0] * start + [0.0] * len(WORK))
    target = np.maximum(0.0, 1 - scaled @ floor)
    every = scaled[:, start:stop].sum(axis=1)
    pooled = np.column_stack([scaled[:, :start], scaled[:, stop:], every])
    common = nonnegative_least_squares(pooled, target)[-1]
    # By what they amount to in a model, and never 0: a kind that no model has takes the common.
    sizes = (scaled[:, start:stop] ** 2).mean(axis=0)
    weights = np.sqrt(_PRIOR * np.maximum(sizes, 1e-4 * (every**2).mean()))
    prior = np.zeros((1 + len(BYTES), len(floor)))
    prior[1:, start:stop] = np.diag(weights)
    attention = _EAGER.index("attention")
    used = scaled[scaled[:, attention] > 0, attention]  # the mean over models that have it
    weight = np.sqrt(_PRIOR * (used**2).mean()) if len(used) else 1.0
    prior[0, attention] = weight
    above_floor = [weight * (_ATTENTION - 1)]
    found: Array = floor + nonnegative_least_squares(
        np.vstack([scaled, prior]), np.concatenate([target, above_floor, weights * common])
    )
    return found


def seconds_by_work(known: Iterable[tuple[float, float, float]]) -> Array:
    """Seconds for each multiply-accumulate, byte and call, from layers with these and their seconds."""
    import numpy as np

    rows = np.array([(macs / took, moved / took, 1 / took) for macs, moved, took in known])
    return nonnegative_least_squares(rows, np.ones(len(rows))) if len(rows) else np.zeros(3)
