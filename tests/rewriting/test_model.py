"""rewrite: what is chosen is done, checked against the old layers, and told; what fails is taken back."""

import copy

import pytest
import torch
from torch import nn

import archcost
from archcost.errors import InputError, RewriteError, SpecError
from archcost.latency.store.store import Store
from archcost.rewriting import Factorisation, Plan, Replacement, chained
from archcost.rewriting.rule import register, table


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    ).eval()


def images(batch=2, size=24):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def smooth(batch=4, seed=2):
    """Images whose pixels are alike near one another, as those of photographs are."""
    x = torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(x, size=24, mode="bicubic")


def rewritten(model, choices=None, inputs=None, **options):
    given = images() if inputs is None else inputs
    return archcost.rewrite(model, given, choices, store=False, progress=False, **options)


def test_a_layer_is_rewritten_by_the_rule_named():
    model = cnn()
    new = rewritten(model, {"3": "asymmetric"})
    assert [type(step).__name__ for step in new.model[3]] == ["Conv2d", "Conv2d"]
    assert new.after.total.macs < new.before.total.macs
    assert new.comparison.a.total.macs == new.before.total.macs
    assert isinstance(new.plan, Plan)
    assert new.original is model
    assert 0 < new.output_error < 0.5


def test_options_are_taken():
    new = rewritten(cnn(), {"3": ("bottleneck", {"form": "out", "rank_out": 8})})
    assert [step.out_channels for step in new.model[3]] == [8, 32]


def test_a_pattern_means_all_that_can_be():
    new = rewritten(cnn(), {"*": "separable"})
    assert {one.name for one in new.plan} >= {"3", "5"}


def test_proposals_are_taken_as_they_are():
    model = cnn()
    found = archcost.propose(model, images(), rules=["asymmetric"], store=False, progress=False)
    new = rewritten(model, found["3"][:1])
    assert new.plan == Plan(found["3"][:1])


def test_rules_are_applied_wherever_they_fit():
    new = rewritten(cnn(), rules=["asymmetric", "separable", "bottleneck"])
    assert {one.name for one in new.plan} >= {"3", "5"}
    assert new.model(images()).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, InputError, "give choices by layer, or rules"),
        ({"choices": {"3": "asymmetric"}, "rules": ["merge"]}, InputError, "one of the two"),
        ({"choices": {"4": "asymmetric"}}, SpecError, "'4' of Sequential is a ReLU, not a convolution"),
        (
            {"choices": {"3": "asymetric"}},
            SpecError,
            "no rule is called 'asymetric'; did you mean a",
        ),
        ({"choices": {"3": 5}}, InputError, "the choice for '3' is 5"),
        (
            {"choices": {"3": ("bottleneck", {"depth": 1})}},
            RewriteError,
            "3: bottleneck has no option .depth.",
        ),
        ({"choices": [1]}, InputError, "choices hold 1; give proposals"),
        (
            {"rules": ["asymmetric"], "ratio": 2},
            InputError,
            "not a share of a layer's MACs, above 0",
        ),
    ],
)
def test_what_makes_no_sense_is_said(arguments, error, words):
    model = cnn()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(error, match=words):
        rewritten(model, **arguments)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_name_is_no_model():
    with pytest.raises(InputError, match=r"got the string 'torchvision:alexnet'; .* archcost.load"):
        archcost.rewrite("torchvision:alexnet", rules=["merge"])


def test_in_place_it_can_be_undone():
    model = cnn()
    expected, old = model(images()), model[3]
    new = rewritten(model, {"3": "asymmetric"}, inplace=True)
    assert new.model is model
    assert model[3] is not old
    assert new.original is None
    new.undo()
    assert model[3] is old
    assert torch.equal(model(images()), expected)


class Wrong(Factorisation):
    """A rule whose layers are not what they should be."""

    name, change, break_even = "wrong", "KxK -> something else", "never"

    def __init__(self, fault):
        self.fault = fault

    def refusal(self, subject):
        return None

    def options(self, subject, ratio):
        return [{}]

    def replacement(self, subject, **options):
        spec = subject.spec
        pad = spec.padding if self.fault != "shape" else 0
        first = copy.copy(spec)
        object.__setattr__(first, "padding", pad if pad else ((0, 0),) * len(spec.padding))
        return Replacement({subject.name: chained(first)}, exact=self.fault == "exact")

    def factors(self, kernel, replacement, moments):
        return [kernel.flatten(0, 1)]

    def carry(self, modules, replacement, moments=None):
        layer = next(iter(modules.values()))
        weight = layer.weight.detach() * (2 if self.fault == "exact" else 1)
        bias = None if layer.bias is None else layer.bias.detach()
        return {replacement.name: [(weight, bias)]}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("shape", r"the output's shape: \(2, 32, 12, 12\) before, \(2, 32, 8, 8\) now"),
        ("exact", "the output's relative error is .* above the tolerance"),
    ],
)
def test_a_layer_that_is_not_as_predicted_is_taken_back_and_said(fault, words):
    with table.temporarily():
        register(Wrong(fault))
        model = cnn()
        new = rewritten(model, rules=["wrong"])
        skipped = next(one for one in new.skipped if one.name == "3")
        assert "undone" in skipped.reason
        with pytest.raises(RewriteError, match=words):
            rewritten(model, {"3": "wrong"})
        assert torch.equal(new.model(images()), model(images()))


