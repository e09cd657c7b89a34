"""Workers of a test's own: they measure nothing, or misbehave."""

import os
import time

from archcost.fleet.tasks import Layer, Model, Product, Step, from_record
from archcost.fleet.worker import facts
from archcost.spec import ConvSpec

SPECS = [ConvSpec(8, 8 * n, 3, padding=1, input_size=(14, 14)) for n in range(1, 6)]
LAYERS = [Layer(spec, "float32", 1, ("native",)) for spec in SPECS]
HANGING, KILLED, RAISING = LAYERS[1].key, LAYERS[2].key, LAYERS[3].key


def times(task, median=0.001):
    """A result of a task, as if it had been measured."""
    spec = from_record(task.record()).record()["spec"]
    one = {
        "fingerprint": "f" * 16, "spec": spec, "dtype": task.dtype, "path": "native", "layout": "contiguous",
        "threads": task.threads, "kind": "path", "device": "a machine", "median_s": median, "spread_s": 1e-5,
        "samples": 9, "dropped": 0, "clock": "cpu", "torch": "2.9", "disturbed": False, "error": 1e-7,
        "workspace_bytes": None, "measured_at": 1000.0, "q1_s": median, "q3_s": median,
    }  # fmt: skip
    return {"times": [one], "refused": {}, "reference_s": 0.001}


def whole(seconds):
    """A result of a whole model."""
    found = {"median_s": seconds, "q1_s": seconds, "q3_s": seconds, "samples": 9, "dropped": 0}
    return {"model": {**found, "clock": "cpu", "disturbed": False}, "reference_s": 0.001}


def result(task, reference=0.001):
    if isinstance(task, Layer):
        return {**times(task), "reference_s": reference}
    if isinstance(task, Product):
        return {"product": whole(0.01)["model"], "reference_s": reference}
    if isinstance(task, Step):
        return {"step": whole(0.01)["model"], "variant": "direct", "reference_s": reference}
    return {**(whole(0.01) if isinstance(task, Model) else {}), "reference_s": reference}


def at_once(order):
    """Perform an order without measuring."""
    task = from_record(order.task)
    return {"result": result(task), "mark": facts(order.device)["mark"]}


def in_fork(record, seconds):
    """Run in the measuring process: one task hangs, one is killed, one raises, the others have a result."""
    task = from_record(record)
    print("this is its output", flush=True)
    if hasattr(os, "sched_getaffinity"):
        print(f"measured on cores {os.sched_getaffinity(0)}", flush=True)
    print(f"memory is given back at {os.environ.get('MALLOC_TRIM_THRESHOLD_')}", flush=True)
    if task.key == HANGING:
        time.sleep(60)
    if task.key == KILLED:
        os.kill(os.getpid(), 9)
    if task.key == RAISING:
        raise ValueError("a wrong weight")
    return result(task)
