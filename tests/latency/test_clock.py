"""The clock: turns taken as promised, interrupted samples dropped and counted, statistics exact."""

import gc
import itertools
import math
import subprocess
import sys
import time
from collections import Counter

import pytest

from archcost import ArchcostError, SpecError
from archcost.latency.timing import deadline, stopwatch
from archcost.latency.timing.clock import Ratio, Timing, compare_calls, ratio
from archcost.latency.timing.deadline import Deadline


class FakeClock:
    """A machine whose time passes only when a candidate says so."""

    def __init__(self, switches=0):
        self.wall = self.cpu = 0
        self.switches = switches

    def read(self, cpu_clock):
        return stopwatch.Reading(self.wall, self.cpu, self.switches)

    def work(self, cpu, wall=None, switches=0):
        self.cpu += round(cpu * 1e9)
        self.wall += round((cpu if wall is None else wall) * 1e9)
        if self.switches is not None:
            self.switches += switches

    def script(self, steps):
        """A candidate that takes these steps, one a call: seconds of CPU, or arguments of `work`."""
        remaining = iter(steps)

        def call():
            step = next(remaining)
            self.work(**step) if isinstance(step, dict) else self.work(step)

        return call


@pytest.fixture
def fake(monkeypatch):
    machine = FakeClock()
    monkeypatch.setattr(stopwatch, "read", machine.read)
    monkeypatch.setattr(deadline, "clock", lambda: machine.wall / 1e9)
    return machine


def timing(name="t", cpu=(1.0,), wall=None, rounds=None, **other):
    defaults = {"calls": 1, "dropped": 0, "disturbed": False, "switches": 0}
    rounds = tuple(range(len(cpu))) if rounds is None else rounds
    return Timing(name, cpu, cpu if wall is None else wall, rounds, **{**defaults, **other})


# Without warm-up the first call of a script is the one that finds how many calls make a sample.
def timed(calls, rounds, **options):
    return compare_calls(calls, rounds=rounds, warmup=0, **options)


# Turns


def recorded_turns(fake, rounds, **options):
    turns = []

    def candidate(name):
        def call():
            turns.append(name)
            fake.work(1.0)

        return call

    compare_calls({name: candidate(name) for name in "ABCD"}, rounds=rounds, **options)
    return ["".join(turns[i : i + 4]) for i in range(0, len(turns), 4)]


def test_every_candidate_takes_one_turn_a_round(fake):
    turns = recorded_turns(fake, 20, warmup=0)[1:]
    assert len(turns) == 20
    assert {"".join(sorted(turn)) for turn in turns} == {"ABCD"}


def test_the_order_changes_so_that_nobody_always_follows_the_same(fake):
    turns = "".join(recorded_turns(fake, 40, warmup=0)[1:])
    followed_by = Counter(itertools.pairwise(turns))
    assert len({turns[i : i + 4] for i in range(0, 160, 4)}) > 10
    assert all(followed_by[a, b] > 0 for a in "ABCD" for b in "ABCD" if a != b)


def test_the_order_depends_on_the_seed_alone(fake):
    assert recorded_turns(fake, 10) == recorded_turns(fake, 10)
    assert recorded_turns(fake, 10, seed=1) != recorded_turns(fake, 10)


def test_warmup_calls_come_first_and_are_not_timed(fake):
    found = compare_calls({"a": fake.script([50.0, 50.0, 50.0, 1.0, 1.0])}, rounds=2, warmup=2)
    assert found["a"].cpu_seconds == (1.0, 1.0)


def test_no_round_begins_after_the_time_is_up(fake):
    found = timed({"a": fake.script([1.0] * 99), "b": fake.script([1.0] * 99)}, 40, seconds=9.0)
    assert (found["a"].kept, found["b"].kept) == (5, 5)
    assert timed({"a": fake.script([1.0] * 99)}, 40, seconds=0.1)["a"].kept == 3
    assert timed({"a": fake.script([1.0] * 99)}, 2, seconds=0.1)["a"].kept == 2


# Deadlines


