"""Whatever a forward is fed, does with it, and keeps as weights, it can be traced."""

import collections
import dataclasses
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from archcost.cost.costs import cost_of
from archcost.errors import ModelError
from archcost.trace.run import record
from helpers.calls import Calls, costs, macs


def linear():
    return nn.Linear(8, 8)


LINEAR = 2 * 8 * 8  # MACs of `linear()` on X
X = torch.rand(2, 8)
IMAGE = torch.rand(2, 3, 8, 8)
CONV = 2 * 4 * 6 * 6 * 27  # MACs of `conv()` on IMAGE


def conv():
    return nn.Conv2d(3, 4, 3)


# What it is fed


@dataclasses.dataclass
class Batch:
    image: torch.Tensor
    times: int = 1
    extra: object = None


Pair = collections.namedtuple("Pair", "left right")


@pytest.mark.parametrize(
    ("forward", "inputs", "layers"),
    [
        (lambda self, x: self.lin(x), X, 1),
        (lambda self, x, y: self.lin(x) + self.lin(y), (X, X), 2),
        (lambda self, *, x, y=None: self.lin(x), {"x": X, "y": None}, 1),
        (lambda self, x, n, flag=None: [self.lin(x) for _ in range(n)], (X, 3, None), 3),
        (lambda self, batch: self.lin(batch["x"]), ({"x": X},), 1),
        (lambda self, xs: [self.lin(x) for x in xs], [X, X], 2),
        (lambda self, xs: self.lin(xs[1][0]), ((X, [X]),), 1),
        (lambda self, pair: Pair(self.lin(pair.left), pair.right), (Pair(X, 3),), 1),
        (lambda self, batch: Batch(self.lin(batch.image) * batch.times), (Batch(X, 2, [X]),), 1),
        (lambda self, d: self.lin(d["x"]), (collections.OrderedDict(x=X),), 1),
        (lambda self, d: self.lin(d["x"]), (collections.UserDict(x=X),), 1),
        (lambda self: self.lin(self.lin.weight), (), 4),
    ],
)
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_inputs_of_every_structure(forward, inputs, layers, device):
    trace = record(Calls(forward, lin=linear()), inputs, device=device)
    assert cost_of(trace).total.macs == layers * LINEAR
    assert not any(isinstance(thing, torch.Tensor) for thing in gc.get_referents(trace.inputs, trace.outputs))


def test_a_trace_holds_no_tensor_and_no_object_of_the_users():
    class Thing:
        pass

    trace = record(
        Calls(lambda self, b: Batch(self.lin(b.image), 1, b.extra), lin=linear()), (Batch(X, 1, Thing()),)
    )
    seen, waiting = set(), [trace]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        assert not isinstance(thing, (torch.Tensor, nn.Module, Thing))
        waiting.extend(gc.get_referents(thing))
    assert trace.outputs["extra"] == "<Thing>"


def test_one_tensor_given_twice_stays_one():
    seen = []
    record(Calls(lambda self, a, b: seen.append(a is b) or self.lin(a), lin=linear()), (X, X))
    assert seen == [True, True]  # inference, then training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_other_dtypes(dtype):
    model = nn.Sequential(nn.Linear(8, 8, dtype=dtype), nn.Linear(8, 8, dtype=dtype))
    found = costs(model, X.to(dtype))
    assert found.total.macs == 2 * LINEAR
    assert found.total.param_bytes == 2 * 72 * dtype.itemsize


def test_a_model_on_meta_already():
    model = nn.Sequential(conv(), nn.BatchNorm2d(4)).to("meta")
    assert macs(model, IMAGE) == CONV


def test_a_model_on_meta_that_needs_values_says_so():
    model = Calls(lambda self, x: self.lin(x) * x.sum().item(), lin=nn.Linear(8, 8, device="meta"))
    with pytest.raises(ModelError, match="needs real values, which tensors on `meta` do not have"):
        record(model, X)
    with pytest.raises(
        ModelError, match="the model's weights are on `meta` and have no values to run on cpu"
    ):
        record(model, X, device="cpu")


def distances(self, x):
    """Made of constants alone until they meet x, as positions in a vision transformer are."""
    steps = torch.arange(8.0).view(1, -1) - torch.arange(8.0).view(-1, 1)
    table = torch.zeros(8, 8, 2)
    table[..., 0] = steps * 2.0
    table[..., 1] = torch.exp(steps.abs()).sum(0, keepdim=True)
    assert table[0, 3, 0] == 6
    return self.lin(x) @ table[..., 0].to(x.device)


def branches_on_a_constant(self, x):
    return self.lin(x) if (torch.arange(4.0) - 1.0).clamp(min=0.0).mean().item() == 0.75 else x


