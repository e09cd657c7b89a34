"""Types of plain values: of a table's cells, and of JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["Cell", "Json"]

Cell: TypeAlias = "str | int | float | Sequence[Cell] | None"
"""The value of a row under a column; None where it is not known or does not apply."""

Json: TypeAlias = "str | int | float | Sequence[Json] | Mapping[str, Json] | None"
"""A value for strict JSON, before tuples become lists."""
