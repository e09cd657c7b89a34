"""Crosscheck: differences are found, module by module, and explained only where the reason is known."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import archcost
from archcost import ModelError
from archcost.cost import registry


def reasons(result, witness):
    return {d.reason for d in result.differences if d.witness == witness}


def test_a_model_on_which_all_agree():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    result = archcost.analysis.crosscheck(model, torch.zeros(2, 3, 8, 8))
    assert result.agrees
    assert result.differences == ()
    assert set(result.witness_macs.values()) == {result.archcost_macs}
    assert list(result.witness_macs) == ["archcost, run for real", "fvcore", "FlopCounterMode"]
    assert "no module differs" in str(result)


def test_norms_attention_and_string_padding_are_explained():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Conv2d(3, 8, 3, padding="same")
            self.norm = nn.BatchNorm2d(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            x = self.norm(self.same(x)).flatten(2).transpose(1, 2)
            return self.attention(x, x, x, need_weights=False)[0]

    result = archcost.analysis.crosscheck(Net(), torch.zeros(1, 3, 6, 6))
    assert result.agrees
    by_module = {(d.witness, d.module): d.reason for d in result.differences}
    assert "batch_norm" in by_module["fvcore", "norm"]
    assert '"same"' in by_module["fvcore", "same"]
    assert "fused attention" in by_module["fvcore", "attention"]
    assert "_scaled_dot_product_flash_attention_for_cpu" in by_module["FlopCounterMode", "attention"]
    assert all("understood" not in line.lower() for line in str(result).splitlines())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.LSTM(8, 6), (5, 2, 8)), (nn.GRU(8, 6), (5, 2, 8)), (nn.ConvTranspose2d(4, 4, 3), (1, 4, 5, 5))],
)  # fmt: skip
def test_other_layers_agree_or_have_a_reason(layer, shape):
    result = archcost.analysis.crosscheck(layer, torch.zeros(shape))
    assert result.agrees, str(result)


@pytest.fixture
def a_wrong_rule():
    with registry.table.temporarily():
        archcost.rules.counting_rule("aten.convolution", kind="convolution")(lambda op: (12345, 0))
        yield


def test_a_complex_convolution_is_three_real_ones_to_others():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, dtype=torch.cfloat), nn.Conv2d(8, 4, 1, dtype=torch.cfloat))
    result = archcost.analysis.crosscheck(model, torch.zeros(1, 3, 16, 16, dtype=torch.cfloat))
    assert result.archcost_macs == 42_336 + 196 * 32
    assert result.witness_macs["FlopCounterMode"] == result.witness_macs["fvcore"] == 3 * result.archcost_macs
    assert result.agrees
    (reason,) = reasons(result, "FlopCounterMode") | reasons(result, "fvcore")
    assert reason.startswith("it counts the three real convolutions")


def test_a_wrong_count_is_found_and_not_explained_away(a_wrong_rule):
    result = archcost.analysis.crosscheck(nn.Sequential(nn.Conv2d(3, 8, 3)), torch.zeros(1, 3, 8, 8))
    assert not result.agrees
    assert {(d.witness, d.module, d.archcost_macs, d.witness_macs) for d in result.unexplained} == {
        ("fvcore", "0", 12345, 36 * 8 * 27),
        ("FlopCounterMode", "0", 12345, 36 * 8 * 27),
    }
    assert "UNEXPLAINED" in str(result)
    frame = result.to_pandas()
    assert list(frame.columns) == ["witness", "module", "type", "archcost_macs", "witness_macs", "reason"]
    assert len(frame) == 2


def test_a_witness_that_fails_is_reported_and_leaves_the_model_untouched():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, *, x):
            return {"y": self.norm(x)}

    model = Keyword().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.rand(3, 4)
    state = torch.get_rng_state()
    result = archcost.analysis.crosscheck(model, {"x": x})
    assert "positional inputs" in result.failures["fvcore"]
    assert "could not count it" in str(result)
    assert result.agrees  # FlopCounterMode could
    nobody = replace(result, witness_macs={"archcost, run for real": 0.0})
    assert not nobody.agrees
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert not model.norm._forward_hooks


def test_a_model_without_values_is_refused():
    with pytest.raises(ModelError, match="on `meta`"):
        archcost.analysis.crosscheck(nn.Linear(3, 4, device="meta"), input_size=(1, 3))


ZOO = [
    *("resnet18", "vit_b_16", "swin_t", "inception_v3", "convnext_tiny", "maxvit_t", "mobilenet_v3_small"),
    *("lraspp_mobilenet_v3_large", "densenet121", "efficientnet_b0"),
]


LONG = ("mvit_v2_s", "raft_small")
TIERS = [pytest.param(name, marks=pytest.mark.slow) for name in ZOO]
TIERS += [pytest.param(name, marks=pytest.mark.exhaustive) for name in LONG]


@pytest.mark.parametrize("name", TIERS)
def test_every_difference_on_real_models_has_a_known_reason(name):
    result = archcost.analysis.crosscheck(f"torchvision:{name}")
    assert result.agrees, str(result)
    assert len(result.witness_macs) >= 2
