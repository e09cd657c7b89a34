"""A 1-d model: what could stand in the place of its long kernels, and why some should stay."""

import torch
from torch import nn

import archcost


class Listener(nn.Module):
    """Sounds to 12 words, in the manner of small keyword spotters: long kernels over time."""

    def __init__(self):
        super().__init__()
        self.waves = nn.Conv1d(1, 32, 80, stride=4, padding=38)
        self.long = nn.Conv1d(32, 64, 25, padding=12)
        self.deep = nn.Conv1d(64, 64, 9, padding=4, groups=64)
        self.mix = nn.Conv1d(64, 64, 5, padding=2)
        self.head = nn.Linear(64, 12)

    def forward(self, x):
        x = torch.relu(self.waves(x))
        x = torch.max_pool1d(torch.relu(self.long(x)), 4)
        x = torch.max_pool1d(torch.relu(self.mix(self.deep(x))), 4)
        return self.head(x.mean(2))


torch.manual_seed(0)
torch.set_num_threads(1)
model = Listener().eval()
sounds = torch.randn(8, 1, 16_000).cumsum(2) / 50  # neighbours are alike, as in sounds
sound, others = sounds.split(4)

proposals = archcost.propose(model, sound).measured(sound, seconds=10)
print(proposals)

chosen = proposals.best()
new = archcost.rewrite(model, sound, chosen, batches=[others])
print(new)
saved = 1 - new.after.total.macs / new.before.total.macs
print(f"\ngained: {saved:.0%} of the MACs; lost: outputs move by {new.output_error:.1%} before any training")
