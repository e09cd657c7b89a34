"""Tasks: distinct, small, checked when they come back, kept exactly once."""

import json
import pickle
import time

import pytest

from archcost.errors import SpecError
from archcost.fleet.errors import FleetError
from archcost.fleet.kept import FleetStore, checked, mark_of, merge
from archcost.fleet.paper import expanded, on_paper, refuse_code
from archcost.fleet.tasks import Layer, Model, Product, from_record, tasks_of
from archcost.latency.store.store import Store, StoreError
from helpers.fleet import LAYERS, times, whole
from helpers.measurements import measured

MARK = mark_of("f" * 16, "pi5")
MODEL = Model("torchvision:resnet18", 1, 1)


def test_the_layers_of_a_zoo_are_tasks_once():
    papers = on_paper("torchvision:squeezenet1_1", [1, 2])
    tasks = tasks_of([*papers, *papers], [1], ("native",))
    layers = [task for task in tasks if isinstance(task, Layer)]
    assert (
        len(layers) == len({task.key for task in layers}) == sum(len(one["convolutions"]) for one in papers)
    )
    assert papers[1]["macs"] == 2 * papers[0]["macs"]
    assert [task.batch for task in tasks if isinstance(task, Model)] == [1, 2]


def test_a_task_is_a_small_value_that_travels_as_json():
    for task in (*LAYERS, Product((2, 5, 7, 3), 1), MODEL):
        assert from_record(json.loads(json.dumps(task.record()))) == task
        assert len(pickle.dumps(task.record())) < 1000
    with pytest.raises(FleetError, match="no task"):
        from_record({"kind": "layer", "spec": "x"})


def test_a_result_with_a_wrong_value_is_refused():
    task = LAYERS[0]
    assert checked(task, times(task))["reference_s"] == 0.001
    for name, value in {"median_s": -1.0, "clock": "sun", "q1_s": "x", "threads": 2, "path": 3}.items():
        wrong = times(task)
        wrong["times"][0][name] = value
        with pytest.raises(FleetError, match="sent no result"):
            checked(task, wrong)
    with pytest.raises(FleetError, match="another layer"):
        checked(LAYERS[1], times(task))
    with pytest.raises(FleetError):
        checked(MODEL, {**whole(1.0), "more": 1})


def test_a_result_is_kept_once_and_a_failure_does_not_hide_it(tmp_path):
    with FleetStore(tmp_path / "a.sqlite") as store:
        for _ in range(3):
            store.keep(LAYERS[0], MARK, times(LAYERS[0]))
        store.keep(LAYERS[0], MARK, {"failed": "it hung", "log": ""})
        store.keep(LAYERS[1], MARK, {"failed": "it hung", "log": ""})
        assert store.states(MARK) == {LAYERS[0].key: "done", LAYERS[1].key: "failed"}
        assert [one.key.fingerprint for one in store.all()] == [MARK]
        store.keep(LAYERS[1], MARK, times(LAYERS[1]))
        assert set(store.states(MARK).values()) == {"done"}


def test_what_ended_together_is_kept_in_one_transaction(tmp_path, monkeypatch):
    with FleetStore(tmp_path / "a.sqlite") as store:
        waits = []
        do = store._database.do
        monkeypatch.setattr(store._database, "do", lambda *a, **how: waits.append(1) or do(*a, **how))
        store.states(MARK)  # makes the tables
        waits.clear()
        store.keep_many([(one, MARK, times(one)) for one in LAYERS] + [(MODEL, MARK, {"failed": "it hung"})])
        assert len(waits) == 1
        assert sorted(store.states(MARK).values()) == ["done"] * len(LAYERS) + ["failed"]
        assert len(store) == len(LAYERS)


def test_stores_are_merged_the_later_and_the_done_count(tmp_path):
    with FleetStore(tmp_path / "a") as a, FleetStore(tmp_path / "b") as b, Store(tmp_path / "c") as c:
        a.keep(LAYERS[0], MARK, times(LAYERS[0], 1.0), at=time.time())
        a.keep(LAYERS[1], MARK, {"failed": "it hung", "log": ""})
        b.keep(LAYERS[1], MARK, times(LAYERS[1]))
        b.keep_papers([{"model": "torchvision:resnet18", "batch": 1}])
        c.put(measured())
    assert merge(tmp_path / "all", [tmp_path / "a", tmp_path / "b", tmp_path / "c"]) == 6
    with FleetStore(tmp_path / "all") as found:
        assert len(found) == 3
        assert list(found.states(MARK).values()) == ["done", "done"]
        assert len(found.papers()) == 1
    with pytest.raises(StoreError, match="no store"):
        merge(tmp_path / "all", [tmp_path / "none"])


def test_patterns_take_classifiers_and_code_needs_leave():
    found = expanded(["torchvision:resnet*", "torchvision:resnet18", "mine.py:net"])
    assert found[-1] == "mine.py:net"
    assert len(found) == 6
    with pytest.raises(SpecError, match="no model matches"):
        expanded(["torchvision:nothing*"])
    with pytest.raises(FleetError, match="--allow-code"):
        refuse_code("mine.py:net", False)
    refuse_code("mine.py:net", True)
