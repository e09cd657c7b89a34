"""LatencyTable: a device's measured times, from which the time of any model there is estimated.

Layers timed alone are 3 to 33 % too fast, and a table of convolutions lacks all else. So

    t = a * dense convolutions + g * grouped convolutions + p * MACs and b * bytes of matrix products
        + n * bytes of normalisations + e * bytes of other operations + c * operations

has coefficients of at least 0, a and g of at least 1, fitted by relative error to the whole models that were
measured there. The convolutions' seconds are the table's; those that it lacks are predicted. The error that
an estimate states is that of the same fit without each model in turn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Literal

from archcost.fleet.errors import FleetError
from archcost.fleet.kept import FleetStore
from archcost.fleet.paper import WORK
from archcost.fleet.tasks import Model
from archcost.latency.prediction.predictor import PredictionError, Predictor
from archcost.latency.store.kinds import PATH
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from archcost.analysis.analysis import Analysis
    from archcost.latency.store.measurement import Measurement
    from archcost.trace.inputs import Inputs, InputSize

    Array = NDArray[np.float64]

__all__ = ["Estimate", "LatencyTable", "estimate", "latency_table"]

How = Literal["eager", "program"]
# Fewest whole models for the fit: fewer have as many unknowns as equations.
_FEWEST = 8


@dataclass(frozen=True)
class Estimate:
    """The predicted time of a model on a device. Nothing was measured for it; ``print`` it for a sentence."""

    model: str
    device: str
    """The name of the device."""
    seconds: float
    error: float | None
    """Median relative error of such estimates, for models left out of the fit; None: unknown."""
    error_80: float | None
    """The relative error that 80 % of such estimates stay within."""
    share_predicted: float
    """The share of convolutions that the table lacks, and that were predicted."""
    threads: int
    batch: int
    how: How = "eager"
    """As PyTorch runs it, or as a program of `archcost.accelerate`."""

    def __str__(self) -> str:
        known = "a lower bound, of convolutions alone: measure whole models there"
        if self.error is not None:
            known = f"error {self.error:.0%}, within {self.error_80:.0%} for 80 % of models"
        ms = f"{self.seconds * 1e3:.2f} ms predicted for {self.model} on {self.device}"
        covered = f"{1 - self.share_predicted:.0%} of its convolutions are in the table"
        return (
            f"{ms}, batch {self.batch}, {self.threads} thread{'s' * (self.threads != 1)} ({known}; {covered})"
        )


@dataclass(frozen=True)
class _Convolutions:
    """Seconds of a model's convolutions, and how many of its calls the table has and lacks."""

    dense: float
    grouped: float
    there: int
    lacking: int


