"""Profiles of a pass agree with its counted totals."""

import pytest
from torch import nn

import archcost
from archcost.analysis.profile import layer_costs, memory_profile

MODELS = ["resnet18", "vit_b_16", "densenet121"]


@pytest.fixture(scope="module", params=MODELS)
def analysis(request):
    return archcost.analyze(f"torchvision:{request.param}")


def test_the_tensors_alive_at_the_peak_add_up_to_it(analysis):
    profile = memory_profile(analysis)
    assert max(profile.live) == profile.live[profile.peak] == analysis.total.peak_memory_bytes
    assert sum(one.nbytes for one in profile.alive) == analysis.total.peak_memory_bytes
    assert [one.nbytes for one in profile.alive] == sorted(
        (one.nbytes for one in profile.alive), reverse=True
    )
    assert all(one.first <= profile.peak <= one.last for one in profile.alive)


def test_layers_hold_all_macs_and_each_parameter_once(analysis):
    layers = layer_costs(analysis)
    assert sum(layer.macs for layer in layers) == analysis.total.macs
    norms = sum(row.params for row in analysis.layers if "Norm" in row.type_name)
    outside = {"vit_b_16": 768 + 197 * 768}  # the class token and the position embedding
    plain = analysis.total.params - norms - outside.get(analysis.name.partition(":")[2], 0)
    assert sum(layer.params for layer in layers) == plain


def test_a_shared_layer_counts_its_parameters_at_its_first_call():
    layer = nn.Linear(4, 4)
    analysis = archcost.analyze(nn.Sequential(layer, nn.ReLU(), layer), input_size=(1, 4))
    assert [one.params for one in layer_costs(analysis)] == [20, 0]


def test_a_pass_without_operations_has_no_memory():
    assert memory_profile(archcost.analyze(nn.Identity(), input_size=(1, 4))) is None
