"""A Document as data: the rows of a table as pandas or CSV in typed columns, the record as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from os import PathLike
from typing import TYPE_CHECKING, Any

from archcost.report.document import Asked, Document
from archcost.report.text import csv_cell, well_formed
from archcost.report.values import Cell, Json

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Path", "plain", "to_csv", "to_dict", "to_json", "to_pandas", "write_text"]

Path = str | PathLike[str]


def to_pandas(document: Document, asked: Asked) -> pd.DataFrame:
    """The rows of a table as a DataFrame, with every column unless ``asked`` names some."""
    import pandas as pd

    table = document.by(asked.by)
    rows, columns = table.rows(), table.for_data(asked)
    frame: pd.DataFrame = pd.DataFrame(
        {c.name: _series([c.get(row) for row in rows], c.dtype) for c in columns}
    )
    return frame


def _series(values: Sequence[Cell], dtype: str) -> pd.Series:
    """A column of the given dtype; of Python objects where the values do not fit it."""
    import pandas as pd

    if dtype == "str" and any(isinstance(v, str) and well_formed(v) != v for v in values):
        dtype = "object"  # pandas may store text as UTF-8, which cannot hold a lone surrogate
    if dtype in ("int64", "Int64") and any(isinstance(v, (int, float)) and abs(v) >= 2**63 for v in values):
        dtype = "object"
    series: pd.Series = pd.Series(list(values), dtype=dtype)
    return series


def to_csv(document: Document, asked: Asked) -> str:
    """The rows of a table as CSV (RFC 4180, lines end in ``\\n``).

    None is an empty cell; text that a spreadsheet would take for a formula gets a leading ``'``.
    """
    import csv
    import io

    table = document.by(asked.by)
    rows, columns = table.rows(), table.for_data(asked)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        cells = (column.cell(row) for column in columns)
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue()


def to_dict(document: Document) -> dict[str, Any]:
    """The contents of `to_json` as plain Python: schema, versions of archcost and torch, and the record."""
    return plain({"schema": document.schema, **versions(), **document.record()})


def to_json(document: Document, indent: int | None) -> str:
    """The record as strict JSON: ASCII, null for NaN; ends in a newline where it is indented."""
    return json.dumps(to_dict(document), indent=indent, allow_nan=False) + "\n" * (indent is not None)


def _plain(value: Json) -> Json:
    """Values that strict JSON can hold: lists for tuples, None for NaN, lone surrogates escaped."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return plain(value)
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def plain(value: Mapping[str, Json]) -> dict[str, Json]:
    """A record of values that strict JSON can hold."""
    return {well_formed(str(key)): _plain(item) for key, item in value.items()}


def versions() -> dict[str, str]:
    """The versions of archcost and torch that are running."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    try:
        own = version("archcost")
    except PackageNotFoundError:  # a source tree that was never installed
        own = "unknown"
    return {"archcost": own, "torch": str(torch.__version__)}


def write_text(text: str, path: Path | None) -> str | None:
    """Write the text to a file as UTF-8, or return it where ``path`` is None."""
    if path is None:
        return text
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    return None