class Failing(Factorisation):
    """A rule that raises at one layer, of 16 inputs, in the method named."""

    name, change, break_even = "failing", "KxK -> KxK", "never"

    def __init__(self, where, error):
        self.where, self.error = where, error

    def at(self, method, inputs):
        if method == self.where and inputs == 16:
            raise self.error

    def refusal(self, subject):
        self.at("refusal", subject.spec.in_channels)

    def options(self, subject, ratio):
        self.at("options", subject.spec.in_channels)
        return [{}]

    def replacement(self, subject, **options):
        self.at("replacement", subject.spec.in_channels)
        return Replacement({subject.name: chained(subject.spec)}, exact=True)

    def factors(self, kernel, replacement, moments):
        raise NotImplementedError

    def carry(self, modules, replacement, moments=None):
        layer = next(iter(modules.values()))
        self.at("carry", layer.in_channels)
        return {replacement.name: [(layer.weight.detach(), layer.bias)]}


@pytest.mark.parametrize("error", [RewriteError("no luck"), ZeroDivisionError("no luck")])
@pytest.mark.parametrize("where", ["refusal", "options", "replacement", "carry"])
def test_a_rule_that_fails_at_one_place_ends_nothing_else(where, error):
    model, x = cnn()[:5], images()
    with table.temporarily():
        register(Failing(where, error))
        new = rewritten(model, rules=["failing"], inputs=x)
        assert [one.name for one in new.plan] == ["0"]
        (skipped,) = new.skipped
        assert skipped.name == "3"
        assert "failed: " in skipped.reason
        assert "no luck" in skipped.reason
        assert torch.equal(new.model(x), model(x))
        with pytest.raises(type(error) if where == "carry" else Exception, match="no luck"):
            rewritten(model, {"3": "failing"}, inputs=x)


class Branching(nn.Module):
    """One of its two layers is called."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = (nn.Conv2d(n, 8, 5, padding=2) for n in (3, 3, 8))

    def forward(self, x, one=True):
        return self.last(self.one(x) if one else self.two(x))


def test_data_that_does_not_reach_a_layer_leaves_it_to_its_weights():
    model, x = Branching().eval(), smooth()
    data = [(x, False), (x.flip(0), False)]
    new = rewritten(model, rules=["asymmetric"], inputs=(x, True), batches=data)
    assert {one.proposal.name: one.refitted is not None for one in new.outcomes} == {
        "one": False,
        "last": True,
    }
    assert any(
        one.name == "one" and "weights alone, not fitted to the data" in one.reason for one in new.skipped
    )
    errors = {one.name: one.output_error for one in proposed(model, (x, True), data)}
    assert errors["one"] is None
    assert errors["last"] < 1
    with pytest.raises(RewriteError, match="it is not called with these batches"):
        proposed(model, (x, True), iter(data))  # not that they are used up
    with pytest.raises(RewriteError, match="one: it is not called with these batches"):
        rewritten(model, {"one": "asymmetric"}, inputs=(x, True), batches=data)
    with pytest.raises(RewriteError, match="forward failed on a batch"):
        rewritten(model, rules=["asymmetric"], inputs=(x, True), batches=[torch.rand(1, 7, 24, 24)])


def proposed(model, inputs, batches):
    return archcost.propose(model, inputs, rules=["asymmetric"], batches=batches, store=False, progress=False)


class ForInference(nn.Sequential):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


@pytest.fixture(scope="module")
def expected():
    return rewritten(cnn(), rules=["bottleneck"], inputs=smooth(), batches=[smooth()])


@pytest.mark.parametrize("where", ["forward", "data", "model", "call"])
def test_inference_mode_changes_nothing_and_what_is_made_trains(expected, where):
    def mode(this):
        return torch.inference_mode(this == where)

    with mode("data"):
        x = smooth()
    with mode("model"):
        model = cnn()
    if where == "forward":
        model = ForInference(*model)
    with mode("call"):
        new = rewritten(model, rules=["bottleneck"], inputs=x, batches=[x])
        assert proposed(model, x, [x])[0].output_error < 1
    assert [one.refitted for one in new.outcomes] == [one.refitted for one in expected.outcomes]
    assert all(map(torch.equal, new.model.state_dict().values(), expected.model.state_dict().values()))
    nn.Sequential.forward(new.model, smooth()).sum().backward()
    assert all(p.grad is not None for p in new.model.parameters())


class Picky(nn.Module):
    """Its forward asks of a layer what only a convolution has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, padding=2)

    def forward(self, x):
        return self.conv(x).to(self.conv.weight.dtype)


