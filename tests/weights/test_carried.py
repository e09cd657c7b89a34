"""Weights carried over: alternating least squares, chains with activations, moments of patches."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archcost
from archcost.errors import InputError, RewriteError
from archcost.merging.chain import Activation, Conv
from archcost.merging.compose import apart, composed, spread
from archcost.rewriting.carry import errors_of_factors, factored, kernel_error, predicted_error
from archcost.rewriting.plan.building import built
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import Factorisation, get
from archcost.rewriting.survey.survey import Subject, survey_of
from archcost.spec import ConvSpec
from archcost.weights.alternating import _Chain, _steps, refined
from archcost.weights.biases import evened
from archcost.weights.moments import collect, covariance_bytes
from archcost.weights.quadratic import normal


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def conv(i, o, k, *, size=(40, 40), **more):
    return ConvSpec(i, o, k, input_size=size, bias=more.pop("bias", False), **more)


def drawn(specs):
    return [
        torch.randn(s.out_channels, s.in_channels // s.groups, *s.kernel_size, dtype=torch.float64)
        for s in specs
    ]


CHAINS = {
    "5x5 as two 3x3": ([conv(4, 5, 3), conv(5, 6, 3)], 1),
    "7x7 as three": ([conv(3, 5, 3), conv(5, 5, 3), conv(5, 3, 3)], 1),
    "strided": ([conv(4, 6, 3, stride=2), conv(6, 4, 2)], 1),
    "asymmetric": ([conv(4, 3, (1, 3)), conv(3, 5, (3, 1))], 1),
    "depthwise": ([conv(6, 6, 3, groups=6), conv(6, 6, 3, groups=6)], 6),
    "grouped": ([conv(4, 6, 3, groups=2), conv(6, 4, 3, groups=2)], 2),
    "separable": ([conv(4, 8, 3, groups=4), conv(8, 5, 1)], 1),
    "pointwise first": ([conv(4, 10, 1), conv(10, 5, 3, groups=5)], 1),
    "bottleneck": ([conv(6, 3, 1), conv(3, 3, 3), conv(3, 6, 1)], 1),
    "1-d": ([conv(3, 4, 3, size=(40,)), conv(4, 3, 3, size=(40,))], 1),
    "3-d": ([conv(2, 3, 2, size=(9, 9, 9)), conv(3, 2, 2, size=(9, 9, 9))], 1),
    "dilated": ([conv(3, 4, 3, dilation=2), conv(4, 3, 3, dilation=2)], 1),
}
chains = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
under = pytest.mark.parametrize("with_covariance", [False, True], ids=["identity", "covariance"])


def problem(chain, with_covariance, exact=False):
    """Specs, groups, a target that is the chain's own or random, and a covariance."""
    specs, groups = chain
    target = composed(drawn(specs), specs, groups)
    if specs[0].dilation[0] > 1:  # the taps alone
        target = target[..., ::2, ::2]
    if not exact:
        target = torch.randn_like(target)
    covariance = None
    if with_covariance:
        width = target[0, 0].numel()
        root = torch.randn(groups, width, width, dtype=torch.float64)
        covariance = root @ root.mT / width + 0.01 * torch.eye(width, dtype=torch.float64)
    return specs, groups, target, covariance


def off(kernels, specs, groups, target, covariance):
    whole = composed(kernels, specs, groups)
    if whole.shape != target.shape:
        whole = whole[..., ::2, ::2]
    left = (target - whole).flatten(2)
    return float((left * (left if covariance is None else left @ covariance)).sum())


def slope_of(work, kernels, target, covariance):
    left = target - work.composed(kernels)
    return left if covariance is None else (left.flatten(2) @ covariance).reshape(left.shape)


@chains
@under
def test_alternation_never_grows_the_error_and_gets_on(chain, with_covariance):
    specs, groups, target, covariance = problem(chain, with_covariance)
    kernels = drawn(specs)
    errors = [off(kernels, specs, groups, target, covariance)]
    for _ in range(4):
        kernels = refined(kernels, specs, target, groups, covariance=covariance, sweeps=1)
        errors.append(off(kernels, specs, groups, target, covariance))
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(errors))
    none = off([torch.zeros_like(k) for k in kernels], specs, groups, target, covariance)
    assert errors[-1] < none
    assert [k.shape for k in kernels] == [k.shape for k in drawn(specs)]


