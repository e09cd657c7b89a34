"""The models of the golden files: small, and the same numbers in them on every machine."""

import random

import torch
from torch import nn


def filled(model):
    """Weights of Python's own generator: those of PyTorch may differ between processors."""
    draw = random.Random(0)
    with torch.no_grad():
        for weight in model.parameters():
            numbers = [draw.uniform(-0.25, 0.25) for _ in range(weight.numel())]
            weight.copy_(torch.tensor(numbers).reshape(weight.shape))
    return model.eval()


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.norm(self.conv(x)))


class Branches(nn.Module):
    """A stem, two blocks alike, two branches that are joined, two outputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 5, stride=2, padding=2)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.wide = nn.Conv2d(16, 16, 3, padding=2, dilation=2)
        self.slim = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 16, 1))
        self.head = nn.Linear(32, 10)
        self.mask = nn.ConvTranspose2d(32, 1, 2, stride=2)

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        x = torch.cat([self.wide(x), self.slim(x)], 1)
        return {"classes": self.head(x.mean((2, 3))), "mask": self.mask(x)}


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, tokens):
        x = self.embed(tokens)
        y = self.norm(x)
        return self.mlp(x + self.attention(y, y, y, need_weights=False)[0])


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(6, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.last = nn.Linear(16, 3)

    def forward(self, x):
        return self.last(self.gru(x)[0])


class Uncountable(nn.Module):
    """MACs that are only a lower bound."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Linear(8, 8)

    def forward(self, x):
        x = self.second(self.first(x).mean((2, 3)))
        return torch.linalg.svd(x.view(-1, 8, 1) @ torch.ones(1, 8))[1]


def branches():
    return filled(Branches())


def transformer():
    return filled(Transformer())


def recurrent():
    return filled(Recurrent())


def uncountable():
    return filled(Uncountable())


def slim():
    """The stem of `Branches` with other layers behind it, to be compared with it."""
    return filled(nn.Sequential(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(16, 8, 1)))


class Rebuilt(Branches):
    """A later version of `Branches`: a block more, a larger kernel, the head under another name."""

    def __init__(self):
        super().__init__()
        self.blocks.append(Block(16))
        self.wide = nn.Conv2d(16, 16, 5, padding=4, dilation=2)
        self.classifier = self.head
        del self.head

    def forward(self, x):
        x = self.blocks(torch.relu(self.stem(x)))
        x = torch.cat([self.wide(x), self.slim(x)], 1)
        return {"classes": self.classifier(x.mean((2, 3))), "mask": self.mask(x)}


def rebuilt():
    return filled(Rebuilt())


class Mismatched(nn.Module):
    """The last layer takes another number of features than there are."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(12)))
        self.act, self.pool, self.head = nn.ReLU(), nn.MaxPool2d(2), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(torch.flatten(self.pool(self.act(self.layers(x) + x)), 1))


def mismatched():
    return Mismatched().eval()
