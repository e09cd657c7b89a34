"""Proposals as rules would make them, with times and errors as given."""

import dataclasses
import json

import torch
from torch import nn

import archcost
from archcost.merging.chain import chained
from archcost.rewriting.proposal import PlaceCosts, Proposal, Raced
from archcost.rewriting.proposals import Proposals
from archcost.rewriting.replacement import Replacement
from archcost.spec import ConvSpec


def net():
    layers = [nn.Conv2d(3, 8, 5, padding=2)]
    for _ in range(4):
        layers += [nn.ReLU(), nn.Conv2d(8, 8, 5, padding=2)]
    return nn.Sequential(*layers)


MODEL = net()
ANALYSIS = archcost.analyze(MODEL, input_size=(1, 3, 16, 16))
ALIKE = ("2", "4", "6", "8")


def spec(in_channels=8):
    return ConvSpec(in_channels, 8, 5, padding=2, input_size=(16, 16))


def proposal(name, rule="asymmetric", in_channels=8, rank=4, error=0.25, race=None, **changes):
    """A KxK as Kx1 and 1xK of a rank, as a rule would make it; times and errors as given."""
    old = spec(in_channels)
    first = ConvSpec(in_channels, rank, (5, 1), padding=(2, 0), bias=False, input_size=(16, 16))
    chain = chained(
        dataclasses.replace(first, padding=((2, 2), (2, 2))), {"out_channels": 8, "kernel_size": (1, 5)}
    )
    new = tuple(conv.spec for conv in chain)
    costs = dict(activation_bytes=8192, depth=1, nonlinearities=0, receptive_field=(5, 5))
    after = {**costs, "activation_bytes": 12288, "depth": 2}
    given = dict(
        rule=rule,
        options={"rank": rank},
        type_name="Conv2d",
        shape=f"{in_channels} -> 8, 5x5",
        replacement=Replacement({name: chain}),
        old=(old,),
        new=new,
        before=PlaceCosts(params=old.params, macs=old.macs, **costs),
        after=PlaceCosts(params=sum(s.params for s in new), macs=sum(s.macs for s in new), **after),
        weight_error=error,
        race=race,
    )
    return Proposal(**{**given, **changes})


SLOW = Raced(old_ms=1.0, new_ms=1.5, spread_ms=0.1, speedup=0.66, device="a machine", threads=2)
FAST = Raced(old_ms=1.0, new_ms=0.5, spread_ms=0.1, speedup=2.0, device="a machine", threads=2)


def proposals(*given, skipped=(), advice=(), device=None):
    return Proposals(ANALYSIS, tuple(given), tuple(skipped), tuple(advice), device)


class Small(nn.Module):
    def __init__(self, middle):
        super().__init__()
        self.a = nn.Conv2d(3, middle, 3, padding=1)
        self.b = nn.Conv2d(middle, 4, 3, padding=1)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def rewritten(outcomes=(), skipped=(), inplace=False):
    from archcost.rewriting.plan.plan import Applied, Plan
    from archcost.rewriting.rewritten import Rewritten

    torch.manual_seed(0)
    old, new = Small(16), Small(4)
    inputs = torch.randn(1, 3, 8, 8)
    return Rewritten(
        model=new,
        plan=Plan(one.proposal for one in outcomes),
        before=archcost.analyze(old, inputs),
        outcomes=tuple(outcomes),
        skipped=tuple(skipped),
        inputs=inputs,
        original=None if inplace else old,
        applied=Applied(new),
    )


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not in JSON")

    return json.loads(text, parse_constant=refuse)
