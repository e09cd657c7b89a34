"""Models of one block that programs replace, and what every program holds to."""

import copy
import io
import pickle

import torch
from torch import nn

from archcost.accelerating.layouts import CHANNELS_LAST, NCHW
from archcost.accelerating.program import Program

X = torch.randn(2, 16, 14, 14, generator=torch.Generator().manual_seed(1))
LAYOUTS = {NCHW: torch.contiguous_format, CHANNELS_LAST: torch.channels_last}


def model_of(block):
    """In a model, with statistics as of a trained one."""
    torch.manual_seed(0)
    model = nn.Sequential(block()).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def programs_in(model):
    return [module for module in model.modules() if isinstance(module, Program)]


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and (a.double() - b.double()).abs().max() <= tolerance * b.double().abs().max()


@torch.no_grad()
def assert_copied(model, how, parameter):
    """A copy computes the same, and a change of its parameter is its own."""
    before = model(X)
    if how == "torch.save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert torch.equal(other(X), before)
    other.get_parameter(parameter).mul_(2)
    assert not torch.equal(other(X), before)
    assert torch.equal(model(X), before)


@torch.no_grad()
def assert_undone(model, put_in):
    """The very modules are there again."""
    before, expected = dict(model.named_modules()), model(X)
    handle = put_in(model)
    assert programs_in(model)
    handle.undo()
    assert all(module is before[name] for name, module in model.named_modules())
    assert torch.equal(model(X), expected)