def test_a_deadline_is_a_moment_that_its_parts_share(fake):
    whole = Deadline(10.0)
    assert (whole.left, whole.passed, whole.allows(10.0), whole.allows(10.1)) == (10.0, False, True, False)
    fake.work(4.0)
    assert (whole.left, whole.within(2.0).left, whole.within(7.0).left, whole.before(1.0).left) == (
        6,
        2,
        6,
        5,
    )
    fake.work(6.0)
    assert whole.passed
    assert not whole.allows(0.0)


def test_nothing_is_begun_that_is_not_likely_to_end_by_the_deadline(fake):
    """Warm-up, what finds out how many calls make a sample, and every sample look at it."""
    calls = {"a": lambda: fake.work(2.0), "b": lambda: fake.work(3.0)}
    for seconds in (0.5, 1.0, 6.0, 11.0, 27.0, 63.0):
        fake.wall = fake.cpu = 0
        found = compare_calls(calls, rounds=25, warmup=2, deadline=Deadline(seconds))
        # The very first call of each is not known to be long.
        assert fake.wall / 1e9 <= max(seconds, 2.0) + 3.0
        assert (len(found) == 2) == (seconds > 22)
    assert (found["a"].kept, found["b"].kept) == (10, 9)


def test_with_a_deadline_the_interrupted_come_again_before_what_is_good(fake):
    turns = []

    def call(name, bad):
        def work():
            turns.append(name)
            fake.work(1.0, switches=turns.count(name) in bad)

        return work

    calls = {"a": call("a", ()), "b": call("b", (2, 4))}  # the first call finds the length
    found = compare_calls(calls, rounds=5, warmup=0, deadline=Deadline(100.0))
    assert sorted(turns[2:5]) == ["a", "b", "b"]
    assert turns[4] == "b"
    assert (found["a"].kept, found["a"].dropped) == (5, 0)
    assert (found["b"].kept, found["b"].dropped) == (5, 2)
    assert ratio(found["a"], found["b"]).pairs == 5


def test_rounds_go_on_to_five_good_pairs_while_there_is_time(fake):
    def quiet_every_tenth():
        count = itertools.count(1)
        return lambda: fake.work(1.0, switches=next(count) % 10 != 0)

    for seconds, pairs in ((1000.0, 5), (50.0, None)):
        calls = {"a": lambda: fake.work(1.0), "b": quiet_every_tenth()}
        found = compare_calls(calls, rounds=6, warmup=0, deadline=Deadline(seconds))
        if pairs:
            assert (found["b"].kept, found["b"].disturbed) == (5, False)
            assert ratio(found["a"], found["b"]).pairs == pairs
        else:
            assert found["b"].disturbed
            assert found["b"].dropped == 0


# Samples


def test_one_good_sample_among_many_decides_nothing(fake):
    bad = {"cpu": 2.0, "switches": 1}
    found = timed({"a": fake.script([1.0, 1.0, *[bad] * 16])}, 17)["a"]
    assert (found.kept, found.dropped, found.disturbed) == (17, 0, True)
    assert found.median == 2.0
    found = timed({"a": fake.script([1.0, *[1.0] * 5, *[bad] * 95])}, 100)["a"]
    assert (found.kept, found.dropped, found.disturbed) == (5, 95, False)


def test_short_functions_are_called_until_a_sample_is_a_block(fake):
    found = timed({"short": lambda: fake.work(0.001), "long": lambda: fake.work(0.1)}, 3, block=0.03)
    assert found["short"].calls == 32
    assert found["short"].cpu_seconds == pytest.approx([0.001] * 3)
    assert found["long"].calls == 1


def test_a_sample_with_an_involuntary_switch_is_dropped_and_counted(fake):
    steps = [1.0, 1.0, {"cpu": 7.0, "switches": 1}, 3.0]
    found = timed({"a": fake.script(steps)}, 3)["a"]
    assert found.cpu_seconds == (1.0, 3.0)
    assert found.rounds == (0, 2)
    assert (found.kept, found.dropped, found.disturbed, found.switches) == (2, 1, False, 0)


