"""Errors that proposals state: those of kernel and output, never smaller than what carrying comes to."""

import pytest
import torch
from torch import nn

import archcost
from archcost.merging.chain import Conv
from archcost.merging.compose import apart, composed
from archcost.rewriting.carry import errors_of_factors, factored, kernel_error, predicted_error
from archcost.rewriting.plan.building import built
from archcost.rewriting.replacement import Replacement
from archcost.rewriting.rule import get
from archcost.rewriting.survey.survey import Subject, survey_of
from archcost.spec import ConvSpec
from archcost.weights.moments import collect
from helpers.chains import Given, conv


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
