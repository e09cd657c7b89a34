"""FleetStore: a store of measurements that also keeps which tasks are done on which device.

The times of layers are rows of the store as any others, their fingerprint followed by ``@`` and the device's
name. Beside them stand the models on paper, and the result of each task by device. What is taken in is
checked value by value: a scheduler's messages are no reason to trust what they hold.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from archcost.fleet.errors import FleetError
from archcost.fleet.tasks import Layer, Model, Probe, Product, Step, Task, from_record
from archcost.latency.store.measurement import Measurement, StoreError
from archcost.latency.store.measurement import from_record as measurement_from
from archcost.latency.store.store import Store

__all__ = ["FleetStore", "checked", "mark_of", "merge"]

_TABLES = (
    "CREATE TABLE IF NOT EXISTS fleet_results (task TEXT NOT NULL, device TEXT NOT NULL, "
    "state TEXT NOT NULL, asked TEXT NOT NULL, result TEXT NOT NULL, at REAL NOT NULL, "
    "PRIMARY KEY (task, device)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS fleet_papers (model TEXT NOT NULL, batch INTEGER NOT NULL, "
    "paper TEXT NOT NULL, PRIMARY KEY (model, batch)) WITHOUT ROWID",
)
_PUT = (
    "INSERT INTO fleet_results VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (task, device) DO UPDATE SET "
    "state = excluded.state, result = excluded.result, at = excluded.at "
    # What was measured is not lost to a failure, and the later of two measurements counts.
    "WHERE (excluded.state = 'done') > (state = 'done') "
    "OR ((excluded.state = 'done') = (state = 'done') AND excluded.at >= at)"
)
_IS_FLEET = "SELECT name FROM sqlite_master WHERE name = 'fleet_results'"
_OWN = {"q1_s", "q3_s"}
_VALUES: dict[type[Task], set[str]] = {
    Layer: {"times", "refused"}, Product: {"product"}, Step: {"step", "variant"}, Model: {"model"},
    Probe: set(),
}  # fmt: skip


def mark_of(fingerprint: str, device: str) -> str:
    """The key of a named device in the store."""
    return f"{fingerprint}@{device}"


def checked(task: Task, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a task, each value checked.

    Raises:
        FleetError: a value is missing, unknown or makes no sense.
    """
    wanted = {"reference_s"} | _VALUES[type(task)]
    try:
        if not isinstance(result, Mapping) or set(result) != wanted:
            raise StoreError(f"{wanted} expected, got {result!r:.200}")
        _number(result["reference_s"], "reference_s")
        if isinstance(task, Layer):
            _layer(task, result)
        if not isinstance(result.get("variant", ""), str):
            raise StoreError(f"variant is {result['variant']!r:.200}")
        for name in {"product", "step", "model"} & wanted:
            _timing(result[name])
        return json.loads(json.dumps(result, allow_nan=False))  # type: ignore[no-any-return]
    except (KeyError, TypeError, ValueError, StoreError) as error:
        raise FleetError(f"fleet: a worker sent no result of {task.key}: {error}") from error


def _layer(task: Layer, result: Mapping[str, Any]) -> None:
    refused = result["refused"]
    if not all(isinstance(text, str) for pair in refused.items() for text in pair):
        raise StoreError(f"refused is {refused!r:.200}")
    for one in result["times"]:
        key = _measurement(one).key
        if (key.spec, key.dtype, key.threads) != (task.spec, task.dtype, task.threads):
            raise StoreError(f"a time of another layer: {key.spec}")
        for name in _OWN:
            if one[name] is not None:
                _number(one[name], name)


def _timing(found: Mapping[str, Any]) -> None:
    names = {"median_s", "samples", "dropped", "clock", "disturbed", *_OWN}
    if set(found) != names or found["clock"] not in ("cpu", "wall") or type(found["disturbed"]) is not bool:
        raise StoreError(f"no time: {found!r:.200}")
    for name in ("median_s", *_OWN):
        if name == "median_s" or found[name] is not None:
            _number(found[name], name)
    for name in ("samples", "dropped"):
        if type(found[name]) is not int or found[name] < 0:
            raise StoreError(f"{name} is {found[name]!r}")


def _number(value: object, name: str) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise StoreError(f"{name} is {value!r}, not a number of at least 0")


def _measurement(time: Mapping[str, Any]) -> Measurement:
    return measurement_from({name: value for name, value in time.items() if name not in _OWN})


