"""FleetRun: what a fleet measured, a row for each model and device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from archcost.fleet.kept import FleetStore
from archcost.fleet.table import LatencyTable
from archcost.fleet.tasks import Layer, Model
from archcost.latency.store.measurement import spec_from_json
from archcost.report.columns import milliseconds, number, words
from archcost.report.document import Asked, Column, Document, Table, ordered
from archcost.report.result import Result
from archcost.report.units import count_text

__all__ = ["Failed", "FleetRow", "FleetRun"]


@dataclass(frozen=True)
class FleetRow:
    """A model on a device."""

    model: str
    device: str
    batch: int
    threads: int
    how: str
    """``eager``, or ``program``."""
    macs: int
    ms: float | None
    """Median time of the whole model; None: it was not measured."""
    spread_ms: float | None
    best_path: str | None
    """The path that is the fastest for most of its convolutions."""
    predicted: float | None
    """The share of its convolutions that the table lacks."""


@dataclass(frozen=True)
class Failed:
    """A task that failed three times on a device."""

    device: str
    task: str
    reason: str
    log: str


_COLUMNS: tuple[Column[FleetRow], ...] = (
    words("model", "Model", "SPEC of the model", keep=100),
    words("device", "Device", "Name of the device", keep=90),
    number("batch", "Batch", "Number of images", str, dtype="int64", keep=70),
    number("threads", "Threads", "Threads of PyTorch", str, dtype="int64", keep=60),
    words("how", "How", "As PyTorch runs it, or as a program of the engine", keep=50),
    number("macs", "MACs", "Multiply-accumulates counted", count_text, dtype="int64", keep=40),
    milliseconds("ms", "Median ms", "Median time of the whole model", keep=95),
    milliseconds("spread_ms", "Spread ms", "Interquartile range of the times", keep=45),
    words("best_path", "Best path", "Path that is the fastest for most convolutions", keep=55),
    number(
        "predicted",
        "Predicted",
        "Share of convolutions that the table lacks",
        lambda share: f"{share:.0%}",
        keep=42,
    ),
)


@dataclass(frozen=True)
class FleetRun(Result):
    """The times that a fleet measured. ``print`` it, or take it as pandas, markdown, CSV, JSON or HTML.

    The JSON, ``archcost.fleet/1``, has ``store``, ``models``, a list with every column, and ``failed``, a
    list of ``device``, ``task``, ``reason`` and ``log``.
    """

    store: str
    rows: tuple[FleetRow, ...]
    failed: tuple[Failed, ...] = ()
    notes: tuple[str, ...] = ()
    layers: int = 0
    """Distinct layers in the table, summed over devices."""
    measured: int = 0
    """Tasks that this run ended; others were done before."""

    @classmethod
    def of(
        cls,
        store: FleetStore,
        marks: Sequence[str] | None = None,
        specs: Collection[str] | None = None,
        notes: tuple[str, ...] = (),
        measured: int = 0,
    ) -> FleetRun:
        """What a store has of these devices and models; by default of all."""
        papers, rows, failed, layers = store.papers(), [], [], 0
        for mark in store.devices() if marks is None else marks:
            name, results = mark.partition("@")[2], store.results(mark)
            table = LatencyTable(name, mark, store.all(mark), {}, {}, {}, papers)
            layers += sum(not isinstance(task, Model) and state == "done" for task, _, state, _, _ in results)
            for task, _, state, result, _ in results:
                if state == "failed":
                    said = str(task.spec) if isinstance(task, Layer) else getattr(task, "model", str(task))
                    failed.append(Failed(name, said, result["failed"], result["log"]))
                if isinstance(task, Model) and (specs is None or task.model in specs):
                    found = result["model"] if state == "done" else None
                    rows.append(_row(table, task, papers.get((task.model, task.batch)), found))
        rows.sort(key=lambda row: (row.model, row.batch, row.threads, row.device, row.how))
        return cls(store.path, tuple(rows), tuple(failed), notes, layers, measured)

    def document(self, asked: Asked) -> Document:
        asked.without_depth("a fleet")
        models = {row.model for row in self.rows}
        devices = {row.device for row in self.rows}
        said = f"{len(models)} model{'s' * (len(models) != 1)} on {len(devices)} device"
        said += f"{'s' * (len(devices) != 1)}, {self.layers} layers"
        table = Table("models", _COLUMNS, lambda: ordered(self.rows, _COLUMNS, asked, "ms"))
        lost = [f"failed on {one.device}: {one.task}: {one.reason}" for one in self.failed]
        return Document(
            schema="archcost.fleet/1",
            headings=[(self.store, said)],
            tables=[table],
            shown=[table] * bool(self.rows),
            lines=[*lost, *self.notes],
            record=lambda: {
                "store": self.store,
                "models": [{c.name: c.get(row) for c in _COLUMNS} for row in self.rows],
                "failed": [vars(one) for one in self.failed],
                "notes": self.notes,
            },
        )


def _row(
    table: LatencyTable, task: Model, paper: dict[str, object] | None, found: dict[str, float] | None
) -> FleetRow:
    """The row of a model, from its times and the table of its layers."""
    import json

    best, predicted, macs = Counter[str](), None, 0
    if paper is not None:
        macs = int(str(paper["macs"]))
        calls: list[dict[str, object]] = paper["convolutions"]  # type: ignore[assignment]
        for one in calls:
            path = table.best_path(spec_from_json(json.dumps(one["spec"])), str(one["dtype"]), task.threads)
            best[path or ""] += int(str(one["count"]))
        predicted = best.pop("", 0) / max(1, sum(int(str(one["count"])) for one in calls))
    quartiles = (found or {}).get("q1_s"), (found or {}).get("q3_s")
    spread = None if None in quartiles else (quartiles[1] - quartiles[0]) * 1e3  # type: ignore[operator]
    return FleetRow(
        task.model, table.device, task.batch, task.threads, task.how, macs,
        None if found is None else found["median_s"] * 1e3, spread,
        best.most_common(1)[0][0] if best else None, predicted,
    )  # fmt: skip
