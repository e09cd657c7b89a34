"""A convolution on a path of one's choice is exact enough, and in all else what the plain layer is."""

import copy
import io
import pickle
import weakref
from math import inf

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archcost
from archcost.errors import InputError, SpecError
from archcost.nn.absorbed import Absorbed
from archcost.nn.like import ConvLike
from archcost.nn.path_conv import MOST_SIZES, PathConv
from archcost.paths import Epilogue, ExecutionPath, get
from archcost.surgery.checking import checked
from archcost.surgery.exchange import replace

RELU = Epilogue(clamp=(0, inf))


class Counting(type(get("direct"))):
    """Notes what it prepares and runs."""

    name = "counting"

    def __init__(self):
        self.prepared, self.runs = 0, 0

    def prepare(self, *args, **kwargs):
        self.prepared += 1
        return super().prepare(*args, **kwargs)

    def run(self, x, prepared):
        self.runs += 1
        return super().run(x, prepared)


def layer(**options):
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, 3, padding=1, **options).eval()


def images(size=8, batch=2, channels=4):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def counted():
    """A layer, the path that counts, and the one on the other."""
    old, path = layer(), Counting()
    return old, path, PathConv(old, path)


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()


LAYERS = {
    "2d": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 6, 5, stride=2, padding=2, bias=False),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "same": lambda: nn.Conv2d(4, 6, 4, padding="same", dilation=2),
    "valid": lambda: nn.Conv2d(4, 6, 3, padding="valid"),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"),
    "circular same": lambda: nn.Conv2d(4, 6, 4, padding="same", padding_mode="circular"),
    "1d": lambda: nn.Conv1d(4, 6, 7, padding=3),
    "3d": lambda: nn.Conv3d(4, 2, 3, padding=1),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed 1d": lambda: nn.ConvTranspose1d(4, 6, 4, stride=2, groups=2),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("path", ["native", "direct", "winograd-2", "fft"])
def test_it_does_what_the_layer_does(name, path):
    torch.manual_seed(0)
    old = LAYERS[name]().eval()
    x = torch.randn(2, 4, *(9,) * len(old.kernel_size))
    if path not in archcost.paths.available():
        path = next(one for one in archcost.paths.available() if one.startswith(path))
    new = PathConv(old, path)
    with torch.no_grad():
        assert checked(old, new, x, tolerance=1e-4, strides=False).ok
        assert torch.equal(new.plain(x), old(x))
        assert checked(old, new, x[0], tolerance=0).ok  # without a batch, PyTorch's own
    assert torch.equal(new(x), old(x))  # with gradients as well


def test_the_path_runs_and_prepares_once_for_each_size(counted):
    old, path, new = counted
    with torch.no_grad():
        for _ in range(3):
            for size in (6, 8):
                assert close(new(images(size)), old(images(size)))
        new(images(8, batch=5))
        assert (path.prepared, path.runs) == (2, 7)
        assert new.refusal(images()) is None


@pytest.mark.parametrize(
    "how", ["in place", "assigned", "data", "loaded", "loaded anew", "optimised", "half"]
)
def test_changed_weights_are_prepared_again(counted, how):
    _, path, new = counted
    x = images()
    with torch.no_grad():
        first = new(x)
        if how == "in place":
            new.weight.mul_(2)
        elif how == "assigned":
            new.bias = nn.Parameter(new.bias + 1)
        elif how == "data":
            for _ in range(3):  # the allocator may hand out the same place again
                new.weight.data = new.weight.data * 2
        elif how == "half":
            new.half()
            new.float()
            new.weight.data *= 2
        elif how.startswith("loaded"):
            doubled = {key: value * 2 for key, value in new.state_dict().items()}
            new.load_state_dict(doubled, assign=how == "loaded anew")
    if how == "optimised":
        new(x).sum().backward()
        torch.optim.SGD(new.parameters(), lr=0.1).step()
    with torch.no_grad():
        second = new(x)
        assert not close(second, first, 1e-3)
        assert close(second, new.plain(x))
    assert (path.prepared, path.runs) == (2, 2)


