"""Branches that are concatenated run as programs, pooling included, and are in all else what they were."""

import copy
from math import inf

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.googlenet import Inception
from torchvision.models.inception import InceptionA, InceptionB, InceptionE
from torchvision.models.squeezenet import Fire

import archcost
from archcost import kernels
from archcost.accelerating import finals, joining
from archcost.accelerating import program as program_module
from archcost.accelerating.assembling import new_modules
from archcost.accelerating.choosing import Choice, Network
from archcost.accelerating.contest import Took
from archcost.accelerating.joining import joined
from archcost.accelerating.layers import layers_of
from archcost.accelerating.layouts import CHANNELS_LAST, regions
from archcost.accelerating.pooling import pools_of
from archcost.accelerating.siblings import Siblings
from archcost.kernels import bound
from archcost.nn.path_conv import PathConv
from archcost.nn.runners import KernelRunner
from archcost.surgery.exchange import replace
from archcost.trace.run import record
from helpers.programs import LAYOUTS, X, assert_copied, assert_undone, close, model_of, programs_in

needs_kernels = pytest.mark.skipif(kernels.library() is None, reason="needs the compiled kernels")


class Convs(nn.Module):
    def __init__(self, **taps):
        """By name, the taps and the filters of a convolution."""
        super().__init__()
        for name, (size, filters) in taps.items():
            setattr(self, name, nn.Conv2d(16, filters, size, padding=size // 2))


class Dense(Convs):
    """What it is given comes first."""

    def __init__(self):
        super().__init__(one=(1, 24), two=(1, 8))

    def forward(self, x):
        return torch.cat((x, F.relu(self.one(x)), self.two(x)), dim=-3)


class Clamped(Convs):
    """Behind the concatenation, and a value that is concatenated twice and read besides."""

    def __init__(self):
        super().__init__(two=(1, 8), three=(3, 16), four=(1, 3))

    def forward(self, x):
        first = self.three(x)
        return F.relu6(torch.cat([self.two(x), first, self.four(first), first], 1))


class Pools(Convs):
    """By functions, in all their ways."""

    def __init__(self):
        super().__init__(one=(1, 24), two=(1, 8), three=(3, 16))

    def forward(self, x):
        return torch.cat(
            [
                F.max_pool2d(self.one(x), (3, 2), stride=2, ceil_mode=True),
                F.avg_pool2d(self.two(x), 2, count_include_pad=False),
                F.max_pool2d(F.avg_pool2d(self.three(x), 3, 1, 1), 2),
            ],
            1,
        )


class SumOfSlices(Convs):
    """A sibling is added to another convolution, and one is pooled."""

    def __init__(self):
        super().__init__(one=(1, 24), two=(1, 8), four=(1, 24))

    def forward(self, x):
        return torch.cat([self.one(x) + self.four(x), F.max_pool2d(self.two(x), 3, 1, 1)], 1)


class Last(Convs):
    """A sibling is what comes out."""

    def __init__(self):
        super().__init__(one=(1, 24), two=(1, 8))

    def forward(self, x):
        self.one(x)
        return self.two(x)


class AlongRows(Convs):
    def __init__(self):
        super().__init__(one=(1, 24), two=(1, 24))

    def forward(self, x):
        return torch.cat([self.one(x), self.two(x)], 2)


class Indices(Convs):
    def __init__(self):
        super().__init__(two=(1, 8), three=(3, 16))

    def forward(self, x):
        y, where = F.max_pool2d(self.three(x), 2, return_indices=True)
        return torch.cat([y, where.float()], 1)


class TrainsElsewhere(Convs):
    """Its forward calls a method that asks."""

    def __init__(self):
        super().__init__(one=(1, 24), two=(1, 8))

    def forward(self, x):
        return torch.cat(self.parts(x), 1)

    def parts(self, x):
        return [self.one(x)] if self.training else [self.one(x), self.two(x)]


BLOCKS = {
    "inception": lambda: Inception(16, 24, 12, 20, 4, 8, 8),
    "inception a": lambda: InceptionA(16, 8),
    "inception b": lambda: InceptionB(16),
    "inception e": lambda: InceptionE(16),
    "fire": lambda: Fire(16, 8, 16, 20),
    "dense": Dense,
    "clamped": Clamped,
    "pools": Pools,
    "sum of slices": SumOfSlices,
}
OTHERS = {"along rows": AlongRows, "indices": Indices, "asks whether it trains": TrainsElsewhere}
SMALL = ["inception", "fire", "dense", "clamped", "pools", "sum of slices"]
CASES = [
    *((name, "im2col-tiled", joins) for name in BLOCKS for joins in (False, True)),
    *((name, path, True) for name in SMALL for path in ("native", "native-prepacked", "winograd-2")),
]


def put_in(model, x=X, path="im2col-tiled", layout=CHANNELS_LAST, joins=True):
    """Programs in the model, with every convolution on a path, where that can be, and siblings joined."""
    trace = record(model, x)
    layers, _, programs = layers_of(model, x, trace, True)
    able = {one.name: archcost.paths.get(path).supports(one.spec, one.task.dtype) is None for one in layers}
    chosen = {one: Choice(path if able[one] else "native", layout, layout, 1e-3) for one in able}
    network = Network(tuple(layers), regions(trace), {}, 1e10, inf, programs, pools_of(model, trace))
    took = {one.name: {(path, layout): Took(1e-3, 1e-5, 9)} for one in layers}
    groups, chosen = joined(network, took, chosen, lambda *_: True) if joins else ({}, chosen)
    made = new_modules(*(model, layers, chosen, True), programs=programs, pools=network.pools, joined=groups)
    return replace(model, made, inplace=True, hooks="keep")


@pytest.fixture
def counted(monkeypatch):
    """How many kernels ran, how many wrote into their place, how many convolutions ran in one."""
    counts = {"kernels": 0, "placed": 0, "together": 0}
    write, into, call = bound.Bound.write, KernelRunner.into, Siblings.__call__

    def writes(self, *args):
        counts["kernels"] += 1
        return write(self, *args)

    def places(self, *args):
        done = into(self, *args)
        counts["placed"] += done
        return done

    def joins(self, *args):
        made = call(self, *args)
        counts["together"] += len(made)
        return made

    monkeypatch.setattr(bound.Bound, "write", writes)
    monkeypatch.setattr(KernelRunner, "into", places)
    monkeypatch.setattr(Siblings, "__call__", joins)
    return counts


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "path", "joins"), CASES)
def test_a_program_gives_what_the_block_gives(name, path, joins, layout, monkeypatch):
    model = model_of(BLOCKS[name])
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(X.double())
        put_in(model, path=path, layout=layout, joins=joins)
        assert len(programs_in(model)) == 1
        monkeypatch.setattr(PathConv, "forward", None)  # nobody asks each of them
        for given in (X, X.contiguous(memory_format=torch.channels_last), X[:1], X):
            before = given.clone()
            y = model(given)
            assert close(y, exact[: len(given)])
            assert torch.equal(given, before)
            assert y._base is None
        y = model(X.contiguous(memory_format=LAYOUTS[layout]))
        assert y.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_more_is_no_program(name):
    model = model_of(OTHERS[name])
    with torch.no_grad():
        before = model(X)
        put_in(model)
        assert not programs_in(model)
        assert close(model(X), before)


