"""accelerate: a program where it is faster and exact, the model as it was elsewhere; what is said of it."""

import json
import re

import pytest
import torch
from torch import nn

from archcost import kernels
from archcost.engine import accelerate as module
from archcost.engine import choosing, comparing
from archcost.engine.accelerate import accelerate
from archcost.engine.loading import load_accelerated
from archcost.engine.module import Engine
from archcost.engine.recipe import Recipe
from archcost.errors import ArchcostError, InputError, ModelError, SpecError
from archcost.latency.store.fingerprint import fingerprint
from archcost.latency.store.store import StoreError
from archcost.latency.timing.clock import Timing
from archcost.report.saving import load_result
from helpers.engine import Net, X, close, net

needs_kernels = pytest.mark.skipif(kernels.isa() is None, reason="no compiled kernels")


def timing(name, seconds, good=5):
    return Timing(name, (seconds,) * good, (seconds,) * good, tuple(range(good)), 1, 25 - good, False, 0)


@pytest.fixture
def told(monkeypatch):
    """No clock: the program takes what the test says, the original 2 ms."""
    said = {"seconds": 1e-3, "good": 5, "given": []}

    def in_turns(model, fast, asked, deadline):
        said["given"].append(deadline.left)
        return {
            "original": timing("original", 2e-3, said["good"]),
            "accelerated": timing("accelerated", said["seconds"], said["good"]),
        }

    def own(model, asked, seconds, original_ms):
        return {name: original_ms / 10 for name, _ in model.named_modules()}

    monkeypatch.setattr(comparing, "_in_turns", in_turns)
    monkeypatch.setattr(comparing, "_own_ms", own)
    return said


@needs_kernels
def test_the_model_is_not_touched_and_its_outputs_are_the_same(told):
    model = net()
    attributes, state = dict(vars(model)), {key: one.clone() for key, one in model.state_dict().items()}
    fast = accelerate(model, X)
    with torch.inference_mode():
        assert fast.why_not(X) is None
        assert close(fast(X), model(X))
    assert vars(model) == attributes
    assert type(model) is Net
    assert all(torch.equal(one, state[key]) for key, one in model.state_dict().items())
    assert not any(part.training for part in fast.modules())


@needs_kernels
def test_rows_add_up_to_the_whole(told):
    found = accelerate(net(), X).acceleration
    assert found.changed
    assert found.ratio.median == 2.0
    assert sum(step.ms for step in found.steps) == pytest.approx(found.accelerated_ms)
    assert sum(step.as_is_ms or 0 for step in found.steps) == pytest.approx(found.original_ms)
    assert sum(step.share for step in found.steps) == pytest.approx(100)
    first = found.steps[1] if found.steps[0].modules == () else found.steps[0]
    assert first.name.startswith("conv1 + bn1")
    assert first.operator == "convolution 3x3 + ReLU"
    assert first.shape == (2, 16, 12, 12)
    assert found.error < 1e-5
    assert found.reference == "original in float64"
    assert found.batch == 2
    assert found.weights_bytes > 4 * 16 * 4 * 9
    assert found.arena_bytes >= 4 * 2 * 16 * 12 * 12


@needs_kernels
def test_a_report_in_every_format(told, tmp_path):
    found = accelerate(net(), X, threads=1).acceleration
    assert found.to_text().startswith(
        "Net  1 thread, float32, batch 2\n2.00x as fast: 2.00 ms before, 1.00 ms now ("
    )
    assert "of working memory for each thread that calls it" in found.to_text()
    assert "call it under torch.inference_mode() or torch.no_grad()" in found.to_text()
    assert list(found.to_pandas()["name"])[-1] == "(the rest)"
    record = json.loads(found.to_json())
    assert record["schema"] == "archcost.acceleration/2"
    assert record["steps"][0].keys() >= {"modules", "operator", "kernel", "shape", "ms", "as_is_ms"}
    found.save(tmp_path / "found")
    assert load_result(tmp_path / "found") == found


@needs_kernels
def test_calls_of_pytorch_are_named_with_their_share(told):
    class Rolled(nn.Conv2d):
        def forward(self, x):
            return torch.cumsum(super().forward(x), 2)

    found = accelerate(Rolled(4, 8, 3).eval(), X).acceleration
    assert [step.operator for step in found.steps if step.kernel == "PyTorch"] == ["cumsum"]
    assert found.pytorch_share > 0
    assert "of the time in calls of PyTorch: cumsum" in found.to_text()


