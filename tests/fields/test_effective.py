"""The effective field is the gradient that it says it is, and measuring it changes nothing."""

import copy
import random
from functools import reduce

import numpy as np
import pytest
import torch
from torch import nn

import archcost
from archcost.errors import InputError, ModelError, SpecError


def chain(n, kernel=3, axes=2, channels=1, bend=nn.Identity):
    """n convolutions with all weights equal and positive."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    layers = []
    for _ in range(n):
        layer = conv(channels, channels, kernel, padding=kernel // 2, bias=False)
        nn.init.constant_(layer.weight, 1 / (channels * kernel**axes))
        layers += [layer, bend()]
    return nn.Sequential(*layers)


def box(n, kernel=3):
    """The n-fold convolution of the box of length ``kernel`` with itself, along one axis."""
    return reduce(np.convolve, [np.full(kernel, 1 / kernel)] * n)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_chain_of_equal_weights_is_the_box_convolved_with_itself(axes):
    n, size = 4, 15
    field = archcost.effective_field(chain(n, axes=axes, channels=2), input_size=(1, 2, *(size,) * axes))
    line = np.zeros(size)
    line[7 - n : 7 + n + 1] = box(n)
    # Two channels: each input pixel is seen through two, by the sum of two.
    assert field.map.shape == (size,) * axes
    np.testing.assert_allclose(field.map, 2 * reduce(np.multiply.outer, [line] * axes), rtol=1e-5, atol=1e-8)
    assert field.theoretical.size == (2 * n + 1,) * axes
    assert field.side_holding(1) == 2 * n + 1


def test_the_side_is_the_smallest_that_holds_the_share():
    n = 10
    field = archcost.effective_field(chain(n), input_size=(1, 1, 41, 41), share=0.9)
    held = [box(n)[n - k : n + k + 1].sum() ** 2 for k in range(n + 1)]
    smallest = next(k for k in range(n + 1) if held[k] >= 0.9)
    assert field.side == 2 * smallest + 1
    assert field.ratio == (field.side / 21,) * 2
    assert field.window == ((20 - smallest, 20 + smallest),) * 2


def test_the_side_grows_like_the_square_root_of_the_depth():
    """Luo et al. for uniform weights: four times the depth, twice the side, of a window 4 times as wide."""
    few, many = (
        archcost.effective_field(chain(n, axes=1), input_size=(1, 1, 161), samples=1) for n in (16, 64)
    )
    assert many.side / few.side == pytest.approx(2, rel=0.06)
    assert many.theoretical.size[0] / few.theoretical.size[0] > 3.8


def test_one_convolution_is_uniform_on_its_window():
    conv = nn.Conv2d(3, 5, (3, 5), stride=2, padding=1, dilation=(2, 1))
    nn.init.constant_(conv.weight, 0.25)
    field = archcost.effective_field(conv, input_size=(1, 3, 20, 24), position=(4, 5))
    expected = np.zeros((20, 24))
    (top, bottom), (left, right) = field.theoretical.window
    expected[top : bottom + 1 : 2, left : right + 1] = 3 * 5 * 0.25
    np.testing.assert_allclose(field.map, expected, rtol=1e-6)


def test_what_lies_beyond_the_border_holds_nothing_and_counts_in_the_side():
    field = archcost.effective_field(
        chain(1, kernel=9), input_size=(1, 1, 30, 30), position=(0, 0), share=1.0
    )
    assert field.theoretical.window == ((0, 4), (0, 4))
    assert field.side == 9
    assert field.window == ((-4, 4), (-4, 4))
    assert field.side_holding(0.36) == 5  # 3 x 3 of the 5 x 5 pixels within the image


def test_an_even_window_has_its_centre_between_two_pixels():
    conv = nn.Conv1d(1, 1, 4, bias=False)
    nn.init.constant_(conv.weight, 1.0)
    field = archcost.effective_field(conv, input_size=(1, 1, 20), position=3, share=0.5)
    assert field.theoretical.window == ((3, 6),)
    assert field.side == 2
    assert field.window == ((4, 5),)


def test_the_mean_is_over_the_samples_however_they_come():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 5), nn.ReLU(), nn.Conv2d(4, 3, 3)).eval()
    x = torch.randn(3, 2, 12, 12)
    whole = archcost.effective_field(model, x)
    assert whole.samples == 3
    maps = [archcost.effective_field(model, x[i : i + 1]).map for i in range(3)]
    np.testing.assert_allclose(whole.map, np.mean(maps, axis=0), rtol=1e-6)
    leaf = x.clone().requires_grad_()
    model(leaf)[..., 3, 3].sum().backward()
    np.testing.assert_allclose(whole.map, leaf.grad.abs().sum(1).mean(0).numpy(), rtol=1e-6)
    assert archcost.effective_field(model, input_size=(2, 2, 12, 12), samples=3).samples == 6


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("googlenet", "mobilenet_v3_small")]


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0", *SLOW])
def test_nothing_outside_of_the_window_has_a_gradient(name):
    torch.manual_seed(0)
    import torchvision

    extra = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **extra).eval()
    analysis = archcost.analyze(model, input_size=(1, 3, 96, 96))
    layers = [row.name for row in analysis.layers if row.name in analysis.fields.by_name]
    layers = [name for name in layers if len(analysis.fields[name].position) == 2]
    for layer in layers[2 :: len(layers) // 3]:
        field = archcost.effective_field(analysis, layer=layer, samples=1)
        inside = np.zeros((96, 96), dtype=bool)
        inside[tuple(slice(lo, hi + 1) for lo, hi in field.theoretical.window)] = True
        assert not field.map[~inside].any(), layer
        assert field.map[inside].any(), layer


def test_a_spec_an_analysis_and_a_module_give_the_same_form():
    torch.manual_seed(0)
    model = chain(2)
    analysis = archcost.analyze(model, input_size=(1, 1, 16, 16))
    one, other = (
        archcost.effective_field(analysis),
        archcost.effective_field(model, input_size=(1, 1, 16, 16)),
    )
    assert np.array_equal(one.map, other.map)
    assert one.theoretical == other.theoretical
    assert str(one) == (
        "3, position 8, 8\n95% of the gradient lies in a square of side 5: 100% of the theoretical 5 x 5\n"
        "mean of 8 samples"
    )
    spec = archcost.effective_field("torchvision:alexnet", layer="features.0", samples=1)
    assert spec.theoretical.size == (11, 11)


class Trainer(nn.Module):
    """Has all the state that a careless tool would change."""

    def __init__(self, fails=False):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.calls, self.fails, self.fired = 0, fails, []
        self.conv.weight.grad = torch.ones_like(self.conv.weight)

    def forward(self, x):
        self.calls += 1
        x *= self.frozen  # writes into its input
        if self.fails and torch.is_grad_enabled() and not x.is_meta:
            raise ValueError("on purpose")
        torch.rand(1), random.random(), np.random.rand()
        return self.drop(self.norm(self.conv(x)))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_is_as_it_was(fails, given, mode):
    model = Trainer(fails).train()
    model.conv.register_forward_hook(lambda *_: None)
    twin, x = copy.deepcopy(model), torch.randn(2, 1, 8, 8)
    kept = x.clone()
    analysis = archcost.analyze(model, x)

    def state():
        hooks = [list(m._forward_hooks) for m in model.modules()]
        flags = [m.training for m in model.modules()]
        grads = [p.requires_grad for p in model.parameters()]
        return hooks, flags, grads, model.calls, torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with mode():
        before = state(), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        inputs = x if given else None
        if fails:
            with pytest.raises(
                ModelError, match="Trainer, norm: the model's forward fails: ValueError: on purp"
            ):
                archcost.effective_field(analysis, inputs, layer="norm")
        else:
            archcost.effective_field(analysis, inputs, layer="norm")
        after = state(), torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    assert after[0] == before[0]
    assert torch.equal(after[1], before[1])
    assert after[2] == before[2]
    assert np.array_equal(after[3], before[3])
    for (name, mine), (_, other) in zip(model.state_dict().items(), twin.state_dict().items(), strict=True):
        assert torch.equal(mine, other), name
    assert torch.equal(model.conv.weight.grad, torch.ones_like(model.conv.weight))
    assert model.norm.weight.grad is None
    assert torch.equal(x, kept)
    assert x.grad is None
    assert not x.requires_grad


def test_batch_statistics_and_dropout_play_no_part():
    torch.manual_seed(0)
    model = Trainer().train()
    field = archcost.effective_field(model, input_size=(1, 1, 9, 9), samples=2)
    assert not field.theoretical.is_global  # that of eval mode, in which it is measured
    assert np.count_nonzero(field.map) == 9
    assert "the whole input" not in str(field)


def test_a_layer_that_is_called_again_is_seen_at_its_last_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = chain(1)[0]

        def forward(self, x):
            return self.conv(self.conv(x))

    model = Twice()
    last = archcost.effective_field(model, input_size=(1, 1, 12, 12), layer="conv")
    first = archcost.effective_field(model, input_size=(1, 1, 12, 12), layer="conv", call=0)
    assert (first.side_holding(1), last.side_holding(1)) == (3, 5)
    assert (first.theoretical.size, last.theoretical.size) == ((3, 3), (5, 5))


def test_half_precision_is_computed_in_float32():
    model = chain(2).bfloat16()
    field = archcost.effective_field(model, input_size=(1, 1, 16, 16))
    assert field.side_holding(1) == 5
    assert next(model.parameters()).dtype is torch.bfloat16


class Odd(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.conv, self.fc = how, nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)
        self.norm = nn.GroupNorm(1, 4)

    def forward(self, x):
        y = self.conv(x)
        if self.how == "detached":
            y = y.detach()
        elif self.how == "no_grad":
            with torch.no_grad():
                y = self.conv(x)
        elif self.how == "rounded":
            y = y.round()
        elif self.how == "dead":
            y = (y - 1e6).relu()
        elif self.how == "nan":
            y = y * float("nan")
        elif self.how == "layernorm":
            return nn.functional.layer_norm(y.movedim(1, -1), (4,)).movedim(-1, 1)
        elif self.how == "head":
            return self.fc(y.mean((2, 3)))
        return y * 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "detached",
            "Odd, the model itself: no gradient flows from its output to the input: a layer on the way",
        ),
        ("no_grad", "no gradient flows"),
        ("rounded", "the gradient of this position is 0 at every pixel"),
        ("dead", "the gradient of this position is 0 at every pixel"),
        ("nan", "the gradient is not finite"),
        ("layernorm", r"its channels sum to a constant, .*; pass signs=True to sum them with random signs"),
    ],
)
def test_a_gradient_that_says_nothing_is_an_error(how, message):
    with pytest.raises(ModelError, match=message):
        archcost.effective_field(Odd(how), input_size=(1, 1, 8, 8), layer="")


def test_random_signs_see_through_a_norm_over_the_channels():
    field = archcost.effective_field(Odd("layernorm"), input_size=(1, 1, 8, 8), layer="", signs=True)
    assert field.signs
    assert field.side_holding(1) == 3
    again = archcost.effective_field(Odd("none"), input_size=(1, 1, 8, 8), layer="", signs=True, seed=3)
    assert again.side_holding(1) == 3


def test_the_same_seed_gives_the_same_map():
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.Conv2d(4, 4, 5))
    maps = [
        archcost.effective_field(model, input_size=(1, 1, 16, 16), seed=seed, samples=1).map
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])


def test_errors_name_the_layer_and_the_mend():
    size = {"input_size": (1, 1, 8, 8)}
    with pytest.raises(SpecError, match="the output of 'fc' has no spatial positions; name a layer before"):
        archcost.effective_field(Odd("head"), layer="fc", **size)
    with pytest.raises(SpecError, match="did you mean 'conv'"):
        archcost.effective_field(Odd("head"), layer="cnov", **size)
    with pytest.raises(SpecError, match="lies outside"):
        archcost.effective_field(Odd("head"), layer="conv", position=(9, 0), **size)
    for share in (0, 1.5, -1):
        with pytest.raises(SpecError, match=r"share is .*; pass a number above 0 and at most 1"):
            archcost.effective_field(Odd("head"), share=share, **size)
    with pytest.raises(InputError, match="samples is 0"):
        archcost.effective_field(Odd("head"), samples=0, **size)
    with pytest.raises(ModelError, match="on `meta` and have no values"):
        archcost.effective_field(Odd("head").to("meta"), layer="conv", **size)
    model = Odd("head")
    analysis = archcost.analyze(model, **size)
    with pytest.raises(
        InputError, match=r"input 0 has shape \(1, 1, 9, 9\), but the Analysis is of 8x8 pixels"
    ):
        archcost.effective_field(analysis, torch.rand(1, 1, 9, 9), layer="conv")
    with pytest.raises(InputError, match="an Analysis has its input size"):
        archcost.effective_field(analysis, layer="conv", **size)


def test_whole_numbers_have_no_gradient():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.conv = nn.Embedding(10, 4), nn.Conv1d(4, 4, 3)

        def forward(self, tokens):
            return self.conv(self.words(tokens).mT)

    with pytest.raises(
        InputError, match=r"Words: input 0 has the integer dtype int64, which has no gradient"
    ):
        archcost.effective_field(Words(), torch.zeros(1, 12, dtype=torch.long), layer="conv")


def test_a_model_that_cannot_be_copied_says_so():
    class Held(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)

        def __deepcopy__(self, memo):
            raise TypeError("not me")

        def forward(self, x):
            return self.conv(x)

    with pytest.raises(
        ModelError, match="Held: the effective field is measured on a copy, and copying failed"
    ):
        archcost.effective_field(Held(), input_size=(1, 1, 8, 8))


# What is said and what is measured are of one mode


@pytest.mark.parametrize("given", ["model", "analysis"])
def test_the_field_on_paper_is_that_of_the_mode_that_is_measured(given):
    """In training a batch norm's statistics see the whole input; the gradient is taken in eval mode."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3))
    flags = [module.training for module in model.modules()]
    inputs = torch.rand(1, 1, 16, 16)
    subject = model if given == "model" else archcost.analyze(model, inputs)
    found = archcost.effective_field(subject, inputs)
    assert not found.theoretical.is_global
    assert found.theoretical.window == ((6, 10), (6, 10))
    assert "the whole input" not in str(found)
    assert [module.training for module in model.modules()] == flags == [True] * 4
    assert np.count_nonzero(found.map) == 25


def test_what_stays_global_in_eval_mode_is_said_to_be():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.InstanceNorm2d(1), nn.Conv2d(1, 1, 3))
    found = archcost.effective_field(model, torch.rand(1, 1, 16, 16))
    assert found.theoretical.is_global
    assert np.count_nonzero(found.map) > 25
