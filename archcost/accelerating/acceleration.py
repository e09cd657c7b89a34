"""Acceleration: what `accelerate` did to a model, layer by layer, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from archcost.latency.timing.clock import Ratio
from archcost.report.columns import milliseconds, number, words
from archcost.report.document import Asked, Document, Page, Table, ordered
from archcost.report.page.parts import Fact, Measure, Pairs
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import bytes_text, error_text, si_text
from archcost.spec import ConvSpec

__all__ = ["Acceleration", "LayerAcceleration"]


@dataclass(frozen=True)
class LayerAcceleration:
    """One convolution: what was chosen for it, and why."""

    name: str
    type_name: str
    spec: ConvSpec | None
    """With the bias that folding gives it; None where it was not looked at."""
    path: str
    """``native`` where PyTorch's own convolution runs."""
    layout: str
    """Memory layouts of its input and output, as in ``channels_last to NCHW``."""
    takes_over: tuple[str, ...]
    """The batch normalisation and the activation whose work it does."""
    native_ms: float | None
    """PyTorch's own in the faster layout, with the same bias and activation."""
    ms: float | None
    """The chosen path's in its layout."""
    spread_ms: float | None
    """The interquartile range of ``ms``."""
    error: float | None
    """max |y - exact| / max |exact| with its own weights on its own input."""
    reason: str | None
    """Why it stays with PyTorch's own; None where it does not."""
    multiplications: int | None
    workspace_bytes: int | None
    """Prepared weights included; None where it is not known, as for PyTorch's own."""


@dataclass(frozen=True)
class Acceleration(Result):
    """Changes that `archcost.accelerate` made to a model, and its times; in every format of a `Result`."""

    model_name: str
    changed: bool
    reason: str | None
    """Why nothing was changed; None where something was."""
    variant: str
    """Which of the candidates for the whole model was the fastest."""
    layers: tuple[LayerAcceleration, ...]
    ratio: Ratio | None
    """How many times as long the original takes, end to end, interleaved; None where it was not measured."""
    original_ms: float | None
    accelerated_ms: float | None
    samples: int
    dropped: int
    """Samples left out because they were interrupted."""
    error: float | None
    """max |y - exact| / max |exact| over the model's outputs, against ``reference``."""
    original_error: float | None
    """The original model's own."""
    reference: str
    tolerance: float
    device: str
    threads: int
    dtype: str
    batch: int | None
    torch: str
    fold: bool
    keeps_nan: bool
    notes: tuple[str, ...] = ()

    def document(self, asked: Asked) -> Document:
        """The schema of ``archcost.acceleration/1``: the fields by their names, of each layer as well."""
        asked.without_depth("an acceleration")
        rows = ordered(self.layers, _COLUMNS, asked, "native_ms")
        layers = Table("layers", _COLUMNS, lambda: rows, _SHOWN)
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return Document(
            schema="archcost.acceleration/1",
            headings=[(visible(self.model_name), f"{threads}, {self.dtype}, batch {self.batch}")],
            tables=[layers],
            shown=[layers] * bool(self.layers),
            record=lambda: self._record(asked, layers),
            lines=self._summary(),
            notes=lambda grids: [
                ("Device", visible(self.device)),
                *(("Note", visible(note)) for note in self.notes),
            ],
            page=self._page,
        )

    def _page(self) -> Page:
        times = [(one, one.native_ms, one.ms) for one in self.layers if one.native_ms and one.ms]
        found = []
        if self.ratio is not None and self.original_ms is not None and self.accelerated_ms is not None:
            ms = f"{self.original_ms:.3g} ms before, {self.accelerated_ms:.3g} ms now, the whole model"
            found.append(Fact("Measured", f"{self.ratio.median:.2f}x as fast", ms))
        drawn = Pairs(
            title="Which layers became faster?",
            about="Median times alone; the largest change first.",
            sides=("PyTorch's own", "the chosen path"),
            names=[visible(one.name) or "(the model)" for one, _, _ in times],
            remarks=[f"{visible(one.path)}, {visible(one.layout)}" for one, _, _ in times],
            before=[Measure("Time", "ms", [native for _, native, _ in times])],
            after=[Measure("Time", "ms", [ms for _, _, ms in times])],
        )
        return Page(facts=found, pictures=[drawn] * bool(times))

    def _record(self, asked: Asked, layers: Table) -> dict[str, Any]:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["ratio"] = None if self.ratio is None else asdict(self.ratio)
        if asked.columns is None:
            return {**values, "layers": [asdict(layer) for layer in layers.rows()]}
        columns = layers.for_data(asked)
        return {**values, "layers": [{c.name: c.get(layer) for c in columns} for layer in layers.rows()]}

    def _summary(self) -> list[str]:
        lines = [self._verdict()]
        if self.error is not None and self.original_error is not None:
            lines.append(
                f"error {self.error:.1e} against the {self.reference} (before: {self.original_error:.1e}, "
                f"allowed: {self.tolerance:.0e})"
            )
        return lines

    def _verdict(self) -> str:
        if self.ratio is None or self.original_ms is None or self.accelerated_ms is None:
            return f"left as it was: {self.reason}"
        said = (
            f"{self.ratio.median:.2f}x (spread {self.ratio.spread:.2f}, {self.ratio.pairs} pairs, "
            f"{self.dropped} dropped): {self.original_ms:.2f} ms before, {self.accelerated_ms:.2f} ms now"
        )
        return f"{said}; {self.variant}" if self.changed else f"left as it was: {self.reason}"


_COLUMNS = (
    words(
        "name",
        "Layer",
        "As in named_modules()",
        show=lambda name: name or "(the model)",
        in_full=str,
        keep=100,
    ),
    words("type_name", "Type", "Its class"),
    words(
        "convolution",
        "Convolution",
        "Channels, kernel, stride and input; or what the layer is",
        lambda layer: layer.type_name if layer.spec is None else layer.spec.short,
        keep=40,
    ),
    words(
        "spec",
        "Spec",
        "The same in full, with the bias that folding gives it",
        lambda layer: None if layer.spec is None else str(layer.spec),
    ),
    words("path", "Path", "native where PyTorch's own convolution runs", keep=90),
    words(
        "layout",
        "Layout",
        "Memory layouts of its input and output",
        lambda layer: layer.layout or None,
        keep=60,
    ),
    words(
        "takes_over",
        "Takes over",
        "The batch normalisation and the activation whose work it does",
        show=lambda names: ", ".join(names) or "-",
        in_full=", ".join,
        dtype="object",
    ),
    milliseconds("native_ms", "Native ms", "PyTorch's own in the faster layout", keep=80),
    milliseconds("ms", "ms", "The chosen path's in its layout", keep=85),
    milliseconds("spread_ms", "Spread ms", "The interquartile range of ms"),
    number("error", "Error", "max |y - exact| / max |exact|, on its own input", error_text, keep=70),
    words("reason", "Why native", "Why it stays with PyTorch's own", keep=50),
    number("multiplications", "Multiplications", "Of data by weights", si_text, dtype="Int64"),
    number(
        "workspace_bytes",
        "Workspace",
        "Prepared weights included",
        bytes_text,
        unit="bytes",
        dtype="Int64",
    ),
)
_SHOWN = ("name", "convolution", "path", "layout", "native_ms", "ms", "error", "reason")
