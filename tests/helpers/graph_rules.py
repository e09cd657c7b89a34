"""Models for the rules that read the graph, and what is exact among their proposals."""

import copy
import json

import torch
from torch import nn

import archcost
from archcost.merging.chain import Kept
from archcost.rewriting.plan.building import built
from archcost.rewriting.survey.survey import survey_of
from archcost.surgery.exchange import replace
from helpers.calls import Function

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
AVERAGES = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def randomised(model, seed=0):
    """In eval mode, with statistics and biases that matter."""
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor, low, high):
        if tensor is not None:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "running_var", None) is not None:
                fill(module.running_mean, -0.5, 0.5)
                fill(module.running_var, 0.5, 2)
                fill(module.weight, 0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                fill(module.bias, -0.5, 0.5)
    return model.eval()


def subjects(model, *sizes, channels=3, store=None):
    x = torch.zeros(2, channels, *sizes, dtype=next(model.parameters()).dtype)
    analysis = archcost.analyze(model, x)
    return survey_of(analysis, store=store).subjects


def applied(model, rule, replacements):
    """A copy of the model with the new layers."""
    new = copy.deepcopy(model)
    for one in replacements:
        put(new, rule, one)
    return new


def put(model, rule, one):
    kept = [step.name for chain in one.chains.values() for step in chain if isinstance(step, Kept)]
    modules = {name: model.get_submodule(name) for name in (*one.chains, *kept)}
    weights = rule.carry(modules, one)
    made = {n: built(chain, modules[n], weights.get(n, ()), modules) for n, chain in one.chains.items()}
    return replace(model, made, inplace=True)


def error(model, new, x):
    with torch.no_grad():
        was, now = model(x), new(x)
    assert was.shape == now.shape
    return ((was - now).abs().max() / was.abs().max()).item()


def proposed(rule, found):
    """Of every subject that the rule applies to, its replacements, with options that JSON has."""
    made = {}
    for name, one in found.items():
        if one.refusal is None and rule.refusal(one) is None:
            options = [json.loads(json.dumps(given)) for given in rule.options(one, 0.5)]
            made[name] = [rule.replacement(one, **given) for given in options]
    return made


def best(rule, found, *, exact=True):
    """What can be applied together."""
    taken, chosen = set(), []
    for made in proposed(rule, found).values():
        for one in made:
            if one.exact is exact and not taken & set(one.chains):
                taken |= set(one.chains)
                chosen.append(one)
                break
    return chosen


def all_exact(model, rule, *sizes, channels=3, count=None):
    """Every exact proposal applied: the same function in float64, at other sizes as well, and in float32."""
    wide = copy.deepcopy(model).double()
    chosen = best(rule, subjects(wide, *sizes, channels=channels))
    assert chosen
    assert count is None or len(chosen) == count
    new = applied(wide, rule, chosen)
    for step in (0, 1, 3):
        x = torch.randn(2, channels, *(n + step for n in sizes), dtype=torch.float64)
        assert error(wide, new, x) < 1e-10
    narrow = applied(model, rule, best(rule, subjects(model, *sizes, channels=channels)))
    assert error(model, narrow, torch.randn(2, channels, *sizes)) < 1e-5
    return new


def conv(inputs, outputs, size, axes=2, **options):
    return CONVS[axes](inputs, outputs, size, **options)


def normed(inputs, outputs, size, axes=2, **options):
    return nn.Sequential(conv(inputs, outputs, size, axes, **options), NORMS[axes](outputs))


def chain(first, *rest):
    return randomised(nn.Sequential(first, *rest))


def rep(channels, axes, act=nn.ReLU, **options):
    """A block as RepVGG has them."""
    parts = {
        "a": normed(channels, channels, 3, axes, padding=1, bias=False, **options),
        "b": normed(channels, channels, 1, axes, bias=False, **options),
        "id": NORMS[axes](channels),
        "act": act(),
    }
    if options.get("stride", 1) != 1:
        return Function(lambda m, x: m.act(m.a(x) + m.b(x)), **parts)
    return Function(lambda m, x: m.act(m.a(x) + m.b(x) + m.id(x)), **parts)
