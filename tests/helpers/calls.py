"""Functions as modules, and what a pass of them costs."""

from torch import nn

from archcost.cost.costs import cost_of
from archcost.trace.run import record


class Call(nn.Module):
    """A function as a model; ``parts`` are the modules it uses."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, *inputs):
        return self.function(*inputs)


class Calls(nn.Module):
    """A module whose forward is the function given; its first argument is the module, for the children."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


class Function(Calls):
    """A module whose forward takes one tensor."""

    def forward(self, x):
        return self.function(self, x)


def costs(model, inputs, device=None):
    return cost_of(record(model, inputs, device=device))


def macs(model, inputs, device=None):
    found = costs(model, inputs, device)
    assert not any(row.macs_unknown for row in found.uncounted), found.uncounted
    return found.total.macs
