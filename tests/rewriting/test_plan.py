"""A plan changes what it names and nothing else, can be undone, written down, read again and exported."""

import copy
import io
import json
import pickle

import pytest
import torch
from torch import nn

import archcost
from archcost.errors import RewriteError
from archcost.rewriting import Factorisation, Plan, Replacement
from archcost.rewriting.rule import register, table


class Net(nn.Module):
    """Convolutions that a tracer of graphs cannot follow: the forward asks for values."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.ModuleDict({"wide": nn.Conv2d(8, 16, 5, padding=2, padding_mode="reflect")})
        self.again = self.body["wide"]
        self.norm = nn.BatchNorm2d(16)
        self.down = nn.Conv2d(16, 12, (3, 5), stride=2, padding=(1, 2), bias=False)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.norm(self.again(x))
        if x.sum() > -1e9:
            x = torch.relu(self.down(x))
        return self.head(x.mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net().eval()


def images(batch=2, size=16):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def planned(model, names=("body.wide", "down"), rule="asymmetric"):
    found = archcost.propose(model, images(), rules=[rule], store=False, progress=False)
    return Plan(found[name][0] for name in names)


def state(model):
    return {name: (id(t), t.detach().clone()) for name, t in model.state_dict(keep_vars=True).items()}


def same_state(model, before):
    after = state(model)
    assert after.keys() == before.keys()
    for name, (identity, values) in before.items():
        assert after[name][0] == identity, name
        assert torch.equal(after[name][1], values), name


def test_a_copy_is_changed_and_the_model_is_not():
    model = net()
    before, modules = state(model), dict(model.named_modules(remove_duplicate=False))
    new = planned(model).apply(model)
    assert new is not model
    same_state(model, before)
    assert dict(model.named_modules(remove_duplicate=False)) == modules
    assert isinstance(new.body["wide"], nn.Sequential)
    assert new(images()).shape == model(images()).shape


def test_a_shared_module_is_replaced_once_and_still_shared():
    new = planned(net()).apply(net())
    assert new.again is new.body["wide"]


def test_in_place_the_handle_takes_it_back():
    model = net()
    before, old = state(model), model.down
    expected = model(images())
    handle = planned(model).apply(model, inplace=True)
    assert handle.model is model
    assert model.down is not old
    assert set(handle.replaced) == {"body.wide", "down"}
    assert not torch.equal(model(images()), expected)
    handle.undo()
    assert model.down is old
    same_state(model, before)
    assert torch.equal(model(images()), expected)
    handle.undo()


def test_one_of_them_can_be_taken_back_alone():
    model = net()
    handle = planned(model).apply(model, inplace=True)
    handle.undo("down")
    assert isinstance(model.down, nn.Conv2d)
    assert isinstance(model.again, nn.Sequential)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_flags_and_layout_stay(dtype):
    model = net().to(dtype).to(memory_format=torch.channels_last).train()
    model.down.weight.requires_grad_(False)
    new = planned(net()).apply(model)
    for layer in new.down:
        assert layer.training
        assert layer.weight.dtype == dtype
        assert not layer.weight.requires_grad
    assert all(layer.weight.requires_grad for layer in new.again)
    assert new.again[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_parents_read_the_attributes_of_the_old_layer():
    model = net()
    new = planned(model).apply(model)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(new.down, name) == getattr(model.down, name), name


def test_random_numbers_are_not_drawn():
    model, plan = net(), planned(net())
    before = torch.get_rng_state()
    plan.apply(model)
    plan.apply(model, weights=False)
    assert torch.equal(before, torch.get_rng_state())


def test_two_proposals_for_one_place_do_not_go_together():
    model = net()
    found = archcost.propose(model, images(), rules=["asymmetric", "bottleneck"], store=False, progress=False)
    one, other = (next(p for p in found["down"] if p.rule == rule) for rule in ("asymmetric", "bottleneck"))
    with pytest.raises(RewriteError, match=r"asymmetric of 'down' and bottleneck of 'down' both replace"):
        Plan([one, other])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: delattr(m, "down"), "does not fit this model: it has no module 'down'"),
        (lambda m: setattr(m, "down", nn.Conv2d(16, 12, 3)), r"its kernel_size is \(3, 3\), and "),
        (lambda m: setattr(m, "down", nn.Conv2d(8, 12, (3, 5), 2)), "its in_channels is 8, and "),
        (lambda m: m.down.register_forward_hook(print), "'down' cannot be replaced: it has a forward hook"),
        (
            lambda m: nn.utils.parametrizations.weight_norm(m.down),
            "'down' cannot be replaced: its weight",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_refused_and_nothing_changes(change, words):
    plan, model = planned(net()), net()
    change(model)
    before = dict(model.named_modules(remove_duplicate=False))
    with pytest.raises(RewriteError, match=words):
        plan.apply(model, inplace=True)
    assert dict(model.named_modules(remove_duplicate=False)) == before


def test_hooks_are_taken_over_when_asked():
    model, seen = net(), []
    model.down.register_forward_hook(lambda *_: seen.append(1))
    new = planned(net()).apply(model, hooks="keep")
    new(images())
    assert seen == [1]


def test_a_failure_half_way_leaves_the_model_as_it_was():
    class Failing(Factorisation):
        name, change, break_even = "failing", "nothing", "never"
        refusal = options = lambda self, *_: None

        def replacement(self, subject, **options):
            return Replacement({subject.name: ()})

        def factors(self, kernel, replacement, moments):
            raise MemoryError("no room for the factors")

    model = net()
    plan = planned(model)
    second = copy.copy(plan.proposals[1])
    object.__setattr__(second, "rule", "failing")
    before = dict(model.named_modules(remove_duplicate=False))
    with table.temporarily():
        register(Failing())
        with pytest.raises(MemoryError, match="no room"):
            Plan([plan.proposals[0], second]).apply(model, inplace=True)
    assert dict(model.named_modules(remove_duplicate=False)) == before


def test_json_is_the_plan_again():
    plan = planned(net())
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert json.loads(text)["proposals"][0]["name"] == "body.wide"


def test_json_goes_into_a_file_and_comes_out_of_it(tmp_path):
    plan = planned(net())
    assert plan.to_json(tmp_path / "plan.json") is None
    assert Plan.from_json(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "the plan is not JSON"),
        ("{}", "the plan is not a plan: Plan.to_json writes one"),
        ('{"format": "archcost plan", "version": 99}', "has version 99, and this archcost reads 1"),
        (
            '{"format": "archcost plan", "version": 1, "proposals": [{"chains": {}}]}',
            "the plan, proposal 1 is not as to_json writes it: ValueError: it replaces nothing",
        ),
        ("nowhere.json", "cannot read nowhere.json"),
    ],
)
def test_what_is_no_plan_is_refused(text, words):
    with pytest.raises(RewriteError, match=words):
        Plan.from_json(text)


def test_a_rewritten_model_is_restored_from_its_plan_and_weights():
    model = net()
    plan = planned(model)
    new = plan.apply(model)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(0.01)  # as training would
    file = io.BytesIO()
    torch.save(new.state_dict(), file)
    file.seek(0)
    restored = Plan.from_json(plan.to_json()).apply(net(), weights=False)
    assert not torch.equal(restored(images()), new(images()))
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(restored(images()), new(images()))


def test_the_source_makes_the_layers():
    model = net()
    plan = planned(model)
    space = {}
    exec(plan.to_python(), space)
    made = space["new_layers"](model)
    new = plan.apply(model)
    assert set(made) == {"body.wide", "down"}
    for name, layer in made.items():
        assert str(layer) == str(new.get_submodule(name))
        layer.load_state_dict(new.get_submodule(name).state_dict())
        x = torch.randn(1, layer[0].in_channels, 9, 9)
        assert torch.equal(layer(x), new.get_submodule(name)(x))


def test_the_result_is_plain_and_pickles_copies_and_trains():
    model = net()
    new = planned(model).apply(model)
    assert all(type(layer).__module__.startswith("torch.nn") for layer in new.again.modules())
    expected = new(images())
    assert torch.equal(pickle.loads(pickle.dumps(new))(images()), expected)
    assert torch.equal(copy.deepcopy(new)(images()), expected)
    new.train()
    optimiser = torch.optim.SGD(new.parameters(), 0.1)
    new(images()).square().sum().backward()
    optimiser.step()
    assert not torch.equal(new.eval()(images()), expected)
    assert torch.equal(model(images()), net()(images()))


class Straight(nn.Sequential):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 16, 5, padding=2, stride=2), nn.ReLU(), nn.Conv2d(16, 16, (3, 4), padding="same")
        )


def test_the_result_exports():
    model = Straight().eval()
    found = archcost.propose(model, images(), rules=["asymmetric"], store=False, progress=False)
    new = Plan(found.best()).apply(model)
    assert sum(isinstance(layer, nn.Conv2d) for layer in new.modules()) == 4
    exported = torch.export.export(new, (images(),)).module()
    torch.testing.assert_close(exported(images()), new(images()))


@pytest.mark.slow
def test_onnxruntime_computes_the_same(tmp_path):
    import onnxruntime

    model = Straight().eval()
    found = archcost.propose(model, images(), rules=["asymmetric"], store=False, progress=False)
    new = Plan(found.best()).apply(model)
    torch.onnx.export(new, (images(),), tmp_path / "new.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "new.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(y), new(images()), atol=1e-5, rtol=1e-4)
