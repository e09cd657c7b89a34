"""A model of one's own with two inputs, one of them by keyword, and a functional product inside."""

import torch
from torch import nn

import archcost


class Matcher(nn.Module):
    """Scores every position of an image against every word of a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 64, 7, stride=4, padding=3), nn.ReLU())
        self.words = nn.Embedding(10_000, 64)

    def forward(self, image: torch.Tensor, *, sentence: torch.Tensor) -> torch.Tensor:
        positions = self.image(image).flatten(2)
        return self.words(sentence) @ positions


model = Matcher()
inputs = {"image": torch.zeros(1, 3, 128, 128), "sentence": torch.zeros(1, 12, dtype=torch.long)}
analysis = archcost.analyze(model, inputs)
print(analysis)

# The product made in the model's own forward is charged to the model itself.
product = next(cost for cost in analysis.operations if cost.kind == "matmul")
print(f"{product.op.name}: {product.macs:,} MACs, made by {product.module or 'the model itself'}")
assert product.macs == 12 * 64 * 32 * 32

# The same, from shapes alone.
sizes = {"image": (1, 3, 128, 128), "sentence": (1, 12)}
same = archcost.analyze(model, input_size=sizes, dtype={"sentence": torch.long})
assert same.total.macs == analysis.total.macs
