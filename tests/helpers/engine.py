"""A small network of many kinds of layers, for the engine."""

import torch
import torch.nn.functional as F
from torch import nn

X = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Convolutions, a residual, a parameter of one element, an attribute to branch on, a classifier."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.act = nn.Conv2d(16, 16, 3, padding=1), nn.PReLU(1)
        self.fc = nn.Linear(16, 5)
        self.doubled = False

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.act(x + self.conv2(x))
        x = self.fc(x.mean((2, 3)))
        return 2 * x if self.doubled else x

    def features(self):
        return self.fc.in_features


def net():
    torch.manual_seed(1)
    model = Net().eval()
    for tensor in (model.bn1.running_mean, model.bn1.running_var, model.bn1.weight, model.bn1.bias):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()
