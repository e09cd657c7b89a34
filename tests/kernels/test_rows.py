"""Linear layers, products, attention, normalisation, softmax and interpolation, against float64 PyTorch."""

import math
from ctypes import Structure, c_float, c_int64, c_void_p

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost import kernels
from archcost.kernels.loading import Images, library
from helpers.blocked import Activation, blocked_images, from_blocked, lanes, run_step, to_blocked

pytestmark = pytest.mark.skipif(kernels.library() is None, reason=f"no kernels: {kernels.why_not()}")
each_isa = pytest.mark.parametrize("isa", kernels.usable_isas())
threads_used = st.integers(1, 2)

NAN, INF = float("nan"), float("inf")
IDENTITY, CLAMP, GELU = 0, 1, 6
FUNCTIONS = {IDENTITY: lambda x: x, CLAMP: lambda x: x.clamp(-0.5, 1), GELU: F.gelu}


def structure(name, **fields):
    return type(name, (Structure,), {"_fields_": list(fields.items())})


def numbers(names):
    return {name: c_int64 for name in names.split()}


Linear = structure(
    "Linear", activation=Activation, **numbers("rows in_ out in_stride out_stride addend_stride")
)
Matmul = structure(
    "Matmul",
    activation=Activation,
    **numbers("batch heads rows depth columns transposed"),
    a=c_int64 * 3,
    b=c_int64 * 3,
    out=c_int64 * 3,
)
Mask = structure("Mask", **numbers("period batch_stride head_stride row_stride"))
Attention = structure(
    "Attention",
    **numbers("batch heads queries keys depth values"),
    q=c_int64 * 3,
    k=c_int64 * 3,
    v=c_int64 * 3,
    out=c_int64 * 3,
    first_mask=Mask,
    second_mask=Mask,
    scale=c_float,
)
Map = structure("Map", **numbers("batch channels pixels batch_stride block_stride pixel_stride"))
LayerNorm = structure("LayerNorm", input=Map, output=Map, activation=Activation, epsilon=c_float)
GroupNorm = structure(
    "GroupNorm", input=Map, output=Map, activation=Activation, groups=c_int64, epsilon=c_float
)
Softmax = structure("Softmax", **numbers("rows length in_stride out_stride"))
Interpolation = structure(
    "Interpolation", input=Images, output=Images, mode=c_int64, row_scale=c_float, column_scale=c_float
)


def same(found, expected, tolerance=2e-6):
    expected = expected.double()
    finite = expected[expected.isfinite()]
    size = max(1.0, finite.abs().max().item()) if finite.numel() else 1.0
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * size, equal_nan=True)


def activation(kind):
    return Activation(kind, -0.5, 1.0)


def packed_linear(isa, weight, bias):
    functions = library(isa)
    out, depth = weight.shape
    functions.archcost_linear_packed_floats.argtypes = [c_int64] * 2
    functions.archcost_linear_packed_floats.restype = c_int64
    packed = torch.full((functions.archcost_linear_packed_floats(out, depth),), NAN)
    functions.archcost_linear_pack.argtypes = [c_int64] * 3 + [c_void_p] * 3
    at_bias = None if bias is None else bias.data_ptr()
    functions.archcost_linear_pack(
        out, depth, weight.stride(0), weight.data_ptr(), at_bias, packed.data_ptr()
    )
    return packed


@each_isa
@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 100),
    depth=st.one_of(st.integers(1, 100), st.just(512)),
    out=st.integers(1, 100),
    kind=st.sampled_from(sorted(FUNCTIONS)),
    bias=st.booleans(),
    addend=st.sampled_from(["none", "another", "in place"]),
    threads=threads_used,
)
def test_linear(isa, rows, depth, out, kind, bias, addend, threads):
    x, weight = torch.randn(rows, depth), torch.randn(out, depth) / math.sqrt(depth)
    x[-1, -1] = NAN
    offset = torch.randn(out) if bias else None
    added = torch.randn(rows, out)
    y = torch.full((rows * out + 1,), 7.0)
    place = {"none": None, "another": added, "in place": y}[addend]
    expected = F.linear(x.double(), weight.double(), None if offset is None else offset.double())
    if addend != "none":
        expected = expected + added
        y[:-1] = added.flatten()
    arguments = Linear(activation(kind), rows, depth, out, depth, out, out)
    run_step(isa, "linear", arguments, [x, packed_linear(isa, weight, offset), place, y], threads)
    assert y[-1] == 7.0
    same(y[:-1].view(rows, out), FUNCTIONS[kind](expected), 1e-5)


