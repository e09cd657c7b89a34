"""Operators made of others are taken apart on `meta` as a CPU takes them apart."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archcost.analysis.analysis import analyze
from archcost.errors import ArchcostError
from helpers.versions import newer

Q, TOKENS = (2, 4, 16, 8), (2, 16, 8)


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, q, k, v, mask=None):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **self.options)


def operators(model, inputs, device):
    return [op.name for op in analyze(model, inputs, device=device).trace.ops]


def qkv(query, key=None, value=None):
    key = key or query
    return tuple(torch.rand(shape) for shape in (query, key, value or key))


ATTENTION = {
    "four dimensions": (qkv(Q), {}),
    "three dimensions": (qkv(TOKENS), {}),
    "two dimensions": (qkv((16, 8)), {}),
    "five dimensions": (qkv((1, *Q)), {}),
    "grouped queries": (qkv(Q, (2, 2, 16, 8)), {"enable_gqa": True}),
    "grouped queries, causal": (qkv(Q, (2, 2, 16, 8)), {"enable_gqa": True, "is_causal": True}),
    "grouped queries, dropout": (qkv(Q, (2, 2, 16, 8)), {"enable_gqa": True, "dropout_p": 0.1}),
    "grouped queries, three dimensions": (qkv((4, 16, 8), TOKENS), {"enable_gqa": True}),
    "one key head": (qkv(Q, (2, 1, 16, 8)), {}),
    "groups of keys that are not those of values": (qkv(Q, (2, 2, 16, 8), Q), {"enable_gqa": True}),
    "one batch of keys": (qkv(Q, (1, 4, 16, 8)), {}),
    "narrower values": (qkv(Q, Q, (2, 4, 16, 6)), {}),
    "more keys": (qkv(Q, (2, 4, 5, 8)), {"scale": 2.0}),
    "dropout": (qkv(Q), {"dropout_p": 0.5}),
    "transposed heads": (tuple(t.transpose(1, 2) for t in qkv((2, 16, 4, 8))), {}),
    "transposed width": (tuple(t.transpose(2, 3) for t in qkv((2, 4, 8, 16))), {}),
    "a mask of scores": ((*qkv(Q), torch.rand(16, 16)), {}),
    "a mask of three dimensions": ((*qkv(Q), torch.rand(4, 16, 16)), {}),
    "a mask of four dimensions": ((*qkv(Q), torch.rand(2, 1, 1, 16)), {}),
    "a mask of truths": ((*qkv(Q), torch.rand(16, 16) > 0.5), {}),
    "a mask of truths, dropout": ((*qkv(Q), torch.rand(16, 16) > 0.5), {"dropout_p": 0.5}),
    "a mask of scores, three dimensions": ((*qkv((4, 16, 8)), torch.rand(16, 16)), {}),
    "a mask for each row, three dimensions": ((*qkv((4, 16, 8)), torch.rand(4, 16, 16)), {}),
    "a mask, grouped queries": ((*qkv(Q, (2, 2, 16, 8)), torch.rand(16, 16)), {"enable_gqa": True}),
    "a mask that learns": ((*qkv(Q), torch.rand(16, 16).requires_grad_()), {}),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention_is_fused_where_a_cpu_fuses_it(case):
    inputs, options = ATTENTION[case]
    model = Attention(**options)
    assert operators(model, inputs, "meta") == operators(model, inputs, "cpu")


@pytest.mark.parametrize("case", ATTENTION)
def test_the_memory_of_attention_is_that_of_a_real_pass(case):
    inputs, options = ATTENTION[case]
    ours, real = (analyze(Attention(**options), inputs, device=device).total for device in ("meta", "cpu"))
    assert ours.peak_memory_bytes == real.peak_memory_bytes
    assert ours.activation_bytes == real.activation_bytes
    assert ours.kept_for_backward_bytes == real.kept_for_backward_bytes


@newer("2.8 does not fuse attention in three dimensions")
def test_the_memory_of_attention_in_three_dimensions():
    q = torch.rand(TOKENS)
    assert analyze(Attention(), (q, q, q)).total.peak_memory_bytes == 1152


def test_a_mask_computed_from_a_parameter_does_not_unfuse_attention():
    """It requires gradients in training only."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.t = nn.Parameter(torch.rand(1, 2, 16, 16))

        def forward(self, q):
            return F.scaled_dot_product_attention(q, q, q, attn_mask=self.t * 1.0)

    for caller in (torch.no_grad, torch.enable_grad):
        with caller():
            assert analyze(Masked(), torch.rand(1, 2, 16, 8)).total.peak_memory_bytes == 3200


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (qkv(Q, (2, 3, 16, 8)), {"enable_gqa": True}),
        (qkv(Q, (2, 2, 16, 8)), {}),
        pytest.param(
            (*qkv(Q), torch.rand(16, 16)),
            {"is_causal": True},
            marks=newer("2.8 runs it on a CPU"),
        ),
    ],
)
def test_attention_that_cannot_run_is_refused(inputs, options):
    for device in ("meta", "cpu"):
        with pytest.raises(ArchcostError):
            analyze(Attention(**options), inputs, device=device)


