"""A call like one that was accepted goes the same way; one that differs in anything is looked at again."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from archcost import kernels
from archcost.engine.accepted import Accepted, calls_work
from archcost.engine.watch import Structure, Weights

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")
X = torch.zeros(2, 3, 4, 5)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture
def call():
    return Accepted(X)


def test_the_compiled_way_works_here():
    assert calls_work()


@pytest.mark.parametrize(
    "x",
    [X, torch.ones(2, 3, 4, 5), torch.randn(121)[1:].view(2, 3, 4, 5), X.expand(2, 3, 4, 5)],
    ids=["itself", "another", "part", "view"],
)
def test_any_tensor_of_its_kind_is_accepted(call, x):
    assert all(call.again(x) for _ in range(2))


OTHERS = {
    "batch": X[:1],
    "size": torch.zeros(2, 3, 5, 4),
    "flat": X.flatten(),
    "one dimension more": X[None],
    "channels_last": X.to(memory_format=torch.channels_last),
    "expanded": X[:1].expand(2, 3, 4, 5),
    "double": X.double(),
    "half": X.half(),
    "whole": X.int(),
    "meta": X.to("meta"),
    "sparse": X.to_sparse(),
    "negative": torch._neg_view(X),
    "parameter": nn.Parameter(X),
    "subclass": X.as_subclass(type("Own", (torch.Tensor,), {})),
    "array": X.numpy(),
    "none": None,
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_not(call, name):
    assert not call.again(OTHERS[name])
    assert call.again(X)


MODES = {
    "gradients": torch.enable_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu"),
    "functions": type("Functions", (TorchFunctionMode,), {}),
    "flops": lambda: FlopCounterMode(display=False),
    "forward mode": forward_ad.dual_level,
    "hook": lambda: nn.modules.module.register_module_forward_pre_hook(lambda *_: None),
    "backward hook": lambda: nn.modules.module.register_module_full_backward_hook(lambda *_: None),
}


@pytest.mark.parametrize("name", MODES)
def test_nor_is_one_that_somebody_looks_on(call, name):
    with MODES[name]():
        assert not call.again(X)
    known = name in ("flops", "forward mode", "hook", "backward hook")  # which change dicts
    assert call.again(X) or known


def test_transforms_and_tracers_are_seen(call):
    seen = []

    def function(x):
        seen.append(call.again(X))
        return x * 2

    torch.vmap(function)(X)
    torch.func.jvp(function, (X,), (X,))
    torch.jit.trace(function, (X,), check_trace=False)
    assert len(seen) == 3
    assert not any(seen)


def test_inference_mode_is_accepted_for_itself():
    with torch.inference_mode():
        x = torch.zeros(2, 3, 4, 5)
        call = Accepted(x)
        assert call.again(torch.ones(2, 3, 4, 5))
    assert not call.again(x)


def test_other_threads_have_their_own_modes(call):
    import threading

    found = []

    def other():
        found.append(call.again(X))  # gradients are on
        with torch.no_grad():
            found.append(call.again(X))
        with torch.inference_mode():
            found.append(call.again(X))

    thread = threading.Thread(target=other)
    thread.start(), thread.join()
    assert found == [False, True, False]


def test_what_is_watched_has_to_stay():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU()).eval()
    weights = Weights(model, dict(model.named_parameters()))
    changes = (
        lambda: model.train(),
        lambda: model[0].register_forward_hook(lambda *_: None),
        lambda: model[0].weight.add_(1),
        lambda: model[0].weight.data.add_(1),
        lambda: setattr(model[0], "bias", None),
    )
    for change in changes:
        call = Accepted(X, Structure(model).watch, weights.watch)
        assert call.again(X)
        change()
        assert not call.again(X)
        weights = Weights(model, dict(model.named_parameters()))


def test_calls_that_need_a_look_each_are_not_kept():
    assert Accepted.possible([X])
    with torch.enable_grad():
        assert not Accepted.possible([X])
    others = [X, X], [X.transpose(2, 3)], [torch.zeros((1,) * 6)]
    assert not any(map(Accepted.possible, others))
