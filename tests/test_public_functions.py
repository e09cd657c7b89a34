"""Whatever `analyze` survives, every public function works on, or says in an archcost error why not."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

import archcost
from archcost import ArchcostError
from archcost.latency.prediction.roofline import Roofline

X = torch.rand(1, 3, 12, 12)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 6, 5, padding=2)

    def forward(self, x):
        return torch.relu(self.last(torch.relu(self.norm(self.conv(x))))).mean((2, 3))


class Around(nn.Module):
    """A model of which one part is of a kind."""

    def __init__(self, part):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.part = part

    def forward(self, x):
        return self.part(self.first(x))


class Differentiates(Net):
    def forward(self, x):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.conv(x).sum(), x)
        return self.last(self.conv(slope))


class Infers(Net):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class Output(NamedTuple):
    logits: torch.Tensor
    hidden: tuple[torch.Tensor, ...]


class Named(Net):
    def forward(self, x):
        hidden = self.conv(x)
        return Output(super().forward(x), (hidden,))


class ByFunction(Net):
    """Its last map is made by a function in its forward."""

    def forward(self, x):
        return nn.functional.max_pool2d(self.last(self.conv(x)), 2).mean((2, 3))


def quantized():
    net = nn.Sequential(
        torch.ao.quantization.QuantStub(), nn.Conv2d(3, 4, 3), torch.ao.quantization.DeQuantStub()
    ).eval()
    net.qconfig = torch.ao.quantization.get_default_qconfig(torch.backends.quantized.engine)
    torch.ao.quantization.prepare(net, inplace=True)
    net(X)
    return torch.ao.quantization.convert(net, inplace=True)


def on_meta():
    with torch.device("meta"):
        return Net().eval()


def exported():
    return torch.export.export(Net().eval(), (X,)).module()


KINDS = {
    "plain": lambda: Net().eval(),
    "script": lambda: torch.jit.script(Net().eval()),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(Net().eval())),
    "optimized script": lambda: torch.jit.optimize_for_inference(torch.jit.script(Net().eval())),
    "traced": lambda: torch.jit.trace(Net().eval(), X),
    "script inside": lambda: Around(torch.jit.script(Net().eval())).eval(),
    "exported": exported,
    "compiled": lambda: torch.compile(Net().eval()),
    "compiled inside": lambda: Around(torch.compile(Net().eval())).eval(),
    "fx": lambda: torch.fx.symbolic_trace(Net().eval()),
    "quantized": quantized,
    "parallel": lambda: nn.DataParallel(Net().eval()).eval(),
    "meta": on_meta,
    "training": lambda: Net(),
    "differentiates": lambda: Differentiates().eval(),
    "infers": lambda: Infers().eval(),
    "named": lambda: Named().eval(),
    "by function": lambda: ByFunction().eval(),
    "half": lambda: Net().half().eval(),
}
QUICK = {"store": False, "progress": False}


def of(model):
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), X.dtype)
    return X.to(kind)


FUNCTIONS = {
    "compare": lambda m: str(archcost.compare(m, m, of(m))),
    "crosscheck": lambda m: str(archcost.analysis.crosscheck(m, of(m))),
    "receptive_field": lambda m: str(archcost.receptive_field(m, of(m), verify=True)),
    "effective_field": lambda m: str(archcost.effective_field(m, of(m), samples=1)),
    "measure": lambda m: str(archcost.measure(m, of(m), seconds=0.05, paths=["im2col"], **QUICK)),
    "propose": lambda m: str(archcost.propose(m, of(m), rules=["bottleneck"], **QUICK)),
    "measured": lambda m: str(
        archcost.propose(m, of(m), rules=["bottleneck"], **QUICK).measured(seconds=0.05, progress=False)
    ),
    "rewrite": lambda m: str(archcost.rewrite(m, of(m), rules=["bottleneck"], **QUICK)),
    "accelerate": lambda m: str(
        archcost.accelerate(m, of(m), seconds=0.05, store=False, progress=False).acceleration
    ),
    "plot.growth": lambda m: archcost.plot.growth(m, input_size=(1, 3, 12, 12)),
}

# What is refused, by kind: the function and the words of its refusal. All else works.
REFUSED = {
    ("script", "effective_field"): "give the model as it was before torch.jit or torch.export",
    ("script", "accelerate"): "accelerate the model before torch.jit does",
    ("frozen", "receptive_field"): r"cannot run in float64 to verify the field: RuntimeError: Input type",
    ("frozen", "effective_field"): "give the model as it was before torch.jit or torch.export",
    ("frozen", "accelerate"): "accelerate the model before torch.jit does",
    ("optimized script", "accelerate"): "accelerate the model before torch.jit does",
    ("traced", "effective_field"): "give the model as it was before torch.jit or torch.export",
    ("traced", "accelerate"): "accelerate the model before torch.jit does",
    ("script inside", "effective_field"): "give the model as it was before torch.jit or torch.export",
    ("exported", "effective_field"): "give the model as it was before torch.jit or torch.export",
    ("exported", "accelerate"): "accelerate the model, and export what comes of it",
    ("compiled", "measure"): "give the model as it was before",
    ("compiled", "rewrite"): r"rewrite model\._orig_mod, and compile the result",
    ("compiled", "accelerate"): r"accelerate model\._orig_mod, and compile what comes of it",
    ("compiled inside", "measure"): "part is compiled by torch.compile",
    ("compiled inside", "rewrite"): "put its _orig_mod there, and compile the result",
    ("compiled inside", "accelerate"): "put its _orig_mod there, and compile the result",
    ("quantized", "receptive_field"): "verify the floating-point model that it was made from",
    ("quantized", "effective_field"): "no gradient flows from its output to the input",
    ("meta", "crosscheck"): "it is on `meta`; load it with its weights",
    ("meta", "receptive_field"): "its weights are on `meta` and have no values",
    ("meta", "effective_field"): "on `meta` and have no values; load them first",
    ("meta", "measure"): "model and inputs are on meta",
    ("meta", "measured"): "measured runs the model, whose weights are on `meta`",
    ("meta", "rewrite"): "rewrite runs the model, whose weights are on `meta`",
    ("meta", "accelerate"): "accelerate runs the model, whose weights are on `meta`",
    ("training", "accelerate"): r"call model\.eval\(\) first",
    ("differentiates", "effective_field"): "no gradient flows from its output to the input",
    ("differentiates", "measure"): "its forward pass raised RuntimeError: element 0 of tensors",
    ("differentiates", "measured"): "the model's own forward failed",
    ("differentiates", "rewrite"): "the model's own forward failed",
    ("infers", "effective_field"): "no gradient flows from its output to the input",
    ("by function", "effective_field"): r"of the model \(max_pool2d_with_indices\), is made inside a forward",
}
ROOFLINE = Roofline(50e9, 8e9, threads=1, dtype="float32", device="as an example")
SILENT = "TorchScript does not say why; pass the model as it was before torch.jit"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_works_or_says_why_not(kind, function, monkeypatch):
    model = KINDS[kind]()
    monkeypatch.setattr(
        "archcost.latency.prediction.roofline.measure_roofline", lambda *args, **options: ROOFLINE
    )
    silent = kind == "optimized script" and function != "accelerate"
    words = SILENT if silent else REFUSED.get((kind, function))
    if words is None:
        assert FUNCTIONS[function](model)
        return
    with pytest.raises(ArchcostError, match=words) as raised:
        FUNCTIONS[function](model)
    assert "Traceback" not in str(raised.value)
    assert "eval()" not in str(raised.value) or kind == "training"
