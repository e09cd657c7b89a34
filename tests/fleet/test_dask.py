"""A run on dask's own scheduler and workers: in this process, and as processes that are killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("distributed")
from distributed import Client, LocalCluster

from archcost.errors import InputError
from archcost.fleet.engines import OnDask, startup
from archcost.fleet.errors import FleetError
from archcost.fleet.fleet import measure
from archcost.fleet.gate import token, why_not
from archcost.fleet.kept import FleetStore
from archcost.fleet.offering import offer, security, status
from archcost.fleet.running import Run
from archcost.fleet.tasks import Layer
from archcost.fleet.worker import FOLDER, versions
from archcost.spec import ConvSpec
from helpers.fleet import LAYERS, at_once
from helpers.measurements import TESTS


def tasks(count):
    return [Layer(ConvSpec(1, n, 1, input_size=(4,)), "float32", 1, ("native",)) for n in range(1, count + 1)]


def facts(device, **versions_of):
    return {
        "device": device,
        "versions": {**versions(), **versions_of},
        "mark": f"f@{device}",
        "machine": "m",
    }


@pytest.fixture
def cluster():
    made = LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, silence_logs=50,
        resources={token("a"): 1}, startup_information={"archcost": startup("a")},
    )  # fmt: skip
    with made, Client(made, set_as_default=False) as client:
        yield client


@pytest.mark.slow
def test_tasks_go_to_the_device_that_offers_its_token(cluster, tmp_path):
    with FleetStore(tmp_path / "fleet.sqlite") as store:
        run = Run(OnDask(cluster), store, LAYERS, perform=at_once)
        run.to_end(False)
        assert list(run.states) == ["a"]
        assert len(store) == run.started == len(LAYERS)


def _told(device, **versions_of):
    """Facts of a worker that says of itself what it is told to."""
    return {"archcost": lambda worker: facts(device, **versions_of)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("joins", "reason"),
    [
        (_told("b", torch="1.0"), "device 'b' has torch 1.0, this run " + versions()["torch"]),
        (_told("a"), "device 'a' is measured by the worker at inproc://"),
    ],
    ids=["version", "name"],
)
def test_the_gate_closes_a_worker_that_joins_and_the_run_goes_on_without_it(cluster, tmp_path, joins, reason):
    engine = OnDask(cluster)
    first = list(cluster.scheduler_info(n_workers=-1)["workers"])

    async def join(dask_scheduler):
        from distributed import Worker

        worker = await Worker(dask_scheduler.address, nthreads=1, dashboard=False, startup_information=joins)
        await worker.finished()
        return worker.status.name

    assert cluster.run_on_scheduler(join) == "closed"
    assert list(cluster.scheduler_info(n_workers=-1)["workers"]) == first
    with FleetStore(tmp_path / "fleet.sqlite") as store:
        run = Run(engine, store, LAYERS, perform=at_once)
        run.to_end(False)
        assert len(store) == len(LAYERS)
        assert list(run.states) == ["a"]
        assert [reason in note for note in run.notes] == [True]


@pytest.mark.slow
def test_a_worker_that_was_there_before_the_gate_is_refused_by_the_run(cluster):
    async def join(dask_scheduler):
        from distributed import Worker

        await Worker(dask_scheduler.address, dashboard=False, startup_information=_told("b", archcost="0.0"))

    cluster.run_on_scheduler(join)
    engine = OnDask(cluster)
    until = time.monotonic() + 10
    while len(cluster.scheduler_info(n_workers=-1)["workers"]) > 1 and time.monotonic() < until:
        time.sleep(0.05)
    assert list(engine.devices()) == ["a"]
    assert "device 'b' has archcost 0.0" in engine.notes[0]


def test_another_version_and_a_name_that_is_taken_are_refused():
    other = why_not(facts("b", torch="1.0"), versions(), {})
    assert "torch 1.0" in other
    assert versions()["torch"] in other
    taken = why_not(facts("a"), versions(), {"tcp://10.0.0.1:1": facts("a")})
    assert "measured by the worker at tcp://10.0.0.1:1 already" in taken
    assert why_not(facts("b"), versions(), {"tcp://10.0.0.1:1": facts("a")}) is None


def test_a_worker_listens_where_it_was_told_alone():
    with pytest.raises(InputError, match="every interface"):
        offer("tcp://10.0.0.1:8786", "a", host="0.0.0.0")
    with pytest.raises(InputError, match="give host"):
        offer("tcp://10.0.0.1:8786", "a")
    with pytest.raises(InputError, match="no address"):
        offer("10.0.0.1", "a")
    with pytest.raises(FleetError, match="neither a store nor an address"):
        status("nothing.sqlite")


class Fleet:
    """A scheduler and workers as processes of their own, in a namespace each where asked."""

    def __init__(self, folder, spaces=None):
        self.folder, self.spaces, self.workers = folder, spaces or {}, {}
        self.address = "127.0.0.1" if not spaces else "10.77.0.1"
        self.scheduler = self.start_scheduler()

    def start_scheduler(self):
        code = "from distributed.cli.dask_scheduler import main; main()"
        arguments = ["--host", self.address, "--port", "18786", "--no-dashboard", "--no-show"]
        return self._process("scheduler", ["-c", code, *arguments], None)

    def start(self, device, *options):
        where = self.spaces.get(device, self.address)
        command = ["-m", "archcost", "fleet", "worker", self.url, "--device", device]
        command += ["--host", where, "--folder", str(self.folder / device), *options]
        self.workers[device] = self._process(device, command, device if self.spaces else None)

    def kill(self, device):
        os.killpg(self.workers[device].pid, signal.SIGKILL)
        self.workers[device].wait()

    @property
    def url(self):
        return f"tcp://{self.address}:18786"

    def _process(self, name, command, space):
        inside = ["ip", "netns", "exec", f"archcost-{space}"] if space else []
        with open(self.folder / f"{name}.log", "ab") as log:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
            return subprocess.Popen(
                [*inside, sys.executable, *command],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def close(self):
        for process in (*self.workers.values(), self.scheduler):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def slowly(order):
    """Perform an order in a tenth of a second, as a worker does: kept before it is reported."""
    from archcost.fleet import worker
    from archcost.fleet.child import Child
    from archcost.fleet.tasks import from_record
    from helpers.fleet import result

    def measure(self, task, limit, seconds):
        time.sleep(0.1)
        with open(os.path.join(os.environ[FOLDER], "runs"), "a") as runs:
            runs.write(from_record(task).key + "\n")
        return {"result": result(from_record(task))}

    Child.measure = measure
    return worker.perform(order)


def during(fleet, many, store, moments):
    """Run all tasks; ``moments`` are functions called once, by the number of tasks ended until then."""
    waiting = dict(moments)
    engine = OnDask(fleet.url)
    run = Run(engine, store, many, devices=["a"], patience=120, perform=slowly)
    took_in = run._ended

    def ended():
        count = took_in()
        for at in [at for at in waiting if run.finished + count >= at]:
            waiting.pop(at)()
        return count

    run._ended = ended
    try:
        run.to_end(False)
    finally:
        engine.close()
    return run


@pytest.mark.slow
def test_killed_workers_and_a_restarted_scheduler_lose_nothing(tmp_path):
    fleet = Fleet(tmp_path)
    many = tasks(60)

    def kill():
        fleet.kill("a")
        fleet.start("a")

    def restart():
        os.killpg(fleet.scheduler.pid, signal.SIGKILL)
        fleet.scheduler.wait()
        fleet.scheduler = fleet.start_scheduler()

    try:
        fleet.start("a")
        with FleetStore(tmp_path / "fleet.sqlite") as store:
            run = during(fleet, many, store, {10: kill, 25: kill, 40: restart})
            assert set(store.states(run.states["a"].mark)) == {task.key for task in many}
            assert len(store) == len(many)
        measured = (tmp_path / "a" / "runs").read_text().split()
        # What was kept before the worker was killed is not measured again: at most the task of that moment.
        assert len(measured) <= len(many) + 2
    finally:
        fleet.close()
        for log in tmp_path.glob("*.log"):
            print(log.name, log.read_text()[-3000:])


@pytest.mark.slow
def test_code_runs_on_workers_that_were_started_to_allow_it(tmp_path):
    code = "from torch import nn\n\ndef net():\n    return nn.Conv2d(3, 8, 3).eval()\n"
    (tmp_path / "tiny.py").write_text(code)
    fleet, how = Fleet(tmp_path), {"batch": 1, "seconds": 1, "paths": ["native"], "devices": ["a"]}
    how |= {"client": fleet.url, "store": tmp_path / "fleet.sqlite"}
    try:
        fleet.start("a")
        refused = measure(f"{tmp_path}/tiny.py:net", **how)
        assert not refused.rows
        assert "is code, which this worker does not run; start it with --allow-code" in refused.notes[0]
        fleet.kill("a")
        fleet.start("a", "--allow-code")
        allowed = measure(f"{tmp_path}/tiny.py:net", **how)
        assert [row.ms > 0 for row in allowed.rows] == [True]
        assert not allowed.notes
    finally:
        fleet.close()


def certificates(folder):
    """An authority and a certificate of its own, as files; skips where openssl is missing."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is missing")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=fleet",
         "-keyout", key, "-out", cert], check=True, capture_output=True,
    )  # fmt: skip
    return security(str(cert), str(cert), str(key))