class FleetStore(Store):
    """A store with the tables of the fleet, which are made in it where they are missing."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(path)
        self._ready = False

    def __enter__(self) -> FleetStore:
        return self

    def _do(self, work: Any, writes: bool = True) -> Any:
        if not self._ready:
            self._database.do(lambda it: [it.execute(table) for table in _TABLES])
            self._ready = True
        return self._database.do(work, writes)

    def keep(self, task: Task, mark: str, result: Mapping[str, Any], at: float | None = None) -> None:
        """Keep the checked result of a task on a device; a layer's times also as measurements.

        Args:
            task: what was measured.
            mark: the device, see `mark_of`.
            result: as `checked` gives it, or with ``failed`` and ``log``.
            at: seconds since 1970; by default now.
        """
        self.keep_many([(task, mark, result)], at)

    def keep_many(
        self, ended: Iterable[tuple[Task, str, Mapping[str, Any]]], at: float | None = None
    ) -> None:
        """`keep` for several tasks, in one transaction: the disk is waited for once."""
        rows, times = [], []
        for task, mark, result in ended:
            state = "failed" if "failed" in result else "done"
            rows.append((task.key, mark, state, _text(task.record()), _text(result), at or time.time()))
            if state == "done":
                own = [_measurement(one) for one in result.get("times", ())]
                times += [replace(one, key=replace(one.key, fingerprint=mark)) for one in own]

        def put(connection: sqlite3.Connection) -> None:
            self.put_within(connection, times)
            connection.executemany(_PUT, rows)

        if rows:
            self._do(put)

    def result(self, task: Task, mark: str) -> dict[str, Any] | None:
        """The result of a task that is done on a device; None where it is not."""
        query = "SELECT result FROM fleet_results WHERE task = ? AND device = ? AND state = 'done'"
        rows = self._do(lambda it: it.execute(query, (task.key, mark)).fetchall(), writes=False)
        return json.loads(rows[0][0]) if rows else None

    def states(self, mark: str) -> dict[str, str]:
        """``done`` or ``failed`` by the keys of the tasks that came to an end on a device."""
        query = "SELECT task, state FROM fleet_results WHERE device = ?"
        return dict(self._do(lambda it: it.execute(query, (mark,)).fetchall(), writes=False))

    def results(self, mark: str | None = None) -> list[tuple[Task, str, str, dict[str, Any], float]]:
        """Every task with its device, state, result and time, or those of a device, sorted by key."""
        query = "SELECT asked, device, state, result, at FROM fleet_results"
        query += " ORDER BY device, task" if mark is None else " WHERE device = ? ORDER BY task"
        values = () if mark is None else (mark,)
        rows = self._do(lambda it: it.execute(query, values).fetchall(), writes=False)
        return [(from_record(json.loads(a)), d, s, json.loads(r), at) for a, d, s, r, at in rows]

    def devices(self) -> list[str]:
        """The devices with results, each as `mark_of` gives it."""
        query = "SELECT DISTINCT device FROM fleet_results ORDER BY device"
        return [row[0] for row in self._do(lambda it: it.execute(query).fetchall(), writes=False)]

    def keep_papers(self, papers: Iterable[Mapping[str, Any]]) -> None:
        """Keep models on paper, over earlier ones of the same names."""
        rows = [(one["model"], one["batch"], _text(one)) for one in papers]
        self._do(lambda it: it.executemany("INSERT OR REPLACE INTO fleet_papers VALUES (?, ?, ?)", rows))

    def papers(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The models on paper, by SPEC and number of images."""
        query = "SELECT model, batch, paper FROM fleet_papers ORDER BY model, batch"
        rows = self._do(lambda it: it.execute(query).fetchall(), writes=False)
        return {(model, batch): json.loads(text) for model, batch, text in rows}


def _text(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def merge(into: str | os.PathLike[str] | None, files: Iterable[str | os.PathLike[str]]) -> int:
    """Put what several stores hold into one: of two measurements of a key the later, of a task the done one.

    Args:
        into: the store that takes them; by default the user's own.
        files: stores, with tasks of a fleet or without; they stay as they are.

    Returns:
        The number of measurements and tasks read.

    Raises:
        StoreError: a file is missing, or is none of archcost's.
    """
    read = 0
    with FleetStore(into) as target:
        for file in files:
            if not Path(file).is_file():
                raise StoreError(f"there is no store {os.fspath(file)!r}")
            with Store(file) as source:
                found = source.all()
                fleet = source._database.do(lambda it: it.execute(_IS_FLEET).fetchall(), writes=False)
            target.put_many(found)
            read += len(found)
            if fleet:
                read += _merge_tasks(target, file)
    return read


def _merge_tasks(target: FleetStore, file: str | os.PathLike[str]) -> int:
    with FleetStore(file) as source:
        results, papers = source.results(), source.papers().values()
    rows = [(t.key, mark, state, _text(t.record()), _text(r), at) for t, mark, state, r, at in results]
    target._do(lambda it: it.executemany(_PUT, rows))
    target.keep_papers(papers)
    return len(rows)
