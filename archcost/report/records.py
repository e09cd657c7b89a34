"""An Analysis as JSON, and as one flat dict of numbers for experiment trackers.

The schema of ``archcost.analysis/1``; a later version may add keys, a changed meaning gets a new number:

- ``schema``, ``archcost``, ``torch``: strings; the two versions are those that made the file.
- ``model``: its name, ``type``: its class, ``device``: where the pass ran (``meta``: nothing computed).
- ``input``: the inputs for people; ``inputs``: a list of ``{"shape": [...], "dtype": "float32"}``.
- ``notes``: a list of strings: what was assumed.
- ``uncounted``: a list of ``{"op", "module", "times", "reason", "macs_unknown"}``.
- ``total``: the columns of a module for the whole model, and ``depth``, ``nonlinearities``,
  ``inputs_bytes``.
- ``modules``: a list, parents before children; each has every column of `MODULE_COLUMNS` by its name, or
  those asked for. Only those down to a depth, or the first of a list of layers, where that was asked.
  ``output_shape`` is a shape, a list of shapes where there are several outputs, or null.
- ``receptive_field``: ``network`` (at the last feature map) and ``output``, each null or a record of
  ``layer``, ``size``, ``stride``, ``padding``, ``sizes`` (by phase), ``position``, ``window``,
  ``unclipped``, ``because``, ``input`` (which of them, from 0) and ``local`` (the same without global
  operations, or null where there are none); ``findings``, a list of
  ``{"kind", "module", "text"}``; null where it was lost.
- ``operations``: only where asked for: a list, each with every column of `OPERATION_COLUMNS`; columns and
  order that are asked for are then theirs.

Shapes and other tuples are lists. An unknown is null. Names are as in ``named_modules()``, with lone
surrogates written out, which JSON cannot hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from archcost.report.columns import MODULE_COLUMNS, Column, Row, choose
from archcost.report.frames import Path, write_text
from archcost.report.rows import Ledger, at_least, columns_of, select
from archcost.report.text import visible, well_formed

if TYPE_CHECKING:
    from archcost.analysis.analysis import Analysis
    from archcost.fields.field import ReceptiveField

__all__ = ["SCHEMA", "dump", "field_record", "flat", "head", "to_dict", "to_json", "total_of", "versions"]

SCHEMA = "archcost.analysis/1"
_TOTAL_ONLY = ("depth", "nonlinearities", "inputs_bytes")


def to_json(
    analysis: Analysis,
    path: Path | None = None,
    indent: int | None = 2,
    operations: bool = False,
    **options: Any,
) -> str | None:
    """Strict JSON: into a file, or returned where no path is given."""
    return write_text(dump(to_dict(analysis, operations, **options), indent), path)


def to_dict(
    analysis: Analysis,
    operations: bool = False,
    *,
    depth: int | None = None,
    sort: str | None = None,
    columns: Iterable[str] | None = None,
    top: int | None = None,
) -> dict[str, Any]:
    """What `to_json` writes, as plain Python."""
    asked = _columns("operations" if operations else "modules", columns)
    by = "layers" if (sort, top) != (None, None) else "modules"
    rows = select(analysis, depth=depth) if operations else select(analysis, by, depth, sort, top)
    whole: dict[str, Any] = {"schema": SCHEMA, **versions(), **head(analysis)}
    whole["total"] = total_of(analysis)
    whole["modules"] = _records(MODULE_COLUMNS if operations else asked, rows)
    whole["receptive_field"] = _fields(analysis)
    if operations:
        whole["operations"] = _records(asked, select(analysis, "operations", depth, sort, top))
    return whole


def _columns(by: str, names: Iterable[str] | None) -> Sequence[Column]:
    known, _ = columns_of(by)
    return choose(names, known, [column.name for column in known])


def _fields(analysis: Analysis) -> dict[str, Any] | None:
    fields = analysis.fields_or_none
    if fields is None:
        return None
    return {
        "network": None if fields.network is None else field_record(fields.network),
        "output": None if fields.output is None else field_record(fields.output),
        "findings": [{"kind": f.kind, "module": f.module, "text": f.text} for f in fields.findings],
    }


_OF_A_FIELD = ("layer", "size", "stride", "padding", "sizes", "position", "window", "unclipped", "because")


def field_record(field: ReceptiveField) -> dict[str, Any]:
    """A receptive field as plain Python."""
    record = {name: getattr(field, name) for name in _OF_A_FIELD}
    record["input"] = field.input_index
    return {**record, "local": field_record(field.local) if field.is_global else None}


def dump(value: Any, indent: int | None) -> str:
    """ASCII, so that a file holds no control character; no NaN; a newline at the end of what is indented."""
    return json.dumps(_strict(value), indent=indent, allow_nan=False) + ("\n" if indent is not None else "")


def _strict(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(str(key)): _strict(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_strict(item) for item in value]
    return value


def _records(columns: Sequence[Column], rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{column.name: column.get(row) for column in columns} for row in rows]


def versions() -> dict[str, str]:
    """Which archcost and which torch made this."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    try:
        own = version("archcost")
    except PackageNotFoundError:  # used from a source tree that was never installed
        own = "unknown"
    return {"archcost": own, "torch": str(torch.__version__)}


def head(analysis: Analysis) -> dict[str, Any]:
    """Everything about an Analysis but its numbers."""
    from archcost.trace.graph import refs

    return {
        "model": analysis.name,
        "type": analysis.total.type_name,
        "input": analysis.input_text,
        "inputs": [
            {"shape": ref.shape, "dtype": str(ref.dtype).removeprefix("torch.")}
            for ref in refs(analysis.trace.inputs)
        ],
        "device": analysis.trace.device,
        "notes": analysis.notes,
        "uncounted": [
            {
                "op": item.op,
                "module": item.module,
                "times": item.times,
                "reason": item.reason,
                "macs_unknown": item.macs_unknown,
            }
            for item in analysis.uncounted
        ],
    }


def total_of(analysis: Analysis) -> dict[str, Any]:
    """The totals: a module's columns, and those that only the whole model has."""
    row = Ledger(analysis).row(analysis.total)
    extra = {name: getattr(analysis.total, name) for name in _TOTAL_ONLY}
    return {**_records(MODULE_COLUMNS, [row])[0], **extra}


def flat(analysis: Analysis, depth: int = 0, prefix: str = "") -> dict[str, int | float]:
    """``{"params": ..., "macs": ...}``, and ``"layer1/macs"`` for modules down to ``depth``.

    What is not known is left out, and so is a sum of which nothing is known: a tracker would draw a 0.
    """
    at_least("depth", depth, 0)
    if prefix and prefix[-1].isalnum():
        prefix += "/"
    numbers = [c for c in MODULE_COLUMNS if c.is_number and c.name != "level"]
    ledger = Ledger(analysis)
    found: dict[str, Any] = {}
    for cost in analysis.modules:
        if cost.level <= depth:
            row = ledger.row(cost)
            above = f"{prefix}{visible(cost.name)}/" if cost.name else prefix
            values = {column.name: column.get(row) for column in numbers}
            if cost.uncounted:
                values = {k: v for k, v in values.items() if v or k not in ("macs", "flops", "other_ops")}
            found.update({above + name: value for name, value in values.items()})
            if not cost.name:
                found.update({prefix + name: getattr(analysis.total, name) for name in _TOTAL_ONLY})
    return {key: value for key, value in found.items() if value is not None}
