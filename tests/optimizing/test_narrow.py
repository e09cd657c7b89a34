"""Fewer channels between two convolutions: where, which, with what weights, and in which selections."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archcost
from archcost.errors import Refusal, RewriteError
from archcost.optimizing.allocation import Item, chosen, least
from archcost.optimizing.layers import layers_of
from archcost.rewriting.rule import get
from archcost.rewriting.survey.hidden import hidden
from archcost.rewriting.survey.survey import survey_of

X = torch.rand(96, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Inverted(nn.Module):
    """An inverted residual block, padded by a module of its own as TensorFlow's are."""

    def __init__(self, channels, wide):
        super().__init__()
        self.expand, self.norm0 = nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.pad, self.deep = nn.ZeroPad2d(1), nn.Conv2d(wide, wide, 3, groups=wide, bias=False)
        self.norm1 = nn.BatchNorm2d(wide)
        self.project, self.norm2 = nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        y = F.relu6(self.norm0(self.expand(x)))
        y = F.relu6(self.norm1(self.deep(self.pad(y))))
        return x + self.norm2(self.project(y))


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), Inverted(8, 48), nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(32, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 5),
        )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = Net()
    made.train()
    for _ in range(5):
        made(3 * X)
    with torch.no_grad():
        for norm in (m for m in made.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return made.eval()


@pytest.fixture(scope="module")
def survey(model):
    return survey_of(archcost.analyze(model, X[:1], progress=False))


@pytest.fixture(scope="module")
def small(model):
    return archcost.optimize(
        model, X[:1], budget=0.6, batches=X, rules=["narrow"], random_weights=True, progress=False
    )


def test_channels_end_at_the_next_convolution_that_mixes_them(survey):
    found = {one.name: hidden(one) for one in survey}
    assert found["1.expand"].norms == {"1.norm0": "1.expand", "1.norm1": "1.deep"}
    assert found["1.expand"].makers == ("1.expand", "1.deep")
    assert found["1.expand"].reader == "1.project"
    assert found["2"].reader == "5"
    for name in ("0", "1.project", "5", "1.deep"):  # a sum, a sum, a linear layer, grouped
        assert isinstance(found[name], Refusal)


def test_an_activation_may_serve_several_layers_and_a_norm_may_not():
    class Shared(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.one, self.two, self.three = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
            self.between = nn.BatchNorm2d(8) if norm else nn.ReLU()

        def forward(self, x):
            return self.three(self.between(self.two(self.between(self.one(x)))))

    for norm in (False, True):
        made = Shared(norm).eval()
        survey = survey_of(archcost.analyze(made, X[:1], progress=False))
        found = [hidden(survey.subjects[name]) for name in ("one", "two")]
        assert [isinstance(one, Refusal) for one in found] == [norm, norm]


@pytest.mark.parametrize(
    "between",
    [nn.PReLU(8), nn.Softmax(1), nn.LayerNorm([8, 16, 16]), nn.Conv2d(8, 8, 3, padding=1, groups=2)],
    ids=lambda one: type(one).__name__,
)
def test_what_does_not_treat_each_channel_alike_refuses(between):
    made = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), between, nn.Conv2d(8, 4, 1)).eval()
    survey = survey_of(archcost.analyze(made, X[:1], progress=False))
    assert isinstance(hidden(survey.subjects["0"]), Refusal)


def test_all_channels_compute_the_same_with_the_norms_folded(model, survey):
    plan_of = get("narrow").replacement(survey.subjects["1.expand"], keep=range(48))
    there = {name: model.get_submodule(name) for name in plan_of.chains}
    carried = get("narrow").carry(there, plan_of)
    assert list(carried) == ["1.expand", "1.deep", "1.project"]
    x = torch.rand(2, 8, 16, 16)
    (w0, b0), (w1, b1), (w2, b2) = (carried[name][0] for name in carried)
    y = F.relu6(F.conv2d(x.double(), w0, b0))
    y = F.relu6(F.conv2d(F.pad(y, (1, 1, 1, 1)), w1, b1, groups=48))
    y = F.batch_norm(F.conv2d(y, w2, b2).float(), *(model[1].norm2.running_mean, model[1].norm2.running_var),
                     model[1].norm2.weight, model[1].norm2.bias)  # fmt: skip
    with torch.no_grad():
        assert torch.allclose(x + y, model[1](x), atol=1e-4)


