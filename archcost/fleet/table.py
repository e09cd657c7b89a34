"""LatencyTable: a device's measured times, from which the time of any model there is estimated.

Layers timed alone are 3 to 33 % too fast, and a table of layers lacks all else. So

    t = a * dense convolutions + g * grouped convolutions + p * matrix products
        + bytes of all other operations, by kind (see `archcost.fleet.work`) + c * their number

has coefficients of at least 0, a, g and p of at least 1, fitted by relative error to the whole models that
were measured there. The seconds of layers are the table's; those that it lacks are predicted. The error that
an estimate states is that of the same fit without each model in turn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Literal

from archcost.fleet.errors import FleetError
from archcost.fleet.kept import FleetStore
from archcost.fleet.tasks import Model, Product
from archcost.fleet.work import BYTES, WORK, work_of
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
# Coefficients of layers: dense and grouped convolutions, matrix products.
_LAYERS = 3
# As many models as the coefficient of all bytes together counts for, beside each kind's own.
_PRIOR = 3.0


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
    """The share of convolutions and matrix products that the table lacks, and that were predicted."""
    threads: int
    batch: int
    how: How = "eager"
    """As PyTorch runs it, or as a program of `archcost.accelerate`."""

    def __str__(self) -> str:
        known = "a lower bound, of layers alone: measure whole models there"
        if self.error is not None:
            known = f"error {self.error:.0%}, within {self.error_80:.0%} for 80 % of models"
        ms = f"{self.seconds * 1e3:.2f} ms predicted for {self.model} on {self.device}"
        covered = f"{1 - self.share_predicted:.0%} of its layers are in the table"
        return (
            f"{ms}, batch {self.batch}, {self.threads} thread{'s' * (self.threads != 1)} ({known}; {covered})"
        )


@dataclass(frozen=True)
class _Layers:
    """Seconds of a model's layers, each alone, and how many of its calls the table has and lacks."""

    dense: float
    grouped: float
    products: float
    there: int
    lacking: int

    @property
    def seconds(self) -> float:
        return self.dense + self.grouped + self.products


@dataclass
class LatencyTable:
    """The times of one device; made by `latency_table`.

    Args:
        device: its name.
        mark: its key in the store.
        measurements: the times of layers on it.
        products: the times of products of matrices on it, in seconds.
        models: the times of whole models on it, in seconds.
        papers: these models on paper, by SPEC and number of images.
        without: SPECs of models that the fit leaves out.
    """

    device: str
    mark: str
    measurements: list[Measurement] = field(repr=False)
    products: Mapping[Product, float] = field(repr=False)
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
        found = self.layers(paper, threads, how)
        fit = self._fit(threads, how)
        seconds = found.seconds if fit is None else float(_row(paper, found) @ fit.law)
        error, error_80 = (None, None) if fit is None else (fit.error, fit.error_80)
        share = found.lacking / max(1, found.there + found.lacking)
        name, batch = str(paper["model"]), int(paper["batch"])
        return Estimate(name, self.device, seconds, error, error_80, share, threads, batch, how)

    def layers(self, paper: Mapping[str, Any], threads: int, how: How = "eager") -> _Layers:
        """The seconds of a model's layers, each alone: PyTorch's own, or the fastest path of a program.

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
        products = 0.0
        for *sizes, count in paper["products"]:
            seconds, known = self._product_seconds(Product(tuple(sizes), threads))
            products += seconds * count
            there, lacking = there + count * known, lacking + count * (not known)
        return _Layers(sums[False], sums[True], products, there, lacking)

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

    def _product_seconds(self, product: Product) -> tuple[float, bool]:
        if product in self.products:
            return self.products[product], True
        return float(_work_of_product(product) @ self._products_law(product.threads)), False

    def _products_law(self, threads: int) -> Array:
        """Seconds for each multiply-accumulate, byte and call of the products that are known; 0 of none."""
        import numpy as np

        from archcost.latency.prediction.fitting import nonnegative_least_squares

        if threads not in self._products_laws:
            known = {one: took for one, took in self.products.items() if one.threads == threads}
            rows = np.array([_work_of_product(one) / took for one, took in known.items()])
            law = nonnegative_least_squares(rows, np.ones(len(rows))) if known else np.zeros(3)
            self._products_laws[threads] = law
        return self._products_laws[threads]

    @cached_property
    def _products_laws(self) -> dict[int, Array]:
        return {}

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
            rows.append(_row(paper, self.layers(paper, threads, how)))
            seconds.append(took)
        if len(rows) < _FEWEST:
            return None
        # No layer is faster in a model than alone; in a program, whose layers are fused, it may be.
        return _Fit.of(np.array(rows), np.array(seconds), least=float(how == "eager"))


@dataclass(frozen=True)
class _Fit:
    """The coefficients, and the errors of estimates by the same fit for models that it leaves out."""

    law: Array
    error: float
    error_80: float

    @classmethod
    def of(cls, rows: Array, seconds: Array, least: float) -> _Fit:
        import numpy as np

        # A row over its time: relative errors count, for small models and large.
        scaled = rows / seconds[:, None]
        errors = []
        for left_out in range(len(rows)):
            others = np.arange(len(rows)) != left_out
            errors.append(abs(float(scaled[left_out] @ _solved(scaled[others], least)) - 1))
        return cls(_solved(scaled, least), median(errors), quantiles(errors, n=5, method="inclusive")[-1])


def _solved(scaled: Array, least: float) -> Array:
    """The law of least squares, with coefficients of layers of at least ``least``.

    Each kind of bytes is drawn towards the coefficient of all: a small table tells few apart.
    """
    import numpy as np

    from archcost.latency.prediction.fitting import nonnegative_least_squares

    start, stop = _LAYERS, _LAYERS + len(BYTES)
    floor = np.array([least] * _LAYERS + [0.0] * len(WORK))
    target = np.maximum(0.0, 1 - scaled @ floor)
    every = scaled[:, start:stop].sum(axis=1)
    pooled = np.column_stack([scaled[:, :start], scaled[:, stop:], every])
    common = nonnegative_least_squares(pooled, target)[-1]
    # By what they amount to in a model, and never 0: a kind that no model has takes the common.
    sizes = (scaled[:, start:stop] ** 2).mean(axis=0)
    weights = np.sqrt(_PRIOR * np.maximum(sizes, 1e-4 * (every**2).mean()))
    prior = np.zeros((len(BYTES), len(floor)))
    prior[:, start:stop] = np.diag(weights)
    found: Array = floor + nonnegative_least_squares(
        np.vstack([scaled, prior]), np.concatenate([target, weights * common])
    )
    return found


def _row(paper: Mapping[str, Any], found: _Layers) -> Array:
    import numpy as np

    work = work_of(paper)
    return np.array([found.dense, found.grouped, found.products, *(work[name] for name in WORK)])


def _work_of_product(product: Product) -> Array:
    """Multiply-accumulates, bytes of float32 and calls."""
    import numpy as np

    *pairs, rows, inner, columns = product.sizes
    moved = 4 * prod(pairs) * (rows * inner + inner * columns + rows * columns)
    return np.array([float(product.macs), float(moved), 1.0])


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
        products, models = {}, {}
        for task, _, state, result, _ in results:
            if state == "done" and isinstance(task, Product):
                products[task] = float(result["product"]["median_s"])
            if state == "done" and isinstance(task, Model):
                models[task] = float(result["model"]["median_s"])
        mark = results[0][1]
        return LatencyTable(str(device), mark, kept.all(mark), products, models, kept.papers(), without)


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
