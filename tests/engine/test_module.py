"""The accelerated module: the program where it may run, the model's own modules elsewhere; never a wrong
answer."""

import copy
import os
import pickle
import threading
import types
import typing
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from archcost import kernels
from archcost.engine.module import Accelerated, Engine, accelerated, original
from archcost.engine.reading.registry import Refused
from archcost.engine.recipe import Recipe
from archcost.trace.call import Call
from archcost.trace.hints import traced
from helpers.engine import Net, X, close, net

pytestmark = pytest.mark.skipif(kernels.isa() is None, reason="no compiled kernels")


def fast_of(model, *args, **kwargs):
    call = Call(args or ((X,) if not kwargs else ()), kwargs)
    trace = traced(model, call, progress=False)
    with torch.no_grad():
        returned = model(*call.args, **call.kwargs)
    recipe, graph = Recipe.of(model, call, trace, returned)
    return accelerated(model, Engine(model, recipe, recipe.made(graph)[0]))


def test_square_weights_are_read_as_they_lie():
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval(), torch.randn(2, 8)
    fast = fast_of(model, x)
    with torch.no_grad():
        assert fast.why_not(x) is None
        assert close(fast(x), model(x))


@pytest.fixture
def pair():
    """An accelerated model that was called, and another one with the same weights."""
    fast = fast_of(net())
    fast(X)
    return fast, net()


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def runs(model, *args, **kwargs):
    return model.why_not(*args, **kwargs) is None


def used(model, monkeypatch):
    """Counts the passes by the program."""
    engine, passes = model._archcost_engine, []
    run, again = engine.run, engine.again

    def counted(args, kwargs):
        made = again(args, kwargs)
        passes.extend([1] * (made is not None))
        return made

    monkeypatch.setattr(engine, "run", lambda *ready: passes.append(1) or run(*ready))
    monkeypatch.setattr(engine, "again", counted)
    return passes


# The model as it is seen


def test_it_is_a_module_that_shares_all_with_the_original(pair):
    fast, plain = pair
    assert isinstance(fast, Net)
    assert isinstance(fast, Accelerated)
    model = original(fast)
    assert type(model) is Net
    assert fast.fc is model.fc
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert dict(fast.named_modules()).keys() == dict(plain.named_modules()).keys()
    assert fast.features() == 16
    fast.train()
    assert model.training
    assert model.conv1.training
    model.eval()
    assert not fast.training
    fast.note = "new"
    assert model.note == "new"


def test_the_program_runs_and_computes_the_same(pair, monkeypatch):
    fast, plain = pair
    passes = used(fast, monkeypatch)
    assert close(fast(X), plain(X))
    assert len(passes) == 1


def test_outputs_are_new_tensors(pair):
    fast, _ = pair
    first = fast(X)
    kept = first.clone()
    fast(2 * X)
    assert torch.equal(first, kept)


def test_state_dict_and_its_overrides_are_the_models_own():
    class Own(Net):
        def state_dict(self, *args, **kwargs):
            return {"all": super().state_dict(*args, **kwargs)}

    model = Own().eval()
    assert list(fast_of(model).state_dict()) == ["all"]


def test_methods_of_the_model_come_before_archcosts_own():
    class Named(Net):
        def save(self):
            return "its own"

    fast = fast_of(Named().eval())
    assert fast.save() == "its own"
    assert runs(fast, X)


# Where the model's own modules run


def test_gradients_are_recorded_by_its_own_modules(pair):
    fast, plain = pair
    with torch.enable_grad():
        assert "gradients are recorded" in fast.why_not(X)
        for one in (fast, plain):
            one(X).square().sum().backward()
        for one, other in zip(fast.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)
        fast.requires_grad_(False)
        assert runs(fast, X)
        assert fast.why_not(X.clone().requires_grad_()) is not None


def test_training_mode_and_back(pair):
    fast, plain = pair
    fast.train(), plain.train()
    assert "training has changed" in fast.why_not(X)
    assert torch.equal(fast(X), plain(X))
    fast.eval(), plain.eval()
    fast(X)
    assert runs(fast, X)
    assert close(fast(X), plain(X))
    fast.bn1.train()
    assert not runs(fast, X)


@pytest.mark.parametrize(
    "other",
    [
        lambda: X[:1],
        lambda: torch.randn(2, 4, 9, 13),
        lambda: X[:0],
        lambda: nn.Parameter(X),
    ],
    ids=["batch", "size", "empty", "parameter"],
)
def test_other_inputs_run_by_its_own_modules(pair, other):
    fast, plain = pair
    x = other()
    assert not runs(fast, x)
    assert torch.equal(fast(x), plain(x))


