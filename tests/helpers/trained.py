"""A small network, trained in a second on shapes that are drawn here."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 8


def drawn(count, seed):
    """Images of smooth patterns, shifted and noisy, and their classes."""
    generator = torch.Generator().manual_seed(7)
    patterns = F.interpolate(
        torch.randn(CLASSES, 1, 5, 5, generator=generator), size=16, mode="bicubic", align_corners=False
    )
    generator.manual_seed(seed)
    classes = torch.randint(CLASSES, (count,), generator=generator)
    shifts = torch.randint(-2, 3, (count, 2), generator=generator).tolist()
    images = torch.stack(
        [torch.roll(patterns[c], shift, (1, 2)) for c, shift in zip(classes.tolist(), shifts, strict=True)]
    )
    return images + 0.5 * torch.randn(images.shape, generator=generator), classes


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 5, padding=2)
        self.middle = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(24)
        self.last = nn.Conv2d(24, 32, 3, padding=1)
        self.dense = nn.Linear(32 * 4, 48)
        self.head = nn.Linear(48, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.norm(self.middle(x))), 2)
        x = F.max_pool2d(F.relu(self.last(x)), 2).flatten(1)
        return self.head(F.relu(self.dense(x)))


@cache
def _state():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Small()
        images, classes = drawn(1024, 1)
        optimizer = torch.optim.AdamW(net.parameters(), 4e-3)
        for _ in range(6):
            for at in torch.randperm(len(images)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(images[at]), classes[at]).backward()
                optimizer.step()
    return net.state_dict()


def trained():
    net = Small()
    net.load_state_dict(_state())
    return net.eval()


def agreement(new, old, images):
    with torch.no_grad():
        return (new(images).argmax(1) == old(images).argmax(1)).float().mean().item()