@dataclass
class LatencyTable:
    """The times of one device; made by `latency_table`.

    Args:
        device: its name.
        mark: its key in the store.
        measurements: the times of layers on it.
        models: the times of whole models on it, in seconds.
        papers: these models on paper, by SPEC and number of images.
        without: SPECs of models that the fit leaves out.
    """

    device: str
    mark: str
    measurements: list[Measurement] = field(repr=False)
    models: Mapping[Model, float] = field(repr=False)
    papers: Mapping[tuple[str, int], Mapping[str, Any]] = field(repr=False)
    without: Collection[str] = ()

    def estimate(
        self,
        model: nn.Module | str | Analysis,
        inputs: Inputs = None,
        *,
        input_size: InputSize | None = None,
        threads: int = 1,
        how: How = "eager",
    ) -> Estimate:
        """The predicted time of a model on this device, which need not be here.

        Args:
            model: a module, a SPEC, or the Analysis of one.
            inputs: as in `archcost.analyze`.
            input_size: as in `archcost.analyze`.
            threads: threads of PyTorch.
            how: as PyTorch runs it, or as a ``"program"`` of `archcost.accelerate`.

        Raises:
            FleetError: the table has no times under these conditions.
        """
        from archcost.analysis.analysis import Analysis, analyze
        from archcost.fleet.paper import of_analysis

        if not isinstance(model, Analysis):
            model = analyze(model, inputs, input_size=input_size)
        return self.of_paper(of_analysis(model), threads, how)

    def of_paper(self, paper: Mapping[str, Any], threads: int = 1, how: How = "eager") -> Estimate:
        """The predicted time of a model on paper, see `archcost.fleet.paper.on_paper`."""
        found = self.convolutions(paper, threads, how)
        fit = self._fit(threads, how)
        row = _row(paper, found)
        seconds = found.dense + found.grouped if fit is None else float(row @ fit.law)
        error, error_80 = (None, None) if fit is None else (fit.error, fit.error_80)
        share = found.lacking / max(1, found.there + found.lacking)
        name, batch = str(paper["model"]), int(paper["batch"])
        return Estimate(name, self.device, seconds, error, error_80, share, threads, batch, how)

    def convolutions(self, paper: Mapping[str, Any], threads: int, how: How = "eager") -> _Convolutions:
        """The seconds of a model's convolutions, each alone: PyTorch's own, or the fastest path of a program.

        Raises:
            FleetError: one of them can neither be looked up nor predicted.
        """
        from archcost.latency.store.measurement import spec_from_json

        sums, there, lacking = {True: 0.0, False: 0.0}, 0, 0
        for one in paper["convolutions"]:
            spec = spec_from_json(json.dumps(one["spec"]))
            seconds, known = self._seconds(spec, one["dtype"], one["layout"], threads, how)
            sums[spec.groups > 1] += seconds * one["count"]
            there, lacking = there + one["count"] * known, lacking + one["count"] * (not known)
        return _Convolutions(sums[False], sums[True], there, lacking)

    def best_path(self, spec: ConvSpec, dtype: str, threads: int) -> str | None:
        """The fastest path of a layer in the table; None where it is not there."""
        found = self._by_layer.get((spec, dtype, threads), {})
        return min(found, key=lambda key: found[key])[0] if found else None

    @cached_property
    def _by_layer(self) -> dict[tuple[ConvSpec, str, int], dict[tuple[str, str], float]]:
        found: dict[tuple[ConvSpec, str, int], dict[tuple[str, str], float]] = {}
        for one in self.measurements:
            if one.key.kind == PATH:
                layer = found.setdefault((one.key.spec, one.key.dtype, one.key.threads), {})
                layer[one.key.path, one.key.layout] = one.median_s
        return found

    def _seconds(self, spec: ConvSpec, dtype: str, layout: str, threads: int, how: How) -> tuple[float, bool]:
        found = self._by_layer.get((spec, dtype, threads), {})
        native = found.get(("native", layout), found.get(("native", "contiguous")))
        if how == "program" and found:
            return min(found.values()), True
        if native is not None:
            return native, True
        state = (threads, dtype)
        if state not in self._predictors:
            self._predictors[state] = Predictor.fit(
                self.measurements, threads=threads, dtype=dtype, fingerprint=self.mark
            )
        try:
            return self._predictors[state].predict(spec, "native").seconds, False
        except PredictionError as error:
            raise FleetError(f"fleet: nothing is known of {spec} on {self.device}: {error}") from error

    @cached_property
    def _predictors(self) -> dict[tuple[int, str], Predictor]:
        return {}

    @cached_property
    def _fits(self) -> dict[tuple[int, str], _Fit | None]:
        return {}

    def _fit(self, threads: int, how: How) -> _Fit | None:
        if (threads, how) not in self._fits:
            self._fits[threads, how] = self._fitted(threads, how)
        return self._fits[threads, how]

    def _fitted(self, threads: int, how: How) -> _Fit | None:
        import numpy as np

        rows, seconds = [], []
        for task, took in self.models.items():
            paper = self.papers.get((task.model, task.batch))
            same = (task.threads, task.how) == (threads, how) and task.model not in self.without
            if paper is None or not same:
                continue
            rows.append(_row(paper, self.convolutions(paper, threads, how)))
            seconds.append(took)
        if len(rows) < _FEWEST:
            return None
        return _Fit.of(np.array(rows), np.array(seconds))


