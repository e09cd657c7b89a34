"""The same model on other paths: outputs, state, gradients, copies; or as it was where nothing gains."""

import copy
import io
import json
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archcost
from archcost.accelerating import accelerate as module
from archcost.accelerating import contest, finals
from archcost.accelerating.block import Block
from archcost.accelerating.contest import Took, candidates
from archcost.errors import ArchcostError, InputError, ModelError, SpecError
from archcost.latency.store.store import Store
from archcost.latency.timing.clock import Timing
from archcost.nn.absorbed import Absorbed
from archcost.nn.path_conv import PathConv

X = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Folds, a residual, a pool, a shared activation, a convolution without normalisation, a classifier."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act1 = (
            nn.Conv2d(4, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.act3 = nn.Conv2d(8, 6, 3, stride=2), nn.ReLU6()
        self.out = nn.Linear(6 * 2 * 2, 5)

    def forward(self, x):
        x = self.act1(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)))
        x = F.max_pool2d(self.act3(self.conv3(x)), 2)
        return self.out(x.flatten(1))


def small():
    torch.manual_seed(1)
    model = Small().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.running_var, part.weight, part.bias):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model


def timing(name, seconds):
    return Timing(name, (seconds,) * 5, (seconds,) * 5, tuple(range(5)), 1, 0, False, 0)


@pytest.fixture
def told(monkeypatch):
    """No clock: paths take what the test says, and candidates beat the original or do not."""
    said = {"winograd-2": 1.0, "native": 2.0}
    wins = {"all": True}

    def measured(stage, network, asked, deadline, step):
        found = {}
        for layer in network.layers:
            paths = [path.name for path in candidates(layer.task, asked.paths or list(said))[0]]
            names = [name for name in paths if name in said]
            found[layer.name] = {
                (name, label): Took(said[name], 0.0, 9) for name in names for label in (0, 1)
            }
        return found

    def compared(final, names, deadline):
        return {
            name or "original": timing(name or "original", 1.0 if name and wins["all"] else 2.0)
            for name in names
        }

    monkeypatch.setattr(module, "measured", measured)
    monkeypatch.setattr(finals, "_compared", compared)
    return said, wins


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_state(a, b):
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_outputs_are_the_same_and_the_model_is_not_touched(told):
    model = small()
    before, parts = state(model), dict(model.named_modules())
    fast = archcost.accelerate(model, X)
    assert isinstance(fast, Small)
    assert fast is not model
    assert isinstance(fast.conv1, PathConv)
    assert isinstance(fast.bn1, Absorbed)
    assert isinstance(fast.act1, nn.Identity)
    with torch.no_grad():
        assert (fast(X) - model(X)).abs().max() < 1e-5
    assert dict(model.named_modules()) == parts
    assert_same_state(state(model), before)
    assert_same_state(state(fast), before)
    assert not hasattr(model, "acceleration")
    assert not any(part.training for part in fast.modules())


def test_what_is_folded_is_said(told):
    report = archcost.accelerate(small(), X).acceleration
    lines = {line.name: line for line in report.layers}
    assert lines["conv1"].takes_over == ("bn1", "act1")
    assert lines["conv2"].takes_over == ("bn2",)
    assert lines["conv3"].takes_over == ("act3",) or lines["conv3"].path == "native"
    assert lines["conv1"].path == "winograd-2"
    assert lines["conv1"].error < 1e-5
    assert lines["conv1"].spec.bias
    assert lines["conv1"].multiplications < lines["conv1"].spec.macs
    assert report.changed
    assert report.ratio.median == 2.0
    assert report.error < 1e-5
    assert report.reference == "original in float64"
    assert report.batch == 2


def test_a_report_is_a_table_a_frame_and_a_record(told):
    report = archcost.accelerate(small(), X).acceleration
    threads = f"{report.threads} thread{'s' * (report.threads != 1)}"
    assert report.to_text().startswith(f"Small  {threads}, float32, batch 2\n2.00x (")
    assert "winograd-2" in report.to_text()
    assert list(report.to_pandas()["name"]) == ["conv1", "conv2", "conv3"]
    assert json.loads(report.to_json())["layers"][0]["path"] == "winograd-2"


def test_without_folding_the_normalisation_stays(told):
    model = small()
    fast = archcost.accelerate(model, X, fold=False)
    assert isinstance(fast.bn1, nn.BatchNorm2d)
    with torch.no_grad():
        assert (fast(X) - model(X)).abs().max() < 1e-5


def test_in_place_it_is_the_model_itself(told):
    model = small()
    with torch.no_grad():
        expected = model(X)
    assert archcost.accelerate(model, X, inplace=True) is model
    assert isinstance(model.conv1, PathConv)
    with torch.no_grad():
        assert (model(X) - expected).abs().max() < 1e-5


