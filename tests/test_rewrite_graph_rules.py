"""Rules that read the graph: merge, pool_first, layout. What is called exact is, at every size and border."""

import copy
import gc
import json
import random
import weakref

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import archcost
from archcost.errors import RewriteError
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.measurement import Key, Measurement
from archcost.latency.store.store import Store
from archcost.merging.chain import Kept
from archcost.nn.path_conv import PathConv
from archcost.rewriting import Plan, available, get
from archcost.rewriting.plan.building import built
from archcost.rewriting.rules.layout import NOT_MEASURED, Layout
from archcost.rewriting.rules.merge import Merge
from archcost.rewriting.rules.pool_first import PoolFirst
from archcost.rewriting.survey.survey import survey_of
from archcost.surgery.exchange import replace

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


class Function(nn.Module):
    """A function of one tensor as a module; ``parts`` are the modules that it uses."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.function(self, x)


def conv(inputs, outputs, size, axes=2, **options):
    return CONVS[axes](inputs, outputs, size, **options)


def normed(inputs, outputs, size, axes=2, **options):
    return nn.Sequential(conv(inputs, outputs, size, axes, **options), NORMS[axes](outputs))


# merge: rows


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, "same"])
@pytest.mark.parametrize(
    ("behind", "choice"),
    [
        (nn.BatchNorm2d(8), ("merge", {"last": "1"})),
        (nn.AvgPool2d(2), ("pool_first", {"how": "kernel"})),
        (nn.AvgPool2d(2), ("pool_first", {"how": "pool"})),
    ],
)
def test_what_several_layers_become_is_done_however_they_pad(mode, padding, behind, choice):
    model = randomised(
        nn.Sequential(conv(3, 8, 4 if padding == "same" else 3, padding=padding, padding_mode=mode), behind)
    )
    x = torch.rand(2, 3, 8, 8)
    for asked in ({"choices": {"0": choice}}, {"rules": [choice[0]]}):
        new = archcost.rewrite(model, x, **asked, store=False, progress=False)
        assert [one.rule for one in new.plan] == [choice[0]]
        assert type(new.model[1]) is nn.Identity
        assert not new.plan.proposals[0].exact or error(model, new.model, x) < 1e-5


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"stride": 2, "padding": 1},
        {"groups": 2, "dilation": 2, "padding": 2, "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "circular", "bias": False},
        {"groups": 4, "padding_mode": "replicate", "padding": 2},
    ],
)
def test_batch_normalisation_is_folded_exactly(axes, options):
    torch.manual_seed(axes)
    model = randomised(nn.Sequential(conv(4, 8, 3, axes, **options), NORMS[axes](8), nn.ReLU()))
    new = all_exact(model, Merge(), *(7, 8, 6)[:axes], channels=4, count=1)
    assert isinstance(new[0], CONVS[axes])
    assert isinstance(new[1], nn.Identity)


def random_row(seed):
    """Two or three convolutions, some with a batch normalisation behind, later ones without padding."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*values):
        return values[int(torch.randint(len(values), (1,), generator=generator))]

    axes, layers, channels = pick(1, 2, 2), [], 4
    for place in range(pick(2, 3)):
        outputs = pick(4, 8)
        options = {"stride": pick(1, 1, 2), "dilation": pick(1, 1, 2), "groups": pick(1, 2, 4)}
        options["bias"] = pick(True, False)
        if place == 0:
            options |= {"padding": pick(0, 1, 2), "padding_mode": pick("zeros", "reflect", "replicate")}
        layers.append(conv(channels, outputs, pick(1, 2, 3), axes, **options))
        layers += [NORMS[axes](outputs)] * pick(0, 1)
        channels = outputs
    return axes, randomised(nn.Sequential(*layers), seed)