@dataclass(frozen=True)
class _Fit:
    """The coefficients, and the errors of estimates by the same fit for models that it leaves out."""

    law: Array
    error: float
    error_80: float

    @classmethod
    def of(cls, rows: Array, seconds: Array) -> _Fit:
        import numpy as np

        # A row over its time: relative errors count, for small models and large.
        scaled = rows / seconds[:, None]
        errors = []
        for left_out in range(len(rows)):
            others = np.arange(len(rows)) != left_out
            errors.append(abs(float(scaled[left_out] @ _solved(scaled[others])) - 1))
        return cls(_solved(scaled), median(errors), quantiles(errors, n=5, method="inclusive")[-1])


def _solved(scaled: Array) -> Array:
    import numpy as np

    from archcost.latency.prediction.fitting import nonnegative_least_squares

    # No convolution is faster in a model than alone: what is fitted comes on top of them.
    least = np.array([1.0, 1.0, *(0.0 for _ in WORK)])
    found: Array = least + nonnegative_least_squares(scaled, np.maximum(0.0, 1 - scaled @ least))
    return found


def _row(paper: Mapping[str, Any], found: _Convolutions) -> Array:
    import numpy as np

    return np.array([found.dense, found.grouped, *(float(paper["work"][name]) for name in WORK)])


def latency_table(
    store: str | os.PathLike[str] | None = None,
    device: str | None = None,
    *,
    without: Collection[str] = (),
) -> LatencyTable:
    """The times of one device that a fleet measured, to estimate any model on it.

    Args:
        store: the file that `archcost.fleet.measure` wrote; by default the user's own store.
        device: its name; where the store has a single one, that.
        without: SPECs of models that the estimates are not to be fitted to, to hold them against these.

    Returns:
        The table: ``table.estimate(model, inputs)``.

    Raises:
        FleetError: the store has no such device, or several and none was named.
    """
    with FleetStore(store) as kept:
        marks = {mark: mark.partition("@")[2] for mark in kept.devices()}
        names = sorted(set(marks.values()))
        if device is None and len(names) == 1:
            device = names[0]
        own = [mark for mark, name in marks.items() if name == device]
        if not own:
            listed = ", ".join(names) or "none"
            raise FleetError(f"fleet: the table has no device {device!r}; it has: {listed}. Name one of them")
        # With other software since, the latest.
        results = max((kept.results(mark) for mark in own), key=lambda found: max(at for *_, at in found))
        models = {
            task: float(result["model"]["median_s"])
            for task, _, state, result, _ in results
            if isinstance(task, Model) and state == "done"
        }
        mark = results[0][1]
        return LatencyTable(str(device), mark, kept.all(mark), models, kept.papers(), without)


def estimate(
    model: nn.Module | str | Analysis,
    inputs: Inputs = None,
    *,
    device: str | None = None,
    table: LatencyTable | str | os.PathLike[str] | None = None,
    input_size: InputSize | None = None,
    threads: int = 1,
    how: How = "eager",
) -> Estimate:
    """The predicted time of a model on a device that a fleet measured; nothing is executed.

    Args:
        model: a module, a SPEC, or the Analysis of one.
        inputs: as in `archcost.analyze`.
        device: the device's name.
        table: a `LatencyTable`, or the store that has it; by default the user's own store.
        input_size: as in `archcost.analyze`.
        threads: threads of PyTorch.
        how: as PyTorch runs it, or as a ``"program"`` of `archcost.accelerate`.

    Returns:
        The prediction with its error; ``print`` it for a sentence.

    Raises:
        FleetError: there is no such device in the table.
    """
    found = table if isinstance(table, LatencyTable) else latency_table(table, device)
    return found.estimate(model, inputs, input_size=input_size, threads=threads, how=how)
