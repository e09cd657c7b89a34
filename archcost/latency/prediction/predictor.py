"""Predicted times: a law for each path and kind of convolution, and its correction.

The law (see `fitting`) is linear in multiplications, bytes and calls, fitted to this machine's measurements;
its residuals are carried over from similar convolutions (see `kriging`). Each prediction has the error of the
same procedure, choice of scales included, in cross-validation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from archcost.errors import ArchcostError
from archcost.latency.prediction.fitting import PathFit, fit_of
from archcost.latency.prediction.work import Work, features_of, kind_of, work_of
from archcost.latency.store.fingerprint import fingerprint as of_this_machine
from archcost.spec import ConvSpec
from archcost.trace.inputs import as_dtype

if TYPE_CHECKING:
    from archcost.latency.store.measurement import Measurement
    from archcost.latency.store.store import Store

__all__ = ["PathFit", "Prediction", "PredictionError", "Predictor", "Work", "kind_of", "work_of"]

_ITEMSIZE = {"float64": 8, "float16": 2, "bfloat16": 2}


class PredictionError(ArchcostError):
    """Nothing can be predicted; the message says what is missing."""


@dataclass(frozen=True)
class Prediction:
    """A predicted time of a convolution on a path."""

    seconds: float
    error: float
    """The median relative error of the fit in cross-validation: 0.05 is 5 %."""
    path: str
    layout: str
    """The layout of the input."""
    extrapolated: bool
    """Whether multiplications or bytes lie outside the range of the measurements."""

    def __str__(self) -> str:
        beyond = ", beyond what was measured" if self.extrapolated else ""
        return f"{self.seconds * 1e3:.3f} ms predicted for {self.path} (error {self.error:.0%}{beyond})"


class Predictor:
    """Fits of all paths that were measured often enough, each made when first needed."""

    def __init__(
        self, groups: dict[tuple[str, str], list[Measurement]], said: str, layout: str, itemsize: int
    ):
        self._groups = groups
        self._said = said
        self._layout = layout
        self._itemsize = itemsize
        self._made: dict[tuple[str, str], PathFit | str] = {}

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
        """A predictor from measurements of one machine under one set of conditions; others are ignored.

        Args:
            measurements: a store, or any measurements.
            threads: threads of PyTorch.
            dtype: the dtype of input and weights.
            layout: the layout of the input.
            fingerprint: `Fingerprint.hash` of the machine; by default this one.
        """
        dtype = str(as_dtype(dtype)).removeprefix("torch.")
        mark = of_this_machine().hash if fingerprint is None else fingerprint
        groups: dict[tuple[str, str], list[Measurement]] = {}
        for one in measurements:
            state = (one.key.fingerprint, one.key.threads, one.key.dtype, one.key.layout)
            if state == (mark, threads, dtype, layout):
                groups.setdefault((one.key.path, kind_of(one.key.spec)), []).append(one)
        said = f"{threads} thread{'s' * (threads != 1)}, {dtype}, {layout}"
        return cls(groups, said, layout, _ITEMSIZE.get(dtype, 4))

    @property
    def fits(self) -> tuple[PathFit, ...]:
        """The fits that could be made."""
        every = (self._of(path, kind) for path, kind in self._groups)
        return tuple(one for one in every if isinstance(one, PathFit))

    def why_not(self, spec: ConvSpec, path: str) -> str | None:
        """The reason why this convolution on this path cannot be predicted; None where it can."""
        from archcost.paths import get

        refused = get(path).supports(spec)
        if refused is not None:
            return f"path {path!r} cannot execute this convolution: {refused}"
        made = self._of(path, kind_of(spec))
        return None if isinstance(made, PathFit) else f"path {path!r}, {self._said}: {made}"

    def predict(self, spec: ConvSpec, path: str) -> Prediction:
        """The predicted time of a convolution on a path.

        Raises:
            PredictionError: the path cannot execute it, or too little was measured.
        """
        return self.best(spec, [path])

    def best(self, spec: ConvSpec, paths: Iterable[str] | None = None) -> Prediction:
        """The prediction for the fastest of the paths, by default of all that were measured.

        Raises:
            PredictionError: no path can be predicted.
        """
        from archcost.paths import available

        if paths is None:
            paths = [path for path, _ in self._groups if path in available()]
        found: list[tuple[float, PathFit, Work]] = []
        refused = []
        for path in dict.fromkeys(paths):
            why, fit = self.why_not(spec, path), self._of(path, kind_of(spec))
            if why is None and isinstance(fit, PathFit):
                work = work_of(spec, path, self._itemsize)
                found.append((fit.corrected(work, features_of(spec, path, work)), fit, work))
            else:
                refused.append(why or "")
        if not found:
            said = "; ".join(refused) or "nothing was measured"
            raise PredictionError(f"no prediction: {said}; measure more on this machine")
        # The error of a fit takes longest to compute, so that only the chosen path's is.
        seconds, fit, work = min(found, key=lambda one: one[0])
        return Prediction(seconds, fit.error, fit.path, self._layout, not fit.covers(work))

    def _of(self, path: str, kind: str) -> PathFit | str:
        key = (path, kind)
        if key not in self._made:
            self._made[key] = fit_of(path, kind, self._groups.get(key, []), self._itemsize)
        return self._made[key]