@pytest.mark.parametrize("seed", range(16))
def test_every_row_without_padding_inside_is_one_convolution(seed):
    torch.manual_seed(seed)
    axes, model = random_row(seed)
    model.double()
    first = subjects(model, *(25,) * axes, channels=4)["0"]
    last = str(len(model) - 1)
    made = Merge().replacement(first, last=last)
    assert made.exact
    assert set(made.chains) == {str(place) for place in range(len(model))}
    new = applied(model, Merge(), [made])
    for size in (25, 26, 28):
        assert error(model, new, torch.randn(2, 4, *(size,) * axes, dtype=torch.float64)) < 1e-10


@pytest.mark.parametrize(
    ("layers", "exact_spec"),
    [
        ([conv(4, 4, 1, bias=False), conv(4, 4, 3, padding=1)], ((3, 3), ((1, 1), (1, 1)), (1, 1))),
        ([conv(4, 4, 1, bias=False, stride=2), conv(4, 4, 3, padding=1)], ((3, 3), ((2, 2), (2, 2)), (2, 2))),
        (
            [conv(4, 4, 1), nn.BatchNorm2d(4), conv(4, 4, 3, padding=1, padding_mode="reflect")],
            ((3, 3), ((1, 1), (1, 1)), (1, 1)),
        ),
        ([conv(4, 4, 3, padding=1), conv(4, 4, 3)], ((5, 5), ((1, 1), (1, 1)), (1, 1))),
        ([conv(4, 4, 1), conv(4, 4, 3, dilation=3)], ((3, 3), ((0, 0), (0, 0)), (3, 3))),
        ([conv(4, 4, 3, groups=4), conv(4, 4, 1)], ((3, 3), ((0, 0), (0, 0)), (1, 1))),
        ([conv(4, 4, (1, 3)), conv(4, 4, (3, 1))], ((3, 3), ((0, 0), (0, 0)), (1, 1))),
    ],
)
def test_the_merged_kernel_is_no_larger_than_it_must_be(layers, exact_spec):
    model = randomised(nn.Sequential(*layers)).double()
    made = Merge().replacement(subjects(model, 11, 12, channels=4)["0"], last=str(len(layers) - 1))
    spec = made.convs[0].spec
    assert (spec.kernel_size, spec.padding, spec.dilation) == exact_spec
    assert error(model, applied(model, Merge(), [made]), torch.randn(2, 4, 12, 13).double()) < 1e-10


def test_only_rows_that_may_be_faster_are_proposed():
    small = nn.Sequential(conv(3, 64, 3), conv(64, 64, 3, groups=64), conv(64, 64, 3, groups=64))
    found = subjects(small, 16, 16)
    assert list(Merge().options(found["0"], 0.5)) == []
    assert list(Merge().options(found["1"], 0.5)) == [{"last": "2"}]  # 25 taps for 18
    dear = nn.Sequential(conv(3, 3, 3, groups=3), conv(3, 64, 1))
    assert list(Merge().options(subjects(dear, 16, 16)["0"], 0.5)) == []
    assert Merge().replacement(subjects(dear, 16, 16)["0"], last="1").convs[0].spec.kernel_size == (3, 3)


def test_an_activation_inside_the_batch_normalisation_stays():
    from timm.layers import BatchNormAct2d

    model = randomised(nn.Sequential(conv(3, 4, 3), BatchNormAct2d(4), conv(4, 4, 1)))
    new = all_exact(model, Merge(), 9, 9, count=1)
    assert isinstance(new[1], nn.ReLU)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False, "stride": 2, "output_padding": 1}, {"groups": 2, "padding": 1, "dilation": 2}],
)
def test_batch_normalisation_behind_a_transposed_convolution_is_folded(axes, options):
    transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[axes]
    model = nn.Sequential(
        conv(3, 4, 1, axes), nn.ReLU(), transposed(4, 6, 3, **options), NORMS[axes](6), nn.ReLU()
    )
    new = all_exact(randomised(model), Merge(), *(6,) * axes, count=1)
    assert type(new[2]) is transposed
    assert type(new[3]) is nn.Identity


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"groups": 3, "stride": 2, "bias": False},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same", "padding_mode": "circular", "dilation": 2},
    ],
)
@pytest.mark.parametrize("behind", ["nothing", "norm"])
def test_batch_normalisation_before_a_convolution_that_adds_no_zeros_is_folded(axes, options, behind):
    layers = [NORMS[axes](3), conv(3, 6, 3, axes, **options)]
    layers += [NORMS[axes](6)] * (behind == "norm") + [nn.ReLU()]
    new = all_exact(randomised(nn.Sequential(*layers)), Merge(), *(9,) * axes, count=1)
    assert [type(layer) for layer in new[:-1] if not isinstance(layer, CONVS[axes])] == [nn.Identity] * (
        len(layers) - 2
    )


