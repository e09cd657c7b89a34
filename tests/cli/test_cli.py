"""The command line: results on stdout, all else on stderr, one line an error, the stated exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial

import pytest

from archcost.cli import main

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))

class Two(nn.Module):
    def forward(self, a, b):
        return a @ b

class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, feats):
        return {key: self.conv(value) for key, value in feats.items()}

class Fails(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 1, 1)
    def forward(self, x):
        raise RuntimeError("first line\\nsecond line")
"""


@pytest.fixture
def net(written):
    return written(NET, "Net")


@pytest.fixture
def run(warm):
    """The command as a user runs it, in a pipe."""
    return partial(warm.run, "import sys, archcost.cli\nsys.exit(archcost.cli.main())")


def test_analyze_prints_the_table_on_stdout_and_nothing_else(net, capsys):
    assert main(["analyze", net, "--input-size", "1,1,28,28"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Conv2d" in out
    assert "Total" in out
    assert "\x1b" not in out


def test_the_input_size_is_found_for_a_fixed_classifier_and_said(net, capsys):
    assert main(["analyze", net]) == 0
    assert "1x1x28x28 assumed" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["markdown", "csv", "json", "html"])
def test_every_format_goes_to_stdout_or_a_file(net, form, capsys, tmp_path):
    assert main(["analyze", net, "--format", form]) == 0
    out = capsys.readouterr().out
    assert main(["analyze", net, "--format", form, "-o", "report"]) == 0
    assert (tmp_path / "report").read_text() == out
    assert capsys.readouterr().out == ""
    if form == "json":
        document = json.loads(out)
        assert document["total"]["macs"] == 26 * 26 * 4 * 9 + 4 * 26 * 26 * 10


def test_a_file_is_overwritten_only_when_forced(net, capsys, tmp_path):
    (tmp_path / "report").write_text("precious")
    assert main(["analyze", net, "-o", "report"]) == 2
    assert capsys.readouterr().err == "archcost: report exists; --force overwrites it\n"
    assert (tmp_path / "report").read_text() == "precious"
    assert main(["analyze", net, "-o", "report", "--force"]) == 0
    assert "Conv2d" in (tmp_path / "report").read_text()


def test_options_choose_what_is_shown(net, capsys):
    assert (
        main(["analyze", net, "--format", "csv", "--columns", "name,macs", "--sort", "macs", "--top", "1"])
        == 0
    )
    header, first = capsys.readouterr().out.splitlines()
    assert header == "name,macs"
    assert first == f"3,{4 * 26 * 26 * 10}"
    assert main(["analyze", net, "--format", "csv", "--by", "operations", "--columns", "op"]) == 0
    assert "aten.convolution.default" in capsys.readouterr().out
    assert main(["analyze", net, "--depth", "0"]) == 0
    assert "1x4x26x26" not in capsys.readouterr().out


def test_several_inputs_and_another_dtype(net, capsys):
    sizes = ["--input-size", "2,3", "--input-size", "3,4"]
    assert main(["analyze", "net.py:Two", *sizes, "--dtype", "float64", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["total"]["macs"] == 24
    assert document["input"] == "2x3 float64, 3x4 float64"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze", "resnet50"], "unknown model 'resnet50': did you mean torchvision:resnet50 or timm:resnet50?"),
        (["analyze", "torchvision:resnet5"], "did you mean resnet50"),
        (["analyze", "nothere.py:Net"], "there is no file 'nothere.py'"),
        (["analyze", "net.py:Net", "--input-size", "1,3,28,28"], "'0' (Conv2d) got an input of shape 1x3x28x28; it expects 1 channel"),
        (["analyze", "net.py:Fails", "--input-size", "1,1,4,4"], "first line second line"),
        (["analyze", "net.py:Net", "--columns", "mac"], "did you mean"),
        (["analyze", "net.py:Net", "--weights", "w.pt"], "there is no file 'w.pt'"),
        (["analyze", "net.py:Net", "--by", "operation"], "did you mean 'operations'?"),
        (["zoo", "nosuchnet*"], "no torchvision model matches 'nosuchnet*'"),
        (["zoo", "resnet18", "--task", "video"], "no model of task video matches 'resnet18'"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_on_stderr_and_exit_code_2(net, capsys, arguments, message):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("archcost: ")
    assert err.count("\n") == 1
    assert message in err


def test_debug_shows_the_traceback(net, run):
    from archcost import ArchcostError

    with pytest.raises(ArchcostError):
        main(["analyze", "net.py:Fails", "--debug"])
    shown = run("analyze", "net.py:Fails", "--input-size", "1,1,4,4", "--debug")
    assert "Traceback" in shown.stderr
    assert "Traceback" not in run("analyze", "net.py:Fails", "--input-size", "1,1,4,4").stderr


DEPTHS = [
    (command, form)
    for command in ("analyze", "compare")
    for form in ("table", "markdown", "json", "csv", "html")
]


@pytest.mark.parametrize(("command", "form"), DEPTHS)
def test_depth_holds_in_every_format(net, command, form, capsys):
    specs = [net] if command == "analyze" else [net, net]
    shown = {}
    for depth in ("0", "1"):
        assert main([command, *specs, "--depth", depth, "--format", form]) == 0
        shown[depth] = capsys.readouterr().out
    if form == "json":
        names = {depth: [row["name"] for row in json.loads(out)["modules"]] for depth, out in shown.items()}
        assert names == {"0": [""], "1": ["", "0", "1", "2", "3"]}
    else:
        of_a_layer = re.compile(r"Flatten|^2,|^\| 2 ", re.MULTILINE)
        assert of_a_layer.search(shown["1"])
        assert not of_a_layer.search(shown["0"])


@pytest.mark.parametrize("form", ["table", "markdown", "json", "csv", "html"])
def test_top_and_columns_hold_in_every_format(net, form, capsys):
    """The costliest layers, and not the model that holds them."""
    assert main(["analyze", net, "--top", "1", "--columns", "name,macs", "--format", form]) == 0
    out = capsys.readouterr().out
    if form == "json":
        assert json.loads(out)["modules"] == [{"name": "3", "macs": 4 * 26 * 26 * 10}]
    elif form == "csv":
        assert out == f"name,macs\n3,{4 * 26 * 26 * 10}\n"
    else:
        assert "27.0 k" in out
        assert "3 others" in out


def test_operations_in_json_are_those_asked_for(net, capsys):
    options = ["--by", "operations", "--top", "1", "--columns", "op,macs", "--format", "json"]
    assert main(["analyze", net, *options]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["operations"] == [{"op": "aten.addmm.default", "macs": 4 * 26 * 26 * 10}]
    assert len(document["modules"]) == 5


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        (["propose", "--rules", "asymmetric", "a.py:Net"], {"spec": "a.py:Net", "rules": [["asymmetric"]]}),
        (["propose", "--rules", "merge", "linear", "torchvision:vgg11", "--measure"], {"spec": "torchvision:vgg11", "rules": [["merge"], ["linear"]], "measure": True}),
        (["propose", "--ratio", "0.5", "0.25", "a.b:net"], {"spec": "a.b:net", "ratio": [0.5, 0.25]}),
        (["propose", "--layers", "0", "features.*", "a.py:Net"], {"spec": "a.py:Net", "layers": ["0", "features.*"]}),
        (["propose", "--batches", "x.pt", "a.py:Net"], {"spec": "a.py:Net", "batches": ["x.pt"]}),
        (["rewrite", "--rules", "merge", "a.py:Net", "-o", "x.pt"], {"spec": "a.py:Net", "rules": [["merge"]], "output": "x.pt"}),
        (["rewrite", "--layers", "0=bottleneck:rank=4", "a.py:Net"], {"spec": "a.py:Net", "layers": ["0=bottleneck:rank=4"]}),
        (["rewrite", "--batches", "x.pt", "a.py:Net", "--rules", "merge"], {"spec": "a.py:Net", "batches": ["x.pt"]}),
        (["rewrite", "a.py:Net", "--rules", "merge", "linear"], {"spec": "a.py:Net", "rules": [["merge"], ["linear"]]}),
    ],
)  # fmt: skip
def test_a_spec_behind_an_option_with_several_values_is_the_spec(arguments, read):
    from archcost.cli import _parser
    from archcost.cli.options import parse

    found = vars(parse(_parser(), arguments))
    assert {name: found[name] for name in read} == read


def test_every_option_with_several_values_is_among_those(capsys):
    """The proof that no command was forgotten: what takes several values says so in its help."""
    from archcost.cli import COMMANDS

    found = set()
    for command in (one.__name__.rpartition(".")[2] for one in COMMANDS):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        several = re.findall(r"(--[a-z-]+) \S+ \[\S+ \.\.\.\]", capsys.readouterr().out)
        found |= {(command, option) for option in several}
    assert found == {
        *(("propose", option) for option in ("--rules", "--ratio", "--layers", "--batches")),
        *(("rewrite", option) for option in ("--rules", "--layers", "--batches")),
        *(("optimize", option) for option in ("--budget", "--rules", "--exclude")),
    }


@pytest.mark.parametrize(
    "arguments",
    [["propose", "--rules", "merge"], ["rewrite", "--layers", "0=bottleneck:rank=4", "-o", "x.pt"]],
)
def test_a_missing_spec_is_still_said(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "the following arguments are required: SPEC" in capsys.readouterr().err


def test_inputs_by_name(net, capsys):
    assert main(["analyze", "net.py:Two", "--input", "a=2,3", "--input", "b=3,4", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["macs"] == 24


def test_a_dict_as_an_input(net, capsys):
    given = ["--input", "feats.p3=1,4,8,8", "--input", "feats.p4=1,4,4,4"]
    assert main(["analyze", "net.py:Pyramid", *given, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["total"]["macs"] == 2 * 4 * 9 * (64 + 16)
    assert document["input"] == "1x4x8x8 float32, 1x4x4x4 float32"
    for command in ("field", "propose"):
        assert main([command, "net.py:Pyramid", *given]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--input", "a=2,3", "--input-size", "2,3"], "give either --input-size, by position, or --input, by name"),
        (["--input", "a=2,3", "--input", "a=2,3"], "--input: a is given twice"),
        (["--input", "a=2,3", "--input", "a.b=2,3"], "--input: a.b is given twice"),
        (["--input", "a.b=2,3", "--input", "a=2,3"], "--input: a is given twice"),
    ],
)  # fmt: skip
def test_inputs_that_contradict_each_other(net, given, message, capsys):
    assert main(["analyze", "net.py:Two", *given]) == 2
    assert capsys.readouterr().err == f"archcost: {message}\n"


@pytest.mark.parametrize("given", ["a", "=2,3", "a.=2,3"])
def test_an_input_without_a_name(given, capsys):
    with pytest.raises(SystemExit):
        main(["analyze", "net.py:Two", "--input", given])
    assert f"{given!r} is not NAME=SHAPE; write it as in image=1,3,224,224" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["analyze"], ["nonsense"], ["analyze", "a:b", "--input-size", "3,x"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().out == ""


def test_no_command_prints_the_help_on_stderr(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().err


def test_check_holds_the_counts_against_the_witnesses(net, capsys):
    assert main(["analyze", net, "--check"]) == 0
    assert "fvcore: " in capsys.readouterr().out


def test_check_reports_findings_by_exit_code_1(net, capsys, monkeypatch):
    from archcost.analysis import cross_check as witnesses

    wrong = witnesses.Disagreement("fvcore", "0", "Conv2d", 1, 2.0, None)
    result = witnesses.CrossCheck("net", 1, {"fvcore": 2.0}, {}, (wrong,), 1)
    monkeypatch.setattr(witnesses, "crosscheck", lambda *_, **__: result)
    assert main(["analyze", net, "--check"]) == 1
    assert "UNEXPLAINED" in capsys.readouterr().out


def test_zoo_prints_a_line_a_model(capsys):
    assert main(["zoo", "squeezenet*"]) == 0
    out, err = capsys.readouterr()
    first, *_, one, other = out.splitlines()
    assert first == "2 models, 2 as published"
    assert "1,248,424" in one
    assert other.startswith("squeezenet1_1 ")
    assert not err


def test_zoo_reports_findings_by_exit_code_1(capsys, monkeypatch):
    from archcost.analysis import zoo

    honest = zoo.zoo_entries("squeezenet1_0")[0]
    from dataclasses import replace

    monkeypatch.setattr(zoo, "zoo_entries", lambda *_, **__: [replace(honest, gmacs=9.9)])
    assert main(["zoo", "squeezenet1_0"]) == 1
    assert "different: squeezenet1_0" in capsys.readouterr().out


def test_compare_shows_two_models(net, capsys):
    assert main(["compare", net, net, "--input-size", "1,1,28,28"]) == 0
    assert "Conv2d" in capsys.readouterr().out


TO_NOBODY = """
import os, sys, archcost.cli

read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
sys.exit(archcost.cli.main())
"""


def test_a_pipe_gets_plain_text_and_a_closed_pipe_is_no_error(net, run, warm):
    plain = run("analyze", net, FORCE_COLOR="", NO_COLOR="1")
    assert plain.returncode == 0
    assert "\x1b" not in plain.stdout
    assert plain.stderr == ""
    assert warm.run(TO_NOBODY, "analyze", net).stderr == ""


SWALLOWS = """
import signal

try:
    {interrupt}
except KeyboardInterrupt:
    pass
raise ImportError("cannot load module more than once per process")
"""


def test_ctrl_c_that_an_import_makes_an_error_of_is_an_interrupt(tmp_path, monkeypatch, capsys):
    """As numpy does: interrupted while it is imported, it cannot be imported again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SWALLOWS.format(interrupt="signal.raise_signal(signal.SIGINT)"))
    before = signal.getsignal(signal.SIGINT)
    assert main(["analyze", "net.py:Net"]) == 130
    assert capsys.readouterr().err == "archcost: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before
    # The same error without an interrupt is what it was.
    (tmp_path / "net.py").write_text(SWALLOWS.format(interrupt="pass"))
    assert main(["analyze", "net.py:Net"]) == 2
    assert "cannot load module more than once" in capsys.readouterr().err


def test_ctrl_c_in_an_import_of_our_own_prints_no_traceback(monkeypatch, capsys):
    from archcost.cli import analyze

    def imports(args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("cannot load module more than once per process") from None

    monkeypatch.setattr(analyze, "run", imports)
    assert main(["analyze", "net.py:Net"]) == 130
    assert capsys.readouterr().err == "archcost: interrupted\n"


def test_python_m_archcost_is_the_command():
    out = subprocess.run(
        [sys.executable, "-m", "archcost", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert out.startswith("archcost 0.")


def test_the_installed_command_answers():
    import shutil

    command = shutil.which("archcost", path=os.path.dirname(sys.executable))
    assert command, "archcost is not installed beside this Python"
    out = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert out.startswith("archcost 0.")


@pytest.mark.parametrize("command", [["field"], ["analyze", "--check"]])
def test_a_depth_is_refused_where_there_are_no_levels(net, capsys, command):
    assert main([*command, net, "--depth", "1"]) == 2
    assert "has no levels of modules; leave --depth out" in capsys.readouterr().err


def test_the_axes_of_a_field_are_sorted_and_cut(net, capsys):
    assert (
        main(["field", net, "--format", "csv", "--sort", "size", "--top", "1", "--columns", "axis,size"]) == 0
    )
    header, row = capsys.readouterr().out.splitlines()
    assert header == "axis,size"
    assert row.startswith("0,")
