"""TimedModel: the measurements of `archcost.measure`, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from archcost.errors import SpecError

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis
    from archcost.latency.convolutions import ConvCall, ConvTask
    from archcost.latency.layers import LayerTime
    from archcost.latency.paths import PathTimes
    from archcost.latency.prediction.predictor import Prediction
    from archcost.latency.prediction.roofline import Roofline
    from archcost.latency.requests import Requests
    from archcost.latency.store.measurement import Measurement
    from archcost.latency.timing.parts import InContext

__all__ = ["TimedModel"]


@dataclass(frozen=True)
class TimedModel:
    """The times of a model's convolutions, in context and alone, with the conditions of the measurement."""

    name: str
    """The SPEC, or the class of the model."""
    type: str
    """The class of the model."""
    input: str
    """Shapes and dtypes of the inputs, as in ``1x3x224x224 float32``."""
    batch: int | None
    """The first axis of the first input."""
    calls: tuple[ConvCall, ...]
    """Every convolution call, in the order in which they ran."""
    convolutions: tuple[PathTimes, ...]
    """Each distinct convolution, timed on its paths."""
    context: InContext | None
    """Every module call of the model in real passes; None where that was not asked for."""
    roofline: Roofline | None
    """Peak and bandwidth of this machine; None where there was no time to measure them."""
    device: str
    """Machine and software."""
    threads: int
    """Threads of PyTorch."""
    torch: str
    """The version of PyTorch."""
    tolerance: float
    """The largest error of a path that was allowed."""
    cold: bool
    """Whether inputs came from beyond the caches."""
    seconds: float
    """The seconds asked for."""
    took_s: float
    """The seconds used."""
    interrupted: bool
    """Whether Ctrl-C ended the measurement early."""
    notes: tuple[str, ...] = ()
    predictions: Mapping[ConvTask, Prediction] = field(default_factory=dict)
    """Predicted times of the convolutions that were not reached, where enough others were measured."""
    requests: Requests | None = None
    """Whole passes by the wall clock, none left out, for the tail; None where there was no time for them."""
    analysis: Analysis | None = field(default=None, repr=False, compare=False)
    """The costs of the same forward pass, beside which its times are shown."""

    @cached_property
    def layers(self) -> tuple[LayerTime, ...]:
        """A row for each convolution call, in the order in which they ran."""
        from archcost.latency.layers import layer_times

        return layer_times(
            self.calls, {one.task: one for one in self.convolutions}, self.context, self.roofline
        )

    def predicted(self, layer: LayerTime) -> Prediction | None:
        """The predicted time of a layer whose paths were not measured; None where there is none."""
        from archcost.latency.convolutions import ConvTask

        if layer.spec is None or layer.dtype is None:
            return None
        return self.predictions.get(ConvTask(layer.spec, layer.dtype))

    @property
    def paths(self) -> tuple[Measurement, ...]:
        """Every measurement of every distinct convolution."""
        return tuple(one for times in self.convolutions for one in times.measurements)

    @property
    def end_to_end_ms(self) -> float | None:
        """Median time of the model's forward pass, without hooks; None where that was not measured."""
        return None if self.context is None else self.context.end_to_end.median_s * 1e3

    @property
    def dtype(self) -> str:
        """The dtypes of the convolutions, or ``none``."""
        return ", ".join(sorted({call.task.dtype for call in self.calls if call.task is not None})) or "none"

    def __getitem__(self, name: str) -> LayerTime:
        """The row of a module's first convolution call.

        Raises:
            SpecError: no convolution has that name.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        from archcost.trace.modules import nearest

        near = nearest(name, (layer.name for layer in self.layers))
        raise SpecError(f"{self.name} has no convolution {name!r}; {near}")

    def __repr__(self) -> str:
        count = f"{len(self.layers)} convolutions, {len(self.paths)} times of paths"
        return f"<Measured {self.name}: {count}; print it for the table>"
