"""The same model as one program of fused steps, on this machine.

python examples/accelerate.py            # a small network
python examples/accelerate.py resnet18   # one of torchvision's
"""

import sys

import torch
from torch import nn

import archcost

torch.manual_seed(0)
if len(sys.argv) > 1:
    model, x = archcost.load(f"torchvision:{sys.argv[1]}").model.eval(), torch.randn(1, 3, 224, 224)
    seconds = 60
else:
    model = nn.Sequential(
        *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 5, padding=2, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 64, 21, padding=10, groups=64), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ).eval()
    x, seconds = torch.randn(1, 32, 28, 28), 6

torch.set_num_threads(1)
fast = archcost.accelerate(model, x, seconds=seconds)
print(fast.acceleration)

with torch.inference_mode():
    off = ((fast(x) - model(x)).abs().max() / model(x).abs().max()).item()
same_keys = list(fast.state_dict()) == list(model.state_dict())
print(f"\nthe same outputs: {off < 1e-4}; the same state_dict: {same_keys}")
