"""What was probably meant is said: each message word by word, with the mend in it."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn

import archcost
from archcost import InputError, ModelError, SpecError
from helpers.refusals import said

X = torch.rand(1, 8, 6, 6)


class OneDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 1)

    def forward(self, feats):
        return {key: self.conv(value) for key, value in feats.items()}


class OneList(OneDict):
    def forward(self, maps):
        return [self.conv(value) for value in maps]


class Two(OneDict):
    def forward(self, a, b):
        return self.conv(a) + self.conv(b)


class Numbers(nn.Module):
    """Its arguments are whole numbers, and no shape."""

    def forward(self, rows, columns):
        return torch.zeros(rows, columns)


@pytest.fixture(scope="module")
def resnet():
    return torchvision.models.resnet18().eval()


# Inputs


@pytest.mark.parametrize("shape", [(1, 3, 224, 224), [1, 3, 224, 224], torch.Size((1, 3, 224, 224))])
@pytest.mark.parametrize("function", [archcost.analyze, archcost.accelerate, archcost.measure])
def test_a_shape_in_the_place_of_inputs(resnet, function, shape):
    words = said(InputError, function, resnet, shape)
    assert words == f"inputs is {shape!r}, which looks like a shape: write input_size=(1, 3, 224, 224)"


def test_whole_numbers_that_the_model_takes_are_no_shape():
    assert archcost.analyze(Numbers(), (2, 3)).total.output_shape == (2, 3)


def test_a_missing_batch_dimension(resnet):
    words = said(InputError, archcost.analyze, resnet, torch.rand(3, 224, 224))
    assert words.startswith("'bn1' (BatchNorm2d) got an input of shape 64x112x112; it expects 64 channels")
    assert words.endswith(". Is the batch dimension missing? Try (1, 3, 224, 224)")
    for model in (resnet, "torchvision:resnet18"):
        words = said(InputError, archcost.analyze, model, input_size=(3, 224, 224))
        assert words.endswith(". Is the batch dimension missing? Try (1, 3, 224, 224)")


def test_a_missing_batch_dimension_of_several_inputs():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(8)

        def forward(self, a, b):
            return self.norm(a) + b

    words = said(InputError, archcost.analyze, Joined(), input_size=[(8, 4, 4), (8, 4, 1)])
    assert words.endswith("Is the batch dimension missing? Try (1, 8, 4, 4) and (1, 8, 4, 1)")


def test_the_batch_is_not_blamed_for_what_it_does_not_mend():
    words = said(InputError, archcost.analyze, nn.Conv2d(8, 4, 1), torch.rand(1, 3, 5, 5))
    assert words.endswith("it expects 8 channels in dimension 1")


def test_a_dict_for_a_model_with_one_dict_argument():
    words = said(InputError, archcost.analyze, OneDict(), {"p3": X})
    assert words.endswith("A dict is keyword arguments; to pass it as one argument, write (feats,)")
    assert archcost.analyze(OneDict(), ({"p3": X},)).total.macs == 4 * 8 * 36


def test_a_tuple_for_a_model_with_one_list_argument():
    words = said(InputError, archcost.analyze, OneList(), (X, X))
    assert words.endswith("A tuple is positional arguments; to pass it as one argument, write (maps,)")


def test_a_list_for_a_model_with_several_arguments():
    words = said(InputError, archcost.analyze, Two(), [X, X])
    assert words.endswith("A list is a single argument; for several, write a tuple: (first, second)")


def test_trying_what_was_meant_leaves_model_and_inputs_as_they_were():
    model, given = OneDict().eval(), {"p3": X.clone()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    said(InputError, archcost.analyze, model, given)
    assert list(given) == ["p3"]
    assert torch.equal(given["p3"], X)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_dict_of_shapes_makes_a_dict_of_tensors():
    sizes = {"feats": {"p3": (1, 8, 6, 6), "p4": (1, 8, 3, 3)}}
    assert archcost.analyze(OneDict(), input_size=sizes).total.macs == 4 * 8 * (36 + 9)
    words = said(InputError, archcost.analyze, OneDict(), input_size={"feats": {"p3": 8}})
    assert words.startswith("input_size['feats']['p3']: 8 is not a shape")


# Models

TAKE_A_MODEL = [
    archcost.analyze,
    archcost.analysis.crosscheck,
    archcost.receptive_field,
    archcost.effective_field,
    archcost.measure,
    archcost.propose,
    archcost.plot.growth,
    archcost.plot.window,
    archcost.accelerate,
    lambda model: archcost.rewrite(model, rules=["merge"]),
    lambda model: archcost.compare(model, model),
]


@pytest.mark.parametrize("function", TAKE_A_MODEL)
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            torchvision.models.resnet18,
            "got the function resnet18. If it builds a model, pass resnet18(); if it "
            "computes on tensors, call it in the forward of a module",
        ),
        (torchvision.models.ResNet, "got the class ResNet; pass an instance: ResNet(...)"),
        (OrderedDict(), "got an OrderedDict; load it into a model: model.load_state_dict(...)"),
        (7, "got an int"),
    ],
)
def test_what_is_no_model(function, model, words):
    assert said((InputError, ModelError), function, model).endswith(f"expected a torch.nn.Module, {words}")


def test_what_holds_a_model_is_told_from_one():
    loaded = archcost.load("torchvision:alexnet")
    assert said(ModelError, archcost.analyze, loaded).endswith("got a Loaded; pass its .model")
    exported = torch.export.export(nn.ReLU(), (X,))
    assert said(ModelError, archcost.analyze, exported).endswith("got an ExportedProgram; pass its .module()")


@pytest.mark.parametrize("lazily", ["generator", "inside"])
def test_a_forward_that_computes_later_is_not_counted_as_nothing(lazily):
    class Later(nn.Conv2d):
        def forward(self, x):
            steps = (super(Later, self).forward(x) for _ in range(2))
            return steps if lazily == "generator" else {"steps": (steps,)}

    words = said(ModelError, archcost.analyze, Later(8, 4, 1), X)
    assert words == (
        "the forward of Later returns a generator, which computes nothing until it is iterated: pass a "
        "module whose forward does that, as in `return list(self.model(x))`"
    )


@pytest.mark.filterwarnings("error")
def test_a_coroutine_is_not_counted_as_nothing():
    class Awaited(nn.Conv2d):
        async def forward(self, x):
            return super().forward(x)

    words = said(ModelError, archcost.analyze, Awaited(8, 4, 1), X)
    assert words.startswith("the forward of Awaited returns a coroutine")


def test_a_generator_that_the_model_runs_through_itself_counts():
    class Steps(nn.Conv2d):
        def forward(self, x):
            yield super().forward(x)
            yield super().forward(x)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = Steps(8, 4, 1)

        def forward(self, x):
            return list(self.steps(x))

    assert archcost.analyze(Whole(), X).total.macs == 2 * 4 * 8 * 36


# Layers


def test_rewrite_names_the_layer_that_was_meant(resnet):
    words = said(
        SpecError, archcost.rewrite, resnet, torch.rand(1, 3, 64, 64), {"layer1.0.con1": "asymmetric"}
    )
    assert words == "ResNet has no convolution 'layer1.0.con1'; did you mean 'layer1.0.conv1'?"


def test_propose_and_its_proposals_name_the_layer_that_was_meant(resnet):
    analysis = archcost.analyze(resnet, input_size=(1, 3, 64, 64))
    words = "ResNet has no convolution 'layer1.0.con1'; did you mean 'layer1.0.conv1'?"
    assert said(SpecError, archcost.propose, analysis, names=["layer1.0.con1"]) == words
    found = archcost.propose(analysis, rules=["asymmetric"], errors=False, store=False)
    assert said(SpecError, lambda: found["layer1.0.con1"]) == words


# Inputs beside an Analysis, which has its own


@pytest.fixture(scope="module")
def analysis(resnet):
    return archcost.analyze(resnet, input_size=(1, 3, 64, 64))


@pytest.mark.parametrize(
    "function",
    [
        *(archcost.plot.window, archcost.receptive_field, archcost.propose, archcost.effective_field),
        *(archcost.measure, lambda one, given: archcost.compare(one, one, given)),
    ],
)
def test_a_text_is_no_input(resnet, analysis, function):
    words = said(InputError, function, analysis, "layer3")
    assert "layer='layer3'" in words
    words = said(InputError, function, resnet, "layer3")
    assert words == (
        "inputs is the string 'layer3', not a tensor. To choose a layer, write layer='layer3'. For a model "
        "that takes a string, put it in a tuple: ('layer3',)"
    )


def test_a_text_in_a_tuple_is_an_argument_of_the_model():
    class Spoken(OneDict):
        def forward(self, words):
            return self.conv(X[..., : len(words), :])

    assert archcost.analyze(Spoken(), ("word",)).total.output_shape == (1, 4, 4, 6)


IMAGE = torch.rand(1, 3, 64, 64)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (
            lambda one: archcost.plot.window(one, IMAGE),
            "plot.window: an Analysis has its inputs; leave inputs",
        ),
        (lambda one: archcost.plot.window(one, input_size=(1, 3, 8, 8)), "leave input_size out"),
        (lambda one: archcost.plot.growth(one, input_size=(1, 3, 8, 8)), "leave input_size out"),
        (lambda one: archcost.receptive_field(one, IMAGE), "leave inputs out"),
        (
            lambda one: archcost.receptive_field(one, dtype="int64", device="cpu"),
            "leave dtype and device out",
        ),
        (lambda one: archcost.receptive_field(one, verify=True, input_size=(1, 3, 8, 8)), "input_size out"),
        (
            lambda one: archcost.propose(one, IMAGE, errors=False),
            "propose: an Analysis has its inputs; leave",
        ),
        (lambda one: archcost.propose(one, input_size=(1, 3, 8, 8)), "leave input_size out"),
        (
            lambda one: archcost.compare(one, one, IMAGE),
            "compare: an Analysis has its inputs; leave inputs out",
        ),
        (lambda one: archcost.compare(nn.ReLU(), one, IMAGE, inputs_b=IMAGE), "leave inputs out"),
        (lambda one: archcost.effective_field(one, input_size=(1, 3, 8, 8)), "leave input_size out"),
        (lambda one: archcost.measure(one, input_size=(1, 3, 8, 8)), "an Analysis has its input size"),
    ],
)
def test_inputs_that_nobody_would_look_at(analysis, function, named):
    assert named in said(InputError, function, analysis)


def test_inputs_beside_an_analysis_that_somebody_looks_at(resnet, analysis):
    both = archcost.compare(analysis, nn.Conv2d(3, 4, 1), IMAGE)
    assert both.b.total.output_shape == (1, 4, 64, 64)
    field = archcost.receptive_field(analysis, torch.zeros(1, 3, 64, 64), "layer1", verify=True)
    assert field == archcost.receptive_field(analysis, layer="layer1")
    assert len(archcost.plot.growth(analysis, nn.Conv2d(3, 4, 1), input_size=(1, 3, 64, 64)).axes) > 0


@pytest.mark.parametrize(
    "function", [archcost.analyze, archcost.accelerate, archcost.measure, archcost.effective_field]
)
def test_an_array_in_the_place_of_a_tensor(resnet, function):
    words = said(InputError, function, resnet, IMAGE.numpy())
    assert words == "inputs is a numpy array, but the model takes tensors: write torch.from_numpy(x)"
    words = said(InputError, function, resnet, (IMAGE.double().numpy(),))
    assert (
        words == "inputs[0] is a numpy array, but the model takes tensors: write torch.from_numpy(x).float()"
    )


def test_an_array_deep_inside_and_a_picture(analysis):
    words = said(InputError, archcost.analyze, OneDict(), {"feats": {"p3": X.numpy()}})
    assert words.startswith("inputs['feats']['p3'] is a numpy array")
    words = said(InputError, archcost.effective_field, analysis, IMAGE.numpy())
    assert "numpy array, but the model takes tensors" in words
    picture = pytest.importorskip("PIL.Image").new("RGB", (64, 64))
    words = said(InputError, archcost.analyze, OneDict(), picture)
    assert words.startswith(
        "inputs is a PIL.Image.Image, but the model takes tensors: write torch.as_tensor("
    )


def test_an_array_is_not_blamed_for_what_is_wrong_elsewhere():
    class Masked(OneDict):
        def forward(self, x, mask):
            return self.conv(x) * torch.from_numpy(mask)

    words = said(InputError, archcost.analyze, Masked(), (torch.rand(1, 3, 6, 6), X.numpy()))
    assert words.endswith("it expects 8 channels in dimension 1")


def test_an_array_that_the_model_takes():
    class Converts(OneDict):
        def forward(self, x):
            return self.conv(torch.from_numpy(x))

    assert archcost.analyze(Converts(), X.numpy()).total.macs == 4 * 8 * 36


# Names, files, functions


@pytest.mark.parametrize(
    "function",
    [
        lambda model: archcost.rewrite(model, IMAGE, {"fc": "asymmetric"}),
        lambda model: archcost.propose(model, IMAGE, names=["fc"], errors=False),
        lambda model: archcost.propose(model, IMAGE, names=["layer1.0.conv1"], errors=False)["fc"],
    ],
)
def test_what_is_there_and_no_convolution(resnet, function):
    assert said(SpecError, function, resnet) == "'fc' of ResNet is a Linear, not a convolution"


def test_what_is_not_there(resnet):
    words = said(SpecError, archcost.rewrite, resnet, IMAGE, {"con1": "asymmetric"})
    assert words == "ResNet has no convolution 'con1'; did you mean 'conv1'?"


def test_a_function_is_a_factory_or_a_forward():
    words = said(ModelError, archcost.analyze, lambda x: x, X)
    assert words == (
        "expected a torch.nn.Module, got the function <lambda>. If it builds a model, pass its result; if it "
        "computes on tensors, call it in the forward of a module"
    )
    assert "pass relu();" in said(ModelError, archcost.analyze, nn.functional.relu, X)


def test_weights_that_are_none(tmp_path):
    (tmp_path / "net.py").write_text("x = 1\n")
    torch.save(OneDict(), tmp_path / "held.pt")
    torch.save({"a": X}, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:-40])
    for name, why in [
        ("net.py", "torch.save did not write it"),
        ("cut.pt", "the file is damaged"),
        ("held.pt", f"it holds a {__name__}.OneDict, whose code is not executed; save its state_dict()"),
    ]:
        words = said(SpecError, archcost.load, "torchvision:alexnet", weights=tmp_path / name)
        assert words.startswith(f"weights: {name} cannot be read as plain tensors: {why}")
        assert "weights_only" not in words


# Sentences of others


def test_a_note_ends_with_a_sentence():
    from archcost.trace.failure import first_sentences

    class Chosen(OneDict):
        def forward(self, x):
            return self.conv(x[:, torch.nonzero(x[0, :, 0, 0] + 1)[:, 0]])

    (note,) = archcost.analyze(Chosen(), X).notes
    assert note.endswith(". Counts may depend on the values of the input")
    assert "does not exist. This" not in note
    long = "One is of some length, and says what is wrong. " + "Another is about what else there may be. " * 9
    assert first_sentences(long, 100) == "One is of some length, and says what is wrong. " + (
        "Another is about what else there may be"
    )
    assert first_sentences("a" * 300 + " b") == "a" * 300 + " b"
    assert first_sentences("Got torch.float64, e.g. this. See") == "Got torch.float64, e.g. this. See"
