"""Inputs: one form, tensors anywhere in it, examples of a size, guesses, and errors that say what fits."""

import collections
import dataclasses
import types
from functools import partial

import pytest
import torch
from torch import nn

import archcost
from archcost.errors import InputError, ModelError
from archcost.trace.call import Call
from archcost.trace.conventions import guesses
from archcost.trace.inputs import IMAGE_SIZES, as_dtype, make, map_tensors
from archcost.trace.modules import walk
from archcost.trace.run import record

X = torch.rand(2, 3)


# One canonical form


@pytest.mark.parametrize(
    ("inputs", "args", "kwargs"),
    [
        (X, (X,), {}),
        ((X, 1), (X, 1), {}),
        ({"x": X}, (), {"x": X}),
        ([X, X], ([X, X],), {}),
        (({"x": X},), ({"x": X},), {}),
        ((), (), {}),
        (3, (3,), {}),
    ],
)
def test_a_tuple_is_positional_a_dict_keywords_anything_else_one_argument(inputs, args, kwargs):
    assert Call.of(inputs) == (args, kwargs)


def test_a_namedtuple_is_one_argument():
    point = collections.namedtuple("Point", "x y")(X, X)
    assert Call.of(point) == ((point,), {})


def test_a_dict_with_other_keys_says_how_to_pass_it():
    with pytest.raises(InputError) as caught:
        Call.of({1: X})
    assert str(caught.value) == (
        "inputs: a dict is keyword arguments, but its key 1 is not a string. To pass the dict "
        "itself as the only argument, put it in a tuple: ({...},)"
    )


# Tensors anywhere


@dataclasses.dataclass
class Batch:
    x: torch.Tensor
    name: str = "b"


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor


class Wrapper(collections.abc.MutableMapping):
    """A mapping that keeps its items in a dict of its own, as BatchEncoding does."""

    def __init__(self, **items):
        self.items_ = items

    def __getitem__(self, key):
        return self.items_[key]

    def __setitem__(self, key, value):
        self.items_[key] = value

    def __delitem__(self, key):
        del self.items_[key]

    def __iter__(self):
        return iter(self.items_)

    def __len__(self):
        return len(self.items_)


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "look"),
    [
        (X, lambda v: v),
        ([X, 1], lambda v: v[0]),
        ((None, (X,)), lambda v: v[1][0]),
        ({"a": {"b": X}}, lambda v: v["a"]["b"]),
        (Point(1, X), lambda v: v.y),
        (Batch(X), lambda v: v.x),
        (Frozen(X), lambda v: v.x),
        (collections.OrderedDict(a=X), lambda v: v["a"]),
        (collections.UserDict(a=X), lambda v: v["a"]),
        (collections.defaultdict(list, a=X), lambda v: v["a"]),
        (Wrapper(a=X), lambda v: v["a"]),
        (types.MappingProxyType({"a": X}), lambda v: v["a"]),
    ],
)
def test_tensors_are_mapped_in_every_structure_and_the_original_stays(value, look):
    mapped = map_tensors(value, lambda tensor: tensor.to("meta"))
    assert type(mapped) is type(value)
    assert look(mapped).is_meta
    assert look(value) is X


def test_packed_sequences_keep_their_batch_sizes():
    packed = nn.utils.rnn.pack_padded_sequence(torch.rand(4, 2, 3), torch.tensor([4, 2]))
    moved = map_tensors(packed, lambda tensor: tensor.to("meta"))
    assert moved.data.is_meta
    assert moved.batch_sizes is packed.batch_sizes


def test_what_holds_no_tensor_is_handed_on_as_it_is():
    thing = object()
    assert map_tensors([thing, "text", 3], lambda tensor: None) == [thing, "text", 3]


def test_on_the_same_device_memory_is_shared_but_not_the_tensor():
    x = torch.rand(2, 3, requires_grad=True)
    first, second = Call.of((x, x)).on("cpu").args
    assert first is second
    assert first is not x
    assert first.data_ptr() == x.data_ptr()
    assert first.requires_grad
    assert not Call.of(x * 2).on("cpu").args[0].requires_grad


# Examples of a size


