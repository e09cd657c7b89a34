"""assert_cost holds a model to its limits, says what breaks them, and leaves the model as it was."""

import pytest
import torch
from torch import nn

import archcost
from archcost import CostError, InputError, assert_cost

SIZE = (1, 3, 16, 16)


def net(width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 4, 1))


def test_a_model_within_its_limits_returns_its_analysis():
    model = net()
    found = assert_cost(
        model, torch.zeros(SIZE), max_params=260, max_macs="64k", min_receptive_field=3, max_depth=2
    )
    assert found.total.params == 260
    assert found.model is model


def test_an_assertion_names_the_limit_the_layers_and_their_lines():
    with archcost.recording_sites():
        model = net()
    with pytest.raises(AssertionError) as raised:
        assert_cost(model, input_size=SIZE, max_params=200, max_macs="64k", max_depth=1)
    assert isinstance(raised.value, CostError)
    lines = str(raised.value).splitlines()
    assert lines[0] == "Sequential (1x3x16x16 float32) exceeds its budget"
    assert lines[1] == "  max_params: 260 parameters, 60 (30.0 %) above 200"
    assert lines[2].startswith("      0 (Conv2d): 224, built at ")
    assert "test_asserting.py:" in lines[2]
    assert lines[-2:] == [
        "  max_depth: 2 layers, 1 (100.0 %) above 1",
        "  make these layers cheaper, or raise the limit",
    ]


def test_a_spec_and_an_analysis_can_be_held_too():
    with pytest.raises(CostError, match=r"torchvision:resnet18 .* exceeds"):
        assert_cost("torchvision:resnet18", max_params="11M")
    assert_cost(archcost.analyze(net(), input_size=SIZE), max_params=260)


def test_bad_limits_are_errors_and_not_failed_assertions():
    for limits, said in [
        ({}, "no limit is given"),
        ({"max_macs": "26 millions"}, "max_macs: cannot read '26 millions'"),
        ({"max_latency_ratio": 1.1}, "max_latency_ratio and reference go together"),
        ({"reference": net(), "max_macs": 1}, "max_latency_ratio and reference go together"),
    ]:
        with pytest.raises(InputError, match=said):
            assert_cost(net(), input_size=SIZE, **limits)


def test_latency_is_held_against_a_reference_timed_in_the_same_run():
    size, slim, wide = (1, 3, 64, 64), net().train(), net(width=64).train()
    before = {key: value.clone() for key, value in wide.state_dict().items()}
    assert_cost(slim, input_size=size, max_latency_ratio=1.0, reference=wide, seconds=20)
    with pytest.raises(CostError, match=r"max_latency_ratio: \d+\.\d\d times .*, \d+ pairs\), above 0\.5"):
        assert_cost(wide, input_size=size, max_latency_ratio=0.5, reference=slim, seconds=20)
    assert wide.training
    assert all(torch.equal(value, before[key]) for key, value in wide.state_dict().items())
