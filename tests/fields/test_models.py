"""Receptive fields of known models: published values, a forward recurrence, and NaN planted in the model."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import archcost
from archcost.analysis.receptive import verify_fields
from archcost.models.vision import names, task_of


@pytest.fixture(autouse=True)
def _same_everywhere():
    """One seed; and one thread, since small kernels on several wait for one another most of the time."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lively(model):
    """The model in eval mode, with no weights so small that they hide what a branch sees.

    New models scale residual branches by 0 or 1e-6, and NaN is told from such zeros by a second pass.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.abs().max() < 1e-3:
                parameter.normal_(0.1, 0.3)
    return model.eval()


def layers_of(analysis):
    """The last map, as None; the first layer with a window; and those with the largest window that some
    axis does not cut, and the largest of half the input at most."""
    fields = analysis.fields
    inside = [
        field
        for field in fields.by_name.values()
        if len(field.position) == len(field.input_size)
        and all(field.stride)
        and any(1 < size < whole for size, whole in zip(field.size, field.input_size, strict=True))
        and not field.calls
    ]
    half = [f for f in inside if all(2 * s <= n for s, n in zip(f.size, f.input_size, strict=True))]
    found = [*inside[:1], *(max(some, key=lambda field: field.size) for some in (inside, half) if some)]
    last = [] if fields.network is None else [fields.network.layer]
    # The network's map may be an operation's, which is asked for by leaving the layer out.
    names = [None if name in last else name for name in (*last, *(field.layer for field in found))]
    return list(dict.fromkeys(names))


def at_three(analysis, layer):
    """A layer at its centre, a corner and an edge."""
    centre = analysis.fields.select(layer)
    edge = (-1, *centre.position[1:])
    return [centre, *(analysis.fields.select(layer, place) for place in ((0,) * len(edge), edge))]


def spots(analysis):
    return [field for layer in layers_of(analysis) for field in at_three(analysis, layer)]


def bear(model, inputs, claims=spots):
    """NaN planted in the model agrees with every claim; how many runs had to stay clean."""
    analysis = archcost.analyze(lively(model), inputs)
    assert analysis.fields.opaque == ()
    found = claims(analysis)
    witnesses = verify_fields(analysis, found, inputs)
    wrong = [
        f"{field.layer} {field.position}: {witness}"
        for field, witness in zip(found, witnesses, strict=True)
        if not witness.agrees
    ]
    assert not wrong, wrong
    return sum(not run.must_reach for witness in witnesses for run in witness.runs)


def image(side, channels=3):
    return torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(1))


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


# NaN planted in small networks of every kind


def conv(inputs, outputs, kernel=3, dims=2, **options):
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    return kind(inputs, outputs, kernel, padding="same" if not options else 0, **options)


class UNet(nn.Module):
    """Two levels; up by transposed convolutions, after which the skips are cropped as in the paper."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(4, 4, 2, 2), nn.ConvTranspose2d(4, 4, 3, 2, 1, 1)])
        self.merge = nn.ModuleList([nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 3)])

    def forward(self, x):
        one = self.down[0](x).relu()
        two = self.down[1](F.max_pool2d(one, 2)).relu()
        x = self.down[2](F.max_pool2d(two, 2)).relu()
        for skip, up, merge in zip((two, one), self.up, self.merge, strict=True):
            x = up(x)
            height, width = ((a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
            skip = skip[:, :, height : height + x.shape[2], width : width + x.shape[3]]
            x = merge(torch.cat([skip, x], 1)).relu()
        return x


class BilinearUNet(nn.Module):
    """Up by interpolation, which is padded to the size of the skip."""

    def __init__(self, corners):
        super().__init__()
        self.down = nn.ModuleList([conv(2, 4), conv(4, 4), conv(4, 4)])
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=corners)
        self.merge = nn.ModuleList([conv(8, 4), conv(8, 4)])

    def forward(self, x):
        one = self.down[0](x).relu()
        two = self.down[1](F.max_pool2d(one, 2)).relu()
        x = self.down[2](F.max_pool2d(two, 2)).relu()
        for skip, merge in zip((two, one), self.merge, strict=True):
            x = self.up(x)
            height, width = (a - b for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
            x = F.pad(x, [width // 2, width - width // 2, height // 2, height - height // 2])
            x = merge(torch.cat([skip, x], 1)).relu()
        return x


class UNet3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.merge = conv(1, 2, dims=3), conv(2, 2, dims=3), conv(4, 2, dims=3)
        self.up = nn.ConvTranspose3d(2, 2, 2, 2)

    def forward(self, x):
        skip = self.one(x).relu()
        return self.merge(torch.cat([skip, self.up(self.two(F.max_pool3d(skip, 2)))], 1))


class Pyramid(nn.Module):
    """A feature pyramid network: nearest upsampling to the size of the finer map, summed."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(2 if i == 0 else 4, 4, 3, 2, 1) for i in range(3)])
        self.side = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(3)])
        self.smooth = nn.ModuleList([conv(4, 4) for _ in range(3)])

    def forward(self, x):
        maps = []
        for down in self.down:
            x = down(x).relu()
            maps.append(x)
        top, found = None, []
        for x, side, smooth in list(zip(maps, self.side, self.smooth, strict=True))[::-1]:
            x = side(x)
            if top is not None:
                x = x + F.interpolate(top, size=x.shape[2:], mode="nearest")
            top = x
            found.append(smooth(x))
        return found[::-1]


class WaveNet(nn.Module):
    """Causal dilated convolutions, gated, with residual and skip paths."""

    def __init__(self):
        super().__init__()
        self.gates = nn.ModuleList([nn.Conv1d(2, 4, 2, dilation=2**i) for i in range(5)])
        self.out = nn.ModuleList([nn.Conv1d(2, 2, 1) for _ in range(5)])

    def forward(self, x):
        skips = 0
        for gate, out in zip(self.gates, self.out, strict=True):
            new, door = gate(F.pad(x, (gate.dilation[0], 0))).chunk(2, 1)
            new = out(new.tanh() * door.sigmoid())
            skips, x = skips + new, x + new
        return skips


def super_resolution():
    shuffle = [conv(4, 16), nn.PixelShuffle(2), conv(4, 9), nn.PixelShuffle(3)]
    return nn.Sequential(conv(2, 4), nn.ReLU(), *shuffle, conv(1, 1))


SMALL = {
    "U-Net, transposed convolutions and crops": (UNet, (1, 2, 46, 38), 8),
    "U-Net, bilinear and pads": (lambda: BilinearUNet(False), (1, 2, 23, 30), 8),
    "U-Net, bilinear on the corners": (lambda: BilinearUNet(True), (1, 2, 23, 30), 8),
    "U-Net in three dimensions": (UNet3d, (1, 1, 12, 16, 14), 5),
    "feature pyramid": (Pyramid, (1, 2, 45, 38), 8),
    "gated dilated convolutions": (WaveNet, (1, 2, 60), 20),
    "super-resolution by pixel shuffle": (super_resolution, (1, 2, 11, 9), 8),
}


@pytest.mark.parametrize("name", SMALL)
def test_nan_planted_in_a_small_network_agrees_at_many_positions(name):
    make, size, many = SMALL[name]
    draw = torch.Generator().manual_seed(2)

    def claims(analysis):
        extent = analysis.fields.replay.outputs[0][0].shape[2:]
        places = [[int(torch.randint(n, (), generator=draw)) for n in extent] for _ in range(many)]
        return [*spots(analysis), *(analysis.fields.at("", place) for place in places)]

    assert bear(make(), torch.rand(size), claims) > many


def test_every_output_of_a_pyramid_has_its_own_field():
    model = Pyramid()
    analysis = archcost.analyze(model, input_size=(1, 2, 72, 72))
    fields = analysis.fields
    # Top: 3, 7, 15 by the recurrence, then 3 more positions of stride 8. Below, the coarser map's 15
    # pixels, and 8 further where a window of 3 lies across two of its positions; never within one.
    assert [fields[f"smooth.{i}"].sizes[0] for i in (2, 1, 0)] == [(31,), (23,), (15, 23)]
    claims = [fields.at(f"smooth.{i}", (at, at + 1)) for i in range(3) for at in range(4)]
    assert all(witness.agrees for witness in verify_fields(analysis, claims))


# NaN planted in known models

# Of every family the smallest, at the side of a square image that it takes; large ones wait for the
# exhaustive tier.
SMALLEST = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "mnasnet0_5": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 96,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_0": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 64,
    "vit_b_32": 224,
    "deeplabv3_mobilenet_v3_large": 96,
    "lraspp_mobilenet_v3_large": 96,
}
LARGER = [
    name for name in names() if task_of(name) in ("classification", "segmentation") and name not in SMALLEST
]


def check_vision(name):
    model = archcost.load(f"torchvision:{name}").model
    side = SMALLEST.get(name) or {"maxvit_t": 224}.get(name) or getattr(model, "image_size", 64)
    assert bear(model, image(side)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_nan_planted_in_a_model_of_every_family_agrees(name):
    check_vision(name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", LARGER)
def test_nan_planted_in_every_other_model_agrees(name):
    check_vision(name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["mc3_18", "r2plus1d_18", "r3d_18"])
def test_nan_planted_in_a_video_model_agrees(name):
    assert bear(archcost.load(f"torchvision:{name}").model, torch.rand(1, 3, 8, 32, 32)) >= 3


# Detection models and int8 ones are built with values, which takes seconds each; the relative positions
# of mvit_v2_s take half a minute.
QUICK = [name for name in names() if task_of(name) not in ("detection", "quantization")]
QUICK.remove("mvit_v2_s")
QUICK += ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large", "quantized_resnet18"]


def check_known(name):
    fields = archcost.analyze(f"torchvision:{name}").fields
    assert fields.opaque == ()
    assert len(fields.by_name) > 10
    # Untrained, a detection model may find nothing, and give what no pixel led to.
    assert fields.network is not None or task_of(name) == "detection"


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_no_operation_of_a_torchvision_model_is_without_a_rule(name):
    check_known(name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in names() if name not in QUICK])
def test_no_operation_of_a_slower_model_is_without_a_rule(name):
    check_known(name)


# timm: models of other kinds. An image size where one can be chosen, else their own.
FEW_OF_TIMM = {
    "coat_lite_tiny": 224,
    "convnextv2_atto": 64,
    "edgenext_xx_small": 64,
    "efficientvit_b0": 64,
    "fastvit_t8": 64,
    "ghostnet_100": 64,
    "hrnet_w18_small": 64,
    "mixer_s32_224": 224,
    "mobilevitv2_050": 64,
    "poolformer_s12": 64,
    "repvgg_a0": 64,
    "resnet26d": 64,
    "sequencer2d_s": 224,
    "xcit_nano_12_p16_224": 64,
}
MORE_OF_TIMM = {
    "botnet26t_256": 256,
    "halonet26t": 256,
    "cait_xxs24_224": 224,
    "coatnet_0_rw_224": 224,
    "convit_tiny": 224,
    "convmixer_768_32": 64,
    "crossvit_9_240": 240,
    "cspdarknet53": 64,
    "davit_tiny": 224,
    "deit_tiny_patch16_224": 224,
    "dla34": 64,
    "dla60_res2net": 64,
    "dpn68": 64,
    "ese_vovnet19b_slim": 64,
    "eva02_tiny_patch14_224": 224,
    "focalnet_tiny_srf": 224,
    "gcvit_xxtiny": 224,
    "ghostnetv2_100": 64,
    "hiera_tiny_224": 224,
    "inception_next_atto": 64,
    "inception_v4": 96,
    "lambda_resnet26t": 256,
    "legacy_xception": 96,
    "levit_128s": 224,
    "maxvit_pico_rw_256": 256,
    "mixnet_s": 64,
    "mobilevit_xxs": 64,
    "mvitv2_tiny": 224,
    "nest_tiny": 224,
    "nextvit_small": 64,
    "nfnet_f0": 64,
    "pvt_v2_b0": 64,
    "regnetz_b16": 64,
    "res2net50_14w_8s": 64,
    "resmlp_12_224": 224,
    "resnest14d": 64,
    "resnetv2_50x1_bit": 64,
    "skresnet18": 64,
    "swinv2_cr_tiny_ns_224": 224,
    "tf_efficientnet_b0": 64,
    "tnt_s_patch16_224": 224,
    "twins_svt_small": 224,
    "vgg11_bn": 64,
    "volo_d1_224": 224,
    "xception41": 96,
}


def few(analysis):
    """A layer whose window is smaller than the input, at three positions, and the output."""
    return [*at_three(analysis, layers_of(analysis)[-1]), analysis.fields[""]]


def check_timm(name, side):
    import timm

    assert bear(timm.create_model(name, pretrained=False), image(side), few) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), FEW_OF_TIMM.items())
def test_nan_planted_in_a_timm_model_agrees(name, side):
    check_timm(name, side)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "side"), MORE_OF_TIMM.items())
def test_nan_planted_in_more_timm_models_agrees(name, side):
    check_timm(name, side)


# The mode that a model is in


@pytest.mark.parametrize(("name", "size"), [("resnet50", 427), ("resnet101", 971), ("wide_resnet50_2", 427)])
@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_the_same_in_both_modes(name, size, training):
    model = torchvision.models.get_model(name).train(training)
    analysis = archcost.analyze(model, input_size=(1, 3, 224, 224))
    network = archcost.receptive_field(analysis)
    assert network.layer == "layer4.2.relu"
    assert network.call == 2  # the last one
    assert network.is_global is training
    assert (network.local.size, network.local.stride) == ((size, size), (32, 32))
    layer = archcost.receptive_field(analysis, layer="layer4.2.relu")
    assert layer.local.size == (size, size)  # the union of its calls
    assert layer.calls[2].local.size == (size, size)
    assert layer.calls[0].local.size == (size - 64, size - 64)


class Res2Block(nn.Module):
    """One activation, called on maps of 2 and of 8 channels, the last time on what sees most."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 2, 3, padding=1, bias=False), nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.c = nn.Conv2d(8, 2, 3, padding=1, bias=False)
        self.norm, self.act = nn.BatchNorm2d(2), nn.ReLU()

    def forward(self, x):
        x = self.act(self.norm(self.a(x)))
        x = self.act(self.b(x))
        return self.act(self.norm(self.c(x)))


@pytest.mark.parametrize("training", [True, False])
def test_the_share_of_padding_is_that_of_all_calls(training):
    fields = archcost.analyze(Res2Block().train(training), input_size=(1, 3, 16, 16)).fields
    assert fields.network.local.size == fields["act"].local.size == (7, 7)
    outside = [1 - (1 - sum(range(1, r + 1)) * 2 / (16 * (2 * r + 1))) ** 2 for r in (1, 2, 3)]
    assert fields.padding_share("act") == pytest.approx(sum(outside) / 3)