@needs_kernels
def test_siblings_run_as_one_and_the_others_write_into_their_place(counted):
    model = model_of(BLOCKS["inception"])
    with torch.no_grad():
        put_in(model)
        model(X.contiguous(memory_format=torch.channels_last))
    # branch1, branch2.0 and branch3.0 in one; the ends of three branches where they are concatenated.
    assert counted == {"kernels": 4, "placed": 3, "together": 3}


@needs_kernels
def test_what_differs_does_not_join():
    groups = {}
    for name in BLOCKS:
        model = model_of(BLOCKS[name])
        put_in(model)
        (program,) = programs_in(model)
        groups[name] = [
            {".".join(program._steps[place - 1].keys) for place in one.places}
            for one in program._siblings.values()
        ]
    assert groups["inception"] == [{"branch1.conv", "branch2.0.conv", "branch3.0.conv"}]
    assert groups["inception e"] == [{"branch1x1.conv", "branch3x3_1.conv", "branch3x3dbl_1.conv"}]
    assert groups["fire"] == []  # 1x1 and 3x3
    assert groups["dense"] == []  # one is clamped
    assert groups["sum of slices"] == [{"one", "two"}]  # the third adds


@pytest.mark.parametrize("name", SMALL)
def test_what_comes_out_is_no_part_of_another(name):
    model = model_of(BLOCKS[name])
    with torch.no_grad():
        put_in(model)
        y = model(X)
        assert y.untyped_storage().nbytes() == 4 * y.numel()
    last = model_of(Last)
    put_in(last)
    with torch.no_grad():
        y = last(X)
    assert y.untyped_storage().nbytes() == 4 * y.numel()