def test_state_loads_both_ways_and_takes_effect(told):
    model, fast = small(), archcost.accelerate(small(), X)
    torch.manual_seed(5)
    other = Small().eval()
    fast.load_state_dict(other.state_dict())
    model.load_state_dict(fast.state_dict())
    with torch.no_grad():
        assert (fast(X) - other(X)).abs().max() < 1e-5
        assert torch.equal(model(X), other(X))
        fast.bn1.running_mean.add_(1.0)
        other.bn1.running_mean.add_(1.0)
        assert (fast(X) - other(X)).abs().max() < 1e-5


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_it_can_be_pickled_and_copied(told, protocol):
    fast = archcost.accelerate(small(), X)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    twins = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast, protocol))]
    twins.append(torch.load(file, weights_only=False))
    with torch.no_grad():
        for twin in twins:
            assert torch.equal(twin(X), fast(X))
            assert isinstance(twin.conv1, PathConv)
            assert str(twin.acceleration) == str(fast.acceleration)


class ConvNormRelu(nn.Module):
    """As torchvision's GoogLeNet and Inception have it: the clamp is a function."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.width = 8

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


def test_a_clamp_in_the_code_of_a_block_is_taken_over_with_the_block(told):
    torch.manual_seed(0)
    model = nn.Sequential(ConvNormRelu(), nn.Conv2d(8, 4, 1)).eval()
    fast = archcost.accelerate(model, X)
    assert isinstance(fast[0], Block)
    assert fast[0].conv.epilogue.clamp == (0, float("inf"))
    assert fast[0].width == 8
    assert list(fast.state_dict()) == list(model.state_dict())
    twin = pickle.loads(pickle.dumps(fast))
    with torch.no_grad():
        for one in (fast, twin):
            assert (one(X) - model(X)).abs().max() < 1e-5
    for one in (model, fast, twin):
        one.train()(X).square().sum().backward()
    for one in (fast, twin):
        assert torch.allclose(one[0].conv.weight.grad, model[0].conv.weight.grad, rtol=1e-4, atol=1e-5)
        assert torch.equal(one[0].bn.running_mean, model[0].bn.running_mean)


def test_it_trains_as_the_original_does(told):
    model, fast = small(), archcost.accelerate(small(), X)
    for train in (False, True):
        for one in (model, fast):
            one.train(train)
            one.zero_grad()
            one(X).square().sum().backward()
        gradients = [{name: p.grad for name, p in one.named_parameters()} for one in (model, fast)]
        for name, expected in gradients[0].items():
            assert torch.allclose(gradients[1][name], expected, rtol=1e-4, atol=1e-5), name
    assert_same_state(state(model), state(fast))


def test_other_sizes_batches_and_dtypes_still_work(told):
    model, fast = small(), archcost.accelerate(small(), X)
    model.out = fast.out = nn.Identity()
    with torch.no_grad():
        for other in (X[:1], torch.randn(1, 4, 16, 20)):
            assert (fast(other) - model(other)).abs().max() < 1e-5
        assert (fast.double()(X.double()) - model.double()(X.double())).abs().max() < 1e-10


def test_a_shared_layer_is_replaced_at_all_its_places(told):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1)
    model = nn.Sequential(conv, nn.Tanh(), conv, nn.Conv2d(4, 4, 3)).eval()
    fast = archcost.accelerate(model, X)
    assert fast[0] is fast[2]
    assert isinstance(fast[0], PathConv)
    with torch.no_grad():
        assert (fast(X) - model(X)).abs().max() < 1e-5


def test_a_hook_sees_what_it_saw(told):
    model = small()
    seen = []
    model.conv1.register_forward_hook(lambda _, __, y: seen.append(y.detach().clone()))
    fast = archcost.accelerate(model, X)
    assert isinstance(fast.bn1, nn.BatchNorm2d), "folded, the hook would see another tensor"
    seen.clear()
    with torch.no_grad():
        model(X), fast(X)
    assert (seen[0] - seen[1]).abs().max() < 1e-5


def test_layers_stay_where_the_gain_is_small(told):
    said, _ = told
    said["winograd-2"] = 1.99
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Conv1d(8, 4, 3)).eval()
    fast = archcost.accelerate(model, X[:, :, 0])
    assert type(fast[0]) is nn.Conv1d
    assert not fast.acceleration.changed
    assert "left as it was" in fast.acceleration.to_text()


def test_the_model_stays_where_no_candidate_is_faster(told):
    _, wins = told
    wins["all"] = False
    model = small()
    fast = archcost.accelerate(model, X)
    assert type(fast.conv1) is nn.Conv2d
    assert type(fast.act1) is nn.ReLU
    assert not fast.acceleration.changed
    with torch.no_grad():
        assert torch.equal(fast(X), model(X))


def test_a_layer_that_is_not_exact_enough_takes_the_next_path(told):
    said, _ = told
    said |= {"winograd-6": 0.5}
    model = small()
    errors = {}
    for tolerance in (1e-3, 1e-6):
        report = archcost.accelerate(model, X, tolerance=tolerance).acceleration
        errors[tolerance] = {line.path for line in report.layers if line.name in ("conv1", "conv2")}
        assert all(line.error is None or line.error <= tolerance for line in report.layers)
    assert errors[1e-3] == {"winograd-6"}
    assert "winograd-6" not in errors[1e-6]


def test_the_whole_model_decides_how_exact_a_layer_has_to_be(told):
    """Its output is a small difference of large numbers, so that a layer's error weighs a thousand times."""
    said, _ = told
    said |= {"winograd-6": 0.5}

    class Difference(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
            self.two.load_state_dict({key: value * 1.001 for key, value in self.one.state_dict().items()})

        def forward(self, x):
            return self.one(x) - self.two(x.flip(0).flip(0) * 1)

    torch.manual_seed(0)
    model = Difference().eval()
    report = archcost.accelerate(model, X, tolerance=2e-4).acceleration
    assert report.error is None or report.error <= max(2e-4, 2 * report.original_error)
    assert not any(line.path == "winograd-6" for line in report.layers)


@pytest.mark.parametrize("inplace", [False, True])
def test_an_exception_leaves_the_model_as_it_was(told, monkeypatch, inplace):
    def interrupted(final, names, deadline):
        final.stage.show(next(name for name in names if name))
        raise KeyboardInterrupt

    monkeypatch.setattr(finals, "_compared", interrupted)
    model = small()
    before, parts = state(model), dict(model.named_modules())
    with pytest.raises(KeyboardInterrupt):
        archcost.accelerate(model, X, inplace=inplace)
    assert dict(model.named_modules()) == parts
    assert_same_state(state(model), before)
    assert not hasattr(model, "acceleration")


def test_models_that_have_nothing_to_replace_say_so():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    report = archcost.accelerate(linear, torch.randn(1, 4)).acceleration
    assert report.reason == "it has no convolution"
    single = nn.Sequential(nn.Conv2d(4, 2, 3)).eval()
    report = archcost.accelerate(single, X[0]).acceleration
    assert not report.changed
    assert "its input is not a batch" in report.to_text()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"tolerance": 0}, InputError, "tolerance must be a number above 0"),
        ({"seconds": -1}, InputError, "seconds must be a number above 0"),
        ({"paths": ["winnograd-2"]}, SpecError, "did you mean winograd-2"),
        ({"threads": 0}, InputError, "threads must be a whole number"),
    ],
)
def test_arguments_are_looked_at(options, error, said):
    with pytest.raises(error, match=said):
        archcost.accelerate(small(), X, **options)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ModelError, match=r"call model\.eval\(\) first"):
        archcost.accelerate(small().train(), X)
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module, got a Tensor"):
        archcost.accelerate(X, X)


