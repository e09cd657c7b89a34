"""The store: the latest measurement of each key, from this user's machines, in a SQLite file.

A measurement is on the disk once `Store.put` has returned, even if the process is killed right after.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal

from archcost.latency.store.database import Database
from archcost.latency.store.kinds import kind_and_path
from archcost.latency.store.measurement import (
    Key,
    Measurement,
    StoreError,
    checked,
    from_record,
    spec_from_json,
)

__all__ = ["Key", "Measurement", "Store", "StoreError", "default_path", "opened"]

VERSION = 2
Value = str | int | float | None
_KEY = ("fingerprint", "spec", "dtype", "layout", "threads", "path", "kind")
_VALUES = (
    *("device", "median_s", "spread_s", "samples", "dropped", "clock", "torch"),
    *("disturbed", "error", "workspace_bytes", "measured_at"),
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    fingerprint TEXT NOT NULL, spec TEXT NOT NULL, dtype TEXT NOT NULL, layout TEXT NOT NULL,
    threads INTEGER NOT NULL, path TEXT NOT NULL, kind TEXT NOT NULL,
    device TEXT NOT NULL, median_s REAL NOT NULL, spread_s REAL, samples INTEGER NOT NULL,
    dropped INTEGER NOT NULL, clock TEXT NOT NULL, torch TEXT NOT NULL,
    disturbed INTEGER NOT NULL, error REAL, workspace_bytes INTEGER, measured_at REAL NOT NULL,
    PRIMARY KEY (fingerprint, spec, dtype, layout, threads, path, kind)
) WITHOUT ROWID
"""
_COLUMNS = ", ".join((*_KEY, *_VALUES))
_PUT = (
    f"INSERT INTO measurements ({_COLUMNS}) VALUES ({', '.join('?' * len((*_KEY, *_VALUES)))}) "
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET "
    f"{', '.join(f'{name} = excluded.{name}' for name in _VALUES)} "
    f"WHERE excluded.measured_at >= measured_at"
)


def _kinds_out_of_paths(connection: sqlite3.Connection) -> None:
    """Upgrade from version 1 to 2: the kind moves from the path's name into a column of its own."""
    old = (*_KEY[:-1], *_VALUES)
    rows = connection.execute(f"SELECT {', '.join(old)} FROM measurements").fetchall()
    connection.execute("DROP TABLE measurements")
    connection.execute(_SCHEMA)
    at = old.index("path")
    connection.executemany(_PUT, (_with_kind(row, at) for row in rows))


def _with_kind(row: tuple[Value, ...], at: int) -> tuple[Value, ...]:
    kind, path = kind_and_path(str(row[at]))
    return (*row[:at], path, kind, *row[at + 1 :])


def default_path() -> str:
    """The path of the user's store: the variable ARCHCOST_STORE, or a file in the cache folder."""
    named = os.environ.get("ARCHCOST_STORE")
    if named:
        return named
    from platformdirs import user_cache_dir

    return str(Path(user_cache_dir("archcost", appauthor=False)) / "measurements.sqlite")