def test_no_other_weights_can_come_to_lie_where_the_prepared_ones_did():
    new = PathConv(layer(), "winograd-2")
    with torch.no_grad():
        new(images())
        memory = weakref.ref(new.weight.untyped_storage())
        new.weight.data = new.weight.data * 2
        assert memory() is not None
        new(images())
        assert memory() is None


def test_forget_is_for_what_leaves_no_trace(counted):
    _, _, new = counted
    with torch.no_grad():
        new(images())
        new.weight.data.mul_(2)
        new.forget()
        assert close(new(images()), new.plain(images()))


@pytest.mark.parametrize("wants", ["weight", "bias", "input"])
def test_gradients_are_those_of_pytorch(wants):
    old = layer().requires_grad_(False)
    new, x = PathConv(old, "winograd-2", epilogue=RELU), images()
    wanted = {"weight": old.weight, "bias": old.bias, "input": x}[wants].requires_grad_()
    grads = []
    for y in (new(x), F.relu(old(x))):
        grads.append(torch.autograd.grad(y.square().sum(), wanted)[0])
    assert torch.equal(*grads)


def test_without_gradients_to_record_the_path_runs(counted):
    _, path, new = counted
    new(images())
    assert path.runs == 0
    new.requires_grad_(False)
    new(images())
    assert path.runs == 1
    new(images().requires_grad_())
    assert path.runs == 1


def test_pytorch_runs_where_the_path_was_not_chosen_for(counted):
    old, path, _ = counted
    new = PathConv(old, path, sizes=[(8, 8)])
    with torch.no_grad():
        assert torch.equal(new(images(6)), old(images(6)))
        assert "inputs of (6, 6) were not asked for" in new.refusal(images(6))
        assert torch.equal(new(images()[0]), old(images()[0]))
        assert torch.equal(new(images(batch=0)), old(images(batch=0)))
        assert path.runs == 0
        new.double()
        assert new(images().double()).dtype == torch.float64
        new.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert new(images()).dtype == torch.bfloat16
        assert path.runs == 0


def test_on_another_device_pytorch_runs(counted):
    _, path, new = counted
    with torch.no_grad():
        new(images())
        assert new.to("meta")(images().to("meta")).shape == (2, 6, 8, 8)
    assert path.runs == 1


def test_more_sizes_than_are_kept_run_by_pytorch(counted):
    old, path, new = counted
    with torch.no_grad():
        for _ in range(2):
            for size in range(5, 7 + MOST_SIZES):
                assert close(new(images(size)), old(images(size)))
        assert path.prepared == MOST_SIZES
        assert "weights are prepared for 4 other sizes" in new.refusal(images(20))


def test_what_the_path_refuses_runs_by_pytorch():
    old = layer(padding_mode="reflect")
    new = PathConv(old, "direct")
    with torch.no_grad():
        assert "padding 1 by 'reflect' needs more than the 1 pixels" in new.refusal(torch.zeros(1, 4, 1, 1))
        with pytest.raises(RuntimeError, match="Padding size should be less"):
            new(torch.zeros(1, 4, 1, 1))
    new = PathConv(nn.Conv1d(4, 6, 1), "native-nnpack")
    with torch.no_grad():
        assert new.refusal(torch.zeros(1, 4, 8))
        assert new(torch.ones(1, 4, 8)).shape == (1, 6, 8)


def test_a_wrong_input_gets_pytorchs_message(counted):
    _, _, new = counted
    with torch.no_grad():
        for _ in range(2):
            with pytest.raises(RuntimeError, match="to have 4 channels, but got 5 channels"):
                new(images(channels=5))
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            PathConv(nn.Conv2d(4, 4, 5), "direct")(images(3))