def test_a_norm_before_zeros_stays_and_the_one_behind_does_not():
    model = randomised(nn.Sequential(nn.BatchNorm2d(3), conv(3, 6, 3, padding=1), nn.BatchNorm2d(6)))
    new = all_exact(model, Merge(), 9, 9, count=1)
    assert [type(layer) for layer in new] == [nn.BatchNorm2d, nn.Conv2d, nn.Identity]
    with pytest.raises(RewriteError, match="1: 1 pads with zeros the output of a layer with a bias"):
        Merge().replacement(subjects(model, 9, 9)["1"], first="0")
    with pytest.raises(RewriteError, match="first='2' is not a batch normalisation right before it; give 0"):
        Merge().replacement(subjects(model, 9, 9)["1"], first="2")


def test_what_is_merged_with_the_norm_before_it_is_the_same_from_a_file():
    model = randomised(nn.Sequential(nn.BatchNorm2d(3), conv(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()))
    x = torch.randn(2, 3, 9, 9)
    for choice in ({"first": "0"}, {"first": "0", "last": "2"}, {"last": "2"}):
        new = archcost.rewrite(model, x, {"1": ("merge", choice)}, store=False, progress=False)
        again = Plan.from_json(new.plan.to_json()).apply(model)
        assert error(model, new.model, x) < 1e-5
        assert torch.equal(again(x), new.model(x))
        assert [type(layer) is nn.Identity for layer in again] == [
            "first" in choice, False, "last" in choice, False,
        ]  # fmt: skip


def test_frozen_batch_normalisation_is_folded():
    norm = torchvision.ops.FrozenBatchNorm2d(4)
    norm.weight.uniform_(0.5, 2)
    norm.running_mean.uniform_(-1, 1)
    all_exact(nn.Sequential(conv(3, 4, 3, padding=1), norm).eval(), Merge(), 9, 9, count=1)


SHARED = nn.BatchNorm2d(4)
ROWS_REFUSED = {
    "a bias behind the padding": (
        nn.Sequential(conv(3, 4, 1), conv(4, 4, 3, padding=1)),
        "1 pads with zeros the output of a layer with a bias: at the border that is not a single convolution",
    ),
    "reflecting what was strided": (
        nn.Sequential(conv(3, 4, 1, stride=2), conv(4, 4, 3, padding=1, padding_mode="reflect")),
        "1 pads the output of a strided layer by reflect, which is not the same on its input",
    ),
    "padding in between": (
        nn.Sequential(conv(3, 4, 3, padding=1), conv(4, 4, 3, padding=1)),
        "1 pads the output of a layer with more than one tap: at the border that is not a single convolution",
    ),
    "training mode": (
        nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4).train()),
        "1 (BatchNorm2d) is in training mode and depends on the batch: call model.eval() first",
    ),
    "no statistics": (
        nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        "1 (BatchNorm2d) has no running statistics and depends on the batch",
    ),
    "an activation": (
        nn.Sequential(conv(3, 4, 3), nn.ReLU()),
        "the next layer is 1 (ReLU), neither a convolution nor a batch normalisation",
    ),
    "a function": (
        Function(lambda m, x: F.relu(m.a(x)), a=conv(3, 4, 3)),
        "the next operation is relu, a function called in the forward of the model, which cannot be merged",
    ),
    "shared": (
        nn.Sequential(conv(3, 4, 3), SHARED, nn.ReLU(), conv(4, 4, 3), SHARED),
        "1 (BatchNorm2d) is called for other layers too",
    ),
    "read twice": (
        Function(lambda m, x: (m.b(y := m.a(x)), y)[0] + y, a=conv(3, 4, 3), b=nn.BatchNorm2d(4)),
        "its output is read by the model as well as by b (BatchNorm2d)",
    ),
    "returned": (
        Function(lambda m, x: [y := m.a(x), m.b(y)], a=conv(3, 4, 3), b=nn.BatchNorm2d(4)),
        "the model returns its output as well as passing it to b (BatchNorm2d)",
    ),
    "transposed": (
        nn.Sequential(nn.ConvTranspose2d(3, 4, 3), conv(4, 4, 1)),
        "1 follows a transposed convolution, which cannot be merged with others",
    ),
    "zeros behind a norm": (
        nn.Sequential(nn.BatchNorm2d(3), conv(3, 4, 3, padding=1)),
        "no other layer reads its output: the model returns it; with 0 before it, 1 pads with zeros the "
        "output of a layer with a bias: at the border that is not a single convolution",
    ),
    "transposed behind a norm": (
        nn.Sequential(nn.BatchNorm2d(3), nn.ConvTranspose2d(3, 4, 3)),
        "no other layer reads its output: the model returns it; with 0 before it, 1 is transposed: at the "
        "border fewer of its taps read what the batch normalisation adds",
    ),
    "a norm that others read": (
        Function(lambda m, x: m.b(y := m.a(x)).mean() + y, a=nn.BatchNorm2d(3), b=conv(3, 4, 3)),
        "the next operation is mean, a function called in the forward of the model, which cannot be merged",
    ),
    "the last": (conv(3, 4, 3), "no other layer reads its output: the model returns it"),
}


