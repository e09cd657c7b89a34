"""A SQLite file that many processes may write at once, any of which may be killed.

A committed transaction is on the disk: write-ahead log, ``synchronous=FULL``. A file that is corrupt, or of
another program, is renamed, with a warning, and a new one begun.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from archcost.latency.store.measurement import StoreError

try:
    import fcntl
except ImportError:  # Windows: a file that is open there cannot be renamed, which protects it as well
    fcntl = None  # type: ignore[assignment]

__all__ = ["Database"]

_APPLICATION = 0x61726363  # "arcc", in the file's header
# Result codes of SQLite (sqlite.org/rescode.html), most of which the module names from Python 3.11 on.
_ERROR, _BUSY, _LOCKED, _CORRUPT, _NOTADB = 1, 5, 6, 11, 26
_WAITS = (_BUSY, _LOCKED)
# An SQL logic error means that somebody changed the table: our statements are right.
_SPOILT = (_ERROR, _CORRUPT, _NOTADB)
_CODES = {
    **{"locked": _LOCKED, "busy": _BUSY, "not a database": _NOTADB, "encrypted": _NOTADB},
    **{"malformed": _CORRUPT, "corrupt": _CORRUPT},
    **{"no such table": _ERROR, "no such column": _ERROR, "has no column": _ERROR},
}
_MEMORY = ":memory:"
_Result = TypeVar("_Result")
# Connections of a parent process: a child must not even close them.
_INHERITED: list[sqlite3.Connection] = []


class _Foreign(Exception):
    """A SQLite file of another program."""


class Database:
    """A connection opened at first use, and again in a forked child or where the file was replaced.

    Args:
        path: the file, or ``:memory:``.
        schema: the SQL that creates the tables in an empty file.
        version: the version of the schema; a file of a later version is refused, untouched.
        upgrades: the function by version that brings a file to the next version, in one transaction.
        patience: seconds to wait for another process.
    """

    def __init__(
        self,
        path: str,
        schema: str,
        version: int,
        upgrades: Mapping[int, Callable[[sqlite3.Connection], None]],
        patience: float = 30.0,
    ) -> None:
        self.path, self.schema, self.version = path, schema, version
        self.upgrades, self.patience = upgrades, patience
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, ...] = ()
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def do(self, work: Callable[[sqlite3.Connection], _Result], writes: bool = True) -> _Result:
        """Run ``work`` in a transaction; again while others hold the file, and once more in a new file.

        Args:
            work: gets the connection; its result is returned.
            writes: whether it changes the file.

        Raises:
            StoreError: the file stays locked, is of a later version, or the system refuses it.
        """
        with self._lock:
            try:
                return self._patiently(work, writes)
            except (sqlite3.DatabaseError, _Foreign) as error:
                if self.path == _MEMORY or not _spoilt(error):
                    raise self._said(error) from error
                self._set_aside(str(error))
            try:
                return self._patiently(work, writes)
            except (sqlite3.DatabaseError, _Foreign) as error:
                raise self._said(error) from error

    def _patiently(self, work: Callable[[sqlite3.Connection], _Result], writes: bool) -> _Result:
        """Run ``work``, waiting for locks: SQLite itself does not wait while a log is recovered."""
        for last in self._attempts():
            try:
                connection = self._connected()
                with _transaction(connection, writes):
                    return work(connection)
            except sqlite3.OperationalError as error:
                if last or _code(error) not in _WAITS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _attempts(self) -> Iterator[bool]:
        """Yield False for each attempt while there is patience, and True for the last."""
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            yield False
            time.sleep(random.uniform(0.001, 0.02))
        yield True

    def _connected(self) -> sqlite3.Connection:
        """The connection; a new one where this process was forked, or the file is another one now."""
        if self._connection is not None and self._opened != self._place():
            if self._opened[:1] == (os.getpid(),):
                self._connection.close()
            else:
                _INHERITED.append(self._connection)
            self._connection = None
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _place(self) -> tuple[int, ...]:
        if self.path == _MEMORY:
            return ()
        try:
            found = os.stat(self.path)
        except OSError:
            return (os.getpid(),)
        return (os.getpid(), found.st_dev, found.st_ino)

    def _open(self) -> sqlite3.Connection:
        if self.path != _MEMORY:
            try:
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._said(error) from error
        with self._alone():
            self._opened = self._place()
            connection = sqlite3.connect(
                self.path, timeout=self.patience, isolation_level=None, check_same_thread=False
            )
            try:
                self._begin(connection)
            except BaseException:
                connection.close()
                raise
            self._opened = self._place()
            return connection

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Create the tables in an empty file, upgrade an old one, or refuse another program's, untouched."""

        def number(pragma: str) -> int:
            return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])

        application, version = number("application_id"), number("user_version")
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != _APPLICATION and not (empty and application == version == 0):
            raise _Foreign("it is a SQLite file of another program")
        if version > self.version:
            raise StoreError(
                f"the store {self.path} is of version {version}, and this archcost knows {self.version}: "
                f"update archcost, or set ARCHCOST_STORE to another file"
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if application == _APPLICATION and version == self.version:
            return
        # An interruption here leaves the file as it was.
        with _transaction(connection, writes=True):
            if application != _APPLICATION:
                connection.execute(self.schema)
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            else:
                for step in range(number("user_version"), self.version):
                    self.upgrades[step](connection)
            connection.execute(f"PRAGMA user_version = {self.version}")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold a lock: no other process opens or renames a store of this folder meanwhile.

        The lock is on the folder, so that no file is left behind, and goes with the process if it is killed.
        """
        if fcntl is None or self.path == _MEMORY:
            yield
            return
        folder = os.open(Path(self.path).parent, os.O_RDONLY)
        try:
            for _ in self._attempts():
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                except OSError:
                    pass  # some network file systems have no such locks; SQLite has its own
                break
            yield
        finally:
            os.close(folder)

    def _set_aside(self, reason: str) -> None:
        """Rename the file and its log, unless another process has done so since it was found corrupt."""
        found = self._opened
        self.close()
        with self._alone():
            # A file that was set aside keeps its inode, so that a new one has another.
            if self._place() != found:
                return
            number = 1
            while any(Path(f"{self.path}.corrupt-{number}{end}").exists() for end in ("", "-wal", "-shm")):
                number += 1
            aside = f"{self.path}.corrupt-{number}"
            try:
                # The file itself last: its log must never lie beside a new one.
                for end in ("-wal", "-shm", ""):
                    with suppress(FileNotFoundError):
                        os.rename(self.path + end, aside + end)
            except OSError as error:
                raise self._said(error) from error
        warnings.warn(
            f"the store of measurements {self.path} cannot be used: {reason}. It was renamed to {aside}, "
            f"and a new, empty store begun",
            stacklevel=2,
        )

    def _said(self, error: Exception) -> StoreError:
        what = "; another process holds it" if _code(error) in _WAITS else ""
        return StoreError(
            f"the store {self.path} cannot be used: {error}{what}. Set ARCHCOST_STORE to another file, or "
            f"to ':memory:' to keep nothing"
        )


@contextmanager
def _transaction(connection: sqlite3.Connection, writes: bool) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _code(error: Exception) -> int:
    """SQLite's primary result code, read from the message before Python 3.11; 0 where there is none."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return next((code for words, code in _CODES.items() if words in str(error)), 0)
    return int(code) & 0xFF


def _spoilt(error: Exception) -> bool:
    """Whether the error means that the file itself is unusable."""
    return isinstance(error, _Foreign) or _code(error) in _SPOILT
