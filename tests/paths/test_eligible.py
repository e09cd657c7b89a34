"""Which paths may execute a layer: refused with a reason, or held to float64 with the layer's own weights."""

import math

import pytest
import torch

from archcost import ConvSpec, InputError
from archcost.paths import available, eligibility, eligible, get
from archcost.paths.algorithms.direct import DirectPath

SPEC = ConvSpec(16, 16, 5, padding=2, input_size=(18, 18))


def weights(scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return scale * torch.randn(16, 16, 5, 5, generator=generator), torch.randn(16, generator=generator)


def test_every_path_is_listed_with_its_error_or_its_reason():
    found = eligible(SPEC, *weights())
    assert tuple(found) == available()
    for name, verdict in found.items():
        refusal = get(name).supports(SPEC, torch.float32)
        assert verdict.refusal == refusal
        assert (verdict.error is None) == (refusal is not None)
        assert verdict.eligible == (verdict.reason is None)
    assert found["direct"].eligible
    assert not found["fft-rows"].eligible
    assert "only depthwise" in found["fft-rows"].reason


def test_the_tolerance_decides():
    strict = eligible(SPEC, *weights(), tolerance=2e-6, paths=["fft-16", "winograd-6"])
    assert [verdict.eligible for verdict in strict.values()] == [True, False]
    assert "above the tolerance of 2e-06" in strict["winograd-6"].reason
    assert eligible(SPEC, *weights(), tolerance=1e-2, paths=["winograd-6"])["winograd-6"].eligible


def test_float64_is_computed_once(monkeypatch):
    calls = []
    original = eligibility.exact_convolution
    monkeypatch.setattr(eligibility, "exact_convolution", lambda *a: calls.append(1) or original(*a))
    eligible(SPEC, *weights(), paths=["native", "direct", "im2col"])
    assert calls == [1]


class Broken(DirectPath):
    def __init__(self, name, change):
        self.name, self.change = name, change

    def run(self, x, prepared):
        return self.change(super().run(x, prepared))


def fails(y):
    raise RuntimeError("no memory")


def test_what_is_wrong_or_not_a_number_is_not_eligible():
    broken = [
        Broken("off", lambda y: y * 1.01),
        Broken("nan", lambda y: torch.where(y == y.max(), math.nan, y)),
        Broken("fails", fails),
    ]
    found = eligible(SPEC, *weights(), paths=broken)
    assert not any(verdict.eligible for verdict in found.values())
    assert found["nan"].error == math.inf
    assert found["fails"].reason == "it failed: no memory"


def test_the_input_given_is_the_one_compared():
    weight, bias = weights()
    x = torch.zeros(3, 16, 18, 18)
    assert eligible(SPEC, weight, None, x, paths=["direct"])["direct"].error == 0
    with pytest.raises(InputError, match="weight has shape"):
        eligible(SPEC, weight[:3], bias)
