"""The store: what is put is got by an equal key, exported, imported and pruned as asked."""

import json
import sqlite3
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from archcost import ConvSpec
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.store import Key, Measurement, Store, StoreError, default_path
from archcost.latency.timing.clock import Timing
from helpers.measurements import SPEC, measured


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