@pytest.mark.parametrize("keep", [(), (3, 1), (0, 0), (0, 48)])
def test_channels_that_are_not_there_are_refused(survey, keep):
    with pytest.raises(RewriteError, match=r"1\.expand: narrow takes keep=.*48 channels"):
        get("narrow").replacement(survey.subjects["1.expand"], keep=keep)


def test_the_budget_is_kept_and_the_costs_are_those_promised(model, small):
    assert small.reached["macs"] <= 0.6
    promised = sum(row.macs for row in small.rows)
    assert promised == small.after.total.macs
    assert {row.rule for row in small.rows if row.name in ("1.expand", "1.deep", "1.project")} == {"narrow"}
    assert small.rows[1].options == f"channels {small.model[1].expand.out_channels}"
    assert small.model[1].deep.groups == small.model[1].expand.out_channels < 48
    assert small.moved.error < 0.05
    assert any("are part of these" in note for note in small.notes)


def test_its_plan_is_read_back_and_builds_the_same_layers(model, small):
    plan = archcost.Plan.from_json(small.plan.to_json())
    assert plan == small.plan
    again = plan.apply(model, weights=False)
    again.load_state_dict(small.model.state_dict())
    assert torch.equal(again.eval()(X), small.model(X))
    carried = plan.apply(model)  # from the weights alone: the same channels
    assert carried[1].expand.weight.shape == small.model[1].expand.weight.shape
    assert torch.equal(carried[1].deep.weight, small.model[1].deep.weight)


def test_it_runs_trains_and_is_recovered(model, small):
    import copy

    work = copy.deepcopy(small.model).train()
    work(X).sum().backward()
    assert all(p.grad is not None for p in work.parameters())
    for method in ("least_squares", "distill"):
        found = archcost.recover(small.model, model, X, method, epochs=1, progress=False)
        assert found.after.score >= 0


def test_a_layer_is_in_one_choice_only():
    """The second layer may become cheaper alone, or together with the first one, or with the third."""
    layers = [
        [Item((10.0,), 0.0), Item((4.0,), 1.0)],
        [Item((10.0,), 0.0), Item((5.0,), 2.0), Item((-1.0,), 2.5, (0,))],
        [Item((10.0,), 0.0), Item((-4.0,), 2.6, (1,))],
    ]
    assert chosen(layers, (30.0,)) == [0, 0, 0]
    assert chosen(layers, (24.0,)) == [1, 0, 0]
    assert chosen(layers, (19.0,)) == [0, 2, 0]
    assert chosen(layers, (16.0,)) == [0, 0, 1]
    assert chosen(layers, (10.0,)) == [1, 0, 1]
    assert least(layers, 0) == 10.0


def test_time_is_kept_too(model):
    found = archcost.optimize(
        model, X[:1], budget=archcost.Budget(latency=0.95), batches=X, random_weights=True, progress=False,
        trials=1, refit=False, distill=False,
    )  # fmt: skip
    assert found.model(X).shape == (96, 5)


def test_it_pickles_and_exports(small):
    import pickle

    assert torch.equal(pickle.loads(pickle.dumps(small.model))(X), small.model(X))
    exported = torch.export.export(small.model, (X[:2],)).module()
    assert torch.allclose(exported(X[:2]), small.model(X[:2]), atol=1e-6)


class Block(nn.Module):
    """A ConvNeXt block: a depthwise convolution, and two linear layers on each pixel."""

    def __init__(self, channels, wide, between=nn.GELU):
        super().__init__()
        self.deep, self.norm = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels), nn.LayerNorm(channels)
        self.expand, self.between = nn.Linear(channels, wide), between()
        self.drop, self.project = nn.Dropout(0.1), nn.Linear(wide, channels)

    def forward(self, x):
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        return x + self.project(self.drop(self.between(self.expand(y)))).permute(0, 3, 1, 2)


