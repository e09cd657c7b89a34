"""Operations one by one, activations, layouts, gathers, pools and gates, against float64 PyTorch."""

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

NAN, INF = float("nan"), float("inf")
ADD, SUB, MUL, DIV, MAX, MIN, NONE, SUB_FROM, DIV_INTO = range(9)
RUN, VECTOR, FLOAT = range(3)
OPERATIONS = {
    ADD: torch.add,
    SUB: torch.sub,
    MUL: torch.mul,
    DIV: torch.div,
    MAX: torch.maximum,
    MIN: torch.minimum,
    NONE: lambda a, b: a,
    SUB_FROM: lambda a, b: b - a,
    DIV_INTO: lambda a, b: b / a,
}
# kind, low, high, the definition, the largest error relative to the output's size or to that of the input.
ACTIVATIONS = [
    (0, 0.0, 0.0, lambda x: x, 0.0),
    (1, 0.0, 6.0, lambda x: x.clamp(0, 6), 0.0),
    (2, 0.0, 0.0, F.silu, 3e-7),
    (3, 0.0, 0.0, F.hardswish, 3e-7),
    (4, 0.0, 0.0, F.hardsigmoid, 2e-7),
    (5, 0.0, 0.0, torch.sigmoid, 3e-7),
    (6, 0.0, 0.0, F.gelu, 4e-7),
    (7, 0.0, 0.0, lambda x: F.gelu(x, approximate="tanh"), 4e-7),
    (8, 0.1, 0.0, lambda x: F.leaky_relu(x, float(torch.tensor(0.1))), 1e-7),
    (9, 0.0, 0.0, torch.tanh, 4e-7),
    (10, 1.5, 0.0, lambda x: F.elu(x, 1.5), 3e-7),
    (11, 0.0, 0.0, F.mish, 4e-7),
    (12, 0.0, 0.0, F.softplus, 4e-7),
]
WITHOUT_TAILS = {2, 3, 5, 8, 9, 10, 11, 12}  # small outputs have all their digits too


def structure(name, **fields):
    return type(name, (Structure,), {"_fields_": list(fields.items())})


def numbers(names):
    return {name: c_int64 for name in names.split()}


Run = structure("Run", **numbers("batch_stride block_stride"))
Runs = structure("Runs", **numbers("batch blocks length"))
Elementwise = structure(
    "Elementwise",
    activation=Activation,
    **numbers("operation second"),
    runs=Runs,
    a=Run,
    b=Run,
    out=Run,
)
Affine = structure("Affine", activation=Activation, second=c_int64, runs=Runs, a=Run, factors=Run, out=Run)
Conversion = structure("Conversion", input=Images, output=Images)
Gather = structure(
    "Gather",
    **numbers("batch channels pixels sources batch_stride block_stride"),
    source_batch_stride=c_int64 * 16,
    source_block_stride=c_int64 * 16,
)
Map = structure("Map", **numbers("batch channels pixels batch_stride block_stride pixel_stride"))
GlobalPool = structure(
    "GlobalPool", input=Map, activation=Activation, out_batch_stride=c_int64, scale=c_float
)
Squeeze = structure(
    "Squeeze",
    input=Map,
    first=Activation,
    second=Activation,
    **numbers("hidden out_batch_stride"),
    scale=c_float,
)


def flat(x):
    return Run(0, 0), Runs(1, 1, x.numel())


def same(found, expected, tolerance=1e-6):
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def activate(isa, x, kind, low, high, threads=1):
    out = torch.empty_like(x)
    run, runs = flat(x)
    of = Elementwise(Activation(kind, low, high), NONE, RUN, runs, run, run, run)
    run_step(isa, "elementwise", of, [x, None, out], threads)
    return out