@pytest.mark.parametrize("shape", [(4, 6), (2, 4, 6), (2, 3, 4, 6), (6,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_a_linear_layer_adds_its_bias_in_place(shape, bias, frozen, transposed):
    """Under a dispatch mode the framework does not, where the input is not contiguous."""
    model = nn.Linear(6, 5, bias=bias).requires_grad_(not frozen)
    x = torch.rand(shape)
    if transposed and len(shape) > 1:
        x = x.transpose(0, -2).contiguous().transpose(0, -2)
    ours, real = (analyze(model, x, device=device) for device in ("meta", "cpu"))
    assert ours.total.macs == real.total.macs
    again = 4 * torch.Size((*shape[:-1], 5)).numel() if bias and transposed and len(shape) > 2 else 0
    assert ours.total.activation_bytes + again == real.total.activation_bytes


@pytest.mark.parametrize("shape", [(2, 8, 64), (8, 64)])
@pytest.mark.parametrize("options", [{}, {"stride": 1, "padding": 1}, {"dilation": 3, "ceil_mode": True}])
def test_max_pooling_along_one_axis_makes_indices_in_training_only(shape, options):
    x = torch.rand(shape)
    pool = nn.MaxPool1d(2, **options)
    total = analyze(pool, x).total
    nbytes = 4 * pool(x).numel()
    assert (total.peak_memory_bytes, total.activation_bytes, total.kept_for_backward_bytes) == (
        nbytes,
        nbytes,
        0,
    )
    assert total.other_ops == pool(x).numel()
    behind = analyze(nn.Sequential(nn.Conv1d(8, 8, 1), pool), x).total
    assert behind.peak_memory_bytes == 4 * x.numel() + nbytes
    assert behind.kept_for_backward_bytes == 4 * x.numel() + 2 * nbytes  # the input, and indices of 8 bytes


CHANNELS_LAST = [
    nn.Conv2d(8, 8, 3),
    nn.Conv2d(8, 16, 3, stride=2, groups=8),
    nn.Conv2d(8, 8, 1),
    nn.Conv2d(8, 8, 5, dilation=2, bias=False),
    nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1),
]


@pytest.mark.parametrize("layer", CHANNELS_LAST, ids=str)
@pytest.mark.parametrize("whose", ["model", "input"])
def test_a_convolution_keeps_channels_last_where_one_of_the_two_is(layer, whose):
    x, model = torch.rand(1, 8, 16, 16), nn.Sequential(layer, nn.Flatten())
    if whose == "input":
        x = x.to(memory_format=torch.channels_last)
    else:
        model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    ours, real = (analyze(model, x, device=device) for device in ("meta", "cpu"))
    assert ours.trace.calls[1].outputs[0].stride == real.trace.calls[1].outputs[0].stride
    assert ours.total.peak_memory_bytes == real.total.peak_memory_bytes


def test_what_is_reduced_lies_as_on_a_cpu():
    class Sums(nn.Module):
        def forward(self, x):
            return x.sum(-1).flatten()

    x = torch.rand(2, 16, 4, 8).transpose(1, 2)
    assert analyze(Sums(), x).total.peak_memory_bytes == 512


def test_what_autocast_casts_is_seen():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.layers(x)

    x = torch.rand(1, 3, 16, 16)
    inside = analyze(Cast(), x)
    assert "autocast casts on real devices" in inside.notes[0]
    assert inside.trace.outputs.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = analyze(Cast().layers, x)
    # Around the whole, autocast keeps the weights that it has cast, from one pass to the next.
    assert around.total.peak_memory_bytes == inside.total.peak_memory_bytes - 2 * inside.total.params
    assert inside.total.peak_memory_bytes == analyze(Cast(), x, device="cpu").total.peak_memory_bytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("layer", [nn.RNN(6, 5), nn.GRU(6, 5), nn.LSTM(6, 5)], ids=str)
def test_states_of_another_dtype_are_refused_as_they_are_on_a_cpu(layer, dtype):
    class Started(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            state = torch.zeros(1, 3, 5, dtype=dtype, device=x.device)
            return self.layer(x, (state, state) if isinstance(layer, nn.LSTM) else state)[0]

    for device in ("meta", "cpu"):
        with pytest.raises(ArchcostError):
            analyze(Started(), torch.rand(4, 3, 6), device=device)


@pytest.mark.parametrize(
    "mask",
    [torch.ones(16, 16).double(), torch.ones(16, 16).half(), torch.ones(16)],
    ids=["float64", "float16", "one dimension"],
)
def test_masks_that_attention_does_not_take_are_refused_as_they_are_on_a_cpu(mask):
    for device in ("meta", "cpu"):
        with pytest.raises(ArchcostError):
            analyze(Attention(), (*qkv(Q), mask), device=device)
