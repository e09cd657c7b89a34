"""Measured: what `archcost.measure` found, and how to look at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from archcost.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd
    from rich.text import Text

    from archcost.latency.convolutions import ConvCall, Task
    from archcost.latency.layers import LayerTime
    from archcost.latency.paths import PathTimes
    from archcost.latency.prediction.predictor import Prediction
    from archcost.latency.prediction.roofline import Roofline
    from archcost.latency.store.measurement import Measurement
    from archcost.latency.timing.parts import InContext
    from archcost.report.frames import Path

__all__ = ["Measured", "MeasuringInterrupted"]

By = Literal["layers", "paths"]


class MeasuringInterrupted(KeyboardInterrupt):
    """Ctrl-C while measuring: ``found`` is what had been measured by then."""

    def __init__(self, found: Measured) -> None:
        super().__init__("measuring was interrupted")
        self.found = found


@dataclass(frozen=True)
class Measured:
    """What `measure` found. ``print`` it, or take it as pandas, markdown, CSV or JSON."""

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

    def __str__(self) -> str:
        from archcost.report.measured import printed

        return printed(self)

    def __rich__(self) -> Text:
        from rich.text import Text

        return Text(self.to_text())

    def _repr_html_(self) -> str:
        return self.to_html()

    def table(self, columns: Iterable[str] | None = None, width: int | None = None) -> None:
        """Print the table: within the width on a terminal, plain and uncut in a pipe."""
        from archcost.report.measured import draw

        draw(self, columns=columns, width=width)

    def to_text(self, columns: Iterable[str] | None = None, width: int | None = None) -> str:
        """The table as plain text, uncut unless ``width`` is given."""
        from archcost.report.measured import text_of

        return text_of(self, columns=columns, width=width)

    def to_pandas(self, by: By = "layers", columns: Iterable[str] | None = None) -> pd.DataFrame:
        """One row a convolution call, or with ``by="paths"`` one for each time of each path."""
        from archcost.report.measured import to_pandas

        return to_pandas(self, by, columns)

    def to_csv(
        self,
        path: Path | None = None,
        by: By = "layers",
        columns: Iterable[str] | None = None,
    ) -> str | None:
        """`to_pandas` as CSV, into a file or returned."""
        from archcost.report.measured import to_csv

        return to_csv(self, path, by, columns)

    def to_markdown(self, by: By = "layers", columns: Iterable[str] | None = None) -> str:
        """A markdown table for people."""
        from archcost.report.measured import to_markdown

        return to_markdown(self, by, columns)

    def to_html(self, columns: Iterable[str] | None = None) -> str:
        """The table as HTML that needs nothing else."""
        from archcost.report.measured import to_html

        return to_html(self, columns)

    def record(self) -> dict[str, Any]:
        """Plain values; the schema is stated in `archcost.report.measured`."""
        from archcost.report.measured import record

        return record(self)

    def to_json(
        self, path: Path | None = None, indent: int | None = 2, columns: Iterable[str] | None = None
    ) -> str | None:
        """`record` as strict JSON, into a file or returned; with ``columns``, only these of the layers."""
        from archcost.report.measured import to_json

        return to_json(self, path, indent, columns)
