"""What a layer of ResNet-18 sees: on paper, held against the real model, and as three pictures.

The pictures go into the folder given as an argument, or into the current one. They need matplotlib:
pip install 'archcost[plots]'.
"""

import sys
from pathlib import Path

import torch
import torchvision

import archcost

torch.manual_seed(0)
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
model = torchvision.models.resnet18(weights=None).eval()
analysis = archcost.analyze(model, input_size=(1, 3, 224, 224))

# One layer at one position: NaN planted outside of its window must not reach it, and inside it must.
field = archcost.receptive_field(analysis, layer="layer2", position=(5, 20), verify=True)
print(field)
print()

archcost.plot.growth(analysis, "torchvision:vgg16", path=folder / "growth.png")
archcost.plot.window(analysis, layer="layer2", position=(5, 20), path=folder / "window.png")

# The textbook: two layers of 3x3 see 5x5, three see 7x7, with fewer weights than one layer of that size.
for layers in ([3, 3], [3, 3, 3]):
    stack = [archcost.ConvSpec(64, 64, kernel, bias=False) for kernel in layers]
    side = archcost.stacked_field(stack).size[0]
    own = sum(layer.weights for layer in stack)
    one = archcost.ConvSpec(64, 64, side, bias=False).weights
    saved = f"{own / one:.0%} of the weights of one {side}x{side}"
    print(f"{len(layers)} layers of 3x3 see {side}x{side}, with {saved}")
archcost.plot.stack([3, 3, 3], path=folder / "stack.png")
print("drawn: growth.png, window.png, stack.png")