@needs_kernels
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"seconds": 1.99e-3}, "the program gains no more than the noise"),
        ({"seconds": 4e-3}, "the program gains no more than the noise"),
        ({"good": 4, "seconds": 1.8e-3}, "fewer than 5 pairs of passes were timed"),
    ],
)
def test_the_model_comes_back_as_it_was_where_nothing_is_gained(told, said, reason):
    told |= said
    model = net()
    fast = accelerate(model, X)
    assert not fast.acceleration.changed
    assert reason in fast.acceleration.to_text()
    with torch.no_grad():
        assert reason in fast.why_not(X)
        assert torch.equal(fast(X), model(X))


@needs_kernels
@pytest.mark.parametrize(("good", "seconds"), [(2, 1.2e-3), (3, 1.5e-3)])
def test_few_pairs_are_enough_for_a_clear_gain(told, good, seconds):
    told |= {"good": good, "seconds": seconds}
    assert accelerate(net(), X).acceleration.changed


@needs_kernels
@pytest.mark.parametrize(("passes", "tried"), [(0.0, 4), (1e9, 1)])
def test_by_default_a_pass_that_takes_seconds_gets_the_time_that_pairs_need(told, monkeypatch, passes, tried):
    told |= {"good": 2, "seconds": 1.4e-3}
    monkeypatch.setattr(comparing, "_PASSES", passes)
    accelerate(net(), X)
    assert len(told["given"]) == tried
    assert told["given"][-1] == pytest.approx(24 * 0.7, abs=1)


class Random(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + torch.rand(1)


class Counts(nn.Conv2d):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Decides(nn.Conv2d):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else -y


class Moving(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x):
        self.mean.add_(x.mean())
        return self.conv(x)


def hooked():
    model = net()
    model.conv1.register_forward_hook(lambda *_: None)
    return model


@needs_kernels
@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: Random(4, 8, 3), "draws random numbers"),
        (lambda: Counts(4, 8, 3), "its forward changes its attributes: the model: calls has changed"),
        (lambda: Decides(4, 8, 3), "values decide what is computed"),
        (Moving, "changes mean"),
        (hooked, "conv1 has hooks"),
        (lambda: nn.Conv2d(4, 8, 3).double(), "convolution computes in torch.float64"),
    ],
)
def test_what_a_program_cannot_do_is_left_as_it_was(told, model, reason):
    model = model().eval()
    x = X.to(next(model.parameters()).dtype)
    fast = accelerate(model, x)
    assert reason in fast.acceleration.reason
    assert fast(x).shape[1] in (5, 8)
    assert (
        all(not buffer.any() for name, buffer in model.named_buffers() if name == "mean") or fast.mean.any()
    )


def test_without_kernels_the_model_comes_back_with_the_reason(told):
    with kernels.disabled():
        fast = accelerate(net(), X)
    assert "the compiled kernels cannot be used" in fast.acceleration.reason


@needs_kernels
def test_outputs_that_are_off_are_refused(told, monkeypatch):
    fast = accelerate(net(), X, tolerance=1e-12)
    assert fast.acceleration.changed, "no more is asked of it than twice the original's error"
    monkeypatch.setattr(Engine, "run", lambda self, program, given: torch.ones(2, 5))
    assert "its outputs would be off by" in accelerate(net(), X).acceleration.reason


@needs_kernels
def test_variants_that_are_not_exact_enough_are_left_out(told, monkeypatch, tmp_path):
    """Timed by the test: the larger the tile, the faster."""

    def seconds(node, nodes, beat, isa):
        operator = nodes[0].operator
        return 1.0 - 0.1 * max(operator.tile.outputs) if getattr(operator, "tile", None) else 1.0

    monkeypatch.setattr(choosing, "seconds_of", seconds)
    loose, tight = (accelerate(net(), X, tolerance=tolerance) for tolerance in (1e-3, 1e-12))
    assert not loose._archcost_engine.recipe.banned
    assert any(step.kernel.startswith("Winograd F") for step in loose.acceleration.steps)
    recipe = tight._archcost_engine.recipe
    assert recipe.banned or tight.acceleration.error <= 2 * tight.acceleration.original_error
    loose.save(tmp_path / "net.archcost")
    again = load_accelerated(tmp_path / "net.archcost", net())
    assert again._archcost_engine.recipe.times == loose._archcost_engine.recipe.times
    tiles = [
        [str(getattr(step.node.operator, "tile", None)) for step in one._archcost_engine.program.steps]
        for one in (again, loose)
    ]
    assert tiles[0] == tiles[1]


