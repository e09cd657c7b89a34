"""LatencyTable: a device's measured times, from which the time of any model there is estimated.

The seconds of a model's layers are the table's; those that it lacks are predicted from the others. Whole
models in the table tell how they add up, see `archcost.fleet.law`.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from archcost.engine.on_paper import work_of_layer
from archcost.fleet.errors import FleetError
from archcost.fleet.kept import FleetStore
from archcost.fleet.law import FEWEST, How, Law, Layers, row_of, seconds_by_work
from archcost.fleet.tasks import Model, Product, Step, Task
from archcost.fleet.work import attention_macs
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
    """The share of layers that the table lacks, and that were predicted."""
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


@dataclass
class LatencyTable:
    """The times of one device; made by `latency_table`.

    Args:
        device: its name.
        mark: its key in the store.
        measurements: the times of layers on it.
        products: the times of products of matrices on it, in seconds.
        steps: the times of layers of programs on it, in seconds.
        models: the times of whole models on it, in seconds.
        papers: these models on paper, by SPEC and number of images.
        without: SPECs of models that the fit leaves out.
    """

    device: str
    mark: str
    measurements: list[Measurement] = field(repr=False)
    products: Mapping[Product, float] = field(repr=False)
    steps: Mapping[Step, float] = field(repr=False)
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
        from archcost.fleet.paper import of_analysis, of_program

        if not isinstance(model, Analysis):
            model = analyze(model, inputs, input_size=input_size)
        program = {"program": of_program(model.trace)} if how == "program" else {}
        return self.of_paper({**of_analysis(model), **program}, threads, how)

    def of_paper(self, paper: Mapping[str, Any], threads: int = 1, how: How = "eager") -> Estimate:
        """The predicted time of a model on paper, see `archcost.fleet.paper.on_paper`."""
        found = self.layers(paper, threads, how)
        law = self._law(threads, how)
        seconds = found.total if law is None else law.seconds(row_of(paper, found, how))
        error, error_80 = (None, None) if law is None else (law.error, law.error_80)
        share = found.lacking / max(1, found.there + found.lacking)
        name, batch = str(paper["model"]), int(paper["batch"])
        return Estimate(name, self.device, seconds, error, error_80, share, threads, batch, how)

    def layers(self, paper: Mapping[str, Any], threads: int, how: How = "eager") -> Layers:
        """The seconds of a model's layers, each alone: as PyTorch runs them, or as a program does.

        Raises:
            FleetError: one of them can neither be looked up nor predicted, or the program is not known.
        """
        sums, there, lacking = defaultdict[str, float](float), 0, 0
        for kind, (seconds, known), count in self._each(paper, threads, how):
            sums[kind] += seconds * count
            there, lacking = there + count * known, lacking + count * (not known)
        if how == "eager":
            sums["attention"] = attention_macs(paper) * self._product_rate(threads)
        return Layers(sums, there, lacking)

    def _each(
        self, paper: Mapping[str, Any], threads: int, how: How
    ) -> Iterator[tuple[str, tuple[float, bool], int]]:
        """Each layer: its kind, its seconds and whether these are in the table, and how many there are."""
        from archcost.latency.store.measurement import spec_from_json

        if how == "program":
            program = paper.get("program", {"refused": "it was measured without programs"})
            if "refused" in program:
                raise FleetError(f"fleet: no program of {paper['model']} on paper: {program['refused']}")
            for layer, count in program["layers"]:
                yield work_of_layer(layer).kind, self._step_seconds(Step(layer, threads)), count
            return
        for one in paper["convolutions"]:
            spec = spec_from_json(json.dumps(one["spec"]))
            kind = "grouped" if spec.groups > 1 else "dense"
            yield kind, self._seconds(spec, one["dtype"], one["layout"], threads), one["count"]
        for *sizes, count in paper["products"]:
            yield "product", self._product_seconds(Product(tuple(sizes), threads)), count

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

    def _seconds(self, spec: ConvSpec, dtype: str, layout: str, threads: int) -> tuple[float, bool]:
        found = self._by_layer.get((spec, dtype, threads), {})
        native = found.get(("native", layout), found.get(("native", "contiguous")))
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
        return self._by_work("product", product.threads, *_work_of(product)), False

    def _product_rate(self, threads: int) -> float:
        """Seconds for each multiply-accumulate of the products in the table."""
        known = {one: took for one, took in self.products.items() if one.threads == threads}
        return sum(known.values()) / max(1, sum(one.macs for one in known))

    def _step_seconds(self, step: Step) -> tuple[float, bool]:
        if step in self.steps:
            return self.steps[step], True
        work = work_of_layer(step.layer)
        return self._by_work(work.kind, step.threads, work.macs, work.bytes), False

    def _by_work(self, kind: str, threads: int, macs: int, moved: int) -> float:
        """Seconds of a layer that the table lacks, from those of its kind; 0 where it has none."""
        law = self._laws_of_work.get((kind, threads))
        return 0.0 if law is None else float(law @ (macs, moved, 1.0))

    @cached_property
    def _laws_of_work(self) -> dict[tuple[str, int], Array]:
        known: dict[tuple[str, int], list[tuple[float, float, float]]] = defaultdict(list)
        for product, took in self.products.items():
            known["product", product.threads].append((*_work_of(product), took))
        for step, took in self.steps.items():
            work = work_of_layer(step.layer)
            known[work.kind, step.threads].append((work.macs, work.bytes, took))
        return {key: seconds_by_work(rows) for key, rows in known.items()}

    @cached_property
    def _predictors(self) -> dict[tuple[int, str], Predictor]:
        return {}

    @cached_property
    def _laws(self) -> dict[tuple[int, str], Law | None]:
        return {}

    def _law(self, threads: int, how: How) -> Law | None:
        if (threads, how) not in self._laws:
            self._laws[threads, how] = self._fitted(threads, how)
        return self._laws[threads, how]

    def _fitted(self, threads: int, how: How) -> Law | None:
        import numpy as np

        rows, seconds = [], []
        for task, took in self.models.items():
            paper = self.papers.get((task.model, task.batch))
            same = (task.threads, task.how) == (threads, how) and task.model not in self.without
            known = paper is not None and (how == "eager" or "layers" in paper.get("program", {}))
            if paper is None or not known or not same:
                continue
            rows.append(row_of(paper, self.layers(paper, threads, how), how))
            seconds.append(took)
        return Law.of(np.array(rows), np.array(seconds), how) if len(rows) >= FEWEST else None


def _work_of(product: Product) -> tuple[int, int]:
    """Multiply-accumulates, and bytes of float32."""
    *pairs, rows, inner, columns = product.sizes
    return product.macs, 4 * prod(pairs) * (rows * inner + inner * columns + rows * columns)


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
            if device is None and names:
                raise FleetError(f"fleet: the table has several devices; name one (--on, device=): {listed}")
            raise FleetError(f"fleet: the table has no device {device!r}; it has: {listed}")
        # With other software since, the latest.
        results = max((kept.results(mark) for mark in own), key=lambda found: max(at for *_, at in found))
        times: dict[type[Task], dict[Any, float]] = {Product: {}, Step: {}, Model: {}}
        for task, _, state, result, _ in results:
            if state == "done" and type(task) in times:
                times[type(task)][task] = float(result[task.kind]["median_s"])
        mark = results[0][1]
        products, steps, models = times.values()
        papers = kept.papers()
        return LatencyTable(str(device), mark, kept.all(mark), products, steps, models, papers, without)


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
