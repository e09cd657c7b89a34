"""Dense convolution in blocked layout: equals its definition, and lets no padded lane into a result."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost import kernels
from archcost.kernels.loading import Images
from archcost.kernels.steps import ActivationArguments, DirectArguments, WindowArguments
from helpers.blocked import (
    CLAMP,
    IDENTITY,
    blocked_images,
    from_blocked,
    lanes,
    run_step,
    to_blocked,
)
from helpers.direct import packed, whole_blocks

ERROR = 1e-5
INFINITY = float("inf")


def convolve(
    isa,
    x,
    weight,
    bias=None,
    *,
    stride=(1, 1),
    padding=(0, 0, 0, 0),  # top, bottom, left, right
    dilation=(1, 1),
    activation=None,
    addend=None,
    before=None,  # scale, shift, low, high
    gate=None,
    blocked=True,
    offsets=None,
    channels=None,
    threads=1,
):
    """`offsets` names for each of `channels` the channel of x that it is."""
    of = lanes(isa)
    top, bottom, left, right = padding
    window = (*weight.shape[2:], *stride, *dilation)
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    height = (x.shape[2] + top + bottom - spans[0]) // stride[0] + 1
    width = (x.shape[3] + left + right - spans[1]) // stride[1] + 1
    shape = (x.shape[0], weight.shape[0], height, width)
    output = to_blocked(torch.full(shape, float("nan")), of)
    images = blocked_images(x.shape, of)
    if not blocked:
        images = Images(*x.shape, *x.contiguous().stride(), 0)
    if offsets is not None:
        plane = x.shape[2] * x.shape[3] * of
        offsets = torch.tensor([c // of * plane + c % of for c in offsets])
        images.channels = len(offsets)
    arguments = DirectArguments(
        images,
        blocked_images(shape, of),
        blocked_images(shape, of),
        WindowArguments(*window),
        *(top, left, 0 if gate is None else whole_blocks(gate, of).stride(0)),
        activation or ActivationArguments(IDENTITY),
        *(before[2:] if before else (-INFINITY, INFINITY)),
    )
    places = [
        to_blocked(x, of) if blocked else x.contiguous(),
        packed(isa, window, weight, blocked),
        None if bias is None else whole_blocks(bias, of),
        output,
        None if addend is None else to_blocked(addend, of),
        *([whole_blocks(v, of) for v in before[:2]] if before else [None, None]),
        None if gate is None else whole_blocks(gate, of),
        offsets,
    ]
    run_step(isa, "direct", arguments, places, threads)
    return from_blocked(output, weight.shape[0])


def definition(x, weight, bias=None, *, stride=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), addend=None,
               before=None, gate=None):  # fmt: skip
    x = x.double()
    if before:
        scale, shift, low, high = before
        x = (x * scale.double()[:, None, None] + shift.double()[:, None, None]).clamp(low, high)
    if gate is not None:
        x = x * gate.double()[:, :, None, None]
    top, bottom, left, right = padding
    x = F.pad(x, (left, right, top, bottom))
    y = F.conv2d(x, weight.double(), None if bias is None else bias.double(), stride, 0, dilation)
    return y if addend is None else y + addend.double()


def check(y, expected, scale=None):
    assert y.shape == expected.shape
    largest = (expected if scale is None else scale).abs().max().clamp_min(1)
    assert ((y - expected).abs().max() / largest).item() < ERROR


isas = pytest.mark.parametrize("isa", kernels.usable_isas())


@isas
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_layer(isa, data):
    draw = data.draw

    def number(low, high):
        return draw(st.integers(low, high))

    taps = draw(st.sampled_from([(1, 1), (1, 1), (3, 3), (5, 5), (1, 7), (7, 1), (2, 3), (7, 7)]))
    stride, dilation = (number(1, 3), number(1, 3)), (number(1, 2), number(1, 2))
    padding = [number(0, 3) for _ in range(4)]
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, taps, strict=True)]
    lacking = [span - sum(padding[2 * i : 2 * i + 2]) for i, span in enumerate(spans)]
    size = [max(1, least) + number(0, 33) for least in lacking]
    batch, ins, outs = number(1, 2), number(1, 40), number(1, 75)
    x = torch.randn(batch, ins, *size)
    weight, bias = torch.randn(outs, ins, *taps), torch.randn(outs) if number(0, 1) else None
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    expected = definition(x, weight, bias, **options)
    if number(0, 1):
        options["addend"] = torch.randn(expected.shape)
    if number(0, 1):
        options["before"] = (torch.randn(ins), torch.randn(ins), 0.0, draw(st.sampled_from([INFINITY, 1.0])))
    if number(0, 1):
        options["gate"] = torch.rand(batch, ins)
    expected = definition(x, weight, bias, **options)
    activation = ActivationArguments(CLAMP, -1.0, 2.0) if number(0, 1) else None
    y = convolve(
        *(isa, x, weight, bias),
        **options,
        activation=activation,
        blocked=number(0, 3) > 0,
        threads=number(1, 2),
    )
    check(y, expected.clamp(-1, 2) if activation else expected, expected)


LAYERS = {
    "pointwise, weights outer": (2, 300, 14, 330, 1, 1),
    "pointwise, pixels outer": (1, 40, 56, 24, 1, 1),
    "pointwise with stride": (1, 300, 14, 330, 1, 2),
    "map of 7": (2, 130, 7, 300, 3, 1),
    "many rows": (1, 70, 80, 40, 3, 1),
    "stride 2": (1, 64, 57, 100, 3, 2),
}


@isas
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_every_order_of_loops(isa, name, threads):
    batch, ins, size, outs, taps, stride = LAYERS[name]
    x, weight = torch.randn(batch, ins, size, size), torch.randn(outs, ins, taps, taps)
    options = {"stride": (stride, stride), "padding": (taps // 2,) * 4, "gate": torch.rand(batch, ins)}
    expected = definition(x, weight, **options)
    check(convolve(isa, x, weight, **options, threads=threads), expected)
    del options["gate"]
    check(convolve(isa, x, weight, **options, threads=threads), definition(x, weight, **options))


@isas
@pytest.mark.parametrize(
    ("taps", "stride", "width"), [(7, 2, 61), (3, 2, 64), (4, 4, 64), (11, 4, 63), (16, 16, 32)]
)
def test_stem_from_nchw(isa, taps, stride, width):
    x, weight, bias = torch.randn(2, 3, 48, width), torch.randn(36, 3, taps, taps), torch.randn(36)
    options = {"stride": (stride, stride), "padding": ((taps - 1) // 2 if taps < 16 else 0,) * 4}
    check(
        convolve(isa, x, weight, bias, **options, blocked=False, threads=2),
        definition(x, weight, bias, **options),
    )


@isas
@pytest.mark.parametrize("size", [1, 7, 20])
def test_channels_in_any_order(isa, size):
    """A shuffle and a split before a 1x1 convolution are read where the channels lie."""
    x, order = torch.randn(2, 58, size, size), torch.randperm(58)[:41]
    weight = torch.randn(58, 41, 1, 1)
    y = convolve(isa, x, weight, offsets=order.tolist())
    check(y, definition(x[:, order], weight))
    gate = torch.rand(2, 41)
    y = convolve(isa, x, weight, offsets=order.tolist(), gate=gate, threads=2)
    check(y, definition(x[:, order], weight, gate=gate))


@isas
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_reaches_the_outputs_that_look_at_it(isa, value):
    x, weight = torch.randn(1, 19, 15, 15), torch.randn(21, 19, 3, 3)
    x[0, 18, 7, 7] = value
    y = convolve(isa, x, weight, padding=(1,) * 4, activation=ActivationArguments(CLAMP, 0.0, INFINITY))
    expected = F.conv2d(x, weight, padding=1).relu()
    assert torch.equal(y.isfinite(), expected.isfinite())
    assert torch.equal(y.isnan(), expected.isnan())


@isas
def test_slices_of_a_larger_tensor(isa):
    """Concatenation in place: whole blocks of one tensor read and written where they lie."""
    of = lanes(isa)
    x, weight = torch.randn(2, 2 * of, 9, 9), torch.randn(of, of, 1, 1)
    room = to_blocked(torch.cat([x, torch.zeros(2, of, 9, 9)], 1), of)
    part = blocked_images((2, of, 9, 9), of)
    part.batch_stride = 3 * of * 81
    window = (1, 1, 1, 1, 1, 1)
    arguments = DirectArguments(
        part,
        part,
        part,
        WindowArguments(*window),
        0,
        0,
        0,
        ActivationArguments(IDENTITY),
        -INFINITY,
        INFINITY,
    )
    places = [room[0, 1], packed(isa, window, weight, True), None, room[0, 2], room[0, 0], *[None] * 4]
    run_step(isa, "direct", arguments, places)
    expected = definition(x[:, of:], weight) + x[:, :of].double()
    check(from_blocked(room, 3 * of)[:, 2 * of :], expected)
    assert torch.equal(from_blocked(room, 3 * of)[:, : 2 * of], x)