def test_examples_have_the_size_dtype_and_device_asked():
    (x,), kwargs = make((2, 3), None, torch.float16, "cpu")
    assert (x.shape, x.dtype, kwargs) == ((2, 3), torch.float16, {})
    (a, b), _ = make([(2, 3), (4,)], ["float32", torch.int64], torch.float32, "cpu")
    assert (a.dtype, b.dtype) == (torch.float32, torch.int64)
    assert not b.any()
    args, kwargs = make({"x": (2, 3), "y": [5]}, {"y": "int64"}, torch.float32, "meta")
    assert (args, kwargs["x"].dtype, kwargs["y"].dtype) == ((), torch.float32, torch.int64)
    assert kwargs["x"].is_meta
    (images,), _ = make([[(3, 8, 8), (3, 4, 4)]], None, torch.float32, "cpu")
    assert [tuple(image.shape) for image in images] == [(3, 8, 8), (3, 4, 4)]


def test_examples_are_always_the_same_and_draw_nothing():
    state = torch.get_rng_state()
    (a,), _ = make((50,), None, torch.float32, "cpu")
    (b,), _ = make((50,), None, torch.float32, "cpu")
    assert torch.equal(a, b)
    assert 0 <= a.min() < a.max() < 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [(0, 3), (-1, 3), "1,3", (1.5, 2), 3, {"x": (1, "a")}])
def test_what_is_no_shape_is_an_error(size):
    with pytest.raises(InputError, match="is not a shape; pass the whole shape, batch included"):
        make(size, None, torch.float32, "cpu")


@pytest.mark.parametrize("name", ["fp16", "half", "float16", "torch.float16", "FP16", torch.float16])
def test_half_precision_has_many_names(name):
    analysis = archcost.analyze(nn.Conv2d(3, 4, 3).half(), input_size=(1, 3, 8, 8), dtype=name)
    assert analysis.input_text == "1x3x8x8 float16"
    assert as_dtype(name) is torch.float16


def test_other_short_names_of_dtypes():
    names = {"bf16": torch.bfloat16, "fp32": torch.float32, "double": torch.float64, "long": torch.int64}
    assert {name: as_dtype(name) for name in names} == names
    for bad in ("", "nn", "fp17", 16):
        with pytest.raises(InputError, match=f"^dtype: {bad!r} is not a torch dtype"):
            as_dtype(bad)


@pytest.mark.parametrize(
    ("kind", "size"),
    [(partial(nn.Conv2d, 3, 4, 3, bias=False), (1, 3, 8, 8)), (partial(nn.Linear, 3, 4), (2, 3)),
     (partial(nn.GRU, 3, 4), (5, 2, 3))],
)  # fmt: skip
@pytest.mark.parametrize("how", ["dtype", "inputs"])
def test_half_inputs_for_a_model_that_cannot_take_them_are_refused_with_the_mend(kind, size, how):
    model = nn.Sequential(kind())
    given = {"inputs": torch.ones(size).half()} if how == "inputs" else {"input_size": size, "dtype": "fp16"}
    with pytest.raises((RuntimeError, ValueError)):
        model(torch.ones(size).half())
    with pytest.raises(InputError) as caught:
        archcost.analyze(model, **given)
    text = "it expects float32, the dtype of its weights, not float16: convert the model, as in"
    assert text in str(caught.value)
    assert "'0' (" in str(caught.value)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    # The mend works.
    assert archcost.analyze(model.half(), **given).total.macs > 0


@pytest.mark.parametrize("dtype", ["bf16", torch.float64])
def test_a_spec_is_converted_with_its_inputs(dtype):
    kind = as_dtype(dtype)
    analysis = archcost.analyze("torchvision:squeezenet1_1", dtype=dtype)
    assert str(kind)[6:] in analysis.input_text
    assert analysis.total.param_bytes == analysis.total.params * kind.itemsize
    assert analysis.total.macs == archcost.analyze("torchvision:squeezenet1_1").total.macs
    assert analysis.model.classifier[1].weight.dtype == kind  # and what is run later is the same


def test_a_complex_model_takes_complex_inputs_and_its_spectra_real_ones():
    layer = nn.Sequential(nn.Conv1d(2, 3, 3, dtype=torch.cfloat))
    assert archcost.analyze(layer, input_size=(1, 2, 9)).input_text == "1x2x9 complex64"

    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 2, dtype=torch.cfloat))

        def forward(self, x):
            return torch.fft.rfft(x) @ self.weight

    assert archcost.analyze(Spectral(), input_size=(1, 8)).input_text == "1x8 float32"


