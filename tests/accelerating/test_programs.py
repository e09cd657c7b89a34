"""Residual blocks run as programs of their convolutions, and are in all else what they were."""

import copy
from math import inf

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

import archcost
from archcost import kernels
from archcost.accelerating.assembling import new_modules
from archcost.accelerating.choosing import Choice, Network, choices
from archcost.accelerating.contest import Took
from archcost.accelerating.layers import layers_of
from archcost.accelerating.layouts import CHANNELS_LAST, NCHW, regions
from archcost.nn.path_conv import PathConv
from archcost.surgery.exchange import replace
from archcost.surgery.outputs import tensors_in
from archcost.trace.run import record
from helpers.programs import X, assert_copied, assert_undone, close, model_of, programs_in

RELU = (0.0, inf)


def down(channels, out, stride):
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class PreActivated(nn.Module):
    """In place on what it is given: others may have it."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.relu = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.two(F.relu(self.one(self.relu(x))))


class ByFunctions(nn.Module):
    """A sum of three, and one value that two convolutions read."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.three = nn.Conv2d(16, 16, 1, bias=False)

    def forward(self, x):
        first = F.relu(self.one(x))
        return F.hardtanh(self.two(first) + self.three(first) + x, 0.0, 6.0)


class Often(ByFunctions):
    """One convolution twice."""

    def forward(self, x):
        return F.relu(self.one(self.one(x))) + x


class Drops(ByFunctions):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(super().forward(x))


class WhileTraining(ByFunctions):
    def forward(self, x):
        return x if self.training else self.two(self.one(x)) + x


class Scaled(ByFunctions):
    def forward(self, x):
        return torch.add(self.two(self.one(x)), x, alpha=2)


class Broadcast(ByFunctions):
    def __init__(self):
        super().__init__()
        self.all = nn.Conv2d(16, 16, 14)

    def forward(self, x):
        return self.one(x) + self.all(x)


class Seen(ByFunctions):
    """What lies between is handed out too."""

    def forward(self, x):
        first = self.one(x)
        return first, self.two(first) + x


BLOCKS = {
    "basic": lambda: BasicBlock(16, 16),
    "basic, strided": lambda: BasicBlock(16, 32, 2, down(16, 32, 2)),
    "bottleneck": lambda: Bottleneck(16, 4),
    "bottleneck, strided": lambda: Bottleneck(16, 8, 2, down(16, 32, 2)),
    "inverted": lambda: InvertedResidual(16, 16, 1, 6),
    "inverted, strided": lambda: InvertedResidual(16, 24, 2, 6),
    "by functions": ByFunctions,
}
OTHERS = {
    "in place on its input": PreActivated,
    "one layer twice": Often,
    "dropout": Drops,
    "other code in training": WhileTraining,
    "a weighted sum": Scaled,
    "a sum of two shapes": Broadcast,
    "two results": Seen,
}
PATHS = ["native", "native-prepacked", "im2col-tiled", "winograd-2"]


def put_in(model, x=X, path="im2col-tiled", layout=CHANNELS_LAST, keeps_nan=True):
    """Programs in the model, with every convolution on a path, where that can be; the way back."""
    layers, _, programs = layers_of(model, x, record(model, x), True)
    chosen = {}
    for layer in layers:
        able = archcost.paths.get(path).supports(layer.spec, layer.task.dtype) is None
        chosen[layer.name] = Choice(path if able else "native", layout, layout, 0.0)
    made = new_modules(model, layers, chosen, keeps_nan, programs=programs)
    return replace(model, made, inplace=True, hooks="keep")


@pytest.mark.parametrize("keeps_nan", [True, False])
@pytest.mark.parametrize("layout", [NCHW, CHANNELS_LAST])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", BLOCKS)
def test_a_program_gives_what_the_block_gives(name, path, layout, keeps_nan, monkeypatch):
    model = model_of(BLOCKS[name])
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(X.double())
        put_in(model, path=path, layout=layout, keeps_nan=keeps_nan)
        assert len(programs_in(model)) == 1
        x = X.clone()
        slow = [
            module(x) for module in model.modules() if type(module) is PathConv and module.in_channels == 16
        ]
        assert slow  # by themselves they can be called as well
        monkeypatch.setattr(PathConv, "forward", None)  # but nobody asks each of them
        for given in (x, x.contiguous(memory_format=torch.channels_last), x[:1]):
            assert close(model(given), exact[: len(given)])
        assert torch.equal(x, X)


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_more_is_no_program(name):
    model = model_of(OTHERS[name])
    x = X.clone()
    with torch.no_grad():
        before = model(x.clone())
        put_in(model, x)
        assert not programs_in(model)
        after = model(x.clone())
    for one, other in zip(tensors_in(before), tensors_in(after), strict=True):
        assert close(one, other)


