"""The last stages of new layers fitted to what the old ones give, without labels and without gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from archcost.errors import InputError, RewriteError
from archcost.nn.path_conv import PathConv
from archcost.weights import fitting
from archcost.weights.refit import refit


def images(n, channels=6, size=12):
    """Inputs whose neighbours and channels have much in common."""
    x = F.avg_pool2d(torch.randn(n, 2, size + 6, size + 6), 7, 1)
    mix = torch.randn(channels, 2, generator=torch.Generator().manual_seed(1))
    return 7 * torch.einsum("oi,nihw->nohw", mix, x) + 0.2 * torch.randn(n, channels, size, size) + 0.5


class Net(nn.Module):
    """Three layers, each overwritten by what comes behind it; the second one is called twice."""

    def __init__(self, fail=False):
        super().__init__()
        self.first = nn.Conv2d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.fail = fail

    def forward(self, x, *, scale=1.0):
        x = self.act(self.first(x))
        x = self.act(self.second(x))
        x = self.act(self.second(x))
        if self.fail:
            raise ValueError("no more")
        return self.act(self.third(x * scale))


NAMES = ["third", "first", "second"]


def halves(layer, rank=4):
    """KxK -> rank, 1x1 by the singular value decomposition of the weights alone."""
    weight = layer.weight.detach().flatten(1)
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    first = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, padding=layer.padding, bias=False)
    second = nn.Conv2d(rank, layer.out_channels, 1)
    with torch.no_grad():
        first.weight.copy_((s[:rank, None] * v[:rank]).reshape(first.weight.shape))
        second.weight.copy_(u[:, :rank, None, None])
        second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def pair(rank=4, fail=False):
    original = Net(fail)
    rewritten = copy.deepcopy(original)
    for name in NAMES:
        setattr(rewritten, name, halves(getattr(original, name), rank))
    return original, rewritten


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def test_it_is_the_least_squares_solution_over_all_patches():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    wrong = nn.Conv2d(3, 4, 3, padding=1)
    x, other = torch.randn(16, 3, 6, 6), torch.randn(16, 3, 6, 6)

    class Front(nn.Module):
        def __init__(self, conv, plus):
            super().__init__()
            self.conv, self.plus = conv, plus

        def forward(self, x):
            return self.conv(x + self.plus * other[: len(x)])

    original, rewritten = Front(layer, 0.0), Front(copy.deepcopy(wrong), 0.7)
    found = refit(original, rewritten, ["conv"], [x], ridge=1e-12)["conv"]
    kept = torch.arange(16) % 4 != 3
    rows = F.unfold(F.pad((x + 0.7 * other)[kept], (1, 1, 1, 1)), 3).transpose(1, 2).flatten(0, 1).double()
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    y = layer(x[kept]).detach().movedim(1, -1).reshape(-1, 4).double()
    exact = torch.linalg.lstsq(rows, y).solution
    assert found.kept == "weights"
    assert found.positions == len(rows)
    assert torch.allclose(rewritten.conv.weight.flatten(1).double(), exact[:-1].T, atol=1e-5)
    assert torch.allclose(rewritten.conv.bias.double(), exact[-1], atol=1e-5)
    was, now = layer(x[~kept]), rewritten.conv((x + 0.7 * other)[~kept])
    assert found.after == pytest.approx(relative(now, was), rel=1e-4)
    old = wrong((x + 0.7 * other)[~kept])
    assert found.before == pytest.approx(relative(old, was), rel=1e-4)


def test_layers_are_fitted_in_the_order_in_which_they_run_and_the_output_comes_closer():
    original, rewritten = pair()
    original.eval(), rewritten.eval()
    batches = [images(16) for _ in range(4)]
    fresh = images(32)
    with torch.no_grad():
        exact, blind = original(fresh), relative(rewritten(fresh), original(fresh))
        found = refit(original, rewritten, NAMES, batches)
        assert relative(rewritten(fresh), exact) < 0.95 * blind
    assert list(found) == ["first", "second", "third"]
    assert all(one.kept == "weights" and one.after < one.before for one in found.values())


def test_a_layer_is_fitted_to_what_the_layers_before_it_give_once_they_are_fitted():
    original, rewritten = pair()
    batches = [images(16)]
    step_by_step = copy.deepcopy(rewritten)
    whole = refit(original, rewritten, NAMES, batches)
    refit(original, step_by_step, ["first"], batches)
    refit(original, step_by_step, ["second"], batches)
    last = refit(original, step_by_step, ["third"], batches)["third"]
    assert last.before == pytest.approx(whole["third"].before, rel=1e-4)
    assert torch.allclose(step_by_step.third[1].weight, rewritten.third[1].weight, atol=1e-4)
    untouched = refit(original, pair()[1], ["third"], batches)["third"]
    assert untouched.before != pytest.approx(last.before, rel=1e-2)


def test_the_original_is_as_before_and_of_the_rewritten_only_weights_differ():
    original, rewritten = pair()
    original.train()
    before = {k: v.clone() for k, v in original.state_dict().items()}
    theirs = {k: v.clone() for k, v in rewritten.state_dict().items()}
    batches = [images(8) for _ in range(2)]
    kept, random = [b.clone() for b in batches], torch.get_rng_state()
    refit(original, rewritten, NAMES, batches)
    assert original.training
    assert all(torch.equal(v, before[k]) for k, v in original.state_dict().items())
    changed = {k for k, v in rewritten.state_dict().items() if not torch.equal(v, theirs[k])}
    assert changed == {f"{n}.1.{k}" for n in NAMES for k in ("weight", "bias")}
    assert all(torch.equal(a, b) for a, b in zip(batches, kept, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    for model in (original, rewritten):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_failing_forward_leaves_both_as_before():
    original, rewritten = pair(fail=True)
    before = copy.deepcopy(rewritten.state_dict())
    with pytest.raises(RewriteError, match="original model's forward failed on a batch: ValueError"):
        refit(original, rewritten, NAMES, [images(8)])
    assert original.training
    assert not any(m._forward_hooks for m in original.modules())
    assert all(torch.equal(v, before[k]) for k, v in rewritten.state_dict().items())


class Loader:
    """Goes through its batches again and again, in another order each time if told to."""

    def __init__(self, batches, turn=False):
        self.batches, self.turn = batches, turn

    def __iter__(self):
        if self.turn:
            self.batches = [*self.batches[1:], self.batches[0]]
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def test_layers_share_a_pass_over_the_original_and_come_out_as_with_one_for_each():
    data = list(images(24).split(8))
    passes, weights, found = [], [], []
    for batches in (data, Loader(data)):
        torch.manual_seed(3)
        original, rewritten = pair()
        seen = []
        original.first.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        found.append(refit(original, rewritten, NAMES, batches))
        passes.append(len(seen))
        weights.append(rewritten.state_dict())
    assert passes == [1 + 3, 1 + 3 * 3]
    assert found[0] == found[1]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=0, atol=0)


def test_batches_in_another_order_in_each_pass_are_still_paired_with_their_own_targets():
    data = list(images(32).split(8))
    torch.manual_seed(3)
    still = refit(*pair(), NAMES, data)
    torch.manual_seed(3)
    turned = refit(*pair(), NAMES, Loader(data, turn=True))
    for name in NAMES:
        assert turned[name].before == pytest.approx(still[name].before, rel=0.2), name


def test_nothing_behind_the_last_call_of_a_layer_is_run():
    original, rewritten = pair()
    runs = []
    rewritten.third.register_forward_pre_hook(lambda *_: runs.append(1))
    refit(original, rewritten, ["first", "second"], [images(8)] * 2)
    assert runs == []


def test_targets_are_what_the_layer_gave_and_not_what_came_of_them_in_place():
    original, rewritten = pair()
    rewritten.first, rewritten.second = copy.deepcopy(original.first), copy.deepcopy(original.second)
    found = refit(original, rewritten, ["second"], [images(8)] * 2)["second"]  # called twice
    assert found.before < 1e-6  # a target that the ReLU behind it has overwritten would be far away
    assert found.after < 1e-6


def test_keyword_arguments_are_passed():
    original, rewritten = pair()
    found = refit(original, rewritten, ["third"], [{"x": images(8), "scale": 2.0}] * 2)
    assert found["third"].after < found["third"].before


def test_a_fit_that_does_not_help_what_is_kept_aside_is_not_taken():
    """Few inputs, many weights, a target without any relation to the input."""

    class Noise(nn.Module):
        def __init__(self, conv, noise):
            super().__init__()
            self.conv, self.noise = conv, noise

        def forward(self, x):
            return self.conv(self.noise if self.noise is not None else x)

    conv = nn.Conv2d(30, 4, 3, padding=1)
    x = torch.randn(8, 30, 3, 3)
    original = Noise(conv, torch.randn(8, 30, 3, 3))
    rewritten = Noise(copy.deepcopy(conv), None)
    with torch.no_grad():
        rewritten.conv.weight.zero_()
        rewritten.conv.bias.add_(3)
    found = refit(original, rewritten, ["conv"], [x], ridge=1e-9)["conv"]
    assert found.kept == "bias"
    assert found.after < found.before
    assert torch.equal(rewritten.conv.weight, torch.zeros_like(conv.weight))


def test_a_score_of_the_whole_model_decides_between_the_changes():
    original, rewritten = pair()
    batches = [images(16)] * 4
    before = copy.deepcopy(rewritten.state_dict())
    seen = []

    def still(layer):
        """Best with the weights as they are."""
        assert layer is rewritten.third[1]
        seen.append(relative(rewritten.third[1].weight, before["third.1.weight"]))
        return seen[-1]

    found = refit(original, rewritten, ["third"], batches, scores={"third": still})["third"]
    assert found.kept == "nothing"
    assert torch.equal(rewritten.third[1].weight, before["third.1.weight"])
    assert sum(one > 0 for one in seen) == 3  # a ridge each
    assert refit(original, rewritten, ["third"], batches)["third"].kept == "weights"


@pytest.mark.parametrize("groups", [2, 8])
def test_groups_are_fitted_apart(groups):
    original = nn.Sequential(nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=groups))
    rewritten = copy.deepcopy(original)
    with torch.no_grad():
        rewritten[1].weight.zero_()
    found = refit(original, rewritten, ["1"], [images(16)] * 4, ridge=1e-10)["1"]
    assert found.after < 1e-3 * found.before


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Conv1d(3, 4, 5, padding=2, padding_mode="reflect"), (8, 3, 40)),
        (lambda: nn.Conv3d(2, 3, 3, stride=2, bias=False), (8, 2, 9, 9, 9)),
        (lambda: nn.Conv2d(3, 4, 3, dilation=2, padding="same"), (8, 3, 9, 9)),
        (lambda: PathConv(nn.Conv2d(3, 4, 3, padding=1), "im2col"), (8, 3, 9, 9)),
    ],
    ids=["1-d", "3-d without bias", "dilated", "on a path"],
)
def test_every_kind_of_layer(make, shape):
    original = nn.Sequential(make())
    rewritten = copy.deepcopy(original)
    x = [torch.randn(shape) + 1 for _ in range(4)]
    with torch.no_grad():
        rewritten(x[0])
        rewritten[0].weight.mul_(0.1)
        if rewritten[0].bias is not None:
            rewritten[0].bias.sub_(1)
    found = refit(original, rewritten, ["0"], x, ridge=1e-10)["0"]
    assert found.after < 1e-4
    with torch.no_grad():
        assert torch.allclose(rewritten(x[0]), original(x[0]), atol=1e-3)


def test_of_a_transposed_last_stage_the_bias_is_fitted():
    original = nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2))
    rewritten = copy.deepcopy(original)
    with torch.no_grad():
        rewritten[0].bias.add_(2)
    found = refit(original, rewritten, ["0"], [torch.randn(8, 3, 6, 6)])["0"]
    assert found.kept == "bias"
    assert found.after < 1e-5
    assert "transposed" in found.note


def test_one_input_at_a_time_will_do():
    original, rewritten = pair()
    found = refit(original, rewritten, ["first"], [images(1)])["first"]
    assert found.after < found.before
    many = refit(*pair(), ["first"], [images(1) for _ in range(12)])["first"]
    assert many.positions == 9 * 144


def test_batches_that_can_be_gone_through_only_once_are_refused():
    original, rewritten = pair()
    with pytest.raises(InputError, match="allows a single pass, and 4 are needed: give a list"):
        refit(original, rewritten, NAMES, (images(8) for _ in range(2)))
    with pytest.raises(InputError, match="there are none"):
        refit(original, rewritten, NAMES, [])


def test_what_cannot_be_fitted_is_refused():
    original, rewritten = pair()
    with pytest.raises(RewriteError, match="no module 'fourth'"):
        refit(original, rewritten, ["fourth"], [images(8)])
    with pytest.raises(RewriteError, match="norm: the new layer ends in a BatchNorm2d"):
        refit(original, rewritten, ["norm"], [images(8)])
    rewritten.third = nn.Conv2d(8, 4, 3)
    with pytest.raises(RewriteError, match=r"third: its chain's output has the shape \(8, 4, 10, 10\)"):
        refit(original, rewritten, ["third"], [images(8)])
    assert refit(original, rewritten, [], [images(8)]) == {}


def test_a_refit_is_repeated_with_the_same_choices_on_all_inputs():
    data = list(images(32).split(8))
    original, rewritten = pair()
    once = copy.deepcopy(rewritten)
    before = refit(original, once, NAMES, data)
    after = refit(original, rewritten, NAMES, data, repeat=before)
    for name in NAMES:
        was, now = before[name], after[name]
        assert (now.kept, now.ridge, now.after) == (was.kept, was.ridge, was.after)
        assert now.positions == pytest.approx(4 / 3 * was.positions, rel=0.01)
    x = images(200)
    assert relative(rewritten(x), original(x)) == pytest.approx(relative(once(x), original(x)), rel=0.2)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_few_rows_are_solved_by_their_gram_matrix_as_many_are_by_sums(monkeypatch, bias, groups):
    rows, lacks = torch.randn(groups, 20, 300).double() + 1, torch.randn(20, 6).double()
    found = []
    for few in (2, 10**9):
        monkeypatch.setattr(fitting, "_FEW", few)
        normal = fitting.Normal(True, bias)
        for part in (slice(0, 12), slice(12, 20)):
            normal.add(rows[:, part], lacks[part])
        assert (normal.sums is None) == (few == 2)
        found.append(normal.fit(0.01))
    torch.testing.assert_close(found[0].weight, found[1].weight, rtol=1e-8, atol=1e-10)
    if bias:
        torch.testing.assert_close(found[0].bias, found[1].bias, rtol=1e-8, atol=1e-10)
