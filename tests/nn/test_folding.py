"""A batch normalisation is folded into a convolution exactly."""

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from archcost.errors import RewriteError
from archcost.nn.absorbed import Absorbed
from archcost.nn.folding import folded


def norm(channels, axes=2, **options):
    made = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[axes - 1](channels, **options).eval()
    for tensor in (made.running_mean, made.running_var, made.weight, made.bias):
        if tensor is not None:
            torch.nn.init.uniform_(tensor, 0.2, 2)
    return made


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("groups", "transposed"), [(1, False), (2, False), (1, True)])
def test_weights_are_those_of_pytorch_and_exact(bias, affine, groups, transposed):
    torch.manual_seed(0)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv, after = kind(4, 6, 3, groups=groups, bias=bias), norm(6, affine=affine)
    before = conv.weight.detach().clone()
    weight, shift = folded(conv.weight, conv.bias, after, transposed=transposed, groups=groups)
    numbers = (after.running_mean, after.running_var, after.eps, after.weight, after.bias)
    theirs = fuse_conv_bn_weights(conv.weight, conv.bias, *numbers, transpose=transposed)
    for ours, other in zip((weight, shift), theirs, strict=True):
        assert torch.allclose(ours, other, rtol=1e-5, atol=1e-6)
    wide = [None if one is None else one.double() for one in (conv.weight, conv.bias)]
    mean, var, eps, *affinity = numbers
    last = [None if one is None else one.double() for one in affinity]
    exact = fuse_conv_bn_weights(*wide, mean.double(), var.double(), eps, *last, transpose=transposed)
    assert torch.equal(weight, exact[0].float())
    assert torch.equal(conv.weight, before)
    assert not weight.requires_grad


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_convolution_does_what_two_layers_did(axes, groups, transposed):
    torch.manual_seed(axes)
    kinds = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
    kind = (kinds if transposed else [nn.Conv1d, nn.Conv2d, nn.Conv3d])[axes - 1]
    conv, after = kind(4, 8, 3, groups=groups, stride=2).double(), norm(8, axes).double()
    x = torch.randn(2, 4, *(5,) * axes, dtype=torch.float64)
    expected = after(conv(x))
    weight, bias = folded(conv.weight, conv.bias, after, transposed=transposed, groups=groups)
    conv.load_state_dict({"weight": weight, "bias": bias})
    assert torch.allclose(conv(x), expected, rtol=1e-12, atol=1e-12)


def test_what_is_absorbed_keeps_its_state_and_can_do_it_again():
    plain, x = norm(4), torch.randn(2, 4, 3, 3)
    taken = Absorbed(plain)
    assert list(taken.state_dict()) == list(plain.state_dict())
    assert taken.state_dict()._metadata == plain.state_dict()._metadata
    assert taken(x) is x
    assert torch.equal(taken.normalised(x), plain(x))
    taken.train()
    taken.normalised(x)
    assert plain.num_batches_tracked == 1
    for other in (nn.SyncBatchNorm(4), nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(1, 4)):
        with pytest.raises(RewriteError, match="cannot be absorbed: it is no plain BatchNorm1d, 2d or 3d"):
            Absorbed(other)
