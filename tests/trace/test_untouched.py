"""The model we are handed comes back untouched, whatever its forward does and however the pass ends."""

import contextlib
import copy
import gc
import random
import signal
import sys
import time
from types import SimpleNamespace

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as hooks_of_torch

from archcost.errors import ArchcostError
from archcost.trace.run import record

GLOBAL_HOOKS = [name for name in vars(hooks_of_torch) if name.startswith("_global_") and "hook" in name]


def value_of(thing):
    """A tensor as identity, storage, layout and a copy of its values; a container by its contents."""
    if isinstance(thing, torch.Tensor):
        values = None if thing.is_meta else thing.detach().clone()
        return _Tensor(thing, thing.data_ptr(), tuple(thing.shape), thing.stride(), thing.dtype, values)
    if isinstance(thing, torch.Generator):
        return ("generator", id(thing), thing.get_state().numpy().tobytes())
    if isinstance(thing, dict):
        return ("dict", id(thing), [(key, value_of(item)) for key, item in thing.items()])
    if isinstance(thing, (list, tuple)):
        return (type(thing).__name__, id(thing), [value_of(item) for item in thing])
    if isinstance(thing, set):
        return ("set", id(thing), {id(item) for item in thing})
    if isinstance(thing, SimpleNamespace):
        return ("object", id(thing), value_of(vars(thing)))
    return (type(thing).__name__, id(thing))


class _Tensor:
    def __init__(self, tensor, *facts):
        self.tensor, self.values = tensor, facts[-1]
        self.facts = (*facts[:-1], tensor.requires_grad, id(tensor.grad) if tensor.is_leaf else 0)

    def __eq__(self, other):
        same = self.tensor is other.tensor and self.facts == other.facts
        return same and (self.values is None or torch.equal(self.values, other.values))

    def __repr__(self):
        return f"Tensor{self.facts} {self.values}"


def snapshot(model, *inputs):
    """Everything that a forward pass, or a careless tool, could leave changed."""
    from torch.utils._python_dispatch import _len_torch_dispatch_stack

    python, (kind, numbers, *position) = random.getstate(), numpy.random.get_state()
    return {
        "modules": [(name, id(m)) for name, m in model.named_modules()],
        "attributes": {
            name: {key: value_of(value) for key, value in vars(m).items()}
            for name, m in model.named_modules()
        },
        "order": {name: list(vars(m)) for name, m in model.named_modules()},
        "grads": {name: value_of(p.grad) for name, p in model.named_parameters()},
        "inputs": [value_of(x) for x in inputs],
        "global hooks": {name: value_of(vars(hooks_of_torch)[name]) for name in GLOBAL_HOOKS},
        "functional": {name: id(value) for name, value in vars(F).items()},
        "torch": {name: id(value) for name, value in vars(torch).items() if callable(value)},
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), _len_torch_dispatch_stack()),
        "autocast": torch.is_autocast_enabled("cpu"),
        "mha": torch.backends.mha.get_fastpath_enabled(),
        "default dtype": torch.get_default_dtype(),
        "random": (torch.get_rng_state().numpy().tobytes(), python, kind, numbers.tobytes(), position),
        "recursion": sys.getrecursionlimit(),
        "gc": gc.isenabled(),
        "sigint": signal.getsignal(signal.SIGINT),
    }


def assert_same(before, after):
    for key, value in before.items():
        assert after[key] == value, key


def hook(module, args, output):
    module.fired.append(1)


