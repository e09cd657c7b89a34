"""Modules are replaced at every parent and name, all or none of them, and put back as they were."""

import copy
import functools

import pytest
import timm
import torch
import torchvision
from torch import nn

from archcost.errors import ModelError, RewriteError
from archcost.nn.like import ConvLike
from archcost.surgery.copying import copied
from archcost.surgery.exchange import replace
from archcost.surgery.sites import sites

MODELS = {
    "resnet18": lambda: torchvision.models.resnet18(weights=None),
    "googlenet": lambda: torchvision.models.googlenet(weights=None, init_weights=False),
    "densenet121": lambda: torchvision.models.densenet121(weights=None),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(weights=None),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(weights=None),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(weights=None),
    "same padding": lambda: timm.create_model("tf_efficientnet_b0", pretrained=False),
}


class Twin(ConvLike):
    """Computes what the layer that it stands for does."""

    def forward(self, x, output_size=None):
        return self.plain(x, output_size)


def images(size=64, batch=1, channels=3):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def names(model):
    return [name for name, _ in model.named_modules(remove_duplicate=False)]


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False)).eval()


class Shared(nn.Module):
    """One convolution at three names under two parents, and weights tied between two others."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.first
        self.table = nn.ModuleDict({"x": self.first, "y": nn.Conv2d(4, 4, 3, padding=1)})
        self.list = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1)])
        self.list[0].weight = self.table["y"].weight

    def forward(self, x):
        x = self.again(self.first(x)) + self.table["x"](x)
        return self.list[0](self.table["y"](x))


@pytest.mark.parametrize("name", MODELS)
def test_every_convolution_exchanged_for_an_identical_one_changes_nothing(name):
    torch.manual_seed(0)
    model, x = MODELS[name]().eval(), images()
    found = sites(model)
    assert [site.reason for site in found] == [None] * len(found)
    before, keys, order = dict(model.named_modules()), list(model.state_dict()), names(model)
    with torch.no_grad():
        expected = model(x)
        handle = replace(model, {site.name: Twin for site in found}, inplace=True)
        assert sum(isinstance(module, Twin) for module in model.modules()) == len(found) > 18
        assert torch.equal(model(x), expected)
        assert list(model.state_dict()) == keys
        assert names(model) == order
        assert [module.training for module in model.modules()] == [False] * len(before)
        handle.undo()
        after = dict(model.named_modules())
        assert list(after) == list(before)
        assert all(after[key] is before[key] for key in before)
        assert torch.equal(model(x), expected)
    handle.undo()
    assert handle.replaced == {}


@pytest.mark.parametrize("name", ["googlenet", "same padding"])
def test_a_copy_is_changed_and_the_model_is_not(name):
    torch.manual_seed(0)
    model, x = MODELS[name]().eval(), images()
    before = dict(model.named_modules())
    handle = replace(model, {site.name: Twin for site in sites(model)})
    assert handle.model is not model
    assert not any(isinstance(module, Twin) for module in model.modules())
    assert all(module is before[key] for key, module in model.named_modules())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in handle.model.parameters()}
    with torch.no_grad():
        assert torch.equal(handle.model(x), model(x))
    assert isinstance(copy.deepcopy(handle.model), type(model))


def test_a_shared_module_is_replaced_once_at_every_place_and_stays_shared():
    model = Shared()
    order, expected = names(model), model(torch.ones(1, 4, 6, 6))
    first, site = model.first, sites(model)[0]
    assert site.names == ("first", "again", "table.x")
    assert [place.key for place in site.places] == ["first", "again", "x"]
    handle = replace(model, {"table.x": Twin}, inplace=True)  # by any of its names
    assert model.first is model.again is model.table["x"] is handle.replaced["first"][1]
    assert names(model) == order
    assert torch.equal(model(torch.ones(1, 4, 6, 6)), expected)
    handle.undo()
    assert model.first is model.again is model.table["x"] is first


def test_one_shared_module_is_named_once():
    with pytest.raises(
        RewriteError, match="'again' and 'first' are one shared module, replaced at both places: name it once"
    ):
        replace(Shared(), {"first": Twin, "again": Twin})


def test_a_copy_keeps_what_is_shared_and_tied():
    model = copied(Shared())
    assert model.first is model.again is model.table["x"]
    assert model.list[0].weight is model.table["y"].weight


class Odd(nn.Module):
    """Tells nobody that it refuses to be copied."""

    def __deepcopy__(self, memo):
        return self


def hold_a_view(model):
    model.kept = model[0].weight[:2]  # of a copy it would not follow the weight


def refer_to_itself(model):
    original = model[0].forward
    model[0].forward = lambda x: original(x) * 2


def tie_by_hand(model):
    class Untied(type(model[0])):
        def __deepcopy__(self, memo):
            return nn.Conv2d(3, 4, 3)

    model[0].__class__ = Untied
    model.append(nn.Conv2d(3, 4, 3)).get_submodule("3").weight = model[0].weight


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            hold_a_view,
            r"kept of the model \(Sequential\) cannot be copied: Only Tensors created explicitly",
        ),
        (
            lambda model: model.append(Odd()),
            r"3 \(Odd\) cannot be copied: its __deepcopy__ returns itself",
        ),
        (
            refer_to_itself,
            r"0 \(Conv2d\) cannot be copied: its forward was replaced by a function that refers to",
        ),
        (tie_by_hand, "a copy of the model does not tie the weights that the model ties"),
    ],
)
def test_what_cannot_be_copied_is_named(spoil, words):
    model = small()
    spoil(model)
    with pytest.raises(RewriteError, match=f"{words}.*inplace=True"):
        copied(model)


def run_once(layer):
    layer(images(8))
    return layer


def masked_buffer(layer):
    layer.register_buffer("scaled", layer.weight * 2)
    return layer


def kept_in_a_list(layer):
    layer.kept = {"results": [layer.weight.exp(), layer.weight.exp()]}
    layer.kept["again"] = layer.kept["results"][0]
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "spoil",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda layer: run_once(nn.utils.spectral_norm(layer)),
        lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.3),
        nn.utils.parametrizations.weight_norm,
        lambda layer: run_once(nn.utils.parametrizations.spectral_norm(layer)),
        nn.utils.parametrizations.orthogonal,
        masked_buffer,
        kept_in_a_list,
    ],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_weights_that_are_computed_are_copied_and_train_in_the_copy(spoil, mode):
    model = nn.Sequential(spoil(nn.Conv2d(3, 4, 3, padding=1)), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    with mode():
        twin = copied(model)
    expected = model(images(8)).detach()
    assert torch.equal(twin(images(8)), expected)
    twin(images(8)).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in model.parameters())
    torch.optim.SGD(twin.parameters(), 0.1).step()
    assert not torch.equal(twin(images(8)), expected)
    assert torch.equal(model(images(8)), expected)


def test_computed_tensors_stay_shared_in_the_copy():
    kept = copied(kept_in_a_list(nn.Conv2d(3, 4, 3))).kept
    assert kept["again"] is kept["results"][0]
    assert torch.equal(*kept["results"])
    assert kept["results"][0].data_ptr() != kept["results"][1].data_ptr()


def test_a_method_or_partial_in_the_place_of_a_forward_is_copied():
    model = small()
    model[0].forward = functools.partial(nn.Conv2d.forward, model[0])
    twin = copied(model)
    with torch.no_grad():
        twin[0].weight.zero_()
        assert twin[0](images(8)).std(dim=(2, 3)).max() < 1e-7
        assert model[0](images(8)).std() > 0.1


def test_the_new_module_takes_flags_dtype_layout_and_gradients_of_the_old_one():
    model = small().to(torch.float64).to(memory_format=torch.channels_last).train()
    model[2].weight.requires_grad_(False)
    new = nn.Sequential(nn.Conv2d(4, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Conv2d(2, 5, 1)).eval()
    made = replace(model, {"2": new}).model[2]
    assert all(module.training for module in made.modules())
    assert {parameter.dtype for parameter in made.parameters()} == {torch.float64}
    assert made[1].running_var.dtype == torch.float64
    assert made[1].num_batches_tracked.dtype == torch.int64
    assert made[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert replace(model.to("meta"), {"2": nn.Conv2d(4, 5, 3)}).model[2].weight.is_meta


def test_requires_grad_is_taken_by_name():
    model = small()
    model[0].weight.requires_grad_(False)
    made = replace(model, {"0": nn.Conv2d(3, 4, 3)}).model[0]
    assert (made.weight.requires_grad, made.bias.requires_grad) == (False, True)


def test_hooks_are_refused_or_taken_over_with_their_handles():
    model, calls = small(), []
    handle = model[0].register_forward_hook(lambda *_: calls.append("after"))
    model[0].register_forward_pre_hook(lambda module, args, kwargs: calls.append("before"), with_kwargs=True)
    with pytest.raises(
        RewriteError, match="'0' has a forward pre-hook and a forward hook, which would be lost"
    ):
        replace(model, {"0": Twin}, inplace=True)
    done = replace(model, {"0": Twin}, inplace=True, hooks="keep")
    made = model[0]
    model(images(8))
    assert calls == ["before", "after"]
    handle.remove()
    model(images(8))
    assert calls == ["before", "after", "before"]
    done.undo()
    made(images(8))
    assert len(calls) == 3
    model(images(8))
    assert len(calls) == 4


def test_hooks_do_not_run_twice_around_the_old_layer():
    model = small()
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(RewriteError, match="contains the old one, whose hooks would run twice"):
        replace(model, {"0": nn.Sequential}, inplace=True, hooks="keep")


def test_hooks_are_taken_over_only_by_a_module_without_its_own():
    model, new = small(), nn.Conv2d(3, 4, 3)
    for layer in (model[0], new):
        layer.register_forward_hook(lambda *_: None)
    with pytest.raises(RewriteError, match="cannot take over hooks: it has hooks itself"):
        replace(model, {"0": new}, hooks="keep")


def test_a_new_module_may_hold_the_old_one():
    model, x = small(), images(8)
    expected = model(x)
    handle = replace(model, {"0": lambda old: nn.Sequential(old, nn.Identity())}, inplace=True)
    assert torch.equal(model(x), expected)
    old = model[0][0]
    handle.undo()
    assert model[0] is old


def fails(old):
    raise KeyError("no such thing")


@pytest.mark.parametrize(
    ("new", "error", "words"),
    [
        ({"": Twin}, RewriteError, "the model itself cannot be replaced: wrap it"),
        ({"0": Twin, "7": Twin}, RewriteError, "the model has no module '7'; names are those of"),
        ({"0.weight": Twin}, RewriteError, "the model has no module '0.weight'"),
        ({"0": Twin, "2": fails}, KeyError, "no such thing"),
        ({"0": Twin, "2": lambda old: old.weight}, RewriteError, "not a torch.nn.Module"),
        ({"0": lambda old: nn.Identity(), "2": lambda old: nn.Sequential(old)}, None, None),
        ({"0": Twin, "2": 3}, TypeError, "not callable"),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_all_or_nothing(new, error, words, inplace):
    model = small()
    before = dict(model.named_modules())
    if error is not None:
        with pytest.raises(error, match=words):
            replace(model, new, inplace=inplace)
    else:
        replace(model, new, inplace=inplace).undo()
    assert list(model.named_modules()) == list(before.items())


class Stubborn(dict):
    """A parent's table that lets one key alone."""

    def __setitem__(self, key, value):
        if key == "2" and isinstance(value, Twin):
            raise KeyboardInterrupt
        super().__setitem__(key, value)


