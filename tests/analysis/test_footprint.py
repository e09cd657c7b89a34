"""Flash and SRAM on paper are those of a hand count, of the literature, and of every order of reuse."""

import pytest
import torch
import torchvision
from torch import nn

import archcost
from archcost import Budget, CostError, InputError
from archcost.analysis.footprint import bits_of

IMAGE = (1, 3, 16, 16)


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)
    ).eval()


def test_a_small_network_takes_what_a_hand_count_says():
    found = archcost.footprint(net(), input_size=IMAGE)
    # Two feature maps at the last convolution; the norm and the activation write in place.
    assert found.sram == (8 + 4) * 16 * 16
    # Weights in a byte each; biases, scales and statistics in four.
    assert found.flash == 3 * 8 * 9 + 8 * 4 * 9 + 4 * (8 + 4 * 8 + 4)
    wide = archcost.footprint(net(), input_size=IMAGE, weights="float32", activations="float32")
    assert (wide.sram, wide.flash) == (4 * found.sram, 4 * (3 * 8 * 9 + 8 * 4 * 9 + 8 + 4 * 8 + 4))
    assert archcost.footprint(net(), input_size=IMAGE, activations="int4").sram == found.sram / 2


def test_what_is_read_again_is_kept():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return x + torch.relu(self.conv(x))

    # The input outlives the convolution; the sum is written over it.
    assert archcost.footprint(Residual(), input_size=(1, 4, 8, 8)).sram == 2 * 4 * 8 * 8


def test_mobilenet_has_the_peak_of_the_literature():
    """1372 kB of 1024 bytes in int8: Lin et al. 2021, MCUNetV2, figure 1; depthwise layers in place."""
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    found = archcost.footprint(model, input_size=(1, 3, 224, 224), depthwise_in_place=True)
    assert found.sram / 1024 == 1372
    without = archcost.footprint(model, input_size=(1, 3, 224, 224))
    assert without.sram == 96 * 112 * 112 + 96 * 56 * 56


def test_layers_that_break_a_limit_are_named_with_their_excess():
    found = archcost.footprint(net(), input_size=IMAGE, flash="1 KB", sram="2.5 KB")
    assert not found.fits
    assert [one.name for one in found.breaking if one.sram_over] == ["0", "3"]
    assert {one.name: one.sram_over for one in found.breaking}["3"] == found.sram - 2500
    assert "SRAM: 572 B too much for 2.50 kB." in str(found)
    assert archcost.footprint(net(), input_size=IMAGE, flash="1 MB", sram="320 KB").fits


def test_a_budget_on_flash_and_sram_breaks_where_the_footprint_does():
    dtypes = {"weights_dtype": "int8", "activations_dtype": "int8"}
    limits = {"flash": "600 B", "sram": "2 KB", **dtypes}
    analysis = archcost.analyze(net(), input_size=IMAGE)
    found = {one.limit: str(one) for one in Budget(**limits).breaches(analysis)}
    assert set(found) == {"flash", "sram"}
    assert "3.07 kB at conv" in found["sram"]
    with pytest.raises(CostError, match=r"sram: 3.07 kB at convolution in 3 in int8, 1.07 kB above 2.00 kB"):
        archcost.assert_cost(net(), input_size=IMAGE, sram="2 KB", **dtypes)
    archcost.assert_cost(net(), input_size=IMAGE, flash="1 MB", sram="320 KB", **dtypes)
    with pytest.raises(InputError, match="no limit is given"):
        archcost.assert_cost(net(), input_size=IMAGE, **dtypes)


def test_a_dtype_that_torch_does_not_know_is_refused():
    assert (bits_of("int4"), bits_of("int8"), bits_of("bfloat16")) == (4, 8, 16)
    with pytest.raises(InputError, match="'int9' is not a torch dtype"):
        archcost.footprint(net(), input_size=IMAGE, weights="int9")
    with pytest.raises(InputError, match="'int9' is not a torch dtype"):
        Budget(sram=1, activations_dtype="int9")