@pytest.mark.parametrize("why", ROWS_REFUSED)
def test_rows_that_are_not_merged_say_why(why):
    model, words = ROWS_REFUSED[why]
    model = nn.Sequential(model) if isinstance(model, nn.Conv2d) else model
    training = [module for module in model.modules() if why == "training mode" and module.training]
    model.eval()
    for module in training:
        module.training = isinstance(module, nn.BatchNorm2d)
    first = next(iter(subjects(model, 9, 9).values()))
    assert Merge().refusal(first).reason == words
    with pytest.raises(RewriteError, match=first.name):
        Merge().replacement(first, last="1")


def test_hooks_and_parameters_that_others_have_keep_a_batch_normalisation():
    model = nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4)).eval()
    handle = model[1].register_forward_hook(lambda *_: None)
    words = "1 has a forward hook, which would see other tensors"
    assert Merge().refusal(subjects(model, 9, 9)["0"]).reason == words
    handle.remove()
    assert Merge().refusal(subjects(model, 9, 9)["0"]) is None
    model.also = nn.BatchNorm2d(4).eval()
    model.also.weight = model[1].weight
    model.forward = lambda x: model[1](model[0](x))
    assert Merge().refusal(subjects(model, 9, 9)["0"]).reason == "1 shares parameters with other modules"


def test_a_model_set_to_training_since_is_not_merged():
    model = nn.Sequential(conv(3, 4, 3), nn.BatchNorm2d(4)).eval()
    made = Merge().replacement(subjects(model, 9, 9)["0"], last="1")
    model.train()
    with pytest.raises(RewriteError, match="1 cannot be merged: it is in training mode"):
        put(model, Merge(), made)
    block = nn.Sequential(rep(8, 2)).eval()
    made = Merge().replacement(subjects(block, 9, 9, channels=8)["0.a.0"], block="0")
    block.train()
    with pytest.raises(RewriteError, match=r"0 cannot be merged: it holds a\.1, which is in training mode"):
        put(block, Merge(), made)


