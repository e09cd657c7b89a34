"""Columns of common kinds, read from the attribute of their name where nothing else is said."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from archcost.report.document import Column
from archcost.report.units import ms_text

__all__ = ["milliseconds", "number", "words", "yes"]

Get = Callable[[Any], Any]


def words(name: str, header: str, meaning: str, get: Get | None = None, **options: Any) -> Column:
    """Text; what does not apply is ``-``."""
    return _column(name, header, meaning, get, {"show": str, "dtype": "str", **options})


def number(
    name: str, header: str, meaning: str, show: Callable[[Any], str], get: Get | None = None, **options: Any
) -> Column:
    """A number that may not be known; ``-`` then."""
    return _column(name, header, meaning, get, {"show": show, "dtype": "Float64", **options})


def milliseconds(name: str, header: str, meaning: str, get: Get | None = None, **options: Any) -> Column:
    """A time that may not have been measured."""
    return number(name, header, meaning, ms_text, get, **{"unit": "ms", **options})


def yes(name: str, header: str, meaning: str, get: Get | None = None, **options: Any) -> Column:
    """Whether something holds."""
    told: dict[str, Any] = {"show": lambda value: "yes" if value else "-", "dtype": "bool", **options}
    return _column(name, header, meaning, get, told)


def _column(name: str, header: str, meaning: str, get: Get | None, options: dict[str, Any]) -> Column:
    return Column(
        name, header, meaning, get or attrgetter(name), **{"missing": "-", "summed": False, **options}
    )
