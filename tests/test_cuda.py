"""On a CUDA device, where there is one: counted as on paper, measured there, and the model left as it was."""

import copy

import pytest
import torch
import torchvision
from torch import nn

import archcost
from archcost.latency.store.store import Store

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
QUICK = {"store": False, "progress": False}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval().cuda()


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 64, 64, device="cuda")


@pytest.fixture(autouse=True)
def the_model_comes_back(model):
    before = copy.deepcopy(model.state_dict())
    yield
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) and after[name].is_cuda for name in before)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_the_count_is_that_on_paper(model, image):
    on_paper = archcost.analyze(model, image, progress=False)
    there = archcost.analyze(model, image, device="cuda", progress=False)
    assert on_paper.trace.device == "meta"
    assert there.trace.device.startswith("cuda")
    assert on_paper.total.macs == there.total.macs
    assert on_paper.total.params == there.total.params
    assert str(on_paper.fields.network) == str(there.fields.network)


def test_peak_memory_is_what_the_allocator_saw():
    """Blocks of 2 MB and more, which the caching allocator rounds to 512 bytes; a workspace may be added."""
    layers = nn.Sequential(nn.ReLU(), nn.Sigmoid(), nn.MaxPool2d(2), nn.Tanh()).eval()
    x = torch.rand(8, 64, 128, 128, device="cuda")
    counted = archcost.analyze(layers, x, progress=False).total.peak_memory_bytes
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.no_grad():
        layers(x)
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(counted, rel=1e-3)


def test_the_witnesses_agree(model, image):
    assert archcost.analysis.crosscheck(model, image).agrees
    assert archcost.receptive_field(model, image, "layer2", verify=True).size == (99, 99)


def test_the_gradient_of_a_cuda_model_is_that_of_the_cpu(model, image):
    there = archcost.effective_field(model, image, "layer1", signs=True)
    here = archcost.effective_field(copy.deepcopy(model).cpu(), image.cpu(), "layer1", signs=True)
    assert there.map == pytest.approx(here.map, rel=1e-2, abs=1e-3 * here.map.max())


def test_a_model_is_measured_on_its_own_device(model, image):
    found = archcost.measure(model, image, seconds=20, **QUICK)
    assert torch.cuda.get_device_name() in found.device
    assert found.context.clock == "cuda"
    assert found.end_to_end_ms > 0
    timed = [layer for layer in found.layers if layer.latency_ms is not None]
    assert len(timed) == len(found.layers) == 20
    assert abs(found.context.difference) < 0.5
    print(found)


def test_times_of_another_device_are_never_taken(model, image, tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        archcost.measure(
            nn.Conv2d(3, 8, 3).eval(), torch.rand(1, 3, 32, 32), seconds=3, store=store, progress=False
        )
        found = archcost.measure(model, image, seconds=10, store=store, progress=False)
        assert not any(one.reused for one in found.convolutions)


def test_a_model_is_rewritten_there(model, image):
    new = archcost.rewrite(model, image, {"layer1.0.conv1": ("bottleneck", {"rank": 48})}, **QUICK)
    assert all(parameter.is_cuda for parameter in new.model.parameters())
    assert 0 < new.output_error < 1
    merged = archcost.rewrite(model, image, rules=["merge"], **QUICK)
    assert merged.output_error < 1e-4
    assert len(merged.plan) == 20
    assert merged.race(seconds=5).speedup > 0


def test_data_on_the_device_is_fitted_to(model, image):
    by_data = archcost.rewrite(
        model,
        image,
        {"layer3.0.conv2": ("bottleneck", {"rank": 64})},
        batches=[image, image.flip(0)],
        **QUICK,
    )
    before, after = by_data.outcomes[0].refitted
    assert after <= before


def test_accelerate_says_what_it_is_for(model, image):
    found = archcost.accelerate(model, image, seconds=2, progress=False).acceleration
    assert found.reason == "its inputs are not on the CPU"


def test_proposals_are_timed_there(model, image):
    found = archcost.propose(model, image, rules=["asymmetric"], names=["layer4.1.conv2"], **QUICK)
    timed = found.measured(seconds=5, store=False, progress=False)
    assert timed[0].race is not None
    assert torch.cuda.get_device_name() in timed[0].race.device


def test_the_command_measures_on_the_device_of_the_model(capsys, tmp_path, monkeypatch):
    from archcost.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval().cuda()\n"
    )
    line = ["net.py:net", "--input-size", "4,3,64,64", "--seconds", "5", "--store", ":memory:"]
    assert main(["measure", *line]) == 0
    assert torch.cuda.get_device_name() in capsys.readouterr().out