@needs_kernels
def test_an_engine_that_fails_leaves_the_model_as_it_was(told, monkeypatch):
    def fails(*_, **__):
        raise KeyError("a bug")

    monkeypatch.setattr(Recipe, "made", fails)
    fast = accelerate(net(), X)
    assert fast.acceleration.reason == "no program could be made of it: KeyError: 'a bug'"


@needs_kernels
def test_an_accelerated_model_can_be_accelerated_again(told):
    fast = accelerate(accelerate(net(), X), X[:1])
    assert type(fast).__mro__.count(Net) == 1
    with torch.no_grad():
        assert fast.why_not(X[:1]) is None
        assert fast.why_not(X) is not None


# Arguments


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"tolerance": 0}, InputError, "tolerance must be a number above 0"),
        ({"seconds": -1}, InputError, "seconds must be a number above 0"),
        ({"threads": 0}, InputError, "threads must be a whole number"),
        ({"weights": "w.pt"}, SpecError, "weights goes with a SPEC"),
    ],
)
def test_arguments_are_looked_at(options, error, said):
    with pytest.raises(error, match=said):
        accelerate(net(), X, **options)


def test_models_that_cannot_be_accelerated_say_what_to_do():
    with pytest.raises(ModelError, match=r"call model\.eval\(\) first"):
        accelerate(net().train(), X)
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module, got a Tensor"):
        accelerate(X, X)
    with pytest.raises(ArchcostError, match="conv1"):
        accelerate(net(), torch.randn(1, 3, 12, 12))
    with pytest.raises(ModelError, match=r"accelerate model\._orig_mod"):
        accelerate(torch.compile(net()), X)


@needs_kernels
def test_inputs_are_inferred_and_said(told):
    fast = accelerate(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval())
    assert "input size 1x3x224x224 assumed: the first layer, 0 (Conv2d)" in fast.acceleration.notes[0]
    fast = accelerate(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), input_size=(2, 3, 16, 16))
    with torch.no_grad():
        assert fast.why_not(torch.rand(2, 3, 16, 16)) is None


@needs_kernels
def test_for_real_with_threads_as_they_were():
    model, threads = net(), torch.get_num_threads()
    fast = accelerate(model, X, seconds=2.0, threads=1, store=False)
    assert torch.get_num_threads() == threads
    assert fast.acceleration.threads == 1
    assert fast.acceleration.original_ms > 0
    with torch.no_grad():
        assert close(fast(X), model(X))


@needs_kernels
def test_variants_are_timed_once_for_all_models_and_read_from_the_store_then(told, tmp_path):
    path = tmp_path / "store.sqlite"
    first = accelerate(net(), X, store=path).acceleration
    assert first.variants_timed > 1
    assert first.variants_read == 0
    assert f"{first.variants_timed} variants of layers timed, 0 read from the store" in str(first)
    again = accelerate(nn.Sequential(net(), nn.ReLU()).eval(), X, store=path).acceleration
    assert (again.variants_timed, again.variants_read) == (0, first.variants_timed)
    anew = accelerate(net(), X, store=False).acceleration
    assert (anew.variants_timed, anew.variants_read) == (first.variants_timed, 0)


@needs_kernels
def test_a_store_that_cannot_be_used_is_said(told, tmp_path):
    with pytest.raises(StoreError, match="cannot be used"):
        accelerate(net(), X, store=tmp_path)


# Memory


@needs_kernels
def test_what_a_program_takes_is_known_beforehand_and_kept_to(told):
    found = accelerate(net(), X)
    program, report = found._archcost_engine.program, found.acceleration
    assert program._weights.untyped_storage().nbytes() == program.weights_bytes == report.weights_bytes
    with torch.no_grad():
        found(X)
    assert program._memory().arena.untyped_storage().nbytes() == program.arena_bytes == report.arena_bytes
    kept = accelerate(net(), X, memory=program.bytes).acceleration
    assert kept.weights_bytes + kept.arena_bytes <= program.bytes


