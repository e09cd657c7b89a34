"""The memory of a pass is that of inference in its steady state, and the same in every call and process."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from archcost.analysis.analysis import analyze
from archcost.trace.run import record
from helpers.calls import Calls
from helpers.versions import newer

IMAGE = torch.rand(1, 8, 16, 16)


def by(function):
    """A forward that is a function of the module and its input, behind a convolution with gradients."""
    return Calls(function, conv=nn.Conv2d(8, 8, 1), lin=nn.Linear(16, 16))


IN_PLACE = {
    "relu": lambda: nn.ReLU(True),
    "relu6": lambda: nn.ReLU6(True),
    "silu": lambda: nn.SiLU(True),
    "hardswish": lambda: nn.Hardswish(True),
    "mish": lambda: nn.Mish(True),
    "hardsigmoid": lambda: nn.Hardsigmoid(True),
    "hardtanh": lambda: nn.Hardtanh(inplace=True),
    "leaky relu": lambda: nn.LeakyReLU(0.1, True),
    "elu": lambda: nn.ELU(inplace=True),
    "celu": lambda: nn.CELU(inplace=True),
    "selu": lambda: nn.SELU(True),
    "threshold": lambda: nn.Threshold(0.1, 0.0, True),
}


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("caller", [torch.no_grad, torch.enable_grad], ids=["no_grad", "enable_grad"])
def test_what_autograd_clones_before_an_in_place_function_is_not_there_in_inference(name, caller):
    model = nn.Sequential(nn.Conv2d(8, 8, 1), IN_PLACE[name]())
    with caller():
        found = analyze(model, IMAGE)
    assert found.total.peak_memory_bytes == found.total.activation_bytes == 8192
    assert "aten.clone.default" not in [op.name for op in found.trace.ops]


def test_what_training_keeps_is_that_of_training():
    """ReLU6 needs its input for the backward pass, and so autograd clones it."""
    for caller in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with caller():
            total = analyze(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU6(True)), IMAGE).total
            assert total.kept_for_backward_bytes == 8192
            assert (
                analyze(nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), IMAGE).total.kept_for_backward_bytes
                == 8192
            )


WITHOUT_GRADIENTS = {
    "a result written into a tensor": lambda m, x: torch.mm(x[0, 0], m.lin.weight, out=x.new_empty(16, 16)),
    "a weight written in place": lambda m, x: m.conv(x * m.conv.weight.add_(1).sum()),
    "values for numpy": lambda m, x: torch.from_numpy(m.conv(x).numpy()),
}


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_a_forward_that_runs_only_without_gradients_is_counted(name):
    model = by(WITHOUT_GRADIENTS[name])
    with torch.no_grad():
        expected = model(IMAGE.clone()).numel()
    found = analyze(model, IMAGE)
    assert 4 * expected <= found.total.peak_memory_bytes
    assert found.total.macs == (16**3 if "written into" in name else 16 * 16 * 8 * 8)
    assert found.total.kept_for_backward_bytes is None
    assert found.notes[-1].startswith(
        "memory saved for backward is unknown: the model's own forward (Calls): "
    )


@newer("2.8 lets no dispatch mode see flex_attention on a CPU")
def test_flexible_attention_is_counted_on_a_cpu(only_torch):
    """It has no backward pass there, and compiles itself in the middle of the first pass."""
    code = """
import warnings
warnings.simplefilter("ignore")
import torch, archcost
from torch.nn.attention.flex_attention import flex_attention

class Flexible(torch.nn.Module):
    def forward(self, q):
        return flex_attention(q, q, q)

found = archcost.analyze(Flexible(), torch.rand(1, 2, 16, 8))
print(found.total.macs, found.total.kept_for_backward_bytes)
"""
    assert printed(only_torch, code) == [f"{2 * 2 * 16 * 16 * 8} 0"]


def printed(only_torch, code):
    done = only_torch.run(code)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_first_call_of_a_process_says_what_every_other_says(only_torch):
    """An import in the middle of a pass, here the compiler's, keeps the frames below it and their tensors."""
    code = """
import sys, torch, archcost
from torch import nn
from torch.nn.functional import interpolate

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(19, 8, 3, padding=1)

    def forward(self, x):
        y = torch.relu(self.down(x))
        y = interpolate(torch.relu(y * 2), scale_factor=0.5, mode="bicubic")
        y = interpolate(torch.relu(y + 1), scale_factor=2, mode="bicubic")
        return self.up(torch.cat([y, x], 1))

before = "torch._dynamo" in sys.modules
for _ in range(12):
    print(archcost.analyze(Net().eval(), input_size=(1, 3, 32, 32)).total.peak_memory_bytes)
print(before, "torch._dynamo" in sys.modules)
"""
    *peaks, imported = printed(only_torch, code)
    assert imported == "False True"  # else this test shows nothing
    assert len(peaks) == 12
    assert set(peaks) == {str(3 * 4 * 16 * 32 * 32)}  # y, y * 2 and its relu


def test_upsampling_does_not_start_the_compiler(only_torch):
    code = """
import sys, torch
from torch import nn
from archcost.trace.run import record
record(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2)), torch.rand(2, 3, 8, 8))
print("torch._dynamo" in sys.modules)
"""
    assert printed(only_torch, code) == ["False"]


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


BRANCHES = {
    "by the grad mode": lambda m, x: m.conv(m.conv(x)) if torch.is_grad_enabled() else m.conv(x),
    "by what requires gradients": lambda m, x: m.conv(x) * (2 if m.conv(x).requires_grad else 1),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x, x, attn_mask=m.lin(x)),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_operators_are_those_of_inference(name):
    model = by(BRANCHES[name])
    with torch.no_grad(), Operators() as real:
        model(IMAGE)
    hidden = ("aten.detach.default", "aten.alias.default")
    traced = [op.name for op in record(model, IMAGE, device="cpu").ops]
    assert traced == [op for op in real.names if op not in hidden]
    assert [op.name for op in record(model, IMAGE).ops] == traced


def test_weights_that_do_not_learn_keep_nothing():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU6(True)).requires_grad_(False)
    assert analyze(model, IMAGE).total.kept_for_backward_bytes == 0


class Remembers(nn.Module):
    """Computes a table of biases in its first pass, as LeViT does, and keeps it."""

    def __init__(self):
        super().__init__()
        self.biases = nn.Parameter(torch.rand(8))
        self.table = {}

    def forward(self, x):
        if not self.training and "biases" not in self.table:
            self.table["biases"] = self.biases[torch.arange(64, device=x.device).view(8, 8) % 8] * 2
        return x + (self.table["biases"] if not self.training else self.biases)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_what_a_model_keeps_for_its_next_pass_is_not_made_again(device):
    model = Remembers().eval()
    for _ in range(2):
        found = analyze(model, torch.rand(8, 8), device=device)
        assert [op.name for op in found.trace.ops] == ["aten.add.Tensor"]
        assert found.total.peak_memory_bytes == 256
        assert model.table == {}