@pytest.mark.slow
def test_tls_lets_in_who_has_the_certificate_alone(tmp_path):
    from distributed.security import Security

    safe = certificates(tmp_path)
    scheduler = Security(
        tls_ca_file=safe.tls_ca_file, tls_scheduler_cert=safe.tls_client_cert,
        tls_scheduler_key=safe.tls_client_key, tls_worker_cert=safe.tls_client_cert,
        tls_worker_key=safe.tls_client_key, tls_client_cert=safe.tls_client_cert,
        tls_client_key=safe.tls_client_key, require_encryption=True,
    )  # fmt: skip
    made = LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, silence_logs=50,
        resources={token("a"): 1}, startup_information={"archcost": startup("a")}, security=scheduler,
    )  # fmt: skip
    with made:
        assert made.scheduler_address.startswith("tls://")
        assert "a: 0 running" in status(made.scheduler_address, safe)
        with pytest.raises(FleetError, match="no scheduler at tls://"):
            status(made.scheduler_address)


def spaces(devices):
    """A network namespace for each device, on a bridge of this machine; gives their addresses."""
    run = lambda *words: subprocess.run(["ip", *words], check=True, capture_output=True)  # noqa: E731
    run("link", "add", "archcost0", "type", "bridge")
    run("addr", "add", "10.77.0.1/24", "dev", "archcost0")
    run("link", "set", "archcost0", "up")
    found = {}
    for number, device in enumerate(devices, 2):
        space, found[device] = f"archcost-{device}", f"10.77.0.{number}"
        run("netns", "add", space)
        run("link", "add", f"arch{number}", "type", "veth", "peer", "name", "eth0", "netns", space)
        run("link", "set", f"arch{number}", "master", "archcost0", "up")
        run("-n", space, "addr", "add", f"{found[device]}/24", "dev", "eth0")
        run("-n", space, "link", "set", "eth0", "up")
        run("-n", space, "link", "set", "lo", "up")
    return found


