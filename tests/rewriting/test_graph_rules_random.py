"""Rules that read the graph: random and real networks compute the same after every exact rewrite."""

import gc
import random
import weakref

import pytest
import torch
import torchvision
from torch import nn

from archcost.rewriting import available, get
from archcost.rewriting.rules.layout import Layout
from archcost.rewriting.rules.merge import Merge
from archcost.rewriting.rules.pool_first import PoolFirst
from helpers.calls import Function
from helpers.graph_rules import (
    AVERAGES,
    NORMS,
    applied,
    best,
    chain,
    conv,
    error,
    proposed,
    randomised,
    rep,
    subjects,
)


def test_the_rules_are_known_by_their_names_and_in_order():
    assert available()[-3:] == ("pool_first", "merge", "layout")
    assert all(rule.change and rule.break_even for rule in map(get, available()))


def test_looking_at_a_model_does_not_keep_it():
    model = chain(conv(3, 8, 1), rep(8, 2), nn.AvgPool2d(2))
    found = subjects(model, 8, 8)
    for rule in (Merge(), PoolFirst(), Layout()):
        proposed(rule, found)
    gone = weakref.ref(model)
    del model, found
    gc.collect()
    assert gone() is None


def random_block(draw, inputs, outputs, axes):
    """One to three branches, whose paddings may align, of layers that may be linear."""
    stride, shift, parts = draw.choice([1, 1, 2]), draw.choice([0, 0, 1, -1]), {}
    for name in "abc"[: draw.choice([1, 2, 3])]:
        size, dilation = draw.choice([1, 2, 3, 4, 5]), draw.choice([1, 1, 2])
        options = {
            "padding": max(0, (size - 1) * dilation + shift) // 2,
            "dilation": dilation,
            "stride": stride,
            "groups": draw.choice([1, 2, 4]),
            "bias": draw.random() < 0.5,
            "padding_mode": draw.choice(["zeros", "zeros", "zeros", "reflect", "circular"]),
        }
        layers = [conv(inputs, inputs, 1, axes, bias=draw.random() < 0.5)] * (draw.random() < 0.3)
        layers += [conv(inputs, outputs, size, axes, **options)]
        parts[name] = nn.Sequential(*layers, *[NORMS[axes](outputs)] * (draw.random() < 0.6))
    if inputs == outputs and stride == 1 and draw.random() < 0.5:
        parts["id"] = draw.choice([nn.Identity(), NORMS[axes](inputs)])
    act = draw.choice([nn.Identity(), nn.ReLU(True), nn.PReLU(outputs), nn.GELU()])

    def summed(m, x):
        return m.act(sum((getattr(m, name)(x) for name in list(parts)[1:]), m.a(x)))

    return Function(summed, **parts, act=act)


def random_network(seed):
    draw = random.Random(seed)
    axes, channels = draw.choice([1, 2, 2, 3]), 4
    layers = [conv(4, 4, 1, axes)]
    for _ in range(draw.randint(2, 6)):
        outputs, what = draw.choice([4, 4, 8]), draw.random()
        if what < 0.3:
            layers.append(random_block(draw, channels, outputs, axes))
        elif what < 0.6:
            size, stride = draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2])
            padding = draw.choice([0, size // 2])
            layers.append(conv(channels, outputs, size, axes, padding=padding, stride=stride))
        else:
            size, outputs = draw.choice([1, 2, 3]), channels
            options = {"ceil_mode": draw.random() < 0.3, "count_include_pad": draw.random() < 0.5}
            average = AVERAGES[axes](size, draw.choice([1, 2]), draw.choice([0, size // 2]), **options)
            layers.append(draw.choice([NORMS[axes](channels), nn.ReLU(), nn.SiLU(True), average, average]))
        channels = outputs
    return axes, randomised(nn.Sequential(*layers), seed).double()


def runs(model, x):
    try:
        with torch.no_grad():
            model(x)
    except RuntimeError:  # branches of different sizes, a map that is too small
        return False
    return True


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 90), marks=pytest.mark.slow)])
def test_random_networks_compute_the_same_after_every_exact_rewrite(seeds):
    count = 0
    for seed in seeds:
        axes, model = random_network(seed)
        size = {1: 33, 2: 21, 3: 13}[axes]
        maps = [torch.randn(2, 4, *(size + more,) * axes, dtype=torch.float64) for more in range(3)]
        if not runs(model, maps[0]):
            continue
        found = subjects(model, *(size,) * axes, channels=4)
        for rule in (Merge(), PoolFirst()):
            for one in (one for made in proposed(rule, found).values() for one in made):
                new = applied(model, rule, [one])
                for x in (x for x in maps if runs(model, x)):
                    wrong = error(model, new, x)
                    assert wrong < 1e-10 or not one.exact, (seed, rule.name, one)
                count += one.exact
    assert count > len(seeds) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "name", "rule", "least"),
    [
        ("torchvision", "resnet18", Merge(), 20),
        ("torchvision", "densenet121", Merge(), 59),
        ("torchvision", "mobilenet_v2", Merge(), 52),
        ("torchvision", "inception_v3", Merge(), 90),
        ("torchvision", "densenet121", PoolFirst(), 3),
        ("timm", "repvgg_a0", Merge(), 22),
        ("timm", "mobileone_s0", Merge(), 43),
        ("timm", "mobileone_s4", Merge(), 40),
        ("timm", "tf_efficientnet_b0", Merge(), 40),
        ("timm", "xception41", Merge(), 1),
    ],
)
def test_real_models_compute_the_same_after_every_exact_rewrite(source, name, rule, least):
    import timm

    torch.manual_seed(0)
    options = {"init_weights": False} if name == "inception_v3" else {}
    made = torchvision.models.get_model(name, weights=None, **options) if source == "torchvision" else None
    model = randomised(timm.create_model(name) if made is None else made)
    size = 96 if name == "inception_v3" else 64
    chosen = best(rule, subjects(model, size, size))
    assert len(chosen) >= least
    new = applied(model, rule, chosen)
    assert error(model, new, torch.randn(1, 3, size, size)) < 2e-5
    assert error(model, new, torch.randn(1, 3, size + 13, size + 6)) < 2e-5