@pytest.mark.parametrize(("forward", "more"), [(distances, 3 * 8 * 8), (branches_on_a_constant, 0)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_constants_that_a_forward_makes_have_values_wherever_the_model_is(forward, more, device):
    trace = record(Calls(forward, lin=nn.Linear(8, 8, device=device)), torch.rand(3, 8))
    assert (trace.device, trace.notes) == ("meta", ())
    assert cost_of(trace).total.macs == 3 * 8 * 8 + more


def test_an_empty_batch():
    found = costs(nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()), torch.rand(0, 3, 8, 8))
    assert (found.total.macs, found.total.params) == (0, 120)


def test_train_mode_and_frozen_weights_cost_the_same():
    model = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU())
    expected = macs(model.eval(), IMAGE)
    assert macs(model.train(), IMAGE) == expected
    model.requires_grad_(False)
    found = costs(model, IMAGE)
    assert (found.total.macs, found.total.trainable_params) == (expected, 0)


# What a forward may do


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_gradient_checkpointing(reentrant, device):
    from torch.utils.checkpoint import checkpoint

    block = nn.Sequential(linear(), nn.ReLU(), linear())
    model = Calls(lambda self, x: checkpoint(self.block, x, use_reentrant=reentrant), block=block)
    found = costs(model, X, device)
    assert found.total.macs == 2 * LINEAR
    assert found.total.kept_for_backward_bytes == 0


@pytest.mark.parametrize(
    ("function", "layers"),
    [
        (lambda self, x: torch.vmap(self.lin)(x), 1),
        (lambda self, x: torch.func.functional_call(self.lin, {"weight": self.lin.weight * 2}, (x,)), 1),
        (lambda self, x: torch.func.grad(lambda y: self.lin(y).sum())(x), 2),
        (lambda self, x: torch.func.vjp(self.lin, x)[1](x), 2),
    ],
    ids=["vmap", "functional_call", "grad", "vjp"],
)
def test_torch_func_inside_a_forward(function, layers):
    assert macs(Calls(function, lin=linear()), X) == layers * LINEAR


NEEDS_GRADIENTS = "the model takes gradients in its forward: memory includes the tensors autograd saves"


def grad_inside(self, x):
    x = x.detach().requires_grad_()
    return self.lin(torch.autograd.grad(self.lin(x).sum(), x)[0])


def backward_inside(self, x):
    self.lin(x).sum().backward()
    return self.lin(x)


def backward_tried(self, x):
    try:
        self.lin(x).pow(2).sum().backward()
    except RuntimeError:
        return x
    return self.lin(x)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize(
    ("function", "layers", "kept"), [(grad_inside, 3, 64), (backward_inside, 3, 0), (backward_tried, 1, 64)]
)
def test_a_backward_pass_inside_a_forward(function, layers, kept, device):
    model = Calls(function, lin=linear())
    trace = record(model, X, device=device)
    assert cost_of(trace).total.macs == layers * LINEAR
    assert trace.notes == (NEEDS_GRADIENTS,) * (function is not backward_tried)
    assert sum(trace.kept_for_backward.values()) == kept
    assert model.lin.weight.grad is None


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_views_written_in_place(device):
    def forward(self, x):
        y = self.lin(x)
        left, right = y.chunk(2, 1)
        left.add_(right)
        y[:, 0] = 3.0
        return y

    trace = record(Calls(forward, lin=linear()), X, device=device)
    assert cost_of(trace).total.macs == LINEAR
    assert cost_of(trace).total.kept_for_backward_bytes is None
    assert "memory saved for backward is unknown" in trace.notes[0]


def test_an_input_written_in_place_is_the_callers_as_before():
    x = X.clone()
    for device in ("meta", "cpu"):
        assert macs(Calls(lambda self, x: self.lin(x.mul_(2)), lin=linear()), x, device) == LINEAR
        assert torch.equal(x, X)


PLAIN = torch.ones(8)


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: self.lin(x) + torch.arange(8) * torch.ones(2, 8),
        lambda self, x: torch.cat([self.lin(x), torch.zeros(2, 8)]),
        lambda self, x: self.lin(x * PLAIN) + PLAIN,
        lambda self, x: self.lin(torch.where(torch.ones(8).bool(), x, torch.tensor(0.0))),
        lambda self, x: self.lin(x)[:, torch.arange(4)],
        lambda self, x: self.lin(x).index_copy_(1, torch.tensor([1]), torch.ones(2, 1)).detach(),
    ],
)
def test_constants_made_without_a_device_stay_on_meta(function):
    trace = record(Calls(function, lin=linear()), X)
    assert trace.device == "meta"
    assert cost_of(trace).total.macs == LINEAR


