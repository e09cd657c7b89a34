"""What is seen of a model that has changed since its program was built."""

import pytest
import torch
from torch import nn

from archcost.engine import places
from archcost.engine.watch import Structure, Weights
from archcost.kernels import loading

pytestmark = pytest.mark.skipif(loading.library() is None, reason="no kernels")


@pytest.fixture(params=["compiled", "python"])
def model(request, monkeypatch):
    """Looked at by compiled code, and where Python or PyTorch keep things elsewhere."""
    if request.param == "python":
        monkeypatch.setattr(places, "tags_work", lambda: False)
        monkeypatch.setattr(places, "tensors_work", lambda: False)
    torch.manual_seed(0)
    conv, fc = nn.Conv2d(8, 40, 3), nn.Linear(40, 40)
    fc.weight = nn.Parameter(torch.randn(40, 80)[:, ::2])  # with gaps
    return nn.Sequential(conv, nn.BatchNorm2d(40), fc).eval()


def weights_of(model):
    return Weights(model, dict(model.state_dict(keep_vars=True)))


def test_the_compiled_way_works_here():
    assert places.tags_work()
    assert places.tensors_work()


def test_what_has_not_changed_holds(model):
    weights, structure = weights_of(model), Structure(model)
    with torch.no_grad():
        model[0](torch.rand(1, 8, 5, 5))
    for name, one in list(model[0]._parameters.items()):
        model[0]._parameters[name] = one  # the same one
    assert weights.hold()
    assert structure.holds()
    assert structure.changed() is None


def swapped(model):
    torch.utils.swap_tensors(model[0].weight, nn.Parameter(torch.zeros(40, 8, 3, 3)))


def shared(model):
    model.share_memory()


CHANGES = {
    "of one element": lambda model: model[0].weight[3, 2, 1, 0].add_(1),
    "data set": lambda model: setattr(model[0].bias, "data", model[0].bias.detach().clone()),
    "part of the same memory": lambda model: setattr(model[0].bias, "data", model[0].bias.detach()[1:]),
    "written through data": lambda model: model[0].weight.data.mul_(2),
    "a half written through data": lambda model: model[0].weight.data[20:].mul_(2),
    "with gaps, through data": lambda model: model[2].weight.data.add_(1),
    "a vector, through numpy": lambda model: model[1].weight.detach().numpy().fill(2),
    "a count, through data": lambda model: model[1].num_batches_tracked.data.add_(1),
    "swapped": swapped,
    "shared": shared,
    "made empty": lambda model: model[0].weight.data.untyped_storage().resize_(0),
    "replaced": lambda model: setattr(model[1], "bias", nn.Parameter(model[1].bias.detach())),
    "removed": lambda model: setattr(model[1], "bias", None),
    "another one": lambda model: model[1].register_buffer("more", torch.zeros(1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_seen(model, change):
    weights = weights_of(model)
    with torch.no_grad():
        CHANGES[change](model)
    assert not weights.hold()
    assert not weights.hold()


def test_weights_of_inference_mode_are_told_by_their_elements(model):
    with torch.inference_mode():
        model.load_state_dict({key: one.clone() for key, one in model.state_dict().items()}, assign=True)
        weights = weights_of(model)
        assert weights.hold()
        model[0].weight.mul_(2)
    assert not weights.hold()


def test_a_model_of_other_tensors_is_told_by_its_modules(model):
    structure = Structure(model)
    model[0].anything = 1
    assert not structure.holds()
    del model[0].anything
    assert structure.holds()
    model.append(nn.ReLU())
    assert not structure.holds()
    assert "added, removed or replaced" in structure.changed()


def test_elements_lie_within_their_tensor():
    whole = torch.zeros(1000)
    for x in (
        whole[3:5],
        whole[1:999],
        whole[::7],
        whole[:0],
        whole.to(torch.uint8)[5:9],
        whole.view(10, 100).T,
    ):
        begin, size = x.data_ptr(), x.element_size()
        last = max((sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True)) + 1) * size, 0)
        for first, count in places._elements(x):
            assert begin <= first < first + count <= begin + last
            assert first // 64 == (first + count - 1) // 64
