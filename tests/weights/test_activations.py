"""New layers with activation functions between them begin as the linear chain, or are refused."""

import copy

import pytest
import torch
from torch import nn

from archcost.errors import RewriteError
from archcost.merging.chain import Activation, Conv
from archcost.merging.compose import apart, composed
from archcost.weights.biases import evened
from archcost.weights.moments import collect
from helpers.chains import conv, drawn, new_layer


@pytest.mark.parametrize("groups", [1, 2])
def test_a_chain_of_full_rank_is_the_layer_again(groups):
    old = nn.Conv2d(4, 6, 3, padding=1, groups=groups)
    size = (9, 9)
    steps = [
        Conv(conv(4, 12, (1, 3), padding=((0, 0), (1, 1)), groups=groups, size=size)),
        Conv(conv(12, 6, (3, 1), padding=0, groups=groups, size=size, bias=True)),
    ]
    steps[0] = Conv(conv(4, 12, (1, 3), padding=((1, 1), (1, 1)), groups=groups, size=size))
    new, pairs = new_layer(old, steps)
    x = torch.randn(2, 4, *size)
    assert torch.allclose(new(x), old(x), atol=2e-5)
    assert pairs[0][1] is None
    assert torch.allclose(pairs[1][1], old.bias.double())


def test_middle_channels_have_weights_of_one_size_on_both_sides():
    specs = [conv(4, 6, 3), conv(6, 6, 3, groups=3), conv(6, 5, 1)]
    kernels = [k * s for k, s in zip(drawn(specs), (1e-3, 10, 100), strict=True)]
    even = evened(kernels, specs)
    assert torch.allclose(composed(even, specs), composed(kernels, specs))
    before = even[-2].flatten(1).norm(dim=1)
    assert torch.allclose(before, even[-1].transpose(0, 1).flatten(1).norm(dim=1))
    norms = [float(k.norm()) for k in even]
    assert max(norms) < 4 * min(norms)


ACTIVATED = [
    Conv(conv(3, 8, 3, padding=2, bias=True, size=(12, 12))),
    Activation("ReLU"),
    Conv(conv(8, 8, 3, bias=True, size=(14, 14))),
    Activation("ReLU"),
    Conv(conv(8, 4, 1, bias=True, size=(12, 12))),
]


@pytest.mark.parametrize("data", [False, True], ids=["without data", "with data"])
def test_activations_between_begin_as_the_linear_chain(data):
    old = nn.Conv2d(3, 4, 5, padding=2)
    x = torch.randn(16, 3, 12, 12) * 2 + 1
    moments = collect(nn.Sequential(old), ["0"], [x])["0"] if data else None
    new, pairs = new_layer(old, ACTIVATED, moments)
    linear = nn.Sequential(*(m for m in new if not isinstance(m, nn.ReLU)))
    y = new(x)
    assert torch.allclose(y, linear(x), atol=1e-3 * float(y.detach().abs().max()))
    assert (new[:2](x) > 0).all()
    assert (new[:4](x) > 0).all()
    flat = nn.Sequential(*(copy.deepcopy(m) for m in linear))
    for one in flat[:-1]:
        nn.init.zeros_(one.bias)
    whole = [apart(w, 1) for w, _ in pairs]
    assert len(whole) == 3
    nn.init.zeros_(flat[-1].bias)
    lost = (y - flat(x)).detach()
    inside = lost.mean((0, 2, 3))
    assert (lost - inside[:, None, None]).abs().max() < 1e-3 * float(y.detach().abs().max())


def test_an_activation_that_cannot_be_passed_is_refused():
    steps = [ACTIVATED[0], Activation("Sigmoid"), *ACTIVATED[2:]]
    with pytest.raises(RewriteError, match="Sigmoid cannot start as a linear chain"):
        new_layer(nn.Conv2d(3, 4, 5, padding=2), steps)


def test_an_activation_behind_a_stage_without_bias_is_refused():
    steps = [Conv(conv(3, 8, 3, padding=2, size=(12, 12))), *ACTIVATED[1:]]
    with pytest.raises(RewriteError, match="stage 1 of its chain needs a bias"):
        new_layer(nn.Conv2d(3, 4, 5, padding=2), steps)


def test_a_chain_about_a_transposed_layer_is_the_layer_again():
    old = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)
    steps = [
        Conv(conv(4, 4, 1, size=(8, 8))),
        Conv(conv(4, 6, 3, stride=2, padding=1, output_padding=1, transposed=True, size=(8, 8), bias=False)),
        Conv(conv(6, 6, 1, size=(16, 16), bias=True)),
    ]
    new, _ = new_layer(old, steps)
    x = torch.randn(2, 4, 8, 8)
    assert torch.allclose(new(x), old(x), atol=1e-5)