def test_inputs_that_do_not_fit_are_named():
    with pytest.raises(ArchcostError, match="conv1"):
        archcost.accelerate(small(), torch.randn(1, 3, 12, 12))


def test_what_is_far_behind_in_its_first_call_is_kept_and_need_not_be_measured_again(monkeypatch):
    monkeypatch.setattr(contest, "_FAR", 0.0)
    monkeypatch.setattr(contest, "_LOOK_S", 0.0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)).eval()
    with Store(":memory:") as store:
        archcost.accelerate(model, torch.randn(1, 8, 20, 20), seconds=1.0, threads=1, store=store)
        kept = list(store.all())
    assert 1 in {one.samples for one in kept if "native," not in one.key.path}


def test_what_some_images_say_of_a_batch_is_not_kept_as_measured(monkeypatch):
    monkeypatch.setattr(contest, "_LOOK_S", 0.0)
    model, x = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)).eval(), torch.randn(4, 8, 20, 20)
    with Store(":memory:") as store:
        fast = archcost.accelerate(model, x, seconds=1.0, threads=1, store=store)
        assert not len(store)
        archcost.accelerate(model, x[:1], seconds=1.0, threads=1, store=store)
        assert len(store)
    assert fast(x).shape == (4, 16, 20, 20)


def test_for_real_with_a_store():
    """The clock itself, and all that it measured found again."""
    model, threads = small(), torch.get_num_threads()
    with Store(":memory:") as store:
        first = archcost.accelerate(model, X, seconds=5.0, threads=1, store=store)
        count = len(store)
        assert count > 0
        again = archcost.accelerate(model, X, seconds=5.0, threads=1, store=store)
        assert len(store) == count
    assert torch.get_num_threads() == threads
    with torch.no_grad():
        for one in (first, again):
            assert (one(X) - model(X)).abs().max() < 1e-5
            assert one.acceleration.threads == 1
