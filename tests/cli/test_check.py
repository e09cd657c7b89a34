"""archcost check on the command line: formats, exit codes, codes explained, and errors of one line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import archcost
from archcost.cli import main
from archcost.integrations.checking.codes import CODES

NET = """
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(32, 32, 5, padding=2))


def fails():
    raise ValueError("as\\nit is")
"""
TABLE = '[tool.archcost.models.{0}]\nspec = "net.py:{0}"\ninput_size = [1, 32, 8, 8]\n'


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARCHCOST_STORE", ":memory:")
    Path("net.py").write_text(NET)
    Path("pyproject.toml").write_text(TABLE.format("net"))
    return tmp_path


def run(capsys, *arguments):
    code = main(["check", *arguments])
    return code, *capsys.readouterr()


def test_findings_are_lines_and_the_level_decides_the_exit_code(capsys):
    code, out, err = run(capsys)
    first, last = out.splitlines()
    assert re.match(r"net\.py:6:(26: )?.*AC101 Conv2d\(32, 32, 5\) as two 3x3: -28 % parameters, ", first)
    assert last == "1 finding in 1 model (1 note), 0 at or above warning"
    assert (code, err) == (0, "")
    assert run(capsys, "--level", "note")[0] == 1
    assert run(capsys, "--level", "note", "--ignore", "AC101")[0] == 0
    assert run(capsys, "--select", "AC3,small-kernels", "--level", "note")[0] == 1


def test_a_spec_is_checked_beside_the_configuration_with_its_own_size(capsys):
    code, out, _ = run(capsys, "net.py:net", "--input-size", "2,32,4,4", "--format", "json")
    [one] = json.loads(out)["findings"]
    assert one["models"] == ["net.py:net"]
    assert one["gain"]["macs"][0] == 2 * 25 * 32 * 32 * 16
    assert code == 0
    assert run(capsys, "net")[1].endswith("1 finding in 1 model (1 note), 0 at or above warning\n")


def test_a_model_that_fails_is_a_line_on_stderr_after_all_others_were_reported(capsys):
    Path("pyproject.toml").write_text(TABLE.format("fails") + TABLE.format("net"))
    code, out, err = run(capsys)
    assert code == 2
    assert "AC101" in out
    assert out.endswith(
        "1 finding in 2 models (1 note), 0 at or above warning; 1 model could not be checked\n"
    )
    assert err == (
        "archcost: net.py:10: fails: net.py:fails: building the model failed: ValueError: as it is; archcost "
        "check fails --debug shows the traceback\n"
    )
    with pytest.raises(archcost.SpecError, match="as\nit is"):
        run(capsys, "--debug")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nett"], "there is no model 'nett'; did you mean 'net'?"),
        (["--config", "none.toml"], "none.toml cannot be read: No such file or directory"),
        (["--level", "high"], "--level is 'high'; take one of note, warning, error"),
        (["--select", "AC7"], "there is no code 'AC7'; archcost check --list has them"),
        (["--explain", "smal-kernels"], "there is no code 'smal-kernels'; did you mean 'small-kernels'?"),
        (["--input-size", "1,2"], "--input-size goes with a SPEC"),
        (["-o", "net.py"], "net.py exists; --force overwrites it"),
    ],
)
def test_an_error_is_one_line_with_the_mend_and_exit_code_2(capsys, arguments, said):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"archcost: {said}")
    assert err.count("\n") == 1


def test_formats_can_be_written_to_a_file(capsys):
    for form, sign in (("sarif", '"version": "2.1.0"'), ("github", "::notice "), ("markdown", "| Where")):
        written = (0, "", f"archcost: wrote out.{form}\n")
        assert run(capsys, "--format", form, "-o", f"out.{form}") == written
        assert sign in Path(f"out.{form}").read_text(encoding="utf-8")


def test_every_code_is_listed_and_explained(capsys):
    lines = run(capsys, "--list")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(CODES)
    code, out, _ = run(capsys, "--explain", "AC103")
    assert out.startswith("AC103 bottleneck (note, only when selected): ")
    assert "Rewrite rule: bottleneck" in out
    assert code == 0
    assert run(capsys, "--explain", "AC2")[1].count("\nAC2") == 4


def test_the_list_of_codes_loads_no_torch():
    code = (
        "import sys\nfrom archcost.cli import main\nmain(['check', '--list'])\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_the_api_and_the_command_line_report_alike(capsys):
    assert run(capsys)[1].splitlines()[0] == str(archcost.check(progress=False)[0])
