"""Acceleration: what `accelerate` did to a model, layer by layer, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from archcost.latency.timing.clock import Ratio
from archcost.spec import ConvSpec

if TYPE_CHECKING:
    import pandas as pd

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
    """Of what it reads and writes, as in ``channels_last to NCHW``."""
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
class Acceleration:
    """What `archcost.accelerate` changed and measured. ``print`` it, or take ``frame()`` or ``record()``."""

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

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "layers"}
        values["ratio"] = None if self.ratio is None else _finite(asdict(self.ratio))
        return {**values, "layers": [_finite(asdict(layer)) for layer in self.layers]}

    def frame(self) -> pd.DataFrame:
        """One row a convolution."""
        import pandas as pd

        names = [one.name for one in fields(LayerAcceleration)]
        return pd.DataFrame(
            [[getattr(layer, name) for name in names] for layer in self.layers], columns=names
        )

    def __str__(self) -> str:
        header = ("Layer", "Convolution", "Path", "Layout", "Native ms", "ms", "Error", "Why native")
        rows = [header, *(_cells(layer) for layer in self.layers)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        lines = [_aligned(row, widths) for row in rows]
        return "\n".join([*self._summary(), "", *lines, *(f"Note: {note}" for note in self.notes)])

    def _summary(self) -> list[str]:
        where = f"{self.threads} thread{'s' * (self.threads != 1)}, {self.dtype}, batch {self.batch}"
        lines = [f"{self.model_name}: {self._verdict()}"]
        if self.error is not None and self.original_error is not None:
            lines.append(
                f"error {self.error:.1e} against the {self.reference} (before: {self.original_error:.1e}, "
                f"allowed: {self.tolerance:.0e})"
            )
        return [*lines, f"{where}; {self.device}"]

    def _verdict(self) -> str:
        if self.ratio is None or self.original_ms is None or self.accelerated_ms is None:
            return f"left as it was: {self.reason}"
        said = (
            f"{self.ratio.median:.2f}x (spread {self.ratio.spread:.2f}, {self.ratio.pairs} pairs, "
            f"{self.dropped} dropped): {self.original_ms:.2f} ms before, {self.accelerated_ms:.2f} ms now"
        )
        return f"{said}; {self.variant}" if self.changed else f"left as it was: {self.reason}"


def _cells(layer: LayerAcceleration) -> tuple[str, ...]:
    return (
        layer.name or "(model)",
        layer.type_name if layer.spec is None else _spec_text(layer.spec),
        layer.path,
        layer.layout,
        "" if layer.native_ms is None else f"{layer.native_ms:.3f}",
        "" if layer.ms is None else f"{layer.ms:.3f}",
        "" if layer.error is None else f"{layer.error:.0e}",
        layer.reason or "",
    )


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    cells = (
        cell.rjust(width) if 4 <= column <= 6 else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def _spec_text(spec: ConvSpec) -> str:
    """As in ``64->128 3x3 /2 @56x56``."""

    def by(values: Any) -> str:
        return "x".join(map(str, values))

    said = f"{spec.in_channels}->{spec.out_channels} {by(spec.kernel_size)}"
    steps: Any = spec.stride
    said += f" /{max(steps)}" * (max(steps) > 1) + f" groups {spec.groups}" * (spec.groups > 1)
    return f"{said} @{by(spec.input_size)}"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no word for what is not a number."""
    return {
        key: None if isinstance(value, float) and value != value else value for key, value in values.items()
    }