@pytest.mark.parametrize("clamp", [(0, inf), (0, 6), (-1, 0.5)])
def test_a_clamp_is_fused_or_done_behind(clamp):
    old, x = layer(), images() * 5
    new = PathConv(old, "native", epilogue=Epilogue(clamp=clamp))
    expected = old(x).clamp(*clamp)
    assert torch.equal(new(x), expected)
    with torch.no_grad():
        assert torch.equal(new(x), expected)
        assert new(x * float("nan")).isnan().all()
    assert f"clamp={clamp}" in repr(new)


def test_a_layout_is_what_was_asked_for_either_way():
    together = Epilogue(memory_format=torch.channels_last)
    new = PathConv(layer(), "native", epilogue=together)
    assert new(images()).is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        assert new(images()).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(InputError, match=r"expected torch\.contiguous_format for 1 spatial axes"):
        PathConv(nn.Conv1d(1, 1, 1), "native", epilogue=together)


def with_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(layer(), nn.BatchNorm2d(6), nn.ReLU()).eval()
    for tensor in (model[1].running_mean, model[1].running_var, model[1].weight.data, model[1].bias.data):
        tensor.uniform_(0.2, 2)
    return model


def absorbed(model, path="direct", epilogue=RELU):
    """The model with its normalisation and ReLU inside the convolution."""
    taken = Absorbed(model[1])
    new = {"0": PathConv(model[0], path, epilogue=epilogue, absorbed=taken), "1": taken, "2": nn.Identity()}
    return replace(model, new, inplace=True).model


def test_a_batch_normalisation_is_absorbed():
    model, x = with_batch_norm(), images()
    keys, expected = list(model.state_dict()), model(x)
    path = Counting()
    new = absorbed(copy.deepcopy(model), path)
    assert list(new.state_dict()) == keys
    assert torch.equal(new(x), expected)  # gradients are recorded
    with torch.no_grad():
        assert close(new(x), expected)
        assert path.runs == 1
        new[1].running_mean.add_(1)  # it is the normalisation's, and the convolution sees it
        assert not close(new(x), expected, 1e-2)
        new.load_state_dict(model.state_dict())
        assert close(new(x), expected)
        assert path.prepared == 3
    assert "batch normalised" in repr(new[0])


def test_what_absorbed_a_batch_normalisation_trains_as_before():
    model, x = with_batch_norm().train(), images()
    new = absorbed(copy.deepcopy(model))
    for one in (model, new):
        one(x).square().sum().backward()
    ours, theirs = new.state_dict(), model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(new.parameters(), model.parameters(), strict=True))
    with torch.no_grad():  # the statistics of the batch, path or not
        assert torch.equal(new(x), model(x))
        new.eval(), model.eval()
        assert close(new(x), model(x))


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_copies_are_whole(how):
    model, x = absorbed(with_batch_norm(), "winograd-2"), images()
    with torch.no_grad():
        expected = model(x)
        if how == "deepcopy":
            twin = copy.deepcopy(model)
        elif how == "pickle":
            twin = pickle.loads(pickle.dumps(model))
        else:
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            twin = torch.load(file, weights_only=False)
        assert twin[0]._absorbed[0] is twin[1]
        assert twin[0].path is get("winograd-2")
        assert twin[0]._prepared == {}
        assert torch.equal(twin(x), expected)
        twin[0].weight.zero_()
        twin[1].bias.zero_()
        assert not torch.equal(twin(x), expected)
        assert torch.equal(model(x), expected)


def test_a_path_that_is_not_there_is_named_when_it_is_needed():
    new = PathConv(layer(), "winograd-2")
    state = pickle.dumps(new).replace(b"winograd-2", b"winograd-#")
    with torch.no_grad(), pytest.raises(SpecError, match="no execution path is called 'winograd-#'"):
        pickle.loads(state)(images())