def test_switches_are_allowed_at_the_rate_that_was_asked_for(fake):
    allowed, *more = {"cpu": 2.0, "switches": 6}, {"cpu": 2.0, "switches": 7}, {"cpu": 0.1, "switches": 1}
    found = timed({"a": fake.script([1.0, allowed, *more, allowed])}, 4, switches_per_second=3.0)["a"]
    assert (found.cpu_seconds, found.dropped, found.switches) == ((2.0, 2.0), 2, 12)


def test_a_sample_that_waited_is_dropped_and_counted(fake):
    steps = [1.0, {"cpu": 1.0, "wall": 1.2}, {"cpu": 2.0, "wall": 2.19}, {"cpu": 4.0, "wall": 2.5}]
    found = timed({"a": fake.script(steps)}, 3)["a"]
    assert (found.cpu_seconds, found.wall_seconds, found.dropped) == ((2.0, 4.0), (2.19, 2.5), 1)


def test_the_tolerance_is_the_callers(fake):
    steps = [1.0, {"cpu": 1.0, "wall": 1.2}, {"cpu": 1.0, "wall": 1.4}]
    found = timed({"a": fake.script(steps)}, 2, tolerance=0.3)["a"]
    assert (found.wall_seconds, found.dropped) == ((1.2,), 1)


def test_with_every_sample_interrupted_all_are_kept_and_marked(fake):
    bad = {"cpu": 1.0, "switches": 2}
    found = timed({"bad": fake.script([1.0, bad, bad]), "good": fake.script([1.0] * 3)}, 2)
    assert (found["bad"].kept, found["bad"].dropped, found["bad"].disturbed) == (2, 0, True)
    assert found["bad"].switches == 4
    assert "unreliable" in str(found["bad"])
    assert (found["good"].kept, found["good"].disturbed) == (2, False)
    assert "unreliable" not in str(found["good"])


def test_without_a_count_of_switches_the_timing_says_so(fake):
    fake.switches = None
    found = timed({"a": fake.script([1.0, 1.0, {"cpu": 1.0, "wall": 2.0}])}, 2)["a"]
    assert (found.kept, found.dropped, found.switches) == (1, 1, None)
    assert "context switches unknown on this platform" in str(found)


def test_a_platform_without_the_resource_module_still_reads_the_clocks(monkeypatch):
    monkeypatch.setattr(stopwatch, "resource", None)
    found = compare_calls({"a": lambda: sum(range(100))}, rounds=2)["a"]
    assert found.switches is None
    assert found.median > 0


def test_prepare_makes_a_new_argument_for_each_call_outside_the_timed_part(fake):
    given = []

    def prepare():
        fake.work(100.0)
        return []

    def spoil(argument):
        argument.append(1)
        given.append(argument)
        fake.work(0.001)

    found = timed({"a": spoil}, 3, prepare={"a": prepare})["a"]
    assert found.calls == 1
    assert found.cpu_seconds == pytest.approx([0.001] * 3)
    assert given == [[1]] * 3


@pytest.mark.parametrize("enabled", [False, True])
def test_the_collector_is_as_documented_in_samples_and_as_before_after_them(fake, enabled):
    seen = []

    def call():
        seen.append(gc.isenabled())
        fake.work(1.0)

    assert gc.isenabled()
    timed({"a": call}, 2, gc_enabled=enabled)
    assert set(seen) == {enabled}
    assert gc.isenabled()
    gc.disable()
    try:
        timed({"a": call}, 2, gc_enabled=enabled)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_a_candidate_raises_comes_out_with_its_name(fake, at):
    calls = []

    def broken():
        calls.append(1)
        fake.work(1.0)
        if len(calls) == at:
            raise KeyError("no such weight")

    with pytest.raises(ArchcostError) as caught:
        compare_calls({"fine": lambda: fake.work(1.0), "broken": broken}, rounds=3)
    assert str(caught.value) == "candidate 'broken' raised KeyError: 'no such weight'"
    assert isinstance(caught.value.__cause__, KeyError)
    assert gc.isenabled()


# Statistics