@pytest.mark.parametrize("where", ["0", "0.conv1", "0.bn2", "0.relu"])
def test_a_block_with_hooks_is_no_program(where):
    model = model_of(BLOCKS["basic"])
    model.get_submodule(where).register_forward_hook(lambda *_: None)
    put_in(model)
    assert not programs_in(model)


@pytest.mark.parametrize("name", BLOCKS)
def test_it_trains_as_the_block_does(name):
    plain, model = model_of(BLOCKS[name]), model_of(BLOCKS[name])
    put_in(model)
    for one in (plain, model):
        one.train()
        optimiser = torch.optim.SGD(one.parameters(), lr=0.1)
        for _ in range(2):
            optimiser.zero_grad()
            one(X).square().mean().backward()
            optimiser.step()
        one.eval()
    for key, value in plain.state_dict().items():
        assert torch.allclose(value, model.state_dict()[key], atol=1e-5), key
    with torch.no_grad():
        assert close(model(X), plain(X), 1e-4)


@pytest.mark.parametrize("name", BLOCKS)
def test_state_dict_loads_both_ways_and_takes_effect(name):
    plain, model = model_of(BLOCKS[name]), model_of(BLOCKS[name])
    put_in(model)
    with torch.no_grad():
        model(X)
        assert list(model.state_dict()) == list(plain.state_dict())
        for value in plain.state_dict().values():
            if value.is_floating_point():
                value.mul_(1.5)
        model.load_state_dict(plain.state_dict())
        assert close(model(X), plain(X))
        plain.load_state_dict(model.state_dict())


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "torch.save"])
def test_it_can_be_copied(how):
    model = model_of(BLOCKS["bottleneck, strided"])
    put_in(model)
    assert_copied(model, how, "0.conv1.weight")


def test_undo_puts_the_very_blocks_back():
    assert_undone(model_of(BLOCKS["basic, strided"]), put_in)


@pytest.mark.parametrize("path", PATHS)
def test_nan_stays_nan(path):
    model = model_of(BLOCKS["basic"])
    x = X.clone()
    x[0, 0, 3, 3] = float("nan")
    with torch.no_grad():
        expected = model(x).isnan()
        put_in(model, path=path)
        found = model(x).isnan()
        # Winograd spreads it over the tile.
        assert expected.any()
        assert bool((found | ~expected).all())
        assert path == "winograd-2" or torch.equal(found, expected)


def test_a_hook_that_comes_later_sees_the_convolution():
    model = model_of(BLOCKS["basic"])
    seen = []
    with torch.no_grad():
        before = copy.deepcopy(model)(X)
        put_in(model)
        model[0].conv2.register_forward_hook(lambda module, args, y: seen.append(y.shape))
        assert close(model(X), before)
    assert seen == [X.shape]


def test_what_looks_on_sees_pytorchs_own_operations():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **kwargs or {})

    names = []
    model = model_of(BLOCKS["basic"])
    put_in(model)
    with torch.no_grad(), Names():
        model(X)
    assert names.count("aten.convolution.default") == 2


def test_gradients_flow_in_eval_mode():
    plain, model = model_of(BLOCKS["bottleneck"]), model_of(BLOCKS["bottleneck"])
    put_in(model)
    found = []
    for one in (plain, model):
        x = X.clone().requires_grad_()
        one(x).sum().backward()
        found.append(x.grad)
    assert close(*found)


def test_other_sizes_run_by_pytorch():
    model = model_of(BLOCKS["basic"])
    x = torch.randn(1, 16, 9, 11)
    with torch.no_grad():
        expected = model(x)
        put_in(model)
        assert close(model(x), expected)


def test_whole_networks_have_a_program_for_each_block():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 64, 64)
    for build, blocks in ((torchvision.models.resnet18, 8), (torchvision.models.mobilenet_v2, 17)):
        model = build(weights=None).eval()
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(x.double())
            put_in(model, x)
            assert len(programs_in(model)) == blocks
            assert close(model(x), exact)


