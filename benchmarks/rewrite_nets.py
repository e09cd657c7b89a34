"""The networks of `rewrite.py` that are trained here, on Fashion-MNIST, and what every one of them brings."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Task", "fashion"]

Decision = Hashable
FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
BATCH = 64
MEAN, DEVIATION = 0.286, 0.353


@dataclass(frozen=True)
class Task:
    """A network that has learned something, and what it takes to see whether a copy still knows it."""

    name: str
    model: nn.Module
    example: Tensor
    """One input, which the clock uses too."""
    batches: Sequence[Tensor]
    """Inputs without labels; none of them is scored."""
    scored: Sequence[Tensor]
    answers: Sequence[Decision]
    decide: Callable[[Tensor], list[Decision]]
    """From what the network makes of a batch to what it says of each input."""
    layers: tuple[str, ...]
    """The convolutions to rewrite."""

    @torch.no_grad()
    def decisions(self, model: nn.Module) -> list[Decision]:
        return [said for batch in self.scored for said in self.decide(model(batch))]


class Block(nn.Module):
    """Two 3x3 with the input added, as in ResNet."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU()),
            *(nn.Conv2d(outs, outs, 3, 1, 1, bias=False), nn.BatchNorm2d(outs)),
        )
        self.shortcut = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


def cnn() -> nn.Module:
    """Three 5x5 convolutions, and nothing between them but ReLU and pooling."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 5, padding=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 10)),
    )


def resnet() -> nn.Module:
    """Of ResNet's kind, one block a stage."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def convnext() -> nn.Module:
    """torchvision's ConvNeXt with two stages of 32 and 64 channels, for small pictures."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 3)]
    made = ConvNeXt(stages, layer_scale=1.0, num_classes=10)
    made.features[0][0] = nn.Conv2d(1, 32, 2, 2)
    return made


NETS = {"cnn": (cnn, 2), "resnet": (resnet, 2), "convnext": (convnext, 2)}
"""By name, how to build it, and how often it sees the 60,000 images."""


def fashion(name: str, data: Path, cache: Path, images: int, limit: int | None = None) -> Task:
    """One of `NETS`, trained (or as trained before), with ``images`` inputs of the training set."""
    pictures, labels = fashion_mnist(data, "train")
    model = trained(name, pictures, labels, cache)
    chosen = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(1))[:images]
    seen, answers = fashion_mnist(data, "test")
    seen, answers = seen[:limit], answers[:limit]
    wide = [
        key
        for key, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 and module.in_channels > 1
    ]
    return Task(
        name=name,
        model=model,
        example=seen[:1],
        batches=pictures[chosen].split(BATCH),
        scored=seen.split(500),
        answers=answers.tolist(),
        decide=lambda scores: scores.argmax(1).tolist(),
        layers=tuple(wide),
    )


def fashion_mnist(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28), normalised, and labels (N,)."""
    images, labels = (data / name for name in FILES[part])
    if not (images.exists() and labels.exists()):
        raise SystemExit(
            f"no Fashion-MNIST in {data}: on Debian and Ubuntu `apt-get install dataset-fashion-mnist` "
            f"brings it; else give --data FOLDER with {', '.join(FILES['train'] + FILES['test'])}"
        )
    pixels = _bytes(images, 16).reshape(-1, 1, 28, 28).float() / 255
    return (pixels - MEAN) / DEVIATION, _bytes(labels, 8).long()


def _bytes(file: Path, header: int) -> Tensor:
    with gzip.open(file) as opened:
        return torch.frombuffer(bytearray(opened.read()), dtype=torch.uint8)[header:]


def trained(name: str, images: Tensor, labels: Tensor, cache: Path) -> nn.Module:
    """In eval mode; trained once for a folder ``cache``."""
    build, epochs = NETS[name]
    torch.manual_seed(0)
    model = build()
    file = cache / f"{name}-{epochs}-epochs.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()
    begun = time.process_time()
    train(model, images, labels, epochs)
    print(f"{name}: trained in {time.process_time() - begun:.0f} CPU s, kept in {file}", flush=True)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), file)
    return model.eval()


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, size: int = 128) -> None:
    """Adam under one cycle of its rate."""
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(images) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(size):
            loss: Any = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def default_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("archcost") / "benchmarks"
