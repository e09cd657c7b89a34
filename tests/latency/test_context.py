"""In context: the calls add up to the pass, and nothing of the model is changed; on a clock that is ours."""

import copy
import itertools
import mmap
import threading

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_hooks

from archcost.errors import InputError, ModelError
from archcost.latency.timing.context import time_in_context
from archcost.latency.timing.engine import time_stats
from archcost.latency.timing.hooks import hook_seconds, hooked
from archcost.latency.timing.stopwatch import CpuStopwatch, Lap, Stopwatch, WallStopwatch


class Clock:
    """Time passes only when a module says so."""

    def __init__(self):
        self.now = self.taken = 0

    def stopwatch(self):
        return CpuStopwatch(cpu=lambda: self.now, wall=lambda: self.now + self.taken)


class Takes(nn.Module):
    def __init__(self, clock, ns, taken=(0,)):
        super().__init__()
        self.clock = (clock,)
        self.ns = ns
        self.taken = itertools.cycle(taken)

    def forward(self, x):
        self.clock[0].now += self.ns
        self.clock[0].taken += next(self.taken)
        return x


class Net(nn.Module):
    """A block called twice, work between the children's calls, and after them."""

    def __init__(self, clock):
        super().__init__()
        self.clock = (clock,)
        self.stem = Takes(clock, 1_000_000)
        self.block = nn.Sequential(Takes(clock, 2_000_000), Takes(clock, 3_000_000))
        self.again = self.stem

    def forward(self, x):
        x = self.block(self.block(self.stem(x)))
        self.clock[0].now += 500_000
        x = self.again(x)
        self.clock[0].now += 250_000
        return x + 1


def timed(model, inputs=None, **options):
    inputs = torch.ones(2, 3) if inputs is None else inputs
    return time_in_context(model, inputs, **{"seconds": 0.1, "threads": 1, **options})


def test_every_call_has_its_own_time_and_they_add_up_to_the_pass():
    clock = Clock()
    result = timed(Net(clock), watch=clock.stopwatch())
    assert [(c.name, c.call, c.leaf, round(c.median_s * 1e6)) for c in result.calls] == [
        ("", 0, False, 750),
        ("stem", 0, True, 1000),
        ("block", 0, False, 0),
        ("block.0", 0, True, 2000),
        ("block.1", 0, True, 3000),
        ("block", 1, False, 0),
        ("block.0", 1, True, 2000),
        ("block.1", 1, True, 3000),
        ("stem", 1, True, 1000),
    ]
    assert result.end_to_end.median_s == pytest.approx(12.75e-3)
    assert result.total == pytest.approx(12.75e-3)
    assert result.difference == result.paired_difference == pytest.approx(0)
    assert (result.clock, result.threads, result.inputs) == ("cpu", 1, "2x3 float32")
    assert [c.type for c in result.calls[:3]] == ["Net", "Takes", "Sequential"]
    assert result.passes == result.end_to_end.samples >= 5
    assert not result.disturbed
    assert "9 calls: 12.750 ms in sum, +0.0% against end to end (+0.0% round by round)" in str(result)


def test_the_frame_has_a_row_a_call():
    clock = Clock()
    frame = timed(Net(clock), watch=clock.stopwatch()).frame()
    assert list(frame["name"])[:3] == ["", "stem", "block"]
    assert frame["latency_ms"].sum() == pytest.approx(12.75)
    assert frame["share"].sum() == pytest.approx(1)


def test_a_call_that_was_interrupted_is_dropped_and_counted_and_the_others_are_kept():
    clock = Clock()
    # In every second pass somebody else had the processor for a while; passes come with hooks and without.
    model = nn.Sequential(Takes(clock, 1_000_000, taken=(0, 0, 0, 400_000)), Takes(clock, 1_000_000))
    result = timed(model, watch=clock.stopwatch(), seconds=1, precision=0)
    _, first, second = result.calls
    assert first.dropped > 0
    assert first.samples + first.dropped == result.passes
    assert second.dropped == 0
    assert result.end_to_end.dropped > 0
    assert not first.disturbed


def test_where_every_sample_was_interrupted_all_are_kept_and_it_is_said():
    clock = Clock()
    result = timed(nn.Sequential(Takes(clock, 1_000_000, taken=(900_000,))), watch=clock.stopwatch())
    assert result.calls[1].disturbed
    assert result.calls[1].dropped == 0
    assert result.disturbed
    assert "unreliable" in str(result)


