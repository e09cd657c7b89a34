"""The measurements of a store as a result: printed as a table for each device, exported as a single table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING

from archcost.latency.store.measurement import Measurement
from archcost.report.columns import milliseconds, number, words, yes
from archcost.report.document import Asked, Column, Document, Table, choose, ordered
from archcost.report.result import Result
from archcost.report.text import visible
from archcost.report.units import bytes_text, error_text
from archcost.report.values import Json

if TYPE_CHECKING:
    from archcost.latency.store.store import Store

__all__ = ["MEASUREMENT_COLUMNS", "StoreList", "listed"]


@dataclass(frozen=True)
class StoreList(Result):
    """Every measurement of a store. ``print`` it, or take it as pandas, markdown, CSV, JSON or HTML.

    The schema of ``archcost.store/1``: ``store``, its path, and ``measurements``, a list, each as a line of
    ``archcost store export``.
    """

    store: str
    """The path of its file."""
    measurements: tuple[Measurement, ...]

    def document(self, asked: Asked) -> Document:
        asked.without_depth("a store")
        found = ordered(self.measurements, MEASUREMENT_COLUMNS, asked, "ms")
        every = Table("measurements", MEASUREMENT_COLUMNS, lambda: found, _SHOWN, only_known=True)
        in_time = sorted(found, key=lambda one: one.measured_at)
        devices = {one.key.fingerprint: one.device for one in in_time}  # as it was called last
        by_device = {mark: [one for one in found if one.key.fingerprint == mark] for mark in devices}
        count, machines = len(self.measurements), len({one.key.fingerprint for one in self.measurements})
        of = f" of {machines} device{'s' * (machines != 1)}" if count else ""
        return Document(
            schema="archcost.store/1",
            headings=[(visible(self.store), f"{count} measurement{'s' * (count != 1)}{of}")],
            tables=[every],
            shown=[
                replace(every, rows=partial(list, rows), title=(mark, visible(devices[mark])))
                for mark, rows in by_device.items()
            ],
            record=lambda: {"store": self.store, "measurements": self._records(asked, found)},
        )

    def _records(self, asked: Asked, found: Sequence[Measurement]) -> list[dict[str, Json]]:
        if asked.columns is None:
            return [one.record() for one in found]
        columns = choose(asked.columns, MEASUREMENT_COLUMNS, ())
        return [{column.name: column.get(one) for column in columns} for one in found]


def listed(store: Store) -> StoreList:
    """All measurements of a store as a result."""
    return StoreList(store.path, tuple(store.all()))


def _when(one: Measurement) -> str:
    return datetime.fromtimestamp(one.measured_at, timezone.utc).isoformat(timespec="seconds")


MEASUREMENT_COLUMNS: tuple[Column[Measurement], ...] = (
    words(
        "spec",
        "Convolution",
        "The convolution with all its parameters",
        lambda one: str(one.key.spec),
        keep=100,
    ),
    words("path", "Path", "Path by which it was executed", lambda one: one.key.path, keep=90),
    words(
        "kind",
        "Kind",
        "Surroundings of the measurement: path, cold, in a model, chain, step or roofline",
        lambda one: one.key.kind,
        keep=45,
    ),
    words("dtype", "Dtype", "Dtype of input and weights", lambda one: one.key.dtype, keep=60),
    words("layout", "Layout", "Layout of the input", lambda one: one.key.layout, keep=70),
    number(
        "threads", "Threads", "Threads of PyTorch", str, lambda one: one.key.threads, dtype="int64", keep=65
    ),
    number("batch", "Batch", "Number of images", str, lambda one: one.key.spec.batch, dtype="int64"),
    milliseconds("ms", "Median ms", "Median time of a call", lambda one: one.median_s * 1e3, keep=95),
    milliseconds(
        "spread_ms",
        "Spread ms",
        "Interquartile range of the times",
        lambda one: None if one.spread_s is None else one.spread_s * 1e3,
        keep=50,
    ),
    words("clock", "Clock", "cpu: the CPU time of one thread; wall: wall time; cuda: the device's", keep=20),
    number("samples", "Samples", "Number of samples kept", str, dtype="int64", keep=30),
    number(
        "dropped",
        "Dropped",
        "Number of samples left out because they were interrupted",
        str,
        dtype="int64",
        keep=25,
    ),
    yes(
        "disturbed",
        "Disturbed",
        "Whether the time is unreliable: other processes interrupted every sample",
        keep=55,
    ),
    number(
        "error",
        "Error",
        "Error of the path when measured, max |y - exact| / max |exact|",
        error_text,
        keep=40,
    ),
    number(
        "workspace_bytes",
        "Workspace",
        "Memory of the path beside input, output and weights",
        bytes_text,
        unit="bytes",
        dtype="Int64",
        keep=10,
    ),
    words(
        "measured_at",
        "Measured (UTC)",
        "Time of the measurement",
        _when,
        show=lambda when: when[:16].replace("T", " "),
        in_full=str,
        keep=45,
    ),
    words("torch", "Torch", "Version of PyTorch"),
    words("device", "Device", "Machine and software of the measurement"),
    words(
        "fingerprint",
        "Fingerprint",
        "Machine and software as 16 hexadecimal digits",
        lambda one: one.key.fingerprint,
    ),
)
_SHOWN = (
    *("spec", "path", "dtype", "layout", "threads", "ms", "spread_ms", "clock", "samples", "dropped"),
    *("disturbed", "error", "workspace_bytes", "measured_at"),
)
