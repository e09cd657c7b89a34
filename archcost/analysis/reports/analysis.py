"""The Document of an Analysis: tables, notes, record; and a flat dict for experiment trackers.

The schema of ``archcost.analysis/1``; a later version may add keys, a changed meaning gets a new number:

- ``schema``, ``archcost``, ``torch``: the schema, and the versions that made the file, as strings.
- ``model``: the name of the model, ``type``: its class, ``device``: the device of the forward pass (``meta``:
  nothing computed).
- ``input``: the inputs as text; ``inputs``: a list of ``{"shape": [...], "dtype": "float32"}``.
- ``notes``: a list of strings with the assumptions.
- ``uncounted``: a list of ``{"op", "module", "times", "reason", "macs_unknown"}``.
- ``total``: the columns of a module for the whole model, and ``depth``, ``nonlinearities``,
  ``inputs_bytes``.
- ``modules``: a list, parents before children; each has the columns of `MODULE_COLUMNS` by their names, or
  those asked for. With ``depth``, ``sort`` or ``top`` only the modules or layers asked for.
  ``output_shape`` is a shape, a list of shapes where there are several outputs, or null.
- ``receptive_field``: ``network`` (at the last feature map) and ``output``, each null or a record of
  ``layer``, ``size``, ``stride``, ``padding``, ``sizes`` (by phase), ``position``, ``window``,
  ``unclipped``, ``because``, ``input`` (its index, from 0) and ``local`` (the same record without global
  operations, or null where there are none); ``findings``, a list of ``{"kind", "module", "text"}``. Null
  where receptive fields could not be computed.
- ``failed``: null; where the forward pass raised ``{"module", "operation", "inputs", "message"}``, and the
  costs are those up to there.
- ``operations``: only with ``by="operations"``: a list, each with the columns of `OPERATION_COLUMNS` by their
  names; ``columns``, ``sort`` and ``top`` then apply to it.

Shapes and other tuples are lists. An unknown is null. Names are those of ``named_modules()``, with lone
surrogates escaped, which JSON cannot hold.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial

from archcost.analysis.reports.columns import (
    COSTLIEST_COLUMNS,
    DEFAULT_MODULE_COLUMNS,
    MODULE_COLUMNS,
    Row,
    cells,
)
from archcost.analysis.reports.notes import findings, footnotes, heading, summary, totals, units
from archcost.analysis.reports.operation_columns import DEFAULT_OPERATION_COLUMNS, OPERATION_COLUMNS
from archcost.analysis.reports.partial import failure_of, failure_record, steps_of
from archcost.analysis.reports.pictures import page_of
from archcost.analysis.reports.rows import KINDS, Ledger, rows_of
from archcost.analysis.reports.tree import tree
from archcost.analysis.traced import TracedModel
from archcost.cost.costs import Total
from archcost.report.document import (
    TREE_DEPTH,
    Asked,
    Column,
    Document,
    Listing,
    Note,
    Table,
    at_least,
    ordered,
)
from archcost.report.grid import Entry, Grid, Piece
from archcost.report.text import visible
from archcost.report.values import Json
from archcost.trace.graph import refs

__all__ = ["document_of", "flat", "head", "listings", "total_of"]

# The rows of the first screen, and the costs in which layers of one row are equal.
_COSTLIEST = 10
_ALIKE = ("type_name", "output_shape", "params", "macs", "other_ops", "activation_bytes")
_TOTAL_ONLY = ("depth", "nonlinearities", "inputs_bytes")


def document_of(analysis: TracedModel, asked: Asked) -> Document:
    """The Document of an Analysis: the costliest layers for people, with the tree of modules in the details;
    modules, layers and operations as data."""
    tables = {name: _table(analysis, name, asked) for name in KINDS}
    by = "layers" if asked.is_flat and asked.by is None else "modules"
    document = Document(
        schema="archcost.analysis/1",
        headings=[heading(analysis)],
        tables=[tables[by], *(table for name, table in tables.items() if name != by)],
        shown=[tables["modules"]],
        record=partial(_record, analysis, asked, tables),
        notes=partial(_notes, analysis),
        page=lambda: page_of(analysis, listings(analysis)),
    )
    if analysis.trace.failed is not None and not asked.is_flat and asked.by is None:
        return replace(
            document, lines=[failure_of(analysis)], shown=[steps_of(analysis)], notes=lambda grids: ()
        )
    if asked.full or asked.is_flat or asked.depth != "auto" or asked.by is not None:
        return document
    # A narrow terminal shows the share rather than what costs little, and outputs where there are several.
    several = any(isinstance(size, tuple) for size in analysis.total.output_shape or ())
    keep = {"macs_share_percent": 89, "output_shape": 86 if several else 60}
    costliest = replace(
        tables["modules"],
        name="costliest",
        columns=[replace(c, keep=keep.get(c.name, c.keep)) for c in MODULE_COLUMNS],
        shown=COSTLIEST_COLUMNS,
        label="Costliest layers",
        lines=partial(_costliest, Ledger(analysis)),
    )
    return replace(
        document,
        lines=[totals(analysis)],
        shown=[costliest],
        notes=partial(findings, analysis),
        details=[tables["modules"]],
        footnotes=document.notes,
        folded="Every module, and the footnotes",
        more="archcost analyze -v, or full=True, shows every module and the footnotes",
    )


def listings(analysis: TracedModel) -> list[Listing]:
    """The tables of a page: the tree of modules, with the line of source of each, and the operations."""
    asked = Asked(depth=None)
    levels = [cost.level for cost in analysis.modules]
    shown = (*DEFAULT_MODULE_COLUMNS, "kernel", "built_at")
    return [
        Listing(_table(analysis, "modules", asked), shown, levels),
        Listing(_table(analysis, "operations", asked)),
    ]


def _table(analysis: TracedModel, name: str, asked: Asked) -> Table[Row]:
    operations = name == "operations"
    return Table(
        name,
        columns=OPERATION_COLUMNS if operations else MODULE_COLUMNS,
        rows=partial(rows_of, analysis, name, asked),
        shown=DEFAULT_OPERATION_COLUMNS if operations else DEFAULT_MODULE_COLUMNS,
        label="Layer" if asked.is_flat and not operations else None,
        lines=None if operations else partial(_lines, analysis, asked),
    )


def _lines(analysis: TracedModel, asked: Asked, columns: Sequence[Column[Row]]) -> list[Entry]:
    ledger = Ledger(analysis)
    if asked.is_flat:
        entries = _flat(ledger, asked, columns)
    else:
        entries = [
            Entry(
                ((line.guides, "guide"), (line.label, ""), (line.remark, "dim")),
                cells(line.row, columns),
                remark=line.extra,
                indent=len(line.guides) // 3,
            )
            for line in tree(ledger, asked.depth_for(TREE_DEPTH), columns)
        ]
    return [*entries, _total(ledger, columns)]


def _flat(ledger: Ledger, asked: Asked, columns: Sequence[Column[Row]]) -> list[Entry]:
    """Layers by their full names; those beyond ``top`` are summed in a single row, so that all adds up."""
    total = ledger.analysis.total
    rows = ordered(ledger.frontier(asked.depth_for(None)), MODULE_COLUMNS, asked, "macs", cut=False)
    entries = []
    for row in rows[: asked.top]:
        name, remark = _layer(row, total)
        entries.append(Entry(((name, ""), (remark, "dim")), cells(row, columns)))
    return [*entries, *_others(ledger, rows[len(entries) :], columns)]


def _costliest(ledger: Ledger, columns: Sequence[Column[Row]]) -> list[Entry]:
    """The layers that cost most in a pass, those alike in a single row, which has their sum."""
    total, kernels = ledger.analysis.total, ledger.analysis.kernels
    measure = "macs" if total.macs else "other_ops"
    alike: dict[Hashable, list[Row]] = {}
    for row in ledger.frontier(None):
        key = (row.kind, kernels.get(row.module.name), *(getattr(row.cost, name) for name in _ALIKE))
        alike.setdefault(key, []).append(row)
    sums = [(rows, ledger.sum(rows, alike=True) if rows[1:] else rows[0]) for rows in alike.values()]
    sums.sort(key=lambda pair: -getattr(pair[1].cost, measure))
    most = [pair for pair in sums if getattr(pair[1].cost, measure)][:_COSTLIEST]
    entries = []
    for rows, row in most:
        label, remark = _layer(rows[0], total)
        times = f" x{len(rows)}" * (len(rows) > 1)
        entries.append(Entry(((label, ""), (times, "dim")), cells(row, columns), remark=remark))
    rest = [row for rows, _ in sums[len(most) :] for row in rows]
    return [*entries, *_others(ledger, rest, columns), _total(ledger, columns)]


def _layer(row: Row, total: Total) -> tuple[str, str]:
    """The full name of a layer, and its class as a remark."""
    name = visible(row.module.name) or visible(total.type_name)
    return name, f" ({visible(row.module.type_name)})" if row.kind == "module" else " (own operations)"


def _others(ledger: Ledger, rest: Sequence[Row], columns: Sequence[Column[Row]]) -> list[Entry]:
    """The sum of the layers that are left out, if there are any."""
    label: Piece = (f"({len(rest)} other{'s' * (len(rest) > 1)})", "dim")
    return [Entry((label,), cells(ledger.sum(rest), columns))] if rest else []


def _total(ledger: Ledger, columns: Sequence[Column[Row]]) -> Entry:
    whole = cells(ledger.row(ledger.analysis.total), columns)
    return Entry((("Total", "bold"),), whole, "bold", total=True)


def _notes(analysis: TracedModel, grids: Sequence[Grid]) -> list[Note]:
    return [("Totals", summary(analysis)), ("Units", units(analysis)), *footnotes(analysis, grids)]


def _record(analysis: TracedModel, asked: Asked, tables: dict[str, Table[Row]]) -> dict[str, Json]:
    by = asked.by or ("layers" if asked.is_flat else "modules")
    modules = tables["modules" if by == "operations" else by]
    named = asked if by != "operations" else Asked(depth=asked.depth)
    record: dict[str, Json] = {
        **head(analysis),
        "total": total_of(analysis),
        "modules": _records(modules.for_data(named), rows_of(analysis, modules.name, named)),
        "receptive_field": _fields(analysis),
        "failed": failure_record(analysis),
    }
    if by == "operations":
        record["operations"] = _records(tables[by].for_data(asked), tables[by].rows())
    return record


def _fields(analysis: TracedModel) -> dict[str, Json] | None:
    fields = analysis.fields_or_none
    if fields is None:
        return None
    return {
        "network": None if fields.network is None else fields.network.record(),
        "output": None if fields.output is None else fields.output.record(),
        "findings": [{"kind": f.kind, "module": f.module, "text": f.text} for f in fields.findings],
    }


def _records(columns: Sequence[Column[Row]], rows: Sequence[Row]) -> list[dict[str, Json]]:
    return [{column.name: column.get(row) for column in columns} for row in rows]


def head(analysis: TracedModel) -> dict[str, Json]:
    """The record of an Analysis without its costs."""
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


def total_of(analysis: TracedModel) -> dict[str, Json]:
    """The record of the totals: the columns of a module, and those that only the whole model has."""
    row = Ledger(analysis).row(analysis.total)
    extra = {name: getattr(analysis.total, name) for name in _TOTAL_ONLY}
    return {**_records(MODULE_COLUMNS, [row])[0], **extra}


def flat(analysis: TracedModel, depth: int = 0, prefix: str = "") -> dict[str, int | float]:
    """The costs as a flat dict: ``{"params": ..., "macs": ..., "layer1/macs": ...}``, down to ``depth``.

    Unknown values are left out, and sums of unknown values only, which a tracker would draw as 0.
    """
    at_least("depth", depth, 0)
    if prefix and prefix[-1].isalnum():
        prefix += "/"
    numbers = [c for c in MODULE_COLUMNS if c.is_number and c.name != "level"]
    ledger = Ledger(analysis)
    found: dict[str, float | None] = {}
    for cost in analysis.modules:
        if cost.level <= depth:
            row = ledger.row(cost)
            above = f"{prefix}{visible(cost.name)}/" if cost.name else prefix
            values = {column.name: column.number(row) for column in numbers}
            if cost.uncounted:
                values = {k: v for k, v in values.items() if v or k not in ("macs", "flops", "other_ops")}
            found.update({above + name: value for name, value in values.items()})
            if not cost.name:
                found.update({prefix + name: getattr(analysis.total, name) for name in _TOTAL_ONLY})
    return {key: value for key, value in found.items() if value is not None}