def test_the_hooks_own_cost_is_measured_and_taken_off():
    clock = Clock()

    class Costly(Stopwatch):
        clock = "cpu"

        def laps(self, readings, tolerance):
            return [Lap((b - a) / 1e9, False) for a, b in itertools.pairwise(readings)]

        def read(self):
            clock.now += 1000  # to look at the clock takes a microsecond
            return clock.now

    assert hook_seconds(Costly(), repeats=3) == pytest.approx(1e-6, rel=0.02)
    result = timed(Net(clock), watch=Costly())
    # Nine calls have 18 hooks, and 17 laps between them.
    assert result.hooks_cost == pytest.approx(17e-6, rel=0.02)
    assert result.with_hooks.median_s == pytest.approx(12.75e-3 + 17e-6)
    assert result.total == pytest.approx(12.75e-3, rel=1e-4)


def test_the_difference_round_by_round_is_known_where_the_speed_wanders():
    clock = Clock()

    class Wandering(Takes):
        passes = 0

        def forward(self, x):
            # A machine that is slower by half in some rounds; one pass with hooks and one without a round.
            self.ns = 1_500_000 if self.passes // 2 % 5 < 2 else 1_000_000
            self.passes += 1
            return super().forward(x)

    result = timed(nn.Sequential(Wandering(clock, 0)), watch=clock.stopwatch(), seconds=0.5, precision=0)
    assert result.passes >= 5
    assert abs(result.paired_difference) < 1e-6


def hooks_of(model):
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called", "_backward_hooks")
    return [(name, list(getattr(m, name))) for m in model.modules() for name in names]


def global_hooks():
    return [
        list(table) for table in (torch_hooks._global_forward_hooks, torch_hooks._global_forward_pre_hooks)
    ]


def state(model):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return tensors, [m.training for m in model.modules()], hooks_of(model), global_hooks()


def assert_untouched(model, before, settings):
    tensors, *rest = state(model)
    assert rest == list(before[1:])
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in tensors.items())
    assert settings == (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist())


def surroundings():
    return torch.get_num_threads(), torch.is_grad_enabled(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("training", [True, False])
def test_a_model_comes_back_as_it_was(training):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Dropout()).train(training)
    model[1].register_forward_hook(lambda *_: None)
    given = torch.rand(2, 3, 8, 8)
    before, around = state(model), surroundings()
    result = timed(model, given, seconds=0)
    assert_untouched(model, before, around)
    assert result.training is training
    assert ("in training mode" in str(result)) is training
    assert [call.type for call in result.calls] == ["Sequential", "Conv2d", "BatchNorm2d", "ReLU", "Dropout"]


class Breaks(nn.Module):
    def __init__(self, error, after):
        super().__init__()
        self.register_buffer("count", torch.zeros(1))
        self.error, self.calls = error, iter(range(after))

    def forward(self, x):
        self.count += 1
        if next(self.calls, None) is None:
            raise self.error
        return x


@pytest.mark.parametrize("after", [0, 3, 8])
@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (ValueError("x"), ModelError)]
)
def test_all_is_restored_after_an_exception_or_ctrl_c(error, raised, after):
    model = nn.Sequential(nn.Linear(3, 3), Breaks(error, after))
    before, around = state(model), surroundings()
    with pytest.raises(raised):
        timed(model, precision=0, seconds=5, threads=torch.get_num_threads())
    assert_untouched(model, before, around)
    assert model[1].count == 0


def test_the_inputs_are_not_written():
    given = torch.randn(4, 4)
    kept = given.clone()
    timed(nn.Sequential(nn.ReLU(inplace=True)), given, seconds=0)
    assert torch.equal(given, kept)


def test_inputs_may_be_a_tuple_or_named():
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    for inputs in ((torch.ones(2), torch.ones(2)), {"a": torch.ones(2), "b": torch.ones(2)}):
        assert timed(Two(), inputs, seconds=0).inputs == "2 float32, 2 float32"


class Wanders(nn.Module):
    def __init__(self, routes):
        super().__init__()
        self.parts = nn.ModuleList(nn.Identity() for _ in range(4))
        self.routes = (itertools.cycle(routes),)

    def forward(self, x):
        for number in next(self.routes[0]):
            x = self.parts[number](x)
        return x