@each_isa
@pytest.mark.parametrize(("kind", "low", "high", "definition", "allowed"), ACTIVATIONS)
def test_activation_is_as_exact_as_a_float(isa, kind, low, high, definition, allowed):
    x = torch.cat(
        [torch.linspace(-100, 100, 200_003), torch.linspace(-5, 5, 200_003), torch.randn(10_007) * 1e-3]
    )
    expected = definition(x.double())
    error = (activate(isa, x, kind, low, high).double() - expected).abs()
    assert (
        error <= allowed * torch.maximum(expected.abs(), x.abs().double()) + 1e-7 * (kind in (4, 5, 12))
    ).all()
    if kind in WITHOUT_TAILS:
        # What cancels, as x + 3 does near -3, has the digits of its terms.
        near = x.abs() < (2.9 if kind == 3 else 40)
        assert (error[near] <= max(allowed, 4e-7) * expected.abs()[near] + 1e-38).all()


@each_isa
@pytest.mark.parametrize(("kind", "low", "high", "definition", "allowed"), ACTIVATIONS)
def test_activation_keeps_what_is_no_number_and_holds_at_the_ends(isa, kind, low, high, definition, allowed):
    odd = torch.tensor([NAN, INF, -INF, 3e38, -3e38, 1e30, -1e30, 0.0, -0.0, 89.0, -89.0, 1e-45])
    payload = torch.tensor([0x7FC00001, 0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    x = torch.cat([odd, payload])
    y, expected = activate(isa, x, kind, low, high).double(), definition(x.double())
    assert y[0].isnan()
    assert y[len(odd) :].isnan().all()
    for end in (1, 2):
        near = abs(y[end] - expected[end]) < 3e-7 or y[end] == expected[end]
        assert near or (expected[end].isnan() and not y[end].isfinite())
    error = (y - expected).abs()[3 : len(odd)]
    assert (error <= 2e-7 * torch.maximum(x[3 : len(odd)].abs(), expected[3 : len(odd)].abs()) + 1e-7).all()


sizes = st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 12), st.integers(1, 12))


def far_from_zero(*shape):
    """What quotients may be taken of."""
    x = torch.randn(*shape)
    return x.sign() * (x.abs() + 0.2)


