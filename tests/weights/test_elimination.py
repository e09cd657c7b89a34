"""Backward elimination of channels against refitting without each channel in turn."""

import pytest
import torch

from archcost.weights.elimination import eliminated, instead


def drawn(outs, ins, taps, seed=0):
    dice = torch.Generator().manual_seed(seed)
    size = ins * taps
    few = torch.randn(size // 2, size, generator=dice, dtype=torch.float64)
    covariance = few.mT @ few + 0.2 * torch.eye(size, dtype=torch.float64)
    return torch.randn(outs, ins, taps, generator=dice, dtype=torch.float64), covariance


def error(weight, covariance, keep):
    """The squared error with the kept channels fitted anew, relative to the variance."""
    lost = weight.clone()
    lost[:, list(keep)] -= instead(weight, covariance, keep)
    lost, whole = lost.flatten(1), weight.flatten(1)
    return float(((lost @ covariance) * lost).sum() / ((whole @ covariance) * whole).sum())


@pytest.mark.parametrize("taps", [1, 9])
def test_it_is_the_greedy_choice_and_its_error_is_that_of_the_weights(taps):
    weight, covariance = drawn(6, 12, taps)
    found = eliminated(weight, covariance, [9, 4, 1])
    left = list(range(12))
    for count in range(11, 0, -1):
        left = min(
            ([c for c in left if c != gone] for gone in left), key=lambda k: error(weight, covariance, k)
        )
        if count in found:
            assert found[count][0] == tuple(left)
            assert found[count][1] == pytest.approx(error(weight, covariance, left), rel=1e-3)


def test_many_channels_go_at_once_and_the_error_stays_that_of_the_weights():
    weight, covariance = drawn(16, 300, 1)
    for count, (keep, lost) in eliminated(weight, covariance, [250, 100, 20]).items():
        assert len(keep) == count == len(set(keep))
        assert lost == pytest.approx(error(weight, covariance, keep), rel=1e-3)


def test_of_two_equal_channels_one_goes_and_the_other_does_the_work_of_both():
    weight, covariance = drawn(4, 6, 1)
    twice = torch.tensor([0, 1, 2, 3, 4, 5, 5])
    covariance = covariance[twice][:, twice]
    weight = weight[:, twice]
    ((keep, lost),) = eliminated(weight, covariance, [6]).values()
    assert keep in ((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 6))
    assert lost < 1e-5
    assert torch.allclose(instead(weight, covariance, keep)[:, 5], weight[:, 5] + weight[:, 6], rtol=1e-3)


def test_a_covariance_with_rounding_errors_of_float32_is_made_positive_definite():
    weight, covariance = drawn(6, 40, 1)
    strong = torch.cat([torch.full((20,), 300.0), torch.zeros(19), torch.ones(1)]).double()
    covariance = ((strong[:, None] * covariance * strong).float() - 1e-2 * torch.eye(40)).double()
    assert torch.linalg.eigvalsh(covariance).min() < 0
    ((keep, lost),) = eliminated(weight, covariance, [21]).values()
    assert keep == (*range(20), 39)
    assert lost < 1e-3
