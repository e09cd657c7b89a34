"""Every fast kernel on `meta` says what the framework's own says, and what a real run gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost.trace.recording.meta import FAST_META, is_channels_last
from helpers.meta import FLOATS, LAYOUTS, MANY, check, on, outcome, tensors

aten = torch.ops.aten


UNARY = [
    *(aten.gelu.default, aten.silu.default, aten.sigmoid.default, aten.tanh.default, aten.relu.default),
    *(aten.hardtanh.default, aten.hardswish.default, aten.hardsigmoid.default, aten.leaky_relu.default),
    *(aten.elu.default, aten.exp.default, aten.neg.default, aten.sqrt.default, aten.rsqrt.default),
    *(aten.softplus.default, aten.mish.default, aten.erf.default, aten.abs.default),
]
UNARY_ = [
    *(aten.relu_.default, aten.silu_.default, aten.hardtanh_.default, aten.hardswish_.default),
    *(aten.hardsigmoid_.default, aten.leaky_relu_.default, aten.elu_.default, aten.sigmoid_.default),
    aten.gelu_.default,
]
SCALAR = [
    *(aten.pow.Tensor_Scalar, aten.mul.Scalar, aten.add.Scalar, aten.sub.Scalar, aten.div.Scalar),
    *(aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default),
]
SCALAR_ = [aten.mul_.Scalar, aten.div_.Scalar, aten.clamp_.default]
BINARY = [aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor]
BINARY_ = [aten.add_.Tensor, aten.sub_.Tensor, aten.mul_.Tensor, aten.div_.Tensor]
REDUCE = [aten.mean.dim, aten.sum.dim_IntList]
SOFTMAX = [aten._softmax.default, aten._log_softmax.default]
OTHERS = [
    *(aten.convolution.default, aten.addmm.default, aten.native_batch_norm.default, aten.roll.default),
    *(aten.upsample_nearest2d.default, aten.upsample_bilinear2d.default, aten.cat.default),
    *(aten.native_layer_norm.default, aten.linalg_vector_norm.default, aten._safe_softmax.default),
    *(aten.clone.default, aten.masked_fill.Scalar, aten._grouped_mm.default, aten.mm.default),
    aten.mv.default,
]
ANY = (*FLOATS, torch.int64, torch.bool)


def test_every_fast_kernel_is_tested_here():
    tested = {*UNARY, *UNARY_, *SCALAR, *SCALAR_, *BINARY, *BINARY_, *REDUCE, *SOFTMAX, *OTHERS}
    assert tested == set(FAST_META)


@pytest.mark.parametrize("operator", [*UNARY, *UNARY_], ids=str)
def test_unary(operator):
    applied = []

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(tensors(dtypes=ANY))
    def run(x):
        applied.append(check(operator, x))

    run()
    assert any(applied)


@pytest.mark.parametrize("operator", [*SCALAR, *SCALAR_], ids=str)
def test_with_a_scalar(operator):
    applied = []

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(tensors(dtypes=ANY), st.sampled_from([2, 0.5, True, -1.0]))
    def run(x, scalar):
        applied.append(check(operator, x, scalar))

    run()
    assert any(applied)


def test_keyword_forms():
    x = torch.ones(2, 3)
    assert check(aten.gelu.default, x, approximate="tanh")
    assert check(aten.add.Tensor, x, x, alpha=2)
    assert check(aten.clamp.default, x, None, 1.0)
    assert check(aten.clamp.default, x, min=0.0)
    assert check(aten.elu.default, x, 2.0)
    assert check(aten.add_.Tensor, x, x, alpha=2)
    assert not check(aten.mul.Scalar, x, 1j)
    assert not check(aten.mul.Tensor, x, 1j)
    assert not check(aten.sum.dim_IntList, x, [0], dtype=torch.float64)


@st.composite
def pairs(draw, dtypes=FLOATS):
    """Two tensors that broadcast, as a rule; sometimes of other dtypes, sometimes a Python number."""
    shape = draw(st.lists(st.integers(1, 4), max_size=4))
    kind = draw(st.sampled_from(["same", "broadcast", "number", "wild"]))
    a = draw(tensors(shape=shape, dtypes=dtypes))
    if kind == "number":
        return a, draw(st.sampled_from([2, 0.5, True]))
    if kind == "wild":
        return a, draw(tensors(dims=(0, 4), dtypes=ANY))
    other = [draw(st.sampled_from([n, 1])) for n in shape] if kind == "broadcast" else shape
    other = other[draw(st.integers(0, len(other))) :] if kind == "broadcast" else other
    b = draw(tensors(shape=other, dtypes=(a.dtype,)))
    return draw(st.sampled_from([(a, b), (b, a)]))


@pytest.mark.parametrize("operator", [*BINARY, *BINARY_], ids=str)
def test_binary(operator):
    applied = []

    @MANY
    @given(pairs(dtypes=ANY))
    def run(pair):
        applied.append(check(operator, *pair))

    run()
    assert sum(applied) > 5


def test_clone():
    formats = [None, torch.preserve_format, torch.contiguous_format]
    applied = []

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(tensors(dtypes=ANY), st.sampled_from(formats))
    def run(x, memory_format):
        applied.append(check(aten.clone.default, x, memory_format=memory_format))

    run()
    assert sum(applied) > 20


def test_masked_fill():
    applied = []

    @MANY
    @given(st.data())
    def run(data):
        x = data.draw(tensors())
        shape = [data.draw(st.sampled_from([n, 1])) for n in x.shape]
        mask = data.draw(tensors(shape=shape, dtypes=(torch.bool,)))
        applied.append(check(aten.masked_fill.Scalar, x, mask, -100.0))

    run()
    assert sum(applied) > 5


@st.composite
def convolutions(draw):
    axes = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = [draw(st.integers(1, 3)) for _ in range(axes)]
    size = [draw(st.integers(1, 7)) for _ in range(axes)]
    layouts = draw(st.sampled_from([("contiguous",), ("contiguous",), LAYOUTS]))
    wrong = draw(st.sampled_from([0, 0, 0, 0, 1]))
    x_shape = [draw(st.integers(0, 2)), 2 * groups + wrong, *size]
    if draw(st.sampled_from([False, False, False, True])):
        x_shape = x_shape[1:]  # without a batch
    dtype = draw(st.sampled_from(FLOATS[:3]))
    x = draw(tensors(shape=x_shape, dtypes=(dtype,), layouts=layouts))
    kinds = (dtype, dtype, dtype, torch.float64)
    weight = draw(tensors(shape=[2 * groups, 2, *kernel], dtypes=kinds, layouts=layouts))
    bias = torch.ones(2 * groups, dtype=weight.dtype) if draw(st.booleans()) else None
    numbers = [[draw(st.integers(low, high)) for _ in range(axes)] for low, high in ((1, 2), (0, 2), (1, 2))]
    return x, weight, bias, *numbers, draw(st.booleans()), [0] * axes, groups


def test_convolution():
    applied = []

    @settings(max_examples=250, deadline=None, derandomize=True)
    @given(convolutions())
    def run(arguments):
        # The strides of a real run depend on the library behind it; the framework's kernel for `meta` forgets
        # channels_last, which tests/trace/test_composite.py holds against a real run.
        plain = not any(is_channels_last(x) for x in arguments[:2])
        applied.append(check(aten.convolution.default, *arguments, meta=plain, strides=False))

    run()
    assert sum(applied) > 20


@MANY
@given(st.data())
def test_addmm(data):
    n, m, k = (data.draw(st.integers(1, 4)) for _ in range(3))
    inner = data.draw(st.sampled_from([k, k, k, k + 1]))
    dtype = data.draw(st.sampled_from(FLOATS))
    a, b = (
        data.draw(tensors(shape=[n, k], dtypes=(dtype,))),
        data.draw(tensors(shape=[inner, m], dtypes=(dtype,))),
    )
    shape = data.draw(st.sampled_from([[m], [n, m], [1], [], [1, m], [n, 1], [m + 1]]))
    bias = data.draw(tensors(shape=shape, dtypes=(dtype, torch.float32)))
    check(aten.addmm.default, bias, a, b)
    check(aten.addmm.default, bias, a, b, beta=2, alpha=0.5)


@MANY
@given(st.data())
def test_batch_norm(data):
    x = data.draw(tensors(dims=(1, 5), dtypes=FLOATS[:3]))
    channels = (x.shape[1] if x.dim() > 1 else 1) + data.draw(st.sampled_from([0, 0, 0, 0, 1]))
    dtype = data.draw(st.sampled_from([x.dtype, torch.float32]))
    weight = torch.ones(channels, dtype=dtype) if data.draw(st.booleans()) else None
    stats = torch.ones(channels, dtype=dtype) if data.draw(st.booleans()) else None
    training = data.draw(st.booleans()) or stats is None
    given_ = (weight, None if weight is None else weight.clone())
    given_ += (stats, None if stats is None else stats.clone())
    # One value a channel has no variance: the framework divides by zero.
    # On `meta` the saved statistics are those of an accelerator: float32 for half precision, never empty.
    other = dtype != torch.float32 or x.dtype != torch.float32

    enough = x.numel() != channels
    options = {"meta": training and enough, "real": enough and not other, "strides": False}
    check(aten.native_batch_norm.default, x, *given_, training, 0.1, 1e-5, **options)


@MANY
@given(st.data())
def test_layer_norm(data):
    x = data.draw(tensors(dims=(1, 4), dtypes=FLOATS[:3]))
    count = data.draw(st.integers(1, x.dim()))
    shape = list(x.shape[-count:])
    if data.draw(st.sampled_from([False, False, False, True])):
        shape[0] += 1
    weight = torch.ones(shape, dtype=x.dtype) if data.draw(st.booleans()) else None
    real = x.dtype == torch.float32  # the statistics of half precision are those of an accelerator
    check(aten.native_layer_norm.default, x, shape, weight, weight, 1e-5, real=real)


@pytest.mark.parametrize("operator", REDUCE, ids=str)
def test_reductions(operator):
    applied = []

    @MANY
    @given(tensors(dtypes=ANY), st.lists(st.integers(-3, 3), max_size=3), st.booleans())
    def run(x, dim, keepdim):
        applied.append(check(operator, x, dim, keepdim))

    run()
    assert any(applied)


@MANY
@given(
    tensors(dtypes=FLOATS),
    st.lists(st.integers(-4, 4), max_size=3),
    st.booleans(),
    st.sampled_from([1, 2, 0.5]),
)
def test_vector_norm(x, dim, keepdim, order):
    check(aten.linalg_vector_norm.default, x, order, dim, keepdim)
    check(aten.linalg_vector_norm.default, x, order)


@MANY
@given(tensors(dtypes=ANY), st.integers(-4, 4), st.booleans())
def test_softmax(x, dim, to_float):
    for operator in SOFTMAX:
        check(operator, x, dim, to_float, real=not to_float)
    if x.is_floating_point():
        check(aten._safe_softmax.default, x, dim)


@MANY
@given(
    tensors(dtypes=ANY), st.lists(st.integers(-3, 3), max_size=2), st.lists(st.integers(-4, 4), max_size=2)
)
def test_roll(x, shifts, dims):
    check(aten.roll.default, x, shifts, dims)


@MANY
@given(tensors(dtypes=ANY), st.integers(-4, 4), st.integers(1, 3), st.sampled_from(ANY), st.booleans())
def test_concatenation(x, dim, times, dtype, same):
    others = [x if same else on("cpu", x).to(dtype)] * times

    def joined(call, device):
        return outcome(lambda: call([on(device, each) for each in (x, *others)], dim))

    mine = joined(FAST_META[aten.cat.default], "meta")
    if mine is not None:
        assert mine == joined(aten.cat.default, "meta") == joined(aten.cat.default, "cpu")


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 4, 5), (2, 3, 1, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 10), (2, 2), (1, 7)])
def test_upsampling(shape, memory_format, size):
    x = torch.rand(shape).contiguous(memory_format=memory_format)
    check(aten.upsample_nearest2d.default, x, size)
    check(aten.upsample_nearest2d.default, x, size, 2.0, 2.0)
    check(aten.upsample_bilinear2d.default, x, size, False)