def test_an_exception_midway_restores():
    model = small()
    model[0].register_forward_hook(lambda *_: None)
    before, made = dict(model.named_modules()), []
    vars(model)["_modules"] = Stubborn(model._modules)
    with pytest.raises(KeyboardInterrupt):
        replace(
            model, {"0": lambda o: made.append(Twin(o)) or made[0], "2": Twin}, inplace=True, hooks="keep"
        )
    assert list(model.named_modules()) == list(before.items())
    assert len(model[0]._forward_hooks) == 1
    assert not made[0]._forward_hooks


def test_one_new_module_has_one_place():
    one = nn.Conv2d(3, 4, 3)
    with pytest.raises(RewriteError, match="already in the model: make a module for each place"):
        replace(small(), {"0": one, "2": one})
    model = small()
    with pytest.raises(RewriteError, match="is already in the model"):
        replace(model, {"0": model[2]}, inplace=True)


def test_one_inside_another_is_refused():
    with pytest.raises(RewriteError, match=r"'0.0' lies in '0', which is replaced too"):
        replace(nn.Sequential(small()), {"0": nn.Identity(), "0.0": Twin})


def test_a_copy_is_not_tied_to_the_model():
    model = small()
    with pytest.raises(RewriteError, match=r"has parameters of the model, .* give a function that makes it"):
        replace(model, {"0": Twin(model[0])})


