"""A Trace is read into a graph that computes what the model does, operator by operator."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.graphs import Model, assert_read, calls, settled

X, ROW, TOKENS = (2, 6, 9, 11), (2, 6, 13), (2, 5, 8)


def case(function, shape=X, *parts, called=()):
    """``called``: the operators that are left to PyTorch."""
    return function, shape, parts, called


ACTIVATIONS = [
    F.relu,
    F.relu6,
    F.silu,
    F.hardswish,
    F.hardsigmoid,
    torch.sigmoid,
    torch.tanh,
    F.mish,
    F.gelu,
    lambda x: F.gelu(x, approximate="tanh"),
    lambda x: F.leaky_relu(x, 0.2),
    F.elu,
    lambda x: F.elu(x, 0.3),
    F.softplus,
    lambda x: F.hardtanh(x, -0.3, 0.4),
    lambda x: x.clamp(-0.3, 0.4),
    lambda x: x.clamp(min=0.1),
    lambda x: x.clamp(max=0.1),
    lambda x: x.clamp_min(-1),
    lambda x: x.clamp_max(1),
    torch.relu_,
    lambda x: F.hardswish(x.clone(), inplace=True),
]
CALLED_ACTIVATIONS = [
    (F.selu, "aten.elu.default"),
    (lambda x: F.softplus(x, beta=2), "aten.softplus.default"),
    (lambda x: x.clamp(min=x.mean((2, 3), keepdim=True)), "aten.clamp.Tensor"),
    (lambda x: F.prelu(x, torch.full((6,), 0.25, dtype=x.dtype)), None),
    (lambda x: torch.fft.irfft2(torch.fft.rfft2(x)), "aten._fft_r2c.default"),
    (torch.exp, "aten.exp.default"),
    (lambda x: x**3, "aten.pow.Tensor_Scalar"),
]


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_activations(function):
    graph = assert_read(Model(lambda x: function(x + 0.1)), torch.randn(X))
    assert not calls(graph)


@pytest.mark.parametrize(("function", "name"), CALLED_ACTIVATIONS)
def test_functions_without_an_operator_are_called(function, name):
    graph = assert_read(Model(function), torch.randn(X))
    assert name is None or name in calls(graph)


ARITHMETIC = [
    lambda x: x + x,
    lambda x: x - 2.0,
    lambda x: 2.0 - x,
    lambda x: x * 3,
    lambda x: 3 * x,
    lambda x: x / 4,
    lambda x: 4 / (x + 9),
    lambda x: torch.add(x, x.relu(), alpha=2),
    lambda x: torch.sub(x, 3, alpha=0.5),
    lambda x: torch.rsub(x, x.relu(), alpha=2),
    lambda x: torch.maximum(x, -x),
    lambda x: torch.minimum(x, x * 2),
    lambda x: x * x.mean((2, 3), keepdim=True),
    lambda x: x - x.mean(1, keepdim=True),
    lambda x: x.mean((2, 3))[:, :, None, None] / (x + 9),
    lambda x: x + torch.arange(11, dtype=x.dtype),
    lambda x: x * torch.ones(1, 1, 1, 1, 1, dtype=x.dtype),
    lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    lambda x: x * True,
    lambda x: x * torch.arange(6).view(6, 1, 1),
]


@pytest.mark.parametrize("function", ARITHMETIC)
def test_arithmetic_with_broadcasting_and_numbers_on_either_side(function):
    assert_read(Model(function), torch.randn(X))


CONVOLUTIONS = [
    (nn.Conv2d(6, 5, 3), X),
    (nn.Conv2d(6, 5, (3, 1), (2, 1), (1, 0), bias=False), X),
    (nn.Conv2d(6, 4, 3, 2, 2, 2, groups=2), X),
    (nn.Conv2d(6, 12, 5, padding=2, groups=6), X),
    (nn.Conv2d(6, 6, 1, 2), X),
    (nn.Conv2d(6, 5, 4, padding="same"), X),
    (nn.Conv2d(6, 5, 3, padding="valid"), X),
    (nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), X),
    (nn.Conv2d(6, 5, 3), X[1:]),  # without a batch
    (nn.Conv1d(6, 5, 3, 2, 1), ROW),
    (nn.Conv1d(6, 6, 5, padding=4, dilation=2, groups=3), ROW),
    (nn.Conv1d(6, 6, 3, groups=6, bias=False), ROW),
    (nn.Conv1d(6, 5, 4, padding="same"), ROW),
    (nn.Conv1d(6, 5, 3), ROW[1:]),
]


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS, ids=str)
def test_convolutions(layer, shape):
    assert not [name for name in calls(assert_read(layer, torch.randn(shape))) if "convolution" in name]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv3d(2, 3, 3), (1, 2, 5, 6, 4)),
        (nn.ConvTranspose2d(6, 4, 3, 2, 1, 1), X),
        (nn.ConvTranspose1d(6, 6, 3, 2, groups=2), ROW),
    ],
    ids=str,
)
def test_other_convolutions_are_called(layer, shape):
    assert calls(assert_read(layer, torch.randn(shape))) == ["aten.convolution.default"]


def test_convolution_with_weights_that_are_computed():
    generator = nn.Linear(6, 3 * 6 * 9)
    dynamic = Model(lambda x, g: F.conv2d(x[:1], g(x.mean((0, 2, 3))).view(3, 6, 3, 3), padding=1), generator)
    assert "aten.convolution.default" in calls(assert_read(dynamic, torch.randn(X)))
    standardised = Model(
        lambda x, conv: F.conv2d(x, (conv.weight - conv.weight.mean()) / conv.weight.std(), conv.bias),
        nn.Conv2d(6, 4, 3),
    )
    assert not calls(assert_read(standardised, torch.randn(X)))


POOLS = [
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d((3, 2), (2, 3), (1, 0), ceil_mode=True),
    nn.MaxPool2d(2, 3, ceil_mode=True),
    nn.MaxPool2d(3, 1, 1, dilation=2),
    nn.AvgPool2d(3),
    nn.AvgPool2d(3, 2, 1),
    nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    nn.AvgPool2d(2, 3, 1, ceil_mode=True),
    nn.AvgPool2d(4, 3, 2, ceil_mode=True),
    nn.AvgPool2d(4, 3, 2, ceil_mode=True, count_include_pad=False),
    nn.AvgPool2d((2, 5), (3, 1), (0, 2)),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((9, 11)),
    nn.AdaptiveAvgPool2d((3, 11)),
    nn.AdaptiveMaxPool2d((3, 1)),
]
CALLED_POOLS = [
    (nn.AvgPool2d(3, divisor_override=5), X),
    (nn.AdaptiveAvgPool2d((4, 3)), X),
    (nn.AdaptiveAvgPool2d((12, 11)), X),
    (nn.AdaptiveMaxPool2d((4, 3)), X),
    (nn.LPPool2d(2, 3), X),
    (nn.MaxPool2d(2), X[1:]),
    (nn.AvgPool2d(2), X[1:]),
    (nn.AdaptiveAvgPool2d(1), X[1:]),
    (nn.MaxPool1d(3, 2), ROW),
    (nn.AvgPool1d(3, 2, 1), ROW),
    (nn.AdaptiveAvgPool1d(1), ROW),
]


@pytest.mark.parametrize("layer", POOLS, ids=str)
def test_pools(layer):
    assert_read(layer, torch.randn(X))


@pytest.mark.parametrize(("layer", "shape"), CALLED_POOLS, ids=str)
def test_other_pools_are_called_or_read_as_others(layer, shape):
    assert_read(layer, torch.randn(shape))


def test_pool_whose_indices_are_read():
    unpooled = Model(
        lambda x, pool, unpool: unpool(*pool(x), output_size=x.shape[2:]),
        nn.MaxPool2d(2, return_indices=True),
        nn.MaxUnpool2d(2),
    )
    assert_read(unpooled, torch.randn(X))
    assert_read(nn.MaxPool2d(2, return_indices=True), torch.randn(X))


@pytest.mark.parametrize("size", [(18, 22), (13, 17), (5, 4), (9, 11)], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "aligned", "bicubic", "nearest-exact"])
def test_interpolation_by_size(size, mode):
    how = {"mode": "bilinear", "align_corners": True} if mode == "aligned" else {"mode": mode}
    assert_read(Model(lambda x: F.interpolate(x, size, **how)), torch.randn(X))


@pytest.mark.parametrize("factor", [2, 1.5, (0.7, 2.0), 3])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_interpolation_by_factor(factor, recompute, mode):
    model = Model(
        lambda x: F.interpolate(x, scale_factor=factor, mode=mode, recompute_scale_factor=recompute)
    )
    assert_read(model, torch.randn(X))


def test_interpolation_of_rows():
    assert_read(Model(lambda x: F.interpolate(x, scale_factor=2)), torch.randn(ROW))


NORMS = [
    (nn.BatchNorm2d(6), X),
    (nn.BatchNorm2d(6, affine=False), X),
    (nn.BatchNorm1d(6), ROW),
    (nn.BatchNorm1d(6), (3, 6)),
    (nn.BatchNorm3d(6), (1, 6, 2, 3, 4)),
    (nn.LayerNorm(8), TOKENS),
    (nn.LayerNorm(8, elementwise_affine=False), TOKENS),
    (nn.LayerNorm(8, bias=False), TOKENS),
    (nn.LayerNorm((9, 11)), X),
    (nn.GroupNorm(3, 6), X),
    (nn.InstanceNorm2d(6), X),
    (nn.InstanceNorm2d(6, affine=True, track_running_stats=True), X),
    (nn.BatchNorm2d(6, track_running_stats=False), X),
    (nn.LocalResponseNorm(3), X),
    (nn.RMSNorm(8, eps=1e-5), TOKENS),
    (nn.Softmax(1), X),
    (nn.Softmax(-1), X),
    (nn.LogSoftmax(1), TOKENS),
]


@pytest.mark.parametrize(("layer", "shape"), NORMS, ids=str)
def test_norms_and_softmax(layer, shape):
    assert_read(settled(layer), torch.randn(shape))


REDUCTIONS = [
    lambda x: x.mean(),
    lambda x: x.mean((2, 3)),
    lambda x: x.mean((-1, 2), keepdim=True),
    lambda x: x.mean(1),
    lambda x: x.sum((2, 3)),
    lambda x: x.amax((2, 3)),
    lambda x: x.max(1).values,
    lambda x: x.var(1, keepdim=True),
    lambda x: x.argmax(1),
    lambda x: x.topk(2, 1),
]


@pytest.mark.parametrize("function", REDUCTIONS)
def test_reductions(function):
    assert_read(Model(function), torch.randn(X))


PRODUCTS = [
    (lambda x, layer: layer(x), (nn.Linear(8, 3),), TOKENS),
    (lambda x, layer: layer(x), (nn.Linear(8, 3, bias=False),), (2, 8)),
    (lambda x, layer: layer(x), (nn.Linear(8, 3),), (8,)),
    (lambda x, layer: layer(x), (nn.Linear(11, 3),), X),
    (lambda x: x @ x.transpose(-2, -1), (), TOKENS),
    (lambda x: x @ x.transpose(-2, -1), (), X),
    (lambda x: x @ x[0].transpose(-2, -1), (), TOKENS),
    (lambda x, layer: x @ layer.weight.t(), (nn.Linear(8, 3),), TOKENS),
    (lambda x, layer: layer.weight @ x.transpose(1, 2), (nn.Linear(8, 3),), TOKENS),
    (lambda x, layer: x @ layer.weight[0], (nn.Linear(8, 3),), TOKENS),
    (lambda x: torch.bmm(x, x.transpose(1, 2)), (), TOKENS),
    (lambda x: torch.einsum("bnd,bmd->bnm", x, x), (), TOKENS),
    (lambda x: torch.baddbmm(x[:, :, :5], x, x.transpose(1, 2), alpha=0.5), (), TOKENS),
    (lambda x, layer: torch.addmm(layer.bias, x[0], layer.weight.t(), alpha=2), (nn.Linear(8, 3),), TOKENS),
    (lambda x, layer: torch.addmm(x[0, :, :3], x[0], layer.weight.t()), (nn.Linear(8, 3),), TOKENS),
    (lambda x, layer: layer(x, x[:, :2]), (nn.Bilinear(8, 2, 3),), (2, 8)),
]


@pytest.mark.parametrize(("function", "parts", "shape"), PRODUCTS)
def test_linear_layers_and_products(function, parts, shape):
    assert_read(Model(function, *parts), torch.randn(shape))


@pytest.mark.parametrize(
    "more", [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": "float"}, {"attn_mask": "bool"}]
)
def test_attention(more):
    def attend(x, mask):
        given = (
            {"attn_mask": mask if more["attn_mask"] == "float" else mask > -1}
            if "attn_mask" in more
            else more
        )
        return F.scaled_dot_product_attention(x, x * 0.7, x.relu(), **given)

    assert_read(Model(attend, mask=torch.randn(7, 7)), torch.randn(2, 3, 7, 4))


def test_attention_modules():
    for need in (False, True):
        attend = Model(
            lambda x, layer, need=need: layer(x, x, x, need_weights=need),
            nn.MultiheadAttention(8, 2, batch_first=True),
        )
        assert_read(attend.eval(), torch.randn(TOKENS))
    assert_read(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), torch.randn(TOKENS))
