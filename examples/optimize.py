"""A third of the MACs, without labels: the outputs of a small trained network before and after."""

import torch
import torch.nn.functional as F
from torch import nn

import archcost

torch.manual_seed(0)
torch.set_num_threads(1)
patterns = F.interpolate(torch.randn(8, 1, 5, 5), size=16, mode="bicubic")


def drawn(count):
    classes = torch.randint(8, (count,))
    return patterns[classes] + 0.6 * torch.randn(count, 1, 16, 16), classes


model = nn.Sequential(
    *(nn.Conv2d(1, 24, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Flatten(), nn.Linear(512, 48), nn.ReLU(), nn.Linear(48, 8)),
)
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
for _ in range(60):
    images, classes = drawn(64)
    optimizer.zero_grad()
    F.cross_entropy(model(images), classes).backward()
    optimizer.step()
model.eval()

unlabelled, test = drawn(256)[0], drawn(1000)[0]
small = archcost.optimize(model, test[:1], budget=archcost.Budget(macs=1 / 3), batches=unlabelled, trials=4)
print(small)
same = (small.model(test).argmax(1) == model(test).argmax(1)).float().mean()
print(f"{small.reached['macs']:.2f} of the MACs; {same:.1%} of other images keep their class")
