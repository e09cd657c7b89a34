"""Old against new: the seconds are kept, fewer than five pairs are no result; the test moves the clock."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from archcost import propose
from archcost.latency.timing.clock import Timing
from archcost.latency.timing.deadline import TooLittleTime
from archcost.rewriting import racing
from archcost.rewriting.racing import race_proposals, raced
from helpers.moved_clock import Machine

X = torch.rand(1, 8, 12, 12, generator=torch.Generator().manual_seed(0))


class Takes(nn.Module):
    def __init__(self, machine, seconds):
        super().__init__()
        self.machine, self.seconds = (machine,), seconds

    def forward(self, x):
        self.machine[0].work(self.seconds)
        return x


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("one_pass", [0.01, 0.5, 2.0])
@pytest.mark.parametrize("seconds", [5.0, 20.0, 60.0])
def test_two_models_take_the_seconds_or_there_is_no_result(machine, seconds, one_pass, busy):
    machine.busy = busy
    old, new, wall = Takes(machine, one_pass), Takes(machine, one_pass / 2), 2 if busy else 1
    fits = 14 * one_pass * wall < seconds
    with nullcontext() if fits else pytest.raises(TooLittleTime, match="the machine was too busy"):
        found = raced(old, new, X, seconds=seconds)
        assert found.speedup == pytest.approx(2.0)
        assert found.spread_ms is not None
    assert machine.now <= 1.25 * seconds + 2 * one_pass * wall


def test_one_pair_is_no_result(monkeypatch):
    def compared(calls, **how):
        one = Timing("it", (1.0,), (1.0,), (0,), 1, 16, False, 0)
        return dict.fromkeys(calls, one)

    monkeypatch.setattr(racing, "compare_calls", compared)
    with pytest.raises(TooLittleTime):
        raced(nn.Identity(), nn.Identity(), X)


def test_proposals_take_the_seconds_and_the_rest_stays_untimed(machine):
    model = nn.Sequential(*(nn.Conv2d(8, 8, k, padding=k // 2) for k in (5, 7, 9, 11))).eval()
    proposals = propose(model, X, rules=["asymmetric"]).proposals
    assert len(proposals) > 3
    machine.takes(nn.Conv2d, "forward", 0.5)
    for seconds in (2.0, 30.0, 200.0):
        start = machine.now
        found = race_proposals(model, proposals, X, seconds=seconds)
        assert machine.now - start <= 1.25 * seconds + 2 * 4 * 0.5
        timed = sum(one.race is not None for one in found)
        assert (timed == 0, timed == len(found)) == (seconds == 2.0, seconds == 200.0)