def test_undo_goes_backwards():
    model = small()
    first = replace(model, {"0": Twin}, inplace=True)
    second = replace(model, {"0": lambda old: nn.Identity()}, inplace=True)
    with pytest.raises(RewriteError, match="'0' cannot be put back: another module has replaced it"):
        first.undo()
    second.undo()
    first.undo()
    assert type(model[0]) is nn.Conv2d


def test_nothing_inside_a_script_is_replaced():
    model = nn.Sequential(torch.jit.trace(small(), images(8)))
    with pytest.raises(RewriteError, match=r"'0.0' lies in a ScriptModule"):
        replace(model, {"0.0": nn.Identity()}, inplace=True)


def test_a_cyclic_model_is_refused():
    model = small()
    model[0].parent = model
    with pytest.raises(ModelError, match="the module tree has a cycle"):
        replace(model, {"0": Twin})


def test_parents_read_what_they_read_before():
    model = small()
    old, twin = model[0], replace(model, {"0": Twin}, inplace=True).model[0]
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(twin, name) == getattr(old, name)
    for name in ("transposed", "output_padding", "padding_mode"):
        assert getattr(twin, name) == getattr(old, name)
    assert twin.weight is old.weight
    assert twin.bias is old.bias
    assert model.state_dict()._metadata["0"] == {"version": 1}
