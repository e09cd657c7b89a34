"""How much of its window a layer really looks at: the effective receptive field of Luo et al. (2016)."""

import sys
from pathlib import Path

import torch
import torchvision

import archcost

torch.manual_seed(0)
model = torchvision.models.resnet18(weights=None).eval()
analysis = archcost.analyze(model, input_size=(1, 3, 224, 224))

print("layer   window  side that holds 95% of the gradient")
for layer in ("layer1", "layer2", "layer3"):
    effective = archcost.effective_field(analysis, layer=layer, samples=4)
    print(f"{layer}  {effective.theoretical.size[0]:6}  {effective.side:4}  {effective.ratio[0]:5.0%}")
    assert effective.side < effective.theoretical.size[0]

# As a heat map, in the folder given as an argument or the current one; it needs matplotlib.
folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
archcost.plot.window(analysis, effective=effective, path=folder / "effective.png")
print("drawn: effective.png")
