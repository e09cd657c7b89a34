"""Whatever a store's file was, nothing of it is lost: spoilt, foreign and older files."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from dataclasses import replace

import pytest

from archcost.latency.store import database
from archcost.latency.store import store as of_store
from archcost.latency.store.measurement import OldKey, spec_json
from archcost.latency.store.store import Key, Measurement, Store, StoreError
from helpers.measurements import SPEC, TESTS, foreign_database, measured


def corrupted_page(path):
    """A file of ours with rubbish in the middle: it opens, and fails when read."""
    with Store(path) as store:
        store.put_many(measured(threads=n) for n in range(1, 200))
    data = bytearray(path.read_bytes())
    data[4096 + 8 :] = b"\xa5" * (len(data) - 4096 - 8)
    path.write_bytes(data)


def changed_table(path):
    with Store(path) as store:
        store.put(measured())
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE measurements")
    connection.close()


def a_text(path):
    path.write_text("Dear diary, " * 1000)


@pytest.mark.parametrize("spoil", [corrupted_page, foreign_database, changed_table, a_text])
def test_a_corrupt_or_foreign_file_is_set_aside_whole_and_a_new_one_begun(spoil, tmp_path):
    path = tmp_path / "store.sqlite"
    spoil(path)
    before = path.read_bytes()
    with Store(path) as store:
        with pytest.warns(UserWarning, match=r"cannot be used: .* was renamed to .*corrupt-1, and a new"):
            store.put(measured())
        assert store.all() == [measured()]
    assert (tmp_path / "store.sqlite.corrupt-1").read_bytes() == before
    a_text(path)
    with pytest.warns(UserWarning, match="corrupt-2"):
        assert Store(path).all() == []
    assert sorted(p.name for p in tmp_path.glob("*.corrupt-?")) == [
        "store.sqlite.corrupt-1", "store.sqlite.corrupt-2",
    ]  # fmt: skip


def test_of_many_who_find_a_file_spoilt_one_sets_it_aside_and_no_write_is_lost(tmp_path):
    path = tmp_path / "store.sqlite"
    corrupted_page(path)
    code = (
        "import sys, time\nfrom archcost.latency.store.store import Store\n"
        "from helpers.measurements import measured\n"
        "time.sleep(max(0, float(sys.argv[3]) - time.time()))\n"
        "Store(sys.argv[1]).put(measured(path=sys.argv[2]))\n"
    )
    start = str(time.time() + 3)
    commands = [[sys.executable, "-W", "ignore", "-c", code, str(path), f"by-{n}", start] for n in range(4)]
    processes = [subprocess.Popen(command, cwd=TESTS) for command in commands]
    assert [process.wait() for process in processes] == [0] * 4
    assert [one.key.path for one in Store(path)] == ["by-0", "by-1", "by-2", "by-3"]
    assert [p.name for p in tmp_path.glob("*.corrupt-?")] == ["store.sqlite.corrupt-1"]


def test_a_good_file_is_not_warned_of(place):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Store(place).put(measured())
        assert len(Store(place)) == 1


def test_a_file_of_a_later_version_is_refused_and_left_as_it_is(place):
    Store(place).put(measured())
    connection = sqlite3.connect(place)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="is of version 99, and this archcost knows 2: update archcost"):
        Store(place).all()
    assert not list(place.parent.glob("*corrupt*"))


# A file as archcost wrote it before kinds had a column of their own.
VERSION_1 = """
CREATE TABLE IF NOT EXISTS measurements (
    fingerprint TEXT NOT NULL, spec TEXT NOT NULL, dtype TEXT NOT NULL, layout TEXT NOT NULL,
    threads INTEGER NOT NULL, path TEXT NOT NULL,
    device TEXT NOT NULL, median_s REAL NOT NULL, spread_s REAL, samples INTEGER NOT NULL,
    dropped INTEGER NOT NULL, clock TEXT NOT NULL, torch TEXT NOT NULL,
    disturbed INTEGER NOT NULL, error REAL, workspace_bytes INTEGER, measured_at REAL NOT NULL,
    PRIMARY KEY (fingerprint, spec, dtype, layout, threads, path)
) WITHOUT ROWID
"""
# By the path's name of then: the kind and path of now.
NAMES_1 = {
    "winograd-4": ("path", "winograd-4"),
    "winograd-4, cold": ("cold", "winograd-4"),
    "winograd-4, in a model": ("in a model", "winograd-4"),
    "winograd-4, in a model, clamped to 0..6 (no NaN)": (
        "in a model",
        "winograd-4, clamped to 0..6 (no NaN)",
    ),
    "chain 0123456789ab": ("chain", "0123456789ab"),
    "before chain 0123456789ab": ("before chain", "0123456789ab"),
    "roofline-product": ("roofline", "product"),
    "roofline-copy": ("roofline", "copy"),
}


def write_version_1(path):
    connection = sqlite3.connect(path)
    connection.execute(VERSION_1)
    for number, name in enumerate(NAMES_1):
        row = ("f" * 16, spec_json(SPEC), "float32", "contiguous", 1, name, "a machine", 1e-3 * (number + 1),
               None, 9, 1, "cpu", "2.9", number % 2, 1e-6, 4096, 1000.0 + number)  # fmt: skip
        connection.execute(f"INSERT INTO measurements VALUES ({', '.join('?' * len(row))})", row)
    connection.execute("PRAGMA application_id = 0x61726363")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()


def rows_of(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT path, median_s FROM measurements ORDER BY median_s").fetchall()
    finally:
        connection.close()


def test_a_file_of_version_1_keeps_every_time_under_its_kind(tmp_path):
    path = tmp_path / "store.sqlite"
    write_version_1(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sorted(Store(path), key=lambda one: one.median_s)
    assert [(one.key.kind, one.key.path) for one in found] == list(NAMES_1.values())
    for number, one in enumerate(found):
        assert one == Measurement(
            Key("f" * 16, SPEC, "float32", one.key.path, kind=one.key.kind), "a machine", 1e-3 * (number + 1),
            None, 9, 1, "cpu", "2.9", number % 2 == 1, 1e-6, 4096, 1000.0 + number,
        )  # fmt: skip
    assert Store(path).all() == sorted(found, key=lambda one: one.key.columns)  # a second time, as it is now
    with Store(path) as store:
        store.put(measured(threads=2))
        assert len(store) == len(NAMES_1) + 1


def test_a_key_with_its_kind_in_the_paths_name_finds_what_one_of_now_does():
    old = OldKey("f" * 16, SPEC, "float32", "fft, in a model", layout="channels_last")
    now = Key("f" * 16, SPEC, "float32", "fft", layout="channels_last", kind="in a model")
    assert (old.kind, old.path, old.columns) == (now.kind, now.path, now.columns)
    store = Store(":memory:")
    store.put(replace(measured(), key=old))
    assert store.get(now).key == now


def test_an_upgrade_that_is_killed_leaves_the_old_file(tmp_path):
    path = tmp_path / "store.sqlite"
    write_version_1(path)
    before = rows_of(path)
    code = (
        "import os, sys; from archcost.latency.store import store\n"
        "real, seen = store.kind_and_path, []\n"
        "def dies(name):\n"
        "    seen.append(name)\n"
        "    if len(seen) == 4: os.kill(os.getpid(), 9)\n"
        "    return real(name)\n"
        "store.kind_and_path = dies\n"
        "store.Store(sys.argv[1]).all()\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -signal.SIGKILL
    assert rows_of(path) == before
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()
    assert len(Store(path)) == len(NAMES_1)


def test_an_upgrade_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "store.sqlite"
    write_version_1(path)
    before = rows_of(path)
    with monkeypatch.context() as patched:
        patched.setattr(of_store, "kind_and_path", {"winograd-4": ("path", "winograd-4")}.__getitem__)
        with pytest.raises(KeyError):
            Store(path).all()
    assert rows_of(path) == before
    assert len(Store(path)) == len(NAMES_1)


def test_exported_lines_of_version_1_are_taken_in_by_kind(tmp_path):
    lines = []
    for name in NAMES_1:
        record = {**measured().record(), "path": name}
        del record["kind"]
        lines.append(json.dumps(record))
    (tmp_path / "lines").write_text("\n".join(lines))
    store = Store(":memory:")
    assert store.import_(tmp_path / "lines") == len(NAMES_1)
    assert {(one.key.kind, one.key.path) for one in store} == set(NAMES_1.values())


@pytest.mark.parametrize("errors_have_codes", [True, False])
def test_what_is_wrong_with_a_file_is_known_by_code_and_before_python_3_11_by_words(
    errors_have_codes, tmp_path
):
    held = tmp_path / "held"
    Store(held).put(measured())
    a_text(tmp_path / "text")
    changed_table(tmp_path / "changed")
    holder = sqlite3.connect(held, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    codes = []
    for name, query in (
        ("held", "BEGIN IMMEDIATE"),
        ("text", "SELECT 1 FROM x"),
        ("changed", "SELECT 1 FROM x"),
    ):
        connection = sqlite3.connect(tmp_path / name, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(query)
        connection.close()
        error = caught.value
        if not errors_have_codes:
            error = sqlite3.OperationalError(str(error))
        elif not hasattr(error, "sqlite_errorcode"):
            pytest.skip("errors of this Python have no codes")
        codes.append(database._code(error))
    holder.close()
    assert codes == [database._LOCKED if not errors_have_codes else database._BUSY, 26, 1]