def blocks(between=nn.GELU):
    torch.manual_seed(0)
    made = (Block(8, 40, between), Block(8, 40, between))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), *made, *head).eval()


def readers(model):
    found = layers_of(survey_of(archcost.analyze(model, X[:1], progress=False)))
    return {one.name: one.hidden.makers for one in found if one.hidden is not None}


def test_features_between_two_linear_layers_end_at_the_second():
    assert readers(blocks()) == {"1.project": ("1.expand",), "2.project": ("2.expand",)}


@pytest.mark.parametrize(
    "between",
    [lambda: nn.LayerNorm(40), lambda: nn.Softmax(-1)],
    ids=["norm", "softmax"],
)
def test_features_that_are_not_treated_alike_stay(between):
    assert readers(blocks(between)) == {}


def test_a_linear_layer_that_serves_twice_stays():
    made = blocks()
    made[2] = made[1]
    assert readers(made) == {}


def test_fewer_features_are_chosen_fitted_and_planned():
    model = blocks()
    small = archcost.optimize(
        model, X[:1], budget=0.6, batches=X, rules=["narrow"], random_weights=True, progress=False
    )
    assert {row.rule for row in small.rows if "project" in row.name or "expand" in row.name} == {"narrow"}
    assert sum(row.macs for row in small.rows) <= 0.6 * small.before.total.macs
    wide = small.model[1].expand.out_features
    assert wide == small.model[1].project.in_features < 40
    assert all(len(one.types) == 2 and one.before.macs == 2 * 16 * 8 * 40 for one in small.plan)
    assert small.moved.error < 0.1
    again = archcost.Plan.from_json(small.plan.to_json()).apply(model, weights=False)
    again.load_state_dict(small.model.state_dict())
    assert torch.equal(again.eval()(X), small.model(X))


def test_few_positions_do_not_say_which_features_may_go():
    """Of 40 features of a single position each, 96 inputs tell too little."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 40), nn.ReLU(), nn.Linear(40, 5)).eval()
    options = {"rules": ["narrow"], "batches": X, "random_weights": True, "progress": False}
    with pytest.raises(RewriteError, match="the least reachable is 1"):
        archcost.optimize(model, X[:1], budget=0.9, **options)


def test_a_plan_is_not_for_linear_layers_of_another_width():
    options = {"budget": 0.6, "batches": X, "rules": ["narrow"], "random_weights": True, "progress": False}
    plan = archcost.optimize(blocks(), X[:1], trials=1, **options).plan
    other = blocks()
    other[1].expand, other[1].project = nn.Linear(8, 48), nn.Linear(48, 8)
    with pytest.raises(RewriteError, match=r"'1\.expand' has 8 -> 48, and 8 -> 40 in the plan"):
        plan.apply(other)


def test_hooks_on_linear_layers_see_all_features():
    model = blocks()
    model[1].expand.register_forward_hook(lambda *_: None)
    model[2].project.register_forward_pre_hook(lambda *_: None)
    found = layers_of(survey_of(archcost.analyze(model, X[:1], progress=False), hooks="keep"))
    assert not any(one.hidden for one in found)


def test_linear_layers_whose_weights_their_parent_reads_stay_single_ones():
    """PyTorch's encoder layer takes the weights of its linear layers in eval mode."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True)
    model = nn.Sequential(nn.Flatten(2), nn.Linear(256, 16), layer, nn.Flatten(), nn.Linear(48, 5)).eval()
    small = archcost.optimize(model, X[:1], budget=0.7, batches=X, random_weights=True, progress=False)
    alone = archcost.optimize(model, X[:1], budget=0.7, random_weights=True, progress=False)
    with torch.no_grad():
        for one in (small, alone):
            assert type(one.model[2].linear1) is type(one.model[2].linear2) is nn.Linear
            assert one.model(X).shape == (96, 5)
