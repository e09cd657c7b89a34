"""Paths by name: looking them up, adding one, what they refuse and how archcost.convolve says so."""

import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import archcost
from archcost import ConvSpec, InputError, SpecError, convolve
from archcost.cli import main
from archcost.errors import ArchcostError
from archcost.kernels import isa, library
from archcost.paths import ExecutionPath, available, get, register, registry, relative_error
from archcost.paths.algorithms.direct import DirectPath
from archcost.paths.algorithms.fft import FFTPath
from archcost.paths.algorithms.winograd import WinogradPath

OWN = (
    *("native", "native-channels-last", "native-prepacked", "native-nnpack", "direct", "im2col"),
    *("im2col-tiled", "strassen", "strassen-1", "strassen-2", "strassen-3"),
    *("winograd-2", "winograd-4", "winograd-6", "fft", "fft-16", "fft-32", "fft-64", "fft-80"),
    *("fft-96", "fft-128", "fft-160", "fft-256", "fft-512", "fft-1024", "fft-rows", "fft-parts"),
)


@pytest.fixture
def table():
    """The registry as it was, afterwards."""
    with registry.table.temporarily():
        yield registry.table


class Doubled(DirectPath):
    name = "doubled"
    idea = "twice what it should be"

    def run(self, x, prepared):
        return 2 * super().run(x, prepared)


def test_archcosts_own_paths_are_there():
    assert available() == OWN
    for name in OWN:
        path = get(name)
        assert isinstance(path, ExecutionPath)
        assert path.name == name
        assert repr(path) == f"<path {name}>"
        assert all((path.idea, path.limits, path.source))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("winograd4", "did you mean winograd-4"),
        ("ffft", "did you mean fft"),
        ("xyz", "there are native, native-ch"),
    ],
)
def test_an_unknown_name_is_answered_with_what_is_close(name, hint):
    with pytest.raises(SpecError, match=hint):
        get(name)
    with pytest.raises(SpecError, match=f"no execution path is called '{name}'"):
        convolve(torch.ones(1, 1, 4), torch.ones(1, 1, 2), path=name)


def test_a_path_registered_is_found_and_run(table):
    register(Doubled())
    assert available() == (*OWN, "doubled")
    x, weight = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    torch.testing.assert_close(convolve(x, weight, path="doubled"), 2 * F.conv2d(x, weight))
    assert relative_error("doubled", x, weight, ConvSpec(2, 3, 3, input_size=(5, 5))) == pytest.approx(1)


def test_what_the_user_registers_before_the_first_look_up_wins(table):
    class Mine(Doubled):
        name = "direct"

    with table.temporarily(fresh=True):
        mine = register(Mine())
        assert get("direct") is mine
        assert available() == OWN
    assert get("direct") is not mine


def test_only_paths_are_registered():
    with pytest.raises(ArchcostError, match="is not an instance of ExecutionPath with a name"):
        register(Doubled)
    with pytest.raises(ArchcostError, match="is not an instance of ExecutionPath"):
        register("direct")


REFUSED = [
    ("direct", ConvSpec(1, 1, 3, padding=1, padding_mode="mirror", input_size=(5,)), "'mirror' is none of"),
    ("fft", ConvSpec(1, 1, 3, padding=5, padding_mode="reflect", input_size=(5,)), "more than the 5 pixels"),
    ("im2col", ConvSpec(1, 1, 3, padding=6, padding_mode="circular", input_size=(5,)), "more than the 5 pix"),
    (
        "native",
        ConvSpec(1, 1, 3, padding_mode="reflect", transposed=True, input_size=(5,)),
        "pads with zeros",
    ),
    ("winograd-4", ConvSpec(8, 8, 1, input_size=(5, 5)), "a kernel of one tap leaves no multiplication"),
    ("winograd-4", ConvSpec(8, 8, 2, stride=2, input_size=(6, 6)), "one tap once stride has parted it"),
    ("winograd-6", ConvSpec(8, 8, 11, input_size=(20, 20)), r"F\(6, 11\) has tiles of 16 pixels: beyond 12"),
    ("fft-16", ConvSpec(8, 8, 31, input_size=(60,)), "31 taps does not fit into tiles of 16"),
    (
        "fft",
        ConvSpec(512, 512, 3, padding=1, input_size=(112, 112)),
        r"would take \d+\.\d GiB of memory, more",
    ),
    ("fft-rows", ConvSpec(8, 8, 7, input_size=(20, 20)), "only depthwise layers"),
    ("fft-rows", ConvSpec(8, 8, (7, 1), groups=8, input_size=(20, 20)), "one tap along the rows"),
    ("fft-parts", ConvSpec(8, 8, 7, input_size=(20, 20)), "for sequences, of one axis"),
    ("fft-parts", ConvSpec(8, 8, 63, input_size=(100,)), "63 taps are too few"),
    ("fft-parts", ConvSpec(8, 8, 126, stride=2, input_size=(200,)), "63 taps are too few"),
    (
        "native-prepacked",
        ConvSpec(8, 8, 3, transposed=True, input_size=(6, 6)),
        "cannot pre-pack every trans",
    ),
    ("native-prepacked", ConvSpec(1, 1, 3, stride=3, input_size=(5, 5)), "one output in a row"),
    ("native-prepacked", ConvSpec(1, 1, 7, padding=3, input_size=(5, 5)), "larger than it"),
]


