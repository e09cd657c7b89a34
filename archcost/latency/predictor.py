"""What was not measured, predicted: per path, time as a function of multiplications, bytes and calls.

    t = a * multiplications + b * bytes of input and output + w * bytes of weights and workspace + c

fitted on this machine's measurements with none of a, b, w, c negative, so that every prediction grows with
the work. The weights stand apart, for PyTorch lays them out anew in every call. Relative errors count: a
small layer is to be as right as a large one. What is predicted is labelled so, with the error that the same
fit made on measurements it had not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from archcost.errors import ArchcostError
from archcost.latency.fingerprint import fingerprint as of_this_machine
from archcost.latency.nonnegative import nonnegative_least_squares
from archcost.latency.roofline import bytes_moved
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    from archcost.latency.measurement import Measurement
    from archcost.latency.store import Store

__all__ = ["Fit", "Prediction", "PredictionError", "Predictor", "Work", "kind_of", "work_of"]

LEAST_MEASUREMENTS = 8
_FOLDS = 10
_FEW = 40
_ITEMSIZE = {"float64": 8, "float16": 2, "bfloat16": 2}


class PredictionError(ArchcostError):
    """Nothing can be predicted; the message says for want of what."""


class Work(NamedTuple):
    """What a path has to do for a convolution."""

    multiplications: int
    moved: int
    """Bytes of input and output."""
    weights: int
    """Bytes of weights and, where the path knows it, workspace."""


@dataclass(frozen=True)
class Prediction:
    """A time that nobody measured."""

    seconds: float
    error: float
    """The median relative error of the same fit on measurements that it had not seen: 0.05 is 5 %."""
    path: str
    extrapolated: bool
    """More multiplications or bytes, or fewer, than in any measurement it was fitted to."""

    def __str__(self) -> str:
        beyond = ", beyond what was measured" if self.extrapolated else ""
        return f"{self.seconds * 1e3:.3f} ms predicted for {self.path} (error {self.error:.0%}{beyond})"


@dataclass(frozen=True)
class Fit:
    """The law of one path, for one kind of convolution."""

    path: str
    kind: str
    per_multiplication: float
    per_byte: float
    """Of input and output."""
    per_weight_byte: float
    """Of weights and workspace."""
    per_call: float
    error: float
    """Cross-validated: the median relative error on measurements left out of the fit."""
    measurements: int
    least: Work
    most: Work
    """Of each kind of work, in the measurements that it was fitted to."""

    def seconds(self, work: Work) -> float:
        laws = (self.per_multiplication, self.per_byte, self.per_weight_byte)
        return sum(law * count for law, count in zip(laws, work, strict=True)) + self.per_call

    def covers(self, work: Work) -> bool:
        """Whether there is as much and as little of everything in what was measured."""
        ranges = zip(self.least, work, self.most, strict=True)
        return all(least <= count <= most for least, count, most in ranges)


class Predictor:
    """Fits of every path that was measured often enough; `fit` makes one."""

    def __init__(
        self, fits: dict[tuple[str, str], Fit], reasons: dict[tuple[str, str], str], said: str, item: int
    ):
        self._fits = fits
        self._reasons = reasons
        self._said = said
        self._itemsize = item

    @classmethod
    def fit(
        cls,
        measurements: Store | Iterable[Measurement],
        *,
        threads: int = 1,
        dtype: str = "float32",
        layout: str = "contiguous",
        fingerprint: str | None = None,
    ) -> Predictor:
        """From a store, or any measurements: those of one machine (this one by default) in one state."""
        mark = of_this_machine().hash if fingerprint is None else fingerprint
        itemsize = _ITEMSIZE.get(dtype, 4)
        groups: dict[tuple[str, str], list[Measurement]] = {}
        for one in measurements:
            state = (one.key.fingerprint, one.key.threads, one.key.dtype, one.key.layout)
            if state == (mark, threads, dtype, layout):
                groups.setdefault((one.key.path, kind_of(one.key.spec)), []).append(one)
        fits: dict[tuple[str, str], Fit] = {}
        reasons: dict[tuple[str, str], str] = {}
        for (path, kind), found in groups.items():
            fitted = _fit(path, kind, found, itemsize)
            if isinstance(fitted, str):
                reasons[path, kind] = fitted
            else:
                fits[path, kind] = fitted
        said = f"{threads} thread{'s' * (threads != 1)}, {dtype}, {layout}"
        return cls(fits, reasons, said, itemsize)

    @property
    def fits(self) -> tuple[Fit, ...]:
        return tuple(self._fits.values())

    def why_not(self, spec: ConvSpec, path: str) -> str | None:
        """None, or the reason why nothing can be predicted of this convolution on this path."""
        from archcost.paths import get

        kind = kind_of(spec)
        refused = get(path).supports(spec)
        if refused is not None:
            return f"path {path!r} cannot execute this convolution: {refused}"
        if (path, kind) in self._fits:
            return None
        few = f"0 measurements of {kind} convolutions, {LEAST_MEASUREMENTS} needed"
        return f"path {path!r}, {self._said}: {self._reasons.get((path, kind), few)}"

    def predict(self, spec: ConvSpec, path: str) -> Prediction:
        """The time of one convolution on one path.

        Raises:
            PredictionError: the path cannot execute it, or too little was measured.
        """
        reason = self.why_not(spec, path)
        if reason is not None:
            raise PredictionError(f"no prediction: {reason}; measure more on this machine")
        fit = self._fits[path, kind_of(spec)]
        work = work_of(spec, path, self._itemsize)
        return Prediction(fit.seconds(work), fit.error, path, not fit.covers(work))

    def best(self, spec: ConvSpec, paths: Iterable[str] | None = None) -> Prediction:
        """The fastest of the paths that can be predicted; by default of all that were measured.

        Raises:
            PredictionError: none of them can.
        """
        named = list(dict.fromkeys(path for path, _ in self._fits) if paths is None else paths)
        found = [self.predict(spec, path) for path in named if self.why_not(spec, path) is None]
        if not found:
            said = "; ".join(filter(None, (self.why_not(spec, path) for path in named)))
            raise PredictionError(
                f"no prediction: {said or 'nothing was measured'}; measure more on this machine"
            )
        return min(found, key=lambda one: one.seconds)


def kind_of(spec: ConvSpec) -> str:
    """``dense``, ``grouped`` or ``depthwise``, each ``transposed`` or not: each kind runs other code."""
    kind = "dense" if spec.groups == 1 else "depthwise" if spec.groups == spec.in_channels else "grouped"
    return f"transposed {kind}" if spec.transposed else kind


def work_of(spec: ConvSpec, path: str, itemsize: int = 4) -> Work:
    """The work of a path, by its own counts."""
    from archcost.paths import get

    way = get(path)
    weights = itemsize * spec.params
    workspace = way.workspace_bytes(spec, itemsize) or 0
    return Work(way.multiplications(spec), bytes_moved(spec, itemsize) - weights, weights + workspace)


def _fit(path: str, kind: str, found: list[Measurement], itemsize: int) -> Fit | str:
    import numpy as np

    from archcost.paths import available

    if path not in available():
        return f"no execution path is called {path!r}"
    if len(found) < LEAST_MEASUREMENTS:
        return f"{len(found)} measurements of {kind} convolutions, {LEAST_MEASUREMENTS} needed"
    if any(one.median_s <= 0 for one in found):
        return "a measured time is 0"
    if len({one.clock for one in found}) > 1:
        return "some were measured in CPU time and some in wall time"
    work = [work_of(one.key.spec, path, itemsize) for one in found]
    features = np.array([[*one, 1.0] for one in work])
    times = np.array([one.median_s for one in found])
    a, b, w, c = (float(value) for value in _solve(features, times))
    return Fit(
        path=path,
        kind=kind,
        per_multiplication=a,
        per_byte=b,
        per_weight_byte=w,
        per_call=c,
        error=_held_out_error(features, times),
        measurements=len(found),
        least=Work(*map(min, zip(*work, strict=True))),
        most=Work(*map(max, zip(*work, strict=True))),
    )


def _solve(features: Any, times: Any) -> Any:
    """Each row over its own time: then the residuals are the relative errors."""
    import numpy as np

    return nonnegative_least_squares(features / times[:, None], np.ones(len(times)))


def _held_out_error(features: Any, times: Any) -> float:
    """Fitted ten times, each without a tenth, which it then predicts; one by one where there are few."""
    import numpy as np

    folds = np.arange(len(times)) % (_FOLDS if len(times) > _FEW else len(times))
    order = np.random.default_rng(0).permutation(len(times))
    features, times = features[order], times[order]
    errors: list[float] = []
    for fold in np.unique(folds):
        out = folds == fold
        predicted = features[out] @ _solve(features[~out], times[~out])
        errors.extend(np.abs(predicted / times[out] - 1).tolist())
    return median(errors)
