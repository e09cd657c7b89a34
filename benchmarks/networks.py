"""The networks of `engines.py` and `accelerate.py`, with random weights and statistics as after training."""

from __future__ import annotations

import math

import torch
import torchvision
from torch import Tensor, nn

__all__ = ["NETWORKS", "built", "noise"]

NETWORKS = (
    *("vgg16", "replk", "resnet18", "alexnet", "resnet50", "googlenet", "convnext_tiny", "mobilenet_v2"),
    *("densenet121", "squeezenet1_1", "inception_v3", "shufflenet_v2_x1_0", "efficientnet_b0"),
    *("mobilenet_v3_large", "regnet_y_400mf"),
)
"""The fifteen of the table: torchvision's, and a small RepLKNet."""

_OPTIONS = {name: {"aux_logits": False, "init_weights": False} for name in ("googlenet", "inception_v3")}


class LargeKernel(nn.Module):
    """A block of RepLKNet: 1x1, a large depthwise kernel, 1x1, and the input added."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False),
            *(nn.BatchNorm2d(channels), nn.ReLU()),
            *(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Bottleneck(nn.Sequential):
    """Twice the channels at half the size."""

    def __init__(self, channels: int, wider: int) -> None:
        super().__init__(
            *(nn.Conv2d(channels, wider, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()),
            nn.Conv2d(wider, wider, 3, stride=2, padding=1, groups=wider, bias=False),
            *(nn.BatchNorm2d(wider), nn.ReLU()),
        )


def replk(channels: int = 64, kernels: tuple[int, ...] = (31, 29, 27, 13)) -> nn.Module:
    """A small network in the manner of RepLKNet (X. Ding and others, 2022): two blocks a stage."""
    layers: list[nn.Module] = [
        *(nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        *(nn.BatchNorm2d(channels), nn.ReLU()),
    ]
    for place, kernel in enumerate(kernels):
        if place:
            layers.append(Bottleneck(channels, 2 * channels))
            channels *= 2
        layers += [LargeKernel(channels, kernel), LargeKernel(channels, kernel)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def noise(name: str, batch: int, seed: int = 1) -> Tensor:
    """An input of the network named."""
    side = 299 if name == "inception_v3" else 224
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def built(name: str) -> nn.Module:
    """The network, one of torchvision or ``replk``, in eval mode.

    Weights are random, and one pass over four images of noise settles the rest: batch statistics are those of
    the pass, and outputs of convolutions and linear layers get a standard deviation of 1 (D. Mishkin and
    J. Matas, "All you need is a good init", 2016). The scales of ConvNeXt leave their 1e-6. Otherwise
    outputs are mostly biases, or overflow, and errors say nothing.
    """
    torch.manual_seed(0)
    model = replk() if name == "replk" else getattr(torchvision.models, name)(**_OPTIONS.get(name, {}))
    hooks = []
    for part in model.eval().modules():
        if isinstance(part, nn.BatchNorm2d):
            part.train().momentum = None  # type: ignore[assignment]  # the average of all passes: of one
        elif isinstance(part, (nn.Conv2d, nn.Linear)):
            hooks.append(part.register_forward_hook(_standardized))
        elif isinstance(getattr(part, "layer_scale", None), nn.Parameter):
            nn.init.constant_(part.layer_scale, 0.25)
    with torch.no_grad():
        y = model(noise(name, 4, seed=0))
    for hook in hooks:
        hook.remove()
    if not 0.1 < (deviation := y.std().item()) < 10 or math.isnan(deviation):
        raise SystemExit(f"{name}: outputs have a standard deviation of {deviation}")
    return model.eval()


def _standardized(layer: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    deviation = y.std()
    for parameter in layer.parameters():
        parameter /= deviation
    return y / deviation
