"""Moments: sums over the patches of a layer's inputs; collecting them leaves the model as it was."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from archcost.errors import InputError, RewriteError
from archcost.weights.moments import collect, covariance_bytes

# Moments.


def brute(layer, x):
    """Mean and covariance of all patches, by F.unfold on what the layer pads itself."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, [p for p in reversed(layer.padding) for _ in (0, 1)], mode=mode).double()
    found = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)
    rows = found.transpose(1, 2).flatten(0, 1).unflatten(1, (layer.groups, -1)).transpose(0, 1)
    mean = rows.mean(1)
    rows = rows - mean[:, None]
    return mean, rows.mT @ rows / rows.shape[1]


LAYERS = {
    "plain": dict(kernel_size=3, padding=1),
    "strided": dict(kernel_size=(3, 2), stride=2, padding=(1, 0)),
    "dilated": dict(kernel_size=3, dilation=2, padding=2),
    "grouped": dict(kernel_size=3, groups=2),
    "depthwise": dict(kernel_size=5, groups=4, padding=2),
    "reflect": dict(kernel_size=5, padding=2, padding_mode="reflect"),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
}


@pytest.mark.parametrize("kwargs", LAYERS.values(), ids=LAYERS)
def test_moments_are_those_of_all_patches(kwargs):
    layer = nn.Conv2d(4, 8, **kwargs)
    x = torch.randn(6, 4, 11, 9) * 0.1 + 3
    found = collect(nn.Sequential(layer), ["0"], [x[:4], x[4:]])["0"]
    mean, covariance = brute(layer, x)
    assert torch.allclose(found.mean, mean, rtol=1e-6)
    assert torch.allclose(found.covariance, covariance, atol=1e-6 * float(covariance.max()))
    assert found.shape == tuple(layer.weight.shape[1:])
    assert found.low.min() == (0 if any(layer.padding) and layer.padding_mode == "zeros" else x.min())


def test_nothing_behind_the_last_layer_asked_for_is_run_but_for_the_first_batch():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 1))
    seen = []
    model[3].register_forward_hook(lambda *_: seen.append(1))
    batches = list(torch.randn(12, 3, 9, 9).split(3))
    found = collect(model, ["2", "0"], batches)
    assert len(seen) == 1
    assert found["0"].count == 12 * 49
    assert found["2"].count == 12 * 25


def test_batches_that_do_not_say_how_many_they_are_end_when_there_are_patches_enough():
    taken = []

    def endless():
        while len(taken) < 1000:
            taken.append(1)
            yield torch.randn(4, 3, 16, 16)

    found = collect(nn.Sequential(nn.Conv2d(3, 4, 3)), ["0"], endless())["0"]
    assert len(taken) < 50
    assert 4096 <= found.count < 3 * 4096


def test_moments_of_other_dimensions_and_same_padding():
    one = collect(nn.Sequential(nn.Conv1d(3, 4, 4, padding="same")), ["0"], [torch.randn(5, 3, 12)])["0"]
    assert one.count == 5 * 12
    three = nn.Sequential(nn.Conv3d(2, 4, 2, stride=2))
    x = torch.randn(3, 2, 6, 6, 6)
    found = collect(three, ["0"], [x])["0"]
    rows = x.double().unflatten(2, (3, 2)).unflatten(4, (3, 2)).unflatten(6, (3, 2))
    rows = rows.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, 16)
    assert torch.allclose(found.covariance[0], torch.cov(rows.T, correction=0))


def test_large_patches_are_summed_in_blocks():
    layer = nn.Conv2d(70, 2, 3)
    x = torch.randn(4, 70, 20, 20) + 5
    found = collect(nn.Sequential(layer), ["0"], [x])["0"]
    mean, covariance = brute(layer, x)
    assert torch.allclose(found.mean[0], mean[0], rtol=1e-5)
    assert (found.covariance - covariance).abs().max() < 1e-4


def test_of_many_patches_a_share_at_even_distances_is_taken_and_the_same_again():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    x = torch.randn(32, 1, 64, 64)
    first = collect(nn.Sequential(layer), ["0"], [x])["0"]
    again = collect(nn.Sequential(layer), ["0"], [x])["0"]
    assert 2000 < first.count < 10_000
    assert torch.equal(first.covariance, again.covariance)
    assert torch.allclose(first.covariance, brute(layer, x)[1], atol=0.1)


class Shared(nn.Module):
    """Calls one layer twice, writes over what it gave, and has state."""

    def __init__(self, fail=False):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.fail = fail
        self.count = 0

    def forward(self, x, *, scale=1.0):
        self.count += 1
        x = self.act(self.conv(self.norm(x))) * scale
        if self.fail:
            raise ValueError("no more")
        return self.act(self.conv(x.mul_(2)))


def state_of(model):
    hooks = {n: (dict(m._forward_hooks), dict(m._forward_pre_hooks)) for n, m in model.named_modules()}
    flags = {n: m.training for n, m in model.named_modules()}
    return hooks, flags, model.count, {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("fail", [False, True], ids=["well", "failing"])
def test_the_model_is_as_before(fail):
    model = Shared(fail).train()
    model.act.eval()
    x = torch.randn(4, 3, 8, 8)
    before, random = state_of(model), torch.get_rng_state()
    kept = x.clone()
    if fail:
        with pytest.raises(RewriteError, match="forward failed on a batch: ValueError: no more"):
            collect(model, ["conv"], [{"x": x}])
    else:
        assert collect(model, ["conv"], [{"x": x, "scale": 2.0}])["conv"].count == 2 * 4 * 64
    after = state_of(model)
    assert after[:3] == before[:3]
    assert all(torch.equal(after[3][k], v) for k, v in before[3].items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(x, kept)


def nets(n=3):
    return nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(n)))


def test_covariances_are_held_as_far_as_the_limit_goes():
    model, x = nets(), [torch.randn(2, 4, 8, 8)]
    size = covariance_bytes(model[0])
    assert size == 8 * 36**2
    passes = []
    model[0].register_forward_hook(lambda *_: passes.append(1))
    names = ["2", "0", "1"]
    assert list(collect(model, names, x, limit=2 * size)) == names
    assert len(passes) == 2
    with pytest.raises(RewriteError, match="more than the limit"):
        collect(model, ["0"], x, limit=size - 1)


def test_a_generator_does_for_one_pass_and_not_for_two():
    model, x = nets(), torch.randn(2, 4, 8, 8)
    assert set(collect(model, ["0", "1"], (x for _ in range(3)))) == {"0", "1"}
    with pytest.raises(InputError, match="allows a single pass, and 2 are needed: give a list"):
        collect(model, ["0", "1"], (x for _ in range(3)), limit=covariance_bytes(model[0]))
    with pytest.raises(InputError, match="there are none"):
        collect(model, ["0"], [])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.ConvTranspose2d(4, 4, 3), "not transposed have moments"),
        (nn.Identity(), "not transposed have moments"),
        (type("Odd", (nn.Conv2d,), {"forward": lambda self, x: x[:, :, 1:-1, 1:-1]})(4, 4, 3), "adapter"),
    ],
)
def test_what_has_no_known_patches_is_refused(layer, message):
    with pytest.raises(RewriteError, match=message):
        collect(nn.Sequential(layer), ["0"], [torch.randn(2, 4, 8, 8)])


def test_a_layer_that_is_not_called_is_named():
    model = nets()
    model.spare = nn.Conv2d(4, 4, 3)
    model.forward = lambda x: model[0](x)
    with pytest.raises(RewriteError, match="spare: it is not called"):
        collect(model, ["spare"], [torch.randn(2, 4, 8, 8)])
