"""Measured: the result of `archcost.measure`, and how it is shown.

The schema of ``archcost.measured/1``:

- ``schema``, ``archcost`` and ``torch`` as in ``archcost.analysis/1``.
- ``model``, ``type``, ``input``, ``device``, ``threads``, ``dtype``, ``batch``, ``tolerance``, ``cold``,
  ``seconds`` (asked for), ``took_s`` (used), ``interrupted``, ``notes``.
- ``context``: null, or ``end_to_end_ms``, ``spread_ms``, ``samples``, ``dropped``, ``difference`` (the sum
  of the calls over end to end, less 1), ``clock`` and ``calls``: every module call with its own time.
- ``requests``: null, or ``median_ms``, ``spread_ms``, ``p95_ms``, ``p99_ms``, ``throughput`` (inputs
  a second), ``batch``, ``threads`` and ``passes``: whole passes by the wall clock, none left out; a
  percentile that so few passes do not tell is null.
- ``layers``: a list with an entry for each convolution call: every column of `LAYER_COLUMNS` by its name,
  or those asked for.
- ``paths``: a list of measurements, as ``archcost store export`` has them.
- ``refused``: a list of ``{"spec", "path", "reason"}``: the paths that were skipped, and why.
- ``roofline``: null, or ``macs_per_second``, ``bytes_per_second`` and ``caches`` of this machine.

A time that was not measured is null. Where time did not reach every convolution and some of them could be
predicted, each of ``layers`` has those of `predicted_columns` as well: ``predicted_path``,
``predicted_layout``, ``predicted_ms`` and ``prediction_error`` (0.12 is 12 %), null where there is no
prediction; the error is null also beyond the range of what was measured. A predicted time stands under no
other name, and in no sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

from archcost.latency.layers import LayerTime
from archcost.latency.reports.columns import (
    DEFAULT_LAYER_COLUMNS,
    DEFAULT_PATH_COLUMNS,
    DEFAULT_PREDICTED_COLUMNS,
    LAYER_COLUMNS,
    PATH_COLUMNS,
    predicted_columns,
)
from archcost.latency.reports.notes import answers, heading, notes_of
from archcost.latency.reports.pictures import page_of
from archcost.latency.store.measurement import Measurement
from archcost.latency.timed import TimedModel
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.grid import Entry
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.values import Json

__all__ = ["Measured", "MeasuringInterrupted"]

_RATIOS = {"speedup": ("native_ms", "best_ms"), "layout_speedup": ("as_run_ms", "native_ms")}
# Rows of the first screen.
_MOST = 20
_OF_RUN = ("device", "threads", "dtype", "batch", "tolerance", "cold", "seconds", "took_s", "interrupted")


class MeasuringInterrupted(KeyboardInterrupt):
    """Ctrl-C while measuring: ``found`` is the `Measured` so far."""

    def __init__(self, found: Measured) -> None:
        super().__init__("measuring was interrupted")
        self.found = found


class Measured(TimedModel, Result):
    """The result of `measure`. ``print`` it, or take it as pandas, markdown, CSV, JSON or HTML.

    ``by`` is ``"layers"``, a row for each convolution call, or ``"paths"``, a row for each time of each path.
    """

    def document(self, asked: Asked) -> Document:
        asked.without_depth("a measured model")
        of_layers, of_paths = (Asked(), asked) if asked.by == "paths" else (asked, Asked())
        columns, shown = LAYER_COLUMNS, [*DEFAULT_LAYER_COLUMNS]
        if self.predictions or asked.columns is not None:
            columns = (*columns, *predicted_columns(self.predicted))
        if all((layer.layout_speedup or 1.0) == 1 for layer in self.layers):
            shown.remove("layout_speedup")
        if self.predictions:
            shown += DEFAULT_PREDICTED_COLUMNS
        largest = "native_ms" if self.context is None else "latency_ms"
        rows = ordered(self.layers, columns, of_layers, largest, cut=False)
        lines = partial(_lines, rows, of_layers)
        layers = Table("layers", columns, lambda: rows[: of_layers.top], shown, lines=lines)
        seen, more = layers, len(rows) > _MOST and not (asked.full or asked.is_flat or asked.by)
        if more:
            most = ordered(rows, columns, Asked(top=_MOST), largest)
            first = [*(row for row in rows if row in most), *(row for row in rows if row not in most)]
            seen = replace(layers, name="slowest", lines=partial(_lines, first, Asked(top=_MOST)))
        times = partial(ordered, self.paths, PATH_COLUMNS, of_paths, "ms")
        return Document(
            schema="archcost.measured/1",
            headings=[heading(self)],
            tables=[layers, Table("paths", PATH_COLUMNS, times, DEFAULT_PATH_COLUMNS)],
            shown=[seen] * bool(self.layers),
            lines=answers(self),
            details=[layers] * more,
            folded="Every convolution" * more,
            more="archcost measure -v, or full=True, shows every convolution" * more,
            record=lambda: _record(self, layers.for_data(of_layers), layers.rows(), times()),
            notes=partial(notes_of, self),
            page=lambda: replace(page_of(self), lines=()),
        )


def _record(
    measured: TimedModel,
    columns: Sequence[Column[LayerTime]],
    layers: Sequence[LayerTime],
    times: Sequence[Measurement],
) -> dict[str, Json]:
    return {
        "model": measured.name,
        "type": measured.type,
        "input": measured.input,
        **{name: getattr(measured, name) for name in _OF_RUN},
        "notes": measured.notes,
        "context": _context(measured),
        "layers": [{column.name: column.get(layer) for column in columns} for layer in layers],
        "paths": [one.record() for one in times],
        "refused": [
            {"spec": str(found.task.spec), "path": path, "reason": reason}
            for found in measured.convolutions
            for path, reason in found.refused.items()
        ],
        "requests": None if measured.requests is None else measured.requests.record(),
        "roofline": None if measured.roofline is None else asdict(measured.roofline),
    }


def _context(measured: TimedModel) -> dict[str, Json] | None:
    found = measured.context
    if found is None:
        return None
    names = ("name", "type", "call", "leaf", "samples", "dropped", "disturbed")
    return {
        "end_to_end_ms": found.end_to_end.median_s * 1e3,
        "spread_ms": found.end_to_end.spread_s * 1e3,
        "samples": found.end_to_end.samples,
        "dropped": found.end_to_end.dropped,
        "difference": found.difference,
        "clock": found.clock,
        "training": found.training,
        "calls": [
            {**{name: getattr(one, name) for name in names}, "latency_ms": one.median_s * 1e3}
            for one in found.calls
        ],
    }


def _lines(layers: Sequence[LayerTime], asked: Asked, columns: Sequence[Column[LayerTime]]) -> list[Entry]:
    """The layers, those beyond ``top`` in a single row, and the sums."""
    entries = [Entry(((_name(one), ""),), tuple(c.text(one) for c in columns)) for one in layers[: asked.top]]
    rest = layers[len(entries) :]
    if rest:
        label = f"({len(rest)} other{'s' * (len(rest) > 1)})"
        entries.append(Entry(((label, "dim"),), tuple(_total(column, rest) for column in columns)))
    whole = tuple(_total(column, layers) for column in columns)
    return [*entries, Entry((("All convolutions", "bold"),), whole, "bold", total=True)]


def _name(layer: LayerTime) -> str:
    again = f" (call {layer.call + 1})" if layer.call else ""
    return (visible(layer.name) or "(the model)") + again


def _total(column: Column[LayerTime], layers: Sequence[LayerTime]) -> str:
    """The sum where a sum means something and every part is known."""
    values = [column.get(layer) for layer in layers]
    if column.name in _RATIOS:
        over, under = _RATIOS[column.name]
        pairs = [(getattr(layer, over), getattr(layer, under)) for layer in layers]
        known = [(native, best) for native, best in pairs if native is not None and best is not None]
        best: float = sum(one for _, one in known)
        return column.show(sum(one for one, _ in known) / best) if len(known) == len(pairs) and best else ""
    return column.show(sum(values)) if column.summed and None not in values else ""