def test_an_unknown_path_is_named_at_once():
    with pytest.raises(SpecError, match="did you mean"):
        PathConv(layer(), "winogard-2")


def test_what_looks_on_sees_a_convolution(counted):
    from torch.utils.flop_counter import FlopCounterMode

    old, path, new = counted
    with torch.no_grad():
        with FlopCounterMode(display=False) as mode:
            new(images())
        assert mode.get_total_flops() == 2 * 2 * 6 * 4 * 9 * 64
        traced = torch.jit.trace(new, images(), check_trace=False)
        assert torch.equal(traced(images(5)), old(images(5)))
        graph = torch.fx.symbolic_trace(nn.Sequential(new))
        assert torch.equal(graph(images()), old(images()))
        batched = torch.vmap(new)(images().unsqueeze(1))
        assert close(batched.squeeze(1), old(images()))
        changed = {key: value * 2 for key, value in new.state_dict().items()}
        assert close(torch.func.functional_call(new, changed, images()), 2 * old(images()))
        _, tangent = torch.func.jvp(new, (images(),), (images(),))
        assert close(tangent, old(images()) - old.bias[:, None, None])
    assert path.runs == 0
    assert archcost.analyze(new, images(), device="cpu").total.macs == 2 * 6 * 4 * 9 * 64


@pytest.mark.slow
def test_it_exports_as_a_convolution(counted):  # importing the exporter takes seconds
    old, path, new = counted
    with torch.no_grad():
        program = torch.export.export(nn.Sequential(new), (images(),))
        assert "aten.conv2d" in program.graph_module.code or "conv2d" in program.graph_module.code
        assert close(program.module()(images()), old(images()))
        compiled = torch.compile(new, backend="eager")
        assert torch.equal(compiled(images()), old(images()))
    assert path.runs == 0


def test_parametrized_or_pruned_afterwards_it_runs_by_pytorch(counted):
    _, path, new = counted
    before = new.weight.detach().clone()
    nn.utils.prune.l1_unstructured(new, "weight", 0.5)
    with torch.no_grad():
        assert close(new(images()), F.conv2d(images(), before * new.weight_mask, new.bias, padding=1))
        nn.utils.prune.remove(new, "weight")
        new(images())
        nn.utils.parametrize.register_parametrization(new, "weight", nn.Identity())
        new(images())
    assert path.runs == 1


def test_attributes_that_a_parent_sets_are_obeyed(counted):
    old, _, new = counted
    with torch.no_grad():
        new(images())
        for name, value in {
            "stride": (2, 2),
            "padding": (0, 1),
            "dilation": (2, 1),
            "padding_mode": "circular",
        }.items():
            setattr(old, name, value)
            setattr(new, name, value)
            assert close(new(images()), old(images()))
            assert torch.equal(new.plain(images()), old(images()))


def test_inference_mode_and_no_grad_may_follow_each_other(counted):
    old, path, new = counted
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            assert close(new(images()), old(images()))
    assert (path.prepared, path.runs) == (1, 3)


def test_attributes_and_keys_are_those_of_the_layer():
    old = layer(dilation=2)
    new = PathConv(old, "native")
    assert list(new.state_dict()) == list(old.state_dict())
    assert new.weight is old.weight
    said = repr(new)
    assert said == "PathConv(4, 6, kernel_size=(3, 3), padding=(1, 1), dilation=(2, 2), path=native)"
    again = PathConv(new, "direct")
    assert again.weight is old.weight
    assert isinstance(again.path, ExecutionPath)
    assert isinstance(again, ConvLike)


def test_a_transposed_layer_still_takes_an_output_size():
    old = nn.ConvTranspose2d(4, 6, 3, stride=2)
    new, x = PathConv(old, "direct"), images()
    with torch.no_grad():
        assert torch.equal(new(x, output_size=[18, 18]), old(x, output_size=[18, 18]))
        with pytest.raises(ValueError, match="requested an output size"):
            new(x, output_size=[30, 30])