class Meddler(nn.Module):
    """Does in forward all that a module can do to itself; ``end`` says how the pass ends."""

    def __init__(self, end=lambda: None):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen_norm = nn.BatchNorm2d(4).eval()
        self.drop = nn.Dropout(0.5)
        self.register_buffer("count", torch.zeros(1))
        self.register_buffer("average", torch.zeros(4))
        self.extra = nn.Parameter(torch.ones(4, 1, 1))
        self.swapped = nn.Parameter(torch.ones(4, 1, 1))
        self.plain = torch.arange(4.0)
        self.calls = 0
        self.log, self.cache, self.names = [], {"inner": {"deep": [1]}}, {"a"}
        self.state = SimpleNamespace(step=0, history=[])
        self.generator = torch.Generator().manual_seed(3)
        self.end = [end]
        self.fired = []
        self.conv.fired, self.norm.fired = [], []
        self.conv.register_forward_hook(hook)
        self.norm.register_forward_hook(hook, always_call=True)
        self.conv.weight.grad = torch.ones_like(self.conv.weight)

    def forward(self, x):
        self.new_attribute = x
        self.calls += 1
        self.log.append(x)
        self.cache["inner"]["deep"].append(x)
        self.cache[self.calls] = x
        self.names.add("b")
        self.state.step += 1
        self.state.history.append(x)
        torch.rand(2, generator=self.generator)
        del self.cache["inner"]
        y = self.frozen_norm(self.norm(self.conv(x)))
        self.average = self.average * 0.9 + y.mean((0, 2, 3))
        self.count += 1
        self.extra.requires_grad_(False)
        self.swapped.data = self.swapped.data.repeat(1, 2, 2)
        self.register_buffer("late", torch.ones(1))
        self.add_module("child", nn.ReLU())
        self.conv.register_forward_pre_hook(lambda *_: None)
        self.drop.eval()
        self.frozen_norm.train()
        torch.rand(3), random.random(), numpy.random.rand()
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        sys.setrecursionlimit(5000)
        self.end[0]()
        return self.drop(y * self.extra)


class InPlace(nn.Module):
    """Writes where values are: the input, a tensor that is no buffer, the weights, their gradients."""

    def __init__(self, end=lambda: None):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.lin.weight.grad = torch.ones(4, 4)
        self.plain = torch.arange(4.0)
        self.nested = {"list": [torch.zeros(4)]}
        self.unregistered = [nn.BatchNorm1d(4)]
        self.end = [end]

    def forward(self, x):
        y = self.unregistered[0](self.lin(x))
        x[:, 0] = 7
        x.unsqueeze_(0)
        self.plain.add_(1)
        self.nested["list"][0] += 1
        torch.add(self.plain, 1, out=self.nested["list"][0])
        self.plain[1:].view(-1).mul_(2)
        with torch.no_grad():
            self.lin.weight.mul_(3)
            self.lin.weight.grad.zero_()
            self.lin.bias.grad = torch.ones(4)
        self.lin.weight.data[0] = 5
        self.end[0]()
        return y.sum().item() * y


def fail():
    raise ValueError("on purpose")


def interrupt():
    raise KeyboardInterrupt


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


ENDS = {
    "success": None,
    "exception": ArchcostError,
    "interrupt": KeyboardInterrupt,
    "ctrl-c": KeyboardInterrupt,
}
ACTIONS = {"success": lambda: None, "exception": fail, "interrupt": interrupt, "ctrl-c": press_ctrl_c}


@pytest.fixture(autouse=True)
def same_grad_mode():
    """What a failing test leaves must not fail the next."""
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    yield
    torch.set_grad_enabled(grad)
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("device", [None, "meta", "cpu"])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("kind", "shape"), [(Meddler, (2, 3, 8, 8)), (InPlace, (3, 4))])
def test_model_inputs_and_process_are_as_before(kind, shape, training, end, device):
    model = kind(ACTIONS[end])
    model.train(training)
    if kind is Meddler:
        model.frozen_norm.train(not training)
    x = torch.rand(shape)
    # Real values cannot be written from `meta`: the pass that is told to stay there fails.
    by_meta = kind is InPlace and device == "meta"
    error = ArchcostError if by_meta else ENDS[end]
    before = snapshot(model, x)
    with pytest.raises(error) if error else contextlib.nullcontext():
        record(model, x, device=device)
    assert_same(before, snapshot(model, x))


def test_the_meddlers_do_what_they_say():
    """Proof that the tests above can fail: a plain forward changes what `snapshot` looks at."""
    for model, x in ((Meddler(), torch.rand(2, 3, 8, 8)), (InPlace(), torch.rand(3, 4))):
        limit = sys.getrecursionlimit()
        before = snapshot(model, x)
        model(x)
        after = snapshot(model, x)
        sys.setrecursionlimit(limit)
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        changed = {key for key, value in before.items() if after[key] != value}
        assert changed >= (
            {"attributes", "random"} if isinstance(model, Meddler) else {"attributes", "inputs"}
        )
        differing = [
            key for key, value in before["attributes"][""].items() if after["attributes"][""][key] != value
        ]
        if isinstance(model, Meddler):
            assert set(differing) >= {"calls", "log", "cache", "names", "state", "generator", "_buffers"}
        else:
            assert set(differing) >= {"plain", "nested"}


