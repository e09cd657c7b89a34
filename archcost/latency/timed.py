"""TimedModel: what `archcost.measure` found, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from archcost.errors import SpecError

if TYPE_CHECKING:
    from archcost.latency.convolutions import ConvCall, Task
    from archcost.latency.layers import LayerTime
    from archcost.latency.paths import PathTimes
    from archcost.latency.prediction.predictor import Prediction
    from archcost.latency.prediction.roofline import Roofline
    from archcost.latency.store.measurement import Measurement
    from archcost.latency.timing.parts import InContext

__all__ = ["TimedModel"]


@dataclass(frozen=True)
class TimedModel:
    """Each convolution of a model in context and alone, under the conditions that were asked for."""

    name: str
    type: str
    input: str
    """Shapes and dtypes of the inputs, as in ``1x3x224x224 float32``."""
    batch: int | None
    """The first axis of the first input."""
    calls: tuple[ConvCall, ...]
    convolutions: tuple[PathTimes, ...]
    """Each distinct convolution on its paths."""
    context: InContext | None
    """Every module call of the model in real passes; None where that was not asked for."""
    roofline: Roofline | None
    device: str
    threads: int
    torch: str
    tolerance: float
    cold: bool
    seconds: float
    """Those asked for."""
    took_s: float
    interrupted: bool
    notes: tuple[str, ...] = ()
    predictions: Mapping[Task, Prediction] = field(default_factory=dict)
    """Of the convolutions that time did not reach, where enough others were measured: no measured times."""

    @cached_property
    def layers(self) -> tuple[LayerTime, ...]:
        """One row a convolution call, in the order in which they ran."""
        from archcost.latency.layers import layer_times

        return layer_times(
            self.calls, {one.task: one for one in self.convolutions}, self.context, self.roofline
        )

    def predicted(self, layer: LayerTime) -> Prediction | None:
        """What its path times may be, where there was no time to measure them."""
        from archcost.latency.convolutions import Task

        if layer.spec is None or layer.dtype is None:
            return None
        return self.predictions.get(Task(layer.spec, layer.dtype))

    @property
    def paths(self) -> tuple[Measurement, ...]:
        """Every measurement of every distinct convolution."""
        return tuple(one for times in self.convolutions for one in times.measurements)

    @property
    def end_to_end_ms(self) -> float | None:
        """The model's forward pass, without hooks."""
        return None if self.context is None else self.context.end_to_end.median_s * 1e3

    @property
    def dtype(self) -> str:
        """Of the convolutions."""
        return ", ".join(sorted({call.task.dtype for call in self.calls if call.task is not None})) or "none"

    def __getitem__(self, name: str) -> LayerTime:
        """The row of one module's first convolution."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        from archcost.trace.modules import nearest

        near = nearest(name, (layer.name for layer in self.layers))
        raise SpecError(f"{self.name} has no convolution {name!r}; {near}")

    def __repr__(self) -> str:
        count = f"{len(self.layers)} convolutions, {len(self.paths)} times of paths"
        return f"<Measured {self.name}: {count}; print it for the table>"
