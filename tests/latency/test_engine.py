"""The engine of timing: turns, samples that count, and thresholds that say why they have their values."""

import ast
import math
from pathlib import Path

import pytest

from archcost.latency.timing import engine, thresholds
from archcost.latency.timing.deadline import Deadline
from archcost.latency.timing.engine import Turns, clock_for, kept, once, time_stats
from archcost.latency.timing.stopwatch import Lap
from helpers.moved_clock import Machine


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def test_each_takes_one_sample_a_round_until_there_is_enough(machine):
    order = []

    def takes(name):
        return lambda: order.append(name) or Lap(1.0, False)

    turns = Turns({name: takes(name) for name in "abc"}, before=lambda: order.append("-"))
    turns.run(lambda: turns.rounds == 4)
    assert turns.rounds == 4
    assert [sorted(order[i : i + 6 : 2] + order[i + 1 : i + 6 : 2]) for i in range(0, 24, 6)] == [
        ["-", "-", "-", "a", "b", "c"]
    ] * 4
    assert all([number for number, _ in turns.samples[name]] == [0, 1, 2, 3] for name in "abc")


def test_a_round_is_not_counted_where_the_deadline_left_one_out(machine):
    def slow():
        machine.work(2.0)
        return Lap(2.0, False)

    turns = Turns({"a": slow, "b": slow}, Deadline(9.0))
    turns.run(lambda: False)
    assert (turns.rounds, machine.now) == (2, 8.0)


def test_what_is_interrupted_comes_again_in_its_round_as_often_as_said(machine):
    laps = iter([Lap(1.0, True)] * 7)
    turns = Turns({"a": lambda: next(laps)}, tries=3)
    turns.run(lambda: turns.rounds == 2)
    assert [number for number, _ in turns.samples["a"]] == [0, 0, 0, 1, 1, 1]
    assert turns.lacking() == ["a"]


def test_the_interrupted_are_left_out_unless_too_few_remain():
    good, bad = Lap(1.0, False), Lap(9.0, True)
    assert kept([good, bad]) == ([good], False)
    assert kept([good, bad, bad]) == ([good, bad, bad], True)
    assert kept([*[good] * 5, *[bad] * 50]) == ([good] * 5, False)
    assert kept([good, bad], few=True) == ([good, bad], True)
    assert kept([good, good], few=True) == ([good, good], False)
    found = time_stats([good, bad])
    assert (found.median_s, found.samples, found.dropped, found.disturbed) == (1.0, 1, 1, False)
    assert math.isnan(found.spread_s)


def test_one_call_by_the_clock_that_counts(machine):
    machine.busy = True
    assert [once(lambda: machine.work(1.0), threads) for threads in (1, None)] == [1.0, 2.0]
    assert (clock_for(1), clock_for(2)) == ("cpu", "wall")


def test_every_threshold_says_why_it_has_its_value():
    text = Path(thresholds.__file__).read_text(encoding="utf-8")
    lines = text.splitlines()
    constants = [node for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    assert len(constants) > 15
    for node in constants:
        assert lines[node.lineno - 2].startswith("# "), f"line {node.lineno} has no reason above it"
    assert engine.FEWEST == thresholds.FEWEST == 5
