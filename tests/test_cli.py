"""The command line: results on stdout, all else on stderr, one line an error, the stated exit codes."""

import json
import os
import subprocess
import sys

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

class Fails(nn.Conv2d):
    def __init__(self):
        super().__init__(1, 1, 1)
    def forward(self, x):
        raise RuntimeError("first line\\nsecond line")
"""


@pytest.fixture
def net(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "net.py:Net"


def run(*arguments, **environment):
    """The command as a user runs it, in a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "archcost.cli", *arguments],
        capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip


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
    assert main(["analyze", net, "--format", "csv", "--operations", "--columns", "op"]) == 0
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
        (["analyze", "resnet50"], "'resnet50' is no SPEC; give torchvision:NAME"),
        (["analyze", "torchvision:resnet5"], "did you mean resnet50"),
        (["analyze", "nothere.py:Net"], "there is no file 'nothere.py'"),
        (["analyze", "net.py:Net", "--input-size", "1,3,28,28"], "'0' (Conv2d) got an input of shape 1x3x28x28; it expects 1 channel"),
        (["analyze", "net.py:Fails", "--input-size", "1,1,4,4"], "first line second line"),
        (["analyze", "net.py:Net", "--columns", "mac"], "did you mean"),
        (["analyze", "net.py:Net", "--weights", "w.pt"], "there is no file 'w.pt'"),
        (["analyze", "net.py:Net", "--operations"], "--operations needs --format"),
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


def test_debug_shows_the_traceback(net):
    from archcost import ArchcostError

    with pytest.raises(ArchcostError):
        main(["analyze", "net.py:Fails", "--debug"])
    shown = run("analyze", "net.py:Fails", "--input-size", "1,1,4,4", "--debug")
    assert "Traceback" in shown.stderr
    assert "Traceback" not in run("analyze", "net.py:Fails", "--input-size", "1,1,4,4").stderr


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
    from archcost import witnesses

    wrong = witnesses.Difference("fvcore", "0", "Conv2d", 1, 2.0, None)
    result = witnesses.CrossCheck("net", 1, {"fvcore": 2.0}, {}, (wrong,), 1)
    monkeypatch.setattr(witnesses, "crosscheck", lambda *_, **__: result)
    assert main(["analyze", net, "--check"]) == 1
    assert "NOT UNDERSTOOD" in capsys.readouterr().out


def test_zoo_prints_a_line_a_model(capsys):
    assert main(["zoo", "squeezenet*"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "1,248,424" in out
    assert err == "2 models, 2 as published\n"


def test_zoo_reports_findings_by_exit_code_1(capsys, monkeypatch):
    from archcost import models

    honest = models.zoo_entries("squeezenet1_0")[0]
    from dataclasses import replace

    monkeypatch.setattr(models, "zoo_entries", lambda *_, **__: [replace(honest, gmacs=9.9)])
    assert main(["zoo", "squeezenet1_0"]) == 1
    assert "not: squeezenet1_0" in capsys.readouterr().err


def test_compare_shows_two_models(net, capsys):
    assert main(["compare", net, net, "--input-size", "1,1,28,28"]) == 0
    assert "Conv2d" in capsys.readouterr().out


def test_a_pipe_gets_plain_text_and_a_closed_pipe_is_no_error(net):
    plain = run("analyze", net, FORCE_COLOR="", NO_COLOR="1")
    assert plain.returncode == 0
    assert "\x1b" not in plain.stdout
    assert plain.stderr == ""
    closed = subprocess.run(
        f"{sys.executable} -m archcost.cli analyze {net} | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert closed.stderr == ""


def test_the_installed_command_answers():
    import shutil

    command = shutil.which("archcost", path=os.path.dirname(sys.executable))
    assert command, "archcost is not installed beside this Python"
    out = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert out.startswith("archcost 0.")
