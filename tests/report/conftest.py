"""Analyses that several files look at."""

import pytest
import torch
import torchvision
from torch import nn

import archcost


@pytest.fixture(scope="session")
def resnet():
    return archcost.analyze(torchvision.models.resnet18(weights=None), input_size=(1, 3, 224, 224))


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.conv(x))


class Stack(nn.Module):
    def __init__(self, blocks=6):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.Sequential(*(Block() for _ in range(blocks)))

    def forward(self, x):
        return self.blocks(self.stem(x)) * self.scale


@pytest.fixture(scope="session")
def stack():
    return archcost.analyze(Stack(), input_size=(1, 3, 10, 10))
