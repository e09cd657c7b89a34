"""A model of your own: its large kernels replaced, the weights carried over, with and without data.

A small network with 5x5 kernels learns to tell the directions of noisy gratings in a few seconds. Then its
kernels are replaced by cheaper layers: with new random weights, with weights made of the old kernels, and
with weights made so that the layers' outputs stay on unlabelled images.
"""

import torch
from torch import nn

import archcost


def gratings(count, seed):
    """Images of stripes in 8 directions, in noise, and which direction it is."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(8, (count,), generator=draw)
    angle = label * torch.pi / 8 + 0.05 * torch.randn(count, generator=draw)
    phase, wave = torch.rand(2, count, generator=draw)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    along = angle.cos()[:, None, None] * columns + angle.sin()[:, None, None] * rows
    stripes = torch.sin(along * (0.8 + wave[:, None, None]) + 6.3 * phase[:, None, None])
    return (stripes + 0.9 * torch.randn(count, 16, 16, generator=draw))[:, None], label


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 12, 5, padding=2), nn.BatchNorm2d(12)
        self.second, self.norm2 = nn.Conv2d(12, 24, 5, padding=2), nn.BatchNorm2d(24)
        self.third, self.norm3 = nn.Conv2d(24, 24, 5, padding=2), nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 8)

    def forward(self, x):
        x = torch.max_pool2d(torch.relu(self.norm1(self.first(x))), 2)
        x = torch.relu(self.norm2(self.second(x)))
        x = torch.relu(self.norm3(self.third(x)))
        return self.head(x.mean((2, 3)))


def accuracy(model):
    x, label = gratings(500, seed=2)
    with torch.no_grad():
        return (model(x).argmax(1) == label).float().mean().item()


torch.manual_seed(0)
model = Net()
optimiser = torch.optim.Adam(model.parameters(), 5e-3)
for step in range(150):
    x, label = gratings(64, seed=1000 + step)
    optimiser.zero_grad()
    nn.functional.cross_entropy(model(x), label).backward()
    optimiser.step()
model.eval()
print(f"trained: {accuracy(model):.1%} right")

unlabelled = [gratings(64, seed=3000 + number)[0] for number in range(4)]
example = gratings(1, seed=5)[0]
for rule in ("small_kernels", "asymmetric", "separable", "bottleneck"):
    proposals = archcost.propose(model, example, rules=[rule], names=["second", "third"], ratio=0.3)
    plan = archcost.Plan(proposals.best())
    random = plan.apply(model, weights=False)
    blind = archcost.rewrite(model, example, plan.proposals)
    seeing = archcost.rewrite(model, example, plan.proposals, batches=unlabelled)
    ratio = seeing.after.total.macs / seeing.before.total.macs
    print(
        f"{rule:14} {ratio:.2f}x the MACs: {accuracy(random):.1%} right with new weights, "
        f"{accuracy(blind.model):.1%} with the old ones, {accuracy(seeing.model):.1%} by data"
    )
print(seeing)