@each_isa
@settings(deadline=None, max_examples=5)
@given(rows=st.sampled_from([1, 3, 8, 300]), threads=threads_used)
def test_linear_of_many_blocks(isa, rows, threads):
    x, weight = torch.randn(rows, 1536), torch.randn(520, 1536) / 40
    y = torch.empty(rows, 520)
    arguments = Linear(activation(IDENTITY), rows, 1536, 520, 1536, 520, 0)
    run_step(isa, "linear", arguments, [x, packed_linear(isa, weight, None), None, y], threads)
    same(y, x.double() @ weight.double().T, 4e-6)


@each_isa
@settings(deadline=None, max_examples=40)
@given(
    sizes=st.tuples(*[st.integers(1, n) for n in (3, 3, 40, 40, 40)]),
    transposed=st.booleans(),
    threads=threads_used,
)
def test_matmul(isa, sizes, transposed, threads):
    batch, heads, rows, depth, columns = sizes
    a, b = torch.randn(batch, rows, heads, depth), torch.randn(batch, heads, depth, columns)
    given_b = b.mT.contiguous() if transposed else b
    out = torch.empty(batch, rows, heads, columns)
    arguments = Matmul(
        *(activation(IDENTITY), *sizes, int(transposed)),
        (c_int64 * 3)(a.stride(0), a.stride(2), a.stride(1)),
        (c_int64 * 3)(*given_b.stride()[:3]),
        (c_int64 * 3)(out.stride(0), out.stride(2), out.stride(1)),
    )
    run_step(isa, "matmul", arguments, [a, given_b, out], threads)
    same(out.transpose(1, 2), a.transpose(1, 2).double() @ b.double())


@each_isa
@settings(deadline=None, max_examples=40)
@given(
    sizes=st.tuples(*[st.integers(1, n) for n in (4, 3, 90, 70, 40, 40)]),
    masks=st.sampled_from(["none", "bias", "both", "closed"]),
    threads=threads_used,
)
def test_attention(isa, sizes, masks, threads):
    n, heads, queries, keys, depth, values = sizes
    # As it comes out of one linear layer: heads inside rows.
    q, k = torch.randn(n, queries, heads, depth), torch.randn(n, keys, heads, depth)
    v, out = torch.randn(n, keys, heads, values), torch.full((n, queries, heads, values), NAN)
    bias, mask = torch.randn(heads, queries, keys), torch.randn(2, queries, keys)
    if masks == "closed":
        mask.masked_fill_(torch.ones(queries, keys).triu(1) > 0, -INF)
    q[0, 0, 0, 0] = NAN
    scores = q.transpose(1, 2).double() @ k.transpose(1, 2).double().mT * 0.25
    if masks != "none":
        scores = scores + bias
    if masks in ("both", "closed"):
        scores = scores + mask[torch.arange(n) % 2][:, None]
    expected = scores.softmax(-1) @ v.transpose(1, 2).double()
    strides = [(c_int64 * 3)(t.stride(0), t.stride(2), t.stride(1)) for t in (q, k, v, out)]
    first, second = Mask(1, 0, queries * keys, keys), Mask(2, queries * keys, 0, keys)
    arguments = Attention(*sizes, *strides, first, second, 0.25)
    places = [q, k, v, None if masks == "none" else bias, mask if masks in ("both", "closed") else None, out]
    run_step(isa, "attention", arguments, places, threads)
    same(out.transpose(1, 2), expected, 4e-6)


def as_map(x, of, layout):
    n, c, h, w = x.shape
    if layout == "blocked":
        blocks = -(-c // of)
        return to_blocked(x, of), Map(n, c, h * w, blocks * of * h * w, h * w * of, of)
    return x.permute(0, 2, 3, 1).contiguous().clone(), Map(n, c, h * w, c * h * w, of, c)


def read_map(memory, c, layout):
    return from_blocked(memory, c) if layout == "blocked" else memory.permute(0, 3, 1, 2)


layouts = st.sampled_from(["blocked", "rows"])
images = st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9))


