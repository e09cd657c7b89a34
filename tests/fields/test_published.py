"""Receptive fields of known models: published values, and the forward recurrence of Araujo et al."""

import pytest
import torch
from torch import nn

import archcost

# Published fields


def per_axis(field):
    """Size, stride and padding where all axes are alike."""
    (size,), (stride,), (padding,) = (set(field.size), set(field.stride), set(field.padding))
    return size, stride, padding


PUBLISHED = {
    "alexnet": (195, 32, 66),
    "vgg16": (212, 32, 90),
    "resnet18": (435, 32, 217),
    "resnet50": (427, 32, 213),
    "resnet152": (1451, 32, 725),
    "googlenet": (379, 32, 167),
    "inception_v3": (1311, 32, 618),
    "densenet121": (2071, 32, 1021),
    "mobilenet_v2": (491, 32, 245),
    "convnext_tiny": (1688, 32, 828),
    "shufflenet_v2_x1_0": (527, 32, 263),
}
GATED = {"efficientnet_b0": (851, 32, 425), "mobilenet_v3_large": (595, 32, 297)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_field_at_the_last_map_is_the_published_one(name):
    field = archcost.analyze(f"torchvision:{name}").fields.network
    assert not field.is_global
    assert per_axis(field) == PUBLISHED[name]


@pytest.mark.parametrize("name", GATED)
def test_gates_over_the_whole_image_make_it_global_and_are_taken_away_locally(name):
    field = archcost.analyze(f"torchvision:{name}").fields.network
    assert per_axis(field) == (224, 0, 0)
    assert all("avgpool" in why for why in field.because)
    assert per_axis(field.local) == GATED[name]


def test_resnet50_with_its_stride_on_the_1x1_convolutions_sees_483():
    """As in the article by Araujo, Norris and Sim, whose ResNet-50 strides there."""
    from torchvision.models import resnet50

    model = resnet50().eval()
    # The recurrence over the main path, block by block: stem, then 1x1 (stride), 3x3, 1x1.
    path = [(7, 2, 3), (3, 2, 1)]
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
            path += [(1, block.conv1.stride[0], 0), (3, 1, 1), (1, 1, 0)]
    field = archcost.analyze(model, input_size=(1, 3, 224, 224)).fields.network
    assert field.layer == "layer4.2.relu"
    assert per_axis(field) == forward(path) == (483, 32, 241)


def test_googlenet_with_real_5x5_branches_sees_699():
    from torchvision.models import googlenet

    model = googlenet(aux_logits=False, init_weights=False).eval()
    for name, block in model.named_children():
        if name.startswith("inception"):
            old = block.branch3[1].conv
            block.branch3[1].conv = nn.Conv2d(old.in_channels, old.out_channels, 5, padding=2, bias=False)
    field = archcost.analyze(model, input_size=(1, 3, 224, 224)).fields.network
    assert per_axis(field) == (699, 32, 327)


def test_a_segmentation_network_sees_the_same_wherever_its_upsampling_is_exact():
    field = archcost.analyze("torchvision:fcn_resnet50").fields.output
    assert field.sizes == ((451,), (451,))
    assert field.stride == (1, 1)


def test_upsampling_makes_sizes_differ_by_phase():
    field = archcost.analyze(
        "torchvision:lraspp_mobilenet_v3_large", input_size=(1, 3, 512, 512)
    ).fields.output
    assert field.local.sizes == ((675, 691),) * 2
    assert field.size_text() == "all (675-691)"


def test_time_and_space_have_their_own_fields():
    field = archcost.analyze("torchvision:r3d_18").fields.network
    assert (field.size, field.stride, field.padding) == ((109, 219, 219), (8, 16, 16), (54, 109, 109))


def test_ten_layers_of_doubling_dilation_see_1024_steps():
    layers = [nn.Conv1d(4, 4, 2, dilation=2**i) for i in range(10)]
    field = archcost.analyze(nn.Sequential(*layers), input_size=(1, 4, 1100)).fields.network
    assert (field.size, field.stride, field.padding) == ((1024,), (1,), (0,))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "fcn_resnet50", "densenet121"])
def test_sizes_do_not_depend_on_the_size_of_the_input(name):
    found = set()
    for side in (64, 224, 320):
        fields = archcost.analyze(f"torchvision:{name}", input_size=(1, 3, side, side)).fields
        network = fields.network
        assert network.input_size == (side, side)
        layers = {
            (layer, f.local.sizes, f.local.stride, f.local.padding)
            for layer, f in fields.by_name.items()
            if any(f.local.size) and "avgpool" not in layer
        }
        found.add((network.layer, frozenset(layers)))
    assert len(found) == 1


# An account of its own: the forward recurrence of Araujo, Norris and Sim


def forward(layers):
    """(kernel, stride, padding) of layers in a row to size, stride and padding of the whole."""
    size, stride, padding = 1, 1, 0
    for kernel, step, pad in layers:
        size += (kernel - 1) * stride
        padding += pad * stride
        stride *= step
    return size, stride, padding


@pytest.mark.parametrize("seed", range(12))
def test_chains_follow_the_forward_recurrence(seed):
    draw = torch.Generator().manual_seed(seed)

    def one(low, high):
        return int(torch.randint(low, high + 1, (), generator=draw))

    modules, layers = [], []
    for _ in range(one(3, 9)):
        kernel, stride, dilation = one(1, 5), one(1, 2), one(1, 3)
        if one(0, 2):
            padding = one(0, 4)
            modules.append(nn.Conv2d(2, 2, kernel, stride, padding, dilation))
        else:
            dilation, padding = 1, one(0, kernel // 2)
            modules.append(nn.AvgPool2d(kernel, stride, padding))
        layers.append((dilation * (kernel - 1) + 1, stride, padding))
    fields = archcost.analyze(nn.Sequential(*modules), input_size=(1, 2, 700, 700)).fields
    for depth in range(1, len(layers) + 1):
        assert per_axis(fields[str(depth - 1)]) == forward(layers[:depth])


def test_vgg_follows_the_forward_recurrence():
    from torchvision.models import vgg16

    model = vgg16(init_weights=False).eval()
    fields = archcost.analyze(model, input_size=(1, 3, 224, 224)).fields
    layers = []
    for name, module in model.features.named_children():
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d)):
            side, step, pad = (
                x[0] if isinstance(x, tuple) else x
                for x in (module.kernel_size, module.stride, module.padding)
            )
            layers.append((side, step, pad))
        assert per_axis(fields[f"features.{name}"]) == forward(layers)
