"""Outputs that layers keep from one pass to the next: a refit with them is the refit without them."""

import copy

import pytest
import torch
from torch import nn

from archcost.weights import activations, refit
from archcost.weights.activations import Activations


class Block(nn.Module):
    """A skip past two layers, an activation that writes into its input, and a gate without gradients."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.gate = nn.Linear(4, 4)

    def forward(self, x):
        y = self.second(torch.relu_(self.first(x)))
        with torch.no_grad():
            gate = torch.where(self.gate(x.mean((2, 3))) > 0, 1.0, 0.5)
        return torch.relu_(y * gate[:, :, None, None] + x)


class Net(nn.Module):
    def __init__(self, calls=1):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block())
        self.twice = nn.Conv2d(4, 4, 1)
        self.calls = calls
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.blocks(self.stem(x))
        for _ in range(self.calls):
            x = torch.relu_(self.twice(x))
        return self.head(x.mean((2, 3)))


def fitted(net, names, keep, monkeypatch, batches):
    """The weights after a refit, and how many layers have run."""
    with monkeypatch.context() as patch:
        if not keep:
            patch.setattr(Activations, "run", lambda self, index, target, forward: forward())
        new = copy.deepcopy(net)
        with torch.no_grad():
            for one in new.parameters():
                one.mul_(1.1)
        ran = []
        forward = nn.Conv2d.forward
        patch.setattr(nn.Conv2d, "forward", lambda self, x: (ran.append(self), forward(self, x))[1])
        refit.refit(net, new, names, batches)
    assert not any("forward" in vars(module) for module in new.modules())
    return new.state_dict(), len(ran)


def names_of(net):
    return [name for name, one in net.named_modules() if isinstance(one, (nn.Conv2d, nn.Linear))]


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("most", [2**29, 40_000, 0])
@pytest.mark.parametrize("part", [slice(None), slice(2, 6, 2)], ids=["all", "some"])
def test_the_refit_is_the_same_and_runs_fewer_layers(monkeypatch, calls, most, part):
    torch.manual_seed(1)
    net = Net(calls).eval()
    batches = list(torch.randn(16, 3, 8, 8).split(2))
    names = names_of(net)[part]
    plain, all_ = fitted(net, names, False, monkeypatch, batches)
    monkeypatch.setattr(activations, "_MOST", most)
    kept, some = fitted(net, names, True, monkeypatch, batches)
    for key, value in plain.items():
        torch.testing.assert_close(kept[key], value, rtol=0, atol=0)
    assert some < 0.8 * all_ if most == 2**29 and part == slice(None) else some <= all_ + 10


def test_a_layer_whose_readers_change_with_the_data_is_computed_again(monkeypatch):
    """Found by the first input; another one reads what was thought to be read by nothing."""

    class Turns(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x):
            y = self.first(x)
            z = self.second(y)
            return self.third(z + (y if x[0, 0, 0, 0] > 0 else 0.0))

    torch.manual_seed(2)
    net = Turns().eval()
    batches = list(torch.randn(16, 3, 8, 8).split(2))
    for at, one in enumerate(batches):
        one[0, 0, 0, 0] = -1.0 if at == 0 else 1.0
    plain, _ = fitted(net, names_of(net), False, monkeypatch, batches)
    kept, _ = fitted(net, names_of(net), True, monkeypatch, batches)
    for key, value in plain.items():
        torch.testing.assert_close(kept[key], value, rtol=0, atol=0)


def test_a_model_that_asks_for_a_number_of_inputs_is_fitted_as_well(monkeypatch):
    class Fixed(Net):
        def forward(self, x):
            return self.head(self.twice(self.stem(x.reshape(2, 3, 8, 8))).reshape(2, 4, 64).mean(2))

    torch.manual_seed(4)
    net = Fixed().eval()
    batches = list(torch.randn(16, 3, 8, 8).split(2))
    names = ["stem", "twice", "head"]
    plain, _ = fitted(net, names, False, monkeypatch, batches)
    kept, _ = fitted(net, names, True, monkeypatch, batches)
    for key, value in plain.items():
        torch.testing.assert_close(kept[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("most", [2**29, 20_000])
def test_a_whole_pass_gives_the_outputs_of_the_model_while_a_layer_changes(monkeypatch, most):
    class Both(Net):
        """What the stem gives is read by the model's outputs too."""

        def forward(self, x):
            return self.stem(x), super().forward(x)

    monkeypatch.setattr(activations, "_MOST", most)
    torch.manual_seed(3)
    net = Both().eval()
    batches = list(torch.randn(8, 3, 8, 8).split(2))
    kept = Activations(net, batches)
    for name in names_of(net):
        for _ in range(2):
            with torch.no_grad():
                net.get_submodule(name).weight.mul_(1.5)
                for index, batch in enumerate(batches):
                    found = []
                    kept.run(index, net.get_submodule(name), lambda: found.extend(net(batch)))  # noqa: B023
                    for one, other in zip(found, net(batch), strict=True):
                        torch.testing.assert_close(one, other, rtol=0, atol=0)
