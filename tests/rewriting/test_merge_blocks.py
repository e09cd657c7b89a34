"""merge: branches of one input become one convolution that is exactly what they were, or say why not."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archcost.errors import RewriteError
from archcost.rewriting.rules.merge import Merge
from helpers.calls import Function
from helpers.graph_rules import (
    all_exact,
    applied,
    conv,
    error,
    normed,
    put,
    randomised,
    rep,
    subjects,
)


def act_of(axes=2):
    parts = {
        "a": normed(8, 8, 3, padding=1),
        "b": normed(8, 8, (1, 3), padding=(0, 1)),
        "c": normed(8, 8, (3, 1), padding=(1, 0)),
    }
    return Function(lambda m, x: m.a(x) + m.b(x) + m.c(x), **parts)


BLOCKS = {
    "RepVGG": (rep(8, 2), 2, (3, 3)),
    "RepVGG, strided": (rep(8, 2, stride=2), 2, (3, 3)),
    "RepVGG, grouped": (rep(8, 2, groups=4), 2, (3, 3)),
    "RepVGG, depthwise, 1-d": (rep(8, 1, groups=8), 1, (3,)),
    "RepVGG, 3-d": (rep(8, 3), 3, (3, 3, 3)),
    "RepVGG, reflecting": (rep(8, 2, padding_mode="reflect"), 2, (3, 3)),
    "RepVGG, PReLU": (rep(8, 2, act=nn.PReLU), 2, (3, 3)),
    "the second reflects": (
        Function(
            lambda m, x: m.a(x) + m.b(x),
            a=conv(8, 8, 1),
            b=conv(8, 8, 3, padding=1, padding_mode="reflect"),
        ),
        2,
        (3, 3),
    ),
    "ACNet": (act_of(), 2, (3, 3)),
    "residual": (Function(lambda m, x: x + m.a(x), a=conv(8, 8, 5, padding=2)), 2, (5, 5)),
    "residual, in place": (
        Function(lambda m, x: F.relu_(m.a(x).add_(x)), a=conv(8, 8, 3, padding=1)),
        2,
        (3, 3),
    ),
    "a difference, scaled": (
        Function(
            lambda m, x: torch.sub(2 * m.a(x), m.b(x), alpha=0.5) / 4 - 1,
            a=conv(8, 8, 3, padding=1),
            b=conv(8, 8, 1),
        ),
        2,
        (3, 3),
    ),
    "rows as branches": (
        Function(
            lambda m, x: m.b(m.a(x)) + m.c(x),
            a=conv(8, 8, 1, bias=False),
            b=normed(8, 8, 3, padding=1),
            c=conv(8, 8, 3, padding=2, dilation=2),
        ),
        2,
        (5, 5),
    ),
    "sizes": (
        Function(
            lambda m, x: m.a(x) + m.b(x) + m.c(x),
            a=conv(8, 4, 2, padding=1),
            b=conv(8, 4, 4, padding=2),
            c=conv(8, 4, 6, padding=3),
        ),
        2,
        (6, 6),
    ),
    "one convolution twice": (
        Function(lambda m, x: F.silu(m.a(x) + m.b(m.a(x))), a=conv(8, 8, 1), b=conv(8, 8, 1)),
        2,
        (1, 1),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_branches_of_one_input_are_one_convolution(name):
    torch.manual_seed(0)
    block, axes, kernel = BLOCKS[name]
    model = nn.Sequential(conv(3, 8, 1, axes), nn.ReLU(), copy.deepcopy(block))
    randomised(model)
    wide = copy.deepcopy(model).double()
    found = subjects(wide, *(9, 10, 8)[:axes])
    first = next(one for key, one in found.items() if key.startswith("2."))
    (options,) = Merge().options(first, 0.5)
    assert options == {"block": "2"}
    made = Merge().replacement(first, **json.loads(json.dumps(options)))
    assert made.exact
    assert made.convs[0].spec.kernel_size == kernel
    new = applied(wide, Merge(), [made])
    for step in (0, 1, 2):
        x = torch.randn(2, 3, *(n + step for n in (9, 10, 8)[:axes]), dtype=torch.float64)
        assert error(wide, new, x) < 1e-10
    assert error(model, applied(model, Merge(), [made]), torch.randn(2, 3, *(9, 10, 8)[:axes])) < 1e-5
    others = [one for key, one in found.items() if key.startswith("2.") and one is not first]
    for one in others:
        if one.refusal is None:
            assert Merge().refusal(one).reason == f"it is merged with {first.name}, as a branch of 2"


def test_what_a_block_keeps_is_the_very_module():
    model = nn.Sequential(conv(3, 8, 1), nn.ReLU(), rep(8, 2, act=nn.PReLU)).eval()
    act = model[2].act
    made = Merge().replacement(subjects(model, 9, 9)["2.a.0"], block="2")
    act.weight.requires_grad_(False)
    handle = put(model, Merge(), made)
    assert model[2][1] is act
    assert not act.weight.requires_grad
    handle.undo()
    assert model[2].act is act


class Twice(Function):
    def forward(self, x, scale=1.0):
        return self.a(x) + self.b(x) * scale


BLOCKS_REFUSED = {
    "paddings": (
        {"a": conv(8, 8, 3, padding=1), "b": conv(8, 8, 5, padding=1)},
        lambda m, x: m.a(x)[..., :-2, :-2] + m.b(x),
        "does more than sum its branches: slice in 0",
    ),
    "phases": (
        {"a": conv(8, 8, 3, padding=1, stride=2), "b": conv(8, 8, 2, stride=2)},
        lambda m, x: m.a(x) + m.b(x),
        "adds branches whose padding or stride does not align: a 3x3 with padding 1 and stride 2 and a 2x2 "
        "with padding 0 and stride 2",
    ),
    "modes": (
        {"a": conv(8, 8, 3, padding=1), "b": conv(8, 8, 3, padding=1, padding_mode="circular")},
        lambda m, x: m.a(x) + m.b(x),
        "adds branches that pad by zeros and by circular",
    ),
    "an activation inside": (
        {"a": conv(8, 8, 3, padding=1), "b": conv(8, 8, 1)},
        lambda m, x: F.relu(m.a(x)) + m.b(x),
        "does more than sum its branches: convolution in 0.b",
    ),
    "training": (
        {"a": normed(8, 8, 3, padding=1), "b": conv(8, 8, 1)},
        lambda m, x: m.a(x) + m.b(x),
        "holds 0.a.1, which is in training mode and depends on the batch: call model.eval() first",
    ),
    "its input": (
        {"a": conv(8, 8, 3, padding=1)},
        lambda m, x: x.add_(m.a(x)),
        "writes into its input",
    ),
}


@pytest.mark.parametrize("why", BLOCKS_REFUSED)
def test_branches_that_are_not_merged_say_why(why):
    parts, function, words = BLOCKS_REFUSED[why]
    model = nn.Sequential(Function(function, **parts)).eval()
    if why == "training":
        model[0].a[1].train()
    first = next(iter(subjects(model, 10, 10, channels=8).values()))
    assert words in Merge().refusal(first).reason
    with pytest.raises(RewriteError, match="cannot be merged"):
        Merge().replacement(first, block="0")


def test_a_block_that_takes_more_or_is_hooked_stays():
    model = nn.Sequential(Twice(None, a=conv(8, 8, 3, padding=1), b=conv(8, 8, 1))).eval()
    first = subjects(model, 9, 9, channels=8)["0.a"]
    assert "0 has a forward of 2 arguments, and a convolution takes one" in Merge().refusal(first).reason
    model = nn.Sequential(rep(8, 2)).eval()
    model[0].id.register_forward_hook(lambda *_: None)
    first = subjects(model, 9, 9, channels=8)["0.a.0"]
    with pytest.raises(
        RewriteError, match=r"holds 0\.id, which has a forward hook, which would see other tensors"
    ):
        Merge().replacement(first, block="0")


def test_a_block_whose_insides_are_read_elsewhere_stays():
    model = Function(
        lambda m, x: m.rep(x) + m.rep.b[0].weight.sum() + m.rep.seen, rep=rep(8, 2, act=nn.Identity)
    )

    def noted(m, x):
        m.seen = m.a(x)
        return m.act(m.seen + m.b(x))

    model.rep.function = noted
    first = subjects(model.eval(), 9, 9, channels=8)["rep.a.0"]
    with pytest.raises(RewriteError, match="has an intermediate tensor that the model reads"):
        Merge().replacement(first, block="rep")


def test_a_residual_around_a_cheap_separable_stays():
    parts = {"a": conv(32, 32, 3, padding=1, groups=32, bias=False), "b": conv(32, 32, 1)}
    model = nn.Sequential(Function(lambda m, x: x + m.b(m.a(x)), **parts)).eval()
    first = subjects(model, 9, 9, channels=32)["0.a"]
    assert list(Merge().options(first, 0.5)) == []
    made = Merge().replacement(first, block="0")  # asked for, it is made
    assert error(model, applied(model, Merge(), [made]), torch.randn(2, 32, 7, 8)) < 1e-5


def timm_block(kind, *args, **options):
    from timm.models import byobnet

    return getattr(byobnet, kind)(*args, **options)


@pytest.mark.parametrize(
    ("block", "inputs"),
    [
        (lambda: timm_block("RepVggBlock", 8, 8), 8),
        (lambda: timm_block("RepVggBlock", 8, 12, stride=2), 8),
        (lambda: timm_block("MobileOneBlock", 8, 8, num_conv_branches=3), 8),
        (lambda: timm_block("MobileOneBlock", 8, 8, stride=2, group_size=1, num_conv_branches=2), 8),
    ],
)
def test_blocks_of_timm_are_one_convolution(block, inputs):
    model = randomised(nn.Sequential(block()))
    new = all_exact(model, Merge(), 9, 10, channels=inputs, count=1)
    assert [type(layer) for layer in new[0]] == [nn.Conv2d, nn.ReLU]