@pytest.mark.parametrize("name", SMALL)
def test_it_trains_as_the_block_does(name):
    plain, model = model_of(BLOCKS[name]), model_of(BLOCKS[name])
    put_in(model)
    with torch.no_grad():
        model(X)
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


@pytest.mark.parametrize("name", SMALL)
def test_gradients_flow_in_eval_mode(name):
    found = []
    for changed in (False, True):
        model = model_of(BLOCKS[name])
        if changed:
            put_in(model)
        x = X.clone().requires_grad_()
        model(x).square().sum().backward()
        found.append(x.grad)
    assert close(*found)


@pytest.mark.parametrize("key", ["branch1.conv.weight", "branch2.0.bn.running_mean", "branch3.0.bn.weight"])
def test_a_change_of_any_sibling_takes_effect(key):
    plain, model = model_of(BLOCKS["inception"]), model_of(BLOCKS["inception"])
    put_in(model)
    with torch.no_grad():
        before = model(X)
        assert list(model.state_dict()) == list(plain.state_dict())
        for one in (plain, model):
            one.state_dict()[f"0.{key}"].mul_(1.5).add_(0.1)
        assert close(model(X), plain(X))
        assert not close(model(X), before, 1e-3)
        model.load_state_dict(model_of(BLOCKS["inception"]).state_dict())
        assert torch.equal(model(X), before)


def test_a_sibling_that_is_substituted_takes_effect():
    model, other = model_of(BLOCKS["inception"]), model_of(BLOCKS["inception"])
    other.load_state_dict({key: value * 1.5 for key, value in other.state_dict().items()})
    with torch.no_grad():
        expected = other[0].branch2(X)
        put_in(model), put_in(other)
        model(X), other(X)
        model[0].branch2[0], model[0].branch2[1] = other[0].branch2[0], other[0].branch2[1]
        assert close(model(X)[:, 24:44], expected)


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "torch.save"])
def test_it_can_be_copied(how):
    model = model_of(BLOCKS["inception"])
    put_in(model)
    assert_copied(model, how, "0.branch2.0.conv.weight")


def test_undo_puts_the_very_blocks_back():
    assert_undone(model_of(BLOCKS["inception"]), put_in)


@pytest.mark.parametrize("where", ["0", "0.branch2", "0.branch1.conv", "0.branch4.0", "0.branch3.1.bn"])
def test_a_block_with_hooks_is_no_program(where):
    model = model_of(BLOCKS["inception"])
    model.get_submodule(where).register_forward_hook(lambda *_: None)
    put_in(model)
    assert not programs_in(model)


@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("where", ["branch2", "branch2.0", "branch1", "branch1.conv", "branch4.0"])
def test_a_hook_that_comes_later_sees_what_it_would_see(where, joins):
    model = model_of(BLOCKS["inception"])
    with torch.no_grad():
        before = copy.deepcopy(model)
        put_in(model, joins=joins)
        model(X)
        found = []
        for one in (before, model):
            seen = []
            module = one[0].get_submodule(where)
            handle = module.register_forward_hook(lambda module, args, y, seen=seen: seen.append(y.clone()))
            expected = one(X)
            handle.remove()
            one(X)
            assert len(seen) == 1
            found.append((seen[0], expected))
        if where != "branch1.conv":  # which normalises and clamps as well
            assert close(found[0][0], found[1][0])
        assert close(found[0][1], found[1][1])


def test_nan_stays_nan():
    for name in SMALL:
        model = model_of(BLOCKS[name])
        x = X.clone()
        x[0, 0, 3, 3] = float("nan")
        with torch.no_grad():
            expected = model(x).isnan()
            put_in(model)
            assert expected.any()
            assert torch.equal(model(x).isnan(), expected)


def test_what_looks_on_sees_pytorchs_own_operations():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(str(function))
            return function(*args, **kwargs or {})

    names = []
    model = model_of(BLOCKS["inception"])
    put_in(model)
    with torch.no_grad():
        model(X)
        with Names():
            model(X)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert model(X).dtype is torch.bfloat16
    assert names.count("aten.convolution.default") == 6
    assert names.count("aten.cat.default") == 1
    assert any("max_pool2d" in name for name in names)