@pytest.mark.parametrize(("name", "spec", "reason"), REFUSED)
def test_a_path_refuses_with_a_reason(name, spec, reason):
    path = get(name)
    assert path.supports(spec) is not None
    with pytest.raises(InputError, match=f"path '{name}' cannot execute this convolution: .*{reason}"):
        path.check(spec)


def test_a_path_refuses_dtypes_with_a_reason():
    spec = ConvSpec(1, 1, 3, input_size=(8, 8))
    assert get("direct").supports(spec, torch.int64) == "int64 is none of float16, bfloat16, float32, float64"
    assert get("direct").supports(spec, torch.complex64) is not None
    assert get("native").supports(spec, torch.int64) == "int64 is no floating-point type"
    assert get("native").supports(spec, torch.complex64) is None
    assert get("native-prepacked").supports(spec, torch.float64) is not None
    with torch.backends.mkldnn.flags(enabled=False):
        assert "switched off" in get("native-prepacked").supports(spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.ones(3, 8)}, r"x has shape \(3, 8\), expected \(batch, channels, \*spatial\)"),
        (
            {"x": torch.ones(1, 4, 8)},
            r"weight has shape \(6, 4, 3, 3\), expected 3 dimensions \(out_channels, in",
        ),
        ({"x": torch.ones(1, 5, 8, 8)}, r"x has 5 channels, expected 4 for weight of shape \(6, 4, 3, 3\)"),
        ({"groups": 2}, "x has 4 channels, expected 8 .* and groups=2"),
        ({"transposed": True}, "x has 4 channels, expected 6"),
        ({"bias": torch.ones(5)}, r"bias has shape \(5,\), expected \(6,\)"),
        ({"bias": torch.ones(6).double()}, "bias is torch.float64 on cpu, expected torch.float32 on cpu"),
        ({"weight": torch.ones(6, 4, 3, 3).half()}, "weight is torch.float16"),
        ({"stride": (1, 2, 3)}, "stride has 3 values for 2 spatial axes"),
        ({"padding": "full"}, "padding='full', expected numbers, 'same' or 'valid'"),
        ({"padding": "same", "stride": 2}, "padding='same' needs stride 1, got stride=2"),
        ({"x": torch.ones(1, 6, 8, 8), "transposed": True, "padding": "same"}, "'same', expected numbers$"),
        ({"x": torch.ones(1, 4, 2, 8)}, "does not fit"),
    ],
    ids=str,
)
def test_convolve_says_what_it_expected(changes, message):
    given = {"x": torch.ones(1, 4, 8, 8), "weight": torch.ones(6, 4, 3, 3), "bias": None, **changes}
    x, weight, bias = (given.pop(name) for name in ("x", "weight", "bias"))
    for path in ("direct", "native"):
        with pytest.raises(InputError, match=message):
            convolve(x, weight, bias, **given, path=path)


def test_prepared_weights_and_inputs_must_fit():
    path, spec = get("im2col"), ConvSpec(4, 6, 3, bias=False, input_size=(8, 8))
    with pytest.raises(InputError, match=r"weight has shape \(6, 4, 5, 5\), expected \(6, 4, 3, 3\)"):
        path.prepare(torch.ones(6, 4, 5, 5), None, spec)
    prepared = path.prepare(torch.ones(6, 4, 3, 3), None, spec)
    with pytest.raises(InputError, match=r"input has shape \(1, 4, 9, 8\), expected \(batch, 4, 8, 8\)"):
        path.run(torch.ones(1, 4, 9, 8), prepared)
    with pytest.raises(InputError, match=r"input is torch\.float64, the weights are torch\.float32"):
        path.run(torch.ones(1, 4, 8, 8).double(), prepared)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "dilation"), [((3, 4), 1), ((2, 5), 2)])
