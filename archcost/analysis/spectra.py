"""`spectrum`, which shows the kernels of a model as filters: which frequencies they pass, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from archcost.analysis.analysis import Analysis
from archcost.analysis.filters import LayerSpectrum, layer_spectra, layer_spectrum, shares_along
from archcost.errors import InputError, ModelError, SpecError
from archcost.report.columns import Numbers, number, words
from archcost.report.document import Asked, Column, Document, Page, Table, ordered
from archcost.report.result import Result
from archcost.report.text import near, visible
from archcost.report.units import count_text, percent_text, shape_text

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor, nn

    from archcost.report.document import Note
    from archcost.report.grid import Grid

__all__ = ["Spectrum", "spectrum"]

_RANDOM = "the weights are random, whose bands are equal on average; give a trained model, or weights"


def _percent(value: float) -> str:
    return f"{percent_text(100 * value)} %"


_SHARE: Numbers = {"dtype": "float64", "keep": 8}
_KERNELS: Numbers = {"dtype": "int64", "keep": 4}
_COLUMNS: tuple[Column[LayerSpectrum], ...] = (
    words("name", "Layer", "The layer's name", lambda row: visible(row.name) or "(kernel)"),
    words(
        "kernel_size", "Kernel", "Taps along each axis", show=shape_text, dtype="object", reads_as_number=True
    ),
    number(
        "kernels", "Kernels", "Number of kernels, of an input and an output channel", count_text, **_KERNELS
    ),
    number("low", "Low", "Share of energy in the lowest third of frequencies", _percent, **_SHARE),
    number("middle", "Middle", "Share of energy in the middle third", _percent, **_SHARE),
    number("high", "High", "Share of energy in the highest third", _percent, **_SHARE),
    number(
        "half",
        "Half map",
        "Share below 1/4 cycle a pixel: a map of half the size holds it",
        _percent,
        **_SHARE,
    ),
    number(
        "low_kernels", "Mostly low", "Kernels with over half of it in the low band", count_text, **_KERNELS
    ),
    number(
        "high_kernels", "Mostly high", "Kernels with over half of it in the high band", count_text, **_KERNELS
    ),
)


@dataclass(frozen=True)
class Spectrum(Result, Sequence[LayerSpectrum]):
    """The kernels of a model as filters, a `LayerSpectrum` for each layer with kernels of several taps.

    ``print`` it for the table, draw it by `archcost.plot.spectrum`.
    """

    name: str
    rows: tuple[LayerSpectrum, ...]
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int | str) -> LayerSpectrum: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[LayerSpectrum, ...]: ...

    def __getitem__(self, index: int | str | slice) -> LayerSpectrum | tuple[LayerSpectrum, ...]:
        if not isinstance(index, str):
            return self.rows[index]
        for row in self.rows:
            if row.name == index:
                return row
        raise SpecError(f"{self.name}: no layer {index!r}{near(index, (row.name for row in self.rows))}")

    def __len__(self) -> int:
        return len(self.rows)

    def document(self, asked: Asked) -> Document:
        """The contents to show; the JSON has a list ``layers`` with every column by its name."""
        asked.without_depth("a spectrum")
        table = Table("layers", _COLUMNS, lambda: ordered(self.rows, _COLUMNS, asked, "low"))
        kernels = sum(row.kernels for row in self.rows)
        said = f"{len(self.rows)} layer{'s' * (len(self.rows) != 1)}, "
        said += f"{count_text(kernels)} kernel{'s' * (kernels != 1)}"
        return Document(
            schema="archcost.spectrum/1",
            headings=[(visible(self.name), said)],
            lines=["Share of the kernels' energy by frequency; a single tap has a third in each band"],
            tables=[table],
            shown=[table],
            record=lambda: {
                "name": self.name,
                "layers": [{column.name: column.get(row) for column in _COLUMNS} for row in self.rows],
                "notes": self.notes,
            },
            notes=self._notes,
            page=lambda: Page(pictures=[shares_along(self.rows)]),
        )

    def _notes(self, grids: Sequence[Grid]) -> list[Note]:
        return [("Note", text) for text in self.notes]


def spectrum(
    layer_or_model: nn.Module | str | Analysis | Tensor | ArrayLike, *, weights: str | None = None
) -> Spectrum:
    """Show kernels as filters: the share of their energy in low, middle and high frequencies, by layer.

    A kernel is the filter from one channel to one other; its response W(f) is its Fourier transform. The
    bands are three equal parts of all frequencies by their distance from 0, so that a kernel of one tap has a
    third in each; a blur is low, an edge detector middle or high. Layers of a single tap are left out. What a
    layer passes depends on its input too: photographs have most of their energy in low frequencies.

    Args:
        layer_or_model: a convolution, a model, a SPEC, an Analysis whose model exists, or the kernels
            themselves: (taps,), (rows, columns), (channels, rows, columns) or (filters, channels, *taps) of
            up to three axes.
        weights: with a SPEC, the file of a state dict.

    Returns:
        A row for each layer; ``print`` it for the table.

    Raises:
        InputError: kernels of other shapes, or not finite.
        ModelError: no convolution with more than one tap, weights on `meta`, or the model is gone.
        SpecError: the SPEC names nothing that can be loaded.

    >>> blur = archcost.spectrum([[1, 1, 1], [1, 1, 1], [1, 1, 1]])[0]
    >>> round(blur.low, 2), round(blur.high, 2)
    (0.88, 0.07)
    """
    from torch import nn

    if isinstance(layer_or_model, (nn.Module, str, Analysis)):
        return _of_model(layer_or_model, weights)
    if weights is not None:
        raise InputError("spectrum: weights goes with a SPEC")
    kernels = np.asarray(getattr(layer_or_model, "detach", lambda: layer_or_model)(), dtype=np.float64)
    leading = {1: 0, 2: 0, 3: 1, 4: 2, 5: 2}.get(kernels.ndim)
    if leading is None or not kernels.size or not np.isfinite(kernels).all():
        raise InputError(
            f"spectrum: kernels of shape {kernels.shape}; give finite numbers of (taps,), (rows, "
            f"columns), (channels, rows, columns) or (filters, channels, *taps)"
        )
    return Spectrum("kernels", (layer_spectrum("", kernels.reshape(-1, *kernels.shape[leading:])),))


def _of_model(given: nn.Module | str | Analysis, weights: str | None) -> Spectrum:
    if weights is not None and not isinstance(given, str):
        raise InputError("spectrum: weights goes with a SPEC; load the state dict into the module yourself")
    notes: tuple[str, ...] = ()
    if isinstance(given, str):
        from archcost.models.specs import load

        model, name = load(given, weights=weights).model, given
        notes = (_RANDOM,) * (weights is None and given.startswith(("torchvision:", "timm:")))
    elif isinstance(given, Analysis):
        model, name = given.model, given.name
        notes = (_RANDOM,) * given.random_weights
    else:
        model, name = given, type(given).__name__
    rows = layer_spectra(model)
    if not rows:
        raise ModelError(f"{name}: no convolution has a kernel of more than one tap")
    return Spectrum(name, rows, notes)
