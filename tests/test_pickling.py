"""Every public result can be pickled and copied: what it says is the same afterwards."""

import copy
import pickle

import pytest
import torch
from torch import nn

import archcost
from archcost import ModelError
from archcost.analysis.receptive import verify_field
from archcost.latency.measured import MeasuringInterrupted
from archcost.latency.prediction.roofline import Roofline
from archcost.latency.store.store import Store

X = torch.rand(1, 3, 16, 16)
QUICK = {"store": False, "progress": False}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, padding=2)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.deep(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


@pytest.fixture(autouse=True)
def _the_roofline_takes_no_time(monkeypatch):
    line = Roofline(50e9, 8e9, threads=1, dtype="float32", device="as an example")
    monkeypatch.setattr(
        "archcost.latency.prediction.roofline.measure_roofline", lambda *args, **options: line
    )


@pytest.fixture(scope="module")
def net():
    return Net().eval()


@pytest.fixture(scope="module")
def rewritten(net):
    found = archcost.rewrite(net, X, rules=["bottleneck"], **QUICK)
    found.race(20)
    return found


MADE = {
    "analysis": lambda net: archcost.analyze(net, X),
    "training": lambda net: archcost.analyze(Net(), X),
    "comparison": lambda net: archcost.compare(net, nn.Sequential(nn.Conv2d(3, 8, 1)).eval(), X),
    "crosscheck": lambda net: archcost.analysis.crosscheck(net, X),
    "field": lambda net: archcost.receptive_field(net, X),
    "witness": lambda net: verify_field(one := archcost.analyze(net, X), one.fields.network),
    "effective": lambda net: archcost.effective_field(net, X),
    "measured": lambda net: archcost.measure(net, X, seconds=0.2, **QUICK),
    "proposals": lambda net: archcost.propose(net, X, **QUICK),
    "proposals of a store": lambda net: archcost.propose(net, X, store=Store(":memory:"), progress=False),
    "proposal": lambda net: archcost.propose(net, X, **QUICK)[0],
    "spec": lambda net: archcost.ConvSpec(3, 96, 11, stride=4, input_size=(227, 227)),
    "loaded": lambda net: archcost.load("torchvision:squeezenet1_1"),
}
TWICE = {"pickled": lambda value: pickle.loads(pickle.dumps(value)), "copied": copy.deepcopy}


@pytest.mark.parametrize("way", TWICE)
@pytest.mark.parametrize("name", MADE)
def test_a_result_says_the_same_pickled_and_copied(net, name, way):
    found = MADE[name](net)
    again = TWICE[way](found)
    assert type(again) is type(found)
    assert str(again) == str(found)
    if hasattr(found, "to_json"):
        assert again.to_json() == found.to_json()


@pytest.mark.parametrize("part", ["plan", "outcomes", "speed", "after", "comparison"])
def test_the_parts_of_a_rewrite(rewritten, part):
    found = getattr(rewritten, part)
    assert str(pickle.loads(pickle.dumps(found))) == str(found)


def test_a_rewrite_goes_with_its_models(rewritten):
    again = pickle.loads(pickle.dumps(rewritten))
    assert str(again) == str(rewritten)
    assert torch.equal(again.model(X), rewritten.model(X))
    again.undo()
    assert torch.allclose(again.model(X), rewritten.original(X))


def test_an_acceleration_goes_with_its_model(net):
    done = archcost.accelerate(net, X, seconds=0.2, store=False, progress=False)
    again = pickle.loads(pickle.dumps(done))
    assert str(again.acceleration) == str(done.acceleration)
    assert torch.equal(again(X), done(X))


def test_what_ctrl_c_hands_over(net):
    found = archcost.measure(net, X, seconds=0.1, **QUICK)
    assert str(pickle.loads(pickle.dumps(MeasuringInterrupted(found))).found) == str(found)


def test_what_has_been_worked_out_is_not_in_the_pickle(net):
    found = archcost.analyze(net, X)
    assert found.fields.network is not None
    again = vars(pickle.loads(pickle.dumps(found)))
    assert "fields" in vars(found)
    assert "fields" not in again


def test_a_pickle_has_no_model_and_a_copy_has(net):
    found = archcost.analyze(net, X)
    assert copy.copy(found).model is copy.deepcopy(found).model is net
    again = pickle.loads(pickle.dumps(found))
    with pytest.raises(ModelError, match=r"^Net: the model is gone, .* nor does a pickle or a saved file: "):
        _ = again.model
    with pytest.raises(ModelError, match="the model is gone"):
        archcost.propose(again)
    assert again.fields.network == found.fields.network


def test_an_analysis_of_a_spec_builds_its_model_after_a_pickle_as_well():
    found = archcost.analyze("torchvision:squeezenet1_1")
    assert found.model is found.model
    again = pickle.loads(pickle.dumps(found))
    assert type(again.model).__name__ == "SqueezeNet"
    assert len(pickle.dumps(found)) < 1e6  # the weights stay behind


def test_a_store_is_opened_again_where_it_was(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    assert pickle.loads(pickle.dumps(store)).path == store.path
    store.close()