def test_real_values_written_from_the_input_run_for_real():
    def forward(self, x):
        out = torch.zeros(2, 8)
        out[:] = self.lin(x)
        return out

    trace = record(Calls(forward, lin=linear()), X)
    assert (trace.device, cost_of(trace).total.macs) == ("cpu", LINEAR)


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x * x.sum().item(),
        lambda self, x: x if x.sum() > 0 else -x,
        lambda self, x: x.tolist() and x,
        lambda self, x: torch.from_numpy(x.detach().numpy().copy()),
        lambda self, x: x[x > 0.5],
        lambda self, x: x.nonzero(),
        lambda self, x: torch.unique(x),
        lambda self, x: x.masked_select(x > 0.5),
        lambda self, x: x if torch.allclose(x, x) else -x,
        lambda self, x: x if torch.equal(x, x) else -x,
        lambda self, x: [x for _ in range(int(x.sum()))] and x,
    ],
)
def test_values_that_decide_run_for_real_and_the_note_names_the_module(function):
    trace = record(nn.Sequential(linear(), nn.Sequential(Calls(function))), X)
    assert trace.device == "cpu"
    assert cost_of(trace).total.macs == LINEAR
    (note,) = trace.notes
    assert note.startswith(
        "executed on cpu, because the model needs values that `meta` does not have: '1.0' (Calls): "
    )
    assert len(note) < 300


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_forward_without_grad(device):
    def forward(self, x):
        y = self.lin(x).unflatten(1, (2, 4))
        return F.scaled_dot_product_attention(y[None], y[None], y[None])

    operations = []
    for mode in (torch.no_grad, torch.inference_mode):
        trace = record(Calls(mode()(forward), lin=linear()), X, device=device)
        found = cost_of(trace)
        assert found.total.macs == LINEAR + 2 * 2 * 2 * 2 * 4
        assert not found.uncounted
        operations.append([op.name for op in trace.ops if not op.name.startswith("aten.view")])
    assert operations[0] == operations[1]
    assert "aten._scaled_dot_product_flash_attention_for_cpu.default" in operations[0]


# Weights of other kinds


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("training", [True, False])
def test_normalised_weights(training, device):
    from torch.nn.utils import parametrizations

    for wrap, params in (
        (nn.utils.weight_norm, 80),
        (parametrizations.weight_norm, 80),
        (nn.utils.spectral_norm, 72),
        (parametrizations.spectral_norm, 72),
    ):
        model = nn.Sequential(wrap(linear())).train(training)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = costs(model, X, device)
        assert found.total.params == params
        # The spectral norm multiplies its matrix and vectors as well: twice more when it iterates.
        assert (
            found.total.macs == LINEAR
            if params == 80
            else LINEAR + 72 * 1 <= found.total.macs <= LINEAR + 200
        )
        assert not found.uncounted
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_embedding_bags():
    found = costs(nn.EmbeddingBag(10, 4), (torch.zeros(9, dtype=torch.long), torch.tensor([0, 4])))
    assert (found.total.macs, found.total.params, found.total.output_shape) == (0, 40, (2, 4))


def test_parameters_of_other_classes_keep_them():
    class Doubling(nn.Parameter):
        def twice(self):
            return self * 2

    class Marked(torch.Tensor):
        pass

    seen = []
    model = Calls(
        lambda self, x: (
            seen.append((type(self.marked), self.doubling.scale)) or x @ self.doubling.twice() @ self.marked
        ),
        doubling=Doubling(torch.rand(8, 8)),
        marked=nn.Parameter(torch.rand(8, 8).as_subclass(Marked)),
    )
    model.doubling.scale = 3
    assert macs(model, X, "meta") == 2 * LINEAR
    assert issubclass(seen[0][0], Marked)
    assert seen[0][1] == 3


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_parameters_that_are_views_of_one_memory(device):
    flat = torch.rand(128)
    model = Calls(
        lambda self, x: x @ self.a @ self.b,
        a=nn.Parameter(flat[:64].view(8, 8)),
        b=nn.Parameter(flat[64:].view(8, 8).t()),
    )
    found = costs(model, X, device)
    assert (found.total.params, found.total.macs, found.total.param_bytes) == (128, 2 * LINEAR, 512)


def test_complex_weights():
    spectrum = nn.Parameter(torch.rand(8, dtype=torch.cfloat))
    model = Calls(
        lambda self, x: torch.fft.ifft(torch.fft.fft(self.lin(x)) * self.s).real, lin=linear(), s=spectrum
    )
    found = costs(model, X)
    assert (found.total.params, found.total.macs) == (80, LINEAR)


def test_a_sparse_product_is_counted_or_named():
    model = Calls(lambda self, x: torch.sparse.mm(self.graph, self.lin(x).t()), lin=linear())
    model.register_buffer("graph", torch.eye(8).to_sparse())
    found = costs(model, X)
    assert found.total.macs >= LINEAR
    assert found.uncounted or found.total.macs > LINEAR


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
def test_eager_int8_models_count_as_the_float_model():
    from torch.ao import quantization

    expected = costs(Small(), IMAGE).total
    model = nn.Sequential(quantization.QuantStub(), Small(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
    quantization.prepare(model, inplace=True)
    model(IMAGE)
    quantization.convert(model, inplace=True)
    static = cost_of(record(model, IMAGE)).total
    assert (static.params, static.macs) == (expected.params, expected.macs)
    dynamic = quantization.quantize_dynamic(nn.Sequential(linear(), nn.LSTM(8, 5)), dtype=torch.qint8)
    floats = costs(nn.Sequential(linear(), nn.LSTM(8, 5)), torch.rand(2, 3, 8)).total
    found = costs(dynamic, torch.rand(2, 3, 8))
    assert found.by_name["0"].params == 72
    assert found.total.macs == floats.macs or found.uncounted
