"""What scheduling costs: tasks that measure nothing, through dask's scheduler, the run's loop and the store.

python benchmarks/fleet.py 1000 10000
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from distributed import Client, LocalCluster

from archcost.fleet.engines import OnDask, startup
from archcost.fleet.gate import token
from archcost.fleet.kept import FleetStore
from archcost.fleet.running import Run
from archcost.fleet.tasks import Layer, from_record
from archcost.fleet.worker import Order
from archcost.spec import ConvSpec


def nothing(order: Order) -> dict[str, object]:
    """Perform an order without measuring."""
    assert from_record(order.task).key
    return {"result": {"times": [], "refused": {}, "reference_s": 0.001}}


def main(counts: list[int]) -> None:
    cluster = LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        dashboard_address=None,
        silence_logs=50,
        resources={token("a"): 1},
        startup_information={"archcost": startup("a")},
    )
    with cluster, Client(cluster) as client:
        for count in counts:
            tasks = [Layer(ConvSpec(1, n + 1, 1, input_size=(4,)), "float32", 1, ()) for n in range(count)]
            with tempfile.TemporaryDirectory() as folder, FleetStore(Path(folder) / "fleet.sqlite") as store:
                run = Run(OnDask(client), store, tasks, perform=nothing)
                wall, cpu = time.perf_counter(), time.process_time()
                run.to_end(False)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                assert run.finished == count
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{count} tasks: {wall / count * 1e3:.2f} ms a task, {cpu / count * 1e3:.2f} ms of CPU time "
                f"(client and scheduler), peak {peak:.0f} MiB",
                flush=True,
            )


if __name__ == "__main__":
    main([int(one) for one in sys.argv[1:]] or [1000, 10000])
