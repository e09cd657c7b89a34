"""Rows as pandas, CSV and markdown: the same rows and columns, as numbers or for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from archcost.report.columns import Column, Row, choose
from archcost.report.rows import columns_of, select
from archcost.report.text import csv_cell, markdown_cell, well_formed

if TYPE_CHECKING:
    import pandas as pd

    from archcost.analysis.analysis import Analysis

__all__ = ["frame", "series", "to_csv", "to_markdown", "to_pandas"]

Path = str | PathLike[str]


def to_pandas(
    analysis: Analysis,
    by: str = "modules",
    depth: int | None = None,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
) -> pd.DataFrame:
    """One row a module, layer or operation; every column unless some are named."""
    chosen, rows = _table(analysis, by, depth, sort, columns, top)
    return frame({c.name: series([c.get(row) for row in rows], c.dtype) for c in chosen})


def to_csv(
    analysis: Analysis,
    path: Path | None = None,
    by: str = "modules",
    depth: int | None = None,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
) -> str | None:
    """The same as CSV: into a file, or returned where no path is given."""
    chosen, rows = _table(analysis, by, depth, sort, columns, top)
    cells = [[_csv_value(column, row) for column in chosen] for row in rows]
    return write_text(csv_text([c.name for c in chosen], cells), path)


def to_markdown(
    analysis: Analysis,
    by: str = "modules",
    depth: int | None = None,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
) -> str:
    """A pipe table for people; the model itself, which has the empty name, goes by its own."""
    available, default = columns_of(by)
    rows = select(analysis, by, depth, sort, top)
    chosen = choose(columns, available, default)
    cells = [[_markdown_value(analysis, column, row) for column in chosen] for row in rows]
    right = [c.align_right for c in chosen]
    return markdown_table([c.header for c in chosen], cells, right)


def _table(
    analysis: Analysis,
    by: str,
    depth: int | None,
    sort: str | None,
    columns: Iterable[str] | None,
    top: int | None,
) -> tuple[list[Column], list[Row]]:
    available, _ = columns_of(by)
    chosen = choose(columns, available, [c.name for c in available])
    return chosen, select(analysis, by, depth, sort, top)


def _csv_value(column: Column, row: Row) -> Any:
    value = column.get(row)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return csv_cell((column.in_full or column.show)(value))


def _markdown_value(analysis: Analysis, column: Column, row: Row) -> str:
    if column.name in ("name", "module") and not column.get(row):
        return markdown_cell(f"({analysis.name})")
    return markdown_cell(column.text(row))


def frame(columns: dict[str, pd.Series]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)


def series(values: Sequence[Any], dtype: str) -> pd.Series:
    """A column of that type; of Python objects where the values do not fit it."""
    import pandas as pd

    if dtype == "str" and any(text is not None and well_formed(text) != text for text in values):
        dtype = "object"  # a lone surrogate is no UTF-8, which pandas may store text in
    if dtype in ("int64", "Int64") and any(v is not None and abs(v) >= 2**63 for v in values):
        dtype = "object"
    return pd.Series(list(values), dtype=dtype)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """RFC 4180 with ``\\n``; None is an empty cell."""
    import csv
    import io

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A pipe table of cells that `markdown_cell` has made safe."""
    from tabulate import tabulate

    align = ["right" if r else "left" for r in right]
    titles = [markdown_cell(title) for title in head]
    return tabulate(rows, titles, tablefmt="pipe", colalign=align if rows else None, disable_numparse=True)


def write_text(text: str, path: Path | None) -> str | None:
    """Write the text to a file as UTF-8, or hand it back where there is no path."""
    if path is None:
        return text
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    return None
