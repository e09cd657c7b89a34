"""A Table as the data of the page's table: by column the distinct cells, and the rows that have them."""

from __future__ import annotations

from collections.abc import Sequence

from archcost.report.document import Asked, Column, Listing
from archcost.report.values import Cell, Json

__all__ = ["listing"]


def listing(one: Listing) -> dict[str, Json]:
    """The columns and rows of a table; columns without any known value are left out."""
    table = one.table
    rows = table.rows()
    names = [column.name for column in table.for_people(Asked())] if one.shown is None else one.shown
    shown = list(dict.fromkeys([table.columns[0].name, *names]))
    place = {name: at for at, name in enumerate(shown)}
    columns: list[Json] = []
    for column in sorted(table.columns, key=lambda one: place.get(one.name, len(place))):
        values = [column.get(row) for row in rows]
        if all(value in (None, "", ()) for value in values):
            continue
        columns.append(
            {
                "name": column.name,
                "head": column.header,
                "about": column.meaning,
                "right": column.head.right,
                "shown": column.name in shown,
                **_encoded(column, rows, values),
            }
        )
    title = None if table.title is None else ": ".join(table.title)
    return {"name": table.name, "title": title, "rows": len(rows), "levels": one.levels, "columns": columns}


def _encoded(column: Column, rows: Sequence[object], values: Sequence[Cell]) -> dict[str, Json]:
    """``texts`` and ``values`` of the distinct cells, and ``at``: for each row the index of its own."""
    known: dict[str, int] = {}
    texts: list[str] = []
    numbers: list[Json] = []
    at: list[int] = []
    for row, value in zip(rows, values, strict=True):
        text = ("yes" if value else "-") if column.dtype == "bool" else column.text(row)
        key = f"{text}\0{value!r}" if column.is_number else text
        if key not in known:
            known[key] = len(texts)
            texts.append(text)
            numbers.append(value if isinstance(value, (int, float)) else None)
        at.append(known[key])
    found: dict[str, Json] = {"texts": texts}
    if len(texts) < len(at):
        found["at"] = at
    if column.is_number or column.dtype == "bool":
        found["values"] = numbers
    return found
