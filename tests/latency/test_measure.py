"""measure: two kinds of time joined to every layer, kept in the store, partial when interrupted."""

import json
import platform
from dataclasses import replace

import pytest
import torch
from golden import made_up
from torch import nn

import archcost
from archcost import ConvSpec, InputError, ModelError, SpecError
from archcost.latency.candidates import TimingOptions, is_far
from archcost.latency.convolutions import convolutions_of, samples_of
from archcost.latency.layers import NOT_FASTER, NOT_MEASURED, layer_times, verdict_of
from archcost.latency.measured import MeasuringInterrupted
from archcost.latency.paths import is_rough, time_paths
from archcost.latency.prediction.roofline import Roofline
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import Timing
from archcost.latency.timing.deadline import Deadline
from archcost.latency.timing.stopwatch import System
from archcost.paths import get
from archcost.trace.call import Call

NOW = Deadline(float("inf"))


class Net(nn.Module):
    """Two layers alike, one called twice, one functional, one that pads in a way of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.twice = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.round = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.weight = nn.Parameter(torch.randn(4, 8, 1, 1))

    def forward(self, x):
        x = self.second(torch.relu(self.first(x)))
        x = self.round(self.norm(self.twice(self.twice(x))))
        return nn.functional.conv2d(x, self.weight)


X = torch.rand(2, 8, 12, 12, generator=torch.Generator().manual_seed(0))


class Compare:
    """In place of `compare_calls`: runs every call once, and says what it was told to say."""

    def __init__(self, seconds=None, stop_after=None):
        self.seconds, self.stop_after = seconds or {}, stop_after
        self.rounds = []

    def __call__(self, calls, *, rounds, **how):
        if len(self.rounds) == self.stop_after:
            raise KeyboardInterrupt
        self.rounds.append(rounds)
        return {name: self.timing(name, call, rounds) for name, call in calls.items()}

    def timing(self, name, call, rounds):
        call()
        took = (self.seconds.get(name, self.seconds.get(name.split()[0], 1.0)),) * rounds
        return Timing(name, took, took, tuple(range(rounds)), 1, 0, False, 0)


@pytest.fixture
def clock(monkeypatch):
    """A measure whose every comparison is a `Compare`, with little of the model in context."""
    compare = Compare()
    line = Roofline(50e9, 8e9, threads=1, dtype="float32", device="as an example")
    monkeypatch.setattr(
        "archcost.latency.prediction.roofline.measure_roofline", lambda *args, **options: line
    )
    monkeypatch.setattr("archcost.latency.measure._MOST_IN_CONTEXT", 0.1)

    def asked(*args, **options):
        return TimingOptions(*args, **{**options, "compare": compare})

    monkeypatch.setattr("archcost.latency.paths.TimingOptions", asked)
    return compare


def tasks_and_samples(model=None, x=X):
    model = (model or Net()).eval()
    calls = convolutions_of(archcost.analyze(model, x).trace)
    tasks = list(dict.fromkeys(call.task for call in calls))
    return calls, samples_of(model, Call((x,), {}), tasks)


def test_every_convolution_of_a_pass_is_found_with_its_module():
    calls, _ = tasks_and_samples()
    found = [(one.name, one.type, one.call, one.alone) for one in calls]
    assert found == [
        ("first", "Conv2d", 0, True),
        ("second", "Conv2d", 0, True),
        ("twice", "Conv2d", 0, True),
        ("twice", "Conv2d", 1, True),
        ("round", "Conv2d", 0, True),
        ("", "Net", 0, False),
    ]
    assert calls[0].task == calls[1].task
    assert calls[0].task.spec == ConvSpec(8, 8, 3, padding=1, input_size=(12, 12), batch=2)
    assert calls[4].task.spec.input_size == (14, 14)


def test_the_tensors_are_those_of_the_first_layer_that_does_it():
    model = Net().eval()
    calls, samples = tasks_and_samples(model)
    sample = samples[calls[0].task]
    assert torch.equal(sample.weight, model.first.weight)
    assert torch.equal(sample.x, X)
    assert len(samples) == len({one.task for one in calls}) == 4


def test_the_model_is_as_it_was_also_after_an_exception():
    class Fails(Net):
        def forward(self, x):
            super().forward(x)
            self.left = "something"
            raise RuntimeError("no more")

    model = Fails().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = convolutions_of(archcost.analyze(Net(), X).trace)
    with pytest.raises(ModelError, match="RuntimeError: no more"):
        samples_of(model, Call((X,), {}), [calls[0].task])
    assert model.training
    assert not hasattr(model, "left")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_paths_are_timed_in_both_layouts_and_the_hopeless_only_once():
    _, samples = tasks_and_samples()
    task, sample = next(iter(samples.items()))
    compare = Compare({"native": 1.0, "im2col-tiled": 10.0, "winograd-4": 0.25})
    names = ["im2col-tiled", "winograd-4"]
    [found] = time_paths({task: sample}, TimingOptions(paths=names, compare=compare), NOW)
    assert compare.rounds == [1, 25]
    rough = {(one.key.path, one.key.layout): is_rough(one) for one in found.measurements}
    assert rough == {
        **{("native", layout): False for layout in ("contiguous", "channels_last")},
        **{("im2col-tiled", layout): True for layout in ("contiguous", "channels_last")},
        **{("winograd-4", layout): False for layout in ("contiguous", "channels_last", "blocked")},
    }
    verdict = verdict_of(found)
    assert verdict.best.key.path == "winograd-4"
    assert verdict.native.median_s / verdict.best.median_s == 4


def test_a_first_call_shows_what_is_far_behind_unless_it_is_short():
    short, long = {("a", ""): 1e-4, ("b", ""): 1e-2}, {("a", ""): 0.1, ("b", ""): 0.7, ("c", ""): 0.9}
    assert not any(is_far(way, short) for way in short)
    assert [way[0] for way in long if is_far(way, long)] == ["c"]


def test_what_is_not_exact_enough_is_never_the_best():
    _, samples = tasks_and_samples()
    task, sample = next(iter(samples.items()))
    compare = Compare({"native": 1.0, "winograd-6": 0.1})
    asked = TimingOptions(paths=["winograd-6"], tolerance=1e-9, compare=compare)
    [found] = time_paths({task: sample}, asked, NOW)
    assert verdict_of(found).best.key.path == "native"
    assert "above the tolerance" in found.refused["winograd-6"]


def test_a_gain_within_the_noise_is_none():
    _, samples = tasks_and_samples()
    task, sample = next(iter(samples.items()))
    compare = Compare({"native": 1.0, "winograd-4": 0.98})
    [found] = time_paths({task: sample}, TimingOptions(paths=["winograd-4"], compare=compare), NOW)
    verdict = verdict_of(found)
    assert (verdict.best.key.path, verdict.note) == ("native", NOT_FASTER)


def test_the_usual_paths_leave_out_what_no_kernel_runs_and_say_so():
    _, samples = tasks_and_samples()
    task, sample = next(iter(samples.items()))
    [found] = time_paths({task: sample}, TimingOptions(compare=Compare()), NOW)
    timed = {(one.key.path, one.key.layout) for one in found.measurements}
    dtype = torch.float32
    assert ("native", "contiguous") in timed
    for path, layout in timed:
        assert layout == "blocked" or get(path).implementation(task.spec, dtype) != "tensor operations"
    assert {layout for path, layout in timed if path == "direct"} == {"blocked"}
    assert "no compiled kernel" in found.refused["im2col"]
    [every] = time_paths({task: sample}, TimingOptions(paths="all", compare=Compare()), NOW)
    assert "direct" in {one.key.path for one in every.measurements}


def test_the_store_is_asked_first_and_nothing_is_measured_twice():
    _, samples = tasks_and_samples()
    with Store(":memory:") as store:
        first, second, third = Compare(), Compare(), Compare()
        names = ["winograd-4"]
        put = list(time_paths(samples, TimingOptions(paths=names, store=store, compare=first), NOW))
        assert len(store) == sum(len(one.measurements) for one in put)
        got = list(time_paths(samples, TimingOptions(paths=names, store=store, compare=second), NOW))
        assert second.rounds == []
        assert all(one.reused for one in got)
        assert {m for one in got for m in one.measurements} == {m for one in put for m in one.measurements}
        # Another path, or the wish, has it measured again.
        list(time_paths(samples, TimingOptions(paths=["im2col-tiled"], store=store, compare=third), NOW))
        assert len(third.rounds) == 2 * len(samples)
        list(time_paths(samples, TimingOptions(paths=names, store=store, again=True, compare=second), NOW))
        assert len(second.rounds) == 2 * len(samples)


def test_cold_times_are_kept_apart():
    _, samples = tasks_and_samples()
    task, sample = next(iter(samples.items()))
    with Store(":memory:") as store:
        for cold in (False, True):
            asked = TimingOptions(paths=["native"], store=store, cold=cold, compare=Compare())
            [found] = time_paths({task: sample}, asked, NOW)
            assert not found.reused
            assert {one.key.path for one in found.measurements} == {"native"}
        assert {(one.key.path, one.key.kind) for one in store} == {("native", "path"), ("native", "cold")}


def test_no_time_is_no_time():
    _, samples = tasks_and_samples()
    compare = Compare()
    assert list(time_paths(samples, TimingOptions(compare=compare), Deadline(0.0))) == []
    calls, _ = tasks_and_samples()
    rows = layer_times(calls, {}, None, None)
    assert rows[0].note == NOT_MEASURED
    assert rows[0].best_ms is None
    assert rows[0].macs == calls[0].task.spec.macs


def test_measure_joins_both_kinds_of_time_to_every_layer(clock):
    model = Net().eval()
    clock.seconds = {"native": 2.0, "winograd-2": 1.0}
    found = archcost.measure(model, X, paths=["winograd-2"], threads=1, store=":memory:")
    assert [one.name for one in found.layers] == ["first", "second", "twice", "twice", "round", ""]
    for row in found.layers[:2]:
        assert (row.best_path, row.best_ms, row.native_ms, row.speedup) == ("winograd-2", 1e3, 2e3, 2.0)
        assert row.multiplications == get("winograd-2").multiplications(row.spec)
        assert row.error < 1e-4
        assert row.roofline_share > 0
    assert found["twice"].best_path == "native"
    assert all(row.latency_ms > 0 for row in found.layers[:-1])
    last = found.layers[-1]
    assert last.latency_ms is None
    assert "which does more" in last.note
    assert found.end_to_end_ms > 0
    assert (found.threads, found.batch, found.dtype, found.torch) == (1, 2, "float32", torch.__version__)
    assert len(found.paths) == sum(len(one.measurements) for one in found.convolutions)


def test_an_analysis_measures_its_own_model(clock):
    model = Net().eval()
    analysis = archcost.analyze(model, X)
    found = archcost.measure(analysis, paths=["native"], store=False, in_context=False, batch=3)
    assert found.name == analysis.name
    assert found.batch == found.layers[0].spec.batch == 3
    assert found.context is None
    assert found.end_to_end_ms is None
    del model
    with pytest.raises(ModelError, match="the model is gone"):
        archcost.measure(analysis)


def test_ctrl_c_gives_what_was_measured_by_then(clock):
    clock.stop_after = 2
    with pytest.raises(MeasuringInterrupted) as stopped, Store(":memory:") as store:
        archcost.measure(Net().eval(), X, paths=["native"], store=store, in_context=False)
    found = stopped.value.found
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert found.interrupted
    assert len(found.convolutions) == 1
    assert "Interrupted" in str(found)
    assert sum(row.best_ms is not None for row in found.layers) in (1, 2)


def test_threads_and_the_model_are_put_back(clock):
    before, model = torch.get_num_threads(), Net().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    clock.stop_after = 0
    with pytest.raises(KeyboardInterrupt):
        archcost.measure(model, X, threads=before + 1, store=False)
    assert torch.get_num_threads() == before
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_model_without_convolutions_has_no_rows(clock):
    found = archcost.measure(nn.Linear(3, 4), torch.rand(2, 3), store=False)
    assert found.layers == ()
    assert "the model ran no convolutions" in str(found)
    assert found.to_pandas().empty


def test_reports_have_every_column_and_json_is_strict(clock):
    found = archcost.measure(Net().eval(), X, paths=["native"], threads=1, store=False)
    table = found.to_pandas()
    wanted = {"latency_ms", "best_path", "best_ms", "speedup", "error", "workspace_bytes", "roofline_share"}
    assert wanted <= set(table.columns)
    assert len(table) == len(found.layers)
    paths = found.to_pandas(by="paths")
    assert len(paths) == len(found.paths)
    assert {"device", "threads", "dtype", "batch", "torch", "ms", "spread_ms", "rough"} <= set(paths.columns)
    document = json.loads(found.to_json(), parse_constant=pytest.fail)
    assert document["schema"] == "archcost.measured/1"
    assert [row["name"] for row in document["layers"]] == [row.name for row in found.layers]
    assert document["context"]["end_to_end_ms"] == found.end_to_end_ms
    assert len(document["paths"]) == len(found.paths)
    assert "(the model)" in found.to_markdown()
    assert "<table" in found.to_html()
    assert found.to_csv().splitlines()[0].startswith("name,type,call,")
    assert not any("predicted" in name for name in [*table.columns, *paths.columns])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"seconds": 0}, InputError, "seconds must be a number above 0; got 0"),
        ({"tolerance": -1}, InputError, "tolerance must be a number above 0; got -1"),
        ({"batch": 0}, InputError, "batch must be a whole number, at least 1; got 0"),
        ({"threads": 0}, InputError, "threads must be a whole number, at least 1; got 0"),
        ({"paths": "winograd-4"}, SpecError, "give a list of names, 'all' or None"),
        ({"paths": ["winograd-5"]}, SpecError, "no execution path is called 'winograd-5'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(options, error, said):
    with pytest.raises(error, match=said):
        archcost.measure(Net(), X, store=False, **options)


def test_without_time_for_the_roofline_a_note_says_so(monkeypatch):
    from archcost.latency.timing.deadline import TooLittleTime

    def too_late(*args, **options):
        raise TooLittleTime("the time was up before the roofline was measured")

    monkeypatch.setattr("archcost.latency.prediction.roofline.measure_roofline", too_late)
    found = archcost.measure(nn.Conv2d(3, 4, 3), input_size=(1, 3, 8, 8), seconds=1, store=False)
    assert found.roofline is None
    said = "no roofline of this machine: the time was up before the roofline was measured; give more seconds"
    assert said in found.notes


@pytest.mark.parametrize(
    ("seconds", "faults", "noted"), [(6e-4, 900, True), (6e-4, 9, False), (1e-4, 900, False)]
)
@pytest.mark.parametrize("glibc", [True, False])
def test_memory_that_is_taken_anew_in_every_pass_is_noted(seconds, faults, noted, glibc, monkeypatch):
    """Of passes of 7 ms."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc" if glibc else "", ""))
    found = made_up.measured()
    context = replace(found.context, system=System(seconds, faults))
    text = " ".join(replace(found, context=context).to_text().split())
    said = (
        "Memory: 0.6 ms of a pass (9%) are the system's, for 900 page faults: memory that is freed goes back"
    )
    assert (said in text) == noted
    assert ("MALLOC_MMAP_THRESHOLD_=" in text) == (noted and glibc)
