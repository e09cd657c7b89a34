"""Alternating least squares: the error never grows, and each stage is a least-squares solution."""

import itertools

import pytest
import torch

from archcost.errors import RewriteError
from archcost.merging.compose import composed, spread
from archcost.weights.alternating import _Chain, _steps, refined
from archcost.weights.quadratic import normal
from helpers.chains import conv, drawn

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


def test_kernels_whose_normal_equations_would_take_gigabytes_stay_as_they_are():
    specs = [conv(3, 384, 32, groups=3, size=(64, 64)), conv(384, 8, 1, size=(33, 33))]
    kernels = [kernel.float() for kernel in drawn(specs)]
    found = refined(kernels, specs, torch.randn(1, 8, 3, 32, 32))
    assert all(torch.equal(a, b.double()) for a, b in zip(found, kernels, strict=True))
