"""The classifiers of torchvision by accuracy, MACs and measured latency, with the Pareto front."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from archcost.errors import SpecError
from archcost.fleet.kept import FleetStore
from archcost.fleet.table import latency_table
from archcost.fleet.tasks import Model
from archcost.report.columns import milliseconds, number, words, yes
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.units import count_text
from archcost.report.values import Json

__all__ = ["MeasuredZoo", "ZooModel", "measured_zoo"]


@dataclass(frozen=True)
class ZooModel:
    """A classifier on a device."""

    name: str
    accuracy: float
    """Top-1 accuracy on ImageNet in per cent, as torchvision publishes it for the default weights."""
    params: int
    macs: int
    ms: float
    """Measured median time of a forward pass."""
    front: bool = False
    """Whether no other model is faster and at least as accurate: it is on the Pareto front."""


_COLUMNS: tuple[Column[ZooModel], ...] = (
    words("name", "Model", "The name in torchvision", keep=100),
    number("accuracy", "Top-1 %", "Accuracy published by torchvision", "{:.2f}".format, keep=90),
    number("params", "Params", "Parameters counted", count_text, dtype="int64", keep=60),
    number(
        "macs", "MACs", "Multiply-accumulates counted, for all images", count_text, dtype="int64", keep=70
    ),
    milliseconds("ms", "Median ms", "Measured median time of a forward pass", keep=95),
    yes("front", "Front", "Whether no other model is faster and at least as accurate", keep=80),
)


@dataclass(frozen=True)
class MeasuredZoo(Result):
    """Classifiers with accuracy, MACs and measured latency. ``print`` it; `archcost.plot.zoo` draws it.

    The JSON, ``archcost.zoo-measured/1``, has ``device``, ``batch``, ``threads``, ``how`` and ``models``.
    """

    device: str
    batch: int
    threads: int
    how: str
    models: tuple[ZooModel, ...]

    @property
    def front(self) -> tuple[ZooModel, ...]:
        """The models on the Pareto front, the fastest first."""
        return tuple(sorted((one for one in self.models if one.front), key=lambda one: one.ms))

    def document(self, asked: Asked) -> Document:
        asked.without_depth("a zoo")
        table = Table("models", _COLUMNS, lambda: ordered(self.models, _COLUMNS, asked, "accuracy"))
        count = (
            f"{len(self.models)} model{'s' * (len(self.models) != 1)}, {len(self.front)} on the Pareto front"
        )
        said = f"batch {self.batch}, {self.threads} thread{'s' * (self.threads != 1)}, {self.how}"
        state: dict[str, Json] = {name: getattr(self, name) for name in ("device", "batch", "threads", "how")}
        return Document(
            schema="archcost.zoo-measured/1",
            headings=[(f"{self.device}, {said}", count)],
            tables=[table],
            shown=[table],
            record=lambda: {
                **state, "models": [{c.name: c.get(one) for c in _COLUMNS} for one in self.models]
            },
        )  # fmt: skip


def measured_zoo(
    pattern: str = "*",
    *,
    store: str | os.PathLike[str] | None = None,
    device: str | None = None,
    batch: int = 1,
    threads: int = 1,
    how: Literal["eager", "program"] = "eager",
) -> MeasuredZoo:
    """The classifiers of torchvision that a fleet measured, by accuracy and latency.

    Args:
        pattern: a pattern of model names, such as ``"resnet*"``.
        store: the file that `archcost.fleet.measure` wrote; by default the user's own store.
        device: its name; where the store has a single one, that.
        batch: number of images.
        threads: threads of PyTorch.
        how: as PyTorch runs it, or as a ``"program"`` of `archcost.accelerate`.

    Raises:
        FleetError: the store has no such device.
        SpecError: no model that matches was measured there.
    """
    table = latency_table(store, device)
    with FleetStore(store) as kept:
        papers = kept.papers()
    found = []
    for task, seconds in table.models.items():
        source, _, name = task.model.partition(":")
        same = task == Model(task.model, batch, threads, how) and source == "torchvision"
        accuracy = _accuracy(name) if same and fnmatch.fnmatch(name, pattern) else None
        if accuracy is not None:
            paper = papers[task.model, batch]
            found.append(ZooModel(name, accuracy, paper["params"], paper["macs"], seconds * 1e3))
    if not found:
        raise SpecError(
            f"zoo: no classifier that matches {pattern!r} was measured on {table.device} with batch "
            f"{batch} and {threads} threads; archcost fleet measure 'torchvision:{pattern}' measures them"
        )
    return MeasuredZoo(table.device, batch, threads, how, _with_front(found))


def _with_front(models: Sequence[ZooModel]) -> tuple[ZooModel, ...]:
    best, found = -1.0, []
    for one in sorted(models, key=lambda one: (one.ms, -one.accuracy)):
        found.append(replace(one, front=one.accuracy > best))
        best = max(best, one.accuracy)
    return tuple(found)


def _accuracy(name: str) -> float | None:
    """Top-1 accuracy of the default weights; None where torchvision publishes none."""
    from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        return None  # of another version of torchvision
    metrics = get_model_weights(name).DEFAULT.meta.get("_metrics", {}).get("ImageNet-1K", {})
    value = metrics.get("acc@1")
    return None if value is None else float(value)