@chains
@under
def test_the_last_stage_is_the_least_squares_solution(chain, with_covariance):
    specs, groups, target, covariance = problem(chain, with_covariance)
    kernels = drawn(specs)
    work = _Chain(specs, _steps(kernels, specs, target.shape[3:]), groups)
    new = work.updated(kernels, len(specs) - 1, slope_of(work, kernels, target, covariance), covariance)
    alone = [k.detach().clone().requires_grad_() for k in new]
    left = (target - work.composed(alone)).flatten(2)
    error = (left * (left if covariance is None else left @ covariance)).sum()
    slope = torch.autograd.grad(error, alone)[-1]
    first = [k.detach().clone().requires_grad_() for k in kernels]
    left = (target - work.composed(first)).flatten(2)
    error = (left * (left if covariance is None else left @ covariance)).sum()
    assert slope.norm() < 1e-6 * torch.autograd.grad(error, first)[-1].norm()


@pytest.mark.parametrize("name", ["5x5 as two 3x3", "asymmetric", "bottleneck", "separable", "dilated"])
@under
def test_every_stage_can_be_recovered_when_the_others_are_right(name, with_covariance):
    specs, groups = CHAINS[name]
    right = drawn(specs)
    target = composed(right, specs, groups)
    target = target[..., ::2, ::2] if name == "dilated" else target
    width = target[0, 0].numel()
    root = torch.randn(groups, width, 2 * width, dtype=torch.float64)
    covariance = root @ root.mT if with_covariance else None
    scale = off([0 * k for k in right], specs, groups, target, covariance)
    for stage in range(len(specs)):
        kernels = [k + (i == stage) * torch.randn_like(k) for i, k in enumerate(right)]
        work = _Chain(specs, _steps(kernels, specs, target.shape[3:]), groups)
        for _ in range(10):
            kernels = work.updated(kernels, stage, slope_of(work, kernels, target, covariance), covariance)
        assert off(kernels, specs, groups, target, covariance) < 1e-8 * scale


