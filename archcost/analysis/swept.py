"""SweptModel: the points of a sweep as data, how the costs grow along them, and what overtakes what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

from archcost.analysis.scaling import Growth, Overtaken, Share, growth_of, overtaken

__all__ = ["MEASURES", "SweepPoint", "SweptModel"]

MEASURES = (
    *("macs", "params", "peak_memory_bytes", "kept_for_backward_bytes", "activation_bytes"),
    *("arithmetic_intensity", "latency_ms"),
)
"""The measures of a point whose growth is told."""


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """The costs of a model at an input size, a batch and a dtype; None where it does not run there."""

    input_size: Any
    """The input size, batch included, as `archcost.analyze` takes it."""
    side: float
    """The spatial size: the geometric mean of the spatial axes, or the number of tokens."""
    batch: int
    dtype: str
    """That of the weights and of floating-point inputs."""
    input_text: str = ""
    macs: int | None = None
    params: int | None = None
    param_bytes: int | None = None
    peak_memory_bytes: int | None = None
    kept_for_backward_bytes: int | None = None
    activation_bytes: int | None = None
    arithmetic_intensity: float | None = None
    uncounted: int = 0
    """Operations whose count is unknown: the MACs are then a lower bound."""
    shares: tuple[Share, ...] = ()
    """The MACs by kind of operation and type of module, the largest first."""
    reason: str | None = None
    """Why the model does not run here; None where it does."""
    latency_ms: float | None = None
    """Median time of a forward pass; None where that was not measured."""
    latency_spread_ms: float | None = None
    throughput: float | None = None
    """Inputs a second; None where that was not measured."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweptModel(Sequence[SweepPoint]):
    """The costs of a model at many input sizes, batches and dtypes."""

    name: str
    points: tuple[SweepPoint, ...]
    device: str | None = None
    """The machine on which latency was measured; None where it was not."""
    answers: tuple[str, ...] = ()
    """Sentences on what was asked beside the points, such as the batch that fits into a memory."""
    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, at: int) -> SweepPoint:  # type: ignore[override]
        return self.points[at]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def along_side(self) -> tuple[SweepPoint, ...]:
        """The points that run at the first batch and dtype, by increasing side."""
        first = self.points[0]
        return self._run(lambda one: (one.batch, one.dtype) == (first.batch, first.dtype), "side")

    @property
    def along_batch(self) -> tuple[SweepPoint, ...]:
        """The points that run at the first side that runs and the first dtype, by increasing batch."""
        side = next((one.side for one in self.points if one.reason is None), None)
        return self._run(lambda one: (one.side, one.dtype) == (side, self.points[0].dtype), "batch")

    def _run(self, chosen: Callable[[SweepPoint], bool], by: str) -> tuple[SweepPoint, ...]:
        found = [one for one in self.points if one.reason is None and chosen(one)]
        ordered = sorted(found, key=lambda one: getattr(one, by))
        return tuple(next(same) for _, same in groupby(ordered, key=lambda one: getattr(one, by)))

    @cached_property
    def growth(self) -> tuple[Growth, ...]:
        """How each measure grows with the side, and with the batch."""
        found = []
        for along, points in (("side", self.along_side), ("batch", self.along_batch)):
            at = [float(getattr(one, along)) for one in points]
            for measure in MEASURES:
                values = [getattr(one, measure) for one in points]
                if None not in values and values:
                    found.append(growth_of(measure, along, at, values))
        return tuple(one for one in found if one is not None)

    @property
    def overtaken(self) -> tuple[Overtaken, ...]:
        """The kinds of layers that cost less than others at the small end, and more at the large one."""
        points = [one for one in self.along_side if one.shares]
        if len(points) < 2:
            return ()
        return overtaken([one.side for one in points], [one.shares for one in points])