def test_values_are_restored_where_the_pass_runs_for_real():
    class DataDependent(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.norm(x)
            return y if y.sum() > 0 else -y

    model = DataDependent().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace = record(model, torch.rand(2, 3, 4, 4))
    assert trace.device == "cpu"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_handler_that_does_not_raise_is_called_and_the_pass_goes_on():
    heard = []
    was = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        model = Meddler(press_ctrl_c)
        assert record(model, torch.rand(2, 3, 8, 8)).outputs.shape == (2, 4, 6, 6)
    finally:
        signal.signal(signal.SIGINT, was)
    assert heard == [signal.SIGINT] * 2  # inference, then training


def test_the_model_still_trains_after_an_analysis():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    twin = copy.deepcopy(model)
    x = torch.rand(2, 3, 8, 8)
    for device in ("meta", "cpu"):
        record(model, x, device=device)
    for one in (model, twin):
        one(x).sum().backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)


class Slow(nn.Module):
    """A few milliseconds in which everything changes."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Meddler() for _ in range(4))
        self.mix = nn.TransformerEncoderLayer(8, 2, 8)

    def forward(self, x):
        for block in self.blocks:
            block(x)
        return self.mix(x.flatten(2)[..., :8])


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_real_ctrl_c_at_any_moment_leaves_nothing_changed(device):
    model, x = Slow(), torch.rand(2, 3, 8, 8)
    record(model, x, device=device)
    began = time.perf_counter()
    record(model, x, device=device)
    whole = time.perf_counter() - began
    before = snapshot(model, x)
    dice = random.Random(0)
    interrupted = 0
    for _ in range(40 if device == "meta" else 20):
        delay = dice.uniform(0.0, 1.1) * whole
        came = False
        was = signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(signal.SIGINT))
        try:
            signal.setitimer(signal.ITIMER_REAL, max(delay, 1e-6))
            try:
                record(model, x, device=device)
            except KeyboardInterrupt:
                came = True
            finally:
                # It may still come, between here and the end of the timer: not in the analysis then.
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            came = True
        finally:
            signal.signal(signal.SIGALRM, was)
        interrupted += came
        state = snapshot(model, x)
        assert_same(before, state)
    assert interrupted > 5
    assert record(model, x, device=device).outputs.shape == (2, 3, 8)


def test_ctrl_c_while_putting_things_back_waits_for_the_end(monkeypatch):
    from archcost.trace import state

    model, x = Meddler(), torch.rand(2, 3, 8, 8)
    before = snapshot(model, x)
    original = state._restore_entries

    def interrupted(container, saved):
        signal.raise_signal(signal.SIGINT)
        original(container, saved)

    monkeypatch.setattr(state, "_restore_entries", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(model, x)
    monkeypatch.undo()
    assert_same(before, snapshot(model, x))


def test_a_step_that_cannot_put_things_back_does_not_stop_the_others(monkeypatch):
    from archcost.trace import state

    def broken(*_):
        raise OSError("on purpose")

    model, x = Meddler(), torch.rand(2, 3, 8, 8)
    before = snapshot(model, x)
    monkeypatch.setattr(state, "_restore_tensor", broken)
    with pytest.raises(OSError, match="on purpose"):
        record(model, x)
    assert_same(before, snapshot(model, x))


def test_no_hook_returns_anything():
    handed_back = []

    class Spy(nn.Module):
        def forward(self, x):
            for hooks, arguments in (
                (hooks_of_torch._global_forward_pre_hooks, ((x,),)),
                (hooks_of_torch._global_forward_hooks, ((x,), {}, x)),
            ):
                handed_back.extend(hook(child, *arguments) for hook in hooks.values())
            return x

    child = nn.ReLU()
    record(Spy(), torch.rand(2))
    assert handed_back == [None] * 4
