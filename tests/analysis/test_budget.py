"""A budget names the limit that breaks, by how much, and the layers that cost most; an unknown is never 0."""

import pytest
import torch
from torch import nn

import archcost
from archcost import Budget, InputError


@pytest.fixture(scope="module")
def resnet():
    return archcost.analyze("torchvision:resnet18")


def said(analysis, **limits):
    return {breach.limit: breach for breach in Budget(**limits).breaches(analysis)}


def test_limits_that_are_kept_exactly_are_no_breach(resnet):
    total = resnet.total
    assert not said(
        resnet,
        max_params=total.params,
        max_macs=total.macs,
        max_flops=total.flops,
        max_peak_memory=total.peak_memory_bytes,
        max_kept_for_backward=total.kept_for_backward_bytes,
        max_depth=total.depth,
        min_receptive_field=(435, 435),
    )


def test_each_limit_one_below_breaks_and_says_by_how_much(resnet):
    total = resnet.total
    found = said(
        resnet,
        max_params=total.params - 1,
        max_macs=total.macs - 1,
        max_flops=total.flops - 1,
        max_peak_memory=total.peak_memory_bytes - 1,
        max_kept_for_backward=total.kept_for_backward_bytes - 1,
        max_depth=total.depth - 1,
        min_receptive_field=(435, 436),
    )
    assert list(found) == [
        *("max_params", "max_macs", "max_flops", "max_peak_memory", "max_kept_for_backward", "max_depth"),
        "min_receptive_field",
    ]
    assert found["max_params"].text == "11,689,512 parameters, 1 (<0.1 %) above 11,689,511"
    assert found["min_receptive_field"].text == "435 pixels at layer4.1.relu, 0x1 below 435x436"


def test_a_breach_names_the_lines_that_cost_most_with_the_layers_that_each_builds(resnet):
    (breach,) = Budget(max_params="11M").breaches(resnet)
    (line,) = breach.costliest  # all else is below 5 %
    convolutions = [layer for layer in resnet.layers if "kernel_size=(3, 3)" in layer.details]
    assert line.others + 1 == len(convolutions) == 16
    assert line.value == sum(layer.params for layer in convolutions)
    text = str(breach).splitlines()
    assert text[0] == "max_params: 11,689,512 parameters, 689,512 (6.3 %) above 11,000,000"
    assert text[1].startswith(
        "    layer4.0.conv2 and 15 more (Conv2d): 10,985,472, built at torchvision/models/resnet.py:"
    )
    assert len(text) == 2


def test_layers_whose_construction_was_not_recorded_stand_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3))
    (breach,) = Budget(max_params=1).breaches(archcost.analyze(model, input_size=(1, 3, 8, 8)))
    assert [(layer.name, layer.value, layer.others) for layer in breach.costliest] == [
        ("1", 1168, 0),
        ("0", 224, 0),
    ]
    assert str(breach).splitlines()[1].endswith("(class Conv2d)")


def test_an_unknown_count_does_not_keep_a_limit():
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    analysis = archcost.analyze(Unknown(), torch.randn(4, 4))
    assert "linalg" in said(analysis, max_macs="1G")["max_macs"].text
    assert "cannot be held" in said(analysis, max_flops="1G")["max_flops"].text
    assert not said(analysis, max_params=0)


def test_a_model_without_a_feature_map_has_no_receptive_field():
    analysis = archcost.analyze(nn.Linear(4, 4), input_size=(2, 4))
    assert "no spatial feature map" in said(analysis, min_receptive_field=3)["min_receptive_field"].text


def test_a_global_field_counts_as_the_whole_input_and_as_its_local_size():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 5)

        def forward(self, x):
            x = self.conv(x)
            return x * x.mean((2, 3), keepdim=True)

    analysis = archcost.analyze(Gated(), input_size=(1, 3, 16, 16))
    assert analysis.fields.network.is_global
    assert not said(analysis, min_receptive_field=16)
    assert said(analysis, min_receptive_field=17)
    wide = nn.Sequential(*(nn.Conv2d(3, 3, 5, padding=2) for _ in range(5)), Gated())
    assert not said(archcost.analyze(wide, input_size=(1, 3, 16, 16)), min_receptive_field=25)


def test_one_number_stands_for_every_axis_and_a_wrong_number_of_axes_is_refused(resnet):
    assert not said(resnet, min_receptive_field="435")
    with pytest.raises(InputError, match="3 numbers for an input of 2 spatial axes"):
        said(resnet, min_receptive_field=(1, 2, 3))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_parms": 1}, "here: unknown limit 'max_parms'; did you mean max_params?"),
        ({"colour": 1}, "here: unknown limit 'colour'; limits are max_params, max_macs, "),
        ({"max_macs": "26 millions"}, "here: max_macs: cannot read '26 millions'; write '4.2G' or a number"),
        ({"max_peak_memory": "12 apples"}, "here: max_peak_memory: cannot read '12 apples'; write '12 MB'"),
        ({"min_receptive_field": [3, "x"]}, "here: min_receptive_field: cannot read 'x'"),
        ({"max_depth": [1]}, "here: max_depth: cannot read [1]"),
    ],
)
def test_a_limit_that_cannot_be_read_is_refused_by_name(limits, message):
    with pytest.raises(InputError) as raised:
        Budget.of(limits, "here: ")
    assert str(raised.value).startswith(message)