@pytest.mark.skipif(kernels.library() is None, reason="needs the compiled kernels")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [16, 5, 40])
@pytest.mark.parametrize("kind", ["im2col", "strided", "1x1", "winograd", "several images"])
@pytest.mark.parametrize("threads", [1, 2])
def test_kernels_add_before_they_clamp(kind, channels, layout, threads):
    from archcost.kernels.bound import bound

    torch.manual_seed(0)
    taps, stride = (1 if kind == "1x1" else 3), (2 if kind == "strided" else 1)
    weight = torch.randn(channels, 6, taps, taps)
    x = torch.randn(3 if kind == "several images" else 1, 6, 13, 11).contiguous(memory_format=layout)
    bias, pad = torch.randn(channels), taps // 2
    expected = F.conv2d(x.double(), weight.double(), bias.double(), stride=stride, padding=pad)
    addend = torch.randn(expected.shape).contiguous(memory_format=layout)
    expected = (expected + addend).clamp(-0.5, 1.5)
    packed = kernels.pack_winograd(weight, 4) if kind == "winograd" else kernels.pack_im2col(weight)
    call = {"padding": pad, "clamp": (-0.5, 1.5), "memory_format": layout, "threads": threads}
    run = bound(packed, x, bias, call | ({"stride": stride} if stride > 1 else {}))
    assert run.fits(addend)
    assert not run.fits(addend.expand_as(addend).double())
    before = addend.clone()
    assert close(run(x, addend), expected, 1e-4)
    assert torch.equal(addend, before)
    assert close(run(x), F.conv2d(x, weight, bias, stride=stride, padding=pad).clamp(-0.5, 1.5), 1e-4)


class NormOutside(nn.Module):
    """A block that ends in the convolution, and what follows it outside."""

    def __init__(self):
        super().__init__()
        self.inner = ByFunctions.__new__(Inner)
        Inner.__init__(self.inner)
        self.norm, self.relu = nn.BatchNorm2d(16), nn.ReLU()

    def forward(self, x):
        return self.relu(self.norm(self.inner(x)))


class Inner(ByFunctions):
    def forward(self, x):
        return self.two(F.relu(self.one(x)))


def test_what_follows_outside_is_done_there_or_not_left_out():
    for build in (NormOutside, lambda: nn.Sequential(Inner(), nn.ReLU())):
        model = model_of(build)
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(X.double())
            put_in(model)
            assert close(model(X), exact)


def test_a_layer_that_must_stay_takes_its_program_with_it(monkeypatch):
    from archcost.accelerating import layers

    whole = layers._layer

    def refuses(model, trace, name, *rest):
        return (
            layers.Kept(name, "Conv2d", "for a test")
            if name == "0.conv2"
            else whole(model, trace, name, *rest)
        )

    monkeypatch.setattr(layers, "_layer", refuses)
    plain, model = model_of(BLOCKS["basic"]), model_of(BLOCKS["basic"])
    put_in(model)
    assert not programs_in(model)
    with torch.no_grad():
        assert close(model(X), plain(X))
    model.train()
    model(X).sum().backward()


def test_compiled_it_is_what_it_was():
    torch._dynamo.reset()
    model = model_of(BLOCKS["basic, strided"])
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(X.double())
        put_in(model)
        assert close(torch.compile(model, backend="eager", fullgraph=True)(X), exact)


@pytest.mark.skipif(kernels.library() is None, reason="needs the compiled kernels")
def test_what_is_left_to_do_behind_a_path_counts():
    model = model_of(BLOCKS["basic"])
    trace = record(model, X)
    layers, _, programs = layers_of(model, X, trace, True)
    ways = {("native", NCHW): Took(1.0e-3, 1e-6, 9), ("im2col-tiled", NCHW): Took(1.1e-3, 1e-6, 9)}
    found = {layer.name: ways for layer in layers}
    chosen = {}
    for speed in (inf, 2 * 4 * X.numel() / 0.1e-3):  # a pass over the outputs takes no time, then 0.1 ms
        network = Network(tuple(layers), regions(trace), {}, 1e10, speed, programs)
        labels = dict.fromkeys(network.regions.values(), NCHW)
        for name, choice in choices(network, found, labels, lambda *_: True).items():
            chosen[name, speed == inf] = choice.path
    assert chosen["0.conv1", True] == chosen["0.conv2", True] == chosen["0.conv1", False] == "native"
    assert chosen["0.conv2", False] == "im2col-tiled"  # whose kernel adds and clamps as it writes