def test_a_pass_that_calls_other_modules_is_left_out_and_counted():
    result = timed(Wanders([[0], [0], [0], [0], [0], [0], [0, 1], [0], [0]]), seconds=1, precision=0)
    assert [call.name for call in result.calls] == ["", "parts.0"]
    assert 0 < result.other_routes < result.passes
    assert result.calls[1].samples + result.calls[1].dropped == result.passes - result.other_routes
    assert "passes called other modules" in str(result)


def test_a_model_that_goes_another_way_each_time_is_refused():
    routes = [list(route) for route in itertools.permutations(range(4))]
    with pytest.raises(ModelError, match=r"calls its modules in another order .* model\.eval\(\)"):
        timed(Wanders(routes), seconds=0)


def test_a_module_that_nobody_registered_is_named_by_its_type():
    class Hidden(nn.Module):
        def forward(self, x):
            return nn.ReLU()(x)

    assert [c.name for c in timed(nn.Sequential(Hidden()), seconds=0).calls] == ["", "0", "0.<ReLU>"]


def test_the_modules_of_other_threads_are_not_taken_for_the_models():
    with hooked(WallStopwatch()) as events:
        other = threading.Thread(target=lambda: nn.Identity()(1))
        other.start()
        other.join()
        nn.Identity()(1)
    assert len(events.marks) == len(events.readings) == 2


def test_a_deep_copy_is_timed_like_the_model():
    clock = Clock()
    model = Net(clock)
    assert len(timed(model, watch=clock.stopwatch()).calls) == 9
    assert len(timed(copy.deepcopy(nn.Sequential(nn.ReLU(), nn.ReLU())), seconds=0).calls) == 3


def test_several_threads_are_timed_by_the_wall():
    result = timed(nn.Sequential(nn.Linear(3, 3)), threads=2, seconds=0)
    assert (result.clock, result.threads) == ("wall", 2)


def test_a_switch_of_any_thread_interrupts_a_lap_of_the_wall_clock():
    now, switches = itertools.count(step=1000), iter([0, 0, 1])
    watch = WallStopwatch(wall=lambda: next(now), switches=lambda: next(switches))
    readings = [watch.read() for _ in range(3)]
    assert watch.laps(readings, 0.1) == [Lap(1e-6, False), Lap(1e-6, True)]


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="pages of one size on Linux alone")
def test_the_pages_that_a_pass_takes_from_the_system_are_counted():
    class Takes(nn.Linear):
        def forward(self, x):
            with mmap.mmap(-1, 1000 * mmap.PAGESIZE) as memory:
                memory.madvise(mmap.MADV_NOHUGEPAGE)
                memory.write(b"x" * len(memory))
            return super().forward(x)

    found = time_in_context(Takes(4, 4), torch.rand(1, 4), seconds=0.5).system
    assert found.page_faults >= 1000
    assert found.seconds >= 0


def test_precision_is_that_of_the_median():
    samples = [Lap(float(n), False) for n in range(1, 10)]
    assert time_stats(samples).precision == pytest.approx(1.57 * 4 / 3 / 5)
    assert time_stats(samples[:1]).precision == float("inf")


def test_precision_ends_the_passes_before_the_seconds_do():
    clock = Clock()
    assert timed(Net(clock), watch=clock.stopwatch(), seconds=600).passes == 5


def compiled(module, attribute):
    """As torch.compile leaves it, without loading the compiler."""
    setattr(module, attribute, lambda: None)
    return module


@pytest.mark.parametrize(
    ("model", "options", "error", "said"),
    [
        (
            lambda x: x,
            {},
            ModelError,
            "expected a torch.nn.Module, got the function <lambda>. If it builds a model",
        ),
        (nn.ReLU(), {"threads": 0}, InputError, "threads must be a whole number"),
        (nn.ReLU(), {"seconds": -1}, InputError, "seconds must be a number"),
        (nn.ReLU(), {"clock": "sundial"}, InputError, "clock must be 'cpu' or 'wall'"),
        (nn.Linear(3, 3, device="meta"), {}, InputError, "are on cpu and meta"),
        (nn.LazyLinear(3), {}, ModelError, "is lazy"),
        (compiled(nn.ReLU(), "_orig_mod"), {}, ModelError, "the model is compiled by torch.compile"),
        (
            nn.Sequential(compiled(nn.ReLU(), "_compiled_call_impl")),
            {},
            ModelError,
            "0 is compiled by torch.compile",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(model, options, error, said):
    with pytest.raises(error, match=said):
        timed(model, **options)
