"""The measurement of a task, in this process."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from archcost.engine.activation import RELU
from archcost.engine.graph import Node, Value
from archcost.engine.on_paper import layer_of
from archcost.engine.operators import Convolution
from archcost.errors import InputError
from archcost.fleet.fleet import measure
from archcost.fleet.kept import checked
from archcost.fleet.measuring import measured
from archcost.fleet.tasks import Model, Product, Step, from_record
from archcost.fleet.worker import FOLDER

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()).eval()

def stateful():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(3, 8, 3), 0

        def forward(self, x):
            self.calls += 1
            return self.conv(x)

    return Counting().eval()
"""


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "tiny.py").write_text(NET)
    return f"{tmp_path}/tiny.py:net"


@pytest.mark.parametrize("how", ["eager", "program"])
def test_a_whole_model_is_timed_at_its_batch(spec, how):
    task = Model(spec, 2, 1, how)
    found = checked(task, measured(task.record(), 0.2))["model"]
    assert 0 < found["q1_s"] <= found["median_s"] <= found["q3_s"]
    assert found["samples"] >= 5


@pytest.mark.parametrize("sizes", [(5, 7, 3), (2, 5, 7, 3)])
def test_a_product_is_timed_alone(sizes):
    task = Product(sizes, 1)
    found = checked(task, measured(task.record(), 0.1))["product"]
    assert 0 < found["q1_s"] <= found["median_s"]


def test_a_layer_of_a_program_is_timed_by_its_fastest_variant():
    images = (Value((1, 16, 12, 12)), Value((1, 16, 12, 12)))
    conv = Convolution(torch.zeros(16, 16, 3, 3), None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1, RELU, adds=True)
    task = Step(layer_of(Node(conv, (images[0], images[0]), images[1])), 1)
    assert from_record(task.record()) == task
    found = checked(task, measured(task.record(), 0.05))
    assert 0 < found["step"]["q1_s"] <= found["step"]["median_s"]
    assert found["variant"] in {"direct", "F(2x2, 3x3)", "F(4x4, 3x3)", "F(6x6, 3x3)"}
    with pytest.raises(InputError, match="no layer of a program"):
        measured(Step('{"operator": {"type": "Module"}}', 1).record(), 0.05)


def test_a_model_of_which_no_program_can_be_made_has_no_time_as_one(spec):
    with pytest.raises(RuntimeError, match="changes its attributes"):
        measured(Model(spec.replace(":net", ":stateful"), 1, 1, "program").record(), 0.2)


@pytest.mark.slow
def test_programs_stand_beside_the_models_they_are_of(spec, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "worker"))
    with ThreadPoolExecutor(2) as pool:
        store = tmp_path / "fleet.sqlite"
        run = measure(spec, client=pool, batch=1, seconds=1, programs=True, paths=("native",), store=store)
    assert not run.failed
    assert [(row.how, row.ms is not None) for row in run.rows] == [("eager", True), ("program", True)]