def test_other_dtypes_and_devices(pair):
    fast, plain = pair
    assert torch.equal(fast.double()(X.double()), plain.double()(X.double()))
    assert close(fast.float()(X), plain.float()(X))
    assert fast.to("meta")(X.to("meta")).is_meta


class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count = getattr(self, "count", 0) + 1
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count = getattr(self, "count", 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Seen, Functions])
def test_modes_see_the_operations_of_the_model(pair, mode):
    fast, plain = pair
    with mode() as mine:
        fast(X)
    with mode() as theirs:
        plain(X)
    assert mine.count == theirs.count > 5


def test_autocast_vmap_and_functional_calls(pair):
    fast, plain = pair
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(X).dtype == plain(X).dtype == torch.bfloat16
    several = torch.stack([X, 2 * X])
    assert close(torch.vmap(fast)(several), torch.vmap(plain)(several))
    other = {name: 2 * value for name, value in plain.named_parameters()}
    for _ in range(3):
        found = torch.func.functional_call(fast, other, (X,))
        assert torch.equal(found, torch.func.functional_call(plain, other, (X,)))
    fast(X)
    assert close(fast(X), plain(X))
    jacobian = torch.func.jvp(fast, (X,), (X,))[1]
    assert close(jacobian, torch.func.jvp(plain, (X,), (X,))[1])


def test_tracers_see_the_operations_of_the_model(pair):
    fast, plain = pair
    symbolic = torch.fx.symbolic_trace(fast)
    assert {node.target for node in symbolic.graph.nodes} >= {"conv1", "bn1", "fc"}
    assert torch.equal(symbolic(X), plain(X))
    script = torch.jit.trace(fast, (X,))
    assert torch.equal(script(2 * X), plain(2 * X))
    for strict in (False, True):
        exported = torch.export.export(fast, (X,), strict=strict)
        assert any("conv" in str(node.target) for node in exported.graph.nodes)
        assert torch.equal(exported.module()(X), plain(X))
    compiled = torch.compile(fast, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X), plain(X))


def test_fake_tensors(pair):
    from torch._subclasses.fake_tensor import FakeTensorMode

    fast, _ = pair
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert fast(mode.from_tensor(X)).shape == (2, 5)


def test_hooks_that_come_later_run(pair):
    fast, plain = pair
    seen = []
    handle = fast.conv2.register_forward_hook(lambda _, __, y: seen.append(y) or 2 * y)
    plain.conv2.register_forward_hook(lambda _, __, y: 2 * y)
    assert "conv2 has hooks" in fast.why_not(X)
    assert torch.equal(fast(X), plain(X))
    assert len(seen) == 1
    handle.remove()
    assert runs(fast, X)
    around = []
    fast.register_forward_hook(lambda _, __, y: around.append(y))
    assert runs(fast, X)
    assert fast(X) is around[0]
    with nn.modules.module.register_module_forward_hook(lambda *_: None):
        assert not runs(fast, X)


def test_changed_attributes_are_seen(pair):
    fast, plain = pair
    fast.doubled = plain.doubled = True
    assert fast.why_not(X) == "the model: doubled has changed"
    assert torch.equal(fast(X), plain(X))
    fast.doubled = False
    assert runs(fast, X)
    fast.conv2.stride = plain.conv2.stride = (2, 2)
    assert "conv2: stride has changed" in fast.why_not(X)
    fast.conv2.stride = (1, 1)
    fast.conv2 = nn.Identity()
    plain.doubled, plain.conv2 = False, nn.Identity()
    assert not runs(fast, X)
    assert torch.equal(fast(X), plain(X))


# Weights that change


def load(model):
    torch.manual_seed(5)
    model.load_state_dict(Net().state_dict())


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with torch.enable_grad():
        model(X).square().mean().backward()
    optimizer.step()


def by_numpy(model):
    model.conv1.weight.numpy()[:] *= 2


def of_one(model):
    model.act.weight = nn.Parameter(model.act.weight.detach().clone())
    model.act.weight.data.add_(1)


