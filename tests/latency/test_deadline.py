"""The seconds that were asked for are kept, on a clock that the test moves; nothing here waits."""

import pytest
import torch
from torch import nn

import archcost
from archcost.kernels.blocked import BlockedConvolution
from archcost.latency import paths
from archcost.latency.candidates import NO_TIME, TimingOptions
from archcost.latency.convolutions import convolutions_of, samples_of
from archcost.latency.layers import NOT_MEASURED
from archcost.latency.paths import time_paths
from archcost.latency.prediction import predictor, roofline
from archcost.latency.prediction.roofline import measure_roofline
from archcost.latency.store.fingerprint import Fingerprint
from archcost.latency.store.store import Store
from archcost.latency.timing import clock, context
from archcost.latency.timing.deadline import Deadline, TooLittleTime
from archcost.paths import accuracy, available, get
from archcost.trace.call import Call
from helpers.moved_clock import Machine

X = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Several convolutions that all differ."""

    def __init__(self, machine=None, seconds=0.0):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3, 5, 7)))
        self.machine, self.seconds = (machine,), seconds

    def forward(self, x):
        if self.machine[0] is not None and not x.is_meta:
            self.machine[0].work(self.seconds)
        return self.layers(x)


@pytest.fixture
def machine(monkeypatch):
    made = Machine(monkeypatch)
    for name in available():
        made.takes(get(name), "run", 0.2)
        made.takes(get(name), "prepare", 0.1)
    made.takes(BlockedConvolution, "__call__", 0.2)
    made.takes(paths, "_native_seconds", 0.4)
    made.takes(accuracy, "exact_convolution", 1.0)
    made.takes(predictor, "fit_of", 0.5)
    real = clock.compare_calls

    def compare(calls, **how):
        slow = {name: made.slower(call, 0.05) for name, call in calls.items()}
        return real(slow, **how)

    monkeypatch.setattr(roofline, "compare_calls", compare)
    monkeypatch.setattr(roofline, "_SIDES", (16,))
    monkeypatch.setattr(Fingerprint, "beyond_caches_bytes", 4096)
    return made


def allowed(seconds, one_pass):
    return 1.25 * seconds + 2 * one_pass


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("one_pass", [0.01, 2.0])
@pytest.mark.parametrize("seconds", [5.0, 10.0, 30.0, 120.0])
def test_measure_takes_the_seconds_it_was_given(machine, seconds, one_pass, busy):
    machine.busy = busy
    model = Net(machine, one_pass).eval()
    with Store(":memory:") as store:
        for _ in range(2):  # the second time with a warm store
            start = machine.now
            found = archcost.measure(model, X, seconds=seconds, threads=1, store=store)
            took = machine.now - start
            assert took <= allowed(seconds, one_pass * (2 if busy else 1))
            assert found.took_s <= took + 1e-6


def test_a_pass_that_is_too_long_is_not_timed_in_context_and_the_notes_say_so(machine):
    found = archcost.measure(Net(machine, 2.0).eval(), X, seconds=10.0, threads=1, store=False)
    assert found.context is None
    assert any("no time for 5 passes with hooks and 5 without, of 2 s each" in note for note in found.notes)
    found = archcost.measure(Net(machine, 2.0).eval(), X, seconds=100.0, threads=1, store=False)
    assert found.context.passes >= 5


def test_in_context_the_deadline_is_kept_or_nothing_comes(machine):
    model = Net(machine, 1.0).eval()
    start = machine.now
    with pytest.raises(TooLittleTime, match="of 1 s each"):
        context.time_in_context(model, X, seconds=5.0, deadline=Deadline(6.0), threads=1)
    assert machine.now - start <= 2.0
    start = machine.now
    found = context.time_in_context(model, X, seconds=5.0, deadline=Deadline(20.0), threads=1)
    assert found.passes == 5
    assert machine.now - start <= 20.0


def test_what_time_does_not_reach_says_so(machine):
    found = archcost.measure(Net(machine).eval(), X, seconds=8.0, threads=1, store=False)
    notes = [layer.note for layer in found.layers]
    assert NOT_MEASURED in notes
    assert all(layer.best_ms is None for layer in found.layers if layer.note == NOT_MEASURED)


@pytest.mark.parametrize(("seconds", "layers"), [(12.0, 1), (24.0, 2)])
def test_paths_that_take_long_to_prepare_leave_time_for_pytorchs_own(machine, monkeypatch, seconds, layers):
    """As on a busy machine, where what a Fourier path prepares takes more than all the time there is."""
    for name in available():
        path = get(name)

        def slow(weight, bias, spec, path=path, real=path.prepare):
            machine.work((path.workspace_bytes(spec) or 0) / 4000)
            return real(weight, bias, spec)

        monkeypatch.setattr(path, "prepare", slow)
    start = machine.now
    model, paths = Net(machine, 0.01).eval(), ["fft", "winograd-4", "direct"]
    found = archcost.measure(model, X, paths=paths, seconds=seconds, threads=1, store=False)
    assert machine.now - start <= allowed(seconds, 0.01)
    assert sum(layer.native_ms is not None for layer in found.layers) >= layers
    assert found.convolutions[0].refused["fft"] == NO_TIME


def reached(samples, seconds, store=None):
    return list(time_paths(samples, TimingOptions(store=store), Deadline(seconds)))


def test_a_warm_store_reaches_no_fewer_layers(machine):
    calls = convolutions_of(archcost.analyze(Net(), X).trace)
    samples = samples_of(Net().eval(), Call((X,), {}), [one.task for one in calls])
    cold = len(reached(samples, 40.0))
    assert 0 < cold < len(samples)
    with Store(":memory:") as store:
        assert min(len(reached(samples, 40.0, store)) for _ in range(4)) >= cold
        reached(samples, 500.0, store)
        assert len(reached(samples, 40.0, store)) == len(samples)


def test_what_was_disturbed_is_measured_again_and_what_is_good_is_not(machine):
    calls = convolutions_of(archcost.analyze(Net(), X).trace)
    samples = samples_of(Net().eval(), Call((X,), {}), [one.task for one in calls])
    first, *others = samples
    with Store(":memory:") as store:
        reached({first: samples[first]}, 500.0, store)
        machine.busy = True
        disturbed = reached({others[0]: samples[others[0]]}, 500.0, store)
        assert all(one.disturbed for found in disturbed for one in found.measurements)
        machine.busy = False
        both = {one: samples[one] for one in (first, others[0])}
        found = {one.task: one for one in reached(both, 500.0, store)}
        assert found[first].reused
        assert not found[others[0]].reused
        # Where there is no time for it, the old one is better than none.
        machine.busy = True
        reached({others[1]: samples[others[1]]}, 500.0, store)
        machine.busy = False
        [kept] = reached({others[1]: samples[others[1]]}, 5.0, store)
        assert kept.reused
        assert any(one.disturbed for one in kept.measurements)


def test_a_roofline_for_which_there_is_no_time_is_none(machine):
    with pytest.raises(TooLittleTime, match="the time was up before the roofline was measured"):
        measure_roofline(None, deadline=Deadline(0.0))
