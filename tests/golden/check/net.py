"""The sample of `archcost check`: a model for each kind of finding."""

import torch
import torchvision
from torch import nn


def conv(inputs, outputs, kernel, **more):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **more)


class Net(nn.Module):
    """Large kernels, a convolution before a pooling, and two with nothing between them."""

    def __init__(self, width=64):
        super().__init__()
        self.stem = conv(3, width, 3)
        self.wide = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 7, padding=3),  # archcost: ignore[small-kernels]
        )
        self.blocks = nn.Sequential(*(nn.Sequential(conv(width, width, 5), nn.ReLU()) for _ in range(2)))
        self.widen = nn.Conv2d(width, 4 * width, 1)
        self.pool = nn.AvgPool2d(2)
        self.mix = nn.Conv2d(4 * width, 4 * width, 1)
        self.narrow = nn.Conv2d(4 * width, 32, 1)
        self.head = nn.Linear(32, 10)  # archcost: ignore[AC205]

    def forward(self, x):
        x = self.blocks(self.wide(torch.relu(self.stem(x))))
        x = torch.relu(self.pool(self.widen(x)))
        x = torch.relu(self.narrow(self.mix(x)))
        return self.head(x.mean((2, 3)))


class Context(nn.Module):
    """A stride that skips positions, a branch that is shifted, kernels beyond their maps."""

    def __init__(self):
        super().__init__()
        self.skip = nn.Conv2d(3, 16, 2, stride=4)
        self.shifted = nn.Conv2d(16, 16, 3)
        self.tail = nn.Conv2d(16, 16, 3, stride=8, padding=1)
        self.last = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.skip(x))
        x = x + nn.functional.pad(self.shifted(x), (2, 0, 2, 0))
        return torch.linalg.svdvals(self.last(torch.relu(self.tail(x))))


def gridded():
    return nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=2, dilation=2) for _ in range(3)))


def library():
    return torchvision.models.alexnet()


def small():
    return Net(32)


def fails():
    raise RuntimeError("the weights,\n::error::are 100% elsewhere")
