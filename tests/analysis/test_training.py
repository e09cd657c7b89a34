"""A training step on paper is the one that PyTorch runs, by operator, and so is its memory."""

import json
import os
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import archcost
from archcost import InputError, ModelError
from archcost.analysis.largest import memory_of
from archcost.analysis.workspace import kept_for_backward, workspace_of
from archcost.cost.costs import count
from archcost.trace.training import record_step

QUICK = ["resnet18", "vgg11", "squeezenet1_0", "mobilenet_v2"]
MODELS = [
    *("resnet50", "alexnet", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "shufflenet_v2_x0_5"),
    *("mnasnet0_5", "regnet_y_400mf", "resnext50_32x4d", "convnext_tiny", "swin_t", "wide_resnet50_2"),
    *("vgg11_bn", "regnet_x_400mf", "fcn_resnet50", "vit_b_16"),
]
SDPA = "aten._scaled_dot_product_flash_attention_for_cpu_backward"


def built(name):
    backbone = {"weights_backbone": None} if name.startswith("fcn") else {}
    return torchvision.models.get_model(name, weights=None, **backbone)


def witnessed(model, size):
    """The MACs of a real backward pass by operator, as FlopCounterMode counts them."""

    def macs():
        return Counter({str(op): flops // 2 for op, flops in counter.get_flop_counts()["Global"].items()})

    with FlopCounterMode(display=False) as counter:
        outputs = model.train()(torch.rand(size))
        forward = macs()
        roots = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
        torch.autograd.backward(roots, [torch.ones_like(one) for one in roots])
    return {op: n for op, n in (macs() - forward).items() if n}


def paper(step, *phases):
    """The MACs of phases of a step by operator, and what FlopCounterMode adds for grouped weights."""
    macs, extra = Counter(), Counter()
    for op, phase in zip(step.trace.ops, step.phases, strict=True):
        if phase in phases and (n := count(op).macs):
            macs[op.base] += n
            if op.base == "aten.convolution_backward":
                *_, groups, wanted = op.args
                extra[op.base] += (groups - 1) * n // sum(wanted[:2]) * wanted[1]
    return macs, extra


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MODELS)])
def test_the_backward_pass_has_the_macs_of_a_real_one_by_operator(name):
    size = (2, 3, 224, 224) if name == "vit_b_16" else (2, 3, 64, 64)
    model = built(name)
    macs, of_groups = paper(record_step(model, input_size=size), "backward")
    # FlopCounterMode does not know the CPU's fused attention, and takes a grouped weight for a dense one.
    assert {op: n for op, n in (macs + of_groups).items() if op != SDPA} == witnessed(model, size)


def test_the_gradient_of_a_grouped_weight_costs_as_much_as_its_groups_one_by_one():
    together = nn.Conv2d(8, 8, 3, groups=4)
    apart = nn.ModuleList(nn.Conv2d(2, 2, 3) for _ in range(4))
    macs, _ = paper(record_step(together, input_size=(2, 8, 9, 9)), "backward")
    assert sum(macs.values()) == sum(sum(witnessed(one, (2, 2, 9, 9)).values()) for one in apart)


def test_what_no_gradient_reaches_costs_nothing():
    model = torchvision.models.resnet18(weights=None)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("layer4", "fc"))
    macs, _ = paper(record_step(model, input_size=(2, 3, 64, 64)), "backward")
    assert macs == witnessed(model, (2, 3, 64, 64))
    found = archcost.training_step(model, input_size=(2, 3, 64, 64))
    assert all(name.startswith(("layer4", "fc")) for name in found.modules)
    assert found.memory.optimizer_state < 2 * 4 * found.trainable_params + 1000
    assert "parameters are frozen" in str(found)


class Checkpointed(nn.Module):
    def __init__(self, again):
        super().__init__()
        self.again = again
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
            for _ in range(12)
        )

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.again else block(x)
        return x


def test_checkpoints_are_computed_again_and_save_memory():
    size = (2, 8, 32, 32)
    plain = archcost.training_step(Checkpointed(False), input_size=size)
    again = archcost.training_step(Checkpointed(True), input_size=size)
    assert plain.macs("recomputed") == 0
    # The last convolution of a block is not computed again where nothing behind it needs it.
    assert plain.macs("forward") / 2 <= again.macs("recomputed") <= plain.macs("forward")
    assert again.macs("backward") == plain.macs("backward")
    assert again.memory.total < plain.memory.total
    macs, _ = paper(record_step(Checkpointed(True), input_size=size), "backward", "recomputed")
    assert macs == witnessed(Checkpointed(True), size)


def test_backward_operations_are_put_into_the_module_of_their_forward():
    model = torchvision.models.resnet18(weights=None)
    back = archcost.training_step(model, input_size=(1, 3, 64, 64)).modules
    forward = {row.name: row.macs for row in archcost.analyze(model, input_size=(1, 3, 64, 64)).layers}
    assert back.pop("conv1") == forward["conv1"]  # the image needs no gradient
    assert back == {name: 2 * forward[name] for name in back}
    assert set(back) == {name for name, macs in forward.items() if macs} - {"conv1"}