def test_median_and_spread_are_exact():
    found = timing(cpu=(4.0, 1.0, 3.0, 2.0, 100.0), wall=(9.0, 8.0, 7.0, 6.0, 5.0))
    assert (found.median, found.spread, found.wall_median, found.kept) == (3.0, 2.0, 7.0, 5)
    assert timing(cpu=(1.0, 2.0)).median == 1.5
    assert timing(cpu=(1.0, 2.0)).spread == 0.5


def test_the_spread_of_one_sample_is_unknown():
    assert math.isnan(timing(cpu=(1.0,)).spread)


def test_ratio_pairs_the_samples_of_one_round():
    # Over the machine's slow rounds the quotient stays 2; that of the medians would be 4.
    a = timing(cpu=(2.0, 20.0, 20.0), wall=(3.0, 30.0, 30.0))
    b = timing(cpu=(1.0, 10.0, 10.0), wall=(1.0, 10.0, 10.0))
    assert ratio(a, b) == Ratio(2.0, 0.0, 3)
    assert ratio(a, b, wall=True) == Ratio(3.0, 0.0, 3)
    a = timing(cpu=(20.0, 2.0), rounds=(1, 4))
    b = timing(cpu=(5.0, 1.0, 1.0), rounds=(1, 2, 4))
    assert ratio(a, b) == Ratio(3.0, 1.0, 2)


def test_ratio_without_a_common_round_falls_back_to_the_medians_and_says_so():
    found = ratio(timing(cpu=(6.0,), rounds=(0,)), timing(cpu=(2.0,), rounds=(1,)))
    assert (found.median, found.pairs) == (3.0, 0)
    assert math.isnan(found.spread)


# The real clocks


def spin(steps):
    return lambda: sum(range(steps))


@pytest.mark.parametrize("cpu_clock", ["process", "thread"])
def test_the_slower_of_two_workloads_is_found(cpu_clock):
    found = compare_calls({"ten": spin(200_000), "one": spin(20_000)}, rounds=7, cpu_clock=cpu_clock)
    assert found["ten"].median > 2 * found["one"].median
    assert ratio(found["ten"], found["one"]).median > 2
    for each in found.values():
        assert each.kept + each.dropped == 7
        assert each.wall_median > 0


def test_a_candidate_that_only_sleeps_is_disturbed():
    found = compare_calls({"sleeper": lambda: time.sleep(0.01)}, rounds=2)["sleeper"]
    assert found.disturbed
    assert found.wall_median > 0.009
    assert found.median < 0.009


def test_the_clock_does_not_import_torch():
    code = "import sys, archcost.latency.timing.clock; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calls": {}}, "calls must be a dict of names to functions, with at least one; got {}"),
        ({"calls": [print]}, "calls must be a dict of names to functions, with at least one; got ["),
        ({"calls": {"a": 3}}, "candidate 'a' must be a function without arguments; got 3"),
        ({"prepare": {"b": list}}, "prepare names 'b', which is no candidate; the candidates are a"),
        ({"prepare": {"a": 1}}, "candidate 'a' must be a function without arguments; got 1"),
        ({"rounds": 0}, "rounds must be a whole number, at least 1; got 0"),
        ({"rounds": 2.5}, "rounds must be a whole number, at least 1; got 2.5"),
        ({"warmup": -1}, "warmup must be a whole number, at least 0; got -1"),
        ({"seconds": 0}, "seconds must be a number of seconds above 0; got 0"),
        ({"block": -1.0}, "block must be a number of seconds above 0; got -1.0"),
        ({"tolerance": -0.1}, "tolerance must be a number, at least 0; got -0.1"),
        ({"tolerance": math.nan}, "tolerance must be a number, at least 0; got nan"),
        ({"switches_per_second": "5"}, "switches_per_second must be a number, at least 0; got '5'"),
        ({"cpu_clock": "gpu"}, "cpu_clock must be 'process' or 'thread'; got 'gpu'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_by_name(options, message):
    arguments = {"calls": {"a": lambda: None}, **options}
    with pytest.raises(SpecError) as caught:
        compare_calls(arguments.pop("calls"), **arguments)
    assert str(caught.value).startswith(message)
