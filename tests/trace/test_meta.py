"""Every fast kernel on `meta` says what the framework's own says, and what a real run gives."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost.trace.recording.composite import operators_as_on_cpu
from archcost.trace.recording.meta import FAST_META, is_channels_last

aten = torch.ops.aten
LAYOUTS = ("contiguous", "channels_last", "permuted", "strided", "expanded")
PLAIN = ("contiguous", "contiguous", "permuted")
MANY = settings(max_examples=150, deadline=None, derandomize=True)
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def facts(result):
    """Shape, dtype and strides of everything returned; strides of axes of size 1 mean nothing."""
    if result is NotImplemented:
        return result
    if isinstance(result, torch.Tensor):
        strides = [s for n, s in zip(result.shape, result.stride(), strict=True) if n > 1]
        return tuple(result.shape), result.dtype, strides if result.numel() else []
    return [facts(item) for item in result if item is not None]


def without_strides(found):
    if isinstance(found, list):
        return [without_strides(one) for one in found]
    return found if isinstance(found, type) else found[:2]


def outcome(call):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return facts(call())
    except Exception as error:
        return type(error)


def on(device, value):
    if isinstance(value, torch.Tensor):
        if device == "cpu" and 0 in value.stride():
            return value
        copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
        return copy if device == "meta" else copy.copy_(value)
    return value


def check(operator, *args, meta=True, real=True, strides=True, **kwargs):
    """Whether the fast kernel applies; if so, it says what the framework's on `meta` and a real run say."""

    def run(call, device):
        return outcome(lambda: call(*[on(device, arg) for arg in args], **kwargs))

    mine = run(FAST_META[operator], "meta")
    if mine is NotImplemented:
        return False
    if isinstance(mine, type):  # it may fail only where the operator does
        assert isinstance(run(operator, "cpu"), type)
        return False
    if meta:
        assert run(operator, "meta") == mine
    if real:
        theirs = run(operator, "cpu")
        assert theirs == mine if strides else without_strides(theirs) == without_strides(mine)
    return True


@st.composite
def tensors(draw, dims=(0, 5), dtypes=FLOATS, sizes=(1, 5), shape=None, layouts=LAYOUTS):
    """A tensor of any shape and memory format: contiguous, channels last, permuted, strided, expanded."""
    if shape is None:
        shape = draw(st.lists(st.integers(*sizes), min_size=dims[0], max_size=dims[1]))
    dtype = draw(st.sampled_from(dtypes))
    order = draw(st.permutations(range(len(shape))))
    layout = draw(st.sampled_from(layouts))
    x = torch.ones(shape, dtype=dtype)
    if layout == "channels_last" and x.dim() == 4:
        return x.to(memory_format=torch.channels_last)
    if layout == "permuted" and x.dim():
        inverse = sorted(range(len(order)), key=order.__getitem__)
        return torch.ones([shape[i] for i in order], dtype=dtype).permute(inverse)
    if layout == "strided" and x.dim():
        return torch.ones([2 * n for n in shape], dtype=dtype)[tuple(slice(None, None, 2) for _ in shape)]
    if layout == "expanded" and x.dim():
        return torch.ones([1, *shape[1:]], dtype=dtype).expand(shape)
    return x


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
    if mine is not NotImplemented:
        assert mine == joined(aten.cat.default, "meta") == joined(aten.cat.default, "cpu")


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 4, 5), (2, 3, 1, 5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(8, 10), (2, 2), (1, 7)])
def test_upsampling(shape, memory_format, size):
    x = torch.rand(shape).contiguous(memory_format=memory_format)
    check(aten.upsample_nearest2d.default, x, size)
    check(aten.upsample_nearest2d.default, x, size, 2.0, 2.0)
    check(aten.upsample_bilinear2d.default, x, size, False)


@MANY
@given(st.data())
def test_products(data):
    n, m, k = (data.draw(st.integers(1, 4)) for _ in range(3))
    a, b = data.draw(tensors(shape=(n, m))), data.draw(tensors(shape=(m, k)))
    applied = a.dtype == b.dtype
    assert check(aten.mm.default, a, b) is applied
    assert check(aten.mv.default, a, b[:, 0]) is applied
    assert not check(aten.mm.default, a, torch.ones(m + 1, k, dtype=a.dtype))


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: F.conv2d(x, w),
        lambda x, w: F.conv_transpose2d(x, w),
        lambda x, w: x.flatten(1) @ w.flatten(1).T,
        lambda x, w: F.linear(x.flatten(1), w.flatten(1), w[:, 0, 0, 0]),
        lambda x, w: torch.einsum("bchw,ochw->bo", x, w),
        lambda x, w: x.flatten(1) @ w[0].flatten(),
        lambda x, w: F.scaled_dot_product_attention(x, w, w),
    ],
)
def test_factors_of_two_dtypes_are_an_error_on_meta_as_they_are_elsewhere(call):
    from torch import nn

    from archcost.errors import InputError
    from archcost.trace.run import record

    class Model(nn.Module):
        def forward(self, x, w):
            return call(x, w)

    x, w = torch.ones(2, 2, 3, 3), torch.ones(2, 2, 3, 3)
    record(Model(), (x, w), device="meta")
    with pytest.raises(RuntimeError):
        call(x.half(), w)
    with pytest.raises(InputError, match=r"(?i)dtype|expected scalar type"):
        record(Model(), (x.half(), w), device="meta")