def test_a_target_spread_over_its_extent_is_the_same_problem():
    specs, groups = CHAINS["dilated"]
    target = torch.randn(1, 3, 3, 5, 5, dtype=torch.float64)
    kernels = drawn(specs)
    a = refined(kernels, specs, target, groups, sweeps=3)
    b = refined(kernels, specs, spread(target, (2, 2)), groups, sweeps=3)
    for one, other in zip(a, b, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def test_a_chain_of_another_extent_is_refused():
    specs = [conv(2, 2, 3), conv(2, 2, 3)]
    with pytest.raises(RewriteError, match="5, 5"):
        refined(drawn(specs), specs, torch.randn(1, 2, 2, 4, 4), 1)


@under
def test_large_normal_equations_are_those_written_down(monkeypatch, with_covariance):
    from archcost.weights import quadratic

    before = torch.randn(2, 6, 3, 3, 3, dtype=torch.float64)
    width = 3 * 7 * 5
    root = torch.randn(2, width, width, dtype=torch.float64)
    given = root @ root.mT if with_covariance else None
    one = normal(before, 4, (3, 2), (2, 2), given)
    monkeypatch.setattr(quadratic, "_SMALL", 0)
    assert torch.allclose(one, normal(before, 4, (3, 2), (2, 2), given))


# Chains with a rule around them.


class Given(Factorisation):
    """Begins with random kernels."""

    name, change, break_even = "given", "", ""

    def refusal(self, subject): ...
    def options(self, subject, ratio): ...
    def replacement(self, subject, **options): ...
    def factors(self, kernel, replacement, moments):
        made = []
        for one in replacement.convs:
            s = one.spec
            o, i = (s.in_channels, s.out_channels) if s.transposed else (s.out_channels, s.in_channels)
            made.append(torch.randn(o, i // s.groups, *s.kernel_size, dtype=torch.float64))
        return made


def new_layer(old, steps, moments=None, **more):
    replacement = Replacement({"layer": tuple(steps)})
    pairs = factored(Given(), old, replacement, moments, **more)
    return built(replacement.chain, old, pairs, {}), pairs


@pytest.mark.parametrize("groups", [1, 2])
def test_a_chain_of_full_rank_is_the_layer_again(groups):
    old = nn.Conv2d(4, 6, 3, padding=1, groups=groups)
    size = (9, 9)
    steps = [
        Conv(conv(4, 12, (1, 3), padding=((0, 0), (1, 1)), groups=groups, size=size)),
        Conv(conv(12, 6, (3, 1), padding=0, groups=groups, size=size, bias=True)),
    ]
    steps[0] = Conv(conv(4, 12, (1, 3), padding=((1, 1), (1, 1)), groups=groups, size=size))
    new, pairs = new_layer(old, steps)
    x = torch.randn(2, 4, *size)
    assert torch.allclose(new(x), old(x), atol=2e-5)
    assert pairs[0][1] is None
    assert torch.allclose(pairs[1][1], old.bias.double())


def test_middle_channels_have_weights_of_one_size_on_both_sides():
    specs = [conv(4, 6, 3), conv(6, 6, 3, groups=3), conv(6, 5, 1)]
    kernels = [k * s for k, s in zip(drawn(specs), (1e-3, 10, 100), strict=True)]
    even = evened(kernels, specs)
    assert torch.allclose(composed(even, specs), composed(kernels, specs))
    before = even[-2].flatten(1).norm(dim=1)
    assert torch.allclose(before, even[-1].transpose(0, 1).flatten(1).norm(dim=1))
    norms = [float(k.norm()) for k in even]
    assert max(norms) < 4 * min(norms)


ACTIVATED = [
    Conv(conv(3, 8, 3, padding=2, bias=True, size=(12, 12))),
    Activation("ReLU"),
    Conv(conv(8, 8, 3, bias=True, size=(14, 14))),
    Activation("ReLU"),
    Conv(conv(8, 4, 1, bias=True, size=(12, 12))),
]


@pytest.mark.parametrize("data", [False, True], ids=["without data", "with data"])
def test_activations_between_begin_as_the_linear_chain(data):
    old = nn.Conv2d(3, 4, 5, padding=2)
    x = torch.randn(16, 3, 12, 12) * 2 + 1
    moments = collect(nn.Sequential(old), ["0"], [x])["0"] if data else None
    new, pairs = new_layer(old, ACTIVATED, moments)
    linear = nn.Sequential(*(m for m in new if not isinstance(m, nn.ReLU)))
    y = new(x)
    assert torch.allclose(y, linear(x), atol=1e-3 * float(y.detach().abs().max()))
    assert (new[:2](x) > 0).all()
    assert (new[:4](x) > 0).all()
    flat = nn.Sequential(*(copy.deepcopy(m) for m in linear))
    for one in flat[:-1]:
        nn.init.zeros_(one.bias)
    whole = [apart(w, 1) for w, _ in pairs]
    assert len(whole) == 3
    nn.init.zeros_(flat[-1].bias)
    lost = (y - flat(x)).detach()
    inside = lost.mean((0, 2, 3))
    assert (lost - inside[:, None, None]).abs().max() < 1e-3 * float(y.detach().abs().max())


def test_an_activation_that_cannot_be_passed_is_refused():
    steps = [ACTIVATED[0], Activation("Sigmoid"), *ACTIVATED[2:]]
    with pytest.raises(RewriteError, match="Sigmoid cannot start as a linear chain"):
        new_layer(nn.Conv2d(3, 4, 5, padding=2), steps)


def test_an_activation_behind_a_stage_without_bias_is_refused():
    steps = [Conv(conv(3, 8, 3, padding=2, size=(12, 12))), *ACTIVATED[1:]]
    with pytest.raises(RewriteError, match="stage 1 of its chain needs a bias"):
        new_layer(nn.Conv2d(3, 4, 5, padding=2), steps)


def test_a_chain_about_a_transposed_layer_is_the_layer_again():
    old = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)
    steps = [
        Conv(conv(4, 4, 1, size=(8, 8))),
        Conv(conv(4, 6, 3, stride=2, padding=1, output_padding=1, transposed=True, size=(8, 8), bias=False)),
        Conv(conv(6, 6, 1, size=(16, 16), bias=True)),
    ]
    new, _ = new_layer(old, steps)
    x = torch.randn(2, 4, 8, 8)
    assert torch.allclose(new(x), old(x), atol=1e-5)


def test_errors_are_those_of_kernel_and_output():
    old = nn.Conv2d(6, 6, 3, padding=1)
    mixed = torch.randn(6, 2) @ torch.randn(2, 6) + 0.1 * torch.randn(6, 6)
    x = torch.einsum("oi,nihw->nohw", mixed, torch.randn(8, 6, 10, 10)) + 1
    moments = collect(nn.Sequential(old), ["0"], [x])["0"]
    steps = [
        Conv(conv(6, 2, (3, 3), padding=1, size=(10, 10))),
        Conv(conv(2, 6, 1, bias=True, size=(10, 10))),
    ]
    replacement = Replacement({"layer": tuple(steps)})
    pairs = factored(Given(), old, replacement, moments)
    new = built(replacement.chain, old, pairs, {})
    target = apart(old.weight.detach().double(), 1)
    whole = composed([w for w, _ in pairs], [s.spec for s in steps])
    torch.manual_seed(0)
    said = errors_of_factors(Given(), old, replacement, moments)
    assert said[0] == pytest.approx(kernel_error(target, whole), rel=0.05)
    with torch.no_grad():
        was, now = old(x), new(x)
    spread_out = was - was.mean((0, 2, 3), keepdim=True)
    seen = float((now - was).norm() / spread_out.norm())
    assert predicted_error(target, whole, moments) == pytest.approx(seen, rel=1e-3)
    assert (now - was).mean((0, 2, 3)).abs().max() < 1e-4 * was.abs().max()
    blind = factored(Given(), old, replacement)
    assert predicted_error(target, whole, moments) < 0.9 * predicted_error(
        target, composed([w for w, _ in blind], [s.spec for s in steps]), moments
    )


# Moments.


def brute(layer, x):
    """Mean and covariance of all patches, by F.unfold on what the layer pads itself."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, [p for p in reversed(layer.padding) for _ in (0, 1)], mode=mode).double()
    found = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)
    rows = found.transpose(1, 2).flatten(0, 1).unflatten(1, (layer.groups, -1)).transpose(0, 1)
    mean = rows.mean(1)
    rows = rows - mean[:, None]
    return mean, rows.mT @ rows / rows.shape[1]


LAYERS = {
    "plain": dict(kernel_size=3, padding=1),
    "strided": dict(kernel_size=(3, 2), stride=2, padding=(1, 0)),
    "dilated": dict(kernel_size=3, dilation=2, padding=2),
    "grouped": dict(kernel_size=3, groups=2),
    "depthwise": dict(kernel_size=5, groups=4, padding=2),
    "reflect": dict(kernel_size=5, padding=2, padding_mode="reflect"),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
}


@pytest.mark.parametrize("kwargs", LAYERS.values(), ids=LAYERS)
def test_moments_are_those_of_all_patches(kwargs):
    layer = nn.Conv2d(4, 8, **kwargs)
    x = torch.randn(6, 4, 11, 9) * 0.1 + 3
    found = collect(nn.Sequential(layer), ["0"], [x[:4], x[4:]])["0"]
    mean, covariance = brute(layer, x)
    assert torch.allclose(found.mean, mean, rtol=1e-6)
    assert torch.allclose(found.covariance, covariance, atol=1e-6 * float(covariance.max()))
    assert found.shape == tuple(layer.weight.shape[1:])
    assert found.low.min() == (0 if any(layer.padding) and layer.padding_mode == "zeros" else x.min())


def test_nothing_behind_the_last_layer_asked_for_is_run_but_for_the_first_batch():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 1))
    seen = []
    model[3].register_forward_hook(lambda *_: seen.append(1))
    batches = list(torch.randn(12, 3, 9, 9).split(3))
    found = collect(model, ["2", "0"], batches)
    assert len(seen) == 1
    assert found["0"].count == 12 * 49
    assert found["2"].count == 12 * 25


def test_batches_that_do_not_say_how_many_they_are_end_when_there_are_patches_enough():
    taken = []

    def endless():
        while len(taken) < 1000:
            taken.append(1)
            yield torch.randn(4, 3, 16, 16)

    found = collect(nn.Sequential(nn.Conv2d(3, 4, 3)), ["0"], endless())["0"]
    assert len(taken) < 50
    assert 4096 <= found.count < 3 * 4096


@pytest.mark.parametrize("size", [24, 192])
def test_the_error_that_is_said_is_no_less_than_what_carrying_comes_to(size):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(size, size, 3, padding=1))
    analysis = archcost.analyze(model, torch.randn(1, size, 6, 6))
    (subject,) = survey_of(analysis)
    for name in ("asymmetric", "separable", "bottleneck"):
        rule = get(name)
        replacement = rule.replacement(subject, **next(iter(rule.options(subject, 0.4))))
        said = errors_of_factors(rule, model[0], replacement)[0]
        pairs = factored(rule, model[0], replacement)
        specs = [conv.spec for conv in replacement.convs]
        came_to = kernel_error(
            apart(model[0].weight.detach().double(), 1), composed([w for w, _ in pairs], specs)
        )
        assert came_to <= said * (1 + 1e-4), name
        assert said < 1.1 * came_to, name


@pytest.fixture
def factorisations(monkeypatch):
    """The names of the decompositions of matrices made so far."""
    made = []
    for name in ("eigvalsh", "eigh", "svd", "svdvals", "qr", "cholesky_ex", "lstsq"):
        original = getattr(torch.linalg, name)

        def counted(*args, name=name, original=original, **options):
            made.append(name)
            return original(*args, **options)

        monkeypatch.setattr(torch.linalg, name, counted)
    return made


@pytest.mark.parametrize(
    ("rule", "most"),
    [("asymmetric", 2), ("bottleneck", 2), ("separable", 2), ("reduce_first", 1)],
)
def test_one_factorisation_for_each_way_of_a_rule_serves_all_ratios(rule, most, factorisations):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(48, 64, 3, padding=1), nn.Conv2d(48, 64, 3, padding=1)

        def forward(self, x):
            return torch.cat([self.one(x), self.two(x)], 1)

    model, x = Two(), torch.rand(1, 48, 8, 8)
    for ratio in (0.5, (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)):
        factorisations.clear()
        found = archcost.propose(model, x, rules=[rule], ratio=ratio, store=False, progress=False)
        assert len({str(one.options) for one in found}) >= (1 if ratio == 0.5 else 6)
        assert all(0 < one.weight_error < 1 for one in found)
        assert len(factorisations) == 2 * most


def test_rules_share_what_they_look_at(factorisations):
    model = nn.Sequential(nn.Conv2d(48, 64, 3, padding=1))
    rules = ["bottleneck", "bottleneck", "asymmetric", "separable"]
    archcost.propose(model, torch.rand(1, 48, 8, 8), rules=rules, store=False, progress=False)
    assert len(factorisations) == 6


def columns_first(kernel):
    return kernel.permute(0, 1, 4, 2, 3).flatten(3).flatten(1, 2)


def by_input(kernel):
    return kernel.transpose(1, 2).flatten(3)


WAYS = {
    "columns first": ("asymmetric", {"first": "height", "rank": 9}, columns_first),
    "rows first": ("asymmetric", {"first": "width", "rank": 9}, lambda k: columns_first(k.mT)),
    "in": ("bottleneck", {"form": "in", "rank_in": 5}, lambda k: k.transpose(1, 2).flatten(2)),
    "out": ("bottleneck", {"form": "out", "rank_out": 7}, lambda k: k.flatten(2)),
    "depthwise": ("separable", {"order": "depthwise-first", "terms": 3}, by_input),
    "pointwise": ("separable", {"order": "pointwise-first", "terms": 3}, lambda k: k.flatten(3)),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 24, 3),
        nn.Conv2d(32, 24, (3, 5), groups=2),
        nn.ConvTranspose2d(16, 24, 3),
        nn.ConvTranspose2d(48, 32, 3, groups=2),
        nn.Conv2d(160, 192, 3),  # in float32
        nn.Conv2d(16, 24, 3, dtype=torch.float16),
    ],
    ids=lambda layer: str(layer).replace(" ", ""),
)
def test_the_error_that_is_said_is_that_of_the_singular_values(way, layer):
    name, options, unfold = way
    spec = get_spec(layer)
    subject = Subject("0", ("0",), "Conv2d", (spec,), None, (), None)
    replacement = get(name).replacement(subject, **options)
    kernel = apart(layer.weight.detach().double(), layer.groups)
    kernel = kernel.transpose(1, 2) if layer.transposed else kernel
    rank = next(value for key, value in options.items() if key not in ("first", "form", "order"))
    lost = torch.linalg.svdvals(unfold(kernel))[..., rank:].norm() / kernel.norm()
    said = errors_of_factors(get(name), layer, replacement)[0]
    assert said == pytest.approx(float(lost), rel=1e-5)


def get_spec(layer):
    names = ("in_channels", "out_channels", "kernel_size", "groups", "transposed")
    return ConvSpec(*(getattr(layer, name) for name in names[:3]), groups=layer.groups,
                    transposed=layer.transposed, input_size=(8, 8))  # fmt: skip


@pytest.mark.parametrize("size", [24, 192])
@pytest.mark.parametrize("steep", [0.0, 0.5])
def test_what_a_bottleneck_loses_is_said_at_most_a_tenth_too_large(size, steep):
    layer = nn.Conv2d(size, size, 3)
    fall = torch.arange(1.0, size + 1) ** -steep
    layer.weight.data *= fall[:, None, None, None] * fall[None, :, None, None]
    subject = Subject("0", ("0",), "Conv2d", (get_spec(layer),), None, (), None)
    for share in (0.3, 0.6):
        ranks = {"rank_in": int(share * size), "rank_out": int(share * size)}
        replacement = get("bottleneck").replacement(subject, form="both", **ranks)
        kernels = [w for w, _ in factored(get("bottleneck"), layer, replacement)]
        specs = [step.spec for step in replacement.convs]
        came_to = kernel_error(apart(layer.weight.detach().double(), 1), composed(kernels, specs))
        said = errors_of_factors(get("bottleneck"), layer, replacement)[0]
        assert came_to <= said * (1 + 1e-6)
        assert said < (1.1 if steep == 0 else 1.02) * came_to


@pytest.mark.parametrize("size", [24, 192])
def test_errors_lost_in_the_rounding_of_gram_matrices_are_those_of_kernels(size):
    layer = nn.Conv2d(size, size, 3)
    narrow = torch.randn(5, size, 3, 3)
    layer.weight.data = torch.einsum("or,rikl->oikl", torch.randn(size, 5), narrow)
    subject = Subject("0", ("0",), "Conv2d", (get_spec(layer),), None, (), None)
    replacement = get("bottleneck").replacement(subject, form="out", rank_out=5)
    assert errors_of_factors(get("bottleneck"), layer, replacement)[0] < 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_have_no_error_and_end_nothing(value):
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 5))
    model[0].weight.data[0, 0] = value
    found = archcost.propose(model, torch.rand(1, 8, 12, 12), store=False, progress=False)
    first = [one for one in found if one.name == "0" and not one.exact]
    assert first
    assert all(one.error is None for one in first)
    assert all(one.error is not None for one in found if one.name == "1")


def test_moments_of_other_dimensions_and_same_padding():
    one = collect(nn.Sequential(nn.Conv1d(3, 4, 4, padding="same")), ["0"], [torch.randn(5, 3, 12)])["0"]
    assert one.count == 5 * 12
    three = nn.Sequential(nn.Conv3d(2, 4, 2, stride=2))
    x = torch.randn(3, 2, 6, 6, 6)
    found = collect(three, ["0"], [x])["0"]
    rows = x.double().unflatten(2, (3, 2)).unflatten(4, (3, 2)).unflatten(6, (3, 2))
    rows = rows.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, 16)
    assert torch.allclose(found.covariance[0], torch.cov(rows.T, correction=0))


def test_large_patches_are_summed_in_blocks():
    layer = nn.Conv2d(70, 2, 3)
    x = torch.randn(4, 70, 20, 20) + 5
    found = collect(nn.Sequential(layer), ["0"], [x])["0"]
    mean, covariance = brute(layer, x)
    assert torch.allclose(found.mean[0], mean[0], rtol=1e-5)
    assert (found.covariance - covariance).abs().max() < 1e-4


def test_of_many_patches_a_share_at_even_distances_is_taken_and_the_same_again():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    x = torch.randn(32, 1, 64, 64)
    first = collect(nn.Sequential(layer), ["0"], [x])["0"]
    again = collect(nn.Sequential(layer), ["0"], [x])["0"]
    assert 2000 < first.count < 10_000
    assert torch.equal(first.covariance, again.covariance)
    assert torch.allclose(first.covariance, brute(layer, x)[1], atol=0.1)


class Shared(nn.Module):
    """Calls one layer twice, writes over what it gave, and has state."""

    def __init__(self, fail=False):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.fail = fail
        self.count = 0

    def forward(self, x, *, scale=1.0):
        self.count += 1
        x = self.act(self.conv(self.norm(x))) * scale
        if self.fail:
            raise ValueError("no more")
        return self.act(self.conv(x.mul_(2)))


def state_of(model):
    hooks = {n: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for n, m in model.named_modules()}
    flags = {n: m.training for n, m in model.named_modules()}
    return hooks, flags, model.count, {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("fail", [False, True], ids=["well", "failing"])
def test_the_model_is_as_before(fail):
    model = Shared(fail).train()
    model.act.eval()
    x = torch.randn(4, 3, 8, 8)
    before, random = state_of(model), torch.get_rng_state()
    kept = x.clone()
    if fail:
        with pytest.raises(RewriteError, match="forward failed on a batch: ValueError: no more"):
            collect(model, ["conv"], [{"x": x}])
    else:
        assert collect(model, ["conv"], [{"x": x, "scale": 2.0}])["conv"].count == 2 * 4 * 64
    after = state_of(model)
    assert after[:3] == before[:3]
    assert all(torch.equal(after[3][k], v) for k, v in before[3].items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, kept)


def nets(n=3):
    return nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(n)))


def test_covariances_are_held_as_far_as_the_limit_goes():
    model, x = nets(), [torch.randn(2, 4, 8, 8)]
    size = covariance_bytes(model[0])
    assert size == 8 * 36**2
    passes = []
    model[0].register_forward_hook(lambda *_: passes.append(1))
    names = ["2", "0", "1"]
    assert list(collect(model, names, x, limit=2 * size)) == names
    assert len(passes) == 2
    with pytest.raises(RewriteError, match="more than the limit"):
        collect(model, ["0"], x, limit=size - 1)


def test_a_generator_does_for_one_pass_and_not_for_two():
    model, x = nets(), torch.randn(2, 4, 8, 8)
    assert set(collect(model, ["0", "1"], (x for _ in range(3)))) == {"0", "1"}
    with pytest.raises(InputError, match="allows a single pass, and 2 are needed: give a list"):
        collect(model, ["0", "1"], (x for _ in range(3)), limit=covariance_bytes(model[0]))
    with pytest.raises(InputError, match="there are none"):
        collect(model, ["0"], [])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.ConvTranspose2d(4, 4, 3), "not transposed have moments"),
        (nn.Linear(4, 4), "not transposed have moments"),
        (type("Odd", (nn.Conv2d,), {"forward": lambda self, x: x[:, :, 1:-1, 1:-1]})(4, 4, 3), "adapter"),
    ],
)
def test_what_has_no_known_patches_is_refused(layer, message):
    with pytest.raises(RewriteError, match=message):
        collect(nn.Sequential(layer), ["0"], [torch.randn(2, 4, 8, 8)])


def test_a_layer_that_is_not_called_is_named():
    model = nets()
    model.spare = nn.Conv2d(4, 4, 3)
    model.forward = lambda x: model[0](x)
    with pytest.raises(RewriteError, match="spare: it is not called"):
        collect(model, ["spare"], [torch.randn(2, 4, 8, 8)])
