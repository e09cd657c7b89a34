"""Every kind of model can be traced, however it is held together, and whoever makes a call is charged."""

import gc
import sys
import threading
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archcost.cost.costs import cost_of
from archcost.errors import InputError, ModelError
from archcost.trace.run import record
from helpers.calls import Calls, costs, macs


def linear():
    return nn.Linear(8, 8)


LINEAR = 2 * 8 * 8  # MACs of `linear()` on X
X = torch.rand(2, 8)
IMAGE = torch.rand(2, 3, 8, 8)
CONV = 2 * 4 * 6 * 6 * 27  # MACs of `conv()` on IMAGE


def conv():
    return nn.Conv2d(3, 4, 3)


# Who is charged


def test_functional_calls_are_charged_to_the_module_that_made_them():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))
            self.inner = nn.Conv2d(4, 4, 1, bias=False)

        def forward(self, x):
            y = self.inner(F.conv2d(x, self.weight)).flatten(2)
            return torch.einsum("bij,bkj->bik", y, y) @ y

    model = nn.Sequential(Block(), nn.ReLU())
    rows = costs(model, IMAGE).by_name
    inner = 2 * 4 * 36 * 4
    assert rows["0.inner"].macs == inner
    assert rows["0"].macs == CONV + inner + 2 * (2 * 4 * 36 * 4)
    assert rows[""].macs == rows["0"].macs


def test_a_shared_module_is_charged_where_it_is_called():
    shared = linear()
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(nn.ReLU(), shared, shared)})
    model.forward = lambda x: model["b"](model["a"](x))
    found = costs(model, X)
    assert found.total.params == 72
    assert found.total.macs == 3 * LINEAR
    assert found.by_name["a.0"].macs == LINEAR
    assert found.by_name["b"].macs == 2 * LINEAR


def test_tied_weights_are_counted_once_and_shown():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 10, bias=False))
    model[1].weight = model[0].weight
    found = costs(model, torch.zeros(1, 5, dtype=torch.long))
    assert found.total.params == 80
    assert found.total.macs == 5 * 80
    assert found.by_name["0"].tied == ("0.weight = 1.weight",)


def test_a_module_called_many_times_is_counted_each_time():
    found = costs(Calls(lambda self, x: [x := self.lin(x) for _ in range(7)], lin=linear()), X)
    assert found.by_name["lin"].calls == 7
    assert found.total.macs == 7 * LINEAR


def test_the_model_called_by_itself_is_traced():
    def twice(self, x, again=True):
        return self(self.lin(x), again=False) if again else self.lin(x)

    assert macs(Calls(twice, lin=linear()), X) == 2 * LINEAR


def test_an_exception_of_a_child_that_is_caught_does_no_harm():
    def forward(self, x):
        for wrong in (x[:, :3], x[:, :5]):
            with pytest.raises(RuntimeError):
                self.group(wrong)
        return self.good(x)

    model = Calls(forward, group=nn.Sequential(nn.ReLU(), nn.Sequential(linear())), good=linear())
    rows = costs(model, X).by_name
    assert rows["good"].macs == rows[""].macs == LINEAR
    assert rows["group"].macs == 0


def test_modules_in_plain_lists_are_counted_and_named():
    model = Calls(lambda self, x: self.lin(self.hidden[0](x)), lin=linear(), hidden=[linear()])
    trace = record(model, X)
    found = cost_of(trace)
    assert found.total.macs == 2 * LINEAR
    assert found.total.params == 72
    assert found.by_name["<Linear>"].macs == LINEAR
    assert trace.notes == (
        "<Linear> is called but not registered in the model, so its parameters are not counted",
    )


# How it is held together


def nested(depth):
    model = nn.Sequential(nn.Identity())
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


def deepest(build, survives):
    low, high = 1, 4000
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if survives(build(middle)) else (low, middle)
    return low


def survives(model):
    try:
        model(X)
    except RecursionError:
        return False
    return True


