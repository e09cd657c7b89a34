"""Convolution, batch normalisation and ReLU in a row are found, and folded exactly."""

from math import inf

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

import archcost
from archcost.errors import RewriteError
from archcost.nn.absorbed import Absorbed
from archcost.nn.folding import FusedBlock, folded, fused_blocks


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


def found(model, *inputs):
    return fused_blocks(archcost.analyze(model.eval(), inputs or torch.zeros(1, 3, 64, 64)).trace)


RELU, RELU6 = (0.0, inf), (0.0, 6.0)


def test_chains_of_real_models():
    chain = found(torchvision.models.mobilenet_v2(weights=None))
    assert len(chain) == 52
    assert chain["features.0.0"] == FusedBlock("features.0.0", "features.0.1", RELU6, "features.0.2")
    assert chain["features.1.conv.1"] == FusedBlock("features.1.conv.1", "features.1.conv.2", None, None)

    chain = found(torchvision.models.resnet18(weights=None))
    assert len(chain) == 20
    assert chain["conv1"] == FusedBlock("conv1", "bn1", RELU, "relu")
    # The block's one ReLU has a second call, after the addition.
    assert chain["layer1.0.conv1"] == FusedBlock("layer1.0.conv1", "layer1.0.bn1", RELU, None)
    assert chain["layer1.0.conv2"] == FusedBlock("layer1.0.conv2", "layer1.0.bn2", None, None)


@pytest.mark.slow
def test_chains_of_more_models():
    chain = found(torchvision.models.vgg11(weights=None))
    assert chain["features.0"] == FusedBlock("features.0", None, RELU, "features.1")
    assert len(chain) == 8

    # F.relu is a call of the parent's; the auxiliary heads do not run in eval mode.
    chain = found(torchvision.models.googlenet(weights=None, init_weights=False))
    assert chain["conv1.conv"] == FusedBlock("conv1.conv", "conv1.bn", RELU, None)
    assert len(chain) == 57

    # Normalisation comes before convolution: only the stem and the bottlenecks' first halves are chains.
    chain = found(torchvision.models.densenet121(weights=None))
    assert chain["features.conv0"] == FusedBlock("features.conv0", "features.norm0", RELU, "features.relu0")
    assert len(chain) == 1 + 58
    assert chain["features.denseblock1.denselayer1.conv1"].clamp == RELU
    assert "features.denseblock1.denselayer1.conv2" not in chain


class Net(nn.Module):
    """One convolution, and as a subclass says."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.other = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.act(self.norm(self.conv(x)))


class ReadTwice(Net):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Returned(Net):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y), y


class ReadBetween(Net):
    def forward(self, x):
        y = self.norm(self.conv(x))
        return F.relu(y) * y


class InPlace(Net):
    def forward(self, x):
        y = self.norm(self.conv(x))
        z = F.relu_(y)
        return y + z


class NormTwice(Net):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.norm(self.other(x))


class ConvTwice(Net):
    def forward(self, x):
        y = self.norm(self.conv(x)) + self.norm(self.conv(x * 2))
        return y + self.act(self.other(x)) - F.relu6(self.other(x))


class OneCallOnly(Net):
    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(x)


class Part(Net):
    def forward(self, x):
        return self.conv(x)[:, :, 1:].relu()


class Functional(Net):
    def forward(self, x):
        return F.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Net, FusedBlock("conv", "norm", RELU, "act")),
        (ReadTwice, None),
        (Returned, None),
        (ReadBetween, FusedBlock("conv", "norm", None, None)),
        (InPlace, FusedBlock("conv", "norm", RELU, None)),
        (NormTwice, None),
        (ConvTwice, FusedBlock("conv", "norm", None, None)),
        (OneCallOnly, None),
        (Part, None),
        (Functional, None),
    ],
)
def test_only_what_every_call_does_alone_is_a_chain(kind, expected):
    got = found(kind())
    assert got.get("conv") == expected
    assert "other" not in got


def test_in_training_mode_statistics_are_of_the_batch():
    trace = archcost.analyze(Net().train(), torch.zeros(2, 3, 8, 8)).trace
    assert fused_blocks(trace) == {}


@pytest.mark.parametrize(
    ("act", "clamp"),
    [
        (nn.Hardtanh(-2, 3), (-2.0, 3.0)),
        (nn.Hardtanh(), (-1.0, 1.0)),
        (nn.ReLU6(inplace=True), RELU6),
        (nn.ReLU(), RELU),
        (nn.LeakyReLU(), None),
        (nn.Threshold(0.1, 20), None),
    ],
)
def test_limits_of_activations(act, clamp):
    got = found(nn.Sequential(nn.Conv2d(3, 4, 3), act))
    assert got == ({"0": FusedBlock("0", None, clamp, "1")} if clamp else {})


def test_a_shared_chain_has_all_its_names():
    block = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    assert found(nn.Sequential(block, block)) == {"0.0": FusedBlock("0.0", "0.1", None, None)}


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