def without_spaces(devices):
    for device in devices:
        subprocess.run(["ip", "netns", "del", f"archcost-{device}"], capture_output=True)
    subprocess.run(["ip", "link", "del", "archcost0"], capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")
def test_a_link_that_is_cut_for_half_a_minute_loses_nothing(tmp_path):
    without_spaces("a")
    try:
        found = spaces("a")
    except subprocess.CalledProcessError as error:
        without_spaces("a")
        pytest.skip(f"no network namespaces here: {error.stderr.decode()}")
    fleet = Fleet(tmp_path, found)
    many = tasks(60)

    def cut():
        subprocess.run(["ip", "link", "set", "arch2", "down"], check=True)
        threading.Timer(30, lambda: subprocess.run(["ip", "link", "set", "arch2", "up"], check=True)).start()

    try:
        fleet.start("a")
        with FleetStore(tmp_path / "fleet.sqlite") as store:
            run = during(fleet, many, store, {20: cut})
            assert set(store.states(run.states["a"].mark)) == {task.key for task in many}
        assert len((tmp_path / "a" / "runs").read_text().split()) <= len(many) + 2
    finally:
        fleet.close()
        without_spaces("a")
        for log in tmp_path.glob("*.log"):
            print(log.name, log.read_text()[-3000:])