class Wrapper(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.once_more(x)

    def once_more(self, x):
        return self.inner(x)


def wrapped(depth):
    model = nn.Identity()
    for _ in range(depth):
        model = Wrapper(model)
    return model


@pytest.mark.parametrize("build", [nested, wrapped])
def test_as_deep_as_the_models_own_forward_survives(build):
    depth = deepest(build, survives)
    limit = sys.getrecursionlimit()
    assert depth > 50
    trace = record(build(depth), X)
    assert len(trace.calls) >= depth
    assert cost_of(trace).total.macs == 0
    assert sys.getrecursionlimit() == limit


def test_endless_recursion_is_a_clear_error():
    with pytest.raises(ModelError, match="recurses too deeply"):
        record(Calls(lambda self, x: self(x)), X, device="meta")


def test_a_cyclic_module_graph_is_a_clear_error():
    model = nn.Sequential(nn.Sequential(nn.ReLU()))
    model[0].add_module("parent", model)
    with pytest.raises(ModelError) as caught:
        record(model, X)
    assert str(caught.value) == (
        "the module tree has a cycle: '0.parent' is 'the model itself' again. Keep the back reference out of "
        "the module tree, for example in a tuple: self.parent = (parent,)"
    )


def test_a_module_shared_by_very_many_does_not_explode():
    model = nn.Sequential(linear())
    for _ in range(40):
        model = nn.Sequential(model, model)  # 2**40 paths
    assert record(Calls(lambda self, x: x + 1, deep=model), X).modules["deep"].type_name == "Sequential"


def test_a_lazy_module_is_a_clear_error():
    with pytest.raises(ModelError) as caught:
        record(nn.Sequential(nn.ReLU(), nn.LazyLinear(4)), X)
    assert str(caught.value) == (
        "1 (LazyLinear) is lazy and has no weights yet: run one forward pass, model(example), before "
        "analysing it"
    )


def test_a_class_instead_of_a_model_is_a_clear_error():
    with pytest.raises(
        ModelError,
        match=r"^expected a torch.nn.Module, got the class Linear; pass an instance: Linear\(\.\.\.\)$",
    ):
        record(nn.Linear, X)


def test_containers_of_modules():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.many = nn.ModuleList([linear(), linear()])
            self.named = nn.ModuleDict({"one": nn.ModuleList([linear()])})

        def forward(self, x):
            for layer in self.many:
                x = layer(x)
            return self.named["one"][0](x)

    rows = costs(Model(), X).by_name
    assert (rows["many"].macs, rows["named"].macs, rows["named.one.0"].macs) == (2 * LINEAR, LINEAR, LINEAR)


def test_data_parallel_counts_the_module_inside():
    model = nn.DataParallel(linear())
    model.device_ids = [0]  # as on a machine with an accelerator
    before = model.device_ids
    assert macs(model, X) == LINEAR
    assert model.device_ids is before


def test_fx_graph_modules():
    assert macs(torch.fx.symbolic_trace(nn.Sequential(linear(), nn.ReLU(), linear())), X) == 2 * LINEAR


# Compiled and scripted


def never(*_):
    raise AssertionError("the compiler was started")


def compiled_model():
    return torch.compile(nn.Sequential(conv(), nn.ReLU()), backend=never)


def compiled_child():
    return nn.Sequential(torch.compile(conv(), backend=never), nn.ReLU())


def compiled_in_place():
    model = nn.Sequential(conv(), nn.ReLU())
    model.compile(backend=never)
    model[0].compile(backend=never)
    return model


def compiled_function():
    return Calls(torch.compile(lambda self, x: self.conv(x), backend=never), conv=conv())


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("build", [compiled_model, compiled_child, compiled_in_place, compiled_function])
def test_compiled_models_are_counted_as_written(build, device):
    found = costs(build(), IMAGE, device)
    assert (found.total.macs, found.total.params) == (CONV, 112)


def test_a_compiled_model_says_what_is_counted():
    assert record(compiled_model(), IMAGE).notes == (
        "the model is compiled: the model as written, before compilation, is counted",
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("part", [False, True], ids=["whole", "part"])
def test_script_modules_are_counted_for_real(how, part):
    inner = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()).eval()
    script = torch.jit.script(inner) if how == "script" else torch.jit.trace(inner, IMAGE)
    model = nn.Sequential(script, nn.Conv2d(4, 2, 1)) if part else script
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace = record(model, IMAGE)
    found = cost_of(trace)
    extra, more = (2 * 36 * 8, 10) if part else (0, 0)
    assert (found.total.macs, found.total.params) == (CONV + extra, 120 + more)
    assert trace.device == "cpu"
    where = "0" if part else "the model"
    assert trace.notes == (
        f"{where} is a ScriptModule: its operations are counted under its own name, and executed on cpu, "
        f"since its weights cannot be moved",
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_a_frozen_script_says_that_its_weights_are_not_seen():
    trace = record(torch.jit.freeze(torch.jit.script(nn.Sequential(conv()).eval())), IMAGE)
    assert cost_of(trace).total.macs == CONV
    assert "weights frozen into it are not counted" in trace.notes[0]


@pytest.mark.filterwarnings("ignore")
def test_a_script_module_does_not_move():
    with pytest.raises(ModelError, match="it cannot run on meta; omit device="):
        record(torch.jit.script(conv()), IMAGE, device="meta")


# Memory and time


def test_no_memory_for_a_big_model():
    width = 30_000
    model = nn.Sequential(nn.Linear(width, width, device="meta"), nn.ReLU())  # 3.6 GB
    assert macs(model, {"input": torch.empty(64, width, device="meta")}) == 64 * width * width


def test_weights_are_not_copied():
    import resource

    model = nn.Sequential(*(nn.Linear(2048, 2048) for _ in range(12)))  # 200 MB
    x = torch.rand(4, 2048)
    record(nn.Sequential(nn.Linear(4, 4)), torch.rand(2, 4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    record(model, x)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 40e6


def test_the_model_and_its_inputs_are_let_go():
    model, x = nn.Sequential(conv(), nn.ReLU()), torch.rand(2, 3, 8, 8)
    gone = [weakref.ref(model), weakref.ref(model[0].weight), weakref.ref(x)]
    traces = [record(model, x, device=device) for device in ("meta", "cpu")]
    with pytest.raises(InputError):
        record(model, x[:, :2])
    del model, x
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
    assert traces


def test_a_trace_does_not_start_the_compiler(only_torch):
    """It takes seconds to import; the first analysis would wait for it."""
    code = (
        "import sys, torch; from torch import nn; from archcost.trace.run import record;"
        "record(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), torch.rand(2, 3, 8, 8));"
        "print('torch._dynamo' in sys.modules)"
    )
    assert only_torch.run(code).stdout.strip() == "False"


def test_a_model_is_analysed_in_a_thread_without_a_signal_handler():
    results = []
    thread = threading.Thread(target=lambda: results.append(macs(linear(), X)))
    thread.start()
    thread.join()
    assert results == [LINEAR]


def test_no_warning_is_raised_by_the_trace_itself():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU()), IMAGE)
        record(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), torch.rand(2, 5, 8))


def test_give_inputs_or_a_size_not_both():
    with pytest.raises(InputError, match=r"^inputs and input_size exclude each other: pass one of them$"):
        record(linear(), X, input_size=(2, 8))
