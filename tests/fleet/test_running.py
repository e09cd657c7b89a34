"""A run, with workers that measure nothing: what is lost, and what is done twice."""

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest

from archcost.errors import InputError
from archcost.fleet.child import CORES, Child
from archcost.fleet.engines import LOCAL, Executing
from archcost.fleet.errors import FleetError
from archcost.fleet.fleet import measure
from archcost.fleet.kept import FleetStore
from archcost.fleet.limits import Limits
from archcost.fleet.running import Run
from archcost.fleet.states import State
from archcost.fleet.tasks import Model, from_record
from archcost.fleet.worker import FOLDER, Order, facts, perform
from helpers.fleet import HANGING, KILLED, LAYERS, RAISING, at_once, result


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "worker"))
    with FleetStore(tmp_path / "fleet.sqlite") as found:
        yield found


@pytest.fixture
def engine():
    with ThreadPoolExecutor(2) as pool:
        yield Executing(pool)


def test_every_task_is_done_and_the_same_run_again_does_nothing(store, engine):
    run = Run(engine, store, LAYERS, perform=at_once)
    run.to_end(False)
    assert run.finished == run.started == len(LAYERS) == len(store)
    again = Run(engine, store, LAYERS, perform=at_once)
    again.to_end(False)
    assert again.started == 0


def test_a_task_that_always_fails_is_reported_after_three_strikes(store, engine):
    tried = []

    def fails(order):
        tried.append(order.task)
        if from_record(order.task) == LAYERS[0]:
            return {"failed": "killed by SIGKILL", "log": "its last words"}
        return at_once(order)

    Run(engine, store, LAYERS, perform=fails).to_end(False)
    assert len(tried) == len(LAYERS) + 2
    failed = [found for _, _, state, found, _ in store.results() if state == "failed"]
    assert failed == [{"failed": "killed by SIGKILL", "log": "its last words"}]
    run = Run(engine, store, LAYERS, perform=at_once, retry=True)
    run.to_end(False)
    assert run.finished == 1


def test_ctrl_c_keeps_what_is_done_and_the_same_run_goes_on(store, engine):
    def interrupted(order):
        if from_record(order.task) == LAYERS[3]:
            raise KeyboardInterrupt
        return at_once(order)

    with pytest.raises(KeyboardInterrupt):
        Run(engine, store, LAYERS, perform=interrupted).to_end(False)
    done = len(store)
    run = Run(engine, store, LAYERS, perform=at_once)
    run.to_end(False)
    assert run.finished == len(LAYERS) - done
    assert len(store) == len(LAYERS)


def test_a_result_that_is_none_is_a_failure(store, engine):
    Run(engine, store, LAYERS[:1], perform=lambda order: {"result": {"times": "gone"}}).to_end(False)
    assert list(store.states(facts(LOCAL)["mark"]).values()) == ["failed"]


def test_a_device_that_drifts_is_set_aside_and_measured_again(store, engine):
    """After five tasks the next two find it 1.5 times slower; then it settles."""
    count, again, lock = [], [], threading.Lock()

    def drifts(order):
        with lock:
            count.append(order)
            if order.again and order.task["kind"] == "layer":
                again.append(order.task)
            slow = 6 <= len(count) <= 7
        task = from_record(order.task)
        return {"result": result(task, 0.0015 if slow else 0.001), "mark": facts(LOCAL)["mark"]}

    many = [*LAYERS, *[type(LAYERS[0])(one.spec, "float64", 1, one.paths) for one in LAYERS]]
    run = Run(engine, store, many, perform=drifts)
    run.to_end(False)
    assert run.states[LOCAL].drifts >= 1
    assert again
    assert len(store) == len(many)


def test_a_device_that_never_settles_is_given_up_with_what_is_done_kept(store, engine):
    """After five tasks each measurement finds it slower, though it looks calm in between."""

    def restless(order):
        task = from_record(order.task)
        slow = len(store) >= 5 and order.task["kind"] == "layer"
        return {"result": result(task, 0.0015 if slow else 0.001), "mark": facts(LOCAL)["mark"]}

    many = [*LAYERS, *[type(LAYERS[0])(one.spec, "float64", 1, one.paths) for one in LAYERS]]
    run = Run(engine, store, LAYERS, perform=restless)
    run.to_end(False)
    run = Run(engine, store, many, settle=0.5, perform=restless)
    run._look(first=True)
    run.states[LOCAL].references = [0.001] * 5
    with pytest.raises(FleetError, match="speed of local did not settle in 0 s; what is done is kept"):
        run.to_end(False)
    assert len(store) == len(LAYERS)


def test_a_device_has_settled_after_three_calm_looks():
    state = State("pi5", "f@pi5", "a machine", queue=deque())
    assert all(state.settled(0.001) for _ in range(5))
    assert not state.settled(0.0013)
    assert state.aside
    assert [state.settled(0.001) and state.aside for _ in range(3)] == [True, True, False]


