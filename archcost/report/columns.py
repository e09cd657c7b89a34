"""Columns of common kinds; each is read from the row's attribute of its name unless ``get`` is given."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from archcost.report.document import Column
from archcost.report.units import ms_text

__all__ = ["milliseconds", "number", "words", "yes"]

Get = Callable[[Any], Any]


def words(name: str, header: str, meaning: str, get: Get | None = None, **options: Any) -> Column:
    """A column of text; None is shown as ``-``."""
    return _column(name, header, meaning, get, {"show": str, "dtype": "str", **options})


def number(
    name: str, header: str, meaning: str, show: Callable[[Any], str], get: Get | None = None, **options: Any
) -> Column:
    """A column of numbers as ``show`` writes them; None is shown as ``-``."""
    return _column(name, header, meaning, get, {"show": show, "dtype": "Float64", **options})


def milliseconds(name: str, header: str, meaning: str, get: Get | None = None, **options: Any) -> Column:
    """A column of times in ms; None, not measured, is shown as ``-``."""
    return number(name, header, meaning, ms_text, get, **{"unit": "ms", **options})


def yes(name: str, header: str, meaning: str, get: Get | None = None, **options: Any) -> Column:
    """A column of booleans, shown as ``yes`` and ``-``."""
    defaults: dict[str, Any] = {"show": lambda value: "yes" if value else "-", "dtype": "bool"}
    return _column(name, header, meaning, get, {**defaults, **options})


def _column(name: str, header: str, meaning: str, get: Get | None, options: dict[str, Any]) -> Column:
    return Column(
        name, header, meaning, get or attrgetter(name), **{"missing": "-", "summed": False, **options}
    )
