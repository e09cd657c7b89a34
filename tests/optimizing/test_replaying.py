"""Replay: layers before a change are not computed again, and outputs are those of a whole pass."""

import torch
from torch import nn

from archcost.optimizing import replaying
from archcost.optimizing.replaying import Replay
from archcost.optimizing.verify import outputs_for


class Net(nn.Module):
    """A layer that is called twice, activations that write into their input, and two branches."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.left, self.right = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        x = torch.relu_(self.first(x))
        x = torch.relu_(self.twice(torch.relu_(self.twice(x))))
        return self.head((self.left(x).relu_() * self.right(x)).mean((2, 3)))


PIECES = tuple(torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1)).split(2))


def computed(model, changed, replay):
    """The layers that run while one is changed, and whether outputs are those of a whole pass."""
    ran = []
    forward = nn.modules.conv.Conv2d._conv_forward

    def counted(self, *args):
        ran.append(self)
        return forward(self, *args)

    with torch.no_grad():
        changed.weight.mul_(2)
        nn.Conv2d._conv_forward = counted
        try:
            found = replay.outputs(changed)
        finally:
            nn.Conv2d._conv_forward = forward
        same = all(
            torch.equal(a, b)
            for one, other in zip(found, outputs_for(model, PIECES), strict=True)
            for a, b in zip(one, other, strict=True)
        )
        changed.weight.div_(2)  # exact
    return {name for name, module in model.named_modules() if module in ran}, same


def test_layers_before_the_changed_one_give_what_they_gave():
    model = Net().eval()
    replay = Replay(model, PIECES)
    assert computed(model, model.right, replay) == ({"twice", "right"}, True)
    assert computed(model, model.twice, replay) == ({"twice", "left", "right"}, True)
    assert computed(model, model.first, replay)[1]
    assert computed(model, model.head, replay) == ({"twice"}, True)
    assert not any("forward" in vars(module) for module in model.modules())


def test_nothing_is_kept_where_it_would_be_too_much(monkeypatch):
    monkeypatch.setattr(replaying, "_MOST", 1000)
    model = Net().eval()
    replay = Replay(model, PIECES)
    assert computed(model, model.right, replay) == ({"first", "twice", "left", "right"}, True)