def test_what_was_measured_beside_other_work_is_measured_again_once_that_has_ended(store, engine):
    """The first six measurements find it 1.5 times slower than it is."""
    asked, lock = [], threading.Lock()

    def beside(order):
        with lock:
            asked.append((order.task["kind"], order.again))
            slow = len(asked) <= 6
        task = from_record(order.task)
        return {"result": result(task, 0.0015 if slow else 0.001), "mark": facts(LOCAL)["mark"]}

    many = [*LAYERS, *[type(LAYERS[0])(one.spec, "float64", 1, one.paths) for one in LAYERS]]
    run = Run(engine, store, many, perform=beside)
    run.to_end(False)
    assert asked.count(("layer", True)) >= 6
    assert not run.states[LOCAL].aside
    assert {found["reference_s"] for *_, found, _ in store.results()} == {0.001}
    assert len(store) == len(many)


def test_a_noisy_device_may_be_allowed_more():
    state = State("pi5", "f@pi5", "a machine", queue=deque(), drift=0.6)
    for one in (*[0.001] * 5, 0.0015, 0.0005):
        assert state.settled(one)


@pytest.mark.parametrize("drift", [0, -1, "20 %"])
def test_no_drift_at_all_cannot_be_asked(drift):
    with pytest.raises(InputError, match=r"fleet: drift must be a number above 0, as 0\.2 for 20 %"):
        measure("torchvision:resnet18", drift=drift)


def test_a_short_burst_of_speed_is_no_new_level():
    state = State("pi5", "f@pi5", "a machine", queue=deque())
    bursts = [*[0.001] * 5, *[0.0007] * 9, *[0.001] * 3]
    for one in bursts:
        state.settled(one)
    assert not state.aside
    assert not state.faster
    for one in (*[0.0007, 0.0004] * 5, *[0.0013] * 10):  # of no one level, and slower
        state.settled(one)
    assert state.aside
    assert not state.faster
    for _ in range(10):
        state.settled(0.0007)
    assert state.faster
    assert state.slowed(0.001)
    assert not state.slowed(0.0008)


def test_a_large_model_may_take_longer_than_a_small_one(store):
    papers = {"torchvision:vit_h_14": 10**12, "torchvision:resnet18": 18 * 10**8}
    store.keep_papers({"model": name, "batch": 1, "macs": macs} for name, macs in papers.items())
    limits = Limits(store, (1.0, 2.0))
    large, small = (limits.of(Model(name, 1, 1), "f@a") for name in papers)
    assert large > 3600
    assert small < 300


def test_a_device_that_is_not_there_is_named(store, engine):
    run = Run(engine, store, LAYERS, devices=["pi5"], patience=0.1, perform=at_once)
    with pytest.raises(FleetError, match="no device pi5; devices there: local"):
        run.to_end(False)


def test_a_measurement_that_hangs_or_is_killed_costs_itself_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")  # as dask sets it for its workers
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    if core is not None:
        monkeypatch.setenv(CORES, str(core))
    child = Child("helpers.fleet:in_fork")
    try:
        found = {task.key: child.measure(task.record(), 1.0, 0.1) for task in LAYERS}
    finally:
        child.close()
    assert found[HANGING]["failed"] == "stopped at its limit of 1 s"
    assert found[KILLED]["failed"] == "killed by SIGKILL, as a system out of memory does"
    assert found[RAISING]["failed"] == "ValueError: a wrong weight"
    assert "this is its output" in found[KILLED]["log"]
    assert "memory is given back at None" in found[KILLED]["log"]
    assert core is None or f"measured on cores {{{core}}}" in found[KILLED]["log"]
    assert [key for key, one in found.items() if "result" in one] == [LAYERS[0].key, LAYERS[4].key]


def test_code_is_refused_by_a_worker_that_does_not_allow_it_at_once():
    refused = perform(Order(Model("tiny.py:net", 1, 1).record(), "pi5", 1.0, 0.1))
    assert refused["final"]
    assert "--allow-code" in refused["failed"]


def test_a_worker_keeps_its_result_before_it_reports(store, tmp_path, monkeypatch):
    """So that a result that was lost on the way is not measured again."""
    measured = []

    def once(self, task, limit, seconds):
        measured.append(task)
        return {"result": result(from_record(task))}

    monkeypatch.setattr(Child, "measure", once)
    order = Order(LAYERS[0].record(), "pi5", 1.0, 0.1)
    first, second = perform(order), perform(order)
    assert first["result"]["times"][0]["median_s"] == second["result"]["times"][0]["median_s"]
    assert (len(measured), "kept" in first, second["kept"]) == (1, False, True)
