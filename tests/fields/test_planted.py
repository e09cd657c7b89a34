"""Receptive fields of known and small models, held against NaN planted in the model."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import archcost
from archcost.analysis.receptive import verify_fields
from archcost.models.vision import names, task_of
from helpers.planted import at_three, bear, image, layers_of, spots

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