def test_what_is_merged_in_every_call_is_merged_once():
    tower = nn.Sequential(conv(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    model = Function(lambda m, x: m.tower(x) - m.tower(x.flip(-1)), tower=tower)
    all_exact(randomised(model), Merge(), 9, 9, count=1)


# merge: branches


def rep(channels, axes, act=nn.ReLU, **options):
    """Of RepVGG."""
    parts = {
        "a": normed(channels, channels, 3, axes, padding=1, bias=False, **options),
        "b": normed(channels, channels, 1, axes, bias=False, **options),
        "id": NORMS[axes](channels),
        "act": act(),
    }
    if options.get("stride", 1) != 1:
        return Function(lambda m, x: m.act(m.a(x) + m.b(x)), **parts)
    return Function(lambda m, x: m.act(m.a(x) + m.b(x) + m.id(x)), **parts)


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


# pool_first


def chain(first, *rest):
    return randomised(nn.Sequential(first, *rest))


POOLED = {
    "average": (lambda: chain(conv(3, 8, 1), nn.BatchNorm2d(8), nn.AvgPool2d(2), nn.ReLU()), "pool"),
    "average, padded": (lambda: chain(conv(3, 8, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)), "pool"),
    "average, padded, no bias": (lambda: chain(conv(3, 8, 1, bias=False), nn.AvgPool2d(3, 2, 1)), "pool"),
    "average, ceil": (lambda: chain(conv(3, 8, 1, groups=1), nn.AvgPool2d(3, 2, ceil_mode=True)), "pool"),
    "average, divided": (
        lambda: chain(conv(3, 8, 1, bias=False), nn.AvgPool2d(2, divisor_override=3)),
        "pool",
    ),
    "average, 1-d": (lambda: chain(conv(3, 8, 1, 1), nn.BatchNorm1d(8), nn.AvgPool1d(2)), "pool"),
    "average, 3-d": (lambda: chain(conv(3, 8, 1, 3), nn.AvgPool3d(2)), "pool"),
    "kernel": (lambda: chain(conv(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AvgPool2d(2)), "kernel"),
    "kernel, strided": (lambda: chain(conv(3, 8, 5, stride=2, padding=2), nn.AvgPool2d(3)), "kernel"),
    "kernel, divided": (
        lambda: chain(conv(3, 9, 3, groups=3), nn.AvgPool2d(2, divisor_override=5)),
        "kernel",
    ),
    "kernel, dilated": (
        lambda: chain(conv(3, 8, 3, dilation=2, padding=2, padding_mode="reflect"), nn.AvgPool2d(2)),
        "kernel",
    ),
    "kernel, 1-d": (lambda: chain(conv(3, 8, 5, 1), nn.AvgPool1d(2)), "kernel"),
    "stride": (
        lambda: chain(conv(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, 1, stride=2)),
        "stride",
    ),
    "stride, in place": (
        lambda: chain(conv(3, 8, 3, stride=2), nn.PReLU(), nn.SiLU(True), conv(8, 4, 1, stride=(1, 3))),
        "stride",
    ),
    "stride of a pooling": (lambda: chain(conv(3, 8, 3, padding=1), nn.GELU(), nn.MaxPool2d(1, 2)), "stride"),
    "stride by functions": (
        lambda: randomised(
            Function(lambda m, x: m.b(F.relu(m.a(x) + 1).mul_(2)), a=conv(3, 8, 3), b=conv(8, 8, 1, stride=2))
        ),
        "stride",
    ),
}


@pytest.mark.parametrize("name", POOLED)
def test_a_pooling_or_stride_comes_first_where_that_is_exact(name):
    torch.manual_seed(0)
    make, how = POOLED[name]
    model = make().double()
    axes = next(len(one.kernel_size) for one in model.modules() if isinstance(one, nn.modules.conv._ConvNd))
    sizes = (17, 18, 16)[:axes]
    first = next(iter(subjects(model, *sizes).values()))
    assert PoolFirst().refusal(first) is None
    options = json.loads(json.dumps(list(PoolFirst().options(first, 0.5))))
    assert {"how": how} in options
    made = PoolFirst().replacement(first, how=how)
    assert made.exact, made.note
    assert made.note == ""
    new = applied(model, PoolFirst(), [made])
    for step in range(5):
        x = torch.randn(2, 3, *(n + step for n in sizes), dtype=torch.float64)
        assert error(model, new, x) < 1e-10
    with torch.no_grad():
        analysis = archcost.analyze(new, torch.zeros(2, 3, *sizes, dtype=torch.float64))
    assert analysis.total.macs == made.macs  # the paper is what is built


def test_an_adaptive_average_comes_first():
    model = chain(conv(3, 8, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(4)).double()
    first = subjects(model, 16, 8)["0"]
    made = PoolFirst().replacement(first, how="pool")
    assert made.exact
    assert made.convs[0].spec.input_size == (4, 4)
    new = applied(model, PoolFirst(), [made])
    for sizes in ((16, 8), (17, 9), (5, 30)):
        assert error(model, new, torch.randn(2, 3, *sizes, dtype=torch.float64)) < 1e-10


APPROXIMATE = {
    "a kernel": (
        lambda: chain(conv(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        "an approximation: a 3x3 kernel reads other neighbours in the pooled map",
    ),
    "the largest": (
        lambda: chain(conv(3, 8, 1), nn.MaxPool2d(2)),
        "an approximation: a maximum does not commute with the sum over channels",
    ),
    "an activation": (
        lambda: chain(conv(3, 8, 1), nn.ReLU(), nn.AvgPool2d(2)),
        "an approximation: an average does not commute with 1",
    ),
    "a border": (
        lambda: chain(conv(3, 8, 1), nn.AvgPool2d(2, padding=1)),
        "an approximation: 1 changes constants, as the bias of the convolution is",
    ),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_what_is_not_exact_is_proposed_as_such_and_has_the_same_shapes(name):
    make, note = APPROXIMATE[name]
    model = make()
    made = PoolFirst().replacement(subjects(model, 17, 18)["0"], how="pool")
    assert (made.exact, made.note) == (False, note)
    new = applied(model, PoolFirst(), [made])
    for size in (17, 18, 19, 20):
        assert error(model, new, torch.randn(2, 3, size, 15)) > 1e-3


POOLS_REFUSED = {
    "a function": (
        lambda: Function(lambda m, x: F.avg_pool2d(m.a(x), 2), a=conv(3, 8, 1)),
        "the next operation is avg_pool2d, a function called in the forward of the model, and only a "
        "module can be moved",
    ),
    "read twice": (
        lambda: Function(lambda m, x: m.p(y := m.a(x)).sum() + y, a=conv(3, 8, 1), p=nn.AvgPool2d(2)),
        "its output is read by the model as well as by p (AvgPool2d)",
    ),
    "indices": (
        lambda: Function(
            lambda m, x: m.p(m.a(x))[0], a=conv(3, 8, 1), p=nn.MaxPool2d(2, return_indices=True)
        ),
        "",
    ),
    "called for others": (
        lambda: Function(lambda m, x: m.p(m.a(x)) + m.p(x), a=conv(3, 3, 1), p=nn.AvgPool2d(2)),
        "p (AvgPool2d) is called for other layers too",
    ),
    "uneven windows": (
        lambda: nn.Sequential(conv(3, 8, 1), nn.AdaptiveAvgPool2d(5)),
        "1 (AdaptiveAvgPool2d) has windows of different sizes, 17x18 to 5x5",
    ),
    "another size": (
        lambda: nn.Sequential(conv(3, 8, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        "2 cannot come first: the convolution changes the size of its input, so the output sizes would "
        "differ",
    ),
    "no pooling": (
        lambda: nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3)),
        "the next layer, 2, is a convolution but not a strided 1x1",
    ),
    "statistics of space": (
        lambda: nn.Sequential(conv(3, 8, 3), nn.GroupNorm(2, 8), conv(8, 8, 1, stride=2)),
        "the next layer is 1 (GroupNorm), not a pooling or a strided convolution",
    ),
    "training": (
        lambda: nn.Sequential(conv(3, 8, 1), nn.BatchNorm2d(8), nn.AvgPool2d(2)).train(),
        "1 (BatchNorm2d) is in training mode and depends on the batch: call model.eval() first",
    ),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 1), nn.AvgPool2d(2)), "it is transposed"),
}


@pytest.mark.parametrize("why", POOLS_REFUSED)
def test_poolings_that_stay_say_why(why):
    make, words = POOLS_REFUSED[why]
    model = make()
    first = next(iter(subjects(model if why == "training" else model.eval(), 17, 18).values()))
    assert PoolFirst().refusal(first) is not None
    assert PoolFirst().refusal(first).reason == words or not words
    assert list(PoolFirst().options(first, 0.5)) == []
    with pytest.raises(RewriteError, match=first.name):
        PoolFirst().replacement(first, how="pool")


def test_a_pooling_that_is_hooked_or_has_several_names_stays():
    model = nn.Sequential(conv(3, 8, 1), nn.AvgPool2d(2)).eval()
    handle = model[1].register_forward_pre_hook(lambda *_: None)
    words = "1 (AvgPool2d) has a forward pre-hook, which would see other tensors"
    assert PoolFirst().refusal(subjects(model, 8, 8)["0"]).reason == words
    handle.remove()
    model.held = [model[1]]
    assert "is also held in held" in PoolFirst().refusal(subjects(model, 8, 8)["0"]).reason
    shared = Function(lambda m, x: m.p(m.a(x)), a=conv(3, 8, 1), p=nn.AvgPool2d(2))
    shared.q = shared.p
    words = "p (AvgPool2d) is shared under several names"
    assert PoolFirst().refusal(subjects(shared.eval(), 8, 8)["a"]).reason == words


def test_a_moved_pooling_keeps_its_state_and_goes_back():
    model = nn.Sequential(conv(3, 8, 1), nn.AvgPool2d(2)).eval()
    pool, before = model[1], copy.deepcopy(model.state_dict())
    pool.training = True
    made = PoolFirst().replacement(subjects(model, 8, 8)["0"], how="pool")
    handle = put(model, PoolFirst(), made)
    assert model[0][0] is pool
    assert pool.training
    assert isinstance(model[1], nn.Identity)
    assert (model[0].out_channels, model[1].kernel_size) == (8, 2)  # for parents that read them
    handle.undo()
    assert model[1] is pool
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_transitions_of_a_densenet_take_a_quarter_of_the_macs():
    model = torchvision.models.DenseNet(growth_rate=4, block_config=(2, 2, 2), num_init_features=8)
    model = randomised(model).double()
    found = subjects(model, 32, 32)
    chosen = best(PoolFirst(), found)
    assert [one.name for one in chosen] == ["features.transition1.conv", "features.transition2.conv"]
    assert [4 * one.macs for one in chosen] == [found[one.name].macs for one in chosen]
    new = applied(model, PoolFirst(), chosen)
    assert error(model, new, torch.randn(2, 3, 32, 36, dtype=torch.float64)) < 1e-10


# layout


def measured(subject, path, layout, milliseconds, error=1e-7, spread=1e-6, samples=25):
    """As `archcost.measure` puts it into the store."""
    key = Key(fingerprint().hash, subject.spec, "float32", path, layout, torch.get_num_threads())
    return Measurement(
        key, "here", milliseconds / 1e3, spread, samples, 0, "cpu", torch.__version__, False, error, 0, 1e9
    )


@pytest.fixture
def layer():
    model = nn.Sequential(conv(8, 8, 3, padding=1)).eval()
    store = Store(":memory:")
    return model, subjects(model, 9, 9, channels=8, store=store)["0"], store


def test_without_measurements_nothing_is_proposed(layer, tmp_path, monkeypatch):
    model, subject, _ = layer
    assert Layout().refusal(subject).reason == NOT_MEASURED
    assert list(Layout().options(subject, 0.5)) == []
    monkeypatch.setenv("ARCHCOST_STORE", str(tmp_path / "none.sqlite"))
    assert Layout().refusal(subjects(model, 9, 9, channels=8)["0"]).reason == NOT_MEASURED
    assert not list(tmp_path.iterdir())  # looking makes no file


def test_what_was_measured_to_be_faster_is_proposed(layer):
    model, subject, store = layer
    times = [
        ("native", "contiguous", 2.0),
        ("native", "channels_last", 1.5),
        ("winograd-2", "contiguous", 1.0),
    ]
    store.put_many(measured(subject, *one) for one in times)
    store.put(measured(subject, "fft-8", "contiguous", 0.5, error=1e-3))  # not exact enough
    store.put(measured(subject, "im2col", "channels_last", 0.7))  # on an input that it would not get
    assert list(Layout().options(subject, 0.5)) == [
        {"path": "winograd-2", "layout": "contiguous"},
        {"path": "native", "layout": "channels_last"},
    ]
    made = [Layout().replacement(subject, **one) for one in Layout().options(subject, 0.5)]
    assert "2 ms before, 1 ms after" in made[0].note
    assert "relative error 1e-07" in made[0].note
    paths = [(one.convs[0].path, one.convs[0].channels_last) for one in made]
    assert paths == [("winograd-2", False), (None, True)]
    x = torch.randn(2, 8, 9, 9)
    by_path, last = (applied(model, Layout(), [one]) for one in made)
    assert isinstance(by_path[0], PathConv)
    assert last[0].weight.is_contiguous(memory_format=torch.channels_last)
    for new in (by_path, last):
        assert torch.equal(new[0].weight, model[0].weight)
        assert error(model, new, x) < 1e-5


@pytest.mark.parametrize(
    "rival",
    [
        {"milliseconds": 3.0},
        {"milliseconds": 1.99},
        {"milliseconds": 1.0, "samples": 1},
        {"milliseconds": 1.6, "spread": 2e-3},
    ],
)
def test_what_is_slower_or_within_the_noise_is_not_proposed(layer, rival):
    _, subject, store = layer
    store.put(measured(subject, "native", "contiguous", 2.0))
    store.put(measured(subject, "winograd-2", "contiguous", **rival))
    words = "no path was measured to be faster than PyTorch's on this machine, beyond the noise"
    assert Layout().refusal(subject).reason == words


def test_paths_and_layouts_that_cannot_be_are_refused(layer):
    _, subject, _ = layer
    with pytest.raises(RewriteError, match="layout='contiguous' or 'channels_last', not 'nhwc'"):
        Layout().replacement(subject, layout="nhwc")
    pointwise = subjects(nn.Sequential(conv(8, 8, 1)).eval(), 9, 9, channels=8)["0"]
    with pytest.raises(RewriteError, match="0: path 'winograd-2' cannot execute it"):
        Layout().replacement(pointwise, path="winograd-2")
    flat = subjects(nn.Sequential(conv(8, 8, 3, 1)).eval(), 9, channels=8)["0"]
    with pytest.raises(RewriteError, match="channels_last needs two or three spatial axes"):
        Layout().replacement(flat, layout="channels_last")


# all three


def test_options_that_mean_nothing_say_what_does():
    found = subjects(chain(conv(3, 8, 1), nn.BatchNorm2d(8), nn.AvgPool2d(2)), 8, 8)
    with pytest.raises(RewriteError, match=r"0: last='nowhere' is not valid: .*; last can be 1"):
        Merge().replacement(found["0"], last="nowhere")
    with pytest.raises(RewriteError, match=r"0: merge takes last='\.\.\.', a layer behind it, first="):
        Merge().replacement(found["0"])
    with pytest.raises(RewriteError, match=r"0: pool_first takes how='pool' here, not \{'how': 'stride'\}"):
        PoolFirst().replacement(found["0"], how="stride")


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
