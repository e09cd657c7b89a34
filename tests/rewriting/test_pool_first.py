"""pool_first: a pooling or stride moves forward where that is exact, and says so where it is not."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import archcost
from archcost.errors import RewriteError
from archcost.rewriting.rules.pool_first import PoolFirst
from helpers.calls import Function
from helpers.graph_rules import (
    applied,
    best,
    chain,
    conv,
    error,
    put,
    randomised,
    subjects,
)

POOLED = {
    "average": (lambda: chain(conv(3, 8, 1), nn.BatchNorm2d(8), nn.AvgPool2d(2), nn.ReLU()), "pool"),
    "average, padded": (lambda: chain(conv(3, 8, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)), "pool"),
    "average, padded, no bias": (lambda: chain(conv(3, 8, 1, bias=False), nn.AvgPool2d(3, 2, 1)), "pool"),
    "average, ceil": (lambda: chain(conv(3, 8, 1, groups=1), nn.AvgPool2d(3, 2, ceil_mode=True)), "pool"),
    "average, divided": (
        lambda: chain(conv(3, 8, 1, bias=False), nn.AvgPool2d(2, divisor_override=3)),
        "pool",
    ),
    "average, 1-d": (lambda: chain(conv(3, 8, 1, 1), nn.BatchNorm1d(8), nn.AvgPool1d(2)), "pool"),
    "average, 3-d": (lambda: chain(conv(3, 8, 1, 3), nn.AvgPool3d(2)), "pool"),
    "kernel": (lambda: chain(conv(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AvgPool2d(2)), "kernel"),
    "kernel, strided": (lambda: chain(conv(3, 8, 5, stride=2, padding=2), nn.AvgPool2d(3)), "kernel"),
    "kernel, divided": (
        lambda: chain(conv(3, 9, 3, groups=3), nn.AvgPool2d(2, divisor_override=5)),
        "kernel",
    ),
    "kernel, dilated": (
        lambda: chain(conv(3, 8, 3, dilation=2, padding=2, padding_mode="reflect"), nn.AvgPool2d(2)),
        "kernel",
    ),
    "kernel, 1-d": (lambda: chain(conv(3, 8, 5, 1), nn.AvgPool1d(2)), "kernel"),
    "stride": (
        lambda: chain(conv(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, 1, stride=2)),
        "stride",
    ),
    "stride, in place": (
        lambda: chain(conv(3, 8, 3, stride=2), nn.PReLU(), nn.SiLU(True), conv(8, 4, 1, stride=(1, 3))),
        "stride",
    ),
    "stride of a pooling": (lambda: chain(conv(3, 8, 3, padding=1), nn.GELU(), nn.MaxPool2d(1, 2)), "stride"),
    "stride by functions": (
        lambda: randomised(
            Function(lambda m, x: m.b(F.relu(m.a(x) + 1).mul_(2)), a=conv(3, 8, 3), b=conv(8, 8, 1, stride=2))
        ),
        "stride",
    ),
}


@pytest.mark.parametrize("name", POOLED)
def test_a_pooling_or_stride_comes_first_where_that_is_exact(name):
    torch.manual_seed(0)
    make, how = POOLED[name]
    model = make().double()
    axes = next(len(one.kernel_size) for one in model.modules() if isinstance(one, nn.modules.conv._ConvNd))
    sizes = (17, 18, 16)[:axes]
    first = next(iter(subjects(model, *sizes).values()))
    assert PoolFirst().refusal(first) is None
    options = json.loads(json.dumps(list(PoolFirst().options(first, 0.5))))
    assert {"how": how} in options
    made = PoolFirst().replacement(first, how=how)
    assert made.exact, made.note
    assert made.note == ""
    new = applied(model, PoolFirst(), [made])
    for step in range(5):
        x = torch.randn(2, 3, *(n + step for n in sizes), dtype=torch.float64)
        assert error(model, new, x) < 1e-10
    with torch.no_grad():
        analysis = archcost.analyze(new, torch.zeros(2, 3, *sizes, dtype=torch.float64))
    assert analysis.total.macs == made.macs  # the paper is what is built


def test_an_adaptive_average_comes_first():
    model = chain(conv(3, 8, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(4)).double()
    first = subjects(model, 16, 8)["0"]
    made = PoolFirst().replacement(first, how="pool")
    assert made.exact
    assert made.convs[0].spec.input_size == (4, 4)
    new = applied(model, PoolFirst(), [made])
    for sizes in ((16, 8), (17, 9), (5, 30)):
        assert error(model, new, torch.randn(2, 3, *sizes, dtype=torch.float64)) < 1e-10


APPROXIMATE = {
    "a kernel": (
        lambda: chain(conv(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        "an approximation: a 3x3 kernel reads other neighbours in the pooled map",
    ),
    "the largest": (
        lambda: chain(conv(3, 8, 1), nn.MaxPool2d(2)),
        "an approximation: a maximum does not commute with the sum over channels",
    ),
    "an activation": (
        lambda: chain(conv(3, 8, 1), nn.ReLU(), nn.AvgPool2d(2)),
        "an approximation: an average does not commute with 1",
    ),
    "a border": (
        lambda: chain(conv(3, 8, 1), nn.AvgPool2d(2, padding=1)),
        "an approximation: 1 changes constants, as the bias of the convolution is",
    ),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_what_is_not_exact_is_proposed_as_such_and_has_the_same_shapes(name):
    make, note = APPROXIMATE[name]
    model = make()
    made = PoolFirst().replacement(subjects(model, 17, 18)["0"], how="pool")
    assert (made.exact, made.note) == (False, note)
    new = applied(model, PoolFirst(), [made])
    for size in (17, 18, 19, 20):
        assert error(model, new, torch.randn(2, 3, size, 15)) > 1e-3


POOLS_REFUSED = {
    "a function": (
        lambda: Function(lambda m, x: F.avg_pool2d(m.a(x), 2), a=conv(3, 8, 1)),
        "the next operation is avg_pool2d, a function called in the forward of the model, and only a "
        "module can be moved",
    ),
    "read twice": (
        lambda: Function(lambda m, x: m.p(y := m.a(x)).sum() + y, a=conv(3, 8, 1), p=nn.AvgPool2d(2)),
        "its output is read by the model as well as by p (AvgPool2d)",
    ),
    "indices": (
        lambda: Function(
            lambda m, x: m.p(m.a(x))[0], a=conv(3, 8, 1), p=nn.MaxPool2d(2, return_indices=True)
        ),
        "",
    ),
    "called for others": (
        lambda: Function(lambda m, x: m.p(m.a(x)) + m.p(x), a=conv(3, 3, 1), p=nn.AvgPool2d(2)),
        "p (AvgPool2d) is called for other layers too",
    ),
    "uneven windows": (
        lambda: nn.Sequential(conv(3, 8, 1), nn.AdaptiveAvgPool2d(5)),
        "1 (AdaptiveAvgPool2d) has windows of different sizes, 17x18 to 5x5",
    ),
    "another size": (
        lambda: nn.Sequential(conv(3, 8, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        "2 cannot come first: the convolution changes the size of its input, so the output sizes would "
        "differ",
    ),
    "no pooling": (
        lambda: nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3)),
        "the next layer, 2, is a convolution but not a strided 1x1",
    ),
    "statistics of space": (
        lambda: nn.Sequential(conv(3, 8, 3), nn.GroupNorm(2, 8), conv(8, 8, 1, stride=2)),
        "the next layer is 1 (GroupNorm), not a pooling or a strided convolution",
    ),
    "training": (
        lambda: nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8), nn.AvgPool2d(2)).train(),
        "1 (BatchNorm2d) is in training mode and depends on the batch: call model.eval() first",
    ),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 1), nn.AvgPool2d(2)), "it is transposed"),
}


@pytest.mark.parametrize("why", POOLS_REFUSED)
def test_poolings_that_stay_say_why(why):
    make, words = POOLS_REFUSED[why]
    model = make()
    first = next(iter(subjects(model if why == "training" else model.eval(), 17, 18).values()))
    assert PoolFirst().refusal(first) is not None
    assert PoolFirst().refusal(first).reason == words or not words
    assert list(PoolFirst().options(first, 0.5)) == []
    with pytest.raises(RewriteError, match=first.name):
        PoolFirst().replacement(first, how="pool")


def test_a_pooling_that_is_hooked_or_has_several_names_stays():
    model = nn.Sequential(conv(3, 8, 1), nn.AvgPool2d(2)).eval()
    handle = model[1].register_forward_pre_hook(lambda *_: None)
    words = "1 (AvgPool2d) has a forward pre-hook, which would see other tensors"
    assert PoolFirst().refusal(subjects(model, 8, 8)["0"]).reason == words
    handle.remove()
    model.held = [model[1]]
    assert "is also held in held" in PoolFirst().refusal(subjects(model, 8, 8)["0"]).reason
    shared = Function(lambda m, x: m.p(m.a(x)), a=conv(3, 8, 1), p=nn.AvgPool2d(2))
    shared.q = shared.p
    words = "p (AvgPool2d) is shared under several names"
    assert PoolFirst().refusal(subjects(shared.eval(), 8, 8)["a"]).reason == words


def test_a_moved_pooling_keeps_its_state_and_goes_back():
    model = nn.Sequential(conv(3, 8, 1), nn.AvgPool2d(2)).eval()
    pool, before = model[1], copy.deepcopy(model.state_dict())
    pool.training = True
    made = PoolFirst().replacement(subjects(model, 8, 8)["0"], how="pool")
    handle = put(model, PoolFirst(), made)
    assert model[0][0] is pool
    assert pool.training
    assert isinstance(model[1], nn.Identity)
    assert (model[0].out_channels, model[1].kernel_size) == (8, 2)  # for parents that read them
    handle.undo()
    assert model[1] is pool
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_transitions_of_a_densenet_take_a_quarter_of_the_macs():
    model = torchvision.models.DenseNet(growth_rate=4, block_config=(2, 2, 2), num_init_features=8)
    model = randomised(model).double()
    found = subjects(model, 32, 32)
    chosen = best(PoolFirst(), found)
    assert [one.name for one in chosen] == ["features.transition1.conv", "features.transition2.conv"]
    assert [4 * one.macs for one in chosen] == [found[one.name].macs for one in chosen]
    new = applied(model, PoolFirst(), chosen)
    assert error(model, new, torch.randn(2, 3, 32, 36, dtype=torch.float64)) < 1e-10