CHANGES = {
    "load_state_dict": load,
    "optimizer": step,
    "in place": lambda model: model.conv2.weight[0, 0, 0, 0].add_(5),
    "statistics": lambda model: model.bn1.running_mean.add_(1),
    "replaced": lambda model: setattr(model.fc, "weight", nn.Parameter(torch.randn(5, 16).sign())),
    "bias added": lambda model: setattr(model.conv1, "bias", nn.Parameter(torch.ones(16))),
    "data set": lambda model: setattr(model.conv1.weight, "data", torch.ones(16, 4, 3, 3)),
    "written through data": lambda model: model.conv2.weight.data.mul_(0.5),
    "written through numpy": by_numpy,
    "of one element": of_one,
    "channels_last": lambda model: (model.to(memory_format=torch.channels_last), model.fc.weight.mul_(2)),
    "moved": lambda model: model.double().float().fc.bias.add_(1),
    "shared": lambda model: (model.share_memory(), model.fc.weight.mul_(2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_take_effect_at_once_and_the_program_follows(pair, change, monkeypatch):
    fast, plain = pair
    before = fast(X)
    for one in pair:
        torch.manual_seed(2)
        CHANGES[change](one)
    passes = used(fast, monkeypatch)
    expected = plain(X)
    for _ in range(3):
        assert close(fast(X), expected)
    assert not close(expected, before)
    if change != "bias added":  # which is an operation that was not there
        assert len(passes) >= 1
        assert runs(fast, X)


def test_refresh_after_writes_that_leave_no_trace(pair):
    fast, plain = pair
    for one in pair:
        one.conv2.weight.data[3, 7, 1, 2] += 100.0
    fast.refresh()
    assert runs(fast, X)
    assert close(fast(X), plain(X))


def test_weights_that_change_at_every_call_do_not_make_a_program_each_time(pair, monkeypatch):
    fast, plain = pair
    passes = used(fast, monkeypatch)
    for _ in range(4):
        for one in pair:
            one.conv1.weight.mul_(1.1)
        assert torch.equal(fast(X), plain(X))
    assert not passes


def test_weights_that_come_to_rest_get_their_program(pair, monkeypatch):
    fast, plain = pair
    passes = used(fast, monkeypatch)
    for one in pair:
        for _ in range(20):
            one.conv1.weight.mul_(1.01)
            one(X)
    looks = fast._archcost_engine._changes
    assert 2 < looks < 7
    while not passes:
        assert close(fast(X), plain(X))
    assert close(fast(X), plain(X))


@pytest.mark.parametrize(("calls", "made"), [(3, 2), (12, 8)])
def test_short_evaluations_between_training_steps_do_not_make_a_program_each(pair, calls, made, monkeypatch):
    """Long ones do."""
    fast, plain = pair
    times, again = [], Recipe.again
    monkeypatch.setattr(Recipe, "again", lambda *given: times.append(1) or again(*given))
    for _ in range(8):
        for one in pair:
            one.conv1.weight.mul_(1.05)
        for _ in range(calls):
            assert close(fast(X), plain(X))
    assert len(times) == made


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        fast, plain = fast_of(net()), net()
        assert close(fast(X), plain(X))
        fast.fc.weight.mul_(2), plain.fc.weight.mul_(2)
        assert close(fast(X), plain(X))
    assert close(fast(X), plain(X))


# Inputs and outputs


@pytest.mark.parametrize(
    "given",
    [
        X.to(memory_format=torch.channels_last),
        X.flip(3).transpose(2, 3).contiguous().transpose(2, 3).flip(3),
        torch.cat([X, X], 1)[:, 2:6],
        X[:1].expand(2, 4, 12, 12),
        torch.randn(2 * 4 * 12 * 12 + 1)[1:].view(2, 4, 12, 12),
    ],
    ids=["channels_last", "transposed", "part", "expanded", "offset"],
)
def test_inputs_of_any_layout(pair, given, monkeypatch):
    fast, plain = pair
    passes = used(fast, monkeypatch)
    assert close(fast(given), plain(given))
    assert passes


@dataclass
class Found:
    logits: torch.Tensor
    features: list
    scale: float


class Both(typing.NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


STRUCTURES = {
    "tensor": lambda x, y, given: y,
    "tuple": lambda x, y, given: (x, y),
    "list": lambda x, y, given: [x, y],
    "dict": lambda x, y, given: {"x": x, "inner": {"y": (y, None)}},
    "named tuple": lambda x, y, given: Both(x, y),
    "dataclass": lambda x, y, given: Found(x, [y, "a word"], 0.5),
    "the same twice": lambda x, y, given: (y, y, x),
    "an input": lambda x, y, given: (given, y),
}


class Structured(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(4, 8, 3), how

    def forward(self, x, scale=None, *, other=None):
        y = self.conv(x)
        if other is not None:
            y = y + other["shift"]
        return STRUCTURES[self.how](y.relu(), y, x)


@pytest.mark.parametrize("how", STRUCTURES)
def test_outputs_keep_their_structure(how):
    from archcost.trace.inputs import tensors_in

    torch.manual_seed(0)
    model = Structured(how).eval()
    fast = fast_of(model, X)
    x = 2 * X
    mine, theirs = fast(x), model(x)
    assert runs(fast, x)
    assert type(mine) is type(theirs)
    assert all(close(a, b) for a, b in zip(tensors_in(mine), tensors_in(theirs), strict=True))
    if how == "the same twice":
        assert mine[0] is mine[1]
    if how == "an input":
        assert mine[0] is x
        assert fast(x.transpose(2, 3))[0].stride() == x.transpose(2, 3).stride()
    if how == "dataclass":
        assert mine.scale == 0.5
        assert mine.features[1] == "a word"


def test_arguments_by_name_in_structures_and_twice():
    torch.manual_seed(0)
    model, shift = Structured("tensor").eval(), torch.randn(8, 1, 1)
    fast = fast_of(model, X, None, other={"shift": shift})
    assert runs(fast, X, None, other={"shift": shift})
    assert runs(fast, x=X, scale=None, other={"shift": shift})
    assert not runs(fast, X, 1.0, other={"shift": shift})
    assert not runs(fast, X, None, other={"shift": shift, "more": 1})
    assert not runs(fast, X)
    assert close(fast(X, None, other={"shift": 2 * shift}), model(X, None, other={"shift": 2 * shift}))

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, a, b):
            return self.conv(a) - b

    model = Two().eval()
    same, different = fast_of(model, X, X), fast_of(model, X, 2 * X)
    assert runs(same, X, X)
    assert not runs(same, X, 2 * X)
    for fast in (same, different):
        assert close(fast(X, 3 * X), model(X, 3 * X))
        assert close(fast(X, X), model(X, X))


def test_what_cannot_become_a_program_is_refused():
    class Odd(nn.Conv2d):
        def forward(self, x):
            return types.SimpleNamespace(y=super().forward(x))

    with pytest.raises(Refused, match="it returns a SimpleNamespace, into which tensors cannot be put"):
        fast_of(Odd(4, 4, 3).eval())
    with pytest.raises(Refused, match="computes nothing"):
        fast_of(nn.Identity().eval())
    with pytest.raises(Refused, match="float64"):
        fast_of(nn.Conv2d(4, 4, 3).double().eval(), X.double())


# Copies, processes, threads, failures


def test_copies_and_pickles_have_programs_of_their_own(pair):
    fast, plain = pair
    fast.doubled = True
    stale = pickle.loads(pickle.dumps(fast))
    fast.doubled = False
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), copy.copy(fast)):
        assert isinstance(twin, Accelerated)
        twin(X)
        assert close(twin(X), plain(X))
        assert runs(twin, X)
    twin = copy.deepcopy(fast)
    twin.fc.weight.mul_(2)
    assert close(fast(X), plain(X))
    assert runs(fast, X)
    assert not runs(stale, X)
    assert torch.equal(stale(X), 2 * plain(X))


def test_threads_at_once_while_weights_change(pair):
    fast, plain = pair
    other = net()
    other.fc.weight.mul_(-3)
    answers = [plain(X), other(X)]
    wrong = []

    def work():
        with torch.no_grad():
            for _ in range(60):
                y = fast(X)
                if not any(close(y, one, 1e-4) for one in answers):
                    wrong.append(y)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    weights = [plain.fc.weight.clone(), other.fc.weight.clone()]
    for turn in range(10):
        fast.fc.weight = nn.Parameter(weights[(turn + 1) % 2])
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_it_works_after_a_fork(pair):
    fast, plain = pair
    expected = plain(X)
    fast(X)
    child = os.fork()
    if child == 0:
        os._exit(0 if close(fast(X), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_step_that_fails_leaves_everything_usable(pair, monkeypatch):
    fast, plain = pair
    program = fast._archcost_engine.program

    def fails(*_):
        raise RuntimeError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(type(program), "__call__", fails)
        with pytest.warns(UserWarning, match="the program of Net failed, its own modules run: RuntimeError"):
            assert torch.equal(fast(X), plain(X))
    assert close(fast(X), plain(X))


def test_other_defaults_of_pytorch_do_not_reach_the_program():
    torch.set_default_dtype(torch.float64)
    try:
        model = net().float()
        fast = fast_of(model, X)
        assert close(fast(X), model(X))
    finally:
        torch.set_default_dtype(torch.float32)


def test_calls_of_two_kinds_in_turns_are_not_kept_each_time(pair):
    fast, plain = pair
    wide = X.to(memory_format=torch.channels_last)
    engine, expected = fast._archcost_engine, plain(X)
    with torch.inference_mode():
        given = [X.clone(), X.clone()[:, :]]
        for _ in range(4):
            for one in (*given, wide):
                assert close(fast(one), expected)
    assert runs(fast, X)
    seen = []
    for _ in range(20):
        for mode in (torch.inference_mode, torch.no_grad):
            with mode():
                assert close(fast(X), expected)
        seen.append(engine._last)
    assert len(set(map(id, seen))) < 13