def test_real_inputs_for_a_complex_layer_are_refused():
    with pytest.raises(
        InputError, match="it expects complex64, the dtype of its weights, not float32: pass comp"
    ):
        archcost.analyze(nn.Linear(3, 4, dtype=torch.cfloat), torch.ones(2, 3))


def test_a_spec_of_a_model_of_words_keeps_its_whole_numbers(tmp_path):
    (tmp_path / "words.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))\n"
    )
    analysis = archcost.analyze(f"{tmp_path}/words.py:net", dtype="half")
    assert "int64" in analysis.input_text
    assert analysis.total.param_bytes == 2 * analysis.total.params


def test_the_module_that_a_spec_names_is_not_converted_itself(tmp_path):
    (tmp_path / "made.py").write_text("from torch import nn\nnet = nn.Conv2d(3, 4, 3)\n")
    spec = f"{tmp_path}/made.py:net"
    loaded = archcost.load(spec)
    archcost.analyze(spec, dtype="half")
    assert loaded.model.weight.dtype == torch.float32


def test_wrong_dtypes_are_errors():
    with pytest.raises(InputError) as caught:
        make((1,), "float33", torch.float32, "cpu")
    expected = "dtype: 'float33' is not a torch dtype; pass for example torch.float32 or 'int64'"
    assert str(caught.value) == expected
    with pytest.raises(
        InputError, match=r"^dtype: 1 dtypes for 2 inputs; pass a single dtype or one per input$"
    ):
        make([(1,), (2,)], ["float32"], torch.float32, "cpu")


# Guesses


@pytest.mark.parametrize(
    ("layer", "size", "dtype"),
    [
        (nn.Conv2d(5, 4, 3), (1, 5, 224, 224), None),
        (nn.Conv1d(5, 4, 3), (1, 5, 1024), None),
        (nn.Conv3d(5, 4, 3), (1, 5, 16, 112, 112), None),
        (nn.Linear(7, 4), (1, 7), None),
        (nn.Embedding(10, 4), (1, 128), torch.int64),
        (nn.LSTM(6, 4), (1, 128, 6), None),
    ],
)
def test_the_first_layer_says_what_the_model_takes(layer, size, dtype):
    model = nn.Sequential(nn.Sequential(nn.Identity(), layer))
    first = guesses(model, walk(model))[0]
    assert first[:2] == (size, dtype)
    assert first[2].startswith(f"input size {'x'.join(map(str, size))} assumed: the first layer, 0.1 (")
    assert record(model).notes[0] == first[2]


def test_timm_models_say_it_themselves():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.pretrained_cfg = {"input_size": (3, 96, 96)}
    trace = record(model)
    assert trace.inputs[0][0].shape == (1, 3, 96, 96)
    assert trace.notes == ("input size 1x3x96x96 from the model's pretrained_cfg",)


def test_other_sizes_are_tried_where_the_first_does_not_fit():
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))
    trace = record(model)
    assert trace.inputs[0][0].shape == (1, 1, 28, 28)
    assert trace.notes[0] == "input size 1x1x28x28 assumed: the first layer, 0 (Conv2d), takes 1 channel"
    assert trace.notes[1].startswith(
        f"{IMAGE_SIZES.index(28)} other input sizes did not fit, the first with: '2' (Linear)"
    )


def test_no_size_that_fits_is_an_error_that_says_what_was_tried():
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.Flatten(), nn.Linear(7, 10))
    with pytest.raises(InputError) as caught:
        record(model)
    assert str(caught.value) == (
        "'2' (Linear) got an input of shape 1x193600; it expects 7 features in the last dimension "
        "(input size 1x1x224x224 assumed: the first layer, 0 (Conv2d), takes 1 channel; pass inputs or "
        "input_size=(batch, ...) for another)"
    )


def test_a_model_that_says_nothing_is_an_error_that_asks():
    with pytest.raises(InputError) as caught:
        record(nn.Sequential(nn.ReLU()))
    assert str(caught.value) == (
        "Sequential: the input size cannot be guessed from its layers; pass inputs or input_size=(batch, ...)"
    )