def test_a_forward_that_fails_with_the_new_layer_gets_the_old_one_back():
    model = Picky().eval()
    new = rewritten(model, rules=["asymmetric"])
    assert isinstance(new.model.conv, nn.Conv2d)
    assert any("forward fails with it" in one.reason for one in new.skipped)


def test_data_brings_the_outputs_nearer():
    model = cnn()
    choices = {"3": ("bottleneck", {"form": "both", "rank_in": 6, "rank_out": 8})}
    x = smooth(4, seed=9)
    blind = rewritten(model, choices, inputs=x)
    seeing = rewritten(model, choices, inputs=x, batches=[smooth(seed=s) for s in range(3)])
    assert seeing.output_error < 0.8 * blind.output_error
    before, after = seeing.outcomes[0].refitted
    assert after <= before


def test_data_leaves_the_model_as_it_was_also_after_a_failure():
    model = cnn().train()
    before = copy.deepcopy(model.state_dict())
    rewritten(model, {"3": "asymmetric"}, batches=[smooth()])
    with pytest.raises(Exception, match=r"."):
        rewritten(model, {"3": "asymmetric"}, batches=[smooth(), torch.rand(1, 7, 24, 24)])
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@pytest.mark.parametrize(
    ("layer", "size"),
    [(nn.Conv1d(4, 8, 7, padding=3), (40,)), (nn.Conv3d(4, 8, 3, padding=1), (6, 7, 8))],
)
def test_one_and_three_dimensions(layer, size):
    model = nn.Sequential(layer).eval()
    x = torch.randn(2, 4, *size)
    new = archcost.rewrite(model, x, rules=["bottleneck"], store=False, progress=False)
    assert len(new.plan) == 1
    assert new.model(x).shape == model(x).shape


@pytest.mark.parametrize("rule", ["small_kernels", "asymmetric"])
def test_the_receptive_field_stays_by_the_engine_and_by_a_witness(rule):
    model = nn.Sequential(
        nn.Conv2d(2, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 8, (5, 7), dilation=2, padding=4)
    ).eval()
    x = torch.rand(1, 2, 64, 64)
    new = archcost.rewrite(model, x, rules=[rule], store=False, progress=False)
    assert len(new.plan) == 2
    for name in ("0", "2"):
        old, now = (one.fields[name] for one in (new.before, new.after))
        assert (old.size, old.stride, old.padding) == (now.size, now.stride, now.padding)
        where = {"layer": name, "position": (4, 5), "verify": True}
        assert archcost.receptive_field(new.model, x, **where).window == (
            archcost.receptive_field(model, x, **where).window
        )


def test_what_may_not_be_replaced_stays_with_its_reason():
    model = cnn()
    nn.utils.parametrizations.weight_norm(model[3])
    new = rewritten(model, rules=["asymmetric"])
    assert any(one.name == "3" and "parametrized" in one.reason for one in new.skipped)
    with pytest.raises(RewriteError, match="'3' cannot be rewritten by asymmetric: its weight is"):
        rewritten(model, {"3": "asymmetric"})


def test_old_and_new_are_timed_in_turns():
    race = rewritten(cnn(), {"3": "asymmetric"}).race(seconds=30)
    assert race.old_ms > 0
    assert race.new_ms > 0
    assert race.threads == torch.get_num_threads()


def test_times_of_proposals_are_kept_in_the_store():
    model = cnn()
    with Store(":memory:") as store:
        found = archcost.propose(
            model, images(), rules=["asymmetric"], names=["3"], store=store, progress=False
        )
        assert all(one.race is None for one in found)
        timed = found.measured(images(), seconds=60, store=store, progress=False)
        assert all(one.race is not None for one in timed)
        again = archcost.propose(
            model, images(), rules=["asymmetric"], names=["3"], store=store, progress=False
        )
        assert [one.race.old_ms for one in again] == pytest.approx([one.race.old_ms for one in timed])