@each_isa
@settings(deadline=None, max_examples=60)
@given(
    shape=sizes,
    operation=st.sampled_from(sorted(OPERATIONS)),
    second=st.sampled_from(["same", "channels", "gate", "scalar"]),
    activation=st.sampled_from(ACTIVATIONS),
    in_place=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_elementwise_in_blocked_layout(isa, shape, operation, second, activation, in_place, threads, seed):
    torch.manual_seed(seed)
    of = lanes(isa)
    n, c, h, w = shape
    a = far_from_zero(shape)
    a[0, 0, 0, 0] = NAN
    rounded, run = -(-c // of) * of, Run(-(-c // of) * of * h * w, h * w * of)
    if second == "same":
        b = far_from_zero(shape)
        b[-1, -1, -1, -1] = NAN
        how, lies, given_b = RUN, run, to_blocked(b, of)
    elif second == "scalar":
        b = far_from_zero(1, 1, 1, 1)
        how, lies, given_b = FLOAT, Run(0, 0), b
    else:
        b = far_from_zero(n if second == "gate" else 1, c, 1, 1)
        given_b = F.pad(b[:, :, 0, 0], (0, rounded - c), value=NAN)
        how, lies = VECTOR, Run(rounded if second == "gate" else 0, of)
    kind, low, high, definition, _ = activation
    given_a = to_blocked(a, of)
    out = given_a if in_place else torch.full_like(given_a, INF)
    arguments = Elementwise(
        Activation(kind, low, high), operation, how, Runs(n, rounded // of, h * w * of), run, lies, run
    )
    run_step(isa, "elementwise", arguments, [given_a, None if operation == NONE else given_b, out], threads)
    expected = definition(OPERATIONS[operation](a, b).double())
    same(from_blocked(out, c), expected.expand(shape), 2e-6)


@each_isa
@settings(deadline=None, max_examples=40)
@given(
    shape=sizes, operation=st.sampled_from([ADD, MUL, NONE]), long=st.booleans(), threads=st.integers(1, 2)
)
def test_elementwise_of_any_length_writes_nothing_behind(isa, shape, operation, long, threads):
    n, c, h, w = shape
    rows, columns = (1, 40_000 + n * c * h * w) if long else (n * c, h * w)
    a, b = torch.randn(rows, columns), torch.randn(columns)
    out = torch.full((rows * columns + 1,), 7.0)
    arguments = Elementwise(
        Activation(2, 0, 0),
        operation,
        RUN,
        Runs(rows, 1, columns),
        Run(columns, 0),
        Run(0, 0),
        Run(columns, 0),
    )
    run_step(isa, "elementwise", arguments, [a, b, out], threads)
    assert out[-1] == 7.0
    same(out[:-1].view(rows, columns), F.silu(OPERATIONS[operation](a, b).double()))


@each_isa
@settings(deadline=None, max_examples=30)
@given(shape=sizes, blocked=st.booleans(), threads=st.integers(1, 2))
def test_affine_scales_and_shifts_channels(isa, shape, blocked, threads):
    of = lanes(isa)
    n, c, h, w = shape
    x, scale, shift = torch.randn(shape), torch.randn(c), torch.randn(c)
    expected = F.hardswish(x.double() * scale.view(-1, 1, 1) + shift.view(-1, 1, 1))
    blocks = -(-c // of) if blocked else c
    length = h * w * of if blocked else h * w
    pad = (0, blocks * of - c) if blocked else (0, 0)
    run = Run(blocks * length, length)
    arguments = Affine(
        Activation(3, 0, 0),
        VECTOR if blocked else FLOAT,
        Runs(n, blocks, length),
        run,
        Run(0, of if blocked else 1),
        run,
    )
    given_x = to_blocked(x, of) if blocked else x
    out = torch.empty_like(given_x)
    places = [given_x, F.pad(scale, pad, value=NAN), F.pad(shift, pad, value=NAN), out]
    run_step(isa, "affine", arguments, places, threads)
    same(from_blocked(out, c) if blocked else out, expected)


LAYOUTS = ("nchw", "channels_last", "blocked", "slice", "strided")


def lay_out(x, layout, of):
    """Memory, the images that describe it, and how to read it back."""
    n, c, h, w = x.shape
    if layout == "blocked":
        return to_blocked(x, of), blocked_images(x.shape, of), lambda m: from_blocked(m, c)
    if layout == "channels_last":
        memory = x.permute(0, 2, 3, 1).contiguous()
        return memory, Images(n, c, h, w, c * h * w, 1, w * c, c, 0), lambda m: m.permute(0, 3, 1, 2)
    room = {"nchw": (0, 0), "slice": (3, 5), "strided": (1, w + 2)}[layout]
    memory = torch.full((n, c, h + room[0], w + room[1]), 5.0)
    step = 2 if layout == "strided" else 1
    memory[:, :, :h, : w * step : step] = x
    s = memory.stride()
    images = Images(n, c, h, w, s[0], s[1] if c > 1 else 2, s[2], step, 0)
    return memory, images, lambda m: m[:, :, :h, : w * step : step]


@each_isa
@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", LAYOUTS)
@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 9), st.integers(1, 40)),
    threads=st.integers(1, 2),
)
def test_conversions_between_all_layouts(isa, source, target, shape, threads):
    of = lanes(isa)
    x = torch.randn(shape)
    x[0, 0, 0, 0] = NAN
    given_x, described, _ = lay_out(x, source, of)
    out, wanted, read = lay_out(torch.zeros(shape), target, of)
    outside = (out == 5.0).sum()
    run_step(isa, "convert", Conversion(described, wanted), [given_x, out], threads)
    assert torch.equal(read(out).nan_to_num(9.0), x.nan_to_num(9.0))
    assert (out == 5.0).sum() == outside
    if target == "blocked":
        whole = from_blocked(out, out.shape[1] * of)
        assert (whole[:, shape[1] :] == 0).all()


@each_isa
@settings(deadline=None, max_examples=60)
@given(data=st.data(), batch=st.integers(1, 2), size=st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_gather_takes_channels_from_anywhere(isa, data, batch, size):
    of = lanes(isa)
    counts = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    maps = [torch.randn(batch, c, *size) for c in counts]
    everything = [(s, c) for s, count in enumerate(counts) for c in range(count)]
    way = data.draw(st.sampled_from(["concatenate", "shuffle", "anything"]))
    if way == "concatenate":
        table = everything
    elif way == "shuffle":
        table = everything[::2] + everything[1::2]
    else:
        table = data.draw(st.lists(st.sampled_from(everything), min_size=1, max_size=50))
    channels, pixels = len(table), size[0] * size[1]
    blocks = -(-channels // of)
    strides = [(-(-c // of)) * of * pixels for c in counts]
    header = Gather(
        *(batch, channels, pixels, len(counts), blocks * of * pixels, of * pixels),
        (c_int64 * 16)(*strides),
        (c_int64 * 16)(*[of * pixels] * len(counts)),
    )
    both = structure("Both", header=Gather, table=c_int64 * channels)
    arguments = both(header, (c_int64 * channels)(*[s << 32 | c for s, c in table]))
    out = torch.empty(batch, blocks, *size, of)
    run_step(
        isa, "gather", arguments, [*[to_blocked(m, of) for m in maps], out], data.draw(st.integers(1, 2))
    )
    assert torch.equal(from_blocked(out, channels), torch.stack([maps[s][:, c] for s, c in table], 1))


def as_map(x, of, layout):
    n, c, h, w = x.shape
    blocks = -(-c // of)
    if layout == "blocked":
        return to_blocked(x, of), Map(n, c, h * w, blocks * of * h * w, h * w * of, of)
    return x.permute(0, 2, 3, 1).contiguous().clone(), Map(n, c, h * w, c * h * w, of, c)


@each_isa
@settings(deadline=None, max_examples=40)
@given(shape=sizes, layout=st.sampled_from(["blocked", "rows"]), threads=st.integers(1, 2))
def test_global_pool(isa, shape, layout, threads):
    n, c, h, w = shape
    x = torch.randn(shape)
    x[0, -1, 0, 0] = NAN
    given_x, described = as_map(x, lanes(isa), layout)
    out = torch.full((n * c + 1,), 7.0)
    arguments = GlobalPool(described, Activation(5, 0, 0), c, 1 / (h * w))
    run_step(isa, "global_pool", arguments, [given_x, out], threads)
    assert out[-1] == 7.0
    same(out[:-1].view(n, c), torch.sigmoid(x.double().mean((2, 3))))


@each_isa
@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 300), st.integers(1, 8), st.integers(1, 8)),
    hidden=st.integers(1, 40),
    bias=st.booleans(),
    sums=st.booleans(),
    threads=st.integers(1, 2),
)
def test_squeeze_is_the_gate_of_squeeze_and_excitation(isa, shape, hidden, bias, sums, threads):
    of = lanes(isa)
    n, c, h, w = shape
    x = torch.randn(shape)
    first, second = torch.randn(hidden, c) / math.sqrt(c), torch.randn(c, hidden) / math.sqrt(hidden)
    first_bias, second_bias = (torch.randn(hidden), torch.randn(c)) if bias else (None, None)
    functions = library(isa)
    functions.archcost_squeeze_packed_floats.argtypes = [c_int64] * 2
    functions.archcost_squeeze_packed_floats.restype = c_int64
    packed = torch.full((functions.archcost_squeeze_packed_floats(c, hidden),), NAN)
    functions.archcost_squeeze_pack.argtypes = [c_int64] * 2 + [c_void_p] * 5
    pointers = [t if t is None else t.data_ptr() for t in (first, first_bias, second, second_bias, packed)]
    functions.archcost_squeeze_pack(c, hidden, *pointers)
    given_x, described = as_map(x.sum((2, 3), keepdim=True) if sums else x, of, "blocked")
    rounded = -(-c // of) * of
    gate = torch.empty(n, rounded)
    arguments = Squeeze(described, Activation(2, 0, 0), Activation(4, 0, 0), hidden, rounded, 1 / (h * w))
    run_step(isa, "squeeze", arguments, [given_x, packed, gate], threads)
    mean = x.double().mean((2, 3))
    bias_of = lambda b: None if b is None else b.double()  # noqa: E731
    inner = F.silu(F.linear(mean, first.double(), bias_of(first_bias)))
    same(gate[:, :c], F.hardsigmoid(F.linear(inner, second.double(), bias_of(second_bias))), 1e-5)
