"""Max pooling by the compiled kernel gives the very numbers that PyTorch gives, or leaves it to PyTorch."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archcost
from archcost import kernels
from archcost.accelerating import pooling
from archcost.accelerating.pooling import QuickMaxPool
from archcost.kernels import bound

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="needs the compiled kernels")

POOLS = {
    "3x3 /2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "3x3": {"kernel_size": 3, "stride": 1, "padding": 1},
    "2x2": {"kernel_size": 2},
    "by axis": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
    "dilated": {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2},
    "rounded up": {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    "rounded up, padded": {"kernel_size": 2, "stride": 2, "padding": 1, "ceil_mode": True},
    "far apart": {"kernel_size": 2, "stride": 5, "padding": 1, "ceil_mode": True},
}


def images(channels=20, size=(13, 10), batch=2):
    torch.manual_seed(0)
    return torch.randn(batch, channels, *size).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def counted(monkeypatch):
    calls = []

    def noted(*args):
        calls.append(args)
        return bound.max_pool(*args)

    monkeypatch.setattr(pooling, "max_pool", noted)
    return calls


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("channels", [2, 16, 20, 48])
@pytest.mark.parametrize("name", POOLS)
def test_it_gives_the_very_same(name, channels, threads, counted):
    pool = nn.MaxPool2d(**POOLS[name])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for size in ((13, 10), (7, 7), (5, 16)):
            x = images(channels, size)
            x[torch.rand(x.shape) < 0.1] = float("nan")
            x[torch.rand(x.shape) < 0.3] = -float("inf")
            expected = pool(x)
            found = QuickMaxPool(pool)(x)
            assert torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
            assert found.stride() == expected.stride()
    finally:
        torch.set_num_threads(before)
    assert len(counted) == 3


CASES = {
    "NCHW": lambda x: x.contiguous(),
    "float64": lambda x: x.double(),
    "one image": lambda x: x[0],
    "gradients": lambda x: x.clone().requires_grad_(),
    "nothing": lambda x: x[:0],
    "negated": lambda x: torch._neg_view(x),
}


@pytest.mark.parametrize("name", CASES)
def test_it_steps_back(name, counted):
    pool = nn.MaxPool2d(3, 2, 1)
    x = CASES[name](images())
    assert torch.equal(QuickMaxPool(pool)(x), pool(x))
    assert not counted


def test_gradients_are_those_of_pytorch():
    x, pool = images().requires_grad_(), nn.MaxPool2d(3, 2, 1)
    (ours,) = torch.autograd.grad(QuickMaxPool(pool)(x).square().sum(), x)
    (theirs,) = torch.autograd.grad(pool(x).square().sum(), x)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", [{"kernel_size": 3, "padding": 2}, {"kernel_size": 20}])
def test_pytorch_refuses_what_it_refuses(options):
    with pytest.raises(RuntimeError):
        QuickMaxPool(nn.MaxPool2d(**options))(images())


def test_it_can_be_copied():
    pool, x = QuickMaxPool(nn.MaxPool2d(3, 2, 1)), images()
    for other in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert torch.equal(other(x), F.max_pool2d(x, 3, 2, 1))
        assert repr(other) == repr(pool)


@needs_kernels
def test_accelerate_puts_it_in():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 64, 3, padding=1)
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(64, 64, 3, padding=1)).eval()
    x = torch.randn(1, 16, 64, 64).contiguous(memory_format=torch.channels_last)
    fast = archcost.accelerate(model, x, seconds=3, threads=1)
    with torch.no_grad():
        assert (fast(x) - model(x)).abs().max() < 1e-4 * model(x).abs().max()
    assert not fast.acceleration.changed or isinstance(fast[2], QuickMaxPool)