@needs_kernels
def test_where_memory_is_short_layers_do_without_transforms(told, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "seconds_of", lambda node, nodes, *more: float("tile=None" in str(nodes)))
    large = accelerate(net(), X, store=False)
    small = accelerate(net(), X, store=False, memory=large._archcost_engine.program.bytes - 1)
    tiles = [
        {getattr(node.operator, "tile", None) for node in one._archcost_engine.program.graph.nodes}
        for one in (large, small)
    ]
    assert tiles[0] > tiles[1] == {None}
    assert small.acceleration.weights_bytes < large.acceleration.weights_bytes
    with torch.no_grad():
        assert close(small(X), net()(X))
    small.save(tmp_path / "net.archcost")
    again = load_accelerated(tmp_path / "net.archcost", net())._archcost_engine.program
    assert again.weights_bytes == small.acceleration.weights_bytes


@needs_kernels
def test_a_program_that_does_not_fit_is_not_begun_and_its_bytes_are_said(told, monkeypatch):
    fast = accelerate(net(), X, memory="1 kB")
    said = r"its program would take .* kB of packed weights and .* kB of working memory, and may take 1.* kB"
    assert re.fullmatch(said, fast.acceleration.reason)
    with torch.no_grad():
        assert torch.equal(fast(X), net()(X))
    monkeypatch.setattr("archcost.engine.recipe.available_bytes", lambda: 1000)
    assert re.fullmatch(said, accelerate(net(), X).acceleration.reason)
    with pytest.raises(InputError, match="memory: cannot read 'much'"):
        accelerate(net(), X, memory="much")


# Files


@needs_kernels
def test_what_was_chosen_is_saved_and_loaded_for_other_weights(told, tmp_path):
    fast = accelerate(net(), X)
    fast.save(tmp_path / "net.archcost")
    other = net()
    other.fc.weight.data.mul_(2)
    again = load_accelerated(tmp_path / "net.archcost", other)
    assert str(again.acceleration) == str(fast.acceleration)
    with torch.inference_mode():
        assert again.why_not(X) is None
        assert close(again(X), other(X))


@needs_kernels
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace(fingerprint().hash, "0"), "was made on another machine"),
        (lambda text: text.replace('"Linear"', '"Conv2d"'), "another model: fc was Conv2d, and is Linear"),
        (lambda text: text.replace("archcost.saved", "another"), "is not a saved result"),
    ],
)
def test_a_file_for_another_machine_or_model_is_refused(told, tmp_path, change, said):
    path = tmp_path / "net.archcost"
    accelerate(net(), X).save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(SpecError, match=said):
        load_accelerated(path, net())
    with pytest.raises(SpecError, match="cannot be read"):
        load_accelerated(tmp_path / "none", net())


def test_a_model_without_a_program_is_not_saved(told, tmp_path):
    with pytest.raises(SpecError, match="this model has no program"):
        accelerate(nn.Identity().eval(), X).save(tmp_path / "net.archcost")


@needs_kernels
def test_outputs_that_are_all_zero_say_nothing_and_the_report_says_so(told):
    model = net()
    nn.init.zeros_(model.fc.weight)
    nn.init.zeros_(model.fc.bias)
    found = accelerate(model, X).acceleration
    said = "its outputs are all zero, with these weights and inputs: the error says nothing"
    assert found.notes.count(said) == 1
    assert found.to_text().startswith(f"Beware: {said}")
    assert not any(model.fc.weight.flatten())  # a model that is given stays as it is


@needs_kernels
def test_weights_of_a_spec_that_begin_as_zero_get_values_so_that_outputs_compare(told):
    torch.manual_seed(0)
    fast = accelerate("torchvision:resnet18", input_size=(1, 3, 32, 32))
    assert str(fast.acceleration).startswith("Beware: random weights: the times are those of trained ones")
    model = net()
    nn.init.zeros_(model.fc.weight)
    (note,) = module._untrained(model)
    assert note.endswith("; fc.weight, zero before training, got some, for outputs to compare")
    assert model.fc.weight.abs().min() > 0
    assert module._untrained(model) == [note.partition(";")[0]]
