"""A fleet under faults beside a quiet one: four workers in network namespaces of this machine (Linux, root).

Workers are killed every ten seconds for two minutes, one is cut off, one is paused, the scheduler is killed
and started again, tasks hang and run out of memory, and workers with another PyTorch and a false name try to
join. The tasks that the two runs have done must be the same.

python benchmarks/fleet_faults.py [--layers 60]
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from archcost.fleet import limits
from archcost.fleet.engines import OnDask
from archcost.fleet.kept import FleetStore
from archcost.fleet.measuring import measured as really
from archcost.fleet.running import Run
from archcost.fleet.tasks import Layer, from_record
from archcost.fleet.worker import FOLDER
from archcost.latency import candidates
from archcost.spec import ConvSpec

HERE = Path(__file__).resolve().parent
IP = shutil.which("ip") or "/usr/sbin/ip"
DEVICES = {"a": "10.77.0.2", "b": "10.77.0.3", "c": "10.77.0.4", "d": "10.77.0.5"}
HOST, PORT = "10.77.0.1", 18787
URL = f"tcp://{HOST}:{PORT}"
MEMORY = 3 << 29
FAULTY = "ARCHCOST_FLEET_FAULTS"
"""Set where tasks that fail once are to do so; those that always fail do so in the quiet run, too."""
HANGS_ONCE, HANGS, HOARDS_ONCE, HOARDS = 1001, 1002, 1003, 1004
"""Output channels of the layers that never return, and that take memory until they are killed."""


def measured(record: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Measure a task as any worker does, unless it is one that fails; runs in the fork."""
    task, folder = from_record(record), Path(os.environ[FOLDER])
    channels = task.spec.out_channels
    first = not (folder / f"tried-{channels}").exists() and FAULTY in os.environ
    (folder / f"tried-{channels}").touch()
    if channels == HANGS or (channels == HANGS_ONCE and first):
        time.sleep(1e6)
    if channels == HOARDS or (channels == HOARDS_ONCE and first):
        hoard = []
        while True:
            hoard.append(b"x" * (1 << 26))
    # Every layout is tried, however long a first call took, so that both runs have the same rows.
    candidates.FAR_S = 60.0
    found = really(record, seconds)
    with open(folder / "measured", "a") as log:
        log.write(f"{task.key}\n")
    return found