def test_named_padding_is_that_of_the_framework(padding, kernel, dilation):
    x, weight = torch.randn(2, 3, 12, 12), torch.randn(4, 3, *kernel)
    expected = F.conv2d(x, weight, padding=padding, dilation=dilation)
    for path in ("native", "direct", "winograd-2"):
        y = convolve(x, weight, padding=padding, dilation=dilation, path=path)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_a_path_of_your_own_making_needs_no_name_in_the_table():
    x, weight = torch.randn(1, 2, 20), torch.randn(3, 2, 3)
    for path in (WinogradPath(3), FFTPath(tile=12)):
        torch.testing.assert_close(convolve(x, weight, path=path), F.conv1d(x, weight), rtol=1e-4, atol=1e-4)


def test_the_relative_error_of_zeros_and_of_nan():
    spec, zeros = ConvSpec(1, 1, 3, bias=False, input_size=(8,)), torch.zeros(1, 1, 3)
    assert relative_error("winograd-2", torch.ones(1, 1, 8), zeros, spec) == 0
    weight = torch.full((1, 1, 3), float("nan"))
    assert relative_error("direct", torch.ones(1, 1, 8), weight, spec) == float("inf")


def test_the_docstring_examples_are_true():
    import doctest

    from archcost.paths import Epilogue
    from archcost.paths.algorithms import strassen, toom_cook
    from archcost.paths.convolve import convolve as function

    names = {"torch": torch, "archcost": archcost, "strassen_matmul": strassen.strassen_matmul}
    names["Epilogue"] = Epilogue
    for what in (function, Epilogue, strassen.strassen_matmul, toom_cook.toom_cook.__wrapped__):
        tests = doctest.DocTestFinder().find(what, globs={**names, "toom_cook": toom_cook.toom_cook})
        assert tests
        assert not any(doctest.DocTestRunner().run(test).failed for test in tests)


def test_the_command_lists_every_path(capsys, monkeypatch):
    assert main(["paths"]) == 0
    heading, _, heads, _, *lines = capsys.readouterr().out.splitlines()
    assert heading == f"{len(OWN)} ways to execute a convolution"
    assert heads.split() == ["Path", "Idea", "Compiled"]
    assert tuple(line.split()[0] for line in lines[: len(OWN)]) == OWN
    assert lines[len(OWN)] == ""
    assert "archcost paths -v" in lines[len(OWN) + 1]
    assert main(["paths", "fft", "direct"]) == 0
    out = capsys.readouterr().out
    assert [line.partition(": ")[0] for line in out.splitlines()[2:]] == ["direct", "fft", "Kernels"]
    assert main(["paths", "winograd-5"]) == 2
    assert "did you mean winograd-" in capsys.readouterr().err

    assert main(["paths", "-v"]) == 0
    out = capsys.readouterr().out
    heading, _, *paragraphs, kernels = out.splitlines()
    assert heading == f"{len(OWN)} ways to execute a convolution"
    assert tuple(line.partition(": ")[0] for line in paragraphs) == OWN
    assert kernels.startswith("Kernels: ")
    if library() is None:
        assert kernels.endswith("tensor operations serve")
    else:
        assert (
            f"{isa()} in use; they serve direct, im2col-tiled, winograd-2, winograd-4, winograd-6, fft,"
            in kernels
        )
        assert "compiled for kernels and phases of 1x2, 1x3" in out
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["paths"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80

    assert main(["paths", "--format", "json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert tuple(path["name"] for path in record["paths"]) == OWN
    assert all(path["supports"] and path["idea"] and path["source"] for path in record["paths"])
    assert any(path["compiled"] for path in record["paths"]) == (library() is not None)
    assert main(["paths", "--columns", "name,source", "--sort", "name", "--top", "2"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[4:6]] == ["direct", "fft"]


def test_the_paths_do_not_start_the_compiler(only_torch):
    code = "import sys, archcost; archcost.paths.available(); print('torch._dynamo' in sys.modules)"
    assert only_torch.run(code).stdout.split() == ["False"]


def test_the_folder_is_reached_through_the_package_and_loads_no_torch(only_torch):
    code = "import sys, archcost; archcost.paths, archcost.paths.__all__; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
    code = "import archcost; print(archcost.paths.available()[0])"
    assert only_torch.run(code).stdout.strip() == "native"