@each_isa
@settings(deadline=None, max_examples=60)
@given(
    shape=images,
    layout=layouts,
    to=layouts,
    in_place=st.booleans(),
    kind=st.sampled_from([0, 6]),
    whole=st.booleans(),
    threads=threads_used,
)
def test_layer_norm(isa, shape, layout, to, in_place, kind, whole, threads):
    of = lanes(isa)
    c = shape[1]
    x = torch.randn(shape) + 30
    x[0, 0, 0, 0] = NAN
    weight, bias = (torch.randn(c), torch.randn(c)) if whole else (None, None)
    given_x, described = as_map(x, of, layout)
    out, wanted = (given_x, described) if in_place else as_map(torch.zeros(shape), of, to)
    to = layout if in_place else to
    pad = (0, -c % of)
    places = [None if p is None else F.pad(p, pad, value=NAN) for p in (weight, bias)]
    arguments = LayerNorm(described, wanted, activation(kind), 1e-3)
    run_step(isa, "layer_norm", arguments, [given_x, *places, out], threads)
    parameters = (None if p is None else p.double() for p in (weight, bias))
    expected = F.layer_norm(x.permute(0, 2, 3, 1).double(), (c,), *parameters, 1e-3)
    same(read_map(out, c, to), FUNCTIONS[kind](expected).permute(0, 3, 1, 2), 1e-4)


@each_isa
@settings(deadline=None, max_examples=60)
@given(
    shape=images,
    groups=st.integers(1, 8),
    layout=layouts,
    to=layouts,
    whole=st.booleans(),
    threads=threads_used,
)
def test_group_norm(isa, shape, groups, layout, to, whole, threads):
    of = lanes(isa)
    n, c, h, w = shape
    c = -(-c // groups) * groups
    x = torch.randn(n, c, h, w) + 10
    x[-1, -1, 0, 0] = NAN
    weight, bias = (torch.randn(c), torch.randn(c)) if whole else (None, None)
    given_x, described = as_map(x, of, layout)
    out, wanted = as_map(torch.zeros_like(x), of, to)
    places = [None if p is None else F.pad(p, (0, -c % of), value=NAN) for p in (weight, bias)]
    arguments = GroupNorm(described, wanted, activation(IDENTITY), groups, 1e-3)
    run_step(isa, "group_norm", arguments, [given_x, *places, out], threads)
    parameters = (None if p is None else p.double() for p in (weight, bias))
    same(read_map(out, c, to), torch.group_norm(x.double(), groups, *parameters, 1e-3), 2e-4)


@each_isa
@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 40), length=st.integers(1, 100), in_place=st.booleans(), threads=threads_used)
def test_softmax(isa, rows, length, in_place, threads):
    x = torch.randn(rows, length) * 30
    x[0, 0], x[-1, -1] = -INF, NAN
    expected = x.double().softmax(-1)
    out = x if in_place else torch.empty_like(x)
    run_step(isa, "softmax", Softmax(rows, length, length, length), [x, out], threads)
    same(out, expected)


@each_isa
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "aligned"])
@settings(deadline=None, max_examples=40)
@given(
    shape=images,
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    factor=st.sampled_from([None, 2, 1.5, 0.6]),
    threads=threads_used,
)
def test_interpolation(isa, mode, shape, size, factor, threads):
    of = lanes(isa)
    n, c, h, w = shape
    aligned = {"align_corners": mode == "aligned"} if mode in ("bilinear", "aligned") else {}
    name = "bilinear" if aligned else mode
    x = torch.randn(shape)
    x[0, -1, -1, -1] = NAN
    if factor and min(h, w) * factor >= 1:
        expected = F.interpolate(x.double(), scale_factor=factor, mode=name, **aligned)
    else:
        expected, factor = F.interpolate(x.double(), size, mode=name, **aligned), None
    height, width = expected.shape[2:]
    if mode == "aligned":
        scales = [(a - 1) / (b - 1) if b > 1 else 0.0 for a, b in ((h, height), (w, width))]
    else:
        scales = [1 / factor if factor else a / b for a, b in ((h, height), (w, width))]
    blocks = -(-c // of)
    out = torch.empty(n, blocks, height, width, of)
    arguments = Interpolation(
        blocked_images(shape, of),
        blocked_images((n, c, height, width), of),
        ["nearest", "nearest-exact", "bilinear", "aligned"].index(mode),
        *scales,
    )
    run_step(isa, "interpolate", arguments, [to_blocked(x, of), out], threads)
    found = from_blocked(out, c)
    if mode.startswith("nearest"):
        expected = (
            F.interpolate(x, (height, width), mode=name)
            if not factor
            else F.interpolate(x, scale_factor=factor, mode=name)
        )
    # A share of zero or one may be rounded: what is no number then reaches one pixel more, or less.
    unclear = found.isnan() ^ expected.isnan()
    assert unclear.sum() <= 2 * (height + width)
    same(found.masked_fill(unclear, 0), expected.masked_fill(unclear, 0), 1e-5)
