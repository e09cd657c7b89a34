"""archcost measure: its columns, formats and exit codes."""

import json

import pytest

import archcost.latency.paths
from archcost.cli import main

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
"""
ARGUMENTS = ["--input-size", "1,3,16,16", "--seconds", "30", "--threads", "1", "--paths", "im2col-tiled"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Times that the first test measures, and the others find."""
    return tmp_path_factory.mktemp("times") / "store.sqlite"


@pytest.fixture
def net(written, store, no_roofline, monkeypatch):
    monkeypatch.setattr("archcost.latency.measure._MOST_IN_CONTEXT", 0.1)
    monkeypatch.setenv("ARCHCOST_STORE", str(store))
    return written(NET)


def test_the_table_has_both_kinds_of_time_and_says_what_they_are(net, capsys):
    assert main(["measure", net, *ARGUMENTS]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0] == "net.py:net (Sequential)  input 1x3x16x16 float32, 1 thread"
    for head in ("In context ms", "Native ms", "Best ms", "Speedup", "Best path", "Error", "Roofline %"):
        assert head in out
    for line in ("End to end: ", "Paths: 2 distinct convolutions", "Device: ", "Units: medians in ms"):
        assert line in out


def test_the_second_call_takes_times_from_the_store(net, capsys, monkeypatch):
    assert main(["measure", net, *ARGUMENTS]) == 0

    def nothing(*args, **options):
        raise AssertionError("it was measured again")

    monkeypatch.setattr(archcost.latency.paths._Timer, "look", nothing)
    assert main(["measure", net, *ARGUMENTS]) == 0
    assert "2 of them from the store" in capsys.readouterr().out


def test_every_format(net, capsys, tmp_path):
    assert main(["measure", net, *ARGUMENTS, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["layers"]] == ["0", "2"]
    assert main(["measure", net, *ARGUMENTS, "--format", "csv", "--columns", "name,macs,best_path"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "name,macs,best_path"
    assert main(["measure", net, *ARGUMENTS, "--format", "markdown", "-o", "report.md"]) == 0
    assert capsys.readouterr().out == ""
    assert "| Layer" in (tmp_path / "report.md").read_text()


def test_ctrl_c_prints_what_there_is_and_says_so(net, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(archcost.latency.paths._Timer, "look", interrupted)
    monkeypatch.setenv("ARCHCOST_STORE", ":memory:")
    assert main(["measure", net, *ARGUMENTS]) == 130
    out, err = capsys.readouterr()
    assert "End to end: " in out
    assert "Interrupted: only what" in out
    assert err == "archcost: interrupted; times measured until then are shown, and kept in the store\n"


def test_a_wrong_path_is_one_line_and_exit_code_2(net, capsys):
    assert main(["measure", net, "--paths", "winograd-5"]) == 2
    assert capsys.readouterr().err.startswith("archcost: no execution path is called 'winograd-5'")
