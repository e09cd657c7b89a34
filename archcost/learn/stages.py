"""The stages of an algorithm: titles, texts and matrices, and the texts of their numbers."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Numbers", "Panel", "Stage", "matrix", "planes", "texts"]

Numbers = NDArray[np.float64] | NDArray[np.complex128]


class Panel(NamedTuple):
    """A matrix of a stage under its name; rows and columns are counted from 0."""

    name: str
    values: Numbers


class Stage(NamedTuple):
    """A stage: what is done, why, and the matrices that come of it."""

    title: str
    text: str
    panels: tuple[Panel, ...]

    @property
    def arrays(self) -> dict[str, Numbers]:
        """The matrices by name."""
        return {panel.name: panel.values for panel in self.panels}


def texts(values: Numbers) -> NDArray[np.str_]:
    """The numbers as texts, whole numbers without a point, others with as few places as are told apart."""
    if np.iscomplexobj(values):
        show = _complex
    else:
        places = 0 if np.allclose(values, np.round(values), atol=1e-9) else 2
        show = partial(_real, places)
    return np.array([[show(value) for value in row] for row in values], dtype=str).reshape(values.shape)


def _real(places: int, value: float) -> str:
    text = f"{value:.{places}f}"
    return text if float(text) else text.lstrip("-")


def _complex(value: complex) -> str:
    real, imaginary = round(value.real, 1) + 0.0, round(value.imag, 1) + 0.0
    return f"{real:g}{imaginary:+g}i" if imaginary else f"{real:g}"


def matrix(name: str, values: Numbers) -> Panel:
    """A matrix under its name, of float64 or complex128."""
    kind = np.complex128 if np.iscomplexobj(values) else np.float64
    return Panel(name, np.asarray(values, dtype=kind))


def planes(name: str, values: Numbers, *axes: str) -> tuple[Panel, ...]:
    """A matrix for each index of the leading axes, which are named where they are longer than 1.

    >>> [panel.name for panel in planes("x", np.zeros((1, 3, 2, 2)), "image", "channel")]
    ['x, channel 0', 'x, channel 1', 'x, channel 2']
    """
    panels = []
    for place in np.ndindex(values.shape[:-2]):
        named = [f"{axis} {at}" for axis, at, n in zip(axes, place, values.shape, strict=False) if n > 1]
        panels.append(matrix(", ".join([name, *named]), values[place]))
    return tuple(panels)
