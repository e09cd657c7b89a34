"""The witness says yes and no, says which, leaves everything as it was, and says what it cannot do."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import archcost
from archcost.analysis.receptive import receptive_field, verify_field, verify_fields
from archcost.errors import ModelError, SpecError
from helpers.calls import Calls

IMAGE = torch.rand(1, 2, 24, 20, generator=torch.Generator().manual_seed(1))


def conv(kernel=3, **options):
    return nn.Conv2d(2, 2, kernel, **options)


def chain():
    return nn.Sequential(conv(padding=1), nn.MaxPool2d(2), conv(padding=1), nn.Sigmoid()).eval()


def agrees(model, inputs=IMAGE, layer="", position=None, **options):
    analysis = archcost.analyze(model, inputs)
    field = analysis.fields.at(layer, position, **options)
    witness = verify_field(analysis, field, inputs, options.get("call"))
    assert witness.agrees, str(witness)
    return field


# Yes and no


def moved(field, axis, low, high):
    window = list(field.window)
    window[axis] = (window[axis][0] + low, window[axis][1] + high)
    return replace(field, window=tuple(window))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("low", "high"), [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1)])
def test_a_window_that_is_wrong_by_one_pixel_is_found(axis, low, high):
    model = chain()
    analysis = archcost.analyze(model, IMAGE)
    field = analysis.fields.at("2", (5, 4))
    assert verify_field(analysis, field).agrees
    witness = verify_field(analysis, moved(field, axis, low, high))
    assert not witness.agrees
    wrong = {run.axis for run in witness.runs if not run.agrees}
    assert wrong == {axis}
    assert str(witness).startswith(f"the model DISAGREES: axis {axis}: NaN at ")


def test_it_says_what_was_done():
    model = chain()
    analysis = archcost.analyze(model, IMAGE)
    witness = verify_field(analysis, analysis.fields.at("2", (5, 4)))
    first, last, outside = witness.runs[:3]
    assert str(first) == "axis 0: NaN at 7 reached the position; it must"
    assert str(last) == "axis 0: NaN at 14 reached the position; it must"
    assert str(outside) == "axis 0: NaN at 0 to 6 and 15 to 23 did not reach the position; it must not"
    assert str(witness) == "the model agrees: 6 runs with NaN inside or outside the window"


def test_a_model_known_by_name_is_built_for_the_witness():
    given = {"layer": "features.3", "position": (0, 5), "input_size": (1, 3, 64, 64), "verify": True}
    field = receptive_field("torchvision:squeezenet1_1", **given)
    # 3 of stride 2, a pooling of 3 with stride 2, and 3 padded by 1: 15 pixels from 4 * 5 - 4 on.
    assert field.window == ((0, 10), (16, 30))


def test_a_disagreement_is_an_error_when_the_witness_was_asked_for(monkeypatch):
    from archcost.fields import fields

    right = fields.read_field
    monkeypatch.setattr(fields, "read_field", lambda *args: moved(right(*args), 0, 1, 0))
    with pytest.raises(ModelError, match=r"Sequential, 2: the model DISAGREES: axis 0: NaN at 0 to 7 and "):
        receptive_field(chain(), IMAGE, "2", (5, 4), verify=True)


def test_taps_whose_weight_is_zero_are_not_read():
    """Interpolation multiplies its neighbours by zero, and zero times NaN is NaN."""
    field = agrees(nn.Upsample(scale_factor=3, mode="bilinear"), position=(16, 16))
    assert field.window == ((5, 5), (5, 5))


# Calls, names and outputs


def test_of_several_calls_the_union_is_witnessed_and_each_by_itself():
    model = Calls(lambda self, x: self.lin(self.lin(self.lin(x))), lin=conv(padding=1))
    analysis = archcost.analyze(model, IMAGE)
    union = analysis.fields.at("lin", (9, 9))
    assert union.size == (7, 7)
    assert len(union.calls) == 3
    assert verify_field(analysis, union).agrees
    for call, size in enumerate((3, 5, 7)):
        alone = analysis.fields.at("lin", (9, 9), call=call)
        assert alone.size == (size, size)
        assert verify_field(analysis, alone, call=call).agrees
        assert not verify_field(analysis, moved(alone, 0, 0, 1), call=call).agrees
        assert verify_field(analysis, alone).agrees  # found by its window


def test_calls_on_maps_of_several_sizes_have_the_largest_field():
    model = Calls(lambda self, x: self.lin(F.max_pool2d(self.lin(x), 2)), lin=conv(padding=1))
    assert agrees(model, layer="lin").size == (8, 8)


def test_calls_of_different_channels_are_united_and_all_watched():
    model = Calls(
        lambda self, x: self.act(self.b(self.act(self.a(x)))),
        a=nn.Conv2d(2, 4, 3, padding=1),
        b=nn.Conv2d(4, 3, 5, padding=2),
        act=nn.Sigmoid(),
    )
    field = agrees(model, layer="act", position=(9, 9))
    assert field.size == (7, 7)
    assert [one.size for one in field.calls] == [(3, 3), (7, 7)]
    analysis = archcost.analyze(model, IMAGE)
    assert not verify_field(analysis, moved(field, 0, 1, 0)).agrees


def test_a_union_is_wider_than_each_of_its_calls():
    """On maps of two channels and of one, three pixels apart."""
    model = Calls(lambda self, x: self.act(x[..., :-3])[:, :1] + self.act(x[:, :1, :, 3:]), act=nn.Sigmoid())
    field = agrees(model, layer="act")
    assert field.size == (1, 4)
    assert [one.size for one in field.calls] == [(1, 1), (1, 1)]


def test_a_shared_module_is_watched_in_the_call_that_was_meant():
    shared = conv(padding=1)
    model = Calls(lambda self, x: self.b(self.a(x)), a=nn.Sequential(shared), b=nn.Sequential(shared))
    assert agrees(model, layer="a.0").size == (3, 3)
    assert agrees(model, layer="b.0").size == (5, 5)


def test_a_model_that_calls_itself_is_watched_in_the_call_that_was_meant():
    def forward(self, x, again=2):
        return self.lin(self(x, again - 1) if again else x)

    model = Calls(forward, lin=conv(padding=1))
    for call, size in enumerate((7, 5, 3)):
        assert agrees(model, layer="", position=(9, 9), call=call).size == (size, size)


def test_among_several_outputs_the_first_map_is_watched():
    model = Calls(lambda self, x: (x.mean((2, 3)), {"map": self.lin(x)}), lin=conv())
    assert agrees(model).size == (3, 3)


def test_each_of_several_inputs_is_witnessed():
    model = Calls(lambda self, x, y: self.one(x) + self.two(y), one=conv(3), two=conv(5, padding=1))
    inputs = (IMAGE, IMAGE.flip(-1))
    assert agrees(model, inputs, of=0).size == (3, 3)
    assert agrees(model, inputs, of=1).size == (5, 5)


def test_one_tensor_given_twice_is_one_input():
    model = Calls(lambda self, x, y: self.one(x) + self.two(y), one=conv(3), two=conv(5, padding=1))
    assert agrees(model, (IMAGE, IMAGE)).size == (5, 5)
    analysis = archcost.analyze(model, (IMAGE, IMAGE))
    assert verify_field(analysis, analysis.fields[""]).agrees  # on tensors made for it


@pytest.mark.parametrize("seed", range(6))
def test_a_map_inside_a_forward_is_found_named_and_witnessed(seed):
    def forward(self, x):
        x = F.conv2d(self.lin(x), self.lin.weight)
        return F.max_pool2d(x.relu(), 2, 2).flatten(1)

    torch.manual_seed(seed)
    model = Calls(forward, lin=conv(5))
    analysis = archcost.analyze(model, IMAGE)
    field = analysis.fields.network
    assert field.layer == "the model (max_pool2d_with_indices)"
    assert (field.size, field.stride) == ((10, 10), (2, 2))
    one = receptive_field(analysis, position=(0, 1), verify=True)
    assert one.window == ((0, 9), (2, 11))
    assert not verify_field(analysis, moved(one, 0, 0, 1)).agrees
    assert not verify_field(analysis, moved(one, 0, 0, -1)).agrees


def test_a_forward_that_changes_nothing_leaves_the_map_to_its_module():
    model = Calls(lambda self, x: self.lin(x).relu().mean((2, 3)), lin=conv(5))
    assert archcost.analyze(model, IMAGE).fields.network.layer == "lin"


def test_padding_before_the_first_window_does_not_make_channels_spatial():
    model = Calls(lambda self, x: self.lin(F.pad(x, (2, 0))), lin=nn.Conv1d(4, 4, 3))
    field = agrees(model, torch.rand(2, 4, 12), position=0)
    assert field.input_size == (12,)
    assert (field.window, field.unclipped, field.padding) == (((0, 0),), ((-2, 0),), (2,))


def test_an_image_copied_into_a_larger_one_has_no_spatial_channels():
    """As detection models batch their images; these have no batch dimension."""

    def forward(self, images):
        batch = images[0].new_zeros((1, 2, 32, 32))
        batch[0, :, :24, :20].copy_(images[0])
        return self.lin(batch)

    field = agrees(Calls(forward, lin=conv(padding=1)), ([IMAGE[0]],), position=(23, 5))
    assert field.input_size == (24, 20)
    assert field.window == ((22, 23), (4, 6))


def test_state_that_a_run_leaves_behind_does_not_reach_the_next_one():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.seen = conv(padding=1), []
            self.register_buffer("mean", torch.zeros(1, 2, 1, 1))

        def forward(self, x):
            out = self.lin(x) + self.mean + sum(self.seen)
            self.mean += x.mean()
            self.seen.append(x.mean())
            return out

    assert agrees(Remembers(), position=(9, 9)).size == (3, 3)


def test_a_model_that_catches_everything_is_stopped_all_the_same():
    def forward(self, x):
        try:
            return self.two(self.one(x))
        except Exception:
            return x

    model = Calls(forward, one=conv(padding=1), two=conv(padding=1))
    assert agrees(model, layer="one").size == (3, 3)


# Left as it was


def state(model):
    """All that can be seen of a model, and of the world it runs in."""
    world = (
        torch.backends.mha.get_fastpath_enabled(),
        torch._C._get_mkldnn_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_rng_state().tolist(),
    )
    modules = [
        (name, id(m), m.training, dict(m._forward_hooks), dict(m._forward_pre_hooks), sorted(vars(m)))
        for name, m in model.named_modules()
    ]
    tensors = [(n, id(t), t.dtype, t.requires_grad, t.grad) for n, t in model.named_parameters()]
    return world, modules, tensors


@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_world_are_left_as_they_were(training):
    model = nn.Sequential(conv(padding=1), nn.BatchNorm2d(2), nn.Dropout(0.5), conv(2)).train(training)
    model[3].weight.requires_grad_(False)
    heard = []
    model[0].register_forward_hook(lambda *_: heard.append("after"))
    analysis = archcost.analyze(model, IMAGE)
    before, values, given = state(model), copy.deepcopy(model.state_dict()), IMAGE.clone()
    with torch.autocast("cpu"):
        verify_field(analysis, analysis.fields["0"], IMAGE)
    assert state(model) == before
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert torch.equal(given, IMAGE)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, KeyError])
@pytest.mark.parametrize("fast", [True, False])
def test_the_world_is_left_as_it_was_when_the_model_fails(error, fast):
    def forward(self, x):
        if self.fails:
            torch.set_default_dtype(torch.float64)
            raise error("on purpose")
        return self.lin(x)

    model = Calls(forward, lin=conv())
    model.fails = False
    analysis = archcost.analyze(model, IMAGE)
    field = analysis.fields[""]
    model.fails = True
    try:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch._C._set_mkldnn_enabled(fast)
        before = state(model)
        with pytest.raises(
            KeyboardInterrupt if error is KeyboardInterrupt else ModelError, match="on purpose"
        ):
            verify_field(analysis, field)
        assert state(model) == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
        torch._C._set_mkldnn_enabled(True)


# What cannot be witnessed


def failing(model, inputs=IMAGE, device=None):
    analysis = archcost.analyze(model, inputs, device=device)
    return analysis, analysis.fields[""]


def test_a_model_without_values_is_refused():
    model = nn.Sequential(nn.Conv2d(2, 2, 3, device="meta"))
    with pytest.raises(ModelError, match="Sequential: its weights are on `meta` and have no values; load"):
        verify_field(*failing(model))


def test_a_quantized_model_is_refused():
    model = archcost.load("torchvision:quantized_shufflenet_v2_x0_5").model
    analysis = archcost.analyze(model, input_size=(1, 3, 64, 64))
    with pytest.raises(
        ModelError, match=r"conv1\.0 computes in integers, which have no NaN; verify the float"
    ):
        verify_field(analysis, analysis.fields["conv1"])


def test_tokens_cannot_be_nan():
    model = nn.Sequential(nn.Embedding(9, 4))
    with pytest.raises(ModelError, match="its input has an integer dtype, which has no NaN"):
        verify_field(*failing(model, torch.zeros(1, 7, dtype=torch.long)))


def test_whole_numbers_that_come_out_cannot_be_nan():
    model = Calls(lambda self, x: self.lin(x).argmax(1), lin=conv())
    with pytest.raises(ModelError, match="its output has an integer dtype, which NaN does not reach"):
        verify_field(*failing(model))


def test_a_model_that_gives_nan_by_itself_is_refused():
    model = Calls(lambda self, x: self.lin(x).log() * float("nan"), lin=conv())
    with pytest.raises(ModelError, match="its output: it is NaN for finite inputs; use weights"):
        verify_field(*failing(model))


def test_constants_that_a_forward_makes_are_of_the_witness_precision():
    model = Calls(lambda self, x: F.conv2d(self.lin(x), torch.ones(2, 2, 3, 3)), lin=conv())
    assert agrees(model).size == (5, 5)
    assert torch.get_default_dtype() == torch.float32


def test_a_model_that_only_runs_in_single_precision_is_refused():
    model = Calls(lambda self, x: self.lin(x) @ torch.ones(18, 3, dtype=torch.float32), lin=conv())
    with pytest.raises(
        ModelError, match=r"cannot run in float64 to verify the field: RuntimeError: expected m"
    ):
        verify_field(*failing(model))


def test_a_model_that_cannot_be_copied_is_refused():
    class Single(nn.Conv2d):
        def __deepcopy__(self, memo):
            raise TypeError("there is one only")

    model = nn.Sequential(Single(2, 2, 3))
    with pytest.raises(
        ModelError, match="cannot be copied in float64 to verify the field: there is one only"
    ):
        verify_field(*failing(model))


def test_a_module_that_is_not_registered_is_refused():
    model = Calls(lambda self, x: self.hidden[0](x), hidden=[conv()])
    analysis = archcost.analyze(model, IMAGE)
    with pytest.raises(ModelError, match="<Conv2d> is not registered in the model, so that its field cannot"):
        verify_field(analysis, analysis.fields["<Conv2d>"])


def test_a_layer_that_gives_another_shape_is_refused():
    model = nn.Sequential(conv())
    analysis = archcost.analyze(model, IMAGE)
    with pytest.raises(
        ModelError, match=r"'0' returned \(1, 2, 22, 22\) when .* but \(1, 2, 22, 18\) when it was"
    ):
        verify_field(analysis, analysis.fields["0"], torch.rand(1, 2, 24, 24))


def test_a_layer_that_is_not_called_again_is_refused():
    model = Calls(lambda self, x: self.lin(x) if self.first else x, lin=conv())
    model.first = True
    analysis = archcost.analyze(model, IMAGE)
    model.first = False
    with pytest.raises(ModelError, match="'lin' was called in the traced pass, but not in the verifying one"):
        verify_field(analysis, analysis.fields["lin"])


def test_a_model_that_is_gone_is_refused():
    analysis = archcost.analyze(chain(), IMAGE)
    with pytest.raises(ModelError, match="the model is gone"):
        verify_field(analysis, analysis.fields["2"])


# What is asked for and is not there


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"layer": "lni"}, "Calls has no module 'lni'; did you mean 'lin'?"),
        ({"layer": "idle"}, "'idle' was never called"),
        (
            {"layer": "lin", "position": (30, 0)},
            "position (30, 0) lies outside: the output of lin has positions",
        ),
        ({"layer": "lin", "position": (-25, 0)}, "position (-25, 0) lies outside"),
        ({"layer": "lin", "position": 3}, "position 3 does not fit: the output of lin has positions 22x18"),
        ({"layer": "lin", "call": 1}, "lin was called 1 time; call=1"),
        ({"layer": "made"}, "the output of made does not depend on the spatial axes of the input"),
        ({"layer": "lin", "of": 5}, "of=5 is not an input tensor with spatial axes; those are 0"),
        ({"layer": "lin", "position": (1.5, 2)}, "position (1.5, 2) does not consist of integers"),
        ({"layer": "lin", "position": "ab"}, "position 'ab' does not consist of integers"),
        ({"layer": 3}, "Calls has no module 3"),
    ],
)
def test_what_is_not_there_is_named(asked, said):
    model = Calls(
        lambda self, x: self.lin(x) + self.made(torch.ones(1)),
        lin=conv(),
        idle=nn.ReLU(),
        made=nn.Linear(1, 1),
    )
    with pytest.raises(SpecError) as raised:
        receptive_field(model, IMAGE, **asked)
    assert said in str(raised.value)


def test_negative_positions_count_from_the_end():
    analysis = archcost.analyze(chain(), IMAGE)
    assert analysis.fields.at("0", (-1, -2)) == analysis.fields.at("0", (23, 18))
    assert analysis.fields.at("0", np.array([3, 4])) == analysis.fields.at("0", (3, 4))


def test_several_fields_are_witnessed_on_one_copy(monkeypatch):
    model = chain()
    analysis = archcost.analyze(model, IMAGE)
    copies = []
    right = copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda x, *a: (copies.append(x), right(x, *a))[1])
    witnesses = verify_fields(analysis, [analysis.fields[name] for name in "0123"])
    assert [w.agrees for w in witnesses] == [True] * 4
    assert sum(x is model for x in copies) == 1
