"""The 44 convolutions of `paths.py`: every kind of layer that convolutional networks have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from archcost import ConvSpec

__all__ = ["LAYERS", "Layer"]


@dataclass(frozen=True)
class Layer:
    group: str
    name: str
    spec: ConvSpec
    """For a batch of one."""

    def tensors(self, batch: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        spec = self.spec
        shape = (spec.out_channels, spec.in_channels // spec.groups, *spec.kernel_size)
        x = torch.randn(batch, spec.in_channels, *spec.input_size, generator=generator)
        return x, torch.randn(shape, generator=generator) / math.prod(shape[1:]) ** 0.5


def layer(
    group: str,
    name: str,
    ins: int,
    size: int | tuple[int, ...],
    outs: int,
    taps: int | tuple[int, ...],
    *,
    stride: int = 1,
    padding: int | tuple[int, ...] | None = None,
    groups: int = 1,
    dilation: int = 1,
    axes: int = 2,
) -> Layer:
    """Padded so that stride 1 keeps the size, where nothing else is said."""
    size = (size,) * axes if isinstance(size, int) else size
    taps = (taps,) * axes if isinstance(taps, int) else taps
    if padding is None:
        padding = tuple(k // 2 for k in taps)
    spec = ConvSpec(
        in_channels=ins,
        out_channels=outs,
        kernel_size=taps,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=False,
        input_size=size,
    )
    return Layer(group, name, spec)


def depthwise(group: str, name: str, channels: int, size: int, taps: int) -> Layer:
    return layer(group, name, channels, size, channels, taps, groups=channels)


VGG, RESNET, FIVE, SEVEN = "VGG-16 3x3", "ResNet-50 3x3", "dense 5x5", "1x7 and 7x1"
LARGE, SMALL = "depthwise 27 to 31", "depthwise 3 to 7"
LONG, SHORT = "conv1d, 31 to 512 taps", "conv1d, 2 to 5 taps"
POINTWISE, STRIDED, OTHER = "1x1", "strided", "other 3x3"

LAYERS = [
    layer(OTHER, "vgg1_1", 3, 224, 64, 3),
    layer(VGG, "vgg1_2", 64, 224, 64, 3),
    layer(VGG, "vgg2_1", 64, 112, 128, 3),
    layer(VGG, "vgg2_2", 128, 112, 128, 3),
    layer(VGG, "vgg3_1", 128, 56, 256, 3),
    layer(VGG, "vgg3_2", 256, 56, 256, 3),
    layer(VGG, "vgg4_1", 256, 28, 512, 3),
    layer(VGG, "vgg4_2", 512, 28, 512, 3),
    layer(VGG, "vgg5_x", 512, 14, 512, 3),
    layer(STRIDED, "r50_stem7x7s2", 3, 224, 64, 7, stride=2),
    layer(RESNET, "r50_64@56", 64, 56, 64, 3),
    layer(RESNET, "r50_128@28", 128, 28, 128, 3),
    layer(RESNET, "r50_256@14", 256, 14, 256, 3),
    layer(RESNET, "r50_512@7", 512, 7, 512, 3),
    layer(STRIDED, "r50_128@56s2", 128, 56, 128, 3, stride=2),
    layer(STRIDED, "r50_256@28s2", 256, 28, 256, 3, stride=2),
    layer(POINTWISE, "r50_64-256@56", 64, 56, 256, 1),
    layer(POINTWISE, "r50_256-64@56", 256, 56, 64, 1),
    layer(POINTWISE, "r50_1024-256@14", 1024, 14, 256, 1),
    layer(POINTWISE, "r50_512-2048@7", 512, 7, 2048, 1),
    layer(STRIDED, "alex1_11x11s4", 3, 224, 64, 11, stride=4, padding=2),
    layer(FIVE, "alex2", 64, 27, 192, 5),
    layer(OTHER, "alex3", 192, 13, 384, 3),
    layer(FIVE, "goog3b", 32, 28, 96, 5),
    layer(FIVE, "goog4", 32, 14, 128, 5),
    layer(FIVE, "goog5b", 48, 7, 128, 5),
    layer(FIVE, "incv3", 48, 35, 64, 5),
    layer(SEVEN, "incv3_1x7", 128, 17, 128, (1, 7)),
    layer(SEVEN, "incv3_7x1", 192, 17, 192, (7, 1)),
    depthwise(SMALL, "eff_dw5_240@28", 240, 28, 5),
    depthwise(SMALL, "eff_dw5_672@14", 672, 14, 5),
    depthwise(SMALL, "cnx_dw7_96@56", 96, 56, 7),
    depthwise(SMALL, "cnx_dw7_192@28", 192, 28, 7),
    depthwise(SMALL, "cnx_dw7_384@14", 384, 14, 7),
    depthwise(LARGE, "replk_dw31_128@56", 128, 56, 31),
    depthwise(LARGE, "replk_dw29_256@28", 256, 28, 29),
    depthwise(LARGE, "replk_dw27_512@14", 512, 14, 27),
    depthwise(SMALL, "mbv2_dw3_144@56", 144, 56, 3),
    layer(SHORT, "textcnn_k5", 300, (56,), 100, (5,), padding=0),
    layer(SHORT, "wavenet_k2", 64, (16000,), 128, (2,), padding=0),
    layer(SHORT, "wavenet_k3d8", 64, (16000,), 128, (3,), padding=8, dilation=8),
    layer(LONG, "crepe1_k512s4", 1, (1024,), 1024, (512,), stride=4, padding=254),
    layer(LONG, "crepe2_k64", 1024, (128,), 128, (64,), padding=32),
    layer(LONG, "tcn_k31", 128, (1000,), 128, (31,)),
]
