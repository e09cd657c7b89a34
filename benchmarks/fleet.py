"""What scheduling costs: tasks that measure nothing, through dask's scheduler, the run's loop and the store.

python benchmarks/fleet.py 1000 10000
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from archcost.errors import ArchcostError
from archcost.fleet.engines import OnDask
from archcost.fleet.kept import FleetStore
from archcost.fleet.running import Run
from archcost.fleet.tasks import Layer, from_record
from archcost.fleet.worker import Order
from archcost.spec import ConvSpec

URL = "tcp://127.0.0.1:18786"


def nothing(order: Order) -> dict[str, object]:
    """Perform an order without measuring."""
    assert from_record(order.task).key
    return {"result": {"times": [], "refused": {}, "reference_s": 0.001}}


def connected() -> OnDask:
    """The engine, once the scheduler is there."""
    for _ in range(100):
        with suppress(ArchcostError):
            return OnDask(URL)
        time.sleep(0.3)
    raise SystemExit("the scheduler did not start")


def main(counts: list[int]) -> None:
    code = "from distributed.cli.dask_scheduler import main; main()"
    scheduler = [sys.executable, "-c", code, "--host", "127.0.0.1", "--port", "18786", "--no-dashboard"]
    worker = [sys.executable, "-m", "archcost", "fleet", "worker", URL, "--device", "a"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    begun = [subprocess.Popen(one, **quiet) for one in (scheduler, worker)]
    every = {"client": psutil.Process()}
    every |= {name: psutil.Process(one.pid) for name, one in zip(("scheduler", "worker"), begun, strict=True)}
    print("| tasks | wall ms a task | CPU ms: client | scheduler | worker | MiB: client | scheduler |")
    print("|---" * 7 + "|")
    try:
        for count in counts:
            tasks = [Layer(ConvSpec(1, n + 1, 1, input_size=(4,)), "float32", 1, ()) for n in range(count)]
            with tempfile.TemporaryDirectory() as folder, FleetStore(Path(folder) / "fleet.sqlite") as store:
                run = Run(connected(), store, tasks, patience=60, perform=nothing)
                run._look(first=True)
                before, wall = [sum(p.cpu_times()[:2]) for p in every.values()], time.perf_counter()
                run.to_end(False)
                wall, after = time.perf_counter() - wall, [sum(p.cpu_times()[:2]) for p in every.values()]
                cpu = [(b - a) / count * 1e3 for a, b in zip(before, after, strict=True)]
                assert run.finished == count
                run.engine.close()
            kept = [every[name].memory_info().rss >> 20 for name in ("client", "scheduler")]
            figures = [f"{wall / count * 1e3:.2f}", *(f"{one:.2f}" for one in cpu), *map(str, kept)]
            print(f"| {count} | {' | '.join(figures)} |", flush=True)
    finally:
        for one in reversed(begun):
            one.terminate()
            one.wait()


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]] or [1000, 10000])
