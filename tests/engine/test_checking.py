"""Every layer of a program against float64."""

import pytest
import torch
from torch import nn

from archcost.engine import checking
from archcost.engine.checking import Worst, layer_errors, worst_layer
from archcost.engine.recipe import Recipe
from archcost.errors import ModelError
from archcost.kernels import loading
from archcost.surgery.outputs import exact_outputs, outputs_of
from archcost.trace.call import Call
from archcost.trace.hints import traced

pytestmark = pytest.mark.skipif(loading.library() is None, reason="no kernels")


class Odd(nn.Module):
    """Images and vectors, concatenated in place, a call of PyTorch, something that is zero, indices."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20)
        self.left, self.right = nn.Conv2d(20, 32, 1), nn.Conv2d(20, 13, 3, padding=1, stride=1)
        self.fc = nn.Linear(45, 7)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = torch.cumsum(x, 2)
        x = x + (x - x)
        return self.fc(x.mean((2, 3))), x.argmax(1)


def made(model, x, **options):
    with torch.no_grad():
        example = model(x)
    recipe, graph = Recipe.of(model, Call.of(x), traced(model, x, progress=False), example)
    return recipe.made(graph, **options)[0]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Odd().eval()


X = torch.rand(2, 3, 9, 11)


def test_each_layer_is_as_exact_as_float32(model):
    found = list(layer_errors(made(model, X, evaluated=True), [X]))
    assert len(found) > 6
    assert all(error < 5e-6 and usual < 5e-6 for _, error, usual in found)
    assert sum(error > 0 for _, error, _ in found) > 4
    assert sum(usual > 0 for *_, usual in found) > 4


def test_the_layer_that_is_off_is_named(model):
    program = made(model, X, evaluated=True)
    assert worst_layer(program, [X], 5e-6).exact
    number = next(i for i, node in enumerate(program.graph.nodes) if "right" in node.modules)
    operator = program.graph.nodes[number].operator
    operator.weight.mul_(1.001)  # the graph's, not what was packed
    found = worst_layer(program, [X], 5e-6)
    assert not found.exact
    assert 1e-5 < found.error < 1e-2
    assert found.name == "right (convolution 3x3)"


def test_a_layer_may_be_off_as_far_as_pytorch_is_there(model):
    program = made(model, X, evaluated=True)
    found = worst_layer(program, [X], 1e-12)
    assert found.allowed > 1e-9
    assert found.error < 5 * found.allowed


def test_a_layer_that_overflows_in_pytorch_as_well_is_off(model, monkeypatch):
    program = made(model, X, evaluated=True)
    first, second, *_ = program.graph.nodes
    found = [(first, float("inf"), float("inf")), (second, 1e-3, 0.0)]
    monkeypatch.setattr(checking, "layer_errors", lambda *_: found)
    worst = worst_layer(program, [X], 1e-4)
    assert not worst.exact
    assert (worst.error, worst.allowed) == (float("inf"), 1e-4)


def test_a_program_lets_go_of_its_graphs_weights(model):
    program = made(model, X)
    operators = [step.node.operator for step in program.steps]
    assert all(one.weight.is_meta for one in operators if hasattr(one, "weight"))
    with torch.no_grad():
        expected = model(X)
    torch.testing.assert_close(program([X])[0], expected[0])
    assert torch.equal(program([X])[1], expected[1])


def test_a_model_whose_layers_are_off_is_not_saved(tmp_path, monkeypatch, model):
    import archcost
    from archcost.engine import accelerate, findings

    seen = []
    monkeypatch.setattr(findings, "_THOROUGH", 0.5)
    monkeypatch.setattr(findings.Findings, "gains", lambda self: True)
    plain = checking.worst_layer
    monkeypatch.setattr(accelerate, "worst_layer", lambda *given: seen.append(plain(*given)) or seen[-1])
    fast = archcost.accelerate(model, X, seconds=0.6, store=False)
    assert seen
    assert f"every layer was compared with float64: {seen[-1].name}" in fast.acceleration.to_text()
    fast.save(tmp_path / "right.archcost")
    monkeypatch.setattr("archcost.engine.module.worst_layer", lambda *_: Worst(1.0, 1e-4, "left"))
    with pytest.raises(ModelError, match="left is off by 1"):
        fast.save(tmp_path / "wrong.archcost")
    assert not (tmp_path / "wrong.archcost").exists()
    monkeypatch.setattr(accelerate, "worst_layer", lambda *_: Worst(1.0, 1e-4, "left"))
    assert (
        archcost.accelerate(model, X, seconds=0.6, store=False).acceleration.reason
        == "left would be off by 1.0e+00"
    )


class Makes(nn.Module):
    """Tensors of its own, and one that it writes to."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        grid = torch.linspace(-1, 1, y.shape[-1], dtype=torch.float32)
        whole = torch.zeros(y.shape)
        whole[:, 1:] = y[:, 1:]
        return whole.add_(grid).float()


class Writes(Makes):
    def forward(self, x):
        self.conv.bias.add_(0.0)
        return super().forward(x)


def test_outputs_in_float64_without_a_copy_of_the_model():
    torch.manual_seed(0)
    model = Makes().eval()
    plain = outputs_of(model, X)
    exact, how = exact_outputs(model, X, plain)
    assert how == "original in float64"
    conv = model.conv
    y = nn.functional.conv2d(X.double(), conv.weight.double(), conv.bias.double())
    y[:, 0] = 0
    expected = y + torch.linspace(-1, 1, 9, dtype=torch.float64)
    assert exact[0].dtype is torch.float64
    torch.testing.assert_close(exact[0], expected, rtol=1e-12, atol=1e-12)
    assert conv.weight.dtype is torch.float32


def test_a_model_that_writes_to_its_weights_is_its_own_reference():
    model = Writes().eval()
    plain = outputs_of(model, X)
    exact, how = exact_outputs(model, X, plain)
    assert how == "original"
    assert exact is plain


@pytest.mark.parametrize("bias", [True, False])
def test_large_linear_layers_are_converted_in_parts(monkeypatch, bias):
    monkeypatch.setattr("archcost.surgery.outputs._MANY", 35)
    model, x = nn.Linear(10, 8, bias=bias).eval(), torch.randn(4, 10)
    exact, how = exact_outputs(model, x, outputs_of(model, x))
    assert how == "original in float64"
    torch.testing.assert_close(exact[0], model.double()(x.double()), rtol=1e-13, atol=1e-13)
