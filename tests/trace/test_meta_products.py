"""Products and attention on `meta` have the shapes, dtypes and errors of a real run."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from archcost.trace.recording.composite import operators_as_on_cpu
from archcost.trace.recording.meta import FAST_META
from helpers.meta import FLOATS, MANY, check, on, tensors
from helpers.versions import grouped_on_cpu, newer

aten = torch.ops.aten


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
        pytest.param(
            lambda x, w: torch.einsum("bchw,ochw->bo", x, w),
            marks=newer("bmm on meta takes two dtypes in 2.8"),
        ),
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


@grouped_on_cpu
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