@pytest.mark.parametrize("name", ["inception", "pools", "clamped"])
def test_compiled_it_is_what_it_was(name):
    torch._dynamo.reset()
    model = model_of(BLOCKS[name])
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(X.double())
        put_in(model)
        model(X)
        assert close(torch.compile(model, backend="eager", fullgraph=True)(X), exact)


@pytest.mark.parametrize("name", ["inception", "fire", "dense", "clamped"])
def test_other_sizes_and_batches_run_too(name):
    model = model_of(BLOCKS[name])
    with torch.no_grad():
        plain = copy.deepcopy(model)
        put_in(model)
        for shape in ((1, 16, 9, 11), (3, 16, 14, 14), (2, 16, 14, 14), (0, 16, 14, 14)):
            x = torch.randn(shape)
            assert model(x).shape == plain(x).shape
            assert not len(x) or close(model(x), plain(x))


def test_a_value_is_let_go_of_when_nobody_reads_it(monkeypatch):
    """What branches hold between their layers is gone by the time of the concatenation."""
    left = []
    whole = program_module._concatenated

    def notes(given, parts, widths):
        import gc

        gc.collect()
        alive = {
            one.untyped_storage().data_ptr(): tuple(one.shape)
            for one in gc.get_objects()
            if type(one) is torch.Tensor and one.dim() == 4 and len(one) == 2 and one.shape[2:] == (14, 14)
        }
        left.append(set(alive.values()))
        return whole(given, parts, widths)

    model = model_of(BLOCKS["inception"])
    put_in(model, joins=False)
    monkeypatch.setattr(program_module, "_concatenated", notes)
    with torch.no_grad():
        model(X)
    assert left
    assert not any({(2, 12, 14, 14), (2, 4, 14, 14)} & shapes for shapes in left)


def test_whole_networks_have_a_program_for_each_block():
    torch.manual_seed(0)
    options = {"weights": None, "aux_logits": False, "init_weights": False}
    for build, blocks, size, given in (
        (torchvision.models.googlenet, 9, 64, options),
        (torchvision.models.squeezenet1_1, 8, 64, {"weights": None}),
    ):
        x = torch.randn(1, 3, size, size)
        model = build(**given).eval()
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(x.double())
            put_in(model, x)
            assert len(programs_in(model)) == blocks
            assert close(model(x), exact)


@needs_kernels
def test_joining_is_a_candidate_of_its_own(monkeypatch):
    model = model_of(BLOCKS["inception"])
    x = X.contiguous(memory_format=torch.channels_last)
    joined_last = next(one for one in finals._VARIANTS if one.joins and one.fixed == CHANNELS_LAST)
    monkeypatch.setattr(finals, "_VARIANTS", [joined_last])
    monkeypatch.setattr(joining, "_NEAR", inf)
    monkeypatch.setattr(finals, "_gains", lambda *_: True)
    monkeypatch.setattr(finals, "_LEAST_GAIN", 0.0)
    found = archcost.accelerate(model, x, seconds=3, threads=1, paths=["im2col-tiled"])
    assert found.acceleration.variant.endswith(", joined")
    assert "3 convolutions run as 1: they read the same" in found.acceleration.notes
    with torch.no_grad():
        assert close(found(x), model(x), 1e-4)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["im2col", "strided", "1x1", "winograd"])
def test_kernels_write_a_slice_and_nothing_else(kind, threads):
    torch.manual_seed(0)
    taps, stride = (1 if kind == "1x1" else 3), (2 if kind == "strided" else 1)
    for channels in (2, 16, 21, 40):
        x = torch.randn(2, 6, 13, 11).contiguous(memory_format=torch.channels_last)
        weight = torch.randn(channels, 6, taps, taps)
        packed = kernels.pack_winograd(weight, 4) if kind == "winograd" else kernels.pack_im2col(weight)
        call = {"padding": taps // 2, "clamp": (0, inf), "threads": threads}
        call |= {"stride": stride} if stride > 1 else {}
        expected = bound.bound(packed, x, None, call)(x)
        for first in (0, 3):
            whole = torch.full((2, channels + 7, *expected.shape[2:]), 7.0)
            whole = whole.contiguous(memory_format=torch.channels_last)
            bound.bound(packed, x, None, call, channels + 7).write(x, whole.data_ptr() + 4 * first)
            assert torch.equal(whole[:, first : first + channels], expected)
            assert (whole[:, :first] == 7).all()
            assert (whole[:, first + channels :] == 7).all()
