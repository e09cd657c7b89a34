"""The store: what was acknowledged is there, once; whatever the file was, nothing of it is lost."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from datetime import timedelta

import pytest

from archcost import ConvSpec
from archcost.cli import main
from archcost.latency.store import database
from archcost.latency.store import store as of_store
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.measurement import OldKey, spec_json
from archcost.latency.store.store import Key, Measurement, Store, StoreError, default_path
from archcost.latency.timing.clock import Timing

SPEC = ConvSpec(64, 64, 3, padding=1, input_size=(56, 56))


def measured(spec=SPEC, path="winograd-4", at=1000.0, median=0.002, device="a machine", mark="f" * 16, **key):
    return Measurement(
        Key(mark, spec, key.pop("dtype", "float32"), path, **key), device, median, 0.0001, 9, 1,
        "cpu", "2.9", disturbed=False, error=1e-6, workspace_bytes=4096, measured_at=at,
    )  # fmt: skip


@pytest.fixture
def place(tmp_path):
    return tmp_path / "deep" / "store.sqlite"


def test_what_is_put_is_got_by_an_equal_key(place):
    one = measured(ConvSpec(3, 8, (3, 5), stride=2, padding=[(0, 1), (2, 2)], input_size=(9, 9), batch=4))
    one = replace(one, disturbed=True)
    with Store(place) as store:
        store.put(one)
    with Store(place) as store:
        assert store.get(one.key) == one
        assert store.all() == [one]
        assert isinstance(store.all()[0].key.spec.kernel_size, tuple)
        for other in ({"dtype": "float16"}, {"threads": 2}, {"layout": "channels_last"}, {"path": "native"},
                      {"kind": "cold"}):  # fmt: skip
            assert store.get(replace(one.key, **other)) is None


def test_the_later_measurement_of_a_key_counts_whichever_is_put_first():
    early, late = measured(at=1.0, median=0.5), measured(at=2.0, median=0.25)
    for order in ([early, late], [late, early]):
        store = Store(":memory:")
        for one in order:
            store.put(one)
        assert store.all() == [late]
        assert len(store) == 1


def test_many_are_put_together_or_not_at_all(place):
    with Store(place) as store:
        with pytest.raises(AttributeError):
            store.put_many([measured(), None])
        assert len(store) == 0
        store.put_many(measured(threads=n) for n in (1, 2, 3))
        assert [one.key.threads for one in store] == [1, 2, 3]


def test_all_of_one_fingerprint():
    store = Store(":memory:")
    store.put_many([measured(), measured(mark="0" * 16)])
    assert [one.key.fingerprint for one in store.all("0" * 16)] == ["0" * 16]


def test_a_timing_becomes_a_measurement_with_the_clock_asked_for():
    timing = Timing("one", (0.25, 0.5, 0.75), (1.0, 2.0, 4.0), (0, 1, 2), 1, 4, False, 0)
    device = fingerprint()
    key = Key(device.hash, SPEC, "float32", "native")
    cpu = Measurement.of(key, timing, device, error=1e-6)
    wall = Measurement.of(key, timing, device, clock="wall", workspace_bytes=7)
    assert (cpu.median_s, cpu.spread_s, cpu.samples, cpu.dropped) == (0.5, 0.25, 3, 4)
    assert (wall.median_s, wall.spread_s, wall.workspace_bytes, wall.clock) == (2.0, 1.5, 7, "wall")
    assert cpu.device == str(device)
    assert abs(cpu.measured_at - time.time()) < 60
    lone = Measurement.of(key, replace(timing, cpu_seconds=(0.5,), wall_seconds=(0.5,), rounds=(0,)), device)
    assert lone.spread_s is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"median_s": float("nan")}, "median_s must be a number"),
        ({"median_s": -1.0}, "median_s must be a number"),
        ({"samples": 0}, "samples must be a whole number, at least 1"),
        ({"clock": "sundial"}, "clock must be one of cpu, wall, cuda"),
        ({"disturbed": 1}, "disturbed must be true or false"),
        ({"device": None}, "device must be text"),
        ({"workspace_bytes": 1.5}, "workspace_bytes must be a whole number"),
    ],
)
def test_no_nonsense_is_measured(change, said):
    with pytest.raises(StoreError, match=said):
        replace(measured(), **change)


def test_the_default_place_is_the_cache_folder_or_what_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.delenv("ARCHCOST_STORE", raising=False)
    assert default_path().endswith("measurements.sqlite")
    assert "archcost" in default_path()
    monkeypatch.setenv("ARCHCOST_STORE", str(tmp_path / "mine"))
    assert Store().path == str(tmp_path / "mine")
    assert Store(":memory:").path == ":memory:"


def corrupted_page(path):
    """A file of ours with rubbish in the middle: it opens, and fails when read."""
    with Store(path) as store:
        store.put_many(measured(threads=n) for n in range(1, 200))
    data = bytearray(path.read_bytes())
    data[4096 + 8 :] = b"\xa5" * (len(data) - 4096 - 8)
    path.write_bytes(data)


def foreign_database(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (precious)")
    connection.close()


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
        "import sys, time; from test_store import Store, measured\n"
        "time.sleep(max(0, float(sys.argv[3]) - time.time()))\n"
        "Store(sys.argv[1]).put(measured(path=sys.argv[2]))\n"
    )
    start, here = str(time.time() + 3), os.path.dirname(__file__)
    commands = [[sys.executable, "-W", "ignore", "-c", code, str(path), f"by-{n}", start] for n in range(4)]
    processes = [subprocess.Popen(command, cwd=here) for command in commands]
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


def test_a_file_replaced_meanwhile_is_opened_again(place):
    store = Store(place)
    store.put(measured())
    place.rename(place.with_name("moved"))
    assert store.all() == []
    store.put(measured(threads=2))
    assert [one.key.threads for one in Store(place)] == [2]


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "store"):
        with pytest.raises(StoreError, match="ARCHCOST_STORE"):
            Store(path).put(measured())


def test_one_who_holds_the_file_too_long_is_named(place):
    Store(place).put(measured())
    holder = sqlite3.connect(place, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    store = Store(place)
    store._database.patience = 0.05
    assert len(store) == 1  # who only reads does not wait
    with pytest.raises(StoreError, match="another process holds it"):
        store.put(measured(threads=2))
    holder.close()
    store.put(measured(threads=2))
    assert len(store) == 2


def test_export_and_import_keep_everything_and_the_later_of_two_wins(tmp_path):
    ours, theirs = Store(":memory:"), Store(":memory:")
    ours.put_many([measured(at=5.0, median=0.5), measured(threads=2, at=5.0)])
    theirs.put_many(
        [measured(at=4.0), measured(threads=2, at=6.0), replace(measured(threads=3), spread_s=None)]
    )
    assert theirs.export(tmp_path / "lines") == 3
    assert [type(json.loads(line)) for line in (tmp_path / "lines").read_text().splitlines()] == [dict] * 3
    assert ours.import_(tmp_path / "lines") == 3
    assert [(one.key.threads, one.measured_at) for one in ours] == [(1, 5.0), (2, 6.0), (3, 1000.0)]
    again = Store(":memory:")
    again.import_(tmp_path / "lines")
    assert again.all() == theirs.all()


def changed(**change):
    return json.dumps({**measured(threads=7).record(), **change})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: Expecting property name"),
        ("[1]", "is no object with names"),
        ('{"device": "x"}', "fingerprint, spec, dtype, path, layout, threads, .* missing"),
        (changed(colour=1), "colour unknown"),
        (changed(threads="2"), "threads must be a whole number"),
        (changed(median_s=None), "median_s must be a number"),
        (changed(spec={}), "no convolution: .*batch.* missing or unknown"),
        (changed(spec={**measured().record()["spec"], "in_channels": 1.0}), "in_channels is 1.0"),
        (changed(spec={**measured().record()["spec"], "groups": 7}), "groups=7 must divide"),
        (changed(spec={**measured().record()["spec"], "padding": [[1], [1]]}), "no convolution"),
        ("[" * 100_000, "line 2"),
    ],
)
def test_a_wrong_line_is_named_and_nothing_is_half_done(line, said, tmp_path):
    (tmp_path / "lines").write_text(f"{json.dumps(measured().record())}\n{line}\n")
    store = Store(":memory:")
    with pytest.raises(StoreError, match=said) as caught:
        store.import_(tmp_path / "lines")
    assert "line 2" in str(caught.value)
    assert len(store) == 0


def test_prune_removes_the_old_and_the_foreign_and_nothing_else():
    own, now = fingerprint().hash, time.time()
    store = Store(":memory:")
    store.put_many([measured(mark=own, at=now), measured(mark=own, at=now - 9 * 86400, threads=2)])
    store.put_many([measured(mark="elsewhere", at=now)])
    assert store.prune(older_than=timedelta(days=8)) == 1
    assert store.prune(other_devices=True) == 1
    assert [one.key.fingerprint for one in store] == [own]
    with pytest.raises(StoreError, match="say what to remove"):
        store.prune()


def test_a_forked_child_writes_through_a_connection_of_its_own(place):
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    store = Store(place)
    store.put(measured())
    code = (
        "import os, sys; from test_store import Store, measured\n"
        "store = Store(sys.argv[1]); store.put(measured(threads=1))\n"
        "child = os.fork()\n"
        "store.put(measured(threads=2 if child else 3))\n"
        "if child: sys.exit(os.waitpid(child, 0)[1])\n"
    )
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code, str(place)], check=True, cwd=here)
    assert [one.key.threads for one in store] == [1, 2, 3]


WRITER = """
import sys
from test_store import Store, measured
store, who, number = Store(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
while True:
    number += 1
    store.put(measured(threads=number, path=f"writer-{who}", median=number / 1e6))
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def write_and_kill(place, folder, writers, seconds, pause):
    """Several processes write and say what was acknowledged; one after the other is killed and begun anew."""
    acknowledged, running, kills = {who: [] for who in range(writers)}, {}, 0

    def begin(who, first):
        with open(folder / f"{who}.txt", "a") as out:
            command = [sys.executable, "-c", WRITER, str(place), str(who), str(first)]
            running[who] = subprocess.Popen(command, stdout=out, cwd=os.path.dirname(__file__))

    def said(who):
        # A line that was cut off was not said.
        text = (folder / f"{who}.txt").read_text() if (folder / f"{who}.txt").exists() else ""
        return [int(line) for line in text.split("\n")[:-1] if line]

    try:
        for who in range(writers):
            begin(who, 0)
        end = time.monotonic() + seconds
        # Begun are those that have written: to load Python takes longer than some of these tests.
        while not all(said(who) for who in range(writers)):
            assert all(process.poll() is None for process in running.values())
            time.sleep(0.05)
        end = max(end, time.monotonic() + seconds / 2)
        while time.monotonic() < end:
            time.sleep(pause)
            victim = random.Random(kills).randrange(writers)
            running[victim].send_signal(signal.SIGKILL)
            running[victim].wait()
            kills += 1
            begin(victim, max(said(victim), default=0) + 1000)
        assert all(process.poll() is None for process in running.values())
    finally:
        for process in running.values():
            process.kill()
            process.wait()
    for who in range(writers):
        acknowledged[who] = said(who)
    return acknowledged, kills


def check_acknowledged(place, folder, writers, seconds, pause):
    acknowledged, kills = write_and_kill(place, folder, writers, seconds, pause)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = [(one.key.path, one.key.threads, one.median_s) for one in Store(place)]
    assert len(stored) == len(set(stored))
    expected = {(f"writer-{who}", n, n / 1e6) for who, found in acknowledged.items() for n in found}
    assert expected <= set(stored)
    # What was written and not said any more: at most one by each process that was killed.
    assert len(stored) - len(expected) <= kills + writers
    assert kills
    assert all(acknowledged.values())


def test_every_acknowledged_measurement_is_there_once_though_writers_are_killed(place, tmp_path):
    check_acknowledged(place, tmp_path, writers=3, seconds=3, pause=0.4)


@pytest.mark.exhaustive
def test_eight_writers_for_a_minute_one_killed_every_second(place, tmp_path):
    check_acknowledged(place, tmp_path, writers=8, seconds=60, pause=1.0)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A store with two measurements, as the environment names it."""
    monkeypatch.setenv("ARCHCOST_STORE", str(tmp_path / "store.sqlite"))
    monkeypatch.chdir(tmp_path)
    with Store() as store:
        store.put_many([measured(at=time.time()), measured(path="native", at=1.0, mark="0" * 16)])
    return tmp_path


def test_the_command_lists_what_is_kept(kept, capsys):
    assert main(["store", "list"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "winograd-4" in out
    assert "64 -> 64, 3x3, padding 1, on 56x56, batch 1" in out
    assert "2 measurements of 2 devices" in out
    assert main(["store", "list", "--format", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["path"] for one in listed["measurements"]] == ["native", "winograd-4"]
    assert listed["store"] == str(kept / "store.sqlite")


def test_the_command_exports_and_imports_and_keeps_a_file_that_is_there(kept, capsys):
    assert main(["store", "export", "-o", "lines"]) == 0
    assert main(["store", "export", "-o", "lines"]) == 2
    assert "--force overwrites it" in capsys.readouterr().err
    assert main(["store", "export"]) == 0
    assert capsys.readouterr().out == (kept / "lines").read_text()
    assert main(["store", "import", "lines", "--store", "other"]) == 0
    assert capsys.readouterr().err == "2 measurements read\n"
    assert Store("other").all() == Store().all()
    (kept / "lines").write_text("nonsense\n")
    assert main(["store", "import", "lines"]) == 2
    assert "line 1" in capsys.readouterr().err


def test_the_command_prunes_and_says_where_the_store_is(kept, capsys):
    assert main(["store", "prune"]) == 2
    assert "say what to remove" in capsys.readouterr().err
    assert main(["store", "prune", "--older-than", "30"]) == 0
    assert capsys.readouterr().err == "1 measurement removed, 1 kept\n"
    assert main(["store", "path"]) == 0
    assert capsys.readouterr().out == f"{kept / 'store.sqlite'}\n"
    with pytest.raises(SystemExit):
        main(["store", "prune", "--older-than", "-1"])


def test_an_empty_store_is_listed_as_such(kept, capsys):
    assert main(["store", "list", "--store", ":memory:"]) == 0
    assert "0 measurements" in capsys.readouterr().out


def test_the_file_of_another_program_is_set_aside_by_the_command_in_one_line(kept, capsys):
    foreign_database(kept / "theirs")
    assert main(["store", "list", "--store", "theirs"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("archcost: the store of measurements theirs cannot be used")
    assert err.count("\n") == 1