# Wrong sizes name the module


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (
            nn.Conv2d(3, 4, 3),
            (2, 1, 8, 8),
            "(Conv2d) got an input of shape 2x1x8x8; it expects 3 channels in dimension 1",
        ),
        (
            nn.Conv2d(3, 4, 3),
            (2, 8),
            "(Conv2d) got an input of shape 2x8; it expects 4 dimensions, (batch, 3, size, size)",
        ),
        (
            nn.Conv2d(3, 4, 3),
            (4, 8, 8),
            "(Conv2d) got an input of shape 4x8x8; it expects 3 channels in dimension 0",
        ),
        (
            nn.Conv1d(3, 4, 3),
            (2, 4, 9),
            "(Conv1d) got an input of shape 2x4x9; it expects 3 channels in dimension 1",
        ),
        (
            nn.ConvTranspose2d(3, 4, 3),
            (2, 5, 8, 8),
            "(ConvTranspose2d) got an input of shape 2x5x8x8; it expects 3 channels in dimension 1",
        ),
        (
            nn.Linear(7, 4),
            (2, 3),
            "(Linear) got an input of shape 2x3; it expects 7 features in the last dimension",
        ),
        (
            nn.BatchNorm2d(5),
            (2, 3, 8, 8),
            "(BatchNorm2d) got an input of shape 2x3x8x8; it expects 5 channels in dimension 1",
        ),
        (
            nn.LayerNorm([6, 7]),
            (2, 6, 8),
            "(LayerNorm) got an input of shape 2x6x8; it expects a shape that ends in 6x7",
        ),
        (
            nn.GRU(7, 4),
            (5, 2, 3),
            "(GRU) got an input of shape 5x2x3; it expects 7 features in the last dimension",
        ),
        (
            nn.GroupNorm(2, 6),
            (2, 3, 8, 8),
            "(GroupNorm) got an input of shape 2x3x8x8; it expects 6 channels in dimension 1",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_size_names_the_module_what_it_got_and_what_it_expects(layer, shape, message):
    model = nn.Sequential(nn.Sequential(nn.Identity(), layer))
    for device in (None, "meta", "cpu"):
        with pytest.raises(InputError) as caught:
            record(model, torch.rand(shape), device=device)
        assert str(caught.value) == f"'0.1' {message}"


def test_a_certain_error_is_not_tried_again_for_real():
    runs = []

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x):
            runs.append(x.device.type)
            return self.lin(x)

    with pytest.raises(InputError):
        record(Counting(), torch.rand(2, 3))
    assert runs == ["meta"]


def test_mismatched_branches_name_both_shapes():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return x + self.conv(x)

    with pytest.raises(InputError) as caught:
        record(nn.Sequential(Residual()), torch.rand(2, 3, 8, 8))
    assert str(caught.value).startswith(
        "'0' (Residual) failed in aten.add.Tensor on shapes 2x3x8x8, 2x4x6x6: "
    )


def test_an_index_out_of_range_names_the_embedding():
    model = nn.Sequential(nn.Embedding(10, 4))
    with pytest.raises(InputError) as caught:
        record(model, torch.full((2, 3), 10), device="cpu")
    assert (
        str(caught.value)
        == "'0' (Embedding) failed in aten.embedding.default on shapes 10x4, 2x3: index out of range in self"
    )


def test_a_missing_argument_says_how_to_pass_it():
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(InputError) as caught:
        record(Two(), torch.rand(2, 3))
    text = str(caught.value)
    assert text.startswith("the model's own forward (Two): ")
    assert "forward() missing 1 required positional argument: 'y'. " in text
    assert text.endswith(
        "Pass every argument in inputs: a tuple for positional arguments, a dict for keyword arguments"
    )


def test_the_models_own_exceptions_keep_their_words_and_their_cause():
    class Picky(nn.Module):
        def forward(self, x):
            raise KeyError("no such thing")

    with pytest.raises(ModelError) as caught:
        record(nn.Sequential(Picky()), torch.rand(2, 3))
    assert str(caught.value) == "'0' (Picky) raised KeyError on inputs of shape 2x3: 'no such thing'"
    assert isinstance(caught.value.__cause__, KeyError)


class Wide(nn.Module):
    """Attributes of one's own may be called like those of layers, and mean something else."""

    def __init__(self):
        super().__init__()
        self.num_features, self.input_size = 768, 224
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x) * self.conv(x).sum().item()


def test_attributes_of_a_users_class_are_not_taken_for_those_of_a_layer():
    trace = record(Wide(), torch.zeros(1, 3, 8, 8))
    assert trace.device == "cpu"


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_says_so(device):
    with pytest.raises(InputError, match=f"device '{device}' cannot be used here"):
        record(nn.ReLU(), torch.zeros(1), device=device)
