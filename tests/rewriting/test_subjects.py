"""Every convolution of a model as a rule sees it: what it computes in every call, and why it may stay."""

import pytest
import torch
import torchvision
from timm.layers import Conv2dSame, StdConv2d
from torch import nn

import archcost
from archcost.merging.chain import Activation, Conv, Kept, chain_field, chained, resized
from archcost.rewriting.plan.building import built
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.survey.survey import survey_of
from archcost.spec import ConvSpec


def subjects(model, inputs):
    analysis = archcost.analyze(model, inputs)
    return survey_of(analysis).subjects


class Twice(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.same = layer

    def forward(self, x):
        return self.same(self.layer(x))


@pytest.mark.parametrize(
    "name", ["resnet18", "googlenet", "mobilenet_v2", "densenet121", "shufflenet_v2_x0_5"]
)
def test_every_convolution_of_a_network_is_one_with_its_macs(name):
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None).eval()
    analysis = archcost.analyze(model, input_size=(2, 3, 96, 96))
    found = survey_of(analysis)
    rows = {row.name: row for row in analysis.layers if row.type_name == "Conv2d"}
    assert {one.name for one in found} == set(rows)
    for one in found:
        assert one.refusal is None or "aux" in one.name, (one.name, one.refusal)
        assert one.macs == rows[one.name].macs
        assert not one.specs or one.spec.params == rows[one.name].params


@pytest.mark.parametrize(
    ("layer", "padding", "mode"),
    [
        (nn.Conv2d(4, 4, 5, padding=2), ((2, 2), (2, 2)), "zeros"),
        (nn.Conv2d(4, 4, (5, 4), padding="same"), ((2, 2), (1, 2)), "zeros"),
        (nn.Conv2d(4, 4, 5, padding=(1, 2), padding_mode="reflect"), ((1, 1), (2, 2)), "reflect"),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, padding_mode="circular"), ((2, 2), (2, 2)), "circular"),
    ],
)
def test_padding_is_the_layers_own(layer, padding, mode):
    one = subjects(nn.Sequential(layer), torch.rand(2, 4, 9, 11))["0"]
    assert (one.spec.padding, one.spec.padding_mode, one.spec.input_size) == (padding, mode, (9, 11))
    assert one.spec.batch == 2


def test_a_layer_called_twice_has_both_calls_and_both_names():
    one = subjects(Twice(nn.Conv2d(4, 4, 3, stride=2)), torch.rand(1, 4, 33, 33))["layer"]
    assert one.names == ("layer", "same")
    assert [spec.input_size for spec in one.specs] == [(33, 33), (16, 16)]


def test_an_input_without_a_batch_is_one_image():
    one = subjects(nn.Sequential(nn.Conv1d(4, 4, 3)), torch.rand(4, 20))["0"]
    assert (one.spec.batch, one.spec.input_size) == (1, (20,))


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return nn.functional.conv2d(self.used(x), self.used.weight.new_ones(4, 4, 1, 1))


class Borrowed(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.own(x) + nn.functional.conv2d(x, self.own.weight)


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        (Idle(), "idle", "it is not called with these inputs"),
        (Borrowed(), "own", "its parameters are also read by the model itself"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))), "0", "parametrized"),
        (nn.Sequential(Conv2dSame(3, 4, 3, stride=2)), "0", "its padding depends on the size of its input"),
        (nn.Sequential(StdConv2d(3, 4, 3)), "0", "is not one of torch.nn's convolutions"),
    ],
)
def test_a_reason_is_given(model, name, words):
    assert words in subjects(model.eval(), torch.rand(1, 3, 64, 64))[name].refusal.reason


def test_same_padding_of_stride_one_is_known_exactly():
    layer = Conv2dSame(3, 4, 4)
    one = subjects(nn.Sequential(layer).eval(), torch.rand(1, 3, 13, 16))["0"]
    assert one.refusal is None
    assert one.spec.padding == ((1, 2), (1, 2))
    made = built((Conv(one.spec),), layer, [(layer.weight, layer.bias)], {})
    for size in (5, 8, 13):
        x = torch.rand(1, 3, size, size + 3)
        torch.testing.assert_close(made(x), layer(x))


def test_a_chain_knows_its_sizes_costs_and_field():
    first = ConvSpec(3, 8, 3, stride=2, padding=3, bias=False, input_size=(224, 224))
    chain = (*chained(first, {"out_channels": 64, "kernel_size": 3}), Activation())
    last = chain[1].spec
    assert last.output_size == (112, 112)
    assert chain_field(chain).size == (7, 7)
    replacement = Replacement({"stem": chain})
    assert replacement.params == 3 * 8 * 9 + 8 * 64 * 9 + 64
    assert replacement.macs == 114**2 * 216 + 112**2 * 4608
    assert resized(chain, (65, 33), 4)[1].spec.output_size == (33, 17)


def test_layers_are_built_as_the_chain_says():
    pool, old = nn.MaxPool2d(2), nn.Conv2d(4, 6, 3)
    spec = ConvSpec(
        4, 8, (3, 1), padding=((0, 1), (2, 2)), padding_mode="reflect", bias=False, input_size=(9, 9)
    )
    chain = (
        Kept("pool"),
        *chained(spec, {"out_channels": 6, "kernel_size": 1, "groups": 2}),
        Activation("GELU"),
    )
    made = built(chain, old, None, {"pool": pool})
    assert [type(layer).__name__ for layer in made] == [
        "MaxPool2d",
        "ReflectionPad2d",
        "Conv2d",
        "Conv2d",
        "GELU",
    ]
    assert made[0] is pool
    assert (made.in_channels, made.out_channels, made.kernel_size) == (4, 6, (3, 3))
    assert made[3].groups == 2
    assert made(torch.rand(1, 4, 18, 18)).shape == (1, 6, 8, 13)


def test_a_chain_of_nothing_passes_its_input_on():
    assert isinstance(built((), nn.ReLU(), None, {}), nn.Identity)