def test_under_autocast_factors_may_differ_for_a_real_device_casts_them():
    from torch import nn

    from archcost.trace.run import record

    class Model(nn.Module):
        def forward(self, x, w):
            with torch.autocast("cpu"):
                return F.linear(x.bfloat16(), w)

    assert record(Model(), (torch.ones(2, 3), torch.ones(4, 3))).device == "meta"

    class Layer(nn.Conv1d):
        def forward(self, x):
            with torch.autocast("cpu"):
                return super().forward(x.bfloat16())

    # Above the dispatcher the framework looks on `meta` itself, so this one runs for real.
    assert record(Layer(3, 4, 3), torch.ones(2, 3, 5)).ops[-1].outputs[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("a", "b", "ends"),
    [
        ((8, 16), (2, 16, 12), [4, 8]),
        ((2, 8, 16), (16, 8), [4, 8]),
        ((4, 8), (8, 12), [4, 8]),
        ((2, 8, 16), (2, 16, 12), None),
    ],
)
def test_grouped_products(a, b, ends):
    offs = None if ends is None else torch.tensor(ends, dtype=torch.int32)
    assert check(aten._grouped_mm.default, torch.ones(a), torch.ones(b), offs, meta=False)
    # The framework's own kernel says the same of a dtype that it takes.
    half = [
        on("meta", torch.ones(shape, dtype=torch.bfloat16)) for shape in ((*a[:-2], 8, 16), (*b[:-2], 16, 16))
    ]
    theirs = aten._grouped_mm.default(*half, None if offs is None else on("meta", offs))
    mine = FAST_META[aten._grouped_mm.default](*[x.float() for x in half], offs)
    assert mine.shape == theirs.shape


@pytest.mark.parametrize(
    ("a", "b", "ends"),
    [
        ((8, 16), (3, 16, 12), [4, 8]),
        ((8, 16), (2, 12, 16), [4, 8]),
        ((8, 16), (16, 8), None),
        ((3, 8, 16), (2, 16, 8), None),
    ],
)
def test_grouped_products_that_do_not_fit_are_left_to_the_framework(a, b, ends):
    offs = None if ends is None else torch.tensor(ends, dtype=torch.int32)
    assert not check(aten._grouped_mm.default, torch.ones(a), torch.ones(b), offs)


SIZES = st.integers(1, 4)
MASKS = ["none", "bool", "float", "full", "grad"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_attention_is_what_the_plain_products_give(data):
    heads, keys, width = data.draw(SIZES), data.draw(SIZES), data.draw(SIZES)
    lead = data.draw(st.sampled_from([(), (2,), (2, heads), (3, 1, heads)]))
    gqa = len(lead) == 2 and data.draw(st.booleans())
    queries, value_width = data.draw(SIZES), data.draw(st.sampled_from([width, width, width + 1]))
    q_lead = (2, 2 * heads) if gqa else lead
    dtype = data.draw(st.sampled_from(FLOATS[:3]))
    grad = data.draw(st.booleans())
    shapes = ((*q_lead, queries, width), (*lead, keys, width), (*lead, keys, value_width))
    q, k, v = (torch.rand(shape).to(dtype).requires_grad_(grad) for shape in shapes)
    if data.draw(st.booleans()) and len(lead) == 2:
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    mask = {
        "none": None,
        "bool": torch.ones(queries, keys, dtype=torch.bool),
        "float": torch.zeros(queries, keys, dtype=dtype),
        "full": torch.zeros(*q_lead, queries, keys, dtype=dtype),
        "grad": torch.zeros(queries, keys, dtype=dtype, requires_grad=True),
    }[data.draw(st.sampled_from(MASKS))]
    options = {
        "is_causal": mask is None and data.draw(st.booleans()),
        "dropout_p": data.draw(st.sampled_from([0.0, 0.3])),
        "scale": data.draw(st.sampled_from([None, 2.0])),
        "enable_gqa": gqa,
    }
    real = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
    moved = [
        None if t is None else t.detach().to("meta").requires_grad_(t.requires_grad) for t in (q, k, v, mask)
    ]
    with operators_as_on_cpu():
        mine = F.scaled_dot_product_attention(*moved[:3], attn_mask=moved[3], **options)
    assert (mine.shape, mine.dtype, mine.requires_grad) == (real.shape, real.dtype, real.requires_grad)
    assert mine.device.type == "meta"


META = partial(torch.empty, device="meta")


def test_attention_on_bad_shapes_still_fails():
    q, k = torch.empty(2, 3, 4, 8, device="meta"), torch.empty(2, 3, 5, 6, device="meta")
    with operators_as_on_cpu(), pytest.raises(RuntimeError):
        F.scaled_dot_product_attention(q, k, k)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.conv2d(x, META((4, 2, 3, 3))), "aten.convolution.default on shapes 2x3x8x8, 4x2x3x3: "),
        (lambda x: F.linear(x, META((4, 7))), "aten.mm.default on shapes 48x8, 7x4: "),
        (lambda x: x + META((5,)), "aten.add.Tensor on shapes 2x3x8x8, 5: "),
        (lambda x: F.layer_norm(x, (7,)), "aten.native_layer_norm.default on shapes 2x3x8x8: "),
        (
            lambda x: F.layer_norm(x, (8,), META((7,))),
            "aten.native_layer_norm.default on shapes 2x3x8x8, 7: ",
        ),
        (
            lambda x: F.batch_norm(x, META((4,)), META((4,))),
            "running_mean should contain 3 elements not 4",
        ),
        (lambda x: x.mean(9), "aten.mean.dim on shapes 2x3x8x8: Dimension out of range"),
        (lambda x: x.softmax(9), "aten._softmax.default on shapes 2x3x8x8: Dimension out of range"),
    ],
)
def test_bad_shapes_are_still_an_error_in_a_trace(call, message):
    from torch import nn

    from archcost.errors import InputError
    from archcost.trace.run import record

    class Model(nn.Module):
        def forward(self, x):
            return call(x)

    with pytest.raises(InputError) as caught:
        record(Model(), torch.rand(2, 3, 8, 8), device="meta")
    assert message in str(caught.value)
