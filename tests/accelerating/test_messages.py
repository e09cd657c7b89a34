"""What was probably meant is said by accelerate: inputs inferred, tolerances that cannot be kept."""

import re

import pytest
import torch
from torch import nn

import archcost
from archcost import ModelError, SpecError
from helpers.refusals import said

# accelerate


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()


@pytest.fixture
def quick(monkeypatch):
    """Only what surrounds measuring runs."""
    from archcost.accelerating import accelerate
    from archcost.accelerating.reporting import unchanged

    def not_measured(work, asked, *rest):
        asked_for.append(asked)
        return unchanged(asked, [], "it was not measured")

    asked_for = []
    monkeypatch.setattr(accelerate, "_accelerated", not_measured)
    return asked_for


def test_accelerate_without_inputs_infers_them_and_says_so(quick):
    done = archcost.accelerate(small())
    assert done.acceleration.notes == (
        "input size 1x3x224x224 assumed: the first layer, 0 (Conv2d), takes 3 channels",
    )
    assert "Note: input size 1x3x224x224 assumed" in done.acceleration.to_text()
    (x,) = quick[0].inputs
    assert x.shape == (1, 3, 224, 224)


def test_accelerate_takes_an_input_size(quick):
    archcost.accelerate(small(), input_size=(2, 3, 16, 16))
    (x,) = quick[0].inputs
    assert x.shape == (2, 3, 16, 16)
    assert x.std() > 0.1


def test_accelerate_loads_a_spec_as_analyze_does(quick):
    done = archcost.accelerate("torchvision:squeezenet1_1")
    assert type(done).__name__ == "SqueezeNet"
    assert done.acceleration.notes == archcost.analyze("torchvision:squeezenet1_1").notes
    assert quick[0].inputs[0].shape == (1, 3, 224, 224)
    assert "unknown model" in said(SpecError, archcost.accelerate, "squeezenet")


@pytest.mark.parametrize(
    ("dtype", "tolerance", "words"),
    [
        (torch.float16, 1e-4, ("1e-04 is finer than float16 is, which rounds by 1e-03", "4e-03")),
        (torch.bfloat16, 1e-3, ("1e-03 is finer than bfloat16 is, which rounds by 8e-03", "3e-02")),
        (torch.float16, 1e-2, None),
        (torch.float32, 1e-4, None),
    ],
)
def test_accelerate_says_where_half_precision_cannot_keep_the_tolerance(quick, dtype, tolerance, words):
    x = torch.rand(1, 3, 9, 9).to(dtype)
    done = archcost.accelerate(small().to(dtype), x, tolerance=tolerance)
    if words is None:
        assert done.acceleration.notes == ()
        return
    finer, enough = words
    assert done.acceleration.notes == (
        f"the tolerance of {finer}: paths as exact as PyTorch's own are refused; tolerance={enough} lets "
        f"them in",
    )


def test_a_tolerance_that_half_precision_can_keep_lets_paths_in():
    conv = nn.Conv2d(8, 8, 3).half()
    spec = archcost.ConvSpec(8, 8, 3, input_size=(12, 12))
    fine, coarse = (
        archcost.paths.eligible(spec, conv.weight.detach(), tolerance=tolerance) for tolerance in (1e-4, 4e-3)
    )
    assert not any(one.eligible for name, one in fine.items() if name.startswith("winograd"))
    assert any(one.eligible for name, one in coarse.items() if name.startswith("winograd"))


def test_accelerate_does_not_advise_what_an_exported_module_refuses():
    exported = torch.export.export(small(), (torch.rand(1, 3, 9, 9),)).module()
    words = said(ModelError, archcost.accelerate, exported, torch.rand(1, 3, 9, 9))
    assert "eval()" not in words
    assert words.endswith("accelerate the model, and export what comes of it")


def test_a_mode_that_cannot_be_changed_is_not_advised_either():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    x = torch.rand(2, 3, 9, 9)
    exported = torch.export.export(model, (x,)).module()
    (note,) = archcost.analyze(exported, x).notes
    assert note.endswith("batch norms use the statistics of the batch; for inference export it in eval mode")
    assert not re.search(r"eval\(\)", note)
