"""What each convolution takes on this machine: as the model runs it, and on its fastest path.

    python examples/measure.py                        # a small network, a few seconds
    python examples/measure.py torchvision:resnet18   # any SPEC, half a minute

Times in context add up to the model; native and best are each convolution alone.
"""

import sys

from torch import nn

import archcost


class Small(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 32, 7, stride=2, padding=3),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
        )


if len(sys.argv) > 1:
    found = archcost.measure(sys.argv[1], threads=1, seconds=30)
else:
    # Nothing is kept with store=False; by default, a second call takes the times from the store.
    found = archcost.measure(Small().eval(), input_size=(1, 3, 64, 64), threads=1, seconds=6, store=False)

print(found)
for layer in found.layers:
    if layer.speedup is not None and layer.speedup > 1:
        print(f"{layer.name}: {layer.speedup:.1f} times as fast on {layer.best_path}")
print(f"{len(found.paths)} times of paths, every one measured on {found.threads} thread")