def test_the_state_of_the_optimiser_is_its_own():
    model = nn.Linear(100, 10)
    of = {
        name: archcost.training_step(model, input_size=(1, 100), optimizer=name).memory.optimizer_state
        for name in ("adamw", "sgd")
    }
    assert of["sgd"] == 4 * 1010
    assert 8 * 1010 <= of["adamw"] <= 8 * 1010 + 16  # and a counter for each parameter
    plain = archcost.training_step(
        model, input_size=(1, 100), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1)
    )
    assert plain.memory.optimizer_state == 0
    assert sum(one.other_ops for one in plain.operators if one.phase == "update") >= 1010


def test_the_model_comes_back_untouched():
    model = torchvision.models.resnet18(weights=None).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    archcost.training_step(model, input_size=(2, 3, 64, 64))
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_real_step_is_timed_on_request():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    weight = model[0].weight.clone()
    found = archcost.training_step(model, input_size=(2, 3, 8, 8), measure=True, seconds=0.2)
    assert found.measured_ms > 0
    assert torch.equal(model[0].weight, weight)


def test_the_largest_batch_fits_and_one_more_does_not():
    model = torchvision.models.resnet18(weights=None)
    for training in (True, False):
        found = archcost.largest_batch(model, (1, 3, 64, 64), memory="300 MB", training=training)
        at = [memory_of(model, (found.value + i, 3, 64, 64), training=training).total for i in (0, 1)]
        assert at[0] == found.memory.total <= 300e6 < at[1] == found.next_bytes
        assert sum(found.memory.parts.values()) == found.memory.total
        assert f"300 MB hold a batch of {found.value} for" in str(found)


def test_the_largest_input_fits_and_the_next_does_not():
    model = torchvision.models.resnet18(weights=None)
    found = archcost.largest_input(model, (2, 3, 64, 64), memory="200 MB")
    assert found.value % 32 == 0
    assert found.memory.total <= 200e6 < memory_of(model, (2, 3, found.next_value, found.next_value)).total


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda m: archcost.largest_batch(m, (1, 3, 64, 64), memory="100 MB"),
            r"100 MB do not hold a batch of 1 of ResNet for training with adamw: it takes .* MB more; the "
            "largest part is optimizer state",
        ),
        (lambda m: archcost.largest_batch(m, (1, 3, 64, 64), memory="much"), "memory: cannot read 'much'"),
        (lambda m: archcost.largest_input(m, memory="1 GB", multiple=0), "multiple must be a whole number"),
        (lambda m: archcost.training_step(m, input_size=(1, 3, 64, 64), optimizer="adamx"), "no 'adamx'"),
    ],
)
def test_wrong_arguments_are_named(function, words):
    with pytest.raises(InputError, match=words):
        function(torchvision.models.resnet18(weights=None))


def test_a_model_without_anything_to_train_is_refused():
    with pytest.raises(ModelError, match="no parameter requires a gradient"):
        archcost.training_step(nn.Linear(3, 2).requires_grad_(False), input_size=(1, 3))


REAL = Path(__file__).parents[2] / "benchmarks" / "resident.py"
CASES = [("resnet18", 32, 160), ("mobilenet_v2", 16, 160), ("vgg11", 4, 160), ("vit_b_16", 4, 224)]
CASES += [("densenet121", 8, 160), ("text", 32, 128)]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN runs it")
@pytest.mark.parametrize(("steps", "batch", "features", "hidden"), [(9, 3, 40, 64), (5, 2, 300, 128)])
def test_what_an_lstm_keeps_is_what_onednn_allocates(steps, batch, features, hidden):
    layer = nn.LSTM(features, hidden)
    given = torch.rand(steps, batch, features), *(one.detach() for one in layer.parameters())
    state = torch.zeros(batch, hidden)
    options = (False, [], 2, hidden, 1, True, False, False, True)
    workspace = torch.ops.aten.mkldnn_rnn_layer(*given, state, state, *options)[3].nbytes
    ops = record_step(layer, input_size=(steps, batch, features)).trace.ops
    counted = sum(sum(kept_for_backward(op).values()) for op in ops)
    counted += sum(workspace_of(op, "cpu") for op in ops if "rnn_layer_backward" in op.name)
    assert 0 <= workspace - counted < 7 * 4096  # each of its parts begins on a page


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "batch", "side"), CASES)
def test_the_memory_is_that_of_a_real_run(name, batch, side, training):
    batch *= 1 if training else 4
    resident = runpy.run_path(str(REAL))
    model, size = resident["network"](name), resident["size_of"](name, batch, side)
    dtype = torch.int64 if name == "text" else None
    counted = memory_of(model, size, training=training, dtype=dtype).total
    # Blocks go back to the system when freed: with glibc's own thresholds fragmentation comes on top.
    given = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, str(REAL), name, str(batch), str(side), "train" if training else "infer"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **given}, check=True)
    assert counted == pytest.approx(json.loads(done.stdout)["grown"], rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_memory_is_that_of_cudas_allocator():
    model = torchvision.models.resnet18(weights=None)
    counted = memory_of(model, (32, 3, 160, 160), training=True, device="cuda").total
    model.cuda().train()
    update = torch.optim.AdamW(model.parameters(), foreach=False)
    x = torch.rand(32, 3, 160, 160, device="cuda")
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        y = model(x)
        y.backward(torch.ones_like(y))
        update.step()
        update.zero_grad()
    assert counted == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
