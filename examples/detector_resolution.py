"""At which resolution does a one-stage detector fit its budget? Its costs from 256 to 1024 pixels."""

import torch
from torch import nn
from torchvision.models import mobilenet_v2

import archcost


class Detector(nn.Module):
    """A backbone, and at strides of 16 and 32 a head for each: 3 boxes of 85 numbers at every position."""

    def __init__(self) -> None:
        super().__init__()
        features = mobilenet_v2(weights=None).features
        self.near, self.far = features[:14], features[14:]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 255, 1))
            for width in (96, 1280)
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        near = self.near(image)
        return [self.heads[0](near), self.heads[1](self.far(near))]


found = archcost.sweep(Detector().eval(), [(1, 3, side, side) for side in range(256, 1025, 128)])
print(found)
fits = max(point.side for point in found if point.macs <= 4e9)
print(f"4 GMACs allow {fits} pixels; memory grows as the power {found.growth[2].exponent:.2f} of the side")
