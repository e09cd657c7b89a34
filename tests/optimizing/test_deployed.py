"""optimize within flash and SRAM: what is promised on paper is the footprint of the model that comes out."""

import copy

import pytest
import torch
from torch import nn

import archcost
from archcost import Budget, RewriteError
from archcost.optimizing.candidates import replacement_of
from archcost.optimizing.deployed import Deployed
from archcost.optimizing.optimize import task_of
from archcost.rewriting.plan.building import built
from helpers.trained import Small, trained

IMAGE = (1, 1, 16, 16)
INT8 = {"weights_dtype": "int8", "activations_dtype": "int8"}


class Wide(nn.Module):
    """A layer whose input and output are the largest tensors, and one whose input is read again."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.inside = nn.Conv2d(16, 16, 3, padding=1)
        self.dense = nn.Linear(16, 24)
        self.head = nn.Linear(24, 8, bias=False)

    def forward(self, x):
        x = torch.relu(self.middle(torch.relu(self.stem(x))))
        x = nn.functional.max_pool2d(x, 2)
        x = x + torch.relu(self.inside(x))
        return self.head(self.dense(x.flatten(2).transpose(1, 2)))


def task(model):
    torch.manual_seed(0)
    return task_of(model.eval(), None, None, "refuse", True, IMAGE, (), None, 2**29, False, False)


def optimized(model, **limits):
    torch.manual_seed(0)
    budget = Budget(**limits, **INT8)
    return archcost.optimize(model.eval(), input_size=IMAGE, budget=budget, random_weights=True)


@pytest.mark.parametrize("dtype", ["int8", None, "int4"])
def test_a_candidate_takes_what_its_layers_take_in_the_model(dtype):
    given = task(Wide())
    given.find_candidates()
    deployed = Deployed(given, Budget(activations_dtype=dtype, flash=1e9))
    for layer in given.layers:
        for one in given.candidates[layer.name][::17]:
            new = replacement_of(layer, one.rule, one.options)
            model = copy.deepcopy(given.model)
            setattr(model, layer.name, built(new.chain, layer.module, None, {}))
            found = archcost.footprint(
                archcost.analyze(model, input_size=IMAGE), weights="int8", activations=dtype or "float32"
            )
            there = [row.sram for row in found.layers if row.name.split(".")[0] == layer.name]
            places = deployed.places[layer.name]
            assert max(place.with_chain(new.chain) for place in places) == max(there)


def test_a_layer_that_breaks_the_limit_is_exchanged_and_the_footprint_keeps_it():
    limits = {"sram": 5500, "flash": 3000}
    model = Wide()
    before = archcost.footprint(model, input_size=IMAGE)
    assert [row.name for row in before.layers if row.sram > 5500] == ["middle"]
    found = optimized(model, **limits)
    after = archcost.footprint(found.model, input_size=IMAGE)
    assert after.sram <= 5500 < before.sram
    assert after.flash <= 3000 < before.flash
    assert next(row for row in found.rows if row.name == "middle").rule
    assert (found.reached["sram"], found.reached["flash"]) == (after.sram / 8192, after.flash / before.flash)
    assert found.footprints[1].fits
    text = str(found)
    assert "SRAM: fits, with " in text
    assert "flash: fits, with " in text
    assert "not kept" not in text


def test_sram_alone_exchanges_no_more_than_it_must():
    found = optimized(Wide(), sram=5500)
    assert [row.name for row in found.rows if row.rule] == ["middle"]
    assert len(optimized(Wide(), sram=9000).plan) == 0


def test_a_result_with_footprints_is_saved(tmp_path):
    found = optimized(Wide(), sram=0.9)
    assert found.reached["sram"] <= 0.9
    found.save(tmp_path / "found.json")
    assert archcost.load_result(tmp_path / "found.json").to_text() == found.to_text()


def test_what_no_rewrite_lowers_is_named_with_its_excess():
    with pytest.raises(RewriteError) as error:
        optimized(trained(), sram=4000)
    assert str(error.value) == (
        "the budget cannot be kept: sram=4.00 kB; the least reachable is 5.12 kB; no rewrite lowers enough "
        "what is alive in the model itself, 1.12 kB above the limit; first, 96 B above the limit: give a "
        "smaller input, or a larger budget"
    )
    with pytest.raises(RewriteError, match="give a smaller input, or activations_dtype='int8', or a larger"):
        archcost.optimize(Small().eval(), input_size=IMAGE, budget={"sram": "4 KB"}, random_weights=True)


def test_a_layer_that_may_not_be_exchanged_is_named_too():
    torch.manual_seed(0)
    budget = Budget(sram=5500, **INT8)
    arguments = {"input_size": IMAGE, "budget": budget, "random_weights": True}
    with pytest.raises(RewriteError, match=r"in middle, 2.69 kB above the limit"):
        archcost.optimize(Wide().eval(), exclude=["middle"], **arguments)
    with pytest.raises(RewriteError, match=r"in middle, 2.69 kB above the limit"):
        archcost.optimize(Wide().eval(), rules=["low_rank"], **arguments)


def test_flash_is_counted_with_the_norms_that_were_there():
    found = optimized(trained(), flash="12 KB")
    assert found.footprints[0].flash > 12_000 >= found.footprints[1].flash > 11_500


def test_flash_that_cannot_be_reached_says_the_least():
    with pytest.raises(RewriteError, match=r"flash=0\.\d+ of the model; the least reachable is 0\.\d+"):
        optimized(Wide(), flash=100)
