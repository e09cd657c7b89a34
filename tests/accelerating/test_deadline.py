"""accelerate keeps its seconds and says nothing from fewer than five pairs; the test moves the clock."""

import pytest
import torch
from torch import nn

import archcost
from archcost.accelerating import contest, finals, rehearsal
from archcost.latency.timing.clock import Timing
from archcost.latency.timing.deadline import FEWEST
from archcost.nn import path_conv
from archcost.paths import available, get
from helpers.moved_clock import Machine

X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Each pass takes so long, whatever its layers are."""

    def __init__(self, machine, seconds):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3, 5, 7)))
        self.machine, self.seconds = (machine,), seconds

    def forward(self, x):
        if not x.is_meta:
            self.machine[0].work(self.seconds)
        return self.layers(x)


@pytest.fixture
def machine(monkeypatch):
    made = Machine(monkeypatch)
    for name in available():
        made.takes(get(name), "run", 0.1)
        made.takes(get(name), "prepare", 0.05)
    real = contest.runner_for
    for module in (contest, path_conv):
        monkeypatch.setattr(module, "runner_for", lambda *given: made.slower(real(*given), 0.1))
    for name in ("CpuStopwatch", "WallStopwatch"):
        monkeypatch.setattr(rehearsal, name, made.stopwatch)
    made.takes(finals, "exact_outputs", 1.0)
    made.takes(contest, "rough_seconds", 0.2)
    return made


def accelerated(machine, one_pass, seconds):
    """What it found, and how long it took on the machine's clock."""
    start = machine.now
    fast = archcost.accelerate(Net(machine, one_pass).eval(), X, seconds=seconds, threads=1)
    return fast.acceleration, machine.now - start


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("one_pass", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("seconds", [5.0, 20.0, 60.0])
def test_accelerate_takes_the_seconds_it_was_given(machine, seconds, one_pass, busy):
    machine.busy = busy
    _, took = accelerated(machine, one_pass, seconds)
    assert took <= 1.25 * seconds + 2 * one_pass * (2 if busy else 1)


def test_where_the_passes_do_not_fit_the_model_comes_back_at_once(machine):
    found, took = accelerated(machine, 2.0, 20.0)
    assert not found.changed
    assert found.error is None
    why = "a pass takes 2 s, and to compare whole models takes about 30 of them; give more seconds"
    assert why in found.to_text()
    assert took < 10


def interrupted(name, rounds, good, seconds):
    """As `compare_calls` would have it, most samples dropped."""
    return Timing(name, (seconds,) * good, (seconds,) * good, tuple(range(good)), 1, rounds - good, False, 0)


@pytest.mark.parametrize("good", [1, FEWEST - 1, FEWEST])
def test_fewer_than_five_pairs_are_no_result(machine, monkeypatch, good):
    def compared(final, names, deadline):
        return {
            name or "original": interrupted(name or "original", 17, good, 1.0 if name else 2.4)
            for name in names
        }

    monkeypatch.setattr(finals, "_compared", compared)
    monkeypatch.setattr(finals, "_timed_first", lambda final, made: next(iter(made)))
    monkeypatch.setattr(finals, "is_untouched", lambda *_: False)
    found, _ = accelerated(machine, 0.02, 60.0)
    if good < FEWEST:
        assert not found.changed
        assert found.ratio is None
        assert "fewer than 5 pairs of passes" in found.reason
        assert "the machine was too busy" in found.to_text()
    else:
        assert found.changed
        assert "2.40x (spread 0.00, 5 pairs, 12 dropped)" in found.to_text()


def test_pairs_of_interrupted_samples_say_so_and_must_gain_more():
    few = finals.Ratio(1.04, 0.001, 25)
    assert finals._gains(few, disturbed=False)
    assert not finals._gains(few, disturbed=True)
    assert finals._gains(finals.Ratio(1.06, 0.001, 25), disturbed=True)
