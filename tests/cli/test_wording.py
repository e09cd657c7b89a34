"""Errors of the Python functions name options on the command line."""

import doctest

import pytest

from archcost.cli import _parser, main, wording
from archcost.cli.wording import as_options, options_of


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Is the batch dimension missing? Try (1, 3, 11)", "Try --input-size 1,3,11"),
        ("Missing? Try (1, 3) and (1, 2)", "Try --input-size 1,3 and --input-size 1,2"),
        ("none fits (pass inputs or input_size=(batch, ...) for another)", "(give --input-size N,C,H,W for"),
        ("which looks like a shape: write input_size=(1, 3, 2, 2)", "write --input-size 1,3,2,2"),
        ("it cannot run on cpu; omit device=", "omit --device"),
        ("omit device= or name that device", "omit --device or name that device"),
        ("weights: there is no file 'new.pt'", "--weights: there is no file 'new.pt'"),
        ("top is 0; it takes a whole number, or None", "--top is 0; it takes a whole number"),
        ("the zoo has no levels of modules; leave depth out", "leave --depth out"),
        ("it has its inputs; leave input_size and dtype out", "leave --input-size and --dtype out"),
        ("input_size[1]: (3,) is not a shape", "--input-size[1]: (3,) is not a shape"),
        ("pyproject.toml:3: input_size is 3; write", "pyproject.toml:3: input_size is 3; write"),
        ("there is no column 'top'", "there is no column 'top'"),
    ],
)  # fmt: skip
def test_arguments_become_options(said, meant):
    assert meant in as_options(said, options_of(_parser(), "analyze"))


def test_only_options_of_the_command_are_named():
    every, store = options_of(_parser(), "analyze"), options_of(_parser(), "store", "prune")
    assert every["input_size"] == "--input-size"
    assert "input_size" not in store
    assert store["older_than"] == "--older-than"
    assert "spec" not in every


def test_a_flag_is_named_without_a_value():
    options = options_of(_parser(), "optimize")
    assert as_options("or give random_weights=True", options) == "or give --random-weights"


def test_the_examples_hold():
    assert doctest.testmod(wording).failed == 0


def test_a_command_says_its_own_options(capsys, tmp_path):
    assert main(["store", "prune", "--store", str(tmp_path / "new.sqlite")]) == 2
    assert "--older-than, --other-devices or both" in capsys.readouterr().err
    assert main(["zoo", "squeezenet1_0", "--depth", "1"]) == 2
    assert "leave --depth out" in capsys.readouterr().err
    assert main(["measure", "torchvision:squeezenet1_0", "--input-size", "1,3,64,64", "--seconds", "0"]) == 2
    assert capsys.readouterr().err == "archcost: --seconds must be a number above 0; got 0.0\n"
