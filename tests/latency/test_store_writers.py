"""What a store acknowledged is there, once, whichever of its writers are killed."""

import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest

from archcost.latency.store.store import Store
from helpers.measurements import TESTS, measured


def test_a_forked_child_writes_through_a_connection_of_its_own(place):
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this platform")
    store = Store(place)
    store.put(measured())
    code = (
        "import os, sys\nfrom archcost.latency.store.store import Store\n"
        "from helpers.measurements import measured\n"
        "store = Store(sys.argv[1]); store.put(measured(threads=1))\n"
        "child = os.fork()\n"
        "store.put(measured(threads=2 if child else 3))\n"
        "if child: sys.exit(os.waitpid(child, 0)[1])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(place)], check=True, cwd=TESTS)
    assert [one.key.threads for one in store] == [1, 2, 3]


WRITER = """
import sys
from archcost.latency.store.store import Store
from helpers.measurements import measured
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
            running[who] = subprocess.Popen(command, stdout=out, cwd=TESTS)

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
