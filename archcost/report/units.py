"""Numbers for people: thousands separators, SI prefixes, decimal bytes (1 MB is 10^6 bytes)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeAlias

__all__ = [
    "all_shapes_text",
    "axes_text",
    "bytes_text",
    "count_text",
    "error_text",
    "ms_text",
    "number_text",
    "percent_text",
    "ratio_text",
    "shape_text",
    "si_text",
]

Shape: TypeAlias = "Sequence[int | Shape]"
"""The sizes of a tensor; or a shape for each of several tensors."""

_PREFIXES = "kMGTPE"


def count_text(value: int) -> str:
    """A whole number with every digit: ``25,557,032``."""
    return f"{value:,}"


def si_text(value: int | float, unit: str = "") -> str:
    """A number with three digits and an SI prefix: ``4.09 G``."""
    if abs(value) < 1000:
        return f"{value:,.4g} {unit}".rstrip()
    power = 1
    while power < len(_PREFIXES) and abs(value) / 1000**power >= 999.5:
        power += 1
    scaled = value / 1000**power
    decimals = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:,.{decimals}f} {_PREFIXES[power - 1]}{unit}"


def bytes_text(value: int) -> str:
    """Bytes with a decimal prefix: ``10.4 MB``."""
    return si_text(value, "B") if value else "0"


def percent_text(value: float) -> str:
    """Percent with one decimal; a share that is small but not 0 is ``<0.1``."""
    return "0" if value == 0 else "<0.1" if 0 < value < 0.05 else f"{value:.1f}"


def number_text(value: float) -> str:
    """A number with about three digits: ``38.2``."""
    return f"{value:,.0f}" if abs(value) >= 99.5 else f"{value:.3g}"


def ms_text(value: float) -> str:
    """Milliseconds with three decimals: ``0.050``."""
    return f"{value:.3f}"


def error_text(value: float) -> str:
    """A relative error as a digit and a power of ten: ``2e-05``."""
    return f"{value:.0e}" if value else "0"


def ratio_text(value: float) -> str:
    """A ratio of new to old: ``0.52x``; unchanged is ``1x``."""
    if value == 1:
        return "1x"
    # A change too small for two decimals must not look like none.
    text = f"{value:,.2f}" if 0.01 <= value < 0.995 or 1.005 <= value < 100 else f"{value:,.4g}"
    return f"{text}x"


def shape_text(shape: Shape, most: int | None = 3) -> str:
    """A shape, ``1x3x224x224``; several as ``7x2x5, 2 of 1x2x5``, beyond ``most`` the number of others."""
    several = [each for each in shape if isinstance(each, tuple)]
    if not several:
        return "x".join(map(str, shape)) or "scalar"
    alike = [(shape_text(each), len(list(same))) for each, same in groupby(several)]
    texts = [f"{number} of {text}" if number > 1 else text for text, number in alike[:most]]
    more = sum(number for _, number in alike[len(texts) :])
    return ", ".join(texts) + (f" and {more} more" if more else "")


def all_shapes_text(shape: Shape) -> str:
    """`shape_text` with all shapes."""
    return shape_text(shape, None)


def axes_text(values: Iterable[float]) -> str:
    """A number for each axis: ``427`` where all are the same, else ``16x112x112``."""
    texts = [f"{value:g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts) or "-"