class Store:
    """Measurements by key; also a context manager, which closes the file.

    Args:
        path: the SQLite file; ``":memory:"`` keeps nothing; by default `default_path`.

    Raises:
        StoreError: every method, where the file cannot be opened, read or written.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = default_path() if path is None else os.fspath(path)
        self._database = Database(self.path, _SCHEMA, VERSION, {1: _kinds_out_of_paths})

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.path,)  # a pickle opens the same file; what was in memory is gone

    def close(self) -> None:
        """Close the file; the next use opens it again (a store in memory is then empty)."""
        self._database.close()

    def put(self, measurement: Measurement) -> None:
        """Keep a measurement, unless a later one of its key is there; it is on the disk once this returns."""
        self.put_many([measurement])

    def put_many(self, measurements: Iterable[Measurement]) -> None:
        """Keep several measurements in one transaction: all or, after an exception, none."""
        found = list(measurements)
        if found:
            self._database.do(lambda connection: self.put_within(connection, found))

    @staticmethod
    def put_within(connection: sqlite3.Connection, measurements: Iterable[Measurement]) -> None:
        """`put_many` within a transaction that is open."""
        connection.executemany(_PUT, [_row(measurement) for measurement in measurements])

    def get(self, key: Key) -> Measurement | None:
        """The measurement of a key; None where there is none."""
        where = " AND ".join(f"{name} = ?" for name in _KEY)
        found = self._select(f"WHERE {where}", key.columns)
        return found[0] if found else None

    def all(self, fingerprint: str | None = None) -> list[Measurement]:
        """Every measurement, or those with this `Fingerprint.hash`, sorted by key."""
        if fingerprint is None:
            return self._select("", ())
        return self._select("WHERE fingerprint = ?", (fingerprint,))

    def __len__(self) -> int:
        query = "SELECT count(*) FROM measurements"
        return int(self._database.do(lambda it: it.execute(query).fetchone()[0], writes=False))

    def __iter__(self) -> Iterator[Measurement]:
        return iter(self.all())

    def __bool__(self) -> bool:
        return True  # an empty store is a store

    def lines(self) -> Iterator[str]:
        """Every measurement as a line of JSON."""
        return (json.dumps(one.record(), allow_nan=False) for one in self.all())

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write all measurements as JSON lines, over an existing file.

        Returns:
            The number of measurements.
        """
        lines = list(self.lines())
        try:
            Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            raise StoreError(f"cannot write {os.fspath(path)}: {error.strerror}") from error
        return len(lines)

    def import_(self, path: str | os.PathLike[str]) -> int:
        """Keep the measurements that `export` wrote, here or elsewhere.

        Returns:
            The number of lines read.

        Raises:
            StoreError: the file cannot be read, or a line is no measurement: the message has its number, and
                nothing is kept.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"cannot read {os.fspath(path)}: {error}") from error
        found = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                found.append(from_record(json.loads(line)))
            except (StoreError, ValueError, RecursionError) as error:
                raise StoreError(
                    f"{os.fspath(path)}, line {number}: {error}. Nothing was imported; correct the line"
                ) from error
        self.put_many(found)
        return len(found)

    def prune(self, *, older_than: timedelta | None = None, other_devices: bool = False) -> int:
        """Remove measurements that meet either of the conditions.

        Args:
            older_than: the least age of those to remove.
            other_devices: remove those with another fingerprint than this machine's, CPU or CUDA.

        Returns:
            The number of measurements removed.

        Raises:
            StoreError: neither condition is given.
        """
        if older_than is None and not other_devices:
            raise StoreError("prune: say what to remove: older_than, other_devices or both")
        own = _own_fingerprints() if other_devices else []
        before = 0.0 if older_than is None else time.time() - older_than.total_seconds()
        elsewhere = f"{int(other_devices)} AND fingerprint NOT IN ({', '.join('?' * len(own))})"
        query = f"DELETE FROM measurements WHERE measured_at < ? OR {elsewhere}"
        return self._database.do(lambda connection: connection.execute(query, [before, *own]).rowcount)

    def _select(self, where: str, values: tuple[Value, ...]) -> list[Measurement]:
        def read(connection: sqlite3.Connection) -> list[tuple[Value, ...]]:
            order = ", ".join(_KEY)
            query = f"SELECT {_COLUMNS} FROM measurements {where} ORDER BY {order}"
            return connection.execute(query, values).fetchall()

        return [_measurement(row) for row in self._database.do(read, writes=False)]

    def __repr__(self) -> str:
        return f"Store({self.path!r})"


@contextlib.contextmanager
def opened(store: Store | str | os.PathLike[str] | Literal[False] | None) -> Iterator[Store | None]:
    """The store that an argument means: a `Store`, a path, the user's own (None), or no store (False)."""
    if store is False:
        yield None
    elif isinstance(store, Store):
        yield store
    else:
        with Store(store) as own:
            yield own


def _own_fingerprints() -> list[str]:
    import torch

    from archcost.latency.store.fingerprint import fingerprint

    devices = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [fingerprint(device).hash for device in devices]


def _row(measurement: Measurement) -> tuple[Value, ...]:
    return (*measurement.key.columns, *(getattr(measurement, name) for name in _VALUES))


def _measurement(row: tuple[Value, ...]) -> Measurement:
    values = dict(zip((*_KEY, *_VALUES), row, strict=True))
    spec = spec_from_json(str(values["spec"]))
    return checked({**values, "spec": spec, "disturbed": bool(values["disturbed"])})
