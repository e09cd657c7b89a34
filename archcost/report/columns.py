"""Columns of common kinds; each is read from the row's attribute of its name unless ``get`` is given."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, TypedDict

from archcost.report.document import Column, Get, Show
from archcost.report.units import ms_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from archcost.report.document import RowT

__all__ = ["Look", "Numbers", "milliseconds", "number", "words", "yes"]


class Numbers(TypedDict, total=False):
    """The attributes of a `Column` that say how it is seen, without ``show``."""

    unit: str
    in_full: Show | None
    dtype: str
    missing: str
    keep: float
    group: str
    reads_as_number: bool
    summed: bool
    additive: bool


class Look(Numbers, total=False):
    """The attributes of a `Column` that say how it is seen."""

    show: Show


def words(
    name: str, header: str, meaning: str, get: Get[RowT] | None = None, **look: Unpack[Look]
) -> Column[RowT]:
    """A column of text; None is shown as ``-``."""
    return _column(name, header, meaning, get, {"show": str, "dtype": "str", **look})


def number(
    name: str, header: str, meaning: str, show: Show, get: Get[RowT] | None = None, **look: Unpack[Numbers]
) -> Column[RowT]:
    """A column of numbers as ``show`` writes them; None is shown as ``-``."""
    return _column(name, header, meaning, get, {"show": show, "dtype": "Float64", **look})


def milliseconds(
    name: str, header: str, meaning: str, get: Get[RowT] | None = None, **look: Unpack[Numbers]
) -> Column[RowT]:
    """A column of times in ms; None, not measured, is shown as ``-``."""
    return _column(name, header, meaning, get, {"show": ms_text, "dtype": "Float64", "unit": "ms", **look})


def yes(
    name: str, header: str, meaning: str, get: Get[RowT] | None = None, **look: Unpack[Numbers]
) -> Column[RowT]:
    """A column of booleans, shown as ``yes`` and ``-``."""
    return _column(name, header, meaning, get, {"show": _yes_or_dash, "dtype": "bool", **look})


def _yes_or_dash(value: bool) -> str:
    return "yes" if value else "-"


def _column(name: str, header: str, meaning: str, get: Get[RowT] | None, look: Look) -> Column[RowT]:
    whole: Look = {"missing": "-", "summed": False, **look}
    return Column(name, header, meaning, get or attrgetter(name), **whole)