class Fleet:
    """A scheduler here, and a worker in each namespace that is started again whenever it ends."""

    def __init__(self, folder: Path, faulty: bool) -> None:
        self.folder, self.over = folder, False
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
        if faulty:
            self.environment[FAULTY] = "1"
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.scheduler = self.start_scheduler()
        for device in DEVICES:
            threading.Thread(target=self._supervise, args=(device,), daemon=True).start()

    def process(
        self, name: str, command: list[str], space: str | None, path: str | None = None
    ) -> subprocess.Popen[bytes]:
        environment = dict(self.environment)
        if path is not None:
            environment["PYTHONPATH"] = os.pathsep.join([path, environment["PYTHONPATH"]])
        inside = [IP, "netns", "exec", f"archcost-{space}"] if space else []
        with open(self.folder / f"{name}.log", "ab") as log:
            every = [*inside, sys.executable, *command]
            return subprocess.Popen(every, stdout=log, stderr=log, env=environment)

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        code = "from distributed.cli.dask_scheduler import main; main()"
        where = ["--host", HOST, "--port", str(PORT), "--no-dashboard"]
        return self.process("scheduler", ["-c", code, *where], None)

    def command(self, device: str, space: str) -> list[str]:
        found = ["fleet", "worker", URL, "--device", device, "--host", DEVICES[space]]
        return [*found, "--folder", str(self.folder / device)]

    def _supervise(self, device: str) -> None:
        (self.folder / device).mkdir(exist_ok=True)
        while not self.over:
            worker = self.process(device, ["-m", "archcost", *self.command(device, device)], device)
            confine(worker.pid, device)
            self.workers[device] = worker
            worker.wait()

    def kill(self, device: str) -> None:
        self.workers[device].kill()

    def pause(self, device: str) -> Callable[[], None]:
        """Stop a worker and what it has begun; gives the function that lets them go on."""
        every = family(self.workers[device].pid)
        for pid in every:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

        def go_on() -> None:
            for pid in every:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

        return go_on

    def restart(self) -> None:
        self.scheduler.kill()
        self.scheduler.wait()
        self.scheduler = self.start_scheduler()

    def joins(self, name: str, command: list[str], path: str | None = None) -> str:
        """The output of a worker that tries to join, ended after a minute."""
        worker = self.process(name, command, "d", path)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(60)
        worker.kill()
        worker.wait()
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        self.over = True
        for process in (*self.workers.values(), self.scheduler):
            process.kill()
            process.wait()


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def confine(pid: int, device: str) -> None:
    """Give a worker and what it begins a share of the memory of its own, in a cgroup."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    home = (first if first.is_dir() else second) / f"archcost-{device}"
    home.mkdir(exist_ok=True)
    limit = "memory.limit_in_bytes" if first.is_dir() else "memory.max"
    (home / limit).write_text(str(MEMORY))
    (home / "cgroup.procs").write_text(str(pid))


def ip(*words: str) -> None:
    subprocess.run([IP, *words], check=True, capture_output=True)


def spaces() -> None:
    """A network namespace for each device, on a bridge of this machine."""
    ip("link", "add", "archcost0", "type", "bridge")
    ip("addr", "add", f"{HOST}/24", "dev", "archcost0")
    ip("link", "set", "archcost0", "up")
    for device, address in DEVICES.items():
        space, link = f"archcost-{device}", f"archcost-{device}"
        ip("netns", "add", space)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", link, "master", "archcost0", "up")
        ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", space, "link", "set", "lo", "up")


def without_spaces() -> None:
    for device in DEVICES:
        subprocess.run([IP, "netns", "del", f"archcost-{device}"], capture_output=True)
    subprocess.run([IP, "link", "del", "archcost0"], capture_output=True)


Table = dict[str, tuple[int, str]]


def faults(fleet: Fleet, begun: Callable[[], bool], table: Table) -> None:
    """Inject all faults, by seconds since the first task was done."""
    while not begun():
        time.sleep(0.1)
    kills, ends = Counter[str](), []

    def kill(device: str) -> None:
        fleet.kill(device)
        kills["worker"] += 1
        table["kill -9 of a worker, every 10 s for 2 min"] = (kills["worker"], "started again")

    def cut() -> None:
        ip("link", "set", "archcost-b", "down")
        table["link cut for 30 s"] = (1, "back")

    def pause() -> None:
        ends.append(fleet.pause("c"))
        table["worker stopped for 20 s (SIGSTOP)"] = (1, "went on")

    def restart() -> None:
        fleet.restart()
        table["kill -9 of the scheduler"] = (1, "started again")

    def another_torch() -> None:
        other = fleet.folder / "other" / "torch-1.13.0.dist-info"
        other.mkdir(parents=True)
        (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.13.0\n")
        said = fleet.joins("other", ["-m", "archcost", *fleet.command("e", "d")], str(other.parent))
        table["worker with another PyTorch"] = (1, refusal(said))

    def false_name() -> None:
        said = fleet.joins("false", ["-m", "archcost", *fleet.command("a", "d")])
        table["worker with the name of another"] = (1, refusal(said))

    def false_name_unasked() -> None:
        code = (
            "import sys; from archcost.fleet import offering\n"
            "async def unasked(*_): pass\n"
            "offering._refusal = unasked\n"
            "from archcost.cli import main; main(sys.argv[1:])"
        )
        said = fleet.joins("unasked", ["-c", code, *fleet.command("a", "d")])
        refused = "refused: name taken" if "name taken" in said else "closed by the gate"
        table["the same, without asking first"] = (1, refused)

    moments: list[tuple[float, Callable[[], object]]] = [
        (10 * n, lambda n=n: kill("abcd"[(n - 1) % 4])) for n in range(1, 13)
    ]
    moments += [(15, cut), (45, lambda: ip("link", "set", "archcost-b", "up"))]
    moments += [(46, pause), (66, lambda: ends.pop()()), (75, restart)]
    moments += [(92, another_torch), (112, false_name), (125, false_name_unasked)]
    start, others = time.monotonic(), []
    for at, inject in sorted(moments, key=lambda one: one[0]):
        time.sleep(max(0.0, start + at - time.monotonic()))
        others.append(threading.Thread(target=inject))
        others[-1].start()
    for one in others:
        one.join()


def refusal(said: str) -> str:
    found = [line.partition("refuses this machine: ")[2] for line in said.splitlines()]
    return next((f"refused: {line}" for line in found if line), "NOT REFUSED")


def run(folder: Path, faulty: bool, layers: int) -> tuple[set[tuple[Any, ...]], Table]:
    """Measure all tasks on all devices; gives the rows of the store without their times."""
    limits.BESIDE = 20.0  # a task that hangs is stopped after some twenty seconds
    specs = [ConvSpec(8, n, 3, padding=1, input_size=(14, 14)) for n in range(8, 8 + layers)]
    failing = (HANGS_ONCE, HANGS, HOARDS_ONCE, HOARDS)
    specs += [ConvSpec(1, n, 1, input_size=(2, 2)) for n in failing]
    tasks = [Layer(spec, "float32", 1, ("native",)) for spec in specs]
    folder.mkdir()
    fleet, table, start = Fleet(folder, faulty), Table(), time.monotonic()
    try:
        with FleetStore(folder / "fleet.sqlite") as store:
            engine, seconds, way = OnDask(connected()), (0.5, 1.0), "fleet_faults:measured"
            # Four devices on two cores slow each other by up to three times: only a change above that is one.
            work = Run(engine, store, tasks, list(DEVICES), seconds, patience=180, drift=3.0, run=way)
            injecting = threading.Thread(target=faults, args=(fleet, lambda: work.finished > 0, table))
            if faulty:
                injecting.start()
            work.to_end(False)
            if faulty:
                injecting.join()
            results = store.results()
            rows: set[tuple[Any, ...]] = {(task.key, mark, state) for task, mark, state, _, _ in results}
            rows |= {one.key.columns for one in store.all()}
            reasons = Counter(found["failed"] for _, _, state, found, _ in results if state == "failed")
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            print(f"{log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
        raise
    finally:
        fleet.close()
    done = [Counter((folder / device / "measured").read_text().split()) for device in DEVICES]
    took = time.monotonic() - start
    twice = sum(sum(one.values()) - len(one) for one in done)
    aside = sum(one.drifts for one in work.states.values())
    print(
        f"{folder.name}: {took:.0f} s, {len(rows)} rows, {sum(map(len, done))} tasks measured "
        f"({twice} again, devices set aside {aside} times); failed: {dict(reasons)}; {'; '.join(work.notes)}",
        flush=True,
    )
    return rows, table


def connected() -> str:
    """The address of the scheduler, once it is there."""
    import socket

    for _ in range(300):
        with suppress(OSError):
            socket.create_connection((HOST, PORT), 1).close()
            return URL
        time.sleep(0.2)
    raise SystemExit("the scheduler did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=60, help="beside those that fail")
    layers = parser.parse_args().layers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    without_spaces()
    try:
        spaces()
        with tempfile.TemporaryDirectory() as folder:
            quiet, _ = run(Path(folder) / "quiet", False, layers)
            faulted, table = run(Path(folder) / "faults", True, layers)
    finally:
        without_spaces()
    table["task that never returns: once, and always"] = (2 * len(DEVICES), "stopped at its limit")
    table["task killed for memory (cgroup): once, and always"] = (2 * len(DEVICES), "killed by the kernel")
    print("\n| injected | times | what became of it |\n|---|---|---|")
    for what, (times, became) in table.items():
        print(f"| {what} | {times} | {became} |")
    lost, more = quiet - faulted, faulted - quiet
    print(f"\nrows of the quiet run: {len(quiet)}; lost: {len(lost)}; more: {len(more)}", *lost, *more)
    sys.exit(quiet != faulted)


if __name__ == "__main__":
    main()
