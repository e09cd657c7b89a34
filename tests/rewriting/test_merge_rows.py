"""merge: rows of layers become one convolution that is exactly what they were, or say why not."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import archcost
from archcost.errors import RewriteError
from archcost.rewriting import Plan
from archcost.rewriting.rules.merge import Merge
from helpers.calls import Function
from helpers.graph_rules import CONVS, NORMS, all_exact, applied, conv, error, put, randomised, rep, subjects


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
